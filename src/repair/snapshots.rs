//! `repair snapshots`: what is lost of a snapshot is left out of a new one, which says so; the old one stays until somebody
//! forgets it.

use super::objects::{Broken, Fate, objects};
use super::walk::{Nowhere, Remains, Walk};
use super::{Hurt, done};
use crate::clock;
use crate::event::{Event, Observer, Stop};
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::snapshot::{Action, PATH_MAX, Private, TAGS_MAX, Totals, UNREAD_MAX};
use crate::id::{ChunkId, PackId, SnapshotId};
use crate::repository::{Commit, Draft, Keep, Repository, Snapshot, Survey, Writer, WriterOptions};
use crate::seal::Compression;
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// The tag of a snapshot that lacks something because it was lost.
const REPAIRED: &[u8] = b"repaired";
/// How often one is begun anew when prune took the work for dead, or packs that it relied on are gone.
const ATTEMPTS: usize = 4;
/// Most bytes of paths and reasons in a manifest, whose own limit is 16 MiB; the rest is counted.
const UNREAD_BYTES_MAX: usize = 4 << 20;

/// What to repair, and how.
#[derive(Clone, Debug, Default)]
pub struct SnapshotsOptions {
    /// Which ones; all, where none is named.
    pub snapshots: Vec<SnapshotId>,
    /// Every chunk is read, not only looked up.
    pub read_data: bool,
    /// The old ones are forgotten once the new ones are there.
    pub forget: bool,
    /// Manifests, notes and configs that are damaged, and that this machine cannot put back, are deleted.
    pub drop_damaged: bool,
    /// Nothing is written.
    pub dry_run: bool,
    /// Of this machine, for the lease.
    pub host: Vec<u8>,
}

/// What became of a snapshot from which something is lost.
#[derive(Clone, Debug)]
pub struct Mended {
    /// What it lacks.
    pub hurt: Hurt,
    /// The one that holds the rest; `None` in a dry run, and where nothing can be read.
    pub new: Option<SnapshotId>,
    /// That one was there already.
    pub was_there: bool,
    /// Nothing of it can be read.
    pub is_gone: bool,
    /// It was forgotten.
    pub forgotten: bool,
}

/// What became of all.
#[derive(Debug, Default)]
pub struct SnapshotsReport {
    /// Snapshots that were gone through.
    pub looked_at: u64,
    /// Those that are hit, oldest first.
    pub mended: Vec<Mended>,
    /// Manifests, notes, configs and keys that cannot be read.
    pub broken: Vec<Broken>,
    /// How long it took.
    pub seconds: f64,
}

impl SnapshotsReport {
    /// Whether a snapshot that is listed still lacks something without saying so.
    pub fn is_hurt(&self) -> bool {
        self.mended.iter().any(|m| !m.forgotten) || self.broken.iter().any(|b| b.fate == Fate::Left)
    }
}

/// Puts back or deletes what no census can read; writes the snapshots anew from which something is lost.
///
/// # Errors
/// `Denied` without a full key; `Misuse` where `repair index` may save what seems lost; `Missing` for a snapshot that is not
/// there; what the store says; `Stopped`. What was written until then stays.
pub fn snapshots(
    repository: &Arc<Repository>,
    options: &SnapshotsOptions,
    observer: &Arc<dyn Observer>,
    stop: &Stop,
) -> Result<SnapshotsReport> {
    let began = clock::now();
    repository.may_delete()?;
    let mut survey = repository.survey(stop)?;
    let broken = objects(repository, &survey, options, observer, stop)?;
    if !options.dry_run && broken.iter().any(|b| b.fate != Fate::Left) {
        survey = repository.survey(stop)?;
    }
    let mut meant: Vec<Arc<Snapshot>> = survey.snapshots.clone();
    if !options.snapshots.is_empty() {
        for id in &options.snapshots {
            if !meant.iter().any(|s| s.id == *id) {
                return Err(Error::new(Fault::Missing, format!("there is no snapshot {}", id.short())));
            }
        }
        meant.retain(|s| options.snapshots.contains(&s.id));
    }
    let files = survey.objects - survey.stored_packs + meant.len() as u64;
    observer.event(Event::Planned { files, bytes: survey.bytes });
    let reader = repository.reader_keeping(Keep::Nothing);
    let mut walk = Walk::new(repository, &reader, &survey.packs, options.read_data, stop);
    let mut report = SnapshotsReport { looked_at: meant.len() as u64, broken, ..SnapshotsReport::default() };
    let mut hurt = Vec::new();
    for s in &meant {
        let name = format!("snapshots/{}", s.id);
        observer.event(Event::Started(Path::new(&name)));
        let remains = walk.snapshot(s, &mut Nowhere);
        if let Some(remains) = remains.doing(|| format!("walking through snapshot {}", s.id.short()))? {
            hurt.push((s.clone(), remains));
        }
        done(observer, &name);
    }
    if !hurt.is_empty() && !options.dry_run {
        look_before(repository, &survey, &walk, options.forget, observer, stop)?;
        repository.note_lost(&walk.lost)?;
    }
    for (s, remains) in hurt {
        let is_gone = remains.root.is_none();
        let hurt = Hurt { snapshot: s.id, files: remains.lost, total: remains.total };
        let mut mended = Mended { hurt, new: None, was_there: false, is_gone, forgotten: false };
        if !options.dry_run && !is_gone {
            let (new, was_there) = anew(repository, &s, &mut walk, options, observer, stop)
                .doing(|| format!("writing snapshot {} anew", s.id.short()))?;
            (mended.new, mended.was_there) = (Some(new), was_there);
            carry_over(repository, &s, &new, options.forget)?;
            mended.forgotten = options.forget;
        }
        report.mended.push(mended);
    }
    report.seconds = clock::now().seconds_since(began);
    Ok(report)
}

/// What `repair index` and `repair packs` can save is not lost.
fn look_before(
    repository: &Repository,
    survey: &Survey,
    walk: &Walk<'_>,
    forget: bool,
    observer: &Arc<dyn Observer>,
    stop: &Stop,
) -> Result<()> {
    let mut is_torn = survey.flaws.iter().any(|f| f.object.starts_with("index/"));
    for (id, size) in survey.unused.iter().chain(&survey.nameless) {
        if is_torn {
            break;
        }
        is_torn = match repository.read_stray(id, *size, stop) {
            Ok(read) => read.is_ok_and(|stray| stray.holds(&walk.lost)),
            Err(e) if e.fault() == Fault::Missing => false,
            Err(e) => return Err(e),
        };
    }
    if is_torn {
        return Err(Error::misuse(
            "the index is damaged: what snapshots lack may lie in packs that it does not name",
        )
        .hint("run `pastfs repair index` first; --dry-run tells what is lost as things are"));
    }
    if !walk.is_in_use {
        return Ok(());
    }
    let text = "what is lost should lie in packs that are in use";
    let hint = "run `pastfs repair index` and `pastfs repair packs` first, and back up again what the source still has";
    if forget {
        return Err(Error::misuse(format!("{text}: some of it may be saved")).hint(hint));
    }
    observer.event(Event::Warning(&format!("{text}; to save more, {hint}")));
    Ok(())
}

/// Writes a snapshot without what is lost, or finds the one that was written so before. Whether it was there.
fn anew(
    repository: &Arc<Repository>,
    s: &Arc<Snapshot>,
    walk: &mut Walk<'_>,
    options: &SnapshotsOptions,
    observer: &Arc<dyn Observer>,
    stop: &Stop,
) -> Result<(SnapshotId, bool)> {
    let written = write(repository, options, observer, stop, |mut writer| {
        if !writer.live().iter().any(|l| l.id == s.id) {
            writer.abandon()?;
            return Err(Error::new(Fault::Missing, "somebody has forgotten it meanwhile"));
        }
        let remains = match walk.snapshot(s, &mut writer) {
            Ok(remains) => remains,
            Err(e) => {
                let _ = writer.abandon();
                return Err(e);
            }
        };
        let left = remains.and_then(|r| Some((r.root?, r)));
        let (root, remains) = left.ok_or_else(|| Error::bug("a snapshot has changed"))?;
        if let Some(before) = written_before(writer.live(), s, &root) {
            writer.abandon()?;
            return Ok(ControlFlow::Break(before));
        }
        Ok(ControlFlow::Continue((writer, draft(repository, s, root, &remains)?)))
    })?;
    Ok(match written {
        ControlFlow::Break(before) => (before, true),
        ControlFlow::Continue(new) => (new, false),
    })
}

/// Writes a snapshot, from the beginning again where prune took the work for dead or packs that it relied on are gone.
/// `draft` goes on with what is to be committed, or breaks off with an answer, having abandoned its writer.
pub(super) fn write<T>(
    repository: &Arc<Repository>,
    options: &SnapshotsOptions,
    observer: &Arc<dyn Observer>,
    stop: &Stop,
    mut draft: impl FnMut(Writer) -> Result<ControlFlow<T, (Writer, Draft)>>,
) -> Result<ControlFlow<T, SnapshotId>> {
    let mut distrust: HashSet<PackId> = HashSet::new();
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let options = WriterOptions {
            compression: Compression::default(),
            host: options.host.clone(),
            purpose: "repair snapshots",
            dry_run: false,
            distrust: distrust.clone(),
            stop: stop.clone(),
        };
        let (writer, draft) = match draft(Writer::begin(repository, options)?)? {
            ControlFlow::Continue(writing) => writing,
            ControlFlow::Break(answer) => return Ok(ControlFlow::Break(answer)),
        };
        match writer.commit(draft)? {
            Commit::Done(id, _) => return Ok(ControlFlow::Continue(id)),
            Commit::Again(gone, e) => {
                observer.event(Event::Warning(&format!("starting over: {}", e.chain())));
                distrust.extend(gone);
                last = Some(e);
            }
        }
    }
    Err(last.unwrap_or_else(|| Error::bug("a repair ended without an end")))
}

/// A snapshot of the same time, host and content: an earlier run has written it.
pub(super) fn written_before(live: &[Arc<Snapshot>], s: &Snapshot, root: &ChunkId) -> Option<SnapshotId> {
    let (old, same) = (&s.manifest, |m: &crate::format::snapshot::Manifest| m.root == *root);
    let found = live.iter().find(|l| {
        let m = &l.manifest;
        l.id != s.id && m.time == old.time && m.host == old.host && same(m)
    });
    found.map(|l| l.id)
}

fn draft(repository: &Repository, s: &Snapshot, root: ChunkId, remains: &Remains) -> Result<Draft> {
    let m = &s.manifest;
    let private = repository.private(s)?;
    let mut tags = s.tags.clone();
    if !tags.iter().any(|t| t == REPAIRED) && tags.len() < TAGS_MAX {
        tags.push(REPAIRED.to_vec());
        tags.sort();
    }
    let mut unread = private.unread;
    let mut bytes: usize = unread.iter().map(|u| u.path.len() + u.reason.len()).sum();
    for lost in &remains.lost {
        bytes += lost.path.len() + lost.reason.len();
        if unread.len() < UNREAD_MAX && bytes <= UNREAD_BYTES_MAX && lost.path.len() <= PATH_MAX {
            unread.push(lost.clone());
        }
    }
    let c = remains.counts;
    Ok(Draft {
        time: Some(m.time),
        host: m.host.clone(),
        tags,
        root,
        parent: None,
        totals: Totals { files: c.files, folders: c.folders, others: c.others, bytes: c.bytes, ..m.totals },
        private: Private {
            paths: private.paths,
            unread,
            unread_total: private.unread_total + remains.total,
            unknown: private.unknown,
        },
    })
}

/// What notes say of the old one holds for the new one; the old one is forgotten, if that is wanted.
pub(super) fn carry_over(
    repository: &Repository,
    old: &Snapshot,
    new: &SnapshotId,
    forget: bool,
) -> Result<()> {
    let is_held = repository.snapshots()?.iter().any(|s| s.id == *new && s.held);
    if old.held && !is_held {
        repository.add_note(Action::Hold, &[*new], &[])?;
    }
    if forget {
        if old.held {
            repository.add_note(Action::Release, &[old.id], &[])?;
        }
        repository.add_note(Action::Forget, &[old.id], &[])?;
    }
    Ok(())
}
