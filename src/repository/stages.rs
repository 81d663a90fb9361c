//! The stages that every new chunk walks through: chunks into frames, frames into packs, packs into the store, segments
//! as it goes.
//!
//! ```text
//! put: id, known? ─ frame ─► compress (one thread a core) ─► seal, pack ─► store ─► segment
//! ```
//! One direction, bounded channels. What fails anywhere stops everything, and the first error is the one that is told;
//! after it each stage drains its input, so that nobody waits for ever.

use super::Repository;
use super::reader::pack_name;
use crate::event::Event;
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::pack::{PackEntry, Space};
use crate::gauge::{Did, Gauge};
use crate::id::{ChunkId, PackId, SessionId};
use crate::index::{Claim, Claims};
use crate::pack::{Finished, PackWriter};
use crate::seal::{Cipher, Compression, Compressor, Kind};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A pack is finished once it is this long: few enough objects for a bucket, little to repeat after a failure.
const PACK_BYTES: usize = 32 << 20;
/// And once it names so many chunks: its entry, about 38 bytes for each, stays below 3 MiB, and the 8 of a
/// segment far below the limit of 64 MiB, however well chunks compress.
const PACK_CHUNKS: usize = 65_536;
/// Raw bytes of a frame of small files and of trees: better ratio, and one decrypt for many files (bench: 128 MB at 512 KiB
/// against 150 MB at 64 KiB, of 909 MB). A source tree is 3.4 % larger at 256 KiB than at 512, 0.9 % smaller at 640 and
/// 2.0 % at 1 MiB, which a reader of one small file would pay for with more decoding; a dictionary would save 0.5 to 1.4 %
/// (benches/README.md).
const FRAME_SMALL: usize = 640 << 10;
/// Raw bytes of a frame of a big file: a random read decodes no more than this. 128 KiB would save 1 to 6 % of databases, images and
/// mail, and 0 % of source (benches/README.md), and double what a random read decodes.
const FRAME_BIG: usize = 64 << 10;
/// Packs that one segment names at most (B5).
const SEGMENT_PACKS: usize = 8;
/// A segment is published at least this often while packs come (B5).
const SEGMENT_EVERY: Duration = Duration::from_secs(60);
/// Packs on their way to the store at a time; each holds up to [`PACK_BYTES`] of memory.
const UPLOADS: usize = 2;
/// The same to a far store, which takes most of the time to answer: with what sending takes 256 MiB in all.
const UPLOADS_FAR: usize = 4;
/// Room that a pack's buffer has from the start: up to [`PACK_BYTES`], one frame more, and the table.
const PACK_ROOM: usize = PACK_BYTES + (1 << 20);
/// Raw bytes of frames, at least, that go to the next stage together: one of small files, or about 7 of a big file. While those
/// were handed on one by one, half a megabyte waited at most, which was compressed while the reader waited for the disk once.
const LOT_BYTES: usize = FRAME_SMALL / 2;
/// Lots that wait for each compressing thread, and as many behind it: 2.5 MiB as a rule, 3.75 where small and big files take turns.
const LOTS_WAITING: usize = 4;
/// File records that wait for the next segment at most; more are dropped, which costs a second reading
/// after a kill and nothing else.
const RECORDS_MAX: usize = 200_000;

/// Which frames a chunk goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    /// Files up to a few chunks: they share frames.
    Small,
    /// Big files: small frames, for random reads.
    Big,
    /// Pages of trees.
    Trees,
}

impl Frames {
    const ALL: [Frames; 3] = [Frames::Small, Frames::Big, Frames::Trees];
    fn space(self) -> Space {
        if self == Frames::Trees { Space::Trees } else { Space::Data }
    }
    fn bytes(self) -> usize {
        if self == Frames::Big { FRAME_BIG } else { FRAME_SMALL }
    }
}

struct RawFrame {
    space: Space,
    raw: Vec<u8>,
    chunks: Vec<(ChunkId, u32)>,
}

struct Payload {
    space: Space,
    payload: Vec<u8>,
    chunks: Vec<(ChunkId, u32)>,
}

#[derive(Default)]
struct OpenFrame {
    raw: Vec<u8>,
    chunks: Vec<(ChunkId, u32)>,
}

/// What all threads of a writer share.
struct Shared {
    repository: Arc<Repository>,
    claims: Claims,
    session: SessionId,
    failed: AtomicBool,
    failure: Mutex<Option<Error>>,
    stored: AtomicU64,
    records: Mutex<Vec<([u8; 16], Vec<u8>)>>,
    gauges: Gauges,
}

/// One for each stage.
struct Gauges {
    compress: Arc<Gauge>,
    pack: Arc<Gauge>,
    store: Arc<Gauge>,
    segment: Arc<Gauge>,
}

impl Shared {
    fn fail(&self, e: Error) {
        self.failure.lock().get_or_insert(e);
        self.failed.store(true, Ordering::Relaxed);
    }
    fn failure(&self) -> Error {
        self.failure.lock().take().unwrap_or_else(|| Error::new(Fault::Stopped, "the writer has stopped"))
    }
}

/// The stages of one writer, from chunks to published segments. Dropped without `finish` it ends them, and what is not
/// published yet is found by nobody.
pub struct Stages {
    shared: Arc<Shared>,
    /// The index has yet to learn what others have added.
    is_behind: AtomicBool,
    frames: [OpenFrame; 3],
    /// Full frames that have not been handed on yet, and how long they are together.
    lot: Vec<RawFrame>,
    lot_bytes: usize,
    /// None: a dry run, which stores nothing.
    input: Option<Sender<Vec<RawFrame>>>,
    threads: Vec<JoinHandle<()>>,
    new_bytes: u64,
    /// Since it was asked for last.
    blocked: Duration,
}

impl Stages {
    /// What is written is `session`'s. What lies only in packs of `distrust` counts as unknown. The index must be up to a
    /// listing that is younger than the session (B1). With no `compression` it is a dry run: ids and numbers only.
    pub fn start(
        repository: &Arc<Repository>,
        session: SessionId,
        distrust: HashSet<PackId>,
        compression: Option<Compression>,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            repository: repository.clone(),
            claims: Claims::new(repository.index()?.clone(), distrust),
            session,
            failed: AtomicBool::new(false),
            failure: Mutex::default(),
            stored: AtomicU64::new(0),
            records: Mutex::default(),
            gauges: Gauges {
                compress: Gauge::new("compress"),
                pack: Gauge::new("seal"),
                store: Gauge::new("store"),
                segment: Gauge::new("index"),
            },
        });
        let (frames, lot, threads) = Default::default();
        let mut stages = Self {
            shared,
            is_behind: AtomicBool::new(false),
            frames,
            lot,
            lot_bytes: 0,
            input: None,
            threads,
            new_bytes: 0,
            blocked: Duration::ZERO,
        };
        if let Some(compression) = compression {
            stages.run(compression)?;
        }
        Ok(stages)
    }

    fn run(&mut self, compression: Compression) -> Result<()> {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let (input, frames) = bounded::<Vec<RawFrame>>(cores * LOTS_WAITING);
        let (payloads_in, payloads) = bounded::<Vec<Payload>>(cores * LOTS_WAITING);
        let is_far = self.shared.repository.store.nature().is_far;
        let uploads = if is_far { UPLOADS_FAR } else { UPLOADS };
        let (packs_in, packs) = bounded::<Finished>(0);
        let (entries_in, entries) = bounded::<PackEntry>(uploads);
        // Memory of packs goes round: new memory costs the kernel a page fault for each 4 KiB, a tenth of all time.
        let (spare_in, spare) = bounded::<Vec<u8>>(uploads);
        for _ in 0..cores {
            let (shared, frames, out) = (self.shared.clone(), frames.clone(), payloads_in.clone());
            let compressor = Compressor::new(compression)?;
            self.spawn("compress", move || compress(&shared, compressor, &frames, &out))?;
        }
        let shared = self.shared.clone();
        self.spawn("pack", move || pack(&shared, &payloads, &packs_in, &spare))?;
        for _ in 0..uploads {
            let (shared, packs, out) = (self.shared.clone(), packs.clone(), entries_in.clone());
            let spare = spare_in.clone();
            self.spawn("store", move || store(&shared, &packs, &out, &spare))?;
        }
        let shared = self.shared.clone();
        self.spawn("segment", move || publish(&shared, &entries))?;
        self.input = Some(input);
        Ok(())
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = std::thread::Builder::new().name(name.into()).spawn(work);
        self.threads.push(thread.doing(|| format!("starting the thread {name:?}"))?);
        Ok(())
    }

    /// The index is not up to a listing that is younger than the session: that is made good before it is asked anything.
    pub fn behind(&mut self) {
        *self.is_behind.get_mut() = true;
    }

    fn catch_up(&self) -> Result<()> {
        if self.is_behind.load(Ordering::Acquire) {
            self.shared.repository.sync_index()?;
            self.shared.repository.synced_now();
            self.is_behind.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Takes a chunk: gives its id, and whether it is new to the store.
    ///
    /// # Errors
    /// The first failure of any stage.
    pub fn put(&mut self, frames: Frames, bytes: &[u8]) -> Result<(ChunkId, bool)> {
        let kind = if frames == Frames::Trees { Kind::Tree } else { Kind::Data };
        let id = self.shared.repository.keys.ids.id(kind, bytes);
        Ok((id, self.put_as(frames, id, bytes)?))
    }

    /// Takes a chunk of this id: tells whether it is new to the store. Errors as of [`Stages::put`].
    pub fn put_as(&mut self, frames: Frames, id: ChunkId, bytes: &[u8]) -> Result<bool> {
        self.catch_up()?;
        let len = bytes.len() as u32;
        if let Claim::Known(_) = self.shared.claims.claim(&id, len)? {
            return Ok(false);
        }
        self.new_bytes += u64::from(len);
        if self.input.is_some() {
            let open = &mut self.frames[frames as usize];
            if !open.raw.is_empty() && open.raw.len() + bytes.len() > frames.bytes() {
                self.end_frame(frames)?;
            }
            let open = &mut self.frames[frames as usize];
            if open.raw.is_empty() {
                // The frame is full or the chunk is longer than a frame: no growing, which copies.
                open.raw.reserve_exact(frames.bytes().max(bytes.len()));
            }
            open.raw.extend_from_slice(bytes);
            open.chunks.push((id, len));
            if open.raw.len() >= frames.bytes() {
                self.end_frame(frames)?;
            }
        }
        Ok(true)
    }

    fn end_frame(&mut self, frames: Frames) -> Result<()> {
        let open = std::mem::take(&mut self.frames[frames as usize]);
        if open.chunks.is_empty() {
            return Ok(());
        }
        self.lot_bytes += open.raw.len();
        self.lot.push(RawFrame { space: frames.space(), raw: open.raw, chunks: open.chunks });
        if self.lot_bytes < LOT_BYTES { Ok(()) } else { self.hand_on() }
    }

    fn hand_on(&mut self) -> Result<()> {
        let lot = std::mem::take(&mut self.lot);
        self.lot_bytes = 0;
        let since = Instant::now();
        let sent = self.input.as_ref().is_some_and(|i| i.send(lot).is_ok());
        self.blocked += since.elapsed();
        if !sent || self.shared.failed.load(Ordering::Relaxed) {
            return Err(self.shared.failure());
        }
        Ok(())
    }

    /// Remembers, right before the next segment, that a file's content is stored: a killed backup need not read
    /// it again. The reader of the record looks whether the chunks are known.
    pub fn record(&self, key: [u8; 16], value: Vec<u8>) {
        let mut records = self.shared.records.lock();
        if records.len() < RECORDS_MAX {
            records.push((key, value));
        }
        let is_full = records.len() >= RECORDS_MAX;
        drop(records);
        if is_full && self.input.is_some() && self.shared.repository.keeps_files() {
            // What fails here fails again with the next segment, or costs time alone.
            let _ = self.keep_records();
        }
    }

    /// Puts the records that wait into the cache; what they say of chunks that are not stored in the end is not believed.
    fn keep_records(&self) -> Result<()> {
        let records = std::mem::take(&mut *self.shared.records.lock());
        if records.is_empty() {
            return Ok(());
        }
        self.shared.repository.index()?.apply(Vec::new(), &[], records)
    }

    /// Whether a chunk, of this length where it is known, is stored already, so that the snapshot may rely on it.
    pub fn knows(&self, id: &ChunkId, len: Option<u32>) -> bool {
        // An index that fails will say so when something is put; here it only costs a second reading.
        self.catch_up().and_then(|()| self.shared.claims.knows(id, len)).unwrap_or(false)
    }

    /// How long who puts had to wait for the stages since this was asked last.
    pub fn blocked(&mut self) -> Duration {
        std::mem::take(&mut self.blocked)
    }

    /// Bytes of new chunks so far, before compression.
    pub fn new_bytes(&self) -> u64 {
        self.new_bytes
    }

    /// Bytes of the packs and segments that were stored so far.
    pub fn stored_bytes(&self) -> u64 {
        self.shared.stored.load(Ordering::Relaxed)
    }

    /// The packs of others that were relied on so far.
    pub fn relied(&self) -> Vec<PackId> {
        self.shared.claims.relied()
    }

    /// Ends the stages; afterwards all packs and segments are durable.
    pub fn finish(&mut self) -> Result<()> {
        for frames in Frames::ALL {
            self.end_frame(frames)?;
        }
        if !self.lot.is_empty() {
            self.hand_on()?;
        }
        self.input = None;
        let ran = !self.threads.is_empty();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                self.shared.fail(Error::bug("a stage of the writer panicked"));
            }
        }
        if self.shared.repository.keeps_files() {
            // Whatever became of the rest: it is what the next backup knows by.
            self.keep_records()?;
        }
        let Gauges { compress, pack, store, segment } = &self.shared.gauges;
        for gauge in [compress, pack, store, segment].into_iter().filter(|_| ran) {
            self.shared.repository.observer.event(Event::Detail(&gauge.to_string()));
        }
        if self.shared.failed.load(Ordering::Relaxed) { Err(self.shared.failure()) } else { Ok(()) }
    }
}

impl Drop for Stages {
    fn drop(&mut self) {
        self.input = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn compress(
    s: &Shared,
    mut compressor: Compressor,
    input: &Receiver<Vec<RawFrame>>,
    out: &Sender<Vec<Payload>>,
) {
    let mut watch = s.gauges.compress.watch();
    for lot in input {
        watch.lap(Did::Starve);
        if s.failed.load(Ordering::Relaxed) {
            continue;
        }
        let compressed = lot.into_iter().map(|RawFrame { space, raw, chunks }| {
            compressor.payload(&raw).map(|payload| Payload { space, payload, chunks })
        });
        match compressed.collect() {
            Ok(payloads) => {
                watch.lap(Did::Work);
                let _ = out.send(payloads);
                watch.lap(Did::Block);
            }
            Err(e) => s.fail(e),
        }
    }
}

fn pack(s: &Shared, input: &Receiver<Vec<Payload>>, out: &Sender<Finished>, spare: &Receiver<Vec<u8>>) {
    let cipher = Cipher::from_code(s.repository.config.cipher).unwrap_or_default();
    let keys = s.repository.keys.pack_keys(cipher);
    let mut open: [Option<PackWriter>; 2] = [None, None];
    let mut watch = s.gauges.pack.watch();
    for lot in input {
        watch.lap(Did::Starve);
        for frame in lot {
            if s.failed.load(Ordering::Relaxed) {
                break;
            }
            let slot = &mut open[usize::from(frame.space == Space::Trees)];
            let mut pack = match slot.take() {
                Some(pack) => pack,
                None => match PackWriter::new(&keys, frame.space, room(spare)) {
                    Ok(pack) => pack,
                    Err(e) => {
                        s.fail(e);
                        break;
                    }
                },
            };
            pack.push(&frame.payload, &frame.chunks);
            if pack.len() >= PACK_BYTES || pack.chunks() >= PACK_CHUNKS {
                let finished = pack.finish();
                watch.lap(Did::Work);
                let _ = out.send(finished);
                watch.lap(Did::Block);
            } else {
                *slot = Some(pack);
            }
        }
        watch.lap(Did::Work);
    }
    watch.lap(Did::Starve);
    for pack in open.into_iter().flatten() {
        if !s.failed.load(Ordering::Relaxed) {
            let _ = out.send(pack.finish());
        }
    }
}

/// A buffer for a pack.
fn room(spare: &Receiver<Vec<u8>>) -> Vec<u8> {
    spare.try_recv().unwrap_or_else(|_| Vec::with_capacity(PACK_ROOM))
}

fn store(s: &Shared, input: &Receiver<Finished>, out: &Sender<PackEntry>, spare: &Sender<Vec<u8>>) {
    let mut watch = s.gauges.store.watch();
    for pack in input {
        watch.lap(Did::Starve);
        if s.failed.load(Ordering::Relaxed) {
            continue;
        }
        let put = s.repository.store.put(&pack_name(&pack.entry.pack), &pack.bytes);
        match put.and_then(|()| s.repository.put_parity(&pack.entry.pack, &pack.bytes)) {
            Ok(parity) => {
                s.stored.fetch_add(pack.entry.size + parity, Ordering::Relaxed);
                s.repository.keep_trees(&pack);
                let _ = out.send(pack.entry);
            }
            Err(e) => s.fail(e.while_("storing a pack")),
        }
        watch.lap(Did::Work);
        // Without a place for it the buffer goes back to the system.
        let _ = spare.try_send(pack.bytes);
    }
}

fn publish(s: &Shared, input: &Receiver<PackEntry>) {
    let mut waiting: Vec<PackEntry> = Vec::new();
    let mut since = Instant::now();
    let mut watch = s.gauges.segment.watch();
    loop {
        let left = SEGMENT_EVERY.saturating_sub(since.elapsed());
        let ended = match input.recv_timeout(left) {
            Ok(entry) => {
                if waiting.is_empty() {
                    since = Instant::now();
                }
                waiting.push(entry);
                false
            }
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => true,
        };
        watch.lap(Did::Starve);
        if waiting.len() >= SEGMENT_PACKS || ended || since.elapsed() >= SEGMENT_EVERY {
            since = Instant::now();
            let entries = std::mem::take(&mut waiting);
            // Also after a failure: these packs are durable, and the next backup shall find them.
            if !entries.is_empty()
                && let Err(e) = segment(s, &entries)
            {
                s.fail(e.while_("publishing an index segment"));
            }
        }
        watch.lap(Did::Work);
        if ended {
            return;
        }
    }
}

fn segment(s: &Shared, entries: &[PackEntry]) -> Result<()> {
    let index = s.repository.index()?;
    // First: who is killed in between leaves records of chunks that are not known, which nobody believes, and not chunks that
    // are known and files of which nothing is, which would all be read again. Even if the cache fails the packs are named.
    let records = std::mem::take(&mut *s.records.lock());
    let recorded = if records.is_empty() { Ok(()) } else { index.apply(Vec::new(), &[], records) };
    let published = s.repository.publish(s.session, entries, &[])?;
    s.stored.fetch_add(published.size, Ordering::Relaxed);
    for e in entries {
        s.claims.wrote(e.pack);
    }
    index.apply(vec![published.applied], &[], Vec::new())?;
    s.claims.published(entries.iter().flat_map(|e| e.ids.iter()));
    s.repository.observer.event(Event::Detail(&format!(
        "published index segment {} of {} packs",
        published.id.short(),
        entries.len()
    )));
    recorded
}
