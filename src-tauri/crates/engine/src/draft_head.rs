//! The head for drafts as a person asks for it, and the tokens that it can always propose. `load` makes the model's options of
//! it; the appliance sizes profiles with it.

use std::{collections::BTreeSet, path::Path, str::FromStr};

use hearth_model::{DraftFormat, DraftHead};

use crate::{Tokenizer, status::Fault};

/// Fewest tokens that a draft may be chosen from: below, hardly any would be right.
const FEWEST: usize = 256;
/// Words of templates that are ordinary tokens: names of roles and the line ends between turns.
const TEMPLATE_WORDS: [&str; 6] = ["user", "assistant", "system", "tool", "\n", "\n\n"];
/// Largest file of tokens that is read, bytes.
const LARGEST: u64 = 64 << 20;

/// What a person asked for: `full`, `fp8` or `nvfp4` for a copy in fewer bits, a number of tokens for a reduced vocabulary, or
/// both, as in `nvfp4:32768`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DraftWish {
    /// What the copy is rounded to; None: as the model's own head.
    pub format: Option<DraftFormat>,
    /// How many tokens can be proposed; None: all.
    pub tokens: Option<usize>,
}

impl FromStr for DraftWish {
    type Err = String;

    fn from_str(text: &str) -> Result<DraftWish, String> {
        let wrong = || {
            format!("expected full, fp8, nvfp4, a number of tokens from {FEWEST}, or both as in nvfp4:32768")
        };
        let (format, tokens) = match text.split_once(':') {
            Some((format, tokens)) => (Some(format), Some(tokens)),
            None if text.bytes().next().is_some_and(|b| b.is_ascii_digit()) => (None, Some(text)),
            None => (Some(text), None),
        };
        let format = match format {
            Some("fp8") => Some(DraftFormat::Fp8),
            Some("nvfp4") => Some(DraftFormat::Nvfp4),
            Some("full") if tokens.is_none() => None,
            None => None,
            Some(_) => return Err(wrong()),
        };
        let number = |text: &str| {
            let digits = text.bytes().all(|b| b.is_ascii_digit());
            text.parse().ok().filter(|n| digits && (FEWEST..=1 << 22).contains(n)).ok_or_else(wrong)
        };
        Ok(DraftWish { format, tokens: tokens.map(number).transpose()? })
    }
}

impl std::fmt::Display for DraftWish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let format = self.format.map(|format| match format {
            DraftFormat::Fp8 => "fp8",
            DraftFormat::Nvfp4 => "nvfp4",
        });
        match (format, self.tokens) {
            (None, None) => f.write_str("full"),
            (Some(format), None) => f.write_str(format),
            (None, Some(tokens)) => write!(f, "{tokens}"),
            (Some(format), Some(tokens)) => write!(f, "{format}:{tokens}"),
        }
    }
}

impl DraftWish {
    /// What it takes of a model with `vocab` tokens.
    pub fn sized(self, vocab: usize) -> DraftHead {
        DraftHead::sized(self.format, self.tokens.filter(|tokens| *tokens < vocab))
    }

    /// What it takes of a model with `vocab` tokens if its own come from `file`. The control tokens that are not in it are some
    /// dozens more.
    ///
    /// # Errors
    /// A file that cannot be read or holds what is no token.
    pub fn sized_by(self, file: &Path, vocab: usize) -> Result<DraftHead, Fault> {
        let tokens: BTreeSet<u32> = tokens_of(file, vocab)?.into_iter().collect();
        Ok(DraftHead::sized(self.format, (tokens.len() < vocab).then_some(tokens.len())))
    }

    /// The head for a model with `vocab` rows of logits: the control tokens, and of the others those with the lowest ids, which
    /// a byte-level BPE learnt first and so are the most frequent ones; or the tokens of `file`.
    ///
    /// # Errors
    /// A file that cannot be read or holds what is no token, or less room than the control tokens need.
    pub fn head(self, tokenizer: &Tokenizer, vocab: usize, file: Option<&Path>) -> Result<DraftHead, Fault> {
        let count = tokenizer.len().min(vocab);
        let mut kept: BTreeSet<u32> =
            control(tokenizer).into_iter().filter(|id| (*id as usize) < count).collect();
        if let Some(file) = file {
            kept.extend(tokens_of(file, count)?);
            let tokens = (kept.len() < vocab).then(|| kept.into_iter().collect());
            return Ok(DraftHead { format: self.format, tokens });
        }
        let Some(tokens) = self.tokens.filter(|tokens| *tokens < count) else {
            return Ok(DraftHead { format: self.format, tokens: None });
        };
        if kept.len() > tokens {
            return Err(Fault::new(
                "draft_head_too_small",
                format!(
                    "The head for drafts has room for {tokens} tokens, and {} are control tokens that it must have.",
                    kept.len()
                ),
                "Give --draft-head a larger number, or leave it out.",
            )
            .with("tokens", tokens)
            .with("control", kept.len()));
        }
        for id in 0..count as u32 {
            if kept.len() == tokens {
                break;
            }
            kept.insert(id);
        }
        Ok(DraftHead { format: self.format, tokens: Some(kept.into_iter().collect()) })
    }
}

/// The tokens that every draft may need whatever the text is about: special and added ones (ends, turns, thoughts, tool calls),
/// and the words of templates.
fn control(tokenizer: &Tokenizer) -> BTreeSet<u32> {
    let mut ids: BTreeSet<u32> = tokenizer.added().iter().copied().collect();
    ids.extend(tokenizer.ends());
    ids.extend(tokenizer.turn_start());
    for word in TEMPLATE_WORDS {
        // A word that cannot be encoded is none of its tokens.
        ids.extend(tokenizer.encode(word, None).unwrap_or_default());
    }
    ids
}

/// The ids in a file, separated by blanks, commas or line ends; what follows a # is left out.
fn tokens_of(file: &Path, count: usize) -> Result<Vec<u32>, Fault> {
    let wrong = |message: String| {
        Fault::new(
            "draft_vocabulary_invalid",
            message,
            "Give --draft-vocabulary a text file of token ids, one a line.",
        )
        .with("file", file)
    };
    let cannot = |why: &dyn std::fmt::Display| {
        wrong(format!("{} cannot be read: {why}.", file.display())).with("reason", why.to_string())
    };
    let size = std::fs::metadata(file).map_err(|error| cannot(&error))?.len();
    if size > LARGEST {
        return Err(cannot(&format!("it has {} MiB", size >> 20)));
    }
    let text = std::fs::read_to_string(file).map_err(|error| cannot(&error))?;
    let mut ids = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        for word in line.split([' ', '\t', ',', '\r']).filter(|word| !word.is_empty()) {
            let id = word.parse().ok().filter(|id: &u32| (*id as usize) < count).ok_or_else(|| {
                let shown: String = word.chars().take(40).collect();
                let (line, most) = (number + 1, count.saturating_sub(1));
                wrong(format!(
                    "{}, line {line}: {shown:?} is not a token id from 0 to {most}.",
                    file.display(),
                ))
                .with("line", line)
                .with("word", shown)
                .with("most", most)
            })?;
            ids.push(id);
        }
    }
    if ids.is_empty() {
        return Err(wrong(format!("{} holds no token id.", file.display())));
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::tests::byte_tokenizer;

    fn wish(text: &str) -> DraftWish {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_wish_is_read_and_printed_and_nonsense_is_refused() {
        for text in ["full", "fp8", "nvfp4", "32768", "nvfp4:32768", "fp8:256"] {
            assert_eq!(wish(text).to_string(), text);
        }
        assert_eq!(wish("full"), DraftWish::default());
        for wrong in [
            "",
            "bf16",
            "255",
            "-1",
            "+300",
            "1e5",
            "full:32768",
            "nvfp4:",
            ":32768",
            "nvfp4:x",
            "32768:nvfp4",
            "99999999999",
        ] {
            assert!(wrong.parse::<DraftWish>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn control_tokens_are_always_among_those_that_are_kept_and_the_rest_are_the_first() {
        let tokenizer = byte_tokenizer();
        // 256 bytes, three added tokens, and a row of padding: 260 rows of logits.
        let head = wish("258").head(&tokenizer, 260, None).expect("there is room");
        let tokens = head.tokens.expect("it is reduced");
        assert_eq!(tokens.len(), 258);
        assert!([256, 257, 258].iter().all(|id| tokens.contains(id)), "{tokens:?}");
        assert!(tokens.windows(2).all(|pair| pair[0] < pair[1]));
        let text: Vec<u32> = "usertool\n".bytes().map(u32::from).collect();
        assert!(text.iter().all(|id| tokens.contains(id)), "words of templates");
        assert!(!tokens.contains(&255) || !tokens.contains(&254), "of the others the last are left out");
        for all in ["full", "259", "300"] {
            assert_eq!(wish(all).head(&tokenizer, 260, None).expect("all").tokens, None, "{all}");
        }
        assert_eq!(wish("300").sized(260), DraftHead::default());
        let sized = wish("nvfp4:258").sized(260);
        assert_eq!((sized.format, sized.tokens.map(|t| t.len())), (Some(DraftFormat::Nvfp4), Some(258)));
    }

    #[test]
    fn a_file_names_the_tokens_and_a_bad_one_is_refused_by_line() {
        let tokenizer = byte_tokenizer();
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ids.txt");
        let of = |text: &str| {
            std::fs::write(&path, text).expect("it can be written");
            wish("fp8").head(&tokenizer, 260, Some(&path))
        };
        let head = of("# frequent ones\n65, 66\n67 68 # and more\n").expect("a sound file");
        let tokens = head.tokens.expect("it is reduced");
        assert!(
            [65, 68, 256, 257, 258].iter().all(|id| tokens.contains(id)) && !tokens.contains(&90),
            "{tokens:?}"
        );
        for (text, part) in
            [("65\nx\n", "line 2"), ("65\n\n259\n", "line 3"), ("# none\n", "no token id"), ("-1", "line 1")]
        {
            let fault = of(text).expect_err(text);
            assert_eq!(fault.code, "draft_vocabulary_invalid");
            assert!(fault.message.contains(part), "{fault:?}");
        }
        let missing =
            wish("full").head(&tokenizer, 260, Some(Path::new("/nowhere/ids"))).expect_err("no such file");
        assert!(missing.message.contains("/nowhere/ids"), "{missing:?}");
    }
}
