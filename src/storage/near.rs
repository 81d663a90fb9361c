//! Pieces of objects of a far store, kept in a local folder as they are stored.
//!
//! ```text
//! <folder>/trees/<name>/<offset>-<length>      bytes of the object <name>, from <offset> on
//! <folder>/data/<name>/<offset>-<length>
//! <folder>/new-<random>                        being written
//! ```
//!
//! One file for each range that was fetched, and those are long where neighbours are fetched together: a million frames of
//! trees are some thousand files. No file is ever changed, none is synced, and nothing here is believed: whoever reads a
//! piece proves it as if it came from the store, and says [`Near::forget`] where it is not what it must be. So a machine that
//! dies, a full disk and another process that deletes what is read here cost a request, no more. Any number of processes
//! share the folder; what one adds the others find when they next come to that object.
//!
//! What is used last stays longest: a file's time is set when it is read. Trees go last, as without them nothing can be
//! found: data leave room for them up to [`TREES_SHARE`].

use crate::clock;
use crate::fault::{Doing, Error, Fault, Result};
use crate::id::hex;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Trees may take so much of the folder, in quarters, before they are deleted as data are.
const TREES_SHARE: u64 = 3;
/// After so many bytes were added, a part of the bound, the folder is looked through for what is too much.
const SWEEP_PART: u64 = 16;
/// When a piece was used is written down if it was so long ago: an hour more or less changes nothing.
const TOUCH_EVERY: Duration = Duration::from_secs(3600);
/// What is being written for so long was left behind by one who died.
const DRAFT_SECONDS: u64 = 3600;
/// Objects whose pieces are remembered in memory at most; more are looked up in the folder again.
const OBJECTS_MAX: usize = 4096;

/// What a piece is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shelf {
    /// Trees: what browsing needs.
    Trees,
    /// Contents of files.
    Data,
}

impl Shelf {
    const ALL: [Shelf; 2] = [Shelf::Trees, Shelf::Data];
    fn folder(self) -> &'static str {
        if self == Shelf::Trees { "trees" } else { "data" }
    }
}

/// Pieces of one object: length by offset, and whether the time of use was written down by this process.
type Pieces = BTreeMap<u64, (u64, bool)>;

/// The folder. See the module's text.
pub struct Near {
    folder: PathBuf,
    limit: u64,
    known: Mutex<HashMap<(Shelf, String), Pieces>>,
    /// Bytes that may still be added before the folder is looked through.
    credit: Mutex<u64>,
}

impl Near {
    /// Takes a folder of at most `limit` bytes, which is made if it is not there, closed to others.
    ///
    /// # Errors
    /// `Denied` when it belongs to another user; what the file system says.
    pub fn open(folder: &Path, limit: u64) -> Result<Self> {
        let doing = || format!("opening the cache {}", folder.display());
        for shelf in Shelf::ALL {
            let path = folder.join(shelf.folder());
            DirBuilder::new().recursive(true).mode(0o700).create(path).doing(doing)?;
        }
        let meta = fs::metadata(folder).doing(doing)?;
        if meta.uid() != rustix::process::geteuid().as_raw() {
            return Err(Error::new(Fault::Denied, doing()).hint("it belongs to another user"));
        }
        if meta.mode() & 0o077 != 0 {
            fs::set_permissions(folder, Permissions::from_mode(0o700)).doing(doing)?;
        }
        // That files can be made is seen now, and not with each piece.
        let draft = folder.join(draft_name());
        File::create(&draft).and_then(|_| fs::remove_file(&draft)).doing(doing)?;
        // Looked through with the first piece: other processes may have filled it.
        Ok(Self { folder: folder.to_path_buf(), limit, known: Mutex::default(), credit: Mutex::new(0) })
    }

    /// Bytes of an object, unproven; `None` if they are not here.
    pub fn get(&self, shelf: Shelf, object: &str, offset: u64, len: usize) -> Option<Vec<u8>> {
        let (start, whole, is_touched) = self.covering(shelf, object, offset, len as u64)?;
        let read = || -> std::io::Result<Vec<u8>> {
            let file = File::open(self.path(shelf, object, start, whole))?;
            if !is_touched && file.metadata()?.modified()?.elapsed().is_ok_and(|age| age > TOUCH_EVERY) {
                // Only its age at the next look through depends on it.
                let _ = file.set_modified(SystemTime::now());
            }
            let mut bytes = vec![0; len];
            file.read_exact_at(&mut bytes, offset - start)?;
            Ok(bytes)
        };
        match read() {
            Ok(bytes) => {
                self.with(shelf, object, |pieces| {
                    if let Some((_, touched)) = pieces.get_mut(&start) {
                        *touched = true;
                    }
                });
                Some(bytes)
            }
            // Another process has deleted it, or it is shorter than its name says.
            Err(_) => {
                self.drop_piece(shelf, object, start, whole);
                None
            }
        }
    }

    /// Whether bytes of an object are here, as far as is known without reading them.
    pub fn has(&self, shelf: Shelf, object: &str, offset: u64, len: u64) -> bool {
        self.covering(shelf, object, offset, len).is_some()
    }

    /// Keeps bytes of an object.
    ///
    /// # Errors
    /// What the file system says; nothing is kept then.
    pub fn put(&self, shelf: Shelf, object: &str, offset: u64, bytes: &[u8]) -> Result<()> {
        let len = bytes.len() as u64;
        if len == 0 || len > self.limit / SWEEP_PART || self.has(shelf, object, offset, len) {
            return Ok(());
        }
        let is_due = {
            let credit = &mut *self.credit.lock();
            match credit.checked_sub(len) {
                Some(left) => {
                    *credit = left;
                    false
                }
                None => {
                    *credit = (self.limit / SWEEP_PART).saturating_sub(len);
                    true
                }
            }
        };
        if is_due {
            self.sweep();
        }
        let doing = || format!("keeping a piece of {object} in {}", self.folder.display());
        let draft = self.folder.join(draft_name());
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft);
        let moved = file.and_then(|mut file| file.write_all(bytes)).and_then(|()| {
            let path = self.path(shelf, object, offset, len);
            match fs::rename(&draft, &path) {
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    let above = path.parent().unwrap_or(&self.folder);
                    DirBuilder::new().recursive(true).mode(0o700).create(above)?;
                    fs::rename(&draft, &path)
                }
                moved => moved,
            }
        });
        if moved.is_err() {
            let _ = fs::remove_file(&draft);
        }
        moved.doing(doing)?;
        self.with(shelf, object, |pieces| {
            let longest = pieces.get(&offset).map_or(0, |(len, _)| *len);
            if len > longest {
                pieces.insert(offset, (len, true));
            }
        });
        Ok(())
    }

    /// These bytes were not what they must be: the pieces that hold them go.
    pub fn forget(&self, shelf: Shelf, object: &str, offset: u64, len: u64) {
        while let Some((start, whole, _)) = self.covering(shelf, object, offset, len) {
            self.drop_piece(shelf, object, start, whole);
        }
    }

    fn drop_piece(&self, shelf: Shelf, object: &str, start: u64, len: u64) {
        // It may have gone already.
        let _ = fs::remove_file(self.path(shelf, object, start, len));
        self.with(shelf, object, |pieces| pieces.remove(&start));
    }

    fn path(&self, shelf: Shelf, object: &str, start: u64, len: u64) -> PathBuf {
        self.folder.join(shelf.folder()).join(object).join(format!("{start}-{len}"))
    }

    /// The piece that holds a range: offset, length, and whether its use was written down.
    fn covering(&self, shelf: Shelf, object: &str, offset: u64, len: u64) -> Option<(u64, u64, bool)> {
        let end = offset.checked_add(len)?;
        self.with(shelf, object, |pieces| {
            // The last that begins before is the one, unless a short one was fetched amid a long one.
            let mut before = pieces.range(..=offset).rev();
            let found = before.find(|(start, (len, _))| *start + len >= end);
            found.map(|(start, (len, touched))| (*start, *len, *touched))
        })
    }

    fn with<T>(&self, shelf: Shelf, object: &str, work: impl FnOnce(&mut Pieces) -> T) -> T {
        let known = &mut *self.known.lock();
        let key = (shelf, object.to_owned());
        if !known.contains_key(&key) && known.len() >= OBJECTS_MAX {
            known.clear();
        }
        work(known.entry(key).or_insert_with(|| {
            let folder = self.folder.join(shelf.folder()).join(object);
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            let mut pieces = Pieces::new();
            for (start, len) in entries.filter_map(|e| piece(e.file_name().to_str()?)) {
                let longest = pieces.entry(start).or_insert((0, false));
                longest.0 = longest.0.max(len);
            }
            pieces
        }))
    }

    /// Looks through the folder, and deletes what was not used for longest until enough is free.
    fn sweep(&self) {
        let mut found: [Vec<(SystemTime, u64, PathBuf)>; 2] = Default::default();
        let mut sums = [0u64; 2];
        for (n, shelf) in Shelf::ALL.into_iter().enumerate() {
            for object in entries(&self.folder.join(shelf.folder())) {
                let before = found[n].len();
                for path in entries(&object) {
                    let Ok(meta) = fs::symlink_metadata(&path) else { continue };
                    sums[n] += meta.len();
                    found[n].push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.len(), path));
                }
                if found[n].len() == before {
                    // One who writes into it makes it again.
                    let _ = fs::remove_dir(&object);
                }
            }
        }
        for draft in entries(&self.folder).filter(|p| p.file_name().is_some_and(is_draft)) {
            let age = fs::metadata(&draft).and_then(|m| m.modified()).map(|m| m.elapsed());
            if age.is_ok_and(|age| age.is_ok_and(|age| age.as_secs() > DRAFT_SECONDS)) {
                let _ = fs::remove_file(&draft);
            }
        }
        // What may be added until the next look through must fit as well.
        let limit = self.limit - self.limit / SWEEP_PART;
        let [trees, data] = &mut sums;
        let trees_limit = limit / 4 * TREES_SHARE;
        let [of_trees, of_data] = found;
        delete_oldest(of_trees, trees, trees_limit);
        delete_oldest(of_data, data, limit.saturating_sub(*trees));
    }
}

/// Deletes the oldest files until the sum of all is at most `limit`.
fn delete_oldest(mut files: Vec<(SystemTime, u64, PathBuf)>, sum: &mut u64, limit: u64) {
    if *sum <= limit {
        return;
    }
    files.sort_unstable_by_key(|(used, ..)| *used);
    for (_, len, path) in files {
        if *sum <= limit {
            return;
        }
        // Gone already is as well; what cannot be deleted is tried again the next time.
        let _ = fs::remove_file(path);
        *sum = sum.saturating_sub(len);
    }
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path())
}

fn draft_name() -> String {
    format!("new-{}", hex(&clock::random_array::<8>()))
}

fn is_draft(name: &std::ffi::OsStr) -> bool {
    name.to_str().is_some_and(|n| n.starts_with("new-"))
}

/// Offset and length, by the name of a file.
fn piece(name: &str) -> Option<(u64, u64)> {
    let (start, len) = name.split_once('-')?;
    let (start, len) = (start.parse::<u64>().ok()?, len.parse::<u64>().ok()?);
    start.checked_add(len).map(|_| (start, len))
}

#[cfg(test)]
mod tests {
    use super::super::folder::tests::Scratch;
    use super::*;

    const MIB: u64 = 1 << 20;

    fn near(scratch: &Scratch) -> Near {
        Near::open(&scratch.0.join("near"), 64 * MIB).unwrap()
    }
    fn files(folder: &Path) -> usize {
        entries(folder).map(|p| if p.is_dir() { files(&p) } else { 1 }).sum()
    }

    #[test]
    fn what_was_kept_is_found_in_any_part_by_this_process_and_the_next() {
        let scratch = Scratch::new();
        let bytes: Vec<u8> = (0..=255).collect();
        for near in [near(&scratch), near(&scratch)] {
            near.put(Shelf::Data, "3f2a", 1000, &bytes).unwrap();
            assert_eq!(near.get(Shelf::Data, "3f2a", 1000, 256).unwrap(), bytes);
            assert_eq!(near.get(Shelf::Data, "3f2a", 1010, 20).unwrap(), bytes[10..30]);
            for (shelf, object, offset, len) in [
                (Shelf::Trees, "3f2a", 1000, 256),
                (Shelf::Data, "3f2b", 1000, 256),
                (Shelf::Data, "3f2a", 999, 2),
                (Shelf::Data, "3f2a", 1255, 2),
            ] {
                assert!(near.get(shelf, object, offset, len).is_none());
            }
        }
        assert_eq!(files(&scratch.0), 1);
        let mode = fs::metadata(scratch.0.join("near")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn a_piece_that_is_cut_gone_or_forgotten_is_not_here_and_can_be_kept_anew() {
        let scratch = Scratch::new();
        let near = near(&scratch);
        let path = near.path(Shelf::Data, "3f2a", 0, 100);
        let put = || near.put(Shelf::Data, "3f2a", 0, &[7; 100]).unwrap();
        put();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(10).unwrap();
        assert!(near.get(Shelf::Data, "3f2a", 0, 50).is_none());
        put();
        fs::remove_file(&path).unwrap();
        assert!(near.get(Shelf::Data, "3f2a", 0, 50).is_none());
        put();
        near.forget(Shelf::Data, "3f2a", 0, 50);
        assert!(!path.exists() && !near.has(Shelf::Data, "3f2a", 0, 50));
        put();
        assert_eq!(near.get(Shelf::Data, "3f2a", 50, 50).unwrap(), [7; 50]);
    }

    #[test]
    fn the_folder_stays_within_its_bound_and_what_was_used_last_and_trees_stay() {
        let scratch = Scratch::new();
        let near = near(&scratch);
        near.put(Shelf::Trees, "tree", 0, &vec![1; MIB as usize]).unwrap();
        near.put(Shelf::Data, "used", 0, &vec![2; MIB as usize]).unwrap();
        let age = |path: PathBuf, hours: u64| {
            let then = SystemTime::now() - Duration::from_secs(hours * 3600);
            File::open(path).unwrap().set_modified(then).unwrap();
        };
        age(near.path(Shelf::Trees, "tree", 0, MIB), 50);
        age(near.path(Shelf::Data, "used", 0, MIB), 50);
        let again = Near::open(&near.folder, near.limit).unwrap();
        assert!(again.get(Shelf::Data, "used", 0, 10).is_some(), "which makes it the newest");
        fs::write(near.folder.join("new-0"), b"left behind").unwrap();
        age(near.folder.join("new-0"), 2);
        for n in 0..80 {
            again.put(Shelf::Data, "more", n * MIB, &vec![3; MIB as usize]).unwrap();
            age(near.path(Shelf::Data, "more", n * MIB, MIB), 10);
        }
        let sum = files(&near.folder);
        assert!((50..=64).contains(&sum), "{sum} MiB of at most 64");
        assert!(again.has(Shelf::Trees, "tree", 0, 1) && near.path(Shelf::Trees, "tree", 0, MIB).exists());
        assert!(near.path(Shelf::Data, "used", 0, MIB).exists());
        assert!(!near.folder.join("new-0").exists());
    }

    #[test]
    fn processes_share_the_folder() {
        let scratch = Scratch::new();
        std::thread::scope(|scope| {
            for n in 0..4u64 {
                let near = near(&scratch);
                scope.spawn(move || {
                    for k in 0..200 {
                        let at = (k + n * 50) % 200 * 64;
                        near.put(Shelf::Trees, "shared", at, &[k as u8; 64]).unwrap();
                        // Whoever came first has kept it.
                        assert_eq!(near.get(Shelf::Trees, "shared", at, 64).map(|b| b.len()), Some(64));
                    }
                });
            }
        });
        assert_eq!(files(&scratch.0), 200);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error() {
        let scratch = Scratch::new();
        fs::write(scratch.0.join("file"), b"").unwrap();
        assert!(Near::open(&scratch.0.join("file/near"), MIB).is_err());
    }
}
