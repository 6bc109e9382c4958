// Readings of the chip that computes, as rows of text. Pure; called by Chip.
import { count, DASH } from "./format";
import { strings } from "./strings";
import type { Snapshot } from "./types/Snapshot";

export interface Row {
  key: "power" | "heat" | "clock" | "busy";
  value: string;
  unit: string;
  /** Out of the healthy range. */
  warn: boolean;
}
export interface Shown {
  title: string;
  name: string;
  rows: Row[];
  note: string;
}

/** Celsius from which a GPU is about to slow itself down. */
const WARM = 85;

const whole = (value: number | null | undefined) => (value == null ? DASH : count(value));
/** "NVIDIA GB10" -> "GB10": the maker is known. */
const short = (name: string) => name.replace(/^NVIDIA\s+/, "").replace(/\s*\(?(TM|R)\)?\s*/gi, " ").trim();

export function chip(snapshot: Snapshot | null): Shown {
  const t = strings.chip;
  const gpu = snapshot?.machine.gpu ?? null;
  const row = (key: Row["key"], value: number | null | undefined, unit: string, warn = false): Row => ({ key, value: whole(value), unit, warn });
  if (gpu) {
    const held = gpu.held_by?.filter((reason) => reason !== "application clocks") ?? [];
    return {
      title: t.gpu,
      name: short(gpu.name),
      rows: [
        row("power", gpu.power_w, "W"),
        row("heat", gpu.temperature_c, "°C", (gpu.temperature_c ?? 0) >= WARM),
        row("clock", gpu.sm_clock_mhz, "MHz"),
        row("busy", gpu.utilisation, "%"),
      ],
      note: held.length > 0 ? t.held(held.join(", ")) : gpu.power_limit_w !== null ? t.limit(whole(gpu.power_limit_w)) : "",
    };
  }
  const cpu = snapshot?.machine.cpu_now ?? null;
  return {
    title: t.cpu,
    name: snapshot ? t.cores(snapshot.machine.cores) : "",
    rows: [
      row("power", null, "W"),
      row("heat", cpu?.temperature_c, "°C", (cpu?.temperature_c ?? 0) >= WARM + 10),
      row("clock", cpu?.clock_mhz, "MHz"),
      row("busy", cpu?.busy, "%"),
    ],
    note: snapshot ? t.noGpu : "",
  };
}
