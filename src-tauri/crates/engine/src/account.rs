//! What a step has cost and who runs now: the counters and the status that everybody else sees. Part of the engine's step.

use crate::{
    disk::Disk,
    emit::Outcome,
    flight::Spent,
    runner::Runner,
    schedule::Batch,
    sequence::{Farewell, Sequence},
    status::EngineMemory,
    step::Worker,
};

impl<R: Runner> Worker<R> {
    /// Learns from a part that was computed, and counts it.
    pub(crate) fn count(&mut self, part: &Batch, outcome: &Outcome, spent: Spent) {
        let work = part.work();
        // Those that left while it was computed are not counted; perhaps nobody is left.
        let rows = work.decode_rows + work.prefill_rows;
        if rows == 0 {
            return;
        }
        let Spent { forward, draft, measured } = spent;
        if measured {
            self.timing.record(work, forward);
        }
        let verify = if outcome.checked { forward } else { 0.0 };
        for member in &part.members {
            let speculation = &mut self.running[member.index].speculation;
            speculation.draft_seconds += draft;
            speculation.verify_seconds += if member.writes { verify } else { 0.0 };
        }
        let seconds = forward + draft;
        let decode_share = work.decode_rows as f64 / rows as f64;
        let bytes = self.runner.bytes_per_step(rows, work.context);
        let mut state = self.board.lock();
        let counters = &mut state.counters;
        counters.steps += 1;
        counters.decode_tokens += outcome.written as u64;
        counters.decode_seconds += seconds * decode_share;
        counters.prefill_tokens += work.prefill_rows as u64;
        counters.prefill_seconds += seconds * (1.0 - decode_share);
        counters.bytes_read += bytes as f64;
        counters.speculation.draft_seconds += draft;
        counters.speculation.verify_seconds += verify;
    }

    /// Shows what runs, then sends the last events.
    pub(crate) fn report(&mut self) {
        let running = self.running.iter().chain(&self.suspended).map(Sequence::describe).collect();
        let page = self.memory.kv / self.limits.pages.max(1) as f64;
        let cached = self.prefixes.pages() - self.prefixes.held();
        let kv_cached = (page * cached as f64).round();
        let kv_used = (page * (self.pages.used() - cached) as f64).round();
        let mut state = self.board.lock();
        state.running = running;
        state.prefix_disk = self.disk.as_ref().map(Disk::describe);
        state.memory = Some(EngineMemory { kv_used, kv_cached, ..self.memory.clone() });
        drop(state);
        self.farewells.drain(..).for_each(Farewell::send);
    }
}
