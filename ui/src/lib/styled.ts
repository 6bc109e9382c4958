// Waits for the page's styles. WebKit may run the page's module before they are there, and a chart made then reads no colours
// and draws nothing that can be seen. Used by main.ts.

/** Resolves once every linked style sheet has been read, or could not be. */
export async function styled(): Promise<void> {
  const links = [...document.querySelectorAll<HTMLLinkElement>('link[rel="stylesheet"]')];
  await Promise.all(links.map(read));
}

function read(link: HTMLLinkElement): Promise<void> {
  return new Promise((resolve) => {
    if (link.sheet) return resolve();
    for (const event of ["load", "error"]) link.addEventListener(event, () => resolve(), { once: true });
  });
}
