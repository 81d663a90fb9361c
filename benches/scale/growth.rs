//! What work costs as the repository or the source grows: the same work at several sizes side by side, and the exponent of
//! the growth (1: twice the size costs twice as much; 0: it costs the same).

use super::{Place, Used, base, generated};
use generated::Author;
use pastfs::clock;
use pastfs::id::ChunkId;
use pastfs::index::Index;
use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// Look-ups of one kind.
const LOOKUPS: usize = 20_000;
/// Look-ups of chunks far apart after nothing of the index was in memory: nearly each reads the disk.
const COLD_LOOKUPS: usize = 2000;
/// Packs of one published segment, as backups publish them.
const SEGMENT_PACKS: u64 = 8;
/// Bytes that a backup into a big repository stores.
const BACKUP_BYTES: usize = 256 << 20;
/// Data in a sparse file, in stretches at even distances, whatever its length.
const SPARSE_BYTES: u64 = 256 << 20;
/// One stretch.
const STRETCH: usize = 1 << 20;

/// Figures by name, one for each size.
struct Table {
    what: &'static str,
    sizes: Vec<u64>,
    rows: Vec<(String, Vec<Option<f64>>)>,
}

impl Table {
    fn of(what: &'static str, sizes: &[u64], mut each: impl FnMut(u64, &mut dyn FnMut(&str, f64))) {
        let mut table = Self { what, sizes: sizes.to_vec(), rows: Vec::new() };
        for (n, size) in sizes.iter().enumerate() {
            each(*size, &mut |name, value| {
                eprintln!("{what} {size}: {name}: {value:.3}");
                let at = table.rows.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
                    table.rows.push((name.to_owned(), vec![None; sizes.len()]));
                    table.rows.len() - 1
                });
                table.rows[at].1[n] = Some(value);
            });
        }
        table.print();
    }

    fn print(&self) {
        print!("\n| {} |", self.what);
        self.sizes.iter().for_each(|size| print!(" {size} |"));
        println!(" exponent |\n|---|{}", "---|".repeat(self.sizes.len() + 1));
        for (name, values) in &self.rows {
            print!("| {name} |");
            values.iter().for_each(|v| print!(" {} |", v.map_or_else(String::new, shown)));
            println!(" {} |", self.exponent(values).map_or_else(String::new, |e| format!("{e:.2}")));
        }
    }

    /// From the first size to the last.
    fn exponent(&self, values: &[Option<f64>]) -> Option<f64> {
        let (first, last) = ((*values.first()?)?, (*values.last()?)?);
        let grown = *self.sizes.last()? as f64 / *self.sizes.first()? as f64;
        (grown > 1.0 && first > 0.0 && last > 0.0).then(|| (last / first).ln() / grown.ln())
    }
}

fn shown(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.3}"),
    }
}

/// Wall and processor seconds and MiB of a command, as three rows.
fn rows(name: &str, used: &Used, row: &mut dyn FnMut(&str, f64)) {
    row(&format!("{name}, s"), used.wall.as_secs_f64());
    row(&format!("{name}, CPU s"), used.cpu.as_secs_f64());
    row(&format!("{name}, MiB"), used.kib as f64 / 1024.0);
}

/// A folder of its own.
fn bare(name: &str, size: u64) -> Place {
    let place = Place(base().join(format!("pastfs-{name}-{size}")));
    let _ = fs::remove_dir_all(&place.0);
    fs::create_dir_all(&place.0).expect("a folder");
    place
}

/// An empty repository in a folder of its own.
fn place(name: &str, size: u64) -> Place {
    let place = bare(name, size);
    place.run(["init", "-q"]);
    place
}

fn bytes_below(dir: &Path) -> u64 {
    let each = |entry: fs::DirEntry| match entry.metadata().expect("a file") {
        m if m.is_dir() => bytes_below(&entry.path()),
        m => m.blocks() * 512,
    };
    fs::read_dir(dir).expect("a folder").flatten().map(each).sum()
}

/// Drops the files of this folder from memory, and nothing else of the machine.
fn forget_pages(dir: &Path) {
    for entry in fs::read_dir(dir).expect("a folder").flatten() {
        if entry.path().is_dir() {
            forget_pages(&entry.path());
        } else if let Ok(file) = fs::File::open(entry.path()) {
            let _ = file.sync_all();
            // SAFETY: advice for an open file; no memory of ours is concerned.
            unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        }
    }
}

/// Random bytes to a file.
fn noise(path: &Path, len: usize) {
    let mut file = fs::File::create(path).expect("a file");
    let mut buffer = vec![0; STRETCH];
    for _ in 0..len / STRETCH {
        clock::random(&mut buffer);
        file.write_all(&buffer).expect("room");
    }
}

/// Look-ups a second, of chunks that are there and of others.
fn lookups(index: &Index, ids: &[ChunkId], find: impl Fn(&Index, &ChunkId) -> bool) -> f64 {
    let began = Instant::now();
    let found = ids.iter().filter(|id| find(index, id)).count();
    assert!(found == ids.len() || found == 0, "{found} of {} chunks are known", ids.len());
    ids.len() as f64 / began.elapsed().as_secs_f64()
}

/// An index of so many chunks: what it takes on the disk and in memory, look-ups, its making, the segments of another
/// machine, and a backup into such a repository.
pub fn index(sizes: &[u64]) {
    Table::of("chunks in the index", sizes, |chunks, row| {
        let place = place("index", chunks);
        let author = Author::of(&place.0.join("repository"), &place.0.join("key"));
        let mut sample: Vec<ChunkId> = Vec::new();
        let every = (chunks / LOOKUPS as u64).max(1) as usize;
        let segments = |chunks: u64| (chunks / generated::PACK_CHUNKS / SEGMENT_PACKS).max(1);
        author.chunks_heard(chunks, segments(chunks), |ids| {
            sample.extend(ids.iter().step_by(every.min(ids.len())));
        });
        rows("made from nothing", &place.measure(&["snapshots", "-q"]), row);
        let repository = place.repository();
        let dir = repository.cache_dir().to_path_buf();
        row("bytes on disk for each chunk", bytes_below(&dir) as f64 / chunks as f64);
        row(
            "bytes of segments for each chunk",
            bytes_below(&place.0.join("repository/index")) as f64 / chunks as f64,
        );
        drop(repository);
        let missing: Vec<ChunkId> = (0..LOOKUPS).map(|_| ChunkId(clock::random_array())).collect();
        sample.sort_by_key(|id| id.0[31]);
        let known = |index: &Index, id: &ChunkId| index.known(id).expect("an index").is_some();
        let placed = |index: &Index, id: &ChunkId| !index.places(id).expect("an index").is_empty();
        forget_pages(&dir);
        let began = Instant::now();
        let index = Index::open(&dir).expect("an index");
        row("opened, cold, ms", began.elapsed().as_secs_f64() * 1e3);
        let cold = &sample[..COLD_LOOKUPS.min(sample.len())];
        row("known, cold, a second", lookups(&index, cold, known));
        row("places, cold, a second", lookups(&index, &sample[sample.len() - cold.len()..], placed));
        let warm: Vec<ChunkId> = sample.iter().take(LOOKUPS).copied().collect();
        lookups(&index, &warm, known);
        row("known, warm, a second", lookups(&index, &warm, known));
        row("not known, warm, a second", lookups(&index, &missing, known));
        lookups(&index, &warm, placed);
        row("places, warm, a second", lookups(&index, &warm, placed));
        drop(index);
        let began = Instant::now();
        drop(Index::open(&dir).expect("an index"));
        row("opened, warm, ms", began.elapsed().as_secs_f64() * 1e3);
        rows("a command that needs it", &place.measure(&["snapshots", "-q"]), row);
        let others = chunks / 100;
        for turn in ["1 % more, from another machine", "1 % more once again"] {
            author.chunks(others, segments(others));
            rows(turn, &place.measure(&["snapshots", "-q"]), row);
        }
        let source = place.0.join("source");
        fs::create_dir_all(&source).expect("a folder");
        noise(&source.join("noise"), BACKUP_BYTES);
        let source = source.to_str().expect("a name in UTF-8");
        rows("a backup of 256 MiB", &place.measure(&["backup", "-q", source]), row);
        rows("the same again", &place.measure(&["backup", "-q", source]), row);
        fs::remove_dir_all(&place.0).expect("what was made goes");
    });
}

/// One folder with so many files; they are empty, as a file system that discards each freed block would take longer than
/// all that is measured.
pub fn folder(sizes: &[u64]) {
    Table::of("files in one folder", sizes, |files, row| {
        let place = place("folder", files);
        let source = place.0.join("source");
        fs::create_dir_all(&source).expect("a folder");
        for n in 0..files {
            fs::write(source.join(format!("file-{n:08}")), "").expect("a file");
        }
        let path = source.to_str().expect("a name in UTF-8");
        rows("first backup", &place.measure(&["backup", "-q", path]), row);
        rows("no change", &place.measure(&["backup", "-q", path]), row);
        row("stored, bytes for each file", bytes_below(&place.0.join("repository")) as f64 / files as f64);
        fs::write(source.join("file-00000000"), b"changed").expect("a file");
        rows("one file changed", &place.measure(&["backup", "-q", path]), row);
        place.mounted(|mnt, pid| {
            let there = mnt.join("latest").join(path.trim_start_matches('/'));
            let list = |args: &[&str]| {
                let began = Instant::now();
                let out = Command::new("ls").args(args).arg(&there).output().expect("ls");
                assert_eq!(
                    out.stdout
                        .split(|b| *b == b'\n')
                        .filter(|l| l.starts_with(b"f") || l.starts_with(b"-"))
                        .count(),
                    files as usize
                );
                began.elapsed().as_secs_f64()
            };
            row("ls -U through the mount, s", list(&["-U"]));
            row("ls -l through the mount, s", list(&["-lU"]));
            row("ls -U again, s", list(&["-U"]));
            row("the mount, MiB", super::memory_of_process(pid) as f64 / 1024.0);
        });
        let target = place.0.join("restored");
        let target = target.to_str().expect("a name in UTF-8");
        rows("restore", &place.measure(&["restore", "-q", "latest", "--target", target]), row);
        rows("restore again", &place.measure(&["restore", "-q", "latest", "--target", target]), row);
        fs::remove_dir_all(&place.0).expect("what was made goes");
    });
}

/// A sparse file of so many bytes with 256 MiB of data in it.
pub fn sparse(sizes: &[u64]) {
    Table::of("bytes of a sparse file with 256 MiB of data", sizes, |len, row| {
        let place = place("sparse", len);
        let source = place.0.join("source");
        fs::create_dir_all(&source).expect("a folder");
        let file = fs::File::create(source.join("disk")).expect("a file");
        file.set_len(len).expect("a long file");
        let stretches = SPARSE_BYTES / STRETCH as u64;
        let mut buffer = vec![0; STRETCH];
        let at = |n: u64| (n * (len / stretches)) & !4095;
        for n in 0..stretches {
            clock::random(&mut buffer);
            file.write_all_at(&buffer, at(n)).expect("room");
        }
        let path = source.to_str().expect("a name in UTF-8");
        rows("first backup", &place.measure(&["backup", "-q", path]), row);
        rows("no change", &place.measure(&["backup", "-q", path]), row);
        file.write_all_at(b"changed", at(stretches / 2)).expect("room");
        rows("one byte changed", &place.measure(&["backup", "-q", path]), row);
        row("stored, MiB", bytes_below(&place.0.join("repository")) as f64 / (1 << 20) as f64);
        place.mounted(|mnt, pid| {
            let there = mnt.join("latest").join(path.trim_start_matches('/')).join("disk");
            let began = Instant::now();
            let stat = fs::metadata(&there).expect("the file");
            assert_eq!(stat.len(), len);
            row("stat, ms", began.elapsed().as_secs_f64() * 1e3);
            row("du, MiB", stat.blocks() as f64 / 2048.0);
            let disk = fs::File::open(&there).expect("the file");
            let began = Instant::now();
            let mut bytes = [0; 4096];
            for n in 0..stretches {
                disk.read_exact_at(&mut bytes, at(n)).expect("data");
                assert!(bytes.iter().any(|b| *b != 0));
                disk.read_exact_at(&mut bytes, at(n) + 2 * STRETCH as u64).expect("a hole");
                assert!(bytes.iter().all(|b| *b == 0));
            }
            row("512 reads of 4 KiB in data and holes, ms", began.elapsed().as_secs_f64() * 1e3);
            let copy = place.0.join("copy");
            let began = Instant::now();
            let done = Command::new("cp").arg("--sparse=auto").arg(&there).arg(&copy).status().expect("cp");
            assert!(done.success());
            row("cp out of the mount, s", began.elapsed().as_secs_f64());
            row("the copy, du, MiB", fs::metadata(&copy).expect("the copy").blocks() as f64 / 2048.0);
            row("the mount, MiB", super::memory_of_process(pid) as f64 / 1024.0);
        });
        let target = place.0.join("restored");
        let target = target.to_str().expect("a name in UTF-8");
        rows("restore", &place.measure(&["restore", "-q", "latest", "--target", target]), row);
        fs::remove_dir_all(&place.0).expect("what was made goes");
    });
}

/// A repository of so many snapshots of one small tree.
pub fn snapshots(sizes: &[u64]) {
    Table::of("snapshots", sizes, |count, row| {
        let place = bare("snapshots", count);
        place.fill(count as usize, generated::PACK_CHUNKS);
        let source = place.0.join("source");
        let source = source.to_str().expect("a name in UTF-8");
        rows("first command of a machine", &place.measure(&["snapshots", "-q"]), row);
        rows("snapshots", &place.measure(&["snapshots", "-q"]), row);
        rows("backup, no change", &place.measure(&["backup", "-q", source]), row);
        rows(
            "forget --dry-run",
            &place.measure(&["forget", "--dry-run", "-q", "--keep-daily", "7", "--keep-monthly", "12"]),
            row,
        );
        place.mounted(|mnt, pid| {
            let began = Instant::now();
            let listed = fs::read_dir(mnt).expect("the mount").count();
            row("ls of the mount, s", began.elapsed().as_secs_f64());
            row("names in it", listed as f64);
            row("the mount, MiB", super::memory_of_process(pid) as f64 / 1024.0);
        });
        fs::remove_dir_all(&place.0).expect("what was made goes");
    });
}
