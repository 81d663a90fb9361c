//! A profile says once what would else stand in every command line, and the command line has the last word.

use super::scene::{Ran, Scene};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The program with a configuration, and nothing of it in the environment.
fn run(scene: &Scene, args: &[&str]) -> Ran {
    let mut command = scene.command(args);
    for name in ["PASTFS_REPOSITORY", "PASTFS_KEY_FILE", "PASTFS_CACHE"] {
        command.env_remove(name);
    }
    command.env("PASTFS_CONFIG", scene.path("config.toml")).env("HOME", scene.path("home"));
    scene.run_command(command)
}

#[test]
fn a_profile_names_repository_key_and_cache_and_the_command_line_has_the_last_word() {
    let scene = Scene::new("profiles");
    fs::write(scene.source().join("f"), b"content").unwrap();
    scene.backup(&[]);
    let text = "[profile.default]\nrepository = \"repository\"\nkey-file = \"key\"\ncache = \"profile-cache\"\n\
                [profile.second]\nrepository = \"~/second\"\npassword-command = \"echo secret\"\n";
    fs::write(scene.path("config.toml"), text).unwrap();
    fs::create_dir(scene.path("home")).unwrap();
    let listed = |ran: Ran| ran.ok().json();
    let _ = fs::remove_dir_all(scene.path("profile-cache"));
    let snapshots = listed(run(&scene, &["snapshots", "--json"]));
    assert!(scene.path("profile-cache").is_dir());
    assert_eq!(snapshots, listed(scene.run(["snapshots", "--json"])));

    run(&scene, &["-P", "second", "init", "-q", "--cache", "cache"]).ok();
    assert!(scene.path("home/second/config/1").is_file());
    // Another repository than that of the profile, with the profile's key.
    run(&scene, &["-P", "second", "-r", "third", "init", "-q", "--cache", "cache"]).ok();
    assert!(scene.path("third/config/1").is_file());
    // `default` speaks of its own repository only: its key is not tried here.
    run(&scene, &["-r", "third", "snapshots", "--cache", "cache"]).code(2).says("terminal");
    run(&scene, &["-P", "absent", "snapshots"]).code(2).says("absent").says("default, second");
}

#[test]
fn a_configuration_that_is_not_understood_or_not_safe_is_told_and_not_used() {
    let scene = Scene::new("unclear-profile");
    let file = scene.path("config.toml");
    run(&scene, &["snapshots"]).fails().says("config.toml");
    fs::write(&file, "[profile.default]\nrepository = \"repository\"\nkeyfile = \"key\"\n").unwrap();
    run(&scene, &["snapshots"]).code(2).says("line 3").says("keyfile");
    fs::write(&file, "[profile.default]\nrepository = \"repository\"\nkey-file = \"key\"\n").unwrap();
    run(&scene, &["snapshots"]).ok();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    run(&scene, &["snapshots"]).fails().says("can be changed by others").says("chmod go-w");
}

#[test]
fn the_example_in_the_manual_is_understood() {
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/pastfs-config.5");
    let page = fs::read_to_string(manual).unwrap();
    let example = page.split(".EX\n").nth(1).and_then(|rest| rest.split(".EE").next()).unwrap();
    let scene = Scene::bare("manual-profile");
    fs::write(scene.path("config.toml"), example).unwrap();
    let read = pastfs::config::Configuration::read(&scene.path("config.toml"), Some(Path::new("/home/ana")))
        .unwrap();
    assert_eq!(read.default_profile().unwrap().replicas.len(), 2);
    assert_eq!(read.profile("photos").unwrap().repository.as_deref(), Some("/home/ana/photos-backup"));
}
