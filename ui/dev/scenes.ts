// Invented pictures of every state, for looking at the window without a backend. Development only, never built in.
// The scene is chosen by the token: `#token=scene-loading`.
import type { Check } from "../src/lib/types/Check.ts";
import type { Diagnosis } from "../src/lib/types/Diagnosis.ts";
import type { EngineState } from "../src/lib/types/EngineState.ts";
import type { Fix } from "../src/lib/types/Fix.ts";
import type { Fault } from "../src/lib/types/Fault.ts";
import type { Gpu } from "../src/lib/types/Gpu.ts";
import type { History } from "../src/lib/types/History.ts";
import type { MemoryPart } from "../src/lib/types/MemoryPart.ts";
import type { ModelCard } from "../src/lib/types/ModelCard.ts";
import type { Plan } from "../src/lib/types/Plan.ts";
import type { Profile } from "../src/lib/types/Profile.ts";
import type { RequestRecord } from "../src/lib/types/RequestRecord.ts";
import type { Said } from "../src/lib/types/Said.ts";
import type { Settings } from "../src/lib/types/Settings.ts";
import type { Snapshot } from "../src/lib/types/Snapshot.ts";
import type { Usage } from "../src/lib/types/Usage.ts";

const GiB = 2 ** 30;
const MiB = 2 ** 20;
const born = Date.now();
export const SCENES = [
  "no-model", "stopped", "loading", "idle", "busy", "prefill", "degraded", "stopping", "restarting", "error", "spark", "away",
] as const;
export type Scene = (typeof SCENES)[number];

export const ember: ModelCard = {
  id: "ember", name: "Ember", demonstration: true, family: "qwen3_5_moe", fault: null, bytes: 10.4e6, max_context: 4096, longest_context: 16384,
};
const qwen: ModelCard = {
  id: "nvidia/Qwen3.6-35B-A3B-NVFP4", name: "Qwen3.6-35B-A3B", demonstration: false, family: "qwen3_5_moe", fault: null,
  bytes: 21.9e9, max_context: 262144, longest_context: 1048576,
};
const strange: ModelCard = {
  id: "/models/old-llama", name: "old-llama", demonstration: false, family: null, bytes: 13.2e9, max_context: null, longest_context: null,
  fault: { code: "unknown_family", message: "Hearth cannot run the family llama.", next_step: "Choose another model.", evidence: null },
};
export const models = [ember, qwen, strange];
export const profile: Profile = {
  model: "ember", context: null, max_requests: 4, kv: "bf16", mtp_depth: "auto", draft_head: "full", draft_vocabulary: null, exact: false, fp4_activations: false, max_waiting: 64, chunk: 512, prefix_disk_gib: null,
  sampling: { temperature: null, top_p: null, top_k: null, min_p: null },
};
export const settings: Settings = {
  host: "127.0.0.1", port: 8000, start_engine: false, profile, memory_reserve: null, theme: "system", language: "system", keep_chats: true, prices: null, model_folders: [],
};
export const plan: Plan = {
  verdict: "fits", context: 4096, needed: 61 * MiB, peak: 65 * MiB, available: 14.2 * GiB, bytes_per_token: 4.1e6, roof: 32e9,
  decode_tok_s_ceiling: 7800, max_context: 4096, native_context: 4096, stretch: null, contexts: [{ context: 4096, needed: 61 * MiB }], expanded: null,
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

const gb10: Gpu = {
  name: "NVIDIA GB10", driver: "580.95.05", utilisation: 96, power_w: 48, power_limit_w: null, temperature_c: 69,
  sm_clock_mhz: 2411, sm_clock_most_mhz: 3003, held_by: [],
};

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
    time_ms: now, version: "0.1.0", language: "system", uptime_s: 11800, state: engineState(scene, now),
    profile: spark ? { ...profile, model: qwen.id, context: 131072 } : profile,
    model: scene === "no-model" ? null : spark ? qwen : ember,
    endpoint: { url: "http://127.0.0.1:8000/v1", port: 8000 },
    memory: {
      total, reserve: spark ? 12 * GiB : 2.9 * GiB, pool: spark ? "unified" : "host",
      others: spark ? [{ name: "gnome-shell", bytes: 1.2 * GiB }, { name: "firefox", bytes: 3.1 * GiB }] : [{ name: "firefox", bytes: 1.4 * GiB }],
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
      steps_per_s: busy ? steps * wobble : null, source: "estimated", counted: null,
      roof_gb_s: spark ? 231 : 31.8, nominal_gb_s: spark ? 273 : null,
    },
    machine: { name: "spark-1", cpu: "Neoverse X925", cores: 20, gpu: spark ? gb10 : null,
      cpu_now: { busy: busy ? 71 : 3, temperature_c: null, clock_mhz: 2450 } },
    drafts: spark ? { kept: [0.91, 0.78, 0.6], tokens_per_round: 3.29, depth: "3", rounds: 1204 } : null,
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
    power_w: t_ms.map((t) => (scene === "spark" ? (burst(t) ? 47 * noise(t) : 9) : null)),
    temperature_c: t_ms.map((t) => (scene === "spark" ? 52 + (burst(t) ? 16 * noise(t) : 0) : null)),
    clock_mhz: t_ms.map((t) => (scene === "spark" ? (burst(t) ? 2410 : 208) : null)),
    tokens_per_round: t_ms.map((t) => (scene === "spark" && burst(t) ? 3.3 * noise(t) : null)),
    events: empty ? [] : [
      ...(scene === "spark" ? [{ t_ms: end - seconds * 240, kind: "long_prompt", text: "64K" }] : []),
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

export function diagnosis(hub: boolean): Diagnosis {
  const said = (text: string): Said => ({ code: "quoted", text, values: {} });
  interface More {
    evidence?: string[];
    fix?: Omit<Fix, "text"> & { text: string };
  }
  const check = (code: string, title: string, state: Check["state"], finding: string, { evidence = [], fix }: More = {}): Check => ({
    code, title, state, finding: said(finding), evidence: evidence.map(said), fix: fix ? { ...fix, text: said(fix.text) } : null,
  });
  return {
    time_ms: Date.now(), version: "0.1.0", state: "fail",
    checks: [
      check("driver", "GPU driver", "pass", "Driver 580.95.05 answers for NVIDIA GB10.", { evidence: ["NVIDIA device 10de:2e12 at 000f:01:00.0"] }),
      check("driver_kernel", "Driver and kernel", "fail", "The kernel was updated to 6.17.0-1014-nvidia, and the driver's module was not: this happens after a system update.", {
        evidence: ["running kernel: 6.17.0-1014-nvidia", "driver module for 6.17.0-1010-nvidia in kernel/nvidia-580-open"],
        fix: { text: "Install the driver's module for the running kernel, then restart the machine.", commands: ["sudo apt install linux-modules-nvidia-580-open-$(uname -r)"], action: null },
      }),
      check("others", "Other programs", "warn", "Ollama and vLLM hold 62.4 GiB of memory.", {
        evidence: ["vLLM (pid 1200, 1201) in docker container 9f2c4e6a8b0d: 7.0 GiB of memory, 40.0 GiB of GPU memory", "Ollama (pid 812, 990), kept by ollama.service: 3.0 GiB of memory, 22.4 GiB of GPU memory"],
        fix: { text: "If you want that memory for a model, ask each to let go; nothing is lost but what is running there.", commands: ["docker stop 9f2c4e6a8b0d", "ollama ps | awk 'NR>1 {print $1}' | xargs -r -n1 ollama stop"], action: null },
      }),
      check("permissions", "Keys and tokens", "fail", "Other users of this machine can read Hearth's keys.", {
        evidence: ["control-token: mode 644 at /home/ada/.config/hearth/control-token"],
        fix: { text: "Close them. Who could read a key may have copied it: make new ones if others use this machine.", commands: ["chmod go= '/home/ada/.config/hearth/control-token'"], action: "close_files" },
      }),
      check("swap", "Swap", "pass", "There is no swap: what is in memory stays in memory."),
      check("heat", "Heat", "pass", "Nothing is too hot.", { evidence: ["GPU: 69 °C", "acpitz: 71 °C"] }),
      hub
        ? check("hub", "Hugging Face", "pass", "It answers: models can be searched and downloaded.", { evidence: ["huggingface.co:443: answered in 38 ms"] })
        : check("hub", "Hugging Face", "skipped", "Not asked: Hearth leaves the machine only when you want it to.", {
            fix: { text: "Asking opens one connection and sends nothing about you.", commands: ["hearth doctor --hub"], action: "ask_hub" },
          }),
    ],
  };
}

export function usage(scene: Scene, hours: number): Usage {
  const none = scene === "no-model" || scene === "stopped";
  const days = hours / 24;
  return none
    ? { hours, requests: 0, prompt_tokens: 0, cached_tokens: 0, output_tokens: 0, energy_j: null, measured_s: 0, loaded_s: 0 }
    : {
        hours, requests: Math.round(212 * days), prompt_tokens: Math.round(1_240_000 * days), cached_tokens: Math.round(811_000 * days),
        output_tokens: Math.round(96_400 * days), energy_j: scene === "spark" ? 2.1e6 * days : null,
        measured_s: scene === "spark" ? 40_000 * days : 0, loaded_s: 40_000 * days,
      };
}
