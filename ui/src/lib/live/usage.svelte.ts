// Asks what was served and what it took, when a request has ended and once a minute. Used by the cost card.
import { untrack } from "svelte";
import type { Control } from "../control";
import type { Usage } from "../types/Usage";

const EVERY_MS = 60_000;

/** Call inside a component. `changed` is read only so that a new value asks again. */
export function pollUsage(control: Control, hours: () => number, active: () => boolean, changed: () => unknown) {
  let box = $state.raw<{ current: Usage | null; hours: number }>({ current: null, hours: 0 });
  $effect(() => {
    const span = hours();
    changed();
    if (!active()) return;
    let over = false;
    const ask = async () => {
      if (document.visibilityState === "hidden") return;
      try {
        const current = await control.usage(span);
        if (!over) box = { current, hours: span };
      } catch {
        // Keeps the last figures; the status strip says that the machine is away.
      }
    };
    // Requests that end in a row are asked for once. The answer must not ask again.
    const soon = setTimeout(ask, untrack(() => box.hours) === span ? 300 : 0);
    const timer = setInterval(ask, EVERY_MS);
    return () => {
      over = true;
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
