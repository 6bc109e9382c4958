//! Writes a safetensors file row by row, so that the logits of a long prompt never lie in memory as a whole, and puts it
//! in its place only when it is complete. Used by `hearth logits`.

use std::{fs::File, io::Write, os::unix::fs::FileExt, path::Path};

use anyhow::Context;

/// Tensors of a file: name, dtype as safetensors spells it, shape, bytes of an element.
pub struct Plan {
    pub name: &'static str,
    pub dtype: &'static str,
    pub shape: Vec<usize>,
    pub element: usize,
}

impl Plan {
    fn bytes(&self) -> u64 {
        self.shape.iter().fold(self.element as u64, |n, d| n.saturating_mul(*d as u64))
    }
}

/// A file in the making beside its final place; dropped unfinished, it disappears.
pub struct TensorFile {
    temporary: tempfile::NamedTempFile,
    /// Name, first byte, bytes of an entry along the first axis.
    tensors: Vec<(&'static str, u64, u64)>,
}

impl TensorFile {
    /// Makes the file, as large as it will be, in the folder of `out`.
    pub fn create(out: &Path, metadata: &serde_json::Value, plan: &[Plan]) -> anyhow::Result<TensorFile> {
        anyhow::ensure!(!out.is_dir(), "{} is a folder; name a file in it", out.display());
        let folder = match out.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut header = serde_json::Map::new();
        header.insert("__metadata__".into(), metadata.clone());
        let mut end = 0u64;
        for tensor in plan {
            let next = end.saturating_add(tensor.bytes());
            let entry = serde_json::json!({
                "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [end, next],
            });
            header.insert(tensor.name.into(), entry);
            end = next;
        }
        let mut text = serde_json::to_vec(&header)?;
        text.resize(text.len().next_multiple_of(8), b' ');
        let start = 8 + text.len() as u64;

        let cannot = || format!("cannot write in {}", folder.display());
        // As an ordinary file would be made: readable as far as the umask allows.
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        let mut temporary = tempfile::Builder::new()
            .prefix(".hearth-logits-")
            .permissions(permissions)
            .tempfile_in(folder)
            .with_context(cannot)?;
        let file: &mut File = temporary.as_file_mut();
        file.write_all(&(text.len() as u64).to_le_bytes()).with_context(cannot)?;
        file.write_all(&text).with_context(cannot)?;
        file.set_len(start.saturating_add(end)).with_context(cannot)?;

        let mut at = start;
        let mut tensors = Vec::with_capacity(plan.len());
        for tensor in plan {
            let row = tensor.bytes() / tensor.shape.first().copied().unwrap_or(1).max(1) as u64;
            tensors.push((tensor.name, at, row));
            at += tensor.bytes();
        }
        Ok(TensorFile { temporary, tensors })
    }

    /// Writes entries `first ..` of a tensor.
    pub fn write(&self, name: &str, first: usize, bytes: &[u8]) -> anyhow::Result<()> {
        let tensor = self.tensors.iter().find(|(tensor, ..)| *tensor == name);
        let (_, start, row) = tensor.expect("only planned tensors are written");
        self.temporary
            .as_file()
            .write_all_at(bytes, start + row * first as u64)
            .with_context(|| format!("cannot write {name}"))
    }

    /// Puts the complete file in its place, over whatever is there.
    pub fn finish(self, out: &Path) -> anyhow::Result<()> {
        self.temporary.as_file().sync_all().context("cannot write the file to disk")?;
        self.temporary.persist(out).with_context(|| format!("cannot write {}", out.display()))?;
        Ok(())
    }
}
