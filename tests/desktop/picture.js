// Takes the README's pictures: the real window while the built-in model serves, in both themes. Run by picture.sh.
import { writeFileSync } from "node:fs";
import { test } from "node:test";
import { sleep } from "../playwright/lib/appliance.js";
import { Home, Window } from "./lib/window.js";

const QUESTIONS = [
  "What is Hearth?",
  "How do I start a model?",
  "What is 4 + 5?",
  "Which port does Hearth listen on?",
  "Where are the settings kept?",
  "Does Hearth send my prompts anywhere?",
];

async function talk(home, seconds) {
  const end = Date.now() + seconds * 1000;
  for (let i = 0; Date.now() < end; i++) {
    const about = Array.from({ length: 1 + 12 * (i % 4) }, (_, n) => `Note ${n}: the meeting of room ${n} is at ${n % 12} o'clock.`);
    const content = `${about.join(" ")} ${QUESTIONS[i % QUESTIONS.length]}`;
    await fetch(`http://127.0.0.1:${home.port}/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ model: "ember", max_tokens: 200, messages: [{ role: "user", content: i % 2 ? content : QUESTIONS[i % QUESTIONS.length] }] }),
    }).then((answer) => answer.text());
    if (i % 5 === 4) await sleep(1500);
  }
}

/** Long answers, so that something is being written when the picture is taken. */
async function write(home, seconds) {
  const end = Date.now() + seconds * 1000;
  while (Date.now() < end) {
    await fetch(`http://127.0.0.1:${home.port}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ model: "ember", prompt: "A list of numbers: 1, 2, 3,", max_tokens: 4000, temperature: 1.3 }),
    }).then((answer) => answer.text());
  }
}

for (const theme of ["dark", "light"]) {
  test(`the window, ${theme}`, async () => {
    const home = await Home.make();
    const window = await Window.open(home);
    try {
      await window.see(`document.querySelector("header[data-state=stopped]") !== null`);
      const route = `http://127.0.0.1:${home.port}/api/settings`;
      const headers = { authorization: `Bearer ${home.read("config/hearth/control-token")}`, "content-type": "application/json" };
      const settings = await (await fetch(route, { headers })).json();
      await fetch(route, { method: "PUT", headers, body: JSON.stringify({ ...settings, theme }) });
      await window.click("header button", "Start");
      await window.see(`document.querySelector("header[data-state=serving]") !== null`);
      await window.run(`location.reload()`).catch(() => null);
      await sleep(2000);
      await window.click("button", "1 min");
      await talk(home, 45);
      const last = Promise.all([write(home, 7), write(home, 7)]);
      await sleep(5000);
      writeFileSync(`${process.env.HEARTH_PICTURES}/window-${theme}.png`, await window.screenshot());
      await last;
    } finally {
      home.again("--quit");
      await window.kill();
      home.close();
    }
  });
}
