//! Answers of a given form: a JSON schema, a regular expression, a choice, a grammar. Compiled by llguidance before a
//! request is submitted, so that a bad one is refused before work starts; followed by a [`Guide`] while it is written.

mod guide;
#[cfg(test)]
mod tests;
mod vocabulary;
mod workers;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use llguidance::{
    Matcher, ParserFactory,
    api::{GrammarWithLexer, TopLevelGrammar},
};
use serde_json::{Value, json};

pub(crate) use guide::Guide;
use vocabulary::Vocabulary;
use workers::Workers;

use crate::tokenizer::Tokenizer;

/// Largest source of a grammar, bytes of JSON or text.
pub const LARGEST: usize = 512 << 10;
/// Most levels of a source within each other: JSON as deep as a request may be, brackets of a text. What is deeper would
/// take the stack of whoever reads it.
const DEEPEST: usize = 128;
/// Stack of the thread that compiles: enough for the deepest source in a build without optimisation.
const STACK: usize = 64 << 20;
/// White space that JSON may have between its parts, at most once at each place: enough for every pretty-printer, and
/// too little for a model to write nothing else until its limit.
const SPACES: &str = r"[ \t]{1,4}|\r?\n[ \t]{0,32}";

/// What an answer must look like.
#[derive(Debug, Clone, PartialEq)]
pub enum GrammarSource {
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema accepts.
    JsonSchema(Value),
    /// A text that a regular expression (Rust's syntax) matches as a whole.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A text of a grammar in llguidance's dialect of Lark.
    Lark(String),
    /// One of these forms.
    Either(Vec<GrammarSource>),
    /// llguidance's own list: `{"grammars": [{"lark_grammar": ...}, {"json_schema": ...}]}`.
    Guidance(Value),
}

/// White space between the parts of JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Spaces {
    /// A little, wherever JSON allows it.
    #[default]
    Some,
    /// None at all.
    None,
    /// What this regular expression matches.
    Pattern(String),
}

/// From where on an answer must have the form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// From its first token to its last.
    AtOnce,
    /// From behind this text to its last token: reasoning is free.
    After(String),
    /// From behind this text until the form is complete, as often as it comes; all else is free.
    Whenever(String),
}

/// A grammar that cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GrammarError {
    /// It has no meaning, or one that cannot be followed.
    #[error("The grammar cannot be used: {reason}.")]
    Invalid {
        /// From llguidance.
        reason: String,
    },
    /// Its source is too long, or what it describes has too many states.
    #[error("The grammar is too large: {reason}.")]
    TooLarge {
        /// What is too large, and the limit.
        reason: String,
    },
    /// The vocabulary of this model cannot be guided.
    #[error("This model's answers cannot be given a form: {reason}.")]
    Unavailable {
        /// Why.
        reason: String,
    },
}

impl GrammarError {
    /// Stable code, as clients see it.
    pub fn code(&self) -> &'static str {
        match self {
            GrammarError::Invalid { .. } => "invalid_grammar",
            GrammarError::TooLarge { .. } => "grammar_too_large",
            GrammarError::Unavailable { .. } => "grammar_unavailable",
        }
    }
}

/// A compiled grammar and when it holds; cheap to clone.
#[derive(Clone)]
pub struct Constraint(Arc<Compiled>);

struct Compiled {
    grammars: Arc<Grammars>,
    /// At the beginning of the grammar; copied for every answer.
    matcher: Matcher,
    /// What may come first.
    first: Mask,
    begin: Begin,
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Constraint").field(&self.0.begin).finish()
    }
}

/// Tokens that may come next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mask {
    /// One bit per token, lowest first, `ceil(tokens / 32)` words.
    pub words: Vec<u32>,
    /// Only end tokens may come.
    pub ends_only: bool,
}

/// What all grammars of a model share.
pub(crate) struct Grammars {
    factory: ParserFactory,
    vocabulary: Arc<Vocabulary>,
    workers: Workers,
}

impl Grammars {
    /// Takes some 100 ms for a vocabulary of 100,000 tokens.
    pub(crate) fn of(tokenizer: &Tokenizer) -> Result<Grammars, String> {
        let build = || {
            let vocabulary = Arc::new(Vocabulary::of(tokenizer));
            let env: llguidance::toktrie::TokEnv = vocabulary.clone();
            let mut factory = ParserFactory::new_simple(&env).map_err(|error| error.to_string())?;
            factory.quiet();
            factory.limits_mut().verbose_errors = false;
            Ok(Grammars { factory, vocabulary, workers: Workers::start() })
        };
        caught(build).map_err(|reason| brief(&reason))
    }
}

impl Constraint {
    /// Compiles a grammar. Takes milliseconds, tens of them for a large schema: call it on a thread that may block.
    ///
    /// # Errors
    /// The source is too long, is not understood, or describes nothing that this vocabulary can write.
    pub fn compile(
        tokenizer: &Tokenizer,
        source: &GrammarSource,
        spaces: &Spaces,
        begin: Begin,
    ) -> Result<Constraint, GrammarError> {
        let grammars = tokenizer.grammars().map_err(|reason| GrammarError::Unavailable { reason })?;
        let grammar = top_level(source, spaces, &begin)?;
        let create = || {
            let mut matcher = Matcher::new(grammars.factory.create_parser(grammar));
            // A grammar that allows nothing, or is too complex, shows at its first token.
            let first = mask(&mut matcher, &grammars.vocabulary)?;
            Ok(Compiled { grammars: grammars.clone(), matcher, first, begin })
        };
        let created = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("grammar".into()).stack_size(STACK);
            match thread.spawn_scoped(scope, || caught(create)) {
                Ok(thread) => thread.join().unwrap_or_else(|_| Err("its compiler stopped".into())),
                Err(error) => Err(error.to_string()),
            }
        });
        created.map(|compiled| Constraint(Arc::new(compiled))).map_err(|reason| refuse(&reason))
    }
}

/// The grammar as llguidance takes it.
fn top_level(
    source: &GrammarSource,
    spaces: &Spaces,
    begin: &Begin,
) -> Result<TopLevelGrammar, GrammarError> {
    let size = size(source);
    if size > LARGEST {
        return Err(GrammarError::TooLarge {
            reason: format!("its source has {size} bytes; {LARGEST} are allowed"),
        });
    }
    let depth = depth(source);
    if depth > DEEPEST {
        return Err(GrammarError::TooLarge {
            reason: format!("its source is nested {depth} deep; {DEEPEST} levels are allowed"),
        });
    }
    let mut grammars = list(source, spaces)?;
    if let Begin::After(_) = begin {
        // Models leave blank lines between their reasoning and their answer.
        let body = name_first(&mut grammars, "body");
        grammars.insert(0, GrammarWithLexer::from_lark(format!("start: /\\n{{1,2}}/ @{body} | @{body}")));
    }
    Ok(TopLevelGrammar { grammars, max_tokens: None })
}

/// How many levels of a source lie within each other.
fn depth(source: &GrammarSource) -> usize {
    match source {
        GrammarSource::JsonObject | GrammarSource::Choice(_) => 1,
        GrammarSource::JsonSchema(value) | GrammarSource::Guidance(value) => depth_of_json(value),
        GrammarSource::Regex(text) | GrammarSource::Lark(text) => depth_of_text(text),
        GrammarSource::Either(sources) => sources.iter().map(depth).max().unwrap_or(0) + 1,
    }
}

/// Also of the texts in it, which llguidance's own lists read as grammars.
fn depth_of_json(value: &Value) -> usize {
    let mut open = vec![(value, 1)];
    let mut deepest = 0;
    while let Some((value, level)) = open.pop() {
        deepest = deepest.max(level);
        match value {
            Value::Array(values) => open.extend(values.iter().map(|value| (value, level + 1))),
            Value::Object(members) => open.extend(members.values().map(|value| (value, level + 1))),
            Value::String(text) => deepest = deepest.max(depth_of_text(text)),
            _ => {}
        }
    }
    deepest
}

/// Brackets within each other; escaped ones do not count.
fn depth_of_text(text: &str) -> usize {
    let (mut level, mut deepest, mut escaped) = (0usize, 0, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'(' | b'[' | b'{' => level += 1,
            b')' | b']' | b'}' => level = level.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(level);
    }
    deepest
}

/// Bytes of the source.
fn size(source: &GrammarSource) -> usize {
    match source {
        GrammarSource::JsonObject => 0,
        GrammarSource::JsonSchema(value) | GrammarSource::Guidance(value) => value.to_string().len(),
        GrammarSource::Regex(text) | GrammarSource::Lark(text) => text.len(),
        GrammarSource::Choice(texts) => texts.iter().map(|text| text.len() + 4).sum(),
        GrammarSource::Either(sources) => sources.iter().map(size).sum(),
    }
}

/// Grammars that refer to each other by name; the first one is where the answer begins.
fn list(source: &GrammarSource, spaces: &Spaces) -> Result<Vec<GrammarWithLexer>, GrammarError> {
    let invalid = |reason: &str| Err(GrammarError::Invalid { reason: reason.to_owned() });
    let schema = |schema: Value| GrammarWithLexer::from_json_schema(spaced(schema, spaces));
    Ok(vec![match source {
        GrammarSource::JsonObject => schema(json!({"type": "object"})),
        GrammarSource::JsonSchema(value) => schema(value.clone()),
        GrammarSource::Regex(regex) => GrammarWithLexer::from_regex(unanchored(regex)),
        GrammarSource::Choice(texts) if texts.is_empty() || texts.iter().any(String::is_empty) => {
            return invalid("a choice needs at least one text, and no empty one");
        }
        GrammarSource::Choice(texts) => {
            let texts: Vec<String> =
                texts.iter().map(|text| Value::from(text.as_str()).to_string()).collect();
            GrammarWithLexer::from_lark(format!("start: {}", texts.join(" | ")))
        }
        GrammarSource::Lark(text) => GrammarWithLexer::from_lark(text.clone()),
        GrammarSource::Guidance(value) => {
            let list: TopLevelGrammar =
                serde_json::from_value(value.clone()).map_err(|error| refuse(&error.to_string()))?;
            return if list.grammars.is_empty() {
                invalid("its list of grammars is empty")
            } else {
                Ok(list.grammars)
            };
        }
        GrammarSource::Either(sources) => {
            let mut all = Vec::new();
            let mut names = Vec::new();
            for (index, source) in sources.iter().enumerate() {
                let mut grammars = list(source, spaces)?;
                names.push(format!("@{}", name_first(&mut grammars, &format!("form{index}"))));
                all.append(&mut grammars);
            }
            all.insert(0, GrammarWithLexer::from_lark(format!("start: {}", names.join(" | "))));
            return Ok(all);
        }
    }])
}

/// The name of the first grammar, by which others refer to it: ours, unless the client's own list names it.
fn name_first(grammars: &mut [GrammarWithLexer], name: &str) -> String {
    let alone = grammars.len() == 1;
    let Some(first) = grammars.first_mut() else { return name.to_owned() };
    if alone || first.name.is_none() {
        first.name = Some(name.to_owned());
    }
    first.name.clone().unwrap_or_default()
}

/// The schema with our options for white space, unless it brings its own.
fn spaced(mut schema: Value, spaces: &Spaces) -> Value {
    let options = match spaces {
        Spaces::Some => json!({"whitespace_pattern": SPACES}),
        Spaces::None => json!({"whitespace_flexible": false}),
        Spaces::Pattern(pattern) => json!({"whitespace_pattern": pattern}),
    };
    if schema == Value::Bool(true) {
        schema = json!({});
    }
    if let Some(object) = schema.as_object_mut() {
        object.entry("x-guidance").or_insert(options);
    }
    schema
}

/// A grammar's expression matches the whole answer anyway; llguidance does not know the anchors that say so.
fn unanchored(regex: &str) -> &str {
    let regex = regex.strip_prefix('^').unwrap_or(regex);
    match regex.strip_suffix('$') {
        Some(rest) if rest.bytes().rev().take_while(|b| *b == b'\\').count().is_multiple_of(2) => rest,
        _ => regex,
    }
}

/// What may come next.
fn mask(matcher: &mut Matcher, vocabulary: &Vocabulary) -> Result<Mask, String> {
    let allowed = matcher.compute_mask_or_eos().map_err(|error| error.to_string())?;
    let accepting = matcher.is_stopped() || matcher.is_accepting().map_err(|error| error.to_string())?;
    Ok(vocabulary.mask(allowed.as_slice(), accepting))
}

/// llguidance's panics as its errors: a strange schema must not end the engine.
fn caught<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err("llguidance failed on it unexpectedly".to_owned()))
}

fn refuse(reason: &str) -> GrammarError {
    let reason = brief(reason);
    let large =
        ["too large", "too complex", "too big", "limit", "fuel"].iter().any(|word| reason.contains(word));
    if large { GrammarError::TooLarge { reason } } else { GrammarError::Invalid { reason } }
}

/// The first lines of an explanation, as part of a sentence.
fn brief(reason: &str) -> String {
    let line = reason.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    let mut short: String = line.chars().take(400).collect();
    if short.len() < line.len() {
        short.push('…');
    }
    short.trim_end_matches('.').to_owned()
}
