//! L16. A repository that a newer program wrote into holds what this one does not know, and which may need what nothing
//! else needs. F1: no census, and nothing is deleted. Taken out, the rule would let prune go by what it understands.

use super::{Actor, Play};
use crate::suite::generated::Author;
use crate::suite::scene::Draw;
use crate::suite::trial::KEY;
use pastfs::event::Stop;
use pastfs::fault::Fault;
use pastfs::format::cbor::Unknown;
use pastfs::format::object::{HEAD_LEN, Kind, head};
use pastfs::format::pack::Space;
use pastfs::format::snapshot::{Action, Totals};
use pastfs::format::tree::Page;
use pastfs::id::{NoteId, SegmentId, SnapshotId};
use pastfs::repository::{Commit, Draft, Writer, WriterOptions};
use pastfs::storage::Store;
use pastfs::tree::Sink;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A field that no version has yet.
fn unknown() -> Unknown {
    Unknown(vec![(1000, vec![0xf5])])
}

/// What somebody with the keys adds to the repository.
fn added(play: &Play, add: impl FnOnce(&Author)) {
    let store = play.place.seat();
    let dir = play.world.fresh("newer");
    for name in ["keys/", "config/"].into_iter().flat_map(|folder| store.names(folder).unwrap()) {
        fs::create_dir_all(dir.join(&name).parent().unwrap()).unwrap();
        fs::write(dir.join(&name), store.get(&name, 1 << 20).unwrap()).unwrap();
    }
    fs::write(play.world.dir.join("key"), KEY).unwrap();
    add(&Author::of(&dir, &play.world.dir.join("key")));
    for path in files(&dir) {
        let name = path.strip_prefix(&dir).unwrap().to_str().unwrap();
        store.put(name, &fs::read(&path).unwrap()).unwrap();
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let folders = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    folders.flat_map(|f| fs::read_dir(f).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>()).collect()
}

/// An object of the next version of the format, whatever it says.
fn of_next_version(kind: Kind) -> Vec<u8> {
    let mut object = head(kind).to_vec();
    object[HEAD_LEN - 1] += 1;
    object.extend(Draw(7).bytes(300));
    object
}

fn a_manifest_with_a_new_field(play: &Play) {
    let forgotten = play.actor().opened().unwrap().forgotten().unwrap()[0].clone();
    let mut manifest = forgotten.manifest.clone();
    manifest.unknown = unknown();
    added(play, |author| author.manifest(&manifest));
}

fn a_manifest_of_the_next_version(play: &Play) {
    let object = of_next_version(Kind::Manifest);
    play.place.seat().put(&format!("snapshots/{}", SnapshotId::of_object(&object)), &object).unwrap();
}

fn a_note_of_the_next_version(play: &Play) {
    let object = of_next_version(Kind::Note);
    play.place.seat().put(&format!("notes/{}", NoteId::of_object(&object)), &object).unwrap();
}

fn a_segment_of_the_next_version(play: &Play) {
    let object = of_next_version(Kind::Segment);
    play.place.seat().put(&format!("index/{}", SegmentId::of_object(&object)), &object).unwrap();
}

fn a_note_that_says_something_new(play: &Play) {
    let forgotten = play.actor().opened().unwrap().forgotten().unwrap()[0].id;
    added(play, |author| _ = author.note(Action::Newer(99), &[forgotten]));
}

fn a_feature_that_who_deletes_must_know(play: &Play) {
    added(play, |author| author.config(3, |config| config.features[2] = vec![b"second references".to_vec()]));
}

/// A snapshot whose root has a field that may name more chunks.
fn an_entry_with_a_new_field(play: &Play) {
    let repository = play.actor().opened().unwrap();
    let forgotten = repository.forgotten().unwrap()[0].clone();
    let root = repository.reader().chunk(Space::Trees, &forgotten.manifest.root).unwrap();
    let Page::Leaf(mut entries) = Page::decode(&root).unwrap() else { panic!("a root is a leaf") };
    entries[0].unknown = unknown();
    let options = WriterOptions {
        compression: Default::default(),
        host: b"newer".to_vec(),
        purpose: "backup",
        dry_run: false,
        distrust: HashSet::new(),
        stop: Stop::new(),
    };
    let mut writer = Writer::begin(&repository, options).unwrap();
    let draft = Draft {
        time: None,
        host: b"newer".to_vec(),
        tags: Vec::new(),
        root: writer.put(Space::Trees, &Page::Leaf(entries).encode()).unwrap(),
        parent: None,
        totals: Totals::default(),
        private: Default::default(),
    };
    assert!(matches!(writer.commit(draft), Ok(Commit::Done(..))));
}

/// What a newer program may have left: where it lies, and what puts it there.
type Row = (&'static str, &'static str, fn(&Play));

const ROWS: &[Row] = &[
    ("a manifest with a new field", "snapshots/", a_manifest_with_a_new_field),
    ("a manifest of the next version", "snapshots/", a_manifest_of_the_next_version),
    ("a note of the next version", "notes/", a_note_of_the_next_version),
    ("a segment of the next version", "index/", a_segment_of_the_next_version),
    ("a note that says something new", "notes/", a_note_that_says_something_new),
    ("a feature that who deletes must know", "config/", a_feature_that_who_deletes_must_know),
    ("an entry with a new field", "snapshots/", an_entry_with_a_new_field),
];

/// Prunes as often as it takes to delete: whether each run refused because of something newer.
fn refuses(x: &Actor<'_>) -> bool {
    (0..2).all(|_| match x.prunes_with(0, false) {
        Ok(_) => false,
        Err(e) => {
            assert_eq!(e.fault(), Fault::Newer, "{e:?}");
            true
        }
    })
}

#[test]
fn what_a_newer_program_wrote_stops_every_prune_and_nothing_is_deleted() {
    for (name, folder, put) in ROWS {
        for with_rule in [true, false] {
            let play = Play::new();
            let before = play.place.names(folder);
            put(&play);
            let x = play.actor();
            if !with_rule {
                let newer: Vec<String> =
                    play.place.names(folder).into_iter().filter(|n| !before.contains(n)).collect();
                assert_eq!(newer.len(), 1, "{name}");
                x.seat.hide(move |name| name == newer[0]);
            }
            let all = play.place.names("");
            assert_eq!(refuses(&x), with_rule, "{name}");
            let left = play.place.names("");
            let gone = all.iter().filter(|n| !left.contains(n)).count();
            assert_eq!(gone == 0, with_rule, "{name}: {gone} objects are gone");
        }
    }
}
