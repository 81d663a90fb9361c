//! From a password or a key file to the key that wraps a slot's secrets.
//!
//! ```text
//! wrapping key = Argon2id (RFC 9106, version 0x13) of password and salt, 32 bytes
//!              | derive_key("pastfs v1 key file", 32 bytes of the file ‖ salt)
//! commitment   = derive_key("pastfs v1 slot commitment", wrapping key)
//! sealing key  = derive_key("pastfs v1 slot sealing", wrapping key)
//! ```
//!
//! The slot shows the commitment. It says whether the password is right before anything is opened,
//! and ties the slot to one key: XChaCha20-Poly1305 alone would let one ciphertext open under two.
//! It tells nothing of the sealing key.

use super::{KEY_LEN, equal, open_box, random, seal_box};
use crate::fault::{Error, Fault, Result};
use argon2::{Algorithm, Argon2, Params, Version};
use std::fmt;
use std::ops::RangeInclusive;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Length of a salt in bytes, as RFC 9106, 3.1 recommends.
pub const SALT_LEN: usize = 16;

/// Length of a key file in bytes.
pub const KEY_FILE_LEN: usize = 32;

/// Memory that a slot may ask for, in KiB: 8 KiB is the least that Argon2 has, 1 GiB the most that
/// a small machine can be asked to give.
pub const M_KIB: RangeInclusive<u32> = 8..=1 << 20;
/// Passes that a slot may ask for: with the most memory they are over within a minute.
pub const T: RangeInclusive<u32> = 1..=16;
/// Lanes that a slot may ask for. Each needs 8 KiB of memory.
pub const P: RangeInclusive<u32> = 1..=16;

/// From a key file and its salt: the wrapping key.
pub const CONTEXT_KEY_FILE: &str = "pastfs v1 key file";
/// From the wrapping key: what the slot shows.
pub const CONTEXT_COMMITMENT: &str = "pastfs v1 slot commitment";
/// From the wrapping key: what seals the slot's secrets.
pub const CONTEXT_SEALING: &str = "pastfs v1 slot sealing";

/// Parameters of Argon2id, as a slot shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kdf {
    /// Memory in KiB.
    pub m_kib: u32,
    /// Passes.
    pub t: u32,
    /// Lanes.
    pub p: u32,
    /// Random, for each slot anew.
    pub salt: [u8; SALT_LEN],
}

impl Kdf {
    /// What new slots get, with a salt of their own: 64 MiB, 3 passes, 1 lane (about 0.2 s). This is
    /// RFC 9106's choice for little memory, on one thread: a mount is to stay under 256 MiB at its peak.
    ///
    /// # Errors
    /// `Io` where the system has no randomness to give.
    pub fn new() -> Result<Self> {
        Ok(Self { m_kib: 64 << 10, t: 3, p: 1, salt: random()? })
    }

    /// Checks the bounds; allocates nothing. Whoever reads parameters from storage calls it first.
    ///
    /// # Errors
    /// `Damaged` for parameters that no slot may have.
    pub fn check(&self) -> Result<()> {
        let Self { m_kib, t, p, .. } = *self;
        if M_KIB.contains(&m_kib) && T.contains(&t) && P.contains(&p) && m_kib >= 8 * p {
            return Ok(());
        }
        Err(Error::damaged(format!("deriving a key with {m_kib} KiB, {t} passes, {p} lanes: out of bounds")))
    }
}

/// The key of a password.
///
/// # Errors
/// `Damaged` for parameters out of bounds, `Full` if the memory is not to be had.
pub fn wrapping_key(kdf: &Kdf, password: &[u8]) -> Result<WrappingKey> {
    kdf.check()?;
    let failed = |e: argon2::Error| {
        let fault = if e == argon2::Error::OutOfMemory { Fault::Full } else { Fault::Misuse };
        Error::with_source(fault, "deriving a key from the password", e.to_string())
    };
    let params = Params::new(kdf.m_kib, kdf.t, kdf.p, Some(KEY_LEN)).map_err(failed)?;
    let mut key = WrappingKey([0; KEY_LEN]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(password, &kdf.salt, &mut key.0)
        .map_err(failed)?;
    Ok(key)
}

/// The key of a key file, which is random already: one hash is enough.
///
/// # Errors
/// `Misuse` unless the file holds exactly [`KEY_FILE_LEN`] bytes.
pub fn key_file_wrapping_key(file: &[u8], salt: &[u8; SALT_LEN]) -> Result<WrappingKey> {
    if file.len() != KEY_FILE_LEN {
        return Err(Error::misuse(format!("reading a key file: {} bytes, not {KEY_FILE_LEN}", file.len())));
    }
    let mut input = Zeroizing::new([0; KEY_FILE_LEN + SALT_LEN]);
    input[..KEY_FILE_LEN].copy_from_slice(file);
    input[KEY_FILE_LEN..].copy_from_slice(salt);
    Ok(WrappingKey(blake3::derive_key(CONTEXT_KEY_FILE, &*input)))
}

/// The key that wraps a slot's secrets. Wiped when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct WrappingKey([u8; KEY_LEN]);

impl WrappingKey {
    /// What the slot shows of this key.
    pub fn commitment(&self) -> [u8; KEY_LEN] {
        blake3::derive_key(CONTEXT_COMMITMENT, &self.0)
    }

    /// Whether a slot that shows this commitment was made with this key; in constant time.
    pub fn opens(&self, commitment: &[u8; KEY_LEN]) -> bool {
        equal(&self.commitment(), commitment)
    }

    /// Seals the secrets of a slot; all its other fields, and the commitment, belong into `aad`.
    ///
    /// # Errors
    /// `Io` where the system has no randomness to give.
    pub fn seal(&self, aad: &[u8], secrets: &[u8]) -> Result<Vec<u8>> {
        seal_box(&self.sealing(), aad, secrets)
    }

    /// The secrets of a slot.
    ///
    /// # Errors
    /// `Damaged` unless they were sealed with this key and associated data.
    pub fn open(&self, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        open_box(&self.sealing(), aad, sealed).map(Zeroizing::new)
    }

    fn sealing(&self) -> Zeroizing<[u8; KEY_LEN]> {
        Zeroizing::new(blake3::derive_key(CONTEXT_SEALING, &self.0))
    }
}

impl fmt::Debug for WrappingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WrappingKey(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::hex;
    use argon2::{AssociatedData, ParamsBuilder};

    const SALT: [u8; SALT_LEN] = *b"sixteen byte old";

    fn small() -> Kdf {
        Kdf { m_kib: 64, t: 2, p: 1, salt: SALT }
    }

    /// RFC 9106, 5.3. Secret and associated data are not ours, so this asks the crate itself.
    #[test]
    fn argon2id_agrees_with_the_rfc() {
        let params = ParamsBuilder::new()
            .m_cost(32)
            .t_cost(3)
            .p_cost(4)
            .data(AssociatedData::new(&[4; 12]).unwrap())
            .build();
        let argon2 =
            Argon2::new_with_secret(&[3; 8], Algorithm::Argon2id, Version::V0x13, params.unwrap()).unwrap();
        let mut out = [0; 32];
        argon2.hash_password_into(&[1; 32], &[2; 16], &mut out).unwrap();
        assert_eq!(hex(&out), "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659");
    }

    /// These values stand in the description of the format.
    #[test]
    fn derivations_give_these_values_for_ever() {
        let one = wrapping_key(&small(), b"correct horse").unwrap();
        let four = wrapping_key(&Kdf { t: 1, p: 4, ..small() }, b"correct horse").unwrap();
        let file: [u8; 32] = std::array::from_fn(|i| i as u8);
        let file = key_file_wrapping_key(&file, &SALT).unwrap();
        let got = [
            hex(&one.0),
            hex(&one.commitment()),
            hex(&*one.sealing()),
            hex(&four.0),
            hex(&file.0),
            hex(&file.commitment()),
            hex(&*file.sealing()),
        ];
        let want = [
            "7264907ca6297745938eb60f1b57dfa805958ed6705fac25b63f3448f163a4e3",
            "7d3d9fa1df36fa618a1043a24220c66030acaa2bb6794978571f29812f2ded40",
            "15d3e18437b5d9cd3029818a53c1b15c408f7be28b5095327bd2dd34866531d1",
            "646de65ac380512f1556f1cf372fe41f128d182b04eaf5c126c91dc042f577b9",
            "5453c84f830e9bdd9d4d441169abe07dc64826ca470a6a2438461d3eccc57b55",
            "b153336f661bcb2666d2b421c87271fae083636cbd0f50736c7fe58a3f03129b",
            "4fe0153631b529f4e103328c6e1fe48afdf5438f31fd08cdc72f2d65e8e426e9",
        ];
        assert_eq!(got, want);
    }

    #[test]
    fn parameters_out_of_bounds_are_refused_before_any_work() {
        let good = small();
        let bad = [
            Kdf { m_kib: 7, ..good },
            Kdf { m_kib: 0, ..good },
            Kdf { m_kib: (1 << 20) + 1, ..good },
            Kdf { m_kib: u32::MAX, ..good },
            Kdf { t: 0, ..good },
            Kdf { t: 17, ..good },
            Kdf { t: u32::MAX, ..good },
            Kdf { p: 0, ..good },
            Kdf { p: 17, m_kib: 1 << 20, ..good },
            Kdf { p: u32::MAX, ..good },
            Kdf { p: 9, m_kib: 71, ..good },
        ];
        for kdf in bad {
            assert_eq!(wrapping_key(&kdf, b"password").unwrap_err().fault(), Fault::Damaged, "{kdf:?}");
        }
        assert!(wrapping_key(&Kdf { m_kib: 8, t: 1, ..good }, b"").is_ok());
        assert!(wrapping_key(&Kdf { p: 9, m_kib: 72, t: 1, ..good }, b"password").is_ok());
        assert!(Kdf { m_kib: 1 << 20, t: 16, p: 16, ..good }.check().is_ok());
    }

    #[test]
    fn new_slots_get_64_mib_3_passes_and_a_salt_of_their_own() {
        let kdf = Kdf::new().unwrap();
        assert_eq!((kdf.m_kib, kdf.t, kdf.p), (65536, 3, 1));
        assert!(kdf.check().is_ok());
        assert_ne!(kdf.salt, Kdf::new().unwrap().salt);
    }

    #[test]
    fn a_key_depends_on_password_salt_and_each_parameter() {
        let key = |kdf: Kdf, password: &[u8]| hex(&wrapping_key(&kdf, password).unwrap().0);
        let keys = [
            key(small(), b"password"),
            key(small(), b"passwort"),
            key(Kdf { salt: [0; 16], ..small() }, b"password"),
            key(Kdf { m_kib: 72, ..small() }, b"password"),
            key(Kdf { t: 3, ..small() }, b"password"),
            key(Kdf { p: 2, ..small() }, b"password"),
        ];
        assert_eq!(keys.iter().collect::<std::collections::HashSet<_>>().len(), keys.len());
    }

    #[test]
    fn a_slot_opens_with_its_key_and_fields_only() {
        let key = key_file_wrapping_key(&[1; 32], &SALT).unwrap();
        let other = key_file_wrapping_key(&[2; 32], &SALT).unwrap();
        assert!(key.opens(&key.commitment()));
        assert!(!key.opens(&other.commitment()));
        let sealed = key.seal(b"fields", b"secrets").unwrap();
        assert_eq!(*key.open(b"fields", &sealed).unwrap(), b"secrets");
        assert_eq!(key.open(b"field", &sealed).unwrap_err().fault(), Fault::Damaged);
        assert_eq!(other.open(b"fields", &sealed).unwrap_err().fault(), Fault::Damaged);
        assert_eq!(format!("{key:?}"), "WrappingKey(secret)");
    }

    #[test]
    fn a_key_file_is_32_bytes_no_more_and_no_less() {
        for len in [0, 31, 33, 64] {
            assert_eq!(key_file_wrapping_key(&vec![0; len], &SALT).unwrap_err().fault(), Fault::Misuse);
        }
    }
}
