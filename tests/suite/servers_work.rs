//! What the servers of the tests promise themselves.

use super::scene::soon;
use super::servers::proxy::{Failure, Plan, Proxy};
use super::servers::{Process, Sftp, WebDav, curl, s3, sftp, webdav};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

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
    let answer = s3.ask_at(&s3.endpoint, (&access, &secret), "GET", &object, None);
    assert!(answer.0 == 403 && answer.1.contains("AccessDenied"), "{answer:?}");
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
fn batch(server: &Sftp, more: &[&str], lines: &str) -> (bool, String) {
    let mut command = Command::new("sftp");
    if more.is_empty() {
        command.arg("-S").arg(server.bin.join("ssh"));
    }
    command.args(more).args(["-b", "-", "store"]);
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
    let (is_done, told) = batch(&server, &[], &format!("put /etc/hostname {root}/f\nls {root}\n"));
    assert!(is_done && told.contains("/f"), "{told}");
    assert_eq!(fs::read(server.root.join("f")).unwrap(), fs::read("/etc/hostname").unwrap());
    server.process.kill();
    assert!(!batch(&server, &[], "pwd\n").0);
    server.start();
    assert!(batch(&server, &[], "pwd\n").0);
    fs::write(&server.known_hosts, "").unwrap();
    let (is_done, told) = batch(&server, &[], "pwd\n");
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
    command.arg("suite::servers_work::servers_go_with_the_test_program_even_if_it_is_killed");
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

/// What curl(1) finds through a proxy, with the user of an Apache.
fn through(proxy: &Proxy, server: &WebDav, args: &[&str], path: &str) -> (u16, String) {
    let user = format!("{}:{}", server.user, server.password);
    let url = format!("{}/{path}", proxy.endpoint());
    curl(args.iter().copied().chain(["--user", &user, &url]))
}

#[test]
fn a_proxy_does_what_it_is_told_to_requests_and_counts_them() {
    let server = webdav();
    let proxy = Proxy::http(server.address());
    let put = ["-X", "PUT", "--data-binary", "text"];
    assert_eq!(through(&proxy, &server, &put, "f").0, 201);
    assert_eq!(through(&proxy, &server, &[], "f"), (200, "text".into()));
    let asked = proxy.asked();
    assert_eq!((asked.by_method["PUT"], asked.by_method["GET"], asked.requests()), (1, 1, 2));
    assert_eq!((asked.sent, asked.received >= 4, asked.failed), (4, true, 0));

    proxy.set(|p| p.all = Some(Failure::Status(503)));
    assert_eq!(through(&proxy, &server, &put, "g").0, 503);
    proxy.set(|p| (p.all, p.every) = (None, Some((2, Failure::Reset))));
    let answers: Vec<u16> = (0..4).map(|_| through(&proxy, &server, &[], "f").0).collect();
    assert_eq!(answers, [0, 200, 0, 200]);
    proxy.set(|p| (p.every, p.methods) = (None, vec![("DELETE", Failure::Status(403))]));
    assert_eq!(through(&proxy, &server, &["-X", "DELETE"], "f").0, 403);
    proxy.set(|p| p.methods = vec![("DELETE", Failure::AnswerLost)]);
    assert!(server.root.join("f").exists());
    assert_eq!(through(&proxy, &server, &["-X", "DELETE"], "f").0, 0);
    assert!(!server.root.join("f").exists(), "it was done, though nobody was told");

    let big = server.root.parent().unwrap().join("big");
    fs::write(&big, vec![b'x'; 1 << 20]).unwrap();
    proxy.set(|p| p.cut_puts = Some((300_000, 1)));
    let upload = ["-H", "Expect:", "-T", big.to_str().unwrap()];
    assert_eq!(through(&proxy, &server, &upload, "big").0, 0);
    assert_eq!(through(&proxy, &server, &upload, "big").0, 201, "one alone was cut");
    assert_eq!(fs::metadata(server.root.join("big")).unwrap().len(), 1 << 20);
    proxy.set(|p| p.bandwidth = Some(4 << 20));
    let began = Instant::now();
    assert_eq!(through(&proxy, &server, &upload, "big").0, 204);
    assert!(began.elapsed() > Duration::from_millis(240), "{:?}", began.elapsed());

    proxy.set(|p| *p = Plan { round_trip: Duration::from_millis(200), ..Plan::default() });
    let began = Instant::now();
    assert_eq!(through(&proxy, &server, &["-I"], "big").0, 200);
    assert!(began.elapsed() >= Duration::from_millis(400), "to connect, and to ask");
    proxy.set(|p| *p = Plan { is_down: true, ..Plan::default() });
    assert_eq!(through(&proxy, &server, &[], "big").0, 0);
    proxy.set(|p| *p = Plan { hangs: true, ..Plan::default() });
    assert_eq!(through(&proxy, &server, &["--max-time", "1"], "big").0, 0);
    proxy.set(|p| *p = Plan::default());
    server.process.kill();
    assert_eq!(through(&proxy, &server, &[], "big").0, 0);
    server.start();
    assert_eq!(through(&proxy, &server, &[], "big").0, 200);
}

#[test]
fn a_proxy_lets_lists_be_late() {
    let s3 = s3();
    let proxy = Proxy::http(s3.address());
    let bucket = s3.new_bucket("late");
    let list = || {
        let path = format!("{bucket}?list-type=2");
        let (status, body) =
            s3.ask_at(&proxy.endpoint(), (&s3.access_key, &s3.secret_key), "GET", &path, None);
        assert_eq!(status, 200, "{body}");
        body
    };
    proxy.set(|p| p.late_lists = Duration::from_secs(1));
    assert!(!list().contains("<Key>f</Key>"));
    assert_eq!(s3.ask("PUT", &format!("{bucket}/f"), Some("f")).0, 200);
    assert!(!list().contains("<Key>f</Key>"));
    soon("it is listed at last", || list().contains("<Key>f</Key>"));
    proxy.set(|p| p.late_lists = Duration::ZERO);
    assert_eq!(s3.ask("PUT", &format!("{bucket}/g"), Some("g")).0, 200);
    assert!(list().contains("<Key>g</Key>"));
    assert_eq!(proxy.asked().by_method.keys().collect::<Vec<_>>(), ["LIST"]);
}

#[test]
fn a_proxy_passes_sftp_on() {
    let server = sftp();
    let proxy = Proxy::tcp(server.address());
    let through = |lines: &str| {
        let config = server.bin.join("config of a proxy");
        let text = fs::read_to_string(&server.config).unwrap();
        let port = format!("Port {}", server.port);
        let alias = format!("Port {}\n  HostKeyAlias [127.0.0.1]:{}", proxy.port(), server.port);
        fs::write(&config, text.replace(&port, &alias)).unwrap();
        batch(&server, &["-F", config.to_str().unwrap()], lines)
    };
    let big = server.bin.join("big");
    fs::write(&big, vec![b'x'; 3 << 20]).unwrap();
    let put = format!("put '{}' '{}'\n", big.display(), server.root.join("big").display());
    proxy.set(|p| p.round_trip = Duration::from_millis(20));
    let (is_done, told) = through(&put);
    assert!(is_done, "{told}");
    assert_eq!(fs::read(server.root.join("big")).unwrap(), fs::read(&big).unwrap());
    assert!(proxy.asked().sent > 3 << 20);
    proxy.set(|p| p.cut_puts = Some((1 << 20, 1)));
    assert!(!through(&put).0, "it was cut off");
    assert!(through(&put).0, "and the next was not");
    proxy.set(|p| p.is_down = true);
    assert!(!through(&put).0);
}
