// Saves a text as a file where the browser puts downloads.

export function saveText(name: string, text: string): void {
  const url = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  // The browser has taken it over by the next turn; until then the address must live.
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
