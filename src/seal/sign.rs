//! Signatures: Ed25519 (RFC 8032), each bound to a purpose and to one repository.
//!
//! ```text
//! signed message = context ‖ 0x00 ‖ repository id (32 bytes) ‖ body
//! ```
//!
//! The context is a fixed text without zero bytes, so that a signature for one purpose, or in one
//! repository, never serves another.

use crate::id::{ID_LEN, RepositoryId};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use std::fmt;

/// Length of an Ed25519 public key in bytes.
pub const PUBLIC_KEY_LEN: usize = 32;

/// Length of an Ed25519 signature in bytes.
pub const SIGNATURE_LEN: usize = 64;

/// Signs for one key. Usable from many threads at once.
pub struct Signer {
    pair: Ed25519KeyPair,
    public: [u8; PUBLIC_KEY_LEN],
}

impl Signer {
    /// From the 32 bytes that RFC 8032 calls the private key.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        // The only cause of failure is another length.
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are a seed");
        let mut public = [0; PUBLIC_KEY_LEN];
        public.copy_from_slice(pair.public_key().as_ref());
        Self { pair, public }
    }

    /// The public key, by which others verify.
    pub fn public(&self) -> [u8; PUBLIC_KEY_LEN] {
        self.public
    }

    /// Signs `body` for one purpose in one repository. Equal input gives equal signatures.
    pub fn sign(&self, context: &str, repository: &RepositoryId, body: &[u8]) -> [u8; SIGNATURE_LEN] {
        let mut signature = [0; SIGNATURE_LEN];
        signature.copy_from_slice(self.pair.sign(&message(context, repository, body)).as_ref());
        signature
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", crate::id::hex(&self.public[..4]))
    }
}

/// Whether the holder of `public` signed `body` for this purpose in this repository. Public keys
/// and signatures of another length are simply not valid.
pub fn verify(
    public: &[u8],
    context: &str,
    repository: &RepositoryId,
    body: &[u8],
    signature: &[u8],
) -> bool {
    UnparsedPublicKey::new(&ED25519, public).verify(&message(context, repository, body), signature).is_ok()
}

fn message(context: &str, repository: &RepositoryId, body: &[u8]) -> Vec<u8> {
    debug_assert!(!context.contains('\0'), "a context ends at its zero byte");
    let mut message = Vec::with_capacity(context.len() + 1 + ID_LEN + body.len());
    message.extend_from_slice(context.as_bytes());
    message.push(0);
    message.extend_from_slice(&repository.0);
    message.extend_from_slice(body);
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{ChunkId, hex};

    const HERE: RepositoryId = RepositoryId([0xaa; 32]);

    fn signer() -> Signer {
        Signer::from_seed(&std::array::from_fn(|i| i as u8))
    }

    /// RFC 8032, 7.1, test 1.
    #[test]
    fn keys_and_signatures_agree_with_the_rfc() {
        let seed =
            ChunkId::from_hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60").unwrap();
        let signer = Signer::from_seed(&seed.0);
        assert_eq!(hex(&signer.public()), "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        assert_eq!(
            hex(signer.pair.sign(b"").as_ref()),
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b\
             d25bf5f0595bbe24655141438e7a100b"
        );
    }

    /// This value stands in the description of the format.
    #[test]
    fn a_signature_is_these_bytes_for_ever() {
        assert_eq!(
            hex(&signer().sign("pastfs v1 test", &HERE, b"hello, body")),
            "16e0ad77cf972a6a15c029ee92a829e01a47358323aa654d25cfb300796c7bbaf713f321b8742dcd42c33a8d6202d99f\
             d9265483ef4dd75c8267a3b7ec4d1b05"
        );
    }

    #[test]
    fn a_signature_holds_for_its_key_purpose_repository_and_body_only() {
        let signer = signer();
        let public = signer.public();
        let good = signer.sign("purpose", &HERE, b"body");
        assert!(verify(&public, "purpose", &HERE, b"body", &good));
        assert!(!verify(&public, "purposes", &HERE, b"body", &good));
        assert!(!verify(&public, "", &HERE, b"body", &good));
        assert!(!verify(&public, "purpose", &RepositoryId([0xab; 32]), b"body", &good));
        assert!(!verify(&public, "purpose", &HERE, b"bodY", &good));
        assert!(!verify(&public, "purpose", &HERE, b"", &good));
        assert!(!verify(&Signer::from_seed(&[1; 32]).public(), "purpose", &HERE, b"body", &good));
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!verify(&public, "purpose", &HERE, b"body", &bad));
        }
    }

    #[test]
    fn odd_lengths_are_invalid_and_never_a_panic() {
        let signer = signer();
        let good = signer.sign("purpose", &HERE, b"body");
        assert!(!verify(&signer.public(), "purpose", &HERE, b"body", &good[..63]));
        assert!(!verify(&signer.public(), "purpose", &HERE, b"body", &[]));
        assert!(!verify(&signer.public()[..31], "purpose", &HERE, b"body", &good));
        assert!(!verify(&[0xff; 32], "purpose", &HERE, b"body", &good));
        assert!(!verify(&[], "purpose", &HERE, b"body", &good));
    }

    #[test]
    fn a_signer_prints_its_public_key_only() {
        assert_eq!(format!("{:?}", signer()), "Signer(03a107bf)");
    }
}
