//! Gives the kernel's memory of files back, once it holds more than it should: it forgets nothing on its own while
//! there is free memory, and each inode that it holds is one that we hold.
//!
//! Linux 6.18 can be told to let go of inodes that nobody uses (FUSE_NOTIFY_PRUNE): files under all their names,
//! and folders behind their last entry; what is open, and folders that a process stands in, stay. Older
//! kernels can only be told that a name is no longer valid (FUSE_NOTIFY_INVAL_ENTRY). That is for files alone: a folder
//! would be cut off under who stands in it, and getcwd(2) fail.

use super::inodes::{Node, Nodes};
use fuser::{INodeNo, Notifier};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// Inodes that are given back in one go, where so many may be held.
const STEP_MAX: usize = 10_000;
/// FUSE_NOTIFY_PRUNE of linux/fuse.h: `fuse_out_header`, `fuse_notify_prune_out`, then the numbers. fuser does not have
/// it yet.
const NOTIFY_PRUNE: i32 = 9;
/// Numbers in one notification: 32 KiB.
const PRUNE_MAX: usize = 4096;

/// Keeps the number of inodes near a limit.
pub(super) struct Eviction {
    limit: usize,
    notifier: Notifier,
    /// The kernel's device, to write what fuser has no words for; `None` once the kernel did not know the word.
    device: Option<OwnedFd>,
    /// Where a pass did not help (all is in use), the next one waits for more to come.
    enough: usize,
}

impl Eviction {
    /// Lets the kernel hold about `limit` inodes.
    pub fn new(limit: usize, notifier: Notifier, device: Option<OwnedFd>) -> Self {
        Self { limit, notifier, device, enough: limit }
    }

    /// Inodes of one pass.
    fn step(&self) -> usize {
        (self.limit / 10).clamp(1, STEP_MAX)
    }

    /// The kernel may hold too many. To be called by the one thread that notifies.
    pub fn crowded(&mut self, nodes: &Nodes) {
        let tried = nodes.len() > self.enough;
        if tried {
            self.take_back(nodes);
        }
        // Forgets may still be on their way: they count at the next call.
        let next = self.limit.max(nodes.len() + self.step());
        self.enough = if tried { next } else { next.min(self.enough) };
    }

    /// Asks the kernel to let go of the oldest, down to nine tenths of the limit; its forgets follow.
    fn take_back(&mut self, nodes: &Nodes) {
        let surplus = nodes.len().saturating_sub(self.limit / 10 * 9);
        for _ in 0..surplus.div_ceil(self.step()) {
            let oldest = nodes.oldest(self.step());
            if oldest.is_empty() {
                return;
            }
            if !self.prune(&oldest) {
                self.invalidate(&oldest);
            }
        }
    }

    /// Whether the kernel knows what that is.
    fn prune(&mut self, nodes: &[Arc<Node>]) -> bool {
        let Some(device) = &self.device else { return false };
        // Those in a folder came behind it: it has nothing in it any more when its turn comes.
        let numbers: Vec<u64> = nodes.iter().rev().map(|n| n.ino).collect();
        for some in numbers.chunks(PRUNE_MAX) {
            // Where the mount is gone, the loop that calls this ends.
            if let Err(Errno::INVAL | Errno::NOSYS) = rustix::io::write(device, &prune_message(some)) {
                self.device = None;
                return false;
            }
        }
        true
    }

    fn invalidate(&self, nodes: &[Arc<Node>]) {
        for node in nodes.iter().filter(|n| !n.is_folder()) {
            if let Some(parent) = &node.parent {
                let _ = self.notifier.inval_entry(INodeNo(parent.ino), OsStr::from_bytes(&node.name));
            }
        }
    }
}

fn prune_message(numbers: &[u64]) -> Vec<u8> {
    let len = 16 + 16 + 8 * numbers.len();
    let mut message = Vec::with_capacity(len);
    // fuse_out_header: length, code of the notification, and 0 where an answer has the number of its request.
    message.extend_from_slice(&(len as u32).to_ne_bytes());
    message.extend_from_slice(&NOTIFY_PRUNE.to_ne_bytes());
    message.extend_from_slice(&0u64.to_ne_bytes());
    // fuse_notify_prune_out: count, padding, spare.
    message.extend_from_slice(&(numbers.len() as u32).to_ne_bytes());
    message.extend_from_slice(&[0; 12]);
    for n in numbers {
        message.extend_from_slice(&n.to_ne_bytes());
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_laid_out_as_the_kernel_reads_it() {
        let message = prune_message(&[0x0102, 7]);
        assert_eq!(message.len(), 48);
        let u32_at = |at: usize| u32::from_ne_bytes(message[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_ne_bytes(message[at..at + 8].try_into().unwrap());
        assert_eq!((u32_at(0), u32_at(4), u64_at(8)), (48, 9, 0));
        assert_eq!((u32_at(16), u32_at(20), u64_at(24)), (2, 0, 0));
        assert_eq!((u64_at(32), u64_at(40)), (0x0102, 7));
    }
}
