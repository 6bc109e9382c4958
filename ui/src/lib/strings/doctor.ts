// The words of the page Doctor.
import { plural } from "./plural";

export const doctor = {
  doctor: {
    title: "Doctor",
    looking: "Looking at driver, memory, heat, disk and keys…",
    lookingAgain: "Looking again…",
    at: (time: string) => `looked at ${time}`,
    again: "Look again",
    report: "Report…",
    reportTitle: "Report",
    reportNote: "Secrets, names, paths into your home and the texts of requests were taken out. Read it through before you send it to anybody.",
    reportMaking: "Making the report…",
    reportCopy: "Copy the report",
    reportSave: "Save as a file",
    wanting: "To put right",
    rest: "The rest",
    verdict: (fail: number, warn: number, pass: number) => {
      if (fail > 0) return `${plural(fail, "thing")} to put right${warn > 0 ? `, ${warn} could be better` : ""}.`;
      if (warn > 0) return `It works; ${plural(warn, "thing")} could be better.`;
      return pass > 0 ? "Nothing to put right." : "Nothing could be looked at.";
    },
    states: { pass: "ok", skipped: "not checked", warn: "warning", fail: "failed" } as Record<string, string>,
    seen: "What was seen",
    actions: { close_files: "Close them", ask_hub: "Ask Hugging Face" } as Record<string, string>,
    copyCommand: (command: string) => `Copy the command ${command}`,
    privacy: "The doctor looks at this machine only. It asks Hugging Face when you press that button, and sends nothing about you.",
  },
};
