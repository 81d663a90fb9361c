//! The alarm: what this machine has seen in the store, and is not there any more, for no reason that a note tells.
//!
//! The storage is not trusted: it can lose a snapshot, or show an old state. Who has seen more notices it.

use super::Repository;
use super::keyring::Author;
use super::listing::{Known, ListedNote, Snapshot, VOID_SECONDS, manifest_name, note_name, withdraws};
use super::remembered::{Item, Remembered};
use crate::clock;
use crate::event::Event;
use crate::fault::{Error, Fault, Result};
use crate::format::object::Kind;
use crate::format::snapshot::{Action, Note};
use crate::id::{ID_LEN, NoteId, SnapshotId};
use crate::seal::Role;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// Most vanished snapshots that are looked for by their names, newest first: if these are gone, so are the others.
const LOOKS_MAX: usize = 16;
/// Most vanished snapshots that a warning names.
const NAMES_MAX: usize = 5;
/// How often and how long one waits for another process that writes what is remembered: 2 seconds in all.
const SAVE_TRIES: u32 = 40;
const SAVE_PAUSE: Duration = Duration::from_millis(50);
/// What to do about what vanished.
const ADVICE: &str = "somebody deleted it by hand, or the storage shows an old state: look at the storage and at other \
                      copies of the repository. If it is well so, `pastfs snapshots --accept-vanished` ends this warning";

/// What was there once, and is not, for no known reason.
#[derive(Default)]
pub(super) struct Vanished {
    pub snapshots: Vec<Arc<Snapshot>>,
    /// Notes whose snapshots are still there, oldest first.
    pub notes: Vec<VanishedNote>,
}

#[derive(Clone)]
pub(super) struct VanishedNote {
    pub id: NoteId,
    pub note: Arc<(Note, Author)>,
}

impl VanishedNote {
    /// For people.
    pub fn says(&self) -> String {
        let note = &self.note.0;
        let what = match note.action {
            Action::Tag => "tags",
            Action::Untag => "takes tags from",
            Action::Hold => "holds",
            Action::Release => "releases",
            Action::Forget => "forgets",
            Action::Unforget => "brings back",
            Action::Void => "withdraws",
            Action::Accept => "accepts",
            Action::Lost | Action::Newer(_) => "speaks of",
        };
        let first = note.snapshots.first().map_or_else(String::new, |s| format!(" {}", s.short()));
        let more = match note.snapshots.len().saturating_sub(1) {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        format!("notes/{} of {}, which {what} snapshot{first}{more}", self.id.short(), note.time.utc())
    }
}

/// Whether a note that counts speaks of a remembered snapshot that is meant.
fn is_on(note: &(Note, Author), remembered: &Remembered, is_meant: impl Fn(SnapshotId) -> bool) -> bool {
    match note.0.action {
        Action::Lost | Action::Newer(_) => false,
        Action::Void => remembered.snapshots.values().any(|s| is_meant(s.id) && withdraws(note, s)),
        _ if note.1.role != Role::Full => false,
        _ => note.0.snapshots.iter().any(|s| remembered.snapshots.contains_key(s) && is_meant(*s)),
    }
}

impl Repository {
    /// Compares a listing with what is remembered, forgets what notes explain, and tells of the rest, once.
    pub(super) fn vanished(
        &self,
        remembered: &mut Remembered,
        noted: &HashSet<NoteId>,
        listed: &HashSet<SnapshotId>,
        notes: &[ListedNote],
    ) -> Vanished {
        let mut absent: Vec<Arc<Snapshot>> =
            remembered.snapshots.values().filter(|s| !listed.contains(&s.id)).cloned().collect();
        if !absent.is_empty() {
            let explained = self.explained(remembered, &absent);
            for id in &explained {
                remembered.add(Item::Gone(id.0));
            }
            absent.retain(|s| !explained.contains(&s.id));
        }
        let mut silent = Vec::new();
        let mut idle = Vec::new();
        for (id, note) in remembered.notes.iter().filter(|(id, _)| !noted.contains(*id)) {
            if notes.iter().any(|n| n.note.0 == note.0) {
                // A repair says again what a damaged one said.
                idle.push(*id);
            } else if is_on(note, remembered, |s| listed.contains(&s)) {
                silent.push(VanishedNote { id: *id, note: note.clone() });
            } else if !is_on(note, remembered, |_| true) {
                // Notes stay a year after their snapshots; one that goes has nothing more to explain, unless those are absent.
                idle.push(*id);
            }
        }
        for id in idle {
            remembered.add(Item::Gone(id.0));
        }
        silent.sort_by_key(|n| (n.note.0.time, n.id));
        absent.sort_by_key(|s| (s.manifest.time, s.id));
        if !absent.is_empty() {
            absent = self.really_gone(absent);
        }
        let notes = self.really_silent(silent);
        self.warn(&absent);
        self.warn_of_notes(&notes);
        self.look_at_config(remembered);
        Vanished { snapshots: absent, notes }
    }

    /// As [`Repository::really_gone`], of notes: a prune deletes them only once their snapshots are gone, so who hides one takes
    /// back what was said: that a snapshot is held, or forgotten.
    fn really_silent(&self, silent: Vec<VanishedNote>) -> Vec<VanishedNote> {
        let is_gone = |n: &VanishedNote| match self.store.size(&note_name(&n.id)) {
            Err(e) => e.fault() == Fault::Missing,
            Ok(_) => false,
        };
        let rest = silent.len().saturating_sub(LOOKS_MAX);
        match silent[rest..].iter().all(is_gone) {
            true => silent,
            false => silent[rest..].iter().filter(|n| is_gone(n)).cloned().collect(),
        }
    }

    fn warn_of_notes(&self, silent: &[VanishedNote]) {
        let mut told = self.told.lock();
        let new: Vec<&VanishedNote> =
            silent.iter().rev().filter(|n| told.insert(format!("vanished {}", n.id))).collect();
        drop(told);
        if new.is_empty() {
            return;
        }
        let mut names: Vec<String> = new.iter().take(NAMES_MAX).map(|n| n.says()).collect();
        if new.len() > NAMES_MAX {
            names.push(format!("and {} more", new.len() - NAMES_MAX));
        }
        let (noun, verb) = if new.len() == 1 { ("note", "has") } else { ("notes", "have") };
        self.observer.event(Event::Warning(&format!(
            "{} {noun} {verb} vanished from {} whose snapshots are still there: {}. {ADVICE}",
            new.len(),
            self.location(),
            names.join("; ")
        )));
    }

    /// Those whose end a note tells, also one that has gone itself: forgotten, or withdrawn by their own session.
    fn explained(&self, remembered: &Remembered, absent: &[Arc<Snapshot>]) -> HashSet<SnapshotId> {
        let mut notes: Vec<_> = remembered.notes.iter().collect();
        notes.sort_by_key(|(id, n)| (n.0.time, **id));
        let mut explained = HashSet::new();
        for (id, note) in notes {
            match note.0.action {
                _ if self.keys.is_over(&note.1) => {}
                Action::Forget if note.1.role == Role::Full => {
                    explained.extend(note.0.snapshots.iter().copied())
                }
                Action::Unforget if note.1.role == Role::Full => {
                    explained.retain(|s| !note.0.snapshots.contains(s));
                }
                Action::Void => {
                    for s in absent.iter().filter(|s| withdraws(note, s)) {
                        // The store's time of the manifest went with it; its author's is next to it.
                        let at = self.stored(&note_name(id)).ok().flatten();
                        if at.is_some_and(|at| at.abs_diff(s.manifest.ended.seconds) <= VOID_SECONDS) {
                            explained.insert(s.id);
                        }
                    }
                }
                _ => {}
            }
        }
        explained.retain(|id| remembered.snapshots.contains_key(id));
        explained
    }

    /// A list may be old (NFS, object stores), but an object that can be read is there: nobody is alarmed before the
    /// newest of them were asked for by name. Where some are there, the list is old, and the next one will tell.
    fn really_gone(&self, absent: Vec<Arc<Snapshot>>) -> Vec<Arc<Snapshot>> {
        let is_gone = |s: &Arc<Snapshot>| match self.store.get(&manifest_name(&s.id), Kind::Manifest.limit())
        {
            Err(e) => e.fault() == Fault::Missing,
            Ok(_) => false,
        };
        let looked = absent.len().min(LOOKS_MAX);
        if absent[absent.len() - looked..].iter().all(is_gone) {
            return absent;
        }
        absent[absent.len() - looked..].iter().filter(|s| is_gone(s)).cloned().collect()
    }

    fn warn(&self, absent: &[Arc<Snapshot>]) {
        let mut told = self.told.lock();
        let new: Vec<&Arc<Snapshot>> =
            absent.iter().rev().filter(|s| told.insert(format!("vanished {}", s.id))).collect();
        drop(told);
        if new.is_empty() {
            return;
        }
        let name = |s: &&Arc<Snapshot>| {
            let host = String::from_utf8_lossy(&s.manifest.host);
            format!("{} of {host}, {}", s.id.short(), s.manifest.time.utc())
        };
        let mut names: Vec<String> = new.iter().take(NAMES_MAX).map(name).collect();
        if new.len() > NAMES_MAX {
            names.push(format!("and {} more", new.len() - NAMES_MAX));
        }
        let (noun, verb) = if new.len() == 1 { ("snapshot", "has") } else { ("snapshots", "have") };
        self.observer.event(Event::Warning(&format!(
            "{} {noun} {verb} vanished from {}, and no note says why: {}. {ADVICE}",
            new.len(),
            self.location(),
            names.join("; ")
        )));
    }

    /// A config with a lower number than one that was seen is an old state as well.
    fn look_at_config(&self, remembered: &mut Remembered) {
        let (now, before) = (self.config.number, remembered.config);
        if now > before {
            remembered.add(Item::Config(now));
        } else if now < before && self.told.lock().insert("config".into()) {
            self.observer.event(Event::Warning(&format!(
                "config/{before} has vanished from {}, which shows config/{now}. {ADVICE}",
                self.location()
            )));
        }
    }

    /// Lists, and takes for right that the snapshots and notes which have vanished are not there: how many that are. They are
    /// not told any more, unless they come back and vanish again.
    ///
    /// # Errors
    /// What the store says to the list; `Busy` when other processes keep the cache.
    pub fn accept_vanished(&self) -> Result<usize> {
        self.list()?;
        let mut known = self.known.lock();
        let Known { remembered: Some(remembered), vanished, .. } = &mut *known else { return Ok(0) };
        let Vanished { snapshots, notes } = std::mem::take(vanished);
        let accepted: Vec<[u8; ID_LEN]> =
            snapshots.iter().map(|s| s.id.0).chain(notes.iter().map(|n| n.id.0)).collect();
        for id in &accepted {
            remembered.add(Item::Gone(*id));
        }
        if remembered.config > self.config.number {
            remembered.add(Item::Config(self.config.number));
        }
        for _ in 0..SAVE_TRIES {
            if remembered.save()? {
                return Ok(accepted.len());
            }
            clock::sleep(SAVE_PAUSE);
        }
        Err(Error::new(Fault::Busy, "another process writes to the cache"))
    }
}
