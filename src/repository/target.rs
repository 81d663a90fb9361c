//! The store that a replication brings things to: what is there, as listed under a lease, and what may be relied on of it.

use super::lease::{self, Begun, Held};
use super::listing::Listing;
use super::reader::pack_name;
use super::stages::Stages;
use super::survey::id_of;
use super::{Repository, Snapshot};
use crate::fault::{Doing, Result};
use crate::id::{PackId, SessionId};
use crate::index::Claims;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// What the lease says that it is for.
const PURPOSE: &str = "replicate";
/// How often a session is begun, as of a backup.
const BEGINNINGS: usize = 3;

/// Where things go: a store that is there.
pub(super) struct Target {
    pub repository: Arc<Repository>,
    pub claims: Claims,
    /// None in a dry run.
    pub lease: Option<Held>,
    pub session: SessionId,
    pub listing: Listing,
    /// The snapshots of that listing that nobody has forgotten, that the source has too, and whose authors are believed.
    pub bases: Vec<Arc<Snapshot>>,
    /// Packs that are there, whether a segment names them or not.
    pub packs: HashMap<PackId, u64>,
    pub parity: HashSet<String>,
    has_looked: bool,
    /// Packs that cannot come as they are: a prune has ended them there, or something else has their name.
    pub spoiled: HashSet<PackId>,
    /// Packs of others that were looked at already (B6).
    pub looked: HashSet<PackId>,
    pub stages: Option<Stages>,
}

impl Target {
    pub fn begin(
        repository: &Arc<Repository>,
        host: &[u8],
        distrust: HashSet<PackId>,
        is_dry: bool,
    ) -> Result<Self> {
        let (lease, listing) = match is_dry {
            true => {
                let listing = repository.list()?;
                repository.sync_index()?;
                (None, listing)
            }
            false => {
                let mut tries = 1;
                let (lease, listing) = loop {
                    match Self::lease(repository, host) {
                        Err(e) if lease::is_lost(&e) && tries < BEGINNINGS => tries += 1,
                        done => break done?,
                    }
                };
                (Some(lease), listing)
            }
        };
        let index = repository.index()?;
        let spoiled: HashSet<PackId> = index.retirements().iter().map(|(_, r)| r.pack).collect();
        let must_look = !distrust.is_empty();
        let suspects = distrust.clone();
        let mut target = Self {
            claims: Claims::new(index.clone(), distrust),
            session: lease.as_ref().map_or(SessionId([0; 16]), Held::session),
            repository: repository.clone(),
            lease,
            bases: Vec::new(),
            listing,
            packs: HashMap::new(),
            parity: HashSet::new(),
            has_looked: false,
            spoiled,
            looked: HashSet::new(),
            stages: None,
        };
        if must_look {
            target.look()?;
            let there: Vec<PackId> =
                suspects.into_iter().filter(|id| target.packs.contains_key(id)).collect();
            target.spoiled.extend(there);
        }
        Ok(target)
    }

    /// Lists the packs, once: only who brings any needs to know.
    pub fn look(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.has_looked, true) {
            return Ok(());
        }
        for listed in self.repository.store.list("packs/")? {
            if let Some(id) = id_of(&listed.name, PackId::from_hex, pack_name) {
                self.packs.insert(id, listed.size);
            }
        }
        self.parity = self.repository.store.names("parity/")?.into_iter().collect();
        Ok(())
    }

    /// B1: lease 0, notes, snapshots, segments, lease 1.
    fn lease(repository: &Arc<Repository>, host: &[u8]) -> Result<(Held, Listing)> {
        let begun = Begun::begin(repository, host, PURPOSE)
            .doing(|| format!("registering with the repository in {}", repository.location()))?;
        let listing = repository.list()?;
        repository.sync_index()?;
        let held = begun.seen(repository.index()?.sweeps()?, listing.forgets())?;
        Ok((held, listing))
    }
}
