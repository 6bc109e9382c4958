import { afterEach, expect, test, vi } from "vitest";
import { bodyOf, CompletionError, complete, faultOf } from "./completion";

function answer(text: string, status = 200, contentType = "text/event-stream") {
  vi.stubGlobal("fetch", async () => new Response(text, { status, headers: { "content-type": contentType } }));
}
async function run() {
  let content = "";
  let reasoning = "";
  const ended = await complete({ model: "ember", messages: [] }, "chat-1", new AbortController().signal, (delta) => {
    content += delta.content;
    reasoning += delta.reasoning;
  });
  return { content, reasoning, ended };
}
const failure = async () => (await run().catch((error: unknown) => error)) as CompletionError;
const chunk = (delta: object, finish: string | null = null) =>
  `data: ${JSON.stringify({ choices: [{ delta, finish_reason: finish }] })}\n\n`;
afterEach(() => vi.unstubAllGlobals());

test("pieces add up to the answer, and usage counts its tokens", async () => {
  answer(chunk({ role: "assistant", content: "" }) + chunk({ content: "It is " }) + chunk({ content: "7." }) + chunk({}, "stop") +
    'data: {"choices":[],"usage":{"completion_tokens":4}}\n\ndata: [DONE]\n\n');
  expect(await run()).toEqual({ content: "It is 7.", reasoning: "", ended: { finish: "stop", outputTokens: 4, promptTokens: null, acceptance: null } });
});
test("thinking in its own field is kept apart", async () => {
  answer(chunk({ reasoning_content: "3 + 4" }) + chunk({ content: "7" }) + chunk({}, "stop") + "data: [DONE]\n\n");
  expect(await run()).toMatchObject({ content: "7", reasoning: "3 + 4" });
});
test("a refusal carries the server's sentence and a next step that fits", async () => {
  answer(JSON.stringify({ error: { message: "maximum context length is 4096 tokens", code: "context_length_exceeded" } }), 400, "application/json");
  const { fault } = await failure();
  expect(fault.message).toContain("4096");
  expect(fault.next_step).toMatch(/larger context/);
});
test("an error event in the middle of a stream is an error, not an end", async () => {
  answer(chunk({ content: "It" }) + 'data: {"error":{"message":"The engine stopped.","type":"server_error"}}\n\n');
  expect((await failure()).fault.message).toBe("The engine stopped.");
});
test("an error event by name is an error too", async () => {
  answer('event: error\ndata: {"message":"The engine stopped."}\n\n');
  expect((await failure()).fault.message).toBe("The engine stopped.");
});
test("a stream that ends without a finish reason was cut", async () => {
  answer(chunk({ content: "It is" }));
  expect((await failure()).fault.code).toBe("stream_cut");
});
test("an answer that is not JSON still becomes a sentence", async () => {
  answer("<html>Bad gateway</html>", 502, "text/html");
  expect((await failure()).fault.message).toContain("502");
});
test("a sentence that already ends with its next step gets no second one", () => {
  const fault = faultOf({ message: "No model is running. Press Start in the Hearth window.", code: "engine_stopped" }, null);
  expect(fault.next_step).toBe("");
});
test("an unknown code has a next step all the same", () => {
  expect(faultOf({ message: "x", code: "new_code" }, null).next_step).not.toBe("");
});

test("a call of a tool comes in pieces and is whole at the end", async () => {
  const piece = (index: number, call: object) => chunk({ tool_calls: [{ index, ...call }] });
  answer(piece(0, { id: "c1", function: { name: "add", arguments: "" } }) + piece(0, { function: { arguments: '{"a":' } }) +
    piece(1, { id: "c2", function: { name: "mul", arguments: "{}" } }) + piece(0, { function: { arguments: "1}" } }) + chunk({}, "tool_calls") + "data: [DONE]\n\n");
  let calls: unknown = null;
  const ended = await complete({ model: "ember", messages: [] }, "chat-1", new AbortController().signal, (delta) => (calls = delta.toolCalls ?? calls));
  expect(calls).toEqual([{ id: "c1", name: "add", arguments: '{"a":1}' }, { id: "c2", name: "mul", arguments: "{}" }]);
  expect(ended.finish).toBe("tool_calls");
});
test("the share of accepted drafts is told where the engine drafts, and unknown where it does not", async () => {
  const usage = (details: object) => chunk({ content: "7" }) + chunk({}, "stop") + `data: {"choices":[],"usage":${JSON.stringify({ completion_tokens: 9, ...details })}}\n\ndata: [DONE]\n\n`;
  answer(usage({ completion_tokens_details: { accepted_prediction_tokens: 6, rejected_prediction_tokens: 2 } }));
  expect((await run()).ended.acceptance).toBe(0.75);
  answer(usage({ completion_tokens_details: { accepted_prediction_tokens: 0, rejected_prediction_tokens: 0 } }));
  expect((await run()).ended.acceptance).toBeNull();
});
test("only what differs from the model's defaults is asked for", () => {
  const none = { temperature: null, top_p: null, top_k: null, min_p: null, max_tokens: null, seed: null, thinking: null };
  expect(Object.keys(bodyOf({ model: "m", messages: [], sampling: none, tools: [] }))).toEqual(["model", "messages", "stream", "stream_options"]);
  const body = bodyOf({ model: "m", messages: [], sampling: { ...none, temperature: 0, thinking: false }, tools: [{}] });
  expect(body).toMatchObject({ temperature: 0, chat_template_kwargs: { enable_thinking: false }, tools: [{}] });
});
