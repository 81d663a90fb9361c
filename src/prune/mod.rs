//! `prune`: gives back the space of what nobody needs, beside backups, mounts and other prunes, without a lock.
//!
//! A pack goes in two steps. One run *retires* it: its chunks are absent to backups from then on, and those that are needed
//! were stored anew before. A later run deletes it, once everybody who may write a snapshot has seen that it is retired, a
//! grace time for readers is over, and every chunk of it that turns out to be needed lies elsewhere. Each run does both. It
//! may be killed at any point: the next one begins anew, and finds what is done.

mod census;
mod choice;

pub use choice::Unused;

use crate::clock;
use crate::event::{Event, Observer, Stop};
use crate::fault::{Error, Fault, Result};
use crate::id::{ChunkId, PackId, SessionId};
use crate::index::Retired;
use crate::repository::{Moved, Mover, Repository, Session, Sweep};
use crate::seal::Compression;
use census::{Census, Terms, WANTED};
use choice::{Bounds, Choice, choose};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// How long what is forgotten or retired stays by default, in seconds: whoever reads it may finish, and `forget` can be taken
/// back.
pub const GRACE_SECONDS: i64 = 24 * 3600;
/// How often `now` looks whether those whom it waits for have ended or seen what was retired.
const WAIT: Duration = Duration::from_secs(2);

/// What to prune, and how much work may go into it.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long what is forgotten or retired stays, in seconds.
    pub grace: i64,
    /// What may stay although nobody needs it.
    pub max_unused: Unused,
    /// Bytes of packs that are moved at most.
    pub max_repack: u64,
    /// Retires and deletes in one go: waits for sessions that have not seen what was retired.
    pub now: bool,
    /// Decides, and does nothing.
    pub dry_run: bool,
    /// Of what is moved.
    pub compression: Compression,
    /// Who prunes, for the others.
    pub host: Vec<u8>,
    /// Sessions that are ended by order.
    pub drop: HashSet<SessionId>,
}

/// What a run is about to do.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Snapshots that are listed; that are forgotten, and stay for now; whose manifests are deleted.
    pub snapshots: (u64, u64, u64),
    /// All packs that are there, and their bytes.
    pub packs: (u64, u64),
    /// Chunks that listed snapshots need, and their bytes before compression.
    pub wanted: (u64, u64),
    /// Retired packs that are deleted, and their bytes.
    pub delete: (u64, u64),
    /// Packs that nobody needs, or that no index names: retired.
    pub idle: u64,
    /// Packs that are emptied and retired.
    pub emptied: u64,
    /// Bytes of the packs that are retired by this run.
    pub retire: u64,
    /// Bytes that are moved for it, as they are stored.
    pub moved: u64,
    /// Retired packs that have to wait, and their bytes.
    pub waiting: (u64, u64),
    /// Bytes that nobody needs and that stay: of what is too young; of what is not worth it.
    pub left: (u64, u64),
    /// Those who hold back what is retired or forgotten.
    pub sessions: Vec<Holder>,
}

/// A session that counts.
#[derive(Clone, Debug)]
pub struct Holder {
    /// Its name.
    pub id: SessionId,
    /// Whose.
    pub host: Vec<u8>,
    /// What it does.
    pub purpose: Vec<u8>,
    /// Since when, in seconds by the store's clock.
    pub since: i64,
    /// It was silent for so long that it will not count in the next run.
    pub is_silent: bool,
}

/// What a run has done.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What it meant to do; of the last pass.
    pub plan: Plan,
    /// Manifests of forgotten snapshots that were deleted.
    pub snapshots: u64,
    /// Notes that were deleted: on snapshots that are gone for long, and on losses that are healed.
    pub notes: u64,
    /// Packs that were deleted, and their bytes.
    pub deleted: (u64, u64),
    /// Packs that were retired.
    pub retired: u64,
    /// Chunks that were moved, and their bytes before compression.
    pub moved: (u64, u64),
    /// Bytes that were stored for it.
    pub stored: u64,
    /// Segments that were merged, and old ones that were deleted.
    pub segments: (u64, u64),
    /// Packs that were kept because something in them is damaged, and why.
    pub damaged: Vec<(PackId, String)>,
}

/// Prunes. `tell` hears the plan of each pass before anything is done.
///
/// # Errors
/// What the store says; `Damaged` and `Newer` where anything that is listed is not whole or not known: nothing was deleted
/// then; `Misuse` for `now` where lists may be stale; `Stopped`.
pub fn run(
    repository: &Arc<Repository>,
    options: &Options,
    observer: &Arc<dyn Observer>,
    stop: &Stop,
    tell: &mut dyn FnMut(&Plan),
) -> Result<Report> {
    repository.may_delete()?;
    if repository.lists_may_be_stale() && (options.now || options.grace < GRACE_SECONDS) {
        return Err(Error::misuse(
            "here lists of files may be stale, and nothing is deleted before a day is over",
        )
        .hint("run it without --now and --grace"));
    }
    let mut run = Run { repository, options, observer, stop, report: Report::default() };
    if options.now && !options.dry_run {
        let dead = run.pass(0, Steps::Retire, tell)?;
        if dead > 0 {
            let text =
                "a session that was silent for an hour was ended, and may still be about to write a snapshot";
            return Err(Error::new(Fault::Busy, text).hint(
                "nothing was deleted. Run it again: a session that was ended counts for one run and no more",
            ));
        }
        run.wait()?;
        run.pass(0, Steps::Delete, tell)?;
    } else {
        run.pass(if options.now { 0 } else { options.grace }, Steps::Both, tell)?;
    }
    Ok(run.report)
}

/// Which steps a pass takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Steps {
    Retire,
    Delete,
    Both,
}

struct Run<'a> {
    repository: &'a Arc<Repository>,
    options: &'a Options,
    observer: &'a Arc<dyn Observer>,
    stop: &'a Stop,
    report: Report,
}

impl Run<'_> {
    /// How many sessions it took for dead.
    fn pass(&mut self, grace: i64, steps: Steps, tell: &mut dyn FnMut(&Plan)) -> Result<usize> {
        let options = self.options;
        let mut sweep = Sweep::begin(self.repository, &options.host, options.dry_run, "prune")?;
        let terms = Terms {
            repository: self.repository,
            grace,
            drop: &options.drop,
            is_dry: options.dry_run,
            observer: self.observer,
            stop: self.stop,
        };
        let census = Census::take(&terms, &mut sweep)?;
        let oldest = census.oldest_session();
        let bounds = Bounds {
            // Without a grace time as well what is younger than the list of leases is left to who may just have stored it.
            packs_before: (census.now - grace).min(oldest),
            // Without a grace time as well: the packs of another prune are strays until its segment is there.
            strays_before: (census.now - GRACE_SECONDS.max(grace)).min(oldest),
            max_unused: options.max_unused,
            max_repack: options.max_repack,
        };
        let choice = if steps == Steps::Delete { Choice::default() } else { choose(&census, &bounds) };
        let plan = plan(&census, &choice, steps);
        tell(&plan);
        self.report.plan = plan;
        if options.dry_run {
            return Ok(census.dead);
        }
        if steps != Steps::Retire {
            self.delete(&mut sweep, &census, &bounds)?;
        }
        if steps != Steps::Delete {
            self.retire(&mut sweep, &census, &choice)?;
        }
        if steps != Steps::Retire {
            self.stop.check()?;
            self.report.segments = sweep.merge_segments(self.stop)?;
        }
        Ok(census.dead)
    }

    /// Manifests first: a snapshot that is listed has not lost anything. Then P4.
    fn delete(&mut self, sweep: &mut Sweep, census: &Census, bounds: &Bounds) -> Result<()> {
        for id in &census.doomed {
            self.stop.check()?;
            sweep.delete_snapshot(id)?;
            self.report.snapshots += 1;
        }
        let due: HashSet<PackId> = census.due.iter().map(|(r, _)| r.pack).collect();
        let needed: Vec<&census::Pack> =
            census.packs.iter().filter(|p| due.contains(&p.id) && !p.frames.is_empty()).collect();
        let mut kept = HashSet::new();
        if !needed.is_empty() {
            let absent = absent(census).collect();
            let mut mover = Mover::begin(sweep, absent, self.options.compression, self.stop.clone())?;
            let wanted = |id: &ChunkId| Ok(census.marks.greatest(id)?.is_some());
            for (pack, is_out) in self.move_all_out(&mut mover, &needed, wanted)? {
                if !is_out {
                    kept.insert(pack);
                }
            }
            self.report.stored += mover.finish()?;
        }
        let mut deleted: Vec<Retired> = census.gone.clone();
        for r in &deleted {
            // A run that was killed may have left what heals the pack.
            sweep.delete_pack(&r.pack)?;
        }
        let result = self.delete_packs(sweep, census, &kept, &mut deleted);
        // Also of what was deleted before something went wrong.
        sweep.mark_deleted(&deleted)?;
        result?;
        for (pack, size, _) in census.orphans.iter().filter(|(_, _, at)| *at < bounds.strays_before) {
            self.stop.check()?;
            if sweep.delete_parity(pack)? {
                self.report.deleted.1 += size;
            }
        }
        // As old as strays: whoever has begun without the note of a loss, or with it, has found the chunk.
        let healed = census.healed.iter().filter(|(_, at)| *at < bounds.strays_before).map(|(id, _)| id);
        for id in census.spent.iter().chain(healed) {
            self.stop.check()?;
            sweep.delete_note(id)?;
            self.report.notes += 1;
        }
        Ok(())
    }

    fn delete_packs(
        &mut self,
        sweep: &Sweep,
        census: &Census,
        kept: &HashSet<PackId>,
        deleted: &mut Vec<Retired>,
    ) -> Result<()> {
        for (retired, size) in census.due.iter().filter(|(r, _)| !kept.contains(&r.pack)) {
            self.stop.check()?;
            sweep.delete_pack(&retired.pack)?;
            deleted.push(*retired);
            self.report.deleted.0 += 1;
            self.report.deleted.1 += size;
        }
        Ok(())
    }

    /// P6.
    fn retire(&mut self, sweep: &mut Sweep, census: &Census, choice: &Choice) -> Result<()> {
        let id_of = |at: &usize| census.packs[*at].id;
        let mut ended: Vec<PackId> =
            choice.idle.iter().map(id_of).chain(choice.strays.iter().copied()).collect();
        if !choice.emptied.is_empty() {
            let emptied: HashSet<PackId> =
                choice.emptied.iter().chain(&choice.idle).map(id_of).chain(absent(census)).collect();
            let mut mover = Mover::begin(sweep, emptied, self.options.compression, self.stop.clone())?;
            self.observer.event(Event::Planned { files: 0, bytes: choice.moved });
            let wanted = |id: &ChunkId| Ok(census.marks.greatest(id)? == Some(WANTED));
            let packs: Vec<&census::Pack> = choice.emptied.iter().map(|at| &census.packs[*at]).collect();
            for (pack, is_out) in self.move_all_out(&mut mover, &packs, wanted)? {
                if is_out {
                    ended.push(pack);
                }
            }
            self.report.stored += mover.finish()?;
        }
        // In the order in which they lie: a segment that tells of it is read by all.
        ended.sort_unstable();
        sweep.retire(&ended)?;
        self.report.retired += ended.len() as u64;
        Ok(())
    }

    /// Moves what is wanted out of packs: of each, whether all went well; else it must stay.
    fn move_all_out(
        &mut self,
        mover: &mut Mover,
        packs: &[&census::Pack],
        mut wanted: impl FnMut(&ChunkId) -> Result<bool>,
    ) -> Result<Vec<(PackId, bool)>> {
        let index = self.repository.index()?.clone();
        let info = |pack: &census::Pack| {
            index.pack(&pack.id)?.ok_or_else(|| {
                Error::new(Fault::Busy, format!("the index has lost pack {}", pack.id.short()))
                    .hint("run it again; nothing is lost")
            })
        };
        let mut moved_out = Vec::with_capacity(packs.len());
        // What the mover was told of and has not taken yet.
        let (mut told, mut next) = (VecDeque::new(), packs.iter());
        loop {
            while (told.is_empty() || mover.wants_more())
                && let Some(pack) = next.next()
            {
                let info = info(pack)?;
                mover.plan(&info, pack.frames.iter());
                told.push_back((info, *pack));
            }
            let Some((info, pack)) = told.pop_front() else { return Ok(moved_out) };
            let Moved { chunks, bytes, bad, error } = mover.take(&info, pack.frames.iter(), &mut wanted)?;
            self.report.moved.0 += chunks;
            self.report.moved.1 += bytes;
            if !bad.is_empty() {
                let why = error.map_or_else(String::new, |e| e.chain());
                self.report.damaged.push((pack.id, why));
            }
            moved_out.push((pack.id, bad.is_empty()));
        }
    }

    /// Until nobody counts who has not seen what was retired and forgotten.
    fn wait(&self) -> Result<()> {
        let mut told = false;
        loop {
            self.stop.check()?;
            let ended = self.repository.index()?.sweeps()?;
            let notes = self.repository.open_forgets()?;
            let sees = |s: &Session| {
                ended.iter().all(|sweep| s.has_seen(sweep)) && notes.iter().all(|note| s.has_seen_note(note))
            };
            let sessions = self.repository.sessions()?;
            let Some(first) = sessions.iter().find(|s| !s.done && !sees(s)) else { return Ok(()) };
            if !told {
                let text = match &first.error {
                    Some(e) => format!("the lease {} cannot be read: {}", first.id.hex(), e.chain()),
                    None => format!(
                        "waiting for a {} of {}, which began before packs were retired; it can be stopped, and run again",
                        String::from_utf8_lossy(&first.purpose),
                        String::from_utf8_lossy(&first.host)
                    ),
                };
                self.observer.event(Event::Warning(&text));
                told = true;
            }
            clock::sleep(WAIT);
        }
    }
}

fn absent(census: &Census) -> impl Iterator<Item = PackId> {
    census.packs.iter().filter(|p| p.state == census::State::Absent).map(|p| p.id)
}

fn plan(census: &Census, choice: &Choice, steps: Steps) -> Plan {
    let there = census.packs.iter().filter(|p| p.state != census::State::Absent);
    let strays: u64 = census.strays.iter().map(|(_, size, _)| size).sum();
    let holder = |s: &Session| Holder {
        id: s.id,
        host: s.host.clone(),
        purpose: s.purpose.clone(),
        since: s.since,
        is_silent: s.is_silent(census.now),
    };
    let deletes = steps != Steps::Retire;
    let due: (u64, u64) = census.due.iter().fold((0, 0), |sum, (_, size)| (sum.0 + 1, sum.1 + size));
    let (due, later) = if deletes { (due, (0, 0)) } else { ((0, 0), due) };
    let doomed = census.doomed.len() as u64;
    Plan {
        snapshots: (
            census.visible as u64,
            census.kept as u64 + if deletes { 0 } else { doomed },
            if deletes { doomed } else { 0 },
        ),
        packs: (
            there.clone().count() as u64 + census.strays.len() as u64,
            there.map(|p| p.size).sum::<u64>() + strays,
        ),
        wanted: census.wanted,
        delete: due,
        idle: (choice.idle.len() + choice.strays.len()) as u64,
        emptied: choice.emptied.len() as u64,
        retire: choice.bytes,
        moved: choice.moved,
        waiting: (census.waiting.0 + later.0, census.waiting.1 + later.1),
        left: choice.left,
        sessions: census.sessions.iter().map(holder).collect(),
    }
}
