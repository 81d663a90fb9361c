//! Frames of a far store: fetched many at a time, ahead of who reads them, and kept near.
//!
//! A request to a far store takes tens of milliseconds, whatever it asks for, and a hundred at a time take no longer than
//! one. So neighbouring frames are fetched by one range; what will be read soon is fetched on threads of its own, in runs,
//! while the reader is busy with what came before; and what was fetched stays in a local folder ([`Near`]), as it
//! is stored.
//!
//! Nothing here is proven: frames are opened and hashed by the reader, wherever they come from. One from the folder that
//! does not open is fetched again ([`Far::again`]).

use super::pace::Pace;
use super::reader::pack_name;
use crate::fault::{Error, Fault, Result};
use crate::format::pack::Space;
use crate::id::PackId;
use crate::index::PackInfo;
use crate::storage::{Near, Shelf, Store};
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

/// Requests for what will be read soon that are on their way at a time.
pub(super) const FETCHERS: usize = 8;
/// Longest range in bytes that one of them asks for: all of them in memory are 32 MiB, and the first frame of a
/// range is not long in coming.
const AHEAD_RUN: u64 = 4 << 20;
/// Longest range that somebody waits for; what is to come along beyond it is fetched beside it.
const WAIT_RUN: u64 = 4 << 20;
/// The same for contents, of which more than the first is not needed at once.
const WAIT_RUN_DATA: u64 = 1 << 20;
/// Most that comes along with what is waited for: all of a pack.
const RUN_MAX: u64 = 32 << 20;
/// What is asked for along with a frame of trees: who reads one page of a folder reads others, and they were written in the
/// order of the walk. Covers the trees of some 100,000 files.
const TREE_RUN: u64 = 4 << 20;
/// The same for the first frame of data that is read in a pack: it may be the only one.
const DATA_RUN: u64 = 256 << 10;
/// Raw bytes from which on a frame is one of many small files. Who reads two of those in a pack copies a tree, in whatever
/// order (cp goes by inode numbers): more and more is fetched around each. Frames of big files, which are smaller, are read in
/// their order, or at random.
const SMALL_FILES: u32 = 128 << 10;
/// Bytes of frames that were fetched and not opened yet. Above them the oldest are let go; the folder has them still.
const HERE_MAX: usize = 64 << 20;
/// Most frames that wait to be fetched; more are not taken.
const WANTED_MAX: usize = 8192;
/// Packs of which is remembered how they are read.
const PACKS_MAX: usize = 1024;
/// Bounds in bytes of how far a pack that is read in its order is fetched ahead of the reader: [`FETCHERS`] times what comes
/// while a request waits.
const WINDOW: std::ops::RangeInclusive<u64> = 4 << 20..=32 << 20;

pub(super) type FrameKey = (PackId, u32);

/// How a pack is read.
#[derive(Clone, Copy, Default)]
struct Habit {
    /// The frame behind the last run that somebody had to wait for, and how long that run was.
    next: u32,
    run: u64,
    /// The frame up to which it is fetched ahead.
    until: u32,
}

#[derive(Default)]
struct State {
    /// Frames that are here, sealed, each with its age.
    here: HashMap<FrameKey, (Vec<u8>, u64)>,
    by_age: BTreeMap<u64, FrameKey>,
    bytes: usize,
    age: u64,
    /// Frames that a request is under way for.
    coming: HashSet<FrameKey>,
    /// Frames that will be read soon, in that order; only those in `queued` still count.
    wanted: VecDeque<(Arc<PackInfo>, u32)>,
    queued: HashSet<FrameKey>,
    habits: HashMap<PackId, Habit>,
    over: bool,
}

impl State {
    fn take(&mut self, key: &FrameKey) -> Option<Vec<u8>> {
        let (bytes, age) = self.here.remove(key)?;
        self.by_age.remove(&age);
        self.bytes -= bytes.len();
        Some(bytes)
    }

    fn insert(&mut self, key: FrameKey, bytes: Vec<u8>) {
        self.take(&key);
        self.age += 1;
        self.bytes += bytes.len();
        self.by_age.insert(self.age, key);
        self.here.insert(key, (bytes, self.age));
        while self.bytes > HERE_MAX
            && let Some((_, oldest)) = self.by_age.first_key_value()
        {
            let oldest = *oldest;
            self.take(&oldest);
        }
    }

    fn is_here_or_coming(&self, key: &FrameKey) -> bool {
        self.here.contains_key(key) || self.coming.contains(key)
    }

    fn habit(&mut self, pack: &PackId) -> &mut Habit {
        if self.habits.len() >= PACKS_MAX && !self.habits.contains_key(pack) {
            self.habits.clear();
        }
        self.habits.entry(*pack).or_default()
    }
}

/// A sealed frame, and where it comes from.
pub(super) struct Sealed {
    pub bytes: Vec<u8>,
    /// From the folder: if it does not open, the store may still have it whole.
    pub is_kept: bool,
}

/// Frames of a far store. See the module's text.
pub(super) struct Far {
    store: Arc<dyn Store>,
    near: Option<Arc<Near>>,
    keeps_data: bool,
    pace: Pace,
    state: Mutex<State>,
    arrived: Condvar,
    work: Condvar,
}

/// Frames that are fetched by one range. At the end, however it comes, those who wait for them look again.
struct Run<'a> {
    far: &'a Far,
    pack: Arc<PackInfo>,
    first: u32,
    last: u32,
    /// Those of them that nobody else fetches.
    coming: Vec<u32>,
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        let state = &mut *self.far.state.lock();
        for n in &self.coming {
            state.coming.remove(&(self.pack.id, *n));
        }
        self.far.arrived.notify_all();
    }
}

/// Where a frame lies: offset, and the byte behind it.
fn span(pack: &PackInfo, number: u32) -> Result<(u64, u64)> {
    let at = pack.frames.get(number as usize);
    let at = at.ok_or_else(|| Error::damaged("the index names a frame that the pack does not have"))?;
    Ok((at.offset.into(), u64::from(at.offset) + u64::from(at.sealed_len)))
}

fn shelf(space: Space) -> Shelf {
    if space == Space::Trees { Shelf::Trees } else { Shelf::Data }
}

impl Far {
    /// Reads from the folder what it has, if there is one, and keeps there what it fetches: trees, and data where wanted.
    pub fn new(store: Arc<dyn Store>, near: Option<Arc<Near>>, keeps_data: bool) -> Self {
        let (state, arrived, work) = Default::default();
        Self { store, near, keeps_data, pace: Pace::new(), state, arrived, work }
    }

    /// Bytes of memory that frames take which were fetched and are not read yet.
    pub fn held(&self) -> usize {
        self.state.lock().bytes
    }

    /// The bytes of a frame as they are stored.
    ///
    /// # Errors
    /// What the store says.
    pub fn sealed(&self, pack: &Arc<PackInfo>, number: u32) -> Result<Sealed> {
        let key = (pack.id, number);
        let (from, to) = span(pack, number)?;
        loop {
            {
                let mut state = self.state.lock();
                while !state.here.contains_key(&key) && state.coming.contains(&key) {
                    self.arrived.wait(&mut state);
                }
                if let Some(bytes) = state.take(&key) {
                    return Ok(Sealed { bytes, is_kept: false });
                }
            }
            if let Some(near) = &self.near
                && let Some(bytes) = near.get(shelf(pack.space), &pack.id.hex(), from, (to - from) as usize)
            {
                return Ok(Sealed { bytes, is_kept: true });
            }
            let Some(run) = self.demanded(pack, number) else { continue };
            let is_alone = run.first == run.last;
            return match self.fetch(run, Some(number)) {
                // What is wrong may be wrong with the neighbours alone.
                Err(e) if !is_alone && matches!(e.fault(), Fault::Damaged | Fault::Missing) => {
                    self.range(pack, from, to).map(|bytes| Sealed { bytes, is_kept: false })
                }
                Err(e) => Err(e),
                Ok(bytes) => Ok(Sealed { bytes: bytes.unwrap_or_default(), is_kept: false }),
            };
        }
    }

    /// The same from the store itself: what the folder gave was not what it must be, and is replaced there.
    pub fn again(&self, pack: &PackInfo, number: u32) -> Result<Vec<u8>> {
        let (from, to) = span(pack, number)?;
        if let Some(near) = &self.near {
            near.forget(shelf(pack.space), &pack.id.hex(), from, to - from);
        }
        let bytes = self.range(pack, from, to)?;
        self.keep(pack, from, &bytes);
        Ok(bytes)
    }

    /// These frames will be read soon, in this order.
    pub fn expect(&self, frames: impl IntoIterator<Item = (Arc<PackInfo>, u32)>) {
        let mut any = false;
        for (pack, number) in frames {
            let key = (pack.id, number);
            if self.is_kept(&pack, number) {
                continue;
            }
            let mut state = self.state.lock();
            if state.queued.len() >= WANTED_MAX {
                break;
            }
            if !state.is_here_or_coming(&key) && state.queued.insert(key) {
                state.wanted.push_back((pack, number));
                any = true;
            }
        }
        if any {
            self.work.notify_all();
        }
    }

    /// A pack is read in its order and has come to this frame: what is behind it is fetched, in long runs.
    pub fn in_order(&self, pack: &Arc<PackInfo>, number: u32) {
        let Ok((_, at)) = span(pack, number) else { return };
        let window = (self.pace.worth() * FETCHERS as u64).clamp(*WINDOW.start(), *WINDOW.end());
        let from = {
            let habit = &mut *self.state.lock();
            let habit = habit.habit(&pack.id);
            let ahead = span(pack, habit.until).map_or(0, |(start, _)| start.saturating_sub(at));
            let is_behind = habit.until <= number || ahead > window;
            let is_at_end = habit.until as usize >= pack.frames.len();
            if !is_behind && (is_at_end || ahead > window / 2) {
                return;
            }
            let from = if is_behind { number + 1 } else { habit.until };
            let within = |n: &u32| span(pack, *n).is_ok_and(|(_, end)| end <= at + window);
            habit.until = (from..pack.frames.len() as u32).take_while(within).count() as u32 + from;
            from..habit.until
        };
        self.expect(from.map(|n| (pack.clone(), n)));
    }

    /// Fetches what is expected until [`Far::end`].
    pub fn fetch_expected(&self) {
        while let Some(run) = self.next_run() {
            // Who waits for the frame itself meets the error again, and reports it.
            let _ = self.fetch(run, None);
        }
    }

    /// Nothing is expected any more.
    pub fn end(&self) {
        self.state.lock().over = true;
        self.work.notify_all();
    }

    fn is_kept(&self, pack: &PackInfo, number: u32) -> bool {
        let Some(near) = &self.near else { return false };
        span(pack, number)
            .is_ok_and(|(from, to)| near.has(shelf(pack.space), &pack.id.hex(), from, to - from))
    }

    /// What is fetched by who waits for a frame: it, and what is likely to be read next. `None` if it has come meanwhile, or
    /// is coming.
    fn demanded(&self, pack: &Arc<PackInfo>, number: u32) -> Option<Run<'_>> {
        let is_tree = pack.space == Space::Trees;
        let mut state = self.state.lock();
        if state.is_here_or_coming(&(pack.id, number)) {
            return None;
        }
        let habit = state.habit(&pack.id);
        let is_of_many =
            is_tree || pack.frames.get(number as usize).is_some_and(|f| f.raw_len >= SMALL_FILES);
        let grows = habit.run > 0 && (is_of_many || habit.next == number);
        let most = match (grows, is_tree) {
            (true, _) => habit.run * 2,
            (false, true) => TREE_RUN,
            (false, false) => DATA_RUN,
        };
        let most = most.min(RUN_MAX);
        let free = |state: &State, n: u32| {
            !state.is_here_or_coming(&(pack.id, n)) && !self.is_kept(pack, n) && span(pack, n).is_ok()
        };
        let bytes = |first: u32, last: u32| match (span(pack, first), span(pack, last)) {
            (Ok((from, _)), Ok((_, to))) => to.saturating_sub(from),
            _ => u64::MAX,
        };
        let (mut first, mut last) = (number, number);
        while bytes(first, last + 1) <= most && free(&state, last + 1) {
            last += 1;
        }
        // The page of a folder is written behind those in it; and of a tree all will be read.
        while (is_tree || is_of_many && grows)
            && first > 0
            && bytes(first - 1, last) <= most
            && free(&state, first - 1)
        {
            first -= 1;
        }
        *state.habit(&pack.id) = Habit { next: last + 1, run: most, ..*state.habit(&pack.id) };
        // The others need not be waited for.
        let wait = if is_tree { WAIT_RUN } else { WAIT_RUN_DATA };
        let (mut begin, mut end) = (number, number);
        while end < last && bytes(begin, end + 1) <= wait {
            end += 1;
        }
        while begin > first && bytes(begin - 1, end) <= wait {
            begin -= 1;
        }
        let beside: Vec<u32> = (end + 1..=last).chain(first..begin).collect();
        let run = self.begin(&mut state, pack, begin, end);
        for n in beside.iter().rev() {
            if state.queued.len() < WANTED_MAX && state.queued.insert((pack.id, *n)) {
                state.wanted.push_front((pack.clone(), *n));
            }
        }
        if !beside.is_empty() {
            self.work.notify_all();
        }
        Some(run)
    }

    /// The next frames that are expected, with their neighbours that are expected too. Frames in between come along where
    /// that takes no longer than another request.
    fn next_run(&self) -> Option<Run<'_>> {
        let mut state = self.state.lock();
        loop {
            if state.over {
                return None;
            }
            let Some((pack, first)) = state.wanted.pop_front() else {
                self.work.wait(&mut state);
                continue;
            };
            let key = (pack.id, first);
            if !state.queued.remove(&key) || state.is_here_or_coming(&key) {
                continue;
            }
            let Ok((from, mut end)) = span(&pack, first) else { continue };
            let gap = self.pace.worth();
            let mut last = first;
            for n in first + 1.. {
                let Ok((start, to)) = span(&pack, n) else { break };
                if to - from > AHEAD_RUN || start.saturating_sub(end) > gap {
                    break;
                }
                if state.queued.contains(&(pack.id, n)) {
                    (last, end) = (n, to);
                }
            }
            return Some(self.begin(&mut state, &pack, first, last));
        }
    }

    /// From now on these frames are coming; none of them is to be fetched by anybody else.
    fn begin(&self, state: &mut State, pack: &Arc<PackInfo>, first: u32, last: u32) -> Run<'_> {
        let mut coming = Vec::new();
        for n in first..=last {
            let key = (pack.id, n);
            state.queued.remove(&key);
            if !state.here.contains_key(&key) && state.coming.insert(key) {
                coming.push(n);
            }
        }
        Run { far: self, pack: pack.clone(), first, last, coming }
    }

    /// Fetches a run; gives the frame that somebody waits for.
    fn fetch(&self, run: Run<'_>, waited: Option<u32>) -> Result<Option<Vec<u8>>> {
        let pack = &run.pack;
        let (from, to) = (span(pack, run.first)?.0, span(pack, run.last)?.1);
        let bytes = self.range(pack, from, to)?;
        let mut given = None;
        {
            let mut state = self.state.lock();
            for n in &run.coming {
                let (start, end) = span(pack, *n)?;
                let part =
                    bytes.get((start.saturating_sub(from)) as usize..(end.saturating_sub(from)) as usize);
                let part = part.ok_or_else(|| Error::damaged("frames of a pack overlap"))?.to_vec();
                match waited {
                    Some(waited) if waited == *n => given = Some(part),
                    _ => state.insert((pack.id, *n), part),
                }
            }
        }
        let kept = (pack.clone(), from);
        drop(run);
        // Nobody waits for this.
        self.keep(&kept.0, kept.1, &bytes);
        Ok(given)
    }

    fn range(&self, pack: &PackInfo, from: u64, to: u64) -> Result<Vec<u8>> {
        let len =
            usize::try_from(to.saturating_sub(from)).map_err(|_| Error::damaged("a frame is too long"))?;
        let began = Instant::now();
        let bytes = self.store.range(&pack_name(&pack.id), from, len)?;
        self.pace.measured(len, began.elapsed());
        Ok(bytes)
    }

    /// What cannot be kept is fetched again the next time.
    fn keep(&self, pack: &PackInfo, from: u64, bytes: &[u8]) {
        if let Some(near) = &self.near
            && (self.keeps_data || pack.space == Space::Trees)
        {
            let _ = near.put(shelf(pack.space), &pack.id.hex(), from, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Time;
    use crate::index::FrameAt;
    use crate::storage::conformance::memory::Memory;
    use crate::storage::{Counted, Deed, Listed};
    use std::path::PathBuf;

    /// A pack of frames of 100,000 bytes each, frame n of bytes n, which are `raw_len` long when opened.
    fn pack(space: Space, frames: u8, raw_len: u32) -> (Arc<PackInfo>, Vec<u8>) {
        const LEN: u32 = 100_000;
        let at = |n: u8| FrameAt { offset: 64 + u32::from(n) * LEN, sealed_len: LEN, raw_len, first: 0 };
        let mut bytes = vec![255; 64];
        (0..frames).for_each(|n| bytes.extend(std::iter::repeat_n(n, LEN as usize)));
        let info = PackInfo {
            id: PackId([frames; 32]),
            size: bytes.len() as u64,
            header: Vec::new(),
            space,
            frames: (0..frames).map(at).collect(),
            chunks: Vec::new(),
        };
        (Arc::new(info), bytes)
    }

    struct Stage {
        far: Far,
        counted: Arc<Counted>,
        folder: PathBuf,
    }

    impl Stage {
        fn new(packs: &[&(Arc<PackInfo>, Vec<u8>)], is_near: bool) -> Self {
            let memory = Memory::default();
            for (info, bytes) in packs {
                memory.put(&pack_name(&info.id), bytes).unwrap();
            }
            let counted = Arc::new(Counted::new(Arc::new(memory)));
            let tag = crate::id::hex(&crate::clock::random_array::<8>());
            let folder = std::env::temp_dir().join(format!("pastfs-far-{tag}"));
            let near = is_near.then(|| Arc::new(Near::open(&folder, 1 << 30).unwrap()));
            Self { far: Far::new(counted.clone(), near, true), counted, folder }
        }
        fn ranges(&self) -> u64 {
            self.counted.counts().costs().of("packs", Deed::Range)
        }
        /// Lets all that is expected come.
        fn settle(&self) {
            std::thread::scope(|scope| {
                scope.spawn(|| self.far.fetch_expected());
                while {
                    let state = self.far.state.lock();
                    !state.queued.is_empty() || !state.coming.is_empty()
                } {
                    std::thread::yield_now();
                }
                self.far.end();
            });
            self.far.state.lock().over = false;
        }
        #[track_caller]
        fn is_right(&self, pack: &Arc<PackInfo>, n: u8) {
            let sealed = self.far.sealed(pack, n.into()).unwrap();
            assert!(sealed.bytes == vec![n; 100_000], "frame {n}");
        }
    }

    impl Drop for Stage {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }

    #[test]
    fn the_trees_of_a_pack_cost_one_request_wherever_one_begins() {
        for first in [0, 20, 39] {
            let trees = pack(Space::Trees, 40, 300_000);
            let stage = Stage::new(&[&trees], false);
            (0..40).map(|n| (n + first) % 40).for_each(|n| stage.is_right(&trees.0, n));
            assert_eq!(stage.ranges(), 1, "from {first} on");
        }
    }

    #[test]
    fn small_files_cost_fewer_and_fewer_requests_in_any_order_and_big_ones_at_random_one_each() {
        for (raw_len, expected) in [(500_000, 3..=25), (64 << 10, 40..=50)] {
            let data = pack(Space::Data, 150, raw_len);
            let stage = Stage::new(&[&data], false);
            std::thread::scope(|scope| {
                scope.spawn(|| stage.far.fetch_expected());
                (0..50).for_each(|n| stage.is_right(&data.0, (n as u32 * 37 % 150) as u8));
                stage.far.end();
            });
            let ranges = stage.ranges();
            assert!(expected.contains(&ranges), "{ranges} requests");
        }
    }

    #[test]
    fn what_is_expected_is_fetched_in_long_runs_and_not_again() {
        let (one, two) = (pack(Space::Data, 60, 500_000), pack(Space::Data, 61, 500_000));
        let stage = Stage::new(&[&one, &two], false);
        // Two of three, which lie nearer to each other than a request is worth.
        let some = |p: &Arc<PackInfo>| {
            let p = p.clone();
            (0..60u32).filter(|n| n % 3 < 2).map(move |n| (p.clone(), n))
        };
        stage.far.expect(some(&one.0).chain(some(&two.0)));
        stage.far.expect(some(&one.0));
        stage.settle();
        for n in (0..60).filter(|n| n % 3 < 2) {
            stage.is_right(&one.0, n);
            stage.is_right(&two.0, n);
        }
        assert_eq!(stage.ranges(), 4, "for 80 frames, 6 MB of each pack");
    }

    #[test]
    fn a_pack_in_its_order_is_fetched_ahead_in_long_runs() {
        let data = pack(Space::Data, 250, 64 << 10);
        let stage = Stage::new(&[&data], false);
        for n in 0..250u8 {
            stage.is_right(&data.0, n);
            if n >= 2 {
                stage.far.in_order(&data.0, n.into());
                stage.settle();
            }
        }
        let ranges = stage.ranges();
        assert!(ranges <= 15, "{ranges} requests for 25 MB");
    }

    #[test]
    fn what_was_fetched_is_kept_and_what_is_kept_wrong_is_fetched_again() {
        let trees = pack(Space::Trees, 10, 300_000);
        let stage = Stage::new(&[&trees], true);
        stage.is_right(&trees.0, 3);
        let near = Arc::new(Near::open(&stage.folder, 1 << 30).unwrap());
        let far = Far::new(stage.counted.clone(), Some(near), false);
        assert!(far.sealed(&trees.0, 7).unwrap().is_kept);
        assert_eq!(stage.ranges(), 1);
        assert!(far.again(&trees.0, 7).unwrap() == vec![7; 100_000]);
        assert_eq!(stage.ranges(), 2);
        assert!(far.sealed(&trees.0, 7).unwrap().is_kept, "the new copy");
    }

    #[test]
    fn an_object_that_ends_early_gives_the_frames_that_it_has() {
        let (info, mut bytes) = pack(Space::Trees, 10, 300_000);
        bytes.truncate(550_000);
        let cut = (info, bytes);
        let stage = Stage::new(&[&cut], false);
        stage.is_right(&cut.0, 2);
        assert_eq!(stage.far.sealed(&cut.0, 7).err().map(|e| e.fault()), Some(Fault::Damaged));
        stage.is_right(&cut.0, 4);
    }

    #[test]
    fn who_waits_for_a_request_that_fails_is_told_and_not_left_waiting() {
        /// Every second range fails.
        struct Flaky(Memory, std::sync::atomic::AtomicUsize);
        impl Store for Flaky {
            fn location(&self) -> String {
                self.0.location()
            }
            fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
                self.0.put(name, bytes)
            }
            fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
                self.0.get(name, limit)
            }
            fn range(&self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
                match self.1.fetch_add(1, std::sync::atomic::Ordering::SeqCst) % 2 {
                    0 => Err(Error::new(Fault::Busy, "a line that breaks")),
                    _ => self.0.range(name, offset, length),
                }
            }
            fn size(&self, name: &str) -> Result<u64> {
                self.0.size(name)
            }
            fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
                self.0.list(prefix)
            }
            fn modified(&self, name: &str) -> Result<Time> {
                self.0.modified(name)
            }
            fn delete(&self, name: &str) -> Result<()> {
                self.0.delete(name)
            }
            fn may_be_stale(&self) -> bool {
                false
            }
        }
        let data = pack(Space::Data, 40, 500_000);
        let flaky = Flaky(Memory::default(), Default::default());
        flaky.put(&pack_name(&data.0.id), &data.1).unwrap();
        let far = Far::new(Arc::new(flaky), None, false);
        far.expect((0..40).map(|n| (data.0.clone(), n)));
        std::thread::scope(|scope| {
            (0..3).for_each(|_| drop(scope.spawn(|| far.fetch_expected())));
            let readers = (0..4).map(|k| {
                let (far, data) = (&far, &data);
                scope.spawn(move || {
                    for n in (0..40u8).map(|n| (n + k * 10) % 40) {
                        let mut tries = (0..100).map(|_| far.sealed(&data.0, n.into()));
                        let found = tries.find_map(Result::ok).expect("a second try does it");
                        assert!(found.bytes == vec![n; 100_000]);
                    }
                })
            });
            readers.collect::<Vec<_>>().into_iter().for_each(|r| r.join().unwrap());
            far.end();
        });
    }
}
