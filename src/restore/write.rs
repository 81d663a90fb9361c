//! Everything but folders, written under a temporary name with all attributes and then renamed: what has
//! its real name is whole.

use super::attributes::{ACL, Handle, apply, magic, strip_acls};
use super::content::{Piece, pieces};
use super::folder::{Folder, Temporary, reopen};
use super::shared::Shared;
use crate::event::{Event, Outcome};
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::tree::{Content, Entry, Node, Stat};
use parking_lot::{Condvar, Mutex};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Longest list of xattr names (`XATTR_LIST_MAX`, limits.h).
const NAMES_MAX: usize = 64 << 10;

/// A thing to write.
pub(super) struct Job {
    pub folder: Arc<Folder>,
    pub entry: Entry,
    /// Absolute path in the snapshot.
    pub path: Vec<u8>,
}

/// The names of one file.
#[derive(Default)]
struct Group {
    state: Mutex<Names>,
    changed: Condvar,
}

#[derive(Default)]
enum Names {
    /// None of them is there.
    #[default]
    None,
    /// Somebody is writing the first.
    Busy,
    /// One is there.
    One(First),
}

/// The name that the others become links to.
#[derive(Clone)]
struct First {
    /// Its folder, below the target.
    place: Vec<u8>,
    name: Vec<u8>,
    identity: Identity,
}

/// Device and inode.
type Identity = (u64, u64);

/// Writes things into the target; used by many threads.
pub(super) struct Writer<'a> {
    pub shared: &'a Shared<'a>,
    pub dry_run: bool,
    /// The target itself.
    target: Arc<Folder>,
    groups: Mutex<HashMap<(u32, u64), Arc<Group>>>,
}

impl<'a> Writer<'a> {
    pub fn new(shared: &'a Shared<'a>, target: Arc<Folder>, dry_run: bool) -> Self {
        Self { shared, dry_run, target, groups: Mutex::default() }
    }

    /// Finishes the target once no thread writes any more.
    pub fn end(self) {
        self.target.leave(self.shared, self.dry_run);
    }

    /// Writes one thing and tells what became of it.
    pub fn run(&self, job: Job) {
        if !self.shared.halted() {
            let file = matches!(job.entry.node, Node::File(_));
            if file {
                self.shared.observer.event(Event::Started(super::shared::as_path(&job.path)));
            }
            match self.linked(&job) {
                Ok(outcome) => {
                    self.shared.count(|r| {
                        match file {
                            true => r.files += 1,
                            false => r.others += 1,
                        }
                        r.skipped += u64::from(outcome == Outcome::Skipped);
                    });
                    self.shared.finished(&job.path, outcome, file);
                }
                Err(e) => self.shared.failed(&job.path, e),
            }
        }
        job.folder.leave(self.shared, self.dry_run);
    }

    /// The first name of a file is written, the others are linked to it. Who waits here waits for a
    /// thread that is writing, so there is always one that goes on.
    fn linked(&self, job: &Job) -> Result<Outcome> {
        let Some(key) = job.entry.stat.link.filter(|_| !self.dry_run) else {
            return self.written(job).map(|(outcome, _)| outcome);
        };
        let group = self.groups.lock().entry(key).or_default().clone();
        let mut state = group.state.lock();
        loop {
            match &*state {
                Names::Busy => group.changed.wait(&mut state),
                Names::One(first) => {
                    let first = first.clone();
                    drop(state);
                    let outcome = self.link(job, &first)?;
                    self.done_bytes(&job.entry.stat);
                    return Ok(outcome);
                }
                Names::None => {
                    *state = Names::Busy;
                    drop(state);
                    let result = self.written(job);
                    *group.state.lock() = match &result {
                        Ok((_, identity)) => Names::One(First {
                            place: job.folder.place.clone(),
                            name: job.entry.name.clone(),
                            identity: *identity,
                        }),
                        // The next name tries again.
                        Err(_) => Names::None,
                    };
                    group.changed.notify_all();
                    return result.map(|(outcome, _)| outcome);
                }
            }
        }
    }

    fn done_bytes(&self, stat: &Stat) {
        self.shared.count(|r| r.bytes += stat.size);
        self.shared.observer.event(Event::Bytes(stat.size));
    }

    fn link(&self, job: &Job, first: &First) -> Result<Outcome> {
        let doing = || "making a hard link";
        let name = job.entry.name.as_slice();
        let (Some(fd), Some(target)) = (job.folder.fd(), self.target.fd()) else {
            return Ok(Outcome::Restored);
        };
        let reopened: OwnedFd;
        let from = if first.place == job.folder.place {
            fd
        } else {
            reopened = reopen(target, &first.place).doing(doing)?;
            reopened.as_fd()
        };
        let there = rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW);
        if there.is_ok_and(|s| (s.st_dev, s.st_ino) == first.identity) {
            return Ok(Outcome::Skipped);
        }
        let (temporary, ()) = Temporary::make(fd, |temporary| {
            rustix::fs::linkat(from, first.name.as_slice(), fd, temporary, AtFlags::empty())
        })
        .doing(doing)?;
        // The first name could have come to mean another file since it was written.
        let made = rustix::fs::fstat(temporary.open_path().doing(doing)?).doing(doing)?;
        if (made.st_dev, made.st_ino) != first.identity {
            return Err(Error::new(Fault::Denied, "somebody else has changed the other name of this file"));
        }
        temporary.rename_link(name)?;
        Ok(Outcome::Restored)
    }

    fn written(&self, job: &Job) -> Result<(Outcome, Identity)> {
        let entry = &job.entry;
        if let Node::Unknown(kind) = entry.node {
            return Err(Error::new(
                Fault::Newer,
                format!("it is of type {kind}, which this version of pastfs does not know"),
            ));
        }
        if let (Some(fd), false, Node::File(_)) = (job.folder.fd(), job.folder.made, &entry.node)
            && let Some(identity) = self.same(fd, entry)
        {
            self.done_bytes(&entry.stat);
            return Ok((Outcome::Skipped, identity));
        }
        let Some(fd) = job.folder.fd().filter(|_| !self.dry_run) else {
            if matches!(entry.node, Node::File(_)) {
                self.done_bytes(&entry.stat);
            }
            return Ok((Outcome::Restored, (0, 0)));
        };
        let identity = match &entry.node {
            Node::File(content) => self.file(fd, job, content)?,
            _ => self.special(fd, job)?,
        };
        Ok((Outcome::Restored, identity))
    }

    fn file(&self, folder: BorrowedFd<'_>, job: &Job, content: &Content) -> Result<Identity> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (temporary, fd) =
            Temporary::make(folder, |name| rustix::fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR))
                .doing(|| "making a file")?;
        let doing = || "writing the file";
        let mut written = 0;
        let len = pieces(self.shared.supply, content, &mut |offset, piece| {
            if self.shared.halted() {
                return Err(Error::new(Fault::Stopped, "interrupted"));
            }
            let n = match piece {
                Piece::Data(bytes) => {
                    write_all(fd.as_fd(), offset, bytes).doing(doing)?;
                    written = offset + bytes.len() as u64;
                    bytes.len() as u64
                }
                Piece::Hole(n) => n,
            };
            self.shared.count(|r| r.bytes += n);
            self.shared.observer.event(Event::Bytes(n));
            Ok(())
        })
        .doing(|| "reading its content")?;
        if len != job.entry.stat.size {
            return Err(Error::damaged("its content is not as long as the file"));
        }
        if written < len {
            rustix::fs::ftruncate(&fd, len).doing(doing)?;
        }
        let handle = Handle::Open(fd.as_fd());
        if job.folder.inherits {
            strip_acls(handle, false).doing(|| "removing inherited ACLs")?;
        }
        apply(self.shared, handle, &job.entry, false, &job.path);
        let identity = match job.entry.stat.link {
            Some(_) => rustix::fs::fstat(&fd).map(|s| (s.st_dev, s.st_ino)).doing(doing)?,
            None => (0, 0),
        };
        temporary.rename(&job.entry.name)?;
        Ok(identity)
    }

    /// Symlinks, devices, pipes and sockets.
    fn special(&self, folder: BorrowedFd<'_>, job: &Job) -> Result<Identity> {
        let node = &job.entry.node;
        let make = |kind: FileType, device: u64| {
            Temporary::make(folder, |name| {
                rustix::fs::mknodat(folder, name, kind, Mode::RUSR | Mode::WUSR, device)
            })
        };
        let (kind, made) = match node {
            Node::Symlink(target) => (
                FileType::Symlink,
                Temporary::make(folder, |name| rustix::fs::symlinkat(target.as_slice(), folder, name)),
            ),
            Node::CharDevice(n) => (FileType::CharacterDevice, make(FileType::CharacterDevice, *n)),
            Node::BlockDevice(n) => (FileType::BlockDevice, make(FileType::BlockDevice, *n)),
            Node::Fifo => (FileType::Fifo, make(FileType::Fifo, 0)),
            Node::Socket => (FileType::Socket, make(FileType::Socket, 0)),
            Node::File(_) | Node::Folder(_) | Node::Unknown(_) => {
                return Err(Error::bug("a file or folder among the special files"));
            }
        };
        let doing = || match node {
            Node::Symlink(_) => "making a symbolic link",
            Node::CharDevice(_) | Node::BlockDevice(_) => "making a device",
            Node::Fifo => "making a named pipe",
            _ => "making a socket",
        };
        let (temporary, ()) = made.doing(doing)?;
        // What was opened is checked to be what was made, before it gets an owner: whoever may write to
        // this folder could have put a link to somebody else's file there.
        let fd = temporary.open_path().doing(doing)?;
        let stat = rustix::fs::fstat(&fd).doing(doing)?;
        if FileType::from_raw_mode(stat.st_mode) != kind
            || stat.st_nlink != 1
            || stat.st_uid != rustix::process::geteuid().as_raw()
        {
            return Err(Error::new(Fault::Denied, "somebody else writes to the same folder of the target"));
        }
        let handle = Handle::Path(fd.as_fd());
        if job.folder.inherits && kind != FileType::Symlink {
            strip_acls(handle, false).doing(|| "removing inherited ACLs")?;
        }
        apply(self.shared, handle, &job.entry, false, &job.path);
        temporary.rename(&job.entry.name)?;
        Ok((stat.st_dev, stat.st_ino))
    }

    /// Whether the file is there with this size, time and all other attributes, so that it can stay
    /// as it is. One that differs in any is written anew, never changed in place: it may have names
    /// elsewhere.
    fn same(&self, folder: BorrowedFd<'_>, entry: &Entry) -> Option<Identity> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(folder, entry.name.as_slice(), flags, Mode::empty()).ok()?;
        let found = rustix::fs::fstat(&fd).ok()?;
        let want = &entry.stat;
        let owned =
            (found.st_uid, found.st_gid) == (want.uid, want.gid) || (!rustix::process::geteuid().is_root());
        let same = FileType::from_raw_mode(found.st_mode).is_file()
            && owned
            && (found.st_nlink == 1 || want.link.is_some())
            && found.st_size as u64 == want.size
            && found.st_mode & 0o7777 == want.mode
            && (found.st_mtime, found.st_mtime_nsec as u32) == (want.mtime.seconds, want.mtime.nanos)
            && self.same_xattrs(fd.as_fd(), entry);
        same.then_some((found.st_dev, found.st_ino))
    }

    fn same_xattrs(&self, fd: BorrowedFd<'_>, entry: &Entry) -> bool {
        let path = magic(fd);
        let mut names = vec![0; NAMES_MAX];
        let n = match rustix::fs::listxattr(&path, &mut names[..]) {
            Ok(n) => n,
            Err(Errno::NOTSUP) => 0,
            Err(_) => return false,
        };
        let found: Vec<&[u8]> = names[..n].split(|b| *b == 0).filter(|n| !n.is_empty()).collect();
        // An ACL that the entry lacks grants something; SELinux labels come by themselves.
        let extra = |n: &&[u8]| {
            (n.starts_with(b"user.") || **n == *ACL || **n == *b"security.capability")
                && entry.xattrs.iter().all(|x| x.name != **n)
        };
        if found.iter().any(extra) {
            return false;
        }
        entry.xattrs.iter().all(|x| {
            let Ok(Some(want)) = super::content::whole(self.shared.supply, &x.value, NAMES_MAX as u64) else {
                return false;
            };
            let mut value = vec![0; NAMES_MAX];
            rustix::fs::getxattr(&path, x.name.as_slice(), &mut value[..])
                .is_ok_and(|n| value[..n] == want[..])
        })
    }
}

fn write_all(fd: BorrowedFd<'_>, mut offset: u64, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(fd, bytes, offset) {
            Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                bytes = &bytes[n..];
                offset += n as u64;
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::event::Outcome;
    use crate::format::tree::Node;
    use crate::restore::fake::{Fake, Scratch, is_root, list, xattr};
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    use std::path::Path;

    /// An ACL that lets user 1234 read, as acl(5) has it in an xattr: version 2, then tag, rights, id.
    const ACL: &[u8] = &[
        2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 210, 4, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255,
        16, 0, 4, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
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
        let set = rustix::fs::setxattr(
            &scratch.0,
            "system.posix_acl_default",
            ACL,
            rustix::fs::XattrFlags::empty(),
        );
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
}
