// Which page is shown: the part after `#/` in the address. Unknown addresses are the page Now.

export const PAGES = ["now", "chat", "settings"] as const;
export type Page = (typeof PAGES)[number];

function read(): Page {
  const name = location.hash.replace(/^#\/?/, "");
  return PAGES.find((page) => page === name) ?? "now";
}

class Route {
  page = $state<Page>(read());

  constructor() {
    addEventListener("hashchange", () => (this.page = read()));
  }
}

export const route = new Route();
export const href = (page: Page): string => `#/${page}`;
