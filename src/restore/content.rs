//! Contents on their way out: data and holes in order, with the next chunks asked for ahead.

use crate::fault::{Error, Result};
use crate::format::pack::Space;
use crate::format::tree::{At, Content, Extent};
use crate::id::ChunkId;
use crate::repository::Reader;
use crate::tree::{Chunks, FileReader};

/// Chunks that are asked for before they are needed: 2 MiB of an ordinary file, so that a few files
/// at once stay well inside the reader's cache of frames.
const AHEAD: usize = 32;

/// Where verified chunks come from, with a hint at what comes next.
pub(super) trait Supply: Chunks + Sync {
    /// These data chunks will be wanted soon, in this order. Never blocks, never fails.
    fn prefetch(&self, chunks: &[ChunkId]);
}

impl Supply for Reader {
    fn prefetch(&self, chunks: &[ChunkId]) {
        Reader::prefetch(self, chunks);
    }
}

/// A stretch of a content.
pub(super) enum Piece<'a> {
    /// Bytes.
    Data(&'a [u8]),
    /// So many zeros that take no space.
    Hole(u64),
}

/// Asks for the first chunks of a content that will be read soon.
pub(super) fn announce(supply: &dyn Supply, content: &Content) {
    if let Content::Extents(extents) = content {
        hint(supply, extents.iter().take(AHEAD));
    }
}

fn hint<'a>(supply: &dyn Supply, extents: impl Iterator<Item = &'a Extent>) {
    let ids: Vec<ChunkId> = extents
        .filter_map(|e| match e.at {
            At::Chunk(id) => Some(id),
            _ => None,
        })
        .collect();
    if !ids.is_empty() {
        supply.prefetch(&ids);
    }
}

/// Gives every stretch of a content in order, with its offset, one chunk in memory at a time.
/// Answers the length.
///
/// # Errors
/// As `take`; `Damaged` when a chunk is lost or not as long as its file says. What was given before
/// that is right, but is not all.
pub(super) fn pieces(
    supply: &dyn Supply,
    content: &Content,
    take: &mut dyn FnMut(u64, Piece<'_>) -> Result<()>,
) -> Result<u64> {
    let extents = match content {
        Content::Inline(bytes) => {
            if !bytes.is_empty() {
                take(0, Piece::Data(bytes))?;
            }
            return Ok(bytes.len() as u64);
        }
        Content::Extents(extents) => extents,
    };
    let len = content.len()?;
    if extents.iter().all(|e| !matches!(e.at, At::List(..))) {
        run(supply, 0, extents, take)?;
        return Ok(len);
    }
    let file = FileReader::new(content.clone());
    let mut at = 0;
    while at < len {
        let page: Vec<Extent> = file.extents(supply, at)?.into_iter().map(|(_, e)| e).collect();
        hint(supply, page.iter().take(AHEAD));
        let end = run(supply, at, &page, take)?;
        if end <= at {
            return Err(Error::damaged("a list of extents ends before its file"));
        }
        at = end;
    }
    Ok(len)
}

/// Gives extents that are no lists, beginning at `at`; answers where they end.
fn run(
    supply: &dyn Supply,
    mut at: u64,
    extents: &[Extent],
    take: &mut dyn FnMut(u64, Piece<'_>) -> Result<()>,
) -> Result<u64> {
    for (i, e) in extents.iter().enumerate() {
        if i % (AHEAD / 2) == 0 {
            hint(supply, extents.iter().skip(i + AHEAD).take(AHEAD / 2));
        }
        match e.at {
            At::Chunk(id) => {
                let bytes = supply.chunk(Space::Data, &id)?;
                if bytes.len() as u64 != e.len {
                    return Err(Error::damaged(format!(
                        "chunk {} has {} bytes where its file says {}",
                        id.short(),
                        bytes.len(),
                        e.len
                    )));
                }
                take(at, Piece::Data(&bytes))?;
            }
            At::Hole => take(at, Piece::Hole(e.len))?,
            At::List(..) => return Err(Error::bug("a list of extents among leaves")),
        }
        at = at.checked_add(e.len).ok_or_else(|| Error::damaged("a content is longer than 2^64"))?;
    }
    Ok(at)
}

/// A whole content in memory, at most `limit` bytes; `None` when it is longer.
pub(super) fn whole(supply: &dyn Supply, content: &Content, limit: u64) -> Result<Option<Vec<u8>>> {
    let len = content.len()?;
    if len > limit {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(len as usize);
    pieces(supply, content, &mut |_, piece| {
        match piece {
            Piece::Data(data) => bytes.extend_from_slice(data),
            // No longer than the limit.
            Piece::Hole(n) => bytes.resize(bytes.len() + n as usize, 0),
        }
        Ok(())
    })?;
    Ok(Some(bytes))
}
