//! The smallest store that keeps the contract, and the measure of the others.

use crate::clock::{self, Time};
use crate::fault::{Error, Fault, Result};
use crate::storage::{Listed, Store, check_name, check_prefix};
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// A store in memory, for tests.
#[derive(Debug, Default)]
pub(crate) struct Memory(pub(crate) Mutex<BTreeMap<String, (Vec<u8>, Time)>>);

impl Memory {
    fn with<T>(&self, name: &str, read: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
        check_name(name)?;
        match self.0.lock().get(name) {
            Some((bytes, _)) => read(bytes),
            None => Err(Error::new(Fault::Missing, format!("reading {name} from memory"))),
        }
    }
}

impl Store for Memory {
    fn location(&self) -> String {
        "memory".to_owned()
    }
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        check_name(name)?;
        let mut objects = self.0.lock();
        let (found, _) = objects.entry(name.to_owned()).or_insert_with(|| (bytes.to_vec(), clock::now()));
        match found == bytes {
            true => Ok(()),
            false => Err(Error::damaged(format!("writing {name} to memory: another object is there"))),
        }
    }
    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        self.with(name, |bytes| match bytes.len() as u64 <= limit {
            true => Ok(bytes.to_vec()),
            false => Err(Error::damaged(format!("{name} is longer than {limit}"))),
        })
    }
    fn range(&self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.with(name, |bytes| {
            let part =
                usize::try_from(offset).ok().and_then(|start| bytes.get(start..start.checked_add(length)?));
            part.map(<[u8]>::to_vec).ok_or_else(|| Error::damaged(format!("{name} is truncated")))
        })
    }
    fn size(&self, name: &str) -> Result<u64> {
        self.with(name, |bytes| Ok(bytes.len() as u64))
    }
    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        check_prefix(prefix)?;
        let objects = self.0.lock();
        let below = objects.iter().filter(|(name, _)| name.starts_with(prefix));
        Ok(below
            .map(|(name, (bytes, modified))| Listed {
                name: name.clone(),
                size: bytes.len() as u64,
                modified: *modified,
            })
            .collect())
    }
    fn modified(&self, name: &str) -> Result<Time> {
        self.with(name, |_| Ok(()))?;
        let objects = self.0.lock();
        let found = objects.get(name).map(|(_, modified)| *modified);
        found.ok_or_else(|| Error::new(Fault::Missing, format!("reading {name} from memory")))
    }
    fn delete(&self, name: &str) -> Result<()> {
        check_name(name)?;
        self.0.lock().remove(name);
        Ok(())
    }
    fn may_be_stale(&self) -> bool {
        false
    }
}
