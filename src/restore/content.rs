//! Contents on their way out: data and holes in order.

use crate::fault::{Error, Result};
use crate::format::pack::Space;
use crate::format::tree::{At, Content, Extent};
use crate::id::ChunkId;
use crate::tree::{Chunks, FileReader};
use bytes::Bytes;

/// A stretch of a content, not read yet.
#[derive(Clone, Copy)]
pub(super) enum Leaf<'a> {
    /// Bytes that are at hand.
    Inline(&'a [u8]),
    /// A chunk of so many bytes.
    Chunk(ChunkId, u64),
    /// So many zeros that take no space.
    Hole(u64),
}

/// A stretch of a content.
pub(super) enum Piece<'a> {
    /// Bytes.
    Data(&'a [u8]),
    /// So many zeros that take no space.
    Hole(u64),
}

/// Gives every stretch of a content in order, with its offset, none of them read yet. Answers the length.
///
/// # Errors
/// As `take`; `Damaged` when a list of extents is lost or wrong.
pub(super) fn leaves(
    supply: &dyn Chunks,
    content: &Content,
    take: &mut dyn FnMut(u64, Leaf<'_>) -> Result<()>,
) -> Result<u64> {
    let extents = match content {
        Content::Inline(bytes) => {
            if !bytes.is_empty() {
                take(0, Leaf::Inline(bytes))?;
            }
            return Ok(bytes.len() as u64);
        }
        Content::Extents(extents) => extents,
    };
    let len = content.len()?;
    if extents.iter().all(|e| !matches!(e.at, At::List(..))) {
        run(0, extents.iter(), take)?;
        return Ok(len);
    }
    let file = FileReader::new(content.clone());
    let mut at = 0;
    while at < len {
        let page = file.extents(supply, at)?;
        if supply.looks_ahead() {
            let chunk = |(_, e): &(u64, Extent)| match e.at {
                At::Chunk(id) => Some(id),
                At::Hole | At::List(..) => None,
            };
            supply.expect(&page.iter().filter_map(chunk).collect::<Vec<_>>());
        }
        let end = run(at, page.iter().map(|(_, e)| e), take)?;
        if end <= at {
            return Err(Error::damaged("a list of extents ends before its file"));
        }
        at = end;
    }
    Ok(len)
}

/// Gives extents that are no lists, beginning at `at`; answers where they end.
fn run<'a>(
    mut at: u64,
    extents: impl Iterator<Item = &'a Extent>,
    take: &mut dyn FnMut(u64, Leaf<'_>) -> Result<()>,
) -> Result<u64> {
    for e in extents {
        match e.at {
            At::Chunk(id) => take(at, Leaf::Chunk(id, e.len))?,
            At::Hole => take(at, Leaf::Hole(e.len))?,
            At::List(..) => return Err(Error::bug("a list of extents among leaves")),
        }
        at = at.checked_add(e.len).ok_or_else(|| Error::damaged("a content is longer than 2^64"))?;
    }
    Ok(at)
}

/// The bytes of a chunk that must be `len` long.
///
/// # Errors
/// `Damaged` when it is lost or not that long.
pub(super) fn chunk(supply: &dyn Chunks, id: &ChunkId, len: u64) -> Result<Bytes> {
    let bytes = supply.chunk(Space::Data, id)?;
    if bytes.len() as u64 == len {
        return Ok(bytes);
    }
    let (short, found) = (id.short(), bytes.len());
    Err(Error::damaged(format!("chunk {short} has {found} bytes where its file says {len}")))
}

/// Gives every stretch of a content in order, with its offset, one chunk in memory at a time.
/// Answers the length.
///
/// # Errors
/// As `take`; `Damaged` when a chunk is lost or not as long as its file says. What was given before
/// that is right, but is not all.
pub(super) fn pieces(
    supply: &dyn Chunks,
    content: &Content,
    take: &mut dyn FnMut(u64, Piece<'_>) -> Result<()>,
) -> Result<u64> {
    leaves(supply, content, &mut |at, leaf| match leaf {
        Leaf::Inline(bytes) => take(at, Piece::Data(bytes)),
        Leaf::Chunk(id, len) => take(at, Piece::Data(&chunk(supply, &id, len)?)),
        Leaf::Hole(len) => take(at, Piece::Hole(len)),
    })
}

/// A whole content in memory, at most `limit` bytes; `None` when it is longer.
pub(super) fn whole(supply: &dyn Chunks, content: &Content, limit: u64) -> Result<Option<Vec<u8>>> {
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
