//! The rules of writing (B1 to B8) and crashes, over a store that the test drives.

mod seen;
mod surveyed;

use super::*;
use crate::clock::Time;
use crate::event::{Silent, Stop};
use crate::format::pack::Space;
use crate::format::snapshot::{Private, Totals};
use crate::format::tree::{Entry, Node, Stat};
use crate::id::{ChunkId, PackId, SnapshotId};
use crate::seal::Compression;
use crate::storage::Listed;
use crate::storage::conformance::memory::Memory;
use crate::tree::{self, FileReader, FolderWriter, ROOT_NAME, Sink};
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use zeroize::Zeroizing;

/// What a test does before a call of the store: lets it through, or fails it.
type Hook = Box<dyn Fn(&Memory, &str, &str) -> Result<()> + Send + Sync>;

struct Driven {
    place: &'static str,
    memory: Memory,
    hook: Mutex<Option<Hook>>,
    calls: AtomicUsize,
}

impl Driven {
    fn new() -> Arc<Self> {
        Self::at("a test")
    }
    fn at(place: &'static str) -> Arc<Self> {
        Arc::new(Self {
            place,
            memory: Memory::default(),
            hook: Mutex::new(None),
            calls: AtomicUsize::new(0),
        })
    }
    fn hook(&self, hook: Option<Hook>) {
        *self.hook.lock() = hook;
    }
    fn before(&self, op: &str, name: &str) -> Result<()> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.hook.lock().as_ref().map_or(Ok(()), |h| h(&self.memory, op, name))
    }
    fn names(&self, prefix: &str) -> Vec<String> {
        self.memory.0.lock().keys().filter(|n| n.starts_with(prefix)).cloned().collect()
    }
}

impl Store for Driven {
    fn location(&self) -> String {
        self.place.into()
    }
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.before("put", name)?;
        self.memory.put(name, bytes)?;
        self.before("put done", name)
    }
    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        self.before("get", name)?;
        self.memory.get(name, limit)
    }
    fn range(&self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.before("range", name)?;
        self.memory.range(name, offset, length)
    }
    fn size(&self, name: &str) -> Result<u64> {
        self.before("size", name)?;
        self.memory.size(name)
    }
    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.before("list", prefix)?;
        self.memory.list(prefix)
    }
    fn names(&self, prefix: &str) -> Result<Vec<String>> {
        self.before("names", prefix)?;
        self.memory.names(prefix)
    }
    fn modified(&self, name: &str) -> Result<Time> {
        self.before("modified", name)?;
        self.memory.modified(name)
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.before("delete", name)?;
        self.memory.delete(name)
    }
    fn may_be_stale(&self) -> bool {
        false
    }
}

/// A folder for caches that goes with the test.
struct Caches(PathBuf);
impl Caches {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("pastfs-repository-{}-{n}", std::process::id())))
    }
}
impl Drop for Caches {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn credential() -> Credential {
    Credential::KeyFile(Zeroizing::new([5; 32]))
}

fn init(store: &Arc<Driven>) {
    let store: Arc<dyn Store> = store.clone();
    let options = InitOptions { cipher: Cipher::default(), parity: 0, label: Label::default() };
    Repository::init(&store, &credential(), &options).unwrap();
}

fn open(store: &Arc<Driven>, cache: &Caches) -> Result<Arc<Repository>> {
    let options = OpenOptions { cache: cache.0.clone(), observer: Arc::new(Silent) };
    Repository::open(store.clone(), &credential(), options)
}

fn text(n: u8) -> Vec<u8> {
    (0..20_000u32).flat_map(|i| (i.wrapping_mul(u32::from(n) + 7)).to_le_bytes()).collect()
}

/// Writes a snapshot of one file with the content `text(n)`.
fn backup(repository: &Arc<Repository>, n: u8, distrust: HashSet<PackId>) -> Result<Commit> {
    let options = WriterOptions {
        compression: Compression::default(),
        host: b"h".to_vec(),
        purpose: "backup",
        dry_run: false,
        distrust,
        stop: Stop::new(),
    };
    let mut w = Writer::begin(repository, options)?;
    let bytes = text(n);
    let mut content = tree::ContentWriter::new();
    let id = w.put(Space::Data, &bytes)?;
    content.chunk(bytes.len() as u64, id);
    let content = content.finish(&mut w)?;
    let size = bytes.len() as u64;
    let entry = |name: &[u8], size: u64, node: Node| Entry {
        name: name.to_vec(),
        stat: Stat { size, nlink: 1, ..Stat::default() },
        node,
        xattrs: Vec::new(),
        chunker: None,
        unknown: Default::default(),
    };
    let mut folder = FolderWriter::new();
    folder.push(&entry(b"file", size, Node::File(content)), &mut w)?;
    let top = folder.finish(&mut w)?;
    let mut root = FolderWriter::new();
    root.push(&entry(ROOT_NAME, 0, Node::Folder(top)), &mut w)?;
    let root: ChunkId = root.finish(&mut w)?;
    w.commit(Draft {
        time: None,
        host: b"h".to_vec(),
        tags: vec![vec![b'0' + n]],
        root,
        parent: None,
        totals: Totals::default(),
        private: Private::default(),
    })
}

fn done(commit: Commit) -> SnapshotId {
    match commit {
        Commit::Done(id, _) => id,
        Commit::Again(_, e) => panic!("did not commit: {}", e.chain()),
    }
}

/// Every listed snapshot is whole: reads all of it. Gives how many there are.
fn all_whole(repository: &Arc<Repository>) -> usize {
    let reader = repository.reader();
    let snapshots = repository.snapshots().unwrap();
    for s in &snapshots {
        let entry = tree::find(&*reader, &s.manifest.root, b"/file").unwrap().unwrap();
        let Node::File(content) = entry.node else { panic!("no file") };
        let mut out = Vec::new();
        FileReader::new(content).read_at(&*reader, 0, usize::MAX >> 1, &mut out).unwrap();
        assert_eq!(out, text(s.tags[0][0] - b'0'));
    }
    snapshots.len()
}

#[test]
fn a_snapshot_comes_back_through_a_new_cache_and_leaves_no_lease() {
    let (store, a, b) = (Driven::new(), Caches::new(), Caches::new());
    init(&store);
    done(backup(&open(&store, &a).unwrap(), 1, HashSet::new()).unwrap());
    assert_eq!(all_whole(&open(&store, &b).unwrap()), 1);
    assert_eq!(store.names("leases/"), Vec::<String>::new());
}

#[test]
fn the_second_snapshot_of_the_same_content_stores_nothing_but_its_manifest() {
    let (store, a) = (Driven::new(), Caches::new());
    init(&store);
    let r = open(&store, &a).unwrap();
    done(backup(&r, 1, HashSet::new()).unwrap());
    let (packs, segments) = (store.names("packs/"), store.names("index/"));
    done(backup(&r, 1, HashSet::new()).unwrap());
    assert_eq!((store.names("packs/"), store.names("index/")), (packs, segments));
    assert_eq!(all_whole(&r), 2);
}

/// L3: the lease goes before the manifest: there is no manifest.
#[test]
fn a_backup_whose_lease_prune_deleted_writes_no_manifest() {
    let (store, a) = (Driven::new(), Caches::new());
    init(&store);
    let r = open(&store, &a).unwrap();
    store.hook(Some(Box::new(|memory, op, name| {
        if op == "put done" && name.starts_with("index/") {
            memory.0.lock().retain(|n, _| !n.starts_with("leases/"));
        }
        Ok(())
    })));
    assert!(matches!(backup(&r, 1, HashSet::new()).unwrap(), Commit::Again(..)));
    assert_eq!(store.names("snapshots/"), Vec::<String>::new());
    store.hook(None);
    done(backup(&r, 1, HashSet::new()).unwrap());
    assert_eq!(all_whole(&r), 1);
}

/// B7, B8: the lease goes while the manifest is written: the manifest is withdrawn.
#[test]
fn a_manifest_written_after_its_lease_was_deleted_is_withdrawn() {
    let (store, a) = (Driven::new(), Caches::new());
    init(&store);
    let r = open(&store, &a).unwrap();
    store.hook(Some(Box::new(|memory, op, name| {
        if op == "put" && name.starts_with("snapshots/") {
            memory.0.lock().retain(|n, _| !n.starts_with("leases/"));
        }
        Ok(())
    })));
    assert!(matches!(backup(&r, 1, HashSet::new()).unwrap(), Commit::Again(..)));
    assert_eq!(store.names("snapshots/"), Vec::<String>::new());
}

/// B8 where deleting is forbidden: the manifest stays, a note makes it void.
#[test]
fn where_nothing_can_be_deleted_a_withdrawn_manifest_is_void() {
    let (store, a) = (Driven::new(), Caches::new());
    init(&store);
    let r = open(&store, &a).unwrap();
    store.hook(Some(Box::new(|memory, op, name| {
        if op == "put" && name.starts_with("snapshots/") {
            memory.0.lock().retain(|n, _| !n.starts_with("leases/"));
        }
        match op {
            "delete" => Err(Error::new(Fault::Denied, "append-only")),
            _ => Ok(()),
        }
    })));
    assert!(matches!(backup(&r, 1, HashSet::new()).unwrap(), Commit::Again(..)));
    store.hook(None);
    assert_eq!((store.names("snapshots/").len(), store.names("notes/").len()), (1, 1));
    assert_eq!(r.snapshots().unwrap().len(), 0);
    assert_eq!(open(&store, &Caches::new()).unwrap().snapshots().unwrap().len(), 0);
}

/// B6: what the index promises and the store lost is stored again, not relied on.
#[test]
fn a_backup_that_relies_on_a_lost_pack_says_so_and_stores_it_again() {
    let (store, a) = (Driven::new(), Caches::new());
    init(&store);
    let r = open(&store, &a).unwrap();
    done(backup(&r, 1, HashSet::new()).unwrap());
    let manifests = store.names("snapshots/");
    for name in store.names("packs/") {
        store.memory.delete(&name).unwrap();
    }
    let Commit::Again(gone, _) = backup(&r, 1, HashSet::new()).unwrap() else { panic!("relied on nothing") };
    assert_eq!(gone.len(), 2);
    assert_eq!(store.names("snapshots/"), manifests);
    done(backup(&r, 1, gone).unwrap());
    assert_eq!(all_whole(&open(&store, &Caches::new()).unwrap()), 2);
}

/// Promise 2: for each call n of a backup, everything from n on fails, as after a crash.
#[test]
fn a_crash_at_any_call_of_the_store_loses_at_most_the_running_backup() {
    let count = {
        let (store, a) = (Driven::new(), Caches::new());
        init(&store);
        let r = open(&store, &a).unwrap();
        done(backup(&r, 1, HashSet::new()).unwrap());
        let before = store.calls.load(Ordering::SeqCst);
        done(backup(&r, 2, HashSet::new()).unwrap());
        store.calls.load(Ordering::SeqCst) - before
    };
    assert!(count > 15, "{count} calls");
    for n in 0..count {
        let (store, a) = (Driven::new(), Caches::new());
        init(&store);
        let r = open(&store, &a).unwrap();
        done(backup(&r, 1, HashSet::new()).unwrap());
        let left = AtomicUsize::new(n);
        store.hook(Some(Box::new(move |_, _, _| {
            let crashed =
                left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |l| l.checked_sub(1)).is_err();
            if crashed { Err(Error::new(Fault::Io, "crashed")) } else { Ok(()) }
        })));
        let outcome = backup(&r, 2, HashSet::new());
        store.hook(None);
        drop(r);
        let fresh = Caches::new();
        let r = open(&store, &fresh).unwrap();
        let whole = all_whole(&r);
        assert!(whole >= 1, "call {n}");
        assert!(whole == 2 || !matches!(outcome, Ok(Commit::Done(..))), "call {n}: committed and not there");
        done(backup(&r, 3, HashSet::new()).unwrap());
        assert_eq!(all_whole(&r), whole + 1, "call {n}");
    }
}

#[test]
fn a_wrong_key_and_an_empty_store_are_told_apart() {
    let store = Driven::new();
    let fault = |store: &Arc<Driven>, key: [u8; 32]| {
        let options = OpenOptions { cache: Caches::new().0.clone(), observer: Arc::new(Silent) };
        let result = Repository::open(store.clone(), &Credential::KeyFile(Zeroizing::new(key)), options);
        result.err().map(|e| e.fault())
    };
    assert_eq!(fault(&store, [5; 32]), Some(Fault::NoRepository));
    init(&store);
    assert_eq!(fault(&store, [6; 32]), Some(Fault::WrongKey));
    assert_eq!(fault(&store, [5; 32]), None);
}

#[test]
fn the_last_key_stays_and_a_removed_one_opens_nothing() {
    let (store, a) = (Driven::new(), Caches::new());
    init(&store);
    let r = open(&store, &a).unwrap();
    assert!(r.remove_slot(&r.current_slot(), true).is_err());
    let other = Credential::KeyFile(Zeroizing::new([8; 32]));
    r.add_slot(&other, Role::Full, b"", &Label::default()).unwrap();
    r.remove_slot(&r.current_slot(), true).unwrap();
    assert_eq!(open(&store, &a).err().map(|e| e.fault()), Some(Fault::WrongKey));
    let options = OpenOptions { cache: a.0.clone(), observer: Arc::new(Silent) };
    assert!(Repository::open(store.clone(), &other, options).is_ok());
}

#[test]
fn a_store_that_is_emptied_counts_as_away_and_not_as_empty() {
    let (store, cache) = (Driven::new(), Caches::new());
    init(&store);
    let repository = open(&store, &cache).unwrap();
    assert!(repository.snapshots().unwrap().is_empty());
    done(backup(&repository, 1, HashSet::new()).unwrap());
    assert_eq!(all_whole(&repository), 1);
    let take = |prefixes: &[&str]| {
        let mut objects = store.memory.0.lock();
        let taken = |n: &String| prefixes.iter().any(|p| n.starts_with(p));
        objects.extract_if(.., |n, _| taken(n)).collect::<Vec<_>>()
    };
    let give = |taken: Vec<_>| store.memory.0.lock().extend(taken);

    let taken = take(&["snapshots/"]);
    assert_eq!(repository.snapshots().unwrap_err().fault(), Fault::NoRepository);
    give(taken);
    assert_eq!(all_whole(&repository), 1);
    // All of it: the index is not thrown away, which would be read anew segment by segment.
    let taken = take(&[""]);
    assert_eq!(repository.sync_index().unwrap_err().fault(), Fault::NoRepository);
    assert!(!repository.index().unwrap().segments().unwrap().is_empty());
    give(taken);
    assert_eq!(all_whole(&repository), 1);
}
