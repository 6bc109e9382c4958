import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { requests, snapshot, type Scene } from "../../../dev/scenes.ts";
import { ControlError, type Control } from "../control";
import { strings } from "../strings";
import type { RequestRecord } from "../types/RequestRecord";
import { Live } from "./live.svelte";

const listeners = new Map<string, () => void>();
const page = {
  visibilityState: "visible",
  addEventListener: (name: string, call: () => void) => void listeners.set(name, call),
  removeEventListener: (name: string) => void listeners.delete(name),
};
/** One connection of the fake appliance. */
interface Line {
  say: (event: string, data: unknown) => void;
  end: () => void;
}
let lines: Line[] = [];
let refusal: ControlError | null = null;
let live: Live;

const control = {
  requests: async () => requests("idle"),
  events: async (signal: AbortSignal) => {
    if (refusal) throw refusal;
    return new ReadableStream<Uint8Array>({
      start(stream) {
        const send = (text: string) => stream.enqueue(new TextEncoder().encode(text));
        lines.push({ say: (event, data) => send(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`), end: () => stream.close() });
        signal.addEventListener("abort", () => {
          try {
            stream.error(new DOMException("aborted", "AbortError"));
          } catch {
            // Already ended.
          }
        });
      },
    });
  },
} as unknown as Control;
const state = (scene: Scene, time_ms = Date.now()) => ({ ...snapshot(scene), time_ms });
const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms);

beforeEach(async () => {
  vi.useFakeTimers();
  vi.stubGlobal("document", page);
  page.visibilityState = "visible";
  [lines, refusal] = [[], null];
  live = new Live(control);
  live.start();
  await pass(1);
});
afterEach(() => {
  live.close();
  vi.unstubAllGlobals();
  vi.useRealTimers();
});

test("the first word opens the connection and shows the state", async () => {
  expect(live.connection).toBe("connecting");
  lines[0]?.say("state", state("idle"));
  await pass(1);
  expect(live.connection).toBe("open");
  expect(live.snapshot?.state.kind).toBe("serving");
  expect(live.requests).toHaveLength(requests("idle").length);
});
test("numbers are drawn at most four times a second, a change of state at once", async () => {
  let drawn = 0;
  let last: unknown = null;
  for (let i = 0; i < 100; i++) {
    lines[0]?.say("state", state("busy"));
    await pass(10);
    if (live.snapshot !== last) [last, drawn] = [live.snapshot, drawn + 1];
  }
  expect(drawn).toBeGreaterThan(2);
  expect(drawn).toBeLessThanOrEqual(5);
  lines[0]?.say("state", state("stopped"));
  await pass(1);
  expect(live.snapshot?.state.kind).toBe("stopped");
});
test("what is read rather than watched is drawn once a second while requests run, and with the same picture", async () => {
  let drawn = 0;
  let last: unknown = null;
  for (let i = 0; i < 400; i++) {
    lines[0]?.say("state", state("busy"));
    await pass(10);
    if (live.steady === last) continue;
    [last, drawn] = [live.steady, drawn + 1];
    expect(live.steady).toBe(live.snapshot);
  }
  expect(drawn).toBeGreaterThanOrEqual(4);
  expect(drawn).toBeLessThanOrEqual(6);
  lines[0]?.say("state", state("stopped"));
  await pass(1);
  expect(live.steady?.state.kind).toBe("stopped");
});
test("the last word is drawn everywhere, though none follows it", async () => {
  lines[0]?.say("state", state("busy"));
  await pass(300);
  lines[0]?.say("state", state("idle"));
  await pass(1);
  expect(live.snapshot?.active).toHaveLength(0);
  await pass(1000);
  expect(live.steady).toBe(live.snapshot);
});
test("what was asked for is shown with the next picture, within a second", async () => {
  lines[0]?.say("state", state("busy"));
  await pass(1);
  let shown = false;
  void live.together().then(() => (shown = true));
  await pass(500);
  expect(shown).toBe(false);
  await pass(500);
  expect(shown).toBe(true);
});
test("a clock that is set back stops nothing", async () => {
  lines[0]?.say("state", state("busy"));
  await pass(1);
  vi.setSystemTime(Date.now() - 3_600_000);
  lines[0]?.say("state", state("idle"));
  await pass(1001);
  expect(live.snapshot?.active).toHaveLength(0);
  expect(live.steady).toBe(live.snapshot);
});
test("a hidden window draws nothing and catches up when it is shown", async () => {
  lines[0]?.say("state", state("idle"));
  await pass(1);
  page.visibilityState = "hidden";
  lines[0]?.say("state", state("stopped"));
  await pass(2000);
  expect(live.snapshot?.state.kind).toBe("serving");
  page.visibilityState = "visible";
  listeners.get("visibilitychange")?.();
  expect(live.snapshot?.state.kind).toBe("stopped");
});
test("an ended stream is lost, and found again by itself", async () => {
  lines[0]?.say("state", state("idle"));
  await pass(1);
  lines[0]?.end();
  await pass(1);
  expect(live.connection).toBe("lost");
  expect(live.snapshot).not.toBeNull();
  await pass(400);
  lines[1]?.say("state", state("idle"));
  await pass(1);
  expect(live.connection).toBe("open");
});
test("silence counts as lost", async () => {
  lines[0]?.say("state", state("idle"));
  await pass(1);
  // An idle machine speaks every three seconds; one word may be late.
  await pass(6100);
  expect(live.connection).toBe("open");
  await pass(1000);
  expect(live.connection).toBe("lost");
});
test("a refused token ends it", async () => {
  refusal = new ControlError(401, strings.faults.noAnswer);
  lines[0]?.end();
  await pass(1000);
  expect(live.refused).toBe(true);
  await pass(20000);
  expect(lines).toHaveLength(1);
});
test("an answer older than what is shown changes nothing, but the stream is believed even when the clock went back", async () => {
  lines[0]?.say("state", state("idle", 2000));
  await pass(1);
  live.take(state("stopped", 1000));
  expect(live.snapshot?.state.kind).toBe("serving");
  lines[0]?.say("state", state("stopped", 1000));
  await pass(1);
  expect(live.snapshot?.state.kind).toBe("stopped");
});
test("a finished request comes on top, once, and the list keeps to its length", async () => {
  lines[0]?.say("state", state("idle"));
  await pass(1);
  const record = { ...requests("idle")[0], row: 100 } as RequestRecord;
  for (let i = 0; i < 2; i++) lines[0]?.say("request", record);
  await pass(1000);
  expect(live.requests.map((r) => r.row).slice(0, 2)).toEqual([100, 9]);
  for (let row = 101; row < 200; row++) lines[0]?.say("request", { ...record, row });
  await pass(1000);
  expect(live.requests).toHaveLength(50);
});
