// The history chart on uPlot: decode at the left scale, one other series at the right, event marks, gaps for null.
// Called by HistoryPanel only. Colours are read from the tokens once per chart; a theme change makes a new chart.
import "./locale";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { decimal } from "./decimal";
import { strings } from "./strings";
import type { History } from "./types/History";

export const SECONDS = ["prefill", "bandwidth", "memory", "power", "heat", "clock"] as const;
export type Second = (typeof SECONDS)[number];
export interface Cursor {
  /** Index of the sample under the pointer; null away from the plot. */
  index: number | null;
}

const GiB = 2 ** 30;
/** Marks of what should not have happened. */
const BAD = new Set(["crashed", "degraded"]);

function token(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** The second line's samples in the unit that is shown. */
export function secondSeries(history: History, second: Second): (number | null)[] {
  switch (second) {
    case "prefill": return history.prefill_tok_s;
    case "bandwidth": return history.bandwidth_gb_s;
    case "memory": return history.memory_bytes.map((bytes) => (bytes === null ? null : bytes / GiB));
    case "power": return history.power_w;
    case "heat": return history.temperature_c;
    case "clock": return history.clock_mhz;
  }
}

/** Samples that have no neighbour: a line would not show them, so they are drawn as points. */
export function lonely(values: readonly (number | null | undefined)[]): number[] {
  const out: number[] = [];
  values.forEach((value, i) => {
    if (value != null && values[i - 1] == null && values[i + 1] == null) out.push(i);
  });
  return out;
}

function blank(values: ArrayLike<number | null | undefined> | undefined): boolean {
  return !values || Array.from(values).every((value) => value == null);
}

function tick(value: number): string {
  if (value >= 10000) return `${Math.round(value / 1000)}k`;
  return value >= 1000 ? `${decimal((value / 1000).toFixed(1).replace(".0", ""))}k` : decimal(String(Number(value.toFixed(2))));
}

const fromZero: uPlot.Range.Function = (_, __, max) => [0, max > 0 ? max * 1.15 : 1];
const pad = (n: number) => String(n).padStart(2, "0");

export class HistoryChart {
  private readonly plot: uPlot;
  private history: History | null = null;

  constructor(
    private readonly host: HTMLElement,
    private seconds: number,
    private second: Second,
    onCursor: (cursor: Cursor) => void,
  ) {
    const [ink, edge, ember, kv, faint, err, font] = ["--quiet", "--edge", "--ember", "--kv", "--faint", "--err", "--font"].map(token);
    const axis = { stroke: ink ?? "", font: `${token("--t1")} ${font}`, ticks: { show: false }, gap: 6 };
    const points = { filter: (u: uPlot, series: number) => lonely(Array.from(u.data[series] ?? [])), size: 3, show: true };
    const value: Omit<uPlot.Axis, "scale"> = { ...axis, size: 40, space: 22 };
    // A scale without a single sample shows no numbers: they would be invented.
    const known = (at: 1 | 2) => (u: uPlot, splits: number[]) => (blank(u.data[at]) ? splits.map(() => "") : splits.map(tick));
    this.plot = new uPlot(
      {
        ...this.size(),
        legend: { show: false },
        cursor: { y: false, points: { size: 6 }, drag: { x: false, y: false } },
        padding: [6, 0, 0, 0],
        scales: {
          x: { time: true, range: () => this.window() },
          left: { range: fromZero },
          right: { range: fromZero },
        },
        axes: [
          { ...axis, size: 22, space: 90, grid: { show: false }, values: (_, splits) => splits.map((s) => this.time(s)) },
          { ...value, values: known(1), scale: "left", grid: { stroke: edge ?? "", width: 1 } },
          { ...value, values: known(2), scale: "right", side: 1, grid: { show: false } },
        ],
        series: [
          {},
          { scale: "left", stroke: ember ?? "", width: 1.8, points },
          { scale: "right", stroke: kv ?? "", width: 1.4, points, dash: [5, 3] },
        ],
        hooks: {
          setCursor: [(u) => onCursor({ index: u.cursor.idx ?? null })],
          drawAxes: [(u) => this.marks(u, faint ?? "", err ?? "", ink ?? "", font ?? "")],
        },
      },
      [[], [], []],
      host,
    );
    new ResizeObserver(() => this.plot.setSize(this.size())).observe(host);
  }

  show(history: History | null, seconds: number, second: Second): void {
    this.history = history;
    this.seconds = seconds;
    this.second = second;
    const data: uPlot.AlignedData = history
      ? [history.t_ms.map((t) => t / 1000), history.decode_tok_s, secondSeries(history, this.second)]
      : [[], [], []];
    this.plot.setData(data);
  }

  destroy(): void {
    this.plot.destroy();
  }

  private size() {
    return { width: Math.max(this.host.clientWidth, 50), height: Math.max(this.host.clientHeight, 50) };
  }

  private window(): [number, number] {
    const last = this.history?.t_ms.at(-1) ?? Date.now();
    return [last / 1000 - this.seconds, last / 1000];
  }

  private time(seconds: number): string {
    const date = new Date(seconds * 1000);
    const minutes = `${pad(date.getHours())}:${pad(date.getMinutes())}`;
    return this.seconds <= 60 ? `${minutes}:${pad(date.getSeconds())}` : minutes;
  }

  /** Dashed lines where something happened to the engine; each is named, so colour is not needed to read it. */
  private marks(u: uPlot, faint: string, err: string, ink: string, font: string): void {
    const [from, to] = this.window();
    const { ctx, bbox } = u;
    ctx.save();
    ctx.font = `${10 * devicePixelRatio}px ${font}`;
    ctx.setLineDash([2 * devicePixelRatio, 4 * devicePixelRatio]);
    ctx.lineWidth = devicePixelRatio;
    let free = -Infinity;
    for (const event of this.history?.events ?? []) {
      const at = event.t_ms / 1000;
      if (at < from || at > to) continue;
      const x = Math.round(u.valToPos(at, "x", true));
      const label = strings.history.events[event.kind]?.(event.text) ?? event.kind;
      ctx.strokeStyle = BAD.has(event.kind) ? err : faint;
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      const width = ctx.measureText(label).width;
      const left = x + 4 * devicePixelRatio + width > bbox.left + bbox.width ? x - width - 4 * devicePixelRatio : x + 4 * devicePixelRatio;
      if (left < free) continue;
      ctx.fillStyle = ink;
      ctx.fillText(label, left, bbox.top + 8 * devicePixelRatio);
      free = left + width + 6 * devicePixelRatio;
    }
    ctx.restore();
  }
}
