//! Names in a folder of the target: what stands under one, and making room for what is to stand there. No name is ever
//! followed, and none leads out of its folder.

use super::attributes::{Handle, magic, same_xattrs};
use super::folder::Folder;
use super::remove;
use super::shared::Shared;
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::tree::Entry;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Tries at making a thing under a name that is cleared before each. One is enough, unless somebody else makes things of the
/// same name all the time.
const TRIES: usize = 16;
/// What others than the owner may do to a file.
const OTHERS: u32 = 0o077;

/// Device and inode.
pub(super) type Identity = (u64, u64);

/// A thing that stands in the target.
pub(super) struct Found {
    /// Opened with `O_PATH`.
    pub fd: OwnedFd,
    pub stat: Stat,
}

impl Found {
    /// What stands under a name, if anything can be seen there.
    pub fn at(folder: BorrowedFd<'_>, name: &[u8]) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(folder, name, flags, Mode::empty()).ok()?;
        let stat = rustix::fs::fstat(&fd).ok()?;
        Some(Self { fd, stat })
    }

    pub fn identity(&self) -> Identity {
        identity(&self.stat)
    }

    pub fn is_file(&self) -> bool {
        FileType::from_raw_mode(self.stat.st_mode).is_file()
    }

    /// As rsync's quick check: a file of this size and time.
    pub fn looks_equal(&self, entry: &Entry) -> bool {
        let (s, want) = (&self.stat, &entry.stat);
        self.is_file()
            && s.st_size as u64 == want.size
            && (s.st_mtime, s.st_mtime_nsec as u32) == (want.mtime.seconds, want.mtime.nanos)
    }

    /// Its owner is the one that the entry is to have, as far as this process may decide that.
    fn is_owned(&self, shared: &Shared<'_>, entry: &Entry) -> bool {
        match shared.me.root {
            true => (self.stat.st_uid, self.stat.st_gid) == (entry.stat.uid, entry.stat.gid),
            false => self.stat.st_uid == shared.me.uid,
        }
    }

    /// Whether this very file may get the content and the attributes of the entry. Not where it has names that may lie
    /// outside of the target, nor where somebody whom the entry gives no right to it could have put something into it or may
    /// still have it open.
    pub fn may_be_changed(&self, shared: &Shared<'_>, entry: &Entry) -> bool {
        self.is_file()
            && self.stat.st_nlink == 1
            && self.is_owned(shared, entry)
            && self.stat.st_mode & OTHERS & !entry.stat.mode == 0
    }

    /// Owner, mode and xattrs are those of the entry, and no other name of it is outside of what the snapshot knows.
    pub fn has_attributes(&self, shared: &Shared<'_>, entry: &Entry) -> bool {
        self.is_owned(shared, entry)
            && (self.stat.st_nlink == 1 || entry.stat.link.is_some())
            && self.stat.st_mode & 0o7777 == entry.stat.mode
            && same_xattrs(shared, Handle::Path(self.fd.as_fd()), entry)
    }

    /// Opens the file itself, whatever its name means by now.
    pub fn open(&self, flags: OFlags) -> std::result::Result<OwnedFd, Errno> {
        rustix::fs::open(magic(self.fd.as_fd()), flags | OFlags::CLOEXEC, Mode::empty())
    }
}

pub(super) fn identity(stat: &Stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

/// Makes a thing under its name, instead of what may stand there: `make` must fail where there is something. A folder is
/// removed only where `--delete` was asked for.
///
/// # Errors
/// `Denied` for a folder in its place, and where somebody else puts things there all the time.
pub(super) fn put<T>(
    shared: &Shared<'_>,
    folder: &Folder,
    fd: BorrowedFd<'_>,
    name: &[u8],
    mut make: impl FnMut() -> std::result::Result<T, Errno>,
) -> Result<T> {
    for _ in 0..TRIES {
        match make() {
            Err(Errno::EXIST) => clear(shared, folder, fd, name)?,
            other => return other.doing(|| "making it"),
        }
    }
    Err(Error::new(Fault::Denied, "somebody else writes to the same folder of the target"))
}

/// Removes what stands under a name.
pub(super) fn clear(shared: &Shared<'_>, folder: &Folder, fd: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    match rustix::fs::unlinkat(fd, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e @ (Errno::ISDIR | Errno::PERM)) => {
            let is_folder = rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|s| FileType::from_raw_mode(s.st_mode).is_dir());
            match (is_folder, shared.delete) {
                (true, true) => remove::instead(shared, folder, fd, name),
                (true, false) => Err(Error::new(Fault::Denied, "a folder stands in its place in the target")
                    .hint("move it away, or restore with --delete")),
                (false, _) => Err(e).doing(|| "removing what stands in its place"),
            }
        }
        Err(e) => Err(e).doing(|| "removing what stands in its place"),
    }
}
