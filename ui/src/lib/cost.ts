// What was served, what it took, and what the same would have cost elsewhere. Pure; called by CostCard and its dialog.
import { decimal } from "./decimal";
import { DASH, NBSP } from "./format";
import type { Prices } from "./types/Prices";
import type { Usage } from "./types/Usage";

const MILLION = 1e6;
const JOULES_PER_KWH = 3.6e6;
/** Energy counts as measured for the whole time if this share of it was. */
const WHOLE = 0.98;

/** The same tokens at the prices given; null without prices. What the cache spared costs the price of cached input. */
export function cloudCost(usage: Usage, prices: Prices | null): number | null {
  if (!prices) return null;
  const cached = Math.min(usage.cached_tokens, usage.prompt_tokens);
  const fresh = usage.prompt_tokens - cached;
  return (fresh * prices.input + cached * prices.cached_input + usage.output_tokens * prices.output) / MILLION;
}

/** What the energy cost; null where the energy or the price of a kilowatt-hour is unknown. */
export function electricityCost(usage: Usage, prices: Prices | null): number | null {
  if (usage.energy_j === null || prices?.kwh == null) return null;
  return (usage.energy_j / JOULES_PER_KWH) * prices.kwh;
}

/** Share 0..1 of the time with a model loaded in which power was measured; null if it was all of it, or nothing was loaded. */
export function measuredShare(usage: Usage): number | null {
  if (usage.energy_j === null || usage.loaded_s <= 0) return null;
  const share = usage.measured_s / usage.loaded_s;
  return share < WHOLE ? share : null;
}

/** "820 Wh", "1.84 kWh". */
export function energy(joules: number | null): string {
  if (joules === null) return DASH;
  const wh = joules / 3600;
  if (wh < 10) return `${decimal(wh.toFixed(1))}${NBSP}Wh`;
  return wh < 999.5 ? `${wh.toFixed(0)}${NBSP}Wh` : `${decimal((wh / 1000).toFixed(2))}${NBSP}kWh`;
}

/** Tokens in short: "812", "64.2k", "1.24M". */
export function tokens(n: number): string {
  if (n < 1000) return String(n);
  return n < 999_950 ? `${decimal((n / 1000).toFixed(1))}k` : `${decimal((n / 1e6).toFixed(2))}M`;
}

/** An amount of money: cents matter, and below a cent it says so. */
export function money(amount: number | null, currency: string): string {
  if (amount === null) return DASH;
  if (amount > 0 && amount < 0.01) return `<${NBSP}0.01${NBSP}${currency}`;
  return `${amount < 999.5 ? decimal(amount.toFixed(2)) : amount.toFixed(0)}${NBSP}${currency}`;
}

/** The dialog's fields as text. */
export interface PriceForm {
  currency: string;
  input: string;
  cached: string;
  output: string;
  kwh: string;
}

export function toPriceForm(prices: Prices | null): PriceForm {
  const text = (value: number | null | undefined) => (value == null ? "" : String(value));
  return {
    currency: prices?.currency ?? "USD",
    input: text(prices?.input),
    cached: text(prices?.cached_input),
    output: text(prices?.output),
    kwh: text(prices?.kwh),
  };
}

/** A price as typed: a decimal point or comma, zero or more; null if it is not one. */
export function price(text: string): number | null {
  const value = text.trim().replace(",", ".");
  if (!/^\d+(\.\d+)?$/.test(value)) return null;
  const number = Number(value);
  return Number.isFinite(number) && number <= 1e6 ? number : null;
}

/** Names of the fields that cannot be used. Empty input and output mean: no comparison. An empty cached price is the input's. */
export function wrongPrices(form: PriceForm): (keyof PriceForm)[] {
  const wrong: (keyof PriceForm)[] = [];
  const needed = (["input", "output"] as const).filter((key) => form[key].trim() !== "" || form[other(key)].trim() !== "");
  for (const key of needed) if (price(form[key]) === null) wrong.push(key);
  for (const key of ["cached", "kwh"] as const) if (form[key].trim() !== "" && price(form[key]) === null) wrong.push(key);
  if (!/^\S{1,8}$/.test(form.currency.trim())) wrong.push("currency");
  return wrong;
}

function other(key: "input" | "output"): "input" | "output" {
  return key === "input" ? "output" : "input";
}

/** The form as prices; null if there is nothing to compare with. Call only when nothing is wrong. */
export function fromPriceForm(form: PriceForm): Prices | null {
  const input = price(form.input);
  const output = price(form.output);
  if (input === null || output === null) return null;
  return { currency: form.currency.trim(), input, cached_input: price(form.cached) ?? input, output, kwh: price(form.kwh) };
}
