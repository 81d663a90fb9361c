//! Spans of time, as rules are written with them.

use jiff::Span;

/// A span as people write it: `2w`, `36h`, `1y6m`, with the letters y, m (months), w, d and h in this order.
///
/// # Errors
/// A line for people.
pub fn parse_within(text: &str) -> Result<Span, String> {
    let wrong = || format!("{text:?} is no span: write it like 36h, 14d, 2w or 1y6m (m are months)");
    let mut span = Span::new();
    let (mut rest, mut units) = (text, "ymwdh");
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: i64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = rest[digits..].chars().next().ok_or_else(wrong)?;
        let place = units.find(unit).ok_or_else(wrong)?;
        units = &units[place + 1..];
        span = match unit {
            'y' => span.try_years(number),
            'm' => span.try_months(number),
            'w' => span.try_weeks(number),
            'd' => span.try_days(number),
            _ => span.try_hours(number),
        }
        .map_err(|_| wrong())?;
        // `units` has ASCII letters only, so that the unit is one byte.
        rest = &rest[digits + 1..];
    }
    if span.is_zero() { Err(wrong()) } else { Ok(span) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_understood_as_people_write_them() {
        let same = |text: &str, span: Span| {
            assert_eq!(parse_within(text).map(|s| s.fieldwise()), Ok(span.fieldwise()), "{text}");
        };
        same("36h", Span::new().hours(36));
        same("2w", Span::new().weeks(2));
        same("1y6m", Span::new().years(1).months(6));
        same("1y2m3w4d5h", Span::new().years(1).months(2).weeks(3).days(4).hours(5));
        for text in
            ["", "0d", "d", "1", "1x", "1d1y", "1d1d", "-1d", "1.5d", "1é", "99999999999999999999y", "99999y"]
        {
            assert!(parse_within(text).is_err(), "{text}");
        }
    }
}
