//! HTTP/1.1 by hand over TCP, so that tests decide every byte: odd headers, half-read streams, connections dropped in the middle.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::Value;

/// Nothing in these tests takes longer; a read that does is a hang, and fails the test.
const PATIENCE: Duration = Duration::from_secs(120);

/// A response whose head has been read.
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    reader: BufReader<TcpStream>,
}

/// Sends a request and reads the head of the answer.
///
/// # Panics
/// If the port refuses, or the answer is not HTTP.
pub fn send(port: u16, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the port accepts connections");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    let mut head =
        format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head.push_str(&format!("host: 127.0.0.1:{port}\r\n"));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).expect("the head is sent");
    // The other side may refuse a large body before it has read it all.
    let _ = stream.write_all(body);
    let mut reader = BufReader::new(stream);
    let status = line(&mut reader).split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status line");
    let headers = std::iter::from_fn(|| Some(line(&mut reader)).filter(|line| !line.is_empty()))
        .filter_map(|line| line.split_once(':').map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned())))
        .collect();
    Answer { status, headers, reader }
}

fn line(reader: &mut impl BufRead) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).expect("the connection stays open");
    line.trim_end().to_owned()
}

impl Answer {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The next piece of the body as the server cut it; null at the end. An abrupt end panics.
    fn piece(&mut self) -> Option<Vec<u8>> {
        if self.header("transfer-encoding") == Some("chunked") {
            let size = usize::from_str_radix(&line(&mut self.reader), 16).expect("a chunk size");
            let mut piece = vec![0; size];
            self.reader.read_exact(&mut piece).expect("a whole chunk");
            line(&mut self.reader);
            return (size > 0).then_some(piece);
        }
        let length = self.header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
        self.headers.retain(|(name, _)| name != "content-length");
        let mut piece = vec![0; length];
        self.reader.read_exact(&mut piece).expect("a whole body");
        (length > 0).then_some(piece)
    }

    /// The rest of the body.
    pub fn text(mut self) -> String {
        let mut body = Vec::new();
        while let Some(piece) = self.piece() {
            body.extend(piece);
        }
        String::from_utf8(body).expect("text")
    }

    /// The body as JSON.
    pub fn json(self) -> Value {
        let text = self.text();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:?}"))
    }

    /// The server-sent events as they come, without `data: `. Events with a name come as `name: data`.
    pub fn events(mut self) -> impl Iterator<Item = String> {
        let mut held = String::new();
        std::iter::from_fn(move || {
            loop {
                if let Some(end) = held.find("\n\n") {
                    let event: String = held.drain(..end + 2).collect();
                    let field = |name| {
                        event.lines().find_map(move |line| line.strip_prefix(name)).map(str::trim_start)
                    };
                    match (field("event:"), field("data:")) {
                        (Some(name), Some(data)) => return Some(format!("{name}: {data}")),
                        (None, Some(data)) => return Some(data.to_owned()),
                        _ => continue,
                    }
                }
                held.push_str(&String::from_utf8(self.piece()?).expect("events are text"));
            }
        })
    }
}
