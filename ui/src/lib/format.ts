// Numbers, sizes and times as people read them. Unknown (null) is always a dash, never a zero.
// Called by every component; the units themselves are in strings.ts.
import { decimal, POINT } from "./decimal";

export const DASH = "–";
/** No-break space: groups digits and joins a number to its unit. */
export const NBSP = "\u00a0";

type Known = number | null | undefined;

function known(value: Known): value is number {
  return typeof value === "number" && Number.isFinite(value);
}

function group(text: string): string {
  const [whole = "", fraction] = text.split(".");
  const grouped = whole.replace(/\B(?=(\d{3})+(?!\d))/g, NBSP);
  return fraction === undefined ? grouped : `${grouped}${POINT}${fraction}`;
}

/** An exact count: 64210 -> "64 210". */
export function count(value: Known): string {
  return known(value) ? group(Math.round(value).toString()) : DASH;
}

/** A rate (tok/s, GB/s): one decimal below 1000, none above. */
export function rate(value: Known): string {
  if (!known(value)) return DASH;
  return group(value < 999.95 ? value.toFixed(1) : value.toFixed(0));
}

/** GB/s: one decimal below 100, none above. */
export function bandwidth(value: Known): string {
  if (!known(value)) return DASH;
  return group(value < 99.95 ? value.toFixed(1) : value.toFixed(0));
}

/** A share 0..1 as whole percent. */
export function percent(share: Known): string {
  return known(share) ? `${Math.round(share * 100)}${NBSP}%` : DASH;
}

const BINARY = [
  ["GiB", 2 ** 30],
  ["MiB", 2 ** 20],
  ["KiB", 2 ** 10],
] as const;
const DECIMAL = [
  ["GB", 1e9],
  ["MB", 1e6],
  ["kB", 1e3],
] as const;

function scaled(value: Known, scale: readonly (readonly [string, number])[]): string {
  if (!known(value)) return DASH;
  for (const [unit, size] of scale) {
    if (value >= size) {
      const amount = value / size;
      const digits = size === scale[0]?.[1] || amount < 9.95 ? 1 : 0;
      return `${group(amount.toFixed(digits))}${NBSP}${unit}`;
    }
  }
  return `${Math.round(value)}${NBSP}B`;
}

/** Memory, in binary units: "21.8 GiB", "94 MiB". */
export function memory(bytes: Known): string {
  return scaled(bytes, BINARY);
}

/** Traffic and files, in decimal units: "4.3 GB". */
export function traffic(bytes: Known): string {
  return scaled(bytes, DECIMAL);
}

/** A short duration: "3 ms", "0.31 s", "4.2 s", "42 s", "3 min 12 s". */
export function seconds(value: Known): string {
  if (!known(value)) return DASH;
  if (value < 0.0995) return `${Math.round(value * 1000)}${NBSP}ms`;
  if (value < 0.995) return `${decimal(value.toFixed(2))}${NBSP}s`;
  if (value < 9.95) return `${decimal(value.toFixed(1))}${NBSP}s`;
  if (value < 59.5) return `${Math.round(value)}${NBSP}s`;
  const whole = Math.round(value);
  if (whole < 3600) return `${Math.floor(whole / 60)}${NBSP}min ${whole % 60}${NBSP}s`;
  return uptime(value);
}

/** A countdown: whole seconds, rounded up, never below zero. */
export function countdown(value: Known): string {
  if (!known(value)) return DASH;
  const whole = Math.max(0, Math.ceil(value));
  return whole < 60 ? `${whole}${NBSP}s` : seconds(whole);
}

/** A long duration: "42 s", "12 min", "3 h 12 min", "2 d 4 h". */
export function uptime(value: Known): string {
  if (!known(value)) return DASH;
  const s = Math.max(0, Math.floor(value));
  if (s < 60) return `${s}${NBSP}s`;
  const minutes = Math.floor(s / 60);
  if (minutes < 60) return `${minutes}${NBSP}min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return `${hours}${NBSP}h ${minutes % 60}${NBSP}min`;
  return `${Math.floor(hours / 24)}${NBSP}d ${hours % 24}${NBSP}h`;
}

/** Local time of day, 24 hours: "14:02:11". */
export function clock(unixMs: Known): string {
  if (!known(unixMs)) return DASH;
  const date = new Date(unixMs);
  return [date.getHours(), date.getMinutes(), date.getSeconds()].map((n) => String(n).padStart(2, "0")).join(":");
}

/** When something was, in a list: the time if it was today, else the day, with the year if it was another one. */
export function when(unixMs: Known, nowMs = Date.now(), language = "en"): string {
  if (!known(unixMs)) return DASH;
  const [date, now] = [new Date(unixMs), new Date(nowMs)];
  if (date.toDateString() === now.toDateString()) return clock(unixMs).slice(0, 5);
  const year = date.getFullYear() === now.getFullYear() ? {} : ({ year: "numeric" } as const);
  return new Intl.DateTimeFormat(language, { day: "numeric", month: "short", ...year }).format(date);
}

/** Tokens of a context: 131072 -> "128K", 1048576 -> "1M", 4000 -> "4 000". */
export function contextLength(tokens: Known): string {
  if (!known(tokens)) return DASH;
  if (tokens >= 2 ** 20 && tokens % 2 ** 20 === 0) return `${tokens / 2 ** 20}M`;
  return tokens >= 1024 && tokens % 1024 === 0 ? `${group(String(tokens / 1024))}K` : count(tokens);
}
