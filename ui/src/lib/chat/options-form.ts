// The fields of "How it answers" as text, and back to values; says what is wrong with a field. Pure.
import { strings } from "../strings";
import type { ChatSampling } from "../types/ChatSampling";

export type NumberField = Exclude<keyof ChatSampling, "thinking">;

export interface OptionsForm {
  system: string;
  numbers: Record<NumberField, string>;
  thinking: "default" | "on" | "off";
  tools: string;
}

interface Range {
  from: number;
  to: number;
  whole: boolean;
}

/** What the endpoint takes. */
export const RANGES: Record<NumberField, Range> = {
  temperature: { from: 0, to: 2, whole: false },
  top_p: { from: 0, to: 1, whole: false },
  top_k: { from: 0, to: 1_000_000, whole: true },
  min_p: { from: 0, to: 1, whole: false },
  max_tokens: { from: 1, to: 1_000_000, whole: true },
  seed: { from: 0, to: 4_294_967_295, whole: true },
};
export const NUMBER_FIELDS = Object.keys(RANGES) as NumberField[];

export function toForm(system: string, sampling: ChatSampling, tools: unknown[]): OptionsForm {
  const text = (field: NumberField) => (sampling[field] === null ? "" : String(sampling[field]));
  return {
    system,
    numbers: Object.fromEntries(NUMBER_FIELDS.map((field) => [field, text(field)])) as OptionsForm["numbers"],
    thinking: sampling.thinking === null ? "default" : sampling.thinking ? "on" : "off",
    tools: tools.length > 0 ? JSON.stringify(tools, null, 2) : "",
  };
}

/** Null for an empty field, undefined for one that is wrong. A comma is a decimal point too. */
function value(field: NumberField, text: string): number | null | undefined {
  if (text.trim() === "") return null;
  const { from, to, whole } = RANGES[field];
  const number = /^[+]?\d*[.,]?\d*$/.test(text.trim()) ? Number(text.trim().replace(",", ".")) : NaN;
  return Number.isFinite(number) && number >= from && number <= to && (!whole || Number.isInteger(number)) ? number : undefined;
}

/** Undefined where it is not a list of objects. */
function toolsOf(text: string): unknown[] | undefined {
  if (text.trim() === "") return [];
  try {
    const list: unknown = JSON.parse(text);
    return Array.isArray(list) && list.every((tool) => typeof tool === "object" && tool !== null) ? list : undefined;
  } catch {
    return undefined;
  }
}

export function problems(form: OptionsForm): Partial<Record<NumberField | "tools", string>> {
  const t = strings.options;
  const found: Partial<Record<NumberField | "tools", string>> = {};
  for (const field of NUMBER_FIELDS) {
    const { from, to, whole } = RANGES[field];
    if (value(field, form.numbers[field]) === undefined) found[field] = whole ? t.whole(from, to) : t.number(from, to);
  }
  if (toolsOf(form.tools) === undefined) found.tools = t.badTools;
  return found;
}

/** Call it only without problems. */
export function fromForm(form: OptionsForm): { sampling: ChatSampling; tools: unknown[] } {
  const numbers = Object.fromEntries(NUMBER_FIELDS.map((field) => [field, value(field, form.numbers[field]) ?? null]));
  const thinking = form.thinking === "default" ? null : form.thinking === "on";
  return { sampling: { ...(numbers as Omit<ChatSampling, "thinking">), thinking }, tools: toolsOf(form.tools) ?? [] };
}
