//! What is remembered of listings: nothing is read twice, nothing false is believed, and what vanishes is told.

use super::*;
use crate::format::object::Kind as Object;
use crate::format::snapshot::{Action, Note, Unread};
use crate::id::NoteId;
use std::fs;

/// Keeps the warnings.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Observer for Heard {
    fn event(&self, event: Event<'_>) {
        if let Event::Warning(text) = event {
            self.0.lock().push(text.to_owned());
        }
    }
}

/// A process of its own: lists, and tells what it was warned of.
fn look(store: &Arc<Driven>, cache: &Caches) -> (Vec<SnapshotId>, Vec<String>) {
    let heard = Arc::new(Heard::default());
    let options = OpenOptions { cache: cache.0.clone(), observer: heard.clone() };
    let r = Repository::open(store.clone(), &credential(), options).unwrap();
    let mut ids: Vec<SnapshotId> = r.snapshots().unwrap().iter().map(|s| s.id).collect();
    ids.sort();
    let warnings = heard.0.lock().clone();
    (ids, warnings)
}

/// A store with `count` snapshots, which `cache` has not seen.
fn stage(count: u8) -> (Arc<Driven>, Vec<SnapshotId>, Caches) {
    let store = Driven::new();
    init(&store);
    let mut ids = add(&store, count);
    ids.sort();
    (store, ids, Caches::new())
}

/// More snapshots, by a machine whose cache is gone afterwards.
fn add(store: &Arc<Driven>, count: u8) -> Vec<SnapshotId> {
    let other = Caches::new();
    let r = open(store, &other).unwrap();
    let ids = (0..count).map(|_| done(backup(&r, 1, HashSet::new()).unwrap())).collect();
    drop(r);
    ids
}

pub(super) fn note(store: &Arc<Driven>, action: Action, snapshots: &[SnapshotId]) -> String {
    let other = Caches::new();
    let r = open(store, &other).unwrap();
    let note = Note {
        action,
        time: clock::now(),
        snapshots: snapshots.to_vec(),
        tags: Vec::new(),
        session: None,
        lost: Vec::new(),
        unknown: Default::default(),
    };
    let object = r.keys.seal_object(Object::Note, note.encode()).unwrap();
    let name = format!("notes/{}", NoteId::of_object(&object));
    store.memory.put(&name, &object).unwrap();
    name
}

fn vanish(store: &Arc<Driven>, id: &SnapshotId) -> Vec<u8> {
    let name = format!("snapshots/{id}");
    let bytes = store.memory.get(&name, u64::MAX).unwrap();
    store.memory.delete(&name).unwrap();
    bytes
}

/// No manifest or note can be read any more.
fn unreadable(store: &Arc<Driven>) {
    store.hook(Some(Box::new(|_, op, name| {
        let is_listed = name.starts_with("snapshots/") || name.starts_with("notes/");
        if op == "get" && is_listed { Err(Error::new(Fault::Io, "unreadable")) } else { Ok(()) }
    })));
}

/// The file of the cache that remembers.
fn file_of(cache: &Caches) -> PathBuf {
    let inner = fs::read_dir(&cache.0).unwrap().next().unwrap().unwrap().path();
    let mut files = fs::read_dir(inner).unwrap().map(|e| e.unwrap().path());
    files.find(|p| p.file_name().unwrap().to_str().unwrap().starts_with("seen-")).unwrap()
}

#[test]
fn what_was_seen_is_not_read_again() {
    let (store, mut ids, cache) = stage(5);
    note(&store, Action::Hold, &ids[..1]);
    assert_eq!(look(&store, &cache), (ids.clone(), vec![]));
    unreadable(&store);
    assert_eq!(look(&store, &cache), (ids.clone(), vec![]));
    store.hook(None);
    ids.extend(add(&store, 1));
    ids.sort();
    let before = store.calls.load(Ordering::SeqCst);
    assert_eq!(look(&store, &cache), (ids, vec![]));
    let calls = store.calls.load(Ordering::SeqCst) - before;
    assert!(calls < 10, "{calls} calls for one new snapshot");
}

#[test]
fn a_cache_that_was_altered_cut_or_brought_from_elsewhere_is_not_believed_and_heals() {
    let (store, ids, cache) = stage(3);
    look(&store, &cache);
    let path = file_of(&cache);
    let good = fs::read(&path).unwrap();
    let (other_store, _, other_cache) = stage(2);
    look(&other_store, &other_cache);
    let foreign = fs::read(file_of(&other_cache)).unwrap();
    let mut bad: Vec<Vec<u8>> = (0..good.len()).step_by(97).map(|n| good[..n].to_vec()).collect();
    bad.extend((0..good.len()).step_by(61).map(|n| {
        let mut bytes = good.clone();
        bytes[n] ^= 0x40;
        bytes
    }));
    bad.extend([foreign, [&good[..], &good[..]].concat(), [&good[..], b"x"].concat(), vec![0; 1000]]);
    for (n, bytes) in bad.iter().enumerate() {
        fs::write(&path, bytes).unwrap();
        assert_eq!(look(&store, &cache), (ids.clone(), vec![]), "case {n}");
        unreadable(&store);
        assert_eq!(look(&store, &cache), (ids.clone(), vec![]), "case {n} did not heal");
        store.hook(None);
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(look(&store, &cache), (ids.clone(), vec![]));
    fs::remove_dir_all(&cache.0).unwrap();
    assert_eq!(look(&store, &cache), (ids, vec![]));
}

#[test]
fn two_places_of_one_repository_are_remembered_apart() {
    let (store, ids, cache) = stage(2);
    let replica = Driven::at("elsewhere");
    *replica.memory.0.lock() = store.memory.0.lock().clone();
    vanish(&replica, &ids[0]);
    assert_eq!(look(&store, &cache), (ids.clone(), vec![]));
    assert_eq!(look(&replica, &cache), (ids[1..].to_vec(), vec![]));
    assert_eq!(look(&store, &cache), (ids, vec![]));
}

#[test]
fn the_cache_shows_no_host_and_no_tag() {
    let (store, _, cache) = stage(1);
    let r = open(&store, &cache).unwrap();
    let mut manifest = r.snapshots().unwrap()[0].manifest.clone();
    manifest.host = b"very-secret-host".to_vec();
    manifest.tags = vec![b"very-secret-tag".to_vec()];
    let object = r.keys.seal_object(Object::Manifest, manifest.encode()).unwrap();
    store.memory.put(&format!("snapshots/{}", SnapshotId::of_object(&object)), &object).unwrap();
    assert_eq!(look(&store, &cache).0.len(), 2);
    let bytes = fs::read(file_of(&cache)).unwrap();
    assert!(!bytes.windows(11).any(|w| w == b"very-secret"));
}

#[test]
fn processes_that_share_a_cache_lose_nothing_of_each_other() {
    let (store, _, cache) = stage(1);
    let (a, b) = (open(&store, &cache).unwrap(), open(&store, &cache).unwrap());
    // More than the records after which the file is written anew, by turns.
    for n in 0..150 {
        add(&store, 1);
        let who = if n % 2 == 0 { &a } else { &b };
        assert_eq!(who.snapshots().unwrap().len(), n + 2);
    }
    unreadable(&store);
    assert_eq!(look(&store, &cache).0.len(), 151);
}

#[test]
fn a_vanished_snapshot_is_told_until_it_is_accepted_or_back() {
    let (store, ids, cache) = stage(3);
    look(&store, &cache);
    let bytes = vanish(&store, &ids[1]);
    let rest = vec![ids[0], ids[2]];
    for _ in 0..2 {
        let (seen, told) = look(&store, &cache);
        assert_eq!(seen, rest);
        assert_eq!(told.len(), 1, "{told:?}");
        for part in [&ids[1].short(), "a test", " of h, 20", " UTC", "--accept-vanished", "1 snapshot has"] {
            assert!(told[0].contains(part), "{part}: {told:?}");
        }
    }
    store.memory.put(&format!("snapshots/{}", ids[1]), &bytes).unwrap();
    assert_eq!(look(&store, &cache), (ids.clone(), vec![]));
    vanish(&store, &ids[1]);
    assert_eq!(open(&store, &cache).unwrap().accept_vanished().unwrap(), 1);
    assert_eq!(look(&store, &cache), (rest.clone(), vec![]));
    assert_eq!(open(&store, &cache).unwrap().accept_vanished().unwrap(), 0);
    // Back, and gone again: that is news.
    store.memory.put(&format!("snapshots/{}", ids[1]), &bytes).unwrap();
    assert_eq!(look(&store, &cache), (ids.clone(), vec![]));
    vanish(&store, &ids[1]);
    assert_eq!(look(&store, &cache).1.len(), 1);
}

#[test]
fn an_old_state_is_told_once_with_the_newest_names() {
    let (store, _, cache) = stage(1);
    let old = store.memory.0.lock().clone();
    add(&store, 20);
    assert_eq!(look(&store, &cache).0.len(), 21);
    *store.memory.0.lock() = old;
    let (seen, told) = look(&store, &cache);
    assert_eq!((seen.len(), told.len()), (1, 1), "{told:?}");
    assert!(told[0].starts_with("20 snapshots have vanished from a test"), "{told:?}");
    assert!(told[0].contains("and 15 more"), "{told:?}");
}

/// The mount looks again and again: it tells once.
#[test]
fn one_process_tells_of_a_vanished_snapshot_once() {
    let (store, ids, cache) = stage(2);
    let heard = Arc::new(Heard::default());
    let options = OpenOptions { cache: cache.0.clone(), observer: heard.clone() };
    let r = Repository::open(store.clone(), &credential(), options).unwrap();
    r.snapshots().unwrap();
    vanish(&store, &ids[0]);
    r.snapshots().unwrap();
    r.snapshots().unwrap();
    assert_eq!(heard.0.lock().len(), 1);
}

#[test]
fn a_snapshot_that_its_own_machine_wrote_is_missed_even_if_no_list_ever_showed_it() {
    let (store, _, cache) = stage(0);
    let r = open(&store, &cache).unwrap();
    let id = done(backup(&r, 1, HashSet::new()).unwrap());
    vanish(&store, &id);
    assert_eq!(look(&store, &cache).1.len(), 1);
}

#[test]
fn forgotten_and_deleted_is_no_alarm_also_when_the_note_has_gone_too() {
    let (store, ids, cache) = stage(3);
    look(&store, &cache);
    let name = note(&store, Action::Forget, &ids[..2]);
    vanish(&store, &ids[0]);
    assert_eq!(look(&store, &cache), (ids[2..].to_vec(), vec![]));
    // A year later.
    vanish(&store, &ids[1]);
    store.memory.delete(&name).unwrap();
    assert_eq!(look(&store, &cache), (ids[2..].to_vec(), vec![]));
    assert_eq!(look(&store, &cache), (ids[2..].to_vec(), vec![]));
}

#[test]
fn a_note_that_vanishes_before_its_snapshot_is_told_until_it_is_back_or_accepted() {
    let (store, ids, cache) = stage(2);
    let name = note(&store, Action::Hold, &ids[..1]);
    assert_eq!(look(&store, &cache), (ids.clone(), vec![]));
    let bytes = store.memory.get(&name, u64::MAX).unwrap();
    store.memory.delete(&name).unwrap();
    for _ in 0..2 {
        let (seen, told) = look(&store, &cache);
        assert_eq!((seen, told.len()), (ids.clone(), 1), "{told:?}");
        for part in
            ["1 note has vanished from a test", "holds snapshot", &ids[0].short(), "--accept-vanished"]
        {
            assert!(told[0].contains(part), "{part}: {told:?}");
        }
    }
    store.memory.put(&name, &bytes).unwrap();
    assert_eq!(look(&store, &cache), (ids.clone(), vec![]));
    store.memory.delete(&name).unwrap();
    // The same words under another name: a repair says them again so.
    let r = open(&store, &cache).unwrap();
    let (body, _) = r.keys.open_object(Object::Note, &bytes).unwrap();
    let again = r.keys.seal_object(Object::Note, body).unwrap();
    drop(r);
    let other = format!("notes/{}", NoteId::of_object(&again));
    store.memory.put(&other, &again).unwrap();
    assert_eq!(look(&store, &cache), (ids.clone(), vec![]));
    store.memory.delete(&other).unwrap();
    assert_eq!(look(&store, &cache).1.len(), 1);
    assert_eq!(open(&store, &cache).unwrap().accept_vanished().unwrap(), 1);
    assert_eq!(look(&store, &cache), (ids.clone(), vec![]));
}

#[test]
fn what_was_forgotten_and_taken_back_is_missed() {
    let (store, ids, cache) = stage(2);
    note(&store, Action::Forget, &ids[..1]);
    note(&store, Action::Unforget, &ids[..1]);
    assert_eq!(look(&store, &cache), (ids.clone(), vec![]));
    vanish(&store, &ids[0]);
    assert_eq!(look(&store, &cache).1.len(), 1);
}

#[test]
fn a_note_of_a_newer_version_does_nothing_and_is_no_damage() {
    let (store, ids, cache) = stage(2);
    note(&store, Action::Newer(99), &ids[..1]);
    for _ in 0..2 {
        assert_eq!(look(&store, &cache), (ids.clone(), vec![]));
    }
}

/// B8: another machine has listed the manifest in the moment that it was there.
#[test]
fn a_withdrawn_snapshot_is_no_alarm_for_who_saw_it() {
    let (store, ids, cache) = stage(1);
    let other = Caches::new();
    // Not its own: it goes with `cache`.
    let looking = std::mem::ManuallyDrop::new(Caches(cache.0.clone()));
    let seen = store.clone();
    store.hook(Some(Box::new(move |memory, op, name| {
        if op == "put done" && name.starts_with("snapshots/") {
            memory.0.lock().retain(|n, _| !n.starts_with("leases/"));
            let view = Driven::new();
            *view.memory.0.lock() = seen.memory.0.lock().clone();
            assert_eq!(look(&view, &looking).0.len(), 2);
        }
        Ok(())
    })));
    let r = open(&store, &other).unwrap();
    assert!(matches!(backup(&r, 2, HashSet::new()).unwrap(), Commit::Again(..)));
    store.hook(None);
    assert_eq!(store.names("snapshots/").len(), 1);
    assert_eq!(look(&store, &cache), (ids, vec![]));
}

/// NFS, object stores: a list may be old, an object that can be read is there.
#[test]
fn a_list_that_is_old_is_no_alarm() {
    let (store, ids, cache) = stage(2);
    look(&store, &cache);
    let stale = Driven::new();
    let mut objects = store.memory.0.lock().clone();
    let name = format!("snapshots/{}", ids[0]);
    let hidden = objects.remove(&name).unwrap();
    *stale.memory.0.lock() = objects;
    stale.hook(Some(Box::new(move |memory, op, what| {
        match op {
            "get" if what == name => memory.0.lock().insert(name.clone(), hidden.clone()),
            "names" => memory.0.lock().remove(&name),
            _ => None,
        };
        Ok(())
    })));
    assert_eq!(look(&stale, &cache), (ids[1..].to_vec(), vec![]));
}

#[test]
fn a_config_older_than_one_that_was_seen_is_told() {
    let (store, ids, cache) = stage(1);
    let r = open(&store, &cache).unwrap();
    let newer = Config { number: 2, ..r.config.clone() };
    store.memory.put("config/2", &r.keys.seal_config(newer.encode(), None).unwrap()).unwrap();
    assert_eq!(look(&store, &cache), (ids.clone(), vec![]));
    store.memory.delete("config/2").unwrap();
    let (seen, told) = look(&store, &cache);
    assert_eq!(seen, ids);
    assert!(told.len() == 1 && told[0].starts_with("config/2 has vanished"), "{told:?}");
    open(&store, &cache).unwrap().accept_vanished().unwrap();
    assert_eq!(look(&store, &cache), (ids, vec![]));
}

/// A snapshot more, with this private part.
fn add_private(r: &Repository, store: &Arc<Driven>, private: &Private) -> SnapshotId {
    let mut manifest = r.snapshots().unwrap()[0].manifest.clone();
    manifest.private = r.keys.seal_private(&manifest.session.0, &private.encode()).unwrap();
    let object = r.keys.seal_object(Object::Manifest, manifest.encode()).unwrap();
    let id = SnapshotId::of_object(&object);
    store.memory.put(&format!("snapshots/{id}"), &object).unwrap();
    id
}

#[test]
fn long_lists_of_unread_files_are_not_kept_but_can_be_asked_for_and_paths_outlive_the_manifest() {
    let (store, _, cache) = stage(1);
    let r = open(&store, &cache).unwrap();
    let unread = |n: usize| {
        let of = |n| Unread { path: format!("/home/{n}").into(), reason: vec![b'x'; 40], changed: false };
        (0..n).map(of).collect::<Vec<_>>()
    };
    let paths = |n: usize| (0..n).map(|n| format!("/srv/volumes/{n}").into_bytes()).collect::<Vec<_>>();
    // Unread files, many paths, both; and so many that nothing is kept.
    for (n, private) in
        [(1, unread(200)), (200, vec![]), (200, unread(200)), (20_000, unread(1))].map(|(n, unread)| {
            (n, Private { paths: paths(n), unread_total: unread.len() as u64, unread, ..Private::default() })
        })
    {
        let id = add_private(&r, &store, &private);
        for is_damaged in [false, false, true] {
            let r = open(&store, &cache).unwrap();
            let snapshots = r.snapshots().unwrap();
            let s = snapshots.iter().find(|s| s.id == id).unwrap();
            assert!(s.manifest.private.len() < 64 << 10);
            if !is_damaged {
                assert_eq!(r.private(s).unwrap(), private);
                continue;
            }
            let name = format!("snapshots/{id}");
            store.memory.delete(&name).unwrap();
            store.memory.put(&name, &[7; 3000]).unwrap();
            let brief = Private { unread: Vec::new(), ..private.clone() };
            assert_eq!(r.private(s).ok(), (n < 20_000).then_some(brief));
            store.memory.delete(&name).unwrap();
        }
    }
}

/// What `add_note` writes is remembered at once, as a snapshot is: the storage may lose all of it in the next moment.
#[test]
fn what_this_machine_forgot_is_no_alarm_though_the_note_goes_with_the_snapshot() {
    let (store, ids, cache) = stage(2);
    look(&store, &cache);
    let r = open(&store, &cache).unwrap();
    let notes = r.add_note(Action::Forget, &ids[..1], &[]).unwrap();
    drop(r);
    vanish(&store, &ids[0]);
    store.memory.delete(&format!("notes/{}", notes[0])).unwrap();
    assert_eq!(look(&store, &cache), (ids[1..].to_vec(), vec![]));
}

#[test]
fn the_last_word_counts_though_an_earlier_one_was_said_by_a_clock_that_goes_ahead() {
    let (store, ids, cache) = stage(2);
    let r = open(&store, &cache).unwrap();
    let nanos = 999_999_999;
    for ahead in [60, 86_400, i64::MAX - clock::now().seconds] {
        let note = Note {
            action: Action::Forget,
            time: Time { seconds: clock::now().seconds.saturating_add(ahead).min(i64::MAX - 2), nanos },
            snapshots: ids[..1].to_vec(),
            tags: Vec::new(),
            session: None,
            lost: Vec::new(),
            unknown: Default::default(),
        };
        let object = r.keys.seal_object(Object::Note, note.encode()).unwrap();
        store.memory.put(&format!("notes/{}", NoteId::of_object(&object)), &object).unwrap();
        assert_eq!(look(&store, &cache).0, ids[1..]);
        r.add_note(Action::Unforget, &ids, &[]).unwrap();
        assert_eq!(look(&store, &cache), (ids.clone(), vec![]));
        r.add_note(Action::Forget, &ids[..1], &[]).unwrap();
        assert_eq!(look(&store, &cache), (ids[1..].to_vec(), vec![]));
        r.add_note(Action::Unforget, &ids[..1], &[]).unwrap();
    }
}

#[test]
fn notes_that_may_not_be_are_refused_before_anything_is_written() {
    let (store, ids, cache) = stage(2);
    let r = open(&store, &cache).unwrap();
    let tags = |n: usize| (0..n).map(|i| i.to_string().into_bytes()).collect::<Vec<_>>();
    r.add_note(Action::Hold, &ids[1..], &[]).unwrap();
    r.add_note(Action::Tag, &ids[..1], &tags(256)).unwrap();
    let refused = |action, ids: &[SnapshotId], tags: &[Vec<u8>]| {
        let before = store.names("notes/");
        let fault = r.add_note(action, ids, tags).unwrap_err().fault();
        assert_eq!(store.names("notes/"), before);
        fault
    };
    assert_eq!(refused(Action::Forget, &ids, &[]), Fault::Misuse);
    assert_eq!(refused(Action::Tag, &ids, &[b"one more".to_vec()]), Fault::Misuse);
    assert_eq!(refused(Action::Tag, &ids[1..], &tags(257)), Fault::Misuse);
    assert_eq!(refused(Action::Untag, &ids, &[vec![b'x'; 1025]]), Fault::Misuse);
    assert_eq!(refused(Action::Tag, &ids, &[]), Fault::Misuse);
    assert_eq!(refused(Action::Void, &ids, &[]), Fault::Misuse);
    assert_eq!(refused(Action::Forget, &[SnapshotId([7; 32])], &[]), Fault::Missing);
    assert_eq!(look(&store, &cache), (ids.clone(), vec![]));
    // What is refused of held ones is allowed of the other; nothing is said of no snapshots.
    assert_eq!(r.add_note(Action::Forget, &[], &[]).unwrap(), []);
    assert_eq!(r.add_note(Action::Forget, &ids[..1], &[]).unwrap().len(), 1);
    assert_eq!(r.forgotten().unwrap()[0].id, ids[0]);
}

#[test]
fn a_note_on_very_many_snapshots_is_several_that_can_be_read() {
    let (store, ids, cache) = stage(2);
    let r = open(&store, &cache).unwrap();
    let many = vec![ids[0]; 20_001];
    let tags: Vec<Vec<u8>> = (1..=255).map(|b| vec![b; 1024]).collect();
    assert_eq!(r.add_note(Action::Tag, &many, &tags).unwrap().len(), 3);
    let (listed, told) = look(&store, &Caches::new());
    assert_eq!((listed, told), (ids, vec![]));
    assert!(r.snapshots().unwrap().iter().any(|s| s.tags.len() == 256));
}

#[test]
fn only_a_full_key_writes_notes() {
    let (store, ids, cache) = stage(1);
    let writer = Credential::KeyFile(Zeroizing::new([8; 32]));
    open(&store, &cache).unwrap().add_slot(&writer, Role::Writer, b"", &Label::default()).unwrap();
    let options = OpenOptions { cache: cache.0.clone(), observer: Arc::new(Silent) };
    let r = Repository::open(store.clone(), &writer, options).unwrap();
    for action in [Action::Forget, Action::Unforget, Action::Hold, Action::Release] {
        assert_eq!(r.add_note(action, &ids, &[]).unwrap_err().fault(), Fault::Denied);
    }
    assert_eq!(store.names("notes/"), [""; 0]);
    // The stage can tell them apart: as a full key it does write.
    open(&store, &cache).unwrap().add_note(Action::Forget, &ids, &[]).unwrap();
    assert_eq!(store.names("notes/").len(), 1);
}
