//! Where objects lie: a trait with a strict contract, and the stores that keep it.
//!
//! A store knows names and bytes, nothing of what they mean, and is not trusted with it. The contract
//! is small so that a folder, an object store and a server can all keep it; [`conformance`] is the
//! contract as a test, to be run against every store.

mod counted;
mod direct;
mod folder;
mod following;
mod local;
mod near;
mod opened;
mod place;
mod places;
mod remote;
mod retry;
mod throttle;

pub mod conformance;

pub use counted::{Costs, Counted, Counts, Deed};
pub use following::Following;
pub use local::Local;
pub use near::{Near, Shelf};
pub use place::{Place, S3Place, SftpPlace, WebDavPlace, folder_of};
pub use places::{Options, create, follow, open};
pub use retry::Retry;

use crate::clock::Time;
use crate::fault::{Error, Result};

/// Longest name of an object in bytes: fits every file system (255 a segment, 143 under eCryptfs) and
/// object store (1024), with room for a bucket's prefix. Our own are at most 73.
pub const MAX_NAME_LEN: usize = 140;
/// Most segments of a name: bounds how deep a list descends. Our own have at most 3.
pub const MAX_SEGMENTS: usize = 8;
/// First segment that no object may have: the local store writes its temporary files there.
pub(crate) const TEMPORARY: &str = "tmp";

/// An object, as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The whole name, such as `packs/3f/3f2a…`.
    pub name: String,
    /// Length in bytes.
    pub size: u64,
    /// When it was written, by the store's clock (not ours).
    pub modified: Time,
}

/// How a store likes to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nature {
    /// Each request takes a journey (a network, a server): what was read is worth keeping, and many requests at a time
    /// cost no more time than one.
    pub is_far: bool,
    /// Most objects that one request of a list tells of. S3: 1,000.
    pub list_page: usize,
    /// Most objects that one request deletes. S3: 1,000.
    pub delete_batch: usize,
}

impl Nature {
    /// A server that lists and deletes one folder, or one object, at a time.
    pub const FAR: Self = Self { is_far: true, ..Self::NEAR };
    /// A folder: requests are system calls.
    pub const NEAR: Self = Self { is_far: false, list_page: usize::MAX, delete_batch: 1 };
}

/// A place that keeps immutable objects.
///
/// Names are segments of `[0-9a-zA-Z._-]` joined by `/` (see [`check_name`]); any other is a `Misuse`,
/// by every method, before anything is done. All methods may be called from many threads and from
/// many machines at once. Errors name the object and the store.
///
/// What holds beyond the single method:
/// - an object is seen whole or not at all, by every method, also while it is being put;
/// - an object that was there before a list began, and still is when it ends, is in the list;
/// - a failed put leaves nothing behind that a list would show, unless the failure came after the object
///   was whole (then it is there, and putting it again succeeds).
pub trait Store: Send + Sync {
    /// For messages: `/backup/repo`, `s3://bucket/prefix`. Holds no secrets.
    fn location(&self) -> String;

    /// Stores an object; durable when this returns.
    ///
    /// Never over another object: if `name` is there with the same bytes this is `Ok` (a retry), and
    /// durable as well; with other bytes it is `Damaged`, and nothing changed. Where the server cannot
    /// promise it, two writers that race with different bytes may both be told `Ok`, and one of them
    /// wins: names that are hashes or random make that harmless.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()>;

    /// A whole object of at most `limit` bytes; `Damaged` if it is larger, `Missing` if there is none.
    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>>;

    /// Exactly `length` bytes from `offset`; `Damaged` if the object ends before, `Missing` if there is
    /// none.
    fn range(&self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>>;

    /// A hint: ranges of these bytes will be asked for soon, in their order. Returns at once where it can; what
    /// goes wrong shows when they are read.
    fn prefetch(&self, name: &str, offset: u64, length: u64) {
        let _ = (name, offset, length);
    }

    /// Length of an object in bytes; `Missing` if there is none.
    fn size(&self, name: &str) -> Result<u64>;

    /// All objects below a folder, at any depth, in any order and each once: `packs/`, `packs/3f/`, or
    /// `""` for the whole store. All of them or an error, never a part; a folder that is not there holds
    /// none. Temporary files never appear. What has the name of no object, and what is no file (a folder only where
    /// its name is no object's either), is listed as well, with a name that may be written differently: who lists knows
    /// its own, and what stands where an object must be is `Damaged` when it is read.
    fn list(&self, prefix: &str) -> Result<Vec<Listed>>;

    /// The other hint: these bytes were read in their order, and will not be asked for again soon.
    fn release(&self, name: &str, offset: u64, length: u64) {
        let _ = (name, offset, length);
    }

    /// The names alone of what [`Store::list`] gives, by the same promises: where sizes and dates are not
    /// needed, a folder is listed without a look at each file.
    fn names(&self, prefix: &str) -> Result<Vec<String>> {
        Ok(self.list(prefix)?.into_iter().map(|listed| listed.name).collect())
    }

    /// When an object was written, as a list shows it; `Missing` if there is none.
    fn modified(&self, name: &str) -> Result<Time>;

    /// Deletes an object; durable when this returns. One that is not there is `Ok`.
    fn delete(&self, name: &str) -> Result<()>;

    /// Deletes several objects, in any order, as [`Store::delete`]: where the store can, by one request for
    /// [`Nature::delete_batch`] of them. After an error some of them may be gone.
    fn delete_all(&self, names: &[String]) -> Result<()> {
        names.iter().try_for_each(|name| self.delete(name))
    }

    /// How it likes to be asked. Whoever wraps a store passes this on.
    fn nature(&self) -> Nature {
        Nature::NEAR
    }

    /// Whether another machine's puts and deletes may show late in lists and sizes (NFS, SMB, FUSE).
    /// Contents of an object that is found are never stale: objects do not change.
    fn may_be_stale(&self) -> bool;

    /// Where the place that was opened no longer answers: looks there anew, and from then on means what it found,
    /// if it is the `same`. Whether it was. Most stores have nothing to look for: each request goes to the place.
    fn find_again(&self, same: &dyn Fn(&dyn Store) -> Result<()>) -> bool {
        let _ = same;
        false
    }
}

/// Checks a name: 1 to [`MAX_NAME_LEN`] bytes, at most [`MAX_SEGMENTS`] segments of `[0-9a-zA-Z._-]`
/// joined by `/`, none empty, none beginning with a dot (`.` and `..`, and what file systems hide there:
/// `.nfs…`, `.snapshot`), the first not `tmp`. Else `Misuse`.
pub fn check_name(name: &str) -> Result<()> {
    let mut segments = name.split('/');
    let well_formed = name.len() <= MAX_NAME_LEN
        && segments.next().is_some_and(|first| is_segment(first) && first != TEMPORARY)
        && segments.by_ref().take(MAX_SEGMENTS - 1).all(is_segment)
        && segments.next().is_none();
    match well_formed {
        true => Ok(()),
        false => Err(Error::misuse(format!("{:?} cannot be the name of an object", excerpt(name)))),
    }
}

/// Checks the prefix of a list: empty, or a well-formed name and a `/`. Else `Misuse`.
pub fn check_prefix(prefix: &str) -> Result<()> {
    match prefix.strip_suffix('/') {
        None if prefix.is_empty() => Ok(()),
        Some(folder) if check_name(folder).is_ok() => Ok(()),
        _ => Err(Error::misuse(format!("{:?} cannot be the prefix of a list", excerpt(prefix)))),
    }
}

/// Whether `text` can be one segment of a name.
pub(crate) fn is_segment(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    !text.is_empty() && !text.starts_with('.') && text.bytes().all(plain)
}

/// The beginning of a bad name, as much as a message can bear.
fn excerpt(name: &str) -> String {
    name.chars().take(MAX_NAME_LEN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_relative_names_are_names() {
        let longest = "a".repeat(MAX_NAME_LEN);
        for good in ["config/1", "packs/3f/3f2a", "leases/0a-1", "A_b.c-d", "a/tmp", "tmpx", &longest] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        let long = "a".repeat(MAX_NAME_LEN + 1);
        let deep = ["a"; MAX_SEGMENTS + 1].join("/");
        for bad in [
            "", "/", "/x", "x/", "a//b", ".", "..", "../x", "a/../b", "a/.", ".nfs1", "a/.b", "a b", "a\0b",
            "a\\b", "é", "a\n", "tmp", "tmp/x", &long, &deep,
        ] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn prefixes_are_folders() {
        for good in ["", "packs/", "packs/3f/"] {
            assert!(check_prefix(good).is_ok(), "{good}");
        }
        for bad in ["packs", "/", "//", "../", "./", "tmp/", "packs//"] {
            assert!(check_prefix(bad).is_err(), "{bad}");
        }
    }
}
