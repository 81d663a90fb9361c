//! `repair index`: packs that no segment names are read and named again, damaged segments go, and packs that segments name
//! and that are not there are retired, so that backups store their chunks again.

use super::{Losses, done, losses};
use crate::clock;
use crate::event::{Event, Observer, Stop};
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::pack::PackEntry;
use crate::id::{PackId, SegmentId};
use crate::index::Retired;
use crate::repository::{
    ADOPTED_AT_ONCE, Found, Mover, Promise, Repository, Stray, Survey, Sweep, Unreadable,
};
use crate::seal::Compression;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// What became of it; with a dry run, what would have.
#[derive(Debug, Default)]
pub struct IndexReport {
    /// Packs that were named again, their bytes, and chunks.
    pub adopted: (u64, u64, u64),
    /// Packs that no segment names and that are damaged.
    pub damaged: Vec<DamagedStray>,
    /// Packs about which segments did not agree, and do now.
    pub settled: u64,
    /// Packs that are retired as they were before: their retirements were lost.
    pub retired_again: u64,
    /// Damaged segments that were deleted.
    pub deleted: Vec<SegmentId>,
    /// Packs that segments name and that are not there; they were retired.
    pub absent: Vec<PackId>,
    /// Objects that are damaged and that this cannot mend: name, what is wrong, what to do.
    pub left: Vec<(String, String, Option<String>)>,
    /// What snapshots lack, after all that.
    pub losses: Losses,
    /// How long it took.
    pub seconds: f64,
}

/// A damaged pack that no segment names.
#[derive(Debug)]
pub struct DamagedStray {
    /// Which pack.
    pub pack: PackId,
    /// What is wrong with it.
    pub what: String,
    /// Chunks in it that are whole, and frames that are not.
    pub chunks: (u64, u64),
    /// How many of those chunks were stored anew; the others lie elsewhere.
    pub saved: u64,
}

impl IndexReport {
    /// Whether anything in the repository is damaged still.
    pub fn is_hurt(&self) -> bool {
        !(self.left.is_empty() && self.losses.hurt.is_empty())
    }
}

/// What reading the strays gave.
#[derive(Default)]
struct Strays {
    whole: Vec<PackEntry>,
    /// Named ones, about which segments do not agree.
    disputed: BTreeSet<PackId>,
    settled: Vec<PackEntry>,
    damaged: Vec<Stray>,
    /// Not what their names say, and nothing of them can be read.
    hopeless: Vec<PackId>,
}

/// Makes the index name all packs that are there, and no others.
///
/// # Errors
/// `Denied` without a full key; what the store says where it is not about one object; `Stopped`. What was adopted until then
/// stays so.
pub fn index(
    repository: &Arc<Repository>,
    host: &[u8],
    dry_run: bool,
    observer: &Arc<dyn Observer>,
    stop: &Stop,
) -> Result<IndexReport> {
    let began = clock::now();
    repository.may_delete()?;
    // Before anything is listed.
    let mut sweep = if dry_run { None } else { Some(Sweep::begin(repository, host, false, "repair index")?) };
    let retired = remembered(repository)?;
    let survey = repository.survey(stop)?;
    refuse_empty(repository, &survey)?;
    let (again, unused) = part(&survey, &retired);
    let mut strays = Strays { disputed: repository.disputed(&survey, stop)?, ..Strays::default() };
    let unused = [unused, sizes(&survey, &strays.disputed)].concat();
    let bytes: u64 = unused.iter().map(|(_, size)| size).sum();
    let files = survey.objects - survey.stored_packs + unused.len() as u64 + survey.snapshots.len() as u64;
    observer.event(Event::Planned { files, bytes: survey.bytes + bytes });
    let mut report = IndexReport { retired_again: again.len() as u64, ..IndexReport::default() };
    if let Some(sweep) = &mut sweep {
        sweep.retire_again(&again)?;
    }
    let reading = Reading { repository, sweep: sweep.as_ref(), observer, stop };
    reading.name_again(&unused, &mut report, &mut strays, |_, _, _| true)?;
    if let (Some(sweep), false) = (&mut sweep, strays.settled.is_empty()) {
        for id in repository.settle(sweep, &strays.settled, stop)? {
            let advice = "another one has taken its place, and this command deletes it an hour from now: run it again then";
            let what = "it says of packs what is not so".to_owned();
            report.left.push((format!("index/{id}"), what, Some(advice.into())));
        }
    }
    let missing = survey.packs.iter().filter(|(_, p)| !p.retired && p.found == Found::Missing);
    report.absent = missing.map(|(id, _)| *id).filter(|id| !retired.contains_key(id)).collect();
    if let Some(sweep) = &mut sweep {
        salvage(sweep, &strays, &mut report, stop)?;
        // What may be read another day is not given up.
        let damaged = strays.damaged.iter().filter(|s| s.is_damaged()).map(|s| s.info().id);
        let damaged = damaged.chain(strays.hopeless);
        sweep.retire(&damaged.chain(report.absent.iter().copied()).collect::<Vec<_>>())?;
    }
    // All that is there is named by others now.
    for flaw in &survey.flaws {
        let segment = flaw.object.strip_prefix("index/").and_then(SegmentId::from_hex);
        let is_deleted = match segment.filter(|_| flaw.error.fault() == Fault::Damaged) {
            Some(id) => match &sweep {
                Some(sweep) if !repository.delete_damaged(sweep, &id)? => None,
                _ => Some(id),
            },
            None => None,
        };
        match is_deleted {
            Some(id) => report.deleted.push(id),
            None => {
                let advice = flaw.error.advice().map(str::to_owned);
                report.left.push((flaw.object.clone(), flaw.error.chain(), advice));
            }
        }
    }
    if let Some(sweep) = &sweep {
        report.losses = lacking(repository, sweep, &mut report, observer, stop)?;
        repository.note_lost(&report.losses.chunks)?;
    }
    report.seconds = clock::now().seconds_since(began);
    Ok(report)
}

/// Packs that segments name, with the sizes that the store tells.
fn sizes(survey: &Survey, packs: &BTreeSet<PackId>) -> Vec<(PackId, u64)> {
    let size = |id: &PackId| match survey.packs.get(id)? {
        p if p.found == Found::Whole => Some((*id, p.size)),
        Promise { found: Found::Sized(size), .. } => Some((*id, *size)),
        _ => None,
    };
    packs.iter().filter_map(size).collect()
}

/// The retirements that this machine has seen. One that is in no segment any more was lost: it goes with its pack.
fn remembered(repository: &Repository) -> Result<HashMap<PackId, Retired>> {
    let all = repository.index()?.retirements().into_iter().map(|(_, r)| r);
    Ok(all.filter(|r| r.deleted.is_none()).map(|r| (r.pack, r)).collect())
}

/// A place that shows no pack at all is more likely a disk that is not mounted.
fn refuse_empty(repository: &Repository, survey: &Survey) -> Result<()> {
    let named = survey.packs.values().filter(|p| !p.retired).count();
    match named > 0 && survey.packs.values().all(|p| p.retired || p.found == Found::Missing) {
        false => Ok(()),
        true => Err(Error::damaged(format!("{} shows none of its {named} packs", repository.location()))
            .hint("is all of the storage there? There is nothing to repair an index from")),
    }
}

/// What was retired before, and is so again, and what is to be read.
fn part(survey: &Survey, retired: &HashMap<PackId, Retired>) -> (Vec<Retired>, Vec<(PackId, u64)>) {
    let listed = survey.packs.iter().filter(|(_, p)| !p.retired).map(|(id, _)| id);
    let there = listed.chain(survey.unused.iter().map(|(id, _)| id));
    let again = there.filter_map(|id| retired.get(id)).copied().collect();
    let unused = survey.unused.iter().filter(|(id, _)| !retired.contains_key(id)).copied().collect();
    (again, unused)
}

/// What snapshots lack. What of it lies in retired packs that no segment names any more is found again before: a snapshot that was
/// brought back may need it, until a prune has moved it. All other retired packs are garbage, and not read.
fn lacking(
    repository: &Arc<Repository>,
    sweep: &Sweep,
    report: &mut IndexReport,
    observer: &Arc<dyn Observer>,
    stop: &Stop,
) -> Result<Losses> {
    loop {
        let survey = repository.survey(stop)?;
        let losses = losses(repository, &survey, observer, stop)?;
        if losses.chunks.is_empty() {
            return Ok(losses);
        }
        let mut found = Strays::default();
        let named = report.adopted.0;
        let reading = Reading { repository, sweep: Some(sweep), observer, stop };
        reading.name_again(&survey.nameless, report, &mut found, |report, id, read| match read {
            Ok(stray) => stray.holds(&losses.chunks),
            // Told once, however often it is tried.
            Err(unreadable) => {
                !unreadable.is_damaged && report.left.iter().all(|(name, ..)| *name != name_of(id))
            }
        })?;
        // With a folder that is found again come chunks below it that nobody could look for before.
        if salvage(sweep, &found, report, stop)? == 0 && report.adopted.0 == named {
            return Ok(losses);
        }
    }
}

/// Packs that no segment names are read by this; without a sweep nothing is written.
struct Reading<'a> {
    repository: &'a Arc<Repository>,
    sweep: Option<&'a Sweep>,
    observer: &'a Arc<dyn Observer>,
    stop: &'a Stop,
}

impl Reading<'_> {
    /// Names again those that are whole, a few at a time as a segment has a limit, and takes note of all others; of
    /// those alone that are `wanted`, once they were read.
    fn name_again(
        &self,
        packs: &[(PackId, u64)],
        report: &mut IndexReport,
        strays: &mut Strays,
        wanted: impl Fn(&IndexReport, &PackId, &Outcome) -> bool,
    ) -> Result<()> {
        read_strays(self.repository, packs, self.observer, self.stop, &mut |id, read| {
            if wanted(report, &id, &read) {
                take(report, strays, id, read);
            }
            match strays.whole.len() >= ADOPTED_AT_ONCE {
                true => adopt(self.repository, self.sweep, &mut strays.whole, self.stop),
                false => Ok(()),
            }
        })?;
        adopt(self.repository, self.sweep, &mut strays.whole, self.stop)
    }
}

fn take(
    report: &mut IndexReport,
    strays: &mut Strays,
    pack: PackId,
    read: std::result::Result<Stray, Unreadable>,
) {
    let stray = match read {
        Ok(stray) => stray,
        Err(Unreadable { error, is_damaged: false }) => {
            let advice =
                "it cannot be read now, or is not for this key: try again, and look where it comes from";
            report.left.push((name_of(&pack), error.chain(), Some(advice.into())));
            return;
        }
        Err(Unreadable { error, .. }) => {
            report.damaged.push(DamagedStray { pack, what: error.chain(), chunks: (0, 0), saved: 0 });
            strays.hopeless.push(pack);
            return;
        }
    };
    if let Some(entry) = stray.whole().filter(|_| strays.disputed.contains(&pack)) {
        report.settled += 1;
        strays.settled.push(entry.clone());
        return;
    }
    if let Some(entry) = stray.whole() {
        let (packs, bytes, chunks) = &mut report.adopted;
        (*packs, *bytes, *chunks) = (*packs + 1, *bytes + entry.size, *chunks + stray.chunks());
        strays.whole.push(entry.clone());
        return;
    }
    let what = stray.error().map_or_else(String::new, Error::chain);
    if !stray.is_damaged() {
        let advice = "what can be read of it was saved; try again when the storage can be read";
        report.left.push((name_of(&pack), what.clone(), Some(advice.into())));
    }
    let chunks = (stray.chunks(), stray.bad_frames());
    report.damaged.push(DamagedStray { pack, what, chunks, saved: 0 });
    strays.damaged.push(stray);
}

fn name_of(pack: &PackId) -> String {
    let hex = pack.hex();
    format!("packs/{}/{hex}", &hex[..2])
}

fn adopt(
    repository: &Repository,
    sweep: Option<&Sweep>,
    entries: &mut Vec<PackEntry>,
    stop: &Stop,
) -> Result<()> {
    let entries = std::mem::take(entries);
    match sweep {
        Some(sweep) if !entries.is_empty() => repository.adopt(sweep, &entries, stop),
        _ => Ok(()),
    }
}

/// Stores what is whole of damaged strays in new packs: how many chunks.
fn salvage(sweep: &Sweep, strays: &Strays, report: &mut IndexReport, stop: &Stop) -> Result<u64> {
    if strays.damaged.is_empty() {
        return Ok(0);
    }
    let absent: HashSet<PackId> = report.absent.iter().copied().collect();
    let mut mover = Mover::begin(sweep, absent, Compression::default(), stop.clone())?;
    let mut saved = 0;
    for stray in &strays.damaged {
        let info = Arc::new(stray.info());
        mover.plan(&info, stray.frames());
        let moved = mover.take(&info, stray.frames(), |_| Ok(true))?;
        saved += moved.chunks;
        if let Some(told) = report.damaged.iter_mut().find(|d| d.pack == info.id) {
            told.saved = moved.chunks;
        }
    }
    mover.finish()?;
    Ok(saved)
}

type Outcome = std::result::Result<Stray, Unreadable>;
type Read = Result<(PackId, Outcome)>;

/// Reads packs on all cores; `each` is given one after another, with what was read or why nothing could be.
fn read_strays(
    repository: &Arc<Repository>,
    strays: &[(PackId, u64)],
    observer: &Arc<dyn Observer>,
    stop: &Stop,
    each: &mut dyn FnMut(PackId, Outcome) -> Result<()>,
) -> Result<()> {
    let cores = thread::available_parallelism().map_or(2, usize::from);
    let next = AtomicUsize::new(0);
    // None waits: they are taken as fast as packs are read.
    let (send, results): (Sender<Read>, Receiver<Read>) = bounded(0);
    thread::scope(|scope| {
        for _ in 0..cores.min(strays.len()) {
            let (send, next) = (send.clone(), &next);
            let work = move || {
                while let Some((id, size)) = strays.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let name = name_of(id);
                    observer.event(Event::Started(Path::new(&name)));
                    let read = match repository.read_stray(id, *size, stop) {
                        // A prune took it.
                        Err(e) if e.fault() == Fault::Missing => continue,
                        read => read.map(|read| (*id, read)),
                    };
                    let is_over = read.is_err();
                    done(observer, &name);
                    if send.send(read).is_err() || is_over {
                        return;
                    }
                }
            };
            let thread = thread::Builder::new().name("repair".into()).spawn_scoped(scope, work);
            thread.doing(|| "starting a thread")?;
        }
        drop(send);
        for read in results {
            let (id, read) = read?;
            each(id, read)?;
        }
        Ok(())
    })
}
