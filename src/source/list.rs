//! Lists one folder: names, their attributes, and what the rules say of each.

use super::ahead::Slot;
use super::attributes::{LOOK, Owners, at, kind_of};
use super::dir::{Dir, For};
use super::walk::Plan;
use super::{Exclude, Item, Kind, Options};
use crate::fault::{Doing, Error, Fault, Result};
use rustix::fs::{OFlags, RawDir, statat};
use rustix::io::Errno;
use std::collections::{BTreeSet, HashSet};
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::mem::MaybeUninit;
use std::ops::Bound;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Entries of a folder whose attributes are held at a time (some 300 bytes each); of the rest of a
/// huge folder only names are held.
const BATCH: usize = 4096;
/// Bytes of names that the system hands out in one call.
const BUFFER: usize = 64 << 10;
/// Beginning of a tag file of a cache folder (<https://bford.info/cachedir/>).
const CACHE_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";
const CACHE_TAG: &[u8] = b"CACHEDIR.TAG";

/// What is left out, as the walk asks for it.
pub(super) struct Rules {
    exclude: Exclude,
    one_file_system: bool,
    larger_than: u64,
    skip: HashSet<(u64, u64)>,
    /// Mounts of pastfs: kept as empty folders.
    past: HashSet<PathBuf>,
    tags: Vec<Tag>,
    /// Given paths that lie below other given ones: they are saved whatever the rules say of what is around them,
    /// and one that is not there is told.
    named: BTreeSet<PathBuf>,
}

/// A file whose presence says that the rest of its folder is not worth saving.
struct Tag {
    name: Vec<u8>,
    header: Vec<u8>,
}

impl Rules {
    pub(super) fn new(options: &Options, past: HashSet<PathBuf>, named: BTreeSet<PathBuf>) -> Result<Self> {
        let mut tags = Vec::new();
        if options.exclude_caches {
            tags.push(Tag { name: CACHE_TAG.to_vec(), header: CACHE_SIGNATURE.to_vec() });
        }
        for text in &options.exclude_if_present {
            tags.push(Tag::parse(text)?);
        }
        Ok(Self {
            exclude: options.excludes.clone(),
            one_file_system: options.one_file_system,
            larger_than: options.exclude_larger_than.unwrap_or(u64::MAX),
            skip: options.skip.iter().copied().collect(),
            past,
            tags,
            named,
        })
    }
    /// The given paths at or below `path` that lie below another given one, in their order.
    fn named_from<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = &'a Path> {
        let from = (Bound::Included(path), Bound::Unbounded);
        self.named.range::<Path, _>(from).map(PathBuf::as_path).take_while(move |p| p.starts_with(path))
    }
    /// Names in the folder `path` that are given or lead to what is, sorted, each once.
    fn named_in(&self, path: &Path) -> Vec<Vec<u8>> {
        let below = self.named_from(path).filter_map(|p| p.strip_prefix(path).ok()?.iter().next());
        let mut names: Vec<Vec<u8>> = below.map(|n| n.as_bytes().to_vec()).collect();
        names.dedup();
        names
    }
    pub(super) fn skips(&self, device: u64, inode: u64) -> bool {
        self.skip.contains(&(device, inode))
    }
}

impl Tag {
    fn parse(text: &OsString) -> Result<Self> {
        let bytes = text.as_bytes();
        let (name, header) = match bytes.iter().position(|b| *b == b':') {
            Some(colon) => (&bytes[..colon], &bytes[colon + 1..]),
            None => (bytes, &b""[..]),
        };
        if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) {
            return Err(Error::misuse(format!("`{}` begins with no file name", text.display())));
        }
        Ok(Self { name: name.to_vec(), header: header.to_vec() })
    }
    /// Whether the file of this name, which is there, begins as it must.
    fn holds(&self, dir: impl std::os::fd::AsFd) -> bool {
        if self.header.is_empty() {
            return true;
        }
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let Ok(fd) = super::dir::unseen(dir, &self.name, flags) else { return false };
        let mut begin = Vec::new();
        let file = std::fs::File::from(fd);
        file.take(self.header.len() as u64).read_to_end(&mut begin).is_ok() && begin == self.header
    }
}

/// A folder that is to be listed.
pub(super) struct Job {
    pub(super) parent: Arc<Dir>,
    pub(super) name: Vec<u8>,
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) asked: Asked,
}

/// What given paths make of a folder.
#[derive(Clone, Copy, Default)]
pub(super) struct Asked {
    /// Its path was given: it may lie on another file system.
    given: bool,
    /// It is left out but for what leads to given paths.
    narrow: bool,
}

/// An entry of a folder, in the order of the stream.
pub(super) enum Entry {
    Leaf(Item),
    Folder(Item, Next),
    Failed(Failure),
}

/// What could not be read, and why.
pub(super) struct Failure {
    pub(super) path: PathBuf,
    pub(super) error: Error,
}

/// What comes of a folder when the walk gets there.
pub(super) enum Next {
    /// It stays empty.
    Nothing,
    /// All of it.
    Whole(Arc<Slot>),
    /// What leads to given paths.
    Ancestor(Plan),
}

/// What came of a job.
pub(super) struct Listing {
    /// The open folder; `None` when it could not be opened, or vanished.
    pub(super) dir: Option<Arc<Dir>>,
    /// Another folder (an automount, as a rule) had come to its place: as it is now.
    pub(super) renewed: Option<Item>,
    /// The first entries.
    pub(super) entries: Vec<Entry>,
    /// Where to go on.
    pub(super) rest: Rest,
    /// It is gone, or what took its place is left out: there is nothing to tell.
    pub(super) vanished: bool,
    /// What went wrong.
    pub(super) error: Option<Error>,
}

impl Listing {
    pub(super) fn failed(error: Error) -> Self {
        Listing { error: Some(error), ..Self::empty() }
    }
    fn empty() -> Self {
        Listing {
            dir: None,
            renewed: None,
            entries: Vec::new(),
            rest: Rest::default(),
            vanished: false,
            error: None,
        }
    }
    /// The folders in it that are to be listed.
    pub(super) fn slots(entries: &[Entry]) -> impl Iterator<Item = &Arc<Slot>> {
        entries.iter().filter_map(|e| match e {
            Entry::Folder(_, Next::Whole(slot)) => Some(slot),
            _ => None,
        })
    }
}

/// The names of a folder, sorted, and how far we got.
#[derive(Default)]
pub(super) struct Rest {
    bytes: Vec<u8>,
    names: Vec<Name>,
    next: usize,
    /// Only names that are given or lead to what is.
    narrow: bool,
    /// Where the folder stands in the walk; see [`Slot::key`].
    key: Option<Vec<u32>>,
}

struct Name {
    inode: u64,
    start: usize,
    len: u16,
}

impl Rest {
    fn name(&self, n: &Name) -> &[u8] {
        &self.bytes[n.start..n.start + usize::from(n.len)]
    }
    fn find(&self, name: &[u8]) -> Option<usize> {
        self.names.binary_search_by(|n| self.name(n).cmp(name)).ok()
    }
}

/// Lists folders; each thread has one.
pub(super) struct Lister {
    rules: Arc<Rules>,
    owners: Owners,
    buffer: Vec<MaybeUninit<u8>>,
}

impl Lister {
    pub(super) fn new(rules: Arc<Rules>) -> Self {
        Self { rules, owners: Owners::default(), buffer: vec![MaybeUninit::uninit(); BUFFER] }
    }

    /// Lists a folder. `key` is its place in the walk.
    pub(super) fn list(&mut self, job: &Job, key: Option<&[u32]>) -> Listing {
        let mut listing = Listing::empty();
        let path = || {
            let mut path = job.parent.path();
            if !job.name.is_empty() {
                path.push(OsStr::from_bytes(&job.name));
            }
            path
        };
        let failed = |e: std::io::Error| Error::io(format!("listing {}", path().display()), e);
        let (dir, raw) = match Dir::open(&job.parent, &job.name, For::Listing) {
            Ok(opened) => opened,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Listing { vanished: true, ..listing };
            }
            Err(e) => return Listing::failed(failed(e)),
        };
        if (raw.st_dev, raw.st_ino) != (job.device, job.inode) {
            if self.rules.skips(raw.st_dev, raw.st_ino) && !job.asked.given {
                return Listing { vanished: true, ..listing };
            }
            listing.renewed = item(&mut self.owners, &job.parent, &job.name, &raw).ok();
            if self.rules.one_file_system && raw.st_dev != job.parent.device() && !job.asked.given {
                if self.rules.named_in(&path()).is_empty() {
                    return listing;
                }
                listing.rest.narrow = true;
            }
        }
        listing.rest.narrow |= job.asked.narrow;
        if let Some(now) = &mut listing.renewed {
            now.ancestor = listing.rest.narrow;
        }
        if let Err(e) = self.names(&dir, &mut listing.rest) {
            listing.error = Some(failed(e));
        }
        listing.rest.key = key.map(<[u32]>::to_vec);
        listing.entries = self.more(&dir, &mut listing.rest);
        listing.dir = Some(dir);
        listing
    }

    /// The next entries of a folder; none are left when the result is empty and so is the rest.
    pub(super) fn more(&mut self, dir: &Arc<Dir>, rest: &mut Rest) -> Vec<Entry> {
        loop {
            let first = rest.next;
            if first == rest.names.len() {
                *rest = Rest::default();
                return Vec::new();
            }
            rest.next = rest.names.len().min(first + BATCH);
            let entries = self.batch(dir, rest, first..rest.next);
            if !entries.is_empty() {
                return entries;
            }
        }
    }

    fn batch(&mut self, dir: &Arc<Dir>, rest: &Rest, range: std::ops::Range<usize>) -> Vec<Entry> {
        let names = &rest.names[range.clone()];
        let fd = match dir.fd() {
            Ok(fd) => fd,
            Err(e) => {
                let path = dir.path();
                let error = Error::io(format!("listing {}", path.display()), e);
                return vec![Entry::Failed(Failure { path, error })];
            }
        };
        // A disk that has to be read answers faster in the order of inodes than in that of names.
        let mut order: Vec<u32> = (0..names.len() as u32).collect();
        order.sort_unstable_by_key(|i| names[*i as usize].inode);
        let mut stats: Vec<_> = names.iter().map(|_| Err(Errno::NOENT)).collect();
        for i in order {
            stats[i as usize] = statat(&*fd, rest.name(&names[i as usize]), LOOK);
        }
        // Paths are only needed to compare them.
        let rules = &self.rules;
        let compared = !rules.exclude.is_empty() || !rules.past.is_empty() || !rules.named.is_empty();
        let mut path = compared.then(|| dir.path());
        let mut entries = Vec::with_capacity(names.len());
        for ((i, name), stat) in range.zip(names).zip(stats) {
            let name = rest.name(name);
            if let Some(path) = &mut path {
                path.push(OsStr::from_bytes(name));
            }
            let key = rest.key.as_ref().map(|above| {
                let mut key = Vec::with_capacity(above.len() + 1);
                key.extend_from_slice(above);
                key.push(i as u32);
                key
            });
            match path.as_deref().filter(|p| self.rules.named_from(p).next().is_some()) {
                Some(path) => entries.extend(self.named(dir, name, path, stat, (rest.narrow, key))),
                None => entries.extend(self.judge(dir, name, path.as_deref(), stat, key)),
            }
            if let Some(path) = &mut path {
                path.pop();
            }
        }
        entries
    }

    /// What the rules make of one name.
    fn judge(
        &mut self,
        dir: &Arc<Dir>,
        name: &[u8],
        path: Option<&Path>,
        stat: rustix::io::Result<rustix::fs::Stat>,
        key: Option<Vec<u32>>,
    ) -> Option<Entry> {
        let rules = &self.rules;
        let past = path.is_some_and(|p| rules.past.contains(p));
        let raw = match stat {
            Ok(raw) => raw,
            // Deleted since it was listed. A mount of pastfs whose program has died is nothing to save.
            Err(Errno::NOENT) => return None,
            Err(_) if past => return None,
            Err(e) => {
                let kept = path.is_none_or(|p| !rules.exclude.matches(p, false));
                return kept.then(|| Entry::Failed(look_failed(dir, name, e.into())));
            }
        };
        let item = match item(&mut self.owners, dir, name, &raw) {
            Ok(item) => item,
            Err(failure) => return Some(Entry::Failed(failure)),
        };
        let folder = item.kind == Kind::Folder;
        if path.is_some_and(|p| rules.exclude.matches(p, folder)) {
            return None;
        }
        if !folder {
            let large = item.kind == Kind::File && item.stat.size > rules.larger_than;
            return (!large).then_some(Entry::Leaf(item));
        }
        if rules.skips(item.device, item.inode) {
            return None;
        }
        if past || (rules.one_file_system && item.device != dir.device()) {
            return Some(Entry::Folder(item, Next::Nothing));
        }
        Some(whole(item, Asked::default(), key))
    }

    /// The entries of a name that is given or leads to what is, below a folder that is saved anyway. A folder that the
    /// rules leave out is entered for what leads on alone; and what cannot be reached is told, as nothing else would.
    fn named(
        &mut self,
        dir: &Arc<Dir>,
        name: &[u8],
        path: &Path,
        stat: rustix::io::Result<rustix::fs::Stat>,
        (narrow, key): (bool, Option<Vec<u32>>),
    ) -> Vec<Entry> {
        let rules = self.rules.clone();
        let given = rules.named.contains(path);
        let judged = match (given, narrow) {
            (true, _) => Some(self.given(dir, name, key.clone())),
            (false, true) => None,
            (false, false) => self.judge(dir, name, Some(path), stat, key.clone()),
        };
        let mut entries = Vec::new();
        let error = match judged {
            Some(Entry::Folder(item, Next::Whole(slot))) => {
                return vec![Entry::Folder(item, Next::Whole(slot))];
            }
            Some(Entry::Leaf(item)) => {
                entries.push(Entry::Leaf(item));
                no_folder(path)
            }
            Some(Entry::Failed(failure)) if given => return vec![Entry::Failed(failure)],
            _ => match self.look(dir, name) {
                Ok(item) if item.kind != Kind::Folder => no_folder(path),
                Ok(item) if rules.skips(item.device, item.inode) => own(path),
                Ok(mut item) => {
                    item.ancestor = true;
                    return vec![whole(item, Asked { given: false, narrow: true }, key)];
                }
                Err(failure) => failure.error,
            },
        };
        let below = rules.named_from(path).filter(|p| !given || *p != path);
        entries.extend(below.map(|p| unreached(p, &error)));
        entries
    }

    /// The entry of a path that was given: no rule but `skip` is asked.
    pub(super) fn given(&mut self, dir: &Arc<Dir>, name: &[u8], key: Option<Vec<u32>>) -> Entry {
        let item = match self.look(dir, name) {
            Ok(item) => item,
            Err(failure) => return Entry::Failed(failure),
        };
        if item.kind != Kind::Folder {
            return Entry::Leaf(item);
        }
        if self.rules.skips(item.device, item.inode) {
            let path = item.path();
            let error = own(&path);
            return Entry::Failed(Failure { path, error });
        }
        whole(item, Asked { given: true, narrow: false }, key)
    }

    /// Failures of the given paths that lie below `path`, which is given and no folder.
    pub(super) fn below_leaf(&self, path: &Path) -> Vec<Entry> {
        let below = self.rules.named_from(path).filter(|p| *p != path);
        below.map(|p| unreached(p, &no_folder(path))).collect()
    }

    /// The item of that name.
    pub(super) fn look(&mut self, dir: &Arc<Dir>, name: &[u8]) -> std::result::Result<Item, Failure> {
        let raw = dir.fd().and_then(|fd| Ok(statat(&*fd, at(name), LOOK)?));
        let raw = raw.map_err(|e| look_failed(dir, name, e))?;
        item(&mut self.owners, dir, name, &raw)
    }

    /// Reads all names, as far as that works, sorts them, and drops what tags say.
    fn names(&mut self, dir: &Arc<Dir>, rest: &mut Rest) -> std::io::Result<()> {
        let fd = dir.fd()?;
        let mut result = Ok(());
        let mut raw = RawDir::new(&*fd, &mut self.buffer);
        while let Some(entry) = raw.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(Errno::INTR) => continue,
                // The folder was deleted while we read it: it is empty.
                Err(Errno::NOENT) => break,
                Err(e) => {
                    result = Err(e.into());
                    break;
                }
            };
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            // No Linux file system has names of over 4 KiB.
            let Ok(len) = u16::try_from(name.len()) else { continue };
            rest.names.push(Name { inode: entry.ino(), start: rest.bytes.len(), len });
            rest.bytes.extend_from_slice(name);
        }
        let (bytes, names) = (&rest.bytes, &mut rest.names);
        let text = |n: &Name| &bytes[n.start..n.start + usize::from(n.len)];
        names.sort_unstable_by(|a, b| text(a).cmp(text(b)));
        // A folder that changes while it is read may give a name twice.
        names.dedup_by(|a, b| text(a) == text(b));

        let present = self.rules.tags.iter().filter(|t| rest.find(&t.name).is_some() && t.holds(&*fd));
        let tagged: Vec<&[u8]> = present.map(|t| t.name.as_slice()).collect();
        let named = match self.rules.named.is_empty() {
            true => Vec::new(),
            false => self.rules.named_in(&dir.path()),
        };
        // One that is given and not there is told when it is looked at.
        let absent: Vec<&[u8]> = named.iter().map(Vec::as_slice).filter(|n| rest.find(n).is_none()).collect();
        if !tagged.is_empty() || rest.narrow {
            let bytes = &rest.bytes;
            rest.names.retain(|n| {
                let name = &bytes[n.start..n.start + usize::from(n.len)];
                tagged.contains(&name) || named.binary_search_by(|known| known.as_slice().cmp(name)).is_ok()
            });
        }
        if !absent.is_empty() {
            for name in absent {
                let Ok(len) = u16::try_from(name.len()) else { continue };
                rest.names.push(Name { inode: 0, start: rest.bytes.len(), len });
                rest.bytes.extend_from_slice(name);
            }
            let (bytes, names) = (&rest.bytes, &mut rest.names);
            let text = |n: &Name| &bytes[n.start..n.start + usize::from(n.len)];
            names.sort_unstable_by(|a, b| text(a).cmp(text(b)));
        }
        result
    }
}

fn item(
    owners: &mut Owners,
    dir: &Arc<Dir>,
    name: &[u8],
    raw: &rustix::fs::Stat,
) -> std::result::Result<Item, Failure> {
    let unknown = || look_failed(dir, name, std::io::Error::other("a type that is not known"));
    Ok(Item {
        name: name.to_vec(),
        parent: dir.clone(),
        kind: kind_of(raw).ok_or_else(unknown)?,
        stat: owners.stat(raw),
        device: raw.st_dev,
        inode: raw.st_ino,
        blocks: u64::try_from(raw.st_blocks).unwrap_or(0),
        ancestor: false,
    })
}

fn whole(item: Item, asked: Asked, key: Option<Vec<u32>>) -> Entry {
    let job = Job {
        parent: item.parent.clone(),
        name: item.name.clone(),
        device: item.device,
        inode: item.inode,
        asked,
    };
    Entry::Folder(item, Next::Whole(Slot::new(job, key)))
}

/// Why there is nothing below `path`.
pub(super) fn no_folder(path: &Path) -> Error {
    Error::new(Fault::Missing, format!("{} is no folder", path.display()))
}

/// Why the repository and its caches are not saved.
fn own(path: &Path) -> Error {
    Error::misuse(format!("{} belongs to the repository, which is not saved in itself", path.display()))
}

/// The failure of a given path that cannot be reached because of `error`.
pub(super) fn unreached(path: &Path, error: &Error) -> Entry {
    let what = if error.fault() == Fault::Missing { "looking for" } else { "reaching" };
    let doing = format!("{what} {}", path.display());
    let error = Error::with_source(error.fault(), doing, error.chain());
    Entry::Failed(Failure { path: path.to_path_buf(), error })
}

fn look_failed(dir: &Arc<Dir>, name: &[u8], e: std::io::Error) -> Failure {
    let path = dir.path().join(OsStr::from_bytes(name));
    let error = Error::io(format!("looking at {}", path.display()), e);
    Failure { path, error }
}

/// Where pastfs is mounted, from the system's table (proc(5), `/proc/self/mountinfo`). No table, no mounts.
pub(super) fn past_mounts() -> Result<HashSet<PathBuf>> {
    match std::fs::read("/proc/self/mountinfo") {
        Ok(table) => Ok(past_mounts_in(&table)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(HashSet::new()),
        Err(e) => Err(e).doing(|| "reading /proc/self/mountinfo"),
    }
}

fn past_mounts_in(table: &[u8]) -> HashSet<PathBuf> {
    let mut found = HashSet::new();
    for line in table.split(|b| *b == b'\n') {
        let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
        let Some(dash) = fields.iter().position(|f| *f == b"-") else { continue };
        let (Some(point), Some(kind), source) = (fields.get(4), fields.get(dash + 1), fields.get(dash + 2))
        else {
            continue;
        };
        let past = *kind == b"fuse.pastfs"
            || (*kind == b"fuse" && source.is_some_and(|s| *s == b"pastfs" || s.starts_with(b"pastfs#")));
        if past {
            found.insert(PathBuf::from(unescape(point)));
        }
    }
    found
}

/// Blanks and such are written as a backslash and three octal digits.
fn unescape(text: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(text.len());
    let mut i = 0;
    while i < text.len() {
        let octal = text.get(i + 1..i + 4).and_then(|d| std::str::from_utf8(d).ok());
        match octal.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) if text[i] == b'\\' => {
                bytes.push(byte);
                i += 4;
            }
            _ => {
                bytes.push(text[i]);
                i += 1;
            }
        }
    }
    std::os::unix::ffi::OsStringExt::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_pastfs_are_found_in_the_table_of_mounts() {
        let table = b"36 35 98:0 / / rw,noatime master:1 - ext4 /dev/root rw,errors=continue\n\
            37 36 0:50 / /mnt/the\\040past ro,nosuid - fuse.pastfs /backup ro\n\
            38 36 0:51 / /past ro - fuse pastfs#/backup ro,user_id=0\n\
            39 36 0:52 / /sshfs rw - fuse.sshfs pastfs rw\nnonsense\n\n4 - fuse.pastfs\n";
        let found = past_mounts_in(table);
        let expected = ["/mnt/the past", "/past"].map(PathBuf::from);
        assert_eq!(found, HashSet::from(expected));
        assert!(past_mounts().is_ok());
    }

    #[test]
    fn tags_have_a_name_and_maybe_a_header() {
        let tag = Tag::parse(&"a:b:c".into()).unwrap();
        assert_eq!((tag.name.as_slice(), tag.header.as_slice()), (&b"a"[..], &b"b:c"[..]));
        assert!(Tag::parse(&".nobackup".into()).unwrap().header.is_empty());
        for wrong in ["", ":x", "a/b", ".."] {
            assert!(Tag::parse(&wrong.into()).is_err());
        }
    }
}
