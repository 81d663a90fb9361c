//! Marks all that snapshots need: each page of each tree is read once, and every chunk that it names is marked.

use crate::event::Stop;
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::pack::Space;
use crate::format::tree::{At, Content, Entry, Extent, ExtentPage, Node, Page};
use crate::id::ChunkId;
use crate::index::{Mark, Marks};
use crate::repository::{Reader, Snapshot};
use crate::tree::{page, root_entry};

/// A walk through snapshots; first those that are listed, then forgotten ones: what is marked already is not read again.
pub struct Walk<'a> {
    pub reader: &'a Reader,
    pub marks: &'a Marks,
    pub mark: Mark,
    pub stop: &'a Stop,
}

/// What waits to be read: a page of a folder, with its level where another page names it, or a page of extents.
enum Waiting {
    Folder(ChunkId, Option<u8>),
    Extents(ChunkId, u8),
}

impl Walk<'_> {
    /// Marks everything that a snapshot needs.
    ///
    /// # Errors
    /// What reading its trees says: where a part of them is lost nothing can be said of what it names.
    pub fn snapshot(&self, s: &Snapshot) -> Result<()> {
        let root = s.manifest.root;
        if !self.marks.raise(&root, self.mark)? {
            return Ok(());
        }
        let doing = || format!("walking through snapshot {}", s.id.short());
        if !s.manifest.unknown.0.is_empty() {
            return Err(newer()).doing(doing);
        }
        self.below(&root).map_err(|e| match e.fault() {
            Fault::Damaged | Fault::Missing => e.hint(
                "nothing was deleted. `pastfs check` tells what is lost; `pastfs repair` mends what can be mended",
            ),
            _ => e,
        })
        .doing(doing)
    }

    fn below(&self, root: &ChunkId) -> Result<()> {
        let mut waiting = Vec::new();
        self.entry(&root_entry(self.reader, root)?, &mut waiting)?;
        // Not by recursion: trees may be deep. Bounded by the entries of the folders above each other.
        while let Some(next) = waiting.pop() {
            self.stop.check()?;
            match next {
                Waiting::Folder(id, level) => match page(self.reader, &id, level)? {
                    Page::Leaf(entries) => {
                        for entry in &entries {
                            self.entry(entry, &mut waiting)?;
                        }
                    }
                    Page::Node(level, pages) => {
                        for p in pages {
                            self.folder(p.id, Some(level.saturating_sub(1)), &mut waiting)?;
                        }
                    }
                },
                Waiting::Extents(id, level) => {
                    let found = ExtentPage::decode(&self.reader.chunk(Space::Trees, &id)?)?;
                    if found.level != level {
                        return Err(Error::damaged("a page of extents is of the wrong level"));
                    }
                    self.extents(&found.extents, Some(level), &mut waiting)?;
                }
            }
        }
        Ok(())
    }

    fn folder(&self, id: ChunkId, level: Option<u8>, waiting: &mut Vec<Waiting>) -> Result<()> {
        if self.marks.raise(&id, self.mark)? {
            waiting.push(Waiting::Folder(id, level));
        }
        Ok(())
    }

    fn entry(&self, entry: &Entry, waiting: &mut Vec<Waiting>) -> Result<()> {
        match &entry.node {
            Node::Folder(id) => self.folder(*id, None, waiting)?,
            Node::File(content) => self.content(content, waiting)?,
            Node::Unknown(_) => return Err(newer()),
            _ => {}
        }
        if !entry.unknown.0.is_empty() {
            return Err(newer());
        }
        for x in &entry.xattrs {
            self.content(&x.value, waiting)?;
        }
        Ok(())
    }

    fn content(&self, content: &Content, waiting: &mut Vec<Waiting>) -> Result<()> {
        match content {
            Content::Extents(extents) => self.extents(extents, None, waiting),
            _ => Ok(()),
        }
    }

    /// `above` is the level of the page that names them.
    fn extents(&self, extents: &[Extent], above: Option<u8>, waiting: &mut Vec<Waiting>) -> Result<()> {
        for extent in extents {
            match extent.at {
                At::Hole => {}
                At::Chunk(id) if self.mark == Mark::Wanted => self.marks.set(&id, self.mark)?,
                At::Chunk(id) => drop(self.marks.raise(&id, self.mark)?),
                At::List(_, level) if above.is_some_and(|above| level >= above) => {
                    return Err(Error::damaged("a page of extents names one of its own level"));
                }
                At::List(id, level) => {
                    if self.marks.raise(&id, self.mark)? {
                        waiting.push(Waiting::Extents(id, level));
                    }
                }
            }
        }
        Ok(())
    }
}

/// What this program does not know may name chunks that it does not see.
fn newer() -> Error {
    Error::new(Fault::Newer, "it was written by a newer pastfs")
        .hint("nothing was deleted; use a newer pastfs")
}
