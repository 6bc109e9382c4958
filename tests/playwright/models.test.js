// The page Models against a real appliance and a hub on loopback: look before downloading, watch, pause, run, delete.
import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { after, before, test } from "node:test";
import { accessible, tabTo } from "./lib/a11y.js";
import { Appliance, until } from "./lib/appliance.js";
import { launch, open, quiet, state } from "./lib/browser.js";
import { FakeHub } from "./lib/hub.js";

const COPY = "hearth/Ember-Copy";
const FILES = "hearth/Ember-Files";
let hub, hearth, browser, page;
before(async () => {
  hub = await new FakeHub().start();
  [hearth, browser] = await Promise.all([new Appliance({ hub: hub.url }).up(), launch()]);
  page = await open(browser);
  await page.goto(hearth.window);
  await page.getByRole("navigation", { name: "Pages" }).getByRole("link", { name: "Models" }).click();
});
after(async () => {
  await browser?.close();
  await hearth?.close();
  await hub?.close();
});
const region = (name) => page.getByRole("region", { name });
const look = async (words) => {
  await page.getByRole("searchbox", { name: "Search Hugging Face" }).fill(words);
  await page.keyboard.press("Enter");
};

test("the page shows what is here and what is suggested, and asks the hub nothing", async () => {
  await region("On this machine").getByText("Ember", { exact: true }).waitFor();
  await region("On this machine").getByText("demonstration model").waitFor();
  const first = page.getByRole("table", { name: "Models that Hearth suggests" }).getByRole("row").nth(1);
  assert.match(await first.textContent(), /nvidia\/Qwen3\.6-35B-A3B-NVFP4.*2\.2|2\.3\sGB/s);
  await page.getByText(/which this version lacks/).first().waitFor();
  assert.deepEqual(hub.asked, [], "a page that is opened asks nobody");
  await accessible(page, "models");
  quiet(page);
});

test("a search finds models, and words without a match say so", async () => {
  await look("ember");
  await page.getByText(COPY, { exact: true }).waitFor();
  await page.getByText(/12.345 downloads a month · apache-2\.0/).first().waitFor();
  await accessible(page, "search");
  await look("nothing-like-it");
  await page.getByText("Nothing with safetensors or GGUF was found").waitFor();
  await page.getByRole("button", { name: "Close the search" }).click();
  await region("Found for").waitFor({ state: "detached" });
});

test("a hub that fails is told with its next step, and asking again helps", async () => {
  hub.broken = 404;
  await look("ember");
  const found = page.locator("section", { has: page.locator("#found") });
  await until("an error with a next step", async () => /\.\s+\S.*\./.test(await found.locator(".fault").textContent()));
  assert.ok(!/undefined|\[object|HTTP 5/.test(await found.textContent()));
  hub.broken = null;
  await look("ember");
  await page.getByText(COPY, { exact: true }).waitFor();
});

test("before a byte of the weights: what it is, that it fits, and how fast it can be with the formula", async () => {
  hub.asked.length = 0;
  await page.getByRole("button", { name: `Look at ${COPY}` }).click();
  const dialog = page.getByRole("dialog", { name: COPY });
  await dialog.getByText("Fits", { exact: true }).waitFor();
  for (const part of ["weights", "KV reserved", "state", "scratch"]) await dialog.getByRole("rowheader", { name: part }).waitFor();
  await dialog.getByText("apache-2.0").waitFor();
  await dialog.getByText("ccccccccccc").waitFor();
  await until("a ceiling or the reason why there is none", async () =>
    /at most [\d.,\s]+ tok\/s.*estimated: .*GB\/s measured here ÷ .* read per token|Speed unknown/s.test(await dialog.textContent()),
  );
  const needed = async () => /([\d.]+ [KMG]iB) of/.exec((await dialog.textContent()).replaceAll("\u00a0", " "))[1];
  const before = await needed();
  await dialog.getByRole("combobox", { name: "Context" }).selectOption({ index: 0 });
  await until("the plan for another context", async () => (await needed()) !== before);
  await accessible(page, "look");
  assert.ok(!hub.asked.some((path) => path.endsWith("tokenizer.json")), "only configuration and headers are read");
});

test("download: progress, pause, resume, and the model is here and can be run", async () => {
  hub.drip = 40_000;
  await page.getByRole("dialog").getByRole("button", { name: /^Download / }).click();
  const row = region("Downloads").getByRole("listitem");
  const bar = page.getByRole("progressbar", { name: `Progress of ${COPY}` });
  await until("progress", async () => Number(await bar.getAttribute("aria-valuenow")) > 2);
  assert.match((await row.textContent()).replaceAll("\u00a0", " "), /[\d.]+ [kM]B of [\d.]+ MB/);
  await accessible(page, "downloading");
  await page.getByRole("button", { name: `Pause ${COPY}` }).click();
  await row.getByText("Paused").waitFor();
  const kept = Number(await bar.getAttribute("aria-valuenow"));
  assert.ok(kept > 0, "what was fetched stays");
  hub.drip = null;
  await page.getByRole("button", { name: `Resume ${COPY}` }).click();
  await row.getByText("Done, verified").waitFor();
  const here = region("On this machine").getByRole("row", { name: /Ember-Copy/ });
  await here.waitFor();
  await page.getByRole("button", { name: `Take ${COPY} off the list` }).click();
  await region("Downloads").waitFor({ state: "detached" });
  await here.getByRole("button", { name: "Start Ember-Copy" }).click();
  await state(page, "serving", 60000);
  assert.equal((await hearth.api("settings")).profile.model, COPY);
});

test("of GGUF files one is chosen: sizes at once, fit and speed as their headers come, and those that are no model say why", async () => {
  await page.evaluate(() => (location.hash = "#/models"));
  hub.asked.length = 0;
  await look("ember-files");
  const found = page.locator("section", { has: page.locator("#found") });
  await found.getByText("GGUF", { exact: true }).waitFor();
  await page.getByRole("button", { name: `Look at ${FILES}` }).click();
  const dialog = page.getByRole("dialog", { name: FILES });
  const row = (name) => dialog.getByRole("row", { name });
  await row(/^Ember-Q8_0\.gguf/).getByText(/fits/).waitFor({ timeout: 60000 });
  const note = (name) => row(name).locator("xpath=following-sibling::tr[1]");
  await note(/^Ember-Q8_0\.gguf/).getByText("16 bits at load").waitFor();
  await row(/^Ember-BF16\.gguf/).getByText(/fits/).waitFor();
  assert.equal(await dialog.getByText("16 bits at load").count(), 1, "BF16 stays as it is");
  await row(/^Strange-Q8_0\.gguf/).getByText(/cannot run/).waitFor();
  await note(/^Strange-Q8_0\.gguf/).getByText(/^Strange-Q8_0\.gguf: the GGUF architecture `llama` is not supported/).waitFor();
  await note(/^mmproj/).getByText(/vision tower/).waitFor();
  await note(/^more\//).getByText(/folder of the repository/).waitFor();
  assert.equal(await dialog.getByRole("radio").count(), 3, "what is no model cannot be chosen");
  assert.equal(await dialog.getByRole("button", { name: /^Download / }).count(), 0, "nothing is chosen for anybody");
  await accessible(page, "GGUF files");

  await dialog.getByRole("radio", { name: "Ember-Q8_0.gguf" }).check();
  await dialog.getByText(/^Weights in Q8_0 are expanded to 16 bits at load: [\d.]+\sMiB in the file, [\d.]+\sMiB in memory/).waitFor();
  const needed = async () => /([\d.]+) MiB of/.exec((await dialog.textContent()).replaceAll("\u00a0", " "))?.[1];
  const expanded = Number(await needed());
  await dialog.getByRole("radio", { name: "Ember-BF16.gguf" }).check();
  await dialog.getByText(/are expanded/).waitFor({ state: "detached" });
  await until("its own plan", async () => Math.abs(Number(await needed()) - expanded) < 1); // Both have 16 bits a weight in memory.
  await accessible(page, "a GGUF file");

  await dialog.getByRole("radio", { name: "Ember-Q8_0.gguf" }).check();
  await dialog.getByRole("button", { name: /^Download / }).click();
  await region("Downloads").getByText("Done, verified").waitFor();
  const [kept] = await hearth.api("downloads");
  assert.deepEqual([kept.model, kept.file], [FILES, "Ember-Q8_0.gguf"]);
  await page.getByRole("button", { name: `Take ${FILES} off the list` }).click();
  await region("On this machine").getByRole("row", { name: /Ember-Q8_0/ }).waitFor();
});

test("a model that runs is not offered for deletion; a stopped one tells what deleting frees", async () => {
  await page.evaluate(() => (location.hash = "#/models"));
  const here = region("On this machine").getByRole("row", { name: /Ember-Copy/ });
  await here.getByText("running").waitFor();
  assert.equal(await here.getByRole("button").count(), 0);
  await hearth.stop();
  await here.getByRole("button", { name: "Delete Ember-Copy" }).click();
  const dialog = page.getByRole("dialog", { name: "Delete Ember-Copy?" });
  await dialog.getByText(/This frees [\d.]+\sMB/).waitFor();
  await accessible(page, "delete");
  await dialog.getByRole("button", { name: /^Delete / }).click();
  await here.waitFor({ state: "detached" });
});

test("a gated model says what it needs, and a token opens it", async () => {
  await look("hearth/Behind-A-Gate");
  const dialog = page.getByRole("dialog", { name: "hearth/Behind-A-Gate" });
  await dialog.getByRole("alert").getByText(/is gated/).waitFor();
  await dialog.getByRole("button", { name: "Token…" }).click();
  const giving = page.getByRole("dialog", { name: "Hugging Face token" });
  await accessible(page, "token");
  await giving.getByLabel("Token", { exact: true }).fill("hf_right");
  await page.keyboard.press("Enter");
  await page.getByText("Hearth has a token.").waitFor();
  await look("hearth/Behind-A-Gate");
  await dialog.getByText("Fits", { exact: true }).waitFor();
  await page.keyboard.press("Escape");
});

test("a model of another family is told before it is downloaded", async () => {
  await look("https://huggingface.co/hearth/Other-Family/tree/main");
  const dialog = page.getByRole("dialog", { name: "hearth/Other-Family" });
  await dialog.getByText("Hearth cannot run it").waitFor();
  await dialog.getByText(/bloom/).waitFor();
  await page.keyboard.press("Escape");
  await look("hearth/Not-There");
  await page.getByRole("dialog").getByText(/is not on the hub/).waitFor();
  await page.keyboard.press("Escape");
});

test("a dialog that was closed a moment ago does not close the next one", async () => {
  await look("hearth/Other-Family");
  await page.getByRole("dialog", { name: "hearth/Other-Family" }).waitFor();
  // The browser tells of the closing in a task of its own, after the next one has been asked for.
  await page.evaluate(() => {
    document.querySelector("dialog").close();
    const words = document.querySelector('input[type="search"]');
    words.value = "hearth/Not-There";
    words.dispatchEvent(new Event("input", { bubbles: true }));
    words.form.requestSubmit();
  });
  await page.getByRole("dialog", { name: "hearth/Not-There" }).getByText(/is not on the hub/).waitFor();
  await page.keyboard.press("Escape");
});

test("a folder is added and forgotten, and what is none says why", async () => {
  const folder = path.join(hearth.home, "elsewhere");
  mkdirSync(path.join(folder, "one"), { recursive: true });
  mkdirSync(path.join(hearth.home, "guf"), { recursive: true });
  writeFileSync(path.join(folder, "one/config.json"), '{"model_type":"bloom"}');
  writeFileSync(path.join(hearth.home, "guf/a.gguf"), "GGUF");
  await page.getByRole("button", { name: "Add models…" }).click();
  const dialog = page.getByRole("dialog", { name: "Add models from this machine" });
  for (const [typed, said] of [["relative", /whole path/], [path.join(hearth.home, "guf"), /GGUF/], ["/no/such", /there is no folder/i]]) {
    await dialog.getByLabel("Folder or GGUF file").fill(typed);
    await page.keyboard.press("Enter");
    await dialog.getByRole("alert").getByText(said).waitFor();
  }
  await dialog.getByLabel("Folder or GGUF file").fill(folder);
  await dialog.getByRole("button", { name: "Add it" }).click();
  const row = region("On this machine").getByRole("row", { name: /one/ });
  await row.getByText("cannot run", { exact: true }).waitFor();
  await row.getByRole("button", { name: "Take one off the list" }).click();
  await row.waitFor({ state: "detached" });
});

test("everything is reached by the keyboard, narrow windows too, and the appliance's absence is told", async () => {
  await page.setViewportSize({ width: 390, height: 844 });
  await page.locator("main").focus();
  await tabTo(page, (focus) => /^Look at nvidia\//.test(focus.text));
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.ok(wide <= 0, `${wide} px too wide`);
  await accessible(page, "narrow");
  await page.setViewportSize({ width: 1280, height: 800 });
});
