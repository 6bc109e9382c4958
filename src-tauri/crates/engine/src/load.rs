//! From a checkpoint to a model that runs, with progress on the board. Runs on the engine thread, once.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hearth_checkpoint::Checkpoint;
use hearth_kernels::{Device, OpError, Ops, cpu::Simd, selftest::Scale};
use hearth_model::{
    DraftHead, KvTypes, LoadOptions, LoadStage, MemoryLimit, Model, ModelSpec, RecordedGraphs, family,
};
use serde_json::Value;

use crate::{
    board::{Board, loading},
    depth::Depth,
    disk::{Computed, DiskRequest, model_digest},
    draft_head::DraftWish,
    engine::{Loaded, Served},
    load_faults::{checkpoint_fault, expanded, gpu_not_used, model_fault, not_opened, sentence},
    memory::{memory_limit, over_plan},
    model_runner::MemoryReport,
    policy::Policy,
    proof,
    sampler::Sampling,
    status::{EngineModel, Fault},
    tokenizer::Tokenizer,
};

/// Shortest context that is tried when none was asked for and memory is short, tokens.
const SHORTEST: usize = 2048;

/// What to load, and how.
#[derive(Debug, Clone)]
pub struct LoadRequest {
    /// A checkpoint folder or a GGUF file; None: the built-in model.
    pub folder: Option<PathBuf>,
    /// The name in answers; None: the folder's.
    pub id: Option<String>,
    /// Backend: `auto`, `cpu`, `cuda` or `emulated`.
    pub device: String,
    /// Threads of the CPU backend; None: all cores.
    pub threads: Option<usize>,
    /// Most tokens of a request; None: the model's own limit, halved until it fits.
    pub context: Option<usize>,
    /// Requests computed at once.
    pub max_requests: usize,
    /// How keys and values are kept, layer by layer.
    pub kv: KvTypes,
    /// Prefill in decode's arithmetic.
    pub exact: bool,
    /// Prefill on the FP4 tensor cores, with activations rounded to NVFP4, if the device has them and they pass their test.
    pub fp4_activations: bool,
    /// Most rows of a pass: the chunk of prefill.
    pub chunk: usize,
    /// Tokens drafted per round by the model's MTP head, if it has one.
    pub mtp_depth: Depth,
    /// The head that these drafts are proposed with.
    pub draft_head: DraftWish,
    /// A file of the tokens that it can propose, beside the control tokens; None: as `draft_head` says.
    pub draft_vocabulary: Option<PathBuf>,
    /// How requests are ordered.
    pub policy: Policy,
    /// How long reading the prompts before a new one may take; beyond that it is refused.
    pub patience: Duration,
    /// Bytes of memory to leave to everything else; None: [`default_reserve`].
    pub memory_reserve: Option<u64>,
    /// Refuse nothing for want of memory: a person knows better.
    pub anyway: bool,
    /// Where prefixes are kept that memory has no room for; None: nowhere.
    pub prefix_disk: Option<DiskRequest>,
    /// Sampling where a request does not say.
    pub sampling: SamplingDefaults,
}

/// What replaces the authors' recommendation; None: it stays.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SamplingDefaults {
    /// 0 to 2.
    pub temperature: Option<f32>,
    /// Above 0, to 1.
    pub top_p: Option<f32>,
    /// 0: all tokens.
    pub top_k: Option<u32>,
    /// 0 to 1.
    pub min_p: Option<f32>,
}

impl SamplingDefaults {
    fn over(self, base: Sampling) -> Result<Sampling, Fault> {
        let sampling = Sampling {
            temperature: self.temperature.unwrap_or(base.temperature),
            top_p: self.top_p.unwrap_or(base.top_p),
            top_k: self.top_k.unwrap_or(base.top_k),
            min_p: self.min_p.unwrap_or(base.min_p),
            ..base
        };
        match sampling.check() {
            Ok(()) => Ok(sampling),
            Err(error) => {
                let fault =
                    Fault::new("bad_sampling", sentence(&error), "Correct the sampling of the profile.");
                Err(fault.with("reason", error.to_string()))
            }
        }
    }
}

/// Loads the model.
///
/// # Errors
/// A fault with the reader's own sentence; loading again gives the same.
pub fn load(request: &LoadRequest, board: &Board) -> Result<Loaded<Model>, Fault> {
    board.set_phase(loading(0, 0.0));
    let device: Device = request.device.parse().map_err(|error: OpError| {
        Fault::new("device_unknown", sentence(&error), "Choose one of these with --device, or leave it out.")
            .with("reason", error.to_string())
    })?;
    // Before the checkpoint is read: a GPU that cannot be used is known within a moment.
    let opened = device.open(request.threads).map_err(not_opened)?;
    let mut notices = Vec::new();
    if let Some(notice) = &opened.notice {
        tracing::info!("computing on the CPU ({notice})");
        notices.extend(opened.unexpected.then(|| gpu_not_used(notice)));
    }
    let mut ops = opened.ops;
    if ops.device() == "cuda"
        && let Err(fault) =
            proof::require(ops.as_ref(), Scale::Full, proof::folder().as_deref(), &mut || board.beat())
    {
        if device != Device::Auto {
            return Err(fault);
        }
        tracing::error!(evidence = ?fault.evidence, "{} Computing on the CPU.", fault.message);
        ops = Device::Cpu.open(request.threads).map_err(not_opened)?.ops;
        notices.push(fault);
    }
    let mut tune = true;
    if ops.device() == "cuda"
        && let Some(notice) =
            proof::optional(ops.as_ref(), Scale::Full, proof::folder().as_deref(), &mut || board.beat())?
    {
        tracing::warn!(evidence = ?notice.evidence, "{notice}");
        notices.push(notice);
        tune = false;
    }
    let mut fp4_activations = request.fp4_activations;
    if fp4_activations && let Err(fault) = switch_fp4_on(request, ops.as_ref(), board) {
        tracing::warn!(evidence = ?fault.evidence, "{fault}");
        notices.push(fault);
        fp4_activations = false;
    }
    let checkpoint = match &request.folder {
        Some(folder) => hearth_model::open(folder).map_err(model_fault)?,
        None => Checkpoint::builtin().map_err(checkpoint_fault)?,
    };
    // The tokenizer is read first: it is the quickest way to find out that a folder is incomplete.
    let tokenizer = read_tokenizer(&checkpoint)?;
    let mut spec = family::read(checkpoint.config()).map_err(model_fault)?;
    family::settle(&mut spec, &|tensor| checkpoint.contains(tensor));
    if request.mtp_depth.most() == 0 {
        spec.mtp = None;
    }
    let memory_limit = memory_limit(request.memory_reserve, ops.as_ref()).filter(|_| !request.anyway);
    let draft_head = match &spec.mtp {
        Some(_) => request.draft_head.head(&tokenizer, spec.vocab, request.draft_vocabulary.as_deref())?,
        None => DraftHead::default(),
    };
    let options = LoadOptions { tune, ..fit(request, &checkpoint, &spec, &ops, (memory_limit, draft_head))? };
    let stretched = spec.clone().stretched(options.context).map_err(model_fault)?;
    if let Some(factor) = spec.stretch(options.context).map_err(model_fault)? {
        tracing::warn!(
            "YaRN is on: the model was trained for {} tokens, and its positions are stretched {factor} times for {}. \
             Answers to short prompts may be a little worse; leave --context out to go without.",
            spec.context,
            options.context
        );
    }
    notices.extend(expanded(checkpoint.outline()));
    let id = request.id.clone().unwrap_or_else(|| checkpoint.name().to_owned());
    board.lock().model = Some(EngineModel {
        id: id.clone(),
        name: if checkpoint.is_builtin() { "Ember".to_owned() } else { id.clone() },
        demonstration: checkpoint.is_builtin(),
        family: spec.family.clone(),
        context: options.context as u32,
        stretch: stretched.yarn().map(|yarn| yarn.factor),
        kv: options.kv.to_string(),
        max_requests: options.slots as u32,
        device: ops.device().to_owned(),
        exact: options.exact,
        mtp_depth: spec.mtp.as_ref().map(|_| request.mtp_depth.to_string()),
        draft_head: spec.mtp.as_ref().map(|_| {
            // As many tokens as there are in the end: of a file, or all of a small vocabulary.
            let tokens = options.draft_head.tokens.as_ref().map(|tokens| tokens.len());
            DraftWish { tokens, ..request.draft_head }.to_string()
        }),
        fp4_activations,
        notices,
    });

    let mut progress = |at: hearth_model::LoadProgress| {
        board.beat();
        let stage = match at.stage {
            LoadStage::Plan => 0,
            LoadStage::ReadWeights => 1,
            LoadStage::AllocateKv => 2,
            LoadStage::RecordGraphs => 3,
        };
        board.set_phase(loading(stage, at.fraction));
    };
    // The CPU's sums depend on its instructions.
    let device = format!("{}, {}", ops.identity(), Simd::available()[0].name());
    let model = Model::load(&checkpoint, ops, options, &mut progress).map_err(model_fault)?;
    board.lock().memory = Some(model.memory_parts());
    for tuned in model.tuned() {
        let hearth_kernels::cuda::Tuned { product, variant, before, after } = tuned;
        tracing::info!(product, variant, before, after, "chosen kernel, seconds of a step");
    }
    if let Some(graphs) = model.recorded_graphs() {
        let RecordedGraphs { count, planned, taken } = graphs;
        tracing::info!(count, planned, taken, "recorded graphs, bytes");
        if let (Some(notice), Some(model)) = (over_plan(graphs), board.lock().model.as_mut()) {
            tracing::warn!(evidence = ?notice.evidence, "{notice}");
            model.notices.push(notice);
        }
    }

    let kv = model.options().kv.to_string();
    let disk = request.prefix_disk.as_ref().and_then(|disk| {
        let computed = Computed {
            weights: request.folder.as_deref(),
            config: checkpoint.config(),
            spec: model.spec(),
            kv: &kv,
            exact: model.options().exact,
            device: &device,
        };
        match model_digest(&computed) {
            Ok(digest) => Some((disk.clone(), digest)),
            Err(error) => {
                let fault = Fault::new(
                    "prefix_disk_unavailable",
                    "The model's files cannot be listed, so no prefixes are kept on disk.",
                    "See whether the model's folder can be read.",
                );
                tracing::warn!(%error, "{fault}");
                if let Some(model) = &mut board.lock().model {
                    model.notices.push(fault.with_evidence(error.to_string()));
                }
                None
            }
        }
    });
    let name = checkpoint.name().to_owned();
    let folder = request.folder.as_ref().map(|f| f.to_string_lossy().into_owned());
    let served = Served {
        aliases: std::iter::once(name).chain(folder).filter(|alias| *alias != id).collect(),
        id,
        tokenizer: Arc::new(tokenizer),
        chat_template: checkpoint.chat_template(),
        tokenizer_config: checkpoint.tokenizer_config().cloned(),
        sampling: request.sampling.over(recommended(checkpoint.generation_config()))?,
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
    };
    Ok(Loaded {
        runner: model,
        depth: request.mtp_depth,
        policy: request.policy,
        patience: request.patience,
        disk,
        served,
    })
}

/// Lets prefill use the FP4 tensor cores.
///
/// # Errors
/// Why it does without, which is no reason not to load.
fn switch_fp4_on(request: &LoadRequest, ops: &dyn Ops, board: &Board) -> Result<(), Fault> {
    if request.exact {
        return Err(Fault::new(
            "fp4_exact",
            "Prompts are read in decode's arithmetic (--exact), which rounds no activations to NVFP4.",
            "Leave out --exact or --fp4-activations.",
        ));
    }
    if ops.device() == "cpu" {
        return Err(Fault::new(
            "fp4_unsupported",
            "The CPU has no FP4 tensor cores, so prompts are read without them.",
            "Leave --fp4-activations out; it is for the GB10 of the DGX Spark.",
        )
        .with("device", "CPU"));
    }
    // The emulator's own tests prove it.
    if ops.device() == "cuda" {
        proof::require_fp4(ops, Scale::Full, proof::folder().as_deref(), &mut || board.beat())?;
    }
    ops.set_fp4_activations(true).map_err(not_opened)
}

fn read_tokenizer(checkpoint: &Checkpoint) -> Result<Tokenizer, Fault> {
    let json = checkpoint.tokenizer_json().map_err(checkpoint_fault)?;
    let (config, tokenizer_config) = (checkpoint.config(), checkpoint.tokenizer_config());
    Tokenizer::read(&json, config, checkpoint.generation_config(), tokenizer_config).map_err(|e| e.fault())
}

/// The options of the load: the context asked for, or the longest that fits.
fn fit(
    request: &LoadRequest,
    checkpoint: &Checkpoint,
    spec: &ModelSpec,
    ops: &Arc<dyn Ops>,
    (memory_limit, draft_head): (Option<MemoryLimit>, DraftHead),
) -> Result<LoadOptions, Fault> {
    let chunk = request.chunk.max(request.max_requests + 1);
    // Without an MTP head, drafts are copied from earlier text.
    let drafts = request.mtp_depth.most();
    let mut options = LoadOptions {
        context: request.context.unwrap_or(spec.context),
        slots: request.max_requests,
        kv: request.kv.clone(),
        snapshots: LoadOptions::snapshots_for(request.max_requests, drafts),
        mtp: spec.mtp.is_some(),
        draft_head,
        exact: request.exact,
        max_rows: chunk,
        memory_limit,
        tune: true,
    };
    let (None, Some(limit)) = (request.context, memory_limit) else { return Ok(options) };
    while options.context > SHORTEST {
        let plan = Model::plan(checkpoint, ops, &options).map_err(model_fault)?;
        if plan.total() <= limit.usable() {
            break;
        }
        options.context = (options.context / 2).max(SHORTEST);
    }
    Ok(options)
}

/// The authors' recommendation in `generation_config.json`; values out of range are left out.
fn recommended(generation_config: Option<&Value>) -> Sampling {
    let mut sampling = Sampling::default();
    let Some(config) = generation_config else { return sampling };
    let number = |name: &str| config.get(name).and_then(Value::as_f64).map(|v| v as f32);
    let sampled = config.get("do_sample").and_then(Value::as_bool).unwrap_or(true);
    sampling.temperature = if sampled { number("temperature").unwrap_or(1.0) } else { 0.0 };
    sampling.top_p = number("top_p").unwrap_or(sampling.top_p);
    sampling.min_p = number("min_p").unwrap_or(sampling.min_p);
    sampling.repetition_penalty = number("repetition_penalty").unwrap_or(sampling.repetition_penalty);
    sampling.top_k = config.get("top_k").and_then(Value::as_u64).map_or(0, |k| k.min(1 << 20) as u32);
    if sampling.check().is_ok() { sampling } else { Sampling::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_authors_recommendation_becomes_the_default_sampling() {
        let config = json!({"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95});
        let sampling = recommended(Some(&config));
        assert_eq!((sampling.temperature, sampling.top_k, sampling.top_p), (0.6, 20, 0.95));
        assert_eq!(recommended(Some(&json!({"do_sample": false}))).temperature, 0.0);
        assert_eq!(recommended(Some(&json!({"temperature": -4}))), Sampling::default());
        assert_eq!(recommended(None), Sampling::default());
    }

    #[test]
    fn fp4_activations_that_cannot_be_had_are_told_and_those_of_the_emulated_device_are_on() {
        let request = |device: &str, exact| LoadRequest {
            folder: None,
            id: None,
            device: device.into(),
            threads: Some(1),
            context: Some(64),
            max_requests: 1,
            kv: KvTypes::default(),
            exact,
            fp4_activations: true,
            chunk: 64,
            mtp_depth: Depth::Auto,
            draft_head: DraftWish::default(),
            draft_vocabulary: None,
            policy: Policy::Slo,
            patience: Duration::from_secs(600),
            memory_reserve: None,
            anyway: false,
            prefix_disk: None,
            sampling: SamplingDefaults::default(),
        };
        let board = Board::default();
        for (device, exact, code) in
            [("cpu", false, "fp4_unsupported"), ("emulated", true, "fp4_exact"), ("emulated", false, "")]
        {
            let ops = device.parse::<Device>().and_then(|device| device.open(Some(1))).expect("it opens").ops;
            let switched = switch_fp4_on(&request(device, exact), ops.as_ref(), &board);
            assert_eq!(switched.map_or_else(|fault| fault.code, |()| String::new()), code, "{device}");
        }
        load(&request("cpu", false), &board).map(|_| ()).expect("it loads all the same");
        let model = board.lock().model.clone().expect("it was told");
        assert_eq!(model.notices.first().map(|notice| notice.code.as_str()), Some("fp4_unsupported"));
        assert!(!model.fp4_activations);
    }

    #[test]
    fn a_folder_that_is_not_there_and_a_device_that_is_not_built_are_faults() {
        let request = LoadRequest {
            folder: Some("/nowhere/at/all".into()),
            id: None,
            device: "cpu".into(),
            threads: None,
            context: None,
            max_requests: 1,
            kv: KvTypes::default(),
            exact: false,
            fp4_activations: false,
            chunk: 64,
            mtp_depth: Depth::Auto,
            draft_head: DraftWish::default(),
            draft_vocabulary: None,
            policy: Policy::Slo,
            patience: Duration::from_secs(600),
            memory_reserve: None,
            anyway: false,
            prefix_disk: None,
            sampling: SamplingDefaults::default(),
        };
        let fault = load(&request, &Board::default()).map(|_| ()).expect_err("there is no such folder");
        assert!(fault.message.contains("/nowhere/at/all"), "{fault:?}");
        let fault = load(&LoadRequest { device: "tpu".into(), ..request.clone() }, &Board::default());
        assert_eq!(fault.map(|_| ()).expect_err("no such backend").code, "device_unknown");
        if Device::Cuda.open(None).is_err() {
            let fault = load(&LoadRequest { device: "cuda".into(), ..request }, &Board::default());
            let fault = fault.map(|_| ()).expect_err("no GPU here");
            assert_eq!(fault.code, "device_unavailable");
            assert!(fault.next_step.contains("--device cpu"), "{fault:?}");
        }
    }
}
