//! `versions/`: the paths of all snapshots together. A folder there lists everything that ever lived in it; a file
//! is a folder with an entry for each of its versions, which is the very file of the first snapshot that holds it.
//!
//! Nodes hold a name and a digest of the path alone. What is there comes from [`history`] by way of
//! [`past`](super::past), which keeps it.

use super::attributes::{self, Attributes, Type};
use super::errno::Errno;
use super::inodes::{Folder, Made, Node, ROOT, What};
use super::names::extension;
use super::numbering::PathDigest;
use super::owners;
use super::past::{Known, Memory, Union};
use super::snapshots::Shown;
use super::view::{Sight, View};
use crate::clock::Time;
use crate::history::{self, Lost, Name, Runs};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

impl View {
    /// What is known of the path of a folder in `versions/`.
    ///
    /// # Errors
    /// ENOENT where no snapshot has it any more.
    pub(super) fn known(&self, sight: &Sight, node: &Node) -> Result<Arc<Known>, Errno> {
        // From where all is known already, or the top, down again. A loop: a path may be deep.
        let mut open = Vec::new();
        let mut at = node;
        let mut known = loop {
            let What::Made(Made::Versions(digest)) = &at.what else { return Err(Errno::ENOTDIR) };
            if let Memory::All(known) = sight.past.name(digest) {
                break known;
            }
            match &at.parent {
                Some(folder) if !is_top(at) => {
                    open.push((at, folder));
                    at = folder;
                }
                _ => break self.known_top(sight, at, digest)?,
            }
        };
        while let Some((node, folder)) = open.pop() {
            known = self.find(sight, folder, &known, &node.name)?.ok_or(Errno::ENOENT)?;
        }
        Ok(known)
    }

    fn known_top(&self, sight: &Sight, node: &Node, digest: &PathDigest) -> Result<Arc<Known>, Errno> {
        let (from, before) = match sight.past.name(digest) {
            Memory::All(known) => return Ok(known),
            Memory::Until(from, known) => (from, Some(known)),
            Memory::Nothing => (0, None),
        };
        let pages = (0..).zip(&sight.snapshots.list).skip(from as usize);
        let pages: Vec<_> = pages.map(|(i, l)| (i, l.shown.root)).collect();
        let mut lost = Vec::new();
        let top = history::root(self.chunks(), &pages, &mut lost);
        self.tell_lost(sight, node, &lost);
        let top = top.map_err(|e| self.failed(node, &e))?;
        let known = Known::new(match before {
            Some(before) => before.name.clone().extended(top),
            None => top,
        });
        sight.past.put_name(digest, &known, lost.is_empty());
        Ok(known)
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
        let (from, before) = match sight.past.name(&digest) {
            Memory::All(known) => return Ok(Some(known)),
            Memory::Until(from, known) => (from, Some(known)),
            Memory::Nothing => (0, None),
        };
        if let Memory::All(union) = sight.past.union(path) {
            return Ok(union.get(name).cloned());
        }
        let mut lost = Vec::new();
        let strands = history::since(&known.name.folders, from);
        let found = history::child(self.chunks(), &strands, name, &mut lost);
        self.tell_lost(sight, folder, &lost);
        let found = found.map_err(|e| self.failed(folder, &e))?;
        let Some(found) = completed(before.as_ref(), found) else { return Ok(None) };
        sight.past.put_name(&digest, &found, lost.is_empty());
        Ok(Some(found))
    }

    /// All names of a folder in `versions/`.
    fn union(&self, sight: &Sight, folder: &Node, known: &Known) -> Result<Arc<Union>, Errno> {
        let What::Made(Made::Versions(digest)) = &folder.what else { return Err(Errno::ENOTDIR) };
        let (from, before) = match sight.past.union(digest) {
            Memory::All(union) => return Ok(union),
            Memory::Until(from, union) => (from, Some(union)),
            Memory::Nothing => (0, None),
        };
        let mut lost = Vec::new();
        let strands = history::since(&known.name.folders, from);
        let found = history::merged(self.chunks(), &strands, &mut lost);
        self.tell_lost(sight, folder, &lost);
        let found = found.map_err(|e| self.failed(folder, &e))?;
        let mut names: BTreeMap<Vec<u8>, Arc<Known>> = BTreeMap::new();
        for known in before.iter().flat_map(|union| &union.names) {
            names.insert(known.name.name.clone(), known.clone());
        }
        for found in found {
            if let Some(known) = completed(names.get(&found.name), Some(found)) {
                names.insert(known.name.name.clone(), known);
            }
        }
        let union = Union::new(names.into_values().collect());
        sight.past.put_union(digest, &union, lost.is_empty());
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
            let path = node.path();
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

    /// What lies in a folder of `versions/`, from a place on, until `each` answers that it is enough: the versions of a file,
    /// and what is below. The order is that of a hash of the names, so that a listing in several steps neither skips nor
    /// repeats a name, whatever came and went meanwhile.
    pub(super) fn version_children(
        &self,
        sight: &Sight,
        folder: &Node,
        from: u64,
        each: &mut EachBelow<'_>,
    ) -> Result<(), Errno> {
        let known = self.known(sight, folder)?;
        let place = |name: &[u8]| self.numbering.place(name);
        let mut versions = Vec::new();
        if !known.name.versions.is_empty() {
            let labels = self.labels(sight, folder, &known)?.iter().enumerate();
            versions.extend(labels.map(|(i, label)| (place(label), label, i)).filter(|v| v.0 >= from));
            versions.sort_unstable();
        }
        let mut versions = versions.into_iter().peekable();
        let union = match known.name.folders.is_empty() {
            true => Union::new(Vec::new()),
            false => self.union(sight, folder, &known)?,
        };
        let mut below = union.from(from, place).peekable();
        loop {
            let first = match (versions.peek(), below.peek()) {
                (None, None) => return Ok(()),
                (Some(version), Some(path)) => version.0 <= path.0,
                (version, _) => version.is_some(),
            };
            let enough = match (first.then(|| versions.next()).flatten(), first) {
                (Some((place, label, i)), _) => each(place, label, Below::Version(known.clone(), i))?,
                (None, _) => match below.next() {
                    Some((place, path)) => each(place, &path.name.name, Below::Path(path.clone()))?,
                    None => return Ok(()),
                },
            };
            if enough {
                return Ok(());
            }
        }
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
            taken.extend(union.names.iter().map(|k| k.name.name.clone()));
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
type EachBelow<'a> = dyn FnMut(u64, &[u8], Below) -> Result<bool, Errno> + 'a;

/// What is known of a name with what the snapshots behind hold; nothing if none ever had it.
fn completed(before: Option<&Arc<Known>>, found: Option<Name>) -> Option<Arc<Known>> {
    match (before, found) {
        (Some(before), Some(found)) => Some(Known::new(before.name.clone().extended(found))),
        (Some(before), None) => Some(before.clone()),
        (None, found) => found.map(Known::new),
    }
}

fn first<'a>(sight: &'a Sight, snapshots: &Runs) -> Result<&'a Arc<Shown>, Errno> {
    let listed = snapshots.first().and_then(|i| sight.snapshots.list.get(i as usize));
    listed.map(|l| &l.shown).ok_or(Errno::ESTALE)
}
