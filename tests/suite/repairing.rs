//! `repair`: what is damaged is mended from what is left, what is lost is said, and nothing else is touched.

use super::scene::{Draw, Ran, Scene, fill, let_files_settle, same_trees};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const CHECK: &[&str] = &["check", "--json", "--read-data"];

fn write(path: &Path, bytes: &[u8]) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path, bytes).unwrap();
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    write(path, &bytes);
}

fn lines(ran: &Ran, kind: &str) -> Vec<Value> {
    let lines = ran.text();
    let lines = lines.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    lines.filter(|l| l["message_type"] == kind).collect()
}

#[track_caller]
fn findings(scene: &Scene) -> Vec<Value> {
    let ran = scene.run(CHECK).orderly();
    let found = lines(&ran, "finding");
    assert_eq!(ran.code, Some(if found.is_empty() { 0 } else { 4 }), "{}", ran.err);
    found
}

#[track_caller]
fn clean(scene: &Scene) {
    let found = findings(scene);
    assert!(found.is_empty(), "{found:?}");
}

fn of_kind(scene: &Scene, kind: &str) -> Vec<PathBuf> {
    scene.objects().into_iter().filter(|o| o.starts_with(kind)).collect()
}

fn size(scene: &Scene, object: &Path) -> u64 {
    fs::metadata(scene.repository().join(object)).unwrap().len()
}

/// The pack in which most bytes of data lie; others hold trees.
fn largest_pack(scene: &Scene) -> PathBuf {
    of_kind(scene, "packs").into_iter().max_by_key(|p| size(scene, p)).unwrap()
}

/// Small files and a large one, saved in two snapshots of two packs of data each; unchanged since, for the next backup.
/// Beside the source lies a copy of what it was for the first snapshot.
fn scene(name: &str) -> Scene {
    let scene = Scene::new(name);
    let source = scene.source();
    fill(&source, 24, 15_000, 1);
    fs::write(source.join("large"), Draw(2).bytes(2_500_000)).unwrap();
    fs::write(source.join("sparse"), Draw(5).bytes(70_000)).unwrap();
    let_files_settle();
    scene.backup(&[]);
    scene.shell("cp -a source first").ok();
    fs::write(source.join("later"), Draw(3).bytes(100_000)).unwrap();
    let_files_settle();
    scene.backup(&["--tag", "t"]);
    scene
}

/// Both snapshots hold what the source was.
#[track_caller]
fn whole(scene: &Scene) {
    let snapshots = scene.snapshots();
    let id = snapshots[0]["id"].as_str().unwrap();
    let target = scene.restore(&format!("{id}:{}", scene.source().display()));
    same_trees(&scene.path("first"), &target);
    scene.latest_equals_source();
}

#[test]
fn an_index_that_is_lost_is_rebuilt_from_the_packs() {
    for is_warm in [true, false] {
        let scene = scene("index");
        let packs = of_kind(&scene, "packs").len();
        fs::remove_dir_all(scene.repository().join("index")).unwrap();
        if !is_warm {
            fs::remove_dir_all(scene.cache()).unwrap();
        }
        assert!(!findings(&scene).is_empty());
        let before = scene.objects();
        let ran = scene.run(["repair", "index", "--dry-run", "--json"]).orderly();
        assert_eq!(ran.json()["adopted_packs"], packs);
        assert_eq!(before, scene.objects(), "a dry run wrote");
        let summary = scene.run(["repair", "index", "--json"]).ok().json();
        assert_eq!(summary["adopted_packs"], packs);
        assert_eq!(summary["lost_chunks"], 0);
        clean(&scene);
        fs::remove_dir_all(scene.cache()).unwrap();
        clean(&scene);
        whole(&scene);
        // Backups know all of it: what is adopted counts.
        let report = scene.backup(&["--force"]);
        assert!(report["totals"]["new_bytes"].as_u64().unwrap() < 10_000, "{report}");
        let again = scene.run(["repair", "index", "--json"]).ok().json();
        assert_eq!(again["adopted_packs"], 0);
    }
}

#[test]
fn a_damaged_segment_goes_once_its_packs_are_named_by_another() {
    let scene = scene("segment");
    for n in 0..of_kind(&scene, "index").len() {
        for at in [0, 300] {
            let segment = &of_kind(&scene, "index")[n];
            flip(&scene.repository().join(segment), at);
            assert!(!findings(&scene).is_empty());
            let summary = scene.run(["repair", "index", "--json"]).ok().json();
            assert_eq!(summary["deleted_segments"].as_array().unwrap().len(), 1, "{summary}");
            assert!(!scene.repository().join(segment).exists());
            clean(&scene);
            whole(&scene);
        }
    }
}

#[test]
fn what_is_no_object_is_left_and_named() {
    let scene = scene("foreign");
    for stranger in ["index/readme", "packs/ab/holiday.jpg", "desktop.ini"] {
        let path = scene.repository().join(stranger);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, b"what is this?").unwrap();
    }
    let before = scene.objects();
    let ran = scene.run(["repair", "index", "--json"]).code(4);
    assert_eq!(lines(&ran, "left").len(), 3, "{}", ran.text());
    assert_eq!(before, scene.objects());
}

#[test]
fn snapshots_are_written_anew_without_what_is_lost_and_say_so() {
    let scene = scene("anew");
    scene.run(["tag", "--hold", "latest"]).ok();
    scene.shell("cp -a repository sound").ok();
    // The large file and most small ones are in it.
    fs::remove_file(scene.repository().join(largest_pack(&scene))).unwrap();
    let before = scene.objects();
    let ran = scene.run(["repair", "snapshots", "--dry-run", "--json"]).code(4);
    assert_eq!(before, scene.objects(), "a dry run wrote");
    assert_eq!(lines(&ran, "hurt_snapshot").len(), 2);
    let old = scene.snapshots();
    let ran = scene.run(["repair", "snapshots", "--json"]).code(4);
    let mended = lines(&ran, "hurt_snapshot");
    let all = scene.snapshots();
    assert_eq!(all.len(), 4, "{all:?}");
    for (m, old) in mended.iter().zip(&old) {
        let new = all.iter().find(|s| s["id"] == m["new_snapshot_id"]).unwrap();
        for key in ["time", "hostname", "paths", "held"] {
            assert_eq!(new[key], old[key], "{key}");
        }
        let tags: Vec<&str> = new["tags"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
        let mut expected: Vec<&str> =
            old["tags"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
        expected.push("repaired");
        expected.sort_unstable();
        assert_eq!(tags, expected);
        let lost = m["files"].as_array().unwrap();
        assert_eq!(m["files_lost"], lost.len());
        assert!(!lost.is_empty());
        // What is not lost comes back, byte for byte, and restores without an error.
        let id = new["id"].as_str().unwrap();
        let target = scene.restore(&format!("{id}:{}", scene.source().display()));
        for file in lost {
            let path = PathBuf::from(file["path"].as_str().unwrap());
            let below = path.strip_prefix(scene.source()).unwrap();
            assert!(!target.join(below).exists(), "{below:?} is lost and there");
            if below != Path::new("later") {
                fs::copy(scene.path("first").join(below), target.join(below)).unwrap();
            }
        }
        scene
            .shell(&format!(
                "diff -r {} {}",
                if old["tags"].as_array().unwrap().is_empty() { "first" } else { "source" },
                target.display()
            ))
            .ok();
    }
    // Again: the same ones are found, none is written.
    let ran = scene.run(["repair", "snapshots", "--json"]).code(4);
    assert!(lines(&ran, "hurt_snapshot").iter().all(|m| m["was_there"] == true), "{}", ran.text());
    assert_eq!(scene.snapshots().len(), 4);
    // Confirmed: the old ones go, also the one that is held.
    scene.run(["repair", "snapshots", "--forget"]).ok();
    let left = scene.snapshots();
    assert_eq!(left.len(), 2);
    assert!(left.iter().all(|s| mended.iter().any(|m| m["new_snapshot_id"] == s["id"])));
    scene.run(["repair", "snapshots"]).ok();
    // The source still has all: a backup stores it again.
    scene.backup(&[]);
    scene.latest_equals_source();
}

#[test]
fn a_page_of_a_folder_that_is_lost_costs_that_folder_alone() {
    let scene = Scene::new("page");
    let source = scene.source();
    for folder in ["same", "other"] {
        fs::create_dir(source.join(folder)).unwrap();
        fs::write(source.join(folder).join("small"), folder).unwrap();
    }
    scene.backup(&[]);
    let first = of_kind(&scene, "packs");
    assert_eq!(first.len(), 1, "there is no data but in trees");
    fs::write(source.join("other/new"), b"new").unwrap();
    scene.backup(&[]);
    fs::remove_file(scene.repository().join(&first[0])).unwrap();
    let ran = scene.run(["repair", "snapshots", "--json"]).code(4);
    let hurt = lines(&ran, "hurt_snapshot");
    assert_eq!(hurt.len(), 2);
    assert_eq!(hurt[0]["nothing_left"], true, "its root is lost: {hurt:?}");
    let lost = hurt[1]["files"].as_array().unwrap();
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert_eq!(lost[0]["path"], source.join("same").to_str().unwrap());
    assert_eq!(scene.snapshots().len(), 3, "nothing is written of nothing");
    let id = hurt[1]["new_snapshot_id"].as_str().unwrap();
    let target = scene.restore(&format!("{id}:{}", source.display()));
    fs::remove_file(source.join("same/small")).unwrap();
    scene.shell(&format!("diff -r source {}", target.display())).ok();
}
