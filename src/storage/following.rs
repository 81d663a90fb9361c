//! A local folder that is found again after it was away: a disk that was unplugged, a share that was mounted anew.

use super::{Listed, Local, Store};
use crate::clock::Time;
use crate::fault::Result;
use parking_lot::RwLock;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A [`Local`] store for programs that run for months. It means the folder that it opened, whatever comes to stand
/// at its path, until [`Store::find_again`] finds the same repository there in another folder.
pub struct Following {
    path: PathBuf,
    now: RwLock<Arc<Local>>,
}

impl Following {
    /// As [`Local::open`].
    pub fn open(path: &Path) -> Result<Self> {
        let now = RwLock::new(Arc::new(Local::open(path)?));
        Ok(Self { path: std::path::absolute(path).unwrap_or_else(|_| path.into()), now })
    }

    fn now(&self) -> Arc<Local> {
        self.now.read().clone()
    }
}

impl Store for Following {
    fn location(&self) -> String {
        self.now().location()
    }
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.now().put(name, bytes)
    }
    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        self.now().get(name, limit)
    }
    fn range(&self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.now().range(name, offset, length)
    }
    fn prefetch(&self, name: &str, offset: u64, length: u64) {
        self.now().prefetch(name, offset, length);
    }
    fn release(&self, name: &str, offset: u64, length: u64) {
        self.now().release(name, offset, length);
    }
    fn size(&self, name: &str) -> Result<u64> {
        self.now().size(name)
    }
    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.now().list(prefix)
    }
    fn names(&self, prefix: &str) -> Result<Vec<String>> {
        self.now().names(prefix)
    }
    fn modified(&self, name: &str) -> Result<Time> {
        self.now().modified(name)
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.now().delete(name)
    }
    fn may_be_stale(&self) -> bool {
        self.now().may_be_stale()
    }

    fn find_again(&self, same: &dyn Fn(&dyn Store) -> Result<()>) -> bool {
        // What is there now may be nothing yet, or somebody else's: then the old one is still what is meant.
        let Ok(found) = Local::open(&self.path) else { return false };
        if found.is_same_folder(&self.now()) || same(&found).is_err() {
            return false;
        }
        *self.now.write() = Arc::new(found);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{Error, Fault};
    use crate::storage::folder::tests::Scratch;
    use std::fs;

    #[test]
    fn only_the_same_repository_is_found_again() {
        let scratch = Scratch::new();
        let path = scratch.0.join("store");
        let fill = |text: &str| {
            fs::create_dir_all(path.join("config")).unwrap();
            fs::write(path.join("config/1"), text).unwrap();
        };
        let same = |store: &dyn Store| match store.get("config/1", 100)?.as_slice() {
            b"ours" => Ok(()),
            _ => Err(Error::new(Fault::WrongKey, "not ours")),
        };
        fill("ours");
        let store = Following::open(&path).unwrap();
        fs::rename(&path, scratch.0.join("elsewhere")).unwrap();
        assert!(store.get("config/1", 100).is_ok(), "a folder that was renamed is the same folder");
        fs::rename(scratch.0.join("elsewhere"), &path).unwrap();
        assert!(!store.find_again(&same), "it is what it was");
        fs::rename(&path, scratch.0.join("elsewhere")).unwrap();
        fs::remove_dir_all(scratch.0.join("elsewhere")).unwrap();
        assert_eq!(store.get("config/1", 100).unwrap_err().fault(), Fault::NoRepository);
        assert!(!store.find_again(&same), "there is nothing");
        fill("another");
        assert!(!store.find_again(&same));
        assert_eq!(store.get("config/1", 100).unwrap_err().fault(), Fault::NoRepository);
        fill("ours");
        assert!(store.find_again(&same));
        assert_eq!(store.get("config/1", 100).unwrap(), b"ours");
    }
}
