//! `pastfs tag`.

use super::access::{self, Global};
use super::ending::Exit;
use super::output::{self, Output};
use super::select::{Filters, Target};
use super::words;
use crate::fault::{Error, Result};
use crate::format::snapshot::Action;
use crate::id::SnapshotId;
use crate::repository::{Right, Snapshot};
use serde_json::json;
use std::collections::HashSet;
use std::ffi::OsString;
use std::sync::Arc;

/// Add tags to snapshots, remove tags, protect snapshots from being forgotten
///
/// Snapshots themselves are never rewritten: what is said of them lies in notes beside them, and their ids stay.
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("what").args(["add", "remove", "hold", "release"]).required(true).multiple(true)))]
pub struct Tag {
    /// Add this tag, or several: a,b (may be repeated)
    #[arg(long, value_name = "TAG[,TAG]")]
    add: Vec<OsString>,
    /// Remove this tag, or several: a,b (may be repeated)
    #[arg(long, value_name = "TAG[,TAG]")]
    remove: Vec<OsString>,
    /// Hold the snapshots: `pastfs forget` keeps them, whatever the rules say
    #[arg(long, conflicts_with = "release")]
    hold: bool,
    /// Hold them no more
    #[arg(long)]
    release: bool,
    /// Which snapshots: ids, `latest`, or times
    #[arg(value_name = "SNAPSHOT", required = true)]
    snapshots: Vec<OsString>,
    #[command(flatten)]
    filters: Filters,
}

impl Tag {
    pub fn run(self, global: &Global) -> Result<Exit> {
        let (add, remove) = (access::tags(&self.add)?, access::tags(&self.remove)?);
        if let Some(both) = add.iter().find(|t| remove.contains(t)) {
            return Err(Error::misuse(format!("{} is to be added and removed", words::visible(both))));
        }
        let mut targets = Vec::new();
        for text in &self.snapshots {
            let target = Target::parse(text)?;
            if target.path.is_some() {
                return Err(Error::misuse(format!("{} names a path", text.to_string_lossy()))
                    .hint("tags belong to whole snapshots: leave the path out"));
            }
            targets.push(target);
        }
        let repository = global.open_plainly()?;
        repository.allow(Right::Manage, "tagging snapshots")?;
        let all = self.filters.snapshots(&repository)?;
        if all.is_empty() {
            return Err(self.filters.none());
        }
        let (mut meant, mut seen) = (Vec::new(), HashSet::new());
        for target in &targets {
            let s = target.among(&all)?;
            if seen.insert(s.id) {
                meant.push(s);
            }
        }
        // Only where it changes something: each note is kept for as long as the snapshot.
        let of = |changes: &dyn Fn(&Snapshot) -> bool| -> Vec<SnapshotId> {
            meant.iter().filter(|s: &&Arc<Snapshot>| changes(s)).map(|s| s.id).collect()
        };
        let removed = of(&|s| remove.iter().any(|t| s.tags.contains(t)));
        let added = of(&|s| add.iter().any(|t| !s.tags.contains(t)));
        let held = of(&|s| self.hold && !s.held);
        let released = of(&|s| self.release && s.held);
        // Removed first, so that there is room for what is added.
        let notes = [
            (Action::Untag, &removed, &remove[..]),
            (Action::Tag, &added, &add[..]),
            (Action::Hold, &held, &[]),
            (Action::Release, &released, &[]),
        ];
        for (action, ids, tags) in notes.into_iter().filter(|(_, ids, _)| !ids.is_empty()) {
            repository.add_note(action, ids, tags)?;
        }
        let lists = [removed, added, held, released];
        let changed = lists.iter().flatten().collect::<HashSet<_>>().len() as u64;
        if global.json {
            let ids: Vec<String> = meant.iter().map(|s| s.id.hex()).collect();
            output::line(json!({ "snapshots": ids, "changed": changed }).to_string())?;
        } else if !global.quiet {
            let mut out = Output::open()?;
            out.line(format!("{} changed", words::counted(changed, "snapshot", "snapshots")))?;
            out.finish()?;
        }
        Ok(Exit::Done)
    }
}
