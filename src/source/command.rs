//! What a program prints, as the content of one file.

use crate::clock;
use crate::fault::{Doing, Error, Fault, Result};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdout, ExitStatus, Stdio};
use std::time::Duration;

/// How long a program that is stopped may take to clean up before it is killed.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it is asked whether it has ended.
const LOOK: Duration = Duration::from_millis(10);

/// A running `sh -c COMMAND`, whose standard output is read. Its input is empty, its errors go where
/// ours go. It runs in a process group of its own; dropped before [`Command::finish`] said how it
/// ended, the whole group is stopped.
pub struct Command {
    text: String,
    child: Option<Child>,
    output: Option<ChildStdout>,
    bytes: u64,
}

impl Command {
    /// Starts it.
    pub fn start(command: &str) -> Result<Self> {
        let mut child = std::process::Command::new("sh")
            .arg("-c")
            .arg(command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .doing(|| format!("starting `{command}`"))?;
        let output = child.stdout.take();
        Ok(Self { text: command.to_owned(), child: Some(child), output, bytes: 0 })
    }
    /// Waits for its end and says how many bytes it printed. To be called when everything was read; what is
    /// printed after is lost to it. A failing program, one that was ended by a signal, and one that printed
    /// nothing are errors: half a dump must not pass for a whole one.
    pub fn finish(mut self) -> Result<u64> {
        drop(self.output.take());
        let Some(mut child) = self.child.take() else {
            return Err(Error::bug(format!("`{}` was waited for twice", self.text)));
        };
        let status = child.wait().doing(|| format!("waiting for `{}`", self.text))?;
        self.judge(status)?;
        Ok(self.bytes)
    }

    fn judge(&self, status: ExitStatus) -> Result<()> {
        let text = &self.text;
        let ended = match (status.code(), status.signal()) {
            (Some(0), _) if self.bytes > 0 => return Ok(()),
            (Some(0), _) => format!("`{text}` printed nothing"),
            (Some(code), _) => format!("`{text}` failed with exit code {code}"),
            (None, Some(signal)) => format!("`{text}` was ended by signal {signal}"),
            (None, None) => format!("`{text}` ended in an unknown way"),
        };
        Err(Error::new(Fault::Io, ended))
    }
}

impl Read for Command {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let n = match &mut self.output {
            Some(output) => output.read(out)?,
            None => 0,
        };
        self.bytes += n as u64;
        Ok(n)
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        drop(self.output.take());
        if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            // A group that has ended already is no matter. The first process is not reaped before the
            // last signal, so that its number cannot be another's.
            let _ = kill_process_group(group, Signal::TERM);
            let gone = || {
                let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
                !matches!(waitid(WaitId::Pid(group), options), Ok(None))
            };
            let mut waited = Duration::ZERO;
            while !gone() && waited < PATIENCE {
                clock::sleep(LOOK);
                waited += LOOK;
            }
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(command: &str) -> (Vec<u8>, Result<u64>) {
        let mut running = Command::start(command).unwrap();
        let mut bytes = Vec::new();
        running.read_to_end(&mut bytes).unwrap();
        (bytes, running.finish())
    }

    #[test]
    fn the_output_is_the_content() {
        let (bytes, end) = run("printf 'a\\000b'; printf c");
        assert_eq!((bytes.as_slice(), end.unwrap()), (&b"a\0bc"[..], 4));
        let (bytes, _) = run("head -c 300000 /dev/zero");
        assert_eq!(bytes.len(), 300_000);
    }

    #[test]
    fn failing_silent_and_killed_programs_are_errors_that_name_them() {
        let says = |command: &str| {
            let error = run(command).1.unwrap_err();
            assert_eq!(error.fault(), Fault::Io);
            assert!(error.to_string().contains(command));
            error.to_string()
        };
        assert!(says("echo half; exit 3").ends_with("exit code 3"));
        assert!(says("no-such-program-at-all 2>/dev/null").ends_with("exit code 127"));
        assert!(says("true").ends_with("printed nothing"));
        assert!(says("echo half; kill -9 $$").ends_with("signal 9"));
    }

    #[test]
    fn dropped_early_the_whole_group_is_stopped() {
        // The second process would hold a pipe's writing end open for long if it lived on.
        let mut running = Command::start("sleep 1000 & echo $!; wait").unwrap();
        let mut line = Vec::new();
        let mut byte = [0];
        while running.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
            line.push(byte[0]);
        }
        let second: i32 = String::from_utf8(line).unwrap().parse().unwrap();
        drop(running);
        let ended = || {
            // Gone, or a zombie that its new parent has not collected yet.
            let stat = std::fs::read_to_string(format!("/proc/{second}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z")
        };
        for _ in 0..500 {
            if ended() {
                return;
            }
            clock::sleep(LOOK);
        }
        panic!("the second process lives on");
    }

    #[test]
    fn one_that_ignores_to_be_stopped_is_killed() {
        let mut running = Command::start("trap '' TERM; echo on; while :; do sleep 0.1; done").unwrap();
        let mut bytes = [0; 3];
        running.read_exact(&mut bytes).unwrap();
        drop(running);
    }
}
