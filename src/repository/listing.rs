//! What the store holds now: snapshots, notes, and the index brought up to the segments that are listed.

use super::Repository;
use super::keyring::Author;
use crate::event::Event;
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::object::{Kind, RETIREMENT_CONTEXT};
use crate::format::pack::PackEntry;
use crate::format::segment::{Retirement, Segment, Vouched};
use crate::format::snapshot::{Action, Manifest, Note};
use crate::id::{ID_LEN, NoteId, SegmentId, SnapshotId};
use crate::index::{Applied, NewPack};
use crate::seal::Role;
use crate::storage::Listed;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// Segments that are fetched and applied at once: at most this many are in memory.
const SEGMENTS_AT_ONCE: usize = 32;
/// A void note counts only so many seconds after its manifest, by the store's clock.
const VOID_SECONDS: u64 = 3600;

/// A snapshot with what notes say of it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Hash of its manifest.
    pub id: SnapshotId,
    /// What it holds.
    pub manifest: Manifest,
    /// Tags after all notes, sorted.
    pub tags: Vec<Vec<u8>>,
    /// Protected from forgetting.
    pub held: bool,
    author: [u8; 32],
}

/// Objects that were opened and proven already.
#[derive(Default)]
pub(super) struct Known {
    pub snapshots: HashMap<SnapshotId, Arc<Snapshot>>,
    notes: HashMap<NoteId, Arc<(Note, Author)>>,
    /// Objects that were reported as damaged: once is enough.
    told: HashSet<String>,
}

/// A note that was proven.
pub(super) struct ListedNote {
    /// Hash of the object.
    pub id: NoteId,
    /// What it says, and who says it.
    pub note: Arc<(Note, Author)>,
    /// The store's time of it, in seconds.
    pub stored: i64,
}

/// What was listed, in the order that the rules want.
pub(super) struct Listing {
    /// Notes that count, oldest first.
    pub notes: Vec<ListedNote>,
    /// All manifests that can be read, forgotten ones too, with the store's time of each.
    pub manifests: Vec<(Arc<Snapshot>, i64)>,
}

impl Listing {
    /// The forget notes whose manifests are still there (B1).
    pub fn forgets(&self) -> Vec<NoteId> {
        let there: HashSet<_> = self.manifests.iter().map(|(s, _)| s.id).collect();
        let counts = |n: &Note| n.action == Action::Forget && n.snapshots.iter().any(|s| there.contains(s));
        self.notes.iter().filter(|n| counts(&n.note.0)).map(|n| n.id).collect()
    }

    /// Snapshots that are neither forgotten nor void, oldest first, with their tags.
    pub fn live(&self) -> Vec<Arc<Snapshot>> {
        let mut live: HashMap<SnapshotId, (Snapshot, bool, i64)> =
            self.manifests.iter().map(|(s, t)| (s.id, ((**s).clone(), true, *t))).collect();
        for ListedNote { note, stored, .. } in &self.notes {
            let (note, author) = &**note;
            if note.action == Action::Void {
                live.retain(|_, (s, _, there)| {
                    let own = note.session == Some(s.manifest.session) && author.public == s.author;
                    !(own && stored.abs_diff(*there) <= VOID_SECONDS)
                });
            }
            for id in &note.snapshots {
                let Some((s, visible, _)) = live.get_mut(id).filter(|_| author.role == Role::Full) else {
                    continue;
                };
                match note.action {
                    Action::Tag => s.tags.extend(note.tags.iter().cloned()),
                    Action::Untag => s.tags.retain(|t| !note.tags.contains(t)),
                    Action::Hold => s.held = true,
                    Action::Release => s.held = false,
                    Action::Forget => *visible = false,
                    Action::Unforget => *visible = true,
                    Action::Void => {}
                }
            }
        }
        let mut snapshots: Vec<Arc<Snapshot>> = live
            .into_values()
            .filter(|(_, visible, _)| *visible)
            .map(|(mut s, ..)| {
                s.tags.sort();
                s.tags.dedup();
                Arc::new(s)
            })
            .collect();
        snapshots.sort_by_key(|s| (s.manifest.time, s.id));
        snapshots
    }
}

impl Repository {
    /// The snapshots that are there now, oldest first; forgotten and void ones are left out. Brings the
    /// index up to date, so that all of them can be read.
    ///
    /// # Errors
    /// What the store says. A manifest that is damaged is told to the observer and left out.
    pub fn snapshots(&self) -> Result<Vec<Arc<Snapshot>>> {
        let listing = self.list()?;
        self.not_emptied(&listing)?;
        self.sync_index()?;
        Ok(listing.live())
    }

    /// Notes, then snapshots: the order of B1; the caller lists the segments next.
    pub(super) fn list(&self) -> Result<Listing> {
        let mut notes: Vec<ListedNote> = Vec::new();
        for listed in self.store.list("notes/")? {
            notes.extend(self.known_note(&listed)?);
        }
        notes.sort_by_key(|n| (n.note.0.time, n.id));
        let mut manifests = Vec::new();
        for listed in self.store.list("snapshots/")? {
            if let Some(snapshot) = self.known_manifest(&listed)? {
                manifests.push((snapshot, listed.modified.seconds));
            }
        }
        Ok(Listing { notes, manifests })
    }

    fn known_note(&self, listed: &Listed) -> Result<Option<ListedNote>> {
        let Some(id) = listed.name.strip_prefix("notes/").and_then(NoteId::from_hex) else {
            return self.tell(&listed.name, Error::damaged("the name is no id")).map(|()| None);
        };
        if let Some(note) = self.known.lock().notes.get(&id) {
            return Ok(Some(ListedNote { id, note: note.clone(), stored: listed.modified.seconds }));
        }
        let open = || -> Result<(Note, Author)> {
            let (body, author) = self.object(Kind::Note, &listed.name, &id.0)?;
            Ok((Note::decode(&body)?, author))
        };
        match open() {
            Ok(note) => {
                let note = Arc::new(note);
                self.known.lock().notes.insert(id, note.clone());
                Ok(Some(ListedNote { id, note, stored: listed.modified.seconds }))
            }
            Err(e) => self.tell(&listed.name, e).map(|()| None),
        }
    }

    fn known_manifest(&self, listed: &Listed) -> Result<Option<Arc<Snapshot>>> {
        let Some(id) = listed.name.strip_prefix("snapshots/").and_then(SnapshotId::from_hex) else {
            return self.tell(&listed.name, Error::damaged("the name is no id")).map(|()| None);
        };
        if let Some(snapshot) = self.known.lock().snapshots.get(&id) {
            return Ok(Some(snapshot.clone()));
        }
        let open = || -> Result<Snapshot> {
            let (body, author) = self.object(Kind::Manifest, &listed.name, &id.0)?;
            let manifest = Manifest::decode(&body)?;
            Ok(Snapshot { id, tags: manifest.tags.clone(), manifest, held: false, author: author.public })
        };
        match open() {
            Ok(snapshot) => {
                let snapshot = Arc::new(snapshot);
                self.known.lock().snapshots.insert(id, snapshot.clone());
                Ok(Some(snapshot))
            }
            Err(e) => self.tell(&listed.name, e).map(|()| None),
        }
    }

    /// Damage and what vanished meanwhile are told once and passed over; everything else stops.
    fn tell(&self, name: &str, e: Error) -> Result<()> {
        match e.fault() {
            Fault::Damaged => {
                if self.known.lock().told.insert(name.to_owned()) {
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

    /// An object named by its hash: from the cache or the store, checked against its name, opened.
    fn object(&self, kind: Kind, name: &str, id: &[u8; ID_LEN]) -> Result<(Vec<u8>, Author)> {
        let index = self.index()?;
        let cached = index.object(id)?.filter(|bytes| blake3::hash(bytes).as_bytes() == id);
        let bytes = match cached {
            Some(bytes) => bytes,
            None => {
                let bytes = self.store.get(name, kind.limit())?;
                if blake3::hash(&bytes).as_bytes() != id {
                    return Err(Error::damaged("it is not what its name says"));
                }
                bytes
            }
        };
        self.keys.open_object(kind, &bytes)
    }

    /// Brings the index to exactly the segments that the store lists now.
    pub(super) fn sync_index(&self) -> Result<()> {
        let index = self.index()?;
        // Before the list: a segment that another thread publishes meanwhile must not look gone.
        let have = index.segments()?;
        let mut listed = BTreeSet::new();
        for l in self.store.list("index/")? {
            match l.name.strip_prefix("index/").and_then(SegmentId::from_hex) {
                Some(id) => drop(listed.insert(id)),
                None => self.tell(&l.name, Error::damaged("the name is no id"))?,
            }
        }
        if listed.is_empty() && !have.is_empty() && self.store.list("config/")?.is_empty() {
            return Err(self.emptied(&format!("{} segments are gone from it", have.len())));
        }
        let new: Vec<SegmentId> = listed.difference(&have).copied().collect();
        for group in new.chunks(SEGMENTS_AT_ONCE) {
            let mut applied = Vec::new();
            for id in group {
                let name = segment_name(id);
                match self.load_segment(id) {
                    Ok(a) => applied.push(a),
                    Err(e) => self.tell(&name, e)?,
                }
            }
            index.apply(applied, &[], Vec::new())?;
        }
        // Last: what a merge moved keeps its place, and no retirement stops counting in between.
        let gone: Vec<SegmentId> = have.difference(&listed).copied().collect();
        if !gone.is_empty() {
            index.apply(Vec::new(), &gone, Vec::new())?;
        }
        Ok(())
    }

    fn load_segment(&self, id: &SegmentId) -> Result<Applied> {
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
            if vouchers(v, RETIREMENT_CONTEXT)?.iter().any(|a| a.role == Role::Full) {
                retired.push(Retirement::decode(&v.body)?);
            }
        }
        Ok(Applied { segment: id, packs, retired })
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

pub(super) fn segment_name(id: &SegmentId) -> String {
    format!("index/{id}")
}
