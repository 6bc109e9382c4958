//! The real runner: a loaded model. On a device its passes and its choices of tokens are only started; here they are waited
//! for, and logits fetched for those who want them.

use hearth_kernels::{ops::Pass, rounds::Follow, sample::SampleRow};
use hearth_model::{KeptSizes, Model, ModelError, Seed};

use crate::{
    device_fault,
    runner::{Given, Limits, Runner, Sampled},
    status::{EngineMemory, Fault},
};

/// The parts of a model's memory as the status reports them.
pub(crate) trait MemoryReport {
    /// As loaded.
    fn memory_parts(&self) -> EngineMemory;
}

impl MemoryReport for Model {
    fn memory_parts(&self) -> EngineMemory {
        let parts = self.memory();
        EngineMemory {
            weights: parts.weights as f64,
            kv: parts.kv as f64,
            kv_used: 0.0,
            kv_cached: 0.0,
            state: parts.state as f64,
            scratch: parts.scratch as f64,
        }
    }
}

impl Runner for Model {
    fn limits(&self) -> Limits {
        let options = self.options();
        Limits {
            context: options.context,
            slots: options.slots,
            states: options.states(),
            decode_rows: self.decode_rows(),
            mtp: self.spec().mtp.is_some(),
            max_rows: options.max_rows,
            page_len: self.page_len(),
            pages: self.pages(),
            exact: options.exact,
            ahead: self.runs_ahead(),
        }
    }

    fn run(&mut self, pass: &Pass, ids: &[u32], want: &[u32], follows: &[Follow]) -> Result<(), String> {
        self.start(pass, ids, want, follows).map_err(|error| error.to_string())
    }

    fn draft(
        &mut self,
        pass: &Pass,
        next_ids: &[u32],
        seed: Seed<'_>,
        want: &[u32],
        follows: &[Follow],
    ) -> Result<(), String> {
        self.start_mtp(pass, next_ids, seed, want, follows).map_err(|error| error.to_string())
    }

    fn sample(&mut self, tokens: usize, rows: &[Option<SampleRow<'_>>]) -> Result<Sampled, String> {
        if rows.iter().all(Option::is_none) {
            return Ok(Sampled::Logits(rows.len()));
        }
        // Where logits are wanted, a choice that changes none of them stands in.
        let greedy = SampleRow { temperature: 0.0, ..SampleRow::default() };
        let settings: Vec<SampleRow<'_>> = rows.iter().map(|row| row.unwrap_or(greedy)).collect();
        let choosing = self.choose(tokens, &settings).map_err(|error| error.to_string())?;
        Ok(Sampled::There(choosing, rows.iter().map(Option::is_none).collect()))
    }

    fn read(&mut self, sampled: Sampled) -> Result<Vec<Given>, String> {
        let read = || match sampled {
            Sampled::Here(_, given) => Ok(given),
            Sampled::There(choosing, logits) => choosing
                .wait()?
                .into_iter()
                .zip(logits)
                .enumerate()
                .map(|(row, (token, logits))| match logits {
                    true => self.wanted_logits(row).map(Given::Logits),
                    false => Ok(Given::Token(token)),
                })
                .collect(),
            Sampled::Logits(0) => self.wait().map(|()| Vec::new()),
            Sampled::Logits(rows) => {
                (0..rows).map(|row| self.wanted_logits(row).map(Given::Logits)).collect()
            }
        };
        read().map_err(|error: ModelError| error.to_string())
    }

    fn can_sample(&self, row: &SampleRow<'_>) -> bool {
        Model::can_sample(self, row)
    }

    fn copy_state(&mut self, from: usize, to: usize) -> Result<(), String> {
        Model::copy_state(self, from, to).map_err(|error| error.to_string())
    }

    fn kept_sizes(&self) -> KeptSizes {
        Model::kept_sizes(self)
    }

    fn read_page(&mut self, page: u32) -> Result<Vec<u8>, String> {
        Model::read_page(self, page).map_err(|error| error.to_string())
    }

    fn write_page(&mut self, page: u32, bytes: &[u8]) -> Result<(), String> {
        Model::write_page(self, page, bytes).map_err(|error| error.to_string())
    }

    fn read_state(&mut self, slot: usize, part: usize) -> Result<Vec<u8>, String> {
        Model::read_state(self, slot, part).map_err(|error| error.to_string())
    }

    fn write_state(&mut self, slot: usize, part: usize, bytes: &[u8]) -> Result<(), String> {
        Model::write_state(self, slot, part, bytes).map_err(|error| error.to_string())
    }

    fn bytes_per_step(&self, rows: usize, context: usize) -> u64 {
        Model::bytes_per_step(self, rows, context)
    }

    fn memory(&self) -> EngineMemory {
        self.memory_parts()
    }

    fn device_fault(&self) -> Option<Fault> {
        Model::device_fault(self).as_ref().and_then(device_fault::fault)
    }
}
