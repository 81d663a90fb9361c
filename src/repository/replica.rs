//! The same repository in a second place: opened with the keys at hand, and made to be the same, by its keys and configs.
//!
//! A replica is a repository like any other: it has its own segments, its own leases, its own prunes. What is universal, named by
//! its hash or signed for the whole repository, is copied as it is: keys, configs, packs and what heals them, manifests,
//! notes. What says how things stand in one store never is: segments, retirements, leases, void notes, notes of what was lost.

use super::keyring::Keyring;
use super::listing::{ListedNote, Listing, note_name};
use super::slots::slot_name;
use super::{Opened, Repository, Right, claimed_by, config_numbers, load_config, newest_config};
use crate::event::{Event, Stop};
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::config::Config;
use crate::format::object::{Kind, Signed, body};
use crate::format::slot::Slot;
use crate::format::snapshot::Action;
use crate::id::{SlotId, SnapshotId};
use crate::seal::Role;
use crate::storage::{Counted, Store};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What makes a store one of this repository, as far as it was copied.
#[derive(Debug, Default)]
pub struct Identity {
    /// There was nothing before.
    pub is_new: bool,
    /// Keys that were copied.
    pub keys: u64,
    /// Configs that were copied.
    pub configs: u64,
    /// Objects that are not what they must be here or there, and why; they were not copied.
    pub flaws: Vec<(String, Error)>,
    /// Numbers of the configs that are there now.
    numbers: Vec<u64>,
}

impl Repository {
    /// The same repository in another store, opened with the keys of this one. Its cache is shared, but for the index.
    ///
    /// # Errors
    /// `NoRepository` where there is none; `Misuse` where it is another one, or this very place; what the store says.
    pub fn beside(&self, store: Arc<dyn Store>) -> Result<Arc<Self>> {
        let numbers = config_numbers(&*store)?;
        self.is_same(&*store, &numbers)?;
        self.beside_with(store, &numbers)
    }

    /// The same for a store that was just made to be one of this repository.
    ///
    /// # Errors
    /// The same.
    pub fn beside_as(&self, store: Arc<dyn Store>, identity: &Identity) -> Result<Arc<Self>> {
        self.beside_with(store, &identity.numbers)
    }

    fn beside_with(&self, store: Arc<dyn Store>, numbers: &[u64]) -> Result<Arc<Self>> {
        let config = newest_config(&*store, &self.keys, numbers, &self.observer).map_err(|e| match e.fault() {
            Fault::WrongKey => e.hint(
                "the keys of the one were rotated, those of the other were not: `pastfs replicate` from the one with the new \
                 keys brings them over",
            ),
            _ => e,
        })?;
        Ok(self.with(store, self.keys.clone(), config))
    }

    fn with(&self, store: Arc<dyn Store>, keys: Arc<Keyring>, config: Config) -> Arc<Self> {
        self.with_as(store, keys, config, true)
    }

    pub(super) fn with_as(
        &self,
        store: Arc<dyn Store>,
        keys: Arc<Keyring>,
        config: Config,
        is_beside: bool,
    ) -> Arc<Self> {
        let opened = Opened {
            keys,
            slot: self.slot,
            config,
            cache: self.cache.clone(),
            observer: self.observer.clone(),
            cache_bytes: self.cache_bytes.load(Ordering::Relaxed),
        };
        opened.of(Counted::new(store), is_beside)
    }

    /// Whether a store is empty where this machine has seen this repository before: a disk that is not mounted leaves an empty
    /// folder.
    ///
    /// # Errors
    /// What the store says.
    pub fn remembers(&self, store: &dyn Store) -> Result<bool> {
        Ok(store.names("config/")?.is_empty()
            && super::remembered::path(&self.cache, &store.location()).exists())
    }

    /// Refuses a store of another repository, and the one that this is in.
    fn is_same(&self, store: &dyn Store, numbers: &[u64]) -> Result<()> {
        let place = store.location();
        if place == self.location() {
            return Err(Error::misuse(format!("{place} is the repository itself"))
                .hint("a replica lies in another place"));
        }
        match claimed_by(store, numbers) {
            Ok(id) if id == self.id() => Ok(()),
            Ok(_) => Err(Error::misuse(format!("{place} holds another repository than {}", self.location()))
                .hint("a replica is the same repository in a second place: choose one that is empty, or the replica")),
            // Of several configs the newest may be damaged; what they must say is proven when it is opened.
            Err(e) if e.fault() == Fault::Damaged => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Copies keys and configs that are missing in another store, so that it is one of this repository: keys first, and the
    /// newest config last, without which there is no repository. In a dry run nothing is written, but counted.
    ///
    /// Where keys have ended here that have not ended there, what they had said of the other store's packs is said again
    /// first, by the key in use; else nothing there would count any more.
    ///
    /// # Errors
    /// `Misuse` where anything else is in the store; what the stores say; `Stopped`.
    pub fn identify(&self, store: &Arc<dyn Store>, is_dry: bool, stop: &Stop) -> Result<Identity> {
        self.allow(Right::Manage, "replicating")?;
        let there = match config_numbers(&**store) {
            Err(e) if e.fault() == Fault::NoRepository => Vec::new(),
            numbers => numbers?,
        };
        let mut identity = Identity { is_new: there.is_empty(), ..Identity::default() };
        match identity.is_new {
            true => Self::may_begin(&**store)?,
            false => self.is_same(&**store, &there)?,
        }
        identity.numbers = there;
        let newest = identity.numbers.last().copied();
        let doing = |name: &str| format!("copying {name} to {}", store.location());
        let there: HashSet<String> = store.names("keys/")?.into_iter().collect();
        for name in self.store.names("keys/")? {
            if there.contains(&name) {
                continue;
            }
            stop.check()?;
            let is_in_use = name == slot_name(&self.slot);
            let object = match self.living_slot(&name) {
                Ok(Some(object)) => object,
                Ok(None) => continue,
                // Without the key in use nobody could open what is made; others may be damaged.
                Err(e) if super::is_finding(&e) && !is_in_use => {
                    identity.flaws.push((name, e));
                    continue;
                }
                Err(e) => return Err(e).doing(|| doing(&name)),
            };
            identity.keys += 1;
            self.copy(store, &name, &object, is_dry, &mut identity)?;
        }
        if let Some(newest) = newest.filter(|_| !is_dry) {
            self.bring_up(store, newest, stop)?;
        }
        for number in config_numbers(&*self.store)? {
            let name = format!("config/{number}");
            if identity.numbers.contains(&number) || number > self.config.number {
                continue;
            }
            stop.check()?;
            // Configs of before keys were rotated say nothing to these keys, and count for nobody.
            match load_config(&*self.store, &self.keys, number) {
                Ok(_) => {}
                Err(e) if e.fault() == Fault::WrongKey => continue,
                Err(e) => {
                    identity.flaws.push((name, e));
                    continue;
                }
            }
            let object = self.store.get(&name, Kind::Config.limit()).doing(|| doing(&name))?;
            identity.configs += 1;
            self.copy(store, &name, &object, is_dry, &mut identity)?;
            if !is_dry {
                identity.numbers.push(number);
            }
        }
        identity.numbers.sort_unstable();
        Ok(identity)
    }

    /// A key slot that is what its name says; none where the key has ended.
    fn living_slot(&self, name: &str) -> Result<Option<Vec<u8>>> {
        if super::survey::id_of(name, SlotId::from_hex, slot_name).is_none() {
            return Err(Error::damaged("the name is no id"));
        }
        let object = self.store.get(name, Kind::Slot.limit())?;
        if slot_name(&SlotId::of_object(&object)) != name {
            return Err(Error::damaged("it is not what its name says"));
        }
        let slot = Slot::decode(body(Kind::Slot, &object)?)?;
        let signer = self.keys.label(&slot).ok().and_then(|label| label.signer);
        let is_over = slot.repository != self.keys.repository
            || slot.epoch != self.keys.epoch()
            || signer.is_some_and(|signer| self.config.ended.contains(&signer));
        Ok((!is_over).then_some(object))
    }

    fn copy(
        &self,
        store: &Arc<dyn Store>,
        name: &str,
        object: &[u8],
        is_dry: bool,
        identity: &mut Identity,
    ) -> Result<()> {
        if is_dry {
            return Ok(());
        }
        match store.put(name, object) {
            Err(e) if e.fault() == Fault::Damaged => {
                identity.flaws.push((name.into(), e));
                Ok(())
            }
            put => put.doing(|| format!("copying {name} to {}", store.location())),
        }
    }

    /// What keys that have ended here, and not there yet, have said of the other store, whose newest config has this number.
    fn bring_up(&self, store: &Arc<dyn Store>, number: u64, stop: &Stop) -> Result<()> {
        if number >= self.config.number {
            return Ok(());
        }
        let name = format!("config/{number}");
        let theirs = store
            .get(&name, Kind::Config.limit())
            .doing(|| format!("reading {name} of {}", store.location()))?;
        // Of keys that were rotated since: what this repository has under the same name was proven in its time.
        let proven = match load_config(&**store, &self.keys, number) {
            Ok(config) => config,
            Err(e) if e.fault() == Fault::WrongKey => {
                if self.store.get(&name, Kind::Config.limit()).ok().as_deref() != Some(&theirs[..]) {
                    return Err(e.while_(format!("reading {name} of {}", store.location())));
                }
                Config::decode(&Signed::decode(body(Kind::Config, &theirs)?)?.body)?
            }
            Err(e) => return Err(e.while_(format!("reading {name} of {}", store.location()))),
        };
        let config = Config { ended: proven.ended, since: proven.since, ..self.config.clone() };
        if config.since >= self.config.since && self.config.ended.iter().all(|key| config.ended.contains(key))
        {
            return Ok(());
        }
        let before = self.with(store.clone(), Arc::new(self.keys.as_of(&config)), config);
        let carried =
            before.carry_over(&|author| self.keys.is_over(author) && !before.keys.is_over(author), stop)?;
        self.observer.event(Event::Detail(&format!(
            "said again in {} what keys that have ended had said: {} snapshots, {} packs",
            store.location(),
            carried.snapshots,
            carried.packs
        )));
        Ok(())
    }

    /// Copies a note that was proven here. Errors that are about the note alone are the inner ones.
    pub(super) fn copy_note(&self, to: &Self, note: &ListedNote) -> Result<Result<()>> {
        let name = note_name(&note.id);
        let object = match self.store.get(&name, Kind::Note.limit()) {
            Ok(object) if blake3::hash(&object).as_bytes() == &note.id.0 => object,
            Ok(_) => return Ok(Err(Error::damaged("it is not what its name says"))),
            // A prune deletes notes that say nothing any more.
            Err(e) if e.fault() == Fault::Missing => return Ok(Ok(())),
            Err(e) if super::is_finding(&e) => return Ok(Err(e)),
            Err(e) => return Err(e.while_(format!("reading {name} of {}", self.location()))),
        };
        match to.store.put(&name, &object) {
            Err(e) if e.fault() == Fault::Damaged => return Ok(Err(e)),
            put => put.doing(|| format!("copying {name} to {}", to.location()))?,
        }
        let (said, author) = &*note.note;
        to.remember_note(note.id, said.clone(), author.clone());
        Ok(Ok(()))
    }
}

impl Listing {
    /// The notes that another store must have, which has these snapshots: either forget notes, or all else that full keys say of
    /// them. Never void notes, and what was lost, which are one store's own.
    pub(super) fn notes_for<'a>(
        &'a self,
        snapshots: &'a HashSet<SnapshotId>,
        are_forgets: bool,
    ) -> impl Iterator<Item = &'a ListedNote> {
        self.notes.iter().filter(move |n| {
            let (note, author) = &*n.note;
            let is_universal = match note.action {
                Action::Tag | Action::Untag | Action::Hold | Action::Release => !are_forgets,
                Action::Unforget | Action::Accept => !are_forgets,
                Action::Forget => are_forgets,
                Action::Void | Action::Lost | Action::Newer(_) => false,
            };
            is_universal && author.role == Role::Full && note.snapshots.iter().any(|s| snapshots.contains(s))
        })
    }
}
