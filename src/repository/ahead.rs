//! Frames that a sweep moves out of packs of a far store, fetched ahead of it in long runs, many requests at a time.
//!
//! A frame read by itself is a request and a journey, and a prune that repacks moves thousands. What it will move it knows in
//! advance: so neighbouring frames come by one range (see `far.rs`, which decides how far apart neighbours may be), and the
//! ranges of a window beside one another. The window bounds memory: frames that were asked for and not taken yet have at most
//! [`WINDOW`] bytes, to which those in between come that are not wanted.

use super::far::{FETCHERS, Far, Sealed};
use crate::fault::Result;
use crate::index::PackInfo;
use crate::storage::Store;
use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Bytes of frames that are asked for and not taken yet. Less than half of what `far.rs` keeps, so that nothing is let go before
/// it is taken; eight ranges of 4 MiB, which are on their way at a time.
const WINDOW: u64 = 32 << 20;
/// What is asked for at a time: long enough for several ranges.
const STEP: u64 = WINDOW / 2;

/// Fetches ahead, until it is dropped.
pub(super) struct Ahead {
    far: Arc<Far>,
    threads: Vec<JoinHandle<()>>,
    /// What will be taken, in that order, and was not asked for yet.
    planned: VecDeque<(Arc<PackInfo>, u32)>,
    /// Bytes that were asked for and not taken yet.
    asked: u64,
}

fn length(pack: &PackInfo, number: u32) -> u64 {
    pack.frames.get(number as usize).map_or(0, |frame| frame.sealed_len.into())
}

impl Ahead {
    /// Of a far store; of a near one nothing is fetched ahead. It takes nothing from the cache: what is moved is read where it lies.
    pub fn of(store: &Arc<dyn Store>) -> Option<Self> {
        store.nature().is_far.then(|| {
            let far = Arc::new(Far::new(store.clone(), None, false));
            // Without the threads each frame is fetched when it is taken.
            let spawn = |_| {
                let far = far.clone();
                let fetch = move || far.fetch_expected();
                std::thread::Builder::new().name("fetch".into()).spawn(fetch).ok()
            };
            let threads = (0..FETCHERS).filter_map(spawn).collect();
            Self { far, threads, planned: VecDeque::new(), asked: 0 }
        })
    }

    /// Whether it has asked for all that it was told of, so that more can be told.
    pub fn is_idle(&self) -> bool {
        self.planned.is_empty()
    }

    /// These frames will be taken after all that it was told of before.
    pub fn plan(&mut self, pack: &Arc<PackInfo>, frames: impl IntoIterator<Item = u32>) {
        self.planned.extend(frames.into_iter().map(|n| (pack.clone(), n)));
        self.ask();
    }

    fn ask(&mut self) {
        if self.asked > WINDOW - STEP {
            return;
        }
        let mut next = Vec::new();
        while self.asked < WINDOW
            && let Some((pack, n)) = self.planned.pop_front()
        {
            self.asked += length(&pack, n);
            next.push((pack, n));
        }
        self.far.expect(next);
    }

    /// The bytes of a frame as they are stored.
    ///
    /// # Errors
    /// What the store says.
    pub fn take(&mut self, pack: &Arc<PackInfo>, number: u32) -> Result<Vec<u8>> {
        let taken = self.far.sealed(pack, number).map(|Sealed { bytes, .. }| bytes);
        self.asked = self.asked.saturating_sub(length(pack, number));
        self.ask();
        taken
    }
}

impl Drop for Ahead {
    /// Waits for the threads, as of a reader.
    fn drop(&mut self) {
        self.far.end();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
