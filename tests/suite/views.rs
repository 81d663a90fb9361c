//! The views of a mount beside the dated folders: by host, by tag, at a time, and a path through all of them.

use super::scene::{Mount, Scene, is_root, soon};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

const FIRST: &str = "2024-03-01T12-00-05Z";
const SECOND: &str = "2024-03-02T00-00-00Z";
const THIRD: &str = "2024-03-03T08-30-00Z";

/// Three snapshots of two hosts: a report that changes and is deleted, a file that stays.
fn history(name: &str) -> Scene {
    let scene = Scene::new(name);
    let at = |name: &str| scene.source().join(name);
    fs::write(at("report.odt"), b"first draft").unwrap();
    fs::write(at("stays"), b"same").unwrap();
    scene.backup(&["--time", "2024-03-01 12:00:05", "--host", "a/b", "--tag", "x,y"]);
    fs::write(at("report.odt"), b"second draft").unwrap();
    scene.backup(&["--time", "2024-03-02 00:00:00", "--host", "c", "--tag", "x"]);
    fs::remove_file(at("report.odt")).unwrap();
    scene.backup(&["--time", "2024-03-03 08:30:00", "--host", "c"]);
    scene
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut names: Vec<String> =
        entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Where the source folder lies below a folder of the mount.
fn source_below(scene: &Scene, dir: &Path) -> PathBuf {
    dir.join(scene.source().strip_prefix("/").unwrap())
}

#[test]
fn hosts_tags_and_times_lead_to_the_dated_folders() {
    let scene = history("views");
    let mount = scene.mount(&[]);
    assert_eq!(
        mount.names(),
        [FIRST, SECOND, THIRD, "at", "by-host", "by-tag", "latest", "versions"],
        "a name of each view, and of each snapshot"
    );
    assert_eq!(names(&mount.dir.join("by-host")), ["a%2Fb", "c"]);
    assert_eq!(names(&mount.dir.join("by-host/c")), [SECOND, THIRD, "latest"]);
    assert_eq!(names(&mount.dir.join("by-tag/x")), [FIRST, SECOND, "latest"]);
    let report = |way: &str| fs::read(source_below(&scene, &mount.dir.join(way)).join("report.odt"));
    for (way, text) in [
        ("by-host/a%2Fb/latest", "first draft"),
        ("by-tag/x/latest", "second draft"),
        ("by-tag/y/latest", "first draft"),
        ("at/2024-03-01", "first draft"),
        ("at/2024-03-02", "second draft"),
        ("at/2024-03-02 23:59", "second draft"),
        ("at/2024-03-01T12:00", "first draft"),
    ] {
        assert_eq!(report(way).unwrap_or_else(|e| panic!("{way}: {e}")), text.as_bytes(), "{way}");
    }
    for way in ["at/yesterday", "at/3 days ago", "at/now", "at/latest", "by-host/c/latest"] {
        assert!(report(way).is_err(), "{way} is after the file was deleted");
        assert_eq!(names(&source_below(&scene, &mount.dir.join(way))), ["stays"], "{way}");
    }
    for nowhere in ["at/2024-02-29", "at/no time", "by-host/d", "by-tag/z/latest"] {
        assert!(fs::symlink_metadata(mount.dir.join(nowhere)).is_err(), "{nowhere}");
    }
    assert_eq!(names(&mount.dir.join("at")), [""; 0]);
    // Symlinks are not followed, so nothing goes in circles; and none of them leads nowhere.
    let all =
        scene.shell("cd mnt && ls -R by-host by-tag at && find by-host by-tag -type l ! -readable").ok();
    assert!(!all.text().contains("report"), "{}", all.text());
    assert_eq!(scene.shell("find mnt/by-host mnt/by-tag -xtype l").ok().text(), "");
    mount.unmount();
    // A zone of its own: the end of that day, there.
    let mut command = scene.command(["mount", "mnt"]);
    command.env("TZ", "Pacific/Honolulu");
    scene.run_command(command).ok();
    let target = fs::read_link(scene.path("mnt/at/2024-03-01")).unwrap();
    assert_eq!(target, Path::new("..").join(SECOND), "that day ended 10 hours later there");
    scene.run(["umount", "mnt"]).ok();
}

#[test]
fn a_path_in_versions_holds_all_that_ever_was_there_as_the_very_files() {
    let scene = history("versions");
    let mount = scene.mount(&[]);
    let folder = source_below(&scene, &mount.dir.join("versions"));
    assert_eq!(names(&folder), ["report.odt", "stays"]);
    let (one, two) = (format!("{FIRST}.odt"), format!("{SECOND}.odt"));
    assert_eq!(names(&folder.join("report.odt")), [one.as_str(), two.as_str()]);
    assert_eq!(names(&folder.join("stays")), [FIRST]);
    for (version, snapshot) in [(&one, FIRST), (&two, SECOND)] {
        let version = folder.join("report.odt").join(version);
        let dated = source_below(&scene, &mount.dir.join(snapshot)).join("report.odt");
        let (a, b) = (fs::metadata(&version).unwrap(), fs::metadata(&dated).unwrap());
        assert_eq!((a.ino(), a.dev(), a.mtime_nsec()), (b.ino(), b.dev(), b.mtime_nsec()));
        assert_eq!(fs::read(&version).unwrap(), fs::read(&dated).unwrap());
    }
    assert_eq!(fs::metadata(&folder).unwrap().mtime(), fs::metadata(mount.dir.join(THIRD)).unwrap().mtime());
    let report = fs::metadata(folder.join("report.odt")).unwrap();
    assert_eq!(report.mtime(), fs::metadata(mount.dir.join(SECOND)).unwrap().mtime());
    assert_eq!((report.mode() & 0o7777, report.nlink()), (0o555, 2));
    // Programs that walk and copy.
    let found =
        scene.shell("find mnt/versions -type f | wc -l; cp -r mnt/versions copy; find copy -type f | wc -l");
    assert_eq!(found.ok().text().split_whitespace().collect::<Vec<_>>(), ["3", "3"]);
    scene.shell("diff -r mnt/versions copy && chmod -R u+w copy").ok();
    mount.unmount();
}

#[test]
fn the_views_follow_new_snapshots_and_those_that_go() {
    let scene = history("views-refresh");
    let mount = scene.mount(&[]);
    let folder = source_below(&scene, &mount.dir.join("versions"));
    let views =
        [mount.dir.join("by-host"), mount.dir.join("by-host/c"), folder.clone(), folder.join("stays")];
    let before: Vec<_> = views.iter().map(|v| names(v)).collect();
    let newest = |way: &str| fs::read_link(mount.dir.join(way)).unwrap();
    let (latest, now) = (newest("latest"), newest("at/now"));
    assert_eq!(now, Path::new("..").join(&latest));
    // Two listings of each: the kernel keeps them by now.
    assert_eq!(views.iter().map(|v| names(v)).collect::<Vec<_>>(), before);

    fs::write(scene.source().join("stays"), b"no more").unwrap();
    fs::write(scene.source().join("new"), b"new").unwrap();
    scene.backup(&["--host", "d"]);
    scene.backup(&["--host", "c"]);
    soon("the views show both", || {
        names(&views[0]).len() == 3 && names(&views[1]).len() == before[1].len() + 1
    });
    soon("a new file is in versions", || names(&views[2]) == ["new", "report.odt", "stays"]);
    soon("a new version is there", || names(&views[3]).len() == 2);
    soon("symlinks lead to the newest", || newest("latest") != latest && newest("at/now") != now);
    soon("and through a host", || {
        mount.dir.join("by-host/c/latest").join("tmp").exists()
            || names(&mount.dir.join("by-host/c/latest")).len() == 1
    });
    assert_eq!(fs::read(source_below(&scene, &mount.dir.join("at/now")).join("stays")).unwrap(), b"no more");

    // The oldest goes: with it what it alone held.
    let oldest = scene.snapshots()[0]["id"].as_str().unwrap().to_string();
    let manifest = scene.objects().into_iter().find(|p| p.to_string_lossy().contains(&oldest)).unwrap();
    let open = fs::File::open(folder.join("report.odt").join(format!("{FIRST}.odt"))).unwrap();
    fs::remove_file(scene.repository().join(manifest)).unwrap();
    soon("its folder is gone", || !mount.names().contains(&FIRST.to_string()));
    soon("its host is gone", || names(&views[0]) == ["c", "d"]);
    soon("its version is gone", || names(&folder.join("report.odt")) == [format!("{SECOND}.odt")]);
    soon("what stayed is named by the next", || names(&views[3])[0] == SECOND);
    assert_eq!(std::io::read_to_string(open).unwrap(), "first draft", "what is open goes on");
    mount.unmount();
}

#[test]
fn nothing_is_ever_written_into_a_view() {
    let scene = history("views-read-only");
    let mount = scene.mount(&[]);
    let file =
        source_below(&scene, &mount.dir.join("versions")).join("report.odt").join(format!("{FIRST}.odt"));
    let refused = |what: &str, result: std::io::Result<()>| {
        let error = result.expect_err(what);
        assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{what}: {error}");
    };
    for view in ["at", "by-host", "by-host/c", "by-tag", "by-tag/x", "versions"] {
        let dir = mount.dir.join(view);
        refused(view, fs::create_dir(dir.join("new")));
        refused(view, fs::write(dir.join("new"), b"x"));
        refused(view, fs::rename(&dir, mount.dir.join("elsewhere")));
        refused(view, fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)));
        refused(view, std::os::unix::fs::symlink("x", dir.join("new")));
        refused(view, fs::remove_dir(&dir));
        refused(view, fs::hard_link(&file, dir.join("new")));
        let xattr = rustix::fs::setxattr(&dir, "user.x", b"y", rustix::fs::XattrFlags::empty());
        refused(view, xattr.map_err(Into::into));
        let mut buffer = [0u8; 64];
        for name in ["user.none", "system.posix_acl_access", "security.capability"] {
            let missing = rustix::fs::getxattr(&dir, name, &mut buffer).unwrap_err();
            assert_eq!(missing, rustix::io::Errno::NODATA, "{name} of {view}");
        }
    }
    refused("a symlink", fs::remove_file(mount.dir.join("by-host/c/latest")));
    refused("a version", fs::write(&file, b"x"));
    refused("a version's end", fs::OpenOptions::new().write(true).open(&file).map(drop));
    refused("a version's name", fs::remove_file(&file));
    let version = rustix::fs::lremovexattr(&file, "user.x").map_err(Into::into);
    refused("a version's attributes", version);
    mount.unmount();
}

fn as_nobody(scene: &Scene, line: &str) -> bool {
    let line = format!("setpriv --reuid 65534 --regid 65534 --clear-groups {line}");
    scene.run_command(scene.shell_command(&line)).code == Some(0)
}

#[test]
fn versions_show_others_no_more_than_the_dated_folders_do() {
    if !is_root("the test of --allow-other") {
        return;
    }
    let scene = Scene::new("views-others");
    for (folder, mode) in [("open", 0o755), ("closed", 0o700), ("once", 0o755)] {
        fs::create_dir(scene.source().join(folder)).unwrap();
        fs::write(scene.source().join(folder).join("f"), folder).unwrap();
        fs::set_permissions(scene.source().join(folder), fs::Permissions::from_mode(mode)).unwrap();
    }
    scene.backup(&[]);
    fs::set_permissions(scene.source().join("once"), fs::Permissions::from_mode(0o700)).unwrap();
    scene.backup(&[]);
    let cat = |mount: &Mount<'_>, name: &str| {
        let folder = source_below(&scene, &mount.dir.join("versions")).join(name);
        as_nobody(&scene, &format!("cat {}/f/*", folder.display()))
    };
    let mount = scene.mount(&["--allow-other"]);
    let folder = source_below(&scene, &mount.dir.join("versions"));
    assert!(as_nobody(&scene, &format!("ls {}", folder.display())));
    assert!(as_nobody(&scene, &format!("bash -c 'cat {}/open/f/*'", folder.display())));
    for name in ["closed", "once"] {
        assert!(!as_nobody(&scene, &format!("ls {}/{name}", folder.display())), "{name}");
        assert!(!as_nobody(&scene, &format!("bash -c 'cat {}/{name}/f/*'", folder.display())), "{name}");
    }
    mount.unmount();
    // Another host's snapshot: its numbers mean other people. Unless they are mapped.
    scene.backup(&["--host", "elsewhere"]);
    let mount = scene.mount(&["--allow-other"]);
    assert!(!as_nobody(&scene, "ls mnt/versions") && !as_nobody(&scene, "ls mnt/latest/"));
    assert!(as_nobody(&scene, "ls mnt/by-host mnt/by-host/elsewhere mnt/at"));
    assert!(!cat(&mount, "open"));
    mount.unmount();
    let mount = scene.mount(&["--allow-other", "--map-owner", "names"]);
    assert!(as_nobody(&scene, "ls mnt/versions") && as_nobody(&scene, "ls mnt/latest/"));
    assert!(!as_nobody(&scene, &format!("ls {}/closed", folder.display())));
    mount.unmount();
    let mount = scene.mount(&[]);
    assert!(!as_nobody(&scene, "ls mnt/at"), "without --allow-other nobody else looks in");
    mount.unmount();
}

#[test]
fn owners_can_be_mapped_and_files_be_kept_apart() {
    if !is_root("giving files away") {
        return;
    }
    let scene = Scene::new("views-owners");
    fs::write(scene.source().join("f"), b"f").unwrap();
    fs::write(scene.source().join("acl"), b"acl").unwrap();
    scene.shell("chown 1234:2345 source/f; chmod 600 source/acl; setfacl -m u:1234:rw source/acl").ok();
    scene.backup(&["--time", "2024-03-01 12:00:05"]);
    scene.backup(&["--time", "2024-03-02 00:00:00"]);
    let stat = |snapshot: &str, name: &str| {
        fs::metadata(source_below(&scene, &scene.mnt().join(snapshot)).join(name)).unwrap()
    };
    let owner = |name: &str| (stat(SECOND, name).uid(), stat(SECOND, name).gid());
    let acl = || {
        scene
            .shell(&format!("getfacl -cnp {}/acl", source_below(&scene, &scene.mnt().join(SECOND)).display()))
            .ok()
            .text()
    };

    let mount = scene.mount(&[]);
    assert_eq!(owner("f"), (1234, 2345));
    assert_eq!(stat(FIRST, "f").ino(), stat(SECOND, "f").ino());
    assert!(acl().contains("user:1234:rw-"), "{}", acl());
    mount.unmount();
    let mount = scene.mount(&["--map-owner", "1234=nobody", "--map-owner", ":2345=:root"]);
    assert_eq!((owner("f"), owner("acl")), ((65534, 0), (0, 0)));
    assert!(acl().contains("user:65534:rw-") && !acl().contains("1234"), "{}", acl());
    mount.unmount();
    let mount = scene.mount(&["--map-owner=me", "--unique-inodes"]);
    assert_eq!(owner("f"), (0, 0));
    assert_eq!(stat(SECOND, "acl").mode() & 0o7777, 0o600);
    assert!(!acl().contains("1234"), "{}", acl());
    assert_ne!(stat(FIRST, "f").ino(), stat(SECOND, "f").ino());
    assert_eq!(fs::read(source_below(&scene, &mount.dir.join(FIRST)).join("f")).unwrap(), b"f");
    mount.unmount();
    scene.run(["mount", "mnt", "--map-owner", "1234=no such user"]).code(2).says("no such user");
    scene.run(["mount", "mnt", "--map-owner", "us"]).code(2).says("names");
}
