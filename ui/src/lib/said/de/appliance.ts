// The appliance itself, its settings and its calls: faults of crates/appliance, in German.
import { count, memory } from "../../format";
import { has, type Faults, type Values } from "../words";

const REPORT = "Bitte mit dem Protokoll melden.";
const LIST = "Er kann gelöscht worden sein; die Liste ansehen.";
const OPEN_LOG = "Im Protokoll nach dem Grund sehen, dann auf Starten drücken.";
const restarted = (v: Values) => (has(v, "given_up") ? OPEN_LOG : "Nichts zu tun: Sie wird neu gestartet.");
const DOING: Record<string, string> = { read: "gelesen", written: "geschrieben", created: "angelegt", removed: "gelöscht", moved: "verschoben" };
/** The names of the settings as the window has them; others keep their key. */
const SETTINGS: Record<string, string> = {
  host: "Adresse",
  port: "Port",
  memory_reserve: "Reserve für den Rechner",
  theme: "Farben",
  language: "Sprache",
  prices: "Preise",
  "profile.model": "Modell",
  "profile.context": "Kontext",
  "profile.max_requests": "Anfragen zugleich",
  "profile.kv": "KV-Cache",
  "profile.mtp_depth": "Entwürfe je Runde",
  "profile.draft_head": "Kopf für Entwürfe",
  "profile.draft_vocabulary": "Token für Entwürfe",
  "profile.max_waiting": "Anfragen, die warten dürfen",
  "profile.chunk": "Prompt-Token je Schritt",
  "profile.prefix_disk_gib": "Prompts auf der Platte",
  "profile.sampling.temperature": "Temperatur",
  "profile.sampling.top_p": "Top-p",
  "profile.sampling.top_k": "Top-k",
  "profile.sampling.min_p": "Min-p",
};

export const appliance: Faults = {
  no_home: [
    "Es gibt keinen Ordner für Einstellungen: HOME und XDG_CONFIG_HOME sind nicht gesetzt.",
    "XDG_CONFIG_HOME und XDG_STATE_HOME auf beschreibbare Ordner setzen.",
  ],
  file: [
    (v) => `${v["path"]} kann nicht ${DOING[v["doing"]] ?? "benutzt"} werden: ${v["cause"]}.`,
    "Prüfen, ob es den Ordner gibt, ob er Ihnen gehört und Platz hat.",
  ],
  foreign_file: [
    (v) => `${v["path"]} gehört einem anderen Konto (uid ${v["uid"]}).`,
    (v) => `Es mit chown zurückgeben, oder ${v["path"]} entfernen und neu starten.`,
  ],
  bad_settings_file: [
    (v) => `${v["path"]}, Zeile ${v["line"]}: ${v["problem"]}.`,
    (v) => `Die Zeile berichtigen, oder ${v["path"]} beiseite legen, um mit den Vorgaben zu beginnen.`,
  ],
  bad_setting: [(v) => `${SETTINGS[v["key"]] ?? v["key"]}: Dieser Wert geht nicht („${v["problem"]}“).`, "Einen anderen Wert wählen."],
  already_running: [
    (v) => `Ein anderes Hearth benutzt schon die Einstellungen in ${v["folder"]}.`,
    "Das laufende benutzen, oder es zuerst beenden.",
  ],
  port_in_use: [
    (v) => `Die Adresse ${v["address"]} ist schon vergeben, an ${v["holder"]}.`,
    "Dieses Programm beenden, oder mit „hearth up --port“ einen anderen Port wählen.",
  ],
  cannot_listen: [(v) => `Auf ${v["address"]} lässt sich nicht hören: ${v["cause"]}.`, "Eine Adresse dieses Rechners wählen."],
  history: [
    (v) => (has(v, "path") ? `Der Verlauf ${v["path"]} lässt sich nicht öffnen: ${v["cause"]}.` : "Der Verlauf ist nicht zu lesen."),
    (v) => (has(v, "path") ? "Die Datei beiseite legen; dann beginnt ein neuer." : "Ins Protokoll sehen; bleibt es so, Hearth neu starten."),
  ],
  chats: [
    (v) => `Die Chats lassen sich nicht aufheben: ${v["cause"]}.`,
    "Prüfen, ob die Platte Platz hat und Hearths Zustandsordner Ihnen gehört.",
  ],
  benchmarks: [
    (v) => `Die Messungen lassen sich nicht aufheben: ${v["cause"]}.`,
    "Prüfen, ob die Platte Platz hat und Hearths Zustandsordner Ihnen gehört.",
  ],
  spawn: [
    (v) => `Die Engine lässt sich nicht aus ${v["program"]} starten: ${v["cause"]}.`,
    "Hearth neu installieren; das Programm wurde verschoben oder entfernt.",
  ],
  not_running: [(v) => `Mit den Einstellungen in ${v["folder"]} läuft kein Hearth.`, "Eines mit „hearth up“ starten."],
  no_answer: [
    (v) => `Hearth antwortet unter ${v["url"]} nicht: ${v["cause"]}.`,
    "Noch einmal versuchen; bleibt es so, den Prozess beenden und „hearth up“ ausführen.",
  ],

  power_capped: [
    (v) => `Die GPU arbeitet schwer bei ${count(v["clock"])} MHz und ist nicht heiß: Ihr Netzteil hält sie zurück.`,
    "Das Netzteil 60 Sekunden lang vom Strom trennen; die Seite Diagnose sagt, wie.",
  ],
  too_hot: [(v) => `Die GPU hat ${count(v["celsius"])} °C und bremst sich.`, "Dem Rechner Luft geben; die Seite Diagnose sagt mehr."],
  memory_low: [
    (v) => `Für alles andere sind nur noch ${memory(v["available"])} Speicher übrig; ${memory(v["reserve"])} sollen frei bleiben.`,
    "Andere Programme schließen, oder das Modell mit kleinerem Kontext starten.",
  ],
  engine_stopping: ["Das Modell wird angehalten.", "Es im Fenster von Hearth wieder starten, dann noch einmal versuchen."],
  engine_silent: [
    (v) => `Die Engine hat seit ${v["seconds"]} s nicht geantwortet.`,
    (v) => (has(v, "given_up") ? OPEN_LOG : "Warten: Bleibt sie stumm, wird sie beendet und neu gestartet. Oder sie jetzt anhalten."),
  ],
  engine_stuck: [(v) => `Die Engine hat sich seit ${v["seconds"]} s nicht gerührt.`, restarted],
  engine_refused: ["Die Engine hat das Modell abgelehnt.", "Im Protokoll nach dem Grund sehen."],
  engine_restarted: [
    "Die Engine endete, während sie diese Anfrage beantwortete.",
    "Die Anfrage noch einmal senden; geschieht es oft, ins Protokoll sehen.",
  ],
  does_not_fit: [
    (v) =>
      `${v["model"]} mit einem Kontext von ${count(v["context"])} Token braucht ${memory(v["needed"])} Speicher; ${memory(v["available"])} sind zu haben.`,
    "Einen kleineren Kontext oder ein anderes Modell wählen, oder trotzdem starten.",
  ],
  ending: ["Hearth wird gerade beendet.", "Es mit „hearth up“ wieder starten."],
  plan_failed: [(v) => `Der Plan ist gescheitert: ${v["reason"]}.`, REPORT],
  remove_failed: [(v) => `Das Löschen ist gescheitert: ${v["reason"]}.`, REPORT],
  not_found: ["Diesen Aufruf gibt es nicht.", "Die Seite neu laden; vielleicht wurde Hearth inzwischen aktualisiert."],
  wrong_method: ["Dieser Aufruf verlangt eine andere Methode.", "GET zum Lesen und POST zum Handeln benutzen."],
  bad_message: ["Die Nachricht ist nicht zu verstehen.", "Die Seite neu laden und noch einmal versuchen."],
  bad_query: ["Die Adresse ist nicht zu verstehen.", "Die Seite neu laden und noch einmal versuchen."],
  bad_search: ["Eine Suche braucht Wörter, höchstens 200 Zeichen.", "Einen Teil des Modellnamens schreiben."],
  bad_format: ["Dieses Format gibt es nicht.", "Eines der angebotenen wählen."],
  chats_off: ["Chats werden nicht aufgehoben.", "Es in den Einstellungen einschalten, um diesen zu behalten."],
  no_such_chat: ["Diesen Chat gibt es nicht.", LIST],
  no_such_download: [(v) => `Einen Download Nummer ${v["number"]} gibt es nicht.`, "Die Liste der Downloads neu lesen."],
  model_in_use: [(v) => `${v["model"]} läuft gerade.`, "Es zuerst anhalten, dann löschen."],
  not_absolute: [
    (v) => `„${v["folder"]}“ sagt nicht, wo auf diesem Rechner es liegt.`,
    "Den ganzen Pfad angeben, der mit / oder ~/ beginnt.",
  ],
  unauthorised: [
    "Das verlangt den Schlüssel dieses Rechners.",
    "Die Adresse öffnen, die „hearth up“ gezeigt hat, oder die Datei control-token in Hearths Einstellungsordner lesen.",
  ],
  wrong_host: ["Die Adresse dieser Anfrage ist keine dieses Rechners.", "http://127.0.0.1 oder http://localhost mit Hearths Port benutzen."],
  wrong_origin: [
    "Eine fremde Seite hat das verlangt.",
    "Hearths eigene Seite öffnen; andere Seiten dürfen die Modelle dieses Rechners nicht benutzen.",
  ],
};
