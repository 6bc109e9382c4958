// One streamed answer from /v1/chat/completions on the same origin. Failures come back as faults with a next step.
// Called by the conversation; knows nothing of pages or state.
import { serverEvents } from "../sse";
import { strings } from "../strings";
import type { Fault } from "../types/Fault";

export interface ChatMessage {
  role: "user" | "assistant";
  content: string;
}

export interface Delta {
  content: string;
  reasoning: string;
}

export interface Ended {
  /** `stop`, `length`, ...; null when the stream broke off. */
  finish: string | null;
  /** Tokens written, as the engine counted them; null without usage. */
  outputTokens: number | null;
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
interface Chunk {
  error?: OpenAiError | string;
  choices?: { delta?: { content?: string | null; reasoning_content?: string | null; reasoning?: string | null }; finish_reason?: string | null }[];
  usage?: { completion_tokens?: number } | null;
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

/** Streams an answer; `onDelta` gets every piece as it comes. Throws CompletionError, or AbortError when stopped. */
export async function complete(
  model: string,
  messages: ChatMessage[],
  id: string,
  signal: AbortSignal,
  onDelta: (delta: Delta) => void,
): Promise<Ended> {
  const response = await post({ model, messages, stream: true, stream_options: { include_usage: true } }, id, signal);
  if (!response.ok || !response.body) {
    const body = (await response.json().catch(() => null)) as Chunk | null;
    throw new CompletionError(
      body?.error ? faultOf(body.error, `HTTP ${response.status}`) : strings.faults.unexpected(response.status),
    );
  }
  const ended: Ended = { finish: null, outputTokens: null };
  try {
    for await (const { event, data } of serverEvents(response.body)) {
      if (data === "[DONE]") return ended;
      const chunk = JSON.parse(data) as Chunk;
      if (chunk.error || event === "error") throw new CompletionError(faultOf(chunk.error ?? (chunk as OpenAiError), null));
      const choice = chunk.choices?.[0];
      const delta = choice?.delta;
      const piece = { content: delta?.content ?? "", reasoning: delta?.reasoning_content ?? delta?.reasoning ?? "" };
      if (piece.content || piece.reasoning) onDelta(piece);
      ended.finish = choice?.finish_reason ?? ended.finish;
      ended.outputTokens = chunk.usage?.completion_tokens ?? ended.outputTokens;
    }
  } catch (error) {
    if (signal.aborted || error instanceof CompletionError) throw error;
    throw new CompletionError(strings.faults.cut);
  }
  if (ended.finish === null) throw new CompletionError(strings.faults.cut);
  return ended;
}
