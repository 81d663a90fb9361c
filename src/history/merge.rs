//! The union of one folder over all snapshots.

use super::{Lost, Name, Runs, Strand, spare};
use crate::fault::Result;
use crate::format::tree::{Entry, LEVEL_MAX, Page};
use crate::id::ChunkId;
use crate::tree::{self, Chunks};
use std::collections::{BTreeMap, HashMap};

/// All names that ever were in a folder, sorted by their bytes.
///
/// Reads the pages of all trees, each once, however many trees it is a part of (but for a tree of one page that is
/// also a part of a larger one: that page may be read twice).
///
/// # Errors
/// What the store says. Damage goes to `lost`; the names of the other pages are there.
pub fn merged(chunks: &dyn Chunks, folder: &[Strand], lost: &mut Vec<Lost>) -> Result<Vec<Name>> {
    let mut names: BTreeMap<Vec<u8>, Name> = BTreeMap::new();
    leaves(chunks, folder, None, lost, &mut |snapshots, entries| {
        for entry in entries {
            match names.get_mut(&entry.name) {
                Some(name) => name.add(entry, snapshots),
                None => {
                    let mut name = Name::new(&entry.name);
                    name.add(entry, snapshots);
                    names.insert(name.name.clone(), name);
                }
            }
        }
    })?;
    Ok(names.into_values().map(Name::finish).collect())
}

/// One name of a folder in all snapshots; `None` if none has it. Reads only pages that can hold it, each once.
///
/// # Errors
/// As [`merged`].
pub fn child(
    chunks: &dyn Chunks,
    folder: &[Strand],
    name: &[u8],
    lost: &mut Vec<Lost>,
) -> Result<Option<Name>> {
    let mut found = Name::new(name);
    leaves(chunks, folder, Some(name), lost, &mut |snapshots, mut entries| {
        if let Ok(at) = entries.binary_search_by(|e| e.name.as_slice().cmp(name)) {
            found.add(entries.swap_remove(at), snapshots);
        }
    })?;
    let there = !found.versions.is_empty() || !found.folders.is_empty();
    Ok(there.then(|| found.finish()))
}

/// Pages of one level that are still to be read, in the order in which they were met: that of the packs.
#[derive(Default)]
struct Open {
    pages: Vec<(ChunkId, Runs)>,
    places: HashMap<ChunkId, usize>,
}

impl Open {
    fn add(&mut self, page: ChunkId, snapshots: &Runs) {
        let at = *self.places.entry(page).or_insert(self.pages.len());
        match self.pages.get_mut(at) {
            Some((_, runs)) => runs.unite(snapshots),
            None => self.pages.push((page, snapshots.clone())),
        }
    }
}

/// Gives the entries of each leaf page with the snapshots that hold it; with `want`, of the pages alone that can hold
/// that name. From the top down, so that all snapshots that share a page are known before it is read.
fn leaves(
    chunks: &dyn Chunks,
    folder: &[Strand],
    want: Option<&[u8]>,
    lost: &mut Vec<Lost>,
    visit: &mut dyn FnMut(&Runs, Vec<Entry>),
) -> Result<()> {
    // By level; what a page of one level names is of the level below.
    let mut open: Vec<Open> = Vec::new();
    let mut read =
        |open: &mut Vec<Open>, page: &ChunkId, level: Option<u8>, snapshots: &Runs| -> Result<()> {
            match spare(tree::page(chunks, page, level), snapshots, lost)? {
                None => {}
                Some(Page::Leaf(entries)) => visit(snapshots, entries),
                Some(Page::Node(level, pages)) => {
                    let below = usize::from(level.saturating_sub(1).min(LEVEL_MAX));
                    if open.len() <= below {
                        open.resize_with(below + 1, Open::default);
                    }
                    match want {
                        None => pages.iter().for_each(|p| open[below].add(p.id, snapshots)),
                        Some(name) => {
                            if let Some(p) = tree::page_of(&pages, name) {
                                open[below].add(p.id, snapshots);
                            }
                        }
                    }
                }
            }
            Ok(())
        };
    for strand in folder {
        read(&mut open, &strand.tree, None, &strand.snapshots)?;
    }
    while let Some(next) = open.pop() {
        let level = open.len() as u8;
        for (page, snapshots) in next.pages {
            read(&mut open, &page, Some(level), &snapshots)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Shelf, file, folder};
    use super::super::{find, root, since};
    use super::*;
    use crate::fault::Fault;
    use crate::format::tree::Node;

    fn strands(trees: &[ChunkId]) -> Vec<Strand> {
        let mut name = Name::default();
        for (i, tree) in trees.iter().enumerate() {
            name.add(folder(b"x", *tree), &Runs::one(i as u32));
        }
        name.finish().folders
    }

    fn runs(of: &[u32]) -> Runs {
        of.iter().copied().collect()
    }

    #[test]
    fn a_version_that_comes_back_is_the_same_one() {
        let mut shelf = Shelf::default();
        let (a, b) = (shelf.tree([file("f", 1, b"a")]), shelf.tree([file("f", 2, b"b")]));
        let mut lost = Vec::new();
        let names = merged(&shelf, &strands(&[a, b, b, a, b]), &mut lost).unwrap();
        assert_eq!(names.len(), 1);
        let seen: Vec<_> = names[0].versions.iter().map(|v| v.snapshots.clone()).collect();
        assert_eq!(seen, [runs(&[0, 3]), runs(&[1, 2, 4])]);
        assert_eq!(names[0].snapshots(), runs(&[0, 1, 2, 3, 4]));
        assert!(lost.is_empty());
    }

    #[test]
    fn attributes_make_no_version_and_the_oldest_entry_is_kept() {
        let mut shelf = Shelf::default();
        let mut changed = file("f", 1, b"a");
        changed.stat.mode = 0o600;
        changed.stat.uid = 7;
        changed.stat.ctime.seconds = 99;
        let (a, b) = (shelf.tree([file("f", 1, b"a")]), shelf.tree([changed.clone()]));
        let mut lost = Vec::new();
        let names = merged(&shelf, &strands(&[b, a]), &mut lost).unwrap();
        assert_eq!(names[0].versions.len(), 1);
        assert_eq!(names[0].versions[0].entry, changed);
        let mut touched = file("f", 1, b"a");
        touched.stat.mtime.seconds = 2;
        let c = shelf.tree([touched]);
        assert_eq!(merged(&shelf, &strands(&[a, c]), &mut lost).unwrap()[0].versions.len(), 2);
    }

    #[test]
    fn what_was_known_and_what_came_later_are_all() {
        let mut shelf = Shelf::default();
        let inner = [shelf.tree([file("in", 1, b"")]), shelf.tree([file("in", 2, b"x")])];
        let mut x = 7u32;
        let mut draw = |n: u32| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 16) % n
        };
        let trees: Vec<ChunkId> = (0..60)
            .map(|_| {
                let mut entries = Vec::new();
                for name in ["a", "b", "c"] {
                    match draw(6) {
                        0 => {}
                        1 | 2 => entries.push(folder(name.as_bytes(), inner[draw(2) as usize])),
                        n => entries.push(file(name, i64::from(n), b"x")),
                    }
                }
                shelf.tree(entries)
            })
            .collect();
        let (folder, mut lost) = (strands(&trees), Vec::new());
        let all = merged(&shelf, &folder, &mut lost).unwrap();
        for cut in 0..=60 {
            let mut before = folder.clone();
            before.iter_mut().for_each(|s| s.snapshots = s.snapshots.iter().filter(|i| *i < cut).collect());
            before.retain(|s| !s.snapshots.is_empty());
            let known = merged(&shelf, &before, &mut lost).unwrap();
            let later = merged(&shelf, &since(&folder, cut), &mut lost).unwrap();
            let mut names: BTreeMap<Vec<u8>, Name> = known.into_iter().map(|n| (n.name.clone(), n)).collect();
            for name in later {
                let known = names.remove(&name.name);
                let whole = known.map_or_else(|| name.clone(), |k| k.extended(name.clone()));
                names.insert(name.name, whole);
            }
            assert_eq!(names.into_values().collect::<Vec<_>>(), all, "cut at {cut}");
        }
    }

    #[test]
    fn what_was_a_file_and_a_folder_is_both() {
        let mut shelf = Shelf::default();
        let inner = shelf.tree([file("in", 1, b"")]);
        let (a, b) = (shelf.tree([file("n", 1, b"a")]), shelf.tree([folder(b"n", inner)]));
        let mut lost = Vec::new();
        let name = child(&shelf, &strands(&[a, b, a]), b"n", &mut lost).unwrap().unwrap();
        assert_eq!(name.versions[0].snapshots, runs(&[0, 2]));
        assert_eq!(name.folders, [Strand { tree: inner, snapshots: runs(&[1]) }]);
        assert_eq!(name.doors[0].snapshots, runs(&[1]));
        assert_eq!(merged(&shelf, &strands(&[a, b, a]), &mut lost).unwrap(), [name]);
        assert_eq!(child(&shelf, &strands(&[a, b]), b"m", &mut lost).unwrap(), None);
    }

    #[test]
    fn doors_of_a_folder_tell_apart_who_may_look_in() {
        let mut shelf = Shelf::default();
        let inner = shelf.tree([]);
        let mut closed = folder(b"d", inner);
        closed.stat.mode = 0o700;
        let (a, b) = (shelf.tree([folder(b"d", inner)]), shelf.tree([closed]));
        let name = child(&shelf, &strands(&[a, b, a]), b"d", &mut Vec::new()).unwrap().unwrap();
        assert_eq!(name.folders.len(), 1, "one tree");
        let doors: Vec<_> = name.doors.iter().map(|d| (d.entry.stat.mode, d.snapshots.count())).collect();
        assert_eq!(doors, [(0o755, 2), (0o700, 1)]);
    }

    #[test]
    fn a_thousand_snapshots_with_one_changing_file_cost_what_differs() {
        let mut shelf = Shelf::default();
        let names = || (0..20).map(|n| file(&format!("{n:02}"), 1, b"same"));
        let still = shelf.tree(names());
        let mut snapshots = Vec::new();
        for n in 0..1000 {
            let moving = shelf.tree(names().chain([file("log", n, b"grows")]));
            let top = shelf.tree([folder(b"moving", moving), folder(b"still", still)]);
            snapshots.push((n as u32, shelf.root(top)));
        }
        let mut lost = Vec::new();
        let top = root(&shelf, &snapshots, &mut lost).unwrap();
        assert_eq!((top.folders.len(), shelf.reads()), (1000, 1000), "root pages name the tops");
        let names = merged(&shelf, &top.folders, &mut lost).unwrap();
        assert_eq!(shelf.reads(), 1000, "each top once");
        assert_eq!((names[0].folders.len(), names[1].folders.len()), (1000, 1));
        merged(&shelf, &names[1].folders, &mut lost).unwrap();
        assert_eq!(shelf.reads(), 1, "what never changed is one tree");
        let log = child(&shelf, &names[0].folders, b"log", &mut lost).unwrap().unwrap();
        assert_eq!((log.versions.len(), shelf.reads()), (1000, 1000));
    }

    #[test]
    fn pages_that_big_folders_share_are_read_once() {
        let mut shelf = Shelf::default();
        let entries = |gap: usize| {
            (0..40_000).filter(move |n| *n != gap).map(|n| file(&format!("name-{n:06}"), 1, b""))
        };
        let trees: Vec<_> = (0..10).map(|n| shelf.tree(entries(n * 3_000))).collect();
        let pages = shelf.len();
        let mut lost = Vec::new();
        let names = merged(&shelf, &strands(&trees), &mut lost).unwrap();
        assert_eq!((names.len(), shelf.reads()), (40_000, pages));
        let gap = names.iter().find(|n| n.name == b"name-003000").unwrap();
        assert_eq!(gap.snapshots().ranges(), [(0, 0), (2, 9)]);
        child(&shelf, &strands(&trees), b"name-039999", &mut lost).unwrap().unwrap();
        let reads = shelf.reads();
        assert!(reads <= 10 + 4, "{reads} pages for one name in ten trees");
    }

    #[test]
    fn damage_in_one_snapshot_does_not_hide_the_others() {
        let mut shelf = Shelf::default();
        let inner = [shelf.tree([file("f", 1, b"a")]), shelf.tree([file("f", 2, b"b"), file("g", 1, b"")])];
        let mut snapshots = Vec::new();
        for (i, tree) in [inner[0], inner[1], inner[1]].into_iter().enumerate() {
            let top = shelf.tree([folder(b"d", tree)]);
            let root = shelf.root(top);
            snapshots.push((i as u32, root));
        }
        snapshots.push((3, ChunkId([9; 32])));
        shelf.lose(inner[0]);
        let mut lost = Vec::new();
        let d = find(&shelf, &snapshots, b"/d/", &mut lost).unwrap().unwrap();
        let names = merged(&shelf, &d.folders, &mut lost).unwrap();
        assert_eq!(names.len(), 2);
        assert_eq!(names[0].snapshots(), runs(&[1, 2]));
        let told: Vec<_> = lost.iter().map(|l| (l.snapshots.clone(), l.error.fault())).collect();
        assert_eq!(told, [(runs(&[3]), Fault::Damaged), (runs(&[0]), Fault::Damaged)]);
    }

    #[test]
    fn a_store_that_is_away_is_an_error_and_no_damage() {
        let mut shelf = Shelf::default();
        let top = shelf.tree([file("f", 1, b"")]);
        let root_page = shelf.root(top);
        shelf.away = true;
        let mut lost = Vec::new();
        assert_eq!(root(&shelf, &[(0, root_page)], &mut lost).unwrap_err().fault(), Fault::Busy);
        assert!(lost.is_empty());
    }

    #[test]
    fn the_root_itself_is_a_path() {
        let mut shelf = Shelf::default();
        let top = shelf.tree([file("f", 1, b"")]);
        let snapshots = [(0, shelf.root(top)), (1, shelf.root(top))];
        let name = find(&shelf, &snapshots, b"/./", &mut Vec::new()).unwrap().unwrap();
        assert_eq!(name.folders, [Strand { tree: top, snapshots: runs(&[0, 1]) }]);
        assert!(matches!(name.doors[0].entry.node, Node::Folder(_)));
        let f = find(&shelf, &snapshots, b"f", &mut Vec::new()).unwrap().unwrap();
        assert_eq!(f.version_in(1).map(|v| v.snapshots.count()), Some(2));
        assert_eq!(find(&shelf, &snapshots, b"/f/x", &mut Vec::new()).unwrap(), None);
    }
}
