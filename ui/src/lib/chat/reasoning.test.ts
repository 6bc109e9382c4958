import { expect, test } from "vitest";
import { splitReasoning } from "./reasoning";

test("an answer without thinking is an answer", () => {
  expect(splitReasoning("It is 7.")).toEqual({ reasoning: "", answer: "It is 7.", open: false });
});
test("thinking is folded away from the answer", () => {
  expect(splitReasoning("<think>\n3 + 4\n</think>\n\nIt is 7.")).toEqual({ reasoning: "3 + 4", answer: "It is 7.", open: false });
});
test("a template that opens the thinking itself leaves only the closing mark", () => {
  expect(splitReasoning("3 + 4</think>It is 7.")).toEqual({ reasoning: "3 + 4", answer: "It is 7.", open: false });
});
test("no cut of the stream ever shows a piece of a mark", () => {
  const text = "<think>a < b</think>Yes, a < b.";
  for (let n = 1; n <= text.length; n++) {
    const { reasoning, answer } = splitReasoning(text.slice(0, n));
    expect(answer).not.toMatch(/think/);
    expect(reasoning).not.toMatch(/think|<\//);
  }
});
test("thinking in a field of its own stays there", () => {
  expect(splitReasoning("", "hm").open).toBe(true);
  expect(splitReasoning("Yes.", "hm")).toEqual({ reasoning: "hm", answer: "Yes.", open: false });
});
