//! What Hearth keeps and where it listens: disk, port, rights, and the one place it fetches from.

use super::{
    check::{Check, CheckState, Fix, FixAction, Subject, gib},
    facts::{Facts, FileMode},
};

const GIB: u64 = 1 << 30;
/// Less room than this breaks the history and the log.
const NO_ROOM: u64 = GIB;
/// The smallest model worth a Spark has about 20 GB; below this a download is likely to be refused.
const LITTLE_ROOM: u64 = 40 * GIB;

/// Room for models, history and logs.
pub(super) fn disk(facts: &Facts) -> Check {
    let subject = Subject("disk", "Disk space");
    if facts.disks.is_empty() {
        return subject.skipped("The file systems do not tell their size.");
    }
    let seen = facts.disks.iter().map(|disk| {
        format!("{}: {} free of {} at {}", disk.holds, gib(disk.free), gib(disk.total), disk.path)
    });
    let least = facts.disks.iter().min_by_key(|disk| disk.free).expect("there is one");
    let models = facts.disks.iter().find(|disk| disk.holds == "models");
    let look = |path: &str| {
        Fix::command(
            "Make room: `hearth list` shows the models, and this what else is large.",
            format!("du -xh --max-depth=2 '{path}' | sort -h | tail"),
        )
    };
    let check = match models {
        _ if least.free < NO_ROOM => {
            subject.fail(format!("There is no room left for {}.", least.holds), look(&least.path))
        }
        Some(models) if models.free < LITTLE_ROOM => {
            subject.warn("Room for models is short: one has 20 GB or more.", look(&models.path))
        }
        _ => subject.pass("There is room."),
    };
    check.seen(seen)
}

/// Can Hearth listen where the settings say.
pub(super) fn port(facts: &Facts) -> Check {
    let subject = Subject("port", "Port");
    let Some(port) = &facts.port else {
        return subject.skipped("It is not known where Hearth should listen.");
    };
    let holder = match &port.holder {
        None => return subject.pass(format!("{} is free.", port.address)),
        Some(_) if port.ours => return subject.pass(format!("Hearth listens on {}.", port.address)),
        Some(holder) => holder,
    };
    let name = holder.1.clone().unwrap_or_else(|| "a process of another user".into());
    let other = port.port.checked_add(1).unwrap_or(8000);
    let mut fix = Fix {
        text: format!("Give Hearth another port (Settings, or the command below), or end {name}."),
        commands: vec![format!("hearth up --port {other}")],
        action: None,
    };
    fix.commands.extend(holder.0.map(|pid| format!("kill {pid}")));
    let seen = match holder.0 {
        Some(pid) => format!("{}: {name} (pid {pid})", port.address),
        None => format!("{}: {name}", port.address),
    };
    subject.fail(format!("Port {} is held by {name}.", port.port), fix).seen([seen])
}

/// May others read keys and tokens.
pub(super) fn permissions(facts: &Facts) -> Check {
    let subject = Subject("permissions", "Keys and tokens");
    if facts.files.is_empty() {
        return subject.skipped("Hearth has written no keys yet.");
    }
    let open = |file: &&FileMode| file.mode & 0o077 != 0;
    let foreign: Vec<&FileMode> = facts.files.iter().filter(|file| !file.own).collect();
    let open: Vec<&FileMode> = facts.files.iter().filter(open).collect();
    let line = |file: &&FileMode| {
        let owner = if file.own { "" } else { ", belongs to another user" };
        format!("{}: mode {:03o}{owner} at {}", file.what, file.mode & 0o777, file.path)
    };
    let quoted = |path: &str| format!("'{}'", path.replace('\'', r"'\''"));
    if !foreign.is_empty() {
        let commands =
            foreign.iter().map(|file| format!("sudo chown \"$USER\" {}", quoted(&file.path))).collect();
        let fix = Fix { text: "Take them back.".into(), commands, action: None };
        return subject
            .fail("Some of Hearth's files belong to another user.", fix)
            .seen(foreign.iter().map(line));
    }
    if open.is_empty() {
        return subject.pass(format!("Only you can read them ({} looked at).", facts.files.len()));
    }
    let commands = open.iter().map(|file| format!("chmod go= {}", quoted(&file.path))).collect();
    let fix = Fix {
        text:
            "Close them. Who could read a key may have copied it: make new ones if others use this machine."
                .into(),
        commands,
        action: Some(FixAction::CloseFiles),
    };
    subject.fail("Other users of this machine can read Hearth's keys.", fix).seen(open.iter().map(line))
}

/// Does Hugging Face answer. Asked only when a person wants to know.
pub(super) fn hub(facts: &Facts) -> Check {
    let subject = Subject("hub", "Hugging Face");
    let Some(attempt) = &facts.hub else {
        let mut check = subject.skipped("Not asked: Hearth leaves the machine only when you want it to.");
        check.fix = Some(Fix {
            text: "Asking opens one connection and sends nothing about you.".into(),
            commands: vec!["hearth doctor --hub".into()],
            action: Some(FixAction::AskHub),
        });
        return check;
    };
    match (attempt.answered_ms, &attempt.problem) {
        (Some(ms), _) => {
            let mut check = subject.pass("It answers: models can be searched and downloaded.");
            check.evidence = vec![format!("{}: answered in {ms:.0} ms", attempt.host)];
            check
        }
        (None, problem) => {
            let mut check = subject.fail(
                "It does not answer: models cannot be downloaded now. What is on this machine works without it.",
                Fix::words("Check the network, a proxy (HTTPS_PROXY) and HF_ENDPOINT, then look again."),
            );
            // Nothing that runs depends on it.
            check.state = CheckState::Warn;
            if let Some(fix) = &mut check.fix {
                fix.action = Some(FixAction::AskHub);
            }
            check.seen([format!("{}: {}", attempt.host, problem.as_deref().unwrap_or("no answer"))])
        }
    }
}
