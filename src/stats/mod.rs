//! `stats`: what a repository holds, whom it belongs to, and how it grew.

use crate::event::{Event, Observer, Outcome, Stop};
use crate::fault::Result;
use crate::format::pack::Space;
use crate::format::tree::{Content, Entry, Node};
use crate::id::ChunkId;
use crate::index::{Lies, Mark, Marks};
use crate::repository::{Need, Reader, Repository, Right, Snapshot};
use crate::tree;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

/// Marks below this are positions of snapshots that need a chunk, several of one that several need; from here
/// on they are those of entries of a folder.
const PARTS: Mark = 1 << 31;
/// Of a page that was met in two snapshots.
const SHARED: Mark = Mark::MAX;

/// Bytes of content and of trees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// Before compression, each chunk once.
    pub raw: u64,
    /// As they are stored: each chunk's part of its pack.
    pub stored: u64,
}

impl Bytes {
    fn add(&mut self, raw: u64, stored: u64) {
        self.raw += raw;
        self.stored += stored;
    }
}

/// A snapshot, and what it alone needs.
#[derive(Clone, Debug)]
pub struct Of {
    /// Which.
    pub snapshot: Arc<Snapshot>,
    /// What no other listed or forgotten snapshot needs: what forgetting it, and it alone, would free.
    pub alone: Bytes,
}

/// What a repository holds.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Listed snapshots, oldest first.
    pub snapshots: Vec<Of>,
    /// Forgotten snapshots that are still there.
    pub forgotten: u64,
    /// Bytes of all files of all listed snapshots, as the sources had them.
    pub source: u64,
    /// Chunks that they and forgotten ones need.
    pub chunks: u64,
    /// Bytes of those of contents, and of trees.
    pub needed: (Bytes, Bytes),
    /// All packs that are there, and their bytes.
    pub packs: (u64, u64),
    /// Bytes of segments, manifests and all other objects.
    pub others: u64,
    /// Bytes that were added by the snapshots of each month (`2026-11`, UTC), and how many these were.
    pub months: BTreeMap<String, (u64, u64)>,
}

/// One entry of a folder.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its name.
    pub name: Vec<u8>,
    /// It is a folder.
    pub is_folder: bool,
    /// Bytes of all files in it, as the source had them.
    pub source: u64,
    /// What it needs, trees included; what several entries need is counted with the first of them by name.
    pub needed: Bytes,
    /// What no other snapshot needs of it.
    pub alone: Bytes,
}

/// Counts a repository.
///
/// # Errors
/// What the store says; `Damaged` where trees cannot be read.
pub fn repository(repository: &Arc<Repository>, observer: &Arc<dyn Observer>, stop: &Stop) -> Result<Report> {
    let all = All::walk(repository, observer, stop)?;
    let mut report = Report { forgotten: all.forgotten, ..Report::default() };
    let mut alone = vec![Bytes::default(); all.snapshots.len()];
    let scale = all.scale(repository, stop)?;
    all.each(repository, stop, |marks, lies| {
        let stored = scale.stored(lies);
        report.chunks += 1;
        let space = if lies.is_tree { &mut report.needed.1 } else { &mut report.needed.0 };
        space.add(lies.len, stored);
        if let Some(one) = only_one(marks).and_then(|at| alone.get_mut(at as usize)) {
            one.add(lies.len, stored);
        }
    })?;
    for (snapshot, alone) in all.snapshots.iter().take(all.listed).zip(alone) {
        let m = &snapshot.manifest;
        report.source += m.totals.bytes;
        let month = report.months.entry(m.time.utc()[..7].to_owned()).or_default();
        month.0 += m.totals.stored_bytes;
        month.1 += 1;
        report.snapshots.push(Of { snapshot: snapshot.clone(), alone });
    }
    (report.packs, report.others) = repository.stored_bytes()?;
    Ok(report)
}

/// Counts what the entries of a folder of a snapshot need, the largest first; a file is its own only entry. `None` if there
/// is no such path.
///
/// # Errors
/// As [`repository`].
pub fn folder(
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
    path: &[u8],
    observer: &Arc<dyn Observer>,
    stop: &Stop,
) -> Result<Option<Vec<Part>>> {
    let all = All::walk(repository, observer, stop)?;
    let reader = repository.reader();
    let root = snapshot.manifest.root;
    let Some(entry) = tree::find(&*reader, &root, path)? else { return Ok(None) };
    let entries = match &entry.node {
        Node::Folder(id) => tree::entries(&*reader, id)?,
        _ => vec![entry],
    };
    let seen = repository.index()?.seen()?;
    let mut parts = Vec::new();
    for (entry, mark) in entries.iter().zip(PARTS..) {
        stop.check()?;
        parts.push(Part {
            name: entry.name.clone(),
            is_folder: matches!(entry.node, Node::Folder(_)),
            source: source(&reader, entry, stop)?,
            needed: Bytes::default(),
            alone: Bytes::default(),
        });
        reader.needs_of(entry, stop, &mut |need| match need {
            Need::Page(id) if !seen.raise(&id, PARTS)? => Ok(false),
            Need::Page(id) | Need::Content(id, _) => all.marks.add(&id, mark).map(|()| true),
        })?;
    }
    let scale = all.scale(repository, stop)?;
    all.each(repository, stop, |marks, lies| {
        let first = marks.iter().find_map(|mark| mark.checked_sub(PARTS));
        let Some(part) = first.and_then(|at| parts.get_mut(at as usize)) else { return };
        part.needed.add(lies.len, scale.stored(lies));
        if only_one(marks).is_some() {
            part.alone.add(lies.len, scale.stored(lies));
        }
    })?;
    parts.sort_by(|a, b| (b.needed.stored, b.source, &a.name).cmp(&(a.needed.stored, a.source, &b.name)));
    Ok(Some(parts))
}

/// The position of the snapshot that alone needs what has these marks.
fn only_one(marks: &[Mark]) -> Option<Mark> {
    let mut of_snapshots = marks.iter().copied().take_while(|mark| *mark < PARTS);
    match (of_snapshots.next(), of_snapshots.next()) {
        (one, None) => one,
        _ => None,
    }
}

/// Bytes of all files below an entry, each name counted.
fn source(reader: &Reader, entry: &Entry, stop: &Stop) -> Result<u64> {
    let (mut sum, mut waiting) = (0, Vec::new());
    let mut take = |e: &Entry, waiting: &mut Vec<ChunkId>| match &e.node {
        Node::File(content) => {
            sum += match content {
                Content::Inline(bytes) => bytes.len() as u64,
                Content::Extents(extents) => extents.iter().map(|x| x.len).sum(),
            }
        }
        Node::Folder(id) => waiting.push(*id),
        _ => {}
    };
    take(entry, &mut waiting);
    while let Some(id) = waiting.pop() {
        stop.check()?;
        for e in tree::entries(reader, &id)? {
            take(&e, &mut waiting);
        }
    }
    Ok(sum)
}

/// All snapshots, and which of them need what.
struct All {
    /// Listed ones, then forgotten ones.
    snapshots: Vec<Arc<Snapshot>>,
    listed: usize,
    forgotten: u64,
    marks: Marks,
}

/// A chunk that is needed.
struct Chunk {
    pack: usize,
    len: u64,
    is_tree: bool,
}

/// What a byte before compression takes in each pack: length and sum of all chunks, by position in the census.
struct Scale(Vec<(u64, u64)>);

impl Scale {
    fn stored(&self, chunk: &Chunk) -> u64 {
        match self.0.get(chunk.pack) {
            Some((size, raw)) if *raw > 0 => {
                (u128::from(chunk.len) * u128::from(*size) / u128::from(*raw)) as u64
            }
            _ => 0,
        }
    }
}

impl All {
    fn walk(repository: &Arc<Repository>, observer: &Arc<dyn Observer>, stop: &Stop) -> Result<Self> {
        repository.allow(Right::Read, "counting what snapshots need")?;
        let mut snapshots = repository.snapshots()?;
        let listed = snapshots.len();
        let forgotten = repository.forgotten()?;
        snapshots.extend(forgotten.iter().cloned());
        let (marks, seen) = (repository.index()?.marks()?, repository.index()?.seen()?);
        let reader = repository.reader();
        observer.event(Event::Planned { files: snapshots.len() as u64, bytes: 0 });
        for (at, s) in snapshots.iter().enumerate() {
            let name = format!("snapshots/{}", s.id);
            let path = Path::new(&name);
            observer.event(Event::Started(path));
            let own = at as Mark;
            // Each page is gone through twice at most: what is below a shared one is shared.
            let mut listener = |need| match need {
                Need::Content(id, _) => marks.add(&id, own).map(|()| false),
                Need::Page(id) => {
                    let mark = match seen.get(&id)? {
                        None => own,
                        Some(mark) if mark == own || mark == SHARED => return Ok(false),
                        Some(_) => SHARED,
                    };
                    seen.set(&id, mark)?;
                    marks.add(&id, own).map(|()| true)
                }
            };
            reader.needs(s, stop, &mut listener)?;
            observer.event(Event::Finished { path, outcome: Outcome::Verified, file: true });
        }
        Ok(Self { forgotten: forgotten.len() as u64, snapshots, listed, marks })
    }

    fn scale(&self, repository: &Repository, stop: &Stop) -> Result<Scale> {
        let census = repository.index()?.census(&self.marks)?;
        let mut packs: Vec<(u64, u64)> = census.packs.iter().map(|p| (p.size, 0)).collect();
        census.each(|_, _, places| {
            stop.check()?;
            for lies in places {
                packs[lies.pack].1 += u64::from(lies.len);
            }
            Ok(())
        })?;
        Ok(Scale(packs))
    }

    /// Every chunk that is needed, once, with its marks.
    fn each(
        &self,
        repository: &Repository,
        stop: &Stop,
        mut each: impl FnMut(&[Mark], &Chunk),
    ) -> Result<()> {
        let index = repository.index()?;
        let mut trees = HashSet::new();
        for id in index.packs()? {
            if index.pack(&id)?.is_some_and(|p| p.space == Space::Trees) {
                trees.insert(id);
            }
        }
        let census = index.census(&self.marks)?;
        let best = |l: &&Lies| (l.trusted, census.packs[l.pack].size, census.packs[l.pack].id);
        census.each(|_, marks, places| {
            stop.check()?;
            if let Some(lies) = places.iter().max_by_key(best).filter(|_| !marks.is_empty()) {
                let is_tree = trees.contains(&census.packs[lies.pack].id);
                each(marks, &Chunk { pack: lies.pack, len: lies.len.into(), is_tree });
            }
            Ok(())
        })
    }
}
