//! Where weights come from: a checkpoint on disk, or numbers invented for a benchmark. The loader knows only this.

use crate::ModelError;
use hearth_checkpoint::gguf::StoredRows;
use hearth_checkpoint::{Checkpoint, Dtype, Global, LinearFormat, Matrix, TensorOutline};
use hearth_kernels::DType;
use hearth_kernels::fetch::FileRange;
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

/// A tensor in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTensor {
    /// Its name.
    pub name: String,
    /// f32, f16 or bf16; U8 for codes.
    pub dtype: DType,
    /// Where it lies.
    pub range: FileRange,
    /// What has to be done to its bytes, if anything.
    pub rows: Option<StoredRows>,
}

/// A matrix in files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMatrix {
    /// How it is stored.
    pub format: LinearFormat,
    /// Its numbers, `[rows, cols]`.
    pub numbers: FileRange,
    /// Its scales, if it has any.
    pub scales: Option<StoredTensor>,
    /// NVFP4's scale of the whole matrix; true: it divides.
    pub global: Option<(StoredTensor, bool)>,
    /// How its rows become those of `format`, if they are not yet. Scales come out of the same bytes then.
    pub rows: Option<StoredRows>,
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

    /// The matrix `[rows, cols]` of a module, packed as stored, or converted if no kernel reads it so.
    ///
    /// # Errors
    /// Missing tensors, other shapes or dtypes, unknown quantisation.
    fn linear(&self, module: &str, rows: usize, cols: usize) -> Result<Matrix<'_>, ModelError>;

    /// Whether some matrices are converted, which takes memory for one at a time.
    fn is_converted(&self) -> bool {
        false
    }

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
    ) -> Result<Matrix<'_>, ModelError>;

    /// A dense tensor of exactly this shape.
    ///
    /// # Errors
    /// Missing, or of another shape or dtype.
    fn dense(&self, tensor: &str, shape: &[usize]) -> Result<Dense<'_>, ModelError>;

    /// Where a dense tensor of exactly this shape lies in a file; None if in none. Reads no data.
    ///
    /// # Errors
    /// As [`WeightSource::dense`].
    fn stored_dense(&self, tensor: &str, shape: &[usize]) -> Result<Option<StoredTensor>, ModelError>;

    /// Where the matrix of a module lies in files; None if in none. Reads no data.
    ///
    /// # Errors
    /// As [`WeightSource::linear`].
    fn stored(&self, module: &str, rows: usize, cols: usize) -> Result<Option<StoredMatrix>, ModelError>;

    /// The same of matrix `index` of a fused tensor.
    ///
    /// # Errors
    /// As [`WeightSource::linear_slice`].
    fn stored_slice(
        &self,
        tensor: &str,
        index: usize,
        rows: usize,
        cols: usize,
    ) -> Result<Option<StoredMatrix>, ModelError>;
}

fn stored_tensor(
    checkpoint: &Checkpoint,
    tensor: TensorOutline<'_>,
) -> Result<Option<StoredTensor>, ModelError> {
    let dtype = match tensor.dtype {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::Bf16 => DType::Bf16,
        _ => DType::U8,
    };
    let (name, rows) = (tensor.name.to_owned(), tensor.stored_rows());
    Ok(checkpoint.range(tensor.name)?.map(|range| StoredTensor { name, dtype, range, rows }))
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

    fn is_converted(&self) -> bool {
        Checkpoint::is_converted(self)
    }

    fn linear(&self, module: &str, rows: usize, cols: usize) -> Result<Matrix<'_>, ModelError> {
        Ok(Checkpoint::linear(self, module, rows, cols)?)
    }

    fn linear_slice(
        &self,
        tensor: &str,
        index: usize,
        rows: usize,
        cols: usize,
    ) -> Result<Matrix<'_>, ModelError> {
        Ok(Checkpoint::linear_slice(self, tensor, index, rows, cols)?)
    }

    fn stored_dense(&self, tensor: &str, shape: &[usize]) -> Result<Option<StoredTensor>, ModelError> {
        stored_tensor(self, self.outline().dense(tensor, shape)?)
    }

    fn stored(&self, module: &str, rows: usize, cols: usize) -> Result<Option<StoredMatrix>, ModelError> {
        let linear = self.outline().linear(module, rows, cols)?;
        let Some(numbers) = self.range(linear.weight.name)? else { return Ok(None) };
        let scales = linear.scale.map(|tensor| stored_tensor(self, tensor)).transpose()?.flatten();
        let global = match linear.global {
            Some(global) => {
                let divide = matches!(global, Global::Divide(_));
                stored_tensor(self, global.tensor())?.map(|tensor| (tensor, divide))
            }
            None => None,
        };
        let rows = linear.weight.stored_rows();
        Ok(Some(StoredMatrix { format: linear.format, numbers, scales, global, rows }))
    }

    fn stored_slice(
        &self,
        tensor: &str,
        index: usize,
        rows: usize,
        cols: usize,
    ) -> Result<Option<StoredMatrix>, ModelError> {
        let outline = self.outline().slice(tensor, index, rows, cols)?;
        let Some(range) = self.range(tensor)? else { return Ok(None) };
        let bytes = range.bytes / outline.shape[0];
        let format = match outline.dtype {
            Dtype::F32 => LinearFormat::F32,
            Dtype::F16 => LinearFormat::F16,
            _ => LinearFormat::Bf16,
        };
        let numbers = range.part(index * bytes, bytes);
        Ok(Some(StoredMatrix { format, numbers, scales: None, global: None, rows: None }))
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
        Ok(Dense { dtype, bytes: view.bytes })
    }
}
