//! Tells systemd how the service stands (sd_notify(3)): `systemctl start hearth` returns when the port is open, not before.
//! Without systemd nothing happens.

use std::{
    env,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

/// The port is open.
pub fn ready(url: &str) {
    send(env::var_os("NOTIFY_SOCKET").as_deref(), &format!("READY=1\nSTATUS=Open at {url}\n"));
}

/// Running requests are being finished.
pub fn stopping() {
    send(env::var_os("NOTIFY_SOCKET").as_deref(), "STOPPING=1\nSTATUS=Finishing what runs\n");
}

/// A lost message is no reason to stop: systemd has its own patience.
fn send(socket: Option<&std::ffi::OsStr>, text: &str) {
    let Some(name) = socket else { return };
    let bytes = name.as_encoded_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    };
    let told = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address));
    if let Err(error) = told {
        tracing::warn!(%error, "systemd was not told");
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let n = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    }

    #[test]
    fn systemd_hears_it_by_a_path_and_by_an_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        send(Some(path.as_os_str()), "READY=1\n");
        assert_eq!(heard(&socket), "READY=1\n");

        let name = format!("hearth-test-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        send(Some(&OsString::from(format!("@{name}"))), "STOPPING=1\n");
        assert_eq!(heard(&socket), "STOPPING=1\n");
    }

    #[test]
    fn without_systemd_or_with_a_dead_socket_nothing_happens() {
        send(None, "READY=1\n");
        send(Some("/nowhere/at/all".as_ref()), "READY=1\n");
    }
}
