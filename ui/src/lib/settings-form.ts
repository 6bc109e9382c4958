// The settings as typed into fields, and back. Pure: what is written is checked here before it is sent. Called by Settings.
import { strings } from "./strings";
import type { Settings } from "./types/Settings";

/** Text of the fields; numbers stay text until they are valid. */
export interface Form {
  model: string;
  context: string;
  maxRequests: string;
  kv: string;
  /** The first and the last attention layer are kept in bf16. */
  kvEnds: boolean;
  exact: boolean;
  fp4Activations: boolean;
  mtpDepth: string;
  draftHead: string;
  /** Path of a file; empty: none. */
  draftVocabulary: string;
  maxWaiting: string;
  chunk: string;
  prefixDisk: string;
  temperature: string;
  topP: string;
  topK: string;
  minP: string;
  port: string;
  startEngine: boolean;
  theme: string;
  keepChats: boolean;
}

export interface Problems {
  context?: string;
  maxRequests?: string;
  draftVocabulary?: string;
  maxWaiting?: string;
  chunk?: string;
  prefixDisk?: string;
  temperature?: string;
  topP?: string;
  topK?: string;
  minP?: string;
  port?: string;
}

const LEAST_CONTEXT = 16;
const MOST_CONTEXT = 2 ** 24;
const MOST_REQUESTS = 256;
const MOST_WAITING = 10_000;
const MOST_CHUNK = 8192;
const MOST_PREFIX_DISK = 16_384;
const MOST_TOP_K = 2 ** 20;
/** The least top-p: zero would leave no token to pick. */
const LEAST_TOP_P = 0.01;

export function toForm(settings: Settings): Form {
  const { profile } = settings;
  return {
    model: profile.model,
    context: profile.context === null ? "" : String(profile.context),
    maxRequests: String(profile.max_requests),
    ...kvForm(profile.kv),
    exact: profile.exact,
    fp4Activations: profile.fp4_activations,
    mtpDepth: profile.mtp_depth,
    draftHead: profile.draft_head,
    draftVocabulary: profile.draft_vocabulary ?? "",
    maxWaiting: String(profile.max_waiting),
    chunk: String(profile.chunk),
    prefixDisk: text(profile.prefix_disk_gib),
    temperature: text(profile.sampling.temperature),
    topP: text(profile.sampling.top_p),
    topK: text(profile.sampling.top_k),
    minP: text(profile.sampling.min_p),
    port: String(settings.port),
    startEngine: settings.start_engine,
    theme: settings.theme,
    keepChats: settings.keep_chats,
  };
}

const ENDS = ":ends=bf16";

/** Whether keys and values of this type are worth keeping in more bits at the ends. */
export function rounds(kv: string): boolean {
  return kv === "fp8" || kv === "nvfp4";
}

/** Whether a head for drafts says by itself how many tokens it has; then no file can. */
export function reduced(head: string): boolean {
  return /\d/.test(head.replace(/^(fp8|nvfp4)/, ""));
}

/** The type and the choice for the ends; what names other layers is kept as it is. */
function kvForm(kv: string): { kv: string; kvEnds: boolean } {
  const rest = kv.endsWith(ENDS) ? kv.slice(0, -ENDS.length) : "";
  return rounds(rest) ? { kv: rest, kvEnds: true } : { kv, kvEnds: false };
}

function kvOf(kv: string, ends: boolean): string {
  return ends && rounds(kv) ? kv + ENDS : kv;
}

function text(value: number | null): string {
  return value === null ? "" : String(value);
}

/** A number as typed, with point or comma; null if it is none. */
function real(typed: string): number | null {
  const plain = typed.trim().replace(",", ".");
  return /^\d{1,7}(\.\d{1,9})?$/.test(plain) ? Number(plain) : null;
}

function whole(text: string): number | null {
  const digits = text.replace(/[\s\u00a0\u202f]/g, "");
  return /^\d{1,9}$/.test(digits) ? Number(digits) : null;
}

function within(text: string, from: number, to: number): boolean {
  const value = whole(text);
  return value !== null && value >= from && value <= to;
}

/** One sentence for each field that cannot be sent as it is. */
export function problems(form: Form, maxContext: number | null): Problems {
  const t = strings.settings;
  const found: Problems = {};
  const most = maxContext ?? MOST_CONTEXT;
  if (form.context.trim() !== "" && !within(form.context, LEAST_CONTEXT, most)) {
    found.context = t.invalidNumber(t.context, LEAST_CONTEXT, most);
  }
  if (!within(form.maxRequests, 1, MOST_REQUESTS)) found.maxRequests = t.invalidNumber(t.maxRequests, 1, MOST_REQUESTS);
  // Whether it can be read is in the plan beside it.
  const file = form.draftVocabulary.trim();
  if (file !== "" && !reduced(form.draftHead) && !file.startsWith("/")) found.draftVocabulary = t.invalidPath(t.draftVocabulary);
  if (!within(form.maxWaiting, 1, MOST_WAITING)) found.maxWaiting = t.invalidNumber(t.maxWaiting, 1, MOST_WAITING);
  if (!within(form.chunk, 1, MOST_CHUNK)) found.chunk = t.invalidNumber(t.chunk, 1, MOST_CHUNK);
  if (form.prefixDisk.trim() !== "" && !within(form.prefixDisk, 1, MOST_PREFIX_DISK)) {
    found.prefixDisk = t.invalidNumber(t.prefixDisk, 1, MOST_PREFIX_DISK);
  }
  const outside = (typed: string, from: number, to: number) => {
    const value = real(typed);
    return typed.trim() !== "" && (value === null || value < from || value > to);
  };
  if (outside(form.temperature, 0, 2)) found.temperature = t.invalidReal(t.temperature, 0, 2);
  if (outside(form.topP, LEAST_TOP_P, 1)) found.topP = t.invalidReal(t.topP, LEAST_TOP_P, 1);
  if (outside(form.minP, 0, 1)) found.minP = t.invalidReal(t.minP, 0, 1);
  if (form.topK.trim() !== "" && !within(form.topK, 0, MOST_TOP_K)) found.topK = t.invalidNumber(t.topK, 0, MOST_TOP_K);
  if (!within(form.port, 1, 65535)) found.port = t.invalidNumber(t.port, 1, 65535);
  return found;
}

/** Settings with the form's values; whatever the form does not show stays as it was. Only for a form without problems. */
export function fromForm(form: Form, before: Settings): Settings {
  return {
    ...before,
    port: whole(form.port) ?? before.port,
    start_engine: form.startEngine,
    theme: form.theme,
    keep_chats: form.keepChats,
    profile: {
      ...before.profile,
      model: form.model,
      context: form.context.trim() === "" ? null : whole(form.context),
      max_requests: whole(form.maxRequests) ?? before.profile.max_requests,
      kv: kvOf(form.kv, form.kvEnds),
      exact: form.exact,
      fp4_activations: form.fp4Activations && !form.exact,
      mtp_depth: form.mtpDepth,
      draft_head: form.draftHead,
      draft_vocabulary: form.draftVocabulary.trim() === "" || reduced(form.draftHead) ? null : form.draftVocabulary.trim(),
      max_waiting: whole(form.maxWaiting) ?? before.profile.max_waiting,
      chunk: whole(form.chunk) ?? before.profile.chunk,
      prefix_disk_gib: whole(form.prefixDisk),
      sampling: { temperature: real(form.temperature), top_p: real(form.topP), top_k: whole(form.topK), min_p: real(form.minP) },
    },
  };
}
