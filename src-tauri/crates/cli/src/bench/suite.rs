//! `hearth bench run`, `list`, `show`, `compare` and `rm`: the appliance's benchmarks from a terminal, by the same calls as the page. With
//! `--endpoint` an endpoint without an appliance is measured from here.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, anyhow, bail};
use hearth_appliance::{
    Places,
    bench::{
        ExportFormat, compare, export, measure,
        types::{
            BenchComparison, BenchFigureName, BenchOrder, BenchPart, BenchProgress, BenchRow, BenchRun,
            BenchRunState, BenchSuite,
        },
    },
    remote::call,
};
use serde_json::{Value, json};

use crate::{output, signals::Stop};

/// Between two looks at a run.
const LOOK: Duration = Duration::from_millis(500);

/// What to do with the benchmarks of the appliance.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Measure the running model through its endpoint, and keep the figures.
    Run(RunArgs),
    /// Show the runs that are kept.
    List,
    /// Print a run, or write it to a file.
    Show(ShowArgs),
    /// Hold two runs beside each other; a change that repeats differ by anyway is not marked.
    Compare {
        /// Number of the first.
        a: u32,
        /// Number of the second.
        b: u32,
    },
    /// Delete a run.
    Rm {
        /// Its number.
        run: u32,
    },
}

/// Options of `hearth bench run`.
#[derive(clap::Args)]
pub struct RunArgs {
    /// What to measure: quick (minutes), full (everything that model and memory allow; hours), or arena (Spark Arena's cells).
    #[arg(long, default_value = "quick", value_name = "quick|full|arena")]
    suite: String,
    /// Only these parts of it: contexts, prefill, company, depths, agent, facts.
    #[arg(long, value_name = "PART,..", value_delimiter = ',')]
    parts: Vec<String>,
    /// Contexts instead of the suite's, tokens.
    #[arg(long, value_name = "TOKENS,..", value_delimiter = ',')]
    contexts: Option<Vec<u32>>,
    /// Lengths of answers instead of the suite's, tokens.
    #[arg(long, value_name = "TOKENS,..", value_delimiter = ',')]
    outputs: Option<Vec<u32>>,
    /// Numbers of clients instead of the suite's.
    #[arg(long, value_name = "N,..", value_delimiter = ',')]
    clients: Option<Vec<u32>>,
    /// How often each is measured; the median counts.
    #[arg(long, value_name = "N", default_value_t = 3)]
    repeat: u32,
    /// A few words to know the run by.
    #[arg(long, default_value = "", value_name = "WORDS")]
    note: String,
    /// Measure although something else uses the GPU or other requests are served; the run says so.
    #[arg(long)]
    anyway: bool,
    /// Measure an endpoint that no appliance keeps, such as one of `hearth serve`: http://127.0.0.1:PORT. Nothing is kept.
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// File with the key of that endpoint.
    #[arg(long, value_name = "FILE", requires = "endpoint")]
    api_key_file: Option<PathBuf>,
    #[command(flatten)]
    into: Into,
}

/// Where the figures go.
#[derive(clap::Args)]
pub struct Into {
    /// json, csv, markdown, llama-benchy, spark-arena (its benchmark.csv) or spark-arena-metadata.
    #[arg(long, default_value = "markdown", value_name = "FORMAT")]
    format: String,
    /// Write them to this file instead of printing them.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Options of `hearth bench show`.
#[derive(clap::Args)]
pub struct ShowArgs {
    /// Number of the run.
    run: u32,
    #[command(flatten)]
    into: Into,
}

impl Into {
    fn check(&self) -> anyhow::Result<ExportFormat> {
        ExportFormat::named(&self.format).ok_or_else(|| {
            let names: Vec<&str> = ExportFormat::ALL.iter().map(|format| format.name()).collect();
            anyhow!("--format should be one of {}, found {:?}", names.join(", "), self.format)
        })
    }

    /// Writes the run where it was asked for. `--json` prints everything, whatever the format of the file.
    fn write(&self, run: &BenchRun, json: bool) -> anyhow::Result<()> {
        let text = export(run, self.check()?);
        if let Some(file) = &self.out {
            std::fs::write(file, &text).with_context(|| format!("{} cannot be written", file.display()))?;
            eprintln!("Wrote {}.", file.display());
        }
        match (json, &self.out) {
            (true, _) => output::line(&serde_json::to_string(run)?),
            (false, None) => output::text(&text),
            (false, Some(_)) => {}
        }
        Ok(())
    }
}

/// Does it. Exit code 0 for a complete run, 1 for a partial one, 2 for a refusal.
pub fn run(command: Command, json: bool) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no threads")?;
    runtime.block_on(async {
        match command {
            Command::Run(args) => begin(args, json).await,
            Command::List => list(json).await,
            Command::Show(args) => {
                args.into.check()?;
                args.into.write(&read(args.run).await?, json).map(|()| ExitCode::SUCCESS)
            }
            Command::Compare { a, b } => {
                let found = compare(&read(a).await?, &read(b).await?);
                output::text(&if json {
                    format!("{}\n", serde_json::to_string(&found)?)
                } else {
                    table(&found)
                });
                Ok(ExitCode::SUCCESS)
            }
            Command::Rm { run } => {
                ask("DELETE", &format!("/api/bench/{run}"), Value::Null).await.map(|_| ExitCode::SUCCESS)
            }
        }
    })
}

impl RunArgs {
    fn order(&self) -> anyhow::Result<BenchOrder> {
        let suite: BenchSuite = serde_json::from_value(json!(self.suite))
            .map_err(|_| anyhow!("--suite should be quick, full or arena, found {:?}", self.suite))?;
        let part = |name: &String| {
            serde_json::from_value::<BenchPart>(json!(name)).map_err(|_| {
                anyhow!(
                    "--parts should be of contexts, prefill, company, depths, agent, facts, found {name:?}"
                )
            })
        };
        Ok(BenchOrder {
            suite,
            parts: self.parts.iter().map(part).collect::<anyhow::Result<_>>()?,
            contexts: self.contexts.clone(),
            outputs: self.outputs.clone(),
            clients: self.clients.clone(),
            repeats: Some(self.repeat),
            note: self.note.clone(),
            anyway: self.anyway,
        })
    }
}

async fn begin(args: RunArgs, json: bool) -> anyhow::Result<ExitCode> {
    let (order, _) = (args.order()?, args.into.check()?);
    let run = match &args.endpoint {
        Some(url) => elsewhere(url, &args, order).await?,
        None => here(order).await?,
    };
    args.into.write(&run, json)?;
    if let Some(fault) = &run.fault {
        eprintln!("hearth: {} {}", fault.message, fault.next_step);
    }
    Ok(ExitCode::from(u8::from(run.state != BenchRunState::Done)))
}

/// A run of the appliance, watched until it ends. The first signal cancels it, and what was measured until then is printed.
async fn here(order: BenchOrder) -> anyhow::Result<BenchRun> {
    let begun = ask("POST", "/api/bench", serde_json::to_value(&order)?).await?;
    let mut now: BenchProgress =
        serde_json::from_value(begun).context("the appliance's answer is not understood")?;
    let id = now.id;
    let (mut stop, mut told) = (Stop::listen()?, String::new());
    let rows = read(id).await?.rows;
    while now.state == BenchRunState::Running {
        tell(&rows, &now, &mut told);
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = stop.asked() => {
                eprintln!("Cancelling; what was measured is kept.");
                ask("POST", "/api/bench/cancel", Value::Null).await?;
            }
        }
        let list = ask("GET", "/api/bench", Value::Null).await?;
        now = serde_json::from_value(list["progress"].clone())
            .context("the appliance's answer is not understood")?;
        if now.id != id {
            break;
        }
    }
    read(id).await
}

async fn elsewhere(url: &str, args: &RunArgs, order: BenchOrder) -> anyhow::Result<BenchRun> {
    let authority =
        url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/').trim_end_matches("/v1"));
    let Some(authority) = authority.filter(|authority| authority.contains(':') && !authority.contains('/'))
    else {
        bail!("--endpoint should look like http://127.0.0.1:8000, found {url:?}");
    };
    let key = match &args.api_key_file {
        Some(file) => {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("{} cannot be read", file.display()))?;
            text.lines()
                .map(str::trim)
                .find(|line| !line.is_empty() && !line.starts_with('#'))
                .map(str::to_owned)
        }
        None => None,
    };
    let mut told = String::new();
    let mut report = |run: &BenchRun, now: BenchProgress| tell(&run.rows, &now, &mut told);
    let mut stop = Stop::listen()?;
    tokio::select! {
        run = measure(authority, key, order, &mut report) => {
            run.map_err(|fault| anyhow!("{} {}", fault.message, fault.next_step))
        }
        () = stop.asked() => bail!("cancelled; an endpoint without an appliance keeps nothing"),
    }
}

/// Says once what is measured now, and how long the rest takes.
fn tell(rows: &[BenchRow], now: &BenchProgress, told: &mut String) {
    let what = match now.row.and_then(|row| rows.get(row as usize)) {
        Some(row) => title(row),
        None => "warming up".into(),
    };
    let line = format!("[{}/{}] {what}", now.done, now.of);
    if *told == line {
        return;
    }
    let left = now.seconds_left.map_or(String::new(), |seconds| format!(", about {} left", time(seconds)));
    eprintln!("{line}{left}");
    *told = line;
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// What a row measures, in a few words.
fn title(row: &BenchRow) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let part = text(&serde_json::to_value(row.part).unwrap_or_default());
    let mut words = vec![part];
    if row.depth_tokens > 0 {
        words.push(format!("behind {}", row.depth_tokens));
    }
    words.extend(row.prompt.map(|prompt| format!("{prompt} + {}", row.output)));
    words.extend(row.mtp_depth.as_ref().map(|depth| format!("depth {depth}")));
    if row.part == BenchPart::Depths || row.part == BenchPart::Agent {
        words.push(text(&serde_json::to_value(row.traffic).unwrap_or_default()));
    }
    if row.clients > 1 {
        words.push(format!("{} clients", row.clients));
    }
    words.extend(row.task.map(|task| text(&serde_json::to_value(task).unwrap_or_default())));
    words.join(" ")
}

async fn list(json: bool) -> anyhow::Result<ExitCode> {
    let answer = ask("GET", "/api/bench", Value::Null).await?;
    if json {
        output::line(&answer.to_string());
        return Ok(ExitCode::SUCCESS);
    }
    for run in answer["runs"].as_array().into_iter().flatten() {
        let word = |field: &str| run[field].as_str().unwrap_or("-").to_owned();
        let speed = run["decode_tok_s"].as_f64().map_or("-".into(), |speed| format!("{speed:.1} tok/s"));
        let line = format!(
            "{:>4}  {:9} {:6} {:>3}/{:<3} {:>14}  {}  {}",
            run["id"],
            word("state"),
            word("suite"),
            run["done"],
            run["of"],
            speed,
            word("model"),
            word("note")
        );
        output::line(line.trim_end());
    }
    Ok(ExitCode::SUCCESS)
}

/// A line per figure; `*` marks what is more than the spread.
fn table(found: &BenchComparison) -> String {
    let mut text = format!("run {} and run {}\n", found.a.id, found.b.id);
    for change in &found.conditions {
        let word = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".into());
        text += &format!("other {:16} {} -> {}\n", change.what, word(&change.a), word(&change.b));
    }
    for row in &found.rows {
        let name = row.name.map_or("facts found", figure);
        let change = row.change.map_or("-".into(), |change| format!("{:+.1} %", change * 100.0));
        let mark = if row.beyond_spread == Some(true) { "*" } else { " " };
        text +=
            &format!("{:34} {name:20} {:>10.2} {:>10.2} {change:>9} {mark}\n", title(&row.row), row.a, row.b);
    }
    text + "* more than the repeats of either run differ by\n"
}

fn figure(name: BenchFigureName) -> &'static str {
    match name {
        BenchFigureName::DecodeTokS => "decode tok/s",
        BenchFigureName::TotalTokS => "all clients tok/s",
        BenchFigureName::PrefillTokS => "prefill tok/s",
        BenchFigureName::TtftColdS => "first token cold, s",
        BenchFigureName::TtftCachedS => "first token cached, s",
        BenchFigureName::TokensPerRound => "tokens per round",
    }
}

async fn read(id: u32) -> anyhow::Result<BenchRun> {
    let run = ask("GET", &format!("/api/bench/{id}"), Value::Null).await?;
    serde_json::from_value(run).context("the appliance's answer is not understood; is it of another version?")
}

/// A call of the control API; a refusal becomes an error with its next step.
async fn ask(method: &str, path: &str, body: Value) -> anyhow::Result<Value> {
    let places = Places::from_env()?;
    let called = call(&places, method, path, body).await;
    let (status, answer) = called.map_err(|error| anyhow!("{error}. {}", error.next_step()))?;
    if status >= 400 {
        let text = |field: &str| answer["error"][field].as_str().unwrap_or_default().to_owned();
        let anyway = ["requests_running", "gpu_in_use", "gpu_busy"].contains(&text("code").as_str());
        let option = if anyway { " (--anyway)" } else { "" };
        bail!("{} {}{option}", text("message"), text("next_step"));
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: Command,
    }

    fn order(line: &str) -> anyhow::Result<BenchOrder> {
        match Line::try_parse_from(line.split(' ')).expect("the line is well formed").command {
            Command::Run(args) => args.order(),
            _ => bail!("not a run"),
        }
    }

    #[test]
    fn an_order_is_read_from_its_options_and_wrong_words_are_named() {
        let full =
            order("bench run --suite full --parts contexts,agent --contexts 2048,4096 --repeat 5 --anyway")
                .unwrap();
        assert_eq!((full.suite, full.parts), (BenchSuite::Full, vec![BenchPart::Contexts, BenchPart::Agent]));
        assert_eq!((full.contexts, full.repeats, full.anyway), (Some(vec![2048, 4096]), Some(5), true));
        assert!(order("bench run --suite tiny").unwrap_err().to_string().contains("quick, full or arena"));
        assert!(order("bench run --parts speed").unwrap_err().to_string().contains("found \"speed\""));
        let into = Into { format: "xml".into(), out: None };
        assert!(into.check().unwrap_err().to_string().contains("llama-benchy"));
    }

    #[test]
    fn times_are_told_in_the_unit_that_fits() {
        assert_eq!([12.0, 100.0, 9000.0].map(time), ["12 s", "2 min", "2.5 h"]);
    }
}
