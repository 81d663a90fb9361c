//! How the threads that answer the kernel wait for the next request while somebody walks through folders.
//!
//! A walk asks for one listing after another, and goes on when it is answered. For each the kernel wakes a thread of ours, on
//! a processor that has gone to sleep meanwhile: in a virtual machine that takes longer than the answer. So who has answered a
//! listing stays awake for a moment. It helps only if nobody sleeps in read(2), whom the kernel would wake all the same: of
//! all threads one goes on, and the others rest outside until it has nothing more to do, is held up by a slow store, or
//! there is more than it can do.
//!
//! Nothing depends on what is counted here: who rests looks up after [`REST`] for each that does, and takes requests again.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long one stays awake. A walk comes back in 5 to 150 µs, as it makes inodes of what it was told (`find` over a source tree: 1.45 s
/// without, 1.27 with 50 µs, 1.08 with 100, 1.02 with 200, on two processors of a virtual machine).
const AWAKE: Duration = Duration::from_micros(200);
/// How long one rests before it looks whether it is needed, for each that does, so that however many there are one of them looks
/// up every 2 ms: what a request may have to wait, as a rule, that comes when all others are held up.
const REST: Duration = Duration::from_millis(2);

/// What the threads know of each other.
pub(super) struct Waiting {
    /// Where requests come from, once it is there.
    device: OnceLock<OwnedFd>,
    threads: usize,
    /// Threads that are not in read(2).
    busy: AtomicUsize,
    /// Those of them that wait awake, and those that rest.
    awake: AtomicUsize,
    resting: AtomicUsize,
    /// Listings so far.
    listed: AtomicU64,
}

/// Counts one while it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Waiting {
    /// For so many threads.
    pub fn new(threads: usize) -> Self {
        let (device, busy, awake, resting, listed) = Default::default();
        Self { device, threads, busy, awake, resting, listed }
    }

    /// Requests come from there. Until this is told, threads sleep between requests.
    pub fn on(&self, device: OwnedFd) {
        let _ = self.device.set(device);
    }

    /// This thread answers a request, until what is returned is dropped.
    pub fn answering(&self) -> impl Drop + '_ {
        Counted::new(&self.busy)
    }

    /// A listing was answered; returns when this thread is to take the next request.
    pub fn listed(&self) {
        let seen = self.listed.fetch_add(1, Relaxed) + 1;
        if self.is_pending() {
            return;
        }
        let asleep = self.threads.saturating_sub(self.busy.load(Relaxed));
        if asleep + self.awake.load(Relaxed) > 0 {
            self.rest(seen);
        } else {
            let _awake = Counted::new(&self.awake);
            let until = Instant::now() + AWAKE;
            while !self.is_pending() && Instant::now() < until {
                // What decodes folders ahead may need this processor.
                std::thread::yield_now();
            }
        }
    }

    /// Until no listing is answered any more, or requests wait.
    fn rest(&self, mut seen: u64) {
        let _resting = Counted::new(&self.resting);
        loop {
            sleep(REST * self.resting.load(Relaxed).max(1) as u32);
            let now = self.listed.load(Relaxed);
            if now == seen || self.is_pending() {
                return;
            }
            seen = now;
        }
    }

    /// Whether a request waits; also where there is none to wait for, so that whoever asks goes on and finds out why.
    fn is_pending(&self) -> bool {
        let Some(device) = self.device.get() else { return true };
        let mut asked = [PollFd::new(device, PollFlags::IN)];
        poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) != Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    fn waiting(threads: usize) -> (Waiting, UnixStream) {
        let (here, there) = UnixStream::pair().unwrap();
        let waiting = Waiting::new(threads);
        waiting.on(here.into());
        (waiting, there)
    }

    fn is_idle(waiting: &Waiting) -> bool {
        [&waiting.busy, &waiting.awake, &waiting.resting].iter().all(|n| n.load(Relaxed) == 0)
    }

    #[test]
    fn threads_that_answer_at_the_same_time_never_wait_for_each_other() {
        let (waiting, _requests) = waiting(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let _busy = waiting.answering();
                        waiting.listed();
                    }
                });
            }
        });
        assert!(is_idle(&waiting));
    }

    #[test]
    fn nobody_waits_where_a_request_is_there_or_the_device_is_gone() {
        for is_gone in [false, true] {
            let (waiting, mut requests) = waiting(2);
            if is_gone {
                drop(requests)
            } else {
                requests.write_all(b"request").unwrap()
            }
            let _busy = waiting.answering();
            assert!(waiting.is_pending());
            waiting.listed();
            assert_eq!(waiting.resting.load(Relaxed), 0);
        }
    }

    #[test]
    fn who_rests_goes_on_when_the_other_is_held_up() {
        let (waiting, _requests) = waiting(2);
        let first = waiting.answering();
        // The other one is asleep, so that this one rests; nothing comes.
        waiting.listed();
        // The other one is held up by a slow request: this one stays awake for a moment, and then takes what comes.
        let second = waiting.answering();
        waiting.listed();
        drop((first, second));
        assert!(is_idle(&waiting));
    }
}
