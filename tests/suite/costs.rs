//! What each command costs in requests to a far store. Seconds depend on the line, a bill on the prices; these numbers do
//! on neither. The table of README.md is held by these tests.

use super::far::{Distant, Heard, Land};
use pastfs::event::{Observer, Silent, Stop};
use pastfs::format::snapshot::Action;
use pastfs::prune::Unused;
use pastfs::replicate;
use pastfs::storage::{Costs, Deed, Store};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Requests that open a repository on a machine that has opened it before: the list of configs, and a look at the slot.
const OPEN: u64 = 2;
/// The lists of notes, snapshots and segments.
const LISTS: u64 = 3;

/// Since another moment.
fn since(before: Costs, now: Costs) -> u64 {
    now.requests() - before.requests()
}

fn run(line: &str) {
    let ran = Command::new("bash").arg("-c").arg(format!("set -eo pipefail; {line}")).output().unwrap();
    assert!(ran.status.success(), "{line}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// A backup that found nothing new. Folders above the source are part of a snapshot, and other tests make theirs in those:
/// then it is made again, a while later, as what changed within two seconds before is looked at anew.
fn unchanged(land: &Land, host: &str) -> Costs {
    let mut tries = (0..60).map(|n| {
        std::thread::sleep(Duration::from_millis(if n == 0 { 0 } else { 500 }));
        land.backup(host)
    });
    tries
        .find(|costs| costs.of("packs", Deed::Put) + costs.of("packs", Deed::Look) == 0)
        .expect("a moment in which nothing changes")
}

#[test]
fn a_backup_of_nothing_new_costs_12_requests_whatever_the_number_of_snapshots() {
    let land = Land::new("unchanged", Duration::ZERO);
    land.fill(300, 10, 2000);
    let first = land.backup("ana");
    // Two packs, of data and of trees, their segment, and an opening that fetches slot and config.
    assert_eq!((first.of("packs", Deed::Put), first.of("index", Deed::Put)), (2, 1), "{}", first.words());
    assert!(first.requests() <= 12 + 3 + 4, "{}: {}", first.requests(), first.words());
    for _ in 0..6 {
        let again = unchanged(&land, "ana");
        assert!(again.requests() <= 12, "{}: {}", again.requests(), again.words());
        assert_eq!((again.received() < 10_000, again.of("packs", Deed::Range)), (true, 0));
    }
    // On a machine whose cache is new, what there is has to be learned once.
    fs::rename(land.cache("ana"), land.cache("lost")).unwrap();
    land.backup("ana");
    let again = unchanged(&land, "ana");
    assert!(again.requests() <= 12, "{}: {}", again.requests(), again.words());
}

#[test]
fn a_backup_of_nothing_new_costs_12_requests_however_many_pages_of_snapshots_there_are() {
    let mut land = Land::new("pages", Duration::ZERO);
    // As if there were 3,000 of them, and 1,000 in each page of a list.
    land.page = 8;
    land.fill(60, 3, 2000);
    land.backup("ana");
    land.backup("ben");
    for _ in 0..12 {
        unchanged(&land, "ana");
        unchanged(&land, "ben");
    }
    let again = unchanged(&land, "ana");
    assert!(again.requests() <= 12, "{}: {}", again.requests(), again.words());
    assert_eq!(again.of("snapshots", Deed::List), 0, "{}", again.words());
    // A parent that somebody deleted is looked for in vain; then all are listed, and it is told.
    let newest = land.newest(&land.open("cid")).id;
    fs::remove_file(land.dir.join("repository/snapshots").join(newest.to_string())).unwrap();
    let heard = Arc::new(Heard::default());
    let after = land.backup_told("ana", heard.clone());
    assert!(after.of("snapshots", Deed::List) >= 3, "{}", after.words());
    assert!(heard.0.lock().iter().any(|w| w.contains("vanished from")), "{:?}", heard.0.lock());
    // What was forgotten is no parent, whoever has said so.
    let newest = land.newest(&land.open("cid")).id;
    land.open("cid").add_note(Action::Forget, &[newest], &[]).unwrap();
    let after = land.backup("ana");
    let repository = land.open("cid");
    assert_ne!(land.newest(&repository).manifest.parent, Some(newest));
    assert!(land.newest(&repository).manifest.parent.is_some(), "{}", after.words());
}

#[test]
fn a_replication_that_finds_nothing_new_costs_12_requests_and_writes_nothing() {
    let land = Land::new("replicated", Duration::ZERO);
    land.fill(60, 3, 2000);
    land.backup("ana");
    let target = Distant::new(&land.dir.join("replica"), Duration::ZERO);
    let replicate = |copied: usize| {
        let source = land.open("ana");
        let store: Arc<dyn Store> = target.clone();
        let observer: Arc<dyn Observer> = Arc::new(Silent);
        target.asked.lock().clear();
        let options = replicate::Options { forget: true, ..replicate::Options::default() };
        let (_, report) = replicate::run(&source, &store, &options, &observer, &Stop::new()).unwrap();
        assert_eq!(report.copied.len(), copied);
        let asked = target.asked.lock().clone();
        (source.costs(), asked)
    };
    replicate(1);
    let (here, there) = replicate(0);
    println!("nothing new: {} here, {} there: {there:?}", here.words(), there.len());
    assert!(here.requests() + there.len() as u64 <= 12, "{}; {there:?}", here.words());
    assert!(there.iter().all(|line| !line.starts_with("put") && !line.starts_with("delete")), "{there:?}");
    // A word on a snapshot is something new.
    let repository = land.open("ana");
    let id = land.newest(&repository).id;
    repository.add_note(Action::Tag, &[id], &[b"kept".to_vec()]).unwrap();
    assert!(replicate(0).1.iter().any(|line| line.starts_with("put notes/")));
    assert!(replicate(0).1.iter().all(|line| !line.starts_with("put")));
    repository.add_note(Action::Forget, &[id], &[]).unwrap();
    assert!(replicate(0).1.iter().any(|line| line.starts_with("put notes/")));
    land.backup("ana");
    replicate(1);
}

#[test]
fn what_a_prune_moves_comes_in_long_runs() {
    let land = Land::new("moved", Duration::ZERO);
    // Three packs, of which every second file goes.
    land.fill(6000, 60, 16_000);
    land.backup("ana");
    let first = land.newest(&land.open("ana")).id;
    for n in (0..6000).step_by(2) {
        fs::remove_file(land.source().join(format!("d{:04}/f{n:06}", n % 60))).unwrap();
    }
    super::scene::let_files_settle();
    land.backup("ana");
    land.open("ana").add_note(Action::Forget, &[first], &[]).unwrap();
    // Packs are older than a list when it is of a later second. One run deletes the forgotten manifest, and one of the two moves.
    let [mut ranges, mut puts] = [0, 0];
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(1100));
        let costs = land.prune_by("ana", 0, Unused::Bytes(0));
        println!("moved: {}", costs.words());
        ranges += costs.of("packs", Deed::Range);
        puts += costs.of("packs", Deed::Put);
    }
    assert!(puts >= 2, "it moves");
    assert!(ranges <= 50, "of some 200 frames: {ranges}");
    let repository = land.open("ben");
    let out = land.restore(&repository, "");
    run(&format!("diff -r '{}' '{}'", land.source().display(), out.display()));
}

#[test]
fn what_is_counted_is_what_s3_is_asked() {
    let (scene, proxy) = super::remote_faults::scene("counted");
    super::scene::fill(&scene.source(), 40, 3000, 1);
    super::scene::let_files_settle();
    let backup = || {
        proxy.forget_asked();
        let told = scene.backup(&[]);
        let counted = told["store"]["requests"].as_u64().unwrap();
        let asked = proxy.asked();
        assert_eq!(asked.requests(), counted, "{asked:?} {}", told["store"]);
        (counted, told["store"].clone())
    };
    backup();
    let mut tries = (0..40).map(|_| {
        std::thread::sleep(Duration::from_millis(100));
        backup()
    });
    // What changed within 2 seconds before the last one, as a folder above may, is read again, and its pack looked for.
    let (requests, store) = tries.find(|(_, s)| s["packs"].is_null()).expect("nothing changes");
    assert!(requests <= 12, "{requests}: {store}");
}

#[test]
fn what_other_hosts_add_costs_a_backup_of_nothing_new_nothing_and_is_known_before_anything_is_stored() {
    let land = Land::new("hosts", Duration::ZERO);
    land.fill(60, 3, 2000);
    land.backup("ana");
    for n in 0..12 {
        let host = format!("host-{n}");
        fs::write(land.source().join("d0001").join(&host), host.repeat(100)).unwrap();
        land.backup(&host);
    }
    super::scene::let_files_settle();
    // What the others have stored is there, and is not stored again, though nothing of it was known a moment ago.
    let changed = land.backup("ana");
    assert_eq!(changed.of("index", Deed::Get), 12, "{}", changed.words());
    assert_eq!(changed.of("packs", Deed::Put), 1, "trees alone: {}", changed.words());
    for n in 0..5 {
        // The same folders, but for other hosts: their manifests and segments are new to ana.
        land.backup(&format!("late-{n}"));
    }
    let again = unchanged(&land, "ana");
    assert!(again.requests() <= 12, "{}: {}", again.requests(), again.words());
}

#[test]
fn a_prune_that_finds_nothing_to_do_costs_few_requests() {
    let land = Land::new("pruned", Duration::ZERO);
    land.fill(300, 10, 2000);
    for _ in 0..3 {
        land.backup("ana");
    }
    let costs = land.prune("ana");
    println!("prune: {}: {}", costs.requests(), costs.words());
    assert!(costs.requests() <= 24, "{}: {}", costs.requests(), costs.words());
    assert_eq!(costs.of("packs", Deed::Range), 1, "its trees are read from the store, at once");
}

/// All files of the pieces that a machine keeps.
fn pieces(cache: &Path) -> Vec<PathBuf> {
    let found = Command::new("find").arg(cache).args(["-path", "*/pieces/*", "-type", "f"]).output().unwrap();
    String::from_utf8(found.stdout).unwrap().lines().map(PathBuf::from).collect()
}

#[test]
fn a_damaged_copy_is_as_if_it_were_not_there_and_is_replaced() {
    let land = Land::new("damaged", Duration::ZERO);
    land.fill(200, 4, 3000);
    land.backup("ana");
    let compare = || {
        let heard = Arc::new(Heard::default());
        let repository = land.open_told("ben", heard.clone());
        drop(repository);
        let shown = land.mount("ben");
        let before = shown.repository.costs();
        run(&format!("diff -r '{}' '{}'", land.source().display(), shown.source.display()));
        assert!(heard.0.lock().is_empty(), "{:?}", heard.0.lock());
        since(before, shown.repository.costs())
    };
    assert!(compare() > 0);
    assert_eq!(compare(), 0, "all of it is kept");
    let kept = pieces(&land.cache("ben"));
    assert!(kept.len() >= 2, "{kept:?}");
    for file in &kept {
        let mut bytes = fs::read(file).unwrap();
        let n = bytes.len();
        bytes.iter_mut().skip(n / 3).step_by(n / 7).for_each(|b| *b ^= 1);
        fs::write(file, bytes).unwrap();
    }
    assert!(compare() > 0);
    assert_eq!(compare(), 0, "what was damaged was replaced");
    for file in pieces(&land.cache("ben")) {
        fs::OpenOptions::new().write(true).open(file).unwrap().set_len(100).unwrap();
    }
    assert!(compare() > 0);
    assert_eq!(compare(), 0);
    // What opens the repository is kept as well, and may be damaged as well.
    let opening =
        Command::new("find").arg(land.cache("ben")).args(["-path", "*/opening-*/*"]).output().unwrap();
    for file in String::from_utf8(opening.stdout).unwrap().lines() {
        fs::write(file, b"rubbish").unwrap();
    }
    assert_eq!(compare(), 0);
}

#[test]
fn where_nothing_can_be_kept_all_is_read_all_the_same_with_one_warning() {
    let land = Land::new("unkept", Duration::ZERO);
    land.fill(100, 4, 3000);
    land.backup("ana");
    drop(land.open("ben").snapshots().unwrap());
    let found = Command::new("find").arg(land.cache("ben")).args(["-name", "seen-*"]).output().unwrap();
    let seen = PathBuf::from(String::from_utf8(found.stdout).unwrap().trim());
    fs::write(seen.with_file_name("pieces"), b"a file in the place of the folder").unwrap();
    let heard = Arc::new(Heard::default());
    let repository = land.open_told("ben", heard.clone());
    for _ in 0..2 {
        let out = land.restore(&repository, "");
        run(&format!("diff -r '{}' '{}'", land.source().display(), out.display()));
    }
    let heard = heard.0.lock();
    assert!(heard.len() == 1 && heard[0].starts_with("nothing that is read is kept"), "{heard:?}");
}

#[test]
fn listing_snapshots_and_mounting_cost_5_requests() {
    let land = Land::new("snapshots", Duration::ZERO);
    land.fill(50, 5, 2000);
    for _ in 0..5 {
        land.backup("ana");
    }
    let repository = land.open("ana");
    assert_eq!(repository.snapshots().unwrap().len(), 5);
    assert_eq!(repository.costs().requests(), OPEN + LISTS, "{}", repository.costs().words());
    let shown = land.mount("ana");
    let costs = shown.repository.costs();
    assert!(costs.requests() <= OPEN + LISTS, "{}", costs.words());
}

#[test]
fn browsing_costs_few_requests_the_first_time_and_none_again() {
    let land = Land::new("browsed", Duration::ZERO);
    land.fill(3000, 100, 100);
    land.backup("ana");
    let walk = |machine: &str| {
        let shown = land.mount(machine);
        let before = shown.repository.costs();
        run(&format!("ls -lR '{}' | tail -1", shown.source.display()));
        let costs = shown.repository.costs();
        (since(before, costs), costs.words())
    };
    let (cold, words) = walk("ben");
    assert!((1..=3).contains(&cold), "{cold}: {words}");
    for _ in 0..2 {
        let (warm, words) = walk("ben");
        assert_eq!(warm, 0, "{words}");
    }
    // Who has written the trees has them.
    let (own, words) = walk("ana");
    assert_eq!(own, 0, "{words}");
}

#[test]
fn a_file_costs_one_request_and_one_that_was_read_none() {
    let land = Land::new("one-file", Duration::ZERO);
    land.fill(2000, 20, 5000);
    land.backup("ana");
    let repository = land.open("ana");
    let before = repository.costs();
    let out = land.restore(&repository, "d0007/f000107");
    assert!(fs::read(out.join("f000107")).unwrap() == fs::read(land.source().join("d0007/f000107")).unwrap());
    let costs = repository.costs();
    assert!(since(before, costs) <= LISTS + 1, "{}", costs.words());
    drop(repository);
    // In a mount what was read is kept, also for the next one.
    let read = || {
        let shown = land.mount("ben");
        let before = shown.repository.costs();
        fs::read(shown.source.join("d0003/f000103")).unwrap();
        (since(before, shown.repository.costs()), shown.repository.costs().words())
    };
    let (first, words) = read();
    assert!((1..=3).contains(&first), "{words}");
    assert_eq!(read().0, 0);
}

#[test]
fn copying_and_restoring_cost_a_request_for_some_megabytes() {
    let land = Land::new("copied", Duration::ZERO);
    land.fill(3000, 100, 10_000);
    land.backup("ana");
    let shown = land.mount("ben");
    let before = shown.repository.costs();
    let out = land.dir.join("out/copy");
    run(&format!("cp -r '{}' '{}'", shown.source.display(), out.display()));
    run(&format!("diff -r '{}' '{}'", land.source().display(), out.display()));
    let costs = shown.repository.costs();
    assert!(since(before, costs) <= 30, "{}: {}", since(before, costs), costs.words());
    // Nothing is fetched twice.
    assert!(costs.received() < 45_000_000, "{}", costs.json());
    drop(shown);
    let repository = land.open("cid");
    let out = land.restore(&repository, "");
    run(&format!("diff -r '{}' '{}'", land.source().display(), out.display()));
    let costs = repository.costs();
    assert!(costs.of("packs", Deed::Range) <= 30 && costs.received() < 45_000_000, "{}", costs.json());
}

#[test]
#[ignore = "measures; for people"]
fn what_takes_how_long_over_20_milliseconds() {
    let land = Land::new("timed", Duration::from_millis(20));
    land.fill(5000, 200, 20_000);
    let time = |what: &str, work: &mut dyn FnMut() -> Costs| {
        let began = Instant::now();
        let costs = work();
        let took = began.elapsed().as_secs_f64();
        println!("{what:28} {took:7.2} s {:6} requests  {}", costs.requests(), costs.words());
    };
    time("backup", &mut || land.backup("ana"));
    time("no-change backup", &mut || land.backup("ana"));
    fs::write(land.source().join("d0003/new"), b"new").unwrap();
    time("backup of one new file", &mut || land.backup("ana"));
    for (what, line) in [("find", "find"), ("ls -lR", "ls -lR")] {
        for cache in ["ben", "ben"] {
            time(&format!("{what}, cache {cache}"), &mut || {
                let shown = land.mount(cache);
                run(&format!("{line} '{}' > /dev/null", shown.source.display()));
                shown.repository.costs()
            });
        }
    }
    for n in 0..2 {
        time(&format!("cp -r, number {n}"), &mut || {
            let shown = land.mount("cid");
            let out = land.dir.join(format!("out/copy-{n}"));
            run(&format!("cp -r '{}' '{}'", shown.source.display(), out.display()));
            shown.repository.costs()
        });
    }
    time("restore", &mut || {
        let repository = land.open("dan");
        land.restore(&repository, "");
        repository.costs()
    });
}

#[test]
#[ignore = "measures beside restic, which must be installed; for people"]
fn what_takes_how_long_on_s3_over_20_milliseconds() {
    let (scene, proxy) = super::remote_faults::scene("timed");
    super::scene::fill(&scene.source(), 5000, 20_000, 1);
    super::scene::let_files_settle();
    proxy.set(|p| p.round_trip = Duration::from_millis(20));
    let time = |what: &str, line: &str| {
        proxy.forget_asked();
        let began = Instant::now();
        scene.shell(line).ok();
        let took = began.elapsed().as_secs_f64();
        println!("{what:26} {took:7.2} s {:6} requests", proxy.asked().requests());
    };
    let (source, mnt) = (scene.source(), scene.mnt());
    let (source, mnt) = (source.display(), mnt.display());
    let restic = format!(
        "RESTIC_PASSWORD=a RESTIC_CACHE_DIR={dir}/restic-cache restic -q -r s3:{}/{}/restic-of-timed",
        proxy.endpoint(),
        super::servers::s3().bucket,
        dir = scene.dir.display(),
    );
    scene.shell(&format!("{restic} init")).ok();
    for n in ["", ", nothing new"] {
        time(&format!("backup{n}"), &format!("$0 backup -q {source}"));
        time(&format!("restic backup{n}"), &format!("{restic} backup {source}"));
    }
    time("restore", &format!("PASTFS_CACHE=c1 $0 restore -q latest:{source} --target r1"));
    time("restic restore", &format!("RESTIC_CACHE_DIR=c2 {restic} restore latest --target r2"));
    for n in ["", ", again"] {
        time(
            &format!("mount, find{n}"),
            &format!("$0 mount {mnt}; find {mnt}/latest/ > found; $0 umount {mnt}"),
        );
    }
    time("mount, cp -r", &format!("$0 mount {mnt}; cp -r {mnt}/latest{source} o1; $0 umount {mnt}"));
    time(
        "restic mount, cp -r",
        &format!(
            "({restic} mount {mnt} > log 2>&1 &); until mountpoint -q {mnt}; do sleep 0.1; done; \
             cp -r {mnt}/snapshots/latest{source} o2; umount -l {mnt}"
        ),
    );
    scene.shell(&format!("diff -r {source} o1; diff -r {source} o2; diff -r {source} r1")).ok();
}
