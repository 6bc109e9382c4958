// Invented models, downloads and plans for the page Models of the fake control server.
import type { CatalogueList } from "../src/lib/types/CatalogueList.ts";
import type { DownloadCard } from "../src/lib/types/DownloadCard.ts";
import type { HubCard } from "../src/lib/types/HubCard.ts";
import type { Plan } from "../src/lib/types/Plan.ts";
import type { Prospect } from "../src/lib/types/Prospect.ts";
import type { SearchCard } from "../src/lib/types/SearchCard.ts";

const GiB = 2 ** 30;
const card = (name: string, repository: string, more: object = {}) => ({
  name, repository, family: "qwen3_5_moe", parameters: 35.95e9, format: "NVFP4 + FP8", bytes: null, bytes_per_token: 2.25e9,
  decode_tok_s_ceiling: 102.7, context: 262144, drafter: "MTP", licence: null, good_for: "Agents and chat. Reads the fewest bytes per token of its kind.",
  lacks: null, installed: false, too_large: null, ...more,
});
export const catalogue: CatalogueList = {
  version: 1,
  checked: "2026-11-27",
  models: [
    card("Qwen3.6 35B-A3B", "nvidia/Qwen3.6-35B-A3B-NVFP4", { installed: true }),
    card("Qwen3.6 35B-A3B", "Qwen/Qwen3.6-35B-A3B-FP8", { format: "FP8", bytes_per_token: 3.48e9, decode_tok_s_ceiling: 66.4, good_for: "Agents and chat, from the authors themselves." }),
    card("Qwen3.6 35B-A3B", "Qwen/Qwen3.6-35B-A3B", { format: "BF16", bytes: 71.9e9, bytes_per_token: null, decode_tok_s_ceiling: null, too_large: true, good_for: "The reference, unrounded. Slow on one Spark." }),
    card("Qwen3.5 122B-A10B", "Intel/Qwen3.5-122B-A10B-int4-AutoRound", { format: "INT4 AutoRound", bytes_per_token: 6.56e9, lacks: "INT4 weights" }),
    card("DeepSeek V4 Flash", "deepseek-ai/DeepSeek-V4-Flash", { family: "deepseek_v4", format: null, bytes_per_token: null, context: 1048576, lacks: "the family deepseek_v4" }),
  ],
};
export const hub: HubCard = { host: "huggingface.co", fault: null, token: "none", cache: "/home/me/.cache/huggingface/hub", free: 812e9 };

const download = (number: number, model: string, more: Partial<DownloadCard>): DownloadCard => ({
  number, model, revision: "main", file: null, commit: "0123456789abcdef0123456789abcdef01234567", phase: "fetching", files: 12, bytes: 21.8e9, done: 12.4e9,
  verified: 0, to_verify: 0, rate: 88e6, seconds_left: 107, fault: null, retry_in_s: null, ...more,
});
export const downloads: DownloadCard[] = [
  download(1, "nvidia/Qwen3.6-35B-A3B-NVFP4", {}),
  download(2, "Qwen/Qwen3.6-35B-A3B-FP8", { phase: "queued", done: 0, bytes: null, rate: null, seconds_left: null }),
  download(3, "org/behind-a-gate", {
    phase: "failed", done: 0, bytes: null, rate: null, seconds_left: null,
    fault: { code: "gated_model", message: "Org/behind-a-gate is gated: its owner wants its conditions to be accepted first.", next_step: "Accept its conditions on huggingface.co, then give a token of that account.", evidence: null },
  }),
  download(4, "org/verifying", { phase: "verifying", done: 21.8e9, verified: 9e9, to_verify: 21.8e9, rate: null, seconds_left: null }),
];
export const hits: SearchCard[] = [
  { id: "nvidia/Qwen3.6-35B-A3B-NVFP4", downloads: 812345, likes: 410, changed: null, gated: false, parameters: 35.95e9, licence: "apache-2.0", installed: true, gguf: false },
  { id: "org/behind-a-gate", downloads: 12, likes: 1, changed: null, gated: true, parameters: 8e9, licence: null, installed: false, gguf: false },
];

const needs = (context: number) => 24 * GiB + context * 4 * 22 * 1024;
const plan = (context: number): Plan => ({
  verdict: needs(context) > 62 * GiB ? "does_not_fit" : needs(context) > 56 * GiB ? "tight" : "fits",
  context,
  parts: [
    { kind: "weights", bytes: 21.8 * GiB, source: "exact" },
    { kind: "kv_reserved", bytes: context * 4 * 22 * 1024, source: "exact" },
    { kind: "state", bytes: 1.2 * GiB, source: "exact" },
    { kind: "scratch", bytes: 1 * GiB, source: "estimated" },
  ],
  needed: needs(context), peak: needs(context) + 0.6 * GiB, available: 62 * GiB, bytes_per_token: 2.9e9, roof: 231e9,
  decode_tok_s_ceiling: 79.6, max_context: 1048576, native_context: 262144, stretch: null,
  contexts: [8, 16, 32, 64, 128, 256].map((k) => ({ context: k * 1024, needed: needs(k * 1024) })),
  expanded: null,
});
export const bigPlan = plan(131072);
export const prospect = (model: string, context: number | null): Prospect => ({
  model: { id: model, name: model.split("/")[1] ?? model, demonstration: false, family: "qwen3_5_moe", fault: null, bytes: 21.8e9, max_context: 262144, longest_context: 1048576 },
  commit: "0123456789abcdef0123456789abcdef01234567", file: null, ggufs: 0, licence: "apache-2.0", gated: false, files: 12, bytes: 21.8e9, here: 0, free: 812e9,
  formats: [{ format: "NVFP4", bytes: 17.1e9 }, { format: "FP8", bytes: 3.1e9 }, { format: "BF16", bytes: 1.6e9 }],
  plan: plan(context ?? 131072), fault: null,
});
