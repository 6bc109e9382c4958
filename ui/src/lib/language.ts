// English or German: as chosen in this browser, else as its own language is. A change takes effect when the page is loaded anew,
// because every component takes its words once.

export const LANGUAGES = ["en", "de"] as const;
export type Language = (typeof LANGUAGES)[number];
const KEY = "hearth.language";

/** What was chosen; null: as the browser. */
export function chosenLanguage(): Language | null {
  const kept = typeof localStorage === "undefined" ? null : localStorage.getItem(KEY);
  return LANGUAGES.find((language) => language === kept) ?? null;
}

export function language(): Language {
  const own = typeof navigator === "undefined" ? "en" : (navigator.language ?? "en");
  return chosenLanguage() ?? (/^de\b/i.test(own) ? "de" : "en");
}

/** Keeps the choice; null goes back to the browser's. */
export function chooseLanguage(choice: Language | null): void {
  if (choice === null) localStorage.removeItem(KEY);
  else localStorage.setItem(KEY, choice);
}
