//! The header of one GGUF file: metadata as keys and values, then the name, shape, type and place of every tensor. Reads no
//! tensor data. Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3; checked as strictly as
//! llama.cpp does.

use std::collections::HashSet;

use serde_json::{Map, Number, Value};

use super::cursor::Cursor;
use super::types::GgufType;
use crate::{CheckpointError, Result};

/// Where tensor data may begin, and each tensor, unless `general.alignment` says otherwise: multiples of this.
const ALIGNMENT: u64 = 32;
/// Longest name of a key or tensor, bytes: the limit that the format sets for keys.
const MAX_NAME: usize = 65_535;
/// Bytes of the smallest key with its value, and of the smallest tensor's entry: they bound the counts.
const SMALLEST_PAIR: usize = 8 + 4 + 1;
const SMALLEST_ENTRY: usize = 8 + 4 + 4 + 8;

/// What a header says.
#[derive(Debug)]
pub struct Header {
    /// Keys and values. Numbers that JSON cannot write (NaN, infinities) are null.
    pub metadata: Map<String, Value>,
    /// Tensors in the order of their data.
    pub tensors: Vec<(String, GgufEntry)>,
}

/// Where one tensor lies in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufEntry {
    /// Element type.
    pub kind: GgufType,
    /// Dimensions, outermost first: the reverse of the order in the file.
    pub shape: Vec<usize>,
    /// First byte, counted from the start of the file.
    pub start: u64,
    /// Length in bytes.
    pub bytes: u64,
}

impl GgufEntry {
    /// Elements of a row: the innermost dimension.
    pub fn row(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }
}

/// Reads the header of a GGUF file of `length` bytes from its beginning `bytes`, which may end after the header. `file` names it
/// in errors.
///
/// Everything an entry claims is checked against the file's length, so whoever holds the entries may slice without further
/// checks as long as the file stays as long as it was.
pub fn read(file: &str, bytes: &[u8], length: u64) -> Result<Header> {
    let invalid = |expected: &str, found: String| CheckpointError::InvalidGguf {
        file: file.into(),
        expected: expected.into(),
        found,
    };
    let mut from = Cursor::new(bytes);
    let magic: [u8; 4] = from.array().map_err(|found| invalid("a GGUF file", found))?;
    if magic != *b"GGUF" {
        let start = String::from_utf8_lossy(&magic).escape_debug().to_string();
        return Err(invalid("a GGUF file, which begins with GGUF", format!("{start:?}")));
    }
    let header = |found: String| invalid("a whole GGUF header", found);
    match from.u32().map_err(header)? {
        2 | 3 => {}
        version if version & 0xffff == 0 => {
            return Err(invalid("a little-endian GGUF file", "a big-endian one".into()));
        }
        version => return Err(invalid("GGUF version 2 or 3", format!("version {version}"))),
    }
    let tensors = from.u64().map_err(header)?;
    let pairs = from.count("keys", SMALLEST_PAIR).map_err(header)?;
    let mut metadata = Map::new();
    for _ in 0..pairs {
        let key = name(&mut from).map_err(|found| invalid("a key of the metadata", found))?;
        let value = value(&mut from).map_err(|found| invalid(&format!("the value of {key}"), found))?;
        if metadata.insert(key.to_owned(), value).is_some() {
            return Err(invalid("each key once", format!("{key} twice")));
        }
    }
    let alignment = match metadata.get("general.alignment") {
        None => ALIGNMENT,
        Some(value) => match value.as_u64() {
            Some(n) if n.is_power_of_two() && n <= 1 << 20 => n,
            _ => return Err(invalid("a power of two as general.alignment", value.to_string())),
        },
    };
    if tensors > (from.left() / SMALLEST_ENTRY) as u64 {
        return Err(header(format!("{tensors} tensors in the {} bytes left", from.left())));
    }
    let mut raw = Vec::with_capacity(usize::try_from(tensors).unwrap_or(0));
    for _ in 0..tensors {
        raw.push(entry(file, &mut from)?);
    }
    let mut seen = HashSet::with_capacity(raw.len());
    if let Some((tensor, _)) = raw.iter().find(|(tensor, _)| !seen.insert(tensor)) {
        let (tensor, found) = (tensor.clone(), "in the same header".into());
        return Err(CheckpointError::DoubledTensor { file: file.into(), tensor, found });
    }
    let data = (from.at() as u64).next_multiple_of(alignment);
    Ok(Header { metadata, tensors: place(file, raw, data, alignment, length)? })
}

fn name<'a>(from: &mut Cursor<'a>) -> std::result::Result<&'a str, String> {
    let name = from.text()?;
    if name.len() > MAX_NAME { Err(format!("a name of {} bytes", name.len())) } else { Ok(name) }
}

fn value(from: &mut Cursor<'_>) -> std::result::Result<Value, String> {
    const ARRAY: u32 = 9;
    let kind = from.u32()?;
    if kind != ARRAY {
        return scalar(kind, from);
    }
    let kind = from.u32()?;
    // A list of lists is in the format and in no file.
    let smallest = smallest(kind).ok_or_else(|| format!("a list of values of type {kind}"))?;
    let count = from.count("values", smallest)?;
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        values.push(scalar(kind, from)?);
    }
    Ok(Value::Array(values))
}

/// Bytes of the smallest value of a type; None for types that have none.
fn smallest(kind: u32) -> Option<usize> {
    Some(match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        8 | 10..=12 => 8,
        _ => return None,
    })
}

fn scalar(kind: u32, from: &mut Cursor<'_>) -> std::result::Result<Value, String> {
    let float = |x: f64| Number::from_f64(x).map_or(Value::Null, Value::Number);
    Ok(match kind {
        0 => from.array::<1>()?[0].into(),
        1 => i8::from_le_bytes(from.array()?).into(),
        2 => u16::from_le_bytes(from.array()?).into(),
        3 => i16::from_le_bytes(from.array()?).into(),
        4 => from.u32()?.into(),
        5 => i32::from_le_bytes(from.array()?).into(),
        6 => float(f32::from_le_bytes(from.array()?).into()),
        7 => match from.array::<1>()? {
            [0] => false.into(),
            [1] => true.into(),
            [other] => return Err(format!("{other} as true or false")),
        },
        8 => from.text()?.into(),
        10 => from.u64()?.into(),
        11 => i64::from_le_bytes(from.array()?).into(),
        12 => float(f64::from_le_bytes(from.array()?)),
        other => return Err(format!("a value of type {other}")),
    })
}

/// A tensor's entry; `start` counts from the beginning of the data.
fn entry(file: &str, from: &mut Cursor<'_>) -> Result<(String, GgufEntry)> {
    let header = |found: String| CheckpointError::InvalidGguf {
        file: file.into(),
        expected: "the entry of a tensor".into(),
        found,
    };
    let tensor = name(from).map_err(header)?.to_owned();
    let invalid = |expected: String, found: String| CheckpointError::InvalidEntry {
        file: file.into(),
        tensor: tensor.clone(),
        expected,
        found,
    };
    let count = from.u32().map_err(header)?;
    if count > 4 {
        return Err(invalid("at most 4 dimensions".into(), count.to_string()));
    }
    let mut shape = Vec::with_capacity(count as usize);
    for _ in 0..count {
        shape.push(from.u64().map_err(header)?);
    }
    shape.reverse();
    let number = from.u32().map_err(header)?;
    let start = from.u64().map_err(header)?;
    let Some(kind) = GgufType::of(number) else {
        return Err(CheckpointError::UnknownGgufType {
            file: file.into(),
            tensor,
            found: format!("type {number}"),
        });
    };
    let row = shape.last().copied().unwrap_or(1);
    if !row.is_multiple_of(kind.elements() as u64) {
        let expected = format!("rows of whole blocks of {} {kind}", kind.elements());
        return Err(invalid(expected, format!("rows of {row}")));
    }
    let blocks = shape.iter().try_fold(1u64, |product, &side| product.checked_mul(side));
    let bytes = blocks.and_then(|n| (n / kind.elements() as u64).checked_mul(kind.bytes() as u64));
    let sides: Option<Vec<usize>> = shape.iter().map(|&side| usize::try_from(side).ok()).collect();
    let (Some(bytes), Some(sides)) = (bytes.filter(|n| *n > 0), sides) else {
        return Err(invalid("a shape that fits in memory and is not empty".into(), format!("{shape:?}")));
    };
    Ok((tensor, GgufEntry { kind, shape: sides, start, bytes }))
}

/// Checks that the tensors follow one another, each at the next multiple of the alignment, and end within the file.
fn place(
    file: &str,
    mut raw: Vec<(String, GgufEntry)>,
    data: u64,
    alignment: u64,
    length: u64,
) -> Result<Vec<(String, GgufEntry)>> {
    raw.sort_by_key(|(_, entry)| entry.start);
    let mut next = 0u64;
    for (tensor, entry) in &mut raw {
        if entry.start != next {
            return Err(CheckpointError::InvalidEntry {
                file: file.into(),
                tensor: tensor.clone(),
                expected: format!("data from byte {next}"),
                found: format!("data from byte {}", entry.start),
            });
        }
        let end = entry.start.saturating_add(entry.bytes);
        let needed = end.saturating_add(data);
        if needed > length {
            return Err(CheckpointError::Truncated {
                file: file.into(),
                tensor: tensor.clone(),
                expected: needed,
                found: length,
            });
        }
        // No overflow: the end lies within the file.
        next = end.next_multiple_of(alignment);
        entry.start += data;
    }
    Ok(raw)
}
