//! A restore of any tree into a target in which anything was planted: nothing outside of the target changes, and where nothing
//! was told to have failed, the files are what the tree says. Like targets.rs this is part of the fuzzing targets and of
//! the ordinary tests.

use bytes::Bytes;
use pastfs::clock::{Time, random_array};
use pastfs::event::{Silent, Stop};
use pastfs::fault::{Error, Result};
use pastfs::format::pack::Space;
use pastfs::format::tree::{Content, Entry, Node, Stat, Xattr};
use pastfs::id::{ChunkId, hex};
use pastfs::restore::{Options, Overwrite, Source, Supply, restore};
use pastfs::tree::{Chunks, ContentWriter, FolderWriter, ROOT_NAME, Sink};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// A name (of the target and of its corpus) and the function.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[("restore", restored)];

/// Few names, so that what is planted stands where something is restored.
const NAMES: [&str; 5] = ["a", "b", "c", "dd", "e.txt"];
/// Levels of folders.
const DEPTH: usize = 3;
/// What is in the folder outside, and must stay so.
const VICTIM: &[u8] = b"not to be touched";

/// Decisions, one byte each; nothing more is decided behind the last one.
struct Draw<'a>(&'a [u8]);

impl Draw<'_> {
    fn next(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }
    fn below(&mut self, n: usize) -> usize {
        usize::from(self.next()) % n
    }
}

/// Chunks in memory. Ids need not be right: a hostile tree is one whose pages say anything.
#[derive(Default)]
struct Shelf(HashMap<ChunkId, Bytes>);

impl Sink for Shelf {
    fn put(&mut self, _: Space, bytes: &[u8]) -> Result<ChunkId> {
        let id = ChunkId::of_object(bytes);
        self.0.insert(id, Bytes::copy_from_slice(bytes));
        Ok(id)
    }
}
impl Chunks for Shelf {
    fn chunk(&self, _: Space, id: &ChunkId) -> Result<Bytes> {
        self.0.get(id).cloned().ok_or_else(|| Error::damaged("lost"))
    }
}
impl Supply for Shelf {
    fn is(&self, id: &ChunkId, bytes: &[u8]) -> bool {
        ChunkId::of_object(bytes) == *id
    }
    fn beside(&self, _: &ChunkId) -> Vec<ChunkId> {
        self.0.keys().copied().collect()
    }
}

/// A tree that is being made, and the contents of its files by path.
#[derive(Default)]
struct Tree {
    shelf: Shelf,
    files: BTreeMap<PathBuf, Vec<u8>>,
    pages: Vec<ChunkId>,
}

fn stat(d: &mut Draw<'_>) -> Stat {
    let mode = [0o644, 0o600, 0o755, 0o4755, 0o444, 0o777, 0, 0o1777][d.below(8)];
    let uid = if d.below(8) == 7 { 1234 } else { rustix::process::geteuid().as_raw() };
    let mtime = Time { seconds: 1_700_000_000 + i64::from(d.next() % 3), nanos: 5 };
    Stat { mode, uid, gid: uid, mtime, ctime: mtime, nlink: 1, ..Stat::default() }
}

impl Tree {
    fn content(&mut self, d: &mut Draw<'_>) -> (Content, Vec<u8>) {
        let mut bytes = Vec::new();
        let mut writer = ContentWriter::new();
        for _ in 0..d.below(4) {
            match d.below(6) {
                0 => {
                    writer.hole(5000);
                    bytes.resize(bytes.len() + 5000, 0);
                }
                n => {
                    let chunk = vec![n as u8; 1 + 700 * n];
                    if let Ok(id) = self.shelf.put(Space::Data, &chunk) {
                        writer.chunk(chunk.len() as u64, id);
                        bytes.extend_from_slice(&chunk);
                    }
                }
            }
        }
        match writer.is_empty() {
            true => (Content::Inline(Vec::new()), bytes),
            false => (writer.finish(&mut self.shelf).expect("a shelf takes everything"), bytes),
        }
    }

    fn folder(&mut self, d: &mut Draw<'_>, path: &Path, depth: usize) -> ChunkId {
        let mut writer = FolderWriter::new();
        for name in NAMES {
            let path = path.join(name);
            let mut stat = stat(d);
            let mut xattrs = Vec::new();
            let node = match d.below(12) {
                0..=3 => {
                    let (content, bytes) = self.content(d);
                    stat.size = bytes.len() as u64;
                    if d.below(4) == 3 {
                        let value = Content::Inline(vec![1, 2]);
                        xattrs.push(Xattr { name: b"user.note".to_vec(), value });
                    }
                    self.files.insert(path, bytes);
                    Node::File(content)
                }
                4..=6 if depth < DEPTH => Node::Folder(self.folder(d, &path, depth + 1)),
                7 => Node::Symlink([&b"../outside"[..], b"a", b"/", b"no/where"][d.below(4)].to_vec()),
                8 => Node::Fifo,
                9 => {
                    // Names of one file, which may be of any kind and differ in all they say.
                    stat.nlink = 2;
                    stat.link = Some((0, u64::from(d.next() % 2)));
                    match d.below(2) {
                        0 => Node::Socket,
                        _ => Node::Fifo,
                    }
                }
                10 => Node::Unknown(99),
                _ => continue,
            };
            let name = name.as_bytes().to_vec();
            let entry = Entry { name, stat, node, xattrs, chunker: None, unknown: Default::default() };
            writer.push(&entry, &mut self.shelf).expect("a shelf takes everything");
        }
        let id = writer.finish(&mut self.shelf).expect("a shelf takes everything");
        self.pages.push(id);
        id
    }

    fn root(&mut self, folder: ChunkId) -> ChunkId {
        let mut writer = FolderWriter::new();
        let stat = Stat { mode: 0o755, nlink: 1, ..Stat::default() };
        let (name, node) = (ROOT_NAME.to_vec(), Node::Folder(folder));
        let root = Entry { name, stat, node, xattrs: Vec::new(), chunker: None, unknown: Default::default() };
        writer.push(&root, &mut self.shelf).expect("a shelf takes everything");
        writer.finish(&mut self.shelf).expect("a shelf takes everything")
    }
}

/// A path of one to three names, of which the first ones are folders and no symlinks.
fn place(d: &mut Draw<'_>, target: &Path) -> Option<PathBuf> {
    let mut path = target.to_path_buf();
    for _ in 0..d.below(DEPTH) {
        path.push(NAMES[d.below(NAMES.len())]);
        if !fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir()) {
            return None;
        }
    }
    Some(path.join(NAMES[d.below(NAMES.len())]))
}

fn plant(d: &mut Draw<'_>, target: &Path, outside: &Path) {
    let Some(path) = place(d, target) else { return };
    // What stands there already stays: none of these replaces anything.
    let _ = match d.below(10) {
        0..=2 => fs::create_dir(&path),
        3 => symlink(outside, &path),
        4 => symlink(outside.join("victim"), &path),
        5 => symlink(["../outside", "..", "/", "a", "."][d.below(5)], &path),
        6 => fs::hard_link(outside.join("victim"), &path),
        7 => rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o666),
            0,
        )
        .map_err(Into::into),
        n => {
            let len = 700 * d.below(12);
            let made = fs::File::create_new(&path).and_then(|mut f| {
                std::io::Write::write_all(&mut f, &vec![n as u8; len])?;
                f.set_permissions(fs::Permissions::from_mode(if n == 9 { 0o666 } else { 0o600 }))
            });
            made.map(drop)
        }
    };
}

/// All that must not change of what is outside.
fn look(scratch: &Path, outside: &Path) -> Vec<(PathBuf, u32, u32, u64, i64, i64)> {
    let list = |dir: &Path| -> Vec<PathBuf> {
        fs::read_dir(dir).expect("it was made here").map(|e| e.expect("it is there").path()).collect()
    };
    let mut paths = list(outside);
    paths.extend([outside.to_path_buf(), scratch.to_path_buf()]);
    paths.extend(list(scratch));
    paths.sort();
    let target = scratch.join("target");
    let shown = |path: PathBuf| {
        let m = fs::symlink_metadata(&path).expect("it was listed");
        match path == target {
            true => (path, 0, 0, 0, 0, 0),
            false => (path, m.mode(), m.uid(), m.len(), m.mtime(), m.mtime_nsec()),
        }
    };
    paths.into_iter().map(shown).collect()
}

/// Any tree into any target.
pub fn restored(data: &[u8]) {
    let d = &mut Draw(data);
    let scratch = std::env::temp_dir().join(format!("pastfs-fuzz-{}", hex(&random_array::<8>())));
    let (target, outside) = (scratch.join("target"), scratch.join("outside"));
    for dir in [&scratch, &target, &outside] {
        fs::create_dir(dir).expect("a new folder");
    }
    fs::write(outside.join("victim"), VICTIM).expect("a new file");
    for _ in 0..d.below(16) {
        plant(d, &target, &outside);
    }
    let before = look(&scratch, &outside);

    let mut tree = Tree::default();
    let folder = tree.folder(d, Path::new(""), 0);
    let root = tree.root(folder);
    let forged = d.below(4) == 3;
    if forged && let Some(page) = tree.pages.get(d.below(tree.pages.len())) {
        // A byte of a page is another: a name, a length, a type.
        let mut bytes = tree.shelf.0[page].to_vec();
        let at = (usize::from(d.next()) << 8 | usize::from(d.next())) % bytes.len();
        bytes[at] = d.next();
        tree.shelf.0.insert(*page, bytes.into());
    }
    for _ in 0..1 + d.below(2) {
        let overwrite = [Overwrite::IfChanged, Overwrite::Always, Overwrite::IfNewer, Overwrite::Never];
        let options = Options {
            target: target.clone(),
            overwrite: overwrite[d.below(4)],
            delete: d.below(2) == 1,
            dry_run: d.below(8) == 7,
            include: if d.below(8) == 7 { vec!["*.txt".into()] } else { Vec::new() },
            exclude: if d.below(8) == 7 { vec!["a".into()] } else { Vec::new() },
            threads: 1 + d.below(2),
            ..Options::default()
        };
        let all = options.include.is_empty() && options.exclude.is_empty() && !options.dry_run;
        let replaces = matches!(options.overwrite, Overwrite::Always | Overwrite::IfChanged);
        let source = Source { root: &root, totals: None, paths: &[b"/".to_vec()], unread: Vec::new() };
        let report = restore(&tree.shelf, &source, &options, &Silent, &Stop::new());
        assert_eq!(look(&scratch, &outside), before);
        assert_eq!(fs::read(outside.join("victim")).expect("it is there"), VICTIM);
        if report.is_ok_and(|r| r.failed == 0) && all && replaces && !forged {
            for (path, bytes) in &tree.files {
                let path = target.join(path);
                let kind = fs::symlink_metadata(&path).expect("it was restored").file_type();
                assert!(kind.is_file() && !kind.is_fifo(), "{}", path.display());
                assert!(fs::read(&path).is_ok_and(|there| there == *bytes), "{}", path.display());
            }
        }
    }
    let _ = fs::remove_dir_all(&scratch);
}
