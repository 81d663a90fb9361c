//! The values whose encodings stand in `tests/vectors/`.

use super::{decode_entry, encoded};
use pastfs::clock::Time;
use pastfs::format::cbor::{MapWriter, Unknown, Writer};
use pastfs::format::config::Config;
use pastfs::format::epoch::{Earlier, Succession};
use pastfs::format::object::{Envelope, Kind, Signed, head};
use pastfs::format::pack::{Frame, Header, PackEntry, Recipient, Space, Table, decode_trailer, trailer};
use pastfs::format::parity::Description;
use pastfs::format::segment::{Retirement, Segment, Signature, Vouched};
use pastfs::format::slot::{Certificate, Label, Secrets, Slot, Wrap};
use pastfs::format::snapshot::{Action, Lease, Manifest, Note, Private, Process, Totals, Unread};
use pastfs::format::tree::{At, Content, Entry, Extent, ExtentPage, Node, Page, PageRef, Stat, Xattr};
use pastfs::id::{ChunkId, NoteId, PackId, RepositoryId, SegmentId, SessionId, SnapshotId};
use pastfs::parity::{Maker, heal};

pub const ACTIONS: [Action; 9] = [
    Action::Tag,
    Action::Untag,
    Action::Hold,
    Action::Release,
    Action::Forget,
    Action::Unforget,
    Action::Void,
    Action::Lost,
    Action::Accept,
];

/// `N` bytes counting up from `first`, so that vectors are easily read.
pub fn counting<const N: usize>(first: u8) -> [u8; N] {
    std::array::from_fn(|i| first.wrapping_add(i as u8))
}

pub fn stat(size: u64) -> Stat {
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

pub fn plain(name: &[u8], node: Node) -> Entry {
    let size = match &node {
        Node::File(content) => content.len().unwrap(),
        Node::Symlink(target) => target.len() as u64,
        _ => 0,
    };
    let unknown = Unknown::default();
    Entry { name: name.to_vec(), stat: stat(size), node, xattrs: Vec::new(), chunker: None, unknown }
}

pub fn chunk(len: u64, first: u8) -> Extent {
    Extent { len, at: At::Chunk(ChunkId(counting(first))) }
}

/// One entry of each type, in the order of their names.
pub fn entries() -> Vec<(&'static str, Entry)> {
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

pub struct Vector {
    /// The file, and the target that takes it.
    pub kind: &'static str,
    pub name: &'static str,
    pub bytes: Vec<u8>,
}

fn item(write: impl FnOnce(&mut Writer) -> &mut Writer) -> Vec<u8> {
    let mut w = Writer::new();
    write(&mut w);
    w.finish()
}

/// What stands in `tests/vectors/`.
pub fn vectors() -> Vec<Vector> {
    let mut out = Vec::new();
    let mut add = |kind, name, bytes| out.push(Vector { kind, name, bytes });

    add("cbor", "0", item(|w| w.unsigned(0)));
    add("cbor", "23", item(|w| w.unsigned(23)));
    add("cbor", "24", item(|w| w.unsigned(24)));
    add("cbor", "255", item(|w| w.unsigned(255)));
    add("cbor", "256", item(|w| w.unsigned(256)));
    add("cbor", "65536", item(|w| w.unsigned(65536)));
    add("cbor", "2^32", item(|w| w.unsigned(1 << 32)));
    add("cbor", "2^64-1", item(|w| w.unsigned(u64::MAX)));
    add("cbor", "-1", item(|w| w.integer(-1)));
    add("cbor", "-1000", item(|w| w.integer(-1000)));
    add("cbor", "-2^63", item(|w| w.integer(i64::MIN)));
    add("cbor", "no bytes", item(|w| w.bytes(b"")));
    add("cbor", "bytes 1 2 3 4", item(|w| w.bytes(&[1, 2, 3, 4])));
    add("cbor", "[]", item(|w| w.array(0)));
    add("cbor", "[1, [2, 3]]", item(|w| w.array(2).unsigned(1).array(2).unsigned(2).unsigned(3)));
    add("cbor", "false", item(|w| w.boolean(false)));
    add("cbor", "true", item(|w| w.boolean(true)));
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
        parity: 0,
        since: 1,
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
        parity: 5,
        since: 2,
        unknown: Unknown(vec![(12, vec![0x80])]),
        ..config
    };
    add("config", "everything", there_and_back!(Config, full));
    let earlier =
        Earlier { epoch: 1, authority: counting(0x10), index_key: vec![1, 2, 3], reading: vec![4, 5, 6] };
    add("earlier", "first epoch", there_and_back!(Earlier, earlier));
    let succession = Succession { epoch: 2, authority: counting(0x10) };
    add("succession", "second epoch", there_and_back!(Succession, succession));

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
        signer: None,
        unknown: Unknown::default(),
    };
    add("label", "full", there_and_back!(Label, label.clone()));
    add("label", "with its key", there_and_back!(Label, Label { signer: Some(counting(0xe0)), ..label }));

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

    let parity = |size: u64, part_len, parts| {
        let bytes: Vec<u8> = (0..size).map(|n| n as u8).collect();
        let pack = PackId::of_object(&bytes);
        let mut maker = Maker::by(Description { pack, size, part_len, parts }).unwrap();
        maker.add(&bytes).unwrap();
        let object = maker.finish().unwrap();
        assert_eq!(heal(pack, vec![0; size as usize / 2], &object).unwrap().0, bytes);
        object
    };
    add("parity", "100 bytes in 2 parts, as many of parity", parity(100, 64, (2, 2)));
    add("parity", "700 bytes in 6 parts, 7 of parity", parity(700, 128, (6, 7)));

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
            lost: Vec::new(),
            unknown: Unknown::default(),
        };
        add("note", name, there_and_back!(Note, note));
    }
    let lost = Note {
        action: Action::Lost,
        time: Time { seconds: 1_763_000_000, nanos: 0 },
        snapshots: Vec::new(),
        tags: Vec::new(),
        session: None,
        lost: vec![ChunkId(counting(0x10)), ChunkId(counting(0x50))],
        unknown: Unknown::default(),
    };
    add("note", "lost", there_and_back!(Note, lost.clone()));
    let accept = Note {
        action: Action::Accept,
        snapshots: vec![SnapshotId(counting(0x70)), SnapshotId(counting(0x90))],
        lost: Vec::new(),
        ..lost
    };
    add("note", "accept", there_and_back!(Note, accept));

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
        process: None,
        unknown: Unknown::default(),
    };
    add("lease", "first", there_and_back!(Lease, lease.clone()));
    let done = Lease {
        number: 2,
        written: Time { seconds: 1_763_000_600, nanos: 0 },
        sweeps: vec![SessionId(counting(0x40))],
        forgets: vec![NoteId(counting(0x50))],
        done: true,
        ..lease.clone()
    };
    add("lease", "done", there_and_back!(Lease, done));
    let mark = Lease {
        purpose: b"prune".to_vec(),
        done: true,
        process: Some(Process {
            boot: counting(0x60),
            namespace: 4_026_531_836,
            number: 4711,
            started: 123_456,
        }),
        ..lease
    };
    add("lease", "mark", there_and_back!(Lease, mark));
    out
}
