// One streamed answer from /v1/chat/completions on the same origin. Failures come back as faults with a next step.
// Called by the conversation; knows nothing of pages or state.
import { serverEvents } from "../sse";
import { strings } from "../strings";
import type { ChatSampling } from "../types/ChatSampling";
import type { ChatToolCall } from "../types/ChatToolCall";
import type { Fault } from "../types/Fault";

export interface Question {
  model: string;
  messages: { role: "system" | "user" | "assistant"; content: string }[];
  sampling?: ChatSampling;
  /** OpenAI's list of tools. */
  tools?: unknown[];
}

export interface Delta {
  content: string;
  reasoning: string;
  /** All calls so far, whole; null if this piece brought none. */
  toolCalls: ChatToolCall[] | null;
}

export interface Ended {
  /** `stop`, `length`, ...; null when the stream broke off. */
  finish: string | null;
  /** As the engine counted them; null without usage. */
  promptTokens: number | null;
  outputTokens: number | null;
  /** Share of drafted tokens that were accepted; null where nothing was drafted. */
  acceptance: number | null;
}

export class CompletionError extends Error {
  constructor(readonly fault: Fault) {
    super(fault.message);
  }
}

interface OpenAiError {
  message?: string;
  code?: string | null;
  type?: string;
}
interface CallPiece {
  index?: number;
  id?: string;
  function?: { name?: string; arguments?: string };
}
interface Usage {
  prompt_tokens?: number;
  completion_tokens?: number;
  completion_tokens_details?: { accepted_prediction_tokens?: number; rejected_prediction_tokens?: number } | null;
}
interface Chunk {
  error?: OpenAiError | string;
  choices?: {
    delta?: { content?: string | null; reasoning_content?: string | null; reasoning?: string | null; tool_calls?: CallPiece[] | null };
    finish_reason?: string | null;
  }[];
  usage?: Usage | null;
}

/** OpenAI's error object as a fault: the server's sentence, and what to do about it. */
export function faultOf(error: OpenAiError | string | undefined, evidence: string | null): Fault {
  const body = typeof error === "string" ? { message: error } : (error ?? {});
  const code = body.code ?? body.type ?? "error";
  const steps = strings.faults.nextStep;
  return {
    code,
    message: body.message ?? strings.faults.cut.message,
    next_step: steps[code] ?? steps["fallback"] ?? "",
    evidence,
  };
}

/** The request's body: only what differs from the model's defaults is in it. */
export function bodyOf({ model, messages, sampling, tools }: Question): Record<string, unknown> {
  const { thinking, ...numbers } = sampling ?? { thinking: null };
  const set = Object.entries(numbers).filter(([, value]) => value !== null);
  return {
    model,
    messages,
    stream: true,
    stream_options: { include_usage: true },
    ...Object.fromEntries(set),
    ...(thinking === null ? {} : { chat_template_kwargs: { enable_thinking: thinking } }),
    ...(tools && tools.length > 0 ? { tools } : {}),
  };
}

async function post(body: unknown, id: string, signal: AbortSignal): Promise<Response> {
  try {
    return await fetch("/v1/chat/completions", {
      method: "POST",
      headers: { "content-type": "application/json", "x-request-id": id },
      body: JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (signal.aborted) throw error;
    throw new CompletionError(strings.faults.noAnswer);
  }
}

/** The name by which the engine serves its model. */
export async function servedModel(signal: AbortSignal): Promise<string | null> {
  const response = await fetch("/v1/models", { signal });
  if (!response.ok) return null;
  const list = (await response.json()) as { data?: { id?: string }[] };
  return list.data?.[0]?.id ?? null;
}

/** Adds the pieces of calls to what came before; the arguments come in parts. */
function addCalls(calls: ChatToolCall[], pieces: CallPiece[]): ChatToolCall[] {
  const grown = [...calls];
  for (const piece of pieces) {
    const at = piece.index ?? grown.length;
    const before = grown[at] ?? { id: "", name: "", arguments: "" };
    grown[at] = {
      id: piece.id ?? before.id,
      name: before.name + (piece.function?.name ?? ""),
      arguments: before.arguments + (piece.function?.arguments ?? ""),
    };
  }
  return grown.filter((call) => call !== undefined);
}

function take(usage: Usage, ended: Ended): void {
  ended.promptTokens = usage.prompt_tokens ?? ended.promptTokens;
  ended.outputTokens = usage.completion_tokens ?? ended.outputTokens;
  const { accepted_prediction_tokens: accepted = 0, rejected_prediction_tokens: rejected = 0 } = usage.completion_tokens_details ?? {};
  if (accepted + rejected > 0) ended.acceptance = accepted / (accepted + rejected);
}

/** Streams an answer; `onDelta` gets every piece as it comes. Throws CompletionError, or AbortError when stopped. */
export async function complete(
  question: Question,
  id: string,
  signal: AbortSignal,
  onDelta: (delta: Delta) => void,
): Promise<Ended> {
  const response = await post(bodyOf(question), id, signal);
  if (!response.ok || !response.body) {
    const body = (await response.json().catch(() => null)) as Chunk | null;
    throw new CompletionError(
      body?.error ? faultOf(body.error, `HTTP ${response.status}`) : strings.faults.unexpected(response.status),
    );
  }
  const ended: Ended = { finish: null, promptTokens: null, outputTokens: null, acceptance: null };
  let calls: ChatToolCall[] = [];
  try {
    for await (const { event, data } of serverEvents(response.body)) {
      if (data === "[DONE]") return ended;
      const chunk = JSON.parse(data) as Chunk;
      if (chunk.error || event === "error") throw new CompletionError(faultOf(chunk.error ?? (chunk as OpenAiError), null));
      const choice = chunk.choices?.[0];
      const delta = choice?.delta;
      const pieces = delta?.tool_calls ?? [];
      if (pieces.length > 0) calls = addCalls(calls, pieces);
      const content = delta?.content ?? "";
      const reasoning = delta?.reasoning_content ?? delta?.reasoning ?? "";
      if (content || reasoning || pieces.length > 0) onDelta({ content, reasoning, toolCalls: pieces.length > 0 ? calls : null });
      ended.finish = choice?.finish_reason ?? ended.finish;
      if (chunk.usage) take(chunk.usage, ended);
    }
  } catch (error) {
    if (signal.aborted || error instanceof CompletionError) throw error;
    throw new CompletionError(strings.faults.cut);
  }
  if (ended.finish === null) throw new CompletionError(strings.faults.cut);
  return ended;
}
