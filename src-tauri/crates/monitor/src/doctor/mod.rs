//! The doctor: looks at the machine once (`gather`), and judges what it saw (`diagnose`). The judging is pure, so every check is
//! tested from recorded facts. Called by the appliance and by `hearth doctor`.

mod check;
mod driver;
mod facts;
mod gather;
mod hub;
mod kept;
mod machine;
mod memory;
mod redact;
mod report;
mod rivals;
mod said;

pub use check::{Check, CheckState, Fix, FixAction};
pub use facts::{
    CudaAttempt, Disk, Facts, FileMode, Governor, HubAttempt, Listening, PciGpu, Process, SelftestMark, Swap,
    Zone,
};
pub use gather::{Scope, gather};
pub use hub::attempt_hub;
pub use machine::{held_by_supply, too_hot};
pub use redact::Redactor;
pub use report::report;
pub use said::Said;

/// Every check, in the order in which a person would look: driver, memory, machine, what Hearth keeps, network.
pub fn diagnose(facts: &Facts) -> Vec<Check> {
    vec![
        driver::present(facts),
        driver::matches_kernel(facts),
        driver::version(facts),
        driver::cuda(facts),
        driver::selftest(facts),
        rivals::others(facts),
        memory::page_cache(facts),
        memory::swap(facts),
        machine::power(facts),
        machine::heat(facts),
        machine::governor(facts),
        kept::disk(facts),
        kept::port(facts),
        kept::permissions(facts),
        kept::hub(facts),
    ]
}
