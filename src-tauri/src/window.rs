//! The one window: what it may show, and where everything else goes. Called by `app`.
//!
//! It shows the bundled waiting page and the dashboard of the appliance it is linked to. A link to anywhere else opens in
//! the system's browser, so that a page from the network never runs inside the window.

use std::sync::Arc;

use tauri::utils::config::Color;
use tauri::webview::{DownloadEvent, NewWindowResponse};
use tauri::{AppHandle, Manager, Url, WebviewUrl, WebviewWindow, WebviewWindowBuilder};

use crate::link::Link;

/// The label in capabilities/waiting-page.json.
const LABEL: &str = "main";
const WAITING_PAGE: &str = "tauri://localhost";
/// The dark theme's background (`--bg`), so that nothing flashes before the first page is drawn.
const BACKGROUND: Color = Color(0x15, 0x14, 0x14, 0xff);

/// Under the locales C and POSIX, WebKitGTK names the language "C", which is no language tag: `Intl` throws on it, and
/// with it every chart. Such a session reads English.
const LANGUAGE: &str = r#"
try { new Intl.Locale(navigator.language); }
catch { Object.defineProperty(Navigator.prototype, "language", { get: () => "en", configurable: true }); }
"#;

/// Where a link leads.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    /// Shown in the window.
    Here,
    /// Opened by the system's browser.
    Browser,
    /// Neither.
    Nowhere,
}

/// `dashboard` is the host and port of the linked appliance, always loopback.
fn way(url: &Url, dashboard: Option<&str>) -> Way {
    match url.scheme() {
        "tauri" => Way::Here,
        "http" if dashboard == Some(url.authority()) => Way::Here,
        // A file that the dashboard has made: an exported chat on its way to the downloads.
        "blob" if is_own_blob(url, dashboard) => Way::Here,
        "http" | "https" | "mailto" => Way::Browser,
        _ => Way::Nowhere,
    }
}

fn is_own_blob(url: &Url, dashboard: Option<&str>) -> bool {
    Url::parse(url.path()).is_ok_and(|inner| inner.scheme() == "http" && dashboard == Some(inner.authority()))
}

/// Makes the window with the waiting page in it.
pub fn open(app: &AppHandle, link: Arc<Link>) -> tauri::Result<WebviewWindow> {
    WebviewWindowBuilder::new(app, LABEL, WebviewUrl::App("index.html".into()))
        .title("Hearth")
        .inner_size(1280.0, 860.0)
        .min_inner_size(720.0, 480.0)
        .background_color(BACKGROUND)
        .initialization_script(LANGUAGE)
        .on_navigation(move |url| {
            let address = link.address();
            let way = way(url, address.as_ref().map(|address| address.authority.as_str()));
            if way == Way::Browser {
                open_in_browser(url.as_str());
            }
            way == Way::Here
        })
        // Files that the page makes itself; nothing is fetched from anywhere.
        .on_download(|_, event| match event {
            DownloadEvent::Requested { url, .. } => url.scheme() == "blob",
            _ => true,
        })
        .on_new_window(|url, _| {
            if way(&url, None) == Way::Browser {
                open_in_browser(url.as_str());
            }
            NewWindowResponse::Deny
        })
        .build()
}

/// Back to the waiting page.
pub fn show_waiting_page(app: &AppHandle) -> tauri::Result<()> {
    show(app, WAITING_PAGE)
}

/// Shows the dashboard.
pub fn show(app: &AppHandle, address: &str) -> tauri::Result<()> {
    let Some(window) = app.get_webview_window(LABEL) else { return Ok(()) };
    let url =
        Url::parse(address).expect("both pages' addresses are made of fixed parts, a port and a hex token");
    // Already there: a reload would throw away what the person typed.
    if window.url()? == url { Ok(()) } else { window.navigate(url) }
}

/// Brings the window to the front, wherever it was.
pub fn bring_to_front(app: &AppHandle) -> tauri::Result<()> {
    let Some(window) = app.get_webview_window(LABEL) else { return Ok(()) };
    window.show()?;
    window.unminimize()?;
    window.set_focus()
}

/// Takes the window from the screen; the tray brings it back.
pub fn hide(app: &AppHandle) -> tauri::Result<()> {
    app.get_webview_window(LABEL).map_or(Ok(()), |window| window.hide())
}

/// Hands an address to the system's browser, without waiting for it.
pub fn open_in_browser(address: &str) {
    if let Err(cause) = open::that_detached(address) {
        eprintln!("hearth-desktop: no browser could be opened: {cause}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_waiting_page_and_the_linked_dashboard_are_shown_here() {
        let to = |address: &str| way(&Url::parse(address).unwrap(), Some("127.0.0.1:8000"));
        assert_eq!(to("tauri://localhost/index.html"), Way::Here);
        assert_eq!(to("http://127.0.0.1:8000/#token=1"), Way::Here);
        assert_eq!(to("http://127.0.0.1:8001/"), Way::Browser);
        assert_eq!(to("http://127.0.0.1.example.org:8000/"), Way::Browser);
        assert_eq!(to("http://user@127.0.0.1:8000/"), Way::Browser);
        assert_eq!(to("blob:http://127.0.0.1:8000/0a1b"), Way::Here);
        assert_eq!(to("blob:http://127.0.0.1:8001/0a1b"), Way::Nowhere);
        assert_eq!(to("blob:https://example.org/0a1b"), Way::Nowhere);
        assert_eq!(to("https://example.org/"), Way::Browser);
        assert_eq!(to("mailto:a@example.org"), Way::Browser);
        assert_eq!(to("file:///etc/passwd"), Way::Nowhere);
        assert_eq!(to("javascript:alert(1)"), Way::Nowhere);
        assert_eq!(to("data:text/html,hello"), Way::Nowhere);
    }

    #[test]
    fn without_an_appliance_no_local_port_is_shown() {
        assert_eq!(way(&Url::parse("http://127.0.0.1/").unwrap(), None), Way::Browser);
    }
}
