//! Many snapshots: each is opened once, and one that vanishes is missed.

use super::generated::{Author, PACK_CHUNKS};
use super::scene::{Scene, soon};
use pastfs::format::snapshot::Action;
use pastfs::id::{ChunkId, SnapshotId};
use std::fs;
use std::path::Path;
use std::process::Command;

/// A repository with a real snapshot and `count` more of the same tree.
fn filled(name: &str, count: usize) -> (Scene, Author, Vec<SnapshotId>) {
    let scene = Scene::new(name);
    fs::write(scene.source().join("file"), b"content").unwrap();
    scene.backup(&[]);
    let root = {
        use pastfs::repository::{Credential, OpenOptions, Repository};
        let store = std::sync::Arc::new(pastfs::storage::Local::open(&scene.repository()).unwrap());
        let key =
            Credential::KeyFile(zeroize::Zeroizing::new(fs::read(scene.key()).unwrap().try_into().unwrap()));
        let observer = std::sync::Arc::new(pastfs::event::Silent);
        let options = OpenOptions { cache: scene.path("another cache"), observer };
        let repository = Repository::open(store, &key, options).unwrap();
        let root: ChunkId = repository.snapshots().unwrap()[0].manifest.root;
        root
    };
    let author = Author::of(&scene.repository(), &scene.key());
    let ids = author.snapshots(&[root], 0, count);
    author.chunks(3 * PACK_CHUNKS, 3);
    (scene, author, ids)
}

/// From now on whoever opens a manifest finds damage.
fn empty_manifests(scene: &Scene) {
    for entry in fs::read_dir(scene.repository().join("snapshots")).unwrap() {
        let path = entry.unwrap().path();
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"").unwrap();
    }
}

fn manifest(scene: &Scene, id: &SnapshotId) -> std::path::PathBuf {
    scene.repository().join("snapshots").join(id.hex())
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

#[test]
fn three_hundred_snapshots_are_opened_once_by_processes_side_by_side_and_by_a_mount() {
    let (scene, _, _) = filled("many", 300);
    let started: Vec<_> = (0..4).map(|_| scene.start(scene.command(["snapshots", "--json"]))).collect();
    for one in started {
        let listed = one.wait().ok();
        assert_eq!(listed.json().as_array().unwrap().len(), 301);
        assert_eq!(listed.err, "");
    }
    let saved = scene.path("saved");
    copy(&scene.repository(), &saved);
    empty_manifests(&scene);
    assert_eq!(scene.snapshots().len(), 301);
    let mount = scene.mount(&[]);
    assert_eq!(mount.dated().len(), 301);
    assert!(scene.source_in(&mount.dir).join("file").exists());
    mount.unmount();
    // Without the cache every one of them is read, and what it reads is what counts.
    fs::remove_dir_all(scene.cache()).unwrap();
    assert_eq!(
        scene.run(["snapshots", "--json"]).ok().says("is damaged").json().as_array().unwrap().len(),
        0
    );
    fs::remove_dir_all(scene.repository()).unwrap();
    copy(&saved, &scene.repository());
    assert_eq!(scene.snapshots().len(), 301);
}

#[test]
fn a_deleted_snapshot_is_missed_by_every_command_until_it_is_accepted() {
    let (scene, _, ids) = filled("deleted", 3);
    assert_eq!(scene.snapshots().len(), 4);
    fs::remove_file(manifest(&scene, &ids[1])).unwrap();
    let missed = |ran: super::scene::Ran| {
        ran.ok()
            .says("has vanished")
            .says(&ids[1].short())
            .says("of ben, 2020-01-01 05:00:00 UTC")
            .says("--accept-vanished");
    };
    missed(scene.run(["snapshots"]));
    missed(scene.run(["ls", "latest:/"]));
    missed(scene.run(["backup", "-q", "source"]));
    missed(scene.run(["mount", "mnt"]));
    scene.run(["umount", "mnt"]).ok();
    let accepted = scene.run(["snapshots", "--accept-vanished"]).ok();
    assert_eq!(accepted.text(), "accepted: 1 vanished object\n");
    assert_eq!(scene.run(["snapshots"]).ok().err, "");
}

#[test]
fn a_mount_that_is_up_tells_of_what_vanishes() {
    let (scene, _, ids) = filled("up", 2);
    let mut command = scene.command(["mount", "--foreground", "mnt"]);
    command.stdin(std::process::Stdio::null());
    let running = scene.start(command);
    soon("the mount is there", || super::scene::is_mounted(&scene.mnt()));
    fs::remove_file(manifest(&scene, &ids[0])).unwrap();
    let left = 2 + super::scene::BESIDE.len();
    soon("the folder goes", || fs::read_dir(scene.mnt()).unwrap().count() == left);
    std::thread::sleep(std::time::Duration::from_millis(100));
    scene.run(["umount", "mnt"]).ok();
    running.wait().ok().says("1 snapshot has vanished").says(&ids[0].short());
}

#[test]
fn an_old_copy_put_back_is_told_and_a_forgotten_snapshot_is_not() {
    let (scene, author, ids) = filled("rolled-back", 3);
    author.note(Action::Forget, &ids[..1]);
    assert_eq!(scene.snapshots().len(), 3);
    fs::remove_file(manifest(&scene, &ids[0])).unwrap();
    let ran = scene.run(["snapshots", "--json"]).ok();
    assert_eq!((ran.err.as_str(), ran.json().as_array().unwrap().len()), ("", 3));
    let old = scene.path("old");
    copy(&scene.repository(), &old);
    fs::write(scene.source().join("more"), b"more").unwrap();
    scene.backup(&["--tag", "newest"]);
    fs::remove_dir_all(scene.repository()).unwrap();
    copy(&old, &scene.repository());
    let newest = scene.run(["snapshots"]).ok().says("1 snapshot has vanished").says("shows an old state");
    assert!(!newest.text().contains("newest"));
    // Another machine has seen nothing newer.
    let mut other = scene.command(["snapshots"]);
    other.env("PASTFS_CACHE", scene.path("another"));
    assert_eq!(scene.run_command(other).ok().err, "");
}

#[test]
fn the_cache_of_another_user_is_named_and_refused() {
    if !super::scene::is_root("a cache of another user") {
        return;
    }
    let (scene, _, _) = filled("anothers", 1);
    scene.snapshots();
    let inner = fs::read_dir(scene.cache()).unwrap().next().unwrap().unwrap().path();
    std::os::unix::fs::chown(&inner, Some(12_345), None).unwrap();
    let ran =
        scene.run(["snapshots"]).code(1).says("belongs to user 12345, and this is user 0").says("--cache");
    assert!(ran.err.starts_with(&format!("Error: the cache {}", inner.display())), "{}", ran.err);
}
