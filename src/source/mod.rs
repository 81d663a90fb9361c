//! What is saved, as one stream.
//!
//! [`Walk`] reads the file system depth-first, names sorted by their bytes, from `/` down to the
//! given paths and all that is below them; [`Command`] reads what a program prints. Nothing else of
//! this crate looks at the files that are saved. Linux only: names are taken relative to open
//! folders, so that a folder that is moved or replaced while we are in it leads nowhere else, and
//! `/proc` must be mounted to read extended attributes.

mod ahead;
mod attributes;
mod command;
mod dir;
mod exclude;
mod list;
#[cfg(test)]
mod testing;
mod walk;

pub use command::Command;
pub use dir::Dir;
pub use exclude::Exclude;
pub use walk::Walk;

use crate::fault::{Doing, Error, Result};
use crate::format::tree::Stat;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// What to save and what to leave out. Rules apply to what lies below the given paths; a path that is
/// given by name itself is saved whatever the rules on names, sizes and file systems say.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The given paths; relative ones count from the working folder. `.` and `..` are cleaned
    /// lexically, then symlinks in all but the last component are resolved, so that what is saved
    /// lies at its real place. A symlink that is given is saved as a symlink.
    pub paths: Vec<PathBuf>,
    /// Patterns of names to leave out.
    pub excludes: Exclude,
    /// Keeps folders that lie on another file system than the folder above them, but nothing in them.
    pub one_file_system: bool,
    /// In a folder with a `CACHEDIR.TAG` of the right signature (<https://bford.info/cachedir/>),
    /// saves the folder and the tag alone.
    pub exclude_caches: bool,
    /// `name` or `name:header`: in a folder with a file of that name (which begins with that
    /// header), saves the folder and that file alone.
    pub exclude_if_present: Vec<OsString>,
    /// Leaves out regular files of more bytes than this.
    pub exclude_larger_than: Option<u64>,
    /// Folders (device, inode) to leave out with all they hold: the repository and its caches.
    pub skip: Vec<(u64, u64)>,
    /// Threads that read folders ahead; 0 for none. The stream is the same.
    pub threads: usize,
}

/// What an [`Item`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Symlink,
    /// A character device with its number, as `st_rdev` has it.
    Char(u64),
    /// A block device with its number.
    Block(u64),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// One name, as it was met. Its methods read the rest when it is wanted.
#[derive(Clone, Debug)]
pub struct Item {
    /// Raw bytes without `/`; empty for `/` itself.
    pub name: Vec<u8>,
    /// The folder it is in (for `/`: itself).
    pub parent: Arc<Dir>,
    /// What it is.
    pub kind: Kind,
    /// Its attributes. `link` is there where `nlink` is over 1, but for folders, whose `nlink` is set to 1.
    pub stat: Stat,
    /// Number of its device, as `st_dev` has it.
    pub device: u64,
    /// Number of its inode.
    pub inode: u64,
    /// Blocks of 512 bytes that it takes: fewer than its size asks for tell of holes.
    pub blocks: u64,
    /// A folder on the way to a given path: of what is in it only that is saved.
    pub ancestor: bool,
}

/// One step of the [`Walk`].
#[derive(Debug)]
pub enum Event {
    /// A folder; what is in it follows, up to its [`Event::Leave`].
    Enter(Item),
    /// Anything but a folder.
    Leaf(Item),
    /// The end of the folder that was entered last and not left yet.
    Leave,
    /// Something could not be read and is missing from the stream. A folder that cannot be listed
    /// fails first and is then entered and left all the same.
    Failed {
        /// What.
        path: PathBuf,
        /// Why.
        error: Error,
    },
}

/// `path` made absolute, with `.` and `..` cleaned by text alone: no symlink is looked at.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    let mut clean = PathBuf::from("/");
    let whole = if path.is_absolute() {
        path.to_path_buf()
    } else {
        std::env::current_dir().doing(|| "finding the working folder")?.join(path)
    };
    for part in whole.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_by_text_alone() {
        let clean = |p: &str| absolute(Path::new(p)).unwrap();
        assert_eq!(clean("/a/./b/../c//d/"), Path::new("/a/c/d"));
        assert_eq!(clean("/../.."), Path::new("/"));
        assert_eq!(clean("x/.."), std::env::current_dir().unwrap());
    }
}
