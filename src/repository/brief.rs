//! The private part of a manifest: paths, and what was not read. Where it is long, what is kept of it are the paths: an ordinary
//! one is kept whole, and a long list of unread files is read again by who wants it.

use super::Repository;
use super::keyring::Author;
use super::listing::Snapshot;
use crate::fault::{Doing, Fault, Result};
use crate::format::snapshot::{Manifest, Private};
use crate::id::SnapshotId;

/// Longest private part of a manifest in bytes that is kept as it is: paths of an ordinary backup fit.
const WHOLE_MAX: usize = 1024;
/// Longest one that is kept without its list of unread files: several hundred paths. Of a longer one nothing is kept.
const BRIEF_MAX: usize = 64 << 10;

impl Snapshot {
    /// A proven manifest, before any note.
    pub(super) fn new(id: SnapshotId, mut manifest: Manifest, author: Author) -> Self {
        if manifest.private.len() > WHOLE_MAX {
            manifest.private = Vec::new();
        }
        Self::of(id, manifest, author)
    }

    /// The same, with all that there is of the private part.
    pub(super) fn of(id: SnapshotId, manifest: Manifest, author: Author) -> Self {
        let mut tags = manifest.tags.clone();
        tags.sort();
        tags.dedup();
        Self { id, manifest, tags, held: false, author }
    }
}

impl Repository {
    /// A proven manifest, before any note, with as much of its private part as is kept.
    pub(super) fn kept(&self, id: SnapshotId, manifest: Manifest, author: Author) -> Snapshot {
        let brief = match manifest.private.len() > WHOLE_MAX {
            // Who cannot read keeps nothing.
            true => self.brief(&manifest).ok().filter(|brief| brief.len() <= BRIEF_MAX),
            false => None,
        };
        let mut snapshot = Snapshot::new(id, manifest, author);
        if let Some(brief) = brief {
            snapshot.manifest.private = brief;
        }
        snapshot
    }

    /// The private part without its list of unread files, sealed again.
    fn brief(&self, manifest: &Manifest) -> Result<Vec<u8>> {
        let session = &manifest.session.0;
        let mut private = Private::decode(&self.keys.open_private(session, &manifest.private)?)?;
        private.unread = Vec::new();
        self.keys.seal_private(session, &private.encode())
    }

    /// The part of a manifest that names paths. Where that is long and the manifest is damaged by now, it is without the list of
    /// files that were not read: what was saved is remembered longer.
    ///
    /// # Errors
    /// `Denied` with a writer key; what the store says where a long one has to be read.
    pub fn private(&self, snapshot: &Snapshot) -> Result<Private> {
        let m = &snapshot.manifest;
        let doing = || format!("reading the paths of snapshot {}", snapshot.id.short());
        let open = |sealed: &[u8]| Private::decode(&self.keys.open_private(&m.session.0, sealed)?);
        // Sealed ones are never empty: it was too long to be kept.
        let kept = match m.private.is_empty() {
            true => None,
            false => Some(open(&m.private).doing(doing)?),
        };
        if let Some(whole) = kept.as_ref().filter(|p| !p.unread.is_empty() || p.unread_total == 0) {
            return Ok(whole.clone());
        }
        let read = self.manifest_anywhere(&snapshot.id).and_then(|(manifest, _)| open(&manifest.private));
        match (read, kept) {
            (Err(e), Some(brief)) if matches!(e.fault(), Fault::Damaged | Fault::Missing) => Ok(brief),
            (read, _) => read.doing(doing),
        }
    }
}
