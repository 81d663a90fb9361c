//! The deep module: open a repository, write to it, read from it.
//!
//! Writers go packs, segments, manifest; readers list manifests, then segments. Nobody waits for a lock.

mod adopt;
mod ahead;
mod away;
mod both;
mod brief;
mod cache;
mod copying;
mod dispute;
mod examine;
mod far;
mod healing;
mod homecoming;
mod intake;
mod keyring;
mod lease;
mod leases;
mod listing;
mod merge;
mod mover;
mod needs;
mod notes;
mod opening;
mod pace;
mod parents;
mod process;
mod putback;
mod reader;
mod remembered;
mod replica;
mod rights;
mod rotation;
mod segments;
mod side;
mod sight;
mod slots;
mod spare;
mod stages;
mod survey;
mod sweep;
mod synced;
mod target;
#[cfg(test)]
mod tests;
mod vanished;
mod vouch;
mod writer;

pub use adopt::{ADOPTED_AT_ONCE, Stray, Unreadable};
pub use both::{Both, Glance};
pub use examine::Examined;
pub use homecoming::Whole;
pub use intake::{Again, Intake, Taken};
pub use keyring::Author;
pub use leases::Session;
pub use listing::Snapshot;
pub use mover::{Moved, Mover};
pub use needs::{Listener, Need};
pub use notes::Ended;
pub use putback::Named;
pub use reader::{Keep, Reader};
pub use replica::Identity;
pub use rights::Right;
pub use rotation::Carried;
pub use side::Side;
pub use sight::{Candidates, Hidden, ListedPack, Sight};
pub use slots::{Credential, SlotInfo};
pub use spare::{Opener, Spare};
pub use stages::Frames;
pub use survey::{Flaw, Found, Promise, Survey, is_finding};
pub use sweep::Sweep;
pub use vouch::{Claimed, Unvouched};
pub use writer::{Commit, Draft, Writer, WriterOptions};

use crate::chunk::{Chunker, Params};
use crate::clock;
use crate::event::{Event, Observer, Silent};
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::config::Config;
use crate::format::object::{Kind, Signed, body};
use crate::format::pack::{Header, Space};
use crate::format::slot::{Label, Slot};
use crate::id::{RepositoryId, SlotId, hex};
use crate::index::Index;
use crate::pack::Finished;
use crate::parity::PERCENT_MAX;
use crate::seal::{Cipher, IdKeys, Role};
use crate::storage::{Costs, Counted, Counts, Near, Shelf, Store};
use keyring::Keyring;
use parking_lot::Mutex;
use slots::{read_slots, slot_name};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Layout of the cache; another number is another folder.
const CACHE_SCHEMA: u32 = 2;
/// Default bound in bytes of what is kept of a far store, beside the index: the trees of ten million files and more, or a
/// system that is restored twice.
pub const CACHE_BYTES: u64 = 4 << 30;
/// Folder of that, in the repository's cache.
const PIECES: &str = "pieces";
/// Features that this program knows: to read, to write, to delete.
const FEATURES: [&[&[u8]]; 3] = [&[], &[], &[]];

/// For a new repository.
pub struct InitOptions {
    /// Cipher of its packs.
    pub cipher: Cipher,
    /// Parity of its packs in hundredths of their length, up to 100; 0: none.
    pub parity: u8,
    /// What people are told about its first key.
    pub label: Label,
}

/// For opening one.
pub struct OpenOptions {
    /// The folder of all caches; this repository's is made below it.
    pub cache: PathBuf,
    /// Is told of damage that does not stop the work.
    pub observer: Arc<dyn Observer>,
}

/// What a repository is made of once its keys are known.
struct Opened {
    keys: Arc<Keyring>,
    slot: SlotId,
    config: Config,
    cache: PathBuf,
    observer: Arc<dyn Observer>,
    cache_bytes: u64,
}

impl Opened {
    /// The repository in a store; `is_beside` if the same process has opened it in another one too.
    fn of(self, store: Counted, is_beside: bool) -> Arc<Repository> {
        Arc::new(Repository {
            counts: store.counts(),
            store: Arc::new(store),
            keys: self.keys,
            slot: self.slot,
            config: self.config,
            cache: self.cache,
            is_beside,
            observer: self.observer,
            index: OnceLock::new(),
            opening: Mutex::new(()),
            known: Mutex::default(),
            told: Mutex::default(),
            healed: Mutex::default(),
            spares: Default::default(),
            near: OnceLock::new(),
            cache_bytes: AtomicU64::new(self.cache_bytes),
        })
    }
}

/// An opened repository.
pub struct Repository {
    store: Arc<dyn Store>,
    /// What the store was asked for.
    counts: Arc<Counts>,
    keys: Arc<Keyring>,
    slot: SlotId,
    config: Config,
    cache: PathBuf,
    /// Another store of this repository is in use as well: this one has an index of its own in the cache.
    is_beside: bool,
    observer: Arc<dyn Observer>,
    index: OnceLock<(Arc<Index>, Option<cache::Tenancy>)>,
    opening: Mutex<()>,
    known: Mutex<listing::Known>,
    /// What was reported already: once is enough.
    told: Mutex<HashSet<String>>,
    /// The damaged pack that was healed last, or that could not be.
    healed: Mutex<healing::Healed>,
    /// Replicas that are read where this fails.
    spares: spare::Spares,
    /// What is kept of a far store; opened when it is first needed.
    near: OnceLock<Option<Arc<Near>>>,
    cache_bytes: AtomicU64,
}

impl Repository {
    /// Folders that an init that died may have left: it writes a key, then the config.
    pub const FIRST_FOLDERS: [&str; 2] = ["keys", "config"];

    /// Whether a repository can be made in a store: there is nothing in it, or nothing but the key of an init that died
    /// before its config.
    ///
    /// # Errors
    /// `Misuse` where not; what the store says.
    pub fn may_begin(store: &dyn Store) -> Result<()> {
        let place = store.location();
        let names = store.names("")?;
        if names.iter().any(|n| n.starts_with("config/")) {
            return Err(Error::misuse(format!("there is a repository in {place} already"))
                .hint("choose another place, or use the one that is there"));
        }
        match names.iter().find(|n| !n.starts_with("keys/")) {
            None => Ok(()),
            Some(name) => Err(Error::misuse(format!("{place} holds {name}, but no config of a repository"))
                .hint(
                    "choose another place; if a repository was here, its config was deleted: bring it back",
                )),
        }
    }

    /// Makes a repository in an empty store. Where an init with the same credential died before its end, goes on from
    /// there.
    ///
    /// # Errors
    /// `Misuse` when there is one already, or the beginning of one with another key.
    pub fn init(
        store: &Arc<dyn Store>,
        credential: &Credential,
        options: &InitOptions,
    ) -> Result<RepositoryId> {
        Self::may_begin(&**store)?;
        let observer: Arc<dyn Observer> = Arc::new(Silent);
        let (begun, failed) = read_slots(&**store, &observer)?;
        let found = Keyring::open(&begun, credential)?;
        if found.is_none() && (begun.len(), failed.len()) != (0, 0) {
            let text =
                format!("{} holds the beginning of a repository that another key opens", store.location());
            return Err(Error::misuse(text).hint(
                "nothing is stored there yet: delete the folder, or run init with the key of the first time",
            ));
        }
        let (keys, slot) = match found {
            // Put again all the same: it may have been written, and not be durable.
            Some((id, keys)) => (keys, store.get(&slot_name(&id), Kind::Slot.limit())?),
            None => {
                let keys = Keyring::generate()?;
                let slot = keys.new_slot(credential, Role::Full, &[], &options.label)?;
                (keys, slot)
            }
        };
        let params = Params::default();
        let config = Config {
            repository: keys.repository,
            number: 1,
            created: clock::now().seconds,
            cipher: options.cipher.code(),
            chunker: params.kind(),
            chunker_parameters: params.parameters(),
            epoch: keys.epoch(),
            features: Default::default(),
            ended: Vec::new(),
            earlier: Vec::new(),
            parity: options.parity.min(PERCENT_MAX),
            since: 1,
            unknown: Default::default(),
        };
        store.put(&slot_name(&SlotId::of_object(&slot)), &slot)?;
        // Last: a store without config is no repository yet.
        put_config(&**store, &keys, &config, None)?;
        put_twin(&**store, &keys, &config, None, &observer);
        Ok(keys.repository)
    }

    /// Opens a repository.
    ///
    /// # Errors
    /// `NoRepository`, `WrongKey`, `Newer`, or what the store says.
    pub fn open(store: Arc<dyn Store>, credential: &Credential, options: OpenOptions) -> Result<Arc<Self>> {
        let counted = Counted::new(store);
        let place = counted.location();
        let (slot, mut keys, config) =
            opening::opened(&counted, &options.cache, credential, &options.observer)?;
        keys.heed(&config).doing(|| format!("reading config/{} of {place}", config.number))?;
        let cache = options.cache.join(format!("{}-{CACHE_SCHEMA}", hex(&keys.repository.0[..16])));
        let cache_bytes = CACHE_BYTES;
        Ok(Opened { keys: Arc::new(keys), slot, config, cache, observer: options.observer, cache_bytes }
            .of(counted, false))
    }

    /// The id that a store's newest config bears, which needs no key and proves nothing.
    ///
    /// # Errors
    /// `NoRepository`, or what the store says.
    pub fn claimed_id(store: &dyn Store) -> Result<RepositoryId> {
        claimed_by(store, &config_numbers(store)?)
    }

    /// Drawn when it was made.
    pub fn id(&self) -> RepositoryId {
        self.keys.repository
    }
    /// Where it is, for messages.
    pub fn location(&self) -> String {
        self.store.location()
    }
    /// What its store was asked for since it was opened.
    pub fn costs(&self) -> Costs {
        self.counts.costs()
    }
    /// The same as it goes on.
    pub fn counts(&self) -> Arc<Counts> {
        self.counts.clone()
    }
    /// Whether each request to its store takes a journey.
    pub fn is_far(&self) -> bool {
        self.store.nature().is_far
    }
    /// What chunks are named with.
    pub fn ids(&self) -> &IdKeys {
        &self.keys.ids
    }
    /// The key that the mount hashes inode numbers with.
    pub fn inode_key(&self) -> [u8; 32] {
        self.keys.inode_key()
    }
    /// The folder of this repository's cache.
    pub fn cache_dir(&self) -> &Path {
        &self.cache
    }
    /// Bounds what is kept of a far store to so many bytes, instead of [`CACHE_BYTES`]; 0: nothing is. To be called before
    /// anything is read.
    pub fn bound_cache(&self, bytes: u64) {
        self.cache_bytes.store(bytes, Ordering::Relaxed);
    }

    /// The pieces of packs that are kept. `None` where the store is not far, where nothing is to be kept, and where nothing can
    /// be, which is told once.
    fn near(&self) -> Option<Arc<Near>> {
        let open = || {
            let bytes = self.cache_bytes.load(Ordering::Relaxed);
            if bytes == 0 || !self.store.nature().is_far {
                return None;
            }
            let opened =
                crate::index::claim(&self.cache).and_then(|()| Near::open(&self.cache.join(PIECES), bytes));
            match opened {
                Ok(near) => Some(Arc::new(near)),
                Err(e) => {
                    let text = format!("nothing that is read is kept for the next time: {}", e.chain());
                    self.observer.event(Event::Warning(&text));
                    None
                }
            }
        };
        self.near.get_or_init(open).clone()
    }

    /// Keeps a pack that was just stored, if it is one of trees: the next backup reads them.
    fn keep_trees(&self, pack: &Finished) {
        let is_trees = Header::decode(&pack.entry.header).is_ok_and(|(h, _)| h.space == Space::Trees);
        // A writer reads none.
        if is_trees
            && self.keys.role != Role::Writer
            && let Some(near) = self.near()
        {
            // What cannot be kept is fetched.
            let _ = near.put(Shelf::Trees, &pack.entry.pack.hex(), 0, &pack.bytes);
        }
    }

    /// The chunker that new content is cut with.
    pub fn chunker(&self) -> Result<Chunker> {
        let params = Params::from_parts(self.config.chunker, &self.config.chunker_parameters)?;
        Chunker::new(params, self.keys.chunker_seed())
    }
}

impl Drop for Repository {
    /// Whoever listens to details hears what the work has cost.
    fn drop(&mut self) {
        let costs = self.costs();
        self.observer.event(Event::Detail(&format!(
            "requests to {}: {}, {} bytes sent, {} received ({})",
            self.store.location(),
            costs.requests(),
            costs.sent(),
            costs.received(),
            costs.words()
        )));
    }
}

/// The numbers of the configs that are listed, in any order. Where `config` is a file and nothing is ours, it is another
/// program's repository.
fn listed_configs(store: &dyn Store) -> Result<Vec<u64>> {
    match store.names("config/") {
        Ok(names) => Ok(names.iter().filter_map(|n| n.strip_prefix("config/")?.parse().ok()).collect()),
        Err(e)
            if e.fault() == Fault::Damaged
                && store.size("config").is_ok()
                && store.names("packs/").is_ok_and(|packs| packs.is_empty()) =>
        {
            let text =
                format!("there is no repository of pastfs in {}: config is a file there", store.location());
            Err(Error::new(Fault::NoRepository, text)
                .hint("restic and borg keep such a file: use the program that made it, or another place"))
        }
        Err(e) => Err(e),
    }
}

/// The numbers of the configs that are listed, rising.
fn config_numbers(store: &dyn Store) -> Result<Vec<u64>> {
    let mut numbers = listed_configs(store)?;
    if numbers.is_empty() {
        return Err(Error::new(
            Fault::NoRepository,
            format!("there is no repository in {}", store.location()),
        )
        .hint("check the path, or make one with `pastfs init`"));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The slot that the credential opens, and the newest config that its keys prove; `None` where it opens none. A slot of
/// another repository that the same password opens, put here by whoever holds the storage, proves no config and is
/// passed over.
fn unlock(
    store: &dyn Store,
    slots: &[(SlotId, Slot)],
    credential: &Credential,
    numbers: &[u64],
    observer: &Arc<dyn Observer>,
) -> Result<Option<(SlotId, Keyring, Config)>> {
    let mut failed = None;
    let mut left = slots;
    while let Some((slot, keys)) = Keyring::open(left, credential)? {
        match newest_config(store, &keys, numbers, observer) {
            Ok(config) => return Ok(Some((slot, keys, config))),
            Err(e) => failed = Some(failed.unwrap_or(e)),
        }
        left = left.iter().position(|(id, _)| *id == slot).map_or(&[], |at| &left[at + 1..]);
    }
    failed.map_or(Ok(None), Err)
}

/// The id that the newest of these configs claims, before anything is proven.
fn claimed_by(store: &dyn Store, numbers: &[u64]) -> Result<RepositoryId> {
    let place = store.location();
    let newest = numbers.iter().max();
    let newest = newest
        .ok_or_else(|| Error::new(Fault::NoRepository, format!("there is no repository in {place}")))?;
    let name = format!("config/{newest}");
    let object = store.get(&name, Kind::Config.limit())?;
    let signed = body(Kind::Config, &object).and_then(Signed::decode);
    let config = signed.and_then(|s| Config::decode(&s.body));
    config.map(|c| c.repository).doing(|| format!("reading {name} of {place}"))
}

/// The config of the highest of these ascending numbers that proves; those above it are told.
fn newest_config(
    store: &dyn Store,
    keys: &Keyring,
    numbers: &[u64],
    observer: &Arc<dyn Observer>,
) -> Result<Config> {
    for (at, n) in numbers.iter().enumerate().rev() {
        match load_config(store, keys, *n) {
            Ok(config) => return Ok(config),
            // Rotated keys: what is below is an old state.
            Err(e) if e.fault() == Fault::WrongKey => return Err(e),
            Err(e) if at == 0 || e.fault() == Fault::Newer => {
                let e = e.while_(format!("reading config/{n} of {}", store.location()));
                return Err(match e.fault() {
                    Fault::Damaged => e.hint(
                        "nothing can be read without it, and all else may be whole: `pastfs repair from REPLICA` brings it \
                         back",
                    ),
                    _ => e,
                });
            }
            Err(e) => observer.event(Event::Warning(&format!("config/{n} does not count: {}", e.chain()))),
        }
    }
    Err(Error::damaged(format!("no config of {} is whole", store.location())))
}

/// Writes a config, and proves that it is the one that counts.
fn put_config(store: &dyn Store, keys: &Keyring, config: &Config, before: Option<&Keyring>) -> Result<()> {
    let name = format!("config/{}", config.number);
    let object = keys.seal_config(config.encode(), before)?;
    let put = store.put(&name, &object);
    // Of two at a time one wins, whatever the store made of it.
    match load_config(store, keys, config.number) {
        Ok(there) if there == *config => Ok(()),
        Ok(_) => Err(Error::new(Fault::Busy, format!("another one has written {name} meanwhile"))),
        Err(e) => Err(put.err().unwrap_or(e).while_(format!("writing {name} to {}", store.location()))),
    }
}

/// Writes a config that counts a second time, under the next number: a bit that flips in one of them closes nothing. What
/// the config says is done already, so a twin that fails is only told.
fn put_twin(
    store: &dyn Store,
    keys: &Keyring,
    config: &Config,
    before: Option<&Keyring>,
    observer: &Arc<dyn Observer>,
) {
    let twin = config.number.checked_add(1).map(|number| Config { number, ..config.clone() });
    let put = twin.as_ref().map_or(Ok(()), |twin| put_config(store, keys, twin, before));
    if let Err(e) = put {
        observer.event(Event::Warning(&format!("the config has no second copy: {}", e.chain())));
    }
}

fn load_config(store: &dyn Store, keys: &Keyring, number: u64) -> Result<Config> {
    let object = store.get(&format!("config/{number}"), Kind::Config.limit())?;
    let config = Config::decode(&keys.open_config(&object)?)?;
    if config.repository != keys.repository || config.number != number {
        return Err(Error::damaged("the config belongs to another place"));
    }
    for (what, (listed, known)) in ["read", "write"].iter().zip(config.features.iter().zip(FEATURES)) {
        if let Some(f) = listed.iter().find(|f| !known.contains(&f.as_slice())) {
            let name = String::from_utf8_lossy(f).into_owned();
            return Err(Error::new(
                Fault::Newer,
                format!("the repository was made by a newer pastfs: one must know {name:?} to {what} it"),
            )
            .hint("use a pastfs that is at least as new as the one that made the repository"));
        }
    }
    if Cipher::from_code(config.cipher).is_none() {
        return Err(Error::new(Fault::Newer, "the repository uses a cipher of a newer pastfs"));
    }
    Ok(config)
}
