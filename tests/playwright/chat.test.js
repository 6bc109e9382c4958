// The chat over days: kept and found again, asked in other words, other answers, set up, exported, deleted, and not kept at all.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { accessible } from "./lib/a11y.js";
import { Appliance, until } from "./lib/appliance.js";
import { launch, open, quiet } from "./lib/browser.js";

let hearth, browser, page;
before(async () => {
  [hearth, browser] = await Promise.all([new Appliance().up(), launch()]);
  await hearth.start();
  page = await open(browser);
  await visit();
});
after(async () => {
  await browser?.close();
  await hearth?.close();
});

async function visit() {
  await page.goto(hearth.window);
  await page.waitForSelector("header[data-state=serving]");
  await page.evaluate(() => (location.hash = "#/chat"));
  await page.getByLabel("Message", { exact: true }).waitFor();
}
const answers = () => page.locator("article[data-end]");
const answered = () => until("the answer", async () => /done|length/.test((await answers().last().getAttribute("data-end").catch(() => null)) ?? ""), 60000);
async function ask(text) {
  await page.getByLabel("Message", { exact: true }).fill(text);
  await page.keyboard.press("Enter");
  await page.locator("article", { hasText: text }).first().waitFor();
  await answered();
}
const list = () => page.getByRole("list", { name: "Chats" });
const entry = (name) => list().getByRole("button", { name, exact: false }).first();

test("another answer and other words stand beside the old ones", async () => {
  await ask("What is Hearth?");
  await page.getByRole("button", { name: "Retry" }).click();
  await page.getByText("2 of 2").waitFor();
  await answered();
  await page.getByRole("button", { name: "Version before" }).click();
  await page.getByText("1 of 2").waitFor();

  await page.getByRole("button", { name: "Edit" }).first().click();
  await page.getByLabel("Edited message").fill("What is 3 plus 4?");
  await page.getByRole("button", { name: "Ask again" }).click();
  await page.locator("article", { hasText: "What is 3 plus 4?" }).first().waitFor();
  await answered();
  assert.equal(await page.locator("article", { hasText: "What is Hearth?" }).count(), 0, "the branch with the old words is put away");
  const question = page.getByRole("article", { name: "You" });
  await question.getByRole("button", { name: "Version before" }).click();
  await question.getByText("What is Hearth?").waitFor();
  await accessible(page, "chat with versions");
});

test("a chat is there again after the window was closed, with all its versions", async () => {
  await until("the list", async () => (await list().getByRole("listitem").count()) === 1);
  await page.reload();
  await page.waitForSelector("main");
  await entry("What is Hearth?").click();
  const question = page.getByRole("article", { name: "You" });
  await question.getByText("1 of 2").waitFor();
  await question.getByRole("button", { name: "Version after" }).click();
  await question.getByText("What is 3 plus 4?").waitFor();
  await page.getByText(/tok\/s/).first().waitFor();
});

test("chats are found by their words, and the words are marked", async () => {
  await page.getByRole("button", { name: "New chat" }).click();
  await ask("Which port is used?");
  await until("two chats", async () => (await list().getByRole("listitem").count()) === 2);
  await page.getByLabel("Search chats").fill("hear");
  await until("one found", async () => (await list().getByRole("listitem").count()) === 1);
  assert.match((await list().locator("mark").first().textContent()).toLowerCase(), /hearth/);
  await page.getByLabel("Search chats").fill("zeppelin");
  await page.getByText("No chat has these words.").waitFor();
  await page.getByLabel("Search chats").fill("");
  await until("all again", async () => (await list().getByRole("listitem").count()) === 2);
});

test("system prompt and sampling are what the endpoint is asked with, and nothing else is", async () => {
  await page.getByRole("button", { name: "New chat" }).click();
  await page.getByRole("button", { name: "Options" }).click();
  const dialog = page.getByRole("dialog", { name: "How it answers" });
  await dialog.getByLabel("Temperature").fill("3");
  await dialog.getByText("A number from 0 to 2.").waitFor();
  assert.ok(await dialog.getByRole("button", { name: "Apply" }).isDisabled());
  await dialog.getByLabel("Temperature").fill("0");
  await dialog.getByLabel("Max tokens").fill("5");
  await dialog.getByLabel("System prompt").fill("Be brief.");
  await accessible(page, "options");
  await dialog.getByRole("button", { name: "Apply" }).click();
  const asked = page.waitForRequest("**/v1/chat/completions");
  await ask("What is a token?");
  const body = (await asked).postDataJSON();
  assert.deepEqual(body.messages[0], { role: "system", content: "Be brief." });
  assert.deepEqual([body.temperature, body.max_tokens, "top_p" in body, "seed" in body], [0, 5, false, false]);
  assert.equal(await answers().last().getAttribute("data-end"), "length");
});

test("a chat can be given another name, which the list shows and an empty one takes back", async () => {
  const rename = async (name) => {
    await page.getByRole("button", { name: "Options" }).click();
    await page.getByLabel("Name of this chat").fill(name);
    await page.getByRole("button", { name: "Apply" }).click();
  };
  await rename("About tokens");
  await page.getByRole("heading", { name: "About tokens" }).waitFor();
  await entry("About tokens").waitFor();
  await rename("");
  await page.getByRole("heading", { name: "What is a token?" }).waitFor();
});

test("a chat is exported as Markdown and as JSON", async () => {
  await page.getByRole("button", { name: "Export" }).click();
  const dialog = page.getByRole("dialog", { name: "Export this chat" });
  await accessible(page, "export");
  const saved = async (kind) => {
    const [file] = await Promise.all([page.waitForEvent("download"), dialog.getByRole("button", { name: `Save as ${kind}` }).click()]);
    return [file.suggestedFilename(), readFileSync(await file.path(), "utf8")];
  };
  const [name, text] = await saved("Markdown");
  assert.equal(name, "What-is-a-token.md");
  assert.match(text, /# What is a token\?[^]*Be brief\.[^]*What is a token\?/);
  const chat = JSON.parse((await saved("JSON"))[1]);
  assert.deepEqual([chat.system, chat.sampling.max_tokens, chat.messages.length], ["Be brief.", 5, 2]);
  await page.keyboard.press("Escape");
});

test("deleting asks by name, and what is deleted is gone", async () => {
  await list().getByRole("button", { name: "Delete “Which port is used?”" }).click();
  const dialog = page.getByRole("dialog", { name: "Delete this chat?" });
  await dialog.getByText("“Which port is used?” is removed").waitFor();
  await dialog.getByRole("button", { name: "Keep it" }).click();
  assert.equal(await list().getByText("Which port is used?").count(), 1);
  await list().getByRole("button", { name: "Delete “Which port is used?”" }).click();
  await dialog.getByRole("button", { name: "Delete chat" }).click();
  await list().getByText("Which port is used?").waitFor({ state: "detached" });
  assert.ok((await hearth.api("chats")).every((chat) => chat.title !== "Which port is used?"));
});

test("where chats are not kept, nothing is written down and the page says so", async () => {
  const settings = await hearth.api("settings");
  await hearth.api("settings", "PUT", { ...settings, keep_chats: false });
  await page.reload();
  await page.getByText("Chats are not kept: this one is gone when the window closes.").waitFor();
  const before = await hearth.api("chats");
  await ask("What is 5 plus 5?");
  await page.getByText("New chats are not kept.").waitFor();
  assert.deepEqual(await hearth.api("chats"), before);
  quiet(page);
});
