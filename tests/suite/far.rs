//! A store that is far, for tests: a folder whose requests take a while, come in pages, and are counted by who opens it.

use super::scene::Draw;
use parking_lot::Mutex;
use pastfs::backup;
use pastfs::clock::Time;
use pastfs::event::{Event, Observer, Silent, Stop};
use pastfs::fault::Result;
use pastfs::format::slot::Label;
use pastfs::mount;
use pastfs::prune::{self, Unused};
use pastfs::repository::{Credential, InitOptions, OpenOptions, Repository, Snapshot};
use pastfs::restore;
use pastfs::seal::{Cipher, Compression};
use pastfs::source::{self, Exclude};
use pastfs::storage::{Costs, Listed, Local, Nature, Store};
use std::collections::HashSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// What one request lists, and deletes, as in S3.
const PAGE: usize = 1000;

/// A folder far away.
pub struct Distant {
    local: Local,
    /// What each request takes.
    latency: Duration,
    /// What one request lists.
    page: usize,
    /// Names of what was asked for, in order, with the deed before them.
    pub asked: Mutex<Vec<String>>,
}

impl Distant {
    pub fn new(folder: &Path, latency: Duration) -> Arc<Self> {
        let local = if folder.exists() { Local::open(folder) } else { Local::create(folder) };
        Arc::new(Self { local: local.unwrap(), latency, page: PAGE, asked: Mutex::default() })
    }

    fn ask(&self, deed: &str, name: &str) {
        self.asked.lock().push(format!("{deed} {name}"));
        if !self.latency.is_zero() {
            std::thread::sleep(self.latency);
        }
    }
}

impl Store for Distant {
    fn location(&self) -> String {
        format!("far://{}", self.local.location())
    }
    fn nature(&self) -> Nature {
        Nature { is_far: true, list_page: self.page, delete_batch: PAGE }
    }
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.ask("put", name);
        self.local.put(name, bytes)
    }
    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        self.ask("get", name);
        self.local.get(name, limit)
    }
    fn range(&self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.ask("range", name);
        self.local.range(name, offset, length)
    }
    fn size(&self, name: &str) -> Result<u64> {
        self.ask("size", name);
        self.local.size(name)
    }
    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        let listed = self.local.list(prefix)?;
        (0..listed.len().div_ceil(self.page).max(1)).for_each(|_| self.ask("list", prefix));
        Ok(listed)
    }
    fn modified(&self, name: &str) -> Result<Time> {
        self.ask("modified", name);
        self.local.modified(name)
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.ask("delete", name);
        self.local.delete(name)
    }
    fn delete_all(&self, names: &[String]) -> Result<()> {
        self.ask("delete", &names.join(" "));
        names.iter().try_for_each(|name| self.local.delete(name))
    }
    fn may_be_stale(&self) -> bool {
        false
    }
}

/// A repository far away, with a source beside it. All of it goes with the value.
pub struct Land {
    pub dir: PathBuf,
    latency: Duration,
    /// What one request lists: as if so much larger a store were there.
    pub page: usize,
}

impl Land {
    /// With an empty repository, all of whose requests take so long.
    pub fn new(name: &str, latency: Duration) -> Self {
        // Not where others make their folders: its time is part of every snapshot of something in it.
        let tag = pastfs::id::hex(&pastfs::clock::random_array::<4>());
        let dir = Path::new("/var/tmp").join(format!("pastfs-far-{name}-{tag}"));
        for folder in ["source", "mnt", "out"] {
            fs::create_dir_all(dir.join(folder)).unwrap();
        }
        let land = Self { dir, latency, page: PAGE };
        // Here already, as it changes the time of its folder.
        fs::create_dir_all(land.dir.join("repository")).unwrap();
        let store: Arc<dyn Store> = Distant::new(&land.dir.join("repository"), Duration::ZERO);
        let options = InitOptions { cipher: Cipher::default(), parity: 0, label: Label::default() };
        Repository::init(&store, &key(), &options).unwrap();
        land
    }

    pub fn source(&self) -> PathBuf {
        self.dir.join("source")
    }

    /// Files of these bytes each in so many folders, which do not compress.
    pub fn fill(&self, files: usize, folders: usize, bytes: usize) {
        let mut draw = Draw(1);
        for n in 0..files {
            let folder = self.source().join(format!("d{:04}", n % folders));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(format!("f{n:06}")), draw.bytes(bytes)).unwrap();
        }
        super::scene::let_files_settle();
    }

    pub fn store(&self) -> Arc<Distant> {
        let local = Local::open(&self.dir.join("repository")).unwrap();
        Arc::new(Distant { local, latency: self.latency, page: self.page, asked: Mutex::default() })
    }

    /// Opens it on a machine, which has a cache of its own.
    pub fn open(&self, machine: &str) -> Arc<Repository> {
        self.open_told(machine, Arc::new(Silent))
    }

    /// The same; warnings go to an observer.
    pub fn open_told(&self, machine: &str, observer: Arc<dyn Observer>) -> Arc<Repository> {
        let options = OpenOptions { cache: self.cache(machine), observer };
        Repository::open(self.store(), &key(), options).unwrap()
    }

    pub fn cache(&self, machine: &str) -> PathBuf {
        self.dir.join("out").join(format!("cache-{machine}"))
    }

    /// Saves the source as a host; what it cost.
    pub fn backup(&self, host: &str) -> Costs {
        self.backup_told(host, Arc::new(Silent))
    }

    /// The same; warnings go to an observer.
    pub fn backup_told(&self, host: &str, observer: Arc<dyn Observer>) -> Costs {
        let repository = self.open_told(host, observer.clone());
        let files = source::Options {
            paths: vec![self.source()],
            excludes: Exclude::new::<&str, &str>(&[], &[]).unwrap(),
            threads: 2,
            ..source::Options::default()
        };
        let options = backup::Options {
            from: backup::From::Files(files),
            tags: Vec::new(),
            host: host.as_bytes().to_vec(),
            time: None,
            dry_run: false,
            force: false,
            ignore_ctime: false,
            skip_if_unchanged: false,
            compression: Compression::default(),
        };
        let report = backup::run(&repository, options, &observer, &Stop::new()).unwrap();
        assert_eq!(report.unread_total, 0);
        assert!(report.snapshot.is_some());
        repository.costs()
    }

    /// Prunes as a host; what it cost.
    pub fn prune(&self, host: &str) -> Costs {
        self.prune_by(host, 86_400, Unused::Share(0.05))
    }

    /// The same, with other terms.
    pub fn prune_by(&self, host: &str, grace: i64, max_unused: Unused) -> Costs {
        let options = prune::Options {
            grace,
            max_unused,
            max_repack: u64::MAX,
            now: false,
            dry_run: false,
            compression: Compression::default(),
            host: host.as_bytes().to_vec(),
            drop: HashSet::new(),
        };
        let repository = self.open(host);
        let observer: Arc<dyn Observer> = Arc::new(Silent);
        prune::run(&repository, &options, &observer, &Stop::new(), &mut |_| {}).unwrap();
        repository.costs()
    }

    pub fn newest(&self, repository: &Repository) -> Arc<Snapshot> {
        repository.snapshots().unwrap().last().unwrap().clone()
    }

    /// Restores a path of the newest snapshot, below the source, into a new folder.
    pub fn restore(&self, repository: &Arc<Repository>, below: &str) -> PathBuf {
        let tag = pastfs::id::hex(&pastfs::clock::random_array::<4>());
        let target = self.dir.join("out").join(format!("restored-{tag}"));
        let snapshot = self.newest(repository);
        let options = restore::Options {
            path: self.source().join(below).as_os_str().as_bytes().to_vec(),
            target: target.clone(),
            ..restore::Options::default()
        };
        let observer: Arc<dyn Observer> = Arc::new(Silent);
        let report = restore::run(repository, &snapshot, options, &observer, &Stop::new()).unwrap();
        assert_eq!((report.failed, report.incomplete), (0, 0));
        target
    }

    /// Mounts it in this process.
    pub fn mount(&self, machine: &str) -> Shown {
        let (repository, dir) = (self.open(machine), self.dir.join("mnt"));
        let options = mount::Options {
            // What is asked for by itself must not stand among what a program costs.
            refresh: Duration::from_secs(3600),
            ..mount::Options::new(dir.clone())
        };
        let (ready, is_ready) = std::sync::mpsc::channel();
        let mounted = repository.clone();
        let thread = std::thread::spawn(move || {
            mount::session::block_signals();
            let observer: Arc<dyn Observer> = Arc::new(Silent);
            mount::mount(&mounted, &options, observer, move || ready.send(()).unwrap())
        });
        is_ready.recv().expect("the mount is not ready");
        let source = dir.join("latest").join(self.source().strip_prefix("/").unwrap());
        Shown { repository, dir, source, thread: Some(thread) }
    }
}

impl Drop for Land {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Hears warnings.
#[derive(Default)]
pub struct Heard(pub Mutex<Vec<String>>);

impl Observer for Heard {
    fn event(&self, event: Event<'_>) {
        if let Event::Warning(text) = event {
            self.0.lock().push(text.to_owned());
        }
    }
}

fn key() -> Credential {
    Credential::KeyFile(Zeroizing::new([5; 32]))
}

/// A mount; taken off with the value.
pub struct Shown {
    pub repository: Arc<Repository>,
    dir: PathBuf,
    /// The source in the newest snapshot.
    pub source: PathBuf,
    thread: Option<std::thread::JoinHandle<Result<()>>>,
}

impl Drop for Shown {
    fn drop(&mut self) {
        let _ =
            rustix::mount::unmount(&self.dir, rustix::mount::UnmountFlags::DETACH).map(drop).or_else(|_| {
                std::process::Command::new("fusermount3").arg("-uz").arg(&self.dir).status().map(drop)
            });
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
