//! A store that is not there any more, or not yet again, for who reads it for months.

use super::listing::Listing;
use super::{Repository, load_config};
use crate::fault::{Error, Fault, Result};

impl Repository {
    /// A store that is being deleted, or moved away under us, must not look like one whose snapshots were all
    /// forgotten: who mirrors a mount would delete the mirror. Who sees the store for the first time gets a warning
    /// of what vanished, and no snapshots.
    pub(super) fn not_emptied(&self, listing: &Listing) -> Result<()> {
        let known = &mut *self.known.lock();
        if !listing.manifests.is_empty() {
            known.has_listed = true;
            return Ok(());
        }
        match known.vanished.snapshots.len() {
            n if n > 0 && known.has_listed => Err(self.emptied(&format!(
                "{n} snapshots are gone from it, and no note says that they were forgotten"
            ))),
            _ => Ok(()),
        }
    }

    pub(super) fn emptied(&self, why: &str) -> Error {
        Error::new(Fault::NoRepository, why)
            .while_(format!("{} was emptied or moved away", self.location()))
            .hint("look at the storage; if it is well so, `pastfs snapshots --accept-vanished` takes it for right")
    }

    /// Looks for the repository where it was named, once its folder no longer answers: a disk that was plugged in
    /// again, or a network share that was mounted anew, is another folder. Only the same repository counts. Whether
    /// there is one.
    pub fn find_again(&self) -> bool {
        self.store.find_again(&|store| load_config(store, &self.keys, self.config.number).map(drop))
    }
}
