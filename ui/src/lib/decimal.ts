// The point between a whole number and its fraction, as the language has it. Called by format.ts and by whoever rounds by itself.
import { language } from "./language";

export const POINT = language() === "de" ? "," : ".";

/** A number as it was rounded, with that point. */
export const decimal = (text: string): string => text.replace(".", POINT);
