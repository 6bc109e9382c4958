//! How long the header of a GGUF file is, from its first bytes: enough to fetch it by ranges. What it says is read by
//! `hearth-checkpoint`, from the file that `outline` makes of it. Format: version 2 and 3 of
//! <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

/// Arrays may hold arrays; nobody nests them deeper.
const DEEPEST: u32 = 4;

/// The first byte after the last tensor's entry; null if more bytes are needed to know it.
///
/// # Errors
/// Why it is no GGUF file.
pub(crate) fn header_end(bytes: &[u8]) -> Result<Option<u64>, String> {
    if !b"GGUF".starts_with(&bytes[..bytes.len().min(4)]) {
        return Err("it does not begin with GGUF".into());
    }
    let mut walk = Walk { bytes, at: 4 };
    match walk.u32() {
        Some(2 | 3) | None => {}
        Some(version) => return Err(format!("it is GGUF of version {version}")),
    }
    let mut wrong = None;
    let end = walk.header(&mut wrong);
    match wrong {
        Some(kind) => Err(format!("its metadata has a value of the unknown type {kind}")),
        None => Ok(end.map(|()| walk.at as u64)),
    }
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Walk<'_> {
    /// Null at the end of the bytes; `wrong` is a type of value that does not exist.
    fn header(&mut self, wrong: &mut Option<u32>) -> Option<()> {
        let (tensors, pairs) = (self.u64()?, self.u64()?);
        for _ in 0..pairs {
            self.text()?;
            let kind = self.u32()?;
            self.value(kind, DEEPEST, wrong)?;
        }
        for _ in 0..tensors {
            self.text()?;
            let dimensions = u64::from(self.u32()?);
            self.skip(dimensions.checked_mul(8)?)?;
            // Its type and its place.
            self.skip(4 + 8)?;
        }
        Some(())
    }

    fn value(&mut self, kind: u32, deeper: u32, wrong: &mut Option<u32>) -> Option<()> {
        match (kind, size(kind)) {
            (_, Some(size)) => self.skip(size),
            (8, _) => self.text(),
            (9, _) if deeper > 0 => {
                let (inner, count) = (self.u32()?, self.u64()?);
                match size(inner) {
                    Some(size) => self.skip(count.checked_mul(size)?),
                    None => (0..count).try_for_each(|_| self.value(inner, deeper - 1, wrong)),
                }
            }
            _ => {
                *wrong = Some(kind);
                None
            }
        }
    }

    fn text(&mut self) -> Option<()> {
        let length = self.u64()?;
        self.skip(length)
    }

    fn u32(&mut self) -> Option<u32> {
        let bytes = self.bytes.get(self.at..)?.first_chunk()?;
        self.at += 4;
        Some(u32::from_le_bytes(*bytes))
    }

    fn u64(&mut self) -> Option<u64> {
        let bytes = self.bytes.get(self.at..)?.first_chunk()?;
        self.at += 8;
        Some(u64::from_le_bytes(*bytes))
    }

    fn skip(&mut self, bytes: u64) -> Option<()> {
        let end = usize::try_from(bytes).ok().and_then(|bytes| self.at.checked_add(bytes))?;
        (end <= self.bytes.len()).then(|| self.at = end)
    }
}

/// Bytes of a number or truth value.
fn size(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
    }

    /// A header with a number, a text, an array of texts and one tensor of two dimensions.
    fn header() -> Vec<u8> {
        let number = |kind: u32| kind.to_le_bytes().to_vec();
        let long = |number: u64| number.to_le_bytes().to_vec();
        [
            b"GGUF".to_vec(),
            number(3),
            long(1),
            long(3),
            [text("a.number"), number(4), number(7)].concat(),
            [text("a.text"), number(8), text("words")].concat(),
            [text("tokens"), number(9), number(8), long(2), text("x"), text("yz")].concat(),
            [text("w"), number(2), long(4), long(8), number(0), long(0)].concat(),
        ]
        .concat()
    }

    #[test]
    fn the_end_is_known_once_all_of_it_is_there_and_not_before() {
        let header = header();
        let whole = [&header[..], &[9; 100]].concat();
        assert_eq!(header_end(&whole), Ok(Some(header.len() as u64)));
        for length in 0..header.len() {
            assert_eq!(header_end(&header[..length]), Ok(None), "{length} bytes");
        }
    }

    #[test]
    fn what_is_no_gguf_is_refused_and_a_count_beyond_the_bytes_asks_for_more() {
        assert!(header_end(b"PK\x03\x04").is_err());
        assert!(header_end(b"GGUF\x01\0\0\0").unwrap_err().contains("version 1"));
        let mut strange = header();
        let kind = 4 + 4 + 16 + text("a.number").len();
        strange[kind] = 99;
        assert!(header_end(&strange).unwrap_err().contains("99"));
        let endless = [b"GGUF\x03\0\0\0".to_vec(), vec![255; 16], vec![255; 64]].concat();
        assert_eq!(header_end(&endless), Ok(None));
    }
}
