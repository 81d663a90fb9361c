//! What each room costs by itself: `make bench-parts`. Compare within one run; these numbers are of one machine.

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pastfs::chunk::{Chunker, Params};
use pastfs::clock;
use pastfs::format::pack::{Frame, Header, PackEntry, Recipient, SEALED_KEY_LEN, Space};
use pastfs::format::tree::{At, Content, Entry, Extent, ExtentPage, Node, Page, Stat};
use pastfs::id::{ChunkId, PackId, RepositoryId, SegmentId};
use pastfs::index::{Applied, Index, NewPack};
use pastfs::pack::{PackKeys, PackWriter, open_frame, open_header};
use pastfs::seal::{
    Cipher, Compression, Compressor, Decompressor, IdSecret, IndexKey, Kind, PackCipher, Root,
};
use pastfs::tree::{Chunks, ContentWriter, FileReader, FolderWriter, Sink, entries, lookup};
use std::collections::HashMap;
use std::hint::black_box;

const CIPHERS: [Cipher; 2] = [Cipher::XChaCha20Poly1305, Cipher::Aes256Gcm];

/// Text that compresses about as source code does.
fn text(len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len + 64);
    let mut n = 1u64;
    while out.len() < len {
        n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let line = format!("\tstruct member_{:x} *next_{} = lookup(table, {});\n", n >> 44, n % 17, n % 9973);
        out.extend_from_slice(line.as_bytes());
    }
    out.truncate(len);
    out
}

fn noise(len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    clock::random(&mut out);
    out
}

fn frames(c: &mut Criterion) {
    for (name, len) in [("64 KiB", 64 << 10), ("512 KiB", 512 << 10)] {
        let raw = text(len);
        let mut group = c.benchmark_group(format!("frame of {name}"));
        group.throughput(Throughput::Bytes(len as u64));
        for (word, compression) in
            [("fast", Compression::FAST), ("default", Compression::default()), ("none", Compression::None)]
        {
            let mut compressor = Compressor::new(compression).expect("zstd");
            group.bench_function(format!("compress {word}"), |b| {
                b.iter(|| compressor.payload(black_box(&raw)).expect("fits"))
            });
        }
        let mut compressor = Compressor::new(Compression::default()).expect("zstd");
        // Against `compress none`, which copies as well: what the look costs that saves zstd the work.
        let random = noise(len);
        group.bench_function("noise, seen as such", |b| {
            b.iter(|| compressor.payload(black_box(&random)).expect("fits"))
        });
        let payload = compressor.payload(&raw).expect("fits");
        let mut decompressor = Decompressor::new().expect("zstd");
        group.bench_function("decompress", |b| {
            b.iter(|| decompressor.raw(black_box(&payload), len).expect("whole"))
        });
        group.finish();
    }
}

fn sealing(c: &mut Criterion) {
    for (name, len) in [("64 KiB", 64 << 10), ("512 KiB", 512 << 10)] {
        let raw = noise(len);
        let mut group = c.benchmark_group(format!("seal {name}"));
        group.throughput(Throughput::Bytes(len as u64));
        for cipher in CIPHERS {
            let key = PackCipher::new(cipher, &[7; 32]);
            let mut sealed = Vec::with_capacity(len + 64);
            group.bench_function(BenchmarkId::new("seal", format!("{cipher:?}")), |b| {
                b.iter(|| {
                    sealed.clear();
                    key.seal(1, b"header", black_box(&raw), &mut sealed)
                })
            });
            sealed.clear();
            key.seal(1, b"header", &raw, &mut sealed);
            group.bench_function(BenchmarkId::new("open", format!("{cipher:?}")), |b| {
                b.iter_batched_ref(
                    || sealed.clone(),
                    |copy| key.open(1, b"header", copy).expect("authentic").len(),
                    BatchSize::LargeInput,
                )
            });
        }
        group.finish();
    }
}

fn naming(c: &mut Criterion) {
    let ids = IdSecret::from_slice(&[3; 32]).expect("32 bytes").id_keys();
    let mut group = c.benchmark_group("id");
    for len in [1 << 10, 32 << 10, 512 << 10] {
        let raw = noise(len);
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("of {} KiB", len >> 10), |b| {
            b.iter(|| ids.id(Kind::Data, black_box(&raw)))
        });
    }
    group.finish();
}

fn chunking(c: &mut Criterion) {
    let mut group = c.benchmark_group("chunker");
    for (name, bytes) in [("text", text(16 << 20)), ("noise", noise(16 << 20))] {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        for (params, size) in [(Params::default(), "by content"), (Params::Fixed { size: 32 << 10 }, "fixed")]
        {
            let chunker = Chunker::new(params, 42).expect("valid sizes");
            group.bench_function(format!("16 MiB of {name}, {size}"), |b| {
                b.iter(|| chunker.split(black_box(&bytes)).count())
            });
        }
    }
    group.finish();
}

/// Frames of a pack of 8 MiB.
const FRAMES: usize = 16;

fn packs(c: &mut Criterion) {
    let repository = RepositoryId([1; 32]);
    let index_key = IndexKey::from_slice(&[5; 32]).expect("32 bytes");
    let reading = Root::from_slice(&[6; 32]).expect("32 bytes").reading();
    let raw = text(512 << 10);
    let payload = Compressor::new(Compression::default()).and_then(|mut c| c.payload(&raw)).expect("fits");
    let chunks: Vec<(ChunkId, u32)> = (0..16).map(|n| (ChunkId([n; 32]), 32 << 10)).collect();
    let mut group = c.benchmark_group("pack of 8 MiB raw");
    group.throughput(Throughput::Bytes((FRAMES * raw.len()) as u64));
    for cipher in CIPHERS {
        let recipient = reading.public();
        let keys = PackKeys { repository, cipher, index_key: index_key.clone(), epoch: 1, recipient };
        let build = || {
            let mut pack = PackWriter::new(&keys, Space::Data, Vec::new()).expect("a pack");
            (0..FRAMES).for_each(|_| pack.push(&payload, &chunks));
            pack.finish()
        };
        group.bench_function(BenchmarkId::new("seal and name", format!("{cipher:?}")), |b| b.iter(build));
        let done = build();
        let header = &done.entry.header;
        let mut decompressor = Decompressor::new().expect("zstd");
        group.bench_function(BenchmarkId::new("open all frames", format!("{cipher:?}")), |b| {
            b.iter(|| {
                let key = open_header(header, &repository, &reading, &index_key).expect("authentic");
                let mut at = header.len();
                for (n, frame) in done.entry.frames.iter().enumerate() {
                    let sealed = done.bytes[at..][..frame.sealed_len as usize].to_vec();
                    at += sealed.len();
                    open_frame(&key, header, n as u64, sealed, raw.len(), &mut decompressor).expect("whole");
                }
            })
        });
        group.bench_function(BenchmarkId::new("open the header", format!("{cipher:?}")), |b| {
            b.iter(|| open_header(header, &repository, &reading, &index_key).expect("authentic"))
        });
    }
    group.finish();
}

/// Packs of a segment, and chunks of a pack: what a backup publishes.
const SEGMENT_PACKS: usize = 8;
const PACK_CHUNKS: usize = 1000;
/// Chunks in the index that is asked.
const INDEXED: usize = 1_000_000;

/// A segment of made-up packs.
fn segment() -> Applied {
    let pack = || {
        let ids: Vec<ChunkId> = (0..PACK_CHUNKS).map(|_| ChunkId(clock::random_array())).collect();
        let recipients = vec![Recipient { hint: [1; 8], sealed: [2; SEALED_KEY_LEN] }];
        let entry = PackEntry {
            pack: PackId(clock::random_array()),
            size: 64 << 20,
            header: Header { cipher: 1, space: Space::Data, epoch: 1, recipients }.encode(),
            frames: ids
                .chunks(16)
                .map(|c| Frame { sealed_len: 400_000, chunks: vec![32 << 10; c.len()] })
                .collect(),
            ids,
            unknown: Default::default(),
        };
        NewPack { entry, trusted: true }
    };
    Applied {
        segment: SegmentId(clock::random_array()),
        packs: (0..SEGMENT_PACKS).map(|_| pack()).collect(),
        retired: Vec::new(),
        replaces: Vec::new(),
    }
}

fn index(c: &mut Criterion) {
    let dir = std::env::temp_dir().join(format!("pastfs-bench-{}", ChunkId(clock::random_array()).short()));
    let index = Index::open(&dir).expect("a folder for temporary files");
    let mut ids = Vec::new();
    while ids.len() < INDEXED {
        let segments: Vec<Applied> = (0..16).map(|_| segment()).collect();
        ids.extend(segments.iter().flat_map(|s| &s.packs).flat_map(|p| p.entry.ids.iter().copied()));
        index.apply(segments, &[], Vec::new()).expect("room");
    }
    let mut group = c.benchmark_group("index of 1,000,000 chunks");
    let mut turn = 0;
    let mut next = || {
        turn = (turn + 7919) % ids.len();
        ids[turn]
    };
    group.bench_function("known", |b| b.iter(|| index.known(&next()).expect("an index").is_some()));
    group.bench_function("places", |b| b.iter(|| index.places(&next()).expect("an index").len()));
    group.bench_function("not known", |b| {
        b.iter_batched(
            || ChunkId(clock::random_array()),
            |id| index.known(&id).expect("an index").is_none(),
            BatchSize::SmallInput,
        )
    });
    group.sample_size(10).throughput(Throughput::Elements((SEGMENT_PACKS * PACK_CHUNKS) as u64));
    group.bench_function("apply a segment", |b| {
        b.iter_batched(
            segment,
            |s| index.apply(vec![s], &[], Vec::new()).expect("room"),
            BatchSize::PerIteration,
        )
    });
    group.finish();
    drop(index);
    let _ = std::fs::remove_dir_all(&dir);
}

/// A store of trees in memory.
#[derive(Default)]
struct Memory(HashMap<ChunkId, Bytes>);

impl Sink for Memory {
    fn put(&mut self, _: Space, bytes: &[u8]) -> pastfs::fault::Result<ChunkId> {
        let id = ChunkId(*blake3::hash(bytes).as_bytes());
        self.0.insert(id, Bytes::copy_from_slice(bytes));
        Ok(id)
    }
}

impl Chunks for Memory {
    fn chunk(&self, _: Space, id: &ChunkId) -> pastfs::fault::Result<Bytes> {
        self.0.get(id).cloned().ok_or_else(|| pastfs::fault::Error::damaged("no such chunk"))
    }
}

/// Entries of a folder that takes several pages.
const FOLDER: usize = 10_000;
/// Chunks of a file of about 4 GB.
const EXTENTS: usize = 100_000;

fn trees(c: &mut Criterion) {
    let list: Vec<Entry> = (0..FOLDER).map(entry).collect();
    let write = || {
        let mut memory = Memory::default();
        let mut folder = FolderWriter::new();
        list.iter().for_each(|e| folder.push(e, &mut memory).expect("sorted names"));
        let id = folder.finish(&mut memory).expect("a folder");
        (memory, id)
    };
    let (memory, id) = write();
    let mut group = c.benchmark_group("folder of 10,000 entries");
    group.throughput(Throughput::Elements(FOLDER as u64));
    group.bench_function("write", |b| b.iter(write));
    group.bench_function("read", |b| b.iter(|| entries(&memory, &id).expect("whole").len()));
    group.throughput(Throughput::Elements(1));
    group.bench_function("look up a name", |b| {
        b.iter(|| lookup(&memory, &id, b"file-007777.c").expect("whole"))
    });
    group.finish();

    let ids: Vec<ChunkId> = (0..EXTENTS).map(|_| ChunkId(clock::random_array())).collect();
    let write = || {
        let mut memory = Memory::default();
        let mut content = ContentWriter::new();
        ids.iter().for_each(|id| content.chunk(40_000, *id));
        let content = content.finish(&mut memory).expect("a content");
        (memory, content)
    };
    let (memory, content) = write();
    let mut group = c.benchmark_group("content of 100,000 chunks");
    group.throughput(Throughput::Elements(EXTENTS as u64));
    group.bench_function("write", |b| b.iter(write));
    group.bench_function("read", |b| {
        b.iter(|| FileReader::new(content.clone()).extents(&memory, 0).expect("whole").len())
    });
    group.finish();
    let extents: Vec<Extent> =
        ids.iter().take(1000).map(|id| Extent { len: 40_000, at: At::Chunk(*id) }).collect();
    let page = ExtentPage { level: 1, extents };
    let bytes = page.encode();
    let mut group = c.benchmark_group("page of 1,000 extents");
    group.throughput(Throughput::Elements(1000));
    group.bench_function("encode", |b| b.iter(|| black_box(&page).encode()));
    group.bench_function("decode", |b| b.iter(|| ExtentPage::decode(black_box(&bytes)).expect("valid")));
    group.finish();
}

fn entry(n: usize) -> Entry {
    let len = 9000 + n as u64;
    let mut id = [0; 32];
    id[..8].copy_from_slice(&(n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    Entry {
        name: format!("file-{n:06}.c").into_bytes(),
        stat: Stat { mode: 0o644, size: len, nlink: 1, user: b"root".to_vec(), ..Stat::default() },
        node: Node::File(Content::Extents(vec![Extent { len, at: At::Chunk(ChunkId(id)) }])),
        xattrs: Vec::new(),
        chunker: None,
        unknown: Default::default(),
    }
}

fn pages(c: &mut Criterion) {
    let page = Page::Leaf((0..200).map(entry).collect());
    let bytes = page.encode();
    let mut group = c.benchmark_group("page of 200 entries");
    group.throughput(Throughput::Elements(200));
    group.bench_function("encode", |b| b.iter(|| black_box(&page).encode()));
    group.bench_function("decode", |b| b.iter(|| Page::decode(black_box(&bytes)).expect("valid")));
    group.finish();
}

criterion_group!(benches, chunking, naming, frames, sealing, packs, index, pages, trees);
criterion_main!(benches);
