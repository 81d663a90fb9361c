//! Which packs a check reads: all, a fixed share by name, or as much as there is time for, those first that were not read
//! for the longest time.
//!
//! The record of when a pack was last read and found whole is `read-<hash of the place>` in the repository's cache: for
//! each pack 32 bytes of its id and the seconds since 1970 as i64le. It holds nothing that the store does not show;
//! without it the rotation begins anew. A pack that was found damaged is not in it, so it comes first each time.

use crate::clock;
use crate::fault::{Doing, Result};
use crate::id::{ID_LEN, PackId, hex};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Bytes of a record.
const RECORD_LEN: usize = ID_LEN + 8;

/// Which packs are read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Subset {
    /// Every one.
    All,
    /// Part `part` of `of`, counted from 1: by the pack's id, so that the same pack is always in the same part.
    Part {
        /// 1 to `of`.
        part: u32,
        /// At least 1.
        of: u32,
    },
    /// At least this share of all bytes, more than 0 and at most 1, in rotation.
    Share(f64),
    /// At least so many bytes, in rotation.
    Bytes(u64),
}

impl Subset {
    /// The packs that are read, of all `packs` with their sizes; `read` tells when one was read last. Always at least
    /// one in rotation, so that all have their turn.
    pub fn choose(&self, packs: &[(PackId, u64)], read: &HashMap<PackId, i64>) -> Vec<(PackId, u64)> {
        let bytes = match *self {
            Subset::All => return packs.to_vec(),
            Subset::Part { part, of } => {
                let is_in = |id: &PackId| number(id) % u64::from(of.max(1)) + 1 == u64::from(part);
                return packs.iter().filter(|(id, _)| is_in(id)).copied().collect();
            }
            Subset::Share(share) => {
                let all: u64 = packs.iter().map(|(_, size)| size).sum();
                (all as f64 * share).ceil() as u64
            }
            Subset::Bytes(bytes) => bytes,
        };
        let mut queue = packs.to_vec();
        queue.sort_by_key(|(id, _)| (read.get(id).copied().unwrap_or(i64::MIN), *id));
        let mut sum = 0;
        queue
            .into_iter()
            .take_while(|(_, size)| {
                let is_in = sum < bytes.max(1);
                sum += size;
                is_in
            })
            .collect()
    }
}

/// The first eight bytes of an id, which is a hash: evenly spread.
fn number(id: &PackId) -> u64 {
    id.0.iter().take(8).fold(0, |n, b| n << 8 | u64::from(*b))
}

/// When packs of a place were read last.
pub struct Rotation {
    path: PathBuf,
    /// Seconds since 1970.
    pub read: HashMap<PackId, i64>,
}

impl Rotation {
    /// Reads the record; none is an empty one.
    pub fn open(cache: &Path, place: &str) -> Self {
        let path = cache.join(format!("read-{}", hex(&blake3::hash(place.as_bytes()).as_bytes()[..8])));
        let bytes = fs::read(&path).unwrap_or_default();
        let record = |record: &[u8]| {
            let (id, time) = record.split_first_chunk::<ID_LEN>()?;
            Some((PackId(*id), i64::from_le_bytes(time.try_into().ok()?)))
        };
        Self { path, read: bytes.chunks_exact(RECORD_LEN).filter_map(record).collect() }
    }

    /// Notes what was read now: each pack, and whether it was whole. Packs that are not among `all` are forgotten.
    ///
    /// # Errors
    /// Where the cache cannot be written: the next rotation reads the same packs again.
    pub fn save(mut self, now_read: &[(PackId, bool)], all: &[(PackId, u64)]) -> Result<()> {
        for (id, is_whole) in now_read {
            match is_whole {
                true => self.read.insert(*id, clock::now().seconds),
                false => self.read.remove(id),
            };
        }
        let mut bytes = Vec::with_capacity(all.len() * RECORD_LEN);
        for (id, _) in all {
            if let Some(time) = self.read.get(id) {
                bytes.extend_from_slice(&id.0);
                bytes.extend_from_slice(&time.to_le_bytes());
            }
        }
        let draft = self.path.with_extension("new");
        let written = fs::write(&draft, bytes).and_then(|()| fs::rename(&draft, &self.path));
        written.doing(|| format!("noting in {} which packs were read", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packs(n: u8) -> Vec<(PackId, u64)> {
        (0..n).map(|i| (PackId::of_object(&[i]), 100)).collect()
    }

    #[test]
    fn the_parts_together_are_all_and_no_pack_is_in_two() {
        let all = packs(100);
        for of in [1, 2, 3, 7, 200] {
            let mut seen: Vec<_> =
                (1..=of).flat_map(|part| Subset::Part { part, of }.choose(&all, &HashMap::new())).collect();
            seen.sort();
            let mut expected = all.clone();
            expected.sort();
            assert_eq!(seen, expected, "{of} parts");
        }
        let third = Subset::Part { part: 2, of: 3 };
        let few = third.choose(&all[..50], &HashMap::new());
        let many = third.choose(&all, &HashMap::new());
        assert_eq!(few, many[..few.len()], "a pack stays in its part when others come");
        assert!((15..=55).contains(&many.len()), "parts are of about the same size: {}", many.len());
    }

    #[test]
    fn a_rotation_reads_the_oldest_first_and_comes_round() {
        let all = packs(10);
        let mut read = HashMap::new();
        let mut seen = Vec::new();
        for day in 0..4 {
            let chosen = Subset::Share(0.25).choose(&all, &read);
            assert_eq!(chosen.len(), 3, "a quarter of ten, rounded up");
            read.extend(chosen.iter().map(|(id, _)| (*id, day)));
            seen.extend(chosen.into_iter().map(|(id, _)| id));
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 10);
        assert_eq!(Subset::Bytes(250).choose(&all, &read).len(), 3);
        assert_eq!(Subset::Bytes(0).choose(&all, &read).len(), 1);
        assert_eq!(Subset::Bytes(u64::MAX).choose(&all, &read).len(), 10);
        assert_eq!(Subset::Share(1.0).choose(&all, &read).len(), 10);
        assert!(Subset::Share(0.5).choose(&[], &read).is_empty());
    }

    #[test]
    fn what_was_read_whole_is_remembered_and_what_was_not_comes_first() {
        let dir = std::env::temp_dir().join(format!("pastfs-rotation-{}", hex(&clock::random_array::<4>())));
        fs::create_dir(&dir).unwrap();
        let all = packs(3);
        let now: Vec<_> = all.iter().enumerate().map(|(n, (id, _))| (*id, n != 1)).collect();
        Rotation::open(&dir, "/a").save(&now, &all).unwrap();
        let read = Rotation::open(&dir, "/a").read;
        assert_eq!(read.len(), 2);
        assert_eq!(Subset::Bytes(1).choose(&all, &read), [all[1]]);
        assert!(Rotation::open(&dir, "/b").read.is_empty(), "another place has its own");
        Rotation::open(&dir, "/a").save(&[], &all[..1]).unwrap();
        assert_eq!(Rotation::open(&dir, "/a").read.len(), 1, "packs that are gone are forgotten");
        fs::remove_dir_all(dir).unwrap();
    }
}
