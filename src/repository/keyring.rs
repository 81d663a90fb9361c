//! The keys that an opened repository works with, of all epochs, and who may say what.

use crate::clock;
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::config::Config;
use crate::format::epoch::{Earlier, Succession};
use crate::format::object::{CERTIFICATE_CONTEXT, Envelope, Kind, SUCCESSION_CONTEXT, Signed, body, head};
use crate::format::pack::Header;
use crate::format::paper::Paper;
use crate::format::slot::{Certificate, Label, Secrets, Slot};
use crate::id::RepositoryId;
use crate::pack::PackKeys;
use crate::seal::{self, Cipher, IdKeys, IdSecret, IndexKey, ReadingKey, Role, Root, Signer, SigningSeed};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use zeroize::Zeroizing;

const LABEL_CONTEXT: &[u8] = b"pastfs v1 slot label";
const EARLIER_CONTEXT: &[u8] = b"pastfs v1 earlier epoch";
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
#[derive(Clone)]
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
    earlier: Vec<Epoch>,
    ended: HashSet<[u8; 32]>,
    /// Authors of earlier epochs than this are over.
    since: u32,
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
            earlier: Vec::new(),
            ended: HashSet::new(),
            since: 1,
            root: Some(root),
            id_secret,
            seed,
            signer,
            certificate,
            verified: Mutex::default(),
        })
    }

    /// A full key from paper, with a new signing key.
    ///
    /// # Errors
    /// As drawing random bytes.
    pub fn from_paper(paper: &Paper) -> Result<Self> {
        let bad = || Error::bug("a key on paper has another length");
        let root = Root::from_slice(&paper.root).ok_or_else(bad)?;
        let id_secret = IdSecret::from_slice(&paper.id_secret).ok_or_else(bad)?;
        let index_key = IndexKey::from_slice(&paper.index_key).ok_or_else(bad)?;
        Self::full(paper.repository, paper.epoch, root, id_secret, index_key)
    }

    /// What opens the repository where no slot is left.
    ///
    /// # Errors
    /// `Denied` without a full key.
    pub fn paper(&self) -> Result<Paper> {
        let root =
            self.root.as_ref().ok_or_else(|| super::rights::lacks(Role::Full, "writing a key on paper"))?;
        Ok(Paper {
            repository: self.repository,
            epoch: self.now.number,
            root: *root.as_bytes(),
            id_secret: *self.id_secret.as_bytes(),
            index_key: *self.now.index_key.as_bytes(),
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
            earlier: Vec::new(),
            ended: HashSet::new(),
            since: 1,
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
                let root =
                    self.root.as_ref().ok_or_else(|| super::rights::lacks(Role::Full, "making a key"))?;
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
        match std::iter::once(&self.now).chain(&self.earlier).find(|e| e.number == epoch) {
            Some(keys) => Ok(keys),
            None if epoch > self.now.number => Err(Error::new(
                Fault::Newer,
                format!("it is sealed under the keys of epoch {epoch}, not {}", self.now.number),
            )
            .hint("the keys of the repository were rotated while this ran: run it again")),
            None => {
                Err(Error::damaged(format!("it is sealed under keys of epoch {epoch}, which there was none")))
            }
        }
    }

    /// Whether what an author says alone does not count any more: the key has ended, or all of its epoch have.
    pub fn is_over(&self, author: &Author) -> bool {
        author.epoch < self.since || self.ended.contains(&author.public)
    }

    /// The same keys, with another config's word for which authors are over.
    pub fn as_of(&self, config: &Config) -> Self {
        Self {
            repository: self.repository,
            role: self.role,
            root: self.root.clone(),
            id_secret: self.id_secret.clone(),
            ids: self.ids.clone(),
            now: self.now.clone(),
            earlier: self.earlier.clone(),
            ended: config.ended.iter().copied().collect(),
            since: config.since,
            recipient: self.recipient,
            seed: self.seed.clone(),
            signer: self.seed.signer(),
            certificate: self.certificate.clone(),
            verified: Mutex::default(),
        }
    }

    /// Takes from the config what it says of other epochs and of ended keys.
    ///
    /// # Errors
    /// `Damaged` where it does not open.
    pub fn heed(&mut self, config: &Config) -> Result<()> {
        self.ended = config.ended.iter().copied().collect();
        self.since = config.since;
        for sealed in &config.earlier {
            let earlier = Earlier::decode(sealed)?;
            let opened = self
                .open_earlier(&earlier)
                .doing(|| format!("opening the keys of epoch {}", earlier.epoch))?;
            self.earlier.push(opened);
        }
        Ok(())
    }

    fn open_earlier(&self, e: &Earlier) -> Result<Epoch> {
        let bad = || Error::damaged("a key of an earlier epoch has another length");
        let index_key =
            seal::open_box(self.now.index_key.as_bytes(), &self.earlier_aad(e.epoch), &e.index_key)?;
        let index_key = IndexKey::from_slice(&index_key).ok_or_else(bad)?;
        let reading = match &self.now.reading {
            None => None,
            Some(now) => {
                let (info, aad) = (self.earlier_aad(e.epoch), e.epoch.to_le_bytes());
                let opened =
                    seal::open_from(now, &self.now.index_key, self.now.number, &info, &aad, &e.reading)?;
                Some(ReadingKey::from_slice(&opened).ok_or_else(bad)?)
            }
        };
        Ok(Epoch { number: e.epoch, index_key, reading, authority: e.authority })
    }

    /// What binds the sealed keys of an earlier epoch: the repository, this epoch and that.
    fn earlier_aad(&self, epoch: u32) -> Vec<u8> {
        [EARLIER_CONTEXT, &self.repository.0, &self.now.number.to_le_bytes(), &epoch.to_le_bytes()].concat()
    }

    /// The keys of all earlier epochs, for the config of this one.
    ///
    /// # Errors
    /// `Denied` without the reading keys.
    pub fn seal_earlier(&self) -> Result<Vec<Vec<u8>>> {
        let mut sealed = Vec::new();
        for e in &self.earlier {
            let (aad, hpke_aad) = (self.earlier_aad(e.number), e.number.to_le_bytes());
            let now = self.now.index_key.as_bytes();
            let reading = self.reading(e)?.as_bytes();
            let (key, epoch) = (&self.now.index_key, self.now.number);
            sealed.push(
                Earlier {
                    epoch: e.number,
                    authority: e.authority,
                    index_key: seal::seal_box(now, &aad, e.index_key.as_bytes())?,
                    reading: seal::seal_to(&self.recipient, key, epoch, &aad, &hpke_aad, reading)?,
                }
                .encode(),
            );
        }
        Ok(sealed)
    }

    /// New keys of the next epoch, which open all that these open. Names of chunks and cut points stay, and with them
    /// deduplication.
    ///
    /// # Errors
    /// As drawing random bytes.
    pub fn next_epoch(&self) -> Result<Self> {
        let (root, index_key) = (Root::random()?, IndexKey::random()?);
        let next = Self::full(self.repository, self.now.number + 1, root, self.id_secret.clone(), index_key)?;
        next.follow(self).ok_or_else(|| Error::bug("new keys do not follow the old ones"))
    }

    /// These keys, as those of the epoch after `before`; `None` where they are no such keys.
    pub fn follow(mut self, before: &Self) -> Option<Self> {
        if self.id_secret != before.id_secret || self.now.number != before.now.number + 1 {
            return None;
        }
        self.earlier = std::iter::once(&before.now).chain(&before.earlier).cloned().collect();
        Some(self)
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
        // The epoch is that of the envelope that it came in, and at most one opens it.
        let mut first = None;
        for e in std::iter::once(&self.now).chain(&self.earlier) {
            match seal::open_from(self.reading(e)?, &e.index_key, e.number, &info, session, sealed) {
                Err(e) => drop(first.get_or_insert(e)),
                opened => return opened,
            }
        }
        Err(first.unwrap_or_else(|| Error::bug("there are no keys of any epoch")))
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
        self.vouches(author) || (author.public == self.signer.public() && !self.is_over(author))
    }

    /// Whether an author's signature vouches for an entry.
    pub fn vouches(&self, author: &Author) -> bool {
        author.role == Role::Full && !self.is_over(author)
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
        let by = std::iter::once(&self.now).chain(&self.earlier).find(|e| proves(&e.authority));
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

    /// A config object, signed by the authority; the first of an epoch with the word of the authority `before`.
    pub fn seal_config(&self, config: Vec<u8>, before: Option<&Self>) -> Result<Vec<u8>> {
        let root =
            self.root.as_ref().ok_or_else(|| super::rights::lacks(Role::Full, "changing the config"))?;
        let signature = root.authority().sign(Kind::Config.context(), &self.repository, &config);
        let mut certificate = Vec::new();
        if let Some(before) = before {
            let root = before.root.as_ref();
            let root = root.ok_or_else(|| super::rights::lacks(Role::Full, "rotating keys"))?;
            let body = Succession { epoch: self.now.number, authority: self.now.authority }.encode();
            let signature = root.authority().sign(SUCCESSION_CONTEXT, &self.repository, &body);
            certificate = Signed { body, certificate, signature }.encode();
        }
        let signed = Signed { body: config, certificate, signature };
        Ok([&head(Kind::Config)[..], &signed.encode()].concat())
    }

    /// Proves a config object and gives its body.
    pub fn open_config(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let signed = Signed::decode(body(Kind::Config, bytes)?)?;
        let by = |authority: &[u8; 32]| {
            let context = Kind::Config.context();
            seal::verify(authority, context, &self.repository, &signed.body, &signed.signature)
        };
        if std::iter::once(&self.now).chain(&self.earlier).any(|e| by(&e.authority)) {
            return Ok(signed.body);
        }
        match self.successor(&signed.certificate).filter(|next| by(&next.authority)) {
            Some(next) => Err(rotated(self.now.number, next.epoch)),
            None => Err(Error::damaged("the signature of the config is wrong")),
        }
    }

    /// The authority that follows ours, by our authority's word.
    fn successor(&self, succession: &[u8]) -> Option<Succession> {
        let signed = Signed::decode(succession).ok()?;
        let (body, signature) = (&signed.body, &signed.signature);
        let proven = seal::verify(&self.now.authority, SUCCESSION_CONTEXT, &self.repository, body, signature);
        Succession::decode(body).ok().filter(|_| proven)
    }
}

/// What a key of an earlier epoch is told.
fn rotated(own: u32, now: u32) -> Error {
    Error::new(
        Fault::WrongKey,
        format!("the keys of this repository were rotated: this key is of epoch {own}, and epoch {now} has begun"),
    )
    .hint(
        "use a key that was made since then, or have one made (`pastfs key add`, with a full key of the new epoch): it opens \
         all that was written before as well",
    )
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
