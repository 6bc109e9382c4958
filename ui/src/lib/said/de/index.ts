// What Hearth says, in German. Impersonal like the window's own words; names of programs, settings and files stay as they are, and
// so do the words of other programs, which are quoted.
import type { Phrases } from "../words";
import { appliance } from "./appliance";
import { bench } from "./bench";
import { checkpoint } from "./checkpoint";
import { doctor, titles } from "./doctor";
import { engine } from "./engine";
import { hub } from "./hub";
import { model } from "./model";
import { goodFor, lacks, notices } from "./notices";

export const german: Phrases = {
  faults: { ...hub, ...checkpoint, ...model, ...engine, ...appliance, ...bench },
  notices,
  titles,
  doctor,
  goodFor,
  lacks,
};
