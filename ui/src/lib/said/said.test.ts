// Holds the German sentences against the sources of Hearth: every code that Hearth can send has its sentences, none is left over, and
// each is made only of names and numbers that come with that code.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { german } from "./de";
import { inLanguage } from "./in-language";
import { say, type Text, type Values } from "./words";

const CRATES = join(import.meta.dirname, "../../../../src-tauri/crates");
interface Source {
  path: string;
  text: string;
}

/** A source without its tests and comments. */
const code = (text: string): string => (text.split("#[cfg(test)]\nmod tests {")[0] ?? "").replace(/^\s*\/\/.*$/gm, "");

/** Every source, without its tests. */
function sources(folder: string): Source[] {
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith(".rs") && !/tests?\.rs$/.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name))
    .filter((path) => /\/src\//.test(path) && !/\/(fake|tests|bench\/tests)\//.test(path))
    .map((path) => ({ path, text: code(readFileSync(path, "utf8")) }));
}
const all = sources(CRATES);
/** `hearth` commands that only a terminal sees. */
const sent = all.filter(({ path }) => !/\/crates\/cli\//.test(path));

/** The names given with `.with("name", …)` after a place in the text, up to the next fault. */
function withs(text: string, from: number, next: RegExp): string[] {
  const rest = text.slice(from, from + 1600);
  const end = rest.slice(1).search(next);
  const near = end < 0 ? rest : rest.slice(0, end + 1);
  return [...near.matchAll(/\.with\(\s*"(\w+)"/g)].map((hit) => hit[1] ?? "");
}

/** Code -> names that may come with it. */
function collect(): { faults: Map<string, Set<string>>; notices: Map<string, Set<string>>; forwarded: Set<string> } {
  const faults = new Map<string, Set<string>>();
  const notices = new Map<string, Set<string>>();
  const forwarded = new Set<string>();
  const add = (into: Map<string, Set<string>>, code: string, names: Iterable<string>) => {
    const known = into.get(code) ?? new Set<string>();
    for (const name of names) known.add(name);
    into.set(code, known);
  };
  for (const { path, text } of sent) {
    for (const hit of text.matchAll(/\b(Fault::new|bad|self\.condemn)\(\s*(?:"(\w+)"|([^,"]+),)/g)) {
      // Elsewhere `bad` names a setting.
      if (hit[1] === "bad" && !path.includes("/control/")) continue;
      if (hit[2]) add(faults, hit[2], withs(text, hit.index, /Fault::new\(/));
      else if (hit[1] === "Fault::new") forwarded.add(hit[3]?.trim() ?? "");
    }
    for (const hit of text.matchAll(/Notice::new\(\s*"(\w+)"/g)) add(notices, hit[1] ?? "", withs(text, hit.index, /Notice::new\(/));
    // Errors as enums: `Variant { .. } => "code"` or `Variant => "code"`, and the variant's fields.
    const codes = /fn code\(&self\)[^{]*\{([\s\S]*?)\n    \}/.exec(text)?.[1] ?? "";
    for (const hit of codes.matchAll(/((?:\|?\s*\w+::\w+[^=|]*)+)=>\s*\{?\s*"(\w+)"/g)) {
      add(faults, hit[2] ?? "", []);
      for (const variant of (hit[1] ?? "").matchAll(/(?:^|[\s|])\w+::(\w+)/g)) add(faults, hit[2] ?? "", fields(text, variant[1] ?? ""));
    }
    // The driver's numbers, and the codes of a benchmark's failures.
    for (const hit of text.matchAll(/"(device_\w+)",\s*\n?\s*"[A-Z]/g)) add(faults, hit[1] ?? "", []);
    for (const hit of text.matchAll(/\("(bench_\w+)", /g)) add(faults, hit[1] ?? "", withs(text, hit.index, /\nimpl /));
    for (const hit of text.matchAll(/\{?\s*\(\s*"(bench_no_answer)"/g)) add(faults, hit[1] ?? "", withs(text, hit.index, /\nimpl /));
  }
  // `given_up` in supervisor/drive.rs is added to the faults of an engine that is not started again.
  for (const [code, names] of faults) if (/^(engine_(crashed|stuck|silent)|device_)/.test(code)) names.add("given_up");
  for (const code of ["engine_silent", "engine_stuck"]) faults.get(code)?.add("seconds");
  return { faults, notices, forwarded };
}

function fields(text: string, variant: string): string[] {
  const body = new RegExp(`\\n    ${variant} \\{([\\s\\S]*?)\\n?    ?\\},?\\n`).exec(text)?.[1] ?? "";
  const plain = body.replace(/\/\/\/[^\n]*/g, "").replace(/#\[[^\]]*\]/g, "");
  return [...plain.matchAll(/(?:^|[\s,])(\w+):\s/g)].map((hit) => hit[1] ?? "");
}

/** The names that a sentence asks for, whichever of them came: tried with every name that may come, and without each. */
function asked(text: Text | undefined, names: Set<string>): Set<string> {
  const seen = new Set<string>();
  if (typeof text !== "function") return seen;
  const values = (without: string | null): Values =>
    new Proxy({} as Values, {
      get: (_, name) => {
        if (typeof name === "string") seen.add(name);
        return name === "plan" ? { needed: 3, reserve: 1 } : name === "types" || name === "files" || name === "programs" || name === "names" || name === "pids" ? ["a"] : 7;
      },
      has: (_, name) => names.has(String(name)) && name !== without,
    });
  for (const without of [null, ...names]) text(values(without));
  return seen;
}

const { faults, notices, forwarded } = collect();

describe("every code that Hearth can send is said in German", () => {
  test("faults", () => {
    expect(faults.size).toBeGreaterThan(120);
    expect([...faults.keys()].filter((code) => !(code in german.faults)).sort()).toEqual([]);
    expect(Object.keys(german.faults).filter((code) => !faults.has(code)).sort()).toEqual([]);
  });
  test("a code that is not written where the fault is made is one of those that come from an error's own list", () => {
    const known = ["error.code()", "self.code()", "*code_here", "code", "&refusal.code", "&problem.code", "self.code"];
    expect([...forwarded].filter((one) => !known.includes(one))).toEqual([]);
  });
  test("notices", () => {
    expect(notices.size).toBeGreaterThan(6);
    expect([...notices.keys()].sort()).toEqual(Object.keys(german.notices).sort());
  });
  test("each is made of what comes with it", () => {
    for (const [code, names] of faults) {
      for (const text of german.faults[code] ?? []) expect([...asked(text, names)].filter((name) => !names.has(name)), code).toEqual([]);
    }
    for (const [code, names] of notices) expect([...asked(german.notices[code], names)].filter((name) => !names.has(name)), code).toEqual([]);
  });
});

describe("the doctor speaks German", () => {
  const checks = all.filter(({ path }) => /\/monitor\/src\/doctor\//.test(path)).map(({ text }) => text);
  const said = new Map<string, Set<string>>();
  for (const text of checks) {
    for (const hit of text.matchAll(/\bsay!\(\s*(\w+),\s*"(?:[^"\\]|\\.)*"/g)) {
      const call = text.slice(hit.index, text.slice(hit.index).search(/\)(?:[;,)\n]|\s)/) < 0 ? undefined : hit.index + 700);
      const own = call.slice(hit[0].length).split(/\bsay!\(/)[0] ?? "";
      const names = said.get(hit[1] ?? "") ?? new Set<string>();
      for (const name of own.matchAll(/(?:^|[\s,(])(\w+) = /g)) names.add(name[1] ?? "");
      for (const name of own.matchAll(/\.with\("(\w+)"/g)) names.add(name[1] ?? "");
      said.set(hit[1] ?? "", names);
    }
  }
  test("every sentence", () => {
    said.delete("sample");
    expect(said.size).toBeGreaterThan(90);
    expect([...said.keys()].filter((code) => !(code in german.doctor)).sort()).toEqual([]);
    expect(Object.keys(german.doctor).filter((code) => !said.has(code)).sort()).toEqual([]);
  });
  test("each is made of what comes with it", () => {
    for (const [code, names] of said) expect([...asked(german.doctor[code], names)].filter((name) => !names.has(name)), code).toEqual([]);
  });
  test("every check has its title", () => {
    const codes = checks.flatMap((text) => [...text.matchAll(/= Subject\("(\w+)"/g)].map((hit) => hit[1] ?? ""));
    expect(codes.length).toBeGreaterThan(12);
    expect(codes.sort()).toEqual(Object.keys(german.titles).sort());
  });
});

test("every suggested model says in German what it is good for", () => {
  const { models } = JSON.parse(readFileSync(join(CRATES, "hub/src/catalogue.json"), "utf8")) as { models: { repository: string; needs?: string }[] };
  expect(models.map((model) => model.repository).sort()).toEqual(Object.keys(german.goodFor).sort());
  for (const { needs } of models) if (needs) expect(german.lacks(needs)).not.toBe(needs);
});

describe("an answer is put into the window's language wherever a sentence stands in it", () => {
  const fault = { code: "does_not_fit", message: "m", next_step: "n", evidence: null, values: { model: "a/b", context: 4096, needed: 2 ** 31, available: 2 ** 30 } };
  test("a fault is made of its numbers", () => {
    const { state } = inLanguage({ state: { kind: "error", fault } }, german);
    expect(state.fault.message).toMatch(/^a\/b .* braucht 2[.,]0.GiB Speicher; 1[.,]0.GiB sind zu haben\.$/);
    expect(state.fault.next_step).toMatch(/^Einen kleineren Kontext/);
  });
  test("a fault without the numbers it needs, and one of a code that is not known, stay in English as a whole", () => {
    expect(inLanguage({ ...fault, values: { model: "a/b" } }, german)).toMatchObject({ message: "m", next_step: "n" });
    expect(inLanguage({ ...fault, code: "new_code" }, german)).toMatchObject({ message: "m", next_step: "n" });
  });
  test("a notice with a fault in it says both in one language, and a notice of the engine is its fault", () => {
    const returned = { code: "returned_to_last_good", level: "error", text: "t", values: { failed: "a", runs: "b", fault } };
    expect(inLanguage([returned], german)[0]?.text).toMatch(/^a konnte nicht gestartet werden: a\/b .* b läuft wieder\.$/);
    const expanded = { code: "gguf_expanded", level: "warning", text: "t", values: { types: ["Q4_K"], stored: 1e9, loaded: 3e9 } };
    expect(inLanguage(expanded, german).text).toMatch(/Q4_K.*entfaltet.*bleibt gepackt\.$/);
  });
  test("a check has its title, its finding, what was seen and its fix", () => {
    const line = (code: string, values: Values = {}) => ({ code, text: "English", values });
    const check = { code: "swap", title: "Swap", state: "warn", finding: line("swap_used"), evidence: [line("seen_swap", { used: 2 ** 31, total: 2 ** 34 }), line("quoted")], fix: { text: line("fix_swap"), commands: [], action: null } };
    const told = inLanguage({ ...check, code: "port", title: "Port" }, german);
    expect([told.title, told.finding.text, told.evidence[0]?.text, told.evidence[1]?.text, told.fix.text.text]).toEqual([
      "Port", german.doctor["swap_used"], expect.stringMatching(/von 16[.,]0.GiB belegt$/), "English", german.doctor["fix_swap"],
    ]);
  });
  test("in English nothing is touched", () => expect(inLanguage(fault, undefined)).toBe(fault));
  test("a sentence without a value it needs is not said", () => expect(say((v) => `${v["x"]}`, { x: null })).toBeNull());
});
