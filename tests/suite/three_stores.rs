//! What a far store goes through while pastfs is at work with it: the same sentences for each kind of store, Ceph (S3), Apache
//! (WebDAV) and OpenSSH (SFTP), each behind a proxy that does the damage. Nothing is lost, nobody is stuck, and a mount comes
//! back by itself; the scene's limit of a command is the watchdog.

use super::remote_faults::{days, environment, nothing_is_lost};
use super::scene::{Mount, Scene, fill, same_trees, soon};
use super::servers::proxy::{Failure, Plan, Proxy};
use super::servers::{self, Gateway, Sftp, WebDav};
use std::ffi::{OsStr, OsString};
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
/// Longer than anybody waits: a command five minutes, a mount one.
const AWAY_FOR_GOOD: Duration = Duration::from_secs(8 * 60);
/// After so many bytes a connection of SFTP breaks: the largest pack of the tests that ask for it (1.2 MB) comes through every second
/// time.
const BREAKS_ABOUT: u64 = 3 << 19;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    S3,
    WebDav,
    Sftp,
}

enum Server {
    S3(Gateway),
    WebDav(WebDav),
    Sftp(Sftp),
}

/// A server of its own, which may be killed, behind a proxy.
struct Far {
    kind: Kind,
    server: Server,
    proxy: Proxy,
}

impl Far {
    fn new(kind: Kind) -> Self {
        let (server, proxy) = match kind {
            Kind::S3 => {
                let gateway = servers::s3().own_gateway();
                let proxy = Proxy::http(gateway.address());
                (Server::S3(gateway), proxy)
            }
            Kind::WebDav => {
                let server = servers::webdav();
                let proxy = Proxy::http(server.address());
                (Server::WebDav(server), proxy)
            }
            Kind::Sftp => {
                let server = servers::sftp();
                let proxy = Proxy::tcp(server.address());
                (Server::Sftp(server), proxy)
            }
        };
        Self { kind, server, proxy }
    }

    /// The URL of a folder of it, through the proxy, and what commands need in their environment to use it.
    fn place(&self, scene: &Scene) -> (OsString, Vec<(&'static str, OsString)>) {
        let folder = scene.dir.file_name().and_then(OsStr::to_str).unwrap();
        let port = self.proxy.port();
        match &self.server {
            Server::S3(_) => {
                let s3 = servers::s3();
                let keys = (&*s3.access_key, &*s3.secret_key);
                let mut more = environment(folder, &self.proxy.endpoint(), &s3.bucket, keys);
                let url = more.remove(0).1;
                (url, more)
            }
            Server::WebDav(server) => {
                let more = vec![
                    ("PASTFS_WEBDAV_USER", server.user.into()),
                    ("PASTFS_WEBDAV_PASSWORD", server.password.into()),
                ];
                (format!("webdav://127.0.0.1:{port}/{folder}").into(), more)
            }
            Server::Sftp(server) => {
                let ssh =
                    format!("ssh -F {} -o HostKeyAlias=[127.0.0.1]:{}", server.config.display(), server.port);
                let url = format!("sftp://store:{port}{}/{folder}", server.root.display());
                (url.into(), vec![("PASTFS_SSH_COMMAND", ssh.into())])
            }
        }
    }

    /// As a power cut would.
    fn kill(&self) {
        match &self.server {
            Server::S3(server) => server.process.kill(),
            Server::WebDav(server) => server.process.kill(),
            Server::Sftp(server) => server.process.kill(),
        }
    }

    fn start(&self) {
        match &self.server {
            Server::S3(server) => server.start(),
            Server::WebDav(server) => server.start(),
            Server::Sftp(server) => server.start(),
        }
    }

    fn dies_for_a_while(&self) {
        self.kill();
        thread::sleep(AWAY / 2);
        self.start();
    }

    /// What it does where it cannot now: HTTP says so, ssh is not to be reached.
    fn set_away(&self, is_away: bool) {
        match self.kind {
            Kind::Sftp => self.proxy.set(|p| p.is_down = is_away),
            _ => self.proxy.set(|p| p.all = is_away.then_some(Failure::Status(503))),
        }
    }

    fn is_away_for(&self, time: Duration) {
        self.set_away(true);
        thread::sleep(time);
        self.set_away(false);
    }

    /// All the ways in which one request in ten may fail.
    fn flaws(kind: Kind) -> Vec<Plan> {
        let every = |failure| Plan { every: Some((10, failure)), ..Plan::default() };
        match kind {
            Kind::Sftp => vec![Plan { cut_about: Some(BREAKS_ABOUT), ..Plan::default() }],
            _ => {
                let ways = [Failure::Reset, Failure::AnswerLost, Failure::Status(503), Failure::Status(500)];
                ways.map(every).into()
            }
        }
    }

    /// Enough requests failed.
    #[track_caller]
    fn was_bad(&self, plan: &Plan) {
        let asked = self.proxy.asked();
        let least = if self.kind == Kind::Sftp { 1 } else { 5 };
        assert!(asked.failed >= least, "{plan:?}: {asked:?}");
    }

    /// What passed through so far, in something like requests.
    fn passed(&self) -> u64 {
        let asked = self.proxy.asked();
        match self.kind {
            // Bytes of a request and its answer, and of the ssh around them.
            Kind::Sftp => (asked.sent + asked.received) / 500,
            _ => asked.requests(),
        }
    }

    /// Waits until so many bytes were sent to the server since `before`.
    #[track_caller]
    fn was_sent(&self, before: u64, bytes: usize) {
        soon("it is in the middle of it", || self.proxy.asked().sent > before + bytes as u64);
    }
}

/// An empty repository on such a store.
fn scene(kind: Kind, name: &str) -> (Scene, Far) {
    let far = Far::new(kind);
    let mut scene = Scene::bare(&format!("{name}-{kind:?}").to_lowercase());
    let (url, more) = far.place(&scene);
    scene.more = more;
    scene.more.push(("PASTFS_REPOSITORY", url));
    scene.run(["init", "-q"]).ok();
    (scene, far)
}

fn requests_that_fail_one_time_in_ten_are_made_again(kind: Kind) {
    thread::scope(|scope| {
        for plan in Far::flaws(kind) {
            scope.spawn(move || {
                let (scene, far) = scene(kind, "one-in-ten");
                far.proxy.set(|p| *p = plan.clone());
                days(&scene);
                nothing_is_lost(&scene);
                far.was_bad(&plan);
            });
        }
    });
}

fn a_put_that_is_cut_off_is_made_again_and_half_of_it_is_never_there(kind: Kind) {
    let (scene, far) = scene(kind, "cut-off");
    fill(&scene.source(), 3, BIG / 12, 1);
    far.proxy.set(|p| p.cut_puts = Some((1 << 20, 3)));
    scene.backup(&[]);
    assert!(far.proxy.asked().failed >= 1);
    nothing_is_lost(&scene);
    // A backup that dies in the middle of a put, and the next one.
    fill(&scene.source(), 3, BIG / 12, 2);
    far.proxy.set(|p| p.cut_puts = Some((1 << 20, u32::MAX)));
    let before = far.proxy.asked().failed;
    let backup = scene.start(scene.command(["backup".as_ref(), "-q".as_ref(), scene.source().as_os_str()]));
    soon("a put is cut off", || far.proxy.asked().failed > before);
    backup.signal(libc::SIGKILL);
    assert_eq!(backup.wait().signal, Some(libc::SIGKILL));
    far.proxy.set(|p| p.cut_puts = None);
    scene.run(["check", "--read-data"]).ok();
    scene.backup(&[]);
    nothing_is_lost(&scene);
}

fn a_slow_server_is_only_slow(kind: Kind) {
    let (scene, far) = scene(kind, "slow");
    far.proxy.set(|p| (p.round_trip, p.bandwidth) = (Duration::from_millis(60), Some(2 << 20)));
    days(&scene);
    nothing_is_lost(&scene);
}

/// The server is away in the middle of a backup, and then of all else.
fn is_away_for(kind: Kind, time: Duration) {
    let (scene, far) = scene(kind, "for-a-while");
    fill(&scene.source(), 16, BIG / 16, 1);
    let before = far.proxy.asked().sent;
    thread::scope(|scope| {
        scope.spawn(|| scene.backup(&[]));
        far.was_sent(before, BIG / 4);
        far.is_away_for(time);
    });
    thread::scope(|scope| {
        let days = scope.spawn(|| {
            fill(&scene.source(), 16, 3000, 2);
            days(&scene);
            nothing_is_lost(&scene);
        });
        while !days.is_finished() && time == AWAY {
            thread::sleep(AWAY * 2);
            far.is_away_for(time);
        }
    });
}

fn a_server_that_cannot_now_is_waited_for(kind: Kind) {
    is_away_for(kind, AWAY);
}

fn a_server_that_cannot_for_a_minute_is_waited_for(kind: Kind) {
    is_away_for(kind, AWAY_LONG);
}

fn a_server_that_is_killed_during_a_backup_and_a_prune_loses_nothing(kind: Kind) {
    let (scene, far) = scene(kind, "killed");
    for round in 0..2 {
        fill(&scene.source(), 16, BIG / 32, round);
        let before = far.proxy.asked().sent;
        thread::scope(|scope| {
            let backup = scope.spawn(|| scene.backup(&[]));
            far.was_sent(before, BIG / 10);
            far.dies_for_a_while();
            backup.join().unwrap();
        });
    }
    nothing_is_lost(&scene);
    let oldest = scene.snapshots()[0]["id"].as_str().unwrap().to_owned();
    scene.run(["forget", "-q", &oldest]).ok();
    for requests in [3, 12] {
        let before = far.passed();
        let mut prune = scene.start(scene.command(["prune", "-q", "--grace", "0", "--max-unused", "0%"]));
        soon("prune is at work", || prune.is_over() || far.passed() >= before + requests);
        assert!(!prune.is_over(), "prune was over before the server was killed");
        far.dies_for_a_while();
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

fn a_mount_waits_for_a_server_that_is_killed_and_comes_back(kind: Kind) {
    let (mut scene, far) = scene(kind, "killed-mount");
    fill(&scene.source(), 64, BIG / 64, 3);
    scene.backup(&[]);
    // Nothing of it is kept near.
    scene.more.push(("PASTFS_CACHE", scene.path("cache of the mount").into()));
    let mount = scene.mount(&["--refresh", "1"]);
    far.proxy.set(|p| p.bandwidth = Some(16 << 20));
    thread::scope(|scope| {
        let before = far.proxy.asked().received;
        let reader = scope.spawn(reads_all(&scene, &mount));
        soon("files are read", || far.proxy.asked().received > before + (BIG / 8) as u64);
        far.kill();
        thread::sleep(AWAY);
        assert!(!reader.is_finished(), "it waits");
        // The kernel still answers for the mount, and names that were seen are there.
        assert_eq!(mount.dated().len(), 1);
        far.start();
        reader.join().unwrap();
    });
    fs::write(scene.source().join("new"), "new").unwrap();
    scene.backup(&[]);
    soon("new snapshots appear", || mount.dated().len() == 2);
    let file = scene.source_in(&mount.dir).join("new");
    soon("and are read", || fs::read_to_string(&file).is_ok_and(|text| text == "new"));
    mount.unmount();
}

/// A repository on this machine whose replica shall lie on the store: where.
fn pair(kind: Kind, name: &str) -> (Scene, Far, OsString) {
    let far = Far::new(kind);
    let mut scene = Scene::bare(&format!("{name}-{kind:?}").to_lowercase());
    let (url, more) = far.place(&scene);
    scene.more = more;
    scene.run(["init", "-q"]).ok();
    (scene, far, url)
}

/// The replica is whole, by itself and beside its source.
#[track_caller]
fn is_a_replica(scene: &Scene, url: &OsStr) {
    scene.run(["check".as_ref(), "-q".as_ref(), "--read-data".as_ref(), "--against".as_ref(), url]).ok();
    let mut command = scene.command(["check", "-q", "--read-data"]);
    command.env("PASTFS_REPOSITORY", url).env("PASTFS_CACHE", scene.path("cache there"));
    scene.run_command(command).ok();
}

fn a_replica_is_whole_though_its_server_was_killed_while_it_was_made(kind: Kind) {
    let (scene, far, url) = pair(kind, "replica-killed");
    let replicate = || scene.command(["replicate".as_ref(), "-q".as_ref(), url.as_os_str()]);
    for round in 0..2 {
        fill(&scene.source(), 16, BIG / 32, round);
        scene.backup(&[]);
        let before = far.proxy.asked().sent;
        let work = scene.start(replicate());
        far.was_sent(before, if round == 0 { BIG / 10 } else { 1000 });
        far.dies_for_a_while();
        work.wait().ok();
        is_a_replica(&scene, &url);
    }
    // Both die, and the next run goes on.
    fill(&scene.source(), 16, BIG / 32, 7);
    scene.backup(&[]);
    let before = far.proxy.asked().sent;
    let work = scene.start(replicate());
    far.was_sent(before, BIG / 10);
    far.kill();
    work.signal(libc::SIGKILL);
    assert_eq!(work.wait().signal, Some(libc::SIGKILL));
    far.start();
    scene.run_command(replicate()).ok();
    is_a_replica(&scene, &url);
}

fn a_replica_is_whole_though_one_request_in_ten_failed(kind: Kind) {
    thread::scope(|scope| {
        for plan in Far::flaws(kind) {
            scope.spawn(move || {
                let (scene, far, url) = pair(kind, "replica-flaky");
                far.proxy.set(|p| *p = plan.clone());
                for day in 0..3 {
                    fill(&scene.source(), 40, 30_000, day);
                    scene.backup(&[]);
                    scene.run(["replicate".as_ref(), "-q".as_ref(), url.as_os_str()]).ok();
                }
                let oldest = scene.snapshots()[0]["id"].as_str().unwrap().to_owned();
                scene.run(["forget", "-q", &oldest]).ok();
                scene.run(["replicate".as_ref(), "-q".as_ref(), "--prune".as_ref(), url.as_os_str()]).ok();
                is_a_replica(&scene, &url);
                far.was_bad(&plan);
            });
        }
    });
}

fn a_server_that_hangs_is_given_up_and_asked_again(kind: Kind) {
    let (scene, far) = scene(kind, "hangs");
    fill(&scene.source(), 16, BIG / 16, 1);
    thread::scope(|scope| {
        let before = far.proxy.asked().sent;
        scope.spawn(|| scene.backup(&[]));
        far.was_sent(before, BIG / 4);
        // As a machine that was switched off: it never says that it is gone, and the next connection goes to another.
        far.proxy.set(|p| p.hangs = true);
        thread::sleep(Duration::from_secs(70));
        far.proxy.set(|p| *p = Plan::default());
    });
    nothing_is_lost(&scene);
}

fn a_backup_ends_with_one_error_where_its_server_is_away_for_good_and_the_next_goes_on(kind: Kind) {
    let (scene, far) = scene(kind, "for-good");
    fill(&scene.source(), 4, BIG / 64, 1);
    scene.backup(&[]);
    fill(&scene.source(), 16, BIG / 16, 2);
    let before = far.proxy.asked().sent;
    // Longer than the scene's limit of a command.
    let mut child = scene.shell_command("exec $0 backup source 2> told").spawn().unwrap();
    far.was_sent(before, BIG / 2);
    let began = Instant::now();
    far.proxy.set(|p| p.is_down = true);
    let ended = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None => assert!(began.elapsed() < AWAY_FOR_GOOD, "it waits for ever"),
        }
        thread::sleep(Duration::from_secs(1));
    };
    let told = fs::read_to_string(scene.path("told")).unwrap();
    println!("{kind:?}: it ended after {:?}:\n{told}", began.elapsed());
    assert_eq!(ended.code(), Some(1), "{told}");
    let errors: Vec<&str> = told.lines().filter(|line| line.starts_with("Error: ")).collect();
    assert!(errors.len() == 1 && told.contains("Caused by:"), "{told}");
    far.proxy.set(|p| p.is_down = false);
    scene.run(["check", "--read-data"]).ok();
    scene.backup(&[]);
    nothing_is_lost(&scene);
}

fn a_mount_answers_eio_where_its_server_is_away_for_good_and_comes_back(kind: Kind) {
    let (mut scene, far) = scene(kind, "away-long");
    fill(&scene.source(), 32, 1 << 20, 3);
    scene.backup(&[]);
    scene.more.push(("PASTFS_CACHE", scene.path("cache of the mount").into()));
    let mount = scene.mount(&["--refresh", "1"]);
    let file = scene.source_in(&mount.dir).canonicalize().unwrap().join("0/0");
    far.proxy.set(|p| p.is_down = true);
    let began = Instant::now();
    let error = fs::read(&file).expect_err("nobody waits for ever");
    println!("{kind:?}: a read failed after {:?}: {error}", began.elapsed());
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    far.proxy.set(|p| p.is_down = false);
    thread::scope(|scope| {
        scope.spawn(reads_all(&scene, &mount));
    });
    mount.unmount();
}

/// All that is put fails so: what a backup says of it within this time, and the next one after it is fine.
fn is_refused(failure: Failure, within: Duration, says: &str) {
    thread::scope(|scope| {
        for kind in [Kind::S3, Kind::WebDav] {
            scope.spawn(move || {
                let (scene, far) = scene(kind, "refused");
                fill(&scene.source(), 4, 10_000, 1);
                scene.backup(&[]);
                fill(&scene.source(), 4, 10_000, 2);
                far.proxy.set(|p| p.methods = vec![("PUT", failure)]);
                let began = Instant::now();
                let source = scene.source();
                scene.run(["backup", "-q", source.to_str().unwrap()]).code(1).says(says);
                assert!(began.elapsed() < within, "{kind:?}: {:?}", began.elapsed());
                far.proxy.set(|p| *p = Plan::default());
                scene.backup(&[]);
                nothing_is_lost(&scene);
            });
        }
    });
}

#[test]
fn a_store_that_is_full_or_knows_no_puts_is_told_of_at_once() {
    let at_once = Duration::from_secs(40);
    is_refused(Failure::Status(507), at_once, "the store is full, or its quota is used up");
    is_refused(Failure::Status(501), at_once, "Not");
}

#[test]
#[ignore = "a minute: what the server itself fails at is tried for as long"]
fn a_server_that_always_fails_at_a_request_is_told_of_after_a_minute() {
    is_refused(
        Failure::Status(500),
        Duration::from_secs(150),
        "the server has failed at this again and again",
    );
}

/// One test for each sentence and each kind of store.
macro_rules! on_each_store {
    ($($(#[$more:meta])* $sentence:ident),* $(,)?) => {
        mod s3 { $(#[test] $(#[$more])* fn $sentence() { super::$sentence(super::Kind::S3) })* }
        mod webdav { $(#[test] $(#[$more])* fn $sentence() { super::$sentence(super::Kind::WebDav) })* }
        mod sftp { $(#[test] $(#[$more])* fn $sentence() { super::$sentence(super::Kind::Sftp) })* }
    };
}

on_each_store! {
    requests_that_fail_one_time_in_ten_are_made_again,
    a_put_that_is_cut_off_is_made_again_and_half_of_it_is_never_there,
    a_slow_server_is_only_slow,
    a_server_that_cannot_now_is_waited_for,
    a_server_that_is_killed_during_a_backup_and_a_prune_loses_nothing,
    a_mount_waits_for_a_server_that_is_killed_and_comes_back,
    a_replica_is_whole_though_its_server_was_killed_while_it_was_made,
    a_replica_is_whole_though_one_request_in_ten_failed,
    #[ignore = "minutes: the server is away for one of them"]
    a_server_that_cannot_for_a_minute_is_waited_for,
    #[ignore = "a minute: a server that takes a request and never answers is given up then"]
    a_server_that_hangs_is_given_up_and_asked_again,
    #[ignore = "minutes: the server is away for longer than anybody waits"]
    a_backup_ends_with_one_error_where_its_server_is_away_for_good_and_the_next_goes_on,
    #[ignore = "minutes: the server is away for longer than anybody waits"]
    a_mount_answers_eio_where_its_server_is_away_for_good_and_comes_back,
}
