//! The walk through all that snapshots need: each page of each tree once, but where something is wrong below it, which
//! is met again in each snapshot, so that all of them are named.

use super::finding::{Cause, Findings};
use crate::event::Stop;
use crate::fault::Result;
use crate::format::pack::Space;
use crate::format::tree::{At, Content, Entry, Extent, Node, Page};
use crate::id::{ChunkId, PackId, SnapshotId};
use crate::repository::{Reader, Repository, Snapshot, is_finding};
use crate::tree::{extent_page, page, root_entry};
use std::collections::{HashMap, HashSet};

/// What may be relied on of a pack.
#[derive(Clone, Debug, Default)]
pub struct Shelf {
    /// It is there with its size.
    pub is_whole: bool,
    /// It is, or was, about to be deleted: what is needed of it must be read to be believed.
    pub is_retired: bool,
    /// Frames that were read and are damaged.
    pub bad: Vec<u32>,
}

/// Goes through snapshots, one after another.
pub struct Walk<'a> {
    pub repository: &'a Repository,
    pub reader: &'a Reader,
    /// All packs that a readable segment names.
    pub shelves: &'a HashMap<PackId, Shelf>,
    pub findings: &'a mut Findings,
    pub stop: &'a Stop,
    /// Pages of trees and of extents below which nothing is wrong: about 50 bytes for each, so 1 GB of memory does for
    /// the folders of 20 million distinct pages (a page holds up to some hundred entries).
    clean: HashSet<ChunkId>,
    /// References that were followed.
    pub chunks: u64,
    snapshot: SnapshotId,
}

/// A page that is under way.
struct Open {
    id: ChunkId,
    /// Length of the path of its folder.
    path: usize,
    items: Items,
    is_hurt: bool,
}

enum Items {
    Entries(std::vec::IntoIter<Entry>),
    Pages(u8, std::vec::IntoIter<crate::format::tree::PageRef>),
}

enum Entered {
    Clean,
    Hurt,
    Open(Open),
}

impl<'a> Walk<'a> {
    pub fn new(
        repository: &'a Repository,
        reader: &'a Reader,
        shelves: &'a HashMap<PackId, Shelf>,
        findings: &'a mut Findings,
        stop: &'a Stop,
    ) -> Self {
        let (clean, chunks, snapshot) = (HashSet::new(), 0, SnapshotId([0; 32]));
        Self { repository, reader, shelves, findings, stop, clean, chunks, snapshot }
    }

    /// Looks at everything that a snapshot needs; what is wrong goes to the findings.
    ///
    /// # Errors
    /// What the store says where it is not about what is read; `Stopped`.
    pub fn snapshot(&mut self, s: &Snapshot) -> Result<()> {
        let root = s.manifest.root;
        self.snapshot = s.id;
        if self.clean.contains(&root) {
            return Ok(());
        }
        let mut path = Vec::new();
        let mut hurt = self.look(&root, None, b"/")?;
        let read = root_entry(self.reader, &root);
        let Some(top) = self.sound(read, &root, b"/")? else { return Ok(()) };
        hurt |= self.entry(&top, b"/")?;
        let mut open: Vec<Open> = Vec::new();
        if let Node::Folder(folder) = &top.node {
            match self.enter(folder, None, &path)? {
                Entered::Open(page) => open.push(page),
                Entered::Hurt => hurt = true,
                Entered::Clean => {}
            }
        }
        // Not by recursion: trees may be deep.
        while let Some(at) = open.last_mut() {
            self.stop.check()?;
            path.truncate(at.path);
            let (mut is_hurt, mut inner) = (false, Entered::Clean);
            match &mut at.items {
                Items::Pages(level, pages) => match pages.next() {
                    Some(p) => {
                        let level = level.saturating_sub(1);
                        inner = self.enter(&p.id, Some(level), &path)?;
                    }
                    None => {
                        hurt |= self.leave(&mut open);
                        continue;
                    }
                },
                Items::Entries(entries) => match entries.next() {
                    Some(entry) => {
                        path.push(b'/');
                        path.extend_from_slice(&entry.name);
                        is_hurt = self.entry(&entry, &path)?;
                        if let Node::Folder(folder) = &entry.node {
                            inner = self.enter(folder, None, &path)?;
                        }
                    }
                    None => {
                        hurt |= self.leave(&mut open);
                        continue;
                    }
                },
            }
            is_hurt |= matches!(inner, Entered::Hurt);
            if let Some(at) = open.last_mut() {
                at.is_hurt |= is_hurt;
            }
            if let Entered::Open(page) = inner {
                open.push(page);
            }
        }
        if !hurt {
            self.clean.insert(root);
        }
        Ok(())
    }

    /// The innermost page is over. Whether it is hurt, and so all above it.
    fn leave(&mut self, open: &mut Vec<Open>) -> bool {
        let Some(over) = open.pop() else { return false };
        match (over.is_hurt, open.last_mut()) {
            (false, _) => drop(self.clean.insert(over.id)),
            (true, Some(above)) => above.is_hurt = true,
            (true, None) => {}
        }
        over.is_hurt
    }

    fn enter(&mut self, id: &ChunkId, level: Option<u8>, path: &[u8]) -> Result<Entered> {
        if self.clean.contains(id) {
            return Ok(Entered::Clean);
        }
        let shown = if path.is_empty() { b"/" } else { path };
        let is_hurt = self.look(id, None, shown)?;
        let read = page(self.reader, id, level);
        let Some(page) = self.sound(read, id, shown)? else { return Ok(Entered::Hurt) };
        let items = match page {
            Page::Leaf(entries) => Items::Entries(entries.into_iter()),
            Page::Node(level, pages) => Items::Pages(level, pages.into_iter()),
        };
        Ok(Entered::Open(Open { id: *id, path: path.len(), items, is_hurt }))
    }

    /// Content and extended attributes. Whether something is wrong.
    fn entry(&mut self, entry: &Entry, path: &[u8]) -> Result<bool> {
        let mut is_hurt = false;
        let values = entry.xattrs.iter().map(|x| &x.value);
        let content = match &entry.node {
            Node::File(content) => Some(content),
            _ => None,
        };
        for content in content.into_iter().chain(values) {
            if let Content::Extents(extents) = content {
                is_hurt |= self.extents(extents, path)?;
            }
        }
        Ok(is_hurt)
    }

    /// By recursion, but no deeper than levels are allowed by the format, and each is one below the last.
    fn extents(&mut self, extents: &[Extent], path: &[u8]) -> Result<bool> {
        let mut is_hurt = false;
        for extent in extents {
            self.stop.check()?;
            match extent.at {
                At::Hole => {}
                At::Chunk(id) => is_hurt |= self.look(&id, Some(extent.len), path)?,
                At::List(id, level) => is_hurt |= self.list(&id, level, extent.len, path)?,
            }
        }
        Ok(is_hurt)
    }

    fn list(&mut self, id: &ChunkId, level: u8, len: u64, path: &[u8]) -> Result<bool> {
        if self.clean.contains(id) {
            return Ok(false);
        }
        let mut is_hurt = self.look(id, None, path)?;
        let read = extent_page(self.reader, id, level, len);
        let Some(extents) = self.sound(read, id, path)? else { return Ok(true) };
        is_hurt |= self.extents(&extents, path)?;
        if !is_hurt {
            self.clean.insert(*id);
        }
        Ok(is_hurt)
    }

    /// Looks a chunk up: it must lie, with the length if one is given, in a pack that is there. For a chunk of a tree,
    /// which is read as well, only that some segment names it. Whether something is wrong.
    fn look(&mut self, id: &ChunkId, len: Option<u64>, path: &[u8]) -> Result<bool> {
        self.chunks += 1;
        let (mut cause, mut is_worth_reading) = (Cause::Unnamed, false);
        for place in self.repository.index()?.places(id)? {
            // What only the cache of this machine remembers of a damaged segment does not count.
            let Some(shelf) = self.shelves.get(&place.pack.id) else { continue };
            let fits = len.is_none_or(|len| len == u64::from(place.len));
            if shelf.is_retired && len.is_some() {
                cause = if cause == Cause::Unnamed { Cause::Lost } else { cause };
                is_worth_reading |= shelf.is_whole && fits;
                continue;
            }
            let is_good = shelf.is_whole && fits && !shelf.bad.contains(&place.frame);
            if is_good || len.is_none() {
                return Ok(false);
            }
            cause = if fits { Cause::Pack(place.pack.id) } else { Cause::Length };
        }
        if is_worth_reading {
            match self.reader.chunk(Space::Data, id) {
                Ok(_) => return Ok(false),
                Err(e) if is_finding(&e) => {}
                Err(e) => return Err(e),
            }
        }
        self.findings.hit(cause, id, self.snapshot, path);
        Ok(true)
    }

    /// What was read of a chunk of a tree; damage goes to the findings.
    fn sound<T>(&mut self, read: Result<T>, id: &ChunkId, path: &[u8]) -> Result<Option<T>> {
        let e = match read {
            Ok(value) => return Ok(Some(value)),
            Err(e) if is_finding(&e) => e,
            Err(e) => return Err(e),
        };
        let places = self.repository.index()?.places(id)?;
        // Those in packs that are not retired come first.
        let known = places.iter().find_map(|p| Some((p.pack.id, self.shelves.get(&p.pack.id)?)));
        match known {
            Some((_, shelf)) if shelf.is_retired => {
                self.findings.hit(Cause::Lost, id, self.snapshot, path);
            }
            Some((pack, _)) => {
                self.findings.damaged(pack, e);
                self.findings.hit(Cause::Pack(pack), id, self.snapshot, path);
            }
            // Of a chunk that no segment names it was told already.
            None => {}
        }
        Ok(None)
    }
}
