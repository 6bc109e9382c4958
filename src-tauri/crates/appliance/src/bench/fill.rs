//! Prompts of an exact length: text is added until the engine's own count of the whole prompt, template included, is the one that
//! was asked for. Called by the runner.

use serde_json::{Value, json};

use super::{
    link::{BenchError, Endpoint},
    prose,
};

/// Sentences from which the tokens of one are estimated.
const SAMPLE: usize = 8;
/// Attempts to hit the count; each is one call that counts and computes nothing.
const TRIES: usize = 16;
/// A word that every tokenizer has as one token, also many times in a row.
const PAD: &str = " a";

/// A prompt that has its length.
#[derive(Debug, Clone)]
pub(crate) struct Filled {
    /// As the API has them.
    pub messages: Value,
    /// Sentences of the text.
    pub sentences: usize,
}

/// What is around the text: where a fact stands, what is asked.
pub(crate) trait Frame {
    /// The messages around these sentences and this padding.
    fn messages(&self, sentences: &[String], pad: &str) -> Value;
}

/// Fills until the prompt has exactly `tokens`, or as many below as the tokenizer allows.
///
/// # Errors
/// The endpoint does not count, or the frame alone has more tokens.
pub(crate) async fn exactly(
    endpoint: &Endpoint,
    frame: &impl Frame,
    seed: u64,
    tokens: u32,
) -> Result<Filled, BenchError> {
    let target = tokens as usize;
    let empty = endpoint.count(&frame.messages(&[], "")).await?;
    if empty > target {
        return Err(BenchError::NoRoom { needed: empty, tokens: target });
    }
    let mut text = prose::sentences(seed, SAMPLE);
    // Tokens of a sentence and of a word of padding, better known with every count.
    let sample = counted(endpoint, frame, &text, 0).await?;
    let mut sentence = sample.map_or(f64::INFINITY, |count| (count - empty).max(1) as f64 / SAMPLE as f64);
    let mut word = 1.0;
    let (mut sentences, mut words, mut have) = (0, 0, empty);
    for _ in 0..TRIES {
        let left = (target - have) as f64;
        let (more, pads) = match (left / sentence * 0.98).floor() {
            more if more >= 1.0 => (more as usize, 0),
            _ => (0, (left / word).floor() as usize),
        };
        if more + pads == 0 {
            break;
        }
        if text.len() < sentences + more {
            text = prose::sentences(seed, sentences + more + SAMPLE);
        }
        let count = counted(endpoint, frame, &text[..sentences + more], words + pads).await?;
        let per = |count: usize| count.saturating_sub(have) as f64 / (more + pads) as f64;
        match (count, more) {
            // Over the engine's context it does not say by how much.
            (None, 0) => word = (word * 1.5).max(left / (pads as f64 - 0.5).max(0.5)),
            (None, _) => sentence *= 1.2,
            (Some(count), 0) => word = per(count).max(0.1),
            (Some(count), _) => sentence = per(count).max(1.0),
        }
        if let Some(count) = count.filter(|count| *count <= target) {
            (sentences, words, have) = (sentences + more, words + pads, count);
        }
    }
    let messages = frame.messages(&text[..sentences], &PAD.repeat(words));
    Ok(Filled { messages, sentences })
}

/// The engine's count; null if it is more than its context holds.
async fn counted(
    endpoint: &Endpoint,
    frame: &impl Frame,
    sentences: &[String],
    words: usize,
) -> Result<Option<usize>, BenchError> {
    match endpoint.count(&frame.messages(sentences, &PAD.repeat(words))).await {
        Ok(count) => Ok(Some(count)),
        Err(BenchError::Refused { code, .. }) if code == "context_length_exceeded" => Ok(None),
        Err(error) => Err(error),
    }
}

/// A text, and a wish for free writing behind it.
pub(crate) struct Essay {
    /// What is to be written about.
    pub subject: &'static str,
}

/// What free texts are about; repeats take turns.
pub(crate) const SUBJECTS: [&str; 4] = [
    "how a lighthouse is kept through a winter",
    "why bridges are built where they are",
    "what a town does in the first hour after a flood",
    "how to teach a beginner to sail",
];

impl Frame for Essay {
    fn messages(&self, sentences: &[String], pad: &str) -> Value {
        let text = sentences.concat();
        let content = format!(
            "{text}{pad}\n\nLeave that text aside. Write a long and detailed essay about {}. Begin at once.",
            self.subject
        );
        json!([{ "role": "user", "content": content }])
    }
}

/// The two halves of a cell of Spark Arena: a context as the system's message, and a prompt that may be empty.
pub(crate) struct Context<'a> {
    /// The text that was fixed before; null while the context itself is filled.
    pub system: Option<&'a str>,
    /// Whether there is a context at all.
    pub has_context: bool,
}

impl Frame for Context<'_> {
    fn messages(&self, sentences: &[String], pad: &str) -> Value {
        let text = sentences.concat() + pad;
        match (self.has_context, self.system) {
            (false, _) => json!([{ "role": "user", "content": text }]),
            (true, None) => {
                json!([{ "role": "system", "content": text }, { "role": "user", "content": "." }])
            }
            (true, Some(system)) => {
                json!([{ "role": "system", "content": system }, { "role": "user", "content": text }])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::fake::FakeEngine, *};

    #[tokio::test]
    async fn a_prompt_has_exactly_as_many_tokens_as_were_asked_for() {
        let engine = FakeEngine::start().await;
        let endpoint = engine.endpoint();
        for tokens in [64, 100, 777, 2048, 8192, 8100] {
            let filled = exactly(&endpoint, &Essay { subject: SUBJECTS[0] }, 5, tokens).await.unwrap();
            assert_eq!(endpoint.count(&filled.messages).await.unwrap(), tokens as usize);
        }
        let calls = engine.counted();
        assert!(calls < 6 * 14, "{calls} counts");
    }

    #[tokio::test]
    async fn a_prompt_that_has_no_room_for_its_question_is_refused() {
        let engine = FakeEngine::start().await;
        let error = exactly(&engine.endpoint(), &Essay { subject: SUBJECTS[0] }, 5, 4).await.unwrap_err();
        assert!(matches!(error, BenchError::NoRoom { .. }), "{error}");
    }
}
