//! Sessions with the sftp-server of another machine, each through an `ssh` of its own.
//!
//! The `ssh` of the system is run, so that ssh_config(5), agents, jump hosts and known_hosts are what they are for
//! everybody else. A session that died is started again by the next who needs one.

use super::answer::Trouble;
use crate::fault::Fault;
use crate::storage::place::SftpPlace;
use openssh_sftp_client::{Sftp, SftpOptions};
use parking_lot::Mutex;
use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::num::NonZeroU16;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, Command};

/// Sessions at a time. An sftp-server works on one request after the other, and one that waits for a disk holds up all
/// behind it; sshd refuses the eleventh login at a time.
const SESSIONS: usize = 4;
/// How long a login may take where nobody is asked.
const LOGIN: Duration = Duration::from_secs(30);
/// The same where somebody types a password.
const TYPING: Duration = Duration::from_secs(180);
/// How much of what ssh says is kept.
const WORDS: usize = 4 << 10;
/// Requests that are on their way before those that wait are sent without delay.
const PENDING: u16 = 1;
/// How long ssh may take to end after its session has.
const ENDING: Duration = Duration::from_secs(2);

/// The sessions with one server.
pub(super) struct Sessions {
    place: SftpPlace,
    /// How ssh is called, for the shell; `ssh` if nobody says.
    command: Option<OsString>,
    /// Those that live.
    open: tokio::sync::Mutex<Vec<Arc<Session>>>,
    /// Somebody typed a password: they shall not be asked for each session.
    asks: AtomicBool,
}

/// One session; given back when dropped.
pub(super) struct Use(Arc<Session>);

/// A session and its ssh, which ends with it.
pub(super) struct Session {
    pub(super) sftp: Sftp,
    users: AtomicUsize,
    dead: AtomicBool,
    said: Said,
    _ssh: Child,
}

impl Sessions {
    pub(super) fn new(place: SftpPlace, command: Option<OsString>) -> Self {
        Self { place, command, open: tokio::sync::Mutex::default(), asks: AtomicBool::new(false) }
    }

    /// A session that nobody uses, else a new one, else the one that is used least.
    pub(super) async fn get(&self) -> Result<Use, Trouble> {
        let mut open = self.open.lock().await;
        open.retain(|session| !session.dead.load(Ordering::Relaxed));
        let least = open.iter().min_by_key(|s| s.users.load(Ordering::Relaxed)).cloned();
        let is_free = |s: &Arc<Session>| s.users.load(Ordering::Relaxed) == 0;
        let most = if self.asks.load(Ordering::Relaxed) { 1 } else { SESSIONS };
        let session = match least {
            Some(session) if is_free(&session) || open.len() >= most => session,
            others => match (self.log_in().await, others) {
                (Ok(session), _) => {
                    let session = Arc::new(session);
                    open.push(session.clone());
                    session
                }
                // A server that takes no more of them has one for us all the same.
                (Err(_), Some(session)) => session,
                (Err(trouble), None) => return Err(trouble),
            },
        };
        session.users.fetch_add(1, Ordering::Relaxed);
        Ok(Use(session))
    }

    /// Without questions first; where that is refused and there is a terminal, ssh may ask at it.
    async fn log_in(&self) -> Result<Session, Trouble> {
        let is_asking = self.asks.load(Ordering::Relaxed);
        let quiet = match is_asking {
            true => None,
            false => Some(self.start(false).await),
        };
        match quiet {
            Some(Err(trouble)) if trouble.fault != Fault::Denied || !std::io::stdin().is_terminal() => {
                Err(trouble)
            }
            Some(Ok(session)) => Ok(session),
            _ => {
                let session = self.start(true).await?;
                self.asks.store(true, Ordering::Relaxed);
                Ok(session)
            }
        }
    }

    async fn start(&self, may_ask: bool) -> Result<Session, Trouble> {
        let mut ssh = self.ssh(may_ask).spawn().map_err(|e| {
            Trouble::new(Fault::Misuse, format!("starting ssh: {e}")).hint("install the OpenSSH client")
        })?;
        let said = Said::default();
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (ssh.stdin.take(), ssh.stdout.take(), ssh.stderr.take())
        else {
            return Err(Trouble::new(Fault::Bug, "ssh has no pipes"));
        };
        let listening = tokio::spawn(said.clone().listen(stderr));
        let options = SftpOptions::new()
            .flush_interval(Duration::ZERO)
            .max_pending_requests(NonZeroU16::new(PENDING).unwrap_or(NonZeroU16::MIN));
        let limit = if may_ask { TYPING } else { LOGIN };
        match tokio::time::timeout(limit, Sftp::new(stdin, stdout, options)).await {
            Ok(Ok(sftp)) => {
                let (users, dead) = (AtomicUsize::new(0), AtomicBool::new(false));
                Ok(Session { sftp, users, dead, said, _ssh: ssh })
            }
            Ok(Err(e)) => {
                // Its last words come with its end.
                let _ = tokio::time::timeout(ENDING, ssh.wait()).await;
                let _ = tokio::time::timeout(ENDING, listening).await;
                Err(said.trouble(&e.to_string()))
            }
            Err(_) => Err(said.trouble(&format!("nobody answered for {} seconds", limit.as_secs()))),
        }
    }

    fn ssh(&self, may_ask: bool) -> Command {
        let mut options: Vec<OsString> = Vec::new();
        if !may_ask {
            options.push("-oBatchMode=yes".into());
        }
        if let Some(port) = self.place.port {
            options.extend(["-p".into(), port.to_string().into()]);
        }
        if let Some(user) = &self.place.user {
            options.extend(["-l".into(), user.into()]);
        }
        let rest: [&OsStr; 4] = ["-s".as_ref(), "--".as_ref(), self.place.host.as_ref(), "sftp".as_ref()];
        let mut ssh = match &self.command {
            None => Command::new("ssh"),
            // The shell splits it, as with GIT_SSH_COMMAND.
            Some(command) => {
                let mut shell = Command::new("/bin/sh");
                let mut line = OsString::from("exec ");
                line.push(command);
                line.push(" \"$@\"");
                shell.arg("-c").arg(line).arg("ssh");
                shell
            }
        };
        ssh.args(options).args(rest);
        ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        if !may_ask {
            // Ctrl-C is for us: what we do then needs the session. Who asks must stay where the terminal is.
            ssh.process_group(0);
        }
        ssh
    }
}

impl std::ops::Deref for Use {
    type Target = Session;
    fn deref(&self) -> &Session {
        &self.0
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.0.users.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Session {
    /// Nobody shall use it again.
    pub(super) fn bury(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    /// What ssh said last, of a session that broke.
    pub(super) fn broken(&self, why: &str) -> Trouble {
        self.bury();
        let trouble = self.said.trouble(why);
        // It was fine before.
        Trouble { fault: Fault::Busy, ..trouble }
    }
}

/// The last words of an ssh.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Said {
    async fn listen(self, mut stderr: ChildStderr) {
        let mut buffer = [0; 512];
        while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
            let mut words = self.0.lock();
            words.extend_from_slice(&buffer[..read]);
            let over = words.len().saturating_sub(WORDS);
            words.drain(..over);
        }
    }

    /// One line of what was said.
    fn line(&self) -> String {
        let words = self.0.lock();
        let text = String::from_utf8_lossy(&words).into_owned();
        text.split_whitespace().collect::<Vec<_>>().join(" ").trim_matches('@').trim().to_owned()
    }

    /// What a login failed of.
    fn trouble(&self, why: &str) -> Trouble {
        let line = self.line();
        let said = |fault| match line.is_empty() {
            true => Trouble::new(fault, why.to_owned()),
            false => Trouble::new(fault, format!("ssh says: {line}")),
        };
        let has = |text: &str| line.contains(text);
        match () {
            () if has("Host key verification failed") || has("REMOTE HOST IDENTIFICATION HAS CHANGED") => said(Fault::Denied)
                .hint("log in once by ssh, and compare the key of the host before you say yes"),
            () if has("Permission denied") || has("Too many authentication failures") => said(Fault::Denied)
                .hint("`ssh HOST` must work: add the key to an agent, or name it by IdentityFile in ~/.ssh/config"),
            () if has("Could not resolve hostname") => {
                said(Fault::Busy).hint("look at the name of the host, and at the network")
            }
            () if has("subsystem request failed") => said(Fault::Io).hint("the server must offer the subsystem sftp"),
            () if has("Bad configuration option") || has("Bad owner or permissions") || has("command not found") || has(": not found") => {
                said(Fault::Misuse).hint("look at --ssh-command, and at ~/.ssh/config")
            }
            () => said(Fault::Busy),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions(place: &str, command: Option<&str>) -> Sessions {
        let crate::storage::place::Place::Sftp(place) =
            crate::storage::place::Place::parse(place.as_ref()).unwrap()
        else {
            panic!("not SFTP")
        };
        Sessions::new(place, command.map(Into::into))
    }

    #[test]
    fn ssh_is_called_with_what_the_url_says_and_nothing_else() {
        let words = |sessions: &Sessions, may_ask| {
            let command = sessions.ssh(may_ask);
            let command = command.as_std();
            let all = std::iter::once(command.get_program()).chain(command.get_args());
            all.map(|a| a.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
        };
        let plain = sessions("sftp://host/x", None);
        assert_eq!(words(&plain, true), "ssh -s -- host sftp");
        let full = sessions("sftp://ana@host:22/x", Some("ssh -F /f"));
        assert_eq!(
            words(&full, false),
            "/bin/sh -c exec ssh -F /f \"$@\" ssh -oBatchMode=yes -p 22 -l ana -s -- host sftp"
        );
    }

    #[test]
    fn last_words_are_kept_and_understood() {
        let said = |text: &str| {
            let said = Said::default();
            said.0.lock().extend_from_slice(text.as_bytes());
            said.trouble("it ended")
        };
        assert_eq!(said("ana@h: Permission denied (publickey).\r\n").fault, Fault::Denied);
        assert_eq!(said("Host key verification failed.\r\n").fault, Fault::Denied);
        assert_eq!(said("ssh: connect to host h port 22: Connection refused\r\n").fault, Fault::Busy);
        assert_eq!(said("").text, "it ended");
    }
}
