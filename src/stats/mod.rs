//! `stats`: what a repository holds, whom it belongs to, and how it grew.

use crate::event::{Event, Observer, Outcome, Stop};
use crate::fault::Result;
use crate::format::tree::{Content, Entry, Node};
use crate::id::{ChunkId, PackId};
use crate::index::{Lies, Mark, Marks};
use crate::repository::{Need, Reader, Repository, Right, Snapshot};
use crate::tree;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

/// Several snapshots need it. What only one needs is marked with that one's position and 1.
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
    all.each(repository, stop, |_, mark, lies| {
        let stored = scale.stored(lies);
        report.chunks += 1;
        let space = if lies.is_tree { &mut report.needed.1 } else { &mut report.needed.0 };
        space.add(lies.len, stored);
        if let Some(one) = (mark as usize).checked_sub(1).and_then(|at| alone.get_mut(at)) {
            one.add(lies.len, stored);
        }
        Ok(())
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
    let scale = all.scale(repository, stop)?;
    let reader = repository.reader();
    let root = snapshot.manifest.root;
    let Some(entry) = tree::find(&*reader, &root, path)? else { return Ok(None) };
    let entries = match &entry.node {
        Node::Folder(id) => tree::entries(&*reader, id)?,
        _ => vec![entry],
    };
    let seen = repository.index()?.marks()?;
    let mut parts = Vec::new();
    for entry in entries {
        stop.check()?;
        let mut part = Part {
            name: entry.name.clone(),
            is_folder: matches!(entry.node, Node::Folder(_)),
            source: source(&reader, &entry, stop)?,
            needed: Bytes::default(),
            alone: Bytes::default(),
        };
        reader.needs_of(&entry, stop, &mut |need| {
            let (Need::Page(id) | Need::Content(id, _)) = need;
            if !seen.raise(&id, 1)? {
                return Ok(false);
            }
            let (raw, stored) = scale.of(repository, &id)?;
            part.needed.add(raw, stored);
            if all.marks.get(&id)?.is_some_and(|mark| mark != SHARED) {
                part.alone.add(raw, stored);
            }
            Ok(true)
        })?;
        parts.push(part);
    }
    parts.sort_by(|a, b| (b.needed.stored, b.source, &a.name).cmp(&(a.needed.stored, a.source, &b.name)));
    Ok(Some(parts))
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

/// What a byte before compression takes in each pack.
struct Scale {
    /// Length and sum of all chunks, by position in the census.
    packs: Vec<(u64, u64)>,
    by_id: std::collections::HashMap<PackId, usize>,
}

impl Scale {
    fn share(&self, pack: usize, len: u64) -> u64 {
        match self.packs.get(pack) {
            Some((size, raw)) if *raw > 0 => (u128::from(len) * u128::from(*size) / u128::from(*raw)) as u64,
            _ => 0,
        }
    }
    fn stored(&self, chunk: &Chunk) -> u64 {
        self.share(chunk.pack, chunk.len)
    }
    /// Bytes of a chunk, before compression and as stored.
    fn of(&self, repository: &Repository, id: &ChunkId) -> Result<(u64, u64)> {
        let places = repository.index()?.places(id)?;
        let Some(place) = places.first() else { return Ok((0, 0)) };
        let len = u64::from(place.len);
        Ok((len, self.by_id.get(&place.pack.id).map_or(0, |at| self.share(*at, len))))
    }
}

impl All {
    fn walk(repository: &Arc<Repository>, observer: &Arc<dyn Observer>, stop: &Stop) -> Result<Self> {
        repository.allow(Right::Read, "counting what snapshots need")?;
        let mut snapshots = repository.snapshots()?;
        let listed = snapshots.len();
        let forgotten = repository.forgotten()?;
        snapshots.extend(forgotten.iter().cloned());
        let marks = repository.index()?.marks()?;
        let reader = repository.reader();
        observer.event(Event::Planned { files: snapshots.len() as u64, bytes: 0 });
        for (at, s) in snapshots.iter().enumerate() {
            let name = format!("snapshots/{}", s.id);
            let path = Path::new(&name);
            observer.event(Event::Started(path));
            let own = at as Mark + 1;
            // Each page is gone through twice at most: what is below a shared one is shared.
            let mut listener = |need| {
                let (Need::Page(id) | Need::Content(id, _)) = need;
                match marks.get(&id)? {
                    None => marks.set(&id, own).map(|()| true),
                    Some(mark) if mark == own || mark == SHARED => Ok(false),
                    Some(_) => marks.set(&id, SHARED).map(|()| true),
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
        let by_id = census.packs.iter().enumerate().map(|(at, p)| (p.id, at)).collect();
        census.each(|_, _, places| {
            stop.check()?;
            for lies in places {
                packs[lies.pack].1 += u64::from(lies.len);
            }
            Ok(())
        })?;
        Ok(Scale { packs, by_id })
    }

    /// Every chunk that is needed, once.
    fn each(
        &self,
        repository: &Repository,
        stop: &Stop,
        mut each: impl FnMut(&ChunkId, Mark, &Chunk) -> Result<()>,
    ) -> Result<()> {
        let index = repository.index()?;
        let mut trees = HashSet::new();
        for id in index.packs()? {
            if index.pack(&id)?.is_some_and(|p| p.space == crate::format::pack::Space::Trees) {
                trees.insert(id);
            }
        }
        let census = index.census(&self.marks)?;
        let best = |l: &&Lies| (l.trusted, census.packs[l.pack].size, census.packs[l.pack].id);
        census.each(|id, mark, places| {
            stop.check()?;
            let Some((mark, lies)) = mark.zip(places.iter().max_by_key(best)) else { return Ok(()) };
            let is_tree = trees.contains(&census.packs[lies.pack].id);
            each(id, mark, &Chunk { pack: lies.pack, len: lies.len.into(), is_tree })
        })
    }
}
