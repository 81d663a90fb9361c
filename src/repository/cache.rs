//! Which folder of the local cache holds the index, and which folders there may go: those of views that nobody has any more, and
//! of places that were not used for long.

use super::Repository;
use crate::fault::Result;
use crate::id::hex;
use crate::index::Index;
use crate::seal::Role;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// First part of the name of the folder of a place that was open beside another one: a replica, or what `check --against` named.
const PLACE: &str = "place-";
/// A file in such a folder: locked by who uses it (flock(2), shared), and as old as the last use.
const USED: &str = "used";
/// So many folders of places are kept, the last used ones: more than a repository has replicas. An index has some 60 bytes for each
/// chunk, and one that has gone is made anew from what the place lists.
const PLACES_MAX: usize = 8;
/// And none that was not used for so long: longer than a disk of each quarter lies in its drawer.
const PLACE_AGE: Duration = Duration::from_secs(120 * 24 * 3600);
/// How often the folder is made anew, where another process removes it in the same moment.
const TRIES: usize = 3;

/// Keeps a place's folder from being cleaned up, until it is dropped.
pub(super) struct Tenancy(#[allow(dead_code, reason = "held for its lock")] File);

impl Tenancy {
    /// Says that the folder is in use, from now on. Without it the folder may go, which costs time and nothing else.
    fn of(dir: &Path) -> Option<Self> {
        for _ in 0..TRIES {
            DirBuilder::new().recursive(true).mode(0o700).create(dir).ok()?;
            let Ok(file) = open(dir) else { continue };
            flock(&file, FlockOperation::LockShared).ok()?;
            if is_named(&file, dir) {
                let _ = file.set_modified(SystemTime::now());
                return Some(Self(file));
            }
        }
        None
    }
}

fn open(dir: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(dir.join(USED))
}

/// Whether the file is still the one in the folder: a lock on one that was deleted keeps nobody out.
fn is_named(file: &File, dir: &Path) -> bool {
    let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    matches!((file.metadata(), fs::metadata(dir.join(USED))), (Ok(a), Ok(b)) if same(&a, &b))
}

/// Removes the folders of places in this view that are too many or too old, but for `own` and those in use. What cannot be removed
/// stays, and costs space.
fn clean(view: &Path, own: &Path) {
    let mut places: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(view).into_iter().flatten().flatten() {
        let path = entry.path();
        if path == own || !entry.file_name().to_str().is_some_and(|name| name.starts_with(PLACE)) {
            continue;
        }
        let used = fs::metadata(path.join(USED)).or_else(|_| entry.metadata());
        if let Ok(used) = used.and_then(|m| m.modified()) {
            places.push((used, path));
        }
    }
    places.sort_by(|a, b| b.cmp(a));
    for (n, (used, place)) in places.into_iter().enumerate() {
        // A clock that was put back makes nothing old.
        let is_old = used.elapsed().is_ok_and(|age| age > PLACE_AGE);
        // The one that is being opened is one as well.
        if n + 1 < PLACES_MAX && !is_old {
            continue;
        }
        if let Ok(file) = open(&place)
            && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
            && is_named(&file, &place)
        {
            let _ = fs::remove_dir_all(&place);
        }
    }
}

/// Names folders of the cache.
fn digest(bytes: &[u8]) -> String {
    hex(&blake3::hash(bytes).as_bytes()[..8])
}

impl Repository {
    /// Which entries count as known differs by who asks: those of full keys for all, and for a writer its own. So each writer
    /// key has an index of its own.
    ///
    /// Of two stores that one process has open each has its own too. That is for speed alone: what counts is what a store lists
    /// now, so that two places which share an index are told apart by one listing, and load all of it anew in turn.
    pub(super) fn index_dir(&self) -> PathBuf {
        let view = self.view_dir();
        match self.is_beside {
            false => view,
            true => view.join(format!("{PLACE}{}", digest(self.location().as_bytes()))),
        }
    }

    fn view_dir(&self) -> PathBuf {
        let who = match self.keys.role {
            Role::Full | Role::Reader => [0; 32],
            Role::Writer => self.keys.public(),
        };
        if who == [0; 32] && self.config.ended.is_empty() && self.config.since == 1 {
            return self.cache.clone();
        }
        // What counted while a key had not ended is another view.
        let state = [&self.config.since.to_le_bytes()[..], &self.config.ended.concat()].concat();
        self.cache.join(format!("view-{}-{}", digest(&who), digest(&state)))
    }

    /// Views of before keys have ended are of no use to anybody who opens the repository from now on.
    fn drop_old_views(&self) {
        let dir = self.view_dir();
        let name = dir.file_name().and_then(|n| n.to_str());
        let Some((who, _)) = name.and_then(|n| n.rsplit_once('-')).filter(|(n, _)| n.starts_with("view-"))
        else {
            return;
        };
        for entry in std::fs::read_dir(&self.cache).into_iter().flatten().flatten() {
            let other = entry.file_name();
            let is_old = other.to_str().and_then(|n| n.rsplit_once('-')).is_some_and(|(n, _)| n == who);
            if is_old && entry.path() != dir {
                // It costs space alone if it stays.
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }

    /// Opened when it is first needed: `key list` needs none.
    pub(crate) fn index(&self) -> Result<&Arc<Index>> {
        let _one = self.opening.lock();
        if let Some((index, _)) = self.index.get() {
            return Ok(index);
        }
        self.drop_old_views();
        let dir = self.index_dir();
        let tenancy = match self.is_beside {
            true => {
                clean(&self.view_dir(), &dir);
                Tenancy::of(&dir)
            }
            false => None,
        };
        let index = Arc::new(Index::open(&dir)?);
        Ok(&self.index.get_or_init(|| (index, tenancy)).0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_places_that_are_too_many_or_too_old_go_and_none_that_is_in_use() {
        let tag = crate::id::hex(&crate::clock::random_array::<8>());
        let view = std::env::temp_dir().join(format!("pastfs-places-{tag}"));
        let dir = |name: &str| view.join(format!("{PLACE}{name}"));
        let day = Duration::from_secs(24 * 3600);
        let aged = |name: &str, days: u32| {
            let tenancy = Tenancy::of(&dir(name)).unwrap();
            tenancy.0.set_modified(SystemTime::now() - day * days).unwrap();
            fs::write(dir(name).join("current"), "x").unwrap();
            tenancy
        };
        let held = aged("held", 400);
        drop(aged("old", 200));
        for n in 0..10 {
            drop(aged(&format!("{n}"), n + 1));
        }
        fs::create_dir(view.join("pieces")).unwrap();
        clean(&view, &dir("9"));
        let mut left: Vec<String> =
            fs::read_dir(&view).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        let kept = ["0", "1", "2", "3", "4", "5", "6", "9", "held"].map(|n| format!("{PLACE}{n}"));
        assert_eq!(left, [&["pieces".into()][..], &kept].concat());
        // Once nobody uses it, it goes too; and what has gone is made anew.
        drop(held);
        clean(&view, &dir("9"));
        assert!(!dir("held").exists());
        let again = Tenancy::of(&dir("held")).unwrap();
        assert!(is_named(&again.0, &dir("held")));
        fs::remove_dir_all(view).unwrap();
    }
}
