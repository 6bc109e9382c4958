//! The Hugging Face cache: `HUB/models--ORG--NAME/{refs/main, snapshots/COMMIT/...}`. Read-only here; `repo` writes.
//! Layout: https://huggingface.co/docs/huggingface_hub/guides/manage-cache

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use crate::{HubError, RepoFolder, download::space, gguf_files, locate::check_id};

/// One cache folder, the one that holds the `models--*` folders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubCache {
    root: PathBuf,
}

impl HubCache {
    /// A cache at a given place.
    pub fn at(root: impl Into<PathBuf>) -> HubCache {
        HubCache { root: root.into() }
    }

    /// Where Hugging Face's own tools look: `HF_HUB_CACHE`, `HF_HOME/hub`, `$XDG_CACHE_HOME/huggingface/hub`, `~/.cache/...`.
    /// Null if the environment names no home.
    pub fn from_env() -> Option<HubCache> {
        HubCache::chosen(|name| env::var_os(name))
    }

    fn chosen(var: impl Fn(&str) -> Option<OsString>) -> Option<HubCache> {
        let set = |name: &str| var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = set("HF_HUB_CACHE")
            .or_else(|| Some(set("HF_HOME")?.join("hub")))
            .or_else(|| Some(set("XDG_CACHE_HOME")?.join("huggingface/hub")))
            .or_else(|| Some(set("HOME")?.join(".cache/huggingface/hub")))?;
        Some(HubCache { root })
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Bytes free on its disk; null if the system does not say.
    pub fn free(&self) -> Option<u64> {
        space::free(&self.root).ok()
    }

    /// The folder of a repository, which need not exist.
    ///
    /// # Errors
    /// `BadName` for what is no Hugging Face id.
    pub fn repository(&self, id: &str) -> Result<RepoFolder, HubError> {
        check_id(id)?;
        Ok(RepoFolder::new(self, id))
    }

    /// The snapshot of a model: the commit that `refs/main` names, else the newest one with a config.json or GGUF files.
    pub fn snapshot(&self, id: &str) -> Result<PathBuf, HubError> {
        let folder = RepoFolder::new(self, id).path();
        if !folder.is_dir() {
            return Err(HubError::NotInCache { id: id.into(), cache: self.root.clone() });
        }
        let snapshots = folder.join("snapshots");
        let named = fs::read_to_string(folder.join("refs/main")).ok().map(|text| text.trim().to_owned());
        // A commit is a plain name; anything else in that file would lead out of the cache.
        let named =
            named.filter(|commit| !commit.is_empty() && commit.bytes().all(|b| b.is_ascii_alphanumeric()));
        if let Some(path) = named.map(|commit| snapshots.join(commit))
            && holds_model(&path)
        {
            return Ok(path);
        }
        let newest = fs::read_dir(&snapshots)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| holds_model(path))
            .max_by_key(|path| fs::metadata(path).and_then(|m| m.modified()).ok());
        newest.ok_or(HubError::NoSnapshot { id: id.into(), folder })
    }

    /// Every model id in the cache that has a snapshot with a config.json or GGUF files, sorted.
    pub fn ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = fs::read_dir(&self.root)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                Some(entry.file_name().to_str()?.strip_prefix("models--")?.replacen("--", "/", 1))
            })
            .filter(|id| self.snapshot(id).is_ok())
            .collect();
        ids.sort();
        ids
    }
}

fn holds_model(snapshot: &Path) -> bool {
    snapshot.join("config.json").is_file() || !gguf_files(snapshot).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_snapshot(root: &Path, id: &str, commit: &str) -> PathBuf {
        let path = root.join(format!("models--{}", id.replace('/', "--"))).join("snapshots").join(commit);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("config.json"), "{}").unwrap();
        path
    }

    #[test]
    fn the_ref_names_the_snapshot() {
        let root = tempfile::tempdir().unwrap();
        let old = with_snapshot(root.path(), "Org/Name", "aaa");
        with_snapshot(root.path(), "Org/Name", "bbb");
        let refs = root.path().join("models--Org--Name/refs");
        fs::create_dir_all(&refs).unwrap();
        fs::write(refs.join("main"), "aaa\n").unwrap();
        assert_eq!(HubCache::at(root.path()).snapshot("Org/Name").unwrap(), old);
    }

    #[test]
    fn a_ref_that_points_out_of_the_cache_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let inside = with_snapshot(root.path(), "Org/Name", "aaa");
        let refs = root.path().join("models--Org--Name/refs");
        fs::create_dir_all(&refs).unwrap();
        fs::create_dir_all(root.path().join("outside")).unwrap();
        fs::write(root.path().join("outside/config.json"), "{}").unwrap();
        fs::write(refs.join("main"), "../../outside").unwrap();
        assert_eq!(HubCache::at(root.path()).snapshot("Org/Name").unwrap(), inside);
    }

    #[test]
    fn a_download_in_part_is_told_from_a_model_that_is_not_there() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("models--Org--Half/blobs")).unwrap();
        let cache = HubCache::at(root.path());
        assert!(matches!(cache.snapshot("Org/Half"), Err(HubError::NoSnapshot { .. })));
        assert!(matches!(cache.snapshot("Org/None"), Err(HubError::NotInCache { .. })));
        assert_eq!(cache.ids(), Vec::<String>::new());
    }

    #[test]
    fn names_with_double_dashes_after_the_organisation_stay_whole() {
        let root = tempfile::tempdir().unwrap();
        with_snapshot(root.path(), "Org/a--b", "aaa");
        assert_eq!(HubCache::at(root.path()).ids(), ["Org/a--b"]);
    }

    #[test]
    fn the_variables_are_read_in_hugging_face_order() {
        let env = |set: &'static [(&str, &str)]| {
            HubCache::chosen(move |name| set.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into()))
                .map(|cache| cache.root.display().to_string())
        };
        assert_eq!(env(&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/h")]).as_deref(), Some("/c"));
        assert_eq!(env(&[("HF_HOME", "/h"), ("HOME", "/u")]).as_deref(), Some("/h/hub"));
        assert_eq!(env(&[("XDG_CACHE_HOME", "/x"), ("HOME", "/u")]).as_deref(), Some("/x/huggingface/hub"));
        assert_eq!(env(&[("HOME", "/u"), ("HF_HOME", "")]).as_deref(), Some("/u/.cache/huggingface/hub"));
        assert_eq!(env(&[]), None);
    }
}
