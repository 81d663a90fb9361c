//! The only place that asks the time, sleeps or draws chance.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time: seconds since 1970-01-01 UTC (may be negative) and nanoseconds below 10^9.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Seconds since the epoch, rounded down.
    pub seconds: i64,
    /// Nanoseconds above `seconds`, below 1,000,000,000.
    pub nanos: u32,
}

impl Time {
    /// `None` when `nanos` is out of range.
    pub fn new(seconds: i64, nanos: u32) -> Option<Self> {
        (nanos < 1_000_000_000).then_some(Self { seconds, nanos })
    }
    /// The second in UTC, for people: `2026-11-20 02:00:05 UTC` (proleptic Gregorian calendar).
    pub fn utc(&self) -> String {
        // Howard Hinnant's civil_from_days: years that begin in March, eras of 400 of them.
        let (days, second) = (self.seconds.div_euclid(86_400), self.seconds.rem_euclid(86_400));
        let shifted = i128::from(days) + 719_468;
        let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let of_year = day - (365 * of_era + of_era / 4 - of_era / 100);
        let month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = of_era + era * 400 + i128::from(month <= 2);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
    }
    /// Seconds from `earlier` to `self`, negative when it is later.
    pub fn seconds_since(&self, earlier: Time) -> f64 {
        (self.seconds.saturating_sub(earlier.seconds)) as f64
            + (f64::from(self.nanos) - f64::from(earlier.nanos)) / 1e9
    }
}

impl From<SystemTime> for Time {
    fn from(t: SystemTime) -> Self {
        match t.duration_since(UNIX_EPOCH) {
            Ok(d) => Self { seconds: d.as_secs() as i64, nanos: d.subsec_nanos() },
            Err(e) => {
                let d = e.duration();
                match d.subsec_nanos() {
                    0 => Self { seconds: -(d.as_secs() as i64), nanos: 0 },
                    n => Self { seconds: -(d.as_secs() as i64) - 1, nanos: 1_000_000_000 - n },
                }
            }
        }
    }
}

impl From<Time> for SystemTime {
    fn from(t: Time) -> Self {
        let nanos = Duration::from_nanos(u64::from(t.nanos));
        match u64::try_from(t.seconds) {
            Ok(s) => UNIX_EPOCH.checked_add(Duration::from_secs(s)).and_then(|x| x.checked_add(nanos)),
            Err(_) => UNIX_EPOCH
                .checked_sub(Duration::from_secs(t.seconds.unsigned_abs()))
                .and_then(|x| x.checked_add(nanos)),
        }
        .unwrap_or(UNIX_EPOCH)
    }
}

/// Now, by the wall clock.
pub fn now() -> Time {
    SystemTime::now().into()
}

/// Seconds since this machine started, asleep or awake; nobody sets this clock.
pub fn running() -> i64 {
    rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec
}

/// Sleeps.
pub fn sleep(time: Duration) {
    std::thread::sleep(time);
}

/// Fills `out` with random bytes from the operating system.
pub fn random(out: &mut [u8]) {
    // A machine without randomness can make no key; there is nothing sensible left to do.
    getrandom::fill(out).expect("the operating system has no random bytes");
}

/// `N` random bytes.
pub fn random_array<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    random(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (-1, "1969-12-31 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (4_107_542_399, "2100-02-28 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
            (1_795_226_405, "2026-11-21 02:00:05 UTC"),
        ] {
            assert_eq!(Time { seconds, nanos: 0 }.utc(), text);
        }
        for seconds in [i64::MIN, i64::MAX] {
            assert!(Time { seconds, nanos: 0 }.utc().ends_with(" UTC"));
        }
    }
}
