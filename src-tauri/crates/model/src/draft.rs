//! One step of the MTP head: from a hidden state and the token that followed it, the logits of the token after that.
//! The engine's drafter calls it; formulas as in vLLM's `qwen3_5_mtp.py`.

use crate::ModelError;
use crate::error::at;
use crate::family::Place;
use crate::forward::{launch_head, recorded, run_layer};
use crate::model::{Logits, Model};
use crate::pass;
use crate::sampled::Wanted;
use hearth_kernels::Ops;
use hearth_kernels::ops::{Pass, Stretch};
use hearth_kernels::rounds::Follow;

/// Where the hidden states of an MTP step come from; one row number per row of the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seed<'a> {
    /// Rows of the last `forward`.
    Forward(&'a [u32]),
    /// Rows of the last `forward_mtp`: the next step of the same draft.
    Draft(&'a [u32]),
}

impl Model {
    /// Runs the MTP head. Row i joins the embedding of `next_ids[i]` (the token after the row's own) with the hidden
    /// state that `seed` names, at the position of the row's own token:
    ///
    ///   u = layer(fc [norm_e(embed(x_{t+1})) | norm_h(h_t)]) ; h' = norm(u) ; logits = head(h')
    ///
    /// `pass` uses the same pages and slots as the trunk; the head keeps its own keys and values in them, so a prompt
    /// must pass through it too, each row with its next token. Logits of the rows in `want`, predicting x_{t+2}.
    ///
    /// # Errors
    /// [`ModelError::NoMtp`] without a loaded head, otherwise as [`Model::forward`].
    pub fn forward_mtp(
        &mut self,
        pass: &Pass,
        next_ids: &[u32],
        seed: Seed<'_>,
        want: &[u32],
    ) -> Result<Logits, ModelError> {
        self.start_mtp(pass, next_ids, seed, want, &[])?;
        self.all_wanted()
    }

    /// Starts such a step, as [`Model::start`] starts a pass: the tokens of the rows in `want` are then chosen by
    /// [`Model::choose`]. The picks that `follows` counts are the seeds, then the rows in `want`.
    ///
    /// # Errors
    /// As [`Model::forward_mtp`].
    pub fn start_mtp(
        &mut self,
        pass: &Pass,
        next_ids: &[u32],
        seed: Seed<'_>,
        want: &[u32],
        follows: &[Follow],
    ) -> Result<(), ModelError> {
        if self.weights.mtp.is_none() {
            return Err(ModelError::NoMtp);
        }
        pass::check(pass, next_ids, want, &self.spec, &self.options)?;
        let (rows, have) = match seed {
            Seed::Forward(rows) => (rows, self.last_rows),
            Seed::Draft(rows) => (rows, self.last_mtp_rows),
        };
        let t = pass.rows();
        if rows.len() != t {
            let found = rows.len().to_string();
            return Err(ModelError::Pass { what: "seed rows", expected: format!("{t}, one per row"), found });
        }
        if let Some(row) = rows.iter().find(|row| **row as usize >= have) {
            let expected = format!("below {have}, the rows of the last step");
            return Err(ModelError::Pass { what: "seed row", expected, found: row.to_string() });
        }

        let ops = self.ops.clone();
        let ops = ops.as_ref();
        self.last_mtp_rows = 0;
        self.wanted = Wanted::default();
        let picks = [rows, want].concat();
        ops.begin(pass, next_ids, &picks).map_err(at("pass"))?;
        let settled = ops.follow(pass, next_ids, &picks, follows).map_err(at("pass"))?;
        let told = (pass, next_ids, &picks[..]);
        let (pass, next_ids, picks) =
            settled.as_ref().map_or(told, |settled| (&settled.pass, &settled.ids, &settled.picks));
        let (rows, want) = picks.split_at(t);
        let seed = match seed {
            Seed::Forward(_) => Seed::Forward(rows),
            Seed::Draft(_) => Seed::Draft(rows),
        };
        let fits = want.len() <= self.scratch.picked.shape[0];
        if fits {
            let stretch = match seed {
                Seed::Forward(_) => Stretch::DraftFirst,
                Seed::Draft(_) => Stretch::DraftNext,
            };
            recorded(ops, stretch, pass, picks.len(), &mut || self.launch_mtp(pass, next_ids, seed, want))?;
        } else {
            self.run_draft(ops, pass, next_ids, seed)?;
        }
        self.last_mtp_rows = t;
        self.wanted = Wanted::new(want, t, true, fits);
        Ok(())
    }

    /// Starts the head for drafts on the rows `want` of the last step, at most as many as the scratch holds; they are the
    /// picks from `first_pick` on. Tokens that it cannot propose get -inf.
    pub(crate) fn launch_draft_head(
        &mut self,
        ops: &dyn Ops,
        first_pick: usize,
        want: &[u32],
    ) -> Result<(), ModelError> {
        let (w, s) = (&self.weights, &mut self.scratch);
        let hidden = &s.mtp.as_ref().ok_or(ModelError::NoMtp)?.last;
        let own = w.head.as_ref().unwrap_or(&w.embedding);
        let head = w.draft.as_ref().map_or(own, |draft| &draft.head);
        let Some(places) = w.draft.as_ref().and_then(|draft| draft.places.as_ref()) else {
            return launch_head(ops, head, hidden, first_pick, want, &mut s.picked, &mut s.logits);
        };
        launch_head(ops, head, hidden, first_pick, want, &mut s.picked, &mut s.drafted)?;
        ops.spread_logits(want.len(), &s.drafted, places, &mut s.logits).map_err(at("draft head"))
    }

    /// Starts a step of the head up to the logits of the rows in `want`, at most as many as the scratch holds.
    pub(crate) fn launch_mtp(
        &mut self,
        pass: &Pass,
        next_ids: &[u32],
        seed: Seed<'_>,
        want: &[u32],
    ) -> Result<(), ModelError> {
        let ops = self.ops.clone();
        let ops = ops.as_ref();
        self.run_draft(ops, pass, next_ids, seed)?;
        self.launch_draft_head(ops, pass.rows(), want)
    }

    /// From the seeds to the normed output of the head's layer.
    fn run_draft(
        &mut self,
        ops: &dyn Ops,
        pass: &Pass,
        next_ids: &[u32],
        seed: Seed<'_>,
    ) -> Result<(), ModelError> {
        let (Some(mtp), Some(m)) = (self.weights.mtp.as_mut(), self.scratch.mtp.as_mut()) else {
            return Err(ModelError::NoMtp);
        };
        let (rows, from) = match seed {
            Seed::Forward(rows) => (rows, &self.scratch.last),
            Seed::Draft(rows) => (rows, &m.last),
        };
        ops.gather_picks(from, 0, rows, &mut m.seed).map_err(at("MTP seed"))?;
        ops.embed(&self.weights.embedding, next_ids, &mut m.embedding).map_err(at("MTP embedding"))?;
        ops.mtp_join(pass.rows(), &m.embedding, &mtp.norm_embedding, &m.seed, &mtp.norm_hidden, &mut m.join)
            .map_err(at("MTP join"))?;
        ops.linear(pass.rows(), &m.join, &mtp.join, &mut self.scratch.x).map_err(at("MTP join"))?;
        run_layer(ops, pass, Place::Mtp, &mut mtp.layer, &mut self.scratch, &mut None)?;
        let s = &mut self.scratch;
        let m = s.mtp.as_mut().ok_or(ModelError::NoMtp)?;
        ops.rms_norm(pass, &s.x, &mtp.norm_out, &mut m.last).map_err(at("MTP norm"))
    }
}
