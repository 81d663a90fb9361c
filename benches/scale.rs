//! What it costs to begin, by the size of the repository: `cargo bench --bench scale [-- SNAPSHOTSxCHUNKS...]`.
//!
//! Makes repositories, and measures from `pastfs mount` until the root of the newest snapshot is listed: the first time
//! of all (no cache), then with the cache: cold (nothing of it, of the repository or of the program in memory; root
//! alone can arrange that) and warm, medians of three.
//!
//! `-- upkeep:CHUNKS` measures time and memory of `check`, `prune` and `stats` where two snapshots need so many chunks, and the
//! second one is forgotten. Trees are real, packs of content are holes of the right length.
//!
//! `-- index:SIZE,SIZE...` (chunks), `folder:` (files in one folder), `sparse:` (bytes of a file with 256 MiB of data) and
//! `snapshots:` measure the same work at each size, and print the exponent of its growth (`scale/growth.rs`).
//!
//! Everything is made below `PASTFS_BENCH_DIR`, by default the folder for temporary files. An index of 100 million chunks takes
//! about 15 GB there.

#[path = "../tests/suite/generated.rs"]
#[allow(dead_code)] // the tests use more of it
mod generated;
#[path = "scale/growth.rs"]
mod growth;

use generated::Author;
use pastfs::id::ChunkId;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SIZES: [(usize, u64); 6] = [
    (1, 10_000),
    (1000, 10_000),
    (10_000, 10_000),
    (1, 10_000_000),
    (1000, 10_000_000),
    (10_000, 10_000_000),
];
/// Different trees; all snapshots are of one of them.
const TREES: usize = 4;

struct Place(PathBuf);

impl Place {
    fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pastfs"));
        command
            .args(args)
            .env("PASTFS_REPOSITORY", self.0.join("repository"))
            .env("PASTFS_KEY_FILE", self.0.join("key"))
            .env("PASTFS_CACHE", self.0.join("cache"))
            .stdin(Stdio::null())
            .stderr(Stdio::inherit());
        command
    }

    fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Vec<u8> {
        let out = self.command(args).output().expect("pastfs starts");
        assert!(out.status.success(), "pastfs failed");
        out.stdout
    }

    /// Makes a repository; its trees are real, and so is everything that a mount reads at its start.
    fn fill(&self, snapshots: usize, chunks: u64) {
        let source = self.0.join("source");
        fs::create_dir_all(&source).expect("a folder");
        self.run(["init", "-q"]);
        for n in 0..TREES.min(snapshots) {
            fs::write(source.join("file"), format!("{n}")).expect("a file");
            self.run([OsStr::new("backup"), "-q".as_ref(), source.as_os_str()]);
        }
        let list: Vec<serde_json::Value> =
            serde_json::from_slice(&self.run(["snapshots", "--json"])).expect("JSON");
        let made = list.len();
        let roots: Vec<ChunkId> = self.roots();
        let author = Author::of(&self.0.join("repository"), &self.0.join("key"));
        author.snapshots(&roots, 0, snapshots - made);
        // Every backup has published a segment of its own; a big one several.
        author.chunks(
            chunks,
            (snapshots as u64)
                .max(chunks / (8 * generated::PACK_CHUNKS))
                .min(chunks / generated::PACK_CHUNKS)
                .max(1),
        );
        fs::remove_dir_all(self.0.join("cache")).expect("the cache goes");
    }

    fn repository(&self) -> std::sync::Arc<pastfs::repository::Repository> {
        use pastfs::repository::{Credential, OpenOptions, Repository};
        use pastfs::storage::Local;
        let store = std::sync::Arc::new(Local::open(&self.0.join("repository")).expect("a store"));
        let key = fs::read(self.0.join("key")).expect("a key").try_into().expect("32 bytes");
        let options =
            OpenOptions { cache: self.0.join("cache"), observer: std::sync::Arc::new(pastfs::event::Silent) };
        Repository::open(store, &Credential::KeyFile(zeroize::Zeroizing::new(key)), options)
            .expect("a repository")
    }

    fn roots(&self) -> Vec<ChunkId> {
        let snapshots = self.repository().snapshots().expect("snapshots");
        snapshots.iter().map(|s| s.manifest.root).collect()
    }

    /// From the command until the listing, and the most memory that the mount took, in KiB.
    fn start(&self) -> (Duration, u64) {
        let mnt = self.0.join("mnt");
        fs::create_dir_all(&mnt).expect("a folder");
        let began = Instant::now();
        self.run([OsStr::new("mount"), mnt.as_os_str()]);
        let listed = fs::read_dir(mnt.join("latest")).expect("the snapshot").count();
        let took = began.elapsed();
        assert_eq!(listed, 1);
        let hwm = memory_of_process(server_of(&mnt));
        self.run([OsStr::new("umount"), mnt.as_os_str()]);
        // The daemon leaves its cache.
        std::thread::sleep(Duration::from_millis(300));
        (took, hwm)
    }
}

/// The process that serves `mnt`.
fn server_of(mnt: &Path) -> u32 {
    let serves = |entry: &fs::DirEntry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line.split(|b| *b == 0).any(|a| a == mnt.as_os_str().as_encoded_bytes())
    };
    let found = fs::read_dir("/proc").expect("/proc").flatten().find(serves);
    found.and_then(|e| e.file_name().to_str()?.parse().ok()).expect("a mount has a process")
}

/// Most memory that a process took so far (VmHWM), in KiB; 0 where it has ended.
fn memory_of_process(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    value.and_then(|v| v.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn drop_caches() -> bool {
    let _ = Command::new("sync").status();
    fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}

fn median(mut runs: Vec<(Duration, u64)>) -> (Duration, u64) {
    runs.sort();
    runs[runs.len() / 2]
}

/// Chunks of a file, and files of a folder, of the trees that are walked.
const FILE_CHUNKS: usize = 20;
const FOLDER_FILES: usize = 100;

fn base() -> PathBuf {
    std::env::var_os("PASTFS_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from)
}

fn upkeep(chunks: u64) {
    let place = Place(base().join(format!("pastfs-upkeep-{chunks}")));
    let _ = fs::remove_dir_all(&place.0);
    fs::create_dir_all(&place.0).expect("a folder");
    place.run(["init", "-q"]);
    let author = Author::of(&place.0.join("repository"), &place.0.join("key"));
    let mut ids = Vec::new();
    let packs = chunks / generated::PACK_CHUNKS;
    author.sparse_packs(chunks, (packs / 8).max(1), |new| ids.extend_from_slice(new));
    place.snapshot(&ids[..ids.len() * 3 / 4]);
    let second = place.snapshot(&ids);
    println!("{chunks} chunks, two snapshots");
    let shown = |what: &str, args: &[&str]| {
        let used = place.measure(args);
        let (wall, cpu) = (used.wall.as_secs_f64(), used.cpu.as_secs_f64());
        println!("{what:<44} {wall:>8.1} s {cpu:>8.1} s CPU {:>5} MiB", used.kib >> 10);
    };
    let _ = fs::remove_dir_all(place.0.join("cache"));
    shown("index from nothing (snapshots)", &["snapshots", "-q"]);
    shown("check", &["check", "-q"]);
    shown("stats", &["stats", "-q"]);
    place.run(["forget", "-q", &second]);
    shown("prune --dry-run", &["prune", "--dry-run", "-q"]);
    // Nothing is old enough; the packs that are not needed any more are not read, but retired.
    let old = std::time::SystemTime::now() - Duration::from_secs(3 * 24 * 3600);
    place.set_old(&place.0.join("repository"), old);
    shown("prune, retiring a quarter", &["prune", "-q", "--max-unused", "unlimited"]);
    fs::remove_dir_all(&place.0).expect("what was made goes");
}

impl Place {
    fn set_old(&self, dir: &Path, time: std::time::SystemTime) {
        for entry in fs::read_dir(dir).expect("a folder").flatten() {
            match entry.path().is_dir() {
                true => self.set_old(&entry.path(), time),
                false => {
                    let file = fs::File::options().write(true).open(entry.path()).expect("a file");
                    file.set_modified(time).expect("its time");
                }
            }
        }
    }

    /// A snapshot whose files are made of these chunks; its id.
    fn snapshot(&self, ids: &[ChunkId]) -> String {
        use pastfs::format::tree::{Entry, Node, Stat};
        use pastfs::repository::{Commit, Draft, Writer, WriterOptions};
        use pastfs::tree::{ContentWriter, FolderWriter, ROOT_NAME};
        let mut writer = Writer::begin(
            &self.repository(),
            WriterOptions {
                compression: Default::default(),
                host: b"h".to_vec(),
                purpose: "backup",
                dry_run: false,
                distrust: Default::default(),
                stop: Default::default(),
            },
        )
        .expect("a writer");
        let time = pastfs::clock::now();
        let entry = |name: Vec<u8>, size: u64, node: Node| Entry {
            name,
            stat: Stat {
                mode: 0o644,
                uid: 0,
                gid: 0,
                user: Vec::new(),
                group: Vec::new(),
                mtime: time,
                ctime: time,
                size,
                nlink: 1,
                link: None,
                fresh: false,
            },
            node,
            xattrs: Vec::new(),
            chunker: None,
            unknown: Default::default(),
        };
        let mut top = FolderWriter::new();
        for (n, of_folder) in ids.chunks(FILE_CHUNKS * FOLDER_FILES).enumerate() {
            let mut folder = FolderWriter::new();
            for (n, of_file) in of_folder.chunks(FILE_CHUNKS).enumerate() {
                let mut content = ContentWriter::new();
                of_file.iter().for_each(|id| content.chunk(32 << 10, *id));
                let size = content.len();
                let content = content.finish(&mut writer).expect("a content");
                let name = format!("{n:06}").into_bytes();
                folder.push(&entry(name, size, Node::File(content)), &mut writer).expect("a file");
            }
            let folder = folder.finish(&mut writer).expect("a folder");
            let name = format!("{n:08}").into_bytes();
            top.push(&entry(name, 0, Node::Folder(folder)), &mut writer).expect("a folder");
        }
        let top = top.finish(&mut writer).expect("a folder");
        let mut root = FolderWriter::new();
        root.push(&entry(ROOT_NAME.to_vec(), 0, Node::Folder(top)), &mut writer).expect("the root");
        let root = root.finish(&mut writer).expect("the root");
        let draft = Draft {
            time: None,
            host: b"h".to_vec(),
            tags: Vec::new(),
            root,
            parent: None,
            totals: Default::default(),
            private: Default::default(),
        };
        match writer.commit(draft).expect("a snapshot") {
            Commit::Done(id, _) => id.hex(),
            Commit::Again(_, e) => panic!("no snapshot: {}", e.chain()),
        }
    }

    /// Runs a command to its end.
    fn measure(&self, args: &[&str]) -> Used {
        let began = Instant::now();
        #[expect(clippy::zombie_processes, reason = "wait4 tells what it took")]
        let child = self.command(args).stdout(Stdio::null()).spawn().expect("pastfs starts");
        // ru_maxrss would count what this process held when it forked.
        let mut kib = 0;
        loop {
            kib = kib.max(memory_of_process(child.id()));
            let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
            // SAFETY: the child is ours and nobody else waits for it; both places outlive the call.
            let done =
                unsafe { libc::wait4(child.id() as i32, &mut status, libc::WNOHANG, usage.as_mut_ptr()) };
            assert!(done >= 0, "waiting for pastfs failed");
            if done > 0 {
                assert_eq!(status, 0, "pastfs {args:?} failed");
                // SAFETY: all zeros are a valid rusage, and wait4 has filled it.
                let usage = unsafe { usage.assume_init() };
                let time = |t: libc::timeval| {
                    Duration::from_secs(t.tv_sec as u64) + Duration::from_micros(t.tv_usec as u64)
                };
                return Used { wall: began.elapsed(), cpu: time(usage.ru_utime) + time(usage.ru_stime), kib };
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Mounts everything, and hands over where, and by which process.
    fn mounted(&self, work: impl FnOnce(&Path, u32)) {
        let mnt = self.0.join("mnt");
        fs::create_dir_all(&mnt).expect("a folder");
        self.run([OsStr::new("mount"), mnt.as_os_str()]);
        work(&mnt, server_of(&mnt));
        self.run([OsStr::new("umount"), mnt.as_os_str()]);
    }
}

/// What a command took.
struct Used {
    wall: Duration,
    /// User and system.
    cpu: Duration,
    /// Most memory.
    kib: u64,
}

/// The modes that print growth, by what they are called with.
type Growth = fn(&[u64]);
const GROWTH: [(&str, Growth); 4] = [
    ("index:", growth::index),
    ("folder:", growth::folder),
    ("sparse:", growth::sparse),
    ("snapshots:", growth::snapshots),
];

fn main() {
    let mut sizes: Vec<(usize, u64)> = std::env::args()
        .filter_map(|a| {
            let (s, c) = a.split_once('x')?;
            Some((s.parse().ok()?, c.parse().ok()?))
        })
        .collect();
    if sizes.is_empty() && !std::env::args().any(|a| a.contains(':')) {
        sizes = SIZES.to_vec();
    }
    for arg in std::env::args() {
        for (name, grow) in GROWTH {
            if let Some(list) = arg.strip_prefix(name) {
                let list: Vec<u64> = list.split(',').map(|s| s.parse().expect("a size")).collect();
                grow(&list);
            }
        }
    }
    for chunks in std::env::args().filter_map(|a| a.strip_prefix("upkeep:")?.parse().ok()) {
        upkeep(chunks);
    }
    if sizes.is_empty() {
        return;
    }
    println!("from `pastfs mount` until the root of the newest snapshot is listed; most memory of the mount");
    println!("{:>9} {:>11} {:>10} {:>16} {:>16}", "snapshots", "chunks", "no cache", "cold", "warm");
    for (snapshots, chunks) in sizes {
        let place = Place(base().join(format!("pastfs-scale-{snapshots}x{chunks}")));
        if !place.0.join("made").exists() {
            let _ = fs::remove_dir_all(&place.0);
            fs::create_dir_all(&place.0).expect("a folder");
            place.fill(snapshots, chunks);
            fs::write(place.0.join("made"), "").expect("a file");
        }
        let _ = fs::remove_dir_all(place.0.join("cache"));
        let show = |(took, kib): (Duration, u64)| format!("{:.3} s {:>3} MiB", took.as_secs_f64(), kib >> 10);
        let first = place.start();
        // What the first start left to be settled is no part of the next.
        place.start();
        let is_root = drop_caches();
        let cold = match is_root {
            true => show(median(
                (0..3)
                    .map(|_| {
                        drop_caches();
                        place.start()
                    })
                    .collect(),
            )),
            false => "(needs root)".into(),
        };
        let warm = show(median((0..3).map(|_| place.start()).collect()));
        println!("{snapshots:>9} {chunks:>11} {:>8.2} s {cold:>16} {warm:>16}", first.0.as_secs_f64());
        if std::env::var_os("PASTFS_BENCH_KEEP").is_none() {
            fs::remove_dir_all(&place.0).expect("what was made goes");
        }
    }
}
