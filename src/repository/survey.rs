//! What a check sees: every object of the store by name, and all but packs read from the store and proven. Nothing
//! here is taken from what the cache remembers.

use super::healing::parity_name;
use super::keyring::Author;
use super::listing::{ListedNote, Listing, Snapshot, manifest_name, note_name, segment_name};
use super::reader::pack_name;
use super::slots::slot_name;
use super::{Repository, load_config};
use crate::event::{Event, Outcome, Stop};
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::object::{Kind, body};
use crate::format::slot::Slot;
use crate::format::snapshot::{Manifest, Note, Private};
use crate::id::{NoteId, PackId, SegmentId, SessionId, SlotId, SnapshotId};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

/// How often all is listed anew, when a segment that was listed has gone before it was read: each time
/// somebody merged or pruned just then, which takes minutes.
const ROUNDS: usize = 5;

/// What to do about what vanished.
const LOOK: &str = "look at the storage and at other copies of the repository; if it is well so, `pastfs snapshots \
                    --accept-vanished` takes it for right";

/// An object that is not what it must be.
#[derive(Debug)]
pub struct Flaw {
    /// Its name in the store.
    pub object: String,
    /// What is wrong with it; a hint only where it differs from that for its kind.
    pub error: Error,
}

/// How the store has a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// With the size that is promised.
    Whole,
    /// With another size in bytes.
    Sized(u64),
    /// Not at all.
    Missing,
}

/// What segments say of a pack, and how it was found.
#[derive(Clone, Copy, Debug)]
pub struct Promise {
    /// Bytes.
    pub size: u64,
    /// A prune has ended it: it may be gone.
    pub retired: bool,
    /// By the list of the store.
    pub found: Found,
}

/// A repository as its store shows it. Memory: about 100 bytes for each pack and each lost object; one segment at a time.
#[derive(Debug, Default)]
pub struct Survey {
    /// Neither forgotten nor withdrawn, oldest first.
    pub snapshots: Vec<Arc<Snapshot>>,
    /// All packs that segments name.
    pub packs: BTreeMap<PackId, Promise>,
    /// Bytes of packs that no segment names, each: a backup may be about to, or was killed.
    pub unused: Vec<(PackId, u64)>,
    /// The same of packs that are retired and that no segment names any more. What snapshots need may lie there alone, as a
    /// prune has not moved it yet; as a rule they are garbage.
    pub nameless: Vec<(PackId, u64)>,
    /// Packs that are there, and whose parity is not, or is damaged as far as can be told without reading them.
    pub parity: Vec<(PackId, Error)>,
    /// Packs of which segments say different things, by the word of keys that count.
    pub disputed: BTreeSet<PackId>,
    /// The segments that are whole.
    pub segments: Vec<SegmentId>,
    /// The numbers of the configs that prove.
    pub configs: Vec<u64>,
    /// What is not as it must be; packs that are missing are told by `packs`.
    pub flaws: Vec<Flaw>,
    /// How many objects were listed.
    pub objects: u64,
    /// How many of them are packs.
    pub stored_packs: u64,
    /// Bytes of the others.
    pub bytes: u64,
    /// Names of the objects that others may delete in order: if one goes, what it named may have moved.
    names: HashSet<String>,
    /// One went before it was read.
    is_torn: bool,
}

impl Survey {
    /// Reads with `open`. What has gone meanwhile is none, and so is what has a flaw, which is noted.
    fn read<T>(&mut self, name: &str, open: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
        match open() {
            Ok(value) => Ok(Some(value)),
            Err(e) if e.fault() == Fault::Missing => Ok(None),
            Err(e) if is_finding(&e) => {
                self.flaws.push(Flaw { object: name.into(), error: e });
                Ok(None)
            }
            Err(e) => Err(e.while_(format!("reading {name}"))),
        }
    }

    /// Whether the store has listed a note, a manifest or a config of this name, or any object of another kind.
    pub fn is_listed(&self, name: &str) -> bool {
        !matches!(name.split_once('/'), Some(("notes" | "snapshots", _))) || self.names.contains(name)
    }

    fn foreign(&mut self, name: &str) {
        let error = Error::damaged("it is no object of a repository")
            .hint("it does no harm and was not made by pastfs; look at it, and move it elsewhere");
        self.flaws.push(Flaw { object: name.into(), error });
    }
}

/// Whether an error is about the object, and the check goes on: damage, also where it makes an object look newer than
/// this program, and what the disk cannot read.
pub fn is_finding(e: &Error) -> bool {
    matches!(e.fault(), Fault::Damaged | Fault::Newer | Fault::Io)
}

impl Repository {
    /// Lists all objects, reads and proves all but the packs, and brings the index to the segments of the store. The
    /// order is that of a reader, notes, snapshots, segments, packs: what a backup writes meanwhile is not missed.
    ///
    /// # Errors
    /// What the store says where it is not about one object; `Stopped`.
    pub fn survey(&self, stop: &Stop) -> Result<Survey> {
        let mut survey = self.look(stop)?;
        for _ in 1..ROUNDS {
            if !survey.is_torn {
                break;
            }
            survey = self.look(stop)?;
        }
        // These were told by the survey.
        self.told.lock().extend(survey.flaws.iter().map(|f| f.object.clone()));
        self.list()?;
        self.sync_index()?;
        let known = self.known.lock();
        for s in &known.vanished.snapshots {
            let error =
                Error::damaged("the snapshot was there before, and no note says that it was forgotten")
                    .hint(LOOK);
            survey.flaws.push(Flaw { object: manifest_name(&s.id), error });
        }
        for n in &known.vanished.notes {
            let text = format!("the note was there before, and its snapshots are there still: {}", n.says());
            survey.flaws.push(Flaw { object: note_name(&n.id), error: Error::damaged(text).hint(LOOK) });
        }
        drop(known);
        Ok(survey)
    }

    /// Whether something that the survey listed was deleted since: then what it named may have moved, or is not needed
    /// any more.
    ///
    /// # Errors
    /// What listing says.
    pub fn has_changed_since(&self, survey: &Survey) -> Result<bool> {
        let mut left = survey.names.len();
        for folder in ["notes/", "snapshots/", "index/"] {
            left -= self.store.names(folder)?.iter().filter(|n| survey.names.contains(*n)).count();
        }
        Ok(left > 0)
    }

    fn look(&self, stop: &Stop) -> Result<Survey> {
        let mut survey = Survey::default();
        let notes = self.store.names("notes/")?;
        let manifests = self.store.names("snapshots/")?;
        let segments = self.store.names("index/")?;
        let listed = self.store.list("")?;
        survey.objects = listed.len() as u64;
        survey.names = notes.iter().chain(&manifests).chain(&segments).cloned().collect();
        let sizes: HashMap<&str, u64> = listed.iter().map(|l| (l.name.as_str(), l.size)).collect();
        let small: Vec<u64> =
            listed.iter().filter(|l| !l.name.starts_with("packs/")).map(|l| l.size).collect();
        survey.bytes = small.iter().sum();
        survey.stored_packs = (listed.len() - small.len()) as u64;
        self.observer.event(Event::Planned { files: small.len() as u64, bytes: survey.bytes });
        let step = |name: &str| -> Result<()> {
            stop.check()?;
            self.observer.event(Event::Started(Path::new(name)));
            self.observer.event(Event::Bytes(sizes.get(name).copied().unwrap_or(0)));
            let outcome = Outcome::Verified;
            self.observer.event(Event::Finished { path: Path::new(name), outcome, file: true });
            Ok(())
        };
        let mut proven_notes = Vec::new();
        for name in &notes {
            step(name)?;
            let Some(id) = id_of(name, NoteId::from_hex, note_name) else {
                survey.foreign(name);
                continue;
            };
            let note = survey.read(name, || self.proven_note(id))?;
            proven_notes.extend(note.map(|note| ListedNote { id, note: Arc::new(note) }));
        }
        let mut proven = Vec::new();
        for name in &manifests {
            step(name)?;
            let Some(id) = id_of(name, SnapshotId::from_hex, manifest_name) else {
                survey.foreign(name);
                continue;
            };
            let manifest = survey.read(name, || self.proven_manifest(&id))?;
            proven.extend(manifest.map(|(m, by)| Arc::new(Snapshot::new(id, m, by))));
        }
        let mut said: HashMap<PackId, [u8; 32]> = HashMap::new();
        survey.snapshots = Listing::of(self, proven_notes, proven)?.live();
        for name in &segments {
            step(name)?;
            let Some(id) = id_of(name, SegmentId::from_hex, segment_name) else {
                survey.foreign(name);
                continue;
            };
            let flaws = survey.flaws.len();
            let Some(applied) = survey.read(name, || self.load_segment(&id))? else {
                survey.is_torn |= survey.flaws.len() == flaws;
                continue;
            };
            survey.segments.push(id);
            for p in &applied.packs {
                let fresh = Promise { size: 0, retired: false, found: Found::Missing };
                // Where only a retirement was met so far, no size is known yet.
                let promise = survey.packs.entry(p.entry.pack).or_insert(fresh);
                promise.size = promise.size.max(p.entry.size);
                if p.trusted {
                    let says = *blake3::hash(&p.entry.encode()).as_bytes();
                    if *said.entry(p.entry.pack).or_insert(says) != says {
                        survey.disputed.insert(p.entry.pack);
                    }
                }
            }
            for r in &applied.retired {
                let retired = Promise { size: 0, retired: true, found: Found::Missing };
                survey.packs.entry(r.pack).or_insert(retired).retired = true;
            }
        }
        let mut parity: HashMap<PackId, u64> = HashMap::new();
        for object in &listed {
            let name = object.name.as_str();
            match name.split_once('/').unwrap_or_default() {
                ("packs", _) => {
                    match id_of(name, PackId::from_hex, pack_name) {
                        None => survey.foreign(name),
                        Some(id) => match survey.packs.get_mut(&id) {
                            None => survey.unused.push((id, object.size)),
                            Some(p) if p.retired && p.size == 0 => survey.nameless.push((id, object.size)),
                            Some(p) if p.size == object.size => p.found = Found::Whole,
                            Some(p) => p.found = Found::Sized(object.size),
                        },
                    }
                    continue;
                }
                // Listed before; what came later is seen by the next check.
                ("notes" | "snapshots" | "index", _) => continue,
                ("parity", _) => match id_of(name, PackId::from_hex, parity_name) {
                    Some(id) => drop(parity.insert(id, object.size)),
                    None => survey.foreign(name),
                },
                ("config", number) => match number.parse::<u64>() {
                    Ok(n) if n.to_string() == number => {
                        let read = survey.read(name, || load_config(&*self.store, &self.keys, n))?;
                        survey.configs.extend(read.map(|config| config.number));
                    }
                    _ => survey.foreign(name),
                },
                ("keys", _) => match id_of(name, SlotId::from_hex, slot_name) {
                    Some(id) => drop(survey.read(name, || self.prove_slot(&id))?),
                    None => survey.foreign(name),
                },
                ("leases", rest) => match lease_of(rest) {
                    Some(lease) => drop(survey.read(name, || self.read_lease(name, lease))?),
                    None => survey.foreign(name),
                },
                _ => survey.foreign(name),
            }
            step(name)?;
        }
        // A list may be old: what can be read is there.
        for (id, p) in survey.packs.iter_mut().filter(|(_, p)| !p.retired && p.found == Found::Missing) {
            stop.check()?;
            if self.is_there(&pack_name(id), Some(p.size))? {
                p.found = Found::Whole;
            }
        }
        for (id, p) in survey.packs.iter().filter(|(_, p)| !p.retired && p.found == Found::Whole) {
            stop.check()?;
            let flaw = self.parity_flaw(id, p.size, parity.get(id).copied())?;
            survey.parity.extend(flaw.map(|e| (*id, e)));
        }
        Ok(survey)
    }

    pub(super) fn proven_note(&self, id: NoteId) -> Result<(Note, Author)> {
        let (body, author) = self.object(Kind::Note, &note_name(&id), &id.0)?;
        Ok((Note::decode(&body)?, author))
    }

    /// With its private part, which must open; who may not read it cannot tell.
    pub(super) fn proven_manifest(&self, id: &SnapshotId) -> Result<(Manifest, Author)> {
        let (manifest, author) = self.manifest(id)?;
        match self.keys.open_private(&manifest.session.0, &manifest.private) {
            Ok(plain) => drop(Private::decode(&plain).doing(|| "reading the paths")?),
            Err(e) if e.fault() == Fault::Denied => {}
            Err(e) => return Err(e.while_("reading the paths")),
        }
        Ok((manifest, author))
    }

    /// What can be told of a slot without its password: its name, and the label, which is sealed together with all that
    /// is not secret in it.
    fn prove_slot(&self, id: &SlotId) -> Result<()> {
        let object = self.store.get(&slot_name(id), Kind::Slot.limit())?;
        if SlotId::of_object(&object) != *id {
            return Err(Error::damaged("it is not what its name says"));
        }
        let slot = Slot::decode(body(Kind::Slot, &object)?)?;
        if slot.repository != self.keys.repository {
            return Err(Error::damaged("it is a key of another repository"));
        }
        if slot.epoch == self.keys.epoch() {
            self.keys.label(&slot).doing(|| "opening its label")?;
        }
        Ok(())
    }
}

/// The id in a name that is exactly what the id's object is called.
pub(super) fn id_of<T>(name: &str, from_hex: fn(&str) -> Option<T>, name_of: fn(&T) -> String) -> Option<T> {
    let id = from_hex(name.rsplit_once('/')?.1)?;
    (name_of(&id) == name).then_some(id)
}

/// `<session>-<n>`.
pub(super) fn lease_of(name: &str) -> Option<(SessionId, u64)> {
    let (session, number) = name.rsplit_once('-')?;
    let n = number.parse::<u64>().ok().filter(|n| n.to_string() == number)?;
    Some((SessionId::from_hex(session)?, n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_names_are_names() {
        let id = "3f".repeat(32);
        assert!(id_of(&format!("packs/3f/{id}"), PackId::from_hex, pack_name).is_some());
        for wrong in
            [format!("packs/3e/{id}"), format!("packs/{id}"), format!("packs/3f/{id}0"), "packs".into()]
        {
            assert!(id_of(&wrong, PackId::from_hex, pack_name).is_none(), "{wrong}");
        }
        let session = "0a".repeat(16);
        assert_eq!(lease_of(&format!("{session}-17")).map(|(_, n)| n), Some(17));
        for wrong in [format!("{session}-017"), format!("{session}17"), format!("{session}-+1"), "-1".into()]
        {
            assert!(lease_of(&wrong).is_none(), "{wrong}");
        }
    }
}
