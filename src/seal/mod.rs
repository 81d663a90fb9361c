//! Cryptography and compression: bytes in, bytes out.
//!
//! This room knows no layout of any object. It offers
//!
//! - [`codec`]: compression of frames, and the one byte that says how,
//! - [`cipher`]: the AEADs: frames of a pack under the pack's own key, and single small objects,
//! - [`keys`]: the hierarchy of secrets and what is derived from them, and the names of chunks,
//! - [`hpke`]: a pack's key sealed to who may read (RFC 9180),
//! - [`sign`]: Ed25519 signatures bound to a purpose and a repository (RFC 8032),
//! - [`password`]: from a password or a key file to the key of a slot (RFC 9106).
//!
//! Whatever fails to authenticate is [`Fault::Damaged`] and
//! yields no bytes; the caller says which object it was. Secrets are wiped when dropped as far as
//! they lie in our own types; the expanded keys inside `ring` are not, as it has no means for it.

pub mod cipher;
pub mod codec;
pub mod hpke;
pub mod keys;
pub mod password;
pub mod sign;

pub use cipher::{Cipher, PackCipher, TAG_LEN, open_box, seal_box};
pub use codec::{Compression, Compressor, Decompressor, FRAME_RAW_MAX, FRAME_SEALED_MAX};
pub use hpke::{HPKE_OVERHEAD, open_from, seal_to};
pub use keys::{IdKeys, IdSecret, IndexKey, Kind, ReadingKey, Role, Root, SigningSeed};
pub use password::{Kdf, WrappingKey, key_file_wrapping_key, wrapping_key};
pub use sign::{PUBLIC_KEY_LEN, SIGNATURE_LEN, Signer, verify};

use crate::fault::{Error, Fault, Result};

/// Length of every symmetric key, X25519 key and Ed25519 seed in bytes.
pub const KEY_LEN: usize = 32;

/// `N` bytes from the operating system's generator (getrandom(2)).
///
/// # Errors
/// `Fault::Io` where the system has no randomness to give.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(no_randomness)?;
    Ok(bytes)
}

fn no_randomness(e: getrandom::Error) -> Error {
    Error::with_source(Fault::Io, "reading random bytes", e.to_string())
}

/// Compares in constant time: how long it takes tells nothing about where two keys differ.
fn equal(a: &[u8; KEY_LEN], b: &[u8; KEY_LEN]) -> bool {
    // `blake3::Hash` promises a constant-time comparison.
    blake3::Hash::from_bytes(*a) == blake3::Hash::from_bytes(*b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_bytes_differ_each_time() {
        assert_ne!(random::<32>().unwrap(), random::<32>().unwrap());
    }

    #[test]
    fn equal_means_all_32_bytes() {
        let a = [7; KEY_LEN];
        assert!(equal(&a, &a.clone()));
        for i in 0..KEY_LEN {
            let mut b = a;
            b[i] ^= 0x80;
            assert!(!equal(&a, &b));
        }
    }
}
