//! Where this person's Hearth lies: the running appliance's address, the state folder, the program. Called by `link`.

use std::env;
use std::fs;
use std::path::PathBuf;

use hearth_appliance::{Occupant, Places, control::types::Settings, occupant};

use crate::client::Address;
use crate::error::DesktopError;

/// One person's Hearth.
#[derive(Debug, Clone)]
pub struct Place {
    /// The appliance's folders.
    pub places: Places,
    /// `--port`, for an appliance that this window starts.
    pub port: Option<u16>,
}

impl Place {
    /// The appliance that holds the settings folder now, if it listens already.
    pub fn running(&self) -> Option<(Address, i32)> {
        let Occupant { pid, url } = occupant(&self.places.config)?;
        let authority = url?.parse::<hyper::Uri>().ok()?.authority()?.to_string();
        // Read anew each time: the appliance replaces a token that others could have read.
        let token = fs::read_to_string(self.places.token()).ok()?.trim().to_owned();
        Some((Address { authority, token }, i32::try_from(pid).ok()?))
    }

    /// The language in the settings file, for as long as no appliance can be asked; empty if it cannot be read.
    pub fn language(&self) -> String {
        Settings::read(&self.places.settings()).map(|settings| settings.language).unwrap_or_default()
    }

    /// `hearth` beside this program, else in PATH.
    pub fn program(&self) -> Result<PathBuf, DesktopError> {
        let beside = env::current_exe().unwrap_or_default().with_file_name("hearth");
        let path = env::var_os("PATH").unwrap_or_default();
        let in_path = env::split_paths(&path).map(|folder| folder.join("hearth"));
        let found = std::iter::once(beside.clone()).chain(in_path).find(|file| file.is_file());
        found.ok_or(DesktopError::ProgramMissing { beside })
    }
}
