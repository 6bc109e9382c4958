//! Passes that are started now and whose tokens are chosen where the logits are: on the device, with one small copy of ids
//! back instead of a row of the vocabulary per token. The engine starts a pass, says how its tokens are to be chosen, and
//! waits when it needs them; logits come to the host only for those who ask.

use crate::ModelError;
use crate::error::at;
use crate::forward::{launch_head, read_logits, recorded};
use crate::model::{Logits, Model};
use crate::pass;
use hearth_kernels::ops::{Pass, Stretch};
use hearth_kernels::rounds::Follow;
use hearth_kernels::sample::{Chosen, SampleRow};

/// Most tokens that one row may penalise, favour or ban on the device: the memory for them is planned.
pub(crate) const EDITS: usize = 4096;

/// The rows of the last pass whose logits are wanted.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// Their numbers.
    rows: Vec<u32>,
    /// The first of them among the picks of the pass.
    first_pick: usize,
    /// Rows of the MTP head's last step, not of the trunk.
    mtp: bool,
    /// Which of the blocks, as many rows each as the scratch holds, has its logits there.
    block: Option<usize>,
}

impl Wanted {
    /// `rows` of a pass, whose logits lie in the scratch if `there`.
    pub fn new(rows: &[u32], first_pick: usize, mtp: bool, there: bool) -> Wanted {
        Wanted { rows: rows.to_vec(), first_pick, mtp, block: there.then_some(0) }
    }
}

/// Tokens that the device is choosing; see [`Model::choose`].
#[derive(Debug)]
pub struct Choosing {
    blocks: Vec<Chosen>,
    /// Rows of every block but the last.
    rows: usize,
}

impl Choosing {
    /// What stands for the token of wanted row `row` among the ids of a later pass; see [`Chosen::id`].
    ///
    /// # Panics
    /// If there is no such row.
    pub fn id(&self, row: usize) -> u32 {
        self.blocks[row / self.rows].id(row % self.rows)
    }

    /// Waits for the tokens; None where no allowed token's logit is a number.
    ///
    /// # Errors
    /// Those of the backend, also of the pass.
    pub fn wait(self) -> Result<Vec<Option<u32>>, ModelError> {
        let mut tokens = Vec::new();
        for block in self.blocks {
            tokens.extend(block.wait().map_err(at("sampling"))?);
        }
        Ok(tokens)
    }
}

impl Model {
    /// Whether the device can choose the token of a row with these settings.
    pub fn can_sample(&self, row: &SampleRow<'_>) -> bool {
        row.edited() <= EDITS
    }

    /// True if passes are only started when [`Model::start`] returns.
    pub fn runs_ahead(&self) -> bool {
        self.ops.runs_ahead()
    }

    /// Starts the rows of `pass`, as [`Model::forward`] does, for [`Model::choose`] and [`Model::wanted_logits`]. `ids` may
    /// hold ids of [`Choosing::id`], and segments may go on from rounds that nobody has read, as `follows` says.
    ///
    /// # Errors
    /// As [`Model::forward`]; what goes wrong on the device may show only when something is waited for.
    pub fn start(
        &mut self,
        pass: &Pass,
        ids: &[u32],
        want: &[u32],
        follows: &[Follow],
    ) -> Result<(), ModelError> {
        pass::check(pass, ids, want, &self.spec, &self.options)?;
        let ops = self.ops.clone();
        let ops = ops.as_ref();
        self.last_rows = 0;
        self.wanted = Wanted::default();
        ops.begin(pass, ids, want).map_err(at("pass"))?;
        let settled = ops.follow(pass, ids, want, follows).map_err(at("pass"))?;
        let (pass, ids) = settled.as_ref().map_or((pass, ids), |settled| (&settled.pass, &settled.ids));
        // What is recorded must end in rows that lie still: long lists of logits are computed when they are asked for.
        let fits = want.len() <= self.scratch.picked.shape[0];
        if fits {
            recorded(ops, Stretch::Trunk, pass, want.len(), &mut || self.launch_forward(pass, ids, want))?;
        } else {
            self.run_trunk(ops, pass, ids, &mut None)?;
        }
        self.last_rows = pass.rows();
        self.wanted = Wanted::new(want, 0, false, fits);
        Ok(())
    }

    /// Starts choosing a token after each row that the last [`Model::start`] or [`Model::start_mtp`] wanted; `rows[i]` says
    /// how. Ids from `tokens` on are padding and never chosen. Changes the logits of rows whose settings change any.
    ///
    /// # Errors
    /// [`ModelError::Pass`] for other than one setting per wanted row, or one that [`Model::can_sample`] does not allow;
    /// otherwise those of the backend.
    pub fn choose(&mut self, tokens: usize, rows: &[SampleRow<'_>]) -> Result<Choosing, ModelError> {
        let refused = |what, expected: String, found: usize| {
            Err(ModelError::Pass { what, expected, found: found.to_string() })
        };
        let wanted = self.wanted.rows.len();
        if rows.len() != wanted {
            return refused("settings", format!("{wanted}, one per wanted row"), rows.len());
        }
        if let Some(row) = rows.iter().find(|row| !self.can_sample(row)) {
            return refused(
                "penalised, favoured and banned tokens",
                format!("at most {EDITS}"),
                row.edited(),
            );
        }
        let most = self.scratch.picked.shape[0];
        let mut blocks = Vec::with_capacity(wanted.div_ceil(most));
        for (i, rows) in rows.chunks(most).enumerate() {
            self.block(i)?;
            let tokens = tokens.min(self.spec.vocab);
            blocks.push(self.ops.sample(&mut self.scratch.logits, tokens, rows).map_err(at("sampling"))?);
        }
        Ok(Choosing { blocks, rows: most })
    }

    /// The logits of wanted row `row` of the last pass, `[vocab]`.
    ///
    /// # Errors
    /// [`ModelError::Pass`] if there is no such row; otherwise those of the backend, also of the pass.
    pub fn wanted_logits(&mut self, row: usize) -> Result<Vec<f32>, ModelError> {
        if row >= self.wanted.rows.len() {
            let expected = format!("below {}", self.wanted.rows.len());
            return Err(ModelError::Pass { what: "wanted row", expected, found: row.to_string() });
        }
        let most = self.scratch.picked.shape[0];
        self.block(row / most)?;
        self.ops.read_rows(&self.scratch.logits, row % most, 1).map_err(at("head"))
    }

    /// Waits for the last pass, for whoever wants none of its logits but has to know when it is done.
    ///
    /// # Errors
    /// Those of the backend, also of the pass.
    pub fn wait(&self) -> Result<(), ModelError> {
        self.ops.read_rows(&self.scratch.last, 0, 1).map(drop).map_err(at("pass"))
    }

    /// Runs the rows of `pass` and waits for the tokens: [`Model::start`] and [`Model::choose`].
    ///
    /// # Errors
    /// As these.
    pub fn forward_sampled(
        &mut self,
        pass: &Pass,
        ids: &[u32],
        want: &[u32],
        tokens: usize,
        rows: &[SampleRow<'_>],
    ) -> Result<Vec<Option<u32>>, ModelError> {
        self.start(pass, ids, want, &[])?;
        self.choose(tokens, rows)?.wait()
    }

    /// All wanted logits of the last pass.
    pub(crate) fn all_wanted(&mut self) -> Result<Logits, ModelError> {
        let (rows, most) = (self.wanted.rows.len(), self.scratch.picked.shape[0]);
        let mut values = Vec::with_capacity(rows * self.spec.vocab);
        for block in 0..rows.div_ceil(most) {
            self.block(block)?;
            let rows = most.min(rows - block * most);
            values
                .extend(read_logits(self.ops.as_ref(), &self.scratch.logits, rows, self.spec.vocab)?.values);
        }
        Ok(Logits { rows, vocab: self.spec.vocab, values })
    }

    /// Makes sure that the logits of a block of wanted rows lie in the scratch.
    fn block(&mut self, block: usize) -> Result<(), ModelError> {
        if self.wanted.block == Some(block) {
            return Ok(());
        }
        let ops = self.ops.clone();
        let most = self.scratch.picked.shape[0];
        let rows = self.wanted.rows.chunks(most).nth(block).unwrap_or_default().to_vec();
        let first_pick = self.wanted.first_pick + block * most;
        if self.wanted.mtp {
            self.launch_draft_head(ops.as_ref(), first_pick, &rows)?;
        } else {
            let (head, s) =
                (self.weights.head.as_ref().unwrap_or(&self.weights.embedding), &mut self.scratch);
            launch_head(ops.as_ref(), head, &s.last, first_pick, &rows, &mut s.picked, &mut s.logits)?;
        }
        self.wanted.block = Some(block);
        Ok(())
    }

    /// Has the device sample as many rows with as long settings as it ever will; on a rehearsal.
    pub(crate) fn rehearse_sampling(&mut self) -> Result<(), ModelError> {
        let vocab = self.spec.vocab;
        let banned = vec![0; EDITS];
        let allowed = vec![u32::MAX; vocab.div_ceil(32)];
        let row = SampleRow { banned: &banned, allowed: Some(&allowed), ..SampleRow::default() };
        let rows = vec![row; self.scratch.logits.shape[0]];
        self.ops.sample(&mut self.scratch.logits, vocab, &rows).map(drop).map_err(at("rehearsal"))
    }
}
