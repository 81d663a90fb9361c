//! Packs that no segment names, read and proven by their own header and table, and named again; and what a repair says of
//! chunks that it could not save.
//!
//! Nothing here relies on what a segment or the cache once said of such a pack: the ids of its chunks are computed from
//! their bytes.

use super::examine::{Layout, is_of_object};
use super::listing::{Listing, note_name, segment_name};
use super::reader::pack_name;
use super::survey::is_finding;
use super::sweep::Sweep;
use super::{Repository, Right};
use crate::clock;
use crate::event::{Event, Stop};
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::object::Kind;
use crate::format::pack::{
    Frame, Header, PREFIX_LEN, PackEntry, RECIPIENTS_MAX, SEALED_KEY_LEN, Space, TRAILER_LEN, decode_trailer,
};
use crate::format::snapshot::{Action, Note};
use crate::id::{ChunkId, ID_LEN, NoteId, PackId, SegmentId};
use crate::index::{FrameAt, PackInfo};
use crate::pack::open_table;
use crate::seal::Role;
use std::collections::HashSet;

/// Longest header of a pack in bytes.
const HEADER_MAX: usize = PREFIX_LEN + RECIPIENTS_MAX * (8 + SEALED_KEY_LEN);
/// Packs that one segment of a repair names: as many as one of a backup.
pub const ADOPTED_AT_ONCE: usize = 8;
/// Most lost chunks that one note names: 32 bytes each, and the note stays below the 1 MiB that one may have.
const LOST_IN_NOTE: usize = 30_000;
const _: () = assert!(LOST_IN_NOTE * ID_LEN + 4096 < Kind::Note.limit() as usize);

/// A pack that no segment names, as it was read.
#[derive(Debug)]
pub struct Stray {
    /// What a segment would say of it; where frames are bad, without the ids of all chunks.
    entry: PackEntry,
    space: Space,
    /// Frames that cannot be opened, by number.
    bad: HashSet<u32>,
    /// What is wrong, if anything is: the first reason.
    error: Option<Error>,
    is_damaged: bool,
}

/// Why nothing of a pack can be read: its header or its table is damaged, or not for us.
#[derive(Debug)]
pub struct Unreadable {
    /// The reason.
    pub error: Error,
    /// It is not what its name says: damage for sure.
    pub is_damaged: bool,
}

impl Stray {
    /// What is wrong with it.
    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }
    /// It is not what its name says: damage for sure, and not a disk that cannot be read now.
    pub fn is_damaged(&self) -> bool {
        self.is_damaged
    }
    /// What a segment can say of it, where every byte of it is proven.
    pub fn whole(&self) -> Option<&PackEntry> {
        self.error.is_none().then_some(&self.entry)
    }
    /// Chunks in it that are proven.
    pub fn chunks(&self) -> u64 {
        self.entry.ids.len() as u64
    }
    /// Whether one of these chunks is in it, and proven.
    pub fn holds(&self, chunks: &HashSet<ChunkId>) -> bool {
        self.entry.ids.iter().any(|id| chunks.contains(id))
    }
    /// The frames that are whole.
    pub fn frames(&self) -> impl Iterator<Item = u32> {
        (0..self.entry.frames.len() as u32).filter(|n| !self.bad.contains(n))
    }
    /// Frames that are lost.
    pub fn bad_frames(&self) -> u64 {
        self.bad.len() as u64
    }
    /// How to read it.
    pub fn info(&self) -> PackInfo {
        let e = &self.entry;
        let (mut frames, mut chunks) = (Vec::with_capacity(e.frames.len()), Vec::new());
        // Below 1 GiB, as the pack is.
        let mut offset = e.header.len() as u32;
        for f in &e.frames {
            let (sealed_len, raw_len) = (f.sealed_len, f.raw_len() as u32);
            frames.push(FrameAt { offset, sealed_len, raw_len, first: chunks.len() as u32 });
            chunks.extend_from_slice(&f.chunks);
            offset += sealed_len;
        }
        let (id, size, header, space) = (e.pack, e.size, e.header.clone(), self.space);
        PackInfo { id, size, header, space, frames, chunks }
    }
}

impl Repository {
    /// Reads a pack that no segment names, and computes the ids of its chunks.
    ///
    /// # Errors
    /// What the store says where it is not about this pack; `Missing` where it has gone; `Stopped`; `Denied` with a key
    /// that cannot read.
    pub fn read_stray(
        &self,
        id: &PackId,
        size: u64,
        stop: &Stop,
    ) -> Result<std::result::Result<Stray, Unreadable>> {
        let (size, header, frames) = match self.layout(id, size) {
            Ok(layout) => layout,
            Err(error) if is_finding(&error) => {
                let of = Layout { pack: id, size, header: &[], frames: &[] };
                let flaw = self.each_frame(&of, stop, &mut |_| Ok(()), &mut |_, _, _| Ok(()))?;
                let is_damaged = flaw.is_some_and(|e| e.fault() == Fault::Damaged);
                return Ok(Err(Unreadable { error, is_damaged }));
            }
            Err(e) => return Err(e),
        };
        let space = Header::decode(&header)?.0.space;
        let (mut ids, mut bad, mut error) = (Vec::new(), HashSet::new(), None);
        let mut each = |number: usize, frame: &Frame, raw: Result<Vec<u8>>| -> Result<()> {
            match raw.and_then(|raw| self.chunk_ids(space, &raw, &frame.chunks)) {
                Ok(chunks) => ids.extend(chunks.into_iter().map(|(id, _)| id)),
                Err(e) => {
                    bad.insert(number as u32);
                    error.get_or_insert(e);
                }
            }
            Ok(())
        };
        let of = Layout { pack: id, size, header: &header, frames: &frames };
        let flaw = self.each_frame(&of, stop, &mut |_| Ok(()), &mut each)?;
        let is_damaged = flaw.as_ref().is_some_and(|e| e.fault() == Fault::Damaged);
        let error = error.or(flaw);
        let entry = PackEntry { pack: *id, size, header, frames, ids, unknown: Default::default() };
        Ok(Ok(Stray { entry, space, bad, error, is_damaged }))
    }

    /// Length, header and frames, as the pack itself tells them; if it is damaged there, as it was.
    fn layout(&self, id: &PackId, size: u64) -> Result<(u64, Vec<u8>, Vec<Frame>)> {
        let name = pack_name(id);
        match self.layout_of(size, &|at, len| self.store.range(&name, at, len)) {
            Err(e) if is_finding(&e) => match self.healed(id)? {
                Some(bytes) => self.layout_of(bytes.len() as u64, &|at, len| {
                    let found = bytes.get(at as usize..).and_then(|rest| rest.get(..len));
                    found.map(<[u8]>::to_vec).ok_or_else(|| Error::damaged("it ends before"))
                }),
                None => Err(e),
            },
            layout => layout,
        }
    }

    fn layout_of(
        &self,
        size: u64,
        range: &dyn Fn(u64, usize) -> Result<Vec<u8>>,
    ) -> Result<(u64, Vec<u8>, Vec<Frame>)> {
        if size > Kind::Pack.limit() || size < (PREFIX_LEN + TRAILER_LEN) as u64 {
            return Err(Error::damaged(format!("a pack cannot have {size} bytes")));
        }
        let mut header = range(0, (size as usize).min(HEADER_MAX))?;
        header.truncate(Header::decode(&header)?.1);
        let cipher = self.keys.open_pack(&header)?;
        let trailer = range(size - TRAILER_LEN as u64, TRAILER_LEN)?;
        let end = u64::from(decode_trailer(&trailer)?.0) + TRAILER_LEN as u64;
        let start = size.checked_sub(end).filter(|s| *s >= header.len() as u64);
        let start = start.ok_or_else(|| Error::damaged("the table of the pack is longer than the pack"))?;
        let table = open_table(&cipher, &header, &range(start, end as usize)?)?;
        let frames: u64 = table.0.iter().map(|f| u64::from(f.sealed_len)).sum();
        match header.len() as u64 + frames <= start {
            true => Ok((size, header, table.0)),
            false => Err(Error::damaged("the frames of the pack are longer than the pack")),
        }
    }

    /// Names packs whose every byte was proven in a new segment, signed by this key: their chunks count from now on, for
    /// all. Where this repository has parity, and who stored a pack died before that, it is written. Durable when this returns.
    ///
    /// # Errors
    /// What the store says; `Stopped`.
    pub fn adopt(&self, sweep: &Sweep, entries: &[PackEntry], stop: &Stop) -> Result<()> {
        let published = self.publish(sweep.id(), entries, &[])?;
        self.index()?.apply(vec![published.applied], &[], Vec::new())?;
        let (packs, segment) = (entries.len(), published.id.short());
        self.observer.event(Event::Detail(&format!("index segment {segment} names {packs} packs again")));
        for entry in entries {
            if self.parity_flaw(&entry.pack, entry.size, None)?.is_some() {
                self.renew_parity(sweep, &entry.pack, entry.size, stop)?;
            }
        }
        Ok(())
    }

    /// Deletes a segment that is damaged. One that is whole by now, or gone, is left alone. The caller has seen to it that
    /// all packs that are there are named by others. Whether it was deleted.
    ///
    /// # Errors
    /// What the store says.
    pub fn delete_damaged(&self, sweep: &Sweep, segment: &SegmentId) -> Result<bool> {
        match self.load_segment(segment) {
            Err(e) if e.fault() == Fault::Damaged => sweep.delete(&segment_name(segment)).map(|()| true),
            Ok(_) => Ok(false),
            Err(e) if is_of_object(&e) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Says that chunks are lost: backups then look whether what they take over unread needs them. Those that were said to be
    /// so before are not named again. How many are new.
    ///
    /// # Errors
    /// `Denied` without a full key; what the store says.
    pub fn note_lost(&self, chunks: &HashSet<ChunkId>) -> Result<u64> {
        self.allow(Right::Manage, "noting what is lost")?;
        let known = self.list()?.lost();
        let mut new: Vec<ChunkId> = chunks.difference(&known).copied().collect();
        new.sort_unstable();
        for some in new.chunks(LOST_IN_NOTE) {
            let note = Note {
                action: Action::Lost,
                time: clock::now(),
                snapshots: Vec::new(),
                tags: Vec::new(),
                session: None,
                lost: some.to_vec(),
                unknown: Default::default(),
            };
            let object = self.keys.seal_object(Kind::Note, note.encode())?;
            let (id, (_, author)) = (NoteId::of_object(&object), self.keys.open_object(Kind::Note, &object)?);
            self.store.put(&note_name(&id), &object).doing(|| "writing a note of what is lost")?;
            self.remember_note(id, note, author);
        }
        Ok(new.len() as u64)
    }
}

impl Listing {
    /// The chunks that repairs could not save, by the word of full keys. They may have been stored again since.
    pub fn lost(&self) -> HashSet<ChunkId> {
        let of_full = self.notes.iter().map(|n| &*n.note).filter(|(_, author)| author.role == Role::Full);
        let lost = of_full.filter(|(note, _)| note.action == Action::Lost);
        lost.flat_map(|(note, _)| note.lost.iter().copied()).collect()
    }
}
