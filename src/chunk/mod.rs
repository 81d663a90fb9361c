//! Cuts a stream into chunks, so that the same bytes become the same chunks wherever they stand.
//!
//! The cut points follow FastCDC (Xia et al., "The Design of Fast Content-Defined Chunking for Data
//! Deduplication Based Storage Systems", IEEE TPDS 2020) with its tables altered by a secret seed.
//! They are part of the format: `tests/vectors/chunker.txt` holds them for a known input. The seed
//! hides cut points from who knows no key only loosely (it is one number XORed over a public table);
//! that is enough because chunks are never seen alone, they lie inside sealed frames.

use crate::fault::{Error, Result};
use crate::format::tree::CHUNK_MAX;
use fastcdc::v2020::{self, Normalization};
use std::io::{ErrorKind, Read};

// The default sizes. Per chunk we pay about 63 bytes in the local index, 40 in the store's index, 36
// in the tree's list of extents and 32 in the table of files: 171 bytes. Measured on 512 MiB of random
// bytes with 250 edits, four of five a page of 4 KiB overwritten, the fifth up to 100 bytes inserted:
//
//     min/avg/max KiB   mean chunk   stored again per edit   250 edits   171 bytes of a chunk are
//         8/32/128       38.9 KiB          56.6 KiB           14.5 MB           0.43 %
//        16/64/256       78.2 KiB         100.9 KiB           25.8 MB           0.21 %
//       32/128/512      156.7 KiB         186.8 KiB           47.8 MB           0.11 %
//
// The goal is at most 70 MB for such edits, lists of extents included, and an index under 1 %. The smallest is far
// from both, and makes the mount fastest: a random read decodes a whole frame, and a chunk lies in one frame. Bytes
// that are read at random lie in chunks of 98 KiB on average with the second line (large ones hold more of them), of
// 49 with the first. That costs 0.5 % in the store, as smaller frames compress less.
//
// On real data (benches/README.md) the average hardly changes what is stored at first, but what a later state adds; MB at
// 16, 32 and 64 KiB: the next kernel's source 10.9, 13.3, 14.9; a database after 300 random rows 11.7, 20.4, 31.9; mails and logs 0.6,
// 0.8, 1.2. Half of 32 KiB would double the index for that.

/// Smallest chunk that is cut by content, in bytes; only the end of a stream is smaller.
pub const DEFAULT_MIN: u32 = 8 << 10;
/// Size in bytes that cut points are drawn to.
pub const DEFAULT_AVG: u32 = 32 << 10;
/// Largest chunk in bytes: cut here if nothing in the content says so before.
pub const DEFAULT_MAX: u32 = 128 << 10;
/// Smallest fixed size in bytes: below a disk sector there is nothing to gain.
pub const FIXED_MIN: u32 = 512;
/// How many of the largest chunks the buffer of a [`Splitter`] holds: what is left over is moved to
/// the front once in so many chunks, so that copying costs a fraction of a byte per byte.
const BUFFERED: usize = 4;

/// How streams are cut, but for the seed: what the config and entries of trees record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Params {
    /// FastCDC 2020 with normalization level 1, the sizes in bytes.
    FastCdc {
        /// Smallest chunk, even, 64 bytes to 1 MiB.
        min: u32,
        /// Aimed at, even, 256 bytes to 4 MiB.
        avg: u32,
        /// Largest chunk, even, 1 KiB to [`CHUNK_MAX`].
        max: u32,
    },
    /// Every chunk has this many bytes ([`FIXED_MIN`] to [`CHUNK_MAX`]): for databases and disk
    /// images, which are written in pages that never move.
    Fixed {
        /// Size in bytes.
        size: u32,
    },
}

impl Default for Params {
    fn default() -> Self {
        Params::FastCdc { min: DEFAULT_MIN, avg: DEFAULT_AVG, max: DEFAULT_MAX }
    }
}

impl Params {
    const FASTCDC: u64 = 1;
    const FIXED: u64 = 2;

    /// The kind's number in the format.
    pub fn kind(&self) -> u64 {
        match self {
            Params::FastCdc { .. } => Self::FASTCDC,
            Params::Fixed { .. } => Self::FIXED,
        }
    }
    /// The sizes as the format has them: each 4 bytes, big-endian, in the order of the fields.
    pub fn parameters(&self) -> Vec<u8> {
        match self {
            Params::FastCdc { min, avg, max } => [*min, *avg, *max].map(u32::to_be_bytes).concat(),
            Params::Fixed { size } => size.to_be_bytes().to_vec(),
        }
    }
    /// Reads what [`Params::kind`] and [`Params::parameters`] gave. `Newer` for an unknown kind,
    /// `Damaged` for sizes out of range.
    pub fn from_parts(kind: u64, parameters: &[u8]) -> Result<Self> {
        let (sizes, rest) = parameters.as_chunks::<4>();
        let size = |i: usize| u32::from_be_bytes(sizes[i]);
        let params = match (kind, sizes.len(), rest.len()) {
            (Self::FASTCDC, 3, 0) => Params::FastCdc { min: size(0), avg: size(1), max: size(2) },
            (Self::FIXED, 1, 0) => Params::Fixed { size: size(0) },
            (Self::FASTCDC | Self::FIXED, ..) => {
                return Err(Error::damaged("a chunker's parameters have the wrong length"));
            }
            _ => {
                return Err(Error::new(
                    crate::fault::Fault::Newer,
                    format!("chunker kind {kind} is not known to this version"),
                ));
            }
        };
        params.check().map_err(|e| e.as_fault(crate::fault::Fault::Damaged))?;
        Ok(params)
    }
    /// `Misuse` when a size is out of range.
    pub fn check(&self) -> Result<()> {
        let right = match *self {
            Params::FastCdc { min, avg, max } => {
                let limits = |size: u32, low: usize, high: usize| {
                    (low..=high).contains(&(size as usize)) && size.is_multiple_of(2)
                };
                limits(min, v2020::MINIMUM_MIN, v2020::MINIMUM_MAX)
                    && limits(avg, v2020::AVERAGE_MIN, v2020::AVERAGE_MAX)
                    && limits(max, v2020::MAXIMUM_MIN, CHUNK_MAX)
                    && min <= avg
                    && avg <= max
            }
            Params::Fixed { size } => (FIXED_MIN..=CHUNK_MAX as u32).contains(&size),
        };
        if right { Ok(()) } else { Err(Error::misuse(format!("chunk sizes out of range: {self:?}"))) }
    }
    /// Largest chunk in bytes.
    pub fn max(&self) -> usize {
        match *self {
            Params::FastCdc { max, .. } => max as usize,
            Params::Fixed { size } => size as usize,
        }
    }
}

/// Parameters and seed, with the tables that follow from them: computed once, used for every file
/// and by any number of threads.
pub struct Chunker {
    params: Params,
    cut: Cut,
}

enum Cut {
    FastCdc { min: usize, avg: usize, max: usize, mask_s: u64, mask_l: u64, gear: Table, gear_ls: Table },
    Fixed { size: usize },
}

type Table = std::borrow::Cow<'static, [u64]>;

impl Chunker {
    /// `Misuse` when a size is out of range. The seed comes from the repository's keys; fixed sizes
    /// have no use for it.
    pub fn new(params: Params, seed: u64) -> Result<Self> {
        params.check()?;
        let cut = match params {
            Params::FastCdc { min, avg, max } => {
                let (mask_s, mask_l) = v2020::select_masks(avg as usize, Normalization::Level1);
                let (gear, gear_ls) = v2020::get_gear_with_seed(seed);
                Cut::FastCdc {
                    min: min as usize,
                    avg: avg as usize,
                    max: max as usize,
                    mask_s,
                    mask_l,
                    gear,
                    gear_ls,
                }
            }
            Params::Fixed { size } => Cut::Fixed { size: size as usize },
        };
        Ok(Self { params, cut })
    }
    /// What it was made from, but for the seed.
    pub fn params(&self) -> &Params {
        &self.params
    }
    /// Cuts what is in memory as one stream. No chunk is empty; no bytes give no chunk.
    pub fn split<'a>(&'a self, bytes: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = bytes;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let (chunk, after) = rest.split_at(self.first(rest));
            rest = after;
            Some(chunk)
        })
    }
    /// Length of the first chunk of `bytes`. `bytes` holds [`Params::max`] bytes, or all that are
    /// left of the stream. Between 1 and the length, but for no bytes.
    fn first(&self, bytes: &[u8]) -> usize {
        match &self.cut {
            Cut::FastCdc { min, avg, max, mask_s, mask_l, gear, gear_ls } => {
                v2020::cut_gear(
                    bytes,
                    *min,
                    *avg,
                    *max,
                    *mask_s,
                    *mask_l,
                    mask_s << 1,
                    mask_l << 1,
                    gear,
                    gear_ls,
                )
                .1
            }
            Cut::Fixed { size } => bytes.len().min(*size),
        }
    }
}

/// Cuts a stream as it is read, with the same cut points as [`Chunker::split`] has on all of it,
/// however many bytes each read gives.
pub struct Splitter<'c, R> {
    chunker: &'c Chunker,
    reader: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    ended: bool,
}

impl<'c, R: Read> Splitter<'c, R> {
    /// Nothing is read yet.
    pub fn new(chunker: &'c Chunker, reader: R) -> Self {
        let buffer = vec![0; chunker.params.max() * BUFFERED];
        Self { chunker, reader, buffer, start: 0, end: 0, ended: false }
    }
    /// The same for the next stream: keeps the buffer, which is dear compared with a small file.
    pub fn again<S: Read>(self, reader: S) -> Splitter<'c, S> {
        Splitter { chunker: self.chunker, reader, buffer: self.buffer, start: 0, end: 0, ended: false }
    }
    /// The next chunk, in a buffer that the next call overwrites; `None` at the end. After an error
    /// of the reader nothing is lost: the next call reads on.
    #[expect(clippy::should_implement_trait, reason = "lends its buffer, which an iterator cannot")]
    pub fn next(&mut self) -> std::io::Result<Option<&[u8]>> {
        let max = self.chunker.params.max();
        if self.end - self.start < max && !self.ended {
            self.fill(max)?;
        }
        if self.start == self.end {
            return Ok(None);
        }
        let at = self.start;
        self.start += self.chunker.first(&self.buffer[at..self.end]);
        Ok(Some(&self.buffer[at..self.start]))
    }
    /// The reader, for who wants to go on with it.
    pub fn reader(&mut self) -> &mut R {
        &mut self.reader
    }

    /// Reads until there are `wanted` bytes or no more.
    fn fill(&mut self, wanted: usize) -> std::io::Result<()> {
        if self.buffer.len() - self.start < wanted {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        while self.end - self.start < wanted {
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                Ok(n) => self.end += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Fault;

    /// `len` bytes that everybody can make: the BLAKE3 hash of the label, read on and on.
    fn bytes_of(label: &str, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(label.as_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }
    fn cut_points(chunker: &Chunker, bytes: &[u8]) -> Vec<usize> {
        chunker
            .split(bytes)
            .scan(0, |at, chunk| {
                *at += chunk.len();
                Some(*at)
            })
            .collect()
    }
    fn streamed<R: Read>(splitter: &mut Splitter<'_, R>) -> Vec<Vec<u8>> {
        let mut chunks = Vec::new();
        while let Some(chunk) = splitter.next().unwrap() {
            chunks.push(chunk.to_vec());
        }
        chunks
    }

    /// Reads as many bytes as it likes, and is interrupted now and then.
    struct Odd<'a>(&'a [u8], u64);
    impl Read for Odd<'_> {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            self.1 = self.1.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let chance = (self.1 >> 33) as usize;
            if chance.is_multiple_of(17) {
                return Err(ErrorKind::Interrupted.into());
            }
            let n = (chance % 30_011 + 1).min(out.len()).min(self.0.len());
            out[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    #[test]
    fn the_cut_points_are_those_of_the_golden_vectors() {
        const VECTORS: &str = include_str!("../../tests/vectors/chunker.txt");
        let mut seen = 0;
        for line in VECTORS.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()) {
            let f: Vec<&str> = line.split_whitespace().collect();
            let [label, len, kind, parameters, seed, cuts] = f[..] else { panic!("fields: {line}") };
            let parameters: Vec<u8> = (0..parameters.len() / 2)
                .map(|i| u8::from_str_radix(&parameters[2 * i..2 * i + 2], 16).unwrap())
                .collect();
            let params = Params::from_parts(kind.parse().unwrap(), &parameters).unwrap();
            let chunker = Chunker::new(params, u64::from_str_radix(seed, 16).unwrap()).unwrap();
            let bytes = match label {
                "zeros" => vec![0; len.parse().unwrap()],
                _ => bytes_of(label, len.parse().unwrap()),
            };
            let got: Vec<String> = cut_points(&chunker, &bytes).iter().map(usize::to_string).collect();
            assert_eq!(got.join(","), cuts, "{label} {params:?}");
            seen += 1;
        }
        assert!(seen >= 5);
    }

    #[test]
    fn the_seeded_cut_points_are_those_of_the_crate() {
        let bytes = bytes_of("crate", 3 << 20);
        let seed = 0x0123_4567_89ab_cdef;
        let chunker = Chunker::new(Params::default(), seed).unwrap();
        let theirs: Vec<usize> = v2020::FastCDC::with_level_and_seed(
            &bytes,
            DEFAULT_MIN as usize,
            DEFAULT_AVG as usize,
            DEFAULT_MAX as usize,
            Normalization::Level1,
            seed,
        )
        .map(|c| c.offset + c.length)
        .collect();
        assert_eq!(cut_points(&chunker, &bytes), theirs);
    }

    #[test]
    fn a_stream_is_cut_like_memory_whatever_the_reads_give() {
        for params in [
            Params::default(),
            Params::FastCdc { min: 64, avg: 256, max: 1024 },
            Params::Fixed { size: 4096 },
            Params::Fixed { size: 777 },
        ] {
            let chunker = Chunker::new(params, 42).unwrap();
            let mut splitter = None::<Splitter<'_, Odd<'_>>>;
            for len in [0, 1, 63, 64, 65, 1023, 1024, 1025, 262_143, 262_144, 262_145, 2_000_003] {
                let bytes = bytes_of("odd reads", len);
                // The buffer is used again, with what the last stream left in it.
                let bytes: &'static [u8] = bytes.leak();
                let mut s = match splitter.take() {
                    Some(s) => s.again(Odd(bytes, len as u64)),
                    None => Splitter::new(&chunker, Odd(bytes, len as u64)),
                };
                let whole: Vec<&[u8]> = chunker.split(bytes).collect();
                assert_eq!(streamed(&mut s), whole, "{len} bytes, {params:?}");
                assert!(s.next().unwrap().is_none());
                assert_eq!(whole.concat(), bytes);
                splitter = Some(s);
            }
        }
    }

    #[test]
    fn chunks_keep_their_limits_and_other_seeds_cut_elsewhere() {
        let bytes = bytes_of("limits", 8 << 20);
        let one = Chunker::new(Params::default(), 1).unwrap();
        let two = Chunker::new(Params::default(), 2).unwrap();
        let lens: Vec<usize> = one.split(&bytes).map(<[u8]>::len).collect();
        assert!(lens.iter().all(|l| *l <= DEFAULT_MAX as usize));
        assert!(lens[..lens.len() - 1].iter().all(|l| *l >= DEFAULT_MIN as usize));
        let (a, b) = (cut_points(&one, &bytes), cut_points(&two, &bytes));
        assert!(a.iter().filter(|p| b.contains(p)).count() <= 3);
    }

    #[test]
    fn small_edits_cost_what_the_table_beside_the_constants_says() {
        // 32 MiB with 40 edits: each costs a chunk and a half on average, far under the goal of 280 KiB.
        let mut bytes = bytes_of("edits", 32 << 20);
        let chunker = Chunker::new(Params::default(), 7).unwrap();
        let before: std::collections::HashSet<Vec<u8>> = chunker.split(&bytes).map(<[u8]>::to_vec).collect();
        for i in 0..40 {
            let at = i * 800_011 + 12_345;
            let news = bytes_of(&format!("edit {i}"), 4096);
            if i % 5 == 4 {
                bytes.splice(at..at, news[..11].iter().copied());
            } else {
                bytes[at..at + 4096].copy_from_slice(&news);
            }
        }
        let added: usize = chunker.split(&bytes).filter(|c| !before.contains(*c)).map(<[u8]>::len).sum();
        assert!(added / 40 < 90 << 10, "{} bytes for each edit", added / 40);
    }

    #[test]
    fn an_error_of_the_reader_loses_nothing() {
        struct Failing<'a>(&'a [u8], bool);
        impl Read for Failing<'_> {
            fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
                self.1 = !self.1;
                if self.1 { Err(std::io::Error::other("a bad sector")) } else { self.0.read(out) }
            }
        }
        let bytes = bytes_of("failing", 1 << 20);
        let chunker = Chunker::new(Params::default(), 3).unwrap();
        let mut splitter = Splitter::new(&chunker, Failing(&bytes, false));
        let (mut all, mut failures) = (Vec::new(), 0);
        loop {
            match splitter.next() {
                Ok(Some(chunk)) => all.extend_from_slice(chunk),
                Ok(None) => break,
                Err(_) => failures += 1,
            }
        }
        assert_eq!(all, bytes);
        assert!(failures > 0);
    }

    #[test]
    fn parameters_go_there_and_back_and_bad_ones_are_refused() {
        for p in [Params::default(), Params::Fixed { size: 16 << 10 }] {
            assert_eq!(Params::from_parts(p.kind(), &p.parameters()).unwrap(), p);
        }
        let fault = |kind, bytes: &[u8]| Params::from_parts(kind, bytes).unwrap_err().fault();
        assert_eq!(fault(3, &[]), Fault::Newer);
        assert_eq!(fault(1, &[0; 12]), Fault::Damaged);
        assert_eq!(fault(1, &[0; 11]), Fault::Damaged);
        assert_eq!(fault(2, &[0xff; 4]), Fault::Damaged);
        assert_eq!(fault(2, &[0; 8]), Fault::Damaged);
        let odd = Params::FastCdc { min: 65, avg: 256, max: 1024 };
        assert_eq!(Chunker::new(odd, 0).err().map(|e| e.fault()), Some(Fault::Misuse));
        let crossed = Params::FastCdc { min: 1024, avg: 512, max: 2048 };
        assert!(crossed.check().is_err());
        let over = Params::FastCdc { min: 1024, avg: 4096, max: CHUNK_MAX as u32 + 2 };
        assert!(over.check().is_err());
    }
}
