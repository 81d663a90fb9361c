//! Stores on other machines, against real servers: the contract, and a repository's whole life on each.

use super::scene::{Scene, differences, fill};
use super::servers::{self, S3, Sftp, WebDav};
use pastfs::storage::conformance::conformance;
use pastfs::storage::{Counted, Options, Place, Store, open};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

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
    scene.run(["prune", "--now", "--grace", "0"]).ok();
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
