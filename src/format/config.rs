//! `config/<n>`: what the repository is; the highest n that verifies counts.

use super::cbor::{MapWriter, Reader, Unknown, invalid, required};
use super::object::map_of;
use crate::fault::Result;
use crate::id::RepositoryId;

/// Most features in one list.
const FEATURES_MAX: usize = 256;
/// Longest parameters of a chunker in bytes.
const CHUNKER_LEN_MAX: usize = 64;
/// Longest sealed secrets of one earlier epoch in bytes.
const EARLIER_LEN_MAX: usize = 4096;
/// Longest name of a feature in bytes.
const FEATURE_LEN_MAX: usize = 64;

/// The body of a config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Drawn once.
    pub repository: RepositoryId,
    /// The `n` of this object's name.
    pub number: u64,
    /// Seconds since 1970 when the repository was made.
    pub created: i64,
    /// Cipher of new packs: 1 XChaCha20-Poly1305, 2 AES-256-GCM.
    pub cipher: u8,
    /// Chunker of new content: kind (1 FastCDC 2020, 2 fixed size).
    pub chunker: u64,
    /// Its parameters: u32 big endian each; smallest, average, largest chunk, or the fixed size.
    pub chunker_parameters: Vec<u8>,
    /// Epoch of the reading, index and authority keys that new objects use.
    pub epoch: u32,
    /// Names of what a program must know to read, to write, to delete.
    pub features: [Vec<Vec<u8>>; 3],
    /// Public signing keys of ended keys: what they sign from now on does not count.
    pub ended: Vec<[u8; 32]>,
    /// Secrets of earlier epochs, sealed to this epoch's root.
    pub earlier: Vec<Vec<u8>>,
    /// Parity of new packs in hundredths of their length, up to 100; 0: none.
    pub parity: u8,
    /// What keys of earlier epochs than this write alone does not count any more; 1: all counts.
    pub since: u32,
    /// Fields of a newer version.
    pub unknown: Unknown,
}

impl Config {
    /// The encoded body.
    pub fn encode(&self) -> Vec<u8> {
        let mut m = MapWriter::new();
        m.field(1).bytes(&self.repository.0);
        m.field(2).unsigned(self.number);
        m.field(3).integer(self.created);
        m.field(4).unsigned(u64::from(self.cipher));
        m.field(5).array(2).unsigned(self.chunker).bytes(&self.chunker_parameters);
        m.field(6).unsigned(u64::from(self.epoch));
        let w = m.field(7).array(3);
        for list in &self.features {
            w.array(list.len());
            for feature in list {
                w.bytes(feature);
            }
        }
        let w = m.field(8).array(self.ended.len());
        for key in &self.ended {
            w.bytes(key);
        }
        let w = m.field(9).array(self.earlier.len());
        for sealed in &self.earlier {
            w.bytes(sealed);
        }
        if self.parity > 0 {
            m.field(10).unsigned(u64::from(self.parity));
        }
        if self.since > 1 {
            m.field(11).unsigned(u64::from(self.since));
        }
        m.unknown(&self.unknown);
        m.finish()
    }

    /// Reads a body.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let (mut repository, mut number, mut created, mut cipher) = (None, None, None, None);
        let (mut chunker, mut epoch, mut features) = (None, None, None);
        let (mut ended, mut earlier, mut parity, mut since) = (None, None, 0, 1);
        let unknown = map_of(bytes, |key, r| {
            match key {
                1 => repository = Some(RepositoryId(r.array_of()?)),
                2 => number = Some(r.unsigned()?),
                3 => created = Some(r.integer()?),
                4 => {
                    cipher = Some(u8::try_from(r.unsigned()?).map_err(|_| invalid("the cipher is unknown"))?);
                }
                5 => {
                    r.exactly(2)?;
                    chunker = Some((r.unsigned()?, r.bytes(CHUNKER_LEN_MAX)?.to_vec()));
                }
                6 => epoch = Some(r.u32()?),
                7 => {
                    r.exactly(3)?;
                    features = Some([feature_list(r)?, feature_list(r)?, feature_list(r)?]);
                }
                8 => {
                    let mut list = Vec::new();
                    for _ in 0..r.array()? {
                        list.push(r.array_of()?);
                    }
                    ended = Some(list);
                }
                9 => {
                    let mut list = Vec::new();
                    for _ in 0..r.array()? {
                        list.push(r.bytes(EARLIER_LEN_MAX)?.to_vec());
                    }
                    earlier = Some(list);
                }
                10 => match r.unsigned()? {
                    percent @ 1..=100 => parity = percent as u8,
                    _ => return Err(invalid("the parity is out of range")),
                },
                11 => match r.u32()? {
                    epoch @ 2.. => since = epoch,
                    _ => return Err(invalid("the epoch that counts is the first")),
                },
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let (chunker, chunker_parameters) = required(chunker, "the chunker")?;
        Ok(Self {
            repository: required(repository, "the repository id")?,
            number: required(number, "the number")?,
            created: required(created, "the time")?,
            cipher: required(cipher, "the cipher")?,
            chunker,
            chunker_parameters,
            epoch: required(epoch, "the epoch")?,
            features: required(features, "the features")?,
            ended: required(ended, "the list of ended keys")?,
            earlier: required(earlier, "the list of earlier secrets")?,
            parity,
            since,
            unknown,
        })
    }
}

fn feature_list(r: &mut Reader<'_>) -> Result<Vec<Vec<u8>>> {
    let n = r.array()?;
    if n > FEATURES_MAX {
        return Err(invalid("too many features"));
    }
    let mut list = Vec::new();
    for _ in 0..n {
        list.push(r.bytes(FEATURE_LEN_MAX)?.to_vec());
    }
    Ok(list)
}
