//! Compression of frames: one byte that names the codec, then the bytes.
//!
//! ```text
//! payload = 0 ‖ raw bytes
//!         | 1 ‖ one zstd frame (RFC 8878) without checksum
//! ```
//!
//! What does not shrink is stored raw. There is no checksum because the payload is authenticated
//! as a whole, and each chunk in it by its id.

use super::cipher::TAG_LEN;
use crate::fault::{Error, Fault, Result};

/// Most bytes that a frame holds before compression: the size of the largest chunk.
/// Checked before anything is allocated.
pub const FRAME_RAW_MAX: usize = 8 << 20;

/// Most bytes that a sealed frame takes in a pack: nothing is stored that grew, so it is the raw
/// bytes, the codec's byte and the tag.
pub const FRAME_SEALED_MAX: usize = FRAME_RAW_MAX + 1 + TAG_LEN;

/// Compressed is stored only where it saves this part of the raw length: less is not worth the
/// time that each reader would spend.
const WORTHWHILE: usize = 64;

const CODEC_RAW: u8 = 0;
const CODEC_ZSTD: u8 = 1;

/// zstd levels that are offered. Levels below 1 gain no speed over raw on our frames.
const LEVELS: std::ops::RangeInclusive<i32> = 1..=22;

/// How a writer compresses. Readers need not know: each payload says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all: for sources that mix secrets with what others write, where sizes would tell.
    None,
    /// zstd at this level, 1 (fast) to 22 (small).
    Zstd(i32),
}

impl Compression {
    /// For links and disks that are faster than the processor.
    pub const FAST: Self = Self::Zstd(1);
    /// For what is kept for long. Beyond 19 zstd needs windows larger than our frames, and gains nothing.
    pub const MAX: Self = Self::Zstd(19);
}

impl Default for Compression {
    /// zstd's own default level.
    fn default() -> Self {
        Self::Zstd(3)
    }
}

/// Compresses frames; keeps its memory from one to the next. One for each thread.
pub struct Compressor {
    zstd: Option<zstd::bulk::Compressor<'static>>,
    scratch: Vec<u8>,
}

impl Compressor {
    /// # Errors
    /// `Misuse` for a level that zstd does not have, `Full` or `Io` where it gets no memory.
    pub fn new(compression: Compression) -> Result<Self> {
        let zstd = match compression {
            Compression::None => None,
            Compression::Zstd(level) if LEVELS.contains(&level) => {
                Some(zstd::bulk::Compressor::new(level).map_err(|e| Error::io("starting zstd", e))?)
            }
            Compression::Zstd(level) => {
                return Err(Error::misuse(format!("choosing zstd level {level}: there are 1 to 22")));
            }
        };
        Ok(Self { zstd, scratch: Vec::new() })
    }

    /// The payload of `raw`, with room left for the cipher's tag.
    ///
    /// # Errors
    /// `Bug` if `raw` is longer than [`FRAME_RAW_MAX`]: nobody could read it back. `Io` if zstd fails.
    pub fn payload(&mut self, raw: &[u8]) -> Result<Vec<u8>> {
        if raw.len() > FRAME_RAW_MAX {
            return Err(Error::bug(format!("compressing a frame of {} bytes: too long", raw.len())));
        }
        if let Some(zstd) = &mut self.zstd
            && !is_noise(raw)
        {
            self.scratch.clear();
            self.scratch.reserve(zstd::zstd_safe::compress_bound(raw.len()));
            zstd.compress_to_buffer(raw, &mut self.scratch)
                .map_err(|e| Error::io("compressing a frame", e))?;
            let saved = raw.len().saturating_sub(self.scratch.len());
            if saved > 0 && saved * WORTHWHILE >= raw.len() {
                return Ok(coded(CODEC_ZSTD, &self.scratch));
            }
        }
        Ok(coded(CODEC_RAW, raw))
    }
}

/// How many places of a frame are looked at to tell whether it is noise, and how many bytes at each.
const SAMPLES: usize = 64;
const SAMPLE: usize = 64;
/// Chi squared of the counts of 4,096 sampled bytes, 16 of each value expected. Noise gives 255 on average with a deviation
/// of 22.6, and less than this in all but one of 10^8 frames; bytes whose distribution leaves 1/64 to gain give
/// 4096 * 2 ln 2 * 8/64 = 710 more than noise.
const NOISE_CHI_SQUARED: u32 = 255 + 135;
/// Different values in a sample of noise: 56.6 on average with a deviation of 2.4; text has 25, programs 35. So one sample
/// tells of a file of text between photos.
const NOISE_DIFFERENT: u32 = 45;

/// Whether `raw` looks like random bytes in all places: compressed or encrypted before. zstd would find nothing in it
/// but a repetition of itself, which deduplication finds better; trying costs 60 times as much as this look.
fn is_noise(raw: &[u8]) -> bool {
    if raw.len() < SAMPLES * SAMPLE {
        return false;
    }
    let mut counts = [0u32; 256];
    let step = (raw.len() - SAMPLE) / (SAMPLES - 1);
    for sample in (0..SAMPLES).map(|i| &raw[i * step..][..SAMPLE]) {
        let mut seen = [0u64; 4];
        for byte in sample {
            counts[usize::from(*byte)] += 1;
            seen[usize::from(byte >> 6)] |= 1 << (byte & 63);
        }
        if seen.iter().map(|s| s.count_ones()).sum::<u32>() < NOISE_DIFFERENT {
            return false;
        }
    }
    const EXPECTED: u32 = (SAMPLES * SAMPLE / 256) as u32;
    counts.iter().map(|n| n.abs_diff(EXPECTED).pow(2)).sum::<u32>() < NOISE_CHI_SQUARED * EXPECTED
}

fn coded(codec: u8, bytes: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(1 + bytes.len() + TAG_LEN);
    payload.push(codec);
    payload.extend_from_slice(bytes);
    payload
}

/// Undoes [`Compressor::payload`]. One for each thread.
pub struct Decompressor(zstd::bulk::Decompressor<'static>);

impl Decompressor {
    /// # Errors
    /// `Io` or `Full` where zstd gets no memory.
    pub fn new() -> Result<Self> {
        zstd::bulk::Decompressor::new().map(Self).map_err(|e| Error::io("starting zstd", e))
    }

    /// The raw bytes, which must be exactly `raw_len` as the pack's authenticated table says.
    /// No more than that is ever allocated.
    ///
    /// # Errors
    /// `Damaged` if the payload is anything else, or `raw_len` is over [`FRAME_RAW_MAX`]; `Newer`
    /// for a codec that this version does not know.
    pub fn raw(&mut self, payload: &[u8], raw_len: usize) -> Result<Vec<u8>> {
        if raw_len > FRAME_RAW_MAX {
            return Err(Error::damaged(format!("decompressing a frame to {raw_len} bytes: too long")));
        }
        let Some((&codec, bytes)) = payload.split_first() else {
            return Err(Error::damaged("decompressing a frame: it is empty"));
        };
        match codec {
            CODEC_RAW if bytes.len() == raw_len => Ok(bytes.to_vec()),
            CODEC_RAW => Err(wrong_length(bytes.len(), raw_len)),
            CODEC_ZSTD => {
                // Exactly one zstd frame: no second one, no skippable bytes, nothing behind it.
                if zstd::zstd_safe::find_frame_compressed_size(bytes) != Ok(bytes.len()) {
                    return Err(Error::damaged("decompressing a frame: it is not one zstd frame"));
                }
                let mut raw = Vec::with_capacity(raw_len);
                self.0
                    .decompress_to_buffer(bytes, &mut raw)
                    .map_err(|e| Error::with_source(Fault::Damaged, "decompressing a frame", e))?;
                if raw.len() != raw_len {
                    return Err(wrong_length(raw.len(), raw_len));
                }
                Ok(raw)
            }
            unknown => {
                Err(Error::new(Fault::Newer, format!("decompressing a frame: unknown codec {unknown}")))
            }
        }
    }
}

fn wrong_length(got: usize, promised: usize) -> Error {
    Error::damaged(format!("decompressing a frame: {got} bytes where {promised} were promised"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::random;

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    fn text(len: usize) -> Vec<u8> {
        b"to be or not to be, that is the question; ".iter().copied().cycle().take(len).collect()
    }

    #[test]
    fn what_goes_in_comes_out_at_every_length_and_level() {
        let mut out = Decompressor::new().unwrap();
        for compression in
            [Compression::None, Compression::Zstd(1), Compression::default(), Compression::Zstd(19)]
        {
            let mut pack = Compressor::new(compression).unwrap();
            for len in [0, 1, 2, 63, 64, 65, 4096, 100_000] {
                for raw in [text(len), noise(len)] {
                    let payload = pack.payload(&raw).unwrap();
                    assert!(payload.len() <= raw.len() + 1);
                    assert!(payload.capacity() >= payload.len() + TAG_LEN);
                    assert_eq!(out.raw(&payload, len).unwrap(), raw);
                }
            }
        }
    }

    #[test]
    fn what_does_not_shrink_is_stored_raw() {
        let mut pack = Compressor::new(Compression::default()).unwrap();
        assert_eq!(pack.payload(&noise(100_000)).unwrap()[0], CODEC_RAW);
        assert_eq!(pack.payload(&text(100_000)).unwrap()[0], CODEC_ZSTD);
        assert_eq!(pack.payload(b"").unwrap(), [CODEC_RAW]);
        // 1 % of zeros saves less than 1/64.
        let mut nearly = noise(100_000);
        nearly[..1000].fill(0);
        assert_eq!(pack.payload(&nearly).unwrap()[0], CODEC_RAW);
        nearly[..4000].fill(0);
        assert_eq!(pack.payload(&nearly).unwrap()[0], CODEC_ZSTD);
        assert_eq!(Compressor::new(Compression::None).unwrap().payload(&text(99)).unwrap()[0], CODEC_RAW);
    }

    #[test]
    fn noise_is_told_from_what_compresses_by_a_look() {
        let mut looks_like_noise = 0;
        for i in 0..200 {
            let mut raw = noise(64 << 10);
            raw.rotate_left(i * 300);
            looks_like_noise += usize::from(is_noise(&raw));
            // One byte in sixteen is known: 1/32 to gain.
            raw.iter_mut().step_by(16).for_each(|b| *b = 0);
            assert!(!is_noise(&raw), "{i}");
        }
        assert_eq!(looks_like_noise, 200);
        assert!(!is_noise(&text(64 << 10)));
        // A text of 24 KiB between photos is met, wherever it lies.
        for at in (0..488 << 10).step_by(4 << 10) {
            let mut mixed = noise(512 << 10);
            mixed[at..at + (24 << 10)].copy_from_slice(&text(24 << 10));
            assert_eq!(
                Compressor::new(Compression::default()).unwrap().payload(&mixed).unwrap()[0],
                CODEC_ZSTD
            );
        }
    }

    #[test]
    fn any_length_but_the_promised_is_refused() {
        let mut out = Decompressor::new().unwrap();
        for raw in [text(5000), noise(5000)] {
            let payload = Compressor::new(Compression::default()).unwrap().payload(&raw).unwrap();
            for promised in [0, 1, 4999, 5001, FRAME_RAW_MAX, FRAME_RAW_MAX + 1, usize::MAX] {
                assert_eq!(out.raw(&payload, promised).unwrap_err().fault(), Fault::Damaged);
            }
        }
    }

    #[test]
    fn too_long_a_frame_is_not_written() {
        let mut pack = Compressor::new(Compression::Zstd(1)).unwrap();
        let raw = vec![0; FRAME_RAW_MAX + 1];
        assert_eq!(pack.payload(&raw).unwrap_err().fault(), Fault::Bug);
        let payload = pack.payload(&raw[1..]).unwrap();
        assert_eq!(Decompressor::new().unwrap().raw(&payload, FRAME_RAW_MAX).unwrap(), &raw[1..]);
    }

    #[test]
    fn a_bomb_or_a_second_frame_is_refused() {
        let mut out = Decompressor::new().unwrap();
        let bomb = Compressor::new(Compression::Zstd(19)).unwrap().payload(&vec![0; FRAME_RAW_MAX]).unwrap();
        assert!(bomb.len() < 2000);
        assert_eq!(out.raw(&bomb, 4096).unwrap_err().fault(), Fault::Damaged);
        let one = Compressor::new(Compression::default()).unwrap().payload(&text(5000)).unwrap();
        let two = [&one[..], &one[1..]].concat();
        assert_eq!(out.raw(&two, 10_000).unwrap_err().fault(), Fault::Damaged);
        // An empty skippable frame (RFC 8878, 3.1.2) behind it.
        let skip = [&one[..], &[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]].concat();
        assert_eq!(out.raw(&skip, 5000).unwrap_err().fault(), Fault::Damaged);
        assert_eq!(out.raw(&one, 5000).unwrap(), text(5000));
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic() {
        let mut out = Decompressor::new().unwrap();
        assert_eq!(out.raw(&[], 0).unwrap_err().fault(), Fault::Damaged);
        assert_eq!(out.raw(&[2, 0], 1).unwrap_err().fault(), Fault::Newer);
        let good = Compressor::new(Compression::default()).unwrap().payload(&text(3000)).unwrap();
        for at in 1..good.len() {
            assert!(out.raw(&good[..at], 3000).is_err());
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                // Some flips still decompress (to other bytes, or to the same); none may panic.
                if let Ok(raw) = out.raw(&bad, 3000) {
                    assert_eq!(raw.len(), 3000);
                }
            }
        }
        for _ in 0..2000 {
            let mut payload = random::<64>().unwrap();
            payload[..5].copy_from_slice(&[1, 0x28, 0xb5, 0x2f, 0xfd]);
            let _ = out.raw(&payload, 1 << 16);
        }
    }

    #[test]
    fn levels_that_zstd_lacks_are_refused() {
        for level in [-5, 0, 23, i32::MAX] {
            assert_eq!(Compressor::new(Compression::Zstd(level)).err().unwrap().fault(), Fault::Misuse);
        }
    }
}
