// The conversation of this window: its turns, the answer being written, stop, retry, start anew. Kept in memory only.
// One instance outlives page switches, so an answer goes on while the person looks at the dashboard.
import { complete, CompletionError, servedModel } from "./completion";
import { strings } from "../strings";
import type { Fault } from "../types/Fault";
import type { RequestRecord } from "../types/RequestRecord";

/** Text on the page grows at most four times a second. */
const REDRAW_MS = 250;

export interface Turn {
  /** The request's id for answers; finds its record in the history. */
  id: string;
  role: "user" | "assistant";
  content: string;
  reasoning: string;
  /** `writing` until the stream ends; then how it ended. */
  end: "writing" | "done" | "length" | "stopped" | "failed";
  fault: Fault | null;
  outputTokens: number | null;
  /** The engine's own figures, once they have come. */
  record: RequestRecord | null;
  /** Milliseconds on this page's clock: asked, first and last piece. */
  askedMs: number;
  firstMs: number | null;
  lastMs: number | null;
}

let numbered = 0;
function turn(role: Turn["role"], content: string): Turn {
  const id = `${role === "user" ? "ask" : "chat"}-${Date.now().toString(36)}-${(numbered++).toString(36)}`;
  return {
    id, role, content, reasoning: "", end: role === "user" ? "done" : "writing", fault: null, outputTokens: null, record: null,
    askedMs: performance.now(), firstMs: null, lastMs: null,
  };
}

export class Conversation {
  turns = $state.raw<Turn[]>([]);
  /** What is typed and not yet sent; outlives page switches too. */
  draft = $state("");
  /** Id of the profile's model, for when the endpoint cannot list its models. */
  profileModel = "";
  private request = $state.raw<AbortController | null>(null);

  get writing(): boolean {
    return this.request !== null;
  }

  async ask(text: string): Promise<void> {
    const content = text.trim();
    if (!content || this.writing) return;
    this.turns = [...this.turns, turn("user", content)];
    await this.answer();
  }

  /** Throws the last answer away and asks for another. */
  async retry(): Promise<void> {
    if (this.writing) return;
    if (this.turns.at(-1)?.role === "assistant") this.turns = this.turns.slice(0, -1);
    if (this.turns.at(-1)?.role === "user") await this.answer();
  }

  stop(): void {
    this.request?.abort();
  }

  clear(): void {
    this.stop();
    this.turns = [];
  }

  /** Keeps the engine's figures of answers with the answers: the list of requests forgets them. */
  remember(records: RequestRecord[]): void {
    const found = (one: Turn) => (one.end !== "writing" && !one.record ? records.find((r) => r.id === one.id) : undefined);
    if (!this.turns.some((one) => found(one))) return;
    this.turns = this.turns.map((one) => ({ ...one, record: found(one) ?? one.record }));
  }

  private async answer(): Promise<void> {
    const request = new AbortController();
    this.request = request;
    // Answers that failed or were empty are not part of what the model is told.
    const messages = this.turns.filter((t) => t.content !== "").map(({ role, content }) => ({ role, content }));
    const now: Turn = turn("assistant", "");
    this.turns = [...this.turns, now];
    // The turn is replaced, never changed in place: that is what makes a redraw. A cleared conversation takes no more.
    const draw = () => {
      if (this.turns.at(-1)?.id === now.id) this.turns = [...this.turns.slice(0, -1), { ...now }];
    };
    let timer: ReturnType<typeof setTimeout> | null = null;
    try {
      const model = await servedModel(request.signal).catch(() => null);
      const ended = await complete(model ?? this.profileModel, messages, now.id, request.signal, (delta) => {
        now.content += delta.content;
        now.reasoning += delta.reasoning;
        now.lastMs = performance.now();
        const first = now.firstMs === null;
        now.firstMs ??= now.lastMs;
        if (first) draw();
        else timer ??= setTimeout(() => ((timer = null), draw()), REDRAW_MS);
      });
      now.end = ended.finish === "length" ? "length" : "done";
      now.outputTokens = ended.outputTokens;
    } catch (error) {
      if (request.signal.aborted) now.end = "stopped";
      else {
        now.end = "failed";
        now.fault = error instanceof CompletionError ? error.fault : strings.faults.cut;
      }
    } finally {
      if (timer) clearTimeout(timer);
      if (this.request === request) this.request = null;
      draw();
    }
  }
}

export const conversation = new Conversation();
