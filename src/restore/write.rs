//! Everything but folders. What is new is written under its own name, and gets the time of the entry last of all; what is
//! there already is changed only where it differs. So a run that was interrupted leaves no names of its own, nothing that
//! looks finished and is not, and what the next one completes.

use super::attributes::{Handle, Was, apply, strip_acls};
use super::content::{Leaf, chunk, leaves};
use super::folder::{Folder, reopen};
use super::out::Out;
use super::place::{Found, Identity, identity, put};
use super::readback::Standing;
use super::shared::Shared;
use super::{Overwrite, readback};
use crate::event::{Event, Outcome};
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::tree::{At, Content, Entry, Node, Stat};
use crate::id::ChunkId;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// A thing to write.
pub(super) struct Job {
    pub folder: Arc<Folder>,
    pub entry: Entry,
    /// Absolute path in the snapshot.
    pub path: Vec<u8>,
}

impl Job {
    fn content(&self) -> &[crate::format::tree::Extent] {
        match &self.entry.node {
            Node::File(Content::Extents(extents)) => extents,
            _ => &[],
        }
    }
    /// The chunk that its content begins with.
    pub fn begin(&self) -> Option<ChunkId> {
        match self.content().first()?.at {
            At::Chunk(id) => Some(id),
            At::Hole | At::List(..) => None,
        }
    }
    /// The chunks of its content that it names itself.
    pub fn chunks(&self) -> impl Iterator<Item = ChunkId> {
        self.content().iter().filter_map(|extent| match extent.at {
            At::Chunk(id) => Some(id),
            At::Hole | At::List(..) => None,
        })
    }
    /// How many extents it holds in memory.
    pub fn extents(&self) -> usize {
        self.content().len()
    }
}

/// What was done with a thing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Did {
    /// It was written as a whole.
    Restored,
    /// It was there, and got what it lacked.
    Changed,
    /// It was there, and equal.
    Equal,
    /// It was there, and is not to be overwritten.
    Left,
}

/// The names of one file.
#[derive(Default)]
struct Group {
    state: Mutex<Names>,
    changed: Condvar,
}

#[derive(Default)]
enum Names {
    /// None of them is there.
    #[default]
    None,
    /// Somebody is writing the first.
    Busy,
    /// One is there.
    One(First),
}

/// The name that the others become links to.
#[derive(Clone)]
struct First {
    /// Its folder, below the target.
    place: Vec<u8>,
    name: Vec<u8>,
    identity: Identity,
}

/// Names of files by what makes them one, with how many are still to come: no longer kept than that.
type Groups = HashMap<(u32, u64), (Arc<Group>, u64)>;

/// Writes things into the target; used by many threads.
pub(super) struct Writer<'a> {
    shared: &'a Shared<'a>,
    /// The target itself.
    target: Arc<Folder>,
    groups: Mutex<Groups>,
}

impl<'a> Writer<'a> {
    pub fn new(shared: &'a Shared<'a>, target: Arc<Folder>) -> Self {
        Self { shared, target, groups: Mutex::default() }
    }

    /// Finishes the target once no thread writes any more.
    pub fn end(self) {
        self.target.leave(self.shared);
    }

    /// Writes one thing and tells what became of it.
    pub fn run(&self, job: Job) {
        if !self.shared.halted() {
            let file = matches!(job.entry.node, Node::File(_));
            if file {
                self.shared.observer.event(Event::Started(super::shared::as_path(&job.path)));
            }
            match self.linked(&job) {
                Ok(did) => {
                    self.shared.count(|r| match file {
                        true => {
                            r.files += 1;
                            r.skipped += u64::from(did == Did::Equal);
                            r.kept += u64::from(did == Did::Left);
                            r.rewritten += u64::from(did == Did::Changed);
                        }
                        false => r.others += 1,
                    });
                    let outcome = match did {
                        Did::Restored => Outcome::Restored,
                        Did::Changed => Outcome::Rewritten,
                        Did::Equal | Did::Left => Outcome::Skipped,
                    };
                    self.shared.finished(&job.path, outcome, file);
                }
                Err(e) => self.shared.failed(&job.path, e),
            }
        }
        job.folder.leave(self.shared);
    }

    /// The first name of a file is written, the others are linked to it. Who waits here waits for a
    /// thread that is writing, so there is always one that goes on.
    fn linked(&self, job: &Job) -> Result<Did> {
        let Some(key) = job.entry.stat.link.filter(|_| !self.shared.dry_run) else {
            return self.written(job).map(|(did, _)| did);
        };
        let group = self.group(key, job.entry.stat.nlink);
        let mut state = group.state.lock();
        loop {
            match &*state {
                Names::Busy => group.changed.wait(&mut state),
                Names::One(first) => {
                    let first = first.clone();
                    drop(state);
                    let did = self.link(job, &first)?;
                    self.passed(&job.entry.stat);
                    return Ok(did);
                }
                Names::None => {
                    *state = Names::Busy;
                    drop(state);
                    let result = self.written(job);
                    *group.state.lock() = match &result {
                        // What was not overwritten is no name of this file.
                        Ok((did, identity)) if *did != Did::Left => Names::One(First {
                            place: job.folder.place.clone(),
                            name: job.entry.name.clone(),
                            identity: *identity,
                        }),
                        // The next name tries again.
                        _ => Names::None,
                    };
                    group.changed.notify_all();
                    return result.map(|(did, _)| did);
                }
            }
        }
    }

    fn group(&self, key: (u32, u64), names: u64) -> Arc<Group> {
        let mut groups = self.groups.lock();
        let (group, left) = groups.entry(key).or_insert_with(|| (Arc::default(), names));
        let group = group.clone();
        *left = left.saturating_sub(1);
        if *left == 0 {
            groups.remove(&key);
        }
        group
    }

    /// A file is done with, without any byte of it.
    fn passed(&self, stat: &Stat) {
        self.shared.count(|r| r.bytes += stat.size);
        self.shared.observer.event(Event::Bytes(stat.size));
    }

    fn link(&self, job: &Job, first: &First) -> Result<Did> {
        let doing = || "making a hard link";
        let name = job.entry.name.as_slice();
        let (Some(fd), Some(target)) = (job.folder.fd(), self.target.fd()) else {
            return Ok(Did::Restored);
        };
        if let Some(found) = Found::at(fd, name) {
            if found.identity() == first.identity {
                return Ok(Did::Equal);
            }
            if self.is_left(&found, &job.entry) {
                return Ok(Did::Left);
            }
        }
        let reopened: OwnedFd;
        let from = if first.place == job.folder.place {
            fd
        } else {
            reopened = reopen(target, &first.place).doing(doing)?;
            reopened.as_fd()
        };
        put(self.shared, &job.folder, fd, name, || {
            rustix::fs::linkat(from, first.name.as_slice(), fd, name, AtFlags::empty())
        })
        .doing(doing)?;
        // The first name could have come to mean another file since it was written.
        match Found::at(fd, name) {
            Some(made) if made.identity() == first.identity => Ok(Did::Restored),
            _ => {
                // It would be a name of a file that nobody asked for.
                let _ = rustix::fs::unlinkat(fd, name, AtFlags::empty());
                Err(Error::new(Fault::Denied, "somebody else has changed the other name of this file"))
            }
        }
    }

    /// Whether `--overwrite` says that what stands there stays.
    fn is_left(&self, found: &Found, entry: &Entry) -> bool {
        let time = (found.stat.st_mtime, found.stat.st_mtime_nsec as u32);
        match self.shared.overwrite {
            Overwrite::Always | Overwrite::IfChanged => false,
            Overwrite::IfNewer => {
                time > (entry.stat.mtime.seconds, entry.stat.mtime.nanos)
                    || time == (entry.stat.mtime.seconds, entry.stat.mtime.nanos) && !found.is_file()
            }
            Overwrite::Never => true,
        }
    }

    fn written(&self, job: &Job) -> Result<(Did, Identity)> {
        let entry = &job.entry;
        if let Node::Unknown(kind) = entry.node {
            return Err(Error::new(
                Fault::Newer,
                format!("it is of type {kind}, which this version of pastfs does not know"),
            ));
        }
        let Some(fd) = job.folder.fd() else {
            if matches!(entry.node, Node::File(_)) {
                self.passed(&entry.stat);
            }
            return Ok((Did::Restored, (0, 0)));
        };
        let found = if job.folder.made { None } else { Found::at(fd, &entry.name) };
        if let Some(found) = &found
            && self.is_left(found, entry)
        {
            if matches!(entry.node, Node::File(_)) {
                self.passed(&entry.stat);
            }
            return Ok((Did::Left, found.identity()));
        }
        match &entry.node {
            Node::File(content) => self.file(fd, job, content, found),
            _ => self.special(fd, job, found),
        }
    }

    fn file(
        &self,
        folder: BorrowedFd<'_>,
        job: &Job,
        content: &Content,
        found: Option<Found>,
    ) -> Result<(Did, Identity)> {
        let entry = &job.entry;
        if let Some(found) = found.filter(Found::is_file) {
            let quick = self.shared.overwrite != Overwrite::Always && found.looks_equal(entry);
            if quick && found.has_attributes(self.shared, entry) {
                self.passed(&entry.stat);
                return Ok((Did::Equal, found.identity()));
            }
            if found.may_be_changed(self.shared, entry) {
                if quick {
                    // Its content is taken for equal, as it was at the same size and time.
                    self.passed(&entry.stat);
                    if !self.shared.dry_run {
                        apply(self.shared, Handle::Path(found.fd.as_fd()), entry, Was::There, &job.path);
                    }
                    return Ok((Did::Changed, found.identity()));
                }
                if let Some(did) = self.change(folder, job, content, &found)? {
                    return Ok((did, found.identity()));
                }
            } else if self.shared.overwrite == Overwrite::Always
                && found.looks_equal(entry)
                && found.has_attributes(self.shared, entry)
                && let Ok(fd) = found.open(OFlags::RDONLY)
                && readback::differs(self.shared, fd.as_fd(), entry, content)?.is_none()
            {
                // One of several names, all within what the snapshot knows.
                self.passed(&entry.stat);
                return Ok((Did::Equal, found.identity()));
            }
        }
        if self.shared.dry_run {
            self.passed(&entry.stat);
            return Ok((Did::Restored, (0, 0)));
        }
        self.create(folder, job, content)
    }

    /// Writes a new file.
    fn create(&self, folder: BorrowedFd<'_>, job: &Job, content: &Content) -> Result<(Did, Identity)> {
        let mut out = Out::new(self.shared, folder, job);
        let written = self.fill(&mut out, content);
        let finished = written.and_then(|()| out.finish(job.entry.stat.size));
        let fd = match finished {
            Ok(fd) => fd,
            Err(e) => {
                // What may go on later stays; of what is damaged nothing is left that looks like a file.
                if !matches!(e.fault(), Fault::Stopped | Fault::Full | Fault::Busy) {
                    out.discard();
                }
                return Err(e);
            }
        };
        let handle = Handle::Open(fd.as_fd());
        if job.folder.inherits {
            strip_acls(handle, false).doing(|| "removing inherited ACLs")?;
        }
        apply(self.shared, handle, &job.entry, Was::Made, &job.path);
        let identity = match job.entry.stat.link {
            Some(_) => rustix::fs::fstat(&fd).map(|s| identity(&s)).doing(|| "looking at the file")?,
            None => (0, 0),
        };
        Ok((Did::Restored, identity))
    }

    fn fill(&self, out: &mut Out<'_>, content: &Content) -> Result<()> {
        let supply = self.shared.supply;
        let len = leaves(supply, content, &mut |at, leaf| {
            let n = match leaf {
                Leaf::Inline(bytes) => {
                    out.data(at, Bytes::copy_from_slice(bytes))?;
                    bytes.len() as u64
                }
                Leaf::Chunk(id, len) => {
                    out.data(at, chunk(supply, &id, len).doing(|| "reading its content")?)?;
                    len
                }
                Leaf::Hole(n) => n,
            };
            self.progress(n)
        })?;
        self.right_length(len, out.size())
    }

    fn right_length(&self, len: u64, size: u64) -> Result<()> {
        if len == size { Ok(()) } else { Err(Error::damaged("its content is not as long as the file")) }
    }

    fn progress(&self, n: u64) -> Result<()> {
        self.shared.count(|r| r.bytes += n);
        self.shared.observer.event(Event::Bytes(n));
        if self.shared.halted() { Err(Error::new(Fault::Stopped, "interrupted")) } else { Ok(()) }
    }

    /// Makes a file that is there what it must be, writing only what differs. `None` where it cannot be opened: it is made
    /// anew then (a program that runs cannot be written to).
    fn change(
        &self,
        folder: BorrowedFd<'_>,
        job: &Job,
        content: &Content,
        found: &Found,
    ) -> Result<Option<Did>> {
        let (shared, entry) = (self.shared, &job.entry);
        let Some(fd) = open_to_change(found, shared.dry_run) else { return Ok(None) };
        let mut standing = Standing::new(fd.as_fd(), found.stat.st_size as u64);
        let mut out = Out::onto(shared, folder, job, fd.as_fd());
        let mut equal = 0;
        let len = leaves(shared.supply, content, &mut |at, leaf| {
            let n = match leaf {
                Leaf::Inline(bytes) => bytes.len() as u64,
                Leaf::Chunk(_, n) | Leaf::Hole(n) => n,
            };
            if standing.is(shared.supply, at, leaf) {
                equal += n;
            } else {
                match leaf {
                    Leaf::Inline(bytes) => out.data(at, Bytes::copy_from_slice(bytes))?,
                    // A dry run need not read what it would write.
                    Leaf::Chunk(..) if shared.dry_run => out.hole(at, 0)?,
                    Leaf::Chunk(id, len) => {
                        out.data(at, chunk(shared.supply, &id, len).doing(|| "reading its content")?)?;
                    }
                    Leaf::Hole(n) => out.hole(at, n)?,
                }
            }
            self.progress(n)
        })?;
        self.right_length(len, out.size())?;
        let touched = out.finish_onto(found.stat.st_size as u64)?;
        if !touched && found.looks_equal(entry) && found.has_attributes(shared, entry) {
            return Ok(Some(Did::Equal));
        }
        if !shared.dry_run {
            apply(shared, Handle::Open(fd.as_fd()), entry, Was::There, &job.path);
        }
        Ok(Some(if equal == 0 && len > 0 { Did::Restored } else { Did::Changed }))
    }

    /// Symlinks, devices, pipes and sockets.
    fn special(&self, folder: BorrowedFd<'_>, job: &Job, found: Option<Found>) -> Result<(Did, Identity)> {
        let node = &job.entry.node;
        let (kind, device) = match node {
            Node::Symlink(_) => (FileType::Symlink, 0),
            Node::CharDevice(n) => (FileType::CharacterDevice, *n),
            Node::BlockDevice(n) => (FileType::BlockDevice, *n),
            Node::Fifo => (FileType::Fifo, 0),
            Node::Socket => (FileType::Socket, 0),
            Node::File(_) | Node::Folder(_) | Node::Unknown(_) => {
                return Err(Error::bug("a file or folder among the special files"));
            }
        };
        if let Some(found) = &found
            && self.same_special(found, &job.entry, kind, device)
        {
            return Ok((Did::Equal, found.identity()));
        }
        if self.shared.dry_run {
            return Ok((Did::Restored, (0, 0)));
        }
        let doing = || match node {
            Node::Symlink(_) => "making a symbolic link",
            Node::CharDevice(_) | Node::BlockDevice(_) => "making a device",
            Node::Fifo => "making a named pipe",
            _ => "making a socket",
        };
        let name = job.entry.name.as_slice();
        put(self.shared, &job.folder, folder, name, || match node {
            Node::Symlink(target) => rustix::fs::symlinkat(target.as_slice(), folder, name),
            _ => rustix::fs::mknodat(folder, name, kind, Mode::RUSR | Mode::WUSR, device),
        })
        .doing(doing)?;
        // What was opened is checked to be what was made, before it gets an owner: whoever may write to
        // this folder could have put a link to somebody else's file there.
        let made = Found::at(folder, name).ok_or_else(|| Error::io(doing(), Errno::NOENT.into()))?;
        if FileType::from_raw_mode(made.stat.st_mode) != kind
            || made.stat.st_nlink != 1
            || made.stat.st_uid != self.shared.me.uid
        {
            return Err(Error::new(Fault::Denied, "somebody else writes to the same folder of the target"));
        }
        let handle = Handle::Path(made.fd.as_fd());
        if job.folder.inherits && kind != FileType::Symlink {
            strip_acls(handle, false).doing(|| "removing inherited ACLs")?;
        }
        apply(self.shared, handle, &job.entry, Was::Made, &job.path);
        Ok((Did::Restored, made.identity()))
    }

    fn same_special(&self, found: &Found, entry: &Entry, kind: FileType, device: u64) -> bool {
        let time = (found.stat.st_mtime, found.stat.st_mtime_nsec as u32);
        let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        let same = FileType::from_raw_mode(found.stat.st_mode) == kind
            && time == (entry.stat.mtime.seconds, entry.stat.mtime.nanos)
            && (!is_device || found.stat.st_rdev == device);
        same && match &entry.node {
            Node::Symlink(target) => {
                rustix::fs::readlinkat(&found.fd, c"", Vec::new()).is_ok_and(|t| t.as_bytes() == target)
                    && found.has_attributes(self.shared, entry)
            }
            _ => found.has_attributes(self.shared, entry),
        }
    }
}

/// Opens a file to read and to write it. Its owner may have closed it to themselves.
fn open_to_change(found: &Found, dry_run: bool) -> Option<OwnedFd> {
    if dry_run {
        return found.open(OFlags::RDONLY).ok();
    }
    match found.open(OFlags::RDWR) {
        Err(Errno::ACCESS) => {
            let mode = Mode::from_raw_mode(found.stat.st_mode & 0o777) | Mode::RUSR | Mode::WUSR;
            rustix::fs::chmod(super::attributes::magic(found.fd.as_fd()), mode).ok()?;
            found.open(OFlags::RDWR).ok()
        }
        other => other.ok(),
    }
}

#[cfg(test)]
#[path = "write_tests.rs"]
mod tests;
