// Everything that matters without a mouse: Tab to Start, to the chat, send, stop. Every stop on the way shows its focus.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { focused, tabTo } from "./lib/a11y.js";
import { Appliance } from "./lib/appliance.js";
import { launch, open, quiet, state } from "./lib/browser.js";

let hearth, browser, page;
before(async () => {
  [hearth, browser] = await Promise.all([new Appliance().up(), launch()]);
  page = await open(browser);
  await page.goto(hearth.window);
  await state(page, "stopped");
});
after(async () => {
  await browser?.close();
  await hearth?.close();
});

test("the first stop skips the rail", async () => {
  const first = await tabTo(page, () => true);
  assert.equal(first.text, "Skip to the page");
  await page.keyboard.press("Enter");
  assert.equal((await focused(page)).id, "main");
});

test("Tab and Enter start the model", async () => {
  await tabTo(page, ({ text }) => text.startsWith("Start "));
  await page.keyboard.press("Enter");
  await state(page, "serving", 60000);
  assert.match((await focused(page)).text, /^Stop /, "the focus stays on the button while its name changes");
});

test("Tab and Enter go to the chat, which starts at its beginning", async () => {
  await page.reload();
  await state(page, "serving");
  await tabTo(page, ({ text, tag }) => tag === "A" && text === "Chat");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "Chat", exact: true }).waitFor();
  assert.equal((await focused(page)).id, "main");
});

test("a question is written, sent and answered from the keyboard; the focus stays in the field", async () => {
  await tabTo(page, ({ id }) => id === "message");
  await page.keyboard.type("What is");
  await page.keyboard.press("Shift+Enter");
  await page.keyboard.type("Hearth?");
  assert.equal(await page.getByLabel("Message").inputValue(), "What is\nHearth?");
  await page.keyboard.press("Enter");
  await page.locator("article[data-end=done], article[data-end=length]").waitFor({ timeout: 60000 });
  assert.equal((await focused(page)).id, "message");
  assert.equal(await page.getByLabel("Message").inputValue(), "");
});

test("the dialogs open and close by keyboard and give the focus back", async () => {
  await page.evaluate(() => (location.hash = "#/now"));
  await page.getByRole("heading", { name: "Now" }).waitFor({ state: "attached" });
  await tabTo(page, ({ text }) => text === "Use it from…");
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  assert.equal((await focused(page)).text, "Use it from…");
  await tabTo(page, ({ text }) => text.startsWith("Stop "));
  await page.keyboard.press("Enter");
  await state(page, "stopped");
  quiet(page);
});
