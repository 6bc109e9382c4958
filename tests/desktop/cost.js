// What the real window costs: CPU time of hearth-desktop and of WebKit's processes, while nothing happens and while numbers change
// four times a second. By hand (COST.md beside Playwright's says what was measured):
//
//     HEARTH_BIN_DIR=target/debug bash tests/desktop/run.sh cost.js
//
// COST_SECONDS: how long each is measured (40). HEARTH_PICTURES: a folder that gets a picture of the screen.
import { spawn, spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { sleep, until } from "../playwright/lib/appliance.js";
import { Home } from "./lib/window.js";

const SECONDS = Number(process.env.COST_SECONDS ?? 40);
const TICKS = 100; // sysconf(_SC_CLK_TCK) on Linux
const PROGRAM = path.join(process.env.HEARTH_BIN_DIR, "hearth-desktop");

/** Name, parent and seconds of CPU of each process that runs. */
function processes() {
  const found = new Map();
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      const text = readFileSync(`/proc/${pid}/stat`, "utf8");
      const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
      const name = text.slice(text.indexOf("(") + 1, text.lastIndexOf(")"));
      found.set(Number(pid), { name, parent: Number(fields[1]), cpu: (Number(fields[11]) + Number(fields[12])) / TICKS });
    } catch {
      // It ended while it was looked at.
    }
  }
  return found;
}

/** Seconds of CPU by name of the window's program and of what WebKit started for it; the appliance is left out. */
function spent(root) {
  const all = processes();
  const sums = {};
  for (const [pid, { name, cpu }] of all) {
    let at = pid;
    while (at && at !== root) at = /^hearth$/.test(all.get(at)?.name) ? 0 : (all.get(at)?.parent ?? 0);
    if (at === root) sums[name] = (sums[name] ?? 0) + cpu;
  }
  return sums;
}

/** Counts what the appliance tells its windows until it is aborted. */
async function listen(home, headers, signal, told) {
  const answer = await fetch(`http://127.0.0.1:${home.port}/api/events`, { headers, signal });
  const decoder = new TextDecoder();
  for await (const piece of answer.body) told.states += decoder.decode(piece).split("event: state").length - 1;
}

async function measure(what, root, home, headers) {
  const [stop, told] = [new AbortController(), { states: 0 }];
  const counted = listen(home, headers, stop.signal, told).catch(() => null);
  const [before, began] = [spent(root), Date.now()];
  await sleep(SECONDS * 1000);
  const [after, passed] = [spent(root), (Date.now() - began) / 1000];
  const shares = Object.entries(after).map(([name, cpu]) => [name, (100 * (cpu - (before[name] ?? 0))) / passed]);
  stop.abort();
  await counted;
  const sum = shares.reduce((total, [, share]) => total + share, 0);
  console.log(`${what}: ${sum.toFixed(2)} % of one core (${shares.map(([name, share]) => `${name} ${share.toFixed(2)}`).join(", ")}); ${(told.states / passed).toFixed(1)} updates a second`);
}

function picture(name) {
  if (process.env.HEARTH_PICTURES) spawnSync("import", ["-window", "root", path.join(process.env.HEARTH_PICTURES, `${name}.png`)]);
}

const home = await Home.make();
const args = (process.env.COST_ARGS ?? "").split(" ").filter(Boolean);
const window = spawn(PROGRAM, ["--port", String(home.port), ...args], { env: home.env, stdio: "inherit" });
try {
  await until("the appliance", async () => (await home.state()) === "stopped", 60000);
  const headers = () => ({ authorization: `Bearer ${home.read("config/hearth/control-token")}`, "content-type": "application/json" });
  await fetch(`http://127.0.0.1:${home.port}/api/engine/start`, { method: "POST", headers: headers(), body: "{}" });
  await until("the engine to serve", async () => (await home.state()) === "serving", 60000);
  await sleep(20_000);
  await measure("at rest", window.pid, home, headers());
  picture("rest");

  let going = true;
  const client = (async () => {
    const body = JSON.stringify({ model: "ember", messages: [{ role: "user", content: "Tell me everything." }], max_tokens: 30000, ignore_eos: true });
    const request = { method: "POST", headers: { "content-type": "application/json" }, body };
    while (going) await fetch(`http://127.0.0.1:${home.port}/v1/chat/completions`, request).then((r) => r.text(), () => null);
  })();
  await sleep(5000);
  await measure("busy", window.pid, home, headers());
  picture("busy");
  going = false;
  await fetch(`http://127.0.0.1:${home.port}/api/engine/stop`, { method: "POST", headers: headers(), body: '{"now":true}' });
  await client;
} finally {
  home.again("--quit");
  window.kill("SIGKILL");
  home.close();
}
