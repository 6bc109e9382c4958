// What a newcomer does, against the real program and its built-in model: start, chat, watch the charts move, stop.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { accessible } from "./lib/a11y.js";
import { Appliance, sleep, until } from "./lib/appliance.js";
import { launch, longAnswers, open, quiet, state } from "./lib/browser.js";

let hearth, browser, page;
before(async () => {
  [hearth, browser] = await Promise.all([new Appliance().up(), launch()]);
  page = await open(browser);
  await page.goto(hearth.window);
});
after(async () => {
  await browser?.close();
  await hearth?.close();
});
const goTo = (name) => page.getByRole("navigation", { name: "Pages" }).getByRole("link", { name }).click();
const decode = () => page.locator('section[aria-label="Speed"] strong').first().textContent();

test("stopped: it says so, names the model as a demonstration, and what a start needs", async () => {
  await state(page, "stopped");
  await page.getByText("demonstration model").first().waitFor();
  await page.getByText(/Needs .+ of memory; .+ can be had/).waitFor();
  assert.equal(await page.locator("header code").textContent(), `${hearth.base}/v1`);
  assert.equal(await decode(), "–", "no speed before anything ran");
  await accessible(page, "stopped");
});

test("Start loads the model and ends in Serving, announced once", async () => {
  await page.getByRole("button", { name: /^Start / }).click();
  await state(page, "serving", 60000);
  assert.match(await page.locator('p[role="status"][aria-live="polite"]').textContent(), /: Serving$/);
  await page.locator(".legend").getByText("weights").waitFor();
  const table = page.getByRole("table", { name: /Memory by part/ });
  assert.match(await table.getByRole("row", { name: /^weights/ }).textContent(), /[1-9][\d.]*\s(MiB|GiB).*exact/);
  await page.getByRole("button", { name: /^Stop / }).waitFor();
});

test("the endpoint is copied, and its snippets name address and model", async () => {
  await page.getByRole("button", { name: "Copy the address of the endpoint" }).click();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), `${hearth.base}/v1`);
  await page.getByRole("button", { name: "Use it from…" }).click();
  const dialog = page.getByRole("dialog", { name: "Use it from…" });
  assert.ok((await dialog.locator("pre").first().textContent()).includes(`curl ${hearth.base}/v1/chat/completions`));
  assert.ok((await dialog.locator("pre").nth(1).textContent()).includes('model="ember"'));
  await accessible(page, "snippets");
  await page.keyboard.press("Escape");
});

test("the chat answers, ends, and tells the speed that the engine measured", async () => {
  await goTo("Chat");
  await page.getByLabel("Message").fill("What is Hearth?");
  await page.keyboard.press("Enter");
  const answer = page.locator("article[data-end]").last();
  await page.locator("article[data-end=done], article[data-end=length]").last().waitFor({ timeout: 60000 });
  assert.notEqual((await answer.locator(".text").textContent()).trim(), "");
  const figures = /[\d.]+ tok\/s.*[1-9]\d* tokens.*first token [\d.]+\sm?s/s;
  await until("the engine's figures under the answer", async () => figures.test(await answer.locator("footer").textContent()));
  const { decode_tok_s: speed } = (await hearth.api("requests?limit=1"))[0];
  const shown = (await answer.locator("footer").textContent()).replace(/\s/g, "");
  assert.ok(shown.startsWith(`${speed.toFixed(speed < 999.95 ? 1 : 0)}tok/s`), `${speed} is shown as ${shown}`);
  await accessible(page, "chat");
});

test("the answer grows on the page while it is written, and Stop ends it and keeps what was written", async () => {
  await longAnswers(page);
  await page.getByLabel("Message").fill("Tell me everything.");
  await page.keyboard.press("Enter");
  const answer = page.locator("article[data-end]").last();
  const length = async () => (await answer.locator(".text, .thoughts").first().textContent().catch(() => "")).length;
  const first = await until("the first words", length);
  await until("more words", async () => (await length()) > first);
  await page.getByRole("button", { name: "Stop", exact: true }).click();
  await page.waitForSelector("article[data-end=stopped]");
  assert.ok((await length()) > first, "what was written stays");
  await answer.getByText("stopped by you").waitFor();
  await until("the engine to notice", async () => (await hearth.api("requests?limit=1"))[0]?.finish === "cancelled");
  await page.unroute("**/v1/chat/completions");
  await page.getByRole("button", { name: "Send" }).waitFor();
});

test("Retry asks again and New chat begins anew", async () => {
  await page.getByRole("button", { name: "Retry" }).click();
  await page.waitForSelector("article[data-end=stopped]", { state: "detached" });
  await until("the answer", async () => /done|length/.test(await page.locator("article[data-end]").last().getAttribute("data-end")));
  await page.getByRole("button", { name: "New chat" }).click();
  assert.equal(await page.locator("article").count(), 0);
});

test("the dashboard moved: requests are listed, first token and history are known", async () => {
  await goTo("Now");
  const rows = page.getByRole("table", { name: /Running and finished requests/ }).getByRole("row");
  await until("finished requests in the table", async () => (await rows.count()) >= 3);
  const speed = page.locator('section[aria-label="Speed"]');
  const [, , bandwidth] = await speed.locator("strong").allTextContents();
  assert.ok(bandwidth !== "");
  // A machine at rest is told of every three seconds.
  await until("the first token to be known", async () => /first token [\d.]+\s?m?s/.test(await speed.textContent()));
  await page.getByRole("button", { name: "15 min" }).click();
  const plot = page.locator('section[aria-label="Last 15 minutes"] .plot');
  await until("a decode peak in the chart", async () => /[1-9][\d.\s]* at most/.test(await plot.getAttribute("aria-label")));
});

test("the charts move while a client writes, and the decode figure is live", async () => {
  await page.getByRole("button", { name: "1 min" }).click();
  const shot = () => page.locator(".plot canvas").evaluate((canvas) => canvas.toDataURL());
  const before = await shot();
  // Long enough for any machine; it ends as soon as the figure has moved, however fast or slow this one writes.
  const body = { model: "ember", max_tokens: 20000, ignore_eos: true, messages: [{ role: "user", content: "Tell me everything." }] };
  const away = new AbortController();
  const client = fetch(`${hearth.base}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal: away.signal,
  }).catch(() => undefined);
  await page.getByText("1 running", { exact: true }).waitFor();
  await page.getByRole("cell", { name: "writing" }).waitFor();
  const seen = new Set();
  await until("the decode figure to move while a client writes", async () => {
    const shown = await decode();
    if (shown !== "–") seen.add(shown);
    return seen.size > 1;
  });
  away.abort();
  await client;
  // The table is drawn once a second: its row must not be taken for that of the next request.
  await page.getByRole("cell", { name: "writing" }).waitFor({ state: "detached" });
  await until("the chart to be drawn anew", async () => (await shot()) !== before);
  await accessible(page, "serving");
});

test("what was served is counted while one request ends after the other", async () => {
  let going = true;
  const body = JSON.stringify({ model: "ember", max_tokens: 100, ignore_eos: true, messages: [{ role: "user", content: "Hello" }] });
  const client = (async () => {
    while (going) {
      await fetch(`${hearth.base}/v1/chat/completions`, { method: "POST", headers: { "content-type": "application/json" }, body }).then((answer) => answer.text());
      await sleep(200);
    }
  })();
  const served = async () => (await page.locator('section[aria-label="Served"]').textContent()).match(/(\d+) requests/)?.[1];
  const before = await served();
  try {
    await until("the count to rise meanwhile", async () => (await served()) !== before);
  } finally {
    going = false;
    await client;
  }
  await page.getByRole("cell", { name: "writing" }).waitFor({ state: "detached" });
});

test("Stop while a request runs asks first, and names it", async () => {
  const body = { model: "ember", max_tokens: 20000, ignore_eos: true, messages: [{ role: "user", content: "Tell me everything." }] };
  const away = new AbortController();
  const client = fetch(`${hearth.base}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", "x-request-id": "long-one" },
    body: JSON.stringify(body),
    signal: away.signal,
  }).catch(() => undefined);
  await page.getByRole("cell", { name: "writing" }).waitFor();
  await page.getByRole("button", { name: /^Stop / }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByText("1 request is still running:").waitFor();
  await dialog.getByText(/^long-one: writing/).waitFor();
  await page.keyboard.press("Escape");
  assert.equal((await hearth.state()).kind, "serving");
  away.abort();
  await client;
  await until("nothing to run", async () => (await hearth.api("state")).active.length === 0);
});

test("Stop gives the memory back and says Stopped", async () => {
  await page.getByText("0 running", { exact: true }).waitFor();
  await page.getByRole("button", { name: /^Stop / }).click();
  await state(page, "stopped");
  await page.getByRole("button", { name: /^Start / }).waitFor();
  assert.equal(await page.locator(".legend").getByText("weights").count(), 0);
  quiet(page);
});

test("a stopped engine's chat offers to start it", async () => {
  await goTo("Chat");
  await page.getByText("cannot answer now").waitFor();
  await page.getByRole("button", { name: /^Start / }).waitFor();
  await accessible(page, "chat, stopped");
});

test("settings are read, checked, planned and written", async () => {
  await goTo("Settings");
  await page.getByRole("region", { name: "What it needs" }).getByText("Fits").waitFor();
  await page.getByLabel("Requests at once").fill("0");
  await page.getByText("a whole number from 1 to 256").waitFor();
  assert.ok(await page.getByRole("button", { name: "Save settings" }).isDisabled());
  await page.getByLabel("Requests at once").fill("2");
  await page.getByLabel("Theme").selectOption("light");
  await page.getByRole("button", { name: "Save settings" }).click();
  await page.getByText("Saved.").waitFor();
  const settings = await hearth.api("settings");
  assert.equal(settings.profile.max_requests, 2);
  assert.equal(settings.theme, "light");
  assert.equal(await page.locator("html").getAttribute("data-theme"), "light");
  await accessible(page, "settings");
  quiet(page);
});
