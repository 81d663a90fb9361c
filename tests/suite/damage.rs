//! Objects of each kind, damaged in each way: never wrong bytes, never a panic, never silence.

use super::scene::{Draw, Scene, differences, fill, is_mounted};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Damage {
    BitFlip,
    Truncated,
    Emptied,
    Garbage,
    Deleted,
}

const ALL: [Damage; 5] =
    [Damage::BitFlip, Damage::Truncated, Damage::Emptied, Damage::Garbage, Damage::Deleted];

fn apply(damage: Damage, path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    match damage {
        Damage::BitFlip => bytes[middle] ^= 0x10,
        Damage::Truncated => bytes.truncate(middle),
        Damage::Emptied => bytes.clear(),
        Damage::Garbage => bytes = Draw(11).bytes(bytes.len()),
        Damage::Deleted => return fs::remove_file(path).unwrap(),
    }
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Files of the source folder, relative to it.
fn files(source: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![source.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path)
            } else {
                found.push(path.strip_prefix(source).unwrap().to_path_buf())
            }
        }
    }
    found.sort();
    found
}

/// How a case is told when it fails.
struct Case<'a> {
    scene: &'a Scene,
    object: &'a Path,
    damage: Damage,
    files: &'a [PathBuf],
    snapshot: &'a str,
}

impl Case<'_> {
    fn told(&self) -> String {
        format!("{:?} of {}", self.damage, self.object.display())
    }

    /// An error names the object, or the file that it concerns.
    fn names_something(&self, err: &str) -> bool {
        let name = self.object.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let kind = self.object.iter().next().and_then(OsStr::to_str).unwrap_or_default();
        let of_object = err.contains(&name[..name.len().min(8)]) || err.contains(&format!("{kind}/"));
        let of_file = self.files.iter().any(|f| err.contains(f.to_str().unwrap()));
        // Of a list that is not there no name is known, only who asked for it.
        let of_file = of_file || err.contains(self.scene.source().to_str().unwrap());
        // A key that opens nothing, and a folder without a configuration, are told as what they look like.
        let of_whole = err.contains(self.scene.repository().to_str().unwrap());
        of_object || of_file || (matches!(kind, "keys" | "config") && of_whole)
    }

    /// Commands that list: in order, and with words where they fail.
    fn listing(&self) {
        let ran = self.scene.run(["snapshots", "--json"]).orderly();
        if ran.code != Some(0) {
            assert!(self.names_something(&ran.err), "{}: snapshots: {}", self.told(), ran.err);
        } else if self.damage != Damage::Deleted && self.object.starts_with("snapshots") {
            assert!(self.names_something(&ran.err), "{}: silence about a damaged manifest", self.told());
        }
    }

    /// Restore: every file that comes back is right, and success means all of them.
    fn restore(&self) -> bool {
        let (scene, source) = (self.scene, self.scene.source());
        let out = scene.path("out");
        let _ = fs::remove_dir_all(&out);
        let what = format!("{}:{}", self.snapshot, source.display());
        let ran = scene.run(["restore", "-q", &what, "--target", "out"]).orderly();
        for file in self.files {
            if let Ok(bytes) = fs::read(out.join(file)) {
                assert!(
                    bytes == fs::read(source.join(file)).unwrap(),
                    "{}: wrong bytes in {file:?}",
                    self.told()
                );
            }
        }
        let whole = out.is_dir() && differences(&source, &out, &[]).is_empty();
        assert_eq!(ran.code == Some(0), whole, "{}: exit code {:?}: {}", self.told(), ran.code, ran.err);
        if !whole {
            assert!(self.names_something(&ran.err), "{}: restore: {}", self.told(), ran.err);
        }
        whole
    }

    /// The mount: right bytes or EIO; a lost object never looks like a missing file.
    fn mount(&self, expected_whole: bool) {
        let scene = self.scene;
        let ran = scene.run(["mount", "--names", "{id}", "mnt"]).orderly();
        if ran.code != Some(0) {
            assert!(self.names_something(&ran.err), "{}: mount: {}", self.told(), ran.err);
            assert!(!is_mounted(&scene.mnt()), "{}", self.told());
            assert!(!expected_whole, "{}: mount: {}", self.told(), ran.err);
            return;
        }
        let snapshot = scene.mnt().join(self.snapshot);
        let inside = snapshot.join(scene.source().strip_prefix("/").unwrap());
        if snapshot.exists() {
            let mut whole = true;
            for file in self.files {
                match fs::read(inside.join(file)) {
                    Ok(bytes) => {
                        let right = fs::read(scene.source().join(file)).unwrap();
                        assert!(bytes == right, "{}: wrong bytes in the mount's {file:?}", self.told());
                    }
                    Err(e) => {
                        whole = false;
                        assert_eq!(e.raw_os_error(), Some(libc::EIO), "{}: {file:?}: {e}", self.told());
                    }
                }
            }
            assert_eq!(whole, expected_whole, "{}: mount and restore differ", self.told());
        } else {
            assert!(!expected_whole, "{}: the mount lacks the snapshot", self.told());
        }
        scene.run(["umount", "mnt"]).ok();
    }
}

#[test]
fn damaged_objects_give_errors_with_names_and_never_wrong_bytes() {
    let scene = Scene::new("damage");
    let source = scene.source();
    fill(&source, 24, 15_000, 1);
    fs::write(source.join("large"), Draw(2).bytes(2_500_000)).unwrap();
    fs::write(source.join("small"), b"small").unwrap();
    scene.backup(&[]);
    fs::write(source.join("later"), Draw(3).bytes(100_000)).unwrap();
    let report = scene.backup(&["--tag", "t"]);
    let snapshot = report["snapshot_id"].as_str().unwrap().to_string();
    let files = files(&source);
    let objects = scene.objects();
    for kind in ["config", "keys", "packs", "index", "snapshots"] {
        assert!(objects.iter().any(|o| o.starts_with(kind)), "no {kind} among {objects:?}");
    }
    scene.shell("cp -a repository whole").ok();
    let mut hurt = 0;
    for object in &objects {
        for damage in ALL {
            scene.shell("rm -rf cache repository && cp -a whole repository").ok();
            apply(damage, &scene.repository().join(object));
            let case = Case { scene: &scene, object, damage, files: &files, snapshot: &snapshot };
            case.listing();
            let whole = case.restore();
            case.mount(whole);
            hurt += usize::from(!whole);
        }
    }
    assert!(hurt >= ALL.len() * 4, "damage that nobody notices: only {hurt} cases");
    scene.shell("rm -rf cache repository && mv whole repository").ok();
    scene.latest_equals_source();
}

#[test]
fn damage_under_a_warm_cache_is_noticed_as_well() {
    let scene = Scene::new("warm");
    let source = scene.source();
    fill(&source, 24, 15_000, 1);
    let report = scene.backup(&[]);
    let snapshot = report["snapshot_id"].as_str().unwrap().to_string();
    let files = files(&source);
    scene.latest_equals_source();
    scene.shell("cp -a repository whole; cp -a cache warm").ok();
    for object in scene.objects().iter().filter(|o| o.starts_with("packs")) {
        for damage in ALL {
            scene.shell("rm -rf cache repository && cp -a whole repository && cp -a warm cache").ok();
            apply(damage, &scene.repository().join(object));
            let case = Case { scene: &scene, object, damage, files: &files, snapshot: &snapshot };
            let whole = case.restore();
            case.mount(whole);
        }
    }
}
