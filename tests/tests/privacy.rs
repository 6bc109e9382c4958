//! Nothing is contacted that nobody asked for: every socket of the appliance and its engines is looked at, again and again, from
//! before the first to after the last thing a person does without Hugging Face.

use std::{
    collections::BTreeSet,
    fs,
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use hearth_tests::house::{Plot, program};
use rustix::process::Signal;
use serde_json::{Value, json};

/// The far ends of the process's internet sockets that are not this machine's loopback, as the kernel writes them.
fn strangers(pid: u32) -> BTreeSet<String> {
    let owned: BTreeSet<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter_map(|target| Some(target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let mut found = BTreeSet::new();
    for kind in ["tcp", "tcp6", "udp", "udp6"] {
        let table = fs::read_to_string(format!("/proc/{pid}/net/{kind}")).unwrap_or_default();
        for line in table.lines().skip(1) {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let (Some(remote), Some(inode)) = (fields.get(2), fields.get(9)) else { continue };
            if owned.contains(*inode) && !is_here(remote) {
                found.insert(format!("{kind} {remote}"));
            }
        }
    }
    found
}

/// No far end at all, or 127.x.x.x or ::1 (also as a mapped address), in the kernel's hexadecimal.
fn is_here(remote: &str) -> bool {
    let address = remote.split(':').next().unwrap_or_default();
    match address.len() {
        8 => address == "00000000" || address.ends_with("7F"),
        _ => {
            address.bytes().all(|b| b == b'0')
                || address == "00000000000000000000000001000000"
                || (address.starts_with("0000000000000000FFFF0000") && address.ends_with("7F"))
        }
    }
}

#[test]
fn addresses_are_read_as_the_kernel_writes_them() {
    for here in ["00000000:0000", "0100007F:1F90", "0300007F:0035"] {
        assert!(is_here(here), "{here}");
    }
    for here in [
        "00000000000000000000000000000000:0000",
        "00000000000000000000000001000000:1F90",
        "0000000000000000FFFF00000100007F:1F90",
    ] {
        assert!(is_here(here), "{here}");
    }
    for there in [
        "08080808:0035",
        "0101A8C0:01BB",
        "B80D0120000000000000000001000000:01BB",
        "0000000000000000FFFF000008080808:01BB",
    ] {
        assert!(!is_here(there), "{there}");
    }
}

#[test]
fn a_socket_to_elsewhere_is_seen() {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // Connecting sends nothing; the address is for documentation (RFC 5737). Without any network there is no way to it.
    if let Err(error) = socket.connect("192.0.2.1:9") {
        eprintln!("skipped: {error}");
        return;
    }
    let found = strangers(std::process::id());
    assert!(found.contains("udp 010200C0:0009"), "{found:?}");
    drop(socket);
    assert!(strangers(std::process::id()).is_empty());
}

#[test]
fn from_start_to_end_nobody_but_this_machine_is_contacted() {
    let plot = Plot::new();
    let house = plot.up(&[]);
    let pid = house.pid();
    let over = AtomicBool::new(false);
    let contacted = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut contacted = BTreeSet::new();
            while !over.load(Ordering::Relaxed) {
                contacted.extend(strangers(pid));
                house.engines().into_iter().for_each(|engine| contacted.extend(strangers(engine)));
                thread::sleep(Duration::from_millis(3));
            }
            contacted
        });
        house.serve();
        assert_eq!(house.chat(40, false).status, 200);
        assert_eq!(house.chat(40, true).status, 200);
        for path in
            ["/api/models", "/api/settings", "/api/requests", "/api/history", "/api/chats", "/api/log"]
        {
            assert_eq!(house.api("GET", path, Value::Null).status, 200, "{path}");
        }
        let profile = json!({ "profile": { "model": "ember" } });
        assert_eq!(house.api("POST", "/api/plan", profile).status, 200);
        assert_eq!(house.api("POST", "/api/engine/stop", Value::Null).status, 202);
        house.wait_for("stopped");
        over.store(true, Ordering::Relaxed);
        watch.join().expect("the watcher does not panic")
    });
    assert!(contacted.is_empty(), "{contacted:?} by {}", program().display());
    assert!(house.end(Signal::TERM).success());
}
