//! For tests: a snapshot in memory, and what they need to look at a target.

use super::{Options, Report, Source, Supply, restore};
use crate::clock::Time;
use crate::event::{Event, Observer, Outcome, Stop};
use crate::fault::{Error, Result};
use crate::format::pack::Space;
use crate::format::tree::{Content, Entry, Node, Stat, Xattr};
use crate::id::ChunkId;
use crate::tree::{Chunks, ContentWriter, FolderWriter, ROOT_NAME, Sink};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

#[derive(Default)]
pub struct Shelf(pub HashMap<ChunkId, Bytes>);

impl Sink for Shelf {
    fn put(&mut self, _: Space, bytes: &[u8]) -> Result<ChunkId> {
        let id = ChunkId::of_object(bytes);
        self.0.insert(id, Bytes::copy_from_slice(bytes));
        Ok(id)
    }
}
impl Chunks for Shelf {
    fn chunk(&self, _: Space, id: &ChunkId) -> Result<Bytes> {
        self.0.get(id).cloned().ok_or_else(|| Error::damaged(format!("chunk {} is lost", id.short())))
    }
}

impl Supply for Shelf {
    fn is(&self, id: &ChunkId, bytes: &[u8]) -> bool {
        ChunkId::of_object(bytes) == *id
    }
    fn beside(&self, _: &ChunkId) -> Vec<ChunkId> {
        // As if all lay in one frame.
        self.0.keys().copied().collect()
    }
}

/// A snapshot by paths.
#[derive(Default)]
pub struct Fake {
    pub shelf: Shelf,
    entries: BTreeMap<Vec<u8>, Entry>,
}

pub fn stat(mode: u32) -> Stat {
    Stat {
        mode,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mtime: Time { seconds: 1_700_000_000, nanos: 123_456_789 },
        nlink: 1,
        ..Stat::default()
    }
}

impl Fake {
    /// Adds an entry under a path without a slash in front; folders above it are made up.
    pub fn add(&mut self, path: impl AsRef<[u8]>, node: Node, mode: u32) -> &mut Entry {
        let path = path.as_ref().to_vec();
        let name = path.rsplit(|b| *b == b'/').next().unwrap().to_vec();
        let mut stat = stat(mode);
        if let Node::File(content) = &node {
            stat.size = content.len().unwrap();
        }
        let entry = Entry { name, stat, node, xattrs: vec![], chunker: None, unknown: Default::default() };
        self.entries.insert(path.clone(), entry);
        self.entries.get_mut(&path).unwrap()
    }
    pub fn folder(&mut self, path: impl AsRef<[u8]>, mode: u32) -> &mut Entry {
        self.add(path, Node::Folder(ChunkId([0; 32])), mode)
    }
    /// A file of one chunk, whatever its size.
    pub fn file(&mut self, path: impl AsRef<[u8]>, bytes: &[u8]) -> &mut Entry {
        let content = self.content(&[Ok(bytes)]);
        self.add(path, Node::File(content), 0o644)
    }
    /// Chunks and holes.
    pub fn content(&mut self, parts: &[std::result::Result<&[u8], u64>]) -> Content {
        let mut writer = ContentWriter::new();
        for part in parts {
            match part {
                Ok([]) => {}
                Ok(bytes) => {
                    let id = self.shelf.put(Space::Data, bytes).unwrap();
                    writer.chunk(bytes.len() as u64, id);
                }
                Err(hole) => writer.hole(*hole),
            }
        }
        match writer.is_empty() {
            true => Content::Inline(vec![]),
            false => writer.finish(&mut self.shelf).unwrap(),
        }
    }
    pub fn xattr(&mut self, path: &str, name: &str, value: &[u8]) {
        let entry = self.entries.get_mut(path.as_bytes()).unwrap();
        let value = Content::Inline(value.to_vec());
        entry.xattrs.push(Xattr { name: name.as_bytes().to_vec(), value });
        entry.xattrs.sort_by(|a, b| a.name.cmp(&b.name));
    }
    /// Loses the chunk of these bytes.
    pub fn lose(&mut self, bytes: &[u8]) {
        self.shelf.0.remove(&ChunkId::of_object(bytes)).unwrap();
    }
    /// Writes the trees.
    pub fn root(&mut self) -> ChunkId {
        let id = self.tree(b"");
        let mut root = self.entries.get(&b""[..]).cloned().unwrap_or_else(|| Entry {
            name: vec![],
            stat: stat(0o755),
            node: Node::Folder(id),
            xattrs: vec![],
            chunker: None,
            unknown: Default::default(),
        });
        root.name = ROOT_NAME.to_vec();
        root.node = Node::Folder(id);
        let mut writer = FolderWriter::new();
        writer.push(&root, &mut self.shelf).unwrap();
        writer.finish(&mut self.shelf).unwrap()
    }
    fn tree(&mut self, above: &[u8]) -> ChunkId {
        let mut names: BTreeMap<Vec<u8>, Option<Entry>> = BTreeMap::new();
        for (path, entry) in &self.entries {
            let rest = match above {
                b"" => Some(&path[..]),
                _ => path.strip_prefix(above).and_then(|r| r.strip_prefix(b"/")),
            };
            let Some(rest) = rest.filter(|r| !r.is_empty()) else { continue };
            match rest.iter().position(|b| *b == b'/') {
                Some(i) => drop(names.entry(rest[..i].to_vec()).or_default()),
                None => drop(names.insert(rest.to_vec(), Some(entry.clone()))),
            }
        }
        let mut writer = FolderWriter::new();
        for (name, entry) in names {
            let path = super::shared::join(above, &name);
            let mut entry = entry.unwrap_or_else(|| Entry {
                name,
                stat: stat(0o755),
                node: Node::Folder(ChunkId([0; 32])),
                xattrs: vec![],
                chunker: None,
                unknown: Default::default(),
            });
            if let Node::Folder(id) = &mut entry.node {
                *id = self.tree(&path);
            }
            writer.push(&entry, &mut self.shelf).unwrap();
        }
        writer.finish(&mut self.shelf).unwrap()
    }
    pub fn restore(&mut self, target: &Path) -> (Report, Heard) {
        self.restore_with(Options { target: target.to_path_buf(), ..Options::default() })
    }
    pub fn restore_with(&mut self, options: Options) -> (Report, Heard) {
        let heard = Heard::default();
        let root = self.root();
        let source = Source { root: &root, totals: None, paths: &[b"/".to_vec()], unread: Vec::new() };
        let report = restore(&self.shelf, &source, &options, &heard, &Stop::new()).unwrap();
        (report, heard)
    }
}

/// Remembers what was told.
#[derive(Default)]
pub struct Heard {
    pub unread: Mutex<Vec<(PathBuf, String)>>,
    pub finished: Mutex<BTreeMap<PathBuf, Outcome>>,
    pub warnings: Mutex<Vec<String>>,
}

impl Heard {
    pub fn unread(&self) -> Vec<(String, String)> {
        let unread = self.unread.lock().unwrap();
        let mut list: Vec<_> = unread.iter().map(|(p, r)| (p.display().to_string(), r.clone())).collect();
        list.sort();
        list
    }
    pub fn outcome(&self, path: &str) -> Option<Outcome> {
        self.finished.lock().unwrap().get(Path::new(path)).copied()
    }
}

impl Observer for Heard {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Unread { path, reason } => {
                self.unread.lock().unwrap().push((path.to_path_buf(), reason.to_owned()));
            }
            Event::Finished { path, outcome, .. } => {
                self.finished.lock().unwrap().insert(path.to_path_buf(), outcome);
            }
            Event::Warning(text) => self.warnings.lock().unwrap().push(text.to_owned()),
            _ => {}
        }
    }
}

/// A folder of its own for one test, removed in the end.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Self {
        let name = crate::id::hex(&crate::clock::random_array::<8>());
        let path = std::env::temp_dir().join(format!("pastfs-restore-{name}"));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// All paths below a folder, sorted.
pub fn list(folder: &Path) -> Vec<String> {
    let mut paths = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(&at).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            let below = path.strip_prefix(folder).unwrap().as_os_str().as_bytes();
            paths.push(String::from_utf8_lossy(below).into_owned());
            if entry.file_type().unwrap().is_dir() {
                open.push(path);
            }
        }
    }
    paths.sort();
    paths
}

/// The value of an xattr of the thing itself.
pub fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 64 << 10];
    let n = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(n);
    Some(value)
}

/// Whether the tests run as root: owners and devices are for root alone.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
