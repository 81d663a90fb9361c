//! Replication while the one store or the other fails, from a replica that is made anew to one that is brought up: row
//! `replicate` of the table has a target that was there before.

use super::{Faulty, Objects, Way};
use crate::suite::trial::{KEY, World, credential, replicated};
use pastfs::fault::Result;
use pastfs::repository::{InitOptions, Repository};
use pastfs::seal::Cipher;
use pastfs::storage::Store;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Snapshots of the source.
const SNAPSHOTS: usize = 2;

/// A repository with snapshots of two states, with parity.
pub fn source(world: &World) -> Objects {
    let store = Faulty::with(&Objects::new(), None);
    let shared: Arc<dyn Store> = store.clone();
    let options = InitOptions { cipher: Cipher::default(), parity: 10, label: Default::default() };
    Repository::init(&shared, &credential(KEY), &options).unwrap();
    for state in 1..=SNAPSHOTS {
        world.turn(state);
        world.save(&world.open(&shared, &world.fresh("cache")).unwrap(), state).unwrap();
    }
    store.objects.lock().clone()
}

fn copies(world: &World, from: &Arc<Faulty>, to: &Arc<Faulty>, cache: &Path) -> Result<()> {
    to.is_called("the replica of a test");
    let (from, to): (Arc<dyn Store>, Arc<dyn Store>) = (from.clone(), to.clone());
    replicated(&world.open(&from, cache)?, &to).map(drop)
}

/// What the target lists is whole at any time, and the next run finishes the work.
fn judge(world: &World, source: &Objects, left: &Objects, cache: &Path) -> std::result::Result<(), String> {
    let target = Faulty::with(left, None);
    let store: Arc<dyn Store> = target.clone();
    if left.keys().any(|name| name.starts_with("config/")) {
        world.whole(&store, &world.fresh("look"))?;
        world.clean(&store, &world.fresh("look"))?;
    } else if left.keys().any(|name| name.starts_with("snapshots/")) {
        return Err("a snapshot, and no config".into());
    }
    let before = left.keys().filter(|name| name.starts_with("packs/")).count();
    copies(world, &Faulty::with(source, None), &target, cache).map_err(|e| format!("the next run: {e:?}"))?;
    let packs = |objects: &Objects| objects.keys().filter(|name| name.starts_with("packs/")).count();
    let after = packs(&target.objects.lock());
    // Of a source that failed midway some chunks may have been stored anew, and fewer packs are needed.
    if before > after || after > packs(source) + before {
        return Err(format!("{before} packs became {after}, of {}", packs(source)));
    }
    let view = world.whole(&store, &world.fresh("look"))?;
    world.clean(&store, &world.fresh("look"))?;
    match view.snapshots.len() {
        SNAPSHOTS => Ok(()),
        n => Err(format!("{n} snapshots, done again")),
    }
}

#[test]
fn whichever_call_of_the_target_fails_the_replica_is_whole_and_the_next_run_finishes_it() {
    let world = World::with_copies();
    let source = source(&world);
    let (mut tried, mut lies) = (0, 0);
    for way in [Way::Once, Way::AnswerLost, Way::FromThenOn, Way::LastAnswerLost, Way::Liar] {
        for n in 0.. {
            let target = Faulty::with(&Objects::new(), Some((n, way)));
            let cache = world.fresh("cache");
            let outcome = copies(&world, &Faulty::with(&source, None), &target, &cache);
            if target.calls.load(Ordering::SeqCst) <= n {
                outcome.unwrap_or_else(|e| panic!("nothing failed: {e:?}"));
                break;
            }
            let mut left = target.objects.lock().clone();
            let is_liar = way == Way::Liar;
            if is_liar {
                // A store that forgets what it called durable: all but what opens it, and the manifests.
                left.retain(|name, _| !name.starts_with("packs/") && !name.starts_with("index/"));
            }
            let judged = judge(&world, &source, &left, &cache);
            match is_liar {
                // The canary.
                true => lies += usize::from(judged.is_err()),
                false => judged.unwrap_or_else(|e| panic!("call {n} fails ({way:?}), {outcome:?}: {e}")),
            }
            tried += 1;
        }
    }
    assert!(tried > 100 && lies > 0, "{tried} tried, {lies} lies found out");
    println!("faults of targets of replications tried: {tried}");
}

#[test]
fn whichever_call_of_the_source_fails_the_replica_is_whole_and_the_next_run_finishes_it() {
    let world = World::with_copies();
    let source = source(&world);
    let mut tried = 0;
    for way in [Way::Once, Way::FromThenOn] {
        for n in 0.. {
            let from = Faulty::with(&source, Some((n, way)));
            let target = Faulty::with(&Objects::new(), None);
            let cache = world.fresh("cache");
            let outcome = copies(&world, &from, &target, &cache);
            if from.calls.load(Ordering::SeqCst) <= n {
                outcome.unwrap_or_else(|e| panic!("nothing failed: {e:?}"));
                break;
            }
            let left = target.objects.lock().clone();
            judge(&world, &source, &left, &cache)
                .unwrap_or_else(|e| panic!("call {n} of the source fails ({way:?}), {outcome:?}: {e}"));
            tried += 1;
        }
    }
    assert!(tried > 40, "{tried}");
    println!("faults of sources of replications tried: {tried}");
}
