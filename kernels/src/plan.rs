//! What a model's memory is for, decided before any of it is taken. `hearth-model` makes the plan, by letting the load run on
//! a device that only counts; the real device then takes the planned memory and gives out no more.

use crate::{Numbers, OpError, Ops, Result, StoredWeight, Weight};
use std::fmt::Write as _;
use std::sync::Arc;

/// Names and sizes of all that a model needs on its device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Name and bytes of each use of the block that is taken at once, in the order of the table.
    pub items: Vec<(String, u64)>,
    /// The same of what the driver takes beside that block, by itself.
    pub beside: Vec<(String, u64)>,
    /// Bytes that stay free for everybody else.
    pub reserve: u64,
    /// Bytes that were free when the plan was made; None if nobody looked.
    pub available: Option<u64>,
}

impl MemoryPlan {
    /// Bytes of the block.
    pub fn block(&self) -> u64 {
        sum(&self.items)
    }

    /// Bytes of everything.
    pub fn total(&self) -> u64 {
        self.block().saturating_add(sum(&self.beside))
    }

    /// Whether it can be kept where so many bytes are free.
    pub fn fits(&self, available: u64) -> bool {
        self.total().saturating_add(self.reserve) <= available
    }

    /// One line per item, their sum, and a line for each of `more`.
    pub fn table(&self, more: &[(&str, u64)]) -> String {
        let mut table = String::new();
        let mut line = |name: &str, bytes: u64| {
            let _ = write!(table, "\n  {name:<40} {:>12.1} MiB", bytes as f64 / f64::from(1 << 20));
        };
        self.items.iter().chain(&self.beside).for_each(|(name, bytes)| line(name, *bytes));
        line("planned", self.total());
        if self.reserve > 0 {
            line("left to everything else", self.reserve);
        }
        more.iter().for_each(|(name, bytes)| line(name, *bytes));
        table
    }
}

fn sum(items: &[(String, u64)]) -> u64 {
    items.iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
}

/// What the ops of a backend keep for themselves from launch to launch, found by running them on a rehearsal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Name and bytes of each piece of working memory.
    pub(crate) working: Vec<(&'static str, usize)>,
    /// Size of the largest pass.
    pub(crate) room: crate::cuda::Room,
}

/// The memory of a device that has its own plan: [`Ops::memory`].
pub trait DeviceMemory {
    /// A backend of the same device on which every allocation succeeds and is counted, and nothing is computed or copied.
    ///
    /// # Errors
    /// Those of opening a backend.
    fn rehearsal(&self) -> Result<Arc<dyn Ops>>;

    /// As [`Ops::pack`], and if `paired` [`Ops::pack_gate_up`], of matrices whose numbers come piece by piece, in an order
    /// that depends on their shapes alone. On a rehearsal they are asked for and not looked at.
    ///
    /// # Errors
    /// As `pack`, and those of `numbers`.
    fn pack_stored(&self, parts: &[StoredWeight], paired: bool, numbers: &mut dyn Numbers) -> Result<Weight>;

    /// Bytes from the first to the end of the last allocation that there ever was, gaps included: on a rehearsal what the
    /// block must hold, under a plan what has been used of it.
    fn taken(&self) -> u64;

    /// What the ops have needed for themselves so far.
    fn needs(&self) -> Needs;

    /// Takes the memory of `plan`, from which all that follows is given out and which it may not exceed. What the ops kept
    /// for themselves before is given back first.
    ///
    /// # Errors
    /// [`OpError::Plan`], with the plan as a table, if there is not that much.
    fn plan(&self, plan: &MemoryPlan) -> Result<()>;

    /// Takes what `needs` says now, so that no op will allocate.
    ///
    /// # Errors
    /// No memory.
    fn keep(&self, needs: &Needs) -> Result<()>;

    /// Bytes that are free outside the planned block now, by the word of the driver, or of the kernel where the device shares the
    /// host's memory; None where nobody tells.
    fn free_beside(&self) -> Option<u64>;

    /// The first fault of the device, [`OpError::Device`]. After one its memory holds nothing that can be trusted, and no
    /// other call can succeed: the process has to end.
    fn fault(&self) -> Option<OpError>;
}

/// The error of a device that has less free than `plan` needs.
pub(crate) fn refused(device: &'static str, plan: &MemoryPlan, available: u64) -> OpError {
    // What was free when the plan was made is gone: somebody else has it.
    let taken = plan.available.filter(|before| plan.fits(*before) && !plan.fits(available));
    let reason = match taken {
        Some(before) => format!(
            "{:.1} MiB were free when the memory was planned and {:.1} MiB are free now: another program has taken some",
            mib(before),
            mib(available)
        ),
        None => "the model needs more memory than the device has free".to_owned(),
    };
    let before = plan.available.map(|bytes| ("available when planned", bytes));
    let lines: Vec<(&str, u64)> = before.into_iter().chain([("available", available)]).collect();
    OpError::Plan { device, reason, table: plan.table(&lines) }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
