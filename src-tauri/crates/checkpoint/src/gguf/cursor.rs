//! Little-endian numbers and strings out of the bytes of a GGUF header, each length checked before it is believed. Used by
//! `header` only.

/// Bytes that are read from the front. An error is a phrase for "found".
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

type Read<T> = std::result::Result<T, String>;

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Cursor { bytes, at: 0 }
    }

    /// Bytes read so far.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Bytes that are left.
    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        if count > self.left() {
            return Err(format!("{} bytes left where {count} are needed", self.left()));
        }
        let bytes = &self.bytes[self.at..][..count];
        self.at += count;
        Ok(bytes)
    }

    pub fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let bytes = self.take(N)?;
        Ok(std::array::from_fn(|i| bytes[i]))
    }

    pub fn u32(&mut self) -> Read<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Read<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count of things that take at least `each` bytes: no more than are left.
    pub fn count(&mut self, what: &str, each: usize) -> Read<usize> {
        let count = self.u64()?;
        match usize::try_from(count) {
            Ok(count) if count <= self.left() / each.max(1) => Ok(count),
            _ => Err(format!("{count} {what} in the {} bytes left", self.left())),
        }
    }

    /// A string: its length, then UTF-8.
    pub fn text(&mut self) -> Read<&'a str> {
        let length = self.count("bytes of text", 1)?;
        std::str::from_utf8(self.take(length)?).map_err(|_| "text that is not UTF-8".to_owned())
    }
}
