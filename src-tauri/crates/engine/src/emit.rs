//! From chosen tokens to events: takes in what a pass gave, row by row, as far as the drafts before a row were right. Part
//! of the engine's step.

use hearth_kernels::sample::accepted;

use crate::{
    EngineError,
    runner::{Given, Runner},
    schedule::Batch,
    sequence::Ended,
    status::Fault,
    step::Worker,
};

/// What became of the rows of a part.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Per member: how many of its rows are its sequence's; 0 if it has ended.
    pub valid: Vec<usize>,
    /// Who ended, and how.
    pub ended: Vec<(usize, Ended)>,
    /// Tokens written by decode rows.
    pub written: usize,
    /// Whether drafts were among the rows.
    pub checked: bool,
}

fn no_number() -> Fault {
    EngineError::Step { reason: "no logit is a number".to_owned() }.fault()
}

impl<R: Runner> Worker<R> {
    /// Takes in what a part gave: the tokens of its rows, as far as the drafts before them were right; sends them.
    ///
    /// A draft is right if it is the token that is sampled in its place. The draw depends on seed and position only, so a
    /// request writes the same tokens at every depth, and at a temperature, too, each has the model's own distribution.
    pub(crate) fn emit(
        &mut self,
        part: &Batch,
        mut given: Vec<Given>,
        faults: Vec<(usize, Fault)>,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        for (segment, member) in part.pass.segments.iter().zip(&part.members) {
            let drafts = std::mem::take(&mut self.running[member.index].drafts);
            let drafts = if member.writes { &drafts[..drafts.len().min(segment.rows - 1)] } else { &[] };
            let fault = faults.iter().find(|(index, _)| *index == member.index).map(|(_, fault)| fault);
            let sequence = &self.running[member.index];
            let chosen: Vec<_> = (member.wanted.clone().enumerate())
                .map(|(row, wanted)| match &mut given[wanted] {
                    Given::Token(token) => (*token, None),
                    Given::Logits(logits) => sequence.choose(logits, row, drafts, &self.tokenizer),
                })
                .collect();
            let right = accepted(&chosen.iter().map(|(token, _)| *token).collect::<Vec<_>>(), drafts);
            let mut end = None;
            let mut tokens = 0;
            // The right drafts, and the token that was chosen after them.
            for (token, logprobs) in chosen.into_iter().take(right + 1) {
                let sequence = &mut self.running[member.index];
                tokens += 1;
                end = match (token, fault) {
                    (Some(token), None) => sequence.write(token, logprobs, &self.tokenizer),
                    (_, Some(fault)) => Some(Ended::Failed(fault.clone())),
                    (None, None) => Some(Ended::Failed(no_number())),
                };
                if end.is_some() {
                    break;
                }
            }
            let valid = if member.writes { tokens } else { segment.rows };
            // If another pass has been started, that was done before it.
            let kept = if member.writes && self.flying.is_none() {
                self.keep_page_end(member.index, valid, &segment.snapshots)
            } else {
                Ok(())
            };
            let sequence = &mut self.running[member.index];
            sequence.advance(segment.rows, valid);
            let kept = kept.and_then(|()| self.keep_mark(member.index));
            if let Err(reason) = kept {
                self.running[member.index].spoiled = true;
                end = Some(Ended::Failed(EngineError::Step { reason }.fault()));
            }
            let sequence = &mut self.running[member.index];
            if member.writes {
                outcome.written += tokens;
                outcome.checked |= !drafts.is_empty();
                // What lies behind an end was never put to the test.
                let checked = if end.is_some() { tokens - 1 } else { drafts.len() };
                sequence.learn(checked, tokens - 1);
                let echoed = sequence.echoed;
                self.board.lock().counters.speculation.record(checked, tokens - 1, echoed);
            }
            outcome.valid.push(if end.is_some() { 0 } else { valid });
            outcome.ended.extend(end.map(|end| (member.index, end)));
        }
        outcome
    }
}
