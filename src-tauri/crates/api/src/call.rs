//! Reads one tool call in Qwen's XML form and writes its arguments as JSON, piece by piece: string arguments while they are
//! being written, others when they are complete. Used by `parts`.

use crate::{
    parts::{Part, partial},
    tools::{Kind, Tools, to_json},
};

const FUNCTION: &str = "<function=";
const FUNCTION_END: &str = "</function>";
const PARAMETER: &str = "<parameter=";
const PARAMETER_END: &str = "</parameter>";
const CALL_END: &str = "</tool_call>";

/// The reader of one call, from behind `<tool_call>`.
#[derive(Debug)]
pub(crate) struct CallReader {
    tools: Tools,
    state: State,
    name: String,
    parameters: usize,
}

#[derive(Debug)]
enum State {
    /// Before `<function=name>`.
    Head,
    /// Between parameters.
    Body,
    /// Inside a parameter; for a string: whether its line break at the beginning is behind us.
    Value { kind: Kind, begun: bool },
    /// After `</function>`.
    Tail,
}

/// What a move of the reader did.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Step {
    /// Something was read; go on.
    pub moved: bool,
    /// The arguments are complete.
    pub completed: bool,
    /// `</tool_call>` was read.
    pub closed: bool,
    /// Another `<function=` begins within the same `<tool_call>`.
    pub another: bool,
}

const WAIT: Step = Step { moved: false, completed: false, closed: false, another: false };
const MOVED: Step = Step { moved: true, ..WAIT };

impl CallReader {
    pub(crate) fn new(tools: Tools) -> CallReader {
        CallReader { tools, state: State::Head, name: String::new(), parameters: 0 }
    }

    /// Reads from the beginning of `held`, removing what was read.
    pub(crate) fn advance(&mut self, held: &mut String, index: usize, parts: &mut Vec<Part>) -> Step {
        match self.state {
            State::Head => {
                let Some(name) = take_tag(held, FUNCTION) else { return WAIT };
                let id = format!("call_{}", crate::identity::random_hex());
                parts.push(Part::Call { index, id, name: name.clone() });
                self.name = name;
                self.state = State::Body;
                MOVED
            }
            State::Body => self.body(held, index, parts),
            State::Value { kind: Kind::Text, begun } => self.string(held, index, begun, parts),
            State::Value { kind, .. } => {
                let Some(end) = held.find(PARAMETER_END) else { return WAIT };
                let value: String = held.drain(..end).collect();
                held.drain(..PARAMETER_END.len());
                let value = value.strip_prefix('\n').unwrap_or(&value);
                let value = value.strip_suffix('\n').unwrap_or(value);
                parts.push(Part::Arguments { index, text: to_json(value, kind) });
                self.state = State::Body;
                MOVED
            }
            State::Tail => {
                let next = [CALL_END, FUNCTION].iter().filter_map(|m| Some((held.find(m)?, *m))).min();
                match next {
                    Some((at, CALL_END)) => {
                        held.drain(..at + CALL_END.len());
                        Step { closed: true, ..MOVED }
                    }
                    Some((at, _)) => {
                        held.drain(..at);
                        Step { another: true, ..MOVED }
                    }
                    None => WAIT,
                }
            }
        }
    }

    fn body(&mut self, held: &mut String, index: usize, parts: &mut Vec<Part>) -> Step {
        // Anything between the markers is white space or noise.
        let end = held.find(FUNCTION_END);
        let parameter = held.find(PARAMETER).filter(|at| end.is_none_or(|end| *at < end));
        if parameter.is_some() {
            let Some(key) = take_tag(held, PARAMETER) else { return WAIT };
            let kind = self.tools.kind(&self.name, &key);
            let open = if self.parameters == 0 { "{" } else { ", " };
            let key = serde_json::Value::from(key);
            let quote = if kind == Kind::Text { "\"" } else { "" };
            parts.push(Part::Arguments { index, text: format!("{open}{key}: {quote}") });
            self.parameters += 1;
            self.state = State::Value { kind, begun: false };
            return MOVED;
        }
        let Some(end) = end else { return WAIT };
        held.drain(..end + FUNCTION_END.len());
        let close = if self.parameters == 0 { "{}" } else { "}" };
        parts.push(Part::Arguments { index, text: close.to_owned() });
        self.state = State::Tail;
        Step { completed: true, ..MOVED }
    }

    /// A string value: sent as it comes, without the line breaks that set it off from its markers.
    fn string(&mut self, held: &mut String, index: usize, begun: bool, parts: &mut Vec<Part>) -> Step {
        if !begun {
            if held.is_empty() {
                return WAIT;
            }
            if held.starts_with('\n') {
                held.remove(0);
            }
            self.state = State::Value { kind: Kind::Text, begun: true };
            return MOVED;
        }
        let end = held.find(PARAMETER_END);
        let limit = end.unwrap_or_else(|| partial(held, PARAMETER_END));
        let text = held[..limit].strip_suffix('\n').unwrap_or(&held[..limit]);
        let quoted = serde_json::Value::from(text).to_string();
        let inner = &quoted[1..quoted.len() - 1];
        let sent = text.len();
        let text = if end.is_some() { format!("{inner}\"") } else { inner.to_owned() };
        if !text.is_empty() {
            parts.push(Part::Arguments { index, text });
        }
        match end {
            Some(end) => {
                held.drain(..end + PARAMETER_END.len());
                self.state = State::Body;
                MOVED
            }
            None => {
                held.drain(..sent);
                WAIT
            }
        }
    }
}

/// Takes `<tag=NAME>` and everything before it; None if it is not complete yet.
fn take_tag(held: &mut String, tag: &str) -> Option<String> {
    let at = held.find(tag)? + tag.len();
    let end = at + held[at..].find('>')?;
    let name = held[at..end].trim().to_owned();
    held.drain(..=end);
    Some(name)
}
