//! The mount as plain functions: numbers and names in, attributes and bytes out. No kernel needed.

use super::attributes::{self, Attributes, Type};
use super::counters::Counters;
use super::errno::{self, Errno};
use super::folders::{Folders, Found, tree_of};
use super::inodes::{Fingerprint, Folder, Node, Nodes, Numbering, ROOT};
use super::names::{LATEST, Names};
use super::reading::Readers;
use super::snapshots::{Changes, Shown, Snapshots};
use crate::clock::Time;
use crate::event::{Event, Observer};
use crate::fault::{Error, Result as Outcome};
use crate::format::tree::{Content, Entry, Node as Kind, Xattr};
use crate::id::{ChunkId, RepositoryId};
use crate::tree::{Chunks, FileReader};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// Snapshots do not change: the kernel may keep what it was told (three years; it counts in jiffies).
pub(super) const FOREVER: Duration = Duration::from_secs(100_000_000);
/// What changes as snapshots come and go.
pub(super) const BRIEFLY: Duration = Duration::from_secs(1);
/// Longest value, and longest list of names, that Linux passes on (XATTR_SIZE_MAX, XATTR_LIST_MAX).
const XATTR_MAX: u64 = 64 << 10;
/// Longest name in a listing that the kernel takes (FUSE_NAME_LOW_MAX); one longer makes it refuse the
/// folder.
const NAME_MAX: usize = 1024;
/// Different warnings that are remembered so as not to be repeated.
const TOLD_MAX: usize = 4096;
/// Earlier targets of `latest` that are remembered.
const LATEST_MAX: usize = 1024;
/// Attributes that are answered when asked by name, and never listed, or `rsync -X` would see a difference.
const OF_SNAPSHOT: &[u8] = b"user.pastfs.snapshot";
const OF_REPOSITORY: &[u8] = b"user.pastfs.repository";
const STATISTICS: &[u8] = b"user.pastfs.statistics";

/// What does not change while mounted.
pub(super) struct Setting {
    /// How folders of snapshots are called.
    pub names: Names,
    /// Key for inode numbers.
    pub inode_key: [u8; 32],
    /// The repository, for `user.pastfs.repository`.
    pub repository: RepositoryId,
    /// Who mounted: owner of the root and of `latest`.
    pub owner: (u32, u32),
    /// Where others may look in: snapshots of any other host than this are shown to the owner alone, as the
    /// same numeric ids mean other people there.
    pub only_host: Option<Vec<u8>>,
}

/// Answers what the kernel asks.
pub(super) struct View {
    /// Where verified bytes come from.
    shelf: Arc<dyn Chunks + Send + Sync>,
    setting: Setting,
    observer: Arc<dyn Observer>,
    numbering: Numbering,
    pub(super) nodes: Nodes,
    pub(super) folders: Folders,
    pub(super) readers: Readers,
    pub(super) counters: Counters,
    snapshots: RwLock<Arc<Snapshots>>,
    links: Mutex<BTreeMap<u64, (Vec<u8>, Time)>>,
    told: Mutex<HashSet<String>>,
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
        let numbering = Numbering::new(setting.inode_key);
        Self {
            shelf,
            setting,
            observer,
            numbering,
            nodes: Nodes::new(),
            folders: Folders::new(),
            readers: Readers::new(),
            counters: Counters::default(),
            snapshots: RwLock::default(),
            links: Mutex::default(),
            told: Mutex::default(),
        }
    }

    /// Chunks, as the tree room takes them.
    pub(super) fn chunks(&self) -> &dyn Chunks {
        &*self.shelf
    }

    /// Shows these snapshots, sorted by (time, id), from now on.
    pub fn refresh(&self, shown: Vec<Shown>) -> Changes {
        let before = self.snapshots.read().clone();
        let (next, changes) = before.next(shown, &self.setting.names);
        if let Some(target) = next.target() {
            let links = &mut *self.links.lock();
            links.insert(next.latest, (target.to_vec(), next.time()));
            if links.len() > LATEST_MAX {
                links.pop_first();
            }
        }
        *self.snapshots.write() = Arc::new(next);
        changes
    }

    /// Tells the observer of a failure, once for each file, and answers its errno.
    pub(super) fn failed(&self, node: &Node, error: &Error) -> Errno {
        let path = node.path();
        let path = if path.is_empty() { b"/".as_slice() } else { &path };
        let s = &node.snapshot;
        let what = format!("reading {} of snapshot {}", String::from_utf8_lossy(path), s.id.short());
        // The kernel reads ahead: several chunks may fail at once, each with its own cause.
        self.warn_of(what.clone(), || format!("{what}: {}", error.chain()));
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

    /// As [`View::warn`] of something that is over: what is told next is news again.
    pub fn over(&self, line: &str) {
        self.told.lock().clear();
        self.observer.event(Event::Warning(line));
    }

    pub(super) fn node(&self, ino: u64) -> Result<Arc<Node>, Errno> {
        self.nodes.get(ino).ok_or(Errno::ESTALE)
    }

    /// The page tree of a folder node.
    pub(super) fn tree(&self, node: &Node) -> Result<ChunkId, Errno> {
        let Some(folder) = &node.folder else { return Err(Errno::ENOTDIR) };
        if node.parent.is_some() {
            return Ok(folder.tree);
        }
        let root = self.folders.root(self.chunks(), &node.snapshot.root);
        root.and_then(|e| tree_of(&e)).map_err(|e| self.failed(node, &e))
    }

    /// The entry behind a node. That it was there once is a promise: it is found, or damage.
    pub(super) fn entry(&self, node: &Node) -> Result<Found, Errno> {
        let found = self.promised(node).map_err(|e| self.failed(node, &e))?;
        Ok(found)
    }

    fn promised(&self, node: &Node) -> Outcome<Found> {
        let Some(parent) = &node.parent else {
            let entry = self.folders.root(self.chunks(), &node.snapshot.root)?;
            let mut entry = (*entry).clone();
            entry.stat =
                attributes::root_stat(&entry.stat, node.snapshot.time, self.restricted(&node.snapshot));
            if self.restricted(&node.snapshot).is_some() {
                // An ACL could give back what the mode no longer says.
                entry.xattrs.retain(|x| !x.name.starts_with(b"system.posix_acl"));
            }
            return Ok(Found::Alone(Box::new(entry)));
        };
        let tree = match &parent.parent {
            Some(_) => {
                parent.folder.as_ref().map(|f| f.tree).ok_or_else(|| Error::bug("a parent is no folder"))?
            }
            None => tree_of(&*self.folders.root(self.chunks(), &parent.snapshot.root)?)?,
        };
        self.folders
            .entry(self.chunks(), &tree, &node.name)?
            .ok_or_else(|| Error::damaged("an entry that was listed is gone"))
    }

    /// To whom alone a snapshot is shown, if not to all.
    fn restricted(&self, snapshot: &Shown) -> Option<(u32, u32)> {
        let only = self.setting.only_host.as_ref()?;
        (*only != snapshot.host).then_some(self.setting.owner)
    }

    /// # Errors
    /// ENOENT only in the root, where names come; elsewhere it is [`Looked::Never`].
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Looked, Errno> {
        if parent == ROOT {
            return self.lookup_root(name);
        }
        let folder = self.node(parent)?;
        let tree = self.tree(&folder)?;
        match self.folders.entry(self.chunks(), &tree, name) {
            Ok(Some(entry)) => {
                let node = self.acquire(&folder, &entry);
                Ok(Looked::There(attributes::of(&node, &entry, self.chunks()), FOREVER))
            }
            Ok(None) => Ok(Looked::Never),
            Err(e) => Err(self.failed(&folder, &e)),
        }
    }

    fn lookup_root(&self, name: &[u8]) -> Result<Looked, Errno> {
        let snapshots = self.snapshots.read().clone();
        if name == LATEST && snapshots.target().is_some() {
            return Ok(Looked::There(self.link(snapshots.latest)?, BRIEFLY));
        }
        let shown = snapshots.get(name).ok_or(Errno::ENOENT)?;
        let node = self.acquire_root(name, shown);
        match self.entry(&node) {
            Ok(entry) => Ok(Looked::There(attributes::of(&node, &entry, self.chunks()), FOREVER)),
            Err(e) => {
                self.forget(node.ino, 1);
                Err(e)
            }
        }
    }

    /// The kernel is told of the root of a snapshot.
    fn acquire_root(&self, name: &[u8], shown: &Arc<Shown>) -> Arc<Node> {
        let path = self.numbering.root_path();
        self.nodes.acquire(self.numbering.single(shown, &path), |ino, generation| Node {
            ino,
            generation,
            snapshot: shown.clone(),
            parent: None,
            name: name.into(),
            folder: Some(Box::new(Folder { tree: shown.root, path })),
        })
    }

    fn fingerprint(&self, folder: &Node, entry: &Entry) -> Fingerprint {
        let digest = folder.folder.as_ref().map_or_else(|| self.numbering.root_path(), |f| f.path);
        self.numbering.entry(&folder.snapshot, &digest, entry)
    }

    /// The kernel is told of an entry.
    fn acquire(&self, folder: &Arc<Node>, entry: &Entry) -> Arc<Node> {
        self.nodes.acquire(self.fingerprint(folder, entry), |ino, generation| Node {
            ino,
            generation,
            snapshot: folder.snapshot.clone(),
            parent: Some(folder.clone()),
            name: entry.name.as_slice().into(),
            folder: match (&entry.node, &folder.folder) {
                (Kind::Folder(tree), Some(f)) => {
                    Some(Box::new(Folder { tree: *tree, path: self.numbering.path(&f.path, &entry.name) }))
                }
                _ => None,
            },
        })
    }

    /// The kernel gives back `n` references.
    pub fn forget(&self, ino: u64, n: u64) {
        if self.nodes.forget(ino, n) {
            self.readers.remove(ino);
        }
    }

    /// What stat shows, and for how long it holds.
    pub fn attributes(&self, ino: u64) -> Result<(Attributes, Duration), Errno> {
        if ino == ROOT {
            return Ok((self.root(), BRIEFLY));
        }
        if self.links.lock().contains_key(&ino) {
            return Ok((self.link(ino)?, FOREVER));
        }
        let node = self.node(ino)?;
        let entry = self.entry(&node)?;
        Ok((attributes::of(&node, &entry, self.chunks()), FOREVER))
    }

    /// The root of the mount.
    fn root(&self) -> Attributes {
        let time = self.snapshots.read().time();
        self.made(ROOT, Type::Folder, 0o555, 0, time)
    }

    /// The symlink `latest`, as it is or was.
    fn link(&self, ino: u64) -> Result<Attributes, Errno> {
        let links = self.links.lock();
        let (target, time) = links.get(&ino).ok_or(Errno::ESTALE)?;
        Ok(self.made(ino, Type::Symlink, 0o777, target.len() as u64, *time))
    }

    /// Attributes of what is in no snapshot.
    fn made(&self, ino: u64, kind: Type, mode: u16, size: u64, time: Time) -> Attributes {
        Attributes {
            ino,
            generation: 0,
            kind,
            mode,
            nlink: if kind == Type::Folder { 2 } else { 1 },
            uid: self.setting.owner.0,
            gid: self.setting.owner.1,
            rdev: 0,
            size,
            blocks: 0,
            mtime: time,
            ctime: time,
        }
    }

    /// Where a symlink points to.
    pub fn target(&self, ino: u64) -> Result<Vec<u8>, Errno> {
        if let Some((target, _)) = self.links.lock().get(&ino) {
            return Ok(target.clone());
        }
        match &self.entry(&*self.node(ino)?)?.node {
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
        let (folder, up) = match ino {
            ROOT => (None, ROOT),
            _ => {
                let node = self.node(ino)?;
                let up = node.parent.as_ref().map_or(ROOT, |p| p.ino);
                (Some(node), up)
            }
        };
        // What cannot be listed says so at once, not behind `.` and `..`.
        let listing = match &folder {
            Some(node) => {
                let tree = self.tree(node)?;
                Some(self.folders.listing(self.chunks(), &tree).map_err(|e| self.failed(node, &e))?)
            }
            None => None,
        };
        for (next, (name, at)) in [(b".".as_slice(), ino), (b"..", up)].into_iter().enumerate() {
            let attributes = self.made(at, Type::Folder, 0o555, 0, Time::default());
            let line = Line { name, next: next as u64 + 1, attributes, ttl: Duration::ZERO };
            if offset <= next as u64 && take(&line) {
                return Ok(());
            }
        }
        let from = usize::try_from(offset.saturating_sub(2)).unwrap_or(usize::MAX);
        match (&folder, &listing) {
            (Some(folder), Some(listing)) => self.list_folder(folder, &listing.entries, from, plus, take),
            _ => self.list_root(from, plus, take),
        }
        Ok(())
    }

    fn list_folder(
        &self,
        folder: &Arc<Node>,
        entries: &[Entry],
        from: usize,
        plus: bool,
        take: &mut dyn FnMut(&Line<'_>) -> bool,
    ) {
        for (i, entry) in entries.iter().enumerate().skip(from) {
            if entry.name.len() > NAME_MAX {
                let name = String::from_utf8_lossy(&entry.name);
                self.warn(format!("a name of {} bytes cannot be shown: {name}", entry.name.len()));
                continue;
            }
            let mut line = Line {
                name: &entry.name,
                next: i as u64 + 3,
                attributes: self.made(0, attributes::type_of(entry), 0, 0, Time::default()),
                ttl: FOREVER,
            };
            if plus {
                let node = self.acquire(folder, entry);
                line.attributes = attributes::of(&node, entry, self.chunks());
                if take(&line) {
                    self.forget(node.ino, 1);
                    return;
                }
            } else {
                line.attributes.ino = self.nodes.number(self.fingerprint(folder, entry));
                if take(&line) {
                    return;
                }
            }
        }
    }

    /// Snapshots whose root page was not read yet are shown with attributes that hold for no time at
    /// all: the list costs no read for each, and a damaged one does not spoil it.
    fn list_root(&self, from: usize, plus: bool, take: &mut dyn FnMut(&Line<'_>) -> bool) {
        let snapshots = self.snapshots.read().clone();
        for (i, (name, shown)) in snapshots.list.iter().enumerate().skip(from) {
            let mut line = Line {
                name,
                next: i as u64 + 3,
                attributes: self.made(0, Type::Folder, 0, 0, shown.time),
                ttl: Duration::ZERO,
            };
            if !plus {
                let f = self.numbering.single(shown, &self.numbering.root_path());
                line.attributes.ino = self.nodes.number(f);
                if take(&line) {
                    return;
                }
                continue;
            }
            let node = self.acquire_root(name, shown);
            line.attributes.ino = node.ino;
            line.attributes.generation = node.generation;
            if self.folders.cached_root(&shown.root).is_some()
                && let Ok(entry) = self.entry(&node)
            {
                line.attributes = attributes::of(&node, &entry, self.chunks());
                line.ttl = FOREVER;
            }
            if take(&line) {
                self.forget(node.ino, 1);
                return;
            }
        }
        if from <= snapshots.list.len()
            && snapshots.target().is_some()
            && let Ok(attributes) = self.link(snapshots.latest)
        {
            let next = snapshots.list.len() as u64 + 3;
            take(&Line { name: LATEST, next, attributes, ttl: BRIEFLY });
        }
    }

    /// The value of an xattr.
    pub fn xattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>, Errno> {
        if ino == ROOT {
            return match name {
                OF_REPOSITORY => Ok(self.setting.repository.hex().into_bytes()),
                STATISTICS => Ok(self.counters.json(self.nodes.len()).into_bytes()),
                _ => Err(Errno::ENODATA),
            };
        }
        if self.links.lock().contains_key(&ino) {
            return Err(Errno::ENODATA);
        }
        let node = self.node(ino)?;
        let entry = self.entry(&node)?;
        match entry.xattrs.binary_search_by(|x| x.name.as_slice().cmp(name)) {
            Ok(i) => self.value(&node, &entry.xattrs[i]),
            Err(_) if name == OF_SNAPSHOT && node.folder.is_some() => Ok(node.snapshot.id.hex().into_bytes()),
            Err(_) => Err(Errno::ENODATA),
        }
    }

    fn value(&self, node: &Node, xattr: &Xattr) -> Result<Vec<u8>, Errno> {
        let length = xattr.value.len().map_err(|e| self.failed(node, &e))?;
        if length > XATTR_MAX {
            return Err(Errno::E2BIG);
        }
        if let Content::Inline(bytes) = &xattr.value {
            return Ok(bytes.clone());
        }
        let mut value = Vec::new();
        FileReader::new(xattr.value.clone())
            .read_at(self.chunks(), 0, length as usize, &mut value)
            .map_err(|e| self.failed(node, &e))?;
        Ok(value)
    }

    /// The names of all xattrs, sorted, each with a zero behind it. Those in `trusted.` are root's: the kernel
    /// answers others who ask for one that there is none, so they are not listed for them either (xattr(7)).
    pub fn xattrs(&self, ino: u64, for_root: bool) -> Result<Vec<u8>, Errno> {
        if ino == ROOT || self.links.lock().contains_key(&ino) {
            return Ok(Vec::new());
        }
        let entry = self.entry(&*self.node(ino)?)?;
        let mut names = Vec::new();
        for x in entry.xattrs.iter().filter(|x| for_root || !x.name.starts_with(b"trusted.")) {
            names.extend_from_slice(&x.name);
            names.push(0);
        }
        if names.len() as u64 > XATTR_MAX { Err(Errno::E2BIG) } else { Ok(names) }
    }

    /// What all snapshots together brought.
    pub fn sizes(&self) -> Sizes {
        let snapshots = self.snapshots.read().clone();
        let sum = |f: fn(&Shown) -> u64| snapshots.list.iter().fold(0u64, |n, (_, s)| n.saturating_add(f(s)));
        Sizes { bytes: sum(|s| s.bytes), entries: sum(|s| s.entries) }
    }
}
