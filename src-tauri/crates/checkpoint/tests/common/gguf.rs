//! Writes GGUF files, version 3, for tests of this crate and of those that build on it.
#![allow(dead_code, reason = "each test file uses its own part")]

/// A value of the metadata.
#[derive(Debug, Clone)]
pub enum Meta {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    Bools(Vec<bool>),
}

/// A GGUF file in the making.
#[derive(Debug, Clone, Default)]
pub struct Writer {
    pub pairs: Vec<(String, Meta)>,
    /// Name, number of the type, shape outermost first, bytes.
    pub tensors: Vec<(String, u32, Vec<usize>, Vec<u8>)>,
}

impl Writer {
    pub fn put(&mut self, key: &str, value: Meta) {
        self.pairs.push((key.into(), value));
    }

    pub fn tensor(&mut self, name: &str, kind: u32, shape: &[usize], bytes: Vec<u8>) {
        self.tensors.push((name.into(), kind, shape.into(), bytes));
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.pairs.len() as u64).to_le_bytes());
        for (key, value) in &self.pairs {
            text(&mut out, key);
            meta(&mut out, value);
        }
        let mut start = 0u64;
        for (name, kind, shape, bytes) in &self.tensors {
            text(&mut out, name);
            out.extend((shape.len() as u32).to_le_bytes());
            shape.iter().rev().for_each(|side| out.extend((*side as u64).to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(start.to_le_bytes());
            start = (start + bytes.len() as u64).next_multiple_of(32);
        }
        for (.., bytes) in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(bytes);
        }
        out
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn meta(out: &mut Vec<u8>, value: &Meta) {
    let mut kind = |number: u32| out.extend(number.to_le_bytes());
    match value {
        Meta::U32(n) => {
            kind(4);
            out.extend(n.to_le_bytes());
        }
        Meta::F32(n) => {
            kind(6);
            out.extend(n.to_le_bytes());
        }
        Meta::Bool(yes) => {
            kind(7);
            out.push(u8::from(*yes));
        }
        Meta::Text(string) => {
            kind(8);
            text(out, string);
        }
        Meta::Texts(strings) => {
            list(out, 8, strings.len());
            strings.iter().for_each(|string| text(out, string));
        }
        Meta::I32s(numbers) => {
            list(out, 5, numbers.len());
            numbers.iter().for_each(|n| out.extend(n.to_le_bytes()));
        }
        Meta::Bools(flags) => {
            list(out, 7, flags.len());
            out.extend(flags.iter().map(|yes| u8::from(*yes)));
        }
    }
}

fn list(out: &mut Vec<u8>, kind: u32, count: usize) {
    out.extend(9u32.to_le_bytes());
    out.extend(kind.to_le_bytes());
    out.extend((count as u64).to_le_bytes());
}
