import { afterEach, expect, test, vi } from "vitest";
import { styled } from "./styled";

afterEach(() => vi.unstubAllGlobals());

/** A linked style sheet that is read when told so. */
function link(sheet: object | null) {
  const calls = new Map<string, () => void>();
  return { sheet, addEventListener: (name: string, call: () => void) => void calls.set(name, call), fire: (name: string) => calls.get(name)?.() };
}
const turn = () => new Promise((resolve) => setTimeout(resolve));

test("waits until every style sheet was read or could not be", async () => {
  const [read, late, broken] = [link({}), link(null), link(null)];
  vi.stubGlobal("document", { querySelectorAll: () => [read, late, broken] });
  let done = false;
  void styled().then(() => (done = true));
  await turn();
  late.fire("load");
  await turn();
  expect(done).toBe(false);
  broken.fire("error");
  await turn();
  expect(done).toBe(true);
});
