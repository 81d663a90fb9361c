//! What the model consists of: a store, the actors' places in their programs, and the rules.

pub use super::rules::Rules;
use std::hash::{Hash, Hasher};

/// Kinds of objects; each is listed by itself.
pub const PACKS: usize = 0;
pub const SEGS: usize = 1;
pub const MANS: usize = 2;
pub const NOTES: usize = 3;
pub const LEASES: usize = 4;
const KINDS: usize = 5;

/// Objects of one kind, ever.
pub const SLOTS: usize = 16;
/// Packs, ever; sweeps, retirements and chunks are sets of at most eight as well.
pub const PACKS_MAX: usize = 8;
/// Snapshots and sessions, ever.
pub const MANS_MAX: usize = 4;
/// Objects of one session: numbers 0 to 2, and the mark that it is done.
pub const LEASE_OBJECTS: usize = 4;
pub const DONE_MARK: usize = 3;
/// Notes: forget, unforget and void, one of each for every snapshot (void: every session).
pub const UNFORGET: usize = MANS_MAX;
pub const VOID: usize = 2 * MANS_MAX;
/// The end of every program.
pub const END: u8 = 255;

/// Objects of one kind. Names are never used twice, but for the packs that a replicate copies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Shelf {
    pub present: u16,
    pub ever: u16,
    pub put: [u8; SLOTS],
    pub gone: [u8; SLOTS],
}

/// A list that has begun: what was there, and what had ever been there.
pub type Begun = Option<(u16, u16)>;

/// Somebody who will write a snapshot: a backup or a replicate.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Writer {
    pub pc: u8,
    pub attempt: u8,
    pub session: u8,
    /// Number of the newest lease that counts.
    pub number: u8,
    /// Step of the thread that renews.
    pub renewing: u8,
    pub lost: bool,
    pub list: Begun,
    pub notes: u16,
    pub mans: u16,
    pub known: u8,
    pub retired: u8,
    pub sweeps: u8,
    pub parent: bool,
    /// Packs of others, still to be looked at.
    pub relied: u8,
    /// Packs that an earlier attempt found missing.
    pub distrust: u8,
    /// Own pack and manifest, plus one.
    pub pack: u8,
    pub man: u8,
    /// The put of the manifest has been sent, and has not arrived.
    pub flying: bool,
    pub told: bool,
}

/// A prune.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Pruner {
    pub pc: u8,
    pub run: u8,
    pub began: u8,
    pub sweep: u8,
    pub list: Begun,
    /// P1: retirements and forget notes.
    pub facts: u8,
    pub forgets: u8,
    /// What every lease that counts names, and which packs are older than all of them.
    pub sweeps_seen: u8,
    pub forgets_seen: u8,
    pub before: u8,
    /// Objects to delete: leases, manifests or segments, whichever are due.
    pub kill: u16,
    pub mans: u16,
    pub packs: u8,
    pub live: u8,
    /// Packs with an entry, packs retired, as P3 saw them.
    pub entries: u8,
    pub retired: u8,
    pub segs: u16,
    /// Ripe packs still to be deleted; packs to be retired.
    pub todo: u8,
    pub sweep_packs: u8,
    /// Chunks that this run has placed anew.
    pub moved: u8,
    pub current: u8,
    pub fresh: u8,
    /// Packs that this run deleted.
    pub deleted: u8,
}

/// A person with a full key: forgets, takes it back, tags.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct User {
    pub pc: u8,
    /// Was told that the snapshot is back.
    pub promised: bool,
    /// Was told that it is not, though the grace time was not over.
    pub cheated: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct State {
    pub now: u8,
    pub shelf: [Shelf; KINDS],
    pub pack_chunks: [u8; PACKS_MAX],
    pub seg_packs: [u8; SLOTS],
    pub seg_facts: [u8; SLOTS],
    /// Packs that are marked as deleted.
    pub seg_marks: [u8; SLOTS],
    pub seg_replaces: [u16; SLOTS],
    pub fact_pack: [u8; PACKS_MAX],
    pub fact_sweep: [u8; PACKS_MAX],
    pub fact_time: [u8; PACKS_MAX],
    pub facts: u8,
    pub sweeps: u8,
    pub sessions: u8,
    pub man_needs: [u8; MANS_MAX],
    pub man_session: [u8; MANS_MAX],
    /// What number 1 and later of a session name, and the packs that were there before it began.
    pub lease_sweeps: [u8; MANS_MAX],
    pub lease_forgets: [u8; MANS_MAX],
    pub lease_before: [u8; MANS_MAX],
    /// Which sweep ended the lease of a session, deleted a pack, plus one; kept only where a scenario asks.
    pub ended_by: [u8; MANS_MAX],
    pub deleted_by: [u8; PACKS_MAX],
    /// Somebody's list of segments did not show what it ought to.
    pub blind: bool,
    pub writers: [Writer; 3],
    pub pruners: [Pruner; 2],
    pub user: User,
}

/// What one writer is about to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plan {
    /// Chunks of its source; none: it does not take part.
    pub needs: u8,
    /// Of those, what it takes over unread from the parent, snapshot 0, if that may be one.
    pub unread: u8,
    pub attempts: u8,
    pub renews: bool,
    /// Copies packs under their own names: what it misses it gets as this pack, plus one.
    pub copies: u8,
    /// The put of its manifest may be on its way for any time.
    pub flies: bool,
    /// Dies once its first lease is written.
    pub dies: bool,
}

/// What the user does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    #[default]
    Nothing,
    /// Forgets snapshot 0.
    Forget,
    /// Forgets snapshot 0 and takes it back.
    Undo,
    /// Rewrites snapshot 0 under another id.
    Rewrite,
}

/// One configuration that is searched.
#[derive(Clone, Copy, Debug)]
pub struct World {
    pub rules: Rules,
    pub plans: [Plan; 3],
    pub runs: [u8; 2],
    pub wish: Wish,
    /// Kinds whose lists take time, as a bit set.
    pub torn: u8,
    /// A list may miss what is younger than this, and show what was deleted since.
    pub stale: u8,
    /// The time that may pass; 0: no clock counts, every span may have passed at any moment.
    pub ticks: u8,
    pub grace: u8,
    /// The grace time of packs in no segment, which `--now` keeps.
    pub stray_grace: u8,
    /// A run that is as old as this deletes nothing more.
    pub run_max: u8,
    /// Backups may be shown any segment that was ever there (a replay).
    pub replay: bool,
    /// Writers may not delete: void notes and marks of leases that are done.
    pub append_only: bool,
    pub strays: bool,
    pub merges: bool,
    /// Packs that a sweep retires at most.
    pub sweep_max: u8,
    /// Packs without a dead chunk may be emptied, too (they may be small).
    pub any_pack: bool,
    /// A prune may die and start again.
    pub crash: bool,
    /// Who ended and deleted what is kept.
    pub blame: bool,
}

impl World {
    pub const NEW: Self = Self {
        rules: Rules::ALL,
        plans: [Plan {
            needs: 0,
            unread: 0,
            attempts: 0,
            renews: false,
            copies: 0,
            flies: false,
            dies: false,
        }; 3],
        runs: [0; 2],
        wish: Wish::Nothing,
        torn: 0,
        stale: 0,
        ticks: 0,
        grace: 0,
        stray_grace: 0,
        run_max: 255,
        replay: false,
        append_only: false,
        strays: false,
        merges: false,
        sweep_max: 1,
        any_pack: false,
        crash: true,
        blame: false,
    };
}

pub fn bits(set: u16) -> impl Iterator<Item = usize> {
    (0..SLOTS).filter(move |i| set & (1 << i) != 0)
}

pub fn bits8(set: u8) -> impl Iterator<Item = usize> {
    bits(u16::from(set))
}

/// Every subset, the full one first.
pub fn subsets(set: u16) -> impl Iterator<Item = u16> {
    let mut next = Some(set);
    std::iter::from_fn(move || {
        let now = next?;
        next = if now == 0 { None } else { Some((now - 1) & set) };
        Some(now)
    })
}

impl State {
    /// An empty store. Snapshots, packs and leases of the past are added by the scenario.
    pub fn new(world: &World) -> Self {
        let mut writers = [Writer::default(); 3];
        for (w, plan) in writers.iter_mut().zip(&world.plans) {
            w.pc = if plan.needs == 0 { END } else { 0 };
        }
        let mut pruners = [Pruner::default(); 2];
        for (p, runs) in pruners.iter_mut().zip(world.runs) {
            p.pc = if runs == 0 { END } else { 0 };
        }
        let user =
            User { pc: if world.wish == Wish::Nothing { END } else { 0 }, promised: false, cheated: false };
        Self {
            now: 0,
            shelf: Default::default(),
            pack_chunks: [0; PACKS_MAX],
            seg_packs: [0; SLOTS],
            seg_facts: [0; SLOTS],
            seg_marks: [0; SLOTS],
            seg_replaces: [0; SLOTS],
            fact_pack: [0; PACKS_MAX],
            fact_sweep: [0; PACKS_MAX],
            fact_time: [0; PACKS_MAX],
            facts: 0,
            sweeps: 0,
            sessions: 0,
            man_needs: [0; MANS_MAX],
            man_session: [0; MANS_MAX],
            lease_sweeps: [0; MANS_MAX],
            lease_forgets: [0; MANS_MAX],
            lease_before: [0; MANS_MAX],
            ended_by: [0; MANS_MAX],
            deleted_by: [0; PACKS_MAX],
            blind: false,
            writers,
            pruners,
            user,
        }
    }

    /// The first name of a kind that was never used.
    pub fn fresh(&self, kind: usize) -> usize {
        let n = self.shelf[kind].ever.trailing_ones() as usize;
        assert!(
            n < if kind == PACKS {
                PACKS_MAX
            } else if kind == MANS {
                MANS_MAX
            } else {
                SLOTS
            },
            "the model is too small: kind {kind}"
        );
        n
    }

    pub fn put(&mut self, kind: usize, n: usize) {
        let now = self.now;
        let shelf = &mut self.shelf[kind];
        if shelf.present & (1 << n) == 0 {
            shelf.put[n] = now;
            shelf.gone[n] = 0;
        }
        shelf.present |= 1 << n;
        shelf.ever |= 1 << n;
    }

    pub fn delete(&mut self, kind: usize, n: usize) {
        let now = self.now;
        let shelf = &mut self.shelf[kind];
        if shelf.present & (1 << n) != 0 {
            shelf.present &= !(1 << n);
            shelf.gone[n] = now;
        }
    }

    pub fn has(&self, kind: usize, n: usize) -> bool {
        self.shelf[kind].present & (1 << n) != 0
    }

    pub fn put_pack(&mut self, chunks: u8) -> usize {
        let n = self.fresh(PACKS);
        self.pack_chunks[n] = chunks;
        self.put(PACKS, n);
        n
    }

    pub fn put_segment(&mut self, packs: u8, facts: u8) -> usize {
        let n = self.fresh(SEGS);
        self.seg_packs[n] = packs;
        self.seg_facts[n] = facts;
        self.put(SEGS, n);
        n
    }

    pub fn new_fact(&mut self, pack: usize, sweep: u8) -> usize {
        let n = self.facts as usize;
        assert!(n < PACKS_MAX, "the model is too small: retirements");
        self.facts += 1;
        self.fact_pack[n] = pack as u8;
        self.fact_sweep[n] = sweep;
        self.fact_time[n] = self.now;
        n
    }

    pub fn put_manifest(&mut self, needs: u8, session: u8) -> usize {
        let n = self.fresh(MANS);
        self.man_needs[n] = needs;
        self.man_session[n] = session;
        self.put(MANS, n);
        n
    }

    /// Packs with an entry in these segments, and packs that they retire.
    pub fn read_segments(&self, segs: u16) -> (u8, u8, u8) {
        let (mut entries, mut facts) = (0, 0);
        for s in bits(segs) {
            entries |= self.seg_packs[s];
            facts |= self.seg_facts[s];
        }
        (entries, facts, self.packs_of(facts))
    }

    pub fn packs_of(&self, facts: u8) -> u8 {
        bits8(facts).fold(0, |set, f| set | 1 << self.fact_pack[f])
    }

    pub fn sweeps_of(&self, facts: u8) -> u8 {
        bits8(facts).fold(0, |set, f| set | 1 << self.fact_sweep[f])
    }

    /// Chunks that lie in these packs.
    pub fn chunks_of(&self, packs: u8) -> u8 {
        bits8(packs).fold(0, |set, p| set | self.pack_chunks[p])
    }

    /// Snapshots that are forgotten by these notes.
    pub fn forgotten(notes: u16) -> u8 {
        let forget = notes & ((1 << MANS_MAX) - 1);
        let undone = notes >> UNFORGET & ((1 << MANS_MAX) - 1);
        (forget & !undone) as u8
    }

    /// Snapshots whose session is void by these notes.
    pub fn void(&self, notes: u16) -> u8 {
        bits(self.shelf[MANS].ever)
            .filter(|m| {
                self.man_session[*m] < 200 && notes & 1 << (VOID + self.man_session[*m] as usize) != 0
            })
            .fold(0, |set, m| set | 1 << m)
    }

    /// What a list that ends now certainly shows, and what it may show besides.
    pub fn listing(&self, world: &World, kind: usize, begun: Begun) -> (u16, u16) {
        let s = &self.shelf[kind];
        let (present, ever) = begun.unwrap_or((s.present, s.ever));
        let mut sure = present & s.present;
        let mut maybe = (present & !s.present) | (s.present & !present) | (s.ever & !ever);
        if world.stale > 0 {
            for i in bits(s.ever) {
                let young = self.now - s.put[i] < world.stale;
                if s.present & (1 << i) != 0 {
                    if young {
                        maybe |= 1 << i;
                    }
                } else if self.now - s.gone[i] < world.stale {
                    maybe |= 1 << i;
                }
            }
            sure &= !maybe;
        }
        (sure, maybe & !sure)
    }

    /// Chunks that a reader finds: in a pack that is there, by a segment that is listed.
    pub fn findable(&self) -> u8 {
        let (entries, _, _) = self.read_segments(self.shelf[SEGS].present);
        self.chunks_of(entries & self.shelf[PACKS].present as u8)
    }

    /// Snapshots that are listed and not whole.
    pub fn broken(&self) -> u8 {
        let notes = self.shelf[NOTES].present;
        let listed = self.shelf[MANS].present as u8 & !Self::forgotten(notes) & !self.void(notes);
        let there = self.findable();
        bits8(listed).filter(|m| self.man_needs[*m] & !there != 0).fold(0, |set, m| set | 1 << m)
    }

    /// Entries and retirements that were listed when a list of segments began and are when it ends.
    pub fn must_show(&self, kind: usize, begun: Begun) -> (u8, u8) {
        let Some((present, _)) = begun.filter(|_| kind == SEGS) else { return (0, 0) };
        let (before, now) = (self.read_segments(present), self.read_segments(self.shelf[SEGS].present));
        (before.0 & now.0, before.1 & now.1)
    }

    /// Whether a list of these segments shows less.
    pub fn hides(&self, must: (u8, u8), seen: u16) -> bool {
        let (entries, facts, _) = self.read_segments(seen);
        must != (0, 0) && (must.0 & !entries != 0 || must.1 & !facts != 0)
    }

    pub fn fingerprint(&self) -> u64 {
        let mut h = Mix { state: 0x9e37_79b9_7f4a_7c15, word: 0, bits: 0 };
        self.hash(&mut h);
        h.flush();
        h.finish()
    }
}

/// A fast hash of 64 bits, by multiplication to 128 bits; small fields are gathered to words first.
struct Mix {
    state: u64,
    word: u64,
    bits: u32,
}

impl Mix {
    fn mix(&mut self, w: u64) {
        let m = u128::from(self.state ^ w) * 0xa076_1d64_78bd_642f;
        self.state = (m as u64) ^ ((m >> 64) as u64) ^ self.state.rotate_left(23).wrapping_add(w);
    }
    fn gather(&mut self, n: u64, bits: u32) {
        self.word |= n << self.bits;
        self.bits += bits;
        if self.bits > 48 {
            self.flush();
        }
    }
    fn flush(&mut self) {
        self.mix(self.word);
        (self.word, self.bits) = (0, 0);
    }
}

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        let m = u128::from(self.state ^ self.word) * 0xe703_7ed1_a0b4_28db;
        (m as u64) ^ ((m >> 64) as u64)
    }
    fn write(&mut self, bytes: &[u8]) {
        self.flush();
        for p in bytes.chunks(8) {
            let mut w = [0; 8];
            w[..p.len()].copy_from_slice(p);
            self.mix(u64::from_le_bytes(w));
        }
    }
    fn write_u8(&mut self, n: u8) {
        self.gather(n.into(), 8);
    }
    fn write_u16(&mut self, n: u16) {
        self.gather(n.into(), 16);
    }
    /// Which variant of an `Option`.
    fn write_isize(&mut self, n: isize) {
        self.gather(n as u64 & 0xff, 8);
    }
    /// Lengths of arrays: always the same.
    fn write_usize(&mut self, _: usize) {}
}
