//! What a backup needs of the lists of a store that holds thousands of snapshots: one of them, its parent.
//!
//! A list of snapshots costs a request for each page, 1,000 of them in S3, and their names are hashes: no part of the list
//! is one host's, or the newest. Where a backup may do with what this machine knows (see `synced.rs`), it asks for
//! the manifest that would be its parent by name instead. That stands for the list in all that rule B2 wants of it: the notes were
//! listed under the lease, none of them forgets the snapshot, and after them its manifest was there. A manifest that has
//! vanished for no known reason is noticed by the next whole list, 12 hours later at most.

use super::listing::{Known, ListedNote, Listing, manifest_name};
use super::remembered::Remembered;
use super::{Repository, Snapshot};
use crate::event::Event;
use crate::fault::{Fault, Result};
use crate::id::NoteId;
use std::collections::HashSet;

/// Snapshots of the host, newest first, among which the parent is looked for; many jobs of one host take turns.
const LOOKED_AT_MAX: usize = 64;
/// Of those that may be it, so many are asked for: what another machine has forgotten and pruned since has a note, and is none.
/// So one that is not there has vanished, and the whole list tells of it.
const ASKED_FOR_MAX: usize = 3;

impl Repository {
    /// The notes, and the newest snapshot of a host that `is_parent` and is there, taken from what this machine remembers. `None`
    /// where a list of all costs no more, or none was found: then the caller lists them all.
    ///
    /// # Errors
    /// What the store says.
    pub(super) fn list_parent(
        &self,
        host: &[u8],
        is_parent: &dyn Fn(&Snapshot) -> bool,
    ) -> Result<Option<Listing>> {
        let mut known = self.known.lock();
        let Known { remembered, .. } = &mut *known;
        if remembered.is_none() {
            crate::index::claim(&self.cache)?;
            *remembered = Some(Remembered::open(&self.cache, &self.keys, &self.location()));
        }
        let Some(remembered) = remembered.as_mut() else { return Ok(None) };
        if remembered.snapshots.len() < self.store.nature().list_page {
            return Ok(None);
        }
        let mut notes = Vec::new();
        let (_, unread) = self.read_notes(remembered, self.store.names("notes/")?, &mut notes)?;
        let of_host = remembered.snapshots.values().filter(|s| s.manifest.host == host).cloned().collect();
        let mut listing = Listing::of(self, notes, of_host)?;
        let live = listing.live();
        let candidates = live.into_iter().rev().take(LOOKED_AT_MAX).filter(|s| is_parent(s));
        let mut found = None;
        for candidate in candidates.take(ASKED_FOR_MAX) {
            match self.store.size(&manifest_name(&candidate.id)) {
                Ok(_) => found = Some(candidate),
                Err(e) if e.fault() == Fault::Missing => continue,
                Err(e) => return Err(e),
            }
            break;
        }
        let Some(found) = found else { return Ok(None) };
        listing.manifests.retain(|s| s.id == found.id);
        // As far as is known: a lease may name a note of what is gone, and leave one out.
        listing.listed = remembered.snapshots.keys().copied().collect();
        listing.unread = unread;
        if let Err(e) = remembered.save() {
            // It costs the next start some time.
            self.observer.event(Event::Detail(&e.chain()));
        }
        Ok(Some(listing))
    }

    /// Reads the notes of these names that this machine does not know yet: the ids of all, and the names of what cannot be read.
    pub(super) fn read_notes(
        &self,
        remembered: &mut Remembered,
        names: Vec<String>,
        notes: &mut Vec<ListedNote>,
    ) -> Result<(HashSet<NoteId>, Vec<String>)> {
        let (mut noted, mut unread) = (HashSet::new(), Vec::new());
        for name in names {
            let Some(id) = self.id_of(&name, NoteId::from_hex)? else {
                unread.push(name);
                continue;
            };
            noted.insert(id);
            match self.known_note(remembered, id)? {
                Some(note) => notes.push(ListedNote { id, note }),
                None => unread.push(name),
            }
        }
        Ok((noted, unread))
    }
}
