// What the page Models shows: models here, suggestions, the hub, a search. Reads again when a download ends and when asked to.
// The downloads themselves come with the live stream.
import { ControlError, type Control } from "../control";
import { strings } from "../strings";
import type { CatalogueList } from "../types/CatalogueList";
import type { Fault } from "../types/Fault";
import type { HubCard } from "../types/HubCard";
import type { MeasuredSpeed } from "../types/MeasuredSpeed";
import type { ModelCard } from "../types/ModelCard";
import type { SearchCard } from "../types/SearchCard";

export const faultOf = (error: unknown): Fault => (error instanceof ControlError ? error.fault : strings.faults.noAnswer);

/** A text that is a repository and not words to search for. */
export function asRepository(text: string): string | null {
  const id = text.trim().replace(/^https?:\/\/(www\.)?huggingface\.co\//, "").replace(/\/(tree|blob|resolve)\/.*$/, "").replace(/\/+$/, "");
  return /^[\w][\w.-]*\/[\w][\w.-]*$/.test(id) ? id : null;
}

export class Shelf {
  here = $state.raw<ModelCard[] | null>(null);
  catalogue = $state.raw<CatalogueList | null>(null);
  hub = $state.raw<HubCard | null>(null);
  /** Speeds by model; empty where nothing was measured. */
  measured = $state.raw(new Map<string, MeasuredSpeed>());
  fault = $state.raw<Fault | null>(null);

  words = $state("");
  hits = $state.raw<SearchCard[] | null>(null);
  searching = $state(false);
  searchFault = $state.raw<Fault | null>(null);

  private searches = 0;

  constructor(private readonly control: Control) {}

  async read(): Promise<void> {
    try {
      const [here, catalogue, hub, measured] = await Promise.all([
        this.control.models(),
        this.control.catalogue(),
        this.control.hub(),
        this.control.measuredModels().catch(() => []),
      ]);
      this.measured = new Map(measured.map(({ model, speed }) => [model, speed]));
      [this.here, this.catalogue, this.hub, this.fault] = [here, catalogue, hub, null];
    } catch (error) {
      this.fault = faultOf(error);
    }
  }

  async search(words: string): Promise<void> {
    const mine = ++this.searches;
    [this.words, this.searching, this.searchFault, this.hits] = [words, true, null, null];
    try {
      const hits = await this.control.search(words);
      if (mine === this.searches) this.hits = hits;
    } catch (error) {
      if (mine === this.searches) this.searchFault = faultOf(error);
    } finally {
      if (mine === this.searches) this.searching = false;
    }
  }

  closeSearch(): void {
    this.searches++;
    [this.words, this.searching, this.searchFault, this.hits] = ["", false, null, null];
  }
}
