// Asks what was served and what it took, when a request has ended and once a minute. Used by the cost card.
import { untrack } from "svelte";
import type { Usage } from "../types/Usage";
import type { Live } from "./live.svelte";

const EVERY_MS = 60_000;
/** Sums are not watched: requests that end one after the other are asked for once. */
const PAUSE_MS = 4000;

/** Call inside a component. `changed` is read only so that a new value asks again. */
export function pollUsage(live: Live, hours: () => number, active: () => boolean, changed: () => unknown) {
  let box = $state.raw<{ current: Usage | null; hours: number }>({ current: null, hours: 0 });
  let askedMs = -Infinity;
  $effect(() => {
    const span = hours();
    changed();
    if (!active()) return;
    const ask = async () => {
      if (document.visibilityState === "hidden") return;
      try {
        askedMs = performance.now();
        const current = await live.control.usage(span);
        if (box.hours === span) await live.together();
        // The next request may have ended meanwhile; what was asked for is still worth showing.
        if (hours() === span) box = { current, hours: span };
      } catch {
        // Keeps the last figures; the status strip says that the machine is away.
      }
    };
    // The answer must not ask again.
    const known = untrack(() => box.hours) === span;
    const soon = setTimeout(ask, known ? Math.max(300, askedMs + PAUSE_MS - performance.now()) : 0);
    const timer = setInterval(ask, EVERY_MS);
    return () => {
      clearTimeout(soon);
      clearInterval(timer);
    };
  });
  return {
    /** Null until the span has answered once. */
    get current(): Usage | null {
      return box.hours === hours() ? box.current : null;
    },
  };
}
