//! The door to the kernel: speaks fuser, and holds no logic. Every answer comes from [`View`].

use super::attributes::{Attributes, Type};
use super::counters::Kind;
use super::errno::Errno;
use super::inodes::Node;
use super::pushing::Due;
use super::view::{FOREVER, Line, Looked, View};
use super::waiting::Waiting;
use fuser::{
    AccessFlags, BsdFileFlags, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// READs in flight. 16 is enough for memory, 64 hides the latency of slow stores.
const MAX_BACKGROUND: u16 = 64;
/// Block size in stat and statfs.
const BLOCK: u32 = 4096;
/// Longest name, for statfs.
const NAME_MAX: u32 = 255;

/// A mounted view.
pub(super) struct Fuse {
    view: Arc<View>,
    /// Let the kernel enforce ACLs. Only where others may look in: with it comes `default_permissions`.
    acl: bool,
    /// The kernel takes ENOSYS for "opening needs no asking".
    no_open: bool,
    no_opendir: bool,
    /// Called when the kernel may hold too many nodes.
    crowded: Box<dyn Fn() + Send + Sync>,
    limit: usize,
    /// Called with what is to be pushed.
    push: Box<dyn Fn(Due) + Send + Sync>,
    /// Called with a folder that a walk has come to.
    walk: Box<dyn Fn(Arc<Node>) + Send + Sync>,
    waiting: Arc<Waiting>,
}

impl Fuse {
    /// `crowded` is called, often and from any thread, while the kernel holds more than `limit` nodes; `push` with what a
    /// thread that answers nothing is to push, `walk` with the folder whose next ones some thread is to decode.
    pub fn new(
        view: Arc<View>,
        acl: bool,
        limit: usize,
        crowded: impl Fn() + Send + Sync + 'static,
        push: impl Fn(Due) + Send + Sync + 'static,
        walk: impl Fn(Arc<Node>) + Send + Sync + 'static,
        waiting: Arc<Waiting>,
    ) -> Self {
        let (crowded, push, walk) = (Box::new(crowded), Box::new(push), Box::new(walk));
        Self { view, acl, no_open: false, no_opendir: false, crowded, limit, push, walk, waiting }
    }

    /// A request of this kind is answered until what is returned is dropped.
    fn answering(&self, kind: Kind) -> impl Drop + '_ {
        self.view.counters.count(kind);
        self.waiting.answering()
    }

    fn watch(&self) {
        if self.view.nodes.len() > self.limit {
            (self.crowded)();
        }
    }
}

fn code(e: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(e.0)
}

/// A defect in one answer is an error of that one: the thread lives on, and the mount with it. An `rsync --delete` must
/// not find an empty folder where the mount was. What was wrong the panic has told.
fn calm<T>(work: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(Errno::EIO))
}

fn kind(t: Type) -> FileType {
    match t {
        Type::File => FileType::RegularFile,
        Type::Folder => FileType::Directory,
        Type::Symlink => FileType::Symlink,
        Type::CharDevice => FileType::CharDevice,
        Type::BlockDevice => FileType::BlockDevice,
        Type::Fifo => FileType::NamedPipe,
        Type::Socket => FileType::Socket,
    }
}

fn attr(a: &Attributes) -> FileAttr {
    let mtime: SystemTime = a.mtime.into();
    FileAttr {
        ino: INodeNo(a.ino),
        size: a.size,
        blocks: a.blocks,
        atime: mtime,
        mtime,
        ctime: a.ctime.into(),
        crtime: mtime,
        kind: kind(a.kind),
        perm: a.mode,
        nlink: a.nlink,
        uid: a.uid,
        gid: a.gid,
        rdev: a.rdev,
        blksize: BLOCK,
        flags: 0,
    }
}

/// What makes the kernel remember that a name is not there: an entry without a number.
fn nobody() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

/// The two ways to answer a request for an xattr: its size, or the bytes if they fit.
fn xattr(result: Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
    match result {
        Ok(bytes) if size == 0 => reply.size(bytes.len() as u32),
        Ok(bytes) if bytes.len() <= size as usize => reply.data(&bytes),
        Ok(_) => reply.error(code(Errno::ERANGE)),
        Err(e) => reply.error(code(e)),
    }
}

impl Filesystem for Fuse {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let offered = config.capabilities();
        self.no_open = offered.contains(InitFlags::FUSE_NO_OPEN_SUPPORT);
        self.no_opendir = offered.contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT);
        // Without READDIRPLUS_AUTO: nearly all who list also stat, and what is told is kept.
        let mut wanted = InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_NO_OPEN_SUPPORT
            | InitFlags::FUSE_NO_OPENDIR_SUPPORT
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_ASYNC_DIO
            // A listing that the kernel keeps holds only while the folder's mtime is the same, which closes the gap
            // between a listing under way and the word that there are new snapshots. What holds for ever is not asked.
            | InitFlags::FUSE_AUTO_INVAL_DATA
            // A number that was forgotten cannot be turned back into a node.
            | InitFlags::FUSE_NO_EXPORT_SUPPORT;
        if self.acl {
            // Without it the kernel checks the mode bits alone, whose group bits are the ACL's mask: it would
            // let the group read what the ACL denies.
            if !offered.contains(InitFlags::FUSE_POSIX_ACL) {
                return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
            }
            wanted |= InitFlags::FUSE_POSIX_ACL;
        }
        let _ = config.add_capabilities(wanted & offered);
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let _busy = self.answering(Kind::Lookup);
        match calm(|| self.view.lookup(parent.0, name.as_bytes())) {
            Ok(Looked::There(a, ttl)) => reply.entry(&ttl, &attr(&a), Generation(a.generation)),
            Ok(Looked::Never) => reply.entry(&FOREVER, &nobody(), Generation(0)),
            Err(e) => reply.error(code(e)),
        }
        self.watch();
    }

    fn forget(&self, _: &Request, ino: INodeNo, n: u64) {
        let _busy = self.answering(Kind::Forget);
        let _ = calm(|| {
            self.view.forget(ino.0, n);
            Ok(())
        });
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let _busy = self.answering(Kind::Getattr);
        match calm(|| self.view.attributes(ino.0)) {
            Ok((a, ttl)) => reply.attr(&ttl, &attr(&a)),
            Err(e) => reply.error(code(e)),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        let _busy = self.answering(Kind::Readlink);
        match calm(|| self.view.target(ino.0)) {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(code(e)),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let _busy = self.answering(Kind::Open);
        if self.no_open {
            reply.error(code(Errno::ENOSYS));
        } else {
            reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let _busy = self.answering(Kind::Read);
        // A reply that is dropped in a panic is EIO as well.
        let _ = calm(|| {
            let len = self.view.read(ino.0, offset, size as usize, |bytes| {
                match bytes {
                    Ok(bytes) => reply.data(bytes),
                    Err(e) => reply.error(code(e)),
                }
                bytes.map_or(0, <[u8]>::len)
            });
            if offset == 0
                && len > 0
                && let Some(due) = self.view.due(ino.0, len)
            {
                (self.push)(due);
            }
            Ok(())
        });
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        let _busy = self.answering(Kind::Flush);
        reply.error(code(Errno::ENOSYS));
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let _busy = self.answering(Kind::Opendir);
        if self.no_opendir {
            reply.error(code(Errno::ENOSYS));
        } else {
            reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR);
        }
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let _busy = self.answering(Kind::Readdir);
        let mut take = |l: &Line<'_>| {
            let a = &l.attributes;
            reply.add(INodeNo(a.ino), l.next, kind(a.kind), OsStr::from_bytes(l.name))
        };
        match calm(|| self.view.list(ino.0, offset, false, &mut take)) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(code(e)),
        }
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let _busy = self.answering(Kind::Readdirplus);
        let mut take = |l: &Line<'_>| {
            let a = &l.attributes;
            let generation = Generation(a.generation);
            reply.add(INodeNo(a.ino), l.next, OsStr::from_bytes(l.name), &l.ttl, &attr(a), generation)
        };
        match calm(|| self.view.list(ino.0, offset, true, &mut take)) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(code(e)),
        }
        if offset == 0
            && let Some(folder) = self.view.walked(ino.0)
        {
            (self.walk)(folder);
        }
        self.watch();
        self.waiting.listed();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let _busy = self.answering(Kind::Statfs);
        let sizes = self.view.sizes();
        let blocks = sizes.bytes.div_ceil(u64::from(BLOCK));
        reply.statfs(blocks, 0, 0, sizes.entries, 0, BLOCK, NAME_MAX, BLOCK);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let _busy = self.answering(Kind::Getxattr);
        xattr(calm(|| self.view.xattr(ino.0, name.as_bytes())), size, reply);
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let _busy = self.answering(Kind::Listxattr);
        xattr(calm(|| self.view.xattrs(ino.0, request.uid() == 0)), size, reply);
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        // Who sees the mount at all may read it; with others, the kernel checks.
        reply.error(code(Errno::ENOSYS));
    }

    fn lseek(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let _busy = self.answering(Kind::Lseek);
        match calm(|| self.view.seek(ino.0, offset, whence)) {
            Ok(at) => reply.offset(at),
            Err(e) => reply.error(code(e)),
        }
    }

    // Nothing is ever written. The mount is read-only, so these come only after somebody remounted it.

    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(code(Errno::EROFS));
    }
    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(code(Errno::EROFS));
    }
    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(code(Errno::EROFS));
    }
    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(code(Errno::EROFS));
    }
    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(code(Errno::EROFS));
    }
    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(code(Errno::EROFS));
    }
    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: INodeNo,
        _: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(code(Errno::EROFS));
    }
    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(code(Errno::EROFS));
    }
    fn create(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        reply.error(code(Errno::EROFS));
    }
    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(code(Errno::EROFS));
    }
    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: ReplyEmpty) {
        reply.error(code(Errno::EROFS));
    }
    fn setxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        reply.error(code(Errno::EROFS));
    }
    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(code(Errno::EROFS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_defect_in_one_answer_ends_that_one_alone() {
        assert_eq!(calm(|| Ok(1)), Ok(1));
        assert_eq!(calm(|| Err::<(), _>(Errno::ESTALE)), Err(Errno::ESTALE));
        assert_eq!(calm(|| -> Result<(), Errno> { panic!("as expected") }), Err(Errno::EIO));
    }
}
