//! Promises of the whole index, tried on real databases.

mod hardship;

use super::*;
use crate::clock;
use crate::format::cbor::Unknown;
use crate::format::pack::{Frame, Header, Recipient, SEALED_KEY_LEN};
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

/// A folder that is removed at the end.
struct Temp(PathBuf);

impl Temp {
    fn new() -> Self {
        Self(
            std::env::temp_dir()
                .join(format!("pastfs-index-{}", crate::id::hex(&clock::random_array::<8>()))),
        )
    }
    fn open(&self) -> Index {
        Index::open(&self.0).unwrap()
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// xorshift64*: a failure is a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }
}

fn name(kind: &str, n: u64) -> [u8; 32] {
    *blake3::hash(format!("{kind} {n}").as_bytes()).as_bytes()
}
fn chunk(n: u64) -> ChunkId {
    ChunkId(name("chunk", n))
}
fn pack(n: u64) -> PackId {
    PackId(name("pack", n))
}
fn segment(n: u64) -> SegmentId {
    SegmentId(name("segment", n))
}

/// An entry of pack `n` with these chunks, seven to a frame.
fn entry(n: u64, chunks: &[u64]) -> PackEntry {
    let recipients = vec![Recipient { hint: [1; 8], sealed: [n as u8; SEALED_KEY_LEN] }];
    let header = Header { cipher: 1, space: Space::Data, epoch: 0, recipients }.encode();
    let frames: Vec<Frame> = chunks
        .chunks(7)
        .map(|c| Frame { sealed_len: 1000, chunks: c.iter().map(|c| 1 + (c % 1000) as u32).collect() })
        .collect();
    PackEntry {
        pack: pack(n),
        size: 1 << 30,
        header,
        frames,
        ids: chunks.iter().map(|c| chunk(*c)).collect(),
        unknown: Unknown::default(),
    }
}

fn retirement(n: u64, sweep: u8) -> Retirement {
    Retirement {
        pack: pack(n),
        sweep: SessionId([sweep; 16]),
        retired: 0,
        deleted: None,
        unknown: Unknown::default(),
    }
}

fn whole(n: u64, chunks: std::ops::Range<u64>) -> Applied {
    let chunks: Vec<u64> = chunks.collect();
    let packs = vec![NewPack { entry: entry(n, &chunks), trusted: true }];
    Applied { segment: segment(n), packs, retired: Vec::new(), replaces: Vec::new() }
}

/// What a store lists.
type Store = BTreeMap<SegmentId, Applied>;

/// What a caller does: lists, fetches what is missing, applies.
fn sync(index: &Index, store: &Store) {
    let here = index.segments().unwrap();
    let new = store.values().filter(|a| !here.contains(&a.segment)).cloned().collect();
    let gone: Vec<SegmentId> = here.into_iter().filter(|id| !store.contains_key(id)).collect();
    index.apply(new, &gone, Vec::new()).unwrap();
    assert_eq!(index.segments().unwrap(), store.keys().copied().collect());
}

type Spots = HashSet<(PackId, u32, u32, u32)>;

fn spots(places: &[Place]) -> Spots {
    places.iter().map(|p| (p.pack.id, p.frame, p.offset, p.len)).collect()
}

/// What a store says of every chunk: its places, and the packs in which it is known.
#[derive(Default)]
struct Truth {
    places: BTreeMap<ChunkId, Spots>,
    known: BTreeMap<ChunkId, HashSet<PackId>>,
    retired: HashSet<PackId>,
    packs: HashSet<PackId>,
}

fn truth(store: &Store) -> Truth {
    let mut truth = Truth::default();
    truth.retired.extend(store.values().flat_map(|s| s.retired.iter().map(|r| r.pack)));
    for p in store.values().flat_map(|s| &s.packs) {
        truth.packs.insert(p.entry.pack);
        let mut ids = p.entry.ids.iter();
        let mut seen = HashSet::new();
        for (number, frame) in p.entry.frames.iter().enumerate() {
            let mut offset = 0;
            for (len, id) in frame.chunks.iter().zip(&mut ids) {
                if seen.insert(*id) {
                    let spot = (p.entry.pack, number as u32, offset, *len);
                    truth.places.entry(*id).or_default().insert(spot);
                }
                if p.trusted && !truth.retired.contains(&p.entry.pack) {
                    truth.known.entry(*id).or_default().insert(p.entry.pack);
                }
                offset += len;
            }
        }
    }
    truth
}

fn compare(index: &Index, store: &Store, chunks: u64) {
    let truth = truth(store);
    for n in 0..chunks {
        let id = chunk(n);
        let places = index.places(&id).unwrap();
        assert_eq!(spots(&places), truth.places.get(&id).cloned().unwrap_or_default(), "chunk {n}");
        let order: Vec<bool> = places.iter().map(|p| truth.retired.contains(&p.pack.id)).collect();
        assert!(order.is_sorted(), "a retired pack stands before one that is not");
        match (index.known(&id).unwrap(), truth.known.get(&id)) {
            (None, None) => {}
            (Some(pack), Some(packs)) if packs.contains(&pack) => {}
            (told, packs) => panic!("chunk {n}: {told:?} of {packs:?}"),
        }
    }
    assert_eq!(index.packs().unwrap().into_iter().collect::<HashSet<_>>(), truth.packs);
    for id in &truth.packs {
        assert_eq!(index.pack(id).unwrap().unwrap().id, *id);
    }
    assert_eq!(index.counts().unwrap().segments, store.len());
}

fn random_segment(dice: &mut Dice, n: u64, chunks: u64, size: u64) -> Applied {
    let packs = (0..dice.roll(3))
        .map(|_| {
            // Few packs, so that several entries name one; with doubles inside an entry.
            let which = dice.roll(60);
            let ids: Vec<u64> = (0..1 + dice.roll(size)).map(|_| dice.roll(chunks)).collect();
            NewPack { entry: entry(which, &ids), trusted: dice.roll(3) > 0 }
        })
        .collect();
    let retired = (0..dice.roll(3)).map(|_| retirement(dice.roll(60), dice.roll(5) as u8)).collect();
    Applied { segment: segment(n), packs, retired, replaces: Vec::new() }
}

#[test]
fn any_sequence_of_listings_gives_what_the_last_listing_says() {
    for seed in 1..=6 {
        let mut dice = Dice(seed * 7919);
        let temp = Temp::new();
        let mut index = temp.open();
        let mut store = Store::new();
        let mut n = 0;
        let chunks = 300;
        let size = if seed % 2 == 0 { 20 } else { 600 };
        for _ in 0..25 {
            for _ in 0..dice.roll(7) {
                n += 1;
                store.insert(segment(n), random_segment(&mut dice, n, chunks, size));
            }
            match dice.roll(6) {
                0 | 1 => store.retain(|_, _| dice.roll(4) > 0),
                2 => {
                    // Merge: all entries and retirements move into one new segment.
                    n += 1;
                    let all: Vec<Applied> = std::mem::take(&mut store).into_values().collect();
                    let packs = all.iter().flat_map(|a| a.packs.clone()).collect();
                    let retired = all.iter().flat_map(|a| a.retired.clone()).collect();
                    store.insert(
                        segment(n),
                        Applied { segment: segment(n), packs, retired, replaces: Vec::new() },
                    );
                }
                3 => {
                    drop(index);
                    index = temp.open();
                }
                _ => {}
            }
            sync(&index, &store);
            compare(&index, &store, chunks);
            let mut sweeps: Vec<_> = store.values().flat_map(|a| a.retired.iter().map(|r| r.sweep)).collect();
            sweeps.sort_unstable();
            sweeps.dedup();
            assert_eq!(index.sweeps().unwrap(), sweeps);
        }
    }
}

#[test]
fn known_is_only_what_a_trusted_entry_says_of_a_pack_that_is_not_retired() {
    for extra in [0, 5000] {
        // Once from memory, once from the database.
        let temp = Temp::new();
        let index = temp.open();
        let trusted = |n, chunks: &[u64]| NewPack { entry: entry(n, chunks), trusted: true };
        let stranger = |n, chunks: &[u64]| NewPack { entry: entry(n, chunks), trusted: false };
        let mut store = Store::new();
        let put = |store: &mut Store, n, packs, retired| {
            store.insert(segment(n), Applied { segment: segment(n), packs, retired, replaces: Vec::new() });
        };
        put(&mut store, 1, vec![trusted(1, &[1, 2]), stranger(2, &[3])], vec![]);
        // A stranger says more of the trusted pack 1 than its author did.
        put(&mut store, 2, vec![stranger(1, &[1, 2, 4])], vec![]);
        if extra > 0 {
            store.insert(segment(99), whole(99, 10_000..10_000 + extra));
        }
        sync(&index, &store);
        assert_eq!(index.known(&chunk(1)).unwrap(), Some(pack(1)));
        assert_eq!(index.known(&chunk(3)).unwrap(), None);
        assert_eq!(index.places(&chunk(3)).unwrap().len(), 1);
        assert_eq!(index.known(&chunk(4)).unwrap(), None);
        assert_eq!(index.pack(&pack(1)).unwrap().unwrap().frames[0].raw_len, 2 + 3);

        // A full key vouches for the stranger's entry.
        put(&mut store, 3, vec![trusted(2, &[3])], vec![]);
        sync(&index, &store);
        assert_eq!(index.known(&chunk(3)).unwrap(), Some(pack(2)));

        put(&mut store, 4, vec![], vec![retirement(1, 9)]);
        sync(&index, &store);
        assert_eq!(index.known(&chunk(1)).unwrap(), None);
        assert!(!index.places(&chunk(1)).unwrap().is_empty());
        assert_eq!(index.sweeps().unwrap(), [SessionId([9; 16])]);
        // A chunk of the same id and another length is not the same.
        assert_eq!(index.known_with(&chunk(3), Some(4), &HashSet::new()).unwrap(), Some(pack(2)));
        assert_eq!(index.known_with(&chunk(3), Some(5), &HashSet::new()).unwrap(), None);

        // Of two packs that hold it, one that is not distrusted is enough.
        put(&mut store, 5, vec![trusted(5, &[3])], vec![]);
        sync(&index, &store);
        let index = Arc::new(index);
        let claims =
            |distrust: &[u64]| Claims::new(index.clone(), distrust.iter().map(|n| pack(*n)).collect());
        assert_eq!(claims(&[2]).claim(&chunk(3), 4).unwrap(), Claim::Known(Some(pack(5))));
        assert_eq!(claims(&[5]).claim(&chunk(3), 4).unwrap(), Claim::Known(Some(pack(2))));
        assert_eq!(claims(&[2, 5]).claim(&chunk(3), 4).unwrap(), Claim::New);
        assert!(!claims(&[2, 5]).knows(&chunk(3), None).unwrap());
    }
}

#[test]
fn a_handful_of_entries_waits_in_memory_and_counts() {
    let temp = Temp::new();
    let (one, two) = (temp.open(), temp.open());
    let mut store = Store::new();
    for n in 0..SEGMENTS_IN_MEMORY as u64 {
        store.insert(segment(n), whole(n, n * 100..n * 100 + 50));
        sync(&one, &store);
    }
    compare(&one, &store, 900);
    assert!(two.segments().unwrap().is_empty());
    assert!(temp.open().segments().unwrap().is_empty());
    // One more is too many: everything goes to the database, and the next to open finds it.
    store.insert(segment(50), whole(50, 5000..5001));
    sync(&one, &store);
    assert_eq!(temp.open().segments().unwrap().len(), SEGMENTS_IN_MEMORY + 1);
    // To another that is open it counts only once a listing of its own named it; nothing is stored twice.
    assert_eq!(two.known(&chunk(0)).unwrap(), None);
    sync(&two, &store);
    compare(&two, &store, 900);
    assert_eq!(two.counts().unwrap().chunks_estimate, 8 * 50 + 1);
}

#[test]
fn files_are_remembered_until_they_are_forgotten() {
    let temp = Temp::new();
    let index = temp.open();
    let file = |n: u8| ([n; 16], vec![n; 30]);
    index.apply(vec![whole(1, 0..10)], &[], vec![file(1), file(2)]).unwrap();
    let other = temp.open();
    assert_eq!(other.file(&[2; 16]).unwrap(), Some(vec![2; 30]));
    assert_eq!(other.file(&[3; 16]).unwrap(), None);
    assert_eq!(other.known(&chunk(3)).unwrap(), Some(pack(1)));
    other.forget_files().unwrap();
    other.forget_files().unwrap();
    index.catch_up().unwrap();
    assert_eq!(index.file(&[2; 16]).unwrap(), None);
    index.apply(vec![], &[], vec![file(7)]).unwrap();
    assert_eq!(temp.open().file(&[7; 16]).unwrap(), Some(vec![7; 30]));
    assert_eq!(temp.open().file(&[2; 16]).unwrap(), None);
    assert_eq!(index.known(&chunk(3)).unwrap(), Some(pack(1)));
}

#[test]
fn many_chunks_are_all_found_and_no_others() {
    let temp = Temp::new();
    let index = temp.open();
    let mut store = Store::new();
    for n in 0..40 {
        store.insert(segment(n), whole(n, n * 5000..n * 5000 + 5000));
        if n % 4 == 3 {
            sync(&index, &store); // ten batches: more than start a compaction
        }
    }
    for index in [index, temp.open()] {
        for n in (0..200_000).step_by(3) {
            let places = index.places(&chunk(n)).unwrap();
            assert_eq!(places.len(), 1, "chunk {n}");
            assert_eq!(places[0].pack.id, pack(n / 5000));
            assert_eq!(places[0].frame, (n % 5000) as u32 / 7);
        }
        for n in 200_000..210_000 {
            assert!(index.places(&chunk(n)).unwrap().is_empty());
        }
    }
}

#[test]
fn chunks_of_packs_that_are_gone_leave_the_database() {
    let temp = Temp::new();
    let index = temp.open();
    let mut store = Store::new();
    for n in 0..11 {
        store.insert(segment(n), whole(n, n * 10_000..n * 10_000 + 10_000));
    }
    store.insert(segment(50), whole(50, 500_000..500_100));
    sync(&index, &store);
    let size = || -> u64 {
        let db = fs::read_dir(&temp.0)
            .unwrap()
            .flatten()
            .find(|e| e.file_name().to_string_lossy().starts_with("db-"));
        let files = fs::read_dir(db.unwrap().path()).unwrap().flatten();
        files
            .filter(|f| f.file_name().to_string_lossy().ends_with(".sst"))
            .map(|f| f.metadata().unwrap().len())
            .sum()
    };
    let before = size();
    let reader = temp.open();
    store.retain(|id, _| *id == segment(50));
    store.insert(segment(60), whole(60, 600_000..603_000));
    sync(&index, &store);
    assert!(size() < before / 10, "{} of {before}", size());
    // Who still counts them misses them, and is healed by its next listing.
    reader.catch_up().unwrap();
    assert!(reader.known(&chunk(5)).unwrap().is_none());
    for index in [&index, &reader, &temp.open()] {
        sync(index, &store);
        assert_eq!(index.known(&chunk(5)).unwrap(), None);
        assert_eq!(index.known(&chunk(500_050)).unwrap(), Some(pack(50)));
        assert_eq!(index.known(&chunk(602_999)).unwrap(), Some(pack(60)));
        assert_eq!(index.counts().unwrap().chunks_estimate, 3100);
    }
}

#[test]
fn an_entry_whose_numbers_disagree_changes_nothing() {
    let temp = Temp::new();
    let index = temp.open();
    let mut bad = whole(2, 0..10);
    bad.packs[0].entry.ids.pop();
    let result = index.apply(vec![whole(1, 0..10), bad], &[], vec![]);
    assert_eq!(result.unwrap_err().fault(), Fault::Damaged);
    assert!(index.segments().unwrap().is_empty());
    assert_eq!(index.known(&chunk(1)).unwrap(), None);
}

#[test]
fn the_cache_is_closed_to_others_and_refused_when_it_is_anothers() {
    let temp = Temp::new();
    drop(temp.open());
    assert_eq!(fs::metadata(&temp.0).unwrap().mode() & 0o777, 0o700);
    fs::set_permissions(&temp.0, fs::Permissions::from_mode(0o755)).unwrap();
    drop(temp.open());
    assert_eq!(fs::metadata(&temp.0).unwrap().mode() & 0o777, 0o700);
    if !rustix::process::geteuid().is_root() {
        return; // only root can give it away
    }
    std::os::unix::fs::chown(&temp.0, Some(12345), None).unwrap();
    let e = Index::open(&temp.0).map(|_| ()).unwrap_err();
    assert_eq!(e.fault(), Fault::Denied);
    assert!(e.advice().unwrap().contains("--cache"));
}

#[test]
fn each_chunk_is_claimed_by_one_thread() {
    for stored in [false, true] {
        let temp = Temp::new();
        let index = Arc::new(temp.open());
        let chunks: u64 = 4000;
        let mut store: Store = [(segment(1), whole(1, 0..100))].into();
        store.insert(segment(2), whole(2, 100..200));
        if stored {
            store.insert(segment(3), whole(3, 100_000..103_000));
        }
        sync(&index, &store);
        let claims = Claims::new(index.clone(), HashSet::new());
        let new = Mutex::new(BTreeMap::<u64, usize>::new());
        std::thread::scope(|threads| {
            for who in 0..8u64 {
                let (claims, new, index) = (&claims, &new, &index);
                threads.spawn(move || {
                    let mut mine = Vec::new();
                    for i in 0..chunks {
                        let n = (i * (2 * who + 1) + who * 17) % chunks;
                        if claims.claim(&chunk(n), 1 + (n % 1000) as u32).unwrap() == Claim::New {
                            *new.lock().entry(n).or_default() += 1;
                            mine.push(n);
                        }
                        if mine.len() == 100 || i + 1 == chunks {
                            // As a backup does: pack, publish, then let go of the claims.
                            let at = 1000 + who * chunks + i;
                            let packs = vec![NewPack { entry: entry(at, &mine), trusted: true }];
                            claims.wrote(pack(at));
                            let applied =
                                Applied { segment: segment(at), packs, retired: vec![], replaces: vec![] };
                            index.apply(vec![applied], &[], vec![]).unwrap();
                            let ids: Vec<ChunkId> = mine.drain(..).map(chunk).collect();
                            claims.published(&ids);
                        }
                    }
                });
            }
        });
        let new = new.into_inner();
        assert!(new.values().all(|times| *times == 1));
        assert!(new.keys().copied().eq(200..chunks));
        assert_eq!(claims.open(), 0);
        let mut relied = vec![pack(1), pack(2)];
        relied.sort_unstable();
        assert_eq!(claims.relied(), relied);
    }
}
