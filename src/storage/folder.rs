//! The steps that the local store is made of: folders, durable and without symbolic links; temporary files
//! that move into place and never replace another; owners and modes.

use super::TEMPORARY;
use crate::clock::{self, Time};
use crate::id::hex;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, RenameFlags, StatxFlags, Uid};
use rustix::io::{Errno, retry_on_intr};
use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

/// How old a temporary file must be before it counts as left by a dead writer: longer than any put takes,
/// with room for clocks that are hours apart.
const ABANDONED_SECONDS: i64 = 24 * 60 * 60;
/// Mode of the repository's folder when we make it: the owner's alone, as it tells times and sizes.
const NEW_REPOSITORY_MODE: u32 = 0o700;
/// What `mkfs` puts into the root of a new disk, and `fsck` needs.
pub(super) const LOST_AND_FOUND: &[u8] = b"lost+found";

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);
const FRESH: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// `statfs(2)` types of file systems that cache what other machines change: NFS, the three of SMB, FUSE
/// (sshfs, virtiofs; local ones too, which cannot be told apart), 9p, AFS (two), Coda, VirtualBox shares.
/// From linux/magic.h, compared in their low 32 bits (the field is signed on some machines).
const CACHING: [u32; 10] = [
    0x6969,
    0x517b,
    0xff53_4d42,
    0xfe53_4d42,
    0x6573_5546,
    0x0102_1997,
    0x5346_414f,
    0x6b41_4653,
    0x7375_7245,
    0x786f_4256,
];

/// A temporary file or folder with a name of its own, removed when dropped unless it was moved into place.
#[derive(Debug)]
pub(super) struct Temporary {
    folder: OwnedFd,
    name: String,
    kind: FileType,
    is_moved: bool,
}

/// A way to move a file into place without replacing another.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// One step; file systems of the last years.
    Rename,
    /// As safe, for files only; NFS.
    Link,
    /// Neither is there (FAT, some of FUSE): another writer in between would be replaced.
    Check,
}

impl Temporary {
    fn new(folder: OwnedFd, kind: FileType) -> Self {
        let name = format!("{}-{}", std::process::id(), hex(&clock::random_array::<16>()));
        Self { folder, name, kind, is_moved: false }
    }

    /// A new file in the folder `tmp/`, open for writing, and closed to others until it is [`adopt`]ed.
    pub(super) fn file(folder: OwnedFd) -> rustix::io::Result<(Self, File)> {
        let new = Self::new(folder, FileType::RegularFile);
        let mode = Mode::RUSR | Mode::WUSR;
        let file = retry_on_intr(|| rustix::fs::openat(&new.folder, &new.name, FRESH, mode))?;
        Ok((new, File::from(file)))
    }

    /// A new folder in the folder `tmp/`, closed to others until it is [`adopt`]ed.
    pub(super) fn folder(folder: OwnedFd) -> rustix::io::Result<(Self, OwnedFd)> {
        let new = Self::new(folder, FileType::Directory);
        retry_on_intr(|| rustix::fs::mkdirat(&new.folder, &new.name, Mode::RWXU))?;
        let inner = open_folder(&new.folder, &new.name)?;
        Ok((new, inner))
    }

    /// Moves it into place; `EXIST` (for folders also `NOTEMPTY`) if something is there.
    pub(super) fn place(&mut self, folder: &OwnedFd, base: &str) -> rustix::io::Result<()> {
        let mut result = Err(Errno::NOTSUP);
        for way in [Way::Rename, Way::Link, Way::Check] {
            result = self.place_by(way, folder, base);
            // Older kernels and other file systems say in many ways that they do not know how.
            let unknown = [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP, Errno::PERM, Errno::MLINK];
            if !matches!(result, Err(e) if unknown.contains(&e)) {
                break;
            }
        }
        result
    }

    fn place_by(&mut self, way: Way, folder: &OwnedFd, base: &str) -> rustix::io::Result<()> {
        let (from, name) = (&self.folder, &self.name);
        match way {
            Way::Rename => {
                retry_on_intr(|| rustix::fs::renameat_with(from, name, folder, base, RenameFlags::NOREPLACE))?
            }
            // The temporary name goes when we are dropped.
            Way::Link if self.kind == FileType::RegularFile => {
                return retry_on_intr(|| rustix::fs::linkat(from, name, folder, base, AtFlags::empty()));
            }
            Way::Link => return Err(Errno::OPNOTSUPP),
            Way::Check => {
                match retry_on_intr(|| rustix::fs::statat(folder, base, AtFlags::SYMLINK_NOFOLLOW)) {
                    Ok(_) => return Err(Errno::EXIST),
                    Err(Errno::NOENT) => {}
                    Err(e) => return Err(e),
                }
                retry_on_intr(|| rustix::fs::renameat(from, name, folder, base))?
            }
        }
        self.is_moved = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.is_moved {
            let is_folder = self.kind == FileType::Directory;
            let flags = if is_folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            // If this fails too, the sweep of a later `open` gets it.
            let _ = retry_on_intr(|| rustix::fs::unlinkat(&self.folder, &self.name, flags));
        }
    }
}

/// Removes from the folder `tmp/` what dead writers left. It is a courtesy: readers without the right to do
/// it go on all the same.
pub(super) fn sweep(folder: &OwnedFd, now: Time) {
    let Ok(entries) = Dir::read_from(folder) else { return };
    for entry in entries.flatten().filter(|e| is_temporary(e.file_name().to_bytes())) {
        let name = entry.file_name();
        let Ok(stat) = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        if now.seconds.saturating_sub(stat.st_mtime) > ABANDONED_SECONDS {
            let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            let flags = if is_folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            let _ = rustix::fs::unlinkat(folder, name, flags);
        }
    }
}

/// Whether a name is one of [`Temporary`]'s: a process id, a dash, 32 hexadecimal digits.
pub(super) fn is_temporary(name: &[u8]) -> bool {
    let Some(dash) = name.iter().position(|&b| b == b'-') else { return false };
    let (pid, random) = (&name[..dash], &name[dash + 1..]);
    !pid.is_empty()
        && pid.iter().all(u8::is_ascii_digit)
        && random.len() == 32
        && random.iter().all(u8::is_ascii_hexdigit)
}

/// Gives a new file or folder the group and mode of the repository's folder, and its owner when we are
/// root: else what root's backup writes locks its owner out. Objects are never writable.
pub(super) fn adopt(fd: impl AsFd, root: &File, is_folder: bool) -> io::Result<()> {
    let root = root.metadata()?;
    let own = rustix::fs::fstat(&fd)?;
    let mut mode = match is_folder {
        true => root.mode() & 0o3777 | 0o700,
        false => root.mode() & 0o444 | 0o400,
    };
    let is_root = rustix::process::geteuid().is_root();
    let uid = (is_root && own.st_uid != root.uid()).then(|| Uid::from_raw_unchecked(root.uid()));
    let gid = (own.st_gid != root.gid()).then(|| Gid::from_raw_unchecked(root.gid()));
    if uid.is_some() || gid.is_some() {
        match retry_on_intr(|| rustix::fs::fchown(&fd, uid, gid)) {
            Ok(()) => {}
            // Not a member, or a file system without owners. The group that it has instead was not meant.
            Err(Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => mode &= !0o070,
            Err(e) => return Err(e.into()),
        }
    }
    match retry_on_intr(|| rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode))) {
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        done => Ok(done?),
    }
}

/// Opens a folder by the path that the user named: here, and only here, symbolic links are followed.
pub(super) fn open_named(path: &Path) -> rustix::io::Result<OwnedFd> {
    retry_on_intr(|| rustix::fs::openat(CWD, path, FOLDER.difference(OFlags::NOFOLLOW), Mode::empty()))
}

/// Opens a folder, unless a symbolic link stands in its place.
pub(super) fn open_folder(at: impl AsFd, name: &str) -> rustix::io::Result<OwnedFd> {
    retry_on_intr(|| rustix::fs::openat(&at, name, FOLDER, Mode::empty()))
}

/// Makes the entries of a folder durable, as far as the file system knows how to.
pub(super) fn sync_folder(folder: impl AsFd) -> rustix::io::Result<()> {
    match retry_on_intr(|| rustix::fs::fsync(&folder)) {
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        done => done,
    }
}

/// Whether both are one folder, seen through one mount: a disk that was plugged in again may have the numbers that it
/// had. A folder that does not answer is no other's.
pub(super) fn is_same(a: &File, b: &File) -> bool {
    let place = |file: &File| {
        let what = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
        let s = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, what).ok()?;
        Some((s.stx_mnt_id, s.stx_dev_major, s.stx_dev_minor, s.stx_ino))
    };
    place(a).is_some_and(|place_of_a| place(b) == Some(place_of_a))
}

/// Whether another machine's changes may show late in this file system.
pub(super) fn may_be_stale(folder: &File) -> rustix::io::Result<bool> {
    // Truncated on purpose: see `CACHING`.
    let kind = retry_on_intr(|| rustix::fs::fstatfs(folder))?.f_type as u32;
    Ok(CACHING.contains(&kind))
}

/// The first thing in the folder that keeps it from being a new repository; folders named `leftovers` do not.
pub(super) fn occupant(root: &File, leftovers: &[&str]) -> io::Result<Option<String>> {
    for entry in Dir::read_from(root)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let harmless = match name {
            b"." | b".." | LOST_AND_FOUND => true,
            _ if name == TEMPORARY.as_bytes() => has_only_leftovers(root)?,
            _ if leftovers.iter().any(|l| l.as_bytes() == name) => {
                let stat = rustix::fs::statat(root, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            }
            _ => false,
        };
        if !harmless {
            return Ok(Some(String::from_utf8_lossy(name).into_owned()));
        }
    }
    Ok(None)
}

/// Whether `tmp` is ours, and not somebody's folder of that name.
fn has_only_leftovers(root: &File) -> io::Result<bool> {
    let folder = match open_folder(root, TEMPORARY) {
        Ok(folder) => folder,
        Err(Errno::NOTDIR | Errno::LOOP) => return Ok(false),
        Err(e) => return Err(e.into()),
    };
    for entry in Dir::new(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") && !is_temporary(name) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes a folder and those above it, durable.
pub(super) fn make_folders(path: &Path) -> io::Result<()> {
    let mut missing = Vec::new();
    for folder in path.ancestors() {
        match folder.metadata() {
            Err(e) if e.kind() == ErrorKind::NotFound => missing.push(folder),
            found => {
                found?;
                break;
            }
        }
    }
    for folder in missing.into_iter().rev() {
        match DirBuilder::new().mode(NEW_REPOSITORY_MODE).create(folder) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        // One that we may write but not read cannot be synced; the kernel will do it in its own time.
        match folder.parent().map(File::open) {
            Some(Ok(parent)) => sync_folder(&parent)?,
            Some(Err(e)) if e.kind() != ErrorKind::PermissionDenied => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::io::Write;
    use std::path::PathBuf;

    /// A folder for one test, removed with it.
    pub(in crate::storage) struct Scratch(pub(in crate::storage) PathBuf);

    impl Scratch {
        pub(in crate::storage) fn new() -> Self {
            // In memory where possible: thousands of syncs would tell nothing more on a disk.
            let shared = Path::new("/dev/shm");
            let base = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
            let path = base.join(format!("pastfs-test-{}", hex(&clock::random_array::<8>())));
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            path.read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn no_way_of_placing_replaces_another_file() {
        let scratch = Scratch::new();
        for way in [Way::Rename, Way::Link, Way::Check] {
            let folder = open_named(&scratch.0).unwrap();
            for (text, expected) in [("first", Ok(())), ("second", Err(Errno::EXIST))] {
                let (mut fresh, mut file) = Temporary::file(open_named(&scratch.0).unwrap()).unwrap();
                file.write_all(text.as_bytes()).unwrap();
                assert_eq!(fresh.place_by(way, &folder, "object"), expected, "{way:?}");
            }
            assert_eq!(std::fs::read(scratch.0.join("object")).unwrap(), b"first", "{way:?}");
            assert_eq!(names(&scratch.0), ["object"], "{way:?}");
            std::fs::remove_file(scratch.0.join("object")).unwrap();
        }
    }

    #[test]
    fn no_way_of_placing_replaces_a_folder_with_objects() {
        let scratch = Scratch::new();
        let folder = open_named(&scratch.0).unwrap();
        std::fs::create_dir(scratch.0.join("packs")).unwrap();
        std::fs::write(scratch.0.join("packs/object"), "x").unwrap();
        for way in [Way::Rename, Way::Link, Way::Check] {
            let (mut fresh, _) = Temporary::folder(open_named(&scratch.0).unwrap()).unwrap();
            assert!(fresh.place_by(way, &folder, "packs").is_err(), "{way:?}");
        }
        let (mut fresh, _) = Temporary::folder(open_named(&scratch.0).unwrap()).unwrap();
        fresh.place(&folder, "index").unwrap();
        drop(fresh);
        assert_eq!(names(&scratch.0), ["index", "packs"]);
        assert_eq!(names(&scratch.0.join("packs")), ["object"]);
    }

    #[test]
    fn only_old_temporaries_are_swept_and_nothing_else() {
        let scratch = Scratch::new();
        let of = |n: u8| format!("{}-{}", u32::from(n) + 1, hex(&[n; 16]));
        std::fs::write(scratch.0.join(of(1)), "x").unwrap();
        std::fs::create_dir(scratch.0.join(of(2))).unwrap();
        std::fs::write(scratch.0.join("notes.txt"), "x").unwrap();
        let folder = open_named(&scratch.0).unwrap();
        let after = |seconds| Time { seconds: clock::now().seconds + seconds, nanos: 0 };
        sweep(&folder, after(-1_000_000));
        sweep(&folder, after(ABANDONED_SECONDS - 100));
        assert_eq!(names(&scratch.0), [of(1), of(2), "notes.txt".to_owned()]);
        sweep(&folder, after(ABANDONED_SECONDS + 100));
        assert_eq!(names(&scratch.0), ["notes.txt"]);
    }

    #[test]
    fn only_our_own_names_are_temporary() {
        let ours = Temporary::new(open_named(Path::new("/")).unwrap(), FileType::RegularFile);
        assert!(is_temporary(ours.name.as_bytes()));
        for other in
            ["", "-", "1-", "12", "x-0123456789abcdef0123456789abcdef", "1-0123456789abcdef0123456789abcde"]
        {
            assert!(!is_temporary(other.as_bytes()), "{other}");
        }
    }
}
