//! All chunks against all that is needed: one pass over two sorted sets.

use super::database::{Tried, Trouble};
use super::marks::{Mark, Marks, Sorted};
use super::record::{self, Spot};
use super::view::State;
use super::{Index, busy};
use crate::fault::Result;
use crate::id::{ChunkId, PackId};
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

/// A pack of the census.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pack {
    /// Which.
    pub id: PackId,
    /// Its length in bytes, by the entry that counts most.
    pub size: u64,
}

/// The packs that counting entries name.
#[derive(Clone, Debug, Default)]
pub struct Census {
    /// In no order, each once.
    pub packs: Vec<Pack>,
    /// Position and trust by the number of an entry.
    numbers: HashMap<u32, (usize, bool)>,
}

impl Index {
    /// Goes through all chunks that entries name or that are marked, in the order of their ids: each with its mark and with all
    /// its places, of which there are none for one that is lost. `begin` is told the packs first. Memory: about 100 bytes
    /// for each pack.
    ///
    /// # Errors
    /// What `each` says; `Busy` when the cache was damaged or deleted since the last listing: list, apply, and ask again.
    pub fn census(
        &self,
        marks: &Marks,
        begin: impl FnOnce(&Census) -> Result<()>,
        mut each: impl FnMut(&ChunkId, Option<Mark>, &[Lies]) -> Result<()>,
    ) -> Result<()> {
        self.catch_up()?;
        let state = self.state.read();
        if state.is_lost() {
            return Err(busy());
        }
        let mut census = state.packs_of_entries()?;
        // Those that wait in memory, as if they had numbers.
        let mut waiting = waiting(&state, &mut census);
        waiting.sort_by_key(|(id, _)| *id);
        begin(&census)?;
        let mut waiting = waiting.into_iter().peekable();
        let mut marks = Merge::new(marks.sorted())?;
        let mut stored = state.reader.records(&[record::CHUNK]);
        let mut places: Vec<Lies> = Vec::new();
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
                if let Some((pack, trusted)) = census.numbers.get(&number) {
                    let spot = Spot::decode(value).ok_or_else(bad)?;
                    places.push(Lies { pack: *pack, trusted: *trusted, frame: spot.frame, len: spot.len });
                }
                stored.advance();
            }
            while let Some((_, lies)) = waiting.next_if(|(at, _)| *at == id) {
                places.push(lies);
            }
            each(&id, marks.take(&id)?, &places)?;
        }
    }
}

fn chunk_of(key: &[u8]) -> Tried<ChunkId> {
    let id = key.get(1..).and_then(|k| k.first_chunk()).copied();
    id.map(ChunkId).ok_or_else(|| Trouble::record("a chunk"))
}

fn waiting(state: &State, census: &mut Census) -> Vec<(ChunkId, Lies)> {
    let mut at: HashMap<PackId, usize> = census.packs.iter().enumerate().map(|(n, p)| (p.id, n)).collect();
    let mut found = Vec::new();
    for pending in state.memory.segments.values() {
        let packs: Vec<(usize, bool)> = pending
            .packs
            .iter()
            .map(|p| {
                let info = &p.record.info;
                let position = *at.entry(info.id).or_insert_with(|| {
                    census.packs.push(Pack { id: info.id, size: info.size });
                    census.packs.len() - 1
                });
                (position, p.trusted)
            })
            .collect();
        for (id, position, spot) in &pending.chunks {
            let (pack, trusted) = packs[*position as usize];
            found.push((*id, Lies { pack, trusted, frame: spot.frame, len: spot.len }));
        }
    }
    found
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
    /// The mark of this chunk, if it is the next one.
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

impl State {
    /// The packs of the entries in the database that count.
    fn packs_of_entries(&self) -> Tried<Census> {
        let mut census = Census::default();
        let mut at: HashMap<PackId, usize> = HashMap::new();
        let mut trusted_sizes: HashMap<PackId, bool> = HashMap::new();
        self.reader.scan(record::PACK, |key, value| {
            let bad = || Trouble::record("a pack");
            let number = key.get(1..).and_then(record::number).ok_or_else(bad)?;
            let Some(trusted) = self.trusts(number) else { return Ok(()) };
            let (id, size) = record::PackRecord::id_and_size(value).ok_or_else(bad)?;
            let position = *at.entry(id).or_insert_with(|| {
                census.packs.push(Pack { id, size });
                census.packs.len() - 1
            });
            let known = trusted_sizes.entry(id).or_insert(trusted);
            if trusted && !*known {
                *known = true;
                census.packs[position].size = size;
            }
            census.numbers.insert(number, (position, trusted));
            Ok(())
        })?;
        Ok(census)
    }
}
