//! `pastfs diff`.

use super::access::{Global, stop_on_signals};
use super::ending::Exit;
use super::ls;
use super::output::Output;
use super::progress::Progress;
use super::select::{Filters, Target};
use super::timeline::real;
use super::words;
use crate::event::Event;
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::tree::{Entry, Node};
use crate::history::{self, Change, Difference, Differs};
use crate::repository::Right;
use crate::source;
use crate::tree;
use serde_json::{Map, Value, json};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Columns for the letters of what differs.
const LETTERS: usize = 8;

/// Show what differs between two snapshots
///
/// A line for each path that differs, in the order of paths, folders with a `/` at the end. It begins with `+` for
/// what is in B alone, `-` for what is in A alone, `M` where the content differs or the type, and `U` where the
/// attributes alone do. Behind `M` and `U` letters tell in what: T type, c content (target of a symlink, number of a
/// device), s size, t mtime, p permissions, o owner or group, x extended attributes or ACLs, l number of hard links.
/// The path begins in column 12. A folder whose mtime alone differs is left out, as that only says that names in it
/// came or went; -v shows it.
///
/// It takes as long as there is to tell: what is equal in both is not looked at. The bytes in the summary are
/// sizes of files, those with another content counted on both sides.
///
/// A and B are SNAPSHOT or SNAPSHOT:PATH. SNAPSHOT is an id (at least 4 digits), `latest`, a time such as 2026-11-19
/// (the end of that day), '2026-11-19 14:00', yesterday or '3 days ago' (the newest snapshot not later than it), or the
/// name of a folder in the mount. Where the paths of A and B differ, names are those of B.
///
/// With --json an object for each difference, with "left" and "right" as `pastfs ls` prints them, then a summary.
#[derive(clap::Args)]
pub struct Diff {
    /// The earlier side, most often
    #[arg(value_name = "A[:PATH]")]
    a: OsString,
    /// The later side
    #[arg(value_name = "B[:PATH]")]
    b: OsString,
    /// Compare only this file or folder; a relative path is taken from the working folder
    path: Option<PathBuf>,
    /// Tell added and removed folders in one line, without what is in them
    #[arg(long)]
    fold: bool,
    /// End with exit code 1 if there are differences
    #[arg(long)]
    exit_code: bool,
    #[command(flatten)]
    filters: Filters,
}

impl Diff {
    pub fn run(self, global: &Global) -> Result<Exit> {
        let (a, b) = (Target::parse(&self.a)?, Target::parse(&self.b)?);
        let mut common = match &self.path {
            Some(_) if a.path.is_some() || b.path.is_some() => {
                return Err(Error::misuse("PATH is given twice").hint("write A B PATH, or A:PATH B:PATH"));
            }
            // As saved: by text alone, else with the symlinks of today's folders resolved.
            Some(path) => source::absolute(path).map(|plain| vec![real(&plain), plain])?,
            None => vec![PathBuf::from("/")],
        };
        let observer = Progress::warnings(global);
        let repository = global.open_to_read(observer.clone())?;
        repository.allow(Right::Read, "comparing snapshots")?;
        let stop = stop_on_signals()?;
        let reader = repository.reader();
        let mut snapshots = Vec::new();
        for target in [&a, &b] {
            snapshots.push(target.find(&repository, &self.filters)?);
        }
        let sides = loop {
            let path = common.pop().unwrap_or_default();
            let mut sides = Vec::new();
            for (target, snapshot) in [&a, &b].into_iter().zip(&snapshots) {
                let path = ls::clean(target.path.as_deref().unwrap_or(path.as_os_str().as_bytes()));
                let shown = || format!("{} in snapshot {}", words::visible(&path), snapshot.id.short());
                let entry = tree::find(&*reader, &snapshot.manifest.root, &path)
                    .doing(|| format!("looking for {}", shown()))?;
                sides.push((shown(), path, entry));
            }
            if common.is_empty() || sides.iter().any(|(_, _, entry)| entry.is_some()) {
                break sides;
            }
        };
        let [(a_shown, _, left), (b_shown, path, right)] = &sides[..] else {
            return Err(Error::bug("a comparison has two sides"));
        };
        if left.is_none() && right.is_none() {
            let what = format!("there is neither {a_shown} nor {b_shown}");
            return Err(
                Error::new(Fault::Missing, what).hint("`pastfs ls SNAPSHOT:PATH` lists what there is")
            );
        }
        let mut out = Output::open()?;
        let mut tally = Tally::default();
        history::diff(&*reader, path, left.as_ref(), right.as_ref(), !self.fold, &mut |change| {
            stop.check()?;
            self.tell(&mut out, global, &mut tally, &change, &mut |line| observer.event(Event::Warning(line)))
        })?;
        if global.json {
            out.line(tally.machine().to_string())?;
        } else if !global.quiet {
            out.line(tally.text())?;
        }
        out.finish()?;
        Ok(match () {
            () if tally.lost > 0 => Exit::Damaged,
            () if self.exit_code && tally.any() => Exit::No,
            () => Exit::Done,
        })
    }

    fn tell(
        &self,
        out: &mut Output,
        global: &Global,
        tally: &mut Tally,
        change: &Change<'_>,
        warn: &mut dyn FnMut(&str),
    ) -> Result<()> {
        let path = words::visible(change.path);
        let (sign, letters, entry) = match &change.difference {
            Difference::Added(entry) => ('+', String::new(), *entry),
            Difference::Removed(entry) => ('-', String::new(), *entry),
            Difference::Changed { right, what, .. } => {
                let silent = Differs { mtime: false, ..*what } == Differs::default();
                if silent && matches!(right.node, Node::Folder(_)) && global.verbose == 0 {
                    return Ok(());
                }
                (if what.content { 'M' } else { 'U' }, letters(what), *right)
            }
            Difference::Lost(error) => {
                tally.lost += 1;
                warn(&format!("{path} cannot be compared to its end: {}", error.chain()));
                return Ok(());
            }
        };
        tally.count(&change.difference);
        if global.json {
            return out.line(machine(change).to_string());
        }
        let slash = if matches!(entry.node, Node::Folder(_)) && change.path != b"/" { "/" } else { "" };
        out.line(format!("{sign} {letters:LETTERS$} {path}{slash}"))
    }
}

fn letters(what: &Differs) -> String {
    let all = [
        (what.kind, 'T'),
        (what.content, 'c'),
        (what.size, 's'),
        (what.mtime, 't'),
        (what.mode, 'p'),
        (what.owner, 'o'),
        (what.xattrs, 'x'),
        (what.links, 'l'),
    ];
    all.iter().filter(|(differs, _)| *differs).map(|(_, letter)| letter).collect()
}

fn machine(change: &Change<'_>) -> Value {
    let mut object = Map::new();
    object.insert("message_type".into(), "change".into());
    words::put_text(&mut object, "path", change.path);
    let side = |e: &Entry| {
        let mut side = Map::new();
        ls::describe(&mut side, e);
        Value::from(side)
    };
    let (kind, left, right) = match &change.difference {
        Difference::Added(right) => ("added", None, Some(*right)),
        Difference::Removed(left) => ("removed", Some(*left), None),
        Difference::Changed { left, right, what } => {
            let all = [
                (what.kind, "type"),
                (what.content, "content"),
                (what.size, "size"),
                (what.mtime, "mtime"),
                (what.mode, "mode"),
                (what.owner, "owner"),
                (what.xattrs, "xattrs"),
                (what.links, "links"),
            ];
            let names: Vec<&str> =
                all.iter().filter(|(differs, _)| *differs).map(|(_, name)| *name).collect();
            object.insert("differs".into(), names.into());
            ("changed", Some(*left), Some(*right))
        }
        Difference::Lost(_) => ("lost", None, None),
    };
    object.insert("change".into(), kind.into());
    for (name, entry) in [("left", left), ("right", right)] {
        if let Some(entry) = entry {
            object.insert(name.into(), side(entry));
        }
    }
    object.into()
}

/// Names of one kind.
#[derive(Clone, Copy, Default)]
struct Names {
    added: u64,
    removed: u64,
    changed: u64,
}

/// What was found, in numbers.
#[derive(Default)]
struct Tally {
    files: Names,
    folders: Names,
    others: Names,
    /// Bytes of files that are in B and not in A, and the other way round.
    added_bytes: u64,
    removed_bytes: u64,
    /// Folders that could not be compared to their end.
    lost: u64,
}

impl Tally {
    fn count(&mut self, difference: &Difference<'_>) {
        let size = |e: &Entry| match e.node {
            Node::File(_) => e.stat.size,
            _ => 0,
        };
        match difference {
            Difference::Added(e) => {
                self.of(e).added += 1;
                self.added_bytes = self.added_bytes.saturating_add(size(e));
            }
            Difference::Removed(e) => {
                self.of(e).removed += 1;
                self.removed_bytes = self.removed_bytes.saturating_add(size(e));
            }
            Difference::Changed { left, right, what } => {
                self.of(right).changed += 1;
                if what.content {
                    self.added_bytes = self.added_bytes.saturating_add(size(right));
                    self.removed_bytes = self.removed_bytes.saturating_add(size(left));
                }
            }
            Difference::Lost(_) => {}
        }
    }

    fn of(&mut self, e: &Entry) -> &mut Names {
        match e.node {
            Node::File(_) => &mut self.files,
            Node::Folder(_) => &mut self.folders,
            _ => &mut self.others,
        }
    }

    fn any(&self) -> bool {
        [self.files, self.folders, self.others].iter().any(|n| n.added + n.removed + n.changed > 0)
    }

    fn text(&self) -> String {
        if !self.any() {
            return "no differences".into();
        }
        let mut parts = Vec::new();
        for (what, n) in [("files", self.files), ("folders", self.folders), ("others", self.others)] {
            if n.added + n.removed + n.changed > 0 {
                parts.push(format!(
                    "{what}: {} added, {} removed, {} changed",
                    words::count(n.added),
                    words::count(n.removed),
                    words::count(n.changed)
                ));
            }
        }
        let (added, removed) = (words::size(self.added_bytes), words::size(self.removed_bytes));
        format!("{}; {added} added, {removed} removed", parts.join("; "))
    }

    fn machine(&self) -> Value {
        let names = |n: Names| json!({"added": n.added, "removed": n.removed, "changed": n.changed});
        json!({
            "message_type": "summary",
            "files": names(self.files),
            "folders": names(self.folders),
            "others": names(self.others),
            "added_bytes": self.added_bytes,
            "removed_bytes": self.removed_bytes,
            "lost": self.lost,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_tell_in_what_and_fit_their_columns() {
        let all = Differs {
            kind: true,
            content: true,
            size: true,
            mtime: true,
            mode: true,
            owner: true,
            xattrs: true,
            links: true,
        };
        assert_eq!(letters(&all), "Tcstpoxl");
        assert_eq!(letters(&all).len(), LETTERS);
        assert_eq!(letters(&Differs { mode: true, ..Differs::default() }), "p");
    }
}
