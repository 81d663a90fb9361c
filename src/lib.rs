//! pastfs: deduplicating, encrypted backups that are a file system.
//!
//! The rooms, in the order in which data walks through them on a backup; a room uses only those of the
//! floors below it (ARCHITECTURE.md).

// 0: ground
pub mod clock;
pub mod event;
pub mod fault;
pub mod format;
pub mod id;

// 2: shelves
pub mod tree;
