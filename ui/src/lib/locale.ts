// In a session without a language (LANG=C) WebKit calls the browser's language "C", which its own Intl refuses. uPlot asks Intl
// while it is loaded, so the whole window would stay empty. Imported before uPlot, for its effect: a refused language is English.

type Format = new (locale?: string, ...rest: unknown[]) => object;

/** The same constructor, with English where the language is refused. */
export function tolerant<T extends object>(format: T): T {
  return new Proxy(format, {
    construct(target, [locale, ...rest]: [string | undefined, ...unknown[]]) {
      const make = (language: string | undefined) => Reflect.construct(target as unknown as Format, [language, ...rest]) as object;
      try {
        return make(locale);
      } catch (error) {
        if (error instanceof RangeError) return make("en");
        throw error;
      }
    },
  });
}

try {
  new Intl.NumberFormat(navigator.language);
  new Intl.DateTimeFormat();
} catch {
  Intl.NumberFormat = tolerant(Intl.NumberFormat);
  Intl.DateTimeFormat = tolerant(Intl.DateTimeFormat);
}
