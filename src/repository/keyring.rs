//! The keys that an opened repository works with, how slots give them, and who may say what.

use crate::clock;
use crate::fault::{Error, Fault, Result};
use crate::format::object::{CERTIFICATE_CONTEXT, Envelope, Kind, Signed, body, head};
use crate::format::slot::{Certificate, Label, Secrets, Slot, Wrap};
use crate::id::{RepositoryId, SlotId};
use crate::pack::PackKeys;
use crate::seal::{
    self, Cipher, IdKeys, IdSecret, IndexKey, Kdf, ReadingKey, Role, Root, Signer, SigningSeed, WrappingKey,
};
use parking_lot::Mutex;
use std::collections::HashMap;
use zeroize::Zeroizing;

const SECRETS_CONTEXT: &[u8] = b"pastfs v1 slot secrets";
const LABEL_CONTEXT: &[u8] = b"pastfs v1 slot label";
const PRIVATE_INFO: &[u8] = b"pastfs v1 manifest private";
/// Most certificates kept as verified.
const CERTIFICATES_MAX: usize = 10_000;

/// How somebody proves that he may.
pub enum Credential {
    /// A password, by Argon2id.
    Password(Zeroizing<Vec<u8>>),
    /// The 32 random bytes of a key file.
    KeyFile(Zeroizing<[u8; 32]>),
}

impl Credential {
    /// The way of wrapping that a new slot for it gets.
    fn new_wrap(&self) -> Result<(Wrap, [u8; 16])> {
        let kdf = Kdf::new()?;
        Ok(match self {
            Credential::Password(_) => (Wrap::Password { m_kib: kdf.m_kib, t: kdf.t, p: kdf.p }, kdf.salt),
            Credential::KeyFile(_) => (Wrap::KeyFile, kdf.salt),
        })
    }
    /// The wrapping key for a slot; `None` if the slot is for the other kind of credential.
    fn wrapping_key(&self, wrap: Wrap, salt: [u8; 16]) -> Result<Option<WrappingKey>> {
        match (self, wrap) {
            (Credential::Password(p), Wrap::Password { m_kib, t, p: lanes }) => {
                seal::wrapping_key(&Kdf { m_kib, t, p: lanes, salt }, p).map(Some)
            }
            (Credential::KeyFile(f), Wrap::KeyFile) => seal::key_file_wrapping_key(&f[..], &salt).map(Some),
            _ => Ok(None),
        }
    }
}

/// Who signed something, proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    /// What the key may do.
    pub role: Role,
    /// Its public key.
    pub public: [u8; 32],
    /// The host of a writer key.
    pub host: Vec<u8>,
}

/// All keys of one epoch, as one slot gives them.
pub struct Keyring {
    /// Which repository.
    pub repository: RepositoryId,
    /// Epoch of the keys.
    pub epoch: u32,
    root: Option<Root>,
    id_secret: IdSecret,
    /// Names chunks.
    pub ids: IdKeys,
    index_key: IndexKey,
    reading: Option<ReadingKey>,
    recipient: [u8; 32],
    authority: [u8; 32],
    signer: Signer,
    certificate: Vec<u8>,
    verified: Mutex<HashMap<Vec<u8>, Author>>,
}

impl Keyring {
    /// The keys of a new repository, with a signing key for its first slot.
    pub fn generate() -> Result<Self> {
        let root = Root::random()?;
        let id_secret = IdSecret::random()?;
        Self::full(
            RepositoryId(seal::random()?),
            root,
            id_secret,
            IndexKey::random()?,
            &SigningSeed::random()?,
        )
    }

    fn full(
        repository: RepositoryId,
        root: Root,
        id_secret: IdSecret,
        index_key: IndexKey,
        seed: &SigningSeed,
    ) -> Result<Self> {
        let signer = seed.signer();
        let certificate = certify(&root, &repository, Role::Full, signer.public(), Vec::new());
        let reading = root.reading();
        Ok(Self {
            repository,
            epoch: 1,
            ids: id_secret.id_keys(),
            recipient: reading.public(),
            reading: Some(reading),
            authority: root.authority().public(),
            root: Some(root),
            id_secret,
            index_key,
            signer,
            certificate,
            verified: Mutex::default(),
        })
    }

    /// The first slot that this credential opens.
    ///
    /// # Errors
    /// `Damaged` when the slot that it opens is not what it says. `None` means that none opens.
    pub fn open(slots: &[(SlotId, Slot)], credential: &Credential) -> Result<Option<(SlotId, Self)>> {
        for (id, slot) in slots {
            let Some(key) = credential.wrapping_key(slot.wrap, slot.salt)? else { continue };
            if key.opens(&slot.commitment) {
                let aad = [SECRETS_CONTEXT, &slot.associated()].concat();
                let plain = key.open(&aad, &slot.secrets)?;
                return Ok(Some((*id, Self::from_secrets(slot, Secrets::decode(&plain)?)?)));
            }
        }
        Ok(None)
    }

    fn from_secrets(slot: &Slot, s: Secrets) -> Result<Self> {
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
        Ok(Self {
            repository: slot.repository,
            epoch: slot.epoch,
            ids: id_secret.id_keys(),
            root,
            id_secret,
            index_key,
            reading,
            recipient,
            authority,
            signer: seed.signer(),
            certificate: s.certificate.clone(),
            verified: Mutex::default(),
        })
    }

    /// A slot object that opens to these keys, with a signing key of its own. Only a full key can make one.
    pub fn new_slot(&self, credential: &Credential, label: &Label) -> Result<Vec<u8>> {
        let seed = SigningSeed::random()?;
        let root = self.root.as_ref().ok_or_else(|| {
            Error::new(Fault::Denied, "making a key").hint("only a full key can make other keys")
        })?;
        let (wrap, salt) = credential.new_wrap()?;
        let key = credential
            .wrapping_key(wrap, salt)?
            .ok_or_else(|| Error::bug("a credential does not fit the slot made for it"))?;
        let mut slot = Slot {
            repository: self.repository,
            wrap,
            salt,
            role: Role::Full.code(),
            commitment: key.commitment(),
            epoch: self.epoch,
            secrets: Vec::new(),
            label: Vec::new(),
        };
        let secrets = Secrets {
            root: Some(*root.as_bytes()),
            id_secret: *self.id_secret.as_bytes(),
            index_key: *self.index_key.as_bytes(),
            signing_seed: *seed.as_bytes(),
            certificate: certify(root, &self.repository, Role::Full, seed.signer().public(), Vec::new()),
            ..Secrets::default()
        };
        let plain = slot.associated();
        let encoded = Zeroizing::new(secrets.encode());
        slot.secrets = key.seal(&[SECRETS_CONTEXT, &plain].concat(), &encoded)?;
        slot.label =
            seal::seal_box(self.index_key.as_bytes(), &[LABEL_CONTEXT, &plain].concat(), &label.encode())?;
        Ok([&head(Kind::Slot)[..], &slot.encode()].concat())
    }

    /// What people are told about a slot.
    pub fn label(&self, slot: &Slot) -> Result<Label> {
        let aad = [LABEL_CONTEXT, &slot.associated()].concat();
        Label::decode(&seal::open_box(self.index_key.as_bytes(), &aad, &slot.label)?)
    }

    /// Seed of the chunker.
    pub fn chunker_seed(&self) -> u64 {
        self.id_secret.chunker_seed()
    }
    /// Key of the mount's inode numbers.
    pub fn inode_key(&self) -> [u8; 32] {
        *self.id_secret.inode_key()
    }
    /// A key for what only this machine's cache holds.
    pub fn cache_key(&self, context: &str) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key(context, self.index_key.as_bytes()))
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
            index_key: self.index_key.clone(),
            epoch: self.epoch,
            recipient: self.recipient,
        }
    }
    /// The cipher of a pack.
    pub fn open_pack(&self, header: &[u8]) -> Result<seal::PackCipher> {
        crate::pack::open_header(header, &self.repository, self.reading()?, &self.index_key)
    }
    fn reading(&self) -> Result<&ReadingKey> {
        self.reading.as_ref().ok_or_else(|| {
            Error::new(Fault::Denied, "reading content with a writer key")
                .hint("a writer key can back up, not read; use a full or a reader key")
        })
    }

    /// Seals the part of a manifest that names paths, to the reading key.
    pub fn seal_private(&self, session: &[u8; 16], plain: &[u8]) -> Result<Vec<u8>> {
        let info = [PRIVATE_INFO, &self.repository.0].concat();
        seal::seal_to(&self.recipient, &self.index_key, self.epoch, &info, session, plain)
    }
    /// Opens it.
    pub fn open_private(&self, session: &[u8; 16], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let info = [PRIVATE_INFO, &self.repository.0].concat();
        seal::open_from(self.reading()?, &self.index_key, self.epoch, &info, session, sealed)
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
        author.role == Role::Full || author.public == self.signer.public()
    }

    /// Proves a certificate.
    pub fn author(&self, certificate: &[u8]) -> Result<Author> {
        if let Some(author) = self.verified.lock().get(certificate) {
            return Ok(author.clone());
        }
        let (c, signed) = Certificate::open(certificate)?;
        let good = seal::verify(
            &self.authority,
            CERTIFICATE_CONTEXT,
            &self.repository,
            &signed.body,
            &signed.signature,
        );
        let role = Role::from_code(c.role).filter(|_| good && signed.certificate.is_empty());
        let role = role.ok_or_else(|| Error::damaged("a certificate was not made by this repository"))?;
        let author = Author { role, public: c.public, host: c.host };
        let mut verified = self.verified.lock();
        if verified.len() < CERTIFICATES_MAX {
            verified.insert(certificate.to_vec(), author.clone());
        }
        Ok(author)
    }

    /// An object: the body, signed by this slot's key, sealed under the index key.
    pub fn seal_object(&self, kind: Kind, body: Vec<u8>) -> Result<Vec<u8>> {
        let signature = self.sign(kind.context(), &body);
        let plain = Signed { body, certificate: self.certificate.clone(), signature }.encode();
        let head = Envelope::head(kind, self.epoch);
        let sealed =
            seal::seal_box(self.index_key.as_bytes(), &[&head[..], &self.repository.0].concat(), &plain)?;
        Ok([&head[..], &sealed].concat())
    }

    /// Opens and proves an object: its body and who wrote it.
    ///
    /// # Errors
    /// `Damaged` for everything that is not exactly what an author of this repository wrote; `Newer`.
    pub fn open_object(&self, kind: Kind, bytes: &[u8]) -> Result<(Vec<u8>, Author)> {
        let envelope = Envelope::decode(kind, bytes)?;
        if envelope.epoch != self.epoch {
            return Err(Error::new(
                Fault::Newer,
                format!("it is sealed under the keys of epoch {}, not {}", envelope.epoch, self.epoch),
            ));
        }
        let head = Envelope::head(kind, envelope.epoch);
        let aad = [&head[..], &self.repository.0].concat();
        let plain = seal::open_box(self.index_key.as_bytes(), &aad, envelope.sealed)?;
        let signed = Signed::decode(&plain)?;
        let author = self.author(&signed.certificate)?;
        if author.role == Role::Reader
            || !self.verify(&author, kind.context(), &signed.body, &signed.signature)
        {
            return Err(Error::damaged(format!("the signature of the {} is wrong", kind.noun())));
        }
        Ok((signed.body, author))
    }

    /// The same keys with the certificate of a writer.
    #[cfg(test)]
    pub fn certified_as_writer(&mut self) {
        if let Some(root) = &self.root {
            let public = self.signer.public();
            self.certificate = certify(root, &self.repository, Role::Writer, public, b"other".to_vec());
        }
    }

    /// A config object, signed by the authority.
    pub fn seal_config(&self, config: Vec<u8>) -> Result<Vec<u8>> {
        let root = self.root.as_ref().ok_or_else(|| Error::new(Fault::Denied, "changing the config"))?;
        let signature = root.authority().sign(Kind::Config.context(), &self.repository, &config);
        let signed = Signed { body: config, certificate: Vec::new(), signature };
        Ok([&head(Kind::Config)[..], &signed.encode()].concat())
    }

    /// Proves a config object and gives its body.
    pub fn open_config(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let signed = Signed::decode(body(Kind::Config, bytes)?)?;
        let context = Kind::Config.context();
        if !seal::verify(&self.authority, context, &self.repository, &signed.body, &signed.signature) {
            return Err(Error::damaged("the signature of the config is wrong"));
        }
        Ok(signed.body)
    }
}

fn certify(root: &Root, repository: &RepositoryId, role: Role, public: [u8; 32], host: Vec<u8>) -> Vec<u8> {
    let certificate = Certificate {
        role: role.code(),
        public,
        host,
        created: clock::now().seconds,
        unknown: Default::default(),
    };
    let body = certificate.encode();
    let signature = root.authority().sign(CERTIFICATE_CONTEXT, repository, &body);
    Signed { body, certificate: Vec::new(), signature }.encode()
}
