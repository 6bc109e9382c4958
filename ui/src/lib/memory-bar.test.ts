import { expect, test } from "vitest";
import { drawn as draw, inUse, intoReserve, segments } from "./memory-bar";
import type { Memory } from "./types/Memory";
import type { MemoryPart } from "./types/MemoryPart";

const GiB = 2 ** 30;
const part = (kind: string, gib: number): MemoryPart => ({ kind, bytes: gib * GiB, source: "measured" });

test("parts keep their order whatever order they come in", () => {
  const drawn = segments([part("free", 4), part("weights", 2), part("other", 1), part("kv_used", 1)], 8 * GiB);
  expect(drawn.map((s) => s.kind)).toEqual(["weights", "kv_used", "other", "free"]);
});
test("only a part with room for its words carries a label", () => {
  const drawn = segments([part("weights", 0.5), part("cache", 0.7), part("other", 0.9), part("free", 7.9)], 10 * GiB);
  expect(drawn.map((s) => s.labelled)).toEqual([false, true, false, true]);
});
test("an unknown part is drawn under its own name before what is free", () => {
  const drawn = segments([part("free", 4), part("drafts", 1), part("weights", 1)], 6 * GiB);
  expect(drawn.map((s) => s.label)).toEqual(["weights", "drafts", "free"]);
});
test("shares never pass the whole, even when the total is less than its parts", () => {
  const drawn = segments([part("weights", 6), part("free", 6)], 8 * GiB);
  expect(drawn.reduce((sum, s) => sum + s.share, 0)).toBeCloseTo(1);
});
test("page cache is not in use, and use can reach into the reserve", () => {
  const memory: Memory = {
    total: 16 * GiB,
    reserve: 2 * GiB,
    parts: [part("weights", 12), part("other", 3), part("cache", 1)],
    pool: "host",
    others: [],
  };
  expect(inUse(memory)).toBe(15 * GiB);
  expect(intoReserve(memory)).toBe(1 * GiB);
});
test("with nothing known, nothing is claimed", () => {
  const memory: Memory = { total: null, reserve: 0, parts: [], pool: "host", others: [] };
  expect(inUse(memory)).toBeNull();
  expect(intoReserve(memory)).toBeNull();
});
test("a change that nobody would see draws nothing anew", () => {
  const at = (free: number) => segments([part("weights", 2), part("free", free)], 8 * GiB);
  const first = draw(at(6), []);
  expect(first.map((p) => [p.kind, p.size.replace("\u00a0", " "), p.share])).toEqual([["weights", "2.0 GiB", 0.25], ["free", "6.0 GiB", 0.75]]);
  expect(draw(at(6 - 1e-5), first)).toBe(first);
  expect(draw(at(5.8), first)).not.toBe(first);
});
