import { expect, test } from "vitest";
import { gaugeScale } from "./gauge";

test("the gauge ends at the nominal line when it is the highest", () => {
  expect(gaugeScale(198, 231, 273)).toMatchObject({ nominal: 1, apart: false });
  expect(gaugeScale(198, 231, 273).roof).toBeCloseTo(231 / 273);
});
test("a value above every line stretches the gauge instead of leaving it", () => {
  expect(gaugeScale(40, 32, null)).toMatchObject({ now: 1, roof: 0.8 });
});
test("unknown lines are not drawn, and an unknown value is an empty gauge", () => {
  expect(gaugeScale(null, null, null)).toEqual({ now: 0, roof: null, nominal: null, apart: true });
  expect(gaugeScale(null, 32, null)).toMatchObject({ now: 0, roof: 1 });
});
