//! Whole packs, read and proven to the last byte: what `check --read-data` does to each.

use super::Repository;
use super::reader::pack_name;
use super::survey::is_finding;
use crate::event::{Event, Stop};
use crate::fault::{Error, Fault, Result};
use crate::format::pack::{Frame, Header, PackEntry};
use crate::id::{ChunkId, SegmentId};
use crate::pack::open_frame;
use crate::seal::{Decompressor, PackCipher};

/// Bytes that are asked of the store at a time: few requests, and memory is this and a frame for each thread.
const RANGE: u64 = 8 << 20;

/// What became of a pack.
#[derive(Debug, Default)]
pub struct Examined {
    /// Numbers of the frames that cannot be opened, or do not hold the chunks that are promised.
    pub bad: Vec<u32>,
    /// The chunks in them.
    pub chunks: Vec<ChunkId>,
    /// What is wrong: the first reason. Without bad frames what no reader needs is damaged: padding or table.
    pub error: Option<Error>,
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

    /// Reads a pack from its first byte to its last: opens each frame, computes the id of each chunk again, and the
    /// name of the pack.
    ///
    /// # Errors
    /// What the store says where it is not about this pack; `Stopped`; `Denied` with a key that cannot read.
    pub fn examine(&self, entry: &PackEntry, stop: &Stop) -> Result<Examined> {
        let name = pack_name(&entry.pack);
        let mut found = Examined::default();
        let cipher = match self.keys.open_pack(&entry.header) {
            Err(e) if e.fault() == Fault::Denied => return Err(e),
            cipher => cipher,
        };
        let mut frames = Frames { repository: self, entry, next: 0, ids: 0, at: entry.header.len() as u64 };
        let mut decompressor = Decompressor::new()?;
        let mut hasher = blake3::Hasher::new();
        // What was read from `start` on and is not opened yet.
        let (mut buffer, mut start, mut end) = (Vec::new(), 0u64, 0u64);
        self.store.prefetch(&name, 0, entry.size);
        while end < entry.size {
            stop.check()?;
            let n = RANGE.min(entry.size - end);
            match self.store.range(&name, end, n as usize) {
                Ok(bytes) => {
                    hasher.update(&bytes);
                    buffer.extend_from_slice(&bytes);
                }
                Err(e) if is_finding(&e) || e.fault() == Fault::Missing => {
                    while let Some((number, ids, _)) = frames.take(u64::MAX) {
                        found.add(number, ids, None);
                    }
                    found.error.get_or_insert(e.as_fault(Fault::Damaged));
                    return Ok(found);
                }
                Err(e) => return Err(e),
            }
            end += n;
            self.observer.event(Event::Bytes(n));
            while let Some((number, ids, at)) = frames.take(end) {
                let frame = &entry.frames[number as usize];
                let from = (at - start) as usize;
                let sealed = buffer[from..from + frame.sealed_len as usize].to_vec();
                let opened = match &cipher {
                    Ok(cipher) => frames.prove(cipher, number, frame, sealed, ids, &mut decompressor),
                    Err(e) => Err(Error::damaged(e.chain())),
                };
                if let Err(e) = opened {
                    found.add(number, ids, Some(e));
                }
            }
            buffer.drain(..(frames.at.min(end) - start) as usize);
            start = frames.at.min(end);
        }
        // Read once, in order: other programs need the memory more.
        self.store.release(&name, 0, entry.size);
        if hasher.finalize().as_bytes() != &entry.pack.0 {
            found.error.get_or_insert(Error::damaged(
                "it is not what its name says, yet all of its chunks are whole",
            ));
        }
        Ok(found)
    }
}

impl Examined {
    fn add(&mut self, number: u32, ids: &[ChunkId], e: Option<Error>) {
        self.bad.push(number);
        self.chunks.extend_from_slice(ids);
        if let Some(e) = e {
            self.error.get_or_insert(e);
        }
    }
}

/// The frames of a pack, one after another.
struct Frames<'a> {
    repository: &'a Repository,
    entry: &'a PackEntry,
    next: usize,
    ids: usize,
    /// Where the next one begins.
    at: u64,
}

impl<'a> Frames<'a> {
    /// The next one if it ends by `end`: number, ids of its chunks, offset.
    fn take(&mut self, end: u64) -> Option<(u32, &'a [ChunkId], u64)> {
        let frame = self.entry.frames.get(self.next)?;
        let (number, at) = (self.next as u32, self.at);
        let behind = at + u64::from(frame.sealed_len);
        if behind > end {
            return None;
        }
        let ids = self.entry.ids.get(self.ids..self.ids + frame.chunks.len())?;
        (self.next, self.ids, self.at) = (self.next + 1, self.ids + frame.chunks.len(), behind);
        Some((number, ids, at))
    }

    fn prove(
        &self,
        cipher: &PackCipher,
        number: u32,
        frame: &Frame,
        sealed: Vec<u8>,
        ids: &[ChunkId],
        decompressor: &mut Decompressor,
    ) -> Result<()> {
        let header = &self.entry.header;
        let space = Header::decode(header)?.0.space;
        let raw = open_frame(cipher, header, number.into(), sealed, frame.raw_len(), decompressor)?;
        let found = self.repository.chunk_ids(space, &raw, &frame.chunks)?;
        if !found.iter().map(|(id, _)| id).eq(ids) {
            return Err(Error::damaged("the content is not what its id says"));
        }
        Ok(())
    }
}
