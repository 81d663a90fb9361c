//! `pastfs versions`.

use super::access::Global;
use super::ending::Exit;
use super::ls;
use super::output::Output;
use super::select::Filters;
use super::timeline::{self, Timeline};
use super::words::{self, Table};
use crate::fault::Result;
use crate::format::tree::{Entry, Node};
use crate::history::{self, Name};
use std::ffi::OsString;

/// List the versions of a file in all snapshots
///
/// Each distinct version, oldest first: when it was first and last seen, in how many snapshots, its size and mtime,
/// and the mount's folder where it is first seen. Type, content, size and mtime make a version; owner, mode and
/// attributes do not. What comes back after something else is the same version as before. Of a folder,
/// everything that ever lived in it is listed, with the number of versions of each name.
///
/// PATH is a path of the saved machine, not one in the mount; a relative one is taken from the working folder. A
/// path is told as deleted where the newest snapshot of its host that was asked for it does not have it.
///
/// With --json one object for each path: path, deleted, first and last (times of snapshots), snapshots (how many),
/// versions (a list), and folder where it was one; a folder is followed by an object for each name in it.
#[derive(clap::Args)]
pub struct Versions {
    /// A file or folder, which need not be there any more
    #[arg(required = true)]
    path: Vec<OsString>,
    #[command(flatten)]
    filters: Filters,
}

impl Versions {
    pub fn run(self, global: &Global) -> Result<Exit> {
        let timeline = timeline::open(global, &self.filters)?;
        let mut out = Output::open()?;
        for (n, written) in self.path.iter().enumerate() {
            let (path, name) = timeline.find(written)?;
            let mut names = Vec::new();
            if !name.folders.is_empty() {
                let mut lost = Vec::new();
                names = history::merged(&timeline, &name.folders, &mut lost)?;
                timeline.tell(&path, lost);
            }
            if global.json {
                let mut tell = |path: &[u8], name: &Name| {
                    let gone = timeline.gone(path, &name.snapshots())?;
                    out.line(timeline.machine(path, name, &gone).to_string())
                };
                tell(&path, &name)?;
                for child in &names {
                    tell(&ls::join(&path, &child.name), child)?;
                }
                continue;
            }
            if self.path.len() > 1 {
                if n > 0 {
                    out.line("")?;
                }
                out.line(format!("{}:", words::visible(&path)))?;
            }
            self.print(&mut out, global, &timeline, &path, &name, &names)?;
        }
        out.finish()?;
        Ok(if timeline.is_damaged() { Exit::Damaged } else { Exit::Done })
    }

    fn print(
        &self,
        out: &mut Output,
        global: &Global,
        timeline: &Timeline,
        path: &[u8],
        name: &Name,
        names: &[Name],
    ) -> Result<()> {
        if !name.versions.is_empty() {
            let mut table =
                Table::new(&["First seen", "Last seen", ">Snapshots", ">Size", "Modified", "In the mount"]);
            for v in &name.versions {
                let runs = &v.snapshots;
                table.row(vec![
                    words::local_time(timeline.time(runs.first())),
                    words::local_time(timeline.time(runs.last())),
                    words::count(runs.count()),
                    size(&v.entry),
                    words::local_time(v.entry.stat.mtime),
                    words::visible(timeline.name(runs.first())),
                ]);
            }
            table.print(out)?;
        }
        if !names.is_empty() {
            let mut table = Table::new(&[">Versions", "First seen", "Last seen", "Name"]);
            for child in names {
                let all = child.snapshots();
                let mut shown = words::visible(&child.name);
                if !child.folders.is_empty() {
                    shown.push('/');
                }
                if !timeline.gone(&ls::join(path, &child.name), &all)?.is_empty() {
                    shown.push_str("  (deleted)");
                }
                table.row(vec![
                    words::count((child.versions.len() + child.folders.len()) as u64),
                    words::local_time(timeline.time(all.first())),
                    words::local_time(timeline.time(all.last())),
                    shown,
                ]);
            }
            table.print(out)?;
        }
        let gone = timeline.gone(path, &name.snapshots())?;
        if !gone.is_empty() {
            out.line(timeline.gone_text(&gone))?;
        } else if name.versions.is_empty() && names.is_empty() && !global.quiet {
            out.line("an empty folder, always")?;
        }
        Ok(())
    }
}

/// The size of a file, and what everything else is.
pub fn size(e: &Entry) -> String {
    match e.node {
        Node::File(_) => words::size(e.stat.size),
        _ => ls::kind(e).replace('_', " "),
    }
}
