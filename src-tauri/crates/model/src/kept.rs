//! Keys, values and recurrent states as bytes: how the engine keeps them outside of the device's memory and puts them
//! back. The bytes mean something only to a model of the same weights, options and backend.

use crate::ModelError;
use crate::error::at;
use crate::model::Model;
use crate::weights::MixerWeights;
use hearth_kernels::Tensor;
use std::ops::Range;

/// How many bytes there are of what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeptSizes {
    /// A page of keys and values in all layers, those of the MTP head included.
    pub page: usize,
    /// The parts of a recurrent state, one per layer that has one.
    pub state: Vec<usize>,
}

/// Rows of the last axis that entry `i` of the first axis consists of.
fn rows_of(tensor: &Tensor, i: usize) -> Range<usize> {
    let width = tensor.shape.last().copied().unwrap_or(0).max(1);
    let rows = tensor.shape[1..].iter().product::<usize>() / width;
    i * rows..(i + 1) * rows
}

/// Bytes of an entry of the first axis.
fn entry_bytes(tensor: &Tensor) -> usize {
    tensor.bytes() / tensor.shape.first().copied().unwrap_or(0).max(1)
}

impl Model {
    /// Sizes of what the calls below read and write.
    pub fn kept_sizes(&self) -> KeptSizes {
        KeptSizes {
            page: self.page_tensors().into_iter().map(entry_bytes).sum(),
            state: self
                .state_tensors()
                .iter()
                .map(|pair| pair.iter().copied().map(entry_bytes).sum())
                .collect(),
        }
    }

    /// The bytes of a page in all layers.
    ///
    /// # Errors
    /// [`ModelError::Pass`] for a page that does not exist, otherwise those of the backend.
    pub fn read_page(&self, page: u32) -> Result<Vec<u8>, ModelError> {
        self.check_below("page", page as usize, self.pages())?;
        let mut bytes = Vec::with_capacity(self.kept_sizes().page);
        for tensor in self.page_tensors() {
            let rows = rows_of(tensor, page as usize);
            bytes.extend(self.ops.read_bytes(tensor, rows.start, rows.len()).map_err(at("kept page"))?);
        }
        Ok(bytes)
    }

    /// Puts back what [`Model::read_page`] gave.
    ///
    /// # Errors
    /// [`ModelError::Pass`] for a page that does not exist or another number of bytes, otherwise those of the backend.
    pub fn write_page(&mut self, page: u32, bytes: &[u8]) -> Result<(), ModelError> {
        self.check_below("page", page as usize, self.pages())?;
        check_len(self.kept_sizes().page, bytes)?;
        let ops = self.ops.clone();
        let mut rest = bytes;
        for tensor in self.page_tensors_mut() {
            let (own, behind) = rest.split_at(entry_bytes(tensor));
            rest = behind;
            let first = rows_of(tensor, page as usize).start;
            ops.write_bytes(tensor, first, own).map_err(at("kept page"))?;
        }
        Ok(())
    }

    /// The bytes of a part of the recurrent state in a slot.
    ///
    /// # Errors
    /// [`ModelError::Pass`] for a slot or a part that does not exist, otherwise those of the backend.
    pub fn read_state(&self, slot: usize, part: usize) -> Result<Vec<u8>, ModelError> {
        self.check_below("slot", slot, self.options.states())?;
        let tensors = self.state_tensors();
        self.check_below("part of a state", part, tensors.len())?;
        let mut bytes = Vec::new();
        for tensor in tensors[part] {
            let rows = rows_of(tensor, slot);
            bytes.extend(self.ops.read_bytes(tensor, rows.start, rows.len()).map_err(at("kept state"))?);
        }
        Ok(bytes)
    }

    /// Puts back what [`Model::read_state`] gave.
    ///
    /// # Errors
    /// [`ModelError::Pass`] for a slot or a part that does not exist or another number of bytes, otherwise those of the
    /// backend.
    pub fn write_state(&mut self, slot: usize, part: usize, bytes: &[u8]) -> Result<(), ModelError> {
        self.check_below("slot", slot, self.options.states())?;
        let sizes = self.kept_sizes().state;
        self.check_below("part of a state", part, sizes.len())?;
        check_len(sizes[part], bytes)?;
        let ops = self.ops.clone();
        let mut rest = bytes;
        let states = self.weights.layers.iter_mut().filter_map(|layer| match &mut layer.mixer {
            MixerWeights::GatedDeltaNet(g) => Some([&mut g.conv_state, &mut g.state]),
            MixerWeights::FullAttention(_) => None,
        });
        for tensor in states.skip(part).take(1).flatten() {
            let (own, behind) = rest.split_at(entry_bytes(tensor));
            rest = behind;
            ops.write_bytes(tensor, rows_of(tensor, slot).start, own).map_err(at("kept state"))?;
        }
        Ok(())
    }

    fn page_tensors(&self) -> Vec<&Tensor> {
        let layers = self.weights.layers.iter().chain(self.weights.mtp.iter().map(|mtp| &mtp.layer));
        let caches = layers.filter_map(|layer| match &layer.mixer {
            MixerWeights::FullAttention(a) => Some([&a.cache.k, &a.cache.v]),
            MixerWeights::GatedDeltaNet(_) => None,
        });
        caches.flatten().collect()
    }

    fn page_tensors_mut(&mut self) -> Vec<&mut Tensor> {
        let head = self.weights.mtp.iter_mut().map(|mtp| &mut mtp.layer);
        let caches = self.weights.layers.iter_mut().chain(head).filter_map(|layer| match &mut layer.mixer {
            MixerWeights::FullAttention(a) => Some([&mut a.cache.k, &mut a.cache.v]),
            MixerWeights::GatedDeltaNet(_) => None,
        });
        caches.flatten().collect()
    }

    fn state_tensors(&self) -> Vec<[&Tensor; 2]> {
        let states = self.weights.layers.iter().filter_map(|layer| match &layer.mixer {
            MixerWeights::GatedDeltaNet(g) => Some([&g.conv_state, &g.state]),
            MixerWeights::FullAttention(_) => None,
        });
        states.collect()
    }

    fn check_below(&self, what: &'static str, found: usize, limit: usize) -> Result<(), ModelError> {
        if found < limit {
            return Ok(());
        }
        Err(ModelError::Pass { what, expected: format!("below {limit}"), found: found.to_string() })
    }
}

fn check_len(expected: usize, bytes: &[u8]) -> Result<(), ModelError> {
    if bytes.len() == expected {
        return Ok(());
    }
    let (expected, found) = (expected.to_string(), bytes.len().to_string());
    Err(ModelError::Pass { what: "bytes of what was kept", expected, found })
}
