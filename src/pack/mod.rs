//! Many frames in one object: written once, read by range.
//!
//! A frame is the unit of compression and encryption: consecutive chunks, compressed as one and
//! sealed once under the pack's own random key, its number as the nonce and the whole header as associated
//! data, so that no frame can be moved within a pack or between packs.

use crate::clock;
use crate::fault::{Error, Result};
use crate::format::pack::{
    Frame, Header, PACK_ALIGN, PackEntry, RECIPIENTS_MAX, Recipient, SEALED_KEY_LEN, Space, TABLE_NUMBER,
    TRAILER_LEN, Table, decode_trailer, trailer,
};
use crate::id::{ChunkId, PackId, RepositoryId};
use crate::seal::{Cipher, Decompressor, IndexKey, PackCipher, ReadingKey, TAG_LEN, hpke};
use zeroize::Zeroizing;

const INFO: &[u8] = b"pastfs v1 pack";

/// What packs are sealed with and to.
#[derive(Clone)]
pub struct PackKeys {
    /// Bound into the sealing of each pack's key.
    pub repository: RepositoryId,
    /// For new packs.
    pub cipher: Cipher,
    /// The pre-shared key: only who holds it can make or open a pack.
    pub index_key: IndexKey,
    /// Which index key that is.
    pub epoch: u32,
    /// The public reading key.
    pub recipient: [u8; 32],
}

fn info(repository: &RepositoryId) -> Vec<u8> {
    [INFO, &repository.0].concat()
}

/// First bytes of the hash of a public key: tells recipients apart.
fn hint(public: &[u8; 32]) -> [u8; 8] {
    let mut out = [0; 8];
    out.copy_from_slice(&blake3::hash(public).as_bytes()[..8]);
    out
}

fn frame_aad(header: &[u8], number: u64) -> Vec<u8> {
    [header, &number.to_le_bytes()].concat()
}

/// A pack in the making. It lies in memory until it is finished: its name is the hash of all its bytes.
pub struct PackWriter {
    cipher: PackCipher,
    header: Vec<u8>,
    bytes: Vec<u8>,
    frames: Vec<Frame>,
    ids: Vec<ChunkId>,
}

/// A pack that can be stored.
pub struct Finished {
    /// What the index says of it; names the pack.
    pub entry: PackEntry,
    /// The object.
    pub bytes: Vec<u8>,
}

impl PackWriter {
    /// An empty pack under a key of its own. `buffer` is where it will lie: its content does not matter, its room does.
    pub fn new(keys: &PackKeys, space: Space, mut buffer: Vec<u8>) -> Result<Self> {
        let key = Zeroizing::new(crate::seal::random::<32>()?);
        let mut header = Header {
            cipher: keys.cipher.code(),
            space,
            epoch: keys.epoch,
            recipients: vec![Recipient { hint: hint(&keys.recipient), sealed: [0; SEALED_KEY_LEN] }],
        };
        let sealed = hpke::seal_to(
            &keys.recipient,
            &keys.index_key,
            keys.epoch,
            &info(&keys.repository),
            &header.prefix(),
            &*key,
        )?;
        header.recipients[0].sealed =
            sealed.as_slice().try_into().map_err(|_| Error::bug("a sealed key has another length"))?;
        let header = header.encode();
        buffer.clear();
        buffer.extend_from_slice(&header);
        Ok(Self {
            cipher: PackCipher::new(keys.cipher, &key),
            bytes: buffer,
            header,
            frames: Vec::new(),
            ids: Vec::new(),
        })
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Chunks so far.
    pub fn chunks(&self) -> usize {
        self.ids.len()
    }

    /// Whether no frame was added.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Seals and appends a frame: a payload of `seal::Compressor` and the chunks in it.
    pub fn push(&mut self, payload: &[u8], chunks: &[(ChunkId, u32)]) {
        let number = self.frames.len() as u64;
        let sealed_len = self.cipher.seal(number, &frame_aad(&self.header, number), payload, &mut self.bytes);
        self.frames.push(Frame {
            sealed_len: sealed_len as u32,
            chunks: chunks.iter().map(|(_, len)| *len).collect(),
        });
        self.ids.extend(chunks.iter().map(|(id, _)| *id));
    }

    /// Pads, adds the table, and names the pack.
    pub fn finish(mut self) -> Finished {
        let table = Table(self.frames);
        let mut sealed = Vec::new();
        self.cipher.seal(TABLE_NUMBER, &frame_aad(&self.header, TABLE_NUMBER), &table.encode(), &mut sealed);
        let rest = sealed.len() + TRAILER_LEN;
        let padding = (self.bytes.len() + rest).next_multiple_of(PACK_ALIGN) - self.bytes.len() - rest;
        let at = self.bytes.len();
        self.bytes.resize(at + padding, 0);
        clock::random(&mut self.bytes[at..]);
        self.bytes.extend_from_slice(&sealed);
        self.bytes.extend_from_slice(&trailer(sealed.len() as u32, table.0.len() as u32));
        let entry = PackEntry {
            pack: PackId::of_object(&self.bytes),
            size: self.bytes.len() as u64,
            header: self.header,
            frames: table.0,
            ids: self.ids,
            unknown: Default::default(),
        };
        Finished { entry, bytes: self.bytes }
    }
}

/// The cipher of a pack, from its header.
///
/// # Errors
/// `Damaged` when the header was not made by a holder of the index key for this reading key.
pub fn open_header(
    header: &[u8],
    repository: &RepositoryId,
    reading: &ReadingKey,
    index_key: &IndexKey,
) -> Result<PackCipher> {
    let (h, _) = Header::decode(header)?;
    debug_assert!(h.recipients.len() <= RECIPIENTS_MAX);
    let mine = hint(&reading.public());
    let recipient = h
        .recipients
        .iter()
        .find(|r| r.hint == mine)
        .ok_or_else(|| Error::damaged("the pack is sealed to another reading key"))?;
    let key =
        hpke::open_from(reading, index_key, h.epoch, &info(repository), &h.prefix(), &recipient.sealed)?;
    let key: Zeroizing<[u8; 32]> = Zeroizing::new(
        key.as_slice().try_into().map_err(|_| Error::damaged("the pack's key has another length"))?,
    );
    let cipher = Cipher::from_code(h.cipher).ok_or_else(|| Error::damaged("the pack's cipher is unknown"))?;
    Ok(PackCipher::new(cipher, &key))
}

/// Opens one frame: authenticates, decompresses to exactly `raw_len` bytes.
pub fn open_frame(
    cipher: &PackCipher,
    header: &[u8],
    number: u64,
    mut sealed: Vec<u8>,
    raw_len: usize,
    decompressor: &mut Decompressor,
) -> Result<Vec<u8>> {
    let payload = cipher.open(number, &frame_aad(header, number), &mut sealed)?;
    decompressor.raw(payload, raw_len)
}

/// The table of a pack, from its end: at least table and trailer. For rebuilding an index.
pub fn open_table(cipher: &PackCipher, header: &[u8], end_of_pack: &[u8]) -> Result<Table> {
    let (len, frames) = decode_trailer(end_of_pack)?;
    let end = end_of_pack.len() - TRAILER_LEN;
    let start = end
        .checked_sub(len as usize)
        .filter(|_| len as usize >= TAG_LEN)
        .ok_or_else(|| Error::damaged("the table of the pack is longer than the pack"))?;
    let mut sealed = end_of_pack[start..end].to_vec();
    let table = Table::decode(cipher.open(TABLE_NUMBER, &frame_aad(header, TABLE_NUMBER), &mut sealed)?)?;
    if table.0.len() != frames as usize {
        return Err(Error::damaged("the table of the pack has another number of frames"));
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::{Compression, Compressor};

    fn keys(cipher: Cipher, reading: &ReadingKey) -> PackKeys {
        PackKeys {
            repository: RepositoryId([9; 32]),
            cipher,
            index_key: IndexKey::from_slice(&[3; 32]).unwrap(),
            epoch: 1,
            recipient: reading.public(),
        }
    }

    #[test]
    fn every_flipped_bit_of_a_pack_is_found() {
        let reading = ReadingKey::from_slice(&[7; 32]).unwrap();
        for cipher in [Cipher::XChaCha20Poly1305, Cipher::Aes256Gcm] {
            let keys = keys(cipher, &reading);
            let mut w = PackWriter::new(&keys, Space::Data, b"used before".to_vec()).unwrap();
            let mut c = Compressor::new(Compression::default()).unwrap();
            let raw = b"all work and no play ".repeat(4);
            for _ in 0..3 {
                w.push(&c.payload(&raw).unwrap(), &[(ChunkId([1; 32]), 80), (ChunkId([2; 32]), 4)]);
            }
            let done = w.finish();
            assert_eq!(done.bytes.len() % PACK_ALIGN, 0);
            let read = |bytes: &[u8]| -> Result<Vec<Vec<u8>>> {
                let (_, len) = Header::decode(bytes)?;
                let header = &bytes[..len];
                let cipher = open_header(header, &keys.repository, &reading, &keys.index_key)?;
                let table = open_table(&cipher, header, bytes)?;
                let mut at = len;
                let mut d = Decompressor::new()?;
                let mut out = Vec::new();
                for (n, f) in table.0.iter().enumerate() {
                    let sealed = bytes[at..at + f.sealed_len as usize].to_vec();
                    at += f.sealed_len as usize;
                    out.push(open_frame(&cipher, header, n as u64, sealed, f.raw_len(), &mut d)?);
                }
                Ok(out)
            };
            assert_eq!(read(&done.bytes).unwrap(), vec![raw.clone(); 3]);
            let frames: usize = done.entry.frames.iter().map(|f| f.sealed_len as usize).sum();
            let head = done.entry.header.len() + frames;
            let (table, _) = decode_trailer(&done.bytes).unwrap();
            let tail = done.bytes.len() - table as usize - TRAILER_LEN;
            for at in (0..head).chain(tail..done.bytes.len()) {
                let mut bad = done.bytes.clone();
                bad[at] ^= 0x10;
                assert!(read(&bad).is_err(), "byte {at}");
            }
            assert!(read(&done.bytes[..done.bytes.len() - 1]).is_err());
        }
    }
}
