// Turns the engine's state into what the status strip says: one word, one line, one button that names its effect.
// Pure, so that every state can be tested without a browser. Called by the strip, the chat and the announcer.
import { countdown, percent, uptime } from "./format";
import { strings } from "./strings";
import type { Tone } from "./tone";
import type { Fault } from "./types/Fault";
import type { Snapshot } from "./types/Snapshot";

export type Action = "start" | "stop" | "cancel" | "stop_now" | "choose" | "reconnect";

export interface EngineView {
  /** Stable name, for tests and styles. */
  kind: Snapshot["state"]["kind"] | "connecting" | "unreachable";
  tone: Tone;
  /** The state in a word or two; announced when it changes. */
  word: string;
  /** Small print beside the word: numbers, never announced. */
  sub: string;
  /** First and second line of the message beside the strip; empty when there is nothing to say. */
  message: string;
  next: string;
  /** Set when there is more to read. */
  fault: Fault | null;
  action: Action;
  button: string;
  /** True when requests are answered. */
  serving: boolean;
}

const s = strings;

/** Name of the model in the profile, as people know it. */
export function modelName(snapshot: Snapshot | null): string {
  if (!snapshot) return "";
  return snapshot.model?.name ?? (snapshot.profile.model.replace(/\/+$/, "").split("/").pop() || s.model.none);
}

/** Before the first answer, or after the last one: the machine is not there. */
export function awayView(everSeen: boolean, lostClock: string | null, connecting: boolean): EngineView {
  const base = { sub: "", fault: null, serving: false, action: "reconnect" as const, button: s.action.reconnect };
  if (connecting && !everSeen) {
    return { ...base, kind: "connecting", tone: "busy", word: s.state.connecting, message: s.message.connecting, next: "" };
  }
  return {
    ...base,
    kind: "unreachable",
    tone: "err",
    word: s.state.unreachable,
    sub: lostClock ? s.state.since(lostClock) : "",
    message: lostClock ? s.message.unreachable(lostClock) : s.message.unreachableFirst,
    next: s.message.retrying,
  };
}

export function engineView(snapshot: Snapshot): EngineView {
  const { state } = snapshot;
  const name = modelName(snapshot);
  const base = { kind: state.kind, sub: "", message: "", next: "", fault: null, serving: false };
  switch (state.kind) {
    case "no_model":
      return {
        ...base,
        tone: "off",
        word: s.state.no_model,
        message: s.message.noModel,
        next: s.message.noModelNext,
        action: "choose",
        button: s.action.choose,
      };
    case "stopped":
      return { ...base, tone: "off", word: s.state.stopped, action: "start", button: s.action.start(name), message: s.message.ready };
    case "loading":
      return { ...base, tone: "busy", word: s.state.loading, action: "cancel", button: s.action.cancel };
    case "serving":
    case "degraded": {
      const { running, queued } = snapshot.throughput;
      const doing =
        state.kind === "serving" && state.prefill !== null
          ? s.state.prefill(percent(state.prefill))
          : running + queued > 0
            ? s.state.running(running)
            : s.state.idle;
      const view = {
        ...base,
        tone: "ok" as Tone,
        word: s.state.serving,
        sub: state.kind === "degraded" ? `${s.state.still}, ${doing}` : `${doing}, ${s.state.up(uptime((snapshot.time_ms - state.since_ms) / 1000))}`,
        serving: true,
        action: "stop" as const,
        button: s.action.stop(name),
      };
      if (state.kind === "serving") return view;
      const { fault } = state;
      return { ...view, tone: "warn", word: s.state.degraded, message: fault.message, next: fault.next_step, fault };
    }
    case "stopping":
      return {
        ...base,
        tone: "busy",
        word: s.state.stopping,
        message:
          state.running > 0 ? s.message.finishing(state.running, countdown(state.seconds_left)) : s.message.finishingNone,
        action: "stop_now",
        button: s.action.stopNow,
      };
    case "restarting":
      return {
        ...base,
        tone: "warn",
        word: s.state.restarting,
        sub: s.state.attempt(state.attempt, state.of),
        message: state.fault.message,
        next: state.seconds_left > 0 ? s.message.again(countdown(state.seconds_left)) : s.message.starting,
        fault: state.fault,
        action: "cancel",
        button: s.action.giveUp,
      };
    case "error":
      return {
        ...base,
        tone: "err",
        word: s.state.error,
        message: state.fault.message,
        next: state.fault.next_step,
        fault: state.fault,
        action: "start",
        button: s.action.retry(name),
      };
  }
}
