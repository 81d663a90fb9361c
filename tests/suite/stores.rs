//! Stores on other machines, against real servers: the contract, and a repository's whole life on each.

use super::scene::{Scene, differences, fill};
use super::servers::{self, S3, Sftp, WebDav};
use pastfs::fault::Fault;
use pastfs::storage::conformance::conformance;
use pastfs::storage::{Counted, Options, Place, Store, open};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// A name that no other test has.
fn fresh(name: &str) -> String {
    format!("{name}-{}", pastfs::id::hex(&pastfs::clock::random_array::<6>()))
}

fn opened(url: &str, options: &Options) -> Arc<dyn Store> {
    open(&Place::parse(OsStr::new(url)).unwrap(), options).unwrap()
}

fn boxed(url: &str, options: &Options) -> Box<dyn Store> {
    Box::new(Counted::new(opened(url, options)))
}

fn s3_options(s3: &S3) -> Options {
    Options { s3_keys: Some((s3.access_key.clone(), s3.secret_key.clone().into())), ..Options::default() }
}

fn s3_url(s3: &S3, prefix: &str) -> String {
    format!("s3://{}/{prefix}?endpoint={}&region={}", s3.bucket, s3.endpoint, s3.region)
}

fn dav_options(dav: &WebDav) -> Options {
    Options {
        webdav_user: Some(dav.user.into()),
        webdav_password: Some(dav.password.as_bytes().to_vec().into()),
        ..Options::default()
    }
}

fn dav_url(dav: &WebDav, below: &str) -> String {
    format!("{}/{below}", dav.endpoint.replace("http://", "webdav://"))
}

/// The `ssh` that knows the server, as an option.
fn ssh(sftp: &Sftp) -> OsString {
    let mut command = OsString::from("ssh -F ");
    command.push(&sftp.config);
    command
}

#[test]
fn s3_keeps_the_contract_of_stores() {
    let s3 = servers::s3();
    let options = s3_options(s3);
    conformance(&|| boxed(&s3_url(s3, &fresh("conformance")), &options));
}

#[test]
fn webdav_keeps_the_contract_of_stores() {
    let dav = servers::webdav();
    let options = dav_options(&dav);
    conformance(&|| boxed(&dav_url(&dav, &fresh("conformance")), &options));
}

#[test]
fn sftp_keeps_the_contract_of_stores() {
    let sftp = servers::sftp();
    let options = Options { ssh_command: Some(ssh(&sftp)), ..Options::default() };
    conformance(&|| boxed(&sftp.url(&fresh("conformance")), &options));
}

/// Everything that people do with a repository in its first year.
fn whole_life(scene: &mut Scene, url: &str) {
    scene.more.push(("PASTFS_REPOSITORY", url.into()));
    scene.run(["snapshots"]).code(10);
    scene.run(["init", "-q"]).ok();
    scene.run(["init", "-q"]).code(2).says("already");
    fill(&scene.source(), 40, 20_000, 1);
    fill(&scene.source().join("large"), 2, 5 << 20, 2);
    scene.backup(&[]);
    fs::write(scene.source().join("later"), "and more of it").unwrap();
    fs::remove_dir_all(scene.source().join("large")).unwrap();
    scene.backup(&[]);
    assert_eq!(scene.snapshots().len(), 2);

    let mount = scene.mount(&[]);
    assert_eq!(differences(&scene.source(), &scene.source_in(&scene.mnt()), &[]), "");
    mount.unmount();
    scene.latest_equals_source();
    scene.run(["check", "--read-data"]).ok();

    scene.run(["forget", "--keep-last", "1"]).ok();
    scene.run(["prune", "--now"]).ok();
    assert_eq!(scene.snapshots().len(), 1);
    // A machine that has never seen it.
    fs::remove_dir_all(scene.cache()).unwrap();
    scene.run(["check", "--read-data"]).ok();
    scene.latest_equals_source();
}

/// Names of files on a server's disk, below a folder.
fn files_below(folder: &Path) -> Vec<String> {
    let (mut found, mut open) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => open.push(path),
                false => found.push(path.strip_prefix(folder).unwrap().display().to_string()),
            }
        }
    }
    found
}

#[test]
fn a_repository_lives_in_s3() {
    let s3 = servers::s3();
    let mut scene = Scene::bare("life-s3");
    scene.more.extend([
        ("AWS_ACCESS_KEY_ID", OsString::from(&s3.access_key)),
        ("AWS_SECRET_ACCESS_KEY", OsString::from(&s3.secret_key)),
        ("AWS_ENDPOINT_URL", OsString::from(&s3.endpoint)),
        ("AWS_REGION", OsString::from(s3.region)),
    ]);
    whole_life(&mut scene, &format!("s3://{}/{}", s3.bucket, fresh("life")));
}

#[test]
fn a_repository_lives_on_webdav_over_tls() {
    let dav = servers::webdav();
    let mut scene = Scene::bare("life-webdav");
    let password = scene.path("password-of-webdav");
    fs::write(&password, format!("{}\n", dav.password)).unwrap();
    scene.more.extend([
        ("PASTFS_WEBDAV_USER", OsString::from(dav.user)),
        ("PASTFS_WEBDAV_PASSWORD_FILE", password.into_os_string()),
        ("SSL_CERT_FILE", dav.ca.clone().into_os_string()),
    ]);
    let url = format!("{}/life", dav.tls_endpoint.replace("https://", "webdavs://"));
    whole_life(&mut scene, &url);
    let left: Vec<String> =
        files_below(&dav.root.join("life")).into_iter().filter(|f| f.starts_with("tmp/")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_repository_lives_behind_ssh() {
    let sftp = servers::sftp();
    let mut scene = Scene::bare("life-sftp");
    scene.more.push(("PATH", sftp.path()));
    whole_life(&mut scene, &sftp.url("life"));
    let left: Vec<String> =
        files_below(&sftp.root.join("life")).into_iter().filter(|f| f.starts_with("tmp/")).collect();
    assert!(left.is_empty(), "{left:?}");
    let mode = fs::metadata(sftp.root.join("life")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

/// What a command on this repository says, as it fails with this code.
#[track_caller]
fn fails_at(scene: &Scene, url: &str, more: &[(&str, &str)], code: i32, says: &[&str]) {
    let mut command = scene.command(["snapshots"]);
    command.env("PASTFS_REPOSITORY", url).envs(more.iter().copied());
    let ran = scene.run_command(command).code(code);
    let missing: Vec<_> = says.iter().filter(|text| !ran.err.contains(*text)).collect();
    assert!(missing.is_empty(), "{missing:?} is not in:\n{}", ran.err);
    assert!(ran.err.contains("Hint: "), "no hint in:\n{}", ran.err);
}

#[test]
fn what_is_wrong_with_an_s3_store_is_said() {
    let s3 = servers::s3();
    let mut scene = Scene::bare("wrong-s3");
    scene.more.extend([
        ("AWS_ACCESS_KEY_ID", OsString::from(&s3.access_key)),
        ("AWS_SECRET_ACCESS_KEY", OsString::from(&s3.secret_key)),
        ("AWS_EC2_METADATA_DISABLED", "true".into()),
        ("HOME", scene.dir.clone().into_os_string()),
    ]);
    let url = s3_url(s3, &fresh("nothing"));
    let keys = "AWS_ACCESS_KEY_ID";
    fails_at(&scene, &url, &[], 10, &["there is no repository"]);
    fails_at(&scene, &url, &[("AWS_SECRET_ACCESS_KEY", "wrong")], 1, &["SignatureDoesNotMatch", keys]);
    fails_at(&scene, &url, &[(keys, "wrong")], 1, &["InvalidAccessKeyId", keys]);
    fails_at(&scene, &url, &[(keys, ""), ("AWS_SECRET_ACCESS_KEY", "")], 1, &["there are no keys", keys]);
    let bucket = format!("s3://no-such-bucket/x?endpoint={}", s3.endpoint);
    fails_at(&scene, &bucket, &[], 10, &["NoSuchBucket", "make the bucket first"]);
    let other = s3.add_user(&fresh("stranger"));
    let more = [(keys, other.0.as_str()), ("AWS_SECRET_ACCESS_KEY", other.1.as_str())];
    fails_at(&scene, &url, &more, 1, &["AccessDenied", "policy"]);
    let tls = format!("s3://{}/x?endpoint={}", s3.bucket, s3.tls_endpoint);
    fails_at(&scene, &tls, &[], 1, &["certificate is not trusted", "--cacert"]);
    let ran = scene.run_command({
        let mut command = scene.command(["snapshots", "--cacert"]);
        command.arg(&s3.ca).env("PASTFS_REPOSITORY", &tls);
        command
    });
    ran.code(10).says("there is no repository");
    let plain = format!("s3://{}/x?endpoint=http://192.0.2.1", s3.bucket);
    fails_at(&scene, &plain, &[], 1, &["without TLS", "--insecure-http"]);
    // Nobody listens there, and nobody ever did: it is said within seconds.
    let nobody = format!("s3://{}/x?endpoint=http://127.0.0.1:1", s3.bucket);
    fails_at(&scene, &nobody, &[], 1, &["refused", "look at the host and port"]);
}

#[test]
fn what_is_wrong_with_a_webdav_server_is_said() {
    let dav = servers::webdav();
    let mut scene = Scene::bare("wrong-webdav");
    scene.more.push(("PASTFS_WEBDAV_USER", dav.user.into()));
    let url = dav_url(&dav, "nothing");
    let password = "PASTFS_WEBDAV_PASSWORD";
    fails_at(&scene, &url, &[(password, dav.password)], 10, &["there is no repository"]);
    fails_at(&scene, &url, &[(password, "wrong")], 1, &["401", password]);
    fails_at(&scene, &url, &[("PASTFS_WEBDAV_USER", ""), (password, "x")], 2, &["no user"]);
    let tls = dav.tls_endpoint.replace("https://", "webdavs://") + "/x";
    fails_at(&scene, &tls, &[(password, dav.password)], 1, &["certificate is not trusted", "--cacert"]);
    fails_at(&scene, "webdav://192.0.2.1/x", &[(password, "x")], 1, &["without TLS", "--insecure-http"]);
}

#[test]
fn what_is_wrong_with_ssh_is_said() {
    let sftp = servers::sftp();
    let mut scene = Scene::bare("wrong-sftp");
    scene.more.push(("PATH", sftp.path()));
    let url = sftp.url("nothing");
    fails_at(&scene, &url, &[], 10, &["there is no repository"]);
    let known = format!("ssh -F {} -o HostKeyAlias=nobody", sftp.config.display());
    fails_at(&scene, &url, &[("PASTFS_SSH_COMMAND", &known)], 1, &["Host key verification failed", "by ssh"]);
    let none = format!(
        "ssh -F /dev/null -o UserKnownHostsFile={0} -o StrictHostKeyChecking=yes -o HostName=127.0.0.1 \
         -o HostKeyAlias=[127.0.0.1]:{1} -o Port={1} -o IdentitiesOnly=yes -o IdentityAgent=none -o IdentityFile=/dev/null",
        sftp.known_hosts.display(),
        sftp.port
    );
    fails_at(&scene, &url, &[("PASTFS_SSH_COMMAND", &none)], 1, &["Permission denied", "must work"]);
    fails_at(&scene, &url, &[("PASTFS_SSH_COMMAND", "/no/such/ssh")], 2, &["/no/such/ssh"]);
    fails_at(&scene, "sftp://no-such-host.invalid/x", &[], 1, &["Could not resolve", "name of the host"]);
}

#[test]
fn secrets_in_urls_and_unknown_schemes_are_refused() {
    let scene = Scene::bare("urls");
    for url in ["s3://KEY:S3CRET@bucket/x", "webdavs://ana:S3CRET@host/x", "sftp://ana:S3CRET@host/x"] {
        let mut command = scene.command(["snapshots"]);
        command.env("PASTFS_REPOSITORY", url);
        let ran = scene.run_command(command).code(2);
        assert!(!ran.err.contains("S3CRET"), "{}", ran.err);
    }
    let mut command = scene.command(["snapshots"]);
    command.env("PASTFS_REPOSITORY", "ftp://host/x");
    scene.run_command(command).code(2).says("./ftp://host/x");
}

/// A server of S3 that knows no conditions, as there are some: it keeps objects in memory until the test ends, and tells
/// what it was asked.
fn s3_without_conditions() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let objects = Arc::new(Mutex::new(HashMap::<String, Vec<u8>>::new()));
    let told = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (objects, told) = (objects.clone(), told.clone());
            std::thread::spawn(move || serve(&stream, &objects, &told));
        }
    });
    (endpoint, asked)
}

fn serve(
    stream: &TcpStream,
    objects: &Mutex<HashMap<String, Vec<u8>>>,
    told: &Mutex<Vec<String>>,
) -> Option<()> {
    let (mut reader, mut writer) = (BufReader::new(stream), stream);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_ascii_lowercase()),
            }
        }
        let header = |name: &str| {
            lines.iter().find_map(|l| l.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
        };
        let mut body = vec![0; header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0)];
        reader.read_exact(&mut body).ok()?;
        let mut words = lines.first()?.split(' ');
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let is_conditional = header("if-none-match").is_some();
        told.lock().unwrap().push(format!("{method}{}", if is_conditional { " if absent" } else { "" }));
        let mut objects = objects.lock().unwrap();
        let refusal =
            b"<Error><Code>NotImplemented</Code><Message>no conditions here</Message></Error>".to_vec();
        let late =
            b"<Error><Code>RequestTimeTooSkewed</Code><Message>too far apart</Message></Error>".to_vec();
        let (status, answer) = match (method.as_str(), objects.get(&path)) {
            _ if path.contains("skewed") => ("403 Forbidden", late),
            ("put", _) if is_conditional => ("501 Not Implemented", refusal),
            ("put", _) => {
                objects.insert(path, body);
                ("200 OK", Vec::new())
            }
            ("get" | "head", Some(found)) => ("200 OK", found.clone()),
            _ => ("404 Not Found", Vec::new()),
        };
        let date = "Last-Modified: Sun, 22 Nov 2026 01:02:03 GMT\r\nETag: \"x\"";
        write!(writer, "HTTP/1.1 {status}\r\n{date}\r\nContent-Length: {}\r\n\r\n", answer.len()).ok()?;
        if method != "head" {
            writer.write_all(&answer).ok()?;
        }
    }
}

#[test]
fn a_server_that_knows_no_conditions_is_asked_first_and_never_overwritten() {
    let (endpoint, asked) = s3_without_conditions();
    let options = Options { s3_keys: Some(("key".into(), "secret".to_owned().into())), ..Options::default() };
    let store = opened(&format!("s3://bucket/x?endpoint={endpoint}"), &options);
    store.put("keys/1", b"first").unwrap();
    store.put("keys/1", b"first").unwrap();
    let other = store.put("keys/1", b"other").unwrap_err();
    assert_eq!(other.fault(), Fault::Damaged, "{other:?}");
    assert_eq!(store.get("keys/1", 10).unwrap(), b"first");
    let asked = asked.lock().unwrap().clone();
    assert_eq!(asked[..4], ["put if absent", "head", "put", "head"], "it is tried once: {asked:?}");
    assert_eq!(asked.iter().filter(|a| *a == "put").count(), 1, "{asked:?}");
}

#[test]
fn a_clock_that_is_wrong_is_told_of() {
    let (endpoint, _) = s3_without_conditions();
    let options = Options { s3_keys: Some(("key".into(), "secret".to_owned().into())), ..Options::default() };
    let store = opened(&format!("s3://bucket/skewed?endpoint={endpoint}"), &options);
    for e in [store.get("config/1", 10).unwrap_err(), store.put("config/1", b"x").unwrap_err()] {
        assert_eq!(e.fault(), Fault::Denied, "{e:?}");
        assert!(e.chain().contains("RequestTimeTooSkewed"), "{e:?}");
        assert!(e.advice().is_some_and(|hint| hint.contains("clocks")), "{e:?}");
    }
}

#[test]
fn sessions_of_ssh_that_died_are_started_again() {
    let sftp = servers::sftp();
    let options = Options { ssh_command: Some(ssh(&sftp)), ..Options::default() };
    let store = opened(&sftp.url("dies"), &options);
    store.put("packs/00/a", b"a").unwrap();
    sftp.process.kill();
    sftp.start();
    assert_eq!(store.get("packs/00/a", 10).unwrap(), b"a");
    sftp.process.kill();
    sftp.start();
    store.put("packs/00/b", b"b").unwrap();
    assert_eq!(store.names("packs/").unwrap().len(), 2);
}

#[test]
fn a_backup_works_where_nothing_may_be_deleted() {
    let s3 = servers::s3();
    let bucket = s3.new_bucket("append-only");
    let policy = format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Deny","Principal":"*","Action":["s3:DeleteObject"],"Resource":["arn:aws:s3:::{bucket}/*"]}}]}}"#
    );
    let (status, body) = s3.ask("PUT", &format!("{bucket}?policy="), Some(&policy));
    assert!(matches!(status, 200 | 204), "{status}: {body}");
    let store = opened(&format!("s3://{bucket}/alone?endpoint={}", s3.endpoint), &s3_options(s3));
    let names = ["leases/a-1", "leases/a-2"].map(str::to_owned);
    for name in &names {
        store.put(name, b"x").unwrap();
        assert_eq!(store.delete(name).unwrap_err().fault(), Fault::Denied);
    }
    assert_eq!(store.delete_all(&names).unwrap_err().fault(), Fault::Denied);
    assert_eq!(store.names("leases/").unwrap().len(), 2);

    let mut scene = Scene::bare("append-only");
    scene.more.extend([
        ("AWS_ACCESS_KEY_ID", OsString::from(&s3.access_key)),
        ("AWS_SECRET_ACCESS_KEY", OsString::from(&s3.secret_key)),
        ("PASTFS_REPOSITORY", format!("s3://{bucket}/repository?endpoint={}", s3.endpoint).into()),
    ]);
    scene.run(["init", "-q"]).ok();
    fill(&scene.source(), 10, 1000, 3);
    scene.backup(&[]);
    fs::write(scene.source().join("later"), "more").unwrap();
    scene.backup(&[]);
    scene.latest_equals_source();
    // Their leases stay, and say that it is over.
    let leases = scene.run(["leases"]).ok().text();
    assert_eq!(leases.matches("backup (over)").count(), 2, "{leases}");
    scene.run(["check", "--read-data"]).ok();
}

#[test]
fn a_limit_of_bandwidth_is_kept() {
    let s3 = servers::s3();
    let options = Options { limit_upload: Some(512), limit_download: Some(1024), ..s3_options(s3) };
    let store = opened(&s3_url(s3, &fresh("limits")), &options);
    let bytes = vec![7; 1 << 20];
    let began = std::time::Instant::now();
    store.put("packs/00/x", &bytes).unwrap();
    // Two seconds' worth; what is on its way in between may be early, and a busy machine late.
    assert!(began.elapsed().as_millis() > 1_300, "{:?}", began.elapsed());
    let began = std::time::Instant::now();
    assert_eq!(store.get("packs/00/x", 1 << 20).unwrap(), bytes);
    assert!(began.elapsed().as_millis() > 500, "{:?}", began.elapsed());
}

#[test]
fn an_object_in_parts_is_whole_and_never_replaced() {
    let s3 = servers::s3();
    let store = opened(&s3_url(s3, &fresh("parts")), &s3_options(s3));
    let mut bytes: Vec<u8> = (0..70u32 << 20).map(|i| (i.wrapping_mul(0x9e37_79b1) >> 24) as u8).collect();
    store.put("packs/00/large", &bytes).unwrap();
    store.put("packs/00/large", &bytes).unwrap();
    assert_eq!(store.size("packs/00/large").unwrap(), bytes.len() as u64);
    bytes[69 << 20] ^= 1;
    assert_eq!(store.put("packs/00/large", &bytes).unwrap_err().fault(), Fault::Damaged);
    bytes[69 << 20] ^= 1;
    assert!(store.get("packs/00/large", u64::MAX).unwrap() == bytes);
}
