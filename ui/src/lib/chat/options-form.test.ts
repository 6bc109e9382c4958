import { expect, test } from "vitest";
import { DEFAULT_SAMPLING } from "./conversation.svelte";
import { fromForm, problems, toForm } from "./options-form";

const empty = toForm("", DEFAULT_SAMPLING, []);
const filled = (numbers: Partial<typeof empty.numbers>) => ({ ...empty, numbers: { ...empty.numbers, ...numbers } });

test("empty fields are the model's defaults and nothing is wrong with them", () => {
  expect(problems(empty)).toEqual({});
  expect(fromForm(empty)).toEqual({ sampling: DEFAULT_SAMPLING, tools: [] });
});
test("what was set comes back, with a comma as well as with a point", () => {
  const form = filled({ temperature: "0,7", top_k: "20", seed: "0" });
  expect(fromForm(form).sampling).toMatchObject({ temperature: 0.7, top_k: 20, seed: 0, top_p: null });
  const again = toForm("Be brief.", { ...DEFAULT_SAMPLING, temperature: 0.7, thinking: false }, [{ type: "function" }]);
  expect(again.numbers.temperature).toBe("0.7");
  expect(fromForm(again)).toMatchObject({ sampling: { temperature: 0.7, thinking: false }, tools: [{ type: "function" }] });
});
test("what the endpoint would refuse is refused here, by field", () => {
  for (const [field, text] of [["temperature", "2.1"], ["temperature", "hot"], ["top_p", "-1"], ["top_k", "1.5"], ["max_tokens", "0"], ["seed", "1e3"], ["min_p", "."]] as const) {
    expect(Object.keys(problems(filled({ [field]: text }))), `${field} ${text}`).toEqual([field]);
  }
  for (const tools of ["{}", "[1]", "[", "tools"]) expect(problems({ ...empty, tools }).tools).not.toBeUndefined();
});
