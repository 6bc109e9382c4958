// The doctor's checks, in German: what is looked at, what was found, what was seen, and how to put it right.
import { count, memory } from "../../format";
import { has, type Sentences, type Values } from "../words";

export const titles: Record<string, string> = {
  driver: "GPU-Treiber",
  driver_kernel: "Treiber und Kernel",
  driver_version: "Treiberversion",
  cuda: "GPU-Code",
  selftest: "Selbsttest",
  others: "Andere Programme",
  page_cache: "Seitencache",
  swap: "Swap",
  power_cap: "Stromversorgung",
  heat: "Hitze",
  governor: "CPU-Takt",
  disk: "Plattenplatz",
  port: "Port",
  permissions: "Schlüssel und Token",
  hub: "Hugging Face",
};

const HOLDS: Record<string, string> = { models: "Modelle", "history and logs": "Verlauf und Protokolle" };
const holds = (v: Values): string => HOLDS[v["holds"]] ?? v["holds"];
const what = (v: Values): string => (v["what"] === "settings folder" ? "Einstellungsordner" : v["what"]);

/** `a`, `a und b`, `a, b und c`, `a, b, c und 2 weitere`. */
function listed(names: string[], more: number): string {
  if (more > 0) return `${names.join(", ")} und ${more} weitere`;
  return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} und ${names.at(-1)}`;
}

function rival(v: Values): string {
  const keeper = has(v, "keeper") ? `, gehalten von ${v["keeper"]}` : "";
  const gpu = has(v, "gpu") ? `, ${memory(v["gpu"])} GPU-Speicher` : "";
  const more = v["more"] ? " und weitere" : "";
  return `${v["name"]} (pid ${(v["pids"] as string[]).join(", ")}${more})${keeper}: ${memory(v["memory"])} Speicher${gpu}`;
}

export const doctor: Sentences = {
  no_gpu: "Dieser Rechner hat keine GPU von NVIDIA; Modelle laufen auf der CPU.",
  no_gpu_seen: "Weder eine GPU von NVIDIA noch ein Treiber ist zu sehen; Modelle laufen auf der CPU.",
  library_without_gpu: "Die Bibliothek des Treibers ist da, aber keine GPU zu sehen; Modelle laufen auf der CPU.",
  driver_answers: (v) => `Der Treiber ${v["version"]} antwortet für ${v["name"]}.`,
  driver_answers_unknown: (v) => `Der Treiber antwortet für ${v["name"]}.`,
  driver_mismatch: "Bibliothek und Kernelmodul des Treibers sind von verschiedenen Versionen.",
  driver_not_loaded: "Der Treiber der GPU ist installiert, aber nicht geladen.",
  driver_no_module: "Der Treiber der GPU ist nicht geladen: Der laufende Kernel hat kein Modul davon.",
  driver_missing: "Es gibt eine GPU, aber keinen Treiber dafür.",
  driver_no_library: "Das Kernelmodul ist geladen, aber die Bibliothek des Treibers fehlt.",
  driver_silent: "Der Treiber ist geladen, antwortet aber nicht.",
  seen_pci: (v) => `NVIDIA-Gerät 10de:${v["device"]} an ${v["address"]}`,
  seen_no_library: "libnvidia-ml.so.1: nicht gefunden",
  seen_not_loaded: "NVML: Treiber nicht geladen",
  seen_mismatch: "NVML: Treiber und Bibliothek von verschiedenen Versionen",
  seen_module: (v) => `Kernelmodul: geladen, Version ${v["version"]}`,
  seen_no_module: "Kernelmodul: nicht geladen",
  fix_install_module: "Das Modul des Treibers für den laufenden Kernel installieren, dann den Rechner neu starten.",
  fix_build_module: "Das Modul des Treibers für den laufenden Kernel bauen, dann den Rechner neu starten.",
  fix_install_driver: "Den NVIDIA-Treiber 580 oder neuer installieren, dann den Rechner neu starten.",
  fix_restart: "Den Rechner neu starten: Ein Update hat den Treiber gewechselt, während der alte lief.",
  fix_load_driver:
    "Ihn laden. Wird das abgelehnt, „sudo dmesg | grep -i nvidia“ ansehen: Secure Boot verlangt vielleicht ein signiertes Modul.",
  fix_install_library: "Die Bibliothek in der Version des Moduls installieren. Einen Container mit „--gpus all“ starten.",

  kernel_unknown: "Die Version des laufenden Kernels ist nicht zu lesen.",
  kernel_no_gpu: "Es gibt keine GPU von NVIDIA, die einen Treiber bräuchte.",
  kernel_mismatch: "Der Treiber wurde im laufenden Betrieb aktualisiert; geladen ist noch das alte Modul.",
  kernel_has_module: "Der laufende Kernel hat das Modul des Treibers.",
  kernel_loaded: "Das Modul des Treibers ist geladen.",
  kernel_none: "Kein Kernel auf diesem Rechner hat das Modul des Treibers.",
  kernel_updated: (v) =>
    `Der Kernel wurde auf ${v["kernel"]} aktualisiert, das Modul des Treibers nicht: Das kommt nach einem Systemupdate vor.`,
  seen_kernel: (v) => `laufender Kernel: ${v["kernel"]}`,
  seen_module_for: (v) => `Modul des Treibers für ${v["kernel"]} in ${v["folder"]}`,

  version_unknown: "Kein Treiber nennt seine Version.",
  version_strange: (v) => `Der Treiber nennt sich „${v["version"]}“, und das ist keine Version.`,
  version_old: (v) => `Der Treiber ${v["version"]} ist älter als ${v["least"]}, der erste, auf dem Hearths GPU-Code läuft (CUDA 13.0).`,
  version_bad_kernel: (v) => `Vom Kernel ${v["kernel"]} ist bekannt, dass er auf einem Spark beim Start den Treiber verliert.`,
  version_new: (v) =>
    `Der Treiber ${v["version"]} ist neuer als 580, die auf einem Spark bewährte Reihe; mit 590 wurde von Hängern in CUDA-Graphen berichtet.`,
  version_good: (v) => `Der Treiber ${v["version"]} gehört zur bewährten Reihe.`,
  version_newer: (v) => `Der Treiber ${v["version"]} ist neuer als 580, die bewährte Reihe; Schlechtes ist von ihm nicht bekannt.`,
  fix_driver_580: "Den Treiber 580 installieren und den Rechner neu starten.",
  fix_update_kernel: "Das System auf einen neueren Kernel aktualisieren.",
  fix_back_to_580: "Bleiben Antworten ohne Fehler stehen, zur Reihe 580 von DGX OS zurückgehen.",

  cuda_no_gpu: "Es gibt keine GPU von NVIDIA, auf der er laden könnte.",
  cuda_untried: "Es wurde nicht versucht.",
  cuda_loads: "Hearths GPU-Code lädt.",
  cuda_fails: "Hearths GPU-Code lädt nicht; Modelle laufen auf der CPU, und das langsam.",
  fix_cuda: "Beheben, was die Zeile unten sagt; die Prüfungen des Treibers weiter oben sagen vielleicht, wie.",

  selftest_no_gpu: "Es gibt keine GPU zu prüfen.",
  selftest_passed: (v) => `Jede Rechenart von ${v["name"]} wurde mit der CPU verglichen und stimmt überein.`,
  selftest_before: "Er wurde früher bestanden, mit anderem Treiber, Gerät oder Hearth.",
  selftest_not_yet: "Diese GPU wurde noch nicht geprüft.",
  seen_selftest: (v) => `${v["device"]}: ${v["checks"]} Prüfungen bestanden, mit Hearth ${v["version"]}`,
  fix_selftest: "Er läuft von selbst, bevor die GPU für jemanden rechnet. Um ihn jetzt zu machen und jede Rechenart zu sehen:",

  no_proc: "/proc ist nicht zu lesen.",
  others_none: "Kein anderes Programm hält viel Speicher.",
  others_one: (v) => `${v["who"]} hält ${memory(v["memory"])} Speicher.`,
  others_several: (v) => `${listed(v["names"], v["more"])} halten zusammen ${memory(v["memory"])} Speicher.`,
  seen_rival: (v) => rival(v),
  fix_other: "Wird dieser Speicher für ein Modell gebraucht, das Programm bitten, ihn herzugeben; verloren geht nur, was dort läuft.",
  fix_others: "Wird dieser Speicher für ein Modell gebraucht, jedes bitten, ihn herzugeben; verloren geht nur, was dort läuft.",

  no_meminfo: "/proc/meminfo ist nicht zu lesen.",
  cache_elsewhere: "Das System gibt den Seitencache zurück, wenn Speicher gebraucht wird.",
  cache_much: "Ein großer Teil des Speichers ist Seitencache, und CUDA zählt ihn auf diesem Rechner als belegt.",
  cache_fine: "Der Seitencache lässt genug Speicher frei.",
  seen_cache: (v) => `Seitencache, der zurückzuhaben ist: ${memory(v["cache"])}`,
  seen_free: (v) => `frei: ${memory(v["free"])} von ${memory(v["total"])}`,
  fix_cache:
    "Hearths eigene Schätzung zählt ihn als frei. Scheitert ein Start dennoch am Speicher, den Cache zurückgeben; Dateien werden neu gelesen, wenn sie gebraucht werden.",
  swap_none: "Es gibt keinen Swap: Was im Speicher ist, bleibt im Speicher.",
  swap_hardly: "Swap wird kaum benutzt.",
  swap_used: "Programme liegen im Swap; was von einem Modell dort liegt, wird bei jedem Token von der Platte gelesen.",
  seen_swap: (v) => `${memory(v["used"])} von ${memory(v["total"])} belegt`,
  fix_swap: "Der Speicher war einmal knapp und ist es nicht mehr: zurückholen, was im Swap liegt.",
  fix_memory: "Programme schließen, die nicht gebraucht werden, oder das Modell mit kleinerem Kontext starten.",

  power_no_gpu: "Es gibt keine GPU, deren Leistung begrenzt sein könnte.",
  power_capped: (v) =>
    `Die GPU arbeitet schwer bei ${count(v["clock"])} MHz und ist nicht heiß: Ihre Leistung ist begrenzt, und keine Anzeige sagt es.`,
  power_capped_range: (v) =>
    `Die GPU arbeitet schwer bei ${count(v["low"])} bis ${count(v["high"])} MHz und ist nicht heiß: Ihre Leistung ist begrenzt, und keine Anzeige sagt es.`,
  power_idle: "Eine hängengebliebene Leistungsgrenze zeigt sich nur, während die GPU schwer arbeitet. Während einer langen Antwort noch einmal nachsehen.",
  power_no_clock: "Die GPU nennt ihren Takt nicht.",
  power_healthy: "Die GPU erreicht unter Last einen gesunden Takt.",
  seen_reading: (v) => `zu ${v["busy"]} beschäftigt, ${v["rest"]}`,
  seen_held: (v) => `Der Treiber hält den Takt niedrig wegen: ${v["reasons"]}`,
  fix_brick:
    "Das Netzteil wurde zu schwach ausgehandelt. Herunterfahren, das Netzteil 60 Sekunden lang von der Steckdose und vom Rechner trennen, dann das mitgelieferte Netzteil ohne Hub und anderes Kabel anstecken. Kommt es wieder, ist das Netzteil zu tauschen.",
  fix_power: "Die Stromkabel der Karte ansehen, und was laut Treiber den Takt niedrig hält.",
  heat_unknown: "Kein Sensor ist zu lesen.",
  heat_slows: "Der Rechner ist so heiß, dass er sich selbst bremst.",
  heat_warm: "Der Rechner ist heißer, als er unter Last sein sollte (gesund sind für die GPU 55 bis 76 °C).",
  heat_fine: "Nichts ist zu heiß.",
  fix_air: "Dem Rechner Luft geben: Öffnungen freihalten, nichts darauf stapeln. Bis dahin hält ihn ein niedrigerer Takt kühl und kostet etwas Tempo.",
  governor_none: "Das System lässt den Takt der CPU nicht steuern (vielleicht eine virtuelle Maschine).",
  governor_slow: "Die CPU wird bei niedrigem Takt gehalten; Modelle lesen und Antworten schreiben wartet darauf.",
  governor_fast: "Die CPU darf so schnell laufen, wie sie kann.",
  seen_governor: (v) => `${v["name"]} auf ${v["cores"]} Kernen (Treiber ${v["driver"]})`,
  fix_governor: "Sie schnell laufen lassen; das gilt bis zum nächsten Neustart.",

  disk_unknown: "Die Dateisysteme nennen ihre Größe nicht.",
  disk_full: (v) => `Für ${holds(v)} ist kein Platz mehr.`,
  disk_short: "Der Platz für Modelle ist knapp: Eines hat 20 GB oder mehr.",
  disk_room: "Es ist genug Platz da.",
  seen_disk: (v) => `${holds(v)}: ${memory(v["free"])} frei von ${memory(v["total"])} in ${v["path"]}`,
  fix_room: "Platz schaffen: „hearth list“ zeigt die Modelle, und dies, was sonst groß ist.",
  port_unknown: "Es ist nicht bekannt, wo Hearth hören soll.",
  port_free: (v) => `${v["address"]} ist frei.`,
  port_ours: (v) => `Hearth hört auf ${v["address"]}.`,
  port_held: (v) => `Der Port ${v["port"]} ist von ${v["name"]} belegt.`,
  port_held_unknown: (v) => `Der Port ${v["port"]} ist von einem Prozess eines anderen Kontos belegt.`,
  fix_port: (v) => `Hearth einen anderen Port geben (in den Einstellungen oder mit dem Befehl unten), oder ${v["name"]} beenden.`,
  fix_port_unknown: "Hearth einen anderen Port geben (in den Einstellungen oder mit dem Befehl unten), oder den Prozess des anderen Kontos beenden.",
  keys_none: "Hearth hat noch keine Schlüssel geschrieben.",
  keys_foreign: "Einige von Hearths Dateien gehören einem anderen Konto.",
  keys_closed: (v) => `Nur Ihr Konto kann sie lesen (${v["count"]} nachgesehen).`,
  keys_open: "Andere Konten dieses Rechners können Hearths Schlüssel lesen.",
  seen_file: (v) => `${what(v)}: Rechte ${v["mode"]} in ${v["path"]}`,
  seen_foreign_file: (v) => `${what(v)}: Rechte ${v["mode"]}, gehört einem anderen Konto, in ${v["path"]}`,
  fix_take_back: "Sie zurücknehmen.",
  fix_close: "Sie schließen. Wer einen Schlüssel lesen konnte, kann ihn kopiert haben: neue machen, wenn andere diesen Rechner benutzen.",
  hub_not_asked: "Nicht gefragt: Hearth verlässt diesen Rechner nur, wenn man es will.",
  hub_answers: "Es antwortet: Modelle können gesucht und geladen werden.",
  hub_silent: "Es antwortet nicht: Modelle können jetzt nicht geladen werden. Was auf diesem Rechner ist, geht ohne.",
  seen_hub: (v) => `${v["host"]}: Antwort in ${count(v["ms"])} ms`,
  seen_no_answer: (v) => `${v["host"]}: keine Antwort`,
  fix_ask: "Die Frage öffnet eine Verbindung und sendet nichts über Sie.",
  fix_network: "Netz, Proxy (HTTPS_PROXY) und HF_ENDPOINT prüfen, dann noch einmal nachsehen.",
};
