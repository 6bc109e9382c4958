// Colours for code, fetched from the same origin when the chat is first opened; until then, and for languages it does not know,
// code is plain. Called by the chat page (`load`) and by markdown.ts.
import type { HLJSApi } from "highlight.js";

let highlighter = $state.raw<HLJSApi | null>(null);
let loading = false;

export function load(): void {
  if (loading) return;
  loading = true;
  import("./languages").then(
    (module) => (highlighter = module.highlighter),
    // Without colours the code is as readable as before.
    () => (loading = false),
  );
}

/** Escaped HTML with classes; null where there is nothing to colour by. */
export function coloured(code: string, language: string): string | null {
  if (!highlighter?.getLanguage(language)) return null;
  return highlighter.highlight(code, { language, ignoreIllegals: true }).value;
}
