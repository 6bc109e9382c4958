//! Measures on the machine itself which variant of each product of a decode step is the fastest: the whole step is recorded
//! with one of them and replayed, so that what a kernel does to its neighbours counts; and whether all kernels should divide a
//! multiprocessor's memory alike. The bits are the same in any case.

use super::Cuda;
use super::variants::{Product, Variant};
use crate::Result;

/// Seconds of replays that a measurement takes, beside one that does not count: at least one of a long step, at most five.
const SECONDS: f64 = 0.05;
/// Seconds of replays after which what was not measured is taken in the first way. Of a long step, of which few are measured by
/// then, there is little to gain: what differs is some microseconds a launch.
const PATIENCE: f64 = 2.0;
/// A variant must save so much of the step to be taken: less may be chance.
const LEAST: f64 = 0.002;

/// What came of the measurements of one product.
#[derive(Debug, Clone, PartialEq)]
pub struct Tuned {
    /// Formats, sizes and rows; or what else was measured.
    pub product: String,
    /// The fastest variant, in words.
    pub variant: String,
    /// Seconds of the step before and with it.
    pub before: f64,
    /// The same where nothing was faster.
    pub after: f64,
}

impl Cuda {
    /// Chooses for the products of `body`, a pass of decode that may be run any number of times. Nothing on a device without
    /// a clock.
    pub(super) fn tune_products(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<Vec<Tuned>> {
        if self.counts() || self.variants.is_forced() || self.gpu.time(&mut || Ok(()))?.is_none() {
            return Ok(Vec::new());
        }
        let mut spent = 0.0;
        let ((seconds, products), joins) =
            self.variants.joins_during(|| self.variants.heard_during(|| self.step_seconds(body, &mut spent)));
        let Some(mut best) = seconds? else { return Ok(Vec::new()) };
        let mut tuned = Vec::with_capacity(products.len() + 2);
        if self.variants.divide() {
            let before = best;
            // Alike for all unless that is slower: only then can a kernel start beside another that needs less.
            self.gpu.prefer_shared(true);
            let alike =
                self.step_seconds(body, &mut spent)?.filter(|seconds| *seconds <= best * (1.0 + LEAST));
            best = alike.unwrap_or(best);
            self.gpu.prefer_shared(alike.is_some());
            let said = if alike.is_some() { "alike, most of it shared" } else { "as each kernel needs it" };
            let product = "memory of a multiprocessor".to_owned();
            tuned.push(Tuned { product, variant: said.to_owned(), before, after: best });
        }
        if joins {
            let before = best;
            self.variants.join_apart(true);
            let faster =
                self.step_seconds(body, &mut spent)?.filter(|seconds| *seconds < best * (1.0 - LEAST));
            best = faster.unwrap_or(best);
            self.variants.join_apart(faster.is_some());
            let said = if faster.is_some() { "by a launch of its own" } else { "by the last blocks" };
            let product = "joining of attention's splits".to_owned();
            tuned.push(Tuned { product, variant: said.to_owned(), before, after: best });
        }
        for (product, others) in &products {
            if spent > PATIENCE {
                break;
            }
            let before = best;
            let mut taken = Variant::Registers;
            for &other in others {
                self.variants.choose(product, other);
                let Some(seconds) = self.step_seconds(body, &mut spent)? else { continue };
                if seconds < best * (1.0 - LEAST) {
                    (best, taken) = (seconds, other);
                }
            }
            self.variants.choose(product, taken);
            tuned.push(told(product, taken, before, best));
        }
        Ok(tuned)
    }

    /// The least seconds of some replays of a recorded `body`. `spent` becomes more by all of them.
    fn step_seconds(&self, body: &mut dyn FnMut() -> Result<()>, spent: &mut f64) -> Result<Option<f64>> {
        let graph = self.gpu.capture(body)?;
        let mut replay = || -> Result<Option<f64>> {
            let seconds = self.gpu.time(&mut || self.gpu.replay(graph))?;
            *spent += seconds.unwrap_or(0.0);
            Ok(seconds)
        };
        let mut fastest = || {
            let Some(first) = replay()? else { return Ok(None) };
            let replays = (SECONDS / first.max(1e-6)).clamp(1.0, 5.0) as u32;
            let mut least = f64::INFINITY;
            for _ in 0..replays {
                let Some(seconds) = replay()? else { return Ok(None) };
                least = least.min(seconds);
            }
            Ok(Some(least))
        };
        let result = fastest();
        self.gpu.drop_graph(graph);
        result
    }
}

fn told(product: &Product, variant: Variant, before: f64, after: f64) -> Tuned {
    Tuned { product: product.to_string(), variant: variant.to_string(), before, after }
}
