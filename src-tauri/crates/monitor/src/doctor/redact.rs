//! Takes out of a text what a person would not want to hand around: secrets, names, paths into a home, addresses, and the text of
//! requests. It would rather take out too much.

use std::path::Path;

use regex::{Captures, Regex, Replacer};

/// Removes what is known to be private, and what looks like it.
#[derive(Debug)]
pub struct Redactor {
    /// Exact texts and what stands for them, longest first.
    exact: Vec<(String, &'static str)>,
    /// Whole words, upper or lower case.
    words: Vec<(Regex, &'static str)>,
    looks: Vec<(Regex, Stand)>,
}

/// What stands for something that was taken out.
#[derive(Debug, Clone, Copy)]
enum Stand {
    /// The text; `$1` is the first group.
    Text(&'static str),
    /// The match if it is no secret after all (a word of one kind of letter), else a mark.
    IfMixed,
    /// An address that is not this machine's loopback.
    IfAbroad,
}

/// What looks private. Order matters: what is longest and surest comes first.
const LOOKS: [(&str, Stand); 15] = [
    // The text of requests and answers, to the end of the line.
    (r#"(?i)("(?:prompt|content|messages|input|text|arguments)"\s*:).*"#, Stand::Text("$1 <removed>")),
    (r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]+", Stand::Text("$1 <secret>")),
    (r"\b(?:hf|sk|pk|nvapi|gh[a-z]|glpat|xox[a-z]|AKIA)[_-][A-Za-z0-9_-]{6,}", Stand::Text("<secret>")),
    (r"\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?", Stand::Text("<secret>")),
    // With an equals sign or in quotes it is a setting; after a colon in a sentence it is one only if it looks like a secret.
    (
        r#"(?i)\b([a-z_-]*(?:token|key|password|passwd|secret|authorization)["']?\s*=\s*["']?)[^\s"',;&]+"#,
        Stand::Text("$1<secret>"),
    ),
    (
        r#"(?i)(["'][a-z_-]*(?:token|key|password|passwd|secret|authorization)["']\s*:\s*["']?)[^\s"',;&]+"#,
        Stand::Text("$1<secret>"),
    ),
    (
        r#"(?i)\b([a-z_-]*(?:password|passwd|secret|authorization)\s*:\s*)[^\s"',;&]+"#,
        Stand::Text("$1<secret>"),
    ),
    (r#"(?i)\b([a-z_-]*(?:token|key)\s*:\s*)[^\s"',;&]*\d[^\s"',;&]*"#, Stand::Text("$1<secret>")),
    (r"://[^\s/@]+@", Stand::Text("://<user>@")),
    (r"\b[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}\b", Stand::Text("<e-mail>")),
    (r"/(home|Users|media|run/media|mnt/home)/[^\s/:'\x22,;)]+", Stand::Text("/$1/<user>")),
    (r"\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b", Stand::Text("<id>")),
    (r"\b(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}\b", Stand::Text("<address>")),
    (r"\b(?:\d{1,3}\.){3}\d{1,3}\b", Stand::IfAbroad),
    (r"\b[A-Za-z0-9_]{24,}\b", Stand::IfMixed),
];

impl Redactor {
    /// `secrets` are removed wherever they stand. Names of a few letters or of the system are left: they would tear words apart.
    pub fn new(secrets: &[String], home: Option<&Path>, user: Option<&str>, host: Option<&str>) -> Redactor {
        let mut exact: Vec<(String, &'static str)> = secrets
            .iter()
            .map(|secret| secret.trim())
            .filter(|secret| secret.len() >= 4)
            .map(|secret| (secret.to_owned(), "<secret>"))
            .collect();
        exact.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        let home = home.map(|home| home.to_string_lossy().trim_end_matches('/').to_owned());
        exact.extend(home.filter(|home| home.len() > 1).map(|home| (home, "~")));
        let word = |name: Option<&str>, stand: &'static str| {
            let name = name.filter(|name| name.len() > 2 && !["root", "localhost"].contains(name))?;
            Some((Regex::new(&format!(r"(?i)\b{}\b", regex::escape(name))).ok()?, stand))
        };
        let words = word(user, "<user>").into_iter().chain(word(host, "<host>")).collect();
        let looks =
            LOOKS.map(|(pattern, stand)| (Regex::new(pattern).expect("the patterns are tested"), stand));
        Redactor { exact, words, looks: looks.into() }
    }

    /// The text without what is private.
    pub fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (secret, stand) in &self.exact {
            text = text.replace(secret.as_str(), stand);
        }
        for (look, stand) in &self.looks {
            text = look.replace_all(&text, *stand).into_owned();
        }
        for (word, stand) in &self.words {
            text = word.replace_all(&text, *stand).into_owned();
        }
        text
    }
}

impl Replacer for Stand {
    fn replace_append(&mut self, found: &Captures<'_>, out: &mut String) {
        let whole = &found[0];
        match self {
            Stand::Text(text) => found.expand(text, out),
            Stand::IfMixed => {
                let has = |kind: fn(&char) -> bool| whole.chars().any(|c| kind(&c));
                let mixed = has(char::is_ascii_digit) && has(char::is_ascii_alphabetic);
                out.push_str(if mixed { "<id>" } else { whole });
            }
            Stand::IfAbroad => {
                let here = whole.starts_with("127.") || whole == "0.0.0.0";
                // Four small numbers with dots are a version as often as an address ("580.95.05" has three).
                out.push_str(if here { whole } else { "<address>" });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    fn redactor() -> Redactor {
        let secrets = ["c0ffee-token".to_owned(), String::new(), "ab".to_owned()];
        Redactor::new(&secrets, Some(Path::new("/home/ada")), Some("ada"), Some("spark-1"))
    }

    #[test]
    fn secrets_of_every_kind_are_gone() {
        let redactor = redactor();
        for (text, private) in [
            ("token is c0ffee-token.", "c0ffee"),
            ("HF_TOKEN=hf_abcdefghijklmnop", "abcdef"),
            ("found hf_AbCdEf1234567890 in the environment", "AbCdEf"),
            ("Authorization: Bearer abc.def-123", "abc.def"),
            ("--api-key=sk-proj-12345678", "12345678"),
            ("\"api_key\": \"opensesame\"", "opensesame"),
            ("password: hunter", "hunter"),
            ("token: 4f5e6d", "4f5e6d"),
            ("https://me:pw@proxy.example:3128/", "me:pw"),
            ("jwt eyJhbGciOi.eyJzdWIi.sig", "eyJ"),
            ("mail ada.lovelace@example.org", "lovelace"),
            ("MAC 3c:6d:66:01:02:03", "66:01"),
            ("GPU-8f6a1c2e-1234-5678-9abc-def012345678", "9abc"),
            ("peer 192.168.1.17:443", "192.168"),
            ("container 9f2c4e6a8b0d1f3e5a7c9b1d3f5e7a9c", "9f2c4e"),
        ] {
            let shown = redactor.redact(text);
            assert!(!shown.contains(private), "{shown}");
        }
    }

    #[test]
    fn names_and_paths_of_the_person_are_gone() {
        let redactor = redactor();
        let text = "/home/ada/.cache/huggingface on SPARK-1 by Ada; /home/bob/x '/media/ada/disk 1' adaptive spark-10";
        let shown = redactor.redact(text);
        assert_eq!(
            shown,
            "~/.cache/huggingface on <host> by <user>; /home/<user>/x '/media/<user>/disk 1' adaptive spark-10"
        );
    }

    #[test]
    fn what_people_asked_is_gone_and_what_the_engine_says_stays() {
        let redactor = redactor();
        let shown = redactor.redact("body {\"model\":\"ember\",\"messages\":[{\"role\":\"user\",\"content\":\"my diary\"}]}\nnext line");
        assert!(!shown.contains("diary") && shown.ends_with("\nnext line"), "{shown}");
        for kept in [
            "ready after 0.4 s",
            "nvidia/Qwen3.6-35B-A3B-NVFP4",
            "driver 580.95.05, kernel 6.17.0-1014-nvidia",
            "http://127.0.0.1:8000/v1",
            "model.layers.11.mlp.experts.3.down_proj.weight",
            "sudo apt install linux-modules-nvidia-580-open-$(uname -r)",
            "context_length_exceeded_by_the_request",
            "Keys and tokens: other users can read Hearth's keys; control-token: mode 644",
            "prompt tokens: 5097",
        ] {
            assert_eq!(redactor.redact(kept), kept);
        }
    }

    #[test]
    fn a_user_called_root_does_not_tear_words_apart() {
        let redactor = Redactor::new(&[], Some(Path::new("/root")), Some("root"), None);
        assert_eq!(
            redactor.redact("root owns /root/.config and the root cause"),
            "root owns ~/.config and the root cause"
        );
    }

    proptest! {
        #[test]
        fn whatever_stands_around_a_secret_it_is_gone(before in ".{0,40}", after in ".{0,40}") {
            static REDACTOR: LazyLock<Redactor> = LazyLock::new(redactor);
            let shown = REDACTOR.redact(&format!("{before} c0ffee-token {after}"));
            prop_assert!(!shown.contains("c0ffee-token"));
        }
    }
}
