// Separates what a model thinks from what it says, for engines that leave `<think>...</think>` in the text.
// Called by the conversation on every redraw, so it takes the whole text and keeps no state.

export interface Parts {
  reasoning: string;
  answer: string;
  /** True while the thinking has not ended. */
  open: boolean;
}

const OPEN = "<think>";
const CLOSE = "</think>";

/** `reasoning` is what came in its own field; text before a lone `</think>` counts as thinking too. */
export function splitReasoning(text: string, reasoning = ""): Parts {
  const start = text.trimStart();
  if (start.startsWith(OPEN)) {
    const rest = start.slice(OPEN.length);
    const end = rest.indexOf(CLOSE);
    if (end < 0) return { reasoning: reasoning + withoutHalf(rest, CLOSE).trim(), answer: "", open: true };
    return { reasoning: (reasoning + rest.slice(0, end)).trim(), answer: rest.slice(end + CLOSE.length).trimStart(), open: false };
  }
  const end = start.indexOf(CLOSE);
  if (end >= 0) {
    return { reasoning: (reasoning + start.slice(0, end)).trim(), answer: start.slice(end + CLOSE.length).trimStart(), open: false };
  }
  // The opening mark may have come only in part yet: show nothing rather than half a mark.
  if (start !== "" && OPEN.startsWith(start)) return { reasoning: reasoning.trim(), answer: "", open: true };
  return { reasoning: reasoning.trim(), answer: start, open: reasoning !== "" && start === "" };
}

/** The text without a mark that has begun at its end. */
function withoutHalf(text: string, mark: string): string {
  for (let n = Math.min(mark.length - 1, text.length); n > 0; n--) {
    if (text.endsWith(mark.slice(0, n))) return text.slice(0, -n);
  }
  return text;
}
