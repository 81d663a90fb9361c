//! Mounts as mount(8), fstab(5) and systemd make them.

use super::scene::{Ran, Scene, is_mounted, is_root};
use std::fs;
use std::path::Path;

/// A scene with one snapshot of one file.
fn scene(name: &str) -> Scene {
    let scene = Scene::new(name);
    fs::write(scene.source().join("f"), b"saved").unwrap();
    scene.backup(&[]);
    scene
}

/// The options by which this scene's repository opens.
fn options(scene: &Scene) -> String {
    format!("key_file={},cache={}", scene.key().display(), scene.cache().display())
}

/// A script in a mount name space of its own, without any of our variables; `$0` is pastfs, `$O` what [`options`] gives.
#[track_caller]
fn in_a_name_space(scene: &Scene, script: &str) -> Ran {
    fs::write(scene.path("script"), format!("set -eu\nmount --make-rprivate /\n{script}")).unwrap();
    let clear = "unset PASTFS_REPOSITORY PASTFS_KEY_FILE PASTFS_CACHE";
    scene.shell(&format!("{clear}; O={} exec unshare -m bash ./script \"$0\"", options(scene)))
}

#[test]
fn mount_takes_a_line_of_fstab() {
    if !is_root("mount(8)") {
        return;
    }
    let scene = scene("fstab");
    // For its time the helper of all FUSE types is ours: what stands in /sbin is not touched.
    let ran = in_a_name_space(
        &scene,
        "mount --bind \"$1\" \"$(readlink -f /sbin/mount.fuse)\"\n\
         echo \"$PWD/repository $PWD/mnt fuse.pastfs nofail,noexec,_netdev,x-systemd.automount,comment=x,$O 0 0\" > fstab\n\
         mount -T fstab -a\n\
         cat mnt/latest$PWD/source/f; echo\n\
         findmnt -no SOURCE,FSTYPE,OPTIONS mnt\n\
         mount -T fstab -a && echo twice is once\n\
         umount mnt\n\
         ! mountpoint -q mnt\n\
         mount -T fstab \"$PWD/mnt\"\n\
         umount mnt\n\
         mount -f -t fuse.pastfs repository mnt -o $O && ! mountpoint -q mnt\n\
         r=0; mount -t fuse.pastfs repository mnt -o $O,uid=7 || r=$?; echo unknown option: $r\n\
         r=0; mount -t fuse.pastfs repository mnt -o $O,key_file=/dev/null || r=$?; echo bad key: $r\n\
         r=0; mount -t fuse.pastfs nowhere mnt -o $O || r=$?; echo no repository: $r\n\
         r=0; setsid mount -t fuse.pastfs repository mnt -o cache=cache || r=$?; echo no key: $r\n\
         mount -s -t fuse.pastfs repository mnt -o $O,uid=7\n\
         r=0; mount -o remount,allow_other mnt || r=$?; echo remount: $r\n\
         umount mnt\n",
    )
    .ok();
    let text = ran.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "saved");
    let columns: Vec<&str> = lines[1].split_ascii_whitespace().collect();
    assert_eq!(columns[..2], [scene.repository().to_str().unwrap(), "fuse.pastfs"]);
    for flag in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(columns[2].split(',').any(|o| o == flag), "no {flag} in {}", columns[2]);
    }
    assert_eq!(
        lines[2..],
        ["twice is once", "unknown option: 1", "bad key: 1", "no repository: 32", "no key: 1", "remount: 1"]
    );
    ran.says("\"uid\" is no mount option").says("--key-file").says("cannot be remounted");
}

#[test]
fn the_helper_of_libfuse_finds_the_program() {
    if !is_root("mount(8)") {
        return;
    }
    let scene = scene("mount-fuse");
    let ran = in_a_name_space(
        &scene,
        "mount -t fuse \"$1#$PWD/repository\" mnt -o $O\n\
         cat mnt/latest$PWD/source/f; echo\n\
         findmnt -no FSTYPE mnt\n\
         umount mnt\n",
    );
    assert_eq!(ran.ok().text(), "saved\nfuse.pastfs\n");
}

#[test]
fn the_forms_of_a_helper_and_of_the_command_mount_alike() {
    let scene = scene("helper");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_pastfs"), scene.path("mount.fuse.pastfs")).unwrap();
    for line in [
        "./mount.fuse.pastfs repository mnt -o rw,noauto,names=a\\\\,b",
        "./mount.fuse.pastfs pastfs#$PWD/repository mnt -sn -t fuse.pastfs -o nonsense,names=a\\\\,b",
        "\"$0\" $PWD/repository mnt -o rw,dev,suid,names=a\\\\,b",
        "\"$0\" repository mnt -o names=a\\\\,b",
        "\"$0\" mount -o rw,x-gvfs-hide,names=a\\\\,b mnt",
        "\"$0\" mount mnt -o names=other,names=a\\\\,b",
    ] {
        scene.shell(line).ok();
        assert!(is_mounted(&scene.mnt()), "{line}");
        assert!(scene.mnt().join("a,b").is_dir(), "{line}");
        scene.run(["umount", "mnt"]).ok();
    }
    scene.shell("./mount.fuse.pastfs repository mnt -f").ok();
    assert!(!is_mounted(&scene.mnt()));
    scene.shell("./mount.fuse.pastfs repository").code(1).says("REPOSITORY DIR");
    scene.shell("./mount.fuse.pastfs repository mnt -o refresh=never").code(1).says("never");
    scene.run(["mount", "-o", "nonsense", "mnt"]).code(2).says("\"nonsense\" is no mount option");
    scene.run(["mount", "mnt", "--key-file", "key", "-o", "key_file=key"]).code(2);
    // A folder that is not there is no command, and no mount either.
    scene.run(["repositroy", "mnt"]).code(2).says("unrecognized subcommand");
}

#[test]
fn a_users_mount_names_its_source_also_with_commas() {
    if !is_root("becoming an ordinary user") {
        return;
    }
    let scene = Scene::bare("comma");
    fs::create_dir(scene.path("a,b\\c d")).unwrap();
    scene.shell("cp \"$0\" program; mknod -m 666 fuse c 10 229; mkdir cache; chown -R 65534:65534 .; chown 0:0 fuse").ok();
    fs::write(
        scene.path("steps"),
        "set -e\nexport PASTFS_CACHE=$PWD/cache PASTFS_KEY_FILE=$PWD/key PASTFS_REPOSITORY=\"$PWD/a,b\\\\c d/r\"\n\
         ./program init -q\n./program mount mnt -o noexec,fsname=hidden\n\
         findmnt -rno FSTYPE,OPTIONS,SOURCE mnt\n./program umount mnt\n! mountpoint -q mnt\n",
    )
    .unwrap();
    let ran = in_a_name_space(
        &scene,
        "mount --bind fuse /dev/fuse\n\
         exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all bash ./steps\n",
    )
    .ok();
    let text = ran.text();
    assert!(text.starts_with("fuse.pastfs ro,nosuid,nodev,noexec"), "{text}");
    let source = Path::new("a,b\\x5cc\\x20d/r");
    assert!(text.trim_end().ends_with(source.to_str().unwrap()), "{text}");
}

#[test]
fn the_lines_of_fstab_in_the_manual_are_understood() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/man/pastfs.7")).unwrap();
    let scene = Scene::bare("manual");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_pastfs"), scene.path("mount.fuse.pastfs")).unwrap();
    let mut lines = 0;
    for line in page
        .lines()
        .map(|l| l.replace("\\-", "-"))
        .filter(|l| l.starts_with('/') && l.contains(" fuse.pastfs "))
    {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [repository, dir, kind, options, "0", "0"] = fields[..] else { panic!("{line}") };
        // All is done but the mounting: what is not understood is an error.
        scene.shell(&format!("./mount.fuse.pastfs {repository} {dir} -f -t {kind} -o '{options}'")).ok();
        lines += 1;
    }
    assert_eq!(lines, 3);
}
