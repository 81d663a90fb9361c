//! The alarm: what this machine has seen in the store, and is not there any more, for no reason that a note tells.
//!
//! The storage is not trusted: it can lose a snapshot, or show an old state. Who has seen more notices it.

use super::Repository;
use super::listing::{Known, Snapshot, VOID_SECONDS, manifest_name, note_name, withdraws};
use super::remembered::{Item, Remembered};
use crate::clock;
use crate::event::Event;
use crate::fault::{Error, Fault, Result};
use crate::format::object::Kind;
use crate::format::snapshot::Action;
use crate::id::{NoteId, SnapshotId};
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

impl Repository {
    /// Compares a listing with what is remembered, forgets what notes explain, and tells of the rest, once.
    pub(super) fn vanished(
        &self,
        remembered: &mut Remembered,
        noted: &HashSet<NoteId>,
        listed: &HashSet<SnapshotId>,
    ) -> Vec<Arc<Snapshot>> {
        let mut absent: Vec<Arc<Snapshot>> =
            remembered.snapshots.values().filter(|s| !listed.contains(&s.id)).cloned().collect();
        if !absent.is_empty() {
            let explained = self.explained(remembered, &absent);
            for id in &explained {
                remembered.add(Item::Gone(id.0));
            }
            absent.retain(|s| !explained.contains(&s.id));
        }
        // Notes stay a year after their snapshots; one that goes has nothing more to explain, unless those are absent.
        let idle: Vec<NoteId> = remembered
            .notes
            .iter()
            .filter(|(id, _)| !noted.contains(*id))
            .filter(|(_, n)| !n.0.snapshots.iter().any(|s| remembered.snapshots.contains_key(s)))
            .map(|(id, _)| *id)
            .collect();
        for id in idle {
            remembered.add(Item::Gone(id.0));
        }
        absent.sort_by_key(|s| (s.manifest.time, s.id));
        if !absent.is_empty() {
            absent = self.really_gone(absent);
        }
        self.warn(&absent);
        self.look_at_config(remembered);
        absent
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

    /// Lists, and takes for right that the snapshots which have vanished are not there: how many that are. They are
    /// not told any more, unless they come back and vanish again.
    ///
    /// # Errors
    /// What the store says to the list; `Busy` when other processes keep the cache.
    pub fn accept_vanished(&self) -> Result<usize> {
        self.list()?;
        let mut known = self.known.lock();
        let Known { remembered: Some(remembered), vanished, .. } = &mut *known else { return Ok(0) };
        let accepted = std::mem::take(vanished);
        for s in &accepted {
            remembered.add(Item::Gone(s.id.0));
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
