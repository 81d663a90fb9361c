//! Keys and values of the local database: bytes to values and back, total on whatever the disk gives.
//!
//! Every key begins with one byte that says what it is:
//!
//! ```text
//! c <chunk id> <number BE u32>     frame u32, offset u24, length u24          where a chunk lies
//! p <number BE u32>                an entry of a pack: see PackRecord
//! P <pack id> <digest 16>          number: the same, found by the pack
//! s <segment id>                   what the segment holds: see SegmentRecord
//! f <16 bytes>                     a file of an unfinished backup, opaque
//! //! n                                Tally
//! ```
//!
//! A *number* stands for one pack **entry**, not for a pack: two authors may say different things of one
//! pack, and what an untrusted one says must not hide behind what a trusted one signed. Numbers are never
//! used twice in one database, so a chunk key whose number is unknown is merely dead.

use super::{FrameAt, PackInfo, Retired};
use crate::format::pack::{FRAME_RAW_MAX, Space};
use crate::id::{ChunkId, ID_LEN, PackId, SegmentId, SessionId};
use std::sync::Arc;

pub const CHUNK: u8 = b'c';
pub const FILE: u8 = b'f';
pub const TALLY: u8 = b'n';
pub const PACK: u8 = b'p';
pub const PACK_ID: u8 = b'P';
pub const SEGMENT: u8 = b's';

/// Length of the prefix that the filters are made of: the kind and 16 bytes, which no two ids share by
/// chance, and which even the shortest key that is looked up in vain (a file's) has.
pub const PREFIX: usize = 1 + 16;
/// Numbers stay below this: the top bit carries a mark in [`SegmentRecord`].
pub const NUMBER_END: u32 = 1 << 31;
/// Length of a digest of an entry.
pub const DIGEST_LEN: usize = 16;

const CHUNK_KEY_LEN: usize = 1 + ID_LEN + 4;
const CHUNK_VALUE_LEN: usize = 4 + 3 + 3;
// Offsets and lengths in a frame fit 24 bits.
const _: () = assert!(FRAME_RAW_MAX < 1 << 24);

/// Which entry of a pack.
pub type Digest = [u8; DIGEST_LEN];

/// Where a chunk lies in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    pub frame: u32,
    pub offset: u32,
    pub len: u32,
}

pub fn key(kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + rest.len());
    key.push(kind);
    key.extend_from_slice(rest);
    key
}

pub type ChunkKey = [u8; CHUNK_KEY_LEN];
pub type ChunkValue = [u8; CHUNK_VALUE_LEN];

pub fn chunk_key(id: &ChunkId, number: u32) -> ChunkKey {
    let mut key = [0; CHUNK_KEY_LEN];
    key[0] = CHUNK;
    key[1..=ID_LEN].copy_from_slice(&id.0);
    key[1 + ID_LEN..].copy_from_slice(&number.to_be_bytes());
    key
}

/// The number in a chunk's key; `None` for any other key.
pub fn chunk_number(key: &[u8]) -> Option<u32> {
    let key: &ChunkKey = key.try_into().ok()?;
    if key[0] != CHUNK {
        return None;
    }
    Some(u32::from_be_bytes(*key.last_chunk()?))
}

impl Spot {
    pub fn encode(&self) -> ChunkValue {
        let [f0, f1, f2, f3] = self.frame.to_be_bytes();
        let [_, o0, o1, o2] = self.offset.to_be_bytes();
        let [_, l0, l1, l2] = self.len.to_be_bytes();
        [f0, f1, f2, f3, o0, o1, o2, l0, l1, l2]
    }
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let [f0, f1, f2, f3, o0, o1, o2, l0, l1, l2]: ChunkValue = bytes.try_into().ok()?;
        Some(Self {
            frame: u32::from_be_bytes([f0, f1, f2, f3]),
            offset: u32::from_be_bytes([0, o0, o1, o2]),
            len: u32::from_be_bytes([0, l0, l1, l2]),
        })
    }
}

pub fn pack_key(number: u32) -> Vec<u8> {
    key(PACK, &number.to_be_bytes())
}

pub fn pack_id_key(pack: &PackId, digest: &Digest) -> Vec<u8> {
    let mut k = key(PACK_ID, &pack.0);
    k.extend_from_slice(digest);
    k
}

/// The pack in a key of kind [`PACK_ID`].
pub fn pack_of_key(key: &[u8]) -> Option<PackId> {
    let (kind, rest) = key.split_first()?;
    let (id, digest) = rest.split_first_chunk::<ID_LEN>()?;
    (*kind == PACK_ID && digest.len() == DIGEST_LEN).then_some(PackId(*id))
}

pub fn number(bytes: &[u8]) -> Option<u32> {
    let number = u32::from_be_bytes(bytes.try_into().ok()?);
    (number < NUMBER_END).then_some(number)
}

/// What one entry says of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackRecord {
    pub info: Arc<PackInfo>,
    /// Of the encoded entry.
    pub digest: Digest,
    /// How many chunk keys have this number.
    pub chunks: u32,
}

impl PackRecord {
    pub fn encode(&self) -> Vec<u8> {
        let info = &self.info;
        let mut out = Vec::with_capacity(80 + info.header.len() + info.frames.len() * 6);
        out.extend_from_slice(&self.digest);
        out.extend_from_slice(&info.id.0);
        out.extend_from_slice(&info.size.to_be_bytes());
        out.push(info.space as u8);
        put(&mut out, self.chunks);
        // A header has at most 8 recipients of 88 bytes, a pack at most 2^30 bytes of frames.
        put(&mut out, info.header.len() as u32);
        out.extend_from_slice(&info.header);
        put(&mut out, info.frames.len() as u32);
        for (n, f) in info.frames.iter().enumerate() {
            let chunks = info.chunks_of(n as u32);
            put(&mut out, f.sealed_len);
            put(&mut out, chunks.len() as u32);
            for len in chunks {
                put(&mut out, *len);
            }
        }
        out
    }

    /// Which pack, and its length, without the rest.
    pub fn id_and_size(bytes: &[u8]) -> Option<(PackId, u64)> {
        let (id, rest) = bytes.get(DIGEST_LEN..)?.split_first_chunk::<ID_LEN>()?;
        Some((PackId(*id), u64::from_be_bytes(*rest.first_chunk()?)))
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (digest, rest) = bytes.split_first_chunk::<DIGEST_LEN>()?;
        let (id, rest) = rest.split_first_chunk::<ID_LEN>()?;
        let (size, rest) = rest.split_first_chunk::<8>()?;
        let (space, mut rest) = rest.split_first()?;
        let chunks = take(&mut rest)?;
        let header_len = take(&mut rest)?;
        let (header, mut rest) = rest.split_at_checked(header_len as usize)?;
        let count = take(&mut rest)? as usize;
        // Two bytes at least for each frame: nothing is allocated that the input does not justify.
        if count > rest.len() / 2 {
            return None;
        }
        let mut frames = Vec::with_capacity(count);
        let mut offset = header_len;
        let mut lens = Vec::new();
        for _ in 0..count {
            let (sealed_len, count) = (take(&mut rest)?, take(&mut rest)?);
            let (first, mut raw_len) = (lens.len() as u32, 0u32);
            for _ in 0..count {
                let len = take(&mut rest)?;
                raw_len = raw_len.checked_add(len).filter(|l| *l as usize <= FRAME_RAW_MAX)?;
                lens.push(len);
            }
            frames.push(FrameAt { offset, sealed_len, raw_len, first });
            offset = offset.checked_add(sealed_len)?;
        }
        let size = u64::from_be_bytes(*size);
        if !rest.is_empty() || u64::from(offset) > size {
            return None;
        }
        let info = PackInfo {
            id: PackId(*id),
            size,
            header: header.to_vec(),
            space: Space::from_byte(*space)?,
            frames,
            chunks: lens,
        };
        Some(Self { info: Arc::new(info), digest: *digest, chunks })
    }
}

/// Seven bits to a byte, lowest first, the top bit set on all but the last.
fn put(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take(rest: &mut &[u8]) -> Option<u32> {
    let mut value = 0u64;
    for shift in [0, 7, 14, 21, 28] {
        let (byte, more) = rest.split_first()?;
        *rest = more;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return u32::try_from(value).ok();
        }
    }
    None
}

pub fn segment_key(id: &SegmentId) -> Vec<u8> {
    key(SEGMENT, &id.0)
}

/// What a segment holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentRecord {
    /// Numbers of entries, and whether this segment's signatures make them trusted.
    pub packs: Vec<(u32, bool)>,
    /// Its retirements.
    pub retired: Vec<Retired>,
    /// The segments that it was merged from.
    pub replaces: Vec<SegmentId>,
}

/// Pack, sweep, and two times, of which the second is [`NOT_DELETED`] while the pack may be there.
const RETIRED_LEN: usize = ID_LEN + 16 + 8 + 8;
const NOT_DELETED: i64 = i64::MIN;

impl SegmentRecord {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(
            8 + (self.packs.len() + self.replaces.len() * 8) * 4 + self.retired.len() * RETIRED_LEN,
        );
        out.extend_from_slice(&(self.packs.len() as u32).to_be_bytes());
        for (number, trusted) in &self.packs {
            let mark = if *trusted { NUMBER_END } else { 0 };
            out.extend_from_slice(&(number | mark).to_be_bytes());
        }
        out.extend_from_slice(&(self.replaces.len() as u32).to_be_bytes());
        for id in &self.replaces {
            out.extend_from_slice(&id.0);
        }
        for r in &self.retired {
            out.extend_from_slice(&r.pack.0);
            out.extend_from_slice(&r.sweep.0);
            out.extend_from_slice(&r.retired.to_be_bytes());
            out.extend_from_slice(&r.deleted.unwrap_or(NOT_DELETED).to_be_bytes());
        }
        out
    }
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (count, rest) = bytes.split_first_chunk::<4>()?;
        let count = u32::from_be_bytes(*count) as usize;
        let (packs, rest) = rest.split_at_checked(count.checked_mul(4)?)?;
        let (packs, _) = packs.as_chunks::<4>();
        let (count, rest) = rest.split_first_chunk::<4>()?;
        let replaces = (u32::from_be_bytes(*count) as usize).checked_mul(ID_LEN)?;
        let (replaces, rest) = rest.split_at_checked(replaces)?;
        let (replaces, _) = replaces.as_chunks::<ID_LEN>();
        let (retired, odd) = rest.as_chunks::<RETIRED_LEN>();
        if !odd.is_empty() {
            return None;
        }
        let packs = packs.iter().map(|p| {
            let n = u32::from_be_bytes(*p);
            (n & !NUMBER_END, n & NUMBER_END != 0)
        });
        let retired = retired.iter().map(|r| {
            let (pack, rest) = r.split_first_chunk::<ID_LEN>()?;
            let (sweep, rest) = rest.split_first_chunk::<16>()?;
            let (retired, rest) = rest.split_first_chunk::<8>()?;
            let deleted = i64::from_be_bytes(*rest.first_chunk()?);
            Some(Retired {
                pack: PackId(*pack),
                sweep: SessionId(*sweep),
                retired: i64::from_be_bytes(*retired),
                deleted: (deleted != NOT_DELETED).then_some(deleted),
            })
        });
        Some(Self {
            packs: packs.collect(),
            retired: retired.collect::<Option<_>>()?,
            replaces: replaces.iter().map(|id| SegmentId(*id)).collect(),
        })
    }
}

/// Sums over the database, and the next number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// The next unused number.
    pub next: u32,
    /// Rises with each commit: who saw this one has seen everything.
    pub generation: u64,
    /// Chunk keys with a number in use.
    pub live: u64,
    /// Chunk keys whose number is gone.
    pub dead: u64,
}

impl Tally {
    pub fn encode(&self) -> [u8; 28] {
        let mut out = [0; 28];
        out[..4].copy_from_slice(&self.next.to_be_bytes());
        out[4..12].copy_from_slice(&self.generation.to_be_bytes());
        out[12..20].copy_from_slice(&self.live.to_be_bytes());
        out[20..].copy_from_slice(&self.dead.to_be_bytes());
        out
    }
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 28] = bytes.try_into().ok()?;
        let (next, rest) = bytes.split_first_chunk::<4>()?;
        let (numbers, _) = rest.as_chunks::<8>();
        let [generation, live, dead] = numbers else { return None };
        Some(Self {
            next: u32::from_be_bytes(*next),
            generation: u64::from_be_bytes(*generation),
            live: u64::from_be_bytes(*live),
            dead: u64::from_be_bytes(*dead),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> PackRecord {
        let mut frames = Vec::new();
        let mut offset = 20;
        let mut chunks = Vec::new();
        for sealed_len in [18, 127, 128, 70_000, 1 << 20] {
            let first = chunks.len() as u32;
            chunks.extend([sealed_len, sealed_len / 2]);
            frames.push(FrameAt { offset, sealed_len, raw_len: sealed_len + sealed_len / 2, first });
            offset += sealed_len;
        }
        let info = PackInfo {
            id: PackId([7; 32]),
            size: 9 << 20,
            header: vec![3; 20],
            space: Space::Trees,
            frames,
            chunks,
        };
        PackRecord { info: Arc::new(info), digest: [9; 16], chunks: 300 }
    }

    #[test]
    fn records_come_back_as_they_were() {
        let p = record();
        assert_eq!(PackRecord::decode(&p.encode()), Some(p));
        let s = SegmentRecord {
            packs: vec![(0, true), (5, false), (NUMBER_END - 1, true)],
            retired: [None, Some(-1)]
                .map(|deleted| Retired {
                    pack: PackId([1; 32]),
                    sweep: SessionId([2; 16]),
                    retired: 1_700_000_000,
                    deleted,
                })
                .to_vec(),
            replaces: vec![SegmentId([5; 32]), SegmentId([6; 32])],
        };
        assert_eq!(SegmentRecord::decode(&s.encode()), Some(s));
        let t = Tally { next: 1, generation: 2, live: u64::MAX, dead: 4 };
        assert_eq!(Tally::decode(&t.encode()), Some(t));
        let at = Spot { frame: u32::MAX, offset: FRAME_RAW_MAX as u32, len: 1 };
        assert_eq!(Spot::decode(&at.encode()), Some(at));
        let k = chunk_key(&ChunkId([4; 32]), 77);
        assert_eq!(chunk_number(&k), Some(77));
        assert_eq!(pack_of_key(&pack_id_key(&PackId([6; 32]), &[0; 16])), Some(PackId([6; 32])));
    }

    #[test]
    fn no_bytes_make_a_record_panic() {
        let samples =
            [record().encode(), SegmentRecord::default().encode(), Tally::default().encode().to_vec()];
        for bytes in samples {
            for at in 0..bytes.len() {
                let cut = &bytes[..at];
                assert_eq!(PackRecord::decode(cut), None);
                let _ = (SegmentRecord::decode(cut), Tally::decode(cut), Spot::decode(cut), number(cut));
                let _ = (chunk_number(cut), pack_of_key(cut));
                let mut changed = bytes.clone();
                changed[at] = 0xff;
                let _ = (PackRecord::decode(&changed), SegmentRecord::decode(&changed));
            }
        }
    }
}
