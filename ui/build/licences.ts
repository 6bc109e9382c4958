// Writes licences.txt beside the built page: the licence of every package whose code or fonts are in it. Called by the build.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import type { Plugin } from "vite";

interface Package {
  name: string;
  version: string;
  license?: string;
  dependencies?: Record<string, string>;
}

const read = (folder: string) => JSON.parse(readFileSync(path.join(folder, "package.json"), "utf8")) as Package;

/** The packages that end in the page: dependencies, the framework's runtime, and what these need. */
function packages(root: string): Map<string, string> {
  const found = new Map<string, string>();
  const queue = [...Object.keys(read(root).dependencies ?? {}), "svelte"];
  for (let name = queue.pop(); name !== undefined; name = queue.pop()) {
    const folder = path.join(root, "node_modules", name);
    if (found.has(name) || !existsSync(folder)) continue;
    found.set(name, folder);
    // Svelte's dependencies belong to its compiler; its runtime has none of them but these two.
    const needs = name === "svelte" ? ["clsx", "esm-env"] : Object.keys(read(folder).dependencies ?? {});
    queue.push(...needs);
  }
  return found;
}

export function licences(root: string): Plugin {
  return {
    name: "licences",
    apply: "build",
    generateBundle() {
      const texts = [...packages(root)].sort().map(([name, folder]) => {
        const { version, license } = read(folder);
        const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
        if (!license && !file) this.error(`${name} has no licence`);
        const text = file ? readFileSync(path.join(folder, file), "utf8").trim() : "";
        return `${name} ${version} (${license ?? "see below"})\n\n${text}`;
      });
      const head = "Hearth's pages contain the following packages. Hearth itself is under the Apache License 2.0.";
      this.emitFile({ type: "asset", fileName: "licences.txt", source: [head, ...texts].join(`\n\n${"-".repeat(80)}\n\n`) });
    },
  };
}
