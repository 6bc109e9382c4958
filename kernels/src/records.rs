//! What a device does about passes before they come: it records them, and finds out which of its kernels suit it best.
//! `hearth-model` asks for it while it loads.

use crate::Result;
use crate::cuda::{Tuned, Variant};
use crate::ops::{Pass, Stretch};

/// A device that records passes: [`crate::Ops::records`].
pub trait Records {
    /// As [`crate::Ops::replay`], but `body` is only recorded, so that the first pass of this shape is as fast as the tenth. Under a
    /// plan whose working memory was taken ([`crate::DeviceMemory::keep`]). False if there are as many graphs as there may be.
    ///
    /// # Errors
    /// Those of `body` and of the device.
    fn record(
        &self,
        stretch: Stretch,
        pass: &Pass,
        picks: usize,
        body: &mut dyn FnMut() -> Result<()>,
    ) -> Result<bool>;

    /// Finds out which of several kernels of the same bits is the fastest in `body`, a pass of decode that may be run any
    /// number of times, for each product in it that nothing was chosen for yet. What is recorded later takes those. Empty
    /// where a device has no clock or no choice.
    ///
    /// # Errors
    /// Those of `body` and of the device.
    fn tune(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<Vec<Tuned>>;

    /// Takes one variant for every product that has it, or (None) the fastest as measured. Recorded graphs stay as they are.
    fn force_variant(&self, variant: Option<Variant>);

    /// Joins attention's splits by a launch of their own, or by the last of their blocks, or (None) as was measured to be faster.
    /// Recorded graphs stay as they are.
    fn force_joining(&self, apart: Option<bool>);

    /// How many graphs are recorded.
    fn recorded(&self) -> usize;

    /// How many kernels have been started or recorded so far; a replayed graph counts none.
    fn launches(&self) -> u64;

    /// Contexts to record passes at, one for each way in which a launch depends on the context, up to `context` tokens.
    fn tiers(&self, context: usize) -> Vec<usize>;
}
