//! Keys that may do less: writers add and read nothing, readers read and add nothing.

use super::pruning::age;
use super::scene::{Draw, Ran, Scene, let_files_settle, same_trees};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Long enough for pages of its own in the tree, which a writer key cannot read.
const LONG: usize = 6 << 20;
/// Longest of the files that are kept in their entries, and so read each time.
const INLINE: u64 = 96;
/// Pages of the folders above the source, whose times other tests change.
const PAGES: u64 = 4000;

/// A repository with a source, and keys beside the full one, each with a cache of its own.
struct Crew {
    scene: Scene,
}

impl Crew {
    fn new(name: &str) -> Self {
        let scene = Scene::new(name);
        let mut draw = Draw(11);
        for n in 0..40 {
            let folder = scene.source().join(format!("d{}", n % 4));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(format!("{n}")), draw.bytes(1000 + n * 500)).unwrap();
        }
        fs::write(scene.source().join("long"), draw.bytes(LONG)).unwrap();
        fs::write(scene.source().join("tiny"), "inline").unwrap();
        std::os::unix::fs::symlink("long", scene.source().join("link")).unwrap();
        fs::hard_link(scene.source().join("d1/1"), scene.source().join("d1/other name")).unwrap();
        let_files_settle();
        Self { scene }
    }

    fn key(&self, name: &str) -> PathBuf {
        self.scene.path(&format!("{name}-key"))
    }

    /// Adds a key of this role, called by the first of its names.
    fn add(&self, name: &str, role: &str, more: &[&str]) {
        let key = self.key(name);
        let key = key.to_str().unwrap();
        let mut args = vec!["key", "add", "-q", "--role", role, "--label", name, "--new-key-file", key];
        args.extend(more);
        self.scene.run(args).ok();
    }

    fn command(&self, name: &str, args: &[&str]) -> Command {
        let mut command = self.scene.command(args);
        command.env("PASTFS_KEY_FILE", self.key(name));
        command.env("PASTFS_CACHE", self.scene.path(&format!("{name}-cache")));
        command
    }

    fn run(&self, name: &str, args: &[&str]) -> Ran {
        self.scene.run_command(self.command(name, args))
    }

    fn backup(&self, name: &str, more: &[&str]) -> Value {
        let source = self.scene.source();
        let mut args = vec!["backup", "--json", source.to_str().unwrap()];
        args.extend(more);
        self.run(name, &args).ok().json()
    }
}

fn number(value: &Value, name: &str) -> u64 {
    value["totals"][name].as_u64().unwrap_or_else(|| panic!("no {name} in {value}"))
}

#[test]
fn a_writer_backs_up_deduplicates_and_knows_what_is_unchanged() {
    let crew = Crew::new("writer");
    crew.scene.backup(&[]);
    crew.add("w", "writer", &[]);
    let first = crew.backup("w", &[]);
    assert!(number(&first, "new_bytes") < PAGES, "what a full key has stored is known: {first}");
    assert_eq!(first["new"], Value::from(43));
    let second = crew.backup("w", &[]);
    assert!(number(&second, "read_bytes") <= INLINE, "nothing has changed, and it was read: {second}");
    assert_eq!(
        (&second["new"], &second["changed"], &second["unchanged"]),
        (&0.into(), &0.into(), &43.into())
    );
    assert_eq!(second["parent"], first["snapshot_id"]);
    fs::write(crew.scene.source().join("d1/1"), Draw(5).bytes(9000)).unwrap();
    fs::write(crew.scene.source().join("d2/new"), Draw(6).bytes(7000)).unwrap();
    let_files_settle();
    let third = crew.backup("w", &[]);
    assert!((16_000..16_000 + 2 * PAGES).contains(&number(&third, "new_bytes")), "{third}");
    // Both names of the file with two of them were written.
    assert_eq!((&third["new"], &third["changed"]), (&1.into(), &2.into()));
    assert_eq!(crew.backup("w", &["--skip-if-unchanged"])["snapshot_id"], Value::Null);
    crew.scene.latest_equals_source();
    crew.scene.run(["check", "--read-data", "-q"]).ok();
}

#[test]
fn a_writer_whose_table_is_lost_reads_all_once_and_stores_nothing_again() {
    let crew = Crew::new("writer-table");
    crew.add("w", "writer", &[]);
    crew.backup("w", &[]);
    fs::remove_dir_all(crew.scene.path("w-cache")).unwrap();
    let second = crew.backup("w", &[]);
    assert!(number(&second, "read_bytes") > LONG as u64);
    assert!(number(&second, "new_bytes") < PAGES, "{second}");
    assert!(number(&crew.backup("w", &[]), "read_bytes") <= INLINE);
    crew.scene.latest_equals_source();
}

/// The pages of a long file cannot be read by who wrote it; what they name may be gone with the snapshot that held it.
#[test]
fn a_writer_relies_on_nothing_that_only_forgotten_snapshots_held() {
    let crew = Crew::new("writer-pruned");
    crew.add("w", "writer", &[]);
    crew.backup("w", &[]);
    assert!(number(&crew.backup("w", &[]), "read_bytes") <= INLINE, "the table is in use");
    for snapshot in crew.scene.snapshots() {
        crew.scene.run(["forget", "-q", snapshot["id"].as_str().unwrap()]).ok();
    }
    age(&crew.scene, 2 * 24 * 3600);
    crew.scene.run(["prune", "--now", "-q", "--max-unused", "0"]).ok();
    let again = crew.backup("w", &[]);
    assert!(number(&again, "new_bytes") > LONG as u64, "{again}");
    crew.scene.latest_equals_source();
    crew.scene.run(["check", "--read-data", "-q"]).ok();
}

#[test]
fn a_writer_relies_on_no_record_of_a_snapshot_that_is_gone() {
    let crew = Crew::new("writer-forget-one");
    crew.add("w", "writer", &[]);
    crew.backup("w", &[]);
    // The file's own snapshots go, others stay: the session of the record is not listed any more.
    let long = crew.scene.source().join("long");
    let aside = crew.scene.path("aside");
    fs::rename(&long, &aside).unwrap();
    crew.backup("w", &[]);
    let oldest = crew.scene.snapshots()[0]["id"].as_str().unwrap().to_string();
    crew.scene.run(["forget", "-q", &oldest]).ok();
    age(&crew.scene, 2 * 24 * 3600);
    crew.scene.run(["prune", "--now", "-q", "--max-unused", "0"]).ok();
    fs::rename(&aside, &long).unwrap();
    let_files_settle();
    crew.backup("w", &["--ignore-ctime"]);
    crew.scene.latest_equals_source();
}

#[test]
fn a_writer_sees_when_and_how_much_and_no_names() {
    let crew = Crew::new("writer-sees");
    crew.scene.backup(&["--host", "other", "--tag", "t"]);
    crew.add("w", "writer", &["--host", "web"]);
    let mine = crew.backup("w", &[]);
    let listed = crew.run("w", &["snapshots", "--json"]).ok().json();
    let listed = listed.as_array().unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!((&listed[0]["host"], &listed[1]["host"]), (&"other".into(), &"web".into()));
    assert_eq!(listed[1]["id"], mine["snapshot_id"]);
    assert!(number(&listed[0], "bytes") > LONG as u64);
    assert_eq!(listed[0]["paths"], Value::Array(vec![]));
    let told = crew.run("w", &["snapshots"]).ok().text();
    assert!(told.contains("web") && !told.contains("source"), "{told}");
    crew.run("w", &["leases"]).ok();
    assert!(crew.run("w", &["key", "list"]).ok().text().contains("writer"));

    let source = crew.scene.source();
    let source = source.to_str().unwrap();
    crew.run("w", &["backup", "--host", "other", source]).code(1).says("with the key of host web");
    let mnt = crew.scene.mnt();
    let target = crew.scene.path("restored");
    let (mnt, target) = (mnt.to_str().unwrap(), target.to_str().unwrap());
    let before = crew.scene.objects();
    for args in [
        &["ls", "latest"][..],
        &["cat", "latest:/etc/passwd"],
        &["find", "x"],
        &["versions", "/x"],
        &["diff", "latest", "latest"],
        &["mount", mnt],
        &["restore", "latest", "--target", target],
        &["export", "latest:/"],
        &["check"],
        &["check", "--read-data"],
        &["stats"],
    ] {
        crew.run("w", args).code(1).says("with a writer key").says("use a reader or a full key");
    }
    for args in FULL_ONLY {
        crew.run("w", &filled(args, &listed[0])).code(1).says("without a full key").says("only a full key");
    }
    assert_eq!(crew.scene.objects(), before);
    assert!(!PathBuf::from(target).exists());
}

/// What takes a full key; ID is a snapshot's.
const FULL_ONLY: &[&[&str]] = &[
    &["forget", "ID"],
    &["forget", "--keep-last", "1"],
    &["tag", "--add", "x", "ID"],
    &["tag", "--hold", "ID"],
    &["prune"],
    &["prune", "--dry-run"],
    &["repair", "index"],
    &["repair", "packs"],
    &["repair", "snapshots"],
    &["key", "add", "--new-key-file", "made-by-nobody"],
    &["key", "add", "--role", "writer", "--new-key-file", "made-by-nobody"],
];

fn filled<'a>(args: &[&'a str], snapshot: &'a Value) -> Vec<&'a str> {
    let id = snapshot["id"].as_str().unwrap();
    args.iter().map(|arg| if *arg == "ID" { id } else { *arg }).collect()
}

#[test]
fn a_reader_reads_everything_and_writes_nothing() {
    let crew = Crew::new("reader");
    crew.scene.backup(&[]);
    crew.add("r", "reader", &[]);
    let before = crew.scene.objects();
    let listed = crew.run("r", &["snapshots", "--json"]).ok().json();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert!(crew.run("r", &["snapshots"]).ok().text().contains("source"));
    crew.run("r", &["check", "--read-data", "-q"]).ok();
    crew.run("r", &["stats"]).ok();
    crew.run("r", &["find", "tiny"]).ok();
    let target = crew.scene.path("restored");
    let what = format!("latest:{}", crew.scene.source().display());
    crew.run("r", &["restore", "-q", &what, "--target", target.to_str().unwrap()]).ok();
    same_trees(&crew.scene.source(), &target);
    let mnt = crew.scene.mnt();
    crew.run("r", &["mount", mnt.to_str().unwrap()]).ok();
    same_trees(&crew.scene.source(), &crew.scene.source_in(&mnt));
    crew.run("r", &["umount", mnt.to_str().unwrap()]).ok();

    let source = crew.scene.source();
    for args in [&["backup", source.to_str().unwrap()][..], &["backup", "-n", source.to_str().unwrap()]] {
        crew.run("r", args).code(1).says("with a reader key").says("use a writer or a full key");
    }
    for args in FULL_ONLY {
        crew.run("r", &filled(args, &listed[0])).code(1).says("without a full key").says("only a full key");
    }
    assert_eq!(crew.scene.objects(), before, "a reader has changed the repository");
}

#[test]
fn keys_are_listed_with_their_roles_and_keep_them_with_a_new_password() {
    let crew = Crew::new("roles");
    crew.add("w", "writer", &["--host", "web"]);
    crew.add("r", "reader", &[]);
    crew.scene.run(["key", "add", "--host", "web", "--new-key-file", "x"]).code(2).says("only a writer key");
    let first = crew.backup("w", &[]);
    let roles = || {
        let listed = crew.scene.run(["key", "list", "--json"]).ok().json();
        let role = |k: &Value| format!("{} {}", k["label"].as_str().unwrap(), k["role"].as_str().unwrap());
        let mut roles: Vec<String> = listed.as_array().unwrap().iter().map(role).collect();
        roles.sort();
        roles
    };
    let before = roles();
    assert_eq!(before[1..], ["r reader", "w writer"]);
    for name in ["w", "r"] {
        let new = crew.key("new");
        crew.run(name, &["key", "passwd", "-q", "--new-key-file", new.to_str().unwrap()]).ok();
        crew.run(name, &["snapshots"]).code(12);
        fs::rename(new, crew.key(name)).unwrap();
    }
    assert_eq!(roles(), before);
    crew.run("r", &["ls", "latest"]).ok();
    // It is the same author: what it stored is known to it, and so are its files.
    let second = crew.backup("w", &[]);
    assert_eq!(second["parent"], first["snapshot_id"]);
    assert!(number(&second, "new_bytes") < PAGES);
    assert!(number(&second, "read_bytes") <= INLINE);
}

/// B3: what another writer says of chunks counts for nobody but himself.
#[test]
fn writers_do_not_rely_on_each_other() {
    let crew = Crew::new("two-writers");
    crew.add("a", "writer", &[]);
    crew.add("b", "writer", &[]);
    crew.backup("a", &[]);
    for name in ["b", "full"] {
        if name == "full" {
            fs::copy(crew.scene.key(), crew.key("full")).unwrap();
        }
        // In one cache with the other: what counts differs by key.
        let mut command = crew.command(name, &["backup", "--json", crew.scene.source().to_str().unwrap()]);
        command.env("PASTFS_CACHE", crew.scene.path("a-cache"));
        let stored = crew.scene.run_command(command).ok().json();
        assert!(number(&stored, "new_bytes") > LONG as u64, "{name} relies on a: {stored}");
    }
    // Of a full key everybody knows.
    assert!(number(&crew.backup("a", &["--force"]), "new_bytes") < PAGES);
    crew.scene.latest_equals_source();
}

/// A full key that has read what a writer stored signs it, and everybody knows it from then on.
#[test]
fn what_a_full_key_has_read_is_known_to_all() {
    let crew = Crew::new("vouch");
    crew.add("a", "writer", &["--host", "web"]);
    crew.add("b", "writer", &[]);
    crew.add("r", "reader", &[]);
    crew.backup("a", &[]);
    let before = crew.scene.objects();
    let told = crew.scene.run(["check", "--read-data"]).ok().text();
    assert!(told.contains("that only writer keys vouch for"), "{told}");
    crew.run("r", &["check", "--vouch"]).code(1).says("only a full key");
    crew.run("a", &["check", "--vouch"]).code(1).says("only a full key");
    assert_eq!(crew.scene.objects(), before, "a check without --vouch has written");
    let vouched = crew.scene.run(["check", "--vouch", "--json"]).ok().json();
    assert!(vouched["vouched_bytes"].as_u64().unwrap() > LONG as u64, "{vouched}");
    assert_eq!(vouched["unvouched_packs"], Value::from(0));
    let objects = crew.scene.objects();
    let new: Vec<_> = objects.iter().filter(|o| !before.contains(o)).collect();
    assert!(!new.is_empty() && new.iter().all(|o| o.starts_with("index")), "{new:?}");
    // There is nothing left to vouch for.
    let again = crew.scene.run(["check", "--vouch", "--json"]).ok().json();
    assert_eq!((&again["vouched_packs"], crew.scene.objects()), (&Value::from(0), objects));
    assert!(number(&crew.backup("b", &[]), "new_bytes") < PAGES);
    let by_full = crew.scene.backup(&[]);
    assert!(number(&by_full, "new_bytes") < PAGES, "{by_full}");
    crew.scene.latest_equals_source();
}

/// A damaged pack is not vouched for, and is told.
#[test]
fn what_is_not_whole_is_not_vouched_for() {
    let crew = Crew::new("vouch-not");
    crew.add("a", "writer", &["--host", "web"]);
    crew.backup("a", &[]);
    let objects = crew.scene.objects();
    let size = |p: &&PathBuf| fs::metadata(crew.scene.repository().join(p)).unwrap().len();
    let pack = objects.iter().filter(|p| p.starts_with("packs")).max_by_key(size).unwrap();
    let pack = crew.scene.repository().join(pack);
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let ran = crew.scene.run(["check", "--vouch", "--json"]).code(4);
    let told = ran.text();
    assert!(told.contains("the writer key of host web says of it"), "{told}");
    // The pack of trees is vouched for, that of the contents is not.
    assert_eq!((&ran.json()["vouched_packs"], &ran.json()["unvouched_packs"]), (&1.into(), &1.into()));
}
