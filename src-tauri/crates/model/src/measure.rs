//! What a pass of a loaded model takes on its device, for `hearth bench`: the same ops as `forward`, timed there.

use crate::ModelError;
use crate::error::at;
use crate::model::Model;
use crate::pass;
use crate::weights::MixerWeights;
use hearth_kernels::ops::Pass;
use hearth_kernels::{OpError, Result as OpResult};

impl Model {
    /// Seconds of one pass from embedding to logits on the device; None where time means nothing. The pass has run before
    /// by `forward`, which allocates what a backend needs; it advances its sequences as `forward` does, several times.
    ///
    /// # Errors
    /// As [`Model::forward`]; more wanted rows than the scratch holds at once.
    pub fn time_pass(&mut self, pass: &Pass, ids: &[u32], want: &[u32]) -> Result<Option<f64>, ModelError> {
        pass::check(pass, ids, want, &self.spec, &self.options)?;
        let most = self.scratch.picked.shape[0];
        if want.len() > most {
            let (expected, found) = (format!("at most {most}"), want.len().to_string());
            return Err(ModelError::Pass { what: "wanted rows", expected, found });
        }
        let ops = self.ops.clone();
        let ops = ops.as_ref();
        ops.begin(pass, ids, want).map_err(at("pass"))?;
        let mut failed = None;
        let time = ops.time(&mut || -> OpResult<()> {
            self.launch_forward(pass, ids, want).map_err(|error| {
                let what = error.to_string();
                let source = OpError::Device { device: ops.device(), code: error.code().into(), what };
                failed = Some(error);
                source
            })
        });
        time.map_err(|source| failed.unwrap_or_else(|| at("timed pass")(source)))
    }

    /// Fills every page of the cache with finite numbers drawn from `seed`, as if a long prompt had been read: what
    /// attention takes does not depend on what it reads, but on how much.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn scramble_cache(&mut self, seed: u64) -> Result<(), ModelError> {
        for (i, layer) in self.weights.layers.iter_mut().enumerate() {
            if let MixerWeights::FullAttention(a) = &mut layer.mixer {
                let seed = seed + 2 * i as u64;
                self.ops.scramble(&mut a.cache.k, seed).map_err(at("KV"))?;
                self.ops.scramble(&mut a.cache.v, seed + 1).map_err(at("KV"))?;
            }
        }
        Ok(())
    }
}
