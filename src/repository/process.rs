//! Whether a process of this machine is over: said of the marks of sweeps that were killed.

use crate::format::snapshot::Process;
use rustix::process::{Pid, getpid, test_kill_process};
use std::fs;
use std::os::unix::fs::MetadataExt;

/// Of proc_pid_stat(5), counted from what follows the name of the program: state, number of threads, time of the start.
const STATE: usize = 0;
const THREADS: usize = 17;
const STARTED: usize = 19;

/// This process; `None` where /proc does not tell.
pub fn this() -> Option<Process> {
    let number = number();
    Some(Process { boot: boot()?, namespace: namespace()?, number, started: Stat::of(number)?.started })
}

/// Whether there is proof that it is over. Without one it may run: on another machine, in another container, or since
/// before this machine was started anew, which nobody can tell from another machine of the same name.
pub fn is_over(process: &Process) -> bool {
    if boot() != Some(process.boot) || namespace() != Some(process.namespace) {
        return false;
    }
    let Some(pid) = i32::try_from(process.number).ok().and_then(Pid::from_raw) else { return false };
    // Signal 0 sees processes that hidepid (proc(5)) hides.
    if test_kill_process(pid) == Err(rustix::io::Errno::SRCH) {
        return true;
    }
    // Another one may have been given its number; it itself may be dead, and nobody has asked how it ended.
    Stat::of(process.number).is_some_and(|s| s.started != process.started || s.is_dead)
}

fn number() -> u64 {
    u64::from(getpid().as_raw_nonzero().get().unsigned_abs())
}

fn boot() -> Option<[u8; 16]> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
    u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32).map(u128::to_be_bytes)
}

/// Its inode: another one for each namespace that there is.
fn namespace() -> Option<u64> {
    fs::metadata("/proc/self/ns/pid").ok().map(|m| m.ino())
}

struct Stat {
    started: u64,
    is_dead: bool,
}

impl Stat {
    /// `None` where there is none, or /proc is not that of our namespace.
    fn of(number: u64) -> Option<Self> {
        let own = fs::read_link("/proc/self").ok()?;
        if own.to_str()? != self::number().to_string() {
            return None;
        }
        Self::read(&fs::read_to_string(format!("/proc/{number}/stat")).ok()?)
    }

    /// The name of the program is in parentheses, and may hold any character.
    fn read(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let threads: u64 = fields.get(THREADS)?.parse().ok()?;
        // The first thread may be over before the others are.
        let is_dead = matches!(*fields.get(STATE)?, "Z" | "X") && threads <= 1;
        Some(Self { started: fields.get(STARTED)?.parse().ok()?, is_dead })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn who_lives_is_not_over_and_who_was_killed_is_with_or_without_an_heir() {
        let us = this().unwrap();
        assert!(!is_over(&us));
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let number = u64::from(child.id());
        let process = Process { number, started: Stat::of(number).unwrap().started, ..us };
        assert!(!is_over(&process));
        child.kill().unwrap();
        // Dead, and not waited for.
        while !Stat::of(number).unwrap().is_dead {
            std::thread::yield_now();
        }
        assert!(is_over(&process));
        child.wait().unwrap();
        assert!(is_over(&process));
    }

    #[test]
    fn of_another_boot_or_namespace_nothing_is_known() {
        let us = this().unwrap();
        let gone = Process { started: us.started + 1, ..us };
        assert!(is_over(&gone), "another process with its number");
        for unknown in [
            Process { boot: [1; 16], ..gone },
            Process { namespace: gone.namespace + 1, ..gone },
            Process { number: 0, ..gone },
            Process { number: u64::MAX, ..gone },
        ] {
            assert!(!is_over(&unknown), "{unknown:?}");
        }
    }

    #[test]
    fn names_of_programs_do_not_mislead() {
        let text = "77 (a) Z 1 (b) S 1 77 77 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 3 0 12345 1 2 3";
        let stat = Stat::read(text).unwrap();
        assert_eq!((stat.started, stat.is_dead), (12345, false));
        let dead = Stat::read("77 (a) Z 1 77 77 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 5 1 2 3").unwrap();
        assert!(dead.is_dead);
        let others_live =
            Stat::read("77 (a) Z 1 77 77 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 2 0 5 1 2 3").unwrap();
        assert!(!others_live.is_dead);
        for bad in ["", "77", "77 (a) S", "77 (a) S 1 2"] {
            assert!(Stat::read(bad).is_none());
        }
    }
}
