//! What the root of the mount lists: the snapshots that are there now, each under its name.

use super::inodes::RESERVED;
use super::names::{LATEST, Named, Names};
use crate::clock::Time;
use crate::id::{ChunkId, SnapshotId};
use std::collections::HashMap;
use std::sync::Arc;

/// The first number of `latest`; the number changes with the target, as the kernel keeps targets for good.
const FIRST_LATEST: u64 = 2;

/// A snapshot, as far as the mount needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    /// Its id.
    pub id: SnapshotId,
    /// Root page of its tree.
    pub root: ChunkId,
    /// Its time.
    pub time: Time,
    /// Its host.
    pub host: Vec<u8>,
    /// Its tags, sorted.
    pub tags: Vec<Vec<u8>>,
    /// Bytes that it added to the store.
    pub bytes: u64,
    /// Files, folders and others in it.
    pub entries: u64,
}

/// The listing of the root at one moment. A new one is made at each refresh.
#[derive(Default)]
pub(super) struct Snapshots {
    /// Names and snapshots, oldest first.
    pub list: Vec<(Vec<u8>, Arc<Shown>)>,
    by_name: HashMap<Vec<u8>, usize>,
    /// The number that `latest` has.
    pub latest: u64,
}

/// What differs between two listings: names that mean something else than before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Names in the root whose meaning has changed, or that came or went.
    pub names: Vec<Vec<u8>>,
}

impl Snapshots {
    /// Names the snapshots, which are sorted by (time, id), and tells what changed.
    pub fn next(&self, shown: Vec<Shown>, names: &Names) -> (Self, Changes) {
        let known: HashMap<SnapshotId, &Arc<Shown>> = self.list.iter().map(|(_, s)| (s.id, s)).collect();
        let named: Vec<Named<'_>> =
            shown.iter().map(|s| Named { time: s.time, id: &s.id, host: &s.host, tags: &s.tags }).collect();
        let given = names.all(&named);
        let list: Vec<(Vec<u8>, Arc<Shown>)> = given
            .into_iter()
            .zip(shown)
            .map(|(name, s)| match known.get(&s.id) {
                // The same value stays the same pointer, which nodes compare.
                Some(old) if ***old == s => (name, Arc::clone(old)),
                _ => (name, Arc::new(s)),
            })
            .collect();
        let by_name: HashMap<Vec<u8>, usize> =
            list.iter().enumerate().map(|(i, (name, _))| (name.clone(), i)).collect();
        let mut next = Self { list, by_name, latest: self.latest.max(FIRST_LATEST) };
        let mut changes = Changes::default();
        for (name, old) in &self.list {
            if next.get(name).is_none_or(|new| new.id != old.id) {
                changes.names.push(name.clone());
            }
        }
        for (name, _) in &next.list {
            if self.get(name).is_none() {
                changes.names.push(name.clone());
            }
        }
        if self.target() != next.target() {
            changes.names.push(LATEST.to_vec());
            next.latest = Some(next.latest + 1).filter(|n| *n < RESERVED).unwrap_or(FIRST_LATEST);
        }
        (next, changes)
    }

    /// The snapshot with this name.
    pub fn get(&self, name: &[u8]) -> Option<&Arc<Shown>> {
        self.by_name.get(name).and_then(|i| self.list.get(*i)).map(|(_, s)| s)
    }

    /// Where `latest` points to.
    pub fn target(&self) -> Option<&[u8]> {
        self.list.last().map(|(name, _)| name.as_slice())
    }

    /// Time of the newest snapshot.
    pub fn time(&self) -> Time {
        self.list.last().map(|(_, s)| s.time).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(id: u8, seconds: i64) -> Shown {
        Shown {
            id: SnapshotId([id; 32]),
            root: ChunkId([id; 32]),
            time: Time { seconds, nanos: 0 },
            host: b"h".to_vec(),
            tags: Vec::new(),
            bytes: 0,
            entries: 0,
        }
    }

    #[test]
    fn only_what_changed_is_told_and_latest_gets_a_new_number() {
        let names = Names::default();
        let (first, changes) = Snapshots::default().next(vec![shown(1, 0), shown(2, 60)], &names);
        assert_eq!(changes.names.len(), 3);
        assert_eq!(first.target().unwrap(), b"1970-01-01T00-01-00Z");
        let (same, changes) = first.next(vec![shown(1, 0), shown(2, 60)], &names);
        assert_eq!(changes, Changes::default());
        assert_eq!(same.latest, first.latest);
        assert!(Arc::ptr_eq(&same.list[0].1, &first.list[0].1));
        let (next, changes) = first.next(vec![shown(2, 60), shown(3, 120)], &names);
        let expected: [&[u8]; 3] = [b"1970-01-01T00-00-00Z", b"1970-01-01T00-02-00Z", b"latest"];
        assert_eq!(changes.names, expected);
        assert_ne!(next.latest, first.latest);
    }

    #[test]
    fn a_name_that_passes_to_another_snapshot_is_a_change() {
        let names = Names::default();
        let (first, _) = Snapshots::default().next(vec![shown(1, 0), shown(2, 0)], &names);
        let (_, changes) = first.next(vec![shown(2, 0)], &names);
        assert!(changes.names.contains(&b"1970-01-01T00-00-00Z".to_vec()));
    }
}
