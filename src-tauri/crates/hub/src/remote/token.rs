//! A Hugging Face token: from Hearth's own file, the environment, or where Hugging Face's tools keep theirs. It is sent to the hub
//! and nobody else, and never shown.

use std::{env, fmt, fs, path::PathBuf};

/// A token. `Debug` does not tell it.
#[derive(Clone, PartialEq, Eq)]
pub struct HubToken(String);

impl HubToken {
    /// Text that may be a token: one word of printable ASCII.
    pub fn parse(text: &str) -> Option<HubToken> {
        let text = text.trim();
        let fits = (1..=512).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        fits.then(|| HubToken(text.into()))
    }

    /// What Hugging Face's tools would use: `HF_TOKEN`, else the file of `HF_TOKEN_PATH`, else `HF_HOME/token`.
    pub fn from_env() -> Option<HubToken> {
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        if let Some(token) = set("HF_TOKEN").and_then(|text| HubToken::parse(text.to_str()?)) {
            return Some(token);
        }
        let home = || {
            let home = set("HF_HOME").map(PathBuf::from);
            let cache = || set("XDG_CACHE_HOME").map(|cache| PathBuf::from(cache).join("huggingface"));
            home.or_else(cache).or_else(|| Some(PathBuf::from(set("HOME")?).join(".cache/huggingface")))
        };
        let file = set("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(home()?.join("token")))?;
        HubToken::parse(&fs::read_to_string(file).ok()?)
    }

    /// The text itself, for the request header and the file it is kept in.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for HubToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HubToken(...)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_word_and_is_not_told() {
        let token = HubToken::parse(" hf_secret\n").unwrap();
        assert_eq!(token.reveal(), "hf_secret");
        assert!(!format!("{token:?}").contains("secret"));
        for bad in ["", " ", "two words", "line\nbreak", "ümlaut"] {
            assert!(HubToken::parse(bad).is_none(), "{bad:?}");
        }
    }
}
