//! Where the front listens: a Unix socket for the appliance, a TCP port for everybody else. Called by `hearth serve`.

use std::{
    io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use axum::{Router, serve::ListenerExt};
use tokio::net::{TcpListener, UnixListener, UnixStream};

/// An open socket.
#[derive(Debug)]
pub enum Listener {
    /// Removed from disk when dropped.
    Unix(UnixListener, SocketFile),
    /// With its address.
    Tcp(TcpListener),
}

/// A socket's place on disk.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Listens at a path, for this user only. A socket that a dead process left behind is replaced.
    ///
    /// # Errors
    /// The path is taken by a living process or by something else than a socket, or cannot be made.
    pub async fn unix(path: &Path) -> io::Result<Listener> {
        if let Ok(found) = std::fs::symlink_metadata(path) {
            let taken = |what: &str| Err(io::Error::new(io::ErrorKind::AddrInUse, what.to_owned()));
            if !found.file_type().is_socket() {
                return taken("the path exists and is not a socket");
            }
            if UnixStream::connect(path).await.is_ok() {
                return taken("another process listens there");
            }
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        let file = SocketFile(path.to_owned());
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Listener::Unix(listener, file))
    }

    /// Listens on a TCP port; 0 takes any free one.
    ///
    /// # Errors
    /// The port is taken or the address is not of this machine.
    pub async fn tcp(host: &str, port: u16) -> io::Result<Listener> {
        Ok(Listener::Tcp(TcpListener::bind((host, port)).await?))
    }

    /// `http://127.0.0.1:PORT` or the path.
    pub fn address(&self) -> String {
        match self {
            Listener::Unix(_, file) => file.0.display().to_string(),
            Listener::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|_| "unknown".to_owned(), |address| format!("http://{address}")),
        }
    }

    /// Serves until `stop` resolves and the open exchanges are over.
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn serve(
        self,
        router: Router,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        match self {
            Listener::Unix(listener, _file) => {
                axum::serve(listener, router).with_graceful_shutdown(stop).await
            }
            Listener::Tcp(listener) => {
                // A token is a small packet that should leave at once.
                let listener = listener.tap_io(|stream| {
                    let _ = stream.set_nodelay(true);
                });
                axum::serve(listener, router).with_graceful_shutdown(stop).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let folder = std::env::temp_dir().join(format!("hearth-listen-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("engine.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("binds"));
        assert!(path.exists(), "a dropped std socket leaves its file");
        let living = Listener::unix(&path).await.expect("replaces the stale one");
        let mode = std::fs::metadata(&path).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(Listener::unix(&path).await.expect_err("taken").kind(), io::ErrorKind::AddrInUse);
        drop(living);
        assert!(!path.exists());
        std::fs::write(&path, "not a socket").expect("writes");
        assert_eq!(Listener::unix(&path).await.expect_err("taken").kind(), io::ErrorKind::AddrInUse);
        std::fs::remove_dir_all(&folder).expect("cleans up");
    }
}
