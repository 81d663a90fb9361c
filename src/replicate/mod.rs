//! `replicate`: the same repository in a second place. Snapshots that are missing there are copied, with all that they need
//! and is not there: packs as they are, each proven to its last chunk, then segments of the replica's own, manifests last.
//!
//! The unit is the snapshot, not the pack. Two stores of one repository are pruned each for itself, so that the same chunks lie
//! in other packs here than there: what a missing snapshot needs is looked up in the replica, and only what is not known
//! there comes. Where nothing is missing nothing is walked through. Absence deletes nothing: what was forgotten follows by
//! its notes, and only where that is asked for.

use crate::clock;
use crate::event::{Event, Observer, Stop};
use crate::fault::{Error, Result};
use crate::id::{PackId, SnapshotId};
use crate::repository::{Again, Both, Glance, Intake, Repository, Right, Snapshot, Taken};
use crate::storage::Store;
use std::collections::HashSet;
use std::sync::Arc;

/// How often one is begun anew when a prune took the work for dead, or packs that it relied on are gone.
const ATTEMPTS: usize = 4;
/// So much is copied before the snapshots that it belongs to are written: a run that is ended has brought over all but these,
/// and a commit costs a dozen requests.
const BATCH_BYTES: u64 = 2 << 30;
/// So many snapshots wait for what they need at most.
const BATCH_SNAPSHOTS: usize = 256;
/// What to copy, and how.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Only these snapshots; all, where none is named.
    pub snapshots: Option<HashSet<SnapshotId>>,
    /// What was forgotten here is forgotten there.
    pub forget: bool,
    /// Nothing is written.
    pub dry_run: bool,
    /// Of this machine, for the lease.
    pub host: Vec<u8>,
}

/// An object that was not copied, since it is not what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flawed {
    /// Its name in the store.
    pub object: String,
    /// What is wrong with it.
    pub what: String,
    /// What to do.
    pub advice: String,
}

/// What became of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The replica was made by this run.
    pub is_new: bool,
    /// Snapshots that were copied, newest first; in a dry run those that would be.
    pub copied: Vec<SnapshotId>,
    /// Snapshots that could not be, and why.
    pub left: Vec<(SnapshotId, String)>,
    /// How many were there already.
    pub there: u64,
    /// How many were not copied because the replica has forgotten them.
    pub forgotten: u64,
    /// Packs that were copied, and their bytes.
    pub packs: (u64, u64),
    /// Packs that were there already and were named by no segment: an earlier run was ended.
    pub named: u64,
    /// Chunks that were stored anew, since their packs could not come as they are.
    pub anew: u64,
    /// Notes that were copied.
    pub notes: u64,
    /// Keys and configs that were copied.
    pub identity: (u64, u64),
    /// Objects that are not what they must be, here or there.
    pub flaws: Vec<Flawed>,
    /// How long it took.
    pub seconds: f64,
}

impl Report {
    fn flaw(&mut self, object: String, e: &Error) {
        let advice = e.advice().unwrap_or(ADVICE).to_owned();
        let flaw = Flawed { object, what: e.chain(), advice };
        if !self.flaws.contains(&flaw) {
            self.flaws.push(flaw);
        }
    }
}

const ADVICE: &str = "`pastfs check --read-data` tells what is hit, `pastfs repair` mends what can be mended";

/// Copies what is missing into a replica, which is made where there is nothing: the replica, open, and what was done. `None` for
/// the replica in a dry run into nothing.
///
/// # Errors
/// `Denied` without a full key; `Misuse` where the place holds anything else; what the stores say where it is not about one
/// object; `Stopped`. What was copied until then is there, and is not copied again.
pub fn run(
    source: &Arc<Repository>,
    store: &Arc<dyn Store>,
    options: &Options,
    observer: &Arc<dyn Observer>,
    stop: &Stop,
) -> Result<(Option<Arc<Repository>>, Report)> {
    source.allow(Right::Manage, "replicating")?;
    let began = clock::now();
    let identity = source.identify(store, options.dry_run, stop)?;
    let mut report = Report { is_new: identity.is_new, ..Report::default() };
    report.identity = (identity.keys, identity.configs);
    for (object, e) in &identity.flaws {
        report.flaw(object.clone(), e);
    }
    let target = match identity.is_new && options.dry_run {
        true => None,
        false => Some(source.beside_as(store.clone(), &identity)?),
    };
    if let Some(target) = &target {
        // R4 asks for a lease for whoever will write a manifest, so that no prune takes what that relies on. Most runs of every
        // day write nothing: a snapshot that both stores list was written under a lease in each of them, and is none of ours. So
        // the lists are looked at first, without one; whatever is missing is not brought over by them: it is listed anew, under
        // a lease (B1).
        let glance = Glance::take(source, target)?;
        let missing = Missing::of(&glance.both(), options, &[]);
        if missing.is_nothing(&glance.both(), options) {
            (report.there, report.forgotten) = (missing.there, missing.forgotten);
            report.seconds = clock::now().seconds_since(began);
            return Ok((Some(target.clone()), report));
        }
    }
    let mut distrust: HashSet<PackId> = HashSet::new();
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let intake =
            Intake::begin(source, target.as_ref(), &options.host, distrust.clone(), options.dry_run, stop)?;
        let mut work = Work { intake, options, report: &mut report };
        let done = work.all();
        let Taken { snapshots, left, packs, named, anew, flaws } = work.intake.end();
        report.copied.extend(snapshots);
        report.left = left.iter().map(|(id, e)| (*id, e.chain())).collect();
        report.packs = (report.packs.0 + packs.0, report.packs.1 + packs.1);
        report.named += named;
        report.anew += anew;
        for (object, e) in &flaws {
            report.flaw(object.clone(), e);
        }
        match done? {
            None => {
                report.seconds = clock::now().seconds_since(began);
                return Ok((target, report));
            }
            Some((gone, e)) => {
                observer.event(Event::Warning(&format!("starting over: {}", e.chain())));
                distrust.extend(gone);
                last = Some(e);
            }
        }
    }
    Err(last.unwrap_or_else(|| Error::bug("a replication ended without an end")))
}

/// What the source has, and the replica has not.
struct Missing {
    /// Oldest first.
    snapshots: Vec<Arc<Snapshot>>,
    /// How many are there already.
    there: u64,
    /// How many are not missed, since the replica has forgotten them.
    forgotten: u64,
}

impl Missing {
    /// `copied` landed before all was begun anew.
    fn of(both: &Both<'_>, options: &Options, copied: &[SnapshotId]) -> Self {
        let (listed, forgotten) = (both.there(), both.forgotten_there());
        let is_meant = |s: &Snapshot| options.snapshots.as_ref().is_none_or(|only| only.contains(&s.id));
        let mut missing = Self { snapshots: Vec::new(), there: 0, forgotten: 0 };
        for s in both.offered().into_iter().filter(|s| is_meant(s)) {
            match () {
                () if copied.contains(&s.id) => {}
                () if listed.contains(&s.id) => missing.there += 1,
                () if forgotten.contains(&s.id) => missing.forgotten += 1,
                () => missing.snapshots.push(s),
            }
        }
        missing
    }

    /// Whether there is nothing to write, no note either.
    fn is_nothing(&self, both: &Both<'_>, options: &Options) -> bool {
        let there = both.there();
        self.snapshots.is_empty()
            && !both.misses_notes(&there, false)
            && !(options.forget && both.misses_notes(&there, true))
    }
}

struct Work<'a> {
    intake: Intake,
    options: &'a Options,
    report: &'a mut Report,
}

impl Work<'_> {
    fn all(&mut self) -> Result<Again> {
        let both = self.intake.both();
        let there = both.there();
        let Missing { snapshots: mut missing, there: known, forgotten } =
            Missing::of(&both, self.options, &self.report.copied);
        (self.report.there, self.report.forgotten) = (known, forgotten);
        // First what says that something is kept.
        let mut spoken_of = there.clone();
        spoken_of.extend(missing.iter().map(|s| s.id));
        self.notes(&spoken_of, false)?;
        // The newest first: who is interrupted has what matters most.
        missing.reverse();
        let mut batch: Vec<Arc<Snapshot>> = Vec::new();
        for s in missing {
            if self.intake.walk(&s)? {
                batch.push(s);
            }
            let is_full = self.intake.planned().1 >= BATCH_BYTES || batch.len() >= BATCH_SNAPSHOTS;
            if is_full && !self.options.dry_run {
                let again = self.intake.settle(std::mem::take(&mut batch))?;
                if again.is_some() {
                    return Ok(again);
                }
            }
        }
        let again = self.intake.settle(batch)?;
        if again.is_none() && self.options.forget {
            // Last: while a snapshot is on its way nothing that it stands on goes.
            self.notes(&there, true)?;
        }
        Ok(again)
    }

    fn notes(&mut self, snapshots: &HashSet<SnapshotId>, are_forgets: bool) -> Result<()> {
        let (copied, flaws) = self.intake.copy_notes(snapshots, are_forgets)?;
        self.report.notes += copied;
        self.intake.taken().flaws.extend(flaws);
        Ok(())
    }
}
