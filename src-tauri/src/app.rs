//! Puts window, tray and link together and runs until Quit. Called by `main`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tauri::{AppHandle, Manager, RunEvent, State, WindowEvent};
use tauri_plugin_window_state::StateFlags;
use tokio::signal::unix::{SignalKind, signal};

use crate::client;
use crate::link::{Link, News};
use crate::place::Place;
use crate::tray::{self, Tray, item};
use crate::words::Language;
use crate::{BROWSER_FLAG, QUIT_FLAG, window};

/// What every handler can reach.
struct Shell {
    link: Arc<Link>,
    /// What tray and waiting page speak; the appliance's setting, as it was told last.
    language: Mutex<Language>,
    tray: Option<Tray>,
    quitting: AtomicBool,
    /// Show the page in the system's browser, too, as soon as there is one.
    browse: AtomicBool,
}

impl Shell {
    fn language(&self) -> Language {
        *self.language.lock().expect("no holder of this lock can panic")
    }

    fn speak(&self, language: Language) {
        *self.language.lock().expect("no holder of this lock can panic") = language;
    }
}

/// The waiting page asks how the connection stands.
#[tauri::command]
fn connection(shell: State<'_, Shell>) -> Value {
    shell.link.page(shell.language())
}

/// The waiting page's button.
#[tauri::command]
fn retry(shell: State<'_, Shell>) {
    shell.link.retry();
}

/// Opens the window and returns when it is quit. Where another call was faster, this one only reaches that and ends.
pub fn run(place: Place, browse: bool) -> tauri::Result<()> {
    // First of all plugins, so that a second window never gets further than this, should `first` have seen none.
    let single = tauri_plugin_single_instance::init(|app, arguments, _| {
        let given = |flag: &str| arguments.iter().any(|argument| argument == flag);
        match () {
            () if given(QUIT_FLAG) => quit(app),
            () if given(BROWSER_FLAG) => chosen(app, item::BROWSER),
            () => report(window::bring_to_front(app)),
        }
    });
    // Whether it was hidden is not kept: a started window is a visible one.
    let window_state = tauri_plugin_window_state::Builder::new()
        .with_state_flags(StateFlags::all() - StateFlags::VISIBLE)
        .build();
    let app = tauri::Builder::default()
        .plugin(single)
        .plugin(window_state)
        .invoke_handler(tauri::generate_handler![connection, retry])
        .setup(move |app| {
            set_up(app.handle(), place, browse)?;
            Ok(())
        })
        .build(tauri::generate_context!())?;
    app.run(|app, event| match event {
        RunEvent::WindowEvent { event: WindowEvent::CloseRequested { api, .. }, .. } => {
            api.prevent_close();
            close(app);
        }
        // Without a code it was neither `quit` nor `leave` that asked: the last window went away.
        RunEvent::ExitRequested { code: None, api, .. } => {
            api.prevent_exit();
            leave(app);
        }
        _ => {}
    });
    Ok(())
}

fn set_up(app: &AppHandle, place: Place, browse: bool) -> tauri::Result<()> {
    // Before there is an appliance to ask, its settings file says it.
    let language = Language::here(&place.language());
    let link = Arc::new(Link::new(place));
    // The tray's library is loaded when it is first used, and its binding panics where there is none.
    let tray = match catch_unwind(AssertUnwindSafe(|| Tray::new(app, language, chosen))) {
        Ok(tray) => Some(tray?),
        Err(_) => {
            eprintln!("hearth-desktop: no tray: libayatana-appindicator3 is missing");
            None
        }
    };
    app.manage(Shell {
        link: link.clone(),
        language: Mutex::new(language),
        tray,
        quitting: AtomicBool::new(false),
        browse: AtomicBool::new(browse),
    });
    window::open(app, link.clone())?;
    let handle = app.clone();
    tauri::async_runtime::spawn(async move { link.run(|news| report(heed(&handle, news))).await });
    let handle = app.clone();
    tauri::async_runtime::spawn(async move {
        await_signal().await;
        quit(&handle);
    });
    Ok(())
}

/// Turns the link's news into what is on the screen.
fn heed(app: &AppHandle, news: News) -> tauri::Result<()> {
    let tray = |glimpse| {
        let shell = app.state::<Shell>();
        let language = shell.language();
        shell.tray.as_ref().map_or(Ok(()), |tray| tray.show(glimpse, language, shell.link.keeps()))
    };
    match news {
        News::Wait => window::show_waiting_page(app),
        News::Show(page) => {
            if app.state::<Shell>().browse.swap(false, Ordering::SeqCst) {
                window::open_in_browser(&page);
            }
            window::show(app, &page)
        }
        News::Seen(glimpse) => {
            app.state::<Shell>().speak(Language::here(&glimpse.language));
            tray(Some(&glimpse))
        }
        News::Unseen => tray(None),
    }
}

/// A click in the tray.
fn chosen(app: &AppHandle, id: &str) {
    let link = app.state::<Shell>().link.clone();
    match id {
        item::OPEN => report(window::bring_to_front(app)),
        item::BROWSER => match link.address() {
            Some(address) => window::open_in_browser(&address.page()),
            None => report(window::bring_to_front(app)),
        },
        item::LEAVE => leave(app),
        item::QUIT => quit(app),
        item::START | item::STOP => {
            let start = id == item::START;
            tauri::async_runtime::spawn(async move {
                let Some(address) = link.address() else { return };
                let done = if start {
                    client::start_engine(&address).await
                } else {
                    client::stop_engine(&address).await
                };
                if let Err(cause) = done {
                    eprintln!("hearth-desktop: {cause}");
                }
            });
        }
        _ => {}
    }
}

/// Closing hides the window where a tray can bring it back, and ends it where none can. Either way the endpoint stays: other
/// programs may be using it, and nobody asked for its end.
fn close(app: &AppHandle) {
    let app = app.clone();
    tauri::async_runtime::spawn(async move {
        let has_tray = app.state::<Shell>().tray.is_some();
        if has_tray && tray::is_shown_by_desktop().await { report(window::hide(&app)) } else { leave(&app) }
    });
}

/// Ends the window; an appliance that a window started goes on, and the next window takes it over.
fn leave(app: &AppHandle) {
    if !app.state::<Shell>().quitting.swap(true, Ordering::SeqCst) {
        report(window::hide(app));
        app.exit(0);
    }
}

/// Ends the window, after the appliance if a window started it.
fn quit(app: &AppHandle) {
    if app.state::<Shell>().quitting.swap(true, Ordering::SeqCst) {
        return;
    }
    let app = app.clone();
    tauri::async_runtime::spawn(async move {
        report(window::hide(&app));
        app.state::<Shell>().link.stop_kept().await;
        app.exit(0);
    });
}

/// Returns when the session ends or Ctrl+C is pressed in the terminal that opened the window.
async fn await_signal() {
    let listen = |kind| signal(kind).expect("the runtime that runs this was built with signals");
    let (mut end, mut interrupt, mut hang_up) =
        (listen(SignalKind::terminate()), listen(SignalKind::interrupt()), listen(SignalKind::hangup()));
    tokio::select! {
        _ = end.recv() => {}
        _ = interrupt.recv() => {}
        _ = hang_up.recv() => {}
    }
}

/// A window or tray that could not be changed is no reason to end; it is said on standard error.
fn report(result: tauri::Result<()>) {
    if let Err(cause) = result {
        eprintln!("hearth-desktop: {cause}");
    }
}
