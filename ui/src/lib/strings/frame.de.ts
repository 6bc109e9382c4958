// The words around every page: its frame, the state of the engine, what went wrong, in German.
import { plural } from "./plural";
import type { Translation } from "./translation";
import type { frame } from "./frame";

export const frameGerman: Translation<typeof frame> = {
  language: "de",
  app: "Hearth",
  skip: "Zum Inhalt springen",
  pages: { label: "Seiten", now: "Jetzt", models: "Modelle", chat: "Chat", connect: "Verbinden", bench: "Messungen", doctor: "Diagnose", settings: "Einstellungen", privacy: "Datenschutz" },

  state: {
    no_model: "Noch kein Modell",
    stopped: "Gestoppt",
    loading: "Lädt",
    serving: "Bereit",
    degraded: "Eingeschränkt",
    stopping: "Hält an",
    restarting: "Startet neu",
    error: "Fehler",
    connecting: "Verbindet",
    unreachable: "Antwortet nicht",
    idle: "wartet",
    still: "bereit",
    prefill: (share) => `liest Prompt, ${share}`,
    up: (time) => `seit ${time}`,
    running: (n) => `${n} in Arbeit`,
    since: (time) => `seit ${time}`,
    attempt: (n, of) => `Versuch ${n} von ${of}`,
  },

  message: {
    noModel: "Es ist kein Modell gewählt, oder das gewählte ist nicht auf diesem Rechner.",
    noModelNext: "Auf der Seite Modelle eines wählen.",
    ready: "Kann gestartet werden.",
    needs: (needed, available) => `Braucht ${needed} Speicher; ${available} sind zu haben.`,
    tight: "Es passt, aber nur knapp.",
    doesNotFit: "Es passt nicht: in den Einstellungen einen kleineren Kontext wählen.",
    stages: { "start process": "Prozess starten", plan: "Plan", "read weights": "Gewichte lesen", "allocate KV": "KV belegen", "record graphs": "Graphen aufzeichnen", "warm up": "Aufwärmen" },
    stage: (stage, n, of) => `${stage}, Schritt ${n} von ${of}`,
    left: (time) => `noch etwa ${time}`,
    finishing: (n, time) => `${plural(n, "Anfrage wird", "Anfragen werden")} beendet; Abbruch in ${time}.`,
    finishingNone: "Gibt den Speicher zurück.",
    again: (time) => `Neuer Start in ${time}.`,
    starting: "Startet jetzt neu.",
    unreachable: (clock) => `Hearth hat seit ${clock} nicht geantwortet. Was hier steht, ist von da.`,
    unreachableFirst: "Hearth antwortet unter dieser Adresse nicht.",
    retrying: "Diese Seite verbindet sich von selbst wieder. Wenn nicht: hearth up",
    connecting: "Fragt Hearth nach seinem Zustand.",
    details: "Einzelheiten…",
  },

  action: {
    start: (model) => `${model} starten`,
    stop: (model) => `${model} anhalten`,
    cancel: "Laden abbrechen",
    stopNow: "Jetzt anhalten",
    giveUp: "Aufgeben",
    retry: (model) => `${model} nochmals starten`,
    choose: "Modell wählen",
    reconnect: "Neu verbinden",
  },

  anyway: {
    title: (model) => `${model} trotzdem starten?`,
    effect: "Das System kann langsam werden oder Programme beenden, weil Speicher fehlt. Die Schätzung kann in beide Richtungen irren.",
    cancel: "Nicht starten",
    confirm: "Trotzdem starten",
  },

  stop: {
    title: (model) => `${model} anhalten?`,
    running: (n) => `${plural(n, "Anfrage läuft", "Anfragen laufen")} noch:`,
    effect: "Sie dürfen zu Ende laufen; neue werden ab jetzt abgelehnt, und der Speicher wird frei.",
    keep: "Weiterlaufen lassen",
    confirm: (model) => `${model} anhalten`,
    request: (id, phase, tokens) => `${id}: ${phase}, ${tokens} Token geschrieben`,
  },

  model: {
    demonstration: "Vorführmodell",
    context: (length) => `${length} Kontext`,
    stretched: "YaRN",
    exact: "exakt",
    none: "kein Modell",
  },

  source: { measured: "gemessen", estimated: "geschätzt", exact: "exakt", nominal: "laut Datenblatt", unavailable: "nicht zu haben" },
  notices: { label: "Hinweise" },

  fault: {
    title: "Was geschehen ist",
    next: "Nächster Schritt",
    evidence: "Was zu sehen war",
    log: "Letzte Zeilen im Protokoll der Engine",
    logLoading: "Liest das Protokoll…",
    logEmpty: "Das Protokoll ist leer.",
    code: "Code",
    close: "Schließen",
  },

  token: {
    title: "Diese Seite braucht ihren Schlüssel",
    why: "Hearths Fenster kann Modelle starten und anhalten; darum öffnet es sich nur mit einem Schlüssel von diesem Rechner.",
    wrong: "Der Schlüssel dieser Seite stimmt nicht mehr; Hearth hat vielleicht einen neuen gemacht.",
    how: "Im Terminal ausführen und die gezeigte Adresse öffnen:",
    or: "Oder diese Adresse oder den Schlüssel selbst hier einfügen:",
    field: "Adresse oder Schlüssel",
    open: "Fenster öffnen",
    bad: "In diesem Text ist kein Schlüssel. Er sieht so aus: http://127.0.0.1:8000/#token=…",
    file: "Der Schlüssel liegt in der Datei control-token in Hearths Einstellungsordner, die sonst niemand lesen kann.",
  },

  faults: {
    noAnswer: {
      code: "no_answer",
      message: "Hearth antwortet nicht.",
      next_step: "Nachsehen, ob es läuft (hearth up), dann nochmals versuchen.",
      evidence: null,
    },
    unexpected: (status) => ({
      code: "unexpected_answer",
      message: `Hearth hat mit dem Status ${status} und ohne Erklärung geantwortet.`,
      next_step: "Nochmals versuchen; beim zweiten Mal ins Protokoll sehen.",
      evidence: `HTTP ${status}`,
    }),
    cut: {
      code: "stream_cut",
      message: "Die Antwort brach vor ihrem Ende ab.",
      next_step: "Auf Nochmals drücken.",
      evidence: null,
    },
    nextStep: {
      context_length_exceeded: "Einen neuen Chat beginnen oder in den Einstellungen einen größeren Kontext wählen.",
      rate_limit_exceeded: "Kurz warten, dann auf Nochmals drücken.",
      model_not_found: "Das Modell in den Einstellungen prüfen, dann auf Nochmals drücken.",
      engine_stopped: "",
      engine_stopping: "",
      engine_restarted: "",
      fallback: "Auf Nochmals drücken; wenn es wieder geschieht, den Zustand auf der Seite Jetzt ansehen.",
    },
  },
};
