//! Serves the built UI: from `HEARTH_UI_DIR`, from the installed folder next to the program, or from inside the program. A build
//! without UI serves a page that says how to make one.

use std::{
    borrow::Cow,
    env, fs,
    path::{Component, Path, PathBuf},
};

use axum::{
    body::Body,
    http::{HeaderValue, Method, Response, StatusCode, Uri, header},
    response::IntoResponse,
};
use rust_embed::RustEmbed;

/// In release builds the files are in the program; in debug builds they are read from ui/dist when they are asked for.
#[derive(RustEmbed)]
#[folder = "../../../ui/dist"]
#[allow_missing = true]
struct Embedded;

/// Scripts, styles, fonts and connections from here only; nothing may frame the page. What uPlot and Svelte set on elements goes
/// through the object model, which needs no exception.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    font-src 'self'; connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const NOT_BUILT: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Hearth</title>\
    <meta name=\"color-scheme\" content=\"light dark\"><body>\
    <h1>Hearth is running</h1><p>Its pages were not built into this program. The endpoint below <code>/v1</code> works all the \
    same.</p><p>To build the pages: <code>npm --prefix ui ci &amp;&amp; npm --prefix ui run build</code>, then start Hearth \
    again, or point <code>HEARTH_UI_DIR</code> at a folder that holds them.</p></body></html>";

/// Where the pages are.
#[derive(Debug, Clone)]
pub(crate) enum Pages {
    /// A folder with an index.html.
    Folder(PathBuf),
    /// Inside the program.
    Embedded,
}

impl Pages {
    /// Looks in the three places.
    pub(crate) fn find() -> Pages {
        let installed =
            env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("../share/hearth/ui")));
        let named = env::var_os("HEARTH_UI_DIR").map(PathBuf::from);
        let folder = named.or_else(|| installed.filter(|folder| folder.join("index.html").is_file()));
        folder.map_or(Pages::Embedded, Pages::Folder)
    }

    fn read(&self, name: &str) -> Option<Cow<'static, [u8]>> {
        // Only plain names below the folder; no `..`, no absolute path, nothing hidden.
        let path = Path::new(name);
        let plain = |part: Component<'_>| matches!(part, Component::Normal(name) if !name.as_encoded_bytes().starts_with(b"."));
        if !path.components().all(plain) {
            return None;
        }
        match self {
            Pages::Folder(folder) => fs::read(folder.join(path)).ok().map(Cow::Owned),
            Pages::Embedded => Embedded::get(name).map(|file| file.data),
        }
    }

    /// A file, or the page itself for any other address (the page knows its own addresses).
    pub(crate) async fn serve(self, method: Method, uri: Uri) -> Response<Body> {
        if method != Method::GET && method != Method::HEAD {
            return (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET, HEAD")]).into_response();
        }
        let name = uri.path().trim_start_matches('/');
        let found = self.read(name).filter(|_| !name.is_empty());
        // A missing script must not be answered with a page.
        if found.is_none() && name.starts_with("assets/") {
            return StatusCode::NOT_FOUND.into_response();
        }
        let (name, body) = match found {
            Some(body) => (name, body),
            None => ("index.html", self.read("index.html").unwrap_or(Cow::Borrowed(NOT_BUILT.as_bytes()))),
        };
        // The build puts a hash into the names below assets/.
        let cache =
            if name.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
        let mut response = Response::new(Body::from(body.into_owned()));
        let headers = response.headers_mut();
        let mut set = |name, value| headers.insert(name, HeaderValue::from_static(value));
        set(header::CONTENT_TYPE, kind(name));
        set(header::CACHE_CONTROL, cache);
        set(header::CONTENT_SECURITY_POLICY, POLICY);
        set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
        set(header::REFERRER_POLICY, "no-referrer");
        response
    }
}

fn kind(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("json" | "map") => "application/json",
        Some("webmanifest") => "application/manifest+json",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("ico") => "image/x-icon",
        Some("woff2") => "font/woff2",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn get(pages: &Pages, path: &'static str) -> (StatusCode, String, Response<Body>) {
        let response = pages.clone().serve(Method::GET, Uri::from_static(path)).await;
        let (parts, body) = response.into_parts();
        let text = String::from_utf8_lossy(&body.collect().await.unwrap().to_bytes()).into_owned();
        (parts.status, text, Response::from_parts(parts, Body::empty()))
    }

    #[tokio::test]
    async fn files_are_served_with_their_type_and_everything_else_is_the_page() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("assets")).unwrap();
        fs::write(folder.path().join("index.html"), "page").unwrap();
        fs::write(folder.path().join("assets/a-1234.js"), "code").unwrap();
        fs::write(folder.path().join(".secret"), "hidden").unwrap();
        let pages = Pages::Folder(folder.path().join("."));
        let (_, text, response) = get(&pages, "/assets/a-1234.js").await;
        assert_eq!(text, "code");
        assert!(response.headers()[header::CONTENT_TYPE].to_str().unwrap().starts_with("text/javascript"));
        let (_, text, response) = get(&pages, "/chat").await;
        assert_eq!(text, "page");
        assert!(response.headers().contains_key(header::CONTENT_SECURITY_POLICY));
        assert_eq!(get(&pages, "/assets/missing.js").await.0, StatusCode::NOT_FOUND);
        for path in ["/../Cargo.toml", "//etc/passwd", "/.secret", "/assets/../.secret", "/%2e%2e/x"] {
            let text = get(&pages, path).await.1;
            assert!(text == "page" || text.is_empty(), "{path} gave {text}");
        }
    }

    #[tokio::test]
    async fn a_build_without_pages_says_how_to_make_them() {
        let folder = tempfile::tempdir().unwrap();
        let (status, text, _) = get(&Pages::Folder(folder.path().into()), "/").await;
        assert!(status == StatusCode::OK && text.contains("npm"), "{text}");
    }
}
