// The GGUF files of a repository, and what the header of each says about size and speed. Headers have the tokenizer in them, some
// megabytes each, so they are read one after the other and only while somebody looks. Used by ProspectDialog.
import type { Control } from "../control";
import type { Fault } from "../types/Fault";
import type { GgufCard } from "../types/GgufCard";
import type { Prospect } from "../types/Prospect";
import { faultOf } from "./shelf.svelte";

export class GgufFiles {
  cards = $state.raw<GgufCard[] | null>(null);
  fault = $state.raw<Fault | null>(null);
  /** By file: what its header says, or why it could not be read. */
  read = $state.raw(new Map<string, Prospect | Fault>());
  private over = false;

  constructor(
    private readonly control: Control,
    private readonly model: string,
  ) {}

  get choices(): GgufCard[] {
    return (this.cards ?? []).filter((card) => card.unusable === null);
  }

  async load(): Promise<void> {
    if (this.cards) return;
    this.fault = null;
    try {
      this.cards = await this.control.ggufFiles(this.model);
    } catch (error) {
      this.fault = faultOf(error);
      return;
    }
    for (const { file } of this.choices) {
      if (this.over) return;
      if (this.read.has(file)) continue;
      const told = await this.control.inspect(this.model, null, file).catch(faultOf);
      this.read = new Map(this.read).set(file, told);
    }
  }

  close(): void {
    this.over = true;
  }
}

export const isProspect = (told: Prospect | Fault | undefined): told is Prospect => told !== undefined && "commit" in told;
