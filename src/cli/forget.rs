//! `pastfs forget`.

use super::access::Global;
use super::ending::Exit;
use super::output::Output;
use super::progress::Progress;
use super::select::{Filters, Target};
use super::snapshots::{machine, readable, texts};
use super::words::{self, Table};
use crate::clock::{self, Time};
use crate::event::Event;
use crate::fault::{Error, Fault, Result};
use crate::format::snapshot::{Action, Private};
use crate::id::SnapshotId;
use crate::repository::{Repository, Right, Snapshot};
use crate::retention::{self, Candidate, GroupBy, Policy, Reason};
use crate::seal::Role;
use jiff::Span;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// Forget snapshots, by rules or by their ids
///
/// With rules (--keep-...), snapshots that no rule keeps are forgotten. The rules are applied to the snapshots of each host
/// and set of paths by themselves (--group-by). A rule of 7 days keeps the newest snapshot of each of the 7 newest days that
/// have one: days without a backup do not count, so a machine that was off for weeks loses nothing by it. Hours and days are
/// those of the local zone (--utc), weeks begin on Monday (ISO 8601). The newest snapshot of each group always stays, and so
/// do snapshots that are held (`pastfs tag --hold`). A snapshot whose time is more than an hour ahead of this machine's
/// clock stays, takes nobody's place, and is warned of. So does one by a writer key that the storage took more than a day
/// after the time that it bears, or that bears another host than the key is for: the key may be stolen, and such snapshots
/// are made to push true ones out.
///
/// With ids, exactly these are forgotten; one that is held is refused.
///
/// Forgotten snapshots vanish from all lists and mounts; nothing is deleted, and no space freed, before the repository
/// is pruned. Until then --undo brings them back; `pastfs snapshots --forgotten` lists them.
#[derive(clap::Args)]
pub struct Forget {
    /// Snapshots to forget, by their ids (at least 4 digits)
    #[arg(value_name = "SNAPSHOT-ID")]
    ids: Vec<OsString>,
    /// Bring these forgotten snapshots back
    #[arg(long, requires = "ids")]
    undo: bool,
    /// Forget nothing, tell what would be
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Prune the repository afterwards, as `pastfs prune` does
    #[arg(long, conflicts_with_all = ["undo", "dry_run"])]
    prune: bool,
    #[command(flatten)]
    rules: Rules,
    /// Apply the rules to snapshots that have these in common: host, paths, tags; or none of them: all together
    #[arg(long, value_name = "WHAT,WHAT", default_value = "host,paths", value_parser = parse_group_by)]
    group_by: GroupBy,
    /// Hours, days and so on are those of UTC, not of the local zone
    #[arg(long)]
    utc: bool,
    /// Believe what writer keys say of time and host: for a copy of a repository whose files have other times, or where
    /// backups take longer than a day
    #[arg(long, conflicts_with = "ids")]
    trust_writers: bool,
    #[command(flatten)]
    filters: Filters,
}

#[derive(clap::Args)]
#[group(conflicts_with = "ids")]
#[command(next_help_heading = "Rules")]
struct Rules {
    /// Keep the newest N snapshots
    #[arg(short = 'l', long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_last: u32,
    /// Keep the newest snapshot of each of the last N hours that have one
    #[arg(short = 'H', long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_hourly: u32,
    /// The same for days
    #[arg(short = 'd', long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_daily: u32,
    /// The same for weeks
    #[arg(short = 'w', long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_weekly: u32,
    /// The same for months
    #[arg(short = 'm', long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_monthly: u32,
    /// The same for years
    #[arg(short = 'y', long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_yearly: u32,
    /// Keep all that are at most so much older than the newest of their group: 36h, 14d, 2w, 1y6m (m are months)
    #[arg(long, value_name = "SPAN", value_parser = retention::parse_within)]
    keep_within: Option<Span>,
    /// Keep all with this tag, or with all of `a,b` (may be repeated: any of them)
    #[arg(long, value_name = "TAG[,TAG]")]
    keep_tag: Vec<OsString>,
}

/// A snapshot, and what becomes of it.
struct Row {
    snapshot: Arc<Snapshot>,
    private: Private,
    /// None: forgotten.
    reasons: Vec<Reason>,
}

impl Forget {
    pub fn run(self, global: &Global) -> Result<Exit> {
        let policy = self.policy()?;
        let targets = parse_ids(&self.ids)?;
        if targets.is_empty() && policy.is_empty() {
            return Err(Error::misuse("nothing says which snapshots to forget")
                .hint("name rules, such as --keep-daily 7 --keep-weekly 5, or the ids of snapshots"));
        }
        let repository = global.open_plainly()?;
        let right = if self.dry_run { Right::Read } else { Right::Manage };
        repository.allow(right, "forgetting snapshots")?;
        let groups = match targets.is_empty() {
            true => self.by_rules(global, &repository, &policy)?,
            false => vec![self.by_ids(global, &repository, &targets)?],
        };
        warn_of_times(global, &groups);
        let gone: Vec<SnapshotId> =
            groups.iter().flatten().filter(|r| r.reasons.is_empty()).map(|r| r.snapshot.id).collect();
        if !self.dry_run {
            let action = if self.undo { Action::Unforget } else { Action::Forget };
            repository.add_note(action, &gone, &[])?;
        }
        self.tell(global, &groups, targets.is_empty(), gone.len() as u64)?;
        if self.prune { super::prune::after_forget(global, &repository) } else { Ok(Exit::Done) }
    }

    fn policy(&self) -> Result<Policy> {
        let r = &self.rules;
        let mut tags = Vec::new();
        for list in &r.keep_tag {
            tags.push(super::access::tags(std::slice::from_ref(list))?);
        }
        Ok(Policy {
            last: r.keep_last,
            hourly: r.keep_hourly,
            daily: r.keep_daily,
            weekly: r.keep_weekly,
            monthly: r.keep_monthly,
            yearly: r.keep_yearly,
            within: r.keep_within,
            tags,
        })
    }

    /// Groups, and in each the snapshots, oldest first.
    fn by_rules(&self, global: &Global, repository: &Repository, policy: &Policy) -> Result<Vec<Vec<Row>>> {
        let mut snapshots = self.filters.snapshots(repository)?;
        let mut privates = Vec::new();
        let mut candidates = Vec::new();
        let is_doubted = |s: &Arc<Snapshot>| !self.trust_writers && s.author.role == Role::Writer;
        let stored = match snapshots.iter().any(is_doubted) {
            true => repository.stored_times()?,
            false => HashMap::new(),
        };
        for s in std::mem::take(&mut snapshots) {
            // What belongs to no group stays, and is told.
            let Some(private) = readable(global, repository, &s)? else { continue };
            let (is_doubted, bound_to) = (is_doubted(&s), &s.author.host);
            candidates.push(Candidate {
                time: s.manifest.time,
                host: s.manifest.host.clone(),
                paths: private.paths.clone(),
                tags: s.tags.clone(),
                held: s.held,
                // One that went meanwhile is of no time at all.
                stored: is_doubted.then(|| stored.get(&s.id).copied().unwrap_or(i64::MAX)),
                is_foreign: is_doubted && !bound_to.is_empty() && *bound_to != s.manifest.host,
            });
            privates.push(private);
            snapshots.push(s);
        }
        let zone = if self.utc { TimeZone::UTC } else { TimeZone::system() };
        let groups = retention::judge(&candidates, policy, self.group_by, &zone, clock::now());
        let mut row = |v: retention::Verdict| Row {
            snapshot: snapshots[v.index].clone(),
            private: std::mem::take(&mut privates[v.index]),
            reasons: v.reasons,
        };
        Ok(groups.into_iter().map(|g| g.verdicts.into_iter().map(&mut row).collect()).collect())
    }

    /// Exactly these: all are found, or it is an error.
    fn by_ids(&self, global: &Global, repository: &Repository, targets: &[Target]) -> Result<Vec<Row>> {
        let live = repository.snapshots()?;
        let hidden = repository.forgotten()?;
        let (from, others) = if self.undo { (hidden, live) } else { (live, hidden) };
        let from = self.filters.pass(repository, from)?;
        let (mut rows, mut seen) = (Vec::new(), HashSet::new());
        for target in targets {
            let snapshot = target.among(&from).map_err(|e| match target.among(&others) {
                Ok(s) if e.fault() == Fault::Missing => {
                    let is = if self.undo { "not forgotten" } else { "forgotten already" };
                    Error::new(Fault::Missing, format!("snapshot {} is {is}", s.id.short()))
                }
                _ => e,
            })?;
            if seen.insert(snapshot.id) {
                let private = readable(global, repository, &snapshot)?.unwrap_or_default();
                rows.push(Row { snapshot, private, reasons: Vec::new() });
            }
        }
        if let Some(held) = rows.iter().find(|r| r.snapshot.held && !self.undo) {
            return Err(held_error(&held.snapshot));
        }
        Ok(rows)
    }

    fn tell(&self, global: &Global, groups: &[Vec<Row>], by_rules: bool, gone: u64) -> Result<()> {
        let all = groups.iter().map(Vec::len).sum::<usize>() as u64;
        let mut out = Output::open()?;
        if global.json {
            let action = |r: &Row| match (r.reasons.is_empty(), self.undo) {
                (false, _) => "keep",
                (true, false) => "forget",
                (true, true) => "unforget",
            };
            let one = |r: &Row| {
                let mut object = machine(&r.snapshot, &r.private);
                object["action"] = action(r).into();
                object["reasons"] = r.reasons.iter().map(|r| r.word()).collect::<Vec<_>>().into();
                object
            };
            let snapshots: Vec<Value> = groups.iter().flatten().map(one).collect();
            let summary = json!({
                "message_type": "summary",
                "dry_run": self.dry_run,
                "kept": all - gone,
                if self.undo { "unforgotten" } else { "forgotten" }: gone,
                "snapshots": snapshots,
            });
            out.line(summary.to_string())?;
        } else if !global.quiet {
            for (n, group) in groups.iter().enumerate() {
                if by_rules {
                    if n > 0 {
                        out.line("")?;
                    }
                    out.line(self.head(group))?;
                }
                let mut table = Table::new(&["", "Time", "ID", "Tags", "Why"]);
                for r in group {
                    table.row(self.row(r));
                }
                table.print(&mut out)?;
            }
            if by_rules {
                out.line("")?;
            }
            for line in self.summary(all - gone, gone, by_rules) {
                out.line(line)?;
            }
        }
        out.finish()
    }

    /// What the snapshots of a group have in common.
    fn head(&self, group: &[Row]) -> String {
        let mut parts = Vec::new();
        if let Some(r) = group.first() {
            let by = self.group_by;
            let mut paths = r.private.paths.clone();
            paths.sort();
            let tags = &r.snapshot.tags;
            parts.extend(by.host.then(|| format!("host {}", words::visible(&r.snapshot.manifest.host))));
            parts.extend(by.paths.then(|| format!("paths {}", texts(&paths, " "))));
            parts.extend((by.tags && !tags.is_empty()).then(|| format!("tags {}", texts(tags, ","))));
        }
        if parts.is_empty() { "all:".into() } else { format!("{}:", parts.join(", ")) }
    }

    fn row(&self, r: &Row) -> Vec<String> {
        let what = match (r.reasons.is_empty(), self.undo) {
            (false, _) => "keep",
            (true, false) => "forget",
            (true, true) => "bring back",
        };
        vec![
            what.into(),
            self.time(r.snapshot.manifest.time),
            r.snapshot.id.short(),
            texts(&r.snapshot.tags, ","),
            r.reasons.iter().map(|r| r.word()).collect::<Vec<_>>().join(", "),
        ]
    }

    fn time(&self, time: Time) -> String {
        if self.utc { time.utc() } else { words::local_time(time) }
    }

    fn summary(&self, kept: u64, gone: u64, by_rules: bool) -> Vec<String> {
        let counted = words::counted(gone, "snapshot", "snapshots");
        let kept = if by_rules { format!(", {} kept", words::count(kept)) } else { String::new() };
        match (self.dry_run, self.undo) {
            (true, false) => vec![format!("dry run: {counted} would be forgotten{kept}")],
            (true, true) => vec![format!("dry run: {counted} would be brought back")],
            (false, true) => vec![format!("{counted} brought back")],
            (false, false) => {
                let mut lines = vec![format!("{counted} forgotten{kept}")];
                if gone > 0 {
                    lines.push(
                        "their space is freed once the repository is pruned; until then `pastfs forget --undo ID` \
                         brings them back"
                            .into(),
                    );
                }
                lines
            }
        }
    }
}

/// Ids alone: what else names a snapshot may name another one a moment later.
fn parse_ids(given: &[OsString]) -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for text in given {
        let target = Target::parse(text).ok().filter(|t| t.is_id() && t.path.is_none());
        targets.push(target.ok_or_else(|| {
            let text = String::from_utf8_lossy(text.as_bytes());
            Error::misuse(format!("{text:?} is no id of a snapshot"))
                .hint("write at least 4 digits of an id, as `pastfs snapshots` shows it")
        })?);
    }
    Ok(targets)
}

fn held_error(s: &Snapshot) -> Error {
    let name = s.id.short();
    Error::misuse(format!("snapshot {name} is held: nothing was forgotten"))
        .hint(format!("`pastfs tag --release {name}` ends that"))
}

/// Tells of snapshots that the rules can say nothing of.
fn warn_of_times(global: &Global, groups: &[Vec<Row>]) {
    let observer = Progress::warnings(global);
    for r in groups.iter().flatten() {
        let s = &r.snapshot;
        let why = match () {
            _ if r.reasons.contains(&Reason::Backdated) => {
                "was written by a writer key and bears another time than the storage took it at"
            }
            _ if r.reasons.contains(&Reason::Foreign) => {
                "was written by a writer key that is for another host"
            }
            _ => continue,
        };
        observer.event(Event::Warning(&format!(
            "snapshot {} of {}, {}, {why}: it is kept, and no rule counts it. If you know it for false, the key may be \
             stolen: `pastfs key end` ends it, and `pastfs forget ID` forgets what it wrote",
            s.id.short(),
            words::visible(&s.manifest.host),
            words::local_time(s.manifest.time)
        )));
    }
    for r in groups.iter().flatten().filter(|r| r.reasons.contains(&Reason::NoTrueTime)) {
        let s = &r.snapshot;
        observer.event(Event::Warning(&format!(
            "snapshot {} of {} has a time that cannot be true by this machine's clock, {}: it is kept, and no rule counts it",
            s.id.short(),
            words::visible(&s.manifest.host),
            words::local_time(s.manifest.time)
        )));
    }
}

fn parse_group_by(text: &str) -> std::result::Result<GroupBy, String> {
    let mut by = GroupBy { host: false, paths: false, tags: false };
    for word in text.split(',').filter(|_| text != "none") {
        match word {
            "host" => by.host = true,
            "paths" => by.paths = true,
            "tags" => by.tags = true,
            _ => return Err(format!("{word:?} is none of host, paths, tags; `none` is all together")),
        }
    }
    Ok(by)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_named_by_what_they_have_in_common() {
        let by = |host, paths, tags| Ok(GroupBy { host, paths, tags });
        assert_eq!(parse_group_by("host,paths"), by(true, true, false));
        assert_eq!(parse_group_by("tags"), by(false, false, true));
        assert_eq!(parse_group_by("none"), by(false, false, false));
        assert!(parse_group_by("").is_err() && parse_group_by("hosts").is_err());
    }

    #[test]
    fn only_ids_are_forgotten_by_name() {
        assert_eq!(parse_ids(&["3f2a".into(), "3F2A91C0".into()]).unwrap().len(), 2);
        for text in ["latest", "2026-11-19", "yesterday", "3f2", "3f2a91c0:/etc", "rubbish"] {
            assert_eq!(parse_ids(&[text.into()]).err().unwrap().fault(), Fault::Misuse, "{text}");
        }
    }
}
