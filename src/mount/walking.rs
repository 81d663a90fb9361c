//! Folders are decoded before a walk comes to them: while the kernel makes inodes of what one folder holds, the next ones
//! are got ready on another core.
//!
//! A walk is who lists a folder, and then one in it. What is decoded goes where listings are kept, so that it is
//! bounded there, and forgotten if nobody comes.

use super::inodes::Node;
use super::view::View;
use crate::fault::Result;
use crate::format::tree::{Entry, Node as Kind};
use crate::id::ChunkId;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

/// Folders that are decoded at a time: what lies in the one that is listed, and then what is behind it. Of ordinary ones
/// that takes a millisecond or two.
const AHEAD_MAX: usize = 32;
/// Folders that are remembered as listed: so many walks may take turns, each deep in its tree.
const LISTED: usize = 64;

/// Which folders were listed last.
#[derive(Default)]
pub(super) struct Walking {
    /// By number, the newest last.
    listed: Mutex<VecDeque<u64>>,
}

impl View {
    /// A folder was listed from its beginning. If that is a walk, the folder.
    pub fn walked(&self, ino: u64) -> Option<Arc<Node>> {
        let node = self.nodes.get(ino)?;
        node.inside()?;
        let listed = &mut *self.walking.listed.lock();
        let known = |ino: u64| listed.iter().rposition(|n| *n == ino);
        let above = node.parent.as_ref().and_then(|p| known(p.ino));
        if known(ino).is_none() {
            if listed.len() == LISTED {
                listed.pop_front();
            }
            listed.push_back(ino);
        }
        above.map(|_| node)
    }

    /// Decodes the folders that a walk comes to next. What cannot be read is left for who asks for it.
    pub fn decode_ahead(&self, node: &Node) {
        let inner = self.decode_folders(node, |_| true, AHEAD_MAX).unwrap_or_default();
        if let Some(above) = &node.parent {
            let _ = self.decode_folders(above, |e| *e.name > *node.name, AHEAD_MAX - inner);
        }
    }

    /// Those of `node` that are wanted, up to `most`; how many that were.
    fn decode_folders(&self, node: &Node, wanted: impl Fn(&Entry) -> bool, most: usize) -> Result<usize> {
        let Some((shown, folder)) = node.inside() else { return Ok(0) };
        let listing = self.folders.listing(self.chunks(), &self.tree_of(node, shown, folder)?)?;
        let folders = listing.entries.iter().filter(|e| wanted(e)).filter_map(tree);
        let mut count = 0;
        for tree in folders.take(most) {
            self.folders.listing(self.chunks(), tree)?;
            count += 1;
        }
        Ok(count)
    }
}

fn tree(entry: &Entry) -> Option<&ChunkId> {
    match &entry.node {
        Kind::Folder(tree) => Some(tree),
        _ => None,
    }
}
