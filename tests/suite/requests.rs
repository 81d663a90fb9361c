//! What programs cost, in requests of the kernel: seconds depend on the machine, these do not. The mount counts them,
//! and tells by an extended attribute of its root.

use super::scene::{Draw, Mount, Scene, let_files_settle};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

/// Files in the trees of these tests.
const FILES: usize = 500;
/// Folders that they lie in.
const FOLDERS: usize = 10;

/// Counts since a moment.
struct Meter<'a> {
    mount: &'a Mount<'a>,
    before: Value,
}

impl<'a> Meter<'a> {
    fn new(mount: &'a Mount<'a>) -> Self {
        Self { mount, before: mount.statistics() }
    }

    /// How many requests of a kind there were since.
    #[track_caller]
    fn of(&self, kind: &str) -> u64 {
        let count = |v: &Value| v["requests"][kind].as_u64().unwrap_or_else(|| panic!("no {kind} in {v}"));
        count(&self.mount.statistics()) - count(&self.before)
    }

    /// All that the kernel sent, without what it gives back, what asked for the counts, and the statfs(2) that find
    /// begins with.
    fn all(&self) -> u64 {
        let now = self.mount.statistics();
        let kinds = now["requests"].as_object().unwrap().keys();
        kinds.filter(|k| !["forget", "getxattr", "statfs"].contains(&k.as_str())).map(|k| self.of(k)).sum()
    }
}

/// The least that something cost, in up to five tries: a kernel that needs memory gives pages away meanwhile, and asks
/// for them again. It never asks for less than a program costs.
fn least(expected: u64, mut cost: impl FnMut() -> u64) -> u64 {
    let mut best = u64::MAX;
    for _ in 0..5 {
        best = best.min(cost());
        if best <= expected {
            break;
        }
    }
    best
}

/// Two snapshots of a tree of small files of which one differs, mounted.
fn two_snapshots(name: &str) -> Scene {
    let scene = Scene::new(name);
    let mut draw = Draw(1);
    for n in 0..FILES {
        let folder = scene.source().join(format!("d{}", n % FOLDERS));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("f{n:04}")), draw.bytes(3000)).unwrap();
    }
    fs::write(scene.source().join("big"), draw.bytes(3_000_000)).unwrap();
    let_files_settle();
    scene.backup(&["--time", "2024-03-01 12:00:00"]);
    fs::write(scene.source().join("d3/f0003"), draw.bytes(3000)).unwrap();
    scene.backup(&["--time", "2024-03-02 12:00:00"]);
    scene
}

/// The source folder in both snapshots.
fn both(scene: &Scene, mount: &Mount<'_>) -> [PathBuf; 2] {
    let source = scene.source();
    let inside = source.strip_prefix("/").unwrap();
    ["2024-03-01T12-00-00Z", "2024-03-02T12-00-00Z"].map(|s| mount.dir.join(s).join(inside))
}

#[test]
fn an_unchanged_file_is_not_read_again_in_another_snapshot() {
    let scene = two_snapshots("unread");
    let mount = scene.mount(&[]);
    let [one, two] = both(&scene, &mount);
    let meter = Meter::new(&mount);
    let bytes = fs::read(one.join("big")).unwrap();
    assert!(meter.of("read") >= 1, "the first time it has to be read");
    let reads = least(0, || {
        for path in [&one, &two] {
            let file = fs::File::open(path.join("big")).unwrap();
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        }
        assert!(fs::read(one.join("big")).unwrap() == bytes);
        let meter = Meter::new(&mount);
        assert!(fs::read(two.join("big")).unwrap() == bytes);
        scene.shell(&format!("cmp '{}' '{}'", one.join("big").display(), two.join("big").display())).ok();
        meter.of("read")
    });
    assert_eq!(reads, 0, "READs for what is in the page cache under its other name");
    // Also where nothing was read before: two names of one inode need no comparing.
    let same = [&one, &two].map(|p| p.join("d5/f0005").display().to_string());
    let meter = Meter::new(&mount);
    scene.shell(&format!("cmp '{}' '{}'", same[0], same[1])).ok();
    assert!(meter.of("read") <= 1);
    for kind in ["open", "flush"] {
        assert_eq!(meter.of(kind), 0, "{kind}");
    }
}

#[test]
fn comparing_two_snapshots_reads_only_what_differs() {
    let scene = two_snapshots("compared");
    let mount = scene.mount(&[]);
    let [one, two] = both(&scene, &mount);
    let meter = Meter::new(&mount);
    let line = format!("diff -rq '{}' '{}'", one.display(), two.display());
    let ran = scene.shell(&line).code(1);
    assert_eq!(ran.text().lines().count(), 1, "{}", ran.text());
    assert_eq!(meter.of("read"), 2, "one READ for each side of the one file that differs");
    // A page of a listing and its end, for each folder of both sides; names come with them.
    let folders = 2 * (FOLDERS as u64 + 1);
    let listed = meter.of("readdirplus") + meter.of("readdir");
    assert!(listed <= 3 * folders + 4, "{listed} requests list {folders} folders");
    let looked = meter.of("lookup");
    assert!(looked <= 40, "{looked} lookups, where listings tell all");
    // The second time the kernel knows all but the root's own time.
    let meter = Meter::new(&mount);
    scene.shell(&line).code(1);
    assert_eq!(meter.of("read") + meter.of("readdirplus") + meter.of("readdir"), 0);
}

#[test]
fn copying_costs_at_most_one_read_for_a_small_file_and_nothing_else() {
    let scene = two_snapshots("copied");
    let mount = scene.mount(&[]);
    let [one, two] = both(&scene, &mount);
    let meter = Meter::new(&mount);
    let copy = |from: &PathBuf, to: &str| scene.shell(&format!("cp -r '{}' {to}", from.display())).ok();
    copy(&one, "first");
    let big = 3_000_000u64.div_ceil(128 << 10);
    let read = meter.of("read");
    // Less where files were handed over before they were asked for.
    assert!((1..=FILES as u64 + big).contains(&read), "{read} READs for {FILES} small files");
    for kind in ["open", "opendir", "flush", "lseek", "getattr"] {
        let n = meter.of(kind);
        assert!(n <= 1, "{n} requests of kind {kind}");
    }
    mount.unmount();
    // Of the second snapshot only what differs.
    let reads = least(1, || {
        let mount = scene.mount(&[]);
        copy(&one, "again");
        let meter = Meter::new(&mount);
        copy(&two, "second");
        let reads = meter.of("read");
        scene.shell("rm -r again second").ok();
        mount.unmount();
        reads
    });
    assert_eq!(reads, 1);
}

#[test]
fn walking_again_asks_nothing() {
    let scene = two_snapshots("walked");
    let mount = scene.mount(&[]);
    let [one, _] = both(&scene, &mount);
    let walk = || scene.shell(&format!("find '{}' -printf '%s %p\\n'", one.display())).ok().out;
    let first = walk();
    assert!(first.iter().filter(|b| **b == b'\n').count() > FILES);
    let meter = Meter::new(&mount);
    assert!(walk() == first);
    assert_eq!(meter.all(), 0, "{}", mount.statistics());
    // What is not there is remembered as well.
    let nothing = || assert!(fs::metadata(one.join("d1/nothing")).is_err());
    nothing();
    let meter = Meter::new(&mount);
    nothing();
    nothing();
    assert_eq!(meter.all(), 0);
}
