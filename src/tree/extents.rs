//! Pages of extents as they were decoded: who reads a long file at random meets the same ones again and again.

use crate::format::tree::Extent;
use crate::id::ChunkId;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// Extents with the offset at which each begins.
pub(super) type Placed = Arc<[(u64, Extent)]>;

/// Most extents that are kept, 56 bytes each: 8 MiB, and all of a file of 6 GB in ordinary chunks.
const EXTENTS_MAX: usize = 150_000;

/// A page, the level at which it was met, and the offset at which it begins: the same may stand in two places.
pub(super) type Key = (ChunkId, u8, u64);

/// A bounded number of decoded pages of extents, for any number of files.
#[derive(Default)]
pub struct Extents {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// With when each was used.
    pages: HashMap<Key, (Placed, u64)>,
    extents: usize,
    clock: u64,
}

impl Extents {
    /// Bytes of memory that they take.
    pub fn bytes(&self) -> usize {
        self.kept.lock().extents * size_of::<(u64, Extent)>()
    }

    pub(super) fn get(&self, key: &Key) -> Option<Placed> {
        let kept = &mut *self.kept.lock();
        kept.clock += 1;
        let (page, used) = kept.pages.get_mut(key)?;
        *used = kept.clock;
        Some(page.clone())
    }

    pub(super) fn put(&self, key: Key, page: &Placed) {
        let kept = &mut *self.kept.lock();
        kept.clock += 1;
        kept.extents += page.len();
        if let Some((old, _)) = kept.pages.insert(key, (page.clone(), kept.clock)) {
            kept.extents -= old.len();
        }
        while kept.extents > EXTENTS_MAX && kept.pages.len() > 1 {
            // The older half goes, so that looking for it costs next to nothing for each page.
            let mut ages: Vec<u64> = kept.pages.values().map(|(_, used)| *used).collect();
            let middle = (ages.len() - 1) / 2;
            let (_, median, _) = ages.select_nth_unstable(middle);
            let median = *median;
            kept.pages.retain(|_, (_, used)| *used > median);
            kept.extents = kept.pages.values().map(|(page, _)| page.len()).sum();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tree::At;

    #[test]
    fn what_was_used_last_stays_and_the_sum_is_bounded() {
        let extents = Extents::default();
        let page: Placed = vec![(0, Extent { len: 1, at: At::Hole }); EXTENTS_MAX / 10].into();
        let key = |n: u8| (ChunkId([n; 32]), 1, 0);
        for n in 0..40 {
            extents.put(key(n), &page);
            assert!(extents.get(&key(0)).is_some(), "used each time");
            assert!(extents.get(&(key(n).0, 1, 1)).is_none(), "not at that place");
        }
        let kept = extents.kept.lock();
        assert!(kept.extents <= EXTENTS_MAX && kept.pages.len() >= 5, "{}", kept.pages.len());
        drop(kept);
        assert!(extents.get(&key(39)).is_some() && extents.get(&key(1)).is_none());
    }
}
