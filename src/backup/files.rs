//! Contents: reading files, small ones ahead of their turn by a few threads, big ones as they come.

use crate::chunk::{Chunker, Splitter};
use crate::clock::{self, Time};
use crate::fault::{Doing, Error};
use crate::format::pack::Space;
use crate::format::tree::{Content, INLINE_MAX, Stat, XATTR_INLINE_MAX, Xattr};
use crate::gauge::{Did, Gauge};
use crate::id::ChunkId;
use crate::repository::{Frames, Repository, Writer};
use crate::seal::{self, IdKeys};
use crate::source::{Item, Kind};
use crate::tree::{ContentWriter, Sink};
use crate::uncached::{Early, Uncached};
use crossbeam_channel::{Sender, bounded};
use parking_lot::{Condvar, Mutex};
use rustix::fs::{SeekFrom, seek};
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;

type Result<T, E = Error> = std::result::Result<T, E>;

/// Files up to this size are read whole, ahead of their turn.
pub const SMALL_MAX: u64 = 512 << 10;
/// Steps of a backup that wait for their turn at most, and bytes of files that are read, or to be read, for them.
pub const STEPS_MAX: usize = 1024;
/// See [`STEPS_MAX`]: 64 of the largest.
pub const WAITING_BYTES_MAX: u64 = 32 << 20;
/// Items that a thread asks for, and loads before it tells anybody, and bytes: waking somebody up costs as much as reading a
/// small file, and of 64 none came sooner.
const BATCH: usize = 16;
const BATCH_BYTES: u64 = 256 << 10;
/// Threads that read ahead: on a cold disk several requests under way count more than cores.
const THREADS: usize = 4;
/// Most bytes of xattr values that an entry holds itself.
const XATTRS_INLINE_SUM: usize = 16 << 10;
/// Read at a time from big files.
const PIECE: usize = 1 << 20;
/// A change so close to the reading may have come after it, unseen by the file system's clock: 2 s is
/// the tick of FAT, the coarsest there is (L17 of the rules of prune).
const FRESH_SECONDS: f64 = 2.0;

/// What reading a file's attributes and, if it is small, its content gave.
pub struct Loaded {
    /// Attributes as of the opening; `fresh` is set.
    pub stat: Stat,
    /// Content of a small file without holes.
    pub small: Option<Small>,
    /// The open file otherwise.
    pub file: Option<File>,
    /// It changed while it was read.
    pub changed: bool,
    /// Sorted.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Of a symlink.
    pub target: Option<Vec<u8>>,
}

/// The content of a small file, cut and named.
pub struct Small {
    bytes: Vec<u8>,
    /// Lengths and ids of its chunks; none where it fits into its entry.
    chunks: Vec<(u32, ChunkId)>,
}

impl Small {
    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Stores it.
    pub fn store(self, writer: &mut Writer) -> Result<Content> {
        if self.chunks.is_empty() {
            return Ok(Content::Inline(self.bytes));
        }
        let mut content = ContentWriter::new();
        let mut rest = self.bytes.as_slice();
        for (len, id) in self.chunks {
            let (chunk, after) = rest.split_at(len as usize);
            writer.put_as(Frames::Small, id, chunk)?;
            content.chunk(u64::from(len), id);
            rest = after;
        }
        content.finish(writer)
    }
}

/// Why a content was not stored: the source could not be read, which concerns this file alone, or the
/// repository could not be written, which ends the backup.
#[derive(Debug)]
pub enum Trouble {
    /// Goes into the report.
    Source(Error),
    /// Ends the backup.
    Repository(Error),
}

impl From<Error> for Trouble {
    fn from(e: Error) -> Self {
        Trouble::Repository(e)
    }
}

impl Trouble {
    fn source(e: std::io::Error) -> Self {
        Trouble::Source(Error::io("reading", e))
    }
    /// As one error, where there is only one way on.
    pub fn into_error(self) -> Error {
        match self {
            Trouble::Source(e) | Trouble::Repository(e) => e,
        }
    }
}

/// What is to be read of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Everything.
    All,
    /// Attributes only: the content is known.
    Attributes,
}

/// Whether a state of a file is so young that a later change might look the same.
fn is_fresh(stat: &Stat, read_at: Time) -> bool {
    read_at.seconds_since(stat.mtime.max(stat.ctime)) < FRESH_SECONDS
}

/// Whether two looks at one file saw the same state.
fn unchanged(a: &Stat, b: &Stat) -> bool {
    a.size == b.size && a.mtime == b.mtime && a.ctime == b.ctime
}

/// Reads, cuts and names contents; for any number of threads.
pub struct Loader {
    /// What contents are cut with.
    pub chunker: Chunker,
    ids: IdKeys,
}

impl Loader {
    /// For the contents of this repository.
    pub fn new(repository: &Repository) -> Result<Self> {
        Ok(Self { chunker: repository.chunker()?, ids: repository.ids().clone() })
    }

    /// Reads what is to be read of an item.
    pub fn load(&self, item: &Item, what: What) -> Result<Loaded> {
        self.finish(Self::begin(item, what)?)
    }

    /// Reads what is to be read of several items: all are asked for before one is waited for.
    fn load_all(&self, items: &[(Arc<Item>, What)]) -> Vec<Option<Result<Loaded>>> {
        let begun: Vec<_> = items.iter().map(|(item, what)| Self::begin(item, *what)).collect();
        begun.into_iter().map(|begun| Some(begun.and_then(|b| self.finish(b)))).collect()
    }

    fn begin(item: &Item, what: What) -> Result<Begun<'_>> {
        let began = clock::now();
        let mut loaded = Loaded {
            stat: item.stat.clone(),
            small: None,
            file: None,
            changed: false,
            xattrs: Vec::new(),
            target: None,
        };
        let mut small = None;
        if item.kind == Kind::File && what == What::All {
            let file = item.open()?;
            loaded.xattrs = item.xattrs_of(&file)?;
            let dense = item.blocks.saturating_mul(512) >= item.stat.size;
            if item.stat.size <= SMALL_MAX && (dense || item.stat.size <= INLINE_MAX as u64) {
                let early = Early::ask(file.as_fd(), item.stat.size as usize);
                small = Some((file, early));
            } else {
                loaded.stat = item.restat_open(&file)?;
                loaded.file = Some(file);
            }
        } else {
            loaded.xattrs = item.xattrs()?;
            if item.kind == Kind::Symlink {
                loaded.target = Some(item.target()?);
            }
        }
        Ok(Begun { item, began, loaded, small })
    }

    fn finish(&self, begun: Begun<'_>) -> Result<Loaded> {
        let Begun { item, began, mut loaded, small } = begun;
        if let Some((file, early)) = small {
            self.load_small(item, file, early, &mut loaded)?;
        }
        loaded.stat.link = item.stat.link;
        loaded.stat.fresh = loaded.changed || is_fresh(&loaded.stat, began);
        Ok(loaded)
    }

    /// One read and one look behind it, where the file is still as it was met: what was read is then the content of
    /// that state. Else it is read anew, between two looks.
    fn load_small(&self, item: &Item, mut file: File, early: Early, loaded: &mut Loaded) -> Result<()> {
        let doing = || format!("reading {}", item.path().display());
        let read = early.take(file.as_fd());
        loaded.stat = item.restat_open(&file)?;
        let bytes = match read {
            Ok(bytes) if bytes.len() as u64 == item.stat.size && unchanged(&item.stat, &loaded.stat) => bytes,
            _ if loaded.stat.size > SMALL_MAX => {
                // It has grown since it was met: it is a big one.
                loaded.file = Some(file);
                return Ok(());
            }
            _ => {
                let mut bytes = Vec::new();
                // Without end a file is not small.
                (&mut file).take(SMALL_MAX + 1).read_to_end(&mut bytes).doing(doing)?;
                loaded.changed = !unchanged(&loaded.stat, &item.restat_open(&file)?)
                    || bytes.len() as u64 != loaded.stat.size;
                bytes
            }
        };
        loaded.stat.size = bytes.len() as u64;
        let named = |chunk: &[u8]| (chunk.len() as u32, self.ids.id(seal::Kind::Data, chunk));
        let chunks = match bytes.len() {
            ..=INLINE_MAX => Vec::new(),
            _ => self.chunker.split(&bytes).map(named).collect(),
        };
        loaded.small = Some(Small { bytes, chunks });
        Ok(())
    }
}

/// An item that is open, and asked for.
struct Begun<'a> {
    item: &'a Item,
    began: Time,
    loaded: Loaded,
    /// A small file, to be waited for.
    small: Option<(File, Early)>,
}

/// Items that one thread loads together; who waits for one is woken when all are there.
#[derive(Default)]
struct Batch {
    done: Mutex<Option<Vec<Option<Result<Loaded>>>>>,
    wake: Condvar,
}

impl Batch {
    fn finish(&self, loaded: Vec<Option<Result<Loaded>>>) {
        self.done.lock().get_or_insert(loaded);
        self.wake.notify_all();
    }
}

/// Finishes a batch whose thread panicked, so that nobody waits for ever.
struct Guard(Arc<Batch>);
impl Drop for Guard {
    fn drop(&mut self) {
        self.0.finish(Vec::new());
    }
}

/// An item that is being loaded.
pub struct Coming {
    batch: Arc<Batch>,
    place: usize,
    /// Bytes that it was expected to have.
    pub bytes: u64,
}

/// What is to be loaded together.
type Job = (Vec<(Arc<Item>, What)>, Arc<Batch>);

/// A few threads that load items ahead of their turn.
pub struct Ahead {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
    /// The batch in the making.
    items: Vec<(Arc<Item>, What)>,
    bytes: u64,
    batch: Arc<Batch>,
}

impl Ahead {
    /// Starts them.
    pub fn new(loader: &Arc<Loader>, gauge: &Arc<Gauge>) -> Result<Self> {
        let (jobs, todo) = bounded::<Job>(STEPS_MAX);
        let mut threads = Vec::new();
        for _ in 0..THREADS {
            let (todo, loader, gauge) = (todo.clone(), loader.clone(), gauge.clone());
            let work = move || {
                let mut watch = gauge.watch();
                for (items, batch) in todo {
                    watch.lap(Did::Starve);
                    let guard = Guard(batch);
                    guard.0.finish(loader.load_all(&items));
                    watch.lap(Did::Work);
                }
            };
            let thread = std::thread::Builder::new().name("read".into()).spawn(work);
            threads.push(thread.doing(|| "starting a thread that reads files")?);
        }
        Ok(Self { jobs: Some(jobs), threads, items: Vec::new(), bytes: 0, batch: Arc::default() })
    }

    /// Begins to load an item.
    pub fn load(&mut self, item: &Arc<Item>, what: What) -> Coming {
        let read = item.kind == Kind::File && what == What::All;
        let bytes = if read { item.stat.size.min(SMALL_MAX) } else { 0 };
        let coming = Coming { batch: self.batch.clone(), place: self.items.len(), bytes };
        self.items.push((item.clone(), what));
        self.bytes += bytes;
        if self.items.len() >= BATCH || self.bytes >= BATCH_BYTES {
            self.send();
        }
        coming
    }

    fn send(&mut self) {
        let job = (std::mem::take(&mut self.items), std::mem::take(&mut self.batch));
        self.bytes = 0;
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(job);
        }
    }

    /// Waits for an item.
    pub fn take(&mut self, coming: Coming) -> Result<Loaded> {
        if Arc::ptr_eq(&coming.batch, &self.batch) {
            self.send();
        }
        let mut done = coming.batch.done.lock();
        loop {
            match &mut *done {
                Some(loaded) => {
                    let mine = loaded.get_mut(coming.place).and_then(Option::take);
                    return mine.unwrap_or_else(|| Err(Error::bug("a reading thread has died")));
                }
                None => coming.batch.wake.wait(&mut done),
            }
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.jobs = None;
        for t in self.threads.drain(..) {
            let _ = t.join();
        }
    }
}

/// Stores bytes that are in memory.
pub fn store(
    chunker: &Chunker,
    bytes: &[u8],
    frames: Frames,
    inline: usize,
    writer: &mut Writer,
) -> Result<Content> {
    if bytes.len() <= inline {
        return Ok(Content::Inline(bytes.to_vec()));
    }
    writer.frames(frames);
    let mut content = ContentWriter::new();
    for chunk in chunker.split(bytes) {
        let id = writer.put(Space::Data, chunk)?;
        content.chunk(chunk.len() as u64, id);
    }
    content.finish(writer)
}

/// Stores a stream of unknown length.
pub fn stream(
    chunker: &Chunker,
    from: &mut dyn Read,
    frames: Frames,
    inline: usize,
    writer: &mut Writer,
) -> Result<Content, Trouble> {
    writer.frames(frames);
    let mut content = ContentWriter::new();
    let mut splitter = Splitter::new(chunker, from);
    let mut first: Option<Vec<u8>> = None;
    while let Some(chunk) = splitter.next().map_err(Trouble::source)? {
        // A content that fits into its entry is only known as such at its end.
        if content.is_empty() && first.is_none() && chunk.len() <= inline {
            first = Some(chunk.to_vec());
            continue;
        }
        if let Some(bytes) = first.take() {
            let id = writer.put(Space::Data, &bytes)?;
            content.chunk(bytes.len() as u64, id);
        }
        let id = writer.put(Space::Data, chunk)?;
        content.chunk(chunk.len() as u64, id);
    }
    match first {
        Some(bytes) => Ok(Content::Inline(bytes)),
        None => Ok(content.finish(writer)?),
    }
}

/// Stores a big or sparse file that is open; answers its content and length, which may differ from stat's
/// when it changes meanwhile. `progress` is told the bytes that are read, as they come; holes are not.
pub fn store_file(
    chunker: &Chunker,
    file: &File,
    size: u64,
    writer: &mut Writer,
    progress: &dyn Fn(u64),
) -> Result<(Content, u64), Trouble> {
    writer.frames(Frames::Big);
    let mut content = ContentWriter::new();
    let mut at = 0u64;
    while at < size {
        let (start, end) = data_range(file, at, size);
        content.hole(start - at);
        at = start;
        if start == end {
            break;
        }
        let mut splitter =
            Splitter::new(chunker, Piece { file: Uncached::new(file.as_fd()), at: start, end });
        while let Some(chunk) = splitter.next().map_err(Trouble::source)? {
            let id = writer.put(Space::Data, chunk)?;
            content.chunk(chunk.len() as u64, id);
            at += chunk.len() as u64;
            progress(chunk.len() as u64);
        }
        if at < end {
            // It was cut short under us.
            break;
        }
    }
    let len = content.len();
    if len <= INLINE_MAX as u64 && content.is_empty() {
        return Ok((Content::Inline(Vec::new()), 0));
    }
    Ok((content.finish(writer)?, len))
}

/// The next stretch of data at or behind `at`: `(size, size)` when only a hole is left. A file system
/// without holes is all data.
fn data_range(file: &File, at: u64, size: u64) -> (u64, u64) {
    let start = match seek(file, SeekFrom::Data(at)) {
        Ok(start) => start.min(size),
        Err(rustix::io::Errno::NXIO) => return (size, size),
        Err(_) => return (at, size),
    };
    let end = seek(file, SeekFrom::Hole(start)).unwrap_or(size).clamp(start, size);
    (start, end)
}

/// A stretch of a file, read by position.
struct Piece<'a> {
    file: Uncached<'a>,
    at: u64,
    end: u64,
}

impl Read for Piece<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let len = out.len().min(left).min(PIECE);
        let n = self.file.read_at(&mut out[..len], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// Stores extended attributes: short values in the entry, long ones as chunks.
pub fn store_xattrs(
    chunker: &Chunker,
    found: Vec<(Vec<u8>, Vec<u8>)>,
    writer: &mut Writer,
) -> Result<Vec<Xattr>> {
    let mut xattrs = Vec::with_capacity(found.len());
    let all: usize = found.iter().map(|(_, v)| v.len()).sum();
    // An entry must fit into a page: thousands of values go to chunks, even short ones.
    let inline = if all > XATTRS_INLINE_SUM { 0 } else { XATTR_INLINE_MAX };
    for (name, value) in found {
        let value = store(chunker, &value, Frames::Small, inline, writer)?;
        xattrs.push(Xattr { name, value });
    }
    Ok(xattrs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::Params;
    use crate::seal::IdSecret;
    use crate::source::{self, Event, Walk};

    #[test]
    fn a_file_that_changed_since_it_was_met_is_read_as_it_is_now_however_long_it_became() {
        let name = format!("pastfs-{}", crate::id::hex(&clock::random_array::<8>()));
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, "as it was met").unwrap();
        let options = source::Options { paths: vec![path.clone()], ..source::Options::default() };
        let met = Walk::new(options).unwrap().find_map(|event| match event {
            Event::Leaf(item) => Some(item),
            _ => None,
        });
        let met = met.unwrap();
        let chunker = Chunker::new(Params::default(), 1).unwrap();
        let loader = Loader { chunker, ids: IdSecret::random().unwrap().id_keys() };

        let loaded = loader.load(&met, What::All).unwrap();
        assert_eq!(loaded.small.unwrap().bytes, b"as it was met");
        let longer = vec![7; SMALL_MAX as usize];
        std::fs::write(&path, &longer).unwrap();
        let loaded = loader.load(&met, What::All).unwrap();
        assert_eq!((loaded.stat.size, loaded.changed), (SMALL_MAX, false));
        assert!(loaded.small.unwrap().bytes == longer);
        std::fs::write(&path, vec![8; 2 * SMALL_MAX as usize]).unwrap();
        let loaded = loader.load(&met, What::All).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!((loaded.stat.size, loaded.changed), (2 * SMALL_MAX, false));
        assert!(loaded.small.is_none() && loaded.file.is_some());
    }
}
