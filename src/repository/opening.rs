//! Opening a repository, by as few requests as can be: what opens a far one is kept in the cache as it is stored, each with
//! its BLAKE3 behind it, so that a copy that was damaged is told from an object that is.
//!
//! A slot is named by its hash, a config is signed, and neither ever changes: a copy is as good as the object. That they
//! are still there is asked of the store each time: which configs there are (a rotation of keys adds one), and whether the slot
//! that opened the last time is (`pastfs key remove`). So an opening costs two requests, which go side by side. The first one
//! of all lists configs, then slots while it gets the newest config, and then gets slots.

use super::keyring::Keyring;
use super::slots::{Credential, Slots, read_slots, slot_name};
use super::{config_numbers, unlock};
use crate::clock::{self, Time};
use crate::event::Observer;
use crate::fault::{Error, Fault, Result};
use crate::format::config::Config;
use crate::format::object::{Kind, body};
use crate::format::slot::Slot;
use crate::id::{SlotId, hex};
use crate::storage::{Listed, Nature, Store};
use parking_lot::Mutex;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Copies that are kept for one place; more begin anew. Of an ordinary repository there are two.
const COPIES_MAX: usize = 64;
/// Holds the name of the slot that opened last.
const LAST: &str = "slot";

/// The slot that the credential opens, all its keys, and the config that counts.
///
/// # Errors
/// `NoRepository`, `WrongKey`, `Newer`, or what the store says.
pub(super) fn opened(
    store: &dyn Store,
    cache: &Path,
    credential: &Credential,
    observer: &Arc<dyn Observer>,
) -> Result<(SlotId, Keyring, Config)> {
    let copies = Copies::of(store, cache);
    let (numbers, last) = std::thread::scope(|scope| {
        // Of a near store nothing is kept, and no thread is started.
        let last = copies.folder.is_some().then(|| scope.spawn(|| copies.last()));
        (config_numbers(store), last.and_then(|last| last.join().ok().flatten()))
    });
    // First: where there is no repository nothing else is read, and whoever sees a config sees the slot that was put before it.
    let numbers = numbers?;
    let by = |store: &dyn Store, (slots, failed): (Slots, Vec<Error>)| -> Result<_> {
        Ok((unlock(store, &slots, credential, &numbers, observer)?, failed))
    };
    if let Some(last) = last
        && let Ok(Some(found)) = unlock(&copies, &[last], credential, &numbers, observer)
    {
        return Ok(found);
    }
    let slots = std::thread::scope(|scope| {
        if copies.folder.is_some() {
            scope.spawn(|| copies.fetch_config(&numbers));
        }
        read_slots(&copies, observer)
    });
    let (found, failed) = match slots.and_then(|slots| by(&copies, slots)) {
        // A copy may be damaged, or of a repository that was here before.
        Ok((None, _)) | Err(_) if copies.answered.load(Ordering::Relaxed) => {
            copies.forget();
            by(store, read_slots(store, observer)?)?
        }
        done => done?,
    };
    match found {
        Some(found) => {
            copies.remember(&found.0);
            Ok(found)
        }
        None => Err(refused(&store.location(), credential, failed)),
    }
}

/// Why nothing opens it; `failed` are the slots that cannot be used.
fn refused(place: &str, credential: &Credential, mut failed: Vec<Error>) -> Error {
    let unread = |e: &Error| !matches!(e.fault(), Fault::Damaged | Fault::Newer);
    if let Some(at) = failed.iter().position(unread) {
        return failed.swap_remove(at).while_(format!("reading the keys of {place}"));
    }
    let what = match credential {
        Credential::Password(_) => "wrong password",
        Credential::KeyFile(_) => "wrong key file",
    };
    let e = Error::new(Fault::WrongKey, format!("{what} for {place}"));
    match failed.len() {
        0 => e,
        n => e.hint(format!(
            "keys of this repository that are damaged: {n}. If this is one of them, use another one: \
             `pastfs repair from REPLICA` then brings it back"
        )),
    }
}

/// A far store whose slots and configs are read from copies where there are any; of others nothing is kept.
struct Copies<'a> {
    store: &'a dyn Store,
    folder: Option<PathBuf>,
    /// A copy was used.
    answered: AtomicBool,
    /// The config that was fetched ahead, by name, or why it was not.
    ahead: Mutex<Option<(String, Result<Vec<u8>>)>>,
}

impl<'a> Copies<'a> {
    fn of(store: &'a dyn Store, cache: &Path) -> Self {
        let hash = blake3::hash(store.location().as_bytes());
        let folder = cache.join(format!("opening-{}", hex(&hash.as_bytes()[..8])));
        let folder = store.nature().is_far.then_some(folder);
        Self { store, folder, answered: AtomicBool::new(false), ahead: Mutex::default() }
    }

    /// The slot that opened last, if it is still there.
    fn last(&self) -> Option<(SlotId, Slot)> {
        let folder = self.folder.as_ref()?;
        let id = SlotId::from_hex(&fs::read_to_string(folder.join(LAST)).ok()?)?;
        let object = self.copy(&slot_name(&id)).filter(|object| SlotId::of_object(object) == id)?;
        let slot = Slot::decode(body(Kind::Slot, &object).ok()?).ok()?;
        self.store.size(&slot_name(&id)).is_ok().then_some((id, slot))
    }

    /// Fetches the newest config before it is asked for.
    fn fetch_config(&self, numbers: &[u64]) {
        let Some(newest) = numbers.last() else { return };
        let name = format!("config/{newest}");
        let fetched = self.get(&name, Kind::Config.limit());
        *self.ahead.lock() = Some((name, fetched));
    }

    /// What was fetched ahead; a failure once, after which it is tried anew.
    fn fetched(&self, name: &str) -> Option<Result<Vec<u8>>> {
        let ahead = &mut *self.ahead.lock();
        match ahead.as_ref()? {
            (fetched, Ok(bytes)) if fetched == name => Some(Ok(bytes.clone())),
            (fetched, Err(_)) if fetched == name => ahead.take().map(|(_, failed)| failed),
            _ => None,
        }
    }

    fn remember(&self, slot: &SlotId) {
        self.write(LAST, slot.hex().as_bytes());
    }

    /// A copy, if it is as it was written. Whether it is what it must be its reader proves.
    fn copy(&self, name: &str) -> Option<Vec<u8>> {
        let mut bytes = fs::read(self.folder.as_ref()?.join(file_name(name))).ok()?;
        let hash = bytes.split_off(bytes.len().checked_sub(blake3::OUT_LEN)?);
        (hash == blake3::hash(&bytes).as_bytes()).then_some(bytes)
    }

    /// What cannot be written costs a request the next time, no more.
    fn write(&self, name: &str, bytes: &[u8]) {
        let Some(folder) = &self.folder else { return };
        let _ = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        if fs::read_dir(folder).is_ok_and(|entries| entries.count() >= COPIES_MAX) {
            self.forget();
            return;
        }
        let draft = folder.join(format!("new-{}", hex(&clock::random_array::<8>())));
        let mut open = fs::OpenOptions::new();
        let file = open.write(true).create_new(true).mode(0o600).open(&draft);
        let written = file.and_then(|mut file| std::io::Write::write_all(&mut file, bytes));
        if written.and_then(|()| fs::rename(&draft, folder.join(name))).is_err() {
            let _ = fs::remove_file(&draft);
        }
    }

    fn forget(&self) {
        if let Some(folder) = &self.folder {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// The name of a copy: `keys/<id>` is `keys-<id>`.
fn file_name(name: &str) -> String {
    name.replace('/', "-")
}

impl Store for Copies<'_> {
    fn location(&self) -> String {
        self.store.location()
    }
    fn nature(&self) -> Nature {
        self.store.nature()
    }
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.store.put(name, bytes)
    }
    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        if let Some(fetched) = self.fetched(name) {
            return fetched;
        }
        if let Some(bytes) = self.copy(name).filter(|bytes| bytes.len() as u64 <= limit) {
            self.answered.store(true, Ordering::Relaxed);
            return Ok(bytes);
        }
        let bytes = self.store.get(name, limit)?;
        self.write(&file_name(name), &[&bytes, &blake3::hash(&bytes).as_bytes()[..]].concat());
        Ok(bytes)
    }
    fn range(&self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.store.range(name, offset, length)
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
    fn delete(&self, name: &str) -> Result<()> {
        self.store.delete(name)
    }
    fn may_be_stale(&self) -> bool {
        self.store.may_be_stale()
    }
}
