import { expect, test } from "vitest";
import { fileName, toMarkdown } from "./export";
import { NO_FIGURES } from "./turn";
import type { Chat } from "../types/Chat";
import type { ChatMessage } from "../types/ChatMessage";

const message = (id: string, parent: string | null, role: ChatMessage["role"], content: string): ChatMessage => ({
  id, parent, role, content, reasoning: "", tool_calls: [], end: "done", fault: null, model: role === "user" ? null : "ember",
  figures: NO_FIGURES, at_ms: 0,
});
const chat = (messages: ChatMessage[], head: string): Chat => ({
  id: "x", title: "Über: a/b?", model: "ember", system: "Be brief.", messages, head, created_ms: 0, updated_ms: 0,
  sampling: { temperature: null, top_p: null, top_k: null, min_p: null, max_tokens: null, seed: null, thinking: null },
});

test("Markdown has the shown branch only, with the system prompt and folded thoughts", () => {
  const all = [message("q", null, "user", "Hello"), message("a1", "q", "assistant", "Old"), message("a2", "q", "assistant", "<think>hm</think>New")];
  const text = toMarkdown(chat(all, "a2"));
  expect(text).toContain("# Über: a/b?\n");
  expect(text).toContain("Be brief.");
  expect(text).toContain("New");
  expect(text).toMatch(/<details>.*hm.*<\/details>/s);
  expect(text).not.toContain("Old");
});
test("a fence in the arguments of a tool cannot end the fence around them", () => {
  const call = message("a", "q", "assistant", "");
  call.tool_calls = [{ id: "1", name: "run", arguments: '{"code": "```"}' }];
  expect(toMarkdown(chat([message("q", null, "user", "Go"), call], "a"))).toContain('````json\n{"code": "```"}\n````');
});
test("a title becomes a file name without anything a file system minds", () => {
  expect(fileName(chat([], ""), "md")).toMatch(/^U?[^/?:]*ber-a-b\.md$/);
  expect(fileName({ ...chat([], ""), title: "???" }, "json")).toBe("chat.json");
});
