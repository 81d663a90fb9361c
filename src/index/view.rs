//! What one process takes for true: the segments that its own listing named, and where their entries are.
//!
//! The database is shared by processes whose listings differ in age, and even by stores (a replica has
//! the same repository id). So what the database holds does not count by itself: a [`View`] does, and it changes
//! only when its own process applies. If another process removes from the database what this one still
//! counts, look-ups miss (the caller lists again); if another adds something, it is not counted before a
//! listing of ours names it. A retirement that was seen is never un-seen behind our back.

use super::database::{Base, Reader, Tried, Trouble};
use super::record::{self, Digest, PackRecord, SegmentRecord, Spot, Tally};
use super::{Applied, FrameAt, NewPack, PackInfo, Place, Retired};
use crate::fault::{Error, Fault, Result};
use crate::format::pack::{FRAME_RAW_MAX, Header, PackEntry};
use crate::id::{ChunkId, PackId, SegmentId, SessionId};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// Bytes of memory for packs that are kept decoded: 10 to 45 KiB for a full one, so those of some 10 GB at least.
const PACKS_BYTES: usize = 12 << 20;

/// A segment that is not in the database yet.
pub struct Pending {
    pub id: SegmentId,
    pub packs: Vec<PendingPack>,
    /// Sorted by id, then by position of the pack; no pair of these twice.
    pub chunks: Vec<(ChunkId, u32, Spot)>,
    pub retired: Vec<Retired>,
    pub replaces: Vec<SegmentId>,
}

/// An entry of it.
pub struct PendingPack {
    pub record: PackRecord,
    pub trusted: bool,
}

impl Pending {
    /// Checks the numbers of all entries once more, as they may come from anywhere.
    pub fn new(applied: Applied) -> Result<Self> {
        let mut chunks = Vec::with_capacity(applied.packs.iter().map(|p| p.entry.ids.len()).sum());
        let mut packs = Vec::with_capacity(applied.packs.len());
        for (at, NewPack { entry, trusted }) in applied.packs.into_iter().enumerate() {
            let info = places_of(&entry, at as u32, &mut chunks)?;
            let mut digest: Digest = Default::default();
            digest.copy_from_slice(&blake3::hash(&entry.encode()).as_bytes()[..record::DIGEST_LEN]);
            packs.push(PendingPack {
                record: PackRecord { info: Arc::new(info), digest, chunks: 0 },
                trusted,
            });
        }
        chunks.sort_by_key(|(id, at, _)| (*id, *at)); // stable: of doubles in one pack the first counts
        chunks.dedup_by_key(|(id, at, _)| (*id, *at));
        for (_, at, _) in &chunks {
            packs[*at as usize].record.chunks += 1;
        }
        let retired = applied.retired.iter().map(Retired::of).collect();
        Ok(Self { id: applied.segment, packs, chunks, retired, replaces: applied.replaces })
    }

    fn places(&self, id: &ChunkId) -> impl Iterator<Item = (&PendingPack, Spot)> {
        let from = self.chunks.partition_point(|(at, _, _)| at < id);
        let same = self.chunks[from..].iter().take_while(move |(at, _, _)| at == id);
        same.map(|(_, at, spot)| (&self.packs[*at as usize], *spot))
    }

    /// Without the numbers of its packs.
    pub fn record(&self) -> SegmentRecord {
        SegmentRecord { packs: Vec::new(), retired: self.retired.clone(), replaces: self.replaces.clone() }
    }
}

fn places_of(entry: &PackEntry, at: u32, chunks: &mut Vec<(ChunkId, u32, Spot)>) -> Result<PackInfo> {
    let bad =
        || Error::damaged(format!("the numbers of the entry of pack {} do not agree", entry.pack.short()));
    let (header, header_len) = Header::decode(&entry.header)?;
    let mut end = header_len as u64;
    let mut ids = entry.ids.iter();
    let mut frames = Vec::with_capacity(entry.frames.len());
    let mut lens = Vec::with_capacity(entry.ids.len());
    for (number, frame) in entry.frames.iter().enumerate() {
        let mut raw = 0u64;
        let first = lens.len() as u32;
        for len in &frame.chunks {
            lens.push(*len);
            let id = ids.next().ok_or_else(bad)?;
            if raw + u64::from(*len) > FRAME_RAW_MAX as u64 {
                return Err(bad());
            }
            chunks.push((*id, at, Spot { frame: number as u32, offset: raw as u32, len: *len }));
            raw += u64::from(*len);
        }
        let offset = u32::try_from(end).map_err(|_| bad())?;
        frames.push(FrameAt { offset, sealed_len: frame.sealed_len, raw_len: raw as u32, first });
        end += u64::from(frame.sealed_len);
    }
    if ids.next().is_some()
        || end > entry.size
        || end > u64::from(u32::MAX)
        || header_len != entry.header.len()
    {
        return Err(bad());
    }
    Ok(PackInfo {
        id: entry.pack,
        size: entry.size,
        header: entry.header.clone(),
        space: header.space,
        frames,
        chunks: lens,
    })
}

/// Who holds a number: how many entries of segments in the view, and how many of them are trusted.
#[derive(Clone, Copy, Default)]
struct Held {
    refs: u32,
    trusted: u32,
}

/// The segments that count, and what follows from them. A few bytes for each pack.
#[derive(Default)]
pub struct View {
    segments: HashMap<SegmentId, SegmentRecord>,
    numbers: HashMap<u32, Held>,
    retired: HashMap<PackId, u32>,
}

impl View {
    fn insert(&mut self, id: SegmentId, record: SegmentRecord) {
        for (number, trusted) in &record.packs {
            let held = self.numbers.entry(*number).or_default();
            held.refs += 1;
            held.trusted += u32::from(*trusted);
        }
        for r in &record.retired {
            *self.retired.entry(r.pack).or_default() += 1;
        }
        if let Some(old) = self.segments.insert(id, record) {
            self.release(&old);
        }
    }

    fn remove(&mut self, id: &SegmentId) {
        if let Some(old) = self.segments.remove(id) {
            self.release(&old);
        }
    }

    fn release(&mut self, record: &SegmentRecord) {
        for (number, trusted) in &record.packs {
            if let Some(held) = self.numbers.get_mut(number) {
                held.refs -= 1;
                held.trusted -= u32::from(*trusted);
                if held.refs == 0 {
                    self.numbers.remove(number);
                }
            }
        }
        for r in &record.retired {
            if let Some(refs) = self.retired.get_mut(&r.pack) {
                *refs -= 1;
                if *refs == 0 {
                    self.retired.remove(&r.pack);
                }
            }
        }
    }

    /// The numbers of another database mean nothing here; retirements stay.
    fn forget_numbers(&mut self) {
        self.numbers.clear();
        for record in self.segments.values_mut() {
            record.packs.clear();
        }
    }
}

/// What waits for being written to the database, and counts already.
#[derive(Default)]
pub struct Memory {
    pub segments: BTreeMap<SegmentId, Arc<Pending>>,
    pub gone: BTreeSet<SegmentId>,
    pub files: BTreeMap<[u8; 16], Arc<[u8]>>,
}

impl Memory {
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.gone.is_empty() && self.files.is_empty()
    }
    pub fn chunks(&self) -> usize {
        self.segments.values().map(|s| s.chunks.len()).sum()
    }
}

/// Decoded packs by number.
#[derive(Default)]
pub struct PackCache {
    state: Mutex<CacheState>,
}

#[derive(Default)]
struct CacheState {
    packs: HashMap<u32, (Arc<PackInfo>, u64)>,
    bytes: usize,
    tick: u64,
}

/// About the bytes of memory that a decoded pack takes.
fn cost(info: &PackInfo) -> usize {
    size_of::<PackInfo>() + 64 + info.header.len() + size_of_val(&*info.frames) + size_of_val(&*info.chunks)
}

impl PackCache {
    fn get(&self, number: u32) -> Option<Arc<PackInfo>> {
        let mut state = self.state.lock();
        state.tick += 1;
        let tick = state.tick;
        let (info, used) = state.packs.get_mut(&number)?;
        *used = tick;
        Some(info.clone())
    }

    fn put(&self, number: u32, info: &Arc<PackInfo>) {
        let mut state = self.state.lock();
        let tick = state.tick;
        state.bytes += cost(info);
        if let Some((old, _)) = state.packs.insert(number, (info.clone(), tick)) {
            state.bytes -= cost(&old);
        }
        if state.bytes > PACKS_BYTES {
            // The older half goes; once in hundreds of times, so that it costs nothing.
            let mut ticks: Vec<u64> = state.packs.values().map(|(_, used)| *used).collect();
            let middle = ticks.len() / 2;
            let (_, median, _) = ticks.select_nth_unstable(middle);
            let median = *median;
            state.packs.retain(|_, (_, used)| *used > median);
            state.bytes = state.packs.values().map(|(info, _)| cost(info)).sum();
        }
    }

    /// Bytes of memory that they take.
    fn bytes(&self) -> usize {
        self.state.lock().bytes
    }

    fn clear(&self) {
        *self.state.lock() = CacheState::default();
    }
}

/// The view, what it stands on, and what waits: changed together.
pub struct State {
    pub reader: Reader,
    /// Which opening of the reader this is.
    pub opened: u64,
    pub memory: Memory,
    generation: u64,
    view: View,
    packs: PackCache,
    lost: Lost,
}

/// Whether entries that count were lost with a database, and not yet applied again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lost {
    No,
    Yes,
    /// The caller has asked what is here, and is fetching the rest.
    Told,
}

impl State {
    /// The state of a process that has not listed yet: all that the database holds counts.
    pub fn load(reader: Reader) -> Tried<Self> {
        let mut view = View::default();
        reader.scan(record::SEGMENT, |key, value| {
            let (id, record) = segment(key, value)?;
            view.insert(id, record);
            Ok(())
        })?;
        let generation = tally(&reader)?.generation;
        let (memory, packs) = Default::default();
        Ok(Self { reader, opened: 0, memory, generation, view, packs, lost: Lost::No })
    }

    /// Bytes of memory that packs take which are kept decoded.
    pub fn held(&self) -> usize {
        self.packs.bytes()
    }

    /// Takes another reader, of this or of another database.
    pub fn swap(&mut self, reader: Reader) -> Tried<()> {
        self.reader = reader;
        self.opened += 1;
        self.packs.clear();
        self.view.forget_numbers();
        self.refresh()?;
        let here = self.segments()?;
        if self.view.segments.keys().any(|id| !here.contains(id)) {
            self.lost = Lost::Yes;
        }
        Ok(())
    }

    /// The caller knows what is here.
    pub fn told(&mut self) {
        if self.lost == Lost::Yes {
            self.lost = Lost::Told;
        }
    }

    /// The caller has applied what was not.
    pub fn applied(&mut self) {
        if self.lost == Lost::Told {
            self.lost = Lost::No;
        }
    }

    pub fn is_lost(&self) -> bool {
        self.lost != Lost::No
    }

    /// Whether the database changed since the last [`State::refresh`].
    pub fn is_stale(&self) -> Tried<bool> {
        Ok(tally(&self.reader)?.generation != self.generation)
    }

    /// Takes from the database what it knows of segments that count here.
    pub fn refresh(&mut self) -> Tried<()> {
        let Self { reader, view, memory, .. } = self;
        // Read first: if another thread catches up meanwhile, the next look finds a newer one and comes again.
        let generation = tally(reader)?.generation;
        reader.scan(record::SEGMENT, |key, value| {
            let (id, record) = segment(key, value)?;
            if memory.segments.remove(&id).is_some()
                || view.segments.get(&id).is_some_and(|old| *old != record)
            {
                view.insert(id, record);
            }
            Ok(())
        })?;
        self.generation = generation;
        Ok(())
    }

    /// A segment that a listing named counts from now on.
    pub fn keep(&mut self, pending: Pending) {
        self.memory.gone.remove(&pending.id);
        let stored = match self.reader.get(&record::segment_key(&pending.id)) {
            Ok(Some(bytes)) => SegmentRecord::decode(&bytes),
            _ => None, // a broken database is found by the next look-up
        };
        match stored {
            Some(record) => self.view.insert(pending.id, record),
            None => {
                self.view.insert(pending.id, pending.record());
                self.memory.segments.insert(pending.id, Arc::new(pending));
            }
        }
    }

    /// A segment that a listing did not name counts no longer.
    pub fn let_go(&mut self, id: &SegmentId) {
        self.view.remove(id);
        if self.memory.segments.remove(id).is_none() {
            self.memory.gone.insert(*id);
        }
    }

    /// What counts and is at hand.
    pub fn segments(&self) -> Tried<BTreeSet<SegmentId>> {
        let mut found: BTreeSet<SegmentId> = self.memory.segments.keys().copied().collect();
        self.reader.scan(record::SEGMENT, |key, _| {
            let id = key.get(1..).and_then(SegmentId::from_slice);
            let id = id.ok_or_else(|| Trouble::record("a segment"))?;
            if self.view.segments.contains_key(&id) {
                found.insert(id);
            }
            Ok(())
        })?;
        Ok(found)
    }

    pub fn sweeps(&self) -> Vec<SessionId> {
        let all = || self.view.segments.values().flat_map(|record| &record.retired);
        let gone: HashSet<PackId> = all().filter(|r| r.deleted.is_some()).map(|r| r.pack).collect();
        let open = all().filter(|r| !gone.contains(&r.pack)).map(|r| r.sweep);
        open.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Of the segments that count and name any of these packs: how many of them, and how many packs in all.
    pub fn segments_with(&self, packs: &HashSet<PackId>) -> Tried<HashMap<SegmentId, (usize, usize)>> {
        let mut dead = HashSet::new();
        self.reader.scan(record::PACK_ID, |key, value| {
            let bad = || Trouble::record("a pack");
            if packs.contains(&record::pack_of_key(key).ok_or_else(bad)?) {
                dead.insert(record::number(value).ok_or_else(bad)?);
            }
            Ok(())
        })?;
        let mut found = HashMap::new();
        for (id, record) in &self.view.segments {
            let (mut some, mut all) =
                (record.packs.iter().filter(|(n, _)| dead.contains(n)).count(), record.packs.len());
            if let Some(pending) = self.memory.segments.get(id) {
                all = pending.packs.len();
                some = pending.packs.iter().filter(|p| packs.contains(&p.record.info.id)).count();
            }
            if some > 0 {
                found.insert(*id, (some, all));
            }
        }
        Ok(found)
    }

    /// The segments that count and were merged from others, with those others.
    pub fn merged(&self) -> Vec<(SegmentId, Vec<SegmentId>)> {
        let all = self.view.segments.iter().filter(|(_, record)| !record.replaces.is_empty());
        all.map(|(id, record)| (*id, record.replaces.clone())).collect()
    }

    /// What segments that count say of packs that are retired; of one it may be said more than once.
    pub fn retirements(&self) -> Vec<(SegmentId, Retired)> {
        let all = self.view.segments.iter();
        all.flat_map(|(id, record)| record.retired.iter().map(|r| (*id, *r))).collect()
    }

    fn info(&self, number: u32) -> Tried<Option<Arc<PackInfo>>> {
        if let Some(info) = self.packs.get(number) {
            return Ok(Some(info));
        }
        let Some(bytes) = self.reader.get(&record::pack_key(number))? else { return Ok(None) };
        let record = PackRecord::decode(&bytes).ok_or_else(|| Trouble::record("a pack"))?;
        self.packs.put(number, &record.info);
        Ok(Some(record.info))
    }

    /// Where the database says that the chunk lies, in entries that count: number, trusted, place in the pack.
    fn spots(&self, id: &ChunkId) -> Tried<Vec<(u32, bool, Spot)>> {
        let mut spots = Vec::new();
        self.reader.find(&record::key(record::CHUNK, &id.0), |key, value| {
            let number = record::chunk_number(key).ok_or_else(|| Trouble::record("a chunk"))?;
            if let Some(held) = self.view.numbers.get(&number) {
                let spot = Spot::decode(value).ok_or_else(|| Trouble::record("a chunk"))?;
                spots.push((number, held.trusted > 0, spot));
            }
            Ok(())
        })?;
        Ok(spots)
    }

    /// Whether a counting entry has this number, and then whether it is trusted.
    pub fn trusts(&self, number: u32) -> Option<bool> {
        self.view.numbers.get(&number).map(|held| held.trusted > 0)
    }

    fn is_retired(&self, pack: &PackId) -> bool {
        self.view.retired.contains_key(pack)
    }

    pub fn places(&self, id: &ChunkId) -> Tried<Vec<Place>> {
        let mut found: Vec<(bool, bool, Place)> = Vec::new();
        let mut add = |trusted: bool, pack: Arc<PackInfo>, spot: Spot| {
            let key = (self.is_retired(&pack.id), !trusted);
            let place = Place { pack, frame: spot.frame, offset: spot.offset, len: spot.len };
            let same = |(_, _, old): &(bool, bool, Place)| {
                (old.pack.id, old.frame, old.offset, old.len)
                    == (place.pack.id, place.frame, place.offset, place.len)
                    && old.pack == place.pack
            };
            match found.iter_mut().find(|f| same(f)) {
                Some(old) => old.1 &= key.1,
                None => found.push((key.0, key.1, place)),
            }
        };
        for (pack, spot) in self.memory.segments.values().flat_map(|s| s.places(id)) {
            add(pack.trusted, pack.record.info.clone(), spot);
        }
        for (number, trusted, spot) in self.spots(id)? {
            let Some(info) = self.info(number)? else { continue };
            let frame = info.frames.get(spot.frame as usize);
            let fits = |f: &FrameAt| u64::from(spot.offset) + u64::from(spot.len) <= u64::from(f.raw_len);
            if !frame.is_some_and(fits) {
                return Err(Trouble::record("a chunk"));
            }
            add(trusted, info, spot);
        }
        found.sort_by_key(|(retired, untrusted, _)| (*retired, *untrusted));
        Ok(found.into_iter().map(|(_, _, place)| place).collect())
    }

    /// A trusted, unretired pack that holds the chunk, with this length if one is asked for, and not in `except`.
    pub fn known(&self, id: &ChunkId, len: Option<u32>, except: &HashSet<PackId>) -> Tried<Option<PackId>> {
        let fits = |spot: &Spot| len.is_none_or(|len| len == spot.len);
        let good = |pack: &PackId| !self.is_retired(pack) && !except.contains(pack);
        for (pack, spot) in self.memory.segments.values().flat_map(|s| s.places(id)) {
            let id = pack.record.info.id;
            if pack.trusted && fits(&spot) && good(&id) {
                return Ok(Some(id));
            }
        }
        for (number, trusted, spot) in self.spots(id)? {
            if trusted
                && fits(&spot)
                && let Some(info) = self.info(number)?
                && good(&info.id)
            {
                return Ok(Some(info.id));
            }
        }
        if self.is_lost() {
            // "Not known" would store everything again.
            let e = Error::new(Fault::Busy, "the index cache was lost and is empty");
            return Err(Trouble::Failed(e.hint("run the command again; nothing is lost but time")));
        }
        Ok(None)
    }

    pub fn pack(&self, id: &PackId) -> Tried<Option<Arc<PackInfo>>> {
        let mut best: Option<(bool, Arc<PackInfo>)> = None;
        let mut offer = |trusted: bool, info: &Arc<PackInfo>| {
            if best.as_ref().is_none_or(|(so_far, _)| trusted && !so_far) {
                best = Some((trusted, info.clone()));
            }
        };
        for pack in self.memory.segments.values().flat_map(|s| &s.packs) {
            if pack.record.info.id == *id {
                offer(pack.trusted, &pack.record.info);
            }
        }
        self.reader.find(&record::key(record::PACK_ID, &id.0), |_, value| {
            let number = record::number(value).ok_or_else(|| Trouble::record("a pack"))?;
            if let Some(held) = self.view.numbers.get(&number)
                && let Some(info) = self.info(number)?
            {
                offer(held.trusted > 0, &info);
            }
            Ok(())
        })?;
        Ok(best.map(|(_, info)| info))
    }

    pub fn packs(&self) -> Tried<Vec<PackId>> {
        let pending = self.memory.segments.values().flat_map(|s| &s.packs);
        let mut found: HashSet<PackId> = pending.map(|p| p.record.info.id).collect();
        self.reader.scan(record::PACK_ID, |key, value| {
            let bad = || Trouble::record("a pack");
            if self.view.numbers.contains_key(&record::number(value).ok_or_else(bad)?) {
                found.insert(record::pack_of_key(key).ok_or_else(bad)?);
            }
            Ok(())
        })?;
        let mut found: Vec<PackId> = found.into_iter().collect();
        found.sort_unstable();
        Ok(found)
    }

    pub fn untrusted_packs(&self) -> Tried<u64> {
        let mut trust: HashMap<PackId, bool> = HashMap::new();
        for p in self.memory.segments.values().flat_map(|s| &s.packs) {
            *trust.entry(p.record.info.id).or_default() |= p.trusted;
        }
        self.reader.scan(record::PACK_ID, |key, value| {
            let bad = || Trouble::record("a pack");
            if let Some(held) = self.view.numbers.get(&record::number(value).ok_or_else(bad)?) {
                *trust.entry(record::pack_of_key(key).ok_or_else(bad)?).or_default() |= held.trusted > 0;
            }
            Ok(())
        })?;
        Ok(trust.iter().filter(|(id, trusted)| !**trusted && !self.is_retired(id)).count() as u64)
    }

    pub fn file(&self, key: &[u8; 16]) -> Tried<Option<Vec<u8>>> {
        if let Some(value) = self.memory.files.get(key) {
            return Ok(Some(value.to_vec()));
        }
        Ok(self.reader.get(&record::key(record::FILE, key))?.map(|v| v.to_vec()))
    }

    pub fn has_files(&self) -> Tried<bool> {
        self.reader.has(record::FILE)
    }

    pub fn chunks_estimate(&self) -> Tried<u64> {
        Ok(tally(&self.reader)?.live + self.memory.chunks() as u64)
    }
}

fn segment(key: &[u8], value: &[u8]) -> Tried<(SegmentId, SegmentRecord)> {
    let id = key.get(1..).and_then(SegmentId::from_slice);
    id.zip(SegmentRecord::decode(value)).ok_or_else(|| Trouble::record("a segment"))
}

/// The sums of a database; those of an empty one if it has none yet.
pub fn tally(base: &Base) -> Tried<Tally> {
    match base.get(&[record::TALLY])? {
        Some(bytes) => Tally::decode(&bytes).ok_or_else(|| Trouble::record("the tally")),
        None => Ok(Tally::default()),
    }
}
