//! Cuts an answer into reasoning, text and tool calls while it is being written. The forms are those of Qwen3.5:
//! `<think>...</think>`, and `<tool_call><function=name><parameter=key>value</parameter></function></tool_call>`.
//! Used by the chat handler, streaming or not. Whatever is not surely a marker stays text.

use crate::{call::CallReader, tools::Tools};

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Belongs to `reasoning_content`.
    Reasoning(String),
    /// Belongs to `content`.
    Text(String),
    /// A tool call begins.
    Call {
        /// From 0, without gaps.
        index: usize,
        /// Unguessable.
        id: String,
        /// Function name.
        name: String,
    },
    /// More of the JSON of a call's arguments.
    Arguments {
        /// Which call.
        index: usize,
        /// A piece; all pieces of a call together are a JSON object.
        text: String,
    },
}

const THINK: &str = "<think>";
const THINK_END: &str = "</think>";
const CALL: &str = "<tool_call>";
const FUNCTION: &str = "<function=";

#[derive(Debug)]
enum State {
    /// Inside `<think>`.
    Reasoning,
    /// The answer proper.
    Text,
    /// Inside `<tool_call>`.
    Call(CallReader),
}

/// Reads one answer.
#[derive(Debug)]
pub struct Splitter {
    tools: Option<Tools>,
    state: State,
    /// Text whose meaning is not decided yet.
    held: String,
    /// True until something other than white space has been sent in this state.
    fresh: bool,
    /// True until any text has been sent: only there may `<think>` open.
    first: bool,
    calls: usize,
    complete_calls: usize,
    /// Only one call may be made (`parallel_tool_calls: false`).
    single: bool,
}

impl Splitter {
    /// `thinking`: the prompt ends inside `<think>`. Without `tools` nothing is taken for a call.
    pub fn new(thinking: bool, tools: Option<Tools>, single: bool) -> Splitter {
        Splitter {
            tools,
            state: if thinking { State::Reasoning } else { State::Text },
            held: String::new(),
            fresh: true,
            first: true,
            calls: 0,
            complete_calls: 0,
            single,
        }
    }

    /// For an answer whose form holds from its first character: `<think>` there is text like any other.
    pub fn without_reasoning(mut self) -> Splitter {
        self.first = false;
        self
    }

    /// True while what comes is reasoning.
    pub fn in_reasoning(&self) -> bool {
        matches!(self.state, State::Reasoning)
    }

    /// Calls that are complete.
    pub fn complete_calls(&self) -> usize {
        self.complete_calls
    }

    /// Adds text; gives back the parts that are certain.
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        self.held.push_str(text);
        let mut parts = Vec::new();
        while self.advance(&mut parts) {}
        parts
    }

    /// The answer is over: what was held back is what it looks like.
    pub fn finish(&mut self) -> Vec<Part> {
        let mut parts = Vec::new();
        let rest = std::mem::take(&mut self.held);
        match &self.state {
            State::Reasoning => self.send(rest.trim_end(), &mut parts),
            // White space after the last call belongs to nothing.
            State::Text if self.calls > 0 && rest.trim().is_empty() => {}
            State::Text => self.send(&rest, &mut parts),
            // A call that was cut off stays as far as it came; nothing is invented.
            State::Call(_) => {}
        }
        parts
    }

    /// One move of the reader. False: more text is needed.
    fn advance(&mut self, parts: &mut Vec<Part>) -> bool {
        match &mut self.state {
            State::Reasoning => self.reasoning(parts),
            State::Text => self.text(parts),
            State::Call(reader) => {
                let index = self.calls.saturating_sub(1);
                let step = reader.advance(&mut self.held, index, parts);
                self.complete_calls += usize::from(step.completed);
                if step.closed || (step.another && self.single) {
                    self.enter(State::Text);
                } else if step.another {
                    self.open_call();
                }
                step.moved
            }
        }
    }

    fn reasoning(&mut self, parts: &mut Vec<Part>) -> bool {
        let end = self.held.find(THINK_END);
        let call = self.call_start();
        // A call made inside the reasoning is still a call.
        if let Start::At(at) = call
            && end.is_none_or(|end| at < end)
        {
            let before: String = self.held.drain(..at).collect();
            self.send(before.trim_end(), parts);
            self.open_call();
            return true;
        }
        if let Some(at) = end {
            let before: String = self.held.drain(..at).collect();
            self.held.drain(..THINK_END.len());
            self.send(before.trim_end(), parts);
            self.enter(State::Text);
            return true;
        }
        let keep = call.undecided(&self.held).min(partial(&self.held, THINK_END));
        self.send_up_to(keep, true, parts);
        false
    }

    fn text(&mut self, parts: &mut Vec<Part>) -> bool {
        if self.first {
            let start = self.held.trim_start();
            if let Some(rest) = start.strip_prefix(THINK) {
                self.held = rest.to_owned();
                self.first = false;
                self.enter(State::Reasoning);
                return true;
            }
            if THINK.starts_with(start) {
                return false;
            }
        }
        let call = self.call_start();
        if let Start::At(at) = call {
            let before: String = self.held.drain(..at).collect();
            self.send(before.trim_end(), parts);
            self.open_call();
            return true;
        }
        let keep = call.undecided(&self.held);
        self.send_up_to(keep, self.tools.is_some(), parts);
        false
    }

    /// Where `<tool_call>`, white space, `<function=` stands, or from where on it may turn out to.
    fn call_start(&self) -> Start {
        if self.tools.is_none() || (self.single && self.calls > 0) {
            return Start::Nowhere;
        }
        let mut from = 0;
        while let Some(at) = self.held[from..].find(CALL).map(|at| from + at) {
            let after = self.held[at + CALL.len()..].trim_start();
            if after.starts_with(FUNCTION) {
                return Start::At(at);
            }
            if FUNCTION.starts_with(after) {
                return Start::Maybe(at);
            }
            from = at + CALL.len();
        }
        match partial(&self.held, CALL) {
            at if at < self.held.len() => Start::Maybe(at),
            _ => Start::Nowhere,
        }
    }

    fn open_call(&mut self) {
        if matches!(self.state, State::Text | State::Reasoning) {
            self.held.drain(..CALL.len());
        }
        let tools = self.tools.clone().unwrap_or_default();
        self.state = State::Call(CallReader::new(tools));
        self.calls += 1;
    }

    fn enter(&mut self, state: State) {
        // Behind reasoning, even an empty one, the answer has begun.
        self.first &= !self.in_reasoning();
        self.state = state;
        self.fresh = true;
    }

    /// Sends the held text before `keep`; with `trim` not the white space at its end, which may turn out to be the end.
    fn send_up_to(&mut self, keep: usize, trim: bool, parts: &mut Vec<Part>) {
        let end = if trim { self.held[..keep].trim_end().len() } else { keep };
        let text: String = self.held.drain(..end).collect();
        self.send(&text, parts);
    }

    /// Sends text of the present state, without white space at its beginning.
    fn send(&mut self, text: &str, parts: &mut Vec<Part>) {
        let leading = self.fresh && (self.in_reasoning() || !self.first || self.calls > 0);
        let text = if leading { text.trim_start() } else { text };
        // After the only call that may be made, nothing more is said.
        if text.is_empty() || (self.single && self.calls > 0) {
            return;
        }
        self.fresh = false;
        self.first = false;
        parts.push(match self.state {
            State::Reasoning => Part::Reasoning(text.to_owned()),
            _ => Part::Text(text.to_owned()),
        });
    }
}

enum Start {
    Nowhere,
    Maybe(usize),
    At(usize),
}

impl Start {
    /// From where on the text is undecided.
    fn undecided(&self, held: &str) -> usize {
        match self {
            Start::Nowhere => held.len(),
            Start::Maybe(at) | Start::At(at) => *at,
        }
    }
}

/// Where the longest end of `text` begins that is a beginning of `marker`; the length of `text` if there is none.
pub(crate) fn partial(text: &str, marker: &str) -> usize {
    let longest = (marker.len() - 1).min(text.len());
    let from = (text.len() - longest..text.len())
        .find(|&at| text.is_char_boundary(at) && marker.starts_with(&text[at..]));
    from.unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn tools() -> Tools {
        Tools::read(&json!([{"type": "function", "function": {"name": "add", "parameters": {"type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "number"}, "note": {"type": "string"},
                           "tags": {"type": "array"}, "opt": {"type": ["string", "null"]}}}}}]))
        .expect("valid tools")
    }

    /// The whole answer, put together as a client does: reasoning, text, calls.
    fn assemble(splitter: &mut Splitter, pieces: &[&str]) -> (String, String, Vec<(String, String)>) {
        let mut parts: Vec<Part> = pieces.iter().flat_map(|piece| splitter.push(piece)).collect();
        parts.extend(splitter.finish());
        let (mut reasoning, mut text, mut calls) = (String::new(), String::new(), Vec::new());
        for part in parts {
            match part {
                Part::Reasoning(piece) => reasoning += &piece,
                Part::Text(piece) => text += &piece,
                Part::Call { index, name, id } => {
                    assert_eq!(index, calls.len());
                    assert!(id.starts_with("call_"));
                    calls.push((name, String::new()));
                }
                Part::Arguments { index, text } => calls[index].1 += &text,
            }
        }
        (reasoning, text, calls)
    }

    /// Runs the answer cut into pieces of every size and checks that the cuts never matter.
    fn split(thinking: bool, with_tools: bool, answer: &str) -> (String, String, Vec<(String, String)>) {
        let run = |size: usize| {
            let chars: Vec<char> = answer.chars().collect();
            let pieces: Vec<String> = chars.chunks(size).map(|c| c.iter().collect()).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            assemble(&mut Splitter::new(thinking, with_tools.then(tools), false), &pieces)
        };
        let whole = run(answer.len().max(1));
        for size in 1..12 {
            assert_eq!(run(size), whole, "pieces of {size}");
        }
        whole
    }

    proptest::proptest! {
        #[test]
        fn no_answer_breaks_the_reader_and_no_cut_changes_it(
            pieces in proptest::collection::vec(
                proptest::sample::select(vec![
                    "<think>", "</think>", "<tool_call>", "</tool_call>", "<function=add>", "<function=", "</function>",
                    "<parameter=a>", "<parameter=note>", "</parameter>", "\n", " ", "1", "é😀", "<", "text", "\"", "{",
                ]),
                0..24,
            ),
            thinking: bool,
        ) {
            split(thinking, true, &pieces.concat());
        }
    }

    #[test]
    fn reasoning_ends_at_its_marker_and_the_rest_is_content() {
        let (reasoning, text, _) = split(true, false, "\nLet me see.\n2 < 3\n</think>\n\nYes, 2 < 3.");
        assert_eq!((reasoning.as_str(), text.as_str()), ("Let me see.\n2 < 3", "Yes, 2 < 3."));
    }

    #[test]
    fn nothing_is_left_of_a_reasoning_without_thoughts() {
        let (reasoning, text, _) = split(true, false, "\n</think>\n\nno");
        assert_eq!((reasoning.as_str(), text.as_str()), ("", "no"));
    }

    #[test]
    fn an_answer_that_opens_its_own_reasoning_is_understood() {
        let (reasoning, text, _) = split(false, false, "<think>\nhm\n</think>\n\nok");
        assert_eq!((reasoning.as_str(), text.as_str()), ("hm", "ok"));
    }

    #[test]
    fn reasoning_that_is_cut_off_never_leaks_into_the_content() {
        let (reasoning, text, _) = split(true, true, "I was thinking about </thi");
        assert_eq!((reasoning.as_str(), text.as_str()), ("I was thinking about </thi", ""));
    }

    #[test]
    fn a_call_becomes_json_with_the_types_of_the_schema() {
        let answer = "Sure.\n\n<tool_call>\n<function=add>\n<parameter=a>\n12\n</parameter>\n<parameter=b>\n2.5\n</parameter>\n\
                      <parameter=note>\n12 \"x\"\nü\n</parameter>\n<parameter=tags>\n[1, \"two\"]\n</parameter>\n\
                      <parameter=opt>\nnull\n</parameter>\n</function>\n</tool_call>";
        let (_, text, calls) = split(false, true, answer);
        assert_eq!(text, "Sure.");
        assert_eq!(calls.len(), 1);
        let arguments: Value = serde_json::from_str(&calls[0].1).expect("arguments are JSON");
        assert_eq!(
            arguments,
            json!({"a": 12, "b": 2.5, "note": "12 \"x\"\nü", "tags": [1, "two"], "opt": null})
        );
    }

    #[test]
    fn several_calls_have_their_own_index_and_no_stray_text_between() {
        let call = |n: u32| {
            format!(
                "<tool_call>\n<function=add>\n<parameter=a>\n{n}\n</parameter>\n</function>\n</tool_call>"
            )
        };
        let answer = format!("{}\n{}\n", call(1), call(2));
        let (_, text, calls) = split(false, true, &answer);
        assert_eq!(text, "");
        assert_eq!(
            calls,
            [("add".into(), r#"{"a": 1}"#.to_owned()), ("add".into(), r#"{"a": 2}"#.to_owned())]
        );
        let mut single = Splitter::new(false, Some(tools()), true);
        let (_, text, calls) = assemble(&mut single, &[&answer]);
        assert_eq!((text.as_str(), calls.len()), ("", 1));
    }

    #[test]
    fn a_call_without_arguments_is_an_empty_object() {
        let (_, _, calls) = split(false, true, "<tool_call>\n<function=now>\n</function>\n</tool_call>");
        assert_eq!(calls, [("now".to_owned(), "{}".to_owned())]);
    }

    #[test]
    fn a_call_made_inside_the_reasoning_is_not_lost() {
        let (reasoning, text, calls) = split(
            true,
            true,
            "I need the sum.\n<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>",
        );
        assert_eq!((reasoning.as_str(), text.as_str(), calls.len()), ("I need the sum.", "", 1));
    }

    #[test]
    fn literal_markers_in_prose_stay_text() {
        let prose =
            "Write `<tool_call>` and then the JSON. <b>1 < 2</b> <tool_call> is a tag, <function=x> too.";
        assert_eq!(split(false, true, prose).1, prose);
        let call = "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>";
        assert_eq!(split(false, false, call).1, call, "no tools were given");
        assert_eq!(split(false, false, "a </think> b <think>c").1, "a </think> b <think>c");
        assert_eq!(split(false, true, "ends with <tool_call>").1, "ends with <tool_call>");
    }

    #[test]
    fn a_call_that_is_cut_off_is_left_incomplete() {
        let mut splitter = Splitter::new(false, Some(tools()), false);
        let (_, text, calls) = assemble(
            &mut splitter,
            &["<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=note>\nhal"],
        );
        assert_eq!((text.as_str(), splitter.complete_calls()), ("", 0));
        assert_eq!(calls, [("add".to_owned(), r#"{"a": 1, "note": "hal"#.to_owned())]);
    }

    #[test]
    fn string_arguments_are_sent_while_they_are_written() {
        let mut splitter = Splitter::new(false, Some(tools()), false);
        splitter.push("<tool_call>\n<function=add>\n<parameter=note>\nfirst line\n");
        let parts = splitter.push("second </param");
        assert_eq!(parts, [Part::Arguments { index: 0, text: "\\nsecond ".into() }]);
    }

    #[test]
    fn an_answer_of_a_form_may_look_like_the_beginning_of_reasoning() {
        let mut splitter = Splitter::new(false, None, false).without_reasoning();
        let mut parts = splitter.push("<think>");
        parts.extend(splitter.finish());
        assert_eq!(parts, [Part::Text("<think>".into())]);
    }

    #[test]
    fn text_without_markers_passes_at_once() {
        let mut splitter = Splitter::new(false, None, false);
        assert_eq!(splitter.push("Hello "), [Part::Text("Hello ".into())]);
        assert_eq!(splitter.push("\n"), [Part::Text("\n".into())]);
    }
}
