//! Segments as this repository writes them: entries of packs, and retirements, each signed by our key.

use super::Repository;
use super::listing::segment_name;
use crate::clock;
use crate::fault::{Doing, Result};
use crate::format::object::{Kind, RETIREMENT_CONTEXT};
use crate::format::pack::PackEntry;
use crate::format::segment::{Retirement, Segment, Signature, Vouched};
use crate::id::{SegmentId, SessionId};
use crate::index::Applied;

/// A segment that was written.
pub(super) struct Published {
    pub id: SegmentId,
    /// Bytes of the object.
    pub size: u64,
    /// For the index.
    pub applied: Applied,
}

impl Repository {
    /// Writes a segment; durable when this returns. The caller applies it to the index.
    ///
    /// # Errors
    /// What the store says.
    pub(super) fn publish(
        &self,
        session: SessionId,
        entries: &[PackEntry],
        retirements: &[Retirement],
    ) -> Result<Published> {
        let signed = |context: &str, body: Vec<u8>| {
            let signature = self.keys.sign(context, &body);
            Vouched { body, signatures: vec![Signature { author: 0, signature }] }
        };
        self.put_segment(Segment {
            created: clock::now().seconds,
            session: Some(session),
            certificates: vec![self.keys.certificate().to_vec()],
            entries: entries.iter().map(|e| signed(Kind::Pack.context(), e.encode())).collect(),
            retirements: retirements.iter().map(|r| signed(RETIREMENT_CONTEXT, r.encode())).collect(),
            ..Segment::default()
        })
    }

    /// The same for a segment that is signed already.
    pub(super) fn put_segment(&self, segment: Segment) -> Result<Published> {
        let object = self.keys.seal_object(Kind::Segment, segment.encode())?;
        let id = SegmentId::of_object(&object);
        let doing = || format!("publishing an index segment in {}", self.location());
        self.store.put(&segment_name(&id), &object).doing(doing)?;
        Ok(Published { id, size: object.len() as u64, applied: self.applied(id, &segment)? })
    }
}
