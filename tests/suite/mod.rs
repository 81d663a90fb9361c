//! All integration tests. Most of them run the real program against real files, mounts and disks.

mod damage;
mod deaths;
mod errors;
mod eviction;
mod fidelity;
mod format;
mod house;
mod incremental;
mod interrupted;
mod manual;
mod matrix;
mod mounting;
mod oddities;
mod permissions;
mod requests;
mod restoring;
mod scene;
mod selection;
mod soak;
mod together;
