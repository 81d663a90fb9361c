//! What a store has, for who compares it with another one of the same repository.

use super::Repository;
use super::reader::pack_name;
use super::survey::is_finding;
use crate::fault::{Error, Fault, Result};
use crate::format::snapshot::Action;
use crate::id::{PackId, SnapshotId};
use crate::seal::Role;
use std::collections::{BTreeMap, HashSet};

/// Bytes that are asked of each store at a time.
const RANGE: u64 = 4 << 20;

/// What a store has.
#[derive(Debug, Default)]
pub struct Side {
    /// The snapshots that nobody has forgotten, oldest first.
    pub visible: Vec<SnapshotId>,
    /// Those that a note forgets, be their manifests there or not.
    pub forgotten: HashSet<SnapshotId>,
    /// Packs that the index names, that are not retired, and that are not there.
    pub missing: Vec<PackId>,
    /// All objects that are the same in each store which has them, with their sizes: all but segments and leases. About 150 bytes
    /// of memory for each.
    pub objects: BTreeMap<String, u64>,
}

impl Repository {
    /// Lists the store.
    ///
    /// # Errors
    /// What the store says.
    pub fn side(&self) -> Result<Side> {
        let listing = self.list()?;
        self.not_emptied(&listing)?;
        let visible = listing.live().iter().map(|s| s.id).collect();
        let mut side = Side { visible, ..Side::default() };
        for n in &listing.notes {
            let (note, author) = &*n.note;
            match note.action {
                _ if author.role != Role::Full => {}
                Action::Forget => side.forgotten.extend(note.snapshots.iter().copied()),
                Action::Unforget => side.forgotten.retain(|s| !note.snapshots.contains(s)),
                _ => {}
            }
        }
        self.sync_index()?;
        let is_universal = |name: &str| !name.starts_with("index/") && !name.starts_with("leases/");
        let listed = self.store.list("")?.into_iter().filter(|l| is_universal(&l.name));
        side.objects = listed.map(|l| (l.name, l.size)).collect();
        let index = self.index()?;
        let retired: HashSet<PackId> = index.retirements().iter().map(|(_, r)| r.pack).collect();
        for pack in index.packs()?.into_iter().filter(|p| !retired.contains(p)) {
            let name = pack_name(&pack);
            // A list may be old, and a backup at work.
            if !side.objects.contains_key(&name) && !self.has_any_pack(&pack)? {
                side.missing.push(pack);
            }
        }
        Ok(side)
    }

    /// Reads an object of this size here and in another store, and tells how the two differ, if they do.
    ///
    /// # Errors
    /// What the stores say where it is not about this object.
    pub fn differs(&self, other: &Self, name: &str, size: u64) -> Result<Option<String>> {
        let read = |from: &Self, at: u64, n: u64| -> Result<std::result::Result<Vec<u8>, Error>> {
            match from.store.range(name, at, n as usize) {
                Ok(bytes) => Ok(Ok(bytes)),
                Err(e) if is_finding(&e) || e.fault() == Fault::Missing => Ok(Err(e)),
                Err(e) => Err(e.while_(format!("reading {name} of {}", from.location()))),
            }
        };
        let mut at = 0;
        while at < size {
            let n = RANGE.min(size - at);
            let (here, there) = (read(self, at, n)?, read(other, at, n)?);
            let (here, there) = match (here, there) {
                (Ok(here), Ok(there)) => (here, there),
                // Deleted in order, by who may.
                (Err(a), Err(b)) if (a.fault(), b.fault()) == (Fault::Missing, Fault::Missing) => {
                    return Ok(None);
                }
                (Err(e), _) => {
                    return Ok(Some(format!("it cannot be read in {}: {}", self.location(), e.chain())));
                }
                (_, Err(e)) => {
                    return Ok(Some(format!("it cannot be read in {}: {}", other.location(), e.chain())));
                }
            };
            if here != there {
                let from = here.iter().zip(&there).take_while(|(a, b)| a == b).count() as u64;
                return Ok(Some(format!(
                    "its content differs between {} and {}, from byte {} on",
                    self.location(),
                    other.location(),
                    at + from
                )));
            }
            at += n;
        }
        Ok(None)
    }
}
