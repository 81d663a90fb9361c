//! A matrix: each kind of object, damaged in each way, under each command. Never a wrong byte, never a panic, never silence;
//! and what does not depend on the damage is as well as before.
//!
//! With `DAMAGE_LOG` set all that the commands said goes into that file, for people to read.

use super::scene::{Draw, Ran, Scene, differences, fill, is_mounted};
use super::trial::copy_dir;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Damage {
    FlippedHead,
    FlippedMiddle,
    FlippedTail,
    Truncated,
    Emptied,
    Garbage,
    Deleted,
    /// The bytes of another valid object of its kind.
    Swapped,
    /// Nothing of its own: a valid object of its kind of another repository was put beside it.
    Foreign,
    /// Nothing of its own: a copy lies beside it under another name.
    Twice,
}

use Damage::*;

const ALL: [Damage; 10] =
    [FlippedHead, FlippedMiddle, FlippedTail, Truncated, Emptied, Garbage, Deleted, Swapped, Foreign, Twice];

/// What hangs on an object.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Of {
    /// Everything: without it the repository does not open.
    All,
    /// The snapshot of this folder.
    One(&'static str),
    /// No content at all.
    None,
}

struct Object {
    path: PathBuf,
    of: Of,
}

impl Object {
    fn kind(&self) -> &str {
        self.path.iter().next().unwrap().to_str().unwrap()
    }
}

/// Three snapshots that share nothing, the last one forgotten; tags, a second key, and the lease of a backup that died.
struct Stage {
    scene: Scene,
    objects: Vec<Object>,
    /// Folder and id of the snapshots that are listed.
    snapshots: Vec<(&'static str, String)>,
}

fn stage(init: &[&str]) -> Stage {
    let scene = Scene::bare("damage");
    scene.run([&["init", "-q"], init].concat()).ok();
    let mut objects: Vec<Object> = Vec::new();
    let mut snapshots = Vec::new();
    // Of two configs one is enough.
    let of_all =
        |path: PathBuf| Object { of: if path.starts_with("config") { Of::None } else { Of::All }, path };
    objects.extend(scene.objects().into_iter().map(of_all));
    let mut add = |scene: &Scene, of: Of| {
        for path in scene.objects() {
            if !objects.iter().any(|o| o.path == path) {
                objects.push(Object { path, of });
            }
        }
    };
    for (n, name) in ["a", "b", "c"].into_iter().enumerate() {
        fill(&scene.path(name), 8, 15_000, n as u64);
        fs::write(scene.path(name).join("large"), Draw(n as u64 + 20).bytes(600_000)).unwrap();
        fs::write(scene.path(name).join("small"), format!("small, of {name}")).unwrap();
        let report = scene.run(["backup", "--json", "--tag", name, name]).ok().json();
        let id = report["snapshot_id"].as_str().unwrap().to_owned();
        add(&scene, Of::One(name));
        if name == "c" {
            scene.run(["forget", "-q", &id]).ok();
        } else {
            scene.run(["tag", "-q", "--add", "noted", &id]).ok();
            snapshots.push((name, id));
        }
    }
    scene.run(["key", "add", "-q", "--new-key-file", "other key"]).ok();
    // The shell that the backup runs kills it.
    let died = scene.run(["backup", "-q", "--from-command", "kill -9 $PPID", "--as", "x"]);
    assert_eq!(died.signal, Some(libc::SIGKILL), "{}", died.err);
    add(&scene, Of::None);
    let more = if init.is_empty() { None } else { Some("parity") };
    let kinds = ["config", "keys", "packs", "index", "snapshots", "notes", "leases"];
    for kind in kinds.into_iter().chain(more) {
        assert!(objects.iter().any(|o| o.kind() == kind), "there is no {kind}");
    }
    // Of another repository, with one of each.
    let line = "export PASTFS_REPOSITORY=$PWD/strange PASTFS_CACHE=$PWD/strange-cache; \"$0\" init -q --parity 5%; \
        \"$0\" backup -q a; \"$0\" tag -q --add strange latest; \
        \"$0\" backup -q --from-command 'kill -9 $PPID' --as x || true; rm strange/config/2; mv strange/config/1 strange/config/4";
    scene.shell(line).ok();
    fs::rename(scene.repository(), scene.path("whole")).unwrap();
    fs::rename(scene.cache(), scene.path("warm")).unwrap();
    Stage { scene, objects, snapshots }
}

/// Files of a folder, relative to it.
fn files(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![dir.to_path_buf()]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path)
            } else {
                found.push(path.strip_prefix(dir).unwrap().to_path_buf())
            }
        }
    }
    found.sort();
    found
}

fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    if path.exists() {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    fs::write(path, bytes).unwrap();
}

impl Stage {
    /// Applies it; `None` where there is nothing to swap with. Otherwise the object that the damage is to be seen at.
    fn apply(&self, object: &Object, damage: Damage) -> Option<PathBuf> {
        let repository = self.scene.repository();
        let path = repository.join(&object.path);
        let mut bytes = fs::read(&path).unwrap();
        let len = bytes.len();
        match damage {
            // Behind magic, kind and version: those have messages of their own, and tests.
            FlippedHead => bytes[12] ^= 0x10,
            FlippedMiddle => bytes[len / 2] ^= 0x10,
            FlippedTail => bytes[len - 1] ^= 0x10,
            Truncated => bytes.truncate(len / 2),
            Emptied => bytes.clear(),
            Garbage => bytes = Draw(11).bytes(len),
            Deleted => fs::remove_file(&path).unwrap(),
            Swapped => {
                let same = |o: &&Object| o.kind() == object.kind() && o.path != object.path;
                let other = self.objects.iter().find(same)?;
                bytes = fs::read(repository.join(&other.path)).unwrap();
            }
            Foreign => {
                let strange = self.scene.path("strange");
                let below = files(&strange.join(object.kind())).into_iter().next()?;
                let below = Path::new(object.kind()).join(below);
                put(&repository.join(&below), &fs::read(strange.join(&below)).unwrap());
                return Some(below);
            }
            Twice => {
                let mut name = object.path.file_name().unwrap().to_str().unwrap().to_owned();
                // A name that could be one: another digit, or a number that is higher.
                let at = if name.len() > 1 { 5 } else { 0 };
                let digit = if name[at..].starts_with('3') { "4" } else { "3" };
                name.replace_range(at..=at, digit);
                let below = object.path.with_file_name(name);
                put(&repository.join(&below), &bytes);
                return Some(below);
            }
        }
        if damage != Deleted {
            put(&path, &bytes);
        }
        Some(object.path.clone())
    }
}

/// One object, damaged in one way, under all commands.
struct Case<'a> {
    stage: &'a Stage,
    object: &'a Object,
    damage: Damage,
    /// Where it is to be seen.
    seen_at: PathBuf,
    is_warm: bool,
    cells: usize,
    log: String,
}

impl Case<'_> {
    fn told(&self) -> String {
        let cache = if self.is_warm { "warm" } else { "new" };
        format!("{:?} of {} ({:?}), {cache} cache", self.damage, self.object.path.display(), self.object.of)
    }

    /// Whether nothing of the repository itself is hurt.
    fn is_extra(&self) -> bool {
        matches!(self.damage, Foreign | Twice)
    }

    /// Runs a command; it ends in order, with a code that is documented.
    fn run(&mut self, args: &[&str]) -> Ran {
        self.cells += 1;
        let ran = self.stage.scene.run(args);
        let told =
            format!("{}: {args:?} ended with {:?}\n{}\n{}", self.told(), ran.code, ran.text(), ran.err);
        self.log.push_str(&format!("{told}\n"));
        let ran = ran.orderly();
        assert!(matches!(ran.code, Some(0 | 1 | 3 | 4 | 10 | 12)), "{told}");
        ran
    }

    /// What was said names the object, or what hangs on it.
    fn names(&self, said: &str) -> bool {
        let name = self.seen_at.file_name().unwrap().to_str().unwrap();
        let kind = self.object.kind();
        let of_object = said.contains(&name[..name.len().min(8)]) || said.contains(&format!("{kind}/"));
        // A list that is not there has no name; then who asked for it is named.
        let of_folder = |f: &str| said.contains(self.stage.scene.path(f).to_str().unwrap());
        let of_files = matches!(self.object.of, Of::One(folder) if of_folder(folder));
        // What opens nothing and a folder without config are told as what they look like.
        let of_whole = matches!(kind, "keys" | "config") && of_folder("repository");
        of_object || of_files || of_whole
    }

    /// Whether a snapshot must come back whole.
    fn must_be_whole(&self, folder: &str) -> bool {
        let is_beside = self.is_extra() || self.object.of == Of::None || self.object.kind() == "parity";
        is_beside || matches!(self.object.of, Of::One(f) if f != folder)
    }

    fn is_forgotten(&self) -> bool {
        self.object.of == Of::One("c")
    }

    /// Whether nothing can be opened.
    fn is_closed(&self) -> bool {
        self.object.of == Of::All && !self.is_extra()
    }

    fn listing(&mut self) {
        let ran = self.run(&["snapshots", "--json"]);
        let said = format!("{}{}", ran.text(), ran.err);
        if self.is_closed() {
            assert!(matches!(ran.code, Some(4 | 10 | 12)) && self.names(&said), "{}: {said}", self.told());
            return;
        }
        assert_eq!(ran.code, Some(0), "{}: {said}", self.told());
        let lists = |id: &String| said.contains(id);
        for (folder, id) in &self.stage.snapshots {
            let is_own = self.object.of == Of::One(folder) && self.object.kind() == "snapshots";
            assert!(lists(id) || (is_own && !self.is_extra()), "{}: lacks {folder}: {said}", self.told());
        }
        // What the cache has proven already is not read again; what is gone is missed by a cache that has seen it.
        let is_read = match self.object.kind() {
            "snapshots" if self.damage == Deleted => self.is_warm && !self.is_forgotten(),
            "snapshots" => !self.is_warm || self.is_extra(),
            "notes" => (self.is_warm == (self.damage == Deleted)) || self.is_extra(),
            // The highest is read; that it is gone is known to whom it was shown.
            "config" => {
                self.is_extra() || self.object.path.ends_with("2") && (self.damage != Deleted || self.is_warm)
            }
            _ => false,
        };
        assert!(!is_read || self.names(&ran.err), "{}: silence: {}", self.told(), ran.err);
    }

    /// Every file that comes back is right, and success means all of them.
    fn restore(&mut self, folder: &'static str, id: &str) {
        let (scene, source) = (&self.stage.scene, self.stage.scene.path(folder));
        let out = scene.path("out");
        let _ = fs::remove_dir_all(&out);
        let ran = self.run(&["restore", "-q", &format!("{id}:{}", source.display()), "--target", "out"]);
        for file in files(&source) {
            if let Ok(bytes) = fs::read(out.join(&file)) {
                assert!(
                    bytes == fs::read(source.join(&file)).unwrap(),
                    "{}: wrong bytes in {file:?}",
                    self.told()
                );
            }
        }
        let is_whole = out.is_dir() && differences(&source, &out, &[]).is_empty();
        assert_eq!(ran.code == Some(0), is_whole, "{}: restore: {:?} {}", self.told(), ran.code, ran.err);
        assert!(is_whole || !self.must_be_whole(folder), "{}: {folder}: {}", self.told(), ran.err);
        if !is_whole {
            assert!(self.names(&ran.err), "{}: restore does not name it: {}", self.told(), ran.err);
            let is_gone = self.object.kind() == "snapshots";
            let codes: &[i32] = if self.is_closed() || is_gone { &[1, 4, 10, 12] } else { &[3, 4] };
            assert!(codes.contains(&ran.code.unwrap()), "{}: {:?} {}", self.told(), ran.code, ran.err);
        }
    }

    /// Right bytes or EIO; what is lost never looks like a file that is not there.
    fn mount(&mut self) {
        let scene = &self.stage.scene;
        let ran = self.run(&["mount", "--names", "{id}", "mnt"]);
        if ran.code != Some(0) {
            assert!(self.is_closed() && self.names(&ran.err), "{}: mount: {}", self.told(), ran.err);
            assert!(!is_mounted(&scene.mnt()), "{}", self.told());
            return;
        }
        for (folder, id) in &self.stage.snapshots {
            let source = scene.path(folder);
            let inside = scene.mnt().join(id).join(source.strip_prefix("/").unwrap());
            let must_be_whole = self.must_be_whole(folder);
            if !scene.mnt().join(id).exists() {
                assert!(!must_be_whole, "{}: the mount lacks {folder}", self.told());
                continue;
            }
            for file in files(&source) {
                match fs::read(inside.join(&file)) {
                    Ok(bytes) => {
                        let is_right = bytes == fs::read(source.join(&file)).unwrap();
                        assert!(is_right, "{}: wrong bytes in the mount's {file:?}", self.told());
                    }
                    Err(e) => {
                        assert!(!must_be_whole, "{}: {folder}: {file:?}: {e}", self.told());
                        assert_eq!(e.raw_os_error(), Some(libc::EIO), "{}: {file:?}: {e}", self.told());
                    }
                }
            }
        }
        scene.run(["umount", "mnt"]).ok();
    }

    /// A check with all read names the object and changes nothing.
    fn check(&mut self) {
        let before = self.stage.scene.objects();
        let ran = self.run(&["check", "--json", "--read-data"]);
        assert_eq!(before, self.stage.scene.objects(), "{}: a check changed objects", self.told());
        let said = format!("{}{}", ran.text(), ran.err);
        if self.is_closed() {
            assert!(ran.code != Some(0) && self.names(&said), "{}: {said}", self.told());
            return;
        }
        // Of keys and leases that are gone nobody knows; nor of notes and manifests without a memory of them; and what is
        // forgotten is not gone through.
        let is_silent = self.damage == Deleted
            && match self.object.kind() {
                "keys" | "leases" => true,
                "notes" => !self.is_warm,
                "snapshots" => !self.is_warm || self.is_forgotten(),
                "index" => self.is_forgotten(),
                _ => false,
            };
        // A pack that no segment names is one of a backup that is under way, and nobody relies on it; nor on parity of none.
        let is_unused = self.is_extra() && matches!(self.object.kind(), "packs" | "parity");
        let expected = if is_silent || is_unused { 0 } else { 4 };
        assert_eq!(ran.code, Some(expected), "{}: {said}", self.told());
        assert!(expected == 0 || self.names(&said), "{}: check does not name it: {said}", self.told());
    }

    /// Commands that write. What comes of them is right as well.
    fn writing(&mut self) {
        let ids: Vec<String> = self.stage.snapshots.iter().map(|(_, id)| id.clone()).collect();
        let other = if self.object.of == Of::One("b") { &ids[0] } else { &ids[1] };
        for args in [
            &["tag", "-q", "--add", "late", other][..],
            &["forget", "--json", "--dry-run", "--keep-last", "1"],
            &["key", "list"],
            &["backup", "-q", "--tag", "new", "a"],
        ] {
            let ran = self.run(args);
            if self.is_closed() {
                assert!(
                    ran.code != Some(0) && self.names(&ran.err),
                    "{}: {args:?}: {}",
                    self.told(),
                    ran.err
                );
            } else {
                assert_eq!(ran.code, Some(0), "{}: {args:?}: {}", self.told(), ran.err);
            }
        }
        if self.is_closed() {
            return;
        }
        let list = self.run(&["snapshots", "--json", "--tag", "new"]).json();
        let new =
            list[0]["id"].as_str().unwrap_or_else(|| panic!("{}: no new snapshot", self.told())).to_owned();
        // What is damaged and looks right from outside is found by reading alone; all else is stored again.
        let scene = &self.stage.scene;
        let out = scene.path("out");
        let _ = fs::remove_dir_all(&out);
        let what = format!("{new}:{}", scene.path("a").display());
        let ran = self.run(&["restore", "-q", &what, "--target", "out"]);
        let is_hidden = self.object.kind() == "packs"
            && matches!(self.damage, FlippedHead | FlippedMiddle | FlippedTail | Garbage);
        assert!(
            ran.code == Some(0) || is_hidden,
            "{}: the next backup is not whole: {}",
            self.told(),
            ran.err
        );
        let is_whole = differences(&scene.path("a"), &out, &[]).is_empty();
        assert_eq!(ran.code == Some(0), is_whole, "{}: {}", self.told(), ran.err);
        self.run(&["forget", "-q", other]);
    }

    fn all(&mut self) {
        self.listing();
        for (folder, id) in &self.stage.snapshots {
            self.restore(folder, id);
        }
        self.mount();
        self.check();
        self.writing();
    }
}

#[test]
fn damaged_objects_give_errors_with_names_and_never_wrong_bytes() {
    let cells = matrix(&[], &|_| true);
    println!("cells of the damage matrix: {cells}");
    assert!(cells > 800, "only {cells} cells");
}

#[test]
fn damaged_parity_is_named_and_nothing_else_suffers() {
    let cells = matrix(&["--parity", "5%"], &|o| o.kind() == "parity");
    println!("cells of the damage matrix, of parity: {cells}");
    assert!(cells > 80, "only {cells} cells");
}

/// Tries all damages of the objects that are meant, in a repository that was made so. How many commands were run.
fn matrix(init: &[&str], is_meant: &(dyn Fn(&Object) -> bool + Sync)) -> usize {
    let mut log = std::env::var_os("DAMAGE_LOG")
        .map(|path| fs::File::options().create(true).append(true).open(path).unwrap());
    let next = AtomicUsize::new(0);
    let work = || {
        // Each thread has a stage of its own; the objects are the same ones, in the same order.
        let stage = stage(init);
        let (mut cells, mut text) = (0, String::new());
        let jobs: Vec<_> = stage
            .objects
            .iter()
            .filter(|o| is_meant(o))
            .flat_map(|o| ALL.into_iter().map(move |damage| (o, damage)))
            .collect();
        // The snapshots differ in nothing but who shares what with whom: of the second and third some will do.
        let is_rare = |o: &Object| matches!(o.of, Of::One("b" | "c"));
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let Some((object, damage)) = jobs.get(n) else { return (cells, text) };
            if is_rare(object) && !n.is_multiple_of(3) {
                continue;
            }
            let scene = &stage.scene;
            for dir in [scene.repository(), scene.cache()] {
                let _ = fs::remove_dir_all(dir);
            }
            copy_dir(&scene.path("whole"), &scene.repository());
            let Some(seen_at) = stage.apply(object, *damage) else { continue };
            let is_warm = (n + n / ALL.len()).is_multiple_of(2);
            if is_warm {
                copy_dir(&scene.path("warm"), &scene.cache());
            }
            let (stage, log) = (&stage, String::new());
            let mut case = Case { stage, object, damage: *damage, seen_at, is_warm, cells: 0, log };
            case.all();
            cells += case.cells;
            text.push_str(&case.log);
        }
    };
    let done: Vec<(usize, String)> = std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let mut cells = 0;
    for (n, text) in done {
        cells += n;
        if let Some(log) = &mut log {
            log.write_all(text.as_bytes()).unwrap();
        }
    }
    cells
}
