//! The answers of one request under way: one or several choices, computed beside each other. Dropping them cancels
//! what is not finished.

use std::{future::poll_fn, task::Poll};

use hearth_engine::{Engine, Event, Finish, Logprobs, Request, Usage, derived_seed};
use tokio::sync::mpsc::Receiver;

use crate::ApiError;

/// The choices of one request.
#[derive(Debug)]
pub struct Answers {
    /// Per choice: where its events come from; None when it is finished.
    open: Vec<Option<Receiver<Event>>>,
    /// Choices per prompt.
    n: usize,
    usage: Usage,
}

/// What was said by a choice.
#[derive(Debug)]
pub enum Said {
    /// A token.
    Token {
        /// Its id.
        id: u32,
        /// Text that became certain with it.
        text: String,
        /// How likely it was, if asked for.
        logprobs: Option<Box<Logprobs>>,
    },
    /// The end.
    Done {
        /// Text that was held back until now.
        text: String,
        /// Why.
        finish: Finish,
    },
}

impl Answers {
    /// Puts `n` choices of every request in the queue, all or none. The first choice of a request is what it would be
    /// alone; the others have seeds of their own, and the same prompt, which the engine need not read again.
    ///
    /// # Errors
    /// The engine does not take one of them.
    pub fn submit(engine: &Engine, requests: &[Request], n: usize) -> Result<Answers, ApiError> {
        let mut open = Vec::new();
        for request in requests {
            for choice in 0..n {
                let mut request = request.clone();
                request.sampling.seed = derived_seed(request.sampling.seed, choice);
                if !open.is_empty() {
                    request.id = format!("{}-{}", request.id, open.len());
                }
                open.push(Some(engine.submit(request)?));
            }
        }
        Ok(Answers { open, n, usage: Usage { prompt: 0, cached: 0, output: 0 } })
    }

    /// How many choices there are, all prompts together.
    pub fn choices(&self) -> usize {
        self.open.len()
    }

    /// What is said next, and by which choice; None when all are finished.
    ///
    /// # Errors
    /// A choice cannot be completed; the request as a whole has failed.
    pub async fn next(&mut self) -> Option<Result<(usize, Said), ApiError>> {
        let (choice, event) = poll_fn(|cx| {
            let mut waiting = false;
            for (choice, events) in self.open.iter_mut().enumerate() {
                let Some(receiver) = events else { continue };
                match receiver.poll_recv(cx) {
                    Poll::Ready(event) => return Poll::Ready(Some((choice, event))),
                    Poll::Pending => waiting = true,
                }
            }
            if waiting { Poll::Pending } else { Poll::Ready(None) }
        })
        .await?;
        Some(match event {
            Some(Event::Token { id, text, logprobs }) => Ok((choice, Said::Token { id, text, logprobs })),
            Some(Event::Done { text, finish, usage }) => {
                self.open[choice] = None;
                // A prompt is paid for once, however often it is answered.
                if choice.is_multiple_of(self.n) {
                    self.usage.prompt += usage.prompt;
                    self.usage.cached += usage.cached;
                }
                self.usage.output += usage.output;
                Ok((choice, Said::Done { text, finish }))
            }
            Some(Event::Failed { fault, .. }) => Err(ApiError::failed(&fault)),
            None => Err(ApiError::engine_gone()),
        })
    }

    /// What the finished choices cost together.
    pub fn usage(&self) -> &Usage {
        &self.usage
    }
}
