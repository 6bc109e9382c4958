// The page without its token, with a wrong one, and with the right one.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { accessible } from "./lib/a11y.js";
import { Appliance } from "./lib/appliance.js";
import { launch, open, quiet, state } from "./lib/browser.js";

let hearth, browser;
before(async () => {
  [hearth, browser] = await Promise.all([new Appliance().up(), launch()]);
});
after(async () => {
  await browser?.close();
  await hearth?.close();
});

test("without a token the page says how to get one, and takes a pasted address", async () => {
  const page = await open(browser);
  const calls = [];
  page.on("request", (request) => request.url().includes("/api/") && calls.push(request.url()));
  await page.goto(hearth.base);
  await page.getByRole("heading", { name: "This page needs its key" }).waitFor();
  await page.getByText("hearth up", { exact: true }).waitFor();
  assert.deepEqual(calls, [], "nothing is asked without a token");
  await accessible(page, "no token");
  await page.getByLabel(/paste that address/).fill("not a token!");
  await page.keyboard.press("Enter");
  await page.getByRole("alert").getByText("There is no token in that text").waitFor();
  await page.getByLabel(/paste that address/).fill(hearth.window);
  await page.keyboard.press("Enter");
  await state(page, "stopped");
  quiet(page);
  await page.context().close();
});

test("a wrong token leads back to that page with the reason", async () => {
  const page = await open(browser, { allowErrors: true });
  await page.goto(`${hearth.base}/#token=0123456789abcdef0123456789abcdef`);
  await page.getByText("no longer right").waitFor();
  quiet(page);
  await page.context().close();
});

test("the token leaves the address bar, survives a reload, and is not in any other tab", async () => {
  const page = await open(browser);
  await page.goto(hearth.window);
  await state(page, "stopped");
  assert.ok(!page.url().includes("token"), page.url());
  await page.reload();
  await state(page, "stopped");
  const other = await page.context().newPage();
  await other.goto(hearth.base);
  await other.getByRole("heading", { name: "This page needs its key" }).waitFor();
  quiet(page);
  await page.context().close();
});
