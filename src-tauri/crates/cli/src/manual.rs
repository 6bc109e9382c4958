//! `hearth completions` and `hearth manual`: what the package installs beside the program, made from the command's own description.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Command;
use clap_complete::Shell;

use crate::output;

/// Options of `hearth completions`.
#[derive(clap::Args)]
pub struct CompletionsArgs {
    /// The shell that is to complete.
    shell: Shell,
}

/// Options of `hearth manual`.
#[derive(clap::Args)]
pub struct ManualArgs {
    /// An existing folder.
    folder: PathBuf,
}

/// Prints a script for the shell to read.
pub fn completions(args: CompletionsArgs, mut command: Command) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "hearth", &mut script);
    output::text(&String::from_utf8(script).context("a completion script is text")?);
    Ok(ExitCode::SUCCESS)
}

/// Writes hearth.1 and one page per subcommand.
pub fn pages(args: ManualArgs, command: Command) -> anyhow::Result<ExitCode> {
    let mut command = command;
    command.build();
    write(&args.folder, &command, "hearth")?;
    Ok(ExitCode::SUCCESS)
}

fn write(folder: &PathBuf, command: &Command, name: &str) -> anyhow::Result<()> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).title(name.to_uppercase()).render(&mut page)?;
    let path = folder.join(format!("{name}.1"));
    fs::write(&path, page).with_context(|| format!("{} cannot be written", path.display()))?;
    command
        .get_subcommands()
        .filter(|one| !one.is_hide_set() && one.get_name() != "help")
        .try_for_each(|one| write(folder, one, &format!("{name}-{}", one.get_name())))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::Cli;

    #[test]
    fn every_command_has_a_page_that_names_its_options() {
        let folder = tempfile::tempdir().unwrap();
        pages(ManualArgs { folder: folder.path().into() }, Cli::command()).unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert!(read("hearth.1").contains("hearth\\-up(1)"));
        assert!(read("hearth-up.1").contains("start\\-last\\-good"));
        assert!(read("hearth-service-install.1").contains("at\\-boot"));
        assert!(!folder.path().join("hearth-manual.1").exists(), "hidden commands have no page");
    }

    #[test]
    fn every_shell_gets_a_script_that_knows_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "hearth", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("service") && script.contains("uninstall"), "{shell}");
        }
    }
}
