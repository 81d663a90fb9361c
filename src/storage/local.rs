//! A repository in a local folder: one file per object.
//!
//! A put writes a temporary file in `tmp/`, syncs it, and moves it into place without ever replacing
//! another (`renameat2(2)` with `RENAME_NOREPLACE`, else `linkat(2)`); then it syncs the folder. What a
//! crash leaves in `tmp/` is swept a day later. Paths are followed from an open descriptor of the
//! repository's folder and never through symbolic links, so that the store means the same place when
//! something else is mounted over its path, and a hostile storage cannot point out of it.

use super::direct;
use super::folder::{self, Temporary, adopt, open_folder, sync_folder};
use super::opened::Opened;
use super::{Listed, Store, TEMPORARY, check_name, check_prefix};
use crate::clock::{self, Time};
use crate::fault::{Doing, Error, Fault, Result};
use parking_lot::Mutex;
use rustix::buffer::spare_capacity;
use rustix::fs::{Advice, AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};
use std::collections::HashSet;
use std::ffi::CStr;
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::num::NonZeroU64;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How much of an object is compared at a time.
const COMPARE_BYTES: usize = 256 * 1024;
/// Folders remembered as durable; ours are about 300, and forgetting them costs only some syncs.
const SETTLED_FOLDERS: usize = 4096;

/// What to do about a file or a link where a folder of the repository must be, or the reverse.
const OUT_OF_PLACE: &str = "something else stands where a part of the repository must be: look at what it is, and move it \
                            elsewhere; `pastfs check` tells what is missing then";

/// `NONBLOCK`: a FIFO in place of an object must not hang us.
const OBJECT: OFlags = OFlags::RDONLY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

/// A store in a local folder. See the module's text.
#[derive(Debug)]
pub struct Local {
    root: File,
    path: PathBuf,
    may_be_stale: bool,
    /// Folders whose own entries this process has synced, up to the root.
    settled: Mutex<HashSet<String>>,
    opened: Opened,
}

impl Local {
    /// Opens the store in an existing folder; `NoRepository` if there is none. Whether a repository is in
    /// it is for the caller to find out. Leftovers of writers that died more than a day ago are removed, if
    /// we may.
    pub fn open(path: &Path) -> Result<Self> {
        let store = Self::at(path)?;
        if let Ok(folder) = open_folder(&store.root, TEMPORARY) {
            folder::sweep(&folder, clock::now());
        }
        Ok(store)
    }

    /// Makes a store in a new folder, and the folders above it, with mode 0700; or in an existing one that
    /// is empty but for `lost+found` and what a `create` that died left behind. Any other is `Misuse`.
    pub fn create(path: &Path) -> Result<Self> {
        Self::create_over(path, &[])
    }

    /// As [`Local::create`], but folders of these names do not count: one who died while making a repository may have left
    /// them. What is in them is for the caller to look at.
    pub fn create_over(path: &Path, leftovers: &[&str]) -> Result<Self> {
        let doing = || format!("creating {}", path.display());
        folder::make_folders(&std::path::absolute(path).doing(doing)?).doing(doing)?;
        let store = Self::at(path).map_err(|e| match e.fault() {
            Fault::NoRepository => e.as_fault(Fault::Misuse),
            _ => e,
        })?;
        match folder::occupant(&store.root, leftovers).doing(doing)? {
            None => Ok(store),
            Some(name) => Err(Error::misuse(format!(
                "{} is not empty: it holds {name:?}, and a repository needs a folder of its own",
                path.display()
            ))),
        }
    }

    fn at(path: &Path) -> Result<Self> {
        let doing = || format!("opening {}", path.display());
        let absolute = std::path::absolute(path).doing(doing)?;
        let root = match folder::open_named(&absolute) {
            Ok(fd) => File::from(fd),
            Err(e @ (Errno::NOENT | Errno::NOTDIR)) => {
                let text = format!("{} is not a folder", path.display());
                return Err(Error::with_source(Fault::NoRepository, text, io::Error::from(e)));
            }
            Err(e) => return Err(e).doing(doing),
        };
        let may_be_stale = folder::may_be_stale(&root).doing(doing)?;
        Ok(Self { root, path: absolute, may_be_stale, settled: Mutex::default(), opened: Opened::default() })
    }

    /// An error about an object. What stands where a folder or a file must be is damage; and when somebody
    /// removed the whole repository under us, nothing may look like an honest "there is none".
    fn failed(&self, doing: String, e: io::Error) -> Error {
        match e.raw_os_error() {
            Some(libc::ELOOP | libc::ENOTDIR | libc::EISDIR | libc::ENXIO) => {
                Error::with_source(Fault::Damaged, doing, e).hint(OUT_OF_PLACE)
            }
            Some(libc::ENOENT) if self.is_removed() => {
                let text = format!("{} was removed", self.path.display());
                Error::new(Fault::NoRepository, text).while_(doing)
            }
            _ => Error::io(doing, e),
        }
    }

    /// Whether both are one folder, seen through one mount.
    pub(super) fn is_same_folder(&self, other: &Self) -> bool {
        folder::is_same(&self.root, &other.root)
    }

    fn is_removed(&self) -> bool {
        self.root.metadata().is_ok_and(|m| m.nlink() == 0)
    }

    /// An existing folder (`""`: the root), never through a symbolic link.
    fn folder(&self, folder: &str) -> rustix::io::Result<OwnedFd> {
        let mut segments = folder.split('/');
        let first = segments.next().filter(|s| !s.is_empty()).unwrap_or(".");
        let mut at = open_folder(&self.root, first)?;
        for segment in segments {
            at = open_folder(&at, segment)?;
        }
        Ok(at)
    }

    /// A folder that is there and durable when this returns; made if missing.
    ///
    /// One that is found may have been made a moment ago by a writer that has not synced it yet, or that
    /// died before it did: so every folder is synced once by each process that writes below it.
    fn durable_folder(&self, folder: &str) -> io::Result<OwnedFd> {
        if self.settled.lock().contains(folder) {
            match self.folder(folder) {
                Err(Errno::NOENT) => {}
                found => return Ok(found?),
            }
        }
        let mut at = self.folder("")?;
        for segment in folder.split('/').filter(|s| !s.is_empty()) {
            let inner = match open_folder(&at, segment) {
                Err(Errno::NOENT) => {
                    self.make_folder(&at, segment)?;
                    open_folder(&at, segment)?
                }
                found => found?,
            };
            sync_folder(&at)?;
            at = inner;
        }
        let mut settled = self.settled.lock();
        if settled.len() >= SETTLED_FOLDERS {
            settled.clear();
        }
        settled.insert(folder.to_owned());
        Ok(at)
    }

    /// Makes a folder with its owner and mode at once, so that no other writer finds it half made and is
    /// locked out.
    fn make_folder(&self, parent: &OwnedFd, name: &str) -> io::Result<()> {
        let (mut fresh, folder) = Temporary::folder(self.temporaries()?)?;
        adopt(folder, &self.root, true)?;
        match fresh.place(parent, name) {
            // Another writer was first; or a rename that was interrupted had succeeded. The caller looks.
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOENT) => Ok(()),
            done => Ok(done?),
        }
    }

    /// The folder of the temporary files.
    fn temporaries(&self) -> io::Result<OwnedFd> {
        match open_folder(&self.root, TEMPORARY) {
            Err(Errno::NOENT) => {}
            found => return Ok(found?),
        }
        match retry_on_intr(|| rustix::fs::mkdirat(&self.root, TEMPORARY, Mode::RWXU)) {
            Ok(()) => adopt(open_folder(&self.root, TEMPORARY)?, &self.root, true)?,
            Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(open_folder(&self.root, TEMPORARY)?)
    }

    /// An object to read a part of, and what it is like now. It may be open already, but not where others' deletes
    /// show late: there an object is looked up anew each time.
    fn object_in_parts(&self, name: &str) -> io::Result<(Arc<File>, Metadata)> {
        if let Some(open) = self.opened.get(name) {
            return Ok(open);
        }
        let file = Arc::new(self.object(name)?);
        if !self.may_be_stale {
            self.opened.keep(name, &file);
        }
        let now = file.metadata()?;
        Ok((file, now))
    }

    /// Opens an object for reading; anything but a regular file is an error that becomes `Damaged`.
    fn object(&self, name: &str) -> io::Result<File> {
        let (folder, base) = split(name);
        let folder = self.folder(folder)?;
        let file = File::from(retry_on_intr(|| rustix::fs::openat(&folder, base, OBJECT, Mode::empty()))?);
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(damaged("it is not a regular file")),
        }
    }

    fn advise(&self, name: &str, offset: u64, length: u64, advice: Advice) {
        if check_name(name).is_ok()
            && let Ok((file, _)) = self.object_in_parts(name)
        {
            let _ = rustix::fs::fadvise(&file, offset, NonZeroU64::new(length), advice);
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if self.confirm(name, bytes)? {
            return Ok(());
        }
        let (mut fresh, mut file) = Temporary::file(self.temporaries()?)?;
        direct::write_new(&mut file, bytes)?;
        adopt(&file, &self.root, false)?;
        file.sync_all()?;
        let (folder, base) = split(name);
        let folder = self.durable_folder(folder)?;
        match fresh.place(&folder, base) {
            Ok(()) => Ok(sync_folder(&folder)?),
            // Another writer was first, or a rename that was interrupted had succeeded.
            Err(e @ (Errno::EXIST | Errno::NOENT)) => match self.confirm(name, bytes)? {
                true => Ok(()),
                false => Err(e.into()),
            },
            Err(e) => Err(e.into()),
        }
    }

    /// Whether the object is there already, with these bytes; then it is made durable, as its writer may
    /// have died before it did so. With other bytes: an error that becomes `Damaged`.
    fn confirm(&self, name: &str, bytes: &[u8]) -> io::Result<bool> {
        let file = match self.object(name) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
            found => found?,
        };
        let mut equal = file.metadata()?.len() == bytes.len() as u64;
        let mut buffer = vec![0; COMPARE_BYTES.min(bytes.len())];
        for (i, wanted) in bytes.chunks(COMPARE_BYTES).enumerate() {
            if !equal {
                break;
            }
            let found = &mut buffer[..wanted.len()];
            file.read_exact_at(found, (i * COMPARE_BYTES) as u64)?;
            equal = found == wanted;
        }
        if !equal {
            return Err(damaged("another object of that name is there already"));
        }
        file.sync_all()?;
        sync_folder(&self.durable_folder(split(name).0)?)?;
        Ok(true)
    }

    /// All objects below a folder, each once; without `dated` sizes and dates are left at nothing, and a file
    /// system that tells types in its folders (nearly all do) is not asked about each file.
    fn list_below(&self, prefix: &str, dated: bool) -> Result<Vec<Listed>> {
        check_prefix(prefix)?;
        // Who stays for long lists again and again.
        self.opened.close_all();
        let mut found = Vec::new();
        let mut folders = vec![prefix.trim_end_matches('/').to_owned()];
        while let Some(folder) = folders.pop() {
            self.list_folder(&folder, dated, &mut found, &mut folders)
                .map_err(|e| self.failed(format!("listing {folder}/ of {}", self.path.display()), e))?;
        }
        if self.is_removed() {
            let gone = io::Error::from(Errno::NOENT);
            return Err(self.failed(format!("listing {prefix} of {}", self.path.display()), gone));
        }
        // A folder that changes while it is read may show an entry twice on some file systems.
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        found.dedup_by(|a, b| a.name == b.name);
        Ok(found)
    }

    /// Whether a symbolic link may hide objects: they would look as if they were gone.
    fn leads_to_folder(&self, folder: BorrowedFd<'_>, base: &CStr) -> bool {
        let led = retry_on_intr(|| rustix::fs::statat(folder, base, AtFlags::empty()));
        led.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    }

    /// Lists one folder into `found`, and the folders in it into `inner`.
    fn list_folder(
        &self,
        folder: &str,
        dated: bool,
        found: &mut Vec<Listed>,
        inner: &mut Vec<String>,
    ) -> io::Result<()> {
        let mut entries = match self.folder(folder) {
            // Not there, or gone since we saw it, with all that was in it.
            Err(Errno::NOENT) if !self.is_removed() => return Ok(()),
            fd => Dir::new(fd?)?,
        };
        while let Some(entry) = entries.read() {
            let entry = entry?;
            let base = entry.file_name();
            let bytes = base.to_bytes();
            let in_root = folder.is_empty();
            // Hidden: what file systems keep for themselves (`.nfs0001`, `.snapshot`).
            let foreign = in_root && (bytes == TEMPORARY.as_bytes() || bytes == folder::LOST_AND_FOUND);
            if bytes.starts_with(b".") || foreign {
                continue;
            }
            let told = entry.file_type();
            let (kind, size, modified) = if dated || told == FileType::Unknown {
                let stat = match retry_on_intr(|| {
                    rustix::fs::statat(entries.fd()?, base, AtFlags::SYMLINK_NOFOLLOW)
                }) {
                    Err(Errno::NOENT) => continue, // deleted meanwhile
                    stat => stat?,
                };
                (FileType::from_raw_mode(stat.st_mode), u64::try_from(stat.st_size).unwrap_or(0), date(&stat))
            } else {
                (told, 0, Time::default())
            };
            let base = String::from_utf8_lossy(bytes);
            let name = if in_root { base.into_owned() } else { [folder, "/", &base].concat() };
            if kind == FileType::Symlink && self.leads_to_folder(entries.fd()?, entry.file_name()) {
                let text =
                    format!("{name:?} is a symbolic link to a folder, and a repository holds no such link");
                return Err(damaged(text));
            }
            if kind == FileType::Directory && check_name(&name).is_ok() {
                inner.push(name);
                continue;
            }
            found.push(Listed { name, size, modified });
        }
        Ok(())
    }
}

impl Store for Local {
    fn location(&self) -> String {
        self.path.display().to_string()
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        check_name(name)?;
        self.write(name, bytes).map_err(|e| {
            let e = self.failed(format!("writing {name} to {}", self.path.display()), e);
            match e.fault() {
                // Somebody cleared the folder, or `tmp/`, under us.
                Fault::Missing => e.as_fault(Fault::Busy),
                _ => e,
            }
        })
    }

    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        check_name(name)?;
        let doing = || format!("reading {name} from {}", self.path.display());
        let too_long =
            |size: u64| Error::damaged(format!("it is {size} bytes long, more than {limit}")).while_(doing());
        let read = || {
            let file = self.object(name)?;
            let size = file.metadata()?.len();
            if size > limit {
                return Ok(Err(size));
            }
            let mut bytes = Vec::new();
            bytes
                .try_reserve_exact(usize::try_from(size).unwrap_or(usize::MAX))
                .map_err(|e| io::Error::new(ErrorKind::OutOfMemory, e))?;
            // Trust the bytes, not the size: it may be stale. One more tells whether there are too many.
            file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
            Ok(if bytes.len() as u64 > limit { Err(bytes.len() as u64) } else { Ok(bytes) })
        };
        read().map_err(|e| self.failed(doing(), e))?.map_err(too_long)
    }

    fn range(&self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        check_name(name)?;
        let doing = || format!("reading {length} bytes at {offset} of {name} from {}", self.path.display());
        let read = || {
            let (file, now) = self.object_in_parts(name)?;
            let size = now.len();
            // Before anything is allocated.
            if offset.checked_add(length as u64).is_none_or(|end| end > size) {
                return Ok(Err(size));
            }
            read_at(&file, offset, length).map(Ok)
        };
        read()
            .map_err(|e| self.failed(doing(), e))?
            .map_err(|size| Error::damaged(format!("it is truncated: it ends after {size}")).while_(doing()))
    }

    fn prefetch(&self, name: &str, offset: u64, length: u64) {
        // The kernel's own read-ahead ends after 128 KiB, and knows nothing of a file that is opened anew.
        self.advise(name, offset, length, Advice::WillNeed);
    }

    fn release(&self, name: &str, offset: u64, length: u64) {
        // What is kept is the plaintext, by who asked: a second copy, sealed, would push other things out.
        self.advise(name, offset, length, Advice::DontNeed);
    }

    fn size(&self, name: &str) -> Result<u64> {
        check_name(name)?;
        // Opened, not only looked up: that makes network file systems ask their server.
        self.object(name)
            .and_then(|file| Ok(file.metadata()?.len()))
            .map_err(|e| self.failed(format!("looking up {name} in {}", self.path.display()), e))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.list_below(prefix, true)
    }

    fn names(&self, prefix: &str) -> Result<Vec<String>> {
        Ok(self.list_below(prefix, false)?.into_iter().map(|listed| listed.name).collect())
    }

    fn modified(&self, name: &str) -> Result<Time> {
        check_name(name)?;
        self.object(name)
            .and_then(|file| Ok(date(&rustix::fs::fstat(&file)?)))
            .map_err(|e| self.failed(format!("looking up {name} in {}", self.path.display()), e))
    }

    fn delete(&self, name: &str) -> Result<()> {
        check_name(name)?;
        self.opened.close(name);
        let (folder, base) = split(name);
        let remove = || match self.folder(folder) {
            Err(Errno::NOENT) if !self.is_removed() => Ok(()),
            folder => {
                let folder = folder?;
                match retry_on_intr(|| rustix::fs::unlinkat(&folder, base, AtFlags::empty())) {
                    // Also when it is gone: whoever deleted it may have died before it was durable.
                    Ok(()) | Err(Errno::NOENT) => Ok(sync_folder(&folder)?),
                    Err(e) => Err(e.into()),
                }
            }
        };
        remove()
            .map_err(|e: io::Error| self.failed(format!("deleting {name} from {}", self.path.display()), e))
    }

    fn may_be_stale(&self) -> bool {
        self.may_be_stale
    }
}

/// When a file was written.
fn date(stat: &rustix::fs::Stat) -> Time {
    Time { seconds: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 }
}

/// An error that becomes `Damaged`.
fn damaged(text: impl Into<String>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, text.into())
}

/// Folder (`""`: the root) and last segment of a checked name.
fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('/').unwrap_or(("", name))
}

/// Exactly `length` bytes from `offset`, into memory that was not filled with zeros before.
fn read_at(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let at = offset + bytes.len() as u64;
        if retry_on_intr(|| rustix::io::pread(file, spare_capacity(&mut bytes), at))? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

#[cfg(test)]
mod tests;
