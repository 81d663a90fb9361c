//! The hierarchy of secrets, and the names that they give to chunks.
//!
//! ```text
//! Root ───────┬─ ReadingKey   X25519: opens the keys of packs, and paths of snapshots
//!  (full keys)└─ authority    Ed25519: signs config and certificates
//! IdSecret ───┬─ data ids, tree ids, chunker seed, inode numbers
//!  (everybody)└  never rotated: else deduplication ends
//! IndexKey       random; shared by all holders of a key, new in each epoch
//! SigningSeed    random; one for each slot
//! ```
//!
//! Derivation is BLAKE3's `derive_key` with the contexts below, which are part of the format.

use super::sign::Signer;
use super::{KEY_LEN, equal, random};
use crate::fault::Result;
use crate::id::ChunkId;
use ::hpke::kem::{Kem, X25519HkdfSha256};
use ::hpke::{Deserializable, Serializable};
use std::fmt;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// From the root secret: the X25519 secret that opens packs.
pub const CONTEXT_READING: &str = "pastfs v1 reading key";
/// From the root secret: the Ed25519 seed that signs config and certificates.
pub const CONTEXT_AUTHORITY: &str = "pastfs v1 authority key";
/// From the id secret: the key of the ids of data chunks.
pub const CONTEXT_DATA_ID: &str = "pastfs v1 data id key";
/// From the id secret: the key of the ids of trees and lists.
pub const CONTEXT_TREE_ID: &str = "pastfs v1 tree id key";
/// From the id secret: the chunker's seed is the first 8 bytes, little-endian.
pub const CONTEXT_CHUNKER: &str = "pastfs v1 chunker seed";
/// From the id secret: the key that hashes paths to inode numbers.
pub const CONTEXT_INODE: &str = "pastfs v1 inode key";

macro_rules! secrets {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        ///
        /// Wiped when dropped; printed without its bytes; compared in constant time.
        #[derive(Clone, Zeroize, ZeroizeOnDrop)]
        pub struct $name([u8; KEY_LEN]);

        impl $name {
            /// A new one from the operating system's generator.
            ///
            /// # Errors
            /// `Io` where the system has no randomness to give.
            pub fn random() -> Result<Self> {
                random().map(Self)
            }
            /// From exactly 32 bytes.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                Some(Self(bytes.try_into().ok()?))
            }
            /// The secret itself, to be sealed or used at once.
            pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
                &self.0
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(secret)"))
            }
        }
        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                equal(&self.0, &other.0)
            }
        }
        impl Eq for $name {}
    )*};
}

secrets! {
    /// What full keys hold: all that reading and authority need follows from it.
    Root,
    /// What readers hold: the X25519 secret.
    ReadingKey,
    /// Shared by all holders of a key, never rotated: names chunks and cuts them.
    IdSecret,
    /// Shared by all holders of a key, one for each epoch: seals segments, manifests, notes and leases,
    /// and is the pre-shared key of HPKE.
    IndexKey,
    /// Of one slot alone: its Ed25519 seed.
    SigningSeed,
}

impl Root {
    /// The key that opens packs.
    pub fn reading(&self) -> ReadingKey {
        ReadingKey(blake3::derive_key(CONTEXT_READING, &self.0))
    }
    /// The key that signs config and certificates.
    pub fn authority(&self) -> Signer {
        let seed = Zeroizing::new(blake3::derive_key(CONTEXT_AUTHORITY, &self.0));
        Signer::from_seed(&seed)
    }
}

impl ReadingKey {
    /// The public key, to which writers seal (RFC 7748).
    pub fn public(&self) -> [u8; KEY_LEN] {
        X25519HkdfSha256::sk_to_pk(&self.private()).to_bytes().0
    }
    /// As the implementation of HPKE wants it. It clamps the bytes, as RFC 9180 7.1.2 demands.
    pub(super) fn private(&self) -> <X25519HkdfSha256 as Kem>::PrivateKey {
        // The only cause of failure is another length.
        Deserializable::from_bytes(&self.0).expect("any 32 bytes are an X25519 secret")
    }
}

impl SigningSeed {
    /// The key that signs what this slot writes.
    pub fn signer(&self) -> Signer {
        Signer::from_seed(&self.0)
    }
}

impl IdSecret {
    /// The two keys that name chunks.
    pub fn id_keys(&self) -> IdKeys {
        IdKeys {
            data: blake3::derive_key(CONTEXT_DATA_ID, &self.0),
            tree: blake3::derive_key(CONTEXT_TREE_ID, &self.0),
        }
    }
    /// The chunker's seed.
    pub fn chunker_seed(&self) -> u64 {
        let bytes = Zeroizing::new(blake3::derive_key(CONTEXT_CHUNKER, &self.0));
        bytes.iter().take(8).rev().fold(0, |seed, &b| seed << 8 | u64::from(b))
    }
    /// The key that hashes paths to inode numbers, so that nobody can prepare collisions.
    pub fn inode_key(&self) -> Zeroizing<[u8; KEY_LEN]> {
        Zeroizing::new(blake3::derive_key(CONTEXT_INODE, &self.0))
    }
}

/// What a chunk is. Kinds have keys and packs of their own, so that content never passes for a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Content of files, large xattrs.
    Data = 1,
    /// Folders, and lists of chunks.
    Tree = 2,
}

impl Kind {
    /// The byte that names it.
    pub fn code(self) -> u8 {
        self as u8
    }
    /// The kind of this byte; `None` for what this version does not know.
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Data),
            2 => Some(Self::Tree),
            _ => None,
        }
    }
}

/// What the holder of a slot may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Role {
    /// Everything.
    Full = 1,
    /// List, mount, restore, check; nothing that it writes counts.
    Reader = 2,
    /// Back up; reads no content and no names.
    Writer = 3,
}

impl Role {
    /// The byte that names it.
    pub fn code(self) -> u8 {
        self as u8
    }
    /// The role of this byte; `None` for what this version does not know.
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Full),
            2 => Some(Self::Reader),
            3 => Some(Self::Writer),
            _ => None,
        }
    }
}

/// Names chunks: keyed BLAKE3 of their plaintext, one key for each kind.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct IdKeys {
    data: [u8; KEY_LEN],
    tree: [u8; KEY_LEN],
}

impl IdKeys {
    /// The name of a chunk of this kind and content.
    pub fn id(&self, kind: Kind, bytes: &[u8]) -> ChunkId {
        let key = match kind {
            Kind::Data => &self.data,
            Kind::Tree => &self.tree,
        };
        ChunkId(*blake3::keyed_hash(key, bytes).as_bytes())
    }
}

impl fmt::Debug for IdKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdKeys(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::hex;

    /// 32 bytes counting up from `first`.
    fn counting(first: u8) -> [u8; KEY_LEN] {
        std::array::from_fn(|i| first + i as u8)
    }

    /// These values stand in the description of the format.
    #[test]
    fn derivations_give_these_values_for_ever() {
        let root = Root(counting(0));
        let ids = IdSecret(counting(0x20));
        let keys = ids.id_keys();
        let got = [
            hex(root.reading().as_bytes()),
            hex(&root.reading().public()),
            hex(&blake3::derive_key(CONTEXT_AUTHORITY, root.as_bytes())),
            hex(&root.authority().public()),
            hex(&keys.data),
            hex(&keys.tree),
            format!("{:016x}", ids.chunker_seed()),
            hex(&*ids.inode_key()),
            keys.id(Kind::Data, b"").hex(),
            keys.id(Kind::Tree, b"").hex(),
            keys.id(Kind::Data, b"hello, chunk").hex(),
            keys.id(Kind::Tree, b"hello, chunk").hex(),
        ];
        let want = [
            "ede25b4c5cf72dbc3e44e0fb597128d81ed4f29ae06fe06820dd7e9d25f5fe78",
            "8a597a3888be7fcaf352618342dd2899b8854c8f541be72f317709cfdee2797f",
            "aca05f63b3ff71b320ae5115ddc481ebc36c8b74234ec1975f5b22ec0167305c",
            "4c80854c503e0a9580a1784265031553a6d267f0bb5a4840e39b9b3a4db2cd1b",
            "ed882395cf00c8fd2212d8f96a7df28e5fb2c0173839b1f69bb8e51041817131",
            "5a012223b66c3e3532cccb59596b2543027ac6d2240460ba16ddc03e43fe5fae",
            "4d9290e4a8bbebd2",
            "1e63c0c85e26112f5d1cbd2c3c7ea8c713388b4f87ccd51df379c82f90318e84",
            "d3be10d98ead13748958a1067cda369ec7656e8f89e41858e7f762d2e334dffa",
            "6f2b598acdcd7dab125cbd29c0dfa09e13352569ab7457abbcdf428c4cf70289",
            "0ec65bf7d94e524b5a1b8df3811f194a30c7bd578fca03a0a763a0bc51fdd022",
            "823ad4e36ba54067827e7dd73eb8a95e2ce1d9bda78ecffcd4045e0a83af1046",
        ];
        assert_eq!(got, want);
    }

    #[test]
    fn the_chunker_seed_is_little_endian() {
        let ids = IdSecret(counting(1));
        let bytes = blake3::derive_key(CONTEXT_CHUNKER, ids.as_bytes());
        assert_eq!(ids.chunker_seed().to_le_bytes(), bytes[..8]);
    }

    /// RFC 7748, 6.1: both keys of Alice.
    #[test]
    fn public_reading_keys_are_x25519() {
        let secret =
            ChunkId::from_hex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a").unwrap();
        assert_eq!(
            hex(&ReadingKey(secret.0).public()),
            "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
        );
    }

    #[test]
    fn content_never_has_the_id_of_a_tree() {
        let keys = IdSecret::random().unwrap().id_keys();
        assert_ne!(keys.id(Kind::Data, b"same"), keys.id(Kind::Tree, b"same"));
        assert_eq!(keys.id(Kind::Data, b"same"), keys.id(Kind::Data, b"same"));
        let others = IdSecret::random().unwrap().id_keys();
        assert_ne!(keys.id(Kind::Data, b"same"), others.id(Kind::Data, b"same"));
    }

    #[test]
    fn nothing_of_a_secret_is_printed() {
        let root = Root(counting(0));
        assert_eq!(format!("{root:?}"), "Root(secret)");
        assert_eq!(format!("{:?}", root.reading()), "ReadingKey(secret)");
        assert_eq!(format!("{:?}", IdSecret(counting(0)).id_keys()), "IdKeys(secret)");
    }

    #[test]
    fn secrets_are_32_bytes() {
        assert!(Root::from_slice(&[0; 31]).is_none());
        assert!(Root::from_slice(&[0; 33]).is_none());
        assert_eq!(Root::from_slice(&[5; 32]).unwrap(), Root([5; 32]));
        assert_ne!(IndexKey::random().unwrap(), IndexKey::random().unwrap());
    }

    #[test]
    fn kinds_and_roles_are_named_by_their_byte() {
        for kind in [Kind::Data, Kind::Tree] {
            assert_eq!(Kind::from_code(kind.code()), Some(kind));
        }
        for role in [Role::Full, Role::Reader, Role::Writer] {
            assert_eq!(Role::from_code(role.code()), Some(role));
        }
        assert_eq!((Kind::from_code(0), Kind::from_code(3)), (None, None));
        assert_eq!((Role::from_code(0), Role::from_code(4)), (None, None));
    }
}
