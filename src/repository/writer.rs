//! Writing a snapshot: a lease, the stages that its chunks walk through, and the one function that commits.

use super::Repository;
use super::lease::{self, Begun, Held};
use super::listing::{Listing, Snapshot, note_name};
use super::reader::pack_name;
use super::stages::{Frames, Stages};
use crate::clock::{self, Time};
use crate::event::{Event, Stop};
use crate::fault::{Doing, Error, Result};
use crate::format::object::Kind as Object;
use crate::format::pack::Space;
use crate::format::snapshot::{Action, Manifest, Note, Private, Totals};
use crate::id::{ChunkId, NoteId, PackId, SessionId, SnapshotId};
use crate::seal::Compression;
use crate::tree::Sink;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// How often a session is begun: it takes an hour of sleep in its first moments to lose one.
const BEGINNINGS: usize = 3;
/// Above so many foreign packs one list of `packs/` is cheaper than a look at each (B6).
const LOOK_EACH_MAX: usize = 500;

/// For a new writer.
pub struct WriterOptions {
    /// Of new frames.
    pub compression: Compression,
    /// Whose backup it is.
    pub host: Vec<u8>,
    /// What is done, as others are told who see the lease: `backup`.
    pub purpose: &'static str,
    /// Nothing is written; ids and numbers only.
    pub dry_run: bool,
    /// Packs that were found missing: what they hold does not count as known.
    pub distrust: HashSet<PackId>,
    /// Ends the work.
    pub stop: Stop,
}

/// What the backup knows when it commits; the rest of the manifest is the writer's.
pub struct Draft {
    /// The time that names the snapshot; now, unless asked for otherwise.
    pub time: Option<Time>,
    /// Host name.
    pub host: Vec<u8>,
    /// Tags.
    pub tags: Vec<Vec<u8>>,
    /// Root page.
    pub root: ChunkId,
    /// What it was compared with.
    pub parent: Option<SnapshotId>,
    /// Counts; what was stored is filled in.
    pub totals: Totals,
    /// Paths, and what was not read.
    pub private: Private,
}

/// Whether a snapshot of the host would do as the parent of a backup.
pub type IsParent<'a> = &'a dyn Fn(&Snapshot) -> bool;

/// How a commit ended.
pub enum Commit {
    /// The snapshot is there, whole and durable.
    Done(SnapshotId, Totals),
    /// Prune took the session for dead, or packs that it relied on are gone: start over, without
    /// trusting those packs. What was uploaded is found again.
    Again(HashSet<PackId>, Error),
}

/// Writes one snapshot. Dropped without `commit` or `abandon` it leaves its lease to expire.
pub struct Writer {
    repository: Arc<Repository>,
    session: SessionId,
    lease: Option<Held>,
    stages: Stages,
    live: Vec<Arc<Snapshot>>,
    lost: HashSet<ChunkId>,
    began: Time,
    stop: Stop,
    current: Frames,
}

impl Writer {
    /// Takes a lease, lists, and gets ready (B1 to B3).
    pub fn begin(repository: &Arc<Repository>, options: WriterOptions) -> Result<Self> {
        Self::begin_with(repository, options, None)
    }

    /// The same for a backup, which may do with what this machine knows of a far store. What others have added since is
    /// read before anything new is stored, and else [`KNOWN_DO_SECONDS`] later; so a backup of nothing new costs the same
    /// however many others there are. [`Writer::live`] may lack what others have added; in a store with thousands of
    /// snapshots it is the newest one alone that `is_parent`.
    pub fn begin_backup(
        repository: &Arc<Repository>,
        options: WriterOptions,
        is_parent: IsParent<'_>,
    ) -> Result<Self> {
        let known_do = repository.knows_enough().then_some(is_parent);
        Self::begin_with(repository, options, known_do)
    }

    fn begin_with(
        repository: &Arc<Repository>,
        options: WriterOptions,
        known_do: Option<IsParent<'_>>,
    ) -> Result<Self> {
        let began = clock::now();
        repository.may_add("adding a snapshot", &options.host)?;
        let (lease, listing, session, is_behind) = if options.dry_run {
            let listing = repository.list()?;
            repository.sync_index()?;
            (None, listing, SessionId([0; 16]), false)
        } else {
            let (held, listing, is_behind) = lease_or_again(repository, &options, known_do)?;
            let session = held.session();
            (Some(held), listing, session, is_behind)
        };
        let compression = (!options.dry_run).then_some(options.compression);
        let mut stages = Stages::start(repository, session, options.distrust, compression)?;
        if is_behind {
            stages.behind();
        }
        Ok(Self {
            stages,
            repository: repository.clone(),
            session,
            lease,
            live: listing.live(),
            lost: still_lost(repository, &listing)?,
            began,
            stop: options.stop,
            current: Frames::Small,
        })
    }

    /// The snapshots that were there when the lease was; the parent comes from these (B2).
    pub fn live(&self) -> &[Arc<Snapshot>] {
        &self.live
    }

    /// The name of this run, which its manifest will bear.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Chunks that snapshots need and that the repository has lost, as a repair has noted. What a parent's trees name of
    /// these must be stored again.
    pub fn lost(&self) -> &HashSet<ChunkId> {
        &self.lost
    }

    /// Which frames the data chunks that follow go to.
    pub fn frames(&mut self, frames: Frames) {
        self.current = frames;
    }

    /// Takes a chunk: gives its id, and whether it is new to the store.
    ///
    /// # Errors
    /// `Stopped` once somebody has asked; the first failure of any stage.
    pub fn put_in(&mut self, frames: Frames, bytes: &[u8]) -> Result<(ChunkId, bool)> {
        self.stop.check()?;
        self.stages.put(frames, bytes)
    }

    /// Takes a chunk that is named already. True if it is new to the store. Errors as of [`Writer::put_in`].
    pub fn put_as(&mut self, frames: Frames, id: ChunkId, bytes: &[u8]) -> Result<bool> {
        self.stop.check()?;
        self.stages.put_as(frames, id, bytes)
    }

    /// How long the caller had to wait for the stages since this was asked last.
    pub fn blocked(&mut self) -> Duration {
        self.stages.blocked()
    }

    /// Remembers, right before the next segment, that a file's content is stored: a killed backup need not read
    /// it again. The reader of the record looks whether the chunks are known.
    pub fn record(&self, key: [u8; 16], value: Vec<u8>) {
        self.stages.record(key, value);
    }

    /// Whether a chunk, of this length where it is known, is stored already, so that the snapshot may rely on it.
    pub fn knows(&self, id: &ChunkId, len: Option<u32>) -> bool {
        self.stages.knows(id, len)
    }

    /// Stops without a snapshot: what is complete is stored, so that the next backup finds it.
    ///
    /// # Errors
    /// What storing says; there is nothing to be undone.
    pub fn abandon(mut self) -> Result<()> {
        if self.lease.is_none() {
            return Ok(());
        }
        let finished = self.stages.finish();
        if let Some(lease) = self.lease.take() {
            lease.end();
        }
        finished
    }

    /// Counts of a dry run.
    pub fn new_bytes(&self) -> u64 {
        self.stages.new_bytes()
    }

    /// Writes the last packs and segments, then the manifest, and looks at the lease before and after
    /// (B6 to B8). When it returns `Done`, the snapshot is whole and durable.
    pub fn commit(mut self, draft: Draft) -> Result<Commit> {
        let author = self.repository.keys.myself()?;
        self.stages.finish()?;
        let lease = self.lease.take().ok_or_else(|| Error::bug("a dry run cannot commit"))?;
        let repository = self.repository.clone();
        // B6: own packs and segments are durable; those of others are there; the lease is there.
        let gone = missing_packs(&repository, &self.stages.relied())?;
        if !gone.is_empty() {
            lease.end();
            let e = Error::damaged(format!("packs that the index promises are gone: {}", gone.len()));
            return Ok(Commit::Again(gone, e));
        }
        if let Err(e) = lease.check() {
            return again(lease, e);
        }
        let mut totals = draft.totals;
        totals.new_bytes = self.stages.new_bytes();
        totals.stored_bytes = self.stages.stored_bytes();
        let manifest = Manifest {
            time: draft.time.unwrap_or(self.began),
            host: draft.host,
            tags: draft.tags,
            root: draft.root,
            session: self.session,
            parent: draft.parent,
            totals,
            private: repository.keys.seal_private(&self.session.0, &draft.private.encode())?,
            program: concat!("pastfs ", env!("CARGO_PKG_VERSION")).into(),
            began: self.began,
            ended: clock::now(),
            unknown: Default::default(),
        };
        let object = repository.keys.seal_object(Object::Manifest, manifest.encode())?;
        let id = SnapshotId::of_object(&object);
        let name = format!("snapshots/{id}");
        // The same bytes under the same name: harmless if the first one arrived, and then the answer is known.
        let put = repository.store.put(&name, &object).or_else(|_| repository.store.put(&name, &object));
        // B7: a put whose outcome is unknown counts as written.
        if let Err(e) = lease.check() {
            withdraw(&repository, &name, self.session, put.is_ok())?;
            return again(lease, e);
        }
        if let Err(e) = put {
            // The lease ends after it: a manifest that arrives later is void, or nobody has deleted what it needs.
            withdraw(&repository, &name, self.session, false)?;
            lease.end();
            return Err(e.while_("writing the snapshot"));
        }
        lease.end();
        repository.remember(repository.kept(id, manifest, author));
        repository.keep_index();
        if !repository.keeps_files() {
            // From here on the parent's trees tell what is unchanged. Whether the cache forgets or not, the snapshot is there.
            let forgotten = repository.index().and_then(|index| index.forget_files());
            forgotten.unwrap_or_else(|e| repository.observer.event(Event::Warning(&e.chain())));
        }
        Ok(Commit::Done(id, totals))
    }
}

impl Sink for Writer {
    fn put(&mut self, space: Space, bytes: &[u8]) -> Result<ChunkId> {
        let frames = if space == Space::Trees { Frames::Trees } else { self.current };
        Ok(self.put_in(frames, bytes)?.0)
    }
}

/// What repairs could not save, and nobody has stored since.
fn still_lost(repository: &Repository, listing: &Listing) -> Result<HashSet<ChunkId>> {
    let lost = listing.lost();
    let mut still = HashSet::new();
    for id in lost {
        if repository.index()?.known(&id)?.is_none() {
            still.insert(id);
        }
    }
    Ok(still)
}

fn again(lease: Held, e: Error) -> Result<Commit> {
    lease.end();
    if lease::is_lost(&e) { Ok(Commit::Again(HashSet::new(), e)) } else { Err(e) }
}

/// B8, at the beginning: who was taken for dead before lease 1 was there has relied on nothing yet, and begins anew.
fn lease_or_again(
    repository: &Arc<Repository>,
    options: &WriterOptions,
    known_do: Option<IsParent<'_>>,
) -> Result<(Held, Listing, bool)> {
    for _ in 1..BEGINNINGS {
        match lease(repository, options, known_do) {
            Err(e) if lease::is_lost(&e) => {}
            done => return done,
        }
    }
    lease(repository, options, known_do)
}

/// B1: lease 0, notes, snapshots, segments, lease 1. If what is known will do, the index may be left behind the list of
/// segments: whether it is. Lease 1 names fewer sweeps then, which holds prune back until it ends, and does no harm.
fn lease(
    repository: &Arc<Repository>,
    options: &WriterOptions,
    known_do: Option<IsParent<'_>>,
) -> Result<(Held, Listing, bool)> {
    let begun = Begun::begin(repository, &options.host, options.purpose)
        .doing(|| format!("registering with the repository in {}", repository.location()))?;
    let mut is_behind = false;
    let listing = if let Some(is_parent) = known_do {
        let listing = match repository.list_parent(&options.host, is_parent)? {
            Some(listing) => listing,
            None => repository.list_known(&options.host)?,
        };
        // What was lost is looked up right away.
        is_behind = !repository.sync_known()?;
        if is_behind && !listing.lost().is_empty() {
            repository.sync_index()?;
            is_behind = false;
        }
        listing
    } else {
        let listing = repository.list()?;
        repository.sync_index()?;
        repository.synced_now();
        listing
    };
    let held = begun.seen(repository.index()?.sweeps()?, listing.forgets())?;
    Ok((held, listing, is_behind))
}

/// B6: the packs of others that the snapshot relies on and that are not there with their size.
pub(super) fn missing_packs(repository: &Repository, relied: &[PackId]) -> Result<HashSet<PackId>> {
    let index = repository.index()?;
    let mut gone = HashSet::new();
    if relied.len() > LOOK_EACH_MAX && !repository.store.may_be_stale() {
        let there: HashSet<(String, u64)> =
            repository.store.list("packs/")?.into_iter().map(|l| (l.name, l.size)).collect();
        for id in relied {
            let size = index.pack(id)?.map(|p| p.size);
            if !size.is_some_and(|s| there.contains(&(pack_name(id), s))) {
                gone.insert(*id);
            }
        }
        return Ok(gone);
    }
    for id in relied {
        let size = index.pack(id)?.map(|p| p.size);
        if size.is_none() || !repository.is_there(&pack_name(id), size)? {
            gone.insert(*id);
        }
    }
    Ok(gone)
}

/// B8: takes a manifest back. The void note counts where deleting is forbidden; where it is not, it tells those who
/// have seen the manifest why it is gone. One that may still arrive must be void.
fn withdraw(repository: &Repository, name: &str, session: SessionId, arrived: bool) -> Result<()> {
    let deleted = repository.store.delete(name);
    let note = Note {
        action: Action::Void,
        time: clock::now(),
        snapshots: Vec::new(),
        tags: Vec::new(),
        session: Some(session),
        lost: Vec::new(),
        unknown: Default::default(),
    };
    let object = repository.keys.seal_object(Object::Note, note.encode())?;
    let noted = repository.store.put(&note_name(&NoteId::of_object(&object)), &object);
    let withdrawn = if arrived { deleted.or(noted) } else { noted };
    withdrawn.doing(|| {
        format!("withdrawing {name}, which may rely on what prune deletes: check the repository before trusting it")
    })
}
