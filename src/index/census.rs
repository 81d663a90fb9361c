//! All chunks against all that is needed: one pass over two sorted sets.

use super::database::{Tried, Trouble};
use super::marks::{Mark, Marks, Sorted};
use super::record::{self, Spot};
use super::view::State;
use super::{Index, busy};
use crate::fault::Result;
use crate::id::{ChunkId, PackId};
use parking_lot::RwLockReadGuard;
use std::collections::HashMap;

/// Where one entry of a pack says that a chunk lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lies {
    /// Position in [`Census::packs`].
    pub pack: usize,
    /// An entry that our own or a full key signed says so.
    pub trusted: bool,
    /// In which frame.
    pub frame: u32,
    /// Bytes before compression.
    pub len: u32,
}

impl Lies {
    /// Whether trusted entries give a chunk different lengths: they cannot all be true.
    pub fn disagree<'a>(places: impl Iterator<Item = &'a Self>) -> bool {
        let mut lens = places.filter(|l| l.trusted).map(|l| l.len);
        let first = lens.next();
        first.is_some_and(|first| lens.any(|len| len != first))
    }
}

/// A pack of the census.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pack {
    /// Which.
    pub id: PackId,
    /// Its length in bytes, by the entry that counts most.
    pub size: u64,
}

/// Position in [`Census::packs`], and trust, by the number of an entry.
type Numbers = HashMap<u32, (usize, bool)>;

/// All that counting entries say, held still.
pub struct Census<'a> {
    /// The packs, in no order, each once.
    pub packs: Vec<Pack>,
    numbers: Numbers,
    /// Chunks of entries that wait in memory, sorted.
    waiting: Vec<(ChunkId, Lies)>,
    marks: &'a Marks,
    state: RwLockReadGuard<'a, State>,
}

impl Index {
    /// The packs and chunks that counting entries name, to be held against what is marked. While it lives nothing else may be
    /// asked of the index by this thread. Memory: about 100 bytes for each pack.
    ///
    /// # Errors
    /// `Busy` when the cache was damaged or deleted since the last listing: list, apply, and ask again.
    pub fn census<'a>(&'a self, marks: &'a Marks) -> Result<Census<'a>> {
        self.catch_up()?;
        let state = self.state.read();
        if state.is_lost() {
            return Err(busy());
        }
        let (packs, numbers) = packs_of_entries(&state)?;
        let mut census = Census { packs, numbers, waiting: Vec::new(), marks, state };
        census.waiting();
        Ok(census)
    }
}

impl Census<'_> {
    /// Goes through all chunks that are named or marked, in the order of their ids: each with its marks in their order, and
    /// with all its places, of which there are none for one that is lost.
    ///
    /// # Errors
    /// What `each` says; what the cache's disk says.
    pub fn each(&self, mut each: impl FnMut(&ChunkId, &[Mark], &[Lies]) -> Result<()>) -> Result<()> {
        let mut waiting = self.waiting.iter().peekable();
        let mut marks = Merge::new(self.marks.sorted()?)?;
        let mut stored = self.state.reader.records(&[record::CHUNK]);
        let (mut places, mut of): (Vec<Lies>, Vec<Mark>) = Default::default();
        loop {
            let at_stored = match stored.item()? {
                Some((key, _)) => Some(chunk_of(key)?),
                None => None,
            };
            let at_waiting = waiting.peek().map(|(id, _)| *id);
            let next = [at_stored, at_waiting, marks.at()].into_iter().flatten().min();
            let Some(id) = next else { return Ok(()) };
            places.clear();
            while let Some((key, value)) = stored.item()?
                && chunk_of(key)? == id
            {
                let bad = || Trouble::record("a chunk");
                let number = record::chunk_number(key).ok_or_else(bad)?;
                // Others are dead, or do not count here.
                if let Some((pack, trusted)) = self.numbers.get(&number) {
                    let spot = Spot::decode(value).ok_or_else(bad)?;
                    places.push(Lies { pack: *pack, trusted: *trusted, frame: spot.frame, len: spot.len });
                }
                stored.advance();
            }
            while let Some((_, lies)) = waiting.next_if(|(at, _)| *at == id) {
                places.push(*lies);
            }
            of.clear();
            while let Some(mark) = marks.take(&id)? {
                of.push(mark);
            }
            each(&id, &of, &places)?;
        }
    }

    fn waiting(&mut self) {
        let mut at: HashMap<PackId, usize> = self.packs.iter().enumerate().map(|(n, p)| (p.id, n)).collect();
        for pending in self.state.memory.segments.values() {
            let mut positions = Vec::new();
            for p in &pending.packs {
                let info = &p.record.info;
                let position = *at.entry(info.id).or_insert_with(|| {
                    self.packs.push(Pack { id: info.id, size: info.size });
                    self.packs.len() - 1
                });
                positions.push((position, p.trusted));
            }
            for (id, position, spot) in &pending.chunks {
                let (pack, trusted) = positions[*position as usize];
                self.waiting.push((*id, Lies { pack, trusted, frame: spot.frame, len: spot.len }));
            }
        }
        self.waiting.sort_by_key(|(id, _)| *id);
    }
}

fn chunk_of(key: &[u8]) -> Tried<ChunkId> {
    let id = key.get(1..).and_then(|k| k.first_chunk()).copied();
    id.map(ChunkId).ok_or_else(|| Trouble::record("a chunk"))
}

/// Marks, one ahead.
struct Merge<'a> {
    sorted: Sorted<'a>,
    next: Option<(ChunkId, Mark)>,
}

impl<'a> Merge<'a> {
    fn new(mut sorted: Sorted<'a>) -> Tried<Self> {
        let next = sorted.next()?;
        Ok(Self { sorted, next })
    }
    fn at(&self) -> Option<ChunkId> {
        self.next.map(|(id, _)| id)
    }
    /// The next mark, if it is of this chunk.
    fn take(&mut self, id: &ChunkId) -> Tried<Option<Mark>> {
        match self.next {
            Some((at, mark)) if at == *id => {
                self.next = self.sorted.next()?;
                Ok(Some(mark))
            }
            _ => Ok(None),
        }
    }
}

/// The packs of the entries in the database that count, and those entries by their numbers.
fn packs_of_entries(state: &State) -> Tried<(Vec<Pack>, Numbers)> {
    let mut packs: Vec<Pack> = Vec::new();
    let mut numbers = HashMap::new();
    // Position, and whether a trusted entry told the size.
    let mut at: HashMap<PackId, (usize, bool)> = HashMap::new();
    state.reader.scan(record::PACK, |key, value| {
        let bad = || Trouble::record("a pack");
        let number = key.get(1..).and_then(record::number).ok_or_else(bad)?;
        let Some(trusted) = state.trusts(number) else { return Ok(()) };
        let (id, size) = record::PackRecord::id_and_size(value).ok_or_else(bad)?;
        let (position, known) = at.entry(id).or_insert_with(|| {
            packs.push(Pack { id, size });
            (packs.len() - 1, trusted)
        });
        if trusted && !*known {
            *known = true;
            packs[*position].size = size;
        }
        numbers.insert(number, (*position, trusted));
        Ok(())
    })?;
    Ok((packs, numbers))
}
