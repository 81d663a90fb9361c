//! `pastfs find`.

use super::access::Global;
use super::ending::Exit;
use super::glob::Glob;
use super::output::Output;
use super::select::Filters;
use super::timeline::{self, Gone, Timeline};
use super::versions::size;
use super::words;
use crate::clock::Time;
use crate::fault::{Error, Result};
use crate::format::tree::{Entry, Node};
use crate::history::{self, Lost, Name};
use crate::moment::{self, Selector};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

/// Find files by name in all snapshots
///
/// Each path that matches is told once, with all its versions: since when and until when they are in snapshots, in
/// how many, and their sizes; with -q the paths alone. What is in many snapshots is looked at once. Exit code 1 if
/// nothing matches.
///
/// PATTERN is a glob as in the shell: `*` any text, `?` any character, `[a-z]` one of these, `[!a-z]` any other.
/// Without a `/` it is for the name (`*.odt`). With one it is for the whole path, and `*` and `?` do not match a `/`,
/// but `**` does (`/home/**/*.odt`); one that does not begin with `/` may begin in any folder (`docs/*.odt`). Put
/// it into quotes, or the shell takes it. Several patterns: any of them.
///
/// With --json one object for each path, as `pastfs versions` prints it.
#[derive(clap::Args)]
pub struct Find {
    /// What to look for
    #[arg(required = true)]
    pattern: Vec<OsString>,
    /// Take small and capital letters for the same
    #[arg(short, long)]
    ignore_case: bool,
    /// Only what is of this type: f (file), d (folder), l (symlink), b and c (devices), p (fifo), s (socket); may
    /// be repeated
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',')]
    #[arg(value_parser = ["f", "d", "l", "b", "c", "p", "s"], hide_possible_values = true)]
    kind: Vec<String>,
    /// Only files of at least this size, such as 10M
    #[arg(long, value_name = "SIZE", value_parser = words::parse_size)]
    larger: Option<u64>,
    /// Only files of at most this size
    #[arg(long, value_name = "SIZE", value_parser = words::parse_size)]
    smaller: Option<u64>,
    /// Only what was modified at this time or later, without folders: 2026-11-19 means its beginning; '3 days ago'
    /// will do as well
    #[arg(long, value_name = "TIME", value_parser = point)]
    newer: Option<Time>,
    /// Only what was modified before this time, without folders
    #[arg(long, value_name = "TIME", value_parser = point)]
    older: Option<Time>,
    /// Only what is no more in the newest snapshot of its host
    #[arg(long)]
    deleted: bool,
    /// Look only below this folder
    #[arg(long, value_name = "DIR")]
    below: Option<OsString>,
    #[command(flatten)]
    filters: Filters,
}

/// The beginning of what is written, or the point in time that a relative word means.
fn point(text: &str) -> std::result::Result<Time, String> {
    moment::parse_time(text).or_else(|why| match moment::parse(text, &moment::now()) {
        Some(Selector::Until(time)) => Ok(time),
        _ => Err(why),
    })
}

impl Find {
    pub fn run(self, global: &Global) -> Result<Exit> {
        let mut globs = Vec::new();
        for pattern in &self.pattern {
            globs.push(Glob::new(pattern.as_bytes(), self.ignore_case).map_err(|why| {
                Error::misuse(why).hint("a \\ before [, *, ? and \\ takes them as they are")
            })?);
        }
        let timeline = timeline::open(global, &self.filters)?;
        let (path, top) = match &self.below {
            Some(dir) => timeline.find(dir)?,
            None => (b"/".to_vec(), timeline.root()?),
        };
        let mut out = Output::open()?;
        let mut found = false;
        let mut visit = |path: &[u8], name: &Name| -> Result<bool> {
            if globs.iter().any(|g| g.matches(path))
                && let Some(passed) = self.narrowed(name)
            {
                // By all that the path ever was: a file that shrank is not gone.
                let gone = timeline.gone(path, &name.snapshots())?;
                if !self.deleted || !gone.is_empty() {
                    found = true;
                    print(&mut out, global, &timeline, path, &passed, &gone)?;
                }
            }
            Ok(true)
        };
        let mut lose = |path: &[u8], lost: Lost| timeline.tell(path, [lost]);
        history::walk(&timeline, &top, &path, &mut lose, &mut visit)?;
        out.finish()?;
        Ok(match (timeline.is_damaged(), found) {
            (true, _) => Exit::Damaged,
            (false, true) => Exit::Done,
            (false, false) => Exit::No,
        })
    }

    /// What of a name passes the options; `None` if nothing does.
    fn narrowed(&self, name: &Name) -> Option<Name> {
        let mut passed = Name { name: name.name.clone(), ..Name::default() };
        passed.versions = name.versions.iter().filter(|v| self.passes(&v.entry)).cloned().collect();
        // Folders have no versions of their own, whose size or time could be asked.
        let folders = self.larger.is_none()
            && self.smaller.is_none()
            && self.newer.is_none()
            && self.older.is_none()
            && (self.kind.is_empty() || self.kind.iter().any(|k| k == "d"));
        if folders {
            passed.doors.clone_from(&name.doors);
        }
        (!passed.versions.is_empty() || !passed.doors.is_empty()).then_some(passed)
    }

    fn passes(&self, e: &Entry) -> bool {
        let letter = match e.node {
            Node::File(_) => "f",
            Node::Symlink(_) => "l",
            Node::BlockDevice(_) => "b",
            Node::CharDevice(_) => "c",
            Node::Fifo => "p",
            Node::Socket => "s",
            Node::Folder(_) | Node::Unknown(_) => "?",
        };
        let is_file = letter == "f";
        (self.kind.is_empty() || self.kind.iter().any(|k| k == letter))
            && self.larger.is_none_or(|min| is_file && e.stat.size >= min)
            && self.smaller.is_none_or(|max| is_file && e.stat.size <= max)
            && self.newer.is_none_or(|time| e.stat.mtime >= time)
            && self.older.is_none_or(|time| e.stat.mtime < time)
    }
}

fn print(
    out: &mut Output,
    global: &Global,
    timeline: &Timeline,
    path: &[u8],
    name: &Name,
    gone: &[Gone<'_>],
) -> Result<()> {
    if global.json {
        return out.line(timeline.machine(path, name, gone).to_string());
    }
    out.line(words::visible(path))?;
    if global.quiet {
        return Ok(());
    }
    let line = |runs: &history::Runs, what: String| {
        let count = words::counted(runs.count(), "snapshot", "snapshots");
        format!("    {}, {count}, {what}", timeline.span(runs))
    };
    for v in &name.versions {
        out.line(line(&v.snapshots, size(&v.entry)))?;
    }
    let runs = name.folder_snapshots();
    if !runs.is_empty() {
        out.line(line(&runs, "folder".into()))?;
    }
    if !gone.is_empty() {
        out.line(format!("    {}", timeline.gone_text(gone)))?;
    }
    Ok(())
}
