//! What must hold of a repository whatever befell it, asked by calls of the library: fast enough to be asked after each
//! of some thousand crashes. And what people do that writes, as a table: a new command is a new row, and the sweeps
//! over failing calls and over lost power take it from there.

mod deeds;

pub use deeds::DEEDS;

use super::scene::{Draw, Ran, Started};
use parking_lot::Mutex;
use pastfs::backup;
use pastfs::check;
use pastfs::event::{Event, Observer, Silent, Stop};
use pastfs::fault::Result;
use pastfs::id::SnapshotId;
use pastfs::replicate;
use pastfs::repository::{Credential, OpenOptions, Repository};
use pastfs::restore;
use pastfs::seal::Compression;
use pastfs::source::{self, Exclude};
use pastfs::storage::{Local, Store};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use zeroize::Zeroizing;

/// States that the source can be in.
pub const STATES: usize = 3;
/// The key file of all trials.
pub const KEY: [u8; 32] = [5; 32];
/// Key files of others, `another-key` and `third-key`.
const ANOTHER: [u8; 32] = [6; 32];
const THIRD: [u8; 32] = [7; 32];

/// A tree in memory: path to kind, mode, time and content.
type Tree = BTreeMap<PathBuf, (u32, i64, i64, Vec<u8>)>;

fn tree_of(dir: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            let m = fs::symlink_metadata(&path).unwrap();
            let content = match m.file_type() {
                t if t.is_symlink() => fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec(),
                t if t.is_file() => fs::read(&path).unwrap(),
                _ => Vec::new(),
            };
            if m.is_dir() {
                open.push(path.clone());
            }
            let below = path.strip_prefix(dir).unwrap().to_path_buf();
            tree.insert(below, (m.mode(), m.mtime(), m.mtime_nsec(), content));
        }
    }
    tree
}

/// Copies a folder of plain files.
pub fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).into_iter().flatten() {
        let entry = entry.unwrap();
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&source, &target);
        } else {
            fs::copy(&source, &target).unwrap();
        }
    }
}

/// A source that can be put into a few states, and the copies that say what a snapshot of each must hold.
pub struct World {
    pub dir: PathBuf,
    copies: Vec<Tree>,
}

impl World {
    /// In memory where possible: what a disk loses is simulated, and syncs need not be waited for.
    pub fn new() -> Self {
        let shared = Path::new("/dev/shm");
        let base = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
        let tag = pastfs::id::hex(&pastfs::clock::random_array::<8>());
        let dir = base.join(format!("pastfs-trial-{tag}"));
        fs::create_dir(&dir).unwrap();
        let world = Self { dir, copies: Vec::new() };
        let source = world.source();
        for folder in ["a", "b/c"] {
            fs::create_dir_all(source.join(folder)).unwrap();
        }
        for n in 0..6u64 {
            fs::write(source.join(format!("a/{n}")), Draw(n).bytes(3000)).unwrap();
        }
        fs::write(source.join("b/large"), Draw(99).bytes(200_000)).unwrap();
        std::os::unix::fs::symlink("../a/1", source.join("b/link")).unwrap();
        fs::write(world.dir.join("key"), KEY).unwrap();
        fs::write(world.dir.join("another-key"), ANOTHER).unwrap();
        fs::write(world.dir.join("third-key"), THIRD).unwrap();
        fs::create_dir(world.dir.join("outputs")).unwrap();
        super::scene::let_files_settle();
        world
    }

    /// With a copy of each state at hand.
    pub fn with_copies() -> Self {
        let mut world = Self::new();
        for state in 1..=STATES {
            world.turn(state);
            world.copies.push(tree_of(&world.source()));
        }
        world.turn(1);
        world
    }

    pub fn source(&self) -> PathBuf {
        self.dir.join("source")
    }

    /// A new name in its folder.
    pub fn fresh(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}-{}", pastfs::id::hex(&pastfs::clock::random_array::<6>())))
    }

    /// Puts the source into a state: one file differs in each, and one is there in no other.
    pub fn turn(&self, state: usize) {
        let source = self.source();
        for other in 1..=STATES {
            let _ = fs::remove_file(source.join(format!("b/c/only in {other}")));
        }
        let write = |name: &str, bytes: &[u8]| {
            fs::write(source.join(name), bytes).unwrap();
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000 + state as u64);
            let file = fs::File::options().write(true).open(source.join(name)).unwrap();
            file.set_modified(time).unwrap();
        };
        write(&format!("b/c/only in {state}"), &Draw(1000 + state as u64).bytes(9000));
        write("a/3", &Draw(2000 + state as u64).bytes(3000));
        // The folders' own times differ too, and must be the same whenever the state comes again.
        for folder in ["b/c", "a"] {
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
            fs::File::open(source.join(folder)).unwrap().set_modified(time).unwrap();
        }
    }

    /// pastfs with the key of all trials.
    pub fn program<S: AsRef<OsStr>>(&self, args: &[S], repository: &Path, cache: &Path) -> Command {
        let mut command = super::scene::pastfs(args);
        command
            .current_dir(&self.dir)
            .env("PASTFS_REPOSITORY", repository)
            .env("PASTFS_KEY_FILE", self.dir.join("key"))
            .env("PASTFS_CACHE", cache);
        command
    }

    /// The arguments of a deed, with what stands for ids filled in.
    pub fn filled(&self, deed: &Deed, repository: &Path) -> Vec<String> {
        let looked_up = |what: &str| -> String {
            let store: Arc<dyn Store> = Arc::new(Local::open(repository).unwrap());
            let opened = self.open(&store, &self.fresh("ids")).unwrap();
            match what {
                "OTHER KEY" => opened.slots().unwrap().iter().find(|s| !s.current).unwrap().id.hex(),
                "MIDDLE" => opened.snapshots().unwrap().iter().find(|s| !s.held).unwrap().id.hex(),
                _ if deed.args.contains(&"--undo") => opened.forgotten().unwrap()[0].id.hex(),
                _ => opened.snapshots().unwrap()[0].id.hex(),
            }
        };
        let fill = |arg: &&str| match *arg {
            "OTHER KEY" | "OLDEST" | "MIDDLE" => looked_up(arg),
            arg => arg.to_owned(),
        };
        deed.args.iter().map(fill).collect()
    }

    pub fn run(&self, command: Command) -> Ran {
        Started::new(command, &self.dir.join("outputs")).wait()
    }

    pub fn open(&self, store: &Arc<dyn Store>, cache: &Path) -> Result<Arc<Repository>> {
        self.open_as(KEY, store, cache)
    }

    /// With another key file.
    pub fn open_as(&self, key: [u8; 32], store: &Arc<dyn Store>, cache: &Path) -> Result<Arc<Repository>> {
        let options = OpenOptions { cache: cache.to_path_buf(), observer: Arc::new(Silent) };
        Repository::open(store.clone(), &credential(key), options)
    }

    /// What a deed needs beside the repository, before that is damaged: another one to replicate from, which has a snapshot
    /// more, or a replica.
    pub fn prepare(&self, deed: &Deed, store: &Arc<dyn Store>) {
        let place = match deed.name {
            REPLICATE => ORIGIN,
            REPAIR_FROM => REPLICA,
            _ => return,
        };
        let other: Arc<dyn Store> = Arc::new(Local::create(&self.dir.join(place)).unwrap());
        let cache = self.fresh("other-cache");
        replicated(&self.open(store, &cache).unwrap(), &other).unwrap();
        if deed.name == REPLICATE {
            self.save(&self.open(&other, &cache).unwrap(), deed.state).unwrap();
        }
    }

    /// Saves the source, which is in this state.
    pub fn save(&self, repository: &Arc<Repository>, state: usize) -> Result<()> {
        let files = source::Options {
            paths: vec![self.source()],
            excludes: Exclude::new::<&str, &str>(&[], &[])?,
            ..source::Options::default()
        };
        let options = backup::Options {
            from: backup::From::Files(files),
            tags: vec![state.to_string().into_bytes()],
            host: b"h".to_vec(),
            time: None,
            dry_run: false,
            force: false,
            ignore_ctime: false,
            skip_if_unchanged: false,
            compression: Compression::default(),
        };
        let observer = silent();
        let report = backup::run(repository, options, &observer, &Stop::new())?;
        assert_eq!(report.unread_total, 0, "{:?}", report.unread);
        assert!(report.snapshot.is_some(), "a backup without a snapshot");
        Ok(())
    }

    /// Every listed snapshot comes back as it was saved. What there is.
    ///
    /// # Errors
    /// What is not so, as text: some trials are made to fail.
    pub fn whole(&self, store: &Arc<dyn Store>, cache: &Path) -> std::result::Result<View, String> {
        let told = |what: &str| {
            let what = what.to_owned();
            move |e: pastfs::fault::Error| format!("{what}: {e:?}")
        };
        let repository = self.open(store, cache).map_err(told("opening"))?;
        let mut view =
            View { keys: repository.slots().map_err(told("listing keys"))?.len(), ..View::default() };
        view.third_opens = view.keys > 1 && self.open_as(THIRD, store, cache).is_ok();
        for s in repository.snapshots().map_err(told("listing"))? {
            let tags: Vec<String> = s.tags.iter().map(|t| String::from_utf8_lossy(t).into_owned()).collect();
            let state = tags.iter().find_map(|t| t.parse::<usize>().ok()).ok_or("no state")?;
            let target = self.fresh("out");
            let options = restore::Options {
                path: self.source().as_os_str().as_bytes().to_vec(),
                target: target.clone(),
                threads: 1,
                ..restore::Options::default()
            };
            let told = Arc::new(Told::default());
            let observer: Arc<dyn Observer> = told.clone();
            let report = restore::run(&repository, &s, options, &observer, &Stop::new());
            let report = report.map_err(|e| format!("restoring: {e:?}"))?;
            if report.failed + report.incomplete > 0 || tree_of(&target) != self.copies[state - 1] {
                let why = told.0.lock().clone();
                return Err(format!(
                    "snapshot {} of state {state} is not what was saved: {report:?} {why:?}",
                    s.id
                ));
            }
            fs::remove_dir_all(&target).unwrap();
            view.snapshots.insert(s.id, (tags, s.held));
        }
        Ok(view)
    }

    /// A check with all data read finds nothing.
    pub fn clean(&self, store: &Arc<dyn Store>, cache: &Path) -> std::result::Result<(), String> {
        let repository = self.open(store, cache).map_err(|e| format!("opening for a check: {e:?}"))?;
        let options = check::Options { read_data: Some(check::Subset::All) };
        let observer = silent();
        let report = check::run(&repository, &options, &observer, &Stop::new());
        let report = report.map_err(|e| format!("checking: {e:?}"))?;
        // Who dies between a config and its twin leaves one, which is told, and mended by a repair.
        let is_lonely = |f: &&check::Finding| !f.what.contains("there is no second config");
        match report.findings.iter().find(is_lonely) {
            None => Ok(()),
            Some(f) => Err(format!("check: {} {} ({})", f.object, f.what, f.advice)),
        }
    }

    /// After a crash of what was to mend: done again, and with a backup of what the source still has, all is well.
    pub fn mended(
        &self,
        deed: &Deed,
        store: &Arc<dyn Store>,
        cache: &Path,
    ) -> std::result::Result<View, String> {
        (deed.act)(self, store, cache).map_err(|e| format!("mending again: {e:?}"))?;
        let saved = self.open(store, cache).and_then(|r| self.save(&r, deed.state));
        saved.map_err(|e| format!("the backup after mending: {e:?}"))?;
        self.sound(store, cache, deed.state)
    }

    /// Done twice more, all is as well as it was.
    pub fn repeated(
        &self,
        deed: &Deed,
        store: &Arc<dyn Store>,
        cache: &Path,
    ) -> std::result::Result<(), String> {
        for _ in 0..2 {
            (deed.act)(self, store, cache).map_err(|e| format!("doing it again: {e:?}"))?;
        }
        self.whole(store, cache).map_err(|e| format!("done again: {e}"))?;
        self.clean(store, cache).map_err(|e| format!("done again: {e}"))
    }

    /// All that must hold after a crash: whole, clean, the same through a cache that knows nothing, and the next backup
    /// works and is whole as well. `state` is that of the source.
    pub fn sound(
        &self,
        store: &Arc<dyn Store>,
        cache: &Path,
        state: usize,
    ) -> std::result::Result<View, String> {
        let view = self.whole(store, cache)?;
        self.clean(store, cache)?;
        let new = self.fresh("new-cache");
        let again = self.whole(store, &new).map_err(|e| format!("with a new cache: {e}"))?;
        if again != view {
            return Err(format!("with a new cache {again:?}, with the old one {view:?}"));
        }
        let next = self.open(store, cache).and_then(|r| self.save(&r, state));
        next.map_err(|e| format!("the next backup: {e:?}"))?;
        let after = self.whole(store, &new).map_err(|e| format!("after the next backup: {e}"))?;
        if after.snapshots.len() != view.snapshots.len() + 1 {
            return Err(format!(
                "{} snapshots and a backup are {}",
                view.snapshots.len(),
                after.snapshots.len()
            ));
        }
        self.clean(store, &new).map_err(|e| format!("after the next backup: {e}"))?;
        fs::remove_dir_all(&new).unwrap();
        Ok(view)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

pub fn credential(key: [u8; 32]) -> Credential {
    Credential::KeyFile(Zeroizing::new(key))
}

/// What a repository shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// Tags, and whether it is held.
    pub snapshots: BTreeMap<SnapshotId, (Vec<String>, bool)>,
    pub keys: usize,
    /// The third key file opens it.
    pub third_opens: bool,
}

impl View {
    fn tagged(&self, tag: &str) -> usize {
        self.snapshots.values().filter(|(tags, _)| tags.iter().any(|t| t == tag)).count()
    }
    fn held(&self) -> usize {
        self.snapshots.values().filter(|(_, held)| *held).count()
    }
}

/// Something that people do, which writes.
pub struct Deed {
    pub name: &'static str,
    /// State of the source while it is done.
    pub state: usize,
    pub act: fn(&World, &Arc<dyn Store>, &Path) -> Result<()>,
    /// Whether it was done, between these two views.
    pub done: fn(&View, &View) -> bool,
    /// What befalls the repository before it. Then it is there to mend that: nothing is promised before it was done to the
    /// end, and followed by a backup.
    pub damage: Option<fn(&Arc<dyn Store>)>,
    /// It can be done again and again, and must then lose nothing.
    pub repeats: bool,
    /// The same as arguments of the program. `OLDEST`, `MIDDLE` and `OTHER KEY` stand for ids.
    pub args: &'static [&'static str],
}

/// Keeps what could not be brought back.
#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl Observer for Told {
    fn event(&self, event: Event<'_>) {
        if let Event::Unread { path, reason } = event {
            self.0.lock().push(format!("{}: {reason}", path.display()));
        }
    }
}

fn silent() -> Arc<dyn Observer> {
    Arc::new(Silent)
}

/// The deed that needs another repository to copy from, and where that is.
const REPLICATE: &str = "replicate";
pub const ORIGIN: &str = "origin";
/// The deed that needs a replica of what is then damaged, and where that is.
const REPAIR_FROM: &str = "repair from";
const REPLICA: &str = "replica";

/// All that is missing in the one comes from the other; forget notes too.
pub fn replicated(from: &Arc<Repository>, to: &Arc<dyn Store>) -> Result<replicate::Report> {
    let options = replicate::Options { forget: true, host: b"h".to_vec(), ..replicate::Options::default() };
    replicate::run(from, to, &options, &silent(), &Stop::new()).map(|(_, report)| report)
}
