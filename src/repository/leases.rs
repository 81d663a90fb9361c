//! Who is about to write a manifest, as the store shows it: what prune waits for.

use super::Repository;
use super::keyring::Author;
use super::lease::lease_name;
use super::process;
use super::survey::lease_of;
use super::sweep::{DELETES_FOR_SECONDS, PURPOSES};
use crate::clock::Time;
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::object::Kind;
use crate::format::snapshot::{Lease, Process};
use crate::id::{NoteId, SessionId};
use std::collections::{BTreeMap, HashSet};

/// A lease that was not renewed for so long, by the store's clock, is its holder's who died or sleeps: it is renewed
/// every ten minutes.
pub const SILENT_SECONDS: i64 = 3600;
/// How often leases are listed anew, when one was renewed twice between the list and the reading: that takes ten minutes
/// each time.
const ROUNDS: usize = 5;

/// A session as its newest lease shows it.
#[derive(Debug)]
pub struct Session {
    /// Its name.
    pub id: SessionId,
    /// Whose host it is; empty where the lease cannot be read.
    pub host: Vec<u8>,
    /// What it does, such as `backup`; likewise.
    pub purpose: Vec<u8>,
    /// When it began, by the clock of its host; `None` where the lease cannot be read.
    pub began: Option<Time>,
    /// When its newest lease was written, in seconds by the store's clock.
    pub written: i64,
    /// The same for its beginning, as far as its host's clock can tell.
    pub since: i64,
    /// Nobody has to wait for it any more.
    pub done: bool,
    /// A full key wrote it: only then it can be the mark of a run that ends packs.
    pub(super) is_of_full: bool,
    /// Why its lease cannot be read: it counts as one that has seen nothing.
    pub error: Option<Error>,
    /// The sweeps that it has seen.
    pub(super) sweeps: HashSet<SessionId>,
    /// The forget notes that it has seen.
    pub(super) forgets: HashSet<NoteId>,
    /// Of a mark: who is at work.
    process: Option<Process>,
    /// Its objects.
    names: Vec<String>,
}

impl Session {
    /// Whether it is the mark of a run that ends packs.
    pub fn is_mark(&self) -> bool {
        self.done && self.is_of_full && PURPOSES.iter().any(|p| self.purpose == p.as_bytes())
    }

    /// The same, of one that is not too old to delete anything.
    pub fn is_sweep(&self, now: i64) -> bool {
        self.is_mark() && now - self.since < DELETES_FOR_SECONDS
    }

    /// Whether it is the mark of a process that is known to be over: nothing is done by it any more. Known to who runs on the
    /// same machine, and proof only of what lies on its disks: what a process has asked of another machine may come to
    /// be after its end.
    pub(super) fn is_over(&self) -> bool {
        self.is_mark() && self.process.as_ref().is_some_and(process::is_over)
    }

    /// Whether its holder is alive, as far as the store's clock tells.
    pub fn is_silent(&self, now: i64) -> bool {
        now - self.written > SILENT_SECONDS
    }

    /// Whether it has seen that a sweep ended packs.
    pub fn has_seen(&self, sweep: &SessionId) -> bool {
        self.sweeps.contains(sweep)
    }

    /// Whether it has seen a forget note.
    pub fn has_seen_note(&self, note: &NoteId) -> bool {
        self.forgets.contains(note)
    }
}

/// The leases of one session in a list: number, and when it was written.
type Listed = BTreeMap<u64, i64>;

impl Repository {
    /// All sessions that have leases in the store, with the newest that each has.
    ///
    /// # Errors
    /// What the store says; a lease that cannot be read is no error, but named.
    pub fn sessions(&self) -> Result<Vec<Session>> {
        let mut found = Vec::new();
        let mut open: Option<HashSet<SessionId>> = None;
        for last in (0..ROUNDS).map(|n| n + 1 == ROUNDS) {
            let mut torn = HashSet::new();
            for (id, listed) in self.listed_leases()? {
                if open.as_ref().is_some_and(|open| !open.contains(&id)) {
                    continue;
                }
                match self.session(id, &listed) {
                    Some(session) => found.push(session?),
                    // All went between the list and the reading: renewed, or over.
                    None if !last => drop(torn.insert(id)),
                    None => found.push(unread(id, &listed, Error::damaged("it is renewed all the time"))),
                }
            }
            if torn.is_empty() {
                break;
            }
            open = Some(torn);
        }
        found.sort_by_key(|s| (s.since, s.id));
        Ok(found)
    }

    fn listed_leases(&self) -> Result<BTreeMap<SessionId, Listed>> {
        let mut sessions: BTreeMap<SessionId, Listed> = BTreeMap::new();
        for listed in self.store.list("leases/")? {
            // Anything else in there is no lease; check tells of it.
            if let Some((id, number)) = listed.name.strip_prefix("leases/").and_then(lease_of) {
                sessions.entry(id).or_default().insert(number, listed.modified.seconds);
            }
        }
        Ok(sessions)
    }

    /// `None` if none of its leases is there any more.
    fn session(&self, id: SessionId, listed: &Listed) -> Option<Result<Session>> {
        let mut author: Option<Author> = None;
        let mut newest: Option<(Lease, i64)> = None;
        for (number, written) in listed.iter().rev() {
            let name = lease_name(&id, *number);
            match self.read_lease(&name, (id, *number)) {
                Ok((lease, by)) => {
                    // A session is its key's who began it: nobody else can speak for it.
                    if author.as_ref().is_some_and(|a| a.public != by.public) {
                        let e = Error::damaged("its leases were written with different keys");
                        return Some(Ok(unread(id, listed, e)));
                    }
                    author = Some(by);
                    newest.get_or_insert((lease, *written));
                }
                Err(e) if e.fault() == Fault::Missing => {}
                Err(e) if matches!(e.fault(), Fault::Damaged | Fault::Newer) => {
                    return Some(Ok(unread(id, listed, e)));
                }
                Err(e) => return Some(Err(e.while_(format!("reading {name} of {}", self.location())))),
            }
        }
        let (lease, written) = newest?;
        let ahead = written.saturating_sub(lease.written.seconds);
        Some(Ok(Session {
            id,
            host: lease.host,
            purpose: lease.purpose,
            began: Some(lease.began),
            written,
            since: lease.began.seconds.saturating_add(ahead).min(written),
            // Nobody has to wait for what will not count.
            done: lease.done || author.as_ref().is_some_and(|a| self.keys.is_over(a)),
            is_of_full: author.as_ref().is_some_and(|a| self.keys.vouches(a)),
            error: None,
            sweeps: lease.sweeps.into_iter().collect(),
            forgets: lease.forgets.into_iter().collect(),
            process: lease.process,
            names: names(&id, listed),
        }))
    }

    /// A lease, read and proven.
    pub(super) fn read_lease(
        &self,
        name: &str,
        (session, number): (SessionId, u64),
    ) -> Result<(Lease, Author)> {
        let object = self.store.get(name, Kind::Lease.limit())?;
        let (body, author) = self.keys.open_object(Kind::Lease, &object)?;
        let lease = Lease::decode(&body)?;
        match lease.session == session && lease.number == number {
            true => Ok((lease, author)),
            false => Err(Error::damaged("it is not what its name says")),
        }
    }

    /// The sweeps that retired packs of which it is not said yet that they are deleted.
    ///
    /// # Errors
    /// What the store says.
    pub fn open_sweeps(&self) -> Result<Vec<SessionId>> {
        self.sync_index()?;
        self.index()?.sweeps()
    }

    /// Deletes all leases of a session: whoever holds it finds out before it writes a manifest, and starts over.
    ///
    /// # Errors
    /// What the store says.
    pub fn end_session(&self, session: &Session) -> Result<()> {
        for name in &session.names {
            self.store.delete(name).doing(|| format!("deleting {name}"))?;
        }
        Ok(())
    }
}

fn names(id: &SessionId, listed: &Listed) -> Vec<String> {
    listed.keys().map(|number| lease_name(id, *number)).collect()
}

fn unread(id: SessionId, listed: &Listed, error: Error) -> Session {
    let written = listed.values().copied().max().unwrap_or(i64::MAX);
    Session {
        id,
        host: Vec::new(),
        purpose: Vec::new(),
        began: None,
        written,
        since: listed.values().copied().min().unwrap_or(written),
        done: false,
        is_of_full: false,
        error: Some(error),
        sweeps: HashSet::new(),
        forgets: HashSet::new(),
        process: None,
        names: names(&id, listed),
    }
}
