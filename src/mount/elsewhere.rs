//! Files that outlive the snapshot in which they were seen last.
//!
//! An unchanged file is one node for all snapshots, and a node remembers one place. When the snapshot of that place is
//! forgotten and its trees are pruned, the kernel still holds the file under its names in other snapshots, for good, and
//! asks nobody before it reads. So the place is looked for again, in what is left.

use super::folders::Found;
use super::inodes::{Folder, Node, What};
use super::numbering::PathDigest;
use super::snapshots::{Listed, Shown};
use super::view::View;
use crate::fault::{Error, Result};
use crate::format::tree::Node as Kind;
use std::sync::Arc;

/// Snapshots that are looked into. Those that hold the same file follow each other in time, so the nearest have it.
const SEARCHED_MAX: usize = 64;

impl View {
    /// The entry behind a node, which could not be had (`e`) where it was seen: in a snapshot that is there no more, or this
    /// is damage. The node is found there from now on.
    pub(super) fn elsewhere(&self, node: &Node, gone: &Shown, e: Error) -> Result<Found> {
        let sight = self.sight();
        let list = &sight.snapshots.list;
        if node.is_folder() || list.iter().any(|l| l.shown.id == gone.id) {
            return Err(e);
        }
        let mut near: Vec<&Listed> = list.iter().filter(|l| l.shown.host == gone.host).collect();
        near.sort_by_key(|l| l.shown.time.seconds.abs_diff(gone.time.seconds));
        // What cannot be read in one of them may be whole in the next.
        let found = near.into_iter().take(SEARCHED_MAX).find_map(|l| self.same_in(node, l).ok().flatten());
        found.ok_or(e)
    }

    /// The same file at the same path of another snapshot, if it is there.
    fn same_in(&self, node: &Node, listed: &Listed) -> Result<Option<Found>> {
        let path = node.path();
        let mut names: Vec<&[u8]> = path.split(|b| *b == b'/').skip(1).collect();
        let Some(last) = names.pop() else { return Ok(None) };
        let shown = &listed.shown;
        let number = |digest: &PathDigest| self.nodes.number(self.numbering.single(shown, digest));
        let root = self.root_of(&listed.name, shown, number(&self.numbering.root_path()), 0);
        let mut at = Arc::new(root);
        for name in names {
            let Some(entry) = self.entry_in(&at, name)? else { return Ok(None) };
            let (Kind::Folder(tree), Some((_, within))) = (&entry.node, at.inside()) else { return Ok(None) };
            let digest = self.numbering.path(&within.path, name);
            let inside = Folder { tree: *tree, path: digest };
            at = Arc::new(Node {
                ino: number(&digest),
                generation: 0,
                parent: Some(at.clone()),
                name: name.into(),
                what: What::Saved(shown.clone(), Some(Box::new(inside))),
            });
        }
        let Some(entry) = self.entry_in(&at, last)? else { return Ok(None) };
        let Some((_, within)) = at.inside() else { return Ok(None) };
        let print = self.fingerprint(shown, within, &entry);
        let moved = self.nodes.move_to(node.ino, print, || Node {
            ino: node.ino,
            generation: node.generation,
            parent: Some(at.clone()),
            name: last.into(),
            what: What::Saved(shown.clone(), None),
        });
        Ok(moved.then_some(entry))
    }

    fn entry_in(&self, folder: &Node, name: &[u8]) -> Result<Option<Found>> {
        let (shown, within) = folder.inside().ok_or_else(|| Error::damaged("a folder is none"))?;
        let tree = self.tree_of(folder, shown, within)?;
        self.folders.entry(self.chunks(), &tree, name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::errno::Errno;
    use super::super::view_tests::{ONE, TWO, World, entry, inline};
    use crate::format::tree::Node;

    #[test]
    fn a_file_outlives_the_snapshot_in_which_it_was_seen_last() {
        let w = World::new(None);
        let folder = |text: &str| w.folder(&[inline("changed", text), inline("same", "content")]);
        let (old, new) = (folder("old"), folder("new"));
        let shown = || w.snapshot(2, &[entry("d", Node::Folder(new))]);
        w.view.refresh(vec![w.snapshot(1, &[entry("d", Node::Folder(old))]), shown()]);
        let same = w.walk(&format!("{TWO}/d/same")).unwrap();
        assert_eq!(w.walk(&format!("{ONE}/d/same")), Ok(same));
        let changed = w.walk(&format!("{ONE}/d/changed")).unwrap();
        // Damage of a snapshot that is there is damage.
        let page = w.memory.chunks.lock().remove(&old).unwrap();
        assert_eq!(w.read(same, 0, 99), Err(Errno::EIO));
        w.memory.chunks.lock().insert(old, page);
        assert_eq!(w.read(same, 0, 99).unwrap(), b"content");

        w.view.refresh(vec![shown()]);
        w.memory.chunks.lock().remove(&old);
        assert_eq!(w.read(same, 0, 99).unwrap(), b"content");
        assert_eq!(w.view.attributes(same).unwrap().0.ino, same);
        assert_eq!(w.view.xattrs(same, true).unwrap(), b"");
        // What is nowhere else is gone with it.
        assert_eq!(w.read(changed, 0, 99), Err(Errno::EIO));
        assert_eq!(w.heard.0.lock().len(), 2);
    }
}
