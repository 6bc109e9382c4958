// Build of the UI: one page, files only (no inline script or style), so that it runs under `default-src 'self'`.
// `--mode fake` adds the invented control server of dev/, which is never part of a build.
import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vitest/config";
import { licences } from "./build/licences.ts";
import { fakeControl } from "./dev/fake-control.ts";

export default defineConfig(({ mode }) => ({
  plugins: [svelte(), licences(import.meta.dirname), ...(mode === "fake" ? [fakeControl()] : [])],
  build: {
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
  },
  test: { include: ["src/**/*.test.ts"] },
}));
