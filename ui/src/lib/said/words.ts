// What a sentence of Hearth's is made of, and how a language says it from that. A fault, a notice and a check of the doctor come as
// a code, names and numbers, with the English sentence beside them; a language has for each code a text or a function of those
// values. Called by in-language.ts.

/** The names and numbers of one sentence. Which there are is decided by the code; said.test.ts holds both sides together. */
// eslint-disable-next-line @typescript-eslint/no-explicit-any
export type Values = Record<string, any>;
export type Text = string | ((v: Values) => string);

/** For every code of a fault: what happened, and the next step. */
export type Faults = Record<string, readonly [message: Text, next: Text]>;
export type Sentences = Record<string, Text>;

export interface Phrases {
  faults: Faults;
  notices: Sentences;
  /** The doctor's checks by their code, and what it says by the code of the sentence. */
  titles: Record<string, string>;
  doctor: Sentences;
  /** What a suggested model is good for, by its repository, and what Hearth lacks for it. */
  goodFor: Record<string, string>;
  lacks: (english: string) => string;
}

/** A value that the sentence needs and that did not come: then the English sentence stands. */
class Missing extends Error {}

const strict = (values: Values): Values =>
  new Proxy(values, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name);
      if (typeof name === "string" && (value === undefined || value === null)) throw new Missing(name);
      return value;
    },
    has: (target, name) => (Reflect.get(target, name) ?? null) !== null,
  });

/** The sentence, or null if it is unknown or cannot be made of these values. */
export function say(text: Text | undefined, values: Values): string | null {
  if (text === undefined) return null;
  if (typeof text === "string") return text;
  try {
    return text(strict(values));
  } catch (error) {
    if (error instanceof Missing) return null;
    throw error;
  }
}

/** Whether a value came that not every sentence of this code has. */
export const has = (v: Values, name: string): boolean => name in v;
