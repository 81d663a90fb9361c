//! Which number a node has.
//!
//! A regular file or symlink is numbered by a keyed hash over its path within the snapshot, its
//! content, its xattrs and all that stat shows: an unchanged file is one inode with one page cache in
//! all snapshots. Real hard links (nlink above 1) hash the snapshot and the link group instead of
//! the path: one inode for all names, and never one over two snapshots, or `cp -a A B` would link
//! the copies. Folders, devices, pipes and sockets hash snapshot and path: the kernel keeps one name for
//! each folder, and would move it.
//!
//! The key keeps others from preparing collisions.

use super::inodes::Link;
use super::snapshots::Shown;
use crate::clock::Time;
use crate::format::tree::{At, Content, Entry, Node as Kind, Stat};

/// Numbers below this are not given to hashes: FUSE has its own meaning for 0 and 1.
pub(super) const RESERVED: u64 = 1 << 4;

/// A digest of a path within a snapshot.
pub(super) type PathDigest = [u8; 32];

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
    pub const PLACE: u8 = 7;
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

    /// Where a name stands in a listing: behind `.` and `..`, and such that the place behind it is still one for the
    /// kernel (`loff_t`). Of two names of one folder it is the same once in 2^62.
    pub fn place(&self, name: &[u8]) -> u64 {
        let hash = self.hash(&[&[kind::PLACE], name].concat());
        let mut place = [0; 8];
        place.copy_from_slice(&hash[..8]);
        RESERVED + (u64::from_le_bytes(place) >> 2)
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
pub(super) fn usable(ino: u64) -> u64 {
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::format::tree::{Extent, Xattr};
    use crate::id::{ChunkId, SnapshotId};
    use std::sync::Arc;

    pub(in crate::mount) fn shown(id: u8) -> Arc<Shown> {
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

    pub(in crate::mount) fn file(name: &str) -> Entry {
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
}
