// English or German: as the settings say, else as the browser's own language is. The setting is the appliance's, so that window,
// tray and every browser speak alike; a copy in this browser is what a page is built with, because every component takes its words
// once. A change takes effect when the page is loaded anew.

export const LANGUAGES = ["en", "de"] as const;
export type Language = (typeof LANGUAGES)[number];
const KEY = "hearth.language";

/** The setting as this browser knows it; null: as the browser. */
export function chosenLanguage(): Language | null {
  const kept = typeof localStorage === "undefined" ? null : localStorage.getItem(KEY);
  return LANGUAGES.find((language) => language === kept) ?? null;
}

export function language(): Language {
  const own = typeof navigator === "undefined" ? "en" : (navigator.language ?? "en");
  return chosenLanguage() ?? (/^de\b/i.test(own) ? "de" : "en");
}

/** Keeps the setting (`system`, `en` or `de`); true if this page was built in another language. */
export function followLanguage(setting: string): boolean {
  const before = language();
  const choice = LANGUAGES.find((language) => language === setting);
  if (choice === undefined) localStorage.removeItem(KEY);
  else localStorage.setItem(KEY, choice);
  return language() !== before;
}
