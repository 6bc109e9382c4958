//! Cuts a server-sent event stream into whole events, and tells whether an event carries a token. The gateway passes only whole
//! events on, so that an engine that dies in the middle of one leaves nothing half-said.
//! Format: https://html.spec.whatwg.org/multipage/server-sent-events.html

use bytes::{Bytes, BytesMut};
use serde_json::Value;

/// An event larger than this is no event of ours.
const EVENT_LIMIT: usize = 16 << 20;

/// Collects bytes until an event is whole.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    held: BytesMut,
    /// Bytes before this hold no end of an event.
    searched: usize,
}

/// The stream is not one of events.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Splitter {
    /// Adds bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        self.held.extend_from_slice(bytes);
        if self.held.len() > EVENT_LIMIT { Err(TooLong) } else { Ok(()) }
    }

    /// Takes the next whole event with the empty line that ends it.
    pub(crate) fn take(&mut self) -> Option<Bytes> {
        let start = self.searched.saturating_sub(3);
        let end = (start..self.held.len()).find_map(|at| {
            let rest = &self.held[at..];
            [&b"\n\n"[..], b"\r\n\r\n"].iter().find(|end| rest.starts_with(end)).map(|end| at + end.len())
        });
        match end {
            Some(end) => {
                self.searched = 0;
                Some(self.held.split_to(end).freeze())
            }
            None => {
                self.searched = self.held.len();
                None
            }
        }
    }

    /// True between events.
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

/// A comment, which keeps a connection awake and says nothing.
pub(crate) fn is_comment(event: &[u8]) -> bool {
    event.split(|b| *b == b'\n').all(|line| line.is_empty() || line == b"\r" || line.starts_with(b":"))
}

/// True for an event before the first token (such as `{"delta":{"role":"assistant","content":""}}`): a stream that has sent only
/// those can be begun again without anybody noticing. What is not understood counts as a token.
pub(crate) fn is_preamble(event: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(event) else { return false };
    let mut data = text.lines().filter_map(|line| line.strip_prefix("data:"));
    let (Some(data), None) = (data.next(), data.next()) else { return false };
    let Ok(Value::Object(chunk)) = serde_json::from_str(data) else { return false };
    if chunk.contains_key("error") || chunk.get("usage").is_some_and(|usage| !usage.is_null()) {
        return false;
    }
    let Some(choices) = chunk.get("choices").and_then(Value::as_array) else { return false };
    choices.iter().all(|choice| {
        let said = |value: &Value| match value {
            Value::Null => false,
            Value::String(text) => !text.is_empty(),
            Value::Array(items) => !items.is_empty(),
            _ => true,
        };
        let delta = choice.get("delta").and_then(Value::as_object);
        let speaks = delta.is_some_and(|delta| delta.iter().any(|(key, value)| key != "role" && said(value)));
        !speaks && !["finish_reason", "text"].iter().any(|key| choice.get(key).is_some_and(said))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(pieces: &[&[u8]]) -> (Vec<Bytes>, Splitter) {
        let (mut splitter, mut events) = (Splitter::default(), Vec::new());
        for piece in pieces {
            splitter.push(piece).unwrap();
            events.extend(std::iter::from_fn(|| splitter.take()));
        }
        (events, splitter)
    }

    #[test]
    fn events_are_the_same_however_the_bytes_arrive() {
        let stream = b"data: {\"a\":1}\n\n: wait\r\n\r\ndata: x\ndata: y\n\ndata: half";
        let (whole, rest) = events(&[stream]);
        assert_eq!(whole.len(), 3);
        assert!(!rest.is_empty());
        for size in 1..stream.len() {
            let pieces: Vec<&[u8]> = stream.chunks(size).collect();
            assert_eq!(events(&pieces).0, whole, "in pieces of {size}");
        }
    }

    #[test]
    fn a_stream_without_events_ends_before_it_fills_the_memory() {
        let mut splitter = Splitter::default();
        let piece = vec![b'x'; 1 << 20];
        let pushed = (0..64).take_while(|_| splitter.push(&piece).is_ok()).count();
        assert!(pushed <= 16, "{pushed} MiB were taken");
    }

    #[test]
    fn only_events_without_a_token_are_preamble() {
        let preamble = |json: &str| is_preamble(format!("data: {json}\n\n").as_bytes());
        assert!(preamble(
            r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#
        ));
        assert!(preamble(r#"{"choices":[{"index":0,"text":"","finish_reason":null}],"usage":null}"#));
        for said in [
            r#"{"choices":[{"delta":{"content":"a"},"finish_reason":null}]}"#,
            r#"{"choices":[{"delta":{"reasoning_content":"a"}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#,
            r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#,
            r#"{"choices":[{"text":"a"}]}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":1}}"#,
            r#"{"error":{"message":"x"}}"#,
            "[DONE]",
            "not json",
        ] {
            assert!(!preamble(said), "{said}");
        }
        assert!(is_comment(b": keep-alive\n\n") && !is_comment(b"data: x\n\n"));
    }
}
