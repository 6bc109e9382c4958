// A hub on loopback that speaks the protocol of huggingface.co as far as the page Models uses it: listing, resolve with ranges, search.
// It has one model that Hearth can run (the built-in one under another name), one of another family, one that is gated, and one that is
// published as GGUF files.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { fileURLToPath } from "node:url";
import path from "node:path";
import { gguf } from "./gguf.js";

const EMBER = fileURLToPath(new URL("../../../src-tauri/assets/ember/model", import.meta.url));
const NAMES = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];
const COMMIT = "c".repeat(40);

const file = (name, bytes) => {
  const large = /\.(safetensors|gguf)$/.test(name);
  const hash = large ? createHash("sha256").update(bytes) : createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes);
  return { name, bytes, large, blob: hash.digest("hex") };
};

export class FakeHub {
  constructor() {
    const ember = NAMES.map((name) => file(name, readFileSync(path.join(EMBER, name))));
    const other = ember.map((f) => (f.name === "config.json" ? file(f.name, Buffer.from('{"model_type":"bloom"}')) : f));
    this.models = {
      "hearth/Ember-Copy": { files: ember },
      "hearth/Other-Family": { files: other },
      "hearth/Behind-A-Gate": { files: ember, gated: "hf_right" },
      "hearth/Ember-Files": {
        files: [
          file("README.md", Buffer.from("# Ember")),
          file("Ember-BF16.gguf", gguf("BF16")),
          file("Ember-Q8_0.gguf", gguf("Q8_0")),
          file("Strange-Q8_0.gguf", gguf("Q8_0", "llama")),
          file("mmproj-Ember.gguf", Buffer.from("GGUF")),
          file("more/Ember-Q8_0.gguf", Buffer.from("GGUF")),
        ],
      },
    };
    /** Bytes per tenth of a second of large files; null: as fast as can be. */
    this.drip = null;
    /** Status of every answer, while set. */
    this.broken = null;
    this.asked = [];
  }

  start() {
    this.server = createServer((request, response) => void this.answer(request, response));
    return new Promise((resolve) =>
      this.server.listen(0, "127.0.0.1", () => {
        this.url = `http://127.0.0.1:${this.server.address().port}`;
        resolve(this);
      }),
    );
  }

  close() {
    this.server.closeAllConnections();
    return new Promise((resolve) => this.server.close(resolve));
  }

  async answer(request, response) {
    const url = new URL(request.url, this.url);
    this.asked.push(url.pathname);
    const json = (value) => response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(value));
    const refuse = (status, code) => response.writeHead(status, { "x-error-code": code }).end();
    if (this.broken) return refuse(this.broken, "");
    if (url.pathname === "/api/models") return json(this.search(url.searchParams.get("search") ?? "", url.searchParams.get("filter") ?? ""));
    const listing = /^\/api\/models\/([^/]+\/[^/]+)\/revision\//.exec(url.pathname);
    const resolve = /^\/([^/]+\/[^/]+)\/resolve\/[^/]+\/(.+)$/.exec(url.pathname);
    const id = (listing ?? resolve)?.[1];
    const model = id && this.models[id];
    if (!model) return refuse(401, "RepoNotFound");
    if (listing) {
      const siblings = model.files.map((f) => ({
        rfilename: f.name,
        size: f.bytes.length,
        blobId: f.large ? "0".repeat(40) : f.blob,
        ...(f.large ? { lfs: { sha256: f.blob, size: f.bytes.length } } : {}),
      }));
      return json({ id, sha: COMMIT, siblings, gated: model.gated ? "manual" : false, cardData: { license: "apache-2.0" } });
    }
    if (model.gated && request.headers.authorization !== `Bearer ${model.gated}`) return refuse(401, "GatedRepo");
    const wanted = model.files.find((f) => f.name === resolve[2]);
    if (!wanted) return refuse(404, "EntryNotFound");
    return this.send(request, response, wanted);
  }

  search(words, kind) {
    return Object.keys(this.models)
      .filter((id) => this.models[id].files.some(({ name }) => name.endsWith(`.${kind}`)))
      .filter((id) => id.toLowerCase().includes(words.toLowerCase()))
      .map((id) => ({ id, downloads: 12345, likes: 7, gated: this.models[id].gated ? "manual" : false, tags: ["license:apache-2.0"], safetensors: { total: 8e6 } }));
  }

  async send(request, response, { bytes, blob, large }) {
    const [, from, to] = /bytes=(\d+)-(\d+)/.exec(request.headers.range ?? "") ?? [null, "0", String(bytes.length - 1)];
    const part = bytes.subarray(Number(from), Number(to) + 1);
    response.writeHead(206, {
      "x-repo-commit": COMMIT,
      etag: `"${blob}"`,
      "content-length": part.length,
      "content-range": `bytes ${from}-${Number(from) + part.length - 1}/${bytes.length}`,
    });
    let sent = 0;
    while (large && this.drip && sent < part.length && !response.destroyed) {
      response.write(part.subarray(sent, sent + this.drip));
      sent += this.drip;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    response.end(part.subarray(Math.min(sent, part.length)));
  }
}
