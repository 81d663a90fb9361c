//! `pastfs mount`.

use super::access::{Ask, Global};
use super::daemon::{self, Side};
use super::ending::Exit;
use super::progress::Progress;
use crate::fault::{Doing, Result};
use crate::mount::{self, Names, Options};
use std::path::PathBuf;

/// Show all snapshots as folders
///
/// Each snapshot is a folder named by its time in UTC, such as 2026-11-20T02-00-05Z, and `latest` is the newest one;
/// in them lie absolute paths. New snapshots appear while it is mounted. The command returns once the mount is
/// ready; `pastfs umount DIR` ends it. The mount is read-only, and what cannot be verified is an error, never wrong
/// bytes.
///
/// The mounted folder itself answers extended attributes that are never listed: `user.pastfs.repository` is the id of the
/// repository, and `user.pastfs.statistics` tells in JSON how many requests of each kind the kernel has sent and how many
/// inodes it holds. The folder of a snapshot answers `user.pastfs.snapshot`, its id.
#[derive(clap::Args)]
pub struct Mount {
    /// An empty folder
    dir: PathBuf,
    /// Stay in the foreground until it is unmounted or interrupted
    #[arg(short, long)]
    foreground: bool,
    /// Let other users in; then the permissions in the snapshots are enforced
    #[arg(long)]
    allow_other: bool,
    /// Use the local time in the names of folders, such as 2026-11-20T03-00-05+0100
    #[arg(long)]
    local_time: bool,
    /// Name the folders by this strftime format, with {id}, {host} and {tags}
    #[arg(long, value_name = "FORMAT")]
    names: Option<String>,
    /// Inodes that the kernel may hold before the oldest unused ones are taken back; each costs about 1 KB
    #[arg(long, value_name = "N", default_value_t = mount::MAX_INODES)]
    max_inodes: usize,
}

impl Mount {
    pub fn run(self, global: &Global) -> Result<Exit> {
        let dir = std::path::absolute(&self.dir).doing(|| format!("looking for {}", self.dir.display()))?;
        let options = Options {
            names: Names::new(self.names.as_deref(), self.local_time)?,
            allow_other: self.allow_other,
            max_inodes: self.max_inodes,
            ..Options::new(dir)
        };
        let store = global.store()?;
        let credential = global.credential(Ask::Once)?;
        let ready = match self.foreground {
            true => None,
            // Before there is any thread; the store has none.
            false => match daemon::split()? {
                Side::Parent(waiting) => return waiting.wait(),
                Side::Child(ready) => Some(ready),
            },
        };
        mount::session::block_signals();
        let observer = Progress::warnings(global);
        let repository = global.open_with(store, &credential, observer.clone())?;
        drop(credential);
        let ready = || {
            if let Some(ready) = ready {
                ready.tell();
            }
        };
        mount::mount(&repository, &options, observer, ready)?;
        Ok(Exit::Done)
    }
}
