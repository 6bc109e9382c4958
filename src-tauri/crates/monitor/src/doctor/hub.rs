//! Does Hugging Face answer: one connection, opened and closed. Made only when a person asks for it.

use std::{
    net::{TcpStream, ToSocketAddrs},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use super::facts::HubAttempt;

/// Longest wait for one address.
const HUB_PATIENCE: Duration = Duration::from_secs(5);

/// Opens a connection to Hugging Face (or the mirror that HF_ENDPOINT names, or the proxy) and closes it. Called only when asked.
pub fn attempt_hub(endpoint: Option<&str>, proxy: Option<&str>) -> HubAttempt {
    let (host, port) = place(endpoint.unwrap_or("https://huggingface.co"));
    let through = proxy.map(place);
    let shown = match &through {
        Some((proxy, proxy_port)) => format!("{host}:{port} through the proxy {proxy}:{proxy_port}"),
        None => format!("{host}:{port}"),
    };
    let (host, port) = through.unwrap_or((host, port));
    let began = Instant::now();
    let connect = move || -> Result<f64, String> {
        let addresses = (host.as_str(), port)
            .to_socket_addrs()
            .map_err(|error| format!("its name is not known: {error}"))?;
        let mut problem = "its name has no address".to_owned();
        for address in addresses.take(4) {
            match TcpStream::connect_timeout(&address, HUB_PATIENCE) {
                Ok(_) => return Ok(began.elapsed().as_secs_f64() * 1e3),
                Err(error) => problem = error.to_string(),
            }
        }
        Err(problem)
    };
    // Asking for a name has no time limit of its own.
    let (tell, answer) = mpsc::channel();
    let spawned = thread::Builder::new().name("hub".into()).spawn(move || {
        let _ = tell.send(connect());
    });
    let outcome = match spawned {
        Ok(_) => answer.recv_timeout(2 * HUB_PATIENCE).unwrap_or_else(|_| Err("no answer in 10 s".into())),
        Err(error) => Err(error.to_string()),
    };
    HubAttempt { host: shown, answered_ms: outcome.as_ref().ok().copied(), problem: outcome.err() }
}

/// Host and port of an address; a user name and password in it are left out.
fn place(url: &str) -> (String, u16) {
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let usual = if scheme == "http" { 80 } else { 443 };
    match authority.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') => {
            (host.trim_matches(['[', ']']).to_owned(), port.parse().unwrap_or(usual))
        }
        _ => (authority.trim_matches(['[', ']']).to_owned(), usual),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_closed_port_is_an_answer_with_a_reason_and_addresses_are_taken_apart() {
        let attempt = attempt_hub(Some("http://127.0.0.1:9"), None);
        assert_eq!(attempt.answered_ms, None);
        assert!(attempt.problem.is_some() && attempt.host == "127.0.0.1:9", "{attempt:?}");
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let proxy = format!("http://me:secret@{}", listener.local_addr().unwrap());
        let attempt = attempt_hub(None, Some(&proxy));
        assert!(attempt.answered_ms.is_some() && !attempt.host.contains("secret"), "{attempt:?}");
        assert_eq!(place("https://huggingface.co"), ("huggingface.co".into(), 443));
        assert_eq!(place("hf-mirror.example/a"), ("hf-mirror.example".into(), 443));
        assert_eq!(place("http://[::1]:8080/x"), ("::1".into(), 8080));
    }
}
