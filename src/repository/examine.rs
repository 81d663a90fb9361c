//! Whole packs, read and proven to the last byte: what `check --read-data` does to each.

use super::Repository;
use super::reader::pack_name;
use super::survey::{Survey, is_finding};
use crate::event::{Event, Outcome, Stop};
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::pack::{Frame, Header, PackEntry};
use crate::id::{ChunkId, PackId, SegmentId};
use crate::pack::open_frame;
use crate::seal::Decompressor;
use crossbeam_channel::{Receiver, bounded};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::path::Path;
use std::thread;

/// Bytes that are asked of the store at a time: memory is this and a frame for each thread, and what was read is hashed and
/// opened while it is in the processor's cache.
const RANGE: u64 = 1 << 20;
/// The same of a far store, where each time is a journey.
const RANGE_FAR: u64 = 8 << 20;
/// Packs that are read of a far store at a time: most of the time they are on their way.
const THREADS_FAR: usize = 8;
/// What is said of a pack whose damage its parity makes up for.
const HEALED: &str = "it is damaged, and its parity heals what is needed";

/// Is given each frame of a pack in order: its number, its lengths, its bytes opened or what is wrong with it.
pub(super) type EachFrame<'a> = &'a mut dyn FnMut(usize, &Frame, Result<Vec<u8>>) -> Result<()>;

/// Gives entries, one after another, to who reads packs, until that wants no more.
pub(super) type Entries<'a> = &'a mut dyn FnMut(&dyn Fn(PackEntry) -> bool) -> Result<()>;
/// How a pack is laid out, by its entry or by itself.
pub(super) struct Layout<'a> {
    pub pack: &'a PackId,
    pub size: u64,
    pub header: &'a [u8],
    pub frames: &'a [Frame],
}

/// What became of a pack.
#[derive(Debug, Default)]
pub struct Examined {
    /// Numbers of the frames that cannot be opened, or do not hold the chunks that are promised.
    pub bad: Vec<u32>,
    /// The chunks in them.
    pub chunks: Vec<ChunkId>,
    /// What is wrong: the first reason. Without bad frames what no reader needs is damaged: padding or table.
    pub error: Option<Error>,
    /// What is wrong with the parity of the pack, which is whole itself.
    pub parity: Option<Error>,
    /// The pack is what its name says, to the last byte, and what its entry says of it is not so.
    pub is_lied_about: bool,
}

impl Repository {
    /// The packs that a segment names, in its order, read from the store and proven; empty if the segment has gone.
    ///
    /// # Errors
    /// As reading.
    pub fn entries(&self, segment: &SegmentId) -> Result<Vec<PackEntry>> {
        match self.load_segment(segment) {
            Ok(applied) => Ok(applied.packs.into_iter().map(|p| p.entry).collect()),
            Err(e) if e.fault() == Fault::Missing => Ok(Vec::new()),
            Err(e) => Err(e.while_(format!("reading index segment {}", segment.short()))),
        }
    }

    /// Reads packs on all cores, in the order in which segments name them: those of `wanted` that are named by one. `each` is
    /// called by many threads, with what was found.
    ///
    /// # Errors
    /// As [`Repository::examine`]; `each` has got what was read until then.
    pub fn examine_all(
        &self,
        survey: &Survey,
        mut wanted: HashSet<PackId>,
        stop: &Stop,
        each: &(dyn Fn(PackEntry, Examined) + Sync),
    ) -> Result<()> {
        self.examine_fed(stop, each, &mut |feed| {
            for segment in &survey.segments {
                if wanted.is_empty() {
                    break;
                }
                stop.check()?;
                for entry in self.entries(segment)? {
                    // A merge may leave a pack named twice; to read it once is enough.
                    if wanted.remove(&entry.pack) && !feed(entry) {
                        return Ok(());
                    }
                }
            }
            Ok(())
        })
    }

    /// The same for what `feed` is called with, which answers whether more is wanted.
    pub(super) fn examine_fed(
        &self,
        stop: &Stop,
        each: &(dyn Fn(PackEntry, Examined) + Sync),
        entries: Entries<'_>,
    ) -> Result<()> {
        let cores = match self.is_far() {
            true => THREADS_FAR,
            false => thread::available_parallelism().map_or(2, usize::from),
        };
        // One waits for each: entries of big packs take some 100 KiB of memory.
        let (send, queue) = bounded::<PackEntry>(cores);
        let failed: Mutex<Option<Error>> = Mutex::new(None);
        thread::scope(|scope| -> Result<()> {
            for _ in 0..cores {
                let (queue, failed): (Receiver<PackEntry>, _) = (queue.clone(), &failed);
                let work = move || {
                    for entry in queue {
                        let name = pack_name(&entry.pack);
                        self.observer.event(Event::Started(Path::new(&name)));
                        match self.examine(&entry, stop) {
                            Ok(examined) => each(entry, examined),
                            Err(e) => {
                                failed.lock().get_or_insert(e);
                                return;
                            }
                        }
                        let (path, outcome) = (Path::new(&name), Outcome::Verified);
                        self.observer.event(Event::Finished { path, outcome, file: true });
                    }
                };
                let thread = thread::Builder::new().name("examine".into()).spawn_scoped(scope, work);
                thread.doing(|| "starting a thread")?;
            }
            drop(queue);
            let fed = entries(&|entry| {
                // While those before it are opened the disk is idle.
                self.store.prefetch(&pack_name(&entry.pack), 0, entry.size);
                send.send(entry).is_ok() && failed.lock().is_none()
            });
            drop(send);
            fed
        })?;
        match failed.into_inner() {
            Some(e) => Err(e),
            None => Ok(()),
        }
    }

    /// Reads a pack from its first byte to its last: opens each frame, computes the id of each chunk again, and the
    /// name of the pack.
    ///
    /// # Errors
    /// What the store says where it is not about this pack; `Stopped`; `Denied` with a key that cannot read.
    pub fn examine(&self, entry: &PackEntry, stop: &Stop) -> Result<Examined> {
        let space = Header::decode(&entry.header)?.0.space;
        let mut found = Examined::default();
        let mut rest = entry.ids.as_slice();
        let mut each = |number: usize, frame: &Frame, raw: Result<Vec<u8>>| -> Result<()> {
            let (ids, more) = rest
                .split_at_checked(frame.chunks.len())
                .ok_or_else(|| Error::bug("an entry has fewer ids than chunks"))?;
            rest = more;
            let proven = raw.and_then(|raw| {
                let there = self.chunk_ids(space, &raw, &frame.chunks)?;
                match there.iter().map(|(id, _)| id).eq(ids) {
                    true => Ok(()),
                    false => Err(Error::damaged("the content is not what its id says")),
                }
            });
            if let Err(e) = proven {
                found.bad.push(number as u32);
                found.chunks.extend_from_slice(ids);
                found.error.get_or_insert(e);
            }
            Ok(())
        };
        let mut proof = self.parity_proof(&entry.pack, entry.size)?;
        let of = Layout { pack: &entry.pack, size: entry.size, header: &entry.header, frames: &entry.frames };
        let flaw = self.each_frame(&of, stop, &mut |bytes| proof.add(bytes), &mut each)?;
        match flaw {
            Some(e) => drop(found.error.get_or_insert(e)),
            None if found.error.is_some() => found.is_lied_about = true,
            // What is damaged is not what its parity was made of.
            None => found.parity = proof.finish(&entry.pack)?,
        }
        Ok(found)
    }

    /// Reads a pack from its first byte to its last and gives each frame: opened, or what is wrong with it. `take` is given
    /// the bytes as they are. Where a part of the pack cannot be read, what follows is read frame by frame, so that no more is
    /// lost than that part. The answer is what is wrong with the pack as a whole: a part that cannot be read, or a name that
    /// is not its hash.
    ///
    /// # Errors
    /// What the store says where it is not about this pack; `Stopped`; `Denied` with a key that cannot read; what `each`
    /// says.
    pub(super) fn each_frame(
        &self,
        of: &Layout<'_>,
        stop: &Stop,
        take: &mut dyn FnMut(&[u8]) -> Result<()>,
        each: EachFrame<'_>,
    ) -> Result<Option<Error>> {
        let Layout { pack, size, header, frames } = *of;
        let name = pack_name(pack);
        let cipher = match self.keys.open_pack(header) {
            Err(e) if e.fault() == Fault::Denied => return Err(e),
            cipher => cipher,
        };
        let mut decompressor = Decompressor::new()?;
        // The first frame that was damaged and could be healed.
        let mut healed: Option<Error> = None;
        let mut open =
            |number: usize, frame: &Frame, at: u64, sealed: Result<Vec<u8>>| -> Result<Result<Vec<u8>>> {
                let mut open = |sealed: Vec<u8>| match &cipher {
                    Ok(cipher) => {
                        open_frame(cipher, header, number as u64, sealed, frame.raw_len(), &mut decompressor)
                    }
                    Err(e) => Err(Error::damaged(e.chain())),
                };
                match sealed.and_then(&mut open) {
                    Err(e) => match self.healed_range(pack, at, frame.sealed_len as usize)?.map(&mut open) {
                        Some(Ok(raw)) => {
                            healed.get_or_insert(e);
                            Ok(Ok(raw))
                        }
                        _ => Ok(Err(e)),
                    },
                    opened => Ok(opened),
                }
            };
        let mut hasher = blake3::Hasher::new();
        let mut left = frames.iter().enumerate().peekable();
        // Where the next frame begins; what was read from `start` on and is not opened yet; how far was read.
        let (mut at, mut buffer, mut start, mut end) = (header.len() as u64, Vec::new(), 0u64, 0u64);
        let mut unread = None;
        self.store.prefetch(&name, 0, size);
        let range = if self.is_far() { RANGE_FAR } else { RANGE };
        while end < size {
            stop.check()?;
            let n = range.min(size - end);
            match self.store.range(&name, end, n as usize) {
                Ok(bytes) => {
                    hasher.update(&bytes);
                    take(&bytes)?;
                    buffer.extend_from_slice(&bytes);
                }
                Err(e) if is_of_object(&e) => {
                    unread = Some(e);
                    break;
                }
                Err(e) => return Err(e),
            }
            end += n;
            self.observer.event(Event::Bytes(n));
            while let Some((number, frame)) = left.next_if(|(_, f)| at + u64::from(f.sealed_len) <= end) {
                let from = (at - start) as usize;
                let sealed = buffer[from..from + frame.sealed_len as usize].to_vec();
                each(number, frame, open(number, frame, at, Ok(sealed))?)?;
                at += u64::from(frame.sealed_len);
            }
            let done = at.min(end);
            buffer.drain(..(done - start) as usize);
            start = done;
        }
        if let Some(e) = unread {
            for (number, frame) in left {
                stop.check()?;
                let sealed = match self.store.range(&name, at, frame.sealed_len as usize) {
                    Err(e) if !is_of_object(&e) => return Err(e),
                    sealed => sealed.map_err(promised),
                };
                each(number, frame, open(number, frame, at, sealed)?)?;
                at += u64::from(frame.sealed_len);
            }
            self.observer.event(Event::Bytes(size - end));
            let e = promised(e);
            return Ok(Some(if healed.is_some() { e.while_(HEALED) } else { e }));
        }
        if let Some(e) = healed {
            return Ok(Some(e.while_(HEALED)));
        }
        // Read once, in order: other programs need the memory more.
        self.store.release(&name, 0, size);
        let is_it = hasher.finalize().as_bytes() == &pack.0;
        Ok((!is_it).then(|| Error::damaged("it is not what its name says, yet all of its chunks are whole")))
    }
}

/// What was promised and is missing is damage; what a disk cannot read now stays what it is.
fn promised(e: Error) -> Error {
    if e.fault() == Fault::Missing { e.as_fault(Fault::Damaged) } else { e }
}

/// Whether an error is about the object alone, also that it is gone.
pub(super) fn is_of_object(e: &Error) -> bool {
    is_finding(e) || e.fault() == Fault::Missing
}
