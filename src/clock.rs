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
