//! What a program does to files, as strace(1) tells it: every call that makes, writes, moves, removes or syncs.

use super::disk::{Disk, Op};
use std::collections::HashMap;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Calls that matter, and those that tell which descriptor is what.
const CALLS: &str = "creat,open,openat,openat2,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,\
    rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir,mkdir,mkdirat,symlink,symlinkat,fsync,fdatasync,\
    copy_file_range,sendfile,mmap";
/// `FALLOC_FL_KEEP_SIZE` of linux/falloc.h.
const KEEP_SIZE: &str = "FALLOC_FL_KEEP_SIZE";

/// Whether programs can be watched here.
pub fn is_possible() -> bool {
    let tried = Command::new("strace").args(["-f", "-qq", "-e", "trace=fsync", "true"]).status();
    let is = tried.is_ok_and(|s| s.success());
    if !is {
        eprintln!("NOT RUN: the power cuts need strace(1), and the right to use it");
    }
    is
}

/// The command, to be run by strace with its log at `log`, a file for each thread.
pub fn watched(command: Command, log: &Path) -> Command {
    let mut watching = Command::new("strace");
    watching.args(["-ff", "-qq", "-ttt", "-y", "-xx", "-s", "100000000", "--seccomp-bpf", "-e"]);
    watching.arg(format!("trace={CALLS}")).arg("-o").arg(log).arg("--");
    as_arguments(&mut watching, &command);
    watching
}

/// Gives `of` the command as arguments, its environment and its folder.
pub fn as_arguments(of: &mut Command, command: &Command) {
    of.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => of.env(name, value),
            None => of.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        of.current_dir(dir);
    }
    of.stdin(std::process::Stdio::null());
}

/// A call: its name, arguments and result, as strace writes them.
struct Call {
    name: String,
    args: Vec<String>,
    result: String,
}

fn parse(line: &str) -> Option<(f64, Call)> {
    let (time, rest) = line.split_once(' ')?;
    let (name, rest) = rest.split_once('(')?;
    let (args, result) = rest.rsplit_once(") = ")?;
    // Strings are hexadecimal throughout, so commas only separate; those inside [] and {} belong together.
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in args.chars() {
        match c {
            '[' | '{' => depth += 1,
            ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut()?.push(c);
    }
    let args = parts.iter().map(|a| a.trim().to_string()).collect();
    Some((time.parse().ok()?, Call { name: name.into(), args, result: result.trim().into() }))
}

/// The bytes of `\x2f\x74…`.
fn bytes(hex: &str) -> Vec<u8> {
    let digit = |d: u8| (d as char).to_digit(16).unwrap_or_else(|| panic!("no digit in {hex:.60}")) as u8;
    hex.as_bytes().chunks(4).map(|c| digit(c[2]) << 4 | digit(c[3])).collect()
}

/// The quoted strings in an argument, one after the other.
fn quoted(arg: &str) -> Vec<u8> {
    assert!(!arg.contains("..."), "strace cut a string short");
    arg.split('"').skip(1).step_by(2).flat_map(bytes).collect()
}

fn path(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// The path of a descriptor, `5<\x2f…>`; none for what has none, or none any more.
fn of_descriptor(arg: &str) -> Option<PathBuf> {
    let (_, inner) = arg.split_once('<')?;
    let (inner, after) = inner.rsplit_once('>')?;
    (inner.starts_with("\\x2f") && after.is_empty()).then(|| path(bytes(inner)))
}

fn number(arg: &str) -> u64 {
    arg.split(['<', ' '])
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or_else(|| panic!("no number: {arg:.60}"))
}

/// Turns a log into steps on what lies at `names` below `dir`, and proves it against what is there now.
pub fn steps(log: &Path, dir: &Path, names: &[&str], before: &Disk) -> Vec<Op> {
    let mut calls: Vec<(f64, Call)> = Vec::new();
    let prefix = format!("{}.", log.file_name().unwrap().to_str().unwrap());
    for entry in fs::read_dir(log.parent().unwrap()).unwrap() {
        let file = entry.unwrap().path();
        if file.file_name().unwrap().to_str().unwrap().starts_with(&prefix) {
            calls.extend(fs::read_to_string(&file).unwrap().lines().filter_map(parse));
            fs::remove_file(&file).unwrap();
        }
    }
    // Each thread's are in order, and one that waits for another begins after it has ended.
    calls.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut player = Player {
        dir: dir.to_path_buf(),
        names: names.iter().map(|n| (*n).into()).collect(),
        disk: before.clone(),
        cursors: HashMap::new(),
        ops: Vec::new(),
    };
    for (_, call) in &calls {
        if !call.result.starts_with('-') && !call.result.starts_with('?') {
            player.call(call);
        }
    }
    let (seen, real) = (player.disk.after(super::disk::Loss::Nothing), super::disk::read(dir, names));
    for path in seen.keys().chain(real.keys()) {
        assert!(seen.get(path) == real.get(path), "strace did not tell all of {}", path.display());
    }
    player.ops
}

struct Player {
    dir: PathBuf,
    names: Vec<PathBuf>,
    disk: Disk,
    /// Of each descriptor: where the next write goes; none: to the end.
    cursors: HashMap<u64, Option<u64>>,
    ops: Vec<Op>,
}

impl Player {
    /// The path below the watched folder, if it is one that matters.
    fn below(&self, path: &Path) -> Option<PathBuf> {
        let below = path.strip_prefix(&self.dir).ok()?;
        // The folder itself can be synced.
        let is_it = below.as_os_str().is_empty();
        (is_it || self.names.iter().any(|n| below.starts_with(n))).then(|| below.to_path_buf())
    }

    /// A path argument, which may count from a descriptor.
    fn at(&self, folder: &str, name: &str) -> Option<PathBuf> {
        let name = path(quoted(name));
        let whole = if name.is_absolute() { name } else { of_descriptor(folder)?.join(name) };
        // `.` as the store opens its root.
        self.below(&whole.components().collect::<PathBuf>())
    }

    fn file(&self, arg: &str) -> Option<PathBuf> {
        self.below(&of_descriptor(arg)?)
    }

    fn push(&mut self, op: Op) {
        self.disk.apply(&op);
        self.ops.push(op);
    }

    fn opened(&mut self, at: Option<PathBuf>, flags: &str, result: &str) {
        let descriptor = number(result);
        let is_appending = flags.contains("O_APPEND");
        self.cursors.insert(descriptor, (!is_appending).then_some(0));
        let Some(path) = at else { return };
        if flags.contains("O_CREAT") && !self.disk.is_there(&path) {
            self.push(Op::Create(path));
        } else if flags.contains("O_TRUNC") && self.disk.len(&path) != Some(0) {
            self.push(Op::Resize(path, 0));
        }
    }

    fn write(&mut self, descriptor: &str, bytes: Vec<u8>, at: Option<u64>) {
        let Some(path) = self.file(descriptor) else { return };
        let cursor = self.cursors.entry(number(descriptor)).or_insert(None);
        let end = self.disk.len(&path).unwrap_or(0);
        let start = at.or(*cursor).unwrap_or(end);
        if let (None, Some(cursor)) = (at, cursor) {
            *cursor = start + bytes.len() as u64;
        }
        self.push(Op::Write(path, start, bytes));
    }

    fn call(&mut self, call: &Call) {
        let a: Vec<&str> = call.args.iter().map(String::as_str).collect();
        let cwd = self.dir.clone();
        let plain = |s: &Self, name: &str| {
            let path = path(quoted(name));
            s.below(&if path.is_absolute() { path } else { cwd.join(path) })
        };
        match call.name.as_str() {
            "open" => self.opened(plain(self, a[0]), a[1], &call.result),
            "creat" => self.opened(plain(self, a[0]), "O_CREAT|O_TRUNC", &call.result),
            "openat" | "openat2" => self.opened(self.at(a[0], a[1]), a[2], &call.result),
            "write" | "writev" | "pwrite64" | "pwritev" | "pwritev2" => {
                let written = number(&call.result) as usize;
                let mut bytes = if self.file(a[0]).is_some() { quoted(a[1]) } else { return };
                bytes.truncate(written);
                let at = call.name.starts_with('p').then(|| number(a[3]));
                self.write(a[0], bytes, at);
            }
            "ftruncate" | "fallocate" => {
                let Some(path) = self.file(a[0]) else { return };
                let len = self.disk.len(&path).unwrap_or(0);
                let new = match call.name.as_str() {
                    "ftruncate" => number(a[1]),
                    _ if a[1].contains(KEEP_SIZE) => len,
                    _ => len.max(number(a[2]) + number(a[3])),
                };
                if new != len {
                    self.push(Op::Resize(path, new));
                }
            }
            "rename" => self.moved(plain(self, a[0]), plain(self, a[1])),
            "renameat" | "renameat2" => self.moved(self.at(a[0], a[1]), self.at(a[2], a[3])),
            "link" => self.linked(plain(self, a[0]), plain(self, a[1])),
            "linkat" => self.linked(self.at(a[0], a[1]), self.at(a[2], a[3])),
            "unlink" | "rmdir" => self.removed(plain(self, a[0])),
            "unlinkat" => self.removed(self.at(a[0], a[1])),
            "mkdir" => self.made(plain(self, a[0])),
            "mkdirat" => self.made(self.at(a[0], a[1])),
            "fsync" | "fdatasync" => {
                if let Some(path) = self.file(a[0]) {
                    self.push(Op::Sync(path));
                }
            }
            "mmap" => {
                let is_written = a[2].contains("PROT_WRITE") && a[3].contains("MAP_SHARED");
                assert!(!is_written || self.file(a[4]).is_none(), "{} is written by mmap(2)", a[4]);
            }
            other => {
                let is_ours = a.iter().any(|a| self.file(a).is_some() || plain(self, a).is_some());
                assert!(!is_ours, "{other} is not known to the recorder");
            }
        }
    }

    fn moved(&mut self, from: Option<PathBuf>, to: Option<PathBuf>) {
        match (from, to) {
            (Some(from), Some(to)) => self.push(Op::Rename(from, to)),
            (None, None) => {}
            (from, to) => panic!("moved between what is watched and what is not: {from:?} {to:?}"),
        }
    }

    fn linked(&mut self, from: Option<PathBuf>, to: Option<PathBuf>) {
        if let (Some(from), Some(to)) = (from, to) {
            self.push(Op::Link(from, to));
        }
    }

    fn removed(&mut self, path: Option<PathBuf>) {
        if let Some(path) = path {
            self.push(Op::Remove(path));
        }
    }

    fn made(&mut self, path: Option<PathBuf>) {
        if let Some(path) = path {
            self.push(Op::Mkdir(path));
        }
    }
}
