// The page Benchmarks against the real program and the built-in model: a short run is ordered, watched, read, compared with a second
// and exported; a third is cancelled; and what was measured stands where estimates stood.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { accessible, tabTo } from "./lib/a11y.js";
import { Appliance, until } from "./lib/appliance.js";
import { launch, open, quiet } from "./lib/browser.js";

let hearth, browser, page, folder;
before(async () => {
  folder = mkdtempSync(path.join(tmpdir(), "hearth-bench-"));
  [hearth, browser] = await Promise.all([new Appliance().up(), launch()]);
  page = await open(browser, { allowErrors: true });
  await page.goto(hearth.window);
  await page.getByRole("navigation", { name: "Pages" }).getByRole("link", { name: "Benchmarks" }).click();
});
after(async () => {
  await browser?.close();
  await hearth?.close();
  rmSync(folder, { recursive: true, force: true });
});
const region = (name) => page.getByRole("region", { name });
const progress = async () => (await hearth.api("bench")).progress;
/** Waits until this run has begun and ended. */
const over = (id) =>
  until(`run ${id} to end`, async () => {
    const now = await progress();
    return now?.id === id && now.state !== "running";
  }, 240000);

/** `hearth bench ARGS` with the same folders. */
function command(...args) {
  const at = (name) => path.join(hearth.home, name);
  const env = {
    ...process.env, HOME: hearth.home, XDG_CONFIG_HOME: at("config"), XDG_STATE_HOME: at("state"), XDG_RUNTIME_DIR: at("run"), HF_HOME: at("hf"),
  };
  return new Promise((resolve) => {
    execFile(process.env.HEARTH_BIN, ["bench", ...args], { env, maxBuffer: 1 << 26 }, (error, stdout, stderr) =>
      resolve({ code: error?.code ?? 0, stdout, stderr }),
    );
  });
}

/** `answer`: tokens of an answer; many where the run is to be seen under way, even by a page that gets little time. */
async function measure(note, answer = 24) {
  await page.getByLabel("Note", { exact: true }).fill(note);
  await page.getByRole("textbox", { name: "Repeats" }).fill("2");
  for (const part of ["Reading prompts", "Clients at once", "Drafts per round", "Agent and free text"]) {
    await page.getByLabel(part, { exact: true }).first().uncheck();
  }
  const more = page.getByText("Values of my own");
  if (!(await page.getByRole("textbox", { name: "Contexts" }).isVisible())) await more.click();
  await page.getByRole("textbox", { name: "Contexts" }).fill("256, 4000000");
  await page.getByRole("textbox", { name: "Lengths of answers" }).fill(String(answer));
  await page.getByRole("button", { name: "Measure Ember" }).click();
}

test("without a model there is nothing to measure, and wrong values are named before anything is sent", async () => {
  await page.getByText("Start a model first").waitFor();
  assert.equal(await page.getByRole("button", { name: /^Measure / }).isDisabled(), true);
  await page.getByText("Nothing has been measured yet.").waitFor();
  await accessible(page, "empty");
  await hearth.start();
  await page.getByRole("textbox", { name: "Repeats" }).fill("x");
  await page.getByRole("alert").getByText("A whole number from 1 to 20.").waitFor();
  assert.equal(await page.getByRole("button", { name: "Measure Ember" }).isDisabled(), true);
  await page.getByRole("textbox", { name: "Repeats" }).fill("3");
  const refused = await hearth.api("bench", "POST", { contexts: [1] });
  assert.equal(refused.error.code, "bad_setting");
  assert.match(refused.error.message, /contexts/i);
});

test("a short run is watched and then shown, with true prompts and the reasons for what was left out", async () => {
  await measure("first", 1500);
  await region(/^Measuring/).getByRole("progressbar", { name: "Progress of the benchmark" }).waitFor();
  await over(1);
  const run = region(/^Run 1: Ember/);
  await run.waitFor();
  await run.getByRole("row", { name: /^256 tokens/ }).waitFor();
  await run.getByText(/more than this model's own context of 32768/).waitFor();
  await page.getByText("The benchmark is complete.").waitFor();
  const kept = await hearth.api("bench/1");
  const [row, skipped] = kept.rows;
  assert.deepEqual([row.state, skipped.state, kept.repeats], ["done", "skipped", 2]);
  assert.ok(row.shots.every((shot) => shot.prompt_tokens === 256 && shot.output_tokens === 1500), JSON.stringify(row.shots));
  const decode = row.figures.find((figure) => figure.name === "decode_tok_s");
  assert.ok(decode.low > 0 && decode.low <= decode.median && decode.median <= decode.high, JSON.stringify(decode));
  assert.equal(row.shots.filter((shot) => shot.cold).every((shot) => shot.cached_tokens < 200), true, "cold prompts were not known");
  await run.getByText("Conditions").click();
  await run.getByText(/context .*KV bf16/).waitFor();
  await accessible(page, "a run");
});

test("a second run is held beside the first, and noise is not called a change", async () => {
  // The answer to this order comes after the run's end: the page must not take the run for one under way.
  await page.route("**/api/bench", async (route) => {
    if (route.request().method() !== "POST") return route.continue();
    const response = await route.fetch();
    await over(2);
    await route.fulfill({ response });
  });
  await measure("second", 1500);
  await over(2);
  await page.unrouteAll({ behavior: "wait" });
  await region(/^Run 2: Ember/).waitFor();
  await page.getByRole("button", { name: "Measure Ember" }).waitFor({ timeout: 5000 });
  await page.getByLabel("Compare run 1").check();
  await page.getByLabel("Compare run 2").check();
  await page.getByRole("button", { name: "Compare the two" }).click();
  const compared = region("Run 1 and run 2");
  await compared.getByRole("row", { name: /writes, tok\/s/ }).waitFor();
  const [a, b] = [await hearth.api("bench/1"), await hearth.api("bench/2")];
  const of = (run) => run.rows[0].figures.find((figure) => figure.name === "decode_tok_s");
  const apart = of(a).high < of(b).low || of(b).high < of(a).low;
  const verdict = await compared.getByRole("row", { name: /writes, tok\/s/ }).getAttribute("data-verdict");
  assert.equal(["better", "worse"].includes(verdict), apart, `${verdict}: ${JSON.stringify([of(a), of(b)])}`);
  await accessible(page, "a comparison");
});

test("a run is exported in every format, to files that others can read", async () => {
  await page.getByRole("button", { name: "Export run 1" }).click();
  const dialog = page.getByRole("dialog", { name: "Export run 1" });
  await accessible(page, "export");
  const files = {};
  for (const name of ["hearth-bench-1.json", "hearth-bench-1.csv", "hearth-bench-1.md", "llama-benchy-1.json", "benchmark.csv", "metadata.json"]) {
    const download = page.waitForEvent("download");
    await dialog.getByRole("button", { name: `Save ${name}` }).click();
    files[name] = readFileSync(await (await download).path(), "utf8");
  }
  assert.equal(JSON.parse(files["hearth-bench-1.json"]).id, 1);
  assert.match(files["hearth-bench-1.csv"], /^run,model,part,/);
  assert.match(files["hearth-bench-1.md"], /^# Ember measured by Hearth/);
  const report = JSON.parse(files["llama-benchy-1.json"]);
  assert.equal(report.benchmarks[0].prompt_size, 256);
  assert.ok(report.benchmarks[0].tg_throughput.values.length >= 2);
  assert.match(files["benchmark.csv"], /^model,test_name,t_s_mean/);
  assert.equal(JSON.parse(files["metadata.json"]).benchmark.framework, "llama-benchy");
  await page.keyboard.press("Escape");
  const wrong = await hearth.api("bench/1/export?format=xml");
  assert.equal(wrong.error.code, "bad_format");
});

test("a run is cancelled at any moment and stays as what it is: partial", async () => {
  await page.getByLabel("What", { exact: true }).selectOption("full");
  await page.getByRole("button", { name: "Measure Ember" }).click();
  await region(/^Measuring/).waitFor();
  await accessible(page, "measuring");
  await page.getByRole("button", { name: "Cancel the benchmark" }).click();
  await over(3);
  await region(/^Run 3: Ember/).getByText("This run is partial.").waitFor();
  await region("Runs").getByText("partial, cancelled").waitFor();
  assert.equal((await hearth.api("bench/3")).state, "cancelled");
  await until("the engine to be free again", async () => (await hearth.api("state")).throughput.running === 0);
});

test("nothing is measured beside a request unless told, and the run says so", async () => {
  // Two clients that ask again and again, so that one is served however fast the machine is.
  const stop = new AbortController();
  const ask = async () => {
    while (!stop.signal.aborted) {
      const answer = await fetch(`${hearth.base}/v1/chat/completions`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ model: "ember", messages: [{ role: "user", content: "Go on." }], stream: true, ignore_eos: true, max_tokens: 5000 }),
        signal: stop.signal,
      });
      await answer.text();
    }
  };
  const clients = [ask(), ask()];
  await until("the requests to run", async () => (await hearth.api("state")).throughput.running === 2);
  await page.getByLabel("What", { exact: true }).selectOption("quick");
  await measure("beside a request");
  const dialog = page.getByRole("dialog", { name: "Measure anyway?" });
  await dialog.getByText(/being served/).waitFor();
  await accessible(page, "anyway");
  await dialog.getByRole("button", { name: "Measure anyway" }).click();
  await over(4);
  stop.abort();
  await Promise.allSettled(clients);
  const run = await hearth.api("bench/4");
  assert.deepEqual(run.conditions.overruled.map((fault) => fault.code), ["requests_running"]);
  await region(/^Run 4: Ember/).waitFor();
});

test("the command line measures by the same calls, compares and deletes", async () => {
  const file = path.join(folder, "run.json");
  const args = ["run", "--parts", "depths", "--repeat", "1", "--note", "depths", "--format", "llama-benchy", "--out", file];
  const ran = await command(...args);
  assert.equal(ran.code, 0, ran.stderr);
  // It asks a few times a second, so short cells may pass unseen.
  assert.match(ran.stderr, /\[\d+\/14\] depths .*depth \d (text|agent), about/);
  assert.ok(JSON.parse(readFileSync(file, "utf8")).benchmarks, "it was written");
  const list = await command("list");
  assert.match(list.stdout, /5 {2}done +quick/);
  const compared = await command("compare", "1", "2");
  assert.match(compared.stdout, /decode tok\/s/);
  const wrong = await command("run", "--suite", "tiny");
  assert.equal(wrong.code, 2);
  assert.match(wrong.stderr, /quick, full or arena/);
  assert.equal((await command("rm", "4")).code, 0);
  assert.equal((await command("show", "4")).code, 2);
});

test("measured speed and depths stand in the settings and on the page Models", async () => {
  await page.evaluate(() => (location.hash = "#/settings"));
  const table = page.getByRole("table", { name: "What each depth gains on this machine, tok/s" });
  await table.getByRole("row", { name: /^0 / }).getByText("× 1.00").first().waitFor();
  assert.equal(await table.getByRole("row").count(), 8);
  await page.getByText(/tok\/s measured/).waitFor();
  await accessible(page, "settings");
  await page.evaluate(() => (location.hash = "#/models"));
  await page.getByText(/tok\/s measured/).first().waitFor();
});

test("everything is reached by the keyboard and fits a phone, in both languages and themes", async () => {
  for (const [locale, title] of [["en-US", "Benchmarks"], ["de-DE", "Messungen"]]) {
    for (const theme of ["light", "dark"]) {
      const small = await open(browser, { locale, theme, size: { width: 390, height: 844 } });
      await small.goto(hearth.window);
      await small.waitForSelector("header[data-state]:not([data-state=connecting])");
      await small.evaluate(() => (location.hash = "#/bench"));
      await small.getByRole("heading", { name: title, exact: true }).waitFor();
      await small.locator("table tbody tr").first().waitFor();
      await small.locator("td.buttons button").first().click();
      await small.locator("#bench-shown").waitFor();
      const wide = await small.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.ok(wide <= 0, `${locale} ${theme}: ${wide} px too wide`);
      await accessible(small, `${locale} ${theme} on a phone`);
      quiet(small);
      await small.context().close();
    }
  }
  await page.evaluate(() => (location.hash = "#/bench"));
  await page.locator("main").focus();
  await tabTo(page, (focus) => /^Delete run /.test(focus.text));
});

test("nothing complained", () => quiet(page));
