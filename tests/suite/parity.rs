//! `init --parity`: damage up to a share heals on every way to the data, and never wrongly.

use super::scene::{Draw, Scene, fill, let_files_settle, same_trees};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

fn write(path: &Path, bytes: &[u8]) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path, bytes).unwrap();
}

fn of_kind(scene: &Scene, kind: &str) -> Vec<PathBuf> {
    scene.objects().into_iter().filter(|o| o.starts_with(kind)).collect()
}

fn bytes_of(scene: &Scene, kind: &str) -> u64 {
    of_kind(scene, kind).iter().map(|p| fs::metadata(scene.repository().join(p)).unwrap().len()).sum()
}

/// A repository with a tenth of parity, and files of all sizes in it.
fn scene(name: &str) -> Scene {
    let scene = Scene::bare(name);
    scene.run(["init", "-q", "--parity", "10%"]).ok();
    fill(&scene.source(), 20, 30_000, 1);
    fs::write(scene.source().join("large"), Draw(2).bytes(3_000_000)).unwrap();
    scene.backup(&[]);
    scene
}

/// Flips a bit in so many parts of 4 KiB of a pack, from its first byte on, evenly spread; and the same number of all parts.
fn hurt(path: &Path, parts: impl Fn(usize) -> usize) {
    let mut bytes = fs::read(path).unwrap();
    let all = bytes.len() / 4096;
    let count = parts(all).min(all);
    for n in 0..count {
        // Behind the header, of which segments have a copy.
        bytes[n * all / count * 4096 + 300] ^= 4;
    }
    write(path, &bytes);
}

fn findings(scene: &Scene) -> Vec<Value> {
    let ran = scene.run(["check", "--read-data", "--json"]).orderly();
    let lines: Vec<Value> = ran.text().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    lines.into_iter().filter(|l| l["message_type"] == "finding").collect()
}

#[test]
fn damage_up_to_the_share_heals_on_read_check_and_repair() {
    let scene = scene("parity");
    let packs = of_kind(&scene, "packs");
    assert_eq!(of_kind(&scene, "parity").len(), packs.len());
    let share = bytes_of(&scene, "parity") as f64 / bytes_of(&scene, "packs") as f64;
    assert!((0.09..0.15).contains(&share), "{share}");
    assert!(findings(&scene).is_empty());
    for pack in &packs {
        hurt(&scene.repository().join(pack), |all| all.div_ceil(10));
    }
    // Every way to the data.
    let ran = scene.run(["ls", "latest"]).ok();
    assert!(ran.err.contains("was healed by its parity"), "{}", ran.err);
    scene.latest_equals_source();
    let mount = scene.mount(&[]);
    same_trees(&scene.source(), &scene.source_in(&mount.dir));
    mount.unmount();
    let found = findings(&scene);
    assert_eq!(found.len(), packs.len(), "{found:?}");
    for f in &found {
        assert!(f["what"].as_str().unwrap().contains("parity heals"), "{f}");
        assert_eq!((&f["chunks_lost"], &f["files_hit"]), (&0.into(), &0.into()), "{f}");
    }
    // For good.
    let summary = scene.run(["repair", "packs", "--read-data", "--json"]).ok().json();
    assert_eq!(summary["damaged_packs"], packs.len());
    assert_eq!(summary["lost_chunks"], 0);
    for pack in &packs {
        fs::remove_file(scene.repository().join(pack)).unwrap();
    }
    assert!(findings(&scene).is_empty());
    scene.latest_equals_source();
}

#[test]
fn a_pack_that_no_segment_names_heals_as_well() {
    let scene = scene("stray");
    for pack in of_kind(&scene, "packs") {
        let path = scene.repository().join(&pack);
        // Header, and the trailer at the end.
        let mut bytes = fs::read(&path).unwrap();
        let len = bytes.len();
        bytes[9] ^= 0xff;
        bytes[len - 3] ^= 1;
        write(&path, &bytes);
    }
    fs::remove_dir_all(scene.repository().join("index")).unwrap();
    fs::remove_dir_all(scene.cache()).unwrap();
    scene.run(["repair", "index"]).ok();
    assert!(findings(&scene).is_empty());
    scene.latest_equals_source();
}

/// Of one who died between a pack and its parity, before any segment.
#[test]
fn packs_that_are_named_again_get_the_parity_that_they_lack() {
    let scene = scene("adopted");
    let objects = of_kind(&scene, "parity");
    let whole: Vec<Vec<u8>> = objects.iter().map(|o| fs::read(scene.repository().join(o)).unwrap()).collect();
    fs::remove_dir_all(scene.repository().join("index")).unwrap();
    fs::remove_file(scene.repository().join(&objects[0])).unwrap();
    write(&scene.repository().join(&objects[1]), &whole[1][..100]);
    scene.run(["repair", "index", "-n"]).orderly();
    assert!(!scene.repository().join(&objects[0]).exists(), "a dry run writes nothing");
    scene.run(["repair", "index"]).ok();
    for (object, bytes) in objects.iter().zip(&whole) {
        assert!(fs::read(scene.repository().join(object)).unwrap() == *bytes, "{object:?}");
    }
    assert!(findings(&scene).is_empty());
    for pack in of_kind(&scene, "packs") {
        hurt(&scene.repository().join(pack), |_| 1);
    }
    scene.latest_equals_source();
}

#[test]
fn more_damage_than_parity_is_told_and_gives_no_wrong_byte() {
    let scene = scene("more");
    let packs = of_kind(&scene, "packs");
    for pack in &packs {
        hurt(&scene.repository().join(pack), |all| all / 2);
    }
    assert!(!findings(&scene).is_empty());
    scene.run(["restore", "-q", "latest", "--target", "out"]).fails();
}

#[test]
fn parity_that_is_damaged_or_gone_is_found_and_makes_nothing_worse() {
    let scene = scene("worse");
    let objects = of_kind(&scene, "parity");
    write(&scene.repository().join(&objects[0]), &Draw(7).bytes(5000));
    fs::remove_file(scene.repository().join(&objects[1])).unwrap();
    let found = findings(&scene);
    let mut names: Vec<&str> = found.iter().map(|f| f["object"].as_str().unwrap()).collect();
    names.sort();
    let mut hurt_ones: Vec<&str> = objects[..2].iter().map(|o| o.to_str().unwrap()).collect();
    hurt_ones.sort();
    assert_eq!(names, hurt_ones);
    scene.latest_equals_source();
    for pack in of_kind(&scene, "packs") {
        hurt(&scene.repository().join(pack), |_| 1);
    }
    let found = findings(&scene);
    let packs = found.iter().filter(|f| f["object"].as_str().unwrap().starts_with("packs/"));
    assert_eq!(packs.count(), 2, "{found:?}");
    scene.run(["restore", "-q", "latest", "--target", "out"]).fails();
    // What is left of it may heal more than nothing: it is never made anew of a damaged pack.
    let before = fs::read(scene.repository().join(&objects[0])).unwrap();
    scene.run(["repair", "packs", "--json"]).orderly();
    assert!(fs::read(scene.repository().join(&objects[0])).unwrap() == before);
    assert!(!scene.repository().join(&objects[1]).exists());
}

#[test]
fn parity_that_is_damaged_or_gone_is_written_anew_from_its_pack() {
    let scene = scene("anew");
    let objects = of_kind(&scene, "parity");
    let whole: Vec<Vec<u8>> = objects.iter().map(|o| fs::read(scene.repository().join(o)).unwrap()).collect();
    let is_whole = |n: usize| fs::read(scene.repository().join(&objects[n])).is_ok_and(|now| now == whole[n]);
    let look = |args: &[&str]| {
        let ran = scene.run(args).orderly();
        ran.text().matches("parity/").count() + ran.err.matches("parity/").count()
    };
    // Too short, gone, exchanged: lists and lengths tell.
    let path = |n: usize| scene.repository().join(&objects[n]);
    for damage in 0..3 {
        match damage {
            0 => write(&path(0), &whole[0][..whole[0].len() / 2]),
            1 => fs::remove_file(path(0)).unwrap(),
            _ => write(&path(0), &whole[1]),
        }
        assert_eq!(scene.run(["check", "-q"]).code(4).code, Some(4), "{damage}");
        let dry = scene.run(["repair", "packs", "-n"]).code(4).text();
        assert!(dry.contains("would be written anew"), "{dry}");
        assert!(!is_whole(0));
        assert!(look(&["repair", "packs"]) > 0);
        assert!(is_whole(0), "{damage}");
        assert!(findings(&scene).is_empty(), "{damage}");
    }
    // A flipped bit anywhere is seen by who reads: in the head, in a description, in a sum, in a part.
    for at in [2, 12, 80, whole[0].len() / 2, whole[0].len() - 3] {
        let mut bytes = whole[0].clone();
        bytes[at] ^= 0x20;
        write(&path(0), &bytes);
        scene.run(["check", "-q"]).ok();
        let found = findings(&scene);
        assert_eq!(found.len(), 1, "byte {at}: {found:?}");
        assert_eq!(found[0]["object"], objects[0].to_str().unwrap(), "byte {at}");
        let id = objects[0].file_name().unwrap().to_str().unwrap();
        assert!(found[0]["advice"].as_str().unwrap().contains(&format!("repair packs {id}")), "{found:?}");
        scene.run(["repair", "packs", id]).ok();
        assert!(is_whole(0), "byte {at}");
    }
    assert!(findings(&scene).is_empty());
    for pack in of_kind(&scene, "packs") {
        hurt(&scene.repository().join(pack), |_| 1);
    }
    scene.latest_equals_source();
}

#[test]
fn parity_whose_pack_is_gone_goes_once_it_is_old() {
    let scene = scene("orphan");
    let one = scene.repository().join(&of_kind(&scene, "parity")[0]);
    let name = |digit: char| scene.repository().join("parity").join(digit.to_string().repeat(64));
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(3 * 24 * 3600);
    for digit in ['a', 'b'] {
        fs::copy(&one, name(digit)).unwrap();
    }
    let set_old =
        |path: &Path| fs::File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
    fs::set_permissions(name('a'), fs::Permissions::from_mode(0o600)).unwrap();
    set_old(&name('a'));
    // Of a pack that is lost, and that a segment names, it may be all that is left.
    let lost = scene.repository().join(&of_kind(&scene, "packs")[0]);
    let of_lost = scene.repository().join("parity").join(lost.file_name().unwrap());
    fs::set_permissions(&of_lost, fs::Permissions::from_mode(0o600)).unwrap();
    set_old(&of_lost);
    scene.run(["prune", "-n"]).ok();
    assert!(name('a').exists(), "a dry run deletes nothing");
    scene.run(["prune"]).ok();
    assert!(!name('a').exists() && name('b').exists() && of_lost.exists());
    assert!(findings(&scene).is_empty());
    fs::remove_file(&lost).unwrap();
    scene.run(["prune"]).fails();
    assert!(of_lost.exists());
}

#[test]
fn there_is_no_parity_unless_it_is_asked_for_and_a_prune_takes_it_away_with_its_pack() {
    let plain = Scene::new("plain");
    fs::write(plain.source().join("file"), b"content").unwrap();
    plain.backup(&[]);
    assert!(of_kind(&plain, "parity").is_empty());
    for wrong in ["0%", "101%", "much", "-5%"] {
        plain.run(["-r", "elsewhere", "init", &format!("--parity={wrong}")]).code(2);
    }
    let scene = scene("prune");
    fs::remove_dir_all(scene.source().join("3")).unwrap();
    fs::write(scene.source().join("large"), b"small now").unwrap();
    scene.backup(&[]);
    scene.run(["forget", "--keep-last", "1"]).ok();
    // What is as young as a lease may be somebody's.
    let_files_settle();
    for _ in 0..3 {
        scene.run(["prune", "--now", "--max-unused", "0"]).ok();
        let_files_settle();
    }
    let name = |p: &PathBuf| p.file_name().unwrap().to_owned();
    let mut packs: Vec<_> = of_kind(&scene, "packs").iter().map(name).collect();
    let mut parity: Vec<_> = of_kind(&scene, "parity").iter().map(name).collect();
    packs.sort();
    parity.sort();
    assert_eq!(packs, parity);
    assert!(bytes_of(&scene, "packs") < 1_500_000);
    scene.latest_equals_source();
}
