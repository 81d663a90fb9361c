//! Notes: what is said of snapshots after they were written. Notes are added, manifests never rewritten, so that no list
//! can miss a snapshot between its old manifest and a new one, and whatever was said can be taken back.

use super::listing::{Listing, Snapshot, manifest_name, note_name};
use super::{Repository, Session};
use crate::clock::{self, Time};
use crate::event::Event;
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::object::Kind;
use crate::format::snapshot::{Action, Note, TAGS_MAX, TEXT_MAX};
use crate::id::{ChunkId, NoteId, SessionId, SnapshotId};
use crate::seal::Role;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// How long one waits for a prune to end, in seconds; one that was killed never does.
const WAIT_SECONDS: i64 = 60;
/// How often one looks whether a prune has ended.
const WAIT: Duration = Duration::from_secs(1);
/// Most snapshots that one note names; more are divided. At 34 bytes each, and with tags at their limits, a note stays
/// below the 1 MiB that one may have.
const SNAPSHOTS_MAX: usize = 10_000;
const _: () = assert!(SNAPSHOTS_MAX * 34 + TAGS_MAX * (TEXT_MAX + 3) + 4096 < Kind::Note.limit() as usize);

/// Notes that say nothing of what is there.
#[derive(Debug, Default)]
pub struct Ended {
    /// Those of whose snapshots no manifest is left, and since when nothing more was said of these, in seconds by the store's
    /// clock; those that explain why last.
    pub spent: Vec<(NoteId, i64)>,
    /// Notes of what was lost, when they were written likewise, and of which chunks they are: these may be there again.
    pub lost: Vec<(NoteId, i64, Vec<ChunkId>)>,
}

impl Repository {
    /// See [`Ended`].
    pub(super) fn ended(&self, listing: &Listing) -> Result<Ended> {
        let there: HashSet<SnapshotId> = listing.manifests.iter().map(|s| s.id).collect();
        let sessions: HashSet<SessionId> = listing.manifests.iter().map(|s| s.manifest.session).collect();
        let is_over = |n: &Note| match n.action {
            Action::Lost | Action::Newer(_) => false,
            Action::Void => n.session.is_none_or(|s| !sessions.contains(&s)),
            _ => !n.snapshots.iter().any(|s| there.contains(s)),
        };
        let mut ended = Ended::default();
        let is_meant = |n: &Note| n.action == Action::Lost || is_over(n);
        if !listing.notes.iter().any(|n| is_meant(&n.note.0)) {
            return Ok(ended);
        }
        let listed = self.store.list("notes/")?;
        let written: HashMap<&str, i64> =
            listed.iter().map(|l| (l.name.as_str(), l.modified.seconds)).collect();
        let mut last_word: HashMap<SnapshotId, i64> = HashMap::new();
        let mut over = Vec::new();
        for n in &listing.notes {
            // One that has gone meanwhile was deleted by another prune.
            let (note, Some(at)) = (&n.note.0, written.get(note_name(&n.id).as_str())) else { continue };
            for s in &note.snapshots {
                let last = last_word.entry(*s).or_insert(*at);
                *last = (*last).max(*at);
            }
            match note.action {
                Action::Lost => ended.lost.push((n.id, *at, note.lost.clone())),
                _ if is_over(note) => over.push((n.id, *at, note)),
                _ => {}
            }
        }
        over.sort_by_key(|(_, at, note)| (matches!(note.action, Action::Forget | Action::Void), *at));
        ended.spent.extend(over.into_iter().map(|(id, at, note)| {
            (id, note.snapshots.iter().filter_map(|s| last_word.get(s)).copied().fold(at, i64::max))
        }));
        Ok(ended)
    }

    /// Says something of snapshots from now on. When it returns, the notes are durable, and all listings heed them. Nothing
    /// is deleted by it: a later prune frees what is forgotten.
    ///
    /// # Errors
    /// `Denied` without a full key; `Missing` where a snapshot is not there; `Misuse` for forgetting one that is held, for
    /// tags that are too many, too long or empty, and for actions that are not for people (void). Nothing was written
    /// then. What the store says; of a long list some notes may have been written.
    pub fn add_note(
        &self,
        action: Action,
        snapshots: &[SnapshotId],
        tags: &[Vec<u8>],
    ) -> Result<Vec<NoteId>> {
        let has_tags = matches!(action, Action::Tag | Action::Untag);
        if matches!(action, Action::Void | Action::Lost | Action::Accept | Action::Newer(_))
            || has_tags == tags.is_empty()
        {
            return Err(Error::misuse("a note that says nothing of snapshots"));
        }
        if tags.len() > TAGS_MAX || tags.iter().any(|t| t.is_empty() || t.len() > TEXT_MAX) {
            return Err(Error::misuse(format!(
                "a note can name {TAGS_MAX} tags of 1 to {TEXT_MAX} bytes each, no more"
            )));
        }
        // Looked at right before the note is written: what another machine holds in this moment is respected.
        let listing = self.list()?;
        let judged: HashMap<SnapshotId, (Arc<Snapshot>, bool)> =
            listing.judged().into_iter().map(|(s, visible)| (s.id, (s, visible))).collect();
        for id in snapshots {
            let (s, visible) = judged.get(id).ok_or_else(|| {
                Error::new(Fault::Missing, format!("there is no snapshot {} any more", id.short()))
                    .hint("`pastfs snapshots` lists what there is")
            })?;
            allows(action, s, *visible, tags)?;
        }
        let time = time_of_next(&listing, snapshots)?;
        let mut ids = Vec::new();
        for some in snapshots.chunks(SNAPSHOTS_MAX) {
            let note = Note {
                action,
                time,
                snapshots: some.to_vec(),
                tags: tags.to_vec(),
                session: None,
                lost: Vec::new(),
                unknown: Default::default(),
            };
            let object = self.keys.seal_object(Kind::Note, note.encode())?;
            let (_, author) = self.keys.open_object(Kind::Note, &object)?;
            if author.role != Role::Full {
                return Err(Error::new(Fault::Denied, "writing a note")
                    .hint("only a full key can forget, hold and tag snapshots"));
            }
            let id = NoteId::of_object(&object);
            let doing = || format!("writing a note to {}", self.location());
            self.store.put(&note_name(&id), &object).doing(doing)?;
            self.remember_note(id, note, author);
            ids.push(id);
        }
        if action == Action::Unforget {
            self.came_in_time(&ids, snapshots)?;
        }
        Ok(ids)
    }

    /// A prune that began before the note was written has decided without it. It deletes a manifest before anything that the
    /// snapshot needs: whatever is still listed when it has ended is whole, and is back.
    fn came_in_time(&self, notes: &[NoteId], snapshots: &[SnapshotId]) -> Result<()> {
        let mut written = i64::MIN;
        for note in notes {
            written = written.max(self.stored(&note_name(note))?.unwrap_or(i64::MAX));
        }
        let (mut told, started) = (false, clock::running());
        loop {
            // By the store's clock; those that began later have listed the note.
            let now = written.saturating_add(clock::running() - started);
            let sweeps = self.sessions()?;
            // One that sleeps is silent as well, and deletes when it wakes: silence proves nothing, the end of a process does.
            let is_at_work = |s: &Session| s.is_sweep(now) && (self.lists_may_be_stale() || !s.is_over());
            let Some(sweep) = sweeps.iter().find(|s| is_at_work(s) && s.since <= written) else { break };
            let host = String::from_utf8_lossy(&sweep.host).into_owned();
            if clock::running() - started >= WAIT_SECONDS {
                let text = format!(
                    "the snapshots are listed again, but a prune of {host} that began before has not ended, and may \
                     have decided to delete them"
                );
                return Err(Error::new(Fault::Busy, text).hint(
                    "if that prune was killed all is well; else look at `pastfs snapshots` once it has ended: what is \
                     listed then is whole",
                ));
            }
            if !told {
                let text =
                    format!("waiting for a prune of {host}, which may be deleting what is brought back");
                self.observer.event(Event::Warning(&text));
                told = true;
            }
            clock::sleep(WAIT);
        }
        for id in snapshots {
            if self.stored(&manifest_name(id))?.is_none() {
                let text = format!("snapshot {} was deleted by a prune meanwhile", id.short());
                return Err(Error::new(Fault::Missing, text));
            }
        }
        Ok(())
    }

    /// The forget notes whose snapshots are still there.
    ///
    /// # Errors
    /// What the store says.
    pub fn open_forgets(&self) -> Result<Vec<NoteId>> {
        Ok(self.list()?.forgets())
    }

    /// Forgotten snapshots that are still there, oldest first: a note can bring them back.
    ///
    /// # Errors
    /// What the store says.
    pub fn forgotten(&self) -> Result<Vec<Arc<Snapshot>>> {
        let listing = self.list()?;
        self.not_emptied(&listing)?;
        Ok(listing.forgotten())
    }
}

fn allows(action: Action, s: &Snapshot, visible: bool, tags: &[Vec<u8>]) -> Result<()> {
    let name = s.id.short();
    if action == Action::Hold && !visible {
        return Err(Error::misuse(format!("snapshot {name} is forgotten, and cannot be held"))
            .hint(format!("`pastfs forget --undo {name}` brings it back")));
    }
    if action == Action::Forget && s.held {
        return Err(Error::misuse(format!("snapshot {name} is held, and is not forgotten"))
            .hint(format!("`pastfs tag --release {name}` ends that")));
    }
    if action == Action::Tag {
        let all: HashSet<&Vec<u8>> = s.tags.iter().chain(tags).collect();
        if all.len() > TAGS_MAX {
            return Err(Error::misuse(format!(
                "a snapshot can have {TAGS_MAX} tags, and {name} would have {}",
                all.len()
            )));
        }
    }
    Ok(())
}

/// Now, or right after the last note on these snapshots: notes win by time, and one that was written by a clock that goes
/// ahead must not outweigh what is said after it.
fn time_of_next(listing: &Listing, snapshots: &[SnapshotId]) -> Result<Time> {
    let named: HashSet<&SnapshotId> = snapshots.iter().collect();
    let notes = listing.notes.iter().map(|n| &n.note).filter(|n| n.1.role == Role::Full);
    let last = notes.filter(|n| n.0.snapshots.iter().any(|s| named.contains(s))).map(|n| n.0.time).max();
    let now = clock::now();
    let Some(last) = last.filter(|last| *last >= now) else { return Ok(now) };
    let next = match Time::new(last.seconds, last.nanos + 1) {
        Some(next) => Some(next),
        None => last.seconds.checked_add(1).map(|seconds| Time { seconds, nanos: 0 }),
    };
    next.ok_or_else(|| Error::damaged("the last note on these snapshots is of the end of time"))
}
