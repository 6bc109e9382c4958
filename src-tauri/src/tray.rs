//! The tray: an icon per state, and start, stop, open, quit. Some desktops hide trays, so all of it except Quit is also
//! in the window, and a window without a visible tray ends when it is closed (see `app`); Hearth itself goes on.

use hearth_appliance::control::types::EngineState;
use tauri::image::Image;
use tauri::menu::{Menu, MenuItem, PredefinedMenuItem};
use tauri::tray::{TrayIcon, TrayIconBuilder};
use tauri::{AppHandle, Wry, include_image};

use crate::client::Glimpse;

/// What a click asks for; the ids of the menu's items.
pub mod item {
    /// Show the window.
    pub const OPEN: &str = "open";
    /// Show the same page in the system's browser.
    pub const BROWSER: &str = "browser";
    /// Start the engine.
    pub const START: &str = "start";
    /// Stop the engine.
    pub const STOP: &str = "stop";
    /// End the window and nothing else.
    pub const LEAVE: &str = "leave";
    /// End the window, and the appliance if a window started it.
    pub const QUIT: &str = "quit";
}

/// What the tray shows: words, an icon, and which of start and stop can be done.
struct Face {
    words: String,
    icon: Image<'static>,
    can_start: bool,
    can_stop: bool,
}

impl Face {
    fn of(glimpse: Option<&Glimpse>) -> Face {
        let Some(glimpse) = glimpse else {
            let words = "Not connected".into();
            return Face {
                words,
                icon: include_image!("../icons/tray-error.png"),
                can_start: false,
                can_stop: false,
            };
        };
        let model = glimpse.model.as_ref().map_or("the model", |model| model.name.as_str());
        let (words, icon, can_start, can_stop) = match &glimpse.state {
            EngineState::NoModel => ("No model chosen".into(), Icon::Idle, false, false),
            EngineState::Stopped => (format!("Stopped: {model}"), Icon::Idle, true, false),
            EngineState::Loading { .. } => (format!("Loading {model}"), Icon::Loading, false, true),
            EngineState::Serving { .. } => (format!("Serving {model}"), Icon::Serving, false, true),
            EngineState::Degraded { fault, .. } => (fault.message.clone(), Icon::Error, false, true),
            EngineState::Stopping { .. } => (format!("Stopping {model}"), Icon::Loading, false, false),
            EngineState::Restarting { .. } => (format!("Restarting {model}"), Icon::Error, false, true),
            EngineState::Error { fault } => (fault.message.clone(), Icon::Error, true, false),
        };
        Face { words, icon: icon.image(), can_start, can_stop }
    }
}

#[derive(Clone, Copy)]
enum Icon {
    Idle,
    Loading,
    Serving,
    Error,
}

impl Icon {
    fn image(self) -> Image<'static> {
        match self {
            Icon::Idle => include_image!("../icons/tray-idle.png"),
            Icon::Loading => include_image!("../icons/tray-loading.png"),
            Icon::Serving => include_image!("../icons/tray-serving.png"),
            Icon::Error => include_image!("../icons/tray-error.png"),
        }
    }
}

/// The tray icon and the parts of its menu that change.
pub struct Tray {
    icon: TrayIcon<Wry>,
    status: MenuItem<Wry>,
    start: MenuItem<Wry>,
    stop: MenuItem<Wry>,
    leave: MenuItem<Wry>,
    quit: MenuItem<Wry>,
}

/// What quitting ends, in words: an appliance that systemd or a person started is not the window's to stop.
fn quit_words(keeps: bool) -> &'static str {
    if keeps { "Quit and stop Hearth" } else { "Quit; Hearth goes on" }
}

impl Tray {
    /// Puts the icon up. `chosen` gets the id of a clicked item.
    pub fn new(
        app: &AppHandle,
        chosen: impl Fn(&AppHandle, &str) + Send + Sync + 'static,
    ) -> tauri::Result<Tray> {
        let entry = |id: &str, text: &str, enabled| MenuItem::with_id(app, id, text, enabled, None::<&str>);
        let face = Face::of(None);
        let status = entry("status", &face.words, false)?;
        let start = entry(item::START, "Start the model", false)?;
        let stop = entry(item::STOP, "Stop the model", false)?;
        let leave = entry(item::LEAVE, "Quit and keep serving", false)?;
        let quit = entry(item::QUIT, quit_words(false), true)?;
        let menu = Menu::with_items(
            app,
            &[
                &status,
                &start,
                &stop,
                &PredefinedMenuItem::separator(app)?,
                &entry(item::OPEN, "Open Hearth", true)?,
                &entry(item::BROWSER, "Open in the browser", true)?,
                &PredefinedMenuItem::separator(app)?,
                &leave,
                &quit,
            ],
        )?;
        let icon = TrayIconBuilder::with_id("hearth")
            .icon(face.icon)
            .tooltip("Hearth")
            .menu(&menu)
            .on_menu_event(move |app, event| chosen(app, event.id().as_ref()))
            .build(app)?;
        Ok(Tray { icon, status, start, stop, leave, quit })
    }

    /// Shows what the appliance said last; None when there is none. `keeps`: a window started it.
    pub fn show(&self, glimpse: Option<&Glimpse>, keeps: bool) -> tauri::Result<()> {
        let face = Face::of(glimpse);
        self.icon.set_icon(Some(face.icon))?;
        self.icon.set_tooltip(Some(format!("Hearth: {}", face.words)))?;
        self.status.set_text(&face.words)?;
        self.start.set_enabled(face.can_start)?;
        self.stop.set_enabled(face.can_stop)?;
        self.leave.set_enabled(keeps)?;
        self.quit.set_text(quit_words(keeps))
    }
}

/// Whether the desktop shows trays at all: somebody owns the name that tray icons register with.
pub async fn is_shown_by_desktop() -> bool {
    let ask = async {
        let bus = zbus::Connection::session().await?;
        let names = zbus::fdo::DBusProxy::new(&bus).await?;
        names.name_has_owner("org.kde.StatusNotifierWatcher".try_into()?).await.map_err(zbus::Error::from)
    };
    ask.await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn face(state: serde_json::Value) -> Face {
        let glimpse =
            serde_json::json!({"state": state, "model": {"name": "Ember", "bytes": 1}, "more": true});
        Face::of(Some(&serde_json::from_value(glimpse).unwrap()))
    }

    #[test]
    fn start_is_offered_only_when_nothing_runs_and_stop_only_when_something_does() {
        let stopped = face(serde_json::json!({"kind": "stopped"}));
        assert!(stopped.can_start && !stopped.can_stop);
        let serving = face(serde_json::json!({"kind": "serving", "since_ms": 1.0, "prefill": null}));
        assert!(!serving.can_start && serving.can_stop);
        let none = Face::of(None);
        assert!(!none.can_start && !none.can_stop);
    }

    #[test]
    fn quitting_says_whether_it_ends_hearth_too() {
        assert!(quit_words(true).contains("stop Hearth"));
        assert!(quit_words(false).contains("goes on"), "a service is not the window's to stop");
    }

    #[test]
    fn serving_loading_and_error_have_icons_of_their_own() {
        let fault = serde_json::json!({"code": "x", "message": "It broke.", "next_step": "Mend it.", "evidence": null});
        let faces = [
            face(serde_json::json!({"kind": "stopped"})),
            face(serde_json::json!({"kind": "serving", "since_ms": 1.0, "prefill": null})),
            face(
                serde_json::json!({"kind": "loading", "stage": "plan", "index": 0, "count": 4, "fraction": 0.5, "seconds_left": null}),
            ),
            face(serde_json::json!({"kind": "error", "fault": fault})),
        ];
        for (i, a) in faces.iter().enumerate() {
            for b in &faces[i + 1..] {
                assert_ne!(a.icon.rgba(), b.icon.rgba(), "{} and {}", a.words, b.words);
            }
        }
        assert_eq!(faces[3].words, "It broke.");
    }
}
