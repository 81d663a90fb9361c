//! Giving space back: beside readers and writers, in two steps, and never what a snapshot needs.

use super::scene::{Draw, Scene, let_files_settle, same_trees};
use pastfs::event::{Observer, Silent, Stop};
use pastfs::prune::{self, Options, Report, Unused};
use pastfs::repository::{Credential, OpenOptions, Repository, Sweep};
use pastfs::storage::Local;
use serde_json::Value;
use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

const MIB: usize = 1 << 20;
const HOUR: u64 = 3600;

fn bytes_in(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let size = |path: PathBuf| match path.is_dir() {
        true => bytes_in(&path),
        false => path.metadata().map_or(0, |m| m.len()),
    };
    entries.flatten().map(|e| size(e.path())).sum()
}

fn packs(scene: &Scene) -> u64 {
    bytes_in(&scene.repository().join("packs"))
}

fn count(scene: &Scene, folder: &str) -> usize {
    scene.objects().iter().filter(|p| p.starts_with(folder)).count()
}

fn id(snapshot: &Value) -> String {
    snapshot["id"].as_str().unwrap().to_string()
}

/// All objects get so many seconds older, by the clock of the store.
pub fn age(scene: &Scene, seconds: u64) {
    for object in scene.objects() {
        let file = File::options().write(true).open(scene.repository().join(object)).unwrap();
        let before = file.metadata().unwrap().modified().unwrap();
        file.set_modified(before - Duration::from_secs(seconds)).unwrap();
    }
}

fn open(scene: &Scene) -> Arc<Repository> {
    let mut key = [0; 32];
    key.copy_from_slice(&fs::read(scene.key()).unwrap());
    let store = Local::open(&scene.repository()).unwrap();
    let options = OpenOptions { cache: scene.cache(), observer: Arc::new(Silent) };
    Repository::open(Arc::new(store), &Credential::KeyFile(key.into()), options).unwrap()
}

/// One run with a grace time in seconds, which the command does not let be less than an hour.
fn prune_after(scene: &Scene, grace: i64) -> pastfs::fault::Result<Report> {
    let options = Options {
        grace,
        max_unused: Unused::Bytes(0),
        max_repack: u64::MAX,
        now: false,
        dry_run: false,
        compression: Default::default(),
        host: b"h".to_vec(),
        drop: HashSet::new(),
    };
    let observer: Arc<dyn Observer> = Arc::new(Silent);
    prune::run(&open(scene), &options, &observer, &Stop::new(), &mut |_| ())
}

/// Two snapshots of which the first needs much that the second does not.
fn two(name: &str) -> (Scene, Vec<String>) {
    let scene = Scene::new(name);
    let source = scene.source();
    fs::write(source.join("both"), Draw(1).bytes(3 * MIB)).unwrap();
    fs::write(source.join("first"), Draw(2).bytes(4 * MIB)).unwrap();
    fs::create_dir(source.join("folder")).unwrap();
    for n in 0..50 {
        fs::write(source.join(format!("folder/{n}")), Draw(100 + n).bytes(3000)).unwrap();
    }
    scene.backup(&[]);
    fs::remove_file(source.join("first")).unwrap();
    fs::write(source.join("second"), Draw(3).bytes(MIB)).unwrap();
    fs::write(source.join("folder/7"), "changed").unwrap();
    scene.backup(&[]);
    let ids = scene.snapshots().iter().map(id).collect();
    (scene, ids)
}

#[test]
fn what_only_a_forgotten_snapshot_needs_is_given_back_and_all_else_stays() {
    let (scene, ids) = two("prune-now");
    let mount = scene.mount(&[]);
    let before = packs(&scene);
    scene.run(["forget", &ids[0]]).ok();
    // What was written in the same second is spared.
    age(&scene, 60);
    let told = scene.run(["prune", "--now", "--max-unused", "0"]).ok();
    assert!(told.text().contains("freeing"), "{}", told.text());
    let freed = before - packs(&scene);
    assert!(freed > 3 * MIB as u64, "freed {freed} bytes of {before}");
    assert_eq!(count(&scene, "snapshots"), 1);
    assert_eq!(count(&scene, "leases"), 0);
    scene.run(["check", "--read-data"]).ok();
    scene.latest_equals_source();
    // Who had it mounted before reads what was moved.
    same_trees(&scene.source(), &scene.source_in(&mount.dir));
    mount.unmount();
    scene.run(["forget", "--undo", &ids[0]]).code(1).says("no snapshot has an id");
    // It is no alarm that the snapshot has gone, here and where its end was not seen.
    assert_eq!(scene.run(["snapshots"]).ok().err, "");
    // The next backup relies on nothing that has gone.
    fs::write(scene.source().join("first"), Draw(2).bytes(4 * MIB)).unwrap();
    scene.backup(&[]);
    scene.latest_equals_source();
    scene.run(["check", "--read-data"]).ok();
}

#[test]
fn a_run_retires_and_the_next_one_deletes() {
    let (scene, ids) = two("prune-twice");
    scene.run(["forget", &ids[0]]).ok();
    let before = packs(&scene);
    age(&scene, 2 * HOUR);
    let first = prune_after(&scene, HOUR as i64).unwrap();
    assert_eq!((first.snapshots, first.deleted.0), (1, 0));
    assert!(first.retired > 0 && first.moved.0 > 0, "{first:?}");
    assert!(packs(&scene) > before, "nothing is deleted yet, and what is needed was moved");
    scene.run(["check", "--read-data"]).ok();
    scene.latest_equals_source();
    // Not before its time.
    assert_eq!(prune_after(&scene, HOUR as i64).unwrap().deleted.0, 0);
    let second = prune_after(&scene, 0).unwrap();
    assert_eq!(second.deleted.0, first.retired);
    assert!(packs(&scene) < before - 3 * MIB as u64);
    scene.run(["check", "--read-data"]).ok();
    scene.latest_equals_source();
    // And then there is nothing left to do.
    let third = prune_after(&scene, 0).unwrap();
    assert_eq!((third.deleted.0, third.retired, third.stored), (0, 0, 0));
}

#[test]
fn notes_go_a_year_after_the_last_word_on_what_is_gone() {
    const DAY: u64 = 24 * HOUR;
    let (scene, ids) = two("prune-notes");
    scene.run(["tag", "--add", "old", &ids[0]]).ok();
    scene.run(["tag", "--add", "kept", &ids[1]]).ok();
    scene.run(["forget", &ids[0]]).ok();
    age(&scene, 2 * DAY);
    scene.run(["snapshots"]).ok();
    let summary = scene.run(["prune", "--json"]).ok().json();
    assert_eq!((&summary["snapshots_deleted"], &summary["notes_deleted"]), (&1.into(), &0.into()));
    assert_eq!(count(&scene, "notes"), 3);
    age(&scene, 300 * DAY);
    scene.run(["prune"]).ok();
    assert_eq!(
        count(&scene, "notes"),
        3,
        "a machine that comes back may not know yet why the snapshot is gone"
    );
    age(&scene, 70 * DAY);
    scene.run(["prune", "-n"]).ok();
    assert_eq!(count(&scene, "notes"), 3, "a dry run deletes nothing");
    assert_eq!(scene.run(["prune", "--json"]).ok().json()["notes_deleted"], 2);
    assert_eq!(count(&scene, "notes"), 1, "what is said of a snapshot that is there stays");
    // Nobody is alarmed: not this machine, which has seen them, nor one that has not.
    for _ in 0..2 {
        let ran = scene.run(["snapshots", "--json"]).ok();
        assert!(ran.err.is_empty() && ran.text().contains("kept"), "{}", ran.err);
        scene.run(["check", "-q"]).ok();
        fs::remove_dir_all(scene.cache()).unwrap();
    }
    scene.latest_equals_source();
}

#[test]
fn a_note_that_vanishes_while_its_snapshot_is_there_is_told_and_nothing_is_deleted() {
    for hidden in ["hold", "forget", "tag"] {
        let (scene, ids) = two("prune-hidden");
        let short = &ids[0][..8];
        match hidden {
            "hold" => scene.run(["tag", "--hold", &ids[0]]).ok(),
            "forget" => scene.run(["forget", &ids[0]]).ok(),
            _ => scene.run(["tag", "--add", "x", &ids[0]]).ok(),
        };
        scene.run(["snapshots"]).ok();
        scene.shell("mv repository/notes hidden").ok();
        let told = scene.run(["snapshots"]).ok().err;
        for part in ["1 note has vanished", hidden, short, "--accept-vanished"] {
            assert!(told.contains(part), "{part}: {told}");
        }
        let found = scene.run(["check", "--json"]).code(4).text();
        assert!(found.contains("notes/") && found.contains("--accept-vanished"), "{found}");
        let refused = scene.run(["prune", "--now"]).fails().err;
        assert!(refused.contains("nothing was deleted"), "{refused}");
        scene.shell("rmdir repository/notes; mv hidden repository/notes").ok();
        assert!(scene.run(["snapshots"]).ok().err.is_empty(), "it is back");
        scene.shell("rm -r repository/notes").ok();
        scene.run(["snapshots", "--accept-vanished"]).ok();
        assert!(scene.run(["snapshots"]).ok().err.is_empty());
        scene.run(["check", "-q"]).ok();
        scene.run(["prune"]).ok();
    }
}

#[test]
fn what_is_at_work_without_a_lease_says_what_it_is() {
    let (scene, _) = two("prune-marks");
    let repository = open(&scene);
    for purpose in ["prune", "repair index", "repair packs", "repair objects"] {
        let mark = Sweep::begin(&repository, b"h", false, purpose).unwrap();
        let lease = scene.run(["leases", "--json"]).ok().json();
        assert_eq!((&lease["purpose"], &lease["state"]), (&purpose.into(), &"sweeping".into()));
        drop(mark);
        assert_eq!(scene.run(["leases"]).ok().text(), "nobody is about to write a snapshot\n");
    }
    assert!(Sweep::begin(&repository, b"h", false, "something").is_err());
}

/// Two snapshots, the first of which was forgotten, and brought back after what it alone needs was retired; their ids, and what
/// is in the first.
fn brought_back(name: &str) -> (Scene, Vec<String>, PathBuf) {
    let (scene, ids) = two(name);
    let first = scene.restore(&ids[0]);
    scene.run(["forget", &ids[0]]).ok();
    age(&scene, 2 * HOUR);
    // The packs are old enough; the note, which is younger, is not.
    for note in scene.objects().iter().filter(|p| p.starts_with("notes")) {
        let file = File::options().write(true).open(scene.repository().join(note)).unwrap();
        file.set_modified(SystemTime::now()).unwrap();
    }
    let run = prune_after(&scene, HOUR as i64).unwrap();
    assert_eq!(run.snapshots, 0);
    assert!(run.retired > 0, "{run:?}");
    scene.run(["forget", "--undo", &ids[0]]).ok();
    same_trees(&first, &scene.restore(&ids[0]));
    (scene, ids, first)
}

/// All segments are gone, and this machine remembers what was retired; or those alone are that name the packs.
#[test]
fn what_lies_in_retired_packs_alone_is_found_when_the_index_is_rebuilt() {
    for all_are_lost in [true, false] {
        let (scene, ids, first) = brought_back("prune-rebuilt");
        let segments =
            || -> Vec<PathBuf> { scene.objects().into_iter().filter(|p| p.starts_with("index")).collect() };
        if all_are_lost {
            // With it the cache is written, which knows then what is retired.
            fs::write(scene.source().join("more"), Draw(9).bytes(100_000)).unwrap();
            let_files_settle();
            scene.backup(&[]);
        }
        let newest = segments()
            .into_iter()
            .max_by_key(|s| fs::metadata(scene.repository().join(s)).unwrap().modified().unwrap());
        for segment in segments().iter().filter(|s| all_are_lost || Some(*s) != newest.as_ref()) {
            fs::remove_file(scene.repository().join(segment)).unwrap();
        }
        assert_ne!(scene.run(["restore", &ids[0], "--target", "/nowhere/to/be", "-n"]).code, Some(0));
        let summary = scene.run(["repair", "index", "--json"]).ok().json();
        assert_eq!(summary["retired_again"].as_u64() > Some(0), all_are_lost, "{summary}");
        same_trees(&first, &scene.restore(&ids[0]));
        let run = prune_after(&scene, 0).unwrap();
        assert!(run.moved.0 > 0, "{run:?}");
        prune_after(&scene, 0).unwrap();
        same_trees(&first, &scene.restore(&ids[0]));
        scene.run(["check", "--read-data"]).ok();
    }
}

#[test]
fn a_snapshot_comes_back_whole_after_its_packs_were_retired() {
    let (scene, ids, first) = brought_back("prune-undo");
    // What the next runs delete is moved out before, as it is needed again.
    let run = prune_after(&scene, 0).unwrap();
    assert!(run.deleted.0 > 0 && run.moved.0 > 0, "{run:?}");
    prune_after(&scene, 0).unwrap();
    same_trees(&first, &scene.restore(&ids[0]));
    scene.run(["check", "--read-data"]).ok();
}

#[test]
fn a_dry_run_changes_nothing() {
    let (scene, ids) = two("prune-dry");
    scene.run(["forget", &ids[0]]).ok();
    age(&scene, 48 * HOUR);
    let content = || -> Vec<(PathBuf, Vec<u8>)> {
        let read = |p: PathBuf| fs::read(scene.repository().join(&p)).map(|b| (p, b)).unwrap();
        scene.objects().into_iter().map(read).collect()
    };
    let before = content();
    let told = scene.run(["prune", "-n"]).ok();
    assert!(told.text().contains("would retire"), "{}", told.text());
    assert!(content() == before, "a dry run has changed the repository");
    let plan = scene.run(["prune", "-n", "--json"]).ok().json();
    assert_eq!(plan["message_type"], "plan");
    assert!(plan["packs_to_retire"].as_u64() > Some(0), "{plan}");
}

#[test]
fn nothing_is_deleted_when_something_that_is_listed_cannot_be_read() {
    let (scene, ids) = two("prune-damage");
    age(&scene, 60);
    scene.run(["forget", &ids[0]]).ok();
    let repository = scene.repository();
    let objects = scene.objects();
    for folder in ["snapshots", "notes", "index", "packs"] {
        let object = objects.iter().find(|p| p.starts_with(folder)).unwrap();
        let path = repository.join(object);
        let content = fs::read(&path).unwrap();
        let mut bad = content.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        // A pack that is missing loses chunks; one that is only flipped is found when it is moved.
        if folder == "packs" {
            fs::remove_file(&path).unwrap()
        } else {
            fs::write(&path, bad).unwrap()
        }
        // A machine that has seen it whole does not read it again.
        fs::remove_dir_all(scene.cache()).unwrap();
        scene.run(["prune", "--now"]).code(4).says("nothing was deleted");
        fs::write(&path, content).unwrap();
        assert_eq!(
            scene.objects().iter().filter(|p| !p.starts_with("index")).count(),
            objects.len() - count_of(&objects, "index")
        );
    }
    // A snapshot that this machine has seen, and that nobody has forgotten.
    let manifest = repository.join("snapshots").join(&ids[1]);
    let content = fs::read(&manifest).unwrap();
    scene.run(["snapshots"]).ok();
    fs::remove_file(&manifest).unwrap();
    scene.run(["prune", "--now"]).code(4).says("not there any more");
    fs::write(&manifest, content).unwrap();
    scene.run(["prune", "--now"]).ok();
    scene.latest_equals_source();
}

fn count_of(objects: &[PathBuf], folder: &str) -> usize {
    objects.iter().filter(|p| p.starts_with(folder)).count()
}

#[test]
fn a_frame_that_cannot_be_moved_keeps_its_pack() {
    let (scene, ids) = two("prune-frame");
    age(&scene, 60);
    scene.run(["forget", &ids[0]]).ok();
    let largest = |p: &&PathBuf| fs::metadata(scene.repository().join(p)).unwrap().len();
    let objects = scene.objects();
    let pack = objects.iter().filter(|p| p.starts_with("packs")).max_by_key(largest).unwrap();
    let path = scene.repository().join(pack);
    let content = fs::read(&path).unwrap();
    // Spread over the pack, so that something that is needed is hit.
    let mut bad = content.clone();
    for at in (4096..bad.len() - 100_000).step_by(50_000) {
        bad[at] ^= 1;
    }
    fs::write(&path, bad).unwrap();
    age(&scene, 60);
    let told = scene.run(["prune", "--now", "--max-unused", "0"]).code(4);
    told.says("is damaged and stays");
    assert!(path.exists(), "a pack was deleted from which not everything could be moved");
    fs::write(&path, content).unwrap();
    age(&scene, 60);
    scene.run(["check", "--read-data"]).ok();
    scene.run(["prune", "--now", "--max-unused", "0"]).ok();
    assert!(!path.exists());
    scene.latest_equals_source();
    scene.run(["check", "--read-data"]).ok();
}

#[test]
fn what_a_backup_may_rely_on_waits_until_it_has_ended_or_is_silent_for_an_hour_and_a_run() {
    let (scene, ids) = two("prune-lease");
    // What is younger than the oldest lease stays.
    age(&scene, 60);
    // A backup that is killed leaves its lease.
    let times = fs::metadata(scene.source()).unwrap().modified().unwrap();
    fs::write(scene.source().join("long"), Draw(9).bytes(40 * MIB)).unwrap();
    let before = count(&scene, "leases");
    assert_eq!(before, 0);
    let source = scene.source();
    let backup = scene.start(scene.command(["backup".as_ref(), source.as_os_str()]));
    let began = Instant::now();
    while count(&scene, "leases") < 2 && began.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(1));
    }
    backup.signal(libc::SIGKILL);
    backup.wait();
    fs::remove_file(source.join("long")).unwrap();
    File::open(&source).unwrap().set_modified(times).unwrap();
    assert!(count(&scene, "leases") > 0, "the backup ended before it could be killed");
    let told = scene.run(["leases"]).ok();
    assert!(told.text().contains("backup"), "{}", told.text());

    scene.run(["forget", &ids[0]]).ok();
    let first = prune_after(&scene, 0).unwrap();
    assert_eq!(first.snapshots, 0, "the backup has not seen the note");
    assert!(first.retired > 0);
    assert_eq!(first.plan.sessions.len(), 1);
    assert_eq!(prune_after(&scene, 0).unwrap().deleted.0, 0, "the backup has not seen what was retired");
    let told = scene.run(["leases"]).ok();
    assert!(told.text().contains("what 1 sweep retired, what 1 note forgot"), "{}", told.text());

    // Silent: ended by the next run, and counted by it once more.
    age(&scene, 2 * HOUR);
    scene.run(["prune", "--now"]).code(1).says("silent for an hour");
    assert_eq!(count(&scene, "leases"), 0);
    let last = prune_after(&scene, 0).unwrap();
    assert!(last.deleted.0 > 0 && last.snapshots == 1, "{last:?}");
    scene.latest_equals_source();
    scene.run(["check", "--read-data"]).ok();
}

#[test]
fn a_lease_that_cannot_be_read_holds_everything_back_until_it_is_dropped() {
    let (scene, ids) = two("prune-strange");
    age(&scene, 60);
    let session = "ab".repeat(16);
    fs::create_dir_all(scene.repository().join("leases")).unwrap();
    fs::write(scene.repository().join(format!("leases/{session}-1")), "rubbish").unwrap();
    scene.run(["forget", &ids[0]]).ok();
    assert!(prune_after(&scene, 0).unwrap().retired > 0);
    age(&scene, 48 * HOUR);
    assert_eq!(prune_after(&scene, 0).unwrap().deleted.0, 0);
    let told = scene.run(["leases"]).ok();
    assert!(told.text().contains("cannot be read"), "{}", told.text());
    scene.run(["prune", "--drop-lease", "cd"]).code(2).says("there is no session");
    // It counts once more, as it may be of a backup that is about to end.
    scene.run(["prune", "--drop-lease", "abab"]).ok().says("cannot be read");
    assert_eq!(count(&scene, "leases"), 0);
    assert!(prune_after(&scene, 0).unwrap().deleted.0 > 0);
    scene.latest_equals_source();
}

#[test]
fn small_packs_and_segments_become_few() {
    let scene = Scene::new("prune-merge");
    for n in 0..20 {
        fs::write(scene.source().join(format!("file{n}")), Draw(n).bytes(2000)).unwrap();
        scene.backup(&["--time", &format!("2024-03-04 10:00:{n:02}")]);
    }
    let (before, segments) = (count(&scene, "packs"), count(&scene, "index"));
    assert!(before >= 40 && segments >= 20, "{before} packs, {segments} segments");
    age(&scene, 48 * HOUR);
    let run = prune_after(&scene, 0).unwrap();
    assert_eq!(run.retired as usize, before);
    assert!(run.segments.0 >= 20, "{run:?}");
    prune_after(&scene, 0).unwrap();
    assert!(count(&scene, "packs") <= 4, "{} packs", count(&scene, "packs"));
    // An hour later what was merged goes.
    age(&scene, 2 * HOUR);
    let run = prune_after(&scene, 0).unwrap();
    assert!(run.segments.1 >= 20, "{run:?}");
    assert!(count(&scene, "index") < 10, "{} segments", count(&scene, "index"));
    // For this machine, and for one that has seen nothing of it.
    for _ in 0..2 {
        scene.run(["check", "--read-data"]).ok();
        scene.latest_equals_source();
        assert_eq!(scene.snapshots().len(), 20);
        let first = scene.restore(&format!("{}:{}", id(&scene.snapshots()[0]), scene.source().display()));
        assert_eq!(fs::read(first.join("file0")).unwrap(), Draw(0).bytes(2000));
        assert_eq!(fs::read_dir(&first).unwrap().count(), 1);
        fs::remove_dir_all(scene.cache()).unwrap();
    }
}

#[test]
fn what_a_killed_backup_left_behind_goes_once_it_is_old() {
    let (scene, _) = two("prune-strays");
    let stray = scene.repository().join("packs/00").join("00".repeat(32));
    fs::create_dir_all(stray.parent().unwrap()).unwrap();
    fs::write(&stray, Draw(4).bytes(100_000)).unwrap();
    // A backup may be about to name it.
    prune_after(&scene, 0).unwrap();
    prune_after(&scene, 0).unwrap();
    assert!(stray.exists());
    age(&scene, 48 * HOUR);
    assert_eq!(prune_after(&scene, 0).unwrap().retired, 1);
    assert!(stray.exists());
    assert_eq!(prune_after(&scene, 0).unwrap().deleted.0, 1);
    assert!(!stray.exists());
    scene.run(["check"]).ok();
}

#[test]
fn a_prune_that_is_killed_at_any_moment_loses_nothing_and_is_gone_on_with() {
    let (scene, ids) = two("prune-kill");
    scene.run(["forget", &ids[0]]).ok();
    let began = Instant::now();
    scene.run(["prune", "-n"]).ok();
    let whole = began.elapsed() * 2;
    let mut draw = Draw(11);
    for round in 0..25 {
        fs::write(scene.source().join("second"), Draw(200 + round).bytes(MIB)).unwrap();
        scene.backup(&[]);
        age(&scene, 5);
        let prune = scene.start(scene.command(["prune", "--now", "--max-unused", "0"]));
        std::thread::sleep(whole.mul_f64((draw.next() % 1000) as f64 / 1000.0));
        prune.signal(libc::SIGKILL);
        prune.wait();
        let newest = scene.snapshots().len();
        for old in scene.snapshots().iter().take(newest.saturating_sub(2)) {
            scene.run(["forget", "-q", &id(old)]).ok();
        }
        if round % 5 == 4 {
            scene.run(["check", "--read-data"]).ok();
            scene.latest_equals_source();
        }
    }
    age(&scene, 5);
    scene.run(["prune", "--now", "--max-unused", "0"]).ok();
    scene.run(["check", "--read-data"]).ok();
    scene.latest_equals_source();
    assert!(packs(&scene) < 9 * MIB as u64, "{} bytes are left", packs(&scene));
}

#[test]
fn backups_prunes_and_readers_side_by_side_lose_nothing() {
    let (scene, _) = two("prune-beside");
    let mount = scene.mount(&[]);
    let source = scene.source();
    let there = mount.dir.join(&mount.dated()[1]).join(source.strip_prefix("/").unwrap());
    let end = Instant::now() + Duration::from_secs(12);
    std::thread::scope(|scope| {
        for host in ["a", "b"] {
            let scene = &scene;
            scope.spawn(move || {
                let source = scene.path(&format!("source-{host}"));
                fs::create_dir(&source).unwrap();
                let mut n = 0;
                while Instant::now() < end {
                    n += 1;
                    // The same content comes and goes, so that it is known, retired and stored anew.
                    fs::write(source.join("file"), Draw(n % 3).bytes(MIB / 2)).unwrap();
                    let args = ["backup", "-q", "--host", host];
                    scene.run(args.iter().map(AsRef::as_ref).chain([source.as_os_str()])).ok();
                    scene.run(["forget", "-q", "--host", host, "--keep-last", "1"]).ok();
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                while Instant::now() < end {
                    prune_after(&scene, 0).unwrap();
                }
            });
        }
        scope.spawn(|| {
            while Instant::now() < end {
                same_trees(&source, &there);
            }
        });
    });
    scene.run(["check", "--read-data"]).ok();
    for host in ["a", "b"] {
        let source = scene.path(&format!("source-{host}"));
        let target = scene.path(&format!("back-{host}"));
        let what = format!("latest:{}", source.display());
        let args = ["restore", "-q", "--host", host, &what, "--target"];
        scene.run(args.iter().map(AsRef::as_ref).chain([target.as_os_str()])).ok();
        same_trees(&source, &target);
    }
    mount.unmount();
}

#[test]
fn forget_can_prune_as_well() {
    let (scene, ids) = two("prune-forget");
    age(&scene, 48 * HOUR);
    let told = scene.run(["forget", "--prune", &ids[0]]).ok();
    assert!(told.text().contains("retired"), "{}", told.text());
    assert_eq!(scene.snapshots().len(), 1);
    scene.run(["forget", "--undo", &ids[0]]).ok();
    scene.restore(&ids[0]);
}
