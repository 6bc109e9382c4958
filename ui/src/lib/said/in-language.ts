// Puts everything that Hearth says into the language of this window, in the one place where its answers come in (control.ts and the
// live picture): every fault, notice and check in an answer, wherever it stands in it. English is what Hearth says itself.
import { language } from "../language";
import { german } from "./de";
import { say, type Phrases, type Values } from "./words";

type Data = Record<string, unknown>;
const PHRASES: Record<string, Phrases | undefined> = { de: german };

const isData = (value: unknown): value is Data => typeof value === "object" && value !== null && !Array.isArray(value);
const texts = (data: Data, ...names: string[]): boolean => names.every((name) => typeof data[name] === "string");

/** An answer of the control API in the window's language. */
export function inLanguage<T>(value: T, phrases: Phrases | undefined = PHRASES[language()]): T {
  return phrases === undefined ? value : (translated(value, phrases) as T);
}

function translated(value: unknown, phrases: Phrases): unknown {
  if (Array.isArray(value)) return value.map((one) => translated(one, phrases));
  if (!isData(value)) return value;
  const data: Data = Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, translated(inner, phrases)]));
  const values = (data["values"] ?? {}) as Values;
  const code = String(data["code"] ?? "");
  if (texts(data, "code", "message", "next_step")) return fault(data, code, values, phrases);
  if (texts(data, "code", "level", "text")) return { ...data, text: notice(code, values, phrases) ?? data["text"] };
  if (texts(data, "code", "text") && isData(data["values"])) return { ...data, text: say(phrases.doctor[code], values) ?? data["text"] };
  if (texts(data, "code", "title") && isData(data["finding"])) return { ...data, title: phrases.titles[code] ?? data["title"] };
  if (texts(data, "repository", "good_for")) return card(data, phrases);
  // A finished request in the history: the sentence of its fault, as far as it needs no numbers.
  if (texts(data, "finish", "error", "error_code")) {
    return { ...data, error: say(phrases.faults[String(data["error_code"])]?.[0], {}) ?? data["error"] };
  }
  return data;
}

function fault(data: Data, code: string, values: Values, phrases: Phrases): Data {
  const [message, next] = phrases.faults[code] ?? [];
  const said = say(message, values);
  // Both sentences or none: a fault in two languages would be worse than one in English.
  if (said === null) return data;
  const next_step = data["next_step"] === "" ? "" : say(next, values);
  return next_step === null ? data : { ...data, message: said, next_step };
}

/** Notices of the engine are faults with both sentences in one text. */
function notice(code: string, values: Values, phrases: Phrases): string | null {
  const own = say(phrases.notices[code], values);
  if (own !== null) return own;
  const both = (phrases.faults[code] ?? []).map((text) => say(text, values));
  return both.length === 2 && both.every((one) => one !== null) ? both.join(" ") : null;
}

function card(data: Data, phrases: Phrases): Data {
  const good_for = phrases.goodFor[String(data["repository"])] ?? data["good_for"];
  const lacks = typeof data["lacks"] === "string" ? phrases.lacks(data["lacks"]) : data["lacks"];
  return { ...data, good_for, lacks };
}
