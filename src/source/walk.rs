//! The walk: one stream of everything that is to be saved, in an order that depends on nothing but names.

use super::ahead::Ahead;
use super::dir::{Dir, For};
use super::list::{Entry, Failure, Lister, Listing, Next, Rest, Rules, no_folder, past_mounts, unreached};
use super::{Event, Item, Kind, Options, absolute};
use crate::fault::{Doing, Error, Fault, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// Folders on the way to where the walk is that are kept open. Those further up are opened again when the
/// walk comes back, so that no depth runs out of descriptors.
const OPEN: usize = 128;

/// What is to be saved of an ancestor of given paths.
#[derive(Default)]
pub(super) struct Plan {
    /// All of it; then there is nothing below, as [`Rules`] knows what else is given there. The number sorts given paths as the walk goes.
    given: Option<u32>,
    below: BTreeMap<Vec<u8>, Plan>,
}

/// Walks over everything that is to be saved, depth-first: `/`, then the entries of each folder sorted by
/// their raw names, each folder's entries between its [`Event::Enter`] and its [`Event::Leave`].
pub struct Walk {
    ahead: Ahead,
    lister: Lister,
    /// The folders that were entered and not left.
    stack: Vec<Frame>,
    /// What comes before all else.
    soon: VecDeque<Event>,
    /// The root folder, until it was entered.
    root: Option<(Arc<Dir>, Plan)>,
    /// Devices with hard links, in the order in which they were met.
    devices: Vec<u64>,
}

struct Frame {
    /// `None` when nothing comes of it.
    dir: Option<Arc<Dir>>,
    entries: std::vec::IntoIter<Entry>,
    rest: Rest,
}

impl Walk {
    /// Looks for the given paths. `Misuse` when there are none, `Missing` when none of them exists: it is
    /// more likely that somebody mistyped than that an empty backup is wanted. One that does not exist
    /// among others fails in its place. Raises the soft limit on open files to the hard one.
    pub fn new(options: Options) -> Result<Self> {
        if options.paths.is_empty() {
            return Err(Error::misuse("there is no path to save"));
        }
        let mut plan = Plan::default();
        let mut given = BTreeSet::new();
        let mut absent = Vec::new();
        let mut first = None;
        for path in &options.paths {
            let path = real(&absolute(path)?);
            match std::fs::symlink_metadata(&path) {
                Ok(_) => {}
                Err(e) => {
                    absent.push(path.display().to_string());
                    first.get_or_insert(e);
                }
            }
            plan.add(&path);
            given.insert(path);
        }
        if absent.len() == options.paths.len()
            && let Some(e) = first
        {
            let all_missing = Error::io(format!("looking for {}", absent.join(", ")), e);
            return Err(match all_missing.fault() {
                Fault::Io => all_missing.as_fault(Fault::Missing),
                _ => all_missing,
            });
        }
        plan.number(&mut 0);
        raise_limit();
        let inside = |p: &&PathBuf| p.ancestors().skip(1).any(|above| given.contains(above));
        let named = given.iter().filter(inside).cloned().collect();
        let rules = Arc::new(Rules::new(&options, past_mounts()?, named)?);
        let (root, _) = Dir::root().doing(|| "opening /")?;
        Ok(Self {
            ahead: Ahead::new(options.threads, &rules)?,
            lister: Lister::new(rules),
            stack: Vec::new(),
            soon: VecDeque::new(),
            root: Some((root, plan)),
            devices: Vec::new(),
        })
    }

    fn enter_root(&mut self, root: Arc<Dir>, plan: Plan) {
        let entry = match plan.given {
            Some(number) => self.lister.given(&root, b"", self.key(number)),
            None => match self.lister.look(&root, b"") {
                Ok(item) => Entry::Folder(item, Next::Ancestor(plan)),
                Err(failure) => Entry::Failed(failure),
            },
        };
        match entry {
            Entry::Folder(item, next) => self.enter(item, next),
            Entry::Leaf(item) => self.soon.push_back(Event::Leaf(item)),
            Entry::Failed(Failure { path, error }) => self.soon.push_back(Event::Failed { path, error }),
        }
    }

    /// Enters a folder: what there is to tell comes `soon`.
    fn enter(&mut self, mut item: Item, next: Next) {
        let mut frame = Frame { dir: None, entries: Vec::new().into_iter(), rest: Rest::default() };
        match next {
            Next::Nothing => {}
            Next::Whole(slot) => {
                let listing = self.ahead.take(&slot, &mut self.lister);
                if listing.vanished {
                    return;
                }
                if let Some(now) = listing.renewed {
                    item = now;
                }
                if let Some(error) = listing.error {
                    self.soon.push_back(Event::Failed { path: item.path(), error });
                }
                frame = Frame { dir: listing.dir, entries: listing.entries.into_iter(), rest: listing.rest };
            }
            Next::Ancestor(plan) => {
                item.ancestor = true;
                let entries = match Dir::open(&item.parent, &item.name, For::Passing) {
                    Ok((dir, _)) => {
                        let entries = self.children(&dir, plan);
                        frame.dir = Some(dir);
                        entries
                    }
                    Err(e) => {
                        let path = item.path();
                        let error = Error::io(format!("opening {}", path.display()), e);
                        plan.failures(&path, &error)
                    }
                };
                self.ahead.offer(Listing::slots(&entries));
                frame.entries = entries.into_iter();
            }
        }
        if frame.dir.is_some()
            && let Some(above) = self.stack.len().checked_sub(OPEN)
            && let Some(dir) = &self.stack[above].dir
        {
            dir.close();
        }
        self.stack.push(frame);
        let item = self.met(item);
        self.soon.push_back(Event::Enter(item));
    }

    fn leave(&mut self) {
        let left = self.stack.pop();
        if let Some(child) = left.and_then(|f| f.dir)
            && let Some(dir) = self.stack.last().and_then(|f| f.dir.as_ref())
        {
            dir.open_from(&child);
        }
    }

    /// The entries of an ancestor: those that lead to given paths.
    fn children(&mut self, dir: &Arc<Dir>, plan: Plan) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (name, below) in plan.below {
            if let Some(number) = below.given {
                let key = self.key(number);
                entries.push(self.lister.given(dir, &name, key));
                if let Some(Entry::Leaf(item)) = entries.last() {
                    let lost = self.lister.below_leaf(&item.path());
                    entries.extend(lost);
                }
                continue;
            }
            let path = dir.path().join(OsStr::from_bytes(&name));
            match self.lister.look(dir, &name) {
                Ok(item) if item.kind == Kind::Folder => {
                    entries.push(Entry::Folder(item, Next::Ancestor(below)));
                }
                Ok(_) => entries.extend(below.failures(&path, &no_folder(&path))),
                Err(failure) => entries.extend(below.failures(&path, &failure.error)),
            }
        }
        entries
    }

    fn key(&self, number: u32) -> Option<Vec<u32>> {
        self.ahead.active().then(|| vec![number])
    }

    /// Completes an item in the order of the stream.
    fn met(&mut self, mut item: Item) -> Item {
        if item.stat.nlink > 1 {
            let known = self.devices.iter().position(|d| *d == item.device);
            let ordinal = known.unwrap_or_else(|| {
                self.devices.push(item.device);
                self.devices.len() - 1
            });
            item.stat.link = Some((ordinal as u32, item.inode));
        }
        item
    }
}

impl Iterator for Walk {
    type Item = Event;

    /// The next step; `None` after the root folder was left.
    fn next(&mut self) -> Option<Event> {
        if let Some((root, plan)) = self.root.take() {
            self.enter_root(root, plan);
        }
        loop {
            if let Some(event) = self.soon.pop_front() {
                return Some(event);
            }
            let frame = self.stack.last_mut()?;
            match frame.entries.next() {
                Some(Entry::Leaf(item)) => return Some(Event::Leaf(self.met(item))),
                Some(Entry::Failed(Failure { path, error })) => return Some(Event::Failed { path, error }),
                Some(Entry::Folder(item, next)) => self.enter(item, next),
                None => {
                    if let Some(dir) = &frame.dir {
                        let more = self.lister.more(dir, &mut frame.rest);
                        if !more.is_empty() {
                            self.ahead.offer(Listing::slots(&more));
                            frame.entries = more.into_iter();
                            continue;
                        }
                    }
                    self.leave();
                    return Some(Event::Leave);
                }
            }
        }
    }
}

impl Plan {
    fn add(&mut self, path: &Path) {
        let mut at = self;
        for part in path.components() {
            if let Component::Normal(name) = part {
                if at.given.is_some() {
                    return;
                }
                at = at.below.entry(name.as_bytes().to_vec()).or_default();
            }
        }
        at.given = Some(0);
        at.below.clear();
    }
    fn number(&mut self, next: &mut u32) {
        if let Some(number) = &mut self.given {
            *number = *next;
            *next += 1;
        }
        for below in self.below.values_mut() {
            below.number(next);
        }
    }
    /// A failure for each given path at or below `path`, which cannot be reached because of `error`.
    fn failures(&self, path: &Path, error: &Error) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut todo = vec![(path.to_path_buf(), self)];
        while let Some((path, plan)) = todo.pop() {
            if plan.given.is_some() {
                entries.push(unreached(&path, error));
            }
            for (name, below) in plan.below.iter().rev() {
                todo.push((path.join(OsStr::from_bytes(name)), below));
            }
        }
        entries
    }
}

/// `path` with the symlinks of all but its last component resolved; as it is where that fails, which the walk
/// will then tell.
fn real(path: &Path) -> PathBuf {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => match parent.canonicalize() {
            Ok(real) => real.join(name),
            Err(_) => path.to_path_buf(),
        },
        _ => path.to_path_buf(),
    }
}

/// Items hold their folders open while they are in the hands of others; 1024, the usual soft limit, is there
/// for programs that use select(2). Where the limit stays, folders that cannot be opened fail by name.
fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
