//! `pastfs umount`.

use super::access::Global;
use super::ending::Exit;
use crate::fault::Result;
use std::path::PathBuf;

/// Unmount what `pastfs mount` mounted
///
/// Also clears away a mount whose program has died.
#[derive(clap::Args)]
pub struct Umount {
    /// The folder it is mounted on
    dir: PathBuf,
}

impl Umount {
    pub fn run(self, _: &Global) -> Result<Exit> {
        crate::mount::umount(&self.dir)?;
        Ok(Exit::Done)
    }
}
