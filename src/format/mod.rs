//! The stored objects: bytes to values and back. Pure and total: any bytes give a value or a typed
//! error, never a panic, and no allocation that the input does not justify.
//!
//! `man/pastfs-repository.5` is the description that this room implements.

pub mod cbor;
pub mod config;
pub mod epoch;
pub mod object;
pub mod pack;
pub mod paper;
pub mod parity;
pub mod segment;
pub mod slot;
pub mod snapshot;
pub mod tree;

/// Largest encoded certificate in bytes.
pub const CERTIFICATE_MAX: usize = 4096;
