// Where the marks of the context slider lie on the memory bar. Pure; called by ContextSlider.
import type { Plan } from "./types/Plan";

export interface Mark {
  context: number;
  needed: number;
  /** Position of its end on the bar, 0..1 of the pool. */
  at: number;
  fits: boolean;
  /** Whether its name has room beside the one before. */
  named: boolean;
}

/** Least distance of two names, as a share of the bar. */
const ROOM = 0.07;

/** The pool as the bar shows it: what can be had, and a little beyond so that what does not fit is seen to cross the line. */
export function poolOf(plan: Plan): number {
  const most = Math.max(plan.needed, ...plan.contexts.map((need) => need.needed));
  const available = plan.available ?? most;
  return Math.max(available * 1.15, Math.min(most, available * 1.6)) || 1;
}

export function marks(plan: Plan): Mark[] {
  const pool = poolOf(plan);
  let last = -1;
  return plan.contexts.map(({ context, needed }) => {
    const at = Math.min(1, needed / pool);
    const named = at - last >= ROOM;
    if (named) last = at;
    return { context, needed, at, fits: plan.available === null || needed <= plan.available, named };
  });
}

/** The step of the slider for a context: the first mark that is not shorter. */
export function stepOf(plan: Plan, context: number): number {
  const found = plan.contexts.findIndex((need) => need.context >= context);
  return found < 0 ? plan.contexts.length - 1 : found;
}
