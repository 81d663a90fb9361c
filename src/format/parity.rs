//! `parity/<pack id>`: what heals a pack of which parts are damaged. Everything in it follows from the bytes of the pack, is
//! not secret, and is believed only where the healed pack is what its name says.
//!
//! ```text
//! head (8) ‖ description (68) ‖ sums of the pack's parts ‖ sums of the parity parts ‖ parity parts ‖ description (68)
//! ```

use super::cbor::invalid;
use super::object::{Kind, body, head};
use crate::fault::Result;
use crate::id::{ID_LEN, PackId};

/// Bytes of a checksum: the beginning of a part's BLAKE3 hash. It finds damage; the name of the pack finds forgery.
pub const SUM_LEN: usize = 16;
/// Most parts of a pack, and most parity parts: what the code allows in any combination.
pub const PARTS_MAX: u32 = 32_768;
/// The length of a part is a multiple of this (the code works on blocks of 64 bytes).
pub const PART_ALIGN: u32 = 64;
const FIELDS_LEN: usize = ID_LEN + 8 + 4 + 4 + 4;
/// Bytes of a description: its fields and their checksum.
pub const DESCRIPTION_LEN: usize = FIELDS_LEN + SUM_LEN;

/// First bytes of an object that hold its description.
pub const START_LEN: usize = 8 + DESCRIPTION_LEN;

/// What a parity object is of, and how it is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// The pack.
    pub pack: PackId,
    /// Its length in bytes.
    pub size: u64,
    /// Bytes of each part; the last one of the pack counts as if it were filled with zeros.
    pub part_len: u32,
    /// How many parts the pack has, and how many parity parts there are.
    pub parts: (u32, u32),
}

/// The checksum of a part.
pub fn sum(part: &[u8]) -> [u8; SUM_LEN] {
    let mut out = [0; SUM_LEN];
    out.copy_from_slice(&blake3::hash(part).as_bytes()[..SUM_LEN]);
    out
}

impl Description {
    fn is_sound(&self) -> bool {
        let (pack, parity) = self.parts;
        (1..=PARTS_MAX).contains(&pack)
            && (1..=PARTS_MAX).contains(&parity)
            && self.part_len > 0
            && self.part_len.is_multiple_of(PART_ALIGN)
            && (1..=Kind::Pack.limit()).contains(&self.size)
            && self.size.div_ceil(u64::from(self.part_len)) == u64::from(pack)
            && u64::from(parity) * u64::from(self.part_len) <= Kind::Pack.limit()
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; DESCRIPTION_LEN] {
        let mut out = [0; DESCRIPTION_LEN];
        out[..32].copy_from_slice(&self.pack.0);
        out[32..40].copy_from_slice(&self.size.to_le_bytes());
        out[40..44].copy_from_slice(&self.part_len.to_le_bytes());
        out[44..48].copy_from_slice(&self.parts.0.to_le_bytes());
        out[48..52].copy_from_slice(&self.parts.1.to_le_bytes());
        let check = sum(&out[..FIELDS_LEN]);
        out[FIELDS_LEN..].copy_from_slice(&check);
        out
    }

    fn decode(bytes: &[u8; DESCRIPTION_LEN]) -> Option<Self> {
        let (fields, check) = bytes.split_first_chunk::<FIELDS_LEN>()?;
        let (pack, rest) = fields.split_first_chunk::<ID_LEN>()?;
        let (size, rest) = rest.split_first_chunk::<8>()?;
        let (numbers, _) = rest.as_chunks::<4>();
        let [part_len, parts, parity] = *numbers else { return None };
        let found = Self {
            pack: PackId(*pack),
            size: u64::from_le_bytes(*size),
            part_len: u32::from_le_bytes(part_len),
            parts: (u32::from_le_bytes(parts), u32::from_le_bytes(parity)),
        };
        (sum(fields) == *check && found.is_sound()).then_some(found)
    }

    /// The one at the beginning of an object, of which these are the first bytes.
    ///
    /// # Errors
    /// `Damaged` where it is, or the head is.
    pub fn of_object(start: &[u8]) -> Result<Self> {
        let found = body(Kind::Parity, start)?.first_chunk().and_then(Self::decode);
        found.ok_or_else(|| invalid("the description of a parity object is damaged"))
    }

    /// Bytes of the whole object.
    pub fn object_len(&self) -> usize {
        let (pack, parity) = (self.parts.0 as usize, self.parts.1 as usize);
        8 + 2 * DESCRIPTION_LEN + (pack + parity) * SUM_LEN + parity * self.part_len as usize
    }
}

/// A parity object; sums and parts may be damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parity<'a> {
    /// What it is of.
    pub description: Description,
    sums: &'a [u8],
    parts: &'a [u8],
}

impl<'a> Parity<'a> {
    /// Reads an object. One of its two descriptions must be whole.
    ///
    /// # Errors
    /// `Damaged` where none is, or the length is another.
    pub fn decode(bytes: &'a [u8]) -> Result<Self> {
        // A head that is damaged is no reason to give up: the descriptions have checksums.
        let rest = match body(Kind::Parity, bytes) {
            Ok(rest) => rest,
            Err(_) if bytes.len() > 8 => &bytes[8..],
            Err(e) => return Err(e),
        };
        let first = rest.first_chunk().and_then(Description::decode);
        let description = first.or_else(|| rest.last_chunk().and_then(Description::decode));
        let description =
            description.ok_or_else(|| invalid("the descriptions of a parity object are damaged"))?;
        if bytes.len() != description.object_len() {
            return Err(invalid("a parity object is cut short, or too long"));
        }
        let (pack, parity) = description.parts;
        let rest = &rest[DESCRIPTION_LEN..rest.len() - DESCRIPTION_LEN];
        let (sums, parts) = rest.split_at((pack as usize + parity as usize) * SUM_LEN);
        Ok(Self { description, sums, parts })
    }

    /// The checksum of a part: first those of the pack, then those of the parity.
    pub fn sum(&self, number: usize) -> Option<&'a [u8]> {
        self.sums.chunks_exact(SUM_LEN).nth(number)
    }

    /// The parity parts.
    pub fn parts(&self) -> impl Iterator<Item = &'a [u8]> {
        self.parts.chunks_exact(self.description.part_len as usize)
    }
}

/// The object of these sums and parity parts, which must be as many as the description says.
pub fn encode(description: &Description, sums: &[[u8; SUM_LEN]], parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(description.object_len());
    out.extend_from_slice(&head(Kind::Parity));
    out.extend_from_slice(&description.encode());
    sums.iter().for_each(|s| out.extend_from_slice(s));
    parts.iter().for_each(|p| out.extend_from_slice(p));
    out.extend_from_slice(&description.encode());
    out
}
