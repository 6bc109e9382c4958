//! What kept keys, values and states depend on, as a digest: two engines with the same one compute the same bytes. Where in
//! doubt it differs, which costs a cold start.

use std::{
    fmt::Debug,
    io,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use sha2::{Digest, Sha256};

/// What was loaded, and how it computes.
#[derive(Debug)]
pub struct Computed<'a> {
    /// The checkpoint's folder or file; None: the built-in one.
    pub weights: Option<&'a Path>,
    /// Its `config.json`.
    pub config: &'a serde_json::Value,
    /// What was made of it, with everything that the options changed.
    pub spec: &'a dyn Debug,
    /// How keys and values are kept.
    pub kv: &'a str,
    /// Prefill uses decode's arithmetic.
    pub exact: bool,
    /// The device, its driver, and what else changes its results.
    pub device: &'a str,
}

/// The digest. Weights are told by the names, sizes and times of their files, and by the names that a Hugging Face cache gives
/// by contents.
///
/// # Errors
/// The files cannot be listed.
pub fn model_digest(computed: &Computed<'_>) -> io::Result<String> {
    let Computed { weights, config, spec, kv, exact, device } = computed;
    let mut hash = Sha256::new();
    let mut add = |text: String| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    };
    add(format!("Hearth {}", env!("CARGO_PKG_VERSION")));
    add(config.to_string());
    add(format!("{spec:?}"));
    add(format!("{kv} {exact} {device}"));
    for line in weights.map(files_of).transpose()?.unwrap_or_default() {
        add(line);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A line for every file of a checkpoint.
fn files_of(weights: &Path) -> io::Result<Vec<String>> {
    let mut files: Vec<PathBuf> = if weights.is_dir() {
        std::fs::read_dir(weights)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?
    } else {
        vec![weights.to_owned()]
    };
    files.sort();
    let mut lines = Vec::new();
    for file in files {
        let real = file.canonicalize()?;
        let metadata = real.metadata()?;
        if metadata.is_dir() {
            continue;
        }
        let changed = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        lines.push(format!("{} {} {} {changed}", name(&file), name(&real), metadata.len()));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use serde_json::json;

    use super::*;

    #[test]
    fn whatever_changes_what_is_computed_changes_the_digest() {
        let home = tempfile::tempdir().expect("a folder");
        let shard = home.path().join("model.safetensors");
        std::fs::write(&shard, "weights").expect("writable");
        let then = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(5);
        let set =
            |time| std::fs::File::options().append(true).open(&shard).and_then(|f| f.set_modified(time));
        set(then).expect("settable");
        let (config, other) = (json!({"layers": 2}), json!({"layers": 3}));
        let base = || Computed {
            weights: Some(home.path()),
            config: &config,
            spec: &"spec",
            kv: "bf16",
            exact: false,
            device: "cpu",
        };
        let of = |computed: Computed<'_>| model_digest(&computed).expect("files");
        let first = of(base());
        assert_eq!(first, of(base()));
        let mut seen = vec![first.clone()];
        for changed in [
            Computed { config: &other, ..base() },
            Computed { spec: &"another", ..base() },
            Computed { kv: "fp8", ..base() },
            Computed { exact: true, ..base() },
            Computed { device: "cuda", ..base() },
            Computed { weights: None, ..base() },
        ] {
            seen.push(of(changed));
        }
        std::fs::write(&shard, "weightz").expect("writable");
        seen.push(of(base()));
        set(then).expect("settable");
        assert_eq!(of(base()), first, "only the time told them apart: it is part of it");
        std::fs::write(home.path().join("another.safetensors"), "more").expect("writable");
        seen.push(of(base()));
        seen.sort();
        let count = seen.len();
        seen.dedup();
        assert_eq!(seen.len(), count);
        assert!(model_digest(&Computed { weights: Some(Path::new("/nowhere")), ..base() }).is_err());
    }
}
