//! Attributes of what is met: stat, owners' names, extended attributes, targets of symlinks.

use super::dir::unseen;
use super::{Item, Kind};
use crate::clock::Time;
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::tree::{OWNER_MAX, Stat, XATTR_NAME_MAX};
use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, FileType, OFlags, fgetxattr, flistxattr, fstat, lgetxattr, llistxattr, readlinkat, statat,
};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// What is offered first for a list or value of extended attributes: nearly all fit.
const XATTR_FIRST: usize = 1 << 10;
/// Largest value of an extended attribute and largest list of their names (xattr(7), Linux).
const XATTR_MOST: usize = 64 << 10;
/// Nothing is followed, and no automount is set off by looking.
pub(super) const LOOK: AtFlags = AtFlags::SYMLINK_NOFOLLOW.union(AtFlags::NO_AUTOMOUNT);

/// A name as the system takes it: `/` itself has none.
pub(super) fn at(name: &[u8]) -> &[u8] {
    if name.is_empty() { b"." } else { name }
}

/// Names of owners and groups, asked once for each number.
#[derive(Default)]
pub(super) struct Owners {
    users: HashMap<u32, Vec<u8>>,
    groups: HashMap<u32, Vec<u8>>,
}

impl Owners {
    fn user(&mut self, uid: u32) -> Vec<u8> {
        self.users.entry(uid).or_insert_with(|| user_name(uid)).clone()
    }
    fn group(&mut self, gid: u32) -> Vec<u8> {
        self.groups.entry(gid).or_insert_with(|| group_name(gid)).clone()
    }
    /// The format's view of a stat, but for the link group.
    pub(super) fn stat(&mut self, raw: &rustix::fs::Stat) -> Stat {
        plain_stat(raw, self.user(raw.st_uid), self.group(raw.st_gid))
    }
}

fn user_name(uid: u32) -> Vec<u8> {
    uzers::get_user_by_uid(uid).map_or_else(Vec::new, |u| owner(u.name()))
}
fn group_name(gid: u32) -> Vec<u8> {
    uzers::get_group_by_gid(gid).map_or_else(Vec::new, |g| owner(g.name()))
}
/// A name that the format has no room for is no name.
fn owner(name: &std::ffi::OsStr) -> Vec<u8> {
    if name.len() <= OWNER_MAX { name.as_bytes().to_vec() } else { Vec::new() }
}

#[expect(clippy::unnecessary_cast, reason = "the fields have other types on other architectures")]
fn plain_stat(raw: &rustix::fs::Stat, user: Vec<u8>, group: Vec<u8>) -> Stat {
    let time = |seconds: i64, nanos: u64| {
        // A file system that gives more nanoseconds than a second has is not worth an error.
        Time::new(seconds, u32::try_from(nanos).unwrap_or(0)).unwrap_or(Time { seconds, nanos: 0 })
    };
    let folder = FileType::from_raw_mode(raw.st_mode as u32) == FileType::Directory;
    Stat {
        mode: raw.st_mode as u32 & 0o7777,
        uid: raw.st_uid,
        gid: raw.st_gid,
        user,
        group,
        mtime: time(raw.st_mtime as i64, raw.st_mtime_nsec as u64),
        ctime: time(raw.st_ctime as i64, raw.st_ctime_nsec as u64),
        size: u64::try_from(raw.st_size).unwrap_or(0),
        // Folders count their subfolders there, some file systems always say 1, some new ones 0.
        nlink: if folder { 1 } else { (raw.st_nlink as u64).max(1) },
        link: None,
        fresh: false,
    }
}

/// What a stat describes; `None` for types that Linux does not have.
#[expect(clippy::unnecessary_cast, reason = "the fields have other types on other architectures")]
pub(super) fn kind_of(raw: &rustix::fs::Stat) -> Option<Kind> {
    Some(match FileType::from_raw_mode(raw.st_mode as u32) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Folder,
        FileType::Symlink => Kind::Symlink,
        FileType::CharacterDevice => Kind::Char(raw.st_rdev as u64),
        FileType::BlockDevice => Kind::Block(raw.st_rdev as u64),
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::Unknown => return None,
    })
}

impl Item {
    /// Its absolute path.
    pub fn path(&self) -> PathBuf {
        let mut path = self.parent.path();
        if !self.name.is_empty() {
            path.push(std::ffi::OsStr::from_bytes(&self.name));
        }
        path
    }

    /// Opens a regular file for reading, without changing its access time where we may; `Missing` when it is gone.
    /// Another file may have taken its place since it was met: [`Item::restat_open`] tells.
    pub fn open(&self) -> Result<File> {
        let doing = || format!("opening {}", self.path().display());
        if self.kind != Kind::File {
            return Err(Error::misuse(doing()).while_("only regular files are opened"));
        }
        let parent = self.parent.fd().doing(doing)?;
        // NONBLOCK: a fifo in its place must not make us wait; regular files know no difference.
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        match unseen(&*parent, at(&self.name), flags) {
            Err(Errno::LOOP) => Err(self.replaced()),
            result => Ok(File::from(result.doing(doing)?)),
        }
    }

    /// Its attributes now, by its name. `Busy` when another file has taken its place, `Missing` when it
    /// is gone.
    pub fn restat(&self) -> Result<Stat> {
        let doing = || format!("looking at {}", self.path().display());
        let raw = statat(&*self.parent.fd().doing(doing)?, at(&self.name), LOOK).doing(doing)?;
        self.same(&raw)?;
        Ok(self.stat_now(&raw))
    }

    /// Its attributes now, by the file that [`Item::open`] gave: tells whether it changed while it was
    /// read, even if its name is gone meanwhile. `Busy` when it is another file than was met.
    pub fn restat_open(&self, file: &File) -> Result<Stat> {
        let raw = fstat(file).doing(|| format!("looking at {}", self.path().display()))?;
        self.same(&raw)?;
        Ok(self.stat_now(&raw))
    }

    /// All extended attributes, sorted by name, of items of any kind. None where the file system has
    /// no such thing. Needs `/proc`.
    pub fn xattrs(&self) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let doing = || format!("reading the extended attributes of {}", self.path().display());
        let parent = self.parent.fd().doing(doing)?;
        // There are no calls relative to a folder before Linux 6.13, and the path may be too long.
        let mut path = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
        path.extend_from_slice(at(&self.name));

        let value =
            |name: &[u8], buffer: &mut Vec<u8>| lgetxattr(path.as_slice(), name, spare_capacity(buffer));
        xattrs(|buffer| llistxattr(path.as_slice(), spare_capacity(buffer)), value).doing(doing)
    }

    /// The same by the file that [`Item::open`] gave: one call less for each folder on the way to it.
    pub fn xattrs_of(&self, file: &File) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let value = |name: &[u8], buffer: &mut Vec<u8>| fgetxattr(file, name, spare_capacity(buffer));
        xattrs(|buffer| flistxattr(file, spare_capacity(buffer)), value)
            .doing(|| format!("reading the extended attributes of {}", self.path().display()))
    }

    /// Where a symlink points to.
    pub fn target(&self) -> Result<Vec<u8>> {
        let doing = || format!("reading the symlink {}", self.path().display());
        let parent = self.parent.fd().doing(doing)?;
        match readlinkat(&*parent, at(&self.name), Vec::new()) {
            Err(Errno::INVAL) => Err(self.replaced()),
            target => Ok(target.doing(doing)?.into_bytes()),
        }
    }

    fn stat_now(&self, raw: &rustix::fs::Stat) -> Stat {
        let known = &self.stat;
        let user = if raw.st_uid == known.uid { known.user.clone() } else { user_name(raw.st_uid) };
        let group = if raw.st_gid == known.gid { known.group.clone() } else { group_name(raw.st_gid) };
        let mut stat = plain_stat(raw, user, group);
        stat.link = known.link.filter(|_| stat.nlink > 1);
        stat
    }
    fn same(&self, raw: &rustix::fs::Stat) -> Result<()> {
        let same = (raw.st_dev, raw.st_ino) == (self.device, self.inode) && kind_of(raw) == Some(self.kind);
        if same { Ok(()) } else { Err(self.replaced()) }
    }
    fn replaced(&self) -> Error {
        Error::new(Fault::Busy, format!("{} was replaced by another file meanwhile", self.path().display()))
    }
}

/// All attributes, sorted by name.
fn xattrs(
    list: impl FnMut(&mut Vec<u8>) -> rustix::io::Result<usize>,
    mut value: impl FnMut(&[u8], &mut Vec<u8>) -> rustix::io::Result<usize>,
) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let list = match sized(list) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Vec::new()),
        list => list.doing(|| "listing them")?,
    };
    let mut found = Vec::new();
    for name in list.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        if name.len() > XATTR_NAME_MAX {
            return Err(Error::misuse("a name is longer than the format has room for"));
        }
        match sized(|buffer| value(name, buffer)) {
            Ok(value) => found.push((name.to_vec(), value)),
            // It was removed since it was listed, or is listed and cannot be had.
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e).doing(|| format!("the value of {}", String::from_utf8_lossy(name))),
        }
    }
    found.sort();
    found.dedup_by(|a, b| a.0 == b.0);
    Ok(found)
}

/// Calls with a small buffer, and with the largest that can be needed if that does not do.
fn sized(mut call: impl FnMut(&mut Vec<u8>) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = Vec::with_capacity(XATTR_FIRST);
    match call(&mut buffer) {
        Err(Errno::RANGE) => {}
        result => return result.map(|_| buffer),
    }
    let mut buffer = Vec::with_capacity(XATTR_MOST);
    call(&mut buffer).map(|_| buffer)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Tree, root};
    use super::*;
    use rustix::fs::{CWD, Mode, XattrFlags, mkfifoat, mknodat, setxattr};
    use std::ffi::OsStr;
    use std::io::Read;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn every_kind_of_thing_is_known_with_its_attributes() {
        let tree = Tree::new().with(&["file", "folder/"]);
        symlink("no/where\u{e9}", tree.path("link")).unwrap();
        mkfifoat(CWD, tree.path("fifo"), Mode::RUSR).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(tree.path("socket")).unwrap();
        let kinds = [
            ("file", Kind::File),
            ("folder", Kind::Folder),
            ("link", Kind::Symlink),
            ("fifo", Kind::Fifo),
            ("socket", Kind::Socket),
        ];
        for (name, kind) in kinds {
            let item = tree.item(name.as_bytes());
            let meta = std::fs::symlink_metadata(tree.path(name)).unwrap();
            assert_eq!(item.kind, kind);
            assert_eq!((item.device, item.inode, item.blocks), (meta.dev(), meta.ino(), meta.blocks()));
            let s = &item.stat;
            assert_eq!((s.mode, s.uid, s.gid), (meta.mode() & 0o7777, meta.uid(), meta.gid()));
            assert_eq!((s.mtime.seconds, i64::from(s.mtime.nanos)), (meta.mtime(), meta.mtime_nsec()));
            assert_eq!((s.ctime.seconds, i64::from(s.ctime.nanos)), (meta.ctime(), meta.ctime_nsec()));
            assert_eq!((s.size, s.nlink, s.link, s.fresh), (meta.size(), 1, None, false));
            assert_eq!(item.restat().unwrap(), item.stat);
            assert!(item.xattrs().is_ok(), "{name}");
            assert_eq!(item.path(), tree.path(name));
            assert_eq!(item.open().is_ok(), kind == Kind::File);
        }
        assert_eq!(tree.item(b"link").target().unwrap(), "no/where\u{e9}".as_bytes());
        if root() {
            assert_eq!(tree.item(b"file").stat.user, b"root");
            let number = rustix::fs::makedev(1, 3);
            let made = mknodat(CWD, tree.path("null"), FileType::CharacterDevice, Mode::RUSR, number);
            if made.is_ok() {
                assert_eq!(tree.item(b"null").kind, Kind::Char(number));
            }
        }
    }

    #[test]
    fn names_are_raw_bytes_of_any_length() {
        let tree = Tree::new();
        for name in [&b"\xff\xfe not utf-8"[..], &[b'x'; 255], b"new\nline", b"-rf", b" "] {
            std::fs::write(tree.0.join(OsStr::from_bytes(name)), name).unwrap();
            let item = tree.item(name);
            let mut content = Vec::new();
            item.open().unwrap().read_to_end(&mut content).unwrap();
            assert_eq!(content, name);
            assert!(item.xattrs().is_ok());
        }
    }

    #[test]
    fn times_before_1970_are_told() {
        let tree = Tree::new().with(&["old"]);
        let time = Time { seconds: -12, nanos: 250_000_000 };
        let file = File::options().write(true).open(tree.path("old")).unwrap();
        file.set_modified(time.into()).unwrap();
        assert_eq!(tree.item(b"old").stat.mtime, time);
    }

    #[test]
    fn extended_attributes_are_sorted_whole_and_of_any_kind() {
        let tree = Tree::new().with(&["file", "folder/"]);
        let long = vec![7; 3000];
        for name in ["file", "folder"] {
            for (attribute, value) in [("user.z", &b"1"[..]), ("user.a", &long), ("user.m", b"")] {
                match setxattr(tree.path(name), attribute, value, XattrFlags::empty()) {
                    Err(Errno::OPNOTSUPP) => return,
                    result => result.unwrap(),
                }
            }
            let mut found = tree.item(name.as_bytes()).xattrs().unwrap();
            found.retain(|(n, _)| n.starts_with(b"user."));
            let expected = [(&b"user.a"[..], &long[..]), (b"user.m", b""), (b"user.z", b"1")]
                .map(|(n, v)| (n.to_vec(), v.to_vec()));
            assert_eq!(found, expected);
        }
        // More names than the first buffer holds.
        for i in 0..40 {
            let name = format!("user.{i:03}{}", "n".repeat(40));
            if setxattr(tree.path("file"), name, b"", XattrFlags::empty()).is_err() {
                return;
            }
        }
        assert!(tree.item(b"file").xattrs().unwrap().len() >= 43);
        if root() {
            symlink("x", tree.path("link")).unwrap();
            rustix::fs::lsetxattr(tree.path("link"), "trusted.x", b"y", XattrFlags::empty()).unwrap();
            let found = tree.item(b"link").xattrs().unwrap();
            assert!(found.contains(&(b"trusted.x".to_vec(), b"y".to_vec())));
        }
    }

    #[test]
    fn a_file_that_was_replaced_is_not_taken_for_the_one_that_was_met() {
        let tree = Tree::new().with(&["a", "b", "c", "d"]);
        let items = [b"a", b"b", b"c", b"d"].map(|n| tree.item(n));
        let open = items[3].open().unwrap();
        // The old file stays: its inode number is not free for the new one.
        for name in ["a", "b"] {
            std::fs::rename(tree.path(name), tree.path(&format!("old {name}"))).unwrap();
        }
        std::fs::write(tree.path("a"), "a").unwrap();
        symlink("c", tree.path("b")).unwrap();
        std::fs::remove_file(tree.path("c")).unwrap();
        let faults = [Fault::Busy, Fault::Busy, Fault::Missing];
        for (item, fault) in items.iter().zip(faults) {
            let opened = item.open().and_then(|file| item.restat_open(&file));
            assert_eq!(opened.unwrap_err().fault(), fault);
            assert_eq!(item.restat().unwrap_err().fault(), fault);
        }
        assert_eq!(items[0].target().unwrap_err().fault(), Fault::Busy);
        // What is open is known even without its name, and a change is seen.
        std::fs::write(tree.path("d"), "longer than before").unwrap();
        std::fs::remove_file(tree.path("d")).unwrap();
        assert_eq!(items[3].restat_open(&open).unwrap().size, 18);
    }
}
