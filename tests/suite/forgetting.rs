//! Forgetting by rules and by name, taking it back, tags and holds: on a real repository, below a real mount.

use super::scene::{Scene, soon};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// A snapshot for each of these times, of one host; what is saved differs each time.
fn history(name: &str, times: &[&str]) -> Scene {
    let scene = Scene::new(name);
    for time in times {
        fs::write(scene.source().join("file"), time).unwrap();
        scene.backup(&["--time", time, "--host", "h"]);
    }
    scene
}

const WEEK: [&str; 4] =
    ["2024-03-04 10:00:00", "2024-03-05 10:00:00", "2024-03-06 09:00:00", "2024-03-06 10:00:00"];

fn ids(scene: &Scene) -> Vec<String> {
    scene.snapshots().iter().map(id).collect()
}

fn id(snapshot: &Value) -> String {
    snapshot["id"].as_str().unwrap().to_string()
}

/// Every file of the repository with its content.
fn store(scene: &Scene) -> Vec<(PathBuf, Vec<u8>)> {
    let read = |p: PathBuf| fs::read(scene.repository().join(&p)).map(|bytes| (p, bytes)).unwrap();
    scene.objects().into_iter().map(read).collect()
}

#[test]
fn forgotten_snapshots_vanish_from_lists_and_mounts_and_come_back() {
    let scene = history("forget", &WEEK);
    let before = store(&scene);
    let all = ids(&scene);
    let mount = scene.mount(&[]);
    let dated = mount.dated();
    assert_eq!(dated.len(), 4);
    let content = || fs::read_to_string(scene.source_in(&mount.dir).join("file")).unwrap_or_default();
    assert_eq!(content(), WEEK[3]);

    let told = scene.run(["forget", "--json", &all[0][..8], &all[3]]).ok().json();
    assert_eq!((&told["forgotten"], &told["kept"]), (&2.into(), &0.into()));
    assert_eq!(ids(&scene), all[1..3]);
    soon("both folders are gone from the mount", || mount.dated() == dated[1..3]);
    soon("latest is the newest that is left", || content() == WEEK[2]);
    // Everything else names none of them either.
    scene.run(["ls", &all[3]]).code(1).says("no snapshot has an id");
    assert!(!mount.dir.join(&dated[0]).exists());
    // Nothing was deleted, and it is no alarm.
    let now = store(&scene);
    assert!(before.iter().all(|object| now.contains(object)), "an object was deleted or changed");
    let hidden = scene.run(["snapshots", "--forgotten", "--json"]).ok();
    assert_eq!(hidden.json().as_array().unwrap().iter().map(id).collect::<Vec<_>>(), [&all[0][..], &all[3]]);
    assert_eq!(hidden.err, "");

    scene.run(["forget", &all[3]]).code(1).says("forgotten already");
    scene.run(["forget", "--undo", &all[1]]).code(1).says("not forgotten");
    scene.run(["forget", "--undo", "--dry-run", &all[0]]).ok();
    assert_eq!(ids(&scene), all[1..3]);
    scene.run(["forget", "--undo", &all[0], &all[3]]).ok();
    assert_eq!(ids(&scene), all);
    soon("both folders are back", || mount.dated() == dated);
    soon("latest is what it was", || content() == WEEK[3]);
    // And once more: the last word counts.
    scene.run(["forget", "-q", &all[3]]).ok();
    assert_eq!(ids(&scene), all[..3]);
    mount.unmount();
}

#[test]
fn a_backup_takes_no_forgotten_snapshot_as_its_parent() {
    let scene = history("forget-parent", &WEEK[2..]);
    let all = ids(&scene);
    scene.run(["forget", &all[1]]).ok();
    assert_eq!(scene.backup(&["--host", "h"])["parent"].as_str(), Some(&all[0][..]));
    scene.latest_equals_source();
}

#[test]
fn rules_keep_what_they_say_and_tell_why() {
    let scene = history("forget-rules", &WEEK);
    scene.backup(&["--time", "2024-03-01 10:00:00", "--host", "other"]);
    let all = ids(&scene);
    let line = ["forget", "--json", "--keep-daily", "2", "--keep-last", "1"];
    let before = store(&scene);
    let dry = scene.run(line.iter().chain(&["--dry-run"])).ok().json();
    assert_eq!(store(&scene), before, "a dry run writes nothing");
    assert_eq!(ids(&scene), all);
    let told = scene.run(line).ok().json();
    assert_eq!((&dry["dry_run"], &told["dry_run"]), (&true.into(), &false.into()));
    assert_eq!(dry["snapshots"], told["snapshots"], "what a dry run tells is what is done");
    let said: Vec<String> = told["snapshots"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| {
            format!("{} {} {} {}", &s["time"].as_str().unwrap()[..10], s["host"], s["action"], s["reasons"])
        })
        .collect();
    assert_eq!(
        said,
        [
            r#"2024-03-04 "h" "forget" []"#,
            r#"2024-03-05 "h" "keep" ["daily"]"#,
            r#"2024-03-06 "h" "forget" []"#,
            r#"2024-03-06 "h" "keep" ["last","daily"]"#,
            r#"2024-03-01 "other" "keep" ["last","daily"]"#,
        ]
    );
    assert_eq!((&told["forgotten"], &told["kept"]), (&2.into(), &3.into()));
    assert_eq!(ids(&scene), [&all[0][..], &all[2], &all[4]]);
    // Once more: nothing is left to be done, and nothing is written.
    let before = store(&scene);
    let text = scene.run(["forget", "--keep-daily", "2", "--keep-last", "1"]).ok().text();
    assert!(text.contains("host h, paths") && text.contains("0 snapshots forgotten, 3 kept"), "{text}");
    assert_eq!(store(&scene), before);
    // A filter narrows what the rules see.
    let text = scene.run(["forget", "--host", "h", "--keep-last", "1"]).ok().text();
    assert!(text.contains("1 snapshot forgotten, 1 kept") && text.contains("pruned"), "{text}");
    assert_eq!(ids(&scene), [&all[0][..], &all[4]]);
}

#[test]
fn days_are_local_unless_utc_is_asked_for() {
    let scene = history("forget-zone", &["2024-03-04T22:30:00Z", "2024-03-04T23:30:00Z"]);
    let kept = |more: &[&str]| {
        let mut command = scene.command(["forget", "--json", "-n", "--keep-daily", "9"].iter().chain(more));
        command.env("TZ", "Europe/Berlin");
        scene.run_command(command).ok().json()["kept"].clone()
    };
    assert_eq!(kept(&[]), 2);
    assert_eq!(kept(&["--utc"]), 1);
}

#[test]
fn a_snapshot_of_the_future_stays_and_pushes_nothing_out() {
    let scene = history("forget-future", &["2024-03-04", "2024-03-05", "2999-01-01"]);
    let all = ids(&scene);
    let ran = scene.run(["forget", "--keep-last", "1"]).ok().says(&all[2][..8]);
    assert!(ran.err.contains("cannot be true"), "{}", ran.err);
    assert_eq!(ids(&scene), all[1..]);
}

#[test]
fn a_held_snapshot_is_not_forgotten() {
    let scene = history("forget-held", &WEEK);
    let all = ids(&scene);
    scene.run(["tag", "--hold", "2024-03-04"]).ok();
    assert_eq!(scene.snapshots()[0]["held"], true);
    assert!(scene.run(["snapshots"]).ok().text().contains("(held)"));
    let before = store(&scene);
    scene.run(["forget", &all[1], &all[0]]).code(2).says("pastfs tag --release");
    assert_eq!(store(&scene), before, "nothing is forgotten, not even the other one");
    scene.run(["forget", "--keep-last", "1"]).ok();
    assert_eq!(ids(&scene), [&all[0][..], &all[3]]);
    scene.run(["tag", "--release", &all[0]]).ok();
    scene.run(["forget", &all[0]]).ok();
    assert_eq!(ids(&scene), all[3..]);
}

#[test]
fn tags_are_added_and_removed_and_show_in_the_mount() {
    let scene = history("tag", &WEEK[..2]);
    let all = ids(&scene);
    let mount = scene.mount(&[]);
    let dated = mount.dated();
    assert_eq!(scene.run(["tag", "--json", "--add", "a,b", "latest"]).ok().json()["changed"], 1);
    assert_eq!(ids(&scene), all, "ids stay");
    assert_eq!(scene.snapshots()[1]["tags"], serde_json::json!(["a", "b"]));
    let below = |tag: &str| mount.dir.join("by-tag").join(tag).join(&dated[1]);
    soon("the snapshot is found by its tag", || below("a").is_dir() && below("b").is_dir());
    let before = store(&scene);
    assert_eq!(scene.run(["tag", "--json", "--add", "b", &all[1]]).ok().json()["changed"], 0);
    assert_eq!(store(&scene), before, "what is so already needs no note");
    scene.run(["tag", "--remove", "a", "--add", "c", "2024-03-05"]).ok();
    assert_eq!(scene.snapshots()[1]["tags"], serde_json::json!(["b", "c"]));
    soon("the tag is gone from the mount", || !below("a").exists() && below("c").is_dir());
    let kept = scene.run(["forget", "-n", "--json", "--keep-tag", "b,c"]).ok().json();
    assert_eq!(kept["snapshots"][1]["reasons"], serde_json::json!(["tag"]));
    mount.unmount();
}

#[test]
fn what_makes_no_sense_is_refused_and_nothing_is_written() {
    let scene = history("forget-wrong", &WEEK[..2]);
    let all = ids(&scene);
    let before = store(&scene);
    scene.run(["forget"]).code(2).says("--keep-daily");
    scene.run(["forget", "--keep-last", "0"]).code(2).says("--keep-daily");
    scene.run(["forget", "--host", "h"]).code(2).says("--keep-daily");
    scene.run(["forget", "--undo"]).code(2);
    scene.run(["forget", "--keep-last", "1", &all[0]]).code(2);
    scene.run(["forget", "--keep-within", "soon"]).code(2).says("is no span");
    scene.run(["forget", "latest"]).code(2).says("is no id");
    scene.run(["forget", &format!("{}:/etc", all[0])]).code(2).says("is no id");
    // All are found before any is forgotten.
    scene.run(["forget", &all[0], "0123456789abcdef"]).code(1).says("0123456789abcdef");
    scene.run(["forget", "--host", "nobody", &all[0]]).code(1);
    scene.run(["tag", &all[0]]).code(2);
    scene.run(["tag", "--hold", "--release", &all[0]]).code(2);
    scene.run(["tag", "--add", "a", "--remove", "a", &all[0]]).code(2);
    scene.run(["tag", "--add", "", &all[0]]).code(2).says("a tag is empty");
    scene.run(["tag", "--add", "a", "latest:/etc"]).code(2);
    scene.run(["tag", "--add", "a", "2023-01-01"]).code(1).says("no snapshot is as old");
    assert_eq!(store(&scene), before);
    assert_eq!(ids(&scene), all);
}

#[test]
fn who_brings_a_snapshot_back_waits_for_a_prune_at_work_and_not_for_one_that_was_killed() {
    let scene = history("forget-killed", &WEEK[..2]);
    let first = ids(&scene)[0].clone();
    scene.run(["forget", "-q", &first]).ok();
    let marks = || fs::read_dir(scene.repository().join("leases")).unwrap().count();
    // Stopped while its mark is there: most take a few attempts.
    let caught = (0..100).find_map(|_| {
        let mut prune = scene.start(scene.command(["prune", "-q"]));
        while marks() == 0 && !prune.is_over() {}
        if !prune.is_over() {
            prune.signal(libc::SIGSTOP);
            std::thread::sleep(Duration::from_millis(20));
            if marks() > 0 {
                return Some(prune);
            }
            prune.signal(libc::SIGCONT);
        }
        prune.wait().ok();
        None
    });
    let prune = caught.expect("no prune was caught at work");
    let mut undo = scene.start(scene.command(["forget", "-q", "--undo", &first]));
    soon("the note is written", || ids(&scene).contains(&first));
    std::thread::sleep(Duration::from_millis(1500));
    assert!(!undo.is_over(), "it has not waited for a prune that may have decided before");
    prune.signal(libc::SIGKILL);
    assert_eq!(prune.wait().signal, Some(libc::SIGKILL));
    undo.wait().ok();
    assert!(marks() > 0, "the mark of the dead is still there");
    scene.restore(&first);
}
