//! `replicate`: the same repository in a second place. Snapshots that are missing there are copied, with all that they need
//! and is not there: packs as they are, each proven to its last chunk, then segments of the replica's own, manifests last.
//!
//! The unit is the snapshot, not the pack. Two stores of one repository are pruned each for itself, so that the same chunks lie
//! in other packs here than there: what a missing snapshot needs is looked up in the replica, and only what is not known
//! there comes. Where nothing is missing nothing is walked through. Absence deletes nothing: what was forgotten follows by
//! its notes, and only where that is asked for.

mod walk;

use crate::clock;
use crate::event::{Event, Observer, Stop};
use crate::fault::{Error, Fault, Result};
use crate::id::{PackId, SnapshotId};
use crate::repository::{Fetched, Intake, Landed, Repository, Right, Snapshot};
use crate::storage::Store;
use std::collections::HashSet;
use std::sync::Arc;
use walk::Walk;

/// How often one is begun anew when a prune took the work for dead, or packs that it relied on are gone.
const ATTEMPTS: usize = 4;
/// So much is copied before the snapshots that it belongs to are written: a run that is ended has brought over all but these,
/// and a commit costs a dozen requests.
const BATCH_BYTES: u64 = 2 << 30;
/// So many snapshots wait for what they need at most.
const BATCH_SNAPSHOTS: usize = 256;
/// How often a batch is walked through again, since packs could not be copied or did not hold what was promised. Each time
/// there are fewer packs to choose from.
const ROUNDS: usize = 8;

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
        false => Some(source.beside(store.clone())?),
    };
    let mut distrust: HashSet<PackId> = HashSet::new();
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let intake =
            Intake::begin(source, target.as_ref(), &options.host, distrust.clone(), options.dry_run, stop)?;
        let mut work = Work { source, intake, options, report: &mut report, observer, stop };
        let done = work.all();
        work.intake.end();
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

struct Work<'a> {
    source: &'a Arc<Repository>,
    intake: Intake,
    options: &'a Options,
    report: &'a mut Report,
    observer: &'a Arc<dyn Observer>,
    stop: &'a Stop,
}

/// Why all has to be begun anew.
type Again = Option<(HashSet<PackId>, Error)>;

impl Work<'_> {
    fn all(&mut self) -> Result<Again> {
        let (there, forgotten) = (self.intake.there(), self.intake.forgotten_there());
        let is_meant = |s: &Snapshot| self.options.snapshots.as_ref().is_none_or(|only| only.contains(&s.id));
        let mut missing: Vec<Arc<Snapshot>> = Vec::new();
        let (mut had, mut unwanted) = (0, 0);
        for s in self.intake.offered().into_iter().filter(|s| is_meant(s)) {
            match () {
                () if there.contains(&s.id) => had += 1,
                () if forgotten.contains(&s.id) => unwanted += 1,
                () => missing.push(s),
            }
        }
        // What landed before all was begun anew is there now.
        self.report.there =
            had - (self.report.copied.iter().filter(|id| there.contains(id)).count() as u64).min(had);
        self.report.forgotten = unwanted;
        self.report.left.clear();
        // First what says that something is kept.
        let mut with_notes = there.clone();
        with_notes.extend(missing.iter().map(|s| s.id));
        self.notes(&with_notes, false)?;
        // The newest first: who is interrupted has what matters most.
        missing.reverse();
        let mut walk = Walk::new(self.source)?;
        let mut batch: Vec<Arc<Snapshot>> = Vec::new();
        for s in missing {
            match walk.snapshot(&mut self.intake, &s, &mut self.report.anew, self.stop)? {
                None => batch.push(s),
                Some(e) => self.leave(s.id, &e),
            }
            let is_full = self.intake.planned().1 >= BATCH_BYTES || batch.len() >= BATCH_SNAPSHOTS;
            if is_full && !self.options.dry_run {
                let again = self.settle(&mut walk, std::mem::take(&mut batch))?;
                if again.is_some() {
                    return Ok(again);
                }
            }
        }
        let again = self.settle(&mut walk, batch)?;
        if again.is_none() && self.options.forget {
            // Last: while a snapshot is on its way nothing that it stands on goes.
            self.notes(&there, true)?;
        }
        Ok(again)
    }

    fn notes(&mut self, snapshots: &HashSet<SnapshotId>, with_forgets: bool) -> Result<()> {
        let (copied, flaws) = self.intake.copy_notes(snapshots, with_forgets)?;
        // The others were there the second time.
        self.report.notes =
            if with_forgets && self.options.dry_run { copied } else { self.report.notes + copied };
        for (object, e) in &flaws {
            self.report.flaw(object.clone(), e);
        }
        Ok(())
    }

    fn leave(&mut self, id: SnapshotId, e: &Error) {
        self.report.left.push((id, e.chain()));
    }

    /// Brings over what these snapshots need, then the snapshots.
    fn settle(&mut self, walk: &mut Walk, mut batch: Vec<Arc<Snapshot>>) -> Result<Again> {
        for _ in 0..ROUNDS {
            if !self.fetch()? {
                return self.commit(&batch);
            }
            // Some packs could not come: what was to come from them is looked for elsewhere.
            walk.forget()?;
            let mut whole = Vec::new();
            for s in batch {
                match walk.snapshot(&mut self.intake, &s, &mut self.report.anew, self.stop)? {
                    None => whole.push(s),
                    Some(e) => self.leave(s.id, &e),
                }
            }
            batch = whole;
            if self.intake.planned().0 == 0 {
                return self.commit(&batch);
            }
        }
        Err(Error::new(
            Fault::Busy,
            format!("the packs of {} go faster than they can be copied", self.source.location()),
        )
        .hint("run it again when no prune is at work there"))
    }

    /// Whether the walk has to be made again.
    fn fetch(&mut self) -> Result<bool> {
        let (packs, bytes) = self.intake.planned();
        let before = self.report.packs;
        self.observer.event(Event::Planned { files: before.0 + packs, bytes: before.1 + bytes });
        if self.options.dry_run {
            self.report.packs = (before.0 + packs, before.1 + bytes);
        }
        let Fetched { copied, named, bad, is_doubtful } = self.intake.fetch()?;
        self.report.packs = (self.report.packs.0 + copied.0, self.report.packs.1 + copied.1);
        self.report.named += named;
        for (pack, e) in &bad {
            let hex = pack.hex();
            self.report.flaw(format!("packs/{}/{hex}", &hex[..2]), e);
        }
        Ok(is_doubtful)
    }

    fn commit(&mut self, batch: &[Arc<Snapshot>]) -> Result<Again> {
        let ids: Vec<SnapshotId> = batch.iter().map(|s| s.id).collect();
        match self.intake.commit(&ids)? {
            Landed::Done(copied, left) => {
                self.report.copied.extend(copied);
                for (id, e) in &left {
                    self.report.flaw(format!("snapshots/{id}"), e);
                    self.leave(*id, e);
                }
                Ok(None)
            }
            Landed::Again(gone, e) => Ok(Some((gone, e))),
        }
    }
}
