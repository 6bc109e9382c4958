// When things break: the engine is killed, the model cannot be loaded, the whole appliance goes away and comes back.
import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { after, before, beforeEach, test } from "node:test";
import { accessible } from "./lib/a11y.js";
import { Appliance, until } from "./lib/appliance.js";
import { launch, longAnswers, open, quiet, state } from "./lib/browser.js";

let hearth, browser, page;
before(async () => {
  [hearth, browser] = await Promise.all([new Appliance().up(), launch()]);
});
beforeEach(async () => {
  await page?.context().close();
  page = await open(browser, { allowErrors: true });
  await page.goto(hearth.window);
});
after(async () => {
  await browser?.close();
  await hearth?.close();
});

/** Every state the strip goes through, from now on. */
const watchStates = () =>
  page.evaluate(() => {
    const strip = document.querySelector("header[data-state]");
    globalThis.seen = [strip.dataset.state];
    new MutationObserver(() => globalThis.seen.push(strip.dataset.state)).observe(strip, { attributeFilter: ["data-state"] });
  });

test("kill -9 of the engine: the window says Restarting, then serves again by itself", async () => {
  await hearth.start();
  await state(page, "serving");
  await watchStates();
  const pid = hearth.enginePid();
  assert.ok(pid, "the engine is a process of its own");
  process.kill(pid, "SIGKILL");
  await until("a state other than serving to be shown", () => page.evaluate(() => globalThis.seen.some((kind) => kind !== "serving")));
  await until("serving again", () => page.evaluate(() => globalThis.seen.at(-1) === "serving"), 30000);
  const seen = await page.evaluate(() => globalThis.seen);
  assert.ok(seen.includes("restarting") || seen.includes("loading"), seen.join(" > "));
  assert.ok(!seen.includes("unreachable"), "the public port never goes away");
  assert.notEqual(hearth.enginePid(), pid);
  quiet(page);
});

test("kill -9 in mid-answer: the chat keeps its text, says what happened, and Retry answers", async () => {
  if ((await hearth.state()).kind !== "serving") await hearth.start();
  await page.evaluate(() => (location.hash = "#/chat"));
  await longAnswers(page);
  await page.getByLabel("Message").fill("Tell me everything.");
  await page.keyboard.press("Enter");
  const answer = page.locator("article[data-end]").last();
  await until("some text", async () => (await answer.locator(".text, .thoughts").count()) > 0);
  process.kill(hearth.enginePid(), "SIGKILL");
  await page.waitForSelector("article[data-end=failed]");
  assert.match(await answer.getByRole("alert").textContent(), /engine ended in the middle of this answer/);
  assert.ok((await answer.locator(".text, .thoughts").first().textContent()).length > 0, "what was written stays");
  await accessible(page, "chat after a crash");
  await page.unroute("**/v1/chat/completions");
  await answer.getByRole("button", { name: "Retry" }).click();
  await page.locator("article[data-end=done], article[data-end=length]").last().waitFor({ timeout: 60000 });
  quiet(page);
});

test("kill -9 before the first token: the request waits for the new engine and nobody notices", async () => {
  await until("the engine to serve", async () => (await hearth.state()).kind === "serving", 60000);
  await page.evaluate(() => (location.hash = "#/chat"));
  const pid = hearth.enginePid();
  process.kill(pid, "SIGSTOP");
  await page.getByLabel("Message").fill("What is Hearth?");
  await page.keyboard.press("Enter");
  await page.locator("article[data-end=writing]").waitFor();
  process.kill(pid, "SIGKILL");
  await page.locator("article[data-end=done], article[data-end=length]").waitFor({ timeout: 60000 });
  quiet(page);
});

test("a model that cannot be loaded: one sentence, the next step, what was seen", async () => {
  if ((await hearth.state()).kind !== "stopped") await hearth.stop();
  const folder = path.join(hearth.home, "broken");
  mkdirSync(folder, { recursive: true });
  writeFileSync(path.join(folder, "config.json"), "{ not json");
  const settings = await hearth.api("settings");
  await hearth.api("settings", "PUT", { ...settings, profile: { ...settings.profile, model: folder } });
  await page.reload();
  const button = page.getByRole("button", { name: /^(Start|Retry|Choose) / });
  await button.waitFor();
  if (/Start|Retry/.test(await button.textContent())) await button.click();
  await page.locator("header .message").getByText(/\.\s*\S/).first().waitFor();
  const said = await page.locator("header .message").textContent();
  assert.ok(said.trim().length > 20 && !/SIG|panicked|undefined|\[object/.test(said), said);
  await accessible(page, "a model that cannot be loaded");
  await hearth.api("settings", "PUT", settings);
  quiet(page);
});

test("the appliance goes away: last values greyed with their age; it comes back: connected again by itself", async () => {
  await page.locator('section[aria-label="Memory"] .legend li').first().waitFor();
  await hearth.end("SIGKILL");
  await state(page, "unreachable");
  await page.getByText(/has not answered since \d\d:\d\d:\d\d/).waitFor();
  assert.ok((await page.locator('section[aria-label="Memory"] .legend li').count()) > 0, "the last values stay");
  await hearth.up();
  await page.waitForSelector("header[data-state]:not([data-state=unreachable])", { timeout: 15000 });
  quiet(page);
});
