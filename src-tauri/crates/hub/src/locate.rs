//! From what a person typed to a place: `ember`, a folder, or a snapshot in the Hugging Face cache.

use std::path::{Path, PathBuf};

use crate::{HubCache, HubError, gguf_files, is_gguf};

/// Name of the built-in model.
pub const EMBER: &str = "ember";

/// Where a model is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// Inside the program.
    BuiltIn,
    /// A folder that holds a config.json, or a GGUF file (the first of a set); `id` is the Hugging Face id if it came from the cache.
    Folder {
        /// Folder or file.
        path: PathBuf,
        /// Hugging Face id.
        id: Option<String>,
    },
}

/// Finds a model. A name with a leading `/`, `.` or `~`, or one that is a folder or a GGUF file here, is a path; else it must be an id.
/// A folder with a single GGUF model stands for it.
pub fn locate(name: &str, cache: Option<&HubCache>) -> Result<Location, HubError> {
    if name == EMBER {
        return Ok(Location::BuiltIn);
    }
    let bad = || HubError::BadName { name: name.chars().take(200).collect() };
    if name.is_empty() || name.contains('\0') {
        return Err(bad());
    }
    let path = expanded(name);
    let is_gguf_file = is_gguf(&path) && path.is_file();
    if name.starts_with(['/', '.', '~']) || path.is_dir() || is_gguf_file {
        if is_gguf_file || path.join("config.json").is_file() {
            return Ok(Location::Folder { path, id: None });
        }
        if !path.is_dir() {
            return Err(HubError::NoFolder { path });
        }
        return only_gguf(path, None);
    }
    if !is_id(name) {
        return Err(bad());
    }
    let cache = cache.ok_or_else(|| HubError::NotInCache { id: name.into(), cache: PathBuf::new() })?;
    let path = cache.snapshot(name)?;
    if path.join("config.json").is_file() {
        return Ok(Location::Folder { path, id: Some(name.into()) });
    }
    only_gguf(path, Some(name.into()))
}

/// The GGUF model of a folder without a config.json.
fn only_gguf(path: PathBuf, id: Option<String>) -> Result<Location, HubError> {
    match gguf_files(&path).as_slice() {
        [] => Err(HubError::NoConfig { path }),
        [one] => Ok(Location::Folder { path: one.clone(), id }),
        many => Err(HubError::SeveralGguf { count: many.len(), path }),
    }
}

/// A path as a person types it: `~/` is the home folder.
pub fn expanded(name: &str) -> PathBuf {
    match name.strip_prefix("~/").zip(std::env::var_os("HOME")) {
        Some((rest, home)) => Path::new(&home).join(rest),
        None => PathBuf::from(name),
    }
}

/// Refuses what cannot be a Hugging Face id.
pub(crate) fn check_id(name: &str) -> Result<(), HubError> {
    match is_id(name) {
        true => Ok(()),
        false => Err(HubError::BadName { name: name.chars().take(200).collect() }),
    }
}

/// `organisation/name`, in the characters Hugging Face allows, at most 96 each; `..` and `--` would not map back.
pub(crate) fn is_id(name: &str) -> bool {
    let part = |text: &str| {
        (1..=96).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
            && !text.contains("..")
            && !text.starts_with(['-', '.'])
    };
    name.split_once('/').is_some_and(|(organisation, model)| part(organisation) && part(model))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ember_is_built_in_and_a_folder_is_a_folder() {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().to_str().unwrap();
        assert_eq!(locate("ember", None).unwrap(), Location::BuiltIn);
        assert!(matches!(locate(path, None), Err(HubError::NoConfig { .. })));
        std::fs::write(here.path().join("config.json"), "{}").unwrap();
        assert_eq!(locate(path, None).unwrap(), Location::Folder { path: here.path().into(), id: None });
    }

    #[test]
    fn a_gguf_file_is_found_and_a_folder_with_one_stands_for_it() {
        let here = tempfile::tempdir().unwrap();
        let (folder, file) = (here.path().to_str().unwrap(), here.path().join("m.gguf"));
        assert!(matches!(locate(file.to_str().unwrap(), None), Err(HubError::NoFolder { .. })));
        std::fs::write(&file, "GGUF").unwrap();
        for name in [folder, file.to_str().unwrap()] {
            assert_eq!(locate(name, None).unwrap(), Location::Folder { path: file.clone(), id: None });
        }
        std::fs::write(here.path().join("n.gguf"), "GGUF").unwrap();
        assert!(matches!(locate(folder, None), Err(HubError::SeveralGguf { count: 2, .. })));
    }

    #[test]
    fn an_id_cannot_climb_out_of_the_cache() {
        let cache = HubCache::at("/nowhere");
        for name in ["a/../../etc", "../x", "a/..", "-a/b", "a/b/c", "a b/c", "", "x\0/y", "noslash"] {
            let found = locate(name, Some(&cache));
            assert!(
                matches!(found, Err(HubError::BadName { .. } | HubError::NoFolder { .. })),
                "{name:?}: {found:?}"
            );
        }
    }

    #[test]
    fn an_unknown_id_is_an_error_that_names_the_cache() {
        let error = locate("Qwen/Nothing", Some(&HubCache::at("/nowhere/hub"))).unwrap_err();
        assert_eq!(error.code(), "model_not_on_disk");
        assert!(error.to_string().contains("/nowhere/hub"), "{error}");
    }
}
