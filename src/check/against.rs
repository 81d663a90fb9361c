//! A repository and a replica of it, object by object: what each has, what differs, which snapshots lie in one alone.
//!
//! That each is whole in itself is told by a check of each. Packs may differ in order, as the two are pruned each for itself;
//! so a pack that only one has is told of as a number, and no finding.

use super::finding::Finding;
use crate::event::{Event, Observer, Outcome, Stop};
use crate::fault::Result;
use crate::id::{PackId, SnapshotId};
use crate::repository::{Repository, Side};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

/// What was compared.
#[derive(Clone, Debug, Default)]
pub struct Compared {
    /// What differs, and what the replica lacks.
    pub findings: Vec<Finding>,
    /// Objects that both have.
    pub both: u64,
    /// Packs that only the repository has, and that only the replica has.
    pub packs: (u64, u64),
    /// Packs that both have and whose bytes were compared, and how many bytes that were.
    pub read: (u64, u64),
    /// Snapshots that only the replica lists: it keeps longer, or was backed up into.
    pub only_there: Vec<SnapshotId>,
    /// Snapshots that only the repository lists, and that the replica has forgotten.
    pub forgotten_there: Vec<SnapshotId>,
}

/// What to do where the two differ.
const DIFFERS: &str = "one of the two is damaged: `pastfs check --read-data` of each tells which, and `pastfs repair from` takes it from \
                       the other one";
const NOT_YET: &str = "`pastfs replicate` copies it";

/// Compares. With `read_data` what both have is read and compared byte by byte.
///
/// # Errors
/// What the stores say where it is not about one object; `Stopped`.
pub fn against(
    repository: &Arc<Repository>,
    replica: &Arc<Repository>,
    read_data: bool,
    observer: &Arc<dyn Observer>,
    stop: &Stop,
) -> Result<Compared> {
    // Snapshots before the rest, and the replica first: what comes there meanwhile is here already.
    let there = replica.side()?;
    let here = repository.side()?;
    let mut compared = Compared::default();
    snapshots(&here, &there, replica, &mut compared);
    let names: Vec<(&String, u64)> = here.objects.iter().map(|(name, size)| (name, *size)).collect();
    let shared = names.iter().filter(|(name, _)| there.objects.contains_key(*name)).count() as u64;
    let bytes =
        names.iter().filter(|(name, _)| there.objects.contains_key(*name)).map(|(_, size)| size).sum();
    observer.event(Event::Planned { files: shared, bytes });
    for (name, size) in names {
        stop.check()?;
        let is_pack = name.starts_with("packs/");
        let Some(other) = there.objects.get(name) else {
            compared.packs.0 += u64::from(is_pack);
            continue;
        };
        compared.both += 1;
        if size != *other {
            let what = format!(
                "it has {size} bytes in {} and {other} in {}",
                repository.location(),
                replica.location()
            );
            compared.findings.push(finding(name, what, DIFFERS));
            continue;
        }
        if is_pack && !read_data {
            continue;
        }
        observer.event(Event::Started(Path::new(name)));
        if let Some(what) = repository.differs(replica, name, size)? {
            compared.findings.push(finding(name, what, DIFFERS));
        }
        if is_pack {
            compared.read = (compared.read.0 + 1, compared.read.1 + size);
        }
        observer.event(Event::Bytes(size));
        observer.event(Event::Finished { path: Path::new(name), outcome: Outcome::Verified, file: true });
    }
    compared.packs.1 =
        there.objects.keys().filter(|n| n.starts_with("packs/") && !here.objects.contains_key(*n)).count()
            as u64;
    Ok(compared)
}

fn snapshots(here: &Side, there: &Side, replica: &Repository, compared: &mut Compared) {
    let listed_there: HashSet<SnapshotId> = there.visible.iter().copied().collect();
    let listed_here: HashSet<SnapshotId> = here.visible.iter().copied().collect();
    for id in here.visible.iter().filter(|id| !listed_there.contains(*id)) {
        match there.forgotten.contains(id) {
            true => compared.forgotten_there.push(*id),
            false => {
                let what = format!("the snapshot is not in {}", replica.location());
                compared.findings.push(finding(&format!("snapshots/{id}"), what, NOT_YET));
            }
        }
    }
    compared.only_there = there.visible.iter().filter(|id| !listed_here.contains(*id)).copied().collect();
    // What the replica's own segments promise must be there; that its snapshots need no more than these, its own check tells.
    for pack in &there.missing {
        let hex = PackId::hex(pack);
        let what = format!("it is missing in {}, whose index names it", replica.location());
        let advice = format!("`pastfs -r {} repair from` this repository brings it back", replica.location());
        compared.findings.push(finding(&format!("packs/{}/{hex}", &hex[..2]), what, &advice));
    }
}

fn finding(object: &str, what: String, advice: &str) -> Finding {
    Finding { object: object.into(), what, advice: advice.into(), ..Finding::default() }
}
