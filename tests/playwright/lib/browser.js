// Chromium for the tests: Debian's, headless, talking to nobody but the page under test.
// A page made here fails its test if it logs an error, breaks its Content-Security-Policy, or asks another machine for anything.
import assert from "node:assert/strict";
import { chromium } from "playwright-core";

const EXECUTABLE = process.env.CHROMIUM_BIN ?? "/usr/bin/chromium";
const ARGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** Starts the browser; close it in `after`. */
export function launch() {
  return chromium.launch({ executablePath: EXECUTABLE, args: ARGS });
}

/**
 * Opens a page of 1280 x 800 (or `size`) in its own context.
 * `complaints` collects what the page should not do; `quiet(page)` asserts that there was none.
 */
export async function open(browser, { size = { width: 1280, height: 800 }, theme = "dark", locale = "en-US", allowErrors = false } = {}) {
  const context = await browser.newContext({
    viewport: size,
    locale,
    colorScheme: theme,
    reducedMotion: "reduce",
    permissions: ["clipboard-read", "clipboard-write"],
  });
  const page = await context.newPage();
  const complaints = [];
  page.on("pageerror", (error) => complaints.push(`exception: ${error.message}`));
  page.on("console", (message) => {
    const text = message.text();
    // A refused or failed request is logged by the browser itself; tests that provoke one say so.
    if (message.type() === "error" && !(allowErrors && /Failed to load resource|net::ERR/.test(text))) complaints.push(`console: ${text}`);
  });
  page.on("request", (request) => {
    const url = new URL(request.url());
    if (!["127.0.0.1", "localhost"].includes(url.hostname) && url.protocol !== "data:") complaints.push(`left the machine: ${url}`);
  });
  page.complaints = complaints;
  return page;
}

export function quiet(page) {
  assert.deepEqual(page.complaints, []);
}

/** From now on the page's chat answers go on for thousands of tokens: there is time to stop, watch or break them. */
export function longAnswers(page) {
  return page.route("**/v1/chat/completions", (route) => {
    const asked = route.request().postDataJSON();
    return route.continue({ postData: JSON.stringify({ ...asked, ignore_eos: true, max_tokens: 20000 }) });
  });
}

/** Waits until the dashboard or the chat names this state. */
export function state(page, kind, timeout = 20000) {
  return page.waitForSelector(`header[data-state="${kind}"]`, { timeout });
}
