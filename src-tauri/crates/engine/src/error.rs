//! What the engine refuses and what can fail in it. The API turns these into HTTP answers, the shell into exit codes.

use serde::Serialize;

use crate::status::Fault;

/// A refused request, a failed load, or a failed step.
#[derive(Debug, Clone, PartialEq, thiserror::Error, Serialize)]
#[serde(untagged)]
pub enum EngineError {
    /// The tokenizer cannot be read or cannot encode.
    #[error("The tokenizer cannot be used: {reason}.")]
    Tokenizer {
        /// From the reader.
        reason: String,
    },
    /// Weights are still being read.
    #[error("The model is still loading ({stage}).")]
    Loading {
        /// Name of the stage.
        stage: String,
    },
    /// The engine finishes what runs and then stops.
    #[error("The engine is stopping and takes no new requests.")]
    Draining,
    /// The engine does not run: its load failed or its thread ended.
    #[error("{}", fault.message)]
    Stopped {
        /// Why.
        fault: Fault,
    },
    /// Too many requests wait.
    #[error("{queued} requests are waiting already, which is the limit.")]
    Full {
        /// Requests that wait.
        queued: usize,
        /// After how many seconds a place is likely.
        retry_after_s: u32,
    },
    /// The prompts that are to be read before it take too long.
    #[error(
        "Reading the prompts of earlier requests takes about {seconds:.0} more seconds; at most {limit:.0} are allowed."
    )]
    Busy {
        /// How long, seconds.
        seconds: f64,
        /// How long it may take, seconds.
        limit: f64,
        /// After how many seconds it is likely to be short enough.
        retry_after_s: u32,
    },
    /// Prompt and answer do not fit into the context.
    #[error(
        "This model's maximum context length is {context} tokens, but the request needs {}{} tokens ({prompt} in the \
         prompt, {answer} for the answer).",
        if *.lower_bound { "at least " } else { "" },
        prompt + answer
    )]
    ContextOverflow {
        /// Most tokens, prompt and answer together.
        context: usize,
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens asked for the answer (at least 1).
        answer: usize,
        /// True: `prompt` is what the text has at least; it was not encoded.
        lower_bound: bool,
    },
    /// A prompt of no tokens.
    #[error("The prompt has no tokens.")]
    EmptyPrompt,
    /// A prompt of token ids names one the vocabulary does not have.
    #[error("Token id {id} is not in the vocabulary of {tokens} tokens.")]
    UnknownToken {
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        tokens: usize,
    },
    /// The model's arithmetic failed.
    #[error("The model failed in a step: {reason}.")]
    Step {
        /// From the model.
        reason: String,
    },
    /// The checkpoint or the model refused to load.
    #[error("{}", fault.message)]
    Load {
        /// Code, sentence, next step.
        fault: Fault,
    },
}

impl EngineError {
    /// Stable code, as clients see it.
    pub fn code(&self) -> &str {
        match self {
            EngineError::Tokenizer { .. } => "tokenizer_unusable",
            EngineError::Loading { .. } => "model_loading",
            EngineError::Draining => "server_draining",
            EngineError::Stopped { .. } => "engine_stopped",
            EngineError::Full { .. } | EngineError::Busy { .. } => "rate_limit_exceeded",
            EngineError::ContextOverflow { .. } => "context_length_exceeded",
            EngineError::EmptyPrompt => "empty_prompt",
            EngineError::UnknownToken { .. } => "unknown_token",
            EngineError::Step { .. } => "step_failed",
            EngineError::Load { fault } => &fault.code,
        }
    }

    /// The same as data, with a next step.
    pub fn fault(&self) -> Fault {
        let next_step = match self {
            EngineError::Load { fault } | EngineError::Stopped { fault } => return fault.clone(),
            EngineError::Tokenizer { .. } => "Download the model again, or choose one with a tokenizer.json.",
            EngineError::Loading { .. } => "Wait until it is ready and send the request again.",
            EngineError::Draining => "Send the request again when the engine has been started anew.",
            EngineError::Full { .. } | EngineError::Busy { .. } => {
                "Wait for the time in Retry-After and send the request again."
            }
            EngineError::ContextOverflow { .. } => "Shorten the prompt or ask for fewer tokens.",
            EngineError::EmptyPrompt => "Send a prompt with some text.",
            EngineError::UnknownToken { .. } => "Send ids that this model's tokenizer made.",
            EngineError::Step { .. } => "Send the request again; if it fails again, restart the engine.",
        };
        Fault::new(self.code(), self.to_string(), next_step).with_fields(self)
    }
}
