//! What a sweep decides on: lists that are whole, or none. Whatever cannot be read might name something that is needed.

use super::healing::parity_name;
use super::listing::{ListedNote, Listing, manifest_name, note_name};
use super::notes::Ended;
use super::reader::pack_name;
use super::survey::id_of;
use super::{FEATURES, Repository, Right, Snapshot};
use crate::fault::{Error, Fault, Result};
use crate::format::snapshot::Action;
use crate::id::{NoteId, PackId, SessionId, SnapshotId};
use crate::index::Retired;
use crate::seal::Role;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// How often all is listed anew, when something that was listed has gone before it was read.
const ROUNDS: usize = 5;

/// What was there when a sweep began; only this can become ripe in it (P1).
pub struct Candidates {
    /// Sweeps that ended packs.
    pub sweeps: HashSet<SessionId>,
    /// Forget notes.
    pub notes: HashSet<NoteId>,
}

/// A snapshot that a note hides.
pub struct Hidden {
    /// Which.
    pub snapshot: Arc<Snapshot>,
    /// The note that hides it: the last one.
    pub note: NoteId,
    /// When the note was written, in seconds by the store's clock.
    pub since: i64,
}

/// A pack in a list of the store.
#[derive(Clone, Copy, Debug)]
pub struct ListedPack {
    /// Bytes.
    pub size: u64,
    /// When it was written, in seconds by the store's clock.
    pub written: i64,
}

/// All that is there, as listed in the order snapshots, packs, segments (P3). The index is up to it.
pub struct Sight {
    /// Snapshots that nobody has forgotten, and held ones.
    pub visible: Vec<Arc<Snapshot>>,
    /// Forgotten ones.
    pub hidden: Vec<Hidden>,
    /// Withdrawn by their own session.
    pub void: Vec<SnapshotId>,
    /// All packs.
    pub packs: HashMap<PackId, ListedPack>,
    /// What heals packs, listed before them.
    pub parity: HashMap<PackId, ListedPack>,
    /// What segments say of packs that are retired.
    pub retired: Vec<Retired>,
    /// Notes that may go.
    pub ended: Ended,
}

impl Repository {
    /// Refuses where this program does not know all that it must know to delete.
    ///
    /// # Errors
    /// `Newer`; `Denied` without a full key.
    pub fn may_delete(&self) -> Result<()> {
        self.allow(Right::Manage, "deleting from the repository")?;
        match self.config.features[2].iter().find(|f| !FEATURES[2].contains(&f.as_slice())) {
            None => Ok(()),
            Some(f) => {
                let name = String::from_utf8_lossy(f).into_owned();
                let text = format!(
                    "the repository was made by a newer pastfs: one must know {name:?} to delete from it"
                );
                Err(Error::new(Fault::Newer, text)
                    .hint("use a pastfs that is at least as new as the one that made the repository"))
            }
        }
    }

    /// Whether another machine's puts and deletes may show late in lists of the store.
    pub fn lists_may_be_stale(&self) -> bool {
        self.store.may_be_stale()
    }

    /// How many packs there are, and their bytes; and those of all other objects.
    ///
    /// # Errors
    /// What the store says.
    pub fn stored_bytes(&self) -> Result<((u64, u64), u64)> {
        let (mut packs, mut others) = ((0, 0), 0);
        for listed in self.store.list("")? {
            match listed.name.starts_with("packs/") {
                true => packs = (packs.0 + 1, packs.1 + listed.size),
                false => others += listed.size,
            }
        }
        Ok((packs, others))
    }

    /// The snapshots whose manifests are there, forgotten or not.
    ///
    /// # Errors
    /// What the store says.
    pub fn listed_snapshots(&self) -> Result<HashSet<SnapshotId>> {
        let names = self.store.names("snapshots/")?;
        Ok(names.iter().filter_map(|name| id_of(name, SnapshotId::from_hex, manifest_name)).collect())
    }

    /// When the store took each manifest that is there, in seconds.
    ///
    /// # Errors
    /// What the store says.
    pub fn stored_times(&self) -> Result<HashMap<SnapshotId, i64>> {
        let listed = self.store.list("snapshots/")?.into_iter();
        Ok(listed
            .filter_map(|l| Some((id_of(&l.name, SnapshotId::from_hex, manifest_name)?, l.modified.seconds)))
            .collect())
    }

    /// Lists segments and notes (P1).
    ///
    /// # Errors
    /// What the store says; `Damaged` where anything cannot be read.
    pub fn candidates(&self) -> Result<Candidates> {
        self.whole_index()?;
        let listing = self.whole_listing()?;
        let sweeps = self.index()?.sweeps()?.into_iter().collect();
        let forgets = listing.notes.iter().filter(|n| n.note.0.action == Action::Forget);
        Ok(Candidates { sweeps, notes: forgets.map(|n| n.id).collect() })
    }

    /// Lists everything (P3).
    ///
    /// # Errors
    /// The same; also where snapshots that this machine has seen are gone and no note explains it.
    pub fn sight(&self) -> Result<Sight> {
        let listing = self.whole_listing()?;
        self.not_emptied(&listing)?;
        self.nothing_vanished()?;
        let mut parity = HashMap::new();
        for listed in self.store.list("parity/")? {
            // Anything else in there heals nothing; check tells of it.
            if let Some(id) = id_of(&listed.name, PackId::from_hex, parity_name) {
                parity.insert(id, ListedPack { size: listed.size, written: listed.modified.seconds });
            }
        }
        let mut packs = HashMap::new();
        for listed in self.store.list("packs/")? {
            let id = id_of(&listed.name, PackId::from_hex, pack_name)
                .ok_or_else(|| unread(std::slice::from_ref(&listed.name)))?;
            packs.insert(id, ListedPack { size: listed.size, written: listed.modified.seconds });
        }
        self.whole_index()?;
        let retired = self.index()?.retirements().into_iter().map(|(_, retired)| retired).collect();
        // In the order of time: of several the last one counts.
        let mut forgotten_by = HashMap::new();
        for n in &listing.notes {
            let (note, author) = &*n.note;
            if note.action == Action::Forget && author.role == Role::Full {
                forgotten_by.extend(note.snapshots.iter().map(|s| (*s, n.id)));
            }
        }
        let mut times: HashMap<NoteId, Option<i64>> = HashMap::new();
        let (mut visible, mut hidden) = (Vec::new(), Vec::new());
        for (snapshot, is_visible) in listing.judged() {
            let note = forgotten_by.get(&snapshot.id).filter(|_| !is_visible && !snapshot.held);
            let since = match note {
                None => None,
                Some(note) => match times.get(note) {
                    Some(since) => *since,
                    None => *times.entry(*note).or_insert(self.stored(&note_name(note))?),
                },
            };
            match note.zip(since) {
                Some((note, since)) => hidden.push(Hidden { snapshot, note: *note, since }),
                // A note that has gone explains nothing.
                None => visible.push(snapshot),
            }
        }
        let void = listing.void.iter().copied().collect();
        let ended = self.ended(&listing)?;
        Ok(Sight { visible, hidden, void, packs, parity, retired, ended })
    }

    fn nothing_vanished(&self) -> Result<()> {
        let vanished = &self.known.lock().vanished;
        let text = match (vanished.snapshots.first(), vanished.notes.first()) {
            (Some(s), _) => format!(
                "snapshot {} of {} is not there any more, and no note says that it was forgotten",
                s.id.short(),
                s.manifest.time.utc()
            ),
            (None, Some(n)) => format!("a note is not there any more: {}", n.says()),
            (None, None) => return Ok(()),
        };
        Err(Error::damaged(text).hint(
            "nothing was deleted. Look at the storage; if it is well so, `pastfs snapshots --accept-vanished` \
             takes it for right",
        ))
    }

    /// Notes and manifests, all of them.
    fn whole_listing(&self) -> Result<Listing> {
        for last in (0..ROUNDS).map(|n| n + 1 == ROUNDS) {
            let listing = self.list()?;
            // Of others they would do nothing in a newer program either, and a stolen writer key could hold everything back.
            let of_full = |n: &&ListedNote| n.note.1.role == Role::Full;
            let mut notes = listing.notes.iter().filter(of_full);
            let newer = notes.find(|n| matches!(n.note.0.action, Action::Newer(_)));
            if let Some(n) = newer {
                let text = format!("{} was written by a newer pastfs", note_name(&n.id));
                return Err(Error::new(Fault::Newer, text).hint("nothing was deleted; use a newer pastfs"));
            }
            if listing.unread.is_empty() {
                return Ok(listing);
            }
            if last {
                return Err(unread(&listing.unread));
            }
        }
        Err(Error::bug("a list has no last round"))
    }

    /// The index, up to exactly the segments that the store lists.
    fn whole_index(&self) -> Result<()> {
        for last in (0..ROUNDS).map(|n| n + 1 == ROUNDS) {
            let missed = self.sync_all()?;
            if missed.is_empty() {
                return Ok(());
            }
            if last {
                return Err(unread(&missed));
            }
        }
        Err(Error::bug("a list has no last round"))
    }
}

fn unread(names: &[String]) -> Error {
    let first = names.first().map_or("", String::as_str);
    let text = match names.len() {
        1 => format!("{first} cannot be read"),
        n => format!("{first} and {} more objects cannot be read", n - 1),
    };
    Error::damaged(text).hint(
        "nothing was deleted, since it might name what is needed; `pastfs check` tells what is wrong, `pastfs repair \
         snapshots` puts manifests and notes back, or removes them by order",
    )
}
