//! Several programs at one repository at once.

use super::scene::{Scene, fill, same_trees, soon};
use std::fs;
use std::time::Duration;

#[test]
fn two_backups_a_mount_and_listings_run_at_once() {
    let scene = Scene::new("together");
    for name in ["one", "two"] {
        fill(&scene.path(name), 400, 60_000, name.len() as u64 + u64::from(name.as_bytes()[0]));
    }
    fs::write(scene.source().join("f"), b"f").unwrap();
    scene.backup(&[]);
    let mount = scene.mount(&[]);
    assert_eq!(mount.dated().len(), 1);
    let mut both: Vec<_> = ["one", "two"]
        .map(|n| scene.start(scene.command(["backup", "-q", "--host", n, n])))
        .into_iter()
        .collect();
    let mut other = scene.command(["backup", "-q", "--host", "three", "two"]);
    other.env("PASTFS_CACHE", scene.path("cache of another"));
    both.push(scene.start(other));
    let mut listings = 0;
    while both.iter_mut().any(|b| !b.is_over()) || listings < 3 {
        assert!((1..=4).contains(&scene.snapshots().len()));
        listings += 1;
    }
    for one in both {
        one.wait().ok();
    }
    assert_eq!(scene.snapshots().len(), 4);
    soon("new snapshots appear in the mount", || mount.dated().len() == 4);
    let dated = mount.dated();
    // Snapshots of one second are told apart by their ids, which do not sort by time.
    let second = |name: &str| name[.."2026-11-20T02-00-05Z".len()].to_owned();
    let latest = || fs::read_link(mount.dir.join("latest")).unwrap().to_str().map(second);
    soon("latest is the newest", || latest() == dated.last().map(|d| second(d)));
    for snapshot in scene.snapshots() {
        let host = snapshot["host"].as_str().unwrap();
        let name = match host {
            "one" => "one",
            "two" | "three" => "two",
            _ => "source",
        };
        let id = snapshot["id"].as_str().unwrap();
        let target = scene.restore(&format!("{id}:{}", scene.path(name).display()));
        same_trees(&scene.path(name), &target);
    }
    for dated in &dated {
        let inside = mount.dir.join(dated).join(scene.dir.strip_prefix("/").unwrap());
        for entry in fs::read_dir(&inside).unwrap() {
            let name = entry.unwrap().file_name();
            same_trees(&scene.dir.join(&name), &inside.join(&name));
        }
    }
}

#[test]
fn a_mount_shows_what_comes_and_latest_follows() {
    let scene = Scene::new("follows");
    let mount = scene.mount(&[]);
    assert!(mount.dated().is_empty());
    assert!(fs::symlink_metadata(mount.dir.join("latest")).is_err(), "there is no latest yet");
    for n in 1..=2usize {
        fs::write(scene.source().join("f"), format!("{n}")).unwrap();
        scene.backup(&[]);
        soon("a new snapshot appears", || mount.dated().len() == n);
        let file = scene.source_in(&mount.dir).join("f");
        soon("latest leads to it", || fs::read_to_string(&file).is_ok_and(|t| t == format!("{n}")));
        std::thread::sleep(Duration::from_millis(1100));
    }
    // An old file stays open and whole while another snapshot comes.
    let first = mount.dir.join(&mount.dated()[0]).join(scene.source().strip_prefix("/").unwrap());
    assert_eq!(fs::read_to_string(first.join("f")).unwrap(), "1");
}
