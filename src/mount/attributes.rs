//! What stat shows of an entry.

use super::inodes::Node;
use crate::clock::Time;
use crate::format::pack::Space;
use crate::format::tree::{At, Content, Entry, Extent, ExtentPage, Node as Kind, Stat};
use crate::tree::Chunks;

/// Pages of extents that are read to learn how much of a long file is data: enough for a gigabyte or more. A
/// file with more is taken for data as a whole, or one `ls` would read megabytes for each.
const PAGES_MAX: usize = 64;
/// `st_blocks` counts in these units, whatever the file system.
const BLOCK: u64 = 512;

/// The type of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub(super) enum Type {
    File,
    Folder,
    Symlink,
    CharDevice,
    BlockDevice,
    Fifo,
    Socket,
}

/// What stat shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attributes {
    pub ino: u64,
    pub generation: u64,
    pub kind: Type,
    /// Permission bits.
    pub mode: u16,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    /// Device number in the kernel's own form (`new_encode_dev`).
    pub rdev: u32,
    pub size: u64,
    /// Units of 512 bytes that hold data.
    pub blocks: u64,
    pub mtime: Time,
    pub ctime: Time,
}

/// The type under which an entry is shown. An unknown one is a file that cannot be read.
pub(super) fn type_of(entry: &Entry) -> Type {
    match entry.node {
        Kind::File(_) | Kind::Unknown(_) => Type::File,
        Kind::Folder(_) => Type::Folder,
        Kind::Symlink(_) => Type::Symlink,
        Kind::CharDevice(_) => Type::CharDevice,
        Kind::BlockDevice(_) => Type::BlockDevice,
        Kind::Fifo => Type::Fifo,
        Kind::Socket => Type::Socket,
    }
}

/// The attributes of an entry; extent pages of long files are read for the blocks.
pub(super) fn of(node: &Node, entry: &Entry, chunks: &dyn Chunks) -> Attributes {
    let stat = &entry.stat;
    let (size, blocks) = match &entry.node {
        Kind::File(content) => (stat.size, data_bytes(content, stat.size, chunks).div_ceil(BLOCK)),
        Kind::Symlink(target) => (target.len() as u64, 0),
        Kind::Folder(_) => (stat.size, stat.size.div_ceil(BLOCK)),
        _ => (stat.size, 0),
    };
    let folder = matches!(entry.node, Kind::Folder(_));
    Attributes {
        ino: node.ino,
        generation: node.generation,
        kind: type_of(entry),
        mode: permissions(entry),
        // How many folders are below is not known without reading; 2 says no less than rsync or find want.
        nlink: if folder { 2 } else { u32::try_from(stat.nlink).unwrap_or(u32::MAX) },
        uid: stat.uid,
        gid: stat.gid,
        rdev: match entry.node {
            Kind::CharDevice(n) | Kind::BlockDevice(n) => kernel_device(n),
            _ => 0,
        },
        size,
        blocks,
        mtime: stat.mtime,
        ctime: stat.ctime,
    }
}

fn permissions(entry: &Entry) -> u16 {
    match entry.node {
        Kind::Unknown(_) => 0,
        _ => (entry.stat.mode & 0o7777) as u16,
    }
}

/// The root folder of a snapshot: `/` as it was, but for its time.
pub(super) fn root_stat(stat: &Stat, time: Time, restricted_to: Option<(u32, u32)>) -> Stat {
    let mut stat = Stat { mtime: time, ..stat.clone() };
    if let Some((uid, gid)) = restricted_to {
        stat.mode &= 0o700;
        (stat.uid, stat.gid) = (uid, gid);
    }
    stat
}

/// From the C library's form (12 more bits of major, 24 of minor) to that of FUSE: 12 bits of major, 20 of
/// minor.
fn kernel_device(rdev: u64) -> u32 {
    let (major, minor) = (libc::major(rdev), libc::minor(rdev));
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xfff00) << 12)
}

/// Bytes that are in no hole.
fn data_bytes(content: &Content, size: u64, chunks: &dyn Chunks) -> u64 {
    match content {
        Content::Inline(bytes) => bytes.len() as u64,
        Content::Extents(extents) => {
            let mut pages = PAGES_MAX;
            holes(extents, chunks, &mut pages).map_or(size, |holes| size.saturating_sub(holes))
        }
    }
}

/// Bytes in holes; `None` where it would take too many pages to know, or a page cannot be read (who reads
/// the file will be told).
fn holes(extents: &[Extent], chunks: &dyn Chunks, pages: &mut usize) -> Option<u64> {
    let mut sum: u64 = 0;
    for e in extents {
        match e.at {
            At::Hole => sum = sum.checked_add(e.len)?,
            At::Chunk(_) => {}
            At::List(id, level) => {
                *pages = pages.checked_sub(1)?;
                let page = ExtentPage::decode(&chunks.chunk(Space::Trees, &id).ok()?).ok()?;
                if page.level != level {
                    return None;
                }
                sum = sum.checked_add(holes(&page.extents, chunks, pages)?)?;
            }
        }
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_come_out_as_they_went_in() {
        // As the kernel decodes them (new_decode_dev in linux/kdev_t.h).
        for (major, minor) in [(1u32, 3u32), (8, 1), (259, 70_000), (4095, 1_048_575)] {
            let dev = kernel_device(libc::makedev(major, minor));
            assert_eq!(((dev & 0xfff00) >> 8, (dev & 0xff) | ((dev >> 12) & 0xfff00)), (major, minor));
        }
    }

    #[test]
    fn a_snapshot_that_is_not_for_everybody_loses_the_bits_of_the_others() {
        let stat = Stat { mode: 0o755, uid: 5, ..Stat::default() };
        let time = Time { seconds: 9, nanos: 0 };
        assert_eq!(root_stat(&stat, time, None), Stat { mtime: time, ..stat.clone() });
        let restricted = root_stat(&stat, time, Some((0, 0)));
        assert_eq!((restricted.mode, restricted.uid), (0o700, 0));
    }
}
