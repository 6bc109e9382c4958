import { expect, test } from "vitest";
import { settings } from "../../dev/scenes.ts";
import { fromForm, problems, toForm } from "./settings-form";

const form = (over: object = {}) => ({ ...toForm(settings), ...over });

test("a form that nobody touched gives the same settings", () => {
  expect(fromForm(form(), settings)).toEqual(settings);
});
test("an empty context is automatic, not zero", () => {
  expect(fromForm(form({ context: "" }), settings).profile.context).toBeNull();
  expect(problems(form({ context: "" }), 4096)).toEqual({});
});
test("what the form does not show is kept", () => {
  const before = { ...settings, memory_reserve: 5, host: "::1" };
  expect(fromForm(form({ theme: "dark" }), before)).toMatchObject({ memory_reserve: 5, host: "::1", theme: "dark" });
});
test("numbers may be grouped", () => {
  expect(fromForm(form({ context: "4 096" }), settings).profile.context).toBe(4096);
});
test("each bad number gets a sentence with its limits", () => {
  for (const bad of ["0", "-1", "1.5", "x", "1e3", "99999999999", "NaN"]) {
    expect(problems(form({ context: bad }), 4096).context).toMatch(/16 to 4096/);
    expect(problems(form({ port: bad }), null).port).toMatch(/1 to 65535/);
    expect(problems(form({ maxRequests: bad }), null).maxRequests).toMatch(/1 to 256/);
  }
  expect(problems(form({ context: "4097" }), 4096).context).toBeDefined();
  expect(problems(form({ port: "" }), null).port).toBeDefined();
});
