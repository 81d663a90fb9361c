//! A day of a mount in small: programs read at random, backups add snapshots, snapshots are forgotten and pruned, the
//! repository is away for a while, the cache is deleted, readers are stopped. At the end every byte was right, and what the
//! daemon holds (memory, descriptors, threads) is what it held before.
//!
//! `SOAK_MINUTES` says how long (10); a day is 1440. The numbers come as a table at the end.

use super::scene::{Draw, Mount, Scene, is_mounted, soon};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Small files, in folders of 16; and large ones beside them.
const SMALL: u64 = 320;
const LARGE: u64 = 4;
/// Together they are more than the cache of frames holds.
const LARGE_BLOCKS: u64 = 8000;
const BLOCK: u64 = 4096;
/// Snapshots that are kept; before a new one the oldest goes.
const SNAPSHOTS: usize = 30;
/// Time between two backups.
const PAUSE: Duration = Duration::from_secs(3);
/// How long the packs are away.
const AWAY: Duration = Duration::from_secs(4);
/// Between two samples of what the daemon holds.
const SAMPLE: Duration = Duration::from_secs(5);
/// How much more the last quarter may hold than the second. The cache of decoded folders (24 MiB) takes 100 KiB for each
/// new snapshot here, and is full after half an hour; the rest is noise.
const RESIDENT_SLACK_KIB: u64 = 48 << 10;
/// The same beside the caches, by what the mount says of them. They have bounds of their own, and some of them are full
/// after an hour or two only. What the allocator takes for them comes on top of it: an eighth for its classes of sizes.
const BESIDE_SLACK_KIB: u64 = 24 << 10;
/// Packs that were read stay open, up to 32, until the next list.
const DESCRIPTORS_SLACK: u64 = 40;
const THREADS_SLACK: u64 = 2;
/// Of the daemon, at any time.
const RESIDENT_MAX_KIB: u64 = 256 << 10;

/// In which generation a file was last written, as it is in a snapshot of generation `g`.
fn version(file: u64, g: u64) -> u64 {
    let every = if file < SMALL { 16 } else { 64 };
    // The last v up to g with (v + file) % every == 0; the first generation writes all.
    (g + file) / every * every - file.min((g + file) / every * every)
}

fn blocks(file: u64) -> u64 {
    if file < SMALL { file % 7 } else { LARGE_BLOCKS }
}

/// Length of a file: not a multiple of blocks, and 0 for some.
fn len(file: u64) -> u64 {
    (blocks(file) * BLOCK).saturating_sub(file % 5 * 7)
}

fn block(file: u64, version: u64, n: u64) -> Vec<u8> {
    // A third of the blocks of a large file change with it: the others are shared by its versions.
    let v = if file >= SMALL && !n.is_multiple_of(3) { 0 } else { version };
    Draw((file << 40) ^ (v << 16) ^ n).bytes(BLOCK as usize)
}

fn name(file: u64) -> String {
    if file < SMALL { format!("small/{}/{file}", file / 16) } else { format!("large {file}") }
}

fn write(dir: &Path, file: u64, g: u64) {
    let v = version(file, g);
    let mut bytes = Vec::new();
    for n in 0..blocks(file) {
        bytes.extend_from_slice(&block(file, v, n));
    }
    bytes.truncate(len(file) as usize);
    fs::write(dir.join(name(file)), bytes).unwrap();
}

/// What all threads share.
struct World<'a> {
    mount: &'a Mount<'a>,
    /// Where the source lies below a snapshot.
    inside: PathBuf,
    over: AtomicBool,
    /// Odd while the repository is away, or has just been.
    storms: AtomicU64,
    checked: AtomicU64,
    tools: AtomicU64,
    excused: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl World<'_> {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
    fn fail(&self, text: String) {
        self.failures.lock().unwrap().push(text);
        self.over.store(true, Ordering::Relaxed);
    }
    /// Does something with a random snapshot; an error of it must have an excuse: a repository that was away meanwhile,
    /// or a snapshot that is gone.
    fn with_snapshot(&self, draw: &mut Draw, work: impl FnOnce(&Path, &mut Draw) -> io::Result<()>) {
        let before = self.storms.load(Ordering::SeqCst);
        let dated = self.mount.dated();
        if dated.is_empty() {
            return;
        }
        let snapshot = self.mount.dir.join(&dated[(draw.next() % dated.len() as u64) as usize]);
        let Err(e) = work(&snapshot.join(&self.inside), draw) else { return };
        let after = self.storms.load(Ordering::SeqCst);
        let stormy = before != after || before % 2 == 1;
        let gone = || fs::symlink_metadata(&snapshot).is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
        if stormy || gone() {
            self.excused.fetch_add(1, Ordering::Relaxed);
        } else {
            self.fail(format!("in {}: {e}", snapshot.display()));
        }
    }

    /// Reads pieces at random and compares them with what must be there.
    fn check(&self, seed: u64) {
        let mut draw = Draw(seed);
        while !self.is_over() {
            self.with_snapshot(&mut draw, |dir, draw| self.check_some(dir, draw));
            std::thread::sleep(Duration::from_millis(draw.next() % 5));
        }
    }

    fn check_some(&self, dir: &Path, draw: &mut Draw) -> io::Result<()> {
        let g = fs::read_to_string(dir.join("generation"))?;
        let g: u64 = g.parse().map_err(|_| io::Error::other(format!("generation {g:?}")))?;
        for _ in 0..4 {
            let file =
                if draw.next().is_multiple_of(4) { SMALL + draw.next() % LARGE } else { draw.next() % SMALL };
            let v = version(file, g);
            let open = File::open(dir.join(name(file)))?;
            if draw.next().is_multiple_of(2) {
                // What the kernel has of it goes, so that it is asked for again.
                rustix::fs::fadvise(&open, 0, None, rustix::fs::Advice::DontNeed)?;
            }
            if open.metadata()?.len() != len(file) {
                return Err(io::Error::other(format!("the length of {}", name(file))));
            }
            for _ in 0..3 {
                let n = draw.next() % blocks(file).max(1);
                let mut got = vec![0; BLOCK as usize];
                let mut filled = 0;
                while filled < got.len() {
                    match open.read_at(&mut got[filled..], n * BLOCK + filled as u64)? {
                        0 => break,
                        more => filled += more,
                    }
                }
                let expected_len = len(file).saturating_sub(n * BLOCK).min(BLOCK) as usize;
                let right = if blocks(file) == 0 { Vec::new() } else { block(file, v, n) };
                if filled != expected_len || got[..filled] != right[..filled] {
                    self.fail(format!("WRONG BYTES: {} block {n} of {}", name(file), dir.display()));
                }
                self.checked.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Runs programs as people would.
    fn tools(&self, seed: u64) {
        let lines = [
            "find \"$IN\" -printf '%p %s %T@\\n' >/dev/null",
            "tar -c -C \"$IN\" . | cat >/dev/null",
            "ls -lR \"$IN\" >/dev/null",
            "cat \"$IN\"/large* >/dev/null",
            "du -s \"$IN\" >/dev/null",
            "cp -a \"$IN/small\" \"$OUT\" && rm -rf \"$OUT\"",
            "ls -l \"$MNT\" >/dev/null",
            "stat \"$MNT\"/latest/ >/dev/null",
            "for d in by-host by-tag at versions; do if [ -d \"$MNT/$d\" ]; then find \"$MNT/$d\" -maxdepth 3 >/dev/null; fi; done",
        ];
        let mut draw = Draw(seed);
        while !self.is_over() {
            let line = lines[(draw.next() % lines.len() as u64) as usize];
            self.with_snapshot(&mut draw, |dir, draw| {
                let output = Command::new("bash")
                    .args(["-c", &format!("set -o pipefail; {line}")])
                    .env("IN", dir)
                    .env("MNT", &self.mount.dir)
                    .env("OUT", self.mount.dir.with_file_name(format!("copy-{seed}-{}", draw.next())))
                    .stdin(Stdio::null())
                    .output()?;
                self.tools.fetch_add(1, Ordering::Relaxed);
                if output.status.success() {
                    return Ok(());
                }
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                // What vanishes during a walk over all is no error of the walk.
                if text.lines().all(|l| l.contains("No such file")) && line.contains("MNT") {
                    return Ok(());
                }
                Err(io::Error::other(format!("{line}: {text}")))
            });
            std::thread::sleep(Duration::from_millis(draw.next() % 200));
        }
    }

    /// A reader that is stopped in the middle, and goes on later.
    fn stopped(&self, seed: u64) {
        let mut draw = Draw(seed);
        while !self.is_over() {
            self.with_snapshot(&mut draw, |dir, draw| {
                let cat = Command::new("cat")
                    .arg(dir.join(name(SMALL)))
                    .arg(dir.join(name(SMALL + 1)))
                    .stdout(Stdio::null())
                    .stderr(Stdio::piped())
                    .process_group(0)
                    .spawn()?;
                let pid = cat.id().cast_signed();
                std::thread::sleep(Duration::from_millis(draw.next() % 8));
                // SAFETY: it was not waited for yet, so the number is its own.
                unsafe { libc::kill(pid, libc::SIGSTOP) };
                std::thread::sleep(Duration::from_millis(500 + draw.next() % 2500));
                // SAFETY: as above.
                unsafe { libc::kill(pid, libc::SIGCONT) };
                let output = cat.wait_with_output()?;
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                if output.status.success() { Ok(()) } else { Err(io::Error::other(text)) }
            });
        }
    }
}

/// What the daemon holds at a moment.
#[derive(Clone, Copy)]
struct Sample {
    at: Duration,
    resident_kib: u64,
    /// What the mount itself says that its caches take.
    caches_kib: u64,
    descriptors: u64,
    threads: u64,
    inodes: u64,
}

impl Sample {
    fn beside_kib(&self) -> u64 {
        self.resident_kib.saturating_sub(self.caches_kib)
    }
}

fn sample(pid: i32, mount: &Mount<'_>, at: Duration) -> Option<Sample> {
    let count = |what: &str| Some(fs::read_dir(format!("/proc/{pid}/{what}")).ok()?.count() as u64);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:"))?;
    let statistics = mount.statistics();
    let caches = statistics["caches"].as_object()?.values();
    Some(Sample {
        at,
        resident_kib: line.split_whitespace().nth(1)?.parse().ok()?,
        caches_kib: caches.map(|bytes| bytes.as_u64().unwrap() >> 10).sum(),
        descriptors: count("fd")?,
        threads: count("task")?,
        inodes: statistics["inodes"].as_u64()?,
    })
}

fn median(samples: &[Sample], of: fn(&Sample) -> u64) -> u64 {
    let mut all: Vec<u64> = samples.iter().map(of).collect();
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or_default()
}

fn print_table(samples: &[Sample]) {
    println!(
        "{:>8} {:>10} {:>10} {:>8} {:>8} {:>8}",
        "seconds", "RSS KiB", "caches", "fds", "threads", "inodes"
    );
    for part in samples.chunks(samples.len().div_ceil(20).max(1)) {
        println!(
            "{:>8} {:>10} {:>10} {:>8} {:>8} {:>8}",
            part[0].at.as_secs(),
            median(part, |s| s.resident_kib),
            median(part, |s| s.caches_kib),
            median(part, |s| s.descriptors),
            median(part, |s| s.threads),
            median(part, |s| s.inodes)
        );
    }
}

/// The packs are away for a while. (Of a folder that is renamed as a whole nobody who has it open takes notice.)
fn away(scene: &Scene, world: &World<'_>) {
    world.storms.fetch_add(1, Ordering::SeqCst);
    let (packs, elsewhere) = (scene.repository().join("packs"), scene.path("elsewhere"));
    fs::rename(&packs, &elsewhere).unwrap();
    std::thread::sleep(AWAY);
    fs::rename(&elsewhere, &packs).unwrap();
    // Requests that began in the storm may end a moment later.
    std::thread::sleep(Duration::from_secs(1));
    world.storms.fetch_add(1, Ordering::SeqCst);
}

/// Backups, and what else happens to a repository, until the time is over.
fn live(scene: &Scene, world: &World<'_>, until: Instant) -> (u64, Duration) {
    let mut slowest = Duration::ZERO;
    let mut g = 1;
    while Instant::now() < until && !world.is_over() {
        for file in (0..SMALL + LARGE).filter(|f| version(*f, g) == g) {
            write(&scene.source(), file, g);
        }
        fs::write(scene.source().join("generation"), g.to_string()).unwrap();
        scene.backup(&[]);
        let began = Instant::now();
        soon("the new snapshot is shown", || {
            let read = fs::read_to_string(scene.source_in(&world.mount.dir).join("generation"));
            world.is_over() || read.is_ok_and(|t| t == g.to_string())
        });
        slowest = slowest.max(began.elapsed());
        // Oldest first.
        let ids: Vec<String> =
            scene.snapshots().iter().map(|s| s["id"].as_str().unwrap().to_string()).collect();
        let surplus = &ids[..ids.len().saturating_sub(SNAPSHOTS)];
        if !surplus.is_empty() {
            let words = ["forget", "-q"].into_iter().chain(surplus.iter().map(String::as_str));
            scene.run(words).ok();
        }
        soon("snapshots that are gone are no longer shown", || {
            world.is_over() || world.mount.dated().len() <= SNAPSHOTS
        });
        match g % 12 {
            5 => away(scene, world),
            9 => drop(fs::remove_dir_all(scene.cache())),
            // Moves what is still needed, and deletes the packs that the mount has read.
            2 | 7 | 11 => drop(scene.run(["prune", "-q", "--now", "--max-unused", "0%"]).ok()),
            _ => {}
        }
        std::thread::sleep(PAUSE);
        g += 1;
    }
    (g - 1, slowest)
}

#[test]
#[ignore = "takes SOAK_MINUTES, 10 by default"]
fn a_mount_that_lives_long_serves_right_bytes_and_does_not_grow() {
    let minutes: f64 = std::env::var("SOAK_MINUTES").ok().and_then(|m| m.parse().ok()).unwrap_or(10.0);
    let scene = Scene::new("soak");
    for folder in 0..SMALL.div_ceil(16) {
        fs::create_dir_all(scene.source().join(format!("small/{folder}"))).unwrap();
    }
    for file in 0..SMALL + LARGE {
        write(&scene.source(), file, 0);
    }
    fs::write(scene.source().join("generation"), "0").unwrap();
    scene.backup(&[]);
    let mount = scene.mount(&[]);
    let pid = mount.pid();
    let world = World {
        mount: &mount,
        inside: scene.source().strip_prefix("/").unwrap().to_path_buf(),
        over: AtomicBool::new(false),
        storms: AtomicU64::new(0),
        checked: AtomicU64::new(0),
        tools: AtomicU64::new(0),
        excused: AtomicU64::new(0),
        failures: Mutex::default(),
    };
    let began = Instant::now();
    let until = began + Duration::from_secs_f64(minutes * 60.0);
    let (samples, (backups, slowest)) = std::thread::scope(|scope| {
        for seed in 0..3 {
            let world = &world;
            scope.spawn(move || world.check(seed));
        }
        for seed in 10..12 {
            let world = &world;
            scope.spawn(move || world.tools(seed));
        }
        scope.spawn(|| world.stopped(20));
        let sampler = scope.spawn(|| {
            let mut samples = Vec::new();
            while !world.is_over() {
                match sample(pid, &mount, began.elapsed()) {
                    Some(s) => samples.push(s),
                    None => world.fail("the daemon is gone".into()),
                }
                std::thread::sleep(SAMPLE);
            }
            samples
        });
        let lived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| live(&scene, &world, until)));
        world.over.store(true, Ordering::Relaxed);
        let samples = sampler.join().unwrap();
        (
            samples,
            lived.unwrap_or_else(|_| {
                world.fail("the life of the repository ended early".into());
                (0, Duration::ZERO)
            }),
        )
    });
    print_table(&samples);
    println!(
        "{backups} backups, the slowest to show {:.1} s; {} blocks compared, {} programs run, {} errors with an excuse, \
         {} storms; {}",
        slowest.as_secs_f64(),
        world.checked.load(Ordering::Relaxed),
        world.tools.load(Ordering::Relaxed),
        world.excused.load(Ordering::Relaxed),
        world.storms.load(Ordering::Relaxed) / 2,
        mount.statistics()
    );
    let failures = world.failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(backups < 12 || world.excused.load(Ordering::Relaxed) > 0, "nobody noticed a storm");
    assert!(world.checked.load(Ordering::Relaxed) > 100 && world.tools.load(Ordering::Relaxed) > 10);
    let quarter = samples.len() / 4;
    let (second, last) = (&samples[quarter..2 * quarter], &samples[3 * quarter..]);
    for (what, of, slack) in [
        ("resident KiB", (|s| s.resident_kib) as fn(&Sample) -> u64, RESIDENT_SLACK_KIB),
        ("KiB beside the caches", Sample::beside_kib, BESIDE_SLACK_KIB),
        ("descriptors", |s| s.descriptors, DESCRIPTORS_SLACK),
        ("threads", |s| s.threads, THREADS_SLACK),
    ] {
        let (before, after) = (median(second, of), median(last, of));
        println!("{what}: {before} in the second quarter, {after} in the last");
        assert!(after <= before + slack, "{what} grew from {before} to {after}");
    }
    let most = samples.iter().map(|s| s.resident_kib).max().unwrap_or_default();
    assert!(most < RESIDENT_MAX_KIB, "{most} KiB resident");
    mount.unmount();
    assert!(!is_mounted(&scene.mnt()));
    soon("the daemon ends", || !Path::new(&format!("/proc/{pid}")).exists());
}
