//! All integration tests. Most of them run the real program against real files, mounts and disks.

mod away;
mod damage;
mod deaths;
mod errors;
mod eviction;
mod fidelity;
mod format;
mod fstab;
mod generated;
mod history;
mod house;
mod incremental;
mod interrupted;
mod listing;
mod manual;
mod matrix;
mod mounting;
mod oddities;
mod permissions;
mod requests;
mod restoring;
mod samba;
mod scene;
mod selection;
mod soak;
mod together;
