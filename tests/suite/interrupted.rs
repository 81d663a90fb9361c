//! Backups that do not get to their end.

use super::scene::{Draw, Scene, fill, let_files_settle, same_trees};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Enough for several packs, and for a segment in the middle.
const FILES: usize = 2800;
const FILE_LEN: usize = 110_000;

fn number(report: &Value, name: &str) -> u64 {
    report["totals"][name].as_u64().unwrap_or_else(|| panic!("{report}"))
}

fn has_segments(scene: &Scene) -> bool {
    scene.objects().iter().any(|o| o.starts_with("index"))
}

#[test]
fn a_backup_killed_at_any_instant_harms_nothing_and_the_next_one_reuses_what_it_stored() {
    let scene = Scene::bare("killed");
    fill(&scene.source(), FILES, FILE_LEN, 5);
    let_files_settle();
    let line = "export PASTFS_REPOSITORY=$PWD/first PASTFS_CACHE=$PWD/first-cache; \"$0\" init -q; \"$0\" backup -q source";
    let began = Instant::now();
    scene.shell(line).ok();
    let whole = began.elapsed();
    fs::remove_dir_all(scene.path("first")).unwrap();

    scene.run(["init", "-q"]).ok();
    let mut draw = Draw(pastfs::clock::now().nanos.into());
    let seed = draw.0;
    for n in 0..8u32 {
        // The later, the more there is to be reused; each at another instant in each run of the test.
        let part = (f64::from(n) + (draw.next() % 1000) as f64 / 1000.0) / 8.0;
        let mut running = scene.start(scene.command(["backup", "-q", "source"]));
        let end = Instant::now() + Duration::from_secs_f64(whole.as_secs_f64() * part);
        while Instant::now() < end && !running.is_over() {
            std::thread::sleep(Duration::from_millis(2));
        }
        running.signal(libc::SIGKILL);
        let ran = running.wait();
        assert!(ran.code == Some(0) || ran.signal == Some(libc::SIGKILL), "seed {seed}: {}", ran.err);
        for snapshot in scene.snapshots() {
            assert_eq!(number(&snapshot, "files"), FILES as u64, "seed {seed}");
        }
    }
    let reusable = has_segments(&scene);
    // What a kill left behind is swept once it is a day old.
    let old = "find repository/tmp -type f -exec touch -d '3 days ago' {} + 2>/dev/null; true";
    scene.shell(old).ok();
    let last = scene.backup(&[]);
    assert_eq!(number(&last, "bytes"), (FILES * FILE_LEN) as u64);
    if reusable {
        assert!(
            number(&last, "read_bytes") < (FILES * FILE_LEN) as u64,
            "seed {seed}: nothing was reused: {last}"
        );
    }
    let left = fs::read_dir(scene.repository().join("tmp")).map(Iterator::count).unwrap_or(0);
    assert_eq!(left, 0, "old temporary files stay behind");
    assert_eq!(number(&scene.backup(&[]), "read_files"), 0);
    // With another cache: what the repository alone says.
    fs::remove_dir_all(scene.cache()).unwrap();
    let mut ids: Vec<String> =
        scene.snapshots().iter().map(|s| s["id"].as_str().unwrap().to_string()).collect();
    assert!(ids.len() >= 2);
    ids.dedup();
    for id in ids.iter().rev().take(3) {
        let target = scene.restore(&format!("{id}:{}", scene.source().display()));
        same_trees(&scene.source(), &target);
        fs::remove_dir_all(target).unwrap();
    }
}

/// Between the moment at which a segment is there and the one at which its writer goes on.
#[test]
fn a_backup_killed_as_soon_as_it_has_published_need_not_read_again_what_it_has_stored() {
    let scene = Scene::new("published");
    fill(&scene.source(), FILES, FILE_LEN, 7);
    let_files_settle();
    let mut running = scene.start(scene.command(["backup", "-q", "source"]));
    let index = scene.repository().join("index");
    let is_published = || fs::read_dir(&index).is_ok_and(|mut found| found.next().is_some());
    while !is_published() && !running.is_over() {
        std::thread::yield_now();
    }
    running.signal(libc::SIGKILL);
    let _ = running.wait();
    assert!(has_segments(&scene) && scene.snapshots().is_empty(), "it was killed too late, or too early");
    let report = scene.backup(&[]);
    let (read, all) = (number(&report, "read_bytes"), number(&report, "bytes"));
    assert!(read < all, "all was read again: {report}");
    scene.latest_equals_source();
}

#[test]
fn ctrl_c_ends_a_backup_with_130_and_the_next_run_goes_on_from_there() {
    let scene = Scene::new("ctrl-c");
    fill(&scene.source(), 1500, FILE_LEN, 6);
    let_files_settle();
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let mut running = scene.start(scene.command(["backup", "-q", "source"]));
        let began = Instant::now();
        // In the midst of it: it has stored a pack.
        let packs = || scene.objects().iter().filter(|o| o.starts_with("packs")).count();
        let before = packs();
        while packs() == before && !running.is_over() && began.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(1));
        }
        running.signal(signal);
        let ran = running.wait();
        if ran.code == Some(0) {
            eprintln!("the backup was faster than the signal");
            continue;
        }
        ran.code(130);
        assert!(has_segments(&scene), "what was uploaded is not published");
        assert_eq!(scene.snapshots().len(), 0, "a snapshot of half a tree");
    }
    let report = scene.backup(&[]);
    let (read, all) = (number(&report, "read_bytes"), number(&report, "bytes"));
    assert!(read < all, "all was read again: {report}");
    scene.latest_equals_source();
    assert_eq!(number(&scene.backup(&[]), "read_files"), 0);
}

/// Mounts a small tmpfs.
fn tmpfs(dir: &Path, size: &str) -> bool {
    fs::create_dir_all(dir).unwrap();
    let option = format!("size={size},mode=0755");
    Command::new("mount")
        .args(["-t", "tmpfs", "-o", &option, "none"])
        .arg(dir)
        .status()
        .is_ok_and(|s| s.success())
}

#[test]
fn a_full_disk_is_told_and_harms_nothing() {
    if !super::scene::is_root("the test of a full disk") {
        return;
    }
    let scene = Scene::bare("full");
    assert!(tmpfs(&scene.path("disk"), "20m"), "no tmpfs");
    std::os::unix::fs::symlink("disk/repository", scene.path("link")).unwrap();
    let run = |args: &[&str]| {
        let mut command = scene.command(args);
        command.env("PASTFS_REPOSITORY", scene.path("disk/repository"));
        scene.run_command(command)
    };
    run(&["init", "-q"]).ok();
    fill(&scene.source(), 20, 100_000, 8);
    run(&["backup", "-q", "source"]).ok();
    fs::create_dir(scene.path("kept")).unwrap();
    scene.shell("cp -a source/. kept/").ok();
    fill(&scene.source().join("more"), 300, 100_000, 9);
    let ran = run(&["backup", "-q", "source"]).code(1);
    let err = ran.err.to_lowercase();
    assert!(err.contains("space") || err.contains("full"), "{}", ran.err);
    assert!(ran.err.contains("Hint:"), "{}", ran.err);
    let list = run(&["snapshots", "--json"]).ok().json();
    assert_eq!(list.as_array().map(Vec::len), Some(1), "a snapshot without its data: {list}");
    run(&["restore", "-q", &format!("latest:{}", scene.source().display()), "--target", "out"]).ok();
    same_trees(&scene.path("kept"), &scene.path("out"));
    let enlarged = Command::new("mount").args(["-o", "remount,size=200m"]).arg(scene.path("disk")).status();
    assert!(enlarged.unwrap().success());
    run(&["backup", "-q", "source"]).ok();
    run(&["restore", "-q", &format!("latest:{}", scene.source().display()), "--target", "out2"]).ok();
    same_trees(&scene.source(), &scene.path("out2"));
}
