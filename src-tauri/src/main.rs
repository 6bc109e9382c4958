//! The Hearth window. It shows the dashboard that the appliance serves, and starts an appliance if none runs; it holds no
//! state of its own. Everything else about Hearth works without it.

mod app;
mod client;
mod error;
mod first;
mod graphics;
mod kept;
mod link;
mod place;
mod tray;
mod window;
mod words;

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use hearth_appliance::Places;

use crate::place::Place;

/// Given to a second call, it ends the first.
const QUIT_FLAG: &str = "--quit";
/// Given to a second call, it lets the first one show its page in the browser.
const BROWSER_FLAG: &str = "--browser";

/// Opens the Hearth window, or brings the open one to the front.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Port of the appliance, instead of the one in the settings
    #[arg(long)]
    port: Option<u16>,
    /// Draw in software, where the window stays blank
    #[arg(long)]
    safe_graphics: bool,
    /// Show the page in the system's browser, too: where the window stays blank, or a tab is nicer
    #[arg(long)]
    browser: bool,
    /// Quit the window that is open
    #[arg(long)]
    quit: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match first::reach() {
        Ok(true) => return Ok(()),
        Ok(false) if arguments.quit => {
            eprintln!("hearth-desktop: no window was open");
            return Ok(());
        }
        Ok(false) => {}
        Err(_) => return after_the_first(),
    }
    graphics::prepare(arguments.safe_graphics);
    let places = Places::from_env().context("Hearth's folders could not be found.")?;
    let place = Place { places, port: arguments.port };
    match app::run(place, arguments.browser) {
        Err(tauri::Error::PluginInitialization(plugin, _)) if plugin == "single-instance" => {
            after_the_first()
        }
        done => done.context("The Hearth window could not be opened. Without a display, use `hearth up`."),
    }
}

/// The first window went away while this one spoke to it. Its name on the session bus is free in a moment.
fn after_the_first() -> anyhow::Result<()> {
    const TRIED: &str = "HEARTH_WINDOW_TRIED";
    let refused = "The Hearth window that is open does not answer. End hearth-desktop, then try again.";
    anyhow::ensure!(env::var_os(TRIED).is_none(), refused);
    thread::sleep(Duration::from_secs(1));
    let again = Command::new(env::current_exe()?).args(env::args_os().skip(1)).env(TRIED, "1").exec();
    Err(again).context(refused)
}
