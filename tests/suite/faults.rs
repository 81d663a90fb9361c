//! Storage that fails: call number n of each command that writes, for each n. The store is one in memory behind a
//! wrapper that counts; what a lost power does to a real folder is in `powercut`.

mod parity;
mod replicas;

use super::trial::{DEEDS, Deed, View, World, copy_dir};
use parking_lot::Mutex;
use pastfs::clock::{self, Time};
use pastfs::event::{Observer, Silent, Stop};
use pastfs::fault::{Error, Fault, Result};
use pastfs::repair;
use pastfs::storage::conformance::conformance;
use pastfs::storage::{Listed, Store, check_name, check_prefix};
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

type Objects = BTreeMap<String, (Vec<u8>, Time)>;

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// This one, and nothing of it was done.
    Once,
    /// This one, though it was done: the answer got lost.
    AnswerLost,
    /// This one and all that follow: the machine is dead, or the storage is gone for good.
    FromThenOn,
    /// The last thing that the storage ever does.
    LastAnswerLost,
    /// As [`Way::FromThenOn`], and what was put in this session is gone as well: a store that breaks its promise.
    Liar,
}

const WAYS: [Way; 4] = [Way::Once, Way::AnswerLost, Way::FromThenOn, Way::LastAnswerLost];

/// A store in memory whose calls fail as planned.
#[derive(Default)]
struct Faulty {
    objects: Mutex<Objects>,
    plan: Option<(usize, Way)>,
    calls: AtomicUsize,
    name: Mutex<Option<String>>,
}

impl Faulty {
    fn with(objects: &Objects, plan: Option<(usize, Way)>) -> Arc<Self> {
        let (calls, name) = Default::default();
        Arc::new(Self { objects: Mutex::new(objects.clone()), plan, calls, name })
    }

    /// Where it says that it is.
    fn is_called(&self, name: &str) {
        *self.name.lock() = Some(name.into());
    }

    fn call<T>(&self, name: &str, work: impl FnOnce(&mut Objects) -> Result<T>) -> Result<T> {
        let n = self.calls.fetch_add(1, Ordering::SeqCst);
        let objects = &mut *self.objects.lock();
        let failed = || Err(Error::new(Fault::Io, format!("call {n}, {name}: the storage failed")));
        match self.plan {
            Some((at, Way::Once)) if n == at => failed(),
            Some((at, Way::AnswerLost | Way::LastAnswerLost)) if n == at => {
                let _ = work(objects);
                failed()
            }
            Some((at, Way::FromThenOn | Way::LastAnswerLost | Way::Liar)) if n >= at => failed(),
            _ => work(objects),
        }
    }

    fn read<T>(&self, name: &str, read: impl FnOnce(&[u8], Time) -> Result<T>) -> Result<T> {
        check_name(name)?;
        self.call(name, |objects| match objects.get(name) {
            Some((bytes, time)) => read(bytes, *time),
            None => Err(Error::new(Fault::Missing, format!("there is no {name}"))),
        })
    }
}

impl Store for Faulty {
    fn location(&self) -> String {
        self.name.lock().clone().unwrap_or_else(|| "a store of a test".into())
    }
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        check_name(name)?;
        self.call(name, |objects| {
            let (found, _) = objects.entry(name.into()).or_insert_with(|| (bytes.to_vec(), clock::now()));
            if found == bytes { Ok(()) } else { Err(Error::damaged(format!("{name} is there already"))) }
        })
    }
    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        self.read(name, |bytes, _| match bytes.len() as u64 <= limit {
            true => Ok(bytes.to_vec()),
            false => Err(Error::damaged(format!("{name} is longer than {limit}"))),
        })
    }
    fn range(&self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.read(name, |bytes, _| {
            let start = usize::try_from(offset).ok();
            let part = start.and_then(|s| bytes.get(s..s.checked_add(length)?));
            part.map(<[u8]>::to_vec).ok_or_else(|| Error::damaged(format!("{name} is too short")))
        })
    }
    fn size(&self, name: &str) -> Result<u64> {
        self.read(name, |bytes, _| Ok(bytes.len() as u64))
    }
    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        check_prefix(prefix)?;
        self.call(prefix, |objects| {
            let below = objects.iter().filter(|(name, _)| name.starts_with(prefix));
            let listed = |(name, (bytes, modified)): (&String, &(Vec<u8>, Time))| Listed {
                name: name.clone(),
                size: bytes.len() as u64,
                modified: *modified,
            };
            Ok(below.map(listed).collect())
        })
    }
    fn modified(&self, name: &str) -> Result<Time> {
        self.read(name, |_, time| Ok(time))
    }
    fn delete(&self, name: &str) -> Result<()> {
        check_name(name)?;
        self.call(name, |objects| {
            objects.remove(name);
            Ok(())
        })
    }
    fn may_be_stale(&self) -> bool {
        false
    }
}

#[test]
fn the_store_that_fails_as_planned_keeps_the_contract_while_it_does_not() {
    conformance(&|| Box::new(Faulty::default()));
}

/// A repository before a deed: its objects, a cache that knows them, and what it shows.
struct Before {
    objects: Objects,
    cache: PathBuf,
    view: View,
}

/// The repository before each of [`DEEDS`].
fn chain(world: &World) -> Vec<Before> {
    let (mut objects, mut chain) = (Objects::new(), Vec::new());
    let mut view = View::default();
    let cache = world.fresh("chain-cache");
    for deed in DEEDS {
        let kept = world.fresh("kept-cache");
        copy_dir(&cache, &kept);
        chain.push(Before { objects: objects.clone(), cache: kept, view: view.clone() });
        world.turn(deed.state);
        let store = Faulty::with(&objects, None);
        let dynamic: Arc<dyn Store> = store.clone();
        world.prepare(deed, &dynamic);
        if let Some(damage) = deed.damage {
            damage(&dynamic);
            chain.last_mut().unwrap().objects = store.objects.lock().clone();
        }
        (deed.act)(world, &dynamic, &cache).unwrap_or_else(|e| panic!("{}: {e:?}", deed.name));
        if deed.damage.is_some() {
            world.mended(deed, &dynamic, &cache).unwrap_or_else(|e| panic!("{}: {e}", deed.name));
        }
        let after = world.whole(&dynamic, &cache).unwrap_or_else(|e| panic!("{}: {e}", deed.name));
        let is_done = deed.damage.is_some() || (deed.done)(&view, &after);
        assert!(is_done, "{} does nothing: {view:?} {after:?}", deed.name);
        view = after;
        objects = store.objects.lock().clone();
    }
    chain
}

/// Does the deed with call `n` failing, and asks for all that must hold then. `None` once the deed makes fewer calls.
fn crash(
    world: &World,
    deed: &Deed,
    before: &Before,
    n: usize,
    way: Way,
    seen: &mut HashSet<State>,
) -> Option<std::result::Result<(), String>> {
    let failing = Faulty::with(&before.objects, Some((n, way)));
    let cache = world.fresh("cache");
    copy_dir(&before.cache, &cache);
    let store: Arc<dyn Store> = failing.clone();
    let outcome = (deed.act)(world, &store, &cache);
    if failing.calls.load(Ordering::SeqCst) <= n {
        outcome.unwrap_or_else(|e| panic!("{}, nothing failed: {e:?}", deed.name));
        fs::remove_dir_all(&cache).unwrap_or_default();
        return None;
    }
    let mut left = failing.objects.lock().clone();
    if way == Way::Liar {
        // What is new and was read by nobody else: all but the manifests.
        left.retain(|name, _| before.objects.contains_key(name) || name.starts_with("snapshots/"));
    }
    let new = left.iter().filter(|(name, _)| !before.objects.contains_key(*name));
    let kinds = new.map(|(name, (bytes, _))| (name.split('/').next().unwrap_or("").into(), bytes.len()));
    let state = (outcome.is_ok(), left.len() < before.objects.len(), kinds.collect());
    let judged = match seen.insert(state) {
        true => judge(world, deed, before, &left, &cache, outcome.is_ok()),
        false => judge_again(world, before, &left, &cache, deed.damage.is_some()),
    };
    fs::remove_dir_all(&cache).unwrap_or_default();
    Some(judged.map_err(|e| format!("{}, call {n} fails ({way:?}), ended with {outcome:?}: {e}", deed.name)))
}

/// Whether a deed said that it was done, whether it took objects away, and which it left: objects of one folder and
/// length are the same thing, since only what is drawn differs.
type State = (bool, bool, Vec<(String, usize)>);

/// Of a state that was judged already, only through this cache.
fn judge_again(
    world: &World,
    before: &Before,
    left: &Objects,
    cache: &std::path::Path,
    is_mending: bool,
) -> std::result::Result<(), String> {
    let store: Arc<dyn Store> = Faulty::with(left, None);
    match before.view.keys == 0 && world.open(&store, cache).is_err() {
        true => Ok(()),
        false if is_mending => Ok(()),
        false => world.whole(&store, cache).map(drop),
    }
}

fn judge(
    world: &World,
    deed: &Deed,
    before: &Before,
    left: &Objects,
    cache: &std::path::Path,
    told_done: bool,
) -> std::result::Result<(), String> {
    let store: Arc<dyn Store> = Faulty::with(left, None);
    let again = |store: &Arc<dyn Store>| {
        (deed.act)(world, store, cache).map_err(|e| format!("doing it again: {e:?}"))
    };
    if before.view.keys == 0 && world.open(&store, cache).is_err() {
        // There is no repository yet, and none was promised.
        if told_done {
            return Err("done, and there is none".into());
        }
        again(&store)?;
        return world.sound(&store, cache, deed.state).map(drop);
    }
    if deed.damage.is_some() {
        return world.mended(deed, &store, cache).map(drop);
    }
    let view = world.sound(&store, cache, deed.state)?;
    if deed.repeats {
        world.repeated(deed, &store, cache)?;
    }
    let is_done = (deed.done)(&before.view, &view);
    if told_done && !is_done {
        return Err(format!("done, and it is not: {view:?}"));
    }
    if !is_done && view != before.view {
        return Err(format!("neither done nor as before: {view:?}, before {:?}", before.view));
    }
    if !is_done {
        let fresh: Arc<dyn Store> = Faulty::with(left, None);
        again(&fresh)?;
        let view = world.whole(&fresh, cache)?;
        if !(deed.done)(&before.view, &view) {
            return Err(format!("done again, and it is not: {view:?}"));
        }
    }
    Ok(())
}

#[test]
fn whichever_call_of_the_storage_fails_nothing_that_is_listed_is_lost_and_work_goes_on() {
    let tried = AtomicUsize::new(0);
    let share = &|thread: usize, threads: usize| {
        let world = World::with_copies();
        let chain = chain(&world);
        for (deed, before) in DEEDS.iter().zip(&chain) {
            let mut seen = HashSet::new();
            world.turn(deed.state);
            for n in (thread..).step_by(threads) {
                let mut was_last = true;
                for way in WAYS {
                    let Some(judged) = crash(&world, deed, before, n, way, &mut seen) else { continue };
                    was_last = false;
                    tried.fetch_add(1, Ordering::Relaxed);
                    judged.unwrap_or_else(|e| panic!("{e}"));
                }
                if was_last {
                    break;
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        for n in 0..threads {
            scope.spawn(move || share(n, threads));
        }
    });
    println!("storage faults tried: {}", tried.load(Ordering::Relaxed));
}

/// Repairs a repository as far as it goes.
fn mend(world: &World, store: &Arc<dyn Store>, cache: &std::path::Path, what: &str) -> Result<()> {
    let (observer, stop): (Arc<dyn Observer>, _) = (Arc::new(Silent), Stop::new());
    let repository = world.open(store, cache)?;
    match what {
        "index" => repair::index(&repository, b"h", false, &observer, &stop).map(drop),
        _ => {
            let options = repair::PacksOptions { read_data: true, ..repair::PacksOptions::default() };
            repair::packs(&repository, &options, &observer, &stop).map(drop)
        }
    }
}

#[test]
fn a_repair_whose_storage_fails_at_any_call_is_finished_by_the_next() {
    let world = World::with_copies();
    let chain = chain(&world);
    // Behind two backups.
    let before = &chain[DEEDS.iter().position(|d| d.name == "key add").unwrap()];
    let mut unnamed = before.objects.clone();
    unnamed.retain(|name, _| !name.starts_with("index/"));
    let mut flipped = before.objects.clone();
    let packs = flipped.iter_mut().filter(|(name, _)| name.starts_with("packs/"));
    let (bytes, _) = packs.map(|(_, object)| object).max_by_key(|(bytes, _)| bytes.len()).unwrap();
    bytes[100_000] ^= 1;
    world.turn(1);
    let mut tried = 0;
    for (what, objects) in [("index", &unnamed), ("packs", &flipped)] {
        for n in 0.. {
            let mut was_last = true;
            for way in [Way::Once, Way::FromThenOn] {
                let failing = Faulty::with(objects, Some((n, way)));
                let cache = world.fresh("cache");
                copy_dir(&before.cache, &cache);
                let store: Arc<dyn Store> = failing.clone();
                let outcome = mend(&world, &store, &cache, what);
                if failing.calls.load(Ordering::SeqCst) <= n {
                    outcome.unwrap_or_else(|e| panic!("{what}, nothing failed: {e:?}"));
                    continue;
                }
                (was_last, tried) = (false, tried + 1);
                let store: Arc<dyn Store> = Faulty::with(&failing.objects.lock().clone(), None);
                let judge = || -> std::result::Result<(), String> {
                    mend(&world, &store, &cache, what).map_err(|e| format!("again: {e:?}"))?;
                    if what == "packs" {
                        // The source still has what was lost.
                        let saved = world.open(&store, &cache).and_then(|r| world.save(&r, 1));
                        saved.map_err(|e| format!("the next backup: {e:?}"))?;
                    }
                    world.whole(&store, &cache)?;
                    world.clean(&store, &cache)?;
                    world.clean(&store, &world.fresh("new-cache"))
                };
                judge().unwrap_or_else(|e| panic!("{what}, call {n} fails ({way:?}), {outcome:?}: {e}"));
                fs::remove_dir_all(&cache).unwrap_or_default();
            }
            if was_last {
                break;
            }
        }
    }
    println!("storage faults under repairs tried: {tried}");
    assert!(tried > 50, "{tried}");
}

/// Proves that the sweep can fail.
#[test]
fn a_store_that_forgets_what_it_called_durable_is_found_out() {
    let world = World::with_copies();
    let chain = chain(&world);
    let at = DEEDS.iter().position(|d| d.name == "second backup").unwrap();
    world.turn(DEEDS[at].state);
    let judged: Vec<_> = (0..)
        .map_while(|n| crash(&world, &DEEDS[at], &chain[at], n, Way::Liar, &mut HashSet::new()))
        .collect();
    assert!(judged.iter().any(std::result::Result::is_err), "{} crashes, and none was noticed", judged.len());
    assert!(judged[0].is_ok(), "nothing was lost there: {:?}", judged[0]);
}
