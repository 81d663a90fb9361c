//! The stage of the tests that run the real program: a folder of its own with a repository, a cache and a
//! key, commands with a time limit, mounts that go away again, and trees to be saved.

use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// No command of these tests may take longer: then it hangs.
const LIMIT: Duration = Duration::from_secs(240);
/// What lies in a mount's root beside the snapshots, sorted.
pub const BESIDE: [&str; 5] = ["at", "by-host", "by-tag", "latest", "versions"];
/// How long the result of something that happens in the background is waited for.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Numbers that look random and are the same each time (SplitMix64).
pub struct Draw(pub u64);

impl Draw {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Bytes that do not compress.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// Whether this is root; tells loudly what was not run where not.
pub fn is_root(for_what: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("NOT RUN: {for_what} needs root");
    }
    is_root
}

/// What a command did.
pub struct Ran {
    pub line: String,
    /// `None`: ended by a signal.
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub out: Vec<u8>,
    pub err: String,
}

impl Ran {
    fn told(&self) -> String {
        let out = String::from_utf8_lossy(&self.out);
        let short: String = out.chars().take(3000).collect();
        let code = self.code.map_or_else(|| format!("signal {:?}", self.signal), |c| c.to_string());
        format!("{}\nended with {code}\n--- stdout\n{short}\n--- stderr\n{}", self.line, self.err)
    }

    /// It must have ended with this code, and in order.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert!(self.code == Some(code), "expected exit code {code}: {}", self.told());
        self.orderly()
    }

    /// It must have succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.code(0)
    }

    /// It must not have succeeded, and ended in order.
    #[track_caller]
    pub fn fails(self) -> Self {
        assert!(self.code != Some(0), "expected a failure: {}", self.told());
        self.orderly()
    }

    /// No panic, no crash, no defect that calls itself one.
    #[track_caller]
    pub fn orderly(self) -> Self {
        let bad =
            self.code.is_none() || self.err.contains("panicked") || self.err.contains("defect of pastfs");
        assert!(!bad, "not an orderly end: {}", self.told());
        self
    }

    /// Its errors must say this.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.err.contains(text), "expected {text:?} in the errors: {}", self.told());
        self
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// The last line of its output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        let text = self.text();
        let line = text.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|e| panic!("no JSON ({e}): {}", self.told()))
    }
}

/// The program, knowing of nothing that the environment of the tests may say.
pub fn pastfs<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pastfs"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PASTFS_") {
            command.env_remove(name);
        }
    }
    command.args(args).env("RUST_BACKTRACE", "1").env("TZ", "UTC").stdin(Stdio::null());
    command
}

fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// A command that is under way.
pub struct Started {
    line: String,
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Started {
    /// Starts it, in a process group of its own, with its output in files: a pipe that a daemon keeps open
    /// would never end.
    pub fn new(mut command: Command, outputs: &Path) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let (out, err) = (outputs.join(format!("{n}.out")), outputs.join(format!("{n}.err")));
        let line = line_of(&command);
        command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap()).process_group(0);
        let child = command.spawn().unwrap_or_else(|e| panic!("starting {line}: {e}"));
        Self { line, child, out, err }
    }

    /// Sends a signal to it alone.
    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: the child was not waited for yet, so its number is still its own.
        unsafe { libc::kill(self.child.id().cast_signed(), signal) };
    }

    pub fn is_over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    #[track_caller]
    pub fn wait(mut self) -> Ran {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if began.elapsed() > LIMIT {
                // SAFETY: as in `signal`; the group is its own.
                unsafe { libc::kill(-self.child.id().cast_signed(), libc::SIGKILL) };
                let _ = self.child.wait();
                let told = fs::read_to_string(&self.err).unwrap_or_default();
                panic!("{} did not end within {LIMIT:?}; its errors:\n{told}", self.line);
            }
            std::thread::sleep(Duration::from_millis(3));
        };
        let out = fs::read(&self.out).unwrap();
        let err = String::from_utf8_lossy(&fs::read(&self.err).unwrap()).into_owned();
        let _ = (fs::remove_file(&self.out), fs::remove_file(&self.err));
        Ran { line: self.line.clone(), code: status.code(), signal: status.signal(), out, err }
    }
}

/// A folder on disk with all that a test needs; gone with the value.
pub struct Scene {
    pub dir: PathBuf,
    /// What commands find in their environment beside the scene's own, or instead of it.
    pub more: Vec<(&'static str, OsString)>,
}

impl Scene {
    /// Without a repository yet.
    pub fn bare(name: &str) -> Self {
        Self::bare_in(&std::env::temp_dir(), name)
    }

    /// As [`Scene::new`], but not in the folder where other tests make theirs. That one's time is part of every snapshot of
    /// something in it, so nothing there is unchanged for long.
    pub fn apart(name: &str) -> Self {
        let scene = Self::bare_in(Path::new("/var/tmp"), name);
        scene.run(["init", "-q"]).ok();
        scene
    }

    fn bare_in(folder: &Path, name: &str) -> Self {
        let tag = pastfs::id::hex(&pastfs::clock::random_array::<4>());
        let dir = folder.join(format!("pastfs-{name}-{tag}"));
        fs::create_dir(&dir).unwrap();
        // Other users walk through it in some tests.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        for folder in ["outputs", "source", "mnt"] {
            fs::create_dir(dir.join(folder)).unwrap();
        }
        let scene = Self { dir, more: Vec::new() };
        fs::write(scene.key(), Draw(7).bytes(32)).unwrap();
        scene
    }

    /// With an empty repository that a key file opens: no test but those of passwords waits for Argon2.
    pub fn new(name: &str) -> Self {
        let scene = Self::bare(name);
        scene.run(["init", "-q"]).ok();
        scene
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.join(below)
    }
    pub fn source(&self) -> PathBuf {
        self.path("source")
    }
    pub fn repository(&self) -> PathBuf {
        self.path("repository")
    }
    pub fn key(&self) -> PathBuf {
        self.path("key")
    }
    pub fn cache(&self) -> PathBuf {
        self.path("cache")
    }
    pub fn mnt(&self) -> PathBuf {
        self.path("mnt")
    }

    /// pastfs with this scene's repository, key and cache.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = pastfs(args);
        command
            .current_dir(&self.dir)
            .env("PASTFS_REPOSITORY", self.repository())
            .env("PASTFS_KEY_FILE", self.key())
            .env("PASTFS_CACHE", self.cache())
            .envs(self.more.iter().map(|(name, value)| (name, value)));
        command
    }

    pub fn start(&self, command: Command) -> Started {
        Started::new(command, &self.path("outputs"))
    }

    #[track_caller]
    pub fn run_command(&self, command: Command) -> Ran {
        self.start(command).wait()
    }

    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        self.run_command(self.command(args))
    }

    /// A line for the shell, which must succeed; `$0` is pastfs.
    #[track_caller]
    pub fn shell(&self, line: &str) -> Ran {
        self.run_command(self.shell_command(line))
    }

    pub fn shell_command(&self, line: &str) -> Command {
        let model = self.command([""; 0]);
        let mut command = Command::new("bash");
        command.arg("-c").arg(format!("set -o pipefail; {line}")).arg(env!("CARGO_BIN_EXE_pastfs"));
        command.current_dir(&self.dir).stdin(Stdio::null());
        for (name, value) in model.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    /// Saves the source folder; what the program says in JSON.
    #[track_caller]
    pub fn backup(&self, more: &[&str]) -> Value {
        let source = self.source();
        let mut args: Vec<&OsStr> = vec!["backup".as_ref(), "--json".as_ref(), source.as_os_str()];
        args.extend(more.iter().map(OsStr::new));
        self.run(args).ok().json()
    }

    /// All snapshots, oldest first, as JSON.
    #[track_caller]
    pub fn snapshots(&self) -> Vec<Value> {
        let ran = self.run(["snapshots", "--json"]).ok();
        ran.json().as_array().expect("a list of snapshots").clone()
    }

    /// Mounts the repository at the scene's mount point.
    #[track_caller]
    pub fn mount(&self, more: &[&str]) -> Mount<'_> {
        self.mount_at(self.mnt(), more)
    }

    #[track_caller]
    pub fn mount_at(&self, dir: PathBuf, more: &[&str]) -> Mount<'_> {
        let mut args: Vec<&OsStr> = vec!["mount".as_ref(), dir.as_os_str()];
        args.extend(more.iter().map(OsStr::new));
        self.run(args).ok();
        assert!(is_mounted(&dir), "`pastfs mount` returned, and nothing is mounted");
        Mount { scene: self, dir }
    }

    /// Where the source folder lies in the newest snapshot of a mount.
    pub fn source_in(&self, mount: &Path) -> PathBuf {
        mount.join("latest").join(self.source().strip_prefix("/").unwrap())
    }

    /// Restores into a new folder.
    #[track_caller]
    pub fn restore(&self, what: &str) -> PathBuf {
        let tag = pastfs::id::hex(&pastfs::clock::random_array::<4>());
        let target = self.path(&format!("restored-{tag}"));
        self.run([
            "restore".as_ref(),
            "-q".as_ref(),
            OsStr::new(what),
            "--target".as_ref(),
            target.as_os_str(),
        ])
        .ok();
        target
    }

    /// Saved, restored and looked at: the newest snapshot holds the source folder as it is.
    #[track_caller]
    pub fn latest_equals_source(&self) {
        let target = self.restore(&format!("latest:{}", self.source().display()));
        same_trees(&self.source(), &target);
        fs::remove_dir_all(target).unwrap();
    }

    /// Files in the repository, relative to it, sorted; without the temporary ones.
    pub fn objects(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![self.repository()];
        while let Some(dir) = open.pop() {
            // What is gone meanwhile was a temporary file.
            for entry in fs::read_dir(&dir).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    found.push(path.strip_prefix(self.repository()).unwrap().to_path_buf());
                }
            }
        }
        found.retain(|p| !p.starts_with("tmp"));
        found.sort();
        found
    }
}

/// What is mounted at or below a folder, deepest first.
fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut found: Vec<PathBuf> = table
        .lines()
        .filter_map(|l| l.split(' ').nth(1))
        .map(PathBuf::from)
        .filter(|p| p.starts_with(dir))
        .collect();
    found.sort();
    found.reverse();
    found
}

pub fn is_mounted(dir: &Path) -> bool {
    mounts_below(dir).iter().any(|p| p == dir)
}

fn detach(dir: &Path) {
    let _ = Command::new("umount").arg("-l").arg(dir).stderr(Stdio::null()).status();
    if is_mounted(dir) {
        let _ = Command::new("fusermount3").arg("-uz").arg(dir).stderr(Stdio::null()).status();
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for dir in mounts_below(&self.dir) {
            detach(&dir);
        }
        // A daemon may still be on its way out of its cache.
        for _ in 0..20 {
            if fs::remove_dir_all(&self.dir).is_ok() || !self.dir.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        eprintln!("could not remove {}", self.dir.display());
    }
}

/// A mounted repository; unmounted with the value.
pub struct Mount<'a> {
    scene: &'a Scene,
    pub dir: PathBuf,
}

impl Mount<'_> {
    /// Unmounts it by the program, and insists that it is gone.
    #[track_caller]
    pub fn unmount(self) {
        self.scene.run([OsStr::new("umount"), self.dir.as_os_str()]).ok();
        assert!(!is_mounted(&self.dir), "`pastfs umount` succeeded, and it is still mounted");
    }

    /// Names in its root, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.dir).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// What it tells of itself: requests by kind, inodes held.
    #[track_caller]
    pub fn statistics(&self) -> Value {
        let mut buffer = [0u8; 4096];
        let n = rustix::fs::getxattr(&self.dir, "user.pastfs.statistics", &mut buffer).unwrap();
        serde_json::from_slice(&buffer[..n]).unwrap()
    }

    /// The process that serves it.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        pid_of_daemon(&self.dir)
    }

    /// Those of snapshots.
    pub fn dated(&self) -> Vec<String> {
        self.names().into_iter().filter(|n| !BESIDE.contains(&n.as_str())).collect()
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        if is_mounted(&self.dir) {
            let ended = self.scene.command([OsStr::new("umount"), self.dir.as_os_str()]).status();
            if !ended.is_ok_and(|s| s.success()) || is_mounted(&self.dir) {
                detach(&self.dir);
            }
        }
    }
}

/// The process that serves a mount point.
#[track_caller]
pub fn pid_of_daemon(mnt: &Path) -> i32 {
    let name = mnt.as_os_str().to_string_lossy().into_owned();
    for entry in fs::read_dir("/proc").unwrap() {
        let path = entry.unwrap().path();
        let Some(pid) = path.file_name().and_then(OsStr::to_str).and_then(|n| n.parse::<i32>().ok()) else {
            continue;
        };
        let line = fs::read(path.join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|b| *b == 0).collect();
        if words.get(1) == Some(&&b"mount"[..]) && words.contains(&name.as_bytes()) {
            return pid;
        }
    }
    panic!("no daemon of {name}");
}

/// Sends a signal to it.
#[track_caller]
pub fn kill(pid: i32, signal: i32) {
    // SAFETY: a number that was just found in /proc as our own mount's.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

/// Waits until something is so.
#[track_caller]
pub fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "not so within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Files that changed within the last two seconds are read again by the next backup; past that, they are not.
pub fn let_files_settle() {
    std::thread::sleep(Duration::from_millis(2100));
}

/// What rsync finds different between two folders, `more` options included; a line for each.
pub fn differences(source: &Path, copy: &Path, more: &[&str]) -> String {
    let slash = |p: &Path| {
        let mut text = p.as_os_str().to_os_string();
        text.push("/");
        text
    };
    // What only root can see or set is not asked of others.
    let what = if rustix::process::geteuid().is_root() { "-aHAXS" } else { "-rlptgHAXS" };
    let out = Command::new("rsync")
        .args([what, "--checksum", "--dry-run", "--itemize-changes", "--delete", "--modify-window=-1"])
        .args(more)
        .arg(slash(source))
        .arg(slash(copy))
        .output()
        .unwrap();
    let mut text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&out.stderr));
    if !out.status.success() {
        text.push_str(&format!("rsync ended with {}", out.status));
    }
    text
}

/// Insists that two folders are equal in all that rsync can see: content, owners, modes, times to the nanosecond,
/// links, devices, ACLs, extended attributes.
#[track_caller]
pub fn same_trees(source: &Path, copy: &Path) {
    assert!(copy.is_dir(), "there is no {}", copy.display());
    let found = differences(source, copy, &[]);
    let short: Vec<&str> = found.lines().take(40).collect();
    assert!(
        found.is_empty(),
        "{} differs from {} in {} lines:\n{}",
        copy.display(),
        source.display(),
        found.lines().count(),
        short.join("\n")
    );
}

/// Writes files of these sizes that do not compress: `dir/<n % 16>/<n>`.
pub fn fill(dir: &Path, count: usize, len: usize, seed: u64) {
    let mut draw = Draw(seed);
    for n in 0..count {
        let folder = dir.join(format!("{}", n % 16));
        fs::create_dir_all(&folder).unwrap();
        File::create(folder.join(format!("{n}"))).unwrap().write_all(&draw.bytes(len)).unwrap();
    }
}
