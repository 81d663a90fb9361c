//! Where the choices of a life come from: a seed, or the bytes of a script, as a fuzzer makes and cuts them.

use crate::suite::scene::Draw;

/// One choice after the other.
pub enum Choices {
    /// Without an end.
    Drawn(Draw),
    /// Each byte is a choice; behind the last one all are 0.
    Written { bytes: Vec<u8>, at: usize },
}

impl Choices {
    pub fn seed(seed: u64) -> Self {
        Self::Drawn(Draw(seed))
    }
    pub fn script(bytes: &[u8]) -> Self {
        Self::Written { bytes: bytes.to_vec(), at: 0 }
    }

    /// One of the numbers below `n`. A script says in one byte which 256th it is.
    pub fn below(&mut self, n: u64) -> u64 {
        match self {
            Self::Drawn(draw) => draw.next() % n,
            Self::Written { bytes, at } => {
                let byte = u64::from(bytes.get(*at).copied().unwrap_or(0));
                *at += 1;
                if n <= 256 { byte % n } else { byte * n / 256 }
            }
        }
    }

    /// Bytes that do not compress, and differ from one choice to the next.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        match self {
            Self::Drawn(draw) => draw.bytes(len),
            Self::Written { at, .. } => Draw(*at as u64).bytes(len),
        }
    }

    /// Whether there is nothing left to go by.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Written { bytes, at } if *at >= bytes.len())
    }
}
