// The settings as typed into fields, and back. Pure: what is written is checked here before it is sent. Called by Settings.
import { strings } from "./strings";
import type { Settings } from "./types/Settings";

/** Text of the fields; numbers stay text until they are valid. */
export interface Form {
  model: string;
  context: string;
  maxRequests: string;
  kv: string;
  exact: boolean;
  fp4Activations: boolean;
  port: string;
  startEngine: boolean;
  theme: string;
  keepChats: boolean;
}

export interface Problems {
  context?: string;
  maxRequests?: string;
  port?: string;
}

const LEAST_CONTEXT = 16;
const MOST_CONTEXT = 2 ** 24;
const MOST_REQUESTS = 256;

export function toForm(settings: Settings): Form {
  const { profile } = settings;
  return {
    model: profile.model,
    context: profile.context === null ? "" : String(profile.context),
    maxRequests: String(profile.max_requests),
    kv: profile.kv,
    exact: profile.exact,
    fp4Activations: profile.fp4_activations,
    port: String(settings.port),
    startEngine: settings.start_engine,
    theme: settings.theme,
    keepChats: settings.keep_chats,
  };
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
      kv: form.kv,
      exact: form.exact,
      fp4_activations: form.fp4Activations && !form.exact,
    },
  };
}
