//! What goes wrong is told by its name, by a code that scripts can use, and costs nothing else.

use super::scene::{Scene, is_root};
use std::fs;
use std::io::{Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn a_wrong_password_is_12_and_no_repository_is_10() {
    let scene = Scene::bare("wrong");
    for args in
        [&["snapshots"][..], &["backup", "source"], &["mount", "mnt"], &["restore", "latest", "-t", "out"]]
    {
        scene.run(args).code(10).says("Hint:");
    }
    fs::create_dir(scene.repository()).unwrap();
    scene.run(["snapshots"]).code(10);
    assert_eq!(fs::read_dir(scene.repository()).unwrap().count(), 0, "looking left something behind");
    // Repositories of restic and borg have a file of that name.
    scene.shell("mkdir -p other/keys && touch other/config other/keys/of-another-program").ok();
    for args in [&["snapshots"][..], &["check"], &["backup", "source"], &["mount", "mnt"]] {
        let ran = scene.run(["-r", "other"].iter().chain(args)).code(10).says("borg");
        assert!(!ran.err.contains("of-another-program"), "{}", ran.err);
    }
    let password = |password: &str, args: &[&str]| {
        let mut command = scene.command(args);
        command.env_remove("PASTFS_KEY_FILE").env("PASTFS_PASSWORD", password);
        scene.run_command(command)
    };
    password("right", &["init", "-q"]).ok();
    password("right", &["snapshots"]).ok();
    for args in [&["snapshots"][..], &["mount", "mnt"]] {
        password("wrong", args).code(12).says("wrong password");
    }
    scene.run(["snapshots"]).code(12).says("wrong key file");
    fs::write(scene.key(), b"short").unwrap();
    scene.run(["snapshots"]).code(2).says("no key file");
    fs::write(scene.path("password"), b"right\n").unwrap();
    let mut command = scene.command(["snapshots", "--password-file", "password"]);
    command.env_remove("PASTFS_KEY_FILE");
    scene.run_command(command).ok();
    let mut command = scene.command(["snapshots", "--password-command", "echo right"]);
    command.env_remove("PASTFS_KEY_FILE");
    scene.run_command(command).ok();
    let mut command = scene.command(["snapshots"]);
    command.env_remove("PASTFS_KEY_FILE");
    scene.run_command(command).fails();
}

#[test]
fn a_repository_is_never_made_over_another_or_in_a_full_folder() {
    let scene = Scene::new("twice");
    fs::write(scene.source().join("f"), b"precious").unwrap();
    scene.backup(&[]);
    let before = scene.objects();
    scene.run(["init"]).fails();
    assert_eq!(scene.objects(), before);
    scene.latest_equals_source();
    let mut command = scene.command(["init"]);
    command.env("PASTFS_REPOSITORY", scene.source());
    scene.run_command(command).fails();
    assert_eq!(fs::read_dir(scene.source()).unwrap().count(), 1);
}

#[test]
fn a_command_line_that_makes_no_sense_is_2_and_does_nothing() {
    let scene = Scene::new("usage");
    let lines: [&[&str]; 14] = [
        &[],
        &["frobnicate"],
        &["backup"],
        &["backup", "--no-such-option", "source"],
        &["backup", "source", "--time", "the day after"],
        &["backup", "source", "--exclude-larger-than", "many"],
        &["backup", "--from-command", "echo"],
        &["backup", "--from-command", "echo", "--as", "a/b"],
        &["restore", "latest"],
        &["restore", "no snapshot at all", "--target", "out"],
        &["ls"],
        &["cat", "latest"],
        &["mount"],
        &["mount", "mnt", "--names", "{nobody}"],
    ];
    for line in lines {
        scene.run(line).code(2);
    }
    assert!(scene.snapshots().is_empty());
    assert!(!scene.path("out").exists());
    for line in [&["--help"][..], &["--version"], &["backup", "--help"]] {
        scene.run(line).ok();
    }
}

#[test]
fn what_is_not_there_is_named() {
    let scene = Scene::new("missing");
    scene.run(["ls", "latest"]).code(1);
    fs::write(scene.source().join("f"), b"f").unwrap();
    scene.backup(&[]);
    scene.run(["cat", "latest:/no/such/file"]).code(1).says("/no/such/file");
    scene.run(["restore", "latest:/no/such", "--target", "out"]).code(1).says("/no/such");
    scene.run(["ls", "0123456789"]).code(1).says("0123456789");
    scene.run(["ls", "2001-01-01"]).code(1).says("2001-01-01");
    let ran = scene.run(["backup", "no/such/folder"]).fails();
    assert!(ran.err.contains("no/such/folder"), "{}", ran.err);
    assert_eq!(scene.snapshots().len(), 1, "a snapshot of nothing");
}

#[test]
fn an_unreadable_file_is_named_recorded_and_gives_3() {
    if !is_root("the test of an unreadable file") {
        return;
    }
    let scene = Scene::new("unreadable");
    for (name, mode) in [("secret", 0o600), ("open", 0o644)] {
        let path = scene.source().join(name);
        fs::write(&path, name).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let closed = scene.source().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::write(closed.join("in it"), b"i").unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    scene.shell("mkdir -p cache; chown -R 65534:65534 repository cache key outputs").ok();
    let line = "exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$0\" backup source";
    let ran = scene.shell(line).code(3).says("source/secret").says("source/closed");
    assert!(!ran.err.contains("source/open"), "{}", ran.err);
    // Root can read them. First it sees what was recorded.
    scene.shell("chown -R 0:0 repository cache key outputs").ok();
    let list = scene.snapshots();
    assert_eq!(list.len(), 1);
    assert_eq!(list[0]["unread"], 2, "{}", list[0]);
    let path = |name: &str| format!("latest:{}/{name}", scene.source().display());
    let listed = scene.run(["ls", &path("")]).ok().text();
    assert!(listed.lines().any(|l| l == "open"), "{listed}");
    assert_eq!(scene.run(["cat", &path("open")]).ok().out, b"open");
    scene.run(["cat", &path("secret")]).fails();
    // The next one is whole.
    scene.backup(&[]);
    scene.latest_equals_source();
}

#[test]
fn a_file_that_changes_while_it_is_read_is_named_and_gives_3() {
    let scene = Scene::new("changing");
    let path = scene.source().join("log");
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(&vec![b'a'; 64 << 20]).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let writer = {
        let over = over.clone();
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                file.rewind().unwrap();
                file.write_all(b"changed again").unwrap();
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
        })
    };
    fs::write(scene.source().join("still"), b"s").unwrap();
    let ran = scene.run(["backup", "source"]);
    over.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    ran.code(3).says("source/log");
    assert_eq!(scene.snapshots()[0]["unread"], 1);
    scene.run(["cat".into(), format!("latest:{}/still", scene.source().display())]).ok();
    // It is not trusted to be unchanged.
    let again = scene.backup(&[]);
    assert!(again["totals"]["read_files"].as_u64().unwrap() >= 1, "{again}");
    scene.latest_equals_source();
}

#[test]
fn files_that_come_and_go_meanwhile_do_no_harm() {
    let scene = Scene::new("vanishing");
    super::scene::fill(&scene.source(), 300, 30_000, 4);
    let over = Arc::new(AtomicBool::new(false));
    let dir = scene.source();
    let churner = {
        let over = over.clone();
        std::thread::spawn(move || {
            let mut n = 0;
            while !over.load(Ordering::Relaxed) {
                let folder = dir.join(format!("{}/came {n}", n % 16));
                fs::create_dir(&folder).unwrap();
                fs::write(folder.join("f"), vec![b'x'; 50_000]).unwrap();
                let old = dir.join(format!("{}/came {}", (n + 8) % 16, n - 8));
                let _ = fs::remove_dir_all(old);
                n += 1;
            }
        })
    };
    let codes: Vec<_> = (0..3).map(|_| scene.run(["backup", "-q", "source"]).orderly().code).collect();
    over.store(true, Ordering::Relaxed);
    churner.join().unwrap();
    assert!(codes.iter().all(|c| matches!(c, Some(0 | 3))), "{codes:?}");
    for snapshot in scene.snapshots() {
        scene
            .run([
                "export".into(),
                "-q".into(),
                "-o".into(),
                "/dev/null".into(),
                snapshot["id"].as_str().unwrap().to_string(),
            ])
            .ok();
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_error_message() {
    let scene = Scene::new("pipe");
    super::scene::fill(&scene.source(), 2000, 10, 4);
    scene.backup(&[]);
    let ran = scene.shell("{ \"$0\" ls -R latest; } 2>err | head -n 1; true");
    ran.ok();
    assert_eq!(fs::read_to_string(scene.path("err")).unwrap(), "");
}

#[test]
fn another_users_cache_is_not_used() {
    if !is_root("the test of a foreign cache") {
        return;
    }
    let scene = Scene::new("foreign");
    scene.run(["snapshots"]).ok();
    assert!(Command::new("chown").args(["-R", "65534"]).arg(scene.cache()).status().unwrap().success());
    scene.run(["snapshots"]).fails().says("cache");
}

#[test]
fn quiet_says_nothing_and_json_is_one_object_for_what_came_out_of_it() {
    let scene = Scene::new("words");
    fs::write(scene.source().join("f"), b"f").unwrap();
    for args in [&["backup", "-q", "source"][..], &["restore", "-q", "latest", "--target", "out"]] {
        let ran = scene.run(args).ok();
        assert_eq!((ran.text().as_str(), ran.err.as_str()), ("", ""), "{args:?}");
    }
    let ran = scene.run(["ls", "--json", "0123456789"]).code(1);
    let error: serde_json::Value = serde_json::from_str(ran.err.trim_end()).unwrap();
    assert_eq!((&error["message_type"], &error["code"]), (&"error".into(), &1.into()), "{error}");
    let ran = scene.run(["backup", "source"]).ok();
    assert!(ran.text().contains("snapshot ") && !ran.err.contains('\x1b'), "{}{}", ran.text(), ran.err);
}

#[test]
fn passwords_can_be_changed_and_an_ended_one_opens_nothing() {
    let scene = Scene::bare("passwords");
    let with = |password: &str, args: &[&str]| {
        let mut command = scene.command(args);
        command.env_remove("PASTFS_KEY_FILE").env("PASTFS_PASSWORD", password);
        scene.run_command(command)
    };
    with("old", &["init", "-q"]).ok();
    fs::write(scene.source().join("f"), b"f").unwrap();
    with("old", &["backup", "-q", "source"]).ok();
    fs::write(scene.path("new"), b"new\n").unwrap();
    with("old", &["key", "passwd", "--new-password-file", "new"]).ok();
    with("old", &["snapshots"]).code(12);
    let file = format!("latest:{}/f", scene.source().display());
    assert_eq!(with("new", &["cat", &file]).ok().out, b"f");
    // The last key stays, whatever is asked for.
    let list = with("new", &["key", "list", "--json"]).ok().json();
    let id = list[0]["id"].as_str().unwrap().to_string();
    with("new", &["key", "remove", &id]).fails();
    with("new", &["snapshots"]).ok();
    // No password is ever seen in the process table or handed on.
    let ran = with("new", &["backup", "-q", "--from-command", "env", "--as", "env"]);
    ran.ok();
    let seen = with("new", &["cat", "latest:/env"]).ok().text();
    assert!(!seen.contains("PASTFS_PASSWORD"), "{seen}");
}
