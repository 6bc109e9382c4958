//! How much memory a model may take, and a notice where the driver took more than was planned. Used by `load`.

use hearth_kernels::{Ops, host::HostMemory};
use hearth_model::{MemoryLimit, RecordedGraphs};

use crate::status::Fault;

/// Bytes to leave to everything else on a machine with `total` bytes, unless a person chooses: an eighth, at most
/// 12 GiB. Where GPU and host share one memory, a pool that is full to the last byte stops the whole machine.
pub fn default_reserve(total: u64) -> u64 {
    (total / 8).min(12 << 30)
}

/// What a model may take: the memory that can be had without swapping, by the kernel's estimate, less the reserve.
/// On a GPU with memory of its own, what is free there less 1 GiB. None where the kernel does not tell.
pub(crate) fn memory_limit(reserve: Option<u64>, ops: &dyn Ops) -> Option<MemoryLimit> {
    // A GPU with memory of its own leaves the host's alone.
    if let Some(available) = ops.available_memory() {
        return Some(MemoryLimit { available, reserve: reserve.unwrap_or(1 << 30) });
    }
    let HostMemory { total, available } = HostMemory::now()?;
    Some(MemoryLimit { available, reserve: reserve.unwrap_or_else(|| default_reserve(total)) })
}

/// What the driver may take for recorded graphs beyond the plan before anybody is told: it takes memory in pieces of some
/// megabytes, and where the host's memory is shared, other programs take some in the same moment.
const GRAPH_SLACK: u64 = 256 << 20;

/// A notice that the driver took more for recorded graphs than the plan has.
pub(crate) fn over_plan(graphs: RecordedGraphs) -> Option<Fault> {
    let RecordedGraphs { count, planned, taken } = graphs;
    let taken = taken.filter(|taken| *taken > planned.saturating_add(GRAPH_SLACK))?;
    let evidence = format!("{count} graphs, {} MiB planned, {} MiB taken", planned >> 20, taken >> 20);
    let notice = Fault::new(
        "graphs_over_plan",
        "The driver took more memory for recorded graphs than was planned, so less is left to other programs.",
        "If memory is short, lower the number of requests, which decides how many graphs there are.",
    );
    Some(notice.with_evidence(evidence))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn graphs_that_take_more_than_was_planned_are_a_notice_with_both_figures() {
        let of = |taken| over_plan(RecordedGraphs { count: 28, planned: 100 << 20, taken });
        assert_eq!((of(None), of(Some(0)), of(Some((100 << 20) + GRAPH_SLACK))), (None, None, None));
        let notice = of(Some(500 << 20)).expect("it is more");
        assert_eq!(notice.evidence.as_deref(), Some("28 graphs, 100 MiB planned, 500 MiB taken"));
    }
}
