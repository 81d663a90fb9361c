//! What stands in a file of the target, held against what the snapshot says: chunk by chunk, by their ids, so that the
//! repository need not be read for it.

use super::Supply;
use super::content::{Leaf, leaves};
use super::place::Found;
use super::shared::Shared;
use super::write::Job;
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::tree::{CHUNK_MAX, Content, Entry, Node};
use rustix::fs::{Advice, OFlags, SeekFrom};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd};

/// Zeros are looked for in steps of so many bytes.
const STEP: usize = 256 << 10;

/// A file of the target as it stands.
pub(super) struct Standing<'a> {
    fd: BorrowedFd<'a>,
    size: u64,
    buffer: Vec<u8>,
}

impl<'a> Standing<'a> {
    pub fn new(fd: BorrowedFd<'a>, size: u64) -> Self {
        Self { fd, size, buffer: Vec::new() }
    }

    /// Whether this stretch is what it must be. What cannot be read is not.
    pub fn is(&mut self, supply: &dyn Supply, at: u64, leaf: Leaf<'_>) -> bool {
        match leaf {
            Leaf::Inline(bytes) => self.read(at, bytes.len()).is_some_and(|there| there == bytes),
            Leaf::Chunk(id, len) => {
                // No chunk is longer, whatever a tree says.
                let len = usize::try_from(len).ok().filter(|n| *n <= CHUNK_MAX);
                len.and_then(|n| self.read(at, n)).is_some_and(|there| supply.is(&id, there))
            }
            Leaf::Hole(len) => self.is_zero(at, len),
        }
    }

    fn read(&mut self, at: u64, len: usize) -> Option<&[u8]> {
        if at.checked_add(len as u64)? > self.size {
            return None;
        }
        if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
        let mut done = 0;
        while done < len {
            match rustix::io::pread(self.fd, &mut self.buffer[done..len], at + done as u64) {
                Ok(0) => return None,
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(_) => return None,
            }
        }
        Some(&self.buffer[..len])
    }

    /// Whether there is a hole, or zeros. Behind the end there is nothing, which is made a hole by setting the length.
    fn is_zero(&mut self, at: u64, len: u64) -> bool {
        let end = at.saturating_add(len).min(self.size);
        let mut at = at;
        while at < end {
            at = match rustix::fs::seek(self.fd, SeekFrom::Data(at)) {
                Ok(data) => data.max(at),
                Err(Errno::NXIO) => return true,
                // No such call on this file system: all is data.
                Err(_) => at,
            };
            if at >= end {
                break;
            }
            let n = (end - at).min(STEP as u64) as usize;
            if self.read(at, n).is_none_or(|bytes| bytes.iter().any(|b| *b != 0)) {
                return false;
            }
            at += n as u64;
        }
        true
    }
}

/// Where a file differs from its entry first, if it does.
///
/// # Errors
/// What reading the list of its chunks says.
pub(super) fn differs(
    shared: &Shared<'_>,
    fd: BorrowedFd<'_>,
    entry: &Entry,
    content: &Content,
) -> Result<Option<u64>> {
    let size = rustix::fs::fstat(fd).doing(|| "looking at the file")?.st_size as u64;
    let mut standing = Standing::new(fd, size);
    let mut first = (size != entry.stat.size).then_some(size.min(entry.stat.size));
    leaves(shared.supply, content, &mut |at, leaf| {
        if shared.halted() {
            return Err(Error::new(Fault::Stopped, "interrupted"));
        }
        if first.is_none_or(|f| at < f) && !standing.is(shared.supply, at, leaf) {
            first = Some(at);
        }
        Ok(())
    })?;
    Ok(first)
}

/// Reads a restored file back and proves its chunks; counts it, or tells what is wrong. What the kernel keeps of it is
/// dropped before, as far as the file system does that.
pub(super) fn verify(shared: &Shared<'_>, job: Job) {
    if let (Node::File(content), false, Some(folder)) = (&job.entry.node, shared.halted(), job.folder.fd()) {
        match verified(shared, folder, &job.entry, content) {
            Ok(()) => shared.count(|r| r.verified += 1),
            Err(e) if shared.has_failed(&job.path) => drop(e),
            Err(e) => shared.failed(&job.path, e.while_("reading it back")),
        }
    }
    job.folder.leave(shared);
}

fn verified(shared: &Shared<'_>, folder: BorrowedFd<'_>, entry: &Entry, content: &Content) -> Result<()> {
    let gone = || Error::new(Fault::Io, "it is no file any more");
    let found = Found::at(folder, &entry.name).filter(Found::is_file).ok_or_else(gone)?;
    let fd = found.open(OFlags::RDONLY).doing(|| "opening the file")?;
    // A hint: where it is not taken, what the kernel holds is what is proven.
    let _ = rustix::fs::fadvise(&fd, 0, None, Advice::DontNeed);
    match differs(shared, fd.as_fd(), entry, content)? {
        None => Ok(()),
        Some(at) => Err(Error::new(Fault::Io, format!("it is not what was written, from byte {at} on"))
            .hint("check the disk that it was restored to, and restore it again with --checksum")),
    }
}
