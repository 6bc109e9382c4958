//! Stop strings, found across token borders. Text that may still turn out to be the beginning of a stop string is held
//! back until that is decided. One per running request.

/// The stop strings of one request and the text it holds back.
#[derive(Debug)]
pub struct StopStrings {
    strings: Vec<String>,
    held: String,
    stopped: bool,
}

/// What may be sent after some text was added.
#[derive(Debug, PartialEq, Eq)]
pub struct Released {
    /// Text that is certainly not part of a stop string.
    pub text: String,
    /// True: a stop string was found; the answer ends with `text`.
    pub stopped: bool,
}

impl StopStrings {
    /// `strings` must not contain an empty string (it would stop everything); such are ignored.
    pub fn new(strings: Vec<String>) -> StopStrings {
        let strings = strings.into_iter().filter(|s| !s.is_empty()).collect();
        StopStrings { strings, held: String::new(), stopped: false }
    }

    /// Adds text; gives back what may be sent. The earliest match wins, and the stop string itself is not sent.
    /// After a match nothing more is given back.
    pub fn push(&mut self, text: &str) -> Released {
        if self.stopped {
            return Released { text: String::new(), stopped: true };
        }
        if self.strings.is_empty() {
            return Released { text: text.to_owned(), stopped: false };
        }
        self.held.push_str(text);
        if let Some(at) = self.strings.iter().filter_map(|s| self.held.find(s.as_str())).min() {
            self.held.truncate(at);
            self.stopped = true;
            return Released { text: std::mem::take(&mut self.held), stopped: true };
        }
        let keep = self.strings.iter().map(|s| overlap(&self.held, s)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        Released { text: std::mem::replace(&mut self.held, rest), stopped: false }
    }

    /// What was held back, when the answer ends for another reason.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Length in bytes of the longest end of `text` that is a beginning of `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    (1..stop.len().min(text.len() + 1))
        .rev()
        .find(|&n| stop.is_char_boundary(n) && text.as_bytes().ends_with(&stop.as_bytes()[..n]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut stop = StopStrings::new(stops.iter().map(|s| (*s).to_owned()).collect());
        let mut out = String::new();
        for piece in pieces {
            let released = stop.push(piece);
            out += &released.text;
            if released.stopped {
                return (out, true);
            }
        }
        (out + &stop.finish(), false)
    }

    #[test]
    fn a_stop_string_is_found_wherever_the_token_borders_lie() {
        let text = "one two END three";
        for size in 1..text.len() {
            let pieces: Vec<String> =
                text.as_bytes().chunks(size).map(|c| String::from_utf8_lossy(c).into_owned()).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            assert_eq!(run(&["END"], &pieces), ("one two ".to_owned(), true), "pieces of {size}");
        }
    }

    #[test]
    fn nothing_of_a_stop_string_is_sent_before_it_is_known_not_to_be_one() {
        let mut stop = StopStrings::new(vec!["</s>".into(), "\n\nUser".into()]);
        assert_eq!(stop.push("hi <").text, "hi ");
        assert_eq!(stop.push("/").text, "");
        assert_eq!(stop.push("b>").text, "</b>");
        assert_eq!(stop.push("\n\n").text, "");
        assert_eq!(stop.push("Us").text, "");
        assert_eq!(stop.finish(), "\n\nUs");
    }

    #[test]
    fn nothing_comes_after_a_stop_string() {
        let mut stop = StopStrings::new(vec!["b".into()]);
        assert_eq!(stop.push("abc"), Released { text: "a".into(), stopped: true });
        assert_eq!(stop.push("more"), Released { text: String::new(), stopped: true });
        assert_eq!(stop.finish(), "");
    }

    #[test]
    fn the_earliest_of_several_matches_ends_the_answer() {
        assert_eq!(run(&["c", "b"], &["abc"]), ("a".to_owned(), true));
        assert_eq!(run(&["bcd", "cd"], &["ab", "cd"]), ("a".to_owned(), true));
        assert_eq!(run(&["aab"], &["a", "a", "a", "b"]), ("a".to_owned(), true));
    }

    #[test]
    fn characters_of_several_bytes_are_never_cut() {
        assert_eq!(run(&["é!"], &["caf", "é", "?"]), ("café?".to_owned(), false));
        assert_eq!(run(&["😀😀"], &["x😀", "😀y"]), ("x".to_owned(), true));
        assert_eq!(run(&["è"], &["é"]), ("é".to_owned(), false));
    }

    #[test]
    fn without_stop_strings_text_passes_at_once() {
        assert_eq!(run(&[], &["a", "b"]), ("ab".to_owned(), false));
        assert_eq!(run(&[""], &["a"]), ("a".to_owned(), false));
    }
}
