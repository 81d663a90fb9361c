//! `pastfs backup`.

use super::access::{self, Global, stop_on_signals};
use super::ending::Exit;
use super::output::Output;
use super::progress::Progress;
use super::snapshots::totals;
use super::words;
use crate::backup::{self, From, Options, Report};
use crate::clock::Time;
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::snapshot::{PATH_MAX, TEXT_MAX};
use crate::format::tree::NAME_MAX;
use crate::moment;
use crate::seal::Compression;
use crate::source::{self, Exclude};
use crate::storage::Costs;
use serde_json::json;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Most threads that read folders ahead: more only wait for the disk.
const THREADS_MAX: usize = 8;

/// Save files and folders as a new snapshot
///
/// Everything that a Linux file can be is kept: owners, times, links, holes, devices, extended attributes, ACLs.
/// Files that are unchanged since the last snapshot of the same paths and host are recognised by size and times,
/// without reading them. A file that cannot be read, or changes while it is read, is reported, recorded in the
/// snapshot, and makes the exit code 3.
#[derive(clap::Args)]
pub struct Backup {
    /// What to save
    #[arg(value_name = "PATH", required_unless_present_any = ["files_from", "from_command"])]
    paths: Vec<PathBuf>,
    /// Leave out what matches this gitignore pattern (may be repeated)
    #[arg(short, long, value_name = "PATTERN", help_heading = "What to leave out")]
    exclude: Vec<OsString>,
    /// Read such patterns from a file (may be repeated)
    #[arg(long, value_name = "FILE", help_heading = "What to leave out")]
    exclude_file: Vec<PathBuf>,
    /// Leave out what is in folders with a CACHEDIR.TAG
    #[arg(long, help_heading = "What to leave out")]
    exclude_caches: bool,
    /// Leave out what is in folders that hold a file of this name (which begins with that header)
    #[arg(long, value_name = "NAME[:HEADER]", help_heading = "What to leave out")]
    exclude_if_present: Vec<OsString>,
    /// Leave out files larger than this, such as 500M or 1.5GiB
    #[arg(long, value_name = "SIZE", value_parser = words::parse_size, help_heading = "What to leave out")]
    exclude_larger_than: Option<u64>,
    /// Leave out what is on other file systems
    ///
    /// A path that is named itself is saved all the same, here and with all other ways to leave something out.
    #[arg(short = 'x', long, help_heading = "What to leave out")]
    one_file_system: bool,
    /// Read paths to save from a file, one a line; `-` is the standard input (may be repeated)
    #[arg(long, value_name = "FILE")]
    files_from: Vec<PathBuf>,
    /// Save what this command prints (it runs by the shell); its failure and its silence are errors
    #[arg(long, value_name = "COMMAND", requires = "name")]
    #[arg(conflicts_with_all = ["paths", "files_from", "exclude", "exclude_file", "exclude_caches"])]
    #[arg(conflicts_with_all = ["exclude_if_present", "exclude_larger_than", "one_file_system"])]
    from_command: Option<OsString>,
    /// Name of the file that holds the command's output
    #[arg(id = "name", long = "as", value_name = "NAME", requires = "from_command")]
    name: Option<OsString>,
    /// Give the snapshot this tag, or several: a,b (may be repeated)
    #[arg(long, value_name = "TAG[,TAG]")]
    tag: Vec<OsString>,
    /// Host name in the snapshot [default: the host of a writer key that has one, else the name of this machine]
    #[arg(long, value_name = "HOST")]
    host: Option<OsString>,
    /// Time of the snapshot, such as '2026-11-19 14:00' [default: now]
    #[arg(long, value_name = "TIME", value_parser = moment::parse_time)]
    time: Option<Time>,
    /// Compress new data by zstd: fast (its level 1), default (3), max (19), a level from 1 to 22, or none. Where others can
    /// write into what is saved (mail, uploads), sizes of compressed data may tell of secrets beside it; none tells
    /// nothing
    #[arg(long, value_name = "LEVEL", value_parser = parse_compression)]
    compression: Option<Compression>,
    /// Store nothing, tell what would be saved
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Read all files again, unchanged or not
    #[arg(long)]
    force: bool,
    /// Take files for unchanged whose size and mtime are, whatever their ctime
    #[arg(long)]
    ignore_ctime: bool,
    /// Make no snapshot where nothing has changed
    #[arg(long)]
    skip_if_unchanged: bool,
}

fn parse_compression(text: &str) -> std::result::Result<Compression, String> {
    match (text, text.parse()) {
        ("none", _) => Ok(Compression::None),
        ("fast", _) => Ok(Compression::FAST),
        ("default", _) => Ok(Compression::default()),
        ("max", _) => Ok(Compression::MAX),
        (_, Ok(level @ 1..=22)) => Ok(Compression::Zstd(level)),
        _ => Err("there are fast, default, max, none, and the levels 1 to 22".into()),
    }
}

impl Backup {
    pub fn run(self, global: &Global) -> Result<Exit> {
        let dry_run = self.dry_run;
        // What is wrong with the command line is told before the password is asked for.
        global.place()?;
        let host_is_default = self.host.is_none();
        let mut options = self.options()?;
        let store = global.store()?;
        let credential = global.credential(access::Ask::Once)?;
        let stop = stop_on_signals()?;
        let progress = Progress::start(global);
        let observer = progress.observer();
        let repository = global.open_with(store, &credential, observer.clone())?;
        let own = repository.own_host()?;
        if host_is_default && !own.is_empty() {
            options.host = own;
        }
        let report = backup::run(&repository, options, &observer, &stop)?;
        drop(progress);
        let mut out = Output::open()?;
        if global.json {
            out.line(machine(&report, dry_run, &repository.costs()))?;
        } else if !global.quiet {
            for line in summary(&report, dry_run) {
                out.line(line)?;
            }
        }
        out.finish()?;
        Ok(if report.unread_total > 0 { Exit::Partly } else { Exit::Done })
    }

    fn options(self) -> Result<Options> {
        let host = self.host.map_or_else(access::host_name, OsString::into_vec);
        if host.is_empty() || host.len() > TEXT_MAX {
            return Err(Error::misuse(format!(
                "the host name has {} bytes, and may have 1 to {TEXT_MAX}",
                host.len()
            )));
        }
        let tags = access::tags(&self.tag)?;
        let from = match (self.from_command, self.name) {
            (Some(command), Some(name)) => From::Command { command, name: file_name(&name)? },
            _ => {
                let mut paths = self.paths;
                for file in &self.files_from {
                    paths.extend(paths_from(file)?);
                }
                if paths.is_empty() {
                    return Err(Error::misuse("there is nothing to save: no path is given"));
                }
                if paths.iter().any(|p| p.as_os_str().is_empty() || p.as_os_str().len() > PATH_MAX) {
                    return Err(Error::misuse("a path is empty or too long"));
                }
                From::Files(source::Options {
                    paths,
                    excludes: Exclude::new(&self.exclude, &self.exclude_file)?,
                    one_file_system: self.one_file_system,
                    exclude_caches: self.exclude_caches,
                    exclude_if_present: self.exclude_if_present,
                    exclude_larger_than: self.exclude_larger_than,
                    skip: Vec::new(),
                    threads: std::thread::available_parallelism().map_or(1, |n| n.get().min(THREADS_MAX)),
                })
            }
        };
        Ok(Options {
            from,
            tags,
            host,
            time: self.time,
            dry_run: self.dry_run,
            force: self.force,
            ignore_ctime: self.ignore_ctime,
            skip_if_unchanged: self.skip_if_unchanged,
            compression: self.compression.unwrap_or_default(),
        })
    }
}

/// A name without a folder, below `/` in the snapshot.
fn file_name(name: &OsStr) -> Result<Vec<u8>> {
    let bytes = name.as_bytes();
    let bad = bytes.is_empty()
        || bytes.len() > NAME_MAX
        || bytes.contains(&b'/')
        || bytes.contains(&0)
        || matches!(bytes, b"." | b"..");
    if bad {
        return Err(Error::misuse(format!("{:?} cannot be the name of a file", name.to_string_lossy()))
            .hint("write a name without slashes, such as --as database.sql"));
    }
    Ok(bytes.to_vec())
}

fn paths_from(file: &Path) -> Result<Vec<PathBuf>> {
    let doing = || format!("reading paths from {}", file.display());
    let mut text = Vec::new();
    if file.as_os_str() == "-" {
        std::io::stdin().read_to_end(&mut text).doing(doing)?;
    } else {
        text = std::fs::read(file).doing(doing)?;
    }
    if text.contains(&0) {
        return Err(
            Error::new(Fault::Misuse, doing()).hint("paths are divided by ends of line, not by zero bytes")
        );
    }
    let lines = text.split(|b| *b == b'\n').filter(|l| !l.is_empty());
    Ok(lines.map(|l| PathBuf::from(OsStr::from_bytes(l))).collect())
}

fn summary(report: &Report, dry_run: bool) -> Vec<String> {
    let (new, changed, unchanged) = report.changes;
    let t = &report.totals;
    let mut lines = vec![match (&report.snapshot, &report.parent) {
        (Some(id), _) => format!("snapshot {} saved", id.short()),
        (None, _) if dry_run => "dry run: nothing was stored".to_string(),
        (None, Some(parent)) => {
            format!("nothing has changed since snapshot {}: no new one made", parent.short())
        }
        (None, None) => "nothing has changed: no snapshot made".to_string(),
    }];
    lines.push(format!(
        "files and folders: {} new, {} changed, {} unchanged; {} in all",
        words::count(new),
        words::count(changed),
        words::count(unchanged),
        words::size(t.bytes)
    ));
    lines.push(format!(
        "read: {} in {} ({})",
        words::size(t.read_bytes),
        words::duration(report.seconds),
        words::rate(t.read_bytes, report.seconds)
    ));
    if !dry_run {
        lines.push(format!("added: {} to the repository", words::size(t.stored_bytes)));
    }
    if report.stored_again > 0 {
        lines.push(format!(
            "{}: {} that the repository had lost",
            if dry_run { "would be stored again" } else { "stored again" },
            words::counted(report.stored_again, "file or folder", "files and folders")
        ));
    }
    if report.unread_total > 0 {
        lines.push(format!(
            "{} could not be read or changed meanwhile; the snapshot says which",
            words::counted(report.unread_total, "file", "files")
        ));
    }
    lines
}

fn machine(report: &Report, dry_run: bool, costs: &Costs) -> String {
    let (new, changed, unchanged) = report.changes;
    json!({
        "message_type": "summary",
        "dry_run": dry_run,
        "snapshot_id": report.snapshot.map(|s| s.hex()),
        "parent": report.parent.map(|s| s.hex()),
        "new": new,
        "changed": changed,
        "unchanged": unchanged,
        "unread": report.unread_total,
        "stored_again": report.stored_again,
        "seconds": report.seconds,
        "totals": totals(&report.totals),
        "store": words::machine_costs(costs),
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_of_a_command_becomes_a_file_with_a_plain_name() {
        assert_eq!(file_name(OsStr::new("db.sql")).unwrap(), b"db.sql");
        for bad in ["", ".", "..", "a/b", "/etc/passwd"] {
            assert_eq!(file_name(OsStr::new(bad)).unwrap_err().fault(), Fault::Misuse);
        }
    }

    #[test]
    fn lists_of_paths_are_lines_of_bytes() {
        let path = std::env::temp_dir()
            .join(format!("pastfs-{}", crate::id::hex(&crate::clock::random_array::<8>())));
        std::fs::write(&path, b"/a b\n\n/c\xff\n # d").unwrap();
        let paths = paths_from(&path).unwrap();
        assert_eq!(paths.len(), 3);
        assert_eq!(paths[1].as_os_str().as_bytes(), b"/c\xff");
        assert_eq!(paths[2], Path::new(" # d"));
        std::fs::write(&path, b"/a\0/b\0").unwrap();
        assert!(paths_from(&path).is_err());
        std::fs::remove_file(&path).unwrap();
    }
}
