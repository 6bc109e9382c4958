//! A sentence of the doctor as data: the English words, and the code, names and numbers from which the window makes the same
//! sentence in another language. Every sentence is written once, with `say!`, in the check that says it.

use std::{collections::BTreeMap, fmt, ops::Deref};

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use ts_rs::TS;

/// One sentence, or one line of what was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct Said {
    /// Stable, snake_case; `quoted` for another program's own words.
    pub code: String,
    /// In English.
    pub text: String,
    /// The names and numbers in it.
    #[ts(type = "Record<string, unknown>")]
    pub values: BTreeMap<String, Value>,
}

impl Said {
    pub(super) fn new(code: &str, text: String) -> Said {
        Said { code: code.into(), text, values: BTreeMap::new() }
    }

    /// Words of another program, which no language changes.
    pub fn quoted(text: impl Into<String>) -> Said {
        Said::new("quoted", text.into())
    }

    /// The same sentence with a name or number that another language needs.
    pub(super) fn with(mut self, name: &str, value: impl Serialize) -> Said {
        self.values.insert(name.to_owned(), serde_json::to_value(value).unwrap_or_default());
        self
    }
}

impl Deref for Said {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// `say!(code, "Driver {version} answers for {name}.", version = ..., name = ...)`.
macro_rules! say {
    ($code:ident, $text:literal $(, $name:ident = $value:expr)* $(,)?) => {
        $crate::doctor::said::Said::new(stringify!($code), format!($text $(, $name = $value)*))
            $(.with(stringify!($name), &$value))*
    };
}
pub(super) use say;

/// Bytes: `1.5 GiB` in words, the number itself as a value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gib(pub u64);

impl fmt::Display for Gib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} GiB", self.0 as f64 / (1u64 << 30) as f64)
    }
}

impl Serialize for Gib {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_carries_what_it_is_made_of() {
        let said = say!(
            sample,
            "{name}: {free} free, {share:.0} %.",
            name = "disk",
            free = Gib(3 << 29),
            share = 12.4
        );
        assert_eq!(said.text, "disk: 1.5 GiB free, 12 %.");
        let values = serde_json::to_value(&said.values).unwrap();
        assert_eq!(values, serde_json::json!({ "name": "disk", "free": 3u64 << 29, "share": 12.4 }));
    }
}
