// The one live picture of the appliance: holds the newest snapshot and the finished requests, keeps the event stream open,
// and connects again by itself. Created once by App; every page reads from it.
import { ControlError, type Control } from "../control";
import { inLanguage } from "../said/in-language";
import { serverEvents } from "../sse";
import type { BenchProgress } from "../types/BenchProgress";
import type { DownloadCard } from "../types/DownloadCard";
import type { RequestRecord } from "../types/RequestRecord";
import type { Snapshot } from "../types/Snapshot";

/** The window is redrawn at most four times a second. */
const REDRAW_MS = 250;
/** What is read rather than watched is redrawn once a second. */
const STEADY_MS = 1000;
/** The server speaks at least every three seconds; after this silence the connection counts as lost. */
const SILENCE_MS = 7000;
const RETRY_MS = [300, 700, 1500, 3000];
const KEPT_REQUESTS = 50;

export class Live {
  snapshot = $state.raw<Snapshot | null>(null);
  /** The same, told once a second while the engine serves: for all but the speeds, so that most frames paint little. */
  steady = $state.raw<Snapshot | null>(null);
  requests = $state.raw<RequestRecord[]>([]);
  /** The queue of downloads; null until it has been told. */
  downloads = $state.raw<DownloadCard[] | null>(null);
  /** The benchmark under way, or the last one; null until one was begun. */
  bench = $state.raw<BenchProgress | null>(null);
  connection = $state<"connecting" | "open" | "lost">("connecting");
  /** Local clock when the last word came; drives "since" while the machine is away. */
  heardMs = $state<number | null>(null);
  /** The token was refused: nothing more will come. */
  refused = $state(false);

  private newest: Snapshot | null = null;
  private heard: number | null = null;
  /** On the clock that nobody sets. */
  private drawnMs = -Infinity;
  private steadyMs = -Infinity;
  private redraw: ReturnType<typeof setTimeout> | null = null;
  private later: ReturnType<typeof setTimeout> | null = null;
  /** Finished requests, also those that are not shown yet. */
  private finished: RequestRecord[] = [];
  /** Who waits for the next steady picture. */
  private waiting: (() => void)[] = [];
  private wake: (() => void) | null = null;
  private attempt: AbortController | null = null;
  private stopped = false;

  constructor(readonly control: Control) {}

  start(): void {
    document.addEventListener("visibilitychange", this.onVisible);
    void this.run();
  }

  close(): void {
    this.stopped = true;
    document.removeEventListener("visibilitychange", this.onVisible);
    for (const timer of [this.redraw, this.later]) if (timer) clearTimeout(timer);
    this.attempt?.abort();
    this.wake?.();
  }

  /** Tries now instead of waiting for the next turn. */
  reconnect(): void {
    this.wake?.();
  }

  /** Takes a snapshot that an action answered with, unless the stream has told something newer. */
  take(snapshot: Snapshot): void {
    if (!this.newest || snapshot.time_ms >= this.newest.time_ms) this.accept(snapshot);
  }

  /** Resolves when the next steady picture is drawn, within a second: what was asked for meanwhile is painted in the same frame. */
  together(): Promise<void> {
    return new Promise((resolve) => {
      this.waiting.push(resolve);
      this.drawLater();
    });
  }

  private drawLater(): void {
    this.later ??= setTimeout(this.draw, Math.max(0, this.steadyMs + STEADY_MS - performance.now()));
  }

  /** The stream is always right, even when the machine's clock was set back. */
  private accept(snapshot: Snapshot): void {
    const changed = this.newest?.state.kind !== snapshot.state.kind;
    this.newest = snapshot;
    this.heard = Date.now();
    const wait = changed ? 0 : this.drawnMs + REDRAW_MS - performance.now();
    if (wait <= 0) this.draw();
    else this.redraw ??= setTimeout(this.draw, wait);
  }

  private draw = (): void => {
    for (const timer of [this.redraw, this.later]) if (timer) clearTimeout(timer);
    this.redraw = this.later = null;
    if (document.visibilityState === "hidden") return;
    this.drawnMs = performance.now();
    const serves = this.newest?.state.kind === "serving" && this.steady?.state.kind === "serving";
    // Half a redraw early rather than a whole one late.
    const due = this.drawnMs - this.steadyMs >= STEADY_MS - REDRAW_MS / 2;
    if (due || !serves) this.drawSteady();
    else this.drawLater();
    this.snapshot = this.newest;
    this.heardMs = this.heard;
  };

  private drawSteady(): void {
    this.steadyMs = this.drawnMs;
    this.steady = this.newest;
    this.requests = this.finished;
    for (const resolve of this.waiting.splice(0)) resolve();
  }

  private onVisible = (): void => {
    if (document.visibilityState === "visible") this.draw();
  };

  private async run(): Promise<void> {
    let failures = 0;
    while (!this.stopped) {
      try {
        await this.listen(() => (failures = 0));
      } catch (error) {
        if (error instanceof ControlError && (error.status === 401 || error.status === 403)) {
          this.refused = true;
          return;
        }
      }
      if (this.stopped) return;
      this.lose();
      const wait = RETRY_MS[Math.min(failures++, RETRY_MS.length - 1)];
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, wait);
        this.wake = () => (clearTimeout(timer), resolve());
      });
      this.wake = null;
    }
  }

  private lose(): void {
    this.draw();
    this.heardMs = this.heard;
    this.connection = "lost";
  }

  private async listen(onWord: () => void): Promise<void> {
    const attempt = (this.attempt = new AbortController());
    let silence = setTimeout(() => attempt.abort(), SILENCE_MS);
    try {
      const body = await this.control.events(attempt.signal);
      void this.loadRequests();
      for await (const { event, data } of serverEvents(body)) {
        clearTimeout(silence);
        silence = setTimeout(() => attempt.abort(), SILENCE_MS);
        onWord();
        const told = inLanguage(JSON.parse(data) as unknown);
        if (event === "state") this.accept(told as Snapshot);
        else if (event === "request") this.add(told as RequestRecord);
        else if (event === "downloads") this.downloads = told as DownloadCard[];
        else if (event === "bench") this.bench = told as BenchProgress;
        if (this.connection !== "open") this.connection = "open";
      }
    } finally {
      clearTimeout(silence);
      attempt.abort();
    }
  }

  private async loadRequests(): Promise<void> {
    try {
      const loaded = await this.control.requests(KEPT_REQUESTS);
      const newer = this.finished.filter((r) => !loaded.some((l) => l.row === r.row) && r.row > (loaded[0]?.row ?? 0));
      this.finished = [...newer, ...loaded].slice(0, KEPT_REQUESTS);
      this.requests = this.finished;
    } catch {
      // The stream tells whether the machine is there; the table fills at the next connection.
    }
  }

  private add(record: RequestRecord): void {
    if (this.finished.some((r) => r.row === record.row)) return;
    this.finished = [record, ...this.finished].slice(0, KEPT_REQUESTS);
    this.drawLater();
  }
}
