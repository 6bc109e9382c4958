// Every word the window shows, a file per page in strings/. Components hold no text of their own.
// Sentences say what is, then what to do; buttons say what they do to what.
// English is the source; PAGE.de.ts has the same keys as PAGE.ts, which strings.test.ts holds it to.
import { language } from "./language";
import { german } from "./strings.de";
import { bench } from "./strings/bench";
import { chat } from "./strings/chat";
import { connect } from "./strings/connect";
import { doctor } from "./strings/doctor";
import { frame } from "./strings/frame";
import { models } from "./strings/models";
import { now } from "./strings/now";
import { privacy } from "./strings/privacy";
import { settings } from "./strings/settings";
import { over } from "./strings/translation";

export const english = { ...frame, ...now, ...chat, ...connect, ...doctor, ...settings, ...privacy, bench, models };

export type Strings = typeof english;

export const translated = (name: "en" | "de"): Strings => (name === "de" ? over<Strings>(english, german) : english);
export const strings: Strings = translated(language());
