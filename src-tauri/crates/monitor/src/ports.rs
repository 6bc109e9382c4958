//! Who holds a TCP port: the listening socket's inode from /proc/net/tcp{,6}, then the process that has it open.

use std::{fs, net::IpAddr, net::Ipv4Addr, net::Ipv6Addr, path::Path};

/// A process that listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Process id; null if its files are not ours to see (another user's process).
    pub pid: Option<u32>,
    /// Command name; null if unknown.
    pub name: Option<String>,
}

/// The process that listens on `port` at `address` (or at every address); null if nobody does.
pub fn holder_of(address: IpAddr, port: u16) -> Option<Holder> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .find_map(|table| listening_inode(&fs::read_to_string(table).ok()?, address, port))?;
    let pid = process_with_socket(Path::new("/proc"), inode);
    let name = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok());
    Some(Holder { pid, name: name.map(|name| name.trim().to_owned()) })
}

/// Finds a row in state LISTEN (0A) whose local address is `address` or the unspecified one. Columns: sl local remote st ... inode.
fn listening_inode(table: &str, address: IpAddr, port: u16) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        let (host, hex_port) = columns.get(1)?.split_once(':')?;
        let local = parse_address(host)?;
        let listens = *columns.get(3)? == "0A" && u16::from_str_radix(hex_port, 16).ok()? == port;
        let same = local == address || local.is_unspecified() || address.is_unspecified();
        (listens && same).then(|| columns.get(9)?.parse().ok())?
    })
}

/// The kernel prints addresses as 32-bit words in host byte order.
fn parse_address(hex: &str) -> Option<IpAddr> {
    let word = |i: usize| u32::from_str_radix(hex.get(8 * i..8 * i + 8)?, 16).ok().map(u32::to_ne_bytes);
    match hex.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?))),
        32 => {
            let mut bytes = [0u8; 16];
            for (i, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(i)?);
            }
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

fn process_with_socket(proc: &Path, inode: u64) -> Option<u32> {
    let wanted = format!("socket:[{inode}]");
    fs::read_dir(proc).ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let mut files = fs::read_dir(entry.path().join("fd")).ok()?.flatten();
        files
            .any(|file| fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == wanted.as_str()))
            .then_some(pid)
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Recorded on a little-endian machine: 127.0.0.1:8000 listening, 127.0.0.1:34962 connected.
    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
        0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 91234 1 0000 100 0 0 10 0\n\
        1: 0100007F:8892 0100007F:1F40 01 00000000:00000000 00:00000000 00000000  1000        0 91300 1 0000 20 4 30 10 -1\n";

    #[test]
    #[cfg(target_endian = "little")]
    fn a_listener_is_told_from_a_connection() {
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert_eq!(listening_inode(TCP, local, 8000), Some(91234));
        assert_eq!(listening_inode(TCP, local, 34962), None);
        assert_eq!(listening_inode(TCP, IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 8000), None);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn addresses_of_both_families_are_read() {
        assert_eq!(parse_address("00000000000000000000000001000000"), Some(IpAddr::V6(Ipv6Addr::LOCALHOST)));
        assert_eq!(parse_address("0000000000000000FFFF00000100007F"), Some(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        assert_eq!(parse_address("zz"), None);
    }

    #[test]
    fn our_own_listener_is_found_with_our_pid_and_name() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let holder = holder_of(IpAddr::V4(Ipv4Addr::LOCALHOST), port).unwrap();
        assert_eq!(holder.pid, Some(std::process::id()));
        assert!(holder.name.is_some());
        drop(listener);
        assert_eq!(holder_of(IpAddr::V4(Ipv4Addr::LOCALHOST), port), None);
    }
}
