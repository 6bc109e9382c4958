// The real window against the real appliance and the built-in model, on a screen that nobody sees (run.sh).
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { createServer } from "node:net";
import path from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { Appliance, until } from "../playwright/lib/appliance.js";
import { Home, Window, isRunning } from "./lib/window.js";

let home, window;
beforeEach(async () => (home = await Home.make()));
afterEach(async () => {
  await window?.kill();
  home.close();
});

test("a newcomer's window starts an appliance, and Start ends in Serving", async () => {
  window = await Window.open(home);
  await window.see(`document.querySelector("header[data-state=stopped]") !== null`);
  assert.equal(new URL(await window.url()).host, `127.0.0.1:${home.port}`);
  assert.equal(await window.run(`return location.hash`), "", "the token does not stay in the address");
  await window.click("header button", "Start");
  await window.see(`document.querySelector("header[data-state=serving]") !== null`);
  assert.equal(await home.state(), "serving");
  if (process.env.HEARTH_PICTURES) writeFileSync(path.join(process.env.HEARTH_PICTURES, "window.png"), await window.screenshot());

  // The dashboard is served over HTTP; the shell's commands are for the bundled page alone.
  const refused = await window.run(`return window.__TAURI__ ? await window.__TAURI__.core.invoke("retry") : "failed: no bridge"`);
  assert.match(String(refused), /^failed: /);
  // A link to elsewhere opens in the system's browser and leaves the window where it is.
  await window.run(`location.href = "https://hearth.invalid/"`);
  await window.see(`document.querySelector("header[data-state=serving]") !== null`);

  // Quit, from a second call, takes the appliance along, and the engine with it.
  const appliance = home.appliance();
  home.again("--quit");
  await until("the appliance's end", () => !isRunning(appliance), 30000);
  assert.equal(await home.state(), null);
});

test("the appliance of a window that was killed serves on, and the next window takes it over", async () => {
  window = await Window.open(home);
  await window.see(`document.querySelector("header[data-state]") !== null`);
  const appliance = home.appliance();
  await window.kill();
  assert.equal(await home.state(), "stopped", "clients notice nothing");

  window = await Window.open(home);
  await window.see(`document.querySelector("header[data-state]") !== null`);
  assert.equal(home.appliance(), appliance, "no second one was started");
  home.again("--quit");
  await until("the appliance's end", () => !isRunning(appliance), 30000);
});

test("an appliance that somebody else started outlives the window", async () => {
  const other = new Appliance();
  other.home = home.folder;
  other.port = home.port;
  await other.up();
  window = await Window.open(home);
  await window.see(`document.querySelector("header[data-state]") !== null`);
  const shell = window.pid();
  home.again();
  assert.ok(isRunning(shell), "a second call brings the first window to the front and ends");
  home.again("--quit");
  await until("the window's end", () => !isRunning(shell));
  assert.equal(await home.state(), "stopped");

  // And when it goes, the window says so and offers to start one.
  window.release();
  window = await Window.open(home);
  await window.see(`document.querySelector("header[data-state]") !== null`);
  await other.end();
  await window.see(`document.getElementById("retry")?.hidden === false`);
  assert.equal(await window.run(`return document.getElementById("sentence").textContent`), "Hearth is not running any more.");
  await window.click("button", "Try again");
  await window.see(`document.querySelector("header[data-state]") !== null`);
});

test("a port in use is told with the process that has it, and Retry works once it is free", async () => {
  const squatter = createServer().listen(home.port, "127.0.0.1");
  window = await Window.open(home);
  await window.see(`document.getElementById("retry")?.hidden === false`);
  const evidence = await window.run(`return document.getElementById("evidence").textContent`);
  assert.match(evidence, new RegExp(`${home.port}[^]*${process.pid}`), "the port, and who has it");
  await new Promise((resolve) => squatter.close(resolve));
  await window.click("button", "Try again");
  await window.see(`document.querySelector("header[data-state]") !== null`);
});
