//! Manifests, notes and configs that are damaged: nothing is deleted while one is there, and there is a way out.

use super::pruning::age;
use super::scene::{Draw, Scene, fill, same_trees};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

fn of_kind(scene: &Scene, kind: &str) -> Vec<PathBuf> {
    scene.objects().into_iter().filter(|o| o.starts_with(kind)).collect()
}

fn hurt(scene: &Scene, object: &Path) {
    let path = scene.repository().join(object);
    let len = fs::metadata(&path).unwrap().len() as usize;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, Draw(3).bytes(len)).unwrap();
}

fn forget_cache(scene: &Scene) {
    let _ = fs::remove_dir_all(scene.cache());
}

/// Two snapshots of different folders, the first one with a tag and held; this machine has listed them. Their ids.
fn scene(name: &str) -> (Scene, [String; 2]) {
    let scene = Scene::new(name);
    let ids = ["a", "b"].map(|folder| {
        fill(&scene.path(folder), 6, 9000, folder.len() as u64);
        fs::write(scene.path(folder).join("name"), folder).unwrap();
        let report = scene.run(["backup", "--json", "--tag", folder, folder]).ok().json();
        report["snapshot_id"].as_str().unwrap().to_owned()
    });
    scene.run(["tag", "--add", "noted", &ids[0]]).ok();
    scene.run(["tag", "--hold", &ids[0]]).ok();
    scene.run(["snapshots"]).ok();
    age(&scene, 3 * 24 * 3600);
    (scene, ids)
}

fn repair(scene: &Scene, more: &[&str], code: i32) -> Vec<Value> {
    let ran = scene.run([&["repair", "snapshots", "--json"], more].concat()).code(code);
    let lines = ran.text();
    let lines = lines.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    lines.filter(|l| l["message_type"] == "damaged_object").collect()
}

/// All is well: nothing to be told, nothing that holds a prune back.
fn well(scene: &Scene) {
    let told = scene.run(["snapshots"]).ok().err;
    assert!(told.is_empty(), "{told}");
    scene.run(["check", "-q", "--read-data"]).ok();
    scene.run(["prune"]).ok();
    assert!(repair(scene, &[], 0).is_empty());
}

fn comes_back(scene: &Scene, snapshot: &str, folder: &str) {
    let out = scene.path("out");
    let _ = fs::remove_dir_all(&out);
    let what = format!("{snapshot}:{}", scene.path(folder).display());
    scene.run(["restore", "-q", &what, "--target", "out"]).ok();
    same_trees(&scene.path(folder), &out);
}

fn snapshot_with_tag(scene: &Scene, tag: &str) -> Value {
    let list = scene.run(["snapshots", "--json", "--tag", tag]).ok().json();
    assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
    list[0].clone()
}

#[test]
fn a_damaged_manifest_that_nobody_knows_goes_by_order_only() {
    let (scene, ids) = scene("manifest-gone");
    let object = PathBuf::from("snapshots").join(&ids[0]);
    hurt(&scene, &object);
    forget_cache(&scene);
    let refused = scene.run(["prune"]).fails().err;
    assert!(refused.contains("nothing was deleted") && refused.contains("repair snapshots"), "{refused}");
    for more in [&[][..], &["--dry-run"], &["--dry-run", "--drop-damaged"]] {
        let before = scene.objects();
        let code = if more.len() == 2 { 0 } else { 4 };
        let broken = repair(&scene, more, code);
        assert_eq!(broken.len(), 1, "{broken:?}");
        assert_eq!(broken[0]["object"], object.to_str().unwrap());
        assert_eq!(broken[0]["fate"], if more.len() == 2 { "dropped" } else { "left" });
        assert!(!broken[0]["advice"].as_str().unwrap().is_empty());
        assert_eq!(before, scene.objects(), "{more:?} wrote");
    }
    assert_eq!(repair(&scene, &["--drop-damaged"], 0)[0]["fate"], "dropped");
    assert!(!scene.repository().join(&object).exists());
    well(&scene);
    comes_back(&scene, &ids[1], "b");
}

#[test]
fn a_damaged_manifest_that_this_machine_knows_is_put_back_with_all_that_was_said_of_it() {
    let (scene, ids) = scene("manifest-back");
    // Another machine that has seen all is not alarmed by the repair.
    scene.shell("cp -a cache other").ok();
    let object = PathBuf::from("snapshots").join(&ids[0]);
    hurt(&scene, &object);
    assert!(scene.run(["check", "-q"]).code(4).text().contains("repair snapshots"));
    let old = snapshot_with_tag(&scene, "noted");
    assert_eq!(repair(&scene, &["-n"], 0)[0]["fate"], "put_back");
    assert!(scene.repository().join(&object).exists());
    assert_eq!(repair(&scene, &[], 0)[0]["fate"], "put_back");
    assert!(!scene.repository().join(&object).exists());
    for machine in ["cache", "other", "new"] {
        if machine != "cache" {
            forget_cache(&scene);
            scene.shell(&format!("test ! -d {machine} || mv {machine} cache")).ok();
        }
        let new = snapshot_with_tag(&scene, "noted");
        assert_ne!(new["id"], old["id"]);
        for what in ["time", "host", "tags", "paths", "held"] {
            assert_eq!(new[what], old[what], "{what}");
        }
        comes_back(&scene, new["id"].as_str().unwrap(), "a");
        well(&scene);
    }
    assert_eq!(scene.snapshots().len(), 2);
    comes_back(&scene, &ids[1], "b");
}

/// With so many paths that their list is longer than what is kept of an ordinary snapshot.
#[test]
fn a_damaged_manifest_of_many_paths_is_put_back_with_all_of_them() {
    let scene = Scene::new("many-paths");
    let folders: Vec<String> = (0..90).map(|n| format!("a folder with quite a long name {n}")).collect();
    for folder in &folders {
        fill(&scene.path(folder), 1, 100, 1);
    }
    let args = ["backup", "--json", "--tag", "many"].into_iter().chain(folders.iter().map(String::as_str));
    let saved = scene.run(args).ok().json();
    let object = PathBuf::from("snapshots").join(saved["snapshot_id"].as_str().unwrap());
    scene.run(["snapshots"]).ok();
    let old = snapshot_with_tag(&scene, "many");
    hurt(&scene, &object);
    assert_eq!(repair(&scene, &[], 0)[0]["fate"], "put_back");
    let new = snapshot_with_tag(&scene, "many");
    assert_eq!(old["paths"].as_array().unwrap().len(), folders.len());
    assert_eq!((&new["paths"], &new["time"]), (&old["paths"], &old["time"]));
    well(&scene);
}

#[test]
fn a_damaged_note_is_said_again_by_who_knows_it_and_goes_by_order_else() {
    for is_known in [true, false] {
        let (scene, ids) = scene("note");
        scene.shell("cp -a cache other").ok();
        let notes = of_kind(&scene, "notes");
        assert_eq!(notes.len(), 2);
        for note in &notes {
            hurt(&scene, note);
        }
        if !is_known {
            forget_cache(&scene);
            let left = repair(&scene, &[], 4);
            assert!(left.len() == 2 && left.iter().all(|b| b["fate"] == "left"), "{left:?}");
            scene.run(["prune"]).fails();
        }
        let (more, fate) =
            if is_known { (&[][..], "put_back") } else { (&["--drop-damaged"][..], "dropped") };
        let broken = repair(&scene, more, 0);
        assert!(broken.len() == 2 && broken.iter().all(|b| b["fate"] == fate), "{broken:?}");
        assert!(notes.iter().all(|n| !scene.repository().join(n).exists()));
        let first = scene.snapshots().into_iter().find(|s| s["id"] == *ids[0]).unwrap();
        assert_eq!(first["held"], is_known);
        assert_eq!(first["tags"].as_array().unwrap().len(), if is_known { 2 } else { 1 });
        well(&scene);
        // Who remembers what was removed is alarmed; who finds it said again is not.
        scene.shell("rm -r cache; mv other cache").ok();
        let told = scene.run(["snapshots"]).ok().err;
        assert_eq!(told.contains("have vanished"), !is_known, "{told}");
    }
}

#[test]
fn a_config_that_is_damaged_gives_way_to_one_that_counts() {
    let (scene, ids) = scene("config");
    fs::write(scene.repository().join("config/3"), Draw(4).bytes(300)).unwrap();
    assert!(scene.run(["snapshots"]).ok().err.contains("config/3 does not count"));
    assert_eq!(repair(&scene, &[], 4)[0]["fate"], "left");
    assert_eq!(repair(&scene, &["--drop-damaged"], 0)[0]["fate"], "dropped");
    assert_eq!(of_kind(&scene, "config"), ["1", "2", "4"].map(|n| Path::new("config").join(n)));
    well(&scene);
    // All but one of them may be lost.
    hurt(&scene, Path::new("config/1"));
    hurt(&scene, Path::new("config/4"));
    comes_back(&scene, &ids[0], "a");
}

#[test]
fn of_two_configs_one_is_enough_and_a_repair_writes_the_other_again() {
    let (scene, ids) = scene("twins");
    let configs = |n: &[&str]| n.iter().map(|n| Path::new("config").join(n)).collect::<Vec<_>>();
    assert_eq!(of_kind(&scene, "config"), configs(&["1", "2"]));
    for (lost, left, then) in [("2", "1", ["1", "2"]), ("1", "2", ["2", "3"])] {
        fs::remove_file(scene.repository().join("config").join(lost)).unwrap();
        comes_back(&scene, &ids[0], "a");
        let told = scene.run(["check"]).code(4).text();
        assert!(told.contains(&format!("config/{left}")) && told.contains("repair snapshots"), "{told}");
        scene.run(["prune", "-q"]).ok();
        assert_eq!(repair(&scene, &["--dry-run"], 0)[0]["fate"], "doubled");
        assert_eq!(repair(&scene, &[], 0)[0]["object"], format!("config/{left}"));
        assert_eq!(of_kind(&scene, "config"), configs(&then));
        well(&scene);
    }
    for config in of_kind(&scene, "config") {
        hurt(&scene, &config);
    }
    scene.run(["snapshots"]).code(4).says("Hint: nothing can be read without it");
}

#[test]
fn a_damaged_key_is_named_and_never_touched() {
    let (scene, ids) = scene("key");
    let before = of_kind(&scene, "keys");
    scene.run(["key", "add", "-q", "--new-key-file", "other key"]).ok();
    let new = of_kind(&scene, "keys").into_iter().find(|k| !before.contains(k)).unwrap();
    hurt(&scene, &new);
    for more in [&[][..], &["--drop-damaged"]] {
        let broken = repair(&scene, more, 4);
        assert_eq!(
            (&broken[0]["object"], &broken[0]["fate"]),
            (&new.to_str().unwrap().into(), &"left".into())
        );
        assert!(broken[0]["advice"].as_str().unwrap().contains("key add"));
        assert!(scene.repository().join(&new).exists());
    }
    comes_back(&scene, &ids[1], "b");
}
