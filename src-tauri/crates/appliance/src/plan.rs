//! What a start would need, from the same budget the loader plans with, against what this machine has. Used by the control API.

use std::path::Path;

use hearth_checkpoint::{Checkpoint, Outline};
use hearth_engine::{
    Depth, DraftWish,
    status::{EngineMemory, Fault},
};
use hearth_hub::{HubCache, Location, RemoteOutline, locate};
use hearth_model::{Budget, KvTypes, LoadOptions, ModelError, family};
use hearth_monitor::HostMemory;

use crate::{
    control::types::{ContextNeed, ExpandedWeights, MemoryPart, Plan, Profile, Source},
    models,
};

/// Shortest context an engine tries when the profile leaves it open.
const SHORTEST: usize = 2048;

/// What the plan is measured against.
#[derive(Debug, Clone, Default)]
pub(crate) struct Surroundings {
    /// Memory now; null if unknown.
    pub host: Option<HostMemory>,
    /// What stopping the present engine gives back.
    pub engine: Option<EngineMemory>,
    /// Kept free for the host, bytes.
    pub reserve: f64,
    /// Measured read bandwidth, bytes per second.
    pub roof: Option<f64>,
}

impl Surroundings {
    /// Bytes to be had once the present engine is stopped and the host has its reserve.
    pub fn available(&self) -> Option<f64> {
        let freed = self.engine.as_ref().map_or(0.0, |m| m.weights + m.kv + m.state + m.scratch);
        self.host.map(|host| (host.available as f64 + freed - self.reserve).clamp(0.0, host.total as f64))
    }
}

/// Sizes a profile. `outlines` has the headers of models that are not here. The fault says why it cannot be sized.
pub(crate) fn plan(profile: &Profile, around: &Surroundings, outlines: &Path) -> Result<Plan, Fault> {
    let model_fault = |e: ModelError| models::model_fault(&e);
    let at = locate(&profile.model, HubCache::from_env().as_ref()).or_else(|error| {
        let known = RemoteOutline::known(outlines, &profile.model, None);
        known
            .map(|known| Location::Folder { path: known.folder, id: None })
            .ok_or_else(|| models::fault(&error))
    })?;
    let built_in;
    let read;
    let outline: &Outline = match at {
        Location::BuiltIn => {
            built_in = Checkpoint::builtin().map_err(|e| model_fault(e.into()))?;
            built_in.outline()
        }
        Location::Folder { path, .. } => {
            read = hearth_model::outline(&path).map_err(model_fault)?;
            &read
        }
    };
    let mut spec = family::read(outline.config()).map_err(model_fault)?;
    family::settle(&mut spec, &|name| outline.contains(name));
    let depth = profile.mtp_depth.parse::<Depth>().unwrap_or_default().most();
    if depth == 0 {
        spec.mtp = None;
    }
    let wish = profile.draft_head.parse::<DraftWish>().unwrap_or_default();
    let draft_head = match profile.draft_vocabulary.as_deref().filter(|_| spec.mtp.is_some()) {
        Some(file) => wish.sized_by(file, spec.vocab)?,
        // Which tokens it has makes no difference to its size.
        None => wish.sized(spec.vocab),
    };
    let mut options = LoadOptions {
        context: profile.context.map_or(spec.context, |n| n as usize),
        slots: profile.max_requests as usize,
        kv: profile.kv.parse::<KvTypes>().map_err(model_fault)?,
        exact: profile.exact,
        mtp: spec.mtp.is_some(),
        draft_head,
        snapshots: LoadOptions::snapshots_for(profile.max_requests as usize, depth),
        ..LoadOptions::default()
    };
    let mut budget = Budget::of(&spec, outline, &options).map_err(model_fault)?;
    // An engine whose profile leaves the context open takes half until it fits; so does the plan.
    let available = around.available();
    while profile.context.is_none()
        && options.context > SHORTEST
        && available.is_some_and(|available| budget.total() as f64 > available)
    {
        options.context = (options.context / 2).max(SHORTEST);
        budget = Budget::of(&spec, outline, &options).map_err(model_fault)?;
    }
    let tokens = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let largest = outline.tensors().map(|tensor| tensor.loaded_bytes()).max().unwrap_or(0);
    let plan = verdict(&budget, tokens(options.context), largest, around);
    let contexts = contexts(spec.context, spec.longest())
        .into_iter()
        .map(|context| {
            let budget = Budget::of(&spec, outline, &LoadOptions { context, ..options.clone() })?;
            Ok(ContextNeed { context: tokens(context), needed: budget.total() as f64 })
        })
        .collect::<Result<Vec<_>, _>>();
    let expanded = outline.expanded().map(|expanded| ExpandedWeights {
        types: expanded.types.into_iter().map(str::to_owned).collect(),
        stored: expanded.stored as f64,
        loaded: expanded.loaded as f64,
    });
    Ok(Plan {
        max_context: tokens(spec.longest()),
        native_context: tokens(spec.context),
        stretch: spec.stretch(options.context).map_err(model_fault)?.map(tokens),
        contexts: contexts.map_err(model_fault)?,
        expanded,
        ..plan
    })
}

/// The marks of the context slider: 8K and its doubles up to 1M, as far as the model goes, its own context and its longest.
fn contexts(own: usize, longest: usize) -> Vec<usize> {
    let mut marks: Vec<usize> =
        (13..=20).map(|power| 1 << power).filter(|n| *n < longest).chain([own, longest]).collect();
    marks.sort_unstable();
    marks.dedup();
    marks
}

fn verdict(budget: &Budget, context: u32, largest: u64, around: &Surroundings) -> Plan {
    let part =
        |kind: &str, bytes: u64| MemoryPart { kind: kind.into(), bytes: bytes as f64, source: Source::Exact };
    let weights = budget.weights.total() + budget.mtp_weights.total();
    let parts = vec![
        part("weights", weights),
        part("kv_reserved", budget.kv),
        part("state", budget.state),
        MemoryPart { source: Source::Estimated, ..part("scratch", budget.scratch) },
    ];
    let needed = budget.total() as f64;
    let peak = needed + largest as f64;
    let available = around.available();
    let verdict = match available {
        Some(available) if needed > available => "does_not_fit",
        // Within a tenth of what there is, the next large program decides; so it does if only loading needs more.
        Some(available) if needed > 0.9 * available || peak > available => "tight",
        _ => "fits",
    };
    let bytes_per_token = budget.read_per_token(context as usize / 2).total() as f64;
    Plan {
        verdict: verdict.into(),
        context,
        parts,
        needed,
        peak,
        available,
        max_context: context,
        native_context: context,
        stretch: None,
        contexts: Vec::new(),
        expanded: None,
        roof: around.roof,
        bytes_per_token: Some(bytes_per_token),
        decode_tok_s_ceiling: around
            .roof
            .filter(|_| bytes_per_token > 0.0)
            .map(|roof| roof / bytes_per_token),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(profile: &Profile, around: &Surroundings) -> Result<Plan, Fault> {
        super::plan(profile, around, Path::new("/nowhere"))
    }

    fn around(available: u64, reserve: f64) -> Surroundings {
        let host = HostMemory { total: 64 << 30, free: available / 2, available };
        Surroundings { host: Some(host), engine: None, reserve, roof: Some(30e9) }
    }

    #[test]
    fn ember_fits_and_its_parts_add_up() {
        let plan = plan(&Profile::default(), &around(16 << 30, 1e9)).unwrap();
        assert_eq!(plan.verdict, "fits");
        let sum: f64 = plan.parts.iter().map(|part| part.bytes).sum();
        assert_eq!(sum, plan.needed);
        assert!(plan.decode_tok_s_ceiling.unwrap() > 0.0);
        assert!(plan.contexts.windows(2).all(|pair| pair[0].needed < pair[1].needed));
        assert_eq!(plan.contexts.last().map(|need| need.context), Some(plan.max_context));
        assert!(plan.peak > plan.needed && plan.max_context >= plan.context);
    }

    #[test]
    fn what_the_running_engine_frees_counts_and_the_reserve_does_not() {
        let profile = Profile { context: Some(4096), ..Profile::default() };
        let need = plan(&profile, &around(1 << 40, 0.0)).unwrap().needed as u64;
        assert_eq!(plan(&profile, &around(need + (1 << 20), 2e6)).unwrap().verdict, "does_not_fit");
        assert_eq!(plan(&profile, &around(need + 1, 0.0)).unwrap().verdict, "tight");
        let mut full = around(0, 0.0);
        assert_eq!(plan(&profile, &full).unwrap().verdict, "does_not_fit");
        full.engine = Some(EngineMemory {
            weights: 2.0 * need as f64,
            kv: 0.0,
            kv_used: 0.0,
            kv_cached: 0.0,
            state: 0.0,
            scratch: 0.0,
        });
        assert_eq!(plan(&profile, &full).unwrap().verdict, "fits");
    }

    #[test]
    fn a_context_left_open_shrinks_until_it_fits() {
        let open = |available| plan(&Profile::default(), &around(available, 0.0)).unwrap();
        let (roomy, need) = (open(16 << 30), open(16 << 30).needed as u64);
        let tight = open(need - (1 << 20));
        assert!(tight.context < roomy.context && tight.verdict != "does_not_fit", "{tight:?}");
        assert_eq!(open(1 << 20).context as usize, SHORTEST);
    }

    #[test]
    fn a_context_beyond_the_models_own_is_planned_as_stretched_and_never_chosen_unasked() {
        let open = plan(&Profile::default(), &around(1 << 40, 0.0)).unwrap();
        assert_eq!((open.context, open.stretch), (open.native_context, None));
        assert_eq!(open.max_context, 4 * open.native_context);
        let with = |context| Profile { context: Some(context), ..Profile::default() };
        let longer = plan(&with(2 * open.native_context + 1), &around(1 << 40, 0.0)).unwrap();
        assert_eq!((longer.stretch, longer.native_context), (Some(3), open.native_context));
        assert!(longer.needed > open.needed);
        let fault = plan(&with(open.max_context + 1), &around(1 << 40, 0.0)).unwrap_err();
        assert!(fault.message.contains("YaRN") && fault.message.contains("4 times"), "{fault:?}");
        assert_eq!(contexts(262_144, 1_048_576)[4..], [131_072, 262_144, 524_288, 1_048_576]);
        assert_eq!(contexts(5000, 20_000), [5000, 8192, 16_384, 20_000]);
    }

    #[test]
    fn more_context_needs_more_and_too_much_is_refused() {
        let with =
            |context| plan(&Profile { context: Some(context), ..Profile::default() }, &around(16 << 30, 0.0));
        assert!(with(1024).unwrap().needed > with(512).unwrap().needed);
        assert!(with(16 << 20).is_err());
    }
}
