//! `versions/`: the paths of all snapshots together. A folder there lists everything that ever lived in it; a file
//! is a folder with an entry for each of its versions, which is the very file of the first snapshot that holds it.
//!
//! Nodes hold a name and a digest of the path alone. What is there comes from [`history`], and is kept for as long as
//! the snapshots stay the same and there is room.

use super::attributes::{self, Attributes, Type};
use super::errno::Errno;
use super::folders;
use super::inodes::{Folder, Made, Node, ROOT, What};
use super::lru::Lru;
use super::names::extension;
use super::numbering::PathDigest;
use super::owners;
use super::snapshots::{Shown, Snapshots};
use super::view::{Sight, View};
use crate::clock::Time;
use crate::history::{self, Lost, Name, Runs};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

/// Memory for the unions of folders, in bytes. One is kept even if it alone is over.
const UNIONS_BYTES: usize = 48 << 20;
/// Memory for single names, in bytes: those on the way to what is looked at.
const NAMES_BYTES: usize = 16 << 20;

/// A name in all snapshots.
pub(super) struct Known {
    pub name: Name,
    labels: OnceLock<Vec<Vec<u8>>>,
}

impl Known {
    fn new(name: Name) -> Arc<Self> {
        Arc::new(Self { name, labels: OnceLock::new() })
    }

    /// The snapshot since which all is as it is: before it there was another tree, or another version.
    fn changed(&self) -> Option<u32> {
        let versions = self.name.versions.iter().map(|v| &v.snapshots);
        let folders = self.name.folders.iter().map(|s| &s.snapshots);
        versions.chain(folders).filter_map(|runs| runs.ranges().last()).map(|(first, _)| *first).max()
    }

    /// About the bytes of memory that it takes.
    fn cost(&self) -> usize {
        let runs = |r: &Runs| size_of::<Runs>() + 16 * r.ranges().len();
        let entries = self.name.versions.iter().chain(&self.name.doors);
        let strands = self.name.folders.iter().map(|s| 32 + runs(&s.snapshots)).sum::<usize>();
        // A label of 40 bytes, some day, for each.
        let entries: usize = entries.map(|v| folders::cost(&v.entry) + runs(&v.snapshots) + 64).sum();
        size_of::<Self>() + 64 + self.name.name.len() + strands + entries
    }
}

/// All that ever was in a folder, sorted by name.
pub(super) type Union = Arc<Vec<Arc<Known>>>;

/// What was found out about the snapshots of one moment.
pub(super) struct Past {
    names: Mutex<Lru<PathDigest, Arc<Known>>>,
    unions: Mutex<Lru<PathDigest, Union>>,
    /// How many of the snapshots up to each, itself included, are another host's.
    foreign: Vec<u32>,
}

impl Past {
    /// Nothing is read yet. `foreign`: whether a snapshot is another host's, where others may look in.
    pub fn new(snapshots: &Snapshots, foreign: impl Fn(&Shown) -> bool) -> Self {
        let count = snapshots.list.iter().scan(0u32, |n, l| {
            *n += u32::from(foreign(&l.shown));
            Some(*n)
        });
        Self {
            names: Mutex::new(Lru::new(NAMES_BYTES)),
            unions: Mutex::new(Lru::new(UNIONS_BYTES)),
            foreign: count.collect(),
        }
    }

    /// Whether some of these snapshots are this host's, and whether some are another's.
    fn hosts(&self, snapshots: &Runs) -> (bool, bool) {
        let upto = |i: u32| self.foreign.get(i as usize).copied().unwrap_or_default();
        let (mut own, mut foreign) = (false, false);
        for (first, last) in snapshots.ranges() {
            let n = upto(*last) - first.checked_sub(1).map_or(0, upto);
            foreign |= n > 0;
            own |= n <= last - first;
        }
        (own, foreign)
    }
}

impl View {
    /// What is known of the path of a folder in `versions/`.
    ///
    /// # Errors
    /// ENOENT where no snapshot has it any more.
    pub(super) fn known(&self, sight: &Sight, node: &Node) -> Result<Arc<Known>, Errno> {
        // From where something is known already, or the top, down again. A loop: a path may be deep.
        let mut open = Vec::new();
        let mut at = node;
        let mut known = loop {
            let What::Made(Made::Versions(digest)) = &at.what else { break self.known_top(sight, at)? };
            if let Some(known) = sight.past.names.lock().get(digest) {
                break known;
            }
            open.push((at, digest));
            at = at.parent.as_deref().ok_or(Errno::ESTALE)?;
        };
        while let Some((node, digest)) = open.pop() {
            match &node.parent {
                Some(folder) if !is_top(node) => {
                    known = self.find(sight, folder, &known, &node.name)?.ok_or(Errno::ENOENT)?;
                }
                _ => sight.past.names.lock().put(**digest, known.clone(), known.cost()),
            }
        }
        Ok(known)
    }

    fn known_top(&self, sight: &Sight, node: &Node) -> Result<Arc<Known>, Errno> {
        let pages: Vec<_> = (0..).zip(&sight.snapshots.list).map(|(i, l)| (i, l.shown.root)).collect();
        let mut lost = Vec::new();
        let top = history::root(self.chunks(), &pages, &mut lost);
        self.tell_lost(sight, node, &lost);
        Ok(Known::new(top.map_err(|e| self.failed(node, &e))?))
    }

    /// One name in a folder of `versions/`.
    fn find(
        &self,
        sight: &Sight,
        folder: &Node,
        known: &Known,
        name: &[u8],
    ) -> Result<Option<Arc<Known>>, Errno> {
        let What::Made(Made::Versions(path)) = &folder.what else { return Err(Errno::ENOTDIR) };
        let digest = self.numbering.path(path, name);
        if let Some(known) = sight.past.names.lock().get(&digest) {
            return Ok(Some(known));
        }
        let union = sight.past.unions.lock().get(path);
        if let Some(union) = union {
            let place = union.binary_search_by(|k| k.name.name.as_slice().cmp(name));
            return Ok(place.ok().map(|i| union[i].clone()));
        }
        let mut lost = Vec::new();
        let found = history::child(self.chunks(), &known.name.folders, name, &mut lost);
        self.tell_lost(sight, folder, &lost);
        let Some(found) = found.map_err(|e| self.failed(folder, &e))? else { return Ok(None) };
        let found = Known::new(found);
        sight.past.names.lock().put(digest, found.clone(), found.cost());
        Ok(Some(found))
    }

    /// All names of a folder in `versions/`.
    fn union(&self, sight: &Sight, folder: &Node, known: &Known) -> Result<Union, Errno> {
        let What::Made(Made::Versions(digest)) = &folder.what else { return Err(Errno::ENOTDIR) };
        if let Some(union) = sight.past.unions.lock().get(digest) {
            return Ok(union);
        }
        let mut lost = Vec::new();
        let names = history::merged(self.chunks(), &known.name.folders, &mut lost);
        self.tell_lost(sight, folder, &lost);
        let names = names.map_err(|e| self.failed(folder, &e))?;
        let union: Union = Arc::new(names.into_iter().map(Known::new).collect());
        let cost = union.iter().map(|k| k.cost()).sum();
        sight.past.unions.lock().put(**digest, union.clone(), cost);
        Ok(union)
    }

    /// Damage in one snapshot hides none of the others.
    fn tell_lost(&self, sight: &Sight, node: &Node, lost: &[Lost]) {
        for l in lost {
            let first = l.snapshots.first().and_then(|i| sight.snapshots.list.get(i as usize));
            let of = first.map_or_else(String::new, |s| s.shown.id.short());
            let more = match l.snapshots.count() {
                0 | 1 => String::new(),
                n => format!(" and {} more", n - 1),
            };
            // The top is found out about from the root of the mount.
            let path = if node.ino == ROOT { b"/versions".to_vec() } else { node.path() };
            let path = String::from_utf8_lossy(&path);
            self.warn(format!("{path} leaves out what snapshot {of}{more} holds: {}", l.error.chain()));
        }
    }

    /// What lies in a folder of `versions/` under a name.
    pub(super) fn version_child(
        &self,
        sight: &Sight,
        folder: &Node,
        name: &[u8],
    ) -> Result<Option<Below>, Errno> {
        let known = self.known(sight, folder)?;
        if !known.name.versions.is_empty() {
            let labels = self.labels(sight, folder, &known)?;
            if let Some(i) = labels.iter().position(|l| l == name) {
                return Ok(Some(Below::Version(known.clone(), i)));
            }
        }
        if known.name.folders.is_empty() {
            return Ok(None);
        }
        Ok(self.find(sight, folder, &known, name)?.map(Below::Path))
    }

    /// What lies in a folder of `versions/`, from place `from` on: the versions of a file, by time, then what is below,
    /// by name; until `each` answers that it is enough.
    pub(super) fn version_children(
        &self,
        sight: &Sight,
        folder: &Node,
        from: usize,
        each: &mut EachBelow<'_>,
    ) -> Result<(), Errno> {
        let known = self.known(sight, folder)?;
        let count = known.name.versions.len();
        if from < count {
            for (i, label) in self.labels(sight, folder, &known)?.iter().enumerate().skip(from) {
                if each(i, label, Below::Version(known.clone(), i))? {
                    return Ok(());
                }
            }
        }
        if known.name.folders.is_empty() {
            return Ok(());
        }
        let union = self.union(sight, folder, &known)?;
        for (i, below) in union.iter().enumerate().skip(from.saturating_sub(count)) {
            if each(count + i, &below.name.name, Below::Path(below.clone()))? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The names of a file's versions: the time of the first snapshot that holds each, and the file's extension. Those that
    /// something else has get `-` and digits of the snapshot's id.
    fn labels<'a>(&self, sight: &Sight, folder: &Node, known: &'a Known) -> Result<&'a [Vec<u8>], Errno> {
        if let Some(labels) = known.labels.get() {
            return Ok(labels);
        }
        let mut taken: HashSet<Vec<u8>> = HashSet::new();
        if !known.name.folders.is_empty() {
            let union = self.union(sight, folder, known)?;
            taken.extend(union.iter().map(|k| k.name.name.clone()));
        }
        let extension = extension(&known.name.name);
        let mut labels = Vec::with_capacity(known.name.versions.len());
        for version in &known.name.versions {
            let s = first(sight, &version.snapshots)?;
            let plain = self.setting.names.moment(s.time);
            let with = |id: String| [plain.as_slice(), b"-", id.as_bytes(), extension].concat();
            let label = [[plain.as_slice(), extension].concat(), with(s.id.short())]
                .into_iter()
                .find(|l| !taken.contains(l))
                .unwrap_or_else(|| with(s.id.hex()));
            taken.insert(label.clone());
            labels.push(label);
        }
        Ok(known.labels.get_or_init(|| labels))
    }

    /// The file that a version is, as a node of the snapshot that held it first. The kernel is told of it.
    pub(super) fn acquire_version(
        &self,
        sight: &Sight,
        folder: &Node,
        known: &Known,
        at: usize,
    ) -> Result<Arc<Node>, Errno> {
        let version = known.name.versions.get(at).ok_or(Errno::ENOENT)?;
        let above = folder.parent.as_ref().ok_or(Errno::ESTALE)?;
        let real = self.real_folder(sight, above, version.snapshots.first().ok_or(Errno::ESTALE)?)?;
        self.acquire(&real, &version.entry)
    }

    /// The folder of one snapshot that a folder in `versions/` stands for, with those above it. The kernel is not told:
    /// it knows the file by another name.
    fn real_folder(&self, sight: &Sight, node: &Node, index: u32) -> Result<Arc<Node>, Errno> {
        let listed = sight.snapshots.list.get(index as usize).ok_or(Errno::ESTALE)?;
        let mut open = Vec::new();
        let mut at = node;
        while let Some(parent) = at.parent.as_deref()
            && !is_top(at)
        {
            open.push(at);
            at = parent;
        }
        let print = self.numbering.single(&listed.shown, &self.numbering.root_path());
        let root = self.root_of(&listed.name, &listed.shown, self.nodes.number(print), 0);
        let mut folder = Arc::new(root);
        while let Some(node) = open.pop() {
            let What::Made(Made::Versions(path)) = &node.what else { return Err(Errno::ESTALE) };
            let known = self.known(sight, node)?;
            // The newest that began by then: nearly always it.
            let begun = known.name.folders.partition_point(|s| s.snapshots.first() <= Some(index));
            let strands = known.name.folders[..begun].iter().rev();
            let strand = strands.clone().find(|s| s.snapshots.contains(index)).ok_or(Errno::ESTALE)?;
            let what = Folder { tree: strand.tree, path: **path };
            folder = Arc::new(Node {
                ino: self.nodes.number(self.numbering.single(&listed.shown, path)),
                generation: 0,
                parent: Some(folder),
                name: node.name.clone(),
                what: What::Saved(listed.shown.clone(), Some(Box::new(what))),
            });
        }
        Ok(folder)
    }

    /// The number that a version has, or would get, and its type.
    pub(super) fn version_number(
        &self,
        sight: &Sight,
        folder: &Node,
        known: &Known,
        at: usize,
    ) -> Result<(u64, Type), Errno> {
        let version = known.name.versions.get(at).ok_or(Errno::ENOENT)?;
        let Some(What::Made(Made::Versions(path))) = folder.parent.as_ref().map(|p| &p.what) else {
            return Err(Errno::ESTALE);
        };
        let shown = first(sight, &version.snapshots)?;
        let owner = self.owner(shown, &version.entry.stat);
        let print = self.numbering.entry(shown, path, &version.entry, owner);
        Ok((self.nodes.number(print), attributes::type_of(&version.entry)))
    }

    /// What stat shows of a folder in `versions/`: nobody gets in who could not in every snapshot that has it.
    pub(super) fn version_attributes(&self, sight: &Sight, node: &Node, known: &Known) -> Attributes {
        let changed = known.changed().and_then(|i| sight.snapshots.list.get(i as usize));
        let time = changed.map_or_else(Time::default, |l| l.shown.time);
        let (mode, (uid, gid)) = self.guard(sight, known);
        Attributes { mode, uid, gid, ..self.plain(node, Type::Folder, time) }
    }

    /// Mode and owner of a folder in `versions/`.
    fn guard(&self, sight: &Sight, known: &Known) -> (u16, (u32, u32)) {
        let me = self.setting.owner;
        let alone = (0o500, me);
        if self.setting.only_host.is_none() {
            return (0o555, me);
        }
        let mut guard = None;
        for door in &known.name.doors {
            let (own, foreign) = sight.past.hosts(&door.snapshots);
            let acl = door.entry.xattrs.iter().any(|x| x.name == owners::ACCESS);
            if foreign && !self.setting.owners.any() || acl && !self.setting.owners.hides(owners::ACCESS) {
                return alone;
            }
            let mode = (self.mode(&door.entry) & 0o555) as u16;
            for is_foreign in [own.then_some(false), foreign.then_some(true)].into_iter().flatten() {
                let owner = self.setting.owners.of(&door.entry.stat, me, is_foreign);
                guard = match guard {
                    None => Some((mode, owner)),
                    Some((m, o)) if o == owner => Some((m & mode, o)),
                    Some(_) => return alone,
                };
            }
        }
        // The folder of a file's versions is guarded by the one that it lies in.
        guard.unwrap_or((0o555, me))
    }
}

/// What lies in a folder of `versions/`.
#[derive(Clone)]
pub(super) enum Below {
    /// A folder for a path.
    Path(Arc<Known>),
    /// One of the versions of the folder's file.
    Version(Arc<Known>, usize),
}

/// Whether it is `versions` itself, which stands for `/`.
pub(super) fn is_top(node: &Node) -> bool {
    node.parent.as_ref().is_none_or(|p| p.ino == ROOT)
}

/// Takes a line with its place; whether that is enough.
type EachBelow<'a> = dyn FnMut(usize, &[u8], Below) -> Result<bool, Errno> + 'a;

fn first<'a>(sight: &'a Sight, snapshots: &Runs) -> Result<&'a Arc<Shown>, Errno> {
    let listed = snapshots.first().and_then(|i| sight.snapshots.list.get(i as usize));
    listed.map(|l| &l.shown).ok_or(Errno::ESTALE)
}
