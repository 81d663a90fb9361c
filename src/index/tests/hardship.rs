//! Kills, damage, deletion, and others at work at the same time.

use super::*;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

#[test]
fn readers_see_no_wrong_answer_while_two_others_apply_and_compact() {
    let temp = Temp::new();
    let stop = AtomicBool::new(false);
    let done = AtomicUsize::new(0);
    let base: Store = (0..20).map(|n| (segment(n), whole(n, n * 200..n * 200 + 200))).collect();
    sync(&temp.open(), &base);
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                let index = temp.open();
                sync(&index, &base);
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    n = (n + 37) % 4000;
                    let places = index.places(&chunk(n)).unwrap();
                    assert_eq!(places.len(), 1);
                    assert_eq!(places[0].pack.id, pack(n / 200));
                    assert_eq!(index.known(&chunk(n)).unwrap(), Some(pack(n / 200)));
                    if n % 50 == 0 {
                        index.catch_up().unwrap();
                    }
                }
            });
        }
        for who in 0..2u64 {
            let (base, temp, stop, done) = (&base, &temp, &stop, &done);
            threads.spawn(move || {
                let index = temp.open();
                let mut store = base.clone();
                for round in 0..25 {
                    // Half of it is what the other one applies as well.
                    let n = 1000 + round * 2 + if round % 2 == 0 { 0 } else { who };
                    store.insert(segment(n), whole(n, n * 3000..n * 3000 + 3000));
                    sync(&index, &store);
                    assert_eq!(index.known(&chunk(n * 3000 + 2999)).unwrap(), Some(pack(n)));
                }
                compare(&index, &store, 100);
                if done.fetch_add(1, Ordering::SeqCst) == 1 {
                    stop.store(true, Ordering::Relaxed);
                }
            });
        }
    });
    assert!(fs::read_dir(temp.0.join("readers")).unwrap().next().is_none());
}

/// Not a test of its own: the victim of the next one.
#[test]
fn victim_of_kills() {
    let Ok(dir) = std::env::var("PASTFS_TEST_INDEX_VICTIM") else { return };
    let index = Index::open(&PathBuf::from(dir)).unwrap();
    loop {
        let from = index.segments().unwrap().len() as u64;
        let new = (from..from + 9).map(|n| whole(n, n * 400..n * 400 + 400)).collect();
        index.apply(new, &[], vec![([from as u8; 16], vec![1])]).unwrap();
    }
}

#[test]
fn a_kill_at_any_moment_leaves_whole_segments() {
    let temp = Temp::new();
    let mut dice = Dice(11);
    let mut last = 0;
    let watcher = temp.open();
    // On a busy machine many die before they have done anything.
    let mut kills = 0;
    while kills < 20 || (last == 0 && kills < 400) {
        kills += 1;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["victim_of_kills", "--test-threads=1"])
            .env("PASTFS_TEST_INDEX_VICTIM", &temp.0)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        clock::sleep(Duration::from_millis(30 + dice.roll(150)));
        child.kill().unwrap();
        child.wait().unwrap();
        let index = temp.open();
        let here = index.segments().unwrap();
        let count = here.len() as u64;
        assert!(count >= last && count.is_multiple_of(9), "{last} {count}");
        last = count;
        for n in 0..count {
            assert!(here.contains(&segment(n)));
            for c in [n * 400, n * 400 + 200, n * 400 + 399] {
                assert_eq!(index.known(&chunk(c)).unwrap(), Some(pack(n)));
            }
        }
        // One that was open all the time sees the same.
        let store: Store = (0..count).map(|n| (segment(n), whole(n, n * 400..n * 400 + 400))).collect();
        sync(&watcher, &store);
        for n in (0..count * 400).step_by(101) {
            assert_eq!(watcher.known(&chunk(n)).unwrap(), Some(pack(n / 400)));
        }
    }
    assert!(last > 0);
    drop(watcher);
    let index = temp.open();
    sync(&index, &(0..3).map(|n| (segment(n), whole(n, n * 400..n * 400 + 400))).collect());
    let names = fs::read_dir(&temp.0).unwrap().flatten().map(|e| e.file_name().into_string().unwrap());
    let mut names: Vec<String> = names.map(|n| n.chars().take_while(|c| *c != '-').collect()).collect();
    names.sort();
    assert_eq!(names, ["current", "db", "lock", "readers"]);
    assert_eq!(fs::read_dir(temp.0.join("readers")).unwrap().count(), 1);
}

#[test]
fn damage_to_any_file_gives_no_wrong_answer_and_heals() {
    let mut dice = Dice(5);
    let store: Store = (0..12).map(|n| (segment(n), whole(n, n * 300..n * 300 + 300))).collect();
    let mut emptied = 0;
    for round in 0..60 {
        let temp = Temp::new();
        sync(&temp.open(), &store);
        let db = temp.0.join(fs::read_to_string(temp.0.join("current")).unwrap());
        let mut files: Vec<PathBuf> = fs::read_dir(&db).unwrap().flatten().map(|e| e.path()).collect();
        files.push(temp.0.join("current"));
        files.retain(|f| f.metadata().unwrap().len() > 0 && !f.ends_with("LOCK"));
        files.sort();
        // Most of the time what holds the data.
        let ssts: Vec<PathBuf> =
            files.iter().filter(|f| f.extension().is_some_and(|e| e == "sst")).cloned().collect();
        let from = if round % 3 == 0 { &files } else { &ssts };
        let file = &from[dice.roll(from.len() as u64) as usize];
        let open_before = (round % 2 == 0).then(|| temp.open());
        let mut bytes = fs::read(file).unwrap();
        match dice.roll(4) {
            0 => bytes.truncate(dice.roll(bytes.len() as u64) as usize),
            _ => {
                for _ in 0..1 + dice.roll(30) {
                    let at = dice.roll(bytes.len() as u64) as usize;
                    bytes[at] ^= 1 << dice.roll(8);
                }
            }
        }
        fs::write(file, &bytes).unwrap();
        let index = open_before.unwrap_or_else(|| temp.open());
        for n in (0..3700).step_by(5) {
            if let Ok(places) = index.places(&chunk(n)) {
                assert!(places.len() <= 1);
                for p in &places {
                    assert_eq!((p.pack.id, p.len), (pack(n / 300), 1 + (n % 1000) as u32));
                }
            }
            if let Ok(Some(known)) = index.known(&chunk(n)) {
                assert_eq!(known, pack(n / 300));
            }
        }
        let _ = index.packs();
        emptied += usize::from(index.segments().unwrap().is_empty());
        drop(index);
        let index = temp.open();
        sync(&index, &store);
        // One listing may find the damage, the next heals it.
        let again = (0..3600).any(|n| index.places(&chunk(n)).unwrap().is_empty());
        if again {
            sync(&index, &store);
        }
        compare(&index, &store, 3600);
    }
    assert!(emptied > 10, "{emptied}");
}

#[test]
fn a_cache_that_is_deleted_under_us_is_made_anew() {
    let store: Store = (0..12).map(|n| (segment(n), whole(n, n * 300..n * 300 + 300))).collect();
    let mut more = store.clone();
    more.insert(segment(70), whole(70, 70_000..73_000));
    let temp = Temp::new();
    let (one, two) = (temp.open(), temp.open());
    sync(&one, &store);
    sync(&two, &store);
    fs::remove_dir_all(&temp.0).unwrap();
    // What is open goes on serving.
    assert_eq!(one.known(&chunk(7)).unwrap(), Some(pack(0)));
    // The next who writes makes it anew, with what it has; the rest is told as missing.
    one.apply(vec![more[&segment(70)].clone()], &[], vec![]).unwrap();
    assert_eq!(one.known(&chunk(70_001)).unwrap(), Some(pack(70)));
    assert_eq!(one.known(&chunk(7)).unwrap_err().fault(), Fault::Busy);
    assert!(one.places(&chunk(7)).unwrap().is_empty());
    sync(&one, &more);
    compare(&one, &more, 3600);
    sync(&two, &more);
    compare(&two, &more, 3600);
    compare(&temp.open(), &more, 3600);
}

#[test]
fn two_stores_that_share_a_cache_do_not_mix() {
    let temp = Temp::new();
    let (here, there) = (temp.open(), temp.open());
    let a: Store = (0..12).map(|n| (segment(n), whole(n, n * 300..n * 300 + 300))).collect();
    let b: Store = (20..32).map(|n| (segment(n), whole(n, n * 300..n * 300 + 300))).collect();
    sync(&here, &a);
    sync(&there, &b);
    compare(&here, &a, 9600);
    compare(&there, &b, 9600);
    // One that opens afresh finds both, until it has listed.
    let fresh = temp.open();
    sync(&fresh, &b);
    compare(&fresh, &b, 9600);
    // That removed what `here` counts: it misses it, never mistakes it, and its next listing heals it.
    here.catch_up().unwrap();
    for n in 0..9600 {
        let places = here.places(&chunk(n)).unwrap();
        assert!(places.iter().all(|p| p.pack.id == pack(n / 300) && n < 3600));
    }
    sync(&here, &a);
    compare(&here, &a, 9600);
    compare(&fresh, &b, 9600);
}
