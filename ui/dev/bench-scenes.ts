// Invented benchmarks for the page Benchmarks of the fake control server.
import type { BenchComparison } from "../src/lib/types/BenchComparison";
import type { BenchFigure } from "../src/lib/types/BenchFigure";
import type { BenchFigureName } from "../src/lib/types/BenchFigureName";
import type { BenchList } from "../src/lib/types/BenchList";
import type { BenchProgress } from "../src/lib/types/BenchProgress";
import type { BenchRow } from "../src/lib/types/BenchRow";
import type { BenchRun } from "../src/lib/types/BenchRun";
import type { BenchSummary } from "../src/lib/types/BenchSummary";
import type { Measured } from "../src/lib/types/Measured";
import type { MeasuredSpeed } from "../src/lib/types/MeasuredSpeed";
import { settings } from "./scenes.ts";

const figure = (name: BenchFigureName, median: number, spread = 0.02): BenchFigure => {
  const values = [median * (1 - spread), median, median * (1 + spread)];
  return { name, median, low: values[0] ?? median, high: values[2] ?? median, values };
};
const row = (changes: Partial<BenchRow>): BenchRow => ({
  part: "contexts", traffic: "text", depth_tokens: 0, prompt: 1024, output: 200, clients: 1, mtp_depth: null, task: null, state: "done",
  fault: null, disturbed: false, figures: [], kept: [], score: null, shots: [], peaks: [], ...changes,
});
const long = { code: "over_the_models_context", message: "1048576 tokens are more than this model's own context of 262144.", next_step: "Choose a model with a longer context.", evidence: null };
const ACCEPTED = [0.86, 0.71, 0.58, 0.44, 0.31];

const rows: BenchRow[] = [
  ...[16384, 131072, 1048576].flatMap((prompt) =>
    [200, 500, 1000].map((output, nth) => {
      if (prompt > 262144) return row({ prompt, output, state: "skipped", fault: long });
      const speed = 78 - prompt / 8000 - nth;
      const cold = nth === 0 ? [figure("prefill_tok_s", 2900 - prompt / 90, 0.01), figure("ttft_cold_s", prompt / (2900 - prompt / 90))] : [];
      return row({ prompt, output, figures: [figure("decode_tok_s", speed), ...cold, figure("ttft_cached_s", 0.09)], disturbed: prompt === 131072 && nth === 1 });
    }),
  ),
  ...[512, 2048, 8192].map((prompt) => row({ part: "prefill", prompt, output: 1, figures: [figure("prefill_tok_s", 2950), figure("ttft_cold_s", prompt / 2950), figure("ttft_cached_s", 0.06)] })),
  ...[1, 2, 4].map((clients) => row({ part: "company", clients, figures: [figure("decode_tok_s", 78 / clients ** 0.4), ...(clients > 1 ? [figure("total_tok_s", 78 * clients ** 0.6)] : []), figure("ttft_cold_s", 0.35 * clients)] })),
  ...["0", "1", "2", "3", "4", "5", "auto"].flatMap((mtp_depth, nth) =>
    (["text", "agent"] as const).map((traffic) => {
      const kept = ACCEPTED.slice(0, mtp_depth === "auto" ? 3 : nth);
      const speed = 44 * (1 + kept.reduce((sum, share) => sum + share, 0) * (traffic === "agent" ? 0.55 : 0.4));
      return row({ part: "depths", traffic, mtp_depth, kept, figures: [figure("decode_tok_s", speed), ...(nth > 0 ? [figure("tokens_per_round", 1 + kept.reduce((a, b) => a + b, 0))] : [])] });
    }),
  ),
  row({ part: "agent", prompt: null, figures: [figure("decode_tok_s", 77), figure("ttft_cold_s", 0.4), figure("ttft_cached_s", 0.11)] }),
  row({ part: "agent", prompt: null, traffic: "agent", figures: [figure("decode_tok_s", 96), figure("ttft_cold_s", 0.5), figure("ttft_cached_s", 0.13)] }),
  ...(["start", "middle", "end", "five", "lost"] as const).map((task) => row({ part: "facts", traffic: "facts", prompt: 32768, task, score: { right: task === "five" ? 4 : 1, of: task === "five" ? 5 : 1 } })),
];

const before = { time_ms: 0, power_w: 38, temperature_c: 46, clock_mhz: 2405, busy: 2, held_by: [] };
export const run = (id: number): BenchRun => ({
  id, state: id === 2 ? "cancelled" : "done", fault: null, started_ms: Date.now() - 3.6e6 * (6 - id), ended_ms: Date.now(),
  order: { suite: id === 1 ? "quick" : "full", parts: [], contexts: null, outputs: null, clients: null, repeats: 3, note: id === 3 ? "after the driver's update" : "", anyway: false },
  repeats: 3,
  conditions: {
    version: "0.1.0", revision: "9c1f2e0", formats: [{ format: "NVFP4", bytes: 18.2e9 }, { format: "BF16", bytes: 3.1e9 }], profile: settings.profile,
    engine: {
      id: "org/Qwen3.6-35B-A3B-NVFP4", name: "Qwen3.6-35B-A3B-NVFP4", demonstration: false, family: "qwen3_5_moe", context: 262144, stretch: null, kv: "fp8", max_requests: 4,
      device: "cuda", exact: false, mtp_depth: "auto", draft_head: null, fp4_activations: false, notices: [],
    },
    cpu: "10 x Cortex-X925 + 10 x Cortex-A725", cores: 20, kernel: "6.14.0-1013-nvidia", gpu: "NVIDIA GB10", driver: "580.95.05", roof_gb_s: 231.4,
    before, after: { ...before, power_w: 96, temperature_c: 68 }, others: [], overruled: [], latency_ms: 0.4, warm_up_s: 3.1,
  },
  rows,
});
const summary = (id: number): BenchSummary => {
  const { state, started_ms, order, conditions } = run(id);
  return { id, state, started_ms, seconds: 900, model: conditions.engine.name, suite: order.suite, note: order.note, done: id === 2 ? 4 : 31, of: 31, decode_tok_s: id === 2 ? null : 77 };
};
/** Under way in the scene `busy`. */
export const progress: BenchProgress = { id: 4, state: "running", done: 7, of: 31, row: 7, seconds_left: 412 };
export const list = (busy: boolean): BenchList => ({ progress: busy ? progress : null, runs: [3, 2, 1].map(summary) });
export const comparison = (): BenchComparison => ({
  a: { ...run(1), rows: [] }, b: { ...run(3), rows: [] }, unmatched: 2,
  conditions: [{ what: "driver", a: "580.82.09", b: "580.95.05" }],
  rows: [
    { row: row({ prompt: 16384 }), name: "decode_tok_s", a: 74.1, b: 76.0, change: 0.0256, beyond_spread: true, better: true },
    { row: row({ prompt: 16384 }), name: "ttft_cold_s", a: 6.02, b: 6.11, change: 0.015, beyond_spread: false, better: false },
    { row: row({ part: "company", clients: 4 }), name: "total_tok_s", a: 181.2, b: 169.9, change: -0.062, beyond_spread: true, better: false },
    { row: row({ part: "facts", task: "five", prompt: 32768 }), name: null, a: 0.8, b: 1, change: 0.25, beyond_spread: null, better: true },
  ],
});
export const speed: MeasuredSpeed = { decode_tok_s: 77, agent_tok_s: 96, prefill_tok_s: 2950, run: 3, requests: null, at_ms: 0 };
export const measured: Measured = {
  speed,
  depths: ["0", "1", "2", "3", "auto"].map((depth, nth) => {
    const kept = ACCEPTED.slice(0, nth === 4 ? 3 : nth);
    const gain = 1 + 0.4 * kept.reduce((a, b) => a + b, 0);
    return { depth, decode_tok_s: 44 * gain, agent_tok_s: 44 * gain * 1.2, gain, agent_gain: gain * 1.2, kept, tokens_per_round: nth ? 1 + kept.reduce((a, b) => a + b, 0) : null };
  }),
};
