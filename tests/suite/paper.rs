//! A key on paper: the last way in.

use super::scene::{Scene, pastfs};
use serde_json::Value;
use std::fs;

fn stage(name: &str) -> Scene {
    let scene = Scene::new(name);
    fs::write(scene.source().join("file"), "content").unwrap();
    scene.backup(&[]);
    scene
}

fn printed(scene: &Scene) -> String {
    scene.run(["key", "export", "--paper"]).ok().text()
}

#[test]
fn a_paper_key_opens_a_repository_whose_keys_are_all_gone() {
    let scene = stage("paper");
    let paper = printed(&scene);
    assert!(paper.contains('█'), "no QR code: {paper}");
    let code = scene.run(["key", "export", "--paper", "--json"]).ok().json()["code"].clone();
    assert!(!scene.run(["key", "export", "--paper", "--no-qr"]).ok().text().contains('█'));
    for (n, text) in [paper.as_str(), code.as_str().unwrap()].into_iter().enumerate() {
        fs::remove_dir_all(scene.repository().join("keys")).unwrap();
        scene.run(["snapshots"]).code(12);
        fs::write(scene.path("typed"), text).unwrap();
        let key = scene.path(&format!("new-key-{n}"));
        scene.run(["key", "import", "-q", "--paper", "typed", "--new-key-file", key.to_str().unwrap()]).ok();
        fs::rename(key, scene.key()).unwrap();
        scene.latest_equals_source();
    }
    // It is a full key.
    scene.backup(&[]);
    scene.run(["forget", "-q", "--keep-last", "1"]).ok();
    scene.run(["check", "-q", "--read-data"]).ok();
    scene.run(["prune", "-q"]).ok();
    let keys = scene.run(["key", "list", "--json"]).ok().json();
    assert_eq!((&keys[0]["role"], &keys[0]["label"]), (&"full".into(), &Value::from("from paper")));
}

#[test]
fn a_slip_of_the_finger_is_found_in_its_line_and_adds_no_key() {
    let scene = stage("paper-slip");
    let before = scene.objects();
    let lines: Vec<String> = scene.run(["key", "export", "--paper", "--json"]).ok().json()["lines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| l.as_str().unwrap().to_owned())
        .collect();
    let mut typed = lines.clone();
    let last = typed[4].pop().unwrap();
    typed[4].push(if last == '0' { '1' } else { '0' });
    for (text, says) in [
        (typed.join("\n"), "line 5 is misspelt"),
        (lines[..8].join("\n"), "line 9 of 9 is missing"),
        (String::new(), "line 1 of 9 is missing"),
    ] {
        fs::write(scene.path("typed"), text).unwrap();
        scene.run(["key", "import", "--paper", "typed", "--new-key-file", "new"]).code(2).says(says);
    }
    scene.run(["key", "import", "--paper", "/dev/zero", "--new-key-file", "new"]).fails();
    assert_eq!(scene.objects(), before);
}

#[test]
fn paper_of_another_repository_or_of_before_a_rotation_opens_nothing() {
    let (one, other) = (stage("paper-one"), stage("paper-other"));
    fs::write(one.path("typed"), printed(&other)).unwrap();
    one.run(["key", "import", "--paper", "typed", "--new-key-file", "new"])
        .code(12)
        .says("of another repository");
    fs::write(one.path("typed"), printed(&one)).unwrap();
    one.run(["key", "rotate", "-q"]).ok();
    let refused = one.run(["key", "import", "--paper", "typed", "--new-key-file", "new"]);
    refused.code(12).says("keys of this repository were rotated");
    // What is printed after it does.
    fs::write(one.path("typed"), printed(&one)).unwrap();
    one.run(["key", "import", "-q", "--paper", "typed", "--new-key-file", "newer"]).ok();
    let mut command = pastfs(["ls", "latest"]);
    command.env("PASTFS_REPOSITORY", one.repository()).env("PASTFS_KEY_FILE", one.path("newer"));
    one.run_command({
        command.env("PASTFS_CACHE", one.path("another-cache"));
        command
    })
    .ok();
}

#[test]
fn only_a_full_key_is_written_on_paper() {
    let scene = stage("paper-not");
    for role in ["writer", "reader"] {
        scene.run(["key", "add", "-q", "--role", role, "--new-key-file", role]).ok();
        let mut command = scene.command(["key", "export", "--paper"]);
        command
            .env("PASTFS_KEY_FILE", scene.path(role))
            .env("PASTFS_CACHE", scene.path(&format!("{role}-cache")));
        let ran = scene.run_command(command).code(1).says("only a full key");
        assert!(ran.out.is_empty());
    }
}
