// "Test my endpoint": what clients rely on, asked of the real endpoint as a client would ask. Called by the page Connect.
//
// A verdict is about the endpoint, not about the model: one that answers in words where a tool was offered leaves it open.
import { serverEvents } from "../sse";
import { strings } from "../strings";

export type Verdict = "pass" | "fail" | "open" | "absent";

export interface Outcome {
  verdict: Verdict;
  /** What was seen, in one line. */
  evidence: string;
}

export interface Check {
  id: string;
  run: (endpoint: Endpoint) => Promise<Outcome>;
}

interface Message {
  content?: string | null;
  tool_calls?: { id?: string; type?: string; function?: { name?: string; arguments?: string } }[];
}
interface Answer {
  object?: string;
  error?: { message?: string; type?: string; code?: string | null };
  data?: { id?: string }[];
  choices?: { message?: Message; delta?: Message & { role?: string; tool_calls?: ({ index?: number } & NonNullable<Message["tool_calls"]>[number])[] }; text?: string; finish_reason?: string | null }[];
  usage?: { prompt_tokens?: number; completion_tokens?: number; total_tokens?: number } | null;
}

/** The endpoint as a client sees it. */
export class Endpoint {
  /** `key` is null where none is checked. `base` is empty in the page, which comes from the same place. */
  constructor(
    readonly model: string,
    private readonly key: string | null,
    private readonly signal: AbortSignal,
    private readonly base = "",
  ) {}

  send(path: string, body?: unknown): Promise<Response> {
    const headers: Record<string, string> = { "content-type": "application/json" };
    if (this.key !== null) headers["authorization"] = `Bearer ${this.key}`;
    const init = body === undefined ? {} : { method: "POST", body: typeof body === "string" ? body : JSON.stringify(body) };
    return fetch(this.base + path, { headers, signal: this.signal, ...init });
  }

  chat(fields: Record<string, unknown>): Promise<Response> {
    return this.send("/v1/chat/completions", { model: this.model, max_tokens: 64, temperature: 0, ...fields });
  }
}

const t = strings.conformance;
const pass = (evidence: string): Outcome => ({ verdict: "pass", evidence });
const fail = (evidence: string): Outcome => ({ verdict: "fail", evidence });
const ask = (content: string) => [{ role: "user", content }];
const short = (text: string) => (text.length > 120 ? `${text.slice(0, 120)}…` : text);

async function json(response: Response): Promise<Answer> {
  return (await response.json()) as Answer;
}
/** A refusal as a fail with the server's words, or as absent where this version does not have it. */
async function refused(response: Response): Promise<Outcome> {
  const { error } = await json(response).catch((): Answer => ({}));
  const evidence = short(`HTTP ${response.status}: ${error?.message ?? "no explanation"}`);
  const missing = response.status === 404 || response.status === 501 || (response.status === 400 && /not supported|unsupported/i.test(evidence));
  return { verdict: missing ? "absent" : "fail", evidence };
}
const said = (call: { name?: string; arguments?: string } | undefined) => short(`${call?.name}(${call?.arguments})`);
function isObject(text: string | undefined): boolean {
  try {
    const value: unknown = JSON.parse(text ?? "");
    return typeof value === "object" && value !== null && !Array.isArray(value);
  } catch {
    return false;
  }
}

const tool = (name: string, description: string) => ({
  type: "function",
  function: { name, description, parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] } },
});
const WEATHER = tool("get_weather", "Weather of a city");
const TIME = tool("get_time", "Local time of a city");

async function models(endpoint: Endpoint): Promise<Outcome> {
  const response = await endpoint.send("/v1/models");
  if (!response.ok) return refused(response);
  const { data, object } = await json(response);
  const ids = data?.map((one) => one.id).filter((id) => typeof id === "string") ?? [];
  return object === "list" && ids.length > 0 ? pass(ids.join(", ")) : fail(`object ${object}, ${ids.length} models`);
}

async function plain(endpoint: Endpoint): Promise<Outcome> {
  const response = await endpoint.chat({ messages: ask("What is 3 plus 4?") });
  if (!response.ok) return refused(response);
  const { object, choices, usage } = await json(response);
  const choice = choices?.[0];
  if (object !== "chat.completion" || typeof choice?.message?.content !== "string") return fail(t.noText);
  if (!choice.finish_reason) return fail(t.noFinish);
  const { prompt_tokens: read, completion_tokens: written, total_tokens: sum } = usage ?? {};
  if (!read || !written || sum !== read + written) return fail(t.badUsage);
  return pass(t.counted(read, written));
}

async function streamed(endpoint: Endpoint): Promise<Outcome> {
  const response = await endpoint.chat({ messages: ask("What is 3 plus 4?"), stream: true, stream_options: { include_usage: true } });
  if (!response.ok || !response.body) return refused(response);
  if (!response.headers.get("content-type")?.startsWith("text/event-stream")) return fail(t.noEvents);
  let [role, finish, usage, done, pieces] = [false, false, false, false, 0];
  for await (const { data } of serverEvents(response.body)) {
    if (data === "[DONE]") {
      done = true;
      break;
    }
    const chunk = JSON.parse(data) as Answer;
    role ||= chunk.choices?.[0]?.delta?.role === "assistant";
    finish ||= !!chunk.choices?.[0]?.finish_reason;
    usage ||= !!chunk.usage?.completion_tokens;
    if (chunk.choices?.[0]?.delta?.content) pieces++;
  }
  const missing = [!role && "role", !finish && "finish_reason", !usage && "usage", !done && "[DONE]"].filter(Boolean);
  return missing.length === 0 ? pass(t.pieces(pieces)) : fail(t.missing(missing.join(", ")));
}

async function oneTool(endpoint: Endpoint): Promise<Outcome> {
  const response = await endpoint.chat({ messages: ask("What is the weather in Oslo? Use the tool."), tools: [WEATHER] });
  if (!response.ok) return refused(response);
  const choice = (await json(response)).choices?.[0];
  const call = choice?.message?.tool_calls?.[0];
  if (!call) return { verdict: "open", evidence: t.inWords };
  // A tool it made up, or a call that the limit of this test cut off, says nothing about the endpoint.
  if (choice?.finish_reason === "length" || (call.function?.name && call.function.name !== WEATHER.function.name)) {
    return { verdict: "open", evidence: said(call.function) };
  }
  if (!call.id || call.type !== "function" || !call.function?.name || !isObject(call.function.arguments)) return fail(short(JSON.stringify(call)));
  if (choice?.finish_reason !== "tool_calls") return fail(`finish_reason ${choice?.finish_reason}`);
  return pass(said(call.function));
}

async function twoToolsStreamed(endpoint: Endpoint): Promise<Outcome> {
  const messages = ask("What is the weather in Oslo, and what time is it there? Use both tools.");
  const response = await endpoint.chat({ messages, tools: [WEATHER, TIME], stream: true, max_tokens: 128 });
  if (!response.ok || !response.body) return refused(response);
  const calls: { id: string; name: string; arguments: string }[] = [];
  let finish: string | null = null;
  for await (const { data } of serverEvents(response.body)) {
    if (data === "[DONE]") break;
    const choice = (JSON.parse(data) as Answer).choices?.[0];
    finish = choice?.finish_reason ?? finish;
    for (const piece of choice?.delta?.tool_calls ?? []) {
      if (typeof piece.index !== "number") return fail(t.missing("index"));
      const call = (calls[piece.index] ??= { id: "", name: "", arguments: "" });
      call.id ||= piece.id ?? "";
      call.name += piece.function?.name ?? "";
      call.arguments += piece.function?.arguments ?? "";
    }
  }
  if (calls.length === 0) return { verdict: "open", evidence: t.inWords };
  const whole = calls.every((call) => call?.id && call.name && isObject(call.arguments));
  const evidence = short(calls.map(said).join(", "));
  if (finish === "length") return { verdict: "open", evidence };
  if (!whole || new Set(calls.map((call) => call.id)).size !== calls.length) return fail(evidence);
  return calls.length === 2 ? pass(evidence) : { verdict: "open", evidence };
}

async function schema(endpoint: Endpoint): Promise<Outcome> {
  const wanted = { type: "object", properties: { city: { type: "string" }, days: { type: "integer" } }, required: ["city", "days"], additionalProperties: false };
  const response = await endpoint.chat({
    messages: ask("Oslo, three days. As JSON."),
    response_format: { type: "json_schema", json_schema: { name: "trip", strict: true, schema: wanted } },
  });
  if (!response.ok) return refused(response);
  const text = (await json(response)).choices?.[0]?.message?.content ?? "";
  if (!isObject(text)) return fail(short(text));
  const value = JSON.parse(text) as Record<string, unknown>;
  const fits = typeof value["city"] === "string" && Number.isInteger(value["days"]) && Object.keys(value).length === 2;
  return fits ? pass(short(text)) : fail(short(text));
}

async function overLength(endpoint: Endpoint): Promise<Outcome> {
  // Longer than any context; refused before it is read.
  const response = await endpoint.chat({ messages: ask("word ".repeat(2_500_000)) });
  if (response.ok) return fail(t.cutSilently);
  const { error } = await json(response).catch((): Answer => ({}));
  if (response.status === 413) return pass(short(`HTTP 413: ${error?.message ?? ""}`));
  const named = response.status === 400 && /\d/.test(error?.message ?? "");
  return named ? pass(short(error?.message ?? "")) : fail(short(`HTTP ${response.status}: ${error?.message ?? ""}`));
}

async function badInput(endpoint: Endpoint): Promise<Outcome> {
  const broken = await endpoint.send("/v1/chat/completions", "{ not json");
  const unknown = await endpoint.send("/v1/chat/completions", { model: "no-such-model", messages: ask("Hi") });
  const [first, second] = [await json(broken).catch((): Answer => ({})), await json(unknown).catch((): Answer => ({}))];
  if (broken.status !== 400 || !first.error?.message) return fail(`HTTP ${broken.status}`);
  if (unknown.status !== 404 || !second.error?.message) return fail(`HTTP ${unknown.status}`);
  return pass(short(second.error.message));
}

async function completions(endpoint: Endpoint): Promise<Outcome> {
  const response = await endpoint.send("/v1/completions", { model: endpoint.model, prompt: "Once upon a time", max_tokens: 8, temperature: 0 });
  if (!response.ok) return refused(response);
  const { object, choices } = await json(response);
  const text = choices?.[0]?.text;
  return object === "text_completion" && typeof text === "string" ? pass(short(text.trim())) : fail(`object ${object}`);
}

async function messages(endpoint: Endpoint): Promise<Outcome> {
  const response = await endpoint.send("/v1/messages", { model: endpoint.model, max_tokens: 32, messages: ask("What is 3 plus 4?") });
  if (!response.ok) return refused(response);
  const body = (await response.json()) as { type?: string; content?: { type?: string }[]; stop_reason?: string };
  return body.type === "message" && body.content?.[0]?.type && body.stop_reason ? pass(body.stop_reason) : fail(short(JSON.stringify(body)));
}

async function responses(endpoint: Endpoint): Promise<Outcome> {
  const response = await endpoint.send("/v1/responses", { model: endpoint.model, max_output_tokens: 32, input: "What is 3 plus 4?", store: false });
  if (!response.ok) return refused(response);
  const body = (await response.json()) as { object?: string; status?: string; output?: unknown[] };
  return body.object === "response" && (body.output?.length ?? 0) > 0 ? pass(body.status ?? "") : fail(short(JSON.stringify(body)));
}

/** In the order of what most clients need. */
export const CHECKS: Check[] = [
  { id: "models", run: models },
  { id: "plain", run: plain },
  { id: "stream", run: streamed },
  { id: "tool", run: oneTool },
  { id: "tools", run: twoToolsStreamed },
  { id: "schema", run: schema },
  { id: "long", run: overLength },
  { id: "bad", run: badInput },
  { id: "completions", run: completions },
  { id: "messages", run: messages },
  { id: "responses", run: responses },
];

/** Runs one check; whatever goes wrong in it is its verdict. */
export async function check({ run }: Check, endpoint: Endpoint): Promise<Outcome> {
  try {
    return await run(endpoint);
  } catch (error) {
    if ((error as Error).name === "AbortError") throw error;
    return fail(short((error as Error).message));
  }
}
