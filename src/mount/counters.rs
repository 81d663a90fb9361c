//! How many requests of each kind the kernel sent. What a program costs here is told by these numbers, not
//! by seconds: the tests hold the mount to them.

use crate::storage::Costs;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! requests {
    ($($variant:ident $name:literal,)*) => {
        /// The kinds of requests, as they are called in fuse(4), in lower case.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub(super) enum Kind { $($variant,)* }

        /// Their names, in the order of the variants.
        const NAMES: &[&str] = &[$($name,)*];
    };
}

requests! {
    Lookup "lookup",
    Forget "forget",
    Getattr "getattr",
    Readlink "readlink",
    Open "open",
    Read "read",
    Flush "flush",
    Opendir "opendir",
    Readdir "readdir",
    Readdirplus "readdirplus",
    Statfs "statfs",
    Getxattr "getxattr",
    Listxattr "listxattr",
    Lseek "lseek",
}

/// Counts requests, from any thread.
#[derive(Default)]
pub(super) struct Counters {
    counts: [AtomicU64; NAMES.len()],
}

impl Counters {
    /// One more request. Nothing is ordered by this: a sum is exact once the requests that it is about were answered.
    pub fn count(&self, kind: Kind) {
        self.counts[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// All counts, how many inodes the kernel holds, the bytes of memory that each cache takes, and what the store was asked
    /// for, as one JSON object.
    pub fn json(&self, inodes: usize, caches: &[(&str, usize)], store: &Costs) -> String {
        let requests = NAMES.iter().zip(&self.counts).map(|(name, n)| (*name, n.load(Ordering::Relaxed)));
        let caches = caches.iter().map(|(name, bytes)| (*name, *bytes as u64));
        format!(
            "{{\"requests\":{},\"inodes\":{inodes},\"caches\":{},\"store\":{}}}",
            object(requests),
            object(caches),
            store.json()
        )
    }
}

/// Numbers by their names, in JSON.
fn object<'a>(numbers: impl Iterator<Item = (&'a str, u64)>) -> String {
    let fields: Vec<String> = numbers.map(|(name, n)| format!("\"{name}\":{n}")).collect();
    format!("{{{}}}", fields.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_counted_under_its_name() {
        let counters = Counters::default();
        counters.count(Kind::Lookup);
        counters.count(Kind::Lseek);
        counters.count(Kind::Lseek);
        let json = counters.json(7, &[("frames", 9), ("index", 8)], &Costs::default());
        assert!(json.starts_with("{\"requests\":{\"lookup\":1,\"forget\":0,"), "{json}");
        assert!(
            json.contains(
                ",\"lseek\":2},\"inodes\":7,\"caches\":{\"frames\":9,\"index\":8},\"store\":{\"requests\":0,"
            ),
            "{json}"
        );
    }
}
