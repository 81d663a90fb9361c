//! What was saved comes back: folders of a real system, by the mount, by restore and by export.

use super::scene::{Scene, differences, is_root, same_trees};
use std::fs;
use std::path::Path;

#[test]
fn folders_of_this_system_are_the_same_in_the_mount() {
    if !is_root("saving /usr/share, /usr/lib and /etc") {
        return;
    }
    let scene = Scene::new("system");
    let paths = ["/usr/share", "/usr/lib", "/etc"];
    let report = scene.run(["backup", "--json"].into_iter().chain(paths)).ok().json();
    assert_eq!(report["unread"], 0, "{report}");
    let mount = scene.mount(&[]);
    for path in paths {
        same_trees(Path::new(path), &mount.dir.join("latest").join(&path[1..]));
    }
    // The folders above are there as well, with their own attributes.
    let line = format!("stat -c '%a %u %g %y' /usr '{0}/latest/usr'", mount.dir.display());
    let text = scene.shell(&line).ok().text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], lines[1]);
    mount.unmount();

    let again = scene.run(["backup", "--json"].into_iter().chain(paths)).ok().json();
    assert_eq!(again["totals"]["read_files"], 0, "{again}");

    let target = scene.restore("latest:/usr/share");
    same_trees(Path::new("/usr/share"), &target);
    fs::remove_dir_all(target).unwrap();
    let target = scene.path("by id");
    let id = again["snapshot_id"].as_str().unwrap();
    scene.run(["restore", "-q", id, "--include", "/etc", "--target", "by id"]).ok();
    same_trees(Path::new("/etc"), &target.join("etc"));

    fs::create_dir(scene.path("unpacked")).unwrap();
    let line = "\"$0\" export -q latest | tar -x -p --numeric-owner --acls --xattrs --xattrs-include='*' -C unpacked \
                usr/share etc";
    scene.shell(line).ok();
    for path in ["usr/share", "etc"] {
        let found = differences(&Path::new("/").join(path), &scene.path("unpacked").join(path), &[]);
        assert!(found.is_empty(), "{path}: {}", found.lines().take(40).collect::<Vec<_>>().join("\n"));
    }
}

#[test]
fn both_ciphers_and_a_password_give_the_same_bytes() {
    let scene = Scene::bare("ciphers");
    fs::write(scene.source().join("f"), vec![b'x'; 2_000_000]).unwrap();
    let mut command = scene.command(["init", "-q", "--cipher", "aes256gcm"]);
    command.env_remove("PASTFS_KEY_FILE").env("PASTFS_PASSWORD", "correct horse");
    scene.run_command(command).ok();
    for args in [["backup", "-q", "source"], ["restore", "latest", "--target=out"]] {
        let mut command = scene.command(args);
        command.env_remove("PASTFS_KEY_FILE").env("PASTFS_PASSWORD", "correct horse");
        scene.run_command(command).ok();
    }
    same_trees(&scene.source(), &scene.path("out").join(scene.source().strip_prefix("/").unwrap()));
    // A second key opens it as well; the first goes; the key in use stays.
    let mut command = scene.command(["key", "add", "--new-key-file", "key"]);
    command.env_remove("PASTFS_KEY_FILE").env("PASTFS_PASSWORD", "correct horse");
    scene.run_command(command).ok();
    scene.run(["snapshots"]).ok();
    let keys = scene.run(["key", "list", "--json"]).ok().json();
    assert_eq!(keys.as_array().map(Vec::len), Some(2), "{keys}");
}

#[test]
fn the_cache_can_be_deleted_and_each_user_can_have_an_own_one() {
    let scene = Scene::new("caches");
    super::scene::fill(&scene.source(), 40, 30_000, 1);
    scene.backup(&[]);
    fs::remove_dir_all(scene.cache()).unwrap();
    scene.latest_equals_source();
    fs::remove_dir_all(scene.cache()).unwrap();
    super::scene::let_files_settle();
    scene.backup(&[]);
    fs::remove_dir_all(scene.cache()).unwrap();
    let third = scene.backup(&[]);
    assert_eq!(third["totals"]["read_files"], 0, "the parent's trees tell what is unchanged: {third}");
    assert!(third["parent"].is_string());
    fs::write(scene.source().join("more"), b"m").unwrap();
    let mut other = scene.command(["backup", "-q", "source"]);
    other.env("PASTFS_CACHE", scene.path("another cache"));
    scene.run_command(other).ok();
    assert_eq!(scene.snapshots().len(), 4);
    scene.latest_equals_source();
}
