// The words of the page Privacy, in German.
import { plural } from "./plural";
import type { Translation } from "./translation";
import type { privacy } from "./privacy";

export const privacyGerman: Translation<typeof privacy> = {
  privacy: {
    title: "Datenschutz",
    stays: "Was hier bleibt",
    staysList: [
      "Fragen, Antworten und alles andere Geschriebene liest das Modell auf diesem Rechner und sonst niemand.",
      "Endpunkt und Seite sind nur von diesem Rechner aus zu erreichen (127.0.0.1).",
      "Hearth zählt für niemanden: keine Telemetrie, keine Absturzberichte, keine Suche nach Aktualisierungen.",
    ],
    out: "Was hinausgeht",
    outList: ["Hugging Face wird gefragt, wenn dort ein Modell gesucht oder geladen wird oder der Knopf der Diagnose es verlangt, und nur dann. Sonst wird niemand angesprochen."],
    kept: "Was aufgehoben wird",
    what: "Was",
    where: "Wo, im eigenen Ordner",
    keptList: [
      ["Einstellungen, Schlüssel dieser Seite", "~/.config/hearth"],
      ["Anfragen: Zahlen, Zeiten, Fehler. Nie Text", "~/.local/state/hearth/history.db"],
      ["Messungen: Werte und ihre Bedingungen. Nie Text", "~/.local/state/hearth/benchmarks.db"],
      ["Chats der Chatseite", "~/.local/state/hearth/chats.db"],
      ["Modelle, mit anderen Programmen geteilt", "~/.cache/huggingface"],
    ],
    deleteAll: (n) => (n === 0 ? "Keine Chats zu löschen" : n === 1 ? "Den einen Chat löschen" : `Alle ${n} Chats löschen`),
    deleteTitle: "Alle Chats löschen?",
    deleteEffect: (n) => `${plural(n, "Chat wird", "Chats werden")} endgültig von diesem Rechner entfernt.`,
    deleteConfirm: "Alle Chats löschen",
    deleted: (n) => `${plural(n, "Chat", "Chats")} gelöscht.`,
  },
};
