//! All snapshots together, for the commands that look through time: where a path was, since when, and whether it is
//! still there.

use super::access::{Global, stop_on_signals};
use super::ls;
use super::progress::Progress;
use super::select::{Filters, holds};
use super::words;
use crate::clock::Time;
use crate::event::{Event, Observer, Stop};
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::pack::Space;
use crate::format::snapshot::Private;
use crate::format::tree::Entry;
use crate::history::{self, Lost, Name, Runs};
use crate::id::ChunkId;
use crate::mount::Names;
use crate::mount::names::Named;
use crate::repository::{Reader, Repository, Right, Snapshot};
use crate::source;
use crate::tree::Chunks;
use bytes::Bytes;
use serde_json::{Map, Value};
use std::cell::Cell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The snapshots that pass the filters, oldest first; the index into them is the one that [`history`] counts by.
pub struct Timeline {
    repository: Arc<Repository>,
    reader: Arc<Reader>,
    stop: Stop,
    observer: Arc<dyn Observer>,
    snapshots: Vec<Arc<Snapshot>>,
    /// What the mount calls them.
    names: Vec<Vec<u8>>,
    hosts: Vec<Host>,
    damaged: Cell<bool>,
}

struct Host {
    name: Vec<u8>,
    snapshots: Runs,
    /// What was asked for in each of them, oldest first.
    saved: Vec<(u32, Vec<Vec<u8>>)>,
}

/// That a path is no more: which host misses it.
pub struct Gone<'a> {
    host: &'a [u8],
    /// The host's newest snapshot that would have it.
    newest: u32,
}

impl Chunks for Timeline {
    /// A chunk, unless somebody has asked to stop.
    fn chunk(&self, space: Space, id: &ChunkId) -> Result<Bytes> {
        self.stop.check()?;
        self.reader.chunk(space, id)
    }
}

impl Timeline {
    /// # Errors
    /// `Missing` where no snapshot passes.
    pub fn load(
        repository: &Arc<Repository>,
        filters: &Filters,
        observer: Arc<dyn Observer>,
        stop: Stop,
    ) -> Result<Self> {
        repository.allow(Right::Read, "reading names")?;
        let all = repository.snapshots()?;
        let snapshots = filters.pass(repository, all.clone())?;
        if snapshots.is_empty() {
            return Err(filters.none());
        }
        // Names depend on all that there are: of two of one second the later one is called differently.
        let named: Vec<Named<'_>> = all
            .iter()
            .map(|s| Named { time: s.manifest.time, id: &s.id, host: &s.manifest.host, tags: &s.tags })
            .collect();
        let mut called = all.iter().map(|s| s.id).zip(Names::default().all(&named));
        // Both lists are in one order.
        let names = snapshots
            .iter()
            .map(|s| called.find(|(id, _)| *id == s.id).map(|(_, name)| name).unwrap_or_default())
            .collect();
        let mut timeline = Self {
            repository: repository.clone(),
            reader: repository.reader(),
            stop,
            observer,
            snapshots,
            names,
            hosts: Vec::new(),
            damaged: Cell::new(false),
        };
        timeline.hosts = timeline.by_host();
        Ok(timeline)
    }

    fn by_host(&self) -> Vec<Host> {
        let mut hosts: Vec<Host> = Vec::new();
        for (index, snapshot) in (0u32..).zip(&self.snapshots) {
            let name = &snapshot.manifest.host;
            let saved = self.repository.private(snapshot).map(|p| p.paths).unwrap_or_else(|error| {
                self.damaged.set(true);
                self.observer.event(Event::Warning(&error.chain()));
                Vec::new()
            });
            match hosts.iter_mut().find(|h| h.name == *name) {
                Some(host) => {
                    host.snapshots.unite(&Runs::one(index));
                    host.saved.push((index, saved));
                }
                None => hosts.push(Host {
                    name: name.clone(),
                    snapshots: Runs::one(index),
                    saved: vec![(index, saved)],
                }),
            }
        }
        hosts
    }

    /// The folder `/` in all of them.
    pub fn root(&self) -> Result<Name> {
        let roots: Vec<(u32, ChunkId)> =
            (0u32..).zip(&self.snapshots).map(|(i, s)| (i, s.manifest.root)).collect();
        let mut lost = Vec::new();
        let name = history::root(self, &roots, &mut lost)?;
        self.tell(b"/", lost);
        Ok(name)
    }

    /// What there ever was at a path as it is written: made absolute, first by text alone, then with the
    /// symlinks of today's folders resolved, as a backup does it. With the path that was found.
    ///
    /// # Errors
    /// `Missing` where no snapshot has it.
    pub fn find(&self, written: &OsStr) -> Result<(Vec<u8>, Name)> {
        let plain = source::absolute(Path::new(written))?;
        let top = self.root()?;
        let mut tried: Vec<Vec<u8>> = Vec::new();
        for path in [plain.clone(), real(&plain)] {
            let path = path.as_os_str().as_bytes().to_vec();
            if tried.contains(&path) {
                continue;
            }
            let mut lost = Vec::new();
            let found = history::below(self, &top, &path, &mut lost)?;
            self.tell(&path, lost);
            if let Some(name) = found {
                return Ok((path, name));
            }
            tried.push(path);
        }
        let what = format!("no snapshot has {}", words::visible(&tried[0]));
        Err(match self.is_damaged() {
            // It may be where we could not look.
            true => Error::damaged(what),
            false => Error::new(Fault::Missing, what)
                .hint("`pastfs find NAME` looks for a name everywhere; --host, --tag and --path leave snapshots out"),
        })
    }

    /// Tells what could not be read below a path.
    pub fn tell(&self, path: &[u8], lost: impl IntoIterator<Item = Lost>) {
        for Lost { snapshots, error } in lost {
            self.damaged.set(true);
            let first = snapshots.first().map_or("?".into(), |i| self.id(i));
            let more = match snapshots.count() {
                0 | 1 => String::new(),
                n => format!(" and {} more", words::count(n - 1)),
            };
            self.observer.event(Event::Warning(&format!(
                "{} cannot be read in snapshot {first}{more}: {}",
                words::visible(path),
                error.chain()
            )));
        }
    }

    /// Whether anything was told as damaged.
    pub fn is_damaged(&self) -> bool {
        self.damaged.get()
    }

    fn id(&self, index: u32) -> String {
        self.snapshots.get(index as usize).map_or_else(String::new, |s| s.id.short())
    }

    /// Time of a snapshot.
    pub fn time(&self, index: Option<u32>) -> Time {
        index.and_then(|i| self.snapshots.get(i as usize)).map(|s| s.manifest.time).unwrap_or_default()
    }

    /// What the mount calls a snapshot.
    pub fn name(&self, index: Option<u32>) -> &[u8] {
        index.and_then(|i| self.names.get(i as usize)).map_or(b"", Vec::as_slice)
    }

    /// The hosts that once had the path, and whose newest snapshot of it, of those that were asked for it, has it
    /// no more. Empty where nobody misses it.
    pub fn gone(&self, path: &[u8], snapshots: &Runs) -> Result<Vec<Gone<'_>>> {
        let mut gone = Vec::new();
        for host in &self.hosts {
            // Ancestors of what was asked for are in a snapshot too.
            let covers = |saved: &[Vec<u8>]| saved.iter().any(|s| holds(s, path) || holds(path, s));
            if !host.snapshots.meets(snapshots) {
                continue;
            }
            for (index, _) in host.saved.iter().rev().filter(|(_, saved)| covers(saved)) {
                if snapshots.contains(*index) {
                    break;
                }
                if !self.unread(*index, path)? {
                    gone.push(Gone { host: &host.name, newest: *index });
                    break;
                }
            }
        }
        Ok(gone)
    }

    /// Whether a snapshot lacks a path only because it, or a folder above it, could not be read.
    fn unread(&self, index: u32, path: &[u8]) -> Result<bool> {
        let Some(snapshot) = self.snapshots.get(index as usize) else { return Ok(false) };
        let Private { unread, .. } = self.repository.private(snapshot)?;
        Ok(unread.iter().any(|u| !u.changed && holds(&u.path, path)))
    }

    /// `deleted: the snapshot of 2026-11-20 02:00:05 does not have it`.
    pub fn gone_text(&self, gone: &[Gone<'_>]) -> String {
        let one = |g: &Gone<'_>| {
            let time = words::local_time(self.time(Some(g.newest)));
            match self.hosts.len() {
                0 | 1 => format!("deleted: the snapshot of {time} does not have it"),
                _ => {
                    format!("deleted: the snapshot of {time} of {} does not have it", words::visible(g.host))
                }
            }
        };
        gone.iter().map(one).collect::<Vec<_>>().join("; ")
    }

    /// `2026-11-20 02:00:05 to 2026-11-21 02:00:04`, or one time where both are the same.
    pub fn span(&self, runs: &Runs) -> String {
        let time = |i| words::local_time(self.time(i));
        match runs.count() {
            1 => time(runs.first()),
            _ => format!("{} to {}", time(runs.first()), time(runs.last())),
        }
    }

    /// One path with what is to be told of it, for machines.
    pub fn machine(&self, path: &[u8], name: &Name, gone: &[Gone<'_>]) -> Value {
        let mut object = Map::new();
        words::put_text(&mut object, "path", path);
        object.insert("deleted".into(), (!gone.is_empty()).into());
        self.put_span(&mut object, path, &name.snapshots());
        let versions: Vec<Value> =
            name.versions.iter().map(|v| self.machine_version(path, &v.entry, &v.snapshots)).collect();
        object.insert("versions".into(), versions.into());
        let runs = name.folder_snapshots();
        if !runs.is_empty() {
            let mut folder = Map::new();
            self.put_span(&mut folder, path, &runs);
            object.insert("folder".into(), folder.into());
        }
        object.into()
    }

    fn machine_version(&self, path: &[u8], entry: &Entry, runs: &Runs) -> Value {
        let mut object = Map::new();
        ls::describe(&mut object, entry);
        self.put_span(&mut object, path, runs);
        object.into()
    }

    fn put_span(&self, object: &mut Map<String, Value>, path: &[u8], runs: &Runs) {
        let id = |i: Option<u32>| i.and_then(|i| self.snapshots.get(i as usize)).map(|s| s.id.hex());
        object.insert("first".into(), words::machine_time(self.time(runs.first())).into());
        object.insert("last".into(), words::machine_time(self.time(runs.last())).into());
        object.insert("first_snapshot".into(), id(runs.first()).into());
        object.insert("last_snapshot".into(), id(runs.last()).into());
        object.insert("snapshots".into(), runs.count().into());
        let in_mount = [self.name(runs.first()), path].concat();
        words::put_text(object, "in_mount", &in_mount);
    }
}

/// With the symlinks of its deepest folder that is there resolved; the last part stays as it is.
pub fn real(path: &Path) -> PathBuf {
    for (depth, above) in path.ancestors().skip(1).enumerate() {
        if let Ok(real) = above.canonicalize() {
            let parts: Vec<_> = path.components().rev().take(depth + 1).collect();
            return parts.iter().rev().fold(real, |real, part| real.join(part));
        }
    }
    path.to_path_buf()
}

/// Opens the repository and loads what passes the filters.
pub fn open(global: &Global, filters: &Filters) -> Result<Timeline> {
    let observer = Progress::warnings(global);
    let repository = global.open_to_read(observer.clone())?;
    let stop = stop_on_signals()?;
    Timeline::load(&repository, filters, observer, stop).doing(|| "looking through the snapshots")
}
