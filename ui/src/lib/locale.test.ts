import { expect, test } from "vitest";
import { tolerant } from "./locale";

/** Refuses "C", as WebKit does; not every engine's Intl does. */
class Refusing extends Intl.NumberFormat {
  constructor(language?: string, options?: Intl.NumberFormatOptions) {
    if (language === "C") throw new RangeError("invalid language tag: C");
    super(language, options);
  }
}
const Numbers = tolerant(Refusing);

test("a language that Intl refuses is English instead of an exception", () => {
  expect(new Numbers("C").format(1234.5)).toBe("1,234.5");
});
test("a known language stays", () => {
  expect(new Numbers("de").format(1234.5)).toBe("1.234,5");
});
test("other mistakes stay exceptions", () => {
  expect(() => new Numbers("en", { style: "currency" })).toThrow(TypeError);
});
