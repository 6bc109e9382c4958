// Layout of the memory bar: parts in their fixed order, how wide, which carry their label, and where the reserve begins.
// Pure; called by MemoryBar and by the plan in Settings.
import { memory } from "./format";
import { strings } from "./strings";
import type { Memory } from "./types/Memory";
import type { MemoryPart } from "./types/MemoryPart";

export const ORDER = ["weights", "draft", "kv_used", "kv_cached", "kv_reserved", "state", "scratch", "context", "other", "cache", "free"] as const;
/**
 * A label is drawn inside a part that is wide enough for it, and at least this share of the bar; the others are named in the
 * legend only. Room for a label of n characters and its size ("21.8 GiB"), as shares of a bar of 1110 px: 12 px + 5.2 px each.
 */
const LABEL_SHARE = 0.06;
/** Widths of a part: finer than the pixels of a bar. */
const STEPS = 4000;
const labelRoom = (label: string) => Math.max(LABEL_SHARE, (12 + 5.2 * (label.length + 9)) / 1110);

export interface Segment {
  kind: string;
  label: string;
  short: string;
  bytes: number;
  share: number;
  labelled: boolean;
  source: MemoryPart["source"];
}

function rank(kind: string): number {
  const index = (ORDER as readonly string[]).indexOf(kind);
  // A part this page does not know yet is drawn before what is free, never dropped.
  return index < 0 ? ORDER.length - 1.5 : index;
}

/** Segments that fill the bar; shares are of the total, or of the sum of the parts where the total is not known. */
export function segments(parts: MemoryPart[], total: number | null): Segment[] {
  const sum = parts.reduce((bytes, part) => bytes + Math.max(0, part.bytes), 0);
  const whole = Math.max(total ?? 0, sum);
  return [...parts]
    .sort((a, b) => rank(a.kind) - rank(b.kind))
    .map((part) => {
      const label = strings.memory.parts[part.kind] ?? part.kind;
      // In steps that can be seen: a bar that moves by a hundredth of a pixel is laid out anew for nothing.
      const share = whole > 0 ? Math.round((STEPS * Math.max(0, part.bytes)) / whole) / STEPS : 0;
      return {
        kind: part.kind,
        label,
        short: strings.memory.short[part.kind] ?? label,
        bytes: part.bytes,
        share,
        labelled: share >= labelRoom(strings.memory.short[part.kind] ?? label),
        source: part.source,
      };
    });
}

/** What the bar draws: sizes as they are read, so that a change that nobody sees is none. */
export interface Drawn extends Omit<Segment, "bytes"> {
  size: string;
  some: boolean;
}
export function drawn(segments: Segment[], before: Drawn[]): Drawn[] {
  const now = segments.map(({ bytes, ...rest }) => ({ ...rest, size: memory(bytes), some: bytes > 0 }));
  return JSON.stringify(now) === JSON.stringify(before) ? before : now;
}

/** Bytes in use: everything but what is free or can be had back at once. Null when nothing is known. */
export function inUse(memory: Memory): number | null {
  if (memory.parts.length === 0) return null;
  return memory.parts.filter((p) => p.kind !== "free" && p.kind !== "cache").reduce((sum, p) => sum + p.bytes, 0);
}

/** Bytes by which use reaches into the reserve; zero while the reserve is whole, null when unknown. */
export function intoReserve(memory: Memory): number | null {
  const used = inUse(memory);
  if (used === null || memory.total === null) return null;
  return Math.max(0, used - (memory.total - memory.reserve));
}
