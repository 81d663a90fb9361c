//! What a store is asked for: requests and bytes, by what the objects are and what is done with them. A bill is made of
//! these numbers, and so is the time that a far store takes; the tests hold each command to them (`tests/suite/costs.rs`).

use super::{Listed, Nature, Store};
use crate::clock::Time;
use crate::fault::Result;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The folders of a repository (pastfs-repository(5)), and what is in none of them.
const KINDS: [&str; 9] =
    ["packs", "parity", "index", "snapshots", "notes", "leases", "keys", "config", "other"];

/// What is done with objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// An object is stored.
    Put,
    /// A whole one is read.
    Get,
    /// A part of one is read.
    Range,
    /// Names are listed; one request for each page of the list.
    List,
    /// Length or time of an object is asked for.
    Look,
    /// An object is deleted.
    Delete,
}

/// Their names, in the order of the variants.
const DEEDS: [&str; 6] = ["put", "get", "range", "list", "look", "delete"];

#[derive(Default)]
struct Cell {
    requests: AtomicU64,
    bytes: AtomicU64,
}

/// Counts of one store, from any thread.
#[derive(Default)]
pub struct Counts {
    cells: [[Cell; DEEDS.len()]; KINDS.len()],
}

impl Counts {
    fn add(&self, name: &str, deed: Deed, requests: u64, bytes: u64) {
        let folder = name.split('/').next().unwrap_or(name);
        let kind = KINDS.iter().position(|k| *k == folder).unwrap_or(KINDS.len() - 1);
        let cell = &self.cells[kind][deed as usize];
        cell.requests.fetch_add(requests, Ordering::Relaxed);
        cell.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What was asked for until now. A sum is exact once the requests that it is about were answered.
    pub fn costs(&self) -> Costs {
        let cell = |c: &Cell| (c.requests.load(Ordering::Relaxed), c.bytes.load(Ordering::Relaxed));
        Costs { cells: std::array::from_fn(|k| std::array::from_fn(|d| cell(&self.cells[k][d]))) }
    }
}

/// Counts of a moment: requests and bytes for each kind of object and each deed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Costs {
    cells: [[(u64, u64); DEEDS.len()]; KINDS.len()],
}

impl Costs {
    /// All requests.
    pub fn requests(&self) -> u64 {
        self.cells.iter().flatten().map(|(requests, _)| requests).sum()
    }

    /// Requests of one deed for one kind of objects, named by its folder, such as `packs`; 0 for others.
    pub fn of(&self, kind: &str, deed: Deed) -> u64 {
        let at = KINDS.iter().position(|k| *k == kind);
        at.map_or(0, |k| self.cells[k][deed as usize].0)
    }

    /// Bytes of objects that were sent.
    pub fn sent(&self) -> u64 {
        self.cells.iter().map(|kind| kind[Deed::Put as usize].1).sum()
    }

    /// Bytes of objects that were received; lists do not count.
    pub fn received(&self) -> u64 {
        self.cells.iter().map(|kind| kind[Deed::Get as usize].1 + kind[Deed::Range as usize].1).sum()
    }

    /// As text: what was asked for at all, such as `packs: put 3, range 12; leases: put 2`.
    pub fn words(&self) -> String {
        let mut text = String::new();
        for (kind, deeds) in KINDS.iter().zip(&self.cells) {
            let done = DEEDS.iter().zip(deeds).filter(|(_, (requests, _))| *requests > 0);
            for (n, (deed, (requests, _))) in done.enumerate() {
                let start = match (n, text.is_empty()) {
                    (0, true) => format!("{kind}: "),
                    (0, false) => format!("; {kind}: "),
                    _ => ", ".into(),
                };
                let _ = write!(text, "{start}{deed} {requests}");
            }
        }
        text
    }

    /// As a JSON object: the sums, and for each kind of object and each deed that there was its requests and bytes.
    pub fn json(&self) -> String {
        let mut text = format!(
            "{{\"requests\":{},\"sent\":{},\"received\":{}",
            self.requests(),
            self.sent(),
            self.received()
        );
        for (kind, deeds) in KINDS.iter().zip(&self.cells) {
            let done = DEEDS.iter().zip(deeds).filter(|(_, (requests, _))| *requests > 0);
            let deeds = done.map(|(deed, (requests, bytes))| {
                format!("\"{deed}\":{{\"requests\":{requests},\"bytes\":{bytes}}}")
            });
            let deeds: Vec<String> = deeds.collect();
            if !deeds.is_empty() {
                let _ = write!(text, ",\"{kind}\":{{{}}}", deeds.join(","));
            }
        }
        text.push('}');
        text
    }
}

/// A store whose requests are counted. What the store itself tries again is counted once, and so is an upload in parts.
pub struct Counted {
    store: Arc<dyn Store>,
    counts: Arc<Counts>,
}

impl Counted {
    /// Counts from 0.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, counts: Arc::default() }
    }

    /// Where it counts.
    pub fn counts(&self) -> Arc<Counts> {
        self.counts.clone()
    }

    fn one(&self, name: &str, deed: Deed, bytes: u64) {
        self.counts.add(name, deed, 1, bytes);
    }

    fn read(&self, name: &str, deed: Deed, read: Result<Vec<u8>>) -> Result<Vec<u8>> {
        self.one(name, deed, read.as_ref().map_or(0, |bytes| bytes.len() as u64));
        read
    }

    fn listed<T>(&self, prefix: &str, listed: Result<Vec<T>>) -> Result<Vec<T>> {
        let entries = listed.as_ref().map_or(0, Vec::len);
        let pages = entries.div_ceil(self.store.nature().list_page).max(1);
        self.counts.add(prefix, Deed::List, pages as u64, 0);
        listed
    }
}

impl Store for Counted {
    fn location(&self) -> String {
        self.store.location()
    }
    fn nature(&self) -> Nature {
        self.store.nature()
    }
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.one(name, Deed::Put, bytes.len() as u64);
        self.store.put(name, bytes)
    }
    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        self.read(name, Deed::Get, self.store.get(name, limit))
    }
    fn range(&self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.read(name, Deed::Range, self.store.range(name, offset, length))
    }
    fn prefetch(&self, name: &str, offset: u64, length: u64) {
        self.store.prefetch(name, offset, length);
    }
    fn release(&self, name: &str, offset: u64, length: u64) {
        self.store.release(name, offset, length);
    }
    fn size(&self, name: &str) -> Result<u64> {
        self.one(name, Deed::Look, 0);
        self.store.size(name)
    }
    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.listed(prefix, self.store.list(prefix))
    }
    fn names(&self, prefix: &str) -> Result<Vec<String>> {
        self.listed(prefix, self.store.names(prefix))
    }
    fn modified(&self, name: &str) -> Result<Time> {
        self.one(name, Deed::Look, 0);
        self.store.modified(name)
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.one(name, Deed::Delete, 0);
        self.store.delete(name)
    }
    fn delete_all(&self, names: &[String]) -> Result<()> {
        if let Some(first) = names.first() {
            let requests = names.len().div_ceil(self.store.nature().delete_batch);
            self.counts.add(first, Deed::Delete, requests as u64, 0);
        }
        self.store.delete_all(names)
    }
    fn may_be_stale(&self) -> bool {
        self.store.may_be_stale()
    }
    fn find_again(&self, same: &dyn Fn(&dyn Store) -> Result<()>) -> bool {
        self.store.find_again(same)
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{conformance, memory::Memory};
    use super::*;

    #[test]
    fn a_counted_store_keeps_the_contract() {
        conformance(&|| Box::new(Counted::new(Arc::new(Memory::default()))));
    }

    #[test]
    fn each_request_is_counted_under_its_kind_and_deed_whether_it_succeeds_or_not() {
        let store = Counted::new(Arc::new(Memory::default()));
        let counts = store.counts();
        assert_eq!(counts.costs(), Costs::default());
        store.put("packs/3f/3f2a", b"12345").unwrap();
        store.range("packs/3f/3f2a", 1, 2).unwrap();
        assert!(store.get("leases/1", 100).is_err());
        store.list("notes/").unwrap();
        store.names("").unwrap();
        store.size("packs/3f/3f2a").unwrap();
        store.modified("packs/3f/3f2a").unwrap();
        store.delete_all(&["packs/3f/3f2a".into(), "packs/3f/3f2b".into()]).unwrap();
        let costs = counts.costs();
        assert_eq!((costs.requests(), costs.sent(), costs.received()), (9, 5, 2));
        assert_eq!((costs.of("packs", Deed::Look), costs.of("packs", Deed::Delete)), (2, 2));
        assert_eq!(
            costs.words(),
            "packs: put 1, range 1, look 2, delete 2; notes: list 1; leases: get 1; other: list 1"
        );
        let json = costs.json();
        assert!(json.starts_with("{\"requests\":9,\"sent\":5,\"received\":2,\"packs\":{\"put\":"), "{json}");
        assert!(json.ends_with(",\"other\":{\"list\":{\"requests\":1,\"bytes\":0}}}"), "{json}");
    }
}
