// What the window costs: CPU time of the page's renderer, the browser around it and the appliance, while numbers change four times a
// second and while nothing happens. Run by hand, on an idle machine or not: it is time on a core, not time on the clock.
//
//     HEARTH_BIN=target/debug/hearth node tests/playwright/cost.js [seconds]
//
// The engine is left out: it computes, which is not the window's doing.
import { readdirSync, readFileSync } from "node:fs";
import { Appliance, sleep } from "./lib/appliance.js";
import { launch, open, state } from "./lib/browser.js";

const SECONDS = Number(process.argv[2] ?? 60);
const TICKS = 100; // sysconf(_SC_CLK_TCK) on Linux

/** Seconds of CPU that a process has had, all threads. */
function cpu(pid) {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1].split(" ");
    return (Number(fields[11]) + Number(fields[12])) / TICKS;
  } catch {
    return 0;
  }
}
/** A process and all below it, with the words of their command lines. */
function tree(root) {
  const parents = new Map();
  for (const name of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      const parent = Number(readFileSync(`/proc/${name}/stat`, "utf8").split(") ")[1].split(" ")[1]);
      parents.set(Number(name), parent);
    } catch {
      // It ended while it was looked at.
    }
  }
  const found = [root];
  for (const pid of found) for (const [child, parent] of parents) if (parent === pid) found.push(child);
  return found.map((pid) => ({ pid, command: readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ") }));
}

async function measure(what, seconds, { page, renderers, around, appliance }) {
  // How often anything on the page changed: the figures mean nothing without it.
  await page.evaluate(() => {
    window.changes = 0;
    window.watched ??= new MutationObserver(() => window.changes++);
    window.watched.observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true });
  });
  const sums = () => [renderers, around, [appliance]].map((pids) => pids.reduce((sum, pid) => sum + cpu(pid), 0));
  const before = sums();
  const began = Date.now();
  await sleep(seconds * 1000);
  const passed = (Date.now() - began) / 1000;
  const shares = sums().map((after, i) => (100 * (after - before[i])) / passed);
  const changes = (await page.evaluate(() => window.changes)) / passed;
  const [renderer, browser, hearth] = shares.map((share) => `${share.toFixed(2)} %`);
  console.log(`${what}: page ${renderer}, browser around it ${browser}, appliance ${hearth} of one core, over ${passed.toFixed(0)} s; ${changes.toFixed(1)} changes a second`);
}

const hearth = await new Appliance().up();
const browser = await launch();
try {
  const page = await open(browser);
  await page.goto(hearth.window);
  await state(page, "stopped");
  await hearth.start();
  await state(page, "serving");
  const own = tree(process.pid).filter(({ command }) => /chrom/.test(command));
  const renderers = own.filter(({ command }) => command.includes("--type=renderer")).map(({ pid }) => pid);
  const around = own.filter(({ command }) => !command.includes("--type=renderer")).map(({ pid }) => pid);
  const who = { page, renderers, around, appliance: hearth.process.pid };

  await sleep(3000);
  await measure("idle, page shown", SECONDS, who);

  let going = true;
  const client = (async () => {
    while (going) {
      const body = { model: "ember", messages: [{ role: "user", content: "Tell me everything." }], max_tokens: 3000, ignore_eos: true };
      await fetch(`${hearth.base}/v1/chat/completions`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) }).then((r) => r.text());
    }
  })();
  await sleep(3000);
  const before = await page.evaluate(() => performance.now());
  await measure("busy, four updates a second", SECONDS, who);
  console.log(`page clock moved ${((await page.evaluate(() => performance.now())) - before).toFixed(0)} ms`);
  going = false;
  await hearth.stop();
  await client;
} finally {
  await browser.close();
  await hearth.close();
}
