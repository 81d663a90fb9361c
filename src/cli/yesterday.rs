//! `pastfs yesterday`.

use super::access::Global;
use super::ending::Exit;
use super::output::Output;
use super::timeline::real;
use super::words;
use crate::clock::Time;
use crate::fault::{Doing, Error, Fault, Result};
use crate::moment;
use crate::repository::Repository;
use crate::{mount, source};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use serde_json::{Map, Value};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the mount's root and the folders of snapshots answer to.
const OF_REPOSITORY: &str = "user.pastfs.repository";
const OF_SNAPSHOT: &str = "user.pastfs.snapshot";
/// Longest value of these that is read: an id in hexadecimal digits, with room.
const VALUE_MAX: usize = 256;
/// What diff(1) ends with when it could not compare.
const DIFF_TROUBLE: u8 = 2;

/// Print where a file of yesterday is in the mount
///
/// The path of FILE in the newest snapshot that is not later than the end of yesterday, as in
/// `cp $(pastfs yesterday report.odt) .`, after yesterday(1) of Plan 9. The repository must be mounted; no password
/// is needed. With -r, or PASTFS_REPOSITORY, the mount of that repository is taken, else the only one that there is.
///
/// Snapshots that do not hold FILE's folder, since they are of other hosts or paths, are passed over.
#[derive(clap::Args)]
pub struct Yesterday {
    /// Files or folders of this machine, which need not be there any more
    #[arg(required = true)]
    file: Vec<PathBuf>,
    /// So many days ago, by the calendar; 0 is today
    #[arg(short = 'n', long, value_name = "DAYS", default_value_t = 1)]
    days: u32,
    /// Show what differs from today's file, by `diff -ru`, and end with the exit code of that
    #[arg(short, long, conflicts_with = "json")]
    diff: bool,
    /// Where the repository is mounted
    #[arg(long, value_name = "DIR")]
    mount: Option<PathBuf>,
}

/// The folder of a snapshot in the mount.
struct Dated {
    path: PathBuf,
    time: Time,
}

impl Yesterday {
    pub fn run(self, global: &Global) -> Result<Exit> {
        let until = self.until()?;
        let mount = self.find_mount(global)?;
        let dated = dated_folders(&mount)?;
        let mut out = Output::open()?;
        let mut code = 0;
        for file in &self.file {
            let today = source::absolute(file)?;
            let (path, time) = self.look(&dated, until, &today)?;
            if self.diff {
                let ended = Command::new("diff").arg("-ru").arg("--").arg(&path).arg(&today).status();
                let ended = ended.doing(|| "running diff")?;
                code = code.max(ended.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(DIFF_TROUBLE));
            } else if global.json {
                let mut object = Map::new();
                words::put_text(&mut object, "path", path.as_os_str().as_bytes());
                object.insert("snapshot_time".into(), words::machine_time(time).into());
                out.line(Value::from(object).to_string())?;
            } else {
                // As it is: it is for other programs.
                out.bytes(path.as_os_str().as_bytes())?;
                out.bytes(b"\n")?;
            }
        }
        out.finish()?;
        Ok(Exit::As(code))
    }

    /// The end of the day that is meant.
    fn until(&self) -> Result<Time> {
        let far = || Error::misuse(format!("{} days ago is before the calendar begins", self.days));
        let now = moment::now();
        let span = jiff::Span::new().try_days(self.days).map_err(|_| far())?;
        let day = now.date().checked_sub(span).map_err(|_| far())?;
        match moment::parse(&day.to_string(), &now) {
            Some(moment::Selector::Until(end)) => Ok(end),
            _ => Err(far()),
        }
    }

    /// The mountpoint.
    fn find_mount(&self, global: &Global) -> Result<PathBuf> {
        if let Some(dir) = &self.mount {
            return match attribute(dir, OF_REPOSITORY) {
                Some(_) => std::path::absolute(dir).doing(|| format!("looking for {}", dir.display())),
                None => Err(Error::misuse(format!("{} is no mount of pastfs", dir.display()))
                    .hint("name the folder that `pastfs mount` was given")),
            };
        }
        let mut mounts: Vec<(PathBuf, Vec<u8>)> = Vec::new();
        for point in mount::mountpoints()? {
            // One that is dead, or another user's, answers nothing.
            mounts.extend(attribute(&point, OF_REPOSITORY).map(|id| (point, id)));
        }
        let how = "mount it: pastfs mount DIR, or name the mount by --mount DIR";
        match global.place() {
            Ok(place) => {
                let id = Repository::claimed_id(&*global.store()?)?.hex();
                let ours = mounts.into_iter().find(|(_, of)| *of == id.as_bytes());
                ours.map(|(point, _)| point).ok_or_else(|| {
                    let what = format!("the repository {place} is not mounted");
                    Error::new(Fault::Missing, what).hint(how)
                })
            }
            Err(_) => {
                let first = mounts.first().map(|(_, id)| id.clone());
                if mounts.iter().any(|(_, id)| Some(id) != first.as_ref()) {
                    return Err(Error::misuse("several repositories are mounted")
                        .hint("say which: -r REPOSITORY, or --mount DIR"));
                }
                let only = mounts.into_iter().next().map(|(point, _)| point);
                only.ok_or_else(|| Error::new(Fault::Missing, "no repository is mounted").hint(how))
            }
        }
    }

    /// The path in the newest snapshot that is old enough and has the file's folder.
    fn look(&self, dated: &[Dated], until: Time, file: &Path) -> Result<(PathBuf, Time)> {
        let real = real(file);
        let tried = if real == file { vec![file] } else { vec![file, real.as_path()] };
        let days = match self.days {
            0 => "today".into(),
            1 => "yesterday".into(),
            n => format!("{n} days ago"),
        };
        let wrong = |what: String| Error::new(Fault::Missing, what);
        for d in dated.iter().filter(|d| d.time <= until && attribute(&d.path, OF_SNAPSHOT).is_some()) {
            for path in &tried {
                let inside = path.strip_prefix("/").unwrap_or(path);
                if is_there(&d.path, inside) {
                    return Ok((d.path.join(inside), d.time));
                }
            }
            let parent = |path: &&Path| {
                path.parent()
                    .and_then(|p| p.strip_prefix("/").ok())
                    .is_some_and(|p| !p.as_os_str().is_empty() && is_there(&d.path, p))
            };
            if tried.iter().any(parent) {
                let time = words::local_time(d.time);
                return Err(wrong(format!(
                    "there was no {} {days}: the snapshot of {time} does not have it",
                    file.display()
                ))
                .hint("`pastfs versions FILE` lists all that there are"));
            }
        }
        Err(match dated.iter().map(|d| d.time).min() {
            Some(oldest) if oldest > until => wrong(format!(
                "no snapshot is as old as {days}: the oldest is of {}",
                words::local_time(oldest)
            )),
            Some(_) => wrong(format!("no snapshot of {days} or before has {}", file.display()))
                .hint("`pastfs versions FILE` lists all that there are"),
            None => wrong("the mount holds no snapshot that you may look into".into()),
        })
    }
}

/// An extended attribute of a folder.
fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; VALUE_MAX];
    let len = rustix::fs::getxattr(path, name, &mut value[..]).ok()?;
    value.truncate(len);
    Some(value)
}

/// The folders in the mount's root, newest first; their mtime is the snapshot's time.
fn dated_folders(at: &Path) -> Result<Vec<Dated>> {
    let doing = || format!("listing {}", at.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(at).doing(doing)? {
        let entry = entry.doing(doing)?;
        // The other ways to the snapshots are none.
        if mount::names::BESIDE.contains(&entry.file_name().as_bytes()) {
            continue;
        }
        // What vanishes meanwhile was forgotten. A symlink is another name of one of these.
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            let nanos = u32::try_from(metadata.mtime_nsec()).unwrap_or_default();
            found.push(Dated { path: entry.path(), time: Time { seconds: metadata.mtime(), nanos } });
        }
    }
    found.sort_by(|a, b| (b.time, &b.path).cmp(&(a.time, &a.path)));
    Ok(found)
}

/// Whether a path is below a folder, without going through a symlink: those of a snapshot may lead out of it, to
/// the files of today.
fn is_there(folder: &Path, inside: &Path) -> bool {
    let path = if inside.as_os_str().is_empty() { Path::new(".") } else { inside };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(folder) = rustix::fs::openat(CWD, folder, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) else {
        return false;
    };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    // With both flags, a last part that is a symlink is opened itself (openat2(2)).
    rustix::fs::openat2(&folder, path, flags, Mode::empty(), resolve).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symlink_is_there_and_what_lies_behind_one_is_not() {
        let folder = std::env::temp_dir().join(format!("pastfs-there-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("real")).unwrap();
        std::fs::write(folder.join("real/f"), b"").unwrap();
        std::os::unix::fs::symlink("/etc", folder.join("out")).unwrap();
        std::os::unix::fs::symlink("real", folder.join("in")).unwrap();
        std::os::unix::fs::symlink("nowhere", folder.join("real/dead")).unwrap();
        let there = |path: &str| is_there(&folder, Path::new(path));
        assert!(there("") && there("real/f") && there("out") && there("real/dead"));
        assert!(!there("out/passwd") && !there("in/f") && !there("real/x") && !there("../"));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
