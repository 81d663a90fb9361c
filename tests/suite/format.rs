//! The stored objects: fixed encodings, values that go there and back, and whatever bytes a store may
//! give instead.

use pastfs::clock::Time;
use pastfs::fault::Fault;
use pastfs::format::cbor::{MapWriter, Reader, Unknown, Writer};
use pastfs::format::config::Config;
use pastfs::format::epoch::{Earlier, Succession};
use pastfs::format::object::{Envelope, Kind, Signed};
use pastfs::format::pack::{Header, PackEntry, Table};
use pastfs::format::segment::{Retirement, Segment, Signature, Vouched};
use pastfs::format::slot::{Certificate, Label, Secrets, Slot, Wrap};
use pastfs::format::snapshot::{
    Action, LEASE_NAMES_MAX, Lease, Manifest, Note, Private, Process, Totals, Unread,
};
use pastfs::format::tree::{Entry, ExtentPage, Node, Page, PageRef};
use pastfs::id::{ChunkId, NoteId, PackId, RepositoryId, SegmentId, SessionId, SnapshotId, hex};
use std::fmt::Write as _;

/// `value` goes there and back; the bytes.
macro_rules! there_and_back {
    ($type:ty, $value:expr) => {{
        let value: $type = $value;
        let bytes = value.encode();
        assert_eq!(<$type>::decode(&bytes).unwrap(), value);
        bytes
    }};
}

#[path = "format/draw.rs"]
mod draw;
#[path = "../../fuzz/trees.rs"]
mod fuzzed_trees;
#[path = "../../fuzz/words.rs"]
mod fuzzed_words;
#[path = "../../fuzz/targets.rs"]
mod targets;
#[path = "format/vectors.rs"]
mod vectors;

use draw::Draw;
use vectors::{ACTIONS, Vector, plain, vectors};

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
                parity: d.below(101) as u8,
                since: 1 + d.below(9) as u32,
                unknown: d.unknown(11),
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
        let (created, signer) = (d.signed(), d.maybe(Draw::array));
        there_and_back!(Label, Label { text, user, host, created, signer, unknown: d.unknown(5) });
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
        let (index_key, reading) = (d.bytes(256), d.bytes(256));
        there_and_back!(Earlier, Earlier { epoch: d.short(), authority: d.array(), index_key, reading });
        there_and_back!(Succession, Succession { epoch: d.short(), authority: d.array() });
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
                unread: d.many(4, |d| Unread { path: d.bytes(40), reason: d.bytes(40), changed: d.chance() }),
                unread_total: d.number(),
                unknown: d.unknown(3),
            }
        );
        there_and_back!(
            Note,
            Note {
                action: ACTIONS[d.below(8) as usize],
                time: d.time(),
                snapshots: d.many(4, |d| SnapshotId(d.array())),
                tags: d.texts(),
                session: d.maybe(|d| SessionId(d.array())),
                lost: d.many(3, |d| ChunkId(d.array())),
                unknown: d.unknown(6),
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
                process: d.maybe(|d| Process {
                    boot: d.array(),
                    namespace: d.number(),
                    number: d.number(),
                    started: d.number(),
                }),
                unknown: d.unknown(10),
            }
        );
    }
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
const MORE_FILES: [(&str, &str); 5] = files!["note", "lease", "parity", "earlier", "succession"];

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
        assert_eq!(
            lines(text),
            lines(&expected),
            "tests/vectors/{kind}.txt differs; it would be\n{expected}"
        );
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
    // Trees are written to the disk: only their own corpus is restored.
    for (name, f) in fuzzed_trees::TARGETS {
        let files: Vec<_> = std::fs::read_dir(corpora.join(name)).unwrap().collect();
        assert!(files.len() > 1, "the corpus of {name} is empty");
        files.into_iter().for_each(|file| f(&std::fs::read(file.unwrap().path()).unwrap()));
    }
    for (name, _) in targets::TARGETS.iter().chain(fuzzed_words::TARGETS) {
        let mut files = 0;
        for file in std::fs::read_dir(corpora.join(name)).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            targets::TARGETS.iter().chain(fuzzed_words::TARGETS).for_each(|(_, f)| f(&bytes));
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

#[test]
fn random_trees_into_random_targets_change_nothing_outside() {
    for seed in 0..400 {
        let bytes = Draw(seed).bytes(200);
        fuzzed_trees::TARGETS.iter().for_each(|(_, f)| f(&bytes));
    }
}

/// Keys of a map, with their new items.
type Changes<'a> = &'a [(u64, &'a [u8])];

/// The fields of an ordinary named pipe, some replaced (an empty item removes the field).
fn changed(changes: Changes) -> Vec<u8> {
    changed_from(&encoded(&plain(b"pipe", Node::Fifo)), changes)
}

fn changed_from(bytes: &[u8], changes: Changes) -> Vec<u8> {
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
    let cases: &[(&str, Changes)] = &[
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
    let newer: Changes = &[
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
    let newer = changed_from(&note, &[(7, &[0x01]), (1000, &[0x81, 0xf5])]);
    let read = Note::decode(&newer).unwrap();
    assert_eq!(read.unknown.0, [(7, vec![0x01]), (1000, vec![0x81, 0xf5])]);
    assert_eq!(read.encode(), newer);
    assert!(Note::decode(&changed_from(&note, &[(0, &[0x01])])).is_err());
    let unknown = changed_from(&note, &[(1, &[0x0a])]);
    let read = Note::decode(&unknown).unwrap();
    assert_eq!((read.action, read.encode()), (Action::Newer(10), unknown), "an unknown action is kept");
    for cut in [&[0x40][..], &[0x41, 0x01]] {
        assert!(Note::decode(&changed_from(&note, &[(6, cut)])).is_err(), "ids of lost chunks: {cut:?}");
    }
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
        process: None,
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
