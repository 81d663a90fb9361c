//! What a walk through snapshots has met: a set of chunk ids on disk, each with a mark. Memory does not grow with it.

use super::Index;
use super::database::{Scratch, Tried, Trouble};
use crate::fault::Result;
use crate::id::ChunkId;

/// Why a chunk is needed; what is greater includes what is less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Mark {
    /// By a forgotten snapshot that may still be brought back.
    Kept = 1,
    /// By a snapshot that is listed.
    Wanted = 2,
}

impl Mark {
    fn from_value(value: &[u8]) -> Tried<Self> {
        match value {
            [1] => Ok(Self::Kept),
            [2] => Ok(Self::Wanted),
            _ => Err(Trouble::record("a mark")),
        }
    }
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
        Ok(self.0.put(&id.0, &[mark as u8])?)
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
            Some(value) => Ok(Some(Mark::from_value(&value)?)),
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
        let mark = Mark::from_value(value)?;
        self.records.advance();
        Ok(Some((id, mark)))
    }
}
