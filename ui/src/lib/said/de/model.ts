// Models that cannot be described, sized, loaded or run: faults of crates/model, in German.
import { count, memory } from "../../format";
import { has, type Faults } from "../words";

const AGAIN = "Das Modell noch einmal laden; bleibt es so, ist das Modell selbst beschädigt.";
const OTHER_COPY = "Das Modell noch einmal laden; bleibt es so, eine andere Fassung davon wählen.";
const SMALLER = "Kontext oder Zahl der Anfragen verringern, oder ein kleineres Modell wählen.";

export const model: Faults = {
  model_family_unknown: [
    (v) => `Hearth kennt die Modellfamilie „${v["found"]}“ nicht (model_type in config.json); bekannt sind: ${v["known"]}.`,
    "Ein Modell einer bekannten Familie wählen, oder Hearth aktualisieren.",
  ],
  gguf_architecture_unknown: [
    (v) => `${v["file"]}: Hearth kennt die GGUF-Architektur „${v["found"]}“ nicht; bekannt sind: ${v["known"]}.`,
    "Ein GGUF von Qwen3.5 oder Qwen3.6 wählen, oder ein Modell einer bekannten Familie als safetensors.",
  ],
  model_config_invalid: [
    (v) => {
      const [file, key] = has(v, "key") ? [v["file"], v["key"]] : ["config.json", v["field"]];
      return `${file}: Der Wert von ${key} stimmt nicht; erwartet „${v["expected"]}“, gefunden „${v["found"]}“.`;
    },
    AGAIN,
  ],
  model_feature_unsupported: [
    (v) => `Das Modell verlangt etwas, das Hearth nicht hat: „${v["feature"]}“ (${v["found"]}).`,
    "Ein Modell einer bekannten Familie wählen, oder Hearth aktualisieren.",
  ],
  checkpoint_not_written: [
    (v) => `${v["path"]} konnte nicht geschrieben werden: ${v["reason"]}.`,
    "Einen beschreibbaren Ordner auf einer Platte mit Platz für das Modell wählen.",
  ],
  checkpoint_tensors_unused: [
    (v) => `${count(v["count"])} Tensoren gehören nicht zu einem Modell der Familie ${v["family"]}; der erste ist ${v["first"]}.`,
    "Eine andere Quantisierung dieses Modells wählen; diese gäbe falsche Antworten.",
  ],
  model_does_not_fit: [
    (v) => `Das Modell braucht ${memory(v["plan"].needed)}; ${memory(Math.max(0, v["available"] - v["plan"].reserve))} sind dafür frei.`,
    SMALLER,
  ],
  model_option_invalid: [
    (v) => `Die Option ${v["option"]} hat einen Wert, der nicht geht: erwartet „${v["expected"]}“, gefunden „${v["found"]}“.`,
    "Einen erlaubten Wert einsetzen.",
  ],
  pass_invalid: [
    (v) => `Ein Rechenschritt wurde falsch aufgerufen: ${v["what"]}, erwartet „${v["expected"]}“, gefunden „${v["found"]}“.`,
    "Das ist ein Fehler in Hearth; bitte mit dem Protokoll melden.",
  ],
  model_has_no_mtp: [
    "Dieses Modell hat keinen geladenen MTP-Kopf.",
    "Ohne MTP laufen lassen, oder ein Modell wählen, dessen Ordner mtp.*-Tensoren hat.",
  ],
  out_of_memory: [(v) => `Der Speicher reicht nicht (${v["place"]}: ${v["source"]}).`, SMALLER],
  memory_plan_failed: [
    (v) => `Der Speicherplan lässt sich nicht einhalten (${v["place"]}: ${v["source"]}).`,
    "Andere Programme schließen, die diesen Speicher benutzen, oder Kontext oder Zahl der Anfragen verringern.",
  ],
  tensor_not_finite: [(v) => `In den Gewichten steht etwas, das keine Zahl ist (${v["place"]}: ${v["source"]}).`, OTHER_COPY],
  op_failed: [
    (v) => `Eine Rechnung ist gescheitert (${v["place"]}: ${v["source"]}).`,
    "Das Modell neu starten; bleibt es so, mit dem Protokoll melden.",
  ],
};
