//! Packs and manifests of another store of the same repository, taken in under a lease: replication is a backup whose chunks
//! come sealed (B1 to B8). What a snapshot needs and is known here already is relied on, as by a backup; what is not comes as
//! a whole pack, as it is, once every chunk in it was proven; what cannot come so, since a prune has ended that pack here, is
//! stored anew.
//!
//! The entries that name what was taken in are this key's own, in segments of this store: what the source's segments say of
//! times and retirements is true there alone.

use super::both::Both;
use super::copying::{Run, SPOILED};
use super::lease;
use super::listing::{Listing, manifest_name};
use super::reader::pack_name;
use super::stages::{Frames, Stages};
use super::survey::is_finding;
use super::target::Target;
use super::writer::missing_packs;
use super::{Need, Reader, Repository, Snapshot};
use crate::event::{Event, Stop};
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::object::Kind;
use crate::format::pack::Space;
use crate::id::{ChunkId, PackId, SnapshotId};
use crate::index::{Mark, Seen};
use crate::seal::Compression;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

/// Raw bytes from which on a frame is of small files; see `mover.rs`.
const SMALL_FROM: u32 = 256 << 10;

/// How often a batch is walked through again, since packs could not be copied or did not hold what was promised. Each time
/// there are fewer packs to choose from.
const ROUNDS: usize = 8;
/// Of a page: all below it is seen to.
const DONE: Mark = 1;

/// What was taken in so far.
#[derive(Debug, Default)]
pub struct Taken {
    /// Snapshots that are there now, whole and durable; in a dry run those that would be.
    pub snapshots: Vec<SnapshotId>,
    /// Snapshots that cannot be had whole, and why.
    pub left: Vec<(SnapshotId, Error)>,
    /// Packs that were copied, and their bytes; in a dry run those that would be.
    pub packs: (u64, u64),
    /// Packs that were there already, and that no segment named.
    pub named: u64,
    /// Chunks that were stored anew, since their packs could not come as they are.
    pub anew: u64,
    /// Objects that are not what they must be, here or there.
    pub flaws: Vec<(String, Error)>,
}

/// Why all has to be begun anew: a prune took the session for dead, or packs that it relied on are gone, which are not to be trusted
/// any more.
pub type Again = Option<(HashSet<PackId>, Error)>;

/// What a fetch found.
#[derive(Default)]
struct Fetched {
    /// Packs that cannot be copied, and why.
    bad: Vec<(PackId, Error)>,
    /// What was promised of some packs may not be so: the walk has to be made again.
    is_doubtful: bool,
}

/// How a chunk that a snapshot needs comes to be there.
enum Took {
    /// It is there, and relied on; or its pack is planned, and comes with the next fetch.
    Whole,
    /// It was stored anew; in a dry run it would be.
    Anew,
}

/// A run of replication.
pub struct Intake {
    source: Arc<Repository>,
    reader: Arc<Reader>,
    listing: Listing,
    /// None: a dry run into nothing.
    target: Option<Target>,
    /// To be copied; whether all that is relied on was promised by a full key.
    planned: HashMap<PackId, bool>,
    planned_bytes: u64,
    /// Were copied, or cannot be: what is still not known of them does not come from there.
    over: HashSet<PackId>,
    /// Pages of trees below which all was seen to.
    seen: Seen,
    /// Snapshots of the target whose pages are among these.
    covered: HashSet<SnapshotId>,
    taken: Taken,
    /// What is damaged in the target is replaced.
    replaces: bool,
    is_dry: bool,
    stop: Stop,
}

impl Intake {
    /// Lists the source, then takes a lease in the target and lists that; nothing there may be relied on that lies only in packs
    /// of `distrust`. A dry one takes no lease, and its target may be none.
    ///
    /// # Errors
    /// What the stores say.
    pub fn begin(
        source: &Arc<Repository>,
        target: Option<&Arc<Repository>>,
        host: &[u8],
        distrust: HashSet<PackId>,
        is_dry: bool,
        stop: &Stop,
    ) -> Result<Self> {
        // R6: snapshots before segments.
        let listing = source.list()?;
        source.not_emptied(&listing)?;
        source.sync_index()?;
        let target = match target {
            None => None,
            Some(target) => {
                let mut target = Target::begin(target, host, distrust, is_dry)?;
                let here: HashSet<SnapshotId> = listing.manifests.iter().map(|s| s.id).collect();
                target.bases = target.listing.live();
                target.bases.retain(|s| here.contains(&s.id) && target.repository.believes(s));
                Some(target)
            }
        };
        Ok(Self {
            source: source.clone(),
            reader: source.reader(),
            listing,
            target,
            planned: HashMap::new(),
            planned_bytes: 0,
            over: HashSet::new(),
            seen: source.index()?.seen()?,
            covered: HashSet::new(),
            taken: Taken::default(),
            replaces: false,
            is_dry,
            stop: stop.clone(),
        })
    }

    /// From now on a manifest that is damaged in the target is replaced by the one of the source, which has the same name.
    pub fn replace_damaged(&mut self) {
        self.replaces = true;
    }

    /// What was taken in so far.
    pub fn taken(&mut self) -> &mut Taken {
        &mut self.taken
    }

    /// What is listed on both sides.
    pub fn both(&self) -> Both<'_> {
        Both { source: &self.listing, target: self.target.as_ref().map(|t| &t.listing) }
    }

    /// One of the source, be it forgotten there.
    pub fn find(&self, id: &SnapshotId) -> Option<Arc<Snapshot>> {
        let counts = |s: &&Arc<Snapshot>| s.id == *id && !self.listing.void.contains(id);
        self.listing.manifests.iter().find(counts).cloned()
    }

    /// Copies the notes that speak of these snapshots and are not there, either those that forget or the others: how many, and
    /// which could not be.
    ///
    /// # Errors
    /// What the stores say.
    pub fn copy_notes(
        &self,
        snapshots: &HashSet<SnapshotId>,
        are_forgets: bool,
    ) -> Result<(u64, Vec<(String, Error)>)> {
        let (mut copied, mut flaws) = (0, Vec::new());
        let both = self.both();
        for note in both.missing_notes(snapshots, are_forgets) {
            self.stop.check()?;
            if let (false, Some(target)) = (self.is_dry, &self.target)
                && let Err(e) = self.source.copy_note(&target.repository, note)?
            {
                flaws.push((format!("notes/{}", note.id), e));
                continue;
            }
            copied += 1;
        }
        Ok((copied, flaws))
    }

    /// Walks through all that a snapshot needs, each page once for all snapshots, and plans what must come. Whether it can be
    /// had; else why not is noted.
    ///
    /// # Errors
    /// What the stores say where it is not about what is read; `Stopped`.
    pub fn walk(&mut self, s: &Snapshot) -> Result<bool> {
        self.cover(s)?;
        let (reader, stop) = (self.reader.clone(), self.stop.clone());
        let walked = reader.needs(s, &stop, &mut |what| match what {
            Need::Page(id) => {
                if self.seen.get(&id)?.is_some() {
                    return Ok(false);
                }
                self.see_to(Space::Trees, &id)?;
                self.seen.set(&id, DONE)?;
                Ok(true)
            }
            Need::Content(id, _) => self.see_to(Space::Data, &id).map(|()| true),
        });
        match walked {
            Ok(()) => Ok(true),
            Err(e) if is_finding(&e) => {
                // Pages were noted below which something is lost: others that have them must meet it too.
                self.forget_pages()?;
                self.taken.left.push((s.id, e));
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    /// What the next snapshot of the target has is there, as what a backup takes over from its parent: it was listed under our
    /// lease, and no note forgets it. Its pages are read, and none of what they name is looked up.
    fn cover(&mut self, s: &Snapshot) -> Result<()> {
        let Some(target) = &self.target else { return Ok(()) };
        let of_host = |b: &&Arc<Snapshot>| b.manifest.host == s.manifest.host;
        let distance = |b: &&Arc<Snapshot>| b.manifest.time.seconds.abs_diff(s.manifest.time.seconds);
        let Some(base) = target.bases.iter().filter(of_host).min_by_key(distance).cloned() else {
            return Ok(());
        };
        if !self.covered.insert(base.id) {
            return Ok(());
        }
        let walked = self.reader.needs(&base, &self.stop, &mut |what| match what {
            Need::Page(id) => Ok(self.seen.get(&id)?.is_none() && self.seen.set(&id, DONE).map(|()| true)?),
            Need::Content(..) => Ok(true),
        });
        match walked {
            // What cannot be read here is there all the same.
            Err(e) if is_finding(&e) => Ok(()),
            walked => walked,
        }
    }

    /// Pages that were met may not be below which all was seen to.
    fn forget_pages(&mut self) -> Result<()> {
        self.covered.clear();
        self.seen = self.source.index()?.seen()?;
        Ok(())
    }

    fn see_to(&mut self, space: Space, id: &ChunkId) -> Result<()> {
        match self.need(space, id)? {
            Some(Took::Anew) => self.taken.anew += 1,
            Some(Took::Whole) => {}
            None => return Err(Error::damaged(format!("chunk {} that it needs is lost", id.short()))),
        }
        Ok(())
    }

    /// Brings over what these snapshots need, which were walked through, then the snapshots.
    ///
    /// # Errors
    /// What the stores say where it is not about one object; `Stopped`. What was copied until then is there, and is found again.
    pub fn settle(&mut self, mut batch: Vec<Arc<Snapshot>>) -> Result<Again> {
        for _ in 0..ROUNDS {
            let (packs, bytes) = self.planned();
            let before = self.taken.packs;
            let planned = Event::Planned { files: before.0 + packs, bytes: before.1 + bytes };
            self.source.observer.event(planned);
            if self.is_dry {
                self.taken.packs = (before.0 + packs, before.1 + bytes);
            }
            let Fetched { bad, is_doubtful } = self.fetch()?;
            self.taken.flaws.extend(bad.into_iter().map(|(pack, e)| (pack_name(&pack), e)));
            if !is_doubtful {
                return self.commit(&batch);
            }
            // Some packs could not come: what was to come from them is looked for elsewhere.
            self.forget_pages()?;
            let mut whole = Vec::new();
            for s in batch {
                if self.walk(&s)? {
                    whole.push(s);
                }
            }
            batch = whole;
            if self.planned.is_empty() {
                return self.commit(&batch);
            }
        }
        let text = format!("the packs of {} go faster than they can be copied", self.source.location());
        Err(Error::new(Fault::Busy, text).hint("run it again when no prune is at work there"))
    }

    /// Sees to it that a chunk will be there. `None` where it cannot be had.
    fn need(&mut self, space: Space, id: &ChunkId) -> Result<Option<Took>> {
        self.stop.check()?;
        if let Some(target) = &self.target
            && target.claims.knows(id, None)?
        {
            return Ok(Some(Took::Whole));
        }
        let usable = |pack: &PackId| {
            !self.over.contains(pack) && !self.target.as_ref().is_some_and(|t| t.spoiled.contains(pack))
        };
        let index = self.source.index()?;
        if let Some(pack) = index.known(id)?.filter(usable) {
            self.plan(pack, true)?;
            return Ok(Some(Took::Whole));
        }
        let places = self.source.index()?.places(id)?;
        let found = places.iter().find(|p| p.pack.space == space && usable(&p.pack.id));
        if let Some(pack) = found.map(|p| p.pack.id) {
            self.plan(pack, false)?;
            return Ok(Some(Took::Whole));
        }
        let is_small = places
            .iter()
            .any(|p| p.pack.frames.get(p.frame as usize).is_some_and(|frame| frame.raw_len > SMALL_FROM));
        match self.store_anew(space, id, is_small) {
            Ok(()) => Ok(Some(Took::Anew)),
            Err(e) if is_finding(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn plan(&mut self, pack: PackId, is_promised: bool) -> Result<()> {
        if let Some(all) = self.planned.get_mut(&pack) {
            *all &= is_promised;
            return Ok(());
        }
        self.planned_bytes += self.source.index()?.pack(&pack)?.map_or(0, |p| p.size);
        self.planned.insert(pack, is_promised);
        Ok(())
    }

    fn store_anew(&mut self, space: Space, id: &ChunkId, is_small: bool) -> Result<()> {
        // Proven where it is read, also that nothing of the source is relied on that is not there.
        let bytes = self.reader.chunk(space, id)?;
        let Some(target) = self.target.as_mut().filter(|_| !self.is_dry) else { return Ok(()) };
        let stages = match &mut target.stages {
            Some(stages) => stages,
            None => {
                let compression = Some(Compression::default());
                let stages = Stages::start(&target.repository, target.session, HashSet::new(), compression)?;
                target.stages.insert(stages)
            }
        };
        let frames = match space {
            Space::Trees => Frames::Trees,
            Space::Data if is_small => Frames::Small,
            Space::Data => Frames::Big,
        };
        // What goes wrong from here on is the target's, and never about the chunk.
        let put = stages.put_as(frames, *id, &bytes);
        put.map(drop).map_err(|e| if is_finding(&e) { e.as_fault(Fault::Busy) } else { e })
    }

    /// Packs that are planned and not fetched yet, and their bytes.
    pub fn planned(&self) -> (u64, u64) {
        (self.planned.len() as u64, self.planned_bytes)
    }

    /// Copies what is planned, several packs at a time; when this returns, each is durable and named, or told to be bad. In a dry
    /// run it stays planned.
    fn fetch(&mut self) -> Result<Fetched> {
        let mut fetched = Fetched::default();
        if self.is_dry || self.planned.is_empty() {
            return Ok(fetched);
        }
        let Some(target) = &mut self.target else { return Ok(fetched) };
        target.look()?;
        let target = &*target;
        let planned = std::mem::take(&mut self.planned);
        self.planned_bytes = 0;
        let wanted: HashSet<PackId> = planned.keys().copied().collect();
        let run = Run {
            source: &self.source,
            target,
            stop: &self.stop,
            planned: &planned,
            ready: Mutex::new((Vec::new(), Instant::now())),
            done: Mutex::default(),
            failed: Mutex::default(),
        };
        let mut left = wanted.clone();
        let fed = run.copy_all(&mut |feed| {
            for segment in self.source.index()?.segments_with(&wanted)?.into_keys() {
                self.stop.check()?;
                let packs = match self.source.load_segment(&segment) {
                    Ok(applied) => applied.packs,
                    // Merged meanwhile; or damaged, and then the packs are looked for in others.
                    Err(e) if is_finding(&e) || e.fault() == Fault::Missing => continue,
                    Err(e) => return Err(e.while_(format!("reading index segment {}", segment.short()))),
                };
                for pack in packs {
                    // Where a full key has promised what is relied on, no other's word is taken.
                    let is_meant = pack.trusted || planned.get(&pack.entry.pack) == Some(&false);
                    if is_meant && left.remove(&pack.entry.pack) && !feed(pack.entry) {
                        return Ok(());
                    }
                }
            }
            Ok(())
        });
        let flushed = run.flush();
        let (done, failed) = (run.done.into_inner(), run.failed.into_inner());
        if let Some(e) = failed {
            return Err(e);
        }
        fed.and(flushed)?;
        if !left.is_empty() {
            // A prune or a merge beside us.
            self.source.sync_index()?;
            fetched.is_doubtful = true;
        }
        for (pack, result) in done {
            self.over.insert(pack);
            match result {
                Ok(Some(bytes)) => {
                    self.taken.packs = (self.taken.packs.0 + 1, self.taken.packs.1 + bytes);
                }
                Ok(None) => self.taken.named += 1,
                Err(e) if e.fault() == Fault::Missing => fetched.is_doubtful = true,
                Err(e) => fetched.bad.push((pack, e)),
            }
        }
        if fetched.is_doubtful {
            self.source.sync_index()?;
        }
        fetched.is_doubtful |= !fetched.bad.is_empty() || planned.values().any(|promised| !promised);
        Ok(fetched)
    }

    /// Writes the manifests of snapshots all of whose chunks are there, with a look at what is relied on and at the lease before
    /// and at the lease after (B6 to B8).
    fn commit(&mut self, snapshots: &[Arc<Snapshot>]) -> Result<Again> {
        let Some(target) = self.target.as_mut().filter(|_| !self.is_dry) else {
            self.taken.snapshots.extend(snapshots.iter().map(|s| s.id));
            return Ok(None);
        };
        let mut relied: HashSet<PackId> = target.claims.relied().into_iter().collect();
        if let Some(mut stages) = target.stages.take() {
            stages.finish()?;
            relied.extend(stages.relied());
        }
        let repository = target.repository.clone();
        let new: Vec<PackId> = relied.difference(&target.looked).copied().collect();
        let gone = missing_packs(&repository, &new)?;
        if !gone.is_empty() {
            let e = Error::damaged(format!("packs that the index promises are gone: {}", gone.len()));
            return Ok(Some((gone, e)));
        }
        target.looked.extend(new);
        let lease = target.lease.as_ref().ok_or_else(|| Error::bug("a dry run cannot commit"))?;
        if let Err(e) = lease.check() {
            return again(e);
        }
        let (mut landed, mut failed) = (Vec::new(), None);
        for id in snapshots.iter().map(|s| &s.id) {
            let (object, snapshot) = match self.source.manifest_object(id) {
                Ok(read) => read,
                // Forgotten, and deleted by a prune.
                Err(e) if e.fault() == Fault::Missing => continue,
                Err(e) if is_finding(&e) => {
                    self.taken.flaws.push((manifest_name(id), Error::damaged(e.chain())));
                    self.taken.left.push((*id, e));
                    continue;
                }
                Err(e) => {
                    failed = Some(e.while_(format!(
                        "reading {} of {}",
                        manifest_name(id),
                        self.source.location()
                    )));
                    break;
                }
            };
            let name = manifest_name(id);
            let put = repository.store.put(&name, &object).or_else(|e| match e.fault() {
                Fault::Damaged if self.replaces => repository.replace_manifest(id, &object),
                Fault::Damaged => Err(e),
                // The same bytes under the same name: harmless if the first one arrived, and then the answer is known.
                _ => repository.store.put(&name, &object),
            });
            match put {
                Ok(()) => landed.push((*id, snapshot)),
                Err(e) if e.fault() == Fault::Damaged => {
                    self.taken.flaws.push((name, Error::damaged(e.chain()).hint(SPOILED)));
                    self.taken.left.push((*id, e));
                }
                Err(e) => {
                    // It may be there all the same.
                    landed.push((*id, snapshot));
                    failed = Some(e.while_(format!("writing {name} to {}", repository.location())));
                    break;
                }
            }
        }
        // B7: a put whose outcome is unknown counts as written.
        if let Err(e) = lease.check() {
            // B8. No void note can: it takes back what its own session wrote, and this is another one's snapshot.
            for (id, _) in &landed {
                let name = manifest_name(id);
                repository.store.delete(&name).doing(|| {
                    format!(
                        "withdrawing {name} from {}, which may rely on what prune deletes: check that repository before \
                         trusting it",
                        repository.location()
                    )
                })?;
            }
            return again(e);
        }
        if let Some(e) = failed {
            return Err(e);
        }
        for (_, snapshot) in &landed {
            repository.remember(snapshot.clone());
        }
        self.taken.snapshots.extend(landed.into_iter().map(|(id, _)| id));
        Ok(None)
    }

    /// Ends the session: what was taken in.
    pub fn end(mut self) -> Taken {
        if let Some(target) = &mut self.target {
            drop(target.stages.take());
            if let Some(lease) = target.lease.take() {
                lease.end();
            }
        }
        self.taken
    }
}

fn again(e: Error) -> Result<Again> {
    if lease::is_lost(&e) { Ok(Some((HashSet::new(), e))) } else { Err(e) }
}

impl Repository {
    /// Puts a manifest in the place of what is damaged there. Until then nobody deletes anything, as no census can be made; from
    /// then on it counts, as any that is written under a lease.
    fn replace_manifest(&self, id: &SnapshotId, object: &[u8]) -> Result<()> {
        let name = manifest_name(id);
        match self.proven_manifest(id) {
            Err(e) if e.fault() == Fault::Damaged => self.store.delete(&name)?,
            Err(e) if e.fault() != Fault::Missing => return Err(e),
            _ => {}
        }
        self.store.put(&name, object)
    }

    /// A manifest, read and proven, and the object itself.
    fn manifest_object(&self, id: &SnapshotId) -> Result<(Vec<u8>, Snapshot)> {
        let (manifest, author) = self.proven_manifest(id)?;
        let object = self.store.get(&manifest_name(id), Kind::Manifest.limit())?;
        match SnapshotId::of_object(&object) == *id {
            true => Ok((object, Snapshot::new(*id, manifest, author))),
            false => Err(Error::damaged("it is not what its name says")),
        }
    }
}
