import { expect, test } from "vitest";
import { settings } from "../../dev/scenes.ts";
import { fromForm, problems, reduced, toForm } from "./settings-form";

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
test("layers with a type of their own are a tick for the ends, and anything else stays as it was", () => {
  const of = (kv: string) => toForm({ ...settings, profile: { ...settings.profile, kv } });
  const back = (kv: string, over: object = {}) => fromForm({ ...of(kv), ...over }, settings).profile.kv;
  expect([of("fp8:ends=bf16").kv, of("fp8:ends=bf16").kvEnds, of("fp8").kvEnds]).toEqual(["fp8", true, false]);
  for (const kv of ["bf16", "nvfp4", "nvfp4:ends=bf16", "fp8:3=bf16", "fp8:3=bf16:ends=bf16"]) expect(back(kv)).toBe(kv);
  expect(back("nvfp4", { kvEnds: true })).toBe("nvfp4:ends=bf16");
  expect(back("nvfp4:ends=bf16", { kv: "bf16" })).toBe("bf16");
});
test("the head for drafts is sent as it was chosen", () => {
  expect(fromForm(form({ draftHead: "nvfp4:32768" }), settings).profile.draft_head).toBe("nvfp4:32768");
});
test("a file of tokens for drafts is a whole path, and a head that counts its own tokens takes none", () => {
  const file = (draftHead: string, draftVocabulary: string) => fromForm(form({ draftHead, draftVocabulary }), settings).profile.draft_vocabulary;
  expect([file("nvfp4", " /ids.txt "), file("full", ""), file("nvfp4:32768", "/ids.txt"), file("32768", "/ids.txt")]).toEqual(["/ids.txt", null, null, null]);
  expect(problems(form({ draftVocabulary: "ids.txt" }), null).draftVocabulary).toMatch(/beginning with \//);
  expect(problems(form({ draftVocabulary: "/ids.txt" }), null)).toEqual({});
  expect([reduced("fp8"), reduced("nvfp4"), reduced("full"), reduced("fp8:4096"), reduced("512")]).toEqual([false, false, false, true, true]);
});
test("numbers may be grouped", () => {
  expect(fromForm(form({ context: "4 096" }), settings).profile.context).toBe(4096);
});
test("sampling is a number with point or comma, or the authors' recommendation", () => {
  expect(fromForm(form({ temperature: "0,7", topP: "0.95", topK: "20", minP: "" }), settings).profile.sampling).toEqual({
    temperature: 0.7,
    top_p: 0.95,
    top_k: 20,
    min_p: null,
  });
  expect(problems(form({ temperature: "0", minP: "1", topK: "0" }), null)).toEqual({});
  for (const bad of ["-1", "x", "3", "1e1", "NaN"]) {
    expect(problems(form({ temperature: bad }), null).temperature).toMatch(/0 to 2/);
  }
  expect(problems(form({ topP: "0" }), null).topP).toBeDefined();
  expect(problems(form({ maxWaiting: "0" }), null).maxWaiting).toBeDefined();
});
test("prompts are kept on disk only where a whole number of GiB says how many", () => {
  expect(fromForm(form({ prefixDisk: "" }), settings).profile.prefix_disk_gib).toBeNull();
  expect(fromForm(form({ prefixDisk: "64" }), settings).profile.prefix_disk_gib).toBe(64);
  for (const bad of ["0", "-1", "1.5", "x", "16385"]) {
    expect(problems(form({ prefixDisk: bad }), null).prefixDisk).toMatch(/1 to 16384/);
  }
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
