// The files of a model: faults of crates/checkpoint, in German. What was expected and what was found are told in the reader's own
// words, which are English and stand in quotation marks.
import { count } from "../../format";
import { has, type Faults, type Values } from "../words";

const detail = (v: Values): string => `erwartet „${v["expected"]}“, gefunden „${v["found"]}“`;
const INVALID = "Die Datei noch einmal laden, oder den fragen, der sie gemacht hat; sie ist nicht gültig.";
const INCOMPLETE = "Das Modell noch einmal laden; was auf dieser Platte liegt, ist unvollständig.";
const MIXED = "Prüfen, ob config.json und die Gewichte zum selben Modell gehören.";

export const checkpoint: Faults = {
  checkpoint_unreadable: [
    (v) => (has(v, "file") ? `${v["file"]} konnte nicht gelesen werden: ${v["source"]}.` : `Eine Datei des Modells konnte nicht gelesen werden (${v["place"]}: ${v["source"]}).`),
    "Prüfen, ob es die Datei gibt und ob Ihr Konto sie lesen darf; sonst das Modell noch einmal laden.",
  ],
  checkpoint_not_a_folder: [
    (v) => `${v["file"]}: Hier wird ein Ordner mit einem Modell erwartet, gefunden „${v["found"]}“.`,
    "Den Ordner mit config.json und den safetensors-Dateien angeben, oder eine GGUF-Datei.",
  ],
  checkpoint_missing_file: [(v) => `${v["file"]} fehlt (erwartet „${v["expected"]}“).`, INCOMPLETE],
  checkpoint_file_too_large: [
    (v) => `${v["file"]} ist mit ${count(v["bytes"])} Byte zu groß; höchstens ${count(v["limit"])} sind zu erwarten.`,
    INVALID,
  ],
  checkpoint_invalid_json: [(v) => `Der Inhalt von ${v["file"]} stimmt nicht: ${detail(v)}.`, INVALID],
  safetensors_invalid_header: [(v) => `Der Kopf von ${v["file"]} ist unbrauchbar: ${detail(v)}.`, INVALID],
  safetensors_unknown_dtype: [(v) => `${v["file"]}: Der Tensor ${v["tensor"]} hat den Typ „${v["found"]}“, den safetensors nicht kennt.`, INVALID],
  safetensors_invalid_entry: [(v) => `${v["file"]}: Der Eintrag des Tensors ${v["tensor"]} stimmt nicht: ${detail(v)}.`, INVALID],
  safetensors_cut_short: [
    (v) => `${v["file"]} ist abgeschnitten: Der Tensor ${v["tensor"]} braucht ${count(v["expected"])} Byte, die Datei hat ${count(v["found"])}.`,
    INCOMPLETE,
  ],
  tensor_missing: [(v) => `${v["file"]}: Der Tensor ${v["tensor"]} fehlt (${detail(v)}).`, INCOMPLETE],
  tensor_doubled: [(v) => `${v["file"]}: Den Tensor ${v["tensor"]} gibt es doppelt; er steht auch „${v["found"]}“.`, INVALID],
  tensor_wrong_shape: [(v) => `${v["file"]}: Der Tensor ${v["tensor"]} hat die falsche Form: ${detail(v)}.`, MIXED],
  tensor_wrong_dtype: [(v) => `${v["file"]}: Der Tensor ${v["tensor"]} hat den falschen Typ: ${detail(v)}.`, MIXED],
  tensor_wrong_value: [(v) => `${v["file"]}: Der Tensor ${v["tensor"]} enthält einen unmöglichen Wert: ${detail(v)}.`, INVALID],
  unknown_quantization: [
    (v) => `${v["file"]}: Die Quantisierung „${v["found"]}“ (${v["place"]}) ist unbekannt; lesbar ist „${v["expected"]}“.`,
    "Eine Fassung des Modells in bf16, FP8 oder NVFP4 wählen (compressed-tensors oder ModelOpt).",
  ],
  gguf_invalid: [(v) => `${v["file"]} ist als GGUF nicht zu brauchen: ${detail(v)}.`, INVALID],
  gguf_type_not_supported: [
    (v) =>
      has(v, "expected")
        ? `${v["file"]}: Der Tensor ${v["tensor"]} ist als ${v["found"]} gespeichert, was Hearth nicht liest; es liest ${v["expected"]}.`
        : `${v["file"]}: Der Tensor ${v["tensor"]} hat einen unbekannten GGUF-Typ (${v["found"]}).`,
    "Eine andere Datei dieses Modells wählen, etwa Q8_0, Q6_K, Q4_K_M oder BF16.",
  ],
  quantization_mismatch: [
    (v) => `${v["file"]}: Beim Tensor ${v["tensor"]} sagt die Konfiguration „${v["expected"]}“, die Datei enthält „${v["found"]}“.`,
    MIXED,
  ],
};
