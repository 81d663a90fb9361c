//! Sizes, times and names as people read them, and as machines do.

use super::output::Output;
use crate::clock::Time;
use crate::fault::Result;
use crate::storage::Costs;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Map, Value};

/// `0 B`, `1.5 KiB`, `12 MiB`: two or three digits that matter.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 1023.5 and above would be shown as 1024 of the smaller unit.
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match value {
        v if v < 9.95 => format!("{v:.1} {}", UNITS[unit]),
        v => format!("{v:.0} {}", UNITS[unit]),
    }
}

/// A size as people write it: `1000`, `500k`, `10M`, `1.5GiB` (powers of 1024), `10MB` (powers of 1000).
pub fn parse_size(text: &str) -> std::result::Result<u64, String> {
    let wrong = || format!("{text:?} is no size: write it like 500k, 10M or 1.5GiB");
    let text_ = text.trim();
    let digits = text_.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let number: f64 = text_[..digits].parse().map_err(|_| wrong())?;
    let unit = text_[digits..].trim().to_ascii_lowercase();
    let (letter, rest) = unit.split_at(unit.chars().next().map_or(0, char::len_utf8));
    let power = match letter {
        "" => 0,
        "b" if rest.is_empty() => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(wrong()),
    };
    let base: f64 = match rest {
        "" | "ib" => 1024.0,
        "b" if power > 0 => 1000.0,
        _ => return Err(wrong()),
    };
    let bytes = number * base.powi(power);
    if bytes.is_finite() && bytes < u64::MAX as f64 { Ok(bytes as u64) } else { Err(wrong()) }
}

/// `84,012`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 file`, `2 files`.
pub fn counted(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(n), if n == 1 { one } else { many })
}

/// `0.42 s`, `12 s`, `3 min 7 s`, `2 h 5 min`.
pub fn duration(seconds: f64) -> String {
    if seconds < 9.95 {
        return if seconds < 1.0 { format!("{:.2} s", seconds.max(0.0)) } else { format!("{seconds:.1} s") };
    }
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        _ => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

/// `7:05`, `1:02:07`: a duration that keeps its place while it counts.
pub fn clock(seconds: f64) -> String {
    let s = seconds.max(0.0) as u64;
    match s {
        ..3600 => format!("{}:{:02}", s / 60, s % 60),
        _ => format!("{}:{:02}:{:02}", s / 3600, s % 3600 / 60, s % 60),
    }
}

/// `182 MiB/s`.
pub fn rate(bytes: u64, seconds: f64) -> String {
    format!("{}/s", size((bytes as f64 / seconds.max(1e-3)) as u64))
}

/// `2026-11-20 02:00:05` in the local zone; seconds since 1970 where the calendar ends.
pub fn local_time(time: Time) -> String {
    match timestamp(time) {
        Some(t) => t.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        None => format!("@{}", time.seconds),
    }
}

/// What a store was asked for.
pub fn machine_costs(costs: &Costs) -> Value {
    // It is an object by construction.
    serde_json::from_str(&costs.json()).unwrap_or_default()
}

/// RFC 3339 in UTC with nine digits of a second: sorts as text.
pub fn machine_time(time: Time) -> String {
    match timestamp(time) {
        Some(t) => format!("{t:.9}"),
        None => format!("@{}.{:09}", time.seconds, time.nanos),
    }
}

fn timestamp(time: Time) -> Option<Timestamp> {
    let whole = Timestamp::from_second(time.seconds).ok()?;
    whole.checked_add(jiff::SignedDuration::from_nanos(i64::from(time.nanos))).ok()
}

/// A file name on one line, without anything that a terminal obeys: control characters, marks that
/// turn the direction of text, and bytes that are no UTF-8 are escaped, and so is the backslash.
pub fn visible(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' { text.push_str("\\\\") } else { push_harmless(&mut text, c) }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// Text of a message, the same way but with backslashes as they are.
pub fn harmless(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    for c in message.chars() {
        push_harmless(&mut text, c);
    }
    text
}

fn push_harmless(text: &mut String, c: char) {
    match c {
        '\n' => text.push_str("\\n"),
        '\t' => text.push_str("\\t"),
        '\r' => text.push_str("\\r"),
        '\x1b' => text.push_str("\\e"),
        c if c.is_ascii_control() => text.push_str(&format!("\\x{:02x}", c as u32)),
        // Line and paragraph separators, and marks and overrides of direction (Unicode annex 9).
        '\u{2028}'
        | '\u{2029}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{061c}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}' => text.push_str(&format!("\\u{{{:x}}}", c as u32)),
        c if c.is_control() => text.push_str(&format!("\\u{{{:x}}}", c as u32)),
        c => text.push(c),
    }
}

/// Puts bytes that are mostly text into an object: `key`, and `key_hex` where they are no UTF-8.
pub fn put_text(object: &mut Map<String, Value>, key: &str, bytes: &[u8]) {
    object.insert(key.into(), String::from_utf8_lossy(bytes).into());
    if std::str::from_utf8(bytes).is_err() {
        object.insert(format!("{key}_hex"), crate::id::hex(bytes).into());
    }
}

/// The same for lists: `key_hex` is there, for all of them, where one is no UTF-8.
pub fn put_texts<'a>(
    object: &mut Map<String, Value>,
    key: &str,
    texts: impl Iterator<Item = &'a [u8]> + Clone,
) {
    let lossy: Vec<_> = texts.clone().map(|t| Value::from(String::from_utf8_lossy(t))).collect();
    object.insert(key.into(), lossy.into());
    if texts.clone().any(|t| std::str::from_utf8(t).is_err()) {
        let raw: Vec<_> = texts.map(|t| Value::from(crate::id::hex(t))).collect();
        object.insert(format!("{key}_hex"), raw.into());
    }
}

/// A table whose columns are as wide as they must be. A head that begins with `>` sets the column to the right;
/// without any head, or any row, no line of heads is printed.
pub struct Table {
    heads: Vec<(String, bool)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub fn new(heads: &[&str]) -> Self {
        let head = |h: &&str| match h.strip_prefix('>') {
            Some(text) => (text.to_string(), true),
            None => (h.to_string(), false),
        };
        Self { heads: heads.iter().map(head).collect(), rows: Vec::new() }
    }
    /// Adds a row, with a cell for each head.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }
    /// Prints it.
    pub fn print(self, out: &mut Output) -> Result<()> {
        for line in self.lines() {
            out.line(line)?;
        }
        Ok(())
    }
    fn lines(self) -> Vec<String> {
        let Self { heads, mut rows } = self;
        let mut widths = vec![0; heads.len()];
        if !rows.is_empty() && heads.iter().any(|(text, _)| !text.is_empty()) {
            rows.insert(0, heads.iter().map(|(text, _)| text.clone()).collect());
        }
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        let line = |row: &Vec<String>| {
            let mut line = String::new();
            for ((cell, width), (_, right)) in row.iter().zip(&widths).zip(&heads) {
                let pad = " ".repeat(width - cell.chars().count());
                match (width, right) {
                    (0, _) => continue,
                    (_, true) => line.extend([&pad, cell.as_str(), "  "]),
                    (_, false) => line.extend([cell.as_str(), &pad, "  "]),
                }
            }
            line.truncate(line.trim_end().len());
            line
        };
        rows.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well_at_every_magnitude() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (10 * 1024 - 1, "10 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (12 << 20, "12 MiB"),
            (u64::MAX, "16 EiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn sizes_are_understood_as_people_write_them() {
        let cases = [
            ("0", 0),
            ("1000", 1000),
            ("500k", 512_000),
            ("1.5GiB", 3 << 29),
            ("10 MB", 10_000_000),
            ("7b", 7),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "k", "-1", "1x", "1kk", "1bb", "1..2", "9999999999999P", "1é"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn counts_and_durations_read_well() {
        assert_eq!(
            (count(0), count(999), count(1000), count(84_012_345)),
            ("0".into(), "999".into(), "1,000".into(), "84,012,345".into())
        );
        assert_eq!(counted(1, "file", "files"), "1 file");
        let cases =
            [(0.042, "0.04 s"), (3.21, "3.2 s"), (12.3, "12 s"), (187.0, "3 min 7 s"), (7500.0, "2 h 5 min")];
        for (seconds, text) in cases {
            assert_eq!(duration(seconds), text);
        }
        assert_eq!((clock(425.9), clock(3727.0)), ("7:05".into(), "1:02:07".into()));
    }

    #[test]
    fn names_cannot_command_the_terminal() {
        assert_eq!(visible(b"plain \xc3\xa9"), "plain é");
        assert_eq!(visible(b"a\nb\x1b[2J\x07\x7f\\"), "a\\nb\\e[2J\\x07\\x7f\\\\");
        assert_eq!(visible(b"\xff\xc3("), "\\xff\\xc3(");
        assert_eq!(visible("exe\u{202e}txt\u{9b}".as_bytes()), "exe\\u{202e}txt\\u{9b}");
    }

    #[test]
    fn times_sort_as_text_and_reach_before_1970() {
        assert_eq!(machine_time(Time { seconds: 0, nanos: 1 }), "1970-01-01T00:00:00.000000001Z");
        assert_eq!(machine_time(Time { seconds: -1, nanos: 500_000_000 }), "1969-12-31T23:59:59.500000000Z");
        assert_eq!(machine_time(Time { seconds: i64::MAX, nanos: 7 }), "@9223372036854775807.000000007");
    }

    #[test]
    fn columns_of_tables_stand_below_each_other() {
        let mut table = Table::new(&["A", ">N", "empty", "Z"]);
        table.heads[2].0.clear();
        table.row(vec!["é".into(), "12 B".into(), String::new(), "x".into()]);
        table.row(vec!["long".into(), "1 KiB".into(), String::new(), String::new()]);
        assert_eq!(table.lines(), ["A         N  Z", "é      12 B  x", "long  1 KiB"]);
        assert!(Table::new(&["A", ">"]).lines().is_empty());
    }

    #[test]
    fn bytes_that_are_no_text_are_kept_beside_it() {
        let mut object = Map::new();
        put_text(&mut object, "path", b"/a\xff");
        put_texts(&mut object, "tags", [&b"x"[..], b"\xfe"].into_iter());
        put_text(&mut object, "host", b"h");
        let text = Value::from(object).to_string();
        assert_eq!(
            text,
            r#"{"host":"h","path":"/a�","path_hex":"2f61ff","tags":["x","�"],"tags_hex":["78","fe"]}"#
        );
    }
}
