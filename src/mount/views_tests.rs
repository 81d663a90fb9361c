//! What lies beside the snapshots, over trees in memory.

use super::attributes::Type;
use super::errno::Errno;
use super::inodes::ROOT;
use super::snapshots::Shown;
use super::view::{BRIEFLY, FOREVER, Looked};
use super::view_tests::{ONE, TWO, World, entry, inline, names};
use crate::clock::Time;
use crate::format::tree::{Content, Entry, Node, Xattr};
use crate::id::ChunkId;

const THREE: &str = "1970-01-01T00-00-03Z";

fn folder(w: &World, name: &str, inside: &[Entry]) -> Entry {
    let mut folder = entry(name, Node::Folder(w.folder(inside)));
    folder.stat.mode = 0o755;
    folder
}

/// A file of that text, changed at that second.
fn file(name: &str, text: &str, seconds: i64) -> Entry {
    let mut file = inline(name, text);
    file.stat.mtime = Time { seconds, nanos: 0 };
    file
}

fn listed(w: &World, path: &str) -> Vec<String> {
    let lines = w.list(w.walk(path).unwrap());
    let mut found: Vec<_> = names(&lines)[2..].iter().map(|n| (*n).to_string()).collect();
    // There the order is that of a hash.
    if path.starts_with("versions") {
        found.sort();
    }
    found
}

/// The number that a listing shows for a name.
fn number(w: &World, folder: u64, name: &str) -> u64 {
    w.list(folder).iter().find(|(n, _)| n == name).unwrap().1
}

fn target(w: &World, path: &str) -> String {
    String::from_utf8(w.view.target(w.walk(path).unwrap()).unwrap()).unwrap()
}

/// Three snapshots: a file that changes and goes, one that stays, one that becomes a folder.
fn past(w: &World) {
    let at = |entries: &[Entry]| vec![folder(w, "home", entries)];
    let stays = || file("stays", "same", 1);
    let inner = folder(w, "odd", &[stays()]);
    w.view.refresh(vec![
        w.snapshot(1, &at(&[file("notes.odt", "old", 1), file("odd", "file", 1), stays()])),
        w.snapshot(2, &at(&[file("notes.odt", "new", 2), inner, stays()])),
        w.snapshot(3, &at(&[stays()])),
    ]);
}

#[test]
fn hosts_and_tags_have_folders_of_symlinks() {
    let w = World::new(None);
    let of = |id: u8, host: &str, tags: &[&str]| Shown {
        host: host.into(),
        tags: tags.iter().map(|t| t.as_bytes().to_vec()).collect(),
        ..w.snapshot(id, &[])
    };
    w.view.refresh(vec![of(1, "a/b", &["x", "y"]), of(2, "c", &["x"]), of(3, "a/b", &[])]);
    assert_eq!(listed(&w, "by-host"), ["a%2Fb", "c"]);
    assert_eq!(listed(&w, "by-tag"), ["x", "y"]);
    assert_eq!(listed(&w, "by-host/a%2Fb"), ["latest", ONE, THREE]);
    assert_eq!(listed(&w, "by-tag/x"), ["latest", ONE, TWO]);
    assert_eq!(target(&w, "by-host/a%2Fb/latest"), format!("../../{THREE}"));
    assert_eq!(target(&w, &format!("by-tag/y/{ONE}")), format!("../../{ONE}"));
    assert_eq!(target(&w, "by-tag/x/latest"), format!("../../{TWO}"));
    for nothing in ["by-host/d", "by-tag/x/nothing", &format!("by-tag/y/{TWO}"), "by-host/c/versions"] {
        assert_eq!(w.walk(nothing), Err(Errno::ENOENT), "{nothing}");
    }
    let by_host = w.walk("by-host").unwrap();
    let Looked::There(a, ttl) = w.view.lookup(by_host, b"c").unwrap() else { panic!() };
    assert_eq!((a.kind, a.mode, ttl, a.mtime.seconds), (Type::Folder, 0o555, BRIEFLY, 2));
    let Looked::There(a, ttl) = w.view.lookup(a.ino, b"latest").unwrap() else { panic!() };
    assert_eq!((a.kind, a.mode, ttl, a.size), (Type::Symlink, 0o777, BRIEFLY, 26));
    // As others come, the target is another node: the kernel keeps what it knows of the old one.
    w.view.refresh(vec![of(2, "c", &["x"]), of(4, "c", &[])]);
    let b = w.walk("by-host/c/latest").unwrap();
    assert_ne!(a.ino, b);
    assert_eq!(w.view.target(a.ino).unwrap(), format!("../../{TWO}").as_bytes());
    assert_eq!(w.walk("by-host/a%2Fb"), Err(Errno::ENOENT));
    assert_eq!(*w.memory.reads.lock(), 0);
}

#[test]
fn any_time_is_a_name_and_no_id_is() {
    let w = World::new(None);
    w.view.refresh(vec![w.snapshot(1, &[]), w.snapshot(2, &[])]);
    for (name, to) in [
        ("1970-01-01T00:00:01Z", ONE),
        ("1970-01-01T00-00-02Z", TWO),
        ("1971-01-01", TWO),
        ("yesterday", TWO),
        ("3 days ago", TWO),
        ("3_days_ago", TWO),
        ("latest", TWO),
    ] {
        assert_eq!(target(&w, &format!("at/{name}")), format!("../{to}"), "{name}");
    }
    let at = w.walk("at").unwrap();
    let hex = "01".repeat(32);
    for name in ["1969-01-01", "01010101", hex.as_str(), "nonsense", "", "é", "1970-01-01T00-00-01Z-01010101"]
    {
        assert_eq!(w.view.lookup(at, name.as_bytes()), Err(Errno::ENOENT), "{name}");
    }
    assert_eq!(w.view.lookup(at, b"\xff"), Err(Errno::ENOENT));
    assert_eq!(listed(&w, "at").len(), 0);
    let Looked::There(a, ttl) = w.view.lookup(at, b"yesterday").unwrap() else { panic!() };
    assert_eq!((a.kind, ttl), (Type::Symlink, BRIEFLY));
    let link = w.walk("at/latest").unwrap();
    assert_eq!(w.view.lookup(link, b"x"), Err(Errno::ENOTDIR));
    assert_eq!(w.view.list(link, 0, true, &mut |_| false), Err(Errno::ENOTDIR));
}

#[test]
fn a_path_through_time_lists_all_that_ever_was_there() {
    let w = World::new(None);
    past(&w);
    assert_eq!(listed(&w, "versions"), ["home"]);
    assert_eq!(listed(&w, "versions/home"), ["notes.odt", "odd", "stays"]);
    let (one, two) = (format!("{ONE}.odt"), format!("{TWO}.odt"));
    assert_eq!(listed(&w, "versions/home/notes.odt"), [one.as_str(), two.as_str()]);
    assert_eq!(listed(&w, "versions/home/stays"), [ONE]);
    assert_eq!(listed(&w, "versions/home/odd"), [ONE, "stays"], "a file and a folder at once");
    assert_eq!(listed(&w, "versions/home/odd/stays"), [TWO]);
    for nothing in ["versions/x", "versions/home/gone", &format!("versions/home/stays/{TWO}"), "versions/at"]
    {
        assert_eq!(w.walk(nothing), Err(Errno::ENOENT), "{nothing}");
    }
    let text = |path: &str| w.read(w.walk(path).unwrap(), 0, 99).unwrap();
    assert_eq!(text(&format!("versions/home/notes.odt/{one}")), b"old");
    assert_eq!(text(&format!("versions/home/notes.odt/{two}")), b"new");
    assert_eq!(text(&format!("versions/home/odd/stays/{TWO}")), b"same");
}

#[test]
fn a_version_is_the_very_file_of_the_dated_folder() {
    for from_the_past_first in [true, false] {
        let w = World::new(None);
        past(&w);
        let ways = [format!("versions/home/notes.odt/{TWO}.odt"), format!("{TWO}/home/notes.odt")];
        let [a, b] = if from_the_past_first { [0, 1] } else { [1, 0] };
        assert_eq!(w.walk(&ways[a]).unwrap(), w.walk(&ways[b]).unwrap());
        let ino = w.walk(&ways[a]).unwrap();
        assert_eq!(w.view.xattr(ino, b"user.none"), Err(Errno::ENODATA));
        // Also by the listing, with and without attributes.
        let folder = w.walk("versions/home/notes.odt").unwrap();
        assert_eq!(number(&w, folder, &format!("{TWO}.odt")), ino);
        let mut plain = Vec::new();
        w.view
            .list(folder, 0, false, &mut |l| {
                plain.push(l.attributes.ino);
                false
            })
            .unwrap();
        assert!(plain[2..].contains(&ino));
    }
}

#[test]
fn times_in_the_past_stay_until_there_are_other_snapshots() {
    let w = World::new(None);
    past(&w);
    let at = |path: &str| w.view.attributes(w.walk(path).unwrap()).unwrap();
    let (home, ttl) = at("versions/home");
    assert_eq!((home.kind, home.mode, home.nlink, ttl), (Type::Folder, 0o555, 2, BRIEFLY));
    assert_eq!((home.uid, home.gid), (1000, 1001));
    assert_eq!(home.mtime.seconds, 3, "the newest that changed it");
    assert_eq!(at("versions/home/notes.odt").0.mtime.seconds, 2);
    assert_eq!(at("versions/home/stays").0.mtime.seconds, 1);
    assert_eq!(at("versions").0.mtime.seconds, 3);
    // The same by a listing as by a look-up.
    let inside = w.view.attributes(number(&w, w.walk("versions/home").unwrap(), "notes.odt")).unwrap();
    assert_eq!(inside, at("versions/home/notes.odt"));
}

#[test]
fn what_was_listed_once_is_kept_until_there_are_other_snapshots() {
    let w = World::new(None);
    past(&w);
    listed(&w, "versions/home");
    let before = *w.memory.reads.lock();
    for path in ["versions/home", "versions/home/odd", "versions/home/notes.odt"] {
        listed(&w, path);
    }
    let inner = 1;
    assert_eq!(*w.memory.reads.lock() - before, inner, "the folder odd alone was not read yet");
    w.view.refresh(vec![w.snapshot(9, &[file("f", "x", 1)])]);
    assert_eq!(listed(&w, "versions"), ["f"]);
    assert_eq!(w.walk("versions/home"), Err(Errno::ENOENT));
}

#[test]
fn of_a_new_snapshot_alone_the_trees_are_read() {
    let w = World::new(None);
    let of = |id: u8, names: &[&str]| {
        let files: Vec<_> = names.iter().map(|n| file(n, "text", id.into())).collect();
        w.snapshot(id, &[folder(&w, "home", &files)])
    };
    let mut all: Vec<Shown> = (1..=9).map(|id| of(id, &["a", "b"])).collect();
    w.view.refresh(all.clone());
    assert_eq!(listed(&w, "versions/home"), ["a", "b"]);
    assert_eq!(listed(&w, "versions/home/b").len(), 9);
    all.push(of(10, &["b", "c"]));
    w.view.refresh(all.clone());
    let before = *w.memory.reads.lock();
    assert_eq!(listed(&w, "versions/home"), ["a", "b", "c"]);
    assert_eq!(*w.memory.reads.lock() - before, 3, "its root, its top and its home");
    let new = "1970-01-01T00-00-10Z";
    assert_eq!(listed(&w, "versions/home/b").last().unwrap(), new);
    assert_eq!(listed(&w, "versions/home/a").len(), 9);
    assert_eq!(listed(&w, "versions/home/c"), [new]);
    assert_eq!(w.read(w.walk(&format!("versions/home/c/{new}")).unwrap(), 0, 9).unwrap(), b"text");
    // The same as who was not there before finds.
    let other = World::new(None);
    other.memory.chunks.lock().extend(w.memory.chunks.lock().clone());
    other.view.refresh(all.clone());
    for path in ["versions", "versions/home", "versions/home/a", "versions/home/b", "versions/home/c"] {
        assert_eq!(listed(&w, path), listed(&other, path), "{path}");
        let at = |w: &World| w.view.attributes(w.walk(path).unwrap()).unwrap().0;
        assert_eq!(at(&w), at(&other), "{path}");
    }
    // Where one goes, all is found out anew.
    w.view.refresh(all[5..].to_vec());
    assert_eq!(listed(&w, "versions/home/a").len(), 4);
    assert_eq!(listed(&w, "versions/home/b").len(), 5);
}

#[test]
fn what_was_left_out_for_damage_is_looked_for_again() {
    let w = World::new(None);
    let first = w.snapshot(1, &[folder(&w, "home", &[file("f", "1", 1)])]);
    let lost = w.folder(&[file("f", "1", 1)]);
    let bytes = w.memory.chunks.lock().remove(&lost).unwrap();
    w.view.refresh(vec![first.clone()]);
    assert_eq!(listed(&w, "versions/home").len(), 0);
    w.memory.chunks.lock().insert(lost, bytes);
    w.view.refresh(vec![first, w.snapshot(2, &[folder(&w, "home", &[file("g", "2", 2)])])]);
    assert_eq!(listed(&w, "versions/home"), ["f", "g"]);
}

#[test]
fn a_listing_of_the_past_neither_skips_nor_repeats_what_was_there_all_the_while() {
    let w = World::new(None);
    let of = |id: u8, numbers: std::ops::Range<u32>| {
        let files: Vec<_> = numbers.map(|n| file(&format!("{n:03}"), "x", 1)).collect();
        w.snapshot(id, &files)
    };
    w.view.refresh(vec![of(1, 100..200)]);
    let versions = w.walk("versions").unwrap();
    let (mut seen, mut offset) = (Vec::new(), 0);
    for id in 2.. {
        let mut taken = 0;
        w.view
            .list(versions, offset, false, &mut |l| {
                taken += 1;
                if taken > 7 {
                    return true;
                }
                offset = l.next;
                seen.push(String::from_utf8_lossy(l.name).into_owned());
                false
            })
            .unwrap();
        if taken == 0 {
            break;
        }
        // Others come before, between and behind, and some go again.
        let n = u32::from(id);
        w.view.refresh(vec![of(id, n..200), of(id + 1, 100..210 + n)]);
    }
    let there = |n: u32| seen.iter().filter(|s| **s == format!("{n:03}")).count();
    assert!((100..200).all(|n| there(n) == 1), "{seen:?}");
}

#[test]
fn a_node_of_the_past_outlives_what_was_known_of_it() {
    let w = World::new(None);
    past(&w);
    let home = w.walk("versions/home").unwrap();
    let gone = w.walk("versions/home/notes.odt").unwrap();
    let old = w.walk(&format!("versions/home/notes.odt/{ONE}.odt")).unwrap();
    let stays = || file("stays", "same", 1);
    w.view.refresh(vec![w.snapshot(3, &[folder(&w, "home", &[stays()])])]);
    assert_eq!(w.list(home).len(), 3);
    assert_eq!(w.view.attributes(gone), Err(Errno::ENOENT));
    assert_eq!(w.read(old, 0, 9).unwrap(), b"old", "what is open goes on");
    // All is given back.
    let held = w.view.nodes.len();
    w.view.forget(home, 100);
    w.view.forget(gone, 100);
    w.view.forget(old, 100);
    assert!(held > w.view.nodes.len() + 2);
    assert_eq!(w.view.attributes(home), Err(Errno::ESTALE));
}

#[test]
fn two_versions_of_one_second_have_two_names() {
    let w = World::new(None);
    let of = |id: u8, text: &str| Shown {
        time: Time { seconds: 1, nanos: u32::from(id) },
        ..w.snapshot(id, &[file("f.txt", text, i64::from(id))])
    };
    w.view.refresh(vec![of(1, "a"), of(2, "b")]);
    let second = "1970-01-01T00-00-01Z-02020202.txt";
    assert_eq!(listed(&w, "versions/f.txt"), [second, format!("{ONE}.txt").as_str()]);
    assert_eq!(w.read(w.walk(&format!("versions/f.txt/{second}")).unwrap(), 0, 9).unwrap(), b"b");
}

#[test]
fn damage_in_one_snapshot_hides_no_other_and_is_told_once() {
    let w = World::new(None);
    let bad = {
        let mut bad = entry("home", Node::Folder(ChunkId([77; 32])));
        bad.stat.mode = 0o755;
        bad
    };
    let mut lost = w.snapshot(3, &[]);
    lost.root = ChunkId([68; 32]);
    w.view.refresh(vec![
        w.snapshot(1, &[folder(&w, "home", &[file("f", "fine", 1)])]),
        w.snapshot(2, &[bad]),
        lost,
    ]);
    for _ in 0..2 {
        assert_eq!(listed(&w, "versions/home"), ["f"]);
        assert_eq!(w.read(w.walk(&format!("versions/home/f/{ONE}")).unwrap(), 0, 9).unwrap(), b"fine");
    }
    let heard = w.heard.0.lock().clone();
    assert_eq!(heard.len(), 2, "{heard:?}");
    assert!(heard.iter().any(|l| l.contains("/versions/home") && l.contains("02020202")), "{heard:?}");
    assert!(heard.iter().any(|l| l.contains("03030303")), "{heard:?}");
}

#[test]
fn a_store_that_is_away_is_an_error_and_never_a_missing_file() {
    let w = World::new(None);
    past(&w);
    let home = w.walk("versions/home").unwrap();
    *w.memory.away.lock() = true;
    assert_eq!(w.view.lookup(home, b"notes.odt"), Err(Errno::EIO));
    assert_eq!(w.view.list(home, 0, true, &mut |_| false), Err(Errno::EIO));
    assert_eq!(w.walk("by-host/here/latest").map(drop), Ok(()));
    *w.memory.away.lock() = false;
    assert_eq!(listed(&w, "versions/home").len(), 3);
    let held = w.view.nodes.len();
    w.view.forget(home, 99);
    assert!(held > w.view.nodes.len());
}

#[test]
fn nobody_gets_into_the_past_who_could_not_everywhere() {
    let w = World::new(Some("here"));
    let with = |mode: u32, uid: u32| {
        let mut f = folder(&w, "d", &[file("f", "x", 1)]);
        (f.stat.mode, f.stat.uid) = (mode, uid);
        f
    };
    let seen = |a: Entry, b: Entry, host: &str| {
        let foreign = Shown { host: host.into(), ..w.snapshot(2, &[b]) };
        w.view.refresh(vec![w.snapshot(1, &[a]), foreign]);
        let a = w.view.attributes(w.walk("versions/d").unwrap()).unwrap().0;
        (a.mode, a.uid)
    };
    let alone = (0o500, 1000);
    assert_eq!(seen(with(0o755, 7), with(0o755, 7), "here"), (0o555, 7));
    assert_eq!(seen(with(0o755, 7), with(0o750, 7), "here"), (0o550, 7));
    assert_eq!(seen(with(0o711, 7), with(0o755, 7), "here"), (0o511, 7));
    assert_eq!(seen(with(0o755, 7), with(0o755, 8), "here"), alone);
    assert_eq!(seen(with(0o755, 7), with(0o755, 7), "elsewhere"), alone);
    let mut acl = with(0o755, 7);
    acl.xattrs =
        vec![Xattr { name: b"system.posix_acl_access".to_vec(), value: Content::Inline(vec![2, 0, 0, 0]) }];
    assert_eq!(seen(with(0o755, 7), acl.clone(), "here"), alone);
    // What lies in the root of a mount costs no read, and is told to hold for no time.
    w.view.refresh(vec![w.snapshot(1, &[with(0o755, 7)])]);
    w.view
        .list(ROOT, 6, true, &mut |l| {
            assert!(l.name != b"versions" || l.ttl.is_zero() && l.attributes.mode == 0);
            false
        })
        .unwrap();
    let Looked::There(top, _) = w.view.lookup(ROOT, b"versions").unwrap() else { panic!() };
    assert_eq!((top.mode, top.uid), (0o555, 7));
}

#[test]
fn owners_are_mapped_everywhere_and_then_other_hosts_are_shown() {
    let w = World::with(Some("elsewhere"), &["7=70", ":8=:80"]);
    past(&w);
    let at = |path: &str| w.view.attributes(w.walk(path).unwrap()).unwrap().0;
    for path in [ONE, &format!("{ONE}/home"), &format!("{ONE}/home/stays"), "versions/home"] {
        assert_eq!((at(path).uid, at(path).gid), (70, 80), "{path}");
    }
    assert_eq!(at(ONE).mode, 0o755);
    assert_eq!(at("versions/home").mode, 0o555);
    let w = World::with(None, &["me"]);
    let mut open = file("f", "x", 1);
    open.stat.mode = 0o660;
    // group::---, mask::rw-
    let acl = [
        2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 4, 0, 0, 0, 255, 255, 255, 255, 16, 0, 6, 0, 255, 255,
        255, 255,
    ];
    open.xattrs =
        vec![Xattr { name: b"system.posix_acl_access".to_vec(), value: Content::Inline(acl.to_vec()) }];
    w.view.refresh(vec![w.snapshot(1, &[open])]);
    let ino = w.walk(&format!("{ONE}/f")).unwrap();
    let Looked::There(a, ttl) = w.view.lookup(w.walk(ONE).unwrap(), b"f").unwrap() else { panic!() };
    assert_eq!((a.uid, a.gid, a.mode, ttl), (1000, 1001, 0o600, FOREVER));
    assert_eq!(w.view.xattr(ino, b"system.posix_acl_access"), Err(Errno::ENODATA));
    assert_eq!(w.view.xattrs(ino, true).unwrap(), b"");
}

#[test]
fn the_mounts_own_things_have_no_attributes_and_no_content() {
    let w = World::new(None);
    past(&w);
    for path in ["at", "at/latest", "by-host", "by-host/here", "latest", "versions", "versions/home"] {
        let ino = w.walk(path).unwrap();
        assert_eq!(w.view.xattr(ino, b"system.posix_acl_access"), Err(Errno::ENODATA), "{path}");
        assert_eq!(w.view.xattr(ino, b"user.pastfs.snapshot"), Err(Errno::ENODATA), "{path}");
        assert_eq!(w.view.xattrs(ino, true).unwrap(), b"", "{path}");
        assert!(w.read(ino, 0, 10).is_err(), "{path}");
        assert!(w.view.seek(ino, 0, libc::SEEK_DATA).is_err(), "{path}");
    }
    assert_eq!(w.view.target(w.walk("at").unwrap()), Err(Errno::EINVAL));
}
