// The words around every page: its frame, the state of the engine, what went wrong.
import { plural } from "./plural";
import type { Fault } from "../types/Fault";

export const frame = {
  /** For dates. */
  language: "en",

  app: "Hearth",
  skip: "Skip to the page",
  pages: { label: "Pages", now: "Now", models: "Models", chat: "Chat", connect: "Connect", bench: "Benchmarks", doctor: "Doctor", settings: "Settings", privacy: "Privacy" },

  state: {
    no_model: "No model yet",
    stopped: "Stopped",
    loading: "Loading",
    serving: "Serving",
    degraded: "Degraded",
    stopping: "Stopping",
    restarting: "Restarting",
    error: "Error",
    connecting: "Connecting",
    unreachable: "Not answering",
    idle: "idle",
    still: "serving",
    prefill: (share: string) => `prefill ${share}`,
    up: (time: string) => `up ${time}`,
    running: (n: number) => `${n} running`,
    since: (time: string) => `since ${time}`,
    attempt: (n: number, of: number) => `attempt ${n} of ${of}`,
  },

  message: {
    noModel: "No model is chosen, or the chosen one is not on this machine.",
    noModelNext: "Choose one on the page Models.",
    ready: "Ready to start.",
    needs: (needed: string, available: string) => `Needs ${needed} of memory; ${available} can be had.`,
    tight: "It fits, but only just.",
    doesNotFit: "It does not fit: choose a smaller context in Settings.",
    stages: { "start process": "start process", plan: "plan", "read weights": "read weights", "allocate KV": "allocate KV", "record graphs": "record graphs", "warm up": "warm up" } as Record<string, string>,
    stage: (stage: string, n: number, of: number) => `${stage}, step ${n} of ${of}`,
    left: (time: string) => `about ${time} left`,
    finishing: (n: number, time: string) => `Finishing ${plural(n, "request")}; cut off in ${time}.`,
    finishingNone: "Giving the memory back.",
    again: (time: string) => `Starting it again in ${time}.`,
    starting: "Starting it again now.",
    unreachable: (clock: string) => `Hearth has not answered since ${clock}. What you see is from then.`,
    unreachableFirst: "Hearth does not answer at this address.",
    retrying: "This page connects again by itself. If it does not, run: hearth up",
    connecting: "Asking Hearth for its state.",
    details: "Details…",
  },

  action: {
    start: (model: string) => `Start ${model}`,
    stop: (model: string) => `Stop ${model}`,
    cancel: "Cancel loading",
    stopNow: "Stop now",
    giveUp: "Stop trying",
    retry: (model: string) => `Retry ${model}`,
    choose: "Choose a model",
    reconnect: "Reconnect",
  },

  anyway: {
    title: (model: string) => `Start ${model} anyway?`,
    effect: "The system may slow down or end programs for want of memory. The estimate can be wrong in either direction.",
    cancel: "Do not start",
    confirm: "Start anyway",
  },

  stop: {
    title: (model: string) => `Stop ${model}?`,
    running: (n: number) => `${plural(n, "request")} ${n === 1 ? "is" : "are"} still running:`,
    effect: "They may finish first; new requests are refused from now on, and the memory is given back.",
    keep: "Keep serving",
    confirm: (model: string) => `Stop ${model}`,
    request: (id: string, phase: string, tokens: string) => `${id}: ${phase}, ${tokens} tokens written`,
  },

  model: {
    demonstration: "demonstration model",
    context: (length: string) => `${length} context`,
    stretched: "YaRN",
    exact: "exact",
    none: "no model",
  },

  source: {
    measured: "measured",
    estimated: "estimated",
    exact: "exact",
    nominal: "nominal",
    unavailable: "not available",
  },

  notices: { label: "Notices" },

  fault: {
    title: "What happened",
    next: "Next step",
    evidence: "What was seen",
    log: "Last lines of the engine's log",
    logLoading: "Reading the log…",
    logEmpty: "The log is empty.",
    code: "Code",
    close: "Close",
  },

  token: {
    title: "This page needs its key",
    why: "Hearth's window can start and stop models, so it opens only with a token from this machine.",
    wrong: "The token this page had is no longer right; Hearth may have made a new one.",
    how: "Run this in a terminal and open the address it prints:",
    or: "Or paste that address, or the token itself, here:",
    field: "Address or token",
    open: "Open the window",
    bad: "There is no token in that text. It looks like http://127.0.0.1:8000/#token=…",
    file: "The token is kept in the file control-token of Hearth's settings folder, which only you can read.",
  },

  faults: {
    noAnswer: {
      code: "no_answer",
      message: "Hearth does not answer.",
      next_step: "Check that it is running (hearth up), then try again.",
      evidence: null,
    } as Fault,
    unexpected: (status: number): Fault => ({
      code: "unexpected_answer",
      message: `Hearth answered with status ${status} and no explanation.`,
      next_step: "Try again; if it happens twice, look at the log.",
      evidence: `HTTP ${status}`,
    }),
    cut: {
      code: "stream_cut",
      message: "The answer broke off before its end.",
      next_step: "Press Retry to ask again.",
      evidence: null,
    } as Fault,
    nextStep: {
      context_length_exceeded: "Start a new chat, or set a larger context in Settings.",
      rate_limit_exceeded: "Wait a moment, then press Retry.",
      model_not_found: "Check the model in Settings, then press Retry.",
      // These say their next step in the message itself.
      engine_stopped: "",
      engine_stopping: "",
      engine_restarted: "",
      fallback: "Press Retry; if it happens again, look at the state on the page Now.",
    } as Record<string, string>,
  },
};
