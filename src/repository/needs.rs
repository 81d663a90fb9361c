//! All that a snapshot needs: each page of its trees is read, and every chunk that it names is told.

use super::{Reader, Snapshot};
use crate::event::Stop;
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::tree::{At, Content, Entry, Extent, Node, Page};
use crate::id::ChunkId;
use crate::tree::{Chunks, extent_page, page, root_entry};

/// Something that is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A page of a tree or of extents; what is below it is told next, if the listener asks for it.
    Page(ChunkId),
    /// A chunk of content, of so many bytes.
    Content(ChunkId, u64),
}

/// Hears what is needed; of a page it says whether to go on below it.
pub type Listener<'a> = dyn FnMut(Need) -> Result<bool> + 'a;

/// What waits to be read: a page of a folder, with its level where another page names it, or a page of extents, with its
/// level and length.
enum Waiting {
    Folder(ChunkId, Option<u8>),
    Extents(ChunkId, u8, u64),
}

struct Walk<'a> {
    reader: &'a Reader,
    stop: &'a Stop,
    listener: &'a mut Listener<'a>,
    waiting: Vec<Waiting>,
}

impl Reader {
    /// Tells all that a snapshot needs.
    ///
    /// # Errors
    /// What reading its trees says: where a part of them is lost nothing can be said of what it names; `Newer` where
    /// anything was written by a newer pastfs, which may name what this one does not see; `Stopped`.
    pub fn needs<'a>(&'a self, s: &Snapshot, stop: &'a Stop, listener: &'a mut Listener<'a>) -> Result<()> {
        let doing = || format!("walking through snapshot {}", s.id.short());
        if !s.manifest.unknown.0.is_empty() {
            return Err(newer()).doing(doing);
        }
        let root = s.manifest.root;
        if !listener(Need::Page(root))? {
            return Ok(());
        }
        let mut walk = Walk { reader: self, stop, listener, waiting: Vec::new() };
        root_entry(self, &root).and_then(|top| walk.entry(&top)).and_then(|()| walk.run()).doing(doing)
    }

    /// The same for what an entry and all below it need.
    ///
    /// # Errors
    /// Likewise.
    pub fn needs_of<'a>(
        &'a self,
        entry: &Entry,
        stop: &'a Stop,
        listener: &'a mut Listener<'a>,
    ) -> Result<()> {
        let mut walk = Walk { reader: self, stop, listener, waiting: Vec::new() };
        walk.entry(entry)?;
        walk.run()
    }
}

impl Walk<'_> {
    /// Not by recursion: trees may be deep. What waits is bounded by the entries of the folders above each other.
    fn run(&mut self) -> Result<()> {
        while let Some(next) = self.waiting.pop() {
            self.stop.check()?;
            let before = self.waiting.len();
            match next {
                Waiting::Folder(id, level) => match page(self.reader, &id, level)? {
                    Page::Leaf(entries) => {
                        for entry in &entries {
                            self.entry(entry)?;
                        }
                    }
                    Page::Node(level, pages) => {
                        for p in pages {
                            self.folder(p.id, Some(level.saturating_sub(1)))?;
                        }
                    }
                },
                Waiting::Extents(id, level, len) => {
                    self.extents(&extent_page(self.reader, &id, level, len)?)?;
                }
            }
            if self.reader.looks_ahead() {
                let coming = self.waiting[before..].iter().rev().map(|next| match next {
                    Waiting::Folder(id, _) | Waiting::Extents(id, ..) => *id,
                });
                self.reader.expect(&coming.collect::<Vec<_>>());
            }
        }
        Ok(())
    }

    fn folder(&mut self, id: ChunkId, level: Option<u8>) -> Result<()> {
        if (self.listener)(Need::Page(id))? {
            self.waiting.push(Waiting::Folder(id, level));
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Entry) -> Result<()> {
        if !entry.unknown.0.is_empty() {
            return Err(newer());
        }
        match &entry.node {
            Node::Folder(id) => self.folder(*id, None)?,
            Node::File(content) => self.content(content)?,
            Node::Unknown(_) => return Err(newer()),
            _ => {}
        }
        entry.xattrs.iter().try_for_each(|x| self.content(&x.value))
    }

    fn content(&mut self, content: &Content) -> Result<()> {
        match content {
            Content::Extents(extents) => self.extents(extents),
            Content::Inline(_) => Ok(()),
        }
    }

    fn extents(&mut self, extents: &[Extent]) -> Result<()> {
        for extent in extents {
            match extent.at {
                At::Hole => {}
                At::Chunk(id) => drop((self.listener)(Need::Content(id, extent.len))?),
                At::List(id, level) => {
                    if (self.listener)(Need::Page(id))? {
                        self.waiting.push(Waiting::Extents(id, level, extent.len));
                    }
                }
            }
        }
        Ok(())
    }
}

/// What this program does not know may name chunks that it does not see.
fn newer() -> Error {
    Error::new(Fault::Newer, "it was written by a newer pastfs").hint("use a newer pastfs")
}
