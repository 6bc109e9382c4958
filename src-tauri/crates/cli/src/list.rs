//! `hearth list`: the models on this machine, and whether Hearth can run them.

use std::{path::PathBuf, process::ExitCode};

use hearth_appliance::models;

use crate::output;

/// Options of `hearth list`.
#[derive(clap::Args)]
pub struct Args {
    /// Also look through this folder (each sub-folder with a config.json is a model, and each GGUF file).
    #[arg(long = "in", value_name = "FOLDER")]
    folders: Vec<PathBuf>,
}

/// Prints one model per line, or a JSON array.
pub fn run(args: Args, json: bool) -> anyhow::Result<ExitCode> {
    let cards = models::cards(&args.folders);
    if json {
        output::line(&serde_json::to_string_pretty(&cards)?);
        return Ok(ExitCode::SUCCESS);
    }
    for card in cards {
        let size = format!("{:.1} MB", card.bytes / 1e6);
        let context = card.max_context.map_or("-".into(), |n| n.to_string());
        let note = match (&card.fault, card.demonstration) {
            (Some(fault), _) => format!("cannot run: {}", fault.message),
            (None, true) => "built in, a demonstration model".into(),
            (None, false) => String::new(),
        };
        output::line(&format!("{:<44} {:>12}  context {:>8}  {note}", card.id, size, context));
    }
    Ok(ExitCode::SUCCESS)
}
