//! `pastfs ls`.

use super::access::{Global, stop_on_signals};
use super::ending::Exit;
use super::output::Output;
use super::select::{Filters, Target};
use super::words::{self, Table};
use crate::fault::{Error, Fault, Result};
use crate::format::tree::{Entry, Node};
use crate::repository::Right;
use crate::tree;
use serde_json::{Map, Value};
use std::ffi::OsString;

/// List the files of a snapshot
///
/// A folder's names, or with -R the absolute paths of all that is below it. SNAPSHOT is an id (at least 4 digits),
/// `latest`, a time such as 2026-11-19 (the end of that day), '2026-11-19 14:00', yesterday or '3 days ago' (the
/// newest snapshot not later than it), or the name of a folder in the mount.
#[derive(clap::Args)]
pub struct Ls {
    /// Which snapshot, and where in it
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    folder: OsString,
    /// Show mode, links, owner, group, size and time as well
    #[arg(short, long)]
    long: bool,
    /// List all that is below
    #[arg(short = 'R', long)]
    recursive: bool,
    #[command(flatten)]
    filters: Filters,
}

impl Ls {
    pub fn run(self, global: &Global) -> Result<Exit> {
        let target = Target::parse(&self.folder)?;
        let repository = global.open_plainly_to_read()?;
        repository.allow(Right::Read, "listing files")?;
        let stop = stop_on_signals()?;
        let snapshot = target.find(&repository, &self.filters)?;
        let reader = repository.reader();
        let path = clean(target.path.as_deref().unwrap_or_default());
        let start = tree::find(&*reader, &snapshot.manifest.root, &path)?.ok_or_else(|| {
            let what = format!("there is no {} in snapshot {}", words::visible(&path), snapshot.id.short());
            Error::new(Fault::Missing, what)
        })?;
        let mut out = Output::open()?;
        let Node::Folder(id) = start.node else {
            self.print(&mut out, global, &[(path, start)])?;
            out.finish()?;
            return Ok(Exit::Done);
        };
        // Folders still to be listed, the next one last: paths come out sorted folder by folder.
        let mut open = vec![(path, id)];
        while let Some((path, id)) = open.pop() {
            stop.check()?;
            let entries = tree::entries(&*reader, &id).map_err(|e| {
                e.while_(format!("listing {} of snapshot {}", words::visible(&path), snapshot.id.short()))
            })?;
            let rows: Vec<_> = entries.into_iter().map(|e| (join(&path, &e.name), e)).collect();
            self.print(&mut out, global, &rows)?;
            if self.recursive {
                open.extend(rows.into_iter().rev().filter_map(|(path, e)| match e.node {
                    Node::Folder(id) => Some((path, id)),
                    _ => None,
                }));
            }
        }
        out.finish()?;
        Ok(Exit::Done)
    }

    fn print(&self, out: &mut Output, global: &Global, rows: &[(Vec<u8>, Entry)]) -> Result<()> {
        let shown = |path: &[u8], e: &Entry| match self.recursive || e.name.is_empty() {
            true => words::visible(path),
            false => words::visible(&e.name),
        };
        if global.json {
            for (path, entry) in rows {
                out.line(machine(path, entry).to_string())?;
            }
        } else if self.long {
            let mut table = Table::new(&["", ">", "", "", ">", "", ""]);
            for (path, e) in rows {
                let mut name = shown(path, e);
                if let Node::Symlink(to) = &e.node {
                    name.push_str(" -> ");
                    name.push_str(&words::visible(to));
                }
                table.row(vec![
                    mode(e),
                    e.stat.nlink.to_string(),
                    owner(&e.stat.user, e.stat.uid),
                    owner(&e.stat.group, e.stat.gid),
                    match device(e) {
                        Some((major, minor)) => format!("{major}, {minor}"),
                        None => words::size(e.stat.size),
                    },
                    words::local_time(e.stat.mtime),
                    name,
                ]);
            }
            table.print(out)?;
        } else {
            for (path, e) in rows {
                out.line(shown(path, e))?;
            }
        }
        Ok(())
    }
}

/// An absolute path without empty parts and dots.
pub fn clean(path: &[u8]) -> Vec<u8> {
    let mut clean = Vec::new();
    for part in path.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".") {
        clean.push(b'/');
        clean.extend_from_slice(part);
    }
    if clean.is_empty() { b"/".to_vec() } else { clean }
}

pub fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = folder.to_vec();
    if path.last() != Some(&b'/') {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

fn owner(name: &[u8], id: u32) -> String {
    if name.is_empty() { id.to_string() } else { words::visible(name) }
}

fn device(e: &Entry) -> Option<(u32, u32)> {
    match e.node {
        Node::CharDevice(n) | Node::BlockDevice(n) => Some((rustix::fs::major(n), rustix::fs::minor(n))),
        _ => None,
    }
}

/// `drwxr-sr-t`, as ls(1) writes it.
fn mode(e: &Entry) -> String {
    let kind = match e.node {
        Node::File(_) => '-',
        Node::Folder(_) => 'd',
        Node::Symlink(_) => 'l',
        Node::CharDevice(_) => 'c',
        Node::BlockDevice(_) => 'b',
        Node::Fifo => 'p',
        Node::Socket => 's',
        Node::Unknown(_) => '?',
    };
    let mut text = String::from(kind);
    let mode = e.stat.mode;
    for (shift, special, mark) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift & 7;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => mark,
            (true, false) => mark.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    if e.xattrs.iter().any(|x| x.name.starts_with(b"system.posix_acl_")) {
        text.push('+');
    }
    text
}

fn machine(path: &[u8], e: &Entry) -> Value {
    let mut object = Map::new();
    words::put_text(&mut object, "path", path);
    describe(&mut object, e);
    object.into()
}

/// What a file is called by its type.
pub fn kind(e: &Entry) -> &'static str {
    match e.node {
        Node::File(_) => "file",
        Node::Folder(_) => "folder",
        Node::Symlink(_) => "symlink",
        Node::CharDevice(_) => "char_device",
        Node::BlockDevice(_) => "block_device",
        Node::Fifo => "fifo",
        Node::Socket => "socket",
        Node::Unknown(_) => "unknown",
    }
}

/// Puts all that is known of a file into an object, but for its name.
pub fn describe(object: &mut Map<String, Value>, e: &Entry) {
    object.insert("type".into(), kind(e).into());
    if let Node::Symlink(to) = &e.node {
        words::put_text(object, "target", to);
    }
    if let Some((major, minor)) = device(e) {
        object.insert("device".into(), vec![major, minor].into());
    }
    object.insert("mode".into(), format!("{:04o}", e.stat.mode).into());
    object.insert("uid".into(), e.stat.uid.into());
    object.insert("gid".into(), e.stat.gid.into());
    words::put_text(object, "user", &e.stat.user);
    words::put_text(object, "group", &e.stat.group);
    object.insert("size".into(), e.stat.size.into());
    object.insert("mtime".into(), words::machine_time(e.stat.mtime).into());
    object.insert("ctime".into(), words::machine_time(e.stat.ctime).into());
    object.insert("nlink".into(), e.stat.nlink.into());
    if !e.xattrs.is_empty() {
        words::put_texts(object, "xattrs", e.xattrs.iter().map(|x| x.name.as_slice()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tree::{Stat, Xattr};

    fn entry(mode: u32, node: Node) -> Entry {
        Entry {
            name: b"n".to_vec(),
            stat: Stat { mode, nlink: 1, ..Stat::default() },
            node,
            xattrs: Vec::new(),
            chunker: None,
            unknown: Default::default(),
        }
    }

    #[test]
    fn modes_read_as_in_ls() {
        assert_eq!(mode(&entry(0o755, Node::Fifo)), "prwxr-xr-x");
        assert_eq!(mode(&entry(0o7644, Node::Socket)), "srwSr-Sr-T");
        assert_eq!(mode(&entry(0o7777, Node::Symlink(vec![]))), "lrwsrwsrwt");
        let mut with_acl = entry(0, Node::Unknown(9));
        with_acl.xattrs.push(Xattr {
            name: b"system.posix_acl_access".to_vec(),
            value: crate::format::tree::Content::Inline(vec![]),
        });
        assert_eq!(mode(&with_acl), "?---------+");
    }

    #[test]
    fn paths_are_absolute_and_plain() {
        assert_eq!(clean(b""), b"/");
        assert_eq!(clean(b"etc//x/./y/"), b"/etc/x/y");
        assert_eq!(join(b"/", b"etc"), b"/etc");
        assert_eq!(join(b"/etc", b"x"), b"/etc/x");
    }
}
