//! The standard output: buffered, with errors that are told, but for a reader that has left.

use crate::fault::{Doing, Result};
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

/// Lines are collected up to this many bytes; larger pieces go straight through.
const BUFFER_LEN: usize = 64 << 10;

/// Set once a write found the other end of the pipe closed.
static READER_LEFT: AtomicBool = AtomicBool::new(false);

/// Whether the reader of our standard output has closed the pipe: then the end is quiet.
pub fn reader_left() -> bool {
    READER_LEFT.load(Ordering::Relaxed)
}

/// Whether the standard output is a terminal.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// The standard output.
pub struct Output(BufWriter<Watched>);

/// A file that notices when nobody reads it any more.
struct Watched(File);

impl Write for Watched {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).inspect_err(|e| {
            if e.kind() == io::ErrorKind::BrokenPipe {
                READER_LEFT.store(true, Ordering::Relaxed);
            }
        })
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output {
    /// A handle of its own on the standard output.
    pub fn open() -> Result<Self> {
        let fd = io::stdout().as_fd().try_clone_to_owned().doing(|| "opening the standard output")?;
        Ok(Self(BufWriter::with_capacity(BUFFER_LEN, Watched(File::from(fd)))))
    }
    /// One line.
    pub fn line(&mut self, text: impl AsRef<str>) -> Result<()> {
        self.bytes(text.as_ref().as_bytes())?;
        self.bytes(b"\n")
    }
    /// Bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(bytes).doing(|| "writing to the standard output")
    }
    /// For those who write by themselves; they must end with [`Output::finish`].
    pub fn writer(&mut self) -> &mut (dyn Write + Send) {
        &mut self.0
    }
    /// Writes what is still held back. Not called after a failure: then the rest does not matter.
    pub fn finish(mut self) -> Result<()> {
        self.0.flush().doing(|| "writing to the standard output")
    }
}

/// One line, at once.
pub fn line(text: impl AsRef<str>) -> Result<()> {
    let mut out = Output::open()?;
    out.line(text)?;
    out.finish()
}
