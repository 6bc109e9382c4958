// The control token: comes in the URL fragment (`#token=...`), lives in this tab only, and never stays in the address bar.
// Called by main.ts before anything is shown, and by the page that asks for it.

const KEY = "hearth.token";

/** The token in a pasted token, fragment or whole address; null if there is none. */
export function readToken(text: string): string | null {
  const trimmed = text.trim();
  const hash = trimmed.indexOf("#");
  if (hash >= 0) return new URLSearchParams(trimmed.slice(hash + 1)).get("token") || null;
  return /^[A-Za-z0-9._~-]{8,}$/.test(trimmed) ? trimmed : null;
}

/** Takes the token out of the address bar into this tab's storage, and returns what is known. */
export function takeToken(): string | null {
  const fresh = readToken(location.href);
  if (fresh) {
    keepToken(fresh);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return fresh ?? sessionStorage.getItem(KEY);
}

export function keepToken(token: string): void {
  sessionStorage.setItem(KEY, token);
}

export function forgetToken(): void {
  sessionStorage.removeItem(KEY);
}
