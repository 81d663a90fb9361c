//! The contract of [`Store`] as a test: for tests of stores, here and elsewhere.

#[cfg(test)]
pub(crate) mod memory;

use super::{Listed, MAX_NAME_LEN, MAX_SEGMENTS, Store};
use crate::fault::{Error, Fault};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// Writers that put at the same time.
const WRITERS: usize = 8;
/// Objects in the large list: more than one page of any object store (1000).
const MANY: usize = 2000;
/// Length of the object that takes several writes, and parts of an upload, to send.
const LARGE: usize = 3 << 20;

/// Checks every promise of the contract, each on a fresh store from `make`, which must be empty.
///
/// For tests of stores: `conformance(&|| Box::new(Local::create(&new_folder()).unwrap()))`.
///
/// # Panics
///
/// If a promise is broken: the message has a line for each, with what was seen.
pub fn conformance(make: &dyn Fn() -> Box<dyn Store>) {
    let mut broken = String::new();
    for (promise, check) in PROMISES {
        let store = make();
        if let Err(Broken(why)) = check(&*store) {
            broken.push_str(&format!("\n  {promise}: {why}"));
        }
    }
    assert!(broken.is_empty(), "this store breaks its promises:{broken}");
}

/// What was seen where a promise is broken.
struct Broken(String);

impl From<Error> for Broken {
    fn from(e: Error) -> Self {
        Self(format!("unexpected failure: {e:?}"))
    }
}

type Checked = Result<(), Broken>;
type Check = fn(&dyn Store) -> Checked;

macro_rules! ensure {
    ($holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err(Broken(format!($($why)+)));
        }
    };
}

const PROMISES: &[(&str, Check)] = &[
    ("the location is one line of text", location_is_text),
    ("what was put is read back by get, range, size and list", put_is_read_back),
    ("putting the same bytes again is ok", same_put_is_ok),
    ("putting other bytes under a name is Damaged and changes nothing", other_put_is_refused),
    ("an empty object is an object", empty_object),
    ("a large object comes back whole", large_object),
    ("get is bounded by its limit", get_is_bounded),
    ("range gives exactly what is asked, or Damaged", range_is_exact),
    ("what is not there is Missing", missing_is_missing),
    ("what was deleted is gone, and can be put again", delete_deletes),
    ("deleting what is not there is ok", deleting_nothing_is_ok),
    ("ill-formed names are Misuse, for every method", bad_names_are_misuse),
    ("well-formed names are taken, at any depth and length", good_names_work),
    ("lists hold what is below their folder, and nothing beside it", lists_hold_their_folder),
    ("a folder without objects lists as empty", empty_lists),
    ("dates in lists follow the order of puts", dates_follow_puts),
    ("a list of two thousand objects is complete", many_are_listed),
    ("writers that put one object at once all succeed", racing_same_puts),
    ("of racing writers with different bytes one wins, whole", racing_other_puts),
    ("an object being put is seen whole or not at all", puts_are_atomic),
    ("what is there stays in lists while others write and delete", lists_during_writes),
];

/// `len` bytes that differ by `seed` and do not repeat soon.
fn sample(len: usize, seed: u8) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(0x9e37_79b1) >> 24) as u8 ^ seed).collect()
}

/// The result must be this fault.
fn refused<T>(result: crate::fault::Result<T>, fault: Fault, what: &str) -> Checked {
    match result {
        Err(e) if e.fault() == fault => Ok(()),
        Err(e) => Err(Broken(format!("{what}: {fault:?} expected, got {e:?}"))),
        Ok(_) => Err(Broken(format!("{what}: {fault:?} expected, it succeeded"))),
    }
}

fn names(list: Vec<Listed>) -> BTreeSet<String> {
    list.into_iter().map(|listed| listed.name).collect()
}

/// The names alone are those of the list.
fn names_agree(store: &dyn Store, prefix: &str) -> Checked {
    let (mut alone, list) = (store.names(prefix)?, store.list(prefix)?);
    alone.sort();
    let mut named: Vec<String> = list.into_iter().map(|listed| listed.name).collect();
    named.sort();
    ensure!(alone == named, "the names of {prefix:?} are {alone:?}, and its list has {named:?}");
    Ok(())
}

/// The names of a list, which must hold each once.
fn distinct(list: Vec<Listed>) -> Result<BTreeSet<String>, Broken> {
    let length = list.len();
    let names = names(list);
    ensure!(names.len() == length, "a list of {length} holds only {} names", names.len());
    Ok(names)
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// Waits for threads, and gives the first broken promise of them.
fn join(threads: Vec<thread::ScopedJoinHandle<'_, Checked>>) -> Checked {
    let results: Vec<Checked> = threads
        .into_iter()
        .map(|t| t.join().unwrap_or_else(|_| Err(Broken("a method panicked".to_owned()))))
        .collect();
    results.into_iter().collect()
}

fn location_is_text(store: &dyn Store) -> Checked {
    let location = store.location();
    ensure!(!location.is_empty() && !location.contains('\n'), "it is {location:?}");
    Ok(())
}

fn put_is_read_back(store: &dyn Store) -> Checked {
    let bytes = sample(1000, 1);
    store.put("packs/3f/3f2a", &bytes)?;
    ensure!(store.get("packs/3f/3f2a", 1000)? == bytes, "get gives other bytes");
    ensure!(store.range("packs/3f/3f2a", 0, 1000)? == bytes, "range gives other bytes");
    ensure!(store.size("packs/3f/3f2a")? == 1000, "its size is wrong");
    let list = store.list("packs/")?;
    let is_listed = matches!(&list[..], [one] if one.name == "packs/3f/3f2a" && one.size == 1000);
    ensure!(is_listed, "the list is {list:?}");
    Ok(())
}

fn same_put_is_ok(store: &dyn Store) -> Checked {
    for len in [0, 1, 300_000] {
        let (name, bytes) = (format!("config/{len}"), sample(len, 2));
        store.put(&name, &bytes)?;
        store.put(&name, &bytes)?;
        ensure!(store.get(&name, u64::MAX)? == bytes, "{len} bytes are others now");
    }
    ensure!(store.list("config/")?.len() == 3, "they are listed twice");
    Ok(())
}

fn other_put_is_refused(store: &dyn Store) -> Checked {
    let bytes = sample(300_000, 3);
    let mut last_differs = bytes.clone();
    last_differs[299_999] ^= 1;
    let mut longer = bytes.clone();
    longer.push(0);
    store.put("keys/1", &bytes)?;
    let others =
        [("last byte", &last_differs[..]), ("longer", &longer), ("shorter", &bytes[..1000]), ("empty", &[])];
    for (what, other) in others {
        refused(store.put("keys/1", other), Fault::Damaged, what)?;
        ensure!(store.get("keys/1", u64::MAX)? == bytes, "{what}: the object changed");
    }
    ensure!(names(store.list("")?) == set(&["keys/1"]), "the refused ones left something behind");
    Ok(())
}

fn empty_object(store: &dyn Store) -> Checked {
    store.put("notes/0", &[])?;
    ensure!(store.get("notes/0", 0)?.is_empty(), "get gives bytes");
    ensure!(store.size("notes/0")? == 0, "it has a size");
    ensure!(store.range("notes/0", 0, 0)?.is_empty(), "range gives bytes");
    refused(store.range("notes/0", 0, 1), Fault::Damaged, "its first byte")?;
    ensure!(names(store.list("notes/")?) == set(&["notes/0"]), "it is not listed");
    Ok(())
}

fn large_object(store: &dyn Store) -> Checked {
    let bytes = sample(LARGE, 4);
    store.put("packs/00/large", &bytes)?;
    ensure!(store.get("packs/00/large", LARGE as u64)? == bytes, "get gives other bytes");
    ensure!(store.range("packs/00/large", 12_345, 2 << 20)? == bytes[12_345..][..2 << 20], "range differs");
    Ok(())
}

fn get_is_bounded(store: &dyn Store) -> Checked {
    store.put("index/1", &sample(100, 5))?;
    ensure!(store.get("index/1", 100)?.len() == 100, "at the limit");
    refused(store.get("index/1", 99), Fault::Damaged, "one byte over the limit")?;
    refused(store.get("index/1", 0), Fault::Damaged, "limit 0")
}

fn range_is_exact(store: &dyn Store) -> Checked {
    let bytes = sample(100, 6);
    store.put("packs/01/a", &bytes)?;
    for (offset, length) in [(0, 0), (0, 1), (10, 80), (99, 1), (100, 0), (0, 100)] {
        let range = store.range("packs/01/a", offset as u64, length)?;
        ensure!(range == bytes[offset..offset + length], "{length} bytes at {offset} differ");
    }
    for (offset, length) in
        [(0, 101), (99, 2), (100, 1), (101, 0), (u64::MAX, 1), (i64::MAX as u64, 1), (0, usize::MAX >> 1)]
    {
        let what = format!("{length} bytes at {offset} of 100");
        refused(store.range("packs/01/a", offset, length), Fault::Damaged, &what)?;
    }
    Ok(())
}

fn missing_is_missing(store: &dyn Store) -> Checked {
    for round in ["without the folder", "beside another object"] {
        refused(store.get("packs/02/none", 10), Fault::Missing, round)?;
        refused(store.range("packs/02/none", 0, 10), Fault::Missing, round)?;
        refused(store.range("packs/02/none", 0, 0), Fault::Missing, round)?;
        refused(store.size("packs/02/none"), Fault::Missing, round)?;
        store.put("packs/02/other", b"x")?;
    }
    Ok(())
}

fn delete_deletes(store: &dyn Store) -> Checked {
    store.put("leases/a-1", b"first")?;
    store.put("leases/a-2", b"second")?;
    store.delete("leases/a-1")?;
    refused(store.get("leases/a-1", 10), Fault::Missing, "get")?;
    refused(store.range("leases/a-1", 0, 1), Fault::Missing, "range")?;
    refused(store.size("leases/a-1"), Fault::Missing, "size")?;
    refused(store.modified("leases/a-1"), Fault::Missing, "modified")?;
    names_agree(store, "leases/")?;
    ensure!(names(store.list("leases/")?) == set(&["leases/a-2"]), "the list is not what is left");
    store.put("leases/a-1", b"again")?;
    ensure!(store.get("leases/a-1", 10)? == b"again", "the new object has the old bytes");
    Ok(())
}

fn deleting_nothing_is_ok(store: &dyn Store) -> Checked {
    store.delete("snapshots/none")?;
    store.put("snapshots/one", b"x")?;
    store.delete("snapshots/none")?;
    store.delete("snapshots/one")?;
    store.delete("snapshots/one")?;
    Ok(())
}

fn bad_names_are_misuse(store: &dyn Store) -> Checked {
    store.put("x", b"x")?;
    let long = "a".repeat(MAX_NAME_LEN + 1);
    let deep = ["a"; MAX_SEGMENTS + 1].join("/");
    for bad in [
        "", "/", "/x", "x/", "../x", "a/../x", "./x", "a//x", ".", "..", ".x", "a/.x", "x y", "x\n", "x\0",
        "é", "a\\x", "x?", "tmp", "tmp/x", &long, &deep,
    ] {
        let what = format!("{bad:?}");
        refused(store.put(bad, b"x"), Fault::Misuse, &what)?;
        refused(store.get(bad, 10), Fault::Misuse, &what)?;
        refused(store.range(bad, 0, 1), Fault::Misuse, &what)?;
        refused(store.size(bad), Fault::Misuse, &what)?;
        refused(store.modified(bad), Fault::Misuse, &what)?;
        refused(store.delete(bad), Fault::Misuse, &what)?;
        if !bad.is_empty() && bad != "x/" {
            refused(store.list(bad), Fault::Misuse, &what)?;
            refused(store.names(bad), Fault::Misuse, &what)?;
        }
    }
    refused(store.list("packs"), Fault::Misuse, "a prefix without its slash")?;
    refused(store.list("tmp/"), Fault::Misuse, "the folder of temporary files")?;
    ensure!(names(store.list("")?) == set(&["x"]), "something was done");
    Ok(())
}

fn good_names_work(store: &dyn Store) -> Checked {
    let long = "a".repeat(MAX_NAME_LEN);
    let deep = ["d"; MAX_SEGMENTS].join("/");
    let good =
        ["A-b_c.d", "0", "-", "_", "x..y", "a/tmp", "tmpx", "config.old/1", long.as_str(), deep.as_str()];
    for name in good {
        store.put(name, name.as_bytes())?;
    }
    for name in good {
        ensure!(store.get(name, 1000)? == name.as_bytes(), "{name:?} gives other bytes");
    }
    ensure!(distinct(store.list("")?)? == set(&good), "the list of all differs: {:?}", store.list("")?);
    Ok(())
}

fn lists_hold_their_folder(store: &dyn Store) -> Checked {
    let all = ["packs/00/a", "packs/00/b", "packs/01/a", "packs2/a", "packs-old/a", "index/packs/a", "pack"];
    for name in all {
        store.put(name, b"x")?;
    }
    for (prefix, wanted) in [
        ("packs/", &all[..3]),
        ("packs/00/", &all[..2]),
        ("index/", &all[5..6]),
        ("index/packs/", &all[5..6]),
        ("", &all[..]),
    ] {
        let list = distinct(store.list(prefix)?)?;
        ensure!(list == set(wanted), "{prefix:?} holds {list:?}");
    }
    Ok(())
}

fn empty_lists(store: &dyn Store) -> Checked {
    for prefix in ["", "packs/", "packs/00/"] {
        ensure!(store.list(prefix)?.is_empty(), "{prefix:?} of a new store holds something");
        names_agree(store, prefix)?;
    }
    store.put("packs/00/a", b"x")?;
    store.delete("packs/00/a")?;
    for prefix in ["", "packs/", "packs/00/", "packs/01/"] {
        ensure!(store.list(prefix)?.is_empty(), "{prefix:?} holds something after all was deleted");
    }
    Ok(())
}

fn dates_follow_puts(store: &dyn Store) -> Checked {
    for n in 1..=3 {
        store.put(&format!("leases/s-{n}"), b"x")?;
    }
    let mut list = store.list("leases/")?;
    list.sort_by(|a, b| a.name.cmp(&b.name));
    let is_dated = list.iter().all(|l| l.modified.seconds > 0 && l.modified.nanos < 1_000_000_000);
    ensure!(is_dated && list.is_sorted_by_key(|l| l.modified), "the list is {list:?}");
    for l in &list {
        let modified = store.modified(&l.name)?;
        ensure!(modified == l.modified, "{} is of {modified:?}, and the list says {l:?}", l.name);
    }
    Ok(())
}

fn many_are_listed(store: &dyn Store) -> Checked {
    let name = |n: usize| format!("packs/{:02x}/{n}", n % 16);
    thread::scope(|scope| {
        let put = |w| move || (w..MANY).step_by(WRITERS).try_for_each(|n| Ok(store.put(&name(n), b"x")?));
        join((0..WRITERS).map(|w| scope.spawn(put(w))).collect())
    })?;
    let list = distinct(store.list("packs/")?)?;
    ensure!(list == (0..MANY).map(name).collect(), "it holds {}", list.len());
    names_agree(store, "packs/")?;
    names_agree(store, "")
}

fn racing_same_puts(store: &dyn Store) -> Checked {
    let bytes = sample(100_000, 7);
    for round in 0..10 {
        // A new folder each time: they race to make it as well.
        let name = format!("packs/{round:02x}/same");
        thread::scope(|scope| {
            let put = || -> Checked {
                store.put(&name, &bytes)?;
                ensure!(store.get(&name, u64::MAX)? == bytes, "after its own put a writer reads other bytes");
                Ok(())
            };
            join((0..WRITERS).map(|_| scope.spawn(put)).collect())
        })?;
    }
    ensure!(distinct(store.list("")?)?.len() == 10, "something else was left behind");
    Ok(())
}

fn racing_other_puts(store: &dyn Store) -> Checked {
    for round in 0..10 {
        let name = format!("notes/{round}");
        let won = AtomicUsize::new(0);
        thread::scope(|scope| {
            let put = |w: usize| {
                let (name, won) = (&name, &won);
                move || -> Checked {
                    match store.put(name, &sample(10_000 + w, w as u8)) {
                        Ok(()) => won.fetch_add(1, Ordering::Relaxed),
                        Err(e) if e.fault() == Fault::Damaged => 0,
                        Err(e) => return Err(e.into()),
                    };
                    Ok(())
                }
            };
            join((0..WRITERS).map(|w| scope.spawn(put(w))).collect())
        })?;
        let found = store.get(&name, u64::MAX)?;
        ensure!((0..WRITERS).any(|w| found == sample(10_000 + w, w as u8)), "the object is nobody's");
        ensure!(won.into_inner() > 0, "nobody was told that he won");
    }
    Ok(())
}

/// Runs `watch` again and again while `work` runs, and once after it.
fn while_working(work: impl FnOnce() -> Checked, watch: impl Fn() -> Checked + Sync) -> Checked {
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            loop {
                let is_last = is_done.load(Ordering::Acquire);
                watch()?;
                if is_last {
                    return Ok(());
                }
            }
        });
        let worked = work();
        is_done.store(true, Ordering::Release);
        worked.and(join(vec![watcher]))
    })
}

fn puts_are_atomic(store: &dyn Store) -> Checked {
    const OBJECTS: usize = 24;
    let bytes = sample(LARGE / 3, 8);
    let full = bytes.len() as u64;
    let work = || -> Checked {
        (0..OBJECTS).try_for_each(|n| Ok(store.put(&format!("packs/{:02x}/{n}", n % 3), &bytes)?))
    };
    while_working(work, || {
        for listed in store.list("")? {
            ensure!(listed.size == full, "{} is listed with {} of {full} bytes", listed.name, listed.size);
        }
        for n in 0..OBJECTS {
            match store.get(&format!("packs/{:02x}/{n}", n % 3), full) {
                Ok(found) => ensure!(found == bytes, "a reader got {} other bytes", found.len()),
                Err(e) if e.fault() == Fault::Missing => break,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    })?;
    ensure!(store.list("")?.len() == OBJECTS, "some are missing in the end");
    Ok(())
}

fn lists_during_writes(store: &dyn Store) -> Checked {
    let stays: BTreeSet<String> = (0..40).map(|n| format!("index/stays-{n}")).collect();
    for name in &stays {
        store.put(name, b"x")?;
    }
    let work = || -> Checked {
        for n in 0..100 {
            store.put(&format!("index/goes-{n}"), b"x")?;
            if n >= 5 {
                store.delete(&format!("index/goes-{}", n - 5))?;
            }
        }
        Ok(())
    };
    while_working(work, || {
        let list = distinct(store.list("index/")?)?;
        ensure!(stays.is_subset(&list), "some vanished from a list of {}", list.len());
        let is_known = |name: &String| stays.contains(name) || name.starts_with("index/goes-");
        ensure!(list.iter().all(is_known), "a list holds what nobody put: {list:?}");
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::memory::Memory;
    use super::*;
    use crate::fault::Result;

    /// A store that breaks one promise: the suite must see it.
    struct Faulty(Memory, &'static str);

    impl Store for Faulty {
        fn location(&self) -> String {
            self.0.location()
        }
        fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
            match self.1 {
                "overwrites" => self.0.delete(name)?,
                "shows halves" if bytes.len() > 1 => {
                    let half = bytes[..bytes.len() / 2].to_vec();
                    self.0.0.lock().entry(name.to_owned()).or_insert((half, crate::clock::now()));
                    crate::clock::sleep(std::time::Duration::from_millis(2));
                    self.0.0.lock().remove(name);
                }
                _ => {}
            }
            self.0.put(name, bytes)
        }
        fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
            let limit = if self.1 == "ignores limits" { u64::MAX } else { limit };
            self.0.get(name, limit)
        }
        fn range(&self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
            match self.1 {
                "reads short" => {
                    let length = length.min(self.0.size(name)?.saturating_sub(offset) as usize);
                    self.0.range(name, offset, length)
                }
                _ => self.0.range(name, offset, length),
            }
        }
        fn size(&self, name: &str) -> Result<u64> {
            self.0.size(name)
        }
        fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
            let mut list = self.0.list(prefix)?;
            if self.1 == "lists one page" {
                list.truncate(1000);
            }
            Ok(list)
        }
        fn modified(&self, name: &str) -> Result<crate::clock::Time> {
            self.0.modified(name)
        }
        fn names(&self, prefix: &str) -> Result<Vec<String>> {
            let mut names = self.0.names(prefix)?;
            if self.1 == "forgets a name" {
                names.pop();
            }
            Ok(names)
        }
        fn delete(&self, name: &str) -> Result<()> {
            if self.1 == "misses deletes" { Ok(()) } else { self.0.delete(name) }
        }
        fn may_be_stale(&self) -> bool {
            false
        }
    }

    fn passes(fault: &'static str) -> bool {
        let make = move || Box::new(Faulty(Memory::default(), fault)) as Box<dyn Store>;
        std::panic::catch_unwind(|| conformance(&make)).is_ok()
    }

    #[test]
    fn the_store_in_memory_keeps_the_contract() {
        assert!(passes(""));
    }

    #[test]
    fn the_suite_sees_each_broken_promise() {
        for fault in [
            "overwrites",
            "ignores limits",
            "reads short",
            "lists one page",
            "forgets a name",
            "misses deletes",
            "shows halves",
        ] {
            assert!(!passes(fault), "{fault}");
        }
    }
}
