//! The way out where manifests, notes and configs are damaged, and nothing is deleted any more since they might name what is
//! needed: what this machine has proven before is written anew, the rest is removed by order.

use super::listing::{ListedNote, Snapshot, manifest_name, note_name};
use super::survey::id_of;
use super::{Repository, Right, Sweep, load_config, put_config};
use crate::clock;
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::config::Config;
use crate::format::object::Kind;
use crate::format::snapshot::{Action, Note};
use crate::id::{NoteId, SnapshotId};
use crate::seal::Role;
use std::sync::Arc;

/// An object that every census must read, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// A manifest.
    Snapshot(SnapshotId),
    /// A note.
    Note(NoteId),
    /// A config.
    Config(u64),
}

impl Named {
    /// `None` for names of other objects.
    pub fn of(name: &str) -> Option<Self> {
        let snapshot = id_of(name, SnapshotId::from_hex, manifest_name).map(Self::Snapshot);
        let note = || id_of(name, NoteId::from_hex, note_name).map(Self::Note);
        let config = || name.strip_prefix("config/")?.parse().ok().map(Self::Config);
        snapshot.or_else(note).or_else(config)
    }
}

impl Repository {
    /// A snapshot that is listed, as this machine has proven it, be its manifest damaged by now; and whether no note hides it.
    ///
    /// # Errors
    /// What the store says.
    pub fn proven_before(&self, id: &SnapshotId) -> Result<Option<(Arc<Snapshot>, bool)>> {
        Ok(self.list()?.judged().into_iter().find(|(s, _)| s.id == *id))
    }

    /// Whether this machine has proven a note before, and can say again what it said. A void note is its session's alone.
    ///
    /// # Errors
    /// What the store says.
    pub fn can_say_again(&self, id: &NoteId) -> Result<bool> {
        Ok(self.said(id)?.is_some())
    }

    fn said(&self, id: &NoteId) -> Result<Option<ListedNote>> {
        let is_it = |n: &ListedNote| {
            let (note, author) = &*n.note;
            let is_ours = !matches!(note.action, Action::Void | Action::Newer(_));
            n.id == *id && author.role == Role::Full && is_ours
        };
        Ok(self.list()?.notes.into_iter().find(is_it))
    }

    /// Says again, with the same time, what a damaged note said. Durable when this returns. `false` where this machine does not
    /// know it.
    ///
    /// # Errors
    /// What the store says.
    pub fn say_again(&self, id: &NoteId) -> Result<bool> {
        let Some(said) = self.said(id)? else { return Ok(false) };
        let note = &said.note.0;
        let is_same = |n: &ListedNote| n.id != *id && n.note.0 == *note;
        if !self.list()?.notes.iter().any(is_same) {
            self.put_note(note.clone())?;
        }
        Ok(true)
    }

    /// Tells other machines, which may remember the snapshot, that its manifest is removed by order.
    ///
    /// # Errors
    /// What the store says.
    pub fn forget_unread(&self, id: &SnapshotId) -> Result<()> {
        self.put_note(Note {
            action: Action::Forget,
            time: clock::now(),
            snapshots: vec![*id],
            tags: Vec::new(),
            session: None,
            lost: Vec::new(),
            unknown: Default::default(),
        })
    }

    /// Says what a note says by another one, unless that is said already.
    pub(super) fn say_as(&self, note: &Note) -> Result<()> {
        match self.list()?.notes.iter().any(|n| n.note.0 == *note && !self.is_unreadable(&n.id)) {
            true => Ok(()),
            false => self.put_note(note.clone()),
        }
    }

    fn is_unreadable(&self, id: &NoteId) -> bool {
        self.proven_note(*id).is_err()
    }

    fn put_note(&self, note: Note) -> Result<()> {
        self.allow(Right::Manage, "writing a note")?;
        let object = self.keys.seal_object(Kind::Note, note.encode())?;
        let (id, (_, author)) = (NoteId::of_object(&object), self.keys.open_object(Kind::Note, &object)?);
        self.store.put(&note_name(&id), &object).doing(|| "writing a note")?;
        self.remember_note(id, note, author);
        Ok(())
    }

    /// Writes the config that counts anew, with a number above all that are there: the damaged ones can go then.
    ///
    /// # Errors
    /// What the store says.
    pub fn renew_config(&self) -> Result<()> {
        self.allow(Right::Manage, "writing a config")?;
        let names = self.store.names("config/")?;
        let numbers = names.iter().filter_map(|n| n.strip_prefix("config/")?.parse::<u64>().ok());
        let highest = numbers.max().unwrap_or(0).max(self.config.number);
        let number = highest.checked_add(1).ok_or_else(|| Error::damaged("there is no higher number"))?;
        let config = Config { number, ..self.config.clone() };
        put_config(&*self.store, &self.keys, &config, None)
    }
}

impl Sweep {
    /// Deletes an object that is damaged; one that is whole by now, or that only cannot be read, is left alone. Whether it was
    /// deleted.
    ///
    /// # Errors
    /// As [`Sweep::delete_pack`].
    pub fn delete_unreadable(&self, named: Named) -> Result<bool> {
        let repository = self.repository();
        let (name, read) = match named {
            Named::Snapshot(id) => (manifest_name(&id), repository.proven_manifest(&id).map(drop)),
            Named::Note(id) => (note_name(&id), repository.proven_note(id).map(drop)),
            Named::Config(n) => {
                (format!("config/{n}"), load_config(&*repository.store, &repository.keys, n).map(drop))
            }
        };
        match read {
            Err(e) if e.fault() == Fault::Damaged => self.delete(&name).map(|()| true),
            Err(e) if !matches!(e.fault(), Fault::Missing | Fault::Newer | Fault::Io) => Err(e),
            _ => Ok(false),
        }
    }
}
