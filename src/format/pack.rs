//! `packs/<2 hex>/<id>`: header, frames, padding, sealed table, trailer; and the entry of a pack in a segment.

use super::cbor::{MapWriter, Reader, Unknown, Writer, invalid, required};
use super::object::{Kind, body, head, map_of};
use super::tree::CHUNK_MAX;
use crate::fault::Result;
use crate::id::{ChunkId, ID_LEN, PackId};

/// Largest frame in bytes before compression.
pub const FRAME_RAW_MAX: usize = 8 << 20;
/// What sealing adds to a frame: the codec's byte and the tag.
pub const FRAME_OVERHEAD: usize = 1 + 16;
/// Packs are padded to a multiple of this, so that their sizes tell little.
pub const PACK_ALIGN: usize = 64 << 10;
/// Most recipients of a pack's key.
pub const RECIPIENTS_MAX: usize = 8;
/// HPKE: encapsulated key, sealed 32-byte key, tag.
pub const SEALED_KEY_LEN: usize = 32 + 32 + 16;
/// The last bytes of a pack: length of the sealed table, number of frames, magic.
pub const TRAILER_LEN: usize = 16;
/// The last eight bytes of a pack.
pub const TRAILER_MAGIC: [u8; 8] = *b"pastfs\x03T";
/// The number whose nonce seals the table; frames count from 0.
pub const TABLE_NUMBER: u64 = u64::MAX;

/// What a pack holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Space {
    /// Content of files.
    Data = 1,
    /// Pages of trees and lists.
    Trees = 2,
}

impl Space {
    /// From the byte in the header.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Space::Data),
            2 => Some(Space::Trees),
            _ => None,
        }
    }
}

/// The pack's key, sealed to one reading key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// First 8 bytes of the BLAKE3 hash of the recipient's public key.
    pub hint: [u8; 8],
    /// Encapsulated key and ciphertext.
    pub sealed: [u8; SEALED_KEY_LEN],
}

/// The beginning of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// 1 XChaCha20-Poly1305, 2 AES-256-GCM.
    pub cipher: u8,
    /// What the pack holds.
    pub space: Space,
    /// Which index key is the pre-shared key.
    pub epoch: u32,
    /// 1 to [`RECIPIENTS_MAX`].
    pub recipients: Vec<Recipient>,
}

/// Length of the part of the header that stands before the recipients and is associated data of their sealing.
pub const PREFIX_LEN: usize = 8 + 1 + 1 + 4 + 1;

impl Header {
    /// Head, cipher, space, epoch, number of recipients.
    pub fn prefix(&self) -> [u8; PREFIX_LEN] {
        let mut out = [0; PREFIX_LEN];
        out[..8].copy_from_slice(&head(Kind::Pack));
        out[8] = self.cipher;
        out[9] = self.space as u8;
        out[10..14].copy_from_slice(&self.epoch.to_le_bytes());
        out[14] = self.recipients.len() as u8;
        out
    }
    /// All bytes of the header.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.prefix().to_vec();
        for r in &self.recipients {
            out.extend_from_slice(&r.hint);
            out.extend_from_slice(&r.sealed);
        }
        out
    }
    /// Reads a header from the beginning of `bytes`, and tells its length.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize)> {
        let rest = body(Kind::Pack, bytes)?;
        let (fixed, mut rest) =
            rest.split_first_chunk::<7>().ok_or_else(|| invalid("the header is truncated"))?;
        let [cipher, space, e0, e1, e2, e3, count] = *fixed;
        let space = Space::from_byte(space).ok_or_else(|| invalid("a pack of an unknown kind"))?;
        let count = usize::from(count);
        if !matches!(cipher, 1 | 2) || count == 0 || count > RECIPIENTS_MAX {
            return Err(invalid("the header of a pack is out of range"));
        }
        let mut recipients = Vec::new();
        for _ in 0..count {
            let (hint, more) = rest.split_first_chunk::<8>().ok_or_else(|| invalid("truncated"))?;
            let (sealed, more) =
                more.split_first_chunk::<SEALED_KEY_LEN>().ok_or_else(|| invalid("truncated"))?;
            recipients.push(Recipient { hint: *hint, sealed: *sealed });
            rest = more;
        }
        let len = bytes.len() - rest.len();
        let epoch = u32::from_le_bytes([e0, e1, e2, e3]);
        Ok((Self { cipher, space, epoch, recipients }, len))
    }
}

/// One frame as tables and entries describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Bytes in the pack.
    pub sealed_len: u32,
    /// Lengths of its chunks, in order.
    pub chunks: Vec<u32>,
}

impl Frame {
    /// Bytes before compression.
    pub fn raw_len(&self) -> usize {
        self.chunks.iter().map(|c| *c as usize).sum()
    }
    fn check(&self) -> Result<()> {
        let raw: u64 = self.chunks.iter().map(|c| u64::from(*c)).sum();
        if raw > FRAME_RAW_MAX as u64
            || self.chunks.is_empty()
            || self.chunks.iter().any(|c| *c == 0 || *c as usize > CHUNK_MAX)
            || (self.sealed_len as usize) <= FRAME_OVERHEAD
            || self.sealed_len as usize > FRAME_RAW_MAX + FRAME_OVERHEAD
        {
            return Err(invalid("a frame is out of range"));
        }
        Ok(())
    }
}

/// The pack's own table: enough to rebuild an index by reading the pack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table(pub Vec<Frame>);

impl Table {
    /// The encoded table.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.array(self.0.len());
        for f in &self.0 {
            w.array(2).unsigned(u64::from(f.sealed_len)).array(f.chunks.len());
            for c in &f.chunks {
                w.unsigned(u64::from(*c));
            }
        }
        w.finish()
    }
    /// Reads a table.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new(bytes);
        let mut frames = Vec::new();
        for _ in 0..r.array()? {
            r.exactly(2)?;
            let sealed_len = r.u32()?;
            let mut chunks = Vec::new();
            for _ in 0..r.array()? {
                chunks.push(r.u32()?);
            }
            let frame = Frame { sealed_len, chunks };
            frame.check()?;
            frames.push(frame);
        }
        r.end()?;
        Ok(Self(frames))
    }
}

/// The last [`TRAILER_LEN`] bytes of a pack.
pub fn trailer(table_len: u32, frames: u32) -> [u8; TRAILER_LEN] {
    let mut out = [0; TRAILER_LEN];
    out[..4].copy_from_slice(&table_len.to_le_bytes());
    out[4..8].copy_from_slice(&frames.to_le_bytes());
    out[8..].copy_from_slice(&TRAILER_MAGIC);
    out
}

/// Length of the sealed table and number of frames, from the last bytes of a pack.
pub fn decode_trailer(bytes: &[u8]) -> Result<(u32, u32)> {
    let tail: &[u8; TRAILER_LEN] = bytes.last_chunk().ok_or_else(|| invalid("the pack is truncated"))?;
    let [a, b, c, d, e, f, g, h, magic @ ..] = *tail;
    if magic != TRAILER_MAGIC {
        return Err(invalid("the pack is truncated, or its end is damaged"));
    }
    Ok((u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])))
}

/// What a segment says of a pack: enough for a cold read of any chunk in one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackEntry {
    /// Which pack.
    pub pack: PackId,
    /// Its length in bytes.
    pub size: u64,
    /// A copy of its header.
    pub header: Vec<u8>,
    /// Its frames.
    pub frames: Vec<Frame>,
    /// The ids of all chunks, in the order of the frames.
    pub ids: Vec<ChunkId>,
    /// Fields of a newer version.
    pub unknown: Unknown,
}

impl PackEntry {
    /// The encoded body, which its author signs.
    pub fn encode(&self) -> Vec<u8> {
        let mut m = MapWriter::new();
        m.field(1).bytes(&self.pack.0);
        m.field(2).unsigned(self.size);
        m.field(3).bytes(&self.header);
        let w = m.field(4).array(self.frames.len());
        for f in &self.frames {
            w.array(2).unsigned(u64::from(f.sealed_len)).unsigned(f.chunks.len() as u64);
        }
        let mut ids = Vec::with_capacity(self.ids.len() * ID_LEN);
        for id in &self.ids {
            ids.extend_from_slice(&id.0);
        }
        m.field(5).bytes(&ids);
        let w = m.field(6).array(self.ids.len());
        for len in self.frames.iter().flat_map(|f| &f.chunks) {
            w.unsigned(u64::from(*len));
        }
        m.unknown(&self.unknown);
        m.finish()
    }

    /// Reads a body, and checks that its numbers agree with each other.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let (mut pack, mut size, mut header) = (None, None, None);
        let mut counts: Option<Vec<(u32, usize)>> = None;
        let (mut ids, mut lens): (Option<Vec<ChunkId>>, Option<Vec<u32>>) = (None, None);
        let unknown = map_of(bytes, |key, r| {
            match key {
                1 => pack = Some(PackId(r.array_of()?)),
                2 => size = Some(r.unsigned()?),
                3 => header = Some(r.bytes(PREFIX_LEN + RECIPIENTS_MAX * (8 + SEALED_KEY_LEN))?.to_vec()),
                4 => {
                    let mut list = Vec::new();
                    for _ in 0..r.array()? {
                        r.exactly(2)?;
                        list.push((r.u32()?, r.u32()? as usize));
                    }
                    counts = Some(list);
                }
                5 => {
                    let (whole, rest) = r.bytes(bytes.len())?.as_chunks::<ID_LEN>();
                    if !rest.is_empty() {
                        return Err(invalid("the ids of a pack entry are cut off"));
                    }
                    ids = Some(whole.iter().map(|id| ChunkId(*id)).collect());
                }
                6 => {
                    let mut list = Vec::new();
                    for _ in 0..r.array()? {
                        list.push(r.u32()?);
                    }
                    lens = Some(list);
                }
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let (pack, size) = (required(pack, "the pack")?, required(size, "the size")?);
        let header = required(header, "the header")?;
        let (ids, lens) = (required(ids, "the ids")?, required(lens, "the lengths")?);
        if lens.len() != ids.len() {
            return Err(invalid("a pack entry has not as many lengths as ids"));
        }
        let mut rest = lens.as_slice();
        let mut end = header.len() as u64;
        let mut frames = Vec::new();
        for (sealed_len, count) in required(counts, "the frames")? {
            let (chunks, more) = rest
                .split_at_checked(count)
                .ok_or_else(|| invalid("a pack entry has fewer chunks than its frames"))?;
            rest = more;
            let frame = Frame { sealed_len, chunks: chunks.to_vec() };
            frame.check()?;
            end += u64::from(sealed_len);
            frames.push(frame);
        }
        if !rest.is_empty()
            || end > size
            || size > Kind::Pack.limit()
            || Header::decode(&header)?.1 != header.len()
        {
            return Err(invalid("the numbers of a pack entry do not agree"));
        }
        Ok(Self { pack, size, header, frames, ids, unknown })
    }
}
