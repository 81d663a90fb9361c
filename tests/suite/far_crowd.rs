//! The year of a repository elsewhere, in minutes: two hosts back up into one bucket of Ceph while a third machine has it
//! mounted, a fourth forgets and prunes, and one after the other of Ceph's daemons dies and comes back. Then packs are
//! damaged, and healed from a replica on WebDAV.
//!
//! `CROWD_MINUTES` says how long in the soak (3).

use super::remote_faults::scene_at;
use super::scene::{Draw, Scene, differences, fill};
use super::servers::{S3, s3, webdav};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// Hosts that back up.
const HOSTS: [&str; 2] = ["anna", "berta"];
/// Snapshots of a host beyond these are forgotten.
const KEPT: usize = 3;
/// Files of a host.
const FILES: u64 = 60;
/// How long one of Ceph's daemons is dead at a time, and how long all live.
const DEAD: Duration = Duration::from_secs(8);

#[derive(Clone)]
struct Shot {
    host: &'static str,
    copy: PathBuf,
    is_forgotten: bool,
}

struct Crowd<'a> {
    scene: &'a Scene,
    end: Instant,
    shots: Mutex<BTreeMap<String, Shot>>,
    done: Mutex<BTreeMap<&'static str, usize>>,
}

impl Crowd<'_> {
    fn is_over(&self) -> bool {
        Instant::now() > self.end
    }

    fn did(&self, what: &'static str) {
        *self.done.lock().entry(what).or_default() += 1;
    }

    fn at(&self, machine: &str, args: &[&str]) -> Command {
        let mut command = self.scene.command(args);
        command.env("PASTFS_CACHE", self.scene.path(&format!("cache of {machine}")));
        command
    }

    fn backs_up(&self, host: &'static str, seed: u64) {
        let mut draw = Draw(seed);
        let source = self.scene.path(host);
        fill(&source, FILES as usize, 20_000, seed);
        for n in 0.. {
            if self.is_over() {
                return;
            }
            for _ in 0..5 {
                let f = draw.next() % FILES;
                let bytes = draw.bytes(25_000);
                fs::write(source.join(format!("{}/{f}", f % 16)), bytes).unwrap();
            }
            let copy = self.scene.path(&format!("copies/{host}-{n}"));
            self.scene.shell(&format!("cp -a {host} {}", copy.display())).ok();
            let args = ["backup", "--json", "--host", host, host];
            let told = self.scene.run_command(self.at(host, &args)).ok().json();
            let id = told["snapshot_id"].as_str().unwrap().to_owned();
            self.shots.lock().insert(id, Shot { host, copy, is_forgotten: false });
            self.did("backups");
        }
    }

    /// Forgets the oldest ones, and prunes without a time of grace.
    fn prunes(&self) {
        while !self.is_over() {
            let mut old = Vec::new();
            for host in HOSTS {
                // Ids are no times: the copies are numbered.
                let mut shots = self.shots.lock();
                let mut of_host: Vec<_> =
                    shots.iter_mut().filter(|(_, s)| s.host == host && !s.is_forgotten).collect();
                of_host.sort_by_key(|(_, s)| (s.copy.as_os_str().len(), s.copy.clone()));
                let spare = of_host.len().saturating_sub(KEPT);
                for (id, shot) in of_host.into_iter().take(spare) {
                    shot.is_forgotten = true;
                    old.push(id.clone());
                }
            }
            if !old.is_empty() {
                let args: Vec<&str> =
                    ["forget", "-q"].into_iter().chain(old.iter().map(String::as_str)).collect();
                self.scene.run_command(self.at("pruner", &args)).ok();
            }
            let args = ["prune", "-q", "--grace", "0", "--max-unused", "0%"];
            self.scene.run_command(self.at("pruner", &args)).ok();
            self.did("prunes");
        }
    }

    fn reads_the_mount(&self) {
        let mnt = self.scene.mnt();
        let args = ["mount", "--names", "{id}", "--refresh", "1", "mnt"];
        self.scene.run_command(self.at("reader", &args)).ok();
        let mut draw = Draw(80);
        while !self.is_over() {
            let shots: Vec<_> = {
                let shots = self.shots.lock();
                shots.iter().filter(|(_, s)| !s.is_forgotten).map(|(i, s)| (i.clone(), s.clone())).collect()
            };
            let Some((id, shot)) = shots.get(draw.next() as usize % shots.len().max(1)) else {
                thread::sleep(Duration::from_millis(100));
                continue;
            };
            let inside = mnt.join(id);
            if !inside.exists() {
                thread::sleep(Duration::from_millis(100));
                continue;
            }
            let inside = inside.join(self.scene.path(shot.host).strip_prefix("/").unwrap());
            for f in 0..FILES {
                let name = format!("{}/{f}", f % 16);
                match fs::read(inside.join(&name)) {
                    Ok(bytes) => assert!(bytes == fs::read(shot.copy.join(&name)).unwrap(), "{id} {name}"),
                    Err(e) => assert!(self.shots.lock()[id].is_forgotten, "{id} {name}: {e}"),
                }
            }
            self.did("snapshots read in the mount");
        }
        self.scene.run(["umount", "mnt"]).ok();
    }

    /// One dead at a time.
    fn loses_daemons(&self, s3: &S3) {
        let _alone = s3.alone_with_osds();
        for n in (0..super::servers::OSDS).cycle() {
            thread::sleep(DEAD);
            if self.is_over() {
                return;
            }
            s3.osd(n).kill();
            thread::sleep(DEAD);
            s3.start_osd(n);
            self.did("deaths of a daemon");
        }
    }

    /// All snapshots that are to be there are, and as they were.
    fn is_whole(&self) {
        let listed: Vec<String> =
            self.scene.snapshots().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect();
        let shots = self.shots.lock();
        let kept: Vec<_> = shots.iter().filter(|(_, s)| !s.is_forgotten).collect();
        assert_eq!(listed.len(), kept.len());
        for (id, shot) in kept {
            assert!(listed.contains(id), "{id} of {}", shot.host);
            let target = self.scene.restore(&format!("{id}:{}", self.scene.path(shot.host).display()));
            let found = differences(&shot.copy, &target, &[]);
            assert!(found.is_empty(), "{id}: {found}");
            fs::remove_dir_all(target).unwrap();
        }
    }
}

/// Flips a bit of one pack, replaces another by rubbish, and deletes a third; as many as there are.
fn damage_packs(s3: &S3, scene: &Scene) -> usize {
    let prefix = scene.dir.file_name().unwrap().to_str().unwrap();
    let query = format!("{}?list-type=2&prefix={prefix}%2Fpacks%2F", s3.bucket);
    let (status, list) = s3.ask("GET", &query, None);
    assert_eq!(status, 200, "{list}");
    let keys = list.split("<Key>").skip(1).filter_map(|k| k.split("</Key>").next());
    let mut damaged = 0;
    for (n, key) in keys.take(3).enumerate() {
        let object = format!("{}/{key}", s3.bucket);
        let status = match n {
            0 => {
                let file = scene.path("a pack");
                s3.download(&object, &file);
                let mut bytes = fs::read(&file).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                fs::write(&file, bytes).unwrap();
                s3.ask("PUT", &object, Some(&format!("@{}", file.display()))).0
            }
            1 => s3.ask("PUT", &object, Some("rubbish")).0,
            _ => s3.ask("DELETE", &object, None).0,
        };
        assert!(status == 200 || status == 204, "{key}: {status}");
        damaged += 1;
    }
    damaged
}

fn crowd(time: Duration) {
    let s3 = s3();
    let scene = scene_at("far-crowd", &s3.endpoint);
    fs::create_dir(scene.path("copies")).unwrap();
    let (shots, done) = (Mutex::default(), Mutex::default());
    let crowd = Crowd { scene: &scene, end: Instant::now() + time, shots, done };
    thread::scope(|scope| {
        for (n, host) in HOSTS.into_iter().enumerate() {
            let crowd = &crowd;
            scope.spawn(move || crowd.backs_up(host, n as u64));
        }
        scope.spawn(|| crowd.prunes());
        scope.spawn(|| crowd.reads_the_mount());
        scope.spawn(|| crowd.loses_daemons(s3));
    });
    println!("a far crowd, {} s: {:?}", time.as_secs(), crowd.done.lock());
    scene.run(["check", "--read-data"]).ok();
    crowd.is_whole();

    let dav = webdav();
    let replica = format!("{}/replica", dav.endpoint.replace("http://", "webdav://"));
    let with_replica = |args: &[&str]| {
        let mut command = scene.command(args);
        command.env("PASTFS_WEBDAV_USER", dav.user).env("PASTFS_WEBDAV_PASSWORD", dav.password);
        scene.run_command(command)
    };
    with_replica(&["replicate", "-q", &replica]).ok();
    assert!(damage_packs(s3, &scene) >= 2, "there are hardly any packs to be damaged");
    // By a machine that has nothing of it at hand.
    let _ = fs::remove_dir_all(scene.cache());
    scene.run(["check", "--read-data"]).code(4);
    with_replica(&["repair", "from", &replica, "--read-data"]).ok();
    let _ = fs::remove_dir_all(scene.cache());
    scene.run(["check", "--read-data"]).ok();
    crowd.is_whole();
}

#[test]
#[ignore = "minutes: CROWD_MINUTES (3)"]
fn in_a_crowd_at_a_bucket_nothing_is_lost_and_a_replica_heals_it() {
    let minutes = std::env::var("CROWD_MINUTES").ok().and_then(|m| m.parse().ok()).unwrap_or(3);
    crowd(Duration::from_secs(60 * minutes));
}
