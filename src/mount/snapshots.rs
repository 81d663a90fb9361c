//! The snapshots that are there now, each under its name, and in the groups that they belong to.

use super::inodes::Group;
use super::names::{self, Named, Names, value_name};
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
    /// What it would be called if it were alone.
    plain: Arc<[u8]>,
    /// The snapshot.
    pub shown: Arc<Shown>,
    /// In the order in which they were met. Listings go by it, so that one in several steps neither skips nor repeats
    /// what was there all the while.
    pub serial: u64,
}

/// Hosts or tags by name.
type Groups = BTreeMap<Vec<u8>, Grouped>;

/// The snapshots of one host or tag.
#[derive(Default)]
struct Grouped {
    /// As that of a snapshot.
    serial: u64,
    /// Their places in the list, by serial.
    places: Vec<usize>,
}

/// Puts groups in the order in which they were met: those from `before` keep their places, new ones come behind.
fn number(groups: &mut Groups, before: &Groups) {
    let mut next = before.values().map(|g| g.serial + 1).max().unwrap_or(0);
    for (name, group) in groups {
        group.serial = before.get(name).map_or(next, |g| g.serial);
        next = next.max(group.serial + 1);
    }
}

/// What differs between two moments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Names of snapshots whose meaning has changed, or that came or went.
    pub names: Vec<Vec<u8>>,
    /// Nothing but that newer ones have come.
    pub behind: bool,
}

impl Snapshots {
    /// Names the snapshots, which are sorted by (time, id), and tells what changed; `None` if nothing has, tags included.
    pub fn next(&self, shown: Vec<Shown>, names: &Names) -> Option<(Self, Changes)> {
        if shown.len() == self.list.len() && shown.iter().zip(&self.list).all(|(s, l)| *s == *l.shown) {
            return None;
        }
        let known: HashMap<SnapshotId, &Listed> = self.list.iter().map(|l| (l.shown.id, l)).collect();
        let mut next = Self { next_serial: self.next_serial, ..Self::default() };
        for s in shown {
            let before = known.get(&s.id);
            let serial = before.map_or(next.next_serial, |l| l.serial);
            next.next_serial = next.next_serial.max(serial + 1);
            let (shown, plain) = match before {
                // The same value stays the same pointer, which nodes compare.
                Some(l) if *l.shown == s => (l.shown.clone(), l.plain.clone()),
                _ => {
                    let named = Named { time: s.time, id: &s.id, host: &s.host, tags: &s.tags };
                    let plain = names.plain(&named).into();
                    (Arc::new(s), plain)
                }
            };
            next.list.push(Listed { name: Vec::new(), plain, shown, serial });
        }
        let given = names::apart(next.list.iter().map(|l| (&*l.plain, &l.shown.id)));
        for (l, name) in next.list.iter_mut().zip(given) {
            l.name = name;
        }
        next.index(self);
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
        let mut pairs = self.list.iter().zip(&next.list);
        changes.behind = next.list.len() > self.list.len()
            && pairs.all(|(old, new)| Arc::ptr_eq(&old.shown, &new.shown) && old.name == new.name);
        Some((next, changes))
    }

    fn index(&mut self, before: &Self) {
        self.by_name = self.list.iter().enumerate().map(|(i, l)| (l.name.clone(), i)).collect();
        self.by_serial = (0..self.list.len()).collect();
        self.by_serial.sort_unstable_by_key(|i| self.list[*i].serial);
        for i in &self.by_serial {
            let shown = &self.list[*i].shown;
            self.hosts.entry(value_name(&shown.host)).or_default().places.push(*i);
            for tag in &shown.tags {
                self.tags.entry(value_name(tag)).or_default().places.push(*i);
            }
        }
        number(&mut self.hosts, &before.hosts);
        number(&mut self.tags, &before.tags);
    }

    /// The snapshot with this name.
    pub fn get(&self, name: &[u8]) -> Option<&Arc<Shown>> {
        self.by_name.get(name).map(|i| &self.list[*i].shown)
    }

    /// All of them, from a serial on, in the order of their serials.
    pub fn from(&self, serial: u64) -> impl Iterator<Item = &Listed> {
        self.listed(&self.by_serial, serial)
    }

    /// The hosts or tags that there are, from a serial on, in the order of their serials: that of their names, but those
    /// that came later.
    pub fn groups(&self, by: Group, serial: u64) -> Vec<(u64, &[u8])> {
        let all = self.grouped(by).iter().map(|(name, g)| (g.serial, name.as_slice()));
        let mut groups: Vec<_> = all.filter(|(at, _)| *at >= serial).collect();
        groups.sort_unstable();
        groups
    }

    /// One host's or tag's, in the order of their serials.
    pub fn members(&self, by: Group, name: &[u8]) -> Option<Members<'_>> {
        Some(Members { all: self, places: &self.grouped(by).get(name)?.places })
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
        let (first, changes) = Snapshots::default().next(vec![shown(1, 0), shown(2, 60)], &names).unwrap();
        assert_eq!(changes.names.len(), 2);
        assert_eq!(first.latest().unwrap().name, b"1970-01-01T00-01-00Z");
        assert!(first.next(vec![shown(1, 0), shown(2, 60)], &names).is_none());
        let (next, changes) = first.next(vec![shown(2, 60), shown(3, 120)], &names).unwrap();
        assert!(Arc::ptr_eq(&next.list[0].shown, &first.list[1].shown));
        let expected: [&[u8]; 2] = [b"1970-01-01T00-00-00Z", b"1970-01-01T00-02-00Z"];
        assert_eq!(changes.names, expected);
    }

    #[test]
    fn a_tag_that_comes_later_is_a_change_without_a_name() {
        let names = Names::default();
        let (first, _) = Snapshots::default().next(vec![shown(1, 0)], &names).unwrap();
        let tagged = Shown { tags: vec![b"t".to_vec()], ..shown(1, 0) };
        let (next, changes) = first.next(vec![tagged], &names).unwrap();
        assert_eq!(changes.names.len(), 0);
        assert_eq!(next.groups(Group::Tag, 0), [(0, b"t".as_slice())]);
        assert!(first.members(Group::Tag, b"t").is_none());
    }

    #[test]
    fn a_name_that_passes_to_another_snapshot_is_a_change() {
        let names = Names::default();
        let (first, _) = Snapshots::default().next(vec![shown(1, 0), shown(2, 0)], &names).unwrap();
        let (_, changes) = first.next(vec![shown(2, 0)], &names).unwrap();
        assert!(changes.names.contains(&b"1970-01-01T00-00-00Z".to_vec()));
    }

    #[test]
    fn a_listing_goes_on_where_it_was_whatever_comes_and_goes() {
        let names = Names::default();
        let (first, _) =
            Snapshots::default().next(vec![shown(1, 60), shown(2, 120), shown(3, 180)], &names).unwrap();
        let seen = first.list[1].serial;
        // An older one comes, the first goes.
        let (next, _) = first.next(vec![shown(9, 0), shown(2, 120), shown(3, 180)], &names).unwrap();
        assert_eq!(names_of(next.from(seen + 1)), ["1970-01-01T00-03-00Z", "1970-01-01T00-00-00Z"]);
        let host = next.members(Group::Host, b"h").unwrap();
        assert_eq!(names_of(host.from(0)).len(), 3);
        assert_eq!(host.latest().unwrap().name, b"1970-01-01T00-03-00Z");
        assert_eq!(host.get(b"1970-01-01T00-02-00Z").unwrap().shown.id, SnapshotId([2; 32]));
        assert!(host.get(b"1970-01-01T00-01-00Z").is_none());
    }

    #[test]
    fn a_group_keeps_its_place_whatever_comes_before_it() {
        let names = Names::default();
        let of = |id: u8, host: &str| Shown { host: host.into(), ..shown(id, id.into()) };
        let (first, _) = Snapshots::default().next(vec![of(1, "b"), of(2, "d")], &names).unwrap();
        let (next, _) = first.next(vec![of(1, "b"), of(2, "d"), of(3, "c"), of(4, "a")], &names).unwrap();
        let expected: [(u64, &[u8]); 4] = [(0, b"b"), (1, b"d"), (2, b"a"), (3, b"c")];
        assert_eq!(next.groups(Group::Host, 0), expected);
        assert_eq!(next.groups(Group::Host, 2), expected[2..]);
        let (later, _) = next.next(vec![of(2, "d"), of(4, "a"), of(5, "e")], &names).unwrap();
        let expected: [(u64, &[u8]); 3] = [(1, b"d"), (2, b"a"), (4, b"e")];
        assert_eq!(later.groups(Group::Host, 0), expected);
    }

    #[test]
    fn only_newer_ones_are_told_from_all_other_changes() {
        let names = Names::default();
        let next = |of: &Snapshots, list: Vec<Shown>| of.next(list, &names).unwrap();
        let (first, changes) = next(&Snapshots::default(), vec![shown(1, 0), shown(2, 60)]);
        assert!(changes.behind);
        assert!(next(&first, vec![shown(1, 0), shown(2, 60), shown(3, 60)]).1.behind);
        let tagged = Shown { tags: vec![b"t".to_vec()], ..shown(1, 0) };
        for other in [
            vec![shown(1, 0)],
            vec![shown(1, 0), shown(3, 30), shown(2, 60)],
            vec![shown(2, 60), shown(3, 70)],
            vec![tagged, shown(2, 60), shown(3, 70)],
        ] {
            assert!(!next(&first, other).1.behind);
        }
    }

    #[test]
    fn a_snapshot_is_in_the_groups_of_its_host_and_of_each_tag() {
        let tagged = Shown { tags: vec![b"a".to_vec(), b"b/c".to_vec()], ..shown(1, 0) };
        let other = Shown { host: b"i".to_vec(), ..shown(2, 60) };
        let (all, _) = Snapshots::default().next(vec![tagged, other], &Names::default()).unwrap();
        assert_eq!(all.groups(Group::Host, 0), [(0, b"h".as_slice()), (1, b"i")]);
        assert_eq!(all.groups(Group::Tag, 0), [(0, b"a".as_slice()), (1, b"b%2Fc")]);
        assert_eq!(names_of(all.members(Group::Host, b"i").unwrap().from(0)), ["1970-01-01T00-01-00Z"]);
        assert!(all.members(Group::Host, b"i").unwrap().get(b"1970-01-01T00-00-00Z").is_none());
    }
}
