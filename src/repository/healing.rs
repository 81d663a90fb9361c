//! Parity: written with each pack where the repository has it, and used where a pack turns out to be damaged.
//!
//! What was healed is believed no more than what was read: the whole pack must be what its name says, and each frame of it
//! is authenticated like any other.

use super::examine::is_of_object;
use super::reader::pack_name;
use super::{Repository, Sweep};
use crate::event::{Event, Stop};
use crate::fault::{Error, Fault, Result};
use crate::format::object::Kind;
use crate::format::parity::{Description, Parity, START_LEN};
use crate::id::PackId;
use crate::index::{FrameAt, PackInfo};
use crate::pack::open_frame;
use crate::parity;
use crate::seal::{Decompressor, PackCipher};
use std::sync::Arc;

/// Bytes that are asked of the store at a time.
const RANGE: u64 = 8 << 20;

/// A pack and its bytes as they were, if they could be healed. One is kept, so that one after the other of its frames can be
/// read.
pub(super) type Healed = Option<(PackId, Option<Arc<Vec<u8>>>)>;

pub(super) fn parity_name(pack: &PackId) -> String {
    format!("parity/{pack}")
}

/// What is said of parity that is not there.
const GONE: &str = "it is missing: nothing would heal its pack";

fn renewable(pack: &PackId, e: Error) -> Error {
    e.hint(format!("run `pastfs repair packs {pack}`: it is written anew from its pack"))
}

/// Parity that is held against its pack while that is read.
pub(super) enum Proof {
    /// There is none in this repository.
    None,
    /// It is damaged or missing.
    Bad(Error),
    /// The object, and what is made of the pack.
    Begun(Box<(Vec<u8>, parity::Maker)>),
}

impl Proof {
    /// The next bytes of the pack.
    pub fn add(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Proof::Begun(begun) => begun.1.add(bytes),
            Proof::None | Proof::Bad(_) => Ok(()),
        }
    }

    /// What is wrong with the parity of a pack all of whose bytes were given, and which is what its name says.
    pub fn finish(self, pack: &PackId) -> Result<Option<Error>> {
        match self {
            Proof::None => Ok(None),
            Proof::Bad(e) => Ok(Some(renewable(pack, e))),
            Proof::Begun(begun) => {
                let (object, maker) = *begun;
                let is_it = maker.finish()? == object;
                Ok((!is_it).then(|| renewable(pack, Error::damaged("it is not the parity of its pack"))))
            }
        }
    }
}

impl Repository {
    /// Stores the parity of a pack, where this repository has any. Bytes that were stored.
    pub(super) fn put_parity(&self, pack: &PackId, bytes: &[u8]) -> Result<u64> {
        if self.config.parity == 0 {
            return Ok(0);
        }
        let object = parity::of_pack(*pack, bytes, self.config.parity)?;
        self.store.put(&parity_name(pack), &object)?;
        Ok(object.len() as u64)
    }

    /// What is wrong with the parity of a pack of this size, as far as the list of the store tells: its own size, `None` where
    /// it is not listed. Where there is none in this repository, nothing is.
    ///
    /// # Errors
    /// What the store says where it is not about this object.
    pub(super) fn parity_flaw(&self, pack: &PackId, size: u64, listed: Option<u64>) -> Result<Option<Error>> {
        let name = parity_name(pack);
        let found = match listed {
            _ if self.config.parity == 0 => return Ok(None),
            Some(len) if len == parity::len_of(size, self.config.parity) => return Ok(None),
            // The list may be old, and a prune may have deleted both.
            None => match self.store.size(&name) {
                Ok(len) => len,
                Err(e) if e.fault() == Fault::Missing => {
                    return match self.has_any_pack(pack)? {
                        true => Ok(Some(renewable(pack, Error::damaged(GONE)))),
                        false => Ok(None),
                    };
                }
                Err(e) => return Err(e),
            },
            Some(len) => len,
        };
        // One of a time when there was more or less parity says so itself.
        match self.store.range(&name, 0, START_LEN).and_then(|start| Description::of_object(&start)) {
            Ok(d) if (d.pack, d.size, d.object_len() as u64) == (*pack, size, found) => Ok(None),
            Ok(_) => Ok(Some(renewable(pack, Error::damaged("it is of another pack, or of another length")))),
            Err(e) if e.fault() == Fault::Missing => Ok(None),
            Err(e) if is_of_object(&e) => Ok(Some(renewable(pack, e))),
            Err(e) => Err(e),
        }
    }

    /// Begins to hold the parity of a pack against the pack itself, as far as this repository has any.
    ///
    /// # Errors
    /// What the store says where it is not about this object.
    pub(super) fn parity_proof(&self, pack: &PackId, size: u64) -> Result<Proof> {
        if self.config.parity == 0 {
            return Ok(Proof::None);
        }
        let object = match self.store.get(&parity_name(pack), Kind::Parity.limit()) {
            Ok(object) => object,
            Err(e) if e.fault() == Fault::Missing => return Ok(Proof::Bad(Error::damaged(GONE))),
            Err(e) if is_of_object(&e) => return Ok(Proof::Bad(e)),
            Err(e) => return Err(e),
        };
        let of_this = |d: &Description| (d.pack, d.size) == (*pack, size) && d.object_len() == object.len();
        match Description::of_object(&object) {
            Ok(d) if of_this(&d) => Ok(Proof::Begun(Box::new((object, parity::Maker::by(d)?)))),
            Ok(_) => Ok(Proof::Bad(Error::damaged("it is of another pack, or of another length"))),
            Err(e) => Ok(Proof::Bad(e)),
        }
    }

    /// Writes the parity of a whole pack anew, in the place of what is there. Bytes that were stored; `None` where the pack is
    /// gone or not whole by now: then what is there may still heal it, and stays.
    ///
    /// # Errors
    /// What the store says; `Stopped`.
    pub fn renew_parity(&self, sweep: &Sweep, pack: &PackId, size: u64, stop: &Stop) -> Result<Option<u64>> {
        let name = pack_name(pack);
        let mut maker = parity::Maker::new(*pack, size, self.config.parity)?;
        let (mut hasher, mut at) = (blake3::Hasher::new(), 0);
        while at < size {
            stop.check()?;
            let n = RANGE.min(size - at);
            let bytes = match self.store.range(&name, at, n as usize) {
                Ok(bytes) => bytes,
                Err(e) if is_of_object(&e) => return Ok(None),
                Err(e) => return Err(e),
            };
            hasher.update(&bytes);
            maker.add(&bytes)?;
            at += n;
        }
        if hasher.finalize().as_bytes() != &pack.0 {
            return Ok(None);
        }
        let object = maker.finish()?;
        // Nothing is ever written over an object; the pack, which was just proven, needs no healing in between.
        sweep.delete(&parity_name(pack))?;
        self.store.put(&parity_name(pack), &object)?;
        Ok(Some(object.len() as u64))
    }

    /// A damaged pack as it was; `None` where it has no parity, or more is damaged than that can heal.
    pub(super) fn healed(&self, pack: &PackId) -> Result<Option<Arc<Vec<u8>>>> {
        // Held while it is healed: others that need the pack wait for it.
        let mut kept = self.healed.lock();
        if let Some((_, bytes)) = kept.as_ref().filter(|(id, _)| id == pack) {
            return Ok(bytes.clone());
        }
        let healed = match self.heal(pack) {
            Ok(healed) => healed,
            Err(e) if is_of_object(&e) => {
                let text = format!("{} heals nothing: {}", parity_name(pack), e.chain());
                self.observer.event(Event::Detail(&text));
                None
            }
            Err(e) => return Err(e),
        };
        *kept = Some((*pack, healed.clone()));
        Ok(healed)
    }

    fn heal(&self, pack: &PackId) -> Result<Option<Arc<Vec<u8>>>> {
        let object = match self.store.get(&parity_name(pack), Kind::Parity.limit()) {
            Err(e) if e.fault() == Fault::Missing => return Ok(None),
            object => object?,
        };
        let plan = Parity::decode(&object)?.description;
        let (bytes, parts) =
            parity::heal(*pack, self.what_is_left(pack, plan.size, plan.part_len)?, &object)?;
        let name = pack_name(pack);
        if self.told.lock().insert(format!("{name} healed")) {
            self.observer.event(Event::Warning(&format!(
                "{name} is damaged in {parts} parts, and was healed by its parity for this time; `pastfs repair packs {pack}` \
                 does so for good"
            )));
        }
        Ok(Some(Arc::new(bytes)))
    }

    /// What can be read of a pack, zeros in place of the rest.
    fn what_is_left(&self, pack: &PackId, size: u64, part_len: u32) -> Result<Vec<u8>> {
        let name = pack_name(pack);
        let mut bytes = Vec::with_capacity(size as usize);
        while (bytes.len() as u64) < size {
            let at = bytes.len() as u64;
            let n = RANGE.min(size - at);
            match self.store.range(&name, at, n as usize) {
                Ok(more) => bytes.extend_from_slice(&more),
                Err(e) if e.fault() == Fault::Missing => bytes.resize(size as usize, 0),
                Err(e) if is_of_object(&e) => {
                    for from in (at..at + n).step_by(part_len as usize) {
                        let len = u64::from(part_len).min(at + n - from) as usize;
                        match self.store.range(&name, from, len) {
                            Ok(more) => bytes.extend_from_slice(&more),
                            Err(e) if is_of_object(&e) => bytes.resize(bytes.len() + len, 0),
                            Err(e) => return Err(e),
                        }
                    }
                }
                Err(e) => return Err(e),
            }
        }
        Ok(bytes)
    }

    /// A stretch of a damaged pack as it was.
    pub(super) fn healed_range(&self, pack: &PackId, at: u64, len: usize) -> Result<Option<Vec<u8>>> {
        let healed = self.healed(pack)?;
        Ok(healed.and_then(|bytes| bytes.get(at as usize..)?.get(..len).map(<[u8]>::to_vec)))
    }

    /// The bytes of a frame, read and opened; if it is damaged, by the pack's parity.
    ///
    /// # Errors
    /// As reading; `Damaged` where nothing heals it.
    pub(super) fn open_frame_of(
        &self,
        pack: &PackInfo,
        number: u32,
        cipher: &PackCipher,
        decompressor: &mut Decompressor,
    ) -> Result<Vec<u8>> {
        let at = frame_at(pack, number)?;
        let sealed = self.store.range(&pack_name(&pack.id), at.offset.into(), at.sealed_len as usize);
        self.open_or_heal(pack, number, sealed, cipher, decompressor)
    }

    /// The same for a frame that was read.
    ///
    /// # Errors
    /// As [`Repository::open_frame_of`].
    pub(super) fn open_or_heal(
        &self,
        pack: &PackInfo,
        number: u32,
        sealed: Result<Vec<u8>>,
        cipher: &PackCipher,
        decompressor: &mut Decompressor,
    ) -> Result<Vec<u8>> {
        let at = frame_at(pack, number)?;
        let mut open = |sealed: Vec<u8>| {
            open_frame(cipher, &pack.header, number.into(), sealed, at.raw_len as usize, decompressor)
        };
        match sealed.and_then(&mut open) {
            Err(e) if is_of_object(&e) => {
                match self.healed_range(&pack.id, at.offset.into(), at.sealed_len as usize)? {
                    Some(sealed) => open(sealed),
                    None => Err(e),
                }
            }
            opened => opened,
        }
    }
}

/// Where a frame lies.
fn frame_at(pack: &PackInfo, number: u32) -> Result<&FrameAt> {
    let at = pack.frames.get(number as usize);
    at.ok_or_else(|| Error::damaged("the index names a frame that the pack does not have"))
}
