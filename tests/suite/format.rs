//! The stored objects: fixed encodings, values that go there and back, and whatever bytes a store may
//! give instead.

use pastfs::clock::Time;
use pastfs::fault::Fault;
use pastfs::format::cbor::{MapWriter, Reader, Unknown, Writer};
use pastfs::format::config::Config;
use pastfs::format::object::{Envelope, Kind, Signed, head};
use pastfs::format::pack::{Frame, Header, PackEntry, Recipient, Space, Table, decode_trailer, trailer};
use pastfs::format::segment::{Retirement, Segment, Signature, Vouched};
use pastfs::format::slot::{Certificate, Label, Secrets, Slot, Wrap};
use pastfs::format::snapshot::{Action, LEASE_NAMES_MAX, Lease, Manifest, Note, Private, Totals, Unread};
use pastfs::format::tree::{At, Content, Entry, Extent, ExtentPage, Node, Page, PageRef, Stat, Xattr};
use pastfs::id::{ChunkId, NoteId, PackId, RepositoryId, SegmentId, SessionId, SnapshotId, hex};
use std::fmt::Write as _;

#[path = "../../fuzz/targets.rs"]
mod targets;

/// Numbers that look random and are the same each time (SplitMix64).
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    /// 0 to `n` - 1.
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn chance(&mut self) -> bool {
        self.below(2) == 0
    }
    /// All magnitudes are as likely.
    fn number(&mut self) -> u64 {
        self.next() >> self.below(64)
    }
    fn short(&mut self) -> u32 {
        (self.next() >> 32) as u32 >> self.below(32)
    }
    fn signed(&mut self) -> i64 {
        let n = self.number() as i64;
        if self.chance() { n } else { !n }
    }
    fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next() as u8)
    }
    fn bytes(&mut self, max: u64) -> Vec<u8> {
        (0..self.below(max + 1)).map(|_| self.next() as u8).collect()
    }
    fn name(&mut self) -> Vec<u8> {
        let mut name = self.bytes(40);
        name.retain(|b| *b != 0 && *b != b'/');
        name.push(b'n');
        name
    }
    fn time(&mut self) -> Time {
        let nanos = if self.chance() { 0 } else { self.below(1_000_000_000) as u32 };
        Time { seconds: self.signed(), nanos }
    }
    fn many<T>(&mut self, max: u64, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(max + 1)).map(|_| one(self)).collect()
    }
    fn maybe<T>(&mut self, one: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.chance() { Some(one(self)) } else { None }
    }
    fn texts(&mut self) -> Vec<Vec<u8>> {
        self.many(3, |d| d.bytes(20))
    }
    fn item(&mut self, w: &mut Writer, depth: u64) {
        match self.below(if depth == 0 { 4 } else { 6 }) {
            0 => drop(w.unsigned(self.number())),
            1 => drop(w.integer(self.signed())),
            2 => drop(w.bytes(&self.bytes(30))),
            3 => drop(w.boolean(self.chance())),
            4 => {
                let n = self.below(4);
                w.array(n as usize);
                (0..n).for_each(|_| self.item(w, depth - 1));
            }
            _ => {
                let mut m = MapWriter::new();
                let mut key = 0;
                for _ in 0..self.below(4) {
                    key += 1 + self.below(40);
                    self.item(m.field(key), depth - 1);
                }
                m.finish_into(w);
            }
        }
    }
    fn unknown(&mut self, above: u64) -> Unknown {
        let mut key = above;
        let mut fields = Vec::new();
        for _ in 0..self.below(3) {
            key += 1 + self.below(300);
            let mut w = Writer::new();
            self.item(&mut w, 3);
            fields.push((key, w.finish()));
        }
        Unknown(fields)
    }
    fn extent(&mut self, level: Option<u8>) -> Extent {
        let kind = match level {
            None => self.below(3),
            Some(1) => self.below(2),
            Some(_) => 2,
        };
        match kind {
            0 => Extent { len: 1 + (self.number() >> 16), at: At::Hole },
            1 => Extent { len: 1 + self.below(8 << 20), at: At::Chunk(ChunkId(self.array())) },
            _ => {
                let level = level.map_or_else(|| 1 + self.below(16) as u8, |l| l - 1);
                Extent { len: 1 + (self.number() >> 16), at: At::List(ChunkId(self.array()), level) }
            }
        }
    }
    fn content(&mut self, holes: bool) -> Content {
        if self.chance() {
            return Content::Inline(self.bytes(96));
        }
        let mut extents = self.many(5, |d| d.extent(None));
        extents.retain(|e| holes || e.at != At::Hole);
        if extents.is_empty() { Content::Inline(Vec::new()) } else { Content::Extents(extents) }
    }
    fn xattrs(&mut self) -> Vec<Xattr> {
        let mut names = self.many(4, Self::name);
        names.sort();
        names.dedup();
        names.into_iter().map(|name| Xattr { name, value: self.content(false) }).collect()
    }
    fn entry(&mut self) -> Entry {
        let mut size = self.number();
        let node = match self.below(9) {
            0 => Node::Folder(ChunkId(self.array())),
            1 => Node::Symlink(self.bytes(80)),
            2 => Node::CharDevice(self.number()),
            3 => Node::BlockDevice(self.number()),
            4 => Node::Fifo,
            5 => Node::Socket,
            6 => Node::Unknown(8 + self.number() / 2),
            _ => {
                let content = self.content(true);
                size = content.len().unwrap();
                Node::File(content)
            }
        };
        let typed = matches!(node, Node::Unknown(_));
        Entry {
            name: self.name(),
            stat: Stat {
                mode: self.below(0o10000) as u32,
                uid: self.short(),
                gid: self.short(),
                user: self.bytes(12),
                group: self.bytes(12),
                mtime: self.time(),
                ctime: self.time(),
                size,
                nlink: self.below(4),
                link: self.maybe(|d| (d.short(), d.number())),
                fresh: self.chance(),
            },
            node,
            xattrs: self.xattrs(),
            chunker: if typed { None } else { self.maybe(|d| (d.number(), d.bytes(64))) },
            unknown: self.unknown(if typed { 16 } else { 21 }),
        }
    }
    fn frame(&mut self) -> Frame {
        let chunks = (0..1 + self.below(6)).map(|_| 1 + self.below(1 << 20) as u32).collect();
        Frame { sealed_len: 18 + self.below(8 << 20) as u32 - 1, chunks }
    }
    fn header(&mut self) -> Header {
        Header {
            cipher: 1 + self.below(2) as u8,
            space: if self.chance() { Space::Data } else { Space::Trees },
            epoch: self.short(),
            recipients: (0..1 + self.below(8))
                .map(|_| Recipient { hint: self.array(), sealed: self.array() })
                .collect(),
        }
    }
    fn vouched(&mut self, certificates: usize) -> Vec<Vouched> {
        if certificates == 0 {
            return Vec::new();
        }
        self.many(4, |d| Vouched {
            body: d.bytes(60),
            signatures: (0..1 + d.below(3))
                .map(|_| Signature { author: d.below(certificates as u64) as usize, signature: d.array() })
                .collect(),
        })
    }
}

fn encoded(entry: &Entry) -> Vec<u8> {
    let mut w = Writer::new();
    entry.encode_into(&mut w);
    w.finish()
}

fn decode_entry(bytes: &[u8]) -> pastfs::fault::Result<Entry> {
    let mut r = Reader::new(bytes);
    let entry = Entry::decode(&mut r)?;
    r.end()?;
    Ok(entry)
}

/// `value` goes there and back; the bytes.
macro_rules! there_and_back {
    ($type:ty, $value:expr) => {{
        let value: $type = $value;
        let bytes = value.encode();
        assert_eq!(<$type>::decode(&bytes).unwrap(), value);
        bytes
    }};
}

#[test]
fn every_value_comes_back_from_its_encoding() {
    for seed in 0..2000 {
        let d = &mut Draw(seed);
        let entry = d.entry();
        assert_eq!(decode_entry(&encoded(&entry)).unwrap(), entry);
        let mut entries = d.many(8, Draw::entry);
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries.dedup_by(|a, b| a.name == b.name);
        there_and_back!(Page, Page::Leaf(entries));
        let mut pages = d.many(20, |d| PageRef { first: d.name(), id: ChunkId(d.array()) });
        pages.push(PageRef { first: vec![0xff; 50], id: ChunkId(d.array()) });
        pages.sort_by(|a, b| a.first.cmp(&b.first));
        pages.dedup_by(|a, b| a.first == b.first);
        there_and_back!(Page, Page::Node(1 + d.below(16) as u8, pages));
        let level = 1 + d.below(16) as u8;
        let extents = (0..1 + d.below(40)).map(|_| d.extent(Some(level))).collect();
        there_and_back!(ExtentPage, ExtentPage { level, extents });
        there_and_back!(
            Config,
            Config {
                repository: RepositoryId(d.array()),
                number: d.number(),
                created: d.signed(),
                cipher: d.next() as u8,
                chunker: d.number(),
                chunker_parameters: d.bytes(64),
                epoch: d.short(),
                features: std::array::from_fn(|_| d.texts()),
                ended: d.many(3, Draw::array),
                earlier: d.many(3, |d| d.bytes(200)),
                unknown: d.unknown(9),
            }
        );
        let wrap = match d.chance() {
            true => Wrap::Password { m_kib: d.short(), t: d.short(), p: d.short() },
            false => Wrap::KeyFile,
        };
        there_and_back!(
            Slot,
            Slot {
                repository: RepositoryId(d.array()),
                wrap,
                salt: d.array(),
                role: 1 + d.below(3) as u8,
                commitment: d.array(),
                epoch: d.short(),
                secrets: d.bytes(300),
                label: d.bytes(100),
            }
        );
        let mut secrets = Secrets::default();
        secrets.root = d.maybe(Draw::array);
        secrets.id_secret = d.array();
        secrets.index_key = d.array();
        secrets.signing_seed = d.array();
        secrets.certificate = d.bytes(200);
        secrets.reading_secret = d.maybe(Draw::array);
        secrets.reading_public = d.maybe(Draw::array);
        secrets.authority = d.maybe(Draw::array);
        there_and_back!(Secrets, secrets);
        let (text, user, host) = (d.bytes(30), d.bytes(30), d.bytes(30));
        there_and_back!(Label, Label { text, user, host, created: d.signed(), unknown: d.unknown(4) });
        there_and_back!(
            Certificate,
            Certificate {
                role: 1 + d.below(3) as u8,
                public: d.array(),
                host: d.bytes(30),
                created: d.signed(),
                unknown: d.unknown(4),
            }
        );
        let (body, certificate) = (d.bytes(100), d.bytes(100));
        there_and_back!(Signed, Signed { body, certificate, signature: d.array() });
        let header = d.header();
        assert_eq!(Header::decode(&header.encode()).unwrap(), (header.clone(), header.encode().len()));
        let frames = d.many(6, Draw::frame);
        there_and_back!(Table, Table(frames.clone()));
        let sealed: u64 = frames.iter().map(|f| u64::from(f.sealed_len)).sum();
        there_and_back!(
            PackEntry,
            PackEntry {
                pack: PackId(d.array()),
                size: 1000 + sealed + d.below(1 << 20),
                header: header.encode(),
                ids: frames.iter().flat_map(|f| &f.chunks).map(|_| ChunkId(d.array())).collect(),
                frames,
                unknown: d.unknown(6),
            }
        );
        let certificates = d.many(3, |d| [d.bytes(50), vec![1]].concat());
        there_and_back!(
            Segment,
            Segment {
                created: d.signed(),
                session: d.maybe(|d| SessionId(d.array())),
                entries: d.vouched(certificates.len()),
                retirements: d.vouched(certificates.len()),
                certificates,
                replaces: d.many(4, |d| SegmentId(d.array())),
                unknown: d.unknown(6),
            }
        );
        there_and_back!(
            Retirement,
            Retirement {
                pack: PackId(d.array()),
                sweep: SessionId(d.array()),
                retired: d.signed(),
                deleted: d.maybe(Draw::signed),
                unknown: d.unknown(4),
            }
        );
        let totals = Totals {
            files: d.number(),
            folders: d.number(),
            others: d.number(),
            bytes: d.number(),
            read_files: d.number(),
            read_bytes: d.number(),
            new_bytes: d.number(),
            stored_bytes: d.number(),
        };
        there_and_back!(
            Manifest,
            Manifest {
                time: d.time(),
                host: d.bytes(30),
                tags: d.texts(),
                root: ChunkId(d.array()),
                session: SessionId(d.array()),
                parent: d.maybe(|d| SnapshotId(d.array())),
                totals,
                private: d.bytes(300),
                program: d.bytes(30),
                began: d.time(),
                ended: d.time(),
                unknown: d.unknown(11),
            }
        );
        there_and_back!(
            Private,
            Private {
                paths: d.texts(),
                unread: d.many(4, |d| Unread {
                    path: d.bytes(40),
                    reason: d.bytes(40),
                    changed: d.chance()
                }),
                unread_total: d.number(),
                unknown: d.unknown(3),
            }
        );
        there_and_back!(
            Note,
            Note {
                action: ACTIONS[d.below(7) as usize],
                time: d.time(),
                snapshots: d.many(4, |d| SnapshotId(d.array())),
                tags: d.texts(),
                session: d.maybe(|d| SessionId(d.array())),
                unknown: d.unknown(5),
            }
        );
        there_and_back!(
            Lease,
            Lease {
                session: SessionId(d.array()),
                number: d.number(),
                began: d.time(),
                written: d.time(),
                sweeps: d.many(4, |d| SessionId(d.array())),
                forgets: d.many(4, |d| NoteId(d.array())),
                host: d.bytes(30),
                purpose: d.bytes(30),
                done: d.chance(),
                unknown: d.unknown(9),
            }
        );
    }
}

const ACTIONS: [Action; 7] = [
    Action::Tag,
    Action::Untag,
    Action::Hold,
    Action::Release,
    Action::Forget,
    Action::Unforget,
    Action::Void,
];

/// `N` bytes counting up from `first`, so that vectors are easily read.
fn counting<const N: usize>(first: u8) -> [u8; N] {
    std::array::from_fn(|i| first.wrapping_add(i as u8))
}

fn stat(size: u64) -> Stat {
    Stat {
        mode: 0o644,
        uid: 1000,
        gid: 100,
        user: b"ana".to_vec(),
        group: b"users".to_vec(),
        mtime: Time { seconds: 1_763_000_000, nanos: 123_456_789 },
        ctime: Time { seconds: 1_763_000_001, nanos: 0 },
        size,
        nlink: 1,
        link: None,
        fresh: false,
    }
}

fn plain(name: &[u8], node: Node) -> Entry {
    let size = match &node {
        Node::File(content) => content.len().unwrap(),
        Node::Symlink(target) => target.len() as u64,
        _ => 0,
    };
    let unknown = Unknown::default();
    Entry { name: name.to_vec(), stat: stat(size), node, xattrs: Vec::new(), chunker: None, unknown }
}

fn chunk(len: u64, first: u8) -> Extent {
    Extent { len, at: At::Chunk(ChunkId(counting(first))) }
}

/// One entry of each type, in the order of their names.
fn entries() -> Vec<(&'static str, Entry)> {
    let sparse = Content::Extents(vec![
        chunk(65536, 0),
        Extent { len: 1 << 40, at: At::Hole },
        chunk(1, 0x20),
        Extent { len: 1 << 30, at: At::List(ChunkId(counting(0x40)), 2) },
    ]);
    let mut rich = plain(b"rich", Node::File(Content::Extents(vec![chunk(1 << 20, 0x60)])));
    rich.stat = Stat {
        mode: 0o4755,
        uid: u32::MAX,
        gid: 0,
        user: Vec::new(),
        group: b"wheel".to_vec(),
        mtime: Time { seconds: -1, nanos: 999_999_999 },
        ctime: Time { seconds: i64::MIN, nanos: 1 },
        size: 1 << 20,
        nlink: 3,
        link: Some((1, u64::MAX)),
        fresh: true,
    };
    rich.xattrs = vec![
        Xattr { name: b"security.capability".to_vec(), value: Content::Inline(vec![1, 0, 0, 2]) },
        Xattr { name: b"user.empty".to_vec(), value: Content::Inline(Vec::new()) },
        Xattr { name: b"user.long".to_vec(), value: Content::Extents(vec![chunk(4000, 0x80)]) },
    ];
    rich.chunker = Some((2, vec![0, 0, 0x40, 0]));
    let mut newer = plain(b"tomorrow", Node::Unknown(9));
    newer.unknown = Unknown(vec![
        (17, vec![0xa1, 0x01, 0x02]),
        (18, vec![0x41, 0xff]),
        (21, vec![0xf5]),
        (300, vec![0x20]),
    ]);
    let mut fields = plain(b"with new fields", Node::Fifo);
    fields.unknown = Unknown(vec![(22, vec![0x80]), (1 << 32, vec![0x00])]);
    vec![
        ("block device", plain(b"block", Node::BlockDevice(0x800))),
        ("character device", plain(b"char", Node::CharDevice(u64::MAX))),
        ("empty file", plain(b"empty", Node::File(Content::Inline(Vec::new())))),
        ("folder", plain(b"folder", Node::Folder(ChunkId(counting(0xa0))))),
        ("inline file", plain(b"inline", Node::File(Content::Inline(b"hello, file\n".to_vec())))),
        ("named pipe", plain(b"pipe", Node::Fifo)),
        ("file with everything", rich),
        ("socket", plain(b"socket", Node::Socket)),
        ("sparse file", plain(b"sparse", Node::File(sparse))),
        ("symlink", plain(b"symlink", Node::Symlink(b"../elsewhere".to_vec()))),
        ("unknown type", newer),
        ("unknown fields", fields),
        ("name that is no text", plain(&[0xff, 0xfe, b'\n'], Node::Fifo)),
    ]
}

struct Vector {
    /// The file, and the target that takes it.
    kind: &'static str,
    name: &'static str,
    bytes: Vec<u8>,
}

/// What stands in `tests/vectors/`.
fn vectors() -> Vec<Vector> {
    let mut out = Vec::new();
    let mut add = |kind, name, bytes| out.push(Vector { kind, name, bytes });

    let item = |write: &dyn Fn(&mut Writer)| {
        let mut w = Writer::new();
        write(&mut w);
        w.finish()
    };
    add("cbor", "0", item(&|w| drop(w.unsigned(0))));
    add("cbor", "23", item(&|w| drop(w.unsigned(23))));
    add("cbor", "24", item(&|w| drop(w.unsigned(24))));
    add("cbor", "255", item(&|w| drop(w.unsigned(255))));
    add("cbor", "256", item(&|w| drop(w.unsigned(256))));
    add("cbor", "65536", item(&|w| drop(w.unsigned(65536))));
    add("cbor", "2^32", item(&|w| drop(w.unsigned(1 << 32))));
    add("cbor", "2^64-1", item(&|w| drop(w.unsigned(u64::MAX))));
    add("cbor", "-1", item(&|w| drop(w.integer(-1))));
    add("cbor", "-1000", item(&|w| drop(w.integer(-1000))));
    add("cbor", "-2^63", item(&|w| drop(w.integer(i64::MIN))));
    add("cbor", "no bytes", item(&|w| drop(w.bytes(b""))));
    add("cbor", "bytes 1 2 3 4", item(&|w| drop(w.bytes(&[1, 2, 3, 4]))));
    add("cbor", "[]", item(&|w| drop(w.array(0))));
    add("cbor", "[1, [2, 3]]", item(&|w| drop(w.array(2).unsigned(1).array(2).unsigned(2).unsigned(3))));
    add("cbor", "false", item(&|w| drop(w.boolean(false))));
    add("cbor", "true", item(&|w| drop(w.boolean(true))));
    let mut m = MapWriter::new();
    m.field(1).unsigned(2);
    m.field(3).bytes(b"x");
    m.field(256).boolean(true);
    add("cbor", "{1: 2, 3: 'x', 256: true}", m.finish());

    for (name, entry) in entries() {
        let bytes = encoded(&entry);
        assert_eq!(decode_entry(&bytes).unwrap(), entry);
        add("entry", name, bytes);
    }

    add("page", "empty folder", there_and_back!(Page, Page::Leaf(Vec::new())));
    let root = plain(b"root", Node::Folder(ChunkId(counting(0))));
    add("page", "root of a snapshot", there_and_back!(Page, Page::Leaf(vec![root])));
    let all = entries().into_iter().map(|(_, e)| e).collect();
    add("page", "all types", there_and_back!(Page, Page::Leaf(all)));
    let below = |first: &[u8], id| PageRef { first: first.to_vec(), id: ChunkId(counting(id)) };
    let pages = vec![below(b"aardvark", 1), below(b"mole", 2), below(b"zebra", 3)];
    add("page", "level 1", there_and_back!(Page, Page::Node(1, pages.clone())));
    add("page", "level 16", there_and_back!(Page, Page::Node(16, pages)));

    let extents = vec![chunk(65536, 0), Extent { len: 4096, at: At::Hole }, chunk(70000, 1)];
    add("extent_page", "level 1", there_and_back!(ExtentPage, ExtentPage { level: 1, extents }));
    let lists = [(1 << 30, 1), (12345, 2)];
    let extents = lists.map(|(len, id)| Extent { len, at: At::List(ChunkId(counting(id)), 1) }).to_vec();
    add("extent_page", "level 2", there_and_back!(ExtentPage, ExtentPage { level: 2, extents }));

    let repository = RepositoryId(counting(0x10));
    let config = Config {
        repository,
        number: 1,
        created: 1_763_000_000,
        cipher: 1,
        chunker: 1,
        chunker_parameters: [16u32 << 10, 64 << 10, 256 << 10].map(u32::to_be_bytes).concat(),
        epoch: 1,
        features: Default::default(),
        ended: Vec::new(),
        earlier: Vec::new(),
        unknown: Unknown::default(),
    };
    let config_body = there_and_back!(Config, config.clone());
    add("config", "new", config_body.clone());
    let full = Config {
        number: 7,
        cipher: 2,
        chunker: 2,
        chunker_parameters: (16u32 << 10).to_be_bytes().to_vec(),
        epoch: 2,
        features: [vec![b"read this".to_vec()], vec![], vec![b"a".to_vec(), b"b".to_vec()]],
        ended: vec![counting(0x30)],
        earlier: vec![vec![1, 2, 3]],
        unknown: Unknown(vec![(10, vec![0x80])]),
        ..config
    };
    add("config", "everything", there_and_back!(Config, full));

    let certificate = Certificate {
        role: 1,
        public: counting(0x50),
        host: Vec::new(),
        created: 1_763_000_000,
        unknown: Unknown::default(),
    };
    let seal = |body, certificate| Signed { body, certificate, signature: counting(0x80) };
    let certified = |c: &Certificate| there_and_back!(Signed, seal(c.encode(), Vec::new()));
    let full_key = certified(&certificate);
    add("certificate", "full key", full_key.clone());
    let writer = Certificate { role: 3, host: b"laptop".to_vec(), ..certificate };
    add("certificate", "writer key", certified(&writer));
    add("signed", "by the authority", there_and_back!(Signed, seal(config_body.clone(), Vec::new())));
    add("signed", "by a key", there_and_back!(Signed, seal(vec![0xa0], full_key.clone())));
    let signed = seal(config_body, Vec::new()).encode();
    add("envelope", "config object", [&head(Kind::Config)[..], &signed].concat());
    for (name, kind) in [
        ("head of a segment", Kind::Segment),
        ("head of a manifest", Kind::Manifest),
        ("head of a note", Kind::Note),
        ("head of a lease", Kind::Lease),
    ] {
        add("envelope", name, Envelope::head(kind, 0x0403_0201).to_vec());
    }

    let slot = Slot {
        repository,
        wrap: Wrap::Password { m_kib: 65536, t: 3, p: 1 },
        salt: counting(0x70),
        role: 1,
        commitment: counting(0xa0),
        epoch: 1,
        secrets: b"sealed secrets".to_vec(),
        label: b"sealed label".to_vec(),
    };
    add("slot", "password", there_and_back!(Slot, slot.clone()));
    add("slot", "key file", there_and_back!(Slot, Slot { wrap: Wrap::KeyFile, role: 3, ..slot.clone() }));
    add("slot_associated", "password", slot.associated());
    let mut secrets = Secrets::default();
    secrets.root = Some(counting(0));
    secrets.id_secret = counting(0x20);
    secrets.index_key = counting(0x40);
    secrets.signing_seed = counting(0x60);
    secrets.certificate = full_key.clone();
    add("secrets", "full", there_and_back!(Secrets, secrets.clone()));
    secrets.root = None;
    secrets.authority = Some(counting(0xc0));
    secrets.reading_public = Some(counting(0xa0));
    add("secrets", "writer", there_and_back!(Secrets, secrets.clone()));
    secrets.reading_public = None;
    secrets.reading_secret = Some(counting(0x80));
    add("secrets", "reader", there_and_back!(Secrets, secrets));
    let label = Label {
        text: b"home".to_vec(),
        user: b"ana".to_vec(),
        host: b"laptop".to_vec(),
        created: 1_763_000_000,
        unknown: Unknown::default(),
    };
    add("label", "full", there_and_back!(Label, label));

    let recipient = |first| Recipient { hint: counting(first), sealed: counting(first) };
    let recipients = vec![recipient(0x10)];
    let header = Header { cipher: 1, space: Space::Data, epoch: 1, recipients };
    add("pack_header", "data", header.encode());
    let recipients = vec![recipient(0x10), recipient(0x90)];
    let trees = Header { cipher: 2, space: Space::Trees, epoch: 0x0403_0201, recipients };
    assert_eq!(Header::decode(&trees.encode()).unwrap().0, trees);
    add("pack_header", "trees, two recipients, AES", trees.encode());
    let frames = vec![
        Frame { sealed_len: 1000, chunks: vec![1, 500, 4096] },
        Frame { sealed_len: (8 << 20) + 17, chunks: vec![8 << 20] },
    ];
    add("pack_table", "empty", there_and_back!(Table, Table::default()));
    add("pack_table", "two frames", there_and_back!(Table, Table(frames.clone())));
    assert_eq!(decode_trailer(&trailer(0x0403_0201, 7)).unwrap(), (0x0403_0201, 7));
    add("pack_trailer", "table of 67305985 bytes, 7 frames", trailer(0x0403_0201, 7).to_vec());
    let entry = PackEntry {
        pack: PackId(counting(0)),
        size: 9 << 20,
        header: header.encode(),
        frames,
        ids: (0..4).map(|i| ChunkId(counting(i * 0x20))).collect(),
        unknown: Unknown::default(),
    };
    let entry = there_and_back!(PackEntry, entry);
    add("pack_entry", "two frames", entry.clone());

    let retirement = Retirement {
        pack: PackId(counting(0)),
        sweep: SessionId(counting(0x30)),
        retired: 1_763_000_000,
        deleted: None,
        unknown: Unknown::default(),
    };
    let retired = there_and_back!(Retirement, retirement.clone());
    add("retirement", "retired", retired.clone());
    let deleted = Retirement { deleted: Some(1_763_100_000), ..retirement };
    add("retirement", "deleted", there_and_back!(Retirement, deleted));
    let by = |author, first| Signature { author, signature: counting(first) };
    let segment = Segment {
        created: 1_763_000_000,
        session: Some(SessionId(counting(0x30))),
        certificates: vec![certified(&writer), full_key],
        entries: vec![Vouched { body: entry, signatures: vec![by(0, 1), by(1, 2)] }],
        retirements: vec![Vouched { body: retired, signatures: vec![by(1, 3)] }],
        replaces: vec![SegmentId(counting(5)), SegmentId(counting(6))],
        unknown: Unknown::default(),
    };
    add("segment", "empty", there_and_back!(Segment, Segment::default()));
    add("segment", "everything", there_and_back!(Segment, segment));

    let manifest = Manifest {
        time: Time { seconds: 1_763_000_000, nanos: 5 },
        host: b"laptop".to_vec(),
        tags: vec![b"daily".to_vec()],
        root: ChunkId(counting(0)),
        session: SessionId(counting(0x30)),
        parent: None,
        totals: Totals {
            files: 1,
            folders: 2,
            others: 3,
            bytes: 4,
            read_files: 5,
            read_bytes: 6,
            new_bytes: 7,
            stored_bytes: 8,
        },
        private: b"sealed".to_vec(),
        program: b"pastfs 0.1.0".to_vec(),
        began: Time { seconds: 1_763_000_000, nanos: 0 },
        ended: Time { seconds: 1_763_000_060, nanos: 999_999_999 },
        unknown: Unknown::default(),
    };
    add("manifest", "first", there_and_back!(Manifest, manifest.clone()));
    let parent = Some(SnapshotId(counting(0x70)));
    add("manifest", "with a parent", there_and_back!(Manifest, Manifest { parent, ..manifest }));
    let unread = |path: &[u8], changed| Unread { path: path.to_vec(), reason: b"why".to_vec(), changed };
    let private = Private {
        paths: vec![b"/home/ana".to_vec(), b"/etc".to_vec()],
        unread: vec![unread(b"/etc/shadow", false), unread(b"/home/ana/log", true)],
        unread_total: 2,
        unknown: Unknown::default(),
    };
    add("private", "two paths", there_and_back!(Private, private));

    for (name, action) in
        ["tag", "untag", "hold", "release", "forget", "unforget", "void"].into_iter().zip(ACTIONS)
    {
        let note = Note {
            action,
            time: Time { seconds: 1_763_000_000, nanos: 0 },
            snapshots: vec![SnapshotId(counting(0x70))],
            tags: if name.ends_with("tag") { vec![b"daily".to_vec()] } else { Vec::new() },
            session: (action == Action::Void).then_some(SessionId(counting(0x30))),
            unknown: Unknown::default(),
        };
        add("note", name, there_and_back!(Note, note));
    }

    let lease = Lease {
        session: SessionId(counting(0x30)),
        number: 0,
        began: Time { seconds: 1_763_000_000, nanos: 0 },
        written: Time { seconds: 1_763_000_000, nanos: 0 },
        sweeps: Vec::new(),
        forgets: Vec::new(),
        host: b"laptop".to_vec(),
        purpose: b"backup".to_vec(),
        done: false,
        unknown: Unknown::default(),
    };
    add("lease", "first", there_and_back!(Lease, lease.clone()));
    let done = Lease {
        number: 2,
        written: Time { seconds: 1_763_000_600, nanos: 0 },
        sweeps: vec![SessionId(counting(0x40))],
        forgets: vec![NoteId(counting(0x50))],
        done: true,
        ..lease
    };
    add("lease", "done", there_and_back!(Lease, done));
    out
}

macro_rules! files {
    ($($kind:literal),* $(,)?) => {
        [$(($kind, include_str!(concat!("../vectors/", $kind, ".txt")))),*]
    };
}

/// `name = hexadecimal` in each line; `#` begins a comment.
const FILES: [(&str, &str); 20] = files![
    "cbor",
    "entry",
    "page",
    "extent_page",
    "config",
    "certificate",
    "signed",
    "envelope",
    "slot",
    "slot_associated",
    "secrets",
    "label",
    "pack_header",
    "pack_table",
    "pack_trailer",
    "pack_entry",
    "retirement",
    "segment",
    "manifest",
    "private",
];
const MORE_FILES: [(&str, &str); 2] = files!["note", "lease"];

#[test]
fn encodings_are_the_test_vectors_for_ever() {
    let vectors = vectors();
    for (kind, text) in FILES.into_iter().chain(MORE_FILES) {
        let mut expected = String::new();
        for v in vectors.iter().filter(|v| v.kind == kind) {
            writeln!(expected, "{} = {}", v.name, hex(&v.bytes)).unwrap();
        }
        let lines = |text: &str| -> Vec<String> {
            text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_owned).collect()
        };
        assert!(!expected.is_empty());
        assert_eq!(lines(text), lines(&expected), "tests/vectors/{kind}.txt differs; it would be\n{expected}");
    }
    let listed = |v: &Vector| FILES.iter().chain(&MORE_FILES).any(|(kind, _)| *kind == v.kind);
    assert!(vectors.iter().all(listed));
}

fn target(kind: &str) -> Option<fn(&[u8])> {
    targets::TARGETS.iter().find(|(name, _)| *name == kind).map(|(_, f)| *f)
}

#[test]
fn any_changed_byte_cut_or_addition_gives_an_error_or_encodes_as_it_is() {
    for v in vectors() {
        let Some(f) = target(v.kind) else { continue };
        f(&v.bytes);
        for len in 0..v.bytes.len() {
            f(&v.bytes[..len]);
        }
        for more in [0x00, 0x01, 0x20, 0x40, 0x80, 0xa0, 0xf5, 0xff] {
            f(&[&v.bytes[..], &[more]].concat());
        }
        let mut bytes = v.bytes.clone();
        for at in 0..bytes.len() {
            let before = bytes[at];
            for value in 0..=255 {
                bytes[at] = value;
                f(&bytes);
            }
            bytes[at] = before;
        }
    }
}

#[test]
fn a_byte_inserted_or_removed_anywhere_is_no_panic() {
    for v in vectors() {
        let Some(f) = target(v.kind) else { continue };
        for at in 0..v.bytes.len() {
            let (left, right) = v.bytes.split_at(at);
            f(&[left, &right[1..]].concat());
            for value in [0x00, 0x01, 0x18, 0x40, 0x5a, 0x80, 0x9b, 0xa1, 0xbb, 0xff] {
                f(&[left, &[value], right].concat());
            }
        }
    }
}

#[test]
fn every_file_of_the_fuzzing_corpora_passes_every_target() {
    let corpora = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, _) in targets::TARGETS {
        let mut files = 0;
        for file in std::fs::read_dir(corpora.join(name)).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            targets::TARGETS.iter().for_each(|(_, f)| f(&bytes));
            files += 1;
        }
        assert!(files > 0, "the corpus of {name} is empty");
    }
}

#[test]
fn random_bytes_pass_every_target() {
    for seed in 0..20_000 {
        let d = &mut Draw(seed);
        let mut bytes = d.bytes(60);
        if let Some(first) = bytes.first_mut() {
            *first = 0x80 | *first & 0x27;
        }
        targets::TARGETS.iter().for_each(|(_, f)| f(&bytes));
    }
}

/// The fields of an ordinary named pipe, some replaced (an empty item removes the field).
fn changed(changes: &[(u64, &[u8])]) -> Vec<u8> {
    changed_from(&encoded(&plain(b"pipe", Node::Fifo)), changes)
}

fn changed_from(bytes: &[u8], changes: &[(u64, &[u8])]) -> Vec<u8> {
    let mut r = Reader::new(bytes);
    let mut fields = std::collections::BTreeMap::new();
    let mut map = r.map().unwrap();
    while let Some(key) = map.next(&mut r).unwrap() {
        fields.insert(key, r.item().unwrap());
    }
    fields.extend(changes.iter().copied());
    let mut m = MapWriter::new();
    for (key, item) in fields.iter().filter(|(_, item)| !item.is_empty()) {
        m.field(*key).raw(item);
    }
    m.finish()
}

#[test]
fn an_entry_has_one_encoding_only() {
    assert!(decode_entry(&changed(&[])).is_ok());
    let id = [&[0x58, 32][..], &[7; 32]].concat();
    let cases: &[(&str, &[(u64, &[u8])])] = &[
        ("no name", &[(1, &[])]),
        ("an empty name", &[(1, &[0x40])]),
        ("the name .", &[(1, b"\x41.")]),
        ("the name ..", &[(1, b"\x42..")]),
        ("a name with /", &[(1, b"\x43a/b")]),
        ("a name with a zero byte", &[(1, b"\x43a\0b")]),
        ("no type", &[(2, &[])]),
        ("a mode with type bits", &[(3, &[0x19, 0x81, 0xa4])]),
        ("an uid of 33 bits", &[(4, &[0x1b, 0, 0, 0, 1, 0, 0, 0, 0])]),
        ("an empty owner", &[(6, &[0x40])]),
        ("no nanoseconds, spelt out", &[(9, &[0x00])]),
        ("a second of nanoseconds", &[(9, &[0x1a, 0x3b, 0x9a, 0xca, 0x00])]),
        ("one link, spelt out", &[(13, &[0x01])]),
        ("a link group of three", &[(14, &[0x83, 1, 2, 3])]),
        ("not fresh, spelt out", &[(15, &[0xf4])]),
        ("no xattrs, spelt out", &[(16, &[0x80])]),
        ("an xattr without name", &[(16, &[0x81, 0x82, 0x40, 0x40])]),
        ("xattrs out of order", &[(16, b"\x82\x82\x41b\x40\x82\x41a\x40")]),
        ("one xattr twice", &[(16, b"\x82\x82\x41a\x40\x82\x41a\x40")]),
        ("an xattr with a hole", &[(16, b"\x81\x82\x41a\x81\x81\x05")]),
        ("a pipe with content", &[(17, &[0x40])]),
        ("a pipe with a target", &[(19, &[0x41, b'x'])]),
        ("a file without content", &[(2, &[0x01])]),
        ("a file with content and tree", &[(2, &[0x01]), (17, &[0x40]), (18, &id)]),
        ("content without extents", &[(2, &[0x01]), (17, &[0x80])]),
        ("content of another length", &[(2, &[0x01]), (12, &[0x02]), (17, &[0x41, 7])]),
        ("an extent of no bytes", &[(2, &[0x01]), (17, &[0x81, 0x81, 0x00])]),
        (
            "more than 2^64 bytes",
            &[
                (2, &[0x01]),
                (
                    17,
                    &[
                        0x82, 0x81, 0x1b, 255, 255, 255, 255, 255, 255, 255, 255, 0x81, 0x1b, 255, 255, 255,
                        255, 255, 255, 255, 255,
                    ],
                ),
            ],
        ),
        ("key 0", &[(0, &[0x00])]),
    ];
    for (what, changes) in cases {
        assert_eq!(decode_entry(&changed(changes)).unwrap_err().fault(), Fault::Damaged, "{what}");
    }
}

#[test]
fn an_entry_of_an_unknown_type_is_kept_byte_for_byte() {
    let newer: &[(u64, &[u8])] = &[
        (2, &[0x18, 0x63]),
        (17, &[0x83, 0x01, 0xa1, 0x01, 0x02, 0x20]),
        (19, &[0x0a]),
        (21, &[0xf4]),
        (40, &[0x80]),
    ];
    let bytes = changed(newer);
    let entry = decode_entry(&bytes).unwrap();
    assert_eq!(entry.node, Node::Unknown(99));
    assert_eq!(entry.unknown.0.len(), 4);
    assert_eq!(encoded(&entry), bytes);
}

#[test]
fn fields_of_a_newer_version_are_kept_and_come_behind_the_known_ones() {
    let note = vectors().into_iter().find(|v| v.kind == "note").unwrap().bytes;
    let newer = changed_from(&note, &[(6, &[0x01]), (1000, &[0x81, 0xf5])]);
    let read = Note::decode(&newer).unwrap();
    assert_eq!(read.unknown.0, [(6, vec![0x01]), (1000, vec![0x81, 0xf5])]);
    assert_eq!(read.encode(), newer);
    assert!(Note::decode(&changed_from(&note, &[(0, &[0x01])])).is_err());
    assert!(Note::decode(&changed_from(&note, &[(1, &[0x08])])).is_err(), "an unknown action");
    // Nobody may add to what is not bound to anything, or re-encoded by nobody.
    for kind in ["slot", "secrets", "signed"] {
        let bytes = vectors().into_iter().find(|v| v.kind == kind).unwrap().bytes;
        let newer = changed_from(&bytes, &[(50, &[0x01])]);
        let refused = match kind {
            "slot" => Slot::decode(&newer).is_err(),
            "secrets" => Secrets::decode(&newer).is_err(),
            _ => Signed::decode(&newer).is_err(),
        };
        assert!(refused, "{kind}");
    }
}

#[test]
fn what_is_always_written_must_be_there() {
    // Optional: session of a segment (2), parent of a manifest (6), session of a note (5), time of deletion (4).
    type Decode = fn(&[u8]) -> bool;
    let kinds: &[(&str, u64, &[u64], Decode)] = &[
        ("config", 9, &[], |b| Config::decode(b).is_ok()),
        ("slot", 8, &[], |b| Slot::decode(b).is_ok()),
        ("label", 4, &[], |b| Label::decode(b).is_ok()),
        ("pack_entry", 6, &[], |b| PackEntry::decode(b).is_ok()),
        ("retirement", 4, &[4], |b| Retirement::decode(b).is_ok()),
        ("segment", 6, &[2], |b| Segment::decode(b).is_ok()),
        ("manifest", 11, &[6], |b| Manifest::decode(b).is_ok()),
        ("private", 3, &[], |b| Private::decode(b).is_ok()),
        ("note", 5, &[5], |b| Note::decode(b).is_ok()),
        ("lease", 9, &[], |b| Lease::decode(b).is_ok()),
    ];
    let vectors = vectors();
    for (kind, last, optional, decode) in kinds {
        let bytes = &vectors.iter().find(|v| v.kind == *kind).unwrap().bytes;
        for key in 1..=*last {
            assert_eq!(decode(&changed_from(bytes, &[(key, &[])])), optional.contains(&key), "{kind} {key}");
        }
    }
}

#[test]
fn a_lease_with_too_many_names_is_refused_and_never_cut() {
    let mut lease = Lease {
        session: SessionId([1; 16]),
        number: 0,
        began: Time::default(),
        written: Time::default(),
        sweeps: vec![SessionId([2; 16]); LEASE_NAMES_MAX],
        forgets: vec![NoteId([3; 32]); LEASE_NAMES_MAX],
        host: Vec::new(),
        purpose: Vec::new(),
        done: false,
        unknown: Unknown::default(),
    };
    let bytes = there_and_back!(Lease, lease.clone());
    assert!((bytes.len() as u64) < Kind::Lease.limit());
    lease.sweeps.push(SessionId([2; 16]));
    assert!(Lease::decode(&lease.encode()).is_err());
    lease.sweeps.pop();
    lease.forgets.push(NoteId([3; 32]));
    assert!(Lease::decode(&lease.encode()).is_err());
}

#[test]
fn a_segment_without_signatures_or_with_an_unknown_author_is_refused() {
    let by = |author| Signature { author, signature: [0; 64] };
    let mut segment = Segment { certificates: vec![vec![1]], ..Segment::default() };
    segment.retirements = vec![Vouched { body: vec![0xa0], signatures: vec![by(0)] }];
    there_and_back!(Segment, segment.clone());
    segment.retirements[0].signatures.push(by(1));
    assert!(Segment::decode(&segment.encode()).is_err());
    segment.retirements[0].signatures.clear();
    assert!(Segment::decode(&segment.encode()).is_err());
}

#[test]
fn a_later_version_is_told_apart_from_damage() {
    let mut bytes = Envelope::head(Kind::Note, 1).to_vec();
    assert_eq!(Envelope::decode(Kind::Note, &bytes).unwrap().epoch, 1);
    assert_eq!(Envelope::decode(Kind::Lease, &bytes).unwrap_err().fault(), Fault::Damaged);
    bytes[7] = 2;
    assert_eq!(Envelope::decode(Kind::Note, &bytes).unwrap_err().fault(), Fault::Newer);
    bytes[7] = 0;
    assert_eq!(Envelope::decode(Kind::Note, &bytes).unwrap_err().fault(), Fault::Damaged);
}

#[test]
fn an_item_nested_too_deeply_or_longer_than_its_input_is_refused() {
    let nested = |depth: usize| [vec![0x81; depth], vec![0x00]].concat();
    assert!(Reader::new(&nested(15)).item().is_ok());
    assert!(Reader::new(&nested(16)).item().is_err());
    assert!(Reader::new(&nested(1_000_000)).item().is_err());
    for head in [0x5b, 0x9b, 0xbb] {
        let bytes = [&[head][..], &[0xff; 8]].concat();
        assert!(Reader::new(&bytes).item().is_err());
        assert!(Reader::new(&bytes).bytes(usize::MAX).is_err());
        assert!(Reader::new(&bytes).array().is_err());
        assert!(Reader::new(&bytes).map().is_err());
    }
}
