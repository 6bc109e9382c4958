import { expect, test } from "vitest";
import { snapshot } from "../../dev/scenes.ts";
import { chip } from "./chip";
import { draftNote } from "./drafts";
import { strings } from "./strings";

const values = (scene: Parameters<typeof snapshot>[0]) => Object.fromEntries(chip(snapshot(scene)).rows.map((row) => [row.key, row.value]));

test("the GPU is shown where there is one, and what it does not tell is a dash", () => {
  const picture = snapshot("spark");
  const gpu = picture.machine.gpu;
  if (!gpu) throw new Error("the scene has a GPU");
  expect(chip(picture).title).toBe(strings.chip.gpu);
  expect(chip(picture).name).toBe("GB10");
  const silent = { ...picture, machine: { ...picture.machine, gpu: { ...gpu, power_w: null, sm_clock_mhz: null } } };
  const rows = Object.fromEntries(chip(silent).rows.map((row) => [row.key, row.value]));
  expect([rows["power"], rows["clock"]]).toEqual(["–", "–"]);
  expect(rows["heat"]).toBe("69");
});
test("a hot GPU is marked and what holds its clock is said", () => {
  const picture = snapshot("spark");
  const gpu = { ...picture.machine.gpu!, temperature_c: 91, held_by: ["heat (hardware)"] };
  const shown = chip({ ...picture, machine: { ...picture.machine, gpu } });
  expect(shown.rows.find((row) => row.key === "heat")?.warn).toBe(true);
  expect(shown.note).toContain("heat (hardware)");
});
test("without a GPU the processor is shown; its power is unknown, not zero", () => {
  expect(chip(snapshot("busy")).title).toBe(strings.chip.cpu);
  expect(values("busy")["power"]).toBe("–");
});
test("why there are no drafts is always said", () => {
  const off = snapshot("spark");
  expect(draftNote(snapshot("stopped"))).toBe(strings.drafts.notServing);
  expect(draftNote({ ...off, drafts: null })).toBe(strings.drafts.none);
  expect(draftNote({ ...off, drafts: { kept: [], tokens_per_round: null, depth: "0", rounds: 0 } })).toBe(strings.drafts.off);
  expect(draftNote({ ...off, drafts: { kept: [], tokens_per_round: null, depth: "auto", rounds: 7 } })).toBe(strings.drafts.idle);
});
