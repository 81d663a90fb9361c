//! Many small segments into few: each backup leaves some, and each start of a cold cache reads them all (P7).

use super::listing::segment_name;
use super::segments::Published;
use super::survey::id_of;
use super::{Repository, Sweep};
use crate::clock;
use crate::event::{Event, Stop};
use crate::fault::{Doing, Error, Result};
use crate::format::object::Kind;
use crate::format::pack::PackEntry;
use crate::format::segment::{Retirement, Segment, Signature, Vouched};
use crate::id::{PackId, SegmentId};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Segments below this are small, in bytes of the object.
const SMALL: u64 = 1 << 20;
/// So many of them are worth one that holds them all.
const SMALL_MANY: usize = 16;
/// A merged segment is finished once its bodies have so many bytes.
const MERGED_BYTES: usize = 8 << 20;
/// Old segments go so many seconds after those that replace them were written, by the store's clock: a list that is being
/// taken, or is a little old, has the ones or the others.
pub(super) const KEPT_SECONDS: i64 = 3600;
/// What is said of a pack goes so many seconds after the pack.
const SAID_SECONDS: i64 = 24 * 3600;

impl Sweep {
    /// Merges small segments where there are many, and deletes those that were replaced an hour ago or more: how many were
    /// merged and deleted.
    ///
    /// # Errors
    /// What the store says; a segment that cannot be read.
    pub fn merge_segments(&mut self, stop: &Stop) -> Result<(u64, u64)> {
        let repository = self.repository().clone();
        let listed = listed(&repository)?;
        let now = self.now()?;
        let mut replaced: HashSet<SegmentId> = HashSet::new();
        let mut old = Vec::new();
        for (merged, replaces) in repository.index()?.merged() {
            let Some((_, written)) = listed.get(&merged) else { continue };
            for id in replaces.into_iter().filter(|id| listed.contains_key(id)) {
                if now - written >= KEPT_SECONDS {
                    old.push((id, merged));
                }
                replaced.insert(id);
            }
        }
        let merged = self.merge(&repository, &listed, &replaced, now, stop)?;
        let mut proven = HashSet::new();
        let mut deleted = HashSet::new();
        for (id, by) in old {
            stop.check()?;
            // Read once more: what replaces it must be whole.
            if proven.insert(by) {
                repository.load_segment(&by).doing(|| format!("reading {}", segment_name(&by)))?;
            }
            if deleted.insert(id) {
                self.delete(&segment_name(&id))?;
            }
        }
        Ok((merged, deleted.len() as u64))
    }

    fn merge(
        &self,
        repository: &Repository,
        listed: &BTreeMap<SegmentId, (u64, i64)>,
        replaced: &HashSet<SegmentId>,
        now: i64,
        stop: &Stop,
    ) -> Result<u64> {
        let index = repository.index()?;
        let named: HashSet<PackId> = index.packs()?.into_iter().collect();
        let over = |r: &crate::index::Retired| r.deleted.is_some_and(|t| now - t >= SAID_SECONDS);
        let ended: HashSet<PackId> =
            index.retirements().iter().filter(|(_, r)| over(r)).map(|(_, r)| r.pack).collect();
        let left: Vec<(SegmentId, u64)> =
            listed.iter().filter(|(id, _)| !replaced.contains(id)).map(|(id, l)| (*id, l.0)).collect();
        let (small, large): (Vec<_>, Vec<_>) = left.into_iter().partition(|(_, size)| *size < SMALL);
        let dead = index.segments_with(&ended)?;
        // Large ones are worth it once half of what they say is over.
        let is_over = |id: &SegmentId| dead.get(id).is_some_and(|(over, all)| over * 2 >= *all);
        let mut chosen: Vec<SegmentId> = large.into_iter().map(|(id, _)| id).filter(is_over).collect();
        if small.len() >= SMALL_MANY {
            chosen.extend(small.into_iter().map(|(id, _)| id));
        }
        let (mut open, mut count) = (Merging::default(), 0);
        for id in chosen {
            stop.check()?;
            let name = segment_name(&id);
            let segment = repository.segment(&id).doing(|| format!("reading {name}"))?;
            // A newer program may know what must not be lost.
            if !segment.unknown.0.is_empty() {
                continue;
            }
            count += 1;
            open.add(id, segment, &ended, &named)?;
            if open.bytes >= MERGED_BYTES {
                self.put_merged(repository, std::mem::take(&mut open))?;
            }
        }
        if !open.replaces.is_empty() {
            self.put_merged(repository, open)?;
        }
        Ok(count)
    }

    fn put_merged(&self, repository: &Repository, merging: Merging) -> Result<()> {
        // It would replace itself alone.
        if merging.replaces.len() < 2 && !merging.is_less {
            return Ok(());
        }
        let merged = merging.replaces.len();
        // Who slept would bring back what is over.
        self.is_young()?;
        let Published { id, applied, .. } = repository.put_segment(merging.finish(self))?;
        repository.index()?.apply(vec![applied], &[], Vec::new())?;
        let text = format!("merged {merged} index segments into {}", id.short());
        repository.observer.event(Event::Detail(&text));
        Ok(())
    }
}

/// Segments with size and time.
pub(super) fn listed(repository: &Repository) -> Result<BTreeMap<SegmentId, (u64, i64)>> {
    let mut found = BTreeMap::new();
    for l in repository.store.list("index/")? {
        if let Some(id) = id_of(&l.name, SegmentId::from_hex, segment_name) {
            found.insert(id, (l.size, l.modified.seconds));
        }
    }
    Ok(found)
}

impl Repository {
    /// The body of a segment; what is in it was signed by those whom [`Repository::applied`] asks for.
    pub(super) fn segment(&self, id: &SegmentId) -> Result<Segment> {
        let (body, _) = self.object(Kind::Segment, &segment_name(id), &id.0)?;
        let segment = Segment::decode(&body)?;
        self.applied(*id, &segment)?;
        Ok(segment)
    }
}

/// A segment in the making: every body once, with all who vouch for it.
#[derive(Default)]
struct Merging {
    certificates: Vec<Vec<u8>>,
    /// Position by certificate.
    known: HashMap<Vec<u8>, usize>,
    entries: BTreeMap<Vec<u8>, Vec<Signature>>,
    retirements: BTreeMap<Vec<u8>, Vec<Signature>>,
    replaces: Vec<SegmentId>,
    bytes: usize,
    /// Something was left out.
    is_less: bool,
}

impl Merging {
    /// Adds a segment, but for the entries of packs that are `ended`, and for retirements of such as nobody has `named` any
    /// more: an entry goes before the retirement that ends it, lest the pack seem to be there.
    fn add(
        &mut self,
        id: SegmentId,
        segment: Segment,
        ended: &HashSet<PackId>,
        named: &HashSet<PackId>,
    ) -> Result<()> {
        let mut authors = Vec::new();
        for c in segment.certificates {
            let next = self.certificates.len();
            let at = *self.known.entry(c.clone()).or_insert(next);
            if at == next {
                self.certificates.push(c);
            }
            authors.push(at);
        }
        for v in segment.entries {
            match ended.contains(&PackEntry::decode(&v.body)?.pack) {
                true => self.is_less = true,
                false => self.bytes += add(&mut self.entries, v, &authors)?,
            }
        }
        for v in segment.retirements {
            let pack = Retirement::decode(&v.body)?.pack;
            if !ended.contains(&pack) || named.contains(&pack) {
                self.bytes += add(&mut self.retirements, v, &authors)?;
            }
        }
        self.replaces.push(id);
        Ok(())
    }

    fn finish(self, sweep: &Sweep) -> Segment {
        let list = |bodies: BTreeMap<Vec<u8>, Vec<Signature>>| {
            bodies.into_iter().map(|(body, signatures)| Vouched { body, signatures }).collect()
        };
        Segment {
            created: clock::now().seconds,
            session: Some(sweep.id()),
            certificates: self.certificates,
            entries: list(self.entries),
            retirements: list(self.retirements),
            replaces: self.replaces,
            unknown: Default::default(),
        }
    }
}

/// How many bytes that took.
fn add(to: &mut BTreeMap<Vec<u8>, Vec<Signature>>, v: Vouched, authors: &[usize]) -> Result<usize> {
    let len = v.body.len();
    let (mut bytes, signatures) = match to.entry(v.body) {
        std::collections::btree_map::Entry::Vacant(e) => (len, e.insert(Vec::new())),
        std::collections::btree_map::Entry::Occupied(e) => (0, e.into_mut()),
    };
    for s in v.signatures {
        let author = authors.get(s.author).ok_or_else(|| Error::damaged("an author is missing"))?;
        if signatures.iter().all(|have| have.author != *author) {
            signatures.push(Signature { author: *author, signature: s.signature });
            bytes += 64;
        }
    }
    Ok(bytes)
}
