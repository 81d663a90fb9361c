//! Trees: folders as pages of entries, files as lists of extents.
//!
//! A page is a chunk in the id space of trees. A leaf page holds entries sorted by their raw name
//! bytes; a node page holds references to pages of the level below. Both are cut by content (see
//! `tree/`), so that an insertion changes one page per level.

use super::cbor::{MapWriter, Reader, Unknown, Writer, invalid, required};
use crate::clock::Time;
use crate::fault::Result;
use crate::id::ChunkId;

/// Longest name of an entry in bytes (Linux allows 255; others more).
pub const NAME_MAX: usize = 4096;
/// Longest symlink target in bytes (Linux allows 4095).
pub const TARGET_MAX: usize = 64 << 10;
/// Longest owner or group name in bytes.
pub const OWNER_MAX: usize = 1024;
/// Longest xattr name (Linux: 255) in bytes.
pub const XATTR_NAME_MAX: usize = 1024;
/// Longest xattr value that is kept inside the entry; longer ones are chunks.
pub const XATTR_INLINE_MAX: usize = 1024;
/// Most xattrs of one entry.
pub const XATTRS_MAX: usize = 4096;
/// Content up to this many bytes costs less inside the entry than its id would.
pub const INLINE_MAX: usize = 96;
/// Largest encoded page in bytes.
pub const PAGE_MAX: usize = 256 << 10;
/// Most levels of pages above the leaves.
pub const LEVEL_MAX: u8 = 16;
const LEVELS: u64 = LEVEL_MAX as u64;
/// Largest chunk in bytes.
pub const CHUNK_MAX: usize = 8 << 20;
/// Items that room is made for before they are decoded: nearly all lists are as short, and most of them are kept, so that none takes
/// more than it needs. A longer one finds its room as it comes, since its length may be a lie.
const ROOM_MAX: usize = 64;

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A regular file.
    File(Content),
    /// A folder: the root page of its tree.
    Folder(ChunkId),
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// A character device with its number (as `st_rdev` has it).
    CharDevice(u64),
    /// A block device with its number.
    BlockDevice(u64),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A type that this program does not know: shown as unreadable, never dropped.
    Unknown(u64),
}

impl Node {
    const FILE: u64 = 1;
    const FOLDER: u64 = 2;
    const SYMLINK: u64 = 3;
    const CHAR: u64 = 4;
    const BLOCK: u64 = 5;
    const FIFO: u64 = 6;
    const SOCKET: u64 = 7;

    fn knows(code: u64) -> bool {
        (Self::FILE..=Self::SOCKET).contains(&code)
    }
    fn code(&self) -> u64 {
        match self {
            Node::File(_) => Self::FILE,
            Node::Folder(_) => Self::FOLDER,
            Node::Symlink(_) => Self::SYMLINK,
            Node::CharDevice(_) => Self::CHAR,
            Node::BlockDevice(_) => Self::BLOCK,
            Node::Fifo => Self::FIFO,
            Node::Socket => Self::SOCKET,
            Node::Unknown(code) => *code,
        }
    }
}

/// The content of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// At most [`INLINE_MAX`] bytes, kept in the entry.
    Inline(Vec<u8>),
    /// In order, without gaps.
    Extents(Vec<Extent>),
}

/// A stretch of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Length in bytes, never 0.
    pub len: u64,
    /// Where the bytes are.
    pub at: At,
}

/// Where the bytes of an extent are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Nowhere: zeros that take no space.
    Hole,
    /// A data chunk of `len` bytes.
    Chunk(ChunkId),
    /// A page of extents, that many levels above the ones that name chunks (at least 1).
    List(ChunkId, u8),
}

/// An extended attribute. ACLs and capabilities are xattrs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xattr {
    /// Full name, such as `user.comment`.
    pub name: Vec<u8>,
    /// The value: inline up to [`XATTR_INLINE_MAX`], else chunks without holes.
    pub value: Content,
}

/// Everything that is known of a file, but for its name and content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// Permission bits, 0o7777 at most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Name of the owner where the source knew one, else empty.
    pub user: Vec<u8>,
    /// Name of the group where the source knew one, else empty.
    pub group: Vec<u8>,
    /// Time of the last change of content.
    pub mtime: Time,
    /// Time of the last change of content or attributes.
    pub ctime: Time,
    /// Size in bytes as stat gave it.
    pub size: u64,
    /// Number of hard links as stat gave it; 1 for folders.
    pub nlink: u64,
    /// Which names are one file: ordinal of the file system in this backup, inode. Only where nlink > 1.
    pub link: Option<(u32, u64)>,
    /// The source changed within 2 s of being read: not trusted as unchanged next time.
    pub fresh: bool,
}

/// One name in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Raw bytes, without `/`.
    pub name: Vec<u8>,
    /// Attributes.
    pub stat: Stat,
    /// Type and what belongs to it.
    pub node: Node,
    /// Sorted by name.
    pub xattrs: Vec<Xattr>,
    /// Chunker that the content was cut with, where it is not the repository's default: kind and
    /// its parameters.
    pub chunker: Option<(u64, Vec<u8>)>,
    /// Fields of a newer version. For [`Node::Unknown`] also those that say what belongs to the type.
    pub unknown: Unknown,
}

/// A reference from a node page to a page one level below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRef {
    /// Name of the first entry below.
    pub first: Vec<u8>,
    /// The page.
    pub id: ChunkId,
}

/// A page of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Page {
    /// Entries sorted by name.
    Leaf(Vec<Entry>),
    /// Pages of the level below; the level of this one is at least 1.
    Node(u8, Vec<PageRef>),
}

/// A page of extents of a long file; level 1 names chunks and holes, above it are lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtentPage {
    /// At least 1.
    pub level: u8,
    /// In order.
    pub extents: Vec<Extent>,
}

// Keys of an entry's map. 1 to 23 take one byte.
mod key {
    pub const NAME: u64 = 1;
    pub const TYPE: u64 = 2;
    pub const MODE: u64 = 3;
    pub const UID: u64 = 4;
    pub const GID: u64 = 5;
    pub const USER: u64 = 6;
    pub const GROUP: u64 = 7;
    pub const MTIME: u64 = 8;
    pub const MTIME_NS: u64 = 9;
    pub const CTIME: u64 = 10;
    pub const CTIME_NS: u64 = 11;
    pub const SIZE: u64 = 12;
    pub const NLINK: u64 = 13;
    pub const LINK: u64 = 14;
    pub const FRESH: u64 = 15;
    pub const XATTRS: u64 = 16;
    pub const CONTENT: u64 = 17;
    pub const TREE: u64 = 18;
    pub const TARGET: u64 = 19;
    pub const RDEV: u64 = 20;
    pub const CHUNKER: u64 = 21;
    /// From here on the type decides what a field means: those of an unknown type are kept as they are.
    pub const TYPED: u64 = CONTENT;
    pub const LAST: u64 = CHUNKER;
}

impl Entry {
    /// Appends the encoded entry.
    pub fn encode_into(&self, w: &mut Writer) {
        let s = &self.stat;
        let mut m = MapWriter::new();
        m.field(key::NAME).bytes(&self.name);
        m.field(key::TYPE).unsigned(self.node.code());
        m.field(key::MODE).unsigned(u64::from(s.mode));
        m.field(key::UID).unsigned(u64::from(s.uid));
        m.field(key::GID).unsigned(u64::from(s.gid));
        if !s.user.is_empty() {
            m.field(key::USER).bytes(&s.user);
        }
        if !s.group.is_empty() {
            m.field(key::GROUP).bytes(&s.group);
        }
        m.field(key::MTIME).integer(s.mtime.seconds);
        if s.mtime.nanos != 0 {
            m.field(key::MTIME_NS).unsigned(u64::from(s.mtime.nanos));
        }
        m.field(key::CTIME).integer(s.ctime.seconds);
        if s.ctime.nanos != 0 {
            m.field(key::CTIME_NS).unsigned(u64::from(s.ctime.nanos));
        }
        m.field(key::SIZE).unsigned(s.size);
        if s.nlink != 1 {
            m.field(key::NLINK).unsigned(s.nlink);
        }
        if let Some((system, inode)) = s.link {
            m.field(key::LINK).array(2).unsigned(u64::from(system)).unsigned(inode);
        }
        if s.fresh {
            m.field(key::FRESH).boolean(true);
        }
        if !self.xattrs.is_empty() {
            let w = m.field(key::XATTRS).array(self.xattrs.len());
            for x in &self.xattrs {
                w.array(2).bytes(&x.name);
                x.value.encode_into(w);
            }
        }
        match &self.node {
            Node::File(content) => content.encode_into(m.field(key::CONTENT)),
            Node::Folder(id) => drop(m.field(key::TREE).bytes(&id.0)),
            Node::Symlink(target) => drop(m.field(key::TARGET).bytes(target)),
            Node::CharDevice(n) | Node::BlockDevice(n) => drop(m.field(key::RDEV).unsigned(*n)),
            Node::Fifo | Node::Socket | Node::Unknown(_) => {}
        }
        if let Some((kind, parameters)) = &self.chunker {
            m.field(key::CHUNKER).array(2).unsigned(*kind).bytes(parameters);
        }
        m.unknown(&self.unknown);
        m.finish_into(w);
    }

    /// Reads one entry.
    pub fn decode(r: &mut Reader<'_>) -> Result<Self> {
        let mut s = Stat { nlink: 1, ..Stat::default() };
        let (mut name, mut code, mut mode, mut uid, mut gid) = (None, None, None, None, None);
        let (mut mtime, mut ctime, mut size) = (None, None, None);
        let (mut content, mut tree, mut target, mut rdev) = (None, None, None, None);
        let (mut xattrs, mut chunker, mut unknown) = (Vec::new(), None, Unknown::default());
        let mut fields = r.map()?;
        while let Some(k) = fields.next(r)? {
            match k {
                // Keys rise, so the type is known by now.
                key::TYPED.. if k > key::LAST || code.is_some_and(|c| !Node::knows(c)) => {
                    unknown.0.push((k, r.item()?.to_vec()));
                }
                key::NAME => name = Some(entry_name(r)?),
                key::TYPE => code = Some(r.unsigned()?),
                key::MODE => mode = Some(r.u32()?),
                key::UID => uid = Some(r.u32()?),
                key::GID => gid = Some(r.u32()?),
                key::USER => s.user = filled(r, OWNER_MAX)?,
                key::GROUP => s.group = filled(r, OWNER_MAX)?,
                key::MTIME => mtime = Some(r.integer()?),
                key::MTIME_NS => s.mtime.nanos = nanos(r)?,
                key::CTIME => ctime = Some(r.integer()?),
                key::CTIME_NS => s.ctime.nanos = nanos(r)?,
                key::SIZE => size = Some(r.unsigned()?),
                key::NLINK => match r.unsigned()? {
                    1 => return Err(invalid("a default is spelt out")),
                    n => s.nlink = n,
                },
                key::LINK => {
                    r.exactly(2)?;
                    s.link = Some((r.u32()?, r.unsigned()?));
                }
                key::FRESH => match r.boolean()? {
                    true => s.fresh = true,
                    false => return Err(invalid("a default is spelt out")),
                },
                key::XATTRS => xattrs = decode_xattrs(r)?,
                key::CONTENT => content = Some(Content::decode(r, INLINE_MAX)?),
                key::TREE => tree = Some(ChunkId(r.array_of()?)),
                key::TARGET => target = Some(r.bytes(TARGET_MAX)?.to_vec()),
                key::RDEV => rdev = Some(r.unsigned()?),
                key::CHUNKER => {
                    r.exactly(2)?;
                    chunker = Some((r.unsigned()?, r.bytes(64)?.to_vec()));
                }
                _ => return Err(invalid("an entry has a key that no version has")),
            }
        }
        s.mode = required(mode, "the mode")?;
        if s.mode > 0o7777 {
            return Err(invalid("a mode has more than permission bits"));
        }
        s.uid = required(uid, "the owner")?;
        s.gid = required(gid, "the group")?;
        s.mtime.seconds = required(mtime, "the mtime")?;
        s.ctime.seconds = required(ctime, "the ctime")?;
        s.size = required(size, "the size")?;
        let code = required(code, "the type")?;
        let node = match code {
            Node::FILE => Node::File(required(content.take(), "the content")?),
            Node::FOLDER => Node::Folder(required(tree.take(), "the tree")?),
            Node::SYMLINK => Node::Symlink(required(target.take(), "the target")?),
            Node::CHAR => Node::CharDevice(required(rdev.take(), "the device number")?),
            Node::BLOCK => Node::BlockDevice(required(rdev.take(), "the device number")?),
            Node::FIFO => Node::Fifo,
            Node::SOCKET => Node::Socket,
            other => Node::Unknown(other),
        };
        if content.is_some() || tree.is_some() || target.is_some() || rdev.is_some() {
            return Err(invalid("an entry has fields of another type"));
        }
        if let Node::File(c) = &node
            && c.len()? != s.size
        {
            return Err(invalid("the content is not as long as the file"));
        }
        Ok(Self { name: required(name, "the name")?, stat: s, node, xattrs, chunker, unknown })
    }
}

fn entry_name(r: &mut Reader<'_>) -> Result<Vec<u8>> {
    let name = filled(r, NAME_MAX)?;
    if name == b"." || name == b".." || name.iter().any(|b| *b == b'/' || *b == 0) {
        return Err(invalid("a name is no file name"));
    }
    Ok(name)
}

/// A byte string that is there only because it is not empty.
fn filled(r: &mut Reader<'_>, limit: usize) -> Result<Vec<u8>> {
    let bytes = r.bytes(limit)?;
    if bytes.is_empty() { Err(invalid("an empty byte string")) } else { Ok(bytes.to_vec()) }
}

fn nanos(r: &mut Reader<'_>) -> Result<u32> {
    match r.u32()? {
        n @ 1..1_000_000_000 => Ok(n),
        _ => Err(invalid("nanoseconds out of range")),
    }
}

fn decode_xattrs(r: &mut Reader<'_>) -> Result<Vec<Xattr>> {
    let n = r.array()?;
    if n == 0 || n > XATTRS_MAX {
        return Err(invalid("the number of xattrs is out of range"));
    }
    let mut xattrs: Vec<Xattr> = Vec::new();
    for _ in 0..n {
        r.exactly(2)?;
        let name = filled(r, XATTR_NAME_MAX)?;
        if xattrs.last().is_some_and(|x| x.name >= name) {
            return Err(invalid("xattrs are not sorted"));
        }
        let value = Content::decode(r, XATTR_INLINE_MAX)?;
        if let Content::Extents(extents) = &value
            && extents.iter().any(|e| e.at == At::Hole)
        {
            return Err(invalid("an xattr has a hole"));
        }
        xattrs.push(Xattr { name, value });
    }
    Ok(xattrs)
}

impl Content {
    /// Length in bytes; an error where the sum of the extents leaves 64 bits.
    pub fn len(&self) -> Result<u64> {
        match self {
            Content::Inline(bytes) => Ok(bytes.len() as u64),
            Content::Extents(extents) => extents
                .iter()
                .try_fold(0u64, |sum, e| sum.checked_add(e.len))
                .ok_or_else(|| invalid("a content is longer than 2^64")),
        }
    }
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        match self {
            Content::Inline(bytes) => bytes.is_empty(),
            Content::Extents(extents) => extents.is_empty(),
        }
    }
    /// Appends the encoded content: a byte string, or an array of extents.
    pub fn encode_into(&self, w: &mut Writer) {
        match self {
            Content::Inline(bytes) => drop(w.bytes(bytes)),
            Content::Extents(extents) => {
                w.array(extents.len());
                for e in extents {
                    e.encode_into(w);
                }
            }
        }
    }
    /// Reads a content whose inline form has at most `inline` bytes.
    pub fn decode(r: &mut Reader<'_>, inline: usize) -> Result<Self> {
        if r.is_bytes() {
            return Ok(Content::Inline(r.bytes(inline)?.to_vec()));
        }
        let n = r.array()?;
        if n == 0 {
            return Err(invalid("an empty content is inline"));
        }
        Ok(Content::Extents(Extent::decode_many(r, n, None)?))
    }
}

impl Extent {
    fn encode_into(&self, w: &mut Writer) {
        match self.at {
            At::Hole => w.array(1).unsigned(self.len),
            At::Chunk(id) => w.array(2).unsigned(self.len).bytes(&id.0),
            At::List(id, level) => w.array(3).unsigned(self.len).bytes(&id.0).unsigned(u64::from(level)),
        };
    }
    /// `n` extents; inside a page of `level`, lists must be of the level below.
    fn decode_many(r: &mut Reader<'_>, n: usize, level: Option<u8>) -> Result<Vec<Self>> {
        let mut extents = Vec::with_capacity(n.min(ROOM_MAX));
        let mut sum = 0u64;
        for _ in 0..n {
            let parts = r.array()?;
            let len = r.unsigned()?;
            let at = match parts {
                1 => At::Hole,
                2 => At::Chunk(ChunkId(r.array_of()?)),
                3 => {
                    let id = ChunkId(r.array_of()?);
                    match r.unsigned()? {
                        l @ 1..=LEVELS => At::List(id, l as u8),
                        _ => return Err(invalid("a list of extents has no such level")),
                    }
                }
                _ => return Err(invalid("an extent has no such form")),
            };
            let fits = match at {
                At::Chunk(_) => len <= CHUNK_MAX as u64 && level.is_none_or(|l| l == 1),
                At::Hole => level.is_none_or(|l| l == 1),
                At::List(_, l) => level.is_none_or(|outer| outer == l + 1),
            };
            if len == 0 || !fits {
                return Err(invalid("an extent is out of range"));
            }
            sum = sum.checked_add(len).ok_or_else(|| invalid("a content is longer than 2^64"))?;
            extents.push(Extent { len, at });
        }
        extents.shrink_to_fit();
        Ok(extents)
    }
}

impl Page {
    /// The encoded page.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        match self {
            Page::Leaf(entries) => {
                w.array(2).unsigned(0).array(entries.len());
                for e in entries {
                    e.encode_into(&mut w);
                }
            }
            Page::Node(level, pages) => {
                w.array(2).unsigned(u64::from(*level)).array(pages.len());
                for p in pages {
                    w.array(2).bytes(&p.first).bytes(&p.id.0);
                }
            }
        }
        w.finish()
    }

    /// The encoded leaf of entries that are encoded already, one behind the other.
    pub fn encode_leaf(count: usize, entries: &[u8]) -> Vec<u8> {
        let mut w = Writer::onto(Vec::with_capacity(entries.len() + 8));
        w.array(2).unsigned(0).array(count).raw(entries);
        w.finish()
    }

    /// Reads a page of a folder.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > PAGE_MAX {
            return Err(invalid("a page is over its limit"));
        }
        let mut r = Reader::new(bytes);
        r.exactly(2)?;
        let level = r.unsigned()?;
        let n = r.array()?;
        let page = match level {
            0 => {
                let mut entries: Vec<Entry> = Vec::new();
                for _ in 0..n {
                    let entry = Entry::decode(&mut r)?;
                    if entries.last().is_some_and(|l| l.name >= entry.name) {
                        return Err(invalid("entries are not sorted"));
                    }
                    entries.push(entry);
                }
                Page::Leaf(entries)
            }
            1..=LEVELS if n > 0 => {
                let mut pages: Vec<PageRef> = Vec::new();
                for _ in 0..n {
                    r.exactly(2)?;
                    let page = PageRef { first: entry_name(&mut r)?, id: ChunkId(r.array_of()?) };
                    if pages.last().is_some_and(|l| l.first >= page.first) {
                        return Err(invalid("pages are not sorted"));
                    }
                    pages.push(page);
                }
                Page::Node(level as u8, pages)
            }
            _ => return Err(invalid("a page has no such level")),
        };
        r.end()?;
        Ok(page)
    }
}

impl ExtentPage {
    /// The encoded page.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.array(2).unsigned(u64::from(self.level)).array(self.extents.len());
        for e in &self.extents {
            e.encode_into(&mut w);
        }
        w.finish()
    }
    /// Reads a page of extents.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > PAGE_MAX {
            return Err(invalid("a page is over its limit"));
        }
        let mut r = Reader::new(bytes);
        r.exactly(2)?;
        let level = match r.unsigned()? {
            l @ 1..=LEVELS => l as u8,
            _ => return Err(invalid("a page has no such level")),
        };
        let n = r.array()?;
        if n == 0 {
            return Err(invalid("a page of extents is empty"));
        }
        let extents = Extent::decode_many(&mut r, n, Some(level))?;
        r.end()?;
        Ok(Self { level, extents })
    }
}
