//! Reading chunks: index, pack range, frame cache. Nothing leaves that was not verified.

use super::Repository;
use super::far::{FETCHERS, Far, Sealed};
use crate::fault::{Error, Fault, Result};
use crate::format::pack::Space;
use crate::id::{ChunkId, PackId};
use crate::index::{PackInfo, Place};
use crate::pack::open_frame;
use crate::seal::{Decompressor, Kind, PackCipher};
use crate::tree::Chunks;
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

/// Default bound of the frames that are kept, in raw bytes. With all the others that a mount has
/// (`mount/folders.rs` has the sum) it leaves that below 256 MiB.
const FRAMES_BYTES: usize = 48 << 20;
/// Most ciphers of packs that are kept; opening one costs 0.1 ms.
const CIPHERS_MAX: usize = 4096;
/// Raw bytes of frames that are decoded ahead of who reads a pack in its order. Three frames of small files, or 40 of
/// a big one: enough for two cores to be a READ of the kernel (1 MiB) ahead.
const AHEAD_BYTES: u32 = 2 << 20;
/// Most frames that wait to be fetched ahead; more are not taken.
const AHEAD_MAX: usize = 64;
/// A frame is read in order if so many before it were met just now. With one, each random read that lies across two
/// frames would have 2 MiB decoded for nothing: 8 % of them do, and that took 40 % of the time of all.
const RUN: u32 = 2;
/// Just now is within so many meetings: that many readers may take turns.
const NEAR: u64 = 32;
/// Threads that fetch ahead: decoding is over when the reader asks, on all cores.
const AHEAD_THREADS: usize = 2;

/// Bytes of a pack that the store is told of before they are read in their order: the step that is read, and the
/// next. Covers the latency of a disk, or of 4 requests to a server.
const PREFETCH_STEP: u32 = 4 << 20;

type FrameKey = (PackId, u32);
/// A frame to be fetched ahead.
type Asked = (Arc<PackInfo>, u32);

/// A decoded frame. Every chunk of it was hashed when it was decoded: its ids are proven, not promised.
struct Frame {
    raw: Bytes,
    /// Ids of its chunks in order, each with the byte behind its last one.
    chunks: Vec<(ChunkId, u32)>,
    pack: Arc<PackInfo>,
    number: u32,
    /// When somebody who waits for bytes met it, counted in such meetings; 0: it was only fetched ahead so far.
    met: AtomicU64,
}

impl Frame {
    /// The bytes of its chunk number `n`, which is one of them.
    fn nth(&self, n: usize) -> Bytes {
        let start = n.checked_sub(1).map_or(0, |before| self.chunks[before].1);
        self.raw.slice(start as usize..self.chunks[n].1 as usize)
    }
}

enum Slot {
    /// Somebody is decoding it.
    Coming,
    There {
        frame: Arc<Frame>,
        used: u64,
    },
}

/// Frames by age of use, and their chunks. Bounded by raw bytes.
#[derive(Default)]
struct Frames {
    slots: HashMap<FrameKey, Slot>,
    /// In which frame, and which chunk of it.
    chunks: HashMap<ChunkId, (FrameKey, u32)>,
    by_use: BTreeMap<u64, FrameKey>,
    tick: u64,
    bytes: usize,
}

impl Frames {
    fn touch(&mut self, key: &FrameKey) -> Option<Arc<Frame>> {
        self.tick += 1;
        let tick = self.tick;
        match self.slots.get_mut(key)? {
            Slot::Coming => None,
            Slot::There { frame, used } => {
                self.by_use.remove(used);
                *used = tick;
                self.by_use.insert(tick, *key);
                Some(frame.clone())
            }
        }
    }
    /// A chunk whose frame is here.
    fn chunk(&mut self, id: &ChunkId) -> Option<(Arc<Frame>, Bytes)> {
        let (key, n) = *self.chunks.get(id)?;
        let frame = self.touch(&key)?;
        let bytes = frame.nth(n as usize);
        Some((frame, bytes))
    }
    fn insert(&mut self, key: FrameKey, frame: &Arc<Frame>) {
        self.tick += 1;
        self.bytes += frame.raw.len();
        self.slots.insert(key, Slot::There { frame: frame.clone(), used: self.tick });
        for (n, (id, _)) in frame.chunks.iter().enumerate() {
            self.chunks.insert(*id, (key, n as u32));
        }
        self.by_use.insert(self.tick, key);
        while self.bytes > FRAMES_BYTES && self.by_use.len() > 1 {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            if let Some(Slot::There { frame, .. }) = self.slots.remove(&oldest) {
                self.bytes -= frame.raw.len();
                for (id, _) in &frame.chunks {
                    // A copy of the chunk in another frame may have taken its place.
                    if self.chunks.get(id).is_some_and(|(k, _)| *k == oldest) {
                        self.chunks.remove(id);
                    }
                }
            }
        }
    }
}

/// Ciphers of packs, by header as well: two entries may say different ones of a pack.
type Ciphers = HashMap<(PackId, Vec<u8>), Arc<PackCipher>>;

/// Reads chunks of one repository from any number of threads.
pub struct Reader {
    inner: Arc<Inner>,
    threads: Vec<JoinHandle<()>>,
}

struct Inner {
    repository: Arc<Repository>,
    frames: Mutex<Frames>,
    arrived: Condvar,
    /// How many frames were met.
    meetings: AtomicU64,
    ciphers: Mutex<Ciphers>,
    idle: Mutex<Vec<Decompressor>>,
    /// Frames that are to be fetched ahead; none once the reader is dropped.
    ahead: Mutex<Option<Sender<Asked>>>,
    /// Where the store is far.
    far: Option<Far>,
}

/// What a reader of a far store keeps in the cache folder, and takes from there. Of a near one nothing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// All that it reads: for who will read it again.
    All,
    /// Trees alone: contents are read once.
    Trees,
    /// Nothing, and takes nothing: for who must see what the store has.
    Nothing,
}

impl Repository {
    /// A reader with a frame cache of its own; one for each process is enough. Of a far store it keeps trees.
    pub fn reader(self: &Arc<Self>) -> Arc<Reader> {
        self.reader_keeping(Keep::Trees)
    }

    /// The same, which keeps other things.
    pub fn reader_keeping(self: &Arc<Self>, keep: Keep) -> Arc<Reader> {
        let far = self.store.nature().is_far.then(|| {
            let near = if keep == Keep::Nothing { None } else { self.near() };
            Far::new(self.store.clone(), near, keep == Keep::All)
        });
        let (ahead, asked) = bounded(AHEAD_MAX);
        let inner = Arc::new(Inner {
            repository: self.clone(),
            frames: Mutex::default(),
            arrived: Condvar::new(),
            meetings: AtomicU64::new(0),
            ciphers: Mutex::default(),
            idle: Mutex::default(),
            ahead: Mutex::new(Some(ahead)),
            far,
        });
        // Without the threads reading works as well, only slower.
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.into()).spawn(work).ok()
        };
        let decoding = |_| {
            let (inner, asked) = (inner.clone(), asked.clone());
            spawn("ahead", Box::new(move || fetch_ahead(&inner, &asked)))
        };
        let fetching = |_| {
            let inner = inner.clone();
            spawn("fetch", Box::new(move || inner.far.iter().for_each(Far::fetch_expected)))
        };
        let fetchers = if inner.far.is_some() { FETCHERS } else { 0 };
        let threads = (0..AHEAD_THREADS).filter_map(decoding).chain((0..fetchers).filter_map(fetching));
        let threads = threads.collect();
        Arc::new(Reader { inner, threads })
    }
}

impl Drop for Reader {
    /// Waits for the threads: a repository that the last of them let go of while the process ends would close its
    /// RocksDB when that library has been taken down already, and abort.
    fn drop(&mut self) {
        drop(self.inner.ahead.lock().take());
        self.inner.far.iter().for_each(Far::end);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn fetch_ahead(reader: &Inner, asked: &Receiver<Asked>) {
    while let Ok((pack, number)) = asked.recv() {
        if reader.ahead.lock().is_none() {
            return;
        }
        if reader.far.is_none() {
            reader.prefetch(&pack, number);
        }
        // Whoever needs the frame itself meets the error again, and reports it.
        let _ = reader.frame(&pack, number);
    }
}

/// Somebody decodes a frame. At the end, however it came, those who wait for it look again.
struct Coming<'a> {
    reader: &'a Inner,
    key: FrameKey,
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        let slots = &mut self.reader.frames.lock().slots;
        if matches!(slots.get(&self.key), Some(Slot::Coming)) {
            slots.remove(&self.key);
        }
        self.reader.arrived.notify_all();
    }
}

impl Chunks for Reader {
    fn chunk(&self, space: Space, id: &ChunkId) -> Result<Bytes> {
        Reader::chunk(self, space, id)
    }
    fn looks_ahead(&self) -> bool {
        self.inner.far.is_some()
    }
    fn expect(&self, ids: &[ChunkId]) {
        self.inner.expect(ids);
    }
}

impl Reader {
    /// The verified plaintext of a chunk: a cheap handle into its frame.
    ///
    /// # Errors
    /// `Damaged` when no copy of it is whole, with the packs that were tried; what the store says when it
    /// cannot be reached.
    pub fn chunk(&self, space: Space, id: &ChunkId) -> Result<Bytes> {
        self.inner.chunk(space, id)
    }

    /// The bytes of memory that each cache takes on the way to a chunk, by its name.
    pub fn caches(&self) -> Vec<(&'static str, usize)> {
        let Inner { repository, frames, far, .. } = &*self.inner;
        let (blocks, packs) = repository.index.get().map_or((0, 0), |(index, _)| index.held());
        let frames = frames.lock().bytes;
        vec![
            ("frames", frames),
            ("fetched", far.as_ref().map_or(0, Far::held)),
            ("packs", packs),
            ("index", blocks),
        ]
    }

    /// Whether these bytes are the data chunk of this id.
    pub fn is_data(&self, id: &ChunkId, bytes: &[u8]) -> bool {
        self.inner.repository.keys.ids.id(Kind::Data, bytes) == *id
    }

    /// The chunks of the frame that a chunk was read from, as long as that is kept: reading them decodes nothing more. None
    /// where the frame is not here.
    pub fn in_frame_of(&self, id: &ChunkId) -> Vec<ChunkId> {
        let found = self.inner.frames.lock().chunk(id);
        found.map(|(frame, _)| frame.chunks.iter().map(|(id, _)| *id).collect()).unwrap_or_default()
    }
}

impl Inner {
    fn chunk(&self, space: Space, id: &ChunkId) -> Result<Bytes> {
        // Ids of data and of trees are hashes under different keys: what is found by id is of its space.
        let here = self.frames.lock().chunk(id);
        if let Some((frame, bytes)) = here {
            self.met(&frame);
            return Ok(bytes);
        }
        self.repository.chunk_anywhere(space, id, || self.chunk_here(space, id))
    }

    /// As this repository itself has it.
    fn chunk_here(&self, space: Space, id: &ChunkId) -> Result<Bytes> {
        match self.try_places(space, id)? {
            Ok(bytes) => return Ok(bytes),
            Err(e) if e.fault() != Fault::Missing => return Err(e),
            Err(_) => {}
        }
        // A prune may have moved it: list the segments again, once.
        self.repository.sync_index()?;
        let found = self.try_places(space, id)?;
        found.map_err(|e| e.as_fault(Fault::Damaged))
    }

    /// What of these chunks is not here is fetched on other threads, where the store is far.
    fn expect(&self, ids: &[ChunkId]) {
        let (Some(far), Ok(index)) = (&self.far, self.repository.index()) else { return };
        let mut wanted: Vec<(Arc<PackInfo>, u32)> = Vec::new();
        for id in ids {
            if self.frames.lock().chunks.contains_key(id) {
                continue;
            }
            // What is wrong is told to who reads it.
            if let Some(place) = index.places(id).ok().and_then(|places| places.into_iter().next())
                && wanted.last().is_none_or(|(pack, n)| (pack.id, *n) != (place.pack.id, place.frame))
            {
                wanted.push((place.pack, place.frame));
            }
        }
        let frames = self.frames.lock();
        wanted.retain(|(pack, n)| !frames.slots.contains_key(&(pack.id, *n)));
        drop(frames);
        far.expect(wanted);
    }

    /// The outer error is the index's; the inner one tells why no place has the chunk, `Missing` when
    /// packs or entries are gone.
    fn try_places(&self, space: Space, id: &ChunkId) -> Result<Result<Bytes>> {
        let mut worst: Option<Error> = None;
        for place in self.repository.index()?.places(id)? {
            match self.at(&place, space, id) {
                Ok(bytes) => return Ok(Ok(bytes)),
                Err(e) => {
                    let e = e.while_(format!("reading chunk {} in pack {}", id.short(), place.pack.id));
                    // What is gone may be elsewhere by now; that outweighs other damage.
                    if worst.as_ref().is_none_or(|w| w.fault() != Fault::Missing) {
                        worst = Some(e);
                    }
                }
            }
        }
        Ok(Err(worst.unwrap_or_else(|| {
            let space = if space == Space::Data { "data" } else { "tree" };
            Error::new(Fault::Missing, format!("no index segment knows {space} chunk {id}"))
        })))
    }

    fn at(&self, place: &Place, space: Space, id: &ChunkId) -> Result<Bytes> {
        if place.pack.space != space {
            return Err(Error::damaged("the pack holds another kind of chunks"));
        }
        let frame = match self.frame(&place.pack, place.frame)? {
            // Another entry says other things of this pack, and its frame was decoded by that. (Of one and the same `Arc` nothing
            // is compared.)
            frame if frame.pack != place.pack => Arc::new(self.load(&place.pack, place.frame)?),
            frame => frame,
        };
        self.met(&frame);
        // What the index says of offset and length is a hint; what was proven is which chunk lies where.
        let there = |(n, (known, _)): (usize, &(ChunkId, u32))| (known == id).then_some(n);
        let found = frame.chunks.iter().enumerate().find_map(there);
        let found = found.ok_or_else(|| Error::damaged("the content is not what its id says"))?;
        Ok(frame.nth(found))
    }

    /// Who reads a pack in its order, frame after frame, finds the next ones decoded.
    fn met(&self, frame: &Frame) {
        if frame.met.load(Ordering::Relaxed) != 0 {
            return;
        }
        let now = self.meetings.fetch_add(1, Ordering::Relaxed) + 1;
        if frame.met.swap(now, Ordering::Relaxed) != 0 {
            return;
        }
        if frame.number == 0 {
            return;
        }
        let wanted: Vec<u32> = {
            let frames = self.frames.lock();
            let near = |number| match frames.slots.get(&(frame.pack.id, number)) {
                None => false,
                // Somebody waits for it, or it is fetched ahead itself.
                Some(Slot::Coming) => true,
                Some(Slot::There { frame, .. }) => match frame.met.load(Ordering::Relaxed) {
                    0 => false,
                    then => now.saturating_sub(then) <= NEAR,
                },
            };
            let mut run = (frame.number.saturating_sub(RUN)..frame.number).rev();
            if !run.all(near) {
                return;
            }
            let mut bytes = 0;
            let next = frame.pack.frames.iter().enumerate().skip(frame.number as usize + 1);
            next.take_while(|(_, at)| {
                bytes += at.raw_len;
                bytes <= AHEAD_BYTES
            })
            .map(|(n, _)| n as u32)
            .filter(|n| !frames.slots.contains_key(&(frame.pack.id, *n)))
            .collect()
        };
        if let Some(far) = &self.far {
            far.in_order(&frame.pack, frame.number);
        }
        let ahead = self.ahead.lock();
        for n in wanted {
            if ahead.as_ref().is_none_or(|a| a.try_send((frame.pack.clone(), n)).is_err()) {
                return;
            }
        }
    }

    /// Tells the store of the next step, once in each, and of what lies behind.
    fn prefetch(&self, pack: &PackInfo, number: u32) {
        let (Some(at), Some(before)) = (
            pack.frames.get(number as usize),
            number.checked_sub(1).and_then(|n| pack.frames.get(n as usize)),
        ) else {
            return;
        };
        let step = at.offset / PREFETCH_STEP;
        if number > 1 && step == before.offset / PREFETCH_STEP {
            return;
        }
        // Where reading in order is noticed first, the rest of this step is new as well.
        let from = if number > 1 { (step + 1) * PREFETCH_STEP } else { at.offset };
        let end = pack.frames.last().map_or(0, |f| f.offset + f.sealed_len).min((step + 2) * PREFETCH_STEP);
        let (store, name) = (&self.repository.store, pack_name(&pack.id));
        if from < end {
            store.prefetch(&name, from.into(), (end - from).into());
        }
        // The step before the last may still be read by another thread that is behind.
        if let Some(behind) = step.checked_sub(2) {
            store.release(&name, (behind * PREFETCH_STEP).into(), PREFETCH_STEP.into());
        }
    }

    /// A decoded frame, from the cache or the store; decoded once, however many ask at a time.
    fn frame(&self, pack: &Arc<PackInfo>, number: u32) -> Result<Arc<Frame>> {
        let key = (pack.id, number);
        {
            let mut frames = self.frames.lock();
            loop {
                if let Some(frame) = frames.touch(&key) {
                    return Ok(frame);
                }
                match frames.slots.get(&key) {
                    Some(_) => self.arrived.wait(&mut frames),
                    None => break,
                }
            }
            frames.slots.insert(key, Slot::Coming);
        }
        // Nobody waits for good for a frame that does not come, whatever the reason.
        let coming = Coming { reader: self, key };
        let frame = Arc::new(self.load(pack, number)?);
        self.frames.lock().insert(key, &frame);
        drop(coming);
        Ok(frame)
    }

    /// Reads, opens and hashes a frame.
    fn load(&self, pack: &Arc<PackInfo>, number: u32) -> Result<Frame> {
        let cipher = self.cipher(pack)?;
        let mut decompressor = match self.idle.lock().pop() {
            Some(d) => d,
            None => Decompressor::new()?,
        };
        let raw = match &self.far {
            Some(far) => self.open_far(far, pack, number, &cipher, &mut decompressor),
            None => self.repository.open_frame_of(pack, number, &cipher, &mut decompressor),
        };
        self.idle.lock().push(decompressor);
        let raw = raw?;
        let chunks = self.repository.chunk_ids(pack.space, &raw, pack.chunks_of(number))?;
        Ok(Frame { raw: Bytes::from(raw), chunks, pack: pack.clone(), number, met: AtomicU64::new(0) })
    }

    fn open_far(
        &self,
        far: &Far,
        pack: &Arc<PackInfo>,
        number: u32,
        cipher: &PackCipher,
        decompressor: &mut Decompressor,
    ) -> Result<Vec<u8>> {
        let sealed = match far.sealed(pack, number) {
            Ok(Sealed { bytes, is_kept: true }) => {
                let raw_len = pack.frames.get(number as usize).map_or(0, |f| f.raw_len as usize);
                match open_frame(cipher, &pack.header, number.into(), bytes, raw_len, decompressor) {
                    Ok(raw) => return Ok(raw),
                    // The copy is damaged: as if it were not there.
                    Err(_) => far.again(pack, number),
                }
            }
            sealed => sealed.map(|s| s.bytes),
        };
        self.repository.open_or_heal(pack, number, sealed, cipher, decompressor)
    }

    fn cipher(&self, pack: &PackInfo) -> Result<Arc<PackCipher>> {
        let id = (pack.id, pack.header.clone());
        if let Some(cipher) = self.ciphers.lock().get(&id) {
            return Ok(cipher.clone());
        }
        let cipher = Arc::new(self.repository.keys.open_pack(&pack.header)?);
        let mut ciphers = self.ciphers.lock();
        if ciphers.len() >= CIPHERS_MAX {
            ciphers.clear();
        }
        ciphers.insert(id, cipher.clone());
        Ok(cipher)
    }
}

impl Repository {
    /// The ids of the chunks that a decoded frame holds, computed from their bytes, each with the byte behind its last one.
    ///
    /// # Errors
    /// `Damaged` if the lengths go beyond the frame.
    pub(super) fn chunk_ids<'a>(
        &self,
        space: Space,
        raw: &[u8],
        lengths: impl IntoIterator<Item = &'a u32>,
    ) -> Result<Vec<(ChunkId, u32)>> {
        let kind = if space == Space::Data { Kind::Data } else { Kind::Tree };
        let (mut end, mut rest) = (0, raw);
        let mut chunks = Vec::new();
        for len in lengths {
            let (chunk, more) = rest
                .split_at_checked(*len as usize)
                .ok_or_else(|| Error::damaged("the index names more bytes than the frame has"))?;
            rest = more;
            end += len;
            chunks.push((self.keys.ids.id(kind, chunk), end));
        }
        Ok(chunks)
    }
}

pub(super) fn pack_name(id: &PackId) -> String {
    let hex = id.hex();
    format!("packs/{}/{hex}", &hex[..2])
}
