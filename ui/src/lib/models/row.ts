// What a row of models shows, whichever list it is in. components/models/ModelTable.svelte draws it.

export interface ModelColumn {
  label: string;
  /** Behind the label, quieter. */
  aside?: string;
  /** Its cells are figures: to the right. */
  number?: boolean;
  /** Left out where there is little room. */
  wide?: boolean;
}

export interface ModelRow {
  /** Of this list alone. */
  id: string;
  name: string;
  badges: { text: string; tone?: "ok" | "err" }[];
  /** Lines under the name. */
  notes: { text: string; quiet?: boolean; wide?: boolean }[];
  /** It cannot run here. */
  off: boolean;
  /** One for each column but the first. */
  cells: { text: string; unit?: string | undefined }[];
}
