//! Promises of the walk, on real trees.

use super::super::testing::{Tree, root, tmpfs, whole};
use super::*;
use crate::source::Exclude;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

fn excluding(tree: &Tree, patterns: &[&str]) -> Options {
    Options { excludes: Exclude::new::<_, &str>(patterns, &[]).unwrap(), ..tree.options() }
}
fn paths(tree: &Tree, paths: &[&str]) -> Options {
    Options { paths: paths.iter().map(|p| tree.path(p)).collect(), ..Options::default() }
}

#[test]
fn entries_come_depth_first_in_the_order_of_their_bytes() {
    let tree = Tree::new().with(&["b/x", "b/a/", "a", "b.c", "B", "é", "b-/z"]);
    // `b` before `b-` before `b.c`: names are compared, not paths.
    assert_eq!(tree.told(tree.options()), "B a +b +a - x - +b- z - b.c é");
}

#[test]
fn folders_on_the_way_are_ancestors_that_hold_only_what_leads_on() {
    let tree = Tree::new().with(&["one/x/f", "one/y/f", "one/z", "two/q", "three/r"]);
    let options = paths(&tree, &["one/z", "two", "one/x", "two/q", "one/x/"]);
    assert_eq!(tree.told(options.clone()), "+one +x f - z - +two q -");
    let mut ancestors = Vec::new();
    for event in Walk::new(options).unwrap() {
        if let Event::Enter(item) = event {
            let meta = std::fs::symlink_metadata(item.path()).unwrap();
            assert_eq!((item.device, item.inode, item.stat.nlink), (meta.dev(), meta.ino(), 1));
            assert_eq!(item.stat.mode, meta.mode() & 0o7777);
            if item.ancestor {
                ancestors.push(item.path());
            }
        }
    }
    let mut expected: Vec<PathBuf> = tree.0.ancestors().map(Path::to_path_buf).collect();
    expected.reverse();
    expected.push(tree.path("one"));
    assert_eq!(ancestors, expected);
}

#[test]
fn a_missing_path_fails_in_its_place_and_only_if_all_are_missing_the_walk_does() {
    let tree = Tree::new().with(&["a", "c/d", "e"]);
    let options = paths(&tree, &["e", "c/no/way", "b", "a", "a/below"]);
    assert_eq!(tree.told(options), "a !a/below !b +c !c/no/way - e");
    let gone = Walk::new(paths(&tree, &["x", "y/z"])).err().unwrap();
    assert_eq!(gone.fault(), Fault::Missing);
    assert!(gone.to_string().contains("/x, ") && gone.to_string().ends_with("/y/z"), "{gone}");
    let below = Walk::new(paths(&tree, &["a/below"])).err().unwrap();
    assert_eq!(below.fault(), Fault::Missing);
    assert_eq!(Walk::new(Options::default()).err().unwrap().fault(), Fault::Misuse);
}

#[test]
fn a_path_below_another_given_one_is_saved_whatever_is_left_out_around_it_or_told_where_it_is_not_there() {
    let tree = Tree::new().with(&["a/out/in/f", "a/out/other", "a/x", "c/CACHEDIR.TAG", "c/f", "c/g/h"]);
    std::fs::write(tree.path("c/CACHEDIR.TAG"), "Signature: 8a477f597d28d172789f06886806bc55").unwrap();
    let given = |list: &[&str]| {
        let all = std::iter::once(tree.0.clone()).chain(list.iter().map(|p| tree.path(p)));
        Options { paths: all.collect(), exclude_caches: true, ..excluding(&tree, &["out", "x"]) }
    };
    assert_eq!(tree.told(given(&[])), "+a - +c CACHEDIR.TAG -");
    for threads in [0, 2] {
        let told = |list: &[&str]| tree.told(Options { threads, ..given(list) });
        assert_eq!(told(&["a/out/in", "c/g"]), "+a +out +in f - - - +c CACHEDIR.TAG +g h - -");
        assert_eq!(
            told(&["a/out", "a/x", "c/f"]),
            "+a +out in other - x - +c CACHEDIR.TAG f -".replace("in ", "+in f - ")
        );
        assert_eq!(
            told(&["a/no", "a/x/y", "a/out/no/way"]),
            "+a !a/no +out !a/out/no/way - !a/x/y - +c CACHEDIR.TAG -"
        );
    }
    let whole = Walk::new(given(&["a/out/in"])).unwrap();
    let way = whole.filter_map(|e| match e {
        Event::Enter(item) if item.ancestor => Some(item.path()),
        _ => None,
    });
    assert_eq!(way.last(), Some(tree.path("a/out")), "it is on the way, and not saved as such");
    let repo = std::fs::metadata(tree.path("a/out")).unwrap();
    let skipping = Options { skip: vec![(repo.dev(), repo.ino())], ..given(&["a/out/in"]) };
    assert_eq!(tree.told(skipping), "+a !a/out/in - +c CACHEDIR.TAG -");
}

#[test]
fn symlinks_on_the_way_are_resolved_and_a_given_symlink_is_itself() {
    let tree = Tree::new().with(&["real/f"]);
    symlink("real", tree.path("way")).unwrap();
    symlink("nowhere", tree.path("dangling")).unwrap();
    assert_eq!(tree.told(paths(&tree, &["way/f"])), "+real f -");
    assert_eq!(tree.told(paths(&tree, &["way", "dangling"])), "dangling way");
}

#[test]
fn the_root_folder_is_told_first_and_may_be_given() {
    let options = Options {
        paths: vec!["/".into()],
        excludes: Exclude::new::<_, &str>(&["/*", "!/etc", "/etc/*"], &[]).unwrap(),
        ..Options::default()
    };
    let events: Vec<Event> = Walk::new(options).unwrap().collect();
    let [Event::Enter(top), Event::Enter(etc), Event::Leave, Event::Leave] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!((top.name.as_slice(), top.ancestor, top.path()), (&b""[..], false, PathBuf::from("/")));
    assert_eq!((etc.name.as_slice(), etc.path()), (&b"etc"[..], PathBuf::from("/etc")));
    assert!(top.xattrs().is_ok() && top.restat().is_ok());
}

#[test]
fn excluded_names_and_all_below_them_are_not_there() {
    let tree = Tree::new().with(&["src/a.c", "src/a.o", "tmp/x", "keep/tmp", "log/1", "log/2"]);
    let anchored = format!("{}/log/*", tree.0.display());
    let taken_back = format!("!{}/log/2", tree.0.display());
    let options = excluding(&tree, &["*.o", "tmp/", &anchored, &taken_back]);
    assert_eq!(tree.told(options), "+keep tmp - +log 2 - +src a.c -");
    // What is given by name is saved whatever the patterns say.
    let named =
        Options { paths: vec![tree.path("src/a.o"), tree.path("tmp")], ..excluding(&tree, &["*.o", "tmp"]) };
    assert_eq!(tree.told(named), "+src a.o - +tmp x -");
}

#[test]
fn caches_and_folders_with_a_tag_are_kept_with_their_tag_alone() {
    let tree = Tree::new().with(&[
        "c/junk",
        "c/sub/x",
        "d/CACHEDIR.TAG",
        "d/x",
        "n/.nobackup",
        "n/x",
        "h/.tag",
        "h/x",
    ]);
    let tag = "Signature: 8a477f597d28d172789f06886806bc55\n# made by nobody";
    std::fs::write(tree.path("c/CACHEDIR.TAG"), tag).unwrap();
    let caches = Options { exclude_caches: true, ..tree.options() };
    assert_eq!(tree.told(caches), "+c CACHEDIR.TAG - +d CACHEDIR.TAG x - +h .tag x - +n .nobackup x -");
    let present = |list: &[&str]| {
        let exclude_if_present = list.iter().map(|t| t.into()).collect();
        tree.told(Options {
            exclude_if_present,
            paths: vec![tree.path("h"), tree.path("n")],
            ..Options::default()
        })
    };
    assert_eq!(present(&[".nobackup", ".tag:other"]), "+h .tag x - +n .nobackup -");
    assert_eq!(present(&[".tag:h/.tag"]), "+h .tag - +n .nobackup x -");
    let wrong = Options { exclude_if_present: vec!["a/b".into()], ..tree.options() };
    assert_eq!(Walk::new(wrong).err().unwrap().fault(), Fault::Misuse);
}

#[test]
fn large_files_and_skipped_folders_are_left_out() {
    let tree = Tree::new().with(&["repo/packs/x", "big", "limit", "large/"]);
    std::fs::write(tree.path("big"), [0; 101]).unwrap();
    std::fs::write(tree.path("limit"), [0; 100]).unwrap();
    let repo = std::fs::metadata(tree.path("repo")).unwrap();
    let skip = vec![(repo.dev(), repo.ino())];
    let options = Options { exclude_larger_than: Some(100), skip, ..tree.options() };
    assert_eq!(tree.told(options.clone()), "+large - limit");
    // Named itself, it is told that it is not saved.
    let named = Options { paths: vec![tree.path("repo"), tree.path("big")], ..options };
    assert_eq!(tree.told(named), "big !repo");
}

#[test]
fn other_file_systems_stay_empty_folders_unless_they_are_given() {
    let tree = Tree::new().with(&["here/f", "mount/"]);
    let Some(_mounted) = tmpfs(&tree.path("mount")) else { return };
    std::fs::write(tree.path("mount/inside"), "x").unwrap();
    let options = Options { one_file_system: true, ..tree.options() };
    assert_eq!(tree.told(tree.options()), "+here f - +mount inside -");
    assert_eq!(tree.told(options.clone()), "+here f - +mount -");
    let given = Options { paths: vec![tree.path("here"), tree.path("mount")], ..options.clone() };
    assert_eq!(tree.told(given), "+here f - +mount inside -");
    std::fs::create_dir(tree.path("mount/folder")).unwrap();
    let both = |inner: &str| Options { paths: vec![tree.0.clone(), tree.path(inner)], ..options.clone() };
    assert_eq!(tree.told(both("mount")), "+here f - +mount +folder - inside -");
    assert_eq!(tree.told(both("mount/folder")), "+here f - +mount +folder - -");
}

#[test]
fn an_unreadable_folder_fails_and_is_there_all_the_same() {
    let tree = Tree::new().with(&["a/f", "b/g"]);
    if root() {
        // Root reads everything: let another folder come in between instead.
        let mut walk = Walk::new(tree.options()).unwrap();
        let met = walk.find(|e| matches!(e, Event::Enter(i) if i.path() == tree.0)).is_some();
        assert!(met);
        std::fs::remove_dir_all(tree.path("a")).unwrap();
        std::fs::write(tree.path("a"), "no folder").unwrap();
        let events: Vec<Event> = walk.take(3).collect();
        assert!(
            matches!(&events[..], [Event::Failed { path, .. }, Event::Enter(_), Event::Leave] if *path == tree.path("a"))
        );
    } else {
        std::fs::set_permissions(tree.path("a"), PermissionsExt::from_mode(0o000)).unwrap();
        assert_eq!(tree.told(tree.options()), "!a +a - +b g -");
        std::fs::set_permissions(tree.path("a"), PermissionsExt::from_mode(0o700)).unwrap();
    }
}

#[test]
fn what_vanishes_is_passed_over_and_what_is_replaced_is_told_as_it_is() {
    let tree = Tree::new().with(&["a/f", "b/f", "c"]);
    let mut walk = Walk::new(tree.options()).unwrap();
    assert!(walk.any(|e| matches!(e, Event::Enter(i) if i.path() == tree.0)));
    std::fs::remove_dir_all(tree.path("a")).unwrap();
    std::fs::rename(tree.path("b"), tree.path("gone")).unwrap();
    std::fs::create_dir(tree.path("b")).unwrap();
    let now = std::fs::metadata(tree.path("b")).unwrap().ino();
    let events: Vec<Event> = walk.take(3).collect();
    let [Event::Enter(b), Event::Leave, Event::Leaf(c)] = &events[..] else { panic!("{events:?}") };
    assert_eq!((b.inode, c.name.as_slice()), (now, &b"c"[..]));
}

#[test]
fn hard_links_share_a_group_and_others_have_none() {
    let tree = Tree::new().with(&["a", "d/c"]);
    std::fs::hard_link(tree.path("a"), tree.path("d/b")).unwrap();
    let (a, b, c) = (tree.item(b"a"), tree.item(b"b"), tree.item(b"c"));
    assert_eq!((a.stat.link, a.stat.nlink), (Some((0, a.inode)), 2));
    assert_eq!(b.stat.link, a.stat.link);
    assert_eq!((c.stat.link, c.stat.nlink), (None, 1));
    assert_eq!(b.restat().unwrap(), b.stat);
}

#[test]
fn a_folder_of_more_names_than_a_batch_is_told_in_order() {
    let tree = Tree::new();
    let mut names: Vec<String> = (0..5_000).map(|i| format!("{:x}", i * 7919)).collect();
    for name in &names {
        std::fs::write(tree.path(name), "").unwrap();
    }
    std::fs::create_dir(tree.path("zz")).unwrap();
    std::fs::create_dir(tree.path("0-")).unwrap();
    names.sort();
    for threads in [0, 2] {
        let told = tree.told(Options { threads, ..tree.options() });
        assert_eq!(told, format!("0 +0- - {} +zz -", names[1..].join(" ")));
    }
    // All of the first batch left out is not the end.
    let all = tree.told(excluding(&tree, &["[0-9a-f]*"]));
    assert_eq!(all, "+zz -");
}

#[test]
fn threads_change_nothing_in_the_stream() {
    let place = Path::new("/usr/share");
    let options = Options { paths: vec![place.into()], ..Options::default() };
    let alone: Vec<String> = Walk::new(options.clone()).unwrap().map(|e| whole(&e)).collect();
    for threads in [1, 3] {
        let options = Options { threads, ..options.clone() };
        let together: Vec<String> = Walk::new(options).unwrap().map(|e| whole(&e)).collect();
        assert_eq!(alone.len(), together.len());
        assert!(alone == together);
    }
}

#[test]
fn a_walk_that_is_given_up_stops_its_threads() {
    let options = Options { paths: vec!["/usr".into()], threads: 2, ..Options::default() };
    let mut walk = Walk::new(options).unwrap();
    assert!(walk.nth(50).is_some());
}

/// Makes `levels` nested folders `deep`, each beside two files and a folder that come before and after.
fn nest(tree: &Tree, levels: usize) {
    let (mut dir, _) = Dir::root().unwrap();
    for part in tree.0.components().skip(1) {
        dir = Dir::open(&dir, part.as_os_str().as_bytes(), For::Passing).unwrap().0;
    }
    for _ in 0..levels {
        let fd = dir.fd().unwrap();
        for name in ["deep", "e"] {
            rustix::fs::mkdirat(&*fd, name, rustix::fs::Mode::RWXU).unwrap();
        }
        let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
        rustix::fs::openat(&*fd, "f", flags, rustix::fs::Mode::RUSR).unwrap();
        let inner = Dir::open(&dir, b"deep", For::Passing).unwrap().0;
        dir.close();
        dir = inner;
    }
}

#[test]
fn a_tree_deeper_than_paths_and_descriptors_reach_is_told_whole() {
    let tree = Tree::new();
    let levels = 1_000;
    nest(&tree, levels);
    for threads in [0, 2] {
        let mut options = tree.options();
        options.threads = threads;
        let (mut deepest, mut depth, mut files, mut folders, mut most) = (0, 0, Vec::new(), 0, 0);
        for event in Walk::new(options).unwrap() {
            match event {
                Event::Enter(_) => {
                    folders += 1;
                    depth += 1;
                    deepest = deepest.max(depth);
                }
                Event::Leave => depth -= 1,
                Event::Leaf(item) => {
                    item.open().unwrap();
                    if files.len() < 300 || files.len() % 100 == 0 {
                        item.xattrs().unwrap();
                    }
                    files.push(item.inode);
                }
                Event::Failed { path, error } => panic!("{} {error:?}", path.as_os_str().len()),
            }
            if folders % 500 == 0 {
                most = most.max(std::fs::read_dir("/proc/self/fd").unwrap().count());
            }
        }
        let above = tree.0.components().count();
        assert_eq!((depth, deepest, folders), (0, levels + above, 2 * levels + above));
        files.sort_unstable();
        files.dedup();
        assert_eq!(files.len(), levels);
        assert!(most < 1_500, "{most} descriptors");
    }
}
