//! A certificate authority that nobody knows, and a certificate of it for the servers.

use super::{give_to_nobody, ground, program};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Files in PEM.
pub struct Tls {
    /// The authority's certificate: who trusts it trusts the servers.
    pub ca: PathBuf,
    /// The servers' certificate, for 127.0.0.1 and localhost, and their key, in one file.
    pub both: PathBuf,
}

/// The same for all servers of a test run.
pub fn tls() -> &'static Tls {
    static TLS: OnceLock<Tls> = OnceLock::new();
    TLS.get_or_init(|| {
        let dir = ground().folder("tls");
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let authority =
            ["req", "-x509", "-days", "30", "-subj", "/CN=an authority of a test", "-keyout", "ca.key"];
        openssl(&dir, authority.iter().chain(&key).chain(&["-out", "ca.pem"]));
        let request = ["req", "-subj", "/CN=127.0.0.1", "-keyout", "server.key", "-out", "server.csr"];
        openssl(&dir, request.iter().chain(&key));
        let names = "subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=critical,CA:FALSE\n";
        fs::write(dir.join("names"), names).unwrap();
        let sign =
            ["x509", "-req", "-days", "30", "-in", "server.csr", "-extfile", "names", "-CAcreateserial"];
        let by = ["-CA", "ca.pem", "-CAkey", "ca.key", "-out", "server.pem"];
        openssl(&dir, sign.iter().chain(&by));
        let both = dir.join("both.pem");
        let text = ["server.pem", "server.key"].map(|f| fs::read_to_string(dir.join(f)).unwrap()).concat();
        fs::write(&both, text).unwrap();
        give_to_nobody(&both);
        Tls { ca: dir.join("ca.pem"), both }
    })
}

#[track_caller]
fn openssl<'a>(dir: &Path, args: impl Iterator<Item = &'a &'a str>) {
    let mut command = Command::new(program("openssl", "openssl"));
    command.current_dir(dir).args(args).stdin(Stdio::null());
    let out = command.output().expect("running openssl");
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}
