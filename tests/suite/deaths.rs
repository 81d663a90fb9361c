//! What befalls a mount: damage in what it serves, and its own death. Readers get errors that say so, the log names what
//! was hit, and there is a way out.

use super::scene::{Draw, Scene, fill, is_mounted, kill, pid_of_daemon, soon};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[test]
fn damage_is_eio_and_one_line_that_names_snapshot_path_and_cause() {
    let scene = Scene::new("lines");
    let source = scene.source();
    fs::write(source.join("first"), Draw(1).bytes(300_000)).unwrap();
    scene.backup(&[]);
    let packs = || scene.objects().into_iter().filter(|o| o.starts_with("packs")).collect::<Vec<_>>();
    let before = packs();
    fs::create_dir(source.join("folder")).unwrap();
    fs::write(source.join("folder/second"), Draw(2).bytes(900_000)).unwrap();
    let report = scene.backup(&[]);
    let id = report["snapshot_id"].as_str().unwrap();
    // The largest of the new packs is the one with the data.
    let size = |p: &PathBuf| fs::metadata(scene.repository().join(p)).unwrap().len();
    let lost = packs().into_iter().filter(|p| !before.contains(p)).max_by_key(size).unwrap();

    let running = scene.start(scene.command(["mount", "--foreground", "mnt"]));
    soon("it is mounted", || is_mounted(&scene.mnt()));
    let shown = scene.source_in(&scene.mnt());
    soon("it answers", || shown.join("folder").is_dir());
    fs::remove_file(scene.repository().join(&lost)).unwrap();
    for _ in 0..3 {
        let e = fs::read(shown.join("folder/second")).unwrap_err();
        assert_eq!(e.raw_os_error(), Some(libc::EIO), "{e}");
    }
    // It is there all the same, and nothing else is hurt.
    assert_eq!(fs::metadata(shown.join("folder/second")).unwrap().len(), 900_000);
    assert_eq!(fs::read_dir(shown.join("folder")).unwrap().count(), 1);
    assert!(fs::read(shown.join("first")).unwrap() == fs::read(source.join("first")).unwrap());
    running.signal(libc::SIGTERM);
    let ran = running.wait().orderly();
    let pack = lost.file_name().unwrap().to_str().unwrap();
    let path = source.join("folder/second").display().to_string();
    let lines: Vec<&str> = ran.err.lines().filter(|l| l.contains(&path)).collect();
    assert_eq!(lines.len(), 1, "three reads, one line: {}", ran.err);
    assert!(lines[0].contains(&id[..8]), "the snapshot: {}", lines[0]);
    assert!(lines[0].contains(&pack[..8]), "the cause: {}", lines[0]);
}

/// Reads files of a folder in turn until it is told to stop; how many were right, and the errors met.
fn read_in_turn(source: &Path, shown: &Path, stop: &AtomicBool, right: &AtomicU64) -> Vec<i32> {
    let mut draw = Draw(9);
    let mut errors = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let n = draw.next() % 64;
        let name = format!("{}/{n}", n % 16);
        let read = || -> std::io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            File::open(shown.join(&name))?.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match read() {
            Ok(bytes) => {
                assert!(bytes == fs::read(source.join(&name)).unwrap(), "wrong bytes in {name}");
                right.fetch_add(1, Ordering::Relaxed);
            }
            Err(e) => {
                errors.push(e.raw_os_error().unwrap_or_default());
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        }
    }
    errors
}

#[test]
fn killed_while_it_is_read_it_leaves_errors_that_say_so_and_can_be_mounted_again() {
    let scene = Scene::new("killed");
    let source = scene.source();
    fill(&source, 64, 200_000, 1);
    scene.backup(&[]);
    let mut draw = Draw(4);
    for round in 0..3 {
        // What is left of the dead one of the round before is cleared away by the mount itself.
        let mount = scene.mount(&[]);
        let shown = scene.source_in(&mount.dir);
        let held = File::open(shown.join("5/5")).unwrap();
        let (stop, right) = (AtomicBool::new(false), AtomicU64::new(0));
        let errors: Vec<i32> = std::thread::scope(|scope| {
            let readers: Vec<_> =
                (0..4).map(|_| scope.spawn(|| read_in_turn(&source, &shown, &stop, &right))).collect();
            soon("the readers read", || right.load(Ordering::Relaxed) > 20);
            std::thread::sleep(std::time::Duration::from_millis(draw.next() % 50));
            kill(pid_of_daemon(&mount.dir), libc::SIGKILL);
            soon("the mount is dead", || fs::metadata(&mount.dir).is_err());
            std::thread::sleep(std::time::Duration::from_millis(50));
            stop.store(true, Ordering::Relaxed);
            readers.into_iter().flat_map(|r| r.join().unwrap()).collect()
        });
        // ECONNABORTED is for who was waiting for an answer, ENOTCONN for who asks afterwards. Who reads what the kernel
        // keeps already meets neither.
        let known = [libc::ENOTCONN, libc::ECONNABORTED];
        assert!(errors.iter().all(|e| known.contains(e)), "{errors:?}");
        assert_eq!(fs::metadata(&mount.dir).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
        drop(held);
        match round {
            1 => mount.unmount(),
            _ => std::mem::forget(mount),
        }
    }
    scene.run([OsStr::new("umount"), scene.mnt().as_os_str()]).ok();
    assert!(!is_mounted(&scene.mnt()));
    assert_eq!(fs::read_dir(scene.mnt()).unwrap().count(), 0);
}

#[test]
fn nothing_is_ever_written_not_even_where_root_takes_the_read_only_flag_off() {
    if !super::scene::is_root("remounting") {
        return;
    }
    let scene = Scene::new("written");
    fs::create_dir(scene.source().join("d")).unwrap();
    fs::write(scene.source().join("f"), b"f").unwrap();
    rustix::fs::setxattr(scene.source().join("f"), "user.x", b"1", rustix::fs::XattrFlags::empty()).unwrap();
    scene.backup(&[]);
    let mount = scene.mount(&[]);
    let inside = scene.source_in(&mount.dir);
    let try_all = |how: &str| {
        for line in [
            "echo x > f",
            "echo x >> f",
            "truncate -s 0 f",
            "fallocate -l 10 f",
            "touch new",
            "touch f",
            "touch -h -d 2001-01-01 f",
            "mkdir new",
            "rmdir d",
            "rm f",
            "mv f g",
            "mv --exchange f d || mv f d/",
            "ln f g",
            "ln -s f g",
            "mkfifo g",
            "mknod g c 1 3",
            "chmod 600 f",
            "chown 1:1 f",
            "chattr +i f",
            "setfattr -n user.x -v 2 f",
            "setfattr -x user.x f",
            "setfacl -m u:1:r f",
            "cp --remove-destination /dev/null f",
            "dd if=/dev/zero of=f bs=1 count=1 conv=notrunc status=none",
        ] {
            let mut command = scene.shell_command(line);
            command.current_dir(&inside).env("LC_ALL", "C");
            let ran = scene.run_command(command).fails();
            let chattr = line.starts_with("chattr") || line.starts_with("fallocate");
            assert!(ran.err.contains("Read-only file system") || chattr, "{how}: {line}: {}", ran.err);
        }
        assert_eq!(fs::read(inside.join("f")).unwrap(), b"f");
    };
    try_all("read-only");
    rustix::mount::mount_remount(&mount.dir, rustix::mount::MountFlags::empty(), "").unwrap();
    try_all("remounted");
    let same = super::scene::differences(&scene.source(), &inside, &[]);
    assert!(same.is_empty(), "{same}");
}
