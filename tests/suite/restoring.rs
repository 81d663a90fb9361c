//! Restore: what was asked for, and nothing outside the target.

use super::scene::{Scene, fill, same_trees};
use std::fs;
use std::os::unix::fs::symlink;

fn tree(scene: &Scene) {
    for name in ["a/1.txt", "a/2.bin", "b/3.txt", "b/deep/4.txt"] {
        let path = scene.source().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    scene.backup(&[]);
}

fn files_below(dir: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path.strip_prefix(dir).unwrap().display().to_string());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn parts_can_be_chosen_and_a_dry_run_writes_nothing() {
    let scene = Scene::new("parts");
    tree(&scene);
    let what = format!("latest:{}", scene.source().display());
    let dry = scene.run(["restore", &what, "--target", "out", "--dry-run", "-v"]).ok();
    assert!(!scene.path("out").exists());
    assert!(format!("{}{}", dry.text(), dry.err).contains("4 files"), "{}", dry.text());
    scene.run(["restore", "-q", &what, "--target", "txt", "--include", "*.txt"]).ok();
    assert_eq!(files_below(&scene.path("txt")), ["a/1.txt", "b/3.txt", "b/deep/4.txt"]);
    scene.run(["restore", "-q", &what, "--target", "not", "--exclude", "deep", "--exclude", "*.bin"]).ok();
    assert_eq!(files_below(&scene.path("not")), ["a/1.txt", "b/3.txt"]);
    scene.run(["restore", "-q", &format!("{what}/a/1.txt"), "--target", "one"]).ok();
    assert_eq!(files_below(&scene.path("one")), ["1.txt"]);
    scene.run(["restore", "-q", "latest", "--target", "all"]).ok();
    same_trees(&scene.source(), &scene.path("all").join(scene.source().strip_prefix("/").unwrap()));
}

#[test]
fn what_is_there_is_replaced_where_it_differs_and_kept_where_it_is_equal() {
    let scene = Scene::new("again");
    fill(&scene.source(), 50, 2000, 3);
    scene.backup(&[]);
    let what = format!("latest:{}", scene.source().display());
    scene.run(["restore", "-q", &what, "--target", "out"]).ok();
    fs::write(scene.path("out/3/3"), b"spoiled").unwrap();
    fs::remove_file(scene.path("out/4/4")).unwrap();
    fs::write(scene.path("out/6/beside"), b"stays").unwrap();
    let report = scene.run(["restore", "--json", &what, "--target", "out"]).ok().json();
    assert_eq!(report["skipped"], 48, "{report}");
    assert_eq!(fs::read(scene.path("out/6/beside")).unwrap(), b"stays");
    fs::remove_file(scene.path("out/6/beside")).unwrap();
    scene.run(["restore", "-q", &what, "--target", "out"]).ok();
    same_trees(&scene.source(), &scene.path("out"));
    // A folder in the place of a file may hold what nobody else has: it is never deleted for one.
    fs::remove_file(scene.path("out/5/5")).unwrap();
    fs::create_dir(scene.path("out/5/5")).unwrap();
    fs::write(scene.path("out/5/5/precious"), b"p").unwrap();
    scene.run(["restore", "-q", &what, "--target", "out"]).code(3).says("5/5");
    assert_eq!(fs::read(scene.path("out/5/5/precious")).unwrap(), b"p");
}

#[test]
fn nothing_outside_the_target_is_written() {
    let scene = Scene::new("outside");
    tree(&scene);
    let outside = scene.path("outside");
    fs::create_dir_all(outside.join("deep")).unwrap();
    fs::write(outside.join("precious"), b"precious").unwrap();
    fs::create_dir_all(scene.path("out/b")).unwrap();
    // Planted: links for a folder, for a file, and for a folder further down.
    symlink(&outside, scene.path("out/a")).unwrap();
    symlink(outside.join("precious"), scene.path("out/b/3.txt")).unwrap();
    symlink(outside.join("deep"), scene.path("out/b/deep")).unwrap();
    scene
        .run([
            "restore".into(),
            "-q".into(),
            format!("latest:{}", scene.source().display()),
            "--target=out".into(),
        ])
        .orderly();
    assert_eq!(files_below(&outside), ["precious"]);
    assert_eq!(fs::read(outside.join("precious")).unwrap(), b"precious");
}
