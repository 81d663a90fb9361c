//! Secrets sealed to who may read: HPKE (RFC 9180), one suite, one mode.
//!
//! ```text
//! mode_psk (0x01)
//! KEM  0x0020  DHKEM(X25519, HKDF-SHA256)
//! KDF  0x0001  HKDF-SHA256
//! AEAD 0x0003  ChaCha20Poly1305
//! psk    = index key of the epoch
//! psk_id = "pastfs index key " ‖ epoch as u32, little-endian
//! sealed = enc (32 bytes) ‖ ciphertext ‖ tag (16 bytes), sequence number 0
//! ```
//!
//! The pre-shared key makes that only holders of a slot can seal: who holds the storage
//! and learns the public key cannot. It also keeps recorded X25519 exchanges from
//! falling to the storage alone, should X25519 fall.

use super::KEY_LEN;
use super::keys::{IndexKey, ReadingKey};
use crate::fault::{Error, Fault, Result};
use ::hpke::aead::ChaCha20Poly1305;
use ::hpke::kdf::HkdfSha256;
use ::hpke::kem::{Kem, X25519HkdfSha256};
use ::hpke::rand_core::{CryptoRng, TryCryptoRng, TryRng};
use ::hpke::{
    Deserializable, HpkeError, OpModeR, OpModeS, PskBundle, Serializable, single_shot_open,
    single_shot_seal_with_rng,
};
use std::convert::Infallible;
use zeroize::Zeroizing;

/// Length of `enc`, the ephemeral public key, in bytes.
const ENC_LEN: usize = 32;

/// By how much a sealed secret is longer than the secret, in bytes.
pub const HPKE_OVERHEAD: usize = ENC_LEN + super::TAG_LEN;

/// First part of the psk_id.
pub const PSK_ID: &[u8] = b"pastfs index key ";

/// Most bytes of `info`. RFC 9180, 7.2.1 allows implementations far more; ours are names of purposes
/// and ids, and the key schedule hashes them for each pack.
pub const INFO_MAX: usize = 4096;

type Recipient = <X25519HkdfSha256 as Kem>::PublicKey;
type Encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey;

/// Seals `secret` to the holder of the reading key with this public key. Only who knows the
/// index key of this epoch can seal or open.
///
/// # Errors
/// `Damaged` if `recipient` is no usable public key, `Io` without randomness, `Bug` if `info` is
/// longer than [`INFO_MAX`].
pub fn seal_to(
    recipient: &[u8; KEY_LEN],
    psk: &IndexKey,
    epoch: u32,
    info: &[u8],
    aad: &[u8],
    secret: &[u8],
) -> Result<Vec<u8>> {
    check_info(info)?;
    let mut rng = SystemRng { failure: None };
    let sealed = seal_with(recipient, psk.as_bytes(), &psk_id(epoch), info, aad, secret, &mut rng);
    match rng.failure {
        // What was sealed has a guessable ephemeral key: it goes no further.
        Some(failure) => Err(super::no_randomness(failure)),
        None => sealed.map_err(|e| Error::with_source(Fault::Damaged, "sealing to a reading key", e)),
    }
}

/// Opens what [`seal_to`] sealed.
///
/// # Errors
/// `Damaged` unless these bytes were sealed to this key with the same index key, epoch, info and
/// associated data; `Bug` if `info` is longer than [`INFO_MAX`].
pub fn open_from(
    recipient: &ReadingKey,
    psk: &IndexKey,
    epoch: u32,
    info: &[u8],
    aad: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>> {
    check_info(info)?;
    open_with(recipient, psk.as_bytes(), &psk_id(epoch), info, aad, sealed)
        .map_err(|e| Error::with_source(Fault::Damaged, "authenticating what was sealed to a reading key", e))
}

fn seal_with(
    recipient: &[u8; KEY_LEN],
    psk: &[u8],
    psk_id: &[u8],
    info: &[u8],
    aad: &[u8],
    secret: &[u8],
    rng: &mut impl CryptoRng,
) -> std::result::Result<Vec<u8>, HpkeError> {
    let mode = OpModeS::Psk(PskBundle::new(psk, psk_id)?);
    let recipient = Recipient::from_bytes(recipient)?;
    let (enc, text) = single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &mode, &recipient, info, secret, aad, rng,
    )?;
    let mut sealed = Vec::with_capacity(ENC_LEN + text.len());
    sealed.extend_from_slice(&enc.to_bytes());
    sealed.extend_from_slice(&text);
    Ok(sealed)
}

fn open_with(
    recipient: &ReadingKey,
    psk: &[u8],
    psk_id: &[u8],
    info: &[u8],
    aad: &[u8],
    sealed: &[u8],
) -> std::result::Result<Zeroizing<Vec<u8>>, HpkeError> {
    let (enc, text) = sealed.split_first_chunk::<ENC_LEN>().ok_or(HpkeError::OpenError)?;
    single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Psk(PskBundle::new(psk, psk_id)?),
        &recipient.private(),
        &Encapsulated::from_bytes(enc)?,
        info,
        text,
        aad,
    )
    .map(Zeroizing::new)
}

fn psk_id(epoch: u32) -> Vec<u8> {
    [PSK_ID, &epoch.to_le_bytes()].concat()
}

fn check_info(info: &[u8]) -> Result<()> {
    if info.len() > INFO_MAX {
        return Err(Error::bug(format!("sealing with an info of {} bytes: too long", info.len())));
    }
    Ok(())
}

/// The operating system's generator in the form that HPKE wants, which cannot report failure:
/// it is kept here and must be looked at.
struct SystemRng {
    failure: Option<getrandom::Error>,
}

impl TryRng for SystemRng {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> std::result::Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }
    fn try_next_u64(&mut self) -> std::result::Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> std::result::Result<(), Infallible> {
        if let Err(e) = getrandom::fill(bytes) {
            self.failure = Some(e);
        }
        Ok(())
    }
}
impl TryCryptoRng for SystemRng {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{ChunkId, hex};
    use crate::seal::keys::Root;

    /// Gives the same 32 bytes each time.
    struct Fixed([u8; 32]);
    impl TryRng for Fixed {
        type Error = Infallible;
        fn try_next_u32(&mut self) -> std::result::Result<u32, Infallible> {
            Ok(0)
        }
        fn try_next_u64(&mut self) -> std::result::Result<u64, Infallible> {
            Ok(0)
        }
        fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> std::result::Result<(), Infallible> {
            bytes.copy_from_slice(&self.0);
            Ok(())
        }
    }
    impl TryCryptoRng for Fixed {}

    fn unhex(text: &str) -> [u8; 32] {
        ChunkId::from_hex(text).unwrap().0
    }

    /// RFC 9180, A.2.2, sequence number 0.
    #[test]
    fn sealing_and_opening_agree_with_the_rfc() {
        let info = b"Ode on a Grecian Urn";
        let text = b"Beauty is truth, truth beauty";
        let psk = unhex("0247fd33b913760fa1fa51e1892d9f307fbe65eb171e8132c2af18555a738b82");
        let key = unhex("77d114e0212be51cb1d76fa99dd41cfd4d0166b08caa09074430a6c59ef17879");
        let reading = ReadingKey::from_slice(&key).unwrap();
        assert_eq!(
            hex(&reading.public()),
            "13640af826b722fc04feaa4de2f28fbd5ecc03623b317834e7ff4120dbe73062"
        );
        let mut rng = Fixed(unhex("35706a0b09fb26fb45c39c2f5079c709c7cf98e43afa973f14d88ece7e29c2e3"));
        let id = b"Ennyn Durin aran Moria";
        let sealed = seal_with(&reading.public(), &psk, id, info, b"Count-0", text, &mut rng).unwrap();
        assert_eq!(
            hex(&sealed),
            "2261299c3f40a9afc133b969a97f05e95be2c514e54f3de26cbe5644ac735b04\
             4a177f9c0d6f15cfdf533fb65bf84aecdc6ab16b8b85b4cf65a370e07fc1d78d28fb073214525276f4a89608ff"
        );
        assert_eq!(*open_with(&reading, &psk, id, info, b"Count-0", &sealed).unwrap(), text);
    }

    /// This value stands in the description of the format.
    #[test]
    fn a_sealed_secret_is_these_bytes_for_ever() {
        let reading = Root::from_slice(&std::array::from_fn::<u8, 32, _>(|i| i as u8)).unwrap().reading();
        let psk: [u8; 32] = std::array::from_fn(|i| 0x40 + i as u8);
        let secret: [u8; 32] = std::array::from_fn(|i| 0x60 + i as u8);
        let mut rng = Fixed(std::array::from_fn(|i| 0x80 + i as u8));
        let sealed =
            seal_with(&reading.public(), &psk, &psk_id(1), b"info", b"aad", &secret, &mut rng).unwrap();
        assert_eq!(
            hex(&sealed),
            "7af03df159e2d75751c1a88eb5a9e87988f138dce7596ebda3ad7f0bb04a87342153c27d3a52c232f610387f9497d54c\
             a62f886ed7334b8b36620936844ae8f2ed59f78521a9be7e11ad5c217e7d37cd"
        );
        let psk = IndexKey::from_slice(&psk).unwrap();
        assert_eq!(*open_from(&reading, &psk, 1, b"info", b"aad", &sealed).unwrap(), secret);
    }

    #[test]
    fn a_secret_opens_only_with_all_that_it_was_sealed_with() {
        let reading = Root::random().unwrap().reading();
        let psk = IndexKey::random().unwrap();
        let sealed = seal_to(&reading.public(), &psk, 7, b"info", b"aad", &[9; 32]).unwrap();
        assert_eq!(sealed.len(), 32 + HPKE_OVERHEAD);
        assert_eq!(*open_from(&reading, &psk, 7, b"info", b"aad", &sealed).unwrap(), [9; 32]);
        let refused = |result: Result<_>| assert_eq!(result.unwrap_err().fault(), Fault::Damaged);
        refused(open_from(&ReadingKey::random().unwrap(), &psk, 7, b"info", b"aad", &sealed));
        refused(open_from(&reading, &IndexKey::random().unwrap(), 7, b"info", b"aad", &sealed));
        refused(open_from(&reading, &psk, 8, b"info", b"aad", &sealed));
        refused(open_from(&reading, &psk, 7, b"inf0", b"aad", &sealed));
        refused(open_from(&reading, &psk, 7, b"", b"aad", &sealed));
        refused(open_from(&reading, &psk, 7, b"info", b"aaf", &sealed));
        refused(open_from(&reading, &psk, 7, b"info", b"", &sealed));
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            refused(open_from(&reading, &psk, 7, b"info", b"aad", &bad));
            refused(open_from(&reading, &psk, 7, b"info", b"aad", &sealed[..at]));
        }
    }

    #[test]
    fn two_seals_of_one_secret_differ() {
        let reading = Root::random().unwrap().reading();
        let psk = IndexKey::random().unwrap();
        let seal = || seal_to(&reading.public(), &psk, 1, b"", b"", b"secret").unwrap();
        assert_ne!(seal()[..32], seal()[..32]);
    }

    #[test]
    fn points_of_small_order_are_refused_both_ways() {
        let psk = IndexKey::random().unwrap();
        let sealed = seal_to(&[0; 32], &psk, 1, b"", b"", b"secret");
        assert_eq!(sealed.unwrap_err().fault(), Fault::Damaged);
        let opened = open_from(&ReadingKey::random().unwrap(), &psk, 1, b"", b"", &[0; 80]);
        assert_eq!(opened.unwrap_err().fault(), Fault::Damaged);
    }

    #[test]
    fn a_long_info_is_refused_and_never_a_panic() {
        let reading = Root::random().unwrap().reading();
        let psk = IndexKey::random().unwrap();
        let info = vec![0; 1 << 17];
        assert!(seal_to(&reading.public(), &psk, 1, &info, b"", b"x").is_err());
        assert!(open_from(&reading, &psk, 1, &info, b"", &[9; 80]).is_err());
        let sealed = seal_to(&reading.public(), &psk, 1, &info[..INFO_MAX], b"", b"x").unwrap();
        assert_eq!(*open_from(&reading, &psk, 1, &info[..INFO_MAX], b"", &sealed).unwrap(), b"x");
    }
}
