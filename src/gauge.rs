//! What each stage of a pipeline did with its time: who waits for whom tells which one to make faster.

use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a thread did since it was asked last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Did {
    /// Its work; the disk's part in it too.
    Work,
    /// It waited for something to do.
    Starve,
    /// It waited for the next stage to take what it had done.
    Block,
}

/// The time of all threads of one stage.
#[derive(Debug)]
pub struct Gauge {
    name: &'static str,
    threads: AtomicU64,
    /// Nanoseconds: of work, of waiting for input, of waiting for the next stage, and on a processor.
    spent: [AtomicU64; 4],
}

impl Gauge {
    /// Nothing is spent yet.
    pub fn new(name: &'static str) -> Arc<Self> {
        Arc::new(Self { name, threads: AtomicU64::new(0), spent: Default::default() })
    }

    /// For one thread of the stage, which must be the one that asks.
    pub fn watch(self: &Arc<Self>) -> Watch {
        self.threads.fetch_add(1, Ordering::Relaxed);
        Watch { gauge: self.clone(), since: Instant::now(), processor: thread_time() }
    }

    fn seconds(&self, i: usize) -> f64 {
        Duration::from_nanos(self.spent[i].load(Ordering::Relaxed)).as_secs_f64()
    }
}

impl std::fmt::Display for Gauge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let threads = self.threads.load(Ordering::Relaxed);
        write!(
            f,
            "stage {:8} {:2} {:8} processor {:7.2} s, working {:7.2} s, waiting for input {:7.2} s, for the next stage {:7.2} s",
            self.name,
            threads,
            if threads == 1 { "thread:" } else { "threads:" },
            self.seconds(3),
            self.seconds(Did::Work as usize),
            self.seconds(Did::Starve as usize),
            self.seconds(Did::Block as usize),
        )
    }
}

/// Measures one thread until it is dropped.
pub struct Watch {
    gauge: Arc<Gauge>,
    since: Instant,
    processor: Duration,
}

impl Watch {
    /// All time since the last lap went into this.
    pub fn lap(&mut self, did: Did) {
        let now = Instant::now();
        self.add(did as usize, now - self.since);
        self.since = now;
    }

    /// The same for work during which it waited for the next stage for so long.
    pub fn lap_blocked(&mut self, blocked: Duration) {
        let now = Instant::now();
        let all = now - self.since;
        self.add(Did::Work as usize, all.saturating_sub(blocked));
        self.add(Did::Block as usize, blocked.min(all));
        self.since = now;
    }

    fn add(&self, i: usize, time: Duration) {
        // 584 years.
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.gauge.spent[i].fetch_add(nanos, Ordering::Relaxed);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.add(3, thread_time().saturating_sub(self.processor));
    }
}

/// Processor time of the calling thread.
fn thread_time() -> Duration {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(t.tv_sec).unwrap_or(0), u32::try_from(t.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_to_what_it_was_spent_on() {
        let gauge = Gauge::new("test");
        let mut watch = gauge.watch();
        std::thread::sleep(Duration::from_millis(30));
        watch.lap(Did::Starve);
        let mut n = 0u64;
        while thread_time() - watch.processor < Duration::from_millis(20) {
            n = std::hint::black_box(n + 1);
        }
        watch.lap(Did::Work);
        drop(watch);
        assert!(gauge.seconds(Did::Starve as usize) >= 0.03);
        assert!(gauge.seconds(Did::Work as usize) >= 0.0 && gauge.seconds(3) >= 0.02);
        assert_eq!(gauge.seconds(Did::Block as usize), 0.0);
        assert!(gauge.to_string().starts_with("stage test      1 thread:"), "{gauge}");
    }
}
