//! Reads folders ahead of the walk, which takes them in its own order.
//!
//! Every folder that the walk will come to is a [`Slot`]. Threads list the slots that come next and leave the
//! listing there; whoever wants a slot that nobody has begun lists it itself. So the stream does not depend on
//! the threads, and none can wait for another that does not work.

use super::list::{Job, Lister, Listing, Rules};
use crate::fault::{Doing, Error, Result};
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Folders that are listed ahead at most: each holds a descriptor.
const FOLDERS: usize = 256;
/// Entries in them at most (some 300 bytes each), give or take a folder for each thread.
const ENTRIES: usize = 16 << 10;
/// Folders below this many levels are not listed ahead: their keys grow with the depth.
const LEVELS: usize = 64;

/// A folder that is to be listed, is being listed, or was.
pub(super) struct Slot {
    /// Its place in the walk: the numbers of the folders on the way to it. They sort as the walk goes.
    /// `None` for what is not listed ahead.
    key: Option<Vec<u32>>,
    state: Mutex<State>,
    done: Condvar,
}

enum State {
    Todo(Job),
    Busy,
    Done(Box<Listing>),
    Taken,
}

impl Slot {
    pub(super) fn new(job: Job, key: Option<Vec<u32>>) -> Arc<Self> {
        let key = key.filter(|k| k.len() <= LEVELS);
        Arc::new(Self { key, state: Mutex::new(State::Todo(job)), done: Condvar::new() })
    }
    /// The job, if nobody has begun it.
    fn begin(&self, then: State) -> Option<Job> {
        let mut state = self.state.lock();
        match std::mem::replace(&mut *state, then) {
            State::Todo(job) => Some(job),
            other => {
                *state = other;
                None
            }
        }
    }
    fn finish(&self, listing: Listing) {
        *self.state.lock() = State::Done(Box::new(listing));
        self.done.notify_all();
    }
}

/// The threads and what they share.
pub(super) struct Ahead {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    /// By key, so that what the walk wants first is first.
    slots: BTreeMap<Vec<u32>, Arc<Slot>>,
    /// Folders and entries that are listed, or being listed, and not taken yet.
    folders: usize,
    entries: usize,
    stop: bool,
}

impl Ahead {
    /// Starts `threads` threads.
    pub(super) fn new(threads: usize, rules: &Arc<Rules>) -> Result<Self> {
        let mut ahead = Self { shared: Arc::default(), threads: Vec::new() };
        for _ in 0..threads {
            let shared = ahead.shared.clone();
            let lister = Lister::new(rules.clone());
            let thread = std::thread::Builder::new().name("walk".into()).spawn(move || shared.work(lister));
            ahead.threads.push(thread.doing(|| "starting a thread that reads folders")?);
        }
        Ok(ahead)
    }
    /// Whether slots need keys.
    pub(super) fn active(&self) -> bool {
        !self.threads.is_empty()
    }
    /// Offers folders to the threads.
    pub(super) fn offer<'a>(&self, slots: impl Iterator<Item = &'a Arc<Slot>>) {
        if self.active() {
            self.shared.offer(slots);
        }
    }
    /// The listing of a folder: from a thread if one has begun it, else made here and now.
    pub(super) fn take(&self, slot: &Slot, lister: &mut Lister) -> Listing {
        if let Some(job) = slot.begin(State::Taken) {
            if let Some(key) = &slot.key {
                self.shared.queue.lock().slots.remove(key);
            }
            let listing = lister.list(&job, slot.key.as_deref());
            self.offer(Listing::slots(&listing.entries));
            return listing;
        }
        let mut state = slot.state.lock();
        while matches!(*state, State::Busy) {
            slot.done.wait(&mut state);
        }
        let State::Done(listing) = std::mem::replace(&mut *state, State::Taken) else {
            return Listing::failed(Error::bug("a folder was entered twice"));
        };
        drop(state);
        self.shared.release(listing.entries.len());
        *listing
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.shared.queue.lock().stop = true;
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            // One that panicked has told so already, and its folder has failed.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn offer<'a>(&self, slots: impl Iterator<Item = &'a Arc<Slot>>) {
        let mut queue = self.queue.lock();
        let before = queue.slots.len();
        for slot in slots {
            if let Some(key) = &slot.key {
                queue.slots.insert(key.clone(), slot.clone());
            }
        }
        if queue.slots.len() > before && queue.has_room() {
            self.wake.notify_all();
        }
    }
    fn release(&self, entries: usize) {
        let mut queue = self.queue.lock();
        queue.folders -= 1;
        queue.entries -= entries;
        // Not for each: a thread that wakes up should find something to do for a while.
        if queue.folders <= FOLDERS / 2 && queue.entries <= ENTRIES / 2 && !queue.slots.is_empty() {
            self.wake.notify_all();
        }
    }
    fn work(&self, mut lister: Lister) {
        loop {
            let slot = {
                let mut queue = self.queue.lock();
                loop {
                    if queue.stop {
                        return;
                    }
                    if queue.has_room()
                        && let Some((_, slot)) = queue.slots.pop_first()
                    {
                        queue.folders += 1;
                        break slot;
                    }
                    self.wake.wait(&mut queue);
                }
            };
            let Some(job) = slot.begin(State::Busy) else {
                self.queue.lock().folders -= 1;
                continue;
            };
            let guard = Guard(&slot);
            let listing = lister.list(&job, slot.key.as_deref());
            std::mem::forget(guard);
            drop(job);
            self.queue.lock().entries += listing.entries.len();
            self.offer(Listing::slots(&listing.entries));
            slot.finish(listing);
        }
    }
}

impl Queue {
    fn has_room(&self) -> bool {
        self.folders < FOLDERS && self.entries < ENTRIES
    }
}

/// Without this the walk would wait for a thread that panicked for ever.
struct Guard<'a>(&'a Slot);
impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.finish(Listing::failed(Error::bug("a thread that reads folders has panicked")));
    }
}
