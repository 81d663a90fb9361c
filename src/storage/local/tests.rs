//! Promises of the local store beyond the contract, tried on real folders.

use super::*;
use crate::storage::conformance::conformance;
use crate::storage::folder::tests::Scratch;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::sync::atomic::{AtomicU32, Ordering};

fn fault<T: std::fmt::Debug>(result: Result<T>) -> Fault {
    result.unwrap_err().fault()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_local_store_keeps_the_contract() {
    let scratch = Scratch::new();
    let next = AtomicU32::new(0);
    conformance(&|| {
        let path = scratch.0.join(next.fetch_add(1, Ordering::Relaxed).to_string());
        Box::new(Local::create(&path).unwrap())
    });
    for store in fs::read_dir(&scratch.0).unwrap() {
        if let Ok(mut temporaries) = store.unwrap().path().join(TEMPORARY).read_dir() {
            assert!(temporaries.next().is_none(), "a temporary was left behind");
        }
    }
}

#[test]
fn of_racing_writers_exactly_one_wins() {
    let scratch = Scratch::new();
    let store = Local::create(&scratch.0).unwrap();
    for round in 0..50 {
        let put = |w: u8| store.put(&format!("notes/{round}"), &[w; 1000]);
        let won: Vec<u8> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..8).map(|w| scope.spawn(move || put(w).is_ok().then_some(w))).collect();
            writers.into_iter().filter_map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(won.len(), 1, "{won:?}");
        assert_eq!(store.get(&format!("notes/{round}"), 1000).unwrap(), [won[0]; 1000]);
    }
}

#[test]
fn a_missing_folder_is_no_repository() {
    let scratch = Scratch::new();
    assert_eq!(fault(Local::open(&scratch.0.join("none"))), Fault::NoRepository);
    fs::write(scratch.0.join("file"), "x").unwrap();
    assert_eq!(fault(Local::open(&scratch.0.join("file"))), Fault::NoRepository);
    assert_eq!(fault(Local::create(&scratch.0.join("file"))), Fault::Misuse);
}

#[test]
fn only_a_new_or_empty_folder_becomes_a_repository() {
    let scratch = Scratch::new();
    let new = scratch.0.join("a/b/c");
    Local::create(&new).unwrap();
    assert_eq!([mode(&new), mode(&scratch.0.join("a"))], [0o700; 2]);
    fs::create_dir(new.join("lost+found")).unwrap();
    // As a writer leaves it that dies in its first put.
    fs::create_dir(new.join(TEMPORARY)).unwrap();
    fs::write(new.join(TEMPORARY).join(format!("1-{}", "0".repeat(32))), "x").unwrap();
    Local::create(&new).unwrap();
    fs::write(new.join(TEMPORARY).join("letter"), "x").unwrap();
    let refused = Local::create(&new).unwrap_err();
    assert_eq!(refused.fault(), Fault::Misuse);
    assert!(refused.chain().contains(TEMPORARY) && refused.chain().contains("a/b/c"), "{refused:?}");
    fs::remove_dir_all(new.join(TEMPORARY)).unwrap();
    fs::write(new.join("photo"), "x").unwrap();
    assert_eq!(fault(Local::create(&new)), Fault::Misuse);
}

#[test]
fn objects_take_owner_group_and_mode_from_the_repository() {
    let scratch = Scratch::new();
    // Only root may give files away; others see the modes alone.
    let owner = rustix::process::geteuid().is_root().then_some(12_345);
    for (folder, file) in [(0o700, 0o400), (0o2770, 0o440), (0o755, 0o444), (0o1777, 0o444)] {
        let path = scratch.0.join(format!("{folder:o}"));
        let store = Local::create(&path).unwrap();
        chown(&path, owner, owner).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(folder)).unwrap();
        store.put("packs/3f/a", b"x").unwrap();
        assert_eq!(mode(&path.join("packs/3f/a")), file);
        for made in ["packs", "packs/3f", TEMPORARY] {
            assert_eq!(mode(&path.join(made)), folder, "{made}");
        }
        let found = fs::metadata(path.join("packs/3f/a")).unwrap();
        let above = fs::metadata(&path).unwrap();
        assert_eq!((found.uid(), found.gid()), (above.uid(), above.gid()));
        assert_eq!(fs::metadata(path.join("packs/3f")).unwrap().uid(), above.uid());
    }
}

#[test]
fn a_full_disk_is_full_and_leaves_nothing_behind() {
    struct Mounted(PathBuf);
    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
        }
    }
    let scratch = Scratch::new();
    let path = scratch.0.join("disk");
    fs::create_dir(&path).unwrap();
    let options = c"size=1m,mode=700";
    let flags = rustix::mount::MountFlags::empty();
    if let Err(e) = rustix::mount::mount("none", &path, "tmpfs", flags, Some(options)) {
        return eprintln!("no disk can be mounted here ({e}): this test is skipped");
    }
    let _mounted = Mounted(path.clone());
    let store = Local::create(&path).unwrap();
    store.put("packs/00/small", &[1; 100_000]).unwrap();
    let failed = store.put("packs/01/large", &[2; 2_000_000]).unwrap_err();
    assert_eq!(failed.fault(), Fault::Full);
    let text = failed.chain();
    assert!(text.contains("packs/01/large") && text.contains(&store.location()), "{text}");
    assert_eq!(store.list("").unwrap().len(), 1);
    assert_eq!(path.join(TEMPORARY).read_dir().unwrap().count(), 0);
    store.put("packs/01/fits", &[3; 500_000]).unwrap();
}

#[test]
fn symbolic_links_lead_nowhere() {
    let scratch = Scratch::new();
    let (path, outside) = (scratch.0.join("repo"), scratch.0.join("outside"));
    let store = Local::create(&path).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "x").unwrap();
    symlink(&outside, path.join("packs")).unwrap();
    fs::create_dir(path.join("keys")).unwrap();
    symlink(outside.join("secret"), path.join("keys/secret")).unwrap();
    symlink(outside.join("none"), path.join("keys/none")).unwrap();
    for name in ["packs/secret", "keys/secret", "keys/none"] {
        assert_eq!(fault(store.get(name, 10)), Fault::Damaged, "{name}");
        assert_eq!(fault(store.size(name)), Fault::Damaged, "{name}");
        assert_eq!(fault(store.put(name, b"y")), Fault::Damaged, "{name}");
    }
    assert_eq!(fault(store.delete("packs/secret")), Fault::Damaged);
    // What is behind a link to a folder would look as if it were gone.
    for prefix in ["packs/", ""] {
        assert_eq!(fault(store.list(prefix)), Fault::Damaged, "{prefix}");
        assert_eq!(fault(store.names(prefix)), Fault::Damaged, "{prefix}");
    }
    assert_eq!(store.names("keys/").unwrap(), ["keys/none", "keys/secret"]);
    assert_eq!(fs::read(outside.join("secret")).unwrap(), b"x");
    assert_eq!(outside.read_dir().unwrap().count(), 1);
}

#[test]
fn what_is_no_object_is_listed_and_never_read_and_hidden_files_are_not_ours() {
    let scratch = Scratch::new();
    let store = Local::create(&scratch.0).unwrap();
    store.put("keys/1", b"x").unwrap();
    fs::write(scratch.0.join("keys/.nfs0001"), "x").unwrap();
    fs::create_dir(scratch.0.join("lost+found")).unwrap();
    assert_eq!(store.list("").unwrap().len(), 1);
    let fifo = scratch.0.join("keys/fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert_eq!(fault(store.get("keys/fifo", 10)), Fault::Damaged);
    assert_eq!(fault(store.get("keys", 10)), Fault::Damaged);
    assert_eq!(fault(store.delete("keys")), Fault::Damaged);
    // It is shown, so that somebody can look at it, and hides nothing else.
    fs::write(scratch.0.join("keys/1 (copy)"), "x").unwrap();
    fs::create_dir_all(scratch.0.join("keys/my photos/old")).unwrap();
    fs::write(scratch.0.join("keys").join(OsStr::from_bytes(b"\xff\n")), "x").unwrap();
    let shown = ["keys/1", "keys/1 (copy)", "keys/fifo", "keys/my photos", "keys/\u{fffd}\n"];
    assert_eq!(store.names("keys/").unwrap(), shown);
    assert_eq!(store.list("keys/").unwrap().into_iter().map(|l| l.name).collect::<Vec<_>>(), shown);
    assert_eq!(fault(store.get("keys/1 (copy)", 10)), Fault::Misuse);
}

#[test]
fn the_store_stays_the_same_place_when_its_path_changes() {
    let scratch = Scratch::new();
    let (path, moved) = (scratch.0.join("repo"), scratch.0.join("moved"));
    let store = Local::create(&path).unwrap();
    store.put("keys/1", b"x").unwrap();
    fs::rename(&path, &moved).unwrap();
    Local::create(&path).unwrap();
    assert_eq!(store.list("keys/").unwrap().len(), 1);
    store.put("keys/2", b"x").unwrap();
    assert!(moved.join("keys/2").exists() && !path.join("keys").exists());
}

#[test]
fn a_removed_repository_is_not_an_empty_one() {
    let scratch = Scratch::new();
    let path = scratch.0.join("repo");
    let store = Local::create(&path).unwrap();
    store.put("keys/1", b"x").unwrap();
    fs::remove_dir_all(&path).unwrap();
    assert_eq!(fault(store.list("keys/")), Fault::NoRepository);
    assert_eq!(fault(store.list("")), Fault::NoRepository);
    assert_eq!(fault(store.get("keys/1", 10)), Fault::NoRepository);
    assert_eq!(fault(store.delete("keys/1")), Fault::NoRepository);
    assert_eq!(fault(store.put("keys/1", b"x")), Fault::NoRepository);
}

#[test]
fn folders_that_are_removed_under_a_writer_are_made_again() {
    let scratch = Scratch::new();
    let store = Local::create(&scratch.0).unwrap();
    store.put("packs/3f/a", b"x").unwrap();
    fs::remove_dir_all(scratch.0.join("packs")).unwrap();
    fs::remove_dir(scratch.0.join(TEMPORARY)).unwrap();
    store.put("packs/3f/a", b"x").unwrap();
    assert_eq!(Local::open(&scratch.0).unwrap().get("packs/3f/a", 1).unwrap(), b"x");
}

#[test]
fn what_was_read_and_then_deleted_or_replaced_is_not_read_from_memory() {
    let scratch = Scratch::new();
    let store = Local::create(&scratch.0).unwrap();
    let reader = Local::open(&scratch.0).unwrap();
    for name in ["packs/aa/1", "packs/aa/2", "packs/aa/3"] {
        store.put(name, b"first").unwrap();
        assert_eq!(reader.range(name, 1, 3).unwrap(), b"irs");
    }
    store.delete("packs/aa/1").unwrap();
    assert_eq!(fault(reader.range("packs/aa/1", 0, 1)), Fault::Missing);
    fs::write(scratch.0.join("new"), b"second").unwrap();
    fs::rename(scratch.0.join("new"), scratch.0.join("packs/aa/2")).unwrap();
    assert_eq!(reader.range("packs/aa/2", 0, 6).unwrap(), b"second");
    let file = fs::OpenOptions::new().write(true).open(scratch.0.join("packs/aa/3")).unwrap();
    file.set_len(2).unwrap();
    assert_eq!(fault(reader.range("packs/aa/3", 0, 5)), Fault::Damaged);
}
