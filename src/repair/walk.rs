//! The walk through snapshots that finds what is lost, and writes their trees anew without it.
//!
//! Each folder below which all is well is walked once, whatever number of snapshots have it, and keeps its id. Of the others
//! the entries that can be read whole are kept, as they are.

use crate::event::Stop;
use crate::fault::{Error, Result};
use crate::format::pack::Space;
use crate::format::snapshot::Unread;
use crate::format::tree::{At, Content, Entry, Extent, Node, Page};
use crate::id::{ChunkId, PackId};
use crate::repository::{Found, Promise, Reader, Repository, Snapshot, is_finding};
use crate::tree::{FolderWriter, Sink, extent_page, page, root_entry};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::AddAssign;

/// Most lost chunks that are kept by name: 32 bytes each, in memory and in notes. Whoever has lost more should have
/// everything read again.
pub const LOST_MAX: usize = 300_000;
/// Most lost files of a snapshot that are kept by name; a manifest names no more.
const NAMED_MAX: usize = crate::format::snapshot::UNREAD_MAX;

/// How much a tree holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Regular files.
    pub files: u64,
    /// Folders.
    pub folders: u64,
    /// Everything else.
    pub others: u64,
    /// Bytes of all files as stat gave them.
    pub bytes: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.files += other.files;
        self.folders += other.folders;
        self.others += other.others;
        self.bytes += other.bytes;
    }
}

/// What can be read of a snapshot from which something is lost.
#[derive(Debug)]
pub struct Remains {
    /// The root of its tree without what is lost; `None` where nothing can be read.
    pub root: Option<ChunkId>,
    /// What that tree holds.
    pub counts: Counts,
    /// The first of the files, or folders, that are lost or lack something, with the reason.
    pub lost: Vec<Unread>,
    /// How many there are.
    pub total: u64,
}

/// Goes through snapshots, one after another.
pub struct Walk<'a> {
    repository: &'a Repository,
    reader: &'a Reader,
    /// All packs that a readable segment names.
    packs: &'a BTreeMap<PackId, Promise>,
    /// Each chunk is read, however well it looks.
    read_data: bool,
    stop: &'a Stop,
    /// Folders below which nothing is lost, by their first page: about 80 bytes for each.
    clean: HashMap<ChunkId, Counts>,
    /// Chunks that were met and are lost, up to [`LOST_MAX`].
    pub lost: HashSet<ChunkId>,
    /// One of them should lie in a pack that is in use.
    pub is_in_use: bool,
    /// Of the snapshot that is under way.
    named: Vec<Unread>,
    total: u64,
}

/// A folder that is under way.
struct Open {
    entry: Entry,
    id: ChunkId,
    /// Length of its path.
    path: usize,
    todo: std::vec::IntoIter<Entry>,
    kept: Vec<Entry>,
    counts: Counts,
    is_hurt: bool,
}

impl<'a> Walk<'a> {
    pub fn new(
        repository: &'a Repository,
        reader: &'a Reader,
        packs: &'a BTreeMap<PackId, Promise>,
        read_data: bool,
        stop: &'a Stop,
    ) -> Self {
        let (clean, lost, is_in_use, named, total) = Default::default();
        Self { repository, reader, packs, read_data, stop, clean, lost, is_in_use, named, total }
    }

    /// What is left of a snapshot, its new pages given to `sink`; `None` where nothing is lost.
    ///
    /// # Errors
    /// What the store says where it is not about what is read; `Stopped`; what `sink` says.
    pub fn snapshot(&mut self, s: &Snapshot, sink: &mut dyn Sink) -> Result<Option<Remains>> {
        (self.named, self.total) = Default::default();
        let root = s.manifest.root;
        let read = root_entry(self.reader, &root);
        let Some(mut top) = self.sound(read, &root, b"/")? else { return Ok(Some(self.remains(None))) };
        let mut counts = Counts { folders: 1, ..Counts::default() };
        let mut is_hurt = self.lose_xattrs(&mut top, b"/")?;
        let Node::Folder(id) = top.node else { return Err(Error::bug("a root that is no folder was read")) };
        if let Some(below) = self.clean.get(&id) {
            counts += *below;
            match is_hurt {
                false => return Ok(None),
                true => return self.end(top, counts, sink).map(Some),
            }
        }
        let mut path = Vec::new();
        let mut open = vec![self.enter(top, id, &path)?];
        // Not by recursion: trees may be deep.
        loop {
            self.stop.check()?;
            let Some(at) = open.last_mut() else { return Err(Error::bug("a walk left its root")) };
            path.truncate(at.path);
            let Some(mut entry) = at.todo.next() else {
                let Some(over) = open.pop() else { continue };
                let (entry, below, hurt) = self.leave(over, sink)?;
                match open.last_mut() {
                    Some(above) => {
                        above.counts += below;
                        above.counts.folders += 1;
                        above.is_hurt |= hurt;
                        above.kept.push(entry);
                        continue;
                    }
                    None => {
                        counts += below;
                        is_hurt |= hurt;
                        let nothing = counts == Counts { folders: 1, ..Counts::default() };
                        return match (is_hurt, nothing) {
                            (false, _) => Ok(None),
                            (true, true) => Ok(Some(self.remains(None))),
                            (true, false) => self.end(entry, counts, sink).map(Some),
                        };
                    }
                }
            };
            path.push(b'/');
            path.extend_from_slice(&entry.name);
            if let Node::File(content) = &entry.node
                && self.is_content_lost(content)?
            {
                self.name(&path, "lost in repair: its content is damaged or missing in the repository");
                at.is_hurt = true;
                continue;
            }
            at.is_hurt |= self.lose_xattrs(&mut entry, &path)?;
            match &entry.node {
                Node::File(_) => {
                    at.counts.files += 1;
                    at.counts.bytes += entry.stat.size;
                }
                Node::Folder(id) => match self.clean.get(id) {
                    Some(below) => {
                        at.counts += *below;
                        at.counts.folders += 1;
                    }
                    None => {
                        let id = *id;
                        let below = self.enter(entry, id, &path)?;
                        open.push(below);
                        continue;
                    }
                },
                _ => at.counts.others += 1,
            }
            at.kept.push(entry);
        }
    }

    /// Writes the root page above the folder `/`.
    fn end(&mut self, top: Entry, counts: Counts, sink: &mut dyn Sink) -> Result<Remains> {
        let mut root = FolderWriter::new();
        root.push(&top, sink)?;
        let root = root.finish(sink)?;
        Ok(Remains { counts, ..self.remains(Some(root)) })
    }

    fn remains(&mut self, root: Option<ChunkId>) -> Remains {
        Remains {
            root,
            counts: Counts::default(),
            lost: std::mem::take(&mut self.named),
            total: std::mem::take(&mut self.total),
        }
    }

    fn enter(&mut self, entry: Entry, id: ChunkId, path: &[u8]) -> Result<Open> {
        let mut entries = Vec::new();
        let is_hurt = self.entries(&id, None, path, &mut entries)?;
        let (kept, counts) = Default::default();
        Ok(Open { entry, id, path: path.len(), todo: entries.into_iter(), kept, counts, is_hurt })
    }

    /// The entries of a folder that can be read. By recursion, but no deeper than levels are allowed by the format, and each
    /// is one below the last. Whether some are lost.
    fn entries(
        &mut self,
        id: &ChunkId,
        level: Option<u8>,
        path: &[u8],
        into: &mut Vec<Entry>,
    ) -> Result<bool> {
        self.stop.check()?;
        let shown = if path.is_empty() { b"/" } else { path };
        let read = page(self.reader, id, level);
        let mut is_hurt = false;
        match self.sound(read, id, shown)? {
            None => return Ok(true),
            Some(Page::Node(level, pages)) => {
                for p in pages {
                    is_hurt |= self.entries(&p.id, Some(level.saturating_sub(1)), path, into)?;
                }
            }
            Some(Page::Leaf(entries)) => {
                let (last, first) = (into.last(), entries.first());
                if last.zip(first).is_some_and(|(last, first)| last.name >= first.name) {
                    self.name(shown, "lost in repair: the pages of the folder are out of order");
                    return Ok(true);
                }
                into.extend(entries);
            }
        }
        Ok(is_hurt)
    }

    /// The innermost folder is over: its entry, with another page if something in it is lost, and what it holds.
    fn leave(&mut self, over: Open, sink: &mut dyn Sink) -> Result<(Entry, Counts, bool)> {
        let Open { mut entry, id, kept, counts, is_hurt, .. } = over;
        if is_hurt {
            let mut folder = FolderWriter::new();
            for entry in &kept {
                folder.push(entry, sink)?;
            }
            entry.node = Node::Folder(folder.finish(sink)?);
        } else {
            self.clean.insert(id, counts);
        }
        Ok((entry, counts, is_hurt))
    }

    /// Takes away extended attributes whose values are lost. Whether there are any.
    fn lose_xattrs(&mut self, entry: &mut Entry, path: &[u8]) -> Result<bool> {
        let mut lost = Vec::new();
        for (n, x) in entry.xattrs.iter().enumerate() {
            if self.is_content_lost(&x.value)? {
                lost.push(n);
            }
        }
        for n in lost.iter().rev() {
            let x = entry.xattrs.remove(*n);
            let name = String::from_utf8_lossy(&x.name).into_owned();
            self.name(path, &format!("lost in repair: its extended attribute {name}"));
            // A backup that takes this snapshot for its parent must not take the rest for all.
            entry.stat.fresh = true;
        }
        Ok(!lost.is_empty())
    }

    /// Looks at all of a content, so that each lost chunk is known.
    fn is_content_lost(&mut self, content: &Content) -> Result<bool> {
        match content {
            Content::Inline(_) => Ok(false),
            Content::Extents(extents) => self.are_lost(extents),
        }
    }

    /// By recursion, but no deeper than levels are allowed by the format, and each is one below the last.
    fn are_lost(&mut self, extents: &[Extent]) -> Result<bool> {
        let mut is_lost = false;
        for extent in extents {
            self.stop.check()?;
            is_lost |= match extent.at {
                At::Hole => false,
                At::Chunk(id) => self.is_lost(&id, extent.len)?,
                At::List(id, level) => match self.list(&id, level, extent.len)? {
                    Some(below) => self.are_lost(&below)?,
                    None => true,
                },
            };
        }
        Ok(is_lost)
    }

    fn list(&mut self, id: &ChunkId, level: u8, len: u64) -> Result<Option<Vec<Extent>>> {
        match extent_page(self.reader, id, level, len) {
            Ok(extents) => Ok(Some(extents)),
            Err(e) if is_finding(&e) => {
                self.lose(id)?;
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// Whether a chunk of data has no place. One in a pack that is there and in use has; all others are read.
    fn is_lost(&mut self, id: &ChunkId, len: u64) -> Result<bool> {
        let mut is_worth_reading = false;
        for place in self.repository.index()?.places(id)? {
            // What only the cache of this machine remembers of a damaged segment does not count.
            let Some(promise) = self.packs.get(&place.pack.id) else { continue };
            if u64::from(place.len) != len || promise.found == Found::Missing {
                continue;
            }
            if promise.found == Found::Whole && !promise.retired && !self.read_data {
                return Ok(false);
            }
            is_worth_reading = true;
        }
        if is_worth_reading {
            match self.reader.chunk(Space::Data, id) {
                Ok(bytes) if bytes.len() as u64 == len => return Ok(false),
                Ok(_) => {}
                Err(e) if is_finding(&e) => {}
                Err(e) => return Err(e),
            }
        }
        self.lose(id)?;
        Ok(true)
    }

    /// What was read of a page of a folder; of one that is lost it is told where.
    fn sound<T>(&mut self, read: Result<T>, id: &ChunkId, path: &[u8]) -> Result<Option<T>> {
        match read {
            Ok(value) => Ok(Some(value)),
            Err(e) if is_finding(&e) => {
                self.lose(id)?;
                self.name(path, "lost in repair: entries of this folder");
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    fn lose(&mut self, id: &ChunkId) -> Result<()> {
        if self.lost.len() < LOST_MAX {
            self.lost.insert(*id);
        }
        if !self.is_in_use {
            let in_use = |pack| self.packs.get(pack).is_some_and(|p| !p.retired);
            self.is_in_use = self.repository.index()?.places(id)?.iter().any(|p| in_use(&p.pack.id));
        }
        Ok(())
    }

    fn name(&mut self, path: &[u8], reason: &str) {
        self.total += 1;
        if self.named.len() < NAMED_MAX {
            let mut reason = reason.as_bytes().to_vec();
            reason.truncate(crate::format::snapshot::TEXT_MAX);
            self.named.push(Unread { path: path.to_vec(), reason, changed: false });
        }
    }
}

/// Takes pages that nobody needs.
pub struct Nowhere;

impl Sink for Nowhere {
    fn put(&mut self, _: Space, _: &[u8]) -> Result<ChunkId> {
        Ok(ChunkId([0; 32]))
    }
}
