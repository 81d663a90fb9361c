//! `check`: the repository against itself. Nothing is ever written to the store, but by [`vouch`].
//!
//! Every object is listed; all but packs are read and proven; every chunk that a snapshot needs must be named by a segment,
//! at its size, in a pack that is there. Chunks of trees are read and verified on the way. With `--read-data` packs are
//! read whole as well, and what heals them is held against them, before the walk, which then names the files that are hit.

mod against;
mod finding;
mod subset;
mod vouch;
mod walk;

pub use against::{Compared, against};
pub use finding::{Finding, Hit, NAMED_MAX};
pub use subset::Subset;
pub use vouch::{Vouched, vouch};

use crate::clock;
use crate::event::{Event, Observer, Outcome, Stop};
use crate::fault::{Doing, Error, Result};
use crate::format::pack::PackEntry;
use crate::id::PackId;
use crate::repository::{Found, Keep, Repository, Right, Snapshot, Survey};
use finding::Findings;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use subset::Rotation;
use walk::{Pass, Shelf, Walk};

/// How often a check begins anew, since what it found may come from what others deleted in order meanwhile.
const ROUNDS: usize = 3;

/// What to check.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Packs that are read whole.
    pub read_data: Option<Subset>,
}

/// What became of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What is wrong, if anything is.
    pub findings: Vec<Finding>,
    /// Objects in the store.
    pub objects: u64,
    /// Snapshots that were gone through.
    pub snapshots: u64,
    /// Packs that segments name.
    pub packs: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// References to chunks that were looked up; what snapshots share counts once.
    pub chunks: u64,
    /// Packs that no segment names, and their bytes: of a backup that is under way, or was killed.
    pub unused: (u64, u64),
    /// Packs that were read whole, and their bytes.
    pub read: (u64, u64),
    /// How long it took.
    pub seconds: f64,
}

/// Checks a repository.
///
/// # Errors
/// What the store says where it is not about one object; `Stopped`; damage is no error, but in the report.
pub fn run(
    repository: &Arc<Repository>,
    options: &Options,
    observer: &Arc<dyn Observer>,
    stop: &Stop,
) -> Result<Report> {
    repository.allow(Right::Read, "checking")?;
    let began = clock::now();
    for last in (0..ROUNDS).map(|n| n + 1 == ROUNDS) {
        let (survey, findings, mut report) = round(repository, options, observer, stop)?;
        if last || !findings.lacks_something() || !repository.has_changed_since(&survey)? {
            report.findings = findings.into_list();
            report.seconds = clock::now().seconds_since(began);
            return Ok(report);
        }
        observer.event(Event::Detail("objects were deleted in order meanwhile: the check begins anew"));
    }
    Err(Error::bug("a check has no last round"))
}

fn round(
    repository: &Arc<Repository>,
    options: &Options,
    observer: &Arc<dyn Observer>,
    stop: &Stop,
) -> Result<(Survey, Findings, Report)> {
    let survey = repository.survey(stop)?;
    let mut findings = Findings::default();
    for flaw in &survey.flaws {
        findings.object(&flaw.object, &flaw.error);
        findings.is_index_torn |= flaw.object.starts_with("index/");
    }
    if let [only] = survey.configs[..] {
        let e = Error::damaged("there is no second config: if this one is damaged nothing can be read");
        findings.object(&format!("config/{only}"), &e.hint("`pastfs repair snapshots` writes another one"));
    }
    for (pack, e) in &survey.parity {
        findings.parity(*pack, e);
    }
    findings.is_index_torn |= !survey.unused.is_empty();
    let mut shelves = HashMap::new();
    let mut named = Vec::new();
    let mut report = Report {
        objects: survey.objects,
        unused: (survey.unused.len() as u64, survey.unused.iter().map(|(_, size)| size).sum()),
        ..Report::default()
    };
    for (id, promise) in &survey.packs {
        let is_whole = promise.found == Found::Whole;
        shelves.insert(*id, Shelf { is_whole, is_retired: promise.retired, bad: Vec::new() });
        if promise.retired {
            continue;
        }
        report.packs += 1;
        report.bytes += promise.size;
        match promise.found {
            Found::Whole => named.push((*id, promise.size)),
            Found::Missing => findings.missing(*id, chunks_of(repository, id)?),
            Found::Sized(size) => {
                let what = format!("it has {size} bytes where {} are promised", promise.size);
                findings.cut(*id, what, chunks_of(repository, id)?);
            }
        }
    }
    let chosen = match options.read_data {
        None => Vec::new(),
        Some(subset) => {
            let rotation = Rotation::open(repository.cache_dir(), &repository.location());
            let chosen = subset.choose(&named, &rotation.read);
            let bytes: u64 = chosen.iter().map(|(_, size)| size).sum();
            plan(observer, &survey, chosen.len() as u64, bytes);
            let done = Mutex::new(Vec::new());
            let wanted: HashSet<PackId> = chosen.iter().map(|(id, _)| *id).collect();
            let each = |entry: PackEntry, examined| done.lock().push((entry.pack, examined));
            let read = repository.examine_all(&survey, wanted, stop, &each);
            let mut whole = Vec::new();
            for (entry, examined) in done.into_inner() {
                whole.push((entry, examined.error.is_none()));
                if let Some(e) = examined.error {
                    let said = "a segment says of it what is not so";
                    findings.damaged(entry, if examined.is_lied_about { e.while_(said) } else { e });
                    findings.lost(entry, &examined.chunks);
                }
                if let Some(e) = examined.parity {
                    findings.parity(entry, &e);
                }
                if let Some(shelf) = shelves.get_mut(&entry) {
                    shelf.bad = examined.bad;
                }
            }
            // Also of what an interrupted check has read.
            if let Err(e) = rotation.save(&whole, &named) {
                observer.event(Event::Warning(&e.chain()));
            }
            read?;
            chosen
        }
    };
    report.read = (chosen.len() as u64, chosen.iter().map(|(_, size)| size).sum());
    if options.read_data.is_none() {
        plan(observer, &survey, 0, 0);
    }
    report.chunks = go_through(repository, &survey, &shelves, &mut findings, observer, stop)?;
    report.snapshots = survey.snapshots.len() as u64;
    Ok((survey, findings, report))
}

/// All that snapshots need must be there. How many references there are.
fn go_through(
    repository: &Arc<Repository>,
    survey: &Survey,
    shelves: &HashMap<PackId, Shelf>,
    findings: &mut Findings,
    observer: &Arc<dyn Observer>,
    stop: &Stop,
) -> Result<u64> {
    // What the store has is in question, not what was kept of it.
    let reader = repository.reader_keeping(Keep::Nothing);
    let needed = repository.index()?.marks()?;
    let mut walk = Walk::new(repository, &reader, shelves, findings, stop, Pass::Gather(&needed))?;
    for s in &survey.snapshots {
        let name = format!("snapshots/{}", s.id);
        observer.event(Event::Started(Path::new(&name)));
        walk.snapshot(s).doing(|| walking(s))?;
        verified(observer, &name);
    }
    let (chunks, is_hurt) = (walk.chunks, walk.is_hurt);
    let mut disputed = survey.disputed.clone();
    let suspects = walk::suspects(repository, shelves, &needed, &mut disputed, stop)?;
    for pack in disputed.into_iter().filter(|id| shelves.get(id).is_some_and(|s| !s.is_retired)) {
        findings.disputed(pack);
    }
    let suspects = match suspects {
        None if !is_hurt => return Ok(chunks),
        None => repository.index()?.seen()?,
        Some(suspects) => suspects,
    };
    observer.event(Event::Detail(
        "something is lost: the snapshots are gone through again, to name the files that are hit",
    ));
    let mut walk = Walk::new(repository, &reader, shelves, findings, stop, Pass::Name(&suspects))?;
    for s in &survey.snapshots {
        walk.snapshot(s).doing(|| walking(s))?;
    }
    Ok(chunks)
}

fn walking(s: &Snapshot) -> String {
    format!("walking through snapshot {}", s.id.short())
}

fn chunks_of(repository: &Repository, pack: &PackId) -> Result<u64> {
    Ok(repository.index()?.pack(pack)?.map_or(0, |p| p.chunks.len() as u64))
}

/// Tells how much there is to do: objects that the survey has read, packs, and a walk for each snapshot.
fn plan(observer: &Arc<dyn Observer>, survey: &Survey, packs: u64, bytes: u64) {
    let files = survey.objects - survey.stored_packs + packs + survey.snapshots.len() as u64;
    observer.event(Event::Planned { files, bytes: survey.bytes + bytes });
}

fn verified(observer: &Arc<dyn Observer>, name: &str) {
    let (path, outcome) = (Path::new(name), Outcome::Verified);
    observer.event(Event::Finished { path, outcome, file: true });
}
