//! Authenticated encryption: frames of a pack, and single objects.
//!
//! **Frames.** Each pack has its own random key, and within it a nonce is the frame's number, so
//! that none repeats and frames cannot change places:
//!
//! ```text
//! XChaCha20-Poly1305   24-byte nonce = 16 zero bytes ‖ number as u64, little-endian
//! AES-256-GCM          12-byte nonce =  4 zero bytes ‖ number as u64, little-endian
//! ```
//!
//! XChaCha20 with such nonces is HChaCha20 once for the pack, and then plain ChaCha20-Poly1305 (RFC 8439):
//! this way the fastest implementation of that does the work, at the same bytes.
//!
//! **Boxes.** Single objects under long-lived keys: XChaCha20-Poly1305 with a random nonce,
//! which at 24 bytes never repeats (draft-irtf-cfrg-xchacha-03).

use super::{KEY_LEN, random};
use crate::fault::{Error, Result};
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use ring::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use std::fmt;
use zeroize::Zeroizing;

/// Length of the tag that both ciphers append, in bytes.
pub const TAG_LEN: usize = 16;

/// Length of the random nonce before a box, in bytes.
const BOX_NONCE_LEN: usize = 24;

/// By how much a box is longer than what is in it.
pub const BOX_OVERHEAD: usize = BOX_NONCE_LEN + TAG_LEN;

/// The cipher of a pack, as its header names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Cipher {
    /// The default: as fast on every processor, in constant time.
    #[default]
    XChaCha20Poly1305 = 1,
    /// Several times faster where the processor has AES instructions.
    Aes256Gcm = 2,
}

impl Cipher {
    /// The byte that names it.
    pub fn code(self) -> u8 {
        self as u8
    }
    /// The cipher of this byte; `None` for what this version does not know.
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::XChaCha20Poly1305),
            2 => Some(Self::Aes256Gcm),
            _ => None,
        }
    }
}

/// Seals and opens the frames of one pack. Usable from many threads at once.
pub struct PackCipher {
    cipher: Cipher,
    key: LessSafeKey,
}

impl PackCipher {
    /// `key` is random and serves this pack alone.
    pub fn new(cipher: Cipher, key: &[u8; KEY_LEN]) -> Self {
        let unbound = match cipher {
            Cipher::XChaCha20Poly1305 => {
                let input = [0u8; 16].into();
                let subkey = Zeroizing::new(chacha20::hchacha::<chacha20::R20>(&(*key).into(), &input).0);
                UnboundKey::new(&CHACHA20_POLY1305, &*subkey)
            }
            Cipher::Aes256Gcm => UnboundKey::new(&AES_256_GCM, key),
        };
        // The only cause of failure is another length.
        let key = LessSafeKey::new(unbound.expect("both ciphers take keys of 32 bytes"));
        Self { cipher, key }
    }

    /// Which cipher it is.
    pub fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// Appends `payload` to `out`, encrypted where it comes to lie, and the tag; gives the length of both. The same
    /// number must never be sealed twice under one key, unless with the same bytes.
    pub fn seal(&self, number: u64, aad: &[u8], payload: &[u8], out: &mut Vec<u8>) -> usize {
        let at = out.len();
        out.extend_from_slice(payload);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(number), Aad::from(aad), &mut out[at..])
            // The only cause of failure is a payload of more than 64 GiB.
            .expect("payloads are bounded by the length of a frame");
        out.extend_from_slice(tag.as_ref());
        out.len() - at
    }

    /// Decrypts in place; gives the payload, without the tag. After a failure the bytes in `sealed` are
    /// of no use.
    ///
    /// # Errors
    /// `Damaged` unless these bytes were sealed with this key, number and associated data.
    pub fn open<'a>(&self, number: u64, aad: &[u8], sealed: &'a mut [u8]) -> Result<&'a [u8]> {
        match self.key.open_in_place(nonce(number), Aad::from(aad), sealed) {
            Ok(payload) => Ok(payload),
            Err(_) => Err(Error::damaged(format!(
                "the seal of frame {number} is broken: it was damaged or altered"
            ))),
        }
    }
}

impl fmt::Debug for PackCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackCipher({:?})", self.cipher)
    }
}

fn nonce(number: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// Seals one object: nonce (24 random bytes) ‖ ciphertext ‖ tag.
///
/// # Errors
/// `Io` where the system has no randomness to give.
pub fn seal_box(key: &[u8; KEY_LEN], aad: &[u8], plain: &[u8]) -> Result<Vec<u8>> {
    Ok(seal_box_with(key, &random()?, aad, plain))
}

fn seal_box_with(key: &[u8; KEY_LEN], nonce: &[u8; BOX_NONCE_LEN], aad: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(BOX_OVERHEAD + plain.len());
    sealed.extend_from_slice(nonce);
    sealed.extend_from_slice(plain);
    let tag = XChaCha20Poly1305::new(&(*key).into())
        .encrypt_inout_detached(&(*nonce).into(), aad, (&mut sealed[BOX_NONCE_LEN..]).into())
        // The only cause of failure is a text of more than 256 GiB.
        .expect("objects are far shorter than the cipher allows");
    sealed.extend_from_slice(&tag);
    sealed
}

/// Opens what [`seal_box`] sealed.
///
/// # Errors
/// `Damaged` unless these bytes were sealed with this key and associated data.
pub fn open_box(key: &[u8; KEY_LEN], aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>> {
    let failed = || Error::damaged("its seal is broken: it was damaged or altered");
    let (nonce, rest) = sealed.split_first_chunk::<BOX_NONCE_LEN>().ok_or_else(failed)?;
    let (text, tag) = rest.split_last_chunk::<TAG_LEN>().ok_or_else(failed)?;
    let mut plain = text.to_vec();
    XChaCha20Poly1305::new(&(*key).into())
        .decrypt_inout_detached(&XNonce::from(*nonce), aad, plain.as_mut_slice().into(), &Tag::from(*tag))
        .map_err(|_| failed())?;
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Fault;
    use crate::id::hex;
    use chacha20poly1305::aead::{Aead, Payload};

    const BOTH: [Cipher; 2] = [Cipher::XChaCha20Poly1305, Cipher::Aes256Gcm];

    /// 00 01 02 ... 1f
    fn key() -> [u8; KEY_LEN] {
        std::array::from_fn(|i| i as u8)
    }

    fn sealed(pack: &PackCipher, number: u64, aad: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut out = b"before".to_vec();
        assert_eq!(pack.seal(number, aad, payload, &mut out), out.len() - 6);
        assert_eq!(out[..6], *b"before");
        out.split_off(6)
    }

    #[test]
    fn frames_come_back_in_both_ciphers() {
        for cipher in BOTH {
            let pack = PackCipher::new(cipher, &key());
            for len in [0, 1, 15, 16, 17, 1000, 100_000] {
                let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
                let mut sealed = sealed(&pack, len, b"header", &payload);
                assert_eq!(sealed.len(), payload.len() + TAG_LEN);
                assert_eq!(pack.open(len, b"header", &mut sealed).unwrap(), payload);
            }
        }
    }

    #[test]
    fn each_flipped_bit_and_each_cut_fails() {
        for cipher in BOTH {
            let pack = PackCipher::new(cipher, &key());
            let sealed = sealed(&pack, 3, b"header", b"twenty bytes of text");
            for bit in 0..sealed.len() * 8 {
                let mut bad = sealed.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(pack.open(3, b"header", &mut bad).unwrap_err().fault(), Fault::Damaged);
            }
            for len in 0..sealed.len() {
                assert!(pack.open(3, b"header", &mut sealed.clone()[..len]).is_err());
            }
        }
    }

    #[test]
    fn a_frame_opens_only_at_its_number_and_under_its_header_key_and_cipher() {
        for (cipher, other) in [(BOTH[0], BOTH[1]), (BOTH[1], BOTH[0])] {
            let pack = PackCipher::new(cipher, &key());
            let sealed = sealed(&pack, 3, b"header", b"text");
            for number in [0, 1, 2, 4, 3 << 8, 3 << 32, 3 | 1 << 63, u64::MAX] {
                assert!(pack.open(number, b"header", &mut sealed.clone()).is_err());
            }
            assert!(pack.open(3, b"heades", &mut sealed.clone()).is_err());
            assert!(pack.open(3, b"", &mut sealed.clone()).is_err());
            assert!(PackCipher::new(cipher, &[9; 32]).open(3, b"header", &mut sealed.clone()).is_err());
            assert!(PackCipher::new(other, &key()).open(3, b"header", &mut sealed.clone()).is_err());
            assert!(pack.open(3, b"header", &mut sealed.clone()).is_ok());
        }
    }

    #[test]
    fn frames_are_xchacha20_poly1305_with_the_number_in_a_24_byte_nonce() {
        let pack = PackCipher::new(Cipher::XChaCha20Poly1305, &key());
        let reference = XChaCha20Poly1305::new(&key().into());
        for number in [0, 1, 0x0102_0304_0506_0708, u64::MAX] {
            let mut nonce = [0; 24];
            nonce[16..].copy_from_slice(&number.to_le_bytes());
            let payload = Payload { msg: b"some text of a frame", aad: b"header" };
            let expected = reference.encrypt(&nonce.into(), payload).unwrap();
            assert_eq!(sealed(&pack, number, b"header", b"some text of a frame"), expected);
        }
    }

    /// These bytes stand in the description of the format.
    #[test]
    fn sealed_frames_are_these_bytes_for_ever() {
        let seal = |cipher| hex(&sealed(&PackCipher::new(cipher, &key()), 7, b"pastfs", b"hello, frame"));
        assert_eq!(
            seal(Cipher::XChaCha20Poly1305),
            "a90e4d1ee02f6efab88bd69e17a2c74577067b58889574d735d5a671"
        );
        assert_eq!(seal(Cipher::Aes256Gcm), "90c1918922db27e5666b18d7376d995c104bed7bd917fb4f0ef526c5");
    }

    /// draft-irtf-cfrg-xchacha-03, A.3.1.
    #[test]
    fn boxes_agree_with_the_draft() {
        let key = std::array::from_fn(|i| 0x80 + i as u8);
        let nonce = std::array::from_fn(|i| 0x40 + i as u8);
        let aad = [0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7];
        let text = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for \
                     the future, sunscreen would be it.";
        let sealed = seal_box_with(&key, &nonce, &aad, text);
        assert_eq!(sealed[..24], nonce);
        assert_eq!(hex(&sealed[24..40]), "bd6d179d3e83d43b9576579493c0e939");
        assert_eq!(hex(&sealed[sealed.len() - 16..]), "c0875924c1c7987947deafd8780acf49");
        assert_eq!(open_box(&key, &aad, &sealed).unwrap(), text);
    }

    #[test]
    fn boxes_open_unharmed_only() {
        let sealed = seal_box(&key(), b"purpose", b"small object").unwrap();
        assert_eq!(sealed.len(), 12 + BOX_OVERHEAD);
        assert_eq!(open_box(&key(), b"purpose", &sealed).unwrap(), b"small object");
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open_box(&key(), b"purpose", &bad).unwrap_err().fault(), Fault::Damaged);
        }
        for len in 0..sealed.len() {
            assert!(open_box(&key(), b"purpose", &sealed[..len]).is_err());
        }
        assert!(open_box(&key(), b"another", &sealed).is_err());
        assert!(open_box(&[1; 32], b"purpose", &sealed).is_err());
        let again = seal_box(&key(), b"purpose", b"small object").unwrap();
        assert_ne!(sealed, again, "nonces are drawn anew");
    }

    #[test]
    fn ciphers_are_named_by_their_byte() {
        for cipher in BOTH {
            assert_eq!(Cipher::from_code(cipher.code()), Some(cipher));
        }
        assert_eq!((Cipher::from_code(0), Cipher::from_code(3)), (None, None));
    }
}
