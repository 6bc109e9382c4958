//! Follows one answer through its grammar. The engine's step uses it in this order, once per round:
//!
//!   allowed_prefix(drafts)   drafts are cut at the first token that the grammar forbids
//!   prepare(drafts)          the masks behind each of them are begun, on another thread, while the forward pass runs
//!   await_masks()            waits for them, before tokens are chosen
//!   mask(i)                  the mask of the row behind the first i drafts
//!   advance(token)           a token was written
//!
//! Its place moves by `advance` alone, so that masks that were prepared for drafts that fell are merely forgotten.

use std::sync::{Arc, mpsc};

use llguidance::Matcher;

use super::{Begin, Compiled, Constraint, Mask, Vocabulary, brief, caught, mask};
use crate::status::Fault;

/// The place of an answer in its grammar.
pub(crate) struct Guide {
    compiled: Arc<Compiled>,
    place: Place,
    /// Per prepared row: what may come; None: anything.
    masks: Vec<Option<Mask>>,
    /// The last bytes of the text, where its marker may be half written.
    tail: Vec<u8>,
}

enum Place {
    /// Outside the grammar: anything may come.
    Free,
    /// Within it.
    Within(Box<Matcher>),
    /// Within it; its masks are being computed.
    Away(mpsc::Receiver<Round>),
    /// Behind it: only the end may come.
    Over,
}

/// What comes back from the other thread.
struct Round {
    matcher: Box<Matcher>,
    masks: Result<Vec<Option<Mask>>, String>,
}

impl std::fmt::Debug for Guide {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guide").field("begin", &self.compiled.begin).finish()
    }
}

impl Guide {
    /// At the beginning of an answer.
    pub(crate) fn new(constraint: &Constraint) -> Guide {
        let compiled = constraint.0.clone();
        let place = match compiled.begin {
            Begin::AtOnce => enter(&compiled),
            Begin::After(_) | Begin::Whenever(_) => Place::Free,
        };
        Guide { compiled, place, masks: Vec::new(), tail: Vec::new() }
    }

    /// True if the form must still come where nothing is prescribed yet.
    pub(crate) fn is_awaited(&self) -> bool {
        matches!(self.compiled.begin, Begin::After(_))
    }

    /// How many of the drafts may stand: all before the first one that the grammar forbids, or that changes whether there is
    /// a grammar, that one included.
    ///
    /// # Errors
    /// The grammar cannot be followed any further.
    pub(crate) fn allowed_prefix(&mut self, drafts: &[u32]) -> Result<usize, Fault> {
        self.fetch()?;
        match &mut self.place {
            Place::Free => Ok(self.opening(drafts).map_or(drafts.len(), |at| at + 1)),
            Place::Within(matcher) => {
                matcher.validate_tokens(drafts).map_err(|error| fault(&error.to_string()))
            }
            Place::Over | Place::Away(_) => Ok(0),
        }
    }

    /// Begins the masks of the next row and of the rows behind each of `drafts`.
    pub(crate) fn prepare(&mut self, drafts: &[u32]) {
        self.masks.clear();
        match std::mem::replace(&mut self.place, Place::Over) {
            Place::Within(matcher) => {
                let (send, receive) = mpsc::sync_channel(1);
                let (compiled, drafts) = (self.compiled.clone(), drafts.to_vec());
                self.compiled.grammars.workers.give(move || {
                    let round = compute(matcher, &compiled.grammars.vocabulary, &drafts);
                    // Nobody waits if the request has ended meanwhile.
                    let _ = send.send(round);
                });
                self.place = Place::Away(receive);
            }
            Place::Free => {
                self.place = Place::Free;
                self.masks.resize(drafts.len() + 1, None);
                if let Some(at) = self.opening(drafts) {
                    self.masks[at + 1] = Some(self.compiled.first.clone());
                }
            }
            place @ (Place::Away(_) | Place::Over) => self.place = place,
        }
    }

    /// Waits for what [`Guide::prepare`] began.
    ///
    /// # Errors
    /// The grammar cannot be followed any further.
    pub(crate) fn await_masks(&mut self) -> Result<(), Fault> {
        self.fetch()
    }

    /// What the row behind the first `row` drafts of [`Guide::prepare`] may choose; None: anything.
    pub(crate) fn mask(&self, row: usize) -> Option<&Mask> {
        self.masks.get(row).and_then(Option::as_ref)
    }

    /// Takes in a token that was written. True if the form is complete and nothing can follow.
    ///
    /// # Errors
    /// The grammar cannot be followed any further.
    pub(crate) fn advance(&mut self, token: u32) -> Result<bool, Fault> {
        self.fetch()?;
        match &mut self.place {
            Place::Free => {
                if self.opening(&[token]).is_some() {
                    self.tail.clear();
                    self.place = enter(&self.compiled);
                } else {
                    self.tail.extend_from_slice(self.compiled.grammars.vocabulary.bytes(token));
                    let keep = marker(&self.compiled.begin).len().saturating_sub(1);
                    self.tail.drain(..self.tail.len().saturating_sub(keep));
                }
            }
            Place::Within(matcher) => {
                matcher.consume_token(token).map_err(|error| fault(&error.to_string()))?;
                if matcher.is_stopped() {
                    let again = matches!(self.compiled.begin, Begin::Whenever(_));
                    self.place = if again { Place::Free } else { Place::Over };
                }
            }
            Place::Over | Place::Away(_) => {}
        }
        Ok(matches!(self.place, Place::Over))
    }

    /// Gets back what is being computed.
    fn fetch(&mut self) -> Result<(), Fault> {
        let Place::Away(round) = &self.place else { return Ok(()) };
        let lost = || fault("the thread that computes masks is gone");
        let Round { matcher, masks } = round.recv().map_err(|_| lost())?;
        self.place = Place::Within(matcher);
        self.masks = masks.map_err(|reason| fault(&reason))?;
        Ok(())
    }

    /// The first of `tokens` with which the marker is complete.
    fn opening(&self, tokens: &[u32]) -> Option<usize> {
        let marker = marker(&self.compiled.begin).as_bytes();
        let mut text = self.tail.clone();
        tokens.iter().position(|token| {
            text.extend_from_slice(self.compiled.grammars.vocabulary.bytes(*token));
            text.windows(marker.len().max(1)).any(|window| window == marker)
        })
    }
}

fn enter(compiled: &Compiled) -> Place {
    Place::Within(Box::new(compiled.matcher.deep_clone()))
}

fn marker(begin: &Begin) -> &str {
    match begin {
        Begin::AtOnce => "",
        Begin::After(marker) | Begin::Whenever(marker) => marker,
    }
}

/// The masks of the next row and of the rows behind the drafts, as far as the grammar goes; the matcher stays where it is.
fn compute(mut matcher: Box<Matcher>, vocabulary: &Vocabulary, drafts: &[u32]) -> Round {
    let masks = caught(|| {
        let mut masks = vec![Some(mask(&mut matcher, vocabulary)?)];
        let mut taken = 0;
        for draft in drafts {
            if matcher.try_consume_tokens(&[*draft]).map_err(|error| error.to_string())? == 0 {
                break;
            }
            taken += 1;
            if matcher.is_stopped() {
                break;
            }
            masks.push(Some(mask(&mut matcher, vocabulary)?));
        }
        matcher.rollback(taken).map_err(|error| error.to_string())?;
        Ok(masks)
    });
    Round { matcher, masks }
}

fn fault(reason: &str) -> Fault {
    let next_step = "Ask for a simpler schema or grammar.";
    Fault::new("grammar_failed", "The grammar of this answer could not be followed any further.", next_step)
        .with_evidence(brief(reason))
}
