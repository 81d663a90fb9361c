//! Deterministic CBOR (RFC 8949, section 4.2.1), strict in both directions.
//!
//! Only what the format needs: unsigned and negative integers, byte strings, arrays, maps with
//! unsigned integer keys, booleans. Definite lengths, shortest heads, map keys strictly rising;
//! no floats, tags, text, null or indefinite lengths. The reader refuses everything else, because two
//! encodings of one folder would be two trees. (The CBOR crates tried accept non-shortest heads and
//! unsorted maps on decode.)
//!
//! The reader borrows from its input and allocates nothing: lengths are checked against the bytes
//! that are left before anybody uses them.

use crate::fault::{Error, Result};

/// Deepest nesting that [`Reader::skip`] walks into.
pub const DEPTH_MAX: usize = 16;

const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const SIMPLE: u8 = 7;

/// Appends items to a byte vector.
#[derive(Default)]
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }
    /// One that appends to `out`.
    pub fn onto(out: Vec<u8>) -> Self {
        Self { out }
    }
    /// What was written.
    pub fn finish(self) -> Vec<u8> {
        self.out
    }
    fn head(&mut self, major: u8, value: u64) -> &mut Self {
        let major = major << 5;
        match value {
            0..=23 => self.out.push(major | value as u8),
            24..=0xff => self.out.extend_from_slice(&[major | 24, value as u8]),
            0x100..=0xffff => {
                self.out.push(major | 25);
                self.out.extend_from_slice(&(value as u16).to_be_bytes());
            }
            0x1_0000..=0xffff_ffff => {
                self.out.push(major | 26);
                self.out.extend_from_slice(&(value as u32).to_be_bytes());
            }
            _ => {
                self.out.push(major | 27);
                self.out.extend_from_slice(&value.to_be_bytes());
            }
        }
        self
    }
    /// An unsigned integer.
    pub fn unsigned(&mut self, value: u64) -> &mut Self {
        self.head(UNSIGNED, value)
    }
    /// An integer of either sign.
    pub fn integer(&mut self, value: i64) -> &mut Self {
        match u64::try_from(value) {
            Ok(v) => self.head(UNSIGNED, v),
            Err(_) => self.head(NEGATIVE, !value as u64),
        }
    }
    /// A byte string.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.head(BYTES, value.len() as u64);
        self.out.extend_from_slice(value);
        self
    }
    /// The head of an array of `len` items, which the caller writes next.
    pub fn array(&mut self, len: usize) -> &mut Self {
        self.head(ARRAY, len as u64)
    }
    /// The head of a map of `len` pairs; the caller writes keys in rising order.
    pub fn map(&mut self, len: usize) -> &mut Self {
        self.head(MAP, len as u64)
    }
    /// A boolean.
    pub fn boolean(&mut self, value: bool) -> &mut Self {
        self.out.push(SIMPLE << 5 | if value { 21 } else { 20 });
        self
    }
    /// Items that are encoded already.
    pub fn raw(&mut self, encoded: &[u8]) -> &mut Self {
        self.out.extend_from_slice(encoded);
        self
    }
}

/// A map under construction: fields in rising order, counted as they come.
pub struct MapWriter {
    fields: u64,
    last: Option<u64>,
    body: Writer,
}

impl Default for MapWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl MapWriter {
    /// An empty map.
    pub fn new() -> Self {
        Self { fields: 0, last: None, body: Writer::new() }
    }
    /// Starts field `key`; the caller writes exactly one item to what it gets.
    pub fn field(&mut self, key: u64) -> &mut Writer {
        debug_assert!(self.last.is_none_or(|l| l < key), "map keys must rise");
        self.last = Some(key);
        self.fields += 1;
        self.body.unsigned(key)
    }
    /// Writes the fields that this program does not know, all above those it knows.
    pub fn unknown(&mut self, unknown: &Unknown) {
        for (key, item) in &unknown.0 {
            self.field(*key).raw(item);
        }
    }
    /// The encoded map.
    pub fn finish(self) -> Vec<u8> {
        let mut w = Writer::new();
        w.head(MAP, self.fields);
        w.raw(&self.body.out);
        w.finish()
    }
    /// Appends the encoded map to `w`.
    pub fn finish_into(self, w: &mut Writer) {
        w.head(MAP, self.fields);
        w.raw(&self.body.out);
    }
}

/// Fields of a map that this program does not know, kept byte for byte for whoever re-encodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unknown(pub Vec<(u64, Vec<u8>)>);

/// Reads items from a byte slice.
#[derive(Clone)]
pub struct Reader<'a> {
    input: &'a [u8],
}

fn bad(what: &str) -> Error {
    Error::damaged(format!("decoding: {what}"))
}

impl<'a> Reader<'a> {
    /// Reads from `input`.
    pub fn new(input: &'a [u8]) -> Self {
        Self { input }
    }
    /// Bytes not read yet.
    pub fn left(&self) -> usize {
        self.input.len()
    }
    /// Refuses bytes behind the last item.
    pub fn end(&self) -> Result<()> {
        if self.input.is_empty() { Ok(()) } else { Err(bad("bytes behind the end")) }
    }
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        if n > self.input.len() {
            return Err(bad("the input is truncated"));
        }
        let (head, rest) = self.input.split_at(n);
        self.input = rest;
        Ok(head)
    }
    fn head(&mut self) -> Result<(u8, u64)> {
        let first = self.take(1)?[0];
        let (major, info) = (first >> 5, first & 31);
        let value = match info {
            0..=23 => return Ok((major, u64::from(info))),
            24 => {
                let v = u64::from(self.take(1)?[0]);
                // Simple values have their own rules; none of the one-byte ones is in the format.
                if v < 24 || major == SIMPLE {
                    return Err(bad("a head is not the shortest"));
                }
                v
            }
            25..=27 => {
                let n = 1usize << (info - 24);
                let mut v = 0u64;
                for b in self.take(n)? {
                    v = v << 8 | u64::from(*b);
                }
                if v >> (n * 4) == 0 || major == SIMPLE {
                    return Err(bad("a head is not the shortest, or a float"));
                }
                v
            }
            _ => return Err(bad("an indefinite length or reserved head")),
        };
        Ok((major, value))
    }
    fn expect(&mut self, major: u8, what: &str) -> Result<u64> {
        match self.head()? {
            (m, v) if m == major => Ok(v),
            _ => Err(bad(&format!("expected {what}"))),
        }
    }
    /// The kind of the next item is a byte string.
    pub fn is_bytes(&self) -> bool {
        self.input.first().is_some_and(|b| b >> 5 == BYTES)
    }
    /// An unsigned integer.
    pub fn unsigned(&mut self) -> Result<u64> {
        self.expect(UNSIGNED, "an unsigned integer")
    }
    /// An unsigned integer below 2^32.
    pub fn u32(&mut self) -> Result<u32> {
        u32::try_from(self.unsigned()?).map_err(|_| bad("an integer is above 2^32"))
    }
    /// An integer of either sign that fits 64 bits.
    pub fn integer(&mut self) -> Result<i64> {
        let (major, value) = self.head()?;
        let value = i64::try_from(value).map_err(|_| bad("an integer is out of range"))?;
        match major {
            UNSIGNED => Ok(value),
            NEGATIVE => Ok(!value),
            _ => Err(bad("expected an integer")),
        }
    }
    /// A byte string of at most `limit` bytes.
    pub fn bytes(&mut self, limit: usize) -> Result<&'a [u8]> {
        let len = self.expect(BYTES, "a byte string")?;
        match usize::try_from(len) {
            Ok(len) if len <= limit => self.take(len),
            _ => Err(bad("a byte string is over its limit")),
        }
    }
    /// A byte string of exactly `N` bytes.
    pub fn array_of<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.bytes(N)?.try_into().map_err(|_| bad("a byte string has the wrong length"))
    }
    /// The head of an array; each item takes at least one byte, so more than are left are refused.
    pub fn array(&mut self) -> Result<usize> {
        let len = self.expect(ARRAY, "an array")?;
        self.count(len, 1)
    }
    /// An array of exactly `len` items.
    pub fn exactly(&mut self, len: usize) -> Result<()> {
        if self.array()? == len { Ok(()) } else { Err(bad("an array has the wrong length")) }
    }
    fn count(&self, len: u64, item: usize) -> Result<usize> {
        match usize::try_from(len) {
            Ok(len) if len <= self.input.len() / item => Ok(len),
            _ => Err(bad("more items than bytes")),
        }
    }
    /// A boolean.
    pub fn boolean(&mut self) -> Result<bool> {
        match self.take(1)?[0] {
            0xf4 => Ok(false),
            0xf5 => Ok(true),
            _ => Err(bad("expected a boolean")),
        }
    }
    /// The bytes of the next item, checked for determinism all the way down.
    pub fn item(&mut self) -> Result<&'a [u8]> {
        let before = self.input;
        self.skip(DEPTH_MAX)?;
        Ok(&before[..before.len() - self.input.len()])
    }
    fn skip(&mut self, depth: usize) -> Result<()> {
        if depth == 0 {
            return Err(bad("nested too deeply"));
        }
        let (major, value) = self.head()?;
        match major {
            UNSIGNED | NEGATIVE => {}
            BYTES => {
                let len = self.count(value, 1)?;
                self.take(len)?;
            }
            ARRAY => {
                for _ in 0..self.count(value, 1)? {
                    self.skip(depth - 1)?;
                }
            }
            MAP => {
                let mut last = None;
                for _ in 0..self.count(value, 2)? {
                    let key = self.unsigned()?;
                    if last.is_some_and(|l| l >= key) {
                        return Err(bad("map keys do not rise"));
                    }
                    last = Some(key);
                    self.skip(depth - 1)?;
                }
            }
            SIMPLE if value == 20 || value == 21 => {}
            _ => return Err(bad("an item of a kind that the format does not have")),
        }
        Ok(())
    }
    /// Starts a map.
    pub fn map(&mut self) -> Result<Fields> {
        let len = self.expect(MAP, "a map")?;
        Ok(Fields { left: self.count(len, 2)?, last: None })
    }
}

/// The state of a map that is being read: `while let Some(key) = fields.next(&mut reader)?`.
pub struct Fields {
    left: usize,
    last: Option<u64>,
}

impl Fields {
    /// The next key; the caller reads exactly one item before it asks again.
    pub fn next(&mut self, reader: &mut Reader<'_>) -> Result<Option<u64>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let key = reader.unsigned()?;
        if self.last.is_some_and(|l| l >= key) {
            return Err(bad("map keys do not rise"));
        }
        self.last = Some(key);
        Ok(Some(key))
    }
}

/// A field that must be there.
pub fn required<T>(value: Option<T>, what: &str) -> Result<T> {
    value.ok_or_else(|| bad(&format!("{what} is missing")))
}

/// The error of a value that is well formed but means nothing.
pub fn invalid(what: &str) -> Error {
    bad(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_take_the_shortest_head_and_come_back() {
        for v in [0, 1, 23, 24, 255, 256, 65535, 65536, u64::from(u32::MAX), 1 << 32, u64::MAX] {
            let mut w = Writer::new();
            w.unsigned(v);
            let bytes = w.finish();
            assert_eq!(Reader::new(&bytes).unsigned().ok(), Some(v));
        }
        for v in [0, -1, -24, -25, i64::MIN, i64::MAX] {
            let mut w = Writer::new();
            w.integer(v);
            let bytes = w.finish();
            assert_eq!(Reader::new(&bytes).integer().ok(), Some(v));
        }
    }

    #[test]
    fn other_encodings_of_the_same_value_are_refused() {
        let cases: [&[u8]; 11] = [
            &[0x18, 0x17],             // 23 in two bytes
            &[0x19, 0x00, 0xff],       // 255 in three
            &[0x1a, 0, 0, 0xff, 0xff], // 65535 in five
            &[0x5f, 0x41, 0x00, 0xff], // indefinite bytes
            &[0x61, b'a'],             // text
            &[0xc0, 0x00],             // tag
            &[0xf9, 0x3c, 0x00],       // float
            &[0xf6],                   // null
            &[0xa2, 1, 0, 0, 0],       // unsorted map
            &[0xa2, 1, 0, 1, 0],       // a key twice
            &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        ];
        for bytes in cases {
            assert!(Reader::new(bytes).item().is_err(), "{bytes:x?}");
        }
    }
}
