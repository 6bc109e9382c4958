// Puts text on the clipboard; false where neither way is allowed.
export async function copyText(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copySelected(text);
  }
}

/** For windows without the clipboard API: selects the text in a field and copies the selection. */
function copySelected(text: string): boolean {
  const opener = document.activeElement;
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "hidden";
  // Inside an open dialog only its own elements can be selected.
  (opener?.closest("dialog") ?? document.body).append(field);
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  if (opener instanceof HTMLElement) opener.focus();
  return copied;
}
