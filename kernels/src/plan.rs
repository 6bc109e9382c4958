//! What a model's memory is for, decided before any of it is taken. `hearth-model` makes it, a backend keeps it.

use std::fmt::Write as _;

/// Names and sizes of all that a model needs on its device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Name and bytes of each use, in the order of the table.
    pub items: Vec<(String, u64)>,
}

impl MemoryPlan {
    /// Bytes of all items.
    pub fn total(&self) -> u64 {
        self.items.iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }

    /// One line per item, their sum, and a line for each of `more`.
    pub(crate) fn table(&self, more: &[(&str, u64)]) -> String {
        let mut table = String::new();
        let mut line = |name: &str, bytes: u64| {
            let _ = write!(table, "\n  {name:<32} {:>12.1} MiB", bytes as f64 / f64::from(1 << 20));
        };
        self.items.iter().for_each(|(name, bytes)| line(name, *bytes));
        line("planned", self.total());
        more.iter().for_each(|(name, bytes)| line(name, *bytes));
        table
    }
}
