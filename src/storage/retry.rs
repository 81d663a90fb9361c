//! A store that tries again what may pass: a server that starts anew, a line that broke, too many requests.

use super::{Listed, Nature, Store};
use crate::clock::{self, Time};
use crate::event::{Event, Observer};
use crate::fault::{Error, Fault, Result};
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Wait before the second try; doubled before each one after it.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Longest wait between two tries: a server that is back is found soon.
const LONGEST_WAIT: Duration = Duration::from_secs(16);
/// Most tries of one request.
const TRIES_MAX: u32 = 40;
/// How long a place that never answered is tried: its name is probably wrong, and people wait before the screen.
const NEVER_ANSWERED: Duration = Duration::from_secs(8);
/// Tries of a request that the server itself fails at ([`Inner`]): about a minute. Of a server that starts or is overloaded these
/// pass, as AWS and Ceph say of theirs; one that always fails at the same request has a defect or a broken disk, and whoever
/// waits before the screen wants to know. (restic waits 15 minutes, rclone tries 10 times within seconds, the SDKs of AWS 3 times.)
const INNER_TRIES_MAX: u32 = 10;
const INNER_HINT: &str = "the server has failed at this again and again, which is no matter of time: look at its log, at its disk, \
                          and at a proxy before it";
/// A first failure that passes soon is nobody's business.
const SILENT_TRIES: u32 = 2;

/// The words of a server that says it failed (HTTP 500), and not that it cannot now (503).
#[derive(Debug)]
pub(super) struct Inner(pub(super) String);

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Inner {}

/// Whether it is the server that failed.
fn is_inner(e: &Error) -> bool {
    let mut at = e.source();
    while let Some(cause) = at {
        if cause.is::<Inner>() {
            return true;
        }
        at = cause.source();
    }
    false
}

/// Tries again where a store says [`Fault::Busy`]; any other failure is final.
pub struct Retry<S> {
    store: S,
    patience: Duration,
    observer: Arc<dyn Observer>,
    has_answered: AtomicBool,
    first_wait: Duration,
}

impl<S: Store> Retry<S> {
    /// One request is tried until `patience` is over, or at most 40 times; one that the server itself fails at, 10 times.
    pub fn new(store: S, patience: Duration, observer: Arc<dyn Observer>) -> Self {
        Self { store, patience, observer, has_answered: AtomicBool::new(false), first_wait: FIRST_WAIT }
    }

    fn again<T>(&self, mut request: impl FnMut() -> Result<T>) -> Result<T> {
        let (mut waited, mut wait) = (Duration::ZERO, self.first_wait);
        let started = clock::running();
        let (mut tries, mut inner) = (0, 0);
        loop {
            tries += 1;
            let failed = match request() {
                Err(e) if e.fault() == Fault::Busy => e,
                done => {
                    // A refusal is an answer as well.
                    self.has_answered.store(true, Ordering::Relaxed);
                    return done;
                }
            };
            inner += u32::from(is_inner(&failed));
            if inner >= INNER_TRIES_MAX {
                self.has_answered.store(true, Ordering::Relaxed);
                return Err(failed.hint(INNER_HINT));
            }
            let patience = match self.has_answered.load(Ordering::Relaxed) {
                true => self.patience,
                false => self.patience.min(NEVER_ANSWERED),
            };
            let pause = jittered(wait);
            // Requests that time out take time as well.
            let elapsed = Duration::from_secs(u64::try_from(clock::running() - started).unwrap_or(0));
            if tries >= TRIES_MAX || waited.max(elapsed) + pause > patience {
                return Err(failed);
            }
            if tries > SILENT_TRIES {
                let text = format!("{}; trying again in {:.0} s", failed.chain(), pause.as_secs_f64().ceil());
                self.observer.event(Event::Warning(&text));
            }
            clock::sleep(pause);
            waited += pause;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }
}

/// Between half of it and all: those who failed together do not come back together.
fn jittered(wait: Duration) -> Duration {
    let chance = u32::from_le_bytes(clock::random_array()) as f64 / f64::from(u32::MAX);
    wait.mul_f64(0.5 + chance / 2.0)
}

impl<S: Store> Store for Retry<S> {
    fn location(&self) -> String {
        self.store.location()
    }
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.again(|| self.store.put(name, bytes))
    }
    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        self.again(|| self.store.get(name, limit))
    }
    fn range(&self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.again(|| self.store.range(name, offset, length))
    }
    fn prefetch(&self, name: &str, offset: u64, length: u64) {
        self.store.prefetch(name, offset, length);
    }
    fn release(&self, name: &str, offset: u64, length: u64) {
        self.store.release(name, offset, length);
    }
    fn size(&self, name: &str) -> Result<u64> {
        self.again(|| self.store.size(name))
    }
    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.again(|| self.store.list(prefix))
    }
    fn names(&self, prefix: &str) -> Result<Vec<String>> {
        self.again(|| self.store.names(prefix))
    }
    fn modified(&self, name: &str) -> Result<Time> {
        self.again(|| self.store.modified(name))
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.again(|| self.store.delete(name))
    }
    fn delete_all(&self, names: &[String]) -> Result<()> {
        self.again(|| self.store.delete_all(names))
    }
    fn nature(&self) -> Nature {
        self.store.nature()
    }
    fn may_be_stale(&self) -> bool {
        self.store.may_be_stale()
    }
    fn find_again(&self, same: &dyn Fn(&dyn Store) -> Result<()>) -> bool {
        self.store.find_again(same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Silent;
    use crate::fault::Error;
    use crate::storage::conformance::{conformance, memory::Memory};
    use parking_lot::Mutex;

    /// Fails so many times with this fault, then works.
    struct Failing {
        memory: Memory,
        left: Mutex<u32>,
        fault: Fault,
    }

    impl Failing {
        fn or<T>(&self, done: impl FnOnce(&Memory) -> Result<T>) -> Result<T> {
            let mut left = self.left.lock();
            if *left > 0 {
                *left -= 1;
                return Err(Error::new(self.fault, "not now"));
            }
            done(&self.memory)
        }
    }

    impl Store for Failing {
        fn location(&self) -> String {
            "failing".into()
        }
        fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
            self.or(|m| m.put(name, bytes))
        }
        fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
            self.or(|m| m.get(name, limit))
        }
        fn range(&self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
            self.or(|m| m.range(name, offset, length))
        }
        fn size(&self, name: &str) -> Result<u64> {
            self.or(|m| m.size(name))
        }
        fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
            self.or(|m| m.list(prefix))
        }
        fn modified(&self, name: &str) -> Result<Time> {
            self.or(|m| m.modified(name))
        }
        fn delete(&self, name: &str) -> Result<()> {
            self.or(|m| m.delete(name))
        }
        fn may_be_stale(&self) -> bool {
            false
        }
    }

    fn failing(times: u32, fault: Fault, patience: Duration) -> Retry<Failing> {
        let store = Failing { memory: Memory::default(), left: Mutex::new(times), fault };
        Retry::new(store, patience, Arc::new(Silent))
    }

    #[test]
    fn what_may_pass_is_tried_again_and_nothing_else() {
        let minute = Duration::from_secs(60);
        let store = failing(2, Fault::Busy, minute);
        store.put("a", b"a").unwrap();
        for fault in [Fault::Denied, Fault::Missing, Fault::Damaged, Fault::Io, Fault::Full, Fault::Misuse] {
            let store = failing(1, fault, minute);
            assert_eq!(store.put("a", b"a").unwrap_err().fault(), fault);
            store.put("a", b"a").unwrap();
        }
    }

    #[test]
    fn a_server_that_always_fails_itself_is_told_of_long_before_patience_ends() {
        struct Fails(Mutex<u32>);
        impl Store for Fails {
            fn location(&self) -> String {
                "fails".into()
            }
            fn put(&self, _: &str, _: &[u8]) -> Result<()> {
                let mut tries = self.0.lock();
                *tries += 1;
                let e = Error::with_source(Fault::Busy, "writing a", Inner("the server answers 500".into()));
                Err(e.while_("one floor up"))
            }
            fn get(&self, name: &str, _: u64) -> Result<Vec<u8>> {
                self.put(name, b"").map(|()| Vec::new())
            }
            fn range(&self, name: &str, _: u64, _: usize) -> Result<Vec<u8>> {
                self.get(name, 0)
            }
            fn size(&self, _: &str) -> Result<u64> {
                Ok(0)
            }
            fn list(&self, _: &str) -> Result<Vec<Listed>> {
                Ok(Vec::new())
            }
            fn modified(&self, _: &str) -> Result<Time> {
                Ok(Time::default())
            }
            fn delete(&self, _: &str) -> Result<()> {
                Ok(())
            }
            fn may_be_stale(&self) -> bool {
                false
            }
        }
        let hour = Duration::from_secs(3600);
        let mut store = Retry::new(Fails(Mutex::new(0)), hour, Arc::new(Silent));
        store.first_wait = Duration::from_micros(10);
        let e = store.put("a", b"a").unwrap_err();
        assert_eq!((e.fault(), *store.store.0.lock()), (Fault::Busy, INNER_TRIES_MAX));
        assert_eq!(e.advice(), Some(INNER_HINT));
    }

    #[test]
    fn patience_ends() {
        let store = failing(1000, Fault::Busy, Duration::from_millis(700));
        assert_eq!(store.get("a", 10).unwrap_err().fault(), Fault::Busy);
        let tried = 1000 - *store.store.left.lock();
        assert!((2..=6).contains(&tried), "{tried} tries");
    }

    #[test]
    fn those_who_wait_do_not_come_back_together() {
        let waits: Vec<Duration> = (0..50).map(|_| jittered(FIRST_WAIT)).collect();
        assert!(waits.iter().all(|w| *w >= FIRST_WAIT / 2 && *w <= FIRST_WAIT));
        assert!(waits.iter().any(|w| *w != waits[0]));
    }

    #[test]
    fn a_store_that_is_tried_again_keeps_the_contract() {
        conformance(&|| Box::new(Retry::new(Memory::default(), Duration::ZERO, Arc::new(Silent))));
    }
}
