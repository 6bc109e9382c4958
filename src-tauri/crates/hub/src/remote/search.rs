//! The hub's search, only when a person asks for it.

use serde::Serialize;
use serde_json::Value;

use super::Remote;
use crate::{HubError, listing::is_gated, locate::is_id};

/// A repository the search found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SearchHit {
    /// Hugging Face id.
    pub id: String,
    /// Downloads in the last month, as the hub counts them.
    pub downloads: Option<u64>,
    /// Likes.
    pub likes: Option<u64>,
    /// When it was last changed, ISO 8601.
    pub changed: Option<String>,
    /// Whether its conditions must be accepted.
    pub gated: bool,
    /// Parameters by the safetensors headers; null if the hub does not say.
    pub parameters: Option<u64>,
    /// Licence, as its tags say.
    pub licence: Option<String>,
    /// It has no safetensors, but GGUF files.
    pub gguf: bool,
}

impl Remote {
    /// Models with safetensors or GGUF files that match `query`, most downloaded first, at most `limit`.
    pub async fn search(&self, query: &str, limit: u32) -> Result<Vec<SearchHit>, HubError> {
        let (mut hits, ggufs) =
            tokio::try_join!(self.of_kind("safetensors", query, limit), self.of_kind("gguf", query, limit))?;
        let others = ggufs.into_iter().filter(|hit| hits.iter().all(|other| other.id != hit.id));
        let others: Vec<SearchHit> = others.map(|hit| SearchHit { gguf: true, ..hit }).collect();
        hits.extend(others);
        hits.sort_by_key(|hit| std::cmp::Reverse(hit.downloads));
        hits.truncate(limit as usize);
        Ok(hits)
    }

    async fn of_kind(&self, kind: &str, query: &str, limit: u32) -> Result<Vec<SearchHit>, HubError> {
        let mut url = self.url(["api", "models"].into_iter());
        url.query_pairs_mut()
            .append_pair("search", query)
            .append_pair("filter", kind)
            .append_pair("sort", "downloads")
            .append_pair("direction", "-1")
            .append_pair("limit", &limit.to_string())
            .extend_pairs(
                ["downloads", "likes", "lastModified", "gated", "tags", "safetensors"]
                    .map(|field| ("expand[]", field)),
            );
        let answer = self.json(url, "the search", "").await?;
        let found = answer.as_array().ok_or_else(|| HubError::BadAnswer {
            host: self.host(),
            what: "it is no list of models".into(),
        })?;
        Ok(found.iter().filter_map(hit).collect())
    }
}

/// Null for an entry without a proper id, which could not be asked for anyway.
fn hit(entry: &Value) -> Option<SearchHit> {
    let tags = entry["tags"].as_array().into_iter().flatten().filter_map(Value::as_str);
    Some(SearchHit {
        id: entry["id"].as_str().filter(|id| is_id(id))?.into(),
        downloads: entry["downloads"].as_u64(),
        likes: entry["likes"].as_u64(),
        changed: entry["lastModified"].as_str().map(str::to_owned),
        gated: is_gated(entry),
        parameters: entry["safetensors"]["total"].as_u64(),
        licence: tags.into_iter().find_map(|tag| tag.strip_prefix("license:")).map(str::to_owned),
        gguf: false,
    })
}
