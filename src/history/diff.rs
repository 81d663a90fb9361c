//! What differs between two trees. Cost follows change: what is equal is not read.

use crate::fault::{Error, Fault, Result};
use crate::format::tree::{Entry, Node, Page};
use crate::id::ChunkId;
use crate::tree::{self, Chunks};
use std::cmp::Ordering;

/// One difference.
#[derive(Debug)]
pub struct Change<'a> {
    /// Absolute path.
    pub path: &'a [u8],
    /// What it is.
    pub difference: Difference<'a>,
}

/// How a path differs.
#[derive(Debug)]
pub enum Difference<'a> {
    /// Only the right side has it.
    Added(&'a Entry),
    /// Only the left side has it.
    Removed(&'a Entry),
    /// Both have it.
    Changed {
        /// As the left side has it.
        left: &'a Entry,
        /// As the right side has it.
        right: &'a Entry,
        /// In what they differ.
        what: Differs,
    },
    /// This folder could not be read to its end: what is in it, from some name on, is not compared.
    Lost(Error),
}

/// In what two entries of one path differ. The ctime does not count: it changes whenever anything else does, and
/// without that (a restore, a link made elsewhere) says nothing. Nor does the size of a folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Differs {
    /// Of another type; then the content counts as well.
    pub kind: bool,
    /// Content of a file, target of a symlink, number of a device. Compared by the names of chunks: equal bytes that
    /// were cut in another way differ. The content of a folder is told by paths below it.
    pub content: bool,
    /// Size of a file.
    pub size: bool,
    /// Time of the last change of content.
    pub mtime: bool,
    /// Permissions.
    pub mode: bool,
    /// Owner or group, by number or by name.
    pub owner: bool,
    /// Extended attributes, ACLs among them.
    pub xattrs: bool,
    /// Number of hard links.
    pub links: bool,
}

impl Differs {
    /// Compares two entries, but for their names.
    pub fn between(left: &Entry, right: &Entry) -> Self {
        let (l, r) = (&left.stat, &right.stat);
        let kind = std::mem::discriminant(&left.node) != std::mem::discriminant(&right.node)
            || matches!((&left.node, &right.node), (Node::Unknown(l), Node::Unknown(r)) if l != r);
        let folders = matches!((&left.node, &right.node), (Node::Folder(_), Node::Folder(_)));
        Self {
            kind,
            content: !folders && (left.node != right.node || left.unknown != right.unknown),
            size: !folders && l.size != r.size,
            mtime: l.mtime != r.mtime,
            mode: l.mode != r.mode,
            owner: (l.uid, l.gid) != (r.uid, r.gid) || (&l.user, &l.group) != (&r.user, &r.group),
            xattrs: left.xattrs != right.xattrs,
            links: l.nlink != r.nlink,
        }
    }
    /// Whether anything differs.
    pub fn any(&self) -> bool {
        *self != Self::default()
    }
}

/// Compares what two snapshots have at one path, and all below it; `None` where one has nothing there. Changes come
/// in the order of paths, a folder before what is in it. `below` says whether what is in added and removed
/// folders is visited as well.
///
/// Equal trees and, inside big folders, equal pages are not read. Memory is bounded by one page for each level of
/// pages and folders on the way.
///
/// # Errors
/// What the store says, and what `visit` answers. Damage is told as [`Difference::Lost`], and the rest goes on.
pub fn diff(
    chunks: &dyn Chunks,
    path: &[u8],
    left: Option<&Entry>,
    right: Option<&Entry>,
    below: bool,
    visit: &mut dyn FnMut(Change<'_>) -> Result<()>,
) -> Result<()> {
    let mut path = path.to_vec();
    while path.last() == Some(&b'/') {
        path.pop();
    }
    // Folders that are under way, each with the length of its path. Not by recursion: trees may be deep.
    let mut open = Vec::new();
    if let Some(pair) = meet(if path.is_empty() { b"/" } else { &path }, left, right, below, visit)? {
        open.push((pair, path.len()));
    }
    while let Some((pair, len)) = open.last_mut() {
        path.truncate(*len);
        let step = match pair.next(chunks) {
            Ok(Some(step)) => step,
            Ok(None) => {
                open.pop();
                continue;
            }
            Err(error) if matches!(error.fault(), Fault::Damaged | Fault::Newer) => {
                open.pop();
                let path = if path.is_empty() { b"/" } else { path.as_slice() };
                visit(Change { path, difference: Difference::Lost(error) })?;
                continue;
            }
            Err(error) => return Err(error),
        };
        let (left, right) = (step.0.as_ref(), step.1.as_ref());
        let Some(entry) = left.or(right) else { continue };
        path.push(b'/');
        path.extend_from_slice(&entry.name);
        if let Some(pair) = meet(&path, left, right, below, visit)? {
            open.push((pair, path.len()));
        }
    }
    Ok(())
}

/// Tells how the entries of one path differ; answers what is to be compared below it.
fn meet(
    path: &[u8],
    left: Option<&Entry>,
    right: Option<&Entry>,
    below: bool,
    visit: &mut dyn FnMut(Change<'_>) -> Result<()>,
) -> Result<Option<Pair>> {
    let tree = |e: Option<&Entry>| match e.map(|e| &e.node) {
        Some(Node::Folder(id)) => Some(*id),
        _ => None,
    };
    let difference = match (left, right) {
        (Some(left), Some(right)) => {
            let what = Differs::between(left, right);
            what.any().then_some(Difference::Changed { left, right, what })
        }
        (Some(left), None) => Some(Difference::Removed(left)),
        (None, Some(right)) => Some(Difference::Added(right)),
        (None, None) => None,
    };
    if let Some(difference) = difference {
        visit(Change { path, difference })?;
    }
    Ok(match (tree(left), tree(right)) {
        (Some(l), Some(r)) => (l != r).then(|| Pair::new(Some(l), Some(r))),
        (None, None) => None,
        (l, r) => below.then(|| Pair::new(l, r)),
    })
}

/// The rest of a folder: entries and pages, the next one last.
#[derive(Default)]
struct Rest(Vec<Item>);

enum Item {
    /// A page that was not read yet; the first one has neither name nor level.
    Page {
        first: Vec<u8>,
        id: ChunkId,
        level: Option<u8>,
    },
    Entry(Box<Entry>),
}

impl Item {
    fn name(&self) -> &[u8] {
        match self {
            Item::Page { first, .. } => first,
            Item::Entry(entry) => &entry.name,
        }
    }
}

impl Rest {
    fn of(tree: Option<ChunkId>) -> Self {
        Self(tree.into_iter().map(|id| Item::Page { first: Vec::new(), id, level: None }).collect())
    }

    /// Puts what is in the next page in its place.
    fn open(&mut self, chunks: &dyn Chunks) -> Result<()> {
        let Some(Item::Page { id, level, .. }) = self.0.last() else { return Ok(()) };
        let page = tree::page(chunks, id, *level)?;
        self.0.pop();
        match page {
            Page::Leaf(entries) => {
                self.0.extend(entries.into_iter().rev().map(|e| Item::Entry(Box::new(e))));
            }
            Page::Node(level, pages) => {
                let below = Some(level.saturating_sub(1));
                let item =
                    |p: crate::format::tree::PageRef| Item::Page { first: p.first, id: p.id, level: below };
                self.0.extend(pages.into_iter().rev().map(item));
            }
        }
        Ok(())
    }

    fn take(&mut self) -> Option<Entry> {
        match self.0.pop() {
            Some(Item::Entry(entry)) => Some(*entry),
            _ => None,
        }
    }
}

/// Two folders that are compared.
struct Pair {
    left: Rest,
    right: Rest,
}

impl Pair {
    fn new(left: Option<ChunkId>, right: Option<ChunkId>) -> Self {
        Self { left: Rest::of(left), right: Rest::of(right) }
    }

    /// The next entries of one name, where not all pages up to it are equal.
    fn next(&mut self, chunks: &dyn Chunks) -> Result<Option<(Option<Entry>, Option<Entry>)>> {
        loop {
            match (self.left.0.last(), self.right.0.last()) {
                (None, None) => return Ok(None),
                (Some(Item::Entry(_)), None) => return Ok(Some((self.left.take(), None))),
                (None, Some(Item::Entry(_))) => return Ok(Some((None, self.right.take()))),
                (Some(Item::Page { .. }), None) => self.left.open(chunks)?,
                (None, Some(Item::Page { .. })) => self.right.open(chunks)?,
                // All names before these are done on both sides: what is equal from here on is skipped.
                (
                    Some(Item::Page { id: l, level: l_level, first: l_first }),
                    Some(Item::Page { id: r, level: r_level, first: r_first }),
                ) => {
                    if l == r {
                        self.left.0.pop();
                        self.right.0.pop();
                        continue;
                    }
                    // The higher one first, a whole folder being the highest; of two on one level the one that
                    // begins first: so that pages which are equal come to stand beside each other.
                    let height = |level: &Option<u8>| level.map_or(u8::MAX, |l| l);
                    match height(l_level).cmp(&height(r_level)).then_with(|| r_first.cmp(l_first)) {
                        Ordering::Greater | Ordering::Equal => self.left.open(chunks)?,
                        Ordering::Less => self.right.open(chunks)?,
                    }
                }
                (Some(l), Some(r)) => match (l, r, l.name().cmp(r.name())) {
                    (Item::Entry(_), _, Ordering::Less) => return Ok(Some((self.left.take(), None))),
                    (_, Item::Entry(_), Ordering::Greater) => return Ok(Some((None, self.right.take()))),
                    (Item::Page { .. }, _, _) => self.left.open(chunks)?,
                    (_, Item::Page { .. }, _) => self.right.open(chunks)?,
                    (Item::Entry(_), Item::Entry(_), _) => {
                        return Ok(Some((self.left.take(), self.right.take())));
                    }
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Shelf, file, folder};
    use super::*;
    use crate::format::tree::{Content, Xattr};
    use std::collections::BTreeMap;

    /// `+ /path`, `- /path`, `M /path`, `! /path`.
    fn lines(shelf: &Shelf, left: Option<&Entry>, right: Option<&Entry>, below: bool) -> Vec<String> {
        let mut lines = Vec::new();
        diff(shelf, b"/", left, right, below, &mut |c| {
            let sign = match c.difference {
                Difference::Added(_) => '+',
                Difference::Removed(_) => '-',
                Difference::Changed { .. } => 'M',
                Difference::Lost(_) => '!',
            };
            lines.push(format!("{sign} {}", String::from_utf8_lossy(c.path)));
            Ok(())
        })
        .unwrap();
        lines
    }

    fn of_trees(shelf: &Shelf, left: ChunkId, right: ChunkId) -> Vec<String> {
        lines(shelf, Some(&folder(b"", left)), Some(&folder(b"", right)), true)
    }

    #[test]
    fn equal_folders_are_not_read() {
        let mut shelf = Shelf::default();
        let same = shelf.tree([file("f", 1, b"")]);
        assert!(of_trees(&shelf, same, same).is_empty());
        assert_eq!(shelf.reads(), 0);
        let (a, b) = (
            shelf.tree([file("a", 1, b""), folder(b"d", same)]),
            shelf.tree([file("b", 1, b""), folder(b"d", same)]),
        );
        assert_eq!(of_trees(&shelf, a, b), ["- /a", "+ /b"]);
        assert_eq!(shelf.reads(), 2);
    }

    #[test]
    fn one_name_among_100_000_costs_a_handful_of_pages() {
        let mut shelf = Shelf::default();
        let entries = |gap: Option<usize>| {
            (0..100_000).filter(move |n| Some(*n) != gap).map(|n| file(&format!("name-{n:07}"), 1, b""))
        };
        let whole = shelf.tree(entries(None));
        for gap in [0, 1, 50_000, 77_777, 99_999] {
            let other = shelf.tree(entries(Some(gap)));
            assert_eq!(of_trees(&shelf, whole, other), [format!("- /name-{gap:07}")]);
            let reads = shelf.reads();
            assert!(reads <= 8, "{reads} pages read");
            assert_eq!(of_trees(&shelf, other, whole), [format!("+ /name-{gap:07}")]);
            assert!(shelf.reads() <= 8);
        }
    }

    #[test]
    fn any_two_folders_differ_as_their_names_do() {
        let mut x = 3u64;
        let mut draw = |n: u64| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (x >> 33) % n
        };
        let mut shelf = Shelf::default();
        let mut trees: Vec<(BTreeMap<String, i64>, ChunkId)> = Vec::new();
        for round in 0..9 {
            let mut names = trees.last().map(|t| t.0.clone()).unwrap_or_default();
            // Some are small, some have several levels of pages.
            for _ in 0..[3, 4_000, 40, 0][round % 4] {
                names.insert(format!("{:05}", draw(20_000)), draw(3) as i64);
            }
            let drop = draw(20_000);
            names.retain(|n, _| n.parse::<u64>().is_ok_and(|n| n.abs_diff(drop) > draw(900)));
            let tree = shelf.tree(names.iter().map(|(n, t)| file(n, *t, b"")));
            trees.push((names, tree));
        }
        for (a, a_tree) in &trees {
            for (b, b_tree) in &trees {
                let all: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
                let expected: Vec<String> = all
                    .into_iter()
                    .filter_map(|n| match (a.get(n), b.get(n)) {
                        (Some(_), None) => Some(format!("- /{n}")),
                        (None, Some(_)) => Some(format!("+ /{n}")),
                        (l, r) => (l != r).then(|| format!("M /{n}")),
                    })
                    .collect();
                assert_eq!(of_trees(&shelf, *a_tree, *b_tree), expected);
            }
        }
    }

    #[test]
    fn added_and_removed_folders_are_told_with_what_is_in_them_if_asked_for() {
        let mut shelf = Shelf::default();
        let inner = shelf.tree([file("f", 1, b""), file("g", 1, b"")]);
        let (a, b) = (shelf.tree([]), shelf.tree([folder(b"d", inner), file("d.x", 1, b"")]));
        let (a, b) = (folder(b"", a), folder(b"", b));
        assert_eq!(lines(&shelf, Some(&a), Some(&b), true), ["+ /d", "+ /d/f", "+ /d/g", "+ /d.x"]);
        assert_eq!(lines(&shelf, Some(&b), Some(&a), false), ["- /d", "- /d.x"]);
        assert_eq!(lines(&shelf, None, Some(&b), false), ["+ /"]);
        assert_eq!(lines(&shelf, Some(&a), None, true), ["- /"]);
    }

    #[test]
    fn a_file_that_became_a_folder_is_one_change_and_its_content_new() {
        let mut shelf = Shelf::default();
        let inner = shelf.tree([file("f", 1, b"")]);
        let (a, b) = (shelf.tree([file("n", 0, b"x")]), shelf.tree([folder(b"n", inner)]));
        assert_eq!(of_trees(&shelf, a, b), ["M /n", "+ /n/f"]);
        assert_eq!(of_trees(&shelf, b, a), ["M /n", "- /n/f"]);
    }

    #[test]
    fn each_kind_of_difference_is_named() {
        let base = file("f", 1, b"abc");
        let of = |change: &dyn Fn(&mut Entry)| {
            let mut other = base.clone();
            change(&mut other);
            Differs::between(&base, &other)
        };
        let none = Differs::default();
        assert_eq!(
            of(&|e| e.node = Node::File(Content::Inline(b"xyz".to_vec()))),
            Differs { content: true, ..none }
        );
        assert_eq!(of(&|e| e.stat.size = 9), Differs { size: true, ..none });
        assert_eq!(of(&|e| e.stat.mtime.nanos = 9), Differs { mtime: true, ..none });
        assert_eq!(of(&|e| e.stat.mode = 0o600), Differs { mode: true, ..none });
        assert_eq!(of(&|e| e.stat.gid = 9), Differs { owner: true, ..none });
        assert_eq!(of(&|e| e.stat.user = b"ana".to_vec()), Differs { owner: true, ..none });
        let xattr = Xattr { name: b"user.a".to_vec(), value: Content::Inline(vec![]) };
        assert_eq!(of(&|e| e.xattrs.push(xattr.clone())), Differs { xattrs: true, ..none });
        assert_eq!(of(&|e| e.stat.nlink = 2), Differs { links: true, ..none });
        assert_eq!(of(&|e| e.stat.ctime.seconds = 9), none);
        assert_eq!(of(&|e| e.stat.fresh = true), none);
        assert_eq!(of(&|e| e.node = Node::Fifo), Differs { kind: true, content: true, ..none });
    }

    #[test]
    fn damage_ends_the_folder_and_not_the_rest() {
        let mut shelf = Shelf::default();
        let d = [shelf.tree([file("f", 1, b"")]), shelf.tree([file("f", 2, b"")])];
        let (a, b) = (
            shelf.tree([folder(b"d", d[0]), file("e", 1, b"")]),
            shelf.tree([folder(b"d", d[1]), file("e", 2, b"")]),
        );
        shelf.lose(d[1]);
        assert_eq!(of_trees(&shelf, a, b), ["! /d", "M /e"]);
        shelf.away = true;
        let result = diff(&shelf, b"/", Some(&folder(b"", a)), Some(&folder(b"", b)), true, &mut |_| Ok(()));
        assert_eq!(result.unwrap_err().fault(), Fault::Busy);
    }
}
