//! Manifests, notes and configs that are damaged: while one is, no prune knows what is needed. What this machine has proven
//! before is put back; the rest goes where that is wanted, and what it means is said.

use super::SnapshotsOptions;
use super::snapshots::{carry_over, write, written_before};
use crate::event::{Observer, Stop};
use crate::fault::{Doing, Fault, Result};
use crate::format::snapshot::Private;
use crate::id::SnapshotId;
use crate::repository::{Draft, Named, Repository, Snapshot, Survey, Sweep};
use std::ops::ControlFlow;
use std::sync::Arc;

/// What the mark of such a repair is for.
const PURPOSE: &str = "repair objects";

/// What becomes of an object that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// What it said was written anew, as this machine has proven it before, and the damaged object was deleted.
    PutBack,
    /// What it says was written a second time.
    Doubled,
    /// It was deleted by order.
    Dropped,
    /// It is still there.
    Left,
}

/// An object that cannot be read.
#[derive(Clone, Debug)]
pub struct Broken {
    /// Its name in the store.
    pub object: String,
    /// What is wrong with it.
    pub what: String,
    /// What became of it, or would in a dry run.
    pub fate: Fate,
    /// What that means, and what to do.
    pub advice: &'static str,
}

const SNAPSHOT_LEFT: &str = "a machine that has listed the snapshot before can put it back: run this command there, or \
                             `pastfs repair from REPLICA`. With --drop-damaged it is removed: the \
                             snapshot is lost then, and a prune deletes what no other one needs";
const SNAPSHOT_DROPPED: &str = "the snapshot is lost; a prune deletes what no other one needs";
const FORGOTTEN_LEFT: &str =
    "the snapshot is forgotten, and goes with the next prune of this machine, or with --drop-damaged";
const NOTE_LEFT: &str = "it may be a tag, a hold, or say that a snapshot is forgotten. A machine that has listed it before can put \
                         it back: run this command there, or `pastfs repair from REPLICA`. With \
                         --drop-damaged it is removed: what it said holds no more, so look at `pastfs snapshots` after it";
const NOTE_DROPPED: &str =
    "what it said holds no more: look at `pastfs snapshots`, tag, hold and forget again what has to be";
const CONFIG_LEFT: &str = "another config counts. With --drop-damaged that one is written anew with the highest number, and this one \
                           is removed";
const CONFIG_DROPPED: &str = "the config that counts was written anew with the highest number";
const KEY_LEFT: &str = "nothing that is stored is hit, but nobody can open the repository with this key: `pastfs repair \
                        from REPLICA` brings it back; else make another one with `pastfs key add` for whom it was";
const OTHER_LEFT: &str =
    "it is not damaged, or may not be: nothing is deleted that another program, or another day, can read";

/// Mends what can be mended of all that the survey found broken of these kinds.
///
/// # Errors
/// What the store says where it is not about one object; `Stopped`.
pub fn objects(
    repository: &Arc<Repository>,
    survey: &Survey,
    options: &SnapshotsOptions,
    observer: &Arc<dyn Observer>,
    stop: &Stop,
) -> Result<Vec<Broken>> {
    let mut found: Vec<(Option<Named>, Broken)> = Vec::new();
    for flaw in &survey.flaws {
        let named = Named::of(&flaw.object);
        // What is not there any more is told by listings, and what has no name of ours is not ours.
        if (named.is_none() && !flaw.object.starts_with("keys/")) || !survey.is_listed(&flaw.object) {
            continue;
        }
        let is_damaged = flaw.error.fault() == Fault::Damaged;
        let (fate, advice) = match named {
            _ if !is_damaged => (Fate::Left, OTHER_LEFT),
            Some(named) => fate(repository, named, options.drop_damaged)?,
            None => (Fate::Left, KEY_LEFT),
        };
        let broken = Broken { object: flaw.object.clone(), what: flaw.error.chain(), fate, advice };
        found.push((named, broken));
    }
    let only = survey.configs.first().filter(|_| survey.configs.len() == 1);
    found.extend(only.map(|n| (None, lonely(*n))));
    let is_changed = |(_, b): &&(_, Broken)| b.fate != Fate::Left;
    if options.dry_run || !found.iter().any(|f| is_changed(&f)) {
        return Ok(found.into_iter().map(|(_, broken)| broken).collect());
    }
    let sweep = Sweep::begin(repository, &options.host, false, PURPOSE)?;
    // Notes first: what a snapshot that is written anew takes over is said by then.
    found.sort_by_key(|(named, _)| matches!(named, Some(Named::Snapshot(_))));
    let mut is_config_new = only.is_some();
    if is_config_new {
        repository.renew_config().doing(|| "writing a second config")?;
    }
    for (named, broken) in &mut found {
        stop.check()?;
        let Some(named) = named.filter(|_| broken.fate != Fate::Left) else { continue };
        let doing = || format!("mending {}", broken.object);
        let is_put_back = broken.fate == Fate::PutBack;
        let is_done = match named {
            Named::Note(id) => !is_put_back || repository.say_again(&id)?,
            Named::Snapshot(id) if is_put_back => {
                put_back(repository, &id, options, observer, stop).doing(doing)?
            }
            Named::Snapshot(id) => repository.forget_unread(&id).map(|()| true).doing(doing)?,
            Named::Config(_) => {
                if !std::mem::replace(&mut is_config_new, true) {
                    repository.renew_config().doing(doing)?;
                }
                true
            }
        };
        if !(is_done && sweep.delete_unreadable(named).doing(doing)?) {
            (broken.fate, broken.advice) = (Fate::Left, OTHER_LEFT);
        }
    }
    Ok(found.into_iter().map(|(_, broken)| broken).collect())
}

/// A config that has no other beside it.
fn lonely(number: u64) -> Broken {
    Broken {
        object: format!("config/{number}"),
        what: "there is no second config".into(),
        fate: Fate::Doubled,
        advice: "",
    }
}

/// What can be done.
fn fate(repository: &Repository, named: Named, may_drop: bool) -> Result<(Fate, &'static str)> {
    let drop_or = |dropped, left| if may_drop { (Fate::Dropped, dropped) } else { (Fate::Left, left) };
    Ok(match named {
        Named::Note(id) if repository.can_say_again(&id)? => (Fate::PutBack, ""),
        Named::Note(_) => drop_or(NOTE_DROPPED, NOTE_LEFT),
        Named::Snapshot(id) => match repository.proven_before(&id)? {
            Some((_, true)) => (Fate::PutBack, ""),
            // An earlier run may have been ended before it deleted the damaged one.
            Some((s, false)) if written_before(&repository.snapshots()?, &s, &s.manifest.root).is_some() => {
                (Fate::PutBack, "")
            }
            Some((_, false)) => drop_or(SNAPSHOT_DROPPED, FORGOTTEN_LEFT),
            None => drop_or(SNAPSHOT_DROPPED, SNAPSHOT_LEFT),
        },
        Named::Config(_) => drop_or(CONFIG_DROPPED, CONFIG_LEFT),
    })
}

/// Writes a snapshot anew whose manifest is damaged: same time, host, tags and tree. While the damaged one is listed nobody
/// deletes what it needs: who remembers it counts it, and who does not deletes nothing. Whether it is there.
fn put_back(
    repository: &Arc<Repository>,
    id: &SnapshotId,
    options: &SnapshotsOptions,
    observer: &Arc<dyn Observer>,
    stop: &Stop,
) -> Result<bool> {
    let Some((s, is_visible)) = repository.proven_before(id)? else { return Ok(false) };
    if !is_visible {
        return Ok(written_before(&repository.snapshots()?, &s, &s.manifest.root).is_some());
    }
    let written = write(repository, options, observer, stop, |writer| {
        let is_listed = writer.live().iter().any(|l| l.id == *id);
        let before = written_before(writer.live(), &s, &s.manifest.root);
        if !is_listed || before.is_some() {
            writer.abandon()?;
            return Ok(ControlFlow::Break(before));
        }
        Ok(ControlFlow::Continue((writer, draft(repository, &s))))
    })?;
    match written {
        ControlFlow::Continue(new) | ControlFlow::Break(Some(new)) => {
            carry_over(repository, &s, &new, true).map(|()| true)
        }
        ControlFlow::Break(None) => Ok(false),
    }
}

fn draft(repository: &Repository, s: &Snapshot) -> Draft {
    let m = &s.manifest;
    // A long list of unread files is not remembered, and of very many paths nothing; what was saved lies in the tree.
    let private = repository.private(s);
    let private = private.unwrap_or_else(|_| Private { paths: vec![b"/".to_vec()], ..Private::default() });
    Draft {
        time: Some(m.time),
        host: m.host.clone(),
        tags: s.tags.clone(),
        root: m.root,
        parent: None,
        totals: m.totals,
        private,
    }
}
