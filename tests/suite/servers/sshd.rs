//! OpenSSH's server with its SFTP subsystem, for the user who runs the tests.

use super::{Process, free_port, ground, is_listening, program};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where systemd runs, this package also starts a server for all the network, so that `make test` leaves it to you.
const PACKAGES: &str = "openssh-server openssh-client";
/// Its name in the settings of the client.
const ALIAS: &str = "store";

/// An sshd of its own, with an empty folder; it ends with the value.
pub struct Sftp {
    pub port: u16,
    /// Who logs in: the user of the tests.
    pub user: String,
    /// The private key that it lets in.
    pub key: PathBuf,
    /// The client's settings (`ssh -F`): the host `store` is this server, with its key and its known_hosts.
    pub config: PathBuf,
    /// A file with the server's host key, and nothing else.
    pub known_hosts: PathBuf,
    /// A folder with a program `ssh`, the real one with those settings and nothing of the user's own: for the front of PATH.
    pub bin: PathBuf,
    /// An empty folder that the user may write to.
    pub root: PathBuf,
    /// To be killed with all its sessions and, by [`Sftp::start`], started again.
    pub process: Process,
}

/// Starts one.
#[track_caller]
pub fn sftp() -> Sftp {
    let (sshd, ssh) = (program("sshd", PACKAGES), program("ssh", PACKAGES));
    let dir = ground().folder("sshd");
    for folder in ["root", "bin"] {
        fs::create_dir(dir.join(folder)).unwrap();
    }
    let (host, key) = (dir.join("host"), dir.join("key"));
    for file in [&host, &key] {
        let mut command = Command::new(program("ssh-keygen", PACKAGES));
        command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(file).stdin(Stdio::null());
        assert!(command.status().expect("running ssh-keygen").success(), "{command:?}");
    }
    fs::copy(dir.join("key.pub"), dir.join("authorized_keys")).unwrap();
    if rustix::process::geteuid().is_root() {
        // Its folder for the process without rights; the package leaves the making of it to systemd.
        let _ = fs::create_dir("/run/sshd");
    }
    let port = free_port();
    let known_hosts = dir.join("known_hosts");
    let host_key = fs::read_to_string(dir.join("host.pub")).unwrap();
    fs::write(&known_hosts, format!("[127.0.0.1]:{port} {host_key}")).unwrap();
    fs::write(dir.join("sshd_config"), text_of_settings(&dir, port)).unwrap();
    let server = Sftp {
        port,
        user: user(),
        key,
        config: dir.join("ssh_config"),
        known_hosts,
        bin: dir.join("bin"),
        root: dir.join("root"),
        process: {
            let args = ["-D".into(), "-e".into(), "-f".into(), dir.join("sshd_config").into_os_string()];
            Process::new(&sshd, args, dir.join("printed")).by_us()
        },
    };
    server.write_client(&ssh);
    server.start();
    server
}

impl Sftp {
    /// Starts it, the first time or after it was killed, and waits until it answers.
    #[track_caller]
    pub fn start(&self) {
        self.process.start_until(|| is_listening(self.port));
    }

    /// Where it listens, for a proxy. A client that goes there by another port needs `HostKeyAlias` for its known_hosts.
    pub fn address(&self) -> std::net::SocketAddr {
        super::local(self.port)
    }

    /// `sftp://…` of a folder in its root, by the host's name in the client's settings.
    pub fn url(&self, below: &str) -> String {
        format!("sftp://{ALIAS}{}/{below}", self.root.display())
    }

    /// PATH with its `ssh` before any other.
    pub fn path(&self) -> OsString {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(self.bin.clone()).chain(std::env::split_paths(&path));
        std::env::join_paths(folders).expect("no colon in it")
    }

    fn write_client(&self, ssh: &Path) {
        let (user, key, known) = (&self.user, self.key.display(), self.known_hosts.display());
        let text = format!(
            "Host {ALIAS}\n  HostName 127.0.0.1\n  Port {}\n  User {user}\nHost *\n  IdentityFile {key}\n  \
             IdentitiesOnly yes\n  IdentityAgent none\n  UserKnownHostsFile {known}\n  \
             GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n",
            self.port
        );
        fs::write(&self.config, text).unwrap();
        let program = self.bin.join("ssh");
        let line = format!("#!/bin/sh\nexec {} -F {} \"$@\"\n", ssh.display(), self.config.display());
        fs::write(&program, line).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

fn user() -> String {
    let out = Command::new("id").arg("-un").output().expect("running id");
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

fn text_of_settings(dir: &Path, port: u16) -> String {
    let dir = dir.display();
    format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {dir}/host\nPidFile none\n\
         AuthorizedKeysFile {dir}/authorized_keys\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
         KbdInteractiveAuthentication no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n\
         MaxStartups 200\nMaxSessions 200\n"
    )
}
