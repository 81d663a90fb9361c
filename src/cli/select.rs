//! Which snapshot is meant: an id, `latest`, or a time, among those that pass the filters.

use super::words;
use crate::clock::{self, Time};
use crate::fault::{Error, Fault, Result};
use crate::id::SnapshotId;
use crate::repository::{Repository, Snapshot};
use jiff::civil::Date;
use jiff::tz::{Offset, TimeZone};
use jiff::{Span, Timestamp, Zoned};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

/// Fewest digits of an id: four are seldom ambiguous, and no year is taken for one with dashes.
const ID_DIGITS_MIN: usize = 4;
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
        let mut paths = Vec::new();
        for path in &self.path {
            let whole = std::path::absolute(path)
                .map_err(|e| Error::io(format!("looking for {}", path.display()), e))?;
            paths.push(whole.as_os_str().as_bytes().to_vec());
        }
        let mut passed = Vec::new();
        for snapshot in repository.snapshots()? {
            if !self.passes(&snapshot.manifest.host, &snapshot.tags) {
                continue;
            }
            if !paths.is_empty() {
                let saved = repository.private(&snapshot)?.paths;
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
}

/// Whether `path` is `saved` or lies below it.
fn holds(saved: &[u8], path: &[u8]) -> bool {
    match path.strip_prefix(saved) {
        Some(rest) => rest.is_empty() || rest[0] == b'/' || saved.ends_with(b"/"),
        None => false,
    }
}

/// A snapshot as it is written on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Selector {
    Latest,
    /// Lower-case digits at the beginning of the id.
    Id(String),
    /// The newest not later than this.
    Until(Time),
    /// The name of a folder in the mount: the oldest within that second, else the newest before.
    Folder(Time, Time),
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
        Self::parse_at(text, &Zoned::now_at(clock::now()))
    }

    fn parse_at(text: &OsStr, now: &Zoned) -> Result<Self> {
        let bytes = text.as_bytes();
        let colons = (0..bytes.len()).rev().filter(|i| bytes[*i] == b':');
        for end in std::iter::once(bytes.len()).chain(colons) {
            let Ok(left) = std::str::from_utf8(&bytes[..end]) else { continue };
            if let Some(selector) = selector(left, now) {
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
            let why = if filters.any() {
                "no snapshot passes the filters"
            } else {
                "the repository holds no snapshot yet"
            };
            return Err(Error::new(Fault::Missing, why));
        }
        let list: Vec<_> = snapshots.iter().map(|s| (s.id, s.manifest.time)).collect();
        let at = self.pick(&list)?;
        Ok(snapshots[at].clone())
    }

    /// Index into a list sorted by time, oldest first, that is not empty.
    fn pick(&self, list: &[(SnapshotId, Time)]) -> Result<usize> {
        let missing =
            |why: String| Error::new(Fault::Missing, why).hint("`pastfs snapshots` lists what there is");
        let newest_until = |end: Time| list.partition_point(|(_, t)| *t <= end).checked_sub(1);
        let found = match &self.selector {
            Selector::Latest => Some(list.len() - 1),
            Selector::Id(digits) => return self.pick_id(digits, list),
            Selector::Until(end) => newest_until(*end),
            Selector::Folder(begin, end) => {
                let first = list.partition_point(|(_, t)| t < begin);
                if list.get(first).is_some_and(|(_, t)| t <= end) { Some(first) } else { newest_until(*end) }
            }
        };
        found.ok_or_else(|| {
            missing(format!(
                "no snapshot is as old as {}: the oldest is of {}",
                self.text,
                words::local_time(list[0].1)
            ))
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

/// The time of a `--time` option: its beginning where it names a whole day or minute.
///
/// # Errors
/// A line for people.
pub fn parse_time(text: &str) -> std::result::Result<Time, String> {
    period(text.trim(), &TimeZone::system()).map(|p| p.begin).ok_or_else(|| {
        format!("{text:?} is no time: write it like 2026-11-19, '2026-11-19 14:00' or 2026-11-19T14:00:05Z")
    })
}

fn selector(text: &str, now: &Zoned) -> Option<Selector> {
    if text == "latest" {
        return Some(Selector::Latest);
    }
    let is_id = (ID_DIGITS_MIN..=2 * crate::id::ID_LEN).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_hexdigit());
    if is_id {
        return Some(Selector::Id(text.to_ascii_lowercase()));
    }
    if let Some(end) = relative(text, now) {
        return Some(Selector::Until(end));
    }
    let zone = now.time_zone();
    if let Some(period) = period(text, zone) {
        return Some(match period.folder {
            true => Selector::Folder(period.begin, period.end),
            false => Selector::Until(period.end),
        });
    }
    // A second snapshot of one second has `-` and 8 digits of its id behind the time.
    let (time, digits) = text.rsplit_once('-')?;
    let is_suffix = digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    (is_suffix && period(time, zone)?.folder).then(|| Selector::Id(digits.to_ascii_lowercase()))
}

/// `now`, `today` (its end), `yesterday` (its end), `3 days ago`.
fn relative(text: &str, now: &Zoned) -> Option<Time> {
    match text {
        "now" => return Some(time_of(now.timestamp())),
        "today" => return end_of_day(now.date(), now.time_zone()),
        "yesterday" => return end_of_day(now.date().yesterday().ok()?, now.time_zone()),
        _ => {}
    }
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let [number, unit, "ago"] = words[..] else { return None };
    let n: i64 = match number {
        "a" | "an" | "one" => 1,
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok()?,
        _ => return None,
    };
    let span = Span::new();
    let span = match unit.strip_suffix('s').unwrap_or(unit) {
        "second" => span.try_seconds(n),
        "minute" => span.try_minutes(n),
        "hour" => span.try_hours(n),
        "day" => span.try_days(n),
        "week" => span.try_weeks(n),
        "month" => span.try_months(n),
        "year" => span.try_years(n),
        _ => return None,
    };
    Some(time_of(now.checked_sub(span.ok()?).ok()?.timestamp()))
}

/// What a written time covers: the whole day, minute or second, and whether it is written as the mount
/// names its folders.
struct Period {
    begin: Time,
    end: Time,
    folder: bool,
}

/// Days `2026-11-19`, times of day behind a `T` or a space, with colons (`14:00`, `14:00:05`, `14:00:05.25`)
/// or, as the mount writes them, with dashes (`T02-00-05`); then nothing for the local zone, `Z`, or `+01:00`.
fn period(text: &str, zone: &TimeZone) -> Option<Period> {
    let date_part = text.get(..10)?;
    let shape = date_part.bytes().enumerate().all(|(i, b)| match i {
        4 | 7 => b == b'-',
        _ => b.is_ascii_digit(),
    });
    if !shape {
        return None;
    }
    let date =
        Date::new(date_part[..4].parse().ok()?, date_part[5..7].parse().ok()?, date_part[8..].parse().ok()?)
            .ok()?;
    let rest = &text[10..];
    if rest.is_empty() {
        let begin = time_of(date.to_zoned(zone.clone()).ok()?.timestamp());
        return Some(Period { begin, end: end_of_day(date, zone)?, folder: false });
    }
    let rest = rest.strip_prefix(['T', ' '])?;
    let (hour, rest) = two_digits(rest)?;
    let dashes = rest.starts_with('-') && text.as_bytes()[10] == b'T';
    let separator = if dashes { '-' } else { ':' };
    let (minute, rest) = two_digits(rest.strip_prefix(separator)?)?;
    let (second, rest) = match rest.strip_prefix(separator) {
        Some(rest) => two_digits(rest).map(|(s, rest)| (Some(s), rest))?,
        None if dashes => return None,
        None => (None, rest),
    };
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) if second.is_some() && !dashes => {
            let n = rest.bytes().take_while(u8::is_ascii_digit).count();
            if !(1..=9).contains(&n) {
                return None;
            }
            (Some(format!("{:0<9}", &rest[..n]).parse::<i32>().ok()?), &rest[n..])
        }
        _ => (None, rest),
    };
    let zone = match rest {
        "" => zone.clone(),
        "Z" | "z" => TimeZone::UTC,
        offset => TimeZone::fixed(parse_offset(offset)?),
    };
    let time = jiff::civil::Time::new(hour, minute, second.unwrap_or(0), fraction.unwrap_or(0)).ok()?;
    let begin = time_of(date.to_datetime(time).to_zoned(zone).ok()?.timestamp());
    let end = match (second, fraction) {
        (_, Some(_)) => begin,
        (Some(_), None) => Time { nanos: 999_999_999, ..begin },
        (None, None) => Time { seconds: begin.seconds + 59, nanos: 999_999_999 },
    };
    Some(Period { begin, end, folder: dashes })
}

fn two_digits(text: &str) -> Option<(i8, &str)> {
    let digits = text.get(..2)?;
    let plain = digits.bytes().all(|b| b.is_ascii_digit());
    Some((plain.then(|| digits.parse().ok())??, &text[2..]))
}

/// `+01:00`, `-0530`.
fn parse_offset(text: &str) -> Option<Offset> {
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, rest) = two_digits(&text[1..])?;
    let (minutes, rest) = two_digits(rest.strip_prefix(':').unwrap_or(rest))?;
    (rest.is_empty() && minutes < 60)
        .then(|| Offset::from_seconds(sign * (i32::from(hours) * 3600 + i32::from(minutes) * 60)).ok())?
}

fn end_of_day(date: Date, zone: &TimeZone) -> Option<Time> {
    let next = date.tomorrow().ok()?.to_zoned(zone.clone()).ok()?.timestamp();
    Some(time_of(next.checked_sub(jiff::SignedDuration::from_nanos(1)).ok()?))
}

fn time_of(t: Timestamp) -> Time {
    let nanos = t.as_nanosecond();
    // A timestamp spans the years -9999 to 9999: both parts fit.
    Time { seconds: nanos.div_euclid(1_000_000_000) as i64, nanos: nanos.rem_euclid(1_000_000_000) as u32 }
}

/// The local clock, through the one place that asks the time.
trait NowAt {
    fn now_at(time: Time) -> Zoned;
}
impl NowAt for Zoned {
    fn now_at(time: Time) -> Zoned {
        let t = Timestamp::from_second(time.seconds).unwrap_or(Timestamp::UNIX_EPOCH);
        t.to_zoned(TimeZone::system())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }
    fn now() -> Zoned {
        "2026-11-20T12:30:00Z".parse::<Timestamp>().unwrap().to_zoned(berlin())
    }
    fn at(text: &str) -> Time {
        time_of(text.parse().unwrap())
    }
    fn parse(text: &str) -> Option<Selector> {
        selector(text, &now())
    }
    fn until(text: &str) -> Option<Selector> {
        Some(Selector::Until(at(text)))
    }

    #[test]
    fn a_date_means_the_end_of_that_day_here() {
        assert_eq!(parse("2026-11-19"), until("2026-11-19T22:59:59.999999999Z"));
        // The day on which the clocks go back has 25 hours.
        assert_eq!(parse("2026-10-25"), until("2026-10-25T22:59:59.999999999Z"));
        assert_eq!(parse("yesterday"), parse("2026-11-19"));
        assert_eq!(parse("today"), parse("2026-11-20"));
        assert_eq!(parse("now"), until("2026-11-20T12:30:00Z"));
    }

    #[test]
    fn times_mean_the_end_of_what_they_name() {
        assert_eq!(parse("2026-11-19 14:00"), until("2026-11-19T13:00:59.999999999Z"));
        assert_eq!(parse("2026-11-19T14:00:05"), until("2026-11-19T13:00:05.999999999Z"));
        assert_eq!(parse("2026-11-19T14:00:05Z"), until("2026-11-19T14:00:05.999999999Z"));
        assert_eq!(parse("2026-11-19T14:00:05.25Z"), until("2026-11-19T14:00:05.25Z"));
        assert_eq!(parse("2026-11-19T14:00:05+05:30"), until("2026-11-19T08:30:05.999999999Z"));
        assert_eq!(parse("2026-11-19T14:00:05-0100"), until("2026-11-19T15:00:05.999999999Z"));
    }

    #[test]
    fn times_ago_go_by_the_calendar() {
        assert_eq!(parse("3 days ago"), until("2026-11-17T12:30:00Z"));
        assert_eq!(parse("1 week ago"), until("2026-11-13T12:30:00Z"));
        assert_eq!(parse("an hour ago"), until("2026-11-20T11:30:00Z"));
        assert_eq!(parse("90 minutes ago"), until("2026-11-20T11:00:00Z"));
        // The same hour by the clock on the wall, in summer time.
        assert_eq!(parse("2 months ago"), until("2026-09-20T11:30:00Z"));
        assert_eq!(parse("1 year ago"), until("2025-11-20T12:30:00Z"));
        for text in [
            "days ago",
            "3 ago",
            "3 moons ago",
            "-3 days ago",
            "99999999999999999999 days ago",
            "9999999 years ago",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn names_of_folders_in_the_mount_are_snapshots() {
        let (begin, end) = (at("2026-11-20T02:00:05Z"), at("2026-11-20T02:00:05.999999999Z"));
        assert_eq!(parse("2026-11-20T02-00-05Z"), Some(Selector::Folder(begin, end)));
        assert_eq!(parse("2026-11-20T03-00-05"), Some(Selector::Folder(begin, end)));
        assert_eq!(parse("2026-11-20T03-00-05+0100"), Some(Selector::Folder(begin, end)));
        assert_eq!(parse("2026-11-20T02-00-05Z-1a2b3c4d"), Some(Selector::Id("1a2b3c4d".into())));
    }

    #[test]
    fn what_names_nothing_is_refused() {
        for text in [
            "",
            "abc",
            "latest2",
            "xyz1",
            "2026-13-01",
            "2026-02-30",
            "2026-11-19T25:00",
            "2026-11-19 14",
            "2026-11-19x",
            "2026-11-19T14-00",
            "2026-11-19 14:00:05.",
            "2026-11-19T14:00:0",
            "é2026-11-1",
            "2026-11-19T14:00+1",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
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
