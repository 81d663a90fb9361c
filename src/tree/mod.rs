//! Folders and long files made of chunks: written bottom-up, read by path.
//!
//! Trees name chunks by id only, so moving chunks between packs touches no tree. Pages are cut by
//! content: an insertion changes one page per level, and equal folders are one tree, whatever
//! their history.

mod extents;
mod pages;
mod read;
mod write;

pub use extents::Extents;
pub use read::{FileReader, Listing, entries, extent_page, find, lookup, page, page_of, root_entry};
pub use write::{ContentWriter, FolderWriter};

use crate::fault::Result;
use crate::format::pack::Space;
use crate::id::ChunkId;
use bytes::Bytes;

/// The name of the one entry in a snapshot's root page: the folder `/` itself with its attributes.
pub const ROOT_NAME: &[u8] = b"root";

/// Where chunks come from: verified plaintext by id.
pub trait Chunks {
    /// # Errors
    /// `Damaged` when no copy of the chunk is whole.
    fn chunk(&self, space: Space, id: &ChunkId) -> Result<Bytes>;

    /// Whether [`Chunks::expect`] does anything: who would have to work for it need not.
    fn looks_ahead(&self) -> bool {
        false
    }

    /// A hint: these chunks will be asked for soon, in this order. Does not wait for them; what goes wrong shows when they
    /// are read.
    fn expect(&self, ids: &[ChunkId]) {
        let _ = ids;
    }
}

/// Where chunks go: answers the id under which the bytes can be found again.
pub trait Sink {
    /// Takes one chunk of at most `CHUNK_MAX` bytes.
    fn put(&mut self, space: Space, bytes: &[u8]) -> Result<ChunkId>;
}
