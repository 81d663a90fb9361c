//! What the tools that people copy, compare and archive with see in the mount: the same as in the source. The tree is
//! that of the oddities, everything that a Linux file can be.

use super::oddities::make;
use super::scene::{Scene, is_root, same_trees};
use rustix::fs::{SeekFrom, StatVfsMountFlags};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Everything below a folder, relative to it, sorted.
fn below(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from(".")];
    let mut open = vec![dir.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            found.push(path.strip_prefix(dir).unwrap().to_path_buf());
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                open.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The output of a line for the shell in a folder: `$0` is a file with all names in it, each with a zero behind it.
#[track_caller]
fn told(scene: &Scene, dir: &Path, line: &str) -> Vec<u8> {
    let names = scene.path("all names");
    let mut list = Vec::new();
    for name in below(dir) {
        let at = if name == Path::new(".") { name } else { Path::new(".").join(name) };
        list.extend_from_slice(at.as_os_str().as_bytes());
        list.push(0);
    }
    fs::write(&names, list).unwrap();
    let mut command = scene.shell_command(&format!("cd \"$AT\"; {line}"));
    command.env("AT", dir).env("NAMES", names).env("LC_ALL", "C");
    scene.run_command(command).ok().out
}

/// Both folders tell the same, and something.
#[track_caller]
fn same_told(scene: &Scene, source: &Path, shown: &Path, line: &str) {
    let (a, b) = (told(scene, source, line), told(scene, shown, line));
    assert!(a.len() > 1000, "{line}: {}", String::from_utf8_lossy(&a));
    if a != b {
        let [a, b] = [a, b].map(|t| String::from_utf8_lossy(&t).into_owned());
        let differing: Vec<String> = a
            .lines()
            .zip(b.lines())
            .filter(|(x, y)| x != y)
            .take(10)
            .map(|(x, y)| format!("- {x}\n+ {y}"))
            .collect();
        panic!("{line} tells something else:\n{}", differing.join("\n"));
    }
}

/// Where a file has data, as lseek(2) tells.
fn data_map(path: &Path) -> Vec<(u64, u64)> {
    let file = File::open(path).unwrap();
    let mut found = Vec::new();
    let mut at = 0;
    while let Ok(start) = rustix::fs::seek(&file, SeekFrom::Data(at)) {
        at = rustix::fs::seek(&file, SeekFrom::Hole(start)).unwrap();
        found.push((start, at));
    }
    found
}

fn regular_files(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let dir = dir.to_path_buf();
    below(&dir).into_iter().filter(move |p| fs::symlink_metadata(dir.join(p)).unwrap().is_file())
}

#[test]
fn stat_xattrs_acls_holes_and_archives_are_those_of_the_source() {
    if !is_root("the tree of oddities") {
        return;
    }
    let scene = Scene::new("matrix");
    let source = scene.source();
    make(&source);
    scene.backup(&[]);
    let mount = scene.mount(&[]);
    let shown = scene.source_in(&mount.dir);

    // All of stat but what a file system makes up for itself: inodes, blocks, links of folders, the time of reading.
    let all = "xargs -0 stat -c '%n %F %f %u %g %s %t:%T %y %z' < \"$NAMES\"";
    same_told(&scene, &source, &shown, all);
    let links = "find . ! -type d -printf '%p %n\\n' | sort";
    same_told(&scene, &source, &shown, links);
    same_told(&scene, &source, &shown, "xargs -0 getfattr -h -d -m - -e hex < \"$NAMES\"");
    same_told(&scene, &source, &shown, "find . ! -type l -print0 | sort -z | xargs -0 getfacl -n -p");
    same_told(&scene, &source, &shown, "find . -type l -print0 | sort -z | xargs -0 -n 1 readlink -n");
    let sums = "find . -type f -print0 | sort -z | xargs -0 sha256sum -z";
    same_told(&scene, &source, &shown, sums);

    // Special files cannot be compared by diff: it calls each pair a difference.
    let special: Vec<String> = below(&source)
        .into_iter()
        .filter(|p| {
            let t = fs::symlink_metadata(source.join(p)).unwrap().file_type();
            t.is_fifo() || t.is_socket() || t.is_block_device() || t.is_char_device()
        })
        .map(|p| format!("-x '{}'", p.file_name().unwrap().display()))
        .collect();
    let both = format!("'{}' '{}'", source.display(), shown.display());
    scene.shell(&format!("diff -r --no-dereference {} {both}", special.join(" "))).ok();

    // Archives know no sockets.
    let what = "--format=posix --numeric-owner --xattrs --xattrs-include='*' --acls -S";
    let line = format!(
        "tar -C '{}' {what} --exclude=./kinds/socket -c . | tar -C '{}' {what} --compare",
        shown.display(),
        source.display()
    );
    scene.shell(&line).ok();
    scene.shell(&format!("cp -a '{}' copied", shown.display())).ok();
    same_trees(&source, &scene.path("copied"));
    scene.shell(&format!("rsync -aHAXS '{}/' synced", shown.display())).ok();
    same_trees(&source, &scene.path("synced"));
}

#[test]
fn holes_are_where_they_were_and_du_counts_what_is_data() {
    let scene = Scene::new("holes");
    let source = scene.source();
    let hole = |name: &str, len: u64, data: &[(u64, usize)]| {
        let file = File::create(source.join(name)).unwrap();
        file.set_len(len).unwrap();
        for (at, len) in data {
            std::os::unix::fs::FileExt::write_all_at(&file, &vec![b'd'; *len], *at).unwrap();
        }
    };
    hole("none", 0, &[]);
    hole("all", 10 << 20, &[]);
    hole("odd", 1_234_567, &[]);
    hole("front", 1 << 20, &[((1 << 20) - 4096, 4096)]);
    hole("back", 1 << 20, &[(0, 4096)]);
    hole("stripes", 4 << 20, &[(0, 8192), (1 << 20, 4096), (3 << 20, 65_536)]);
    hole("full", 300_000, &[(0, 300_000)]);
    scene.backup(&[]);
    let mount = scene.mount(&[]);
    let shown = scene.source_in(&mount.dir);
    for name in regular_files(&source) {
        let (a, b) = (source.join(&name), shown.join(&name));
        let map = data_map(&a);
        assert_eq!(map, data_map(&b), "{}", name.display());
        let data: u64 = map.iter().map(|(from, to)| to - from).sum();
        assert_eq!(fs::metadata(&b).unwrap().blocks(), data.div_ceil(512), "{}", name.display());
    }
    let du = |dir: &Path, how: &str| -> u64 {
        let text = scene.shell(&format!("du -s -B1 {how} '{}'", dir.display())).ok().text();
        text.split('\t').next().unwrap().parse().unwrap()
    };
    assert_eq!(du(&source, "--apparent-size"), du(&shown, "--apparent-size"));
    // The source's file system hands out blocks of 4 KiB.
    let (real, told) = (du(&source, ""), du(&shown, ""));
    let files = regular_files(&source).count() as u64;
    assert!(real.abs_diff(told) <= files * 4096 + 4096, "{told} where the source takes {real}");
}

#[test]
fn what_stands_for_the_file_system_itself_makes_sense() {
    let scene = Scene::new("statfs");
    fs::write(scene.source().join("f"), vec![b'f'; 1_000_000]).unwrap();
    std::os::unix::fs::symlink("f", scene.source().join("l")).unwrap();
    scene.backup(&[]);
    let mount = scene.mount(&[]);
    let shown = scene.source_in(&mount.dir);
    for at in [mount.dir.clone(), shown.clone(), shown.join("f")] {
        let s = rustix::fs::statvfs(&at).unwrap();
        assert_eq!((s.f_namemax, s.f_bsize, s.f_frsize), (255, 4096, 4096));
        assert_eq!((s.f_bfree, s.f_bavail, s.f_ffree), (0, 0, 0), "nothing can be written");
        assert!(s.f_blocks > 0 && s.f_files >= 2, "{} blocks, {} files", s.f_blocks, s.f_files);
        let flags = StatVfsMountFlags::RDONLY | StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV;
        assert!(s.f_flag.contains(flags), "{:?}", s.f_flag);
    }
    // A missing attribute is missing; any other error would switch attributes off, or make cp and rsync fail.
    let mut buffer = [0u8; 64];
    let latest = mount.dir.join("latest");
    for at in [&mount.dir, &latest, &shown, &shown.join("f"), &shown.join("l")] {
        for name in ["user.no", "trusted.no", "security.capability", "system.posix_acl_access"] {
            let e = rustix::fs::lgetxattr(at, name, &mut buffer).unwrap_err();
            let expected = [rustix::io::Errno::NODATA, rustix::io::Errno::OPNOTSUPP];
            // Symlinks have no ACLs at all, and the kernel says so itself.
            let n = if name.starts_with("system.") { 2 } else { 1 };
            assert!(expected[..n].contains(&e), "{name} of {}: {e}", at.display());
        }
        assert_eq!(rustix::fs::llistxattr(at, &mut buffer).unwrap(), 0, "{}", at.display());
    }
    // What is asked by name is told, and is in no list.
    let n = rustix::fs::getxattr(&mount.dir, "user.pastfs.repository", &mut buffer).unwrap();
    assert_eq!(n, 64);
    assert!(buffer.iter().all(u8::is_ascii_hexdigit));
    let dated = mount.dir.join(&mount.dated()[0]);
    let n = rustix::fs::getxattr(&dated, "user.pastfs.snapshot", &mut buffer).unwrap();
    assert_eq!(&buffer[..n], scene.snapshots()[0]["id"].as_str().unwrap().as_bytes());
}

/// Two snapshots of a tree with hard links, in which one file differs; the folder in both.
fn two(scene: &Scene) -> [PathBuf; 2] {
    let source = scene.source();
    super::scene::fill(&source, 32, 20_000, 3);
    fs::write(source.join("linked"), b"one file under two names").unwrap();
    fs::hard_link(source.join("linked"), source.join("0/also linked")).unwrap();
    super::scene::let_files_settle();
    scene.backup(&["--time", "2024-03-01 12:00:00"]);
    fs::write(source.join("3/3"), b"changed").unwrap();
    scene.backup(&["--time", "2024-03-02 12:00:00"]);
    let inside = source.strip_prefix("/").unwrap().to_path_buf();
    ["2024-03-01T12-00-00Z", "2024-03-02T12-00-00Z"].map(|s| scene.mnt().join(s).join(&inside))
}

#[test]
fn two_snapshots_copied_together_share_no_links_and_du_counts_shared_files_once() {
    let scene = Scene::new("pairs");
    let [one, two] = two(&scene);
    let mount = scene.mount(&[]);
    let quoted = |p: &Path| format!("'{}'", p.display());
    let both = format!("{} {}", quoted(&one), quoted(&two));
    fs::create_dir(scene.path("a")).unwrap();
    fs::create_dir(scene.path("r")).unwrap();
    // Each tool takes both at once, as that is what could link the copies.
    let dated = mount.dated().iter().map(|n| quoted(&mount.dir.join(n))).collect::<Vec<_>>().join(" ");
    scene.shell(&format!("cp -a {dated} a")).ok();
    scene.shell(&format!("rsync -aH {dated} r")).ok();
    let below_mount =
        |to: &str| [&one, &two].map(|p| scene.path(to).join(p.strip_prefix(&mount.dir).unwrap()));
    for (pair, by) in [(below_mount("a"), "cp"), (below_mount("r"), "rsync")] {
        for (copy, shown) in pair.iter().zip([&one, &two]) {
            same_trees(shown, copy);
        }
        let mut seen: BTreeMap<u64, usize> = BTreeMap::new();
        for copy in &pair {
            for file in regular_files(copy) {
                *seen.entry(fs::metadata(copy.join(file)).unwrap().ino()).or_default() += 1;
            }
        }
        let shared: Vec<usize> = seen.values().copied().filter(|n| *n > 1).collect();
        assert_eq!(shared, [2, 2], "by {by}: each copy has its own hard links and no others");
    }

    // du: the second snapshot costs its folders, the file that differs, and its own hard links.
    let text = scene.shell(&format!("du -s -B1 --apparent-size {both}")).ok().text();
    let sizes: Vec<u64> = text.lines().map(|l| l.split('\t').next().unwrap().parse().unwrap()).collect();
    let folders = 17 * 4096;
    assert!(sizes[0] > 31 * 20_000, "{text}");
    assert!(sizes[1] < folders + 200, "{text}");

    // tar takes equal inodes for links whatever the count of links says; unpacked, both are right.
    fs::create_dir(scene.path("t")).unwrap();
    scene.shell(&format!("tar -c {both} | tar -x -C t")).ok();
    for shown in [&one, &two] {
        let unpacked = scene.path("t").join(shown.strip_prefix("/").unwrap());
        scene.shell(&format!("diff -r {} {}", quoted(shown), quoted(&unpacked))).ok();
    }
    mount.unmount();

    // By itself each file is only itself.
    let mount = scene.mount(&["--unique-inodes"]);
    let inode = |p: &Path| fs::metadata(p.join("5/5")).unwrap().ino();
    assert_ne!(inode(&one), inode(&two));
    mount.unmount();
}

#[test]
fn a_name_that_is_no_utf8_can_be_opened_by_its_bytes() {
    let scene = Scene::new("bytes");
    let name = OsStr::from_bytes(b"\xff\xfe\n\x01");
    fs::write(scene.source().join(name), b"in it").unwrap();
    scene.backup(&[]);
    let mount = scene.mount(&[]);
    assert_eq!(fs::read(scene.source_in(&mount.dir).join(name)).unwrap(), b"in it");
    let listed: Vec<_> =
        fs::read_dir(scene.source_in(&mount.dir)).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(listed, [name]);
}
