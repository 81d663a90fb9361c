//! The output of a program as one file.

use super::{Report, parts};
use crate::clock;
use crate::fault::{Doing, Error, Result};
use crate::format::tree::{Entry, INLINE_MAX, Node, Stat};
use crate::id::ChunkId;
use crate::repository::{Frames, Repository, Writer};
use crate::source::Command;
use crate::tree::{FolderWriter, ROOT_NAME};
use std::ffi::OsStr;

/// Writes the tree of a snapshot that holds nothing but what `command` prints. A program that fails or
/// prints nothing is an error.
pub fn command(
    repository: &Repository,
    command: &OsStr,
    name: &[u8],
    writer: &mut Writer,
    report: &mut Report,
) -> Result<ChunkId> {
    let names = parts(name)?;
    let text = command.to_str().ok_or_else(|| Error::misuse("the command is not valid UTF-8"))?;
    let chunker = repository.chunker()?;
    let mut running = Command::start(text)?;
    let content = super::files::stream(&chunker, &mut running, Frames::Big, INLINE_MAX, writer)
        .map_err(super::files::Trouble::into_error)
        .doing(|| format!("reading what `{text}` prints"))?;
    let bytes = running.finish()?;
    let now = clock::now();
    let stat = Stat {
        mode: 0o755,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        mtime: now,
        ctime: now,
        nlink: 1,
        ..Stat::default()
    };
    let entry = |name: &[u8], stat: Stat, node: Node| Entry {
        name: name.to_vec(),
        stat,
        node,
        xattrs: Vec::new(),
        chunker: None,
        unknown: Default::default(),
    };
    let mut node = Node::File(content);
    let mut stat_of = Stat { mode: 0o600, size: bytes, ..stat.clone() };
    for name in names.iter().rev().map(Vec::as_slice).chain([ROOT_NAME]) {
        let mut folder = FolderWriter::new();
        folder.push(&entry(name, stat_of, node), writer)?;
        node = Node::Folder(folder.finish(writer)?);
        stat_of = stat.clone();
    }
    report.totals.files = 1;
    report.totals.folders = names.len() as u64;
    report.totals.bytes = bytes;
    report.totals.read_files = 1;
    report.totals.read_bytes = bytes;
    report.changes.0 = 1;
    match node {
        Node::Folder(id) => Ok(id),
        _ => Err(Error::bug("a command's tree has no root")),
    }
}
