// Shows how the connection to the appliance stands until the window moves on to the dashboard. The shell answers
// `connection` with {kind: "looking" | "starting" | "attached" | "failed", ...}; see connection.rs.
const at = (id) => document.getElementById(id);
const invoke = window.__TAURI__.core.invoke;

const WORDS = {
  en: { looking: "Looking for Hearth on this machine", starting: "Starting Hearth", attached: "Opening the dashboard", progress: "Starting", retry: "Try again" },
  de: { looking: "Sucht Hearth auf diesem Rechner", starting: "Startet Hearth", attached: "Öffnet das Fenster", progress: "Startet", retry: "Noch einmal versuchen" },
};

function show(connection) {
  const words = WORDS[connection.language] ?? WORDS.en;
  document.documentElement.lang = connection.language;
  at("progress").setAttribute("aria-label", words.progress);
  if (at("retry").textContent !== words.retry) at("retry").textContent = words.retry;
  const failed = connection.kind === "failed";
  document.querySelector("main").dataset.kind = connection.kind;
  const sentence = failed ? connection.fault.message : words[connection.kind];
  if (at("sentence").textContent !== sentence) at("sentence").textContent = sentence;
  at("next").textContent = failed ? connection.fault.next_step : "";
  at("evidence").textContent = (failed && connection.fault.evidence) || "";
  at("next").hidden = !at("next").textContent;
  at("evidence").hidden = !at("evidence").textContent;
  at("progress").hidden = failed;
  at("retry").hidden = !failed;
}

async function look() {
  show(await invoke("connection"));
}

at("retry").addEventListener("click", async () => {
  await invoke("retry");
  await look();
});
setInterval(look, 250);
look();
