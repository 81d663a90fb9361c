//! The names of snapshots' folders.
//!
//! By default the time in UTC, `2026-11-20T02-00-05Z`: it sorts by time, also through the change to
//! and from summer time, and has no colon, which rsync, scp and Samba would trip over. In local time
//! the offset stands behind it (`2026-11-20T03-00-05+0100`), so that the hour that comes twice in autumn
//! gives two names, and a name says which moment is meant.

use crate::clock::Time;
use crate::fault::{Error, Fault, Result};
use crate::id::SnapshotId;
use jiff::tz::TimeZone;
use std::collections::HashSet;

/// The symlink to the newest snapshot.
pub const LATEST: &[u8] = b"latest";
/// The folder whose names are times.
pub const AT: &[u8] = b"at";
/// The folder with a folder for each host.
pub const BY_HOST: &[u8] = b"by-host";
/// The folder with a folder for each tag.
pub const BY_TAG: &[u8] = b"by-tag";
/// The folder with the paths of all snapshots together.
pub const VERSIONS: &[u8] = b"versions";
/// What lies beside the snapshots: no snapshot can have such a name. Sorted.
pub const BESIDE: [&[u8]; 5] = [AT, BY_HOST, BY_TAG, LATEST, VERSIONS];
/// Longest name in bytes before it is made unique: Linux has 255, and `-` and an id need up to 65.
const LENGTH_MAX: usize = 180;
const UTC: &str = "%Y-%m-%dT%H-%M-%SZ";
const LOCAL: &str = "%Y-%m-%dT%H-%M-%S%z";
/// Longest extension that is kept, with its dot; what is longer is seldom one.
const EXTENSION_MAX: usize = 32;
/// Digits of a digest that tell names apart that were cut.
const CUT_DIGITS: usize = 8;

/// How snapshots are named.
#[derive(Clone, Debug)]
pub struct Names {
    parts: Vec<Part>,
    zone: TimeZone,
}

#[derive(Clone, Debug)]
enum Part {
    /// A format for strftime(3).
    Time(String),
    Id,
    Host,
    Tags,
}

/// What a name is made of.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    /// Time of the snapshot.
    pub time: Time,
    /// Its id.
    pub id: &'a SnapshotId,
    /// Its host.
    pub host: &'a [u8],
    /// Its tags, sorted.
    pub tags: &'a [Vec<u8>],
}

impl Default for Names {
    fn default() -> Self {
        Self { parts: vec![Part::Time(UTC.to_string())], zone: TimeZone::UTC }
    }
}

impl Names {
    /// Names by `format`: strftime(3), and `{id}` (all 64 digits), `{host}`, `{tags}` (joined by
    /// commas); the default form where there is none. Times are UTC, or local by the system's zone.
    ///
    /// # Errors
    /// `Misuse` for a format that is empty, has a `/`, an unknown `{…}` or an unknown `%…`.
    pub fn new(format: Option<&str>, local: bool) -> Result<Self> {
        let zone = if local { TimeZone::system() } else { TimeZone::UTC };
        let format = format.unwrap_or(if local { LOCAL } else { UTC });
        if format.is_empty() || format.contains('/') || format.contains('\0') {
            return Err(Error::misuse(format!("{format:?} cannot name a folder: it is empty or has a /")));
        }
        let mut parts = Vec::new();
        let mut rest = format;
        while let Some(open) = rest.find('{') {
            let close = rest[open..].find('}').map(|n| open + n);
            let Some(close) = close else {
                return Err(Error::misuse(format!("a brace is not closed in {format:?}")));
            };
            if open > 0 {
                parts.push(Part::Time(rest[..open].to_string()));
            }
            parts.push(match &rest[open + 1..close] {
                "id" => Part::Id,
                "host" => Part::Host,
                "tags" => Part::Tags,
                other => {
                    return Err(Error::misuse(format!("{{{other}}} is unknown in {format:?}"))
                        .hint("known are {id}, {host} and {tags}"));
                }
            });
            rest = &rest[close + 1..];
        }
        if !rest.is_empty() {
            parts.push(Part::Time(rest.to_string()));
        }
        let names = Self { parts, zone };
        for part in &names.parts {
            if let Part::Time(format) = part {
                names.time(format, Time::default()).map_err(|e| {
                    Error::with_source(Fault::Misuse, format!("{format:?} is no format of times"), e)
                })?;
            }
        }
        Ok(names)
    }

    /// A time in the default form, UTC or local, whatever the names of snapshots are.
    pub(super) fn moment(&self, time: Time) -> Vec<u8> {
        let format = if self.zone == TimeZone::UTC { UTC } else { LOCAL };
        match self.time(format, time) {
            Ok(text) => text.into_bytes(),
            Err(_) => seconds(time),
        }
    }

    fn time(&self, format: &str, time: Time) -> std::result::Result<String, jiff::Error> {
        let nanos = i32::try_from(time.nanos).unwrap_or(0);
        let zoned = jiff::Timestamp::new(time.seconds, nanos)?.to_zoned(self.zone.clone());
        jiff::fmt::strtime::format(format, &zoned)
    }

    /// The name of one snapshot, without regard to others.
    pub(super) fn plain(&self, s: &Named<'_>) -> Vec<u8> {
        let mut name = Vec::new();
        for part in &self.parts {
            match part {
                Part::Time(format) => match self.time(format, s.time) {
                    Ok(text) => escape_into(text.as_bytes(), false, &mut name),
                    Err(_) => name.extend_from_slice(&seconds(s.time)),
                },
                Part::Id => name.extend_from_slice(s.id.hex().as_bytes()),
                Part::Host => escape_into(s.host, true, &mut name),
                Part::Tags => escape_into(&s.tags.join(&b','), true, &mut name),
            }
        }
        cut(&mut name);
        match name.as_slice() {
            b"" => s.id.short().into_bytes(),
            b"." => b"%2E".to_vec(),
            b".." => b"%2E%2E".to_vec(),
            _ => name,
        }
    }

    /// Names for all snapshots of one listing, which are sorted by (time, id). Of those that would have
    /// the same name, the second and later get `-` and the first 8 digits of their id.
    pub fn all(&self, snapshots: &[Named<'_>]) -> Vec<Vec<u8>> {
        let plain: Vec<Vec<u8>> = snapshots.iter().map(|s| self.plain(s)).collect();
        apart(plain.iter().map(Vec::as_slice).zip(snapshots.iter().map(|s| s.id)))
    }
}

/// As [`Names::all`], from what each snapshot would be called if it were alone.
pub(super) fn apart<'a>(snapshots: impl Iterator<Item = (&'a [u8], &'a SnapshotId)>) -> Vec<Vec<u8>> {
    let mut taken: HashSet<Vec<u8>> = BESIDE.iter().map(|n| n.to_vec()).collect();
    let name = |(plain, id): (&[u8], &SnapshotId)| {
        let with = |id: String| [plain, b"-", id.as_bytes()].concat();
        let mut name = plain.to_vec();
        if taken.contains(&name) {
            name = [with(id.short()), with(id.hex())]
                .into_iter()
                .find(|n| !taken.contains(n))
                // Only where somebody else's tag spells out this very id.
                .unwrap_or_else(|| id.hex().into_bytes());
        }
        taken.insert(name.clone());
        name
    };
    snapshots.map(name).collect()
}

/// How a time outside of the years -9999 to 9999 is written.
fn seconds(time: Time) -> Vec<u8> {
    format!("@{}", time.seconds).into_bytes()
}

/// The name of the folder of one host or tag: never the same for two of them.
pub(super) fn value_name(value: &[u8]) -> Vec<u8> {
    let mut name = Vec::new();
    escape_into(value, true, &mut name);
    if cut(&mut name) {
        name.push(b'-');
        name.extend_from_slice(&blake3::hash(value).to_hex().as_bytes()[..CUT_DIGITS]);
    }
    match name.as_slice() {
        // No escaped value is a lone `%`.
        b"" => b"%".to_vec(),
        b"." => b"%2E".to_vec(),
        b".." => b"%2E%2E".to_vec(),
        _ => name,
    }
}

/// What a program goes by when it opens a file: from the last dot on, and `.tar` before it; empty where there is none.
pub(super) fn extension(name: &[u8]) -> &[u8] {
    let dot = |text: &[u8]| text.iter().rposition(|b| *b == b'.').filter(|i| *i > 0);
    let Some(mut at) = dot(name).filter(|i| i + 1 < name.len()) else { return b"" };
    if let Some(before) = dot(&name[..at])
        && &name[before..at] == b".tar"
    {
        at = before;
    }
    let extension = &name[at..];
    let is_one = extension.len() <= EXTENSION_MAX && !extension.contains(&b' ');
    if is_one { extension } else { b"" }
}

/// `/` and control characters become `%2F` and the like; in values `%` as well, so that no two
/// values look alike.
fn escape_into(bytes: &[u8], value: bool, out: &mut Vec<u8>) {
    for b in bytes {
        match b {
            b'/' | 0..=0x1f | 0x7f => out.extend_from_slice(format!("%{b:02X}").as_bytes()),
            b'%' if value => out.extend_from_slice(b"%25"),
            _ => out.push(*b),
        }
    }
}

/// Cuts a name that is too long, not within a character. Whether it was.
fn cut(name: &mut Vec<u8>) -> bool {
    let long = name.len() > LENGTH_MAX;
    if long {
        let mut end = LENGTH_MAX;
        while end > LENGTH_MAX - 3 && name[end] & 0xc0 == 0x80 {
            end -= 1;
        }
        name.truncate(end);
    }
    long
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named<'a>(seconds: i64, id: &'a SnapshotId, host: &'a [u8], tags: &'a [Vec<u8>]) -> Named<'a> {
        Named { time: Time { seconds, nanos: 0 }, id, host, tags }
    }

    fn one(format: &str, host: &[u8], tags: &[Vec<u8>]) -> String {
        let id = SnapshotId([0xab; 32]);
        let names = Names::new(Some(format), false).unwrap().all(&[named(0, &id, host, tags)]);
        String::from_utf8_lossy(&names[0]).into_owned()
    }

    #[test]
    fn the_default_name_is_utc_without_colons() {
        let id = SnapshotId([1; 32]);
        let names = Names::default().all(&[named(1_795_140_005, &id, b"h", &[])]);
        assert_eq!(names, [b"2026-11-20T02-00-05Z".to_vec()]);
    }

    #[test]
    fn local_names_tell_the_repeated_hour_apart() {
        let zone = TimeZone::get("Europe/Berlin");
        let Ok(zone) = zone else { return };
        let names = Names { zone, ..Names::new(Some(LOCAL), false).unwrap() };
        let ids = [SnapshotId([1; 32]), SnapshotId([2; 32])];
        let first = 1_792_890_000; // 2026-10-25 01:00 UTC: 02:00 for the second time in Berlin
        let all = names.all(&[named(first - 3600, &ids[0], b"", &[]), named(first, &ids[1], b"", &[])]);
        assert_eq!(all[0], b"2026-10-25T02-00-00+0200");
        assert_eq!(all[1], b"2026-10-25T02-00-00+0100");
    }

    #[test]
    fn doubles_get_digits_of_their_id_and_what_lies_beside_is_taken() {
        let ids = [SnapshotId([1; 32]), SnapshotId([2; 32]), SnapshotId([2; 32])];
        let all = Names::default().all(&[
            named(0, &ids[0], b"", &[]),
            named(0, &ids[1], b"", &[]),
            named(0, &ids[2], b"", &[]),
        ]);
        assert_eq!(all[0], b"1970-01-01T00-00-00Z");
        assert_eq!(all[1], b"1970-01-01T00-00-00Z-02020202");
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 3);
        for beside in BESIDE {
            let beside = String::from_utf8_lossy(beside);
            assert_eq!(one(&beside, b"", &[]), format!("{beside}-abababab"));
        }
    }

    #[test]
    fn values_are_escaped_and_no_name_is_empty_or_dots() {
        let all = one("{id} {host} {tags}", b"a/b", &[b"x".to_vec(), b"50%".to_vec()]);
        assert_eq!(all, format!("{} a%2Fb x,50%25", "ab".repeat(32)));
        assert_eq!(one("{host}", b"", &[]), "abababab");
        assert_eq!(one("{host}", b".", &[]), "%2E");
        assert_eq!(one("{host}", b"..", &[]), "%2E%2E");
        assert_eq!(one("{host}", b"a\0\n", &[]), "a%00%0A");
        assert!(one("{host}", "ä".repeat(200).as_bytes(), &[]).len() <= LENGTH_MAX);
        assert_eq!(one("%Y{host}", b"h", &[]), "1970h");
    }

    #[test]
    fn folders_of_hosts_and_tags_are_never_one() {
        assert_eq!(value_name(b"a/b%"), b"a%2Fb%25");
        let odd: [&[u8]; 6] = [b"", b"%", b".", b"..", b"%2E", b"\0"];
        let mut names: Vec<_> = odd.iter().map(|v| value_name(v)).collect();
        names.push(value_name("ä".repeat(200).as_bytes()));
        names.push(value_name("ä".repeat(201).as_bytes()));
        assert!(names.iter().all(|n| n.len() <= 255 && n != b"." && n != b".." && !n.is_empty()));
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
    }

    #[test]
    fn extensions_are_what_programs_go_by() {
        for (name, kept) in [
            ("report.odt", ".odt"),
            ("a.b.c", ".c"),
            ("data.tar.gz", ".tar.gz"),
            (".tar.gz", ".gz"),
            (".bashrc", ""),
            ("Makefile", ""),
            ("ends.", ""),
            ("Mr. Smith", ""),
        ] {
            assert_eq!(extension(name.as_bytes()), kept.as_bytes(), "{name}");
        }
        assert_eq!(extension(format!("x.{}", "e".repeat(40)).as_bytes()), b"");
    }

    #[test]
    fn moments_have_the_default_form_whatever_the_names_are() {
        let names = Names::new(Some("{id}"), false).unwrap();
        assert_eq!(names.moment(Time { seconds: 5, nanos: 1 }), b"1970-01-01T00-00-05Z");
        let Ok(zone) = TimeZone::get("Europe/Berlin") else { return };
        let names = Names { zone, ..names };
        assert_eq!(names.moment(Time { seconds: 5, nanos: 1 }), b"1970-01-01T01-00-05+0100");
        assert_eq!(names.moment(Time { seconds: i64::MAX, nanos: 0 }), b"@9223372036854775807");
    }

    #[test]
    fn a_format_that_makes_no_sense_is_refused() {
        for bad in ["", "a/b", "{", "{nobody}", "%", "%{id}"] {
            assert_eq!(Names::new(Some(bad), false).unwrap_err().fault(), Fault::Misuse, "{bad}");
        }
    }
}
