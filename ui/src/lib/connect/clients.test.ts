import { expect, test } from "vitest";
import { clientName, clients } from "./clients";

const url = "http://127.0.0.1:8123/v1";
const text = (id: string, model = "org/model", key: string | null = null) =>
  clients(url, model, key).find((client) => client.id === id)?.parts.map((part) => part.text).join("\n") ?? "";

test("every client gets the real address, model and key", () => {
  const all = clients(url, "org/model", "sk-key");
  expect(all.map((client) => client.id)).toEqual(["curl", "python", "javascript", "claude-code", "codex", "open-webui", "cline"]);
  for (const { id, parts } of all) {
    const said = parts.map((part) => part.text).join("\n");
    expect(said, id).toContain("127.0.0.1:8123");
    if (id !== "open-webui") expect(said, id).toContain("org/model");
    expect(said, id).toContain("sk-key");
  }
});
test("Claude Code is given the root, everyone else the address with /v1", () => {
  expect(text("claude-code")).toContain("ANTHROPIC_BASE_URL=http://127.0.0.1:8123\n");
  expect(text("codex")).toContain('base_url = "http://127.0.0.1:8123/v1"');
});
test("without a key no header is sent and no variable is asked for", () => {
  expect(text("curl")).not.toContain("authorization");
  expect(text("codex")).not.toContain("env_key");
  expect(text("python")).toContain('api_key="none"');
});
test("quotes in a model's name stay inside the quotes of shell, Python and JavaScript", () => {
  const model = `it's "odd" $(x)`;
  expect(text("curl", model)).toContain(`it'\\''s`);
  expect(text("claude-code", model)).toContain(`export ANTHROPIC_MODEL='it'\\''s "odd" $(x)'`);
  expect(text("python", model)).toContain(`model="it's \\"odd\\" $(x)"`);
});
test("a folder is served by its last part", () => {
  expect(clientName("/models/my-model/")).toBe("my-model");
  expect(clientName("org/model")).toBe("org/model");
});
