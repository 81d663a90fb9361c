//! What the store holds now: snapshots, notes, and the index brought up to the segments that are listed.

use super::Repository;
use super::keyring::Author;
use super::remembered::{Item, Remembered};
use super::vanished::Vanished;
use crate::event::Event;
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::object::{Kind, RETIREMENT_CONTEXT};
use crate::format::pack::PackEntry;
use crate::format::segment::{Retirement, Segment, Vouched};
use crate::format::snapshot::{Action, Manifest, Note};
use crate::id::{ID_LEN, NoteId, PackId, SegmentId, SnapshotId};
use crate::index::{Applied, NewPack};
use crate::seal::Role;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// Segments are applied once so many chunks of them are in memory, at about 100 bytes each; one segment may have more.
/// Each time costs as much as the database has segments, so that few times are better.
const CHUNKS_AT_ONCE: usize = 300_000;
/// Or so many segments, however small.
const SEGMENTS_AT_ONCE: usize = 4096;
/// A void note counts only so many seconds after its manifest, by the store's clock.
pub(super) const VOID_SECONDS: u64 = 3600;

/// A snapshot with what notes say of it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Hash of its manifest.
    pub id: SnapshotId,
    /// What it holds. The private part may be shortened or left out: ask [`Repository::private`] for it.
    pub manifest: Manifest,
    /// Tags after all notes, sorted.
    pub tags: Vec<Vec<u8>>,
    /// Protected from forgetting.
    pub held: bool,
    /// Who wrote it.
    pub author: Author,
}

/// What is known of the objects of this place, from before and from now.
#[derive(Default)]
pub(super) struct Known {
    /// Read with the first listing.
    pub remembered: Option<Remembered>,
    /// Snapshots that were there once, and are not, for no known reason; and notes on those that are.
    pub vanished: Vanished,
    /// This process has shown snapshots of it.
    pub has_listed: bool,
}

/// A note that was proven.
#[derive(Clone)]
pub(super) struct ListedNote {
    /// Hash of the object.
    pub id: NoteId,
    /// What it says, and who says it.
    pub note: Arc<(Note, Author)>,
}

/// What was listed, in the order that the rules want.
pub(super) struct Listing {
    /// Notes that count, oldest first.
    pub notes: Vec<ListedNote>,
    /// All manifests that can be read, forgotten ones too.
    pub manifests: Vec<Arc<Snapshot>>,
    /// Those of them that their own session has withdrawn.
    pub void: HashSet<SnapshotId>,
    /// Objects that are listed as notes or manifests and are none that can be read, by name.
    pub unread: Vec<String>,
    /// All manifests that are there, read or not.
    pub listed: HashSet<SnapshotId>,
}

impl Listing {
    /// Of what was proven.
    pub fn of(
        repository: &Repository,
        mut notes: Vec<ListedNote>,
        manifests: Vec<Arc<Snapshot>>,
    ) -> Result<Self> {
        let is_over = |author: &Author| repository.keys.is_over(author);
        notes.retain(|n| !is_over(&n.note.1));
        let accepting = notes.iter().map(|n| &*n.note);
        let accepting = accepting.filter(|(n, by)| n.action == Action::Accept && by.role == Role::Full);
        let accepted: HashSet<SnapshotId> =
            accepting.flat_map(|(n, _)| n.snapshots.iter().copied()).collect();
        let counts = |s: &Arc<Snapshot>| !is_over(&s.author) || accepted.contains(&s.id);
        let (manifests, late): (Vec<_>, Vec<_>) = manifests.into_iter().partition(counts);
        repository.tell_late(&late);
        notes.sort_by_key(|n| (n.note.0.time, n.id));
        let void = repository.voids(&notes, &manifests)?;
        let listed = manifests.iter().map(|s| s.id).collect();
        Ok(Self { notes, manifests, void, unread: Vec::new(), listed })
    }

    /// The forget notes whose manifests are still there (B1).
    pub fn forgets(&self) -> Vec<NoteId> {
        let there = |id: &SnapshotId| self.listed.contains(id);
        let counts = |n: &Note| n.action == Action::Forget && n.snapshots.iter().any(there);
        self.notes.iter().filter(|n| counts(&n.note.0)).map(|n| n.id).collect()
    }

    /// Snapshots that are neither forgotten nor void, oldest first, with their tags.
    pub fn live(&self) -> Vec<Arc<Snapshot>> {
        self.judged().into_iter().filter(|(_, visible)| *visible).map(|(s, _)| s).collect()
    }

    /// Those that notes hide and whose manifests are still there, likewise.
    pub fn forgotten(&self) -> Vec<Arc<Snapshot>> {
        self.judged().into_iter().filter(|(_, visible)| !*visible).map(|(s, _)| s).collect()
    }

    /// All that are not void, with what notes say of each, the last word being whether it is visible.
    pub fn judged(&self) -> Vec<(Arc<Snapshot>, bool)> {
        let counting = self.manifests.iter().filter(|s| !self.void.contains(&s.id));
        let mut live: HashMap<SnapshotId, (Arc<Snapshot>, bool)> =
            counting.map(|s| (s.id, (s.clone(), true))).collect();
        for ListedNote { note, .. } in &self.notes {
            let (note, author) = &**note;
            for id in &note.snapshots {
                let Some((s, visible)) = live.get_mut(id).filter(|_| author.role == Role::Full) else {
                    continue;
                };
                match note.action {
                    Action::Tag => {
                        let s = Arc::make_mut(s);
                        s.tags.extend(note.tags.iter().cloned());
                        s.tags.sort();
                        s.tags.dedup();
                    }
                    Action::Untag => Arc::make_mut(s).tags.retain(|t| !note.tags.contains(t)),
                    Action::Hold => Arc::make_mut(s).held = true,
                    Action::Release => Arc::make_mut(s).held = false,
                    Action::Forget => *visible = false,
                    Action::Unforget => *visible = true,
                    Action::Void | Action::Lost | Action::Accept | Action::Newer(_) => {}
                }
            }
        }
        let mut snapshots: Vec<_> = live.into_values().collect();
        snapshots.sort_by_key(|(s, _)| (s.manifest.time, s.id));
        snapshots
    }
}

impl Repository {
    /// The snapshots that are there now, oldest first; forgotten and void ones are left out. Brings the
    /// index up to date, so that all of them can be read.
    ///
    /// # Errors
    /// What the store says. A manifest that is damaged is told to the observer and left out; so are, as a warning,
    /// snapshots that were there once and that no note explains ([`Repository::accept_vanished`]).
    pub fn snapshots(&self) -> Result<Vec<Arc<Snapshot>>> {
        let (listed, is_listed) = crossbeam_channel::bounded::<()>(0);
        // Later ones, of a mount, bring little each.
        let is_first = !self.known.lock().has_listed;
        // Side by side, as both take long where there is much; but segments are listed after snapshots.
        std::thread::scope(|scope| {
            let sync = beside(scope, "sync", || {
                let have = self.index()?.segments()?;
                // Never sent: it ends when the other side is dropped, whatever became of it.
                let _ = is_listed.recv();
                self.sync_from(&have)
            })?;
            let live = self.list_and(None, || drop(listed)).and_then(|listing| {
                self.not_emptied(&listing)?;
                Ok(listing.live())
            });
            let synced =
                sync.join().unwrap_or_else(|_| Err(Error::bug("bringing the index up to date panicked")));
            let live = live.and_then(|live| synced.map(|_| live))?;
            if is_first {
                self.keep_index();
            }
            Ok(live)
        })
    }

    /// Notes, then snapshots: the order of B1; the caller lists the segments next. Only what this machine has not seen
    /// yet is read and proven.
    pub(super) fn list(&self) -> Result<Listing> {
        self.list_and(None, || ())
    }

    /// The same for a backup of this host, which needs one snapshot alone: its last one. Where this machine knows any of
    /// the host that are listed, what it does not know yet is not read; what it reads is proven as ever.
    pub(super) fn list_known(&self, host: &[u8]) -> Result<Listing> {
        self.list_and(Some(host), || ())
    }

    /// The same; calls `listed` once the store has listed both.
    fn list_and(&self, host: Option<&[u8]>, listed: impl FnOnce()) -> Result<Listing> {
        let mut known = self.known.lock();
        let Known { remembered, vanished, .. } = &mut *known;
        let names = || -> Result<_> { Ok((self.store.names("notes/")?, self.store.names("snapshots/")?)) };
        let (note_names, manifest_names) = if remembered.is_some() {
            names()?
        } else {
            crate::index::claim(&self.cache)?;
            std::thread::scope(|scope| {
                let open = || Remembered::open(&self.cache, &self.keys, &self.location());
                let opened = beside(scope, "remember", open)?;
                let names = names();
                *remembered = opened.join().ok();
                names
            })?
        };
        listed();
        let remembered = remembered.as_mut().ok_or_else(|| Error::bug("reading the cache panicked"))?;
        let mut notes: Vec<ListedNote> = Vec::new();
        let (noted, mut unread) = self.read_notes(remembered, note_names, &mut notes)?;
        let mut manifests = Vec::new();
        let mut listed = HashSet::new();
        let mut ids = Vec::with_capacity(manifest_names.len());
        for name in manifest_names {
            match self.id_of(&name, SnapshotId::from_hex)? {
                Some(id) => ids.push((id, name)),
                None => unread.push(name),
            }
        }
        let of_host = |host: &[u8], id| remembered.snapshots.get(id).is_some_and(|s| s.manifest.host == host);
        let known_do = host.is_some_and(|host| ids.iter().any(|(id, _)| of_host(host, id)));
        for (id, name) in ids {
            listed.insert(id);
            if !known_do || remembered.snapshots.contains_key(&id) {
                match self.known_manifest(remembered, id)? {
                    Some(manifest) => manifests.push(manifest),
                    None => unread.push(name),
                }
            }
        }
        let mut listing = Listing::of(self, notes, manifests)?;
        listing.unread = unread;
        listing.listed.extend(listed.iter().copied());
        *vanished = self.vanished(remembered, &noted, &listed, &listing.notes);
        if let Err(e) = remembered.save() {
            // It costs the next start some time.
            self.observer.event(Event::Detail(&e.chain()));
        }
        Ok(listing)
    }

    /// Remembers a snapshot that this process has just written: a storage that hides it from the next listing is noticed.
    pub(super) fn remember(&self, snapshot: Snapshot) {
        if let Some(remembered) = &mut self.known.lock().remembered {
            remembered.add(Item::Snapshot(Arc::new(snapshot)));
            // As above.
            let _ = remembered.save();
        }
    }

    /// The same for a note.
    pub(super) fn remember_note(&self, id: NoteId, note: Note, author: Author) {
        if let Some(remembered) = &mut self.known.lock().remembered {
            remembered.add(Item::Note(id, Arc::new((note, author))));
            // As above.
            let _ = remembered.save();
        }
    }

    /// The id in the name of an object; a name that holds none is told.
    pub(super) fn id_of<T>(&self, name: &str, from_hex: impl Fn(&str) -> Option<T>) -> Result<Option<T>> {
        let id = name.rsplit_once('/').and_then(|(_, id)| from_hex(id));
        if id.is_none() {
            self.tell(name, Error::damaged("the name is no id"))?;
        }
        Ok(id)
    }

    pub(super) fn known_note(
        &self,
        remembered: &mut Remembered,
        id: NoteId,
    ) -> Result<Option<Arc<(Note, Author)>>> {
        if let Some(note) = remembered.notes.get(&id) {
            return Ok(Some(note.clone()));
        }
        let name = note_name(&id);
        let open = || -> Result<(Note, Author)> {
            let (body, author) = self.object_anywhere(Kind::Note, &name, &id.0)?;
            Ok((Note::decode(&body)?, author))
        };
        match open() {
            Ok(note) => {
                let note = Arc::new(note);
                remembered.add(Item::Note(id, note.clone()));
                Ok(Some(note))
            }
            Err(e) => self.tell(&name, e).map(|()| None),
        }
    }

    fn known_manifest(&self, remembered: &mut Remembered, id: SnapshotId) -> Result<Option<Arc<Snapshot>>> {
        if let Some(snapshot) = remembered.snapshots.get(&id) {
            return Ok(Some(snapshot.clone()));
        }
        match self.manifest_anywhere(&id) {
            Ok((manifest, author)) => {
                let snapshot = Arc::new(self.kept(id, manifest, author));
                remembered.add(Item::Snapshot(snapshot.clone()));
                Ok(Some(snapshot))
            }
            Err(e) => self.tell(&manifest_name(&id), e).map(|()| None),
        }
    }

    /// A manifest, read and proven.
    pub(super) fn manifest(&self, id: &SnapshotId) -> Result<(Manifest, Author)> {
        let (body, author) = self.object(Kind::Manifest, &manifest_name(id), &id.0)?;
        Ok((Manifest::decode(&body)?, author))
    }

    /// The same, from a replica where it cannot be read here.
    pub(super) fn manifest_anywhere(&self, id: &SnapshotId) -> Result<(Manifest, Author)> {
        let (body, author) = self.object_anywhere(Kind::Manifest, &manifest_name(id), &id.0)?;
        Ok((Manifest::decode(&body)?, author))
    }

    fn object_anywhere(&self, kind: Kind, name: &str, id: &[u8; ID_LEN]) -> Result<(Vec<u8>, Author)> {
        self.object(kind, name, id).or_else(|e| self.object_of_spare(kind, name, id, e))
    }

    /// The manifests that a void note of their own session withdraws, by the times at which the store took both.
    fn voids(&self, notes: &[ListedNote], manifests: &[Arc<Snapshot>]) -> Result<HashSet<SnapshotId>> {
        let mut void = HashSet::new();
        for ListedNote { id, note } in notes.iter().filter(|n| n.note.0.action == Action::Void) {
            for s in manifests.iter().filter(|s| withdraws(note, s)) {
                let (note, manifest) = (self.stored(&note_name(id))?, self.stored(&manifest_name(&s.id))?);
                let age = note.zip(manifest).map(|(n, m)| n.abs_diff(m));
                if age.is_some_and(|seconds| seconds <= VOID_SECONDS) {
                    void.insert(s.id);
                }
            }
        }
        Ok(void)
    }

    /// The store's time of an object in seconds; `None` once it is gone.
    pub(super) fn stored(&self, name: &str) -> Result<Option<i64>> {
        match self.store.modified(name) {
            Ok(time) => Ok(Some(time.seconds)),
            Err(e) if e.fault() == Fault::Missing => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Snapshots of keys that had ended before are told once.
    fn tell_late(&self, late: &[Arc<Snapshot>]) {
        for s in late {
            if self.told.lock().insert(format!("late {}", s.id)) {
                self.observer.event(Event::Warning(&format!(
                    "snapshot {} of {}, {}, does not count: it was written by a key that has ended",
                    s.id.short(),
                    String::from_utf8_lossy(&s.manifest.host),
                    s.manifest.time.utc()
                )));
            }
        }
    }

    /// Damage and what vanished meanwhile are told once and passed over; everything else stops.
    fn tell(&self, name: &str, e: Error) -> Result<()> {
        match e.fault() {
            Fault::Damaged => {
                if self.told.lock().insert(name.to_owned()) {
                    self.observer.event(Event::Warning(&format!(
                        "{name} in {} is damaged and left out: {}",
                        self.location(),
                        e.chain()
                    )));
                }
                Ok(())
            }
            Fault::Missing => Ok(()),
            _ => Err(e.while_(format!("reading {name} of {}", self.location()))),
        }
    }

    /// An object named by its hash, checked against its name and opened.
    pub(super) fn object(&self, kind: Kind, name: &str, id: &[u8; ID_LEN]) -> Result<(Vec<u8>, Author)> {
        let bytes = self.store.get(name, kind.limit())?;
        if blake3::hash(&bytes).as_bytes() != id {
            return Err(Error::damaged("it is not what its name says"));
        }
        self.keys.open_object(kind, &bytes)
    }

    /// Brings the index to exactly the segments that the store lists now.
    pub(super) fn sync_index(&self) -> Result<()> {
        self.sync_all().map(drop)
    }

    /// Lists the segments; brings the index there only if none of them is new. Whether it is there.
    pub(super) fn sync_known(&self) -> Result<bool> {
        let have = self.index()?.segments()?;
        let listed: Option<BTreeSet<SegmentId>> = self
            .store
            .names("index/")?
            .iter()
            .map(|n| SegmentId::from_hex(n.strip_prefix("index/")?))
            .collect();
        match listed {
            Some(listed) if listed.is_subset(&have) && (have.is_empty() || !listed.is_empty()) => {
                let gone: Vec<SegmentId> = have.difference(&listed).copied().collect();
                if !gone.is_empty() {
                    self.index()?.apply(Vec::new(), &gone, Vec::new())?;
                }
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// The same; the names of what is listed as a segment and is none that can be read.
    pub(super) fn sync_all(&self) -> Result<Vec<String>> {
        self.sync_from(&self.index()?.segments()?)
    }

    /// The same; `have` was asked for before the list: a segment that another thread publishes meanwhile must not look
    /// gone.
    fn sync_from(&self, have: &BTreeSet<SegmentId>) -> Result<Vec<String>> {
        let index = self.index()?;
        let mut listed = BTreeSet::new();
        let mut unread = Vec::new();
        for name in self.store.names("index/")? {
            match self.id_of(&name, SegmentId::from_hex)? {
                Some(id) => drop(listed.insert(id)),
                None => unread.push(name),
            }
        }
        if listed.is_empty() && !have.is_empty() && self.store.names("config/")?.is_empty() {
            return Err(self.emptied(&format!("{} segments are gone from it", have.len())));
        }
        let new: Vec<SegmentId> = listed.difference(have).copied().collect();
        let (mut group, mut chunks) = (Vec::new(), 0);
        for id in &new {
            match self.load_segment(id) {
                Ok(segment) => {
                    chunks += segment.packs.iter().map(|p| p.entry.ids.len()).sum::<usize>();
                    group.push(segment);
                }
                Err(e) => {
                    let name = segment_name(id);
                    self.tell(&name, e)?;
                    unread.push(name);
                }
            }
            if chunks >= CHUNKS_AT_ONCE || group.len() >= SEGMENTS_AT_ONCE {
                index.apply(std::mem::take(&mut group), &[], Vec::new())?;
                chunks = 0;
            }
        }
        if !group.is_empty() {
            index.apply(group, &[], Vec::new())?;
        }
        // Last: what a merge moved keeps its place, and no retirement stops counting in between.
        let gone: Vec<SegmentId> = have.difference(&listed).copied().collect();
        if !gone.is_empty() {
            index.apply(Vec::new(), &gone, Vec::new())?;
        }
        Ok(unread)
    }

    /// A segment, read and proven.
    pub(super) fn load_segment(&self, id: &SegmentId) -> Result<Applied> {
        let bytes = self.store.get(&segment_name(id), Kind::Segment.limit())?;
        if SegmentId::of_object(&bytes) != *id {
            return Err(Error::damaged("it is not what its name says"));
        }
        let (body, _) = self.keys.open_object(Kind::Segment, &bytes)?;
        self.applied(*id, &Segment::decode(&body)?)
    }

    /// Proves what a segment says, entry by entry.
    pub(super) fn applied(&self, id: SegmentId, segment: &Segment) -> Result<Applied> {
        let mut authors = Vec::new();
        for c in &segment.certificates {
            authors.push(self.keys.author(c)?);
        }
        let vouchers = |v: &Vouched, context: &str| -> Result<Vec<Author>> {
            let mut found = Vec::new();
            for s in &v.signatures {
                let author = authors.get(s.author).ok_or_else(|| Error::damaged("an author is missing"))?;
                if !self.keys.verify(author, context, &v.body, &s.signature) {
                    return Err(Error::damaged("the signature of an entry is wrong"));
                }
                found.push(author.clone());
            }
            Ok(found)
        };
        let mut packs = Vec::new();
        for v in &segment.entries {
            let by = vouchers(v, Kind::Pack.context())?;
            if by.iter().any(|a| a.role != Role::Reader) {
                let trusted = by.iter().any(|a| self.keys.trusts(a));
                packs.push(NewPack { entry: PackEntry::decode(&v.body)?, trusted });
            }
        }
        let mut retired = Vec::new();
        for v in &segment.retirements {
            if vouchers(v, RETIREMENT_CONTEXT)?.iter().any(|a| self.keys.vouches(a)) {
                retired.push(Retirement::decode(&v.body)?);
            }
        }
        Ok(Applied { segment: id, packs, retired, replaces: segment.replaces.clone() })
    }

    /// Whether a pack is there, with its size.
    ///
    /// # Errors
    /// What the store says.
    pub fn has_pack(&self, id: &PackId, size: u64) -> Result<bool> {
        self.is_there(&super::reader::pack_name(id), Some(size))
    }

    /// The same, with whatever size.
    ///
    /// # Errors
    /// What the store says.
    pub fn has_any_pack(&self, id: &PackId) -> Result<bool> {
        match self.store.size(&super::reader::pack_name(id)) {
            Ok(_) => Ok(true),
            Err(e) if e.fault() == Fault::Missing => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Whether an object can still be read; where the store's answers may be old, by reading it.
    pub(super) fn is_there(&self, name: &str, size: Option<u64>) -> Result<bool> {
        let found = match size {
            Some(size) if self.store.may_be_stale() => {
                self.store.range(name, size.saturating_sub(1), 1).map(|_| size)
            }
            Some(_) => self.store.size(name),
            None => self.store.get(name, Kind::Lease.limit()).map(|b| b.len() as u64),
        };
        match found {
            Ok(found) => Ok(size.is_none_or(|s| s == found)),
            Err(e) if matches!(e.fault(), Fault::Missing | Fault::Damaged) => Ok(false),
            Err(e) => Err(e).doing(|| format!("looking for {name}")),
        }
    }
}

/// Starts a thread within a scope.
fn beside<'s, T: Send + 's>(
    scope: &'s std::thread::Scope<'s, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 's,
) -> Result<std::thread::ScopedJoinHandle<'s, T>> {
    let thread = std::thread::Builder::new().name(name.into()).spawn_scoped(scope, work);
    thread.doing(|| format!("starting the thread {name:?}"))
}

/// Whether a note takes back this manifest, if its time is right: it is of the same session and author.
pub(super) fn withdraws(note: &(Note, Author), s: &Snapshot) -> bool {
    let (note, author) = note;
    note.action == Action::Void
        && note.session == Some(s.manifest.session)
        && author.public == s.author.public
}

pub(super) fn note_name(id: &NoteId) -> String {
    format!("notes/{id}")
}

pub(super) fn manifest_name(id: &SnapshotId) -> String {
    format!("snapshots/{id}")
}

pub(super) fn segment_name(id: &SegmentId) -> String {
    format!("index/{id}")
}
