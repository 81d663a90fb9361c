//! What was found out about the paths of all snapshots together, kept for as long as there is room. When snapshots come
//! behind those that were known, which is what nearly always happens, it is completed by what they hold; when others
//! come or go, it is found out anew.

use super::folders;
use super::lru::Lru;
use super::numbering::PathDigest;
use super::snapshots::{Shown, Snapshots};
use crate::history::{Name, Runs};
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock};

/// Memory for the unions of folders, in bytes. One is kept even if it alone is over.
const UNIONS_BYTES: usize = 12 << 20;
/// Memory for single names, in bytes: those on the way to what is looked at.
const NAMES_BYTES: usize = 8 << 20;

/// A name in all snapshots.
pub(super) struct Known {
    pub name: Name,
    /// What its versions are called, once somebody asked.
    pub labels: OnceLock<Vec<Vec<u8>>>,
}

impl Known {
    pub fn new(name: Name) -> Arc<Self> {
        Arc::new(Self { name, labels: OnceLock::new() })
    }

    /// The snapshot since which all is as it is: before it there was another tree, or another version.
    pub fn changed(&self) -> Option<u32> {
        let versions = self.name.versions.iter().map(|v| &v.snapshots);
        let folders = self.name.folders.iter().map(|s| &s.snapshots);
        versions.chain(folders).filter_map(|runs| runs.ranges().last()).map(|(first, _)| *first).max()
    }

    /// About the bytes of memory that it takes.
    fn cost(&self) -> usize {
        let runs = |r: &Runs| size_of::<Runs>() + 16 * r.ranges().len();
        let entries = self.name.versions.iter().chain(&self.name.doors);
        let strands = self.name.folders.iter().map(|s| 32 + runs(&s.snapshots)).sum::<usize>();
        // A label of 40 bytes, some day, for each.
        let entries: usize = entries.map(|v| folders::cost(&v.entry) + runs(&v.snapshots) + 64).sum();
        size_of::<Self>() + 64 + self.name.name.len() + strands + entries
    }
}

/// All that ever was in a folder.
pub(super) struct Union {
    /// Sorted by name.
    pub names: Vec<Arc<Known>>,
    /// Their places in a listing, sorted, each with which of them it is.
    order: OnceLock<Vec<(u64, u32)>>,
}

impl Union {
    pub fn new(names: Vec<Arc<Known>>) -> Arc<Self> {
        Arc::new(Self { names, order: OnceLock::new() })
    }

    pub fn get(&self, name: &[u8]) -> Option<&Arc<Known>> {
        let place = self.names.binary_search_by(|k| k.name.name.as_slice().cmp(name));
        place.ok().map(|i| &self.names[i])
    }

    /// The names in the order of their places, as `place` has them, from `from` on.
    pub fn from(
        &self,
        from: u64,
        place: impl Fn(&[u8]) -> u64,
    ) -> impl Iterator<Item = (u64, &Arc<Known>)> + '_ {
        let order = self.order.get_or_init(|| {
            let mut order: Vec<_> = (0..).zip(&self.names).map(|(i, k)| (place(&k.name.name), i)).collect();
            order.sort_unstable();
            order
        });
        let first = order.partition_point(|(place, _)| *place < from);
        order[first..].iter().map(|(place, i)| (*place, &self.names[*i as usize]))
    }

    fn cost(&self) -> usize {
        self.names.iter().map(|k| k.cost() + size_of::<(u64, u32)>()).sum()
    }
}

/// Something that was found out, and about which snapshots.
struct Found<T> {
    value: Arc<T>,
    /// About so many, from the oldest on.
    upto: u32,
    /// Nothing had to be left out. Else it is found out anew: what is missing may have been mended.
    whole: bool,
}

impl<T> Clone for Found<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), ..*self }
    }
}

/// What is known already.
pub(super) enum Memory<T> {
    Nothing,
    /// All but what the snapshots from this one on hold.
    Until(u32, Arc<T>),
    All(Arc<T>),
}

type Store<T> = Mutex<Lru<PathDigest, Found<T>>>;

struct Caches {
    names: Store<Known>,
    unions: Store<Union>,
}

/// What was found out, seen from the snapshots of one moment.
pub(super) struct Past {
    /// Shared with later moments that only have more snapshots.
    caches: Arc<Caches>,
    count: u32,
    /// How many of the snapshots up to each, itself included, are another host's.
    foreign: Vec<u32>,
}

impl Past {
    /// Nothing is read yet. `foreign`: whether a snapshot is another host's, where others may look in.
    pub fn new(snapshots: &Snapshots, foreign: impl Fn(&Shown) -> bool) -> Self {
        let (names, unions) = (Mutex::new(Lru::new(NAMES_BYTES)), Mutex::new(Lru::new(UNIONS_BYTES)));
        Self::with(Arc::new(Caches { names, unions }), snapshots, foreign)
    }

    /// The past of `snapshots`, of which those that this one is about are the oldest ones.
    pub fn go_on(&self, snapshots: &Snapshots, foreign: impl Fn(&Shown) -> bool) -> Self {
        Self::with(self.caches.clone(), snapshots, foreign)
    }

    fn with(caches: Arc<Caches>, snapshots: &Snapshots, foreign: impl Fn(&Shown) -> bool) -> Self {
        let foreign: Vec<u32> = snapshots
            .list
            .iter()
            .scan(0u32, |n, l| {
                *n += u32::from(foreign(&l.shown));
                Some(*n)
            })
            .collect();
        Self { caches, count: foreign.len() as u32, foreign }
    }

    /// About the bytes of memory that all of it takes.
    pub fn bytes(&self) -> usize {
        self.caches.names.lock().cost() + self.caches.unions.lock().cost()
    }

    /// What is known of a path.
    pub fn name(&self, path: &PathDigest) -> Memory<Known> {
        self.seen(self.caches.names.lock().get(path))
    }

    /// What is known of what lies in a folder.
    pub fn union(&self, path: &PathDigest) -> Memory<Union> {
        self.seen(self.caches.unions.lock().get(path))
    }

    fn seen<T>(&self, found: Option<Found<T>>) -> Memory<T> {
        match found {
            Some(f) if f.upto == self.count => Memory::All(f.value),
            Some(f) if f.upto < self.count && f.whole => Memory::Until(f.upto, f.value),
            // What a later moment found out names snapshots that are not there yet.
            _ => Memory::Nothing,
        }
    }

    /// Remembers all of a path; `whole` if nothing of it is lost.
    pub fn put_name(&self, path: &PathDigest, known: &Arc<Known>, whole: bool) {
        let found = Found { value: known.clone(), upto: self.count, whole };
        self.caches.names.lock().put(*path, found, known.cost());
    }

    /// Remembers all that ever was in a folder.
    pub fn put_union(&self, path: &PathDigest, union: &Arc<Union>, whole: bool) {
        let found = Found { value: union.clone(), upto: self.count, whole };
        self.caches.unions.lock().put(*path, found, union.cost());
    }

    /// Whether some of these snapshots are this host's, and whether some are another's.
    pub fn hosts(&self, snapshots: &Runs) -> (bool, bool) {
        let upto = |i: u32| self.foreign.get(i as usize).copied().unwrap_or_default();
        let (mut own, mut foreign) = (false, false);
        for (first, last) in snapshots.ranges() {
            let n = upto(*last) - first.checked_sub(1).map_or(0, upto);
            foreign |= n > 0;
            own |= n <= last - first;
        }
        (own, foreign)
    }
}
