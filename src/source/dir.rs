//! Folders that are held open while something in them is of interest.

use super::attributes::at;
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fmt;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

/// Flags of every folder that is opened. A fifo in its place must not make us wait.
const FOLDER: OFlags =
    OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

/// An open folder and the way to it. It is held by all items in it; in very deep trees the walk closes
/// those far above, and [`Dir::fd`] opens them again.
pub struct Dir {
    parent: Option<Arc<Dir>>,
    name: Vec<u8>,
    device: u64,
    inode: u64,
    fd: Mutex<Option<Arc<OwnedFd>>>,
}

/// For what a folder is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    /// To list it, without changing its access time where we may.
    Listing,
    /// To reach what is in it: needs no permission to list.
    Passing,
}

impl Dir {
    /// `/`.
    pub(super) fn root() -> rustix::io::Result<(Arc<Dir>, rustix::fs::Stat)> {
        Self::new(None, b"", open(rustix::fs::CWD, b"/", For::Passing)?)
    }
    /// The folder of that name in `parent`, and what fstat says of it. A symlink is `ENOTDIR` or
    /// `ELOOP`.
    pub(super) fn open(parent: &Arc<Dir>, name: &[u8], why: For) -> Result<(Arc<Dir>, rustix::fs::Stat)> {
        let fd = open(&*parent.fd()?, at(name), why)?;
        Ok(Self::new(Some(parent.clone()), name, fd)?)
    }
    fn new(
        parent: Option<Arc<Dir>>,
        name: &[u8],
        fd: OwnedFd,
    ) -> rustix::io::Result<(Arc<Dir>, rustix::fs::Stat)> {
        let stat = fstat(&fd)?;
        let dir = Dir {
            parent,
            name: name.to_vec(),
            device: stat.st_dev,
            inode: stat.st_ino,
            fd: Mutex::new(Some(Arc::new(fd))),
        };
        Ok((Arc::new(dir), stat))
    }

    /// Its absolute path, which may be longer than the system takes in one call.
    pub fn path(&self) -> PathBuf {
        let mut names = Vec::new();
        let mut dir = Some(self);
        while let Some(d) = dir {
            names.push(d.name.as_slice());
            dir = d.parent.as_deref();
        }
        let mut path = PathBuf::from("/");
        for name in names.into_iter().rev().filter(|n| !n.is_empty()) {
            path.push(OsStr::from_bytes(name));
        }
        path
    }
    /// Number of its device.
    pub fn device(&self) -> u64 {
        self.device
    }
    /// Its descriptor, for calls that take names relative to a folder. Fails where the folder had
    /// to be closed and cannot be reached any more.
    pub fn fd(&self) -> Result<Arc<OwnedFd>> {
        if let Some(fd) = &*self.fd.lock() {
            return Ok(fd.clone());
        }
        // Up to the nearest one that is open, and down again.
        let mut closed = vec![self];
        let mut fd = loop {
            let above = closed[closed.len() - 1].parent.as_deref();
            let above = above.ok_or_else(|| Error::other("the root folder is closed"))?;
            if let Some(fd) = &*above.fd.lock() {
                break fd.clone();
            }
            closed.push(above);
        };
        for dir in closed.into_iter().rev() {
            fd = Arc::new(dir.same(open(&*fd, at(&dir.name), For::Passing)?)?);
        }
        Ok(fd)
    }
    /// Gives the descriptor back to the system as soon as nobody uses it.
    pub(super) fn close(&self) {
        if self.parent.is_some() {
            *self.fd.lock() = None;
        }
    }
    /// Opens it again, if it was closed, from a folder in it: one call at any depth.
    pub(super) fn open_from(&self, child: &Dir) {
        let child = child.fd.lock().clone();
        let mut fd = self.fd.lock();
        if fd.is_none()
            && let Some(child) = child
            && let Ok(found) = open(&*child, b"..", For::Passing)
            && let Ok(same) = self.same(found)
        {
            *fd = Some(Arc::new(same));
        }
    }
    /// `fd`, provided that it is this folder.
    fn same(&self, fd: OwnedFd) -> Result<OwnedFd> {
        let stat = fstat(&fd)?;
        if (stat.st_dev, stat.st_ino) == (self.device, self.inode) {
            Ok(fd)
        } else {
            Err(Error::new(ErrorKind::ResourceBusy, "a folder on the way was replaced meanwhile"))
        }
    }
}

fn open(parent: impl std::os::fd::AsFd, name: &[u8], why: For) -> rustix::io::Result<OwnedFd> {
    let parent = parent.as_fd();
    match why {
        For::Passing => openat(parent, name, FOLDER | OFlags::PATH, Mode::empty()),
        For::Listing => unseen(parent, name, FOLDER),
    }
}

/// Opens for reading without changing the access time. Only the owner of a file (and root) may ask for
/// that (open(2): `EPERM`); then it is opened plainly.
pub(super) fn unseen(
    parent: impl std::os::fd::AsFd,
    name: &[u8],
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let parent = parent.as_fd();
    match openat(parent, name, flags | OFlags::RDONLY | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => openat(parent, name, flags | OFlags::RDONLY, Mode::empty()),
        result => result,
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // One after the other: the chain of a deep tree would overflow the stack.
        let mut above = self.parent.take();
        while let Some(mut dir) = above.and_then(Arc::into_inner) {
            above = dir.parent.take();
        }
    }
}

impl fmt::Debug for Dir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Dir").field(&self.path()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_folder_is_found_again_and_another_one_in_its_place_is_not_taken() {
        let (root, _) = Dir::root().unwrap();
        let base = std::env::temp_dir().canonicalize().unwrap();
        let top = base.join(format!("pastfs-dir-{}", std::process::id()));
        std::fs::create_dir_all(top.join("a/b")).unwrap();
        let mut dirs = vec![root];
        for part in top.join("a/b").components().skip(1) {
            let name = part.as_os_str().as_bytes();
            let (dir, _) = Dir::open(&dirs[dirs.len() - 1], name, For::Passing).unwrap();
            dirs.push(dir);
        }
        let (a, b) = (dirs[dirs.len() - 2].clone(), dirs[dirs.len() - 1].clone());
        dirs.iter().for_each(|d| d.close());
        assert_eq!(b.path(), top.join("a/b"));
        assert_eq!(fstat(&*b.fd().unwrap()).unwrap().st_ino, b.inode);
        *b.fd.lock() = Some(b.fd().unwrap());
        a.open_from(&b);
        assert!(a.fd.lock().is_some());
        dirs.iter().for_each(|d| d.close());
        std::fs::rename(top.join("a"), top.join("old")).unwrap();
        std::fs::create_dir_all(top.join("a/b")).unwrap();
        assert_eq!(b.fd().unwrap_err().kind(), ErrorKind::ResourceBusy);
        std::fs::remove_dir_all(top).unwrap();
    }

    #[test]
    fn a_long_chain_is_dropped_without_a_deep_stack() {
        let (mut dir, _) = Dir::root().unwrap();
        for _ in 0..200_000 {
            let fd = Mutex::new(None);
            dir = Arc::new(Dir { parent: Some(dir), name: b"x".to_vec(), device: 0, inode: 0, fd });
        }
        std::thread::Builder::new().stack_size(64 << 10).spawn(|| drop(dir)).unwrap().join().unwrap();
    }
}
