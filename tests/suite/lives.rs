//! Lives of repositories: files come, change and go, backups are made and killed, snapshots are forgotten and brought back,
//! objects are damaged and mended, caches vanish, prunes run and die, the store's clock jumps. After each step the
//! repository shows what a model says, and every snapshot is what was copied aside when it was made.
//!
//! One interpreter (`life`) lives them, by two kinds of hands: the program, killed by a signal, and the library in this process,
//! whose storage ends in the midst of what is done. What happens is drawn at random, or written as a script: a string of
//! bytes, each a choice, so that any bytes are some life. Scripts that are worth keeping lie in `fuzz/corpus/operations`.
//! They are no target of `cargo fuzz`: that would compile all of RocksDB once more, under each sanitizer. `make fuzz` lives
//! scripts all the same, drawn at random and from the corpus, for as long as it gives each of its targets (`LIVES_SECONDS`).
//!
//! `LIFE_SEED` lives one of the drawn lives again, `LIFE_SCRIPT` (in hexadecimal) a written one; each is told where it fails.
//! `LIVES` says how many of each the soak has (100).

mod choices;
mod hands;
mod library;
mod life;

use super::scene::{Draw, Scene};
use choices::Choices;
use hands::{Deed, Ended, Hands, Program, Shown};
use library::Library;
use life::{Life, STEPS_OF_A_LIFE};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Longest script that is drawn, in bytes: a step takes about four.
const SCRIPT_MAX: u64 = 160;

/// Calls `live` with numbers that nobody has used yet, on all cores, while `wanted` says so of how many there were before.
fn each_while(wanted: impl Fn(usize) -> bool + Sync, live: impl Fn(u64) + Sync) {
    let (next, seed) = (AtomicUsize::new(0), u64::from(pastfs::clock::now().nanos));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if !wanted(n) {
                        return;
                    }
                    live(seed + n as u64);
                }
            });
        }
    });
}

/// The same, so many times.
fn each(count: usize, live: impl Fn(u64) + Sync) {
    each_while(|n| n < count, live);
}

fn lives(count: usize) {
    let live = |seed| {
        Life::live(&format!("LIFE_SEED={seed}"), Box::new(Program::default()), Choices::seed(seed));
    };
    match std::env::var("LIFE_SEED").ok().and_then(|s| s.parse().ok()) {
        Some(seed) => live(seed),
        None => each(count, live),
    }
    println!("{count} lives of {STEPS_OF_A_LIFE} steps");
}

/// A life by what the bytes say.
fn written(script: &[u8]) {
    let name = format!("LIFE_SCRIPT={}", pastfs::id::hex(script));
    Life::live(&name, Box::new(Library::default()), Choices::script(script));
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let pair = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("LIFE_SCRIPT is hexadecimal");
    (0..hex.len() / 2).map(|n| pair(2 * n)).collect()
}

/// Scripts of the corpus.
fn corpus() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/operations");
    let files: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(!files.is_empty());
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Any bytes; every other time one of the corpus with some of them drawn anew.
fn draw_script(seed: u64, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut draw = Draw(seed);
    let len = draw.next() % SCRIPT_MAX;
    if draw.next().is_multiple_of(2) {
        return draw.bytes(len as usize);
    }
    let mut script = corpus[draw.next() as usize % corpus.len()].clone();
    for _ in 0..1 + draw.next() % 8 {
        let at = draw.next() as usize % script.len().max(1);
        match (draw.next() % 3, draw.next() as u8) {
            (0, byte) => script.insert(at, byte),
            (1, byte) if at < script.len() => script[at] = byte,
            _ if at < script.len() => drop(script.remove(at)),
            _ => {}
        }
    }
    script
}

/// For so long or, where nobody said how long, so many.
fn scripts(count: usize, seconds: Option<u64>) {
    if let Ok(script) = std::env::var("LIFE_SCRIPT") {
        return written(&bytes_of(&script));
    }
    let (corpus, lived) = (corpus(), AtomicUsize::new(0));
    let end = seconds.map(|s| Instant::now() + Duration::from_secs(s));
    let wanted = |n| end.map_or(n < count, |end| Instant::now() < end);
    each_while(wanted, |seed| {
        written(&draw_script(seed, &corpus));
        lived.fetch_add(1, Ordering::Relaxed);
    });
    println!("{} lives by scripts", lived.into_inner());
}

fn asked() -> usize {
    std::env::var("LIVES").ok().and_then(|n| n.parse().ok()).unwrap_or(100)
}

#[test]
fn in_a_life_drawn_at_random_nothing_is_lost_and_nothing_is_wrong() {
    lives(6);
}

#[test]
fn in_a_life_by_any_script_nothing_is_lost_and_nothing_is_wrong() {
    scripts(8, None);
}

#[test]
fn in_the_lives_of_the_corpus_nothing_is_lost_and_nothing_is_wrong() {
    let (corpus, next) = (corpus(), AtomicUsize::new(0));
    each(corpus.len(), |_| written(&corpus[next.fetch_add(1, Ordering::Relaxed)]));
}

/// A library that loses its largest pack before something is done.
struct Clumsy {
    library: Library,
    before: fn(&Deed) -> bool,
}

impl Hands for Clumsy {
    fn does(&mut self, scene: &Scene, machine: usize, deed: &Deed) -> Ended {
        if (self.before)(deed) {
            let packs = scene.objects().into_iter().filter(|o| o.starts_with("packs"));
            let packs = packs.map(|o| scene.repository().join(o));
            fs::remove_file(packs.max_by_key(|p| fs::metadata(p).unwrap().len()).unwrap()).unwrap();
        }
        self.library.does(scene, machine, deed)
    }
    fn dies(&mut self, scene: &Scene, machine: usize, deed: &Deed, part: u64) {
        self.library.dies(scene, machine, deed, part);
    }
    fn shown(&self, scene: &Scene, machine: usize) -> Shown {
        self.library.shown(scene, machine)
    }
    fn there(&self, scene: &Scene, machine: usize) -> BTreeSet<String> {
        self.library.there(scene, machine)
    }
    fn restores(&mut self, scene: &Scene, machine: usize, id: &str, to: &Path) -> bool {
        self.library.restores(scene, machine, id, to)
    }
    fn passes(&mut self, scene: &Scene, seconds: i64) {
        self.library.passes(scene, seconds);
    }
    fn has_clock(&self) -> bool {
        true
    }
}

#[test]
fn a_life_in_which_something_is_lost_is_found_out() {
    let lived = |before: fn(&Deed) -> bool| {
        let hands = Clumsy { library: Library::default(), before };
        let live = || Life::live("a canary, which is to fail", Box::new(hands), Choices::script(&[9, 9, 9]));
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(live)).is_ok()
    };
    assert!(lived(|_| false));
    assert!(!lived(|deed| matches!(deed, Deed::Check)));
}

#[test]
#[ignore = "minutes: LIVES (100) lives"]
fn in_a_hundred_lives_nothing_is_lost_and_nothing_is_wrong() {
    lives(asked());
}

#[test]
#[ignore = "minutes: LIVES (100) lives by scripts"]
fn in_a_hundred_lives_by_scripts_nothing_is_lost_and_nothing_is_wrong() {
    scripts(asked(), std::env::var("LIVES_SECONDS").ok().and_then(|n| n.parse().ok()));
}
