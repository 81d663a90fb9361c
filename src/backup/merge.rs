//! The walk merged with the parent's trees.
//!
//! Two passes over one stream: `decide` looks at each item as the walk gives it, finds what the parent
//! knows of it, and has what is new read ahead; `complete` takes the steps in the same order, stores what was
//! read, and finishes folders. Between the two at most [`STEPS_MAX`] steps and [`WAITING_BYTES_MAX`] bytes wait.

use super::files::{self, Ahead, Loaded, Loader, SMALL_MAX, STEPS_MAX, Trouble, WAITING_BYTES_MAX, What};
use super::folder::Folder;
use super::parent::{Old, same_kind, same_size};
use super::table::{self, Recorded, Seen, Table};
use super::{Options, Report};
use crate::event::{Event as Told, Observer, Outcome, Stop};
use crate::fault::{Error, Fault, Result};
use crate::format::pack::Space;
use crate::format::tree::{At, Content, Entry, ExtentPage, Node, Stat};
use crate::gauge::{Did, Gauge, Watch};
use crate::id::ChunkId;
use crate::repository::{Reader, Repository, Snapshot, Writer};
use crate::source::{self, Event, Item, Kind, Walk};
use crate::tree::{self, ROOT_NAME};
use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Contents of hard-linked files that are kept until the next of their names comes; more are read again.
const LINKS_MAX: usize = 1 << 20;

/// Writes the tree of a snapshot of files; gives its root page.
#[expect(clippy::too_many_arguments, reason = "the one door between a backup and its walk")]
pub fn files(
    repository: &Arc<Repository>,
    options: &Options,
    source: source::Options,
    parent: Option<&Snapshot>,
    table: &Table,
    writer: &mut Writer,
    report: &mut Report,
    observer: &Arc<dyn Observer>,
    stop: &Stop,
) -> Result<ChunkId> {
    let reader = repository.reader();
    let mut walk = Walk::new(source)?;
    let root = match parent {
        // A writer key reads no trees.
        Some(p) if !options.force && !table.is_kept => tree::root_entry(&*reader, &p.manifest.root).map(Some),
        _ => Ok(None),
    };
    let loader = Arc::new(Loader::new(repository)?);
    let (reading, merging) = (Gauge::new("read"), Gauge::new("merge"));
    let mut merge = Merge {
        options,
        table,
        is_first: parent.is_none(),
        old_root: None,
        reader,
        ahead: Ahead::new(&loader, &reading)?,
        loader,
        writer,
        report,
        observer,
        olds: vec![Old::default()],
        queue: VecDeque::new(),
        waiting: 0,
        watch: merging.watch(),
        folders: vec![Folder::default()],
        links: HashMap::new(),
    };
    // A parent that cannot be read is no parent: everything is read again.
    match root {
        Ok(old) => {
            merge.old_root = parent.filter(|_| old.is_some()).map(|p| p.manifest.root);
            merge.olds[0] = Old::of_root(old);
        }
        Err(e) => {
            merge.report.stored_again += u64::from(!merge.writer.lost().is_empty());
            observer.event(Told::Warning(&format!("the parent snapshot cannot be read: {}", e.chain())));
        }
    }
    loop {
        merge.watch.lap_blocked(merge.writer.blocked());
        let Some(event) = walk.next() else { break };
        merge.watch.lap(Did::Starve);
        stop.check()?;
        merge.decide(event);
        while merge.queue.len() > STEPS_MAX || merge.waiting > WAITING_BYTES_MAX {
            merge.complete()?;
        }
    }
    while !merge.queue.is_empty() {
        stop.check()?;
        merge.complete()?;
    }
    let root = merge.root();
    for gauge in [&reading, &merging] {
        observer.event(Told::Detail(&gauge.to_string()));
    }
    root
}

/// What is to be done, in the order of the walk.
enum Step {
    Enter(Box<Coming>),
    Leaf(Box<Coming>),
    /// With the number of entries of the parent's folder, if it could be read.
    Leave(Option<usize>),
    Failed(PathBuf, Error),
}

/// An item whose entry is in the making.
pub struct Coming {
    item: Arc<Item>,
    old: Option<Entry>,
    /// Nothing, when the old entry says it all.
    loaded: Option<files::Coming>,
    /// Content that is known to be stored.
    content: Option<Content>,
    /// What the table knows of it.
    seen: Seen,
    /// It is unchanged, but the repository has lost something of it.
    is_lost: bool,
}

struct Merge<'a> {
    options: &'a Options,
    table: &'a Table,
    /// There is no parent.
    is_first: bool,
    /// The root page of the parent, if it could be read.
    old_root: Option<ChunkId>,
    reader: Arc<Reader>,
    loader: Arc<Loader>,
    ahead: Ahead,
    writer: &'a mut Writer,
    report: &'a mut Report,
    observer: &'a Arc<dyn Observer>,
    olds: Vec<Old>,
    queue: VecDeque<Step>,
    watch: Watch,
    /// Bytes of files that are loaded, or to be loaded, for the steps of the queue.
    waiting: u64,
    folders: Vec<Folder>,
    links: HashMap<(u64, u64), Content>,
}

impl Merge<'_> {
    fn decide(&mut self, event: Event) {
        let step = match event {
            Event::Failed { path, error } => Step::Failed(path, error),
            Event::Leave => {
                let count = self.olds.pop().and_then(|mut old| match old.count(&*self.reader) {
                    Ok(count) => count,
                    Err(e) => self.unread_parent(&old, &e),
                });
                Step::Leave(count)
            }
            Event::Enter(item) => {
                let coming = self.coming(item);
                let id = match coming.old.as_ref().map(|o| &o.node) {
                    Some(Node::Folder(id)) => Some(id),
                    _ => None,
                };
                self.olds.push(Old::of(&coming.item, id));
                Step::Enter(coming)
            }
            Event::Leaf(item) => Step::Leaf(self.coming(item)),
        };
        self.queue.push_back(step);
    }

    /// Tells that a folder of the parent could not be read to its end; gives nothing in its place.
    fn unread_parent<T>(&self, old: &Old, e: &Error) -> Option<T> {
        let path = old.path();
        self.observer.event(Told::Warning(&format!(
            "{} is read again: the parent snapshot's folder cannot be read: {}",
            path.display(),
            e.chain()
        )));
        None
    }

    /// Finds the old entry, decides what must be read, and begins to read it.
    fn coming(&mut self, item: Item) -> Box<Coming> {
        let name = if item.name.is_empty() { ROOT_NAME } else { &item.name };
        let old = match self.olds.last_mut().map(|o| o.find(name, &*self.reader)) {
            Some(Ok(old)) => old,
            Some(Err(e)) => self.olds.last().and_then(|o| self.unread_parent(o, &e)),
            None => None,
        };
        let old = old.filter(|o| same_kind(&o.node, item.kind));
        let is_unchanged = old.as_ref().is_some_and(|o| self.is_unchanged(o, &item));
        let is_lost = old.as_ref().is_some_and(|o| self.is_lost(o));
        let item = Arc::new(item);
        if is_unchanged && !is_lost {
            let (loaded, content, seen) = Default::default();
            return Box::new(Coming { item, old, loaded, content, seen, is_lost: false });
        }
        let Recorded { seen, content } = match &old {
            // The content is the same by size and mtime; the attributes may not be.
            Some(Entry { node: Node::File(content), stat, .. })
                if self.options.ignore_ctime
                    && !is_lost
                    && !stat.fresh
                    && stat.size == item.stat.size
                    && stat.mtime == item.stat.mtime =>
            {
                Recorded { seen: Seen::Same, content: Some(content.clone()) }
            }
            _ => self.recorded(&item),
        };
        let what = if content.is_some() { What::Attributes } else { What::All };
        let big = item.kind == Kind::File && what == What::All && item.stat.size > SMALL_MAX;
        // Big files are opened when their turn comes: at most one at a time.
        let loaded = if big { None } else { Some(self.ahead.load(&item, what)) };
        self.waiting += loaded.as_ref().map_or(0, |l| l.bytes);
        Box::new(Coming { item, old, loaded, content, seen, is_lost: is_lost && is_unchanged })
    }

    /// Whether the old entry says it all. A fresh one may have changed unseen.
    fn is_unchanged(&self, old: &Entry, item: &Item) -> bool {
        let (a, b) = (&old.stat, &item.stat);
        let known = !matches!(old.node, Node::Unknown(_)) && old.unknown.0.is_empty();
        known && !a.fresh && same_size(old, b.size) && a.mtime == b.mtime && a.ctime == b.ctime
    }

    /// Whether the repository has lost something that the entry names, but for what lies in a folder.
    fn is_lost(&self, old: &Entry) -> bool {
        if self.writer.lost().is_empty() {
            return false;
        }
        let content = match &old.node {
            Node::File(content) => Some(content),
            _ => None,
        };
        old.xattrs.iter().map(|x| &x.value).chain(content).any(|c| self.is_content_lost(c))
    }

    fn is_content_lost(&self, content: &Content) -> bool {
        let Content::Extents(extents) = content else { return false };
        let lost = self.writer.lost();
        if lost.is_empty() {
            return false;
        }
        extents.iter().any(|e| match e.at {
            At::Hole => false,
            At::Chunk(id) => lost.contains(&id),
            At::List(id, _) => {
                let page = self.reader.chunk(Space::Trees, &id).and_then(|p| ExtentPage::decode(&p));
                lost.contains(&id)
                    || page.map_or(true, |p| self.is_content_lost(&Content::Extents(p.extents)))
            }
        })
    }

    /// What a backup stored which was not finished; of a writer key, each backup.
    fn recorded(&self, item: &Item) -> Recorded {
        if item.kind != Kind::File || self.options.force {
            return Recorded::default();
        }
        self.table.look(item, |c| self.is_stored(c), |c| self.is_content_lost(c))
    }

    /// Whether all chunks of a content are known.
    fn is_stored(&self, content: &Content) -> bool {
        match table::chunks(content) {
            Some(chunks) => chunks.iter().all(|(id, len)| self.writer.knows(id, Some(*len))),
            None => self.are_pages_stored(content),
        }
    }

    fn are_pages_stored(&self, content: &Content) -> bool {
        let Content::Extents(extents) = content else { return true };
        extents.iter().all(|e| match e.at {
            At::Hole => true,
            At::Chunk(id) => u32::try_from(e.len).is_ok_and(|len| self.writer.knows(&id, Some(len))),
            At::List(id, _) => {
                let page =
                    self.writer.knows(&id, None).then(|| self.reader.chunk(Space::Trees, &id).ok()).flatten();
                page.and_then(|p| ExtentPage::decode(&p).ok())
                    .is_some_and(|p| self.are_pages_stored(&Content::Extents(p.extents)))
            }
        })
    }

    /// Takes the next step.
    fn complete(&mut self) -> Result<()> {
        match self.queue.pop_front() {
            Some(Step::Enter(coming)) => {
                self.report.totals.folders += 1;
                self.folders.push(Folder::of(coming));
            }
            Some(Step::Leaf(coming)) => {
                let path = coming.item.path();
                self.observer.event(Told::Started(&path));
                match self.leaf(*coming, &path)? {
                    Some((entry, outcome)) => self.add(entry, outcome, &path)?,
                    None => self.mark_differing(),
                }
            }
            Some(Step::Leave(old_len)) => {
                if old_len.is_none() && !self.writer.lost().is_empty() {
                    self.report.stored_again += 1;
                }
                self.leave(old_len)?
            }
            Some(Step::Failed(path, e)) => {
                self.report.unread(&path, &e.chain(), false, self.observer);
                self.mark_differing();
            }
            None => {}
        }
        Ok(())
    }

    fn take(&mut self, coming: files::Coming) -> Result<Loaded> {
        self.waiting -= coming.bytes;
        self.watch.lap_blocked(self.writer.blocked());
        let loaded = self.ahead.take(coming);
        self.watch.lap(Did::Starve);
        loaded
    }

    fn mark_differing(&mut self) {
        if let Some(folder) = self.folders.last_mut() {
            folder.differs = true;
        }
    }

    fn add(&mut self, entry: Entry, outcome: Outcome, path: &Path) -> Result<()> {
        let file = matches!(entry.node, Node::File(_));
        let t = &mut self.report.totals;
        match &entry.node {
            Node::File(_) => {
                t.files += 1;
                t.bytes += entry.stat.size;
            }
            Node::Folder(_) => {}
            _ => t.others += 1,
        }
        let counter = match outcome {
            Outcome::New => &mut self.report.changes.0,
            Outcome::Unchanged => &mut self.report.changes.2,
            _ => &mut self.report.changes.1,
        };
        if file {
            *counter += 1;
        }
        self.observer.event(Told::Finished { path, outcome, file });
        let Some(folder) = self.folders.last_mut() else { return Ok(()) };
        folder.add(entry, self.writer)?;
        self.tell_refused(path.parent().unwrap_or(path));
        Ok(())
    }

    /// Tells of entries of the innermost folder that no page can hold.
    fn tell_refused(&mut self, folder: &Path) {
        let refused = self.folders.last_mut().map(|f| std::mem::take(&mut f.refused));
        for (name, e) in refused.into_iter().flatten() {
            let path = folder.join(std::ffi::OsStr::from_bytes(&name));
            self.report.unread(&path, &e.chain(), false, self.observer);
        }
    }

    /// The entry of what is no folder; `None` when it could not be read.
    fn leaf(&mut self, coming: Coming, path: &Path) -> Result<Option<(Entry, Outcome)>> {
        let Coming { item, old, loaded, content, seen, is_lost } = coming;
        let big = item.kind == Kind::File && item.stat.size > SMALL_MAX;
        if let (Some(old), None) = (&old, &loaded)
            && !is_lost
            && self.is_unchanged(old, &item)
        {
            let old = old.clone();
            self.observer.event(Told::Bytes(if item.kind == Kind::File { item.stat.size } else { 0 }));
            return Ok(Some((self.reuse(old, &item), Outcome::Unchanged)));
        }
        self.mark_differing();
        let loaded = match loaded {
            Some(coming) => self.take(coming),
            None if big => self.loader.load(&item, What::All),
            None => return Err(Error::bug("an item was neither read nor known")),
        };
        let loaded = match loaded {
            Ok(loaded) => loaded,
            // Deleted since it was listed: as if it had been gone before.
            Err(e) if e.fault() == Fault::Missing => return Ok(None),
            Err(e) => {
                self.report.unread(path, &e.chain(), false, self.observer);
                return Ok(None);
            }
        };
        let outcome = match (&old, &content) {
            (None, _) if self.table.is_kept => self.by_table(&item, seen),
            (None, _) => Outcome::New,
            _ if is_lost => Outcome::Unchanged,
            (Some(_), Some(_)) if self.options.ignore_ctime => Outcome::Unchanged,
            _ => Outcome::Changed,
        };
        match self.entry(&item, loaded, content, seen, path) {
            Ok(entry) => {
                self.report.stored_again += u64::from(is_lost);
                Ok(Some((entry, outcome)))
            }
            Err(Trouble::Source(e)) => {
                self.report.unread(path, &e.chain(), false, self.observer);
                Ok(None)
            }
            Err(Trouble::Repository(e)) => Err(e),
        }
    }

    /// What has become of an item since the last backup, as far as the table can tell: it holds files alone.
    fn by_table(&self, item: &Item, seen: Seen) -> Outcome {
        match seen {
            Seen::Same => Outcome::Unchanged,
            Seen::Other => Outcome::Changed,
            Seen::Never if item.kind == Kind::File || self.is_first => Outcome::New,
            Seen::Never => Outcome::Unchanged,
        }
    }

    /// An unchanged entry: content and attributes of the parent, what is only known now from the walk.
    fn reuse(&mut self, old: Entry, item: &Item) -> Entry {
        let stat = Stat { fresh: old.stat.fresh, ..item.stat.clone() };
        if stat != old.stat {
            self.mark_differing();
        }
        Entry { stat, ..old }
    }

    fn entry(
        &mut self,
        item: &Item,
        loaded: Loaded,
        known: Option<Content>,
        seen: Seen,
        path: &Path,
    ) -> std::result::Result<Entry, Trouble> {
        let Loaded { mut stat, small, file, changed, xattrs, target } = loaded;
        let (mut moved, is_known) = (changed, known.is_some());
        let xattrs = files::store_xattrs(&self.loader.chunker, xattrs, self.writer)?;
        let node = match (item.kind, target) {
            (Kind::Symlink, Some(target)) => Node::Symlink(target),
            (Kind::Char(n), _) => Node::CharDevice(n),
            (Kind::Block(n), _) => Node::BlockDevice(n),
            (Kind::Fifo, _) => Node::Fifo,
            (Kind::Socket, _) => Node::Socket,
            (Kind::File, _) => {
                let link = (item.stat.nlink > 1).then_some((item.device, item.inode));
                let content = match (known, small, file) {
                    (Some(content), ..) => {
                        self.observer.event(Told::Bytes(stat.size));
                        content
                    }
                    (None, Some(small), _) => {
                        self.count_read(small.len());
                        self.observer.event(Told::Bytes(small.len()));
                        small.store(self.writer)?
                    }
                    (None, None, Some(file)) => {
                        let content = link.and_then(|l| self.links.get(&l).cloned());
                        match content.filter(|c| c.len().is_ok_and(|n| n == stat.size)) {
                            Some(content) => content,
                            None => {
                                let read = Cell::new(0);
                                let tell = |n| {
                                    read.set(read.get() + n);
                                    self.observer.event(Told::Bytes(n));
                                };
                                let (content, len) = files::store_file(
                                    &self.loader.chunker,
                                    &file,
                                    stat.size,
                                    self.writer,
                                    &tell,
                                )?;
                                self.count_read(read.get());
                                let now = item.restat_open(&file)?;
                                moved =
                                    len != stat.size || now.mtime != stat.mtime || now.ctime != stat.ctime;
                                stat.size = len;
                                content
                            }
                        }
                    }
                    _ => return Err(Error::bug("a file came without its content").into()),
                };
                if let Some(link) = link
                    && self.links.len() < LINKS_MAX
                {
                    self.links.insert(link, content.clone());
                }
                stat.fresh |= moved;
                if !stat.fresh {
                    self.table.record(self.writer, path, item, (&stat, &content), (seen, is_known));
                }
                Node::File(content)
            }
            (Kind::Folder | Kind::Symlink, _) => return Err(Error::bug("a folder is no leaf").into()),
        };
        if moved {
            self.report.unread(path, "changed while it was read", true, self.observer);
        }
        Ok(Entry { name: item.name.clone(), stat, node, xattrs, chunker: None, unknown: Default::default() })
    }

    fn count_read(&mut self, bytes: u64) {
        self.report.totals.read_files += 1;
        self.report.totals.read_bytes += bytes;
    }

    /// Finishes the innermost folder.
    fn leave(&mut self, old_len: Option<usize>) -> Result<()> {
        let Some((folder, coming)) = self.folders.last_mut().and_then(|f| f.coming.take().map(|c| (f, c)))
        else {
            return Err(Error::bug("a folder was left that was not entered"));
        };
        let Coming { item, old, loaded, .. } = *coming;
        let path = item.path();
        let old_id = match &old {
            Some(Entry { node: Node::Folder(id), .. }) => Some(*id),
            _ => None,
        };
        let id = folder.finish(old_id, old_len, self.writer)?;
        self.tell_refused(&path);
        self.folders.pop();
        let name = if item.name.is_empty() { ROOT_NAME.to_vec() } else { item.name.clone() };
        let reused = match (&old, &loaded) {
            (Some(old), None) => Some(self.reuse(old.clone(), &item)),
            _ => None,
        };
        let (entry, outcome) = match (reused, loaded) {
            (Some(entry), _) => {
                let same = matches!(&entry.node, Node::Folder(o) if *o == id);
                if !same {
                    self.mark_differing();
                }
                (Entry { node: Node::Folder(id), ..entry }, Outcome::Unchanged)
            }
            (None, Some(coming)) => {
                let (stat, xattrs) = match self.take(coming) {
                    Ok(l) => (l.stat, files::store_xattrs(&self.loader.chunker, l.xattrs, self.writer)?),
                    Err(e) => {
                        self.report.unread(&path, &e.chain(), false, self.observer);
                        (item.stat.clone(), Vec::new())
                    }
                };
                let node = Node::Folder(id);
                let entry = Entry { name, stat, node, xattrs, chunker: None, unknown: Default::default() };
                match old {
                    Some(old) if item.ancestor && leads_as_before(&old, &entry) => (old, Outcome::Unchanged),
                    _ => {
                        self.mark_differing();
                        let outcome = match old {
                            Some(_) => Outcome::Changed,
                            None if self.table.is_kept => self.by_table(&item, Seen::Never),
                            None => Outcome::New,
                        };
                        (entry, outcome)
                    }
                }
            }
            (None, None) => return Err(Error::bug("a folder was neither read nor known")),
        };
        self.add(entry, outcome, &path)
    }

    /// The page that holds `/` alone.
    fn root(mut self) -> Result<ChunkId> {
        match self.folders.pop() {
            Some(mut top) if self.folders.is_empty() && top.len() == 1 => {
                let root = top.finish(self.old_root, self.old_root.map(|_| 1), self.writer)?;
                match top.refused.pop() {
                    Some((_, e)) => Err(e),
                    None => Ok(root),
                }
            }
            _ => Err(Error::bug("a walk did not end at the root")),
        }
    }
}

/// Whether a folder on the way to what is saved differs from the parent's in nothing but its times and its own size. Those
/// tell of what came and went beside the way, which is no part of the backup: it would never be without a change, as
/// something always comes and goes in `/tmp` or `/home`. With the next change they are brought up to date.
fn leads_as_before(old: &Entry, now: &Entry) -> bool {
    let Stat { mtime, ctime, size, fresh, .. } = old.stat.clone();
    let stat = Stat { mtime, ctime, size, fresh, ..now.stat.clone() };
    *old == Entry { stat, unknown: old.unknown.clone(), ..now.clone() }
}

impl Drop for Merge<'_> {
    fn drop(&mut self) {
        self.watch.lap_blocked(self.writer.blocked());
    }
}
