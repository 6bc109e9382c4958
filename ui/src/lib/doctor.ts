// How the doctor's findings are put: worst first, and one sentence over all. Pure; called by the page Doctor.
import { strings } from "./strings";
import type { Tone } from "./tone";
import type { Check } from "./types/Check";
import type { CheckState } from "./types/CheckState";

const RANK: Record<CheckState, number> = { fail: 0, warn: 1, pass: 2, skipped: 3 };

/** Worst first; among equals the doctor's own order. */
export function bySeverity(checks: readonly Check[]): Check[] {
  return [...checks].sort((a, b) => RANK[a.state] - RANK[b.state]);
}

export function verdict(checks: readonly Check[]): string {
  const count = (state: CheckState) => checks.filter((check) => check.state === state).length;
  return strings.doctor.verdict(count("fail"), count("warn"), count("pass"));
}

export const tone = (state: CheckState): Tone => ({ fail: "err", warn: "warn", pass: "ok", skipped: "off" } as const)[state];
export const word = (state: CheckState): string => strings.doctor.states[state] ?? state;
