// The words of the page Connect, and of the address at the top of every page, in German.
import { plural } from "./plural";
import type { Translation } from "./translation";
import type { connect } from "./connect";

export const connectGerman: Translation<typeof connect> = {
  endpoint: {
    label: "Endpunkt",
    copy: "Kopieren",
    copyLabel: "Adresse des Endpunkts kopieren",
    copied: "Kopiert",
    notCopied: "Markieren und von Hand kopieren",
    use: "Nutzen mit…",
  },

  use: {
    title: "Nutzen mit…",
    intro: "Jedes Programm, das die Sprache von OpenAI spricht, kann diese Adresse nutzen. Sie bleibt auf diesem Rechner.",
    base: "Basis-URL",
    model: "Modell",
    key: "API-Schlüssel",
    keyNote: "beliebig; er wird auf diesem Rechner nicht geprüft",
    curl: "curl",
    python: "Python",
    copy: (what) => `${what} kopieren`,
    prompt: "What is Hearth?",
    more: "Weitere Programme, und ein Test des Endpunkts",
    close: "Schließen",
  },

  connect: {
    title: "Verbinden",
    clients: "Programme",
    terminal: "Im Terminal",
    openWebUi: "Im Terminal; danach http://127.0.0.1:8080 öffnen",
    cline: "In VS Code: Cline, Settings",
  },

  conformance: {
    title: "Meinen Endpunkt testen",
    intro: "Fragt den Endpunkt, was Programme fragen, und sieht sich an, wie er antwortet. Kostet einige kurze Anfragen.",
    run: "Testen",
    stop: "Anhalten",
    running: "fragt…",
    notReady: "Zuerst das Modell starten.",
    verdicts: { pass: "richtig", fail: "falsch", open: "offen", absent: "fehlt" },
    summary: (pass, fail, open, absent) => `${pass} richtig, ${fail} falsch, ${open} vom Modell offen gelassen, ${absent} nicht in dieser Version.`,
    checks: {
      models: "Liste der Modelle",
      plain: "Antwort am Stück",
      stream: "Antwort als Strom",
      tool: "Aufruf eines Werkzeugs",
      tools: "Zwei Werkzeuge im Strom",
      schema: "JSON nach Schema",
      long: "Prompt über dem Kontext",
      bad: "Falsche Eingaben abgelehnt",
      completions: "Textfortsetzung",
      messages: "Anthropic Messages",
      responses: "OpenAI Responses",
    },
    counted: (read, written) => `${read} Token gelesen, ${written} geschrieben`,
    pieces: (n) => `${plural(n, "Stück", "Stücke")}, ordentlich beendet`,
    noText: "die Antwort hat keinen Text",
    noFinish: "finish_reason fehlt",
    badUsage: "usage geht nicht auf",
    noEvents: "das ist kein Ereignisstrom",
    missing: (what) => `es fehlt: ${what}`,
    inWords: "das Modell hat stattdessen in Worten geantwortet",
    cutSilently: "es wurde beantwortet, also stillschweigend gekürzt",
  },
};
