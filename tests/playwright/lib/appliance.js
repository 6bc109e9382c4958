// A real `hearth up` in folders of its own, on a port of its own. HEARTH_BIN names the program.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { fileURLToPath } from "node:url";
import path from "node:path";

const UI = fileURLToPath(new URL("../../../ui/dist", import.meta.url));

/** A port that is free now. */
export function freePort() {
  return new Promise((resolve) => {
    const probe = createServer().listen(0, "127.0.0.1", () => {
      const { port } = probe.address();
      probe.close(() => resolve(port));
    });
  });
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Waits for `check` to return something true; says what it waited for. */
export async function until(what, check, ms = 20000) {
  const end = Date.now() + ms;
  for (;;) {
    const value = await check();
    if (value) return value;
    assert.ok(Date.now() < end, `waited ${ms / 1000} s for ${what}`);
    await sleep(50);
  }
}

export class Appliance {
  /** `hub`: the address of a hub; without one nobody listens there, so no test reaches the real one. */
  constructor({ hub = "http://127.0.0.1:9" } = {}) {
    this.hub = hub;
    this.home = mkdtempSync(path.join(tmpdir(), "hearth-pw-"));
    this.log = "";
  }

  /** Starts `hearth up`; resolves when it listens. Called again, it starts anew on the same port and folders. */
  async up() {
    const program = process.env.HEARTH_BIN;
    assert.ok(program && existsSync(program), "set HEARTH_BIN to the hearth program");
    this.port ??= await freePort();
    const folder = (name) => path.join(this.home, name);
    this.process = spawn(program, ["up", "--json", "--port", String(this.port)], {
      env: {
        ...process.env,
        HOME: this.home,
        XDG_CONFIG_HOME: folder("config"),
        XDG_STATE_HOME: folder("state"),
        XDG_CACHE_HOME: folder("cache"),
        XDG_RUNTIME_DIR: folder("run"),
        HF_HOME: folder("hf"),
        HF_ENDPOINT: this.hub,
        HF_HUB_CACHE: "",
        HF_HUB_OFFLINE: "",
        HF_TOKEN: "",
        HEARTH_UI_DIR: UI,
      },
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.process.stderr.on("data", (text) => (this.log += text));
    this.process.on("exit", (code, signal) => (this.ended = code ?? signal));
    this.ended = undefined;
    let said = "";
    this.process.stdout.on("data", (text) => (said += text));
    await until("hearth up to listen", () => {
      assert.equal(this.ended, undefined, `hearth up ended (${this.ended}):\n${said}\n${this.log}`);
      return said.includes("\n");
    });
    this.announced = JSON.parse(said.slice(0, said.indexOf("\n")));
    return this;
  }

  get base() {
    return `http://127.0.0.1:${this.port}`;
  }

  get token() {
    return readFileSync(path.join(this.home, "config/hearth/control-token"), "utf8").trim();
  }

  /** The address of the window. */
  get window() {
    return `${this.base}/#token=${this.token}`;
  }

  async api(route, method = "GET", body = undefined) {
    const response = await fetch(`${this.base}/api/${route}`, {
      method,
      headers: { authorization: `Bearer ${this.token}`, "content-type": "application/json" },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    return response.json();
  }

  async state() {
    return (await this.api("state")).state;
  }

  async start() {
    await this.api("engine/start", "POST", {});
    await until("the engine to serve", async () => (await this.state()).kind === "serving", 60000);
  }

  async stop() {
    await this.api("engine/stop", "POST", { now: true });
    await until("the engine to stop", async () => (await this.state()).kind === "stopped");
  }

  /** The engine's process: the child of `hearth up` that runs `hearth serve`. */
  enginePid() {
    for (const name of readdirSync("/proc")) {
      if (!/^\d+$/.test(name)) continue;
      try {
        const parent = /^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${name}/status`, "utf8"))?.[1];
        if (Number(parent) !== this.process.pid) continue;
        if (readFileSync(`/proc/${name}/cmdline`, "utf8").split("\0").includes("serve")) return Number(name);
      } catch {
        // The process ended while it was looked at.
      }
    }
    return null;
  }

  /** Ends the appliance; with SIGKILL it has no chance to say goodbye. */
  async end(signal = "SIGTERM") {
    if (!this.process || this.ended !== undefined) return;
    this.process.kill(signal);
    await until("hearth up to end", () => this.ended !== undefined);
  }

  async close() {
    await this.end("SIGKILL");
    rmSync(this.home, { recursive: true, force: true });
  }
}
