//! `check --vouch`: reads all that only writer keys say of packs, and signs what is true. The one check that writes.

use super::finding::{Finding, NAMED_MAX};
use crate::event::{Event, Observer, Stop};
use crate::fault::Result;
use crate::repository::{Examined, Repository, Unvouched};
use parking_lot::Mutex;
use std::sync::Arc;

/// What became of it.
#[derive(Clone, Debug, Default)]
pub struct Vouched {
    /// Entries that were read and signed, and the bytes of their packs.
    pub packs: (u64, u64),
    /// Those that are not true.
    pub findings: Vec<Finding>,
}

/// Reads every pack that no full key vouches for yet, whole, and vouches for it if all is as its entry says.
///
/// # Errors
/// `Denied` without a full key; what the store says where it is not about one pack; `Stopped`.
pub fn vouch(repository: &Arc<Repository>, observer: &Arc<dyn Observer>, stop: &Stop) -> Result<Vouched> {
    let claimed = repository.claimed(stop)?;
    let (files, bytes) = claimed.total();
    observer.event(Event::Planned { files, bytes });
    let findings = Mutex::new(Vec::new());
    let each = |claim: &Unvouched, examined: &Examined| {
        if let Some(finding) = finding(claim, examined) {
            findings.lock().push(finding);
        }
    };
    let packs = repository.vouch(&claimed, stop, &each)?;
    let mut findings = findings.into_inner();
    findings.sort_by(|a, b| a.object.cmp(&b.object));
    Ok(Vouched { packs, findings })
}

fn finding(claim: &Unvouched, examined: &Examined) -> Option<Finding> {
    let error = examined.error.as_ref()?;
    let by = match claim.author.host.as_slice() {
        [] => "a writer key".to_owned(),
        host => format!("the writer key of host {}", String::from_utf8_lossy(host)),
    };
    let id = claim.pack.hex();
    Some(Finding {
        object: format!("packs/{}/{id}", &id[..2]),
        what: format!("it is not what {by} says of it: {}", error.chain()),
        chunks: examined.chunks.iter().take(NAMED_MAX).copied().collect(),
        lost: examined.chunks.len() as u64,
        advice: "no other key relies on it. If the pack is damaged, `pastfs check --read-data` names the files that are hit. If \
                 nothing else is, the key may be stolen: remove it, and look at the snapshots that it wrote"
            .into(),
        ..Finding::default()
    })
}
