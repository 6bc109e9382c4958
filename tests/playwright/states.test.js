// Every state the window can show, from the invented control server of ui/dev: states that a real backend reaches only by
// accident are looked at here, in both themes and both sizes. Needs ui/ built (npm run build), no backend.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { after, before, test } from "node:test";
import { accessible } from "./lib/a11y.js";
import { freePort } from "./lib/appliance.js";
import { launch, open, quiet } from "./lib/browser.js";

const UI = fileURLToPath(new URL("../../ui/", import.meta.url));
const SCENES = ["no-model", "stopped", "loading", "idle", "busy", "prefill", "degraded", "stopping", "restarting", "error", "spark"];
let browser, server, base;

before(async () => {
  const port = await freePort();
  base = `http://127.0.0.1:${port}`;
  const args = ["node_modules/vite/bin/vite.js", "preview", "--mode", "fake", "--host", "127.0.0.1", "--port", `${port}`, "--strictPort"];
  server = spawn(process.execPath, args, { cwd: UI, stdio: ["ignore", "pipe", "inherit"] });
  await new Promise((resolve, reject) => {
    server.stdout.on("data", (text) => /Local/.test(text) && resolve());
    server.on("exit", (code) => reject(new Error(`vite preview ended with ${code}`)));
  });
  browser = await launch();
});
after(async () => {
  await browser?.close();
  server?.kill();
});

async function visit(scene, options = {}, page = "now") {
  const tab = await open(browser, options);
  await tab.goto(`${base}/#token=scene-${scene}`);
  await tab.waitForSelector("header[data-state]:not([data-state=connecting])");
  if (page !== "now") {
    await tab.evaluate((name) => (location.hash = `#/${name}`), page);
    await tab.waitForSelector("h1", { state: "attached" });
  }
  return tab;
}
const box = (page, selector) => page.locator(selector).first().boundingBox();

for (const scene of SCENES) {
  test(`${scene}: the dashboard fits 1280 x 800 without scrolling and is accessible in both themes`, async () => {
    for (const theme of ["light", "dark"]) {
      const page = await visit(scene, { theme });
      const room = await page.evaluate(() => {
        const main = document.querySelector("main");
        return [main.scrollHeight - main.clientHeight, document.documentElement.scrollWidth - innerWidth];
      });
      assert.deepEqual(room, [0, 0], "nothing to scroll");
      await accessible(page, `${scene}, ${theme}`);
      quiet(page);
      await page.context().close();
    }
  });
}

test("no state moves a panel: memory, speed and history stand at the same place in all", async () => {
  const places = {};
  for (const scene of SCENES) {
    const page = await visit(scene);
    for (const name of ["Memory", "Speed", "Last minute", "Served"]) {
      const { x, y, width, height } = await box(page, `section[aria-label="${name}"]`);
      (places[name] ??= new Set()).add([x, y, width, height].join(" "));
    }
    await page.context().close();
  }
  for (const [name, seen] of Object.entries(places)) assert.equal(seen.size, 1, `${name}: ${[...seen].join(" | ")}`);
});

test("a narrow window has nothing outside its width, on every page", async () => {
  for (const page of ["now", "chat", "doctor", "settings"]) {
    const tab = await visit("error", { size: { width: 390, height: 844 } }, page);
    assert.equal(await tab.evaluate(() => document.documentElement.scrollWidth), 390, page);
    assert.equal(await tab.evaluate(() => document.querySelector("main").scrollWidth), 390, page);
    await accessible(tab, `narrow ${page}`);
    quiet(tab);
    await tab.context().close();
  }
});

test("unknown is a dash, never a zero", async () => {
  const page = await visit("stopped");
  const figures = await page.locator('section[aria-label="Speed"] strong').allTextContents();
  assert.deepEqual(figures, ["–", "–", "–"]);
  const chip = page.locator('section[aria-label="Speed"] dl');
  assert.match(await chip.textContent(), /Power\s*– W\s*Heat\s*– °C/);
  assert.equal(await page.locator('section[aria-label="Served"] dl b').nth(2).textContent(), "–", "energy");
  await page.context().close();
});

test("drafts are bars by position with their share in figures, and the sum as tokens a round", async () => {
  const page = await visit("spark");
  const speed = page.locator('section[aria-label="Speed"]');
  assert.deepEqual(await speed.locator(".bars b").allTextContents(), ["91", "78", "60"]);
  assert.match(await speed.getByRole("img", { name: /Drafts kept by position/ }).getAttribute("aria-label"), /91\s%, 78\s%, 60\s%/);
  await speed.getByText("3.3 tokens a round").waitFor();
  const heights = await speed.locator(".bars i").evaluateAll((bars) => bars.map((bar) => bar.getBoundingClientRect().height));
  assert.ok(heights[0] > heights[1] && heights[1] > heights[2], heights.join(" "));
  await page.context().close();
  const other = await visit("busy");
  await other.getByText("this model drafts nothing").waitFor();
  await other.context().close();
});

test("the doctor puts the worst first, opened, with its command; what is well is one closed line", async () => {
  for (const theme of ["light", "dark"]) {
    const page = await visit("idle", { theme }, "doctor");
    await page.getByText("2 things to put right, 1 could be better.").waitFor();
    const rows = page.locator("li[data-check]");
    assert.deepEqual((await rows.evaluateAll((all) => all.map((row) => row.dataset.state))).slice(0, 4), ["fail", "fail", "warn", "pass"]);
    await rows.first().getByText("sudo apt install linux-modules-nvidia-580-open-$(uname -r)").waitFor();
    assert.equal(await page.locator('li[data-check="heat"] .body').isVisible(), false);
    await page.locator('li[data-check="heat"] summary').press("Enter");
    await page.locator('li[data-check="heat"]').getByText("acpitz: 71 °C").waitFor();
    await accessible(page, `doctor, ${theme}`);
    quiet(page);
    await page.context().close();
  }
});

test("a fault tells its sentence, its next step, what was seen, and the log", async () => {
  const page = await visit("error");
  await page.getByRole("button", { name: "Details…" }).click();
  const dialog = page.getByRole("dialog", { name: "What happened" });
  await dialog.getByText("ends 18 331 bytes early").waitFor();
  await dialog.getByText("Fetch that file again").waitFor();
  await dialog.getByText("expected 1 572 864 bytes").waitFor();
  await dialog.getByText("ready after 0.4 s").waitFor();
  await accessible(page, "fault dialog");
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "detached" });
  quiet(page);
  await page.context().close();
});

test("stopping a busy engine asks first and names the requests", async () => {
  const page = await visit("busy");
  await page.getByRole("button", { name: "Stop Ember" }).click();
  const dialog = page.getByRole("dialog", { name: "Stop Ember?" });
  await dialog.getByText("2 requests are still running").waitFor();
  await dialog.getByText(/chat-7f21: writing, 412 tokens/).waitFor();
  await accessible(page, "stop dialog");
  await dialog.getByRole("button", { name: "Keep serving" }).click();
  await dialog.waitFor({ state: "detached" });
  await page.context().close();
});

test("the address is copied also where the clipboard API is missing, and inside a dialog", async () => {
  const page = await visit("idle");
  await page.evaluate(() => {
    globalThis.clipboard = navigator.clipboard;
    Object.defineProperty(navigator, "clipboard", { value: undefined, configurable: true });
  });
  const read = () => page.evaluate(() => globalThis.clipboard.readText());
  await page.getByRole("button", { name: "Copy the address of the endpoint" }).click();
  await page.getByRole("button", { name: "Copied" }).waitFor();
  assert.equal(await read(), "http://127.0.0.1:8000/v1");
  await page.getByRole("button", { name: "Use it from…" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Copy Python" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Copied" }).waitFor();
  assert.match(await read(), /^from openai import OpenAI/);
  await page.context().close();
});

test("the bandwidth explains itself on keyboard focus, and Escape puts that away", async () => {
  const page = await visit("busy");
  const word = page.getByRole("button", { name: "estimated" });
  await word.focus();
  const tip = page.getByRole("tooltip");
  assert.match(await tip.textContent(), /a step × [\d.]+ steps\/s/);
  assert.ok(await tip.isVisible());
  await page.keyboard.press("Escape");
  assert.ok(!(await tip.isVisible()));
  await page.context().close();
});

test("an answer cannot bring anything from outside into the page", async () => {
  const page = await visit("idle", {}, "chat");
  await page.getByLabel("Message").fill("What is Hearth?");
  await page.keyboard.press("Enter");
  await page.locator("article[data-end=done]").waitFor();
  assert.equal(await page.locator("article img, article b, article script").count(), 0);
  await page.locator("details summary").click();
  await page.getByText("The person asks what Hearth is.").waitFor();
  await accessible(page, "chat with an answer");
  quiet(page);
  await page.context().close();
});

test("an answer that breaks off keeps its text and says what to do", async () => {
  const page = await visit("idle", {}, "chat");
  await page.getByLabel("Message").fill("break");
  await page.keyboard.press("Enter");
  const answer = page.locator("article[data-end=failed]");
  await answer.getByRole("alert").getByText("The engine stopped while it was answering.").waitFor();
  assert.match(await answer.locator(".text").textContent(), /Hearth keeps a model/);
  await answer.getByRole("button", { name: "Retry" }).waitFor();
  await accessible(page, "chat with a failed answer");
  await page.context().close();
});

test("a question over the context is refused with both numbers and a way out", async () => {
  const page = await visit("idle", { allowErrors: true }, "chat");
  await page.getByLabel("Message").fill("too long");
  await page.keyboard.press("Enter");
  const said = await page.locator("article[data-end=failed]").getByRole("alert").textContent();
  assert.match(said, /4096.*5097/);
  assert.match(said, /larger context in Settings/);
  quiet(page);
  await page.context().close();
});

test("a hidden window is not redrawn, and catches up when it is shown", async () => {
  const page = await visit("busy");
  const decode = page.locator('section[aria-label="Speed"] strong').first();
  const hide = (hidden) =>
    page.evaluate((value) => {
      Object.defineProperty(document, "visibilityState", { configurable: true, get: () => (value ? "hidden" : "visible") });
      document.dispatchEvent(new Event("visibilitychange"));
    }, hidden);
  await hide(true);
  const changes = await page.evaluate(async () => {
    let count = 0;
    const watch = new MutationObserver((list) => (count += list.length));
    watch.observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true });
    await new Promise((resolve) => setTimeout(resolve, 1500));
    watch.disconnect();
    return count;
  });
  assert.equal(changes, 0);
  const before = await decode.textContent();
  await hide(false);
  await page.waitForFunction((old) => document.querySelector('section[aria-label="Speed"] strong').textContent !== old, before);
  await page.context().close();
});

test("a machine that falls silent is greyed, with the time of its last word", async () => {
  const page = await visit("away", { allowErrors: true });
  await page.waitForSelector("header[data-state=unreachable]", { timeout: 15000 });
  await page.getByText(/has not answered since \d\d:\d\d:\d\d/).waitFor();
  await page.getByRole("button", { name: "Reconnect" }).waitFor();
  assert.match(await page.locator('section[aria-label="Memory"]').evaluate((e) => getComputedStyle(e).filter), /grayscale/);
  await page.context().close();
});
