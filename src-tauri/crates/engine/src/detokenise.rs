//! From token bytes to text, token by token, never splitting a character. One per running request.

/// Bytes of an unfinished character wait here for the tokens that complete it.
#[derive(Debug, Default)]
pub struct Detokeniser {
    tail: Vec<u8>,
}

impl Detokeniser {
    /// The text that became complete with these bytes. Bytes that can never become UTF-8 come out as U+FFFD, one per
    /// maximal invalid part (Unicode 15, section 3.9, as `String::from_utf8_lossy` does).
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.tail.extend_from_slice(bytes);
        let mut text = String::new();
        let mut start = 0;
        loop {
            match std::str::from_utf8(&self.tail[start..]) {
                Ok(rest) => {
                    text.push_str(rest);
                    start = self.tail.len();
                    break;
                }
                Err(error) => {
                    let valid = start + error.valid_up_to();
                    text.push_str(
                        std::str::from_utf8(&self.tail[start..valid]).expect("checked by from_utf8 above"),
                    );
                    start = valid;
                    match error.error_len() {
                        Some(invalid) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            start += invalid;
                        }
                        None => break,
                    }
                }
            }
        }
        self.tail.drain(..start);
        text
    }

    /// What is left when the request ends: U+FFFD for a character that was cut short, else nothing.
    pub fn finish(&mut self) -> &'static str {
        let cut = !self.tail.is_empty();
        self.tail.clear();
        if cut { "\u{FFFD}" } else { "" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_split_of_the_bytes_gives_the_same_text_and_only_whole_characters() {
        let text = "aé€😀👩‍👩‍👧 日本語 ✓";
        for size in 1..8 {
            let mut detokeniser = Detokeniser::default();
            let mut out = String::new();
            for piece in text.as_bytes().chunks(size) {
                let part = detokeniser.push(piece);
                assert!(!part.contains('\u{FFFD}'), "split at {size}");
                out += &part;
            }
            assert_eq!(out + detokeniser.finish(), text);
        }
    }

    #[test]
    fn an_emoji_comes_out_with_its_last_byte() {
        let mut detokeniser = Detokeniser::default();
        let bytes = "😀".as_bytes();
        assert_eq!(detokeniser.push(&bytes[..1]), "");
        assert_eq!(detokeniser.push(&bytes[1..3]), "");
        assert_eq!(detokeniser.push(&bytes[3..]), "😀");
        assert_eq!(detokeniser.finish(), "");
    }

    #[test]
    fn bytes_that_are_no_text_become_replacement_characters_like_from_utf8_lossy() {
        for bytes in [&b"a\xFFb"[..], b"\xE2\x82x", b"\x80\x80", b"\xF0\x9F\x98", b"ok\xC3"] {
            for size in 1..=bytes.len() {
                let mut detokeniser = Detokeniser::default();
                let mut out: String = bytes.chunks(size).map(|piece| detokeniser.push(piece)).collect();
                out += detokeniser.finish();
                assert_eq!(out, String::from_utf8_lossy(bytes), "{bytes:?} by {size}");
            }
        }
    }
}
