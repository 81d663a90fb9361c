//! The rooms that read what comes from outside, under the names that their users know them by: fuzzing needs none of the
//! rest of pastfs, and so no RocksDB.

extern crate self as pastfs;

#[path = "../src/chunk/mod.rs"]
pub mod chunk;
#[path = "../src/clock.rs"]
pub mod clock;
#[path = "../src/event.rs"]
pub mod event;
#[path = "../src/source/exclude.rs"]
pub mod exclude;
#[path = "../src/fault.rs"]
pub mod fault;
#[path = "../src/format/mod.rs"]
pub mod format;
#[path = "../src/id.rs"]
pub mod id;
#[path = "../src/moment.rs"]
pub mod moment;
#[path = "../src/mount/names.rs"]
pub mod names;

pub mod restore;
#[path = "../src/tree/mod.rs"]
pub mod tree;

pub mod source {
    pub use crate::exclude::Exclude;
}

pub mod mount {
    pub use crate::names::{Named, Names};
}

pub mod targets;
pub mod trees;
pub mod words;
