//! Chunks out of packs that will go into new ones: each is verified when it is read, and durable and named by a segment
//! before anybody may end the pack that it came from.

use super::ahead::Ahead;
use super::stages::{Frames, Stages};
use super::survey::is_finding;
use super::sweep::Sweep;
use super::{Reader, Repository};
use crate::event::{Event, Stop};
use crate::fault::{Error, Fault, Result};
use crate::format::pack::Space;
use crate::id::{ChunkId, PackId};
use crate::index::PackInfo;
use crate::seal::{Compression, Decompressor, PackCipher};
use std::collections::HashSet;
use std::sync::Arc;

/// Frames with more raw bytes are of small files, and what is moved from them is put together as such: frames of big
/// files hold less, so that they stay small.
const SMALL_FROM: u32 = 256 << 10;

/// What became of the frames of a pack.
#[derive(Debug, Default)]
pub struct Moved {
    /// Chunks that now lie in new packs, and that did not lie anywhere else.
    pub chunks: u64,
    /// Bytes of them, before compression.
    pub bytes: u64,
    /// Numbers of the frames that cannot be read or do not hold what is promised: nothing of them was moved.
    pub bad: Vec<u32>,
    /// Why, of the first of them.
    pub error: Option<Error>,
}

/// The bytes of a frame, and its chunks with the byte behind each.
struct Opened {
    raw: Vec<u8>,
    chunks: Vec<(ChunkId, u32)>,
}

/// Moves chunks on behalf of a sweep.
pub struct Mover {
    repository: Arc<Repository>,
    stages: Stages,
    decompressor: Decompressor,
    /// Where the store is far.
    ahead: Option<Ahead>,
    stop: Stop,
}

impl Mover {
    /// What lies only in packs that are retired or in those of `emptied` is stored anew; all else stays where it is.
    ///
    /// # Errors
    /// As opening the index.
    pub fn begin(
        sweep: &Sweep,
        emptied: HashSet<PackId>,
        compression: Compression,
        stop: Stop,
    ) -> Result<Self> {
        let repository = sweep.repository().clone();
        let stages = Stages::start(&repository, sweep.id(), emptied, Some(compression))?;
        let ahead = Ahead::of(&repository.store);
        Ok(Self { repository, stages, decompressor: Decompressor::new()?, ahead, stop })
    }

    /// Whether it wants to be told what comes after what it was told of.
    pub fn wants_more(&self) -> bool {
        self.ahead.as_ref().is_some_and(Ahead::is_idle)
    }

    /// These frames will be taken next, after those that were told of before: of a far store they are fetched ahead.
    pub fn plan(&mut self, pack: &Arc<PackInfo>, frames: impl IntoIterator<Item = u32>) {
        if let Some(ahead) = &mut self.ahead {
            ahead.plan(pack, frames);
        }
    }

    /// Reads frames of a pack and stores those of their chunks that are `wanted`.
    ///
    /// # Errors
    /// What the store says where it is not about this pack, which is told by [`Moved::bad`]; what storing says; `Stopped`.
    pub fn take(
        &mut self,
        pack: &Arc<PackInfo>,
        frames: impl IntoIterator<Item = u32>,
        mut wanted: impl FnMut(&ChunkId) -> Result<bool>,
    ) -> Result<Moved> {
        let mut moved = Moved::default();
        let cipher = match self.repository.keys.open_pack(&pack.header) {
            Err(e) if e.fault() == Fault::Denied => return Err(e),
            cipher => cipher.map_err(|e| Error::damaged(e.chain())),
        };
        for number in frames {
            self.stop.check()?;
            let read = match &cipher {
                Ok(cipher) => self.frame(pack, number, cipher),
                Err(e) => Err(Error::damaged(e.chain())),
            };
            let Opened { raw, chunks } = match read {
                Ok(read) => read,
                Err(e) if is_finding(&e) || e.fault() == Fault::Missing => {
                    moved.bad.push(number);
                    moved.error.get_or_insert(e);
                    continue;
                }
                Err(e) => return Err(e.while_(format!("reading pack {}", pack.id.short()))),
            };
            let frames = match pack.space {
                Space::Trees => Frames::Trees,
                Space::Data if raw.len() as u32 > SMALL_FROM => Frames::Small,
                Space::Data => Frames::Big,
            };
            let mut start = 0;
            for (id, end) in chunks {
                let bytes = &raw[start as usize..end as usize];
                start = end;
                if !wanted(&id)? {
                    continue;
                }
                let (found, is_new) = self.stages.put(frames, bytes)?;
                if found != id {
                    return Err(Error::bug("a chunk has another id than before"));
                }
                if is_new {
                    moved.chunks += 1;
                    moved.bytes += bytes.len() as u64;
                }
            }
        }
        Ok(moved)
    }

    /// Stores chunks that a pack has lost, as a replica has them: how many it had.
    ///
    /// # Errors
    /// What the replica says where it is not about one chunk; what storing says; `Stopped`.
    pub fn fetch(&mut self, pack: &PackInfo, chunks: &[ChunkId], replica: &Reader) -> Result<u64> {
        let is_small = pack.frames.iter().any(|frame| frame.raw_len > SMALL_FROM);
        let frames = match pack.space {
            Space::Trees => Frames::Trees,
            Space::Data if is_small => Frames::Small,
            Space::Data => Frames::Big,
        };
        let mut fetched = 0;
        for id in chunks {
            self.stop.check()?;
            match replica.chunk(pack.space, id) {
                Ok(bytes) => {
                    self.stages.put_as(frames, *id, &bytes)?;
                    fetched += 1;
                }
                Err(e) if is_finding(&e) || e.fault() == Fault::Missing => {}
                Err(e) => return Err(e.while_(format!("reading chunk {} of the replica", id.short()))),
            }
        }
        Ok(fetched)
    }

    /// Every id is computed from the bytes.
    fn frame(&mut self, pack: &Arc<PackInfo>, number: u32, cipher: &PackCipher) -> Result<Opened> {
        let (repository, decompressor) = (&self.repository, &mut self.decompressor);
        let raw = match &mut self.ahead {
            Some(ahead) => {
                repository.open_or_heal(pack, number, ahead.take(pack, number), cipher, decompressor)
            }
            None => repository.open_frame_of(pack, number, cipher, decompressor),
        }?;
        let read = pack.frames.get(number as usize).map_or(0, |at| at.sealed_len);
        self.repository.observer.event(Event::Bytes(read.into()));
        let chunks = self.repository.chunk_ids(pack.space, &raw, pack.chunks_of(number))?;
        Ok(Opened { raw, chunks })
    }

    /// Ends the work: when this returns, all that was taken is durable, and segments name it. Bytes that were stored.
    ///
    /// # Errors
    /// What storing says.
    pub fn finish(mut self) -> Result<u64> {
        self.stages.finish()?;
        Ok(self.stages.stored_bytes())
    }
}
