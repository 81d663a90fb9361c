//! Which snapshot is meant: an id, `latest`, or a time, among those that pass the filters.

use super::words;
use crate::clock::Time;
use crate::fault::{Error, Fault, Result};
use crate::id::SnapshotId;
use crate::moment::{self, Selector};
use crate::repository::{Repository, Snapshot};
use jiff::Zoned;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

/// Most snapshots that a message about an ambiguous id names.
const CANDIDATES_MAX: usize = 10;

/// Narrows the snapshots that a command looks at.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Filters {
    /// Only snapshots of this host (may be repeated: any of them)
    #[arg(long, value_name = "HOST", help_heading = "Filters")]
    pub host: Vec<OsString>,
    /// Only snapshots with this tag, or with all of `a,b` (may be repeated: any of them)
    #[arg(long, value_name = "TAG[,TAG]", help_heading = "Filters")]
    pub tag: Vec<OsString>,
    /// Only snapshots that hold this path (may be repeated: all of them)
    #[arg(long, value_name = "PATH", help_heading = "Filters")]
    pub path: Vec<PathBuf>,
}

impl Filters {
    /// The snapshots that pass, oldest first.
    pub fn snapshots(&self, repository: &Repository) -> Result<Vec<Arc<Snapshot>>> {
        self.pass(repository, repository.snapshots()?)
    }

    /// Those of a list that pass, in its order.
    pub fn pass(&self, repository: &Repository, all: Vec<Arc<Snapshot>>) -> Result<Vec<Arc<Snapshot>>> {
        let mut paths = Vec::new();
        for path in &self.path {
            let whole = std::path::absolute(path)
                .map_err(|e| Error::io(format!("looking for {}", path.display()), e))?;
            paths.push(whole.as_os_str().as_bytes().to_vec());
        }
        let mut passed = Vec::new();
        for snapshot in all {
            if !self.passes(&snapshot.manifest.host, &snapshot.tags) {
                continue;
            }
            if !paths.is_empty() {
                let saved = match repository.private(&snapshot) {
                    Ok(private) => private.paths,
                    // It holds none that can be told; who lists it without this filter is told why.
                    Err(e) if e.fault() == Fault::Damaged => continue,
                    Err(e) => return Err(e),
                };
                if !paths.iter().all(|p| saved.iter().any(|s| holds(s, p))) {
                    continue;
                }
            }
            passed.push(snapshot);
        }
        Ok(passed)
    }

    fn passes(&self, host: &[u8], tags: &[Vec<u8>]) -> bool {
        let has = |tag: &[u8]| tags.iter().any(|t| t == tag);
        let host_passes = self.host.is_empty() || self.host.iter().any(|h| h.as_bytes() == host);
        let tags_pass =
            self.tag.is_empty() || self.tag.iter().any(|t| t.as_bytes().split(|b| *b == b',').all(has));
        host_passes && tags_pass
    }

    fn any(&self) -> bool {
        !(self.host.is_empty() && self.tag.is_empty() && self.path.is_empty())
    }

    /// The error where no snapshot passes.
    pub fn none(&self) -> Error {
        let why = if self.any() {
            "no snapshot passes the filters"
        } else {
            "the repository holds no snapshot yet"
        };
        Error::new(Fault::Missing, why)
    }
}

/// Whether `path` is `saved` or lies below it.
pub fn holds(saved: &[u8], path: &[u8]) -> bool {
    match path.strip_prefix(saved) {
        Some(rest) => rest.is_empty() || rest[0] == b'/' || saved.ends_with(b"/"),
        None => false,
    }
}

/// `SNAPSHOT[:PATH]` as it was written.
#[derive(Clone, Debug)]
pub struct Target {
    text: String,
    selector: Selector,
    /// What follows the colon; `None` if there is none.
    pub path: Option<Vec<u8>>,
}

impl Target {
    /// Takes `SNAPSHOT[:PATH]` apart. Times hold colons, so the longest part that is a snapshot counts.
    ///
    /// # Errors
    /// `Misuse` where no beginning of the text names a snapshot.
    pub fn parse(text: &OsStr) -> Result<Self> {
        Self::parse_at(text, &moment::now())
    }

    fn parse_at(text: &OsStr, now: &Zoned) -> Result<Self> {
        let bytes = text.as_bytes();
        let colons = (0..bytes.len()).rev().filter(|i| bytes[*i] == b':');
        for end in std::iter::once(bytes.len()).chain(colons) {
            let Ok(left) = std::str::from_utf8(&bytes[..end]) else { continue };
            if let Some(selector) = moment::parse(left, now) {
                let path = (end < bytes.len()).then(|| bytes[end + 1..].to_vec());
                return Ok(Self { text: left.into(), selector, path });
            }
        }
        Err(Error::misuse(format!("{:?} names no snapshot", text.to_string_lossy())).hint(
            "write an id (at least 4 digits), `latest`, a time such as 2026-11-19, '2026-11-19 14:00', yesterday or \
             '3 days ago', or the name of a folder in the mount",
        ))
    }

    /// The snapshot, among those that pass the filters.
    ///
    /// # Errors
    /// `Missing` if there is none, `Misuse` where an id has several.
    pub fn find(&self, repository: &Repository, filters: &Filters) -> Result<Arc<Snapshot>> {
        let snapshots = filters.snapshots(repository)?;
        if snapshots.is_empty() {
            return Err(filters.none());
        }
        self.among(&snapshots)
    }

    /// The snapshot, among these, which are sorted by time, oldest first.
    ///
    /// # Errors
    /// As [`Target::find`].
    pub fn among(&self, snapshots: &[Arc<Snapshot>]) -> Result<Arc<Snapshot>> {
        let list: Vec<_> = snapshots.iter().map(|s| (s.id, s.manifest.time)).collect();
        let at = self.pick(&list)?;
        Ok(snapshots[at].clone())
    }

    /// Whether it is written as an id.
    pub fn is_id(&self) -> bool {
        matches!(self.selector, Selector::Id(_))
    }

    /// Index into a list sorted by time, oldest first.
    fn pick(&self, list: &[(SnapshotId, Time)]) -> Result<usize> {
        let missing =
            |why: String| Error::new(Fault::Missing, why).hint("`pastfs snapshots` lists what there is");
        if let Selector::Id(digits) = &self.selector {
            return self.pick_id(digits, list);
        }
        let found = moment::pick(&self.selector, list, |(_, time)| *time);
        found.ok_or_else(|| match list.first() {
            Some((_, oldest)) => missing(format!(
                "no snapshot is as old as {}: the oldest is of {}",
                self.text,
                words::local_time(*oldest)
            )),
            None => missing(format!("there is no snapshot to be {}", self.text)),
        })
    }

    fn pick_id(&self, digits: &str, list: &[(SnapshotId, Time)]) -> Result<usize> {
        let hits: Vec<usize> = (0..list.len()).filter(|i| list[*i].0.hex().starts_with(digits)).collect();
        match hits[..] {
            [] => Err(Error::new(Fault::Missing, format!("no snapshot has an id that begins with {digits}"))
                .hint("`pastfs snapshots` lists what there is")),
            [one] => Ok(one),
            _ => {
                let mut names: Vec<String> = hits
                    .iter()
                    .take(CANDIDATES_MAX)
                    .map(|i| format!("{} of {}", &list[*i].0.hex()[..16], words::local_time(list[*i].1)))
                    .collect();
                if hits.len() > CANDIDATES_MAX {
                    names.push(format!("and {} more", hits.len() - CANDIDATES_MAX));
                }
                Err(Error::misuse(format!(
                    "{} snapshots have an id that begins with {digits}: {}",
                    hits.len(),
                    names.join(", ")
                ))
                .hint("write more digits"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Zoned {
        "2026-11-20T13:30:00+01:00[Europe/Berlin]".parse().unwrap()
    }
    fn at(text: &str) -> Time {
        let t: jiff::Timestamp = text.parse().unwrap();
        Time { seconds: t.as_second(), nanos: t.subsec_nanosecond() as u32 }
    }

    #[test]
    fn paths_follow_the_first_colon_behind_the_snapshot() {
        let split = |text: &[u8]| {
            let t = Target::parse_at(OsStr::from_bytes(text), &now()).unwrap();
            (t.text, t.path.map(|p| String::from_utf8_lossy(&p).into_owned()))
        };
        let to = |text: &str, path: &str| (text.to_string(), Some(path.to_string()));
        assert_eq!(split(b"latest"), ("latest".into(), None));
        assert_eq!(split(b"latest:/etc"), to("latest", "/etc"));
        assert_eq!(split(b"latest:/a:b:1a2b"), to("latest", "/a:b:1a2b"));
        assert_eq!(split(b"latest:/\xff"), to("latest", "/\u{fffd}"));
        assert_eq!(split(b"1A2b:"), to("1A2b", ""));
        assert_eq!(split(b"2026-11-19T14:00:05Z"), ("2026-11-19T14:00:05Z".into(), None));
        assert_eq!(split(b"2026-11-19 14:00:/etc"), to("2026-11-19 14:00", "/etc"));
        assert_eq!(split(b"2026-11-19 14:00:05:/etc"), to("2026-11-19 14:00:05", "/etc"));
        let e = Target::parse_at(OsStr::new("nonsense:/etc"), &now()).unwrap_err();
        assert_eq!(e.fault(), Fault::Misuse);
        assert!(e.advice().is_some());
    }

    #[test]
    fn the_newest_not_later_is_picked() {
        let id = |n: u8| {
            let mut id = [0x11; 32];
            id[31] = n;
            SnapshotId(id)
        };
        let mut list: Vec<_> = [
            "2026-11-18T02:00:05Z",
            "2026-11-19T02:00:05Z",
            "2026-11-20T02:00:05.5Z",
            "2026-11-20T02:00:05.7Z",
        ]
        .iter()
        .enumerate()
        .map(|(n, t)| (id(n as u8), at(t)))
        .collect();
        let pick = |text: &str, list: &[(SnapshotId, Time)]| {
            Target::parse_at(OsStr::new(text), &now()).unwrap().pick(list)
        };
        assert_eq!(pick("latest", &list).unwrap(), 3);
        assert_eq!(pick("yesterday", &list).unwrap(), 1);
        assert_eq!(pick("2026-11-20T02-00-05Z", &list).unwrap(), 2);
        assert_eq!(pick("2026-11-20T02:00:05Z", &list).unwrap(), 3);
        assert_eq!(pick("2 days ago", &list).unwrap(), 0);
        let e = pick("2026-11-17", &list).unwrap_err();
        assert_eq!(e.fault(), Fault::Missing);
        assert_eq!(pick(&id(2).hex(), &list).unwrap(), 2);
        let e = pick("1111", &list).unwrap_err();
        assert_eq!(e.fault(), Fault::Misuse);
        assert!(e.to_string().contains("4 snapshots"), "{e}");
        assert_eq!(pick("1112", &list).unwrap_err().fault(), Fault::Missing);
        list[0].0 = SnapshotId([0xab; 32]);
        assert_eq!(pick("ABAB", &list).unwrap(), 0);
    }

    #[test]
    fn filters_pass_any_host_any_tag_group_and_paths_below() {
        let f =
            Filters { host: vec!["a".into(), "b".into()], tag: vec!["x,y".into(), "z".into()], path: vec![] };
        let tags = |t: &[&str]| t.iter().map(|t| t.as_bytes().to_vec()).collect::<Vec<_>>();
        assert!(f.passes(b"b", &tags(&["x", "y", "w"])));
        assert!(f.passes(b"a", &tags(&["z"])));
        assert!(!f.passes(b"a", &tags(&["x"])));
        assert!(!f.passes(b"c", &tags(&["z"])));
        assert!(holds(b"/home", b"/home") && holds(b"/home", b"/home/ana") && holds(b"/", b"/home"));
        assert!(!holds(b"/home", b"/homes") && !holds(b"/home/ana", b"/home"));
    }
}
