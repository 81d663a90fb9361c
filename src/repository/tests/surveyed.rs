//! What a survey makes of notes, and of what goes while it looks.

use super::seen::note;
use super::*;
use crate::event::Stop;
use crate::format::snapshot::Action;

fn survey(store: &Arc<Driven>) -> super::super::Survey {
    let cache = Caches::new();
    open(store, &cache).unwrap().survey(&Stop::new()).unwrap()
}

#[test]
fn a_note_counts_while_it_is_whole_and_is_told_once_it_is_not() {
    let store = Driven::new();
    init(&store);
    let cache = Caches::new();
    let r = open(&store, &cache).unwrap();
    let ids = [1, 2].map(|n| done(backup(&r, n, HashSet::new()).unwrap()));
    let name = note(&store, Action::Forget, &ids[..1]);
    let before = survey(&store);
    assert!(before.flaws.is_empty(), "{:?}", before.flaws);
    assert_eq!(before.snapshots.iter().map(|s| s.id).collect::<Vec<_>>(), ids[1..]);
    let mut bytes = store.memory.get(&name, u64::MAX).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    store.memory.delete(&name).unwrap();
    store.memory.put(&name, &bytes).unwrap();
    let after = survey(&store);
    assert_eq!(after.flaws.iter().map(|f| f.object.as_str()).collect::<Vec<_>>(), [name.as_str()]);
    assert_eq!(after.snapshots.len(), 2, "a note that proves nothing forgets nothing");
}

#[test]
fn a_segment_that_goes_while_it_is_looked_at_is_no_damage_and_all_is_listed_again() {
    let store = Driven::new();
    init(&store);
    let cache = Caches::new();
    let r = open(&store, &cache).unwrap();
    done(backup(&r, 1, HashSet::new()).unwrap());
    let before = survey(&store);
    assert!(!before.packs.is_empty() && before.unused.is_empty());
    let listings = Arc::new(AtomicUsize::new(0));
    let counted = listings.clone();
    store.hook(Some(Box::new(move |memory, op, name| {
        if op == "names" && name == "index/" {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        if op == "get" && name.starts_with("index/") {
            memory.delete(name)?;
        }
        Ok(())
    })));
    let after = survey(&store);
    store.hook(None);
    assert!(after.flaws.is_empty(), "{:?}", after.flaws);
    assert!(listings.load(Ordering::SeqCst) > 1, "listed once");
    assert!(r.has_changed_since(&before).unwrap());
    assert_eq!(after.unused.len(), before.packs.len());
}
