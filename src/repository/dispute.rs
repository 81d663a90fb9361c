//! Entries that cannot all be true: two that say different things of one pack, or two packs that give one chunk different
//! lengths. Readers are not misled, as they compute the id of each chunk again; but what one of two entries says must not
//! decide what is stored again or deleted. Who is right is told by the packs themselves, which are what their names say.

use super::listing::segment_name;
use super::merge::{KEPT_SECONDS, listed};
use super::{Repository, Survey, Sweep};
use crate::event::{Event, Stop};
use crate::fault::{Doing, Fault, Result};
use crate::format::pack::PackEntry;
use crate::format::segment::Vouched;
use crate::id::{PackId, SegmentId};
use crate::index::Lies;
use std::collections::{BTreeMap, BTreeSet, HashMap};

impl Repository {
    /// All packs that are there and about which segments do not agree, as far as segments say so themselves.
    ///
    /// # Errors
    /// What the cache's disk says; `Stopped`.
    pub fn disputed(&self, survey: &Survey, stop: &Stop) -> Result<BTreeSet<PackId>> {
        let mut found = survey.disputed.clone();
        let index = self.index()?;
        let nothing = index.marks()?;
        let census = index.census(&nothing)?;
        let is_meant: Vec<bool> =
            census.packs.iter().map(|p| survey.packs.get(&p.id).is_some_and(|p| !p.retired)).collect();
        census.each(|_, _, places| {
            stop.check()?;
            let meant = || places.iter().filter(|l| is_meant[l.pack]);
            if Lies::disagree(meant()) {
                found.extend(meant().map(|l| census.packs[l.pack].id));
            }
            Ok(())
        })?;
        found.retain(|id| survey.packs.get(id).is_some_and(|p| !p.retired));
        Ok(found)
    }

    /// Makes segments say of packs what was read in them, to the last byte: names them anew, by this key, and writes all segments
    /// anew that say anything else, without it. What is replaced and holds retirements stays for an hour, as a list that is being
    /// taken must not miss these; the next call after that deletes it. Which these are.
    ///
    /// # Errors
    /// What the store says; `Stopped`.
    pub fn settle(&self, sweep: &mut Sweep, entries: &[PackEntry], stop: &Stop) -> Result<Vec<SegmentId>> {
        self.adopt(sweep, entries, stop)?;
        let truth: HashMap<PackId, Vec<u8>> = entries.iter().map(|e| (e.pack, e.encode())).collect();
        let lies = |v: &Vouched| {
            let said = PackEntry::decode(&v.body).ok();
            said.and_then(|e| truth.get(&e.pack)).is_some_and(|truth| *truth != v.body)
        };
        let (now, listed) = (sweep.now()?, listed(self)?);
        let replaced = self.replaced(&listed)?;
        let mut left = Vec::new();
        for id in listed.keys() {
            stop.check()?;
            let name = segment_name(id);
            let mut segment = match self.segment(id) {
                Ok(segment) => segment,
                // Gone, or told and mended as damage.
                Err(e) if matches!(e.fault(), Fault::Missing | Fault::Damaged) => continue,
                Err(e) => return Err(e).doing(|| format!("reading {name}")),
            };
            // What a newer program has written may be lost by writing it anew.
            if !segment.unknown.0.is_empty() || !segment.entries.iter().any(lies) {
                continue;
            }
            segment.entries.retain(|v| !lies(v));
            let has_retired = !segment.retirements.is_empty();
            let since = replaced.get(id);
            if since.is_none() && (has_retired || !segment.entries.is_empty()) {
                segment.session = Some(sweep.id());
                segment.replaces.push(*id);
                let published = self.put_segment(segment)?;
                self.index()?.apply(vec![published.applied], &[], Vec::new())?;
            }
            if has_retired && since.is_none_or(|since| now - since < KEPT_SECONDS) {
                left.push(*id);
                continue;
            }
            sweep.delete(&name)?;
            self.index()?.apply(Vec::new(), &[*id], Vec::new())?;
            self.observer.event(Event::Detail(&format!("{name} said what is not so, and was replaced")));
        }
        Ok(left)
    }

    /// Segments in whose place others are listed, and since when these are, by the store's clock.
    fn replaced(&self, listed: &BTreeMap<SegmentId, (u64, i64)>) -> Result<HashMap<SegmentId, i64>> {
        let mut since: HashMap<SegmentId, i64> = HashMap::new();
        for (by, old) in self.index()?.merged() {
            let Some((_, written)) = listed.get(&by) else { continue };
            for id in old {
                let latest = since.entry(id).or_insert(*written);
                *latest = (*latest).max(*written);
            }
        }
        Ok(since)
    }
}
