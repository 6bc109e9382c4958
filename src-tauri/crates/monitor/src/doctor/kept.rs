//! What Hearth keeps and where it listens: disk, port, rights, and the one place it fetches from.

use super::{
    check::{Check, CheckState, Fix, FixAction, Subject},
    facts::{Disk, Facts, FileMode},
    said::{Gib, Said, say},
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
        return subject.skipped(say!(disk_unknown, "The file systems do not tell their size."));
    }
    let line = |disk: &Disk| {
        say!(
            seen_disk,
            "{holds}: {free} free of {total} at {path}",
            holds = &disk.holds,
            free = Gib(disk.free),
            total = Gib(disk.total),
            path = &disk.path
        )
    };
    let seen = facts.disks.iter().map(line);
    let least = facts.disks.iter().min_by_key(|disk| disk.free).expect("there is one");
    let models = facts.disks.iter().find(|disk| disk.holds == "models");
    let look = |path: &str| {
        Fix::command(
            say!(fix_room, "Make room: `hearth list` shows the models, and this what else is large."),
            format!("du -xh --max-depth=2 '{path}' | sort -h | tail"),
        )
    };
    let check = match models {
        _ if least.free < NO_ROOM => {
            let said = say!(disk_full, "There is no room left for {holds}.", holds = &least.holds);
            subject.fail(said, look(&least.path))
        }
        Some(models) if models.free < LITTLE_ROOM => {
            let said = say!(disk_short, "Room for models is short: one has 20 GB or more.");
            subject.warn(said, look(&models.path))
        }
        _ => subject.pass(say!(disk_room, "There is room.")),
    };
    check.seen(seen)
}

/// Can Hearth listen where the settings say.
pub(super) fn port(facts: &Facts) -> Check {
    let subject = Subject("port", "Port");
    let Some(port) = &facts.port else {
        return subject.skipped(say!(port_unknown, "It is not known where Hearth should listen."));
    };
    let holder = match &port.holder {
        None => return subject.pass(say!(port_free, "{address} is free.", address = &port.address)),
        Some(_) if port.ours => {
            return subject.pass(say!(port_ours, "Hearth listens on {address}.", address = &port.address));
        }
        Some(holder) => holder,
    };
    let other = port.port.checked_add(1).unwrap_or(8000);
    let (finding, text) = match &holder.1 {
        Some(name) => (
            say!(port_held, "Port {port} is held by {name}.", port = port.port, name = name),
            say!(
                fix_port,
                "Give Hearth another port (Settings, or the command below), or end {name}.",
                name = name
            ),
        ),
        None => (
            say!(port_held_unknown, "Port {port} is held by a process of another user.", port = port.port),
            say!(
                fix_port_unknown,
                "Give Hearth another port (Settings, or the command below), or end a process of another user."
            ),
        ),
    };
    let mut fix = Fix { text, commands: vec![format!("hearth up --port {other}")], action: None };
    fix.commands.extend(holder.0.map(|pid| format!("kill {pid}")));
    let name = holder.1.as_deref().unwrap_or("?");
    let seen = match holder.0 {
        Some(pid) => format!("{}: {name} (pid {pid})", port.address),
        None => format!("{}: {name}", port.address),
    };
    subject.fail(finding, fix).seen([Said::quoted(seen)])
}

/// May others read keys and tokens.
pub(super) fn permissions(facts: &Facts) -> Check {
    let subject = Subject("permissions", "Keys and tokens");
    if facts.files.is_empty() {
        return subject.skipped(say!(keys_none, "Hearth has written no keys yet."));
    }
    let open = |file: &&FileMode| file.mode & 0o077 != 0;
    let foreign: Vec<&FileMode> = facts.files.iter().filter(|file| !file.own).collect();
    let open: Vec<&FileMode> = facts.files.iter().filter(open).collect();
    let line = |file: &&FileMode| {
        let (what, mode, path) = (&file.what, format!("{:03o}", file.mode & 0o777), &file.path);
        match file.own {
            true => say!(seen_file, "{what}: mode {mode} at {path}", what = what, mode = mode, path = path),
            false => say!(
                seen_foreign_file,
                "{what}: mode {mode}, belongs to another user at {path}",
                what = what,
                mode = mode,
                path = path
            ),
        }
    };
    let quoted = |path: &str| format!("'{}'", path.replace('\'', r"'\''"));
    if !foreign.is_empty() {
        let commands =
            foreign.iter().map(|file| format!("sudo chown \"$USER\" {}", quoted(&file.path))).collect();
        let fix = Fix { text: say!(fix_take_back, "Take them back."), commands, action: None };
        return subject
            .fail(say!(keys_foreign, "Some of Hearth's files belong to another user."), fix)
            .seen(foreign.iter().map(line));
    }
    if open.is_empty() {
        return subject.pass(say!(
            keys_closed,
            "Only you can read them ({count} looked at).",
            count = facts.files.len()
        ));
    }
    let commands = open.iter().map(|file| format!("chmod go= {}", quoted(&file.path))).collect();
    let fix = Fix {
        text: say!(
            fix_close,
            "Close them. Who could read a key may have copied it: make new ones if others use this machine."
        ),
        commands,
        action: Some(FixAction::CloseFiles),
    };
    let said = say!(keys_open, "Other users of this machine can read Hearth's keys.");
    subject.fail(said, fix).seen(open.iter().map(line))
}

/// Does Hugging Face answer. Asked only when a person wants to know.
pub(super) fn hub(facts: &Facts) -> Check {
    let subject = Subject("hub", "Hugging Face");
    let Some(attempt) = &facts.hub else {
        let mut check = subject
            .skipped(say!(hub_not_asked, "Not asked: Hearth leaves the machine only when you want it to."));
        check.fix = Some(Fix {
            text: say!(fix_ask, "Asking opens one connection and sends nothing about you."),
            commands: vec!["hearth doctor --hub".into()],
            action: Some(FixAction::AskHub),
        });
        return check;
    };
    match (attempt.answered_ms, &attempt.problem) {
        (Some(ms), _) => {
            let said = say!(hub_answers, "It answers: models can be searched and downloaded.");
            let seen = say!(seen_hub, "{host}: answered in {ms:.0} ms", host = &attempt.host, ms = ms);
            subject.pass(said).seen([seen])
        }
        (None, problem) => {
            let mut check = subject.fail(
                say!(
                    hub_silent,
                    "It does not answer: models cannot be downloaded now. What is on this machine works without it."
                ),
                Fix::words(say!(
                    fix_network,
                    "Check the network, a proxy (HTTPS_PROXY) and HF_ENDPOINT, then look again."
                )),
            );
            // Nothing that runs depends on it.
            check.state = CheckState::Warn;
            if let Some(fix) = &mut check.fix {
                fix.action = Some(FixAction::AskHub);
            }
            check.seen([match problem {
                Some(problem) => Said::quoted(format!("{}: {problem}", attempt.host)),
                None => say!(seen_no_answer, "{host}: no answer", host = &attempt.host),
            }])
        }
    }
}
