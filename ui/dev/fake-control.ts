// A control server with invented numbers, as a Vite plugin: `npm run fake`, then open /#token=scene-busy (see scenes.ts).
// It sends the Content-Security-Policy of the real appliance, so that a violation shows here first.
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Plugin } from "vite";
import * as bench from "./bench-scenes.ts";
import * as models from "./model-scenes.ts";
import * as scenes from "./scenes.ts";

// As src-tauri/crates/appliance/src/pages.rs sends it, less `unsafe-inline` for styles: the UI does without.
const CSP =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; " +
  "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const ANSWER = `<think>The person asks what Hearth is. I answer briefly and show how to call it.</think>Hearth keeps a model on **this machine** and gives it an address that any OpenAI client can use:

1. Press *Start*.
2. Point your client at \`http://127.0.0.1:8000/v1\`.

\`\`\`python
from openai import OpenAI
client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="hearth")
print(client.models.list())
\`\`\`

| part | what it is |
|---|---|
| engine | computes |
| appliance | keeps it alive |

![pixel](https://example.com/pixel.png) <b>no markup</b> [a link](https://example.com)`;

export function fakeControl(): Plugin {
  const install = (server: { middlewares: { use: (handler: Handler) => unknown } }) => void server.middlewares.use(handle);
  return { name: "fake-control", configureServer: install, configurePreviewServer: install };
}

type Handler = (request: IncomingMessage, response: ServerResponse, next: () => void) => void;

const handle: Handler = (request, response, next) => {
  const url = new URL(request.url ?? "/", "http://localhost");
  if (url.pathname.startsWith("/v1/")) return void openai(request, response, url);
  if (!url.pathname.startsWith("/api/")) {
    response.setHeader("content-security-policy", CSP);
    return next();
  }
  const scene = scenes.SCENES.find((name) => request.headers.authorization === `Bearer scene-${name}`);
  const json = (value: unknown, status = 200) => {
    response.writeHead(status, { "content-type": "application/json" });
    response.end(JSON.stringify(value));
  };
  if (!scene) {
    return json({ error: { code: "unauthorized", message: "The token is not right.", next_step: "Open the address that hearth up prints.", evidence: null } }, 401);
  }
  // Chats are kept nowhere here; the list is always empty.
  if (url.pathname.startsWith("/api/chats/")) return void response.writeHead(204).end();
  switch (url.pathname) {
    case "/api/chats": return json([]);
    case "/api/events": return events(response, scene);
    case "/api/state":
    case "/api/engine/start":
    case "/api/engine/stop": return json(scenes.snapshot(scene), request.method === "POST" ? 202 : 200);
    case "/api/history": return json(scenes.history(scene, Number(url.searchParams.get("seconds"))));
    case "/api/usage": return json(scenes.usage(scene, Number(url.searchParams.get("hours"))));
    case "/api/requests": return json(scenes.requests(scene));
    case "/api/models": return json(scenes.models);
    case "/api/catalogue": return json(models.catalogue);
    case "/api/hub": return json(models.hub);
    case "/api/hub/search": return json(models.hits);
    case "/api/downloads": return json(models.downloads);
    case "/api/models/inspect": return void body(request).then((text) => json(models.prospect(JSON.parse(text).model, JSON.parse(text).context)));
    case "/api/models/remove": return json({ model: "org/model", folder: "/home/me/.cache/huggingface/hub/models--org--model", frees: 21.8e9 });
    case "/api/settings": return request.method === "PUT" ? void body(request).then((text) => json(JSON.parse(text))) : json(scenes.settings);
    case "/api/doctor":
    case "/api/doctor/fix": return json(scenes.diagnosis(url.searchParams.get("hub") === "true"));
    case "/api/doctor/report":
      response.writeHead(200, { "content-type": "text/plain" });
      return void response.end("Hearth report.\n\nChecks\n  [ok   ] Swap: There is no swap.\n");
    case "/api/bench": return json(request.method === "POST" ? bench.progress : bench.list(scene === "busy"));
    case "/api/bench/compare": return json(bench.comparison());
    case "/api/measured": return json(request.method === "POST" ? bench.measured : [{ model: models.catalogue.models[0]?.repository ?? "", speed: bench.speed }]);
    case "/api/plan": return json(scene === "busy" ? models.bigPlan : scenes.plan);
    case "/api/log": return json({ lines: ["14:02:10 loading ember", "14:02:11 ready after 0.4 s", "14:07:22 request chat-7 refused: context_length_exceeded"] });
    default:
      if (/^\/api\/bench\/\d+$/.test(url.pathname)) return json(bench.run(Number(url.pathname.split("/").pop())));
      return json({ error: { code: "not_found", message: "No such call.", next_step: "Look at the list of calls.", evidence: null } }, 404);
  }
};

function events(response: ServerResponse, scene: scenes.Scene): void {
  response.writeHead(200, { "content-type": "text/event-stream" });
  const send = () => {
    // The scene `away` speaks for two seconds and is never heard of again.
    if (scene === "away" && Date.now() > awayFrom) return void response.end();
    response.write(`event: downloads\ndata: ${JSON.stringify(models.downloads)}\n\n`);
    if (scene === "busy") response.write(`event: bench\ndata: ${JSON.stringify(bench.progress)}\n\n`);
    response.write(`event: state\ndata: ${JSON.stringify(scenes.snapshot(scene === "away" ? "busy" : scene))}\n\n`);
  };
  if (scene === "away") awayFrom ||= Date.now() + 2000;
  send();
  const timer = setInterval(send, 250);
  response.on("close", () => clearInterval(timer));
}
let awayFrom = 0;

async function body(request: IncomingMessage): Promise<string> {
  let text = "";
  for await (const piece of request) text += String(piece);
  return text;
}

async function openai(request: IncomingMessage, response: ServerResponse, url: URL): Promise<void> {
  if (url.pathname === "/v1/models") {
    response.setHeader("content-type", "application/json");
    return void response.end(JSON.stringify({ object: "list", data: [{ id: "ember", object: "model" }] }));
  }
  const asked = JSON.parse(await body(request)) as { messages?: { content: string }[] };
  const question = asked.messages?.at(-1)?.content ?? "";
  if (/too long/.test(question)) {
    response.writeHead(400, { "content-type": "application/json" });
    const message = "This model's maximum context length is 4096 tokens. However, your messages resulted in 5097 tokens.";
    return void response.end(JSON.stringify({ error: { message, type: "invalid_request_error", code: "context_length_exceeded", param: "messages" } }));
  }
  response.writeHead(200, { "content-type": "text/event-stream" });
  const chunk = (delta: unknown, finish: string | null = null) =>
    response.write(`data: ${JSON.stringify({ object: "chat.completion.chunk", choices: [{ index: 0, delta, finish_reason: finish }] })}\n\n`);
  const pieces = ANSWER.match(/[\s\S]{1,4}/g) ?? [];
  for (const [index, content] of pieces.entries()) {
    if (response.destroyed) return;
    if (/break/.test(question) && index === 40) {
      response.write(`data: ${JSON.stringify({ error: { message: "The engine stopped while it was answering.", type: "server_error", code: "engine_lost" } })}\n\n`);
      return void response.end();
    }
    chunk({ content });
    await new Promise((resolve) => setTimeout(resolve, 15));
  }
  chunk({}, "stop");
  response.write(`data: ${JSON.stringify({ choices: [], usage: { prompt_tokens: 31, completion_tokens: pieces.length, total_tokens: 31 + pieces.length } })}\n\n`);
  response.end("data: [DONE]\n\n");
}
