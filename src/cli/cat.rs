//! `pastfs cat`.

use super::access::{Global, stop_on_signals};
use super::ending::Exit;
use super::output::Output;
use super::select::{Filters, Target};
use super::words;
use crate::fault::{Error, Fault, Result};
use crate::format::tree::Node;
use crate::repository::Right;
use crate::tree::{self, FileReader};
use std::ffi::OsString;

/// Bytes that are read and written at a time.
const PIECE_LEN: usize = 1 << 20;

/// Print a file of a snapshot
///
/// Every byte is verified before it is printed. SNAPSHOT is an id (at least 4 digits), `latest`, a time such as
/// 2026-11-19 (the end of that day), '2026-11-19 14:00', yesterday or '3 days ago' (the newest snapshot not later
/// than it), or the name of a folder in the mount.
#[derive(clap::Args)]
pub struct Cat {
    /// Which snapshot, and the file's absolute path
    #[arg(value_name = "SNAPSHOT:PATH")]
    file: OsString,
    #[command(flatten)]
    filters: Filters,
}

impl Cat {
    pub fn run(self, global: &Global) -> Result<Exit> {
        let target = Target::parse(&self.file)?;
        let path = target.path.clone().filter(|p| !p.is_empty()).ok_or_else(|| {
            Error::misuse("no file is named").hint("write SNAPSHOT:PATH, such as latest:/etc/fstab")
        })?;
        let repository = global.open_plainly_to_read()?;
        repository.allow(Right::Read, "reading a file")?;
        let stop = stop_on_signals()?;
        let snapshot = target.find(&repository, &self.filters)?;
        let reader = repository.reader();
        let name = || format!("{} of snapshot {}", words::visible(&path), snapshot.id.short());
        let entry = tree::find(&*reader, &snapshot.manifest.root, &path)?
            .ok_or_else(|| Error::new(Fault::Missing, format!("there is no {}", name())))?;
        let content = match entry.node {
            Node::File(content) => content,
            Node::Symlink(to) => {
                return Err(Error::misuse(format!(
                    "{} is a symbolic link to {}",
                    name(),
                    words::visible(&to)
                )));
            }
            Node::Folder(_) => {
                return Err(Error::misuse(format!("{} is a folder", name()))
                    .hint("`pastfs ls` lists it, `pastfs export` prints it as tar"));
            }
            _ => return Err(Error::misuse(format!("{} is no regular file", name()))),
        };
        let file = FileReader::new(content);
        let mut out = Output::open()?;
        let mut piece = Vec::with_capacity(PIECE_LEN);
        let mut offset = 0;
        while offset < file.len() {
            stop.check()?;
            piece.clear();
            file.read_at(&*reader, offset, PIECE_LEN, &mut piece)
                .map_err(|e| e.while_(format!("reading {} at byte {offset}", name())))?;
            if piece.is_empty() {
                return Err(Error::damaged(format!("{} ends at byte {offset}, before its size", name())));
            }
            out.bytes(&piece)?;
            offset += piece.len() as u64;
        }
        out.finish()?;
        Ok(Exit::Done)
    }
}
