//! Replicas, with the real program: made, kept up, compared, read where the repository fails, and healed from.

use super::scene::{Draw, Scene, differences, fill, let_files_settle, same_trees, soon};
use super::trial::copy_dir;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// Big enough for several packs.
const BIG: usize = 70_000_000;

/// A repository with two snapshots of a source, and a replica of it.
struct Pair {
    scene: Scene,
}

impl Pair {
    fn new(name: &str) -> Self {
        let scene = Scene::new(name);
        fill(&scene.source(), 30, 20_000, 1);
        fs::write(scene.source().join("large"), Draw(2).bytes(400_000)).unwrap();
        let_files_settle();
        scene.backup(&["--tag", "one"]);
        fs::write(scene.source().join("new"), Draw(3).bytes(50_000)).unwrap();
        scene.backup(&["--tag", "two"]);
        let pair = Self { scene };
        pair.copies(&[]);
        pair
    }

    fn replica(&self) -> PathBuf {
        self.scene.path("replica")
    }

    /// What the program says of a replication.
    #[track_caller]
    fn copies(&self, more: &[&str]) -> Value {
        let replica = self.replica();
        let mut args = vec!["replicate", "--json", replica.to_str().unwrap()];
        args.extend(more);
        self.scene.run(args).ok().json()
    }

    /// At the replica, by a machine that knows nothing yet.
    #[track_caller]
    fn there(&self, args: &[&str]) -> super::scene::Ran {
        let mut command = self.scene.command(args);
        command.env("PASTFS_REPOSITORY", self.replica()).env("PASTFS_CACHE", self.scene.path("cache-there"));
        self.scene.run_command(command)
    }

    /// The replica gives back the source as it is, and nothing is wrong with it.
    #[track_caller]
    fn is_whole_there(&self) {
        self.there(&["check", "-q", "--read-data"]).ok();
        let target = self.scene.path("from-replica");
        let _ = fs::remove_dir_all(&target);
        self.there(&["restore", "-q", "latest", "--target", target.to_str().unwrap()]).ok();
        same_trees(&self.scene.source(), &target.join(self.scene.source().strip_prefix("/").unwrap()));
    }
}

/// Files of a repository's folder below one of its own.
fn objects(dir: &Path, below: &str) -> Vec<PathBuf> {
    let (mut open, mut found) = (vec![dir.join(below)], Vec::new());
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { open.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x40;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path, bytes).unwrap();
}

fn largest(mut paths: Vec<PathBuf>) -> PathBuf {
    paths.sort_by_key(|p| fs::metadata(p).unwrap().len());
    paths.pop().unwrap()
}

#[test]
fn a_replica_is_the_same_repository_in_a_second_place() {
    let pair = Pair::new("replica");
    pair.is_whole_there();
    let scene = &pair.scene;
    for folder in ["packs", "snapshots", "keys", "config"] {
        let names = |dir: &Path| -> Vec<String> {
            objects(dir, folder).iter().map(|p| p.strip_prefix(dir).unwrap().display().to_string()).collect()
        };
        assert_eq!(names(&scene.repository()), names(&pair.replica()), "{folder}");
    }
    let segments = |dir: &Path| objects(dir, "index");
    let own = segments(&pair.replica());
    assert!(!own.is_empty());
    assert!(own.iter().all(|p| !scene.repository().join("index").join(p.file_name().unwrap()).exists()));
    let again = pair.copies(&[]);
    assert_eq!((&again["packs_copied"], &again["snapshots_there"]), (&0.into(), &2.into()), "{again}");
    assert_eq!(segments(&pair.replica()), own);
    // Only what is new comes.
    fs::write(scene.source().join("newer"), Draw(4).bytes(10_000)).unwrap();
    scene.backup(&[]);
    let dry = pair.copies(&["--dry-run"]);
    let more = pair.copies(&[]);
    assert_eq!(dry["packs_copied"], more["packs_copied"]);
    assert_eq!(dry["bytes_copied"], more["bytes_copied"]);
    assert_eq!(more["snapshots_copied"].as_array().unwrap().len(), 1);
    pair.is_whole_there();
}

#[test]
fn what_is_said_of_snapshots_follows_and_what_was_forgotten_only_where_asked_for() {
    let pair = Pair::new("replica-notes");
    let scene = &pair.scene;
    let ids: Vec<String> = scene.snapshots().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect();
    scene.run(["tag", "-q", "--add", "kept", "--hold", &ids[1]]).ok();
    scene.run(["forget", "-q", &ids[0]]).ok();
    pair.copies(&[]);
    let listed = |more: &[&str]| -> Vec<Value> {
        pair.there(&[&["snapshots", "--json"], more].concat()).ok().json().as_array().unwrap().clone()
    };
    let there = listed(&[]);
    assert_eq!(there.len(), 2, "what was forgotten here stays there");
    assert_eq!((&there[1]["held"], &there[1]["tags"]), (&true.into(), &serde_json::json!(["kept", "two"])));
    pair.copies(&["--prune"]);
    assert_eq!(listed(&[]).len(), 1);
    assert_eq!(listed(&["--forgotten"]).len(), 1, "its own prune waits for the grace time");
    pair.is_whole_there();
    // And what a replica has forgotten is not brought back to it.
    pair.there(&["tag", "-q", "--release", &ids[1]]).ok();
    pair.there(&["forget", "-q", &ids[1]]).ok();
    pair.there(&["prune", "-q", "--grace", "0"]).ok();
    pair.there(&["prune", "-q", "--grace", "0"]).ok();
    assert_eq!(objects(&pair.replica(), "snapshots").len(), 0);
    assert_eq!(pair.copies(&[])["snapshots_forgotten_there"], 1);
}

#[test]
fn only_chosen_snapshots_are_copied() {
    let scene = Scene::new("replica-chosen");
    for tag in ["a", "b", "c"] {
        fill(&scene.source().join(tag), 3, 5000, tag.as_bytes()[0].into());
        scene.backup(&["--tag", tag, "--host", tag]);
    }
    let count = |args: &[&str]| {
        let ran = scene.run([&["replicate", "--json", "replica"], args].concat()).ok().json();
        ran["snapshots_copied"].as_array().unwrap().len()
    };
    assert_eq!(count(&["--tag", "b"]), 1);
    assert_eq!(count(&["--host", "b"]), 0);
    assert_eq!(count(&["latest"]), 1);
    assert_eq!(count(&[]), 1);
    scene.run(["replicate", "replica", "latest:/etc"]).code(2).says("leave the path out");
}

#[test]
fn another_repository_is_no_replica_and_neither_is_an_empty_disk() {
    let pair = Pair::new("replica-refused");
    let scene = &pair.scene;
    let other = scene.path("other");
    let mut command = scene.command(["init", "-q"]);
    command.env("PASTFS_REPOSITORY", &other);
    scene.run_command(command).ok();
    scene.run(["replicate", "other"]).code(2).says("another repository");
    scene.run(["replicate", "repository"]).code(2).says("is the repository itself");
    fs::create_dir(scene.path("full")).unwrap();
    fs::write(scene.path("full/photo"), "x").unwrap();
    scene.run(["replicate", "full"]).code(2).says("is not empty");
    // The disk of the replica is not mounted: its folder is empty.
    fs::rename(pair.replica(), scene.path("disk")).unwrap();
    fs::create_dir(pair.replica()).unwrap();
    scene.run(["replicate", "replica"]).code(2).says("is the disk mounted?");
    fs::remove_dir_all(pair.replica()).unwrap();
    fs::rename(scene.path("disk"), pair.replica()).unwrap();
    pair.copies(&[]);
    // The disk of the repository is not.
    fs::rename(scene.repository(), scene.path("disk")).unwrap();
    fs::create_dir(scene.repository()).unwrap();
    scene.run(["replicate", "replica", "--prune"]).code(10).says("there is no repository");
    pair.is_whole_there();
}

/// A disk lies in a drawer most of the time, and is plugged in at another place.
#[test]
fn a_disk_that_comes_and_goes_is_brought_up_each_time() {
    let pair = Pair::new("replica-disk");
    let scene = &pair.scene;
    for n in 0..3u64 {
        let drawer = scene.path("drawer");
        fs::rename(pair.replica(), &drawer).unwrap();
        fs::write(scene.source().join(format!("while away {n}")), Draw(20 + n).bytes(9000)).unwrap();
        scene.backup(&["--replica", "replica"]);
        let target = scene.path("drawer-out");
        scene.run(["restore", "-q", "--replica", "replica", "latest", "--target", "drawer-out"]).ok();
        same_trees(&scene.source(), &target.join(scene.source().strip_prefix("/").unwrap()));
        fs::remove_dir_all(target).unwrap();
        fs::rename(&drawer, pair.replica()).unwrap();
        assert_eq!(pair.copies(&[])["snapshots_copied"].as_array().unwrap().len(), 1);
        pair.is_whole_there();
    }
    fs::rename(pair.replica(), scene.path("elsewhere")).unwrap();
    let ran = scene.run(["replicate", "--json", "elsewhere"]).ok().json();
    assert_eq!(ran["snapshots_there"], 5);
}

#[test]
fn a_damaged_pack_is_named_and_left_out_and_keeps_nothing_else() {
    let scene = Scene::new("replica-damage");
    fs::write(scene.source().join("large"), Draw(2).bytes(400_000)).unwrap();
    scene.backup(&[]);
    fs::write(scene.source().join("large"), "small now").unwrap();
    scene.backup(&[]);
    let pack = largest(objects(&scene.repository(), "packs"));
    flip(&pack, 200_000);
    let ran = scene.run(["replicate", "replica"]).code(4);
    let name = pack.file_name().unwrap().to_str().unwrap();
    assert!(ran.text().contains(name) && ran.text().contains("was left out"), "{}", ran.text());
    assert!(objects(&scene.path("replica"), "packs").iter().all(|p| p.file_name() != pack.file_name()));
    let there = scene.run(["-r", "replica", "snapshots", "--json"]).ok().json();
    assert_eq!(there.as_array().unwrap().len(), 1);
    scene.run(["-r", "replica", "check", "-q", "--read-data"]).ok();
    // Whole again it follows.
    flip(&pack, 200_000);
    scene.run(["replicate", "-q", "replica"]).ok();
    scene.run(["-r", "replica", "check", "-q", "--read-data"]).ok();
    assert_eq!(scene.run(["-r", "replica", "snapshots", "--json"]).ok().json().as_array().unwrap().len(), 2);
}

#[test]
fn what_was_copied_before_a_kill_is_not_copied_again() {
    let scene = Scene::new("replica-kill");
    for n in 0..6u64 {
        fs::write(scene.source().join(n.to_string()), Draw(n).bytes(BIG / 6)).unwrap();
        scene.backup(&[]);
    }
    let replica = scene.path("replica");
    let mut kills = 0;
    for _ in 0..6 {
        let before = objects(&replica, "packs").len();
        let mut running = scene.start(scene.command(["replicate", "replica"]));
        soon("a pack comes", || objects(&replica, "packs").len() > before || running.is_over());
        if running.is_over() {
            running.wait().ok();
            break;
        }
        running.signal(libc::SIGKILL);
        if running.wait().code.is_some() {
            break;
        }
        kills += 1;
        let kept: Vec<_> = objects(&replica, "packs")
            .iter()
            .map(|p| (p.clone(), fs::metadata(p).unwrap().modified().unwrap()))
            .collect();
        if !objects(&replica, "config").is_empty() {
            scene.run(["-r", "replica", "check", "-q", "--read-data"]).ok();
        }
        let dry = scene.run(["replicate", "--json", "--dry-run", "replica"]);
        drop(dry);
        for (path, modified) in kept {
            assert_eq!(fs::metadata(path).unwrap().modified().unwrap(), modified);
        }
    }
    let here = objects(&scene.repository(), "packs").len() as u64;
    let there = objects(&replica, "packs").len() as u64;
    let last = scene.run(["replicate", "--json", "replica"]).ok().json();
    assert!(kills > 0, "nothing was killed");
    assert!(last["packs_copied"].as_u64().unwrap() <= here - there, "{last}: {there} of {here} were there");
    scene.run(["-r", "replica", "check", "-q", "--read-data"]).ok();
    assert_eq!(scene.run(["-r", "replica", "snapshots", "--json"]).ok().json().as_array().unwrap().len(), 6);
}

#[test]
fn keys_that_were_added_later_open_the_replica_too_and_rotated_ones_are_followed() {
    let pair = Pair::new("replica-keys");
    let scene = &pair.scene;
    fs::write(scene.path("key2"), Draw(8).bytes(32)).unwrap();
    scene.run(["key", "add", "-q", "--new-key-file", "key2"]).ok();
    pair.copies(&[]);
    pair.there(&["--key-file", "key2", "snapshots"]).ok();
    scene.run(["key", "rotate", "-q"]).ok();
    scene.backup(&[]);
    assert_eq!(pair.copies(&[])["snapshots_copied"].as_array().unwrap().len(), 1);
    pair.is_whole_there();
    assert_eq!(pair.there(&["snapshots", "--json"]).ok().json().as_array().unwrap().len(), 3);
    assert_eq!(pair.copies(&[])["configs_copied"], 0);
}

#[test]
fn reads_fall_back_to_a_replica_and_a_check_tells_all_the_same() {
    let pair = Pair::new("replica-reads");
    let scene = &pair.scene;
    let whole = scene.path("whole");
    copy_dir(&scene.repository(), &whole);
    let again = |what: &dyn Fn()| {
        let _ = fs::remove_dir_all(scene.repository());
        copy_dir(&whole, &scene.repository());
        what();
    };
    let restored = |warns: bool| {
        let target = scene.path("out");
        let _ = fs::remove_dir_all(&target);
        let ran = scene.run(["restore", "-q", "--replica", "replica", "latest", "--target", "out"]).ok();
        same_trees(&scene.source(), &target.join(scene.source().strip_prefix("/").unwrap()));
        let told = ran.err.matches("replica").count() > 0 && ran.err.contains("repository");
        assert_eq!(told, warns, "{}", ran.err);
    };
    restored(false);
    type Damage<'a> = (&'a str, &'a dyn Fn());
    let damages: [Damage<'_>; 5] = [
        ("a flipped bit in each pack", &|| {
            for pack in objects(&scene.repository(), "packs") {
                flip(&pack, 2000);
            }
        }),
        ("no packs", &|| fs::remove_dir_all(scene.repository().join("packs")).unwrap()),
        ("no index", &|| {
            fs::remove_dir_all(scene.repository().join("index")).unwrap();
            fs::create_dir(scene.repository().join("index")).unwrap();
        }),
        ("damaged manifests", &|| {
            fs::remove_dir_all(scene.cache()).unwrap();
            for manifest in objects(&scene.repository(), "snapshots") {
                flip(&manifest, 60);
            }
        }),
        ("damaged configs and keys", &|| {
            for object in
                objects(&scene.repository(), "config").iter().chain(&objects(&scene.repository(), "keys"))
            {
                flip(object, 60);
            }
        }),
    ];
    for (what, damage) in damages {
        again(damage);
        eprintln!("{what}");
        restored(true);
        scene.run(["check", "--read-data", "--replica", "replica"]).fails();
    }
    // It is not there at all: the replica is read, and not written.
    again(&|| ());
    fs::rename(scene.repository(), scene.path("drawer")).unwrap();
    restored(true);
    scene.run(["tag", "--add", "x", "--replica", "replica", "latest"]).code(10);
    scene.run(["backup", "--replica", "replica", "source"]).code(10);
    assert_eq!(objects(&pair.replica(), "notes").len(), 0);
    fs::rename(scene.path("drawer"), scene.repository()).unwrap();
}

#[test]
fn a_mount_reads_from_the_replica_when_the_disk_fails_under_it() {
    let pair = Pair::new("replica-mount");
    let scene = &pair.scene;
    let mount = scene.mount(&["--replica", "replica", "--refresh", "1"]);
    let source = scene.source_in(&scene.mnt());
    assert!(source.join("large").is_file());
    for pack in objects(&scene.repository(), "packs") {
        fs::remove_file(pack).unwrap();
    }
    assert_eq!(differences(&scene.source(), &source, &[]), "");
    thread::sleep(Duration::from_secs(2));
    assert_eq!(differences(&scene.source(), &source, &[]), "");
    mount.unmount();
}

#[test]
fn a_check_against_a_replica_names_what_differs() {
    let pair = Pair::new("replica-against");
    let scene = &pair.scene;
    let compared = |args: &[&str], code: i32| {
        scene.run([&["check", "--json", "--against", "replica"], args].concat()).code(code).text()
    };
    assert!(compared(&["--read-data"], 0).contains("\"packs_only_here\":0"));
    let pack = largest(objects(&pair.replica(), "packs"));
    flip(&pack, 100_000);
    let name = pack.file_name().unwrap().to_str().unwrap().to_owned();
    assert!(!compared(&[], 0).contains(&format!("{name}\",\"what")), "sizes are the same");
    assert!(compared(&["--read-data"], 4).contains(&name));
    fs::remove_file(&pack).unwrap();
    assert!(compared(&[], 4).contains(&name));
    scene.run(["-r", "replica", "repair", "from", "-q", "repository"]).ok();
    compared(&["--read-data"], 0);
    scene.backup(&["--tag", "three"]);
    let newest = scene.snapshots().pop().unwrap()["id"].as_str().unwrap().to_owned();
    assert!(compared(&[], 4).contains(&format!("snapshots/{newest}")));
    pair.copies(&[]);
    scene.run(["forget", "-q", &newest]).ok();
    let text = compared(&[], 0);
    assert!(text.contains("snapshots_only_there") && text.contains(&newest), "{text}");
}

#[test]
fn what_is_damaged_or_missing_comes_back_from_a_replica() {
    let pair = Pair::new("replica-heals");
    let scene = &pair.scene;
    let ids: Vec<String> = scene.snapshots().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect();
    scene.run(["tag", "-q", "--hold", &ids[0]]).ok();
    pair.copies(&[]);
    let whole = scene.path("whole");
    copy_dir(&scene.repository(), &whole);
    let before = scene.run(["snapshots", "--json"]).ok().json();
    for what in ["packs flipped", "packs gone", "manifests", "notes", "configs", "one config", "keys", "all"]
    {
        fs::remove_dir_all(scene.repository()).unwrap();
        copy_dir(&whole, &scene.repository());
        let of = |folder: &str| objects(&scene.repository(), folder);
        let all = what == "all";
        if what == "packs flipped" || all {
            flip(&largest(of("packs")), 100_000);
        }
        if what == "packs gone" || all {
            fs::remove_file(&of("packs")[0]).unwrap();
        }
        let mut flipped = Vec::new();
        for (name, folder) in
            [("manifests", "snapshots"), ("notes", "notes"), ("configs", "config"), ("keys", "keys")]
        {
            if what == name || all {
                flipped.extend(of(folder));
            }
        }
        if what == "one config" {
            flipped.push(of("config")[0].clone());
        }
        for path in &flipped {
            flip(path, 60);
        }
        let cache = scene.path(&format!("cache {what}"));
        let run = |args: &[&str]| {
            let mut command = scene.command(args);
            command.env("PASTFS_CACHE", &cache);
            scene.run_command(command)
        };
        let dry = run(&["repair", "from", "replica", "--read-data", "--dry-run"]);
        assert_eq!(dry.code, Some(4), "{what}: {} {}", dry.text(), dry.err);
        let ran = run(&["repair", "from", "replica", "--read-data"]);
        assert_eq!(ran.code, Some(0), "{what}: {} {}", ran.text(), ran.err);
        let check = run(&["check", "--read-data"]);
        assert_eq!(check.code, Some(0), "{what}: {} {}", check.text(), check.err);
        assert_eq!(run(&["snapshots", "--json"]).ok().json(), before, "{what}");
        let target = scene.path("out");
        let _ = fs::remove_dir_all(&target);
        run(&["restore", "-q", "latest", "--target", "out"]).ok();
        same_trees(&scene.source(), &target.join(scene.source().strip_prefix("/").unwrap()));
        run(&["prune", "-q", "--grace", "0"]).ok();
        run(&["backup", "-q", "source"]).ok();
    }
    assert_eq!(objects(&pair.replica(), "packs"), {
        let packs = objects(&whole, "packs");
        packs.iter().map(|p| pair.replica().join(p.strip_prefix(&whole).unwrap())).collect::<Vec<_>>()
    });
}

/// Backups, prunes and forgetting on both sides while replications go to and fro.
#[test]
fn replicas_may_be_written_to_and_pruned_while_one_is_copied_to_the_other() {
    let pair = Pair::new("replica-crowd");
    let scene = &pair.scene;
    let sources: Vec<PathBuf> = (0..2).map(|n| scene.path(&format!("source-{n}"))).collect();
    for source in &sources {
        fs::create_dir(source).unwrap();
    }
    let at = |place: &Path, cache: &str, args: &[&str]| {
        let mut command = scene.command(args);
        command.env("PASTFS_REPOSITORY", place).env("PASTFS_CACHE", scene.path(cache));
        scene.run_command(command)
    };
    let (here, there) = (scene.repository(), pair.replica());
    thread::scope(|scope| {
        for (n, place) in [&here, &there].into_iter().enumerate() {
            let source = &sources[n];
            let at = &at;
            scope.spawn(move || {
                for round in 0..4u64 {
                    fill(&source.join(round.to_string()), 4, 40_000, 100 * n as u64 + round);
                    at(
                        place,
                        &format!("cache-b{n}"),
                        &["backup", "-q", "--host", &format!("h{n}"), source.to_str().unwrap()],
                    )
                    .ok();
                }
            });
            scope.spawn(move || {
                for _ in 0..3 {
                    at(place, &format!("cache-p{n}"), &["forget", "-q", "--keep-last", "2"]).ok();
                    at(
                        place,
                        &format!("cache-p{n}"),
                        &["prune", "-q", "--max-unused", "0%", "--grace", "1h"],
                    )
                    .ok();
                }
            });
        }
        for (from, to, cache) in [(&here, &there, "cache-r0"), (&there, &here, "cache-r1")] {
            let at = &at;
            scope.spawn(move || {
                for _ in 0..4 {
                    at(from, cache, &["replicate", "-q", to.to_str().unwrap()]).ok();
                }
            });
        }
    });
    for (from, to, cache) in [(&here, &there, "cache-r0"), (&there, &here, "cache-r1")] {
        at(from, cache, &["replicate", "-q", to.to_str().unwrap()]).ok();
    }
    for (n, place) in [&here, &there].into_iter().enumerate() {
        let new = format!("cache-c{n}");
        at(place, &new, &["check", "-q", "--read-data"]).ok();
        for (m, source) in sources.iter().enumerate() {
            let out = format!("out-{n}-{m}");
            at(place, &new, &["restore", "-q", "--host", &format!("h{m}"), "latest", "--target", &out]).ok();
            same_trees(source, &scene.path(&out).join(source.strip_prefix("/").unwrap()));
        }
    }
}
