//! `pastfs export`.

use super::access::{Ask, Global, stop_on_signals};
use super::ending::Exit;
use super::output::{self, Output};
use super::progress::Progress;
use super::select::{Filters, Target};
use crate::fault::{Doing, Error, Result};
use crate::repository::Right;
use crate::restore;
use serde_json::json;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

/// Bytes that are collected for one write to a file.
const BUFFER_LEN: usize = 1 << 20;

/// Print a snapshot, or a part of it, as a tar archive
///
/// With extended attributes, ACLs and times to the nanosecond, as GNU tar writes them by --format=pax --acls --xattrs;
/// `tar --acls --xattrs --xattrs-include='*' -xpf FILE` brings all of it back. Names in it are paths relative to `/`. Sockets are left out: tar has none. SNAPSHOT is an id (at least 4
/// digits), `latest`, a time such as 2026-11-19 (the end of that day), '2026-11-19 14:00', yesterday or
/// '3 days ago' (the newest snapshot not later than it), or the name of a folder in the mount.
#[derive(clap::Args)]
pub struct Export {
    /// Which snapshot, and what of it
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    snapshot: OsString,
    /// Write to this file instead of the standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    filters: Filters,
}

impl Export {
    pub fn run(self, global: &Global) -> Result<Exit> {
        let source = Target::parse(&self.snapshot)?;
        if self.output.is_none() && output::is_terminal() {
            return Err(Error::misuse("a tar archive is not for the eyes")
                .hint("send it through a pipe (pastfs export latest | tar -t), or name a file by -o"));
        }
        let store = global.store();
        let credential = global.credential(Ask::Once)?;
        let stop = stop_on_signals()?;
        let progress = Progress::start(global);
        let observer = progress.observer();
        let repository = global.open_to_read_with(store, &credential, observer.clone())?;
        repository.allow(Right::Read, "exporting")?;
        let snapshot = source.find(&repository, &self.filters)?;
        let path = source.path.unwrap_or_default();
        let report = match &self.output {
            None => {
                let mut out = Output::open()?;
                let report = restore::export(&repository, &snapshot, &path, out.writer(), &observer, &stop)?;
                out.finish()?;
                report
            }
            Some(file) => {
                // Only once there is something to write: a wrong id empties no file.
                let doing = || format!("writing {}", file.display());
                let mut out = BufWriter::with_capacity(BUFFER_LEN, File::create(file).doing(doing)?);
                let report = restore::export(&repository, &snapshot, &path, &mut out, &observer, &stop)
                    .doing(doing)?;
                out.flush().doing(doing)?;
                report
            }
        };
        drop(progress);
        if global.json && self.output.is_some() {
            let line = json!({
                "message_type": "summary",
                "snapshot_id": snapshot.id.hex(),
                "files": report.files,
                "bytes": report.bytes,
                "failed": report.failed,
                "damaged": report.damaged,
                "seconds": report.seconds,
            });
            output::line(line.to_string())?;
        }
        Ok(if report.failed + report.incomplete > 0 { Exit::Partly } else { Exit::Done })
    }
}
