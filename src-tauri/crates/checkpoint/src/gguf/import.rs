//! From the tensors of GGUF files to those of the checkpoint they were made of: new names, slices of stacks, shapes, and what has to
//! be undone. The family says what is which; here it is held against what the files have.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::change::Change;
use super::rows::can_reorder;
use super::{Gguf, GgufEntry, GgufType, tokenizer};
use crate::files::{Files, ShardBytes};
use crate::header::Entry;
use crate::outline::Located;
use crate::{CheckpointError, Dtype, Outline, QuantConfig, Result};

/// A GGUF as a checkpoint.
#[derive(Debug)]
pub struct Import {
    /// What `config.json` would say.
    pub config: Value,
    /// Its tensors. What the files have beside them keeps its own name.
    pub tensors: Vec<Imported>,
}

/// One tensor of a checkpoint.
#[derive(Debug)]
pub struct Imported {
    /// Its name.
    pub name: String,
    /// The tensor of the GGUF that it is.
    pub from: String,
    /// Only part `.0` of `.1` equal parts of that.
    pub part: Option<(usize, usize)>,
    /// Its shape.
    pub shape: Vec<usize>,
    /// How it differs from what is stored.
    pub change: Change,
}

/// The files of a GGUF, as [`crate::Checkpoint`] keeps them.
pub(crate) struct Opened {
    pub outline: Outline,
    pub bytes: Vec<ShardBytes>,
    pub paths: Vec<Arc<Path>>,
    /// Tokenizer, its configuration and the chat template, under the names they would have in a folder.
    pub files: Files,
}

impl Outline {
    /// The outline of GGUF files that are `import`.
    ///
    /// # Errors
    /// Shapes that are not those of the files' tensors, and element types that Hearth does not compute with.
    pub fn from_gguf(gguf: &Gguf, import: Import) -> Result<Outline> {
        let mut tensors = BTreeMap::new();
        let mut used = std::collections::HashSet::new();
        for imported in &import.tensors {
            // What is missing is found missing where it is wanted.
            let Some((file, stored)) = gguf.tensors.get(&imported.from) else { continue };
            used.insert(imported.from.as_str());
            let entry = located(gguf, imported, *file, stored)?;
            let located = Located { file: *file, entry, change: imported.change.some() };
            if tensors.insert(imported.name.clone(), located).is_some() {
                let (tensor, found) = (imported.name.clone(), "as another part of the model".into());
                return Err(CheckpointError::DoubledTensor { file: gguf.label(), tensor, found });
            }
        }
        for (name, (file, stored)) in gguf.tensors.iter().filter(|(name, _)| !used.contains(name.as_str())) {
            let GgufEntry { kind, shape, start, bytes } = stored.clone();
            let entry = Entry { dtype: dtype(kind), shape, start, bytes };
            tensors.insert(name.clone(), Located { file: *file, entry, change: None });
        }
        Ok(Outline {
            label: gguf.label(),
            generation_config: Some(tokenizer::generation_config(&gguf.metadata)),
            quantization: QuantConfig::read(&import.config, None)?,
            config: import.config,
            files: gguf.files.iter().map(|file| file.display().to_string()).collect(),
            tensors,
        })
    }
}

impl Gguf {
    /// The checkpoint that these files are by `import`.
    pub(crate) fn opened(self, import: Import) -> Result<Opened> {
        let outline = Outline::from_gguf(&self, import)?;
        let paths = self.files.iter().map(|file| Arc::from(file.as_path())).collect();
        let files = Files::Made(self.label(), tokenizer::files(&self.label(), &self.metadata)?);
        Ok(Opened { outline, bytes: self.maps, paths, files })
    }
}

fn dtype(kind: GgufType) -> Dtype {
    match kind {
        GgufType::F32 => Dtype::F32,
        GgufType::F16 => Dtype::F16,
        GgufType::Bf16 => Dtype::Bf16,
        other => Dtype::Gguf(other),
    }
}

/// Where a tensor of the checkpoint lies, if the stored one can be it.
fn located(gguf: &Gguf, imported: &Imported, file: usize, stored: &GgufEntry) -> Result<Entry> {
    let Imported { name, from, part, shape, change } = imported;
    let label = || gguf.files[file].display().to_string();
    if stored.kind.kept().is_none() {
        return Err(CheckpointError::UnsupportedGgufType {
            file: label(),
            tensor: from.clone(),
            expected: GgufType::known(),
            found: stored.kind.name().into(),
        });
    }
    let (index, count) = part.unwrap_or((0, 1));
    let wrong = |expected: String| CheckpointError::WrongShape {
        file: label(),
        tensor: format!("{from} ({name})"),
        expected,
        found: format!("{:?}", stored.shape),
    };
    let product = |sides: &[usize]| sides.iter().try_fold(1usize, |n, side| n.checked_mul(*side));
    let row = shape.last().copied().unwrap_or(1);
    let whole = product(shape).and_then(|n| n.checked_mul(count));
    // A list of plain numbers may be cut anywhere; everything else has the file's own rows.
    let is_list = stored.shape.len() == 1 && stored.kind.elements() == 1;
    if (row != stored.row() && !is_list)
        || whole.is_none()
        || whole != product(&stored.shape)
        || index >= count
    {
        let stack = if count > 1 { format!("{count} times ") } else { String::new() };
        return Err(wrong(format!("{stack}{shape:?}")));
    }
    let rows = product(&shape[..shape.len().saturating_sub(1)]);
    let fits = |tiling: Option<super::Tiling>, side: Option<usize>| tiling.is_none_or(|t| t.rows() == side);
    let orders = fits(change.rows, rows) && fits(change.cols, Some(row));
    if !orders || change.cols.is_some_and(|tiling| !can_reorder(stored.kind, &tiling)) {
        return Err(wrong("whole heads in the order of a gated delta net".into()));
    }
    // Rows hold whole blocks and parts whole rows, so parts are equally long.
    let bytes = stored.bytes / count as u64;
    let start = stored.start + bytes * index as u64;
    Ok(Entry { dtype: dtype(stored.kind), shape: shape.clone(), start, bytes })
}
