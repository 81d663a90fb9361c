//! The one rule by which lists are cut into pages.

use crate::format::tree::PAGE_MAX;

/// A page ends after an item whose hash has these low bits zero ...
const CUT_MASK: u32 = 0x7f;
/// ... once it holds this many encoded bytes. A folder of 128 to 250 ordinary entries takes one or two pages.
const PAGE_MIN: usize = 16 << 10;
/// And always before it would exceed this; the rest up to `PAGE_MAX` is for the frame of the list and for one
/// entry that is longer by itself.
const PAGE_FULL: usize = 192 << 10;

/// Largest encoded item.
pub const ITEM_MAX: usize = PAGE_MAX - 64;

/// Collects encoded items and says where a page ends. A function of the items only, never of history.
#[derive(Default)]
pub struct Pager {
    bytes: usize,
}

impl Pager {
    /// Whether the page must end *before* an item of `len` bytes.
    pub fn full(&self, len: usize) -> bool {
        self.bytes > 0 && self.bytes + len > PAGE_FULL
    }
    /// Takes an item of `len` bytes with `hash`; answers whether the page ends after it.
    pub fn push(&mut self, len: usize, hash: Option<&[u8; 32]>) -> bool {
        self.bytes += len;
        let low = |h: &[u8; 32]| u32::from_le_bytes([h[0], h[1], h[2], h[3]]) & CUT_MASK == 0;
        self.bytes >= PAGE_MIN && hash.is_some_and(low)
    }
    /// Begins the next page.
    pub fn reset(&mut self) {
        self.bytes = 0;
    }
}
