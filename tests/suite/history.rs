//! Looking through time without a mount, and finding the way into one: versions, find, diff, yesterday.

use super::scene::{Ran, Scene};
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// A backup of the source folder at noon of a day in March 2024.
fn save(scene: &Scene, day: u32, more: &[&str]) {
    let time = format!("2024-03-{day:02} 12:00:00");
    let mut args = vec!["--time", &time];
    args.extend(more);
    scene.backup(&args);
}

/// Writes a file whose mtime is noon of a day in January 2024.
fn write(path: PathBuf, text: &str, day: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    let time = format!("2024-01-{day:02} 12:00:00 UTC");
    let touched = std::process::Command::new("touch").arg("-d").arg(time).arg(&path).status().unwrap();
    assert!(touched.success());
}

/// One object for each line.
fn objects(ran: &Ran) -> Vec<Value> {
    ran.text().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// `first last snapshots` of all versions, in days of March.
fn spans(object: &Value) -> Vec<(u32, u32, u64)> {
    let day = |v: &Value| v.as_str().unwrap()[8..10].parse().unwrap();
    let of = |v: &Value| (day(&v["first"]), day(&v["last"]), v["snapshots"].as_u64().unwrap());
    object["versions"].as_array().unwrap().iter().map(of).collect()
}

#[test]
fn a_file_has_the_versions_that_it_had_and_a_deleted_one_is_found() {
    let scene = Scene::new("versions");
    let source = scene.source();
    write(source.join("f.txt"), "first", 1);
    write(source.join("d/gone"), "gone", 1);
    save(&scene, 1, &[]);
    write(source.join("f.txt"), "second one", 2);
    save(&scene, 2, &[]);
    // What comes back is no new version.
    write(source.join("f.txt"), "first", 1);
    fs::remove_file(source.join("d/gone")).unwrap();
    save(&scene, 3, &[]);
    save(&scene, 4, &[]);

    let f = scene.run(["versions", "--json", "source/f.txt"]).ok().json();
    assert_eq!(spans(&f), [(1, 4, 3), (2, 2, 1)]);
    assert_eq!((&f["deleted"], &f["snapshots"]), (&Value::from(false), &Value::from(4)));
    assert_eq!(f["path"], source.join("f.txt").to_str().unwrap());
    assert_eq!(f["versions"][1]["size"], 10);
    let text = scene.run(["versions", "source/f.txt"]).ok().text();
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(text.contains("2024-03-02 12:00:00  2024-03-02 12:00:00          1  10 B"), "{text}");

    let gone = source.join("d/gone");
    for args in [["versions", "--json"], ["find", "--json"]] {
        let what = if args[0] == "find" { OsStr::new("go?e") } else { gone.as_os_str() };
        let found = scene.run([args[0].as_ref(), args[1].as_ref(), what]).ok().json();
        assert_eq!(found["path"], gone.to_str().unwrap());
        assert_eq!((spans(&found), &found["deleted"]), (vec![(1, 2, 2)], &Value::from(true)));
    }
    let text = scene.run([OsStr::new("versions"), gone.as_os_str()]).ok().text();
    assert!(text.contains("deleted: the snapshot of 2024-03-04 12:00:00 does not have it"), "{text}");
    let listed = scene.run(["versions", "source/d"]).ok().text();
    assert!(listed.lines().any(|l| l.ends_with("  gone  (deleted)")), "{listed}");

    // What it says of the mount is so.
    let mount = scene.mount(&[]);
    let second = f["versions"][1]["in_mount"].as_str().unwrap();
    assert_eq!(fs::read(mount.dir.join(second)).unwrap(), b"second one");
    mount.unmount();
}

#[test]
fn find_matches_names_paths_types_sizes_and_times() {
    let scene = Scene::new("find");
    let source = scene.source();
    write(source.join("a/Report.odt"), "x", 1);
    write(source.join("a/b/report.odt"), &"y".repeat(3000), 5);
    write(source.join("c/other"), "z", 9);
    std::os::unix::fs::symlink("other", source.join("c/link.odt")).unwrap();
    save(&scene, 1, &[]);
    fs::remove_dir_all(source.join("a/b")).unwrap();
    save(&scene, 2, &[]);
    let found = |args: &[&str]| -> Vec<String> {
        let ran = scene.run(["find", "-q"].iter().chain(args)).orderly();
        assert_eq!(ran.code, Some(if ran.out.is_empty() { 1 } else { 0 }), "{args:?}");
        let below = format!("{}/", source.display());
        ran.text().lines().map(|l| l.trim_start_matches(&below).to_string()).collect()
    };
    assert_eq!(found(&["*.odt"]), ["a/Report.odt", "a/b/report.odt", "c/link.odt"]);
    assert_eq!(found(&["report.*"]), ["a/b/report.odt"]);
    assert_eq!(found(&["-i", "report.*"]), ["a/Report.odt", "a/b/report.odt"]);
    assert_eq!(found(&["source/*/*.odt"]), ["a/Report.odt", "c/link.odt"]);
    assert_eq!(found(&["/**/source/**/*.odt", "--type", "f"]), ["a/Report.odt", "a/b/report.odt"]);
    assert_eq!(found(&["*", "--type", "l"]), ["c/link.odt"]);
    assert_eq!(found(&["?", "--type", "d"]), ["a", "a/b", "c"]);
    assert_eq!(found(&["*", "--larger", "2k"]), ["a/b/report.odt"]);
    assert_eq!(found(&["*o*", "--smaller", "1", "--older", "2024-01-05"]), ["a/Report.odt"]);
    assert_eq!(found(&["*o*", "--type", "f", "--newer", "2024-01-05"]), ["a/b/report.odt", "c/other"]);
    assert_eq!(found(&["--deleted", "*"]), ["a/b", "a/b/report.odt"]);
    // What shrank or was replaced is not gone.
    write(source.join("c/other"), "longer", 9);
    save(&scene, 3, &[]);
    assert!(found(&["other", "--smaller", "2", "--deleted"]).is_empty());
    let ran = scene.run(["find", "--json", "other", "--smaller", "2"]).ok().json();
    assert_eq!((spans(&ran), &ran["deleted"]), (vec![(1, 2, 2)], &Value::from(false)));
    assert_eq!(found(&["other", "Report.odt"]), ["a/Report.odt", "c/other"]);
    assert_eq!(found(&["*.odt", "--below", "source/c"]), ["c/link.odt"]);
    assert_eq!(found(&["report.odt", "--path", "source/a/b/report.odt"]), ["a/b/report.odt"]);
    assert!(found(&["nothing like it"]).is_empty());
    let text = scene.run(["find", "other"]).ok().text();
    assert!(text.contains("    2024-03-01 12:00:00 to 2024-03-02 12:00:00, 2 snapshots, 1 B\n    2024-03-03 12:00:00, 1 snapshot, 6 B\n"), "{text}");
    let folder = scene.run(["find", "--json", "b"]).ok().json();
    assert_eq!((&folder["folder"]["snapshots"], &folder["deleted"]), (&Value::from(1), &Value::from(true)));
}

#[test]
fn a_path_is_deleted_by_what_its_own_host_saved_of_it() {
    let scene = Scene::new("hosts");
    let source = scene.source();
    write(source.join("f"), "f", 1);
    write(scene.path("other/g"), "g", 1);
    save(&scene, 1, &["--host", "a"]);
    save(&scene, 2, &["--host", "b"]);
    let deleted = |path: &str| scene.run(["versions", "--json", path]).ok().json()["deleted"] == true;
    // A newer snapshot of other paths says nothing of this one.
    scene.run(["backup", "-q", "--time", "2024-03-03 12:00:00", "--host", "a", "other"]).ok();
    assert!(!deleted("source/f") && !deleted("other/g"));
    fs::remove_file(source.join("f")).unwrap();
    // Nor does one of a host that never had it.
    save(&scene, 4, &["--host", "c"]);
    assert!(!deleted("source/f"));
    save(&scene, 5, &["--host", "b"]);
    let text = scene.run(["versions", "source/f"]).ok().text();
    assert!(text.contains("deleted: the snapshot of 2024-03-05 12:00:00 of b does not have it\n"), "{text}");
    assert!(scene.run(["versions", "--host", "a", "source/f"]).ok().text().lines().count() == 2);
    scene.run(["versions", "--host", "c", "source/f"]).code(1).says("no snapshot has");
    scene.run(["versions", "--host", "nobody", "source/f"]).code(1).says("passes the filters");
}

#[test]
fn a_name_can_have_been_a_folder_and_need_not_be_text() {
    let scene = Scene::new("guises");
    let source = scene.source();
    let odd = OsString::from_vec(b"odd\n\xff\xfe".to_vec());
    write(source.join("n/inside"), "x", 1);
    write(source.join(&odd), "odd", 1);
    save(&scene, 1, &[]);
    fs::remove_dir_all(source.join("n")).unwrap();
    write(source.join("n"), "now a file", 2);
    save(&scene, 2, &[]);
    let all = objects(&scene.run(["versions", "--json", "source/n"]).ok());
    assert_eq!((spans(&all[0]), &all[0]["folder"]["snapshots"]), (vec![(2, 2, 1)], &Value::from(1)));
    assert_eq!(all[1]["path"], source.join("n/inside").to_str().unwrap());
    assert_eq!(all[1]["deleted"], true);

    let pattern = OsString::from_vec(b"*\xff?".to_vec());
    let found = scene.run(["find".into(), "--json".into(), pattern]).ok().json();
    let hex = found["path_hex"].as_str().unwrap();
    assert_eq!(hex, pastfs::id::hex(source.join(&odd).as_os_str().as_bytes()));
    assert_eq!(found["versions"][0]["type"], "file");
    let text = scene.run(["find", "-q", "odd*"]).ok().text();
    assert!(text.ends_with("odd\\n\\xff\\xfe\n"), "{text}");
    let listed = scene.run([OsStr::new("versions"), source.join(&odd).as_os_str()]).ok();
    assert!(listed.text().contains("3 B"));
    // Of a folder all that ever was in it, once each.
    let names = objects(&scene.run(["versions", "--json", "source"]).ok());
    assert_eq!(names.len(), 3);
}

#[test]
fn damage_in_one_snapshot_does_not_hide_the_others() {
    let scene = Scene::new("history-damage");
    let source = scene.source();
    write(source.join("d/f"), "first", 1);
    save(&scene, 1, &[]);
    let before = scene.objects();
    write(source.join("d/f"), "second", 2);
    save(&scene, 2, &[]);
    let lost: Vec<PathBuf> =
        scene.objects().into_iter().filter(|o| o.starts_with("packs") && !before.contains(o)).collect();
    assert!(!lost.is_empty());
    write(source.join("d/f"), "third", 3);
    save(&scene, 3, &[]);
    let second = scene.snapshots()[1]["short_id"].as_str().unwrap().to_string();
    for pack in &lost {
        fs::remove_file(scene.repository().join(pack)).unwrap();
    }
    let file = source.join("d/f");
    let commands: [&[&OsStr]; 3] = [
        &["find".as_ref(), "--json".as_ref(), "f".as_ref()],
        &["versions".as_ref(), "--json".as_ref(), file.as_os_str()],
        &["find".as_ref(), "--json".as_ref(), "f".as_ref(), "--below".as_ref(), source.as_os_str()],
    ];
    for args in commands {
        let ran = scene.run(args).code(4).says(&second);
        assert_eq!(spans(&ran.json()), [(1, 1, 1), (3, 3, 1)], "{}", ran.line);
    }
    // What is not there may be where nobody could look.
    scene.run(["versions", "source/d/nothing"]).code(4).says("no snapshot has");
    scene.run(["find", "nothing"]).code(4);
    scene.run(["diff", "2024-03-01", "2024-03-03"]).ok();
    scene.run(["diff", "2024-03-01", "2024-03-02"]).code(4);
}

#[test]
fn a_comparison_tells_each_kind_of_difference() {
    let scene = Scene::new("diff");
    let source = scene.source();
    for name in ["removed", "content", "mode", "touched", "xattr", "same", "type", "folder/sub/x"] {
        write(source.join(name), name, 1);
    }
    save(&scene, 1, &[]);
    fs::remove_file(source.join("removed")).unwrap();
    write(source.join("content"), "another", 1);
    write(source.join("touched"), "touched", 2);
    scene.shell("chmod 600 source/mode; setfattr -n user.a -v b source/xattr").ok();
    fs::remove_file(source.join("type")).unwrap();
    std::os::unix::fs::symlink("content", source.join("type")).unwrap();
    write(source.join("added/one"), "12345", 1);
    write(source.join("added/two"), "", 1);
    fs::remove_dir_all(source.join("folder/sub")).unwrap();
    save(&scene, 2, &[]);

    let lines = |args: &[&str]| -> Vec<String> {
        let text = scene.run(std::iter::once(&"diff").chain(args)).ok().text();
        text.replace(&format!("{}", source.display()), "").lines().map(str::to_string).collect()
    };
    let (a, b) = ("2024-03-01", "2024-03-02");
    let all = lines(&[a, b]);
    let expected = [
        "+          /added/",
        "+          /added/one",
        "+          /added/two",
        "M c        /content",
        "-          /folder/sub/",
        "-          /folder/sub/x",
        "U p        /mode",
        "-          /removed",
        "U t        /touched",
        "M Tcstp    /type",
        "U x        /xattr",
        "files: 2 added, 2 removed, 4 changed; folders: 1 added, 1 removed, 0 changed; \
         others: 0 added, 0 removed, 1 changed; 12 B added, 30 B removed",
    ];
    assert_eq!(all.len(), expected.len(), "{all:#?}");
    for (line, expected) in all.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line:?} is not {expected:?}");
    }
    let back = lines(&[b, a, "-q"]);
    assert_eq!(back.iter().filter(|l| l.starts_with('+')).count(), 3, "{back:?}");
    assert!(back.contains(&"+          /removed".to_string()) && back.len() == 11);
    let folded = lines(&[a, b, "--fold", "-q"]);
    assert!(folded.iter().all(|l| !l.contains("/added/one") && !l.contains("/sub/x")), "{folded:?}");
    assert!(folded.contains(&"+          /added/".to_string()));
    assert!(lines(&[a, b, "-v"]).contains(&"U t        /folder/".to_string()));
    assert_eq!(lines(&[a, a]), ["no differences"]);
    assert_eq!(
        lines(&[a, b, "source/folder", "-q"]),
        ["-          /folder/sub/", "-          /folder/sub/x"]
    );
    assert_eq!(lines(&[a, b, "source/same"]), ["no differences"]);
    let of = |s: &str, path: &str| format!("{s}:{}", source.join(path).display());
    assert_eq!(lines(&[&of(a, "removed"), &of(b, "same"), "-q"]), ["M cs       /same"]);

    let ran = scene.run(["diff", "--json", a, b]).ok();
    let changes = objects(&ran);
    let change = |name: &str| {
        let path = source.join(name);
        changes.iter().find(|c| c["path"] == path.to_str().unwrap()).unwrap().clone()
    };
    assert_eq!(change("content")["differs"], serde_json::json!(["content"]));
    assert_eq!(change("mode")["left"]["mode"], "0644");
    assert_eq!(change("mode")["right"]["mode"], "0600");
    assert_eq!(
        (&change("removed")["change"], &change("removed")["right"]),
        (&"removed".into(), &Value::Null)
    );
    assert_eq!(ran.json()["files"], serde_json::json!({"added": 2, "removed": 2, "changed": 4}));
    assert_eq!((&ran.json()["added_bytes"], &ran.json()["removed_bytes"]), (&12.into(), &30.into()));
    scene.run(["diff", "--exit-code", "-q", a, b]).code(1);
    scene.run(["diff", "--exit-code", a, a]).ok();
    // A path is found as a backup would have found it.
    std::os::unix::fs::symlink("source", scene.path("by-link")).unwrap();
    assert_eq!(lines(&[a, b, "by-link/content", "-q"]), ["M c        /content"]);
}

#[test]
fn what_makes_no_sense_is_refused_with_a_reason() {
    let scene = Scene::new("history-errors");
    scene.run(["find", "*"]).code(1).says("no snapshot yet");
    write(scene.source().join("f"), "f", 1);
    save(&scene, 1, &[]);
    scene.run(["find", "["]).code(2).says("[");
    scene.run(["find", ""]).code(2);
    scene.run(["find"]).code(2);
    scene.run(["find", "*", "--type", "x"]).code(2);
    scene.run(["find", "*", "--newer", "soon"]).code(2).says("soon");
    scene.run(["find", "*", "--below", "source/f/g"]).code(1).says("no snapshot has");
    scene.run(["versions"]).code(2);
    scene.run(["versions", "source/nothing"]).code(1).says("pastfs find");
    scene.run(["versions", "source/f/g"]).code(1);
    scene.run(["diff", "latest"]).code(2);
    scene.run(["diff", "latest", "soon"]).code(2).says("soon");
    scene.run(["diff", "latest:/x", "latest", "y"]).code(2).says("twice");
    scene.run(["diff", "latest", "latest", "/nothing"]).code(1).says("neither");
    scene.run(["diff", "latest", "2023-01-01"]).code(1).says("oldest");
    let root = scene.run(["versions", "--json", "/"]).ok();
    assert_eq!(objects(&root)[0]["path"], "/");
}

#[test]
fn yesterday_is_the_path_in_the_mount_and_asks_for_no_password() {
    let scene = Scene::new("yesterday");
    let file = scene.source().join("f");
    let day = |n: u32| scene.shell(&format!("date -d '{n} days ago' +%F")).ok().text().trim().to_string();
    for n in [3, 1, 0] {
        write(file.clone(), &format!("{n} days ago\n"), 9 - n);
        if n == 1 {
            write(scene.source().join("brief"), "brief", 1);
        }
        // A link to elsewhere must not lead to the files of today.
        let _ = std::os::unix::fs::symlink(scene.path("elsewhere"), scene.source().join("link"));
        scene.backup(&["--time", &format!("{} 00:00:01", day(n))]);
    }
    fs::remove_file(scene.source().join("brief")).unwrap();
    write(scene.path("elsewhere/today"), "today", 1);
    let ask = |args: &[&str]| {
        let mut command = scene.command(std::iter::once(&"yesterday").chain(args));
        command.env_remove("PASTFS_KEY_FILE");
        scene.run_command(command)
    };
    ask(&["source/f"]).code(1).says("not mounted");
    let mount = scene.mount(&[]);
    let text = |args: &[&str]| -> String {
        let out = ask(args).ok().text();
        let path = Path::new(out.trim_end());
        assert!(path.starts_with(&mount.dir) && path.ends_with("source/f"), "{out}");
        fs::read_to_string(path).unwrap()
    };
    assert_eq!(text(&["source/f"]), "1 days ago\n");
    assert_eq!(text(&["-n", "0", "source/f"]), "0 days ago\n");
    assert_eq!(text(&["-n", "2", "source/f"]), "3 days ago\n");
    assert_eq!(text(&["-n", "3", "source/f", "--mount", "mnt"]), "3 days ago\n");
    ask(&["-n", "4", "source/f"]).code(1).says("no snapshot is as old");
    ask(&["-n", "3", "source/brief"]).code(1).says("source/brief 3 days ago: the snapshot of");
    assert!(ask(&["source/brief"]).ok().text().ends_with("source/brief\n"));
    assert!(ask(&["source/link"]).ok().text().ends_with("source/link\n"));
    ask(&["source/link/today"]).code(1);
    ask(&["source/f", "--mount", "source"]).code(2).says("no mount");
    ask(&["-n", "4000000000", "source/f"]).code(2);
    let found = ask(&["--json", "source/f"]).ok().json();
    assert_eq!(found["snapshot_time"].as_str().unwrap()[..10], day(1));
    let differences = ask(&["-d", "source/f"]).code(1).text();
    assert!(differences.contains("-1 days ago") && differences.contains("+0 days ago"), "{differences}");
    mount.unmount();
}
