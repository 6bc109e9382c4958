import { afterEach, expect, test, vi } from "vitest";
import { check, CHECKS, Endpoint, type Outcome } from "./conformance";

const endpoint = new Endpoint("m", null, new AbortController().signal);
const reply = (body: unknown, status = 200) => new Response(JSON.stringify(body), { status, headers: { "content-type": "application/json" } });
const events = (...chunks: unknown[]) =>
  new Response([...chunks.map((chunk) => `data: ${JSON.stringify(chunk)}\n\n`), "data: [DONE]\n\n"].join(""), { headers: { "content-type": "text/event-stream" } });
function run(id: string, ...replies: Response[]): Promise<Outcome> {
  vi.stubGlobal("fetch", async () => replies.shift());
  const found = CHECKS.find((one) => one.id === id);
  if (!found) throw new Error(id);
  return check(found, endpoint);
}
const verdict = async (id: string, ...replies: Response[]) => (await run(id, ...replies)).verdict;
afterEach(() => vi.unstubAllGlobals());

const message = (fields: object, finish = "stop") => ({ object: "chat.completion", choices: [{ message: fields, finish_reason: finish }], usage: { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 } });
const call = (fields: object = {}) => ({ id: "c1", type: "function", function: { name: "get_weather", arguments: '{"city":"Oslo"}' }, ...fields });

test("a good answer passes, and one without text, finish or right sums fails", async () => {
  expect(await verdict("plain", reply(message({ content: "7" })))).toBe("pass");
  expect(await verdict("plain", reply(message({ content: null })))).toBe("fail");
  expect(await verdict("plain", reply({ ...message({ content: "7" }), usage: { prompt_tokens: 3, completion_tokens: 2, total_tokens: 6 } }))).toBe("fail");
});
test("a stream needs role, finish, usage and its end", async () => {
  const role = { choices: [{ delta: { role: "assistant", content: "7" } }] };
  const end = { choices: [{ delta: {}, finish_reason: "stop" }] };
  const usage = { choices: [], usage: { completion_tokens: 1 } };
  expect(await verdict("stream", events(role, end, usage))).toBe("pass");
  expect((await run("stream", events(role, end))).evidence).toContain("usage");
});
test("a call is judged when there is one; an answer in words leaves it open", async () => {
  expect(await verdict("tool", reply(message({ content: null, tool_calls: [call()] }, "tool_calls")))).toBe("pass");
  expect(await verdict("tool", reply(message({ tool_calls: [call()] }, "stop")))).toBe("fail");
  expect(await verdict("tool", reply(message({ tool_calls: [call({ function: { name: "get_weather", arguments: "{" } })] }, "tool_calls")))).toBe("fail");
  expect(await verdict("tool", reply(message({ tool_calls: [call({ function: { name: "made_up", arguments: "{}" } })] }, "tool_calls")))).toBe("open");
  expect(await verdict("tool", reply(message({ tool_calls: [call({ function: { name: "get_weather", arguments: "{" } })] }, "length")))).toBe("open");
  expect(await verdict("tool", reply(message({ content: "It rains." })))).toBe("open");
});
test("streamed calls are put together by index and need ids of their own", async () => {
  const piece = (index: number, fields: object) => ({ choices: [{ delta: { tool_calls: [{ index, ...fields }] } }] });
  const start = (index: number, id: string) => piece(index, { id, function: { name: "f", arguments: "{" } });
  const rest = (index: number) => piece(index, { function: { arguments: "}" } });
  expect(await verdict("tools", events(start(0, "a"), start(1, "b"), rest(1), rest(0)))).toBe("pass");
  expect(await verdict("tools", events(start(0, "a"), start(1, "a"), rest(1), rest(0)))).toBe("fail");
  expect(await verdict("tools", events(start(0, "a"), rest(0)))).toBe("open");
  expect(await verdict("tools", events(start(0, "a")))).toBe("fail");
});
test("what this version does not have is absent, not broken", async () => {
  expect(await verdict("messages", reply({ error: { message: "Unknown path." } }, 404))).toBe("absent");
  expect(await verdict("schema", reply({ error: { message: "'response_format' is not supported yet." } }, 400))).toBe("absent");
  expect(await verdict("schema", reply({ error: { message: "It broke." } }, 500))).toBe("fail");
});
test("a prompt over the context must be refused with numbers, never cut", async () => {
  expect(await verdict("long", reply({ error: { message: "At most 4096 tokens, these are 9000." } }, 400))).toBe("pass");
  expect(await verdict("long", reply(message({ content: "ok" })))).toBe("fail");
});
test("an answer that is no JSON at all is a fail with a sentence, not an exception", async () => {
  const outcome = await run("plain", new Response("<html>", { status: 200 }));
  expect(outcome.verdict).toBe("fail");
  expect(outcome.evidence).not.toBe("");
});
