//! `hearth serve MODEL`: one engine in the foreground, on a Unix socket (for the appliance) or a TCP port (Docker,
//! benchmarks, debugging). Exit codes: 0 after an orderly end, 1 after a crash, 2 if it cannot listen,
//! 3 if the model cannot be loaded, 4 if the device failed.

use std::{
    ffi::{OsStr, OsString},
    future::Future,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::value_parser;
use hearth_api::{ApiOptions, Listener};
use hearth_engine::{
    Depth, DiskRequest, DraftWish, End, Engine, LoadRequest, SamplingDefaults, policy::Policy, status::Fault,
};
use hearth_hub::{HubCache, HubError, Location, locate};
use hearth_model::KvTypes;
use serde_json::json;

use crate::output;

use crate::signals::Stop;

/// How long running requests may take after the first signal.
const DRAIN: Duration = Duration::from_secs(30);
/// How long a failure stays readable at `/status` on a Unix socket.
const LAST_WORDS: Duration = Duration::from_millis(1500);
/// How long open exchanges may take after the engine has ended.
const FAREWELL: Duration = Duration::from_secs(5);
/// The exit code of a load that would fail again.
const CANNOT_LOAD: u8 = 3;
/// The exit code after a fault of the device, which ends a process but perhaps not the next one.
const DEVICE_FAILED: u8 = 4;

/// Options of `hearth serve`.
#[derive(clap::Args)]
pub struct Args {
    /// Model to serve: `ember` (built in), a folder, a GGUF file, or a Hugging Face id in the cache.
    model: OsString,
    /// Listen on this Unix socket instead of a TCP port.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["host", "port"])]
    uds: Option<PathBuf>,
    /// Address to listen on; anything but loopback needs --api-key-file.
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// TCP port; 0 for any free one.
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// File with one API key per line; clients must send one of them.
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// The name clients use; default: the model's own.
    #[arg(long)]
    name: Option<String>,
    /// Backend.
    #[arg(long, default_value = "auto", value_name = "auto|cpu|cuda|emulated")]
    device: String,
    /// Most tokens of a request, prompt and answer together; default: the model's own context, or what fits. More than its
    /// own, up to four times, stretches its positions (YaRN): answers to short prompts may then be a little worse.
    #[arg(long, value_parser = value_parser!(u32).range(1..))]
    context: Option<u32>,
    /// How keys and values are kept: bf16, f32, fp8 or nvfp4. Layers may differ: nvfp4:ends=bf16 keeps the first and the last
    /// attention layer in bf16; `first`, `last`, `mtp` and a layer's number are places, too.
    #[arg(long, default_value = "bf16", value_name = "TYPE[:PLACE=TYPE]...")]
    kv: KvTypes,
    /// Requests computed at once.
    #[arg(long, default_value_t = 4, value_parser = value_parser!(u16).range(1..=1024))]
    max_requests: u16,
    /// Requests that may wait; more are refused with 429.
    #[arg(long, default_value_t = 64, value_parser = value_parser!(u16).range(1..))]
    max_waiting: u16,
    /// Seconds that reading the prompts of earlier requests may take; a request that would wait longer is refused with 429.
    #[arg(long, default_value_t = 600, value_name = "SECONDS", value_parser = value_parser!(u64).range(1..=86_400))]
    max_wait: u64,
    /// Prompt tokens read per step.
    #[arg(long, default_value_t = 512, value_parser = value_parser!(u16).range(1..=8192))]
    chunk: u16,
    /// Tokens drafted per round by the model's own MTP head: auto, or 0 to 5. The answer is the same at every depth.
    #[arg(long, default_value = "auto", value_name = "auto|0..5")]
    mtp_depth: Depth,
    /// The head that these drafts are proposed with: the model's own (full), a copy of it in fewer bits (fp8, nvfp4), the
    /// rows of so many tokens (control tokens and the most frequent ones), or both, as in nvfp4:32768. Drafts are checked by
    /// the model's own, so the answer is the same with every one.
    #[arg(long, default_value = "full", value_name = "full|fp8|nvfp4|TOKENS")]
    draft_head: DraftWish,
    /// A file of token ids: drafts are chosen from these and the control tokens.
    #[arg(long, value_name = "FILE")]
    draft_vocabulary: Option<PathBuf>,
    /// Order of requests: slo (tokens in time, short prompts first, fair between keys) or fifo.
    #[arg(long, default_value = "slo", value_name = "slo|fifo")]
    schedule: Policy,
    /// Threads of the CPU backend; default: all cores.
    #[arg(long, value_parser = value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Memory to leave to everything else, GiB; default: an eighth of the machine's, at most 12.
    #[arg(long, value_name = "GIB", value_parser = gibibytes)]
    memory_reserve: Option<f64>,
    /// Load the model although it does not seem to fit into memory.
    #[arg(long)]
    anyway: bool,
    /// Keep prefixes that memory has no room for in files of this folder, and find them there after a restart. Prompts can be
    /// read from them; only their owner may. The folder belongs to one engine; files of another model are removed from it.
    #[arg(long, value_name = "FOLDER")]
    prefix_disk: Option<PathBuf>,
    /// Most GiB of these files.
    #[arg(long, value_name = "GIB", default_value_t = 32.0, value_parser = gibibytes, requires = "prefix_disk")]
    prefix_disk_gib: f64,
    /// Temperature where a request does not say; default: as the model's authors recommend.
    #[arg(long)]
    temperature: Option<f32>,
    /// Share of probability to pick from where a request does not say.
    #[arg(long)]
    top_p: Option<f32>,
    /// Likeliest tokens to pick from where a request does not say; 0: all.
    #[arg(long)]
    top_k: Option<u32>,
    /// Least probability, as a share of the likeliest's, where a request does not say.
    #[arg(long)]
    min_p: Option<f32>,
    /// Read prompts in decode's arithmetic, for results that agree to the last bit.
    #[arg(long)]
    exact: bool,
    /// Read prompts on the FP4 tensor cores of a GB10, with activations rounded to NVFP4 wherever weights are: less work, and
    /// other answers. Passes of 16 rows or fewer are computed as ever.
    #[arg(long, conflicts_with = "exact")]
    fp4_activations: bool,
}

/// Serves until it is told to stop.
pub fn run(args: Args, json: bool) -> anyhow::Result<ExitCode> {
    let keys = keys(args.api_key_file.as_deref())?;
    if args.uds.is_none() && !is_loopback(&args.host) && keys.is_empty() {
        bail!("{} is reachable by others; give --api-key-file, or listen on 127.0.0.1", args.host);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no threads")?;
    let code = runtime.block_on(serve(args, keys, json));
    // A prompt that is still being encoded must not hold up the end.
    runtime.shutdown_background();
    code
}

async fn serve(args: Args, keys: Vec<String>, json: bool) -> anyhow::Result<ExitCode> {
    // Before anything is announced: whoever waits for the line may send a signal right after it.
    let mut stop = Stop::listen()?;
    let listener = match &args.uds {
        Some(path) => {
            Listener::unix(path).await.with_context(|| format!("cannot listen on {}", path.display()))?
        }
        None => Listener::tcp(&args.host, args.port)
            .await
            .with_context(|| format!("cannot listen on {}:{}", args.host, args.port))?,
    };
    let address = listener.address();
    let waiting = usize::from(args.max_waiting);
    let on_socket = args.uds.is_some();
    let local_only = !on_socket && is_loopback(&args.host);
    let options = ApiOptions { keys, control: on_socket, local_only, drain: DRAIN };
    let engine = Engine::start(move |board| hearth_engine::load(&request(args)?, board), waiting)
        .context("the engine thread cannot be started")?;
    let router = hearth_api::router(engine.clone(), options);
    let (close, closed) = tokio::sync::oneshot::channel::<()>();
    let front = tokio::spawn(listener.serve(router, async {
        // An engine handle that is gone closes too.
        let _ = closed.await;
    }));
    if json {
        output::line(&json!({ "address": address, "pid": std::process::id() }).to_string());
    } else {
        output::line(&format!("Listening on {address} while the model loads."));
    }

    let end = live(&engine, &mut stop).await;
    let code = match &end {
        Some(End::Drained) | None => 0,
        Some(End::Crashed(fault)) => {
            complain(fault, json);
            1
        }
        Some(End::LoadFailed(fault) | End::DeviceFailed(fault)) => {
            complain(fault, json);
            if on_socket {
                unless(&mut stop, tokio::time::sleep(LAST_WORDS)).await;
            }
            if matches!(end, Some(End::DeviceFailed(_))) { DEVICE_FAILED } else { CANNOT_LOAD }
        }
    };
    let _ = close.send(());
    if end.is_some() {
        let _ = tokio::time::timeout(FAREWELL, unless(&mut stop, front)).await;
    }
    Ok(ExitCode::from(code))
}

/// A number of GiB from the command line.
fn gibibytes(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|gib| (0.0..=1e6).contains(gib));
    number.ok_or_else(|| "expected a number of GiB, zero or more".to_owned())
}

/// Bytes of a number of GiB.
fn bytes(gib: f64) -> u64 {
    (gib * (1u64 << 30) as f64) as u64
}

fn is_loopback(host: &str) -> bool {
    ["localhost", "127.0.0.1", "::1"].contains(&host)
}

/// Waits for the engine's end. The first signal lets it finish, the second cuts it off; None: it was cut off.
async fn live(engine: &Engine, stop: &mut Stop) -> Option<End> {
    tokio::select! {
        end = engine.ended() => return Some(end),
        () = stop.asked() => {}
    }
    if engine.served().is_err() {
        // Loading cannot be interrupted, and nobody waits for an answer.
        return None;
    }
    tracing::info!("finishing what runs; a second signal ends at once");
    engine.drain(DRAIN);
    unless(stop, engine.ended()).await
}

/// The outcome of `work`, or None if a signal comes first.
async fn unless<T>(stop: &mut Stop, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        () = stop.asked() => None,
    }
}

fn complain(fault: &Fault, json: bool) {
    if json {
        output::line(&json!({ "error": fault }).to_string());
    }
    eprintln!("hearth: {}\n        {}", fault.message, fault.next_step);
    match &fault.evidence {
        Some(table) if table.contains('\n') => eprintln!("{table}"),
        Some(evidence) => eprintln!("        ({evidence})"),
        None => {}
    }
}

/// What to load, from what the person typed.
fn request(args: Args) -> Result<LoadRequest, Fault> {
    if let (Some(_), Some(tokens)) = (&args.draft_vocabulary, args.draft_head.tokens) {
        return Err(Fault::new(
            "draft_vocabulary_invalid",
            format!("--draft-head asks for {tokens} tokens and --draft-vocabulary for those of a file."),
            "Give one of them; --draft-head fp8 or nvfp4 goes with a file.",
        )
        .with("tokens", tokens));
    }
    let (folder, id) = match find(&args.model).map_err(|error| {
        let text = error.to_string();
        Fault::new(error.code(), format!("{text}."), error.next_step()).with_fields(&error)
    })? {
        Location::BuiltIn => (None, None),
        Location::Folder { path, id } => (Some(path), id),
    };
    Ok(LoadRequest {
        anyway: args.anyway,
        sampling: SamplingDefaults {
            temperature: args.temperature,
            top_p: args.top_p,
            top_k: args.top_k,
            min_p: args.min_p,
        },
        folder,
        id: args.name.or(id),
        device: args.device,
        threads: args.threads.map(usize::from),
        context: args.context.map(|c| c as usize),
        max_requests: usize::from(args.max_requests),
        kv: args.kv,
        exact: args.exact,
        fp4_activations: args.fp4_activations,
        chunk: usize::from(args.chunk),
        mtp_depth: args.mtp_depth,
        draft_head: args.draft_head,
        draft_vocabulary: args.draft_vocabulary,
        policy: args.schedule,
        patience: Duration::from_secs(args.max_wait),
        memory_reserve: args.memory_reserve.map(bytes),
        prefix_disk: args
            .prefix_disk
            .map(|folder| DiskRequest { folder, budget: bytes(args.prefix_disk_gib) }),
    })
}

fn find(model: &OsStr) -> Result<Location, HubError> {
    let name = model.to_str().ok_or_else(|| HubError::NotUtf8 { path: model.into() })?;
    locate(name, HubCache::from_env().as_ref())
}

/// The keys of a file: one per line, empty lines and lines with # left out.
fn keys(file: Option<&Path>) -> anyhow::Result<Vec<String>> {
    let Some(file) = file else { return Ok(Vec::new()) };
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the keys in {}", file.display()))?;
    let keys: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .map(str::to_owned)
        .collect();
    if keys.is_empty() {
        bail!("{} holds no key; write one per line", file.display());
    }
    Ok(keys)
}
