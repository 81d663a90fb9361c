//! `check`: what is whole is said to be, what is not is found, named, and left as it was.

use super::scene::{Draw, Ran, Scene, fill};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const READ: &[&str] = &["check", "--json", "--read-data"];
const LOOK: &[&str] = &["check", "--json"];

/// All files of the repository and their contents.
fn state(scene: &Scene) -> Vec<(PathBuf, String)> {
    let hash =
        |p: &PathBuf| blake3::hash(&fs::read(scene.repository().join(p)).unwrap()).to_hex().to_string();
    scene.objects().into_iter().map(|p| (p.clone(), hash(&p))).collect()
}

/// Checks; insists that nothing in the repository changed. The findings.
#[track_caller]
fn check(scene: &Scene, args: &[&str]) -> (Ran, Vec<Value>) {
    let before = state(scene);
    let ran = scene.run(args).orderly();
    assert_eq!(before, state(scene), "{args:?} changed the repository");
    let lines: Vec<Value> = ran.text().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let of = |kind: &str| lines.iter().filter(|l| l["message_type"] == kind).cloned().collect::<Vec<_>>();
    let findings = of("finding");
    let expected = if findings.is_empty() { 0 } else { 4 };
    assert_eq!(ran.code, Some(expected), "{} findings: {}", findings.len(), ran.err);
    assert_eq!(of("summary").len(), 1);
    assert_eq!(of("summary")[0]["findings"], findings.len());
    (ran, findings)
}

#[track_caller]
fn healthy(scene: &Scene, args: &[&str]) {
    let (_, findings) = check(scene, args);
    assert!(findings.is_empty(), "{args:?}: {findings:?}");
}

fn of_object<'a>(findings: &'a [Value], object: &Path) -> Option<&'a Value> {
    findings.iter().find(|f| f["object"] == object.to_str().unwrap())
}

fn paths(findings: &[Value]) -> Vec<String> {
    let files = findings.iter().flat_map(|f| f["files"].as_array().unwrap());
    files.map(|f| f["path"].as_str().unwrap().to_owned()).collect()
}

fn write(path: &Path, bytes: &[u8]) {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(path, bytes).unwrap();
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    write(path, &bytes);
}

/// The pack in which most bytes of data lie; others hold trees.
fn largest_pack(scene: &Scene) -> PathBuf {
    let packs = scene.objects().into_iter().filter(|o| o.starts_with("packs"));
    packs.max_by_key(|p| fs::metadata(scene.repository().join(p)).unwrap().len()).unwrap()
}

/// Two snapshots, one forgotten by nobody, with a second key: large files, small ones, and folders.
fn scene(name: &str) -> Scene {
    let scene = Scene::new(name);
    let source = scene.source();
    fill(&source, 24, 15_000, 1);
    fs::write(source.join("large"), Draw(2).bytes(2_500_000)).unwrap();
    fs::write(source.join("sparse"), Draw(5).bytes(70_000)).unwrap();
    scene.backup(&[]);
    fs::write(source.join("later"), Draw(3).bytes(100_000)).unwrap();
    scene.backup(&["--tag", "t"]);
    scene.run(["key", "add", "--new-key-file", "other key"]).ok();
    scene
}

#[test]
fn a_healthy_repository_is_found_whole_in_every_way() {
    let scene = Scene::new("healthy");
    healthy(&scene, READ);
    drop(scene);
    let scene = self::scene("healthy");
    for more in [
        &[][..],
        &["--read-data"],
        &["--read-data-subset", "1/3"],
        &["--read-data-subset", "5%"],
        &["--read-data-subset", "1MiB"],
    ] {
        healthy(&scene, &[LOOK, more].concat());
    }
    fs::remove_dir_all(scene.cache()).unwrap();
    let (ran, _) = check(&scene, READ);
    let summary = ran.json();
    assert_eq!(summary["snapshots"], 2);
    assert_eq!(summary["read_packs"], summary["packs"]);
    let stored: u64 = scene
        .objects()
        .iter()
        .filter(|o| o.starts_with("packs"))
        .map(|o| fs::metadata(scene.repository().join(o)).unwrap().len())
        .sum();
    assert_eq!(summary["read_bytes"], stored);
    let text = scene.run(["check"]).ok().text();
    assert!(text.contains("nothing is wrong"), "{text}");
    scene.run(["check", "--read-data", "--read-data-subset", "1/2"]).code(2);
    scene.run(["check", "--read-data-subset", "3/2"]).code(2);
}

#[test]
fn every_kind_of_damage_is_found_and_named_and_left_as_it_was() {
    let scene = scene("damage");
    scene.shell("cp -a repository whole && cp -a cache warm").ok();
    let objects = scene.objects();
    for kind in ["packs", "index", "snapshots", "keys", "config"] {
        assert!(objects.iter().any(|o| o.starts_with(kind)), "no {kind} among {objects:?}");
    }
    // The slot that this machine's key opens: without it nobody gets as far as a check.
    let slots = scene.run(["key", "list", "--json"]).ok().json();
    let slots = slots.as_array().unwrap().clone();
    let own = slots.iter().find(|s| s["current"] == true).unwrap()["id"].as_str().unwrap().to_owned();
    let mut hit = 0;
    for is_warm in [true, false] {
        for object in &objects {
            let kind = object.iter().next().unwrap().to_str().unwrap();
            for damage in ["flip", "truncate", "garbage"] {
                scene.shell("rm -rf cache repository && cp -a whole repository").ok();
                if is_warm {
                    scene.shell("cp -a warm cache").ok();
                }
                let path = scene.repository().join(object);
                let bytes = fs::read(&path).unwrap();
                match damage {
                    "flip" => flip(&path),
                    "truncate" => write(&path, &bytes[..bytes.len() / 2]),
                    _ => write(&path, &Draw(11).bytes(bytes.len())),
                }
                if object.to_str().unwrap().contains(&own) {
                    let ran = scene.run(READ).code(12);
                    assert!(ran.err.contains(object.to_str().unwrap()), "{object:?}: {}", ran.err);
                    continue;
                }
                let (_, findings) = check(&scene, READ);
                let finding = of_object(&findings, object);
                assert!(finding.is_some(), "{damage} of {object:?} gave {findings:?}");
                if matches!(kind, "packs" | "index") {
                    let paths = paths(&findings);
                    let source = scene.source();
                    let right = |p: &String| Path::new(p).starts_with(&source) || source.starts_with(p);
                    // The padding of a pack hits nobody, nor does it where what is read of a folder is left.
                    let hits_all = damage == "garbage" || kind == "index";
                    assert!(!paths.is_empty() || !hits_all, "{damage} of {object:?}: {findings:?}");
                    assert!(paths.iter().all(right), "{paths:?}");
                    hit += usize::from(!paths.is_empty());
                }
                if kind == "packs" && damage == "truncate" {
                    let (_, findings) = check(&scene, LOOK);
                    assert!(
                        of_object(&findings, object).is_some(),
                        "not found without reading: {findings:?}"
                    );
                }
            }
        }
    }
    assert!(hit > 20, "damage that hits no file: only {hit} cases do");
    scene.shell("rm -rf cache repository && mv whole repository").ok();
    healthy(&scene, READ);
}

#[test]
fn what_is_missing_is_found_without_reading_data_and_stored_again_by_the_next_backup() {
    let scene = scene("missing");
    scene.shell("cp -a repository whole").ok();
    for object in scene.objects() {
        let kind = object.iter().next().unwrap().to_str().unwrap().to_owned();
        if !matches!(kind.as_str(), "packs" | "index" | "snapshots") {
            continue;
        }
        scene.shell("rm -rf repository && cp -a whole repository").ok();
        fs::remove_file(scene.repository().join(&object)).unwrap();
        let (_, findings) = check(&scene, LOOK);
        assert!(!findings.is_empty(), "{object:?}");
        match kind.as_str() {
            "index" => assert!(findings.iter().all(|f| f["object"] == "index/"), "{findings:?}"),
            _ => assert!(of_object(&findings, &object).is_some(), "{object:?}: {findings:?}"),
        }
        if kind != "snapshots" {
            assert!(!paths(&findings).is_empty(), "{findings:?}");
        }
    }
    scene.shell("rm -rf repository && cp -a whole repository").ok();
    let pack = largest_pack(&scene);
    fs::remove_file(scene.repository().join(&pack)).unwrap();
    let (_, findings) = check(&scene, LOOK);
    let finding = of_object(&findings, &pack).unwrap();
    let files = finding["files"].as_array().unwrap();
    assert_eq!(finding["files_hit"], 2 * 26, "all files but the later one, in both snapshots: {finding}");
    assert!(
        files.len() == 10 && files.iter().all(|f| f["snapshots"].as_array().unwrap().len() == 2),
        "{finding}"
    );
    let text = scene.run(["check"]).code(4).text();
    let line = text.lines().next().unwrap();
    assert!(line.contains(pack.to_str().unwrap()) && line.contains("/source/0/0 in snapshots "), "{line}");
    // What the advice says.
    scene.backup(&[]);
    let (_, findings) = check(&scene, LOOK);
    assert!(paths(&findings).is_empty(), "a backup was to store again what is lost: {findings:?}");
    scene.latest_equals_source();
}

#[test]
fn a_note_that_is_damaged_and_what_is_no_object_are_found() {
    let scene = scene("notes");
    // No command writes notes by itself yet: one that is none.
    let strangers = [
        "notes/3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f",
        "packs/ab/holiday.jpg",
        "packs/3f2a",
        "index/readme",
        "leases/x-1",
        "keys/old",
        "config/01",
        "desktop.ini",
        "my notes (1).txt",
        "notes/a note.txt",
        "packs/ab/holiday (copy).jpg",
        "snapshots/conflicted copy",
        "index/read me",
        "leases/x 1",
        "keys/old key",
        "config/1 (copy)",
        "parity/a b",
    ];
    for stranger in strangers {
        let path = scene.repository().join(stranger);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, b"what is this?").unwrap();
        let (_, findings) = check(&scene, LOOK);
        assert!(of_object(&findings, Path::new(stranger)).is_some(), "{stranger}: {findings:?}");
        assert_eq!(findings.len(), 1, "{findings:?}");
        // Whatever lies beside them, snapshots are there.
        scene.backup(&[]);
        scene.run(["restore", "-q", "latest", "--target", "out"]).ok();
        fs::remove_file(&path).unwrap();
    }
    let fifo = scene.repository().join("snapshots").join("3f".repeat(32));
    scene.shell(&format!("mkfifo {}", fifo.display())).ok();
    scene.backup(&[]);
    scene.run(["prune"]).code(4).says("3f3f3f");
    fs::remove_file(&fifo).unwrap();
    healthy(&scene, LOOK);
}

#[test]
fn the_parts_of_a_subset_together_find_what_reading_all_finds() {
    let scene = Scene::new("subset");
    for seed in 0..6 {
        fs::write(scene.source().join(format!("f{seed}")), Draw(seed + 50).bytes(700_000)).unwrap();
        scene.backup(&[]);
    }
    let mut packs: Vec<PathBuf> = scene.objects().into_iter().filter(|o| o.starts_with("packs")).collect();
    packs.sort_by_key(|p| fs::metadata(scene.repository().join(p)).unwrap().len());
    for pack in packs.iter().rev().take(4) {
        flip(&scene.repository().join(pack));
    }
    healthy(&scene, LOOK);
    let objects = |findings: &[Value]| -> Vec<String> {
        findings.iter().map(|f| f["object"].as_str().unwrap().to_owned()).collect()
    };
    let mut all = objects(&check(&scene, READ).1);
    all.sort();
    assert_eq!(all.len(), 4);
    let mut parts: Vec<String> = ["1/3", "2/3", "3/3"]
        .iter()
        .flat_map(|part| objects(&check(&scene, &[LOOK, &["--read-data-subset", part]].concat()).1))
        .collect();
    parts.sort();
    assert_eq!(parts, all);
    // In rotation: 25 % four times come round, and what is damaged comes again.
    fs::remove_dir_all(scene.cache()).unwrap();
    let mut found: Vec<String> = Vec::new();
    for _ in 0..packs.len() {
        found.extend(objects(&check(&scene, &[LOOK, &["--read-data-subset", "60%"]].concat()).1));
    }
    found.sort();
    found.dedup();
    assert_eq!(found, all);
}

#[test]
fn a_check_beside_a_backup_finds_nothing_and_ends_when_asked() {
    let scene = Scene::new("beside");
    fill(&scene.source(), 300, 60_000, 3);
    let mut backup = scene.start(scene.command(["backup", "-q", "source"]));
    let mut checks = 0;
    while !backup.is_over() || checks < 3 {
        let ran = scene.run(READ).ok();
        assert_eq!(ran.json()["findings"], 0);
        checks += 1;
    }
    backup.wait().ok();
    healthy(&scene, READ);
    let check = scene.start(scene.command(["check", "--read-data"]));
    std::thread::sleep(Duration::from_millis(20));
    check.signal(libc::SIGINT);
    let ran = check.wait();
    // It may have been over, or not listening yet; nothing else.
    assert!(matches!((ran.code, ran.signal), (Some(0 | 130), _) | (None, Some(libc::SIGINT))), "{}", ran.err);
}
