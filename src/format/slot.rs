//! `keys/<id>`: a key slot, one for each password or key file; and certificates.

use super::cbor::{MapWriter, Unknown, invalid, required};
use super::object::{Signed, map_of};
use crate::fault::Result;
use crate::id::RepositoryId;
use zeroize::Zeroize;

/// Longest label, user or host name in bytes.
const TEXT_MAX: usize = 1024;

/// How the wrapping key is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrap {
    /// Argon2id (RFC 9106) over a password: memory in KiB, passes, lanes.
    Password {
        /// KiB of memory.
        m_kib: u32,
        /// Passes.
        t: u32,
        /// Lanes.
        p: u32,
    },
    /// BLAKE3 over 32 random bytes in a file.
    KeyFile,
}

/// A key slot as it lies in the store, after the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Which repository it opens.
    pub repository: RepositoryId,
    /// How the wrapping key is made.
    pub wrap: Wrap,
    /// Salt of the derivation.
    pub salt: [u8; 16],
    /// 1 full, 2 reader, 3 writer.
    pub role: u8,
    /// A hash that commits to the wrapping key.
    pub commitment: [u8; 32],
    /// Epoch of the secrets within.
    pub epoch: u32,
    /// [`Secrets`], sealed under the wrapping key.
    pub secrets: Vec<u8>,
    /// [`Label`], sealed under the index key.
    pub label: Vec<u8>,
}

impl Slot {
    /// What both sealed parts are bound to: every other field.
    pub fn associated(&self) -> Vec<u8> {
        let mut m = MapWriter::new();
        self.plain(&mut m);
        m.finish()
    }
    fn plain(&self, m: &mut MapWriter) {
        m.field(1).bytes(&self.repository.0);
        let w = m.field(2);
        match self.wrap {
            Wrap::Password { m_kib, t, p } => {
                w.array(4).unsigned(1).unsigned(m_kib.into()).unsigned(t.into()).unsigned(p.into());
            }
            Wrap::KeyFile => drop(w.array(1).unsigned(2)),
        }
        m.field(3).bytes(&self.salt);
        m.field(4).unsigned(u64::from(self.role));
        m.field(5).bytes(&self.commitment);
        m.field(6).unsigned(u64::from(self.epoch));
    }
    /// The encoded map.
    pub fn encode(&self) -> Vec<u8> {
        let mut m = MapWriter::new();
        self.plain(&mut m);
        m.field(7).bytes(&self.secrets);
        m.field(8).bytes(&self.label);
        m.finish()
    }
    /// Reads a slot. Unknown fields are refused: they would not be bound.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let (mut repository, mut wrap, mut salt, mut role) = (None, None, None, None);
        let (mut commitment, mut epoch, mut secrets, mut label) = (None, None, None, None);
        let unknown = map_of(bytes, |key, r| {
            match key {
                1 => repository = Some(RepositoryId(r.array_of()?)),
                2 => {
                    wrap = Some(match (r.array()?, r.unsigned()?) {
                        (4, 1) => Wrap::Password { m_kib: r.u32()?, t: r.u32()?, p: r.u32()? },
                        (1, 2) => Wrap::KeyFile,
                        _ => return Err(invalid("a slot is wrapped in an unknown way")),
                    });
                }
                3 => salt = Some(r.array_of()?),
                4 => match r.unsigned()? {
                    n @ 1..=3 => role = Some(n as u8),
                    _ => return Err(invalid("a slot has an unknown role")),
                },
                5 => commitment = Some(r.array_of()?),
                6 => epoch = Some(r.u32()?),
                7 => secrets = Some(r.bytes(bytes.len())?.to_vec()),
                8 => label = Some(r.bytes(bytes.len())?.to_vec()),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        if !unknown.0.is_empty() {
            return Err(invalid("a slot has an unknown field"));
        }
        Ok(Self {
            repository: required(repository, "the repository id")?,
            wrap: required(wrap, "the way it is wrapped")?,
            salt: required(salt, "the salt")?,
            role: required(role, "the role")?,
            commitment: required(commitment, "the commitment")?,
            epoch: required(epoch, "the epoch")?,
            secrets: required(secrets, "the sealed part")?,
            label: required(label, "the label")?,
        })
    }
}

/// What a slot gives to who can open it. Which fields are there follows from the role.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    /// Full keys: everything derives from it.
    pub root: Option<[u8; 32]>,
    /// Everybody: the two id keys and the chunker's seed derive from it.
    pub id_secret: [u8; 32],
    /// Everybody: seals segments, manifests, notes and leases.
    pub index_key: [u8; 32],
    /// Everybody: seed of the slot's own Ed25519 key.
    pub signing_seed: [u8; 32],
    /// The certificate of that key.
    pub certificate: Vec<u8>,
    /// Readers: the X25519 secret of the reading key.
    pub reading_secret: Option<[u8; 32]>,
    /// Writers: its public half.
    pub reading_public: Option<[u8; 32]>,
    /// Readers and writers: the authority's public key.
    pub authority: Option<[u8; 32]>,
}

impl Drop for Secrets {
    fn drop(&mut self) {
        self.root.zeroize();
        self.id_secret.zeroize();
        self.index_key.zeroize();
        self.signing_seed.zeroize();
        self.reading_secret.zeroize();
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(..)")
    }
}

impl Secrets {
    /// The encoded map. The caller seals it and wipes it.
    pub fn encode(&self) -> Vec<u8> {
        let mut m = MapWriter::new();
        if let Some(root) = &self.root {
            m.field(1).bytes(root);
        }
        m.field(2).bytes(&self.id_secret);
        m.field(3).bytes(&self.index_key);
        m.field(4).bytes(&self.signing_seed);
        m.field(5).bytes(&self.certificate);
        if let Some(key) = &self.reading_secret {
            m.field(6).bytes(key);
        }
        if let Some(key) = &self.reading_public {
            m.field(7).bytes(key);
        }
        if let Some(key) = &self.authority {
            m.field(8).bytes(key);
        }
        m.finish()
    }
    /// Reads the map. Unknown fields are refused: a slot that needs them has a version of its own.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut s = Self::default();
        let (mut id_secret, mut index_key, mut signing_seed) = (None, None, None);
        let mut certificate = None;
        let unknown = map_of(bytes, |key, r| {
            match key {
                1 => s.root = Some(r.array_of()?),
                2 => id_secret = Some(r.array_of()?),
                3 => index_key = Some(r.array_of()?),
                4 => signing_seed = Some(r.array_of()?),
                5 => certificate = Some(r.bytes(super::CERTIFICATE_MAX)?.to_vec()),
                6 => s.reading_secret = Some(r.array_of()?),
                7 => s.reading_public = Some(r.array_of()?),
                8 => s.authority = Some(r.array_of()?),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        if !unknown.0.is_empty() {
            return Err(invalid("the secrets of a slot have an unknown field"));
        }
        s.certificate = required(certificate, "the certificate")?;
        s.id_secret = required(id_secret, "the id secret")?;
        s.index_key = required(index_key, "the index key")?;
        s.signing_seed = required(signing_seed, "the signing key")?;
        Ok(s)
    }
}

/// What people are told about a slot; sealed under the index key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Label {
    /// What the owner calls it.
    pub text: Vec<u8>,
    /// Who made it.
    pub user: Vec<u8>,
    /// Where.
    pub host: Vec<u8>,
    /// When, in seconds since 1970.
    pub created: i64,
    /// The public key that the slot signs with, by which it can be ended.
    pub signer: Option<[u8; 32]>,
    /// Fields of a newer version.
    pub unknown: Unknown,
}

impl Label {
    /// The encoded map.
    pub fn encode(&self) -> Vec<u8> {
        let mut m = MapWriter::new();
        m.field(1).bytes(&self.text);
        m.field(2).bytes(&self.user);
        m.field(3).bytes(&self.host);
        m.field(4).integer(self.created);
        if let Some(signer) = &self.signer {
            m.field(5).bytes(signer);
        }
        m.unknown(&self.unknown);
        m.finish()
    }
    /// Reads the map.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let (mut text, mut user, mut host, mut created) = (None, None, None, None);
        let mut signer = None;
        let unknown = map_of(bytes, |key, r| {
            match key {
                1 => text = Some(r.bytes(TEXT_MAX)?.to_vec()),
                2 => user = Some(r.bytes(TEXT_MAX)?.to_vec()),
                3 => host = Some(r.bytes(TEXT_MAX)?.to_vec()),
                4 => created = Some(r.integer()?),
                5 => signer = Some(r.array_of()?),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(Self {
            text: required(text, "the text")?,
            user: required(user, "the user")?,
            host: required(host, "the host")?,
            created: required(created, "the time")?,
            signer,
            unknown,
        })
    }
}

/// The authority's word for a signing key; lies in slots and beside each signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// 1 full, 2 reader, 3 writer.
    pub role: u8,
    /// Ed25519 public key.
    pub public: [u8; 32],
    /// The host that a writer key speaks for; empty for full and reader keys.
    pub host: Vec<u8>,
    /// Seconds since 1970.
    pub created: i64,
    /// Fields of a newer version.
    pub unknown: Unknown,
}

impl Certificate {
    /// The encoded body; it travels inside a [`Signed`] without a certificate of its own.
    pub fn encode(&self) -> Vec<u8> {
        let mut m = MapWriter::new();
        m.field(1).unsigned(u64::from(self.role));
        m.field(2).bytes(&self.public);
        m.field(3).bytes(&self.host);
        m.field(4).integer(self.created);
        m.unknown(&self.unknown);
        m.finish()
    }
    /// Reads a body.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let (mut role, mut public, mut host, mut created) = (None, None, None, None);
        let unknown = map_of(bytes, |key, r| {
            match key {
                1 => match r.unsigned()? {
                    n @ 1..=3 => role = Some(n as u8),
                    _ => return Err(invalid("a certificate has an unknown role")),
                },
                2 => public = Some(r.array_of()?),
                3 => host = Some(r.bytes(TEXT_MAX)?.to_vec()),
                4 => created = Some(r.integer()?),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(Self {
            role: required(role, "the role")?,
            public: required(public, "the public key")?,
            host: required(host, "the host")?,
            created: required(created, "the time")?,
            unknown,
        })
    }
    /// Body and signature, not verified.
    pub fn open(bytes: &[u8]) -> Result<(Self, Signed)> {
        let signed = Signed::decode(bytes)?;
        Ok((Self::decode(&signed.body)?, signed))
    }
}
