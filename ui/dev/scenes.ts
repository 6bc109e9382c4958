// Invented pictures of every state, for looking at the window without a backend. Development only, never built in.
// The scene is chosen by the token: `#token=scene-loading`.
import type { EngineState } from "../src/lib/types/EngineState.ts";
import type { Fault } from "../src/lib/types/Fault.ts";
import type { History } from "../src/lib/types/History.ts";
import type { MemoryPart } from "../src/lib/types/MemoryPart.ts";
import type { ModelCard } from "../src/lib/types/ModelCard.ts";
import type { Plan } from "../src/lib/types/Plan.ts";
import type { Profile } from "../src/lib/types/Profile.ts";
import type { RequestRecord } from "../src/lib/types/RequestRecord.ts";
import type { Settings } from "../src/lib/types/Settings.ts";
import type { Snapshot } from "../src/lib/types/Snapshot.ts";

const GiB = 2 ** 30;
const MiB = 2 ** 20;
const born = Date.now();
export const SCENES = [
  "no-model", "stopped", "loading", "idle", "busy", "prefill", "degraded", "stopping", "restarting", "error", "spark", "away",
] as const;
export type Scene = (typeof SCENES)[number];

export const ember: ModelCard = {
  id: "ember", name: "Ember", demonstration: true, family: "qwen3_5_moe", fault: null, bytes: 10.4e6, max_context: 4096,
};
const qwen: ModelCard = {
  id: "nvidia/Qwen3.6-35B-A3B-NVFP4", name: "Qwen3.6-35B-A3B", demonstration: false, family: "qwen3_5_moe", fault: null,
  bytes: 21.9e9, max_context: 262144,
};
const strange: ModelCard = {
  id: "/models/old-llama", name: "old-llama", demonstration: false, family: null, bytes: 13.2e9, max_context: null,
  fault: { code: "unknown_family", message: "Hearth cannot run the family llama.", next_step: "Choose another model.", evidence: null },
};
export const models = [ember, qwen, strange];
export const profile: Profile = { model: "ember", context: null, max_requests: 4, kv: "bf16", exact: false, fp4_activations: false };
export const settings: Settings = {
  host: "127.0.0.1", port: 8000, start_engine: false, profile, memory_reserve: null, theme: "system", keep_chats: true,
};
export const plan: Plan = {
  verdict: "fits", context: 4096, needed: 61 * MiB, available: 14.2 * GiB, bytes_per_token: 4.1e6, decode_tok_s_ceiling: 7800,
  parts: [part("weights", 10 * MiB), part("kv_reserved", 32 * MiB), part("state", 3 * MiB), part("scratch", 16 * MiB)],
};

const killed: Fault = {
  code: "engine_killed",
  message: "The engine was ended by signal 9 while it was serving.",
  next_step: "Hearth starts it again; nothing to do unless it repeats.",
  evidence: "exit: signal 9 (SIGKILL) after 312 s, pid 48213",
};
const broken: Fault = {
  code: "weight_missing",
  message: "The model cannot be loaded: model-00002-of-00004.safetensors ends 18 331 bytes early.",
  next_step: "Fetch that file again, or choose another model in Settings.",
  evidence: "tensor model.layers.11.mlp.experts.3.down_proj.weight: expected 1 572 864 bytes at 804 331 120, file has 804 312 789",
};
const low: Fault = {
  code: "memory_low",
  message: "Memory is low: 0.8 GiB are free, 2.0 GiB should be.",
  next_step: "Close other programs, or choose a smaller context in Settings.",
  evidence: "MemAvailable 838 860 kB",
};

function part(kind: string, bytes: number): MemoryPart {
  const exact = ["weights", "kv_used", "kv_reserved", "state", "scratch"].includes(kind);
  return { kind, bytes, source: exact ? "exact" : "measured" };
}

function engineState(scene: Scene, now: number): EngineState {
  const since_ms = born - 11_520_000;
  switch (scene) {
    case "no-model": return { kind: "no_model" };
    case "stopped": return { kind: "stopped" };
    case "loading": return { kind: "loading", stage: "read weights", index: 1, count: 4, fraction: ((now - born) / 20000) % 1, seconds_left: 1.6 };
    case "prefill": return { kind: "serving", since_ms, prefill: 0.62 };
    case "degraded": return { kind: "degraded", since_ms, fault: low };
    case "stopping": return { kind: "stopping", running: 2, seconds_left: 20 - (((now - born) / 1000) % 20) };
    case "restarting": return { kind: "restarting", attempt: 1, of: 3, seconds_left: 2 - (((now - born) / 1000) % 2), fault: killed };
    case "error": return { kind: "error", fault: broken };
    default: return { kind: "serving", since_ms, prefill: null };
  }
}

export function snapshot(scene: Scene): Snapshot {
  const now = Date.now();
  const loaded = !["no-model", "stopped", "loading", "error", "restarting"].includes(scene);
  const busy = ["busy", "degraded", "stopping", "spark"].includes(scene);
  const spark = scene === "spark";
  const wobble = 1 + 0.04 * Math.sin(now / 700);
  const total = spark ? 119.6 * GiB : 23.4 * GiB;
  const engine = !loaded ? [] : spark
    ? [part("weights", 21.8 * GiB), part("kv_used", 4.1 * GiB), part("kv_reserved", 13.9 * GiB), part("state", 0.6 * GiB), part("scratch", 1.9 * GiB)]
    : [part("weights", 10.2 * MiB), part("kv_used", (busy ? 6 : 0.4) * MiB), part("kv_reserved", 26 * MiB), part("state", 3 * MiB), part("scratch", 16 * MiB)];
  const other = spark ? 9.3 * GiB : scene === "degraded" ? 18.1 * GiB : 3.2 * GiB;
  const cache = spark ? 40 * GiB : scene === "degraded" ? 4.4 * GiB : 6.1 * GiB;
  const used = engine.reduce((s, p) => s + p.bytes, 0);
  const steps = spark ? 46 : 212;
  return {
    time_ms: now, version: "0.1.0", uptime_s: 11800, state: engineState(scene, now),
    profile: spark ? { ...profile, model: qwen.id, context: 131072 } : profile,
    model: scene === "no-model" ? null : spark ? qwen : ember,
    endpoint: { url: "http://127.0.0.1:8000/v1", port: 8000 },
    memory: {
      total, reserve: spark ? 12 * GiB : 2.9 * GiB,
      parts: [...engine, part("other", other), part("cache", cache), part("free", total - used - other - cache)],
    },
    throughput: {
      decode_tok_s: busy ? (spark ? 148.6 : 331.2) * wobble : null,
      prefill_tok_s: scene === "prefill" || spark ? 6930 * wobble : null,
      ttft_p50_s: loaded ? 0.31 : null, ttft_requests: loaded ? 12 : 0,
      running: busy ? 2 : scene === "prefill" ? 1 : 0, queued: busy ? 1 : 0,
    },
    bandwidth: {
      gb_s: busy ? (spark ? 198 : 12.4) * wobble : null, bytes_per_step: busy ? (spark ? 4.3e9 : 58.6e6) : null,
      steps_per_s: busy ? steps * wobble : null, source: "estimated",
      roof_gb_s: spark ? 231 : 31.8, nominal_gb_s: spark ? 273 : null,
    },
    machine: { name: "spark-1", cpu: "Neoverse X925", cores: 20, gpu: null },
    active: !loaded || !(busy || scene === "prefill") ? [] : [
      { id: "chat-7f21", phase: scene === "prefill" ? "prefill" : "decode", prompt_tokens: 1840, prefilled_tokens: scene === "prefill" ? 1140 : 1840, output_tokens: scene === "prefill" ? 0 : 412, started_ms: now - 4300 },
      ...(busy ? [{ id: "req-19c0", phase: "queued", prompt_tokens: null, prefilled_tokens: 0, output_tokens: 0, started_ms: now - 800 }] : []),
    ],
    notices: [],
  };
}

export function history(scene: Scene, seconds: number): History {
  const n = seconds === 60 ? 60 : 450;
  const step_s = seconds / n;
  const end = Math.floor(Date.now() / (step_s * 1000)) * step_s * 1000;
  const empty = scene === "no-model" || scene === "stopped" || scene === "loading";
  const t_ms = Array.from({ length: n }, (_, i) => end - (n - 1 - i) * step_s * 1000);
  const burst = (t: number) => Math.sin(t / (seconds * 95)) + 0.4 * Math.sin(t / (seconds * 31)) > -0.25;
  const noise = (t: number) => 0.93 + 0.07 * Math.sin(t / (seconds * 7.3)) + 0.03 * Math.sin(t / (seconds * 1.9));
  const scale = scene === "spark" ? 148 : 331;
  return {
    step_s, t_ms,
    decode_tok_s: t_ms.map((t) => (!empty && burst(t) ? scale * noise(t) : null)),
    prefill_tok_s: t_ms.map((t, i) => (!empty && burst(t) && (i % 17 < 5 || !burst(t - step_s * 1000)) ? 6900 * noise(t * 3) : null)),
    bandwidth_gb_s: t_ms.map((t) => (!empty && burst(t) ? (scene === "spark" ? 198 : 12.4) * noise(t) : null)),
    memory_bytes: t_ms.map((t) => (scene === "spark" ? 51 : 3.3) * GiB * (1 + 0.02 * noise(t))),
    events: empty ? [] : [
      { t_ms: end - seconds * 700, kind: "started", text: "Ember started" },
      ...(scene === "restarting" || scene === "busy" ? [{ t_ms: end - seconds * 300, kind: "crashed", text: "signal 9" }] : []),
    ],
  };
}

export function requests(scene: Scene): RequestRecord[] {
  if (scene === "no-model" || scene === "stopped") return [];
  const now = Date.now();
  const row = (row: number, over: Partial<RequestRecord>): RequestRecord => ({
    row, id: `chat-${row}`, kind: "chat", model: "ember", started_ms: now - (12 - row) * 41000, total_s: 2.4, prompt_tokens: 58,
    cached_tokens: 0, output_tokens: 96, queue_s: 0, ttft_s: 0.31, decode_tok_s: 338.4, finish: "stop", error: null, error_code: null, ...over,
  });
  return [
    row(9, { prompt_tokens: 2118, output_tokens: 1024, ttft_s: 0.38, finish: "length" }),
    row(8, { prompt_tokens: 1840, cached_tokens: 1784, output_tokens: 86, ttft_s: 0.09, queue_s: 1.4 }),
    row(7, { prompt_tokens: 5097, cached_tokens: null, output_tokens: null, ttft_s: null, decode_tok_s: null, queue_s: null, finish: "refused", error: "The prompt has 5 097 tokens; the context is 4 096.", error_code: "context_length_exceeded" }),
    row(6, { kind: "completion", output_tokens: 12, decode_tok_s: 301.2 }),
    row(5, { finish: "cancelled", output_tokens: 31 }),
    ...[4, 3, 2, 1].map((n) => row(n, { prompt_tokens: 40 + n * 7, output_tokens: 60 + n * 13 })),
  ];
}
