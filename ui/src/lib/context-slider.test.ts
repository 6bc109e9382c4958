import { expect, test } from "vitest";
import { marks, poolOf, stepOf } from "./context-slider";
import type { Plan } from "./types/Plan";

const GIB = 2 ** 30;
const plan = (available: number | null): Plan => ({
  verdict: "fits",
  context: 8192,
  parts: [],
  needed: 22 * GIB,
  peak: 23 * GIB,
  available,
  bytes_per_token: null,
  roof: null,
  decode_tok_s_ceiling: null,
  max_context: 262144,
  native_context: 262144,
  stretch: null,
  contexts: [
    { context: 8192, needed: 22 * GIB },
    { context: 16384, needed: 22.5 * GIB },
    { context: 131072, needed: 60 * GIB },
    { context: 262144, needed: 120 * GIB },
  ],
  expanded: null,
});

test("a mark is where the memory of its context ends, and what crosses the line is seen to", () => {
  const shown = marks(plan(100 * GIB));
  expect(shown.map((mark) => mark.fits)).toEqual([true, true, true, false]);
  const line = (100 * GIB) / poolOf(plan(100 * GIB));
  expect(shown[2]?.at).toBeLessThan(line);
  expect(shown[3]?.at).toBeGreaterThan(line);
});

test("names that would lie on each other are left out", () => {
  expect(marks(plan(100 * GIB)).map((mark) => mark.named)).toEqual([true, false, true, true]);
});

test("without a known pool everything is drawn and nothing is called too large", () => {
  expect(marks(plan(null)).every((mark) => mark.fits && mark.at <= 1)).toBe(true);
});

test("a context between two marks is the longer one's step", () => {
  expect([1, 8192, 9000, 262144, 9e9].map((n) => stepOf(plan(null), n))).toEqual([0, 0, 1, 3, 3]);
});
