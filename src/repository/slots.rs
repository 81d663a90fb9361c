//! Key slots: who opens the repository, by which password or key file, as what.

use super::keyring::Keyring;
use super::{Repository, Right, config_numbers, newest_config};
use crate::event::{Event, Observer};
use crate::fault::{Error, Fault, Result};
use crate::format::object::{Kind, body, head};
use crate::format::paper::Paper;
use crate::format::slot::{Label, Secrets, Slot, Wrap};
use crate::id::SlotId;
use crate::seal::{self, Kdf, Role, WrappingKey};
use crate::storage::Store;
use std::sync::Arc;
use zeroize::Zeroizing;

const SECRETS_CONTEXT: &[u8] = b"pastfs v1 slot secrets";

/// A key slot, for people.
#[derive(Clone, Debug)]
pub struct SlotInfo {
    /// Its name in the store.
    pub id: SlotId,
    /// What it may do.
    pub role: Role,
    /// For a key file, else for a password.
    pub key_file: bool,
    /// Who made it, when and where.
    pub label: Label,
    /// The one that this repository was opened with.
    pub current: bool,
    /// What it signs does not count any more.
    pub ended: bool,
}

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

impl Keyring {
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
                return Ok(Some((*id, Self::from_secrets(slot, &Secrets::decode(&plain)?)?)));
            }
        }
        Ok(None)
    }

    /// A slot object that opens to these keys, with a signing key of its own for this role and, of a writer, this host.
    ///
    /// # Errors
    /// `Denied` without a full key.
    pub fn new_slot(
        &self,
        credential: &Credential,
        role: Role,
        host: &[u8],
        label: &Label,
    ) -> Result<Vec<u8>> {
        self.slot(credential, &self.secrets(Some((role, host)))?, role, label)
    }

    /// A slot object by which another password or key file opens what these keys are, with the same signing key.
    pub fn same_slot(&self, credential: &Credential, label: &Label) -> Result<Vec<u8>> {
        self.slot(credential, &self.secrets(None)?, self.role, label)
    }

    fn slot(&self, credential: &Credential, secrets: &Secrets, role: Role, label: &Label) -> Result<Vec<u8>> {
        let (wrap, salt) = credential.new_wrap()?;
        let key = credential
            .wrapping_key(wrap, salt)?
            .ok_or_else(|| Error::bug("a credential does not fit the slot made for it"))?;
        let mut slot = Slot {
            repository: self.repository,
            wrap,
            salt,
            role: role.code(),
            commitment: key.commitment(),
            epoch: self.epoch(),
            secrets: Vec::new(),
            label: Vec::new(),
        };
        let encoded = Zeroizing::new(secrets.encode());
        slot.secrets = key.seal(&[SECRETS_CONTEXT, &slot.associated()].concat(), &encoded)?;
        let seed = seal::SigningSeed::from_slice(&secrets.signing_seed);
        let label = Label { signer: seed.map(|seed| seed.signer().public()), ..label.clone() };
        slot.label = self.seal_label(&slot, &label)?;
        Ok([&head(Kind::Slot)[..], &slot.encode()].concat())
    }
}

impl Repository {
    /// All key slots.
    pub fn slots(&self) -> Result<Vec<SlotInfo>> {
        let mut infos = Vec::new();
        for (id, slot) in read_slots(&*self.store, &self.observer)?.0 {
            let label = self
                .keys
                .label(&slot)
                .unwrap_or_else(|_| Label { text: b"(label not readable)".to_vec(), ..Label::default() });
            infos.push(SlotInfo {
                id,
                role: Role::from_code(slot.role).unwrap_or(Role::Reader),
                key_file: slot.wrap == Wrap::KeyFile,
                current: id == self.slot,
                ended: slot.epoch != self.keys.epoch()
                    || label.signer.is_some_and(|signer| self.config.ended.contains(&signer)),
                label,
            });
        }
        infos.sort_by_key(|i| (i.label.created, i.id));
        Ok(infos)
    }

    /// Adds a key of this role; a writer key adds snapshots of this host alone, or of any where it is empty.
    ///
    /// # Errors
    /// `Denied` without a full key; what the store says.
    pub fn add_slot(
        &self,
        credential: &Credential,
        role: Role,
        host: &[u8],
        label: &Label,
    ) -> Result<SlotId> {
        self.put_slot(&self.keys.new_slot(credential, role, host, label)?)
    }

    /// The key in use on paper: what opens the repository where no slot is left.
    ///
    /// # Errors
    /// `Denied` without a full key.
    pub fn paper(&self) -> Result<Paper> {
        self.keys.paper()
    }

    /// Adds a full key by a key on paper, which may be the only one that is left.
    ///
    /// # Errors
    /// `WrongKey` for paper of another repository, or of before keys were rotated; what the store says.
    pub fn import(
        store: &dyn Store,
        paper: &Paper,
        credential: &Credential,
        label: &Label,
        observer: &Arc<dyn Observer>,
    ) -> Result<SlotId> {
        let place = store.location();
        let keys = Keyring::from_paper(paper)?;
        newest_config(store, &keys, &config_numbers(store)?, observer).map_err(
            |e| match Self::claimed_id(store).is_ok_and(|id| id != paper.repository) {
                true => Error::new(
                    Fault::WrongKey,
                    format!("this paper key is of another repository than {place}"),
                ),
                false => e,
            },
        )?;
        let object = keys.same_slot(credential, label)?;
        let id = SlotId::of_object(&object);
        store.put(&slot_name(&id), &object)?;
        Ok(id)
    }

    /// Adds another password or key file for the key in use: a full key gets a signing key of its own, others stay the same
    /// author, whose chunks are known to it.
    ///
    /// # Errors
    /// What the store says.
    pub fn add_same_slot(&self, credential: &Credential, label: &Label) -> Result<SlotId> {
        match self.keys.role {
            Role::Full => self.add_slot(credential, Role::Full, &[], label),
            _ => self.put_slot(&self.keys.same_slot(credential, label)?),
        }
    }

    fn put_slot(&self, object: &[u8]) -> Result<SlotId> {
        let id = SlotId::of_object(object);
        self.store.put(&slot_name(&id), object)?;
        Ok(id)
    }

    /// Removes a key slot. Who copied it or its secrets can still use them.
    ///
    /// # Errors
    /// `Misuse` for the last one, and for the one that is in use unless `current` allows it; `Denied` without a full key, but
    /// for the one in use.
    pub fn remove_slot(&self, id: &SlotId, current: bool) -> Result<()> {
        let slots = self.slots()?;
        let Some(slot) = slots.iter().find(|s| s.id == *id) else {
            return Err(Error::new(Fault::Missing, format!("there is no key {}", id.short())));
        };
        if !slot.current {
            self.allow(Right::Manage, "removing another key")?;
        }
        if slots.len() < 2 {
            return Err(Error::misuse("this is the last key: without it nobody can read the repository")
                .hint("add another one first: `pastfs key add`"));
        }
        if slot.current && !current {
            return Err(Error::misuse("this is the key in use").hint(
                "open the repository with another key to remove this one, or use `pastfs key passwd`",
            ));
        }
        let is_full = |s: &SlotInfo| s.role == Role::Full && !s.ended;
        if is_full(slot) && !slots.iter().any(|s| s.id != *id && is_full(s)) {
            return Err(Error::misuse(
                "this is the last full key: without it nobody can make keys, forget or prune",
            )
            .hint("add another one first: `pastfs key add`"));
        }
        self.store.delete(&slot_name(id))
    }
    /// The slot that was opened.
    pub fn current_slot(&self) -> SlotId {
        self.slot
    }
}

/// What lies below `keys/`.
pub(super) type Slots = Vec<(SlotId, Slot)>;

pub(super) fn slot_name(id: &SlotId) -> String {
    format!("keys/{id}")
}

/// All slots that can be read, and why the others could not be: that is told, since another one may open.
pub(super) fn read_slots(store: &dyn Store, observer: &Arc<dyn Observer>) -> Result<(Slots, Vec<Error>)> {
    let (mut slots, mut failed) = (Vec::new(), Vec::new());
    for listed in store.list("keys/")? {
        let load = || -> Result<(SlotId, Slot)> {
            let object = store.get(&listed.name, Kind::Slot.limit())?;
            let id = SlotId::of_object(&object);
            if listed.name != slot_name(&id) {
                return Err(Error::damaged("it is not what its name says"));
            }
            Ok((id, Slot::decode(body(Kind::Slot, &object)?)?))
        };
        match load() {
            Ok(slot) => slots.push(slot),
            Err(e) => {
                observer.event(Event::Warning(&format!("{} cannot be used: {}", listed.name, e.chain())));
                failed.push(e);
            }
        }
    }
    Ok((slots, failed))
}
