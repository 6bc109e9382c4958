// The figures of the page Now against the real program: what a machine does not tell is a dash, what was served is summed and outlives
// a restart, and prices are a person's own.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { accessible } from "./lib/a11y.js";
import { Appliance, sleep, until } from "./lib/appliance.js";
import { launch, open, quiet, state } from "./lib/browser.js";

let hearth, browser, page;
before(async () => {
  [hearth, browser] = await Promise.all([new Appliance().up(), launch()]);
  // The appliance is started anew below; the page knocks at a closed port meanwhile.
  page = await open(browser, { allowErrors: true });
  await page.goto(hearth.window);
  await state(page, "stopped");
});
after(async () => {
  await browser?.close();
  await hearth?.close();
});
const served = () => page.locator('section[aria-label="Served"]');
const value = (name) => served().locator("dt", { hasText: name }).locator("xpath=following-sibling::dd[1]").locator("b").textContent();

async function ask() {
  const response = await fetch(`${hearth.base}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "ember", messages: [{ role: "user", content: "What is Hearth?" }], max_tokens: 12, ignore_eos: true }),
  });
  return (await response.json()).usage;
}

test("before anything ran nothing was served, and energy is unknown and not zero", async () => {
  await until("the card", async () => (await value("Read")) === "0");
  assert.equal(await value("Written"), "0");
  assert.equal(await value("Energy"), "–");
  assert.equal(await value("In a cloud"), "–");
});

test("a machine without a GPU shows its processor, and its power as a dash", async () => {
  const { machine } = await hearth.api("state");
  if (machine.gpu) return;
  const chip = page.locator('section[aria-label="Speed"] dl').last();
  await page.getByRole("heading", { name: /^Processor/ }).waitFor();
  await until("a share of busy time", async () => /Busy\s*\d+ %/.test(await chip.textContent()));
  assert.match(await chip.textContent(), /Power\s*– W/);
});

test("tokens are counted as the engine counted them, and cost what the prices say", async () => {
  await hearth.start();
  const usage = [await ask(), await ask()];
  const read = usage.reduce((sum, one) => sum + one.prompt_tokens, 0);
  const written = usage.reduce((sum, one) => sum + one.completion_tokens, 0);
  await until("the sums", async () => (await value("Written")) === String(written));
  assert.equal(await value("Read"), String(read));
  await served().getByRole("button", { name: "Enter prices…" }).click();
  const dialog = page.getByRole("dialog", { name: "Prices to compare with" });
  await dialog.getByLabel("Input, per million tokens", { exact: true }).fill("1000");
  await accessible(page, "prices");
  await dialog.getByRole("button", { name: "Save prices" }).click();
  await dialog.getByText(/Not a price: Output/).waitFor();
  await dialog.getByLabel("Output, per million tokens").fill("2000,50");
  await dialog.getByLabel("Currency").fill("EUR");
  await dialog.getByRole("button", { name: "Save prices" }).click();
  await dialog.waitFor({ state: "detached" });
  const cost = ((read * 1000 + written * 2000.5) / 1e6).toFixed(2);
  await until("the cost", async () => (await value("In a cloud")).replace(/\s/g, " ") === `${cost} EUR`);
  assert.deepEqual((await hearth.api("settings")).prices, { currency: "EUR", input: 1000, cached_input: 1000, output: 2000.5, kwh: null });
});

test("a page at rest asks for little", async () => {
  // What the last request changed is asked for within the first second.
  await sleep(1500);
  const asked = [];
  const note = (request) => asked.push(new URL(request.url()).pathname);
  page.on("request", note);
  await sleep(7000);
  page.off("request", note);
  assert.ok(asked.filter((path) => path === "/api/usage").length <= 1, asked.join(" "));
  assert.ok(asked.length <= 4, asked.join(" "));
});

test("the sums and the charts outlive the appliance", async () => {
  let before;
  await until("time with a model loaded to be counted", async () => (before = await hearth.api("usage?hours=24")).loaded_s > 0);
  await hearth.end();
  await hearth.up();
  const after = await hearth.api("usage?hours=24");
  assert.equal(after.output_tokens, before.output_tokens);
  assert.ok(after.loaded_s >= before.loaded_s);
  const { t_ms, power_w, events } = await hearth.api("history?seconds=900");
  assert.equal(power_w.length, t_ms.length);
  assert.ok(events.some((event) => event.kind === "started"), JSON.stringify(events));
});

test("every line of the chart can be chosen, and a reading that never came is a dash", async () => {
  await state(page, "stopped");
  for (const name of ["Bandwidth", "Memory", "Power", "Heat", "Clock", "Prefill"]) {
    await page.getByRole("group", { name: "Second line" }).getByRole("button", { name }).click();
  }
  await page.getByRole("group", { name: "Second line" }).getByRole("button", { name: "Memory" }).click();
  await until("memory in use", async () => /memory in use\s*(?!0\.0)\d/.test(await page.locator(".key").textContent()));
  const spans = page.getByRole("group", { name: "Span of the charts" });
  for (const span of ["15 min", "24 h", "1 min"]) await spans.getByRole("button", { name: span, exact: true }).click();
});

test("a price below zero is refused by the program too", async () => {
  const settings = await hearth.api("settings");
  const answer = await hearth.api("settings", "PUT", { ...settings, prices: { ...settings.prices, input: -1 } });
  assert.equal(answer.error.code, "bad_setting");
});

test("nothing complained", () => quiet(page));
