// A run as tables: one a part, the rows of one prompt side by side. Pure; called by the page Benchmarks.
import { decimal } from "./decimal";
import { contextLength, count, DASH, percent, rate, seconds } from "./format";
import { strings } from "./strings";
import type { BenchDifference } from "./types/BenchDifference";
import type { BenchFigure } from "./types/BenchFigure";
import type { BenchFigureName } from "./types/BenchFigureName";
import type { BenchOrder } from "./types/BenchOrder";
import type { BenchPart } from "./types/BenchPart";
import type { BenchRow } from "./types/BenchRow";
import type { BenchRun } from "./types/BenchRun";
import type { BenchSuite } from "./types/BenchSuite";

const t = strings.bench.view;

/** Lines of a cell: the median, and below it its spread. */
export interface Cell {
  main: string;
  spread: string;
}

export interface Line {
  key: string;
  label: string;
  /** Null where nothing was measured; then the reason stands there. */
  cells: Cell[] | null;
  reason: string;
  disturbed: boolean;
}

export interface Table {
  part: BenchPart;
  heads: string[];
  lines: Line[];
}

const PARTS: BenchPart[] = ["contexts", "prefill", "company", "depths", "agent", "facts", "arena"];
const NOTHING: Cell = { main: DASH, spread: "" };
const TIMES: BenchFigureName[] = ["ttft_cold_s", "ttft_cached_s"];

/** The value of a figure in its unit. */
export function value(name: BenchFigureName | null, number: number): string {
  if (name === null) return percent(number);
  if (name === "tokens_per_round") return decimal(number.toFixed(2));
  return TIMES.includes(name) ? seconds(number) : rate(number);
}

function cell(figure: BenchFigure | undefined): Cell {
  if (!figure) return NOTHING;
  const { name, median, low, high, values } = figure;
  const spread = values.length > 1 ? `${value(name, low)} – ${value(name, high)}` : "";
  return { main: value(name, median), spread };
}

export const figure = (row: BenchRow | undefined, name: BenchFigureName) => row?.figures.find((f) => f.name === name);
const of = (row: BenchRow | undefined, name: BenchFigureName) => cell(figure(row, name));
const plain = (main: string): Cell => ({ main, spread: "" });

/** Tokens of a prompt as they were counted; as they were planned where nothing was sent. */
export function promptLength(row: BenchRow): string {
  const counted = row.shots.filter((shot) => !shot.context_phase).map((shot) => shot.prompt_tokens);
  const length = counted.length > 0 ? Math.max(...counted) : row.prompt;
  return contextLength(length);
}

function line(key: string, label: string, rows: BenchRow[], cells: Cell[]): Line {
  const measured = rows.some((row) => row.state === "done");
  const fault = rows.find((row) => row.fault)?.fault;
  const words = { skipped: t.skipped, failed: t.failed, waiting: t.waiting, running: t.waiting, done: "" };
  const word = words[rows[0]?.state ?? "waiting"];
  const reason = fault ? `${word}: ${fault.message} ${fault.next_step}` : word;
  return { key, label, cells: measured ? cells : null, reason, disturbed: rows.some((row) => row.disturbed) };
}

/** Rows that share a key, in the order of the first of each. */
function grouped(rows: BenchRow[], key: (row: BenchRow) => string): [string, BenchRow[]][] {
  const groups = new Map<string, BenchRow[]>();
  for (const row of rows) groups.set(key(row), [...(groups.get(key(row)) ?? []), row]);
  return [...groups];
}

const unique = (numbers: number[]) => [...new Set(numbers)].sort((a, b) => a - b);

function contexts(rows: BenchRow[]): Omit<Table, "part"> {
  const outputs = unique(rows.map((row) => row.output));
  const heads = [...outputs.map((output) => t.unit(t.decode(count(output)))), t.unit(t.prefill), t.cold, t.cached];
  const lines = grouped(rows, (row) => String(row.prompt)).map(([key, group]) => {
    const written = outputs.map((output) => of(group.find((row) => row.output === output), "decode_tok_s"));
    const first = (name: BenchFigureName) => of(group.find((row) => figure(row, name)), name);
    const cells = [...written, first("prefill_tok_s"), first("ttft_cold_s"), first("ttft_cached_s")];
    return line(key, t.prompt(promptLength(group[0] as BenchRow)), group, cells);
  });
  return { heads, lines };
}

function single(rows: BenchRow[], heads: string[], label: (row: BenchRow) => string, cells: (row: BenchRow) => Cell[]): Omit<Table, "part"> {
  return { heads, lines: rows.map((row, at) => line(String(at), label(row), [row], cells(row))) };
}

function depths(rows: BenchRow[]): Omit<Table, "part"> {
  const speed = (row: BenchRow | undefined) => figure(row, "decode_tok_s")?.median;
  const base = (traffic: string) => speed(rows.find((row) => row.mtp_depth === "0" && row.traffic === traffic));
  const gain = (row: BenchRow | undefined) => {
    const [now, plainly] = [speed(row), base(row?.traffic ?? "")];
    return now === undefined || !plainly ? NOTHING : plain(t.times(decimal((now / plainly).toFixed(2))));
  };
  const lines = grouped(rows, (row) => row.mtp_depth ?? "").map(([key, group]) => {
    const text = group.find((row) => row.traffic === "text");
    const agent = group.find((row) => row.traffic === "agent");
    const kept = text && text.kept.length > 0 ? text.kept.map((share) => percent(share)).join(" · ") : DASH;
    const cells = [of(text, "decode_tok_s"), gain(text), of(agent, "decode_tok_s"), gain(agent), plain(kept), of(text, "tokens_per_round")];
    return line(key, t.depth(key), group, cells);
  });
  return { heads: [t.unit(t.text), t.gain, t.unit(t.agent), t.gain, t.kept, t.perRound], lines };
}

function facts(rows: BenchRow[]): Omit<Table, "part"> {
  const tasks = ["start", "middle", "end", "five", "lost"];
  const lines = grouped(rows, (row) => String(row.prompt)).map(([key, group]) => {
    const cells = tasks.map((task) => {
      const score = group.find((row) => row.task === task)?.score;
      return score ? plain(t.score(score.right, score.of)) : NOTHING;
    });
    return line(key, t.prompt(promptLength(group[0] as BenchRow)), group, cells);
  });
  return { heads: tasks.map((task) => t.tasks[task] ?? task), lines };
}

function table(part: BenchPart, rows: BenchRow[]): Omit<Table, "part"> {
  switch (part) {
    case "contexts":
      return contexts(rows);
    case "prefill":
      return single(rows, [t.unit(t.prefill), t.cold, t.cached], (row) => t.prompt(promptLength(row)), (row) => [
        of(row, "prefill_tok_s"),
        of(row, "ttft_cold_s"),
        of(row, "ttft_cached_s"),
      ]);
    case "company":
      return single(rows, [t.unit(t.total), t.unit(t.each), t.cold], (row) => t.clients(row.clients), (row) => [
        of(row, row.clients > 1 ? "total_tok_s" : "decode_tok_s"),
        of(row, "decode_tok_s"),
        of(row, "ttft_cold_s"),
      ]);
    case "depths":
      return depths(rows);
    case "agent":
      return single(rows, [t.unit(t.speed), t.cold, t.cached, t.perRound], (row) => t.traffic[row.traffic] ?? row.traffic, (row) => [
        of(row, "decode_tok_s"),
        of(row, "ttft_cold_s"),
        of(row, "ttft_cached_s"),
        of(row, "tokens_per_round"),
      ]);
    case "facts":
      return facts(rows);
    case "arena":
      return single(rows, [t.unit(t.total), t.unit(t.each), t.cold, t.cached], (row) => t.behind(contextLength(row.depth_tokens), row.clients), (row) => [
        of(row, row.clients > 1 ? "total_tok_s" : "decode_tok_s"),
        of(row, "decode_tok_s"),
        of(row, "ttft_cold_s"),
        of(row, "ttft_cached_s"),
      ]);
  }
}

/** The tables of a run, in the order in which it is measured. */
export function tables(run: BenchRun): Table[] {
  return PARTS.flatMap((part) => {
    const rows = run.rows.filter((row) => row.part === part);
    return rows.length > 0 ? [{ part, ...table(part, rows) }] : [];
  });
}

/** What a row measures, in a few words. */
export function rowName(row: BenchRow): string {
  const words = [strings.bench.parts[row.part] ?? row.part];
  if (row.depth_tokens > 0 || row.part === "arena") words.push(t.behind(contextLength(row.depth_tokens), row.clients));
  else if (row.clients > 1 || row.part === "company") words.push(t.clients(row.clients));
  if (row.mtp_depth !== null) words.push(`${t.depthHead} ${t.depth(row.mtp_depth)}`);
  if (row.part === "depths" || row.part === "agent") words.push(t.traffic[row.traffic] ?? row.traffic);
  else if (row.prompt !== null && row.part !== "company") words.push(t.prompt(promptLength(row)));
  if (row.part === "contexts") words.push(t.decode(count(row.output)));
  if (row.task !== null) words.push(t.tasks[row.task] ?? row.task);
  return words.join(" · ");
}

/** How a difference is to be read. */
export function judged(difference: BenchDifference): "better" | "worse" | "within" | "once" | "same" {
  if (difference.better === null) return "same";
  const certain = difference.beyond_spread ?? (difference.name === null ? true : null);
  if (certain === null) return "once";
  if (!certain) return "within";
  return difference.better ? "better" : "worse";
}

/** A signed change in percent: "+12.3 %". */
export function signedPercent(share: number | null): string {
  if (share === null) return DASH;
  const text = decimal((Math.abs(share) * 100).toFixed(1));
  return `${share < 0 ? "−" : "+"}${text}\u00a0%`;
}

/** Numbers as a person types them; null if they are none, undefined if the field is empty. */
export function numbers(text: string, least = 1): number[] | null | undefined {
  if (text.trim() === "") return undefined;
  const all = text.split(/[,;\s]+/).filter(Boolean).map(Number);
  return all.length <= 16 && all.every((n) => Number.isInteger(n) && n >= least) ? all : null;
}

/** Parts that can be chosen; Spark Arena's suite is one piece. */
export const suiteParts = (suite: BenchSuite): BenchPart[] =>
  suite === "arena" ? [] : suite === "quick" ? PARTS.slice(0, 5) : PARTS.slice(0, 6);

export const emptyOrder: BenchOrder = { suite: "quick", parts: [], contexts: null, outputs: null, clients: null, repeats: null, note: "", anyway: false };
