//! `--delete`: what is not in the snapshot goes, name by name below descriptors of folders, through no symlink and into
//! no other file system.

use super::folder::Folder;
use super::shared::{Shared, join};
use crate::event::Outcome;
use crate::fault::{Doing, Error, Fault, Result};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Names in a folder of the target that the snapshot has not been seen to hold, in order.
#[derive(Default)]
pub(super) struct Extras(VecDeque<Vec<u8>>);

impl Extras {
    /// All that is in a folder now.
    pub fn of(fd: BorrowedFd<'_>) -> Result<Self> {
        Ok(Self(names(fd).doing(|| "listing the folder of the target")?.into()))
    }

    /// The next name before `entry`, the next one that the snapshot holds; all that are left for `None`.
    pub fn before(&mut self, entry: Option<&[u8]>) -> Option<Vec<u8>> {
        loop {
            let next = self.0.pop_front_if(|name| entry.is_none_or(|e| name.as_slice() <= e))?;
            if entry != Some(next.as_slice()) {
                return Some(next);
            }
        }
    }
}

fn names(fd: BorrowedFd<'_>) -> std::result::Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(fd)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// A folder that goes.
struct Level {
    fd: OwnedFd,
    name: Vec<u8>,
    path: Vec<u8>,
    names: std::vec::IntoIter<Vec<u8>>,
    /// It may go itself, not only what is in it.
    selected: bool,
    /// All that was in it is gone.
    emptied: bool,
}

enum Step {
    Gone,
    Stays,
    Enter(Level),
}

/// Removes a thing and all that is in it, but for what is excluded. `selected`: it is in what was asked for, else only what
/// the patterns include goes. Answers whether nothing of it is left; what could not be removed was told.
pub(super) fn remove(
    shared: &Shared<'_>,
    above: BorrowedFd<'_>,
    name: &[u8],
    path: Vec<u8>,
    selected: bool,
) -> bool {
    let mut levels = Vec::new();
    match step(shared, above, name, path, selected) {
        Step::Gone => return true,
        Step::Stays => return false,
        Step::Enter(level) => levels.push(level),
    }
    while let Some(level) = levels.last_mut() {
        if shared.halted() {
            return false;
        }
        if let Some(name) = level.names.next() {
            let path = join(&level.path, &name);
            match step(shared, level.fd.as_fd(), &name, path, level.selected) {
                Step::Gone => {}
                Step::Stays => level.emptied = false,
                Step::Enter(inner) => levels.push(inner),
            }
            continue;
        }
        let Some(done) = levels.pop() else { break };
        let outer = levels.last().map_or(above, |l| l.fd.as_fd());
        let gone = done.emptied && done.selected && unlink(shared, outer, &done.name, &done.path, true);
        match levels.last_mut() {
            None => return gone,
            Some(outer) => outer.emptied &= gone,
        }
    }
    false
}

fn step(shared: &Shared<'_>, above: BorrowedFd<'_>, name: &[u8], path: Vec<u8>, selected: bool) -> Step {
    let is_folder = match rustix::fs::statat(above, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if shared.spared.contains(&(stat.st_dev, stat.st_ino)) => return Step::Stays,
        Ok(stat) => FileType::from_raw_mode(stat.st_mode).is_dir(),
        Err(Errno::NOENT) => return Step::Gone,
        Err(e) => return failed(shared, &path, Err(e).doing(|| "looking at it")),
    };
    if shared.filter.excludes(&path, is_folder) || shared.unread.contains(&path) {
        return Step::Stays;
    }
    let selected = selected || shared.filter.includes(&path, is_folder);
    if !is_folder {
        let gone = selected && unlink(shared, above, name, &path, false);
        return if gone { Step::Gone } else { Step::Stays };
    }
    let listed = open(above, name).and_then(|fd| Ok((names(fd.as_fd()).doing(|| "listing it")?, fd)));
    match listed {
        Ok((names, fd)) => {
            let names = names.into_iter();
            Step::Enter(Level { fd, name: name.to_vec(), path, names, selected, emptied: true })
        }
        Err(e) => failed(shared, &path, Err(e)),
    }
}

fn failed(shared: &Shared<'_>, path: &[u8], error: Result<()>) -> Step {
    if let Err(e) = error {
        shared.failed(path, e.while_("deleting what is not in the snapshot"));
    }
    Step::Stays
}

/// Whether something is mounted on a folder, as the kernel tells since Linux 5.8.
pub(super) fn is_mounted_on(fd: BorrowedFd<'_>) -> bool {
    let told = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::empty());
    told.is_ok_and(|s| s.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Opens a folder that is none of another file system.
fn open(above: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let mounted = || Error::new(Fault::Denied, "another file system is mounted there: it stays");
    match rustix::fs::openat2(above, name, flags, Mode::empty(), resolve) {
        Err(Errno::XDEV) => Err(mounted()),
        // Before Linux 5.6, and where a sandbox does not know the call.
        Err(Errno::NOSYS | Errno::PERM) => {
            let fd = rustix::fs::openat(above, name, flags, Mode::empty()).doing(|| "opening the folder")?;
            let device = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).map(|s| s.st_dev);
            match device(fd.as_fd()) == device(above) {
                true => Ok(fd),
                false => Err(mounted()),
            }
        }
        other => other.doing(|| "opening the folder"),
    }
}

fn unlink(shared: &Shared<'_>, above: BorrowedFd<'_>, name: &[u8], path: &[u8], folder: bool) -> bool {
    let flags = if folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    let done = match shared.dry_run {
        true => Ok(()),
        false => rustix::fs::unlinkat(above, name, flags),
    };
    match done {
        Ok(()) => {
            shared.count(|r| r.deleted += 1);
            shared.finished(path, Outcome::Deleted, false);
            true
        }
        Err(Errno::NOENT) => true,
        Err(e) => {
            failed(shared, path, Err(e).doing(|| "removing it"));
            false
        }
    }
}

/// Removes a folder that stands where something else must be.
///
/// # Errors
/// `Denied` where something in it stays.
pub(super) fn instead(shared: &Shared<'_>, folder: &Folder, fd: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    if remove(shared, fd, name, join(&folder.path, name), true) {
        return Ok(());
    }
    Err(Error::new(Fault::Denied, "a folder stands in its place in the target, and something in it stays"))
}
