//! A repository that is away for a while, moved, or deleted while it is mounted: errors, then well again; never
//! somebody else's files, never an empty folder, and the mount stays.

use super::scene::{Draw, Mount, Scene, is_mounted, kill, pid_of_daemon, soon};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longer than two looks for new snapshots, a second apart.
const TWO_LOOKS: Duration = Duration::from_millis(2500);

/// A scene with one snapshot of files that share no frame and lie far apart: reading one fetches nothing of another.
fn scene(name: &str) -> Scene {
    let scene = Scene::new(name);
    let mut draw = Draw(3);
    for (name, len) in [("a", 2 << 20), ("b", 24 << 20), ("c", 2 << 20), ("d", 24 << 20), ("e", 2 << 20)] {
        fs::write(scene.source().join(name), draw.bytes(len)).unwrap();
    }
    scene.backup(&[]);
    scene
}

fn mount<'a>(scene: &'a Scene, more: &[&str]) -> Mount<'a> {
    let mut args = vec!["--refresh", "1", "--log-file", "log"];
    args.extend(more);
    scene.mount(&args)
}

fn log(scene: &Scene) -> Vec<String> {
    fs::read_to_string(scene.path("log")).unwrap().lines().map(Into::into).collect()
}

fn lines_with(scene: &Scene, text: &str) -> usize {
    log(scene).iter().filter(|l| l.contains(text)).count()
}

#[track_caller]
fn is_whole(scene: &Scene, inside: &Path, name: &str) {
    assert!(
        fs::read(inside.join(name)).unwrap() == fs::read(scene.source().join(name)).unwrap(),
        "{name} differs"
    );
}

/// The error is EIO, nothing that looks like a file that is missing or forbidden, and there is a line about it.
#[track_caller]
fn is_an_error(scene: &Scene, inside: &Path, name: &str) {
    let path = inside.join(name);
    let error = fs::read(&path).map(|bytes| bytes.len()).expect_err("it cannot be read");
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{}: {error}", path.display());
    let line = format!("reading {}", scene.source().join(name).display());
    assert_eq!(lines_with(scene, &line), 1, "{:#?}", log(scene));
}

/// The folder of the newest snapshot, by the name that stays its own.
fn inside(scene: &Scene, mount: &Mount) -> PathBuf {
    scene.source_in(&mount.dir).canonicalize().unwrap()
}

#[test]
fn a_repository_whose_disk_dies_is_read_again_when_it_is_back() {
    let scene = scene("away");
    // The repository lies in a mount, which can die and come back: one of ours.
    let disk = Scene::new("disk");
    disk.run(["backup".as_ref(), "-q".as_ref(), scene.repository().as_os_str()]).ok();
    let plugged = disk.mount(&[]);
    let on_disk = disk.mnt().join("latest").join(scene.repository().strip_prefix("/").unwrap());
    let mounted = mount(&scene, &["-r", on_disk.to_str().unwrap()]);
    let inside = inside(&scene, &mounted);
    is_whole(&scene, &inside, "a");

    kill(pid_of_daemon(&disk.mnt()), libc::SIGKILL);
    let dead = |e: std::io::Error| e.raw_os_error() == Some(libc::ENOTCONN);
    soon("the disk says what the manual says", || fs::read_dir(disk.mnt()).is_err_and(dead));
    is_an_error(&scene, &inside, "c");
    is_an_error(&scene, &inside, "c");
    is_whole(&scene, &inside, "a");
    std::thread::sleep(TWO_LOOKS);
    // None, where the kernel still has the disk's lists: that reading failed is enough to look for the disk.
    assert!(lines_with(&scene, "looking for new snapshots") <= 1, "{:#?}", log(&scene));
    assert_eq!(lines_with(&scene, "can be read again"), 0, "{:#?}", log(&scene));
    assert_eq!(mounted.dated().len(), 1);

    let again = disk.mount(&[]);
    soon("it is back", || lines_with(&scene, "can be read again") == 1);
    is_whole(&scene, &inside, "c");
    is_whole(&scene, &inside, "e");
    mounted.unmount();
    again.unmount();
    std::mem::forget(plugged);
}

#[test]
fn another_repository_in_its_place_is_never_served() {
    let scene = scene("replaced");
    let mounted = mount(&scene, &[]);
    let inside = inside(&scene, &mounted);
    let dated = mounted.dated();
    is_whole(&scene, &inside, "a");
    scene.shell("cp -a repository copy; mv repository elsewhere; mkdir other; echo x > other/c").ok();
    scene.run(["init", "-q"]).ok();
    scene.run(["backup", "-q", "other"]).ok();

    // The folder was renamed: it is the same, and still read.
    std::thread::sleep(TWO_LOOKS);
    assert_eq!(mounted.dated(), dated);
    is_whole(&scene, &inside, "c");
    assert!(log(&scene).is_empty(), "{:#?}", log(&scene));

    // Now it is gone. What stands in its place is somebody else's.
    fs::remove_dir_all(scene.path("elsewhere")).unwrap();
    soon("its end is told", || lines_with(&scene, "looking for new snapshots") == 1);
    std::thread::sleep(TWO_LOOKS);
    assert!(is_mounted(&mounted.dir));
    assert_eq!(mounted.dated(), dated, "what was listed stays");
    is_an_error(&scene, &inside, "e");
    assert_eq!(lines_with(&scene, "looking for new snapshots"), 1, "{:#?}", log(&scene));

    // A copy of it in its place is as good.
    scene.shell("rm -r repository; mv copy repository").ok();
    soon("it is back", || lines_with(&scene, "can be read again") == 1);
    is_whole(&scene, &inside, "e");
    scene.backup(&[]);
    soon("new snapshots appear", || mounted.dated().len() == 2);
}

#[test]
fn a_repository_that_is_emptied_does_not_look_empty() {
    let scene = scene("emptied");
    let mounted = mount(&scene, &[]);
    let inside = inside(&scene, &mounted);
    let dated = mounted.dated();
    // As `rm -r` goes about it, or a move to another disk.
    scene.shell("mkdir elsewhere; mv repository/snapshots elsewhere").ok();
    soon("it is told", || lines_with(&scene, "no note says that they were forgotten") == 1);
    scene.shell("mv repository/* elsewhere").ok();
    std::thread::sleep(TWO_LOOKS);
    assert_eq!(mounted.dated(), dated);
    is_an_error(&scene, &inside, "c");
    scene.shell("mv elsewhere/* repository").ok();
    soon("it is back", || lines_with(&scene, "can be read again") == 1);
    is_whole(&scene, &inside, "c");
}
