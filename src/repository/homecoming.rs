//! Objects that come back from a replica, one by one: each is proven there, and nothing that is damaged here goes before what
//! takes its place is durable, here or in the replica.

use super::reader::pack_name;
use super::slots::slot_name;
use super::survey::is_finding;
use super::{Named, Repository, Right, Sweep, load_config};
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::object::{Kind, body};
use crate::format::pack::PackEntry;
use crate::format::slot::Slot;
use crate::format::snapshot::{Action, Note};
use crate::id::{PackId, SlotId};

impl Repository {
    /// Copies a pack back that is missing here, if the replica has it as it must be. Whether it has; a dry run only looks.
    ///
    /// # Errors
    /// What the stores say where it is not about this pack.
    pub fn bring_pack_back(&self, from: &Self, entry: &PackEntry, is_dry: bool) -> Result<bool> {
        let name = pack_name(&entry.pack);
        let bytes = match from.store.get(&name, Kind::Pack.limit()) {
            Ok(bytes) => bytes,
            Err(e) if is_finding(&e) || e.fault() == Fault::Missing => return Ok(false),
            Err(e) => return Err(e.while_(format!("reading {name} of {}", from.location()))),
        };
        if PackId::of_object(&bytes) != entry.pack || bytes.len() as u64 != entry.size {
            return Ok(false);
        }
        if !is_dry {
            self.store.put(&name, &bytes).doing(|| format!("storing {name} in {}", self.location()))?;
            match self.put_parity(&entry.pack, &bytes) {
                // What is there heals it as well, or is told by a check.
                Err(e) if e.fault() == Fault::Damaged => {}
                put => drop(put.doing(|| format!("storing the parity of {name}"))?),
            }
        }
        Ok(true)
    }

    /// A key, note or config that is damaged here and whole in a replica. `None` where the replica cannot help.
    ///
    /// # Errors
    /// What the replica says where it is not about this object.
    pub fn whole_in(&self, from: &Self, name: &str) -> Result<Option<Whole>> {
        let slot = name.strip_prefix("keys/").and_then(SlotId::from_hex).filter(|id| slot_name(id) == name);
        let read = match (Named::of(name), slot) {
            (Some(Named::Note(id)), _) => from.object(Kind::Note, name, &id.0).and_then(|(body, _)| {
                Ok(Whole::Note(Note::decode(&body)?, from.store.get(name, Kind::Note.limit())?))
            }),
            (Some(Named::Config(n)), _) => load_config(&*from.store, &self.keys, n)
                .and_then(|_| Ok(Whole::Config(from.store.get(name, Kind::Config.limit())?))),
            (None, Some(id)) => from.store.get(name, Kind::Slot.limit()).and_then(|object| {
                let is_ours = SlotId::of_object(&object) == id
                    && Slot::decode(body(Kind::Slot, &object)?)?.repository == self.keys.repository;
                if is_ours {
                    Ok(Whole::Key(object))
                } else {
                    Err(Error::damaged("it is not what its name says"))
                }
            }),
            _ => return Ok(None),
        };
        match read {
            Ok(Whole::Note(note, _)) if matches!(note.action, Action::Void | Action::Newer(_)) => Ok(None),
            Ok(whole) => Ok(Some(whole)),
            Err(e) if is_finding(&e) || matches!(e.fault(), Fault::Missing | Fault::WrongKey) => Ok(None),
            Err(e) => Err(e.while_(format!("reading {name} of {}", from.location()))),
        }
    }
}

/// An object as a replica has it.
pub enum Whole {
    /// A key slot.
    Key(Vec<u8>),
    /// A note: what it says, and the object.
    Note(Note, Vec<u8>),
    /// A config.
    Config(Vec<u8>),
}

impl Sweep {
    /// Puts an object in the place of a damaged one of the same name.
    ///
    /// What a note says is said by another one first, for there is no moment then at which it is not said. A config is
    /// written under a number of its own first, where no other one is whole (`is_only`). A key cannot be made anew here: its
    /// place is the replica until it is back.
    ///
    /// # Errors
    /// What the store says; as [`Sweep::delete_pack`].
    pub fn put_in_place(&self, name: &str, whole: &Whole, is_only: bool) -> Result<()> {
        let repository = self.repository();
        repository.allow(Right::Manage, "repairing")?;
        let object = match whole {
            Whole::Note(note, object) => {
                repository.say_as(note)?;
                object
            }
            Whole::Config(object) => {
                if is_only {
                    repository.renew_config()?;
                }
                object
            }
            Whole::Key(object) => object,
        };
        self.delete(name)?;
        repository.store.put(name, object).doing(|| format!("putting {name} back"))?;
        Ok(())
    }
}
