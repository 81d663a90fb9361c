//! What is unchanged is not read, and what changed is.

use super::scene::{Draw, Scene, fill, let_files_settle};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

fn read(report: &Value) -> u64 {
    report["totals"]["read_files"].as_u64().unwrap_or_else(|| panic!("{report}"))
}

/// Gives a file other content of the same size, and its old mtime.
fn change_unseen(path: &Path, content: &[u8]) {
    let old = fs::metadata(path).unwrap();
    assert_eq!(old.len(), content.len() as u64);
    fs::write(path, content).unwrap();
    let at = Timespec { tv_sec: old.mtime(), tv_nsec: old.mtime_nsec() };
    let times = Timestamps { last_access: at, last_modification: at };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::empty()).unwrap();
}

#[test]
fn what_comes_and_goes_beside_the_way_to_what_is_saved_changes_nothing() {
    let scene = Scene::new("beside");
    let way = scene.source().join("on/the/way");
    fs::create_dir_all(&way).unwrap();
    fill(&way, 20, 20_000, 1);
    let_files_settle();
    let back_up = |more: &[&str]| {
        let args = [&["backup", "--json"], more, &[way.to_str().unwrap()]].concat();
        scene.run(args).ok().json()
    };
    let first = back_up(&[]);
    for n in 0..3 {
        fs::create_dir(scene.source().join(format!("beside {n}"))).unwrap();
        fs::write(scene.source().join("on").join(format!("file {n}")), b"beside").unwrap();
        let next = back_up(&[]);
        let stored = &next["totals"]["stored_bytes"];
        assert_eq!((stored, &next["totals"]["new_bytes"]), (&0.into(), &0.into()), "{next}");
    }
    assert!(back_up(&["--skip-if-unchanged"])["snapshot_id"].is_null());
    // Who may go that way is a change, and so is what lies at its end; then times are brought up to date.
    let id = |scene: &Scene| scene.snapshots().last().unwrap()["id"].as_str().unwrap().to_owned();
    let shown = |scene: &Scene| {
        scene.run(["ls", "-l", &format!("{}:{}", id(scene), scene.path("").display())]).ok().text()
    };
    let before = shown(&scene);
    fs::set_permissions(scene.source().join("on"), std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .unwrap();
    assert!(back_up(&["--skip-if-unchanged"])["snapshot_id"].is_string());
    assert_ne!(shown(&scene), before);
    fs::write(way.join("new"), b"new").unwrap();
    let last = back_up(&["--skip-if-unchanged"]);
    assert!(last["snapshot_id"].is_string());
    assert_ne!(last["snapshot_id"], first["snapshot_id"]);
}

#[test]
fn an_unchanged_tree_is_not_read_again_and_only_changes_are() {
    let scene = Scene::apart("incremental");
    let source = scene.source();
    fill(&source, 200, 20_000, 1);
    fs::write(source.join("big"), Draw(2).bytes(3_000_000)).unwrap();
    let_files_settle();
    let first = scene.backup(&[]);
    assert_eq!(read(&first), 201);
    assert_eq!(first["new"].as_u64(), Some(201), "{first}");
    let second = scene.backup(&[]);
    assert_eq!(read(&second), 0, "{second}");
    assert_eq!(second["totals"]["read_bytes"], 0);
    assert_eq!(second["parent"], first["snapshot_id"]);
    assert!(second["totals"]["stored_bytes"].as_u64().unwrap() < 16 << 10, "{second}");
    assert_eq!(second["totals"]["bytes"], first["totals"]["bytes"]);
    let_files_settle();

    // One changed, one new, one gone, one moved.
    fs::write(source.join("3/3"), b"other").unwrap();
    fs::write(source.join("new"), b"new").unwrap();
    fs::remove_file(source.join("4/4")).unwrap();
    fs::rename(source.join("5/5"), source.join("moved")).unwrap();
    let third = scene.backup(&[]);
    assert_eq!(read(&third), 3, "{third}");
    assert!(third["totals"]["new_bytes"].as_u64().unwrap() < 15_000, "a moved file is known: {third}");
    scene.latest_equals_source();

    let_files_settle();
    scene.backup(&[]);
    let forced = scene.backup(&["--force"]);
    assert_eq!(read(&forced), 201, "{forced}");
    assert!(forced["totals"]["new_bytes"].as_u64().unwrap() < 1000, "{forced}");
    let count = scene.snapshots().len();
    let skipped = scene.backup(&["--skip-if-unchanged"]);
    assert!(skipped["snapshot_id"].is_null(), "{skipped}");
    assert_eq!(scene.snapshots().len(), count);
    fs::write(source.join("new"), b"newer").unwrap();
    assert!(scene.backup(&["--skip-if-unchanged"])["snapshot_id"].is_string());
    assert_eq!(scene.snapshots().len(), count + 1);
    let dry = scene.backup(&["--dry-run"]);
    assert!(dry["snapshot_id"].is_null());
    assert_eq!(scene.snapshots().len(), count + 1);
}

#[test]
fn a_file_changed_back_to_its_size_and_mtime_is_read_again() {
    let scene = Scene::new("ctime");
    let file = scene.source().join("f");
    fs::write(&file, vec![b'a'; 5000]).unwrap();
    let_files_settle();
    scene.backup(&[]);
    change_unseen(&file, &[b'b'; 5000]);
    let_files_settle();
    let lenient = scene.backup(&["--ignore-ctime"]);
    assert_eq!(read(&lenient), 0, "{lenient}");
    // That run has made the new ctime known together with the old content: only --force would see it now.
    change_unseen(&file, &[b'c'; 5000]);
    let_files_settle();
    let strict = scene.backup(&[]);
    assert_eq!(read(&strict), 1, "{strict}");
    scene.latest_equals_source();
}

#[test]
fn what_changed_shortly_before_it_was_read_is_read_again() {
    let scene = Scene::new("fresh");
    let file = scene.source().join("f");
    fs::write(&file, vec![b'a'; 5000]).unwrap();
    assert_eq!(read(&scene.backup(&[])), 1);
    // Within the tick of a coarse clock nothing but the content may differ.
    change_unseen(&file, &[b'b'; 5000]);
    let_files_settle();
    assert_eq!(read(&scene.backup(&[])), 1);
    scene.latest_equals_source();
    assert_eq!(read(&scene.backup(&[])), 0);
}

#[test]
fn another_host_and_other_paths_are_no_parent() {
    let scene = Scene::new("parents");
    fs::write(scene.source().join("f"), b"f").unwrap();
    let_files_settle();
    scene.backup(&["--host", "a"]);
    assert!(scene.backup(&["--host", "b"])["parent"].is_null());
    let again = scene.backup(&["--host", "a"]);
    assert!(again["parent"].is_string());
    fs::write(scene.path("beside"), b"b").unwrap();
    let more = scene.run(["backup", "--json", "--host", "a", "source", "beside"]).ok().json();
    assert!(more["parent"].is_null(), "{more}");
}
