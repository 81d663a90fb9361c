//! What every object begins with, and the envelope of the sealed and signed ones.

use super::cbor::{MapWriter, Reader, Unknown, invalid, required};
use crate::fault::{Error, Fault, Result};

/// The first six bytes of every object.
pub const MAGIC: [u8; 6] = *b"pastfs";
/// The version of every kind of object that this program writes.
pub const VERSION: u8 = 1;
/// Magic, kind, version.
pub const HEAD_LEN: usize = 8;

/// Kinds of objects; the seventh byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// `config/<n>`
    Config = 1,
    /// `keys/<id>`
    Slot = 2,
    /// `packs/<2 hex>/<id>`
    Pack = 3,
    /// `index/<id>`
    Segment = 4,
    /// `snapshots/<id>`
    Manifest = 5,
    /// `notes/<id>`
    Note = 6,
    /// `leases/<session>-<n>`
    Lease = 7,
    /// `parity/<id>`, reserved
    Parity = 8,
}

impl Kind {
    /// Largest object of the kind in bytes; a larger one is refused before it is read.
    pub const fn limit(self) -> u64 {
        match self {
            Kind::Config | Kind::Slot => 64 << 10,
            Kind::Pack | Kind::Parity => 1 << 30,
            Kind::Segment => 64 << 20,
            Kind::Manifest => 16 << 20,
            Kind::Note | Kind::Lease => 1 << 20,
        }
    }
    /// What people call it.
    pub const fn noun(self) -> &'static str {
        match self {
            Kind::Config => "config",
            Kind::Slot => "key",
            Kind::Pack => "pack",
            Kind::Segment => "index segment",
            Kind::Manifest => "snapshot",
            Kind::Note => "note",
            Kind::Lease => "lease",
            Kind::Parity => "parity",
        }
    }
    /// What the signature of such a body covers beside it; see `seal::sign`.
    pub const fn context(self) -> &'static str {
        match self {
            Kind::Config => "pastfs v1 config",
            Kind::Slot => "pastfs v1 slot",
            Kind::Pack => "pastfs v1 pack entry",
            Kind::Segment => "pastfs v1 segment",
            Kind::Manifest => "pastfs v1 manifest",
            Kind::Note => "pastfs v1 note",
            Kind::Lease => "pastfs v1 lease",
            Kind::Parity => "pastfs v1 parity",
        }
    }
}

/// The signature context of certificates.
pub const CERTIFICATE_CONTEXT: &str = "pastfs v1 certificate";
/// The signature context of an authority's word for the next one.
pub const SUCCESSION_CONTEXT: &str = "pastfs v1 succession";
/// The signature context of retirements.
pub const RETIREMENT_CONTEXT: &str = "pastfs v1 retirement";

/// The first eight bytes of an object of `kind`.
pub fn head(kind: Kind) -> [u8; HEAD_LEN] {
    let [a, b, c, d, e, f] = MAGIC;
    [a, b, c, d, e, f, kind as u8, VERSION]
}

/// Checks the first eight bytes and gives the rest.
///
/// # Errors
/// `Newer` for a later version, `Damaged` for everything else.
pub fn body(kind: Kind, bytes: &[u8]) -> Result<&[u8]> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD_LEN>() else {
        return Err(Error::damaged(format!("decoding: the {} is truncated", kind.noun())));
    };
    if head[..6] != MAGIC || head[6] != kind as u8 || head[7] == 0 {
        return Err(Error::damaged(format!("decoding: this is no {}", kind.noun())));
    }
    if head[7] > VERSION {
        return Err(Error::new(
            Fault::Newer,
            format!("the {} was made by a newer pastfs (version {})", kind.noun(), head[7]),
        )
        .hint("use a pastfs that is at least as new as the one that wrote this repository"));
    }
    Ok(rest)
}

/// A body with its author's word for it: `{1: body, 2: certificate, 3: signature}`.
///
/// What the authority itself signs (config, certificates) has no certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The encoded body.
    pub body: Vec<u8>,
    /// The author's certificate, encoded; empty when the authority signed, but for the config of a rotation: there it is
    /// the word of the authority before, a `Signed` [`Succession`](super::epoch::Succession).
    pub certificate: Vec<u8>,
    /// Ed25519 (RFC 8032) over context, 0, repository id, body.
    pub signature: [u8; 64],
}

impl Signed {
    /// The encoded map.
    pub fn encode(&self) -> Vec<u8> {
        let mut m = MapWriter::new();
        m.field(1).bytes(&self.body);
        if !self.certificate.is_empty() {
            m.field(2).bytes(&self.certificate);
        }
        m.field(3).bytes(&self.signature);
        m.finish()
    }
    /// Reads the map; nothing is verified.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new(bytes);
        let (mut body, mut certificate, mut signature) = (None, Vec::new(), None);
        let mut fields = r.map()?;
        while let Some(k) = fields.next(&mut r)? {
            match k {
                1 => body = Some(r.bytes(bytes.len())?.to_vec()),
                2 => match r.bytes(super::CERTIFICATE_MAX)? {
                    [] => return Err(invalid("an empty certificate is left out")),
                    c => certificate = c.to_vec(),
                },
                3 => signature = Some(r.array_of()?),
                _ => return Err(invalid("a signed body has an unknown field")),
            }
        }
        r.end()?;
        Ok(Self {
            body: required(body, "the body")?,
            certificate,
            signature: required(signature, "the signature")?,
        })
    }
}

/// An envelope before it is opened: head, epoch of the index key, sealed [`Signed`].
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    /// Which index key seals it.
    pub epoch: u32,
    /// Nonce, ciphertext, tag.
    pub sealed: &'a [u8],
}

/// Length of what stands before the sealed part of an envelope.
pub const ENVELOPE_HEAD_LEN: usize = HEAD_LEN + 4;

impl<'a> Envelope<'a> {
    /// Checks the head and splits.
    pub fn decode(kind: Kind, bytes: &'a [u8]) -> Result<Self> {
        let rest = body(kind, bytes)?;
        let (epoch, sealed) =
            rest.split_first_chunk::<4>().ok_or_else(|| invalid("the envelope is truncated"))?;
        Ok(Self { epoch: u32::from_le_bytes(*epoch), sealed })
    }
    /// What stands before the sealed part: head and epoch. With the repository id it is the associated data.
    pub fn head(kind: Kind, epoch: u32) -> [u8; ENVELOPE_HEAD_LEN] {
        let mut out = [0; ENVELOPE_HEAD_LEN];
        out[..HEAD_LEN].copy_from_slice(&head(kind));
        out[HEAD_LEN..].copy_from_slice(&epoch.to_le_bytes());
        out
    }
}

/// Reads all fields of a map with `known`, which answers whether it knew the key; keeps the rest.
///
/// New fields come behind those that are known, never between or before: that is where they are
/// written again, and a place between would be one that an earlier version left out for good.
pub(super) fn map_of<'a>(
    bytes: &'a [u8],
    mut known: impl FnMut(u64, &mut Reader<'a>) -> Result<bool>,
) -> Result<Unknown> {
    let mut r = Reader::new(bytes);
    let mut unknown = Unknown::default();
    let mut fields = r.map()?;
    while let Some(k) = fields.next(&mut r)? {
        let mut ahead = r.clone();
        if known(k, &mut ahead)? {
            if !unknown.0.is_empty() {
                return Err(invalid("a map has a key that no version has"));
            }
            r = ahead;
        } else {
            unknown.0.push((k, r.item()?.to_vec()));
        }
    }
    r.end()?;
    Ok(unknown)
}
