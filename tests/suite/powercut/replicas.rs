//! The power goes while a replica is made where there was nothing: row `replicate` of the table has a target that was there
//! before. And its source is left as it is.

use super::super::trial::{KEY, World, credential};
use super::disk::{self, Disk, Image};
use super::{LOSSES, hash, record};
use pastfs::repository::{InitOptions, Repository};
use pastfs::seal::Cipher;
use pastfs::storage::{Local, Store};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const REPLICA: &str = "new-replica";
const WATCHED: [&str; 3] = ["repository", "cache", REPLICA];
/// Snapshots of the source.
const SNAPSHOTS: usize = 2;

fn local(at: &Path) -> Result<Arc<dyn Store>, String> {
    Local::open(at).map(|s| Arc::new(s) as Arc<dyn Store>).map_err(|e| format!("{e:?}"))
}

/// What is listed is whole, and the next run finishes the work, whatever was found.
fn judge(world: &World, image: &Image, was_told: bool) -> Result<(), String> {
    let dir = world.fresh("cut");
    let (replica, cache) = (dir.join("replica"), dir.join("cache"));
    disk::write(image, "cache", &cache);
    disk::write(image, REPLICA, &replica);
    let judged = (|| {
        let is_one = image
            .keys()
            .any(|p| p.starts_with(Path::new(REPLICA).join("config")) && p.components().count() > 2);
        if is_one {
            let store = local(&replica)?;
            let view = world.whole(&store, &cache)?;
            world.whole(&store, &world.fresh("look"))?;
            world.clean(&store, &world.fresh("look"))?;
            if was_told && view.snapshots.len() < SNAPSHOTS {
                return Err(format!("it was told to be done, and is not: {view:?}"));
            }
        } else if was_told {
            return Err("it was told to be done, and there is none".into());
        }
        let args = ["replicate".into(), "-q".into(), replica.to_string_lossy().into_owned()];
        let ran = world.run(world.program(&args, &world.dir.join("repository"), &cache));
        if ran.code != Some(0) {
            return Err(format!("the next run: {}", ran.err));
        }
        let store = local(&replica)?;
        let view = world.whole(&store, &world.fresh("look"))?;
        world.clean(&store, &cache)?;
        match view.snapshots.len() {
            SNAPSHOTS => Ok(()),
            n => Err(format!("{n} snapshots, done again")),
        }
    })();
    std::fs::remove_dir_all(&dir).unwrap_or_default();
    judged
}

#[test]
fn wherever_the_power_goes_a_replica_in_the_making_is_whole_and_its_source_untouched() {
    if !record::is_possible() {
        return;
    }
    let world = World::with_copies();
    let (repository, cache) = (world.dir.join("repository"), world.dir.join("cache"));
    let store: Arc<dyn Store> = Arc::new(Local::create(&repository).unwrap());
    let options = InitOptions { cipher: Cipher::default(), parity: 10, label: Default::default() };
    Repository::init(&store, &credential(KEY), &options).unwrap();
    for state in 1..=SNAPSHOTS {
        world.turn(state);
        world.save(&world.open(&store, &cache).unwrap(), state).unwrap();
    }
    let mut disk = Disk::load(&world.dir, &WATCHED);
    let source = disk::read(&world.dir, &["repository"]);
    let log = world.dir.join("log");
    let command = world.program(&["replicate", "-q", REPLICA], &repository, &cache);
    world.run(record::watched(command, &log)).ok();
    let ops = record::steps(&log, &world.dir, &WATCHED, &disk);
    assert!(source == disk::read(&world.dir, &["repository"]), "the source has changed");
    let (mut seen, mut cuts) = (HashSet::new(), Vec::new());
    for n in 0..=ops.len() {
        let was_told = n == ops.len();
        for loss in LOSSES {
            let image = disk.after(loss);
            // The cache is judged by the rows of the table.
            if seen.insert((hash(&image, REPLICA, "-"), was_told)) {
                cuts.push((n, loss, image, was_told));
            }
        }
        if let Some(op) = ops.get(n) {
            disk.apply(op);
        }
    }
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some((n, loss, image, was_told)) = cuts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    judge(&world, image, *was_told).unwrap_or_else(|e| {
                        panic!("power lost after step {n} of {}, {loss:?}: {e}", ops.len())
                    });
                }
            });
        }
    });
    assert!(cuts.len() > 50, "{}", cuts.len());
    println!("power cuts of a replica in the making: {} steps, {} states", ops.len(), cuts.len());
}
