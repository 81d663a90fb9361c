//! The bytes of one file on their way into the target.

use super::attributes::Myself;
use super::place::{clear, identity, put};
use super::shared::Shared;
use super::write::Job;
use crate::fault::{Doing, Error, Result};
use crate::format::tree::{Entry, Stat};
use crate::uncached::Uncached;
use bytes::Bytes;
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes that are gathered before they are written. Few calls, and large folios where the file system has them; and what
/// is no longer than this is known to be whole before anything in the target is touched.
const GATHER: usize = 1 << 20;
/// Stretches that are gathered: no more than one call takes (`IOV_MAX`, limits.h).
const PARTS_MAX: usize = 1024;
/// Zeros that are written where holes cannot be made.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

enum Part {
    Data(Bytes),
    Hole(u64),
}

/// A file that is written: a new one, made when there is something to write, or one that is there.
pub(super) struct Out<'a> {
    shared: &'a Shared<'a>,
    folder: BorrowedFd<'a>,
    job: &'a Job,
    /// None: not made yet.
    made: Option<OwnedFd>,
    /// One that is there.
    onto: Option<BorrowedFd<'a>>,
    parts: Vec<(u64, Part)>,
    held: usize,
    /// Where the last byte was written.
    end: u64,
    /// Something was to be written.
    touched: bool,
}

impl<'a> Out<'a> {
    /// A new file.
    pub fn new(shared: &'a Shared<'a>, folder: BorrowedFd<'a>, job: &'a Job) -> Self {
        let (made, onto) = (None, None);
        Self { shared, folder, job, made, onto, parts: Vec::new(), held: 0, end: 0, touched: false }
    }

    /// One that is there.
    pub fn onto(shared: &'a Shared<'a>, folder: BorrowedFd<'a>, job: &'a Job, fd: BorrowedFd<'a>) -> Self {
        Self { onto: Some(fd), ..Self::new(shared, folder, job) }
    }

    /// As long as the entry says.
    pub fn size(&self) -> u64 {
        self.job.entry.stat.size
    }

    /// Takes bytes, in order.
    pub fn data(&mut self, at: u64, bytes: Bytes) -> Result<()> {
        self.held += bytes.len();
        self.parts.push((at, Part::Data(bytes)));
        self.flush_if_full()
    }

    /// Takes a hole where there may be data, in order.
    pub fn hole(&mut self, at: u64, len: u64) -> Result<()> {
        self.parts.push((at, Part::Hole(len)));
        self.flush_if_full()
    }

    fn flush_if_full(&mut self) -> Result<()> {
        if self.held >= GATHER || self.parts.len() >= PARTS_MAX { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        self.touched |= !self.parts.is_empty();
        self.held = 0;
        let parts = std::mem::take(&mut self.parts);
        if self.shared.dry_run || parts.is_empty() {
            return Ok(());
        }
        self.make()?;
        let Some(fd) = self.onto.or_else(|| self.made.as_ref().map(|f| f.as_fd())) else {
            return Err(Error::bug("a file that was made is not there"));
        };
        let doing = || "writing the file";
        let mut written = 0;
        let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(parts.len());
        let (mut start, mut end) = (0, 0);
        // Of small files the kernel gathers many before it writes.
        let mut to = if self.size() > GATHER as u64 { Uncached::new(fd) } else { Uncached::cached(fd) };
        for (at, part) in &parts {
            if *at != end || matches!(part, Part::Hole(_)) {
                write_all(&mut to, start, &mut slices).doing(doing)?;
                slices.clear();
                (start, end) = (*at, *at);
            }
            match part {
                Part::Data(bytes) => {
                    slices.push(IoSlice::new(bytes));
                    end += bytes.len() as u64;
                    written += bytes.len() as u64;
                    self.end = end;
                }
                Part::Hole(len) => punch(fd, *at, *len).doing(doing)?,
            }
        }
        write_all(&mut to, start, &mut slices).doing(doing)?;
        self.shared.count(|r| r.written += written);
        Ok(())
    }

    /// Makes the file, once.
    fn make(&mut self) -> Result<()> {
        if self.made.is_some() || self.onto.is_some() {
            return Ok(());
        }
        let (entry, name) = (&self.job.entry, self.job.entry.name.as_slice());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = first_mode(self.shared.me, entry, self.job.folder.inherits);
        let folder = self.folder;
        let fd = put(self.shared, &self.job.folder, folder, name, || {
            rustix::fs::openat(folder, name, flags, mode)
        })?;
        if mode != PRIVATE && !in_group(&fd, &entry.stat) {
            rustix::fs::fchmod(&fd, PRIVATE).doing(|| "making the file")?;
        }
        self.made = Some(fd);
        Ok(())
    }

    /// Ends a new file: it has its content and its length.
    pub fn finish(&mut self, len: u64) -> Result<OwnedFd> {
        self.flush()?;
        self.make()?;
        let fd = self.made.take().ok_or_else(|| Error::bug("a file that was made is not there"))?;
        if self.end < len {
            // It ends with a hole. Its length is there at once, its data when the kernel writes it: after a power cut
            // length and time alone could make it look finished.
            let ended = rustix::fs::fdatasync(&fd).and_then(|()| rustix::fs::ftruncate(&fd, len));
            if let Err(e) = ended {
                self.made = Some(fd);
                return Err(e).doing(|| "writing the file");
            }
        }
        Ok(fd)
    }

    /// Ends a file that was there with length `had`. Answers whether anything was written, or would have been.
    pub fn finish_onto(&mut self, had: u64) -> Result<bool> {
        self.flush()?;
        let len = self.size();
        let touched = self.touched || had != len;
        if let Some(fd) = self.onto.filter(|_| touched && !self.shared.dry_run) {
            let doing = || "writing the file";
            if had.max(self.end) != len {
                rustix::fs::ftruncate(fd, len).doing(doing)?;
            }
            // The time, which comes next, says that all is written: it must not be durable before it is so.
            rustix::fs::fdatasync(fd).doing(doing)?;
        }
        Ok(touched)
    }

    /// Removes what was written of a new file.
    pub fn discard(&mut self) {
        let Some(fd) = self.made.take() else { return };
        let name = self.job.entry.name.as_slice();
        let ours = rustix::fs::fstat(&fd).is_ok_and(|ours| {
            rustix::fs::statat(self.folder, name, AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|there| identity(&there) == identity(&ours))
        });
        if ours {
            // It was told that this file is not there; what is left of it has not the time of a finished one.
            let _ = clear(self.shared, &self.job.folder, self.folder, name);
        }
    }
}

const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

/// The mode that a new file is made with: its own where nobody gets more rights by that than the whole file will give them.
fn first_mode(me: Myself, entry: &Entry, inherits: bool) -> Mode {
    if inherits || !entry.xattrs.is_empty() || entry.stat.uid != me.uid {
        return PRIVATE;
    }
    Mode::from_raw_mode(entry.stat.mode & 0o777) | PRIVATE
}

fn in_group(fd: &OwnedFd, want: &Stat) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|s| s.st_gid == want.gid)
}

fn write_all(to: &mut Uncached<'_>, mut at: u64, slices: &mut [IoSlice<'_>]) -> std::io::Result<()> {
    let mut left = slices;
    while !left.is_empty() {
        match to.write_at(left, at) {
            Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                IoSlice::advance_slices(&mut left, n);
                at += n as u64;
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Makes a hole, or zeros where the file system has no holes.
fn punch(fd: BorrowedFd<'_>, mut at: u64, mut len: u64) -> std::io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(fd, flags, at, len) {
        Err(Errno::NOTSUP | Errno::NOSYS) => {}
        other => return Ok(other?),
    }
    while len > 0 {
        let n = len.min(ZEROS.len() as u64);
        write_all(&mut Uncached::cached(fd), at, &mut [IoSlice::new(&ZEROS[..n as usize])])?;
        (at, len) = (at + n, len - n);
    }
    Ok(())
}
