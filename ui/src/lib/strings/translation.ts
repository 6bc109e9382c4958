// What a translation is: the same keys as English, each text or function taking the same values.

/** The same shape; a part that is not there is said in English. */
export type Translation<T> = T extends (...given: never[]) => unknown ? T : T extends readonly unknown[] ? T : { [K in keyof T]?: Translation<T[K]> };

/** A translation over the English text. */
export function over<T>(base: T, translated: Translation<T> | undefined): T {
  if (translated === undefined) return base;
  if (typeof base !== "object" || base === null || Array.isArray(base)) return translated as T;
  const entries = Object.entries(base).map(([key, value]) => [key, over(value as unknown, (translated as Record<string, never>)[key])]);
  return Object.fromEntries(entries) as T;
}
