//! When this machine last knew all that a far store had: a backup of nothing new need not learn what others have added since.

use super::Repository;
use crate::event::Event;
use crate::id::hex;
use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// What was known so many seconds ago will do for a backup that stores nothing. It is half of the grace time of prune: what
/// a prune has retired is named by the leases of all who begin when it may be deleted, so that nobody holds prune back.
pub const KNOWN_DO_SECONDS: u64 = 12 * 3600;

impl Repository {
    /// A file whose time is that of the last such moment, for this place and this view of the index.
    fn synced_file(&self) -> PathBuf {
        let of = [self.location().as_bytes(), self.index_dir().as_os_str().as_encoded_bytes()].join(&0);
        self.cache.join(format!("synced-{}", hex(&blake3::hash(&of).as_bytes()[..8])))
    }

    /// The index holds all that the store has.
    pub(super) fn synced_now(&self) {
        if self.store.nature().is_far {
            // Without it the next backup learns what there is, as any did.
            let _ = File::create(self.synced_file());
        }
    }

    /// What was fetched of a far store is there for the next process.
    pub(super) fn keep_index(&self) {
        if self.store.nature().is_far
            && let Err(e) = self.index().and_then(|index| index.persist())
        {
            // It is fetched again.
            self.observer.event(Event::Detail(&e.chain()));
        }
    }

    /// Whether what this machine knows will do for a backup, as long as that stores nothing.
    pub(super) fn knows_enough(&self) -> bool {
        let is_recent = |then: SystemTime| {
            // A clock that was put back proves nothing.
            then.elapsed().is_ok_and(|age| age < Duration::from_secs(KNOWN_DO_SECONDS))
        };
        self.store.nature().is_far
            && fs::metadata(self.synced_file()).and_then(|m| m.modified()).is_ok_and(is_recent)
    }
}
