//! `repair from`: what is damaged or missing here and whole in a replica comes back from there, object by object, under its own
//! name where it can.

use super::packs::{PacksOptions, PacksReport, packs};
use crate::clock;
use crate::event::{Event, Observer, Stop};
use crate::fault::{Doing, Error, Fault, Result};
use crate::id::{PackId, SnapshotId};
use crate::repository::{Intake, Named, Repository, Snapshot, Survey, Sweep};
use std::collections::HashSet;
use std::sync::Arc;

/// What the mark of such a repair is for.
const PURPOSE: &str = "repair objects";
/// How often snapshots are begun anew with when prune took the work for dead, or packs that they rely on are gone.
const ATTEMPTS: usize = 4;

/// How to repair.
#[derive(Clone, Debug, Default)]
pub struct FromOptions {
    /// All packs are read, not only those whose size is not what it must be.
    pub read_data: bool,
    /// Nothing is written.
    pub dry_run: bool,
    /// Of this machine.
    pub host: Vec<u8>,
}

/// An object that is damaged or missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Returned {
    /// Its name in the store.
    pub object: String,
    /// What was wrong with it.
    pub what: String,
    /// It is back, or would be in a dry run; else why not.
    pub is_back: std::result::Result<(), String>,
}

/// What became of all.
#[derive(Debug, Default)]
pub struct FromReport {
    /// Keys, configs, notes and manifests.
    pub objects: Vec<Returned>,
    /// Packs.
    pub packs: PacksReport,
    /// How long it took.
    pub seconds: f64,
}

impl FromReport {
    /// Whether anything in the repository is damaged still.
    pub fn is_hurt(&self, dry_run: bool) -> bool {
        self.packs.is_hurt(dry_run) || self.objects.iter().any(|o| dry_run || o.is_back.is_err())
    }
}

/// Mends what the replica `from` has.
///
/// # Errors
/// `Denied` without a full key; what the stores say where it is not about one object; `Stopped`.
pub fn from(
    repository: &Arc<Repository>,
    from: &Arc<Repository>,
    options: &FromOptions,
    observer: &Arc<dyn Observer>,
    stop: &Stop,
) -> Result<FromReport> {
    let began = clock::now();
    repository.may_delete()?;
    let survey = repository.survey(stop)?;
    let mut report = FromReport::default();
    let of_snapshots = |name: &str| match Named::of(name) {
        Some(Named::Snapshot(id)) => Some(id),
        _ => None,
    };
    small(repository, from, &survey, options, &mut report, stop)?;
    // What snapshots need comes first where packs are missing.
    let options_of_packs = PacksOptions {
        read_data: options.read_data,
        dry_run: options.dry_run,
        host: options.host.clone(),
        from: Some(from.clone()),
        ..PacksOptions::default()
    };
    report.packs = packs(repository, &options_of_packs, observer, stop)?;
    let lost: Vec<(SnapshotId, String)> =
        survey.flaws.iter().filter_map(|f| Some((of_snapshots(&f.object)?, f.error.chain()))).collect();
    if !lost.is_empty() {
        manifests(repository, from, &lost, options, &mut report, observer, stop)?;
    }
    report.seconds = clock::now().seconds_since(began);
    Ok(report)
}

/// Keys, configs and notes.
fn small(
    repository: &Arc<Repository>,
    from: &Arc<Repository>,
    survey: &Survey,
    options: &FromOptions,
    report: &mut FromReport,
    stop: &Stop,
) -> Result<()> {
    let mut sweep = None;
    for flaw in &survey.flaws {
        stop.check()?;
        let is_small = matches!(Named::of(&flaw.object), Some(Named::Note(_) | Named::Config(_)))
            || flaw.object.starts_with("keys/");
        if !is_small || !survey.is_listed(&flaw.object) {
            continue;
        }
        let is_damaged = flaw.error.fault() == Fault::Damaged;
        let whole = if is_damaged { repository.whole_in(from, &flaw.object)? } else { None };
        let is_back = match &whole {
            None if !is_damaged => {
                Err("it may be whole: nothing is replaced that another day can read".into())
            }
            None => Err(NOT_THERE.into()),
            Some(_) if options.dry_run => Ok(()),
            Some(whole) => {
                let begun = match &mut sweep {
                    Some(begun) => begun,
                    none => none.insert(Sweep::begin(repository, &options.host, false, PURPOSE)?),
                };
                let is_only = survey.configs.is_empty();
                begun
                    .put_in_place(&flaw.object, whole, is_only)
                    .doing(|| format!("mending {}", flaw.object))?;
                Ok(())
            }
        };
        report.objects.push(Returned { object: flaw.object.clone(), what: flaw.error.chain(), is_back });
    }
    Ok(())
}

const NOT_THERE: &str = "the replica does not have it whole either";

/// Snapshots, by the one way by which snapshots are written: under a lease, once all that they need is there.
fn manifests(
    repository: &Arc<Repository>,
    from: &Arc<Repository>,
    lost: &[(SnapshotId, String)],
    options: &FromOptions,
    report: &mut FromReport,
    observer: &Arc<dyn Observer>,
    stop: &Stop,
) -> Result<()> {
    let mut distrust: HashSet<PackId> = HashSet::new();
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let mut intake =
            Intake::begin(from, Some(repository), &options.host, distrust.clone(), options.dry_run, stop)?;
        intake.replace_damaged();
        let again = take(&mut intake, lost);
        let taken = intake.end();
        if let Some((gone, e)) = again? {
            observer.event(Event::Warning(&format!("starting over: {}", e.chain())));
            distrust.extend(gone);
            last = Some(e);
            continue;
        }
        for (id, what) in lost {
            let why = taken.left.iter().find(|(left, _)| left == id).map(|(_, e)| e.chain());
            let is_back = match taken.snapshots.contains(id) {
                true => Ok(()),
                false => Err(why.unwrap_or_else(|| NOT_THERE.into())),
            };
            report.objects.push(Returned { object: format!("snapshots/{id}"), what: what.clone(), is_back });
        }
        return Ok(());
    }
    Err(last.unwrap_or_else(|| Error::bug("a repair ended without an end")))
}

fn take(intake: &mut Intake, lost: &[(SnapshotId, String)]) -> Result<crate::repository::Again> {
    let mut batch: Vec<Arc<Snapshot>> = Vec::new();
    for (id, _) in lost {
        if let Some(s) = intake.find(id)
            && intake.walk(&s)?
        {
            batch.push(s);
        }
    }
    intake.settle(batch)
}
