//! Parity that is written anew, and that packs get which are named again, while the storage fails at any call.

use super::{Faulty, Objects, WAYS, mend, replicas};
use crate::suite::trial::World;
use pastfs::storage::Store;
use std::sync::Arc;
use std::sync::atomic::Ordering;

#[test]
fn parity_that_is_written_anew_while_the_storage_fails_is_whole_after_the_next_repair() {
    let world = World::with_copies();
    let whole = replicas::source(&world);
    let of_kind = |objects: &Objects, kind: &str| -> Vec<(String, Vec<u8>)> {
        let of_kind = objects.iter().filter(|(name, _)| name.starts_with(kind));
        of_kind.map(|(name, (bytes, _))| (name.clone(), bytes.clone())).collect()
    };
    let parity = |objects: &Objects| of_kind(objects, "parity/");
    let names: Vec<String> = parity(&whole).into_iter().map(|(name, _)| name).collect();
    let mut hurt = whole.clone();
    hurt.remove(&names[0]);
    hurt.get_mut(&names[1]).unwrap().0[100] ^= 1;
    let mut unnamed = hurt.clone();
    unnamed.retain(|name, _| !name.starts_with("index/"));
    let mut tried = 0;
    for (what, objects) in [("packs", &hurt), ("index", &unnamed)] {
        for n in 0.. {
            let mut was_last = true;
            for way in WAYS {
                let failing = Faulty::with(objects, Some((n, way)));
                let cache = world.fresh("cache");
                let store: Arc<dyn Store> = failing.clone();
                let outcome = mend(&world, &store, &cache, what);
                if failing.calls.load(Ordering::SeqCst) <= n {
                    outcome.unwrap_or_else(|e| panic!("{what}, nothing failed: {e:?}"));
                    continue;
                }
                (was_last, tried) = (false, tried + 1);
                let left = Faulty::with(&failing.objects.lock().clone(), None);
                let store: Arc<dyn Store> = left.clone();
                let judge = || -> std::result::Result<(), String> {
                    mend(&world, &store, &cache, what).map_err(|e| format!("again: {e:?}"))?;
                    mend(&world, &store, &cache, "packs").map_err(|e| format!("packs: {e:?}"))?;
                    world.whole(&store, &cache)?;
                    world.clean(&store, &world.fresh("new-cache"))?;
                    // A pack that could not be read once was emptied; the others have what they had.
                    let left = left.objects.lock();
                    let is_same = parity(&left) == parity(&whole);
                    let are_others = of_kind(&left, "packs/") != of_kind(&whole, "packs/");
                    match is_same || are_others {
                        true => Ok(()),
                        false => Err("parity is not what it was".into()),
                    }
                };
                judge().unwrap_or_else(|e| panic!("{what}, call {n} fails ({way:?}), {outcome:?}: {e}"));
                std::fs::remove_dir_all(&cache).unwrap_or_default();
            }
            if was_last {
                break;
            }
        }
    }
    assert!(tried > 100, "{tried}");
    println!("storage faults under repairs of parity tried: {tried}");
}
