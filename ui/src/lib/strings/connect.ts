// The words of the page Connect, and of the address at the top of every page.
import { plural } from "./plural";

export const connect = {
  endpoint: {
    label: "Endpoint",
    copy: "Copy",
    copyLabel: "Copy the address of the endpoint",
    copied: "Copied",
    notCopied: "Select and copy by hand",
    use: "Use it from…",
  },

  use: {
    title: "Use it from…",
    intro: "Any program that speaks to OpenAI can use this address. It stays on this machine.",
    base: "Base URL",
    model: "Model",
    key: "API key",
    keyNote: "anything; it is not checked on this machine",
    curl: "curl",
    python: "Python",
    copy: (what: string) => `Copy ${what}`,
    prompt: "What is Hearth?",
    more: "More programs, and a test of the endpoint",
    close: "Close",
  },

  connect: {
    title: "Connect",
    clients: "Programs",
    terminal: "In a terminal",
    openWebUi: "In a terminal; then open http://127.0.0.1:8080",
    cline: "In VS Code: Cline, Settings",
  },

  conformance: {
    title: "Test my endpoint",
    intro: "Asks the endpoint what programs ask, and looks at how it answers. Takes a few short requests.",
    run: "Test it",
    stop: "Stop",
    running: "asking…",
    notReady: "Start the model first.",
    verdicts: { pass: "right", fail: "wrong", open: "open", absent: "not there" } as Record<string, string>,
    summary: (pass: number, fail: number, open: number, absent: number) =>
      `${pass} right, ${fail} wrong, ${open} left open by the model, ${absent} not in this version.`,
    checks: {
      models: "List of models",
      plain: "Answer in one piece",
      stream: "Answer as a stream",
      tool: "Call of a tool",
      tools: "Two tools, streamed",
      schema: "JSON by a schema",
      long: "Prompt over the context",
      bad: "Bad input is refused",
      completions: "Text completions",
      messages: "Anthropic messages",
      responses: "OpenAI responses",
    } as Record<string, string>,
    counted: (read: number, written: number) => `${read} tokens read, ${written} written`,
    pieces: (n: number) => `${plural(n, "piece")}, ended in order`,
    noText: "the answer has no text",
    noFinish: "finish_reason is missing",
    badUsage: "usage does not add up",
    noEvents: "this is no event stream",
    missing: (what: string) => `missing: ${what}`,
    inWords: "the model answered in words instead",
    cutSilently: "it was answered, so it must have been cut silently",
  },
};
