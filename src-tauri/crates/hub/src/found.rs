//! A model folder as it lies on disk: its config and size, before anything is loaded.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::HubError;

/// A config.json is a few kilobytes (with a quantisation map of many modules, a few megabytes).
const CONFIG_LIMIT: u64 = 64 << 20;

/// A folder that holds a model.
#[derive(Debug, Clone)]
pub struct FoundModel {
    /// What a profile's `model` takes: the path, or a Hugging Face id.
    pub id: String,
    /// The folder.
    pub path: PathBuf,
    /// config.json.
    pub config: Value,
    /// Bytes of all files, links followed (the cache links to blobs).
    pub bytes: u64,
}

/// Reads one folder. `id`: the Hugging Face id if it came from the cache, else the path stands for it.
pub fn read(path: &Path, id: Option<&str>) -> Result<FoundModel, HubError> {
    let text = path.to_str().ok_or_else(|| HubError::NotUtf8 { path: path.into() })?;
    let file = path.join("config.json");
    let unreadable = |cause| HubError::Unreadable { path: file.clone(), cause };
    let mut config = Vec::new();
    fs::File::open(&file)
        .map_err(unreadable)?
        .take(CONFIG_LIMIT)
        .read_to_end(&mut config)
        .map_err(unreadable)?;
    let config =
        serde_json::from_slice(&config).map_err(|cause| HubError::BadConfig { path: file.clone(), cause })?;
    let bytes = fs::read_dir(path)
        .map_err(|cause| HubError::Unreadable { path: path.into(), cause })?
        .flatten()
        .filter_map(|entry| fs::metadata(entry.path()).ok())
        .filter(|meta| meta.is_file())
        .map(|meta| meta.len())
        .sum();
    Ok(FoundModel { id: id.unwrap_or(text).into(), path: path.into(), config, bytes })
}

/// Says so if a path is a GGUF file, or a folder that holds nothing else, which would only be called "no model" otherwise.
pub fn refuse_gguf(path: &Path) -> Result<(), HubError> {
    let is_gguf = |path: &Path| path.extension().is_some_and(|kind| kind.eq_ignore_ascii_case("gguf"));
    let entries = || fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let only = !path.join("config.json").is_file() && entries().any(|path| is_gguf(&path));
    match is_gguf(path) || only {
        true => Err(HubError::Gguf { place: path.display().to_string() }),
        false => Ok(()),
    }
}

/// The model folders directly inside `folder` (and `folder` itself if it is one), in name order; unreadable ones are errors.
pub fn in_folder(folder: &Path) -> Vec<Result<FoundModel, HubError>> {
    if folder.join("config.json").is_file() {
        return vec![read(folder, None)];
    }
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(cause) => return vec![Err(HubError::Unreadable { path: folder.into(), cause })],
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.join("config.json").is_file());
    paths.sort();
    paths.iter().map(|path| read(path, None)).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn size_counts_what_links_lead_to() {
        let root = tempfile::tempdir().unwrap();
        let model = root.path().join("model");
        fs::create_dir(&model).unwrap();
        fs::write(model.join("config.json"), "{}").unwrap();
        fs::write(root.path().join("blob"), vec![0; 1000]).unwrap();
        std::os::unix::fs::symlink("../blob", model.join("model.safetensors")).unwrap();
        assert_eq!(read(&model, None).unwrap().bytes, 1002);
        assert_eq!(in_folder(root.path()).len(), 1);
    }

    #[test]
    fn a_path_that_is_not_utf8_is_an_error_that_says_so() {
        let root = tempfile::tempdir().unwrap();
        let model = root.path().join(std::ffi::OsStr::from_bytes(b"mod\xffel"));
        fs::create_dir(&model).unwrap();
        fs::write(model.join("config.json"), "{}").unwrap();
        let error = in_folder(root.path()).remove(0).unwrap_err();
        assert_eq!(error.code(), "path_not_utf8");
    }

    #[test]
    fn gguf_is_told_from_no_model_at_all() {
        let root = tempfile::tempdir().unwrap();
        assert!(refuse_gguf(root.path()).is_ok());
        let file = root.path().join("model.Q4_K_M.GGUF");
        fs::write(&file, "GGUF").unwrap();
        for path in [root.path(), &file] {
            assert_eq!(refuse_gguf(path).unwrap_err().code(), "gguf_not_supported");
        }
        fs::write(root.path().join("config.json"), "{}").unwrap();
        assert!(refuse_gguf(root.path()).is_ok());
    }

    #[test]
    fn a_broken_config_is_an_error_with_a_place() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("config.json"), "{\n  \"a\": ,\n}").unwrap();
        let error = read(root.path(), None).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
    }
}
