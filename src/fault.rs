//! What went wrong, as the caller can act on it.
//!
//! There is one error type for the whole library: what we were doing and to what (one line of
//! text), the [`Fault`], and the cause. Three tables consume the fault: what is retried
//! (storage), which errno the mount answers, and which exit code and hint the command line gives.

use std::error::Error as StdError;
use std::fmt;

/// What a caller can do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// It is not there, and nothing promised that it would be.
    Missing,
    /// It is there, or was promised, and is not what it must be: never served.
    Damaged,
    /// Permission is lacking.
    Denied,
    /// Trying again later may help (locked, timed out, connection lost).
    Busy,
    /// No space, quota or descriptors left.
    Full,
    /// The request makes no sense; nothing was done.
    Misuse,
    /// Somebody asked to stop.
    Stopped,
    /// The place holds no repository.
    NoRepository,
    /// No key slot opens with this password or key file.
    WrongKey,
    /// Made by a newer pastfs: this one must not touch it.
    Newer,
    /// The operating system failed in a way that fits none of the above.
    Io,
    /// A defect of pastfs.
    Bug,
}

/// What to do where nobody may write, whoever he is.
const READ_ONLY: &str = "the file system is mounted read-only: where that is not on purpose, the system's log tells why \
                         (a disk with errors is often made so)";

/// A failure: what we were doing, to what, and why it did not work.
pub struct Error {
    fault: Fault,
    doing: String,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// Result of nearly everything here.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A failure with no deeper cause. `doing` is lower case and without a full stop.
    pub fn new(fault: Fault, doing: impl Into<String>) -> Self {
        Self { fault, doing: doing.into(), hint: None, source: None }
    }
    /// Damage found: two records that disagree, a hash that does not match.
    pub fn damaged(doing: impl Into<String>) -> Self {
        Self::new(Fault::Damaged, doing)
    }
    /// The caller asked for what makes no sense.
    pub fn misuse(doing: impl Into<String>) -> Self {
        Self::new(Fault::Misuse, doing)
    }
    /// A defect of this program.
    pub fn bug(doing: impl Into<String>) -> Self {
        Self::new(Fault::Bug, doing)
    }
    /// A failure of the operating system; the fault follows from the kind of error.
    pub fn io(doing: impl Into<String>, source: std::io::Error) -> Self {
        let read_only = source.kind() == std::io::ErrorKind::ReadOnlyFilesystem;
        let hint = read_only.then(|| READ_ONLY.to_owned());
        Self { fault: fault_of_io(&source), doing: doing.into(), hint, source: Some(Box::new(source)) }
    }
    /// A failure with a cause of any type.
    pub fn with_source(
        fault: Fault,
        doing: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self { fault, doing: doing.into(), hint: None, source: Some(source.into()) }
    }
    /// The same failure seen from one floor up: `doing` becomes the headline, this the cause.
    pub fn while_(self, doing: impl Into<String>) -> Self {
        Self { fault: self.fault, doing: doing.into(), hint: None, source: Some(Box::new(self)) }
    }
    /// The same failure, judged anew: a `Missing` that was promised is `Damaged`.
    pub fn as_fault(mut self, fault: Fault) -> Self {
        self.fault = fault;
        self
    }
    /// Adds what to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
    /// What the caller can do about it.
    pub fn fault(&self) -> Fault {
        self.fault
    }
    /// What to do next: the outermost hint in the chain of causes.
    pub fn advice(&self) -> Option<&str> {
        let mut at: Option<&Error> = Some(self);
        while let Some(e) = at {
            if let Some(h) = &e.hint {
                return Some(h);
            }
            at = e.source.as_deref().and_then(|s| s.downcast_ref::<Error>());
        }
        None
    }
    /// Headline and all causes on one line, joined by `: `.
    pub fn chain(&self) -> String {
        let mut text = self.doing.clone();
        let mut at = self.source();
        while let Some(e) = at {
            text.push_str(": ");
            text.push_str(&e.to_string());
            at = e.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.doing)
    }
}
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.fault, self.chain())
    }
}
impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|s| s as &(dyn StdError + 'static))
    }
}

/// Adds what we were doing to results of the library and of the operating system.
pub trait Doing<T> {
    /// `doing` is built only on failure.
    fn doing<S: Into<String>>(self, doing: impl FnOnce() -> S) -> Result<T>;
}
impl<T> Doing<T> for std::io::Result<T> {
    fn doing<S: Into<String>>(self, doing: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| Error::io(doing(), e))
    }
}
impl<T> Doing<T> for std::result::Result<T, rustix::io::Errno> {
    fn doing<S: Into<String>>(self, doing: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| Error::io(doing(), e.into()))
    }
}
impl<T> Doing<T> for Result<T> {
    fn doing<S: Into<String>>(self, doing: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| e.while_(doing()))
    }
}

fn fault_of_io(e: &std::io::Error) -> Fault {
    use std::io::ErrorKind as K;
    match e.kind() {
        K::NotFound => Fault::Missing,
        K::PermissionDenied | K::ReadOnlyFilesystem => Fault::Denied,
        K::StorageFull | K::QuotaExceeded | K::OutOfMemory => Fault::Full,
        K::WouldBlock | K::TimedOut | K::ResourceBusy => Fault::Busy,
        K::InvalidInput => Fault::Misuse,
        K::InvalidData | K::UnexpectedEof => Fault::Damaged,
        _ => match e.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE | libc::EDQUOT) => Fault::Full,
            Some(libc::EPERM) => Fault::Denied,
            _ => Fault::Io,
        },
    }
}
