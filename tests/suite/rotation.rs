//! Keys that end: what they had said stays, what they say from then on does not count.

use super::pruning::age;
use super::scene::{Draw, Ran, Scene, let_files_settle, same_trees};
use super::thief::Thief;
use pastfs::format::object::{Envelope, Kind, Signed};
use pastfs::format::snapshot::Manifest;
use pastfs::id::SnapshotId;
use pastfs::seal::open_box;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

/// More than the pages of a small tree.
const SIZE: usize = 300_000;
const PAGES: u64 = 6000;

/// A repository with a second key, of this role, whose file is `other`.
struct Play {
    scene: Scene,
}

impl Play {
    fn new(name: &str, role: &str) -> Self {
        let scene = Scene::new(name);
        scene.run(["key", "add", "-q", "--role", role, "--label", "other", "--new-key-file", "other"]).ok();
        fs::write(scene.source().join("file"), Draw(1).bytes(SIZE)).unwrap();
        let_files_settle();
        Self { scene }
    }

    /// With the key file of this name, and a cache of its own.
    fn run(&self, key: &str, args: &[&str]) -> Ran {
        let mut command = self.scene.command(args);
        command.env("PASTFS_KEY_FILE", self.scene.path(key));
        command.env("PASTFS_CACHE", self.scene.path(&format!("cache-of-{key}")));
        self.scene.run_command(command)
    }

    fn backup(&self, key: &str) -> Value {
        self.run(key, &["backup", "--json", self.scene.source().to_str().unwrap()]).ok().json()
    }

    /// The id of the other key.
    fn other(&self) -> String {
        let keys = self.scene.run(["key", "list", "--json"]).ok().json();
        let keys = keys.as_array().unwrap().clone();
        keys.iter().find(|k| k["label"] == "other").unwrap()["id"].as_str().unwrap().to_owned()
    }

    /// A snapshot like one that is there, written by somebody else, at another time.
    fn writes_like(&self, thief: &Thief, snapshot: &Value) -> String {
        let id = snapshot["snapshot_id"].as_str().unwrap();
        let object = fs::read(self.scene.repository().join("snapshots").join(id)).unwrap();
        let epoch = Envelope::decode(Kind::Manifest, &object).unwrap().epoch;
        assert_eq!(epoch, thief.epoch, "the thief cannot open it");
        let plain = open_box(&thief.secrets.index_key, &[&object[..12], &thief.id.0].concat(), &object[12..]);
        let mut manifest = Manifest::decode(&Signed::decode(&plain.unwrap()).unwrap().body).unwrap();
        manifest.time.seconds += 60;
        let object = thief.seal(Kind::Manifest, manifest.encode());
        let id = SnapshotId::of_object(&object).hex();
        fs::write(self.scene.repository().join("snapshots").join(&id), object).unwrap();
        id
    }

    fn listed(&self) -> Vec<String> {
        self.scene.snapshots().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect()
    }
}

fn new_bytes(saved: &Value) -> u64 {
    saved["totals"]["new_bytes"].as_u64().unwrap()
}

#[test]
fn what_an_ended_writer_key_had_saved_stays_and_what_it_writes_then_does_not_count() {
    let play = Play::new("end-writer", "writer");
    let before = play.backup("other");
    let key = fs::read(play.scene.repository().join("keys").join(play.other())).unwrap();
    let thief = Thief::with(&play.scene.repository(), &play.scene.path("other"));
    // The stage can tell: until the key has ended it counts.
    let early = play.writes_like(&thief, &before);
    assert_eq!(play.listed().len(), 2);
    let id = play.other();
    play.scene.run(["key", "end", "-q", &id[..8]]).ok();
    play.run("other", &["snapshots"]).code(12);
    // Whoever has copied the slot brings it back.
    fs::write(play.scene.repository().join("keys").join(&id), key).unwrap();
    let refused = play.run("other", &["backup", play.scene.source().to_str().unwrap()]);
    refused.code(1).says("with a key that has ended");
    let keys = play.scene.run(["key", "list"]).ok().text();
    assert!(keys.contains("writer (ended)"), "{keys}");
    let late = play.writes_like(&thief, &before);
    if late != early {
        let ran = play.scene.run(["snapshots", "--json"]).ok();
        assert!(ran.err.contains("written by a key that has ended"), "{}", ran.err);
    }
    assert_eq!(play.listed(), [before["snapshot_id"].as_str().unwrap(), &early]);
    play.scene.latest_equals_source();
    // Neither does its lease hold anything back, nor its snapshot.
    age(&play.scene, 2 * 24 * 3600);
    play.scene.run(["prune", "--now", "-q"]).ok();
    play.scene.run(["check", "-q", "--read-data"]).ok();
    play.scene.latest_equals_source();
    // The slot that was brought back goes as well; then there is nothing left to end.
    play.scene.run(["key", "end", "-q", &id]).ok();
    assert!(!play.scene.repository().join("keys").join(&id).exists());
    let author = &before["snapshot_id"];
    let listed = play.scene.snapshots();
    let author = listed.iter().find(|s| s["id"] == *author).unwrap()["author"].as_str().unwrap();
    play.scene.run(["key", "end", author]).code(2).says("has ended already");
}

#[test]
fn what_an_ended_full_key_has_said_stays_said() {
    let play = Play::new("end-full", "full");
    let first = play.backup("other");
    let second = play.backup("other");
    let (first, second) = (first["snapshot_id"].as_str().unwrap(), second["snapshot_id"].as_str().unwrap());
    let third = play.backup("other")["snapshot_id"].as_str().unwrap().to_owned();
    play.run("other", &["forget", "-q", first]).ok();
    play.run("other", &["tag", "-q", "--hold", "--add", "kept", second]).ok();
    let thief = Thief::with(&play.scene.repository(), &play.scene.path("other"));
    let id = play.other();
    play.scene.run(["key", "end", "-q", &id]).ok();
    let listed = play.scene.snapshots();
    let shown = |s: &Value| (s["id"].as_str().unwrap().to_owned(), s["held"].as_bool().unwrap());
    let expected = [(second.to_owned(), true), (third.clone(), false)];
    assert_eq!(listed.iter().map(shown).collect::<Vec<_>>(), expected);
    assert_eq!(listed[0]["tags"], Value::from(vec!["kept"]));
    let forgotten = play.scene.run(["snapshots", "--forgotten", "--json"]).ok().json();
    assert_eq!(forgotten[0]["id"], first);
    // What it had stored is still known to all, and its snapshot a parent.
    let saved = play.scene.backup(&[]);
    assert_eq!(saved["parent"], Value::from(third.clone()));
    assert!(new_bytes(&saved) < PAGES && new_bytes(&play.scene.backup(&["--force"])) < PAGES);
    // What it says now counts for nothing.
    thief.notes(pastfs::format::snapshot::Action::Forget, &[SnapshotId::from_hex(&third).unwrap()]);
    assert_eq!(play.listed().len(), 4);
    let unseen = Draw(9).bytes(3000);
    thief.lies(&[&unseen]);
    fs::write(play.scene.source().join("unseen"), &unseen).unwrap();
    assert!(new_bytes(&play.scene.backup(&[])) >= 3000);
    play.scene.latest_equals_source();
    play.scene.run(["key", "end", &id]).code(1).says("no key has an id");
    let own = play.scene.run(["key", "list", "--json"]).ok().json();
    let own = own.as_array().unwrap().iter().find(|k| k["current"] == true).unwrap()["id"].clone();
    play.scene.run(["key", "end", own.as_str().unwrap()]).code(2).says("the key in use");
}

#[test]
fn with_rotated_keys_old_snapshots_are_read_and_nothing_is_stored_again() {
    let play = Play::new("rotate", "full");
    let first = play.backup("other");
    play.scene.run(["tag", "-q", "--add", "old", first["snapshot_id"].as_str().unwrap()]).ok();
    let thief = Thief::with(&play.scene.repository(), &play.scene.key());
    for round in 0..3 {
        play.scene.run(["key", "rotate", "-q"]).ok();
        let listed = play.scene.snapshots();
        assert_eq!(listed.len(), 1 + round, "after rotation {round}");
        assert_eq!(listed[0]["tags"], Value::from(vec!["old"]));
        play.scene.latest_equals_source();
        let saved = play.scene.backup(&[]);
        assert!(new_bytes(&saved) < PAGES, "{saved}");
        assert_eq!(saved["parent"], *listed.last().map(|s| &s["id"]).unwrap());
        assert!(new_bytes(&play.scene.backup(&["--force", "--dry-run"])) < PAGES);
    }
    play.scene.run(["check", "-q", "--read-data"]).ok();
    let what = format!("{}:{}", first["snapshot_id"].as_str().unwrap(), play.scene.source().display());
    same_trees(&play.scene.source(), &play.scene.restore(&what));

    // Another key is told, whatever it asks for.
    let keys = play.scene.run(["key", "list"]).ok().text();
    assert!(keys.contains("full (ended)"), "{keys}");
    for args in [&["snapshots"][..], &["backup", play.scene.source().to_str().unwrap()]] {
        play.run("other", args).code(12).says("keys of this repository were rotated");
    }
    // And nothing of its is read any more: the newest manifest is sealed under another key.
    let newest = play.scene.snapshots().last().unwrap()["id"].as_str().unwrap().to_owned();
    let object = fs::read(play.scene.repository().join("snapshots").join(newest)).unwrap();
    let aad = [&object[..12], &thief.id.0].concat();
    assert!(open_box(&thief.secrets.index_key, &aad, &object[12..]).is_err());
    // With the old secrets he still writes, and it counts for nobody.
    play.writes_like(&thief, &first);
    let ran = play.scene.run(["snapshots", "--json"]).ok();
    assert_eq!(ran.json().as_array().unwrap().len(), 4);
    assert!(ran.err.contains("written by a key that has ended"), "{}", ran.err);

    // New keys of all roles open what was written before.
    for role in ["writer", "reader", "full"] {
        play.scene.run(["key", "add", "-q", "--role", role, "--new-key-file", &format!("new-{role}")]).ok();
    }
    assert!(new_bytes(&play.backup("new-writer")) < PAGES);
    for role in ["reader", "full"] {
        let target = play.scene.path(&format!("restored-{role}"));
        let target = target.to_str().unwrap();
        play.run(&format!("new-{role}"), &["restore", "-q", &what, "--target", target]).ok();
        same_trees(&play.scene.source(), &PathBuf::from(target));
    }
    age(&play.scene, 2 * 24 * 3600);
    play.scene.run(["prune", "--now", "-q", "--max-unused", "0"]).ok();
    play.scene.run(["check", "-q", "--read-data"]).ok();
    let other = play.other();
    play.scene.run(["key", "remove", "-q", &other]).ok();
    play.run("other", &["snapshots"]).code(12).says("wrong key file");
}

#[test]
fn only_full_keys_end_and_rotate() {
    for role in ["writer", "reader"] {
        let play = Play::new("rotate-not", role);
        let before = play.scene.objects();
        play.run("other", &["key", "rotate"]).code(1).says("only a full key");
        play.run("other", &["key", "end", "0000"]).code(1).says("only a full key");
        assert_eq!(play.scene.objects(), before);
    }
}
