//! The header of one safetensors file: 8 bytes of length, then JSON that gives each tensor a dtype, a shape and a
//! byte range. Called by `outline` for every shard; reads no tensor data.
//! Format: <https://huggingface.co/docs/safetensors>; checked as strictly as its reference implementation does.

use std::collections::{BTreeMap, HashSet};
use std::io::Read;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};

use crate::{CheckpointError, Dtype, Result};

/// Longest header that is read, bytes: the limit of the reference implementation.
pub const MAX_HEADER: u64 = 100_000_000;

/// Bytes of the length field before the header.
const PREFIX: u64 = 8;

/// Where one tensor lies in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// First byte, counted from the start of the file.
    pub start: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// Reads the header of a safetensors file of `length` bytes from its start. `file` names it in errors.
///
/// Everything an entry claims is checked against the file's length, so whoever holds the entries may slice without
/// further checks as long as the file stays as long as it was.
pub fn read(file: &str, mut from: impl Read, length: u64) -> Result<Vec<(String, Entry)>> {
    let header = |expected: String, found: String| CheckpointError::InvalidHeader {
        file: file.into(),
        expected,
        found,
    };
    if length < PREFIX {
        return Err(header("a safetensors header".into(), format!("a file of {length} bytes")));
    }
    let unreadable = |source| CheckpointError::Unreadable { file: file.into(), source };
    let mut prefix = [0; PREFIX as usize];
    from.read_exact(&mut prefix).map_err(unreadable)?;
    let size = u64::from_le_bytes(prefix);
    if size > MAX_HEADER {
        return Err(header(
            format!("a header of at most {MAX_HEADER} bytes"),
            format!("one of {size} bytes"),
        ));
    }
    if size > length - PREFIX {
        return Err(header(
            format!("a header of {size} bytes"),
            format!("a file of {length} bytes, which is too short for it"),
        ));
    }
    let mut text = Vec::new();
    from.take(size).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 != size {
        return Err(header(format!("a header of {size} bytes"), format!("{} bytes", text.len())));
    }
    if text.first() != Some(&b'{') {
        return Err(header("a header that starts with '{'".into(), format!("{:?}", text.first())));
    }
    let entries = parse(file, &text)?;
    place(file, entries, PREFIX + size, length)
}

#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// Collects entries in order and remembers which one was being read, so that an error can name it.
struct HeaderSeed<'a> {
    reading: &'a mut String,
}

impl<'de> DeserializeSeed<'de> for HeaderSeed<'_> {
    type Value = Vec<(String, RawEntry)>;

    fn deserialize<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> std::result::Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed<'_> {
    type Value = Vec<(String, RawEntry)>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            self.reading.clone_from(&name);
            if name == "__metadata__" {
                map.next_value::<BTreeMap<String, String>>()?;
            } else {
                entries.push((name, map.next_value()?));
            }
        }
        Ok(entries)
    }
}

fn parse(file: &str, text: &[u8]) -> Result<Vec<(String, RawEntry)>> {
    let mut reading = String::new();
    let mut json = serde_json::Deserializer::from_slice(text);
    let parsed = HeaderSeed { reading: &mut reading }.deserialize(&mut json);
    let entries = match parsed.and_then(|entries| json.end().map(|()| entries)) {
        Ok(entries) => entries,
        Err(error) if reading.is_empty() => {
            return Err(CheckpointError::InvalidHeader {
                file: file.into(),
                expected: "a JSON object of tensors".into(),
                found: error.to_string(),
            });
        }
        Err(error) => {
            return Err(CheckpointError::InvalidEntry {
                file: file.into(),
                tensor: reading,
                expected: "dtype, shape and data_offsets".into(),
                found: error.to_string(),
            });
        }
    };
    let mut seen = HashSet::new();
    if let Some((name, _)) = entries.iter().find(|(name, _)| !seen.insert(name)) {
        return Err(CheckpointError::DoubledTensor {
            file: file.into(),
            tensor: name.clone(),
            found: "in the same header".into(),
        });
    }
    Ok(entries)
}

/// Checks that sizes follow from shapes and that the ranges tile the rest of the file without gap or overlap.
fn place(file: &str, raw: Vec<(String, RawEntry)>, data: u64, length: u64) -> Result<Vec<(String, Entry)>> {
    let mut entries = Vec::with_capacity(raw.len());
    for (name, raw) in raw {
        let invalid = |expected: String, found: String| CheckpointError::InvalidEntry {
            file: file.into(),
            tensor: name.clone(),
            expected,
            found,
        };
        let Some(dtype) = Dtype::parse(&raw.dtype) else {
            return Err(CheckpointError::UnknownDtype { file: file.into(), tensor: name, found: raw.dtype });
        };
        let [begin, end] = raw.data_offsets;
        let shape: Option<Vec<usize>> = raw.shape.iter().map(|&d| usize::try_from(d).ok()).collect();
        let bits = raw.shape.iter().try_fold(dtype.bits(), |bits, &d| bits.checked_mul(d));
        let (Some(shape), Some(bits)) = (shape, bits) else {
            return Err(invalid("a shape that fits in memory".into(), format!("{:?}", raw.shape)));
        };
        if end.checked_sub(begin).is_none_or(|bytes| bytes.checked_mul(8) != Some(bits)) {
            return Err(invalid(
                format!("{} bytes for {:?} of {dtype}", bits.div_ceil(8), raw.shape),
                format!("bytes {begin} to {end}"),
            ));
        }
        entries.push((name, Entry { dtype, shape, start: begin, bytes: end - begin }));
    }
    entries.sort_by(|(a, x), (b, y)| (x.start, x.bytes, a).cmp(&(y.start, y.bytes, b)));
    let mut next = 0;
    for (name, entry) in &mut entries {
        if entry.start != next {
            let what =
                if entry.start < next { "overlaps the tensor before it" } else { "leaves a gap before it" };
            return Err(CheckpointError::InvalidEntry {
                file: file.into(),
                tensor: name.clone(),
                expected: format!("data from byte {next}"),
                found: format!("data from byte {}, which {what}", entry.start),
            });
        }
        // Cannot overflow: begin <= end was checked and both are u64.
        next = entry.start + entry.bytes;
        let needed = next.saturating_add(data);
        if needed > length {
            return Err(CheckpointError::Truncated {
                file: file.into(),
                tensor: name.clone(),
                expected: needed,
                found: length,
            });
        }
        entry.start += data;
    }
    if data + next != length {
        return Err(CheckpointError::InvalidHeader {
            file: file.into(),
            expected: format!("a file of {} bytes, which its tensors fill", data + next),
            found: format!("{length} bytes"),
        });
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    fn parsed(header: &str, data: usize) -> Result<Vec<(String, Entry)>> {
        let bytes = file(header, data);
        read("f", bytes.as_slice(), bytes.len() as u64)
    }

    const TWO: &str = r#"{"b":{"dtype":"F32","shape":[2],"data_offsets":[2,10]},"__metadata__":{"format":"pt"},
        "a":{"dtype":"BF16","shape":[],"data_offsets":[0,2]}}  "#;

    #[test]
    fn entries_come_in_file_order_with_absolute_offsets() {
        let entries = parsed(TWO, 10).unwrap();
        let start = 8 + TWO.len() as u64;
        assert_eq!(entries[0], ("a".into(), Entry { dtype: Dtype::Bf16, shape: vec![], start, bytes: 2 }));
        assert_eq!(
            entries[1],
            ("b".into(), Entry { dtype: Dtype::F32, shape: vec![2], start: start + 2, bytes: 8 })
        );
    }

    #[test]
    fn a_cut_file_names_the_tensor_that_lacks_bytes() {
        let error = parsed(TWO, 9).unwrap_err();
        assert_eq!((error.code(), error.tensor()), ("safetensors_cut_short", Some("b")));
    }

    #[test]
    fn every_contradiction_has_its_own_code() {
        let cases = [
            (r#"{"a":{"dtype":"BF17","shape":[1],"data_offsets":[0,2]}}"#, 2, "safetensors_unknown_dtype"),
            (r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,2]}}"#, 2, "safetensors_invalid_entry"),
            (r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#, 4, "safetensors_invalid_entry"),
            (r#"{"a":{"dtype":"F4","shape":[1],"data_offsets":[0,1]}}"#, 1, "safetensors_invalid_entry"),
            (r#"{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}"#, 1, "safetensors_invalid_entry"),
            (r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#, 2, "safetensors_invalid_entry"),
            (
                r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#,
                3,
                "safetensors_invalid_entry",
            ),
            (
                r#"{"a":{"dtype":"U8","shape":[18446744073709551615,18446744073709551615],"data_offsets":[0,1]}}"#,
                1,
                "safetensors_invalid_entry",
            ),
            (
                r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#,
                2,
                "tensor_doubled",
            ),
            (r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#, 2, "safetensors_invalid_header"),
            (r#"{"a":1}"#, 0, "safetensors_invalid_entry"),
            (r#"["a"]"#, 0, "safetensors_invalid_header"),
            ("{", 0, "safetensors_invalid_header"),
            ("", 0, "safetensors_invalid_header"),
        ];
        for (header, data, code) in cases {
            assert_eq!(parsed(header, data).unwrap_err().code(), code, "{header}");
        }
    }

    #[test]
    fn a_length_field_beyond_the_file_or_the_limit_is_refused_before_anything_is_allocated() {
        for size in [u64::MAX, MAX_HEADER + 1, MAX_HEADER, 9] {
            let mut bytes = size.to_le_bytes().to_vec();
            bytes.push(b'{');
            let error = read("f", bytes.as_slice(), bytes.len() as u64).unwrap_err();
            assert_eq!(error.code(), "safetensors_invalid_header", "{size}");
        }
        assert_eq!(read("f", &[0u8; 7][..], 7).unwrap_err().code(), "safetensors_invalid_header");
    }
}
