//! What is saved and what is left out; which snapshot is meant.

use super::scene::Scene;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Writes files, making their folders.
fn write(dir: &Path, names: &[&str]) {
    for name in names {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
}

/// Regular files in the newest snapshot, relative to the source folder, sorted.
fn saved(scene: &Scene) -> BTreeSet<String> {
    let ran = scene.run(["ls", "-R", "--json", "latest"]).ok();
    let source = format!("{}/", scene.source().display());
    let mut names = BTreeSet::new();
    for line in ran.text().lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        if entry["type"] == "file" {
            names.insert(entry["path"].as_str().unwrap().trim_start_matches(&source).to_string());
        }
    }
    names
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|n| n.to_string()).collect()
}

#[test]
fn each_way_to_leave_something_out_does() {
    let scene = Scene::new("exclude");
    let source = scene.source();
    write(
        &source,
        &["a.o", "a.c", "keep.o", "target/x", "sub/target/y", "sub/z.o", "cache/data", "marked/x", "big"],
    );
    fs::write(source.join("cache/CACHEDIR.TAG"), b"Signature: 8a477f597d28d172789f06886806bc55\n").unwrap();
    fs::write(source.join("marked/.nobackup"), b"").unwrap();
    fs::write(source.join("big"), vec![b'b'; 3000]).unwrap();

    scene.backup(&["--exclude", "*.o", "--exclude", "!keep.o", "--exclude", "target/"]);
    let left =
        set(&["a.c", "keep.o", "big", "cache/CACHEDIR.TAG", "cache/data", "marked/.nobackup", "marked/x"]);
    assert_eq!(saved(&scene), left);

    fs::write(scene.path("patterns"), "# no objects\n*.o\n\n/marked\n").unwrap();
    scene.backup(&["--exclude-file", "patterns"]);
    assert!(!saved(&scene).iter().any(|n| n.ends_with(".o")));

    scene.backup(&["--exclude-caches"]);
    assert!(saved(&scene).contains("cache/CACHEDIR.TAG"), "the tag tells why the rest is not there");
    assert!(!saved(&scene).contains("cache/data"));
    scene.backup(&["--exclude-if-present", ".nobackup"]);
    assert!(!saved(&scene).contains("marked/x"));
    assert!(saved(&scene).contains("cache/data"));
    scene.backup(&["--exclude-larger-than", "2k"]);
    assert!(!saved(&scene).contains("big"));
    assert!(saved(&scene).contains("a.c"));
    let anchored = format!("{}/sub", source.display());
    scene.backup(&["--exclude", &anchored]);
    assert!(!saved(&scene).contains("sub/z.o"));
    scene.backup(&[]);
    assert_eq!(saved(&scene).len(), 11);
}

#[test]
fn other_file_systems_stay_out_where_asked() {
    if !super::scene::is_root("the test of --one-file-system") {
        return;
    }
    let scene = Scene::new("one-fs");
    fs::create_dir(scene.source().join("disk")).unwrap();
    scene.shell("mount -t tmpfs -o size=1m none source/disk").ok();
    write(&scene.source(), &["here", "disk/there"]);
    scene.backup(&["--one-file-system"]);
    assert_eq!(saved(&scene), set(&["here"]));
    let listed = scene.run(["ls".into(), format!("latest:{}", scene.source().display())]).ok().text();
    assert!(listed.lines().any(|l| l == "disk"), "the mount point itself is kept");
    // Named beside the folder that it is mounted in, it is saved.
    scene.run(["backup", "-q", "--one-file-system", "source", "source/disk"]).ok();
    assert_eq!(saved(&scene), set(&["here", "disk/there"]));
    scene.backup(&[]);
    assert_eq!(saved(&scene), set(&["here", "disk/there"]));
    scene.shell("umount source/disk").ok();
}

#[test]
fn the_repository_the_cache_and_mounts_of_pastfs_are_not_saved() {
    let scene = Scene::new("itself");
    write(&scene.source(), &["f"]);
    scene.backup(&[]);
    let mount = scene.mount(&[]);
    scene.run(["backup".as_ref(), "-q".as_ref(), scene.dir.as_os_str()]).ok();
    let listed = scene.run(["ls", "-R", "latest"]).ok().text();
    assert!(listed.contains("source/f"));
    for inside in ["repository/", "cache/", "mnt/"] {
        let inside = scene.path(inside).display().to_string();
        assert!(!listed.lines().any(|l| l.starts_with(&inside)), "{inside} was saved");
    }
    mount.unmount();
}

#[test]
fn paths_can_come_from_a_file_and_from_the_standard_input() {
    let scene = Scene::new("files-from");
    write(&scene.dir, &["x/1", "y/2", "z/3"]);
    fs::write(scene.path("list"), "x\n\ny/2\n").unwrap();
    scene.run(["backup", "-q", "--files-from", "list"]).ok();
    let listed = scene.run(["ls", "-R", "latest"]).ok().text();
    assert!(listed.contains("/x/1") && listed.contains("/y/2") && !listed.contains("/z"), "{listed}");
    scene.shell("echo z | \"$0\" backup -q --files-from -").ok();
    let listed = scene.run(["ls", "-R", "latest"]).ok().text();
    assert!(listed.contains("/z/3") && !listed.contains("/x/1"), "{listed}");
}

#[test]
fn overlapping_paths_and_paths_through_dots_are_saved_once() {
    let scene = Scene::new("overlap");
    write(&scene.source(), &["a/b/c", "a/d"]);
    scene.run(["backup", "-q", "source/a/b", "source/./a", "source/a/../a/b/c"]).ok();
    assert_eq!(saved(&scene), set(&["a/b/c", "a/d"]));
    scene.run(["backup", "-q", "source/a", "source/a/bb"]).code(3).says("source/a/bb");
    // What is named is saved, though what it lies in is left out.
    scene.run(["backup", "-q", "source", "source/a/b", "--exclude", "a"]).ok();
    assert_eq!(saved(&scene), set(&["a/b/c"]));
}

#[test]
fn the_output_of_a_program_is_saved_and_its_failure_is_no_snapshot() {
    let scene = Scene::new("command");
    let line = "seq 1 1000000";
    scene.run(["backup", "-q", "--from-command", line, "--as", "numbers.txt"]).ok();
    let ran = scene.shell("\"$0\" cat latest:/numbers.txt | cmp - <(seq 1 1000000)");
    ran.ok();
    assert_eq!(scene.snapshots().len(), 1);
    for bad in ["seq 1 1000; exit 3", "true", "no-such-program-anywhere", "seq 1 100000; kill -9 $$"] {
        scene.run(["backup", "-q", "--from-command", bad, "--as", "bad"]).fails();
        assert_eq!(scene.snapshots().len(), 1, "{bad}");
    }
    let mount = scene.mount(&[]);
    let file = fs::read(mount.dir.join("latest/numbers.txt")).unwrap();
    assert_eq!(file.len(), 6_888_896);
}

#[test]
fn snapshots_are_found_by_id_time_host_tag_and_path() {
    let scene = Scene::new("select");
    write(&scene.source(), &["f"]);
    write(&scene.dir, &["other/g"]);
    let day = |d: u32| format!("2024-03-{d:02} 12:00:00");
    for (d, host, tag, path) in [
        (1, "a", "daily", "source"),
        (2, "b", "daily,big", "source"),
        (3, "a", "weekly", "other"),
        (4, "a", "daily", "source"),
    ] {
        scene.run(["backup", "-q", "--time", &day(d), "--host", host, "--tag", tag, path]).ok();
    }
    let all = scene.snapshots();
    assert_eq!(all.len(), 4);
    let ids: Vec<&str> = all.iter().map(|s| s["id"].as_str().unwrap()).collect();
    let listed = |args: &[&str]| -> Vec<usize> {
        let ran = scene.run(["snapshots", "--json"].iter().chain(args)).ok();
        let list = ran.json();
        let of = |s: &serde_json::Value| ids.iter().position(|i| Some(*i) == s["id"].as_str()).unwrap();
        list.as_array().unwrap().iter().map(of).collect()
    };
    assert_eq!(listed(&["--host", "a"]), [0, 2, 3]);
    assert_eq!(listed(&["--host", "a", "--host", "b"]), [0, 1, 2, 3]);
    assert_eq!(listed(&["--tag", "daily"]), [0, 1, 3]);
    assert_eq!(listed(&["--tag", "daily,big"]), [1]);
    assert_eq!(listed(&["--path", "other"]), [2]);
    assert_eq!(listed(&["--path", "source/f"]), [0, 1, 3]);
    assert_eq!(listed(&["--host", "nobody"]), [0usize; 0]);

    // Which one `cat` reads is seen by the file's own presence.
    let file = |path: &str| format!(":{}", scene.path(path).display());
    let reads = |args: &[&str]| scene.run(std::iter::once(&"cat").chain(args)).orderly().code == Some(0);
    let select = |s: &str, path: &str| reads(&[&(s.to_string() + &file(path))]);
    assert!(select(ids[2], "other/g") && !select(ids[2], "source/f"));
    assert!(select(&ids[2][..12], "other/g"));
    assert!(select("latest", "source/f") && !select("latest", "other/g"));
    assert!(select("2024-03-03", "other/g"), "a date is the end of that day");
    assert!(select("2024-03-02", "source/f") && !select("2024-03-02", "other/g"));
    assert!(select("2024-03-03 11:59", "source/f"), "the newest not later than the time");
    assert!(select("2024-03-03 12:00", "other/g"));
    assert!(select("2024-03-03T12-00-00Z", "other/g"), "the name of a folder in the mount");
    assert!(select("yesterday", "source/f"));
    assert!(select("3 days ago", "source/f"));
    assert!(!select("2024-02-29", "source/f"));
    assert!(reads(&[&format!("latest{}", file("source/f")), "--host", "b"]));
    assert!(reads(&[&format!("latest{}", file("other/g")), "--tag", "weekly"]));
    let table = scene.run(["snapshots"]).ok().text();
    assert!(table.contains("4 snapshots") && table.contains("2024-03-02 12:00:00"), "{table}");
}

#[test]
fn an_id_that_several_snapshots_share_is_refused() {
    let scene = Scene::new("ambiguous");
    write(&scene.source(), &["f"]);
    scene.backup(&[]);
    let id = scene.snapshots()[0]["id"].as_str().unwrap().to_string();
    // Four digits are the least, so two that share them are made by copying the manifest: its name no longer is its
    // hash, and it is told, but never taken for a snapshot.
    let folder = scene.repository().join("snapshots");
    let twin = format!("{}{}", &id[..4], if id.ends_with('0') { "1".repeat(60) } else { "0".repeat(60) });
    fs::copy(folder.join(&id), folder.join(&twin)).unwrap();
    let ran = scene.run(["ls", &twin]).fails();
    assert!(!ran.text().contains("tmp"), "a manifest under a false name was read");
    fs::remove_file(folder.join(&twin)).unwrap();
    scene.run(["ls", &id[..4]]).ok();
    scene.run(["ls", &id[..3]]).code(2);
}
