// The pages around the dashboard: Connect and its test of the endpoint, first steps, privacy, release notes; both languages, both
// themes, a phone's width and 200 % zoom; and that no page ever asks another machine for anything.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { accessible, tabTo } from "./lib/a11y.js";
import { Appliance, until } from "./lib/appliance.js";
import { launch, open, quiet, state } from "./lib/browser.js";

const PAGES = ["now", "bench", "models", "chat", "connect", "doctor", "settings", "privacy"];
let hearth, browser;
before(async () => {
  [hearth, browser] = await Promise.all([new Appliance().up(), launch()]);
});
after(async () => {
  await browser?.close();
  await hearth?.close();
});

async function visit(page, name) {
  await page.goto(`${hearth.base}/#token=${hearth.token}`);
  await page.waitForSelector("header[data-state]:not([data-state=connecting])");
  if (name !== "now") {
    await page.evaluate((to) => (location.hash = `#/${to}`), name);
    await page.locator("h1").first().waitFor({ state: "attached" });
  }
  return page;
}

test("a newcomer is told three steps, and each says when it is done", async () => {
  const page = await visit(await open(browser, { allowErrors: true }), "now");
  const steps = page.getByRole("list", { name: "First steps" }).getByRole("listitem");
  assert.equal(await steps.count(), 3);
  assert.equal(await page.locator("[aria-current=step]").textContent().then((text) => /Start it/.test(text)), true);
  await accessible(page, "first steps");
  await hearth.start();
  await page.locator("[aria-current=step]", { hasText: "Use it" }).waitFor();
  await page.getByRole("link", { name: "Connect a program" }).click();
  await page.getByRole("heading", { name: "Connect", exact: true }).waitFor();
  quiet(page);
  await page.context().close();
});

test("every program gets the real address, and whoever only looks sends nothing", async () => {
  const page = await open(browser, { allowErrors: true });
  const sent = [];
  page.on("request", (request) => new URL(request.url()).pathname.startsWith("/v1/") && sent.push(request.url()));
  await visit(page, "connect");
  const panel = page.getByRole("tabpanel");
  await page.getByRole("tab", { name: "curl" }).focus();
  for (const name of ["Python", "JavaScript", "Claude Code", "Codex", "Open WebUI", "Cline"]) {
    await page.keyboard.press("ArrowRight");
    assert.equal(await page.getByRole("tab", { selected: true }).textContent(), name);
    assert.ok((await panel.textContent()).includes(`127.0.0.1:${hearth.port}`), name);
  }
  await accessible(page, "connect");
  assert.deepEqual(sent, [], "a request that is refused is a row of the history");
  await page.context().close();
});

test("the endpoint's test judges the real endpoint: nothing is wrong with it", async () => {
  const page = await visit(await open(browser, { allowErrors: true }), "connect");
  await page.getByRole("button", { name: "Test it" }).click();
  await page.getByRole("status").getByText(/not in this version/).waitFor({ timeout: 90000 });
  const verdicts = await page.locator("li[data-verdict]").evaluateAll((all) => all.map((one) => [one.dataset.verdict, one.textContent]));
  assert.deepEqual(verdicts.filter(([verdict]) => verdict === "fail"), []);
  for (const name of ["List of models", "Answer in one piece", "Answer as a stream", "Prompt over the context", "Bad input is refused", "Text completions"]) {
    assert.ok(verdicts.some(([verdict, text]) => verdict === "pass" && text.includes(name)), `${name}: ${JSON.stringify(verdicts)}`);
  }
  await accessible(page, "tested");
  await page.context().close();
});

test("privacy: chats are switched off and deleted where it is explained", async () => {
  const message = { id: "m", parent: null, role: "user", content: "secret", reasoning: "", tool_calls: [], end: "done", fault: null, model: null, figures: {}, at_ms: 1 };
  const chat = { id: "kept", title: "Kept", model: "ember", system: "", sampling: {}, messages: [message], head: "m", created_ms: 1, updated_ms: 1 };
  await fetch(`${hearth.base}/api/chats/kept`, {
    method: "PUT",
    headers: { authorization: `Bearer ${hearth.token}`, "content-type": "application/json" },
    body: JSON.stringify(chat),
  });
  const page = await visit(await open(browser), "privacy");
  await page.getByLabel("Keep chats").uncheck();
  await until("the setting", async () => (await hearth.api("settings")).keep_chats === false);
  await page.getByRole("button", { name: "Delete the chat" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Delete all chats" }).click();
  await page.getByText("1 chat deleted.").waitFor();
  assert.deepEqual(await hearth.api("chats"), []);
  await page.getByLabel("Keep chats").check();
  await until("the setting", async () => (await hearth.api("settings")).keep_chats === true);
  quiet(page);
  await page.context().close();
});

test("version and release notes are in the window", async () => {
  const page = await visit(await open(browser), "settings");
  const { version } = await hearth.api("state");
  await page.getByText(`Hearth ${version}`).waitFor();
  await page.getByRole("button", { name: "Release notes" }).click();
  await page.getByRole("dialog", { name: "Release notes" }).getByRole("heading", { name: version }).waitFor();
  await accessible(page, "release notes");
  await page.context().close();
});

test("the page opens in another tab with its token, which is nowhere in the page's text", async () => {
  const page = await visit(await open(browser), "settings");
  const [other] = await Promise.all([page.context().waitForEvent("page"), page.getByRole("button", { name: "Open in the browser" }).click()]);
  await other.waitForSelector("header[data-state]:not([data-state=connecting])");
  assert.ok(!(await page.content()).includes(hearth.token));
  await page.context().close();
});

test("German is chosen in the settings, and a browser that speaks German needs no choice", async () => {
  const page = await visit(await open(browser), "settings");
  await page.getByLabel("Language").selectOption("de");
  await page.getByRole("heading", { name: "Einstellungen" }).waitFor();
  assert.equal(await page.evaluate(() => document.documentElement.lang), "de");
  await page.getByLabel("Sprache").selectOption("en");
  await page.getByRole("heading", { name: "Settings" }).waitFor();
  // The setting is the appliance's: a browser that speaks German follows it, until it says "System" again.
  const follows = await visit(await open(browser, { locale: "de-DE" }), "now");
  await follows.getByRole("link", { name: "Now", exact: true }).waitFor();
  await follows.context().close();
  await page.getByLabel("Language").selectOption("system");
  await until("the setting is kept", async () => (await hearth.api("settings")).language === "system");
  await page.context().close();
  const german = await open(browser, { locale: "de-DE" });
  await visit(german, "now");
  await german.getByRole("link", { name: "Jetzt" }).waitFor();
  await german.context().close();
});

for (const locale of ["en-US", "de-DE"]) {
  test(`${locale}: every page is accessible in both themes, fits a phone, and fits at 200 % zoom`, async () => {
    for (const theme of ["light", "dark"]) {
      const page = await open(browser, { theme, locale, allowErrors: true });
      for (const name of PAGES) {
        await visit(page, name);
        await accessible(page, `${name}, ${theme}, ${locale}`);
        // 1280 x 800 at 200 % leaves 640 x 400 for the page (WCAG 1.4.4), a phone 390 wide.
        for (const size of [{ width: 640, height: 400 }, { width: 390, height: 844 }]) {
          await page.setViewportSize(size);
          const over = await page.evaluate(() => {
            const main = document.querySelector("main");
            return [document.documentElement.scrollWidth - innerWidth, main.scrollWidth - main.clientWidth];
          });
          assert.deepEqual(over, [0, 0], `${name}, ${locale}, ${size.width} wide: nothing to scroll sideways`);
        }
        await page.setViewportSize({ width: 1280, height: 800 });
      }
      quiet(page);
      await page.context().close();
    }
  });
}

test("all pages can be walked by Tab, and every stop shows its focus", async () => {
  const page = await open(browser, { allowErrors: true });
  for (const name of ["connect", "privacy", "chat"]) {
    await visit(page, name);
    // Twice round: the last stop of the page must be reached without a trap.
    let stops = 0;
    await tabTo(page, ({ text }) => text === "Skip to the page" && stops++ > 0, 120);
  }
  await page.context().close();
});

test("who wants no motion gets none", async () => {
  const page = await visit(await open(browser), "chat");
  await page.getByLabel("Message", { exact: true }).fill("Tell me everything.");
  await page.keyboard.press("Enter");
  await page.locator("article[data-end]").first().waitFor();
  const moving = await page.evaluate(() => document.getAnimations().length);
  assert.equal(moving, 0);
  await page.context().close();
});

test("no page asks another machine for anything, by any way there is", async () => {
  const page = await open(browser, { allowErrors: true });
  const asked = new Set();
  page.on("request", (request) => asked.add(new URL(request.url()).origin));
  page.on("websocket", (socket) => asked.add(socket.url()));
  for (const name of PAGES) await visit(page, name);
  const allowed = await page.evaluate(async () => {
    const meta = await fetch("/");
    return meta.headers.get("content-security-policy");
  });
  assert.deepEqual([...asked], [hearth.base], "only the place the page came from");
  for (const rule of ["default-src 'none'", "connect-src 'self'", "script-src 'self'", "frame-ancestors 'none'"]) assert.ok(allowed.includes(rule), rule);
  // Even a page that wanted to could not: the policy stops it before it leaves the browser.
  const tried = await page.evaluate(() => fetch("https://example.com/").then(() => "reached", () => "refused"));
  assert.equal(tried, "refused");
  await page.context().close();
});
