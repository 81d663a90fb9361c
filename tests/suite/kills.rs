//! `kill -9` at random instants of the real program, with RocksDB open, over and over on one repository and one cache that
//! stay. After each: what was there is there, what was under way is done or not, a check finds nothing, and now and then
//! every byte is compared.
//!
//! `KILLS` says how often in the soak (600), `KILLS_SEED` which series it is.

use super::scene::{Draw, Scene, is_mounted, let_files_settle, same_trees};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const FILES: u64 = 120;
/// Snapshots beyond these are forgotten by and by.
const KEPT: usize = 6;
/// Every so many kills a snapshot is restored and compared.
const COMPARE_EVERY: usize = 10;
/// The end of a command is as interesting as its middle: some are killed right after it should be over.
const BEYOND: f64 = 1.15;

/// What a snapshot shows beside its content: held, and more tags than its own.
type Shown = BTreeMap<String, (String, bool, Vec<String>)>;

struct Series<'a> {
    scene: &'a Scene,
    draw: Draw,
    seed: u64,
    /// The state of the source; copies of those that were saved are kept by their number.
    state: usize,
    /// How long each command takes when nobody kills it.
    takes: BTreeMap<&'static str, f64>,
}

impl Series<'_> {
    fn copy(&self, state: &str) -> PathBuf {
        self.scene.path(&format!("copies/{state}"))
    }

    /// Changes some files, and keeps a copy.
    fn change(&mut self) {
        self.state += 1;
        for _ in 0..=self.draw.next() % 12 {
            let n = self.draw.next() % FILES;
            let path = self.scene.source().join(format!("{}/{n}", n % 8));
            let _ = fs::create_dir_all(path.parent().unwrap());
            match self.draw.next() % 4 {
                0 => drop(fs::remove_file(&path)),
                _ => fs::write(&path, self.draw.bytes((n * n * 10) as usize % 60_000)).unwrap(),
            }
        }
        let line = format!("mkdir -p copies && cp -a source copies/{}", self.state);
        self.scene.shell(&line).ok();
    }

    fn shown(&self) -> Shown {
        let of = |s: Value| {
            let tags = s["tags"].as_array().unwrap();
            let mut tags: Vec<String> = tags.iter().map(|t| t.as_str().unwrap().to_owned()).collect();
            let own = tags.iter().position(|t| t.parse::<u64>().is_ok()).expect("no state");
            let state = tags.remove(own);
            (s["id"].as_str().unwrap().to_owned(), (state, s["held"] == true, tags))
        };
        self.scene.snapshots().into_iter().map(of).collect()
    }

    /// Picks what is done next: its name and arguments, and what it makes of what is shown. New snapshots are known by
    /// their state alone.
    fn pick(&mut self, before: &Shown) -> (&'static str, Vec<String>, Shown) {
        let mut after = before.clone();
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let some = before.keys().nth(self.draw.next() as usize % before.len().max(1)).cloned();
        let (name, args) = match (self.draw.next() % 10, some) {
            (0, Some(id)) => {
                after.get_mut(&id).unwrap().2 = vec!["more".into()];
                ("tag", words(&format!("tag -q --add more {id}")))
            }
            (1, Some(id)) => {
                after.get_mut(&id).unwrap().1 = true;
                ("hold", words(&format!("tag -q --hold {id}")))
            }
            (2, Some(_)) => ("check", words("check --read-data")),
            (3, Some(_)) => ("mount", words("mount --foreground mnt")),
            // What it retires and deletes is nobody's.
            (6, Some(_)) => ("prune", words("prune -q --grace 0 --max-unused 0%")),
            // Into a replica, which is looked at by itself.
            (7, Some(_)) => ("replicate", words("replicate -q replica")),
            (4 | 5, Some(id)) if before.len() > KEPT && !before[&id].1 => {
                after.remove(&id);
                ("forget", words(&format!("forget -q {id}")))
            }
            _ => {
                self.change();
                after.insert("new".into(), (self.state.to_string(), false, Vec::new()));
                ("backup", words(&format!("backup -q --tag {} source", self.state)))
            }
        };
        (name, args, after)
    }

    /// Runs it, and kills it at some instant. Whether it was over before.
    fn kill(&mut self, name: &'static str, args: &[String]) -> bool {
        let mut running = self.scene.start(self.scene.command(args));
        let began = Instant::now();
        let takes = self.takes.get(name).copied().unwrap_or(0.3);
        let part = (self.draw.next() % 1000) as f64 / 1000.0 * BEYOND;
        let end = began + Duration::from_secs_f64(takes * part);
        while Instant::now() < end && !running.is_over() {
            std::thread::sleep(Duration::from_millis(1));
        }
        if running.is_over() {
            // The mean of what was seen.
            self.takes.insert(name, (takes + began.elapsed().as_secs_f64()) / 2.0);
        }
        running.signal(libc::SIGKILL);
        let ran = running.wait();
        let was_killed = ran.signal == Some(libc::SIGKILL);
        assert!(was_killed || ran.code == Some(0), "seed {}: {}: {}", self.seed, ran.line, ran.err);
        if is_mounted(&self.scene.mnt()) {
            self.scene.run([OsStr::new("umount"), self.scene.mnt().as_os_str()]).ok();
        }
        !was_killed
    }

    /// Everything that must hold after a kill; what is shown now.
    fn judge(&self, before: &Shown, wanted: &Shown, was_over: bool, told: &str) -> Shown {
        let now = self.shown();
        // Of a new snapshot the name was not known.
        let plain = |shown: &Shown| {
            let mut all: Vec<_> = shown.values().cloned().collect();
            all.sort();
            all
        };
        let is_done = plain(&now) == plain(wanted);
        assert!(
            is_done || (!was_over && now == *before),
            "seed {}, {told}: before {before:?}, wanted {wanted:?}, found {now:?}",
            self.seed
        );
        let ran = self.scene.run(["check", "--json"]);
        assert!(ran.code == Some(0), "seed {}, {told}: {} {}", self.seed, ran.text(), ran.err);
        if told.contains("replicate") && self.has_replica() {
            let ran = self.scene.run(["-r", "replica", "check", "--json"]);
            assert!(ran.code == Some(0), "seed {}, {told}: {} {}", self.seed, ran.text(), ran.err);
        }
        now
    }

    /// Whether it is one: who begins with it may have died before.
    fn has_replica(&self) -> bool {
        fs::read_dir(self.scene.path("replica/config")).is_ok_and(|mut found| found.next().is_some())
    }

    /// Replicated once more it has all that is shown, and a snapshot of it is what was saved.
    fn replica_is_well(&mut self, shown: &Shown) {
        self.scene.run(["replicate", "-q", "replica"]).ok();
        self.scene.run(["-r", "replica", "check", "-q", "--read-data"]).ok();
        let list = self.scene.run(["-r", "replica", "snapshots", "--json"]).ok().json();
        let there = |id: &str| list.as_array().unwrap().iter().any(|s| s["id"] == id);
        assert!(shown.keys().all(|id| there(id)), "seed {}: {shown:?} {list}", self.seed);
        let Some((id, (state, ..))) = shown.iter().nth(self.draw.next() as usize % shown.len().max(1)) else {
            return;
        };
        let (what, target) =
            (format!("{id}:{}", self.scene.source().display()), self.scene.path("from replica"));
        let args = ["-r", "replica", "restore", "-q", &what, "--target", target.to_str().unwrap()];
        self.scene.run(args).ok();
        same_trees(&self.copy(state), &target);
    }

    fn compare(&mut self, shown: &Shown) {
        let Some(id) = shown.keys().nth(self.draw.next() as usize % shown.len().max(1)) else { return };
        let target = self.scene.restore(&format!("{id}:{}", self.scene.source().display()));
        same_trees(&self.copy(&shown[id].0), &target);
        fs::remove_dir_all(target).unwrap();
    }
}

fn series(count: usize) {
    let seed = std::env::var("KILLS_SEED").ok().and_then(|s| s.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(pastfs::clock::now().nanos));
    println!("seed {seed}");
    let scene = Scene::new("kills");
    let takes = BTreeMap::new();
    let mut series = Series { scene: &scene, draw: Draw(seed), seed, state: 0, takes };
    for n in 0..FILES {
        fs::create_dir_all(scene.source().join(format!("{}", n % 8))).unwrap();
        fs::write(scene.source().join(format!("{}/{n}", n % 8)), series.draw.bytes(20_000)).unwrap();
    }
    let_files_settle();
    let mut shown = Shown::new();
    let mut killed: BTreeMap<&str, usize> = BTreeMap::new();
    let mut n = 0;
    while n < count {
        let (name, args, wanted) = series.pick(&shown);
        let was_over = series.kill(name, &args);
        if !was_over {
            n += 1;
            *killed.entry(name).or_default() += 1;
        }
        let told = format!("kill {n}, {}", args.join(" "));
        shown = series.judge(&shown, &wanted, was_over, &told);
        if n % COMPARE_EVERY == 0 {
            series.compare(&shown);
        }
    }
    println!("kills survived: {n} {killed:?}; {} snapshots", shown.len());
    scene.run(["check", "--read-data"]).ok();
    series.replica_is_well(&shown);
    // All of them, through a cache that was never killed.
    fs::remove_dir_all(scene.cache()).unwrap();
    for (id, (state, ..)) in &shown {
        let target = scene.restore(&format!("{id}:{}", scene.source().display()));
        same_trees(&series.copy(state), &target);
        fs::remove_dir_all(target).unwrap();
    }
    scene.backup(&["--tag", &series.state.to_string()]);
    scene.latest_equals_source();
}

#[test]
fn killed_sixty_times_nothing_that_was_shown_is_lost() {
    series(60);
}

#[test]
#[ignore = "minutes: KILLS (600) kills"]
fn killed_hundreds_of_times_nothing_that_was_shown_is_lost() {
    series(std::env::var("KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(600));
}
