//! The snapshots that are there now, each under its name, and in the groups that they belong to.

use super::inodes::Group;
use super::names::{Named, Names, value_name};
use crate::clock::Time;
use crate::id::{ChunkId, SnapshotId};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

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

/// The snapshots at one moment. A new value is made at each refresh.
#[derive(Default)]
pub(super) struct Snapshots {
    /// Oldest first.
    pub list: Vec<Listed>,
    /// Rises with each change.
    pub generation: u64,
    by_name: HashMap<Vec<u8>, usize>,
    /// Places in `list`, by serial.
    by_serial: Vec<usize>,
    hosts: Groups,
    tags: Groups,
    next_serial: u64,
}

/// A snapshot under its name.
pub(super) struct Listed {
    /// The name of its folder.
    pub name: Vec<u8>,
    /// The snapshot.
    pub shown: Arc<Shown>,
    /// In the order in which they were met. Listings go by it, so that one in several steps neither skips nor repeats
    /// what was there all the while.
    pub serial: u64,
}

/// Names of hosts or tags, and their snapshots' places in the list, by serial.
type Groups = BTreeMap<Vec<u8>, Vec<usize>>;

/// What differs between two moments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Names of snapshots whose meaning has changed, or that came or went.
    pub names: Vec<Vec<u8>>,
    /// Whether anything has: tags too.
    pub any: bool,
}

impl Snapshots {
    /// Names the snapshots, which are sorted by (time, id), and tells what changed.
    pub fn next(&self, shown: Vec<Shown>, names: &Names) -> (Self, Changes) {
        let known: HashMap<SnapshotId, &Listed> = self.list.iter().map(|l| (l.shown.id, l)).collect();
        let named: Vec<Named<'_>> =
            shown.iter().map(|s| Named { time: s.time, id: &s.id, host: &s.host, tags: &s.tags }).collect();
        let given = names.all(&named);
        let mut next = Self { next_serial: self.next_serial, ..Self::default() };
        let mut same = shown.len() == self.list.len();
        for (name, s) in given.into_iter().zip(shown) {
            let before = known.get(&s.id);
            let serial = before.map_or(next.next_serial, |l| l.serial);
            next.next_serial = next.next_serial.max(serial + 1);
            let shown = match before {
                // The same value stays the same pointer, which nodes compare.
                Some(l) if *l.shown == s => Arc::clone(&l.shown),
                _ => {
                    same = false;
                    Arc::new(s)
                }
            };
            next.list.push(Listed { name, shown, serial });
        }
        next.index();
        let mut changes = Changes::default();
        for old in &self.list {
            if next.get(&old.name).is_none_or(|new| new.id != old.shown.id) {
                changes.names.push(old.name.clone());
            }
        }
        for new in &next.list {
            if self.get(&new.name).is_none() {
                changes.names.push(new.name.clone());
            }
        }
        changes.any = !same || !changes.names.is_empty();
        next.generation = self.generation + u64::from(changes.any);
        (next, changes)
    }

    fn index(&mut self) {
        self.by_name = self.list.iter().enumerate().map(|(i, l)| (l.name.clone(), i)).collect();
        self.by_serial = (0..self.list.len()).collect();
        self.by_serial.sort_unstable_by_key(|i| self.list[*i].serial);
        for i in &self.by_serial {
            let shown = &self.list[*i].shown;
            self.hosts.entry(value_name(&shown.host)).or_default().push(*i);
            for tag in &shown.tags {
                self.tags.entry(value_name(tag)).or_default().push(*i);
            }
        }
    }

    /// The snapshot with this name.
    pub fn get(&self, name: &[u8]) -> Option<&Arc<Shown>> {
        self.by_name.get(name).map(|i| &self.list[*i].shown)
    }

    /// All of them, from a serial on, in the order of their serials.
    pub fn from(&self, serial: u64) -> impl Iterator<Item = &Listed> {
        self.listed(&self.by_serial, serial)
    }

    /// Names of the hosts or tags that there are, sorted.
    pub fn groups(&self, by: Group) -> impl Iterator<Item = &[u8]> {
        self.grouped(by).keys().map(Vec::as_slice)
    }

    /// One host's or tag's, in the order of their serials.
    pub fn members(&self, by: Group, name: &[u8]) -> Option<Members<'_>> {
        Some(Members { all: self, places: self.grouped(by).get(name)? })
    }

    fn grouped(&self, by: Group) -> &Groups {
        match by {
            Group::Host => &self.hosts,
            Group::Tag => &self.tags,
        }
    }

    fn listed<'a>(&'a self, places: &'a [usize], serial: u64) -> impl Iterator<Item = &'a Listed> {
        let first = places.partition_point(|i| self.list[*i].serial < serial);
        places[first..].iter().map(|i| &self.list[*i])
    }

    /// The newest.
    pub fn latest(&self) -> Option<&Listed> {
        self.list.last()
    }

    /// Time of the newest snapshot.
    pub fn time(&self) -> Time {
        self.latest().map(|l| l.shown.time).unwrap_or_default()
    }
}

/// The snapshots of one host or tag. There is at least one.
#[derive(Clone, Copy)]
pub(super) struct Members<'a> {
    all: &'a Snapshots,
    places: &'a [usize],
}

impl<'a> Members<'a> {
    /// From a serial on, in the order of their serials.
    pub fn from(self, serial: u64) -> impl Iterator<Item = &'a Listed> {
        self.all.listed(self.places, serial)
    }
    /// The newest.
    pub fn latest(self) -> Option<&'a Listed> {
        self.places.iter().max().map(|i| &self.all.list[*i])
    }
    /// The one with this name.
    pub fn get(self, name: &[u8]) -> Option<&'a Listed> {
        let at = self.all.by_name.get(name)?;
        let serial = self.all.list[*at].serial;
        self.from(serial).next().filter(|l| l.serial == serial)
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

    fn names_of<'a>(list: impl Iterator<Item = &'a Listed>) -> Vec<String> {
        list.map(|l| String::from_utf8_lossy(&l.name).into_owned()).collect()
    }

    #[test]
    fn only_what_changed_is_told() {
        let names = Names::default();
        let (first, changes) = Snapshots::default().next(vec![shown(1, 0), shown(2, 60)], &names);
        assert_eq!((changes.names.len(), changes.any), (2, true));
        assert_eq!(first.latest().unwrap().name, b"1970-01-01T00-01-00Z");
        let (same, changes) = first.next(vec![shown(1, 0), shown(2, 60)], &names);
        assert_eq!(changes, Changes::default());
        assert_eq!(same.generation, first.generation);
        assert!(Arc::ptr_eq(&same.list[0].shown, &first.list[0].shown));
        let (next, changes) = first.next(vec![shown(2, 60), shown(3, 120)], &names);
        let expected: [&[u8]; 2] = [b"1970-01-01T00-00-00Z", b"1970-01-01T00-02-00Z"];
        assert_eq!(changes.names, expected);
        assert_ne!(next.generation, first.generation);
    }

    #[test]
    fn a_tag_that_comes_later_is_a_change_without_a_name() {
        let names = Names::default();
        let (first, _) = Snapshots::default().next(vec![shown(1, 0)], &names);
        let tagged = Shown { tags: vec![b"t".to_vec()], ..shown(1, 0) };
        let (next, changes) = first.next(vec![tagged], &names);
        assert_eq!((changes.names.len(), changes.any), (0, true));
        assert_eq!(next.groups(Group::Tag).collect::<Vec<_>>(), [b"t"]);
        assert!(first.members(Group::Tag, b"t").is_none());
    }

    #[test]
    fn a_name_that_passes_to_another_snapshot_is_a_change() {
        let names = Names::default();
        let (first, _) = Snapshots::default().next(vec![shown(1, 0), shown(2, 0)], &names);
        let (_, changes) = first.next(vec![shown(2, 0)], &names);
        assert!(changes.names.contains(&b"1970-01-01T00-00-00Z".to_vec()));
    }

    #[test]
    fn a_listing_goes_on_where_it_was_whatever_comes_and_goes() {
        let names = Names::default();
        let (first, _) = Snapshots::default().next(vec![shown(1, 60), shown(2, 120), shown(3, 180)], &names);
        let seen = first.list[1].serial;
        // An older one comes, the first goes.
        let (next, _) = first.next(vec![shown(9, 0), shown(2, 120), shown(3, 180)], &names);
        assert_eq!(names_of(next.from(seen + 1)), ["1970-01-01T00-03-00Z", "1970-01-01T00-00-00Z"]);
        let host = next.members(Group::Host, b"h").unwrap();
        assert_eq!(names_of(host.from(0)).len(), 3);
        assert_eq!(host.latest().unwrap().name, b"1970-01-01T00-03-00Z");
        assert_eq!(host.get(b"1970-01-01T00-02-00Z").unwrap().shown.id, SnapshotId([2; 32]));
        assert!(host.get(b"1970-01-01T00-01-00Z").is_none());
    }

    #[test]
    fn a_snapshot_is_in_the_groups_of_its_host_and_of_each_tag() {
        let tagged = Shown { tags: vec![b"a".to_vec(), b"b/c".to_vec()], ..shown(1, 0) };
        let other = Shown { host: b"i".to_vec(), ..shown(2, 60) };
        let (all, _) = Snapshots::default().next(vec![tagged, other], &Names::default());
        assert_eq!(all.groups(Group::Host).collect::<Vec<_>>(), [b"h", b"i"]);
        assert_eq!(all.groups(Group::Tag).collect::<Vec<_>>(), [b"a".as_slice(), b"b%2Fc"]);
        assert_eq!(names_of(all.members(Group::Host, b"i").unwrap().from(0)), ["1970-01-01T00-01-00Z"]);
        assert!(all.members(Group::Host, b"i").unwrap().get(b"1970-01-01T00-00-00Z").is_none());
    }
}
