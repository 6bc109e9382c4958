//! WebKitGTK settings that must stand in the environment before GTK starts. Called first by `main`.
//!
//! With NVIDIA's own driver, WebKit's DMA-BUF renderer shows blank windows (tauri#9394, #10702) and explicit sync on
//! Wayland ends in protocol errors. Where no GPU draws, that renderer composites every frame in GL on the processor, which costs
//! ten times what the page itself does. Only then, and only where the person has not chosen already, they are turned off.

use std::env;
use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Set on the second run, so that there is no third.
const DONE: &str = "HEARTH_GRAPHICS_CHOSEN";

/// The graphics of this session, as far as they decide a workaround.
struct Session {
    nvidia: bool,
    wayland: bool,
    /// GL would be computed by the processor.
    software: bool,
    safe: bool,
}

/// Runs this program once more with the workarounds that this session needs; returns if it needs none.
pub fn prepare(safe: bool) {
    if env::var_os(DONE).is_some() {
        return;
    }
    let session = Session {
        nvidia: Path::new("/proc/driver/nvidia/version").exists(),
        wayland: env::var_os("WAYLAND_DISPLAY").is_some(),
        software: env::var_os("LIBGL_ALWAYS_SOFTWARE").is_some_and(|said| said == "1") || !has_render_node(),
        safe,
    };
    let wanted: Vec<_> =
        workarounds(&session).iter().filter(|(name, _)| env::var_os(name).is_none()).copied().collect();
    let (false, Ok(program)) = (wanted.is_empty(), env::current_exe()) else { return };
    // `exec` keeps the process id and returns only if it failed; then the window opens without the workarounds.
    let error =
        Command::new(program).args(env::args_os().skip(1)).envs(wanted).env(DONE, OsStr::new("1")).exec();
    eprintln!("hearth-desktop: could not restart with graphics workarounds: {error}");
}

/// Whether the kernel offers a GPU that could draw.
fn has_render_node() -> bool {
    let Ok(nodes) = Path::new("/dev/dri").read_dir() else { return false };
    nodes.flatten().any(|node| node.file_name().as_encoded_bytes().starts_with(b"renderD"))
}

fn workarounds(session: &Session) -> Vec<(&'static str, &'static str)> {
    let mut wanted = Vec::new();
    if session.nvidia || session.software || session.safe {
        wanted.push(("WEBKIT_DISABLE_DMABUF_RENDERER", "1"));
    }
    if session.nvidia && session.wayland {
        wanted.push(("__NV_DISABLE_EXPLICIT_SYNC", "1"));
    }
    if session.safe {
        wanted.push(("WEBKIT_DISABLE_COMPOSITING_MODE", "1"));
        wanted.push(("LIBGL_ALWAYS_SOFTWARE", "1"));
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(nvidia: bool, wayland: bool, safe: bool) -> Vec<&'static str> {
        named(&Session { nvidia, wayland, software: false, safe })
    }

    fn named(session: &Session) -> Vec<&'static str> {
        workarounds(session).into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn a_session_without_nvidia_is_left_alone() {
        assert!(names(false, false, false).is_empty());
        assert!(names(false, true, false).is_empty());
    }

    #[test]
    fn nvidia_gets_no_dmabuf_and_on_wayland_no_explicit_sync() {
        assert_eq!(names(true, false, false), ["WEBKIT_DISABLE_DMABUF_RENDERER"]);
        assert_eq!(
            names(true, true, false),
            ["WEBKIT_DISABLE_DMABUF_RENDERER", "__NV_DISABLE_EXPLICIT_SYNC"]
        );
    }

    #[test]
    fn where_the_processor_draws_it_does_not_composite_in_gl() {
        let session = Session { nvidia: false, wayland: false, software: true, safe: false };
        assert_eq!(named(&session), ["WEBKIT_DISABLE_DMABUF_RENDERER"]);
    }

    #[test]
    fn safe_graphics_draw_in_software_on_any_machine() {
        assert!(names(false, false, true).contains(&"WEBKIT_DISABLE_COMPOSITING_MODE"));
        assert!(names(false, false, true).contains(&"LIBGL_ALWAYS_SOFTWARE"));
    }
}
