//! Other programs that hold memory: which they are, and how each is asked to let go without losing anybody's work.

use std::collections::BTreeMap;

use super::{
    check::{Check, Fix, Subject},
    facts::{Facts, Process},
    said::{Gib, Said, say},
};

const GIB: u64 = 1 << 30;
/// GPU memory below this is a desktop or a browser drawing.
const GPU_MUCH: u64 = GIB;

/// A program that loads models, as far as its name or its arguments tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Ollama,
    Vllm,
    LlamaCpp,
    LmStudio,
    Sglang,
    TensorRt,
    TextGen,
    ComfyUi,
    Jupyter,
    Other,
}

/// What the program is called, and the words in its name or arguments by which it is known. The first that fits counts.
const KNOWN: [(Kind, &str, &[&str]); 9] = [
    (Kind::Ollama, "Ollama", &["ollama"]),
    (Kind::Vllm, "vLLM", &["vllm", "vllm::enginecore"]),
    (Kind::Sglang, "SGLang", &["sglang"]),
    (Kind::TensorRt, "TensorRT-LLM", &["trtllm-serve", "tensorrt_llm", "tritonserver"]),
    (Kind::LlamaCpp, "llama.cpp", &["llama-server", "llama-cli", "llama-bench", "llama-swap", "llama_cpp"]),
    (Kind::LmStudio, "LM Studio", &["lm-studio", "lmstudio", "llmster", "lm studio"]),
    (Kind::TextGen, "text-generation-webui", &["text-generation-webui", "textgen"]),
    (Kind::ComfyUi, "ComfyUI", &["comfyui"]),
    (Kind::Jupyter, "Jupyter", &["ipykernel_launcher", "ipykernel", "jupyter"]),
];

fn kind(process: &Process) -> (Kind, String) {
    // The program and the script or module it runs; later arguments are models and prompts and could name anything.
    let said = std::iter::once(&process.name).chain(process.arguments.iter().take(4));
    let said = said.map(|word| word.to_lowercase()).collect::<Vec<_>>().join(" ");
    let known = KNOWN.iter().find(|(_, _, words)| words.iter().any(|word| said.contains(word)));
    match known {
        Some((kind, name, _)) => (*kind, (*name).to_owned()),
        None => (Kind::Other, process.name.clone()),
    }
}

/// What keeps a program running, and so how it is ended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Keeper {
    Container { tool: &'static str, id: String },
    SystemUnit(String),
    UserUnit(String),
    Nobody,
}

/// Reads a control group: `/system.slice/ollama.service`, `/system.slice/docker-<64 hex>.scope`, `/docker/<64 hex>`,
/// `/machine.slice/libpod-<64 hex>.scope`, `/user.slice/user-1000.slice/user@1000.service/app.slice/vllm.service`.
fn keeper(group: &str) -> Keeper {
    let hex = |text: &str| {
        let digits: String = text.chars().take_while(char::is_ascii_hexdigit).collect();
        (digits.len() == 64).then(|| digits[..12].to_owned())
    };
    for (mark, tool) in
        [("docker-", "docker"), ("docker/", "docker"), ("libpod-", "podman"), ("libpod/", "podman")]
    {
        if let Some(id) = group.split(mark).nth(1).and_then(hex) {
            return Keeper::Container { tool, id };
        }
    }
    let parts: Vec<&str> = group.split('/').filter(|part| !part.is_empty()).collect();
    let unit = parts.iter().rev().find(|part| part.ends_with(".service") && !part.starts_with("user@"));
    match unit {
        Some(unit) if group.contains("user@") => Keeper::UserUnit((*unit).to_owned()),
        Some(unit) if parts.first() == Some(&"system.slice") => Keeper::SystemUnit((*unit).to_owned()),
        _ => Keeper::Nobody,
    }
}

/// A program with all its processes.
#[derive(Debug)]
struct Rival {
    name: String,
    keeper: Keeper,
    kind: Kind,
    pids: Vec<u32>,
    resident: u64,
    gpu: Option<u64>,
}

impl Rival {
    fn holds(&self) -> u64 {
        self.gpu.unwrap_or(0).max(self.resident)
    }

    fn line(&self) -> Said {
        let pids: Vec<String> = self.pids.iter().take(4).map(u32::to_string).collect();
        let more = if self.pids.len() > 4 { " and more" } else { "" };
        let gpu = self.gpu.map(|bytes| format!(", {} of GPU memory", Gib(bytes))).unwrap_or_default();
        let (inside, keeper) = match &self.keeper {
            Keeper::Container { tool, id } => {
                (format!(" in {tool} container {id}"), Some(format!("{tool} {id}")))
            }
            Keeper::SystemUnit(unit) | Keeper::UserUnit(unit) => {
                (format!(", kept by {unit}"), Some(unit.clone()))
            }
            Keeper::Nobody => (String::new(), None),
        };
        let text = format!(
            "{} (pid {}{more}){inside}: {} of memory{gpu}",
            self.name,
            pids.join(", "),
            Gib(self.resident)
        );
        say!(seen_rival, "{text}", text = text)
            .with("name", &self.name)
            .with("pids", pids)
            .with("more", self.pids.len() > 4)
            .with("keeper", keeper)
            .with("memory", self.resident)
            .with("gpu", self.gpu)
    }

    /// The polite way: the program's own command where it has one, else what keeps it, else the signal of Ctrl-C.
    fn stop(&self) -> String {
        match (&self.keeper, self.kind) {
            (Keeper::Container { tool, id }, _) => format!("{tool} stop {id}"),
            // Unloads the models and leaves the program running.
            (_, Kind::Ollama) => "ollama ps | awk 'NR>1 {print $1}' | xargs -r -n1 ollama stop".into(),
            (_, Kind::LmStudio) => "lms unload --all".into(),
            (Keeper::SystemUnit(unit), _) => format!("sudo systemctl stop {unit}"),
            (Keeper::UserUnit(unit), _) => format!("systemctl --user stop {unit}"),
            (Keeper::Nobody, _) => {
                // The first is the eldest: it ends its workers itself.
                format!("kill -INT {}", self.pids.first().copied().unwrap_or_default())
            }
        }
    }
}

/// Programs that are not Hearth's, largest first: those known to load models, and those that hold much.
fn rivals(facts: &Facts) -> Vec<Rival> {
    let total = facts.memory.as_ref().map_or(u64::MAX, |memory| memory.total);
    let mut found: BTreeMap<(Keeper, Kind, String), Rival> = BTreeMap::new();
    let mut processes: Vec<&Process> = facts.processes.iter().filter(|process| !process.ours).collect();
    processes.sort_by_key(|process| process.pid);
    for process in processes {
        let (kind, name) = kind(process);
        let keeper = keeper(&process.group);
        let rival = found.entry((keeper.clone(), kind, name.clone())).or_insert_with(|| Rival {
            name,
            keeper,
            kind,
            pids: Vec::new(),
            resident: 0,
            gpu: None,
        });
        rival.pids.push(process.pid);
        rival.resident += process.resident;
        if let Some(bytes) = process.gpu {
            rival.gpu = Some(rival.gpu.unwrap_or(0) + bytes);
        }
    }
    let much = |rival: &Rival| {
        let least = if rival.kind == Kind::Other { (total / 10).max(GIB) } else { GIB };
        rival.resident >= least || rival.gpu.is_some_and(|bytes| bytes >= GPU_MUCH)
    };
    let mut rivals: Vec<Rival> = found.into_values().filter(much).collect();
    rivals.sort_by_key(|rival| std::cmp::Reverse(rival.holds()));
    rivals
}

/// Memory held by other programs.
pub(super) fn others(facts: &Facts) -> Check {
    let subject = Subject("others", "Other programs");
    if facts.processes.is_empty() && facts.memory.is_none() {
        return subject.skipped(say!(no_proc, "/proc cannot be read."));
    }
    let rivals = rivals(facts);
    if rivals.is_empty() {
        return subject.pass(say!(others_none, "No other program holds much memory."));
    }
    let names: Vec<&str> = rivals.iter().take(3).map(|rival| rival.name.as_str()).collect();
    let sum: u64 = rivals.iter().map(Rival::holds).sum();
    let (who, more) = (listed(&names, rivals.len()), rivals.len() - names.len());
    let (finding, text) = match rivals.len() {
        1 => (
            say!(others_one, "{who} holds {memory} of memory.", who = who, memory = Gib(sum)),
            say!(
                fix_other,
                "If you want that memory for a model, ask it to let go; nothing is lost but what is running there."
            ),
        ),
        _ => (
            say!(others_several, "{who} hold {memory} of memory.", who = who, memory = Gib(sum))
                .with("names", &names)
                .with("more", more),
            say!(
                fix_others,
                "If you want that memory for a model, ask each to let go; nothing is lost but what is running there."
            ),
        ),
    };
    let fix = Fix { text, commands: rivals.iter().map(Rival::stop).collect(), action: None };
    subject.warn(finding, fix).seen(rivals.iter().map(Rival::line))
}

/// `a`, `a and b`, `a, b and c`, `a, b, c and 2 more`.
fn listed(names: &[&str], all: usize) -> String {
    if all > names.len() {
        return format!("{} and {} more", names.join(", "), all - names.len());
    }
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "9f2c4e6a8b0d1f3e5a7c9b1d3f5e7a9c0b2d4f6e8a0c1e3f5b7d9a1c3e5f7b90";

    #[test]
    fn what_keeps_a_program_is_read_from_its_control_group() {
        let docker = Keeper::Container { tool: "docker", id: ID[..12].into() };
        assert_eq!(keeper(&format!("/system.slice/docker-{ID}.scope")), docker);
        assert_eq!(keeper(&format!("/docker/{ID}")), docker);
        let podman = Keeper::Container { tool: "podman", id: ID[..12].into() };
        assert_eq!(keeper(&format!("/machine.slice/libpod-{ID}.scope/container")), podman);
        assert_eq!(keeper("/system.slice/ollama.service"), Keeper::SystemUnit("ollama.service".into()));
        let user = "/user.slice/user-1000.slice/user@1000.service/app.slice/vllm.service";
        assert_eq!(keeper(user), Keeper::UserUnit("vllm.service".into()));
        for nobody in [
            "",
            "/",
            "/user.slice/user-1000.slice/session-2.scope",
            "/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-Alacritty-4711.scope",
            "/docker/not-an-id",
        ] {
            assert_eq!(keeper(nobody), Keeper::Nobody, "{nobody}");
        }
    }

    #[test]
    fn a_program_is_known_by_what_it_runs_and_not_by_the_model_it_was_given() {
        let process = |name: &str, arguments: &[&str]| Process {
            name: name.into(),
            arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
            ..Process::default()
        };
        assert_eq!(
            kind(&process("python3", &["python3", "-m", "vllm.entrypoints.openai.api_server"])).0,
            Kind::Vllm
        );
        assert_eq!(kind(&process("VLLM::EngineCor", &["VLLM::EngineCore"])).0, Kind::Vllm);
        assert_eq!(kind(&process("llama-server", &["/opt/llama-server", "-m", "x.gguf"])).0, Kind::LlamaCpp);
        assert_eq!(
            kind(&process("node", &["node", "serve.js", "--port", "1", "--model", "ollama"])).0,
            Kind::Other
        );
    }

    #[test]
    fn names_are_listed_as_people_do() {
        assert_eq!(listed(&["Ollama"], 1), "Ollama");
        assert_eq!(listed(&["Ollama", "vLLM"], 2), "Ollama and vLLM");
        assert_eq!(listed(&["a", "b", "c"], 5), "a, b, c and 2 more");
    }
}
