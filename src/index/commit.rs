//! Moves what waits in memory into the database, as one batch that is added whole or not at all.

use super::database::{Batch, Home, Lock, Tried, Trouble, Writer};
use super::record::{self, Digest, NUMBER_END, PackRecord, SegmentRecord, Tally};
use super::view::{Memory, Pending, tally};
use crate::fault::{Error, Fault};
use crate::id::PackId;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// Dead chunk keys are left lying up to this many, and as long as they are fewer than the living.
const DEAD_MIN: u64 = 100_000;

/// Writes. The writer comes back open, so that the caller can let readers catch up before compactions run.
pub fn write<'a>(home: &'a Home, name: &str, lock: &Lock, memory: &Memory) -> Tried<(Writer<'a>, Tally)> {
    let writer = home.writer(name, lock)?;
    let mut work =
        Work { tally: tally(&writer)?, writer: &writer, batch: Batch::default(), numbers: HashMap::new() };
    let mut added = Vec::new();
    for pending in memory.segments.values() {
        // Another process may have been faster; what it wrote is the same.
        if writer.get(&record::segment_key(&pending.id))?.is_none() {
            added.push(work.segment(pending)?);
        }
    }
    work.gone(memory, &added)?;
    for (key, value) in &memory.files {
        work.batch.others.insert(record::key(record::FILE, key), Some(value.clone()));
    }
    let Work { mut tally, mut batch, .. } = work;
    tally.generation += 1;
    put_tally(&mut batch, &tally);
    writer.add(batch)?;
    Ok((writer, tally))
}

/// Deletes the whole table of files.
pub fn forget_files(home: &Home, name: &str, lock: &Lock) -> Tried<()> {
    let writer = home.writer(name, lock)?;
    let mut tally = tally(&writer)?;
    tally.generation += 1;
    let mut batch = Batch { wipe: Some(record::FILE), ..Batch::default() };
    put_tally(&mut batch, &tally);
    writer.add(batch)
}

/// Rewrites the database without dead chunk keys once they are more than half.
pub fn purge(home: &Home, name: &str, lock: &Lock, writer: Writer<'_>, tally: &Tally) -> Tried<()> {
    if tally.dead < DEAD_MIN || tally.dead < tally.live {
        return Ok(());
    }
    sweep_dead(home, name, lock, writer)
}

fn sweep_dead(home: &Home, name: &str, lock: &Lock, writer: Writer<'_>) -> Tried<()> {
    // Nobody else writes while we hold the lock: these are all numbers in use.
    let mut used = HashSet::new();
    writer.scan(record::PACK, |key, _| {
        let number = key.get(1..).and_then(record::number).ok_or_else(|| Trouble::record("a pack"))?;
        used.insert(number);
        Ok(())
    })?;
    drop(writer);
    home.purge(name, lock, move |key| record::chunk_number(key).is_some_and(|n| !used.contains(&n)))?;
    let writer = home.writer(name, lock)?;
    let mut batch = Batch::default();
    let tally = super::view::tally(&writer)?;
    put_tally(&mut batch, &Tally { dead: 0, generation: tally.generation + 1, ..tally });
    writer.add(batch)
}

fn put_tally(batch: &mut Batch, tally: &Tally) {
    batch.others.insert(vec![record::TALLY], Some(Arc::from(tally.encode())));
}

struct Work<'a> {
    writer: &'a Writer<'a>,
    tally: Tally,
    batch: Batch,
    /// Numbers given in this batch.
    numbers: HashMap<(PackId, Digest), u32>,
}

impl Work<'_> {
    fn segment(&mut self, pending: &Pending) -> Tried<SegmentRecord> {
        let mut record = pending.record();
        // For each entry its number, if its chunks are yet to be written.
        let mut new = Vec::with_capacity(pending.packs.len());
        for pack in &pending.packs {
            let (number, is_new) = self.number(&pack.record)?;
            record.packs.push((number, pack.trusted));
            new.push(is_new.then_some(number));
        }
        for (id, at, spot) in &pending.chunks {
            if let Some(number) = new[*at as usize] {
                self.batch.chunks.push((record::chunk_key(id, number), spot.encode()));
            }
        }
        let value = Arc::from(record.encode());
        self.batch.others.insert(record::segment_key(&pending.id), Some(value));
        Ok(record)
    }

    fn number(&mut self, pack: &PackRecord) -> Tried<(u32, bool)> {
        let name = (pack.info.id, pack.digest);
        if let Some(number) = self.numbers.get(&name) {
            return Ok((*number, false));
        }
        let by_id = record::pack_id_key(&name.0, &name.1);
        if let Some(bytes) = self.writer.get(&by_id)? {
            let number = record::number(&bytes).ok_or_else(|| Trouble::record("a pack"))?;
            self.numbers.insert(name, number);
            return Ok((number, false));
        }
        let number = self.tally.next;
        if number >= NUMBER_END {
            let e = Error::new(Fault::Full, "numbering packs in the index cache").hint("delete the cache");
            return Err(Trouble::Failed(e));
        }
        self.tally.next += 1;
        self.tally.live += u64::from(pack.chunks);
        self.numbers.insert(name, number);
        self.batch.others.insert(record::pack_key(number), Some(Arc::from(pack.encode())));
        self.batch.others.insert(by_id, Some(Arc::from(number.to_be_bytes())));
        Ok((number, true))
    }

    /// Removes segments, and the entries that no other segment holds; their chunk keys stay behind, dead.
    fn gone(&mut self, memory: &Memory, added: &[SegmentRecord]) -> Tried<()> {
        let mut lost = BTreeSet::new();
        for id in &memory.gone {
            let key = record::segment_key(id);
            if let Some(bytes) = self.writer.get(&key)? {
                let record = SegmentRecord::decode(&bytes).ok_or_else(|| Trouble::record("a segment"))?;
                lost.extend(record.packs.iter().map(|(number, _)| *number));
                self.batch.others.insert(key, None);
            }
        }
        if lost.is_empty() {
            return Ok(());
        }
        for (number, _) in added.iter().flat_map(|r| &r.packs) {
            lost.remove(number);
        }
        let batch = &self.batch;
        self.writer.scan(record::SEGMENT, |key, value| {
            if !batch.others.contains_key(key) {
                let record = SegmentRecord::decode(value).ok_or_else(|| Trouble::record("a segment"))?;
                for (number, _) in &record.packs {
                    lost.remove(number);
                }
            }
            Ok(())
        })?;
        for number in lost {
            let key = record::pack_key(number);
            let Some(bytes) = self.writer.get(&key)? else { continue };
            let pack = PackRecord::decode(&bytes).ok_or_else(|| Trouble::record("a pack"))?;
            self.batch.others.insert(record::pack_id_key(&pack.info.id, &pack.digest), None);
            self.batch.others.insert(key, None);
            self.tally.live = self.tally.live.saturating_sub(u64::from(pack.chunks));
            self.tally.dead += u64::from(pack.chunks);
        }
        Ok(())
    }
}
