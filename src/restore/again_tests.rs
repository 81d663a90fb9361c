//! Restores into a target that is not empty: what is left alone, what is mended, what goes.

use super::fake::{Fake, Heard, Scratch, is_root, list, xattr};
use super::*;
use crate::event::Outcome;
use crate::fault::Fault;
use crate::format::pack::Space;
use crate::format::tree::Node;
use crate::tree::Chunks;
use bytes::Bytes;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

const CHUNK: usize = 100_000;

/// A file of so many different chunks.
fn long(fake: &mut Fake, path: &str, chunks: u8) -> Vec<u8> {
    let parts: Vec<Vec<u8>> = (0..chunks).map(|n| vec![n + 1; CHUNK]).collect();
    let shown: Vec<std::result::Result<&[u8], u64>> = parts.iter().map(|p| Ok(&p[..])).collect();
    let content = fake.content(&shown);
    fake.add(path, Node::File(content), 0o644);
    parts.concat()
}

fn options(target: &Path) -> Options {
    Options { target: target.to_path_buf(), ..Options::default() }
}

fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

#[test]
fn of_a_changed_file_only_what_differs_is_written_in_place() {
    let scratch = Scratch::new();
    let mut fake = Fake::default();
    let bytes = long(&mut fake, "disk", 40);
    fake.restore(&scratch.0);
    let path = scratch.0.join("disk");
    let before = inode(&path);
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"spoiled", 7 * CHUNK as u64 + 55).unwrap();
    file.set_len(39 * CHUNK as u64 + 1).unwrap();
    let (report, heard) = fake.restore(&scratch.0);
    assert_eq!((report.rewritten, report.written, report.failed), (1, 2 * CHUNK as u64, 0));
    assert_eq!(heard.outcome("/disk"), Some(Outcome::Rewritten));
    assert!(fs::read(&path).unwrap() == bytes);
    assert_eq!((inode(&path), fs::metadata(&path).unwrap().mtime()), (before, 1_700_000_000));
    // Longer than it must be: nothing to write, and cut.
    file.set_len(60 * CHUNK as u64).unwrap();
    let (report, _) = fake.restore(&scratch.0);
    assert_eq!((report.rewritten, report.written), (1, 0));
    assert!(fs::read(&path).unwrap() == bytes);
    assert_eq!(fake.restore(&scratch.0).0.skipped, 1);
}

#[test]
fn holes_are_made_again_where_data_was_written() {
    let scratch = Scratch::new();
    let mut fake = Fake::default();
    let content = fake.content(&[Ok(&[7; CHUNK]), Err(4 << 20), Ok(&[8; CHUNK]), Err(1 << 20)]);
    fake.add("sparse", Node::File(content), 0o644);
    fake.restore(&scratch.0);
    let path = scratch.0.join("sparse");
    let (before, right) = (fs::metadata(&path).unwrap(), fs::read(&path).unwrap());
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[9; 3 << 20], CHUNK as u64 + 1000).unwrap();
    let (report, _) = fake.restore(&scratch.0);
    assert_eq!((report.rewritten, report.written, report.failed), (1, 0, 0));
    assert!(fs::read(&path).unwrap() == right);
    let blocks = fs::metadata(&path).unwrap().blocks();
    assert!(blocks <= before.blocks() + 64, "{blocks} blocks, {} before", before.blocks());
}

#[test]
fn what_others_may_have_a_hand_in_is_made_anew_and_never_written_to() {
    let scratch = Scratch::new();
    let target = scratch.0.join("target");
    let mut fake = Fake::default();
    let bytes = long(&mut fake, "linked", 3);
    fake.file("open to all", b"content");
    fake.file("of another", b"content");
    fake.restore(&target);
    // A name outside the target: the file there must stay as it is, content and mode.
    let outside = scratch.0.join("outside");
    fs::hard_link(target.join("linked"), &outside).unwrap();
    fs::write(&outside, b"mine").unwrap();
    fs::set_permissions(target.join("open to all"), fs::Permissions::from_mode(0o666)).unwrap();
    if is_root() {
        std::os::unix::fs::chown(target.join("of another"), Some(1234), None).unwrap();
    }
    // Held open, so that no new file gets the number of an old one.
    let held = ["linked", "open to all", "of another"].map(|n| fs::File::open(target.join(n)).unwrap());
    let before = held.each_ref().map(|f| f.metadata().unwrap().ino());
    let (report, _) = fake.restore(&target);
    assert_eq!((report.failed, report.rewritten), (0, 0));
    let after = ["linked", "open to all", "of another"].map(|n| inode(&target.join(n)));
    assert!(before[0] != after[0] && before[1] != after[1]);
    assert!(before[2] != after[2] || !is_root());
    assert_eq!(fs::read(&outside).unwrap(), b"mine");
    assert!(fs::read(target.join("linked")).unwrap() == bytes);
    assert_eq!(fs::metadata(target.join("open to all")).unwrap().mode() & 0o777, 0o644);
}

#[test]
fn attributes_alone_are_mended_without_a_byte_of_content() {
    let scratch = Scratch::new();
    let mut fake = Fake::default();
    fake.file("file", b"content");
    fake.restore(&scratch.0);
    let path = scratch.0.join("file");
    let before = inode(&path);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let extra = rustix::fs::setxattr(&path, "user.extra", b"x", rustix::fs::XattrFlags::empty()).is_ok();
    let (report, _) = fake.restore(&scratch.0);
    assert_eq!((report.rewritten, report.written, inode(&path)), (1, 0, before));
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
    assert!(!extra || xattr(&path, "user.extra").is_none());
}

#[test]
fn what_looks_equal_is_read_only_when_asked_for() {
    let scratch = Scratch::new();
    let mut fake = Fake::default();
    fake.file("file", b"content");
    fake.restore(&scratch.0);
    let path = scratch.0.join("file");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, b"CONTENT").unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    assert_eq!(fake.restore(&scratch.0).0.skipped, 1);
    assert_eq!(fs::read(&path).unwrap(), b"CONTENT");
    let always = Options { overwrite: Overwrite::Always, ..options(&scratch.0) };
    let (report, _) = fake.restore_with(Options { dry_run: true, ..always.clone() });
    assert_eq!((report.skipped, report.written), (0, 0));
    assert_eq!(fs::read(&path).unwrap(), b"CONTENT");
    assert_eq!(fake.restore_with(always.clone()).0.skipped, 0);
    assert_eq!(fs::read(&path).unwrap(), b"content");
    assert_eq!(fake.restore_with(always).0.skipped, 1);
}

#[test]
fn what_is_there_can_be_left_or_only_what_is_newer() {
    let scratch = Scratch::new();
    let mut fake = Fake::default();
    for name in ["older", "newer", "missing"] {
        fake.file(name, b"content");
    }
    fs::write(scratch.0.join("newer"), b"newer").unwrap();
    fs::write(scratch.0.join("older"), b"older").unwrap();
    let past = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    fs::File::options().write(true).open(scratch.0.join("older")).unwrap().set_modified(past).unwrap();
    let read = |name: &str| fs::read_to_string(scratch.0.join(name)).unwrap();
    let with = |overwrite| Options { overwrite, ..options(&scratch.0) };
    let (report, _) = fake.restore_with(with(Overwrite::Never));
    assert_eq!((report.files, report.kept, report.failed), (3, 2, 0));
    assert_eq!([read("older"), read("newer"), read("missing")], ["older", "newer", "content"]);
    let (report, _) = fake.restore_with(with(Overwrite::IfNewer));
    assert_eq!((report.kept, report.skipped), (1, 1));
    assert_eq!([read("older"), read("newer")], ["content", "newer"]);
}

/// A target with more than the snapshot has.
fn crowded(fake: &mut Fake, scratch: &Scratch) -> std::path::PathBuf {
    let (target, outside) = (scratch.0.join("target"), scratch.0.join("outside"));
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), b"precious").unwrap();
    for name in ["home/ana/a", "home/ana/m", "home/ana/docs/z", "home/ana/was folder"] {
        fake.file(name, b"content");
    }
    fake.file("home/ana/was file/x", b"content");
    fake.restore(&target);
    let ana = target.join("home/ana");
    fs::create_dir_all(ana.join("old/deep/er")).unwrap();
    for name in ["0", "b.txt", "zz", "docs/a", "old/deep/er/x", "old/keep.me"] {
        fs::write(ana.join(name), b"extra").unwrap();
    }
    symlink(&outside, ana.join("link")).unwrap();
    symlink(&outside, ana.join("old/link")).unwrap();
    fs::remove_file(ana.join("was folder")).unwrap();
    fs::create_dir(ana.join("was folder")).unwrap();
    fs::write(ana.join("was folder/x"), b"extra").unwrap();
    fs::remove_dir_all(ana.join("was file")).unwrap();
    symlink(&outside, ana.join("was file")).unwrap();
    fs::create_dir(target.join("home/ben")).unwrap();
    target
}

const WHOLE: [&str; 9] = [
    "home",
    "home/ana",
    "home/ana/a",
    "home/ana/docs",
    "home/ana/docs/z",
    "home/ana/m",
    "home/ana/was file",
    "home/ana/was file/x",
    "home/ana/was folder",
];

#[test]
fn what_the_snapshot_has_not_is_deleted_and_no_symlink_followed() {
    let scratch = Scratch::new();
    let mut fake = Fake::default();
    let target = crowded(&mut fake, &scratch);
    let before = list(&target);
    let delete = Options { delete: true, ..options(&target) };
    let (dry, heard) = fake.restore_with(Options { dry_run: true, ..delete.clone() });
    assert_eq!(list(&target), before);
    assert_eq!(heard.outcome("/home/ana/old/deep/er/x"), Some(Outcome::Deleted));
    assert_eq!(heard.outcome("/home/ana/m"), Some(Outcome::Skipped));
    let (report, heard) = fake.restore_with(delete.clone());
    assert_eq!((report.failed, heard.unread()), (0, vec![]));
    assert_eq!(list(&target), WHOLE);
    assert_eq!(list(&scratch.0.join("outside")), ["precious"]);
    // What stands where something else must be: in a dry run it is not known that it would go.
    assert_eq!((report.deleted, dry.deleted), (14, 12));
    assert_eq!(fake.restore_with(delete).0.deleted, 0);
}

#[test]
fn what_is_excluded_stays_and_with_it_the_folders_that_lead_there() {
    let scratch = Scratch::new();
    let mut fake = Fake::default();
    let target = crowded(&mut fake, &scratch);
    let exclude = vec!["*.me".into(), "/home/ben".into(), "/home/ana/m".into()];
    let (report, _) = fake.restore_with(Options { delete: true, exclude, ..options(&target) });
    assert_eq!(report.failed, 0);
    let mut expected: Vec<&str> = WHOLE.to_vec();
    expected.extend(["home/ana/old", "home/ana/old/keep.me", "home/ben"]);
    expected.sort_unstable();
    assert_eq!(list(&target), expected);
}

#[test]
fn with_patterns_to_include_nothing_else_is_deleted() {
    let scratch = Scratch::new();
    let mut fake = Fake::default();
    let target = crowded(&mut fake, &scratch);
    let mut before = list(&target);
    let include = vec!["*.txt".into(), "er/".into()];
    let (report, _) = fake.restore_with(Options { delete: true, include, ..options(&target) });
    assert_eq!((report.failed, report.deleted), (0, 3));
    let gone = ["home/ana/b.txt", "home/ana/old/deep/er", "home/ana/old/deep/er/x"];
    before.retain(|p| !gone.contains(&p.as_str()));
    assert_eq!(list(&target), before);
}

#[test]
fn outside_of_the_paths_that_were_backed_up_nothing_is_deleted() {
    let scratch = Scratch::new();
    let mut fake = Fake::default();
    let target = crowded(&mut fake, &scratch);
    fs::write(target.join("system"), b"of another").unwrap();
    fs::create_dir(target.join("home/ana2")).unwrap();
    let root = fake.root();
    for (paths, all) in [(&[][..], false), (&[b"/home/ana".to_vec()][..], true)] {
        // One that could not be read when the snapshot was made.
        let unread = vec![b"/home/ana/old/deep/er/x".to_vec()];
        let source = Source { root: &root, totals: None, paths, unread };
        let delete = Options { delete: true, ..options(&target) };
        let report = restore(&fake.shelf, &source, &delete, &Heard::default(), &Stop::new()).unwrap();
        assert!(target.join("home/ben").exists() && target.join("system").exists());
        assert!(target.join("home/ana2").exists() && target.join("home/ana/old/deep/er/x").exists());
        assert_eq!((target.join("home/ana/zz").exists(), report.failed), (!all, 0));
    }
}

/// A supply that does something each time a chunk is asked for.
struct Watched<'a, F>(&'a super::fake::Shelf, F);

impl<F: Fn(&ChunkId) + Sync> Chunks for Watched<'_, F> {
    fn chunk(&self, space: Space, id: &ChunkId) -> Result<Bytes> {
        if space == Space::Data {
            (self.1)(id);
        }
        self.0.chunk(space, id)
    }
}
impl<F: Fn(&ChunkId) + Sync> Supply for Watched<'_, F> {
    fn is(&self, id: &ChunkId, bytes: &[u8]) -> bool {
        self.0.is(id, bytes)
    }
    fn beside(&self, _: &ChunkId) -> Vec<ChunkId> {
        Vec::new()
    }
}

#[test]
fn an_interrupted_restore_leaves_no_other_names_and_the_next_one_completes_it() {
    let scratch = Scratch::new();
    let mut fake = Fake::default();
    let bytes = long(&mut fake, "disk", 60);
    fake.file("small", b"content");
    let root = fake.root();
    let source = Source { root: &root, totals: None, paths: &[], unread: Vec::new() };
    let (stop, asked) = (Stop::new(), AtomicUsize::new(0));
    let supply = Watched(&fake.shelf, |_: &ChunkId| {
        if asked.fetch_add(1, Ordering::Relaxed) == 40 {
            stop.ask();
        }
    });
    let one = Options { threads: 1, ..options(&scratch.0) };
    let error = restore(&supply, &source, &one, &Heard::default(), &stop).unwrap_err();
    assert_eq!(error.fault(), Fault::Stopped);
    assert_eq!(list(&scratch.0), ["disk"]);
    let had = fs::metadata(scratch.0.join("disk")).unwrap().len();
    assert!(had >= 1 << 20 && had < bytes.len() as u64, "{had}");
    let (report, _) = fake.restore(&scratch.0);
    assert_eq!(
        (report.written, report.rewritten),
        (bytes.len() as u64 - had / CHUNK as u64 * CHUNK as u64 + 7, 1)
    );
    assert!(fs::read(scratch.0.join("disk")).unwrap() == bytes);
}

#[test]
fn a_long_file_that_turns_out_damaged_is_not_left_half_written() {
    let scratch = Scratch::new();
    let mut fake = Fake::default();
    long(&mut fake, "disk", 60);
    fake.lose(&[50; CHUNK]);
    let (report, heard) = fake.restore(&scratch.0);
    assert_eq!((report.failed, report.damaged, heard.unread().len()), (1, 1, 1));
    assert!(list(&scratch.0).is_empty());
    // One that is there keeps its own bytes in that place, and not the time of the snapshot.
    fs::write(scratch.0.join("disk"), vec![3; 60 * CHUNK]).unwrap();
    let (report, _) = fake.restore(&scratch.0);
    assert_eq!((report.failed, report.damaged), (1, 1));
    let there = fs::read(scratch.0.join("disk")).unwrap();
    assert_eq!((there.len(), there[49 * CHUNK]), (60 * CHUNK, 3));
    assert_ne!(fs::metadata(scratch.0.join("disk")).unwrap().mtime(), 1_700_000_000);
}

#[test]
fn what_is_read_back_is_proven_and_what_changed_meanwhile_is_told() {
    let scratch = Scratch::new();
    let mut fake = Fake::default();
    let bytes = long(&mut fake, "a", 20);
    fake.file("empty", b"");
    let content = fake.content(&[Err(5 << 20), Ok(b"end")]);
    fake.add("sparse", Node::File(content), 0o644);
    fake.file("zz", b"last");
    let verify = Options { verify: true, threads: 1, ..options(&scratch.0) };
    let (report, _) = fake.restore_with(verify.clone());
    assert_eq!((report.verified, report.failed), (4, 0));
    // The disk lies: what was written first is something else by the time that the last file is written.
    fs::remove_file(scratch.0.join("zz")).unwrap();
    let root = fake.root();
    let source = Source { root: &root, totals: None, paths: &[], unread: Vec::new() };
    let path = scratch.0.join("a");
    let supply = Watched(&fake.shelf, |_: &ChunkId| {
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(b"x", 5 * CHUNK as u64 + 3).unwrap();
        file.set_modified(time).unwrap();
    });
    let heard = Heard::default();
    let report = restore(&supply, &source, &verify, &heard, &Stop::new()).unwrap();
    assert_eq!((report.verified, report.failed, report.damaged), (3, 1, 0));
    assert!(heard.unread()[0].1.contains("from byte 500000 on"), "{:?}", heard.unread());
    assert!(fs::read(&path).unwrap() != bytes);
}

#[test]
fn equal_symlinks_and_pipes_are_left_alone() {
    let scratch = Scratch::new();
    let mut fake = Fake::default();
    fake.add("link", Node::Symlink(b"to".to_vec()), 0o777);
    fake.add("fifo", Node::Fifo, 0o600);
    fake.restore(&scratch.0);
    let before = ["link", "fifo"].map(|n| inode(&scratch.0.join(n)));
    let (report, heard) = fake.restore(&scratch.0);
    assert_eq!((report.others, heard.outcome("/link")), (2, Some(Outcome::Skipped)));
    assert_eq!(before, ["link", "fifo"].map(|n| inode(&scratch.0.join(n))));
    fs::remove_file(scratch.0.join("link")).unwrap();
    symlink("elsewhere", scratch.0.join("link")).unwrap();
    fake.restore(&scratch.0);
    assert_eq!(fs::read_link(scratch.0.join("link")).unwrap(), Path::new("to"));
}
