//! The format room alone, under the name that its users know it by: fuzzing needs none of the rest
//! of pastfs, and so no RocksDB.

extern crate self as pastfs;

#[path = "../src/clock.rs"]
pub mod clock;
#[path = "../src/fault.rs"]
pub mod fault;
#[path = "../src/format/mod.rs"]
pub mod format;
#[path = "../src/id.rs"]
pub mod id;
pub mod targets;
