//! What a walk through snapshots has met: a set of chunk ids on disk, each with a mark. Memory does not grow with it.

use super::Index;
use super::database::{Scratch, Tried, Trouble};
use crate::fault::Result;
use crate::id::ChunkId;

/// What the one who marks means by it; what is greater outweighs what is less.
pub type Mark = u32;

fn decode(value: &[u8]) -> Tried<Mark> {
    Ok(Mark::from_be_bytes(value.try_into().map_err(|_| Trouble::record("a mark"))?))
}

/// The set; gone with the value. For any number of threads.
pub struct Marks(pub(super) Scratch);

impl Index {
    /// An empty set of marks, in this cache.
    ///
    /// # Errors
    /// What the cache's disk says.
    pub fn marks(&self) -> Result<Marks> {
        Ok(Marks(self.home.scratch()?))
    }
}

impl Marks {
    /// Marks a chunk, whatever mark it had.
    ///
    /// # Errors
    /// What the cache's disk says.
    pub fn set(&self, id: &ChunkId, mark: Mark) -> Result<()> {
        Ok(self.0.put(&id.0, &mark.to_be_bytes())?)
    }

    /// Marks a chunk that has no mark, or a lesser one; whether that was so.
    ///
    /// # Errors
    /// What the cache's disk says.
    pub fn raise(&self, id: &ChunkId, mark: Mark) -> Result<bool> {
        let is_less = self.get(id)?.is_none_or(|before| before < mark);
        if is_less {
            self.set(id, mark)?;
        }
        Ok(is_less)
    }

    /// The mark of a chunk.
    ///
    /// # Errors
    /// What the cache's disk says.
    pub fn get(&self, id: &ChunkId) -> Result<Option<Mark>> {
        match self.0.get(&id.0)? {
            Some(value) => Ok(Some(decode(&value)?)),
            None => Ok(None),
        }
    }
}

/// Marks in the order of their ids.
pub(super) struct Sorted<'a> {
    records: super::database::Records<'a>,
}

impl Marks {
    pub(super) fn sorted(&self) -> Sorted<'_> {
        Sorted { records: self.0.records(&[]) }
    }
}

impl Sorted<'_> {
    /// The next mark.
    pub fn next(&mut self) -> Tried<Option<(ChunkId, Mark)>> {
        let Some((key, value)) = self.records.item()? else { return Ok(None) };
        let id = ChunkId::from_slice(key).ok_or_else(|| Trouble::record("a mark"))?;
        let mark = decode(value)?;
        self.records.advance();
        Ok(Some((id, mark)))
    }
}
