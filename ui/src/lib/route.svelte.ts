// Which page is shown: the part after `#/` in the address. Unknown addresses are the page Now.

/** In the rail, in this order. */
export const PAGES = ["now", "models", "chat", "connect", "bench", "doctor", "settings"] as const;
/** Reached by links. */
const QUIET_PAGES = ["privacy"] as const;
export type Page = (typeof PAGES)[number] | (typeof QUIET_PAGES)[number];

function read(): Page {
  const name = location.hash.replace(/^#\/?/, "");
  return [...PAGES, ...QUIET_PAGES].find((page) => page === name) ?? "now";
}

class Route {
  page = $state<Page>(read());

  constructor() {
    addEventListener("hashchange", () => (this.page = read()));
  }
}

export const route = new Route();
export const href = (page: Page): string => `#/${page}`;
