//! Real servers for the tests of far stores, each a child of the test program, on ports of its own of the loopback alone,
//! with data in a temporary folder: Ceph as the S3 store ([`s3`]), Apache as the WebDAV one ([`webdav`]), OpenSSH
//! ([`sftp`]), and a proxy that makes any of them slow, flaky or absent ([`proxy`]).
//!
//! Nobody has to stop them: a watchdog ends what is left and removes the folder as soon as the test program is gone, however
//! it went. A server whose program is missing fails the test that asks for it, in words; `make test` installs them.

// What no test has asked for yet.
#![allow(dead_code, unused_imports)]

mod apache;
mod ceph;
#[cfg(test)]
mod promises;
pub mod proxy;
mod sshd;
mod tls;

pub use apache::{WebDav, webdav};
pub use ceph::{Gateway, OSDS, S3, s3};
pub use sshd::{Sftp, sftp};

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// No server may need longer to answer, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(120);
/// The user that servers run as where the tests run as root (nobody and nogroup of Debian): a server for tests has no need of
/// root's rights.
const NOBODY: u32 = 65_534;
/// Ports are taken from here: below the kernel's own choice for outgoing connections (32768 and up), so that none of
/// these takes one between our look and the server's start.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Where the servers live, and who cleans up after them.
struct Ground {
    dir: PathBuf,
    watchdog: Mutex<Child>,
}

/// Reads who was started and who has ended; at the end of its input, which is the end of the test program, it ends all others with
/// their process groups, and removes the folder. Ctrl-C at a terminal does not reach it.
const WATCHDOG: &str = r#"
trap '' HUP INT QUIT TERM
living=
while read -r word pid; do
  others=
  for p in $living; do [ "$p" = "$pid" ] || others="$others $p"; done
  living=$others
  [ "$word" = started ] && living="$living $pid"
done
for p in $living; do kill -s KILL -- "-$p"; done
for n in 1 2 3 4 5 6 7 8 9 10; do rm -rf -- "$1" && exit; sleep 0.3; done
"#;

/// The folder of all servers, with the watchdog over it.
fn ground() -> &'static Ground {
    static GROUND: OnceLock<Ground> = OnceLock::new();
    GROUND.get_or_init(|| {
        let tag = pastfs::id::hex(&pastfs::clock::random_array::<4>());
        let dir = std::env::temp_dir().join(format!("pastfs-servers-{tag}"));
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o711)).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", WATCHDOG, "watchdog"]).arg(&dir).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Ground { dir, watchdog: Mutex::new(command.spawn().expect("starting sh")) }
    })
}

impl Ground {
    /// A new folder of a server, its user's alone.
    fn folder(&self, name: &str) -> PathBuf {
        let tag = pastfs::id::hex(&pastfs::clock::random_array::<4>());
        let dir = self.dir.join(format!("{name}-{tag}"));
        fs::create_dir(&dir).unwrap();
        give_to_nobody(&dir);
        dir
    }

    fn tell(&self, word: &str, pid: u32) {
        let mut watchdog = self.watchdog.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let input = watchdog.stdin.as_mut().expect("its input is a pipe");
        writeln!(input, "{word} {pid}").expect("telling the watchdog");
    }
}

/// Makes a file or folder the one of the servers' user, where that is another than ours.
fn give_to_nobody(path: &Path) {
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

/// The path of a program of a server, or the end of the test with what to install.
#[track_caller]
fn program(name: &str, packages: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = folders.map(|f| f.join(name)).find(|p| p.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "there is no {name} here, and this test runs against a real server: `make test` installs it, or \
             `apt-get install --no-install-recommends {packages}`"
        )
    })
}

/// A port of the loopback that nobody listens at.
fn free_port() -> u16 {
    loop {
        let random = u16::from_le_bytes(pastfs::clock::random_array());
        let port = PORTS.start + random % (PORTS.end - PORTS.start);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Waits until something is so; for longer than servers may take, it is the end of the test, with what `told` says.
#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool, told: impl Fn() -> String) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < START_LIMIT, "not so within {START_LIMIT:?}: {what}\n{}", told());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a tool of a server as the servers' user; what it says, or the end of the test with what it said.
#[track_caller]
fn tool<S: AsRef<OsStr>>(program: &Path, args: impl IntoIterator<Item = S>, input: &str) -> String {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    as_nobody(&mut command);
    let mut child = command.spawn().unwrap_or_else(|e| panic!("starting {}: {e}", program.display()));
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let (said, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{command:?} ended with {}:\n{said}\n{errors}", out.status);
    said.into_owned()
}

fn as_nobody(command: &mut Command) {
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY).env("HOME", "/nonexistent");
    }
}

/// A server's process, which can be killed and started again. It ends with the value.
pub struct Process {
    line: Vec<OsString>,
    log: PathBuf,
    is_ours: bool,
    child: Mutex<Option<Child>>,
}

impl Process {
    /// Not started yet. What it prints goes to the file `log`. It runs as the servers' user.
    fn new<S: Into<OsString>>(program: &Path, args: impl IntoIterator<Item = S>, log: PathBuf) -> Self {
        let mut line = vec![program.as_os_str().to_owned()];
        line.extend(args.into_iter().map(Into::into));
        Self { line, log, is_ours: false, child: Mutex::new(None) }
    }

    /// As the user of the tests: for servers that act in the name of who logs in.
    fn by_us(mut self) -> Self {
        self.is_ours = true;
        self
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Starts it, in a process group of its own.
    #[track_caller]
    fn start(&self) {
        let mut child = self.child();
        assert!(child.is_none(), "{:?} runs already", self.line);
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = Command::new(&self.line[0]);
        command.args(&self.line[1..]).process_group(0);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        if !self.is_ours {
            as_nobody(&mut command);
        }
        let started = command.spawn().unwrap_or_else(|e| panic!("starting {:?}: {e}", self.line[0]));
        ground().tell("started", started.id());
        *child = Some(started);
    }

    /// Starts it and waits until it `answers`.
    #[track_caller]
    fn start_until(&self, answers: impl Fn() -> bool) {
        self.start();
        let what = format!("{} answers", self.line[0].display());
        until(&what, || self.is_running() && answers() || self.has_ended_early(), || self.last_words());
        assert!(self.is_running(), "{:?} has ended:\n{}", self.line, self.last_words());
    }

    fn has_ended_early(&self) -> bool {
        !self.is_running()
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.child().as_mut().is_some_and(|c| matches!(c.try_wait(), Ok(None)))
    }

    /// Its process id.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.child().as_ref().expect("it runs").id()
    }

    /// The end of what it has printed.
    fn last_words(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let end = text.len().saturating_sub(3000);
        format!("{}:\n{}", self.log.display(), String::from_utf8_lossy(&text[end..]))
    }

    /// Sends a signal to it alone, such as SIGSTOP.
    pub fn signal(&self, signal: libc::c_int) {
        if let Some(child) = self.child().as_ref() {
            // SAFETY: the child was not waited for yet, so its number is still its own.
            unsafe { libc::kill(child.id().cast_signed(), signal) };
        }
    }

    /// Kills it and all that it has started, as a power cut would; it can be started again.
    pub fn kill(&self) {
        let Some(mut child) = self.child().take() else { return };
        let pid = child.id().cast_signed();
        // Sessions of sshd are in groups of their own.
        let mut family = descendants(pid);
        family.push(-pid);
        for pid in family {
            // SAFETY: our own child, not waited for, its group, and what /proc says it has started.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        let _ = child.wait();
        ground().tell("ended", child.id());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Processes that one has started, and those that these have.
fn descendants(of: i32) -> Vec<i32> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        // `pid (name) state parent …`; a name may hold anything, even a bracket.
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
        let parent = behind.split_whitespace().nth(1).and_then(|p| p.parse::<i32>().ok());
        parents.extend(parent.map(|parent| (pid, parent)));
    }
    let mut family = vec![of];
    let mut looked = 0;
    while looked < family.len() {
        let one = family[looked];
        family.extend(parents.iter().filter(|(_, parent)| *parent == one).map(|(pid, _)| *pid));
        looked += 1;
    }
    family.split_off(1)
}

/// Whether something listens there.
fn is_listening(port: u16) -> bool {
    TcpStream::connect_timeout(&local(port), Duration::from_secs(1)).is_ok()
}

/// Asks a server by curl(1): the status and the body of its answer. Status 0: there was none.
pub fn curl<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> (u16, String) {
    let mut command = Command::new(program("curl", "curl"));
    command.args(["-s", "--max-time", "60", "-w", "\n%{http_code}"]).args(args).stdin(Stdio::null());
    let out = command.output().expect("running curl");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap_or((&text, "0"));
    (status.parse().unwrap_or(0), body.to_owned())
}
