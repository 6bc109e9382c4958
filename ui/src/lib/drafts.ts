// Why there are no drafts to show. Pure; called by the card of drafts.
import { strings } from "./strings";
import type { Snapshot } from "./types/Snapshot";

export function draftNote(snapshot: Snapshot | null): string {
  const t = strings.drafts;
  const kind = snapshot?.state.kind;
  if (kind !== "serving" && kind !== "degraded" && kind !== "stopping") return t.notServing;
  const { drafts } = snapshot as Snapshot;
  if (!drafts) return t.none;
  if (drafts.depth === "0") return t.off;
  return drafts.rounds > 0 ? t.idle : t.noRounds;
}
