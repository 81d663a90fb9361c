//! Replicas that are read where this repository cannot give what it promised. Nothing is believed of them that would not be
//! believed of the repository itself: every byte is proven in the same way.
//!
//! A replica is opened when it is first needed, since it may be a disk that lies in a drawer, and is tried again a while later
//! when it was not there. What it lacks, or cannot give either, changes nothing: the first error is what is told.

use super::keyring::Author;
use super::{Credential, OpenOptions, Reader, Repository};
use crate::clock::{self, Time};
use crate::event::Event;
use crate::fault::{Error, Fault, Result};
use crate::format::object::Kind;
use crate::format::pack::Space;
use crate::id::{ChunkId, ID_LEN};
use crate::storage::{Listed, Nature, Store};
use bytes::Bytes;
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// So many seconds after it was not there a replica is looked for again.
const AWAY_SECONDS: i64 = 30;
/// So many seconds after the repository did not answer at all, what a replica can give is asked of that first: a request to
/// a server that is down takes as long as its timeouts.
const AVOID_SECONDS: i64 = 30;

/// Opens the place where a replica is.
pub type Opener = Box<dyn Fn() -> Result<Arc<dyn Store>> + Send + Sync>;

/// A replica that is read where the repository fails.
pub struct Spare {
    /// As people named it.
    place: String,
    open: Opener,
    state: Mutex<State>,
}

/// A replica that is open, and what reads it.
type Opened = (Arc<Repository>, Arc<Reader>);

enum State {
    /// Not to be tried before this time, by a clock that nobody sets.
    Away(i64),
    Open(Arc<Repository>, Arc<Reader>),
}

impl Spare {
    /// The replica in `place`, which is for messages, opened by `open` when it is needed.
    pub fn new(place: impl Into<String>, open: Opener) -> Self {
        Self { place: place.into(), open, state: Mutex::new(State::Away(i64::MIN)) }
    }

    fn get(&self, of: &Repository) -> Option<Opened> {
        let mut state = self.state.lock();
        if let State::Open(repository, reader) = &*state {
            return Some((repository.clone(), reader.clone()));
        }
        if matches!(*state, State::Away(until) if clock::running() < until) {
            return None;
        }
        let opened =
            (self.open)().and_then(|store| of.beside(store)).and_then(|r| r.sync_index().map(|()| r));
        match opened {
            Ok(repository) => {
                let reader = repository.reader();
                *state = State::Open(repository.clone(), reader.clone());
                Some((repository, reader))
            }
            Err(e) => {
                of.observer.event(Event::Detail(&format!(
                    "the replica {} is not there: {}",
                    self.place,
                    e.chain()
                )));
                *state = State::Away(clock::running() + AWAY_SECONDS);
                None
            }
        }
    }

    /// It did not answer: it is opened anew when it is needed again.
    fn lose(&self) {
        *self.state.lock() = State::Away(clock::running() + AWAY_SECONDS);
    }
}

/// All replicas of a repository, in the order in which they are asked.
#[derive(Default)]
pub(super) struct Spares {
    all: Vec<Spare>,
    /// Until then the repository itself is asked last.
    avoid: AtomicI64,
}

impl Spares {
    pub fn new(all: Vec<Spare>) -> Self {
        Self { all, avoid: AtomicI64::new(i64::MIN) }
    }
}

/// Whether a failure is one that another place may make up for.
fn may_be_elsewhere(e: &Error) -> bool {
    matches!(e.fault(), Fault::Missing | Fault::Damaged | Fault::Denied | Fault::NoRepository) || is_down(e)
}

/// Whether a failure is of the place, not of the object.
fn is_down(e: &Error) -> bool {
    matches!(e.fault(), Fault::Io | Fault::Busy)
}

impl Repository {
    /// Folders on this machine that belong to the repository: its own, that of its cache, and its replicas. A backup saves
    /// none of the first two, and nothing that is restored may take the place of any.
    pub fn own_folders(&self) -> Vec<PathBuf> {
        let places = std::iter::once(self.location()).chain(self.spares.all.iter().map(|s| s.place.clone()));
        let folders = places.filter_map(|place| crate::storage::folder_of(&place));
        folders.chain([self.cache_dir().to_path_buf()]).collect()
    }

    /// Whether there is any replica.
    pub(super) fn has_spares(&self) -> bool {
        !self.spares.all.is_empty()
    }

    /// A chunk by `here`, or, where that fails, from a replica.
    pub(super) fn chunk_anywhere(
        &self,
        space: Space,
        id: &ChunkId,
        here: impl Fn() -> Result<Bytes>,
    ) -> Result<Bytes> {
        if !self.has_spares() {
            return here();
        }
        let there = |(_, reader): &Opened| reader.chunk(space, id);
        if clock::running() < self.spares.avoid.load(Ordering::Relaxed)
            && let Some(bytes) = self.first_that_has(None, &there)
        {
            return Ok(bytes);
        }
        match here() {
            Err(e) if may_be_elsewhere(&e) => {
                if is_down(&e) {
                    self.spares.avoid.store(clock::running() + AVOID_SECONDS, Ordering::Relaxed);
                }
                self.first_that_has(Some(&e), &there).ok_or(e)
            }
            read => read,
        }
    }

    /// An object of this name and hash from a replica, where it could not be read here.
    pub(super) fn object_of_spare(
        &self,
        kind: Kind,
        name: &str,
        id: &[u8; ID_LEN],
        e: Error,
    ) -> Result<(Vec<u8>, Author)> {
        // What is gone between a list and the reading was deleted in order.
        if !self.has_spares() || !may_be_elsewhere(&e) || e.fault() == Fault::Missing {
            return Err(e);
        }
        let there = |(r, _): &Opened| r.object(kind, name, id);
        self.first_that_has(Some(&e), &there).ok_or(e)
    }

    fn first_that_has<T>(&self, why: Option<&Error>, read: &dyn Fn(&Opened) -> Result<T>) -> Option<T> {
        for spare in &self.spares.all {
            let Some(opened) = spare.get(self) else { continue };
            match read(&opened) {
                Ok(value) => {
                    if let Some(why) = why {
                        self.tell_spare(spare, why);
                    }
                    return Some(value);
                }
                Err(e) => {
                    let text = format!("the replica {} cannot give it either: {}", spare.place, e.chain());
                    self.observer.event(Event::Detail(&text));
                    if is_down(&e) || e.fault() == Fault::NoRepository {
                        spare.lose();
                    }
                }
            }
        }
        None
    }

    /// Once in a warning, which names both places; each further time for who wants details.
    fn tell_spare(&self, spare: &Spare, why: &Error) {
        let (here, there) = (self.location(), &spare.place);
        let text = format!(
            "{here} cannot give all that it holds, and its replica {there} is read for it: {}",
            why.chain()
        );
        match self.told.lock().insert(format!("replica {there}")) {
            true => self.observer.event(Event::Warning(&format!(
                "{text}. `pastfs check` tells what is wrong, `pastfs repair from {there} --read-data` brings it back"
            ))),
            false => self.observer.event(Event::Detail(&text)),
        }
    }

    /// Opens a repository that has replicas; they are read where it fails. Where nothing of it can be opened, since it is
    /// away, or what opens it is damaged, a replica stands in: for reading alone.
    ///
    /// # Errors
    /// As [`Repository::open`]: what is told is what is wrong with the repository itself.
    pub fn open_or_replica(
        store: Result<Arc<dyn Store>>,
        credential: &Credential,
        options: OpenOptions,
        replicas: Vec<Spare>,
    ) -> Result<Arc<Self>> {
        let observer = options.observer.clone();
        let again = || OpenOptions { cache: options.cache.clone(), observer: observer.clone() };
        let (store, e) = match store {
            Ok(store) => match Self::open(store.clone(), credential, again()) {
                Ok(repository) => return Ok(Self::set_spares(repository, replicas)),
                Err(e) => (Some(store), e),
            },
            Err(e) => (None, e),
        };
        // A wrong password is one everywhere, unless the keys here cannot be read.
        let is_hopeless = |e: &Error| !may_be_elsewhere(e) && e.fault() != Fault::WrongKey;
        if replicas.is_empty() || is_hopeless(&e) {
            return Err(e);
        }
        for spare in &replicas {
            let opened = (spare.open)().and_then(|there| Self::open(there, credential, again()));
            let Ok(replica) = opened else { continue };
            let what = e.chain();
            // What opens it is damaged, and all else may be whole.
            if let Some(store) = store.as_ref().filter(|store| replica.may_stand_for(&***store)) {
                observer.event(Event::Warning(&format!(
                    "{} is opened with the keys and the config of its replica {}: {what}",
                    store.location(),
                    spare.place
                )));
                let main = replica.standing(store.clone(), false);
                return Ok(Self::set_spares(main, replicas));
            }
            observer.event(Event::Warning(&format!("the replica {} is read instead: {what}", spare.place)));
            let read_only: Arc<dyn Store> =
                Arc::new(ReadOnly { store: replica.store.clone(), instead_of: what });
            return Ok(replica.standing(read_only, true));
        }
        Err(e)
    }

    fn set_spares(repository: Arc<Self>, replicas: Vec<Spare>) -> Arc<Self> {
        let mut repository = repository;
        // Nobody else has it yet.
        if let Some(r) = Arc::get_mut(&mut repository) {
            r.spares = Spares::new(replicas);
        }
        repository
    }

    /// Whether a store looks like one of this repository of which only what opens it cannot be read.
    fn may_stand_for(&self, store: &dyn Store) -> bool {
        let has_some = |prefix: &str| store.names(prefix).is_ok_and(|names| !names.is_empty());
        let is_another = Self::claimed_id(store).is_ok_and(|id| id != self.id());
        !is_another && has_some("index/") && (has_some("keys/") || has_some("config/"))
    }

    fn standing(&self, store: Arc<dyn Store>, is_beside: bool) -> Arc<Self> {
        self.with_as(store, self.keys.clone(), self.config.clone(), is_beside)
    }
}

/// A replica that stands in for a repository: who writes means the repository.
struct ReadOnly {
    store: Arc<dyn Store>,
    instead_of: String,
}

impl ReadOnly {
    fn refuse(&self, name: &str) -> Error {
        let text = format!("writing {name}: {} is a replica, and is only read", self.store.location());
        let cause = Error::new(Fault::Denied, self.instead_of.clone());
        Error::with_source(Fault::Denied, text, cause)
            .hint("to write to the replica, name it as the repository: -r")
    }
}

impl Store for ReadOnly {
    fn location(&self) -> String {
        self.store.location()
    }
    fn put(&self, name: &str, _: &[u8]) -> Result<()> {
        Err(self.refuse(name))
    }
    fn delete(&self, name: &str) -> Result<()> {
        Err(self.refuse(name))
    }
    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        self.store.get(name, limit)
    }
    fn range(&self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.store.range(name, offset, length)
    }
    fn prefetch(&self, name: &str, offset: u64, length: u64) {
        self.store.prefetch(name, offset, length);
    }
    fn release(&self, name: &str, offset: u64, length: u64) {
        self.store.release(name, offset, length);
    }
    fn size(&self, name: &str) -> Result<u64> {
        self.store.size(name)
    }
    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.store.list(prefix)
    }
    fn names(&self, prefix: &str) -> Result<Vec<String>> {
        self.store.names(prefix)
    }
    fn modified(&self, name: &str) -> Result<Time> {
        self.store.modified(name)
    }
    fn nature(&self) -> Nature {
        self.store.nature()
    }
    fn may_be_stale(&self) -> bool {
        self.store.may_be_stale()
    }
    fn find_again(&self, same: &dyn Fn(&dyn Store) -> Result<()>) -> bool {
        self.store.find_again(same)
    }
}
