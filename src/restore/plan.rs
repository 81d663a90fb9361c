//! What is to be written and not begun yet: a window of bounded size that slides over the tree. The walk fills it,
//! the threads empty it.
//!
//! Files are taken in the order of the tree, which is that of the packs where one backup stored them all. Where many did,
//! neighbours in a folder lie in packs far from each other: so whoever has decoded a frame takes everything in the
//! window that begins in it. A frame is decoded once for a window, in whatever order its files lie in the tree.

use super::write::Job;
use crate::id::ChunkId;
use parking_lot::{Condvar, Mutex};
use std::collections::{HashMap, VecDeque};

/// Most files that wait: with names and attributes about 0.5 KB each. Enough that what 100 backups added to a tree
/// is met more than once in a window.
const FILES_MAX: usize = 16 << 10;
/// Most extents of waiting files, 48 bytes each: 12 MiB.
const EXTENTS_MAX: usize = 256 << 10;
/// Bytes of files that wait, counted from the first, whose contents are fetched ahead where the store is far: enough for
/// many requests at a time on any line. Once less than half of that is ahead, more is asked for, so that requests are long.
const AHEAD_BYTES: u64 = 48 << 20;
/// So many bytes of a long file count: what is behind them is fetched as it is read.
const FILE_AHEAD: u64 = 4 << 20;
/// Most files that one thread takes for one frame: the others are not to be idle because a thousand files are equal.
const TAKEN_MAX: usize = 256;

/// The window.
pub(super) struct Plan {
    state: Mutex<State>,
    /// For those who write.
    work: Condvar,
    /// For the walk.
    room: Condvar,
    /// Most folders that are held open by things that wait.
    folders_max: usize,
}

#[derive(Default)]
struct State {
    /// What was taken out of turn is `None`.
    queue: VecDeque<Option<Job>>,
    /// Number of the first of the queue.
    base: u64,
    waiting: usize,
    extents: usize,
    /// How much waits in each folder, by its address: these folders are kept open.
    folders: HashMap<usize, usize>,
    begins: HashMap<ChunkId, Vec<u64>>,
    /// The walk is over.
    ended: bool,
    /// Number of the first whose content was not asked for yet, and the bytes of those before it that still wait.
    asked: u64,
    ahead: u64,
}

impl Plan {
    /// `folders_max`: how many folders may be open because something in them waits.
    pub fn new(folders_max: usize) -> Self {
        Self { state: Mutex::default(), work: Condvar::new(), room: Condvar::new(), folders_max }
    }

    /// Adds a job; waits while the window is full.
    pub fn push(&self, job: Job) {
        let mut state = self.state.lock();
        let full = |s: &State| {
            s.waiting >= FILES_MAX || s.extents >= EXTENTS_MAX || s.folders.len() >= self.folders_max
        };
        if full(&state) {
            // Woken once a good part is done, not for each file.
            self.room.wait_while(&mut state, |s| s.waiting > 0 && (full(s) || !s.is_low(self.folders_max)));
        }
        *state.folders.entry(address(&job)).or_default() += 1;
        state.waiting += 1;
        state.extents += job.extents();
        if let Some(id) = job.begin() {
            let number = state.base + state.queue.len() as u64;
            state.begins.entry(id).or_default().push(number);
        }
        state.queue.push_back(Some(job));
        drop(state);
        self.work.notify_one();
    }

    /// Nothing more will be added.
    pub fn end(&self) {
        self.state.lock().ended = true;
        self.work.notify_all();
    }

    /// The next job in the order of the tree; waits for one. `None` when there will be none.
    pub fn take(&self) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.pop() {
                if let Some(id) = job.begin() {
                    let number = state.base - 1;
                    if let Some(numbers) = state.begins.get_mut(&id) {
                        numbers.retain(|n| *n != number);
                        if numbers.is_empty() {
                            state.begins.remove(&id);
                        }
                    }
                }
                self.wake(&state);
                return Some(job);
            }
            if state.ended {
                return None;
            }
            self.work.wait(&mut state);
        }
    }

    /// The chunks of files that come next and were not asked for yet, once there is room for more of them to be on their way.
    pub fn coming(&self) -> Vec<ChunkId> {
        let state = &mut *self.state.lock();
        let mut ids = Vec::new();
        if state.ahead >= AHEAD_BYTES / 2 {
            return ids;
        }
        state.asked = state.asked.max(state.base);
        while state.ahead < AHEAD_BYTES
            && let Some(job) = state.queue.get((state.asked - state.base) as usize)
        {
            if let Some(job) = job {
                state.ahead += job.bytes_ahead();
                // Where there were files before they may be equal, and are not read then.
                if job.folder.made {
                    ids.extend(job.chunks());
                }
            }
            state.asked += 1;
        }
        ids
    }

    /// Takes what begins with one of these chunks, in the order of the tree.
    pub fn take_beginning(&self, ids: &[ChunkId]) -> Vec<Job> {
        let mut state = self.state.lock();
        let mut numbers = Vec::new();
        for id in ids {
            if numbers.len() >= TAKEN_MAX {
                break;
            }
            if let Some(found) = state.begins.get_mut(id) {
                let keep = found.len().saturating_sub(TAKEN_MAX - numbers.len());
                numbers.extend(found.drain(keep..));
                if found.is_empty() {
                    state.begins.remove(id);
                }
            }
        }
        numbers.sort_unstable();
        let mut jobs = Vec::with_capacity(numbers.len());
        for number in numbers {
            let at = (number - state.base) as usize;
            if let Some(job) = state.queue.get_mut(at).and_then(Option::take) {
                state.left(&job, number);
                jobs.push(job);
            }
        }
        self.wake(&state);
        jobs
    }

    fn wake(&self, state: &State) {
        if state.waiting == 0 || state.is_low(self.folders_max) {
            self.room.notify_one();
        }
    }
}

impl State {
    fn is_low(&self, folders_max: usize) -> bool {
        let low = |n: usize, max: usize| n <= max / 4 * 3;
        low(self.waiting, FILES_MAX) && low(self.extents, EXTENTS_MAX) && low(self.folders.len(), folders_max)
    }
    fn pop(&mut self) -> Option<Job> {
        while let Some(first) = self.queue.pop_front() {
            self.base += 1;
            if let Some(job) = first {
                self.left(&job, self.base - 1);
                return Some(job);
            }
        }
        None
    }
    fn left(&mut self, job: &Job, number: u64) {
        if number < self.asked {
            self.ahead = self.ahead.saturating_sub(job.bytes_ahead());
        }
        self.waiting -= 1;
        self.extents -= job.extents();
        if let Some(n) = self.folders.get_mut(&address(job)) {
            *n -= 1;
            if *n == 0 {
                self.folders.remove(&address(job));
            }
        }
    }
}

impl Job {
    /// How much of it counts as fetched ahead.
    fn bytes_ahead(&self) -> u64 {
        self.entry.stat.size.min(FILE_AHEAD)
    }
}

fn address(job: &Job) -> usize {
    std::sync::Arc::as_ptr(&job.folder).addr()
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Scratch, stat};
    use super::super::folder::Folder;
    use super::*;
    use crate::format::tree::{At, Content, Entry, Extent, Node};
    use std::collections::BTreeSet;
    use std::sync::Arc;

    fn job(folder: &Arc<Folder>, n: usize, chunk: Option<u8>) -> Job {
        let extents = chunk.map(|c| Extent { len: 1, at: At::Chunk(ChunkId([c; 32])) });
        let node = Node::File(Content::Extents(extents.into_iter().collect()));
        let name = format!("{n:06}").into_bytes();
        let entry = Entry {
            name: name.clone(),
            stat: stat(0o644),
            node,
            xattrs: vec![],
            chunker: None,
            unknown: Default::default(),
        };
        Job { folder: folder.clone(), entry, path: name }
    }
    fn folder(scratch: &Scratch) -> Arc<Folder> {
        Folder::target(&scratch.0, None, b"/", false).unwrap()
    }
    fn name(job: &Job) -> usize {
        String::from_utf8_lossy(&job.path).parse().unwrap()
    }

    #[test]
    fn who_has_a_frame_takes_what_begins_in_it_and_the_rest_keeps_its_order() {
        let scratch = Scratch::new();
        let folder = folder(&scratch);
        let plan = Plan::new(10);
        for n in 0..12 {
            plan.push(job(&folder, n, (n % 4 != 3).then_some((n % 4) as u8)));
        }
        plan.end();
        assert_eq!(plan.take().map(|j| name(&j)), Some(0));
        let beside = [ChunkId([0; 32]), ChunkId([2; 32]), ChunkId([77; 32])];
        let taken: Vec<usize> = plan.take_beginning(&beside).iter().map(name).collect();
        assert_eq!(taken, [2, 4, 6, 8, 10]);
        assert!(plan.take_beginning(&beside).is_empty());
        let rest: Vec<usize> = std::iter::from_fn(|| plan.take()).map(|j| name(&j)).collect();
        assert_eq!(rest, [1, 3, 5, 7, 9, 11]);
    }

    #[test]
    fn contents_are_asked_for_once_in_order_and_within_bounds_but_not_where_files_may_stand_already() {
        let scratch = Scratch::new();
        let there = folder(&scratch);
        let made = Folder::target(&scratch.0.join("new"), None, b"/", false).unwrap();
        let plan = Plan::new(10);
        let sized = |n: usize, folder: &Arc<Folder>| {
            let mut job = job(folder, n, Some(n as u8));
            job.entry.stat.size = FILE_AHEAD;
            job
        };
        plan.push(sized(0, &there));
        (1..100).for_each(|n| plan.push(sized(n, &made)));
        plan.end();
        let numbers = |ids: Vec<ChunkId>| ids.iter().map(|id| usize::from(id.0[0])).collect::<Vec<_>>();
        let first = (AHEAD_BYTES / FILE_AHEAD) as usize;
        assert_eq!(numbers(plan.coming()), (1..first).collect::<Vec<_>>(), "not what stands there");
        assert!(plan.coming().is_empty(), "enough is on its way");
        // Out of turn counts as well.
        plan.take_beginning(&[ChunkId([5; 32])]);
        (1..first / 2).for_each(|_| drop(plan.take()));
        assert!(plan.coming().is_empty());
        plan.take();
        let next = first..first + first / 2 + 1;
        assert_eq!(numbers(plan.coming()), next.collect::<Vec<_>>());
    }

    #[test]
    fn nothing_is_lost_or_taken_twice_and_the_window_stays_within_its_bounds() {
        let scratch = Scratch::new();
        let folders: Vec<Arc<Folder>> = (0..50).map(|_| folder(&scratch)).collect();
        let plan = Plan::new(7);
        let count = 3 * FILES_MAX;
        let seen = Mutex::new(BTreeSet::new());
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while let Some(job) = plan.take() {
                        let ids: Vec<ChunkId> = job.begin().into_iter().collect();
                        let others = plan.take_beginning(&ids);
                        assert!(others.len() <= TAKEN_MAX);
                        for job in std::iter::once(job).chain(others) {
                            assert!(seen.lock().insert(name(&job)));
                        }
                    }
                });
            }
            for n in 0..count {
                let folder = &folders[n / 400 % folders.len()];
                plan.push(job(folder, n, (n % 3 > 0).then_some((n % 251) as u8)));
                let state = plan.state.lock();
                assert!(state.waiting <= FILES_MAX && state.folders.len() <= 7);
            }
            plan.end();
        });
        assert_eq!(seen.lock().len(), count);
        let state = plan.state.lock();
        assert!(state.folders.is_empty() && state.begins.is_empty());
        assert_eq!((state.waiting, state.extents), (0, 0));
    }
}
