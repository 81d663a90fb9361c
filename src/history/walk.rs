//! A walk through everything that ever was below a path.

use super::{Lost, Name, merged};
use crate::fault::Result;
use crate::tree::Chunks;

/// Visits all names that ever were below `top`, whose path is `path`, each once with all its versions; a folder comes
/// before what is in it, in the order of the names' bytes. `visit` gets absolute paths, and answers whether to go
/// into the name where it was a folder. A tree is read once for each path at which it is.
///
/// # Errors
/// What the store says, and what `visit` answers. Damage goes to `lost`, with the path, and the rest goes on.
pub fn walk(
    chunks: &dyn Chunks,
    top: &Name,
    path: &[u8],
    lost: &mut dyn FnMut(&[u8], Lost),
    visit: &mut dyn FnMut(&[u8], &Name) -> Result<bool>,
) -> Result<()> {
    let mut list = |name: &Name, path: &[u8]| -> Result<std::vec::IntoIter<Name>> {
        let mut found = Vec::new();
        let names = merged(chunks, &name.folders, &mut found)?;
        found.into_iter().for_each(|l| lost(path, l));
        Ok(names.into_iter())
    };
    let mut path = path.to_vec();
    while path.last() == Some(&b'/') {
        path.pop();
    }
    // Folders that are under way, each with the length of its path. Not by recursion: trees may be deep.
    let mut open = vec![(list(top, &path)?, path.len())];
    while let Some((names, len)) = open.last_mut() {
        path.truncate(*len);
        let Some(name) = names.next() else {
            open.pop();
            continue;
        };
        path.push(b'/');
        path.extend_from_slice(&name.name);
        if visit(&path, &name)? && !name.folders.is_empty() {
            open.push((list(&name, &path)?, path.len()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::root;
    use super::super::testing::{Shelf, file, folder};
    use super::*;

    fn paths(shelf: &Shelf, snapshots: &[(u32, crate::id::ChunkId)], into: bool) -> (Vec<String>, usize) {
        let top = root(shelf, snapshots, &mut Vec::new()).unwrap();
        let (mut seen, mut lost) = (Vec::new(), 0);
        let mut visit = |path: &[u8], name: &Name| {
            seen.push(format!("{} {}", String::from_utf8_lossy(path), name.snapshots().count()));
            Ok(into)
        };
        walk(shelf, &top, b"/", &mut |_, _| lost += 1, &mut visit).unwrap();
        (seen, lost)
    }

    #[test]
    fn everything_that_ever_was_is_met_once() {
        let mut shelf = Shelf::default();
        let d = [shelf.tree([file("a", 1, b""), file("gone", 1, b"")]), shelf.tree([file("a", 1, b"")])];
        let mut snapshots = Vec::new();
        for (i, tree) in [d[0], d[1], d[1]].into_iter().enumerate() {
            let top = shelf.tree([folder(b"d", tree), file("d.txt", 1, b"")]);
            snapshots.push((i as u32, shelf.root(top)));
        }
        let (seen, lost) = paths(&shelf, &snapshots, true);
        assert_eq!(seen, ["/d 3", "/d/a 3", "/d/gone 1", "/d.txt 3"]);
        assert_eq!(lost, 0);
        assert_eq!(paths(&shelf, &snapshots, false).0, ["/d 3", "/d.txt 3"]);
        shelf.lose(d[0]);
        assert_eq!(
            paths(&shelf, &snapshots, true),
            (vec!["/d 3".into(), "/d/a 2".into(), "/d.txt 3".into()], 1)
        );
    }

    #[test]
    fn the_walk_over_many_snapshots_costs_what_differs() {
        let mut shelf = Shelf::default();
        let still: Vec<_> = (0..50).map(|n| shelf.tree([file("f", n, b"x")])).collect();
        let mut snapshots = Vec::new();
        for i in 0..200 {
            let moving = shelf.tree([file("log", i, b"")]);
            let folders = still.iter().enumerate().map(|(n, t)| folder(format!("s{n:02}").as_bytes(), *t));
            let top = shelf.tree([folder(b"moving", moving)].into_iter().chain(folders));
            snapshots.push((i as u32, shelf.root(top)));
        }
        shelf.reads();
        assert_eq!(paths(&shelf, &snapshots, true).0.len(), 102);
        assert_eq!(shelf.reads(), 3 * 200 + 50, "roots, tops, the moving folder, and each still one once");
    }

    #[test]
    fn deep_trees_do_not_end_the_stack() {
        let mut shelf = Shelf::default();
        let mut tree = shelf.tree([]);
        for _ in 0..5_000 {
            tree = shelf.tree([folder(b"d", tree)]);
        }
        let snapshots = [(0, shelf.root(tree))];
        assert_eq!(paths(&shelf, &snapshots, true).0.len(), 5_000);
    }
}
