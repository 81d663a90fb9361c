//! Vouching: a full key reads what others say lies in a pack, and signs it too if it is true.
//!
//! A writer key cannot read, so its word on where chunks lie is not checked by anybody when it is given: a stolen one can say
//! "this chunk lies here" of rubbish. So nobody but that key itself takes such a chunk for known (B3), and no other place
//! of it is given up (P4), before a full key has vouched for the entry: the same bytes, in another segment, with another
//! signature.

use super::keyring::Author;
use super::listing::segment_name;
use super::survey::id_of;
use super::{Examined, Repository, Right};
use crate::event::Stop;
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::pack::PackEntry;
use crate::format::segment::Segment;
use crate::id::{PackId, SegmentId, SessionId};
use crate::seal::Role;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Entries that one segment names at most, as of a backup: it stays far below the limit of segments.
const ENTRIES_MAX: usize = 8;

/// Hash of an entry: two may say different things of one pack.
type Digest = [u8; 32];

/// An entry of a pack that nobody but a writer key has signed.
#[derive(Clone, Debug)]
pub struct Unvouched {
    /// Which pack.
    pub pack: PackId,
    /// Its length in bytes, as the entry says.
    pub size: u64,
    /// Who says so, one of them.
    pub author: Author,
}

/// All entries that no full key vouches for, of packs that are not retired.
pub struct Claimed {
    entries: HashMap<Digest, Unvouched>,
    /// Where they are.
    segments: Vec<SegmentId>,
}

impl Claimed {
    /// How many, and the bytes of their packs.
    pub fn total(&self) -> (u64, u64) {
        (self.entries.len() as u64, self.entries.values().map(|e| e.size).sum())
    }
}

impl Repository {
    /// Lists segments and looks for entries that no full key has signed. Memory: about 150 bytes for each entry.
    ///
    /// # Errors
    /// `Denied` without a full key; what the store says. A segment that cannot be read is told to the observer.
    pub fn claimed(&self, stop: &Stop) -> Result<Claimed> {
        self.allow(Right::Manage, "vouching for packs")?;
        self.sync_index()?;
        let retired: HashSet<PackId> = self.index()?.retirements().iter().map(|(_, r)| r.pack).collect();
        let mut vouched: HashSet<Digest> = HashSet::new();
        let mut found: BTreeMap<SegmentId, Vec<(Digest, Unvouched)>> = BTreeMap::new();
        for name in self.store.names("index/")? {
            stop.check()?;
            let Some(id) = id_of(&name, SegmentId::from_hex, segment_name) else { continue };
            let Some(segment) = self.segment_if_there(&id)? else { continue };
            let mut authors = Vec::new();
            for certificate in &segment.certificates {
                authors.push(self.keys.author(certificate)?);
            }
            for v in &segment.entries {
                let digest = *blake3::hash(&v.body).as_bytes();
                let mut by = v.signatures.iter().filter_map(|s| authors.get(s.author)).peekable();
                let Some(first) = by.peek().map(|a| (*a).clone()) else { continue };
                if by.any(|a| self.keys.vouches(a)) {
                    vouched.insert(digest);
                } else if first.role != Role::Reader {
                    let entry = PackEntry::decode(&v.body)?;
                    let claim = Unvouched { pack: entry.pack, size: entry.size, author: first };
                    found.entry(id).or_default().push((digest, claim));
                }
            }
        }
        let mut claimed = Claimed { entries: HashMap::new(), segments: Vec::new() };
        for (id, entries) in found {
            let open = |(digest, claim): &(Digest, Unvouched)| {
                !vouched.contains(digest) && !retired.contains(&claim.pack)
            };
            let before = claimed.entries.len();
            claimed.entries.extend(entries.into_iter().filter(open));
            if claimed.entries.len() > before {
                claimed.segments.push(id);
            }
        }
        Ok(claimed)
    }

    fn segment_if_there(&self, id: &SegmentId) -> Result<Option<Segment>> {
        match self.segment(id) {
            Ok(segment) => Ok(Some(segment)),
            Err(e) if matches!(e.fault(), Fault::Missing | Fault::Damaged) => Ok(None),
            Err(e) => Err(e.while_(format!("reading index segment {}", id.short()))),
        }
    }

    /// Reads all these packs whole, and signs what each entry says if it is true to the last byte: how many that were, and
    /// their bytes. `each` is told of every entry by several threads.
    ///
    /// # Errors
    /// What the store says where it is not about a pack; `Stopped`. What was vouched for until then is.
    pub fn vouch(
        &self,
        claimed: &Claimed,
        stop: &Stop,
        each: &(dyn Fn(&Unvouched, &Examined) + Sync),
    ) -> Result<(u64, u64)> {
        self.allow(Right::Manage, "vouching for packs")?;
        let session = SessionId(crate::seal::random()?);
        let ready: Mutex<Vec<PackEntry>> = Mutex::default();
        let failed: Mutex<Option<Error>> = Mutex::default();
        let total: Mutex<(u64, u64)> = Mutex::default();
        let flush = |entries: Vec<PackEntry>| match self.publish_vouched(session, entries) {
            Ok((packs, bytes)) => {
                let mut total = total.lock();
                *total = (total.0 + packs, total.1 + bytes);
            }
            Err(e) => drop(failed.lock().get_or_insert(e)),
        };
        let examined = |entry: PackEntry, examined: Examined| {
            let digest = *blake3::hash(&entry.encode()).as_bytes();
            let Some(claim) = claimed.entries.get(&digest) else { return };
            each(claim, &examined);
            if examined.error.is_some() {
                return;
            }
            let mut waiting = ready.lock();
            waiting.push(entry);
            if waiting.len() >= ENTRIES_MAX {
                let entries = std::mem::take(&mut *waiting);
                drop(waiting);
                flush(entries);
            }
        };
        let mut left: HashSet<Digest> = claimed.entries.keys().copied().collect();
        let read = self.examine_fed(stop, &examined, &mut |feed| {
            for id in &claimed.segments {
                stop.check()?;
                for entry in self.entries(id)? {
                    let is_meant = left.remove(blake3::hash(&entry.encode()).as_bytes());
                    if failed.lock().is_some() || (is_meant && !feed(entry)) {
                        return Ok(());
                    }
                }
            }
            Ok(())
        });
        // Also what was read before a failure.
        flush(ready.into_inner());
        read?;
        match failed.into_inner() {
            Some(e) => Err(e.while_("publishing what was vouched for")),
            None => Ok(total.into_inner()),
        }
    }

    /// Publishes entries with our signature, but for packs that were retired or went meanwhile: what a prune has ended must not
    /// be named again.
    fn publish_vouched(&self, session: SessionId, mut entries: Vec<PackEntry>) -> Result<(u64, u64)> {
        if entries.is_empty() {
            return Ok((0, 0));
        }
        self.sync_index()?;
        let index = self.index()?;
        let retired: HashSet<PackId> = index.retirements().iter().map(|(_, r)| r.pack).collect();
        let named: HashSet<PackId> = index.packs()?.into_iter().collect();
        entries.retain(|e| named.contains(&e.pack) && !retired.contains(&e.pack));
        if entries.is_empty() {
            return Ok((0, 0));
        }
        let published = self.publish(session, &entries, &[])?;
        index.apply(vec![published.applied], &[], Vec::new()).doing(|| "remembering what was vouched for")?;
        Ok((entries.len() as u64, entries.iter().map(|e| e.size).sum()))
    }

    /// How many packs that count no full key vouches for, as far as the index knows: after a listing, all.
    ///
    /// # Errors
    /// What the cache's disk says.
    pub fn unvouched_packs(&self) -> Result<u64> {
        match self.keys.role {
            // Its own entries count for it, and it cannot tell them apart.
            Role::Writer => Ok(0),
            Role::Full | Role::Reader => self.index()?.untrusted_packs(),
        }
    }
}
