import { expect, test } from "vitest";
import { serverEvents } from "./sse";

function body(...pieces: (string | Uint8Array)[]): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  return new ReadableStream({
    start(controller) {
      for (const piece of pieces) controller.enqueue(typeof piece === "string" ? encoder.encode(piece) : piece);
      controller.close();
    },
  });
}
async function all(stream: ReadableStream<Uint8Array>) {
  const out = [];
  for await (const event of serverEvents(stream)) out.push(event);
  return out;
}

test("events carry their name and data", async () => {
  expect(await all(body('event: state\ndata: {"a":1}\n\ndata: x\n\n'))).toEqual([
    { event: "state", data: '{"a":1}' },
    { event: "message", data: "x" },
  ]);
});
test("pieces may be cut anywhere, also inside a character and inside CRLF", async () => {
  const bytes = new TextEncoder().encode("data: für\r\ndata: zwei\r\n\r\ndata: drei\r\n\r\n");
  for (let cut = 1; cut < bytes.length; cut++) {
    const events = await all(body(bytes.slice(0, cut), bytes.slice(cut)));
    expect(events.map((e) => e.data)).toEqual(["für\nzwei", "drei"]);
  }
});
test("comments and an unfinished last event are not events", async () => {
  expect(await all(body(": keep-alive\n\ndata: whole\n\ndata: cut"))).toEqual([{ event: "message", data: "whole" }]);
});
test("leaving early cancels the body", async () => {
  let cancelled = false;
  const stream = new ReadableStream<Uint8Array>({
    pull: (c) => c.enqueue(new TextEncoder().encode("data: 1\n\n")),
    cancel: () => void (cancelled = true),
  });
  for await (const _ of serverEvents(stream)) break;
  expect(cancelled).toBe(true);
});
