//! pastfs: deduplicating, encrypted backups that are a file system.
pub mod clock;
pub mod fault;
pub mod format;
pub mod id;
