// The real hearth-desktop, steered over W3C WebDriver by WebKitWebDriver. HEARTH_BIN_DIR names the folder of the programs.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { freePort, until } from "../../playwright/lib/appliance.js";

const PROGRAM = path.join(process.env.HEARTH_BIN_DIR ?? "", "hearth-desktop");

/** A person's folders, empty at first, and a port: where `hearth up` and the window keep everything. */
export class Home {
  static async make() {
    assert.ok(existsSync(PROGRAM), `set HEARTH_BIN_DIR to the folder of hearth-desktop; it is not at ${PROGRAM}`);
    const home = new Home();
    home.folder = mkdtempSync(path.join(tmpdir(), "hearth-window-"));
    home.port = await freePort();
    const at = (name) => path.join(home.folder, name);
    home.env = {
      ...process.env,
      HOME: home.folder,
      XDG_CONFIG_HOME: at("config"),
      XDG_STATE_HOME: at("state"),
      XDG_CACHE_HOME: at("cache"),
      XDG_DATA_HOME: at("data"),
      XDG_RUNTIME_DIR: at("run"),
      HF_HOME: at("hf"),
    };
    return home;
  }

  read(name) {
    return readFileSync(path.join(this.folder, name), "utf8").trim();
  }

  /** The state of the engine as the appliance tells it; null when no appliance answers. */
  async state() {
    try {
      const token = this.read("config/hearth/control-token");
      const answer = await fetch(`http://127.0.0.1:${this.port}/api/state`, { headers: { authorization: `Bearer ${token}` } });
      return (await answer.json()).state.kind;
    } catch {
      return null;
    }
  }

  /** Process id of the appliance that holds the settings folder. */
  appliance() {
    return JSON.parse(this.read("config/hearth/appliance.lock")).pid;
  }

  /** Runs the window's program once more, as a second click on its icon does; resolves when that one ends. */
  again(...args) {
    const done = spawnSync(PROGRAM, args, { env: this.env, timeout: 60000, encoding: "utf8" });
    assert.equal(done.status, 0, `${done.signal ?? ""} ${done.error ?? ""} ${done.stderr}`);
  }

  close() {
    try {
      process.kill(this.appliance(), "SIGKILL");
    } catch {
      // It has ended, or never was.
    }
    try {
      rmSync(this.folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 });
    } catch {
      // A process of WebKit may still be writing there. It is a temporary folder.
    }
  }
}

export function isRunning(pid) {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}

export class Window {
  /** Opens the window of a home; resolves when it can be asked. */
  static async open(home) {
    const window = new Window();
    const port = await freePort();
    window.driver = spawn("WebKitWebDriver", [`--port=${port}`, "--host=127.0.0.1"], {
      env: { ...home.env, TAURI_AUTOMATION: "true", TAURI_WEBVIEW_AUTOMATION: "true" },
      stdio: ["ignore", "inherit", "inherit"],
    });
    window.base = `http://127.0.0.1:${port}`;
    await until("WebKitWebDriver", () => fetch(`${window.base}/status`).then((r) => r.ok, () => false));
    const options = { binary: PROGRAM, args: ["--port", String(home.port)] };
    const session = await window.ask("POST", "/session", {
      capabilities: { alwaysMatch: { "webkitgtk:browserOptions": options } },
    });
    window.base += `/session/${session.sessionId}`;
    return window;
  }

  async ask(method, route, body) {
    const signal = AbortSignal.timeout(90000);
    const answer = await fetch(this.base + route, { method, signal, ...(body && { body: JSON.stringify(body) }) });
    const { value } = await answer.json();
    if (!answer.ok) throw new Error(`${method} ${route}: ${value.error}: ${value.message}`);
    return value;
  }

  /** Runs a function's body in the page; `await` may be used in it. */
  run(body, ...args) {
    const script = `const done = arguments[arguments.length - 1]; (async (...arguments) => {${body}})(...arguments).then(done, (e) => done("failed: " + e))`;
    return this.ask("POST", "/execute/async", { script, args });
  }

  url() {
    return this.ask("GET", "/url");
  }

  /** Waits for a condition in the page, written as an expression; a page that is just being replaced is asked again. */
  see(expression, ms = 60000) {
    return until(expression, () => this.run(`return ${expression}`).then((v) => (String(v).startsWith("failed: ") ? null : v), () => null), ms);
  }

  /** Clicks what a selector finds and a text begins with, as a person does, once it is there. */
  click(selector, text) {
    const find = `[...document.querySelectorAll(${JSON.stringify(selector)})].find((e) => e.textContent.trim().startsWith(${JSON.stringify(text)}))`;
    return until(`${selector} ${text}`, async () => {
      try {
        const element = await this.run(`return ${find}`);
        await this.ask("POST", `/element/${Object.values(element)[0]}/click`, {});
        return true;
      } catch {
        // Not there yet, or replaced between the two calls.
        return false;
      }
    });
  }

  async screenshot() {
    return Buffer.from(await this.ask("GET", "/screenshot"), "base64");
  }

  /** Process id of hearth-desktop: the child of the driver. */
  pid() {
    for (const name of readdirSync("/proc")) {
      if (!/^\d+$/.test(name)) continue;
      try {
        const status = readFileSync(`/proc/${name}/status`, "utf8");
        if (Number(/^PPid:\s+(\d+)/m.exec(status)[1]) === this.driver.pid && /^Name:\s+hearth-desktop/m.test(status)) return Number(name);
      } catch {
        // The process ended while it was looked at.
      }
    }
    return null;
  }

  /** Takes the window away, with no chance to say goodbye. */
  async kill() {
    const pid = this.pid();
    if (pid) process.kill(pid, "SIGKILL");
    await until("the window's end", () => !pid || !isRunning(pid));
    this.release();
  }

  /** Lets go of the driver of a window that has ended. */
  release() {
    this.driver.kill("SIGKILL");
  }
}
