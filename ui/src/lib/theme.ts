// Light, dark or as the system says. The choice is a setting of the appliance; a copy in this browser avoids a flash at start.

export type Theme = "system" | "light" | "dark";
const KEY = "hearth.theme";
const dark = matchMedia("(prefers-color-scheme: dark)");
let chosen: Theme = asTheme(localStorage.getItem(KEY));

export function asTheme(text: string | null): Theme {
  return text === "light" || text === "dark" ? text : "system";
}

function apply(): void {
  const theme = chosen === "system" ? (dark.matches ? "dark" : "light") : chosen;
  if (document.documentElement.dataset["theme"] === theme) return;
  document.documentElement.dataset["theme"] = theme;
  // Canvases read their colours once; they draw again on this.
  dispatchEvent(new Event("hearth:theme"));
}

export function setTheme(theme: Theme): void {
  chosen = theme;
  localStorage.setItem(KEY, theme);
  apply();
}

export function startTheme(): void {
  dark.addEventListener("change", apply);
  apply();
}
