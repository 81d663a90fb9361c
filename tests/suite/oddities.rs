//! Everything that a Linux file can be, in one tree.

use super::scene::{Draw, Scene, differences, is_root, same_trees};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

const GIB: u64 = 1 << 30;
/// Entries of the big folder.
const MANY: usize = 100_000;
/// Depth of the deep one.
const DEEP: usize = 200;

fn node(path: &Path, kind: FileType, mode: u32, device: u64) {
    rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(mode), device).unwrap();
}

fn xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty())
        .unwrap_or_else(|e| panic!("setting {name} of {}: {e}", path.display()));
}

fn time(path: &Path, seconds: i64, nanos: i64) {
    let at = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: at, last_modification: at };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn acl(path: &Path, rules: &str) {
    assert!(Command::new("setfacl").args(["-m", rules]).arg(path).status().unwrap().success());
}

/// Makes the tree, as root.
pub fn make(dir: &Path) {
    let mut draw = Draw(3);
    let at = |name: &str| dir.join(name);
    for folder in
        ["kinds", "names", "links/a", "links/b", "sparse", "times", "modes", "xattrs", "empty", "sizes"]
    {
        fs::create_dir_all(at(folder)).unwrap();
    }

    fs::write(at("kinds/file"), b"content").unwrap();
    node(&at("kinds/fifo"), FileType::Fifo, 0o640, 0);
    node(&at("kinds/socket"), FileType::Socket, 0o755, 0);
    node(&at("kinds/null"), FileType::CharacterDevice, 0o666, rustix::fs::makedev(1, 3));
    node(&at("kinds/loop"), FileType::BlockDevice, 0o660, rustix::fs::makedev(7, 300));
    node(&at("kinds/far"), FileType::CharacterDevice, 0, rustix::fs::makedev(4095, 1_048_575));
    symlink("file", at("kinds/symlink")).unwrap();
    symlink("nowhere/to be found", at("kinds/dangling")).unwrap();
    symlink("/", at("kinds/root")).unwrap();
    symlink("loop1", at("kinds/loop2")).unwrap();
    symlink("loop2", at("kinds/loop1")).unwrap();
    symlink(OsStr::from_bytes(&b"x/\xff\n".repeat(1023)), at("kinds/long")).unwrap();
    symlink("y".repeat(4095), at("kinds/longest")).unwrap();

    let all_bytes: Vec<u8> = (1..=255).filter(|b| *b != b'/').collect();
    let names: [&[u8]; 16] = [
        &all_bytes,
        &[b'n'; 255],
        &[0xff; 255],
        b"\xc3\x28 no UTF-8",
        b"with\nnewline",
        b"-rf",
        b"--help",
        b" ",
        b"trailing ",
        b"...",
        b"*?[a]{b}",
        b"\\",
        b"\x1b[2J",
        b"\xcc\x88a",
        b"a:b",
        "\u{65e5}\u{672c}".as_bytes(),
    ];
    for name in names {
        fs::write(at("names").join(OsStr::from_bytes(name)), name).unwrap();
    }
    fs::create_dir(at("names").join(OsStr::from_bytes(b"folder\xfe\n"))).unwrap();
    fs::write(at("names").join(OsStr::from_bytes(b"folder\xfe\n/in it")), b"!").unwrap();

    fs::write(at("links/a/one"), draw.bytes(100_000)).unwrap();
    fs::hard_link(at("links/a/one"), at("links/b/two")).unwrap();
    fs::hard_link(at("links/a/one"), at("links/three")).unwrap();
    fs::hard_link(at("kinds/file"), at("links/b/small")).unwrap();
    fs::hard_link(at("kinds/symlink"), at("links/symlink")).unwrap();
    fs::hard_link(at("kinds/fifo"), at("links/fifo")).unwrap();
    fs::write(at("links/a/nothing"), b"").unwrap();
    fs::hard_link(at("links/a/nothing"), at("links/b/nothing")).unwrap();

    let sparse = File::create(at("sparse/64MiB")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    sparse.write_all_at(&draw.bytes(65_000), 40 << 20).unwrap();
    File::create(at("sparse/only a hole")).unwrap().set_len(10 << 20).unwrap();
    File::create(at("sparse/small hole")).unwrap().set_len(100).unwrap();
    fs::write(at("sparse/zeros"), vec![0; 3 << 20]).unwrap();

    for (n, len) in
        [0, 1, 63, 64, 65, 4095, 4096, 4097, 524_287, 524_288, 524_289, 5_000_000].iter().enumerate()
    {
        fs::write(at("sizes").join(format!("random {n}")), draw.bytes(*len)).unwrap();
        fs::write(at("sizes").join(format!("text {n}")), "sphinx ".repeat(len / 7)).unwrap();
    }

    let mut deep = at("deep");
    for n in 0..DEEP {
        deep = deep.join(format!("d{n}"));
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), b"here").unwrap();

    for name in ["one file", "folder"] {
        let path = at("xattrs").join(name);
        if name == "folder" {
            fs::create_dir(&path).unwrap()
        } else {
            fs::write(&path, b"x").unwrap()
        };
        xattr(&path, "user.plain", b"value");
        xattr(&path, "user.empty", b"");
        xattr(&path, "user.bytes", &[0, 255, 10]);
        xattr(&path, "user.long", &draw.bytes(1500));
        xattr(&path, "trusted.t", b"for root alone");
        xattr(&path, "security.pastfs-test", b"s");
    }
    symlink("x", at("xattrs/symlink")).unwrap();
    xattr(&at("xattrs/symlink"), "trusted.of-a-symlink", b"too");
    fs::write(at("xattrs/ping"), b"#!").unwrap();
    // VFS_CAP_REVISION_2, effective; permitted: CAP_NET_RAW (capabilities(7)).
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    xattr(&at("xattrs/ping"), "security.capability", &capability);
    fs::write(at("xattrs/acl"), b"a").unwrap();
    acl(&at("xattrs/acl"), "u:12345:rw,g:54321:r,m::rw");
    fs::create_dir(at("xattrs/default acl")).unwrap();
    acl(&at("xattrs/default acl"), "d:u:12345:rwx,u:4242:r-x");
    fs::write(at("xattrs/default acl/heir"), b"h").unwrap();

    for (n, bits) in [0, 0o400, 0o4755, 0o2755, 0o6711, 0o7777, 0o1644].into_iter().enumerate() {
        let path = at("modes").join(format!("file {n}"));
        fs::write(&path, format!("{bits:o}")).unwrap();
        mode(&path, bits);
        let path = at("modes").join(format!("folder {n}"));
        fs::create_dir(&path).unwrap();
        fs::write(path.join("in it"), b"i").unwrap();
        mode(&path, bits);
    }
    for (name, uid, gid) in
        [("nobody", 65534, 65534), ("strangers", 12345, 54321), ("far", u32::MAX - 1, u32::MAX - 1)]
    {
        let path = at("modes").join(name);
        fs::write(&path, name).unwrap();
        std::os::unix::fs::chown(&path, Some(uid), Some(gid)).unwrap();
        mode(&path, 0o4750);
    }

    let moments = [
        (0, 0),
        (0, 1),
        (1_700_000_000, 999_999_999),
        (1_700_000_000, 1),
        (-1, 500_000_000),
        (-2_000_000_000, 7),
        (2_147_483_647, 0),
        (2_147_483_648, 123_456_789),
        (8_000_000_000, 0),
        (15_000_000_000, 5),
    ];
    for (n, (seconds, nanos)) in moments.into_iter().enumerate() {
        let (file, folder, link) = (
            at(&format!("times/file {n}")),
            at(&format!("times/folder {n}")),
            at(&format!("times/link {n}")),
        );
        fs::write(&file, b"t").unwrap();
        fs::create_dir(&folder).unwrap();
        symlink("t", &link).unwrap();
        for path in [file, folder, link] {
            time(&path, seconds, nanos);
        }
    }
    time(&at("times"), -86_400, 42);
    time(&at("kinds/fifo"), 5, 5);
}

/// A folder of many files, most of them empty.
fn make_many(dir: &Path) {
    let mut draw = Draw(5);
    fs::create_dir(dir).unwrap();
    for n in 0..MANY {
        let file = File::create(dir.join(format!("{n:06}"))).unwrap();
        if n % 100 == 0 {
            file.write_all_at(&draw.bytes(200), 0).unwrap();
        }
    }
}

#[test]
fn everything_that_a_file_can_be_comes_back_by_mount_restore_and_export() {
    if !is_root("the tree of oddities") {
        return;
    }
    let scene = Scene::new("oddities");
    let source = scene.source();
    make(&source);
    make_many(&source.join("many"));
    let report = scene.backup(&[]);
    assert_eq!(report["unread"], 0, "{report}");

    let mount = scene.mount(&[]);
    let shown = scene.source_in(&mount.dir);
    same_trees(&source, &shown);
    let inode = |p: &str| fs::symlink_metadata(shown.join(p)).unwrap().ino();
    assert_eq!(inode("links/a/one"), inode("links/b/two"));
    assert_eq!(inode("links/a/one"), inode("links/three"));
    assert_eq!(fs::symlink_metadata(shown.join("links/three")).unwrap().nlink(), 3);
    assert_eq!(fs::read_dir(shown.join("many")).unwrap().count(), MANY);
    // Times to the nanosecond, changes of the inode included: no tool sets those, the mount shows them.
    for path in ["kinds/fifo", "times/file 5", "times/link 7", "modes/far"] {
        let (a, b) = (
            fs::symlink_metadata(source.join(path)).unwrap(),
            fs::symlink_metadata(shown.join(path)).unwrap(),
        );
        assert_eq!((a.mtime(), a.mtime_nsec()), (b.mtime(), b.mtime_nsec()), "{path}");
        assert_eq!((a.ctime(), a.ctime_nsec()), (b.ctime(), b.ctime_nsec()), "{path}");
    }
    mount.unmount();

    let restored = scene.restore(&format!("latest:{}", source.display()));
    same_trees(&source, &restored);
    fs::remove_dir_all(&restored).unwrap();

    fs::create_dir(scene.path("unpacked")).unwrap();
    let line = format!(
        "\"$0\" export -q 'latest:{}' | tar -x -p --numeric-owner --acls --xattrs --xattrs-include='*' -C '{}'",
        source.display(),
        scene.path("unpacked").display()
    );
    scene.shell(&line).ok();
    let root = scene.path("unpacked").join(source.strip_prefix("/").unwrap());
    // Tar has no sockets, and GNU tar sets no ns times of folders that it made for the path alone.
    let found = differences(&source, &root, &["--exclude=/kinds/socket"]);
    let found: Vec<&str> =
        found.lines().filter(|l| *l != ".d..t...... ./" && !l.contains(" kinds/socket")).collect();
    assert!(found.is_empty(), "{} lines:\n{}", found.len(), found[..found.len().min(40)].join("\n"));
}

/// Stretches of a file that are not zero, in blocks of 4 KiB, found without reading the holes.
fn data(path: &Path) -> Vec<(u64, Vec<u8>)> {
    use rustix::fs::{SeekFrom, seek};
    let file = File::open(path).unwrap();
    let mut found = Vec::new();
    let mut at = 0;
    while let Ok(start) = seek(&file, SeekFrom::Data(at)) {
        let end = seek(&file, SeekFrom::Hole(start)).unwrap();
        assert!(end > start && end - start < 1 << 20, "data from {start} to {end} in {}", path.display());
        at = start / 4096 * 4096;
        while at < end {
            let mut block = vec![0; 4096];
            let len = file.read_at(&mut block, at).unwrap();
            if block.iter().any(|b| *b != 0) {
                found.push((at, block));
            }
            at += len.max(1) as u64;
        }
    }
    found
}

#[test]
fn a_sparse_file_of_4_gib_stays_sparse() {
    let scene = Scene::new("sparse");
    let source = scene.source().join("4GiB");
    let sparse = File::create(&source).unwrap();
    sparse.set_len(4 * GIB).unwrap();
    let mut draw = Draw(4);
    for place in [GIB, 2 * GIB + 4096, 4 * GIB - 70_000] {
        sparse.write_all_at(&draw.bytes(65_000), place).unwrap();
    }
    let report = scene.backup(&[]);
    assert!(report["totals"]["new_bytes"].as_u64().unwrap() < 1 << 20, "holes were stored: {report}");
    assert_eq!(report["totals"]["bytes"].as_u64(), Some(4 * GIB));
    let expected = data(&source);
    // 65,000 bytes are 16 blocks, and 17 where they begin within one.
    assert_eq!(expected.len(), 16 + 16 + 17);
    let mount = scene.mount(&[]);
    let shown = scene.source_in(&mount.dir).join("4GiB");
    let copied = scene.path("copied");
    scene.shell(&format!("cp --sparse=auto '{}' '{}'", shown.display(), copied.display())).ok();
    // Read without regard to holes as well: they are zeros, at full speed.
    scene.shell(&format!("cmp '{}' '{}'", shown.display(), source.display())).ok();
    let restored = scene.restore("latest").join(source.strip_prefix("/").unwrap());
    for copy in [shown, copied, restored] {
        let meta = fs::metadata(&copy).unwrap();
        assert_eq!(meta.len(), 4 * GIB, "{}", copy.display());
        assert!(meta.blocks() * 512 < 1 << 20, "{} blocks in {}", meta.blocks(), copy.display());
        assert!(data(&copy) == expected, "other data in {}", copy.display());
    }
}

#[test]
fn a_tree_of_nothing_is_a_tree() {
    let scene = Scene::new("nothing");
    scene.backup(&[]);
    fs::write(scene.path("empty file"), b"").unwrap();
    scene.run(["backup", "-q", "empty file"]).ok();
    let mount = scene.mount(&[]);
    assert_eq!(mount.dated().len(), 2);
    let file = mount.dir.join("latest").join(scene.path("empty file").strip_prefix("/").unwrap());
    assert_eq!(fs::read(file).unwrap(), b"");
    let first = mount.dir.join(&mount.dated()[0]).join(scene.source().strip_prefix("/").unwrap());
    assert_eq!(fs::read_dir(first).unwrap().count(), 0);
}

#[test]
fn names_that_would_harm_a_terminal_or_a_script_are_printed_harmlessly() {
    let scene = Scene::new("names");
    for name in [&b"\x1b[2J"[..], b"a\nb", b"-x", b"\xff"] {
        fs::write(scene.source().join(OsStr::from_bytes(name)), b"n").unwrap();
    }
    scene.backup(&[]);
    let listed = scene.run(["ls".into(), format!("latest:{}", scene.source().display())]).ok();
    assert_eq!(listed.text().lines().count(), 4, "{}", listed.text());
    assert!(!listed.out.contains(&0x1b));
    let path = format!("latest:{}/-x", scene.source().display());
    assert_eq!(scene.run(["cat", &path]).ok().out, b"n");
}
