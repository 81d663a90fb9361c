//! What the parent snapshot has in the place where the walk is.

use crate::format::tree::{Entry, Node};
use crate::source::Kind;

/// The parent's entries of a folder, from where the walk is.
#[derive(Default)]
pub struct Old {
    entries: std::vec::IntoIter<Entry>,
    next: Option<Entry>,
}

impl Old {
    /// Of these entries, sorted by name.
    pub fn of(entries: Vec<Entry>) -> Self {
        Self { entries: entries.into_iter(), next: None }
    }

    /// The entry of that name; those before it were deleted. Names come in rising order.
    pub fn find(&mut self, name: &[u8]) -> Option<Entry> {
        loop {
            let entry = match self.next.take() {
                Some(entry) => entry,
                None => self.entries.next()?,
            };
            match entry.name.as_slice().cmp(name) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => return Some(entry),
                std::cmp::Ordering::Greater => {
                    self.next = Some(entry);
                    return None;
                }
            }
        }
    }
}

/// Whether an entry is of the kind that the walk has met.
pub fn same_kind(node: &Node, kind: Kind) -> bool {
    match (node, kind) {
        (Node::File(_), Kind::File)
        | (Node::Folder(_), Kind::Folder)
        | (Node::Symlink(_), Kind::Symlink)
        | (Node::Fifo, Kind::Fifo)
        | (Node::Socket, Kind::Socket) => true,
        (Node::CharDevice(a), Kind::Char(b)) | (Node::BlockDevice(a), Kind::Block(b)) => *a == b,
        _ => false,
    }
}

/// Sizes of folders are the file system's own business.
pub fn same_size(old: &Entry, size: u64) -> bool {
    matches!(old.node, Node::Folder(_)) || old.stat.size == size
}
