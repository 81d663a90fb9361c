//! `pastfs mount`.

use super::access::{Ask, Global};
use super::daemon::{self, Side};
use super::ending::Exit;
use super::log::Log;
use super::progress::Progress;
use crate::fault::{Doing, Result};
use crate::mount::{self, Names, Options, Owners};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Longest time between two looks for new snapshots: a day.
const REFRESH_MAX: i64 = 86_400;

/// Seconds between two looks at a repository elsewhere: three requests each time are a bill in a month.
const REFRESH_FAR: u32 = 60;

/// Show all snapshots as folders
///
/// Each snapshot is a folder named by its time in UTC, such as 2026-11-20T02-00-05Z; in them lie absolute paths. New
/// snapshots appear while it is mounted. The command returns once the mount is ready; `pastfs umount DIR` ends it.
/// The mount is read-only, and what cannot be verified is an error, never wrong bytes. While the repository is away the
/// mount stays, what cannot be read is an error, and the log tells of it. fstab, systemd, Samba and the way out after
/// a crash are described in pastfs(7).
///
/// Beside the snapshots lie other ways to them:
///
/// latest: the newest snapshot.
///
/// at/TIME: the newest snapshot not later than TIME, which may be a date (its end: at/2026-11-19), a date and time
/// (at/2026-11-19T14:00, 'at/2026-11-19 14:00'), today, yesterday, or something like at/3_days_ago. Times are local, and
/// relative ones move on with the clock. A time that comes twice as clocks go back means the second; one that is
/// skipped as they go forward is read as if they had not. The folder lists nothing, as any time is a name in it.
///
/// by-host/HOST/, by-tag/TAG/: the snapshots of one host or with one tag, and the latest of them.
///
/// versions/PATH: that path in all snapshots together. A folder there lists everything that ever was in it, deleted
/// files too. A file there is a folder with an entry for each of its versions, which is named by the time of the
/// first snapshot that holds it and ends like the file, such as versions/home/ana/plan.odt/2026-11-20T02-00-05Z.odt.
/// A version is another one if content, type, size or mtime differ. With --allow-other nobody gets into a folder there
/// who does not in each snapshot that has it.
///
/// The mounted folder itself answers extended attributes that are never listed: `user.pastfs.repository` is the id of the
/// repository, and `user.pastfs.statistics` tells in JSON how many requests of each kind the kernel has sent, how many
/// inodes it holds, how many bytes of memory each of its caches takes, and what the store was asked for. The folder of a
/// snapshot answers `user.pastfs.snapshot`, its id.
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
    /// Look for new snapshots every so many seconds [default: 5; in a repository elsewhere, where it takes three requests
    /// each time, 60]
    #[arg(long, value_name = "SECONDS")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=REFRESH_MAX))]
    refresh: Option<u32>,
    /// Let nothing in the mount be executed
    #[arg(long)]
    noexec: bool,
    /// Append what goes wrong to this file [default: the system's log, as facility daemon]
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// Options as in fstab(5): the long ones of this command, separated by commas, and those of mount(8)
    ///
    /// `-o allow_other,names=%F` is `--allow-other --names %F`; a comma within a value is written `\,`. What mount(8) and
    /// systemd have of their own (noauto, nofail, user, _netdev, x-systemd.automount, comment= and so on) changes
    /// nothing here, and neither do rw, suid, dev and atime: the mount is always read-only, nosuid and nodev, and
    /// keeps no times of access.
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub options: Vec<OsString>,
    /// Inodes that the kernel may hold before the oldest unused ones are taken back; each costs about 1 KB
    #[arg(long, value_name = "N", default_value_t = mount::MAX_INODES)]
    max_inodes: usize,
    /// Show things as owned by others: `names`, `me`, FROM=TO or :FROM=:TO (may be repeated)
    ///
    /// Numbers of owners mean other people on another machine. `names` goes by the names that the snapshot recorded;
    /// those that are unknown here keep their numbers (but where others may look in, unknown owners of another
    /// host's files become nobody, 65534). `me` makes everything belong to who mounts. FROM=TO maps one user, :FROM=:TO
    /// one group, each a name or a number; these come before `names` and `me`. Numbers in ACLs follow FROM=TO; with
    /// `names` and `me` ACLs are not shown, and modes are narrowed until they let in nobody whom an ACL kept out.
    #[arg(long, value_name = "RULE")]
    map_owner: Vec<String>,
    /// Give each file of each snapshot an inode number of its own
    ///
    /// Without it an unchanged file is one inode in all snapshots, and is read and kept in memory once. Some programs
    /// take such files for hard links, or skip what they believe to have seen.
    #[arg(long)]
    unique_inodes: bool,
}

impl Mount {
    pub fn run(self, global: &Global) -> Result<Exit> {
        let dir = std::path::absolute(&self.dir).doing(|| format!("looking for {}", self.dir.display()))?;
        let mut options = Options {
            names: Names::new(self.names.as_deref(), self.local_time)?,
            allow_other: self.allow_other,
            noexec: self.noexec,
            max_inodes: self.max_inodes,
            owners: Owners::new(&self.map_owner)?,
            unique_inodes: self.unique_inodes,
            ..Options::new(dir)
        };
        let log = Log::new(Progress::warnings(global), self.log_file.as_deref(), global.verbose > 0)?;
        let log = Arc::new(log);
        let store = global.followed_store();
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
        let repository = global.open_to_read_with(store, &credential, log.clone())?;
        drop(credential);
        if let Some(seconds) = self.refresh.or(repository.is_far().then_some(REFRESH_FAR)) {
            options.refresh = Duration::from_secs(seconds.into());
        }
        let in_background = log.clone();
        let ready = move || {
            if let Some(ready) = ready {
                in_background.go_into_background();
                ready.tell();
            }
        };
        mount::mount(&repository, &options, log, ready)?;
        Ok(Exit::Done)
    }
}
