//! Heals bytes by parity: Reed-Solomon over the parts of a pack (the code of Leopard-RS over GF(2^16), which takes time
//! n log n in the number of parts). Knows nothing of what is in a pack.
//!
//! As many damaged parts can be healed as there are parity parts, wherever they lie, also in the parity itself.

use crate::fault::{Error, Fault, Result};
use crate::format::parity::{Description, PARTS_MAX, Parity, SUM_LEN, encode, sum};
use crate::id::PackId;
use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};

/// Shortest part in bytes: what a disk loses at a time.
const PART_MIN: u64 = 4096;
/// Parts that a pack is cut into at most: half of what the code allows, so that all fit with as many parity parts.
const PARTS: u64 = PARTS_MAX as u64 / 2;
/// Most parity, in hundredths of the pack.
pub const PERCENT_MAX: u8 = 100;

/// How a pack of this length is cut, with so many hundredths of parity; at least one part.
fn plan(pack: PackId, size: u64, percent: u8) -> Description {
    let part_len = size.div_ceil(PARTS).next_multiple_of(PART_MIN);
    let parts = size.div_ceil(part_len);
    let parity = (parts * u64::from(percent.min(PERCENT_MAX))).div_ceil(100).max(1);
    Description { pack, size, part_len: part_len as u32, parts: (parts as u32, parity as u32) }
}

const COMPUTING: &str = "computing parity";

fn trouble(doing: &'static str) -> impl Fn(reed_solomon_simd::Error) -> Error {
    move |e| Error::with_source(Fault::Bug, doing, e)
}

/// Bytes of the parity object of a pack of this length, with so many hundredths of parity.
pub fn len_of(size: u64, percent: u8) -> u64 {
    plan(PackId([0; 32]), size, percent).object_len() as u64
}

/// The parity object of a pack.
///
/// # Errors
/// `Bug` where the code refuses, which it has no reason to.
pub fn of_pack(pack: PackId, bytes: &[u8], percent: u8) -> Result<Vec<u8>> {
    let mut maker = Maker::new(pack, bytes.len() as u64, percent)?;
    maker.add(bytes)?;
    maker.finish()
}

/// Makes the parity object of a pack whose bytes come one after another.
pub struct Maker {
    plan: Description,
    encoder: ReedSolomonEncoder,
    sums: Vec<[u8; SUM_LEN]>,
    /// The beginning of a part.
    begun: Vec<u8>,
}

impl Maker {
    /// With so many hundredths of parity.
    ///
    /// # Errors
    /// As [`of_pack`].
    pub fn new(pack: PackId, size: u64, percent: u8) -> Result<Self> {
        Self::by(plan(pack, size, percent))
    }

    /// As a description says: that of a parity object that is there.
    ///
    /// # Errors
    /// As [`of_pack`].
    pub fn by(plan: Description) -> Result<Self> {
        let (parts, parity) = plan.parts;
        let encoder = ReedSolomonEncoder::new(parts as usize, parity as usize, plan.part_len as usize)
            .map_err(trouble(COMPUTING))?;
        Ok(Self { plan, encoder, sums: Vec::new(), begun: Vec::new() })
    }

    /// The next bytes of the pack.
    ///
    /// # Errors
    /// As [`of_pack`], also where it has more bytes than was said.
    pub fn add(&mut self, mut bytes: &[u8]) -> Result<()> {
        let len = self.plan.part_len as usize;
        if !self.begun.is_empty() {
            let more = bytes.len().min(len - self.begun.len());
            self.begun.extend_from_slice(&bytes[..more]);
            bytes = &bytes[more..];
            if self.begun.len() < len {
                return Ok(());
            }
            let part = std::mem::take(&mut self.begun);
            self.part(&part)?;
        }
        let parts = bytes.chunks_exact(len);
        self.begun.extend_from_slice(parts.remainder());
        parts.into_iter().try_for_each(|part| self.part(part))
    }

    fn part(&mut self, part: &[u8]) -> Result<()> {
        self.sums.push(sum(part));
        self.encoder.add_original_shard(part).map_err(trouble(COMPUTING))
    }

    /// The object, once all bytes were given.
    ///
    /// # Errors
    /// As [`of_pack`], also where they were not.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        if !self.begun.is_empty() {
            let mut part = std::mem::take(&mut self.begun);
            part.resize(self.plan.part_len as usize, 0);
            self.part(&part)?;
        }
        let coded = self.encoder.encode().map_err(trouble(COMPUTING))?;
        let parts: Vec<&[u8]> = coded.recovery_iter().collect();
        self.sums.extend(parts.iter().map(|p| sum(p)));
        Ok(encode(&self.plan, &self.sums, &parts))
    }
}

/// A pack as it was, from what is left of it (parts that could not be read may hold anything) and its parity object; with
/// the number of parts that were damaged.
///
/// # Errors
/// `Damaged` where more is damaged than the parity can heal, or it belongs to another pack.
pub fn heal(pack: PackId, mut bytes: Vec<u8>, object: &[u8]) -> Result<(Vec<u8>, usize)> {
    let parity = Parity::decode(object)?;
    let d = parity.description;
    if d.pack != pack {
        return Err(Error::damaged("the parity is of another pack"));
    }
    let (len, parts) = (d.part_len as usize, d.parts.0 as usize);
    bytes.resize(parts * len, 0);
    bytes[d.size as usize..].fill(0);
    let is_good = |number: usize, part: &[u8]| parity.sum(number).is_some_and(|s| s == sum(part));
    let bad: Vec<usize> =
        bytes.chunks(len).enumerate().filter(|(n, part)| !is_good(*n, part)).map(|(n, _)| n).collect();
    let whole: Vec<(usize, &[u8])> =
        parity.parts().enumerate().filter(|(n, part)| is_good(parts + n, part)).collect();
    if bad.len() > whole.len() {
        return Err(Error::damaged(format!(
            "{} of its {parts} parts are damaged, and its parity can heal {}",
            bad.len(),
            whole.len()
        )));
    }
    if !bad.is_empty() {
        let doing = trouble("healing by parity");
        let mut decoder = ReedSolomonDecoder::new(parts, d.parts.1 as usize, len).map_err(&doing)?;
        let mut next = bad.iter().peekable();
        for (n, part) in bytes.chunks(len).enumerate() {
            if next.next_if(|b| **b == n).is_none() {
                decoder.add_original_shard(n, part).map_err(&doing)?;
            }
        }
        for (n, part) in whole.iter().take(bad.len()) {
            decoder.add_recovery_shard(*n, part).map_err(&doing)?;
        }
        let decoded = decoder.decode().map_err(&doing)?;
        let healed: Vec<(usize, Vec<u8>)> =
            decoded.restored_original_iter().map(|(n, part)| (n, part.to_vec())).collect();
        drop(decoded);
        for (n, part) in healed {
            bytes[n * len..(n + 1) * len].copy_from_slice(&part);
        }
    }
    bytes.truncate(d.size as usize);
    match PackId::of_object(&bytes) == pack {
        true => Ok((bytes, bad.len())),
        false => Err(Error::damaged("it is not what its name says, also when it is healed by its parity")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn pack(len: usize) -> (PackId, Vec<u8>) {
        let mut bytes = vec![0; len];
        clock::random(&mut bytes);
        (PackId::of_object(&bytes), bytes)
    }

    #[test]
    fn as_much_is_healed_as_there_is_parity_wherever_it_lies() {
        for (len, percent, parity) in [(1, 5, 1), (65_536, 5, 1), (3 << 20, 5, 39), (100_000, 100, 25)] {
            let (id, bytes) = pack(len);
            let object = of_pack(id, &bytes, percent).unwrap();
            assert_eq!(Parity::decode(&object).unwrap().parts().count(), parity);
            assert_eq!(heal(id, bytes.clone(), &object).unwrap(), (bytes.clone(), 0));
            let parts = len.div_ceil(4096);
            let damaged = |count: usize| {
                let mut bad = bytes.clone();
                // Spread over all of it, no part twice.
                for n in 0..count {
                    bad[n * parts / count * 4096] ^= 0x40;
                }
                bad
            };
            let (healed, count) = heal(id, damaged(parity.min(parts)), &object).unwrap();
            assert!(healed == bytes && count == parity.min(parts), "{len}");
            if parity < parts {
                assert!(heal(id, damaged(parity + 1), &object).is_err(), "{len}");
            }
        }
    }

    #[test]
    fn bytes_that_come_in_pieces_make_the_same_parity() {
        for len in [1, 4096, 70_000] {
            let (id, bytes) = pack(len);
            let whole = of_pack(id, &bytes, 20).unwrap();
            assert_eq!(whole.len() as u64, len_of(len as u64, 20));
            for piece in [1, 100, 4095, 4097, 9000] {
                let mut maker = Maker::new(id, len as u64, 20).unwrap();
                bytes.chunks(piece).for_each(|piece| maker.add(piece).unwrap());
                assert!(maker.finish().unwrap() == whole, "{len} in pieces of {piece}");
            }
            let mut maker = Maker::new(id, len as u64, 20).unwrap();
            maker.add(&bytes[..len - 1]).unwrap();
            assert!(len % 4096 != 1 || maker.finish().is_err(), "a part is missing");
        }
    }

    #[test]
    fn a_pack_that_is_cut_short_is_healed_as_far() {
        let (id, bytes) = pack(1 << 20);
        let object = of_pack(id, &bytes, 10).unwrap();
        let cut = bytes[..bytes.len() - 100_000].to_vec();
        assert!(heal(id, cut, &object).unwrap().0 == bytes);
        assert!(heal(id, bytes[..bytes.len() / 2].to_vec(), &object).is_err());
        let longer = [&bytes[..], &[1; 5000]].concat();
        assert!(heal(id, longer, &object).unwrap().0 == bytes);
        assert!(heal(PackId([0; 32]), bytes, &object).is_err(), "it is of another pack");
    }

    #[test]
    fn parity_that_is_damaged_itself_heals_with_what_is_left_and_never_wrongly() {
        let (id, bytes) = pack(300_000);
        let object = of_pack(id, &bytes, 10).unwrap();
        let mut bad = bytes.clone();
        bad[0] ^= 1;
        for at in (0..object.len()).step_by(97).chain(0..200).chain(object.len() - 100..object.len()) {
            let mut hurt = object.clone();
            hurt[at] ^= 0x10;
            let (healed, _) = heal(id, bad.clone(), &hurt).unwrap();
            assert!(healed == bytes, "byte {at}");
        }
        for cut in [0, 7, 8, 100, object.len() - 1] {
            assert!(heal(id, bad.clone(), &object[..cut]).is_err(), "{cut}");
        }
    }
}
