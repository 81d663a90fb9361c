//! `repair`: what is damaged or lost is mended as far as anything is left to mend it from, and what stays lost is said.
//!
//! Where there is a replica, [`from`] takes back from it what is damaged or missing here. Else three steps, each of its own use,
//! from the ground up: [`index`] names again what no segment names any more, [`packs`]
//! saves what is whole of damaged packs, [`snapshots`] writes snapshots anew without what is lost for good. Each can be
//! stopped at any point and run again. Nothing is deleted or retired before what takes its place is durable; a file that is
//! lost here and still there at its source is stored again by the next backup.

mod from;
mod index;
mod objects;
mod packs;
mod snapshots;
mod walk;

pub use from::{FromOptions, FromReport, Returned, from};
pub use index::{DamagedStray, IndexReport, index};
pub use objects::{Broken, Fate};
pub use packs::{Emptied, PacksOptions, PacksReport, packs};
pub use snapshots::{Mended, SnapshotsOptions, SnapshotsReport, snapshots};
pub use walk::{Counts, LOST_MAX, Remains};

use crate::event::{Event, Observer, Outcome, Stop};
use crate::fault::Result;
use crate::format::snapshot::Unread;
use crate::id::{ChunkId, SnapshotId};
use crate::repository::{Keep, Repository, Survey};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use walk::{Nowhere, Walk};

/// What is lost of a snapshot.
#[derive(Clone, Debug)]
pub struct Hurt {
    /// Which one.
    pub snapshot: SnapshotId,
    /// The first of the files, or folders, that are lost or lack something, with the reason.
    pub files: Vec<Unread>,
    /// How many there are.
    pub total: u64,
}

/// What is lost of all snapshots.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    /// The snapshots that are hit, oldest first.
    pub hurt: Vec<Hurt>,
    /// Chunks that are lost; up to [`LOST_MAX`] are counted.
    pub chunks: HashSet<ChunkId>,
}

/// Goes through all snapshots, for what they lack.
fn losses(
    repository: &Arc<Repository>,
    survey: &Survey,
    observer: &Arc<dyn Observer>,
    stop: &Stop,
) -> Result<Losses> {
    // What the store has is in question, not what was kept of it.
    let reader = repository.reader_keeping(Keep::Nothing);
    let mut walk = Walk::new(repository, &reader, &survey.packs, false, stop);
    let mut losses = Losses::default();
    for s in &survey.snapshots {
        let name = format!("snapshots/{}", s.id);
        observer.event(Event::Started(Path::new(&name)));
        if let Some(remains) = walk.snapshot(s, &mut Nowhere)? {
            losses.hurt.push(Hurt { snapshot: s.id, files: remains.lost, total: remains.total });
        }
        done(observer, &name);
    }
    losses.chunks = walk.lost;
    Ok(losses)
}

fn done(observer: &Arc<dyn Observer>, name: &str) {
    let (path, outcome) = (Path::new(name), Outcome::Verified);
    observer.event(Event::Finished { path, outcome, file: true });
}
