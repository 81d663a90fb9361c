//! Repositories on a far server that is slow, flaky, forgetful, killed or gone for a while: nothing is lost, nobody is stuck,
//! and a mount comes back by itself. On Ceph, behind a proxy that does the damage; the scene's limit of a command is the watchdog.

use super::scene::{Mount, Scene, fill, same_trees, soon};
use super::servers::proxy::{Failure, Plan, Proxy};
use super::servers::{Gateway, s3};
use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of a source that takes long enough to be disturbed in the middle of it.
const BIG: usize = 48 << 20;
/// How long a server stays away in the tests that take seconds.
const AWAY: Duration = Duration::from_secs(4);
/// As in the promise: a minute.
const AWAY_LONG: Duration = Duration::from_secs(60);

/// The environment of commands that use a bucket at this endpoint.
fn environment(scene: &mut Scene, endpoint: &str, bucket: &str, (access, secret): (&str, &str)) {
    let prefix = scene.dir.file_name().and_then(OsStr::to_str).unwrap().to_owned();
    let url = format!("s3://{bucket}/{prefix}?endpoint={endpoint}&region={}", s3().region);
    scene.more = vec![
        ("PASTFS_REPOSITORY", url.into()),
        ("AWS_ACCESS_KEY_ID", access.into()),
        ("AWS_SECRET_ACCESS_KEY", secret.into()),
        ("AWS_CONFIG_FILE", "/nonexistent".into()),
        ("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent".into()),
    ];
}

/// An empty repository on Ceph, at this endpoint.
pub fn scene_at(name: &str, endpoint: &str) -> Scene {
    let s3 = s3();
    let mut scene = Scene::bare(name);
    environment(&mut scene, endpoint, &s3.bucket, (&s3.access_key, &s3.secret_key));
    scene.run(["init", "-q"]).ok();
    scene
}

/// An empty repository on Ceph behind a proxy.
pub fn scene(name: &str) -> (Scene, Proxy) {
    let proxy = Proxy::http(s3().address());
    (scene_at(name, &proxy.endpoint()), proxy)
}

/// An empty repository behind a gateway of its own, which may be killed.
fn scene_with_gateway(name: &str) -> (Scene, Proxy, Gateway) {
    let gateway = s3().own_gateway();
    let proxy = Proxy::http(gateway.address());
    (scene_at(name, &proxy.endpoint()), proxy, gateway)
}

/// Some days of a repository: backups of what changes, forgetting, pruning.
fn days(scene: &Scene) {
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
fn nothing_is_lost(scene: &Scene) {
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

/// Waits until so many bytes were sent to the server since `before`.
#[track_caller]
fn sent(proxy: &Proxy, before: u64, bytes: u64) {
    soon("the backup is in the middle of it", || proxy.asked().sent > before + bytes);
}

#[test]
fn requests_that_fail_one_time_in_ten_are_made_again() {
    let ways = [Failure::Reset, Failure::AnswerLost, Failure::Status(503), Failure::Status(500)];
    thread::scope(|scope| {
        for way in ways {
            scope.spawn(move || {
                let (scene, proxy) = scene("one-in-ten");
                proxy.set(|p| p.every = Some((10, way)));
                days(&scene);
                nothing_is_lost(&scene);
                let asked = proxy.asked();
                assert!(asked.failed > 5, "{way:?}: {asked:?}");
            });
        }
    });
}

#[test]
fn a_put_that_is_cut_off_is_made_again_and_half_of_it_is_never_there() {
    let (scene, proxy) = scene("cut-off");
    fill(&scene.source(), 3, BIG / 12, 1);
    proxy.set(|p| p.cut_puts = Some((1 << 20, 3)));
    scene.backup(&[]);
    assert!(proxy.asked().failed >= 1);
    nothing_is_lost(&scene);
    // A backup that dies in the middle of a put, and the next one.
    fill(&scene.source(), 3, BIG / 12, 2);
    proxy.set(|p| p.cut_puts = Some((1 << 20, u32::MAX)));
    let before = proxy.asked().failed;
    let backup = scene.start(scene.command(["backup".as_ref(), "-q".as_ref(), scene.source().as_os_str()]));
    soon("a put is cut off", || proxy.asked().failed > before);
    backup.signal(libc::SIGKILL);
    assert_eq!(backup.wait().signal, Some(libc::SIGKILL));
    proxy.set(|p| p.cut_puts = None);
    scene.run(["check", "--read-data"]).ok();
    scene.backup(&[]);
    nothing_is_lost(&scene);
}

#[test]
fn a_slow_server_is_only_slow() {
    let (scene, proxy) = scene("slow");
    proxy.set(|p| (p.round_trip, p.bandwidth) = (Duration::from_millis(60), Some(2 << 20)));
    days(&scene);
    nothing_is_lost(&scene);
}

/// The server says this for a while in the middle of a backup, and then of all else.
fn says_for_a_while(failure: Failure, time: Duration) {
    let (scene, proxy) = scene("for-a-while");
    fill(&scene.source(), 16, BIG / 16, 1);
    let away = || {
        proxy.set(|p| p.all = Some(failure));
        thread::sleep(time);
        proxy.set(|p| p.all = None);
    };
    let before = proxy.asked().sent;
    thread::scope(|scope| {
        scope.spawn(|| scene.backup(&[]));
        sent(&proxy, before, (BIG / 4) as u64);
        away();
    });
    thread::scope(|scope| {
        let days = scope.spawn(|| {
            fill(&scene.source(), 16, 3000, 2);
            days(&scene);
            nothing_is_lost(&scene);
        });
        while !days.is_finished() && time == AWAY {
            thread::sleep(AWAY * 2);
            away();
        }
    });
}

#[test]
fn a_server_that_says_503_for_a_while_is_waited_for() {
    says_for_a_while(Failure::Status(503), AWAY);
}

#[test]
#[ignore = "minutes: the server is away for one of them"]
fn a_server_that_says_503_for_a_minute_is_waited_for() {
    says_for_a_while(Failure::Status(503), AWAY_LONG);
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
fn a_server_that_is_killed_during_a_backup_and_a_prune_loses_nothing() {
    let (scene, proxy, gateway) = scene_with_gateway("killed");
    let dies = || {
        gateway.process.kill();
        thread::sleep(AWAY / 2);
        gateway.start();
    };
    for round in 0..2 {
        fill(&scene.source(), 16, BIG / 32, round);
        let before = proxy.asked().sent;
        thread::scope(|scope| {
            let backup = scope.spawn(|| scene.backup(&[]));
            sent(&proxy, before, (BIG / 10) as u64);
            dies();
            backup.join().unwrap();
        });
    }
    nothing_is_lost(&scene);
    let oldest = scene.snapshots()[0]["id"].as_str().unwrap().to_owned();
    scene.run(["forget", "-q", &oldest]).ok();
    for requests in [3, 12] {
        let before = proxy.asked().requests();
        let prune = scene.start(scene.command(["prune", "-q", "--grace", "0", "--max-unused", "0%"]));
        soon("prune is at work", || proxy.asked().requests() >= before + requests);
        dies();
        prune.wait().ok();
    }
    nothing_is_lost(&scene);
}

/// The files of the newest snapshot, read in another thread, for as long as that takes.
fn reads_all<'a>(scene: &'a Scene, mount: &Mount) -> impl FnOnce() + Send + 'a {
    let inside = scene.source_in(&mount.dir).canonicalize().unwrap();
    let out: PathBuf = scene.path(&format!("copy-{}", pastfs::id::hex(&pastfs::clock::random_array::<4>())));
    move || {
        scene.shell(&format!("cp -a {} {}", inside.display(), out.display())).ok();
        same_trees(&scene.source(), &out);
        fs::remove_dir_all(out).unwrap();
    }
}

#[test]
fn a_mount_waits_for_a_server_that_is_killed_and_comes_back() {
    let (mut scene, proxy, gateway) = scene_with_gateway("killed-mount");
    fill(&scene.source(), 64, BIG / 64, 3);
    scene.backup(&[]);
    // Nothing of it is kept near.
    scene.more.push(("PASTFS_CACHE", scene.path("cache of the mount").into()));
    let mount = scene.mount(&["--refresh", "1"]);
    proxy.set(|p| p.bandwidth = Some(16 << 20));
    thread::scope(|scope| {
        let before = proxy.asked().received;
        let reader = scope.spawn(reads_all(&scene, &mount));
        soon("files are read", || proxy.asked().received > before + (BIG / 8) as u64);
        gateway.process.kill();
        thread::sleep(AWAY);
        assert!(!reader.is_finished(), "it waits");
        // The kernel still answers for the mount, and names that were seen are there.
        assert_eq!(mount.dated().len(), 1);
        gateway.start();
        reader.join().unwrap();
    });
    fs::write(scene.source().join("new"), "new").unwrap();
    scene.backup(&[]);
    soon("new snapshots appear", || mount.dated().len() == 2);
    let file = scene.source_in(&mount.dir).join("new");
    soon("and are read", || fs::read_to_string(&file).is_ok_and(|text| text == "new"));
    mount.unmount();
}

#[test]
#[ignore = "minutes: the server is away for longer than anybody waits"]
fn a_mount_comes_back_by_itself_after_its_server_was_away_for_long() {
    let (mut scene, proxy) = scene("away-long");
    fill(&scene.source(), 32, 1 << 20, 3);
    scene.backup(&[]);
    scene.more.push(("PASTFS_CACHE", scene.path("cache of the mount").into()));
    let mount = scene.mount(&["--refresh", "1"]);
    let file = scene.source_in(&mount.dir).canonicalize().unwrap().join("0/0");
    proxy.set(|p| p.is_down = true);
    let began = Instant::now();
    let error = fs::read(&file).expect_err("nobody waits for ever");
    println!("a read failed after {:?}: {error}", began.elapsed());
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    proxy.set(|p| p.is_down = false);
    thread::scope(|scope| {
        scope.spawn(reads_all(&scene, &mount));
    });
    mount.unmount();
}

#[test]
#[ignore = "a minute: a server that takes a request and never answers is given up then"]
fn a_server_that_hangs_is_given_up_and_asked_again() {
    let (scene, proxy) = scene("hangs");
    fill(&scene.source(), 16, BIG / 16, 1);
    thread::scope(|scope| {
        let before = proxy.asked().sent;
        scope.spawn(|| scene.backup(&[]));
        sent(&proxy, before, (BIG / 4) as u64);
        // As a machine that was switched off: it never says that it is gone, and the next connection goes to another.
        proxy.set(|p| p.hangs = true);
        thread::sleep(Duration::from_secs(70));
        proxy.set(|p| *p = Plan::default());
    });
    nothing_is_lost(&scene);
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
    environment(&mut scene, &s3.tls_endpoint, &s3.bucket, (&s3.access_key, &s3.secret_key));
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
    environment(&mut scene, &s3.endpoint, &bucket, (&s3.access_key, &s3.secret_key));
    scene.run(["init", "-q"]).ok();
    let key = scene.path("writer-key");
    let key = key.to_str().unwrap();
    scene.run(["key", "add", "-q", "--role", "writer", "--label", "web", "--new-key-file", key]).ok();
    // The host's own: another key, another cache, and credentials that may not delete.
    let proxy = Proxy::http(s3.address());
    let mut host = Scene::bare("adder");
    environment(&mut host, &proxy.endpoint(), &bucket, (&access, &secret));
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
