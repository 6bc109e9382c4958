// What Hearth says without being asked, and about the models it suggests, in German.
import type { Sentences } from "../words";

export const notices: Sentences = {
  returned_to_last_good: (v) => `${v["failed"]} konnte nicht gestartet werden: ${v["fault"].message} ${v["runs"]} läuft wieder.`,
  restart_needed: (v) => `Die neue Adresse ${v["address"]} gilt vom nächsten Start von Hearth an.`,
  token_replaced: "Andere Konten konnten den Schlüssel lesen; darum wurde ein neuer gemacht.",
  history_moved: (v) => `Der Verlauf war nicht zu lesen und liegt jetzt in ${v["file"]}; ein neuer ist begonnen.`,
  history_in_memory: (v) => `Der Verlauf lässt sich nicht aufheben und geht am Ende verloren: ${v["reason"]}.`,
  chats_moved: (v) => `Ihre Chats waren nicht zu lesen und liegen jetzt in ${v["file"]}; eine neue Datei ist begonnen.`,
  chats_in_memory: (v) => `Ihre Chats lassen sich nicht aufheben und gehen am Ende verloren: ${v["reason"]}.`,
  benchmarks_moved: (v) => `Die Messungen waren nicht zu lesen und liegen jetzt in ${v["file"]}; eine neue Datei ist begonnen.`,
  benchmarks_in_memory: (v) => `Die Messungen lassen sich nicht aufheben und gehen am Ende verloren: ${v["reason"]}.`,
};

export const goodFor: Record<string, string> = {
  "nvidia/Qwen3.6-35B-A3B-NVFP4": "Agenten und Chat. Liest von seiner Art am wenigsten je Token.",
  "RedHatAI/Qwen3.6-35B-A3B-NVFP4": "Wie das vorige, mit ungerundeten Delta-Netzen und Kopf.",
  "Qwen/Qwen3.6-35B-A3B-FP8": "Agenten und Chat, von den Autoren selbst.",
  "Qwen/Qwen3.6-35B-A3B": "Das Original, ungerundet. Langsam auf einem Spark.",
  "Intel/Qwen3.5-122B-A10B-int4-AutoRound": "Das größte seiner Art, das ein Spark fasst.",
  "Qwen/Qwen3-32B-AWQ": "Ein dichtes Modell; viel zu lesen je Token.",
  "Qwen/Qwen3-8B": "Ein kleines dichtes Modell.",
  "google/gemma-4-31B-it": "Ein dichtes Modell; ohne Entwürfe zu viel zu lesen je Token.",
  "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-NVFP4": "Schlussfolgern.",
  "stepfun-ai/Step-3.5-Flash": "Groß; ein Spark fasst seine 4-Bit-Fassungen gerade noch.",
  "deepseek-ai/DeepSeek-V4-Flash": "Lange Kontexte bis zu einer Million Token.",
};

/** `the family gemma4`, `INT4 weights`: what Hearth would need for a suggested model. */
export const lacks = (english: string): string =>
  english.replace(/^the family /, "die Familie ").replace(/^(\S+) weights$/, "Gewichte in $1");
