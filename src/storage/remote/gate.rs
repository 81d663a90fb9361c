//! So many requests at a time and no more.

use crate::clock::Time;
use crate::fault::Result;
use crate::storage::{Listed, Nature, Store};
use parking_lot::{Condvar, Mutex};

/// A store of which only so many methods run at a time; the others wait for their turn.
pub(super) struct Gate<S> {
    store: S,
    free: Mutex<usize>,
    freed: Condvar,
}

impl<S: Store> Gate<S> {
    pub(super) fn new(store: S, most: usize) -> Self {
        Self { store, free: Mutex::new(most), freed: Condvar::new() }
    }

    fn pass<T>(&self, request: impl FnOnce(&S) -> Result<T>) -> Result<T> {
        /// Gives the place back also when the request panics.
        struct Turn<'a>(&'a Mutex<usize>, &'a Condvar);
        impl Drop for Turn<'_> {
            fn drop(&mut self) {
                *self.0.lock() += 1;
                self.1.notify_one();
            }
        }
        let mut free = self.free.lock();
        while *free == 0 {
            self.freed.wait(&mut free);
        }
        *free -= 1;
        drop(free);
        let _turn = Turn(&self.free, &self.freed);
        request(&self.store)
    }
}

impl<S: Store> Store for Gate<S> {
    fn location(&self) -> String {
        self.store.location()
    }
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.pass(|s| s.put(name, bytes))
    }
    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        self.pass(|s| s.get(name, limit))
    }
    fn range(&self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.pass(|s| s.range(name, offset, length))
    }
    fn size(&self, name: &str) -> Result<u64> {
        self.pass(|s| s.size(name))
    }
    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.pass(|s| s.list(prefix))
    }
    fn names(&self, prefix: &str) -> Result<Vec<String>> {
        self.pass(|s| s.names(prefix))
    }
    fn modified(&self, name: &str) -> Result<Time> {
        self.pass(|s| s.modified(name))
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.pass(|s| s.delete(name))
    }
    fn delete_all(&self, names: &[String]) -> Result<()> {
        self.pass(|s| s.delete_all(names))
    }
    fn nature(&self) -> Nature {
        self.store.nature()
    }
    fn may_be_stale(&self) -> bool {
        self.store.may_be_stale()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::conformance::memory::Memory;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    /// Counts how many are in it at a time.
    #[derive(Default)]
    struct Counting {
        memory: Memory,
        now: AtomicUsize,
        most: AtomicUsize,
    }

    impl Store for Counting {
        fn location(&self) -> String {
            self.memory.location()
        }
        fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
            self.most.fetch_max(self.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            crate::clock::sleep(Duration::from_millis(2));
            let done = self.memory.put(name, bytes);
            self.now.fetch_sub(1, Ordering::SeqCst);
            done
        }
        fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
            self.memory.get(name, limit)
        }
        fn range(&self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
            self.memory.range(name, offset, length)
        }
        fn size(&self, name: &str) -> Result<u64> {
            self.memory.size(name)
        }
        fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
            self.memory.list(prefix)
        }
        fn modified(&self, name: &str) -> Result<Time> {
            self.memory.modified(name)
        }
        fn delete(&self, name: &str) -> Result<()> {
            self.memory.delete(name)
        }
        fn may_be_stale(&self) -> bool {
            false
        }
    }

    #[test]
    fn no_more_than_so_many_run_at_a_time_and_all_get_their_turn() {
        let gate = Gate::new(Counting::default(), 3);
        std::thread::scope(|scope| {
            for thread in 0..12 {
                let gate = &gate;
                scope.spawn(move || gate.put(&format!("packs/{thread}"), b"x").unwrap());
            }
        });
        assert!(gate.store.most.load(Ordering::SeqCst) <= 3);
        assert_eq!(gate.names("packs/").unwrap().len(), 12);
        assert_eq!(*gate.free.lock(), 3);
    }
}
