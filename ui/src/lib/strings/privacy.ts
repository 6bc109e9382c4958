// The words of the page Privacy.
import { plural } from "./plural";

export const privacy = {
  privacy: {
    title: "Privacy",
    stays: "What stays here",
    staysList: [
      "Prompts, answers and everything else you write are read by the model on this machine and by nobody else.",
      "The endpoint and this page listen on this machine only (127.0.0.1).",
      "Hearth counts nothing for anybody: no telemetry, no crash reports, no search for updates.",
    ],
    out: "What goes out",
    outList: ["Hugging Face is asked when you look for a model or download one there, or press that button on the page Doctor, and only then. Nothing else is contacted."],
    kept: "What is kept",
    what: "What",
    where: "Where, in your home folder",
    keptList: [
      ["Settings, the token of this page", "~/.config/hearth"],
      ["Requests: counts, times, faults. Never text", "~/.local/state/hearth/history.db"],
      ["Benchmarks: figures and their conditions. Never text", "~/.local/state/hearth/benchmarks.db"],
      ["Chats of the chat page", "~/.local/state/hearth/chats.db"],
      ["Models, shared with other programs", "~/.cache/huggingface"],
    ] as [string, string][],
    deleteAll: (n: number) => (n === 0 ? "No chats to delete" : `Delete ${n === 1 ? "the chat" : `all ${n} chats`}`),
    deleteTitle: "Delete all chats?",
    deleteEffect: (n: number) => `${plural(n, "chat")} ${n === 1 ? "is" : "are"} removed from this machine for good.`,
    deleteConfirm: "Delete all chats",
    deleted: (n: number) => `${plural(n, "chat")} deleted.`,
  },
};
