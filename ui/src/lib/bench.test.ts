import { describe, expect, test } from "vitest";
import { judged, numbers, rowName, signedPercent, tables } from "./bench";
import type { BenchDifference } from "./types/BenchDifference";
import type { BenchFigure } from "./types/BenchFigure";
import type { BenchRow } from "./types/BenchRow";
import type { BenchRun } from "./types/BenchRun";

const row = (changes: Partial<BenchRow>): BenchRow => ({
  part: "contexts", traffic: "text", depth_tokens: 0, prompt: 2048, output: 200, clients: 1, mtp_depth: null, task: null, state: "done",
  fault: null, disturbed: false, figures: [], kept: [], score: null, shots: [], peaks: [], ...changes,
});
const figure = (name: BenchFigure["name"], ...values: number[]): BenchFigure => {
  const sorted = [...values].sort((a, b) => a - b);
  return { name, median: sorted[Math.floor(sorted.length / 2)] ?? 0, low: sorted[0] ?? 0, high: sorted.at(-1) ?? 0, values };
};
const run = (...rows: BenchRow[]) => ({ rows }) as unknown as BenchRun;

describe("a run as tables", () => {
  test("answers behind one prompt stand side by side, with medians and spreads", () => {
    const first = row({ figures: [figure("decode_tok_s", 50, 52, 51), figure("prefill_tok_s", 2000), figure("ttft_cold_s", 1.02)] });
    const [table] = tables(run(first, row({ output: 500, figures: [figure("decode_tok_s", 49)] })));
    expect(table?.heads.length).toBe(5);
    expect(table?.lines.length).toBe(1);
    const cells = table?.lines[0]?.cells?.map((cell) => [cell.main, cell.spread]);
    expect(cells).toEqual([["51.0", "50.0 – 52.0"], ["49.0", ""], ["2\u00a0000", ""], ["1.0\u00a0s", ""], ["–", ""]]);
  });
  test("what was left out says why, and nothing is zero", () => {
    const fault = { code: "over", message: "Too long.", next_step: "Choose less.", evidence: null };
    const [table] = tables(run(row({ state: "skipped", fault, prompt: 1 << 20 })));
    expect(table?.lines[0]?.cells).toBeNull();
    expect(table?.lines[0]?.label).toContain("1M");
    expect(table?.lines[0]?.reason).toContain("Too long. Choose less.");
  });
  test("a depth's gain is against none, and unknown without it", () => {
    const depth = (mtp_depth: string, speed: number) => row({ part: "depths", mtp_depth, kept: mtp_depth === "0" ? [] : [0.8, 0.5], figures: [figure("decode_tok_s", speed)] });
    const lines = tables(run(depth("0", 20), depth("2", 45)))[0]?.lines;
    expect(lines?.map((line) => line.cells?.[1]?.main)).toEqual(["× 1.00", "× 2.25"]);
    expect(lines?.[1]?.cells?.[4]?.main).toBe("80\u00a0% · 50\u00a0%");
    expect(tables(run(depth("2", 45)))[0]?.lines[0]?.cells?.[1]?.main).toBe("–");
  });
  test("every row has a name of its own", () => {
    const names = [
      row({}), row({ output: 500 }), row({ part: "prefill" }), row({ part: "company", clients: 4 }), row({ part: "company", clients: 1 }),
      row({ part: "depths", mtp_depth: "2" }), row({ part: "depths", mtp_depth: "2", traffic: "agent" }), row({ part: "facts", task: "five" }),
      row({ part: "facts", task: "lost" }), row({ part: "arena", depth_tokens: 4096, clients: 2 }), row({ part: "arena", depth_tokens: 0 }),
    ].map(rowName);
    expect(new Set(names).size).toBe(names.length);
  });
});

describe("a comparison", () => {
  const difference = (changes: Partial<BenchDifference>): BenchDifference => ({
    row: row({}), name: "decode_tok_s", a: 1, b: 2, change: 1, beyond_spread: true, better: true, ...changes,
  });
  test("is marked only beyond the spread", () => {
    expect(judged(difference({}))).toBe("better");
    expect(judged(difference({ better: false }))).toBe("worse");
    expect(judged(difference({ beyond_spread: false }))).toBe("within");
    expect(judged(difference({ beyond_spread: null }))).toBe("once");
    expect(judged(difference({ beyond_spread: null, name: null, better: false }))).toBe("worse");
    expect(judged(difference({ better: null }))).toBe("same");
  });
  test("changes have their sign", () => {
    expect([0.123, -0.05, null].map(signedPercent)).toEqual(["+12.3\u00a0%", "−5.0\u00a0%", "–"]);
  });
});

test("numbers are read as people type them", () => {
  expect(numbers("2048, 16384")).toEqual([2048, 16384]);
  expect(numbers(" 1;2 4 ")).toEqual([1, 2, 4]);
  expect(numbers("")).toBeUndefined();
  for (const wrong of ["a", "1.5", "-3", "0", Array(20).fill(1).join()]) expect(numbers(wrong), wrong).toBeNull();
});
