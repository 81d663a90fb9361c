//! The nodes that the kernel holds, each under its number. Where two things have one, the later one takes the next free
//! number and, as its generation, how far it moved.

use super::numbering::{Fingerprint, PathDigest, usable};
use super::snapshots::Shown;
use crate::clock::Time;
use crate::id::ChunkId;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// The root of the mount, as FUSE has it.
pub(super) const ROOT: u64 = 1;

/// Something that the kernel knows by number. Small on purpose: half a million of them may be held. What else is
/// known of it is looked up in its folder again, by name.
pub(super) struct Node {
    /// Its number.
    pub ino: u64,
    /// How far it lies from where its hash pointed.
    pub generation: u64,
    /// The folder in which it was seen; `None` for the root of the mount, and for the root of a snapshot.
    pub parent: Option<Arc<Node>>,
    /// Its name there; that of the snapshot's folder for its root.
    pub name: Box<[u8]>,
    /// What it is.
    pub what: What,
}

/// What a node is.
pub(super) enum What {
    /// In the snapshot in which it was seen last, with what only folders have.
    Saved(Arc<Shown>, Option<Box<Folder>>),
    /// A folder of the mount's own, in no snapshot.
    Made(Made),
    /// A symlink of the mount's own. It never changes: with another target it is another node.
    Link(Box<Link>),
}

/// What is known of a folder in a snapshot.
pub(super) struct Folder {
    /// Root page of its tree.
    pub tree: ChunkId,
    /// Digest of its path, from which those of its entries follow.
    pub path: PathDigest,
}

/// A folder of the mount's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// The root of the mount.
    Root,
    /// `at`, whose names are times.
    At,
    /// `by-host` or `by-tag`.
    By(Group),
    /// One host's or tag's, called as the node.
    Of(Group),
    /// `versions`, or what is below: the digest of the path that it shows.
    Versions(Box<PathDigest>),
}

/// By what snapshots are grouped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub(super) enum Group {
    Host,
    Tag,
}

/// A symlink of the mount's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// Where it points to.
    pub target: Vec<u8>,
    /// Its times: those of the snapshot that it leads to.
    pub time: Time,
}

impl Node {
    /// The root of the mount.
    pub fn root() -> Self {
        Self { ino: ROOT, generation: 0, parent: None, name: Box::default(), what: What::Made(Made::Root) }
    }

    /// Absolute path, within the snapshot or, for what is in none, within the mount.
    pub fn path(&self) -> Vec<u8> {
        let mut names: Vec<&[u8]> = Vec::new();
        let mut at = self;
        while let Some(parent) = &at.parent {
            names.push(&at.name);
            at = parent;
        }
        names.iter().rev().fold(Vec::new(), |mut path, n| {
            path.push(b'/');
            path.extend_from_slice(n);
            path
        })
    }

    /// Its snapshot, if it is in one.
    pub fn snapshot(&self) -> Option<&Arc<Shown>> {
        match &self.what {
            What::Saved(shown, _) => Some(shown),
            _ => None,
        }
    }

    /// Its snapshot and what is known of it, if it is a folder in one.
    pub fn inside(&self) -> Option<(&Arc<Shown>, &Folder)> {
        match &self.what {
            What::Saved(shown, Some(folder)) => Some((shown, folder)),
            _ => None,
        }
    }

    /// Whether a process can stand in it.
    pub fn is_folder(&self) -> bool {
        match &self.what {
            What::Saved(_, folder) => folder.is_some(),
            What::Made(_) => true,
            What::Link(_) => false,
        }
    }
}

impl Drop for Node {
    /// Ancestors that nobody else holds go one after the other: dropped within each other, some ten thousand folders deep
    /// would end the stack.
    fn drop(&mut self) {
        let mut at = self.parent.take();
        while let Some(mut parent) = at.and_then(Arc::into_inner) {
            at = parent.parent.take();
        }
    }
}

/// The nodes that the kernel holds.
pub(super) struct Nodes {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    slots: HashMap<u64, Slot>,
    /// Numbers in the order in which they came, with their serial; those that were forgotten since are
    /// skipped.
    order: VecDeque<(u64, u64)>,
    serial: u64,
    /// The folders of the mount's own.
    made: HashSet<u64>,
}

struct Slot {
    node: Arc<Node>,
    tag: u128,
    /// How many times the kernel was told of it, less what it gave back.
    lookups: u64,
    serial: u64,
}

impl Nodes {
    /// The root of the mount is always held.
    pub fn new() -> Self {
        let mut table = Table { made: HashSet::from([ROOT]), ..Table::default() };
        table.slots.insert(ROOT, Slot { node: Arc::new(Node::root()), tag: 0, lookups: 1, serial: 0 });
        Self { table: Mutex::new(table) }
    }

    /// The node with this number.
    pub fn get(&self, ino: u64) -> Option<Arc<Node>> {
        self.table.lock().slots.get(&ino).map(|s| s.node.clone())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.table.lock().slots.len()
    }

    /// The kernel is told of a thing once more. `make` is given number and generation. A thing that is known
    /// already is remembered where it was seen last: that snapshot is the likelier one to stay.
    pub fn acquire(&self, f: Fingerprint, make: impl FnOnce(u64, u64) -> Node) -> Arc<Node> {
        let table = &mut *self.table.lock();
        let mut ino = f.ino;
        let mut moved = 0;
        loop {
            match table.slots.get_mut(&ino) {
                Some(slot) if slot.tag == f.tag => {
                    slot.lookups += 1;
                    if let Some(before) = slot.node.snapshot() {
                        let node = make(ino, moved);
                        if node.snapshot().is_some_and(|now| !Arc::ptr_eq(now, before)) {
                            slot.node = Arc::new(node);
                        }
                    }
                    return slot.node.clone();
                }
                Some(_) => {
                    ino = usable(ino.wrapping_add(1));
                    moved += 1;
                }
                None => break,
            }
        }
        let node = Arc::new(make(ino, moved));
        table.serial += 1;
        let serial = table.serial;
        table.order.push_back((ino, serial));
        if matches!(node.what, What::Made(_)) {
            table.made.insert(ino);
        }
        table.slots.insert(ino, Slot { node: node.clone(), tag: f.tag, lookups: 1, serial });
        node
    }

    /// A thing that is held was seen at another place: it is remembered there. Whether it is the same thing.
    pub fn move_to(&self, ino: u64, f: Fingerprint, make: impl FnOnce() -> Node) -> bool {
        match self.table.lock().slots.get_mut(&ino) {
            Some(slot) if slot.tag == f.tag => {
                slot.node = Arc::new(make());
                true
            }
            _ => false,
        }
    }

    /// The number that a thing has, or would get.
    pub fn number(&self, f: Fingerprint) -> u64 {
        let table = self.table.lock();
        let mut ino = f.ino;
        while table.slots.get(&ino).is_some_and(|s| s.tag != f.tag) {
            ino = usable(ino.wrapping_add(1));
        }
        ino
    }

    /// The kernel gives back `n` of its references. Whether that was the last.
    pub fn forget(&self, ino: u64, n: u64) -> bool {
        if ino == ROOT {
            return false;
        }
        let table = &mut *self.table.lock();
        let Some(slot) = table.slots.get_mut(&ino) else { return false };
        slot.lookups = slot.lookups.saturating_sub(n);
        if slot.lookups > 0 {
            return false;
        }
        // The parent's reference count may go to zero with it; nothing there needs the lock.
        table.slots.remove(&ino);
        table.made.remove(&ino);
        if table.order.len() > 2 * table.slots.len() + 1024 {
            let slots = &table.slots;
            table.order.retain(|(ino, serial)| slots.get(ino).is_some_and(|s| s.serial == *serial));
            table.order.shrink_to_fit();
            table.slots.shrink_to(table.slots.len() * 2);
        }
        true
    }

    /// The folders of the mount's own that the kernel holds.
    pub fn made(&self) -> Vec<u64> {
        self.table.lock().made.iter().copied().collect()
    }

    /// Up to `n` of the nodes that came first. They go to the end of the order, so that the next call gives others.
    pub fn oldest(&self, n: usize) -> Vec<Arc<Node>> {
        let table = &mut *self.table.lock();
        let mut found = Vec::new();
        for _ in 0..table.order.len() {
            if found.len() == n {
                break;
            }
            let Some((ino, serial)) = table.order.pop_front() else { break };
            if let Some(slot) = table.slots.get(&ino).filter(|s| s.serial == serial) {
                found.push(slot.node.clone());
                table.order.push_back((ino, serial));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::super::numbering::tests::{file, shown};
    use super::super::numbering::{Numbering, RESERVED};
    use super::*;

    fn make(ino: u64, generation: u64) -> Node {
        Node { ino, generation, parent: None, name: Box::default(), what: What::Saved(shown(1), None) }
    }

    #[test]
    fn what_collides_takes_the_next_free_number_and_keeps_it() {
        let n = Numbering::crowded(1);
        let nodes = Nodes::new();
        let names: Vec<String> = (0..20).map(|i| i.to_string()).collect();
        let prints: Vec<_> =
            names.iter().map(|x| n.entry(&shown(1), &n.root_path(), &file(x), (0, 0))).collect();
        let given: Vec<u64> = prints.iter().map(|f| nodes.acquire(*f, make).ino).collect();
        let mut distinct = given.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), 20);
        assert!(given.iter().all(|i| *i >= RESERVED));
        for (f, ino) in prints.iter().zip(&given) {
            assert_eq!(nodes.number(*f), *ino);
            let again = nodes.acquire(*f, make);
            assert_eq!(again.ino, *ino);
            assert_eq!(again.generation, ino - f.ino);
        }
    }

    #[test]
    fn a_node_lives_as_long_as_the_kernel_counts_it() {
        let nodes = Nodes::new();
        let f = Fingerprint { ino: RESERVED + 5, tag: 1 };
        let ino = nodes.acquire(f, make).ino;
        nodes.acquire(f, make);
        assert!(!nodes.forget(ino, 1));
        assert!(nodes.get(ino).is_some());
        assert!(nodes.forget(ino, 1));
        assert!(nodes.get(ino).is_none());
        assert!(!nodes.forget(ino, 1));
    }

    #[test]
    fn a_chain_of_a_million_folders_is_given_back_without_a_deep_stack() {
        let mut at = make(RESERVED, 0);
        for ino in 0..1_000_000 {
            let mut below = make(RESERVED + ino, 0);
            below.parent = Some(Arc::new(at));
            at = below;
        }
        drop(at);
    }

    #[test]
    fn the_oldest_are_given_back_first_and_none_twice() {
        let nodes = Nodes::new();
        for i in 0..6u64 {
            nodes.acquire(Fingerprint { ino: RESERVED + i, tag: 0 }, make);
        }
        nodes.forget(RESERVED + 2, 1);
        let oldest = |n| nodes.oldest(n).iter().map(|n| n.ino - RESERVED).collect::<Vec<_>>();
        assert_eq!(oldest(2), [0, 1]);
        assert_eq!(oldest(2), [3, 4]);
        // What is still held comes again, behind the others.
        assert_eq!(oldest(9), [5, 0, 1, 3, 4]);
    }
}
