//! Ended keys and new epochs: what a key has said stays, what it says from then on does not count.
//!
//! No clock can tell the one from the other, as its holder writes any time he likes, and a copy of a repository has other
//! times than its original. So it is written down: before a key ends, whoever ends it says again, by his own key, what the
//! ending one had said and what counts; then the next config names it as ended. From then on nothing counts that it alone
//! has signed: snapshots only where a note of a full key accepts them, and of entries nobody but their readers believes
//! anything.
//!
//! A rotation is the same for all keys at once, by a full key of a new epoch, in two configs: the first begins the epoch, and
//! whoever has keys of an earlier one is told so from then on; all that was said still counts. The second ends the earlier
//! epochs, once what counts was said again. A rotation that died in between is gone on with by the next one.

use super::keyring::{Author, Keyring};
use super::listing::{note_name, segment_name};
use super::slots::{Credential, read_slots, slot_name};
use super::survey::id_of;
use super::{Repository, Right, put_config, put_twin};
use crate::clock;
use crate::event::{Event, Stop};
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::config::Config;
use crate::format::object::{Kind, RETIREMENT_CONTEXT};
use crate::format::pack::PackEntry;
use crate::format::segment::{Segment, Signature, Vouched};
use crate::format::slot::Label;
use crate::format::snapshot::{Action, Note};
use crate::id::{NoteId, PackId, SegmentId, SlotId, SnapshotId};
use crate::seal::Role;
use std::collections::HashSet;

/// Most snapshots that one note accepts; see `notes.rs`.
const ACCEPTED_MAX: usize = 10_000;
/// A segment of what is said again is finished once its bodies have so many bytes.
const SEGMENT_BYTES: usize = 8 << 20;
/// Most ended keys: their public keys must fit into a config beside all else.
const ENDED_MAX: usize = 1000;
/// Most epochs, likewise.
const EPOCHS_MAX: u32 = 100;

/// What was said again when keys ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Snapshots.
    pub snapshots: u64,
    /// Entries of packs.
    pub packs: u64,
}

impl Repository {
    /// Ends a signing key: what it writes from now on does not count. What it has written stays; of packs, only what counted
    /// for others, which is what full keys have signed.
    ///
    /// # Errors
    /// `Denied` without a full key; `Misuse` for the key in use and for one that has ended; what the store says, and then the
    /// key has not ended.
    pub fn end_key(&self, public: &[u8; 32], stop: &Stop) -> Result<Carried> {
        self.allow(Right::Manage, "ending a key")?;
        if *public == self.keys.public() {
            return Err(
                Error::misuse("this is the key in use").hint("open the repository with another full key")
            );
        }
        if self.config.ended.contains(public) {
            return Err(Error::misuse("this key has ended already"));
        }
        if self.config.ended.len() >= ENDED_MAX {
            return Err(Error::misuse(format!("{ENDED_MAX} keys have ended, and a config holds no more"))
                .hint("`pastfs key rotate` ends all keys of this epoch, and begins with none"));
        }
        let carried = self.carry_over(&|author| author.public == *public, stop)?;
        let mut config = self.next_config()?;
        config.ended.push(*public);
        self.put_config(&self.keys, &config, None)?;
        Ok(carried)
    }

    /// Begins a new epoch: new reading, index and authority keys for what is written from now on. Gives a full key of it to the
    /// credential in use; no other key opens what comes. The caller opens the repository anew with the same credential, and
    /// calls [`Repository::end_epochs`]. Where another rotation died before that, nothing is done here.
    ///
    /// # Errors
    /// `Denied` without a full key; what the store says, and then keys are as they were.
    pub fn begin_epoch(&self, credential: &Credential, label: &Label) -> Result<SlotId> {
        self.allow(Right::Manage, "rotating keys")?;
        if self.config.since < self.config.epoch {
            return Ok(self.slot);
        }
        if self.keys.epoch() >= EPOCHS_MAX {
            return Err(Error::misuse(format!(
                "keys were rotated {EPOCHS_MAX} times, and a config holds no more"
            )));
        }
        let (slot, next) = match self.begun(credential)? {
            Some(found) => found,
            None => {
                let next = self.keys.next_epoch()?;
                let object = next.same_slot(credential, label)?;
                let id = SlotId::of_object(&object);
                self.store.put(&slot_name(&id), &object).doing(|| "writing the new key")?;
                (id, next)
            }
        };
        let mut config = self.next_config()?;
        config.epoch = next.epoch();
        config.earlier = next.seal_earlier()?;
        self.put_config(&next, &config, Some(&*self.keys))?;
        Ok(slot)
    }

    /// Ends all earlier epochs: what their keys write from now on does not count. What they have written stays; of packs, only
    /// what counted for others.
    ///
    /// # Errors
    /// As [`Repository::end_key`].
    pub fn end_epochs(&self, stop: &Stop) -> Result<Carried> {
        self.allow(Right::Manage, "rotating keys")?;
        let epoch = self.keys.epoch();
        if self.config.since >= epoch {
            return Ok(Carried::default());
        }
        let carried = self.carry_over(&|author| author.epoch < epoch, stop)?;
        let mut config = self.next_config()?;
        config.since = epoch;
        // Those of earlier epochs; in this one nobody has ended yet.
        config.ended.clear();
        self.put_config(&self.keys, &config, None)?;
        Ok(carried)
    }

    /// The key of a rotation that died before its config.
    fn begun(&self, credential: &Credential) -> Result<Option<(SlotId, Keyring)>> {
        let next = self.keys.epoch() + 1;
        let mut slots = read_slots(&*self.store, &self.observer)?.0;
        slots.retain(|(_, s)| {
            s.epoch == next && s.role == Role::Full.code() && s.repository == self.keys.repository
        });
        let Some((id, keys)) = Keyring::open(&slots, credential)? else { return Ok(None) };
        Ok(keys.follow(&self.keys).map(|keys| (id, keys)))
    }

    /// The config under the next number that is free: one that does not count may have taken some.
    fn next_config(&self) -> Result<Config> {
        let names: HashSet<String> = self.store.names("config/")?.into_iter().collect();
        let mut config = self.config.clone();
        loop {
            config.number += 1;
            if !names.contains(&format!("config/{}", config.number)) {
                return Ok(config);
            }
        }
    }

    /// Writes a config and its twin.
    fn put_config(&self, keys: &Keyring, config: &Config, before: Option<&Keyring>) -> Result<()> {
        put_config(&*self.store, keys, config, before)?;
        put_twin(&*self.store, keys, config, before, &self.observer);
        Ok(())
    }

    /// Says again what counts now for the sake of authors that are `ending` alone.
    pub(super) fn carry_over(&self, ending: &dyn Fn(&Author) -> bool, stop: &Stop) -> Result<Carried> {
        let listing = self.list()?;
        self.sync_index()?;
        let mut carried = Carried::default();
        let void = &listing.void;
        let of_ending = listing.manifests.iter().filter(|s| ending(&s.author) && !void.contains(&s.id));
        let snapshots: Vec<SnapshotId> = of_ending.map(|s| s.id).collect();
        carried.snapshots = snapshots.len() as u64;
        for some in snapshots.chunks(ACCEPTED_MAX) {
            self.say(&Note {
                action: Action::Accept,
                time: clock::now(),
                snapshots: some.to_vec(),
                tags: Vec::new(),
                session: None,
                lost: Vec::new(),
                unknown: Default::default(),
            })?;
        }
        for n in &listing.notes {
            stop.check()?;
            let (note, author) = &*n.note;
            if author.role == Role::Full && ending(author) {
                self.say(note)?;
            }
        }
        carried.packs = self.carry_segments(ending, stop)?;
        Ok(carried)
    }

    fn say(&self, note: &Note) -> Result<()> {
        let object = self.keys.seal_object(Kind::Note, note.encode())?;
        let name = note_name(&NoteId::of_object(&object));
        self.store.put(&name, &object).doing(|| format!("writing {name}"))
    }

    /// Entries of packs that are not retired, and retirements. What one segment retires stays in one: who names a sweep as seen
    /// has seen all that it ended.
    fn carry_segments(&self, ending: &dyn Fn(&Author) -> bool, stop: &Stop) -> Result<u64> {
        let index = self.index()?;
        let retired: HashSet<PackId> = index.retirements().iter().map(|(_, r)| r.pack).collect();
        let (mut open, mut bytes, mut packs) = (Segment::default(), 0, 0);
        let mut said: HashSet<[u8; 32]> = HashSet::new();
        for name in self.store.names("index/")? {
            stop.check()?;
            let Some(id) = id_of(&name, SegmentId::from_hex, segment_name) else { continue };
            let segment = match self.segment(&id) {
                Ok(segment) => segment,
                // Merged, or damaged: then it counts for nobody.
                Err(e) if matches!(e.fault(), Fault::Missing | Fault::Damaged) => {
                    self.observer.event(Event::Detail(&format!("{name} is left out: {}", e.chain())));
                    continue;
                }
                Err(e) => return Err(e.while_(format!("reading {name}"))),
            };
            let mut authors = Vec::new();
            for certificate in &segment.certificates {
                authors.push(self.keys.author(certificate)?);
            }
            // It counts now, and would not when those are over who say it.
            let is_lost = |v: &Vouched| {
                let mut by = v.signatures.iter().filter_map(|s| authors.get(s.author));
                by.clone().any(|a| self.keys.vouches(a)) && !by.any(|a| self.keys.vouches(a) && !ending(a))
            };
            let again = |context: &str, body: Vec<u8>| {
                let signature = self.keys.sign(context, &body);
                Vouched { body, signatures: vec![Signature { author: 0, signature }] }
            };
            for v in segment.entries.iter().filter(|v| is_lost(v)) {
                let is_new = said.insert(*blake3::hash(&v.body).as_bytes());
                if is_new && !retired.contains(&PackEntry::decode(&v.body)?.pack) {
                    bytes += v.body.len();
                    packs += 1;
                    open.entries.push(again(Kind::Pack.context(), v.body.clone()));
                }
            }
            for v in segment.retirements.iter().filter(|v| is_lost(v)) {
                bytes += v.body.len();
                open.retirements.push(again(RETIREMENT_CONTEXT, v.body.clone()));
            }
            if bytes >= SEGMENT_BYTES {
                self.put_again(std::mem::take(&mut open))?;
                bytes = 0;
            }
        }
        self.put_again(open)?;
        Ok(packs)
    }

    fn put_again(&self, segment: Segment) -> Result<()> {
        if segment.entries.is_empty() && segment.retirements.is_empty() {
            return Ok(());
        }
        self.put_segment(Segment {
            created: clock::now().seconds,
            certificates: vec![self.keys.certificate().to_vec()],
            ..segment
        })?;
        Ok(())
    }
}
