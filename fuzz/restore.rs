//! The room `restore` without its doors to a repository.

#[path = "../src/restore/attributes.rs"]
mod attributes;
#[path = "../src/restore/content.rs"]
mod content;
#[path = "../src/restore/folder.rs"]
mod folder;
#[path = "../src/restore/out.rs"]
mod out;
#[path = "../src/restore/place.rs"]
mod place;
#[path = "../src/restore/plan.rs"]
mod plan;
#[path = "../src/restore/readback.rs"]
mod readback;
#[path = "../src/restore/remove.rs"]
mod remove;
#[path = "../src/restore/request.rs"]
mod request;
#[path = "../src/restore/shared.rs"]
mod shared;
#[path = "../src/restore/walk.rs"]
mod walk;
#[path = "../src/restore/write.rs"]
mod write;

pub use request::{Options, Overwrite, Report, Source, Supply};
pub use walk::restore;
