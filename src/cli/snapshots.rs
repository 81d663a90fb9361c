//! `pastfs snapshots`.

use super::access::Global;
use super::ending::Exit;
use super::output::{self, Output};
use super::progress::Progress;
use super::select::Filters;
use super::words::{self, Table};
use crate::event::Event;
use crate::fault::{Fault, Result};
use crate::format::snapshot::{Private, Totals};
use crate::id::hex;
use crate::repository::{Repository, Snapshot};
use crate::seal::Role;
use serde_json::{Map, Value, json};

/// List the snapshots, oldest first
///
/// `Size` is the size of all files in the snapshot, `Added` what the backup added to the repository. Times are
/// in the local zone. With a writer key paths are not shown.
///
/// A snapshot that this machine has seen in the repository, and that is not there any more though nobody has forgotten it,
/// is told as a warning by this and every other command that looks for snapshots, and by the mount: somebody has deleted
/// its file, or the storage shows an old state. What was seen is remembered in the cache, for each user and place of a
/// repository; of two disks that take turns at one place, give each a cache of its own (`--cache`).
#[derive(clap::Args)]
pub struct Snapshots {
    #[command(flatten)]
    filters: Filters,
    /// Take it for right that snapshots and notes have vanished, and warn of these no more
    #[arg(long, conflicts_with_all = ["host", "tag", "path", "forgotten"])]
    accept_vanished: bool,
    /// List those that were forgotten and are still there: `pastfs forget --undo` brings them back
    #[arg(long)]
    forgotten: bool,
}

impl Snapshots {
    pub fn run(self, global: &Global) -> Result<Exit> {
        let repository = global.open_plainly_to_read()?;
        if self.accept_vanished {
            let accepted = repository.accept_vanished()? as u64;
            if global.json {
                output::line(json!({ "accepted": accepted }).to_string())?;
            } else if !global.quiet {
                let counted = words::counted(accepted, "vanished object", "vanished objects");
                output::line(format!("accepted: {counted}"))?;
            }
            return Ok(Exit::Done);
        }
        let mut rows = Vec::new();
        let all = if self.forgotten { repository.forgotten()? } else { repository.snapshots()? };
        for snapshot in self.filters.pass(&repository, all)? {
            // A writer key sees no paths.
            let private = match repository.role() {
                Role::Writer => Some(Private::default()),
                _ => readable(global, &repository, &snapshot)?,
            };
            rows.push((snapshot, private.unwrap_or_default()));
        }
        let mut out = Output::open()?;
        if global.json {
            let list: Vec<Value> = rows.iter().map(|(s, p)| machine(s, p)).collect();
            out.line(Value::from(list).to_string())?;
        } else {
            let mut table = Table::new(&["Time", "ID", "Host", "Tags", ">Size", ">Added", "Paths"]);
            for (snapshot, private) in &rows {
                table.row(row(snapshot, private));
            }
            table.print(&mut out)?;
            if !global.quiet {
                out.line(words::counted(rows.len() as u64, "snapshot", "snapshots"))?;
            }
        }
        out.finish()?;
        Ok(Exit::Done)
    }
}

/// The paths of a snapshot. Of one that does not tell them, which is nobody's but its author's doing, a warning: it must not
/// hide the others.
///
/// # Errors
/// What the store says.
pub fn readable(global: &Global, repository: &Repository, snapshot: &Snapshot) -> Result<Option<Private>> {
    match repository.private(snapshot) {
        Ok(private) => Ok(Some(private)),
        Err(e) if e.fault() == Fault::Damaged => {
            Progress::warnings(global).event(Event::Warning(&e.chain()));
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

fn row(snapshot: &Snapshot, private: &Private) -> Vec<String> {
    let m = &snapshot.manifest;
    let mut paths = texts(&private.paths, " ");
    if private.unread_total > 0 {
        paths.push_str(&format!(" ({} not read)", words::count(private.unread_total)));
    }
    let mut tags = texts(&snapshot.tags, ",");
    if snapshot.held {
        tags.push_str(if tags.is_empty() { "(held)" } else { " (held)" });
    }
    vec![
        words::local_time(m.time),
        snapshot.id.short(),
        words::visible(&m.host),
        tags,
        words::size(m.totals.bytes),
        words::size(m.totals.stored_bytes),
        paths,
    ]
}

/// Tags or paths on one line.
pub fn texts(texts: &[Vec<u8>], by: &str) -> String {
    texts.iter().map(|t| words::visible(t)).collect::<Vec<_>>().join(by)
}

/// A snapshot as JSON.
pub fn machine(snapshot: &Snapshot, private: &Private) -> Value {
    let m = &snapshot.manifest;
    let mut object = Map::new();
    object.insert("id".into(), snapshot.id.hex().into());
    object.insert("short_id".into(), snapshot.id.short().into());
    object.insert("time".into(), words::machine_time(m.time).into());
    object.insert("began".into(), words::machine_time(m.began).into());
    object.insert("ended".into(), words::machine_time(m.ended).into());
    words::put_text(&mut object, "host", &m.host);
    words::put_texts(&mut object, "tags", snapshot.tags.iter().map(Vec::as_slice));
    words::put_texts(&mut object, "paths", private.paths.iter().map(Vec::as_slice));
    object.insert("parent".into(), m.parent.map(|p| p.hex()).into());
    object.insert("author".into(), hex(&snapshot.author.public).into());
    object.insert("held".into(), snapshot.held.into());
    words::put_text(&mut object, "program", &m.program);
    object.insert("unread".into(), private.unread_total.into());
    object.insert("totals".into(), totals(&m.totals));
    object.into()
}

/// What a snapshot holds and what it cost, as JSON.
pub fn totals(t: &Totals) -> Value {
    json!({
        "files": t.files,
        "folders": t.folders,
        "others": t.others,
        "bytes": t.bytes,
        "read_files": t.read_files,
        "read_bytes": t.read_bytes,
        "new_bytes": t.new_bytes,
        "stored_bytes": t.stored_bytes,
    })
}
