import { expect, test } from "vitest";
import { asRepository } from "./shelf.svelte";

test("a repository is known as such however it was copied", () => {
  for (const text of [
    "Qwen/Qwen3.6-35B-A3B",
    " https://huggingface.co/Qwen/Qwen3.6-35B-A3B ",
    "https://huggingface.co/Qwen/Qwen3.6-35B-A3B/tree/main",
    "https://huggingface.co/Qwen/Qwen3.6-35B-A3B/",
  ]) {
    expect(asRepository(text)).toBe("Qwen/Qwen3.6-35B-A3B");
  }
});

test("words are words", () => {
  for (const text of ["qwen 3.6", "qwen", "a/b/c", "../up", "-a/b", "a/", "", "and/or what"]) expect(asRepository(text)).toBeNull();
});
