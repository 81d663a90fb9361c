//! How long a far store takes, measured as requests go: what a request costs, told in bytes.

use parking_lot::Mutex;
use std::time::Duration;

/// Taken for the latency in seconds until something was measured: another city.
const LATENCY: f64 = 0.02;
/// Taken for the bandwidth of one request in bytes a second until something was measured.
const BANDWIDTH: f64 = 50e6;
/// An answer of at most so many bytes tells of latency alone.
const SHORT: usize = 128 << 10;
/// One of at least so many tells of bandwidth.
const LONG: usize = 512 << 10;
/// How much a new measurement counts beside the old ones.
const WEIGHT: f64 = 0.2;
/// Bounds of what a request is worth: below them a wrong measurement would make requests without end, above them a
/// gap costs more than it saves on any line.
const WORTH: std::ops::RangeInclusive<f64> = (256 << 10) as f64..=(4 << 20) as f64;

/// Latency and bandwidth of a store.
pub(super) struct Pace(Mutex<(f64, f64)>);

impl Pace {
    /// Nothing is measured yet.
    pub fn new() -> Self {
        Self(Mutex::new((LATENCY, BANDWIDTH)))
    }

    /// So many bytes came within this time of the request for them.
    pub fn measured(&self, bytes: usize, took: Duration) {
        let took = took.as_secs_f64();
        let (latency, bandwidth) = &mut *self.0.lock();
        if bytes <= SHORT {
            // What it takes at best; slower ones waited for something else as well.
            *latency = if took < *latency { took } else { *latency + (took - *latency) * WEIGHT / 4.0 };
        } else if bytes >= LONG {
            // A part of the time at least went into the bytes.
            let now = bytes as f64 / (took - *latency).max(took / 8.0).max(1e-6);
            *bandwidth += (now - *bandwidth) * WEIGHT;
        }
    }

    /// The bytes that come in the time that a request waits for its answer (the bandwidth-delay product): to ask for so many
    /// more takes no longer than to ask again.
    pub fn worth(&self) -> u64 {
        let (latency, bandwidth) = *self.0.lock();
        (latency * bandwidth).clamp(*WORTH.start(), *WORTH.end()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_worth_what_comes_while_it_waits_within_bounds() {
        let pace = Pace::new();
        assert_eq!(pace.worth(), 1_000_000);
        for _ in 0..100 {
            pace.measured(1000, Duration::from_millis(40));
            pace.measured(1 << 20, Duration::from_millis(40 + 21));
        }
        let worth = pace.worth() as f64;
        assert!((1.7e6..2.3e6).contains(&worth), "{worth}");
        for _ in 0..100 {
            pace.measured(1000, Duration::from_micros(10));
        }
        assert_eq!(pace.worth(), 256 << 10);
        for _ in 0..1000 {
            pace.measured(1000, Duration::from_secs(2));
            pace.measured(64 << 20, Duration::from_secs(3));
        }
        assert_eq!(pace.worth(), 4 << 20);
    }
}
