//! Packs on their way from one store to another of the same repository: as they are, each proven to its last chunk, several at
//! a time; named by segments of the target as they come.

use super::Repository;
use super::healing::parity_name;
use super::reader::pack_name;
use super::survey::is_finding;
use super::target::Target;
use crate::event::{Event, Outcome, Stop};
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::object::Kind;
use crate::format::pack::{Header, PackEntry};
use crate::format::parity::Description;
use crate::id::PackId;
use crate::pack::open_frame;
use crate::parity;
use crate::seal::Decompressor;
use crossbeam_channel::{Receiver, bounded};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Packs on their way at a time. Each is in memory while it is proven, 32 MiB as a rule.
const COPIES: usize = 4;
/// Packs that one segment names at most, and how often one is published while packs come (B5).
const SEGMENT_PACKS: usize = 8;
const SEGMENT_EVERY: Duration = Duration::from_secs(60);
/// What to do about an object of the target that has the name of another.
pub(super) const SPOILED: &str = "an object of this name is there, and is damaged: repair that repository with this one as its \
                                  replica (`pastfs repair from`), then replicate again";

/// What the copying threads share.
pub(super) struct Run<'a> {
    pub source: &'a Repository,
    pub target: &'a Target,
    pub stop: &'a Stop,
    /// Whether a full key promised what is said of each.
    pub planned: &'a HashMap<PackId, bool>,
    /// Entries of packs that are durable and that no segment names yet, and since when there are any.
    pub ready: Mutex<(Vec<PackEntry>, Instant)>,
    /// Of each pack: bytes that were copied, none where it was there already, or what is wrong with it.
    pub done: Mutex<Vec<(PackId, Result<Option<u64>>)>>,
    /// What ends the run.
    pub failed: Mutex<Option<Error>>,
}

impl Run<'_> {
    /// Copies what `entries` feeds.
    pub fn copy_all(&self, entries: super::examine::Entries<'_>) -> Result<()> {
        let (send, queue) = bounded::<PackEntry>(COPIES);
        thread::scope(|scope| -> Result<()> {
            for _ in 0..COPIES {
                let queue: Receiver<PackEntry> = queue.clone();
                let work = move || {
                    for entry in queue {
                        if self.failed.lock().is_some() {
                            continue;
                        }
                        if let Err(e) = self.copy(entry) {
                            self.failed.lock().get_or_insert(e);
                        }
                    }
                };
                let thread = thread::Builder::new().name("replicate".into()).spawn_scoped(scope, work);
                thread.doing(|| "starting a thread")?;
            }
            drop(queue);
            let fed = entries(&|entry| send.send(entry).is_ok() && self.failed.lock().is_none());
            drop(send);
            fed
        })
    }

    fn copy(&self, entry: PackEntry) -> Result<()> {
        let (pack, name) = (entry.pack, pack_name(&entry.pack));
        let observer = &self.source.observer;
        observer.event(Event::Started(Path::new(&name)));
        let copied = self.take(&entry)?;
        let is_there = copied.is_ok();
        self.done.lock().push((pack, copied));
        observer.event(Event::Finished { path: Path::new(&name), outcome: Outcome::Verified, file: true });
        if !is_there {
            return Ok(());
        }
        let due = {
            let mut ready = self.ready.lock();
            if ready.0.is_empty() {
                ready.1 = Instant::now();
            }
            ready.0.push(entry);
            ready.0.len() >= SEGMENT_PACKS || ready.1.elapsed() >= SEGMENT_EVERY
        };
        if due { self.flush() } else { Ok(()) }
    }

    /// Publishes what is ready (B5).
    pub fn flush(&self) -> Result<()> {
        let entries = std::mem::take(&mut self.ready.lock().0);
        if entries.is_empty() {
            return Ok(());
        }
        let to = &self.target.repository;
        let published = to.publish(self.target.session, &entries, &[])?;
        to.index()?.apply(vec![published.applied], &[], Vec::new())
    }

    /// Brings one pack over. The inner error is about the pack alone.
    fn take(&self, entry: &PackEntry) -> Result<Result<Option<u64>>> {
        self.stop.check()?;
        let (to, name) = (&self.target.repository, pack_name(&entry.pack));
        let heals = parity_name(&entry.pack);
        let is_there = self.target.packs.get(&entry.pack) == Some(&entry.size);
        // What this key signs it must have proven, or another full key.
        let is_promised = self.planned.get(&entry.pack) == Some(&true);
        if is_there && is_promised && (to.config.parity == 0 || self.target.parity.contains(&heals)) {
            // An earlier run was ended before it could name it. It was proven then, and put whole or not at all.
            return Ok(Ok(None));
        }
        let bytes = match self.proven(entry)? {
            Ok(bytes) => bytes,
            Err(e) => return Ok(Err(e)),
        };
        match to.store.put(&name, &bytes) {
            Err(e) if e.fault() == Fault::Damaged => return Ok(Err(e.hint(SPOILED))),
            put => put.doing(|| format!("storing a pack in {}", to.location()))?,
        }
        self.copy_parity(entry, &bytes)?;
        // It is this session's own now, and need not be looked for (B6).
        self.target.claims.wrote(entry.pack);
        self.source.observer.event(Event::Bytes(entry.size));
        Ok(Ok(Some(entry.size)))
    }

    /// The bytes of a pack, which are what its name says, and in which every chunk is what the entry says.
    fn proven(&self, entry: &PackEntry) -> Result<Result<Vec<u8>>> {
        let from = self.source;
        let read = from.store.get(&pack_name(&entry.pack), Kind::Pack.limit());
        let bytes = match read.and_then(|bytes| match PackId::of_object(&bytes) == entry.pack {
            true => Ok(Arc::new(bytes)),
            false => Err(Error::damaged("it is not what its name says")),
        }) {
            Ok(bytes) => bytes,
            Err(e) if is_finding(&e) || e.fault() == Fault::Missing => match from.healed(&entry.pack)? {
                Some(bytes) => bytes,
                None => return Ok(Err(e)),
            },
            Err(e) => {
                return Err(e.while_(format!("reading {} of {}", pack_name(&entry.pack), from.location())));
            }
        };
        let proven = from.prove_chunks(entry, &bytes);
        if let Err(e) = proven {
            return if is_finding(&e) { Ok(Err(e)) } else { Err(e) };
        }
        Ok(Ok(Arc::unwrap_or_clone(bytes)))
    }

    /// What heals the pack: as the source has it, where that is right; else anew, where the repository has any.
    fn copy_parity(&self, entry: &PackEntry, pack: &[u8]) -> Result<()> {
        let (from, to) = (self.source, &self.target.repository);
        let name = parity_name(&entry.pack);
        let object = match from.store.get(&name, Kind::Parity.limit()) {
            Ok(object) => Description::of_object(&object)
                .ok()
                .filter(|d| (d.pack, d.size) == (entry.pack, entry.size))
                .and_then(|d| {
                    let mut maker = parity::Maker::by(d).ok()?;
                    maker.add(pack).ok()?;
                    maker.finish().ok().filter(|made| *made == object)
                }),
            Err(e) if is_finding(&e) || e.fault() == Fault::Missing => None,
            Err(e) => return Err(e.while_(format!("reading {name} of {}", from.location()))),
        };
        match object {
            Some(object) => to.store.put(&name, &object).or_else(|e| match e.fault() {
                // Of a time when there was more or less parity, and as good; or damaged, which a check tells.
                Fault::Damaged => Ok(()),
                _ => Err(e),
            }),
            None => to.put_parity(&entry.pack, pack).map(drop),
        }
        .doing(|| format!("storing {name} in {}", to.location()))
    }
}

impl Repository {
    /// Opens each frame of a pack and computes the ids of its chunks: they must be what the entry says.
    ///
    /// # Errors
    /// `Damaged` where they are not; `Denied` with a key that cannot read.
    fn prove_chunks(&self, entry: &PackEntry, pack: &[u8]) -> Result<()> {
        let wrong = || Error::damaged("it does not hold what the index says");
        if entry.size != pack.len() as u64 || pack.get(..entry.header.len()) != Some(&entry.header[..]) {
            return Err(wrong());
        }
        let space = Header::decode(&entry.header)?.0.space;
        let cipher = self.keys.open_pack(&entry.header)?;
        let mut decompressor = Decompressor::new()?;
        let (mut at, mut ids) = (entry.header.len(), entry.ids.as_slice());
        for (number, frame) in entry.frames.iter().enumerate() {
            let sealed =
                pack.get(at..).and_then(|rest| rest.get(..frame.sealed_len as usize)).ok_or_else(wrong)?;
            at += sealed.len();
            let raw = open_frame(
                &cipher,
                &entry.header,
                number as u64,
                sealed.to_vec(),
                frame.raw_len(),
                &mut decompressor,
            )?;
            let chunks = self.chunk_ids(space, &raw, &frame.chunks)?;
            let (these, rest) = ids.split_at_checked(chunks.len()).ok_or_else(wrong)?;
            ids = rest;
            if !chunks.iter().map(|(id, _)| id).eq(these) {
                return Err(Error::damaged("the content is not what its id says"));
            }
        }
        Ok(())
    }
}
