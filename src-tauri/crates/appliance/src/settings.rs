//! The settings file: read with errors that name line and key, written whole. A broken file is kept, never overwritten.

use std::{fs, net::IpAddr, path::Path};

use hearth_engine::{Depth, DraftWish};
use hearth_model::KvTypes;

use crate::{
    ApplianceError,
    control::types::{Profile, Settings},
    places::write_whole,
};

/// Larger than any context a model has; smaller values are checked against the model at start.
const CONTEXT_LIMIT: u32 = 16 << 20;
const REQUESTS_LIMIT: u32 = 256;
const WAITING_LIMIT: u32 = 10_000;
/// As `hearth serve --chunk` takes it.
const CHUNK_LIMIT: u32 = 8192;
/// Most GiB of kept prefixes: 16 TiB.
const PREFIX_DISK_LIMIT: u32 = 16_384;
const TOP_K_LIMIT: u32 = 1 << 20;

impl Settings {
    /// Reads the file; defaults if there is none.
    pub fn read(path: &Path) -> Result<Settings, ApplianceError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Settings::default()),
            Err(cause) => return Err(ApplianceError::File { path: path.into(), doing: "read", cause }),
        };
        let wrong = |line, problem| ApplianceError::Settings { path: path.into(), line, problem };
        let line_of =
            |offset: usize| 1 + bytes[..offset.min(bytes.len())].iter().filter(|b| **b == b'\n').count();
        let text = std::str::from_utf8(&bytes)
            .map_err(|e| wrong(line_of(e.valid_up_to()), "the text is not valid UTF-8".into()))?;
        let settings: Settings = toml::from_str(text).map_err(|e| {
            let start = e.span().map_or(0, |span| span.start);
            wrong(line_of(start), problem_with_key(text, start, e.message()))
        })?;
        settings.check().map_err(|error| match error {
            ApplianceError::BadSetting { key, problem } => {
                wrong(line_of_key(text, key), format!("{key}: {problem}"))
            }
            other => other,
        })?;
        Ok(settings)
    }

    /// Writes the file whole, after checking.
    pub fn write(&self, path: &Path) -> Result<(), ApplianceError> {
        self.check()?;
        let text =
            toml::to_string_pretty(self).expect("settings are plain values in tables, which TOML can hold");
        write_whole(path, text.as_bytes())
    }

    /// Refuses values that cannot work, before anything is started with them.
    pub fn check(&self) -> Result<(), ApplianceError> {
        let bad = |key, problem: String| Err(ApplianceError::BadSetting { key, problem });
        match self.host.parse::<IpAddr>() {
            Ok(address) if address.is_loopback() => {}
            _ if self.host == "localhost" => {}
            Ok(_) => {
                return bad(
                    "host",
                    format!(
                        "{:?} is open to the network, which needs an access key; keys are not there yet, so only 127.0.0.1 and ::1 are accepted",
                        self.host
                    ),
                );
            }
            Err(_) => return bad("host", format!("{:?} is not an address such as 127.0.0.1", self.host)),
        }
        if self.port == 0 {
            return bad("port", "0 is not a port; expected 1 to 65535".into());
        }
        if self.memory_reserve.is_some_and(|bytes| !bytes.is_finite() || bytes < 0.0) {
            return bad("memory_reserve", "expected a number of bytes, zero or more".into());
        }
        if !["system", "light", "dark"].contains(&self.theme.as_str()) {
            return bad("theme", format!("{:?} is not one of system, light, dark", self.theme));
        }
        if !["system", "en", "de"].contains(&self.language.as_str()) {
            return bad("language", format!("{:?} is not one of system, en, de", self.language));
        }
        if let Some(prices) = &self.prices {
            let sound = |price: f64| price.is_finite() && (0.0..=1e6).contains(&price);
            let all = [prices.input, prices.cached_input, prices.output, prices.kwh.unwrap_or(0.0)];
            if !all.into_iter().all(sound) {
                return bad("prices", "expected amounts of zero or more".into());
            }
            let currency = prices.currency.trim();
            if currency.is_empty() || currency.chars().count() > 8 {
                return bad("prices", format!("{currency:?} is not a currency such as USD"));
            }
        }
        self.profile.check()
    }
}

impl Profile {
    /// Refuses values that no engine takes.
    pub fn check(&self) -> Result<(), ApplianceError> {
        let bad = |key, problem: String| Err(ApplianceError::BadSetting { key, problem });
        if self.model.trim().is_empty() || self.model.contains('\0') {
            return bad(
                "profile.model",
                "expected `ember`, a folder, a GGUF file, or a Hugging Face id".into(),
            );
        }
        if self.context.is_some_and(|n| n == 0 || n > CONTEXT_LIMIT) {
            return bad("profile.context", format!("expected 1 to {CONTEXT_LIMIT} tokens, or none"));
        }
        if !(1..=REQUESTS_LIMIT).contains(&self.max_requests) {
            return bad(
                "profile.max_requests",
                format!("{} is not in 1 to {REQUESTS_LIMIT}", self.max_requests),
            );
        }
        if self.mtp_depth.parse::<Depth>().is_err() {
            return bad("profile.mtp_depth", format!("{:?} is not auto or 0 to 5", self.mtp_depth));
        }
        let head = match self.draft_head.parse::<DraftWish>() {
            Ok(head) => head,
            Err(error) => return bad("profile.draft_head", format!("{:?}: {error}", self.draft_head)),
        };
        // Whether the file can be read is the plan's and the engine's to say: a disk may be away for a while.
        if let Some(file) = &self.draft_vocabulary {
            if !file.is_absolute() {
                let problem = format!("{file:?} is not a whole path, beginning with /");
                return bad("profile.draft_vocabulary", problem);
            }
            if let Some(tokens) = head.tokens {
                let problem = format!("draft_head asks for {tokens} tokens already; give one of the two");
                return bad("profile.draft_vocabulary", problem);
            }
        }
        if !(1..=WAITING_LIMIT).contains(&self.max_waiting) {
            return bad(
                "profile.max_waiting",
                format!("{} is not in 1 to {WAITING_LIMIT}", self.max_waiting),
            );
        }
        if !(1..=CHUNK_LIMIT).contains(&self.chunk) {
            return bad("profile.chunk", format!("{} is not in 1 to {CHUNK_LIMIT}", self.chunk));
        }
        if self.prefix_disk_gib.is_some_and(|gib| !(1..=PREFIX_DISK_LIMIT).contains(&gib)) {
            return bad("profile.prefix_disk_gib", format!("expected 1 to {PREFIX_DISK_LIMIT}, or none"));
        }
        let sampling = &self.sampling;
        let within = |value: Option<f64>, from: f64, to: f64| value.is_none_or(|v| (from..=to).contains(&v));
        if !within(sampling.temperature, 0.0, 2.0) {
            return bad("profile.sampling.temperature", "expected 0 to 2, or none".into());
        }
        if !within(sampling.top_p, f64::MIN_POSITIVE, 1.0) {
            return bad("profile.sampling.top_p", "expected a number above 0, at most 1, or none".into());
        }
        if !within(sampling.min_p, 0.0, 1.0) {
            return bad("profile.sampling.min_p", "expected 0 to 1, or none".into());
        }
        if sampling.top_k.is_some_and(|k| k > TOP_K_LIMIT) {
            return bad("profile.sampling.top_k", format!("expected 0 to {TOP_K_LIMIT}, or none"));
        }
        if let Err(error) = self.kv.parse::<KvTypes>() {
            return bad("profile.kv", error.to_string());
        }
        Ok(())
    }
}

/// Puts the key before the parser's message when the message does not name it ("invalid type: ..." does not).
fn problem_with_key(text: &str, start: usize, message: &str) -> String {
    let line_start = text[..start.min(text.len())].rfind('\n').map_or(0, |at| at + 1);
    let line = text[line_start..].lines().next().unwrap_or_default();
    match line.split_once('=').map(|(key, _)| key.trim()) {
        Some(key) if !key.is_empty() && !message.contains(key) => format!("{key}: {message}"),
        _ => message.to_owned(),
    }
}

/// The line that sets a dotted key; 1 if it is not set in the file.
fn line_of_key(text: &str, key: &str) -> usize {
    let (table, key) = key.rsplit_once('.').unwrap_or(("", key));
    let mut here = String::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            here = name.trim().to_owned();
        } else if here == table && line.split('=').next().is_some_and(|name| name.trim() == key) {
            return i + 1;
        }
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<Settings, ApplianceError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings.toml");
        fs::write(&path, text).unwrap();
        let settings = Settings::read(&path);
        assert_eq!(fs::read(&path).unwrap(), text, "the file is kept as it is");
        settings
    }

    fn complaint(text: &[u8]) -> String {
        read(text).unwrap_err().to_string()
    }

    #[test]
    fn without_a_file_the_built_in_model_is_served_on_this_machine_only() {
        let settings = Settings::read(Path::new("/nowhere/settings.toml")).unwrap();
        assert_eq!(
            (settings.host.as_str(), settings.port, settings.start_engine),
            ("127.0.0.1", 8000, false)
        );
        assert_eq!(settings.profile.model, "ember");
        settings.check().unwrap();
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings.toml");
        let mut settings = Settings { port: 9001, memory_reserve: Some(1e9), ..Settings::default() };
        settings.prices = Some(crate::control::types::Prices {
            currency: "EUR".into(),
            input: 0.15,
            cached_input: 0.075,
            output: 0.6,
            kwh: None,
        });
        settings.profile.context = Some(4096);
        settings.write(&path).unwrap();
        assert_eq!(Settings::read(&path).unwrap(), settings);
    }

    #[test]
    fn a_part_of_the_settings_is_enough() {
        let settings = read(b"port = 9000\n[profile]\nmax_requests = 2\n").unwrap();
        assert_eq!((settings.port, settings.profile.max_requests), (9000, 2));
        assert_eq!(settings.profile.model, "ember");
    }

    #[test]
    fn an_error_names_line_and_key() {
        for (text, line, key) in [
            (&b"port = 9000\nprot = 1\n"[..], "line 2", "prot"),
            (b"# a\n\nport = \"x\"\n", "line 3", "port"),
            (b"port = 70000\n", "line 1", "port"),
            (b"[profile]\nkv = \"bf16\"\nmax_requests = 0\n", "line 3", "profile.max_requests"),
            (b"[profile.sampling]\ntemperature = 9\n", "line 2", "profile.sampling.temperature"),
            (b"[profile]\nchunk = 0\n", "line 2", "profile.chunk"),
            (b"[profile]\nkv = \"fp8:middle=bf16\"\n", "line 2", "profile.kv"),
            (b"[profile]\ndraft_head = \"12\"\n", "line 2", "profile.draft_head"),
            (b"[profile]\ndraft_vocabulary = \"ids.txt\"\n", "line 2", "profile.draft_vocabulary"),
            (
                b"[profile]\ndraft_head = \"nvfp4:32768\"\ndraft_vocabulary = \"/ids.txt\"\n",
                "line 3",
                "profile.draft_vocabulary",
            ),
            (b"theme = \"pink\"\n", "line 1", "theme"),
            (b"language = \"fr\"\n", "line 1", "language"),
            (b"[prices]\ncurrency = \"EUR\"\ninput = -1\ncached_input = 0\noutput = 1\n", "line 1", "prices"),
            (b"[prices]\ncurrency = \"\"\ninput = 1\ncached_input = 0\noutput = 1\n", "line 1", "currency"),
            (b"port = 9000\nhost = \"0.0.0.0\"\n", "line 2", "access key"),
            (b"port = 9000\nmemory_reserve = nan\n", "line 2", "memory_reserve"),
            (b"port = 9000\nhost = \"\xff\"\n", "line 2", "UTF-8"),
            (b"port = \n", "line 1", "port"),
        ] {
            let text = complaint(text);
            assert!(text.contains(line) && text.contains(key), "{text} (expected {line}, {key})");
        }
    }
}
