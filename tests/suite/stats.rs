//! What takes how much space, told of real repositories.

use super::scene::{Draw, Scene};
use serde_json::Value;
use std::fs;

const MIB: usize = 1 << 20;

fn near(value: &Value, expected: usize) -> bool {
    let (value, expected) = (value.as_u64().unwrap() as f64, expected as f64);
    (value - expected).abs() <= expected * 0.05 + 150_000.0
}

#[test]
fn what_a_snapshot_alone_needs_is_what_pruning_it_gives_back() {
    let scene = Scene::new("stats");
    let source = scene.source();
    fs::create_dir_all(source.join("large/deep")).unwrap();
    fs::create_dir(source.join("small")).unwrap();
    fs::write(source.join("large/deep/first"), Draw(1).bytes(4 * MIB)).unwrap();
    fs::write(source.join("large/both"), Draw(2).bytes(2 * MIB)).unwrap();
    fs::write(source.join("small/copy"), Draw(2).bytes(2 * MIB)).unwrap();
    // Nobody but for its name needs space for it.
    fs::write(source.join("small/text"), "a".repeat(MIB)).unwrap();
    scene.backup(&["--time", "2024-02-03 10:00"]);
    fs::remove_dir_all(source.join("large/deep")).unwrap();
    fs::write(source.join("second"), Draw(3).bytes(MIB)).unwrap();
    scene.backup(&["--time", "2024-03-03 10:00"]);

    let stats = scene.run(["stats", "--json"]).ok().json();
    assert!(near(&stats["source_bytes"], 9 * MIB + 6 * MIB), "{stats}");
    assert!(near(&stats["content"]["raw"], 7 * MIB + 131_072), "{stats}");
    assert!(near(&stats["content"]["stored"], 7 * MIB), "{stats}");
    assert_eq!(stats["packs"].as_u64().unwrap() as usize, count(&scene));
    let alone: Vec<&Value> =
        stats["snapshots"].as_array().unwrap().iter().map(|s| &s["alone"]["stored"]).collect();
    assert!(near(alone[0], 4 * MIB) && near(alone[1], MIB), "{stats}");
    let months: Vec<&str> =
        stats["months"].as_array().unwrap().iter().map(|m| m["month"].as_str().unwrap()).collect();
    assert_eq!(months, ["2024-02", "2024-03"]);
    assert!(near(&stats["months"][1]["added_bytes"], MIB + 64 * 1024), "{stats}");
    let text = scene.run(["stats"]).ok().text();
    for part in ["deduplicated:", "stored:", "2024-02"] {
        assert!(text.contains(part), "{text}");
    }

    // The largest first, down to the file; what is in two places counts with the first by name.
    let first = scene.snapshots()[0]["id"].as_str().unwrap().to_string();
    let parts = |path: &str| -> Vec<Value> {
        let what = format!("{first}:{}{path}", source.display());
        let out = scene.run(["stats", "--json", &what]).ok().text();
        out.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    };
    let top = parts("");
    assert_eq!(top.iter().map(|p| p["name"].as_str().unwrap()).collect::<Vec<_>>(), ["large", "small"]);
    assert!(
        near(&top[0]["needed"]["stored"], 6 * MIB) && near(&top[0]["alone"]["stored"], 4 * MIB),
        "{top:?}"
    );
    assert!(near(&top[1]["source_bytes"], 3 * MIB) && near(&top[1]["needed"]["raw"], 131_072), "{top:?}");
    assert_eq!(parts("/large")[0]["name"], "deep");
    assert_eq!(parts("/large/both").len(), 1);
    scene.run(["stats", &format!("{first}:/nothing")]).code(1).says("there is no /nothing");

    // And so it is.
    let before = bytes(&scene);
    scene.run(["forget", "-q", &first]).ok();
    super::pruning::age(&scene, 60);
    scene.run(["prune", "--now", "--max-unused", "0"]).ok();
    let freed = Value::from(before - bytes(&scene));
    assert!(near(&freed, 4 * MIB), "freed {freed}");
    let stats = scene.run(["stats", "--json"]).ok().json();
    assert!(near(&stats["unneeded_bytes"], 0), "{stats}");
}

fn count(scene: &Scene) -> usize {
    scene.objects().iter().filter(|p| p.starts_with("packs")).count()
}

fn bytes(scene: &Scene) -> u64 {
    let len = |p: std::path::PathBuf| fs::metadata(scene.repository().join(p)).unwrap().len();
    scene.objects().into_iter().filter(|p| p.starts_with("packs")).map(len).sum()
}
