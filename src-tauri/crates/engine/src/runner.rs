//! What the engine needs of a model: calls that start rows and choose their tokens. A trait so that scheduling is tested
//! with a runner that computes nothing; `hearth_model::Model` is the real one (see `load`).
//!
//! A step is `run`, `sample`, `read`. On a device the first two only start work, in order; `read` waits for it.

use hearth_kernels::{
    ops::Pass,
    rounds::{Follow, Settled},
    sample::{CHOSEN, PLACES, SampleRow, choose},
};
use hearth_model::{Choosing, KeptSizes, Seed};

use crate::status::{EngineMemory, Fault};

/// Sizes that a runner was loaded with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most tokens of one request, prompt and answer together.
    pub context: usize,
    /// Requests computed at once.
    pub slots: usize,
    /// Recurrent states `0 .. states`: at least one per request, the others for drafts and for kept prefixes.
    pub states: usize,
    /// Most rows of a pass.
    pub max_rows: usize,
    /// Most rows of a pass that writes, where a longer one is computed in another arithmetic; None where all are alike.
    pub decode_rows: Option<usize>,
    /// Positions of a KV page.
    pub page_len: usize,
    /// KV pages `0 .. pages`.
    pub pages: usize,
    /// Whether there is an MTP head, so that `draft` may be called.
    pub mtp: bool,
    /// Prefill uses decode's arithmetic.
    pub exact: bool,
    /// Whether `run` and `sample` return before the work is done, so that it pays to start more meanwhile.
    pub ahead: bool,
}

/// What comes of a wanted row.
#[derive(Debug, Clone, PartialEq)]
pub enum Given {
    /// The chosen token; None if no allowed token's logit is a number.
    Token(Option<u32>),
    /// Its logits, `[vocab]`.
    Logits(Vec<f32>),
}

/// Tokens that are being chosen: between `sample` and `read`.
#[derive(Debug)]
pub enum Sampled {
    /// They are here already, in places of [`OnHost`] from the first number on.
    Here(u32, Vec<Given>),
    /// The device chooses all of them, those not counted for whom logits are wanted (true).
    There(Choosing, Vec<bool>),
    /// Nobody's token is chosen; of so many rows the logits are wanted.
    Logits(usize),
}

impl Sampled {
    /// What stands for the token of a wanted row among the ids of a later pass, until [`PLACES`] more were chosen. None if
    /// its logits are wanted instead.
    pub fn id(&self, row: usize) -> Option<u32> {
        match self {
            Sampled::Here(first, given) => {
                matches!(given.get(row), Some(Given::Token(_))).then_some(CHOSEN | (first + row as u32))
            }
            Sampled::There(choosing, logits) => (logits.get(row) == Some(&false)).then(|| choosing.id(row)),
            Sampled::Logits(_) => None,
        }
    }
}

/// A model that computes rows. Owned by the engine thread. Errors are sentences.
pub trait Runner {
    /// Sizes.
    fn limits(&self) -> Limits;

    /// Starts the rows of `pass` (`ids` `[rows]`, which may be ids of [`Sampled::id`]); `want` names the rows after which
    /// tokens will be chosen. `follows`: segments that go on from rounds that nobody has read; none unless `limits().ahead`.
    fn run(&mut self, pass: &Pass, ids: &[u32], want: &[u32], follows: &[Follow]) -> Result<(), String>;

    /// Starts a step of the MTP head: row i joins the token after its own, `next_ids[i]`, with the hidden state that `seed`
    /// names; after the rows in `want`, tokens after that will be chosen. Only called if `limits().mtp`. The picks that
    /// `follows` counts are the seeds, then the rows in `want`.
    fn draft(
        &mut self,
        pass: &Pass,
        next_ids: &[u32],
        seed: Seed<'_>,
        want: &[u32],
        follows: &[Follow],
    ) -> Result<(), String>;

    /// Starts choosing the tokens of what was started last, among the first `tokens` ids: `rows[i]` says how for each
    /// wanted row; None: its logits are wanted instead.
    fn sample(&mut self, tokens: usize, rows: &[Option<SampleRow<'_>>]) -> Result<Sampled, String>;

    /// Waits for what `sample` started. Logits that are wanted must be read before another pass is started.
    fn read(&mut self, sampled: Sampled) -> Result<Vec<Given>, String>;

    /// Whether `sample` may be given these settings.
    fn can_sample(&self, _row: &SampleRow<'_>) -> bool {
        true
    }

    /// Copies recurrent state `from` to `to`.
    fn copy_state(&mut self, from: usize, to: usize) -> Result<(), String>;

    /// Sizes of what the four calls below move: all zero where nothing can be moved.
    fn kept_sizes(&self) -> KeptSizes {
        KeptSizes::default()
    }

    /// The bytes of a KV page in all layers.
    fn read_page(&mut self, page: u32) -> Result<Vec<u8>, String> {
        Err(format!("page {page} cannot be read"))
    }

    /// Puts a page back.
    fn write_page(&mut self, page: u32, _bytes: &[u8]) -> Result<(), String> {
        Err(format!("page {page} cannot be written"))
    }

    /// The bytes of part `part` of a recurrent state.
    fn read_state(&mut self, slot: usize, part: usize) -> Result<Vec<u8>, String> {
        Err(format!("part {part} of state {slot} cannot be read"))
    }

    /// Puts a part back.
    fn write_state(&mut self, slot: usize, part: usize, _bytes: &[u8]) -> Result<(), String> {
        Err(format!("part {part} of state {slot} cannot be written"))
    }

    /// Bytes a pass of so many rows reads, with so many positions of context in all its rows together.
    fn bytes_per_step(&self, rows: usize, context: usize) -> u64;

    /// What was allocated; `kv_used` is the engine's business and zero here.
    fn memory(&self) -> EngineMemory;

    /// Why nothing can be computed any more, once that is so: the device has failed.
    fn device_fault(&self) -> Option<Fault> {
        None
    }
}

/// Chooses tokens for a runner that has its logits on the host at once.
#[derive(Debug, Clone)]
pub struct OnHost {
    logits: Vec<Vec<f32>>,
    /// The tokens chosen last.
    chosen: Vec<Option<u32>>,
    next: usize,
    /// How many drafts were rejected, per `Follow` of the last pass.
    rejected: Vec<usize>,
}

impl Default for OnHost {
    fn default() -> OnHost {
        OnHost { logits: Vec::new(), chosen: vec![None; PLACES], next: 0, rejected: Vec::new() }
    }
}

impl OnHost {
    /// Takes the logits of the wanted rows, for [`OnHost::sample`].
    pub fn keep(&mut self, logits: Vec<Vec<f32>>) {
        self.logits = logits;
    }

    /// The tokens that ids are or stand for.
    pub fn known(&self, ids: &[u32]) -> Vec<u32> {
        let token = |id: &u32| match id.checked_sub(CHOSEN) {
            Some(place) => self.chosen.get(place as usize).copied().flatten().unwrap_or(0),
            None => *id,
        };
        ids.iter().map(token).collect()
    }

    /// A pass with its ids and picks, when what it goes on from is known: here it always is.
    pub fn settled(
        &mut self,
        pass: &Pass,
        ids: &[u32],
        picks: &[u32],
        follows: &[Follow],
    ) -> (Pass, Vec<u32>, Vec<u32>) {
        let token = |id: u32| match id.checked_sub(CHOSEN) {
            Some(place) => self.chosen.get(place as usize).copied().flatten(),
            None => Some(id),
        };
        let Settled { pass, ids, picks, rejected } = Settled::of(pass, ids, picks, follows, token);
        self.rejected = rejected;
        (pass, self.known(&ids), picks)
    }

    /// As [`Runner::sample`].
    pub fn sample(&mut self, tokens: usize, rows: &[Option<SampleRow<'_>>]) -> Sampled {
        let first = if self.next + rows.len() > PLACES { 0 } else { self.next };
        self.next = first + rows.len();
        let logits = std::mem::take(&mut self.logits).into_iter();
        let mut given = Vec::with_capacity(rows.len());
        for (place, (mut logits, row)) in (first..).zip(logits.zip(rows)) {
            given.push(match row {
                Some(row) => {
                    let row = &row.settled(&self.rejected);
                    let tokens = tokens.min(logits.len());
                    self.chosen[place] = choose(&mut logits[..tokens], row);
                    Given::Token(self.chosen[place])
                }
                None => Given::Logits(logits),
            });
        }
        Sampled::Here(first as u32, given)
    }

    /// As [`Runner::read`].
    pub fn read(sampled: Sampled) -> Vec<Given> {
        match sampled {
            Sampled::Here(_, given) => given,
            Sampled::There(..) | Sampled::Logits(_) => Vec::new(),
        }
    }
}
