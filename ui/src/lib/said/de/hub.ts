// Models by name, on disk and on the hub: faults of crates/hub, in German.
import { traffic } from "../../format";
import { has, type Faults, type Values } from "../words";

const SHOWN = 12;
const list = (files: string[]): string =>
  files.length === 0 ? "keine" : files.slice(0, SHOWN).join(", ") + (files.length > SHOWN ? ` und ${files.length - SHOWN} weitere` : "");
const CONNECTION = "Die Verbindung dieses Rechners prüfen; Geladenes bleibt, und ein Download geht von selbst weiter.";

export const hub: Faults = {
  bad_model_name: [
    (v) => `„${v["name"]}“ ist kein Modell: möglich sind ember, ein Ordner oder eine Kennung bei Hugging Face wie Qwen/Qwen3.5-35B-A3B.`,
    "„hearth list“ zeigt die Modelle auf diesem Rechner.",
  ],
  model_not_on_disk: [
    (v) => `${v["id"]} ist nicht auf diesem Rechner (gesucht in ${v["cache"]}).`,
    "Es auf der Seite Modelle laden, oder HF_HOME auf den Ordner setzen, in dem es liegt.",
  ],
  model_incomplete: [
    (v) => `${v["id"]} ist nur zum Teil geladen: In ${v["folder"]} fehlt config.json.`,
    "Noch einmal laden; was schon da ist, bleibt.",
  ],
  no_such_folder: [(v) => `Den Ordner ${v["path"]} gibt es nicht.`, "Den Pfad prüfen."],
  not_a_model_folder: [
    (v) => `${v["path"]} ist kein Modellordner: config.json fehlt.`,
    "Den Ordner mit config.json und den *.safetensors-Dateien angeben, oder eine GGUF-Datei.",
  ],
  gguf_not_supported: [
    (v) => `${v["place"]} enthält GGUF-Dateien, von denen eine gewählt werden muss: ${list(v["files"])}.`,
    "Eine der Dateien wählen (auf der Seite Modelle oder mit hearth pull KENNUNG --file NAME.gguf), oder eine safetensors-Fassung dieses Modells.",
  ],
  no_such_file: [(v) => `${v["place"]} hat keine GGUF-Datei „${v["file"]}“; vorhanden: ${list(v["files"])}.`, "Einen dieser Namen angeben."],
  gguf_ambiguous: [(v) => `In ${v["path"]} liegen ${v["count"]} GGUF-Modelle.`, "Den Pfad einer der Dateien angeben."],
  unreadable: [(v) => `${v["path"]} kann nicht gelesen werden: ${v["cause"]}.`, "Die Rechte der Datei prüfen."],
  unwritable: [
    (v) => `${v["path"]} kann nicht geschrieben werden: ${v["cause"]}.`,
    "Prüfen, ob der Ordner Ihnen gehört und seine Platte beschreibbar ist.",
  ],
  bad_config: [(v) => `${v["path"]} ist kein gültiges JSON: ${v["cause"]}.`, "Die Datei noch einmal laden."],
  path_not_utf8: [
    (v) => `Der Pfad ${has(v, "path") ? v["path"] : v["file"]} ist kein gültiges UTF-8.`,
    "Den Ordner umbenennen, oder ihn über einen Link mit einfachem Namen erreichen.",
  ],
  no_cache_folder: [
    "Es gibt keinen Ort für Downloads: HF_HUB_CACHE, HF_HOME und HOME sind nicht gesetzt.",
    "HF_HOME auf einen Ordner mit Platz für Modelle setzen.",
  ],
  bad_endpoint: [
    (v) => `HF_ENDPOINT ist „${v["found"]}“, und das ist keine http-Adresse.`,
    "HF_ENDPOINT löschen, oder eine Adresse wie https://huggingface.co angeben.",
  ],
  hub_offline: ["HF_HUB_OFFLINE ist gesetzt, also wird der Hub nichts gefragt.", "HF_HUB_OFFLINE löschen, um zu laden oder zu suchen."],
  hub_unreachable: [(v) => `${v["host"]} ist nicht zu erreichen: ${v["cause"]}.`, CONNECTION],
  hub_stalled: [(v) => `${v["host"]} hat seit ${v["after"]} s nichts gesendet.`, CONNECTION],
  hub_busy: [
    (v) => `${v["host"]} hat mit dem Status ${v["status"]} geantwortet.`,
    "Warten; es geht von selbst weiter. Ein Token von Hugging Face hebt die Grenze an.",
  ],
  hub_fault: [
    (v) => `${v["host"]} hat mit dem Status ${v["status"]} geantwortet.`,
    "Warten; Geladenes bleibt, und ein Download geht von selbst weiter.",
  ],
  not_on_hub: [
    (v) => `${v["id"]} gibt es auf dem Hub nicht, oder es ist privat.`,
    "Die Schreibweise prüfen; für ein privates Modell ein Token von Hugging Face angeben.",
  ],
  no_such_revision: [(v) => `${v["id"]} hat keine Revision ${v["revision"]}.`, "Die Revision weglassen; dann wird die neueste genommen."],
  gated_model: [
    (v) => `${v["id"]} ist geschützt: Der Eigentümer verlangt, dass man zuerst seinen Bedingungen zustimmt.`,
    (v: Values) =>
      v["with_token"]
        ? "Die Seite des Modells auf huggingface.co mit dem Konto des Tokens öffnen, zustimmen und noch einmal versuchen."
        : "Auf huggingface.co zustimmen, dann ein Token dieses Kontos angeben.",
  ],
  bad_hub_token: ["Das Token von Hugging Face wird abgelehnt.", "Unter huggingface.co/settings/tokens ein neues mit Leserecht machen."],
  not_a_hub_token: [
    "Das ist kein Token von Hugging Face: Es ist ein einzelnes Wort, das mit hf_ beginnt.",
    "Es von huggingface.co/settings/tokens kopieren.",
  ],
  hub_answer: [
    (v) => `${v["host"]} hat etwas geantwortet, das nicht zu verstehen ist: ${v["what"]}.`,
    "Nachsehen, ob ein Proxy oder eine Anmeldeseite dazwischensteht, oder ob HF_ENDPOINT anderswohin zeigt.",
  ],
  changed_on_hub: [
    (v) => `${v["file"]} wurde auf dem Hub geändert, während es geladen wurde.`,
    "Den Download neu beginnen; was sich nicht geändert hat, bleibt.",
  ],
  no_weights: [(v) => `${v["id"]} enthält keine safetensors.`, "Ein Modell wählen, das als safetensors veröffentlicht ist."],
  damaged_download: [
    (v) => `${v["file"]} kam zweimal beschädigt an: ${v["what"] === "size" ? "Die Größe" : "Die Prüfsumme"} stimmt nicht mit der des Hubs überein.`,
    "Verbindung und Platte prüfen, dann den Download neu beginnen.",
  ],
  disk_full: [
    (v) => `In ${v["folder"]} werden ${traffic(v["needed"])} gebraucht, ${traffic(v["free"])} sind frei.`,
    "Platz schaffen, oder HF_HOME auf eine größere Platte setzen, dann fortsetzen; Geladenes bleibt.",
  ],
  download_busy: [(v) => `Ein anderes Programm lädt gerade ${v["file"]}.`, "Warten, bis es fertig ist, oder es beenden; dann fortsetzen."],
};
