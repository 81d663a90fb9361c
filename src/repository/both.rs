//! What the lists of two stores of one repository say of snapshots and notes: what a replication has to bring over.

use super::listing::{ListedNote, Listing};
use super::{Repository, Snapshot};
use crate::fault::Result;
use crate::format::snapshot::Action;
use crate::id::{NoteId, SnapshotId};
use crate::seal::Role;
use std::collections::HashSet;
use std::sync::Arc;

/// The lists of a source and of its replica; of a replica that is not made yet there is none.
pub struct Both<'a> {
    pub(super) source: &'a Listing,
    pub(super) target: Option<&'a Listing>,
}

impl Both<'_> {
    /// The snapshots of the source that nobody has forgotten, oldest first.
    pub fn offered(&self) -> Vec<Arc<Snapshot>> {
        self.source.live()
    }

    /// Those that the target lists, forgotten ones too.
    pub fn there(&self) -> HashSet<SnapshotId> {
        self.target.iter().flat_map(|t| &t.manifests).map(|s| s.id).collect()
    }

    /// Those that a note in the target forgets, be their manifests there or not: a forget note wins over presence (R5).
    pub fn forgotten_there(&self) -> HashSet<SnapshotId> {
        let mut forgotten = HashSet::new();
        // In the order of time: the last word counts.
        for n in self.target.iter().flat_map(|t| &t.notes) {
            let (note, author) = &*n.note;
            match note.action {
                _ if author.role != Role::Full => {}
                Action::Forget => forgotten.extend(note.snapshots.iter().copied()),
                Action::Unforget => forgotten.retain(|s| !note.snapshots.contains(s)),
                _ => {}
            }
        }
        forgotten
    }

    /// The notes that speak of these snapshots and are not in the target, either those that forget or the others.
    pub(super) fn missing_notes<'a>(
        &'a self,
        snapshots: &'a HashSet<SnapshotId>,
        are_forgets: bool,
    ) -> Vec<&'a ListedNote> {
        let there: HashSet<NoteId> = self.target.iter().flat_map(|t| &t.notes).map(|n| n.id).collect();
        let wanted = self.source.notes_for(snapshots, are_forgets);
        wanted.filter(|n| !there.contains(&n.id)).collect()
    }

    /// Whether there are any such notes.
    pub fn misses_notes(&self, snapshots: &HashSet<SnapshotId>, are_forgets: bool) -> bool {
        !self.missing_notes(snapshots, are_forgets).is_empty()
    }
}

/// What both stores list now, for who may have nothing to do. There is no lease, so that nothing may be written for it, and nothing
/// be relied on.
pub struct Glance {
    source: Listing,
    target: Listing,
}

impl Glance {
    /// Lists notes and snapshots of both; no segments, which tell nothing of what is missing.
    ///
    /// # Errors
    /// What the stores say; also where the source seems to be emptied.
    pub fn take(source: &Repository, target: &Repository) -> Result<Self> {
        let listing = source.list()?;
        source.not_emptied(&listing)?;
        Ok(Self { source: listing, target: target.list()? })
    }

    /// Both lists.
    pub fn both(&self) -> Both<'_> {
        Both { source: &self.source, target: Some(&self.target) }
    }
}
