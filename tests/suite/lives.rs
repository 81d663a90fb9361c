//! Lives of repositories, drawn at random: files come, change and go, backups are made and killed, snapshots are forgotten
//! and brought back, objects are damaged and mended, caches vanish. After each step the repository shows what a model
//! says, and every snapshot is what was copied aside when it was made.
//!
//! `LIFE_SEED` lives one of them again, which is told where it fails; `LIVES` says how many the soak has (100).

use super::scene::{Draw, Ran, Scene, differences, same_trees};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Steps of a life.
const STEPS_OF_A_LIFE: usize = 30;
/// Machines that back up, each with a cache and a name.
const MACHINES: [&str; 2] = ["anna", "berta"];

type Step = fn(&mut Life);

/// What a life can bring: how often, and what. A new command is a new row.
const STEPS: &[(&str, u64, Step)] = &[
    ("files change", 8, Life::files_change),
    ("backup", 6, Life::backup),
    ("backup, killed", 3, Life::killed_backup),
    ("forget", 2, Life::forget),
    ("forget by rules", 1, Life::forget_by_rules),
    ("forget --undo", 2, Life::bring_back),
    ("tag", 1, Life::tag),
    ("hold, release", 1, Life::hold_or_release),
    ("restore", 3, Life::restore_one),
    ("damage, then mended", 3, Life::damage),
    ("prune", 2, Life::prune),
    ("prune, killed", 1, Life::killed_prune),
    ("repair", 1, Life::repair),
    ("a cache is lost", 1, Life::lose_cache),
    ("check", 1, Life::check),
];

/// Nothing waits here for a day.
const PRUNE: &[&str] = &["prune", "-q", "--grace", "0", "--max-unused", "0%"];
const REPAIRS: [&[&str]; 3] = [
    &["repair", "index", "-q"],
    &["repair", "packs", "-q", "--read-data"],
    &["repair", "snapshots", "-q", "--read-data", "--dry-run"],
];

/// A snapshot, as the model has it.
#[derive(Clone, Debug, PartialEq)]
struct Shot {
    /// State of the source, of which there is a copy.
    state: usize,
    host: &'static str,
    tags: Vec<String>,
    is_held: bool,
    is_forgotten: bool,
    /// The order of their coming, which is that of their times.
    age: usize,
}

struct Life {
    scene: Scene,
    draw: Draw,
    told: Vec<String>,
    shots: BTreeMap<String, Shot>,
    state: usize,
    /// Whether the source is as its last copy.
    is_copied: bool,
    takes: f64,
}

impl Life {
    fn live(seed: u64) {
        let scene = Scene::new("life");
        let (draw, told, shots) = (Draw(seed), Vec::new(), BTreeMap::new());
        let mut life = Self { scene, draw, told, shots, state: 0, is_copied: false, takes: 0.1 };
        fs::create_dir(life.scene.path("copies")).unwrap();
        let lived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            life.files_change();
            life.backup();
            let all: u64 = STEPS.iter().map(|(_, weight, _)| weight).sum();
            for _ in 0..STEPS_OF_A_LIFE {
                let mut at = life.draw.next() % all;
                let step = STEPS.iter().find(|(_, weight, _)| {
                    let is_it = at < *weight;
                    at = at.saturating_sub(*weight);
                    is_it
                });
                let (name, _, step) = step.unwrap();
                life.told.push((*name).to_string());
                step(&mut life);
                life.is_as_modelled();
            }
            life.ends_well();
        }));
        if let Err(e) = lived {
            eprintln!("LIFE_SEED={seed}:\n  {}", life.told.join("\n  "));
            std::panic::resume_unwind(e);
        }
    }

    fn below(&mut self, n: u64) -> u64 {
        self.draw.next() % n
    }

    fn tell(&mut self, what: String) {
        self.told.push(format!("  {what}"));
    }

    /// Runs it on one of the machines.
    fn run(&mut self, args: &[&str]) -> Ran {
        let machine = self.below(2) as usize;
        self.run_on(MACHINES[machine], args)
    }

    fn run_on(&self, machine: &str, args: &[&str]) -> Ran {
        let mut command = self.scene.command(args);
        command.env("PASTFS_CACHE", self.scene.path(&format!("cache of {machine}")));
        self.scene.run_command(command).orderly()
    }

    fn some(&mut self, is_meant: impl Fn(&Shot) -> bool) -> Option<String> {
        let ids: Vec<String> =
            self.shots.iter().filter(|(_, s)| is_meant(s)).map(|(id, _)| id.clone()).collect();
        if ids.is_empty() { None } else { Some(ids[self.below(ids.len() as u64) as usize].clone()) }
    }

    fn files_change(&mut self) {
        let source = self.scene.source();
        for _ in 0..1 + self.below(6) {
            let dir = source.join(format!("d{}", self.below(3)));
            fs::create_dir_all(&dir).unwrap();
            let (path, other) =
                (dir.join(format!("f{}", self.below(6))), dir.join(format!("f{}", self.below(6))));
            let most = 1 << self.below(17);
            let len = self.below(most) as usize;
            match self.below(9) {
                0 => drop(fs::remove_file(&path)),
                1 => drop(fs::rename(&path, &other)),
                2 if !path.exists() => drop(symlink(format!("f{len}"), &path)),
                3 if path.is_file() => drop(fs::set_permissions(&path, fs::Permissions::from_mode(0o640))),
                4 if path.is_file() => drop(fs::copy(&path, dir.join("copied"))),
                // Equal in size and mtime, and another file all the same.
                5 if path.is_file() => {
                    let m = fs::metadata(&path).unwrap();
                    fs::write(&path, self.draw.bytes(m.len() as usize)).unwrap();
                    fs::File::open(&path).unwrap().set_modified(m.modified().unwrap()).unwrap();
                }
                6 => drop(fs::remove_dir_all(&dir)),
                _ if path.is_symlink() => drop(fs::remove_file(&path)),
                _ => fs::write(&path, self.draw.bytes(len)).unwrap(),
            }
        }
        self.is_copied = false;
    }

    fn copy(&self, state: usize) -> PathBuf {
        self.scene.path(&format!("copies/{state}"))
    }

    /// A copy of the source is at hand under the number of the state.
    fn keep_copy(&mut self) {
        if !self.is_copied {
            self.state += 1;
            self.scene.shell(&format!("cp -a source copies/{}", self.state)).ok();
            self.is_copied = true;
        }
    }

    fn backup_args(&mut self) -> (&'static str, Vec<String>) {
        self.keep_copy();
        let host = MACHINES[self.below(2) as usize];
        let mut args: Vec<String> =
            ["backup", "-q", "--host", host, "--tag"].iter().map(|a| (*a).to_string()).collect();
        args.extend([format!("s{}", self.state), "source".into()]);
        if self.below(6) == 0 {
            args.push("--force".into());
        }
        (host, args)
    }

    fn adopt(&mut self, id: String, host: &'static str) {
        let (state, age) = (self.state, self.told.len());
        let tags = vec![format!("s{state}")];
        let shot = Shot { state, host, tags, is_held: false, is_forgotten: false, age };
        self.shots.insert(id, shot);
    }

    fn new_ones(&self) -> Vec<String> {
        let known = |id: &String| self.shots.contains_key(id);
        self.shown().into_keys().filter(|id| !known(id)).collect()
    }

    fn backup(&mut self) {
        let (host, args) = self.backup_args();
        let began = Instant::now();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.run_on(host, &args).ok();
        self.takes = began.elapsed().as_secs_f64();
        let new = self.new_ones();
        assert_eq!(new.len(), 1, "a backup is one snapshot");
        self.tell(format!("{} of state {} by {host}", new[0], self.state));
        self.adopt(new[0].clone(), host);
    }

    fn killed_backup(&mut self) {
        let (host, args) = self.backup_args();
        let mut command = self.scene.command(&args);
        command.env("PASTFS_CACHE", self.scene.path(&format!("cache of {host}")));
        let running = self.scene.start(command);
        let part = self.below(1000) as f64 / 1000.0;
        std::thread::sleep(Duration::from_secs_f64(self.takes * part));
        running.signal(libc::SIGKILL);
        let _ = running.wait();
        // It may have been done already.
        for id in self.new_ones() {
            self.tell(format!("it was done: {id}"));
            self.adopt(id, host);
        }
    }

    fn forget(&mut self) {
        let Some(id) = self.some(|s| !s.is_held && !s.is_forgotten) else { return };
        self.tell(id.clone());
        self.run(&["forget", "-q", &id]).ok();
        self.shots.get_mut(&id).unwrap().is_forgotten = true;
    }

    /// The newest of each host stay, and what is held.
    fn forget_by_rules(&mut self) {
        let kept = 1 + self.below(3) as usize;
        self.run(&["forget", "-q", "--keep-last", &kept.to_string(), "--group-by", "host"]).ok();
        for host in MACHINES {
            let mut ages: Vec<usize> =
                self.shots.values().filter(|s| s.host == host && !s.is_forgotten).map(|s| s.age).collect();
            ages.sort_unstable();
            let oldest = ages.len().saturating_sub(kept);
            let goes = |s: &&mut Shot| {
                s.host == host && !s.is_held && !s.is_forgotten && ages[..oldest].contains(&s.age)
            };
            self.shots.values_mut().filter(goes).for_each(|s| s.is_forgotten = true);
        }
    }

    fn bring_back(&mut self) {
        let Some(id) = self.some(|s| s.is_forgotten) else { return };
        self.tell(id.clone());
        self.brings_back(&id);
    }

    fn tag(&mut self) {
        let Some(id) = self.some(|s| !s.is_forgotten) else { return };
        let shot = self.shots[&id].clone();
        let is_there = shot.tags.iter().any(|t| t == "seen");
        self.run(&["tag", "-q", if is_there { "--remove" } else { "--add" }, "seen", &id]).ok();
        let tags = &mut self.shots.get_mut(&id).unwrap().tags;
        tags.retain(|t| t != "seen");
        if !is_there {
            tags.push("seen".into());
        }
    }

    fn hold_or_release(&mut self) {
        let Some(id) = self.some(|s| !s.is_forgotten) else { return };
        let is_held = self.shots[&id].is_held;
        self.run(&["tag", "-q", if is_held { "--release" } else { "--hold" }, &id]).ok();
        self.shots.get_mut(&id).unwrap().is_held = !is_held;
        if !is_held {
            self.run(&["forget", "-q", &id]).fails().says("held");
        }
    }

    fn prune(&mut self) {
        self.run(PRUNE).ok();
        self.some_are_gone();
    }

    fn killed_prune(&mut self) {
        let machine = MACHINES[self.below(2) as usize];
        let mut command = self.scene.command(PRUNE);
        command.env("PASTFS_CACHE", self.scene.path(&format!("cache of {machine}")));
        let running = self.scene.start(command);
        std::thread::sleep(Duration::from_micros(self.below(150_000)));
        running.signal(libc::SIGKILL);
        let _ = running.wait();
        self.some_are_gone();
    }

    /// A forgotten snapshot, and a day after any prune that was killed: before, one is told that it may be at work still.
    fn brings_back(&mut self, id: &str) {
        self.scene.shell("find repository/leases -type f -exec touch -d '25 hours ago' {} +").ok();
        self.run(&["forget", "-q", "--undo", id]).ok();
        self.shots.get_mut(id).unwrap().is_forgotten = false;
    }

    /// A prune deletes what is forgotten, and nothing else.
    fn some_are_gone(&mut self) {
        let list = self.run(&["snapshots", "--forgotten", "--json"]).ok().json();
        let left: Vec<&str> = list.as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap()).collect();
        self.shots.retain(|id, shot| !shot.is_forgotten || left.contains(&id.as_str()));
    }

    /// Of what is whole nothing is repaired, and nothing is hurt.
    fn repair(&mut self) {
        let what = REPAIRS[self.below(3) as usize];
        self.tell(what.join(" "));
        self.run(what).ok();
    }

    fn lose_cache(&mut self) {
        let machine = MACHINES[self.below(2) as usize];
        let _ = fs::remove_dir_all(self.scene.path(&format!("cache of {machine}")));
    }

    fn check(&mut self) {
        self.run(&["check", "--json", "--read-data"]).ok();
    }

    fn restore_one(&mut self) {
        let Some(id) = self.some(|s| !s.is_forgotten) else { return };
        self.tell(id.clone());
        assert!(self.restored(&id), "{id} is not whole");
    }

    /// Restores a snapshot; nothing of it is wrong. Whether all of it is there.
    fn restored(&mut self, id: &str) -> bool {
        let out = self.scene.path("out");
        let _ = fs::remove_dir_all(&out);
        let what = format!("{id}:{}", self.scene.source().display());
        let ran = self.run(&["restore", "-q", &what, "--target", "out"]);
        let copy = self.copy(self.shots[id].state);
        if ran.code == Some(0) {
            same_trees(&copy, &out);
        }
        for file in files(&out) {
            let (a, b) = (fs::read(out.join(&file)).unwrap(), fs::read(copy.join(&file)).unwrap_or_default());
            assert!(a == b, "wrong bytes in {}", file.display());
        }
        ran.code == Some(0)
    }

    /// An object is not what it was, and is mended later; meanwhile everything goes on as well as it can.
    fn damage(&mut self) {
        let objects = self.scene.objects();
        let object = objects[self.below(objects.len() as u64) as usize].clone();
        let path = self.scene.repository().join(&object);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        let at = self.below(bad.len() as u64) as usize;
        let how = ["flipped", "cut", "deleted"][self.below(3) as usize];
        self.tell(format!("{how} at {at}: {}", object.display()));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        match how {
            "flipped" => bad[at] ^= 1 << self.below(8),
            "cut" => bad.truncate(at),
            _ => fs::remove_file(&path).unwrap(),
        }
        if how != "deleted" {
            fs::write(&path, &bad).unwrap();
        }
        self.run(&["snapshots"]);
        if let Some(id) = self.some(|s| !s.is_forgotten) {
            let is_whole = self.restored(&id);
            self.tell(format!("{id}, whole: {is_whole}"));
        }
        let (host, args) = self.backup_args();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let ran = self.run_on(host, &args);
        assert!(matches!(ran.code, Some(0 | 4 | 10 | 12)), "{:?}: {}", ran.code, ran.err);
        self.run(&["check", "--read-data"]);
        // Whoever works on it now makes nothing worse.
        let works = [PRUNE, REPAIRS[0], REPAIRS[1], REPAIRS[2], &["snapshots"]][self.below(5) as usize];
        self.tell(works.join(" "));
        let worked = self.run(works);
        assert!(matches!(worked.code, Some(0 | 1 | 4 | 10 | 12)), "{:?}: {}", worked.code, worked.err);
        // Mended as a file that is copied back.
        let _ = fs::remove_file(&path);
        fs::write(&path, &good).unwrap();
        if ran.code == Some(0) {
            let new = self.new_ones();
            assert_eq!(new.len(), 1, "a backup on a damaged repository is one snapshot");
            self.tell(format!("{} of state {} by {host}", new[0], self.state));
            self.adopt(new[0].clone(), host);
        }
        self.some_are_gone();
    }

    fn shown(&self) -> BTreeMap<String, (Vec<String>, bool)> {
        let list = self.run_on(MACHINES[self.shots.len() % 2], &["snapshots", "--json"]).ok().json();
        let of = |s: &Value| {
            let tags = s["tags"].as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_owned());
            (s["id"].as_str().unwrap().to_owned(), (tags.collect(), s["held"] == true))
        };
        list.as_array().unwrap().iter().map(of).collect()
    }

    fn is_as_modelled(&mut self) {
        let model: BTreeMap<String, (Vec<String>, bool)> = self
            .shots
            .iter()
            .filter(|(_, s)| !s.is_forgotten)
            .map(|(id, s)| {
                let mut tags = s.tags.clone();
                tags.sort();
                (id.clone(), (tags, s.is_held))
            })
            .collect();
        assert_eq!(self.shown(), model);
    }

    /// At the end all comes back: what is shown, and what was forgotten.
    fn ends_well(&mut self) {
        self.run(&["check", "--json", "--read-data"]).ok();
        for (id, shot) in self.shots.clone() {
            if shot.is_forgotten {
                self.brings_back(&id);
            }
        }
        self.is_as_modelled();
        // Each state once through whatever cache, the last one through the mount.
        let mut seen = Vec::new();
        for (id, shot) in self.shots.clone() {
            if !seen.contains(&shot.state) {
                seen.push(shot.state);
                assert!(self.restored(&id), "{id} is not whole");
            }
        }
        let mount = self.scene.mount(&["--names", "{id}"]);
        let inside = self.scene.source().strip_prefix("/").unwrap().to_path_buf();
        for (id, shot) in self.shots.iter().take(3) {
            let found = differences(&self.copy(shot.state), &mount.dir.join(id).join(&inside), &[]);
            assert!(found.is_empty(), "{id} in the mount: {found}");
        }
        mount.unmount();
    }
}

/// Regular files below a folder, relative to it.
fn files(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![dir.to_path_buf()]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path().strip_prefix(dir).unwrap().to_path_buf());
            }
        }
    }
    found
}

fn lives(count: usize) {
    if let Some(seed) = std::env::var("LIFE_SEED").ok().and_then(|s| s.parse().ok()) {
        return Life::live(seed);
    }
    let (next, seed) = (AtomicUsize::new(0), AtomicU64::new(u64::from(pastfs::clock::now().nanos)));
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        for _ in 0..threads {
            scope.spawn(|| {
                while next.fetch_add(1, Ordering::Relaxed) < count {
                    Life::live(seed.fetch_add(1, Ordering::Relaxed));
                }
            });
        }
    });
    println!("{count} lives of {STEPS_OF_A_LIFE} steps");
}

#[test]
fn in_a_life_drawn_at_random_nothing_is_lost_and_nothing_is_wrong() {
    lives(6);
}

#[test]
#[ignore = "minutes: LIVES (100) lives"]
fn in_a_hundred_lives_nothing_is_lost_and_nothing_is_wrong() {
    lives(std::env::var("LIVES").ok().and_then(|n| n.parse().ok()).unwrap_or(100));
}
