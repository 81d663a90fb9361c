//! A store that is not there any more, or not yet again, for who reads it for months.

use super::listing::{Listing, Snapshot};
use super::{Repository, load_config};
use crate::fault::{Error, Fault, Result};
use crate::format::snapshot::Action;

impl Repository {
    /// A store that is being deleted, or moved away under us, must not look like one whose snapshots were all
    /// forgotten: who mirrors a mount would delete the mirror.
    pub(super) fn not_emptied(&self, listing: &Listing) -> Result<()> {
        if !listing.manifests.is_empty() {
            return Ok(());
        }
        let known = self.known.lock();
        let accounted = |s: &Snapshot| {
            listing.notes.iter().map(|n| &n.note.0).any(|n| match n.action {
                Action::Forget => n.snapshots.contains(&s.id),
                Action::Void => n.session == Some(s.manifest.session),
                _ => false,
            })
        };
        match known.snapshots.values().filter(|s| !accounted(s)).count() {
            0 => Ok(()),
            n => Err(self.emptied(&format!(
                "{n} snapshots are gone from it, and no note says that they were forgotten"
            ))),
        }
    }

    pub(super) fn emptied(&self, why: &str) -> Error {
        Error::new(Fault::NoRepository, why).while_(format!("{} was emptied or moved away", self.location()))
    }

    /// Looks for the repository where it was named, once its folder no longer answers: a disk that was plugged in
    /// again, or a network share that was mounted anew, is another folder. Only the same repository counts. Whether
    /// there is one.
    pub fn find_again(&self) -> bool {
        self.store.find_again(&|store| load_config(store, &self.keys, self.config.number).map(drop))
    }
}
