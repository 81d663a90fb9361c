//! Segments that do not agree: one says of a pack what is not so, with a signature that counts. Nobody is served a wrong byte,
//! nothing is deleted on such a word, a check tells, and a repair asks the packs.

use super::pruning::age;
use super::scene::{Scene, differences, fill, let_files_settle, same_trees};
use super::thief::Thief;
use pastfs::format::object::{Kind, RETIREMENT_CONTEXT};
use pastfs::format::pack::PackEntry;
use pastfs::format::segment::Retirement;
use pastfs::id::{PackId, SessionId};
use std::fs;

/// Makes the first two chunks of the first frame that has several one byte longer and shorter.
fn twisted(mut entry: PackEntry) -> Option<PackEntry> {
    let lens = &mut entry.frames.iter_mut().find(|f| f.chunks.len() > 1)?.chunks;
    lens[0] += 1;
    lens[1] -= 1;
    Some(entry)
}

/// A repository with files that share frames, and somebody who lies with a full key.
fn scene(name: &str) -> (Scene, Thief) {
    let scene = Scene::new(name);
    fill(&scene.source(), 12, 9000, 1);
    fs::write(scene.source().join("large"), super::scene::Draw(2).bytes(700_000)).unwrap();
    let_files_settle();
    scene.backup(&[]);
    let thief = Thief::with(&scene.repository(), &scene.key());
    (scene, thief)
}

fn packs(scene: &Scene) -> usize {
    scene.objects().iter().filter(|o| o.starts_with("packs")).count()
}

fn tells(scene: &Scene, args: &[&str], what: &str) {
    let ran = scene.run(args).code(4);
    assert!(ran.text().contains(what) || ran.err.contains(what), "{} {}", ran.text(), ran.err);
}

/// All is well, also through a cache that knows nothing.
fn is_well(scene: &Scene) {
    for _ in 0..2 {
        scene.run(["check", "-q", "--read-data"]).ok();
        scene.latest_equals_source();
        fs::remove_dir_all(scene.cache()).unwrap();
    }
    scene.run(["prune", "-q", "--grace", "0", "--max-unused", "0"]).ok();
    scene.run(["check", "-q", "--read-data"]).ok();
}

#[test]
fn a_lie_beside_the_truth_misleads_nobody_and_a_repair_of_the_index_ends_it() {
    let (scene, thief) = scene("beside");
    let lies: Vec<PackEntry> = thief.entries().into_iter().filter_map(twisted).collect();
    assert!(!lies.is_empty());
    let before = thief.entries().len();
    thief.says(&lies);
    tells(&scene, &["check"], "do not agree");
    let is_new = [true, false];
    for is_new in is_new {
        if is_new {
            fs::remove_dir_all(scene.cache()).unwrap();
        }
        scene.latest_equals_source();
        let mount = scene.mount(&[]);
        same_trees(&scene.source(), &scene.source_in(&mount.dir));
        mount.unmount();
        scene.backup(&["--force"]);
        scene.latest_equals_source();
    }
    let there = packs(&scene);
    let ran = scene.run(["prune", "--grace", "0", "--max-unused", "0"]).fails();
    assert!(ran.err.contains("do not agree") && ran.err.contains("repair index"), "{}", ran.err);
    assert_eq!(packs(&scene), there, "a prune deleted on a word that others deny");
    let dry = scene.run(["repair", "index", "-n"]).orderly();
    assert!(dry.text().contains("would be set right"), "{} {}", dry.text(), dry.err);
    tells(&scene, &["check"], "do not agree");
    let ran = scene.run(["repair", "index"]).ok();
    assert!(ran.text().contains("set right: what segments say"), "{}", ran.text());
    assert!(thief.entries().iter().all(|e| !lies.contains(e)), "the lie is there still");
    assert!(thief.entries().len() >= before);
    is_well(&scene);
}

/// What is retired must not seem to be there, in no list.
#[test]
fn a_lie_among_retirements_stays_for_an_hour_after_it_was_replaced_and_goes_then() {
    let (scene, thief) = scene("retirements");
    let lie = thief.entries().into_iter().find_map(twisted).unwrap();
    let retirement = Retirement {
        pack: PackId([7; 32]),
        sweep: SessionId([9; 16]),
        retired: 1,
        deleted: None,
        unknown: Default::default(),
    };
    let said = thief.vouched(Kind::Pack.context(), lie.encode());
    thief.segment(vec![said], vec![thief.vouched(RETIREMENT_CONTEXT, retirement.encode())]);
    let left = scene.run(["repair", "index"]).code(4).text();
    assert!(left.contains("an hour from now"), "{left}");
    let segments = || scene.objects().iter().filter(|o| o.starts_with("index")).count();
    let before = segments();
    assert!(thief.entries().contains(&lie));
    scene.run(["repair", "index"]).code(4);
    assert_eq!(segments(), before + 1, "what was replaced is replaced again");
    scene.latest_equals_source();
    age(&scene, 2 * 3600);
    scene.run(["repair", "index"]).ok();
    assert!(!thief.entries().contains(&lie));
    is_well(&scene);
}

/// Of a pack that lies elsewhere: the ids of chunks that another pack holds, with other lengths.
#[test]
fn a_pack_that_is_said_to_hold_the_chunks_of_another_takes_nothing_from_it() {
    let (scene, thief) = scene("another");
    let truth = thief.entries();
    // Below the smallest that is cut, so that it is one chunk whatever the key of the repository makes of it.
    let one = pastfs::chunk::DEFAULT_MIN as usize - 1;
    fs::write(scene.source().join("0/new"), super::scene::Draw(5).bytes(one)).unwrap();
    scene.backup(&[]);
    let of_new = thief.entries().into_iter().find(|e| !truth.contains(e) && e.frames[0].chunks.len() == 1);
    let (mut lie, victim) = (of_new.unwrap(), truth.iter().find(|e| e.ids.len() > 5).unwrap());
    let true_of_new = lie.clone();
    lie.ids[0] = victim.ids[1];
    thief.says(&[lie]);
    tells(&scene, &["check"], "do not agree");
    fs::remove_dir_all(scene.cache()).unwrap();
    scene.latest_equals_source();
    scene.run(["prune", "--grace", "0", "--max-unused", "0"]).fails();
    scene.run(["repair", "index", "-q"]).ok();
    assert!(thief.entries().contains(&true_of_new));
    is_well(&scene);
}

/// The truth is in no segment any more.
#[test]
fn a_lie_instead_of_the_truth_serves_no_wrong_byte_and_a_repair_of_packs_finds_the_truth() {
    for heals_by_backup in [true, false] {
        let (scene, thief) = scene("instead");
        let all = thief.entries();
        let lies: Vec<PackEntry> = all.iter().map(|e| twisted(e.clone()).unwrap_or(e.clone())).collect();
        for segment in fs::read_dir(scene.repository().join("index")).unwrap() {
            fs::remove_file(segment.unwrap().path()).unwrap();
        }
        thief.says(&lies);
        fs::remove_dir_all(scene.cache()).unwrap();
        // Trees may be hit as well, by their own twisted frames.
        let ran = scene.run(["restore", "-q", "latest", "--target", "out"]).orderly();
        let inside = scene.path("out").join(scene.source().strip_prefix("/").unwrap());
        if ran.code == Some(0) {
            assert!(differences(&scene.source(), &inside, &[]).is_empty());
        }
        for n in 0..12 {
            let name = format!("{n}/{n}");
            if let Ok(bytes) = fs::read(inside.join(&name)) {
                let whole = fs::read(scene.source().join(&name)).unwrap();
                assert!(bytes == whole || bytes.is_empty() || bytes.iter().all(|b| *b == 0), "{name}");
            }
        }
        assert_eq!(scene.run(["check", "-q"]).orderly().code, Some(4));
        tells(&scene, &["check", "--read-data"], "a segment says of it what is not so");
        if heals_by_backup {
            // What is not where it should be is stored again.
            scene.backup(&["--force"]);
            scene.latest_equals_source();
        }
        let there = packs(&scene);
        let ran = scene.run(["repair", "packs", "--read-data"]).ok();
        assert!(ran.text().contains("what a segment said of it was set right"), "{}", ran.text());
        assert_eq!(packs(&scene), there);
        assert!(all.iter().all(|e| thief.entries().contains(e)));
        is_well(&scene);
    }
}
