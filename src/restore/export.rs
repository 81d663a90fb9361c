//! A snapshot, or a part of it, as a tar stream.
//!
//! The format is POSIX pax (IEEE Std 1003.1-2017, pax, "pax Interchange Format"), with GNU's base-256 numbers for
//! what octal cannot hold, xattrs as `SCHILY.xattr.<name>` records and ACLs as `SCHILY.acl.<kind>` besides, as GNU tar,
//! bsdtar and star know them. Extract with `tar --acls --xattrs --xattrs-include='*' -xpf`. Holes are written as zeros; sockets are left out, as tar(1) does.

use super::content::{Piece, pieces, whole};
use super::request::{Start, start};
use super::shared::{Shared, as_path, join};
use super::{Report, Supply};
use crate::clock::Time;
use crate::event::{Event, Observer, Outcome, Stop};
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::tree::{Content, Entry, Node};
use crate::id::ChunkId;
use crate::repository::{Repository, Right, Snapshot};
use crate::tree;
use std::collections::HashMap;
use std::io::{ErrorKind, Write};
use std::sync::Arc;
use tar::{EntryType, Header};

/// tar works in blocks.
const BLOCK: u64 = 512;
/// Files up to this size are read whole before their header is written, so that damage costs this file
/// only. In the middle of a larger one the stream has to end.
const WHOLE_MAX: u64 = 16 << 20;
/// Zeros that are written at once.
static ZEROS: [u8; 32 << 10] = [0; 32 << 10];
/// Longest xattr value that goes into a header (`XATTR_SIZE_MAX`, limits.h).
const VALUE_MAX: u64 = 64 << 10;
/// A header's octal fields hold numbers below this: 11 digits for times, 7 for the parts of a device number.
const OCTAL_11: i64 = 1 << 33;
const OCTAL_7: u32 = 1 << 21;

/// The name of an entry that holds a long name.
const LONG: &[u8] = b"././@LongLink";

const SOCKET: &str = "tar has no sockets: they are left out";

/// Writes a tar stream of `path` (empty or `/` for all) to `out`. Names in it are paths relative to `/`, without
/// a slash in front; a file or folder that is asked for keeps its whole path.
///
/// What cannot be read is told to the observer, counted and left out. Memory stays bounded, but for the names of
/// files with several hard links.
///
/// # Errors
/// `Missing` when the path is not in the snapshot; `Stopped` when the reader of `out` has gone; `Damaged` when
/// the content of a file over 16 MiB turns out damaged after its header was written: the stream ends there.
pub fn export(
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
    path: &[u8],
    out: &mut dyn Write,
    observer: &Arc<dyn Observer>,
    stop: &Stop,
) -> Result<Report> {
    repository.allow(Right::Read, "exporting")?;
    let reader = repository.reader();
    export_from(&*reader, &snapshot.manifest.root, path, out, &**observer, stop)
}

pub(super) fn export_from(
    supply: &dyn Supply,
    root: &ChunkId,
    path: &[u8],
    out: &mut dyn Write,
    observer: &dyn Observer,
    stop: &Stop,
) -> Result<Report> {
    let began = std::time::Instant::now();
    let start = start(supply, root, path)?;
    let shared = Shared::new(supply, observer, stop);
    let mut stream = Stream { shared: &shared, out, first: HashMap::new() };
    stream.all(start)?;
    let mut report = shared.end()?;
    report.seconds = began.elapsed().as_secs_f64();
    Ok(report)
}

struct Stream<'a> {
    shared: &'a Shared<'a>,
    out: &'a mut dyn Write,
    /// The name under which the content of a file with several names was written.
    first: HashMap<(u32, u64), Vec<u8>>,
}

/// How an entry of the archive differs from its header so far.
#[derive(Default)]
struct Pax(Vec<(String, Vec<u8>)>);

impl Pax {
    fn add(&mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) {
        self.0.push((key.into(), value.into()));
    }
}

impl Stream<'_> {
    fn all(&mut self, start: Start) -> Result<()> {
        let name = start.path[1..].to_vec();
        let entered = self.one(&start.entry, &name)?;
        let mut levels: Vec<_> = entered.map(|entries| (name, entries)).into_iter().collect();
        while let Some((folder, entries)) = levels.last_mut() {
            self.shared.stop.check()?;
            let Some(entry) = entries.next() else {
                levels.pop();
                continue;
            };
            let name = join(folder, &entry.name);
            let entered = self.one(&entry, &name)?;
            levels.extend(entered.map(|entries| (name, entries)));
        }
        // Two blocks of zeros end an archive.
        self.write(&ZEROS[..2 * BLOCK as usize])?;
        self.out.flush().map_err(broken)
    }

    /// Writes one entry; of a folder, answers what is in it. Errors end the stream.
    fn one(&mut self, entry: &Entry, name: &[u8]) -> Result<Option<std::vec::IntoIter<Entry>>> {
        let path = join(b"/", name);
        let file = matches!(entry.node, Node::File(_));
        match self.entry(entry, name, &path) {
            Ok(true) => {
                self.shared.count(|r| match &entry.node {
                    Node::File(_) => r.files += 1,
                    Node::Folder(_) => r.folders += 1,
                    _ => r.others += 1,
                });
                self.shared.finished(&path, Outcome::Restored, file);
            }
            Ok(false) => {}
            Err(Trouble::Here(e)) => self.shared.failed(&path, e),
            Err(Trouble::Stream(e)) => return Err(e),
        }
        let Node::Folder(id) = &entry.node else { return Ok(None) };
        match tree::entries(self.shared.supply, id) {
            Ok(entries) => Ok(Some(entries.into_iter())),
            Err(e) => {
                self.shared.failed(&path, e.while_("reading the folder; nothing in it is exported"));
                Ok(None)
            }
        }
    }

    /// Writes one entry unless tar has none of its kind.
    fn entry(&mut self, entry: &Entry, name: &[u8], path: &[u8]) -> std::result::Result<bool, Trouble> {
        let mut pax = Pax::default();
        let mut header = Header::new_gnu();
        self.attributes(entry, &mut header, &mut pax, path);

        // The other names of a file are links to its first one in the archive.
        if let Some(first) = entry.stat.link.and_then(|key| self.first.get(&key)) {
            header.set_entry_type(EntryType::Link);
            set_link(&mut header, &mut pax, &first.clone());
            self.header(header, pax, name)?;
            self.done_bytes(entry.stat.size);
            return Ok(true);
        }
        match &entry.node {
            Node::File(content) => self.file(entry, content, header, pax, name, path)?,
            Node::Folder(_) => {
                header.set_entry_type(EntryType::Directory);
                let name = if name.is_empty() { b"./".to_vec() } else { [name, b"/"].concat() };
                self.header(header, pax, &name)?;
            }
            Node::Symlink(target) => {
                header.set_entry_type(EntryType::Symlink);
                set_link(&mut header, &mut pax, target);
                self.header(header, pax, name)?;
            }
            Node::CharDevice(n) | Node::BlockDevice(n) => {
                let (major, minor) = (rustix::fs::major(*n), rustix::fs::minor(*n));
                if major >= OCTAL_7 || minor >= OCTAL_7 {
                    return Err(Trouble::Here(Error::new(
                        Fault::Misuse,
                        format!("tar has no device number {major}:{minor}"),
                    )));
                }
                header.set_entry_type(match entry.node {
                    Node::CharDevice(_) => EntryType::Char,
                    _ => EntryType::Block,
                });
                // Only other kinds of header have no such fields.
                let _ = header.set_device_major(major).and_then(|()| header.set_device_minor(minor));
                self.header(header, pax, name)?;
            }
            Node::Fifo => {
                header.set_entry_type(EntryType::Fifo);
                self.header(header, pax, name)?;
            }
            Node::Socket => {
                self.shared.say_once(SOCKET);
                return Ok(false);
            }
            Node::Unknown(kind) => {
                return Err(Trouble::Here(Error::new(
                    Fault::Newer,
                    format!("it is of type {kind}, which this version of pastfs does not know"),
                )));
            }
        }
        if let Some(key) = entry.stat.link {
            self.first.insert(key, name.to_vec());
        }
        Ok(true)
    }

    fn file(
        &mut self,
        entry: &Entry,
        content: &Content,
        mut header: Header,
        pax: Pax,
        name: &[u8],
        path: &[u8],
    ) -> std::result::Result<(), Trouble> {
        let size = entry.stat.size;
        self.shared.observer.event(Event::Started(as_path(path)));
        header.set_entry_type(EntryType::Regular);
        header.set_size(size);
        let length = || Error::damaged("its content is not as long as the file");
        let here = |e: Error| Trouble::Here(e.while_("reading its content"));
        if let Some(bytes) = whole(self.shared.supply, content, WHOLE_MAX).map_err(here)? {
            if bytes.len() as u64 != size {
                return Err(here(length()));
            }
            self.header(header, pax, name)?;
            self.write(&bytes)?;
            self.done_bytes(size);
        } else {
            if content.len().map_err(here)? != size {
                return Err(here(length()));
            }
            self.header(header, pax, name)?;
            self.stream(content).doing(|| {
                format!("writing {}; the archive ends here, in the middle of it", as_path(path).display())
            })?;
        }
        let padding = size.next_multiple_of(BLOCK) - size;
        self.write(&ZEROS[..padding as usize])?;
        Ok(())
    }

    fn stream(&mut self, content: &Content) -> Result<()> {
        let shared = self.shared;
        pieces(shared.supply, content, &mut |_, piece| {
            shared.stop.check()?;
            let n = match piece {
                Piece::Data(bytes) => {
                    self.write(bytes)?;
                    bytes.len() as u64
                }
                Piece::Hole(len) => {
                    let mut rest = len;
                    while rest > 0 {
                        shared.stop.check()?;
                        let n = rest.min(ZEROS.len() as u64);
                        self.write(&ZEROS[..n as usize])?;
                        rest -= n;
                    }
                    len
                }
            };
            self.done_bytes(n);
            Ok(())
        })
        .map(drop)
    }

    fn done_bytes(&self, n: u64) {
        self.shared.count(|r| r.bytes += n);
        self.shared.observer.event(Event::Bytes(n));
    }

    /// Owner, mode, time and xattrs.
    fn attributes(&self, entry: &Entry, header: &mut Header, pax: &mut Pax, path: &[u8]) {
        let stat = &entry.stat;
        header.set_mode(stat.mode);
        header.set_uid(stat.uid.into());
        header.set_gid(stat.gid.into());
        header.set_size(0);
        let fits = (0..OCTAL_11).contains(&stat.mtime.seconds);
        header.set_mtime(if fits { stat.mtime.seconds as u64 } else { 0 });
        if !fits || stat.mtime.nanos != 0 {
            pax.add("mtime", decimal(stat.mtime));
        }
        if let Some(gnu) = header.as_gnu_mut() {
            for (key, name, field) in
                [("uname", &stat.user, &mut gnu.uname), ("gname", &stat.group, &mut gnu.gname)]
            {
                // One byte stays for the NUL.
                if name.len() < field.len() {
                    field[..name.len()].copy_from_slice(name);
                } else {
                    pax.add(key, name.clone());
                }
            }
        }
        for x in &entry.xattrs {
            let lost = |why: &str| {
                let name = String::from_utf8_lossy(&x.name);
                self.shared.incomplete(path, &format!("its attribute {name} is left out: {why}"));
            };
            let Ok(name) = std::str::from_utf8(&x.name) else {
                lost("tar has no such name");
                continue;
            };
            match whole(self.shared.supply, &x.value, VALUE_MAX) {
                // GNU tar's own way to keep `=` out of a key.
                Ok(Some(value)) => {
                    if let Some(kind) = name.strip_prefix("system.posix_acl_")
                        && let Some(text) = acl_text(&value)
                    {
                        // What `tar --acls` reads; as an xattr alone it would be skipped without a word.
                        pax.add(format!("SCHILY.acl.{kind}"), text);
                    }
                    let name = name.replace('%', "%25").replace('=', "%3D");
                    pax.add(format!("SCHILY.xattr.{name}"), value);
                }
                Ok(None) => lost("it is longer than Linux allows"),
                Err(e) => lost(&e.chain()),
            }
        }
    }

    /// Writes the pax records, then the header with this name.
    fn header(&mut self, mut header: Header, mut pax: Pax, name: &[u8]) -> Result<()> {
        let field = &mut header.as_old_mut().name;
        if name.len() <= field.len() {
            field[..name.len()].copy_from_slice(name);
        } else {
            // For programs that do not know pax; a cut name must not end in a slash, which makes a folder.
            let n = field.len();
            field.copy_from_slice(&name[..n]);
            if let Some(last) = field.last_mut().filter(|b| **b == b'/') {
                *last = b'_';
            }
            pax.add("path", name);
        }
        // Pax has UTF-8 only, and the record that says otherwise (hdrcharset) is unknown to GNU tar. Its own
        // long names are raw bytes everywhere.
        for (key, kind) in [("path", EntryType::GNULongName), ("linkpath", EntryType::GNULongLink)] {
            let raw = |(k, v): &(String, Vec<u8>)| k == key && std::str::from_utf8(v).is_err();
            if let Some(i) = pax.0.iter().position(raw) {
                let (_, mut value) = pax.0.swap_remove(i);
                value.push(0);
                let mut long = Header::new_gnu();
                long.as_old_mut().name[..LONG.len()].copy_from_slice(LONG);
                self.extension(long, kind, value)?;
            }
        }
        let mut records = Vec::new();
        for (key, value) in &pax.0 {
            record(&mut records, key, value);
        }
        if !records.is_empty() {
            self.extension(Header::new_ustar(), EntryType::XHeader, records)?;
        }
        header.set_cksum();
        self.write(header.as_bytes())
    }

    /// Writes an entry that says something about the next one.
    fn extension(&mut self, mut header: Header, kind: EntryType, mut value: Vec<u8>) -> Result<()> {
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(value.len() as u64);
        header.set_cksum();
        value.resize(value.len().next_multiple_of(BLOCK as usize), 0);
        self.write(header.as_bytes())?;
        self.write(&value)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(broken)
    }
}

/// What stopped an entry.
enum Trouble {
    /// This entry alone: nothing of it was written.
    Here(Error),
    /// The stream cannot go on.
    Stream(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Trouble::Stream(error)
    }
}

/// A reader that has gone has read enough.
fn broken(error: std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::BrokenPipe => Error::with_source(Fault::Stopped, "writing the archive", error),
        _ => Error::io("writing the archive", error),
    }
}

fn set_link(header: &mut Header, pax: &mut Pax, target: &[u8]) {
    let field = &mut header.as_old_mut().linkname;
    let n = target.len().min(field.len());
    field[..n].copy_from_slice(&target[..n]);
    if n < target.len() {
        pax.add("linkpath", target);
    }
}

/// Appends `length key=value\n`, where the length counts itself.
fn record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    records.extend_from_slice(format!("{len} {key}=").as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// Seconds with a fraction, as pax writes times.
fn decimal(t: Time) -> String {
    match (t.seconds, t.nanos) {
        (s, 0) => s.to_string(),
        (s, n) if s >= 0 => format!("{s}.{n:09}"),
        // Below zero the fraction counts downwards.
        (s, n) => format!("-{}.{:09}", (s + 1).unsigned_abs(), 1_000_000_000 - n),
    }
}

/// A POSIX ACL as text (acl(5), short form with numeric ids), from the value of its xattr (linux/posix_acl_xattr.h:
/// a version, then entries of tag, permissions and id, all little-endian). `None` for what is none.
fn acl_text(value: &[u8]) -> Option<String> {
    let (version, entries) = value.split_first_chunk::<4>()?;
    let (entries, rest) = entries.as_chunks::<8>();
    if u32::from_le_bytes(*version) != 2 || !rest.is_empty() {
        return None;
    }
    let mut lines = Vec::with_capacity(entries.len());
    for [t0, t1, p0, p1, id @ ..] in entries {
        let id = u32::from_le_bytes(*id);
        let whom = match u16::from_le_bytes([*t0, *t1]) {
            0x01 => "user:".to_owned(),
            0x02 => format!("user:{id}"),
            0x04 => "group:".to_owned(),
            0x08 => format!("group:{id}"),
            0x10 => "mask:".to_owned(),
            0x20 => "other:".to_owned(),
            _ => return None,
        };
        let may = u16::from_le_bytes([*p0, *p1]);
        let letter = |bit, letter| if may & bit != 0 { letter } else { '-' };
        lines.push(format!("{whom}:{}{}{}", letter(4, 'r'), letter(2, 'w'), letter(1, 'x')));
    }
    Some(lines.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::fake::{Fake, Heard, Scratch, is_root, list, xattr};
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    use std::process::{Command, Stdio};

    fn archive(fake: &mut Fake, path: &[u8]) -> (Result<Report>, Vec<u8>, Heard) {
        let (heard, mut out) = (Heard::default(), Vec::new());
        let root = fake.root();
        let report = export_from(&fake.shelf, &root, path, &mut out, &heard, &Stop::new());
        (report, out, heard)
    }

    /// Extracts with the system's tar; `None` where there is none.
    fn extract(bytes: &[u8], into: &std::path::Path) -> Option<()> {
        let mut tar = Command::new("tar");
        tar.args(["--xattrs", "--xattrs-include=*", "-xpf", "-", "-C"]).arg(into);
        let mut child = tar.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().ok()?;
        child.stdin.take()?.write_all(bytes).ok()?;
        let output = child.wait_with_output().ok()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let expected = |line: &str| line.contains("implausibly old time stamp");
        assert!(output.status.success() && text.lines().all(expected), "{text}");
        Some(())
    }

    #[test]
    fn an_acl_is_written_as_text_or_not_at_all() {
        let mut value = 2u32.to_le_bytes().to_vec();
        for (tag, may, id) in
            [(1u16, 6u16, u32::MAX), (2, 4, 1000), (4, 5, u32::MAX), (8, 1, 7), (16, 7, 0), (32, 0, 0)]
        {
            value.extend([tag.to_le_bytes(), may.to_le_bytes()].concat());
            value.extend(id.to_le_bytes());
        }
        let text = "user::rw-,user:1000:r--,group::r-x,group:7:--x,mask::rwx,other::---";
        assert_eq!(acl_text(&value).as_deref(), Some(text));
        assert_eq!(acl_text(&value[..11]), None);
        assert_eq!(acl_text(b""), None);
        value[4] = 3;
        assert_eq!(acl_text(&value), None);
    }

    #[test]
    fn what_tar_extracts_is_what_the_snapshot_holds() {
        let scratch = Scratch::new();
        let mut fake = Fake::default();
        let long = format!("{}/{}", "d".repeat(200), "n".repeat(255));
        fake.file("home/file", b"content").stat.mode = 0o4751;
        fake.file("home/empty", b"");
        fake.file("home/old", b"x").stat.mtime = Time { seconds: -2, nanos: 250_000_000 };
        fake.file(&long, &[5; 1000]);
        fake.file([b"home/", &[0xff, 0xfe][..], &[b'z'; 120]].concat(), b"no UTF-8");
        fake.folder("home/folder", 0o1750);
        fake.add("home/link", Node::Symlink(b"a//./b/".to_vec()), 0o777);
        fake.add("home/far", Node::Symlink([&[0xfe][..], &[b't'; 300]].concat()), 0o777);
        fake.add("home/fifo", Node::Fifo, 0o600);
        fake.add("home/socket", Node::Socket, 0o600);
        let second = format!("{}2", &long[..long.len() - 1]);
        for name in ["home/one", second.as_str()] {
            let entry = fake.file(name, b"one file");
            (entry.stat.nlink, entry.stat.link) = (2, Some((0, 9)));
        }
        fake.xattr("home/file", "user.note", b"with\nnewline\0and nul");
        fake.xattr("home/file", "user.a=b%", b"strange name");
        let content = fake.content(&[Ok(b"start"), Err(20 << 20), Ok(b"end")]);
        fake.add("home/big", Node::File(content), 0o644);
        if is_root() {
            let entry = fake.file("home/far-owner", b"x");
            (entry.stat.uid, entry.stat.gid) = (3_000_000_000, 70_000);
            fake.add("home/null", Node::CharDevice(rustix::fs::makedev(1, 3)), 0o666);
        }
        let (report, bytes, heard) = archive(&mut fake, b"");
        let report = report.unwrap();
        assert_eq!((report.failed, report.incomplete, heard.unread()), (0, 0, vec![]));
        assert_eq!(*heard.warnings.lock().unwrap(), [SOCKET]);
        if extract(&bytes, &scratch.0).is_none() {
            return;
        }
        let at = |p: &str| scratch.0.join(p);
        let meta = |p: &str| fs::symlink_metadata(at(p)).unwrap();
        assert_eq!(fs::read(at("home/file")).unwrap(), b"content");
        assert_eq!(fs::read(at(&long)).unwrap(), [5; 1000]);
        let big = fs::read(at("home/big")).unwrap();
        assert!(big.len() == (20 << 20) + 8 && big.starts_with(b"start\0") && big.ends_with(b"\0end"));
        assert_eq!(
            (meta("home/file").mode() & 0o7777, meta("home/folder").mode() & 0o7777),
            (0o4751, 0o1750)
        );
        for p in ["home/file", "home/folder", "home/link", "home/fifo", &long] {
            assert_eq!((meta(p).mtime(), meta(p).mtime_nsec()), (1_700_000_000, 123_456_789), "{p}");
        }
        assert_eq!((meta("home/old").mtime(), meta("home/old").mtime_nsec()), (-2, 250_000_000));
        assert_eq!(fs::read_link(at("home/link")).unwrap().as_os_str().as_bytes(), b"a//./b/");
        assert_eq!(fs::read_link(at("home/far")).unwrap().as_os_str().len(), 301);
        let odd = [b"home/", &[0xff, 0xfe][..], &[b'z'; 120]].concat();
        assert_eq!(fs::read(scratch.0.join(as_path(&odd))).unwrap(), b"no UTF-8");
        assert_eq!(meta("home/one").ino(), meta(&second).ino());
        assert!(meta("home/fifo").file_type().is_fifo());
        assert!(!at("home/socket").exists());
        if xattr(&at("home/file"), "user.note").is_some() {
            assert_eq!(xattr(&at("home/file"), "user.note").unwrap(), b"with\nnewline\0and nul");
            assert_eq!(xattr(&at("home/file"), "user.a=b%").unwrap(), b"strange name");
        }
        if is_root() {
            let m = meta("home/far-owner");
            assert_eq!((m.uid(), m.gid()), (3_000_000_000, 70_000));
            assert_eq!(meta("home/null").rdev(), rustix::fs::makedev(1, 3));
        }
    }

    #[test]
    fn a_part_keeps_its_whole_path_without_the_slash() {
        let scratch = Scratch::new();
        let mut fake = Fake::default();
        fake.file("home/ana/a", b"a");
        fake.file("home/ben/b", b"b");
        for (path, expected) in [
            (&b"/home/ana"[..], vec!["home", "home/ana", "home/ana/a"]),
            (b"home/ben/b", vec!["home", "home/ana", "home/ana/a", "home/ben", "home/ben/b"]),
        ] {
            let (report, bytes, _) = archive(&mut fake, path);
            report.unwrap();
            if extract(&bytes, &scratch.0).is_some() {
                assert_eq!(list(&scratch.0), expected);
            }
        }
    }

    #[test]
    fn a_damaged_file_is_left_out_and_a_large_one_ends_the_stream() {
        let scratch = Scratch::new();
        let mut fake = Fake::default();
        fake.file("bad", b"lost");
        fake.file("good", b"fine");
        fake.lose(b"lost");
        let (report, bytes, heard) = archive(&mut fake, b"");
        let report = report.unwrap();
        assert_eq!((report.failed, report.damaged, heard.unread()[0].0.as_str()), (1, 1, "/bad"));
        if extract(&bytes, &scratch.0).is_some() {
            assert_eq!(list(&scratch.0), ["good"]);
        }
        let content = fake.content(&[Ok(b"some"), Err(WHOLE_MAX), Ok(b"gone")]);
        fake.add("large", Node::File(content), 0o644);
        fake.lose(b"gone");
        let (report, bytes, _) = archive(&mut fake, b"");
        let error = report.unwrap_err();
        assert_eq!(error.fault(), Fault::Damaged);
        assert!(error.to_string().contains("/large"));
        assert!(bytes.len() as u64 > WHOLE_MAX);
    }

    #[test]
    fn a_reader_that_goes_away_ends_the_export_quietly() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut fake = Fake::default();
        fake.file("a", b"a");
        let root = fake.root();
        let result = export_from(&fake.shelf, &root, b"", &mut Gone, &Heard::default(), &Stop::new());
        assert_eq!(result.unwrap_err().fault(), Fault::Stopped);
    }

    #[test]
    fn times_before_1970_and_records_of_every_length_are_written_right() {
        let time = |seconds, nanos| decimal(Time { seconds, nanos });
        assert_eq!(time(5, 7), "5.000000007");
        assert_eq!(time(-2, 250_000_000), "-1.750000000");
        assert_eq!(time(-1, 1), "-0.999999999");
        assert_eq!(time(-3, 0), "-3");
        for n in 0..2000 {
            let mut out = Vec::new();
            record(&mut out, "k", &vec![b'v'; n]);
            let said: usize = std::str::from_utf8(&out).unwrap().split(' ').next().unwrap().parse().unwrap();
            assert_eq!(said, out.len());
        }
    }
}
