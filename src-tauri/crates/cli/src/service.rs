//! `hearth service`: Hearth under systemd, so that the endpoint is there without a window and without anybody logged in.

mod account;
mod error;
mod manager;
mod unit;

use std::{env, ffi::OsString, fs, path::PathBuf, process::ExitCode};

use clap::Subcommand;
use hearth_appliance::{Places, occupant};
use serde_json::json;

use self::{
    error::ServiceError,
    manager::{NAME, Scope},
    unit::Unit,
};
use crate::output;

/// Exit code of `status` when no service runs, as of `systemctl status`.
const NOT_RUNNING: u8 = 3;
/// Variables that say where Hearth and its models are; a systemd manager does not have the shell's.
const KEPT_VARIABLES: [&str; 5] =
    ["XDG_CONFIG_HOME", "XDG_STATE_HOME", "HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT"];

/// Options of `hearth service`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Let systemd start Hearth, now and from now on.
    Install(InstallArgs),
    /// Stop the service and remove it; settings and models stay.
    Uninstall(ScopeArgs),
    /// Show whether a service is installed and runs.
    Status,
    /// Print the unit that `install` would write.
    Unit(UnitArgs),
}

#[derive(clap::Args)]
struct ScopeArgs {
    /// The machine's systemd instead of your own: starts at boot, before anybody logs in. Needs root.
    #[arg(long)]
    system: bool,
}

#[derive(clap::Args)]
struct InstallArgs {
    #[command(flatten)]
    unit: UnitArgs,
    /// Let your own systemd start at boot too, not only when you log in (loginctl enable-linger).
    #[arg(long, conflicts_with = "system")]
    at_boot: bool,
    /// Keep this from starting Hearth now.
    #[arg(long)]
    no_start: bool,
}

#[derive(clap::Args)]
struct UnitArgs {
    #[command(flatten)]
    scope: ScopeArgs,
    /// Account of a system service: its settings, its models. Default: who called sudo.
    #[arg(long, value_name = "NAME", requires = "system")]
    run_as: Option<String>,
    /// Start the model that served last together with Hearth.
    #[arg(long, overrides_with = "no_start_model")]
    start_model: bool,
    /// Start Hearth without a model (unless the settings ask for one). Neither: as it was, at first without.
    #[arg(long)]
    no_start_model: bool,
    /// The program the unit runs; default: this one.
    #[arg(long, value_name = "FILE")]
    program: Option<OsString>,
}

/// Runs the subcommand. Exit code 2 for a refusal; of `status`, 3 if no service runs.
pub fn run(args: Args, json: bool) -> anyhow::Result<ExitCode> {
    let done = match args.action {
        Action::Install(args) => install(args, json),
        Action::Uninstall(args) => uninstall(scope(&args), json),
        Action::Status => status(json),
        Action::Unit(args) => unit_for(&args).map(|unit| {
            output::text(&unit.text());
            ExitCode::SUCCESS
        }),
    };
    Ok(done.unwrap_or_else(|error| {
        let fault =
            json!({ "code": error.code(), "message": format!("{error}."), "next_step": error.next_step() });
        if json {
            output::line(&json!({ "error": fault }).to_string());
        }
        eprintln!("hearth: {error}.\n        {}", error.next_step());
        ExitCode::from(2)
    }))
}

fn scope(args: &ScopeArgs) -> Scope {
    if args.system { Scope::System } else { Scope::User }
}

/// The unit for these options; what they do not say stays as it is installed.
fn unit_for(args: &UnitArgs) -> Result<Unit, ServiceError> {
    let scope = scope(&args.scope);
    let environment = KEPT_VARIABLES
        .iter()
        .filter_map(|name| Some((name.to_string(), env::var(name).ok()?)))
        .filter(|(_, value)| !value.is_empty())
        .collect::<Vec<_>>();
    let system = match scope {
        Scope::User => None,
        Scope::System => {
            let account = account::find(args.run_as.clone())?;
            let writes = unit::written_folders(&account.home, &environment);
            Some((account, writes))
        }
    };
    // An update must not change what a person once decided.
    let before = || scope.installed().ok().flatten().is_some_and(|text| unit::starts_model(&text));
    let start_model = if args.start_model || args.no_start_model { args.start_model } else { before() };
    Ok(Unit { program: program(args.program.clone())?, start_model, environment, system })
}

fn program(given: Option<OsString>) -> Result<PathBuf, ServiceError> {
    let bad = |path: PathBuf, problem| Err(ServiceError::Program { path, problem });
    let path = match given {
        Some(path) => PathBuf::from(path),
        None => env::current_exe().map_err(|cause| ServiceError::File {
            path: "/proc/self/exe".into(),
            doing: "read",
            cause,
        })?,
    };
    match () {
        () if !path.is_absolute() => bad(path, "its path is not absolute"),
        () if path.to_str().is_none() => bad(path, "its path is not valid UTF-8"),
        () if path.to_string_lossy().ends_with(" (deleted)") => bad(path, "its file was replaced or removed"),
        () => Ok(path),
    }
}

fn install(args: InstallArgs, json: bool) -> Result<ExitCode, ServiceError> {
    let scope = scope(&args.unit.scope);
    root_for(scope, "hearth service install --system")?;
    if let Ok(Some(_)) = scope.other().installed() {
        return Err(ServiceError::OtherScope { other: scope.other().word(), path: scope.other().path()? });
    }
    let existed = scope.installed()?.is_some();
    let unit = unit_for(&args.unit)?;
    // Asked first, so that nothing is written where no systemd would read it.
    scope.run(&["show-environment"])?;
    if let Some((account, writes)) = &unit.system {
        writes.iter().try_for_each(|folder| account::make_folder(folder, account))?;
    }
    let path = scope.path()?;
    write(&path, &unit.text())?;
    scope.run(&["daemon-reload"])?;
    scope.run(&["enable", NAME])?;
    if args.at_boot {
        linger()?;
    }
    let running = scope.standing();
    // Somebody's `hearth up`, or a window's: the service would be refused the settings folder.
    let holder = places_of(&unit).and_then(|places| occupant(&places.config));
    let holder = holder.filter(|holder| Some(holder.pid) != running.pid);
    let note = if let Some(holder) = &holder {
        format!(
            "Hearth runs already (process {}). Once that has ended: {} start hearth",
            holder.pid,
            scope.systemctl()
        )
    } else if running.pid.is_some() {
        format!("It runs on as it is; the new unit takes effect with: {} restart hearth", scope.systemctl())
    } else if args.no_start {
        format!("Start it with: {} start hearth", scope.systemctl())
    } else {
        scope.run(&["start", NAME])?;
        String::new()
    };
    let url = places_of(&unit).and_then(|places| occupant(&places.config)).and_then(|holder| holder.url);
    if json {
        let done = json!({ "scope": scope.word(), "unit": path, "starts_model": unit.start_model, "url": url,
            "note": (!note.is_empty()).then_some(&note) });
        output::line(&done.to_string());
        return Ok(ExitCode::SUCCESS);
    }
    let when = match (scope, args.at_boot) {
        (Scope::System, _) => "at boot",
        (Scope::User, true) => "at boot",
        (Scope::User, false) => "when you log in (at boot too with --at-boot)",
    };
    let model = if unit.start_model {
        "with the model that served last"
    } else {
        "without a model (see --start-model)"
    };
    output::line(&format!("{} {}", if existed { "Updated  " } else { "Installed" }, path.display()));
    output::line(&format!("Starts    {when}, {model}"));
    if let Some(url) = url.filter(|_| holder.is_none()) {
        output::line(&format!("Endpoint  {url}/v1"));
    }
    if !note.is_empty() {
        output::line(&note);
    }
    Ok(ExitCode::SUCCESS)
}

fn uninstall(scope: Scope, json: bool) -> Result<ExitCode, ServiceError> {
    root_for(scope, "hearth service uninstall --system")?;
    if scope.installed()?.is_none() {
        return Err(ServiceError::NotInstalled { scope: scope.word() });
    }
    // Running requests finish first; see TimeoutStopSec.
    scope.run(&["disable", "--now", NAME])?;
    let path = scope.path()?;
    fs::remove_file(&path).map_err(|cause| ServiceError::File {
        path: path.clone(),
        doing: "removed",
        cause,
    })?;
    scope.run(&["daemon-reload"])?;
    match json {
        true => output::line(&json!({ "scope": scope.word(), "removed": path }).to_string()),
        false => {
            output::line(&format!("Removed   {}; settings and models are where they were", path.display()))
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn status(json: bool) -> Result<ExitCode, ServiceError> {
    let mut services = Vec::new();
    for scope in [Scope::User, Scope::System] {
        let text = match scope.installed() {
            Ok(Some(text)) => text,
            Ok(None) | Err(ServiceError::Foreign { .. } | ServiceError::NoHome) => continue,
            Err(error) => return Err(error),
        };
        let standing = scope.standing();
        services.push(json!({ "scope": scope.word(), "unit": scope.path()?, "active": standing.active,
            "enabled": standing.enabled, "pid": standing.pid, "starts_model": unit::starts_model(&text) }));
    }
    let runs = services.iter().any(|service| service["active"] == "active");
    let code = if runs { ExitCode::SUCCESS } else { ExitCode::from(NOT_RUNNING) };
    let holder = Places::from_env().ok().and_then(|places| occupant(&places.config));
    let appliance = holder.map(|holder| json!({ "pid": holder.pid, "url": holder.url }));
    if json {
        output::line(&json!({ "services": services, "appliance": appliance }).to_string());
        return Ok(code);
    }
    if services.is_empty() {
        output::line("service   not installed (hearth service install)");
    }
    for service in &services {
        let word =
            |key: &str| service[key].as_str().filter(|word| !word.is_empty()).unwrap_or("unknown").to_owned();
        let model = if service["starts_model"] == true { "with the last model" } else { "without a model" };
        output::line(&format!(
            "service   {}, {}, {}, starts {model}",
            word("scope"),
            word("active"),
            word("enabled")
        ));
        output::line(&format!("unit      {}", word("unit")));
    }
    if let Some(appliance) = appliance {
        let by = if services.iter().any(|service| service["pid"] == appliance["pid"]) {
            ""
        } else {
            ", not by the service"
        };
        let url = appliance["url"].as_str().map_or_else(|| "starting".into(), |url| format!("{url}/v1"));
        output::line(&format!("endpoint  {url} (process {}{by})", appliance["pid"]));
    }
    Ok(code)
}

fn root_for(scope: Scope, command: &'static str) -> Result<(), ServiceError> {
    match scope == Scope::System && !rustix::process::geteuid().is_root() {
        true => Err(ServiceError::NotRoot { command }),
        false => Ok(()),
    }
}

/// The folders of the appliance that the unit will run, for the running appliance's address.
fn places_of(unit: &Unit) -> Option<Places> {
    match &unit.system {
        None => Places::from_env().ok(),
        Some((_, writes)) => {
            let [config, state, ..] = &writes[..] else { return None };
            Some(Places { config: config.clone(), state: state.clone(), runtime: state.join("run") })
        }
    }
}

fn linger() -> Result<(), ServiceError> {
    // By number: without one loginctl asks for the session's user, and there may be no session (sudo -u, a script).
    let user = rustix::process::getuid().as_raw().to_string();
    let output = std::process::Command::new("loginctl").args(["enable-linger", &user]).output();
    let failed = |said: String| ServiceError::Systemctl { command: "loginctl enable-linger".into(), said };
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(failed(String::from_utf8_lossy(&output.stderr).trim().into())),
        Err(cause) => Err(failed(cause.to_string())),
    }
}

/// Whole or not at all: systemd may read it at any time.
fn write(path: &PathBuf, text: &str) -> Result<(), ServiceError> {
    let failed = |cause| ServiceError::File { path: path.clone(), doing: "written", cause };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let fresh = path.with_extension("service.new");
    fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, path)).map_err(|cause| {
        let _ = fs::remove_file(&fresh);
        failed(cause)
    })
}
