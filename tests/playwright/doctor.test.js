// The doctor's page against the real program: it finds what was broken on purpose, mends it by its button, and makes a report that
// gives nothing away. The command line finds the same.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { chmodSync, readFileSync, statSync } from "node:fs";
import path from "node:path";
import { after, before, test } from "node:test";
import { accessible } from "./lib/a11y.js";
import { Appliance } from "./lib/appliance.js";
import { launch, open, quiet } from "./lib/browser.js";

let hearth, browser, page, token;
before(async () => {
  [hearth, browser] = await Promise.all([new Appliance().up(), launch()]);
  token = path.join(hearth.home, "config/hearth/control-token");
  chmodSync(token, 0o644);
  page = await open(browser);
  await page.goto(hearth.window);
  await page.getByRole("navigation", { name: "Pages" }).getByRole("link", { name: "Doctor" }).click();
  await page.locator("li[data-check]").first().waitFor({ timeout: 60000 });
});
after(async () => {
  await browser?.close();
  await hearth?.close();
});
const row = (code) => page.locator(`li[data-check="${code}"]`);

/** `hearth doctor ARGS` with the same folders; it may end with 1. */
function command(...args) {
  const folder = (name) => path.join(hearth.home, name);
  const env = {
    ...process.env, HOME: hearth.home, XDG_CONFIG_HOME: folder("config"), XDG_STATE_HOME: folder("state"),
    XDG_RUNTIME_DIR: folder("run"), HF_HOME: folder("hf"),
  };
  return new Promise((resolve) => {
    execFile(process.env.HEARTH_BIN, ["doctor", ...args], { env }, (error, stdout) => resolve({ code: error?.code ?? 0, stdout }));
  });
}

test("a key that others can read is found, named with its mode, and stands before what is well", async () => {
  assert.equal(await row("permissions").getAttribute("data-state"), "fail");
  await row("permissions").getByText(/control-token: mode 644/).waitFor();
  const order = await page.locator("li[data-check]").evaluateAll((rows) => rows.map((one) => one.dataset.state));
  const rank = ["fail", "warn", "pass", "skipped"];
  assert.deepEqual(order, [...order].sort((a, b) => rank.indexOf(a) - rank.indexOf(b)));
  assert.ok(order.length >= 15, order.join(" "));
  await accessible(page, "doctor");
});

test("in a German window every word of it is German, but for what other programs say", async () => {
  const german = await open(browser, { locale: "de-DE" });
  await german.goto(hearth.window);
  await german.getByRole("navigation", { name: "Seiten" }).getByRole("link", { name: "Diagnose" }).click();
  const keys = german.locator('li[data-check="permissions"]');
  await keys.waitFor({ timeout: 60000 });
  await keys.getByText("Andere Konten dieses Rechners können Hearths Schlüssel lesen.").waitFor();
  await keys.getByText(/^Sie schließen\./).waitFor();
  await keys.getByText(/^control-token: Rechte 644 in /).waitFor();
  const found = await german.evaluate((token) => fetch("/api/doctor", { headers: { authorization: `Bearer ${token}` } }).then((r) => r.text()), hearth.token);
  const shown = await german.locator("li[data-check]").evaluateAll((rows) => rows.map((row) => row.textContent).join("\n"));
  for (const { title, finding } of JSON.parse(found).checks) {
    assert.ok(!shown.includes(finding.text), finding.text);
    if (!["Port", "Swap", "Hugging Face"].includes(title)) assert.ok(!shown.includes(title), title);
  }
  quiet(german);
  await german.context().close();
});

test("the command line finds the same and ends with 1", async () => {
  const table = await command();
  assert.equal(table.code, 1);
  assert.match(table.stdout, /^FAIL\s+Keys and tokens/m);
  const { checks, state } = JSON.parse((await command("--json")).stdout);
  assert.equal(state, "fail");
  assert.equal(checks.find((check) => check.code === "permissions").state, "fail");
  assert.equal(checks.find((check) => check.code === "port").state, "pass", "the running appliance holds its own port");
});

test("every command can be copied as it stands", async () => {
  await row("permissions").getByRole("button", { name: /^Copy the command chmod/ }).click();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), `chmod go= '${token}'`);
});

test("the button closes the file and the check passes", async () => {
  await row("permissions").getByRole("button", { name: "Close them" }).click();
  await page.waitForSelector('li[data-check="permissions"][data-state="pass"]', { timeout: 60000 });
  assert.equal(statSync(token).mode & 0o777, 0o600);
});

test("Hugging Face is not asked unless a person wants it", async () => {
  assert.equal(await row("hub").getAttribute("data-state"), "skipped");
  await row("hub").locator("summary").click();
  await row("hub").getByRole("button", { name: "Ask Hugging Face" }).waitFor();
});

test("the report is shown before it goes anywhere, and holds no secret, no home and no user", async () => {
  await page.getByRole("button", { name: "Report…" }).click();
  const dialog = page.getByRole("dialog", { name: "Report" });
  await dialog.getByText("Hearth report.").waitFor({ timeout: 60000 });
  const text = await dialog.locator("pre").textContent();
  assert.match(text, /Checks\n/);
  for (const secret of [readFileSync(token, "utf8").trim(), hearth.home]) assert.ok(!text.includes(secret), secret);
  await accessible(page, "report");
  const download = page.waitForEvent("download");
  await dialog.getByRole("button", { name: "Save as a file" }).click();
  assert.equal((await download).suggestedFilename(), "hearth-report.txt");
  assert.equal(readFileSync(await (await download).path(), "utf8"), text);
  await page.keyboard.press("Escape");
});

test("an unknown action is refused with a sentence", async () => {
  const answer = await hearth.api("doctor/fix", "POST", { action: "format_disk" });
  assert.equal(answer.error.code, "bad_message");
});

test("nothing complained", () => quiet(page));
