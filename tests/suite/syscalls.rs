//! The operating system fails: call number n of each kind, once or from then on, in the real program with its RocksDB. The
//! faults are strace's; a disk that is really full is here as well.

use super::powercut::record;
use super::scene::{Ran, Scene, fill};
use super::trial::{DEEDS, Deed, View, World, copy_dir};
use pastfs::storage::{Local, Store};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Kinds of calls, and how they fail: what a bad disk, a full one and one that was mounted read-only say.
const FAULTS: &[(&str, &str)] = &[
    ("write", "ENOSPC"),
    ("write", "EIO"),
    ("pwrite64", "EIO"),
    ("fsync", "EIO"),
    ("fdatasync", "EIO"),
    ("renameat2", "ENOSPC"),
    ("rename", "EIO"),
    ("mkdirat,mkdir", "ENOSPC"),
    ("unlinkat,unlink", "EROFS"),
    ("fchmod", "EIO"),
    ("pread64", "EIO"),
    ("getdents64", "EIO"),
    ("fallocate", "ENOSPC"),
];
/// Call numbers that are tried; each thread counts for itself, and few make more.
const CALLS_MAX: usize = 40;
/// The commands that are hit.
const HIT: [&str; 5] = ["first backup", "second backup", "forget", "prune", "prune again"];

struct Before {
    deed: &'static Deed,
    args: Vec<String>,
    repository: PathBuf,
    cache: PathBuf,
    view: View,
}

fn store(repository: &Path) -> Arc<dyn Store> {
    Arc::new(Local::open(repository).unwrap())
}

/// What there is before each deed that is hit.
fn befores(world: &World) -> Vec<Before> {
    let (repository, cache) = (world.dir.join("repository"), world.dir.join("cache"));
    let (mut view, mut all) = (View::default(), Vec::new());
    for deed in DEEDS.iter().take_while(|d| d.damage.is_none()) {
        world.turn(deed.state);
        let args = world.filled(deed, &repository);
        if HIT.contains(&deed.name) {
            let kept = world.fresh("before");
            copy_dir(&repository, &kept.join("repository"));
            copy_dir(&cache, &kept.join("cache"));
            let (args, view) = (args.clone(), view.clone());
            all.push(Before {
                deed,
                args,
                repository: kept.join("repository"),
                cache: kept.join("cache"),
                view,
            });
        }
        world.run(world.program(&args, &repository, &cache)).ok();
        view = world.whole(&store(&repository), &world.fresh("look")).unwrap();
    }
    assert_eq!(all.len(), HIT.len());
    all
}

/// Lets the program run into a fault; `None` where it made fewer calls.
fn hit(world: &World, before: &Before, calls: &str, error: &str, when: &str) -> Option<Result<(), String>> {
    let dir = world.fresh("hit");
    let (repository, cache) = (dir.join("repository"), dir.join("cache"));
    copy_dir(&before.repository, &repository);
    copy_dir(&before.cache, &cache);
    let program = world.program(&before.args, &repository, &cache);
    let log = dir.join("log");
    let ran = world.run(injected(program, calls, error, when, &log));
    // Not where the loader of shared libraries was hit.
    let is_hit = std::fs::read_to_string(&log).unwrap().contains("(INJECTED)") && ran.code != Some(127);
    let judged = is_hit.then(|| judge(world, before, calls, &repository, &cache, &ran));
    std::fs::remove_dir_all(&dir).unwrap();
    judged.map(|j| {
        j.map_err(|e| {
            format!("{}, {calls} {error} {when}: {e}\n{:?} {}", before.deed.name, ran.code, ran.err)
        })
    })
}

fn injected(program: Command, calls: &str, error: &str, when: &str, log: &Path) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "--seccomp-bpf", "-e", &format!("trace={calls}"), "-o"]).arg(log);
    command.arg("-e").arg(format!("inject={calls}:error={error}:when={when}")).arg("--");
    record::as_arguments(&mut command, &program);
    command
}

fn judge(
    world: &World,
    before: &Before,
    calls: &str,
    repository: &Path,
    cache: &Path,
    ran: &Ran,
) -> Result<(), String> {
    let deed = before.deed;
    if ran.code.is_none() || ran.err.contains("panicked") || ran.err.contains("defect of pastfs") {
        return Err("not an orderly end".into());
    }
    if ran.err.contains("not read: ") {
        // The source was hit: a snapshot without what could not be read, and it says so.
        return world.clean(&store(repository), cache);
    }
    // With every write failing there is nothing to say it with.
    let can_speak = calls != "write";
    if ran.code != Some(0) && !ran.err.contains("Error: ") && can_speak {
        return Err("it failed and does not say why".into());
    }
    let view = world.sound(&store(repository), cache, deed.state)?;
    let is_done = (deed.done)(&before.view, &view);
    match (ran.code, is_done) {
        (Some(0), false) => Err(format!("it was told to be done, and is not: {view:?}")),
        (_, false) if view != before.view => Err(format!("neither done nor as before: {view:?}")),
        _ => Ok(()),
    }
}

fn sweep(every: usize) {
    if !record::is_possible() {
        return;
    }
    let world = World::with_copies();
    let tried = AtomicUsize::new(0);
    for before in &befores(&world) {
        world.turn(before.deed.state);
        let mut jobs = Vec::new();
        for (calls, error) in FAULTS {
            for n in 1..=CALLS_MAX {
                jobs.push((calls, error, n));
            }
        }
        // Those that come last of a kind are the rare ones; all kinds begin at another number.
        let jobs: Vec<_> = jobs.into_iter().enumerate().filter(|(i, _)| i.is_multiple_of(every)).collect();
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some((_, (calls, error, n))) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                for when in [format!("{n}"), format!("{n}+")] {
                    let Some(judged) = hit(&world, before, calls, error, &when) else { break };
                    tried.fetch_add(1, Ordering::Relaxed);
                    judged.unwrap_or_else(|e| panic!("{e}"));
                }
            }
        };
        std::thread::scope(|scope| {
            let threads = std::thread::available_parallelism().map_or(2, usize::from);
            for _ in 0..threads {
                scope.spawn(work);
            }
        });
    }
    let tried = tried.into_inner();
    println!("faults of system calls: {tried}");
    assert!(tried > 20, "only {tried} calls were hit");
}

#[test]
fn whichever_system_call_fails_the_program_ends_in_order_and_nothing_is_lost() {
    sweep(11);
}

#[test]
#[ignore = "minutes: every call"]
fn whichever_of_all_system_calls_fails_nothing_is_lost() {
    sweep(1);
}

/// The cache lies on a full disk: at every size the backup works or says what is full, and nothing depends on it.
#[test]
fn a_full_disk_under_the_cache_is_told_and_loses_nothing() {
    if !super::scene::is_root("mounting small disks") {
        return;
    }
    let scene = Scene::new("full-cache");
    fill(&scene.source(), 40, 20_000, 1);
    scene.backup(&[]);
    let disk = scene.path("disk");
    std::fs::create_dir(&disk).unwrap();
    let mut failed = 0;
    for pages in [1, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 2048] {
        let size = format!("size={}k,mode=0700", pages * 4);
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(&disk).status();
        assert!(mounted.unwrap().success(), "no tmpfs");
        std::fs::write(scene.source().join("new"), format!("{pages}")).unwrap();
        let with = |args: &[&str]| {
            let mut command = scene.command(args);
            command.env("PASTFS_CACHE", &disk);
            scene.run_command(command).orderly()
        };
        for args in [
            &["backup", "-q", "source"][..],
            &["snapshots"],
            &["check"],
            &["restore", "-q", "latest", "--target", "out"],
        ] {
            let ran = with(args);
            if ran.code != Some(0) {
                failed += 1;
                let err = ran.err.to_lowercase();
                let is_told = err.contains("space") && err.contains(disk.to_str().unwrap());
                assert!(is_told && err.contains("hint:"), "{size}: {args:?}: {}", ran.err);
            }
        }
        let _ = std::fs::remove_dir_all(scene.path("out"));
        scene.run(["check", "--read-data"]).ok();
        assert!(Command::new("umount").arg(&disk).status().unwrap().success());
    }
    assert!(failed > 0, "no disk was small enough");
    scene.backup(&[]);
    scene.latest_equals_source();
    for snapshot in scene.snapshots() {
        scene.run(["restore", "-q", snapshot["id"].as_str().unwrap(), "--target", "each"]).ok();
        std::fs::remove_dir_all(scene.path("each")).unwrap();
    }
}
