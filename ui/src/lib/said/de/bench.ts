// Benchmarks that cannot begin or did not come to their end: faults of crates/appliance/src/bench, in German.
import { count, percent } from "../../format";
import type { Faults } from "../words";

export const bench: Faults = {
  no_benchmark: ["Es läuft keine Messung.", "Die Liste der Messungen ansehen."],
  bench_running: ["Es läuft schon eine Messung.", "Sie abwarten oder abbrechen."],
  bench_not_over: ["Diese Messung läuft noch.", "Sie zuerst abbrechen."],
  no_such_benchmark: ["Diese Messung gibt es nicht.", "Sie kann gelöscht worden sein; die Liste ansehen."],
  over_the_models_context: [
    (v) => `${count(v["needed"])} Token sind mehr als der eigene Kontext dieses Modells von ${count(v["most"])}.`,
    "Ein Modell mit längerem Kontext wählen.",
  ],
  over_the_context: [
    (v) => `${count(v["needed"])} Token sind mehr als der Kontext von ${count(v["context"])}, mit dem es gestartet wurde.`,
    "Es mit längerem Kontext starten, wenn der Speicher reicht.",
  ],
  over_the_requests: [
    (v) => `Das Profil bedient ${v["most"]} Anfragen zugleich.`,
    "Es mit mehr Anfragen zugleich starten, wenn der Speicher reicht.",
  ],
  no_drafts: [
    "Dieses Modell wurde ohne einen Kopf gestartet, der Entwürfe macht.",
    "Ein Modell mit MTP-Kopf wählen, und eine andere Tiefe als 0.",
  ],
  over_the_depth: [
    (v) => `Es wurde mit der Tiefe ${v["depth"]} gestartet.`,
    "Es mit der Tiefe „auto“ starten, um jede Tiefe zu messen.",
  ],
  text_too_short: [(v) => `Fakten brauchen einen Text von mindestens ${count(v["least"])} Token, um sich zu verstecken.`, "Einen längeren Kontext wählen."],
  requests_running: [
    (v) => (v["requests"] === 1 ? "Es wird gerade eine Anfrage beantwortet." : `Es werden gerade ${v["requests"]} Anfragen beantwortet.`),
    "Warten, bis sie fertig sind, oder trotzdem messen.",
  ],
  gpu_in_use: [
    (v) => `Andere Programme halten Speicher der GPU: ${(v["programs"] as string[]).join(", ")}.`,
    "Sie beenden (die Seite Diagnose sagt, wie), oder trotzdem messen.",
  ],
  gpu_busy: [
    (v) => `Die GPU arbeitet zu ${percent(v["busy"] / 100)}, obwohl diese Engine ruht.`,
    "Herausfinden, was sie benutzt, oder trotzdem messen.",
  ],
  nothing_to_measure: ["Es ist nichts zu messen.", "Einen Teil wählen."],
  bench_failed: [(v) => `Die Umstände der Messung sind nicht zu lesen: ${v["reason"]}.`, "Bitte mit dem Protokoll melden."],
  bench_broken_off: [
    "Hearth wurde beendet, während dies gemessen wurde.",
    "Was bis dahin gemessen wurde, steht hier; für den Rest noch einmal messen.",
  ],
  profile_changed: [
    "Während der Messung wurde ein anderes Profil gestartet.",
    "Noch einmal messen, wenn unterdessen nichts geändert wird.",
  ],
  bench_no_answer: [(v) => `Der Endpunkt hat nicht geantwortet: ${v["reason"]}.`, "Ins Protokoll sehen; noch einmal messen, wenn das Modell bereit ist."],
  bench_refused: [
    (v) => `Der Endpunkt hat eine Anfrage abgelehnt: „${v["reason"]}“`,
    "Lesen, was der Endpunkt sagt, und andere Werte wählen.",
  ],
  bench_bad_answer: [(v) => `Die Antwort des Endpunkts ist nicht zu verstehen: ${v["reason"]}.`, "Einen Endpunkt von Hearth selbst messen."],
  bench_no_room: [
    (v) => `Allein die Frage hat ${count(v["needed"])} Token, mehr als die ${count(v["tokens"])} des Prompts.`,
    "Einen längeren Kontext wählen.",
  ],
};
