//! The mount's own folders: what lies beside the snapshots.

use super::attributes::{Attributes, Type};
use super::errno::Errno;
use super::inodes::{Group, Link, Made, Node, What};
use super::names::{AT, BESIDE, BY_HOST, BY_TAG, LATEST, VERSIONS};
use super::numbering::{Fingerprint, PathDigest};
use super::past::Known;
use super::snapshots::{Listed, Shown};
use super::versions::{Below, is_top};
use super::view::{BRIEFLY, FOREVER, Line, Looked, NAME_MAX, Sight, View};
use crate::moment;
use std::sync::Arc;
use std::time::Duration;

/// Lines of the root from which on there are snapshots, by serial; what lies beside them stands before.
const FIRST_SNAPSHOT: u64 = 16;

/// Lines of `by-host` and `by-tag` from which on there are the groups, by serial.
const FIRST_GROUP: u64 = 2;

/// What lies in a folder of the mount's own.
enum Child {
    /// A snapshot.
    Snapshot(Arc<Shown>),
    /// Another folder of the mount's own.
    Folder(Made),
    /// A symlink.
    Link(Link),
    /// A path below `versions/`.
    Path(Made, Arc<Known>),
    /// A file's version: which.
    Version(Arc<Known>, usize),
}

/// Takes a line with its place; whether that is enough.
type Each<'a> = dyn FnMut(u64, &[u8], Child) -> Result<bool, Errno> + 'a;

/// A symlink to the folder of a snapshot, `up` folders above.
fn link(up: &str, to: &Listed) -> Child {
    Child::Link(Link { target: [up.as_bytes(), &to.name].concat(), time: to.shown.time })
}

impl View {
    pub(super) fn lookup_made(&self, folder: &Arc<Node>, made: &Made, name: &[u8]) -> Result<Looked, Errno> {
        let sight = self.sight();
        let child = self.child(&sight, folder, made, name)?.ok_or(Errno::ENOENT)?;
        let (_, attributes, ttl) = self.present(&sight, folder, name, &child, true)?;
        Ok(Looked::There(attributes, ttl))
    }

    fn child(&self, sight: &Sight, folder: &Node, made: &Made, name: &[u8]) -> Result<Option<Child>, Errno> {
        let snapshots = &sight.snapshots;
        Ok(match made {
            Made::Root => match name {
                AT => Some(Child::Folder(Made::At)),
                BY_HOST => Some(Child::Folder(Made::By(Group::Host))),
                BY_TAG => Some(Child::Folder(Made::By(Group::Tag))),
                VERSIONS => Some(Child::Folder(Made::Versions(Box::new(self.numbering.root_path())))),
                LATEST => snapshots.latest().map(|l| link("", l)),
                _ => snapshots.get(name).cloned().map(Child::Snapshot),
            },
            Made::At => self.at(sight, name),
            Made::By(by) => snapshots.members(*by, name).map(|_| Child::Folder(Made::Of(*by))),
            Made::Of(by) => snapshots
                .members(*by, &folder.name)
                .and_then(|m| if name == LATEST { m.latest() } else { m.get(name) })
                .map(|l| link("../../", l)),
            Made::Versions(path) => {
                self.version_child(sight, folder, name)?.map(|below| self.below(path, name, below))
            }
        })
    }

    fn below(&self, path: &PathDigest, name: &[u8], below: Below) -> Child {
        match below {
            Below::Path(known) => {
                Child::Path(Made::Versions(Box::new(self.numbering.path(path, name))), known)
            }
            Below::Version(known, i) => Child::Version(known, i),
        }
    }

    /// The newest snapshot not later than the time that a name means. Ids are no times.
    fn at(&self, sight: &Sight, name: &[u8]) -> Option<Child> {
        let selector = moment::parse(std::str::from_utf8(name).ok()?, &moment::now())?;
        let place = moment::pick(&selector, &sight.snapshots.list, |l| l.shown.time)?;
        sight.snapshots.list.get(place).map(|l| link("../", l))
    }

    /// Gives what lies in a folder, from place `from` on, with the place of each, until `each` answers that it is enough.
    fn children(
        &self,
        sight: &Sight,
        folder: &Node,
        made: &Made,
        from: u64,
        each: &mut Each<'_>,
    ) -> Result<(), Errno> {
        let snapshots = &sight.snapshots;
        match made {
            Made::Root => {
                for (name, place) in BESIDE.into_iter().zip(2..).skip_while(|(_, place)| *place < from) {
                    if let Some(child) = self.child(sight, folder, made, name)?
                        && each(place, name, child)?
                    {
                        return Ok(());
                    }
                }
                for l in snapshots.from(from.saturating_sub(FIRST_SNAPSHOT)) {
                    if each(FIRST_SNAPSHOT + l.serial, &l.name, Child::Snapshot(l.shown.clone()))? {
                        return Ok(());
                    }
                }
            }
            // Any time is a name: there is no end to them.
            Made::At => {}
            Made::By(by) => {
                for (serial, name) in snapshots.groups(*by, from.saturating_sub(FIRST_GROUP)) {
                    if each(FIRST_GROUP + serial, name, Child::Folder(Made::Of(*by)))? {
                        return Ok(());
                    }
                }
            }
            Made::Of(by) => {
                let Some(members) = snapshots.members(*by, &folder.name) else { return Ok(()) };
                if from <= 2
                    && let Some(latest) = members.latest()
                    && each(2, LATEST, link("../../", latest))?
                {
                    return Ok(());
                }
                for l in members.from(from.saturating_sub(FIRST_SNAPSHOT)) {
                    if each(FIRST_SNAPSHOT + l.serial, &l.name, link("../../", l))? {
                        return Ok(());
                    }
                }
            }
            Made::Versions(path) => {
                self.version_children(sight, folder, from, &mut |place, name, below| {
                    each(place, name, self.below(path, name, below))
                })?;
            }
        }
        Ok(())
    }

    /// Lists one of the mount's own folders; as [`View::list`], behind `.` and `..`.
    pub(super) fn list_made(
        &self,
        folder: &Arc<Node>,
        made: &Made,
        from: u64,
        plus: bool,
        take: &mut dyn FnMut(&Line<'_>) -> bool,
    ) -> Result<(), Errno> {
        let sight = self.sight();
        let mut taken = false;
        let result = self.children(&sight, folder, made, from, &mut |place, name, child| {
            if name.len() > NAME_MAX {
                self.too_long(name);
                return Ok(false);
            }
            let next = place + 1;
            if !plus {
                let (ino, kind) = self.number(&sight, folder, name, &child)?;
                let attributes = Attributes { ino, ..self.plain(folder, kind, sight.snapshots.time()) };
                return Ok(take(&Line { name, next, attributes, ttl: Duration::ZERO }));
            }
            let (node, attributes, ttl) = self.present(&sight, folder, name, &child, false)?;
            let full = take(&Line { name, next, attributes, ttl });
            if full {
                self.forget(node.ino, 1);
            }
            taken |= !full;
            Ok(full)
        });
        match result {
            // The kernel must be told of what it was given references of; it comes again, and hears it then.
            Err(_) if taken => Ok(()),
            result => result,
        }
    }

    /// The kernel is told of something; what stat shows of it, and for how long. Unless it is to be `read`, the root of a
    /// snapshot that was not read yet is shown with attributes that hold for no time at all: a list costs no read for
    /// each, and a damaged snapshot does not spoil it.
    fn present(
        &self,
        sight: &Sight,
        folder: &Arc<Node>,
        name: &[u8],
        child: &Child,
        read: bool,
    ) -> Result<(Arc<Node>, Attributes, Duration), Errno> {
        let node = match child {
            Child::Snapshot(shown) => self.acquire_root(name, shown),
            Child::Version(known, i) => self.acquire_version(sight, folder, known, *i)?,
            Child::Folder(made) | Child::Path(made, _) => {
                self.acquire_made(folder, name, What::Made(made.clone()))
            }
            Child::Link(link) => self.acquire_made(folder, name, What::Link(Box::new(link.clone()))),
        };
        let shown = match child {
            Child::Snapshot(shown) if !read && self.folders.cached_root(&shown.root).is_none() => {
                Ok((self.plain(&node, Type::Folder, shown.time), Duration::ZERO))
            }
            Child::Snapshot(_) => match self.entry(&node) {
                Ok(entry) => Ok((self.saved(&node, &entry), FOREVER)),
                Err(_) if !read => {
                    Ok((self.plain(&node, Type::Folder, sight.snapshots.time()), Duration::ZERO))
                }
                Err(e) => Err(e),
            },
            // The roots of all snapshots say who may look in, and need not be read to say that it is there.
            Child::Folder(Made::Versions(_)) if !read && self.setting.only_host.is_some() => {
                Ok((self.plain(&node, Type::Folder, sight.snapshots.time()), Duration::ZERO))
            }
            Child::Folder(made) => self.made_attributes(sight, &node, made).map(|a| (a, BRIEFLY)),
            Child::Link(link) => Ok((self.link(&node, link), BRIEFLY)),
            Child::Path(_, known) => Ok((self.version_attributes(sight, &node, known), BRIEFLY)),
            Child::Version(known, i) => match known.name.versions.get(*i) {
                Some(version) => Ok((self.saved(&node, &version.entry), BRIEFLY)),
                None => Err(Errno::ENOENT),
            },
        };
        match shown {
            Ok((attributes, ttl)) => Ok((node, attributes, ttl)),
            Err(e) => {
                self.forget(node.ino, 1);
                Err(e)
            }
        }
    }

    fn acquire_made(&self, folder: &Arc<Node>, name: &[u8], what: What) -> Arc<Node> {
        let print = self.made_print(folder, name, &what);
        self.nodes.acquire(print, |ino, generation| Node {
            ino,
            generation,
            parent: Some(folder.clone()),
            name: name.into(),
            what,
        })
    }

    fn made_print(&self, folder: &Node, name: &[u8], what: &What) -> Fingerprint {
        let path = || [folder.path().as_slice(), b"/", name].concat();
        match what {
            What::Made(Made::Versions(digest)) => self.numbering.versions(digest),
            What::Link(link) => self.numbering.link(&path(), link),
            What::Made(_) | What::Saved(..) => self.numbering.made(&path()),
        }
    }

    /// Number and type, of which the kernel is not told.
    fn number(&self, sight: &Sight, folder: &Node, name: &[u8], child: &Child) -> Result<(u64, Type), Errno> {
        let of = |what| self.nodes.number(self.made_print(folder, name, &what));
        Ok(match child {
            Child::Snapshot(shown) => {
                let print = self.numbering.single(shown, &self.numbering.root_path());
                (self.nodes.number(print), Type::Folder)
            }
            Child::Folder(made) | Child::Path(made, _) => (of(What::Made(made.clone())), Type::Folder),
            Child::Link(link) => (of(What::Link(Box::new(link.clone()))), Type::Symlink),
            Child::Version(known, i) => self.version_number(sight, folder, known, *i)?,
        })
    }

    /// What stat shows of one of the mount's own folders. Its time stays until there are other snapshots.
    pub(super) fn made_attributes(
        &self,
        sight: &Sight,
        node: &Node,
        made: &Made,
    ) -> Result<Attributes, Errno> {
        let snapshots = &sight.snapshots;
        let time = match made {
            Made::Versions(_) => {
                if !is_top(node) || self.setting.only_host.is_some() {
                    return Ok(self.version_attributes(sight, node, &*self.known(sight, node)?));
                }
                snapshots.time()
            }
            Made::Of(by) => {
                let latest = snapshots.members(*by, &node.name).and_then(|m| m.latest());
                latest.map_or(snapshots.time(), |l| l.shown.time)
            }
            _ => snapshots.time(),
        };
        Ok(Attributes { mode: 0o555, ..self.plain(node, Type::Folder, time) })
    }

    /// What stat shows of one of the mount's own symlinks.
    pub(super) fn link(&self, node: &Node, link: &Link) -> Attributes {
        let size = link.target.len() as u64;
        Attributes { mode: 0o777, size, ..self.plain(node, Type::Symlink, link.time) }
    }
}
