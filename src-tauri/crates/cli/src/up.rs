//! `hearth up`: the appliance in the foreground, until Ctrl-C or SIGTERM.

use std::{ffi::OsString, process::ExitCode};

use anyhow::Context;
use hearth_appliance::{Appliance, ApplianceError, Places, UpOptions};
use serde_json::json;

use crate::{notify, output, signals::Stop};

/// Options of `hearth up`; each one replaces a setting for this run only.
#[derive(clap::Args)]
pub struct Args {
    /// Port of endpoint, control API and pages; 0 for any free one.
    #[arg(long)]
    port: Option<u16>,
    /// Model to serve: `ember`, a folder, a GGUF file, or a Hugging Face id in the cache.
    #[arg(long)]
    model: Option<OsString>,
    /// Start the model at once.
    #[arg(long, conflicts_with = "no_start")]
    start: bool,
    /// Start the model that served last, as it was started then; the one of the settings if none has served yet.
    #[arg(long, conflicts_with_all = ["start", "no_start", "model"])]
    start_last_good: bool,
    /// Do not start the model, whatever the settings say.
    #[arg(long)]
    no_start: bool,
}

/// Runs the appliance. Exit code 0 after an orderly end, 2 if it could not start.
pub fn run(args: Args, json: bool) -> anyhow::Result<ExitCode> {
    let model = args.model.map(|model| {
        model.into_string().map_err(|model| {
            anyhow::anyhow!("the model path {model:?} is not valid UTF-8; rename the folder")
        })
    });
    let options = UpOptions {
        port: args.port,
        last_good: args.start_last_good,
        start: if args.start || args.start_last_good { Some(true) } else { args.no_start.then_some(false) },
        model: model.transpose()?,
        program: None,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no threads")?;
    match runtime.block_on(serve(options, json)) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(Failure::Refused(error)) => {
            let fault = error.fault();
            if json {
                output::line(&json!({ "error": fault }).to_string());
            }
            eprintln!("hearth: {}\n        {}", fault.message, fault.next_step);
            Ok(ExitCode::from(2))
        }
        Err(Failure::Other(error)) => Err(error),
    }
}

enum Failure {
    Refused(ApplianceError),
    Other(anyhow::Error),
}

impl From<ApplianceError> for Failure {
    fn from(error: ApplianceError) -> Failure {
        Failure::Refused(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::Other(error.into())
    }
}

async fn serve(options: UpOptions, json: bool) -> Result<(), Failure> {
    // Before the port is announced: whoever waits for the line may send a signal right after it.
    let (mut first, mut second) = (Stop::listen()?, Stop::listen()?);
    let appliance = Appliance::start(Places::from_env()?, options).await?;
    if json {
        let line =
            json!({ "url": appliance.url(), "port": appliance.address().port(), "pid": std::process::id() });
        output::line(&line.to_string());
    } else {
        output::line(&format!("Hearth is running. Open {}", appliance.page()));
        output::line(&format!("Clients use        {}/v1", appliance.url()));
    }
    notify::ready(&appliance.url());
    let end = async move {
        first.asked().await;
        notify::stopping();
    };
    // The first signal is seen here too; the second one means "now".
    let hurry = async move {
        second.asked().await;
        second.asked().await;
    };
    Ok(appliance.run(end, hurry).await?)
}
