//! `index/<id>`: which chunks lie where in this store, and which packs are retired.

use super::cbor::{MapWriter, Reader, Unknown, invalid, required};
use super::object::map_of;
use crate::fault::Result;
use crate::id::{PackId, SegmentId, SessionId};

/// A signature by one of the certificates of the segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Position in [`Segment::certificates`].
    pub author: usize,
    /// Ed25519.
    pub signature: [u8; 64],
}

/// An encoded body with the signatures of those who vouch for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vouched {
    /// A `PackEntry` or a [`Retirement`], encoded.
    pub body: Vec<u8>,
    /// At least one.
    pub signatures: Vec<Signature>,
}

/// The body of a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Seconds since 1970 by its writer's clock; for people only.
    pub created: i64,
    /// The session that wrote it.
    pub session: Option<SessionId>,
    /// The authors' certificates, encoded.
    pub certificates: Vec<Vec<u8>>,
    /// Pack entries.
    pub entries: Vec<Vouched>,
    /// Retirements.
    pub retirements: Vec<Vouched>,
    /// The segments that this one was merged from.
    pub replaces: Vec<SegmentId>,
    /// Fields of a newer version.
    pub unknown: Unknown,
}

impl Segment {
    /// The encoded body.
    pub fn encode(&self) -> Vec<u8> {
        let mut m = MapWriter::new();
        m.field(1).integer(self.created);
        if let Some(session) = &self.session {
            m.field(2).bytes(&session.0);
        }
        let w = m.field(3).array(self.certificates.len());
        for c in &self.certificates {
            w.bytes(c);
        }
        for (key, list) in [(4, &self.entries), (5, &self.retirements)] {
            let w = m.field(key).array(list.len());
            for v in list {
                w.array(2).bytes(&v.body).array(v.signatures.len());
                for s in &v.signatures {
                    w.array(2).unsigned(s.author as u64).bytes(&s.signature);
                }
            }
        }
        let w = m.field(6).array(self.replaces.len());
        for id in &self.replaces {
            w.bytes(&id.0);
        }
        m.unknown(&self.unknown);
        m.finish()
    }

    /// Reads a body; the entries stay encoded, and nothing is verified.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let (mut created, mut session, mut certificates) = (None, None, None);
        let (mut entries, mut retirements, mut replaces) = (None, None, None);
        let unknown = map_of(bytes, |key, r| {
            match key {
                1 => created = Some(r.integer()?),
                2 => session = Some(SessionId(r.array_of()?)),
                3 => {
                    let mut list = Vec::new();
                    for _ in 0..r.array()? {
                        match r.bytes(super::CERTIFICATE_MAX)? {
                            [] => return Err(invalid("a certificate is empty")),
                            c => list.push(c.to_vec()),
                        }
                    }
                    certificates = Some(list);
                }
                4 => entries = Some(vouched(r, bytes.len())?),
                5 => retirements = Some(vouched(r, bytes.len())?),
                6 => {
                    let mut list = Vec::new();
                    for _ in 0..r.array()? {
                        list.push(SegmentId(r.array_of()?));
                    }
                    replaces = Some(list);
                }
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let s = Self {
            created: required(created, "the time")?,
            session,
            certificates: required(certificates, "the list of certificates")?,
            entries: required(entries, "the list of entries")?,
            retirements: required(retirements, "the list of retirements")?,
            replaces: required(replaces, "the list of merged segments")?,
            unknown,
        };
        let mut signatures = s.entries.iter().chain(&s.retirements).flat_map(|v| &v.signatures);
        if signatures.any(|x| x.author >= s.certificates.len()) {
            return Err(invalid("a signature names a certificate that is not there"));
        }
        Ok(s)
    }
}

fn vouched(r: &mut Reader<'_>, limit: usize) -> Result<Vec<Vouched>> {
    let mut list = Vec::new();
    for _ in 0..r.array()? {
        r.exactly(2)?;
        let body = r.bytes(limit)?.to_vec();
        let mut signatures = Vec::new();
        for _ in 0..r.array()? {
            r.exactly(2)?;
            signatures.push(Signature { author: r.u32()? as usize, signature: r.array_of()? });
        }
        if signatures.is_empty() {
            return Err(invalid("nobody signed an entry of a segment"));
        }
        list.push(Vouched { body, signatures });
    }
    Ok(list)
}

/// The end of a pack: its chunks are absent to backups from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retirement {
    /// Which pack.
    pub pack: PackId,
    /// The sweep that retired it.
    pub sweep: SessionId,
    /// Seconds since 1970 by the store's clock.
    pub retired: i64,
    /// The same, when the pack was deleted.
    pub deleted: Option<i64>,
    /// Fields of a newer version.
    pub unknown: Unknown,
}

impl Retirement {
    /// The encoded body.
    pub fn encode(&self) -> Vec<u8> {
        let mut m = MapWriter::new();
        m.field(1).bytes(&self.pack.0);
        m.field(2).bytes(&self.sweep.0);
        m.field(3).integer(self.retired);
        if let Some(t) = self.deleted {
            m.field(4).integer(t);
        }
        m.unknown(&self.unknown);
        m.finish()
    }
    /// Reads a body.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let (mut pack, mut sweep, mut retired, mut deleted) = (None, None, None, None);
        let unknown = map_of(bytes, |key, r| {
            match key {
                1 => pack = Some(PackId(r.array_of()?)),
                2 => sweep = Some(SessionId(r.array_of()?)),
                3 => retired = Some(r.integer()?),
                4 => deleted = Some(r.integer()?),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(Self {
            pack: required(pack, "the pack")?,
            sweep: required(sweep, "the sweep")?,
            retired: required(retired, "the time")?,
            deleted,
            unknown,
        })
    }
}
