//! One life: what can happen in it, and the model that says what must be readable after each step.

use super::choices::Choices;
use super::hands::{Deed, Hands, MACHINES, Shown};
use crate::suite::scene::{Scene, differences, same_trees};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Most steps of a life.
pub const STEPS_OF_A_LIFE: usize = 30;
/// More than prune needs to delete, and to take no mark of a run for one at work.
const DAY: i64 = 25 * 3600;
/// More than a lease may be silent.
const SILENCE: i64 = 2 * 3600;
/// By so much the clock of the store goes, now and then.
const JUMPS: [i64; 6] = [60, SILENCE, DAY, 8 * DAY, -SILENCE, -DAY];

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
    ("prune --now", 1, Life::prune_now),
    ("repair", 1, Life::repair),
    ("repair, killed", 1, Life::killed_repair),
    ("a cache is lost", 1, Life::lose_cache),
    ("check", 1, Life::check),
    ("time passes", 2, Life::time_passes),
];

/// After every so many steps all is replicated, and each second time who does it dies. Not drawn, so that scripts mean what they
/// meant.
const REPLICATED_EVERY: usize = 5;

/// Hours of grace that prunes are run with, where the clock can be set; else none is waited for.
const GRACES: [i64; 2] = [0, 24];

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

pub struct Life {
    scene: Scene,
    hands: Box<dyn Hands>,
    choices: Choices,
    told: Vec<String>,
    shots: BTreeMap<String, Shot>,
    state: usize,
    /// Whether the source is as its last copy.
    is_copied: bool,
    /// How far the clock was set back, in all.
    back: i64,
}

impl Life {
    /// Lives it to its end. `name` is how it can be lived again, for whoever reads that it failed.
    pub fn live(name: &str, hands: Box<dyn Hands>, choices: Choices) {
        let scene = Scene::new("life");
        let (told, shots) = (Vec::new(), BTreeMap::new());
        let mut life = Self { scene, hands, choices, told, shots, state: 0, is_copied: false, back: 0 };
        fs::create_dir(life.scene.path("copies")).unwrap();
        let lived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            life.files_change();
            life.backup();
            let all: u64 = STEPS.iter().map(|(_, weight, _)| weight).sum();
            for n in 0..STEPS_OF_A_LIFE {
                if life.choices.is_over() {
                    break;
                }
                let mut at = life.below(all);
                let step = STEPS.iter().find(|(_, weight, _)| {
                    let is_it = at < *weight;
                    at = at.saturating_sub(*weight);
                    is_it
                });
                let (name, _, step) = step.unwrap();
                life.told.push((*name).to_string());
                step(&mut life);
                life.is_as_modelled();
                if n % REPLICATED_EVERY == REPLICATED_EVERY - 1 {
                    life.replicate(n / REPLICATED_EVERY);
                }
            }
            life.ends_well();
        }));
        if let Err(e) = lived {
            eprintln!("{name}:\n  {}", life.told.join("\n  "));
            std::panic::resume_unwind(e);
        }
    }

    fn below(&mut self, n: u64) -> u64 {
        self.choices.below(n)
    }

    fn machine(&mut self) -> usize {
        self.below(2) as usize
    }

    fn tell(&mut self, what: String) {
        self.told.push(format!("  {what}"));
    }

    /// On one of the machines.
    fn does(&mut self, deed: &Deed) -> super::hands::Ended {
        let machine = self.machine();
        self.tell(format!("{deed:?} on {}", MACHINES[machine]));
        self.hands.does(&self.scene, machine, deed)
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
                    fs::write(&path, self.choices.bytes(m.len() as usize)).unwrap();
                    fs::File::open(&path).unwrap().set_modified(m.modified().unwrap()).unwrap();
                }
                6 => drop(fs::remove_dir_all(&dir)),
                _ if path.is_symlink() => drop(fs::remove_file(&path)),
                _ => fs::write(&path, self.choices.bytes(len)).unwrap(),
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

    fn backup_deed(&mut self) -> (usize, Deed) {
        self.keep_copy();
        let (machine, force) = (self.machine(), self.below(6) == 0);
        (machine, Deed::Backup { tag: format!("s{}", self.state), force })
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

    /// There is one more, of this state.
    fn adopt_one(&mut self, machine: usize) {
        let new = self.new_ones();
        assert_eq!(new.len(), 1, "a backup is one snapshot");
        self.tell(format!("{} of state {} by {}", new[0], self.state, MACHINES[machine]));
        self.adopt(new[0].clone(), MACHINES[machine]);
    }

    fn backup(&mut self) {
        let (machine, deed) = self.backup_deed();
        self.hands.does(&self.scene, machine, &deed).ok();
        self.adopt_one(machine);
    }

    fn killed_backup(&mut self) {
        let (machine, deed) = self.backup_deed();
        let part = self.below(1000);
        self.hands.dies(&self.scene, machine, &deed, part);
        // It may have been done already.
        for id in self.new_ones() {
            self.tell(format!("it was done: {id}"));
            self.adopt(id, MACHINES[machine]);
        }
    }

    fn forget(&mut self) {
        let Some(id) = self.some(|s| !s.is_held && !s.is_forgotten) else { return };
        self.does(&Deed::Forget(id.clone())).ok();
        self.shots.get_mut(&id).unwrap().is_forgotten = true;
    }

    /// The newest of each host stay, and what is held.
    fn forget_by_rules(&mut self) {
        let kept = 1 + self.below(3) as usize;
        self.does(&Deed::ForgetBut(kept)).ok();
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
        self.brings_back(&id);
    }

    /// A forgotten snapshot. A prune that was killed is known to be over where it was a process of its own; else that takes a
    /// day, and before one is told that it may be at work still.
    fn brings_back(&mut self, id: &str) {
        if self.hands.has_clock() {
            self.hands.passes(&self.scene, DAY + self.back);
        }
        self.does(&Deed::Undo(id.to_owned())).ok();
        self.shots.get_mut(id).unwrap().is_forgotten = false;
    }

    fn tag(&mut self) {
        let Some(id) = self.some(|s| !s.is_forgotten) else { return };
        let is_there = self.shots[&id].tags.iter().any(|t| t == "seen");
        self.does(&Deed::Tag(id.clone(), !is_there)).ok();
        let tags = &mut self.shots.get_mut(&id).unwrap().tags;
        tags.retain(|t| t != "seen");
        if !is_there {
            tags.push("seen".into());
        }
    }

    fn hold_or_release(&mut self) {
        let Some(id) = self.some(|s| !s.is_forgotten) else { return };
        let is_held = self.shots[&id].is_held;
        self.does(&Deed::Hold(id.clone(), !is_held)).ok();
        self.shots.get_mut(&id).unwrap().is_held = !is_held;
        if !is_held {
            self.does(&Deed::Forget(id)).fails("held");
        }
    }

    fn prune_deed(&mut self) -> Deed {
        let graces = if self.hands.has_clock() { GRACES.len() as u64 } else { 1 };
        Deed::Prune(GRACES[self.below(graces) as usize])
    }

    fn prune(&mut self) {
        let deed = self.prune_deed();
        self.does(&deed).ok();
        self.some_are_gone();
    }

    fn killed_prune(&mut self) {
        let deed = self.prune_deed();
        self.dies(&deed);
        self.some_are_gone();
    }

    fn dies(&mut self, deed: &Deed) {
        let (machine, part) = (self.machine(), self.below(1200));
        self.tell(format!("{deed:?} on {}, dead after {part} thousandths", MACHINES[machine]));
        self.hands.dies(&self.scene, machine, deed, part);
    }

    /// Leases of the dead are silent by then. One call ends them, the next one deletes.
    fn prune_now(&mut self) {
        self.hands.passes(&self.scene, SILENCE + self.back);
        let ended = self.does(&Deed::PruneNow);
        if ended.code != 0 {
            assert!(ended.said.contains("silent for an hour"), "{ended:?}");
            self.does(&Deed::PruneNow).ok();
        }
        self.some_are_gone();
        let left = self.shots.values().filter(|s| s.is_forgotten).count();
        assert_eq!(left, 0, "forgotten snapshots that are left by prune --now");
    }

    /// A prune deletes what is forgotten, and nothing else.
    fn some_are_gone(&mut self) {
        let machine = self.machine();
        let there = self.hands.there(&self.scene, machine);
        self.shots.retain(|id, shot| !shot.is_forgotten || there.contains(id));
    }

    fn repair_deed(&mut self) -> Deed {
        [Deed::RepairIndex, Deed::RepairPacks, Deed::RepairSnapshots][self.below(3) as usize].clone()
    }

    /// Of what is whole nothing is repaired, and nothing is hurt.
    fn repair(&mut self) {
        let deed = self.repair_deed();
        self.does(&deed).ok();
    }

    fn killed_repair(&mut self) {
        let deed = self.repair_deed();
        self.dies(&deed);
    }

    /// The replica has all that is shown, as it is shown, after whatever befell it before.
    fn replicate(&mut self, time: usize) {
        let (machine, part) = (time % MACHINES.len(), (time * 377 % 1000) as u64);
        if time % 2 == 1 {
            self.told.push(format!("replicate, dead after {part} thousandths"));
            self.hands.dies(&self.scene, machine, &Deed::Replicate, part);
            return;
        }
        self.told.push("replicate".into());
        self.hands.does(&self.scene, machine, &Deed::Replicate).ok();
        let list = self.scene.run(["-r", "replica", "snapshots", "--json"]).ok().json();
        let find = |id: &str| list.as_array().unwrap().iter().find(|s| s["id"] == id);
        for (id, shot) in self.shots.iter().filter(|(_, s)| !s.is_forgotten) {
            let Some(copy) = find(id) else { panic!("{id} is not in the replica: {list}") };
            let mut tags = shot.tags.clone();
            tags.sort();
            assert_eq!((&copy["tags"], &copy["held"]), (&tags.into(), &shot.is_held.into()), "{id}");
        }
    }

    /// All of it comes back from the replica.
    fn replica_is_well(&mut self) {
        self.replicate(0);
        self.scene.run(["-r", "replica", "check", "-q", "--read-data"]).ok();
        let Some((id, shot)) = self.shots.iter().rfind(|(_, s)| !s.is_forgotten) else { return };
        let out = self.scene.path("from the replica");
        let what = format!("{id}:{}", self.scene.source().display());
        let target = out.to_str().unwrap();
        self.scene.run(["-r", "replica", "restore", "-q", &what, "--target", target]).ok();
        same_trees(&self.copy(shot.state), &out);
    }

    fn lose_cache(&mut self) {
        let machine = self.machine();
        let _ = fs::remove_dir_all(super::hands::cache(&self.scene, machine));
    }

    fn check(&mut self) {
        self.does(&Deed::Check).ok();
    }

    /// The clock of the store goes on, jumps, or is set back.
    fn time_passes(&mut self) {
        if !self.hands.has_clock() {
            return;
        }
        let seconds = JUMPS[self.below(JUMPS.len() as u64) as usize];
        self.tell(format!("{seconds} seconds"));
        self.back += (-seconds).max(0);
        self.hands.passes(&self.scene, seconds);
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
        let machine = self.machine();
        let is_whole = self.hands.restores(&self.scene, machine, id, &out);
        let copy = self.copy(self.shots[id].state);
        if is_whole {
            same_trees(&copy, &out);
        }
        for file in files(&out) {
            let (a, b) = (fs::read(out.join(&file)).unwrap(), fs::read(copy.join(&file)).unwrap_or_default());
            assert!(a == b, "wrong bytes in {}", file.display());
        }
        is_whole
    }

    /// An object is not what it was, and is mended later; meanwhile everything goes on as well as it can.
    fn damage(&mut self) {
        let objects = self.scene.objects();
        let object = objects[self.below(objects.len() as u64) as usize].clone();
        let path = self.scene.repository().join(&object);
        let (good, times) = (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().modified().unwrap());
        let mut bad = good.clone();
        let at = self.below(bad.len() as u64) as usize;
        let how = ["flipped", "cut", "deleted"][self.below(3) as usize];
        self.tell(format!("{how} at {at}: {}", object.display()));
        let put = |bytes: &[u8]| {
            let _ = fs::remove_file(&path);
            fs::write(&path, bytes).unwrap();
            fs::File::options().write(true).open(&path).unwrap().set_modified(times).unwrap();
        };
        match how {
            "flipped" => bad[at] ^= 1 << self.below(8),
            "cut" => bad.truncate(at),
            _ => fs::remove_file(&path).unwrap(),
        }
        if how != "deleted" {
            put(&bad);
        }
        drop(self.does(&Deed::Look));
        if let Some(id) = self.some(|s| !s.is_forgotten) {
            let is_whole = self.restored(&id);
            self.tell(format!("{id}, whole: {is_whole}"));
        }
        let (machine, deed) = self.backup_deed();
        let is_saved = self.hands.does(&self.scene, machine, &deed).among(&[0, 4, 10, 12]) == 0;
        drop(self.does(&Deed::Check));
        // Whoever works on it now makes nothing worse.
        let works = [Deed::Prune(0), Deed::RepairIndex, Deed::RepairPacks, Deed::RepairSnapshots, Deed::Look];
        let deed = works[self.below(5) as usize].clone();
        self.does(&deed).among(&[0, 1, 4, 10, 12]);
        // Mended as a file that is copied back.
        put(&good);
        if is_saved {
            self.adopt_one(machine);
        }
        self.some_are_gone();
    }

    fn shown(&self) -> Shown {
        self.hands.shown(&self.scene, self.shots.len() % 2)
    }

    fn is_as_modelled(&mut self) {
        let model: Shown = self
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
        self.told.push("the end".into());
        self.does(&Deed::Check).ok();
        for (id, shot) in self.shots.clone() {
            if shot.is_forgotten {
                self.brings_back(&id);
            }
        }
        self.is_as_modelled();
        self.replica_is_well();
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
