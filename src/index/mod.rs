//! Which chunk lies where: the local, rebuildable view of a store's segments, in RocksDB.
//!
//! The truth is what the store lists now. The caller asks [`Index::segments`] what is here, **then** lists,
//! fetches and verifies what is missing and calls [`Index::apply`]; an entry counts while a segment that was
//! named so holds it. (The other way round, a segment that another thread publishes in between would seem
//! to be gone.) Deleting the cache loses nothing but time.
//!
//! Any number of processes share one cache. Each has its own opinion of which segments count (`view.rs`);
//! the database (`database.rs`) is where the entries of all of them lie, written by one at a time, in batches
//! that are whole or absent (`commit.rs`). What cannot be written now, because another writes or because it is
//! too little to be worth it, counts from memory.

mod census;
mod claims;
mod commit;
mod database;
mod marks;
mod record;
mod scratch;
#[cfg(test)]
mod tests;
mod view;

pub use census::{Census, Lies, Pack};
pub use claims::{Claim, Claims};
pub use marks::{Mark, Marks, Seen};

use crate::fault::{Error, Fault, Result};
use crate::format::pack::{PackEntry, Space};
use crate::format::segment::Retirement;
use crate::id::{ChunkId, PackId, SegmentId, SessionId};
use database::{Home, Lock, Tried, Trouble};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use view::{Memory, Pending, State};

/// So many segments, new or gone, wait in memory: opening the database for writing costs more than fetching
/// them again.
pub const SEGMENTS_IN_MEMORY: usize = 8;
/// So many chunks in sum wait in memory.
pub const CHUNKS_IN_MEMORY: usize = 2000;
/// How often a cache that cannot be opened is tried again before it is made anew: a writer may be at work.
const OPEN_TRIES: u32 = 3;
const OPEN_PAUSE: Duration = Duration::from_millis(50);

/// A frame in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameAt {
    /// Its first byte in the pack.
    pub offset: u32,
    /// Bytes in the pack.
    pub sealed_len: u32,
    /// Bytes before compression.
    pub raw_len: u32,
    /// Where its chunks begin in [`PackInfo::chunks`]; they end where those of the next frame begin.
    pub first: u32,
}

/// What is needed to read a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackInfo {
    /// Which pack.
    pub id: PackId,
    /// Its length in bytes.
    pub size: u64,
    /// A copy of its header.
    pub header: Vec<u8>,
    /// What it holds.
    pub space: Space,
    /// Its frames, in order.
    pub frames: Vec<FrameAt>,
    /// The lengths of all chunks, in the order of the frames: who decodes a frame can name all that is in it.
    pub chunks: Vec<u32>,
}

impl PackInfo {
    /// The lengths of the chunks of a frame.
    pub fn chunks_of(&self, frame: u32) -> &[u32] {
        let first = |n: usize| self.frames.get(n).map_or(self.chunks.len(), |f| f.first as usize);
        let frame = frame as usize;
        self.chunks.get(first(frame)..first(frame + 1)).unwrap_or_default()
    }
}

/// Where a chunk lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// In which pack.
    pub pack: Arc<PackInfo>,
    /// In which of its frames; always less than their number.
    pub frame: u32,
    /// First byte in the raw frame.
    pub offset: u32,
    /// Bytes; the end lies inside the raw frame.
    pub len: u32,
}

/// A verified entry of a segment.
#[derive(Clone, Debug)]
pub struct NewPack {
    /// What it says.
    pub entry: PackEntry,
    /// Signed by our own key or by a full key: its chunks are known to backups (rule B3).
    pub trusted: bool,
}

/// A verified segment.
#[derive(Clone, Debug)]
pub struct Applied {
    /// Which segment.
    pub segment: SegmentId,
    /// Its entries.
    pub packs: Vec<NewPack>,
    /// Its retirements, those that count.
    pub retired: Vec<Retirement>,
    /// The segments that it was merged from.
    pub replaces: Vec<SegmentId>,
}

/// What a segment says of a pack that was retired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retired {
    /// Which pack.
    pub pack: PackId,
    /// By which sweep.
    pub sweep: SessionId,
    /// When, in seconds by the store's clock.
    pub retired: i64,
    /// When it was deleted, likewise.
    pub deleted: Option<i64>,
}

impl Retired {
    fn of(r: &Retirement) -> Self {
        Self { pack: r.pack, sweep: r.sweep, retired: r.retired, deleted: r.deleted }
    }
}

/// How much the view holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Segments.
    pub segments: usize,
    /// Packs.
    pub packs: usize,
    /// Pairs of chunk and pack in the database; other processes' count as well.
    pub chunks_estimate: u64,
}

/// The index; see the head of this module. For any number of threads.
pub struct Index {
    home: Home,
    /// Taken before `state`; held by the one thread of this process that applies.
    applying: Mutex<()>,
    /// Look-ups hold it shared. Never taken while waiting for another process.
    state: RwLock<State>,
}

impl Index {
    /// Opens the cache folder `dir`, and makes it when it is not there. Everything that it holds counts until
    /// the first [`Index::apply`]. A damaged database is replaced by an empty one. `Denied` when the
    /// folder belongs to another user, `Busy` when the database must be made and another process keeps
    /// the lock.
    pub fn open(dir: &Path) -> Result<Self> {
        let home = Home::open(dir)?;
        let mut tries = 0;
        let state = loop {
            let name = match home.current()? {
                Some(name) => name,
                None => replace(&home, None)?,
            };
            match home.reader(&name).and_then(State::load) {
                Ok(state) => break state,
                Err(Trouble::Failed(e)) => return Err(e),
                Err(Trouble::Broken(e)) if tries > OPEN_TRIES => return Err(e),
                Err(Trouble::Broken(_)) if tries == OPEN_TRIES => {
                    replace(&home, Some(&name))?;
                }
                Err(Trouble::Broken(_)) => crate::clock::sleep(OPEN_PAUSE),
            }
            tries += 1;
        };
        if let Some(lock) = home.try_lock()? {
            home.clean(&lock);
        }
        Ok(Self { home, applying: Mutex::new(()), state: RwLock::new(state) })
    }

    /// The segments that count and whose entries are at hand. One that a later listing names and that is not among
    /// these must be fetched and applied; one that is among these and not listed is gone.
    pub fn segments(&self) -> Result<BTreeSet<SegmentId>> {
        self.catch_up()?;
        let found = self.read(State::segments)?;
        if self.state.read().is_lost() {
            self.state.write().told();
        }
        Ok(found)
    }

    /// Brings the view up to a listing: `new` counts from now on, `gone` no longer. `files` are added to the
    /// table of files; with them everything is written to the database at once. Where segments were merged, the new
    /// ones must come with the call that lets the old ones go, or before it: else their entries are
    /// dropped and stored again, and for a moment nothing knows of their retirements. When this returns, look-ups
    /// of this process see the change, even if the database could not be written because another process
    /// writes. `Damaged` when the numbers of an entry do not agree; then nothing was done.
    pub fn apply(
        &self,
        new: Vec<Applied>,
        gone: &[SegmentId],
        files: Vec<([u8; 16], Vec<u8>)>,
    ) -> Result<()> {
        let new = new.into_iter().map(Pending::new).collect::<Result<Vec<_>>>()?;
        let _one = self.applying.lock();
        self.catch_up()?;
        let mut state = self.state.write();
        // What is new first: an entry or a retirement that only moves from one segment to another never vanishes.
        for pending in new {
            state.keep(pending);
        }
        for id in gone {
            state.let_go(id);
        }
        state.applied();
        state.memory.files.extend(files.into_iter().map(|(k, v)| (k, Arc::from(v))));
        let small = is_small(&state.memory);
        drop(state);
        if small { Ok(()) } else { self.settle() }
    }

    /// All places of a chunk: those in packs that are not retired first, and among them the trusted ones. A
    /// caller that finds none, or none of them readable, lists, applies, and asks again, once.
    pub fn places(&self, id: &ChunkId) -> Result<Vec<Place>> {
        self.read(|s| s.places(id))
    }

    /// A pack that holds the chunk for sure: not retired, and vouched for by our own or a full key. `Busy` when
    /// the cache was damaged or deleted since the last listing: list, apply, and ask again.
    pub fn known(&self, id: &ChunkId) -> Result<Option<PackId>> {
        self.known_with(id, None, &HashSet::new())
    }

    /// The same, with this length if one is asked for, and in none of the packs of `except`.
    fn known_with(&self, id: &ChunkId, len: Option<u32>, except: &HashSet<PackId>) -> Result<Option<PackId>> {
        self.read(|s| s.known(id, len, except))
    }

    /// What is remembered of a file of an unfinished backup.
    pub fn file(&self, key: &[u8; 16]) -> Result<Option<Vec<u8>>> {
        self.read(|s| s.file(key))
    }

    /// Empties the table of files. While another process writes to the cache they stay where they are, which
    /// harms nobody: what is told of a file is as true as it was.
    pub fn forget_files(&self) -> Result<()> {
        let _one = self.applying.lock();
        self.state.write().memory.files.clear();
        self.catch_up()?;
        if !self.read(State::has_files)? {
            return Ok(());
        }
        let Some(lock) = self.home.lock(|| false)? else { return Ok(()) };
        if let Some(name) = self.home.current()? {
            match commit::forget_files(&self.home, &name, &lock) {
                Err(Trouble::Failed(e)) if e.fault() == Fault::Busy => return Ok(()),
                // The next command fills it anew, and the files are forgotten.
                Err(Trouble::Broken(_)) => drop(self.home.start_anew(&lock)?),
                other => other?,
            }
        }
        drop(lock);
        self.catch_up()
    }

    /// The sweeps whose retirements count here, but for those all of whose packs are deleted.
    pub fn sweeps(&self) -> Result<Vec<SessionId>> {
        Ok(self.state.read().sweeps())
    }

    /// Of the segments that count and name any of these packs: how many of them, and how many packs in all.
    pub fn segments_with(&self, packs: &HashSet<PackId>) -> Result<HashMap<SegmentId, (usize, usize)>> {
        self.read(|s| s.segments_with(packs))
    }

    /// The segments that count and were merged from others, with those others.
    pub fn merged(&self) -> Vec<(SegmentId, Vec<SegmentId>)> {
        self.state.read().merged()
    }

    /// What is said of packs that are retired, and by which segments.
    pub fn retirements(&self) -> Vec<(SegmentId, Retired)> {
        self.state.read().retirements()
    }

    /// How to read a pack that a counting entry names; what a trusted entry says goes first.
    pub fn pack(&self, id: &PackId) -> Result<Option<Arc<PackInfo>>> {
        self.read(|s| s.pack(id))
    }

    /// All packs that counting entries name, retired ones too; sorted.
    pub fn packs(&self) -> Result<Vec<PackId>> {
        self.read(State::packs)
    }

    /// How many packs that are not retired are named by no trusted entry.
    pub fn untrusted_packs(&self) -> Result<u64> {
        self.read(State::untrusted_packs)
    }

    /// How much there is.
    pub fn counts(&self) -> Result<Counts> {
        let count = |s: &State| {
            Ok(Counts {
                segments: s.segments()?.len(),
                packs: s.packs()?.len(),
                chunks_estimate: s.chunks_estimate()?,
            })
        };
        self.read(count)
    }

    /// Bytes of memory that blocks of the database take, and packs that are kept decoded.
    pub fn held(&self) -> (usize, usize) {
        (self.home.held(), self.state.read().held())
    }

    /// Sees what other processes wrote. What counts does not change, but for what they removed.
    pub fn catch_up(&self) -> Result<()> {
        match self.look() {
            Err(Trouble::Broken(_)) => {
                let opened = self.state.read().opened;
                self.reopen(opened)
            }
            other => Ok(other?),
        }
    }

    /// What waits in memory is in the database for the next process, unless another one is busy with it: where segments
    /// are dear to fetch, the few of the last time are not fetched again.
    ///
    /// # Errors
    /// As [`Index::apply`].
    pub fn persist(&self) -> Result<()> {
        let _one = self.applying.lock();
        if self.state.read().memory.is_empty() { Ok(()) } else { self.settle() }
    }

    /// Moves what waits in memory into the database, unless another process is busy with it.
    fn settle(&self) -> Result<()> {
        let adopted = || {
            let _ = self.look();
            self.state.read().memory.is_empty()
        };
        let Some(lock) = self.home.lock(adopted)? else { return Ok(()) };
        let mut name = match self.home.current()? {
            Some(name) => name,
            None => self.home.start_anew(&lock)?,
        };
        // Only to see what another has written already; trouble with it shows below.
        let _ = self.look();
        let load = self.load();
        if load.is_empty() {
            return Ok(());
        }
        let (writer, tally) = match commit::write(&self.home, &name, &lock, &load) {
            Err(Trouble::Broken(_)) => {
                name = self.home.start_anew(&lock)?;
                commit::write(&self.home, &name, &lock, &load)?
            }
            // RocksDB has a lock of its own; somebody who does not know ours may have it.
            Err(Trouble::Failed(e)) if e.fault() == Fault::Busy => return Ok(()),
            other => other?,
        };
        // With this, what was written counts from the database and waits no longer.
        self.look_or_reopen(&name)?;
        let mut state = self.state.write();
        state.memory.gone.clear();
        state.memory.files.clear();
        drop(state);
        writer.settle();
        commit::purge(&self.home, &name, &lock, writer, &tally)?;
        self.look_or_reopen(&name)
    }

    /// [`Index::catch_up`] for who holds the lock, and so must not wait for it.
    fn look_or_reopen(&self, name: &str) -> Result<()> {
        match self.look() {
            Err(Trouble::Broken(_)) => {
                let reader = self.home.reader(name)?;
                Ok(self.state.write().swap(reader)?)
            }
            other => Ok(other?),
        }
    }

    /// A copy of what waits; cheap, as all that is big is shared.
    fn load(&self) -> Memory {
        let state = self.state.read();
        let memory = &state.memory;
        Memory { segments: memory.segments.clone(), gone: memory.gone.clone(), files: memory.files.clone() }
    }

    /// Sees what was written, in the database that is in use now.
    fn look(&self) -> Tried<()> {
        let current = self.home.current()?;
        let state = self.state.read();
        // No name at all: somebody deleted the cache. The files that are open go on serving.
        if let Some(name) = current.filter(|name| *name != state.reader.name()) {
            drop(state);
            let reader = self.home.reader(&name)?;
            return self.state.write().swap(reader);
        }
        if std::fs::exists(self.home.path_of(state.reader.name())).unwrap_or(true) {
            state.reader.catch_up()?;
        }
        if state.is_stale()? {
            drop(state);
            self.state.write().refresh()?;
        }
        Ok(())
    }

    /// Asks the state; if the database turns out to be broken, opens it again (files may have been moved under
    /// us), then makes it anew.
    fn read<T>(&self, ask: impl Fn(&State) -> Tried<T>) -> Result<T> {
        let mut tries = 0;
        loop {
            let (opened, name) = {
                let state = self.state.read();
                match ask(&state) {
                    Ok(answer) => return Ok(answer),
                    Err(Trouble::Broken(_)) if tries < 2 => (state.opened, state.reader.name().to_owned()),
                    Err(trouble) => return Err(trouble.into()),
                }
            };
            if tries == 0 {
                self.reopen(opened)?
            } else {
                self.make_anew(&name)?
            }
            tries += 1;
        }
    }

    /// Opens the database again, unless another thread has just done so; makes it anew if that fails.
    fn reopen(&self, opened: u64) -> Result<()> {
        let name = self.home.current()?;
        let tried = name.as_deref().map(|name| self.home.reader(name));
        let mut state = self.state.write();
        if state.opened != opened {
            return Ok(());
        }
        let tried = match tried {
            Some(Ok(reader)) => state.swap(reader),
            Some(Err(trouble)) => Err(trouble),
            None => Err(Trouble::record("the database")),
        };
        let broken = state.reader.name().to_owned();
        drop(state);
        match tried {
            Err(Trouble::Broken(_)) => self.make_anew(name.as_deref().unwrap_or(&broken)),
            other => Ok(other?),
        }
    }

    fn make_anew(&self, broken: &str) -> Result<()> {
        let name = replace(&self.home, Some(broken))?;
        let reader = self.home.reader(&name)?;
        Ok(self.state.write().swap(reader)?)
    }
}

fn is_small(memory: &Memory) -> bool {
    memory.files.is_empty()
        && memory.segments.len() + memory.gone.len() <= SEGMENTS_IN_MEMORY
        && memory.chunks() <= CHUNKS_IN_MEMORY
}

/// Makes the cache folder `dir` when it is not there, closed to others. `Denied` when it belongs to another user.
pub fn claim(dir: &Path) -> Result<()> {
    database::claim(dir)
}

/// Puts an empty database in the place of `broken`, or of none, unless somebody else did; its name.
fn replace(home: &Home, broken: Option<&str>) -> Result<String> {
    let done = |home: &Home| home.current().map(|now| now.filter(|now| Some(now.as_str()) != broken));
    let lock: Option<Lock> = home.lock(|| matches!(done(home), Ok(Some(_))))?;
    if let Some(name) = done(home)? {
        return Ok(name);
    }
    match lock {
        Some(lock) => home.start_anew(&lock),
        None => Err(busy()),
    }
}

fn busy() -> Error {
    Error::new(Fault::Busy, "another process writes to the index cache")
}
