//! `repair`: what is damaged is mended from what is left, what is lost is said, and nothing else is touched.

use super::pruning::age;
use super::scene::{Draw, Ran, Scene, fill, let_files_settle, same_trees};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const CHECK: &[&str] = &["check", "--json", "--read-data"];

fn write(path: &Path, bytes: &[u8]) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path, bytes).unwrap();
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    write(path, &bytes);
}

fn lines(ran: &Ran, kind: &str) -> Vec<Value> {
    let lines = ran.text();
    let lines = lines.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    lines.filter(|l| l["message_type"] == kind).collect()
}

#[track_caller]
fn findings(scene: &Scene) -> Vec<Value> {
    let ran = scene.run(CHECK).orderly();
    let found = lines(&ran, "finding");
    assert_eq!(ran.code, Some(if found.is_empty() { 0 } else { 4 }), "{}", ran.err);
    found
}

#[track_caller]
fn clean(scene: &Scene) {
    let found = findings(scene);
    assert!(found.is_empty(), "{found:?}");
}

fn of_kind(scene: &Scene, kind: &str) -> Vec<PathBuf> {
    scene.objects().into_iter().filter(|o| o.starts_with(kind)).collect()
}

fn size(scene: &Scene, object: &Path) -> u64 {
    fs::metadata(scene.repository().join(object)).unwrap().len()
}

/// The pack in which most bytes of data lie; others hold trees.
fn largest_pack(scene: &Scene) -> PathBuf {
    of_kind(scene, "packs").into_iter().max_by_key(|p| size(scene, p)).unwrap()
}

/// Small files and a large one, saved in two snapshots of two packs of data each; unchanged since, for the next backup.
/// Beside the source lies a copy of what it was for the first snapshot.
fn scene(name: &str) -> Scene {
    let scene = Scene::new(name);
    let source = scene.source();
    fill(&source, 24, 15_000, 1);
    fs::write(source.join("large"), Draw(2).bytes(2_500_000)).unwrap();
    fs::write(source.join("sparse"), Draw(5).bytes(70_000)).unwrap();
    let_files_settle();
    scene.backup(&[]);
    scene.shell("cp -a source first").ok();
    fs::write(source.join("later"), Draw(3).bytes(100_000)).unwrap();
    let_files_settle();
    scene.backup(&["--tag", "t"]);
    scene
}

/// Both snapshots hold what the source was.
#[track_caller]
fn whole(scene: &Scene) {
    let snapshots = scene.snapshots();
    let id = snapshots[0]["id"].as_str().unwrap();
    let target = scene.restore(&format!("{id}:{}", scene.source().display()));
    same_trees(&scene.path("first"), &target);
    scene.latest_equals_source();
}

#[test]
fn an_index_that_is_lost_is_rebuilt_from_the_packs() {
    for is_warm in [true, false] {
        let scene = scene("index");
        let packs = of_kind(&scene, "packs").len();
        fs::remove_dir_all(scene.repository().join("index")).unwrap();
        if !is_warm {
            fs::remove_dir_all(scene.cache()).unwrap();
        }
        assert!(!findings(&scene).is_empty());
        let before = scene.objects();
        let ran = scene.run(["repair", "index", "--dry-run", "--json"]).orderly();
        assert_eq!(ran.json()["adopted_packs"], packs);
        assert_eq!(before, scene.objects(), "a dry run wrote");
        let summary = scene.run(["repair", "index", "--json"]).ok().json();
        assert_eq!(summary["adopted_packs"], packs);
        assert_eq!(summary["lost_chunks"], 0);
        clean(&scene);
        fs::remove_dir_all(scene.cache()).unwrap();
        clean(&scene);
        whole(&scene);
        // Backups know all of it: what is adopted counts.
        let report = scene.backup(&["--force"]);
        assert!(report["totals"]["new_bytes"].as_u64().unwrap() < 10_000, "{report}");
        let again = scene.run(["repair", "index", "--json"]).ok().json();
        assert_eq!(again["adopted_packs"], 0);
    }
}

#[test]
fn a_damaged_segment_goes_once_its_packs_are_named_by_another() {
    let scene = scene("segment");
    for n in 0..of_kind(&scene, "index").len() {
        for at in [0, 300] {
            let segment = &of_kind(&scene, "index")[n];
            flip(&scene.repository().join(segment), at);
            assert!(!findings(&scene).is_empty());
            let summary = scene.run(["repair", "index", "--json"]).ok().json();
            assert_eq!(summary["deleted_segments"].as_array().unwrap().len(), 1, "{summary}");
            assert!(!scene.repository().join(segment).exists());
            clean(&scene);
            whole(&scene);
        }
    }
}

#[test]
fn what_is_no_object_is_left_and_named() {
    let scene = scene("foreign");
    for stranger in ["index/readme", "packs/ab/holiday.jpg", "desktop.ini"] {
        let path = scene.repository().join(stranger);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, b"what is this?").unwrap();
    }
    let before = scene.objects();
    let ran = scene.run(["repair", "index", "--json"]).code(4);
    assert_eq!(lines(&ran, "left").len(), 3, "{}", ran.text());
    assert_eq!(before, scene.objects());
}

#[test]
fn snapshots_are_written_anew_without_what_is_lost_and_say_so() {
    let scene = scene("anew");
    scene.run(["tag", "--hold", "latest"]).ok();
    scene.shell("cp -a repository sound").ok();
    // The large file and most small ones are in it.
    fs::remove_file(scene.repository().join(largest_pack(&scene))).unwrap();
    let before = scene.objects();
    let ran = scene.run(["repair", "snapshots", "--dry-run", "--json"]).code(4);
    assert_eq!(before, scene.objects(), "a dry run wrote");
    assert_eq!(lines(&ran, "hurt_snapshot").len(), 2);
    let old = scene.snapshots();
    let ran = scene.run(["repair", "snapshots", "--json"]).code(4);
    let mended = lines(&ran, "hurt_snapshot");
    let all = scene.snapshots();
    assert_eq!(all.len(), 4, "{all:?}");
    for (m, old) in mended.iter().zip(&old) {
        let new = all.iter().find(|s| s["id"] == m["new_snapshot_id"]).unwrap();
        for key in ["time", "hostname", "paths", "held"] {
            assert_eq!(new[key], old[key], "{key}");
        }
        let tags: Vec<&str> = new["tags"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
        let mut expected: Vec<&str> =
            old["tags"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
        expected.push("repaired");
        expected.sort_unstable();
        assert_eq!(tags, expected);
        let lost = m["files"].as_array().unwrap();
        assert_eq!(m["files_lost"], lost.len());
        assert!(!lost.is_empty());
        // What is not lost comes back, byte for byte, and restores without an error.
        let id = new["id"].as_str().unwrap();
        let target = scene.restore(&format!("{id}:{}", scene.source().display()));
        for file in lost {
            let path = PathBuf::from(file["path"].as_str().unwrap());
            let below = path.strip_prefix(scene.source()).unwrap();
            assert!(!target.join(below).exists(), "{below:?} is lost and there");
            if below != Path::new("later") {
                fs::copy(scene.path("first").join(below), target.join(below)).unwrap();
            }
        }
        scene
            .shell(&format!(
                "diff -r {} {}",
                if old["tags"].as_array().unwrap().is_empty() { "first" } else { "source" },
                target.display()
            ))
            .ok();
    }
    // Again: the same ones are found, none is written.
    let ran = scene.run(["repair", "snapshots", "--json"]).code(4);
    assert!(lines(&ran, "hurt_snapshot").iter().all(|m| m["was_there"] == true), "{}", ran.text());
    assert_eq!(scene.snapshots().len(), 4);
    // Confirmed: the old ones go, also the one that is held; not before all was tried.
    scene.run(["repair", "snapshots", "--forget"]).code(2).says("pastfs repair index");
    scene.run(["repair", "index"]).code(4);
    scene.run(["repair", "snapshots", "--forget"]).ok();
    let left = scene.snapshots();
    assert_eq!(left.len(), 2);
    assert!(left.iter().all(|s| mended.iter().any(|m| m["new_snapshot_id"] == s["id"])));
    scene.run(["repair", "snapshots"]).ok();
    // The source still has all: a backup stores it again.
    scene.backup(&[]);
    scene.latest_equals_source();
}

#[test]
fn a_page_of_a_folder_that_is_lost_costs_that_folder_alone() {
    let scene = Scene::new("page");
    let source = scene.source();
    for folder in ["same", "other"] {
        fs::create_dir(source.join(folder)).unwrap();
        fs::write(source.join(folder).join("small"), folder).unwrap();
    }
    scene.backup(&[]);
    let first = of_kind(&scene, "packs");
    assert_eq!(first.len(), 1, "there is no data but in trees");
    fs::write(source.join("other/new"), b"new").unwrap();
    scene.backup(&[]);
    fs::remove_file(scene.repository().join(&first[0])).unwrap();
    let ran = scene.run(["repair", "snapshots", "--json"]).code(4);
    let hurt = lines(&ran, "hurt_snapshot");
    assert_eq!(hurt.len(), 2);
    assert_eq!(hurt[0]["nothing_left"], true, "its root is lost: {hurt:?}");
    let lost = hurt[1]["files"].as_array().unwrap();
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert_eq!(lost[0]["path"], source.join("same").to_str().unwrap());
    assert_eq!(scene.snapshots().len(), 3, "nothing is written of nothing");
    let id = hurt[1]["new_snapshot_id"].as_str().unwrap();
    let target = scene.restore(&format!("{id}:{}", source.display()));
    fs::remove_file(source.join("same/small")).unwrap();
    scene.shell(&format!("diff -r source {}", target.display())).ok();
}

/// The id of a pack in its name.
fn id(pack: &Path) -> String {
    pack.file_name().unwrap().to_str().unwrap().to_owned()
}

/// What is lost is told by a check, stored again by the next backup, as the source has not changed, and gone for good from
/// what a check finds.
#[track_caller]
fn heals(scene: &Scene) {
    let stays = heals_but_for_ancestors(scene);
    assert!(stays.is_empty(), "{stays:?}");
    whole(scene);
}

/// The same; what cannot be healed are pages of folders above the source, which have changed since. The snapshots that
/// need them are told.
#[track_caller]
fn heals_but_for_ancestors(scene: &Scene) -> Vec<String> {
    let found = findings(scene);
    assert!(found.iter().all(|f| f["advice"].as_str().unwrap().starts_with("back up again")), "{found:?}");
    assert!(!found.is_empty());
    let report = scene.backup(&[]);
    assert!(report["stored_again"].as_u64().unwrap() > 0, "{report}");
    scene.latest_equals_source();
    let mut hurt = Vec::new();
    for file in findings(scene).iter().flat_map(|f| f["files"].as_array().unwrap()) {
        let path = Path::new(file["path"].as_str().unwrap());
        assert!(scene.source().starts_with(path) && scene.source() != path, "{file}");
        hurt.extend(file["snapshots"].as_array().unwrap().iter().map(|s| s.as_str().unwrap().to_owned()));
    }
    let report = scene.backup(&[]);
    assert_eq!(report["totals"]["read_files"], 0, "{report}");
    hurt.sort();
    hurt.dedup();
    hurt
}

/// As [`heals`]; snapshots that cannot be whole again are forgotten, as the advice says, and all is clean.
#[track_caller]
fn heals_or_is_forgotten(scene: &Scene) {
    let stays = heals_but_for_ancestors(scene);
    if stays.is_empty() {
        return whole(scene);
    }
    scene.run(["repair", "snapshots", "--forget"]).orderly();
    let there: Vec<String> = scene.snapshots().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect();
    for id in stays.iter().filter(|id| there.contains(id)) {
        scene.run(["forget", id]).ok();
    }
    clean(scene);
    scene.latest_equals_source();
}

#[test]
fn of_a_damaged_pack_all_but_the_damaged_frame_is_saved_and_a_backup_heals_the_rest() {
    for is_named in [true, false] {
        let scene = scene("flip");
        let pack = largest_pack(&scene);
        flip(&scene.repository().join(&pack), size(&scene, &pack) as usize / 2);
        let found = findings(&scene);
        assert_eq!(found.len(), 1, "{found:?}");
        let command = format!("pastfs repair packs {}", id(&pack));
        assert!(found[0]["advice"].as_str().unwrap().contains(&command), "{found:?}");
        let pack_id = id(&pack);
        let which = if is_named { pack_id.as_str() } else { "--read-data" };
        let before = scene.objects();
        scene.run(["repair", "packs", which, "--dry-run"]).code(4);
        assert_eq!(before, scene.objects(), "a dry run wrote");
        let ran = scene.run(["repair", "packs", which, "--json"]).code(4);
        let damaged = lines(&ran, "damaged_pack");
        assert_eq!(damaged.len(), 1);
        assert_eq!(damaged[0]["lost_frames"], 1, "{damaged:?}");
        let (lost, saved) = (&damaged[0]["lost_chunks"], &damaged[0]["stored_chunks"]);
        assert!(saved.as_u64().unwrap() > 5 * lost.as_u64().unwrap(), "{damaged:?}");
        assert_eq!(ran.json()["lost_chunks"], *lost);
        assert!(scene.repository().join(&pack).exists(), "it is deleted by a prune alone");
        // Again: it is retired, and nothing else is damaged; what is lost stays so.
        let ran = scene.run(["repair", "packs", "--read-data", "--json"]).code(4);
        assert!(lines(&ran, "damaged_pack").is_empty());
        // What is noted as lost stays noted until it is there again.
        let noted = || of_kind(&scene, "notes").len();
        assert_eq!(noted(), 1);
        scene.run(["prune"]).ok();
        assert_eq!(noted(), 1);
        heals(&scene);
        fs::remove_file(scene.repository().join(&pack)).unwrap();
        clean(&scene);
        whole(&scene);
        scene.run(["prune"]).ok();
        assert_eq!(noted(), 1, "whoever works since yesterday may have read it");
        age(&scene, 3 * 24 * 3600);
        scene.run(["prune"]).ok();
        assert_eq!(noted(), 0);
        let told = scene.run(["snapshots"]).ok().err;
        assert!(told.is_empty(), "{told}");
        clean(&scene);
        whole(&scene);
    }
}

#[test]
fn damage_that_hits_no_frame_costs_nothing() {
    let scene = scene("padding");
    let pack = largest_pack(&scene);
    flip(&scene.repository().join(&pack), size(&scene, &pack) as usize - 40);
    assert_eq!(findings(&scene).len(), 1);
    let summary = scene.run(["repair", "packs", "--read-data", "--json"]).ok().json();
    assert_eq!(summary["lost_chunks"], 0);
    fs::remove_file(scene.repository().join(&pack)).unwrap();
    clean(&scene);
    whole(&scene);
}

#[test]
fn of_packs_that_are_cut_short_the_rest_is_saved() {
    let scene = scene("cut");
    scene.shell("cp -a repository sound && cp -a cache warm").ok();
    let packs = of_kind(&scene, "packs");
    assert_eq!(packs.len(), 4, "data and trees, twice");
    for pack in &packs {
        scene.shell("rm -rf repository cache && cp -a sound repository && cp -a warm cache").ok();
        let path = scene.repository().join(pack);
        let bytes = fs::read(&path).unwrap();
        write(&path, &bytes[..bytes.len() / 2]);
        // Without a word of which: its size tells.
        let ran = scene.run(["repair", "packs", "--json"]).orderly();
        let damaged = lines(&ran, "damaged_pack");
        assert_eq!(damaged.len(), 1, "{}", ran.text());
        let is_hurt = damaged[0]["lost_frames"].as_u64().unwrap() > 0;
        assert_eq!(ran.code, Some(if is_hurt { 4 } else { 0 }), "{}", ran.text());
        if is_hurt {
            heals_or_is_forgotten(&scene);
        } else {
            clean(&scene);
            whole(&scene);
        }
    }
}

#[test]
fn packs_that_are_gone_are_taken_out_of_the_index_and_a_backup_heals_what_they_held() {
    let scene = scene("gone");
    scene.shell("cp -a repository sound && cp -a cache warm").ok();
    for pack in of_kind(&scene, "packs") {
        scene.shell("rm -rf repository cache && cp -a sound repository && cp -a warm cache").ok();
        fs::remove_file(scene.repository().join(&pack)).unwrap();
        let found = findings(&scene);
        assert!(
            found.iter().any(|f| f["advice"].as_str().unwrap().contains("`pastfs repair index`")),
            "{found:?}"
        );
        let before = scene.objects();
        let ran = scene.run(["repair", "index", "--dry-run", "--json"]).orderly();
        assert_eq!(ran.json()["absent_packs"].as_array().unwrap().len(), 1);
        assert_eq!(before, scene.objects(), "a dry run wrote");
        let ran = scene.run(["repair", "index", "--json"]).code(4);
        assert_eq!(ran.json()["absent_packs"][0], id(&pack), "{}", ran.text());
        heals_or_is_forgotten(&scene);
    }
}

#[test]
fn a_place_that_shows_no_pack_at_all_is_not_repaired() {
    let scene = scene("unmounted");
    let packs = scene.repository().join("packs");
    fs::rename(&packs, scene.path("elsewhere")).unwrap();
    let before = scene.objects();
    scene.run(["repair", "index"]).code(4).says("is all of the storage there?");
    fs::rename(scene.path("elsewhere"), &packs).unwrap();
    assert_eq!(of_kind(&scene, "index").len(), before.iter().filter(|o| o.starts_with("index")).count());
    clean(&scene);
}

#[test]
fn of_packs_that_no_segment_names_and_that_are_damaged_the_rest_is_saved() {
    let scene = scene("both");
    let pack = largest_pack(&scene);
    flip(&scene.repository().join(&pack), size(&scene, &pack) as usize / 2);
    fs::remove_dir_all(scene.repository().join("index")).unwrap();
    scene.run(["repair", "snapshots"]).code(2).says("pastfs repair index");
    let ran = scene.run(["repair", "index", "--json"]).code(4);
    let damaged = lines(&ran, "damaged_pack");
    assert_eq!(damaged.len(), 1);
    assert_eq!(damaged[0]["lost_frames"], 1);
    assert_eq!(damaged[0]["stored_chunks"], damaged[0]["whole_chunks"]);
    heals(&scene);
    let summary = scene.run(["repair", "index", "--json"]).ok().json();
    assert_eq!(summary["damaged_packs"], 0, "it is retired, and not read again");
}

#[test]
fn what_was_retired_stays_so_when_the_index_is_rebuilt() {
    let scene = scene("retired");
    let pack = largest_pack(&scene);
    // The padding: all of its chunks are whole.
    flip(&scene.repository().join(&pack), size(&scene, &pack) as usize - 40);
    scene.run(["repair", "packs", &id(&pack)]).ok();
    // With it the cache is written.
    fs::write(scene.source().join("more"), Draw(9).bytes(100_000)).unwrap();
    let_files_settle();
    scene.backup(&[]);
    fs::remove_dir_all(scene.repository().join("index")).unwrap();
    let packs = of_kind(&scene, "packs").len();
    let summary = scene.run(["repair", "index", "--json"]).ok().json();
    assert_eq!(summary["adopted_packs"], packs - 1, "{summary}");
    assert_eq!(summary["retired_again"], 1, "{summary}");
    clean(&scene);
    whole(&scene);
}

#[test]
fn a_repair_that_is_killed_is_finished_by_the_next() {
    killed(5, 20);
    killed_anew(5, 20);
}

#[test]
#[ignore = "minutes: a repair killed at each of 80 moments"]
fn repairs_that_are_killed_at_any_moment_are_finished_by_the_next() {
    killed(80, 2);
    killed_anew(80, 2);
}

/// So many times, each so many milliseconds later.
fn killed(rounds: u64, step: u64) {
    let scene = scene("killed");
    let pack = largest_pack(&scene);
    flip(&scene.repository().join(&pack), size(&scene, &pack) as usize / 2);
    scene.shell("cp -a repository hurt && cp -a cache warm").ok();
    for command in [["repair", "packs", "--read-data"], ["repair", "index", "-q"]] {
        for wait in 0..rounds {
            scene.shell("rm -rf repository cache && cp -a hurt repository && cp -a warm cache").ok();
            if command[1] == "index" {
                fs::remove_dir_all(scene.repository().join("index")).unwrap();
            }
            let running = scene.start(scene.command(command));
            std::thread::sleep(std::time::Duration::from_millis(step * wait));
            running.signal(libc::SIGKILL);
            running.wait();
            let ran = scene.run(command).orderly();
            assert!(matches!(ran.code, Some(0 | 4)), "{}", ran.err);
            heals(&scene);
        }
    }
}

#[test]
fn long_files_and_extended_attributes_lose_no_more_than_is_lost() {
    let scene = Scene::new("attributes");
    let source = scene.source();
    fs::write(source.join("plain"), b"plain").unwrap();
    fs::write(source.join("long"), Draw(3).bytes(12_000_000)).unwrap();
    let value: Vec<u8> = Draw(4).bytes(3000).iter().map(|b| b'a' + b % 26).collect();
    for name in ["lost", "kept"] {
        let value = if name == "lost" { &value[..] } else { b"short" };
        rustix::fs::setxattr(
            source.join("plain"),
            format!("user.{name}"),
            value,
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
    }
    let_files_settle();
    scene.backup(&[]);
    scene.shell("cp -a repository sound && cp -a cache warm").ok();
    for pack in of_kind(&scene, "packs") {
        scene.shell("rm -rf repository cache && cp -a sound repository && cp -a warm cache").ok();
        let bytes = fs::read(scene.repository().join(&pack)).unwrap();
        // All of its frames.
        let mut bad = bytes.clone();
        for at in (200..bytes.len()).step_by(1000) {
            bad[at] ^= 1;
        }
        write(&scene.repository().join(&pack), &bad);
        scene.run(["repair", "snapshots", "--read-data", "--forget"]).code(2).says("repair packs");
        scene.run(["repair", "packs", "--read-data"]).code(4);
        let ran = scene.run(["repair", "snapshots", "--json"]).code(4);
        let mended = lines(&ran, "hurt_snapshot");
        if mended[0]["nothing_left"] == true {
            scene.backup(&[]);
            scene.latest_equals_source();
            continue;
        }
        let files: Vec<(&str, &str)> = mended[0]["files"]
            .as_array()
            .unwrap()
            .iter()
            .map(|f| (f["path"].as_str().unwrap(), f["reason"].as_str().unwrap()))
            .collect();
        let has = |name: &str, reason: &str| {
            files.iter().any(|(p, r)| Path::new(p) == source.join(name) && r.contains(reason))
        };
        assert!(has("long", "content") && has("plain", "user.lost") && files.len() == 2, "{files:?}");
        let id = mended[0]["new_snapshot_id"].as_str().unwrap();
        let target = scene.restore(&format!("{id}:{}", source.display()));
        assert_eq!(fs::read(target.join("plain")).unwrap(), b"plain");
        let mut buffer = [0u8; 100];
        let n = rustix::fs::getxattr(target.join("plain"), "user.kept", &mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"short");
        assert!(rustix::fs::getxattr(target.join("plain"), "user.lost", &mut buffer).is_err());
        // The next backup has it for its parent, and takes nothing for whole that is not.
        heals_alone(&scene);
    }
}

#[track_caller]
fn heals_alone(scene: &Scene) {
    scene.backup(&[]);
    scene.latest_equals_source();
    clean(scene);
}

/// Snapshots are written anew once, however often that is begun.
fn killed_anew(rounds: u64, step: u64) {
    let scene = scene("killed-anew");
    fs::remove_file(scene.repository().join(largest_pack(&scene))).unwrap();
    scene.run(["repair", "index", "-q"]).code(4);
    scene.shell("cp -a repository hurt && cp -a cache warm").ok();
    for wait in 0..rounds {
        scene.shell("rm -rf repository cache && cp -a hurt repository && cp -a warm cache").ok();
        let running = scene.start(scene.command(["repair", "snapshots"]));
        std::thread::sleep(std::time::Duration::from_millis(step * wait));
        running.signal(libc::SIGKILL);
        running.wait();
        scene.run(["repair", "snapshots"]).code(4);
        assert_eq!(scene.snapshots().len(), 4, "killed after {} ms", step * wait);
        scene.run(["repair", "snapshots", "--forget"]).ok();
        assert_eq!(scene.snapshots().len(), 2);
        let found = findings(&scene);
        assert!(found.is_empty(), "{found:?}");
    }
}

#[test]
fn a_prune_deletes_damaged_packs_once_what_is_lost_is_stored_again_or_left_out() {
    let prune = ["prune", "--now"];
    for is_there in [true, false] {
        let scene = scene("ended");
        let pack = largest_pack(&scene);
        flip(&scene.repository().join(&pack), size(&scene, &pack) as usize / 2);
        scene.run(["repair", "packs", &id(&pack)]).code(4);
        if !is_there {
            fs::remove_file(scene.source().join("large")).unwrap();
        }
        let ran = scene.run(prune).orderly();
        assert_ne!(ran.code, Some(0), "{}", ran.text());
        assert!(scene.repository().join(&pack).exists(), "what may still be read of it is kept");
        scene.backup(&[]);
        if is_there {
            whole(&scene);
        } else {
            scene.run(prune).orderly();
            assert!(scene.repository().join(&pack).exists());
            scene.run(["repair", "snapshots", "--forget"]).ok();
        }
        scene.run(prune).ok();
        assert!(!scene.repository().join(&pack).exists());
        clean(&scene);
        scene.latest_equals_source();
        fs::remove_dir_all(scene.cache()).unwrap();
        clean(&scene);
    }
}
