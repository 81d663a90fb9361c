//! `pastfs stats`.

use super::access::{Global, stop_on_signals};
use super::ending::Exit;
use super::ls::clean;
use super::output::Output;
use super::progress::Progress;
use super::select::{Filters, Target};
use super::words::{self, Table, counted, size};
use crate::fault::{Error, Fault, Result};
use crate::stats::{self, Bytes, Part, Report};
use serde_json::{Map, Value, json};
use std::ffi::OsString;

/// Tell what takes how much space
///
/// Without arguments: the sizes of all snapshots as the sources had them, of what they need without what they share, and of what is
/// stored; for each snapshot what it alone needs, which is what forgetting and pruning it would give back; and what was
/// added in each month. With a snapshot, or a folder of one: what its entries need, the largest first; go on with the folder
/// that is large. Sizes as stored are parts of packs in the ratio of sizes before compression.
#[derive(clap::Args)]
pub struct Stats {
    /// A snapshot (an id, `latest`, a time), or a path in one
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    what: Option<OsString>,
    #[command(flatten)]
    filters: Filters,
}

impl Stats {
    pub fn run(self, global: &Global) -> Result<Exit> {
        let target = self.what.as_deref().map(Target::parse).transpose()?;
        let progress = Progress::counting(global, ["snapshot", "snapshots"]);
        let observer = progress.observer();
        let repository = global.open(observer.clone())?;
        let stop = stop_on_signals()?;
        let Some(target) = target else {
            let report = stats::repository(&repository, &observer, &stop)?;
            drop(progress);
            return tell(global, &report);
        };
        let snapshot = target.find(&repository, &self.filters)?;
        let path = clean(target.path.as_deref().unwrap_or(b"/"));
        let parts = stats::folder(&repository, &snapshot, &path, &observer, &stop)?;
        drop(progress);
        let parts = parts.ok_or_else(|| {
            let name = words::visible(&path);
            Error::new(Fault::Missing, format!("there is no {name} in snapshot {}", snapshot.id.short()))
                .hint("`pastfs ls` lists what there is")
        })?;
        tell_parts(global, &parts)
    }
}

fn machine(b: &Bytes) -> Value {
    json!({ "raw": b.raw, "stored": b.stored })
}

fn tell(global: &Global, r: &Report) -> Result<Exit> {
    let mut out = Output::open()?;
    let (content, trees) = r.needed;
    let needed = Bytes { raw: content.raw + trees.raw, stored: content.stored + trees.stored };
    let unneeded = r.packs.1.saturating_sub(needed.stored);
    if global.json {
        let snapshots = r.snapshots.iter().map(|of| {
            json!({
                "id": of.snapshot.id.hex(),
                "time": words::machine_time(of.snapshot.manifest.time),
                "host": String::from_utf8_lossy(&of.snapshot.manifest.host),
                "source_bytes": of.snapshot.manifest.totals.bytes,
                "alone": machine(&of.alone),
            })
        });
        let months = r
            .months
            .iter()
            .map(|(m, (bytes, n))| json!({ "month": m, "snapshots": n, "added_bytes": bytes }));
        let object = json!({
            "message_type": "stats",
            "source_bytes": r.source,
            "chunks": r.chunks,
            "content": machine(&content),
            "trees": machine(&trees),
            "packs": r.packs.0,
            "pack_bytes": r.packs.1,
            "unneeded_bytes": unneeded,
            "other_bytes": r.others,
            "forgotten_snapshots": r.forgotten,
            "snapshots": snapshots.collect::<Vec<_>>(),
            "months": months.collect::<Vec<_>>(),
        });
        out.line(object.to_string())?;
        out.finish()?;
        return Ok(Exit::Done);
    }
    let ratio =
        |a: u64, b: u64| if b == 0 { String::new() } else { format!("  {:.1} : 1", a as f64 / b as f64) };
    let mut table = Table::new(&["Snapshot", "Time", "Host", "Source", "Alone", "Stored"]);
    for of in &r.snapshots {
        let m = &of.snapshot.manifest;
        table.row(vec![
            of.snapshot.id.short(),
            words::local_time(m.time),
            words::visible(&m.host),
            size(m.totals.bytes),
            size(of.alone.raw),
            size(of.alone.stored),
        ]);
    }
    table.print(&mut out)?;
    out.line("")?;
    if !r.months.is_empty() {
        let mut table = Table::new(&["Month", "Snapshots", "Added"]);
        for (month, (bytes, n)) in &r.months {
            table.row(vec![month.clone(), words::count(*n), size(*bytes)]);
        }
        table.print(&mut out)?;
        out.line("")?;
    }
    let listed = counted(r.snapshots.len() as u64, "snapshot", "snapshots");
    out.line(format!("{listed}, as the sources had them: {}", size(r.source)))?;
    out.line(format!(
        "deduplicated:  {} in {}{}",
        size(needed.raw),
        counted(r.chunks, "chunk", "chunks"),
        ratio(r.source, needed.raw)
    ))?;
    out.line(format!("compressed:    {}{}", size(needed.stored), ratio(needed.raw, needed.stored)))?;
    out.line(format!("               {} of it folders and lists", size(trees.stored)))?;
    out.line(format!(
        "stored:        {} in {}, and {} of index and other objects{}",
        size(r.packs.1),
        counted(r.packs.0, "pack", "packs"),
        size(r.others),
        ratio(r.source, r.packs.1 + r.others)
    ))?;
    if unneeded > 0 {
        out.line(format!("               {} of it that no snapshot needs: `pastfs prune`", size(unneeded)))?;
    }
    if r.forgotten > 0 {
        let n = counted(r.forgotten, "forgotten snapshot", "forgotten snapshots");
        out.line(format!("               {n} not pruned yet, which counts above"))?;
    }
    out.finish()?;
    Ok(Exit::Done)
}

fn tell_parts(global: &Global, parts: &[Part]) -> Result<Exit> {
    let mut out = Output::open()?;
    if global.json {
        for p in parts {
            let mut object = Map::new();
            words::put_text(&mut object, "name", &p.name);
            object.insert("type".into(), if p.is_folder { "dir" } else { "file" }.into());
            object.insert("source_bytes".into(), p.source.into());
            object.insert("needed".into(), machine(&p.needed));
            object.insert("alone".into(), machine(&p.alone));
            out.line(Value::from(object).to_string())?;
        }
    } else {
        let mut table = Table::new(&["Source", "Deduplicated", "Stored", "Alone", "Name"]);
        for p in parts {
            let slash = if p.is_folder { "/" } else { "" };
            table.row(vec![
                size(p.source),
                size(p.needed.raw),
                size(p.needed.stored),
                size(p.alone.stored),
                format!("{}{slash}", words::visible(&p.name)),
            ]);
        }
        table.print(&mut out)?;
    }
    out.finish()?;
    Ok(Exit::Done)
}
