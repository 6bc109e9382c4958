//! Looks modules up in the lists of a quantization configuration: exact names, parents, shell-like patterns and
//! regular expressions. Patterns come from files, so their size and their work are bounded.

use std::collections::HashMap;

use fancy_regex::{Regex, RegexBuilder};

/// The part of multimodal names that text-only copies of a model lack.
const INFIX: &str = "language_model.";

/// Longest regular expression that is compiled, bytes.
const MAX_PATTERN: usize = 2_000;

/// Most patterns of one list. Real lists hold a dozen; each costs time for every module.
const MAX_PATTERNS: usize = 1_000;

/// A value for each module that a list names.
#[derive(Debug)]
pub(super) struct Names<V> {
    exact: HashMap<String, V>,
    /// A name stands for everything below it, too.
    parents: bool,
    patterns: Vec<(Pattern, V)>,
}

#[derive(Debug)]
enum Pattern {
    /// `*` stands for any text, `?` for one character.
    Glob(String),
    /// Matched from the start of the name, as Python's `re.match` does.
    Regex(Box<Regex>),
}

impl<V> Default for Names<V> {
    fn default() -> Self {
        Names { exact: HashMap::new(), parents: false, patterns: Vec::new() }
    }
}

impl<V> Names<V> {
    /// An empty list whose names stand for everything below them, too.
    pub fn with_parents() -> Self {
        Names { parents: true, ..Self::default() }
    }

    /// Adds one name.
    pub fn name(&mut self, name: &str, value: V) {
        self.exact.insert(canonical(name), value);
    }

    /// Adds a name or, if it holds `*` or `?`, a shell-like pattern. Error: the reason it is refused.
    pub fn glob(&mut self, text: &str, value: V) -> Result<(), String> {
        if !text.contains(['*', '?']) {
            self.name(text, value);
            return Ok(());
        }
        self.bounded(text)?;
        self.patterns.push((Pattern::Glob(text.into()), value));
        Ok(())
    }

    /// Adds a regular expression. Error: the reason it is refused.
    pub fn regex(&mut self, text: &str, value: V) -> Result<(), String> {
        self.bounded(text)?;
        let regex = RegexBuilder::new(&format!("\\A(?:{text})"))
            .backtrack_limit(100_000)
            .delegate_size_limit(1 << 20)
            .build()
            .map_err(|error| error.to_string())?;
        self.patterns.push((Pattern::Regex(Box::new(regex)), value));
        Ok(())
    }

    /// The value of a module: of its own name, else of the nearest parent, else of the first pattern that fits.
    pub fn get(&self, module: &str) -> Option<&V> {
        let short = canonical(module);
        if let Some(value) = self.exact.get(&short) {
            return Some(value);
        }
        if self.parents {
            let mut name = short.as_str();
            while let Some((parent, _)) = name.rsplit_once('.') {
                if let Some(value) = self.exact.get(parent) {
                    return Some(value);
                }
                name = parent;
            }
        }
        let fits =
            |(pattern, _): &&(Pattern, V)| pattern.fits(module) || (short != module && pattern.fits(&short));
        self.patterns.iter().find(fits).map(|(_, value)| value)
    }

    /// All values, in no order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.exact.values().chain(self.patterns.iter().map(|(_, value)| value))
    }

    fn bounded(&self, text: &str) -> Result<(), String> {
        if text.len() > MAX_PATTERN {
            return Err(format!("{} bytes of pattern; at most {MAX_PATTERN} are read", text.len()));
        }
        if self.patterns.len() == MAX_PATTERNS {
            return Err(format!("more than {MAX_PATTERNS} patterns"));
        }
        Ok(())
    }
}

impl Pattern {
    fn fits(&self, name: &str) -> bool {
        match self {
            Pattern::Glob(glob) => glob_fits(glob.as_bytes(), name.as_bytes()),
            // A pattern that runs out of its backtracking budget fits nothing.
            Pattern::Regex(regex) => regex.is_match(name).unwrap_or(false),
        }
    }
}

/// Shell-like match in `O(glob * name)`: on a mismatch only the last `*` is extended.
fn glob_fits(glob: &[u8], name: &[u8]) -> bool {
    let (mut g, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match glob.get(g) {
            Some(b'*') => {
                star = Some((g, n));
                g += 1;
            }
            Some(&c) if c == b'?' || c == name[n] => {
                g += 1;
                n += 1;
            }
            _ => {
                let Some((at, from)) = star else { return false };
                star = Some((at, from + 1));
                g = at + 1;
                n = from + 1;
            }
        }
    }
    glob[g..].iter().all(|&c| c == b'*')
}

fn canonical(name: &str) -> String {
    name.replacen(INFIX, "", 1)
}

/// Whether writers count the module among the linear layers: embeddings, norms and convolutions are not.
pub(super) fn is_linear(module: &str) -> bool {
    let last = module.rsplit('.').next().unwrap_or(module);
    !(last == "embed_tokens" || last.contains("norm") || last.contains("conv"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shell_patterns_match_whole_names() {
        let cases = [
            ("mtp*", "mtp.layers.0.fc", true),
            ("mtp*", "model.mtp", false),
            ("*.gate", "model.layers.0.mlp.gate", true),
            ("*.gate", "model.layers.0.mlp.gate_proj", false),
            ("model.layers.?.mlp*", "model.layers.7.mlp.gate", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("*", "", true),
        ];
        for (glob, name, fits) in cases {
            assert_eq!(glob_fits(glob.as_bytes(), name.as_bytes()), fits, "{glob} {name}");
        }
    }

    #[test]
    fn regular_expressions_match_from_the_start_and_may_look_ahead() {
        let mut names = Names::default();
        names.regex(r"^(?!.*visual).*shared_expert_gate$", ()).unwrap();
        assert!(names.get("model.layers.3.mlp.shared_expert_gate").is_some());
        assert!(names.get("model.visual.shared_expert_gate").is_none());
        let mut names = Names::default();
        names.regex("mlp", ()).unwrap();
        assert!(names.get("model.mlp").is_none());
    }

    #[test]
    fn the_infix_of_multimodal_names_does_not_matter() {
        let mut names = Names::with_parents();
        names.name("model.language_model.layers.0.mlp.experts", 1);
        assert_eq!(names.get("model.layers.0.mlp.experts.7.gate_proj"), Some(&1));
        assert_eq!(names.get("model.layers.0.mlp.shared_expert.gate_proj"), None);
        let mut names = Names::default();
        names.regex("model[.]layers[.]0", 2).unwrap();
        assert_eq!(names.get("model.language_model.layers.0.x"), Some(&2));
    }

    #[test]
    fn a_hostile_expression_is_refused_or_gives_up() {
        let mut names = Names::default();
        assert!(names.regex(&"a".repeat(MAX_PATTERN + 1), ()).is_err());
        assert!(names.regex("(((a{1000}){1000}){1000})", ()).is_err());
        assert!(names.regex("(", ()).is_err());
        names.regex(r"(?:(a|a)*)*(?=b)\1$", ()).unwrap();
        assert!(names.get(&"a".repeat(200)).is_none());
    }
}
