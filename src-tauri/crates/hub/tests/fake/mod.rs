//! A server on loopback that speaks as much of the hub's protocol as downloads use, and misbehaves on demand: listing, resolve with
//! redirects, a CDN of another origin that serves ranges of large files, tokens, error codes, cuts.
//! It follows what huggingface.co answered in November 2026.

// Each test file knocks at some of its doors.
#![allow(dead_code)]
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Which door a request came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// `/api/models/...`
    Api,
    /// `/ORG/NAME/resolve/COMMIT/FILE`
    Resolve,
    /// The other origin that serves bytes.
    Cdn,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    pub door: Door,
    pub path: String,
    pub token: Option<String>,
    pub range: Option<(u64, u64)>,
}

/// What to do instead of a proper answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Trick {
    /// Close before a byte of the answer.
    Hang,
    /// Close in the middle of the head.
    HalfHead,
    /// Proper head, then close after so many bytes of the body.
    CutAfter(usize),
    /// Proper head and so many bytes, then silence.
    SilentAfter(usize),
    /// This status and headers.
    Status(u16, Vec<(&'static str, String)>),
    /// A sign-in page instead of an answer.
    SignIn,
    /// Proper answer with a wrong byte in it.
    Corrupt,
    /// Another ETag than the listing's.
    OtherEtag,
    /// Another total in Content-Range.
    OtherTotal,
    /// Slow: so many bytes per tenth of a second.
    Drip(usize),
}

#[derive(Clone)]
pub struct File {
    pub name: String,
    pub bytes: Arc<Vec<u8>>,
    pub large: bool,
    /// Name in the cache: SHA-256 of a large file, git's SHA-1 of a small one.
    pub blob: String,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Decides how a request is answered wrongly.
type Trickster = Box<dyn FnMut(&Asked) -> Option<Trick> + Send>;

#[derive(Default)]
pub struct World {
    /// `id@commit` to its files.
    pub commits: BTreeMap<String, Vec<File>>,
    /// `id@revision` to commits.
    pub revisions: BTreeMap<String, String>,
    /// Repositories that need this token.
    pub gated: BTreeMap<String, String>,
    /// Sizes the listing tells instead of the real ones.
    pub told_sizes: BTreeMap<String, u64>,
    pub log: Vec<Asked>,
    trick: Option<Trickster>,
    cdn: String,
}

pub struct FakeHub {
    pub world: Arc<Mutex<World>>,
    pub url: String,
}

impl FakeHub {
    pub fn start() -> FakeHub {
        let world = Arc::new(Mutex::new(World::default()));
        let cdn = listen(&world, true);
        world.lock().unwrap().cdn = cdn;
        FakeHub { url: listen(&world, false), world }
    }

    /// A commit of a repository, which `main` then names.
    pub fn commit(&self, id: &str, commit: char, files: &[(&str, Vec<u8>, bool)]) -> String {
        let commit = commit.to_string().repeat(40);
        let files: Vec<File> = files
            .iter()
            .map(|(name, bytes, large)| File {
                name: (*name).into(),
                bytes: Arc::new(bytes.clone()),
                large: *large,
                blob: match large {
                    true => hex(&Sha256::digest(bytes)),
                    false => {
                        hex(&Sha1::digest([format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat()))
                    }
                },
            })
            .collect();
        let mut world = self.world.lock().unwrap();
        world.commits.insert(format!("{id}@{commit}"), files);
        world.revisions.insert(format!("{id}@main"), commit.clone());
        commit
    }

    /// From now on every request is shown to `trick` first.
    pub fn trick(&self, trick: impl FnMut(&Asked) -> Option<Trick> + Send + 'static) {
        self.world.lock().unwrap().trick = Some(Box::new(trick));
    }

    pub fn behave(&self) {
        self.world.lock().unwrap().trick = None;
    }

    pub fn log(&self) -> Vec<Asked> {
        self.world.lock().unwrap().log.clone()
    }

    pub fn forget_log(&self) {
        self.world.lock().unwrap().log.clear();
    }
}

fn listen(world: &Arc<Mutex<World>>, is_cdn: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let world = world.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let world = world.clone();
            thread::spawn(move || while serve(&stream, &world, is_cdn).is_some() {});
        }
    });
    address
}

/// One exchange; none when the connection is over.
fn serve(stream: &TcpStream, world: &Mutex<World>, is_cdn: bool) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let target = line.split(' ').nth(1)?.to_owned();
    let (mut token, mut range) = (None, None);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok().filter(|n| *n > 0)?;
        let Some((name, value)) = header.trim().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => token = value.trim().strip_prefix("Bearer ").map(str::to_owned),
            "range" => {
                let (a, b) = value.trim().strip_prefix("bytes=")?.split_once('-')?;
                range = Some((a.parse().ok()?, b.parse::<u64>().ok()? + 1));
            }
            _ => {}
        }
    }
    let path = target.split('?').next()?.to_owned();
    let door = match is_cdn {
        true => Door::Cdn,
        false if path.starts_with("/api/models") => Door::Api,
        false => Door::Resolve,
    };
    let asked = Asked { door, path, token, range };
    let (trick, answer) = {
        let mut world = world.lock().unwrap();
        world.log.push(asked.clone());
        let trick = world.trick.as_mut().and_then(|trick| trick(&asked));
        (trick, world.answer(&asked, &target))
    };
    send(stream, answer, trick)
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

fn refuse(status: u16, code: &'static str) -> Answer {
    Answer { status, headers: vec![("x-error-code", code.into())], body: b"no".to_vec() }
}

impl World {
    fn answer(&self, asked: &Asked, target: &str) -> Answer {
        match asked.door {
            Door::Api => self.api(asked, target),
            Door::Resolve => self.resolve(asked),
            Door::Cdn => {
                let blob = asked.path.trim_start_matches("/cdn/");
                let file = self.commits.values().flatten().find(|file| file.blob == blob);
                file.map_or_else(
                    || refuse(404, "EntryNotFound"),
                    |file| ranged(file, asked.range, Vec::new()),
                )
            }
        }
    }

    fn api(&self, asked: &Asked, target: &str) -> Answer {
        if asked.path == "/api/models" {
            let found = json!([{ "id": "Org/Model", "downloads": 12, "likes": 3, "gated": "auto", "tags": ["license:mit"],
                "safetensors": { "total": 1000 }, "asked": target }, { "id": "../bad" }]);
            return Answer { status: 200, headers: vec![], body: found.to_string().into_bytes() };
        }
        let Some((id, revision)) = asked.path["/api/models/".len()..].split_once("/revision/") else {
            return refuse(404, "");
        };
        if !self.revisions.contains_key(&format!("{id}@main")) {
            return refuse(if asked.token.is_some() { 404 } else { 401 }, "RepoNotFound");
        }
        let commit = self.revisions.get(&format!("{id}@{revision}")).map_or(revision, String::as_str);
        let Some(files) = self.commits.get(&format!("{id}@{commit}")) else {
            return refuse(404, "RevisionNotFound");
        };
        let siblings: Vec<Value> = files
            .iter()
            .map(|file| {
                let size = self.told_sizes.get(&file.name).copied().unwrap_or(file.bytes.len() as u64);
                match file.large {
                    true => json!({ "rfilename": file.name, "size": size, "blobId": "0".repeat(40),
                        "lfs": { "sha256": file.blob, "size": size, "pointerSize": 134 } }),
                    false => json!({ "rfilename": file.name, "size": size, "blobId": file.blob }),
                }
            })
            .collect();
        let gated = if self.gated.contains_key(id) { json!("manual") } else { json!(false) };
        let body = json!({ "id": id, "sha": commit, "siblings": siblings, "gated": gated, "cardData": { "license": "mit" } });
        Answer {
            status: 200,
            headers: vec![("x-repo-commit", commit.into())],
            body: body.to_string().into_bytes(),
        }
    }

    fn resolve(&self, asked: &Asked) -> Answer {
        let parts: Vec<&str> = asked.path.trim_matches('/').splitn(5, '/').collect();
        let [organisation, name, "resolve", commit, file] = parts[..] else {
            return refuse(404, "EntryNotFound");
        };
        let id = format!("{organisation}/{name}");
        if let Some(token) = self.gated.get(&id)
            && asked.token.as_ref() != Some(token)
        {
            return refuse(if asked.token.is_some() { 403 } else { 401 }, "GatedRepo");
        }
        let Some(files) = self.commits.get(&format!("{id}@{commit}")) else {
            return refuse(404, "RevisionNotFound");
        };
        let Some(file) = files.iter().find(|f| f.name == file) else { return refuse(404, "EntryNotFound") };
        let headers = vec![("x-repo-commit", commit.into())];
        if !file.large {
            return ranged(file, asked.range, headers);
        }
        let to = format!("{}/cdn/{}?Signature=abc", self.cdn, file.blob);
        let linked = [
            ("location", to),
            ("x-linked-etag", format!("\"{}\"", file.blob)),
            ("x-linked-size", file.bytes.len().to_string()),
        ];
        Answer { status: 302, headers: headers.into_iter().chain(linked).collect(), body: b"Found".to_vec() }
    }
}

fn ranged(file: &File, range: Option<(u64, u64)>, mut headers: Vec<(&'static str, String)>) -> Answer {
    let total = file.bytes.len() as u64;
    headers.push(("etag", format!("\"{}\"", file.blob)));
    headers.push(("accept-ranges", "bytes".into()));
    let Some((start, end)) = range else { return Answer { status: 200, headers, body: file.bytes.to_vec() } };
    if start >= total {
        return Answer { status: 416, headers, body: Vec::new() };
    }
    let end = end.min(total);
    headers.push(("content-range", format!("bytes {start}-{}/{total}", end - 1)));
    Answer { status: 206, headers, body: file.bytes[start as usize..end as usize].to_vec() }
}

fn send(mut stream: &TcpStream, mut answer: Answer, trick: Option<Trick>) -> Option<()> {
    let mut upto = None;
    let mut drip = None;
    let half = trick == Some(Trick::HalfHead);
    match trick {
        Some(Trick::Hang) => return None,
        Some(Trick::Status(status, headers)) => answer = Answer { status, headers, body: b"busy".to_vec() },
        Some(Trick::SignIn) => {
            let headers = vec![("content-type", "text/html".into())];
            answer = Answer { status: 200, headers, body: b"<html>Please sign in</html>".to_vec() };
        }
        Some(Trick::Corrupt) => {
            let middle = answer.body.len() / 2;
            answer.body.get_mut(middle).into_iter().for_each(|byte| *byte ^= 1);
        }
        Some(Trick::OtherEtag) => {
            for (name, value) in &mut answer.headers {
                if matches!(*name, "etag" | "x-linked-etag") {
                    *value = format!("\"{}\"", "e".repeat(value.len() - 2));
                }
            }
        }
        Some(Trick::OtherTotal) => {
            for (_, value) in answer.headers.iter_mut().filter(|(name, _)| *name == "content-range") {
                value.push('0');
            }
        }
        Some(Trick::CutAfter(bytes)) => upto = Some((bytes, false)),
        Some(Trick::SilentAfter(bytes)) => upto = Some((bytes, true)),
        Some(Trick::Drip(bytes)) => drip = Some(bytes),
        Some(Trick::HalfHead) | None => {}
    }
    let mut head = format!("HTTP/1.1 {} X\r\ncontent-length: {}\r\n", answer.status, answer.body.len());
    answer.headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    head += "\r\n";
    if half {
        let _ = stream.write_all(&head.as_bytes()[..head.len() / 2]);
        return None;
    }
    stream.write_all(head.as_bytes()).ok()?;
    if let Some(bytes) = drip {
        for piece in answer.body.chunks(bytes) {
            stream.write_all(piece).ok()?;
            thread::sleep(Duration::from_millis(100));
        }
        return Some(());
    }
    let Some((bytes, silent)) = upto else { return stream.write_all(&answer.body).ok() };
    stream.write_all(&answer.body[..bytes.min(answer.body.len())]).ok()?;
    if silent {
        // Until the other side gives up.
        let _ = stream.read(&mut [0; 1]);
    }
    None
}
