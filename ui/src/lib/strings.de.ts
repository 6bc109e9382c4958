// The window's words in German, a file per page. Keys as in English; names of programs, units and settings of others stay as they are.
import type { Strings } from "./strings";
import { benchGerman } from "./strings/bench.de";
import { chatGerman } from "./strings/chat.de";
import { connectGerman } from "./strings/connect.de";
import { doctorGerman } from "./strings/doctor.de";
import { frameGerman } from "./strings/frame.de";
import { modelsGerman } from "./strings/models.de";
import { nowGerman } from "./strings/now.de";
import { privacyGerman } from "./strings/privacy.de";
import { settingsGerman } from "./strings/settings.de";
import type { Translation } from "./strings/translation";

export const german: Translation<Strings> = {
  ...frameGerman,
  ...nowGerman,
  ...chatGerman,
  ...connectGerman,
  ...doctorGerman,
  ...settingsGerman,
  ...privacyGerman,
  bench: benchGerman,
  models: modelsGerman,
};
