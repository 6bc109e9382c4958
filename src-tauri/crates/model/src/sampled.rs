//! A forward pass whose tokens are chosen on the device, so that one number a row comes back instead of all logits.

use crate::ModelError;
use crate::error::at;
use crate::forward::recorded;
use crate::model::Model;
use crate::pass;
use hearth_kernels::Ops;
use hearth_kernels::ops::{Pass, Stretch};
use hearth_kernels::sample::SampleRow;

impl Model {
    /// Runs the rows of `pass` as [`Model::forward`] does and chooses a token for each row in `want` by the settings in
    /// `rows`, one per wanted row in that order; ids from `tokens` on are padding and never chosen. None for a row of whose
    /// allowed tokens none has a logit that is a number.
    ///
    /// # Errors
    /// As [`Model::forward`]; more wanted rows than are computed at once, another number of settings, settings that no
    /// formula covers.
    pub fn forward_sampled(
        &mut self,
        pass: &Pass,
        ids: &[u32],
        want: &[u32],
        tokens: usize,
        rows: &[SampleRow<'_>],
    ) -> Result<Vec<Option<u32>>, ModelError> {
        pass::check(pass, ids, want, &self.spec, &self.options)?;
        let refuse = |what, expected: String, found: usize| {
            Err(ModelError::Pass { what, expected, found: found.to_string() })
        };
        let most = self.scratch.picked.shape[0];
        if want.len() > most {
            return refuse("wanted rows", format!("at most {most}"), want.len());
        }
        if rows.len() != want.len() {
            return refuse("rows to sample", format!("{}, one per wanted row", want.len()), rows.len());
        }
        let ops = self.ops.clone();
        let ops: &dyn Ops = ops.as_ref();
        self.last_rows = 0;
        ops.begin(pass, ids, want).map_err(at("pass"))?;
        recorded(ops, Stretch::Trunk, pass, want.len(), &mut || self.launch_forward(pass, ids, want))?;
        self.last_rows = pass.rows();
        ops.sample(&mut self.scratch.logits, tokens.min(self.spec.vocab), rows).map_err(at("sampling"))
    }
}
