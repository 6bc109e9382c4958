// Reads server-sent events from a fetch body. EventSource cannot send an Authorization header, so both the control
// events and the chat stream come through here.

export interface ServerEvent {
  event: string;
  data: string;
}

/** Events of one body, in order, until it ends. Comments and retry hints are skipped. */
export async function* serverEvents(body: ReadableStream<Uint8Array>): AsyncGenerator<ServerEvent> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let pending = "";
  let event = "message";
  let data: string[] = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      pending += done ? decoder.decode() : decoder.decode(value, { stream: true });
      // A CR at the very end may be the first half of CRLF: keep it for the next piece.
      const keep = !done && pending.endsWith("\r") ? 1 : 0;
      const lines = pending.slice(0, pending.length - keep).split(/\r\n|\n|\r/);
      pending = (lines.pop() ?? "") + pending.slice(pending.length - keep);
      for (const line of lines) {
        if (line === "") {
          if (data.length > 0) yield { event, data: data.join("\n") };
          event = "message";
          data = [];
          continue;
        }
        const colon = line.indexOf(":");
        const field = colon < 0 ? line : line.slice(0, colon);
        const text = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
        if (field === "event") event = text;
        else if (field === "data") data.push(text);
      }
      if (done) return;
    }
  } finally {
    // Closing early (stop, navigation) must close the connection too.
    await reader.cancel().catch(() => undefined);
  }
}
