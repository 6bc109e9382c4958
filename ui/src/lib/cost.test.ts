import { expect, test } from "vitest";
import { cloudCost, electricityCost, energy, fromPriceForm, measuredShare, money, price, tokens, toPriceForm, wrongPrices } from "./cost";
import type { Prices } from "./types/Prices";
import type { Usage } from "./types/Usage";

const usage: Usage = {
  hours: 24, requests: 10, prompt_tokens: 3_000_000, cached_tokens: 1_000_000, output_tokens: 500_000,
  energy_j: 7.2e6, measured_s: 3600, loaded_s: 3600,
};
const prices: Prices = { currency: "EUR", input: 1, cached_input: 0.1, output: 4, kwh: 0.3 };

test("cached tokens cost the cached price, the rest the full one", () => {
  expect(cloudCost(usage, prices)).toBeCloseTo(2 * 1 + 1 * 0.1 + 0.5 * 4);
  expect(cloudCost(usage, null)).toBeNull();
});
test("energy costs only where it was measured and has a price", () => {
  expect(electricityCost(usage, prices)).toBeCloseTo(2 * 0.3);
  expect(electricityCost({ ...usage, energy_j: null }, prices)).toBeNull();
  expect(electricityCost(usage, { ...prices, kwh: null })).toBeNull();
});
test("time without a power reading is told and unknown energy is no zero", () => {
  expect(measuredShare(usage)).toBeNull();
  expect(measuredShare({ ...usage, measured_s: 1800 })).toBe(0.5);
  expect(measuredShare({ ...usage, energy_j: null, measured_s: 0 })).toBeNull();
  expect(energy(null)).toBe("–");
});
test("amounts are short and keep their unit", () => {
  expect(energy(7.2e6)).toBe("2.00\u00a0kWh");
  expect(energy(1.8e5)).toBe("50\u00a0Wh");
  expect(energy(3600)).toBe("1.0\u00a0Wh");
  expect([0, 812, 64_210, 999_960, 1_240_000].map(tokens)).toEqual(["0", "812", "64.2k", "1.00M", "1.24M"]);
  expect(money(0.004, "USD")).toBe("<\u00a00.01\u00a0USD");
  expect(money(0, "USD")).toBe("0.00\u00a0USD");
  expect(money(12.345, "EUR")).toBe("12.35\u00a0EUR");
  expect(money(null, "EUR")).toBe("–");
});
test("prices are typed with a point or a comma, and nonsense is named", () => {
  expect(price("0,15")).toBe(0.15);
  for (const bad of ["", "-1", "1e3", "NaN", "1.2.3", "12 EUR"]) expect(price(bad)).toBeNull();
  const form = { currency: "EUR", input: "0.15", cached: "", output: "", kwh: "x" };
  expect(wrongPrices(form)).toEqual(["output", "kwh"]);
  expect(wrongPrices({ ...form, output: "0.6", kwh: "" })).toEqual([]);
  expect(wrongPrices({ ...toPriceForm(null), currency: "a b" })).toEqual(["currency"]);
});
test("the form gives the prices back, and empty fields mean no comparison", () => {
  expect(fromPriceForm(toPriceForm(prices))).toEqual(prices);
  expect(fromPriceForm(toPriceForm(null))).toBeNull();
  expect(fromPriceForm({ ...toPriceForm(prices), cached: "" })?.cached_input).toBe(1);
});
