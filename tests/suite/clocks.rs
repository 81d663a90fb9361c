//! Machines whose clocks are wrong by a day, beside one whose clock is right, at one repository. The clock is set by a
//! library that is loaded before the others.

use super::scene::{Scene, same_trees};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// `clock_gettime(2)` with `PASTFS_TEST_CLOCK` seconds added to the time of day.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *t) {
    int done = syscall(SYS_clock_gettime, id, t);
    const char *off = getenv("PASTFS_TEST_CLOCK");
    if (done == 0 && off && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) t->tv_sec += atol(off);
    return done;
}
time_t time(time_t *out) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    if (out) *out = t.tv_sec;
    return t.tv_sec;
}
"#;

const DAY: i64 = 86_400;
/// Machines, and how wrong their clocks are in seconds.
const MACHINES: [(&str, i64); 3] = [("right", 0), ("ahead", DAY), ("behind", -DAY)];

struct Machines {
    scene: Scene,
    shim: PathBuf,
}

impl Machines {
    fn new() -> Self {
        let scene = Scene::new("clocks");
        let shim = scene.path("clock.so");
        fs::write(scene.path("clock.c"), SHIM).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&shim).arg(scene.path("clock.c"));
        assert!(cc.stderr(Stdio::inherit()).status().unwrap().success(), "cc cannot make a library");
        Self { scene, shim }
    }

    fn command(&self, machine: &str, args: &[&str]) -> Command {
        let off = MACHINES.iter().find(|(name, _)| *name == machine).unwrap().1;
        let mut command = self.scene.command(args);
        command
            .env("LD_PRELOAD", &self.shim)
            .env("PASTFS_TEST_CLOCK", off.to_string())
            .env("PASTFS_CACHE", self.scene.path(&format!("cache of {machine}")));
        command
    }

    fn run(&self, machine: &str, args: &[&str]) -> super::scene::Ran {
        self.scene.run_command(self.command(machine, args))
    }

    fn ids(&self, machine: &str) -> Vec<String> {
        let list = self.run(machine, &["snapshots", "--json"]).ok().json();
        list.as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect()
    }

    /// Saves a state of the source, of which a copy stays.
    fn backup(&self, machine: &str, state: &str) -> String {
        fs::write(self.scene.source().join("f"), state).unwrap();
        fs::write(self.scene.source().join(state), state).unwrap();
        self.scene.shell(&format!("cp -a source 'copy of {state}'")).ok();
        let args = ["backup", "--json", "--host", machine, "--tag", state, "source"];
        self.run(machine, &args).ok().json()["snapshot_id"].as_str().unwrap().to_owned()
    }

    /// Every machine sees the same, finds nothing wrong, and gets everything back.
    fn all_is_well(&self, wanted: &[&String]) {
        let wanted: BTreeSet<String> = wanted.iter().map(|id| (*id).clone()).collect();
        for (machine, _) in MACHINES {
            assert_eq!(
                self.ids(machine).into_iter().collect::<BTreeSet<_>>(),
                wanted,
                "as {machine} sees it"
            );
            self.run(machine, &["check", "--read-data"]).ok();
        }
        let list = self.run("right", &["snapshots", "--json"]).ok().json();
        for s in list.as_array().unwrap() {
            let state = s["tags"][0].as_str().unwrap();
            let target = self.scene.restore(&format!(
                "{}:{}",
                s["id"].as_str().unwrap(),
                self.scene.source().display()
            ));
            same_trees(&self.scene.path(&format!("copy of {state}")), &target);
        }
    }
}

#[test]
fn a_clock_that_is_wrong_by_a_day_loses_nothing() {
    let m = Machines::new();
    let mut all = Vec::new();
    for round in ["1", "2"] {
        for (machine, _) in MACHINES {
            all.push(m.backup(machine, &format!("{machine} {round}")));
        }
    }
    let [right1, ahead1, behind1, _, ahead2, _] = &all[..] else { panic!("{all:?}") };
    m.all_is_well(&all.iter().collect::<Vec<_>>());
    // The time of a snapshot is its machine's word, and lists are in that order.
    let times = m.scene.snapshots();
    let hosts: Vec<&str> = times.iter().map(|s| s["host"].as_str().unwrap()).collect();
    assert_eq!(hosts, ["behind", "behind", "right", "right", "ahead", "ahead"]);

    // The last word counts, whoever says it: what a clock says that is behind does not come before it.
    for (forgets, brings_back) in
        [("ahead", "right"), ("ahead", "behind"), ("right", "behind"), ("behind", "ahead")]
    {
        for id in [right1, ahead1, behind1] {
            m.run(forgets, &["forget", "-q", id]).ok();
            assert!(!m.ids(brings_back).contains(id), "{forgets} forgot it");
            m.run(brings_back, &["forget", "-q", "--undo", id]).ok();
            assert!(m.ids("right").contains(id), "{brings_back} brought back what {forgets} forgot");
        }
    }
    m.run("ahead", &["tag", "-q", "--hold", behind1]).ok();
    m.run("behind", &["forget", "-q", behind1]).fails().says("held");
    m.run("behind", &["tag", "-q", "--release", behind1]).ok();
    m.all_is_well(&all.iter().collect::<Vec<_>>());

    // By rules: the newest of each machine stays whoever asks, and what comes from the future.
    for (machine, _) in MACHINES {
        for rules in [&["--keep-within", "1h"][..], &["--keep-daily", "1"], &["--keep-last", "1"]] {
            let args = [&["forget", "--json", "--dry-run"][..], rules].concat();
            let told = m.run(machine, &args).ok();
            let told = told.json();
            let kept: Vec<&str> = told["snapshots"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|s| s["action"] == "keep")
                .map(|s| s["host"].as_str().unwrap())
                .collect();
            for (host, _) in MACHINES {
                assert!(kept.contains(&host), "{machine}, {rules:?}: {told}");
            }
        }
    }
    // For real, by the one whose clock is ahead; then taken back by the one whose clock is behind.
    m.run("ahead", &["forget", "-q", "--keep-last", "1"]).ok();
    let left = m.ids("right");
    assert!(left.len() < all.len() && left.contains(ahead2), "{left:?}");
    for id in all.iter().filter(|id| !left.contains(id)) {
        m.run("behind", &["forget", "-q", "--undo", id]).ok();
    }
    m.all_is_well(&all.iter().collect::<Vec<_>>());
    assert_eq!(m.scene.objects().iter().filter(|o| o.starts_with("leases")).count(), 0);
}

/// Its library stands before all others of a process and allocates while it finds out what time it is: an allocator that asks
/// for the time while it sets itself up would wait for itself for ever.
#[test]
fn under_faketime_commands_end_and_work_at_the_time_they_are_told() {
    let libraries =
        fs::read_dir("/usr/lib").unwrap().map(|e| e.unwrap().path().join("faketime/libfaketime.so.1"));
    let library =
        libraries.filter(|l| l.exists()).last().expect("libfaketime is not installed: see `make test`");
    let scene = Scene::new("faketime");
    fs::write(scene.source().join("f"), "text").unwrap();
    let at = |time: &str, args: &[&str]| {
        let mut command = scene.command(args);
        command.env("LD_PRELOAD", &library).env("FAKETIME", time);
        scene.run_command(command).ok()
    };
    at("-30d", &["backup", "-q", "source"]);
    at("+0d", &["backup", "-q", "source"]);
    let times: Vec<String> =
        scene.snapshots().iter().map(|s| s["time"].as_str().unwrap()[..10].to_owned()).collect();
    let [then, now] = &times[..] else { panic!("{times:?}") };
    assert!(then < now, "{times:?}");
    at("+1d", &["forget", "-q", "--keep-last", "1", "--prune"]);
    at("-1d", &["check", "-q", "--read-data"]);
    scene.latest_equals_source();
}
