//! `repair index`: packs that no segment names are read and named again, damaged segments go, and packs that segments name
//! and that are not there are retired, so that backups store their chunks again.

use super::{Losses, done, losses};
use crate::clock;
use crate::event::{Event, Observer, Stop};
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::pack::PackEntry;
use crate::id::{PackId, SegmentId};
use crate::repository::{ADOPTED_AT_ONCE, Found, Repository, Stray};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// What became of it; with a dry run, what would have.
#[derive(Debug, Default)]
pub struct IndexReport {
    /// Packs that were named again, their bytes, and chunks.
    pub adopted: (u64, u64, u64),
    /// Packs that no segment names and that are damaged: name, what is wrong.
    pub damaged: Vec<(String, String)>,
    /// Damaged segments that were deleted.
    pub deleted: Vec<SegmentId>,
    /// Objects that are damaged and that this cannot mend: name, what is wrong, what to do.
    pub left: Vec<(String, String, Option<String>)>,
    /// Packs that segments name and that are not there.
    pub absent: Vec<PackId>,
    /// What snapshots lack, after all that.
    pub losses: Losses,
    /// How long it took.
    pub seconds: f64,
}

impl IndexReport {
    /// Whether anything in the repository is damaged still.
    pub fn is_hurt(&self) -> bool {
        !(self.damaged.is_empty() && self.left.is_empty() && self.losses.hurt.is_empty())
    }
}

/// Makes the index name all packs that are there, and no others.
///
/// # Errors
/// `Denied` without a full key; what the store says where it is not about one object; `Stopped`. What was adopted until then
/// stays so.
pub fn index(
    repository: &Arc<Repository>,
    dry_run: bool,
    observer: &Arc<dyn Observer>,
    stop: &Stop,
) -> Result<IndexReport> {
    let began = clock::now();
    repository.may_repair()?;
    let survey = repository.survey(stop)?;
    let bytes: u64 = survey.unused.iter().map(|(_, size)| size).sum();
    let files =
        survey.objects - survey.stored_packs + survey.unused.len() as u64 + survey.snapshots.len() as u64;
    observer.event(Event::Planned { files, bytes: survey.bytes + bytes });
    let mut report = IndexReport::default();
    let mut adopted = Vec::new();
    read_strays(repository, &survey.unused, observer, stop, &mut |name, read| {
        match read {
            Err(e) => report.damaged.push((name, e.chain())),
            Ok(stray) => match stray.whole() {
                None => {
                    let what = stray.error().map_or_else(String::new, Error::chain);
                    report.damaged.push((name, what));
                }
                Some(entry) => {
                    let (packs, bytes, chunks) = &mut report.adopted;
                    (*packs, *bytes, *chunks) = (*packs + 1, *bytes + entry.size, *chunks + stray.chunks());
                    adopted.push(entry.clone());
                }
            },
        }
        match adopted.len() >= ADOPTED_AT_ONCE {
            true => adopt(repository, &mut adopted, dry_run),
            false => Ok(()),
        }
    })?;
    adopt(repository, &mut adopted, dry_run)?;
    for (id, promise) in &survey.packs {
        if !promise.retired && promise.found == Found::Missing {
            report.absent.push(*id);
        }
    }
    // All that is there is named by others now.
    for flaw in &survey.flaws {
        let segment = flaw.object.strip_prefix("index/").and_then(SegmentId::from_hex);
        match segment.filter(|_| flaw.error.fault() == Fault::Damaged) {
            Some(id) if dry_run || repository.delete_damaged(&id)? => report.deleted.push(id),
            _ => {
                let advice = flaw.error.advice().map(str::to_owned);
                report.left.push((flaw.object.clone(), flaw.error.chain(), advice));
            }
        }
    }
    let has_changed = report.adopted.0 > 0 || !report.deleted.is_empty();
    if !dry_run {
        let survey = if has_changed { repository.survey(stop)? } else { survey };
        report.losses = losses(repository, &survey, observer, stop)?;
        repository.note_lost(&report.losses.chunks)?;
    }
    report.seconds = clock::now().seconds_since(began);
    Ok(report)
}

fn adopt(repository: &Repository, entries: &mut Vec<PackEntry>, dry_run: bool) -> Result<()> {
    let entries = std::mem::take(entries);
    if !dry_run && !entries.is_empty() {
        repository.adopt(&entries)?;
    }
    Ok(())
}

type Read = Result<(String, Result<Stray>)>;

/// Reads packs on all cores; `each` is given one after another, by name, with what was read or why nothing could be.
fn read_strays(
    repository: &Arc<Repository>,
    strays: &[(PackId, u64)],
    observer: &Arc<dyn Observer>,
    stop: &Stop,
    each: &mut dyn FnMut(String, Result<Stray>) -> Result<()>,
) -> Result<()> {
    let cores = thread::available_parallelism().map_or(2, usize::from);
    let next = AtomicUsize::new(0);
    // None waits: an entry takes up to some 100 KiB of memory, and is taken as fast as packs are read.
    let (send, results): (Sender<Read>, Receiver<Read>) = bounded(0);
    thread::scope(|scope| {
        for _ in 0..cores.min(strays.len()) {
            let (send, next) = (send.clone(), &next);
            let work = move || {
                while let Some((id, size)) = strays.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let hex = id.hex();
                    let name = format!("packs/{}/{hex}", &hex[..2]);
                    observer.event(Event::Started(Path::new(&name)));
                    let read = match repository.read_stray(id, *size, stop) {
                        // A prune took it.
                        Err(e) if e.fault() == Fault::Missing => continue,
                        read => read.map(|read| (name.clone(), read)),
                    };
                    let is_over = read.is_err();
                    done(observer, &name);
                    if send.send(read).is_err() || is_over {
                        return;
                    }
                }
            };
            let thread = thread::Builder::new().name("repair".into()).spawn_scoped(scope, work);
            thread.doing(|| "starting a thread")?;
        }
        drop(send);
        for read in results {
            let (name, read) = read?;
            each(name, read)?;
        }
        Ok(())
    })
}
