//! What a walk through snapshots has met: sets of chunk ids on disk, with marks. Memory does not grow with them.
//!
//! Two of them, since a look-up costs more than all else: [`Marks`] are only written, in any order, and read in the order of
//! the ids once the walk is over; they may hold every chunk of a repository. [`Seen`] is asked while it is written, and
//! is for pages of trees, of which there are few.

use super::Index;
use super::database::{Tried, Trouble};
use super::scratch::Scratch;
use crate::fault::Result;
use crate::id::{ChunkId, ID_LEN};
use parking_lot::Mutex;

/// What the one who marks means by it.
pub type Mark = u32;

fn decode(value: &[u8]) -> Tried<Mark> {
    Ok(Mark::from_be_bytes(value.try_into().map_err(|_| Trouble::record("a mark"))?))
}

/// A chunk and one of its marks: in the order of bytes that of [`Sorted`].
type Key = [u8; ID_LEN + size_of::<Mark>()];

/// So many marks wait in memory, 32 MiB, and are sorted there: many times as fast as by RocksDB, which keeps a skip list of
/// them. 10 million marks are 11 runs.
const RUN_LEN: usize = (32 << 20) / size_of::<Key>();

/// Chunks with any number of different marks each; gone with the value. For any number of threads.
pub struct Marks {
    runs: Scratch,
    /// Not in a run yet.
    waiting: Mutex<Vec<Key>>,
}

/// Chunks with one mark each; gone with the value. For any number of threads.
pub struct Seen(Scratch);

impl Index {
    /// An empty set of marks, in this cache.
    ///
    /// # Errors
    /// What the cache's disk says.
    pub fn marks(&self) -> Result<Marks> {
        Ok(Marks { runs: self.home.scratch()?, waiting: Mutex::default() })
    }

    /// An empty set of what was seen, in this cache.
    ///
    /// # Errors
    /// What the cache's disk says.
    pub fn seen(&self) -> Result<Seen> {
        Ok(Seen(self.home.scratch()?))
    }
}

impl Marks {
    /// Adds a mark to those that a chunk has; the same one again changes nothing.
    ///
    /// # Errors
    /// What the cache's disk says.
    pub fn add(&self, id: &ChunkId, mark: Mark) -> Result<()> {
        let mut key: Key = [0; _];
        let (of, at) = key.split_at_mut(ID_LEN);
        of.copy_from_slice(&id.0);
        at.copy_from_slice(&mark.to_be_bytes());
        let mut waiting = self.waiting.lock();
        waiting.push(key);
        match waiting.len() < RUN_LEN {
            true => Ok(()),
            false => Ok(self.settle(&mut waiting)?),
        }
    }

    /// What waits becomes a run.
    fn settle(&self, waiting: &mut Vec<Key>) -> Tried<()> {
        waiting.sort_unstable();
        waiting.dedup();
        self.runs.put_run(waiting.iter().map(Key::as_slice))?;
        waiting.clear();
        Ok(())
    }

    /// The greatest mark of a chunk. For a few of them; who asks for many asks [`super::Census::each`].
    ///
    /// # Errors
    /// What the cache's disk says.
    pub fn greatest(&self, id: &ChunkId) -> Result<Option<Mark>> {
        self.settle(&mut self.waiting.lock())?;
        let mut greatest = None;
        self.runs.find(&id.0, |key, _| {
            greatest = greatest.max(Some(decode(&key[ID_LEN..])?));
            Ok(())
        })?;
        Ok(greatest)
    }

    pub(super) fn sorted(&self) -> Tried<Sorted<'_>> {
        let mut waiting = self.waiting.lock();
        self.settle(&mut waiting)?;
        // The walk is over.
        waiting.shrink_to_fit();
        Ok(Sorted { records: self.runs.records(&[]) })
    }
}

impl Seen {
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
}

/// Marks in the order of their ids, and of one chunk in their own order.
pub(super) struct Sorted<'a> {
    records: super::database::Records<'a>,
}

impl Sorted<'_> {
    /// The next mark.
    pub fn next(&mut self) -> Tried<Option<(ChunkId, Mark)>> {
        let Some((key, _)) = self.records.item()? else { return Ok(None) };
        let (id, mark) = key.split_first_chunk::<ID_LEN>().ok_or_else(|| Trouble::record("a mark"))?;
        let next = (ChunkId(*id), decode(mark)?);
        self.records.advance();
        Ok(Some(next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn index() -> (Index, PathBuf) {
        let name = crate::id::hex(&crate::clock::random_array::<4>());
        let dir = std::env::temp_dir().join(format!("pastfs-marks-{name}"));
        (Index::open(&dir).unwrap(), dir)
    }

    fn id(n: u32) -> ChunkId {
        ChunkId(*blake3::hash(&n.to_le_bytes()).as_bytes())
    }

    #[test]
    fn marks_come_in_order_each_once_however_often_and_in_how_many_runs_they_were_added() {
        let (index, dir) = index();
        let marks = index.marks().unwrap();
        let mut expected = Vec::new();
        for round in 0..3u32 {
            for n in 0..2000 {
                marks.add(&id(n), n % 3 * 7).unwrap();
                marks.add(&id(n), 300 + round % 2).unwrap();
                expected.extend([(id(n), n % 3 * 7), (id(n), 300 + round % 2)]);
            }
            // Ends a run.
            assert_eq!(marks.greatest(&id(round)).unwrap(), Some(if round == 0 { 300 } else { 301 }));
        }
        assert_eq!(marks.greatest(&id(2000)).unwrap(), None);
        expected.sort();
        expected.dedup();
        let (mut sorted, mut found) =
            (marks.sorted().map_err(crate::fault::Error::from).unwrap(), Vec::new());
        while let Some(next) = sorted.next().map_err(crate::fault::Error::from).unwrap() {
            found.push(next);
        }
        assert!(found == expected);
        drop(sorted);
        drop(marks);
        let left = std::fs::read_dir(dir.join("marks")).unwrap().count();
        assert_eq!(left, 0, "gone with the value");
        drop(index);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_was_seen_is_raised_and_never_lowered() {
        let (index, dir) = index();
        let seen = index.seen().unwrap();
        assert!(seen.raise(&id(1), 1).unwrap());
        assert!(!seen.raise(&id(1), 1).unwrap());
        assert!(seen.raise(&id(1), 2).unwrap());
        assert!(!seen.raise(&id(1), 1).unwrap());
        assert_eq!((seen.get(&id(1)).unwrap(), seen.get(&id(2)).unwrap()), (Some(2), None));
        drop((seen, index));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
