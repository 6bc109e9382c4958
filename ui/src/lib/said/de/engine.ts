// A running engine, its device and what it keeps: faults and notices of crates/engine, in German.
import { count, memory } from "../../format";
import { has, type Faults, type Values } from "../words";

const GIVEN_UP = "Den Rechner neu starten, dann auf Starten drücken. „journalctl -k | grep Xid“ nennt die Ursache.";
const LOG = (v: Values) =>
  has(v, "given_up") ? GIVEN_UP : "Das Modell wird neu gestartet. Geschieht es oft, nennt „journalctl -k | grep Xid“ die Ursache.";
const MACHINE = (v: Values) =>
  has(v, "given_up") ? GIVEN_UP : "Den Rechner neu starten. Kommt es wieder, nennt „journalctl -k | grep Xid“ die Ursache.";
const MEMORY = (v: Values) =>
  has(v, "given_up") ? GIVEN_UP : "Andere Programme schließen, die die GPU benutzen, oder Kontext oder Zahl der Anfragen verringern.";
const WAIT = "Die Zeit in Retry-After abwarten und die Anfrage noch einmal senden.";
const FREE = "Speicher frei machen und noch einmal versuchen.";
const AGAIN = "Die Engine neu starten, und beim zweiten Mal das Protokoll melden.";

export const engine: Faults = {
  tokenizer_unusable: [
    (v) => `Der Tokenizer ist nicht zu brauchen: ${v["reason"]}.`,
    "Das Modell noch einmal laden, oder eines mit tokenizer.json wählen.",
  ],
  model_loading: [(v) => `Das Modell lädt noch (${v["stage"]}).`, "Warten, bis es bereit ist, und die Anfrage noch einmal senden."],
  server_draining: ["Die Engine hält an und nimmt nichts Neues an.", "Die Anfrage noch einmal senden, wenn die Engine neu gestartet ist."],
  engine_stopped: ["Es läuft gerade kein Modell.", "Eines starten, dann noch einmal versuchen."],
  rate_limit_exceeded: [
    (v) =>
      has(v, "queued")
        ? `Es warten schon ${v["queued"]} Anfragen; mehr dürfen es nicht sein.`
        : `Die Prompts früherer Anfragen zu lesen dauert noch etwa ${count(v["seconds"])} s; höchstens ${count(v["limit"])} s sind erlaubt.`,
    WAIT,
  ],
  context_length_exceeded: [
    (v) =>
      `Der Kontext dieses Modells fasst ${count(v["context"])} Token, die Anfrage braucht ${v["lower_bound"] ? "mindestens " : ""}${count(v["prompt"] + v["answer"])} (${count(v["prompt"])} für den Prompt, ${count(v["answer"])} für die Antwort).`,
    "Den Prompt kürzen, oder weniger Token verlangen.",
  ],
  empty_prompt: ["Der Prompt hat keine Token.", "Einen Prompt mit etwas Text senden."],
  unknown_token: [
    (v) => `Ein Token mit der Nummer ${v["id"]} gibt es nicht; das Vokabular hat ${count(v["tokens"])}.`,
    "Nummern senden, die der Tokenizer dieses Modells gemacht hat.",
  ],
  step_failed: [
    (v) => `Das Modell ist in einem Schritt gescheitert: ${v["reason"]}.`,
    "Die Anfrage noch einmal senden; scheitert sie wieder, die Engine neu starten.",
  ],
  engine_crashed: [
    (v) => (has(v, "end") ? `Die Engine hat unerwartet geendet (${v["end"]}).` : "Der Thread der Engine hat unerwartet geendet."),
    (v) =>
      has(v, "given_up")
        ? "Im Protokoll nach dem Grund sehen, dann auf Starten drücken."
        : has(v, "end")
          ? "Sie wird neu gestartet; geschieht es oft, ins Protokoll sehen."
          : AGAIN,
  ],
  device_out_of_memory: ["Der GPU ist der Speicher ausgegangen.", MEMORY],
  device_illegal_address: ["Eine Rechnung auf der GPU hat Speicher berührt, der ihr nicht gehört.", LOG],
  device_timeout: ["Eine Rechnung auf der GPU hat zu lange gedauert und wurde beendet.", LOG],
  device_kernel_failed: ["Eine Rechnung auf der GPU ist gescheitert.", LOG],
  device_memory_error: ["Speicher oder Verbindung der GPU melden einen Fehler, den sie nicht beheben können.", MACHINE],
  device_lost: ["Die GPU antwortet nicht mehr.", MACHINE],
  device_fault: ["Die GPU meldet einen Fehler.", LOG],
  device_selftest_failed: [
    (v) => `${v["device"]} besteht ${v["failed"]} von ${v["checks"]} Prüfungen gegen die CPU nicht.`,
    "Auf der CPU laufen lassen (--device cpu), und die Ausgabe von „hearth selftest“ melden.",
  ],
  fp4_unsupported: [
    (v) => `${v["device"]} hat keine FP4-Recheneinheiten, die Hearth kennt; Prompts werden ohne sie gelesen.`,
    "„Prompts in FP4“ (--fp4-activations) ausschalten; es ist für den GB10 des DGX Spark.",
  ],
  fp4_selftest_failed: [
    (v) =>
      `Die FP4-Recheneinheiten von ${v["device"]} bestehen ${v["failed"]} von ${v["checks"]} Prüfungen gegen die CPU nicht; Prompts werden ohne sie gelesen.`,
    "Die Ausgabe von „hearth selftest“ melden; alles Übrige geht wie ohne --fp4-activations.",
  ],
  optional_kernels_failed: [
    (v) => `Kernels, die Hearth für mehr Tempo wählen könnte, gehen auf ${v["device"]} nicht; es kommt ohne sie aus.`,
    "Die Ausgabe von „hearth selftest“ melden; alles Übrige geht wie sonst.",
  ],
  optional_kernels_broke_device: [
    (v) => `Kernels, die Hearth für mehr Tempo wählen könnte, haben ${v["device"]} bei ihrer Prüfung zum Absturz gebracht.`,
    "Noch einmal starten: Hearth kommt dann ohne sie aus. Die Ausgabe von „hearth selftest“ melden.",
  ],
  fp4_exact: [
    "Prompts werden in der Arithmetik des Schreibens gelesen (exaktes Lesen), und die rundet nicht auf NVFP4.",
    "Exaktes Lesen oder „Prompts in FP4“ ausschalten.",
  ],
  device_failed: [(v) => `Das Rechengerät ist gescheitert: ${v["reason"]}.`, FREE],
  device_unknown: [(v) => `Dieses Rechengerät gibt es nicht: ${v["reason"]}.`, "Mit --device eines davon wählen, oder es weglassen."],
  device_unavailable: [
    (v) => `Das Rechengerät ist nicht zu benutzen: ${v["reason"]}.`,
    "Die Seite Diagnose sagt, was zu tun ist; bis dahin auf der CPU laufen lassen (--device cpu).",
  ],
  gpu_not_used: [
    (v) => `Modelle laufen auf der CPU, weil die GPU nicht zu benutzen ist: ${v["reason"]}.`,
    "Die Seite Diagnose sagt, was zu tun ist.",
  ],
  bad_sampling: [(v) => `Die Auswahl der Token im Profil geht nicht: ${v["reason"]}.`, "Die Werte in den Einstellungen berichtigen."],
  draft_head_too_small: [
    (v) => `Der Kopf für Entwürfe hat Platz für ${count(v["tokens"])} Token; allein ${count(v["control"])} Steuertoken muss er haben.`,
    "Einen Kopf mit mehr Token wählen, oder den des Modells.",
  ],
  draft_vocabulary_invalid: [
    (v) => {
      if (has(v, "tokens")) return `Als Kopf für Entwürfe sind ${count(v["tokens"])} Token gewählt, und dazu die einer Datei.`;
      if (has(v, "line")) return `${v["file"]}, Zeile ${v["line"]}: „${v["word"]}“ ist keine Nummer eines Tokens von 0 bis ${count(v["most"])}.`;
      if (has(v, "reason")) return `${v["file"]} kann nicht gelesen werden: ${v["reason"]}.`;
      return `${v["file"]} enthält keine Nummer eines Tokens.`;
    },
    (v) =>
      has(v, "tokens")
        ? "Nur eines von beiden wählen; zu einer Datei passen fp8 und nvfp4."
        : "Eine Textdatei mit Nummern von Token angeben, eine je Zeile.",
  ],
  grammar_failed: ["Der Grammatik dieser Antwort ließ sich nicht weiter folgen.", "Ein einfacheres Schema oder eine einfachere Grammatik verlangen."],
  invalid_grammar: ["Die verlangte Form der Antwort ist nicht zu verstehen.", "Schema, Ausdruck oder Grammatik der Anfrage berichtigen."],
  grammar_too_large: ["Die verlangte Form der Antwort ist zu groß.", "Ein einfacheres Schema oder eine einfachere Grammatik verlangen."],
  grammar_unavailable: [
    "Dieses Modell kann Antworten keine Form geben.",
    "Ein anderes Modell wählen, oder die Antwort ohne vorgeschriebene Form verlangen.",
  ],
  client_too_slow: [
    (v) => `Der Client hat seit ${v["seconds"]} s nichts gelesen.`,
    "Den Strom schneller lesen, oder die Antwort am Stück verlangen.",
  ],
  prefix_disk_failed: [
    (v) =>
      has(v, "folder")
        ? `Aufgehobene Prompts lassen sich nicht in ${v["folder"]} schreiben; sie werden nicht mehr auf der Platte aufgehoben.`
        : "Prompts werden wegen eines Fehlers nicht mehr auf der Platte aufgehoben.",
    (v) => (has(v, "folder") ? "Nachsehen, was mit Ordner oder Platte ist, und die Engine neu starten." : AGAIN),
  ],
  prefix_disk_full: [
    (v) => `In ${v["folder"]} ist kein Platz mehr für aufgehobene Prompts; sie werden nicht mehr auf der Platte aufgehoben.`,
    "Platz schaffen oder weniger GiB wählen, und die Engine neu starten.",
  ],
  prefix_disk_unavailable: [
    (v) =>
      has(v, "folder")
        ? `Der Ordner ${v["folder"]} ist nicht zu benutzen, also werden keine Prompts auf der Platte aufgehoben.`
        : "Die Dateien des Modells sind nicht aufzuzählen, also werden keine Prompts auf der Platte aufgehoben.",
    (v) => (has(v, "folder") ? "Einen Ordner wählen, in den Ihr Konto schreiben darf." : "Nachsehen, ob der Ordner des Modells zu lesen ist."),
  ],
  prefix_disk_in_use: [
    (v) => `Eine andere Engine hebt ihre Prompts in ${v["folder"]} auf, also hebt diese keine auf der Platte auf.`,
    "Jeder Engine einen eigenen Ordner geben.",
  ],
  graphs_over_plan: [
    "Der Treiber hat für aufgezeichnete Graphen mehr Speicher genommen als geplant; anderen Programmen bleibt weniger.",
    "Ist der Speicher knapp, die Zahl der Anfragen verringern: Von ihr hängt ab, wie viele Graphen es sind.",
  ],
  gguf_expanded: [
    (v) =>
      `Gewichte in ${(v["types"] as string[]).join(", ")} werden beim Laden zu 16-Bit-Zahlen entfaltet: ${memory(v["stored"])} in der Datei, ${memory(v["loaded"])} im Speicher, und ein Token liest entsprechend mehr.`,
    "Eine safetensors-Fassung in NVFP4 oder FP8 bleibt gepackt.",
  ],
};
