//! A second call on the same desktop: it reaches the window that is open and ends, before anything of a window is loaded.
//! The single-instance plugin would do that, too, but later: a process in which GTK and its threads have begun may crash in
//! the libraries' handlers when it ends at once. Called by `main`; the plugin answers, and decides between two first calls.

use std::env;
use std::time::Duration;

use zbus::blocking::connection::Builder;
use zbus::blocking::fdo::DBusProxy;

/// What the plugin listens at: the identifier in `tauri.conf.json` and its own names.
const NAME: &str = "dev.hearth.desktop.SingleInstance";
const PATH: &str = "/dev/hearth/desktop/SingleInstance";
const INTERFACE: &str = "org.SingleInstance.DBus";
const METHOD: &str = "ExecuteCallback";
/// A window that says nothing for so long is stuck.
const PATIENCE: Duration = Duration::from_secs(10);

/// Hands this call's arguments to the window that is open. False if there is none, or no session bus to find it by.
///
/// # Errors
/// It does not answer; or it went away meanwhile.
pub fn reach() -> zbus::Result<bool> {
    let Ok(bus) = Builder::session().and_then(|bus| bus.method_timeout(PATIENCE).build()) else {
        return Ok(false);
    };
    if !DBusProxy::new(&bus)?.name_has_owner(NAME.try_into()?)? {
        return Ok(false);
    }
    let arguments: Vec<String> = env::args_os().map(|one| one.to_string_lossy().into_owned()).collect();
    let folder = env::current_dir().unwrap_or_default().to_string_lossy().into_owned();
    bus.call_method(Some(NAME), PATH, Some(INTERFACE), METHOD, &(arguments, folder))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_that_the_plugin_makes_of_the_identifier() {
        let config: serde_json::Value =
            serde_json::from_str(include_str!("../tauri.conf.json")).expect("it is JSON");
        let identifier = config["identifier"].as_str().expect("it is there");
        assert_eq!(NAME, format!("{identifier}.SingleInstance"));
        assert_eq!(PATH, format!("/{}", NAME.replace('.', "/").replace('-', "_")));
    }
}
