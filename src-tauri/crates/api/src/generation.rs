//! The fields that chat and completions share: limits, sampling, stop strings, streaming. Everything this engine does not
//! do is refused here by name, so that no client believes it was done.

use std::{collections::HashSet, sync::Arc};

use hearth_engine::{Depth, MOST_LOGPROBS, Sampling, policy::Priority, status::RequestKind};
use serde_json::Value;

use crate::{
    ApiError,
    fields::{Fields, brief},
    identity,
};

/// Most stop strings of a request.
const STOPS: usize = 16;
/// Longest stop string, bytes.
const STOP_LENGTH: usize = 1024;

/// Most choices of a request.
const CHOICES: i64 = 16;

/// How an answer is to be made and sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Choices per prompt.
    pub n: usize,
    /// Tell how likely each token was, and this many of the likeliest ones.
    pub logprobs: Option<usize>,
    /// Most tokens of the answer.
    pub max_tokens: Option<usize>,
    /// Fewest tokens before an end token.
    pub min_tokens: usize,
    /// Strings that end the answer.
    pub stop: Vec<String>,
    /// End tokens do not end the answer.
    pub ignore_end: bool,
    /// How urgent it is.
    pub priority: Priority,
    /// Whose it is.
    pub account: u64,
    /// Send events as they come.
    pub stream: bool,
    /// End the stream with a usage event.
    pub include_usage: bool,
    /// Add the ids of the tokens to the events.
    pub token_ids: bool,
    /// Drafts per round of this request; None: as the engine does.
    pub mtp_depth: Option<Depth>,
}

impl Generation {
    /// Reads the fields; what is left open comes from `defaults`. A seed that is left open is drawn.
    ///
    /// # Errors
    /// The first field with a wrong or unsupported value.
    pub fn read(fields: &Fields, kind: RequestKind, defaults: &Sampling) -> Result<Generation, ApiError> {
        refuse_unsupported(fields)?;
        let n = fields.integer("n", 1, CHOICES)?.unwrap_or(1);
        if let Some(best) = fields.integer("best_of", 1, CHOICES)?.filter(|best| *best != n) {
            let message = format!(
                "'best_of' may only be 'n', which is {n}, not {best}. Ask for more choices with 'n'."
            );
            return Err(ApiError::unsupported("best_of", message));
        }
        let float = |name, low, high, default| {
            Ok::<_, ApiError>(fields.number(name, low, high)?.map_or(default, |v| v as f32))
        };
        let seed = match fields.integer("seed", i64::MIN, i64::MAX)? {
            Some(seed) => seed as u64,
            None => getrandom::u64().unwrap_or(0),
        };
        let sampling = Sampling {
            temperature: float("temperature", 0.0, 2.0, defaults.temperature)?,
            top_k: fields.integer("top_k", -1, 1 << 20)?.map_or(defaults.top_k, |k| k.max(0) as u32),
            top_p: float("top_p", 0.0, 1.0, defaults.top_p)?,
            min_p: float("min_p", 0.0, 1.0, defaults.min_p)?,
            presence_penalty: float("presence_penalty", -2.0, 2.0, defaults.presence_penalty)?,
            frequency_penalty: float("frequency_penalty", -2.0, 2.0, defaults.frequency_penalty)?,
            repetition_penalty: float("repetition_penalty", 0.01, 10.0, defaults.repetition_penalty)?,
            logit_bias: logit_bias(fields)?,
            seed,
        };
        let count = |name, low| {
            Ok::<_, ApiError>(fields.integer(name, low, i64::from(u32::MAX))?.map(|n| n as usize))
        };
        // The newer name wins when a client sends both.
        let (old, new) = (count("max_tokens", 1)?, count("max_completion_tokens", 1)?);
        let options = fields.object("stream_options")?;
        let include_usage = match options.and_then(|o| o.get("include_usage")).filter(|v| !v.is_null()) {
            None => false,
            Some(Value::Bool(include)) => *include,
            Some(other) => {
                let message = format!("'include_usage' must be true or false, not {}.", brief(other));
                return Err(ApiError::value("stream_options.include_usage", message));
            }
        };
        Ok(Generation {
            sampling,
            n: n as usize,
            logprobs: logprobs(fields, kind)?,
            max_tokens: new.or(old),
            min_tokens: count("min_tokens", 0)?.unwrap_or(0),
            stop: stop_strings(fields)?,
            ignore_end: fields.flag("ignore_eos")?.unwrap_or(false),
            priority: identity::priority(fields)?,
            account: 0,
            stream: fields.flag("stream")?.unwrap_or(false),
            include_usage,
            token_ids: fields.flag("return_token_ids")?.unwrap_or(false),
            mtp_depth: mtp_depth(fields)?,
        })
    }

    /// The same for an account.
    pub fn of(self, account: u64) -> Generation {
        Generation { account, ..self }
    }
}

/// Hearth's own field: `auto`, or 0 to 5 as a number or a text. It changes how fast the answer comes and no token of it.
fn mtp_depth(fields: &Fields) -> Result<Option<Depth>, ApiError> {
    let Some(value) = fields.get("mtp_depth") else { return Ok(None) };
    let text = value.as_str().map(str::to_owned).or_else(|| value.as_u64().map(|n| n.to_string()));
    let depth = text.and_then(|text| text.parse().ok());
    depth.map(Some).ok_or_else(|| {
        let message = format!("'mtp_depth' must be \"auto\" or a number from 0 to 5, not {}.", brief(value));
        ApiError::value("mtp_depth", message)
    })
}

/// What to add to which logit: an object of token ids and numbers.
fn logit_bias(fields: &Fields) -> Result<Arc<[(u32, f32)]>, ApiError> {
    let Some(object) = fields.object("logit_bias")? else { return Ok(Arc::default()) };
    let wrong = |message: String| ApiError::value("logit_bias", message);
    let bias = object.iter().map(|(id, value)| {
        let id = id.trim().parse::<u32>().map_err(|_| {
            let id: String = id.chars().take(40).collect();
            wrong(format!("The keys of 'logit_bias' must be token ids, not '{id}'."))
        })?;
        match value.as_f64() {
            Some(bias) if (-100.0..=100.0).contains(&bias) => Ok((id, bias as f32)),
            _ => {
                Err(wrong(format!("'logit_bias' must hold numbers from -100 to 100, not {}.", brief(value))))
            }
        }
    });
    let bias = bias.collect::<Result<Vec<_>, _>>()?;
    // Keys that differ as texts may name one token: "5" and "05".
    let mut named = HashSet::new();
    match bias.iter().find(|(id, _)| !named.insert(*id)) {
        Some((id, _)) => Err(wrong(format!("'logit_bias' names the token {id} twice."))),
        None => Ok(bias.into()),
    }
}

/// Chat has a flag and a number of alternatives; completions have the number alone.
fn logprobs(fields: &Fields, kind: RequestKind) -> Result<Option<usize>, ApiError> {
    let most = MOST_LOGPROBS as i64;
    if kind == RequestKind::Completion {
        return match fields.get("logprobs") {
            Some(Value::Bool(false)) => Ok(None),
            _ => Ok(fields.integer("logprobs", 0, most)?.map(|top| top as usize)),
        };
    }
    let asked = fields.flag("logprobs")?.unwrap_or(false);
    match fields.integer("top_logprobs", 0, most)? {
        Some(top) if asked => Ok(Some(top as usize)),
        Some(1..) => Err(ApiError::value("top_logprobs", "'top_logprobs' needs 'logprobs' to be true.")),
        _ => Ok(asked.then_some(0)),
    }
}

fn stop_strings(fields: &Fields) -> Result<Vec<String>, ApiError> {
    let wrong = |message: String| ApiError::value("stop", message);
    let texts = match fields.get("stop") {
        None => return Ok(Vec::new()),
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| item.as_str().map(str::to_owned))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| wrong("'stop' must hold strings only.".into()))?,
        Some(other) => {
            return Err(wrong(format!(
                "'stop' must be a string or a list of strings, not {}.",
                brief(other)
            )));
        }
    };
    if texts.len() > STOPS {
        return Err(wrong(format!("'stop' may hold at most {STOPS} strings, not {}.", texts.len())));
    }
    if texts.iter().any(|text| text.is_empty() || text.len() > STOP_LENGTH) {
        return Err(wrong(format!("A stop string must have 1 to {STOP_LENGTH} bytes.")));
    }
    Ok(texts)
}

/// Fields that change the answer in ways this engine cannot; harmless values of them pass.
fn refuse_unsupported(fields: &Fields) -> Result<(), ApiError> {
    let harmless = |name: &str, value: &Value| match name {
        "echo" => value == &Value::Bool(false),
        "suffix" => value.as_str() == Some(""),
        "modalities" => value.as_array().is_some_and(|kinds| kinds.iter().all(|kind| kind == "text")),
        "functions" => value.as_array().is_some_and(Vec::is_empty),
        "function_call" => value == "none" || value == "auto",
        _ => false,
    };
    let instead = |name: &str| match name {
        "functions" | "function_call" => "Use 'tools' and 'tool_choice' instead.",
        _ => "Leave it out.",
    };
    for name in ["echo", "suffix", "modalities", "audio", "functions", "function_call", "prompt_logprobs"] {
        if let Some(value) = fields.get(name).filter(|value| !harmless(name, value)) {
            let message =
                format!("'{name}' with the value {} is not supported. {}", brief(value), instead(name));
            return Err(ApiError::unsupported(name, message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(body: Value) -> Result<Generation, ApiError> {
        let fields = Fields::parse(body.to_string().as_bytes()).expect("an object");
        let defaults = Sampling { temperature: 0.6, top_k: 20, ..Sampling::default() };
        Generation::read(&fields, RequestKind::Chat, &defaults)
    }

    #[test]
    fn what_a_request_leaves_open_comes_from_the_models_authors() {
        let generation = read(json!({})).expect("valid");
        assert_eq!((generation.sampling.temperature, generation.sampling.top_k), (0.6, 20));
        assert_eq!((generation.max_tokens, generation.stream), (None, false));
        let generation = read(json!({"temperature": 0, "top_k": -1, "seed": -5})).expect("valid");
        assert_eq!((generation.sampling.temperature, generation.sampling.top_k), (0.0, 0));
        assert_eq!(generation.sampling.seed, (-5i64) as u64);
    }

    #[test]
    fn the_newer_name_of_the_token_limit_wins() {
        assert_eq!(
            read(json!({"max_tokens": 5, "max_completion_tokens": 7})).expect("valid").max_tokens,
            Some(7)
        );
        assert_eq!(read(json!({"max_tokens": 5})).expect("valid").max_tokens, Some(5));
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        for (name, value) in [
            ("temperature", json!(-0.5)),
            ("temperature", json!("NaN")),
            ("temperature", json!(3)),
            ("top_p", json!(1.5)),
            ("min_p", json!(-1)),
            ("top_k", json!(-2)),
            ("presence_penalty", json!(9)),
            ("repetition_penalty", json!(0)),
            ("max_tokens", json!(0)),
            ("max_completion_tokens", json!(-1)),
            ("seed", json!(1.5)),
            ("stop", json!(vec!["x"; 1000])),
            ("stop", json!([""])),
            ("stop", json!([null])),
            ("stop", json!(7)),
            ("stream", json!("yes")),
            ("n", json!(0)),
            ("n", json!(17)),
            ("logprobs", json!(5)),
            ("top_logprobs", json!(21)),
            ("top_logprobs", json!(3)),
            ("logit_bias", json!([1])),
            ("logit_bias", json!({"word": 1})),
            ("logit_bias", json!({"5": 101})),
            ("logit_bias", json!({"5": 1, "05": 2})),
            ("mtp_depth", json!(6)),
            ("mtp_depth", json!(1.5)),
            ("mtp_depth", json!("deep")),
            ("mtp_depth", json!(true)),
        ] {
            let error = read(json!({name: value})).expect_err("out of range");
            assert_eq!((error.param.as_deref(), error.status.as_u16()), (Some(name), 400), "{error}");
        }
    }

    #[test]
    fn what_is_not_there_yet_is_refused_and_its_harmless_values_pass() {
        for (name, value) in [
            ("best_of", json!(2)),
            ("functions", json!([{"name": "f"}])),
            ("prompt_logprobs", json!(1)),
            ("echo", json!(true)),
        ] {
            let error = read(json!({name: value})).expect_err("unsupported");
            assert_eq!((error.param.as_deref(), error.code.as_str()), (Some(name), "unsupported_parameter"));
        }
        let harmless = json!({"n": 1, "logprobs": false, "logit_bias": {}, "suffix": null, "top_logprobs": 0,
            "response_format": {"type": "text"}, "user": "me", "something_new": [1, 2]});
        assert!(read(harmless).is_ok());
    }

    #[test]
    fn a_request_may_say_how_deep_to_draft() {
        for (value, depth) in [
            (json!(null), None),
            (json!(0), Some(Depth::Fixed(0))),
            (json!("3"), Some(Depth::Fixed(3))),
            (json!("auto"), Some(Depth::Auto)),
        ] {
            assert_eq!(read(json!({ "mtp_depth": value })).expect("valid").mtp_depth, depth, "{value}");
        }
    }

    #[test]
    fn choices_biases_and_likelihoods_are_read() {
        let asked = json!({"n": 3, "best_of": 3, "logit_bias": {"5": -100, "17": 2.5}, "logprobs": true, "top_logprobs": 4});
        let generation = read(asked).expect("valid");
        assert_eq!((generation.n, generation.logprobs), (3, Some(4)));
        assert_eq!(generation.sampling.logit_bias[..], [(5, -100.0), (17, 2.5)]);
        assert_eq!(read(json!({"logprobs": true})).expect("valid").logprobs, Some(0));
        let fields = Fields::parse(br#"{"logprobs": 0}"#).expect("an object");
        let generation = Generation::read(&fields, RequestKind::Completion, &Sampling::default());
        assert_eq!(generation.expect("valid").logprobs, Some(0));
    }
}
