//! A repository in a local folder: one file per object.
//!
//! A put writes a temporary file in `tmp/`, syncs it, and moves it into place without ever replacing
//! another (`renameat2(2)` with `RENAME_NOREPLACE`, else `linkat(2)`); then it syncs the folder. What a
//! crash leaves in `tmp/` is swept a day later. Paths are followed from an open descriptor of the
//! repository's folder and never through symbolic links, so that the store means the same place when
//! something else is mounted over its path, and a hostile storage cannot point out of it.

use super::folder::{self, Temporary, adopt, open_folder, sync_folder};
use super::{Listed, Store, TEMPORARY, check_name, check_prefix};
use crate::clock::{self, Time};
use crate::fault::{Doing, Error, Fault, Result};
use parking_lot::Mutex;
use rustix::buffer::spare_capacity;
use rustix::fs::{Advice, AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// How much of an object is compared at a time.
const COMPARE_BYTES: usize = 256 * 1024;
/// Folders remembered as durable; ours are about 300, and forgetting them costs only some syncs.
const SETTLED_FOLDERS: usize = 4096;

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
        let doing = || format!("creating {}", path.display());
        folder::make_folders(&std::path::absolute(path).doing(doing)?).doing(doing)?;
        let store = Self::at(path).map_err(|e| match e.fault() {
            Fault::NoRepository => e.as_fault(Fault::Misuse),
            _ => e,
        })?;
        match folder::occupant(&store.root).doing(doing)? {
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
        Ok(Self { root, path: absolute, may_be_stale, settled: Mutex::default() })
    }

    /// An error about an object. What stands where a folder or a file must be is damage; and when somebody
    /// removed the whole repository under us, nothing may look like an honest "there is none".
    fn failed(&self, doing: String, e: io::Error) -> Error {
        match e.raw_os_error() {
            Some(libc::ELOOP | libc::ENOTDIR | libc::EISDIR | libc::ENXIO) => {
                Error::with_source(Fault::Damaged, doing, e)
            }
            Some(libc::ENOENT) if self.is_removed() => {
                let text = format!("{} was removed", self.path.display());
                Error::new(Fault::NoRepository, text).while_(doing)
            }
            _ => Error::io(doing, e),
        }
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

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if self.confirm(name, bytes)? {
            return Ok(());
        }
        let (mut fresh, mut file) = Temporary::file(self.temporaries()?)?;
        file.write_all(bytes)?;
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
            if !matches!(kind, FileType::RegularFile | FileType::Directory) || check_name(&name).is_err() {
                return Err(damaged(format!("{name:?} cannot be an object, and belongs to no repository")));
            }
            if kind == FileType::Directory {
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
            let file = self.object(name)?;
            let size = file.metadata()?.len();
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
        if check_name(name).is_ok()
            && let Ok(file) = self.object(name)
        {
            // The kernel's own read-ahead ends after 128 KiB, and knows nothing of a file that is opened anew.
            let _ = rustix::fs::fadvise(&file, offset, NonZeroU64::new(length), Advice::WillNeed);
        }
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
mod tests {
    use super::*;
    use crate::storage::conformance::conformance;
    use crate::storage::folder::tests::Scratch;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use std::sync::atomic::{AtomicU32, Ordering};

    fn fault<T: std::fmt::Debug>(result: Result<T>) -> Fault {
        result.unwrap_err().fault()
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_local_store_keeps_the_contract() {
        let scratch = Scratch::new();
        let next = AtomicU32::new(0);
        conformance(&|| {
            let path = scratch.0.join(next.fetch_add(1, Ordering::Relaxed).to_string());
            Box::new(Local::create(&path).unwrap())
        });
        for store in fs::read_dir(&scratch.0).unwrap() {
            if let Ok(mut temporaries) = store.unwrap().path().join(TEMPORARY).read_dir() {
                assert!(temporaries.next().is_none(), "a temporary was left behind");
            }
        }
    }

    #[test]
    fn of_racing_writers_exactly_one_wins() {
        let scratch = Scratch::new();
        let store = Local::create(&scratch.0).unwrap();
        for round in 0..50 {
            let put = |w: u8| store.put(&format!("notes/{round}"), &[w; 1000]);
            let won: Vec<u8> = std::thread::scope(|scope| {
                let writers: Vec<_> =
                    (0..8).map(|w| scope.spawn(move || put(w).is_ok().then_some(w))).collect();
                writers.into_iter().filter_map(|t| t.join().unwrap()).collect()
            });
            assert_eq!(won.len(), 1, "{won:?}");
            assert_eq!(store.get(&format!("notes/{round}"), 1000).unwrap(), [won[0]; 1000]);
        }
    }

    #[test]
    fn a_missing_folder_is_no_repository() {
        let scratch = Scratch::new();
        assert_eq!(fault(Local::open(&scratch.0.join("none"))), Fault::NoRepository);
        fs::write(scratch.0.join("file"), "x").unwrap();
        assert_eq!(fault(Local::open(&scratch.0.join("file"))), Fault::NoRepository);
        assert_eq!(fault(Local::create(&scratch.0.join("file"))), Fault::Misuse);
    }

    #[test]
    fn only_a_new_or_empty_folder_becomes_a_repository() {
        let scratch = Scratch::new();
        let new = scratch.0.join("a/b/c");
        Local::create(&new).unwrap();
        assert_eq!([mode(&new), mode(&scratch.0.join("a"))], [0o700; 2]);
        fs::create_dir(new.join("lost+found")).unwrap();
        // As a writer leaves it that dies in its first put.
        fs::create_dir(new.join(TEMPORARY)).unwrap();
        fs::write(new.join(TEMPORARY).join(format!("1-{}", "0".repeat(32))), "x").unwrap();
        Local::create(&new).unwrap();
        fs::write(new.join(TEMPORARY).join("letter"), "x").unwrap();
        let refused = Local::create(&new).unwrap_err();
        assert_eq!(refused.fault(), Fault::Misuse);
        assert!(refused.chain().contains(TEMPORARY) && refused.chain().contains("a/b/c"), "{refused:?}");
        fs::remove_dir_all(new.join(TEMPORARY)).unwrap();
        fs::write(new.join("photo"), "x").unwrap();
        assert_eq!(fault(Local::create(&new)), Fault::Misuse);
    }

    #[test]
    fn objects_take_owner_group_and_mode_from_the_repository() {
        let scratch = Scratch::new();
        // Only root may give files away; others see the modes alone.
        let owner = rustix::process::geteuid().is_root().then_some(12_345);
        for (folder, file) in [(0o700, 0o400), (0o2770, 0o440), (0o755, 0o444), (0o1777, 0o444)] {
            let path = scratch.0.join(format!("{folder:o}"));
            let store = Local::create(&path).unwrap();
            chown(&path, owner, owner).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(folder)).unwrap();
            store.put("packs/3f/a", b"x").unwrap();
            assert_eq!(mode(&path.join("packs/3f/a")), file);
            for made in ["packs", "packs/3f", TEMPORARY] {
                assert_eq!(mode(&path.join(made)), folder, "{made}");
            }
            let found = fs::metadata(path.join("packs/3f/a")).unwrap();
            let above = fs::metadata(&path).unwrap();
            assert_eq!((found.uid(), found.gid()), (above.uid(), above.gid()));
            assert_eq!(fs::metadata(path.join("packs/3f")).unwrap().uid(), above.uid());
        }
    }

    #[test]
    fn a_full_disk_is_full_and_leaves_nothing_behind() {
        struct Mounted(PathBuf);
        impl Drop for Mounted {
            fn drop(&mut self) {
                let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
            }
        }
        let scratch = Scratch::new();
        let path = scratch.0.join("disk");
        fs::create_dir(&path).unwrap();
        let options = c"size=1m,mode=700";
        let flags = rustix::mount::MountFlags::empty();
        if let Err(e) = rustix::mount::mount("none", &path, "tmpfs", flags, Some(options)) {
            return eprintln!("no disk can be mounted here ({e}): this test is skipped");
        }
        let _mounted = Mounted(path.clone());
        let store = Local::create(&path).unwrap();
        store.put("packs/00/small", &[1; 100_000]).unwrap();
        let failed = store.put("packs/01/large", &[2; 2_000_000]).unwrap_err();
        assert_eq!(failed.fault(), Fault::Full);
        let text = failed.chain();
        assert!(text.contains("packs/01/large") && text.contains(&store.location()), "{text}");
        assert_eq!(store.list("").unwrap().len(), 1);
        assert_eq!(path.join(TEMPORARY).read_dir().unwrap().count(), 0);
        store.put("packs/01/fits", &[3; 500_000]).unwrap();
    }

    #[test]
    fn symbolic_links_lead_nowhere() {
        let scratch = Scratch::new();
        let (path, outside) = (scratch.0.join("repo"), scratch.0.join("outside"));
        let store = Local::create(&path).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), "x").unwrap();
        symlink(&outside, path.join("packs")).unwrap();
        fs::create_dir(path.join("keys")).unwrap();
        symlink(outside.join("secret"), path.join("keys/secret")).unwrap();
        symlink(outside.join("none"), path.join("keys/none")).unwrap();
        for name in ["packs/secret", "keys/secret", "keys/none"] {
            assert_eq!(fault(store.get(name, 10)), Fault::Damaged, "{name}");
            assert_eq!(fault(store.size(name)), Fault::Damaged, "{name}");
            assert_eq!(fault(store.put(name, b"y")), Fault::Damaged, "{name}");
        }
        assert_eq!(fault(store.delete("packs/secret")), Fault::Damaged);
        for prefix in ["packs/", "keys/", ""] {
            assert_eq!(fault(store.list(prefix)), Fault::Damaged, "{prefix}");
        }
        assert_eq!(fs::read(outside.join("secret")).unwrap(), b"x");
        assert_eq!(outside.read_dir().unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_object_is_damage_but_hidden_files_are_not_ours() {
        let scratch = Scratch::new();
        let store = Local::create(&scratch.0).unwrap();
        store.put("keys/1", b"x").unwrap();
        fs::write(scratch.0.join("keys/.nfs0001"), "x").unwrap();
        fs::create_dir(scratch.0.join("lost+found")).unwrap();
        assert_eq!(store.list("").unwrap().len(), 1);
        let fifo = scratch.0.join("keys/fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(fault(store.get("keys/fifo", 10)), Fault::Damaged);
        assert_eq!(fault(store.get("keys", 10)), Fault::Damaged);
        assert_eq!(fault(store.delete("keys")), Fault::Damaged);
        let text = store.list("keys/").unwrap_err().chain();
        assert!(text.contains("keys/fifo"), "{text}");
        fs::remove_file(&fifo).unwrap();
        fs::write(scratch.0.join("keys/1 (copy)"), "x").unwrap();
        assert_eq!(fault(store.list("keys/")), Fault::Damaged);
    }

    #[test]
    fn the_store_stays_the_same_place_when_its_path_changes() {
        let scratch = Scratch::new();
        let (path, moved) = (scratch.0.join("repo"), scratch.0.join("moved"));
        let store = Local::create(&path).unwrap();
        store.put("keys/1", b"x").unwrap();
        fs::rename(&path, &moved).unwrap();
        Local::create(&path).unwrap();
        assert_eq!(store.list("keys/").unwrap().len(), 1);
        store.put("keys/2", b"x").unwrap();
        assert!(moved.join("keys/2").exists() && !path.join("keys").exists());
    }

    #[test]
    fn a_removed_repository_is_not_an_empty_one() {
        let scratch = Scratch::new();
        let path = scratch.0.join("repo");
        let store = Local::create(&path).unwrap();
        store.put("keys/1", b"x").unwrap();
        fs::remove_dir_all(&path).unwrap();
        assert_eq!(fault(store.list("keys/")), Fault::NoRepository);
        assert_eq!(fault(store.list("")), Fault::NoRepository);
        assert_eq!(fault(store.get("keys/1", 10)), Fault::NoRepository);
        assert_eq!(fault(store.delete("keys/1")), Fault::NoRepository);
        assert_eq!(fault(store.put("keys/1", b"x")), Fault::NoRepository);
    }

    #[test]
    fn folders_that_are_removed_under_a_writer_are_made_again() {
        let scratch = Scratch::new();
        let store = Local::create(&scratch.0).unwrap();
        store.put("packs/3f/a", b"x").unwrap();
        fs::remove_dir_all(scratch.0.join("packs")).unwrap();
        fs::remove_dir(scratch.0.join(TEMPORARY)).unwrap();
        store.put("packs/3f/a", b"x").unwrap();
        assert_eq!(Local::open(&scratch.0).unwrap().get("packs/3f/a", 1).unwrap(), b"x");
    }
}
