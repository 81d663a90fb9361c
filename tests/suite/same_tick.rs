//! L17. A file is read, and changed within the same tick of its file system's clock: size, mtime and ctime stay as they are.
//! Played on a file system of the test's own that shows whatever times it is told to, as one with a coarse clock would (FAT:
//! 2 s). An entry that was read so shortly after its times is marked as fresh, and is read again by the next backup.

use super::scene::Scene;
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry, Request,
};
use parking_lot::Mutex;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const FILE: INodeNo = INodeNo(2);

/// A folder with one file: its content, and the time of all that is there.
#[derive(Clone)]
struct Coarse(Arc<Mutex<(Vec<u8>, SystemTime)>>);

impl Coarse {
    fn attributes(&self, ino: INodeNo) -> FileAttr {
        let (content, time) = &*self.0.lock();
        let is_file = ino == FILE;
        FileAttr {
            ino,
            size: if is_file { content.len() as u64 } else { 0 },
            blocks: 1,
            atime: *time,
            mtime: *time,
            ctime: *time,
            crtime: *time,
            kind: if is_file { FileType::RegularFile } else { FileType::Directory },
            perm: 0o755,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

/// Nothing is kept by the kernel: each look asks anew.
const NEVER: Duration = Duration::ZERO;

impl Filesystem for Coarse {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name == "f" {
            true => reply.entry(&NEVER, &self.attributes(FILE), Generation(0)),
            false => reply.error(Errno::ENOENT),
        }
    }
    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&NEVER, &self.attributes(ino));
    }
    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let content = &self.0.lock().0;
        let rest = content.get(offset as usize..).unwrap_or_default();
        reply.data(&rest[..rest.len().min(size as usize)]);
    }
    fn readdir(&self, _: &Request, _: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        if offset == 0 {
            let _ = reply.add(FILE, 1, FileType::RegularFile, "f");
        }
        reply.ok();
    }
}

/// The file system, mounted as long as this is held.
struct Mounted {
    file: Coarse,
    dir: PathBuf,
    _session: BackgroundSession,
}

impl Mounted {
    fn new(dir: PathBuf, age: Duration) -> Self {
        fs::create_dir(&dir).unwrap();
        let file = Coarse(Arc::new(Mutex::new((vec![b'a'; 5000], SystemTime::now() - age))));
        let session = fuser::spawn_mount(file.clone(), &dir, &Config::default()).unwrap();
        Self { file, dir, _session: session }
    }
    /// Other content of the same length, at the same time.
    fn changes(&self) {
        self.file.0.lock().0.fill(b'b');
    }
}

fn saved(scene: &Scene, dir: &Path) {
    scene.run(["backup".as_ref(), "-q".as_ref(), dir.as_os_str()]).ok();
}

#[test]
fn what_changes_within_the_tick_in_which_it_was_read_is_stored_by_the_next_backup() {
    // What was read long after its last change is taken for unchanged by its times: there the rule does not hold.
    for (age, is_fresh) in [(Duration::ZERO, true), (Duration::from_secs(3600), false)] {
        let scene = Scene::new("same tick");
        let mounted = Mounted::new(scene.path("coarse"), age);
        saved(&scene, &mounted.dir);
        let before = fs::metadata(mounted.dir.join("f")).unwrap();
        mounted.changes();
        let after = fs::metadata(mounted.dir.join("f")).unwrap();
        let times = |m: &fs::Metadata| {
            use std::os::unix::fs::MetadataExt;
            (m.ino(), m.len(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec())
        };
        assert_eq!(times(&before), times(&after));
        saved(&scene, &mounted.dir);
        let target = scene.restore(&format!("latest:{}", mounted.dir.display()));
        let expected = if is_fresh { b'b' } else { b'a' };
        assert!(fs::read(target.join("f")).unwrap() == vec![expected; 5000], "age {age:?}");
    }
}
