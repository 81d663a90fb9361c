//! What the servers of the tests promise themselves.

use super::{Process, Sftp, WebDav, curl, s3, sftp, webdav};
use crate::suite::scene::soon;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[test]
fn ceph_keeps_objects_while_one_of_its_daemons_is_down() {
    let s3 = s3();
    let bucket = s3.new_bucket("promise");
    let object = format!("{bucket}/object");
    assert_eq!(s3.ask("PUT", &object, Some("what is in it")).0, 200);
    let _alone = s3.alone_with_osds();
    s3.osd(1).kill();
    assert_eq!(s3.ask("GET", &object, None), (200, "what is in it".into()));
    assert_eq!(s3.ask("PUT", &object, Some("something else")).0, 200);
    s3.start_osd(1);
    assert_eq!(s3.ask("GET", &object, None), (200, "something else".into()));
    // Another user may not.
    let (access, secret) = s3.add_user("stranger");
    let user = format!("{access}:{secret}");
    let url = format!("{}/{object}", s3.endpoint);
    assert_eq!(curl(["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &user, &url]).0, 403);
}

#[test]
fn a_gateway_of_ceph_comes_back_with_what_was_put() {
    let s3 = s3();
    let gateway = s3.own_gateway();
    let bucket = s3.new_bucket("gateway");
    assert_eq!(s3.ask("PUT", &format!("{bucket}/f"), Some("f")).0, 200);
    gateway.process.kill();
    assert_eq!(curl([&gateway.endpoint]).0, 0);
    gateway.start();
    assert_eq!(curl([&gateway.endpoint]).0, 200);
    // By TLS, to who knows the authority alone.
    assert_eq!(curl([&s3.tls_endpoint]).0, 0);
    assert_eq!(curl(["--cacert", s3.ca.to_str().unwrap(), &s3.tls_endpoint]).0, 200);
}

#[test]
fn apache_takes_files_from_who_has_the_password() {
    let server = webdav();
    let user = format!("{}:{}", server.user, server.password);
    let url = format!("{}/f", server.endpoint);
    assert_eq!(curl(["-X", "PUT", "--data-binary", "text", &url]).0, 401);
    assert_eq!(curl(["-X", "PUT", "--data-binary", "text", "--user", &user, &url]).0, 201);
    assert_eq!(fs::read_to_string(server.root.join("f")).unwrap(), "text");
    let url = format!("{}/f", server.tls_endpoint);
    assert_eq!(curl(["--user", &user, &url]).0, 0);
    let ca = server.ca.to_str().unwrap();
    assert_eq!(curl(["--cacert", ca, "--user", &user, &url]), (200, "text".into()));
    server.process.kill();
    assert_eq!(curl([&server.endpoint]).0, 0);
    server.start();
    let listed =
        curl(["-X", "PROPFIND", "-H", "Depth: 1", "--user", &user, &format!("{}/", server.endpoint)]);
    assert!(listed.0 == 207 && listed.1.contains("<D:href>/f</D:href>"), "{listed:?}");
}

/// What `sftp -b` does with these lines.
fn batch(server: &Sftp, lines: &str) -> (bool, String) {
    let mut command = Command::new("sftp");
    command.arg("-S").arg(server.bin.join("ssh")).args(["-b", "-", "store"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("running sftp");
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let said = [out.stdout, out.stderr].concat();
    (out.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn sshd_takes_files_from_who_has_the_key() {
    let server = sftp();
    let root = server.root.display();
    let (is_done, told) = batch(&server, &format!("put /etc/hostname {root}/f\nls {root}\n"));
    assert!(is_done && told.contains("/f"), "{told}");
    assert_eq!(fs::read(server.root.join("f")).unwrap(), fs::read("/etc/hostname").unwrap());
    server.process.kill();
    assert!(!batch(&server, "pwd\n").0);
    server.start();
    assert!(batch(&server, "pwd\n").0);
    fs::write(&server.known_hosts, "").unwrap();
    let (is_done, told) = batch(&server, "pwd\n");
    assert!(!is_done && told.contains("Host key verification failed"), "{told}");
}

/// Set for a test program that holds servers until it is killed.
const HOLDS: &str = "PASTFS_TEST_HOLDS_SERVERS";

#[test]
fn servers_go_with_the_test_program_even_if_it_is_killed() {
    if std::env::var_os(HOLDS).is_some() {
        // Two, one of which would not mind to be left alone.
        let (first, second) = (webdav(), sftp());
        println!("\nserves {} {} {}", first.process.pid(), second.process.pid(), second.root.display());
        loop {
            std::thread::park();
        }
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--nocapture", "--test-threads=1"]).env(HOLDS, "1");
    command.arg("suite::servers::promises::servers_go_with_the_test_program_even_if_it_is_killed");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let line = lines.find(|l| l.starts_with("serves ")).expect("it says what it serves");
    let words: Vec<&str> = line.split(' ').collect();
    let processes = [words[1], words[2]].map(|pid| PathBuf::from(format!("/proc/{pid}")));
    let ground = Path::new(words[3]).parent().unwrap().parent().unwrap();
    assert!(ground.exists() && processes.iter().all(|p| p.exists()));
    child.kill().unwrap();
    child.wait().unwrap();
    soon("the servers are gone", || processes.iter().all(|p| !p.exists()));
    soon("their folder is gone", || !ground.exists());
}

#[test]
fn a_server_ends_with_its_value() {
    let WebDav { process, .. } = webdav();
    let pid = process.pid();
    drop::<Process>(process);
    assert!(!PathBuf::from(format!("/proc/{pid}")).exists());
}
