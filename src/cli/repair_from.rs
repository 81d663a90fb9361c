//! `pastfs repair from`.

use super::access::{self, Global, stop_on_signals};
use super::ending::Exit;
use super::progress::Progress;
use super::repair::{packs_lines, packs_objects, tell};
use super::words::{self, counted};
use crate::fault::Result;
use crate::repair::{self, FromOptions, FromReport};
use crate::repository::Right;
use serde_json::{Value, json};
use std::ffi::OsString;

/// Take back from a replica what is damaged or missing
///
/// Everything is listed and proven as by `pastfs check`, and what is damaged or missing is taken from the replica, object by
/// object, each verified there: keys, configs and notes; packs that are missing, under their own names; what is damaged in
/// packs (with --read-data all are read for it), into new packs, after which the damaged ones are retired; snapshots under
/// their own names, once all that they need is there. Nothing that is damaged goes before what takes its place is durable, and
/// nothing of the replica is changed. What the replica does not have whole either is told, and `pastfs repair index`, `packs`
/// and `snapshots` make the best of it. Snapshots of the replica that were never here are not copied: `pastfs -r REPLICA
/// replicate` does that.
#[derive(clap::Args)]
pub struct From {
    /// The replica: a copy of this repository that `pastfs replicate` made
    #[arg(value_name = "REPLICA")]
    replica: OsString,
    /// Read all packs, and mend those in which anything is damaged
    #[arg(long)]
    read_data: bool,
    /// Change nothing, tell what would be
    #[arg(short = 'n', long)]
    dry_run: bool,
}

impl From {
    pub fn run(self, global: &Global) -> Result<Exit> {
        let dry_run = self.dry_run;
        let progress = Progress::counting(global, ["object", "objects"]);
        let observer = progress.observer();
        let (repository, replica) = global.open_with_replica(&self.replica, observer.clone())?;
        repository.allow(Right::Manage, "repairing")?;
        let stop = stop_on_signals()?;
        let options = FromOptions { read_data: self.read_data, dry_run, host: access::host_name() };
        let report = repair::from(&repository, &replica, &options, &observer, &stop)?;
        drop(progress);
        tell(global, lines(&report, dry_run, global.quiet), objects(&report, dry_run))?;
        Ok(if report.is_hurt(dry_run) { Exit::Damaged } else { Exit::Done })
    }
}

fn lines(r: &FromReport, dry_run: bool, quiet: bool) -> Vec<String> {
    let mut lines = Vec::new();
    for o in &r.objects {
        let fate = match (&o.is_back, dry_run) {
            (Ok(()), false) => "it is back as the replica has it".to_owned(),
            (Ok(()), true) => "it would be put back as the replica has it".to_owned(),
            (Err(why), _) => format!("it is left as it is: {}", words::harmless(why)),
        };
        lines.push(format!("{}: {}; {fate}", o.object, words::harmless(&o.what)));
    }
    lines.extend(packs_lines(&r.packs, dry_run, quiet));
    if !quiet && r.objects.is_empty() {
        lines.push(format!("{} damaged beside packs", counted(0, "object is", "objects are")));
    }
    lines
}

fn objects(r: &FromReport, dry_run: bool) -> Vec<Value> {
    let object = |o: &repair::Returned| {
        json!({
            "message_type": "damaged_object",
            "object": o.object,
            "what": o.what,
            "fate": if o.is_back.is_ok() { "put_back" } else { "left" },
            "why": o.is_back.as_ref().err(),
        })
    };
    r.objects.iter().map(object).chain(packs_objects(&r.packs, dry_run)).collect()
}
