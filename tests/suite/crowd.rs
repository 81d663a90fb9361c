//! A crowd at one repository: backups of several machines, checks, forgetting, tags, restores and a mount, all at once and
//! without a pause. Nothing is lost, nobody waits for another, and nobody finds damage.
//!
//! `CROWD_MINUTES` says how long in the soak (3).

use super::scene::{Draw, Scene, differences, fill};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The first two share a cache.
const MACHINES: [(&str, &str); 3] = [("anna", "one"), ("berta", "one"), ("carla", "two")];
/// Snapshots of a machine beyond these are forgotten.
const KEPT: usize = 4;

#[derive(Clone)]
struct Shot {
    machine: &'static str,
    copy: PathBuf,
    is_forgotten: bool,
    /// Once, if not now.
    was_forgotten: bool,
}

struct Crowd<'a> {
    scene: &'a Scene,
    end: Instant,
    shots: Mutex<BTreeMap<String, Shot>>,
    /// What was done, by name.
    done: Mutex<BTreeMap<&'static str, usize>>,
}

impl Crowd<'_> {
    fn is_over(&self) -> bool {
        Instant::now() > self.end
    }

    fn did(&self, what: &'static str) {
        *self.done.lock().entry(what).or_default() += 1;
    }

    fn command(&self, cache: &str, args: &[&str]) -> std::process::Command {
        let mut command = self.scene.command(args);
        command.env("PASTFS_CACHE", self.scene.path(&format!("cache {cache}")));
        command
    }

    fn some(&self, draw: &mut Draw) -> Option<(String, Shot)> {
        let shots = self.shots.lock();
        let live: Vec<_> = shots.iter().filter(|(_, s)| !s.is_forgotten).collect();
        if live.is_empty() {
            return None;
        }
        let (id, shot) = live[draw.next() as usize % live.len()];
        Some((id.clone(), shot.clone()))
    }

    /// Changes a source of its own and saves it.
    fn backs_up(&self, machine: &'static str, cache: &str, seed: u64) {
        let mut draw = Draw(seed);
        let source = self.scene.path(machine);
        fill(&source, 30, 8_000, seed);
        for n in 0.. {
            if self.is_over() {
                return;
            }
            for _ in 0..3 {
                let f = draw.next() % 30;
                let bytes = draw.bytes(9_000);
                fs::write(source.join(format!("{}/{f}", f % 16)), bytes).unwrap();
            }
            let copy = self.scene.path(&format!("copies/{machine}-{n}"));
            self.scene.shell(&format!("cp -a {machine} {}", copy.display())).ok();
            let args = ["backup", "--json", "--host", machine, machine];
            let told = self.scene.run_command(self.command(cache, &args)).ok().json();
            let id = told["snapshot_id"].as_str().unwrap().to_owned();
            self.shots.lock().insert(id, Shot { machine, copy, is_forgotten: false, was_forgotten: false });
            self.did("backups");
        }
    }

    fn checks(&self) {
        while !self.is_over() {
            let ran = self.scene.run_command(self.command("three", &["check", "--json", "--read-data"]));
            assert!(ran.code == Some(0), "{} {}", ran.text(), ran.err);
            self.did("checks");
        }
    }

    /// Forgets one, and brings every third one back.
    fn forgets(&self) {
        let mut draw = Draw(77);
        while !self.is_over() {
            std::thread::sleep(Duration::from_millis(100));
            let Some((id, shot)) = self.some(&mut draw) else { continue };
            let of_machine = |s: &&Shot| s.machine == shot.machine && !s.is_forgotten;
            if self.shots.lock().values().filter(of_machine).count() <= KEPT {
                continue;
            }
            {
                let mut shots = self.shots.lock();
                let shot = shots.get_mut(&id).unwrap();
                (shot.is_forgotten, shot.was_forgotten) = (true, true);
            }
            self.scene.run_command(self.command("two", &["forget", "-q", &id])).ok();
            self.did("forgotten");
            if draw.next().is_multiple_of(3) {
                self.scene.run_command(self.command("one", &["forget", "-q", "--undo", &id])).ok();
                self.shots.lock().get_mut(&id).unwrap().is_forgotten = false;
                self.did("brought back");
            }
        }
    }

    fn tags(&self) {
        let mut draw = Draw(78);
        while !self.is_over() {
            std::thread::sleep(Duration::from_millis(150));
            let Some((id, _)) = self.some(&mut draw) else { continue };
            let tag = format!("t{}", draw.next() % 5);
            let ran = self.scene.run_command(self.command("one", &["tag", "-q", "--add", &tag, &id]));
            // It may have been forgotten in this moment.
            assert!(ran.code == Some(0) || ran.err.contains("snapshot"), "{}", ran.err);
            ran.orderly();
            self.did("tags");
        }
    }

    /// Compares a snapshot with its copy; it may be forgotten meanwhile, and is whole until then.
    fn restores(&self) {
        let mut draw = Draw(79);
        while !self.is_over() {
            let Some((id, shot)) = self.some(&mut draw) else { continue };
            let out = self.scene.path("out");
            let _ = fs::remove_dir_all(&out);
            let what = format!("{id}:{}", self.scene.path(shot.machine).display());
            let ran =
                self.scene.run_command(self.command("two", &["restore", "-q", &what, "--target", "out"]));
            if ran.code == Some(0) {
                let found = differences(&shot.copy, &out, &[]);
                assert!(found.is_empty(), "{id}: {found}");
                self.did("restores");
            } else {
                assert!(self.shots.lock()[&id].was_forgotten, "{}", ran.err);
                ran.orderly();
            }
        }
    }

    /// Into a replica, over and over; what was whole when it was listed is there then.
    fn replicates(&self) {
        while !self.is_over() {
            self.scene.run_command(self.command("three", &["replicate", "-q", "replica"])).ok();
            self.did("replications");
        }
    }

    fn reads_a_mount(&self) {
        let mut draw = Draw(80);
        while !self.is_over() {
            self.scene.run_command(self.command("one", &["mount", "--names", "{id}", "mnt"])).ok();
            for _ in 0..8 {
                let Some((id, shot)) = self.some(&mut draw) else { continue };
                let inside = self.scene.mnt().join(&id);
                if !inside.exists() {
                    continue;
                }
                let inside = inside.join(self.scene.path(shot.machine).strip_prefix("/").unwrap());
                for f in 0..30 {
                    let name = format!("{}/{f}", f % 16);
                    match fs::read(inside.join(&name)) {
                        Ok(bytes) => {
                            assert!(bytes == fs::read(shot.copy.join(&name)).unwrap(), "{id} {name}")
                        }
                        Err(e) => {
                            let was_forgotten = self.shots.lock()[&id].was_forgotten;
                            assert!(was_forgotten, "{id} {name}: {e}");
                        }
                    }
                }
                self.did("snapshots read in a mount");
            }
            self.scene.run(["umount", "mnt"]).ok();
        }
    }
}

fn crowd(time: Duration) {
    let scene = Scene::new("crowd");
    fs::create_dir(scene.path("copies")).unwrap();
    let (shots, done) = (Mutex::default(), Mutex::default());
    let crowd = Crowd { scene: &scene, end: Instant::now() + time, shots, done };
    std::thread::scope(|scope| {
        for (n, (machine, cache)) in MACHINES.into_iter().enumerate() {
            let crowd = &crowd;
            scope.spawn(move || crowd.backs_up(machine, cache, n as u64));
        }
        let acts = [
            Crowd::checks,
            Crowd::forgets,
            Crowd::tags,
            Crowd::restores,
            Crowd::reads_a_mount,
            Crowd::replicates,
        ];
        for act in acts {
            let crowd = &crowd;
            scope.spawn(move || act(crowd));
        }
    });
    let (shots, done) = (crowd.shots.into_inner(), crowd.done.into_inner());
    println!("a crowd, {} s: {done:?}", time.as_secs());
    let listed: Vec<String> =
        scene.snapshots().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect();
    let mut wanted: Vec<&String> = shots.iter().filter(|(_, s)| !s.is_forgotten).map(|(id, _)| id).collect();
    wanted.sort();
    let mut sorted: Vec<&String> = listed.iter().collect();
    sorted.sort();
    assert_eq!(sorted, wanted);
    let leases = scene.objects().iter().filter(|o| o.starts_with("leases")).count();
    assert_eq!(leases, 0, "leases of sessions that are over");
    scene.run(["check", "--read-data"]).ok();
    scene.run(["replicate", "-q", "replica"]).ok();
    scene.run(["-r", "replica", "check", "-q", "--read-data"]).ok();
    let copies = scene.run(["-r", "replica", "snapshots", "--json"]).ok().json();
    for (id, shot) in shots.iter().filter(|(_, s)| !s.is_forgotten) {
        assert!(copies.as_array().unwrap().iter().any(|s| s["id"] == id.as_str()), "{id}: {copies}");
        let target = scene.restore(&format!("{id}:{}", scene.path(shot.machine).display()));
        let found = differences(&shot.copy, &target, &[]);
        assert!(found.is_empty(), "{id}: {found}");
        fs::remove_dir_all(target).unwrap();
    }
}

#[test]
fn in_a_crowd_nothing_is_lost_and_nobody_is_stuck() {
    crowd(Duration::from_secs(15));
}

#[test]
#[ignore = "minutes: CROWD_MINUTES (3)"]
fn in_a_crowd_that_stays_nothing_is_lost_and_nobody_is_stuck() {
    let minutes = std::env::var("CROWD_MINUTES").ok().and_then(|m| m.parse().ok()).unwrap_or(3);
    crowd(Duration::from_secs(60 * minutes));
}
