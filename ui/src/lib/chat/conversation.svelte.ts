// The conversation of this window: its branches, the answer being written, stop, retry, edit. One instance outlives page
// switches, so an answer goes on while the person looks at the dashboard. `keep` writes it down, where the person wants that.
import { complete, CompletionError, servedModel, type Ended } from "./completion";
import { branch, newestEnd } from "./tree";
import { freshId, newTurn, toMessages, toTurn, type Turn } from "./turn";
import { strings } from "../strings";
import type { Chat } from "../types/Chat";
import type { ChatSampling } from "../types/ChatSampling";
import type { RequestRecord } from "../types/RequestRecord";

/** Text on the page grows at most four times a second. */
const REDRAW_MS = 250;
const TITLE_LENGTH = 60;

export const DEFAULT_SAMPLING: ChatSampling = {
  temperature: null, top_p: null, top_k: null, min_p: null, max_tokens: null, seed: null, thinking: null,
};

export class Conversation {
  id = $state(freshId("talk"));
  /** Given by the person; empty: the first question. */
  name = $state("");
  messages = $state.raw<Turn[]>([]);
  head = $state<string | null>(null);
  system = $state("");
  sampling = $state.raw<ChatSampling>(DEFAULT_SAMPLING);
  /** OpenAI's list of tools, for this window only. */
  tools = $state.raw<unknown[]>([]);
  /** What is typed and not yet sent; outlives page switches too. */
  draft = $state("");
  /** Id of the profile's model, for when the endpoint cannot list its models. */
  profileModel = "";
  /** Writes the conversation down; null where nothing is kept. */
  keep: ((chat: Chat) => void) | null = null;
  private createdMs = Date.now();
  private request = $state.raw<AbortController | null>(null);

  /** The branch that is shown. */
  turns = $derived(branch(this.messages, this.head));
  title = $derived(this.name || titleOf(this.messages));

  get writing(): boolean {
    return this.request !== null;
  }

  async ask(text: string): Promise<void> {
    const content = text.trim();
    if (!content || this.writing) return;
    this.add(newTurn("user", this.head, content));
    this.save();
    await this.answer();
  }

  /** Asks for another answer to the last question; the old one stays as a version. */
  async retry(): Promise<void> {
    const last = this.turns.at(-1);
    if (this.writing || !last) return;
    if (last.role === "assistant") this.head = last.parent;
    if (this.turns.at(-1)?.role === "user") await this.answer();
  }

  /** Asks a question in other words, beside the old one. */
  async edit(turn: Turn, text: string): Promise<void> {
    const content = text.trim();
    if (!content || this.writing) return;
    this.add(newTurn("user", turn.parent, content));
    await this.answer();
  }

  /** Shows the newest branch through a version. */
  show(id: string): void {
    if (this.writing) return;
    this.head = newestEnd(this.messages, id);
    this.save();
  }

  configure(system: string, sampling: ChatSampling, tools: unknown[]): void {
    this.system = system.trim();
    this.sampling = sampling;
    this.tools = tools;
    this.save();
  }

  rename(name: string): void {
    this.name = name.trim().slice(0, 2 * TITLE_LENGTH);
    this.save();
  }

  stop(): void {
    this.request?.abort();
  }

  /** A new, empty conversation; the old one is wherever it was kept. */
  clear(): void {
    this.stop();
    this.request = null;
    [this.id, this.name, this.createdMs] = [freshId("talk"), "", Date.now()];
    [this.messages, this.head] = [[], null];
    [this.system, this.sampling, this.tools] = ["", DEFAULT_SAMPLING, []];
  }

  /** Goes on with one that was kept. */
  open(chat: Chat): void {
    this.clear();
    [this.id, this.createdMs] = [chat.id, chat.created_ms];
    [this.messages, this.head] = [chat.messages.map(toTurn), chat.head];
    [this.system, this.sampling] = [chat.system, { ...DEFAULT_SAMPLING, ...chat.sampling }];
    this.name = chat.title === titleOf(this.messages) ? "" : chat.title;
  }

  /** As it is written down and exported. */
  chat(): Chat {
    const messages = toMessages(this.messages);
    const head = messages.some((message) => message.id === this.head) ? this.head : (this.turns.at(-2)?.id ?? null);
    return {
      id: this.id,
      title: this.title,
      model: messages.findLast((message) => message.model !== null)?.model ?? this.profileModel,
      system: this.system,
      sampling: this.sampling,
      messages,
      head,
      created_ms: this.createdMs,
      updated_ms: messages.at(-1)?.at_ms ?? this.createdMs,
    };
  }

  /** Keeps the engine's figures of answers with the answers: the list of requests forgets them. */
  remember(records: RequestRecord[]): void {
    const known = new Map(records.map((record) => [record.id, record]));
    let changed = false;
    const messages = this.messages.map((turn) => {
      const record = turn.role === "assistant" && turn.end !== "writing" ? known.get(turn.id) : undefined;
      if (!record || (turn.figures.decode_tok_s === record.decode_tok_s && turn.figures.ttft_s === record.ttft_s)) return turn;
      changed = true;
      const { prompt_tokens, output_tokens, ttft_s, decode_tok_s } = record;
      return { ...turn, figures: { ...turn.figures, prompt_tokens, output_tokens, ttft_s, decode_tok_s } };
    });
    if (!changed) return;
    this.messages = messages;
    this.save();
  }

  private save(): void {
    if (this.keep && this.messages.length > 0) this.keep(this.chat());
  }

  private add(turn: Turn): void {
    this.messages = [...this.messages, turn];
    this.head = turn.id;
  }

  private async answer(): Promise<void> {
    const request = new AbortController();
    this.request = request;
    // Answers that failed or were empty are not part of what the model is told.
    const told = this.turns.filter((turn) => turn.content !== "").map(({ role, content }) => ({ role, content }));
    const messages = this.system ? [{ role: "system" as const, content: this.system }, ...told] : told;
    const now: Turn = newTurn("assistant", this.head);
    this.add(now);
    // The turn is replaced, never changed in place: that is what makes a redraw. A cleared conversation takes no more.
    const draw = () => {
      const at = this.messages.findIndex((turn) => turn.id === now.id);
      if (at >= 0) this.messages = this.messages.with(at, { ...now });
    };
    let timer: ReturnType<typeof setTimeout> | null = null;
    try {
      const model = (await servedModel(request.signal).catch(() => null)) ?? this.profileModel;
      now.model = model;
      const question = { model, messages, sampling: this.sampling, tools: this.tools };
      const ended = await complete(question, now.id, request.signal, (delta) => {
        now.content += delta.content;
        now.reasoning += delta.reasoning;
        if (delta.toolCalls) now.tool_calls = delta.toolCalls;
        now.lastMs = performance.now();
        const first = now.firstMs === null;
        now.firstMs ??= now.lastMs;
        if (first) draw();
        else timer ??= setTimeout(() => ((timer = null), draw()), REDRAW_MS);
      });
      now.end = endOf(ended);
      now.figures = figuresOf(now, ended);
    } catch (error) {
      if (request.signal.aborted) now.end = "stopped";
      else {
        now.end = "failed";
        now.fault = error instanceof CompletionError ? error.fault : strings.faults.cut;
      }
      now.figures = figuresOf(now, { finish: null, promptTokens: null, outputTokens: null, acceptance: null });
    } finally {
      if (timer) clearTimeout(timer);
      now.at_ms = Date.now();
      draw();
      if (this.request === request) {
        this.request = null;
        this.save();
      }
    }
  }
}

function endOf({ finish }: Ended): Turn["end"] {
  return finish === "length" ? "length" : finish === "tool_calls" ? "tool_calls" : "done";
}

/** This page's clock, until the engine's own record comes. */
function figuresOf(turn: Turn, ended: Ended): Turn["figures"] {
  const { askedMs, firstMs, lastMs } = turn;
  const span = firstMs !== null && lastMs !== null ? (lastMs - firstMs) / 1000 : 0;
  const tokens = ended.outputTokens;
  return {
    prompt_tokens: ended.promptTokens,
    output_tokens: tokens,
    ttft_s: firstMs === null || askedMs === null ? null : (firstMs - askedMs) / 1000,
    // Pieces of a short answer may reach the page in one go; that would be the speed of the wire.
    decode_tok_s: tokens !== null && tokens > 1 && span > 1 ? (tokens - 1) / span : null,
    acceptance: ended.acceptance,
  };
}

/** The first line of the first question, not cut inside a word if that can be helped. */
function titleOf(messages: Turn[]): string {
  const line = messages.find((turn) => turn.role === "user")?.content.split("\n")[0]?.trim() ?? "";
  if (line.length <= TITLE_LENGTH) return line;
  const cut = line.slice(0, TITLE_LENGTH);
  return `${cut.slice(0, Math.max(cut.lastIndexOf(" "), TITLE_LENGTH / 2)).trimEnd()}…`;
}

export const conversation = new Conversation();
