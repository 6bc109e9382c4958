// The words of the page Doctor, in German.
import { plural } from "./plural";
import type { Translation } from "./translation";
import type { doctor } from "./doctor";

export const doctorGerman: Translation<typeof doctor> = {
  doctor: {
    title: "Diagnose",
    looking: "Sieht nach Treiber, Speicher, Hitze, Platte und Schlüsseln…",
    lookingAgain: "Sieht nochmals nach…",
    at: (time) => `nachgesehen um ${time}`,
    again: "Nochmals nachsehen",
    report: "Bericht…",
    reportTitle: "Bericht",
    reportNote: "Geheimnisse, Namen, Pfade in den eigenen Ordner und der Text von Anfragen sind herausgenommen. Vor dem Weitergeben durchlesen.",
    reportMaking: "Schreibt den Bericht…",
    reportCopy: "Bericht kopieren",
    reportSave: "Als Datei speichern",
    wanting: "Zu beheben",
    rest: "Das Übrige",
    verdict: (fail, warn, pass) => {
      if (fail > 0) return `${plural(fail, "Sache", "Sachen")} zu beheben${warn > 0 ? `, ${warn} könnten besser sein` : ""}.`;
      if (warn > 0) return `Es läuft; ${plural(warn, "Sache könnte", "Sachen könnten")} besser sein.`;
      return pass > 0 ? "Nichts zu beheben." : "Es konnte nichts nachgesehen werden.";
    },
    states: { pass: "gut", skipped: "nicht geprüft", warn: "Warnung", fail: "Fehler" },
    seen: "Was zu sehen war",
    actions: { close_files: "Schließen", ask_hub: "Hugging Face fragen" },
    copyCommand: (command) => `Befehl ${command} kopieren`,
    privacy: "Die Diagnose sieht nur diesen Rechner an. Sie fragt Hugging Face nur auf Knopfdruck und sendet nichts über Sie.",
  },
};
