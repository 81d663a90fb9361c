//! Where a program in the background tells what people should know: the system's log, or a file.

use super::words;
use crate::clock;
use crate::event::{Event, Observer};
use crate::fault::{Doing, Result};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where syslog(3) and systemd-journald(8) listen.
const SOCKET: &str = "/dev/log";
/// Facility `daemon` with the severities `warning` and `info` (RFC 5424, 6.2.1).
const WARNING: u8 = 3 << 3 | 4;
const INFO: u8 = 3 << 3 | 6;
/// Longest message: what all who receive them take (RFC 5424, 6.1).
const MESSAGE_MAX: usize = 2048;

/// Tells the foreground as long as there is one, then the system's log; a file, where one is named, both times.
pub struct Log {
    foreground: Arc<dyn Observer>,
    file: Option<PathBuf>,
    socket: PathBuf,
    detailed: bool,
    in_background: AtomicBool,
}

impl Log {
    /// # Errors
    /// What opening the file says: now is the time when somebody sees it.
    pub fn new(foreground: Arc<dyn Observer>, file: Option<&Path>, detailed: bool) -> Result<Self> {
        let file = match file {
            Some(path) => {
                let doing = || format!("opening the log {}", path.display());
                let path = std::path::absolute(path).doing(doing)?;
                open(&path).doing(doing)?;
                Some(path)
            }
            None => None,
        };
        Ok(Self { foreground, file, socket: SOCKET.into(), detailed, in_background: AtomicBool::new(false) })
    }

    /// From now on nobody looks at the standard error output. What makes the program panic is told as well.
    pub fn go_into_background(self: &Arc<Self>) {
        self.in_background.store(true, Ordering::Relaxed);
        let log = self.clone();
        std::panic::set_hook(Box::new(move |panic| log.event(Event::Warning(&panic.to_string()))));
    }

    fn write(&self, severity: u8, text: &str) {
        let text = words::harmless(text);
        let id = std::process::id();
        // Where it cannot be told there is nobody to tell that to. A file is opened each time: it may be rotated.
        if let Some(path) = &self.file {
            let word = if severity == WARNING { "warning: " } else { "" };
            let line = format!("{} pastfs[{id}]: {word}{text}\n", words::machine_time(clock::now()));
            let _ = open(path).and_then(|mut f| f.write_all(line.as_bytes()));
        } else if let Ok(socket) = UnixDatagram::unbound() {
            let message = format!("<{severity}>pastfs[{id}]: {text}");
            let end = message.floor_char_boundary(MESSAGE_MAX);
            // A log that is full must not hold the mount up.
            let _ = socket.set_nonblocking(true);
            let _ = socket.send_to(&message.as_bytes()[..end], &self.socket);
        }
    }
}

impl Observer for Log {
    fn event(&self, event: Event<'_>) {
        let in_background = self.in_background.load(Ordering::Relaxed);
        if !in_background {
            self.foreground.event(event);
        }
        match event {
            _ if !in_background && self.file.is_none() => {}
            Event::Warning(text) => self.write(WARNING, text),
            Event::Detail(text) if self.detailed => self.write(INFO, text),
            _ => {}
        }
    }
}

/// Names of files stand in it: it is for its owner.
fn open(path: &Path) -> std::io::Result<File> {
    File::options().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Silent;
    use std::time::Duration;

    fn folder() -> PathBuf {
        let dir =
            std::env::temp_dir().join(format!("pastfs-log-{}", crate::id::hex(&clock::random_array::<8>())));
        std::fs::create_dir(&dir).unwrap();
        dir
    }

    #[test]
    fn the_system_is_told_in_its_form_once_in_the_background() {
        let dir = folder();
        let mut log = Log::new(Arc::new(Silent), None, false).unwrap();
        log.socket = dir.join("log");
        let system = UnixDatagram::bind(&log.socket).unwrap();
        system.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        log.event(Event::Warning("seen in the foreground"));
        log.in_background.store(true, Ordering::Relaxed);
        log.event(Event::Detail("not asked for"));
        log.event(Event::Warning("a\nb"));
        let mut buffer = [0; 4096];
        let n = system.recv(&mut buffer).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&buffer[..n]),
            format!("<28>pastfs[{}]: a\\nb", std::process::id())
        );
        log.event(Event::Warning(&"é".repeat(5000)));
        let n = system.recv(&mut buffer).unwrap();
        assert!(n <= MESSAGE_MAX && std::str::from_utf8(&buffer[..n]).is_ok());
        // Nobody listens: nothing happens.
        drop(system);
        log.event(Event::Warning("unheard"));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_file_gets_all_of_it_and_may_be_rotated() {
        let dir = folder();
        let path = dir.join("past.log");
        let log = Log::new(Arc::new(Silent), Some(&path), true).unwrap();
        log.event(Event::Warning("one"));
        log.in_background.store(true, Ordering::Relaxed);
        std::fs::rename(&path, dir.join("past.log.1")).unwrap();
        log.event(Event::Detail("two"));
        let first = std::fs::read_to_string(dir.join("past.log.1")).unwrap();
        let second = std::fs::read_to_string(&path).unwrap();
        assert!(first.ends_with(": warning: one\n") && first.lines().count() == 1, "{first}");
        assert!(second.ends_with("]: two\n") && second.lines().count() == 1, "{second}");
        assert!(Log::new(Arc::new(Silent), Some(&dir.join("none/log")), false).is_err());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
