//! The `hearth` command. Each subcommand is one file with an `Args` and a `run`; this one only names them.

use std::{io::IsTerminal, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};

mod bandwidth;
mod bench;
mod doctor;
mod keeper;
mod list;
mod logits;
mod manual;
mod notify;
mod open;
mod output;
mod pull;
mod remote;
mod selftest;
mod serve;
mod service;
mod signals;
mod up;

/// A private model endpoint on your own machine.
#[derive(Parser)]
#[command(name = "hearth", version, propagate_version = true)]
struct Cli {
    /// Print JSON instead of text for people.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Keep a model running behind a private endpoint, with a page to watch it.
    Up(up::Args),
    /// Show what the running appliance does.
    Status,
    /// Start a model in the running appliance.
    Start(remote::StartArgs),
    /// Stop the model of the running appliance.
    Stop(remote::StopArgs),
    /// Run one model behind an endpoint, without the page.
    Serve(serve::Args),
    /// Measure how fast this machine reads memory.
    Bandwidth(bandwidth::Args),
    /// Show the models on this machine.
    List(list::Args),
    /// Download a model, or go on with it.
    Pull(pull::PullArgs),
    /// Delete a downloaded model.
    Rm(pull::RemoveArgs),
    /// Measure how fast this machine runs a model.
    Bench(Box<bench::Args>),
    /// Look at driver, memory, heat, disk and keys, and say what to put right.
    Doctor(doctor::Args),
    /// Hold every op of the GPU against the CPU.
    Selftest(selftest::Args),
    /// Run Hearth as a systemd service.
    Service(service::Args),
    /// Print the completions for a shell.
    Completions(manual::CompletionsArgs),
    /// Write the manual's pages into a folder.
    #[command(hide = true)]
    Manual(manual::ManualArgs),
    /// Write the logits of any token list to a file.
    Logits(logits::Args),
}

fn main() -> ExitCode {
    keeper::die_with_the_appliance();
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("HEARTH_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .init();
    let done = match cli.command {
        Command::Up(args) => up::run(args, cli.json),
        Command::Status => remote::status(cli.json),
        Command::Start(args) => remote::start(args, cli.json),
        Command::Stop(args) => remote::stop(args, cli.json),
        Command::Serve(args) => serve::run(args, cli.json),
        Command::Bandwidth(args) => bandwidth::run(args, cli.json),
        Command::List(args) => list::run(args, cli.json),
        Command::Pull(args) => pull::pull(args, cli.json),
        Command::Rm(args) => pull::remove(args, cli.json),
        Command::Bench(args) => bench::run(*args, cli.json),
        Command::Doctor(args) => doctor::run(args, cli.json),
        Command::Selftest(args) => selftest::run(args, cli.json),
        Command::Service(args) => service::run(args, cli.json),
        Command::Completions(args) => manual::completions(args, Cli::command()),
        Command::Manual(args) => manual::pages(args, Cli::command()),
        Command::Logits(args) => logits::run(args, cli.json),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            // `:#` prints the whole chain on one line: what failed, and why.
            if cli.json {
                output::line(
                    &serde_json::json!({ "error": { "message": format!("{error:#}") } }).to_string(),
                );
            }
            eprintln!("hearth: {error:#}");
            ExitCode::from(2)
        }
    }
}
