//! Owner, mode, xattrs and times of what was restored, always through a descriptor: a name could have come to
//! mean something else meanwhile.

use super::content::whole;
use super::shared::Shared;
use crate::format::tree::{Entry, Node};
use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Longest list of xattr names (`XATTR_LIST_MAX`, limits.h).
const NAMES_MAX: usize = 64 << 10;
/// What nearly all lists fit in: most are empty.
const NAMES_FEW: usize = 512;
/// Longest value of an xattr that Linux takes (`XATTR_SIZE_MAX`, limits.h).
const VALUE_MAX: u64 = 64 << 10;
/// POSIX ACLs (acl(5)) as Linux shows them.
pub(super) const ACL: &[u8] = b"system.posix_acl_access";
pub(super) const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";
const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;

const NOT_OWNER: &str = "only root can give files to other users and groups: owners are not restored";
const NOT_PRIVILEGED: &str =
    "only root can set extended attributes in trusted and security: they are not restored";
const NO_XATTRS: &str =
    "the target's file system does not keep all extended attributes: some are not restored";

/// A restored thing.
#[derive(Clone, Copy)]
pub(super) enum Handle<'a> {
    /// Opened for reading or writing.
    Open(BorrowedFd<'a>),
    /// Opened with `O_PATH`, as all that must not be opened: symlinks, devices, pipes, sockets.
    Path(BorrowedFd<'a>),
}

/// The magic link to an open file: following it leads to that file and no further, whatever its
/// name means by now (proc(5)).
pub(super) fn magic(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

impl Handle<'_> {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Handle::Open(fd) | Handle::Path(fd) => *fd,
        }
    }
    /// The names of its xattrs; none where the file system has none.
    pub(super) fn xattrs(self) -> Result<Vec<Vec<u8>>, Errno> {
        let mut names = vec![0; NAMES_FEW];
        let list = |names: &mut [u8]| match self {
            Handle::Open(fd) => rustix::fs::flistxattr(fd, names),
            Handle::Path(fd) => rustix::fs::listxattr(magic(fd), names),
        };
        let mut listed = list(&mut names);
        if listed == Err(Errno::RANGE) {
            names.resize(NAMES_MAX, 0);
            listed = list(&mut names);
        }
        match listed {
            Ok(n) => {
                Ok(names[..n].split(|b| *b == 0).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect())
            }
            Err(Errno::NOTSUP) => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }
    fn xattr(self, name: &[u8], value: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Handle::Open(fd) => rustix::fs::fgetxattr(fd, name, value),
            Handle::Path(fd) => rustix::fs::getxattr(magic(fd), name, value),
        }
    }
    fn chown(self, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        match self {
            Handle::Open(fd) => rustix::fs::fchown(fd, uid, gid),
            Handle::Path(fd) => rustix::fs::chownat(fd, c"", uid, gid, AtFlags::EMPTY_PATH),
        }
    }
    fn chmod(self, mode: u32) -> Result<(), Errno> {
        match self {
            Handle::Open(fd) => rustix::fs::fchmod(fd, Mode::from_raw_mode(mode)),
            Handle::Path(fd) => rustix::fs::chmod(magic(fd), Mode::from_raw_mode(mode)),
        }
    }
    fn set_xattr(self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        match self {
            Handle::Open(fd) => rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()),
            Handle::Path(fd) => rustix::fs::setxattr(magic(fd), name, value, XattrFlags::empty()),
        }
    }
    fn remove_xattr(self, name: &[u8]) -> Result<(), Errno> {
        let result = match self {
            Handle::Open(fd) => rustix::fs::fremovexattr(fd, name),
            Handle::Path(fd) => rustix::fs::removexattr(magic(fd), name),
        };
        match result {
            Err(Errno::NODATA | Errno::NOTSUP) => Ok(()),
            other => other,
        }
    }
    fn set_times(self, times: &Timestamps) -> Result<(), Errno> {
        match self {
            Handle::Open(fd) => rustix::fs::futimens(fd, times),
            Handle::Path(fd) => match rustix::fs::utimensat(fd, c"", times, AtFlags::EMPTY_PATH) {
                // Before Linux 5.8.
                Err(Errno::INVAL) => {
                    rustix::fs::utimensat(rustix::fs::CWD, magic(fd), times, AtFlags::empty())
                }
                other => other,
            },
        }
    }
}

/// What the process is to the kernel.
#[derive(Clone, Copy)]
pub(super) struct Myself {
    pub uid: u32,
    pub root: bool,
}

impl Myself {
    pub fn new() -> Self {
        let uid = rustix::process::geteuid();
        Self { uid: uid.as_raw(), root: uid.is_root() }
    }
}

/// What is known of a thing that gets attributes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Was {
    /// This run has made it, and nothing has been set since.
    Made,
    /// It may have attributes that it is not to have.
    There,
}

/// Removes the ACLs that a new thing has got from the folder that it was made in.
pub(super) fn strip_acls(handle: Handle<'_>, folder: bool) -> Result<(), Errno> {
    handle.remove_xattr(ACL)?;
    if folder { handle.remove_xattr(DEFAULT_ACL) } else { Ok(()) }
}

/// Gives a thing the attributes of `entry`: what it has already is not set again, as each change is one of the file
/// system's journal. What fails is told to the listener; the rest is set all the same.
pub(super) fn apply(shared: &Shared<'_>, handle: Handle<'_>, entry: &Entry, was: Was, path: &[u8]) {
    let mut problems: Vec<String> = Vec::new();
    let stat = &entry.stat;
    let root = shared.me.root;
    let has = rustix::fs::fstat(handle.fd()).ok();

    // Owner first: it clears set-user-ID bits and capabilities.
    let mut mode = stat.mode;
    let owned = has.as_ref().is_some_and(|h| (h.st_uid, h.st_gid) == (stat.uid, stat.gid));
    if !owned && let Err(both) = handle.chown(Some(stat.uid), Some(stat.gid)) {
        // A user may at least give a file to a group of their own.
        let group = handle.chown(None, Some(stat.gid));
        // Rights of another owner would become rights of ours.
        let mine = shared.me.uid == stat.uid;
        mode &= !(if mine { 0 } else { SETUID } | if group.is_err() { SETGID } else { 0 });
        match both {
            Errno::PERM if !root => shared.say_once(NOT_OWNER),
            e => problems.push(format!("setting the owner: {e}")),
        }
    }

    // ACLs after the mode, which would change their mask; all others before it, as a user needs the
    // right to write for them.
    let is_acl = |name: &[u8]| name == ACL || name == DEFAULT_ACL;
    let mut lacking = false;
    let mut set = |acls: bool, problems: &mut Vec<String>| {
        for x in entry.xattrs.iter().filter(|x| is_acl(&x.name) == acls) {
            let name = String::from_utf8_lossy(&x.name);
            let value = match whole(shared.supply, &x.value, VALUE_MAX) {
                Ok(Some(value)) => value,
                Ok(None) => {
                    problems.push(format!("setting {name}: it is longer than Linux allows"));
                    continue;
                }
                Err(e) => {
                    problems.push(format!("setting {name}: {}", e.chain()));
                    continue;
                }
            };
            match handle.set_xattr(&x.name, &value) {
                Ok(()) => {}
                Err(Errno::PERM | Errno::ACCESS)
                    if !root && (x.name.starts_with(b"trusted.") || x.name.starts_with(b"security.")) =>
                {
                    shared.say_once(NOT_PRIVILEGED);
                }
                Err(Errno::NOTSUP) => lacking = true,
                Err(e) => problems.push(format!("setting {name}: {e}")),
            }
        }
    };
    set(false, &mut problems);
    if !matches!(entry.node, Node::Symlink(_)) {
        if was == Was::There {
            for name in handle.xattrs().unwrap_or_default().iter().filter(|n| is_extra(n, entry)) {
                if let Err(e) = handle.remove_xattr(name) {
                    problems.push(format!("removing {}: {e}", String::from_utf8_lossy(name)));
                }
            }
        }
        let set_already = owned
            && was == Was::Made
            && has.as_ref().is_some_and(|h| h.st_mode & 0o7777 == mode)
            && entry.xattrs.is_empty();
        if !set_already && let Err(e) = handle.chmod(mode) {
            problems.push(format!("setting the mode: {e}"));
        }
        set(true, &mut problems);
    }

    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ },
        last_modification: Timespec { tv_sec: stat.mtime.seconds, tv_nsec: stat.mtime.nanos.into() },
    };
    if let Err(e) = handle.set_times(&times) {
        problems.push(format!("setting the time: {e}"));
    }
    if !problems.is_empty() {
        shared.incomplete(path, &problems.join("; "));
    } else if lacking {
        // The same for every file: said once, not as often as there are files.
        shared.say_once(NO_XATTRS);
        shared.count(|r| r.incomplete += 1);
    }
}

/// An xattr that the entry has not and that must not stay: an ACL grants something, a capability as well. SELinux labels come
/// by themselves.
fn is_extra(name: &[u8], entry: &Entry) -> bool {
    let ours =
        name.starts_with(b"user.") || name == ACL || name == DEFAULT_ACL || name == b"security.capability";
    ours && entry.xattrs.iter().all(|x| x.name != name)
}

/// Whether a thing has all xattrs of the entry, and none that must not stay.
pub(super) fn same_xattrs(shared: &Shared<'_>, handle: Handle<'_>, entry: &Entry) -> bool {
    let Ok(found) = handle.xattrs() else { return false };
    if found.iter().any(|name| is_extra(name, entry)) {
        return false;
    }
    entry.xattrs.iter().all(|x| {
        let Ok(Some(want)) = whole(shared.supply, &x.value, VALUE_MAX) else { return false };
        // One that is longer does not fit, and is another.
        let mut value = vec![0; want.len() + 1];
        handle.xattr(&x.name, &mut value).is_ok_and(|n| value[..n] == want[..])
    })
}
