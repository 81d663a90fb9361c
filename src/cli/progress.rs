//! What a long work tells while it goes on: one line that changes on a terminal, a line now and then
//! elsewhere, warnings at once, JSON for machines. All of it on the standard error output.

use super::access::Global;
use super::words;
use crate::clock::{self, Time};
use crate::event::{Event, Observer, Outcome};
use parking_lot::{Condvar, Mutex};
use serde_json::{Map, Value};
use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Five times a second is as often as people can read.
const TERMINAL_INTERVAL: Duration = Duration::from_millis(200);
/// For logs.
const LINES_INTERVAL: Duration = Duration::from_secs(30);
/// The rate is that of so many seconds back: steady, yet it follows the disk.
const RATE_SECONDS: f64 = 10.0;
/// Width where the terminal does not tell its own.
const DEFAULT_WIDTH: usize = 80;
/// Escape sequences (ECMA-48 and DEC's autowrap mode): erase the line; stop and start wrapping at the margin.
const ERASE: &str = "\r\x1b[K";
const NO_WRAP: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    /// Warnings only.
    Quiet,
    /// One line that changes.
    Terminal,
    /// A line every half minute.
    Lines,
    /// Warnings only, as JSON.
    Json,
}

struct Shared {
    style: Style,
    verbose: u8,
    /// What is counted: one, and many.
    nouns: [&'static str; 2],
    began: Time,
    planned_files: AtomicU64,
    planned_bytes: AtomicU64,
    files: AtomicU64,
    bytes: AtomicU64,
    unread: AtomicU64,
    /// What is being worked at. Lock order: never held while `screen` is taken.
    current: Mutex<Vec<u8>>,
    screen: Mutex<Screen>,
    ended: Mutex<bool>,
    wake: Condvar,
}

#[derive(Default)]
struct Screen {
    /// The progress line is there.
    painted: bool,
}

/// The progress of one command; ends when it is dropped.
pub struct Progress {
    shared: Arc<Shared>,
    painter: Option<JoinHandle<()>>,
}

impl Progress {
    /// An observer that prints warnings and, with `-v`, details, but no progress.
    pub fn warnings(global: &Global) -> Arc<dyn Observer> {
        Arc::new(Shared::new(if global.json { Style::Json } else { Style::Quiet }, global.verbose))
    }

    /// Starts to tell, as the global options and the standard error output want it.
    pub fn start(global: &Global) -> Self {
        Self::counting(global, ["file", "files"])
    }

    /// The same, for work on something else than files.
    pub fn counting(global: &Global, nouns: [&'static str; 2]) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|t| t.is_empty() || t == "dumb");
        let style = match (global.json, global.quiet, std::io::stderr().is_terminal() && !dumb) {
            (true, ..) => Style::Json,
            (_, true, _) => Style::Quiet,
            (_, _, true) => Style::Terminal,
            (_, _, false) => Style::Lines,
        };
        let shared = Arc::new(Shared { nouns, ..Shared::new(style, global.verbose) });
        let interval = match style {
            Style::Terminal => Some(TERMINAL_INTERVAL),
            Style::Lines => Some(LINES_INTERVAL),
            Style::Quiet | Style::Json => None,
        };
        let painter = interval.and_then(|interval| {
            let shared = shared.clone();
            // Without a thread for it there is no progress to see; the work goes on.
            std::thread::Builder::new().name("progress".into()).spawn(move || shared.paint(interval)).ok()
        });
        Self { shared, painter }
    }

    /// Whom to tell.
    pub fn observer(&self) -> Arc<dyn Observer> {
        self.shared.clone()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        *self.shared.ended.lock() = true;
        self.shared.wake.notify_all();
        if let Some(painter) = self.painter.take() {
            // A painter that panicked has nothing more to say.
            let _ = painter.join();
        }
        self.shared.say("");
    }
}

impl Observer for Shared {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Planned { files, bytes } => {
                self.planned_files.store(files, Ordering::Relaxed);
                self.planned_bytes.store(bytes, Ordering::Relaxed);
            }
            Event::Started(path) => {
                if self.style == Style::Terminal || self.style == Style::Lines {
                    let mut current = self.current.lock();
                    current.clear();
                    current.extend_from_slice(path.as_os_str().as_bytes());
                }
            }
            Event::Bytes(n) => {
                self.bytes.fetch_add(n, Ordering::Relaxed);
            }
            Event::Finished { path, outcome, file } => {
                if file {
                    self.files.fetch_add(1, Ordering::Relaxed);
                }
                let least = match outcome {
                    Outcome::Unchanged | Outcome::Skipped | Outcome::Verified => 2,
                    _ => 1,
                };
                if self.verbose >= least {
                    self.tell("entry", word_of(outcome), Some(path), None);
                }
            }
            Event::Unread { path, reason } => {
                self.unread.fetch_add(1, Ordering::Relaxed);
                self.tell("unread", "not read", Some(path), Some(reason));
            }
            Event::Warning(text) => self.tell("warning", "warning", None, Some(text)),
            Event::Detail(text) => {
                if self.verbose > 0 {
                    self.tell("detail", "detail", None, Some(text));
                }
            }
        }
    }
}

fn word_of(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::New => "new",
        Outcome::Changed => "changed",
        Outcome::Unchanged => "unchanged",
        Outcome::Restored => "restored",
        Outcome::Skipped => "skipped",
        Outcome::Rewritten => "rewritten",
        Outcome::Deleted => "deleted",
        Outcome::Verified => "verified",
    }
}

impl Shared {
    fn new(style: Style, verbose: u8) -> Self {
        Self {
            style,
            verbose,
            nouns: ["file", "files"],
            began: clock::now(),
            planned_files: AtomicU64::new(0),
            planned_bytes: AtomicU64::new(0),
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            unread: AtomicU64::new(0),
            current: Mutex::default(),
            screen: Mutex::default(),
            ended: Mutex::new(false),
            wake: Condvar::new(),
        }
    }

    /// A message of its own line: `word: path: text`, or an object of that type.
    fn tell(&self, message_type: &str, word: &str, path: Option<&Path>, text: Option<&str>) {
        let path = path.map(|p| p.as_os_str().as_bytes());
        if self.style == Style::Json {
            let mut object = Map::new();
            object.insert("message_type".into(), message_type.into());
            if message_type == "entry" {
                object.insert("outcome".into(), word.into());
            }
            if let Some(path) = path {
                words::put_text(&mut object, "path", path);
            }
            if let Some(text) = text {
                object.insert("message".into(), text.into());
            }
            return self.say(&format!("{}\n", Value::from(object)));
        }
        let mut line = String::from(word);
        if let Some(path) = path {
            line.push_str(if text.is_some() { ": " } else { " " });
            line.push_str(&words::visible(path));
        }
        if let Some(text) = text {
            line.push_str(": ");
            line.push_str(&words::harmless(text));
        }
        line.push('\n');
        self.say(&line);
    }

    /// Prints whole lines in the place of the progress line, which comes back with the next painting.
    fn say(&self, lines: &str) {
        let mut screen = self.screen.lock();
        let erase = if std::mem::take(&mut screen.painted) { ERASE } else { "" };
        print(&format!("{erase}{lines}"));
    }

    fn paint(&self, interval: Duration) {
        let mut samples = VecDeque::from([(0.0, 0)]);
        loop {
            {
                let mut ended = self.ended.lock();
                if !*ended {
                    self.wake.wait_for(&mut ended, interval);
                }
                if *ended {
                    return;
                }
            }
            let (seconds, bytes) =
                (clock::now().seconds_since(self.began), self.bytes.load(Ordering::Relaxed));
            samples.push_back((seconds, bytes));
            while samples.len() > 2 && seconds - samples[1].0 > RATE_SECONDS {
                samples.pop_front();
            }
            let (then, before) = samples[0];
            let rate = bytes.saturating_sub(before) as f64 / (seconds - then).max(1e-3);
            match self.style {
                Style::Terminal => {
                    let line = self.status(seconds, bytes, rate);
                    let current = words::visible(&self.current.lock());
                    let line = fit(&line, &current, width());
                    let mut screen = self.screen.lock();
                    screen.painted = true;
                    print(&format!("{ERASE}{NO_WRAP}{line}{WRAP}"));
                }
                _ => self.say(&format!("{}\n", self.status(seconds, bytes, rate))),
            }
        }
    }

    /// `0:12  41 %  12,034 of 84,000 files  512 MiB of 1.3 GiB  182 MiB/s  0:05 left`.
    fn status(&self, seconds: f64, bytes: u64, rate: f64) -> String {
        let files = self.files.load(Ordering::Relaxed);
        let [one, many] = self.nouns;
        let planned_files = self.planned_files.load(Ordering::Relaxed);
        let planned = self.planned_bytes.load(Ordering::Relaxed);
        let mut line = words::clock(seconds);
        if planned > 0 {
            line.push_str(&format!("  {:.0} %", (bytes as f64 / planned as f64 * 100.0).min(100.0).floor()));
        }
        line.push_str(&match planned_files > files {
            true => format!("  {} of {} {many}", words::count(files), words::count(planned_files)),
            false => format!("  {}", words::counted(files, one, many)),
        });
        line.push_str(&match planned > bytes {
            true => format!("  {} of {}", words::size(bytes), words::size(planned)),
            false => format!("  {}", words::size(bytes)),
        });
        line.push_str(&format!("  {}/s", words::size(rate as u64)));
        if planned > bytes && rate >= 1.0 {
            line.push_str(&format!("  {} left", words::clock((planned - bytes) as f64 / rate)));
        }
        match self.unread.load(Ordering::Relaxed) {
            0 => {}
            n => line.push_str(&format!("  {} not read", words::count(n))),
        }
        line
    }
}

/// The status and as much of the path as there is room for: its end tells more than its beginning.
fn fit(status: &str, path: &str, width: usize) -> String {
    // The last column stays free: some terminals wrap when it is filled.
    let width = width.saturating_sub(1);
    let used = status.chars().count();
    if used >= width {
        return status.chars().take(width).collect();
    }
    let room = width - used;
    let len = path.chars().count();
    match room.checked_sub(2) {
        Some(room) if len <= room => format!("{status}  {path}"),
        Some(room) if room > 8 => {
            let tail: String = path.chars().skip(len - (room - 1)).collect();
            format!("{status}  …{tail}")
        }
        _ => status.into(),
    }
}

fn width() -> usize {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ (ioctl_tty(2)) writes one winsize, which `size` is.
    let result = unsafe { libc::ioctl(std::io::stderr().as_raw_fd(), libc::TIOCGWINSZ, &mut size) };
    if result == 0 && size.ws_col > 0 { usize::from(size.ws_col) } else { DEFAULT_WIDTH }
}

fn print(text: &str) {
    if !text.is_empty() {
        // A standard error output that is closed hears nothing; the work goes on.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_how_far_how_fast_and_how_long() {
        let shared = Shared::new(Style::Quiet, 0);
        assert_eq!(shared.status(0.4, 0, 0.0), "0:00  0 files  0 B  0 B/s");
        shared.event(Event::Planned { files: 84_000, bytes: 1 << 30 });
        shared.event(Event::Bytes(256 << 20));
        let done = Event::Finished { path: Path::new("/x"), outcome: Outcome::New, file: true };
        shared.event(done);
        shared.event(Event::Finished { path: Path::new("/"), outcome: Outcome::New, file: false });
        assert_eq!(
            shared.status(12.0, 256 << 20, (64 << 20) as f64),
            "0:12  25 %  1 of 84,000 files  256 MiB of 1.0 GiB  64 MiB/s  0:12 left"
        );
        // More than was planned is possible: files grow.
        assert!(shared.status(12.0, 2 << 30, 1.0).contains("  100 %  "));
    }

    #[test]
    fn the_line_never_fills_the_terminal() {
        assert_eq!(fit("12 files", "/etc/fstab", 40), "12 files  /etc/fstab");
        assert_eq!(fit("12 files", "/a/very/long/path/to/fstab", 30), "12 files  …long/path/to/fstab");
        assert_eq!(fit("12 files", "/etc/fstab", 16), "12 files");
        assert_eq!(fit("12 files", "/etc/fstab", 5), "12 f");
        assert_eq!(fit("12 files", "", 0), "");
    }
}
