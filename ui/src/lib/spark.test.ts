import { expect, test } from "vitest";
import { sparkPath } from "./spark";

const spark = (values: (number | null)[], seconds = values.length - 1) => sparkPath(values.map((_, i) => i * 1000), values, seconds);

test("a gap lifts the pen", () => {
  expect(spark([1, 1, null, 1, 1]).match(/M/g)).toHaveLength(2);
});
test("a lone value is drawn as a dot", () => {
  expect(spark([null, 3, null])).toMatch(/^M60\.0 2\.0h\.1$/);
});
test("nothing known draws nothing", () => {
  expect(spark([null, null])).toBe("");
  expect(sparkPath([], [], 60)).toBe("");
});
test("the highest value touches the top, zero the bottom", () => {
  expect(spark([0, 10])).toBe("M0.0 26.0L120.0 2.0");
});
test("with few samples the line is short and at the right, not stretched", () => {
  expect(spark([5, 10], 60)).toBe("M118.0 14.0L120.0 2.0");
});
test("a sample older than the box is left out", () => {
  expect(spark([10, 10, 10], 1)).toBe("M0.0 2.0L120.0 2.0");
});
