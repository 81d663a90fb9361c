//! A file system in memory that tells what was made durable from what was not: what was written is durable once the
//! file was synced, a name once its folder was. What lies between is lost with the power, or not: POSIX promises nothing.

use super::super::scene::Draw;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// A step of a program, in paths below the folder that is watched.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Makes a file where none is.
    Create(PathBuf),
    Mkdir(PathBuf),
    /// Puts bytes at an offset.
    Write(PathBuf, u64, Vec<u8>),
    /// Cuts or extends.
    Resize(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    /// Of a file or an empty folder.
    Remove(PathBuf),
    /// Of a file or a folder.
    Sync(PathBuf),
}

/// What became of that which was not durable when the power went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    /// Nothing was lost: as after a kill.
    Nothing,
    /// All of it.
    All,
    /// Names stay; content that was not synced is gone: files of no length.
    Content,
    /// Names and lengths stay; the second half of what was not synced is zeros.
    Half,
    /// Each name and each content by itself, by chance from this seed.
    Chance(u64),
}

#[derive(Clone, Debug)]
enum Node {
    File { now: Vec<u8>, durable: Vec<u8> },
    Folder { now: BTreeMap<PathBuf, usize>, durable: BTreeMap<PathBuf, usize> },
}

/// The file system.
#[derive(Clone)]
pub struct Disk {
    nodes: Vec<Node>,
}

/// Everything on a disk: folders without, files with content.
pub type Image = BTreeMap<PathBuf, Option<Vec<u8>>>;

impl Disk {
    /// All that lies below these names of a folder, durable.
    pub fn load(dir: &Path, names: &[&str]) -> Self {
        let mut disk = Self { nodes: vec![folder()] };
        for (path, content) in read(dir, names) {
            match content {
                None => disk.add(&path, folder()),
                Some(bytes) => disk.add(&path, Node::File { now: bytes.clone(), durable: bytes }),
            }
        }
        for node in &mut disk.nodes {
            if let Node::Folder { now, durable } = node {
                durable.clone_from(now);
            }
        }
        disk
    }

    fn find(&self, path: &Path) -> Option<usize> {
        let mut at = 0;
        for part in path.components() {
            let Component::Normal(name) = part else { continue };
            let Node::Folder { now, .. } = &self.nodes[at] else { return None };
            at = *now.get(Path::new(name))?;
        }
        Some(at)
    }

    fn names(&mut self, path: &Path) -> (&mut BTreeMap<PathBuf, usize>, PathBuf) {
        let parent = path.parent().and_then(|p| self.find(p));
        let parent = parent.unwrap_or_else(|| panic!("no folder for {}", path.display()));
        match &mut self.nodes[parent] {
            Node::Folder { now, .. } => (now, PathBuf::from(path.file_name().unwrap())),
            Node::File { .. } => panic!("{} lies in a file", path.display()),
        }
    }

    fn add(&mut self, path: &Path, node: Node) {
        let number = self.nodes.len();
        self.nodes.push(node);
        let (names, name) = self.names(path);
        names.insert(name, number);
    }

    fn content(&mut self, path: &Path) -> &mut Vec<u8> {
        let number = self.find(path).unwrap_or_else(|| panic!("there is no {}", path.display()));
        match &mut self.nodes[number] {
            Node::File { now, .. } => now,
            Node::Folder { .. } => panic!("{} is a folder", path.display()),
        }
    }

    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Create(path) => self.add(path, Node::File { now: Vec::new(), durable: Vec::new() }),
            Op::Mkdir(path) => self.add(path, folder()),
            Op::Write(path, at, bytes) => {
                let (start, now) = (*at as usize, self.content(path));
                now.resize(now.len().max(start + bytes.len()), 0);
                now[start..start + bytes.len()].copy_from_slice(bytes);
            }
            Op::Resize(path, len) => self.content(path).resize(*len as usize, 0),
            Op::Rename(from, to) => {
                let (names, name) = self.names(from);
                let number = names.remove(&name).unwrap_or_else(|| panic!("there is no {}", from.display()));
                let (names, name) = self.names(to);
                names.insert(name, number);
            }
            Op::Link(from, to) => {
                let number = self.find(from).unwrap_or_else(|| panic!("there is no {}", from.display()));
                let (names, name) = self.names(to);
                names.insert(name, number);
            }
            Op::Remove(path) => {
                let (names, name) = self.names(path);
                names.remove(&name).unwrap_or_else(|| panic!("there is no {}", path.display()));
            }
            Op::Sync(path) => {
                let number = self.find(path).unwrap_or_else(|| panic!("there is no {}", path.display()));
                match &mut self.nodes[number] {
                    Node::File { now, durable } => durable.clone_from(now),
                    Node::Folder { now, durable } => durable.clone_from(now),
                }
            }
        }
    }

    /// Length of a file.
    pub fn len(&self, path: &Path) -> Option<u64> {
        match &self.nodes[self.find(path)?] {
            Node::File { now, .. } => Some(now.len() as u64),
            Node::Folder { .. } => None,
        }
    }

    pub fn is_there(&self, path: &Path) -> bool {
        self.find(path).is_some()
    }

    /// What is found when the power is back.
    pub fn after(&self, loss: Loss) -> Image {
        let mut image = Image::new();
        let mut draw = Draw(if let Loss::Chance(seed) = loss { seed } else { 0 });
        self.gather(0, Path::new(""), loss, &mut draw, &mut image);
        image
    }

    fn gather(&self, number: usize, path: &Path, loss: Loss, draw: &mut Draw, image: &mut Image) {
        let Node::Folder { now, durable } = &self.nodes[number] else { return };
        let names: BTreeMap<&PathBuf, (Option<usize>, Option<usize>)> = now
            .keys()
            .chain(durable.keys())
            .map(|n| (n, (now.get(n).copied(), durable.get(n).copied())))
            .collect();
        for (name, (now, durable)) in names {
            let kept = match loss {
                Loss::All => durable,
                Loss::Chance(_) if now != durable && draw.next().is_multiple_of(2) => durable,
                _ => now,
            };
            let Some(number) = kept else { continue };
            let at = path.join(name);
            match &self.nodes[number] {
                Node::Folder { .. } => {
                    image.insert(at.clone(), None);
                    self.gather(number, &at, loss, draw, image);
                }
                Node::File { now, durable } => {
                    image.insert(at, Some(content(now, durable, loss, draw)));
                }
            }
        }
    }
}

fn folder() -> Node {
    Node::Folder { now: BTreeMap::new(), durable: BTreeMap::new() }
}

fn content(now: &[u8], durable: &[u8], loss: Loss, draw: &mut Draw) -> Vec<u8> {
    let loss = match loss {
        Loss::Chance(_) => [Loss::Nothing, Loss::All, Loss::Half][(draw.next() % 3) as usize],
        loss => loss,
    };
    match loss {
        Loss::Half if now != durable => {
            let same = now.iter().zip(durable).take_while(|(a, b)| a == b).count();
            let mut half = now.to_vec();
            half[same + (now.len() - same) / 2..].fill(0);
            half
        }
        Loss::Nothing | Loss::Half => now.to_vec(),
        Loss::All | Loss::Content | Loss::Chance(_) => durable.to_vec(),
    }
}

/// What really lies below these names of a folder.
pub fn read(dir: &Path, names: &[&str]) -> Image {
    let mut image = Image::new();
    let mut open: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
    while let Some(path) = open.pop() {
        let at = dir.join(&path);
        if at.is_dir() {
            image.insert(path.clone(), None);
            open.extend(fs::read_dir(&at).unwrap().map(|e| path.join(e.unwrap().file_name())));
        } else if at.is_file() {
            image.insert(path, Some(fs::read(&at).unwrap()));
        }
    }
    image
}

/// Writes what lies below one name of an image into a new folder.
pub fn write(image: &Image, name: &str, to: &Path) {
    for (path, content) in image {
        let Ok(below) = path.strip_prefix(name) else { continue };
        match content {
            None => fs::create_dir_all(to.join(below)).unwrap(),
            Some(bytes) => fs::write(to.join(below), bytes).unwrap(),
        }
    }
}
