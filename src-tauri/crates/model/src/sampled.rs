//! A pass whose tokens are chosen where the logits are: on the device, with one small copy of ids back instead of a row of
//! the vocabulary per token. For requests whose settings the device knows; the engine decides.

use crate::ModelError;
use crate::error::at;
use crate::forward::recorded;
use crate::model::Model;
use crate::pass;
use hearth_kernels::ops::{Pass, Stretch};
use hearth_kernels::sample::SampleRow;

/// Most tokens that one row may penalise or ban on the device: the memory for them is planned.
pub(crate) const EDITS: usize = 4096;

impl Model {
    /// Whether the device can choose the token of a row with these settings.
    pub fn can_sample(&self, row: &SampleRow<'_>) -> bool {
        row.seen.len() + row.banned.len() <= EDITS
    }

    /// Runs the rows of `pass` as [`Model::forward`] does, and chooses a token after each row in `want`; `rows[i]` says how
    /// for `want[i]`. None where no allowed token's logit is a number. Ids from `tokens` on are padding and never chosen.
    ///
    /// # Errors
    /// As [`Model::forward`]; [`ModelError::Pass`] for more rows than the head computes at once, other than one setting per
    /// row, or one that [`Model::can_sample`] does not allow.
    pub fn forward_sampled(
        &mut self,
        pass: &Pass,
        ids: &[u32],
        want: &[u32],
        tokens: usize,
        rows: &[SampleRow<'_>],
    ) -> Result<Vec<Option<u32>>, ModelError> {
        pass::check(pass, ids, want, &self.spec, &self.options)?;
        let refused = |what, expected: String, found: usize| {
            Err(ModelError::Pass { what, expected, found: found.to_string() })
        };
        let most = self.scratch.picked.shape[0];
        if want.len() > most {
            return refused("wanted rows", format!("at most {most}"), want.len());
        }
        if rows.len() != want.len() {
            return refused("settings", format!("{}, one per wanted row", want.len()), rows.len());
        }
        if let Some(row) = rows.iter().find(|row| !self.can_sample(row)) {
            let found = row.seen.len() + row.banned.len();
            return refused("penalised and banned tokens", format!("at most {EDITS}"), found);
        }
        let ops = self.ops.clone();
        self.last_rows = 0;
        ops.begin(pass, ids, want).map_err(at("pass"))?;
        recorded(ops.as_ref(), Stretch::Trunk, pass, want.len(), &mut || {
            self.launch_forward(pass, ids, want)
        })?;
        self.last_rows = pass.rows();
        ops.sample(&mut self.scratch.logits, tokens.min(self.spec.vocab), rows).map_err(at("sampling"))
    }

    /// Has the device sample as many rows with as long settings as it ever will; on a rehearsal.
    pub(crate) fn rehearse_sampling(&mut self) -> Result<(), ModelError> {
        let vocab = self.spec.vocab;
        let seen: Vec<(u32, u32)> = (0..EDITS.min(vocab) as u32).map(|id| (id, 1)).collect();
        let allowed = vec![u32::MAX; vocab.div_ceil(32)];
        let row = SampleRow {
            seen: &seen,
            repetition_penalty: 1.1,
            allowed: Some(&allowed),
            ..SampleRow::default()
        };
        let rows = vec![row; self.scratch.logits.shape[0]];
        self.ops.sample(&mut self.scratch.logits, vocab, &rows).map(drop).map_err(at("rehearsal"))
    }
}
