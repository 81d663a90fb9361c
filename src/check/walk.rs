//! The walks through all that snapshots need. The first one reads each page of each tree once, and notes which chunks of
//! content it needs; these are then held against all places at once, both sorted by id, since ten million look-ups one after
//! another take minutes. Only where that finds something is there a second walk: it looks up what is suspect, and meets what
//! is wrong again in each snapshot, so that all of them are named.

use super::finding::{Cause, Findings};
use crate::event::Stop;
use crate::fault::Result;
use crate::format::pack::Space;
use crate::format::tree::{At, Content, Entry, Extent, Node, Page};
use crate::id::{ChunkId, PackId, SnapshotId};
use crate::index::{Lies, Mark, Marks, Seen};
use crate::repository::{Reader, Repository, Snapshot, is_finding};
use crate::tree::{extent_page, page, root_entry};
use std::collections::{BTreeSet, HashMap};

/// Of a page: it was gone through, and need not be again.
const DONE: Mark = 1;
/// Of a chunk: it must be looked up. Any other mark is the length that it was read with.
const SUSPECT: Mark = Mark::MAX;

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

impl Shelf {
    /// Whether a chunk in this frame may be relied on without reading it.
    fn is_good(&self, frame: u32) -> bool {
        self.is_whole && !self.is_retired && !self.bad.contains(&frame)
    }
}

/// What a walk does with chunks of content.
pub enum Pass<'a> {
    /// They are noted, with their lengths; of what is wrong is only noted that there is something.
    Gather(&'a Marks),
    /// Those that are suspect are looked up, and what is wrong goes to the findings.
    Name(&'a Seen),
}

/// Goes through snapshots, one after another.
pub struct Walk<'a> {
    pub repository: &'a Repository,
    pub reader: &'a Reader,
    /// All packs that a readable segment names.
    pub shelves: &'a HashMap<PackId, Shelf>,
    pub findings: &'a mut Findings,
    pub stop: &'a Stop,
    pass: Pass<'a>,
    /// Pages of trees and of extents that were met; of those that name what is wrong, only pages below which all is well.
    done: Seen,
    /// References that were followed.
    pub chunks: u64,
    /// Something is wrong with a page.
    pub is_hurt: bool,
    snapshot: SnapshotId,
}

/// The chunks of content, of all that are needed, that no pack may be relied on for; packs that give chunks other lengths than
/// others do go to `disputed`.
///
/// # Errors
/// What the cache's disk says; `Stopped`.
pub fn suspects(
    repository: &Repository,
    shelves: &HashMap<PackId, Shelf>,
    needed: &Marks,
    disputed: &mut BTreeSet<PackId>,
    stop: &Stop,
) -> Result<Option<Seen>> {
    let index = repository.index()?;
    let (suspects, mut are_there) = (index.seen()?, false);
    let census = index.census(needed)?;
    // What only the cache of this machine remembers of a damaged segment does not count.
    let shelves: Vec<Option<&Shelf>> = census.packs.iter().map(|p| shelves.get(&p.id)).collect();
    census.each(|id, lens, places| {
        stop.check()?;
        let meant = || places.iter().filter(|l| shelves[l.pack].is_some_and(|s| !s.is_retired));
        if Lies::disagree(meant()) {
            disputed.extend(meant().map(|l| census.packs[l.pack].id));
        }
        let is_good =
            |l: &Lies, len: &Mark| l.len == *len && shelves[l.pack].is_some_and(|s| s.is_good(l.frame));
        if !lens.iter().all(|len| places.iter().any(|l| is_good(l, len))) {
            suspects.set(id, SUSPECT)?;
            are_there = true;
        }
        Ok(())
    })?;
    Ok(are_there.then_some(suspects))
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
        pass: Pass<'a>,
    ) -> Result<Self> {
        let done = repository.index()?.seen()?;
        let (chunks, is_hurt, snapshot) = (0, false, SnapshotId([0; 32]));
        Ok(Self { repository, reader, shelves, findings, stop, pass, done, chunks, is_hurt, snapshot })
    }

    /// Looks at everything that a snapshot needs.
    ///
    /// # Errors
    /// What the store says where it is not about what is read; `Stopped`.
    pub fn snapshot(&mut self, s: &Snapshot) -> Result<()> {
        let root = s.manifest.root;
        self.snapshot = s.id;
        if self.meets(&root)? {
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
                        hurt |= self.leave(&mut open)?;
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
                        hurt |= self.leave(&mut open)?;
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
        self.left(&root, hurt)
    }

    /// A page is met. Whether it was before, and need not be gone through again.
    fn meets(&self, id: &ChunkId) -> Result<bool> {
        match self.pass {
            Pass::Gather(_) => Ok(!self.done.raise(id, DONE)?),
            Pass::Name(_) => Ok(self.done.get(id)?.is_some()),
        }
    }

    /// All below a page was met.
    fn left(&self, id: &ChunkId, is_hurt: bool) -> Result<()> {
        match self.pass {
            Pass::Name(_) if !is_hurt => self.done.set(id, DONE),
            _ => Ok(()),
        }
    }

    /// The innermost page is over. Whether it is hurt, and so all above it.
    fn leave(&mut self, open: &mut Vec<Open>) -> Result<bool> {
        let Some(over) = open.pop() else { return Ok(false) };
        self.left(&over.id, over.is_hurt)?;
        if let Some(above) = open.last_mut() {
            above.is_hurt |= over.is_hurt;
        }
        Ok(over.is_hurt)
    }

    fn enter(&mut self, id: &ChunkId, level: Option<u8>, path: &[u8]) -> Result<Entered> {
        if self.meets(id)? {
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
        if self.meets(id)? {
            return Ok(false);
        }
        let mut is_hurt = self.look(id, None, path)?;
        let read = extent_page(self.reader, id, level, len);
        let Some(extents) = self.sound(read, id, path)? else { return Ok(true) };
        is_hurt |= self.extents(&extents, path)?;
        self.left(id, is_hurt)?;
        Ok(is_hurt)
    }

    /// Looks a chunk up: it must lie, with the length if one is given, in a pack that is there. For a chunk of a tree,
    /// which is read as well, only that some segment names it. Whether something is wrong.
    fn look(&mut self, id: &ChunkId, len: Option<u64>, path: &[u8]) -> Result<bool> {
        self.chunks += 1;
        // No chunk is that long, so none of this length is found.
        let len = len.map(|len| u32::try_from(len).unwrap_or(u32::MAX));
        match (&self.pass, len) {
            (Pass::Gather(needed), Some(len)) => {
                needed.add(id, len)?;
                return Ok(false);
            }
            (Pass::Name(suspects), Some(len)) => match suspects.get(id)? {
                Some(SUSPECT) => {}
                read => return Ok(read.is_some_and(|read| read != len)),
            },
            (_, None) => {}
        }
        let (mut cause, mut is_worth_reading) = (Cause::Unnamed, false);
        for place in self.repository.index()?.places(id)? {
            let Some(shelf) = self.shelves.get(&place.pack.id) else { continue };
            let fits = len.is_none_or(|len| len == place.len);
            if shelf.is_retired && len.is_some() {
                cause = if cause == Cause::Unnamed { Cause::Lost } else { cause };
                is_worth_reading |= shelf.is_whole && fits;
                continue;
            }
            if len.is_none() || (fits && shelf.is_good(place.frame)) {
                return Ok(false);
            }
            cause = if fits { Cause::Pack(place.pack.id) } else { Cause::Length };
        }
        if let (Pass::Name(suspects), Some(len), true) = (&self.pass, len, is_worth_reading) {
            match self.reader.chunk(Space::Data, id) {
                Ok(bytes) if bytes.len() == len as usize => {
                    suspects.set(id, len)?;
                    return Ok(false);
                }
                Ok(_) => cause = Cause::Length,
                Err(e) if is_finding(&e) => {}
                Err(e) => return Err(e),
            }
        }
        self.hit(cause, id, path);
        Ok(true)
    }

    /// Something is wrong, which hits a file.
    fn hit(&mut self, cause: Cause, id: &ChunkId, path: &[u8]) {
        self.is_hurt = true;
        if let Pass::Name(_) = self.pass {
            self.findings.hit(cause, id, self.snapshot, path);
        }
    }

    /// What was read of a chunk of a tree; damage goes to the findings, in the first walk already, as nobody knows whether a
    /// second one meets it again.
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
            Some((_, shelf)) if shelf.is_retired => self.hit(Cause::Lost, id, path),
            Some((pack, _)) => {
                self.findings.damaged(pack, e);
                self.hit(Cause::Pack(pack), id, path);
            }
            // Of a chunk that no segment names it was told already.
            None => {}
        }
        Ok(None)
    }
}
