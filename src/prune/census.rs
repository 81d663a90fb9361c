//! Who needs what: sessions, snapshots, packs and chunks, listed in the order that the rules want (P1 to P3), and weighed.

use crate::clock;
use crate::event::{Event, Observer, Outcome, Stop};
use crate::fault::{Error, Fault, Result};
use crate::id::{ChunkId, NoteId, PackId, SessionId, SnapshotId};
use crate::index::{Lies, Mark, Marks, Retired};
use crate::repository::{Keep, Need, Repository, Session, Sight, Snapshot, Sweep};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

/// If listing leases took so long, they are listed anew, in seconds: a session must not have begun and ended meanwhile.
const LEASES_SECONDS: i64 = 300;
/// Sessions that are over count for so long where lists may be stale, in seconds: somebody may not see yet what they wrote.
const STALE_SECONDS: i64 = 12 * 3600;
/// Notes stay for so long after the last word on snapshots that are gone, in seconds, a year: a machine that has not listed since
/// would miss the snapshots, and learns from them why.
const NOTES_SECONDS: i64 = 365 * 24 * 3600;
/// How often all is counted anew, since what was listed was deleted in order meanwhile.
const ROUNDS: usize = 5;
/// Lost chunks that are named in a message.
const NAMED_MAX: usize = 3;

/// A chunk that only forgotten snapshots need, which may still be brought back.
const KEPT: Mark = 1;
/// A chunk that a listed snapshot needs.
pub const WANTED: Mark = 2;

/// How a pack lies in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// There, with its size, and not retired.
    Free,
    /// There and retired.
    Retired,
    /// Not there, or with another size.
    Absent,
}

/// A set of small numbers: the frames of a pack, of which there are hundreds, for each of many packs.
#[derive(Clone, Debug, Default)]
pub struct Bits(Vec<u64>);

impl Bits {
    fn insert(&mut self, n: u32) {
        let at = n as usize / 64;
        if self.0.len() <= at {
            self.0.resize(at + 1, 0);
        }
        self.0[at] |= 1 << (n % 64);
    }
    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        let words = self.0.iter().enumerate();
        words.flat_map(|(at, word)| {
            (0..64u32).filter(move |bit| word & (1 << bit) != 0).map(move |bit| at as u32 * 64 + bit)
        })
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

/// A pack, weighed.
#[derive(Clone, Debug)]
pub struct Pack {
    pub id: PackId,
    pub state: State,
    /// Bytes in the store, and when it was written by the store's clock in seconds.
    pub size: u64,
    pub written: i64,
    /// Bytes of all its chunks before compression, and of those that are wanted and are counted here.
    pub raw: u64,
    pub used: u64,
    /// Frames that hold such chunks; of a retired pack: chunks that are needed and lie nowhere else.
    pub frames: Bits,
}

impl Pack {
    /// Bytes of it in the store that nobody needs, as far as can be told from what they were before compression.
    pub fn unused(&self) -> u64 {
        self.size - self.used_stored()
    }
    /// The others.
    pub fn used_stored(&self) -> u64 {
        match self.raw {
            0 => 0,
            raw => (u128::from(self.size) * u128::from(self.used.min(raw)) / u128::from(raw)) as u64,
        }
    }
}

/// What is true of a repository at a moment, as far as deciding goes.
pub struct Census {
    /// The store's time at the beginning of the run, in seconds: all ages are told by it. What was listed later and is a day
    /// old only by the time of the deletion may be needed by who has listed just then.
    pub now: i64,
    /// Sessions that count: they may rely on what they have seen.
    pub sessions: Vec<Session>,
    /// How many of them were silent for so long that their leases were deleted.
    pub dead: usize,
    /// Listed snapshots.
    pub visible: usize,
    /// Forgotten snapshots that still count: somebody may bring them back, or has not seen that they are forgotten.
    pub kept: usize,
    /// Snapshots whose manifests are to be deleted.
    pub doomed: Vec<SnapshotId>,
    /// All packs that segments name.
    pub packs: Vec<Pack>,
    /// Packs that no segment names, with size and time; a retired one is none of these.
    pub strays: Vec<(PackId, u64, i64)>,
    /// Parity of packs that are gone, and that no segment names but as retired; with size and time.
    pub orphans: Vec<(PackId, u64, i64)>,
    /// Retired packs that may go: what is needed of them lies elsewhere, or in the frames that [`Pack::frames`] names.
    pub due: Vec<(Retired, u64)>,
    /// Retired packs that cannot go yet, and their bytes.
    pub waiting: (u64, u64),
    /// Retirements of packs that are not there any more and are not marked so.
    pub gone: Vec<Retired>,
    /// Notes that say nothing of what is there, since so long that nobody asks any more.
    pub spent: Vec<NoteId>,
    /// Notes of lost chunks of which all are there again, or needed by nobody; with the times at which they were written.
    pub healed: Vec<(NoteId, i64)>,
    /// What is needed.
    pub marks: Marks,
    /// Chunks that are wanted, and their bytes before compression.
    pub wanted: (u64, u64),
}

/// For a census.
pub struct Terms<'a> {
    pub repository: &'a Arc<Repository>,
    /// How long what is forgotten or retired stays, in seconds.
    pub grace: i64,
    /// Sessions whose leases are to be deleted although they cannot be read.
    pub drop: &'a HashSet<SessionId>,
    /// Nothing is deleted, not even the leases of the dead.
    pub is_dry: bool,
    pub observer: &'a Arc<dyn Observer>,
    pub stop: &'a Stop,
}

impl Census {
    /// Lists and counts.
    ///
    /// # Errors
    /// What the store says; `Damaged` and `Newer` where anything is not whole or not known: nothing was deleted then.
    pub fn take(terms: &Terms<'_>, sweep: &mut Sweep) -> Result<Self> {
        for last in (0..ROUNDS).map(|n| n + 1 == ROUNDS) {
            let mut needed = HashSet::new();
            let e = match Self::count(terms, sweep, &mut needed) {
                Err(e) if e.fault() == Fault::Damaged && !last => e,
                done => return done,
            };
            // Another prune, without a grace time, may have deleted what was forgotten meanwhile.
            let there = terms.repository.listed_snapshots()?;
            if needed.is_subset(&there) {
                return Err(e);
            }
        }
        Err(Error::bug("a census has no last round"))
    }

    /// `needed` takes all snapshots that are gone through.
    fn count(terms: &Terms<'_>, sweep: &mut Sweep, needed: &mut HashSet<SnapshotId>) -> Result<Self> {
        let repository = terms.repository;
        let candidates = repository.candidates()?;
        let (sessions, dead) = sessions(terms, sweep)?;
        let now = sweep.since();
        let is_ripe = |sweep: &SessionId| {
            candidates.sweeps.contains(sweep) && sessions.iter().all(|s| s.has_seen(sweep))
        };
        let is_ripe_note =
            |note: &NoteId| candidates.notes.contains(note) && sessions.iter().all(|s| s.has_seen_note(note));
        let sight = repository.sight()?;
        let (mut kept, mut doomed): (Vec<Arc<Snapshot>>, Vec<SnapshotId>) = (Vec::new(), sight.void.clone());
        for h in &sight.hidden {
            match is_ripe_note(&h.note) && now - h.since >= terms.grace {
                true => doomed.push(h.snapshot.id),
                false => kept.push(h.snapshot.clone()),
            }
        }
        needed.extend(sight.visible.iter().chain(&kept).map(|s| s.id));
        let marks = walk(terms, &sight.visible, &kept)?;
        let mut census = Self {
            now,
            sessions: Vec::new(),
            dead,
            visible: sight.visible.len(),
            kept: kept.len(),
            doomed,
            packs: Vec::new(),
            strays: Vec::new(),
            orphans: Vec::new(),
            due: Vec::new(),
            waiting: (0, 0),
            gone: Vec::new(),
            spent: Vec::new(),
            healed: Vec::new(),
            marks,
            wanted: (0, 0),
        };
        let is_due = |r: &Retired| is_ripe(&r.sweep) && now - r.retired >= terms.grace;
        let due: HashMap<PackId, Retired> =
            sight.retired.iter().filter(|r| is_due(r)).map(|r| (r.pack, *r)).collect();
        let spent = sight.ended.spent.iter().filter(|(_, since)| now - since >= NOTES_SECONDS);
        census.spent = spent.map(|(id, _)| *id).collect();
        census.weigh(terms, &sight, &due)?;
        census.sort_out(terms, &sight, &due)?;
        census.sessions = sessions;
        Ok(census)
    }

    /// When the oldest session that counts began, in seconds by the store's clock: what is younger may be its.
    pub fn oldest_session(&self) -> i64 {
        self.sessions.iter().map(|s| s.since).min().unwrap_or(i64::MAX)
    }

    /// Every chunk against all that is needed.
    fn weigh(&mut self, terms: &Terms<'_>, sight: &Sight, due: &HashMap<PackId, Retired>) -> Result<()> {
        let retired: HashSet<PackId> = sight.retired.iter().map(|r| r.pack).collect();
        let mut packs: Vec<Pack> = Vec::new();
        let mut lost: (u64, Vec<ChunkId>) = (0, Vec::new());
        let mut wanted = (0, 0);
        let index = terms.repository.index()?;
        let census = index.census(&self.marks)?;
        for p in &census.packs {
            let listed = sight.packs.get(&p.id);
            let state = match listed {
                Some(l) if retired.contains(&p.id) => (State::Retired, l.written),
                Some(l) if l.size == p.size => (State::Free, l.written),
                _ => (State::Absent, i64::MAX),
            };
            packs.push(Pack {
                id: p.id,
                state: state.0,
                size: listed.map_or(0, |l| l.size),
                written: state.1,
                raw: 0,
                used: 0,
                frames: Bits::default(),
            });
        }
        // What repairs could not save; it is not saved yet where it is needed and lies in no pack that stays.
        let noted: HashSet<&ChunkId> = sight.ended.lost.iter().flat_map(|(_, _, chunks)| chunks).collect();
        let mut still_lost: HashSet<ChunkId> = HashSet::new();
        // A list is not taken in one moment: what can be found is there.
        let mut looked_for: HashMap<usize, bool> = HashMap::new();
        census.each(|id, marks, places| {
            terms.stop.check()?;
            for lies in places {
                packs[lies.pack].raw += u64::from(lies.len);
            }
            let Some(mark) = marks.last().copied() else { return Ok(()) };
            let counts = |l: &&Lies| packs[l.pack].state == State::Free;
            if Lies::disagree(places.iter().filter(counts)) {
                let text = format!("index segments do not agree about chunk {}", id.short());
                return Err(Error::damaged(text)
                    .hint("nothing was deleted. `pastfs repair index` finds out what is so, and then run this again"));
            }
            // The same one each time, and rather in a big pack: small ones are merged.
            let best = |l: &&Lies| (l.trusted, packs[l.pack].size, packs[l.pack].id);
            let place = places.iter().filter(counts).max_by_key(best).copied();
            if mark == WANTED {
                let len = places.iter().map(|l| l.len).max().unwrap_or(0);
                wanted = (wanted.0 + 1, wanted.1 + u64::from(len));
            }
            if let Some(place) = place.filter(|_| mark == WANTED) {
                let pack = &mut packs[place.pack];
                pack.used += u64::from(place.len);
                pack.frames.insert(place.frame);
            }
            // Only where a full key says so may another place be given up.
            if place.is_some_and(|p| p.trusted) {
                return Ok(());
            }
            if noted.contains(id) {
                still_lost.insert(*id);
            }
            let mut found = place.is_some();
            for lies in places {
                let pack = &mut packs[lies.pack];
                if pack.state == State::Retired {
                    found = true;
                    if due.contains_key(&pack.id) {
                        pack.frames.insert(lies.frame);
                    }
                }
            }
            for lies in places.iter().filter(|_| !found) {
                let pack = census.packs[lies.pack];
                let is_there = match looked_for.get(&lies.pack) {
                    Some(is_there) => *is_there,
                    None => {
                        let is_there = terms.repository.has_pack(&pack.id, pack.size)?;
                        *looked_for.entry(lies.pack).or_insert(is_there)
                    }
                };
                if is_there {
                    return Ok(());
                }
            }
            if !found {
                lost.0 += 1;
                if lost.1.len() < NAMED_MAX {
                    lost.1.push(*id);
                }
            }
            Ok(())
        })?;
        drop(census);
        if lost.0 > 0 {
            let named: Vec<String> = lost.1.iter().map(ChunkId::short).collect();
            let text = format!("{} chunks that snapshots need are lost, such as {}", lost.0, named.join(" "));
            return Err(Error::damaged(text).hint(
                "nothing was deleted. `pastfs check` tells which files are hit; `pastfs repair` mends what can be \
                 mended",
            ));
        }
        (self.packs, self.wanted) = (packs, wanted);
        let is_healed = |chunks: &[ChunkId]| !chunks.iter().any(|id| still_lost.contains(id));
        let healed = sight.ended.lost.iter().filter(|(_, _, chunks)| is_healed(chunks));
        self.healed = healed.map(|(id, written, _)| (*id, *written)).collect();
        Ok(())
    }

    /// What is retired, and what nobody names.
    fn sort_out(&mut self, terms: &Terms<'_>, sight: &Sight, due: &HashMap<PackId, Retired>) -> Result<()> {
        let named: HashSet<PackId> = self.packs.iter().map(|p| p.id).collect();
        let deleted: HashSet<PackId> =
            sight.retired.iter().filter(|r| r.deleted.is_some()).map(|r| r.pack).collect();
        let mut seen = HashSet::new();
        for r in &sight.retired {
            if !seen.insert(r.pack) {
                continue;
            }
            match (sight.packs.get(&r.pack), due.get(&r.pack)) {
                (Some(listed), Some(r)) => self.due.push((*r, listed.size)),
                (Some(listed), None) => {
                    self.waiting = (self.waiting.0 + 1, self.waiting.1 + listed.size);
                }
                (None, _) if deleted.contains(&r.pack) => {}
                // Packs are listed before segments: one that was put and retired in between is not in the list.
                (None, Some(r)) if !terms.repository.has_any_pack(&r.pack)? => self.gone.push(*r),
                (None, _) => {}
            }
        }
        let strays = sight.packs.iter().filter(|(id, _)| !named.contains(id) && !seen.contains(id));
        self.strays = strays.map(|(id, listed)| (*id, listed.size, listed.written)).collect();
        // A pack that is lost and named may be healed from its parity alone, if there is as much.
        let is_over =
            |id: &PackId| !sight.packs.contains_key(id) && (!named.contains(id) || seen.contains(id));
        let orphans = sight.parity.iter().filter(|(id, _)| is_over(id));
        self.orphans = orphans.map(|(id, listed)| (*id, listed.size, listed.written)).collect();
        Ok(())
    }
}

/// P2: the sessions that count, and how many of them are dead.
fn sessions(terms: &Terms<'_>, sweep: &mut Sweep) -> Result<(Vec<Session>, usize)> {
    loop {
        let began = clock::running();
        let mut found = terms.repository.sessions()?;
        let now = sweep.now()?;
        if clock::running() - began > LEASES_SECONDS {
            continue;
        }
        let is_stale = terms.repository.lists_may_be_stale();
        let (mut counting, mut dead) = (Vec::new(), 0);
        for s in found.drain(..) {
            let counts = !s.done || (is_stale && !s.is_mark() && now - s.written < STALE_SECONDS);
            // One that cannot be read may be of a newer program, or damaged: it holds all back until somebody decides.
            let goes = match (&s.error, s.done) {
                (Some(_), _) => terms.drop.contains(&s.id),
                (None, true) => !counts && !s.is_sweep(now),
                (None, false) => s.is_silent(now) || terms.drop.contains(&s.id),
            };
            if let Some(e) = &s.error {
                let text = format!(
                    "the lease {} cannot be read and holds everything back: {}",
                    s.id.hex(),
                    e.chain()
                );
                terms.observer.event(Event::Warning(&text));
            }
            if goes && !terms.is_dry {
                terms.repository.end_session(&s)?;
            }
            if counts {
                dead += usize::from(goes);
                counting.push(s);
            }
        }
        return Ok((counting, dead));
    }
}

fn walk(terms: &Terms<'_>, visible: &[Arc<Snapshot>], kept: &[Arc<Snapshot>]) -> Result<Marks> {
    let (marks, seen) = (terms.repository.index()?.marks()?, terms.repository.index()?.seen()?);
    // What is lost must be missed, whatever was kept of it.
    let reader = terms.repository.reader_keeping(Keep::Nothing);
    terms.observer.event(Event::Planned { files: (visible.len() + kept.len()) as u64, bytes: 0 });
    for (mark, snapshots) in [(WANTED, visible), (KEPT, kept)] {
        for s in snapshots {
            let name = format!("snapshots/{}", s.id);
            let path = Path::new(&name);
            terms.observer.event(Event::Started(path));
            let walked = reader.needs(s, terms.stop, &mut |need| match need {
                // What is marked already was gone through; listed snapshots come first.
                Need::Page(id) => match seen.raise(&id, mark)? {
                    true => marks.add(&id, mark).map(|()| true),
                    false => Ok(false),
                },
                Need::Content(id, _) => marks.add(&id, mark).map(|()| false),
            });
            walked.map_err(|e| match e.fault() {
                Fault::Damaged | Fault::Missing => e.hint(
                    "nothing was deleted. `pastfs check` tells what is lost; `pastfs repair` mends what can be mended",
                ),
                Fault::Newer => e.hint("nothing was deleted; use a newer pastfs"),
                _ => e,
            })?;
            terms.observer.event(Event::Finished { path, outcome: Outcome::Verified, file: true });
        }
    }
    Ok(marks)
}
