//! The mount as a file system among others.

use super::scene::{BESIDE, Scene, is_mounted, is_root, kill, pid_of_daemon, soon};
use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

#[test]
fn snapshots_are_folders_with_the_time_as_name_and_mtime() {
    let scene = Scene::new("dated");
    fs::write(scene.source().join("f"), b"f").unwrap();
    scene.backup(&["--time", "2024-03-01 12:00:05", "--host", "a/b", "--tag", "x,y"]);
    scene.backup(&["--time", "2024-03-01 12:00:05", "--host", "c"]);
    scene.backup(&["--time", "2024-03-02 00:00:00", "--host", "c"]);
    let mount = scene.mount(&[]);
    let names = mount.names();
    assert_eq!(names.len(), 3 + BESIDE.len(), "{names:?}");
    assert_eq!(names[0], "2024-03-01T12-00-05Z");
    assert!(names[1].starts_with("2024-03-01T12-00-05Z-") && names[1].len() == 29, "{names:?}");
    assert_eq!(names[2], "2024-03-02T00-00-00Z");
    assert_eq!(names[3..], BESIDE);
    assert_eq!(fs::read_link(mount.dir.join("latest")).unwrap(), Path::new("2024-03-02T00-00-00Z"));
    assert_eq!(fs::metadata(mount.dir.join(&names[0])).unwrap().mtime(), 1_709_294_405);
    // A file that is the same in two snapshots is one file to those who compare.
    let inode = |n: &str| {
        let path = mount.dir.join(n).join(scene.source().strip_prefix("/").unwrap()).join("f");
        fs::metadata(path).unwrap().ino()
    };
    assert_eq!(inode(&names[0]), inode(&names[2]));
    mount.unmount();

    let mount = scene.mount(&["--names", "%Y {host} {tags}"]);
    assert_eq!(mount.dated()[0], "2024 a%2Fb x,y");
    mount.unmount();
    let id = scene.snapshots()[0]["id"].as_str().unwrap().to_string();
    let mount = scene.mount(&["--names", "{id}"]);
    assert!(mount.names().contains(&id), "{:?}", mount.names());
    mount.unmount();
    let mut command =
        scene.command([OsStr::new("mount"), scene.mnt().as_os_str(), OsStr::new("--local-time")]);
    command.env("TZ", "Europe/Berlin");
    scene.run_command(command).ok();
    let found: Vec<String> =
        fs::read_dir(scene.mnt()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(found.iter().any(|n| n == "2024-03-02T01-00-00+0100"), "{found:?}");
    scene.run(["umount", "mnt"]).ok();
}

#[test]
fn a_mount_is_read_only_in_every_way() {
    let scene = Scene::new("read-only");
    fs::write(scene.source().join("f"), b"f").unwrap();
    scene.backup(&[]);
    let mount = scene.mount(&[]);
    let inside = scene.source_in(&mount.dir);
    let file = inside.join("f");
    let refused = |what: &str, result: std::io::Result<()>| {
        let error = result.expect_err(what);
        assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{what}: {error}");
    };
    refused("write", fs::write(&file, b"g"));
    refused("append", fs::OpenOptions::new().append(true).open(&file).map(drop));
    refused("create", fs::write(inside.join("new"), b"g"));
    refused("create in the root", fs::write(mount.dir.join("new"), b"g"));
    refused("mkdir", fs::create_dir(inside.join("new")));
    refused("unlink", fs::remove_file(&file));
    refused("rename", fs::rename(&file, inside.join("g")));
    refused("link", fs::hard_link(&file, inside.join("g")));
    refused("symlink", std::os::unix::fs::symlink("x", inside.join("g")));
    refused("chmod", fs::set_permissions(&file, fs::Permissions::from_mode(0o777)));
    refused("rmdir", fs::remove_dir(mount.dir.join(&mount.dated()[0])));
    let xattr = rustix::fs::setxattr(&file, "user.x", b"y", rustix::fs::XattrFlags::empty());
    refused("setxattr", xattr.map_err(Into::into));
    let mut buffer = [0u8; 64];
    let missing = rustix::fs::getxattr(&file, "user.missing", &mut buffer).unwrap_err();
    assert_eq!(missing, rustix::io::Errno::NODATA);
    assert_eq!(fs::read(inside.join("nothing")).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(fs::read(&file).unwrap(), b"f");
}

#[test]
fn a_mount_point_that_will_not_do_is_told_and_a_dead_one_is_taken_over() {
    let scene = Scene::new("mount-points");
    fs::write(scene.source().join("f"), b"f").unwrap();
    scene.backup(&[]);
    scene.run(["mount", "no such folder"]).fails().says("no such folder");
    scene.run(["mount", "source"]).fails().says("empty");
    assert_eq!(fs::read(scene.source().join("f")).unwrap(), b"f");
    scene.run(["mount", "source/f"]).fails();
    scene.run(["umount", "source"]).fails();
    scene.run(["mount", "repository"]).fails();
    let mount = scene.mount(&[]);
    scene.run(["mount", "mnt"]).fails().says("mnt");
    assert_eq!(mount.dated().len(), 1, "the first mount stands");

    // Killed: what is left over is cleared away by the next mount.
    let pid = pid_of_daemon(&mount.dir);
    kill(pid, libc::SIGKILL);
    soon("the mount is dead", || fs::read_dir(&mount.dir).is_err());
    let again = scene.mount(&[]);
    assert_eq!(again.dated().len(), 1);
    // And by umount.
    kill(pid_of_daemon(&again.dir), libc::SIGKILL);
    soon("the mount is dead", || fs::read_dir(&again.dir).is_err());
    again.unmount();
    std::mem::forget(mount);
}

#[test]
fn sigterm_unmounts_also_with_a_file_open_and_the_foreground_ends_with_it() {
    let scene = Scene::new("sigterm");
    fs::write(scene.source().join("f"), b"f").unwrap();
    scene.backup(&[]);
    let mount = scene.mount(&[]);
    let pid = pid_of_daemon(&mount.dir);
    kill(pid, libc::SIGTERM);
    soon("it is unmounted", || !is_mounted(&mount.dir));
    soon("the daemon is gone", || !Path::new(&format!("/proc/{pid}")).exists());

    for signal in [libc::SIGTERM, libc::SIGINT] {
        let args = [OsStr::new("mount"), OsStr::new("--foreground"), mount.dir.as_os_str()];
        let running = scene.start(scene.command(args));
        soon("it is mounted", || is_mounted(&mount.dir) && mount.dated().len() == 1);
        let open = fs::File::open(scene.source_in(&mount.dir).join("f")).unwrap();
        running.signal(signal);
        soon("its name is free at once", || !is_mounted(&mount.dir));
        drop(open);
        let ran = running.wait().orderly();
        assert!(matches!(ran.code, Some(0 | 130)), "{:?} {}", ran.code, ran.err);
    }
    let open_mount = scene.mount(&[]);
    let open = fs::File::open(scene.source_in(&open_mount.dir).join("f")).unwrap();
    // A busy one: told, or detached; never half.
    let ran = scene.run([OsStr::new("umount"), open_mount.dir.as_os_str()]).orderly();
    assert_eq!(ran.code == Some(0), !is_mounted(&open_mount.dir), "{}", ran.err);
    drop(open);
}

#[test]
fn a_daemon_that_is_slow_to_end_takes_no_later_mount_off() {
    if !is_root("taking a mount off whose program does not answer") {
        return;
    }
    let scene = Scene::new("slow-end");
    fs::write(scene.source().join("f"), b"f").unwrap();
    scene.backup(&[]);
    let first = scene.mount(&[]);
    let pid = first.pid();
    kill(pid, libc::SIGSTOP);
    rustix::mount::unmount(&first.dir, rustix::mount::UnmountFlags::empty()).unwrap();
    std::mem::forget(first);
    // The kernel gives it the number of the device that has just become free.
    let second = scene.mount(&[]);
    kill(pid, libc::SIGCONT);
    let stat = || fs::read_to_string(format!("/proc/{pid}/stat"));
    soon("the first daemon has ended", || stat().map_or(true, |s| s.contains(") Z ")));
    assert!(is_mounted(&second.dir), "the daemon of the first mount has taken off the second one");
    assert_eq!(second.dated().len(), 1);
    second.unmount();
}

#[test]
fn an_ordinary_user_can_back_up_mount_and_restore() {
    if !is_root("becoming an ordinary user") {
        return;
    }
    let scene = Scene::bare("ordinary");
    fs::write(scene.source().join("f"), b"mine").unwrap();
    scene
        .shell("cp \"$0\" program; mknod -m 666 fuse c 10 229; mkdir cache repository; chown -R 65534:65534 .; chown 0:0 fuse")
        .ok();
    // /dev/fuse is for all on a usual Debian; where it is not, a name space of our own has one that is.
    fs::write(
        scene.path("as-nobody"),
        "set -e\nmount --make-rprivate /\nmount --bind fuse /dev/fuse\n\
         exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all bash ./steps \"$1\"\n",
    )
    .unwrap();
    fs::write(
        scene.path("steps"),
        "set -e\nexport HOME=$PWD PASTFS_CACHE=$PWD/cache\n\"$1\" init -q\n\"$1\" backup -q source\n\
         \"$1\" mount mnt\ncat mnt/latest$PWD/source/f\n\"$1\" umount mnt\n\"$1\" restore -q latest --target out\n\
         cmp out$PWD/source/f source/f\n! grep -q \" $PWD/mnt \" /proc/self/mounts\n",
    )
    .unwrap();
    let ran = scene.shell("exec unshare -m bash ./as-nobody ./program").ok();
    assert_eq!(ran.text(), "mine");
}

#[test]
fn permissions_hold_for_other_users_and_without_allow_other_nobody_else_gets_in() {
    if !is_root("the test of --allow-other") {
        return;
    }
    let scene = Scene::new("allow-other");
    for (name, mode) in [("secret", 0o600), ("open", 0o644)] {
        let path = scene.source().join(name);
        fs::write(&path, name).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::write(scene.source().join("by acl"), b"by acl").unwrap();
    scene.shell("chmod 600 'source/by acl'; setfacl -m u:65534:r 'source/by acl'").ok();
    scene.backup(&[]);
    let as_nobody = |name: &str| {
        let path = scene.source_in(&scene.mnt()).join(name);
        scene.shell(&format!("setpriv --reuid 65534 --regid 65534 --clear-groups cat '{}'", path.display()))
    };
    let mount = scene.mount(&["--allow-other"]);
    assert_eq!(as_nobody("open").ok().out, b"open");
    as_nobody("secret").fails().says("Permission denied");
    assert_eq!(as_nobody("by acl").ok().out, b"by acl");
    mount.unmount();
    let mount = scene.mount(&[]);
    as_nobody("open").fails();
    mount.unmount();
}
