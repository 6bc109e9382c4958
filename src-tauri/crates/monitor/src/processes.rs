//! Who holds the memory, from /proc: the processes that matter to the doctor, and the largest programs for the memory bar.

use std::{
    collections::{HashMap, HashSet},
    fs,
};

use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System, UpdateKind};

use crate::doctor::Process;

/// Resident memory from which a process is worth looking at, bytes.
const MUCH: u64 = 256 << 20;

/// A program and what its processes hold together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Its name.
    pub name: String,
    /// Resident memory, or GPU memory where that is more, bytes.
    pub bytes: u64,
}

/// The processes at one moment.
#[derive(Debug)]
pub struct Census(Vec<Process>);

impl Census {
    /// Counts now. `gpu` is the GPU memory by process; `keepers` are Hearth's own processes: they and all below them are `ours`.
    pub fn take(gpu: &HashMap<u32, u64>, keepers: &[u32]) -> Census {
        let Ok(mut system) = System::new() else { return Census(Vec::new()) };
        let what = ProcessRefreshKind::nothing().with_memory().with_cmd(UpdateKind::Always).without_tasks();
        system.refresh_processes_specifics(ProcessesToUpdate::All, true, what);
        let all: Vec<Process> = system
            .processes()
            .iter()
            .filter(|(_, process)| process.thread_kind().is_none())
            .map(|(pid, process)| Process {
                pid: pid.as_u32(),
                parent: process.parent().map(|parent| parent.as_u32()),
                name: process.name().to_string_lossy().into_owned(),
                arguments: process.cmd().iter().map(|word| word.to_string_lossy().into_owned()).collect(),
                resident: process.memory(),
                gpu: gpu.get(&pid.as_u32()).copied(),
                group: String::new(),
                ours: false,
            })
            .collect();
        let ours = family(&all, keepers);
        let kept = all.into_iter().filter(|process| process.resident >= MUCH || process.gpu.is_some());
        Census(
            kept.map(|process| Process {
                group: group(process.pid),
                ours: ours.contains(&process.pid),
                ..process
            })
            .collect(),
        )
    }

    /// The processes that hold much.
    pub fn processes(self) -> Vec<Process> {
        self.0
    }

    /// The `most` largest programs that are not Hearth's, largest first.
    pub fn largest(&self, most: usize) -> Vec<Share> {
        let mut by_name: HashMap<&str, u64> = HashMap::new();
        for process in self.0.iter().filter(|process| !process.ours) {
            *by_name.entry(&process.name).or_default() += process.resident.max(process.gpu.unwrap_or(0));
        }
        let mut shares: Vec<Share> =
            by_name.into_iter().map(|(name, bytes)| Share { name: name.to_owned(), bytes }).collect();
        shares.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
        shares.truncate(most);
        shares
    }
}

/// The control group of a process, empty if it cannot be read. The last line is that of cgroup v2 (`0::/...`).
fn group(pid: u32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    text.lines().last().and_then(|line| line.splitn(3, ':').nth(2)).unwrap_or_default().to_owned()
}

/// `roots` and everything below them.
fn family(all: &[Process], roots: &[u32]) -> HashSet<u32> {
    let mut ours: HashSet<u32> = roots.iter().copied().collect();
    // Every pass finds one more generation; a process table is not deep.
    loop {
        let before = ours.len();
        ours.extend(
            all.iter()
                .filter(|p| p.parent.is_some_and(|parent| ours.contains(&parent)))
                .map(|p| p.pid)
                .collect::<Vec<_>>(),
        );
        if ours.len() == before {
            return ours;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, parent: u32, name: &str, resident: u64) -> Process {
        Process { pid, parent: Some(parent), name: name.into(), resident, ..Process::default() }
    }

    #[test]
    fn the_engines_of_an_appliance_are_its_family_however_deep() {
        let all = [
            process(1, 0, "init", 0),
            process(7, 1, "hearth", 0),
            process(9, 8, "sh", 0),
            process(8, 7, "hearth", 0),
        ];
        let mut ours: Vec<u32> = family(&all, &[7]).into_iter().collect();
        ours.sort_unstable();
        assert_eq!(ours, [7, 8, 9]);
        assert!(family(&all, &[]).is_empty());
    }

    #[test]
    fn programs_are_summed_and_ours_are_left_out() {
        let mut census = Census(vec![
            process(1, 0, "chromium", 300 << 20),
            process(2, 0, "chromium", 300 << 20),
            process(3, 0, "ollama", 500 << 20),
            process(4, 0, "hearth", 4 << 30),
        ]);
        census.0[3].ours = true;
        census.0[2].gpu = Some(2 << 30);
        let names: Vec<String> = census.largest(5).into_iter().map(|share| share.name).collect();
        assert_eq!(names, ["ollama", "chromium"]);
        assert_eq!(census.largest(1)[0].bytes, 2 << 30);
    }

    #[test]
    fn this_process_is_found_if_it_holds_memory_of_the_gpu() {
        let me = std::process::id();
        let census = Census::take(&HashMap::from([(me, 5)]), &[me]);
        let found = census.processes().into_iter().find(|process| process.pid == me).expect("it runs");
        assert!(found.ours && found.gpu == Some(5) && found.resident > 0, "{found:?}");
        assert!(!found.arguments.is_empty());
    }
}
