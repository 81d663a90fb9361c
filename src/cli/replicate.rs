//! `pastfs replicate`.

use super::access::{self, Global, stop_on_signals};
use super::ending::Exit;
use super::output::Output;
use super::progress::Progress;
use super::prune;
use super::select::{Filters, Target};
use super::words::{self, counted, size};
use crate::event::Event;
use crate::fault::{Error, Result};
use crate::id::SnapshotId;
use crate::replicate::{self, Flawed, Options, Report};
use crate::repository::Repository;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::ffi::OsString;

/// Copy what is missing into a replica: the same repository in a second place
///
/// The replica is made where there is nothing, with the same keys. Snapshots that it does not have are copied, the newest first,
/// with all that they need and is not there: packs as they are, each verified to the last chunk, and each snapshot only when all of
/// it is there. What is there already is not copied again, also by a run that follows one that was killed. Tags, holds
/// and their ends follow; that a snapshot was forgotten only with --prune. Nothing is ever deleted because it is not here
/// any more: an emptied or hidden repository empties no replica. What a replica has forgotten is not brought back to it.
///
/// A replica is a repository like any other: mount it, check it, back up into it, prune it, replicate from it to here. Each has its
/// own index, and is pruned for itself. Backups and prunes may run on both sides meanwhile.
///
/// A pack or snapshot that is damaged here is told, left out, and does not keep the others; the exit code is then 4, or 3
/// where snapshots were left for a later run. It takes a full key, since only what such a key says of packs is relied on
/// by others.
#[derive(clap::Args)]
pub struct Replicate {
    /// Where the replica is: a folder, or a URL as for -r
    #[arg(value_name = "TO")]
    to: OsString,
    /// Only these snapshots: ids, times, `latest`
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<OsString>,
    /// Forget there what was forgotten here, and prune the replica afterwards
    #[arg(long)]
    prune: bool,
    /// Make the replica anew where one was before and nothing is now
    #[arg(long)]
    init: bool,
    /// Copy nothing, tell what would be
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    filters: Filters,
}

impl Replicate {
    pub fn run(self, global: &Global) -> Result<Exit> {
        let mut targets = Vec::new();
        for text in &self.snapshots {
            let target = Target::parse(text)?;
            if target.path.is_some() {
                return Err(Error::misuse(format!("{} names a path", text.to_string_lossy()))
                    .hint("snapshots are copied as a whole: leave the path out"));
            }
            targets.push(target);
        }
        let progress = Progress::counting(global, ["pack", "packs"]);
        let observer = progress.observer();
        let repository = global.open(observer.clone())?;
        let store = global.replica_for_writing(&self.to, self.dry_run)?;
        if !self.init && repository.remembers(&*store)? {
            let text = format!("{} held a replica before, and is empty", store.location());
            return Err(Error::misuse(text).hint(
                "is the disk mounted? If what was there is lost, `pastfs replicate --init` makes the replica anew",
            ));
        }
        let stop = stop_on_signals()?;
        let options = Options {
            snapshots: self.chosen(&repository, &targets)?,
            forget: self.prune,
            dry_run: self.dry_run,
            host: access::host_name(),
        };
        let (replica, report) = replicate::run(&repository, &store, &options, &observer, &stop)?;
        drop(progress);
        if report.copied.is_empty() && report.there > 0 && repository.snapshots()?.is_empty() {
            observer.event(Event::Warning("there is no snapshot to copy; the replica keeps what it has"));
        }
        tell(global, &report, self.dry_run)?;
        let exit = match () {
            () if !report.flaws.is_empty() => Exit::Damaged,
            () if !report.left.is_empty() => Exit::Partly,
            () => Exit::Done,
        };
        match replica {
            Some(replica) if self.prune => {
                let pruned = prune::with_defaults(global, &replica, self.dry_run)?;
                Ok(if exit == Exit::Done { pruned } else { exit })
            }
            _ => Ok(exit),
        }
    }

    /// `None`: all.
    fn chosen(&self, repository: &Repository, targets: &[Target]) -> Result<Option<HashSet<SnapshotId>>> {
        let f = &self.filters;
        if targets.is_empty() && f.host.is_empty() && f.tag.is_empty() && f.path.is_empty() {
            return Ok(None);
        }
        let all = self.filters.snapshots(repository)?;
        if targets.is_empty() {
            return Ok(Some(all.iter().map(|s| s.id).collect()));
        }
        targets.iter().map(|t| Ok(t.among(&all)?.id)).collect::<Result<_>>().map(Some)
    }
}

fn tell(global: &Global, r: &Report, dry_run: bool) -> Result<()> {
    let mut out = Output::open()?;
    if global.json {
        for flaw in &r.flaws {
            out.line(flawed(flaw).to_string())?;
        }
        for (id, why) in &r.left {
            out.line(json!({ "message_type": "left", "snapshot_id": id.hex(), "why": why }).to_string())?;
        }
        out.line(summary(r, dry_run).to_string())?;
    } else {
        for flaw in &r.flaws {
            out.line(format!(
                "{}: {}; it was not copied; to do: {}",
                flaw.object,
                words::harmless(&flaw.what),
                words::harmless(&flaw.advice)
            ))?;
        }
        for (id, why) in &r.left {
            out.line(format!("snapshot {} was left out: {}", id.short(), words::harmless(why)))?;
        }
        if !global.quiet {
            for line in lines(r, dry_run) {
                out.line(line)?;
            }
        }
    }
    out.finish()
}

fn flawed(flaw: &Flawed) -> Value {
    json!({ "message_type": "finding", "object": flaw.object, "what": flaw.what, "advice": flaw.advice })
}

fn lines(r: &Report, dry_run: bool) -> Vec<String> {
    let mut lines = Vec::new();
    if r.is_new {
        lines.push(if dry_run { "would make the replica" } else { "made the replica" }.into());
    }
    let mut line = format!(
        "{} {}: {} of {}",
        if dry_run { "would copy" } else { "copied" },
        counted(r.copied.len() as u64, "snapshot", "snapshots"),
        counted(r.packs.0, "pack", "packs"),
        size(r.packs.1),
    );
    if r.anew > 0 {
        let were = if dry_run { "would be stored anew" } else { "stored anew" };
        line.push_str(&format!("; {} {were}", counted(r.anew, "chunk", "chunks")));
    }
    if !dry_run && r.packs.1 > 0 {
        line.push_str(&format!(" ({})", words::rate(r.packs.1, r.seconds)));
    }
    lines.push(line);
    if r.named > 0 {
        lines.push(format!("found {} that an earlier run had copied", counted(r.named, "pack", "packs")));
    }
    if r.notes > 0 {
        lines.push(format!(
            "{} {}",
            if dry_run { "would copy" } else { "copied" },
            counted(r.notes, "note", "notes")
        ));
    }
    if r.there + r.forgotten > 0 {
        let mut line = format!("{} there already", counted(r.there, "snapshot was", "snapshots were"));
        if r.forgotten > 0 {
            line.push_str(&format!(", and {} forgotten there", words::count(r.forgotten)));
        }
        lines.push(line);
    }
    if dry_run {
        lines.push("dry run: nothing was changed".into());
    }
    lines
}

fn summary(r: &Report, dry_run: bool) -> Value {
    json!({
        "message_type": "summary",
        "dry_run": dry_run,
        "new": r.is_new,
        "snapshots_copied": r.copied.iter().map(|id| id.hex()).collect::<Vec<_>>(),
        "snapshots_left": r.left.len(),
        "snapshots_there": r.there,
        "snapshots_forgotten_there": r.forgotten,
        "packs_copied": r.packs.0,
        "bytes_copied": r.packs.1,
        "packs_found": r.named,
        "chunks_stored_anew": r.anew,
        "notes_copied": r.notes,
        "keys_copied": r.identity.0,
        "configs_copied": r.identity.1,
        "findings": r.flaws.len(),
        "seconds": r.seconds,
    })
}
