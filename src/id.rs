//! Names of things: 32 bytes each, one type for each kind, so that they are never mixed.
//!
//! Objects of a repository are named by the BLAKE3 hash of their bytes; chunks by a *keyed*
//! BLAKE3 hash of their plaintext, so that a name tells nothing to who has no key.

use std::fmt;

/// Length of every id in bytes.
pub const ID_LEN: usize = 32;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; ID_LEN]);

        impl $name {
            /// The name of an object: the BLAKE3 hash of all its bytes.
            pub fn of_object(bytes: &[u8]) -> Self {
                Self(*blake3::hash(bytes).as_bytes())
            }
            /// From exactly 32 bytes.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                Some(Self(bytes.try_into().ok()?))
            }
            /// From exactly 64 lower-case hexadecimal digits.
            pub fn from_hex(text: &str) -> Option<Self> {
                let mut id = [0; ID_LEN];
                unhex(text, &mut id)?;
                Some(Self(id))
            }
            /// All 64 hexadecimal digits.
            pub fn hex(&self) -> String {
                hex(&self.0)
            }
            /// The first 8 hexadecimal digits, for people.
            pub fn short(&self) -> String {
                hex(&self.0[..4])
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.hex())
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }
    )*};
}

ids! {
    /// A chunk of data or of a tree: keyed BLAKE3 of its plaintext.
    ChunkId,
    /// A pack: BLAKE3 of the object.
    PackId,
    /// An index segment: BLAKE3 of the object.
    SegmentId,
    /// A snapshot: BLAKE3 of its manifest object.
    SnapshotId,
    /// A note: BLAKE3 of the object.
    NoteId,
    /// A key slot: BLAKE3 of the object.
    SlotId,
    /// A repository: random, drawn once by `init`.
    RepositoryId,
}

/// A session (one backup, replication or repair): 16 random bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub [u8; 16]);

impl SessionId {
    /// 32 lower-case hexadecimal digits.
    pub fn hex(&self) -> String {
        hex(&self.0)
    }
    /// From exactly 32 lower-case hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut id = [0; 16];
        unhex(text, &mut id)?;
        Some(Self(id))
    }
}
impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({})", hex(&self.0[..4]))
    }
}

/// Lower-case hexadecimal digits of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for b in bytes {
        text.push(DIGITS[usize::from(b >> 4)] as char);
        text.push(DIGITS[usize::from(b & 15)] as char);
    }
    text
}

/// Fills `out` from lower-case hexadecimal digits; `None` unless there are exactly enough.
fn unhex(text: &str, out: &mut [u8]) -> Option<()> {
    let digits = text.as_bytes();
    if digits.len() != out.len() * 2 {
        return None;
    }
    let value = |d: u8| match d {
        b'0'..=b'9' => Some(d - b'0'),
        b'a'..=b'f' => Some(d - b'a' + 10),
        _ => None,
    };
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_goes_there_and_back_and_refuses_the_rest() {
        let id = ChunkId([0xa5; 32]);
        assert_eq!(ChunkId::from_hex(&id.hex()), Some(id));
        assert_eq!(ChunkId::from_hex(&id.hex().to_uppercase()), None);
        assert_eq!(ChunkId::from_hex("a5"), None);
        assert_eq!(id.short(), "a5a5a5a5");
    }
}
