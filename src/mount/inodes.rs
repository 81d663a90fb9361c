//! Which number a node has, and which nodes the kernel holds.
//!
//! A regular file or symlink is numbered by a keyed hash over its path within the snapshot, its
//! content, its xattrs and all that stat shows: an unchanged file is one inode with one page cache in
//! all snapshots. Real hard links (nlink above 1) hash the snapshot and the link group instead of
//! the path: one inode for all names, and never one over two snapshots, or `cp -a A B` would link
//! the copies. Folders, devices, pipes and sockets hash snapshot and path: the kernel keeps one name for
//! each folder, and would move it.
//!
//! The key keeps others from preparing collisions; where two things meet still, the later one takes
//! the next free number and, as its generation, how far it moved.

use super::snapshots::Shown;
use crate::clock::Time;
use crate::format::tree::{At, Content, Entry, Node as Kind, Stat};
use crate::id::ChunkId;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// The root of the mount, as FUSE has it.
pub(super) const ROOT: u64 = 1;
/// Numbers below this are not given to hashes: FUSE has its own meaning for 0 and 1.
const RESERVED: u64 = 1 << 4;

/// A digest of a path within a snapshot.
pub(super) type PathDigest = [u8; 32];

/// Something that the kernel knows by number. Small on purpose: a million of them may be held. What else is
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

/// A keyed hash: the first 8 bytes are the number, the next 16 tell things apart.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint {
    pub ino: u64,
    pub tag: u128,
}

/// Hashes things into numbers.
pub(super) struct Numbering {
    key: [u8; 32],
    /// Files of two snapshots are never one.
    unique: bool,
    /// Bits of the hash that count; 64 but in tests of collisions.
    mask: u64,
}

/// Each kind of hash begins with its own byte, so that none can be taken for another.
mod kind {
    pub const PATH: u8 = 0;
    pub const FOLDER: u8 = 1;
    pub const FILE: u8 = 2;
    pub const GROUP: u8 = 3;
    pub const MADE: u8 = 4;
    pub const LINK: u8 = 5;
    pub const VERSIONS: u8 = 6;
}

impl Numbering {
    /// `unique`: no file of a snapshot shares its number with one of another.
    pub fn new(key: [u8; 32], unique: bool) -> Self {
        Self { key, unique, mask: u64::MAX }
    }

    /// Few numbers, so that collisions are certain.
    #[cfg(test)]
    pub fn crowded(bits: u32) -> Self {
        Self { key: [0; 32], unique: false, mask: (1 << bits) - 1 }
    }

    fn hash(&self, bytes: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.key, bytes).as_bytes()
    }

    /// The digest of `/`.
    pub fn root_path(&self) -> PathDigest {
        self.hash(&[kind::PATH])
    }

    /// The digest of the path of `name` in the folder with the digest `folder`.
    pub fn path(&self, folder: &PathDigest, name: &[u8]) -> PathDigest {
        self.hash(&[&[kind::PATH], folder.as_slice(), name].concat())
    }

    /// The number of what is at `path` in a snapshot, and of nothing else.
    pub fn single(&self, snapshot: &Shown, path: &PathDigest) -> Fingerprint {
        self.fingerprint(&[&[kind::FOLDER], snapshot.id.0.as_slice(), path].concat())
    }

    /// The number of a folder of the mount's own, at `path` in it.
    pub fn made(&self, path: &[u8]) -> Fingerprint {
        self.fingerprint(&[&[kind::MADE], path].concat())
    }

    /// The number of a symlink of the mount's own. The kernel keeps targets, so another target is another
    /// number.
    pub fn link(&self, path: &[u8], link: &Link) -> Fingerprint {
        let mut bytes = vec![kind::LINK];
        text_into(path, &mut bytes);
        text_into(&link.target, &mut bytes);
        time_into(link.time, &mut bytes);
        self.fingerprint(&bytes)
    }

    /// The number of the folder that shows all versions of a path.
    pub fn versions(&self, path: &PathDigest) -> Fingerprint {
        self.fingerprint(&[&[kind::VERSIONS], path.as_slice()].concat())
    }

    /// The number of an entry in the folder with the digest `folder`, shown as owned by `owner`.
    pub fn entry(
        &self,
        snapshot: &Shown,
        folder: &PathDigest,
        entry: &Entry,
        owner: (u32, u32),
    ) -> Fingerprint {
        // Pipes, sockets and devices have state besides what a snapshot says, so only their own hard links
        // share.
        let linked = entry.stat.nlink > 1 && !matches!(entry.node, Kind::Folder(_));
        let shared = matches!(entry.node, Kind::File(_) | Kind::Symlink(_)) && !self.unique;
        if !linked && !shared {
            return self.single(snapshot, &self.path(folder, &entry.name));
        }
        let mut bytes = Vec::with_capacity(256);
        if entry.stat.nlink > 1 {
            bytes.push(kind::GROUP);
            bytes.extend_from_slice(&snapshot.id.0);
            match entry.stat.link {
                Some((system, inode)) => {
                    bytes.push(1);
                    bytes.extend_from_slice(&system.to_le_bytes());
                    bytes.extend_from_slice(&inode.to_le_bytes());
                }
                None => {
                    bytes.push(0);
                    bytes.extend_from_slice(&self.path(folder, &entry.name));
                }
            }
        } else {
            bytes.push(kind::FILE);
            bytes.extend_from_slice(&self.path(folder, &entry.name));
        }
        stat_into(&entry.stat, owner, &mut bytes);
        match &entry.node {
            Kind::File(content) => content_into(content, &mut bytes),
            Kind::Symlink(target) => {
                bytes.push(9);
                text_into(target, &mut bytes);
            }
            Kind::CharDevice(n) => {
                bytes.push(10);
                bytes.extend_from_slice(&n.to_le_bytes());
            }
            Kind::BlockDevice(n) => {
                bytes.push(11);
                bytes.extend_from_slice(&n.to_le_bytes());
            }
            Kind::Fifo => bytes.push(12),
            Kind::Socket => bytes.push(13),
            _ => {}
        }
        for x in &entry.xattrs {
            text_into(&x.name, &mut bytes);
            content_into(&x.value, &mut bytes);
        }
        self.fingerprint(&bytes)
    }

    fn fingerprint(&self, bytes: &[u8]) -> Fingerprint {
        let hash = self.hash(bytes);
        let (mut ino, mut tag) = ([0; 8], [0; 16]);
        ino.copy_from_slice(&hash[..8]);
        tag.copy_from_slice(&hash[8..24]);
        Fingerprint { ino: usable(u64::from_le_bytes(ino) & self.mask), tag: u128::from_le_bytes(tag) }
    }
}

/// Moves a number out of the reserved range.
fn usable(ino: u64) -> u64 {
    if ino < RESERVED { ino + RESERVED } else { ino }
}

fn text_into(text: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text);
}

fn time_into(t: Time, out: &mut Vec<u8>) {
    out.extend_from_slice(&t.seconds.to_le_bytes());
    out.extend_from_slice(&t.nanos.to_le_bytes());
}

/// All that stat shows, and nothing else: owner names and the fresh mark may differ where the file
/// is the same.
fn stat_into(s: &Stat, owner: (u32, u32), out: &mut Vec<u8>) {
    for n in [s.mode, owner.0, owner.1] {
        out.extend_from_slice(&n.to_le_bytes());
    }
    time_into(s.mtime, out);
    time_into(s.ctime, out);
    out.extend_from_slice(&s.size.to_le_bytes());
    out.extend_from_slice(&s.nlink.to_le_bytes());
}

fn content_into(content: &Content, out: &mut Vec<u8>) {
    match content {
        Content::Inline(bytes) => {
            out.push(1);
            text_into(bytes, out);
        }
        Content::Extents(extents) => {
            out.push(2);
            out.extend_from_slice(&(extents.len() as u64).to_le_bytes());
            for e in extents {
                out.extend_from_slice(&e.len.to_le_bytes());
                match &e.at {
                    At::Hole => out.push(0),
                    At::Chunk(id) => {
                        out.push(1);
                        out.extend_from_slice(&id.0);
                    }
                    At::List(id, level) => {
                        out.extend_from_slice(&[2, *level]);
                        out.extend_from_slice(&id.0);
                    }
                }
            }
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
    use super::*;
    use crate::format::tree::{Extent, Xattr};
    use crate::id::SnapshotId;

    fn shown(id: u8) -> Arc<Shown> {
        Arc::new(Shown {
            id: SnapshotId([id; 32]),
            root: ChunkId([0; 32]),
            time: Time::default(),
            host: Vec::new(),
            tags: Vec::new(),
            bytes: 0,
            entries: 0,
        })
    }

    fn file(name: &str) -> Entry {
        Entry {
            name: name.into(),
            stat: Stat { nlink: 1, size: 5, ..Stat::default() },
            node: Kind::File(Content::Extents(vec![Extent { len: 5, at: At::Chunk(ChunkId([1; 32])) }])),
            xattrs: Vec::new(),
            chunker: None,
            unknown: Default::default(),
        }
    }

    fn ino(n: &Numbering, snapshot: u8, e: &Entry) -> u64 {
        n.entry(&shown(snapshot), &n.root_path(), e, (e.stat.uid, e.stat.gid)).ino
    }

    #[test]
    fn an_unchanged_file_is_one_inode_in_all_snapshots_and_any_change_makes_another() {
        let n = Numbering::new([7; 32], false);
        let a = file("a");
        assert_eq!(ino(&n, 1, &a), ino(&n, 2, &a));
        let mut fresh = a.clone();
        fresh.stat.fresh = true;
        fresh.stat.user = b"root".to_vec();
        assert_eq!(ino(&n, 1, &a), ino(&n, 1, &fresh));
        let mut others = vec![file("b")];
        others.resize(6, a.clone());
        others[1].stat.mode = 0o600;
        others[2].stat.ctime.nanos = 1;
        others[3].node = Kind::File(Content::Inline(b"12345".to_vec()));
        others[4].xattrs = vec![Xattr { name: b"user.a".to_vec(), value: Content::Inline(vec![]) }];
        others[5].node = Kind::Symlink(b"12345".to_vec());
        for o in &others {
            assert_ne!(ino(&n, 1, &a), ino(&n, 1, o), "{o:?}");
        }
        assert_ne!(ino(&n, 1, &a), ino(&Numbering::new([8; 32], false), 1, &a));
    }

    #[test]
    fn with_unique_inodes_no_file_is_shared_but_by_its_hard_links() {
        let n = Numbering::new([7; 32], true);
        let mut a = file("a");
        assert_ne!(ino(&n, 1, &a), ino(&n, 2, &a));
        assert_eq!(ino(&n, 1, &a), ino(&n, 1, &a));
        a.stat.nlink = 2;
        a.stat.link = Some((0, 42));
        let b = Entry { name: b"b".to_vec(), ..a.clone() };
        assert_eq!(ino(&n, 1, &a), ino(&n, 1, &b));
        assert_ne!(ino(&n, 1, &a), ino(&n, 2, &a));
    }

    #[test]
    fn a_file_that_is_shown_as_anothers_is_another_file() {
        let n = Numbering::new([7; 32], false);
        let of = |owner| n.entry(&shown(1), &n.root_path(), &file("a"), owner).ino;
        assert_eq!(of((1, 1)), of((1, 1)));
        assert_ne!(of((1, 1)), of((2, 1)));
        assert_ne!(of((1, 1)), of((1, 2)));
    }

    #[test]
    fn a_symlink_with_another_target_is_another_node() {
        let n = Numbering::new([7; 32], false);
        let link = |target: &str| Link { target: target.into(), time: Time::default() };
        assert_ne!(n.link(b"/latest", &link("a")).ino, n.link(b"/latest", &link("b")).ino);
        assert_ne!(n.link(b"/latest", &link("a")).ino, n.link(b"/at/now", &link("a")).ino);
        assert_ne!(n.made(b"/at").ino, n.made(b"/by-host").ino);
    }

    #[test]
    fn hard_links_share_an_inode_within_a_snapshot_only() {
        let n = Numbering::new([7; 32], false);
        let (mut a, mut b) = (file("a"), file("b"));
        for e in [&mut a, &mut b] {
            e.stat.nlink = 2;
            e.stat.link = Some((0, 42));
        }
        for node in [None, Some(Kind::Fifo), Some(Kind::Socket), Some(Kind::BlockDevice(7))] {
            for e in [&mut a, &mut b] {
                e.node = node.clone().unwrap_or(e.node.clone());
            }
            assert_eq!(ino(&n, 1, &a), ino(&n, 1, &b));
            assert_ne!(ino(&n, 1, &a), ino(&n, 2, &a));
        }
    }

    #[test]
    fn folders_and_pipes_are_never_shared() {
        let n = Numbering::new([7; 32], false);
        for node in [Kind::Folder(ChunkId([3; 32])), Kind::Fifo, Kind::CharDevice(1)] {
            let e = Entry { node, ..file("d") };
            assert_ne!(ino(&n, 1, &e), ino(&n, 2, &e));
        }
    }

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
