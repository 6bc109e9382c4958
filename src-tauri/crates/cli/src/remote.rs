//! `hearth status`, `hearth start` and `hearth stop`: the running appliance, steered from a terminal by the same calls as the page.

use std::{ffi::OsString, process::ExitCode};

use anyhow::{Context, anyhow};
use hearth_appliance::{Places, remote::call};
use serde_json::{Value, json};

use crate::output;

/// Options of `hearth start`.
#[derive(clap::Args)]
pub struct StartArgs {
    /// `ember`, a folder, a GGUF file, or a Hugging Face id in the cache; default: the model of the settings.
    model: Option<OsString>,
    /// Start it although the plan says that it does not fit.
    #[arg(long)]
    anyway: bool,
}

/// Options of `hearth stop`.
#[derive(clap::Args)]
pub struct StopArgs {
    /// Cut running requests off instead of finishing them.
    #[arg(long)]
    now: bool,
}

/// Shows what the appliance does.
pub fn status(json: bool) -> anyhow::Result<ExitCode> {
    ask("GET", "/api/state", Value::Null, json)
}

/// Starts a model.
pub fn start(args: StartArgs, json: bool) -> anyhow::Result<ExitCode> {
    let anyway = args.anyway;
    let Some(model) = args.model else {
        return ask("POST", "/api/engine/start", json!({ "anyway": anyway }), json);
    };
    let model = model
        .into_string()
        .map_err(|m| anyhow!("the model path {m:?} is not valid UTF-8; rename the folder"))?;
    // The appliance has another working folder.
    let model = match std::path::Path::new(&model).canonicalize() {
        Ok(path) if model != hearth_hub::EMBER => {
            path.into_os_string().into_string().map_err(|p| anyhow!("the path {p:?} is not valid UTF-8"))?
        }
        _ => model,
    };
    let (_, mut settings) = exchange("GET", "/api/settings", Value::Null)?;
    settings["profile"]["model"] = json!(model);
    // The old model's context may be more than the new one has.
    settings["profile"]["context"] = Value::Null;
    ask("POST", "/api/engine/start", json!({ "profile": settings["profile"], "anyway": anyway }), json)
}

/// Stops the model; the appliance goes on.
pub fn stop(args: StopArgs, json: bool) -> anyhow::Result<ExitCode> {
    ask("POST", "/api/engine/stop", json!({ "now": args.now }), json)
}

fn exchange(method: &str, path: &str, body: Value) -> anyhow::Result<(u16, Value)> {
    let places = Places::from_env()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no threads")?;
    runtime
        .block_on(call(&places, method, path, body))
        .map_err(|error| anyhow!("{error}. {}", error.next_step()))
}

/// Calls, prints the state it answers with, or what it refused and why.
fn ask(method: &str, path: &str, body: Value, json: bool) -> anyhow::Result<ExitCode> {
    let (status, answer) = exchange(method, path, body)?;
    if json {
        output::line(&answer.to_string());
    }
    if status >= 400 {
        let text = |field: &str| answer["error"][field].as_str().unwrap_or_default().to_owned();
        eprintln!("hearth: {}\n        {}", text("message"), text("next_step"));
        return Ok(ExitCode::from(2));
    }
    if !json {
        output::line(&summary(&answer));
    }
    Ok(ExitCode::SUCCESS)
}

/// A snapshot in a few lines; a number that is not known is a dash.
fn summary(snapshot: &Value) -> String {
    let state = &snapshot["state"];
    let mut line = match state["kind"].as_str().unwrap_or("unknown") {
        "no_model" => "no model".to_owned(),
        "loading" => format!("loading: {}", state["stage"].as_str().unwrap_or("-")),
        kind => kind.to_owned(),
    };
    if let Some(fault) = state["fault"].as_object() {
        let text = |field: &str| fault.get(field).and_then(Value::as_str).unwrap_or_default();
        line = format!("{line}: {} {}", text("message"), text("next_step"));
    }
    let demonstration = snapshot["model"]["demonstration"] == true;
    let model = snapshot["profile"]["model"].as_str().unwrap_or("-");
    let number = |value: &Value| value.as_f64().map_or("-".into(), |n| format!("{n:.1}"));
    let speed = &snapshot["throughput"];
    format!(
        "{line}\nmodel     {model}{}\nendpoint  {}\nspeed     decode {} tok/s, prefill {} tok/s\nrequests  {} running, {} queued",
        if demonstration { " (a demonstration model)" } else { "" },
        snapshot["endpoint"]["url"].as_str().unwrap_or("-"),
        number(&speed["decode_tok_s"]),
        number(&speed["prefill_tok_s"]),
        speed["running"],
        speed["queued"],
    )
}
