//! The mount as plain functions: numbers and names in, attributes and bytes out. No kernel needed.

use super::attributes::{self, Attributes, Type};
use super::counters::Counters;
use super::errno::{self, Errno};
use super::folders::{Folders, Found, tree_of};
use super::inodes::{Folder, Node, Nodes, ROOT, What};
use super::names::Names;
use super::numbering::{Fingerprint, Numbering};
use super::owners::Owners;
use super::past::Past;
use super::pushing::Pushing;
use super::reading::Readers;
use super::snapshots::{Changes, Shown, Snapshots};
use super::walking::Walking;
use crate::clock::Time;
use crate::event::{Event, Observer};
use crate::fault::{Error, Fault, Result as Outcome};
use crate::format::tree::{Entry, Node as Kind, Stat};
use crate::id::{ChunkId, RepositoryId};
use crate::storage::Counts;
use crate::tree::Chunks;
use parking_lot::{Mutex, RwLock};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Snapshots do not change: the kernel may keep what it was told (three years; it counts in jiffies).
pub(super) const FOREVER: Duration = Duration::from_secs(100_000_000);
/// What changes as snapshots come and go.
pub(super) const BRIEFLY: Duration = Duration::from_secs(1);
/// Longest name in a listing that the kernel takes (FUSE_NAME_LOW_MAX); one longer makes it refuse the
/// folder.
pub(super) const NAME_MAX: usize = 1024;
/// Different warnings that are remembered so as not to be repeated.
const TOLD_MAX: usize = 4096;
/// What does not change while mounted.
pub(super) struct Setting {
    /// How folders of snapshots are called.
    pub names: Names,
    /// Key for inode numbers.
    pub inode_key: [u8; 32],
    /// The repository, for `user.pastfs.repository`.
    pub repository: RepositoryId,
    /// Who mounted: owner of what is in no snapshot.
    pub owner: (u32, u32),
    /// Where others may look in: this host. Snapshots of any other are shown to the owner alone, as the same
    /// numeric ids mean other people there; unless owners are mapped.
    pub only_host: Option<Vec<u8>>,
    /// As whose things are shown.
    pub owners: Owners,
    /// No file of a snapshot has the number of one of another.
    pub unique_inodes: bool,
    /// What the store is asked for, for `user.pastfs.statistics`.
    pub store: Arc<Counts>,
    /// The same for the bytes of memory that the caches below this room take, by their names.
    pub caches: Box<dyn Fn() -> Vec<(&'static str, usize)> + Send + Sync>,
}

/// The snapshots that there are, and what was found out about them together. Another value when they change.
pub(super) struct Sight {
    pub snapshots: Snapshots,
    pub past: Past,
}

/// Answers what the kernel asks.
pub(super) struct View {
    /// Where verified bytes come from.
    shelf: Arc<dyn Chunks + Send + Sync>,
    pub(super) setting: Setting,
    observer: Arc<dyn Observer>,
    pub(super) numbering: Numbering,
    pub(super) nodes: Nodes,
    pub(super) folders: Folders,
    pub(super) readers: Readers,
    pub(super) pushing: Pushing,
    pub(super) walking: Walking,
    pub(super) counters: Counters,
    sight: RwLock<Arc<Sight>>,
    told: Mutex<HashSet<String>>,
    lost: AtomicBool,
}

/// Answer to a lookup.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Looked {
    /// It is there; the kernel now holds one reference more.
    There(Attributes, Duration),
    /// It is not there, and never will be.
    Never,
}

/// One line of a listing.
pub(super) struct Line<'a> {
    pub name: &'a [u8],
    /// Where the next line begins.
    pub next: u64,
    pub attributes: Attributes,
    pub ttl: Duration,
}

/// Sizes for statfs(2).
pub(super) struct Sizes {
    pub bytes: u64,
    pub entries: u64,
}

impl View {
    pub fn new(shelf: Arc<dyn Chunks + Send + Sync>, setting: Setting, observer: Arc<dyn Observer>) -> Self {
        let numbering = Numbering::new(setting.inode_key, setting.unique_inodes);
        let snapshots = Snapshots::default();
        let past = Past::new(&snapshots, |_| false);
        Self {
            shelf,
            setting,
            observer,
            numbering,
            nodes: Nodes::new(),
            folders: Folders::new(),
            readers: Readers::new(),
            pushing: Pushing::default(),
            walking: Walking::default(),
            counters: Counters::default(),
            sight: RwLock::new(Arc::new(Sight { snapshots, past })),
            told: Mutex::default(),
            lost: AtomicBool::default(),
        }
    }

    /// The bytes of memory that each cache takes.
    pub(super) fn caches(&self) -> Vec<(&'static str, usize)> {
        let mut caches = (self.setting.caches)();
        caches.extend([
            ("folders", self.folders.bytes()),
            ("extents", self.readers.bytes()),
            ("views", self.sight().past.bytes()),
        ]);
        caches
    }

    /// Chunks, as the tree room takes them.
    pub(super) fn chunks(&self) -> &dyn Chunks {
        &*self.shelf
    }

    /// What there is now.
    pub(super) fn sight(&self) -> Arc<Sight> {
        self.sight.read().clone()
    }

    /// Shows these snapshots, sorted by (time, id), from now on; what changed, if anything has.
    pub fn refresh(&self, shown: Vec<Shown>) -> Option<Changes> {
        let before = self.sight();
        let (snapshots, changes) = before.snapshots.next(shown, &self.setting.names)?;
        let is_foreign = |s: &Shown| self.is_foreign(s);
        let past = match changes.behind {
            true => before.past.go_on(&snapshots, is_foreign),
            false => Past::new(&snapshots, is_foreign),
        };
        *self.sight.write() = Arc::new(Sight { snapshots, past });
        Some(changes)
    }

    /// Tells the observer of a failure, once for each file, and answers its errno.
    pub(super) fn failed(&self, node: &Node, error: &Error) -> Errno {
        let path = node.path();
        let path = if path.is_empty() { b"/".as_slice() } else { &path };
        let of = match node.snapshot() {
            Some(s) => format!("snapshot {}", s.id.short()),
            None => "the mount".to_string(),
        };
        let what = format!("reading {} of {of}", String::from_utf8_lossy(path));
        // The kernel reads ahead: several chunks may fail at once, each with its own cause.
        self.warn_of(what.clone(), || format!("{what}: {}", error.chain()));
        if error.fault() != Fault::Damaged {
            self.lost.store(true, Ordering::Relaxed);
        }
        errno::of(error)
    }

    /// One line to the observer, unless it was told before.
    pub fn warn(&self, line: String) {
        self.warn_of(line.clone(), || line);
    }

    /// The line, unless something was told of `what` before.
    fn warn_of(&self, what: String, line: impl FnOnce() -> String) {
        let new = {
            let told = &mut *self.told.lock();
            if told.len() >= TOLD_MAX {
                told.clear();
            }
            told.insert(what)
        };
        if new {
            self.observer.event(Event::Warning(&line()));
        }
    }

    /// Whether reading failed, for another cause than damage, since the start or since it was over.
    pub fn lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// As [`View::warn`] of something that is over: what is told next is news again.
    pub fn over(&self, line: &str) {
        self.lost.store(false, Ordering::Relaxed);
        self.told.lock().clear();
        self.observer.event(Event::Warning(line));
    }

    pub(super) fn node(&self, ino: u64) -> Result<Arc<Node>, Errno> {
        self.nodes.get(ino).ok_or(Errno::ESTALE)
    }

    /// The page tree of a folder in a snapshot.
    fn tree(&self, node: &Node) -> Result<ChunkId, Errno> {
        let (snapshot, folder) = node.inside().ok_or(Errno::ENOTDIR)?;
        self.tree_of(node, snapshot, folder).map_err(|e| self.failed(node, &e))
    }

    pub(super) fn tree_of(&self, node: &Node, snapshot: &Shown, folder: &Folder) -> Outcome<ChunkId> {
        match node.parent {
            Some(_) => Ok(folder.tree),
            None => tree_of(&*self.folders.root(self.chunks(), &snapshot.root)?),
        }
    }

    /// The entry behind a node that is in a snapshot. That it was there once is a promise: it is found, or damage.
    pub(super) fn entry(&self, node: &Node) -> Result<Found, Errno> {
        let What::Saved(snapshot, _) = &node.what else { return Err(Errno::EINVAL) };
        let found = self.promised(node, snapshot).or_else(|e| self.elsewhere(node, snapshot, e));
        found.map_err(|e| self.failed(node, &e))
    }

    fn promised(&self, node: &Node, snapshot: &Shown) -> Outcome<Found> {
        let Some(parent) = &node.parent else {
            let entry = self.folders.root(self.chunks(), &snapshot.root)?;
            let mut entry = (*entry).clone();
            let restricted = self.restricted(snapshot);
            entry.stat = attributes::root_stat(&entry.stat, snapshot.time, restricted);
            if restricted.is_some() {
                // An ACL could give back what the mode no longer says.
                entry.xattrs.retain(|x| !x.name.starts_with(b"system.posix_acl"));
            }
            return Ok(Found::Alone(Box::new(entry)));
        };
        let (within, folder) = parent.inside().ok_or_else(|| Error::bug("a parent is no folder"))?;
        let tree = self.tree_of(parent, within, folder)?;
        self.folders
            .entry(self.chunks(), &tree, &node.name)?
            .ok_or_else(|| Error::damaged("an entry that was listed is gone"))
    }

    /// Whether a snapshot is another host's, where others may look in.
    pub(super) fn is_foreign(&self, snapshot: &Shown) -> bool {
        self.setting.only_host.as_ref().is_some_and(|only| *only != snapshot.host)
    }

    /// To whom alone a snapshot is shown, if not to all.
    fn restricted(&self, snapshot: &Shown) -> Option<(u32, u32)> {
        let hidden = self.is_foreign(snapshot) && !self.setting.owners.any();
        hidden.then_some(self.setting.owner)
    }

    /// Owner and group as which something in a snapshot is shown.
    pub(super) fn owner(&self, snapshot: &Shown, stat: &Stat) -> (u32, u32) {
        self.setting.owners.of(stat, self.setting.owner, self.is_foreign(snapshot))
    }

    /// # Errors
    /// ENOENT only in the mount's own folders, where names come and go; elsewhere it is [`Looked::Never`].
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Looked, Errno> {
        let folder = self.node(parent)?;
        if let What::Made(made) = &folder.what {
            return self.lookup_made(&folder, made, name);
        }
        let tree = self.tree(&folder)?;
        match self.folders.entry(self.chunks(), &tree, name) {
            Ok(Some(entry)) => {
                let node = self.acquire(&folder, &entry)?;
                Ok(Looked::There(self.saved(&node, &entry), FOREVER))
            }
            Ok(None) => Ok(Looked::Never),
            Err(e) => Err(self.failed(&folder, &e)),
        }
    }

    /// The kernel is told of the root of a snapshot.
    pub(super) fn acquire_root(&self, name: &[u8], shown: &Arc<Shown>) -> Arc<Node> {
        let print = self.numbering.single(shown, &self.numbering.root_path());
        self.nodes.acquire(print, |ino, generation| self.root_of(name, shown, ino, generation))
    }

    /// The root of a snapshot, as a node.
    pub(super) fn root_of(&self, name: &[u8], shown: &Arc<Shown>, ino: u64, generation: u64) -> Node {
        let folder = Folder { tree: shown.root, path: self.numbering.root_path() };
        let what = What::Saved(shown.clone(), Some(Box::new(folder)));
        Node { ino, generation, parent: None, name: name.into(), what }
    }

    pub(super) fn fingerprint(&self, shown: &Shown, folder: &Folder, entry: &Entry) -> Fingerprint {
        self.numbering.entry(shown, &folder.path, entry, self.owner(shown, &entry.stat))
    }

    /// The kernel is told of an entry of a folder in a snapshot.
    pub(super) fn acquire(&self, folder: &Arc<Node>, entry: &Entry) -> Result<Arc<Node>, Errno> {
        let (shown, within) = folder.inside().ok_or(Errno::ENOTDIR)?;
        let path = || self.numbering.path(&within.path, &entry.name);
        Ok(self.nodes.acquire(self.fingerprint(shown, within, entry), |ino, generation| {
            let inside = match &entry.node {
                Kind::Folder(tree) => Some(Box::new(Folder { tree: *tree, path: path() })),
                _ => None,
            };
            let what = What::Saved(shown.clone(), inside);
            Node { ino, generation, parent: Some(folder.clone()), name: entry.name.as_slice().into(), what }
        }))
    }

    /// The kernel gives back `n` references.
    pub fn forget(&self, ino: u64, n: u64) {
        if self.nodes.forget(ino, n) {
            self.readers.remove(ino);
        }
    }

    /// What stat shows, and for how long it holds.
    pub fn attributes(&self, ino: u64) -> Result<(Attributes, Duration), Errno> {
        let node = self.node(ino)?;
        Ok(match &node.what {
            What::Saved(..) => (self.saved(&node, &*self.entry(&node)?), FOREVER),
            What::Made(made) => (self.made_attributes(&self.sight(), &node, made)?, BRIEFLY),
            What::Link(link) => (self.link(&node, link), FOREVER),
        })
    }

    /// What stat shows of an entry of a snapshot.
    pub(super) fn saved(&self, node: &Node, entry: &Entry) -> Attributes {
        let mut shown = attributes::of(node, entry, self.chunks());
        let restricted =
            node.parent.is_none() && node.snapshot().is_some_and(|s| self.restricted(s).is_some());
        if let Some(snapshot) = node.snapshot()
            && !restricted
        {
            (shown.uid, shown.gid) = self.owner(snapshot, &entry.stat);
            shown.mode &= self.mode(entry) as u16;
        }
        shown
    }

    /// Attributes of what is in no snapshot: a folder or symlink without permissions and size.
    pub(super) fn plain(&self, node: &Node, kind: Type, time: Time) -> Attributes {
        Attributes {
            ino: node.ino,
            generation: node.generation,
            kind,
            mode: 0,
            nlink: if kind == Type::Folder { 2 } else { 1 },
            uid: self.setting.owner.0,
            gid: self.setting.owner.1,
            rdev: 0,
            size: 0,
            blocks: 0,
            mtime: time,
            ctime: time,
        }
    }

    /// Where a symlink points to.
    pub fn target(&self, ino: u64) -> Result<Vec<u8>, Errno> {
        let node = self.node(ino)?;
        if let What::Link(link) = &node.what {
            return Ok(link.target.clone());
        }
        match &self.entry(&node)?.node {
            Kind::Symlink(target) => Ok(target.clone()),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Lists a folder from line `offset` on, until `take` answers that it is full (and did not take the
    /// line). With `plus`, each line taken is one more reference of the kernel's, but for `.` and `..`.
    pub fn list(
        &self,
        ino: u64,
        offset: u64,
        plus: bool,
        take: &mut dyn FnMut(&Line<'_>) -> bool,
    ) -> Result<(), Errno> {
        let folder = self.node(ino)?;
        // What cannot be listed says so at once, not behind `.` and `..`.
        let listing = match &folder.what {
            What::Saved(..) => {
                let tree = self.tree(&folder)?;
                Some(self.folders.listing(self.chunks(), &tree).map_err(|e| self.failed(&folder, &e))?)
            }
            What::Made(_) => None,
            What::Link(_) => return Err(Errno::ENOTDIR),
        };
        let up = folder.parent.as_ref().map_or(ROOT, |p| p.ino);
        for (next, (name, at)) in (1..).zip([(b".".as_slice(), ino), (b"..", up)]) {
            let attributes = Attributes { ino: at, ..self.plain(&folder, Type::Folder, Time::default()) };
            let line = Line { name, next, attributes, ttl: Duration::ZERO };
            if offset < next && take(&line) {
                return Ok(());
            }
        }
        match (&folder.what, &listing) {
            (What::Made(made), _) => self.list_made(&folder, made, offset.max(2), plus, take),
            (_, Some(listing)) => {
                let from = usize::try_from(offset.saturating_sub(2)).unwrap_or(usize::MAX);
                self.list_folder(&folder, &listing.entries, from, plus, take)
            }
            _ => Ok(()),
        }
    }

    fn list_folder(
        &self,
        folder: &Arc<Node>,
        entries: &[Entry],
        from: usize,
        plus: bool,
        take: &mut dyn FnMut(&Line<'_>) -> bool,
    ) -> Result<(), Errno> {
        let (shown, within) = folder.inside().ok_or(Errno::ENOTDIR)?;
        for (i, entry) in entries.iter().enumerate().skip(from) {
            if entry.name.len() > NAME_MAX {
                self.too_long(&entry.name);
                continue;
            }
            let (name, next, ttl) = (entry.name.as_slice(), i as u64 + 3, FOREVER);
            if plus {
                let node = self.acquire(folder, entry)?;
                if take(&Line { name, next, attributes: self.saved(&node, entry), ttl }) {
                    self.forget(node.ino, 1);
                    break;
                }
            } else {
                let ino = self.nodes.number(self.fingerprint(shown, within, entry));
                let plain = self.plain(folder, attributes::type_of(entry), Time::default());
                if take(&Line { name, next, attributes: Attributes { ino, ..plain }, ttl }) {
                    break;
                }
            }
        }
        Ok(())
    }

    pub(super) fn too_long(&self, name: &[u8]) {
        let shown = String::from_utf8_lossy(name);
        self.warn(format!("a name of {} bytes cannot be shown: {shown}", name.len()));
    }

    /// What all snapshots together brought.
    pub fn sizes(&self) -> Sizes {
        let sight = self.sight();
        let sum = |f: fn(&Shown) -> u64| {
            sight.snapshots.list.iter().fold(0u64, |n, l| n.saturating_add(f(&l.shown)))
        };
        Sizes { bytes: sum(|s| s.bytes), entries: sum(|s| s.entries) }
    }
}
