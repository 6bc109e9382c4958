//! What a repository on the hub holds at one commit, and which of its files a model needs. Filled from the hub's answer by
//! `remote`, used by `download` and `headers`.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    HubError,
    found::{is_first_of_set, is_gguf, same_set},
};

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteFile {
    /// Path in the repository.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Name in the cache's `blobs`: SHA-256 of a large file, else git's SHA-1, both as hex.
    pub blob: String,
}

/// A GGUF of a repository that can be chosen, or why it cannot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufChoice {
    /// Its name; of a set, that of the first file.
    pub name: String,
    /// The file and the others of its set.
    pub files: Vec<RemoteFile>,
    /// Why it is no model by itself; null for one that is.
    pub unusable: Option<Unusable>,
}

/// Why a GGUF file cannot be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusable {
    /// It is the vision tower of another model (`mmproj`).
    Vision,
    /// It lies in a folder of the repository, where nothing is fetched from.
    InFolder,
}

/// A repository at one commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// Hugging Face id.
    pub id: String,
    /// The commit, 40 hex digits.
    pub commit: String,
    /// Every file.
    pub files: Vec<RemoteFile>,
    /// Whether its conditions must be accepted before files can be fetched.
    pub gated: bool,
    /// As its card says it, such as `apache-2.0`; null if it does not.
    pub licence: Option<String>,
}

impl Listing {
    /// Reads the hub's answer about a repository. The text says what is wrong with it.
    pub(crate) fn from_answer(id: &str, answer: &Value) -> Result<Listing, String> {
        let commit = answer["sha"].as_str().filter(|sha| is_hex(sha, 40));
        let commit = commit.ok_or("it names no commit")?.to_owned();
        let siblings = answer["siblings"].as_array().ok_or("it lists no files")?;
        let files = siblings.iter().map(file).collect::<Result<Vec<_>, _>>()?;
        let licence = answer["cardData"]["license"].as_str().map(str::to_owned).or_else(|| {
            let tags = answer["tags"].as_array()?.iter().filter_map(Value::as_str);
            tags.into_iter().find_map(|tag| tag.strip_prefix("license:")).map(str::to_owned)
        });
        Ok(Listing { id: id.into(), commit, files, gated: is_gated(answer), licence })
    }

    /// The files a model needs: what lies at the top as configuration, tokenizer, template, licence text or safetensors.
    /// Other formats of the same weights, pictures and sub-folders stay on the hub. Of a GGUF that was chosen by its `file`, only
    /// that, and the others of its set.
    ///
    /// # Errors
    /// `Gguf` and `NoWeights` if there is nothing to run, `NoSuchFile` for a file that is not there.
    pub fn wanted(&self, file: Option<&str>) -> Result<Vec<RemoteFile>, HubError> {
        if let Some(name) = file {
            return self.gguf(name);
        }
        let has = |name: &str| self.files.iter().any(|file| file.path == name);
        // The publisher's own format of the same weights, next to the common one.
        let doubled = has("model.safetensors") || has("model.safetensors.index.json");
        let wanted: Vec<RemoteFile> = self
            .files
            .iter()
            .filter(|file| !(doubled && file.path.starts_with("consolidated")))
            .filter(|file| !file.path.contains('/') && is_wanted(&file.path))
            .cloned()
            .collect();
        if !wanted.iter().any(|file| file.path.ends_with(".safetensors")) {
            return Err(match self.files.iter().any(|file| file.path.ends_with(".gguf")) {
                true => HubError::Gguf { place: self.id.clone(), files: self.ggufs() },
                false => HubError::NoWeights { id: self.id.clone() },
            });
        }
        Ok(wanted)
    }

    /// Every GGUF, sets as one, in the order of the names; those that cannot be chosen last.
    pub fn gguf_choices(&self) -> Vec<GgufChoice> {
        let is_other = |file: &&RemoteFile| {
            let (path, name) = (Path::new(&file.path), file.path.rsplit('/').next().unwrap_or_default());
            is_gguf(path) && (file.path.contains('/') && is_first_of_set(path) || name.starts_with("mmproj"))
        };
        let mut models = self.ggufs();
        models.sort_unstable();
        let chosen = models.into_iter().filter_map(|name| {
            let files = self.gguf(&name).ok()?;
            Some(GgufChoice { name, files, unusable: None })
        });
        let others = self.files.iter().filter(is_other).map(|file| GgufChoice {
            name: file.path.clone(),
            files: self
                .files
                .iter()
                .filter(|other| same_set(Path::new(&file.path), Path::new(&other.path)))
                .cloned()
                .collect(),
            unusable: Some(match file.path.contains('/') {
                true => Unusable::InFolder,
                false => Unusable::Vision,
            }),
        });
        chosen.chain(others).collect()
    }

    /// The GGUF models at the top, of a set the first file.
    fn ggufs(&self) -> Vec<String> {
        let at_the_top = |path: &&str| !path.contains('/') && is_gguf(Path::new(path));
        let first = |path: &&str| is_first_of_set(Path::new(path));
        let names = self.files.iter().map(|file| file.path.as_str());
        names.filter(at_the_top).filter(first).map(str::to_owned).collect()
    }

    fn gguf(&self, name: &str) -> Result<Vec<RemoteFile>, HubError> {
        let files: Vec<RemoteFile> = self
            .files
            .iter()
            .filter(|file| same_set(Path::new(name), Path::new(&file.path)))
            .cloned()
            .collect();
        let is_there = files.iter().any(|file| file.path == name);
        if !is_there || name.contains('/') || !is_gguf(Path::new(name)) {
            let file = name.chars().take(200).collect();
            return Err(HubError::NoSuchFile { place: self.id.clone(), file, files: self.ggufs() });
        }
        Ok(files)
    }
}

/// True for `gated: "auto"` and `"manual"`; the hub says `false` for the others.
pub(crate) fn is_gated(answer: &Value) -> bool {
    answer["gated"].as_str().is_some() || answer["gated"] == true
}

fn is_wanted(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let kind = lower.rsplit_once('.').map(|(_, kind)| kind);
    let text = matches!(kind, Some("json" | "safetensors" | "jinja" | "txt" | "model" | "tiktoken"));
    text || lower.starts_with("license") || lower.starts_with("notice")
}

fn file(sibling: &Value) -> Result<RemoteFile, String> {
    let path = sibling["rfilename"].as_str().ok_or("a file has no name")?;
    let climbs = path.split('/').any(|part| matches!(part, "" | "." | ".."));
    if climbs || path.contains(['\\', '\0']) || path.len() > 1024 {
        return Err(format!("the file name {path:?} leads out of the repository"));
    }
    let sha256 = sibling["lfs"]["sha256"].as_str().filter(|hash| is_hex(hash, 64));
    let blob = sha256.or_else(|| sibling["blobId"].as_str().filter(|hash| is_hex(hash, 40)));
    let blob = blob.ok_or_else(|| format!("it gives no checksum of {path}"))?.to_ascii_lowercase();
    let size = sibling["lfs"]["size"].as_u64().or_else(|| sibling["size"].as_u64());
    let size = size.ok_or_else(|| format!("it gives no size of {path}"))?;
    Ok(RemoteFile { path: path.into(), size, blob })
}

/// Whether text is exactly so many hex digits: hashes become file names.
pub(crate) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(names: &[&str]) -> Value {
        let sibling = |name: &&str| json!({"rfilename": name, "size": 3, "blobId": "b".repeat(40)});
        json!({"sha": "a".repeat(40), "siblings": names.iter().map(sibling).collect::<Vec<_>>(), "gated": false})
    }

    fn wanted(names: &[&str]) -> Result<Vec<String>, &'static str> {
        let listing = Listing::from_answer("Org/Name", &answer(names)).unwrap();
        let files = listing.wanted(None).map_err(|error| error.code())?;
        Ok(files.into_iter().map(|file| file.path).collect())
    }

    #[test]
    fn a_model_needs_its_weights_configuration_and_tokenizer_and_no_other_format_of_them() {
        let names = [
            ".gitattributes",
            "README.md",
            "LICENSE",
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json",
            "merges.txt",
            "chat_template.jinja",
            "pytorch_model.bin",
            "model.Q4_K.gguf",
            "picture.png",
            "onnx/model.onnx",
            "original/params.json",
            "consolidated.safetensors",
        ];
        let kept = [
            "LICENSE",
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json",
            "merges.txt",
            "chat_template.jinja",
        ];
        assert_eq!(wanted(&names).unwrap(), kept);
        assert_eq!(wanted(&["consolidated.safetensors"]).unwrap(), ["consolidated.safetensors"]);
        assert_eq!(wanted(&["config.json", "a.gguf"]), Err("gguf_not_supported"));
        assert_eq!(wanted(&["config.json", "pytorch_model.bin"]), Err("no_weights"));
    }

    #[test]
    fn one_gguf_is_fetched_by_its_name_with_its_set_and_nothing_beside_it() {
        let set = ["m-Q8-00001-of-00002.gguf", "m-Q8-00002-of-00002.gguf"];
        let names =
            [&set[..], &["m-Q4.gguf", "mmproj.gguf", "README.md", "deep/m-Q2.gguf", "config.json"]].concat();
        let listing = Listing::from_answer("Org/Name", &answer(&names)).unwrap();
        let wanted = |file: &str| {
            let files = listing.wanted(Some(file)).map_err(|error| error.code())?;
            Ok(files.into_iter().map(|file| file.path).collect::<Vec<_>>())
        };
        assert_eq!(wanted("m-Q4.gguf").unwrap(), ["m-Q4.gguf"]);
        assert_eq!(wanted(set[0]).unwrap(), set);
        for absent in ["m-Q5.gguf", "config.json", "deep/m-Q2.gguf", "../m-Q4.gguf", ""] {
            assert_eq!(wanted(absent), Err("no_such_file"), "{absent}");
        }
        let told = listing.wanted(None).unwrap_err().to_string();
        assert!(told.contains("m-Q8-00001-of-00002.gguf, m-Q4.gguf") && !told.contains("00002-of"), "{told}");
    }

    #[test]
    fn all_ggufs_are_told_sets_as_one_and_those_that_are_no_model_with_the_reason() {
        let names = [
            "m-Q8-00002-of-00002.gguf",
            "m-Q8-00001-of-00002.gguf",
            "m-Q4.gguf",
            "mmproj-f16.gguf",
            "deep/m-Q2.gguf",
            "README.md",
        ];
        let choices = Listing::from_answer("Org/Name", &answer(&names)).unwrap().gguf_choices();
        let told: Vec<_> =
            choices.iter().map(|one| (one.name.as_str(), one.files.len(), one.unusable)).collect();
        assert_eq!(
            told,
            [
                ("m-Q4.gguf", 1, None),
                ("m-Q8-00001-of-00002.gguf", 2, None),
                ("mmproj-f16.gguf", 1, Some(Unusable::Vision)),
                ("deep/m-Q2.gguf", 1, Some(Unusable::InFolder)),
            ]
        );
    }

    #[test]
    fn names_and_hashes_that_would_lead_out_of_the_cache_are_refused() {
        for name in ["../x", "a/../../x", "/etc/passwd", "a//b", "", "a\0b", "a\\b"] {
            assert!(Listing::from_answer("o/n", &answer(&[name])).is_err(), "{name:?}");
        }
        let mut bad = answer(&["config.json"]);
        bad["siblings"][0]["blobId"] = json!("../../../etc/passwd");
        assert!(Listing::from_answer("o/n", &bad).unwrap_err().contains("config.json"));
        bad["sha"] = json!("../../refs");
        assert!(Listing::from_answer("o/n", &bad).unwrap_err().contains("commit"));
    }

    #[test]
    fn large_files_are_named_by_their_sha256_and_the_licence_is_found() {
        let mut whole = answer(&["model.safetensors"]);
        whole["siblings"][0]["lfs"] = json!({"sha256": "C".repeat(64), "size": 9});
        whole["tags"] = json!(["text-generation", "license:mit"]);
        whole["gated"] = json!("manual");
        let listing = Listing::from_answer("o/n", &whole).unwrap();
        assert_eq!((listing.files[0].blob.as_str(), listing.files[0].size), ("c".repeat(64).as_str(), 9));
        assert_eq!((listing.licence.as_deref(), listing.gated), (Some("mit"), true));
    }
}
