//! The library, called within this process on a folder on disk: no program has to start, the storage can end in the midst of
//! whatever is done, and its clock goes as the life says.

use super::hands::{Deed, Ended, Hands, MACHINES, Shown, cache};
use crate::suite::scene::Scene;
use parking_lot::Mutex;
use pastfs::clock::Time;
use pastfs::event::{Observer, Silent, Stop};
use pastfs::fault::{Error, Fault, Result};
use pastfs::format::snapshot::Action;
use pastfs::id::SnapshotId;
use pastfs::repository::{Credential, OpenOptions, Repository};
use pastfs::retention::{self, Candidate, GroupBy, Policy};
use pastfs::source::{self, Exclude};
use pastfs::storage::{Listed, Local, Store};
use pastfs::{backup, check, clock, prune, repair, replicate, restore};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use zeroize::Zeroizing;

/// A folder on disk with a clock of its own, which stops to answer after some calls.
struct Mortal {
    local: Local,
    dir: PathBuf,
    ahead: Arc<AtomicI64>,
    calls: AtomicU64,
    /// The first call that fails, as all behind it.
    end: u64,
}

impl Mortal {
    fn call(&self, name: &str) -> Result<()> {
        match self.calls.fetch_add(1, Ordering::SeqCst) < self.end {
            true => Ok(()),
            false => Err(Error::new(Fault::Io, format!("{name}: this machine is dead"))),
        }
    }
}

impl Store for Mortal {
    fn location(&self) -> String {
        self.local.location()
    }
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.call(name)?;
        let is_new = self.local.size(name).is_err();
        self.local.put(name, bytes)?;
        if is_new {
            let now = clock::now();
            let seconds = now.seconds + self.ahead.load(Ordering::SeqCst);
            let at = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: now.nanos.into() };
            let times = rustix::fs::Timestamps { last_access: at, last_modification: at };
            let none = rustix::fs::AtFlags::empty();
            // Whoever has deleted it meanwhile needs no time of it.
            let _ = rustix::fs::utimensat(rustix::fs::CWD, self.dir.join(name), &times, none);
        }
        Ok(())
    }
    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        self.call(name).and_then(|()| self.local.get(name, limit))
    }
    fn range(&self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.call(name).and_then(|()| self.local.range(name, offset, length))
    }
    fn size(&self, name: &str) -> Result<u64> {
        self.call(name).and_then(|()| self.local.size(name))
    }
    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.call(prefix).and_then(|()| self.local.list(prefix))
    }
    fn modified(&self, name: &str) -> Result<Time> {
        self.call(name).and_then(|()| self.local.modified(name))
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.call(name).and_then(|()| self.local.delete(name))
    }
    fn may_be_stale(&self) -> bool {
        // The folder of the test is on a disk of this machine, whatever its clock says.
        false
    }
}

/// The library.
#[derive(Default)]
pub struct Library {
    ahead: Arc<AtomicI64>,
    /// How many calls a backup and a prune took.
    took: HashMap<bool, u64>,
    damaged: Mutex<Vec<String>>,
}

impl Library {
    fn store(&self, scene: &Scene, end: u64) -> Result<Arc<Mortal>> {
        let dir = scene.repository();
        let (local, ahead) = (Local::open(&dir)?, self.ahead.clone());
        Ok(Arc::new(Mortal { local, dir, ahead, calls: AtomicU64::new(0), end }))
    }

    fn open(&self, scene: &Scene, machine: usize, store: Arc<Mortal>) -> Result<Arc<Repository>> {
        let key: [u8; 32] = fs::read(scene.key()).unwrap().try_into().unwrap();
        let options = OpenOptions { cache: cache(scene, machine), observer: Arc::new(Silent) };
        Repository::open(store, &Credential::KeyFile(Zeroizing::new(key)), options)
    }

    fn opened(&self, scene: &Scene, machine: usize) -> Result<Arc<Repository>> {
        self.open(scene, machine, self.store(scene, u64::MAX)?)
    }

    /// What it found, as the exit code has it: 4 with findings.
    fn act(&self, r: &Arc<Repository>, scene: &Scene, machine: usize, deed: &Deed) -> Result<i32> {
        let observer: Arc<dyn Observer> = Arc::new(Silent);
        let (stop, host) = (Stop::new(), MACHINES[machine].as_bytes().to_vec());
        let note = |action: Action, id: &str, tags: &[&str]| {
            let id = SnapshotId::from_hex(id).unwrap();
            let tags: Vec<Vec<u8>> = tags.iter().map(|t| t.as_bytes().to_vec()).collect();
            r.add_note(action, &[id], &tags).map(|_| 0)
        };
        let pruned = |grace: i64, now: bool| {
            let options = prune::Options {
                grace,
                max_unused: prune::Unused::Share(0.0),
                max_repack: u64::MAX,
                now,
                dry_run: false,
                compression: Default::default(),
                host: host.clone(),
                drop: HashSet::new(),
            };
            let report = prune::run(r, &options, &observer, &stop, &mut |_| {})?;
            Ok(if report.damaged.is_empty() { 0 } else { 4 })
        };
        match deed {
            Deed::Backup { tag, force } => {
                let files = source::Options {
                    paths: vec![scene.source()],
                    excludes: Exclude::new::<&str, &str>(&[], &[])?,
                    ..source::Options::default()
                };
                let options = backup::Options {
                    from: backup::From::Files(files),
                    tags: vec![tag.clone().into_bytes()],
                    host,
                    time: None,
                    dry_run: false,
                    force: *force,
                    ignore_ctime: false,
                    skip_if_unchanged: false,
                    compression: Default::default(),
                };
                backup::run(r, options, &observer, &stop).map(|_| 0)
            }
            Deed::Forget(id) => note(Action::Forget, id, &[]),
            Deed::ForgetBut(kept) => forget_but(r, *kept).map(|()| 0),
            Deed::Undo(id) => note(Action::Unforget, id, &[]),
            Deed::Tag(id, true) => note(Action::Tag, id, &["seen"]),
            Deed::Tag(id, false) => note(Action::Untag, id, &["seen"]),
            Deed::Hold(id, true) => note(Action::Hold, id, &[]),
            Deed::Hold(id, false) => note(Action::Release, id, &[]),
            Deed::Prune(hours) => pruned(hours * 3600, false),
            Deed::PruneNow => pruned(0, true),
            Deed::RepairIndex => repair::index(r, &host, false, &observer, &stop).map(|_| 0),
            Deed::RepairPacks => {
                let options = repair::PacksOptions { read_data: true, host, ..Default::default() };
                repair::packs(r, &options, &observer, &stop).map(|_| 0)
            }
            Deed::RepairSnapshots => {
                let options = repair::SnapshotsOptions {
                    read_data: true,
                    dry_run: true,
                    host,
                    ..repair::SnapshotsOptions::default()
                };
                repair::snapshots(r, &options, &observer, &stop).map(|_| 0)
            }
            Deed::Check => {
                let options = check::Options { read_data: Some(check::Subset::All) };
                let report = check::run(r, &options, &observer, &stop)?;
                let told = report.findings.iter().map(|f| format!("{} {}", f.object, f.what));
                *self.damaged.lock() = told.collect();
                Ok(if report.findings.is_empty() { 0 } else { 4 })
            }
            Deed::Replicate => {
                let place = scene.path("replica");
                let replica = if place.is_dir() { Local::open(&place) } else { Local::create(&place) };
                let replica: Arc<dyn Store> = Arc::new(replica?);
                let options = replicate::Options { host, ..replicate::Options::default() };
                let (_, report) = replicate::run(r, &replica, &options, &observer, &stop)?;
                Ok(if report.flaws.is_empty() && report.left.is_empty() { 0 } else { 4 })
            }
            Deed::Look => r.snapshots().map(|_| 0),
        }
    }
}

fn forget_but(r: &Arc<Repository>, kept: usize) -> Result<()> {
    let snapshots = r.snapshots()?;
    let candidate = |s: &Arc<pastfs::repository::Snapshot>| Candidate {
        time: s.manifest.time,
        host: s.manifest.host.clone(),
        paths: Vec::new(),
        tags: s.tags.clone(),
        held: s.held,
        stored: None,
        is_foreign: false,
    };
    let candidates: Vec<Candidate> = snapshots.iter().map(candidate).collect();
    let policy = Policy { last: kept as u32, ..Policy::default() };
    let by = GroupBy { host: true, paths: false, tags: false };
    let groups = retention::judge(&candidates, &policy, by, &jiff::tz::TimeZone::UTC, clock::now());
    let all = groups.iter().flat_map(|g| &g.verdicts);
    let gone: Vec<SnapshotId> = all.filter(|v| v.reasons.is_empty()).map(|v| snapshots[v.index].id).collect();
    if gone.is_empty() { Ok(()) } else { r.add_note(Action::Forget, &gone, &[]).map(drop) }
}

fn code_of(fault: Fault) -> i32 {
    match fault {
        Fault::Misuse => 2,
        Fault::Damaged => 4,
        Fault::NoRepository => 10,
        Fault::WrongKey => 12,
        Fault::Bug => panic!("a defect of pastfs"),
        _ => 1,
    }
}

impl Hands for Library {
    fn does(&mut self, scene: &Scene, machine: usize, deed: &Deed) -> Ended {
        let done = self.store(scene, u64::MAX).and_then(|store| {
            let done =
                self.open(scene, machine, store.clone()).and_then(|r| self.act(&r, scene, machine, deed));
            self.took.insert(matches!(deed, Deed::Backup { .. }), store.calls.load(Ordering::SeqCst));
            done
        });
        match done {
            Ok(code) => Ended { code, said: self.damaged.lock().join("; ") },
            Err(e) => {
                let advice = e.advice().unwrap_or_default().to_owned();
                Ended { code: code_of(e.fault()), said: format!("{} ({advice})", e.chain()) }
            }
        }
    }

    fn dies(&mut self, scene: &Scene, machine: usize, deed: &Deed, part: u64) {
        let took = self.took.get(&matches!(deed, Deed::Backup { .. })).copied().unwrap_or(60);
        let store = self.store(scene, took * part / 1000).unwrap();
        let _ = self.open(scene, machine, store).and_then(|r| self.act(&r, scene, machine, deed));
    }

    fn shown(&self, scene: &Scene, machine: usize) -> Shown {
        let text = |t: &Vec<u8>| String::from_utf8_lossy(t).into_owned();
        let snapshots = self.opened(scene, machine).and_then(|r| r.snapshots()).unwrap();
        snapshots.iter().map(|s| (s.id.hex(), (s.tags.iter().map(text).collect(), s.held))).collect()
    }

    fn there(&self, scene: &Scene, machine: usize) -> BTreeSet<String> {
        let r = self.opened(scene, machine).unwrap();
        let (shown, forgotten) = (r.snapshots().unwrap(), r.forgotten().unwrap());
        shown.iter().chain(&forgotten).map(|s| s.id.hex()).collect()
    }

    fn restores(&mut self, scene: &Scene, machine: usize, id: &str, to: &Path) -> bool {
        let restored = self.opened(scene, machine).and_then(|r| {
            let id = SnapshotId::from_hex(id).unwrap();
            let snapshots = r.snapshots()?;
            let found = snapshots.iter().find(|s| s.id == id);
            let snapshot = found.ok_or_else(|| Error::new(Fault::Missing, "it is not listed"))?;
            let options = restore::Options {
                path: scene.source().as_os_str().as_bytes().to_vec(),
                target: to.to_path_buf(),
                threads: 1,
                ..restore::Options::default()
            };
            let observer: Arc<dyn Observer> = Arc::new(Silent);
            restore::run(&r, snapshot, options, &observer, &Stop::new())
        });
        restored.is_ok_and(|report| report.failed + report.incomplete == 0)
    }

    fn passes(&mut self, _: &Scene, seconds: i64) {
        self.ahead.fetch_add(seconds, Ordering::SeqCst);
    }

    fn has_clock(&self) -> bool {
        true
    }
}
