//! Tests of `write`.

use crate::event::Outcome;
use crate::format::tree::Node;
use crate::restore::fake::{Fake, Scratch, is_root, list, xattr};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// An ACL that lets user 1234 read, as acl(5) has it in an xattr: version 2, then tag, rights, id.
const ACL: &[u8] = &[
    2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 210, 4, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255, 16,
    0, 4, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
];

fn times(path: &Path) -> (i64, i64) {
    let m = fs::symlink_metadata(path).unwrap();
    (m.mtime(), m.mtime_nsec())
}
const TIME: (i64, i64) = (1_700_000_000, 123_456_789);

#[test]
fn every_kind_comes_back_with_mode_and_time() {
    let scratch = Scratch::new();
    let mut fake = Fake::default();
    fake.file("d/file", b"content").stat.mode = 0o4751;
    fake.file("d/empty", b"");
    fake.file("d/old", b"before 1970").stat.mtime.seconds = -5;
    fake.folder("d", 0o1555);
    fake.add("d/link", Node::Symlink(b"no/such//target/".to_vec()), 0o777);
    fake.add("d/fifo", Node::Fifo, 0o622);
    fake.add("d/socket", Node::Socket, 0o701);
    let (report, heard) = fake.restore(&scratch.0);
    assert_eq!((report.failed, report.incomplete, heard.unread()), (0, 0, vec![]));
    let at = |name: &str| scratch.0.join("d").join(name);
    let mode = |name: &str| fs::symlink_metadata(at(name)).unwrap().mode() & 0o7777;
    let modes = [mode("file"), mode("empty"), mode(""), mode("fifo"), mode("socket")];
    assert_eq!(modes, [0o4751, 0o644, 0o1555, 0o622, 0o701]);
    assert!(["file", "empty", "link", "fifo", "socket", ""].iter().all(|n| times(&at(n)) == TIME));
    assert_eq!(times(&at("old")), (-5, 123_456_789));
    assert_eq!(fs::read_link(at("link")).unwrap().as_os_str().as_bytes(), b"no/such//target/");
    assert!(fs::symlink_metadata(at("fifo")).unwrap().file_type().is_fifo());
    assert!(fs::symlink_metadata(at("socket")).unwrap().file_type().is_socket());
}

#[test]
fn root_brings_back_owners_devices_and_capabilities() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let mut fake = Fake::default();
    let owner = |e: &mut crate::format::tree::Entry| (e.stat.uid, e.stat.gid) = (1234, 4_000_000_000);
    owner(fake.file("file", b"content"));
    owner(fake.folder("folder", 0o700));
    owner(fake.add("link", Node::Symlink(b"file".to_vec()), 0o777));
    owner(fake.add("null", Node::CharDevice(rustix::fs::makedev(1, 3)), 0o666));
    owner(fake.add("disk", Node::BlockDevice(rustix::fs::makedev(259, 70_000)), 0o660));
    // cap_net_raw=ep, version 2 (linux/capability.h).
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    fake.xattr("file", "security.capability", &capability);
    fake.xattr("link", "trusted.note", b"on a link");
    let (report, heard) = fake.restore(&scratch.0);
    assert_eq!((report.failed, report.incomplete, heard.unread()), (0, 0, vec![]));
    for name in ["file", "folder", "link", "null", "disk"] {
        let m = fs::symlink_metadata(scratch.0.join(name)).unwrap();
        assert_eq!((m.uid(), m.gid(), m.mtime_nsec()), (1234, 4_000_000_000, TIME.1), "{name}");
    }
    let m = fs::symlink_metadata(scratch.0.join("null")).unwrap();
    assert!(m.file_type().is_char_device() && m.rdev() == rustix::fs::makedev(1, 3));
    assert_eq!(m.mode() & 0o7777, 0o666);
    let m = fs::symlink_metadata(scratch.0.join("disk")).unwrap();
    assert!(m.file_type().is_block_device() && m.rdev() == rustix::fs::makedev(259, 70_000));
    assert_eq!(xattr(&scratch.0.join("file"), "security.capability").unwrap(), capability);
    assert_eq!(xattr(&scratch.0.join("link"), "trusted.note").unwrap(), b"on a link");
}

#[test]
fn attributes_and_acls_come_back_even_on_what_nobody_may_write() {
    let scratch = Scratch::new();
    let mut fake = Fake::default();
    fake.file("file", b"content").stat.mode = 0o444;
    fake.folder("folder", 0o555);
    for path in ["file", "folder"] {
        fake.xattr(path, "user.empty", b"");
        fake.xattr(path, "user.note", &[7; 90]);
    }
    fake.file("shared", b"content").stat.mode = 0o640;
    fake.xattr("shared", "system.posix_acl_access", ACL);
    let (report, heard) = fake.restore(&scratch.0);
    assert_eq!((report.failed, heard.unread()), (0, vec![]));
    if report.incomplete > 0 {
        // A file system without xattrs: it was said.
        assert!(!heard.warnings.lock().unwrap().is_empty());
        return;
    }
    for path in ["file", "folder"] {
        assert_eq!(xattr(&scratch.0.join(path), "user.empty").unwrap(), b"");
        assert_eq!(xattr(&scratch.0.join(path), "user.note").unwrap(), [7; 90]);
    }
    assert_eq!(xattr(&scratch.0.join("shared"), "system.posix_acl_access").unwrap(), ACL);
    assert_eq!(fs::metadata(scratch.0.join("shared")).unwrap().mode() & 0o7777, 0o640);
    let (report, _) = fake.restore(&scratch.0);
    assert_eq!((report.files, report.skipped), (2, 2));
}

#[test]
fn acls_that_the_target_hands_down_do_not_stick() {
    let scratch = Scratch::new();
    let set =
        rustix::fs::setxattr(&scratch.0, "system.posix_acl_default", ACL, rustix::fs::XattrFlags::empty());
    if set.is_err() {
        return;
    }
    let mut fake = Fake::default();
    fake.file("file", b"content");
    fake.file("folder/inner", b"content");
    fake.add("fifo", Node::Fifo, 0o600);
    let (report, _) = fake.restore(&scratch.0);
    assert_eq!((report.failed, report.incomplete), (0, 0));
    for path in ["file", "folder", "folder/inner", "fifo"] {
        assert_eq!(xattr(&scratch.0.join(path), "system.posix_acl_access"), None, "{path}");
        assert_eq!(xattr(&scratch.0.join(path), "system.posix_acl_default"), None, "{path}");
    }
    assert_eq!(fs::metadata(scratch.0.join("folder/inner")).unwrap().mode() & 0o7777, 0o644);
}

#[test]
fn holes_stay_holes_and_long_lists_are_followed() {
    let scratch = Scratch::new();
    let mut fake = Fake::default();
    let content = fake.content(&[Err(1 << 30), Ok(b"middle"), Err((3 << 30) - 6)]);
    fake.add("sparse", Node::File(content), 0o644);
    let chunks: Vec<Vec<u8>> = (0..5000u32).map(|i| i.to_le_bytes().repeat(1024)).collect();
    let mut parts: Vec<std::result::Result<&[u8], u64>> = chunks.iter().map(|c| Ok(&c[..])).collect();
    parts.insert(2500, Err(1 << 20));
    let content = fake.content(&parts);
    fake.add("long", Node::File(content), 0o644);
    let (report, heard) = fake.restore(&scratch.0);
    assert_eq!((report.failed, heard.unread()), (0, vec![]));
    let m = fs::metadata(scratch.0.join("sparse")).unwrap();
    assert_eq!(m.len(), 4 << 30);
    assert!(m.blocks() * 512 < 1 << 20, "{} blocks", m.blocks());
    use std::os::unix::fs::FileExt;
    let mut middle = [0; 8];
    fs::File::open(scratch.0.join("sparse")).unwrap().read_exact_at(&mut middle, (1 << 30) - 1).unwrap();
    assert_eq!(&middle, b"\0middle\0");
    let mut expected = chunks[..2500].concat();
    expected.resize(expected.len() + (1 << 20), 0);
    expected.extend(chunks[2500..].concat());
    assert!(fs::read(scratch.0.join("long")).unwrap() == expected);
}

#[test]
fn names_of_one_file_are_one_file_again_across_folders() {
    let scratch = Scratch::new();
    let mut fake = Fake::default();
    for i in 0..200 {
        for folder in ["a", "b/c", "d"] {
            let entry = fake.file(format!("{folder}/{i}"), format!("content {i}").as_bytes());
            (entry.stat.nlink, entry.stat.link) = (3, Some((0, i)));
        }
    }
    let fifo = fake.add("a/fifo", Node::Fifo, 0o600);
    (fifo.stat.nlink, fifo.stat.link) = (2, Some((1, 7)));
    let fifo = fake.add("d/fifo", Node::Fifo, 0o600);
    (fifo.stat.nlink, fifo.stat.link) = (2, Some((1, 7)));
    for round in 0..3 {
        let (report, heard) = fake.restore(&scratch.0);
        assert_eq!((report.failed, heard.unread()), (0, vec![]));
        let of = |path: String| fs::symlink_metadata(scratch.0.join(path)).unwrap();
        for i in 0..200 {
            let m = of(format!("a/{i}"));
            assert_eq!((m.nlink(), m.len()), (3, format!("content {i}").len() as u64));
            assert!(["b/c", "d"].iter().all(|f| of(format!("{f}/{i}")).ino() == m.ino()));
        }
        assert_eq!(of("a/fifo".into()).ino(), of("d/fifo".into()).ino());
        assert_eq!(times(&scratch.0.join("b/c")), TIME);
        assert!(!list(&scratch.0).iter().any(|p| p.contains(".pastfs-")));
        if round == 1 {
            // A name that became a file of its own is made a link again.
            fs::remove_file(scratch.0.join("d/5")).unwrap();
            fs::write(scratch.0.join("d/5"), b"other").unwrap();
        }
    }
}

#[test]
fn strange_and_longest_names_come_back() {
    let scratch = Scratch::new();
    let mut fake = Fake::default();
    let names = [vec![b'x'; 255], vec![0xff, 0xfe, b'\n', b' '], b"-rf".to_vec(), vec![b'\\'; 3]];
    for name in &names {
        fake.file(name, name);
    }
    fake.file(vec![b'y'; 256], b"too long for Linux");
    let (report, heard) = fake.restore(&scratch.0);
    for name in &names {
        let path = scratch.0.join(std::ffi::OsStr::from_bytes(name));
        assert_eq!(&fs::read(path).unwrap(), name);
    }
    assert_eq!((report.files, report.failed, heard.unread().len()), (4, 1, 1));
    assert_eq!(list(&scratch.0).len(), 4);
}

#[test]
fn of_a_damaged_file_nothing_is_left_and_the_rest_comes_back() {
    let scratch = Scratch::new();
    let mut fake = Fake::default();
    let content = fake.content(&[Ok(b"good"), Ok(b"lost"), Ok(b"good")]);
    fake.add("folder/bad", Node::File(content), 0o644);
    fake.file("folder/good", b"fine");
    fake.add("folder/future", Node::Unknown(99), 0o644);
    fake.lose(b"lost");
    fs::create_dir(scratch.0.join("folder")).unwrap();
    fs::write(scratch.0.join("folder/bad"), b"what was there").unwrap();
    let (report, heard) = fake.restore(&scratch.0);
    assert_eq!((report.files, report.failed, report.damaged), (1, 2, 1));
    assert_eq!(list(&scratch.0), ["folder", "folder/bad", "folder/good"]);
    assert_eq!(fs::read(scratch.0.join("folder/bad")).unwrap(), b"what was there");
    let unread = heard.unread();
    assert_eq!(unread[0].0, "/folder/bad");
    assert!(unread[0].1.starts_with("reading its content: chunk ") && unread[0].1.ends_with(" is lost"));
    assert!(unread[1].1.contains("type 99"));
    assert_eq!(heard.outcome("/folder/good"), Some(Outcome::Restored));
}
