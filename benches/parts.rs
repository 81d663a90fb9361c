//! What each part costs by itself: `make bench`. Compare within one run; these numbers are of one machine.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pastfs::chunk::{Chunker, Params};
use pastfs::format::tree::{At, Content, Entry, Extent, Node, Page, Stat};
use pastfs::id::ChunkId;
use pastfs::seal::{Cipher, Compression, Compressor, Decompressor, IdSecret, Kind, PackCipher};
use std::hint::black_box;

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

fn frames(c: &mut Criterion) {
    for (name, len) in [("64 KiB", 64 << 10), ("512 KiB", 512 << 10)] {
        let raw = text(len);
        let mut group = c.benchmark_group(format!("frame of {name}"));
        group.throughput(Throughput::Bytes(len as u64));
        let mut compressor = Compressor::new(Compression::default()).expect("zstd");
        group.bench_function("compress", |b| b.iter(|| compressor.payload(black_box(&raw)).expect("fits")));
        let payload = compressor.payload(&raw).expect("fits");
        let mut decompressor = Decompressor::new().expect("zstd");
        group.bench_function("decompress", |b| {
            b.iter(|| decompressor.raw(black_box(&payload), len).expect("whole"))
        });
        for cipher in [Cipher::XChaCha20Poly1305, Cipher::Aes256Gcm] {
            let key = PackCipher::new(cipher, &[7; 32]);
            let mut sealed = Vec::new();
            key.seal(1, b"header", &raw, &mut sealed);
            group.bench_function(format!("open {cipher:?}"), |b| {
                b.iter(|| {
                    let mut copy = sealed.clone();
                    key.open(1, b"header", &mut copy).expect("authentic").len()
                })
            });
        }
        let ids = IdSecret::from_slice(&[3; 32]).expect("32 bytes").id_keys();
        group.bench_function("id", |b| b.iter(|| ids.id(Kind::Data, black_box(&raw))));
        group.finish();
    }
}

fn chunking(c: &mut Criterion) {
    let bytes = text(16 << 20);
    let chunker = Chunker::new(Params::default(), 42).expect("defaults are valid");
    let mut group = c.benchmark_group("chunker");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("split 16 MiB", |b| b.iter(|| chunker.split(black_box(&bytes)).count()));
    group.finish();
}

fn pages(c: &mut Criterion) {
    let entries: Vec<Entry> = (0..200)
        .map(|n| Entry {
            name: format!("file-{n:04}.c").into_bytes(),
            stat: Stat { mode: 0o644, size: 9000 + n, nlink: 1, user: b"root".to_vec(), ..Stat::default() },
            node: Node::File(Content::Extents(vec![Extent {
                len: 9000 + n,
                at: At::Chunk(ChunkId([n as u8; 32])),
            }])),
            xattrs: Vec::new(),
            chunker: None,
            unknown: Default::default(),
        })
        .collect();
    let page = Page::Leaf(entries);
    let bytes = page.encode();
    let mut group = c.benchmark_group("page of 200 entries");
    group.throughput(Throughput::Elements(200));
    group.bench_function("encode", |b| b.iter(|| black_box(&page).encode()));
    group.bench_function("decode", |b| b.iter(|| Page::decode(black_box(&bytes)).expect("valid")));
    group.finish();
}

criterion_group!(benches, frames, chunking, pages);
criterion_main!(benches);
