//! A model as it lies on disk, a folder or a GGUF file: its config and size, before anything is loaded.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::HubError;

/// A config.json is a few kilobytes (with a quantisation map of many modules, a few megabytes).
const CONFIG_LIMIT: u64 = 64 << 20;

/// A folder that holds a model, or a GGUF file.
#[derive(Debug, Clone)]
pub struct FoundModel {
    /// What a profile's `model` takes: the path, or a Hugging Face id.
    pub id: String,
    /// The folder, or the first GGUF file of the model.
    pub path: PathBuf,
    /// config.json; null for GGUF, which has its own header.
    pub config: Value,
    /// Bytes of all files, links followed (the cache links to blobs).
    pub bytes: u64,
}

/// Reads one folder or GGUF file. `id`: the Hugging Face id if it came from the cache, else the path stands for it.
pub fn read(path: &Path, id: Option<&str>) -> Result<FoundModel, HubError> {
    let text = path.to_str().ok_or_else(|| HubError::NotUtf8 { path: path.into() })?;
    let id = id.unwrap_or(text).to_owned();
    if is_gguf(path) {
        let bytes =
            set_of(path).iter().filter_map(|file| fs::metadata(file).ok()).map(|meta| meta.len()).sum();
        return match path.is_file() {
            true => Ok(FoundModel { id, path: path.into(), config: Value::Null, bytes }),
            false => Err(HubError::NoFolder { path: path.into() }),
        };
    }
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
    Ok(FoundModel { id, path: path.into(), config, bytes })
}

/// Whether a path looks like a GGUF file. Only its name is looked at.
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|kind| kind.eq_ignore_ascii_case("gguf"))
}

/// The GGUF models directly inside a folder, in name order: of a set the first file. Vision towers (`mmproj`) are parts of others.
pub fn gguf_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| is_gguf(path) && path.is_file()).filter(|path| is_first_of_set(path)).collect();
    files.sort();
    files
}

/// Whether a GGUF file stands for a model: no vision tower, and no later file of a set.
pub(crate) fn is_first_of_set(path: &Path) -> bool {
    let stem = stem(path);
    !stem.starts_with("mmproj") && numbered(stem).is_none_or(|(_, number, _)| number == "00001")
}

/// Whether two GGUF files are the same, or files of one set.
pub(crate) fn same_set(one: &Path, other: &Path) -> bool {
    let set = |path: &Path| numbered(stem(path)).map(|(name, _, count)| (name.to_owned(), count.to_owned()));
    one == other
        || (is_gguf(one)
            && is_gguf(other)
            && set(one).is_some()
            && set(one) == set(other)
            && one.parent() == other.parent())
}

fn stem(path: &Path) -> &str {
    path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default()
}

/// Name, number and count of `NAME-00001-of-00003`.
fn numbered(stem: &str) -> Option<(&str, &str, &str)> {
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (name, number) = rest.rsplit_once('-')?;
    let five = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    (five(number) && five(count)).then_some((name, number, count))
}

/// The files of the set that begins with `path`; itself if it is no set.
fn set_of(path: &Path) -> Vec<PathBuf> {
    if numbered(stem(path)).is_none() {
        return vec![path.into()];
    }
    let entries = path.parent().and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|other| same_set(path, other)).collect()
}

/// The models directly inside `folder` (and `folder` itself if it is one): folders with a config.json, GGUF files, and the GGUF
/// files of folders without one, in name order; unreadable ones are errors.
pub fn in_folder(folder: &Path) -> Vec<Result<FoundModel, HubError>> {
    if folder.join("config.json").is_file() || is_gguf(folder) {
        return vec![read(folder, None)];
    }
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(cause) => return vec![Err(HubError::Unreadable { path: folder.into(), cause })],
    };
    let mut paths = gguf_files(folder);
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.join("config.json").is_file() {
            paths.push(path);
        } else if path.is_dir() {
            paths.extend(gguf_files(&path));
        }
    }
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
    fn gguf_files_are_models_sets_are_one_and_vision_towers_none() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("publisher");
        fs::create_dir(&inner).unwrap();
        for name in
            ["b.Q4_K_M.GGUF", "a-00001-of-00002.gguf", "a-00002-of-00002.gguf", "mmproj-b.gguf", "x.txt"]
        {
            fs::write(root.path().join(name), "GGUF").unwrap();
        }
        fs::write(inner.join("c.gguf"), "GGUF").unwrap();
        let found: Vec<FoundModel> = in_folder(root.path()).into_iter().map(Result::unwrap).collect();
        let names: Vec<&str> = found.iter().map(|model| model.id.rsplit('/').next().unwrap()).collect();
        assert_eq!(names, ["a-00001-of-00002.gguf", "b.Q4_K_M.GGUF", "c.gguf"]);
        assert_eq!(found.iter().map(|model| model.bytes).collect::<Vec<_>>(), [8, 4, 4]);
        assert_eq!(in_folder(&inner.join("c.gguf")).remove(0).unwrap().config, Value::Null);
        assert!(in_folder(&inner.join("d.gguf")).remove(0).is_err());
    }

    #[test]
    fn a_broken_config_is_an_error_with_a_place() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("config.json"), "{\n  \"a\": ,\n}").unwrap();
        let error = read(root.path(), None).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
    }
}
