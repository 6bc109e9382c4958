//! Reads fields of `config.json` and refuses every number that no model can have, so that nothing after it can
//! overflow, divide by zero or allocate without bound. Used by the family adapters only.

use crate::ModelError;
use serde_json::Value;
use std::ops::RangeInclusive;

/// One JSON object and its path inside `config.json`.
pub(crate) struct Fields<'a> {
    object: &'a Value,
    path: &'static str,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(object: &'a Value, path: &'static str) -> Self {
        Fields { object, path }
    }

    pub(crate) fn object(&self) -> &'a Value {
        self.object
    }

    pub(crate) fn path(&self) -> &'static str {
        self.path
    }

    /// The raw value; JSON null counts as absent.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|v| !v.is_null())
    }

    /// An error about one field, with the value as it stands in the file (cut to a readable length).
    pub(crate) fn refuse(&self, key: &str, expected: impl Into<String>) -> ModelError {
        let found = match self.get(key) {
            None => "nothing".to_owned(),
            Some(v) => v.to_string().chars().take(60).collect(),
        };
        ModelError::Config { field: format!("{}{key}", self.path), expected: expected.into(), found }
    }

    /// A whole number within `range`.
    pub(crate) fn number(&self, key: &str, range: RangeInclusive<usize>) -> Result<usize, ModelError> {
        let value = self.get(key).and_then(Value::as_u64).and_then(|v| usize::try_from(v).ok());
        value.filter(|v| range.contains(v)).ok_or_else(|| {
            self.refuse(key, format!("a whole number from {} to {}", range.start(), range.end()))
        })
    }

    /// Like `number`, with a default for an absent field.
    pub(crate) fn number_or(
        &self,
        key: &str,
        range: RangeInclusive<usize>,
        default: usize,
    ) -> Result<usize, ModelError> {
        if self.get(key).is_none() { Ok(default) } else { self.number(key, range) }
    }

    /// A finite number within `range`.
    pub(crate) fn real(&self, key: &str, range: RangeInclusive<f64>) -> Result<f64, ModelError> {
        let value = self.get(key).and_then(Value::as_f64);
        value
            .filter(|v| range.contains(v))
            .ok_or_else(|| self.refuse(key, format!("a number from {} to {}", range.start(), range.end())))
    }

    /// True or false, with a default for an absent field.
    pub(crate) fn flag_or(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        match self.get(key) {
            None => Ok(default),
            Some(v) => v.as_bool().ok_or_else(|| self.refuse(key, "true or false")),
        }
    }

    /// Refuses any value of `key` but `only`; absent is fine.
    pub(crate) fn only(&self, key: &str, only: &Value) -> Result<(), ModelError> {
        match self.get(key) {
            Some(v) if v != only => Err(ModelError::Unsupported {
                feature: format!("{}{key} other than {only}", self.path),
                found: v.to_string().chars().take(60).collect(),
            }),
            _ => Ok(()),
        }
    }
}
