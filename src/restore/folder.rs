//! Folders in the target: opened one below the other without ever following a symlink, and given
//! their attributes when the last thing in them is done.

use super::attributes::{DEFAULT_ACL, Handle, Was, apply, magic, strip_acls};
use super::shared::{Shared, join};
use crate::event::Outcome;
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::tree::Entry;
use rustix::fs::{AtFlags, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

const OPEN: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// Nobody else gets in while a folder is being filled.
const CLOSED: Mode = Mode::RWXU;

/// How a folder is entered.
#[derive(Clone, Copy)]
pub(super) struct Enter {
    /// It is made where it is missing.
    pub make: bool,
    /// It is only on the way to what is restored, so that it keeps its attributes where it is there already.
    pub keep: bool,
    /// Nothing is changed.
    pub dry_run: bool,
    /// What stands in its place and is no folder goes.
    pub replace: bool,
}

/// On a target that a run has made and not finished: an xattr that no snapshot holds under this name. The next run finishes it
/// as its own, though it was there.
const UNFINISHED: &[u8] = b"user.pastfs.unfinished";

/// A folder of the target. Every thing that is being done in it, folders below it included, holds
/// one reference; [`Folder::leave`] gives it back.
pub(super) struct Folder {
    /// None in a dry run where there is no such folder.
    fd: Option<OwnedFd>,
    parent: Option<Arc<Folder>>,
    /// Path below the target, empty for the target itself.
    pub place: Vec<u8>,
    /// Absolute path in the snapshot.
    pub path: Vec<u8>,
    /// Made by this run: only what we put there is in it.
    pub made: bool,
    /// New things in it inherit ACLs.
    pub inherits: bool,
    /// What it gets in the end.
    attributes: Option<Entry>,
    /// The mode to put back where we had to give ourselves rights, and no attributes are to be set.
    mode: Option<u32>,
}

impl Folder {
    /// Opens the target, and makes it where it is missing; symlinks in this path are the user's own
    /// and are followed. A folder that was there keeps its attributes, unless an interrupted run has made it.
    pub fn target(target: &Path, entry: Option<Entry>, path: &[u8], dry_run: bool) -> Result<Arc<Self>> {
        let doing = || format!("opening the target folder {}", target.display());
        let mut made = false;
        if !dry_run && !target.exists() {
            if let Some(parent) = target.parent() {
                std::fs::create_dir_all(parent).doing(doing)?;
            }
            match rustix::fs::mkdir(target, CLOSED) {
                Ok(()) => made = true,
                Err(Errno::EXIST) => {}
                Err(e) => return Err(e).doing(doing),
            }
        }
        let fd = match rustix::fs::open(target, OPEN, Mode::empty()) {
            Ok(fd) => Some(fd),
            Err(Errno::NOENT) if dry_run => None,
            Err(e) => return Err(e).doing(doing),
        };
        let inherits = fd.as_ref().is_some_and(inherits);
        let ours = match &fd {
            // Where there are no xattrs, only its mode and time tell that it was not finished.
            Some(fd) if made => {
                let _ = rustix::fs::fsetxattr(fd, UNFINISHED, b"1", XattrFlags::empty());
                true
            }
            Some(fd) => rustix::fs::fgetxattr_query(fd, UNFINISHED).is_ok(),
            None => true,
        };
        let attributes = entry.filter(|_| ours);
        Ok(Arc::new(Self {
            fd,
            parent: None,
            place: Vec::new(),
            path: path.to_vec(),
            made,
            inherits,
            attributes,
            mode: None,
        }))
    }

    /// Opens or makes a folder below this one.
    ///
    /// # Errors
    /// Where something else stands in its place: it is neither followed nor removed.
    pub fn enter(self: &Arc<Self>, entry: &Entry, path: &[u8], how: Enter) -> Result<Arc<Self>> {
        let name = entry.name.as_slice();
        let mut made = false;
        let mut mode = None;
        let fd = match &self.fd {
            None if how.make => None,
            None => return Err(Error::new(Fault::Missing, "there is no such folder in the target")),
            Some(above) if how.dry_run => {
                match rustix::fs::openat(above, name, OPEN | OFlags::NOFOLLOW, Mode::empty()) {
                    Ok(fd) => Some(fd),
                    Err(Errno::NOENT) if how.make => None,
                    Err(Errno::NOTDIR | Errno::LOOP) if how.make && how.replace => None,
                    Err(e) => return Err(cannot_enter(above.as_fd(), name, e)),
                }
            }
            Some(above) => {
                if how.make {
                    made = make(above.as_fd(), name, how.replace).doing(|| "making the folder")?;
                }
                let opened = open_in(above.as_fd(), name);
                let (fd, had) = opened.map_err(|e| cannot_enter(above.as_fd(), name, e))?;
                mode = had;
                if !made && mode.is_none() {
                    mode = unlock(&fd)?;
                }
                Some(fd)
            }
        };
        let mut inherit = false;
        if let Some(fd) = &fd {
            if !made {
                inherit = inherits(fd);
            } else if self.inherits {
                let doing = || "removing inherited ACLs";
                strip_acls(Handle::Open(fd.as_fd()), true).doing(doing)?;
                // They may have taken rights from ourselves.
                rustix::fs::fchmod(fd, CLOSED).doing(doing)?;
            }
        }
        Ok(Arc::new(Self {
            made: made || fd.is_none(),
            attributes: (made || fd.is_none() || !how.keep).then(|| entry.clone()),
            fd,
            parent: Some(self.clone()),
            place: join(&self.place, name),
            path: path.to_vec(),
            inherits: inherit,
            mode,
        }))
    }

    /// None in a dry run where there is no such folder.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(|fd| fd.as_fd())
    }

    /// Gives back one reference. Who gives back the last one finishes the folder, then the ones above
    /// that waited for it: so times are set after the last change in a folder.
    pub fn leave(self: Arc<Self>, shared: &Shared<'_>) {
        let mut folder = Some(self);
        while let Some(last) = folder.take().and_then(Arc::into_inner) {
            if let Some(entry) = &last.attributes {
                if let (Some(fd), false) = (&last.fd, shared.dry_run) {
                    if last.parent.is_none() && !shared.halted() {
                        let _ = rustix::fs::fremovexattr(fd, UNFINISHED);
                    }
                    apply(shared, Handle::Open(fd.as_fd()), entry, was(last.made), &last.path);
                }
                shared.count(|r| r.folders += 1);
                shared.finished(&last.path, Outcome::Restored, false);
            } else if let (Some(fd), Some(mode)) = (&last.fd, last.mode) {
                // It was ours a moment ago; if it no longer is, its new owner has set the mode.
                let _ = rustix::fs::fchmod(fd, Mode::from_raw_mode(mode));
            }
            folder = last.parent;
        }
    }
}

/// Makes a folder. Answers false where there is one, or what must stay.
fn make(above: BorrowedFd<'_>, name: &[u8], replace: bool) -> std::result::Result<bool, Errno> {
    match rustix::fs::mkdirat(above, name, CLOSED) {
        Ok(()) => return Ok(true),
        Err(Errno::EXIST) => {}
        Err(e) => return Err(e),
    }
    let is_folder = rustix::fs::statat(above, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|s| rustix::fs::FileType::from_raw_mode(s.st_mode).is_dir());
    if is_folder || !replace {
        return Ok(false);
    }
    match rustix::fs::unlinkat(above, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => rustix::fs::mkdirat(above, name, CLOSED).map(|()| true),
        Err(e) => Err(e),
    }
}

fn was(made: bool) -> Was {
    if made { Was::Made } else { Was::There }
}

/// Opens a folder below the target again, by its place; no symlink is followed.
pub(super) fn reopen(target: BorrowedFd<'_>, place: &[u8]) -> std::result::Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = rustix::fs::openat(target, c".", flags, Mode::empty())?;
    for name in place.split(|b| *b == b'/').filter(|n| !n.is_empty()) {
        at = rustix::fs::openat(&at, name, flags, Mode::empty())?;
    }
    Ok(at)
}

/// Opens a folder. Our own may be closed to ourselves: then it is opened to us, and the mode that it had
/// comes along.
fn open_in(above: BorrowedFd<'_>, name: &[u8]) -> std::result::Result<(OwnedFd, Option<u32>), Errno> {
    let open = |flags| rustix::fs::openat(above, name, flags | OFlags::NOFOLLOW, Mode::empty());
    match open(OPEN) {
        Err(Errno::ACCESS) => {
            let fd = open(OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC)?;
            let mode = rustix::fs::fstat(&fd)?.st_mode & 0o7777;
            let wider = Mode::from_raw_mode(mode) | Mode::RWXU;
            rustix::fs::chmod(magic(fd.as_fd()), wider).map_err(|_| Errno::ACCESS)?;
            Ok((open(OPEN)?, Some(mode)))
        }
        other => other.map(|fd| (fd, None)),
    }
}

/// Says what stands where a folder must be.
fn cannot_enter(above: BorrowedFd<'_>, name: &[u8], error: Errno) -> Error {
    match rustix::fs::statat(above, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_symlink() => Error::new(
            Fault::Denied,
            "a symbolic link stands in the target where the folder must be; it is not followed",
        ),
        Ok(stat) if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() => {
            Error::new(Fault::Denied, "something else stands in the target where the folder must be")
        }
        _ => Error::io("opening the folder", error.into()),
    }
}

/// Gives its owner, us, all rights to a folder that was there. Answers the mode that it had.
fn unlock(fd: &OwnedFd) -> Result<Option<u32>> {
    let me = rustix::process::geteuid();
    if me.is_root() {
        return Ok(None);
    }
    let doing = || "opening the folder for writing";
    let stat = rustix::fs::fstat(fd).doing(doing)?;
    let mode = stat.st_mode & 0o7777;
    if stat.st_uid != me.as_raw() || mode & 0o700 == 0o700 {
        return Ok(None);
    }
    rustix::fs::fchmod(fd, Mode::from_raw_mode(mode | 0o700)).doing(doing)?;
    Ok(Some(mode))
}

fn inherits(fd: &OwnedFd) -> bool {
    rustix::fs::fgetxattr_query(fd, DEFAULT_ACL).is_ok_and(|n| n > 0)
}

#[cfg(test)]
mod tests {
    use crate::format::tree::Node;
    use crate::restore::fake::{Fake, Scratch, list};
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn symlinks_planted_in_the_target_lead_nowhere() {
        let scratch = Scratch::new();
        let (target, outside) = (scratch.0.join("target"), scratch.0.join("outside"));
        fs::create_dir_all(&target).unwrap();
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("victim"), b"untouched").unwrap();
        let before = fs::metadata(outside.join("victim")).unwrap();
        symlink(&outside, target.join("folder")).unwrap();
        symlink(outside.join("nowhere"), target.join("dangling")).unwrap();
        symlink(outside.join("victim"), target.join("file")).unwrap();
        symlink(outside.join("victim"), target.join("fifo")).unwrap();
        symlink(outside.join("made"), target.join("new")).unwrap();
        fs::hard_link(outside.join("victim"), target.join("hard")).unwrap();
        fs::write(target.join("plain"), b"no folder").unwrap();
        fs::create_dir(target.join("taken")).unwrap();

        let mut fake = Fake::default();
        fake.file("folder/victim", b"evil");
        fake.file("folder/deep/er", b"evil");
        fake.file("dangling/x", b"evil");
        fake.file("plain/x", b"evil");
        fake.file("taken", b"evil");
        fake.file("file", b"restored");
        fake.file("new", b"restored");
        fake.file("hard", b"untouched").stat.mode = 0o777;
        fake.add("fifo", Node::Fifo, 0o600);
        let (report, heard) = fake.restore(&target);

        assert_eq!(list(&outside), ["victim"]);
        let after = fs::metadata(outside.join("victim")).unwrap();
        let shown = |m: &fs::Metadata| (m.len(), m.mtime(), m.mtime_nsec(), m.mode(), m.uid());
        assert_eq!(shown(&before), shown(&after));
        for name in ["file", "new"] {
            assert!(fs::symlink_metadata(target.join(name)).unwrap().is_file());
            assert_eq!(fs::read(target.join(name)).unwrap(), b"restored");
        }
        assert_eq!(fs::metadata(target.join("hard")).unwrap().nlink(), 1);
        assert!(fs::symlink_metadata(target.join("folder")).unwrap().is_symlink());
        assert_eq!((report.failed, report.damaged), (4, 0));
        let unread = heard.unread();
        let paths: Vec<&str> = unread.iter().map(|(p, _)| p.as_str()).collect();
        assert_eq!(paths, ["/dangling", "/folder", "/plain", "/taken"]);
        assert!(unread[1].1.contains("symbolic link"), "{unread:?}");
        assert!(unread[3].1.contains("a folder stands in its place"), "{unread:?}");
    }

    #[test]
    fn a_folder_that_becomes_a_symlink_meanwhile_is_not_followed() {
        let scratch = Scratch::new();
        let (target, outside) = (scratch.0.join("target"), scratch.0.join("outside"));
        let aside = scratch.0.join("aside");
        fs::create_dir_all(&target).unwrap();
        fs::create_dir_all(&outside).unwrap();
        let mut fake = Fake::default();
        for i in 0..400 {
            fake.file(format!("a/b/{i}"), b"content");
            let entry = fake.file(format!("a/link{i}"), b"content");
            (entry.stat.nlink, entry.stat.link) = (2, Some((0, i % 200)));
        }
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    for path in [target.join("a"), target.join("a/b")] {
                        if fs::rename(&path, &aside).is_ok() {
                            let _ = symlink(&outside, &path);
                            std::thread::yield_now();
                            let _ = fs::remove_file(&path);
                            if fs::rename(&aside, &path).is_err() {
                                let _ = fs::remove_dir_all(&aside);
                            }
                        }
                    }
                }
            });
            for _ in 0..20 {
                fake.restore(&target);
            }
            done.store(true, Ordering::Relaxed);
        });
        assert!(list(&outside).is_empty(), "{:?}", list(&outside));
    }

    #[test]
    fn folders_that_were_there_keep_what_is_in_them_and_get_the_attributes_of_the_snapshot() {
        let scratch = Scratch::new();
        fs::create_dir_all(scratch.0.join("a/b")).unwrap();
        fs::write(scratch.0.join("a/b/mine"), b"mine").unwrap();
        let before = fs::metadata(&scratch.0).unwrap();
        let mut fake = Fake::default();
        fake.folder("", 0o711);
        fake.folder("a", 0o700);
        fake.folder("a/b", 0o500);
        fake.file("a/b/theirs", b"theirs");
        for _ in 0..2 {
            let (report, heard) = fake.restore(&scratch.0);
            assert_eq!((report.failed, report.incomplete, heard.unread()), (0, 0, vec![]));
            let mode = |p: &str| fs::metadata(scratch.0.join(p)).unwrap().mode() & 0o7777;
            assert_eq!((mode("a"), mode("a/b")), (0o700, 0o500));
            assert_eq!(fs::metadata(&scratch.0).unwrap().mode(), before.mode());
            assert_eq!(fs::metadata(scratch.0.join("a/b")).unwrap().mtime(), 1_700_000_000);
            assert_eq!(list(&scratch.0), ["a", "a/b", "a/b/mine", "a/b/theirs"]);
        }
        fake.restore(&scratch.0.join("new"));
        assert_eq!(fs::metadata(scratch.0.join("new")).unwrap().mode() & 0o7777, 0o711);
        // Only on the way to what was asked for: it keeps its own.
        fs::set_permissions(scratch.0.join("a"), std::os::unix::fs::PermissionsExt::from_mode(0o750))
            .unwrap();
        fake.restore_with(crate::restore::Options {
            target: scratch.0.clone(),
            include: vec!["theirs".into()],
            ..Default::default()
        });
        assert_eq!(fs::metadata(scratch.0.join("a")).unwrap().mode() & 0o7777, 0o750);
    }
}
