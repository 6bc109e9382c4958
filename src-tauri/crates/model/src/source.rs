//! Where weights come from: a checkpoint on disk, or numbers invented for a benchmark. The loader knows only this.

use crate::ModelError;
use hearth_checkpoint::{Checkpoint, Dtype, LinearFormat};
use hearth_kernels::{DType, PackedWeight};
use serde_json::Value;
use std::borrow::Cow;

/// A dense tensor: little-endian, row-major.
#[derive(Debug, Clone)]
pub struct Dense<'a> {
    /// f32, f16 or bf16.
    pub dtype: DType,
    /// Its bytes.
    pub bytes: Cow<'a, [u8]>,
}

/// A set of named tensors with the `config.json` that belongs to it.
pub trait WeightSource {
    /// The model's `config.json`.
    fn config(&self) -> &Value;

    /// Whether a tensor of this name exists.
    fn contains(&self, tensor: &str) -> bool;

    /// Names of all tensors, in any order.
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_>;

    /// How the matrix of a module is stored; checks the same things as [`WeightSource::linear`] but reads no data.
    ///
    /// # Errors
    /// As [`WeightSource::linear`].
    fn format(&self, module: &str, rows: usize, cols: usize) -> Result<LinearFormat, ModelError>;

    /// The matrix `[rows, cols]` of a module, packed as stored.
    ///
    /// # Errors
    /// Missing tensors, other shapes or dtypes, unknown quantisation.
    fn linear(&self, module: &str, rows: usize, cols: usize) -> Result<PackedWeight<'_>, ModelError>;

    /// Matrix `index` `[rows, cols]` of a fused tensor `[count, rows, cols]`.
    ///
    /// # Errors
    /// As [`WeightSource::linear`].
    fn linear_slice(
        &self,
        tensor: &str,
        index: usize,
        rows: usize,
        cols: usize,
    ) -> Result<PackedWeight<'_>, ModelError>;

    /// A dense tensor of exactly this shape.
    ///
    /// # Errors
    /// Missing, or of another shape or dtype.
    fn dense(&self, tensor: &str, shape: &[usize]) -> Result<Dense<'_>, ModelError>;

    /// Refuses what [`WeightSource::dense`] refuses, but reads no data.
    ///
    /// # Errors
    /// As [`WeightSource::dense`].
    fn dense_shape(&self, tensor: &str, shape: &[usize]) -> Result<(), ModelError>;
}

impl WeightSource for Checkpoint {
    fn config(&self) -> &Value {
        Checkpoint::config(self)
    }

    fn contains(&self, tensor: &str) -> bool {
        Checkpoint::contains(self, tensor)
    }

    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(Checkpoint::names(self))
    }

    fn format(&self, module: &str, rows: usize, cols: usize) -> Result<LinearFormat, ModelError> {
        Ok(self.outline().linear(module, rows, cols)?.format)
    }

    fn linear(&self, module: &str, rows: usize, cols: usize) -> Result<PackedWeight<'_>, ModelError> {
        Ok(Checkpoint::linear(self, module, rows, cols)?)
    }

    fn linear_slice(
        &self,
        tensor: &str,
        index: usize,
        rows: usize,
        cols: usize,
    ) -> Result<PackedWeight<'_>, ModelError> {
        Ok(Checkpoint::linear_slice(self, tensor, index, rows, cols)?)
    }

    fn dense_shape(&self, tensor: &str, shape: &[usize]) -> Result<(), ModelError> {
        Ok(Checkpoint::dense(self, tensor, shape).map(drop)?)
    }

    fn dense(&self, tensor: &str, shape: &[usize]) -> Result<Dense<'_>, ModelError> {
        let view = Checkpoint::dense(self, tensor, shape)?;
        let dtype = match view.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::Bf16 => DType::Bf16,
            other => {
                return Err(hearth_checkpoint::CheckpointError::WrongDtype {
                    file: view.file.to_owned(),
                    tensor: view.name.to_owned(),
                    expected: "BF16, F16 or F32".to_owned(),
                    found: other.name().to_owned(),
                }
                .into());
            }
        };
        Ok(Dense { dtype, bytes: Cow::Borrowed(view.bytes) })
    }
}
