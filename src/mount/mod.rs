//! The repository as a folder: every snapshot under its time, readable by any program.
//!
//! `view` answers what the kernel asks, as plain functions, with `views` for what lies beside the snapshots and `versions`
//! for a path through all of them; `fuse` carries the questions and answers; `numbering` says which number a file
//! has, and `inodes` keeps what the kernel holds; `serve` is life and death. A thread of its own tells the kernel of new snapshots: a handler that did so would wait for a lock that
//! the kernel holds for it.

mod attributes;
mod counters;
mod elsewhere;
pub mod errno;
mod eviction;
mod folders;
mod fuse;
mod inodes;
mod lru;
mod mountpoint;
pub mod names;
mod numbering;
mod owners;
mod past;
mod pushing;
mod reading;
mod serve;
pub mod session;
mod snapshots;
mod versions;
mod view;
#[cfg(test)]
mod view_tests;
mod views;
#[cfg(test)]
mod views_tests;
mod waiting;
mod walking;
mod xattrs;

pub use mountpoint::{mountpoints, umount};
pub use names::{Named, Names};
pub use owners::Owners;

use crate::event::Observer;
use crate::fault::{Doing, Result};
use crate::repository::{Keep, Repository, Right, Snapshot};
use mountpoint::Backing;
use serve::Listed;
use snapshots::Shown;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use view::Setting;

/// The default of [`Options::max_inodes`]: a walk over six snapshots of a kernel tree fits. Each takes about 180 bytes
/// here, 90 MB if the kernel holds them all, beside what the caches take (`folders.rs`), and 1 KB in the kernel.
pub const MAX_INODES: usize = 500_000;

/// How to mount.
#[derive(Clone, Debug)]
pub struct Options {
    /// An empty folder.
    pub mountpoint: PathBuf,
    /// How the folders of snapshots are called.
    pub names: Names,
    /// Other users may look in, as far as modes and ACLs let them; snapshots of other hosts stay the
    /// owner's alone, unless owners are mapped.
    pub allow_other: bool,
    /// Nothing in it can be executed.
    pub noexec: bool,
    /// As whose things are shown.
    pub owners: Owners,
    /// Each file of each snapshot has a number of its own, for programs that take what shares one for one file. Pages
    /// in memory are then not shared either.
    pub unique_inodes: bool,
    /// How often new snapshots are looked for.
    pub refresh: Duration,
    /// Threads that answer the kernel; as many as there are cores, and at least 2, where it is `None`.
    pub threads: Option<usize>,
    /// Inodes that the kernel may hold before the oldest that nobody uses are taken back: about 200 bytes each
    /// here, and 1 KB in the kernel.
    pub max_inodes: usize,
}

impl Options {
    /// The defaults for a mountpoint.
    pub fn new(mountpoint: PathBuf) -> Self {
        Self {
            mountpoint,
            names: Names::default(),
            allow_other: false,
            noexec: false,
            owners: Owners::default(),
            unique_inodes: false,
            refresh: Duration::from_secs(5),
            threads: None,
            max_inodes: MAX_INODES,
        }
    }
}

fn shown(s: &Snapshot) -> Shown {
    let t = &s.manifest.totals;
    Shown {
        id: s.id,
        root: s.manifest.root,
        time: s.manifest.time,
        host: s.manifest.host.clone(),
        tags: s.tags.clone(),
        bytes: t.stored_bytes,
        entries: t.files.saturating_add(t.folders).saturating_add(t.others),
    }
}

/// Mounts a repository, and returns when it was unmounted: by `umount`, or by SIGINT, SIGTERM or SIGHUP,
/// which [`session::block_signals`] must have blocked before any thread was started. `ready` is called once
/// the mount can be used.
///
/// # Errors
/// `Missing`, `Misuse`, `Busy` or `Denied` for a mountpoint that will not do, each with a hint; what the
/// repository says to the first list of snapshots. Later failures go to the observer.
pub fn mount(
    repository: &Arc<Repository>,
    options: &Options,
    observer: Arc<dyn Observer>,
    ready: impl FnOnce() + Send,
) -> Result<()> {
    repository.allow(Right::Read, "mounting")?;
    crate::memory::give_back_when_idle();
    let listed = {
        let repository = repository.clone();
        move |lost: bool| {
            let mut found_again = lost && repository.find_again();
            let snapshots = match repository.snapshots() {
                Err(_) if !found_again && repository.find_again() => {
                    found_again = true;
                    repository.snapshots()?
                }
                listed => listed?,
            };
            Ok(Listed { shown: snapshots.iter().map(|s| shown(s)).collect(), found_again })
        }
    };
    let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let host = rustix::system::uname().nodename().to_bytes().to_vec();
    let reader = repository.reader_keeping(Keep::All);
    let setting = Setting {
        names: options.names.clone(),
        inode_key: repository.inode_key(),
        repository: repository.id(),
        owner,
        only_host: options.allow_other.then_some(host),
        owners: options.owners.clone(),
        unique_inodes: options.unique_inodes,
        store: repository.counts(),
        caches: Box::new({
            let reader = reader.clone();
            move || reader.caches()
        }),
    };
    let backing = Backing {
        source: repository.location(),
        folders: crate::storage::folder_of(&repository.location())
            .into_iter()
            .chain([repository.cache_dir().to_path_buf()])
            .collect(),
    };
    serve::serve(reader, setting, options, &backing, Box::new(listed), observer, ready)
        .doing(|| format!("mounting {} at {}", repository.location(), options.mountpoint.display()))
}
