import { expect, test } from "vitest";
import { agentSpeed, speedSource, speedWords } from "./measured.svelte";
import type { MeasuredSpeed } from "./types/MeasuredSpeed";

const speed = (changes: Partial<MeasuredSpeed>): MeasuredSpeed => ({
  decode_tok_s: 40, agent_tok_s: null, prefill_tok_s: null, run: 3, requests: null, at_ms: 0, ...changes,
});

test("an agent's speed is told only where it is another one", () => {
  expect([agentSpeed(speed({})), agentSpeed(speed({ agent_tok_s: 40.5 })), agentSpeed(speed({ agent_tok_s: 60 }))]).toEqual([null, null, 60]);
  expect(speedWords(speed({ agent_tok_s: 60 }))).toBe("40.0 tok/s measured · 60.0 tok/s for an agent");
});

test("a measured figure says where it comes from", () => {
  expect(speedSource(speed({}))).toContain("benchmark 3");
  expect(speedSource(speed({ run: null, requests: 12 }))).toContain("12 requests");
});
