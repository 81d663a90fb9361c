//! What a config tells of rotated keys: what opens objects of earlier epochs, and which authority follows which.

use super::cbor::{MapWriter, invalid, required};
use super::object::map_of;
use crate::fault::Result;

/// Longest sealed key in bytes: 32 and what sealing adds.
const SEALED_MAX: usize = 256;

/// What opens the objects of an earlier epoch, for the holders of a later one's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Earlier {
    /// The earlier epoch.
    pub epoch: u32,
    /// Its authority's public key.
    pub authority: [u8; 32],
    /// Its index key, sealed under the index key of the config's epoch: for everybody.
    pub index_key: Vec<u8>,
    /// Its reading secret, sealed to the reading key of the config's epoch: for who may read.
    pub reading: Vec<u8>,
}

impl Earlier {
    /// The encoded map.
    pub fn encode(&self) -> Vec<u8> {
        let mut m = MapWriter::new();
        m.field(1).unsigned(u64::from(self.epoch));
        m.field(2).bytes(&self.authority);
        m.field(3).bytes(&self.index_key);
        m.field(4).bytes(&self.reading);
        m.finish()
    }
    /// Reads the map. Unknown fields are refused: a config that needs them names a feature.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let (mut epoch, mut authority, mut index_key, mut reading) = (None, None, None, None);
        let unknown = map_of(bytes, |key, r| {
            match key {
                1 => epoch = Some(r.u32()?),
                2 => authority = Some(r.array_of()?),
                3 => index_key = Some(r.bytes(SEALED_MAX)?.to_vec()),
                4 => reading = Some(r.bytes(SEALED_MAX)?.to_vec()),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        if !unknown.0.is_empty() {
            return Err(invalid("the keys of an earlier epoch have an unknown field"));
        }
        Ok(Self {
            epoch: required(epoch, "the epoch")?,
            authority: required(authority, "the authority")?,
            index_key: required(index_key, "the index key")?,
            reading: required(reading, "the reading key")?,
        })
    }
}

/// An authority's word for the one that follows it; lies beside a config's signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Succession {
    /// The epoch that begins.
    pub epoch: u32,
    /// Its authority's public key.
    pub authority: [u8; 32],
}

impl Succession {
    /// The encoded body; the authority before it signs it.
    pub fn encode(&self) -> Vec<u8> {
        let mut m = MapWriter::new();
        m.field(1).unsigned(u64::from(self.epoch));
        m.field(2).bytes(&self.authority);
        m.finish()
    }
    /// Reads a body. Unknown fields are refused.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let (mut epoch, mut authority) = (None, None);
        let unknown = map_of(bytes, |key, r| {
            match key {
                1 => epoch = Some(r.u32()?),
                2 => authority = Some(r.array_of()?),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        if !unknown.0.is_empty() {
            return Err(invalid("a succession has an unknown field"));
        }
        Ok(Self { epoch: required(epoch, "the epoch")?, authority: required(authority, "the authority")? })
    }
}
