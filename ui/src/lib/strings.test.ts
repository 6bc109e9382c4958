import { describe, expect, test } from "vitest";
import { english } from "./strings";
import { german } from "./strings.de";

type Leaf = [path: string, value: unknown];
/** Every text and function, by its path. */
function leaves(value: unknown, path = ""): Leaf[] {
  if (typeof value !== "object" || value === null) return [[path, value]];
  return Object.entries(value).flatMap(([key, inner]) => leaves(inner, path ? `${path}.${key}` : key));
}
const source = new Map(leaves(english));
const translation = new Map(leaves(german));
/** Marks that can be found again, and a number that takes the plural. */
const given = (length: number) => Array.from({ length }, (_, i) => 7001 + i);
const say = (value: unknown): string => {
  if (typeof value !== "function") return JSON.stringify(value);
  // Some take texts, some numbers; both can be told apart in what they say.
  const call = value as (...all: unknown[]) => unknown;
  try {
    return JSON.stringify(call(...given(value.length)));
  } catch {
    return JSON.stringify(call(...given(value.length).map(String)));
  }
};

describe("German says all that English says", () => {
  test("no key is missing and none is left over", () => {
    expect([...source.keys()].filter((path) => !translation.has(path))).toEqual([]);
    expect([...translation.keys()].filter((path) => !source.has(path))).toEqual([]);
  });
  test("every number, name and size that English tells is told in German too", () => {
    for (const [path, value] of source) {
      const theirs = translation.get(path);
      expect(typeof theirs, path).toBe(typeof value);
      const told = (text: string) => [...new Set(text.match(/700\d/g) ?? [])].sort();
      expect(told(say(theirs)), path).toEqual(told(say(value)));
    }
  });
  test("no text is empty where the other is not", () => {
    for (const [path, value] of source) expect(translation.get(path) === "", path).toBe(value === "");
  });
});
