// The control API (`/api/*`) as typed calls. A failed call is always a ControlError with a fault: a sentence and a next step.
// Called by the live stores and the pages; the chat has its own client because /v1 speaks OpenAI.
import { inLanguage } from "./said/in-language";
import { strings } from "./strings";
import type { BenchComparison } from "./types/BenchComparison";
import type { BenchList } from "./types/BenchList";
import type { BenchOrder } from "./types/BenchOrder";
import type { BenchProgress } from "./types/BenchProgress";
import type { BenchRun } from "./types/BenchRun";
import type { CatalogueList } from "./types/CatalogueList";
import type { Chat } from "./types/Chat";
import type { ChatSummary } from "./types/ChatSummary";
import type { Diagnosis } from "./types/Diagnosis";
import type { DownloadCard } from "./types/DownloadCard";
import type { DownloadOrder } from "./types/DownloadOrder";
import type { DownloadRequest } from "./types/DownloadRequest";
import type { Fault } from "./types/Fault";
import type { FilesRequest } from "./types/FilesRequest";
import type { FixAction } from "./types/FixAction";
import type { FixRequest } from "./types/FixRequest";
import type { GgufCard } from "./types/GgufCard";
import type { History } from "./types/History";
import type { HubCard } from "./types/HubCard";
import type { ImportRequest } from "./types/ImportRequest";
import type { InspectRequest } from "./types/InspectRequest";
import type { Log } from "./types/Log";
import type { Measured } from "./types/Measured";
import type { MeasuredModel } from "./types/MeasuredModel";
import type { ModelCard } from "./types/ModelCard";
import type { ModelRequest } from "./types/ModelRequest";
import type { Plan } from "./types/Plan";
import type { PlanRequest } from "./types/PlanRequest";
import type { Profile } from "./types/Profile";
import type { Prospect } from "./types/Prospect";
import type { RemovalCard } from "./types/RemovalCard";
import type { RequestRecord } from "./types/RequestRecord";
import type { SearchCard } from "./types/SearchCard";
import type { Settings } from "./types/Settings";
import type { Snapshot } from "./types/Snapshot";
import type { StartRequest } from "./types/StartRequest";
import type { StopRequest } from "./types/StopRequest";
import type { Usage } from "./types/Usage";
import type { TokenRequest } from "./types/TokenRequest";

export class ControlError extends Error {
  /** `status` is null when there was no answer at all. */
  constructor(
    readonly status: number | null,
    readonly fault: Fault,
  ) {
    super(fault.message);
  }
}

function isFault(value: unknown): value is Fault {
  const fault = value as Partial<Fault> | null;
  return typeof fault === "object" && fault !== null && typeof fault.code === "string" && typeof fault.message === "string";
}

async function refusal(response: Response): Promise<ControlError> {
  const body: unknown = await response.json().catch(() => null);
  const fault = (body as { error?: unknown } | null)?.error;
  return new ControlError(response.status, isFault(fault) ? inLanguage(fault) : strings.faults.unexpected(response.status));
}

export class Control {
  constructor(private readonly token: string) {}

  /** The address of this page with its token, for another tab or the system's browser. */
  get page(): string {
    return `${location.origin}/#token=${encodeURIComponent(this.token)}`;
  }

  private async fetch(path: string, init: RequestInit = {}): Promise<Response> {
    const headers = new Headers(init.headers);
    headers.set("authorization", `Bearer ${this.token}`);
    if (init.body) headers.set("content-type", "application/json");
    let response: Response;
    try {
      response = await fetch(path, { ...init, headers, cache: "no-store" });
    } catch (error) {
      if ((error as Error).name === "AbortError") throw error;
      throw new ControlError(null, strings.faults.noAnswer);
    }
    if (!response.ok) throw await refusal(response);
    return response;
  }

  private async call<T>(path: string, method = "GET", body?: unknown): Promise<T> {
    const response = await this.fetch(path, { method, ...(body === undefined ? {} : { body: JSON.stringify(body) }) });
    return inLanguage((await response.json()) as T);
  }

  state = () => this.call<Snapshot>("/api/state");
  history = (seconds: number) => this.call<History>(`/api/history?seconds=${seconds}`);
  /** What was served in the last hours, and the energy it took. */
  usage = (hours: number) => this.call<Usage>(`/api/usage?hours=${hours}`);
  requests = (limit = 50) => this.call<RequestRecord[]>(`/api/requests?limit=${limit}`);
  models = () => this.call<ModelCard[]>("/api/models");
  /** `file`: one of its GGUF files; null: the model in safetensors. */
  inspect = (model: string, context: number | null = null, file: string | null = null) =>
    this.call<Prospect>("/api/models/inspect", "POST", { model, revision: null, context, file } satisfies InspectRequest);
  ggufFiles = (model: string) => this.call<GgufCard[]>("/api/models/files", "POST", { model, revision: null } satisfies FilesRequest);
  removal = (model: string) => this.call<RemovalCard>(`/api/models/remove?model=${encodeURIComponent(model)}`);
  remove = (model: string) => this.call<RemovalCard>("/api/models/remove", "POST", { model } satisfies ModelRequest);
  importFolder = (folder: string, forget = false) =>
    this.call<ModelCard[]>("/api/models/import", "POST", { folder, forget } satisfies ImportRequest);
  catalogue = () => this.call<CatalogueList>("/api/catalogue");
  hub = () => this.call<HubCard>("/api/hub");
  search = (words: string) => this.call<SearchCard[]>(`/api/hub/search?q=${encodeURIComponent(words)}`);
  keepToken = (token: string | null) => this.call<HubCard>("/api/hub/token", "PUT", { token } satisfies TokenRequest);
  download = (model: string, file: string | null = null) =>
    this.call<DownloadCard[]>("/api/downloads", "POST", { model, revision: null, file } satisfies DownloadRequest);
  orderDownload = (number: number, order: DownloadOrder) =>
    this.call<DownloadCard[]>(`/api/downloads/${number}`, "POST", order);
  settings = () => this.call<Settings>("/api/settings");
  saveSettings = (settings: Settings) => this.call<Settings>("/api/settings", "PUT", settings);
  log = (lines = 200) => this.call<Log>(`/api/log?lines=${lines}`);
  /** `anyway`: although the plan says that it does not fit. */
  start = (profile: Profile | null = null, anyway = false) =>
    this.call<Snapshot>("/api/engine/start", "POST", { profile, anyway } satisfies StartRequest);
  stop = (now = false) => this.call<Snapshot>("/api/engine/stop", "POST", { now } satisfies StopRequest);
  chats = (search = "") => this.call<ChatSummary[]>(`/api/chats?search=${encodeURIComponent(search)}`);
  chat = (id: string) => this.call<Chat>(`/api/chats/${encodeURIComponent(id)}`);
  saveChat = async (chat: Chat): Promise<void> => {
    await this.fetch(`/api/chats/${encodeURIComponent(chat.id)}`, { method: "PUT", body: JSON.stringify(chat) });
  };
  removeChat = async (id: string): Promise<void> => {
    await this.fetch(`/api/chats/${encodeURIComponent(id)}`, { method: "DELETE" });
  };
  removeAllChats = () => this.call<{ removed: number }>("/api/chats", "DELETE");
  plan = (profile: Profile) => this.call<Plan>("/api/plan", "POST", { profile } satisfies PlanRequest);

  /** What was measured of a profile. */
  measured = (profile: Profile) => this.call<Measured>("/api/measured", "POST", { profile } satisfies PlanRequest);
  /** What was measured of each model, with the other values of the settings. */
  measuredModels = () => this.call<MeasuredModel[]>("/api/measured");

  benchmarks = () => this.call<BenchList>("/api/bench");
  startBenchmark = (order: BenchOrder) => this.call<BenchProgress>("/api/bench", "POST", order);
  cancelBenchmark = async (): Promise<void> => {
    await this.fetch("/api/bench/cancel", { method: "POST" });
  };
  benchmark = (id: number) => this.call<BenchRun>(`/api/bench/${id}`);
  removeBenchmark = async (id: number): Promise<void> => {
    await this.fetch(`/api/bench/${id}`, { method: "DELETE" });
  };
  compareBenchmarks = (a: number, b: number) => this.call<BenchComparison>(`/api/bench/compare?a=${a}&b=${b}`);
  /** A run as the text of a file. */
  exportBenchmark = async (id: number, format: string) => (await this.fetch(`/api/bench/${id}/export?format=${format}`)).text();

  /** Takes a few seconds; leaves the machine only if `hub` is set. */
  doctor = (hub = false) => this.call<Diagnosis>(`/api/doctor?hub=${hub}`);
  fix = (action: FixAction) => this.call<Diagnosis>("/api/doctor/fix", "POST", { action } satisfies FixRequest);
  /** The doctor's report, one text. */
  report = async (hub = false) => (await this.fetch(`/api/doctor/report?hub=${hub}`)).text();

  /** The open stream of `state` and `request` events. */
  async events(signal: AbortSignal): Promise<ReadableStream<Uint8Array>> {
    const response = await this.fetch("/api/events", { signal, headers: { accept: "text/event-stream" } });
    if (!response.body) throw new ControlError(response.status, strings.faults.noAnswer);
    return response.body;
  }
}
