//! Restore: what was asked for, and nothing outside the target.

use super::scene::{Draw, PATIENCE, Scene, fill, same_trees};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn tree(scene: &Scene) {
    for name in ["a/1.txt", "a/2.bin", "b/3.txt", "b/deep/4.txt"] {
        let path = scene.source().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    scene.backup(&[]);
}

fn files_below(dir: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path.strip_prefix(dir).unwrap().display().to_string());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn parts_can_be_chosen_and_a_dry_run_writes_nothing() {
    let scene = Scene::new("parts");
    tree(&scene);
    let what = format!("latest:{}", scene.source().display());
    let dry = scene.run(["restore", &what, "--target", "out", "--dry-run", "-v"]).ok();
    assert!(!scene.path("out").exists());
    assert!(format!("{}{}", dry.text(), dry.err).contains("4 files"), "{}", dry.text());
    scene.run(["restore", "-q", &what, "--target", "txt", "--include", "*.txt"]).ok();
    assert_eq!(files_below(&scene.path("txt")), ["a/1.txt", "b/3.txt", "b/deep/4.txt"]);
    scene.run(["restore", "-q", &what, "--target", "not", "--exclude", "deep", "--exclude", "*.bin"]).ok();
    assert_eq!(files_below(&scene.path("not")), ["a/1.txt", "b/3.txt"]);
    scene.run(["restore", "-q", &format!("{what}/a/1.txt"), "--target", "one"]).ok();
    assert_eq!(files_below(&scene.path("one")), ["1.txt"]);
    scene.run(["restore", "-q", "latest", "--target", "all"]).ok();
    same_trees(&scene.source(), &scene.path("all").join(scene.source().strip_prefix("/").unwrap()));
}

#[test]
fn what_is_there_is_replaced_where_it_differs_and_kept_where_it_is_equal() {
    let scene = Scene::new("again");
    fill(&scene.source(), 50, 2000, 3);
    scene.backup(&[]);
    let what = format!("latest:{}", scene.source().display());
    scene.run(["restore", "-q", &what, "--target", "out"]).ok();
    fs::write(scene.path("out/3/3"), b"spoiled").unwrap();
    fs::remove_file(scene.path("out/4/4")).unwrap();
    fs::write(scene.path("out/6/beside"), b"stays").unwrap();
    let report = scene.run(["restore", "--json", &what, "--target", "out"]).ok().json();
    assert_eq!(report["skipped"], 48, "{report}");
    assert_eq!(fs::read(scene.path("out/6/beside")).unwrap(), b"stays");
    fs::remove_file(scene.path("out/6/beside")).unwrap();
    scene.run(["restore", "-q", &what, "--target", "out"]).ok();
    same_trees(&scene.source(), &scene.path("out"));
    // A folder in the place of a file may hold what nobody else has: it is never deleted for one.
    fs::remove_file(scene.path("out/5/5")).unwrap();
    fs::create_dir(scene.path("out/5/5")).unwrap();
    fs::write(scene.path("out/5/5/precious"), b"p").unwrap();
    scene.run(["restore", "-q", &what, "--target", "out"]).code(3).says("5/5");
    assert_eq!(fs::read(scene.path("out/5/5/precious")).unwrap(), b"p");
}

#[test]
fn nothing_outside_the_target_is_written() {
    let scene = Scene::new("outside");
    tree(&scene);
    let outside = scene.path("outside");
    fs::create_dir_all(outside.join("deep")).unwrap();
    fs::write(outside.join("precious"), b"precious").unwrap();
    fs::create_dir_all(scene.path("out/b")).unwrap();
    // Planted: links for a folder, for a file, and for a folder further down.
    symlink(&outside, scene.path("out/a")).unwrap();
    symlink(outside.join("precious"), scene.path("out/b/3.txt")).unwrap();
    symlink(outside.join("deep"), scene.path("out/b/deep")).unwrap();
    scene
        .run([
            "restore".into(),
            "-q".into(),
            format!("latest:{}", scene.source().display()),
            "--target=out".into(),
        ])
        .orderly();
    assert_eq!(files_below(&outside), ["precious"]);
    assert_eq!(fs::read(outside.join("precious")).unwrap(), b"precious");
}

#[test]
fn what_a_backup_leaves_out_by_itself_is_not_deleted_for_that() {
    let scene = Scene::bare("spared");
    // Repository and cache lie in what is saved.
    let (repository, cache) = (scene.path("all/repository"), scene.path("all/cache"));
    let run = |args: &[&str]| {
        let mut command = scene.command(args);
        command.env("PASTFS_REPOSITORY", &repository).env("PASTFS_CACHE", &cache);
        scene.run_command(command)
    };
    fs::create_dir_all(scene.path("all/disk")).unwrap();
    fs::write(scene.path("all/kept"), b"kept").unwrap();
    let disk = scene.path("all/disk/precious");
    let is_root = super::scene::is_root("the part of the test that mounts a disk");
    if is_root {
        scene.shell("mount -t tmpfs -o size=1m none all/disk").ok();
        fs::write(&disk, b"precious").unwrap();
    }
    run(&["init", "-q"]).ok();
    run(&["backup", "-q", "--one-file-system", "all"]).ok();
    fs::write(scene.path("all/extra"), b"").unwrap();
    let objects = files_below(&repository);
    let what = format!("latest:{}", scene.path("all").display());
    let restored = run(&["restore", &what, "--target", "all", "--delete"]);
    let survived = is_root.then(|| fs::read(&disk));
    if is_root {
        scene.shell("umount all/disk").ok();
    }
    restored.ok();
    assert!(!scene.path("all/extra").exists() && scene.path("all/kept").exists());
    assert_eq!(files_below(&repository), objects, "the repository was deleted");
    assert!(cache.read_dir().unwrap().count() > 0, "the cache was deleted");
    assert!(survived.is_none_or(|read| read.is_ok_and(|bytes| bytes == b"precious")));
    run(&["check", "--read-data"]).ok();
    for inside in ["all/repository", "all/repository/packs/new", "all/../all/repository/tmp"] {
        run(&["restore", &what, "--target", inside]).code(2).says("repository");
    }
}

#[test]
fn a_restore_that_is_killed_leaves_no_other_names_and_the_next_one_goes_on() {
    let scene = Scene::new("killed");
    fill(&scene.source(), 400, 20_000, 11);
    fs::write(scene.source().join("disk"), Draw(5).bytes(40 << 20)).unwrap();
    scene.backup(&[]);
    let what = format!("latest:{}", scene.source().display());
    let known: BTreeSet<String> = files_below(&scene.source()).into_iter().collect();
    let draw = &mut Draw(17);
    for round in 0..12 {
        let started = scene.start(scene.command(["restore", "-q", &what, "--target", "out"]));
        std::thread::sleep(Duration::from_millis(20 + draw.next() % 250));
        started.signal(libc::SIGKILL);
        started.wait();
        let there = files_below(&scene.path("out"));
        assert!(there.iter().all(|name| known.contains(name)), "round {round}: {there:?}");
        if round % 4 == 3 {
            let report = scene.run(["restore", "--json", "--verify", &what, "--target", "out"]).ok().json();
            assert_eq!(report["verified"], known.len(), "{report}");
            same_trees(&scene.source(), &scene.path("out"));
            // The next rounds find some of it there and some of it changed.
            fs::write(scene.path("out/disk"), Draw(6).bytes(20 << 20)).unwrap();
            fs::remove_file(scene.path("out/3/3")).unwrap();
        }
    }
}

#[test]
fn what_is_told_in_the_end_is_what_was_done() {
    let scene = Scene::new("told");
    fill(&scene.source(), 50, 2000, 3);
    fs::write(scene.source().join("disk"), Draw(5).bytes(8 << 20)).unwrap();
    scene.backup(&[]);
    let what = format!("latest:{}", scene.source().display());
    let run = |more: &[&str]| {
        let mut args = vec!["restore", "--json", &what, "--target", "out"];
        args.extend(more);
        scene.run(args).ok().json()
    };
    let first = run(&["--verify"]);
    let files = first["files"].as_u64().unwrap();
    assert_eq!((&first["verified"], &first["bytes_written"]), (&first["files"], &first["bytes"]), "{first}");
    let disk = fs::OpenOptions::new().write(true).open(scene.path("out/disk")).unwrap();
    disk.write_all_at(b"spoiled", 3 << 20).unwrap();
    fs::write(scene.path("out/3/extra"), b"x").unwrap();
    fs::create_dir_all(scene.path("out/3/deep/er")).unwrap();
    let dry = run(&["--delete", "--dry-run"]);
    assert_eq!(
        (&dry["rewritten"], &dry["deleted"], &dry["bytes_written"]),
        (&1.into(), &3.into(), &0.into())
    );
    assert!(scene.path("out/3/extra").exists());
    let second = run(&["--delete"]);
    assert_eq!((&second["rewritten"], &second["deleted"]), (&1.into(), &3.into()), "{second}");
    assert_eq!(second["skipped"], files - 1);
    assert!(second["bytes_written"].as_u64().unwrap() <= 1 << 20, "{second}");
    same_trees(&scene.source(), &scene.path("out"));
    fs::write(scene.path("out/3/3"), b"mine").unwrap();
    assert_eq!(run(&["--overwrite", "never"])["kept"], files);
    assert_eq!(run(&["--checksum"])["rewritten"], 0);
    same_trees(&scene.source(), &scene.path("out"));
    scene.run(["restore", &what, "-t", "out", "--verify", "--overwrite", "never"]).code(2).says("--verify");
}

#[test]
fn damage_ends_with_4_what_cannot_be_written_with_3_and_all_else_is_there() {
    let scene = Scene::new("codes");
    fill(&scene.source(), 20, 3000, 3);
    scene.backup(&[]);
    let what = format!("latest:{}", scene.source().display());
    // The data of a second backup, in a pack of its own, is lost.
    fs::write(scene.source().join("lost"), Draw(9).bytes(300_000)).unwrap();
    let packs = |scene: &Scene| -> BTreeSet<String> {
        files_below(&scene.repository()).into_iter().filter(|n| n.starts_with("packs/")).collect()
    };
    let before = packs(&scene);
    scene.backup(&[]);
    let biggest = packs(&scene)
        .difference(&before)
        .max_by_key(|n| fs::metadata(scene.repository().join(n)).unwrap().len())
        .cloned();
    fs::remove_file(scene.repository().join(biggest.unwrap())).unwrap();
    scene.run(["restore", "-q", &what, "--target", "out"]).code(4).says("lost");
    assert!(!scene.path("out/lost").exists());
    fs::remove_file(scene.source().join("lost")).unwrap();
    assert_eq!(files_below(&scene.path("out")), files_below(&scene.source()));
    fs::remove_file(scene.path("out/5/5")).unwrap();
    fs::create_dir(scene.path("out/5/5")).unwrap();
    scene.run(["restore", "-q", &what, "--target", "out", "--exclude", "lost"]).code(3).says("5/5");
    scene.run(["restore", "-q", &what, "--target", "out"]).code(4).says("5/5").says("lost");
}

/// Somebody else in the target: while `work` goes on, folders become symlinks to `outside` and folders again, at random.
fn with_swapping(target: &Path, aside: &Path, outside: &Path, seed: u64, work: impl FnOnce()) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let draw = &mut Draw(seed);
            while !done.load(Ordering::Relaxed) {
                let path = target.join(SWAPPED[draw.next() as usize % SWAPPED.len()]);
                if fs::rename(&path, aside).is_err() {
                    continue;
                }
                let _ = symlink(outside, &path);
                for _ in 0..draw.next() % 3000 {
                    std::hint::spin_loop();
                }
                let _ = fs::remove_file(&path);
                if fs::rename(aside, &path).is_err() {
                    // The restore has made a new one meanwhile.
                    let _ = fs::remove_dir_all(aside);
                }
            }
        });
        work();
        done.store(true, Ordering::Relaxed);
    });
}

const SWAPPED: [&str; 4] = ["a", "a/b", "a/b/c", "d"];

/// Whether the folder outside is as it was made.
fn is_untouched(outside: &Path) -> bool {
    files_below(outside) == ["0", "precious/1"]
        && fs::read(outside.join("0")).unwrap() == b"precious"
        && fs::metadata(outside.join("0")).unwrap().permissions().mode() & 0o7777 == 0o640
        && fs::metadata(outside).unwrap().permissions().mode() & 0o7777 == 0o750
}

fn outside_of(scene: &Scene) -> PathBuf {
    let outside = scene.path("outside");
    fs::create_dir_all(outside.join("precious")).unwrap();
    // Names that the snapshot has as well, and one that --delete would be after.
    fs::write(outside.join("0"), b"precious").unwrap();
    fs::write(outside.join("precious/1"), b"precious").unwrap();
    fs::set_permissions(outside.join("0"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o750)).unwrap();
    outside
}

#[test]
fn folders_that_become_symlinks_during_a_restore_lead_nowhere() {
    let scene = Scene::new("swapped");
    for folder in SWAPPED {
        fs::create_dir_all(scene.source().join(folder)).unwrap();
        for n in 0..150 {
            fs::write(scene.source().join(folder).join(n.to_string()), n.to_string().repeat(n)).unwrap();
        }
        fs::hard_link(scene.source().join("a/1"), scene.source().join(folder).join("hard")).unwrap();
    }
    scene.backup(&[]);
    let what = format!("latest:{}", scene.source().display());
    let outside = outside_of(&scene);
    for round in 0..12 {
        let more: &[&str] = match round % 4 {
            0 => &[],
            1 => &["--delete"],
            2 => &["--checksum", "--delete", "--verify"],
            _ => &["--checksum"],
        };
        with_swapping(&scene.path("out"), &scene.path("aside"), &outside, round, || {
            for _ in 0..3 {
                let mut args = vec!["restore", "-q", &what, "--target", "out"];
                args.extend(more);
                scene.run(args).orderly();
            }
        });
        assert!(is_untouched(&outside), "round {round}: {:?}", files_below(&outside));
        if round % 3 == 2 {
            let _ = fs::remove_dir_all(scene.path("out"));
        }
    }
    // Left alone, the next restore makes it whole.
    let _ = fs::remove_dir_all(scene.path("aside"));
    scene.run(["restore", "-q", &what, "--target", "out", "--delete"]).ok();
    same_trees(&scene.source(), &scene.path("out"));
}

/// The canary of the test above: who writes by path is led astray by the same swapping.
#[test]
fn who_writes_by_path_would_be_led_outside() {
    let scene = Scene::bare("canary");
    let outside = outside_of(&scene);
    let target = scene.path("out");
    for folder in SWAPPED {
        fs::create_dir_all(target.join(folder)).unwrap();
    }
    let began = Instant::now();
    with_swapping(&target, &scene.path("aside"), &outside, 1, || {
        while is_untouched(&outside) && began.elapsed() < PATIENCE {
            for folder in SWAPPED {
                let _ = fs::create_dir_all(target.join(folder));
                let _ = fs::write(target.join(folder).join("0"), b"restored");
            }
        }
    });
    assert!(!is_untouched(&outside), "the swapping is too slow to prove anything");
}
