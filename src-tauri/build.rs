//! Embeds tauri.conf.json and names the two commands the bundled page may call; nothing else is callable.

fn main() {
    let commands = tauri_build::AppManifest::new().commands(&["connection", "retry"]);
    if let Err(error) = tauri_build::try_build(tauri_build::Attributes::new().app_manifest(commands)) {
        panic!("tauri.conf.json or a capability is wrong: {error:#}");
    }
}
