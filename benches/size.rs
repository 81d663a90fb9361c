//! How small data lies, by what was chosen: `cargo bench --bench size -- NAME=FOLDER[+FOLDER]...`.
//!
//! Cuts, deduplicates, frames and compresses as a backup does, once with the defaults, and then with one choice changed at
//! a time: sizes of chunks, raw bytes of the frames of small and of big files, zstd's level, order of the small files. Of a second
//! folder, a later state of the first, it tells what is added. Prints a table for each data set: bytes of sealed frames, chunks, user
//! time of cutting and naming, and of compressing (one thread). Bytes do not depend on the machine.
//!
//! `PASTFS_SIZE_MIB` (512): so much of each folder is read, in the order of the walk. `PASTFS_SIZE_ONLY=WORD` measures only the
//! choices whose name holds the word.

use pastfs::chunk::{Chunker, DEFAULT_AVG, Params};
use pastfs::id::ChunkId;
use pastfs::seal::{Compression, Compressor, IdSecret, Kind, TAG_LEN};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Files up to this many bytes count as small, as `src/backup/files.rs` has it.
const SMALL_MAX: u64 = 512 << 10;

/// What is varied, from the defaults of the program.
#[derive(Clone)]
struct Choice {
    name: String,
    avg: u32,
    small: usize,
    big: usize,
    level: i32,
    by_extension: bool,
}

/// What is left of a data set.
#[derive(Default)]
struct Sum {
    stored: usize,
    chunks: usize,
    cutting: f64,
    packing: f64,
}

fn choices() -> Vec<Choice> {
    let default = Choice {
        name: "as it is".into(),
        avg: DEFAULT_AVG,
        small: 512 << 10,
        big: 64 << 10,
        level: 3,
        by_extension: false,
    };
    let mut all = vec![default.clone()];
    let mut add = |name: String, change: &dyn Fn(&mut Choice)| {
        let mut choice = Choice { name, ..default.clone() };
        change(&mut choice);
        all.push(choice);
    };
    for avg in [16, 64] {
        add(format!("chunks of {avg} KiB"), &|c| c.avg = avg << 10);
    }
    for kib in [256, 1024] {
        add(format!("small files in frames of {kib} KiB"), &|c| c.small = kib << 10);
    }
    for kib in [32, 128, 256] {
        add(format!("big files in frames of {kib} KiB"), &|c| c.big = kib << 10);
    }
    add("small files of a folder by extension".into(), &|c| c.by_extension = true);
    for level in [1, 6, 19] {
        add(format!("level {level}"), &|c| c.level = level);
    }
    let only = std::env::var("PASTFS_SIZE_ONLY").unwrap_or_default();
    all.into_iter().filter(|c| c.name.contains(&only)).collect()
}

/// Regular files below, depth-first by name, until `left` bytes are read.
fn read(dir: &Path, left: &mut u64, out: &mut Vec<(PathBuf, Vec<u8>)>) {
    let Ok(list) = fs::read_dir(dir) else { return };
    let mut list: Vec<_> = list.flatten().collect();
    list.sort_by_key(|e| e.file_name());
    for entry in list {
        let Ok(stat) = entry.metadata() else { continue };
        if stat.is_dir() {
            read(&entry.path(), left, out);
        } else if stat.is_file() && stat.len() > 0 && stat.len() <= *left {
            let Ok(bytes) = fs::read(entry.path()) else { continue };
            *left -= stat.len();
            out.push((entry.path(), bytes));
        }
    }
}

/// Seconds of user time of this process.
fn user() -> f64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: all zeros are a valid rusage, which the call fills.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    usage.ru_utime.tv_sec as f64 + usage.ru_utime.tv_usec as f64 / 1e6
}

/// Frames in the making, as in the stages of a writer.
struct Frames<'a> {
    open: HashMap<bool, Vec<u8>>,
    compressor: Compressor,
    choice: &'a Choice,
    stored: usize,
}

impl Frames<'_> {
    fn put(&mut self, small: bool, chunk: &[u8]) {
        let limit = if small { self.choice.small } else { self.choice.big };
        let open = self.open.entry(small).or_default();
        if !open.is_empty() && open.len() + chunk.len() > limit {
            self.end(small);
        }
        let open = self.open.entry(small).or_default();
        open.extend_from_slice(chunk);
        if open.len() >= limit {
            self.end(small);
        }
    }

    fn end(&mut self, small: bool) {
        let raw = self.open.remove(&small).unwrap_or_default();
        if !raw.is_empty() {
            self.stored += self.compressor.payload(&raw).expect("zstd").len() + TAG_LEN;
        }
    }
}

fn measure(files: &[(PathBuf, Vec<u8>)], choice: &Choice, known: &mut HashSet<ChunkId>) -> Sum {
    let params = Params::FastCdc { min: choice.avg / 4, avg: choice.avg, max: choice.avg * 4 };
    let chunker = Chunker::new(params, 42).expect("sizes in range");
    let ids = IdSecret::from_slice(&[3; 32]).expect("32 bytes").id_keys();
    let mut order: Vec<_> = files.iter().collect();
    if choice.by_extension {
        order.sort_by_key(|(path, bytes)| match bytes.len() as u64 > SMALL_MAX {
            true => (None, None),
            false => (path.parent(), path.extension()),
        });
    }
    let mut sum = Sum::default();
    let began = user();
    let mut new = Vec::new();
    for (_, bytes) in order.into_iter().filter(|(_, bytes)| bytes.len() > pastfs::format::tree::INLINE_MAX) {
        for chunk in chunker.split(bytes) {
            if known.insert(ids.id(Kind::Data, chunk)) {
                new.push((bytes.len() as u64 <= SMALL_MAX, chunk));
            }
        }
    }
    sum.cutting = user() - began;
    sum.chunks = new.len();
    let began = user();
    let mut frames = Frames {
        open: HashMap::new(),
        compressor: Compressor::new(Compression::Zstd(choice.level)).expect("a level"),
        choice,
        stored: 0,
    };
    new.into_iter().for_each(|(small, chunk)| frames.put(small, chunk));
    frames.end(true);
    frames.end(false);
    sum.packing = user() - began;
    sum.stored = frames.stored;
    sum
}

fn main() {
    let mib = std::env::var("PASTFS_SIZE_MIB").ok().and_then(|m| m.parse().ok()).unwrap_or(512u64);
    for arg in std::env::args().skip(1) {
        let Some((name, folders)) = arg.split_once('=') else { continue };
        let states: Vec<_> = folders
            .split('+')
            .map(|folder| {
                let mut files = Vec::new();
                read(Path::new(folder), &mut (mib << 20), &mut files);
                files
            })
            .collect();
        let bytes =
            |state: &Vec<(PathBuf, Vec<u8>)>| state.iter().map(|f| f.1.len()).sum::<usize>() as f64 / 1e6;
        println!("\n{name}: {} files, {:.1} MB", states[0].len(), bytes(&states[0]));
        println!(
            "| choice | stored MB | chunks | cut s | compress s | added MB | chunks |\n|---|---|---|---|---|---|---|"
        );
        for choice in choices() {
            let mut known = HashSet::new();
            print!("| {} |", choice.name);
            for (n, state) in states.iter().enumerate() {
                let sum = measure(state, &choice, &mut known);
                print!(" {:.2} | {} |", sum.stored as f64 / 1e6, sum.chunks);
                if n == 0 {
                    print!(" {:.1} | {:.1} |", sum.cutting, sum.packing);
                }
            }
            println!("{}", if states.len() == 1 { " | |" } else { "" });
        }
    }
}
