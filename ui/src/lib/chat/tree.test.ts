import { expect, test } from "vitest";
import { branch, newestEnd, versions } from "./tree";

const node = (id: string, parent: string | null) => ({ id, parent });
// q1 -> a1, a2; a2 -> q2 -> a3; and an edited first question q1b -> a4.
const all = [node("q1", null), node("a1", "q1"), node("a2", "q1"), node("q2", "a2"), node("a3", "q2"), node("q1b", null), node("a4", "q1b")];
const ids = (list: { id: string }[]) => list.map(({ id }) => id).join(" ");

test("a branch goes from the first message to its head and has nothing of the others", () => {
  expect(ids(branch(all, "a3"))).toBe("q1 a2 q2 a3");
  expect(ids(branch(all, "a1"))).toBe("q1 a1");
  expect(ids(branch(all, null))).toBe("");
  expect(ids(branch(all, "gone"))).toBe("");
});
test("versions are what follows the same message, first questions too", () => {
  expect(versions(all, node("a2", "q1"))).toMatchObject({ at: 1, list: [{ id: "a1" }, { id: "a2" }] });
  expect(versions(all, node("q1b", null)).at).toBe(1);
});
test("going to a version shows its newest branch to the end", () => {
  expect(newestEnd(all, "q1")).toBe("a3");
  expect(newestEnd(all, "a1")).toBe("a1");
  expect(newestEnd(all, "q1b")).toBe("a4");
});
