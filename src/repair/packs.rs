//! `repair packs`: what is whole of damaged packs is stored in new ones, and the damaged ones are retired; a later prune
//! deletes them. Parity of whole packs that is damaged or missing is written anew. What a replica has of it is not lost: packs
//! that are missing are copied back as they are, and chunks that are damaged here are read there.

use super::{Losses, losses};
use crate::clock;
use crate::event::{Event, Observer, Stop};
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::pack::PackEntry;
use crate::id::PackId;
use crate::repository::{Examined, Found, Keep, Mover, Promise, Repository, Survey, Sweep};
use crate::seal::Compression;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// What to repair, and how.
#[derive(Clone, Default)]
pub struct PacksOptions {
    /// Which packs are read, beside those whose size is not what it must be.
    pub packs: Vec<PackId>,
    /// All packs are read.
    pub read_data: bool,
    /// Nothing is written.
    pub dry_run: bool,
    /// Of this machine.
    pub host: Vec<u8>,
    /// A replica that what is damaged or missing is taken from.
    pub from: Option<Arc<Repository>>,
}

/// What became of a damaged pack.
#[derive(Debug)]
pub struct Emptied {
    /// Which pack.
    pub pack: PackId,
    /// What is wrong with it.
    pub what: String,
    /// How many of its frames, and of its chunks, are lost.
    pub lost: (u64, u64),
    /// How many of the others were stored anew; the rest of them lie in other packs as well.
    pub saved: u64,
    /// How many of those that are lost here came from the replica; in a dry run they are not looked for.
    pub fetched: u64,
}

/// What became of all.
#[derive(Debug, Default)]
pub struct PacksReport {
    /// Packs that were read, and their bytes.
    pub read: (u64, u64),
    /// Those that are damaged.
    pub damaged: Vec<Emptied>,
    /// Whole packs whose parity was damaged or missing, and what was wrong.
    pub parity: Vec<(PackId, String)>,
    /// Whole packs of which a segment said what is not so; it says what is so now.
    pub settled: Vec<PackId>,
    /// Packs that were missing and were copied back from the replica; in a dry run those that would be.
    pub brought: Vec<PackId>,
    /// Bytes that were stored for it.
    pub stored: u64,
    /// What snapshots lack, after that; not looked for in a dry run.
    pub losses: Losses,
    /// How long it took.
    pub seconds: f64,
}

impl PacksReport {
    /// Whether anything in the repository is damaged still.
    pub fn is_hurt(&self, dry_run: bool) -> bool {
        !self.losses.hurt.is_empty()
            || dry_run
                && !(self.damaged.is_empty()
                    && self.parity.is_empty()
                    && self.brought.is_empty()
                    && self.settled.is_empty())
    }
}

/// Saves what is whole of damaged packs.
///
/// # Errors
/// `Denied` without a full key; `Missing` for a pack that no segment names; what the store says where it is not about one
/// object; `Stopped`.
pub fn packs(
    repository: &Arc<Repository>,
    options: &PacksOptions,
    observer: &Arc<dyn Observer>,
    stop: &Stop,
) -> Result<PacksReport> {
    let began = clock::now();
    repository.may_delete()?;
    let mut report = PacksReport::default();
    // Before anything is listed.
    let mut sweep = if options.dry_run {
        None
    } else {
        Some(Sweep::begin(repository, &options.host, false, "repair packs")?)
    };
    let mut survey = repository.survey(stop)?;
    let missing = match &options.from {
        None => Vec::new(),
        Some(from) => {
            let (brought, missing) = bring_back(repository, from, &survey, options.dry_run, stop)?;
            if !brought.is_empty() && !options.dry_run {
                survey = repository.survey(stop)?;
            }
            report.brought = brought;
            missing
        }
    };
    let wanted = choose(&survey, options)?;
    let bytes: u64 = wanted.iter().filter_map(|id| survey.packs.get(id)).map(|p| p.size).sum();
    let files = survey.objects - survey.stored_packs + wanted.len() as u64;
    observer.event(Event::Planned { files, bytes: survey.bytes + bytes });
    report.read = (wanted.len() as u64, bytes);
    let (found, settled) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let parity: Mutex<BTreeMap<PackId, String>> =
        Mutex::new(survey.parity.iter().map(|(id, e)| (*id, e.chain())).collect());
    repository.examine_all(&survey, wanted, stop, &|entry, examined| {
        if let Some(e) = &examined.parity {
            parity.lock().insert(entry.pack, e.chain());
        }
        if examined.is_lied_about {
            settled.lock().push((entry.pack, entry.size));
        } else if examined.error.is_some() {
            parity.lock().remove(&entry.pack);
            found.lock().push((entry, examined));
        }
    })?;
    report.parity.extend(parity.into_inner());
    let settled: Vec<(PackId, u64)> = settled.into_inner();
    report.settled = settled.iter().map(|(id, _)| *id).collect();
    let mut damaged = found.into_inner();
    damaged.extend(missing.into_iter().map(all_bad));
    damaged.sort_by_key(|(entry, _)| entry.pack);
    for (entry, examined) in &damaged {
        report.damaged.push(Emptied {
            pack: entry.pack,
            what: examined.error.as_ref().map_or_else(String::new, Error::chain),
            lost: (examined.bad.len() as u64, examined.chunks.len() as u64),
            saved: 0,
            fetched: 0,
        });
    }
    if let Some(sweep) = &mut sweep {
        let mut truth = Vec::new();
        for (id, size) in settled {
            let read = repository.read_stray(&id, size, stop)?;
            truth.extend(read.ok().and_then(|pack| pack.whole().cloned()));
        }
        if !truth.is_empty() {
            for id in repository.settle(sweep, &truth, stop)? {
                let text = format!(
                    "index/{id} says of packs what is not so, and another one has taken its place: run `pastfs repair index` an \
                     hour from now, which deletes it"
                );
                observer.event(Event::Warning(&text));
            }
        }
        let mut left = Vec::new();
        for (id, _) in &report.parity {
            let size = survey.packs.get(id).map_or(0, |p| p.size);
            let stored = repository.renew_parity(sweep, id, size, stop);
            match stored.doing(|| format!("writing the parity of pack {} anew", id.short()))? {
                Some(bytes) => report.stored += bytes,
                None => left.push(*id),
            }
        }
        report.parity.retain(|(id, _)| !left.contains(id));
        for id in left {
            let text = format!(
                "pack {id} is damaged or gone itself, and its parity stays as it is: run `pastfs repair packs {id}`"
            );
            observer.event(Event::Warning(&text));
        }
        let survey = match damaged.is_empty() {
            true => survey,
            false => {
                report.stored =
                    empty(sweep, repository, &survey, &damaged, &mut report.damaged, options, stop)?;
                repository.survey(stop)?
            }
        };
        // Also where nothing is damaged: a run that was killed before may have come no further.
        report.losses = losses(repository, &survey, observer, stop)?;
        repository.note_lost(&report.losses.chunks)?;
    }
    report.seconds = clock::now().seconds_since(began);
    Ok(report)
}

/// A pack that is not there, and not in the replica either: its chunks may be.
fn all_bad(entry: PackEntry) -> (PackEntry, Examined) {
    let bad = (0..entry.frames.len() as u32).collect();
    let error = Some(Error::damaged("it is missing"));
    let examined = Examined { bad, chunks: entry.ids.clone(), error, ..Examined::default() };
    (entry, examined)
}

/// Copies packs back that are missing and that the replica has: which, in a dry run which would be; and the entries of those that it
/// has not.
fn bring_back(
    repository: &Arc<Repository>,
    from: &Arc<Repository>,
    survey: &Survey,
    dry_run: bool,
    stop: &Stop,
) -> Result<(Vec<PackId>, Vec<PackEntry>)> {
    let is_missing = |p: &Promise| p.found == Found::Missing && !p.retired;
    let mut missing: HashSet<PackId> =
        survey.packs.iter().filter(|(_, p)| is_missing(p)).map(|(id, _)| *id).collect();
    let (mut brought, mut others) = (Vec::new(), Vec::new());
    for segment in &survey.segments {
        if missing.is_empty() {
            break;
        }
        for entry in repository.entries(segment)? {
            stop.check()?;
            if !missing.remove(&entry.pack) {
                continue;
            }
            match repository.bring_pack_back(from, &entry, dry_run)? {
                true => brought.push(entry.pack),
                false => others.push(entry),
            }
        }
    }
    Ok((brought, others))
}

/// The packs that are read.
fn choose(survey: &Survey, options: &PacksOptions) -> Result<HashSet<PackId>> {
    let mut wanted = HashSet::new();
    for (id, p) in survey.packs.iter().filter(|(_, p)| !p.retired) {
        let is_odd = matches!(p.found, Found::Sized(_));
        if is_odd || options.read_data && p.found != Found::Missing {
            wanted.insert(*id);
        }
    }
    for id in &options.packs {
        match survey.packs.get(id) {
            Some(p) if p.found == Found::Missing => {
                let e = Error::damaged(format!("pack {} is missing", id.short()));
                return Err(e.hint("`pastfs repair index` takes packs that are missing out of the index"));
            }
            Some(p) if p.retired => {}
            Some(_) => drop(wanted.insert(*id)),
            None => {
                let e = Error::new(Fault::Missing, format!("no index segment names pack {}", id.short()));
                return Err(e.hint("`pastfs repair index` names packs again that are there"));
            }
        }
    }
    Ok(wanted)
}

/// Moves what is whole, then retires. Bytes that were stored.
fn empty(
    sweep: &mut Sweep,
    repository: &Arc<Repository>,
    survey: &Survey,
    damaged: &[(PackEntry, Examined)],
    told: &mut [Emptied],
    options: &PacksOptions,
    stop: &Stop,
) -> Result<u64> {
    let replica = options.from.as_ref().map(|from| from.reader_keeping(Keep::Nothing));
    let missing = survey.packs.iter().filter(|(_, p)| p.found == Found::Missing).map(|(id, _)| *id);
    let emptied: HashSet<PackId> = damaged.iter().map(|(entry, _)| entry.pack).chain(missing).collect();
    let mut mover = Mover::begin(sweep, emptied, Compression::default(), stop.clone())?;
    for ((entry, examined), told) in damaged.iter().zip(told) {
        let doing = || format!("saving what is whole of pack {}", entry.pack.short());
        let info = repository.index()?.pack(&entry.pack)?;
        let info = info.ok_or_else(|| Error::damaged("no index segment names it any more")).doing(doing)?;
        let bad: HashSet<u32> = examined.bad.iter().copied().collect();
        let whole: Vec<u32> = (0..info.frames.len() as u32).filter(|n| !bad.contains(n)).collect();
        mover.plan(&info, whole.iter().copied());
        told.saved = mover.take(&info, whole, |_| Ok(true)).doing(doing)?.chunks;
        if let Some(replica) = &replica {
            told.fetched = mover.fetch(&info, &examined.chunks, replica).doing(doing)?;
            told.lost.1 = told.lost.1.saturating_sub(told.fetched);
            if told.lost.1 == 0 {
                told.lost.0 = 0;
            }
        }
    }
    let stored = mover.finish()?;
    sweep.retire(&damaged.iter().map(|(entry, _)| entry.pack).collect::<Vec<_>>())?;
    Ok(stored)
}
