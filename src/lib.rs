//! pastfs: deduplicating, encrypted backups that are a file system.
//!
//! The rooms, in the order in which data walks through them on a backup; a room uses only those of the
//! floors below it (ARCHITECTURE.md).

// 0: ground: values, no doing
pub mod clock;
pub mod config;
pub mod event;
pub mod fault;
pub mod format;
pub mod gauge;
pub mod id;
pub mod memory;
pub mod moment;

// 1: hands: each does one thing to bytes
pub mod chunk;
pub mod parity;
pub mod seal;
pub mod source;
pub mod storage;
pub mod uncached;

// 2: shelves: where sealed things lie and how to find them
pub mod index;
pub mod pack;
pub mod tree;

// 3: the deep module, and what trees say of a path through time
pub mod history;
pub mod repository;

// 4: verbs
pub mod backup;
pub mod check;
pub mod mount;
pub mod prune;
pub mod repair;
pub mod replicate;
pub mod restore;
pub mod retention;
pub mod stats;

// 7: words
pub mod cli;
