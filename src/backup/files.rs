//! Contents: reading files, small ones ahead of their turn by a few threads, big ones as they come.

use crate::chunk::{Chunker, Splitter};
use crate::clock::{self, Time};
use crate::fault::{Doing, Error};
use crate::format::pack::Space;
use crate::format::tree::{Content, INLINE_MAX, Stat, XATTR_INLINE_MAX, Xattr};
use crate::repository::{Frames, Writer};
use crate::source::{Item, Kind};
use crate::tree::{ContentWriter, Sink};
use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::fs::{SeekFrom, seek};
use std::fs::File;
use std::io::Read;
use std::thread::JoinHandle;

type Result<T, E = Error> = std::result::Result<T, E>;

/// Files up to this size are read whole, ahead of their turn.
pub const SMALL_MAX: u64 = 512 << 10;
/// Files that wait to be read, or to be taken, at most; with [`SMALL_MAX`] this bounds the memory.
pub const AHEAD_MAX: usize = 128;
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
    pub bytes: Option<Vec<u8>>,
    /// The open file otherwise.
    pub file: Option<File>,
    /// It changed while it was read.
    pub changed: bool,
    /// Sorted.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Of a symlink.
    pub target: Option<Vec<u8>>,
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

/// Reads what is to be read of an item.
pub fn load(item: &Item, what: What) -> Result<Loaded> {
    let began = clock::now();
    let mut loaded = Loaded {
        stat: item.stat.clone(),
        bytes: None,
        file: None,
        changed: false,
        xattrs: item.xattrs()?,
        target: None,
    };
    match item.kind {
        Kind::Symlink => loaded.target = Some(item.target()?),
        Kind::File if what == What::All => {
            let mut file = item.open()?;
            loaded.stat = item.restat_open(&file)?;
            let size = loaded.stat.size;
            let dense = item.blocks.saturating_mul(512) >= size;
            if size <= SMALL_MAX && (dense || size <= INLINE_MAX as u64) {
                let mut bytes = Vec::with_capacity(size as usize + 1);
                // One byte more than expected tells that it grew; without end a file is not small.
                (&mut file)
                    .take(SMALL_MAX + 1)
                    .read_to_end(&mut bytes)
                    .doing(|| format!("reading {}", item.path().display()))?;
                loaded.changed =
                    !unchanged(&loaded.stat, &item.restat_open(&file)?) || bytes.len() as u64 != size;
                loaded.stat.size = bytes.len() as u64;
                loaded.bytes = Some(bytes);
            } else {
                loaded.file = Some(file);
            }
        }
        _ => {}
    }
    loaded.stat.link = item.stat.link;
    loaded.stat.fresh = loaded.changed || is_fresh(&loaded.stat, began);
    Ok(loaded)
}

/// What is to be loaded, and where the answer goes.
type Job = (Item, What, Sender<Result<Loaded>>);

/// A few threads that load items ahead of their turn.
pub struct Ahead {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Ahead {
    /// Starts them.
    pub fn new() -> Result<Self> {
        let (jobs, todo) = bounded::<Job>(AHEAD_MAX);
        let mut threads = Vec::new();
        for _ in 0..THREADS {
            let todo = todo.clone();
            let work = move || {
                for (item, what, answer) in todo {
                    // Nobody waits for it any more when the backup was stopped.
                    let _ = answer.send(load(&item, what));
                }
            };
            let thread = std::thread::Builder::new().name("read".into()).spawn(work);
            threads.push(thread.doing(|| "starting a thread that reads files")?);
        }
        Ok(Self { jobs: Some(jobs), threads })
    }

    /// Begins to load an item; the answer comes through the channel.
    pub fn load(&self, item: Item, what: What) -> Receiver<Result<Loaded>> {
        let (answer, coming) = bounded(1);
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send((item, what, answer));
        }
        coming
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
        let mut splitter = Splitter::new(chunker, Piece { file, at: start, end });
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
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Piece<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        use std::os::unix::fs::FileExt;
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
