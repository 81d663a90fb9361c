//! Which snapshot is meant by what people write: `latest`, an id, a time, or the name of a folder in the mount.
//!
//! A written time names all that it leaves open, and means its end: `2026-11-19` is the whole day, `14:00` the whole
//! minute, so that the newest snapshot not later than it is one of that day, of that minute. Without a zone it is
//! local time. Where the clocks go back, a local time comes twice: it covers both, so its end is the second one's.
//! Where they go forward, some never come: such a time is read as if they had not been put forward yet, as
//! RFC 5545 (3.3.5) has it: in Berlin 02:30 on that day is what the clock shows as 03:30. Spans (`3 days ago`) go
//! by the calendar: the same time of day, which may be 71 or 73 hours away.

use crate::clock::{self, Time};
use jiff::civil::{Date, DateTime, Weekday};
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use jiff::{SignedDuration, Span, Timestamp, Zoned};

/// Fewest digits of an id: four are seldom ambiguous, and no year is taken for one with dashes.
const ID_DIGITS_MIN: usize = 4;
/// Digits of the id that the mount puts behind the name of a second snapshot of one second.
const SUFFIX_DIGITS: usize = 8;

/// A snapshot as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// The newest.
    Latest,
    /// Lower-case digits at the beginning of the id.
    Id(String),
    /// The newest not later than this.
    Until(Time),
    /// The name of a folder in the mount: the oldest between these two, else the newest before.
    Folder(Time, Time),
}

/// Now, in the zone of this machine.
pub fn now() -> Zoned {
    let now = clock::now();
    let nanos = i32::try_from(now.nanos).unwrap_or_default();
    Timestamp::new(now.seconds, nanos).unwrap_or(Timestamp::UNIX_EPOCH).to_zoned(TimeZone::system())
}

/// Reads what names a snapshot; times that are relative or have no zone go by `now`. `None` for anything else.
pub fn parse(text: &str, now: &Zoned) -> Option<Selector> {
    if text == "latest" {
        return Some(Selector::Latest);
    }
    let is_hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
    if (ID_DIGITS_MIN..=2 * crate::id::ID_LEN).contains(&text.len()) && is_hex(text) {
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
    let (time, digits) = text.rsplit_once('-')?;
    let is_suffix = digits.len() == SUFFIX_DIGITS && is_hex(digits);
    (is_suffix && period(time, zone)?.folder).then(|| Selector::Id(digits.to_ascii_lowercase()))
}

/// The place, in a list sorted by time, of the snapshot that is meant. `None` where none is as old, and for ids:
/// whose list it is decides what several hits mean.
pub fn pick<T>(selector: &Selector, list: &[T], time: impl Fn(&T) -> Time) -> Option<usize> {
    let newest_until = |end: Time| list.partition_point(|s| time(s) <= end).checked_sub(1);
    match *selector {
        Selector::Latest => list.len().checked_sub(1),
        Selector::Id(_) => None,
        Selector::Until(end) => newest_until(end),
        Selector::Folder(begin, end) => {
            let first = list.partition_point(|s| time(s) < begin);
            let within = list.get(first).is_some_and(|s| time(s) <= end);
            if within { Some(first) } else { newest_until(end) }
        }
    }
}

/// A point in time, as `--time` takes it: the beginning of what is written, and the first of two.
///
/// # Errors
/// A line for people.
pub fn parse_time(text: &str) -> Result<Time, String> {
    period(text.trim(), &TimeZone::system()).map(|p| p.begin).ok_or_else(|| {
        format!("{text:?} is no time: write it like 2026-11-19, '2026-11-19 14:00' or 2026-11-19T14:00:05Z")
    })
}

/// `now`, `today` and `yesterday` (their ends), `yesterday 14:00`, `last monday` (the end of the last one before
/// today), `last month`, `3 days ago`. For the shell's sake `_` is as good as a space.
fn relative(text: &str, now: &Zoned) -> Option<Time> {
    let text = text.replace('_', " ");
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let ago = |n: i64, unit: &str| {
        let unit = unit.strip_suffix('s').unwrap_or(unit);
        let span = Span::new();
        let span = match unit {
            "second" | "sec" => span.try_seconds(n),
            "minute" | "min" => span.try_minutes(n),
            "hour" => span.try_hours(n),
            "day" => span.try_days(n),
            "week" => span.try_weeks(n),
            "month" => span.try_months(n),
            "year" => span.try_years(n),
            _ => return None,
        };
        Some(time_of(now.checked_sub(span.ok()?).ok()?.timestamp()))
    };
    let day = |word: &str| match word {
        "today" => Some(now.date()),
        "yesterday" => now.date().yesterday().ok(),
        _ => None,
    };
    match words[..] {
        ["now"] => Some(time_of(now.timestamp())),
        [word] => end_of_day(day(word)?, now.time_zone()),
        ["last", word] => match weekday(word) {
            Some(weekday) => end_of_day(now.date().nth_weekday(-1, weekday).ok()?, now.time_zone()),
            None => matches!(word, "week" | "month" | "year").then(|| ago(1, word))?,
        },
        [word, time] => period(&format!("{} {time}", day(word)?), now.time_zone()).map(|p| p.end),
        [number, unit, "ago"] => match number {
            "a" | "an" | "one" => ago(1, unit),
            digits if digits.bytes().all(|b| b.is_ascii_digit()) => ago(digits.parse().ok()?, unit),
            _ => None,
        },
        _ => None,
    }
}

fn weekday(word: &str) -> Option<Weekday> {
    Some(match word {
        "monday" => Weekday::Monday,
        "tuesday" => Weekday::Tuesday,
        "wednesday" => Weekday::Wednesday,
        "thursday" => Weekday::Thursday,
        "friday" => Weekday::Friday,
        "saturday" => Weekday::Saturday,
        "sunday" => Weekday::Sunday,
        _ => return None,
    })
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
    let (first, last) = occurrences(date.to_datetime(time), &zone)?;
    let end = match (second, fraction) {
        (_, Some(_)) => last,
        (Some(_), None) => Time { nanos: 999_999_999, ..last },
        (None, None) => Time { seconds: last.seconds + 59, nanos: 999_999_999 },
    };
    // What lies between the two occurrences has other names: a folder is one of them, and most are the later one.
    let begin = if dashes { last } else { first };
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

/// The instants at which the clock shows this time: twice where it was put back, the same one otherwise.
fn occurrences(at: DateTime, zone: &TimeZone) -> Option<(Time, Time)> {
    let (first, last) = match zone.to_ambiguous_timestamp(at).offset() {
        AmbiguousOffset::Fold { before, after } => (before, after),
        // The offset before a gap is the one of the clock that has not been put forward.
        AmbiguousOffset::Unambiguous { offset } | AmbiguousOffset::Gap { before: offset, .. } => {
            (offset, offset)
        }
    };
    let instant = |offset: Offset| Some(time_of(offset.to_timestamp(at).ok()?));
    Some((instant(first)?, instant(last)?))
}

fn end_of_day(date: Date, zone: &TimeZone) -> Option<Time> {
    let next = date.tomorrow().ok()?.to_zoned(zone.clone()).ok()?.timestamp();
    Some(time_of(next.checked_sub(SignedDuration::from_nanos(1)).ok()?))
}

fn time_of(t: Timestamp) -> Time {
    let nanos = t.as_nanosecond();
    // A timestamp spans the years -9999 to 9999: both parts fit.
    Time { seconds: nanos.div_euclid(1_000_000_000) as i64, nanos: nanos.rem_euclid(1_000_000_000) as u32 }
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
        super::parse(text, &now())
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
    fn days_and_spans_are_named_as_people_say_them() {
        // 2026-11-20 is a Friday.
        assert_eq!(parse("last thursday"), parse("yesterday"));
        assert_eq!(parse("last friday"), parse("2026-11-13"));
        assert_eq!(parse("last week"), parse("7 days ago"));
        assert_eq!(parse("last month"), until("2026-10-20T11:30:00Z"));
        assert_eq!(parse("yesterday 14:00"), parse("2026-11-19 14:00"));
        assert_eq!(parse("today 02:00:05"), parse("2026-11-20T02:00:05"));
        assert_eq!(parse("3_days_ago"), parse("3 days ago"));
        assert_eq!(parse("5 min ago"), until("2026-11-20T12:25:00Z"));
        for text in
            ["friday", "last moonday", "last day", "yesterday 25:00", "tomorrow", "now 14:00", "_", " "]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_local_time_that_comes_twice_covers_both() {
        // At 03:00 of summer time, 01:00 UTC, the clocks of Berlin go back to 02:00.
        assert_eq!(parse("2026-10-25 02:30"), until("2026-10-25T01:30:59.999999999Z"));
        let both = period("2026-10-25 02:30:05", &berlin()).unwrap();
        assert_eq!(both.begin, at("2026-10-25T00:30:05Z"));
        assert_eq!(both.end, at("2026-10-25T01:30:05.999999999Z"));
        // With its offset it comes once.
        assert_eq!(parse("2026-10-25T02:30+02:00"), until("2026-10-25T00:30:59.999999999Z"));
        // A folder is one of the two.
        let (begin, end) = (at("2026-10-25T01:30:05Z"), at("2026-10-25T01:30:05.999999999Z"));
        assert_eq!(parse("2026-10-25T02-30-05"), Some(Selector::Folder(begin, end)));
        let (begin, end) = (at("2026-10-25T00:30:05Z"), at("2026-10-25T00:30:05.999999999Z"));
        assert_eq!(parse("2026-10-25T02-30-05+0200"), Some(Selector::Folder(begin, end)));
    }

    #[test]
    fn a_local_time_that_never_comes_is_read_by_the_clock_before_it_was_put_forward() {
        // At 02:00 of winter time, 01:00 UTC, the clocks of Berlin go forward to 03:00.
        assert_eq!(parse("2026-03-29 02:30"), until("2026-03-29T01:30:59.999999999Z"));
        assert_eq!(parse("2026-03-29 02:30"), parse("2026-03-29 03:30"));
    }

    #[test]
    fn the_clock_that_is_put_back_or_forward_changes_no_time_of_day() {
        let parse = |text: &str| {
            let now = "2026-10-26T12:30:00Z".parse::<Timestamp>().unwrap().to_zoned(berlin());
            super::parse(text, &now)
        };
        assert_eq!(parse("2 days ago"), until("2026-10-24T11:30:00Z"));
        assert_eq!(parse("48 hours ago"), until("2026-10-24T12:30:00Z"));
    }

    #[test]
    fn the_newest_not_later_is_picked() {
        let list = [10, 20, 20, 30].map(|seconds| Time { seconds, nanos: 500 });
        let pick = |selector| super::pick(&selector, &list, |t| *t);
        let t = |seconds, nanos| Time { seconds, nanos };
        assert_eq!(pick(Selector::Latest), Some(3));
        assert_eq!(pick(Selector::Until(t(20, 499))), Some(0));
        assert_eq!(pick(Selector::Until(t(20, 500))), Some(2));
        assert_eq!(pick(Selector::Until(t(9, 0))), None);
        assert_eq!(pick(Selector::Folder(t(20, 0), t(20, 999))), Some(1));
        assert_eq!(pick(Selector::Folder(t(21, 0), t(21, 999))), Some(2));
        assert_eq!(pick(Selector::Id("abcd".into())), None);
        assert_eq!(super::pick(&Selector::Latest, &[], |t: &Time| *t), None);
    }
}
