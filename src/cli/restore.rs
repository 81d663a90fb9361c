//! `pastfs restore`.

use super::access::{Ask, Global, stop_on_signals};
use super::ending::Exit;
use super::output::Output;
use super::progress::Progress;
use super::select::{Filters, Target};
use super::words;
use crate::fault::{Doing, Error, Result};
use crate::id::SnapshotId;
use crate::repository::Right;
use crate::restore::{self, Options, Overwrite, Report};
use crate::storage::Costs;
use serde_json::json;
use std::ffi::OsString;
use std::path::PathBuf;

/// Bring back a snapshot, or a part of it
///
/// Of a folder the contents go into the target, a file goes into it under its name; of a whole snapshot the
/// absolute paths lie below the target. Files that are there already with the same size, time and attributes are
/// left alone; of others of the same name only what differs is written. Nothing outside the target is ever
/// written. A restore that was interrupted goes on where it was when it is run again. Without root, files belong
/// to who restores them. SNAPSHOT is an id (at least 4 digits), `latest`, a time such as 2026-11-19 (the end of that
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
    /// Which files that are there already are written over
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    overwrite: When,
    /// Compare files that are there already by content, not by size and time: the same as --overwrite always
    #[arg(short, long, conflicts_with = "overwrite")]
    checksum: bool,
    /// Delete what is in the restored folders and not in the snapshot
    ///
    /// Only within the paths that were backed up; but what the backup was told to leave out is not in the
    /// snapshot, and goes as well: give the same --exclude here. What --exclude matches stays, with --include only
    /// what that matches goes; what the backup could not read stays. Symbolic links are not followed, other file
    /// systems not entered. Look at it with --dry-run -v first.
    #[arg(long)]
    delete: bool,
    /// Read all files back when everything is written, and prove that they hold what the snapshot does
    ///
    /// All data is written to the disk and dropped from memory before, where the file system can (tmpfs cannot).
    #[arg(long)]
    verify: bool,
    /// Write and delete nothing; with -v, tell what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    filters: Filters,
}

/// When a file that is there already is written over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum When {
    /// If its content differs: every file is read
    Always,
    /// If its size, time or another attribute differs
    #[default]
    IfChanged,
    /// If it is older than the one in the snapshot
    IfNewer,
    /// Not at all
    Never,
}

impl Restore {
    fn overwrite(&self) -> Result<Overwrite> {
        let overwrite = match (self.checksum, self.overwrite) {
            (true, _) | (_, When::Always) => Overwrite::Always,
            (_, When::IfChanged) => Overwrite::IfChanged,
            (_, When::IfNewer) => Overwrite::IfNewer,
            (_, When::Never) => Overwrite::Never,
        };
        if self.verify && matches!(overwrite, Overwrite::IfNewer | Overwrite::Never) {
            return Err(Error::misuse(
                "--verify compares all files, and --overwrite leaves some that differ",
            )
            .hint("leave out one of the two"));
        }
        Ok(overwrite)
    }

    pub fn run(self, global: &Global) -> Result<Exit> {
        let dry_run = self.dry_run;
        let overwrite = self.overwrite()?;
        let source = Target::parse(&self.snapshot)?;
        let target =
            std::path::absolute(&self.target).doing(|| format!("looking for {}", self.target.display()))?;
        let store = global.store();
        let credential = global.credential(Ask::Once)?;
        let stop = stop_on_signals()?;
        let progress = Progress::start(global);
        let observer = progress.observer();
        let repository = global.open_to_read_with(store, &credential, observer.clone())?;
        repository.allow(Right::Read, "restoring")?;
        let snapshot = source.find(&repository, &self.filters)?;
        let options = Options {
            path: source.path.unwrap_or_default(),
            target: target.clone(),
            include: self.include,
            exclude: self.exclude,
            overwrite,
            delete: self.delete,
            spared: Vec::new(),
            verify: self.verify,
            dry_run,
            threads: 0,
        };
        let report = restore::run(&repository, &snapshot, options, &observer, &stop)?;
        drop(progress);
        let mut out = Output::open()?;
        if global.json {
            out.line(machine(&report, &snapshot.id, dry_run, &repository.costs()))?;
        } else if !global.quiet {
            for line in summary(&report, &snapshot.id, dry_run) {
                out.line(line)?;
            }
        }
        out.finish()?;
        Ok(match (report.damaged, report.failed + report.incomplete) {
            (0, 0) => Exit::Done,
            (0, _) => Exit::Partly,
            _ => Exit::Damaged,
        })
    }
}

fn summary(report: &Report, snapshot: &SnapshotId, dry_run: bool) -> Vec<String> {
    let would = |done: &'static str, would: &'static str| if dry_run { would } else { done };
    let mut lines = vec![format!(
        "{} {} of snapshot {}: {} in {} ({})",
        words::counted(report.files, "file", "files"),
        would("restored", "would be restored"),
        snapshot.short(),
        words::size(report.bytes),
        words::duration(report.seconds),
        words::rate(report.bytes, report.seconds)
    )];
    if report.skipped > 0 {
        lines.push(format!("{} there already, and equal", words::counted(report.skipped, "was", "were")));
    }
    if report.rewritten > 0 {
        let n = words::counted(report.rewritten, "was", "were");
        lines.push(format!("{n} there already, {}", would("and rewritten where it differed", "and differ")));
    }
    if report.kept > 0 {
        let n = words::counted(report.kept, "was", "were");
        lines.push(format!("{n} there already, and left as --overwrite says"));
    }
    if report.skipped + report.rewritten > 0 && !dry_run {
        lines.push(format!("{} written", words::size(report.written)));
    }
    if report.deleted > 0 {
        let n = words::counted(report.deleted, "thing", "things");
        lines.push(format!("{n} {}", would("deleted", "would be deleted")));
    }
    if report.verified > 0 {
        lines.push(format!("{} read back and right", words::counted(report.verified, "file", "files")));
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

fn machine(report: &Report, snapshot: &SnapshotId, dry_run: bool, costs: &Costs) -> String {
    json!({
        "message_type": "summary",
        "dry_run": dry_run,
        "snapshot_id": snapshot.hex(),
        "files": report.files,
        "folders": report.folders,
        "others": report.others,
        "bytes": report.bytes,
        "bytes_written": report.written,
        "skipped": report.skipped,
        "kept": report.kept,
        "rewritten": report.rewritten,
        "deleted": report.deleted,
        "verified": report.verified,
        "failed": report.failed,
        "damaged": report.damaged,
        "incomplete": report.incomplete,
        "seconds": report.seconds,
        "store": words::machine_costs(costs),
    })
    .to_string()
}
