// A conversation as a file: Markdown of the shown branch for people, JSON of everything for programs. Called by the export dialog.
import { splitReasoning } from "./reasoning";
import { branch } from "./tree";
import { strings } from "../strings";
import type { Chat } from "../types/Chat";

/** A fence longer than any in the text, so that the text cannot end it. */
function fenced(text: string, language: string): string {
  const longest = Math.max(2, ...[...text.matchAll(/`+/g)].map(([ticks]) => ticks.length));
  const fence = "`".repeat(longest + 1);
  return `${fence}${language}\n${text}\n${fence}`;
}

export function toMarkdown(chat: Chat): string {
  const t = strings.chat;
  const parts = [`# ${chat.title}`];
  if (chat.system) parts.push(`## ${t.system}`, chat.system);
  for (const message of branch(chat.messages, chat.head)) {
    if (message.role === "user") {
      parts.push(`## ${t.you}`, message.content);
      continue;
    }
    const { reasoning, answer } = splitReasoning(message.content, message.reasoning);
    parts.push(`## ${message.model ?? t.model}`);
    if (reasoning) parts.push(`<details><summary>${t.thought}</summary>\n\n${fenced(reasoning, "text")}\n\n</details>`);
    if (answer) parts.push(answer);
    for (const call of message.tool_calls) parts.push(`${t.calls(call.name)}`, fenced(call.arguments, "json"));
    if (message.fault) parts.push(`> ${message.fault.message}`);
  }
  return `${parts.join("\n\n")}\n`;
}

export function toJson(chat: Chat): string {
  return `${JSON.stringify(chat, null, 2)}\n`;
}

/** The title as a file name any system takes. */
export function fileName(chat: Chat, extension: string): string {
  const plain = chat.title.normalize("NFKD").replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "").slice(0, 60);
  return `${plain || "chat"}.${extension}`;
}

export function download(name: string, text: string, type: string): void {
  const address = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
