//! `pastfs prune`.

use super::access::{self, Global, stop_on_signals};
use super::ending::Exit;
use super::output::Output;
use super::progress::Progress;
use super::words::{self, counted, size};
use crate::clock::{self, Time};
use crate::event::{Event, Observer, Stop};
use crate::fault::{Error, Result};
use crate::id::SessionId;
use crate::prune::{self, GRACE_SECONDS, Holder, Options, Plan, Report, Unused};
use crate::repository::Repository;
use crate::retention;
use crate::seal::Compression;
use crate::storage::Costs;
use jiff::{Span, SpanRelativeTo};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::ffi::OsString;
use std::sync::Arc;

/// Give back the space of what no snapshot needs
///
/// Runs beside backups, mounts and other prunes, and may be stopped and started again at any time. Space is given back in
/// two steps: a run retires packs that nobody needs, having moved out what is still needed of them, and a run at least a day
/// later (--grace) deletes them, once every backup that was under way has ended or has seen that they are retired. Each run does
/// both; run it daily, after `pastfs forget`. A forgotten snapshot can be brought back for the same time, and is deleted then.
///
/// The plan is told first. Nothing is deleted if anything that is listed cannot be read, or is of a newer pastfs.
#[derive(clap::Args)]
pub struct Prune {
    /// Do nothing, tell what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Leave so much that nobody needs where it is, rather than move what lies beside it: a share of all packs, a size, or
    /// `unlimited`
    #[arg(long, value_name = "P%|SIZE", default_value = "5%", value_parser = parse_unused)]
    max_unused: Unused,
    /// Move at most so much in this run
    #[arg(long, value_name = "SIZE", value_parser = words::parse_size)]
    max_repack: Option<u64>,
    /// How long what is forgotten or retired stays: 36h, 3d; with 0 whoever reads it right now is cut off
    #[arg(long, value_name = "SPAN", value_parser = parse_grace, conflicts_with = "now")]
    grace: Option<i64>,
    /// Retire and delete in one go, without a grace time: waits for backups that are under way, cuts off who reads what is
    /// deleted, and leaves nothing to bring back
    #[arg(long)]
    now: bool,
    /// End this session (see `pastfs leases`): its backup starts over when it goes on (may be repeated)
    #[arg(long, value_name = "SESSION")]
    drop_lease: Vec<OsString>,
}

impl Prune {
    pub fn run(self, global: &Global) -> Result<Exit> {
        let progress = Progress::counting(global, ["snapshot", "snapshots"]);
        let observer = progress.observer();
        let repository = global.open(observer.clone())?;
        let options = Options {
            grace: self.grace.unwrap_or(GRACE_SECONDS),
            max_unused: self.max_unused,
            max_repack: self.max_repack.unwrap_or(u64::MAX),
            now: self.now,
            dry_run: self.dry_run,
            drop: dropped(&repository, &self.drop_lease)?,
            ..defaults()
        };
        prune(global, &repository, &options, progress, &observer)
    }
}

/// As `pastfs prune` has them without options.
fn defaults() -> Options {
    Options {
        grace: GRACE_SECONDS,
        max_unused: Unused::Share(0.05),
        max_repack: u64::MAX,
        now: false,
        dry_run: false,
        compression: Compression::default(),
        host: access::host_name(),
        drop: HashSet::new(),
    }
}

/// `forget --prune`.
pub fn after_forget(global: &Global, repository: &Arc<Repository>) -> Result<Exit> {
    with_defaults(global, repository, false)
}

/// As `pastfs prune` without options.
pub fn with_defaults(global: &Global, repository: &Arc<Repository>, dry_run: bool) -> Result<Exit> {
    let progress = Progress::counting(global, ["snapshot", "snapshots"]);
    let observer = progress.observer();
    prune(global, repository, &Options { dry_run, ..defaults() }, progress, &observer)
}

fn prune(
    global: &Global,
    repository: &Arc<Repository>,
    options: &Options,
    progress: Progress,
    observer: &Arc<dyn Observer>,
) -> Result<Exit> {
    let stop: Stop = stop_on_signals()?;
    let mut failed = None;
    let mut tell = |plan: &Plan| {
        if let Err(e) = tell_plan(global, plan, options.dry_run) {
            failed.get_or_insert(e);
        }
    };
    let report = prune::run(repository, options, observer, &stop, &mut tell)?;
    drop(progress);
    if let Some(e) = failed {
        return Err(e);
    }
    if !options.dry_run {
        tell_report(global, &report, &repository.costs())?;
    }
    for (pack, why) in &report.damaged {
        observer.event(Event::Warning(&format!(
            "pack {pack} is damaged and stays: {why}; `pastfs check --read-data` tells what is hit"
        )));
    }
    Ok(if report.damaged.is_empty() { Exit::Done } else { Exit::Damaged })
}

fn parse_unused(text: &str) -> std::result::Result<Unused, String> {
    if text == "unlimited" {
        return Ok(Unused::Unlimited);
    }
    let wrong = || format!("{text:?} is no limit: write it like 5%, 10GiB or unlimited");
    if let Some(percent) = text.strip_suffix('%') {
        let percent: f64 = percent.trim().parse().map_err(|_| wrong())?;
        return match (0.0..=100.0).contains(&percent) {
            true => Ok(Unused::Share(percent / 100.0)),
            false => Err(format!("{text:?} is no share: it is between 0% and 100%")),
        };
    }
    words::parse_size(text).map(Unused::Bytes).map_err(|_| wrong())
}

fn parse_grace(text: &str) -> std::result::Result<i64, String> {
    if text == "0" {
        return Ok(0);
    }
    let span: Span = retention::parse_within(text)?;
    let seconds = span.total((jiff::Unit::Second, SpanRelativeTo::days_are_24_hours()));
    seconds.map(|s| s as i64).map_err(|_| format!("{text:?} is no grace time: write it like 36h or 3d"))
}

/// The sessions that are meant, by the first digits of their names.
fn dropped(repository: &Repository, given: &[OsString]) -> Result<HashSet<SessionId>> {
    let mut ids = HashSet::new();
    if given.is_empty() {
        return Ok(ids);
    }
    let sessions = repository.sessions()?;
    for text in given {
        let text = text.to_string_lossy().to_ascii_lowercase();
        let found: Vec<SessionId> = sessions
            .iter()
            .map(|s| s.id)
            .filter(|id| !text.is_empty() && id.hex().starts_with(&*text))
            .collect();
        match found[..] {
            [id] => drop(ids.insert(id)),
            [] => {
                return Err(Error::misuse(format!("there is no session {text}"))
                    .hint("`pastfs leases` lists what there is"));
            }
            _ => return Err(Error::misuse(format!("{text} is the beginning of several sessions"))),
        }
    }
    Ok(ids)
}

fn packs(n: u64) -> String {
    counted(n, "pack", "packs")
}

fn tell_plan(global: &Global, p: &Plan, dry_run: bool) -> Result<()> {
    let mut out = Output::open()?;
    if global.json {
        out.line(machine_plan(p).to_string())?;
    } else if !global.quiet {
        for line in words_of_plan(p, dry_run) {
            out.line(line)?;
        }
    }
    out.finish()
}

fn words_of_plan(p: &Plan, dry_run: bool) -> Vec<String> {
    let (listed, kept, doomed) = p.snapshots;
    let mut lines = vec![format!(
        "{} {} {} in {} of data; the repository holds {} of {}",
        counted(listed, "snapshot", "snapshots"),
        if listed == 1 { "needs" } else { "need" },
        counted(p.wanted.0, "chunk", "chunks"),
        size(p.wanted.1),
        packs(p.packs.0),
        size(p.packs.1),
    )];
    let will = if dry_run { "would" } else { "will" };
    let mut any = false;
    if doomed > 0 {
        any = true;
        lines.push(format!("{will} delete {}", counted(doomed, "forgotten snapshot", "forgotten snapshots")));
    }
    if p.delete.0 > 0 {
        any = true;
        lines.push(format!(
            "{will} delete {}, and free {}",
            counted(p.delete.0, "retired pack", "retired packs"),
            size(p.delete.1)
        ));
    }
    if p.idle + p.emptied > 0 {
        any = true;
        let mut line = format!("{will} retire {} of {}", packs(p.idle + p.emptied), size(p.retire));
        if p.emptied > 0 {
            line.push_str(&format!(", moving {} out of {} of them", size(p.moved), p.emptied));
        }
        lines.push(line);
    }
    if !any {
        lines.push(format!("there is nothing to delete{}", if p.waiting.0 > 0 { " yet" } else { "" }));
    }
    if p.waiting.0 > 0 {
        lines.push(format!(
            "{} of {} {} retired and {} for the grace time, or for those who may rely on {}",
            packs(p.waiting.0),
            size(p.waiting.1),
            if p.waiting.0 == 1 { "is" } else { "are" },
            if p.waiting.0 == 1 { "waits" } else { "wait" },
            if p.waiting.0 == 1 { "it" } else { "them" },
        ));
    }
    if kept > 0 {
        lines.push(format!(
            "{} can still be brought back",
            counted(kept, "forgotten snapshot", "forgotten snapshots")
        ));
    }
    let (young, rest) = p.left;
    if young + rest > 0 {
        let mut parts = Vec::new();
        if young > 0 {
            parts.push(format!("{} in packs that are too young", size(young)));
        }
        if rest > 0 {
            parts.push(format!("{} that are not worth moving what lies beside them", size(rest)));
        }
        lines.push(format!("{will} leave what nobody needs: {}", parts.join(", ")));
    }
    for s in &p.sessions {
        lines.push(format!("under way: {}", holder(s)));
    }
    lines
}

fn holder(s: &Holder) -> String {
    let what = if s.purpose.is_empty() {
        "something that cannot be read".into()
    } else {
        words::visible(&s.purpose)
    };
    let mut text = format!(
        "{what} of {} since {} (session {})",
        words::visible(&s.host),
        words::local_time(Time { seconds: s.since, nanos: 0 }),
        &s.id.hex()[..8],
    );
    if s.is_silent {
        text.push_str(", silent for more than an hour: it does not count any more next time");
    }
    text
}

fn machine_plan(p: &Plan) -> Value {
    let holder = |s: &Holder| {
        json!({
            "session": s.id.hex(),
            "host": String::from_utf8_lossy(&s.host),
            "purpose": String::from_utf8_lossy(&s.purpose),
            "since": words::machine_time(Time { seconds: s.since, nanos: 0 }),
            "silent": s.is_silent,
        })
    };
    json!({
        "message_type": "plan",
        "snapshots": p.snapshots.0,
        "snapshots_kept": p.snapshots.1,
        "snapshots_to_delete": p.snapshots.2,
        "packs": p.packs.0,
        "bytes": p.packs.1,
        "chunks_needed": p.wanted.0,
        "bytes_needed": p.wanted.1,
        "packs_to_delete": p.delete.0,
        "bytes_to_delete": p.delete.1,
        "packs_to_retire": p.idle + p.emptied,
        "bytes_to_retire": p.retire,
        "packs_to_empty": p.emptied,
        "bytes_to_move": p.moved,
        "packs_waiting": p.waiting.0,
        "bytes_waiting": p.waiting.1,
        "bytes_unused_young": p.left.0,
        "bytes_unused_left": p.left.1,
        "sessions": p.sessions.iter().map(holder).collect::<Vec<_>>(),
    })
}

fn tell_report(global: &Global, r: &Report, costs: &Costs) -> Result<()> {
    let mut out = Output::open()?;
    if global.json {
        let summary = json!({
            "message_type": "summary",
            "snapshots_deleted": r.snapshots,
            "notes_deleted": r.notes,
            "packs_deleted": r.deleted.0,
            "bytes_freed": r.deleted.1,
            "packs_retired": r.retired,
            "chunks_moved": r.moved.0,
            "bytes_moved": r.moved.1,
            "bytes_stored": r.stored,
            "segments_merged": r.segments.0,
            "segments_deleted": r.segments.1,
            "packs_damaged": r.damaged.iter().map(|(id, _)| id.hex()).collect::<Vec<_>>(),
            "time": words::machine_time(clock::now()),
            "store": words::machine_costs(costs),
        });
        out.line(summary.to_string())?;
    } else if !global.quiet {
        let mut line = format!(
            "deleted {} and {}, freeing {}; retired {}",
            counted(r.snapshots, "snapshot", "snapshots"),
            packs(r.deleted.0),
            size(r.deleted.1),
            packs(r.retired),
        );
        if r.stored > 0 {
            line.push_str(&format!(
                "; moved {}, {} as stored",
                counted(r.moved.0, "chunk", "chunks"),
                size(r.stored)
            ));
        }
        if r.segments.0 > 0 {
            line.push_str(&format!("; merged {}", counted(r.segments.0, "index segment", "index segments")));
        }
        out.line(line)?;
    }
    out.finish()
}
