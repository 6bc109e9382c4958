// What a person types into each client to use this endpoint: address, model and key filled in. Called by the page Connect and by
// the dialog "Use it from…". Names of programs, variables and settings are the programs' own and are not translated.
import { strings } from "../strings";

export interface Part {
  /** Where it goes: a file, a terminal, a field; empty where that is plain. */
  where: string;
  text: string;
}

export interface Client {
  id: string;
  name: string;
  parts: Part[];
}

/** Single quotes for a shell, whatever is inside. */
export function shell(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}
const quoted = (text: string) => `'${text.replaceAll("'", `'\\''`)}'`;

/** `url` ends in /v1; `key` is null where the endpoint checks none, and clients that insist get a word. */
export function clients(url: string, model: string, key: string | null): Client[] {
  const t = strings.connect;
  const word = key ?? "none";
  const root = url.replace(/\/v1$/, "");
  const prompt = strings.use.prompt;
  const body = JSON.stringify({ model, messages: [{ role: "user", content: prompt }] });
  const header = key === null ? "" : ` \\\n  -H ${quoted(`authorization: Bearer ${key}`)}`;
  const curl = `curl ${url}/chat/completions \\\n  -H 'content-type: application/json'${header} \\\n  -d ${quoted(body)}`;
  const python = [
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${JSON.stringify(url)}, api_key=${JSON.stringify(word)})`,
    "answer = client.chat.completions.create(",
    `    model=${JSON.stringify(model)},`,
    `    messages=[{"role": "user", "content": ${JSON.stringify(prompt)}}],`,
    ")",
    "print(answer.choices[0].message.content)",
  ];
  const javascript = [
    'import OpenAI from "openai";',
    "",
    `const client = new OpenAI({ baseURL: ${JSON.stringify(url)}, apiKey: ${JSON.stringify(word)} });`,
    "const answer = await client.chat.completions.create({",
    `  model: ${JSON.stringify(model)},`,
    `  messages: [{ role: "user", content: ${JSON.stringify(prompt)} }],`,
    "});",
    "console.log(answer.choices[0].message.content);",
  ];
  const claude = [
    `export ANTHROPIC_BASE_URL=${shell(root)}`,
    `export ANTHROPIC_AUTH_TOKEN=${shell(word)}`,
    `export ANTHROPIC_MODEL=${shell(model)}`,
    `export ANTHROPIC_DEFAULT_HAIKU_MODEL=${shell(model)}`,
    "export CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1",
    "claude",
  ];
  const codex = [
    `model = ${JSON.stringify(model)}`,
    'model_provider = "hearth"',
    "",
    "[model_providers.hearth]",
    'name = "Hearth"',
    `base_url = ${JSON.stringify(url)}`,
    'wire_api = "responses"',
    ...(key === null ? [] : ['env_key = "HEARTH_API_KEY"']),
  ];
  const webui = [
    "docker run -d --name open-webui --network host \\",
    "  -v open-webui:/app/backend/data -e PORT=8080 \\",
    `  -e OPENAI_API_BASE_URL=${shell(url)} -e OPENAI_API_KEY=${shell(word)} \\`,
    "  ghcr.io/open-webui/open-webui:main",
  ];
  const cline = [`API Provider   OpenAI Compatible`, `Base URL       ${url}`, `API Key        ${word}`, `Model ID       ${model}`];
  const one = (id: string, name: string, where: string, lines: string[]): Client => ({
    id, name, parts: [{ where, text: lines.join("\n") }],
  });
  const codexClient = one("codex", "Codex", "~/.codex/config.toml", codex);
  if (key !== null) codexClient.parts.push({ where: t.terminal, text: `export HEARTH_API_KEY=${shell(key)}\ncodex` });
  return [
    one("curl", strings.use.curl, t.terminal, [curl]),
    one("python", strings.use.python, "pip install openai", python),
    one("javascript", "JavaScript", "npm install openai", javascript),
    one("claude-code", "Claude Code", t.terminal, claude),
    codexClient,
    one("open-webui", "Open WebUI", t.openWebUi, webui),
    one("cline", "Cline", t.cline, cline),
  ];
}

/** How clients name a model: a folder by its last part, everything else as it is. */
export function clientName(model: string): string {
  const path = model.replace(/\/+$/, "");
  return path.startsWith("/") ? (path.split("/").pop() ?? model) : path;
}
