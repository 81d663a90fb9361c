//! Contents on their way out: data and holes in order.

use crate::fault::{Error, Result};
use crate::format::pack::Space;
use crate::format::tree::{At, Content, Extent};
use crate::tree::{Chunks, FileReader};

/// A stretch of a content.
pub(super) enum Piece<'a> {
    /// Bytes.
    Data(&'a [u8]),
    /// So many zeros that take no space.
    Hole(u64),
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
    supply: &dyn Chunks,
    mut at: u64,
    extents: &[Extent],
    take: &mut dyn FnMut(u64, Piece<'_>) -> Result<()>,
) -> Result<u64> {
    for e in extents {
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
