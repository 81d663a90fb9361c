//! The keys that an opened repository works with, of all epochs, and who may say what.

use crate::clock;
use crate::fault::{Error, Fault, Result};
use crate::format::object::{CERTIFICATE_CONTEXT, Envelope, Kind, Signed, body, head};
use crate::format::pack::Header;
use crate::format::slot::{Certificate, Label, Secrets, Slot};
use crate::id::RepositoryId;
use crate::pack::PackKeys;
use crate::seal::{self, Cipher, IdKeys, IdSecret, IndexKey, ReadingKey, Role, Root, Signer, SigningSeed};
use parking_lot::Mutex;
use std::collections::HashMap;
use zeroize::Zeroizing;

const LABEL_CONTEXT: &[u8] = b"pastfs v1 slot label";
const PRIVATE_INFO: &[u8] = b"pastfs v1 manifest private";
/// Most certificates kept as verified.
const CERTIFICATES_MAX: usize = 10_000;

/// Who signed something, proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    /// What the key may do.
    pub role: Role,
    /// Its public key.
    pub public: [u8; 32],
    /// The host of a writer key; empty: any.
    pub host: Vec<u8>,
    /// Of the authority that made its certificate.
    pub epoch: u32,
}

/// What opens the objects of one epoch.
struct Epoch {
    number: u32,
    index_key: IndexKey,
    /// Not with a writer key.
    reading: Option<ReadingKey>,
    /// Public key.
    authority: [u8; 32],
}

/// All keys that one slot gives.
pub struct Keyring {
    /// Which repository.
    pub repository: RepositoryId,
    /// What the slot may do.
    pub role: Role,
    root: Option<Root>,
    id_secret: IdSecret,
    /// Names chunks.
    pub ids: IdKeys,
    now: Epoch,
    recipient: [u8; 32],
    seed: SigningSeed,
    signer: Signer,
    certificate: Vec<u8>,
    verified: Mutex<HashMap<Vec<u8>, Author>>,
}

impl Keyring {
    /// The keys of a new repository, with a signing key for its first slot.
    pub fn generate() -> Result<Self> {
        let (root, id_secret) = (Root::random()?, IdSecret::random()?);
        Self::full(RepositoryId(seal::random()?), 1, root, id_secret, IndexKey::random()?)
    }

    /// A full key with a new signing key.
    fn full(
        repository: RepositoryId,
        epoch: u32,
        root: Root,
        id_secret: IdSecret,
        index_key: IndexKey,
    ) -> Result<Self> {
        let seed = SigningSeed::random()?;
        let signer = seed.signer();
        let certificate = certify(&root, &repository, Role::Full, signer.public(), &[]);
        let reading = root.reading();
        Ok(Self {
            repository,
            role: Role::Full,
            ids: id_secret.id_keys(),
            recipient: reading.public(),
            now: Epoch {
                number: epoch,
                index_key,
                reading: Some(reading),
                authority: root.authority().public(),
            },
            root: Some(root),
            id_secret,
            seed,
            signer,
            certificate,
            verified: Mutex::default(),
        })
    }

    /// What a slot gives, proven: its certificate is of this role and key, and by this authority.
    pub(super) fn from_secrets(slot: &Slot, s: &Secrets) -> Result<Self> {
        let lacking = |what: &str| Error::damaged(format!("the key slot lacks {what}"));
        let role = Role::from_code(slot.role).ok_or_else(|| lacking("a role"))?;
        let secret = |bytes: &[u8; 32]| Zeroizing::new(*bytes);
        let root = s.root.as_ref().and_then(|r| Root::from_slice(&secret(r)[..]));
        let id_secret = IdSecret::from_slice(&s.id_secret).ok_or_else(|| lacking("the id secret"))?;
        let index_key = IndexKey::from_slice(&s.index_key).ok_or_else(|| lacking("the index key"))?;
        let seed = SigningSeed::from_slice(&s.signing_seed).ok_or_else(|| lacking("the signing key"))?;
        let (reading, recipient, authority) = match (&root, role) {
            (Some(root), Role::Full) => {
                let reading = root.reading();
                let public = reading.public();
                (Some(reading), public, root.authority().public())
            }
            (None, Role::Reader) => {
                let reading = s.reading_secret.as_ref().and_then(|r| ReadingKey::from_slice(r));
                let reading = reading.ok_or_else(|| lacking("the reading key"))?;
                let public = reading.public();
                (Some(reading), public, s.authority.ok_or_else(|| lacking("the authority"))?)
            }
            (None, Role::Writer) => (
                None,
                s.reading_public.ok_or_else(|| lacking("the public reading key"))?,
                s.authority.ok_or_else(|| lacking("the authority"))?,
            ),
            _ => return Err(lacking("the secrets of its role")),
        };
        let keys = Self {
            repository: slot.repository,
            role,
            ids: id_secret.id_keys(),
            now: Epoch { number: slot.epoch, index_key, reading, authority },
            root,
            id_secret,
            recipient,
            signer: seed.signer(),
            seed,
            certificate: s.certificate.clone(),
            verified: Mutex::default(),
        };
        let author = keys.author(&keys.certificate)?;
        match author.role == role && author.public == keys.public() {
            true => Ok(keys),
            false => Err(Error::damaged("the certificate of the key slot is another one's")),
        }
    }

    /// The secrets of a slot: with a new signing key of this role for a host, which takes a full key; or, with no role, what
    /// these keys are themselves, for another password.
    pub(super) fn secrets(&self, new: Option<(Role, &[u8])>) -> Result<Secrets> {
        let (role, seed, certificate) = match new {
            None => (self.role, self.seed.clone(), self.certificate.clone()),
            Some((role, host)) => {
                let root = self.root.as_ref().ok_or_else(|| super::rights::lacks(Role::Full, "making a key"))?;
                let seed = SigningSeed::random()?;
                let certificate = certify(root, &self.repository, role, seed.signer().public(), host);
                (role, seed, certificate)
            }
        };
        let mut secrets = Secrets {
            id_secret: *self.id_secret.as_bytes(),
            index_key: *self.now.index_key.as_bytes(),
            signing_seed: *seed.as_bytes(),
            certificate,
            ..Secrets::default()
        };
        if role == Role::Full {
            secrets.root = self.root.as_ref().map(|root| *root.as_bytes());
            return Ok(secrets);
        }
        secrets.authority = Some(self.now.authority);
        match role {
            Role::Reader => secrets.reading_secret = Some(*self.reading(&self.now)?.as_bytes()),
            _ => secrets.reading_public = Some(self.recipient),
        }
        Ok(secrets)
    }

    /// What people are told about a slot.
    pub fn label(&self, slot: &Slot) -> Result<Label> {
        let aad = [LABEL_CONTEXT, &slot.associated()].concat();
        let key = &self.of(slot.epoch)?.index_key;
        Label::decode(&seal::open_box(key.as_bytes(), &aad, &slot.label)?)
    }

    /// Seals it, for a slot of this epoch.
    pub(super) fn seal_label(&self, slot: &Slot, label: &Label) -> Result<Vec<u8>> {
        let aad = [LABEL_CONTEXT, &slot.associated()].concat();
        seal::seal_box(self.now.index_key.as_bytes(), &aad, &label.encode())
    }

    /// Epoch of what is written.
    pub fn epoch(&self) -> u32 {
        self.now.number
    }

    /// The keys of an epoch.
    fn of(&self, epoch: u32) -> Result<&Epoch> {
        if epoch == self.now.number {
            return Ok(&self.now);
        }
        Err(Error::new(
            Fault::Newer,
            format!("it is sealed under the keys of epoch {epoch}, not {}", self.now.number),
        ))
    }

    /// Seed of the chunker.
    pub fn chunker_seed(&self) -> u64 {
        self.id_secret.chunker_seed()
    }
    /// Key of the mount's inode numbers.
    pub fn inode_key(&self) -> [u8; 32] {
        *self.id_secret.inode_key()
    }
    /// A key for what only this machine's cache holds; the same in all epochs, so that nothing is forgotten when keys are
    /// rotated.
    pub fn cache_key(&self, context: &str) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key(context, self.id_secret.as_bytes()))
    }
    /// The public key of this slot's signer.
    pub fn public(&self) -> [u8; 32] {
        self.signer.public()
    }
    /// This slot's certificate, encoded.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }
    /// For sealing packs.
    pub fn pack_keys(&self, cipher: Cipher) -> PackKeys {
        PackKeys {
            repository: self.repository,
            cipher,
            index_key: self.now.index_key.clone(),
            epoch: self.now.number,
            recipient: self.recipient,
        }
    }
    /// The cipher of a pack.
    pub fn open_pack(&self, header: &[u8]) -> Result<seal::PackCipher> {
        let keys = self.of(Header::decode(header)?.0.epoch)?;
        crate::pack::open_header(header, &self.repository, self.reading(keys)?, &keys.index_key)
    }
    fn reading<'a>(&self, keys: &'a Epoch) -> Result<&'a ReadingKey> {
        keys.reading.as_ref().ok_or_else(|| super::rights::lacks(Role::Reader, "reading content"))
    }

    /// Seals the part of a manifest that names paths, to the reading key.
    pub fn seal_private(&self, session: &[u8; 16], plain: &[u8]) -> Result<Vec<u8>> {
        let info = [PRIVATE_INFO, &self.repository.0].concat();
        seal::seal_to(&self.recipient, &self.now.index_key, self.now.number, &info, session, plain)
    }
    /// Opens it.
    pub fn open_private(&self, session: &[u8; 16], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let info = [PRIVATE_INFO, &self.repository.0].concat();
        let open = |e: &Epoch| {
            seal::open_from(self.reading(e)?, &e.index_key, e.number, &info, session, sealed)
        };
        open(&self.now)
    }

    /// Signs a body for a table of certificates kept elsewhere (entries, retirements).
    pub fn sign(&self, context: &str, body: &[u8]) -> [u8; 64] {
        self.signer.sign(context, &self.repository, body)
    }
    /// Whether `author` signed the body.
    pub fn verify(&self, author: &Author, context: &str, body: &[u8], signature: &[u8; 64]) -> bool {
        seal::verify(&author.public, context, &self.repository, body, signature)
    }
    /// Whether an author's word on where chunks lie counts for this key: its own, or a full key's.
    pub fn trusts(&self, author: &Author) -> bool {
        self.vouches(author) || author.public == self.signer.public()
    }

    /// Whether an author's signature vouches for an entry.
    pub fn vouches(&self, author: &Author) -> bool {
        author.role == Role::Full
    }

    /// Proves a certificate.
    pub fn author(&self, certificate: &[u8]) -> Result<Author> {
        if let Some(author) = self.verified.lock().get(certificate) {
            return Ok(author.clone());
        }
        let (c, signed) = Certificate::open(certificate)?;
        let proves = |authority: &[u8; 32]| {
            let (body, signature) = (&signed.body, &signed.signature);
            seal::verify(authority, CERTIFICATE_CONTEXT, &self.repository, body, signature)
        };
        let by = std::iter::once(&self.now).find(|e| proves(&e.authority));
        let proven = by.zip(Role::from_code(c.role)).filter(|_| signed.certificate.is_empty());
        let (by, role) =
            proven.ok_or_else(|| Error::damaged("a certificate was not made by this repository"))?;
        let author = Author { role, public: c.public, host: c.host, epoch: by.number };
        let mut verified = self.verified.lock();
        if verified.len() < CERTIFICATES_MAX {
            verified.insert(certificate.to_vec(), author.clone());
        }
        Ok(author)
    }

    /// Who these keys are to others.
    pub fn myself(&self) -> Result<Author> {
        self.author(&self.certificate)
    }

    /// An object: the body, signed by this slot's key, sealed under the index key.
    pub fn seal_object(&self, kind: Kind, body: Vec<u8>) -> Result<Vec<u8>> {
        let signature = self.sign(kind.context(), &body);
        let plain = Signed { body, certificate: self.certificate.clone(), signature }.encode();
        let head = Envelope::head(kind, self.now.number);
        let sealed =
            seal::seal_box(self.now.index_key.as_bytes(), &[&head[..], &self.repository.0].concat(), &plain)?;
        Ok([&head[..], &sealed].concat())
    }

    /// Opens and proves an object: its body and who wrote it.
    ///
    /// # Errors
    /// `Damaged` for everything that is not exactly what an author of this repository wrote; `Newer`.
    pub fn open_object(&self, kind: Kind, bytes: &[u8]) -> Result<(Vec<u8>, Author)> {
        let envelope = Envelope::decode(kind, bytes)?;
        let keys = self.of(envelope.epoch)?;
        let head = Envelope::head(kind, envelope.epoch);
        let aad = [&head[..], &self.repository.0].concat();
        let plain = seal::open_box(keys.index_key.as_bytes(), &aad, envelope.sealed)?;
        let signed = Signed::decode(&plain)?;
        let author = self.author(&signed.certificate)?;
        if author.role == Role::Reader
            || !self.verify(&author, kind.context(), &signed.body, &signed.signature)
        {
            return Err(Error::damaged(format!("the signature of the {} is wrong", kind.noun())));
        }
        Ok((signed.body, author))
    }

    /// A config object, signed by the authority.
    pub fn seal_config(&self, config: Vec<u8>) -> Result<Vec<u8>> {
        let root = self.root.as_ref().ok_or_else(|| super::rights::lacks(Role::Full, "changing the config"))?;
        let signature = root.authority().sign(Kind::Config.context(), &self.repository, &config);
        let signed = Signed { body: config, certificate: Vec::new(), signature };
        Ok([&head(Kind::Config)[..], &signed.encode()].concat())
    }

    /// Proves a config object and gives its body.
    pub fn open_config(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let signed = Signed::decode(body(Kind::Config, bytes)?)?;
        let context = Kind::Config.context();
        if !seal::verify(&self.now.authority, context, &self.repository, &signed.body, &signed.signature) {
            return Err(Error::damaged("the signature of the config is wrong"));
        }
        Ok(signed.body)
    }
}

fn certify(root: &Root, repository: &RepositoryId, role: Role, public: [u8; 32], host: &[u8]) -> Vec<u8> {
    let certificate = Certificate {
        role: role.code(),
        public,
        host: host.to_vec(),
        created: clock::now().seconds,
        unknown: Default::default(),
    };
    let body = certificate.encode();
    let signature = root.authority().sign(CERTIFICATE_CONTEXT, repository, &body);
    Signed { body, certificate: Vec::new(), signature }.encode()
}
