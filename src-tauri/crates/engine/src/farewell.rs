//! How requests end: what they held goes back, the history learns of them, and their clients get a last event. Part of the
//! engine's step.

use crate::{
    EngineError,
    queue::{Waiting, unix_ms},
    request::{Event, Usage},
    runner::Runner,
    schedule::Batch,
    sequence::{Ended, Farewell, Sequence},
    status::{Fault, FinishedRequest, RequestEnd, Speculation},
    step::Worker,
};

impl<R: Runner> Worker<R> {
    /// Removes sequences, gives back what they held, and writes the history. `ended` holds each index once.
    pub(crate) fn end(&mut self, mut ended: Vec<(usize, Ended)>) {
        ended.sort_unstable_by_key(|(index, _)| *index);
        for (index, how) in ended.into_iter().rev() {
            let trusted = !self.running[index].spoiled;
            let sequence = self.take_off(index, trusted);
            self.farewell(sequence, how);
        }
    }

    /// Writes the history of a request that holds nothing any more, and its last event.
    pub(crate) fn farewell(&mut self, sequence: Sequence, how: Ended) {
        if matches!(how, Ended::Finished(_)) && sequence.written() > 0 {
            self.board.replay.remember(sequence.ids.clone(), sequence.request.prompt.len());
        }
        let (record, farewell) = sequence.end(how);
        self.board.lock().finish(record);
        self.farewells.extend(farewell);
    }

    /// Ends everything that runs or waits, because stopping may take no longer or nothing can be computed.
    pub(crate) fn end_all(&mut self, fault: &Fault) {
        for waiting in self.queue.take_all() {
            self.end_unserved(waiting, Some(fault.clone()));
        }
        for sequence in std::mem::take(&mut self.suspended) {
            self.farewell(sequence, Ended::Failed(fault.clone()));
        }
        self.end((0..self.running.len()).map(|i| (i, Ended::Failed(fault.clone()))).collect());
    }

    /// Records a request that never got a slot; tells its client why, if there is a fault.
    pub(crate) fn end_unserved(&mut self, waiting: Waiting, fault: Option<Fault>) {
        let usage = Usage { prompt: waiting.request.prompt.len(), cached: 0, output: 0 };
        self.board.lock().finish(FinishedRequest {
            seq: 0,
            id: waiting.request.id,
            kind: waiting.request.kind,
            prompt_tokens: usage.prompt as u32,
            cached_tokens: 0,
            speculation: Speculation::default(),
            output_tokens: 0,
            queue_s: waiting.arrived.elapsed().as_secs_f64(),
            ttft_s: None,
            decode_s: None,
            finish: if fault.is_some() { RequestEnd::Error } else { RequestEnd::Cancelled },
            error: fault.clone(),
            started_ms: waiting.arrived_ms,
            ended_ms: unix_ms(),
        });
        let farewell =
            |fault| Farewell { event: Event::Failed { fault, usage }, events: waiting.events.clone() };
        self.farewells.extend(fault.map(farewell));
    }

    /// A failed pass fails the requests in it that have not ended: their recurrent state cannot be trusted any more.
    pub(crate) fn failed(
        &mut self,
        part: &Batch,
        ended: &[(usize, Ended)],
        reason: String,
    ) -> Vec<(usize, Ended)> {
        let error = EngineError::Step { reason };
        tracing::error!(%error, rows = part.ids.len(), "a step failed");
        // A device that has failed says more than the step that met it.
        let fault = self.lost().unwrap_or_else(|| error.fault());
        let mut failed = Vec::new();
        for index in part.members.iter().map(|member| member.index) {
            if ended.iter().all(|(other, _)| *other != index) {
                self.running[index].spoiled = true;
                failed.push((index, Ended::Failed(fault.clone())));
            }
        }
        failed
    }
}
