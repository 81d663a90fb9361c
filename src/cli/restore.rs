//! `pastfs restore`.

use super::access::{Ask, Global, stop_on_signals};
use super::ending::Exit;
use super::output::Output;
use super::progress::Progress;
use super::select::{Filters, Target};
use super::words;
use crate::fault::{Doing, Result};
use crate::id::SnapshotId;
use crate::repository::Right;
use crate::restore::{self, Options, Report};
use serde_json::json;
use std::ffi::OsString;
use std::path::PathBuf;

/// Bring back a snapshot, or a part of it
///
/// Of a folder the contents go into the target, a file goes into it under its name; of a whole snapshot the
/// absolute paths lie below the target. Files that are there already and equal are left alone, others of the
/// same name are replaced, and nothing outside the target is ever written. Without root, files belong to who
/// restores them. SNAPSHOT is an id (at least 4 digits), `latest`, a time such as 2026-11-19 (the end of that
/// day), '2026-11-19 14:00', yesterday or '3 days ago' (the newest snapshot not later than it), or the name of a
/// folder in the mount.
#[derive(clap::Args)]
pub struct Restore {
    /// Which snapshot, and what of it
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    snapshot: OsString,
    /// Folder to restore into; made if it is not there
    #[arg(short, long, value_name = "DIR")]
    target: PathBuf,
    /// Only what matches this gitignore pattern, and all that is in it (may be repeated)
    #[arg(short, long, value_name = "PATTERN")]
    include: Vec<OsString>,
    /// Not what matches this gitignore pattern (may be repeated)
    #[arg(short, long, value_name = "PATTERN")]
    exclude: Vec<OsString>,
    /// Write nothing; with -v, tell what would be restored
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    filters: Filters,
}

impl Restore {
    pub fn run(self, global: &Global) -> Result<Exit> {
        let dry_run = self.dry_run;
        let source = Target::parse(&self.snapshot)?;
        let target =
            std::path::absolute(&self.target).doing(|| format!("looking for {}", self.target.display()))?;
        let store = global.store()?;
        let credential = global.credential(Ask::Once)?;
        let stop = stop_on_signals()?;
        let progress = Progress::start(global);
        let observer = progress.observer();
        let repository = global.open_with(store, &credential, observer.clone())?;
        repository.allow(Right::Read, "restoring")?;
        let snapshot = source.find(&repository, &self.filters)?;
        let options = Options {
            path: source.path.unwrap_or_default(),
            target: target.clone(),
            include: self.include,
            exclude: self.exclude,
            dry_run,
            threads: 0,
        };
        let report = restore::run(&repository, &snapshot, options, &observer, &stop)?;
        drop(progress);
        let mut out = Output::open()?;
        if global.json {
            out.line(machine(&report, &snapshot.id, dry_run))?;
        } else if !global.quiet {
            for line in summary(&report, &snapshot.id, dry_run) {
                out.line(line)?;
            }
        }
        out.finish()?;
        Ok(if report.failed + report.incomplete > 0 { Exit::Partly } else { Exit::Done })
    }
}

fn summary(report: &Report, snapshot: &SnapshotId, dry_run: bool) -> Vec<String> {
    let mut lines = vec![format!(
        "{} {} of snapshot {}: {} in {} ({})",
        words::counted(report.files, "file", "files"),
        if dry_run { "would be restored" } else { "restored" },
        snapshot.short(),
        words::size(report.bytes),
        words::duration(report.seconds),
        words::rate(report.bytes, report.seconds)
    )];
    if report.skipped > 0 {
        lines.push(format!("{} there already, and equal", words::counted(report.skipped, "was", "were")));
    }
    if report.failed > 0 {
        let mut line = format!("{} not restored", words::counted(report.failed, "entry was", "entries were"));
        if report.damaged > 0 {
            line.push_str(&format!(", {} of them damaged in the repository", words::count(report.damaged)));
        }
        lines.push(line);
    }
    if report.incomplete > 0 {
        let what = words::counted(report.incomplete, "entry lacks", "entries lack");
        lines.push(format!("{what} some attributes"));
    }
    lines
}

fn machine(report: &Report, snapshot: &SnapshotId, dry_run: bool) -> String {
    json!({
        "message_type": "summary",
        "dry_run": dry_run,
        "snapshot_id": snapshot.hex(),
        "files": report.files,
        "folders": report.folders,
        "others": report.others,
        "bytes": report.bytes,
        "skipped": report.skipped,
        "failed": report.failed,
        "damaged": report.damaged,
        "incomplete": report.incomplete,
        "seconds": report.seconds,
    })
    .to_string()
}
