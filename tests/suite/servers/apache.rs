//! Apache with mod_dav: the WebDAV server that most providers run.

use super::tls::tls;
use super::{Process, free_port, give_to_nobody, ground, is_listening, program};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Packages that hold it; this one starts no server by itself.
const PACKAGES: &str = "apache2-bin";
const MODULES: &str = "/usr/lib/apache2/modules";

/// An Apache of its own, with an empty folder; it ends with the value.
pub struct WebDav {
    /// `http://127.0.0.1:<port>`, without a slash at the end. All folders below may be written to.
    pub endpoint: String,
    /// The same by TLS: `https://127.0.0.1:<port>`.
    pub tls_endpoint: String,
    /// The certificate (PEM) of the authority that the TLS one is known by.
    pub ca: PathBuf,
    /// Basic authentication.
    pub user: &'static str,
    pub password: &'static str,
    /// What it serves.
    pub root: PathBuf,
    port: u16,
    /// To be killed and, by [`WebDav::start`], started again.
    pub process: Process,
}

/// Starts one.
#[track_caller]
pub fn webdav() -> WebDav {
    let apache = program("apache2", PACKAGES);
    let dir = ground().folder("apache");
    let root = dir.join("data");
    let (port, tls_port) = (free_port(), free_port());
    let (user, password) = ("anna", "a word of passage");
    for folder in [&root, &dir.join("run")] {
        fs::create_dir(folder).unwrap();
        give_to_nobody(folder);
    }
    let openssl = Command::new(program("openssl", "openssl")).args(["passwd", "-apr1", password]).output();
    let hash = String::from_utf8(openssl.expect("running openssl").stdout).unwrap();
    fs::write(dir.join("users"), format!("{user}:{hash}")).unwrap();
    let settings = dir.join("apache.conf");
    fs::write(&settings, text_of_settings(&dir, port, tls_port)).unwrap();
    // In one process (-X), so that there is no other to be left behind; it has threads enough.
    let args = ["-X".into(), "-f".into(), settings.into_os_string()];
    let process = Process::new(&apache, args, dir.join("printed"));
    let server = WebDav {
        endpoint: format!("http://127.0.0.1:{port}"),
        tls_endpoint: format!("https://127.0.0.1:{tls_port}"),
        ca: tls().ca.clone(),
        user,
        password,
        root,
        port,
        process,
    };
    server.start();
    server
}

impl WebDav {
    /// Starts it, the first time or after it was killed, and waits until it answers.
    #[track_caller]
    pub fn start(&self) {
        self.process.start_until(|| is_listening(self.port));
    }

    /// Where it listens without TLS, for a proxy.
    pub fn address(&self) -> std::net::SocketAddr {
        super::local(self.port)
    }
}

fn text_of_settings(dir: &Path, port: u16, tls_port: u16) -> String {
    let modules = [
        "mpm_event",
        "authn_core",
        "authn_file",
        "authz_core",
        "authz_user",
        "auth_basic",
        "dav",
        "dav_fs",
        "ssl",
    ];
    let loads: String =
        modules.iter().map(|m| format!("LoadModule {m}_module {MODULES}/mod_{m}.so\n")).collect();
    let (dir, both) = (dir.display(), tls().both.display());
    format!(
        "ServerRoot {dir}\nServerName 127.0.0.1\nPidFile {dir}/run/pid\nErrorLog {dir}/errors\n\
         DefaultRuntimeDir {dir}/run\n{loads}\
         StartServers 1\nServerLimit 1\nThreadsPerChild 64\nMaxRequestWorkers 64\n\
         KeepAliveTimeout 15\nMaxKeepAliveRequests 0\n\
         Listen 127.0.0.1:{port}\nListen 127.0.0.1:{tls_port}\n\
         <VirtualHost 127.0.0.1:{tls_port}>\nSSLEngine on\nSSLCertificateFile {both}\nDocumentRoot {dir}/data\n</VirtualHost>\n\
         DAVLockDB {dir}/run/locks\nDocumentRoot {dir}/data\n\
         <Directory {dir}/data>\nDav On\nDavDepthInfinity on\nAuthType Basic\nAuthName dav\n\
         AuthUserFile {dir}/users\nRequire valid-user\n</Directory>\n"
    )
}
