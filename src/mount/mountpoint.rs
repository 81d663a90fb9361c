//! The folder under the mount: whether it will do, what is mounted there, and how to get it off again.

use crate::clock;
use crate::fault::{Doing, Error, Fault, Result};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The subtype where the kernel is told of one.
pub(super) const NAME: &str = "pastfs";
const FUSERMOUNT: &str = "fusermount3";

/// What lies under a mount.
pub(super) struct Backing {
    /// What `findmnt` shows as the source: `mount -a` compares it with fstab to see what is mounted already.
    pub source: String,
    /// Folders that the mount must not cover.
    pub folders: Vec<PathBuf>,
}

/// One line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    /// `major:minor` of the file system.
    pub device: String,
    /// Where.
    pub point: PathBuf,
    /// Type, with the subtype.
    pub kind: String,
    /// Source.
    pub source: String,
}

impl Mounted {
    fn ours(&self) -> bool {
        // Where the kernel knows no subtypes, fusermount3 writes them in front of the source.
        let old = self.source == NAME || self.source.strip_prefix(NAME).is_some_and(|s| s.starts_with('#'));
        self.kind == format!("fuse.{NAME}") || (self.kind == "fuse" && old)
    }
}

fn parse(text: &[u8]) -> Vec<Mounted> {
    let line = |line: &[u8]| -> Option<Mounted> {
        let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
        let dash = fields.iter().skip(6).position(|f| *f == b"-")? + 6;
        let text = |f: &[u8]| String::from_utf8_lossy(f).into_owned();
        Some(Mounted {
            device: text(fields.get(2)?),
            point: PathBuf::from(OsString::from_vec(unescape(fields.get(4)?))),
            kind: text(fields.get(dash + 1)?),
            source: text(&unescape(fields.get(dash + 2)?)),
        })
    };
    text.split(|b| *b == b'\n').filter_map(line).collect()
}

/// Space, tab, newline and backslash come as `\040` and so on.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|d| *first == b'\\' && d.iter().all(|c| matches!(c, b'0'..=b'7')));
        match octal {
            Some(d) => {
                out.push(d.iter().fold(0u8, |n, c| n.wrapping_mul(8).wrapping_add(c - b'0')));
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

/// What is mounted at a path, the topmost. No request goes to the file system itself.
pub(super) fn mounted_at(path: &Path) -> Result<Option<Mounted>> {
    let text = std::fs::read("/proc/self/mountinfo").doing(|| "reading /proc/self/mountinfo")?;
    Ok(parse(&text).into_iter().rev().find(|m| m.point == path))
}

/// The mountpoints of all mounts of ours that this process can see, oldest first, dead ones as well.
///
/// # Errors
/// When /proc cannot be read.
pub fn mountpoints() -> Result<Vec<PathBuf>> {
    let text = std::fs::read("/proc/self/mountinfo").doing(|| "reading /proc/self/mountinfo")?;
    Ok(parse(&text).into_iter().filter(Mounted::ours).map(|m| m.point).collect())
}

/// The absolute path, also of a mountpoint whose daemon died.
fn absolute(path: &Path) -> Result<PathBuf> {
    let doing = || format!("finding {}", path.display());
    match path.canonicalize() {
        Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) => {
            let full = std::path::absolute(path).doing(doing)?;
            match (full.parent(), full.file_name()) {
                (Some(parent), Some(name)) => Ok(parent.canonicalize().doing(doing)?.join(name)),
                _ => Err(Error::io(doing(), e)),
            }
        }
        other => other.doing(doing),
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Makes sure that a folder can be mounted on, and gives its absolute path. What a dead mount of ours left
/// is detached first.
///
/// # Errors
/// `Missing`, `Misuse` (no folder, not empty, in the way of the repository), `Busy` (mounted already).
pub(super) fn prepare(point: &Path, clear_of: &[PathBuf]) -> Result<PathBuf> {
    let shown = point.display();
    let path = match absolute(point) {
        Err(e) if e.fault() == Fault::Missing => {
            return Err(Error::new(Fault::Missing, format!("the mountpoint {shown} does not exist"))
                .hint(format!("create it: mkdir {shown}")));
        }
        other => other?,
    };
    if let Some(there) = mounted_at(&path)?
        && there.kind.starts_with("fuse")
    {
        let dead = std::fs::metadata(&path).is_err_and(|e| e.raw_os_error() == Some(libc::ENOTCONN));
        match (dead, there.ours()) {
            (true, true) => detach(&path).doing(|| format!("detaching the dead mount at {shown}"))?,
            (true, false) => {
                return Err(Error::new(
                    Fault::Busy,
                    format!("{shown} holds a dead mount of another program"),
                )
                .hint(format!("detach it: umount -l {shown}, or fusermount3 -uz {shown}")));
            }
            (false, true) => {
                return Err(Error::new(Fault::Busy, format!("a repository is mounted at {shown} already"))
                    .hint(format!("unmount it first: pastfs umount {shown}")));
            }
            (false, false) => {}
        }
    }
    let metadata = std::fs::metadata(&path).doing(|| format!("looking at {shown}"))?;
    if !metadata.is_dir() {
        return Err(Error::misuse(format!("the mountpoint {shown} is not a folder")));
    }
    clear(&path, metadata.dev(), metadata.ino(), clear_of)?;
    let mut entries = std::fs::read_dir(&path).doing(|| format!("listing {shown}"))?;
    if entries.next().is_some() {
        return Err(Error::misuse(format!("the mountpoint {shown} is not empty"))
            .hint("mount on an empty folder: what is in this one would be hidden"));
    }
    Ok(path)
}

/// A mount over the repository, or in it, would wait for itself: the kernel asks us, we ask the folder.
fn clear(path: &Path, dev: u64, ino: u64, clear_of: &[PathBuf]) -> Result<()> {
    for other in clear_of {
        let Ok(real) = other.canonicalize() else { continue };
        let same = |p: &Path| std::fs::metadata(p).is_ok_and(|m| (m.dev(), m.ino()) == (dev, ino));
        // Also through bind mounts and other names: by what the folders are, not how they are called.
        let covers = real.ancestors().any(same);
        if covers || path.starts_with(&real) {
            return Err(Error::misuse(format!(
                "the mountpoint {} contains {}, or lies inside it",
                path.display(),
                real.display()
            ))
            .hint("mount somewhere else: the mount would wait for itself"));
        }
    }
    Ok(())
}

/// What an ordinary user needs to mount: the device, the helper, and permission for others.
pub(super) fn check_means(allow_other: bool) -> Result<()> {
    if let Err(e) =
        rustix::fs::access("/dev/fuse", rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK)
    {
        let hint = match e {
            rustix::io::Errno::NOENT => {
                "load the kernel's module (modprobe fuse); in a container, pass /dev/fuse in"
            }
            _ => "ask an administrator for access to /dev/fuse (mode 0666 is usual)",
        };
        return Err(Error::io("opening /dev/fuse", e.into()).hint(hint));
    }
    if is_root() {
        return Ok(());
    }
    if find_fusermount().is_none() {
        return Err(Error::new(Fault::Missing, format!("{FUSERMOUNT} is not installed"))
            .hint("install the package fuse3, or mount as root"));
    }
    let permitted = |text: String| text.lines().any(|l| l.trim() == "user_allow_other");
    if allow_other && !std::fs::read_to_string("/etc/fuse.conf").is_ok_and(permitted) {
        return Err(Error::new(Fault::Denied, "the system does not permit users to show a mount to others")
            .hint("put a line user_allow_other into /etc/fuse.conf, or mount as root"));
    }
    Ok(())
}

fn find_fusermount() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("FUSERMOUNT_PATH") {
        return Some(path.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/bin", "/bin", "/sbin"].map(PathBuf::from));
    folders.map(|f| f.join(FUSERMOUNT)).find(|p| p.is_file())
}

fn fusermount(options: &str, path: &Path) -> io::Result<()> {
    let Some(program) = find_fusermount() else {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("{FUSERMOUNT} is not installed")));
    };
    let output = Command::new(program).arg(options).arg("--").arg(path).output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_string();
    let kind = if text.contains("busy") { io::ErrorKind::ResourceBusy } else { io::ErrorKind::Other };
    Err(io::Error::new(kind, text))
}

/// Mounts by mount(2), with our own type `fuse.pastfs`, by which backups leave it out; gives the device to
/// talk through.
///
/// # Errors
/// `PERM` for who may not: fusermount3 is the way then.
pub(super) fn mount_as_root(
    path: &Path,
    source: &str,
    allow_other: bool,
    noexec: bool,
) -> rustix::io::Result<OwnedFd> {
    if !is_root() {
        return Err(rustix::io::Errno::PERM);
    }
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let mut data = format!("fd={},rootmode=40000,user_id={uid},group_id={gid}", device.as_raw_fd());
    if allow_other {
        data.push_str(",default_permissions,allow_other");
    }
    let data = CString::new(data).map_err(|_| rustix::io::Errno::INVAL)?;
    // As in `config` of the session, where each is argued.
    let mut flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    flags.set(MountFlags::NOEXEC, noexec);
    rustix::mount::mount(source, path, format!("fuse.{NAME}"), flags, data.as_c_str())?;
    Ok(device)
}

/// Takes a mount out of the tree of names at once; what is open in it goes on until it is closed.
pub(super) fn detach(path: &Path) -> io::Result<()> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Err(rustix::io::Errno::PERM) => fusermount("-uz", path),
        other => Ok(other?),
    }
}

/// The same for a mount that may be gone already, or have another one over it: that one stays.
pub(super) fn detach_if_there(mount: &Mounted) -> io::Result<()> {
    match mounted_at(&mount.point) {
        Ok(there) if there.as_ref().is_some_and(|m| m.device == mount.device) => detach(&mount.point),
        _ => Ok(()),
    }
}

/// How long a mount may be busy before that is told: what used it a moment ago may still be closing its files, the kernel's own
/// work too.
const BUSY_PATIENCE: Duration = Duration::from_secs(2);
/// Between two attempts.
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// Unmounts a repository.
///
/// # Errors
/// `Misuse` where no repository is mounted; `Busy` while something in it is open.
pub fn umount(dir: &Path) -> Result<()> {
    let shown = dir.display();
    let path = absolute(dir)?;
    let there = mounted_at(&path)?.filter(Mounted::ours);
    if there.is_none() {
        return Err(Error::misuse(format!("no repository is mounted at {shown}"))
            .hint("findmnt -t fuse,fuse.pastfs lists what is"));
    }
    let once = || match rustix::mount::unmount(&path, UnmountFlags::NOFOLLOW) {
        Err(rustix::io::Errno::PERM) => fusermount("-u", &path),
        other => other.map_err(io::Error::from),
    };
    let since = Instant::now();
    let mut result = once();
    while matches!(&result, Err(e) if e.kind() == io::ErrorKind::ResourceBusy)
        && since.elapsed() < BUSY_PATIENCE
    {
        clock::sleep(BUSY_PAUSE);
        result = once();
    }
    match result {
        Ok(()) => Ok(()),
        // Only now is it asked whether it is dead: a daemon that hangs would hang us.
        Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
            if std::fs::metadata(&path).is_err_and(|e| e.raw_os_error() == Some(libc::ENOTCONN)) {
                return detach(&path).doing(|| format!("detaching the dead mount at {shown}"));
            }
            Err(Error::io(format!("unmounting {shown}"), e).hint(format!(
                "something in it is in use: `fuser -vm {shown}` shows what; close that, or let it finish: `umount -l {shown}` \
                 (as a user `fusermount3 -uz {shown}`)"
            )))
        }
        Err(e) => Err(Error::io(format!("unmounting {shown}"), e)),
    }
}

/// Lets the kernel read `kib` ahead on this mount; root alone may.
pub(super) fn set_read_ahead(mount: &Mounted, kib: u32) -> io::Result<()> {
    std::fs::write(format!("/sys/class/bdi/{}/read_ahead_kb", mount.device), kib.to_string())
}

/// Ends the connection of a mount at once: all that waits for it gets an error.
pub(super) fn abort(mount: &Mounted) -> io::Result<()> {
    let minor = mount.device.split(':').nth(1).unwrap_or_default();
    std::fs::write(
        Path::new("/sys/fs/fuse/connections").join(OsStr::from_bytes(minor.as_bytes())).join("abort"),
        "1",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_read_with_its_escapes_and_optional_fields() {
        let text =
            b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue\n\
            40 35 0:44 / /a\\040b\\134c ro - fuse pastfs ro,user_id=0\nbroken\n\
            41 35 0:45 / /u ro,nosuid - fuse.pastfs /backup ro\n\
            42 35 0:46 / /v ro,nosuid - fuse pastfs#/backup ro\n\
            43 35 0:47 / /w ro,nosuid - fuse pastfsx ro\n";
        let all = parse(text);
        assert_eq!(all.len(), 5);
        assert_eq!(all[1].point, Path::new("/a b\\c"));
        assert_eq!((all[1].device.as_str(), all[1].ours()), ("0:44", true));
        assert!(!all[0].ours());
        assert!(all[2].ours() && all[3].ours() && !all[4].ours());
    }

    #[test]
    fn what_cannot_be_mounted_on_is_refused_with_the_reason() {
        let base = std::env::temp_dir().join(format!("pastfs-mountpoint-{}", std::process::id()));
        let repository = base.join("repository");
        std::fs::create_dir_all(repository.join("packs")).unwrap();
        std::fs::create_dir_all(base.join("empty")).unwrap();
        std::fs::write(base.join("file"), "x").unwrap();
        let check = |p: &str| prepare(&base.join(p), std::slice::from_ref(&repository));
        assert_eq!(check("nowhere").unwrap_err().fault(), Fault::Missing);
        assert_eq!(check("file").unwrap_err().fault(), Fault::Misuse);
        assert!(check("repository").unwrap_err().chain().contains("contains"));
        assert!(check("repository/packs").unwrap_err().chain().contains("contains"));
        assert!(check("").unwrap_err().chain().contains("contains"));
        assert!(check("empty").is_ok());
        assert_eq!(umount(&base.join("empty")).unwrap_err().fault(), Fault::Misuse);
        std::fs::remove_dir_all(base).unwrap();
    }
}
