//! The view over trees in memory.

use super::attributes::Type;
use super::errno::Errno;
use super::inodes::ROOT;
use super::names::Names;
use super::owners::Owners;
use super::snapshots::Shown;
use super::view::{BRIEFLY, FOREVER, Looked, Setting, View};
use crate::clock::Time;
use crate::event::{Event, Observer};
use crate::fault::{Error, Fault, Result};
use crate::format::pack::Space;
use crate::format::tree::{At, Content, Entry, Extent, Node, Stat, Xattr};
use crate::id::{ChunkId, RepositoryId, SnapshotId};
use crate::tree::{Chunks, FolderWriter, ROOT_NAME, Sink};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

#[derive(Default)]
pub(super) struct Memory {
    pub(super) chunks: Mutex<HashMap<ChunkId, Bytes>>,
    pub(super) reads: Mutex<usize>,
    /// The store cannot be reached.
    pub(super) away: Mutex<bool>,
}

impl Chunks for Memory {
    fn chunk(&self, space: Space, id: &ChunkId) -> Result<Bytes> {
        if *self.away.lock() {
            return Err(Error::new(Fault::Busy, "the store is away"));
        }
        if space == Space::Trees {
            *self.reads.lock() += 1;
        }
        self.chunks.lock().get(id).cloned().ok_or_else(|| Error::damaged("pack is gone"))
    }
}
struct Into<'a>(&'a Memory);
impl Sink for Into<'_> {
    fn put(&mut self, _: Space, bytes: &[u8]) -> Result<ChunkId> {
        let id = ChunkId::of_object(bytes);
        self.0.chunks.lock().insert(id, Bytes::copy_from_slice(bytes));
        Ok(id)
    }
}

#[derive(Default)]
pub(super) struct Heard(pub(super) Mutex<Vec<String>>);
impl Observer for Heard {
    fn event(&self, event: Event<'_>) {
        if let Event::Warning(text) = event {
            self.0.lock().push(text.to_string());
        }
    }
}

pub(super) fn entry(name: &str, node: Node) -> Entry {
    let size = match &node {
        Node::File(c) => c.len().unwrap(),
        _ => 0,
    };
    Entry {
        name: name.into(),
        stat: Stat { mode: 0o640, uid: 7, gid: 8, nlink: 1, size, ..Stat::default() },
        node,
        xattrs: Vec::new(),
        chunker: None,
        unknown: Default::default(),
    }
}

pub(super) fn inline(name: &str, text: &str) -> Entry {
    entry(name, Node::File(Content::Inline(text.into())))
}

pub(super) struct World {
    pub(super) memory: Arc<Memory>,
    pub(super) heard: Arc<Heard>,
    pub(super) view: View,
}

impl World {
    pub(super) fn new(only_host: Option<&str>) -> Self {
        Self::with(only_host, &[])
    }
    pub(super) fn with(only_host: Option<&str>, owners: &[&str]) -> Self {
        let (memory, heard) = (Arc::new(Memory::default()), Arc::new(Heard::default()));
        let setting = Setting {
            names: Names::default(),
            inode_key: [3; 32],
            repository: RepositoryId([4; 32]),
            owner: (1000, 1001),
            only_host: only_host.map(|h| h.as_bytes().to_vec()),
            owners: Owners::new(owners).unwrap(),
            unique_inodes: false,
            store: std::sync::Arc::default(),
            caches: Box::new(Vec::new),
        };
        let view = View::new(memory.clone(), setting, heard.clone());
        Self { memory, heard, view }
    }
    fn chunk(&self, bytes: &[u8]) -> Extent {
        let id = Into(&self.memory).put(Space::Data, bytes).unwrap();
        Extent { len: bytes.len() as u64, at: At::Chunk(id) }
    }
    pub(super) fn folder(&self, entries: &[Entry]) -> ChunkId {
        let mut writer = FolderWriter::new();
        for e in entries {
            writer.push(e, &mut Into(&self.memory)).unwrap();
        }
        writer.finish(&mut Into(&self.memory)).unwrap()
    }
    pub(super) fn snapshot(&self, id: u8, entries: &[Entry]) -> Shown {
        let mut root = entry("root", Node::Folder(self.folder(entries)));
        root.name = ROOT_NAME.to_vec();
        root.stat.mode = 0o755;
        Shown {
            id: SnapshotId([id; 32]),
            root: self.folder(&[root]),
            time: Time { seconds: i64::from(id), nanos: 5 },
            host: b"here".to_vec(),
            tags: Vec::new(),
            bytes: 1000,
            entries: 3,
        }
    }
    /// Looks up a path from the root of the mount; the number.
    pub(super) fn walk(&self, path: &str) -> std::result::Result<u64, Errno> {
        let mut at = ROOT;
        for name in path.split('/') {
            at = match self.view.lookup(at, name.as_bytes())? {
                Looked::There(a, _) => a.ino,
                Looked::Never => return Err(Errno::ENOENT),
            };
        }
        Ok(at)
    }
    pub(super) fn list(&self, ino: u64) -> Vec<(String, u64)> {
        let mut lines = Vec::new();
        let mut offset = 0;
        // Three lines at a time, as the kernel comes in pages.
        loop {
            let mut n = 0;
            let before = lines.len();
            self.view
                .list(ino, offset, true, &mut |l| {
                    n += 1;
                    if n > 3 {
                        return true;
                    }
                    offset = l.next;
                    lines.push((String::from_utf8_lossy(l.name).into_owned(), l.attributes.ino));
                    false
                })
                .unwrap();
            if lines.len() == before {
                return lines;
            }
        }
    }
    pub(super) fn read(&self, ino: u64, offset: u64, len: usize) -> std::result::Result<Vec<u8>, Errno> {
        self.view.read(ino, offset, len, |r| r.map(<[u8]>::to_vec))
    }
}

pub(super) fn names(lines: &[(String, u64)]) -> Vec<&str> {
    lines.iter().map(|(n, _)| n.as_str()).collect()
}

pub(super) const ONE: &str = "1970-01-01T00-00-01Z";
pub(super) const TWO: &str = "1970-01-01T00-00-02Z";

#[test]
fn the_root_lists_snapshots_and_what_lies_beside_and_reads_none_of_them() {
    for only_host in [None, Some("here")] {
        let w = World::new(only_host);
        let shown: Vec<Shown> = (1..=9).map(|i| w.snapshot(i, &[])).collect();
        w.view.refresh(shown);
        let names: Vec<String> = w.list(ROOT).into_iter().map(|(n, _)| n).collect();
        assert_eq!(names.len(), 16);
        assert_eq!(names[..7], [".", "..", "at", "by-host", "by-tag", "latest", "versions"]);
        assert_eq!((names[7].as_str(), names[15].as_str()), (ONE, "1970-01-01T00-00-09Z"));
        assert_eq!(*w.memory.reads.lock(), 0);
    }
    let w = World::new(None);
    w.view.refresh((1..=9).map(|i| w.snapshot(i, &[])).collect());
    let Looked::There(a, ttl) = w.view.lookup(ROOT, b"latest").unwrap() else { panic!() };
    assert_eq!((a.kind, ttl), (Type::Symlink, BRIEFLY));
    assert_eq!(w.view.target(a.ino).unwrap(), b"1970-01-01T00-00-09Z");
    assert_eq!(w.view.lookup(ROOT, b"tomorrow"), Err(Errno::ENOENT));
    assert_eq!(w.view.sizes().bytes, 9000);
    assert_eq!(w.view.attributes(ROOT).unwrap().0.uid, 1000);
}

#[test]
fn the_root_of_a_snapshot_is_slash_with_the_snapshots_time() {
    let w = World::new(None);
    w.view.refresh(vec![w.snapshot(1, &[])]);
    let Looked::There(a, ttl) = w.view.lookup(ROOT, ONE.as_bytes()).unwrap() else { panic!() };
    assert_eq!((a.mode, a.uid, a.kind, ttl), (0o755, 7, Type::Folder, FOREVER));
    assert_eq!(a.mtime, Time { seconds: 1, nanos: 5 });
    assert_eq!(w.view.xattr(a.ino, b"user.pastfs.snapshot").unwrap(), "01".repeat(32).as_bytes());
    assert_eq!(w.view.xattrs(a.ino, true).unwrap(), b"");
    assert_eq!(w.view.lookup(a.ino, b"nothing").unwrap(), Looked::Never);
}

#[test]
fn an_empty_repository_has_no_latest() {
    let w = World::new(None);
    w.view.refresh(Vec::new());
    assert_eq!(w.view.lookup(ROOT, b"latest"), Err(Errno::ENOENT));
    assert_eq!(names(&w.list(ROOT)), [".", "..", "at", "by-host", "by-tag", "versions"]);
    assert_eq!(w.walk("at/latest"), Err(Errno::ENOENT));
    assert_eq!(names(&w.list(w.walk("versions").unwrap())), [".", ".."]);
}

#[test]
fn unchanged_files_share_their_inode_and_folders_do_not() {
    let w = World::new(None);
    let tree = |text: &str| {
        let d = w.folder(&[inline("a", "same"), inline("b", text)]);
        [entry("d", Node::Folder(d))]
    };
    w.view.refresh(vec![w.snapshot(1, &tree("old")), w.snapshot(2, &tree("new"))]);
    let ino = |s: &str, p: &str| w.walk(&format!("{s}/{p}")).unwrap();
    assert_eq!(ino(ONE, "d/a"), ino(TWO, "d/a"));
    assert_ne!(ino(ONE, "d/b"), ino(TWO, "d/b"));
    assert_ne!(ino(ONE, "d"), ino(TWO, "d"));
    assert_eq!(w.read(ino(ONE, "d/b"), 0, 99).unwrap(), b"old");
    assert_eq!(w.read(ino(TWO, "d/b"), 1, 1).unwrap(), b"e");
    assert_eq!(w.read(ino(TWO, "d/b"), 3, 1).unwrap(), b"");
    assert_eq!(w.read(ino(TWO, "d"), 3, 1), Err(Errno::EISDIR));
}

#[test]
fn a_folder_lists_in_pieces_and_decodes_its_page_once() {
    let w = World::new(None);
    let files: Vec<Entry> = (0..500).map(|i| inline(&format!("f{i:04}"), "x")).collect();
    w.view.refresh(vec![w.snapshot(1, &files)]);
    let root = w.walk(ONE).unwrap();
    let before = *w.memory.reads.lock();
    let lines = w.list(root);
    assert_eq!(lines.len(), 502);
    assert_eq!(lines[2].0, "f0000");
    assert_eq!(lines[1], ("..".into(), ROOT));
    let reads = *w.memory.reads.lock() - before;
    assert!(reads < 20, "{reads}");
    // All that was counted is given back, and nothing is left but the roots of the mount and the snapshot.
    for (_, ino) in &lines[2..] {
        w.view.forget(*ino, 1);
    }
    assert_eq!(w.view.nodes.len(), 2);
    assert_eq!(w.view.attributes(lines[2].1), Err(Errno::ESTALE));
}

#[test]
fn every_type_is_shown_as_it_was() {
    let w = World::new(None);
    let mut sparse = entry(
        "h",
        Node::File(Content::Extents(vec![Extent { len: 10_000, at: At::Hole }, w.chunk(&[1; 600])])),
    );
    sparse.stat.nlink = 3;
    sparse.stat.link = Some((0, 1));
    let nodes = vec![
        entry("b", Node::BlockDevice(libc::makedev(8, 1))),
        entry("c", Node::CharDevice(libc::makedev(1, 3))),
        entry("f", Node::Fifo),
        sparse,
        entry("l", Node::Symlink(b"to".to_vec())),
        entry("s", Node::Socket),
        entry("u", Node::Unknown(77)),
    ];
    w.view.refresh(vec![w.snapshot(1, &nodes)]);
    let at = |n: &str| w.view.attributes(w.walk(&format!("{ONE}/{n}")).unwrap()).unwrap().0;
    assert_eq!((at("b").kind, at("b").rdev), (Type::BlockDevice, 0x801));
    assert_eq!((at("c").kind, at("c").rdev), (Type::CharDevice, 0x103));
    assert_eq!(at("f").kind, Type::Fifo);
    assert_eq!(at("s").kind, Type::Socket);
    let h = at("h");
    assert_eq!((h.size, h.blocks, h.nlink, h.uid, h.mode), (10_600, 2, 3, 7, 0o640));
    assert_eq!(w.view.seek(h.ino, 0, libc::SEEK_DATA), Ok(10_000));
    assert_eq!(w.view.seek(h.ino, 0, libc::SEEK_HOLE), Ok(0));
    assert_eq!(w.view.seek(h.ino, 10_100, libc::SEEK_HOLE), Ok(10_600));
    assert_eq!(w.view.seek(h.ino, 10_600, libc::SEEK_DATA), Err(Errno::ENXIO));
    assert_eq!(w.view.target(at("l").ino).unwrap(), b"to");
    assert_eq!(at("l").size, 2);
    assert_eq!((at("u").kind, at("u").mode), (Type::File, 0));
    assert_eq!(w.read(at("u").ino, 0, 10), Err(Errno::EIO));
}

#[test]
fn xattrs_come_back_byte_for_byte_and_missing_ones_are_enodata() {
    let w = World::new(None);
    let big = vec![9; 5000];
    let mut f = inline("f", "x");
    f.xattrs = vec![
        Xattr { name: b"system.posix_acl_access".to_vec(), value: Content::Inline(vec![2, 0, 0, 0]) },
        Xattr { name: b"trusted.t".to_vec(), value: Content::Inline(vec![1]) },
        Xattr { name: b"user.big".to_vec(), value: Content::Extents(vec![w.chunk(&big)]) },
    ];
    w.view.refresh(vec![w.snapshot(1, &[f])]);
    let ino = w.walk(&format!("{ONE}/f")).unwrap();
    assert_eq!(w.view.xattrs(ino, false).unwrap(), b"system.posix_acl_access\0user.big\0");
    let all = b"system.posix_acl_access\0trusted.t\0user.big\0";
    assert_eq!(w.view.xattrs(ino, true).unwrap(), all);
    assert_eq!(w.view.xattr(ino, b"system.posix_acl_access").unwrap(), [2, 0, 0, 0]);
    assert_eq!(w.view.xattr(ino, b"user.big").unwrap(), big);
    assert_eq!(w.view.xattr(ino, b"user.none"), Err(Errno::ENODATA));
    assert_eq!(w.view.xattr(ino, b"user.pastfs.snapshot"), Err(Errno::ENODATA));
    assert_eq!(w.view.xattr(ROOT, b"security.capability"), Err(Errno::ENODATA));
}

#[test]
fn damage_is_eio_and_told_once_and_spoils_nothing_else() {
    let w = World::new(None);
    let lost = Extent { len: 100, at: At::Chunk(ChunkId([66; 32])) };
    let files = [
        entry("bad", Node::File(Content::Extents(vec![lost]))),
        entry("gone", Node::Folder(ChunkId([67; 32]))),
        inline("good", "fine"),
    ];
    let mut broken = w.snapshot(2, &[]);
    broken.root = ChunkId([68; 32]);
    w.view.refresh(vec![w.snapshot(1, &files), broken]);
    let bad = w.walk(&format!("{ONE}/bad")).unwrap();
    assert_eq!(w.read(bad, 0, 100), Err(Errno::EIO));
    assert_eq!(w.read(bad, 0, 100), Err(Errno::EIO));
    let heard = w.heard.0.lock().clone();
    assert_eq!(heard.len(), 1);
    assert!(heard[0].contains("/bad of snapshot 01010101") && heard[0].contains("pack is gone"), "{heard:?}");
    assert_eq!(w.walk(&format!("{ONE}/gone/x")), Err(Errno::EIO));
    let gone = w.walk(&format!("{ONE}/gone")).unwrap();
    assert_eq!(w.view.list(gone, 0, true, &mut |_| false), Err(Errno::EIO));
    assert_eq!(w.read(w.walk(&format!("{ONE}/good")).unwrap(), 0, 9).unwrap(), b"fine");
    assert_eq!(w.walk(TWO), Err(Errno::EIO));
    assert_eq!(w.list(ROOT).len(), 9);
}

#[test]
fn snapshots_come_and_go_while_mounted() {
    let w = World::new(None);
    w.view.refresh(vec![w.snapshot(1, &[inline("f", "1")])]);
    let old = w.walk(&format!("{ONE}/f")).unwrap();
    let before = w.walk("latest").unwrap();
    let changes = w.view.refresh(vec![w.snapshot(2, &[inline("f", "2")])]);
    assert_eq!(changes.unwrap().names.len(), 2);
    assert_eq!(w.walk(ONE), Err(Errno::ENOENT));
    let now = w.walk("latest").unwrap();
    assert_ne!(before, now);
    assert_eq!(w.view.target(before).unwrap(), ONE.as_bytes());
    assert_eq!(w.view.target(now).unwrap(), TWO.as_bytes());
    // What is open goes on.
    assert_eq!(w.read(old, 0, 9).unwrap(), b"1");
}

#[test]
fn other_hosts_snapshots_are_the_owners_alone_where_others_may_look() {
    let w = World::new(Some("elsewhere"));
    w.view.refresh(vec![w.snapshot(1, &[])]);
    let a = w.view.attributes(w.walk(ONE).unwrap()).unwrap().0;
    assert_eq!((a.mode, a.uid, a.gid), (0o700, 1000, 1001));
    let w = World::new(Some("here"));
    w.view.refresh(vec![w.snapshot(1, &[])]);
    assert_eq!(w.view.attributes(w.walk(ONE).unwrap()).unwrap().0.mode, 0o755);
}

#[test]
fn from_the_second_file_on_that_is_read_in_a_folder_those_behind_it_are_pushed() {
    let w = World::new(None);
    let long = Node::File(Content::Extents(vec![w.chunk(&[7; 200 << 10])]));
    let lost = Node::File(Content::Extents(vec![Extent { len: 9, at: At::Chunk(ChunkId([9; 32])) }]));
    let files = [
        inline("a", "1"),
        inline("b", "2"),
        entry("c", long),
        inline("d", "4"),
        inline("f", ""),
        inline("g", "7"),
        entry("h", lost),
        inline("i", "9"),
    ];
    w.view.refresh(vec![w.snapshot(1, &[entry("in", Node::Folder(w.folder(&files)))])]);
    let folder = w.walk(&format!("{ONE}/in")).unwrap();
    let inos: HashMap<String, u64> = w.list(folder).into_iter().collect();
    let pushed = |due| {
        let mut files = Vec::new();
        w.view.push(due, &mut |ino, bytes| {
            files.push((ino, bytes.to_vec()));
            true
        });
        files
    };
    assert!(w.view.due(inos["a"], 1).is_none(), "one file may be all that is wanted");
    assert!(w.view.due(inos["c"], 200 << 10).is_none(), "a long one says nothing");
    let due = w.view.due(inos["b"], 1).unwrap();
    assert!(w.view.due(inos["d"], 1).is_none(), "it is on its way");
    // Up to what cannot be read: who asks for that hears of it, and nothing more is pushed here.
    assert_eq!(pushed(&due), [(inos["d"], b"4".to_vec()), (inos["g"], b"7".to_vec())]);
    let due = w.view.due(inos["i"], 1).unwrap();
    assert_eq!(pushed(&due), []);
    assert_eq!(w.heard.0.lock().len(), 0);
    // What the kernel does not hold is not pushed.
    w.view.refresh(vec![w.snapshot(2, &[inline("a", "1"), inline("b", "2"), inline("c", "3")])]);
    let [a, b] = ["a", "b"].map(|n| w.walk(&format!("{TWO}/{n}")).unwrap());
    assert!(w.view.due(a, 1).is_none());
    let due = w.view.due(b, 1).unwrap();
    assert_eq!(pushed(&due), []);
}

#[test]
fn a_walk_finds_the_next_folders_decoded() {
    let w = World::new(None);
    let folder = |name: &str, entries: &[Entry]| entry(name, Node::Folder(w.folder(entries)));
    let inner = [folder("x", &[inline("1", "1")]), folder("y", &[inline("2", "2")])];
    let top = [folder("a", &inner), folder("b", &[inline("3", "3")]), folder("c", &[])];
    w.view.refresh(vec![w.snapshot(1, &top)]);
    let root = w.walk(ONE).unwrap();
    let a = w.walk(&format!("{ONE}/a")).unwrap();
    w.list(root);
    assert!(w.view.walked(root).is_none(), "one folder may be all that is wanted");
    w.list(a);
    let walked = w.view.walked(a).unwrap();
    w.view.decode_ahead(&walked);
    let reads = *w.memory.reads.lock();
    for path in ["a/x", "a/y", "b", "c"] {
        w.list(w.walk(&format!("{ONE}/{path}")).unwrap());
    }
    assert_eq!(*w.memory.reads.lock(), reads);
    assert_eq!(w.list(w.walk(&format!("{ONE}/b")).unwrap()).len(), 3);
}
