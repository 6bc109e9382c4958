//! The ledger of a decode step: bytes and launches of every op, and what they should cost on a machine. `hearth bench
//! --ledger` prints it, so that whoever owns the machine can hold the prediction against the truth.

use crate::budget::Budget;
use crate::family::{self, Names, Place};
use crate::formats::Formats;
use crate::parts::{self, Matrix};
use crate::spec::{Ffn, Layer, Mixer, ModelSpec};
use crate::{DraftHead, KvTypes, LoadOptions, ModelError};
use hearth_checkpoint::LinearFormat;
use serde::Serialize;

/// A machine that a ledger is priced for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Machine {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is.
    pub what: &'static str,
    /// Bandwidth of its memory by the data sheet, bytes per second.
    pub nominal: f64,
    /// The part of it that kernels have been seen to reach.
    pub fraction: f64,
    /// Time between two kernels of a recorded graph in which the memory rests, seconds.
    pub launch: f64,
    /// Where the fraction and the launch time come from.
    pub source: &'static str,
}

/// Machines with a ledger.
pub const MACHINES: [Machine; 2] = [
    Machine {
        name: "gb10",
        what: "NVIDIA DGX Spark (GB10)",
        nominal: 273e9,
        fraction: 0.88,
        launch: 2.0e-6,
        source: "fraction: the best that was published for this part (241 of 273 GB/s); launch: assumed, not measured",
    },
    Machine {
        name: "h200",
        what: "NVIDIA H200",
        nominal: 4800e9,
        fraction: 0.90,
        launch: 1.5e-6,
        source: "fraction: 4.3 of 4.8 TB/s, a plain copy; launch: assumed, not measured",
    },
];

impl Machine {
    /// The machine of this name.
    ///
    /// # Errors
    /// [`ModelError::Option`] with the names there are.
    pub fn named(name: &str) -> Result<Machine, ModelError> {
        MACHINES.into_iter().find(|machine| machine.name == name).ok_or_else(|| ModelError::Option {
            option: "ledger",
            expected: MACHINES.map(|machine| machine.name).join(" or "),
            found: name.chars().take(40).collect(),
        })
    }

    /// Seconds that `entry` should take.
    pub fn seconds(&self, entry: &Entry) -> f64 {
        entry.bytes as f64 / (self.nominal * self.fraction) + f64::from(entry.launches) * self.launch
    }
}

/// One op of a step, in all its layers together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Name of the op in `trait Ops`.
    pub op: &'static str,
    /// Which part of the model it works for.
    pub part: &'static str,
    /// Kernels it starts.
    pub launches: u32,
    /// Bytes it reads and writes in memory: weights, KV and state. Activations stay in the cache.
    pub bytes: u64,
}

/// A draft-and-verify round of one sequence; without drafts, a decode step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Round {
    /// Tokens drafted.
    pub drafts: usize,
    /// The pass over the last token and the drafts.
    pub verify: Vec<Entry>,
    /// One step of the MTP head; `drafts` of them run. Empty without drafts.
    pub draft: Vec<Entry>,
}

impl Round {
    /// Seconds of the whole round.
    pub fn seconds(&self, machine: &Machine) -> f64 {
        let sum = |entries: &[Entry]| entries.iter().map(|entry| machine.seconds(entry)).sum::<f64>();
        sum(&self.verify) + self.drafts as f64 * sum(&self.draft)
    }

    /// Tokens that a round yields if each draft is accepted with probability `acceptance` once its predecessors were:
    /// 1 + a + a^2 + ... + a^drafts.
    pub fn tokens(&self, acceptance: f64) -> f64 {
        (0..=self.drafts as i32).map(|i| acceptance.powi(i)).sum()
    }
}

/// The round of `drafts` drafts, proposed with `draft_head`, at `context` tokens; one sequence, keys and values kept as `kv`
/// says.
///
/// # Errors
/// [`ModelError::NoMtp`] for drafts without an MTP head; those of `formats` and of [`Budget::of`].
pub fn round(
    spec: &ModelSpec,
    formats: &dyn Formats,
    kv: &KvTypes,
    draft_head: &DraftHead,
    context: usize,
    drafts: usize,
) -> Result<Round, ModelError> {
    let (kv_types, draft_head) = (kv.clone(), draft_head.clone());
    let options = LoadOptions {
        context: spec.context,
        kv: kv_types,
        mtp: drafts > 0,
        draft_head,
        ..LoadOptions::default()
    };
    let budget = Budget::of(spec, formats, &options)?;
    let names = family::names(spec);
    let rows = drafts + 1;
    let mut verify = Entries::default();
    let head = if spec.tied_head { names.embedding() } else { names.head() };
    let own = formats.format(&head, spec.vocab, spec.hidden)?;
    let head = own.bytes(spec.vocab as u64, spec.hidden as u64);
    let embedding = formats.format(&names.embedding(), spec.vocab, spec.hidden)?;
    let embedded = |rows: usize| embedding.bytes(rows as u64, spec.hidden as u64);
    verify.add("embed", "embedding", 1, embedded(rows));
    for (i, layer) in spec.layers.iter().enumerate() {
        let read = kv.of(spec, Place::Layer(i)).bytes(layer).saturating_mul(context as u64);
        verify.layer(spec, layer, &names, Place::Layer(i), formats, rows, read)?;
    }
    verify.add("rms_norm", "final norm", 1, 4 * spec.hidden as u64);
    verify.add("linear", "head", 2, head);
    // Without penalties, which take one more.
    verify.add("sample", "sampling", 2, 0);

    let mut draft = Entries::default();
    if drafts > 0 {
        let mtp = spec.mtp.as_ref().ok_or(ModelError::NoMtp)?;
        let [hidden, width] = [spec.hidden, 2 * spec.hidden];
        let join = formats.format(names.mtp_join(), hidden, width)?.bytes(hidden as u64, width as u64);
        draft.add("embed", "embedding", 2, embedded(1));
        draft.add("linear", "MTP join", 2, join);
        let kv = budget.mtp_kv_per_token.saturating_mul(context as u64);
        draft.layer(spec, &mtp.layer, &names, Place::Mtp, formats, 1, kv)?;
        draft.add("rms_norm", "final norm", 1, 4 * hidden as u64);
        let (drafting, table) = match options.draft_head.is_the_models_own() {
            true => (head, 0),
            false => options.draft_head.bytes(spec, own),
        };
        draft.add("linear", "head", 2, drafting);
        if table > 0 {
            draft.add("spread_logits", "head", 1, table);
        }
        draft.add("sample", "sampling", 2, 0);
    }
    Ok(Round { drafts, verify: verify.0, draft: draft.0 })
}

/// Entries by op and part, in order of first use.
#[derive(Default)]
struct Entries(Vec<Entry>);

impl Entries {
    fn add(&mut self, op: &'static str, part: &'static str, launches: u32, bytes: u64) {
        match self.0.iter_mut().find(|entry| (entry.op, entry.part) == (op, part)) {
            Some(entry) => {
                entry.launches += launches;
                entry.bytes = entry.bytes.saturating_add(bytes);
            }
            None => self.0.push(Entry { op, part, launches, bytes }),
        }
    }

    /// A layer on `rows` rows of one sequence whose keys and values take `kv` bytes.
    #[allow(clippy::too_many_arguments)]
    fn layer(
        &mut self,
        spec: &ModelSpec,
        layer: &Layer,
        names: &Names,
        place: Place,
        formats: &dyn Formats,
        rows: usize,
        kv: u64,
    ) -> Result<(), ModelError> {
        match &layer.mixer {
            Mixer::FullAttention(_) => {
                self.add("attend_in", "attention", 1, 0);
                self.add("attend_append", "attention", 1, 0);
                self.add("attend_paged", "attention", 1, kv);
                self.add("linear_add", "attention", 1, 0);
            }
            Mixer::GatedDeltaNet(g) => {
                // One launch, that the convolution of width 4 ends. Projections of f32 have one of their own, and what they
                // compute is convolved by another.
                let is_f32 = |matrix| -> Result<bool, ModelError> {
                    let m = parts::matrices(layer, spec.hidden).into_iter().find(|m| m.matrix == matrix);
                    let (rows, cols) = m.map_or((0, 0), |m| (m.rows, m.cols));
                    Ok(formats.format(&names.matrix(place, matrix, 0), rows, cols)? == LinearFormat::F32)
                };
                let qkv = is_f32(Matrix::GdnQkv)?;
                let all = [qkv, is_f32(Matrix::GdnZ)?, is_f32(Matrix::GdnA)?, is_f32(Matrix::GdnB)?];
                let [separate, f32, rest] =
                    [qkv || g.conv_width != 4, all.contains(&true), all.contains(&false)];
                let launches = u32::from(separate) + u32::from(f32) + u32::from(rest);
                self.add("gdn_in", "delta net", launches, 0);
                // The state is read once and written once per row: every row is a snapshot to go back to.
                let state =
                    4 * (g.v_heads * g.k_dim * g.v_dim + (g.conv_width - 1) * g.shape().channels()) as u64;
                self.add("gdn_step", "delta net", 1, state * (1 + rows as u64));
                self.add("linear_add", "delta net", 1, 0);
            }
        }
        match &layer.ffn {
            Ffn::Dense { .. } => {
                self.add("ffn_in", "dense", 1, 0);
                self.add("linear_add", "dense", 1, 0);
            }
            Ffn::Moe(_) => {
                self.add("moe_in", "experts", 1, 0);
                self.add("moe_gate_up", "experts", 1, 0);
                self.add("moe_down", "experts", 1, 0);
            }
        }
        for m in parts::matrices(layer, spec.hidden) {
            let format = formats.format(&names.matrix(place, m.matrix, 0), m.rows, m.cols)?;
            let one = format.bytes(m.rows as u64, m.cols as u64);
            let (op, part) = op_of(m.matrix);
            self.add(op, part, 0, (one as f64 * touched(m.copies, m.used, rows)) as u64);
        }
        Ok(())
    }
}

/// How many of `copies` matrices `rows` rows touch when each uses `used` of them, chosen independently and uniformly:
/// E (1 - (1 - k/E)^rows).
fn touched(copies: usize, used: usize, rows: usize) -> f64 {
    let (e, k) = (copies as f64, used as f64);
    e * (1.0 - (1.0 - k / e).powi(rows as i32))
}

/// The op that reads a matrix, and its part.
fn op_of(matrix: Matrix) -> (&'static str, &'static str) {
    match matrix {
        Matrix::GdnQkv | Matrix::GdnZ | Matrix::GdnA | Matrix::GdnB => ("gdn_in", "delta net"),
        Matrix::GdnOut => ("linear_add", "delta net"),
        Matrix::Q | Matrix::K | Matrix::V => ("attend_in", "attention"),
        Matrix::O => ("linear_add", "attention"),
        Matrix::DenseGate | Matrix::DenseUp => ("ffn_in", "dense"),
        Matrix::DenseDown => ("linear_add", "dense"),
        Matrix::Router | Matrix::SharedSwitch => ("moe_in", "experts"),
        Matrix::SharedGate | Matrix::SharedUp | Matrix::ExpertGate | Matrix::ExpertUp => {
            ("moe_gate_up", "experts")
        }
        Matrix::SharedDown | Matrix::ExpertDown => ("moe_down", "experts"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DraftFormat;
    use crate::synthetic::Synthetic;

    fn of(shape: &str, context: usize, drafts: usize) -> Round {
        let source = Synthetic::named(shape).expect("a known shape");
        round(source.spec(), &source, &KvTypes::default(), &DraftHead::default(), context, drafts)
            .expect("a sound spec")
    }

    #[test]
    fn a_step_without_drafts_reads_what_the_budget_says() {
        for shape in ["qwen3.6-35b-a3b:nvfp4-fp8", "qwen3.5-122b-a10b", "dense-1gb"] {
            for context in [0, 8192] {
                let source = Synthetic::named(shape).expect("a known shape");
                let options = LoadOptions { context: 8192, ..LoadOptions::default() };
                let budget = Budget::of(source.spec(), &source, &options).expect("a sound spec");
                let read = budget.read_per_token(context);
                let bytes: u64 = of(shape, context, 0).verify.iter().map(|entry| entry.bytes).sum();
                // The ledger leaves out the norms' and gates' vectors inside the layers.
                let wanted = read.total() - read.weights.vectors + 4 * source.spec().hidden as u64;
                assert!(bytes.abs_diff(wanted) < 100, "{shape} at {context}: {bytes} instead of {wanted}");
            }
        }
    }

    #[test]
    fn the_35b_on_a_spark_comes_out_where_the_byte_count_by_hand_does() {
        // By hand: 2.38 GB a token at 240 GB/s are 9.92 ms; launches come on top (about 290 at 2 us).
        let gb10 = Machine::named("gb10").expect("it is known");
        let step = of("qwen3.6-35b-a3b:nvfp4-fp8", 0, 0);
        let bytes: u64 = step.verify.iter().map(|entry| entry.bytes).sum();
        assert!((2.33e9..2.43e9).contains(&(bytes as f64)), "{bytes}");
        let seconds = step.seconds(&gb10);
        assert!((9.7e-3..11.0e-3).contains(&seconds), "{seconds}");
        // Three drafts read 3.98 GB to verify, with the snapshots some more.
        let verify: u64 = of("qwen3.6-35b-a3b:nvfp4-fp8", 0, 3).verify.iter().map(|entry| entry.bytes).sum();
        assert!((3.9e9..4.3e9).contains(&(verify as f64)), "{verify}");
    }

    #[test]
    fn drafts_cost_and_yield() {
        let gb10 = Machine::named("gb10").expect("it is known");
        let rounds: Vec<Round> = (0..4).map(|drafts| of("qwen3.6-35b-a3b", 0, drafts)).collect();
        for pair in rounds.windows(2) {
            assert!(pair[1].seconds(&gb10) > pair[0].seconds(&gb10));
        }
        assert_eq!(rounds[3].tokens(1.0), 4.0);
        assert_eq!(rounds[3].tokens(0.0), 1.0);
        assert_eq!(rounds[2].tokens(0.5), 1.75);
    }

    #[test]
    fn a_draft_with_a_smaller_head_reads_what_the_budget_says() {
        let source = Synthetic::named("qwen3.6-35b-a3b:bf16").expect("a known shape");
        let of = |head: &DraftHead| {
            let round = round(source.spec(), &source, &KvTypes::default(), head, 0, 1).expect("a sound spec");
            round.draft.iter().map(|entry| entry.bytes).sum::<u64>()
        };
        let budget = |draft_head| {
            let options = LoadOptions { mtp: true, draft_head, ..LoadOptions::default() };
            let budget = Budget::of(source.spec(), &source, &options).expect("a sound spec");
            (budget.read_per_draft(0).expect("there is an MTP head").total(), budget.mtp_weights.total())
        };
        let own = DraftHead::default();
        for (format, tokens) in [
            (Some(DraftFormat::Nvfp4), None),
            (Some(DraftFormat::Fp8), None),
            (None, Some(32_768)),
            (Some(DraftFormat::Nvfp4), Some(32_768)),
        ] {
            let head = DraftHead::sized(format, tokens);
            let saved = of(&own) - of(&head);
            assert_eq!(saved, budget(own.clone()).0 - budget(head.clone()).0, "{head:?}");
            assert!(saved > 300 << 20, "{head:?} saves {saved}");
            assert!(budget(head).1 > budget(own.clone()).1, "it takes memory of its own");
        }
        // By hand: 248320 rows of 2048 numbers, of two bytes each or of nine per 16.
        let (read, _) = budget(DraftHead::sized(Some(DraftFormat::Nvfp4), None));
        assert_eq!(budget(own).0 - read, 248_320 * 2048 * 2 - (248_320 * 2048 / 16 * 9 + 4));
    }

    #[test]
    fn drafts_without_a_head_and_unknown_machines_are_refused() {
        let source = Synthetic::named("tiny").expect("a known shape");
        let mut spec = source.spec().clone();
        spec.mtp = None;
        assert!(matches!(
            round(&spec, &source, &KvTypes::default(), &DraftHead::default(), 0, 1),
            Err(ModelError::NoMtp)
        ));
        let error = Machine::named("gb11").expect_err("there is none").to_string();
        assert!(error.contains("gb10 or h200") && error.contains("gb11"), "{error}");
    }
}
