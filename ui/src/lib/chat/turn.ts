// A message as the page holds it, and how it becomes one that is kept. Called by the conversation and the components.
import type { Chat } from "../types/Chat";
import type { ChatEnd } from "../types/ChatEnd";
import type { ChatFigures } from "../types/ChatFigures";
import type { ChatMessage } from "../types/ChatMessage";

/** As it is kept, but it may still be written, and its thoughts and calls grow. */
export interface Turn extends Omit<ChatMessage, "end"> {
  end: ChatEnd | "writing";
  /** Milliseconds on this page's clock: asked, first and last piece; null for what was read back. */
  askedMs: number | null;
  firstMs: number | null;
  lastMs: number | null;
}

export const NO_FIGURES: ChatFigures = { prompt_tokens: null, output_tokens: null, ttft_s: null, decode_tok_s: null, acceptance: null };

let numbered = 0;
/** Unique in this browser and plain enough for an address; also the request's id, by which the engine's figures are found. */
export function freshId(kind: string): string {
  return `${kind}-${Date.now().toString(36)}-${(numbered++).toString(36)}-${Math.random().toString(36).slice(2, 6)}`;
}

export function newTurn(role: Turn["role"], parent: string | null, content = ""): Turn {
  return {
    id: freshId(role === "user" ? "ask" : "chat"),
    parent, role, content, reasoning: "", tool_calls: [], end: role === "user" ? "done" : "writing", fault: null, model: null,
    figures: NO_FIGURES, at_ms: Date.now(), askedMs: performance.now(), firstMs: null, lastMs: null,
  };
}

export function toTurn(message: ChatMessage): Turn {
  return { ...message, askedMs: null, firstMs: null, lastMs: null };
}

/** What is being written now is not kept yet. */
export function toMessages(turns: Turn[]): Chat["messages"] {
  return turns.flatMap((turn) => {
    if (turn.end === "writing") return [];
    const { askedMs: _, firstMs: __, lastMs: ___, end, ...message } = turn;
    return [{ ...message, end }];
  });
}
