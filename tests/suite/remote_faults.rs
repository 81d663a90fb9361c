//! Repositories on S3 in trouble that only such a store can have: lists that are late, one of its daemons dead, policies that forbid
//! to delete. What all kinds of stores go through is in `three_stores.rs`.

use super::scene::{Scene, fill, same_trees, soon};
use super::servers::proxy::Proxy;
use super::servers::s3;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of a source that takes long enough to be disturbed in the middle of it.
const BIG: usize = 48 << 20;

/// The environment of commands that use a folder of a bucket at this endpoint as their repository, which is named first.
pub fn environment(
    folder: &str,
    endpoint: &str,
    bucket: &str,
    (access, secret): (&str, &str),
) -> Vec<(&'static str, OsString)> {
    let url = format!("s3://{bucket}/{folder}?endpoint={endpoint}&region={}", s3().region);
    vec![
        ("PASTFS_REPOSITORY", url.into()),
        ("AWS_ACCESS_KEY_ID", access.into()),
        ("AWS_SECRET_ACCESS_KEY", secret.into()),
        ("AWS_CONFIG_FILE", "/nonexistent".into()),
        ("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent".into()),
    ]
}

/// Lets the commands of a scene use a bucket.
fn settle(scene: &mut Scene, endpoint: &str, bucket: &str, keys: (&str, &str)) {
    let folder = scene.dir.file_name().and_then(OsStr::to_str).unwrap().to_owned();
    scene.more = environment(&folder, endpoint, bucket, keys);
}

/// An empty repository on Ceph, at this endpoint.
pub fn scene_at(name: &str, endpoint: &str) -> Scene {
    let s3 = s3();
    let mut scene = Scene::bare(name);
    settle(&mut scene, endpoint, &s3.bucket, (&s3.access_key, &s3.secret_key));
    scene.run(["init", "-q"]).ok();
    scene
}

/// An empty repository on Ceph behind a proxy.
pub fn scene(name: &str) -> (Scene, Proxy) {
    let proxy = Proxy::http(s3().address());
    (scene_at(name, &proxy.endpoint()), proxy)
}

/// Some days of a repository: backups of what changes, forgetting, pruning.
pub fn days(scene: &Scene) {
    for day in 0..3 {
        fill(&scene.source(), 40, 30_000, day);
        scene.backup(&[]);
    }
    // Where lists are late it takes a while to show.
    soon("the snapshots are listed", || scene.snapshots().len() >= 3);
    let oldest = scene.snapshots()[0]["id"].as_str().unwrap().to_owned();
    scene.run(["forget", "-q", &oldest]).ok();
    for _ in 0..2 {
        scene.run(["prune", "-q", "--grace", "0", "--max-unused", "0%"]).ok();
    }
}

/// A machine that was never here finds all data in order, and the source as it is.
#[track_caller]
pub fn nothing_is_lost(scene: &Scene) {
    let cache = scene.path("cache of another");
    let elsewhere = |args: &[&str]| {
        let mut command = scene.command(args);
        command.env("PASTFS_CACHE", &cache);
        scene.run_command(command).ok();
    };
    elsewhere(&["check", "--read-data"]);
    let target = scene.path("restored elsewhere");
    let what = format!("latest:{}", scene.source().display());
    elsewhere(&["restore", "-q", &what, "--target", target.to_str().unwrap()]);
    same_trees(&scene.source(), &target);
    fs::remove_dir_all(target).unwrap();
    fs::remove_dir_all(cache).unwrap();
}

#[test]
fn lists_of_a_while_ago_lose_nothing() {
    let (scene, proxy) = scene("late-lists");
    proxy.set(|p| p.late_lists = Duration::from_secs(3));
    days(&scene);
    thread::sleep(Duration::from_secs(3));
    nothing_is_lost(&scene);
    // Two machines that do not see each other yet.
    fs::create_dir(scene.path("theirs")).unwrap();
    fill(&scene.path("theirs"), 20, 30_000, 2);
    let mut theirs = scene.command(["backup", "-q", "--host", "other", "theirs"]);
    theirs.env("PASTFS_CACHE", scene.path("their cache"));
    let theirs = scene.start(theirs);
    fill(&scene.source(), 40, 30_000, 9);
    scene.backup(&[]);
    scene.run(["prune", "-q", "--grace", "0", "--max-unused", "0%"]).ok();
    theirs.wait().ok();
    proxy.set(|p| p.late_lists = Duration::ZERO);
    let target = scene.restore(&format!("latest:{}", scene.path("theirs").display()));
    same_trees(&scene.path("theirs"), &target);
    scene.run(["forget", "-q", "--host", "other", "--keep-last", "1"]).ok();
    scene.run(["check", "--read-data"]).ok();
}

#[test]
fn while_one_daemon_of_ceph_is_down_all_goes_on() {
    let s3 = s3();
    let scene = scene_at("osd", &s3.endpoint);
    fill(&scene.source(), 16, BIG / 64, 1);
    scene.backup(&[]);
    let _alone = s3.alone_with_osds();
    thread::scope(|scope| {
        fill(&scene.source(), 16, BIG / 32, 2);
        scope.spawn(|| scene.backup(&[]));
        s3.osd(0).kill();
    });
    days(&scene);
    nothing_is_lost(&scene);
    s3.start_osd(0);
    fs::write(scene.source().join("after"), "after").unwrap();
    scene.backup(&[]);
    nothing_is_lost(&scene);
    // What was written meanwhile lies twice by now.
    s3.osd(1).kill();
    nothing_is_lost(&scene);
    s3.start_osd(1);
}

#[test]
fn a_server_whose_certificate_nobody_vouches_for_is_refused() {
    let s3 = s3();
    let mut scene = Scene::bare("tls");
    settle(&mut scene, &s3.tls_endpoint, &s3.bucket, (&s3.access_key, &s3.secret_key));
    let began = Instant::now();
    scene.run(["init", "-q"]).fails().says("certificate").says("--cacert");
    assert!(began.elapsed() < Duration::from_secs(60), "that does not pass, and is not tried for long");
    let ca = s3.ca.to_str().unwrap();
    scene.run(["init", "-q", "--cacert", ca]).ok();
    fill(&scene.source(), 4, 1000, 1);
    let source = scene.source();
    scene.run(["backup", "-q", "--cacert", ca, source.to_str().unwrap()]).ok();
    scene.run(["check", "-q", "--read-data", "--cacert", ca]).ok();
}

/// A bucket where this user of Ceph may list, read and put, and not delete. What they put belongs to them, so that the bucket's
/// own user needs to be named as well.
fn bucket_of_adders(user: &str) -> String {
    let s3 = s3();
    let bucket = s3.new_bucket("add-only");
    let allow = |user: &str, actions: &str| {
        format!(
            r#"{{"Effect":"Allow","Principal":{{"AWS":["arn:aws:iam:::user/{user}"]}},"Action":[{actions}],
            "Resource":["arn:aws:s3:::{bucket}","arn:aws:s3:::{bucket}/*"]}}"#
        )
    };
    let adder = allow(user, r#""s3:ListBucket","s3:GetObject","s3:PutObject""#);
    let owner = allow(s3.user, r#""s3:*""#);
    let policy = format!(r#"{{"Version":"2012-10-17","Statement":[{adder},{owner}]}}"#);
    let (status, body) = s3.ask("PUT", &format!("{bucket}?policy="), Some(&policy));
    assert!(status == 200 || status == 204, "{status} {body}");
    bucket
}

#[test]
fn a_writer_that_may_add_and_never_delete_makes_daily_backups() {
    let s3 = s3();
    let (access, secret) = s3.add_user("adder");
    let bucket = bucket_of_adders("adder");
    let mut scene = Scene::bare("add-only");
    settle(&mut scene, &s3.endpoint, &bucket, (&s3.access_key, &s3.secret_key));
    scene.run(["init", "-q"]).ok();
    let key = scene.path("writer-key");
    let key = key.to_str().unwrap();
    scene.run(["key", "add", "-q", "--role", "writer", "--label", "web", "--new-key-file", key]).ok();
    // The host's own: another key, another cache, and credentials that may not delete.
    let proxy = Proxy::http(s3.address());
    let mut host = Scene::bare("adder");
    settle(&mut host, &proxy.endpoint(), &bucket, (&access, &secret));
    let url = format!(
        "s3://{bucket}/{}?endpoint={}&region={}",
        scene.dir.file_name().and_then(OsStr::to_str).unwrap(),
        proxy.endpoint(),
        s3.region
    );
    host.more.push(("PASTFS_REPOSITORY", url.into()));
    host.more.push(("PASTFS_KEY_FILE", key.into()));
    // The bucket does forbid it.
    let object = format!("{bucket}/{}/something", scene.dir.file_name().and_then(OsStr::to_str).unwrap());
    let as_adder = |method: &str| s3.ask_at(&s3.endpoint, (&access, &secret), method, &object, Some("")).0;
    assert_eq!((as_adder("PUT"), as_adder("DELETE")), (200, 403));
    assert_eq!(s3.ask("DELETE", &object, None).0, 204);
    for day in 0..3 {
        fill(&host.source(), 30, 20_000, day);
        let told = host.run(["backup", "--json", host.source().to_str().unwrap()]).ok();
        assert!(told.err.is_empty(), "a day like any other: {}", told.err);
    }
    // Whoever has the full key reads it, and tidies up.
    let target = scene.path("restored");
    let what = format!("latest:{}", host.source().display());
    scene.run(["restore", "-q", &what, "--target", target.to_str().unwrap()]).ok();
    same_trees(&host.source(), &target);
    scene.run(["prune", "-q"]).ok();
    scene.run(["check", "--read-data"]).ok();
}
