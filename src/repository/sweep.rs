//! A sweep: one run of whoever ends packs. It writes no manifest and so holds no lease that others would wait for, but a mark
//! among the leases says that it is at work, and the store's time of a mark is the clock that all ages are told by.

use super::healing::parity_name;
use super::lease::lease_name;
use super::listing::{manifest_name, note_name};
use super::process;
use super::reader::pack_name;
use super::{Repository, Right};
use crate::clock::{self, Time};
use crate::fault::{Doing, Error, Result};
use crate::format::object::Kind;
use crate::format::segment::Retirement;
use crate::format::snapshot::Lease;
use crate::id::{NoteId, PackId, SessionId, SnapshotId};
use crate::index::Retired;
use std::sync::Arc;

/// A run that is older than this deletes nothing more: who slept so long decided on what is not true any more.
pub const DELETES_FOR_SECONDS: i64 = 24 * 3600;
/// Most retirements of one segment: at about 180 bytes with their signature, 2 MiB.
const RETIREMENTS_MAX: usize = 10_000;
/// What a mark says that it is for: only these are marks, since the lease of a writer that is over looks the same otherwise.
pub(super) const PURPOSES: [&str; 4] = ["prune", "repair index", "repair packs", "repair objects"];

/// A run. Its mark goes when it is dropped; one that was killed leaves its mark, which counts for a day, or until somebody on the
/// same machine sees that the process is gone.
pub struct Sweep {
    repository: Arc<Repository>,
    id: SessionId,
    host: Vec<u8>,
    purpose: &'static str,
    began: Time,
    /// Nothing is written.
    is_dry: bool,
    /// Number of the last mark.
    number: u64,
    /// The store's time of the first mark, in seconds.
    since: i64,
    /// Ours at the same moment, by a clock that goes on in sleep and that nobody sets.
    started: i64,
}

impl Sweep {
    /// Marks the run, before it lists anything; `purpose` is one of those that marks have, such as `prune`.
    /// A dry one writes nothing, and takes this machine's clock for the store's.
    ///
    /// # Errors
    /// `Denied` without a full key; what the store says.
    pub fn begin(
        repository: &Arc<Repository>,
        host: &[u8],
        is_dry: bool,
        purpose: &'static str,
    ) -> Result<Self> {
        repository.allow(Right::Manage, "ending packs")?;
        if !PURPOSES.contains(&purpose) {
            return Err(Error::bug("a sweep for a purpose that nobody knows"));
        }
        let mut sweep = Self {
            repository: repository.clone(),
            id: SessionId(crate::seal::random()?),
            host: host.to_vec(),
            purpose,
            began: clock::now(),
            is_dry,
            number: 0,
            since: 0,
            started: clock::running(),
        };
        sweep.since = sweep.mark()?;
        Ok(sweep)
    }

    /// The name of the run.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Where.
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// Writes the mark of this number; the store's time of it in seconds.
    fn mark(&self) -> Result<i64> {
        if self.is_dry {
            return Ok(clock::now().seconds);
        }
        let lease = Lease {
            session: self.id,
            number: self.number,
            began: self.began,
            written: clock::now(),
            sweeps: Vec::new(),
            forgets: Vec::new(),
            host: self.host.clone(),
            purpose: self.purpose.into(),
            // Nobody has to wait for it.
            done: true,
            process: process::this(),
            unknown: Default::default(),
        };
        let object = self.repository.keys.seal_object(Kind::Lease, lease.encode())?;
        let name = lease_name(&self.id, self.number);
        let doing = || format!("writing to {}", self.repository.location());
        self.repository.store.put(&name, &object).doing(doing)?;
        Ok(self.repository.store.modified(&name).doing(doing)?.seconds)
    }

    /// Now, in seconds by the store's clock: the time of an object that was just written.
    ///
    /// # Errors
    /// What the store says.
    pub fn now(&mut self) -> Result<i64> {
        if self.is_dry {
            return self.mark();
        }
        self.number += 1;
        let now = self.mark()?;
        // The older one goes last: there is always one.
        let _ = self.repository.store.delete(&lease_name(&self.id, self.number - 1));
        Ok(now)
    }

    /// When the run began, in seconds by the store's clock.
    pub fn since(&self) -> i64 {
        self.since
    }

    /// Whether it may still delete.
    ///
    /// # Errors
    /// One that says so, when it is too old.
    pub fn is_young(&self) -> Result<()> {
        if self.is_dry {
            return Err(Error::bug("a dry run deletes"));
        }
        match clock::running() - self.started < DELETES_FOR_SECONDS {
            true => Ok(()),
            false => Err(Error::misuse("this run began more than a day ago and deletes nothing more")
                .hint("run it again: it goes on where this one was")),
        }
    }

    /// Ends packs: from now on their chunks are absent to backups. Final; the packs stay where they are, and readers go on
    /// reading them. A name of its own for each segment: whoever names a sweep as seen must have seen all that it ended, and
    /// a list can fall between two segments.
    ///
    /// # Errors
    /// What the store says.
    pub fn retire(&mut self, packs: &[PackId]) -> Result<()> {
        if packs.is_empty() {
            return Ok(());
        }
        let retired = self.now()?;
        for some in packs.chunks(RETIREMENTS_MAX) {
            let sweep = SessionId(crate::seal::random()?);
            let end = |pack: &PackId| Retired { pack: *pack, sweep, retired, deleted: None };
            self.publish(&some.iter().map(end).collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// Says again that packs are retired, as it was said before in segments that are lost.
    ///
    /// # Errors
    /// What the store says.
    pub fn retire_again(&mut self, packs: &[Retired]) -> Result<()> {
        for some in packs.chunks(RETIREMENTS_MAX) {
            self.publish(some)?;
        }
        Ok(())
    }

    /// Says of retired packs that they are deleted.
    ///
    /// # Errors
    /// What the store says.
    pub fn mark_deleted(&mut self, packs: &[Retired]) -> Result<()> {
        if packs.is_empty() {
            return Ok(());
        }
        let deleted = Some(self.now()?);
        for some in packs.chunks(RETIREMENTS_MAX) {
            self.publish(&some.iter().map(|r| Retired { deleted, ..*r }).collect::<Vec<_>>())?;
        }
        Ok(())
    }

    fn publish(&self, retired: &[Retired]) -> Result<()> {
        let retirement = |r: &Retired| Retirement {
            pack: r.pack,
            sweep: r.sweep,
            retired: r.retired,
            deleted: r.deleted,
            unknown: Default::default(),
        };
        let retirements: Vec<Retirement> = retired.iter().map(retirement).collect();
        let published = self.repository.publish(self.id, &[], &retirements)?;
        self.repository.index()?.apply(vec![published.applied], &[], Vec::new())
    }

    /// Deletes a pack; the caller has seen that nobody needs it.
    ///
    /// # Errors
    /// What the store says; [`Sweep::is_young`].
    pub fn delete_pack(&self, pack: &PackId) -> Result<()> {
        self.delete(&pack_name(pack))?;
        // What heals it goes last; most have none.
        self.delete(&parity_name(pack))
    }

    /// Deletes what heals a pack that is gone; where a pack is there all the same, nothing. Whether it was deleted.
    ///
    /// # Errors
    /// As [`Sweep::delete_pack`].
    pub fn delete_parity(&self, pack: &PackId) -> Result<bool> {
        if self.repository.has_any_pack(pack)? {
            return Ok(false);
        }
        self.delete(&parity_name(pack)).map(|()| true)
    }

    /// Deletes the manifest of a snapshot.
    ///
    /// # Errors
    /// As [`Sweep::delete_pack`].
    pub fn delete_snapshot(&self, id: &SnapshotId) -> Result<()> {
        self.delete(&manifest_name(id))
    }

    /// Deletes a note that says nothing of what is there.
    ///
    /// # Errors
    /// As [`Sweep::delete_pack`].
    pub fn delete_note(&self, id: &NoteId) -> Result<()> {
        self.delete(&note_name(id))
    }

    /// The same for any object.
    pub(super) fn delete(&self, name: &str) -> Result<()> {
        self.is_young()?;
        self.repository.store.delete(name).doing(|| format!("deleting {name}"))
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        if self.is_dry {
            return;
        }
        // What is left of it counts for a day, and does no harm.
        let _ = self.repository.store.delete(&lease_name(&self.id, self.number));
    }
}
