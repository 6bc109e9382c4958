//! The page cache and swap: harmless on most machines, but on a GB10 CUDA counts the cache as used, and over-commit freezes it.

use super::{
    check::{Check, Fix, Subject},
    facts::Facts,
    said::{Gib, say},
};

/// Swap in use above this slows a model down noticeably: it is more than idle programs leave there.
const SWAP_MUCH: u64 = 1 << 30;

/// How much of the memory the page cache holds, and whether that matters.
pub(super) fn page_cache(facts: &Facts) -> Check {
    let subject = Subject("page_cache", "Page cache");
    let Some(memory) = &facts.memory else {
        return subject.skipped(say!(no_meminfo, "/proc/meminfo cannot be read."));
    };
    let (cache, free) = (memory.reclaimable(), memory.free);
    let seen = [
        say!(seen_cache, "page cache that can be had back: {cache}", cache = Gib(cache)),
        say!(seen_free, "free: {free} of {total}", free = Gib(free), total = Gib(memory.total)),
    ];
    let check = if !facts.is_spark() {
        subject.pass(say!(cache_elsewhere, "The system gives the page cache back when memory is needed."))
    } else if cache > memory.total / 4 && free < memory.total / 5 {
        subject.warn(
            say!(
                cache_much,
                "Much of the memory is page cache, which CUDA counts as used on this machine."
            ),
            Fix::command(
                say!(
                    fix_cache,
                    "Hearth's own estimate counts it as free. If a start still fails for memory, give the cache back; files are read again when they are needed."
                ),
                "sync && echo 3 | sudo tee /proc/sys/vm/drop_caches",
            ),
        )
    } else {
        subject.pass(say!(cache_fine, "The page cache leaves enough memory free."))
    };
    check.seen(seen)
}

/// Whether programs lie in swap.
pub(super) fn swap(facts: &Facts) -> Check {
    let subject = Subject("swap", "Swap");
    let Some(swap) = &facts.swap else {
        return subject.skipped(say!(no_meminfo, "/proc/meminfo cannot be read."));
    };
    if swap.total == 0 {
        return subject.pass(say!(swap_none, "There is no swap: what is in memory stays in memory."));
    }
    let seen = [say!(seen_swap, "{used} of {total} in use", used = Gib(swap.used), total = Gib(swap.total))];
    if swap.used <= SWAP_MUCH {
        return subject.pass(say!(swap_hardly, "Swap is hardly used.")).seen(seen);
    }
    // Emptying needs room for what is in it, with some to spare.
    let room = facts.memory.as_ref().is_some_and(|memory| memory.available > swap.used + (4 << 30));
    let fix = match room {
        true => Fix::command(
            say!(fix_swap, "Memory was short at some time and is not now: bring back what lies in swap."),
            "sudo swapoff -a && sudo swapon -a",
        ),
        false => Fix::words(say!(
            fix_memory,
            "Close programs you do not need, or start the model with a smaller context."
        )),
    };
    let said = say!(
        swap_used,
        "Programs lie in swap; what of a model lies there is read from the disk at every token."
    );
    subject.warn(said, fix).seen(seen)
}
