//! `pastfs check`.

use super::access::{Global, stop_on_signals};
use super::ending::Exit;
use super::output::Output;
use super::progress::Progress;
use super::words;
use crate::check::{self, Compared, Finding, Hit, Options, Report, Subset, Vouched};
use crate::fault::Result;
use crate::id::SnapshotId;
use crate::repository::Right;
use crate::storage::Costs;
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::ffi::OsString;

/// Most snapshots that one line names.
const SNAPSHOTS_NAMED: usize = 20;

/// Look whether the repository is whole
///
/// Lists every object; reads all but the packs from the storage and proves them; and looks for every chunk that a snapshot
/// needs: some index segment must name it, with its size, in a pack that is there with its size. Chunks of folders are
/// read and verified on the way. With --read-data the packs are read as well, to the last byte: without it a flipped bit
/// in the content of a file is not found. What is found is told on the standard output, a line for each object, with
/// the files that it hits (a folder stands for all that is in it); the exit code is then 4. Packs that no index segment names are counted: a
/// backup may be under way, or was interrupted. A check writes nothing to the repository and waits for nobody.
///
/// What a writer key says of packs is relied on by no other key until a full key has read them: --vouch does that, and is the one
/// check that writes. It signs what is true to the last byte, so that others need not store the same data again.
#[derive(clap::Args)]
pub struct Check {
    /// Read, decrypt and verify all packs
    #[arg(long)]
    read_data: bool,
    /// Read only some packs: a part such as 1/7, always the same ones; or a share such as 5%, or a size such as 10GiB:
    /// those that were not read for the longest time, as the cache remembers, so that all have their turn
    #[arg(long, value_name = "N/M|P%|SIZE", value_parser = parse_subset, conflicts_with = "read_data")]
    read_data_subset: Option<Subset>,
    /// Check a replica as well, and compare the two: which snapshots are in one alone, and what differs of objects that both have;
    /// with --read-data every byte
    #[arg(long, value_name = "REPLICA")]
    against: Option<OsString>,
    /// Read all packs that no full key vouches for yet, and sign what is true of them; takes a full key
    #[arg(long)]
    vouch: bool,
}

impl Check {
    pub fn run(self, global: &Global) -> Result<Exit> {
        let progress = Progress::counting(global, ["object", "objects"]);
        let observer = progress.observer();
        let repository = global.open(observer.clone())?;
        let right = if self.vouch { Right::Manage } else { Right::Read };
        repository.allow(right, if self.vouch { "vouching for packs" } else { "checking" })?;
        let stop = stop_on_signals()?;
        let options =
            Options { read_data: if self.read_data { Some(Subset::All) } else { self.read_data_subset } };
        let mut report = check::run(&repository, &options, &observer, &stop)?;
        let vouched = match self.vouch {
            true => Some(check::vouch(&repository, &observer, &stop)?),
            false => None,
        };
        report.findings.extend(vouched.iter().flat_map(|v| v.findings.clone()));
        let compared = match &self.against {
            None => None,
            Some(place) => {
                let replica = repository.beside(global.store_at(place)?)?;
                let there = check::run(&replica, &options, &observer, &stop)?;
                let named =
                    |f: Finding| Finding { what: format!("in {}: {}", replica.location(), f.what), ..f };
                report.findings.extend(there.findings.into_iter().map(named));
                let compared = check::against(&repository, &replica, self.read_data, &observer, &stop)?;
                let known: HashSet<&String> = report.findings.iter().map(|f| &f.object).collect();
                let new: Vec<Finding> =
                    compared.findings.iter().filter(|f| !known.contains(&f.object)).cloned().collect();
                report.findings.extend(new);
                Some((replica.location(), compared))
            }
        };
        let unvouched = repository.unvouched_packs()?;
        drop(progress);
        let mut out = Output::open()?;
        for finding in &report.findings {
            out.line(if global.json { machine(finding).to_string() } else { line(finding) })?;
        }
        if global.json {
            if let Some((place, compared)) = &compared {
                out.line(machine_compared(place, compared).to_string())?;
            }
            let costs = repository.costs();
            out.line(summary(&report, vouched.as_ref(), unvouched, &costs).to_string())?;
        } else if !global.quiet {
            for line in compared.iter().flat_map(|(place, compared)| words_of_compared(place, compared)) {
                out.line(line)?;
            }
            for line in words_of(&report, vouched.as_ref(), unvouched) {
                out.line(line)?;
            }
        }
        out.finish()?;
        Ok(if report.findings.is_empty() { Exit::Done } else { Exit::Damaged })
    }
}

fn parse_subset(text: &str) -> std::result::Result<Subset, String> {
    let wrong = || format!("{text:?} is no subset: write it like 1/7, 5% or 10GiB");
    if let Some((part, of)) = text.split_once('/') {
        let number = |digits: &str| digits.parse::<u32>().map_err(|_| wrong());
        let (part, of) = (number(part)?, number(of)?);
        return match (1..=of).contains(&part) {
            true => Ok(Subset::Part { part, of }),
            false if of == 0 => Err(wrong()),
            false => Err(format!("there is no part {part} of {of}: they count from 1 to {of}")),
        };
    }
    if let Some(percent) = text.strip_suffix('%') {
        let percent: f64 = percent.trim().parse().map_err(|_| wrong())?;
        return match percent > 0.0 && percent <= 100.0 {
            true => Ok(Subset::Share(percent / 100.0)),
            false => Err(format!("{text:?} is no share: it is more than 0% and at most 100%")),
        };
    }
    match words::parse_size(text).map_err(|_| wrong())? {
        0 => Err("a subset of nothing checks nothing".into()),
        bytes => Ok(Subset::Bytes(bytes)),
    }
}

/// `packs/3f/3f2a…: it is missing; 31 chunks are lost; hits /home/ana/x in snapshot 1a2b3c4d, and 3 more; to do: copy …`
fn line(f: &Finding) -> String {
    let mut text = format!("{}: {}", f.object, words::harmless(&f.what));
    let is_missed = !f.files.is_empty() || !f.object.starts_with("packs/");
    if is_missed && f.lost > f.chunks.len() as u64 {
        text.push_str(&format!("; {} lost", words::counted(f.lost, "chunk is", "chunks are")));
    }
    if !f.files.is_empty() {
        let named: usize = f.files.iter().map(|hit| hit.snapshots.len()).sum();
        let names = f.files.iter().map(|hit| {
            let snapshots: Vec<String> = hit.snapshots.iter().map(|s| s.short()).collect();
            let noun = if snapshots.len() == 1 { "snapshot" } else { "snapshots" };
            format!("{} in {noun} {}", words::visible(&hit.path), snapshots.join(" "))
        });
        text.push_str(&format!("; hits {}", names.collect::<Vec<_>>().join(", ")));
        match f.hits.saturating_sub(named as u64) {
            0 => {}
            more => text.push_str(&format!(", and {} more", words::count(more))),
        }
    } else if !is_missed && f.lost > 0 {
        // They lie elsewhere too, or nobody needs them, or (--vouch) nobody has looked who does.
        let chunks = words::counted(f.lost, "chunk", "chunks");
        text.push_str(&format!("; no file is known that misses its {chunks}"));
    }
    text.push_str("; to do: ");
    text.push_str(&words::harmless(&f.advice));
    text
}

fn machine(f: &Finding) -> Value {
    let file = |hit: &Hit| {
        let mut file = Map::new();
        words::put_text(&mut file, "path", &hit.path);
        file.insert("snapshots".into(), hit.snapshots.iter().map(|s| s.hex()).collect());
        Value::from(file)
    };
    let files: Vec<Value> = f.files.iter().map(file).collect();
    json!({
        "message_type": "finding",
        "object": f.object,
        "what": f.what,
        "chunks": f.chunks.iter().map(|c| c.hex()).collect::<Vec<_>>(),
        "chunks_lost": f.lost,
        "files": files,
        "files_hit": f.hits,
        "advice": f.advice,
    })
}

fn machine_compared(place: &str, c: &Compared) -> Value {
    let ids = |ids: &[SnapshotId]| ids.iter().map(|id| id.hex()).collect::<Vec<_>>();
    json!({
        "message_type": "compared",
        "replica": place,
        "findings": c.findings.len(),
        "objects_in_both": c.both,
        "packs_only_here": c.packs.0,
        "packs_only_there": c.packs.1,
        "read_packs": c.read.0,
        "read_bytes": c.read.1,
        "snapshots_only_there": ids(&c.only_there),
        "snapshots_forgotten_there": ids(&c.forgotten_there),
    })
}

fn words_of_compared(place: &str, c: &Compared) -> Vec<String> {
    let mut lines = vec![format!(
        "compared with {place}: {} in both, {} here alone, {} there alone",
        words::counted(c.both, "object is", "objects are"),
        words::counted(c.packs.0, "pack", "packs"),
        words::counted(c.packs.1, "pack", "packs"),
    )];
    for (ids, what) in
        [(&c.only_there, "in the replica alone"), (&c.forgotten_there, "forgotten in the replica")]
    {
        if !ids.is_empty() {
            let named: Vec<String> = ids.iter().take(SNAPSHOTS_NAMED).map(|id| id.short()).collect();
            let more = match ids.len().saturating_sub(named.len()) {
                0 => String::new(),
                more => format!(", and {more} more"),
            };
            lines.push(format!("snapshots that are {what}: {}{more}", named.join(" ")));
        }
    }
    lines
}

fn summary(r: &Report, vouched: Option<&Vouched>, unvouched: u64, costs: &Costs) -> Value {
    let (vouched_packs, vouched_bytes) = vouched.map_or((0, 0), |v| v.packs);
    json!({
        "message_type": "summary",
        "findings": r.findings.len(),
        "objects": r.objects,
        "snapshots": r.snapshots,
        "packs": r.packs,
        "bytes": r.bytes,
        "chunks": r.chunks,
        "unused_packs": r.unused.0,
        "unused_bytes": r.unused.1,
        "read_packs": r.read.0,
        "read_bytes": r.read.1,
        "vouched_packs": vouched_packs,
        "vouched_bytes": vouched_bytes,
        "unvouched_packs": unvouched,
        "seconds": r.seconds,
        "store": words::machine_costs(costs),
    })
}

fn words_of(r: &Report, vouched: Option<&Vouched>, unvouched: u64) -> Vec<String> {
    let mut lines = vec![format!(
        "checked {}, {} and {} in {}",
        words::counted(r.objects, "object", "objects"),
        words::counted(r.snapshots, "snapshot", "snapshots"),
        words::counted(r.chunks, "reference to chunks", "references to chunks"),
        words::duration(r.seconds),
    )];
    lines.push(match r.read.0 {
        0 => format!(
            "the contents of {} of {} were not read: --read-data does that",
            words::counted(r.packs, "pack", "packs"),
            words::size(r.bytes)
        ),
        _ => format!(
            "read {} of {} of {} ({})",
            words::size(r.read.1),
            words::size(r.bytes),
            words::counted(r.packs, "pack", "packs"),
            words::rate(r.read.1, r.seconds)
        ),
    });
    if r.unused.0 > 0 {
        lines.push(format!(
            "{} of {} not in the index: a backup is under way or was interrupted, or an index segment is lost (`pastfs repair \
             index` names them again)",
            words::counted(r.unused.0, "pack", "packs"),
            words::size(r.unused.1)
        ));
    }
    if let Some(Vouched { packs: (packs, bytes), .. }) = vouched {
        let counted = words::counted(*packs, "pack", "packs");
        lines.push(format!("vouched for {counted} of {} that only writer keys had", words::size(*bytes)));
    }
    if unvouched > 0 {
        lines.push(format!(
            "{} only writer keys vouch for: no other key relies on what lies there. --vouch reads and signs that",
            words::counted(unvouched, "pack is there that", "packs are there that")
        ));
    }
    lines.push(match r.findings.len() as u64 {
        0 => "nothing is wrong".into(),
        n => words::counted(n, "finding", "findings"),
    });
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsets_are_parts_shares_or_sizes() {
        assert_eq!(parse_subset("1/7"), Ok(Subset::Part { part: 1, of: 7 }));
        assert_eq!(parse_subset("7/7"), Ok(Subset::Part { part: 7, of: 7 }));
        assert_eq!(parse_subset("5%"), Ok(Subset::Share(0.05)));
        assert_eq!(parse_subset("100%"), Ok(Subset::Share(1.0)));
        assert_eq!(parse_subset("10GiB"), Ok(Subset::Bytes(10 << 30)));
        for wrong in ["", "0/7", "8/7", "1/0", "-1/7", "1/7/2", "0%", "101%", "NaN%", "%", "0", "many"] {
            assert!(parse_subset(wrong).is_err(), "{wrong}");
        }
    }
}
