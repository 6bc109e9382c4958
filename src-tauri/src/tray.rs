//! The tray: an icon per state, and start, stop, open, quit. Some desktops hide trays, so all of it except Quit is also
//! in the window, and a window without a visible tray ends when it is closed (see `app`); Hearth itself goes on.

use std::sync::{Mutex, MutexGuard};

use hearth_appliance::control::types::EngineState;
use tauri::image::Image;
use tauri::menu::{Menu, MenuItem, PredefinedMenuItem};
use tauri::tray::{TrayIcon, TrayIconBuilder};
use tauri::{AppHandle, Wry, include_image};

use crate::client::Glimpse;
use crate::words::Language;

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
#[derive(Debug, Clone, PartialEq)]
struct Face {
    words: String,
    icon: Icon,
    can_start: bool,
    can_stop: bool,
}

impl Face {
    fn of(glimpse: Option<&Glimpse>, language: Language) -> Face {
        let say = language.words();
        let Some(glimpse) = glimpse else {
            return Face {
                words: say.not_connected.into(),
                icon: Icon::Error,
                can_start: false,
                can_stop: false,
            };
        };
        let about = |text: &str| say.about(text, glimpse.model.as_ref().map(|model| model.name.as_str()));
        let wrong = |text: Option<&str>, said: &str| text.map_or_else(|| said.to_owned(), about);
        let (words, icon, can_start, can_stop) = match &glimpse.state {
            EngineState::NoModel => (say.no_model.into(), Icon::Idle, false, false),
            EngineState::Stopped => (about(say.stopped), Icon::Idle, true, false),
            EngineState::Loading { .. } => (about(say.loading), Icon::Loading, false, true),
            EngineState::Serving { .. } => (about(say.serving), Icon::Serving, false, true),
            EngineState::Degraded { fault, .. } => {
                (wrong(say.degraded, &fault.message), Icon::Error, false, true)
            }
            EngineState::Stopping { .. } => (about(say.stopping), Icon::Loading, false, false),
            EngineState::Restarting { .. } => (about(say.restarting), Icon::Error, false, true),
            EngineState::Error { fault } => (wrong(say.failed, &fault.message), Icon::Error, true, false),
        };
        Face { words, icon, can_start, can_stop }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
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

/// All that decides what the tray looks like.
#[derive(Debug, Clone, PartialEq)]
struct Shown {
    face: Face,
    language: Language,
    keeps: bool,
}

/// The tray icon and the parts of its menu that change.
pub struct Tray {
    /// What it shows now. Every change goes to the desktop as a file and messages on the bus, so nothing is set twice.
    shown: Mutex<Option<Shown>>,
    icon: TrayIcon<Wry>,
    status: MenuItem<Wry>,
    start: MenuItem<Wry>,
    stop: MenuItem<Wry>,
    open: MenuItem<Wry>,
    browser: MenuItem<Wry>,
    leave: MenuItem<Wry>,
    quit: MenuItem<Wry>,
}

impl Tray {
    /// Puts the icon up, in a language that may change later. `chosen` gets the id of a clicked item.
    pub fn new(
        app: &AppHandle,
        language: Language,
        chosen: impl Fn(&AppHandle, &str) + Send + Sync + 'static,
    ) -> tauri::Result<Tray> {
        let entry = |id: &str, text: &str, enabled| MenuItem::with_id(app, id, text, enabled, None::<&str>);
        let (face, say) = (Face::of(None, language), language.words());
        let status = entry("status", &face.words, false)?;
        let start = entry(item::START, say.start, false)?;
        let stop = entry(item::STOP, say.stop, false)?;
        let open = entry(item::OPEN, say.open, true)?;
        let browser = entry(item::BROWSER, say.browser, true)?;
        let leave = entry(item::LEAVE, say.leave, false)?;
        let quit = entry(item::QUIT, say.quit(false), true)?;
        let menu = Menu::with_items(
            app,
            &[
                &status,
                &start,
                &stop,
                &PredefinedMenuItem::separator(app)?,
                &open,
                &browser,
                &PredefinedMenuItem::separator(app)?,
                &leave,
                &quit,
            ],
        )?;
        let icon = TrayIconBuilder::with_id("hearth")
            .icon(face.icon.image())
            .tooltip("Hearth")
            .menu(&menu)
            .on_menu_event(move |app, event| chosen(app, event.id().as_ref()))
            .build(app)?;
        Ok(Tray { shown: Mutex::new(None), icon, status, start, stop, open, browser, leave, quit })
    }

    /// Shows what the appliance said last; None when there is none. `keeps`: a window started it. Where anything changed, every
    /// text is set anew: the language is a setting that can change at any time.
    pub fn show(&self, glimpse: Option<&Glimpse>, language: Language, keeps: bool) -> tauri::Result<()> {
        let next = Shown { face: Face::of(glimpse, language), language, keeps };
        // Left empty while it is set, so that what was set only in part is set again the next time.
        if self.shown().take().as_ref() == Some(&next) {
            *self.shown() = Some(next);
            return Ok(());
        }
        self.set(&next)?;
        *self.shown() = Some(next);
        Ok(())
    }

    fn shown(&self) -> MutexGuard<'_, Option<Shown>> {
        self.shown.lock().expect("no holder of this lock can panic")
    }

    fn set(&self, Shown { face, language, keeps }: &Shown) -> tauri::Result<()> {
        let say = language.words();
        self.icon.set_icon(Some(face.icon.image()))?;
        self.icon.set_tooltip(Some(format!("Hearth: {}", face.words)))?;
        self.status.set_text(&face.words)?;
        self.start.set_enabled(face.can_start)?;
        self.stop.set_enabled(face.can_stop)?;
        self.leave.set_enabled(*keeps)?;
        self.start.set_text(say.start)?;
        self.stop.set_text(say.stop)?;
        self.open.set_text(say.open)?;
        self.browser.set_text(say.browser)?;
        self.leave.set_text(say.leave)?;
        self.quit.set_text(say.quit(*keeps))
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
        face_in(Language::English, state)
    }

    fn face_in(language: Language, state: serde_json::Value) -> Face {
        let glimpse =
            serde_json::json!({"state": state, "model": {"name": "Ember", "bytes": 1}, "more": true});
        Face::of(Some(&serde_json::from_value(glimpse).unwrap()), language)
    }

    #[test]
    fn start_is_offered_only_when_nothing_runs_and_stop_only_when_something_does() {
        let stopped = face(serde_json::json!({"kind": "stopped"}));
        assert!(stopped.can_start && !stopped.can_stop);
        let serving = face(serde_json::json!({"kind": "serving", "since_ms": 1.0, "prefill": null}));
        assert!(!serving.can_start && serving.can_stop);
        let none = Face::of(None, Language::English);
        assert!(!none.can_start && !none.can_stop);
    }

    #[test]
    fn quitting_says_whether_it_ends_hearth_too() {
        let say = Language::English.words();
        assert!(say.quit(true).contains("stop Hearth"));
        assert!(say.quit(false).contains("goes on"), "a service is not the window's to stop");
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
                assert_ne!(a.icon.image().rgba(), b.icon.image().rgba(), "{} and {}", a.words, b.words);
            }
        }
        assert_eq!(faces[3].words, "It broke.");
    }

    #[test]
    fn in_german_every_state_is_said_in_german_and_names_the_model() {
        let fault = serde_json::json!({"code": "x", "message": "It broke.", "next_step": "Mend it.", "evidence": null});
        for (state, begins) in [
            (serde_json::json!({"kind": "stopped"}), "Gestoppt"),
            (serde_json::json!({"kind": "serving", "since_ms": 1.0, "prefill": null}), "Bereit"),
            (serde_json::json!({"kind": "stopping", "running": 0, "seconds_left": 1.0}), "Hält an"),
            (serde_json::json!({"kind": "degraded", "since_ms": 1.0, "fault": fault}), "Eingeschränkt"),
            (serde_json::json!({"kind": "error", "fault": fault}), "Fehler"),
        ] {
            let words = face_in(Language::German, state).words;
            assert!(words.starts_with(begins) && words.contains("Ember"), "{words}");
        }
        assert_eq!(Face::of(None, Language::German).words, "Nicht verbunden");
    }
}
