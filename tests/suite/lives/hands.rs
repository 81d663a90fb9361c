//! What is done in a life, and the hands that do it: the program, as people call it, or the library within this process.

use crate::suite::scene::{Scene, Started};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Machines that back up, each with a cache and a name.
pub const MACHINES: [&str; 2] = ["anna", "berta"];

/// Something that people do. Ids are whole.
#[derive(Clone, Debug)]
pub enum Deed {
    Backup {
        tag: String,
        force: bool,
    },
    Forget(String),
    /// By rules: the newest so many of each host stay.
    ForgetBut(usize),
    Undo(String),
    /// Adds the tag `seen`, or removes it.
    Tag(String, bool),
    /// Holds, or releases.
    Hold(String, bool),
    /// With so many hours of grace.
    Prune(i64),
    PruneNow,
    RepairIndex,
    RepairPacks,
    /// Tells what it would do.
    RepairSnapshots,
    Check,
    /// Into a replica of the scene.
    Replicate,
    /// Lists.
    Look,
}

/// How it ended: the exit code, and what was said.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub said: String,
}

impl Ended {
    #[track_caller]
    pub fn ok(self) {
        assert_eq!(self.code, 0, "{}", self.said);
    }
    #[track_caller]
    pub fn fails(self, why: &str) {
        assert!(self.code != 0 && self.said.contains(why), "{self:?}");
    }
    /// With one of these codes.
    #[track_caller]
    pub fn among(self, codes: &[i32]) -> i32 {
        assert!(codes.contains(&self.code), "{self:?}");
        self.code
    }
}

/// Ids, with tags and whether it is held.
pub type Shown = BTreeMap<String, (Vec<String>, bool)>;

/// Does what is asked for on one of the [`MACHINES`], each of which has a cache of its own.
pub trait Hands {
    fn does(&mut self, scene: &Scene, machine: usize, deed: &Deed) -> Ended;
    /// Begins it and dies after so many thousandths of what it takes.
    fn dies(&mut self, scene: &Scene, machine: usize, deed: &Deed, part: u64);
    fn shown(&self, scene: &Scene, machine: usize) -> Shown;
    /// All that is there, forgotten or not.
    fn there(&self, scene: &Scene, machine: usize) -> BTreeSet<String>;
    /// Brings the source of a snapshot back below `to`, as far as it is there. Whether all of it is.
    fn restores(&mut self, scene: &Scene, machine: usize, id: &str, to: &Path) -> bool;
    /// For the repository so many seconds pass, which are negative where its clock is set back.
    fn passes(&mut self, scene: &Scene, seconds: i64);
    /// Whether that clock can be set as one likes; else only leases grow old.
    fn has_clock(&self) -> bool;
}

pub fn cache(scene: &Scene, machine: usize) -> PathBuf {
    scene.path(&format!("cache of {}", MACHINES[machine]))
}

/// The program.
#[derive(Default)]
pub struct Program {
    /// Seconds that the last backup and the last prune took.
    took: (f64, f64),
}

impl Program {
    fn args(machine: usize, deed: &Deed) -> Vec<String> {
        let line = match deed {
            Deed::Backup { tag, force } => {
                let force = if *force { " --force" } else { "" };
                format!("backup -q --host {} --tag {tag} source{force}", MACHINES[machine])
            }
            Deed::Forget(id) => format!("forget -q {id}"),
            Deed::ForgetBut(kept) => format!("forget -q --keep-last {kept} --group-by host"),
            Deed::Undo(id) => format!("forget -q --undo {id}"),
            Deed::Tag(id, true) => format!("tag -q --add seen {id}"),
            Deed::Tag(id, false) => format!("tag -q --remove seen {id}"),
            Deed::Hold(id, true) => format!("tag -q --hold {id}"),
            Deed::Hold(id, false) => format!("tag -q --release {id}"),
            Deed::Prune(hours) => format!(
                "prune -q --grace {} --max-unused 0%",
                if *hours == 0 { "0".into() } else { format!("{hours}h") }
            ),
            Deed::PruneNow => "prune -q --now --max-unused 0%".into(),
            Deed::RepairIndex => "repair index -q".into(),
            Deed::RepairPacks => "repair packs -q --read-data".into(),
            Deed::RepairSnapshots => "repair snapshots -q --read-data --dry-run".into(),
            Deed::Check => "check -q --read-data".into(),
            Deed::Replicate => "replicate -q replica".into(),
            Deed::Look => "snapshots".into(),
        };
        line.split(' ').map(str::to_owned).collect()
    }

    fn started(scene: &Scene, machine: usize, args: &[String]) -> Started {
        let mut command = scene.command(args);
        command.env("PASTFS_CACHE", cache(scene, machine));
        scene.start(command)
    }

    fn list(scene: &Scene, machine: usize, more: &[&str]) -> Vec<Value> {
        let args = [&["snapshots", "--json"][..], more].concat();
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        let list = Self::started(scene, machine, &args).wait().ok().json();
        list.as_array().unwrap().clone()
    }
}

impl Hands for Program {
    fn does(&mut self, scene: &Scene, machine: usize, deed: &Deed) -> Ended {
        let began = Instant::now();
        let ran = Self::started(scene, machine, &Self::args(machine, deed)).wait().orderly();
        let took = began.elapsed().as_secs_f64();
        match deed {
            Deed::Backup { .. } => self.took.0 = took,
            Deed::Prune(_) => self.took.1 = took,
            _ => {}
        }
        Ended { code: ran.code.unwrap_or(-1), said: format!("{}{}", ran.err, ran.text()) }
    }

    fn dies(&mut self, scene: &Scene, machine: usize, deed: &Deed, part: u64) {
        let took = if matches!(deed, Deed::Backup { .. }) { self.took.0 } else { self.took.1 };
        let running = Self::started(scene, machine, &Self::args(machine, deed));
        std::thread::sleep(Duration::from_secs_f64(took.max(0.05) * part as f64 / 1000.0));
        running.signal(libc::SIGKILL);
        let _ = running.wait();
    }

    fn shown(&self, scene: &Scene, machine: usize) -> Shown {
        let of = |s: &Value| {
            let tags = s["tags"].as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_owned());
            (s["id"].as_str().unwrap().to_owned(), (tags.collect(), s["held"] == true))
        };
        Self::list(scene, machine, &[]).iter().map(of).collect()
    }

    fn there(&self, scene: &Scene, machine: usize) -> BTreeSet<String> {
        let ids = |more: &[&str]| -> Vec<String> {
            let list = Self::list(scene, machine, more);
            list.iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect()
        };
        ids(&[]).into_iter().chain(ids(&["--forgotten"])).collect()
    }

    fn restores(&mut self, scene: &Scene, machine: usize, id: &str, to: &Path) -> bool {
        let what = format!("{id}:{}", scene.source().display());
        let args = ["restore", "-q", &what, "--target", to.to_str().unwrap()].map(str::to_owned);
        Self::started(scene, machine, &args).wait().orderly().code == Some(0)
    }

    fn passes(&mut self, scene: &Scene, seconds: i64) {
        let line = format!("find repository/leases -type f -exec touch -d '{seconds} seconds ago' {{}} +");
        scene.shell(&line).ok();
    }

    fn has_clock(&self) -> bool {
        false
    }
}
