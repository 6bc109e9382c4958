// The conversations that are kept: the list, its search, and one writer, so that an older state never overwrites a newer one.
// One instance for the window; the chat page tells it whether the person wants anything kept.
import { ControlError, type Control } from "../control";
import { strings } from "../strings";
import type { Chat } from "../types/Chat";
import type { ChatSummary } from "../types/ChatSummary";
import type { Fault } from "../types/Fault";

/** A pause in typing after which the list is searched. */
const PAUSE_MS = 200;

export class Library {
  list = $state.raw<ChatSummary[]>([]);
  search = $state("");
  /** Null until the settings have been read. */
  kept = $state<boolean | null>(null);
  fault = $state.raw<Fault | null>(null);
  private control: Control | null = null;
  private asked = 0;
  private timer: ReturnType<typeof setTimeout> | null = null;
  private waiting = new Map<string, Chat>();
  private writer: Promise<void> | null = null;

  /** Reads whether chats are kept, and the list. */
  async connect(control: Control): Promise<void> {
    this.control = control;
    try {
      this.kept = (await control.settings()).keep_chats;
    } catch (error) {
      this.fault = faultOf(error);
    }
    await this.refresh();
  }

  async refresh(): Promise<void> {
    if (!this.control) return;
    const asked = ++this.asked;
    try {
      const list = await this.control.chats(this.search);
      if (asked === this.asked) [this.list, this.fault] = [list, null];
    } catch (error) {
      if (asked === this.asked) this.fault = faultOf(error);
    }
  }

  typed(): void {
    if (this.timer) clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.refresh(), PAUSE_MS);
  }

  /** Writes the newest state of a conversation, one at a time. */
  write(chat: Chat): void {
    if (this.kept !== true) return;
    this.waiting.set(chat.id, chat);
    this.writer ??= this.drain().finally(() => (this.writer = null));
  }

  private async drain(): Promise<void> {
    while (this.control) {
      const next = this.waiting.values().next();
      if (next.done) break;
      this.waiting.delete(next.value.id);
      try {
        await this.control.saveChat(next.value);
        this.fault = null;
      } catch (error) {
        this.fault = faultOf(error);
      }
    }
    await this.refresh();
  }

  read = async (id: string): Promise<Chat | null> => {
    try {
      return (await this.control?.chat(id)) ?? null;
    } catch (error) {
      this.fault = faultOf(error);
      return null;
    }
  };

  async remove(id: string): Promise<void> {
    this.waiting.delete(id);
    await this.writer;
    try {
      await this.control?.removeChat(id);
    } catch (error) {
      // Gone is what was wanted.
      if (!(error instanceof ControlError && error.status === 404)) this.fault = faultOf(error);
    }
    await this.refresh();
  }
}

function faultOf(error: unknown): Fault {
  return error instanceof ControlError ? error.fault : strings.faults.noAnswer;
}

export const library = new Library();
