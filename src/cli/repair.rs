//! `pastfs repair`.

use super::access::{self, Global, stop_on_signals};
use super::ending::Exit;
use super::output::Output;
use super::progress::Progress;
use super::select::Target;
use super::words;
use crate::event::{Observer, Stop};
use crate::fault::{Error, Result};
use crate::format::snapshot::Unread;
use crate::id::PackId;
use crate::repair::{
    self, Broken, Emptied, Fate, Hurt, IndexReport, LOST_MAX, Losses, Mended, PacksOptions, PacksReport,
    SnapshotsOptions, SnapshotsReport,
};
use crate::repository::{Repository, Right};
use serde_json::{Map, Value, json};
use std::ffi::OsString;
use std::sync::Arc;

/// Most files of a snapshot that are named; `--json` names as many as a manifest does.
const NAMED_MAX: usize = 10;

/// Mend what is damaged, and save what is left
///
/// Where there is a replica, `from` takes back from it what is damaged or missing. Else in this order: `index`, after index segments or packs are lost or damaged; `packs`, after `pastfs check --read-data` found
/// packs damaged; then a backup of the folders that are hit, if their source is still there: what the repository has lost is
/// stored again, and older snapshots are whole again with it; last `snapshots`, for what is lost for good. A repair waits
/// for nobody, can be stopped at any point and run again, and deletes nothing before what takes its place is stored. It needs
/// a full key.
#[derive(clap::Subcommand)]
pub enum Repair {
    From(super::repair_from::From),
    Index(Index),
    Packs(Packs),
    Snapshots(Snapshots),
}

/// Rebuild the index from the packs
///
/// Packs that no index segment names, since the segment is lost or damaged, are read whole and verified, and named again;
/// of damaged ones what is whole is stored anew. Packs that are named and missing are taken out of the index, so that
/// backups store again what the source still has; should they turn up again, they can be read all the same. Packs about which
/// segments do not agree are read, and segments that say of them what is not so are written anew. Then damaged
/// segments are deleted: all that they named is named anew. Where the repository has parity, packs that are named again get
/// what they lack of it. What snapshots lack after that is told, and the exit code is 4.
#[derive(clap::Args)]
pub struct Index {
    /// Change nothing, tell what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Save what is whole of damaged packs
///
/// Reads the packs that are named, and those whose size is not what it must be; with --read-data all packs. What is whole of
/// damaged ones is stored in new packs; the damaged ones are retired: they stay where they are, and what can be read of them can
/// be read, until a prune deletes them. Of whole ones of which a segment says what is not so the segment is written anew. Where the
/// repository has parity, that of whole packs which is missing or damaged is
/// written anew. What snapshots lack after that is told, and the exit code is 4.
#[derive(clap::Args)]
pub struct Packs {
    /// Packs to read, by id, as `pastfs check` names them
    #[arg(value_name = "PACK", value_parser = parse_pack)]
    packs: Vec<PackId>,
    /// Read and verify all packs
    #[arg(long)]
    read_data: bool,
    /// Change nothing, tell what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
}

fn parse_pack(text: &str) -> std::result::Result<PackId, String> {
    let id = text.rsplit('/').next().unwrap_or_default();
    PackId::from_hex(id).ok_or_else(|| "a pack has an id of 64 hexadecimal digits".into())
}

/// Write snapshots anew without what is lost
///
/// Looks for every chunk that the snapshots need. Of one that lacks something a new snapshot is written: of the same time, host
/// and paths, with its tags and the tag `repaired`, without the files that are lost; they are named in it as not read. The
/// old one stays, unless --forget is given: what is lost of it gives an error when it is read, never wrong bytes. A
/// repair of the index and of packs, and a backup of what the source still has, save more: they come first.
///
/// Before that, manifests, notes, configs and keys that are damaged themselves are named. What this machine has listed before
/// is put back: a snapshot with a new id. The rest goes with --drop-damaged only.
#[derive(clap::Args)]
pub struct Snapshots {
    /// Which snapshots: ids, `latest`, or times [default: all]
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<OsString>,
    /// Read and verify every chunk that the snapshots need, not only those of folders
    #[arg(long)]
    read_data: bool,
    /// Forget the old snapshots once the new ones are there
    #[arg(long)]
    forget: bool,
    /// Delete manifests, notes and configs that are damaged and cannot be put back
    ///
    /// While one is there, a prune deletes nothing, since it may name what is needed. With a manifest a snapshot is lost; with a
    /// note what it said: a tag, a hold, or that a snapshot is forgotten.
    #[arg(long)]
    drop_damaged: bool,
    /// Change nothing, tell what is lost
    #[arg(short = 'n', long)]
    dry_run: bool,
}

impl Repair {
    pub fn run(self, global: &Global) -> Result<Exit> {
        match self {
            Repair::From(verb) => verb.run(global),
            Repair::Index(verb) => verb.run(global),
            Repair::Packs(verb) => verb.run(global),
            Repair::Snapshots(verb) => verb.run(global),
        }
    }
}

/// Opens the repository and runs `work` with progress.
fn work<T>(
    global: &Global,
    work: impl FnOnce(&Arc<Repository>, &Arc<dyn Observer>, &Stop) -> Result<T>,
) -> Result<T> {
    let progress = Progress::counting(global, ["object", "objects"]);
    let observer = progress.observer();
    let repository = global.open(observer.clone())?;
    repository.allow(Right::Manage, "repairing")?;
    let stop = stop_on_signals()?;
    work(&repository, &observer, &stop)
}

/// Lines for people or, with `--json`, objects for machines; the summary is the last.
pub fn tell(global: &Global, lines: Vec<String>, objects: Vec<Value>) -> Result<()> {
    let mut out = Output::open()?;
    if global.json {
        for object in objects {
            out.line(object.to_string())?;
        }
    } else {
        for line in lines {
            out.line(line)?;
        }
    }
    out.finish()
}

impl Index {
    fn run(self, global: &Global) -> Result<Exit> {
        let dry_run = self.dry_run;
        let report = work(global, |repository, observer, stop| {
            repair::index(repository, &access::host_name(), dry_run, observer, stop)
        })?;
        let quiet = global.quiet;
        tell(global, index_lines(&report, dry_run, quiet), index_objects(&report, dry_run))?;
        Ok(if report.is_hurt() { Exit::Damaged } else { Exit::Done })
    }
}

fn index_lines(r: &IndexReport, dry_run: bool, quiet: bool) -> Vec<String> {
    let mut lines = Vec::new();
    for d in &r.damaged {
        let (whole, bad) = d.chunks;
        let what = words::harmless(&d.what);
        let kept = match (whole, dry_run) {
            (0, _) => "nothing of it can be read".into(),
            (n, true) => format!("{} would be saved", words::counted(n, "chunk", "chunks")),
            (n, false) => format!("{} saved", words::counted(n, "chunk is", "chunks are")),
        };
        let lost = if bad > 0 {
            format!(", {} lost", words::counted(bad, "frame is", "frames are"))
        } else {
            String::new()
        };
        lines.push(format!("{}: {what}; no index segment names it; {kept}{lost}", pack_name(&d.pack)));
    }
    for (object, what, advice) in &r.left {
        let advice = advice.as_ref().map(|a| format!("; to do: {}", words::harmless(a))).unwrap_or_default();
        lines.push(format!("{object}: {}{advice}", words::harmless(what)));
    }
    for pack in &r.absent {
        let verb = if dry_run { "would be taken" } else { "is taken" };
        lines.push(format!("{}: it is missing, and {verb} out of the index", pack_name(pack)));
    }
    lines.extend(lost_lines(&r.losses));
    if quiet {
        return lines;
    }
    let (packs, bytes, chunks) = r.adopted;
    lines.push(format!(
        "{}: {} with {}, {}",
        if dry_run { "would be named again" } else { "named again" },
        words::counted(packs, "pack", "packs"),
        words::counted(chunks, "chunk", "chunks"),
        words::size(bytes),
    ));
    if r.settled > 0 {
        let verb = if dry_run { "would be set right" } else { "set right" };
        let packs = words::counted(r.settled, "pack", "packs");
        lines.push(format!("{verb}: what segments say of {packs}, as they did not agree"));
    }
    if !r.deleted.is_empty() {
        let n = r.deleted.len() as u64;
        let verb = if dry_run { "would be deleted" } else { "deleted" };
        lines.push(format!(
            "{verb}: {}",
            words::counted(n, "damaged index segment", "damaged index segments")
        ));
    }
    if dry_run {
        lines.push("dry run: nothing was changed".into());
    }
    lines
}

fn index_objects(r: &IndexReport, dry_run: bool) -> Vec<Value> {
    let mut objects: Vec<Value> = Vec::new();
    for d in &r.damaged {
        objects.push(json!({
            "message_type": "damaged_pack",
            "object": pack_name(&d.pack),
            "what": d.what,
            "whole_chunks": d.chunks.0,
            "lost_frames": d.chunks.1,
            "stored_chunks": d.saved,
        }));
    }
    for (object, what, advice) in &r.left {
        objects.push(json!({ "message_type": "left", "object": object, "what": what, "advice": advice }));
    }
    objects.extend(r.losses.hurt.iter().map(|hurt| Value::from(hurt_object(hurt))));
    let (packs, bytes, chunks) = r.adopted;
    objects.push(json!({
        "message_type": "summary",
        "dry_run": dry_run,
        "adopted_packs": packs,
        "adopted_bytes": bytes,
        "adopted_chunks": chunks,
        "damaged_packs": r.damaged.len(),
        "retired_again": r.retired_again,
        "settled_packs": r.settled,
        "deleted_segments": r.deleted.iter().map(|s| s.hex()).collect::<Vec<_>>(),
        "absent_packs": r.absent.iter().map(|p| p.hex()).collect::<Vec<_>>(),
        "left": r.left.len(),
        "lost_chunks": r.losses.chunks.len(),
        "hurt_snapshots": r.losses.hurt.len(),
        "seconds": r.seconds,
    }));
    objects
}

fn pack_name(id: &PackId) -> String {
    let hex = id.hex();
    format!("packs/{}/{hex}", &hex[..2])
}

/// What snapshots lack: a line for each, with the first files.
fn lost_lines(losses: &Losses) -> Vec<String> {
    let mut lines: Vec<String> = losses.hurt.iter().map(hurt_line).collect();
    match losses.chunks.len() {
        0 => {}
        n => {
            let more = if n == LOST_MAX { "at least " } else { "" };
            lines.push(format!(
                "{more}{} lost: back up again the folders that are hit, and what the source still has is stored again; \
                 then `pastfs repair snapshots` leaves out what stays lost",
                words::counted(n as u64, "chunk is", "chunks are")
            ));
        }
    }
    lines
}

fn hurt_line(hurt: &Hurt) -> String {
    let named: Vec<String> = hurt.files.iter().take(NAMED_MAX).map(|u| words::visible(&u.path)).collect();
    let mut line = format!("snapshot {} lacks {}", hurt.snapshot.short(), named.join(", "));
    match hurt.total.saturating_sub(named.len() as u64) {
        0 => {}
        more => line.push_str(&format!(", and {} more", words::count(more))),
    }
    line
}

fn hurt_object(hurt: &Hurt) -> Map<String, Value> {
    let file = |u: &Unread| {
        let mut file = Map::new();
        words::put_text(&mut file, "path", &u.path);
        words::put_text(&mut file, "reason", &u.reason);
        Value::from(file)
    };
    let mut object = Map::new();
    object.insert("message_type".into(), "hurt_snapshot".into());
    object.insert("snapshot_id".into(), hurt.snapshot.hex().into());
    object.insert("files".into(), hurt.files.iter().map(file).collect());
    object.insert("files_lost".into(), hurt.total.into());
    object
}

impl Packs {
    fn run(self, global: &Global) -> Result<Exit> {
        let dry_run = self.dry_run;
        let options = PacksOptions {
            packs: self.packs,
            read_data: self.read_data,
            dry_run,
            host: access::host_name(),
            from: None,
        };
        let report =
            work(global, |repository, observer, stop| repair::packs(repository, &options, observer, stop))?;
        tell(global, packs_lines(&report, dry_run, global.quiet), packs_objects(&report, dry_run))?;
        Ok(if report.is_hurt(dry_run) { Exit::Damaged } else { Exit::Done })
    }
}

pub fn packs_lines(r: &PacksReport, dry_run: bool, quiet: bool) -> Vec<String> {
    let mut lines = Vec::new();
    for d in &r.damaged {
        let (frames, chunks) = d.lost;
        let lost = match frames {
            0 => "all of its chunks are whole".into(),
            _ => format!(
                "{} in {} lost",
                words::counted(chunks, "chunk", "chunks"),
                words::counted(frames, "frame is", "frames are")
            ),
        };
        let done = match dry_run {
            true => String::new(),
            false => format!("; {} stored anew", words::counted(d.saved, "chunk is", "chunks are")),
        };
        let done = match d.fetched {
            0 => done,
            n => format!("{done}; {} from the replica", words::counted(n, "chunk came", "chunks came")),
        };
        lines.push(format!("{}: {}; {lost}{done}", pack_name(&d.pack), words::harmless(&d.what)));
    }
    for pack in &r.settled {
        let verb = if dry_run { "would be set right" } else { "was set right" };
        lines.push(format!("{}: it is whole, and what a segment said of it {verb}", pack_name(pack)));
    }
    for pack in &r.brought {
        let done = if dry_run { "it would be copied back" } else { "it is copied back" };
        lines.push(format!("{}: it is missing; {done} from the replica", pack_name(pack)));
    }
    for (pack, what) in &r.parity {
        let done = if dry_run { "it would be written anew" } else { "it is written anew" };
        lines.push(format!("parity/{pack}: {}; {done}", words::harmless(what)));
    }
    lines.extend(lost_lines(&r.losses));
    if !quiet {
        let (packs, bytes) = r.read;
        lines.push(format!(
            "read {} of {}: {} damaged",
            words::counted(packs, "pack", "packs"),
            words::size(bytes),
            words::counted(r.damaged.len() as u64, "is", "are"),
        ));
        if r.stored > 0 {
            let then = if r.damaged.is_empty() { "" } else { "; a prune deletes the damaged packs" };
            lines.push(format!("stored: {}{then}", words::size(r.stored)));
        }
        if dry_run {
            lines.push("dry run: nothing was changed".into());
        }
    }
    lines
}

pub fn packs_objects(r: &PacksReport, dry_run: bool) -> Vec<Value> {
    let object = |d: &Emptied| {
        json!({
            "message_type": "damaged_pack",
            "object": pack_name(&d.pack),
            "what": d.what,
            "lost_frames": d.lost.0,
            "lost_chunks": d.lost.1,
            "stored_chunks": d.saved,
            "fetched_chunks": d.fetched,
        })
    };
    let mut objects: Vec<Value> = r.damaged.iter().map(object).collect();
    let parity = |(pack, what): &(PackId, String)| {
        let object = format!("parity/{pack}");
        json!({ "message_type": "damaged_parity", "object": object, "what": what })
    };
    objects.extend(r.parity.iter().map(parity));
    objects.extend(r.losses.hurt.iter().map(|hurt| Value::from(hurt_object(hurt))));
    objects.push(json!({
        "message_type": "summary",
        "dry_run": dry_run,
        "read_packs": r.read.0,
        "read_bytes": r.read.1,
        "damaged_packs": r.damaged.len(),
        "damaged_parity": r.parity.len(),
        "settled_packs": r.settled.len(),
        "packs_copied_back": r.brought.iter().map(|p| p.hex()).collect::<Vec<_>>(),
        "stored_bytes": r.stored,
        "lost_chunks": r.losses.chunks.len(),
        "hurt_snapshots": r.losses.hurt.len(),
        "seconds": r.seconds,
    }));
    objects
}

impl Snapshots {
    fn run(self, global: &Global) -> Result<Exit> {
        let dry_run = self.dry_run;
        let mut targets = Vec::new();
        for text in &self.snapshots {
            let target = Target::parse(text)?;
            if target.path.is_some() {
                return Err(Error::misuse(format!("{} names a path", text.to_string_lossy()))
                    .hint("snapshots are repaired as a whole: leave the path out"));
            }
            targets.push(target);
        }
        let report = work(global, |repository, observer, stop| {
            let mut snapshots = Vec::new();
            if !targets.is_empty() {
                let all = repository.snapshots()?;
                for target in &targets {
                    snapshots.push(target.among(&all)?.id);
                }
            }
            let options = SnapshotsOptions {
                snapshots,
                read_data: self.read_data,
                forget: self.forget,
                drop_damaged: self.drop_damaged,
                dry_run,
                host: access::host_name(),
            };
            repair::snapshots(repository, &options, observer, stop)
        })?;
        tell(global, snapshots_lines(&report, dry_run, global.quiet), snapshots_objects(&report, dry_run))?;
        Ok(if report.is_hurt() { Exit::Damaged } else { Exit::Done })
    }
}

fn fate(b: &Broken, dry_run: bool) -> &'static str {
    match (b.fate, dry_run) {
        (Fate::PutBack, false) => "it was put back as this machine has seen it",
        (Fate::PutBack, true) => "it would be put back as this machine has seen it",
        (Fate::Doubled, false) => "it was written a second time",
        (Fate::Doubled, true) => "it would be written a second time",
        (Fate::Dropped, false) => "it was removed",
        (Fate::Dropped, true) => "it would be removed",
        (Fate::Left, _) => "it is left as it is",
    }
}

fn broken_object(b: &Broken) -> Value {
    let fate = match b.fate {
        Fate::PutBack => "put_back",
        Fate::Doubled => "doubled",
        Fate::Dropped => "dropped",
        Fate::Left => "left",
    };
    let (object, what, advice) = (&b.object, &b.what, b.advice);
    json!({ "message_type": "damaged_object", "object": object, "what": what, "fate": fate, "advice": advice })
}

fn snapshots_lines(r: &SnapshotsReport, dry_run: bool, quiet: bool) -> Vec<String> {
    let mut lines = Vec::new();
    for b in &r.broken {
        let advice = if b.advice.is_empty() { String::new() } else { format!(": {}", b.advice) };
        lines.push(format!("{}: {}; {}{advice}", b.object, words::harmless(&b.what), fate(b, dry_run)));
    }
    for m in &r.mended {
        let what = hurt_line(&m.hurt);
        lines.push(match &m.new {
            _ if m.is_gone => format!(
                "snapshot {}: nothing of it can be read; `pastfs forget {}` removes it",
                m.hurt.snapshot.short(),
                m.hurt.snapshot.short()
            ),
            None => what,
            Some(new) => {
                let verb = if m.was_there { "holds the rest already" } else { "holds the rest" };
                let old = if m.forgotten { "; the old one is forgotten" } else { "; the old one stays" };
                format!("{what}; snapshot {} {verb}{old}", new.short())
            }
        });
    }
    if !quiet {
        lines.push(match r.mended.len() as u64 {
            0 => format!("nothing is lost of {}", words::counted(r.looked_at, "snapshot", "snapshots")),
            n => format!("{n} of {} hit", words::counted(r.looked_at, "snapshot is", "snapshots are")),
        });
        if dry_run {
            lines.push("dry run: nothing was changed".into());
        }
    }
    lines
}

fn snapshots_objects(r: &SnapshotsReport, dry_run: bool) -> Vec<Value> {
    let object = |m: &Mended| {
        let mut object = hurt_object(&m.hurt);
        object.insert("new_snapshot_id".into(), m.new.map(|id| id.hex()).into());
        object.insert("was_there".into(), m.was_there.into());
        object.insert("nothing_left".into(), m.is_gone.into());
        object.insert("forgotten".into(), m.forgotten.into());
        Value::from(object)
    };
    let mut objects: Vec<Value> = r.broken.iter().map(broken_object).collect();
    objects.extend(r.mended.iter().map(object));
    objects.push(json!({
        "message_type": "summary",
        "dry_run": dry_run,
        "snapshots": r.looked_at,
        "hurt_snapshots": r.mended.len(),
        "damaged_objects": r.broken.len(),
        "seconds": r.seconds,
    }));
    objects
}
