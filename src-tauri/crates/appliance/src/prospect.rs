//! Models that are not here: the catalogue against this machine, and what the headers of a repository say about size and speed.
//! Used by the control API.

use std::path::Path;

use hearth_checkpoint::Outline;
use hearth_engine::status::Fault;
use hearth_hub::{
    Catalogue, GgufChoice, HubCache, HubError, Remote, RemoteFile, RemoteOutline, SearchHit, Unusable, Wish,
};
use hearth_model::{ModelError, family};
use serde_json::{Value, json};

use crate::{
    control::{
        model_types::{CatalogueCard, CatalogueList, FormatShare, GgufCard, Prospect, SearchCard},
        types::Profile,
    },
    models::described,
    plan::{Surroundings, plan},
};

/// The catalogue, with what this machine and this version of Hearth add to it. Reads the cache.
pub(crate) fn catalogue(around: &Surroundings) -> CatalogueList {
    let Catalogue { version, checked, models } = Catalogue::builtin();
    let installed = HubCache::from_env().map(|cache| cache.ids()).unwrap_or_default();
    let available = around.available();
    let models = models
        .into_iter()
        .map(|entry| {
            let family_lacks = match family::read(&json!({ "model_type": entry.family })) {
                Err(ModelError::UnknownFamily { .. }) => Some(format!("the family {}", entry.family)),
                _ => None,
            };
            CatalogueCard {
                installed: installed.contains(&entry.repository),
                too_large: entry.bytes.zip(available).map(|(bytes, available)| bytes > available),
                decode_tok_s_ceiling: around
                    .roof
                    .zip(entry.bytes_per_token)
                    .map(|(roof, bytes)| roof / bytes),
                lacks: family_lacks.or(entry.needs),
                name: entry.name,
                repository: entry.repository,
                family: entry.family,
                parameters: entry.parameters,
                format: entry.format,
                bytes: entry.bytes,
                bytes_per_token: entry.bytes_per_token,
                context: entry.context,
                drafter: entry.drafter,
                licence: entry.licence,
                good_for: entry.good_for,
            }
        })
        .collect();
    CatalogueList { version, checked, models }
}

/// What the search found, with what is here. Reads the cache.
pub(crate) fn found(hits: Vec<SearchHit>) -> Vec<SearchCard> {
    let installed = HubCache::from_env().map(|cache| cache.ids()).unwrap_or_default();
    let card = |hit: SearchHit| SearchCard {
        installed: installed.contains(&hit.id),
        id: hit.id,
        downloads: hit.downloads.map(|n| n as f64),
        likes: hit.likes.map(|n| n as f64),
        changed: hit.changed,
        gated: hit.gated,
        parameters: hit.parameters.map(|n| n as f64),
        licence: hit.licence,
        gguf: hit.gguf,
    };
    hits.into_iter().map(card).collect()
}

/// Reads the headers of a repository and sizes it. `profile`: everything but the model.
///
/// # Errors
/// Those of the hub. What is wrong with the model itself is in the answer.
pub(crate) async fn inspect(
    remote: &Remote,
    store: &Path,
    wish: &Wish,
    profile: Profile,
    around: Surroundings,
) -> Result<Prospect, HubError> {
    let outline = RemoteOutline::read(remote, store, wish).await?;
    let store = store.to_path_buf();
    let sized = tokio::task::spawn_blocking(move || size(&outline, &store, profile, &around)).await;
    match sized {
        Ok(sized) => sized,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// The GGUF files of a repository; of the cache only their sizes are read.
///
/// # Errors
/// Those of the hub.
pub(crate) async fn gguf_files(remote: &Remote, wish: &Wish) -> Result<Vec<GgufCard>, HubError> {
    let listing = remote.listing(&wish.id, &wish.revision).await?;
    let repository = HubCache::from_env().map(|cache| cache.repository(&wish.id)).transpose()?;
    let here = |file: &RemoteFile| repository.as_ref().map_or(0, |repository| repository.fetched(file));
    let card = |choice: GgufChoice| GgufCard {
        files: u32::try_from(choice.files.len()).unwrap_or(u32::MAX),
        bytes: choice.files.iter().map(|file| file.size).sum::<u64>() as f64,
        here: choice.files.iter().map(here).sum::<u64>() as f64,
        unusable: choice.unusable.map(|why| match why {
            Unusable::Vision => "vision".into(),
            Unusable::InFolder => "in_folder".into(),
        }),
        file: choice.name,
    };
    Ok(listing.gguf_choices().into_iter().map(card).collect())
}

fn size(
    outline: &RemoteOutline,
    store: &Path,
    profile: Profile,
    around: &Surroundings,
) -> Result<Prospect, HubError> {
    let RemoteOutline { listing, wanted, file, .. } = outline;
    let path = outline.path();
    let model = described(&hearth_hub::read(&path, Some(&listing.id))?);
    let cache = HubCache::from_env();
    let repository = cache.as_ref().map(|cache| cache.repository(&listing.id)).transpose()?;
    let here =
        |repository: &hearth_hub::RepoFolder| wanted.iter().map(|file| repository.fetched(file)).sum::<u64>();
    // A GGUF is sized where its header lies; the id stands for the model in safetensors.
    let named = file.as_ref().and_then(|_| path.to_str()).unwrap_or(&listing.id);
    let profile = Profile { model: named.to_owned(), ..profile };
    let sized = plan(&profile, around, store);
    let read = hearth_model::outline(&path);
    let ggufs = listing.gguf_choices().iter().filter(|choice| choice.unusable.is_none()).count();
    let formats = read.map(|outline| shares(&outline)).unwrap_or_default();
    let fault = model.fault.clone().or_else(|| sized.as_ref().err().cloned());
    let fault = fault.map(|fault| of_the_hub(fault, &outline.folder));
    Ok(Prospect {
        commit: listing.commit.clone(),
        file: file.clone(),
        ggufs: u32::try_from(ggufs).unwrap_or(u32::MAX),
        licence: listing.licence.clone(),
        gated: listing.gated,
        files: u32::try_from(wanted.len()).unwrap_or(u32::MAX),
        bytes: outline.bytes() as f64,
        here: repository.as_ref().map_or(0, here) as f64,
        free: cache.and_then(|cache| cache.free()).map(|bytes| bytes as f64),
        formats,
        fault,
        plan: sized.ok(),
        model,
    })
}

/// A fault in a file that is not here yet: where its header is kept tells a person nothing.
fn of_the_hub(mut fault: Fault, folder: &Path) -> Fault {
    let place = format!("{}/", folder.display());
    fault.message = fault.message.replace(&place, "");
    for value in fault.values.iter_mut().flat_map(|values| values.values_mut()) {
        if let Value::String(text) = value {
            *text = text.replace(&place, "");
        }
    }
    fault
}

/// Weights by format, largest first.
/// Weights by format, largest first.
pub(crate) fn shares(outline: &Outline) -> Vec<FormatShare> {
    let bytes = outline.bytes_by_format("");
    let mut shares: Vec<FormatShare> = [
        ("NVFP4", bytes.nvfp4),
        ("FP8", bytes.fp8),
        ("BF16", bytes.bf16),
        ("F16", bytes.f16),
        ("F32", bytes.f32),
        ("GGUF", bytes.expanded),
        ("other", bytes.other),
    ]
    .into_iter()
    .filter(|(_, bytes)| *bytes > 0)
    .map(|(format, bytes)| FormatShare { format: format.into(), bytes: bytes as f64 })
    .collect();
    shares.sort_by(|a, b| b.bytes.total_cmp(&a.bytes));
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_says_what_this_version_cannot_run_and_why() {
        let list = catalogue(&Surroundings { roof: Some(225e9), ..Surroundings::default() });
        let of = |id: &str| list.models.iter().find(|card| card.repository == id).unwrap();
        let first = of("nvidia/Qwen3.6-35B-A3B-NVFP4");
        assert_eq!((first.lacks.as_deref(), first.decode_tok_s_ceiling), (None, Some(100.0)));
        assert!(of("Intel/Qwen3.5-122B-A10B-int4-AutoRound").lacks.as_deref().unwrap().contains("INT4"));
        assert!(of("deepseek-ai/DeepSeek-V4-Flash").decode_tok_s_ceiling.is_none(), "unknown stays unknown");
    }
}
