//! `hearth pull` and `hearth rm`: models from the hub, and away again. Where an appliance runs it does the work, so that the window
//! shows it and Ctrl-C ends only the watching; else the download runs here.

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use hearth_appliance::{
    ApplianceError, Places,
    control::model_types::{DownloadCard, DownloadPhase, RemovalCard},
    models::fault,
    remote::call,
};
use hearth_engine::status::Fault;
use hearth_hub::{
    Download, DownloadState, HubCache, HubError, HubToken, Meter, Problem, Progress, Remote, Tactics, Wish,
    download,
};
use serde_json::{Value, json};

use crate::{output, signals::Stop};

/// Between two looks at the progress.
const PACE: Duration = Duration::from_millis(250);
/// Between two lines where there is no terminal to draw on.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Exit code after Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;

/// Options of `hearth pull`.
#[derive(clap::Args)]
pub struct PullArgs {
    /// Hugging Face id, such as Qwen/Qwen3.5-35B-A3B.
    model: String,
    /// Branch, tag or commit; default: the newest.
    #[arg(long)]
    revision: Option<String>,
    /// A GGUF file of the repository, or the first of a set; default: the model in safetensors.
    #[arg(long, value_name = "NAME.gguf")]
    file: Option<String>,
    /// Hand it to the running appliance and do not wait.
    #[arg(long)]
    detach: bool,
}

/// Options of `hearth rm`.
#[derive(clap::Args)]
pub struct RemoveArgs {
    /// Hugging Face id of a model in the cache.
    model: String,
    /// Tell what would be freed and delete nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Why it did not work out.
enum Failure {
    Refused(Box<Fault>),
    Interrupted(&'static str),
    Other(anyhow::Error),
}

impl From<&HubError> for Failure {
    fn from(error: &HubError) -> Failure {
        Failure::Refused(Box::new(fault(error)))
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::Other(error)
    }
}

/// Downloads a model, or goes on with it.
pub fn pull(args: PullArgs, json: bool) -> anyhow::Result<ExitCode> {
    run(json, async |places: Option<Places>| {
        let wish = Wish::new(&args.model, args.revision.as_deref()).map_err(|error| Failure::from(&error))?;
        let wish = wish.of_file(args.file.clone());
        let mut shown = Shown::new(json);
        if let Some(places) = &places
            && let Some(first) = ask(
                places,
                "POST",
                "/api/downloads",
                json!({ "model": wish.id, "revision": wish.revision, "file": wish.file }),
            )
            .await?
        {
            return follow(places, first, &wish, args.detach, &mut shown).await;
        }
        if args.detach {
            let error = anyhow!(
                "no Hearth appliance runs that could go on with it; run `hearth up`, or leave --detach out"
            );
            return Err(Failure::Other(error));
        }
        here(&wish, &mut shown).await
    })
}

/// Deletes a model from the cache and says what that freed.
pub fn remove(args: RemoveArgs, json: bool) -> anyhow::Result<ExitCode> {
    run(json, async |places: Option<Places>| {
        let card = match &places {
            Some(places) if !args.dry_run => {
                ask(places, "POST", "/api/models/remove", json!({ "model": args.model })).await?
            }
            _ => None,
        };
        let card = match card {
            Some(card) => {
                serde_json::from_value(card).context("the appliance gave another answer than expected")?
            }
            None => remove_here(&args).map_err(|error| Failure::from(&error))?,
        };
        if json {
            output::line(&serde_json::to_string(&card).context("an answer that is no JSON")?);
        } else {
            let would = if args.dry_run { "would free" } else { "is deleted; that freed" };
            output::line(&format!("{} {would} {:.1} GB ({})", card.model, card.frees / 1e9, card.folder));
        }
        Ok(())
    })
}

fn remove_here(args: &RemoveArgs) -> Result<RemovalCard, HubError> {
    let cache = HubCache::from_env().ok_or(HubError::NoCache)?;
    let folder = cache.repository(&args.model)?;
    if !folder.path().is_dir() {
        return Err(HubError::NotInCache { id: args.model.clone(), cache: cache.root().into() });
    }
    let removal = if args.dry_run { folder.removal()? } else { folder.remove()? };
    let folder = removal.folder.to_string_lossy().into_owned();
    Ok(RemovalCard { model: args.model.clone(), folder, frees: removal.frees as f64 })
}

/// Runs a command and prints what went wrong, with the next step.
fn run(
    json: bool,
    work: impl AsyncFnOnce(Option<Places>) -> Result<(), Failure>,
) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no threads")?;
    match runtime.block_on(work(Places::from_env().ok())) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(Failure::Refused(fault)) => {
            if json {
                output::line(&json!({ "error": fault }).to_string());
            }
            eprintln!("hearth: {}\n        {}", fault.message, fault.next_step);
            Ok(ExitCode::from(2))
        }
        Err(Failure::Interrupted(word)) => {
            eprintln!("\nhearth: {word}");
            Ok(ExitCode::from(INTERRUPTED))
        }
        Err(Failure::Other(error)) => Err(error),
    }
}

/// A call of the running appliance; null if none runs.
async fn ask(places: &Places, method: &str, path: &str, body: Value) -> Result<Option<Value>, Failure> {
    let (status, answer) = match call(places, method, path, body).await {
        Ok(answer) => answer,
        Err(ApplianceError::NotRunning { .. }) => return Ok(None),
        Err(error) => return Err(Failure::Refused(Box::new(error.fault()))),
    };
    match status {
        ..400 => Ok(Some(answer)),
        _ => Err(Failure::Refused(Box::new(
            serde_json::from_value(answer["error"].clone())
                .context("the appliance refused without saying why")?,
        ))),
    }
}

/// Watches the appliance's download until it ends.
async fn follow(
    places: &Places,
    mut list: Value,
    wish: &Wish,
    detach: bool,
    shown: &mut Shown,
) -> Result<(), Failure> {
    let mut stop = Stop::listen().context("no signals")?;
    loop {
        let cards: Vec<DownloadCard> =
            serde_json::from_value(list).context("the appliance gave another answer than expected")?;
        let card = cards
            .into_iter()
            .find(|card| card.model == wish.id && card.revision == wish.revision && card.file == wish.file);
        let Some(card) = card else { return Err(Failure::Interrupted("The download was cancelled.")) };
        shown.show(&card);
        match (card.phase, card.fault) {
            (DownloadPhase::Done, _) => return Ok(()),
            (DownloadPhase::Failed, Some(fault)) => return Err(Failure::Refused(Box::new(fault))),
            (DownloadPhase::Paused, _) => {
                return Err(Failure::Interrupted("The download is paused; resume it in the window."));
            }
            _ if detach => return Ok(()),
            _ => {}
        }
        tokio::select! {
            () = stop.asked() => return Err(Failure::Interrupted("The appliance goes on with the download.")),
            () = tokio::time::sleep(2 * PACE) => {}
        }
        let next = ask(places, "GET", "/api/downloads", Value::Null).await?;
        list = next.ok_or_else(|| {
            anyhow!("the appliance has ended; it goes on with the download when it is started again")
        })?;
    }
}

/// Downloads in this process.
async fn here(wish: &Wish, shown: &mut Shown) -> Result<(), Failure> {
    let cache = HubCache::from_env().ok_or(HubError::NoCache).map_err(|error| Failure::from(&error))?;
    let remote = Remote::from_env(token()).map_err(|error| Failure::from(&error))?;
    let mut stop = Stop::listen().context("no signals")?;
    let meter = Arc::new(Meter::default());
    let picture = |state, progress: Progress, problem| {
        let (id, revision) = (wish.id.clone(), wish.revision.clone());
        DownloadCard::of(&Download {
            number: 0,
            id,
            revision,
            file: wish.file.clone(),
            state,
            progress,
            problem,
        })
    };
    let work = download(&remote, &cache, wish, Tactics::default(), &meter);
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => {
                let state = if done.is_ok() { DownloadState::Done } else { DownloadState::Failed };
                shown.show(&picture(state, meter.progress(), done.as_ref().err().map(Problem::from)));
                return done.map(drop).map_err(|error| Failure::from(&error));
            }
            () = stop.asked() => {
                return Err(Failure::Interrupted("Stopped; the same command goes on where it was."));
            }
            () = tokio::time::sleep(PACE) => shown.show(&picture(DownloadState::Running, meter.progress(), None)),
        }
    }
}

/// The token the window was given, else that of Hugging Face's tools.
fn token() -> Option<HubToken> {
    let kept = Places::from_env()
        .ok()
        .and_then(|places| std::fs::read_to_string(places.config.join("hf-token")).ok());
    kept.and_then(|text| HubToken::parse(&text)).or_else(HubToken::from_env)
}

/// Progress on a terminal as one line that is drawn over, elsewhere as a line now and then, with `--json` as objects.
struct Shown {
    json: bool,
    terminal: bool,
    last: Option<(DownloadPhase, Instant)>,
}

impl Shown {
    fn new(json: bool) -> Shown {
        Shown { json, terminal: !json && std::io::stderr().is_terminal(), last: None }
    }

    fn show(&mut self, card: &DownloadCard) {
        let pace = if self.terminal { Duration::ZERO } else { LINE_EVERY };
        let due = self.last.is_none_or(|(phase, at)| phase != card.phase || at.elapsed() >= pace);
        if !due {
            return;
        }
        self.last = Some((card.phase, Instant::now()));
        if self.json {
            return output::line(&serde_json::to_string(card).unwrap_or_default());
        }
        let end = matches!(card.phase, DownloadPhase::Done | DownloadPhase::Failed);
        match self.terminal {
            true => eprint!("\r\x1b[2K{}{}", line(card), if end { "\n" } else { "" }),
            false => eprintln!("{}", line(card)),
        }
        let _ = std::io::stderr().flush();
    }
}

/// `Qwen/Qwen3: 12.4 of 61.2 GB, 88.1 MB/s, 9 min left`.
fn line(card: &DownloadCard) -> String {
    let gb = |bytes: f64| format!("{:.2}", bytes / 1e9);
    let of = card.bytes.map_or("-".into(), gb);
    let what = match card.phase {
        DownloadPhase::Queued => "waits for its turn".into(),
        DownloadPhase::Checking => "asking the hub".into(),
        DownloadPhase::Fetching => {
            let rate = card.rate.map(|rate| format!(", {:.1} MB/s", rate / 1e6)).unwrap_or_default();
            let left = card.seconds_left.map(|s| format!(", {} left", time(s))).unwrap_or_default();
            format!("{} of {of} GB{rate}{left}", gb(card.done))
        }
        DownloadPhase::Verifying => format!("verifying, {} of {} GB", gb(card.verified), gb(card.to_verify)),
        DownloadPhase::Retrying => {
            let why = card.fault.as_ref().map_or("", |fault| fault.message.as_str());
            format!(
                "{} of {of} GB; {why} Trying again in {}.",
                gb(card.done),
                time(card.retry_in_s.unwrap_or(0.0))
            )
        }
        DownloadPhase::Paused => "paused".into(),
        DownloadPhase::Failed => "failed".into(),
        DownloadPhase::Done => format!("{of} GB, verified"),
    };
    format!("{}: {what}", card.model)
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{} s", s.ceil()),
        s if s < 5400.0 => format!("{} min", (s / 60.0).round()),
        s => format!("{:.1} h", s / 3600.0),
    }
}
