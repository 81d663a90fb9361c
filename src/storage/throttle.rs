//! How fast bytes may pass: a token bucket for each direction.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// How much may pass at once after a pause, in seconds' worth: longer, and a line that others share is full for that
/// long; shorter, and the clock's steps cost throughput.
const BURST: Duration = Duration::from_millis(250);

/// A limit of bytes a second, shared by all threads; or none.
#[derive(Debug, Default)]
pub struct Throttle {
    /// Bytes a second.
    rate: Option<u64>,
    /// When all that has passed is paid for.
    paid: Mutex<Option<Instant>>,
}

impl Throttle {
    /// At most so many KiB a second; `None` or 0 is no limit.
    pub fn new(kib: Option<u64>) -> Self {
        Self { rate: kib.filter(|k| *k > 0).map(|k| k.saturating_mul(1024)), paid: Mutex::default() }
    }

    /// Takes note that so many bytes pass, and says how long to wait before they do.
    pub fn take(&self, bytes: usize) -> Duration {
        match self.rate {
            Some(_) => self.take_at(bytes, Instant::now()),
            None => Duration::ZERO,
        }
    }

    fn take_at(&self, bytes: usize, now: Instant) -> Duration {
        let Some(rate) = self.rate else { return Duration::ZERO };
        let mut paid = self.paid.lock();
        let from = paid.map_or(now, |p| p.max(now.checked_sub(BURST).unwrap_or(now)));
        *paid = Some(from + Duration::from_secs_f64(bytes as f64 / rate as f64));
        from.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_limit_nobody_waits() {
        for throttle in [Throttle::new(None), Throttle::new(Some(0))] {
            assert_eq!(throttle.take(usize::MAX), Duration::ZERO);
            assert_eq!(throttle.take(usize::MAX), Duration::ZERO);
        }
    }

    #[test]
    fn so_many_bytes_pass_in_a_second() {
        let (throttle, start) = (Throttle::new(Some(100)), Instant::now());
        let mut now = start;
        // 10 seconds' worth.
        for _ in 0..100 {
            now += throttle.take_at(10 << 10, now);
        }
        let took = now - start;
        assert!(took > Duration::from_millis(9_500) && took < Duration::from_millis(10_100), "{took:?}");
        // A pause is not saved up for more than the burst.
        now += Duration::from_secs(3600);
        let again = now;
        for _ in 0..20 {
            now += throttle.take_at(10 << 10, now);
        }
        assert!(now - again > Duration::from_millis(1_500), "{:?}", now - again);
    }
}
