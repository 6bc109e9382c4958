import { expect, test } from "vitest";
import { bySeverity, verdict } from "./doctor";
import type { Check } from "./types/Check";

const check = (code: string, state: Check["state"]): Check => ({ code, title: code, state, finding: { code: "quoted", text: "", values: {} }, evidence: [], fix: null });

test("the worst comes first and equals keep their order", () => {
  const checks = [check("a", "pass"), check("b", "skipped"), check("c", "warn"), check("d", "fail"), check("e", "warn")];
  expect(bySeverity(checks).map((c) => c.code)).toEqual(["d", "c", "e", "a", "b"]);
});
test("one sentence says how it stands", () => {
  expect(verdict([check("a", "pass")])).toBe("Nothing to put right.");
  expect(verdict([check("a", "pass"), check("b", "warn")])).toBe("It works; 1 thing could be better.");
  expect(verdict([check("a", "fail"), check("b", "fail"), check("c", "warn")])).toBe("2 things to put right, 1 could be better.");
  expect(verdict([check("a", "fail")])).toBe("1 thing to put right.");
});
