// The few meanings a colour may have. A tone is always shown with a word and a shape beside it.
export type Tone = "off" | "busy" | "ok" | "warn" | "err";
