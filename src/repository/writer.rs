//! Writing: chunks into frames, frames into packs, packs into the store, segments as it goes, and the
//! one function that commits.
//!
//! ```text
//! put: id, known? ─ frame ─► compress (one thread a core) ─► seal, pack ─► store ─► segment
//! ```
//! One direction, bounded channels. What fails anywhere stops everything, and the first error is the
//! one that is told.

use super::Repository;
use super::lease::{self, Begun, Held};
use super::listing::{Listing, Snapshot, note_name, segment_name};
use super::reader::pack_name;
use crate::clock::{self, Time};
use crate::event::{Event, Stop};
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::object::Kind as Object;
use crate::format::pack::{PackEntry, Space};
use crate::format::segment::{Segment, Signature, Vouched};
use crate::format::snapshot::{Action, Manifest, Note, Private, Totals};
use crate::id::{ChunkId, NoteId, PackId, SegmentId, SessionId, SnapshotId};
use crate::index::{Claim, Claims};
use crate::pack::{Finished, PackWriter};
use crate::seal::{Cipher, Compression, Compressor, Kind};
use crate::tree::Sink;
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
/// Raw bytes of a frame of small files and of trees: better ratio, and one decrypt for many files
/// (bench: 128 MB at 512 KiB against 150 MB at 64 KiB, of 909 MB).
const FRAME_SMALL: usize = 512 << 10;
/// Raw bytes of a frame of a big file: a random read decodes no more than this.
const FRAME_BIG: usize = 64 << 10;
/// Packs that one segment names at most (B5).
const SEGMENT_PACKS: usize = 8;
/// A segment is published at least this often while packs come (B5).
const SEGMENT_EVERY: Duration = Duration::from_secs(60);
/// Packs on their way to the store at a time; each holds up to [`PACK_BYTES`] of memory.
const UPLOADS: usize = 2;
/// Frames that wait for each compressing thread.
const FRAMES_WAITING: usize = 4;
/// Above so many foreign packs one list of `packs/` is cheaper than a look at each (B6).
const LOOK_EACH_MAX: usize = 500;
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

/// For a new writer.
pub struct WriterOptions {
    /// Of new frames.
    pub compression: Compression,
    /// Whose backup it is.
    pub host: Vec<u8>,
    /// Nothing is written; ids and numbers only.
    pub dry_run: bool,
    /// Packs that were found missing: what they hold does not count as known.
    pub distrust: HashSet<PackId>,
    /// Ends the work.
    pub stop: Stop,
}

/// What the backup knows when it commits; the rest of the manifest is the writer's.
pub struct Draft {
    /// The time that names the snapshot; now, unless asked for otherwise.
    pub time: Option<Time>,
    /// Host name.
    pub host: Vec<u8>,
    /// Tags.
    pub tags: Vec<Vec<u8>>,
    /// Root page.
    pub root: ChunkId,
    /// What it was compared with.
    pub parent: Option<SnapshotId>,
    /// Counts; what was stored is filled in.
    pub totals: Totals,
    /// Paths, and what was not read.
    pub private: Private,
}

/// How a commit ended.
pub enum Commit {
    /// The snapshot is there, whole and durable.
    Done(SnapshotId, Totals),
    /// Prune took the session for dead, or packs that it relied on are gone: start over, without
    /// trusting those packs. What was uploaded is found again.
    Again(HashSet<PackId>, Error),
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

/// Writes one snapshot. Dropped without `commit` or `abandon` it leaves its lease to expire.
pub struct Writer {
    shared: Arc<Shared>,
    lease: Option<Held>,
    frames: [OpenFrame; 3],
    input: Option<Sender<RawFrame>>,
    threads: Vec<JoinHandle<()>>,
    /// Bytes of new chunks.
    new_bytes: u64,
    live: Vec<Arc<Snapshot>>,
    began: Time,
    stop: Stop,
    current: Frames,
}

impl Writer {
    /// Takes a lease, lists, and gets ready (B1 to B3).
    pub fn begin(repository: &Arc<Repository>, options: WriterOptions) -> Result<Self> {
        let began = clock::now();
        let (lease, listing, session) = if options.dry_run {
            let listing = repository.list()?;
            repository.sync_index()?;
            (None, listing, SessionId([0; 16]))
        } else {
            let (held, listing) = lease(repository, &options.host)?;
            let session = held.session();
            (Some(held), listing, session)
        };
        let shared = Arc::new(Shared {
            repository: repository.clone(),
            claims: Claims::new(repository.index()?.clone(), options.distrust),
            session,
            failed: AtomicBool::new(false),
            failure: Mutex::default(),
            stored: AtomicU64::new(0),
            records: Mutex::default(),
        });
        let mut writer = Self {
            live: listing.live(),
            shared,
            lease,
            frames: Default::default(),
            input: None,
            threads: Vec::new(),
            new_bytes: 0,
            began,
            stop: options.stop,
            current: Frames::Small,
        };
        if !options.dry_run {
            writer.start(options.compression)?;
        }
        Ok(writer)
    }

    /// The snapshots that were there when the lease was; the parent comes from these (B2).
    pub fn live(&self) -> &[Arc<Snapshot>] {
        &self.live
    }

    fn start(&mut self, compression: Compression) -> Result<()> {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let (input, frames) = bounded::<RawFrame>(cores * FRAMES_WAITING);
        let (payloads_in, payloads) = bounded::<Payload>(cores * FRAMES_WAITING);
        let (packs_in, packs) = bounded::<Finished>(0);
        let (entries_in, entries) = bounded::<PackEntry>(UPLOADS);
        for _ in 0..cores {
            let (shared, frames, out) = (self.shared.clone(), frames.clone(), payloads_in.clone());
            let compressor = Compressor::new(compression)?;
            self.spawn("compress", move || compress(&shared, compressor, &frames, &out))?;
        }
        let shared = self.shared.clone();
        self.spawn("pack", move || pack(&shared, &payloads, &packs_in))?;
        for _ in 0..UPLOADS {
            let (shared, packs, out) = (self.shared.clone(), packs.clone(), entries_in.clone());
            self.spawn("store", move || store(&shared, &packs, &out))?;
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

    /// Which frames the data chunks that follow go to.
    pub fn frames(&mut self, frames: Frames) {
        self.current = frames;
    }

    /// Takes a chunk: gives its id, and whether it is new to the store.
    ///
    /// # Errors
    /// `Stopped` once somebody has asked; the first failure of any stage.
    pub fn put_in(&mut self, frames: Frames, bytes: &[u8]) -> Result<(ChunkId, bool)> {
        self.stop.check()?;
        let kind = if frames == Frames::Trees { Kind::Tree } else { Kind::Data };
        let s = &self.shared;
        let id = s.repository.keys.ids.id(kind, bytes);
        let len = bytes.len() as u32;
        if let Claim::Known(_) = s.claims.claim(&id, len)? {
            return Ok((id, false));
        }
        self.new_bytes += u64::from(len);
        if self.input.is_some() {
            let open = &mut self.frames[frames as usize];
            if !open.raw.is_empty() && open.raw.len() + bytes.len() > frames.bytes() {
                self.end_frame(frames)?;
            }
            let open = &mut self.frames[frames as usize];
            open.raw.extend_from_slice(bytes);
            open.chunks.push((id, len));
            if open.raw.len() >= frames.bytes() {
                self.end_frame(frames)?;
            }
        }
        Ok((id, true))
    }

    fn end_frame(&mut self, frames: Frames) -> Result<()> {
        let open = std::mem::take(&mut self.frames[frames as usize]);
        if open.chunks.is_empty() {
            return Ok(());
        }
        let frame = RawFrame { space: frames.space(), raw: open.raw, chunks: open.chunks };
        let sent = self.input.as_ref().is_some_and(|i| i.send(frame).is_ok());
        if !sent || self.shared.failed.load(Ordering::Relaxed) {
            return Err(self.shared.failure());
        }
        Ok(())
    }

    /// Remembers, with the next segment, that a file's content is stored: a killed backup need not read
    /// it again. The reader of the record looks whether the chunks are known.
    pub fn record(&self, key: [u8; 16], value: Vec<u8>) {
        let mut records = self.shared.records.lock();
        if records.len() < RECORDS_MAX {
            records.push((key, value));
        }
    }

    /// Whether a chunk is stored already, so that the snapshot may rely on it.
    pub fn knows(&self, id: &ChunkId) -> bool {
        // An index that fails will say so when something is put; here it only costs a second reading.
        self.shared.claims.knows(id).unwrap_or(false)
    }

    /// Ends the stages; afterwards all packs and segments are durable.
    fn finish(&mut self) -> Result<()> {
        for frames in Frames::ALL {
            self.end_frame(frames)?;
        }
        self.input = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                self.shared.fail(Error::bug("a stage of the writer panicked"));
            }
        }
        if self.shared.failed.load(Ordering::Relaxed) { Err(self.shared.failure()) } else { Ok(()) }
    }

    /// Stops without a snapshot: what is complete is stored, so that the next backup finds it.
    ///
    /// # Errors
    /// What storing says; there is nothing to be undone.
    pub fn abandon(mut self) -> Result<()> {
        if self.lease.is_none() {
            return Ok(());
        }
        let finished = self.finish();
        if let Some(lease) = self.lease.take() {
            lease.end();
        }
        finished
    }

    /// Counts of a dry run.
    pub fn new_bytes(&self) -> u64 {
        self.new_bytes
    }

    /// Writes the last packs and segments, then the manifest, and looks at the lease before and after
    /// (B6 to B8). When it returns `Done`, the snapshot is whole and durable.
    pub fn commit(mut self, draft: Draft) -> Result<Commit> {
        self.finish()?;
        let lease = self.lease.take().ok_or_else(|| Error::bug("a dry run cannot commit"))?;
        let repository = self.shared.repository.clone();
        // B6: own packs and segments are durable; those of others are there; the lease is there.
        let gone = missing_packs(&repository, &self.shared.claims.relied())?;
        if !gone.is_empty() {
            lease.end();
            let e = Error::damaged(format!("{} packs that the index promises are gone", gone.len()));
            return Ok(Commit::Again(gone, e));
        }
        if let Err(e) = lease.check() {
            return again(lease, e);
        }
        let mut totals = draft.totals;
        totals.new_bytes = self.new_bytes;
        totals.stored_bytes = self.shared.stored.load(Ordering::Relaxed);
        let manifest = Manifest {
            time: draft.time.unwrap_or(self.began),
            host: draft.host,
            tags: draft.tags,
            root: draft.root,
            session: self.shared.session,
            parent: draft.parent,
            totals,
            private: repository.keys.seal_private(&self.shared.session.0, &draft.private.encode())?,
            program: concat!("pastfs ", env!("CARGO_PKG_VERSION")).into(),
            began: self.began,
            ended: clock::now(),
            unknown: Default::default(),
        };
        let object = repository.keys.seal_object(Object::Manifest, manifest.encode())?;
        let id = SnapshotId::of_object(&object);
        let name = format!("snapshots/{id}");
        let put = repository.store.put(&name, &object);
        // B7: a put whose outcome is unknown counts as written.
        if let Err(e) = lease.check() {
            withdraw(&repository, &name, self.shared.session)?;
            return again(lease, e);
        }
        if let Err(e) = put {
            withdraw(&repository, &name, self.shared.session)?;
            lease.end();
            return Err(e.while_("writing the snapshot"));
        }
        lease.end();
        repository.remember(Snapshot::new(id, manifest, repository.keys.public()));
        // From here on the parent's trees tell what is unchanged.
        repository.index()?.forget_files()?;
        Ok(Commit::Done(id, totals))
    }
}

impl Sink for Writer {
    fn put(&mut self, space: Space, bytes: &[u8]) -> Result<ChunkId> {
        let frames = if space == Space::Trees { Frames::Trees } else { self.current };
        Ok(self.put_in(frames, bytes)?.0)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.input = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn again(lease: Held, e: Error) -> Result<Commit> {
    lease.end();
    if lease::is_lost(&e) { Ok(Commit::Again(HashSet::new(), e)) } else { Err(e) }
}

/// B1: lease 0, notes, snapshots, segments, lease 1.
fn lease(repository: &Arc<Repository>, host: &[u8]) -> Result<(Held, Listing)> {
    let begun = Begun::begin(repository, host, "backup")
        .doing(|| format!("registering with the repository in {}", repository.location()))?;
    let listing = repository.list()?;
    repository.sync_index()?;
    let held = begun.seen(repository.index()?.sweeps()?, listing.forgets())?;
    Ok((held, listing))
}

/// B6: the packs of others that the snapshot relies on and that are not there with their size.
fn missing_packs(repository: &Repository, relied: &[PackId]) -> Result<HashSet<PackId>> {
    let index = repository.index()?;
    let mut gone = HashSet::new();
    if relied.len() > LOOK_EACH_MAX && !repository.store.may_be_stale() {
        let there: HashSet<(String, u64)> =
            repository.store.list("packs/")?.into_iter().map(|l| (l.name, l.size)).collect();
        for id in relied {
            let size = index.pack(id)?.map(|p| p.size);
            if !size.is_some_and(|s| there.contains(&(pack_name(id), s))) {
                gone.insert(*id);
            }
        }
        return Ok(gone);
    }
    for id in relied {
        let size = index.pack(id)?.map(|p| p.size);
        if size.is_none() || !repository.is_there(&pack_name(id), size)? {
            gone.insert(*id);
        }
    }
    Ok(gone)
}

/// B8: takes a manifest back. The void note counts where deleting is forbidden; where it is not, it tells those who
/// have seen the manifest why it is gone.
fn withdraw(repository: &Repository, name: &str, session: SessionId) -> Result<()> {
    let deleted = repository.store.delete(name);
    let note = Note {
        action: Action::Void,
        time: clock::now(),
        snapshots: Vec::new(),
        tags: Vec::new(),
        session: Some(session),
        unknown: Default::default(),
    };
    let object = repository.keys.seal_object(Object::Note, note.encode())?;
    let noted = repository.store.put(&note_name(&NoteId::of_object(&object)), &object);
    deleted.or(noted).doing(|| {
        format!("withdrawing {name}, which may rely on what prune deletes: check the repository before trusting it")
    })
}

// ---- the stages; after a failure each drains its input, so that nobody waits for ever

fn compress(s: &Shared, mut compressor: Compressor, input: &Receiver<RawFrame>, out: &Sender<Payload>) {
    for frame in input {
        if s.failed.load(Ordering::Relaxed) {
            continue;
        }
        match compressor.payload(&frame.raw) {
            Ok(payload) => {
                let _ = out.send(Payload { space: frame.space, payload, chunks: frame.chunks });
            }
            Err(e) => s.fail(e),
        }
    }
}

fn pack(s: &Shared, input: &Receiver<Payload>, out: &Sender<Finished>) {
    let cipher = Cipher::from_code(s.repository.config.cipher).unwrap_or_default();
    let keys = s.repository.keys.pack_keys(cipher);
    let mut open: [Option<PackWriter>; 2] = [None, None];
    for frame in input {
        if s.failed.load(Ordering::Relaxed) {
            continue;
        }
        let slot = &mut open[usize::from(frame.space == Space::Trees)];
        let mut pack = match slot.take() {
            Some(pack) => pack,
            None => match PackWriter::new(&keys, frame.space) {
                Ok(pack) => pack,
                Err(e) => {
                    s.fail(e);
                    continue;
                }
            },
        };
        pack.push(frame.payload, &frame.chunks);
        if pack.len() >= PACK_BYTES || pack.chunks() >= PACK_CHUNKS {
            let _ = out.send(pack.finish());
        } else {
            *slot = Some(pack);
        }
    }
    for pack in open.into_iter().flatten() {
        if !s.failed.load(Ordering::Relaxed) {
            let _ = out.send(pack.finish());
        }
    }
}

fn store(s: &Shared, input: &Receiver<Finished>, out: &Sender<PackEntry>) {
    for pack in input {
        if s.failed.load(Ordering::Relaxed) {
            continue;
        }
        match s.repository.store.put(&pack_name(&pack.entry.pack), &pack.bytes) {
            Ok(()) => {
                s.stored.fetch_add(pack.entry.size, Ordering::Relaxed);
                let _ = out.send(pack.entry);
            }
            Err(e) => s.fail(e.while_("storing a pack")),
        }
    }
}

fn publish(s: &Shared, input: &Receiver<PackEntry>) {
    let mut waiting: Vec<PackEntry> = Vec::new();
    let mut since = Instant::now();
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
        if ended {
            return;
        }
    }
}

fn segment(s: &Shared, entries: &[PackEntry]) -> Result<()> {
    let keys = &s.repository.keys;
    let vouched = |e: &PackEntry| {
        let body = e.encode();
        let signature = keys.sign(Object::Pack.context(), &body);
        Vouched { body, signatures: vec![Signature { author: 0, signature }] }
    };
    let segment = Segment {
        created: clock::now().seconds,
        session: Some(s.session),
        certificates: vec![keys.certificate().to_vec()],
        entries: entries.iter().map(vouched).collect(),
        ..Segment::default()
    };
    let object = keys.seal_object(Object::Segment, segment.encode())?;
    let id = SegmentId::of_object(&object);
    s.repository.store.put(&segment_name(&id), &object)?;
    s.stored.fetch_add(object.len() as u64, Ordering::Relaxed);
    let applied = s.repository.applied(id, &segment)?;
    for e in entries {
        s.claims.wrote(e.pack);
    }
    let records = std::mem::take(&mut *s.records.lock());
    s.repository.index()?.apply(vec![applied], &[], records)?;
    s.claims.published(entries.iter().flat_map(|e| e.ids.iter()));
    s.repository.observer.event(Event::Detail(&format!(
        "published index segment {} of {} packs",
        id.short(),
        entries.len()
    )));
    Ok(())
}
