//! What must hold of a repository whatever befell it, asked by calls of the library: fast enough to be asked after each
//! of some thousand crashes. And what people do that writes, as a table: a new command is a new row, and the sweeps
//! over failing calls and over lost power take it from there.

use super::scene::{Draw, Ran, Started};
use parking_lot::Mutex;
use pastfs::backup;
use pastfs::check;
use pastfs::event::{Event, Observer, Silent, Stop};
use pastfs::fault::{Error, Fault, Result};
use pastfs::format::slot::Label;
use pastfs::format::snapshot::Action;
use pastfs::id::SnapshotId;
use pastfs::prune::{self, Unused};
use pastfs::repair::{self, PacksOptions};
use pastfs::replicate;
use pastfs::repository::{Credential, InitOptions, OpenOptions, Repository};
use pastfs::restore;
use pastfs::seal::{Cipher, Compression, Role};
use pastfs::source::{self, Exclude};
use pastfs::storage::{Local, Store};
use std::collections::{BTreeMap, HashSet};
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
        fs::write(world.dir.join("another-key"), [6; 32]).unwrap();
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
        let options = OpenOptions { cache: cache.to_path_buf(), observer: Arc::new(Silent) };
        Repository::open(store.clone(), &credential(KEY), options)
    }

    /// What a deed needs beside the repository: another one to replicate from, which has a snapshot more.
    pub fn prepare(&self, deed: &Deed, store: &Arc<dyn Store>) {
        if deed.name != REPLICATE {
            return;
        }
        let origin: Arc<dyn Store> = Arc::new(Local::create(&self.dir.join(ORIGIN)).unwrap());
        let cache = self.fresh("origin-cache");
        replicated(&self.open(store, &cache).unwrap(), &origin).unwrap();
        self.save(&self.open(&origin, &cache).unwrap(), deed.state).unwrap();
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

fn oldest(repository: &Arc<Repository>, forgotten: bool) -> Result<Vec<SnapshotId>> {
    let all = if forgotten { repository.forgotten()? } else { repository.snapshots()? };
    Ok(all.iter().take(1).map(|s| s.id).collect())
}

fn noted(world: &World, store: &Arc<dyn Store>, cache: &Path, action: Action, tags: &[&str]) -> Result<()> {
    let repository = world.open(store, cache)?;
    let ids = oldest(&repository, action == Action::Unforget)?;
    let tags: Vec<Vec<u8>> = tags.iter().map(|t| t.as_bytes().to_vec()).collect();
    repository.add_note(action, &ids, &tags).map(drop)
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

fn pruned(world: &World, store: &Arc<dyn Store>, cache: &Path, now: bool) -> Result<()> {
    let options = prune::Options {
        grace: 0,
        max_unused: Unused::Share(0.0),
        max_repack: u64::MAX,
        now,
        dry_run: false,
        compression: Compression::default(),
        host: b"h".to_vec(),
        drop: HashSet::new(),
    };
    prune::run(&world.open(store, cache)?, &options, &silent(), &Stop::new(), &mut |_| {}).map(drop)
}

/// The deed that needs another repository, and where that is.
const REPLICATE: &str = "replicate";
const ORIGIN: &str = "origin";

/// All that is missing in the one comes from the other; forget notes too.
pub fn replicated(from: &Arc<Repository>, to: &Arc<dyn Store>) -> Result<replicate::Report> {
    let options = replicate::Options { forget: true, host: b"h".to_vec(), ..replicate::Options::default() };
    replicate::run(from, to, &options, &silent(), &Stop::new()).map(|(_, report)| report)
}

/// In this order each finds what it needs.
pub const DEEDS: &[Deed] = &[
    Deed {
        name: "init",
        state: 1,
        act: |_, store, _| {
            let options = InitOptions { cipher: Cipher::default(), parity: 0, label: Label::default() };
            Repository::init(store, &credential(KEY), &options).map(drop)
        },
        done: |_, after| after.keys == 1,
        damage: None,
        repeats: false,
        args: &["init", "-q"],
    },
    Deed {
        name: "first backup",
        state: 1,
        act: |world, store, cache| world.save(&world.open(store, cache)?, 1),
        done: |before, after| after.snapshots.len() == before.snapshots.len() + 1 && after.tagged("1") == 1,
        damage: None,
        repeats: false,
        args: &["backup", "-q", "--host", "h", "--tag", "1", "source"],
    },
    Deed {
        name: "second backup",
        state: 2,
        act: |world, store, cache| world.save(&world.open(store, cache)?, 2),
        done: |before, after| after.snapshots.len() == before.snapshots.len() + 1 && after.tagged("2") == 1,
        damage: None,
        repeats: false,
        args: &["backup", "-q", "--host", "h", "--tag", "2", "source"],
    },
    Deed {
        name: "key add",
        state: 2,
        act: |world, store, cache| {
            world
                .open(store, cache)?
                .add_slot(&credential([6; 32]), Role::Full, &[], &Label::default())
                .map(drop)
        },
        done: |before, after| after.keys == before.keys + 1,
        damage: None,
        repeats: false,
        args: &["key", "add", "-q", "--new-key-file", "another-key"],
    },
    Deed {
        name: "key remove",
        state: 2,
        act: |world, store, cache| {
            let repository = world.open(store, cache)?;
            match repository.slots()?.iter().find(|s| !s.current) {
                Some(slot) => repository.remove_slot(&slot.id, false),
                None => Err(Error::new(Fault::Missing, "there is no other key")),
            }
        },
        done: |before, after| after.keys + 1 == before.keys,
        damage: None,
        repeats: false,
        args: &["key", "remove", "-q", "OTHER KEY"],
    },
    Deed {
        name: "tag",
        state: 2,
        act: |world, store, cache| noted(world, store, cache, Action::Tag, &["extra"]),
        done: |before, after| after.tagged("extra") == before.tagged("extra") + 1,
        damage: None,
        repeats: false,
        args: &["tag", "-q", "--add", "extra", "OLDEST"],
    },
    Deed {
        name: "forget",
        state: 2,
        act: |world, store, cache| noted(world, store, cache, Action::Forget, &[]),
        done: |before, after| after.snapshots.len() + 1 == before.snapshots.len(),
        damage: None,
        repeats: false,
        args: &["forget", "-q", "OLDEST"],
    },
    Deed {
        name: "forget --undo",
        state: 2,
        act: |world, store, cache| noted(world, store, cache, Action::Unforget, &[]),
        done: |before, after| after.snapshots.len() == before.snapshots.len() + 1,
        damage: None,
        repeats: false,
        args: &["forget", "-q", "--undo", "OLDEST"],
    },
    Deed {
        name: "hold",
        state: 2,
        act: |world, store, cache| noted(world, store, cache, Action::Hold, &[]),
        done: |before, after| after.held() == before.held() + 1,
        damage: None,
        repeats: false,
        args: &["tag", "-q", "--hold", "OLDEST"],
    },
    Deed {
        name: "third backup",
        state: 3,
        act: |world, store, cache| world.save(&world.open(store, cache)?, 3),
        done: |before, after| after.snapshots.len() == before.snapshots.len() + 1 && after.tagged("3") == 1,
        damage: None,
        repeats: false,
        args: &["backup", "-q", "--host", "h", "--tag", "3", "source"],
    },
    Deed {
        name: "forget the middle",
        state: 3,
        act: |world, store, cache| {
            let repository = world.open(store, cache)?;
            let middle: Vec<SnapshotId> =
                repository.snapshots()?.iter().filter(|s| !s.held).take(1).map(|s| s.id).collect();
            repository.add_note(Action::Forget, &middle, &[]).map(drop)
        },
        done: |before, after| after.snapshots.len() + 1 == before.snapshots.len() && after.tagged("2") == 0,
        damage: None,
        repeats: false,
        args: &["forget", "-q", "MIDDLE"],
    },
    // It retires, and moves what is needed.
    Deed {
        name: "prune",
        state: 3,
        act: |world, store, cache| pruned(world, store, cache, false),
        done: |before, after| before == after,
        damage: None,
        repeats: true,
        args: &["prune", "-q", "--grace", "0", "--max-unused", "0%"],
    },
    // It deletes.
    Deed {
        name: "prune again",
        state: 3,
        act: |world, store, cache| pruned(world, store, cache, false),
        done: |before, after| before == after,
        damage: None,
        repeats: true,
        args: &["prune", "-q", "--grace", "0", "--max-unused", "0%"],
    },
    Deed {
        name: "forget what is held not",
        state: 3,
        act: |world, store, cache| {
            let repository = world.open(store, cache)?;
            let last: Vec<SnapshotId> =
                repository.snapshots()?.iter().filter(|s| !s.held).take(1).map(|s| s.id).collect();
            repository.add_note(Action::Forget, &last, &[]).map(drop)
        },
        done: |before, after| after.snapshots.len() + 1 == before.snapshots.len(),
        damage: None,
        repeats: false,
        args: &["forget", "-q", "MIDDLE"],
    },
    Deed {
        name: "prune --now",
        state: 3,
        act: |world, store, cache| pruned(world, store, cache, true),
        done: |before, after| before == after,
        damage: None,
        repeats: false,
        args: &["prune", "-q", "--now", "--max-unused", "0%"],
    },
    Deed {
        name: "key rotate",
        state: 3,
        act: |world, store, cache| {
            world.open(store, cache)?.begin_epoch(&credential(KEY), &Label::default())?;
            world.open(store, cache)?.end_epochs(&Stop::new()).map(drop)
        },
        // The old key stays at first, and the new one is there before it counts.
        done: |before, after| before.snapshots == after.snapshots,
        damage: None,
        repeats: false,
        args: &["key", "rotate", "-q"],
    },
    Deed {
        name: "repair index",
        state: 1,
        act: |world, store, cache| {
            let repository = world.open(store, cache)?;
            repair::index(&repository, b"h", false, &silent(), &Stop::new()).map(drop)
        },
        done: |before, after| before == after,
        damage: Some(|store| {
            for name in store.names("index/").unwrap() {
                store.delete(&name).unwrap();
            }
        }),
        repeats: true,
        args: &["repair", "index", "-q"],
    },
    Deed {
        name: "repair packs",
        state: 1,
        act: |world, store, cache| {
            let options = PacksOptions { read_data: true, host: b"h".to_vec(), ..PacksOptions::default() };
            repair::packs(&world.open(store, cache)?, &options, &silent(), &Stop::new()).map(drop)
        },
        done: |before, after| before == after,
        damage: Some(|store| {
            // The pack of the large file, which the source has in every state.
            let largest = store.list("packs/").unwrap().into_iter().max_by_key(|l| l.size).unwrap();
            let mut bytes = store.get(&largest.name, largest.size).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
            store.delete(&largest.name).unwrap();
            store.put(&largest.name, &bytes).unwrap();
        }),
        repeats: true,
        // What is lost is told by the exit code, until the next backup has stored it again.
        args: &["repair", "packs", "-q", "--read-data"],
    },
    Deed {
        name: "repair snapshots",
        state: 1,
        act: |world, store, cache| {
            let options = repair::SnapshotsOptions {
                drop_damaged: true,
                host: b"h".to_vec(),
                ..repair::SnapshotsOptions::default()
            };
            repair::snapshots(&world.open(store, cache)?, &options, &silent(), &Stop::new()).map(drop)
        },
        done: |before, after| before == after,
        damage: Some(|store| {
            // Nobody can say what they were.
            for name in [format!("snapshots/{}", "5a".repeat(32)), format!("notes/{}", "6b".repeat(32))] {
                store.put(&name, &Draw(5).bytes(400)).unwrap();
            }
        }),
        repeats: true,
        args: &["repair", "snapshots", "-q", "--drop-damaged"],
    },
    Deed {
        name: REPLICATE,
        state: 2,
        act: |world, store, cache| {
            let origin: Arc<dyn Store> = Arc::new(Local::open(&world.dir.join(ORIGIN))?);
            replicated(&world.open(&origin, cache)?, store).map(drop)
        },
        done: |before, after| after.snapshots.len() == before.snapshots.len() + 1,
        damage: None,
        repeats: true,
        args: &["-r", ORIGIN, "replicate", "-q", "repository"],
    },
];
