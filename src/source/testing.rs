//! Trees to walk over.

use super::{Event, Item, Options, Walk};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder of its own in the place for temporary files, removed in the end.
pub(super) struct Tree(pub(super) PathBuf);

impl Tree {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("pastfs-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().canonicalize().unwrap().join(name);
        std::fs::create_dir(&path).unwrap();
        Tree(path)
    }
    /// Makes files of these relative paths, holding their own path; a path that ends in `/` is a folder.
    pub(super) fn with(self, paths: &[&str]) -> Self {
        for path in paths {
            let whole = self.0.join(path);
            if path.ends_with('/') {
                std::fs::create_dir_all(whole).unwrap();
            } else {
                std::fs::create_dir_all(whole.parent().unwrap()).unwrap();
                std::fs::write(whole, path).unwrap();
            }
        }
        self
    }
    pub(super) fn path(&self, relative: &str) -> PathBuf {
        self.0.join(relative)
    }
    /// Options to save it all.
    pub(super) fn options(&self) -> Options {
        Options { paths: vec![self.0.clone()], ..Options::default() }
    }
    /// What the walk tells of it: `+name` and `-` for a folder, `name` for the rest, `!path` for failures;
    /// what leads to it and the tree itself left out.
    pub(super) fn told(&self, options: Options) -> String {
        let mut words = Vec::new();
        let mut depth = 0;
        let above = self.0.components().count() - 1;
        for event in Walk::new(options).unwrap() {
            let name = |item: &Item| String::from_utf8_lossy(&item.name).into_owned();
            let inside = depth > above;
            match event {
                Event::Enter(item) => {
                    if inside {
                        words.push(format!("+{}", name(&item)));
                    }
                    depth += 1;
                }
                Event::Leave => {
                    depth -= 1;
                    if depth > above {
                        words.push("-".into());
                    }
                }
                Event::Leaf(item) => words.push(name(&item)),
                Event::Failed { path, .. } => {
                    words.push(format!("!{}", path.strip_prefix(&self.0).unwrap_or(&path).display()));
                }
            }
        }
        assert_eq!(depth, 0);
        words.join(" ")
    }
    /// The item of this name.
    pub(super) fn item(&self, name: &[u8]) -> Item {
        let found = Walk::new(self.options()).unwrap().find_map(|event| match event {
            Event::Enter(item) | Event::Leaf(item) if item.name == name => Some(item),
            _ => None,
        });
        found.unwrap()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // Deeper than a recursive removal can go.
        let _ = std::process::Command::new("rm").arg("-rf").arg(&self.0).status();
    }
}

/// Everything that an event holds, to compare streams.
pub(super) fn whole(event: &Event) -> String {
    let item = |word: &str, i: &Item| {
        format!("{word} {:?} {:?} {:?} {} {} {}", i.name, i.kind, i.stat, i.device, i.inode, i.ancestor)
    };
    match event {
        Event::Enter(i) => item("enter", i),
        Event::Leaf(i) => item("leaf", i),
        Event::Leave => "leave".into(),
        Event::Failed { path, error } => format!("failed {} {error:?}", path.display()),
    }
}

/// Whether the test may do what only root may.
pub(super) fn root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Mounts a tmpfs; `None` where that is not allowed.
pub(super) fn tmpfs(at: &Path) -> Option<Mounted> {
    let done = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(at)
        .stderr(std::process::Stdio::null())
        .status();
    done.is_ok_and(|s| s.success()).then(|| Mounted(at.to_path_buf()))
}

/// Unmounts when dropped.
pub(super) struct Mounted(PathBuf);
impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}
