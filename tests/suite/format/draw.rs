//! Values of every kind that look random and are the same each time.

use pastfs::clock::Time;
use pastfs::format::cbor::{MapWriter, Unknown, Writer};
use pastfs::format::pack::{Frame, Header, Recipient, Space};
use pastfs::format::segment::{Signature, Vouched};
use pastfs::format::tree::{At, Content, Entry, Extent, Node, Stat, Xattr};
use pastfs::id::ChunkId;

/// Numbers that look random and are the same each time (SplitMix64).
pub struct Draw(pub u64);

impl Draw {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    /// 0 to `n` - 1.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    pub fn chance(&mut self) -> bool {
        self.below(2) == 0
    }
    /// All magnitudes are as likely.
    pub fn number(&mut self) -> u64 {
        self.next() >> self.below(64)
    }
    pub fn short(&mut self) -> u32 {
        (self.next() >> 32) as u32 >> self.below(32)
    }
    pub fn signed(&mut self) -> i64 {
        let n = self.number() as i64;
        if self.chance() { n } else { !n }
    }
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next() as u8)
    }
    pub fn bytes(&mut self, max: u64) -> Vec<u8> {
        (0..self.below(max + 1)).map(|_| self.next() as u8).collect()
    }
    pub fn name(&mut self) -> Vec<u8> {
        let mut name = self.bytes(40);
        name.retain(|b| *b != 0 && *b != b'/');
        name.push(b'n');
        name
    }
    pub fn time(&mut self) -> Time {
        let nanos = if self.chance() { 0 } else { self.below(1_000_000_000) as u32 };
        Time { seconds: self.signed(), nanos }
    }
    pub fn many<T>(&mut self, max: u64, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(max + 1)).map(|_| one(self)).collect()
    }
    pub fn maybe<T>(&mut self, one: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.chance() { Some(one(self)) } else { None }
    }
    pub fn texts(&mut self) -> Vec<Vec<u8>> {
        self.many(3, |d| d.bytes(20))
    }
    pub fn item(&mut self, w: &mut Writer, depth: u64) {
        match self.below(if depth == 0 { 4 } else { 6 }) {
            0 => drop(w.unsigned(self.number())),
            1 => drop(w.integer(self.signed())),
            2 => drop(w.bytes(&self.bytes(30))),
            3 => drop(w.boolean(self.chance())),
            4 => {
                let n = self.below(4);
                w.array(n as usize);
                (0..n).for_each(|_| self.item(w, depth - 1));
            }
            _ => {
                let mut m = MapWriter::new();
                let mut key = 0;
                for _ in 0..self.below(4) {
                    key += 1 + self.below(40);
                    self.item(m.field(key), depth - 1);
                }
                m.finish_into(w);
            }
        }
    }
    pub fn unknown(&mut self, above: u64) -> Unknown {
        let mut key = above;
        let mut fields = Vec::new();
        for _ in 0..self.below(3) {
            key += 1 + self.below(300);
            let mut w = Writer::new();
            self.item(&mut w, 3);
            fields.push((key, w.finish()));
        }
        Unknown(fields)
    }
    pub fn extent(&mut self, level: Option<u8>) -> Extent {
        let kind = match level {
            None => self.below(3),
            Some(1) => self.below(2),
            Some(_) => 2,
        };
        match kind {
            0 => Extent { len: 1 + (self.number() >> 16), at: At::Hole },
            1 => Extent { len: 1 + self.below(8 << 20), at: At::Chunk(ChunkId(self.array())) },
            _ => {
                let level = level.map_or_else(|| 1 + self.below(16) as u8, |l| l - 1);
                Extent { len: 1 + (self.number() >> 16), at: At::List(ChunkId(self.array()), level) }
            }
        }
    }
    pub fn content(&mut self, holes: bool) -> Content {
        if self.chance() {
            return Content::Inline(self.bytes(96));
        }
        let mut extents = self.many(5, |d| d.extent(None));
        extents.retain(|e| holes || e.at != At::Hole);
        if extents.is_empty() { Content::Inline(Vec::new()) } else { Content::Extents(extents) }
    }
    pub fn xattrs(&mut self) -> Vec<Xattr> {
        let mut names = self.many(4, Self::name);
        names.sort();
        names.dedup();
        names.into_iter().map(|name| Xattr { name, value: self.content(false) }).collect()
    }
    pub fn entry(&mut self) -> Entry {
        let mut size = self.number();
        let node = match self.below(9) {
            0 => Node::Folder(ChunkId(self.array())),
            1 => Node::Symlink(self.bytes(80)),
            2 => Node::CharDevice(self.number()),
            3 => Node::BlockDevice(self.number()),
            4 => Node::Fifo,
            5 => Node::Socket,
            6 => Node::Unknown(8 + self.number() / 2),
            _ => {
                let content = self.content(true);
                size = content.len().unwrap();
                Node::File(content)
            }
        };
        let typed = matches!(node, Node::Unknown(_));
        Entry {
            name: self.name(),
            stat: Stat {
                mode: self.below(0o10000) as u32,
                uid: self.short(),
                gid: self.short(),
                user: self.bytes(12),
                group: self.bytes(12),
                mtime: self.time(),
                ctime: self.time(),
                size,
                nlink: self.below(4),
                link: self.maybe(|d| (d.short(), d.number())),
                fresh: self.chance(),
            },
            node,
            xattrs: self.xattrs(),
            chunker: if typed { None } else { self.maybe(|d| (d.number(), d.bytes(64))) },
            unknown: self.unknown(if typed { 16 } else { 21 }),
        }
    }
    pub fn frame(&mut self) -> Frame {
        let chunks = (0..1 + self.below(6)).map(|_| 1 + self.below(1 << 20) as u32).collect();
        Frame { sealed_len: 18 + self.below(8 << 20) as u32 - 1, chunks }
    }
    pub fn header(&mut self) -> Header {
        Header {
            cipher: 1 + self.below(2) as u8,
            space: if self.chance() { Space::Data } else { Space::Trees },
            epoch: self.short(),
            recipients: (0..1 + self.below(8))
                .map(|_| Recipient { hint: self.array(), sealed: self.array() })
                .collect(),
        }
    }
    pub fn vouched(&mut self, certificates: usize) -> Vec<Vouched> {
        if certificates == 0 {
            return Vec::new();
        }
        self.many(4, |d| Vouched {
            body: d.bytes(60),
            signatures: (0..1 + d.below(3))
                .map(|_| Signature { author: d.below(certificates as u64) as usize, signature: d.array() })
                .collect(),
        })
    }
}
