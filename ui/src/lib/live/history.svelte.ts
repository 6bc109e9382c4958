// Asks for the samples of a chart again and again while it is shown, and never while the window is hidden.
// Used by the history panel and the sparklines; the server keeps the samples, nothing is summed up here.
import type { History } from "../types/History";
import type { Live } from "./live.svelte";

/** How often a span is worth asking for: two steps of a line that is redrawn whole, less of one that moves slowly. */
const EVERY_MS: Record<number, number> = { 60: 2000, 900: 3000, 86400: 30000 };
/** The shortest pause while no request runs: a line that stands still need not be drawn every second. */
const CALM_MS = 5000;

export interface HistoryPoll {
  /** Null until the span has answered once. */
  readonly current: History | null;
}

/**
 * Call inside a component: `current` follows the span that `seconds` returns, until the component goes. Nothing is asked while
 * not `active`, and less often while `calm`.
 */
export function pollHistory(live: Live, seconds: () => number, active: () => boolean, calm: () => boolean): HistoryPoll {
  let box = $state.raw<{ current: History | null; span: number }>({ current: null, span: 0 });
  $effect(() => {
    const [span, still] = [seconds(), calm()];
    if (!active()) return;
    let asking = false;
    const ask = async () => {
      if (asking || document.visibilityState === "hidden") return;
      asking = true;
      try {
        const current = await live.control.history(span);
        if (box.span === span) await live.together();
        // Whether the machine is calm may have changed meanwhile; what was asked for is still worth showing.
        if (seconds() === span) box = { current, span };
      } catch {
        // Keeps the last picture; the status strip says that the machine is away.
      } finally {
        asking = false;
      }
    };
    void ask();
    const timer = setInterval(ask, Math.max(EVERY_MS[span] ?? 3000, still ? CALM_MS : 0));
    document.addEventListener("visibilitychange", ask);
    return () => {
      clearInterval(timer);
      document.removeEventListener("visibilitychange", ask);
    };
  });
  return {
    get current(): History | null {
      return box.span === seconds() ? box.current : null;
    },
  };
}
