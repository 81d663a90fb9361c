//! The program of a prune: P1 to P7, as many runs as the scenario allows.

use super::state::*;
use super::writer::{Label, Steps};

const PRUNERS: [&str; 2] = ["X", "Y"];

pub mod pc {
    pub const START: u8 = 0;
    pub const P1_SEGMENTS: u8 = 1;
    pub const P1_NOTES: u8 = 2;
    pub const P2_LEASES: u8 = 3;
    pub const P2_DELETE: u8 = 4;
    pub const P3_SNAPSHOTS: u8 = 5;
    pub const P3_PACKS: u8 = 6;
    pub const P3_SEGMENTS: u8 = 7;
    pub const P5_EARLY: u8 = 8;
    pub const P4_NEXT: u8 = 9;
    pub const P4_READ: u8 = 10;
    pub const P4_PUT: u8 = 11;
    pub const P4_PUBLISH: u8 = 12;
    pub const P4_DELETE: u8 = 13;
    pub const P5_LATE: u8 = 14;
    pub const P6_NEXT: u8 = 15;
    pub const P6_READ: u8 = 16;
    pub const P6_PUT: u8 = 17;
    pub const P6_PUBLISH: u8 = 18;
    pub const P6_RETIRE: u8 = 19;
    pub const P7_DELETE: u8 = 20;
    pub const P7_LOOK: u8 = 21;
    pub const P7_MERGE: u8 = 22;
    pub const P4_MARK: u8 = 23;
}

impl Pruner {
    /// The time that ages are taken by: the store's, before the first list of the run.
    fn age(&self, world: &World, now: u8) -> u8 {
        if world.rules.age_at_start { self.began } else { now }
    }
}

/// Starts the next run, or ends.
fn end_run(world: &World, s: &mut State, i: usize) {
    let run = s.pruners[i].run + 1;
    let over = run >= world.runs[i];
    s.pruners[i] = Pruner {
        pc: if over { END } else { pc::START },
        run: if over { 0 } else { run },
        ..Pruner::default()
    };
}

/// The step that follows, where text order and rules leave no choice.
fn order(world: &World) -> [u8; 6] {
    use pc::*;
    let r = &world.rules;
    match (r.candidates_first, r.leases_before_census) {
        (true, true) => [P1_SEGMENTS, P1_NOTES, P2_LEASES, P3_SNAPSHOTS, P3_PACKS, P3_SEGMENTS],
        (false, _) => [P2_LEASES, P3_SNAPSHOTS, P3_PACKS, P3_SEGMENTS, P1_SEGMENTS, P1_NOTES],
        (true, false) => [P1_SEGMENTS, P1_NOTES, P3_SNAPSHOTS, P2_LEASES, P3_PACKS, P3_SEGMENTS],
    }
}

fn after(world: &World, at: u8) -> u8 {
    let order = order(world);
    let n = order.iter().position(|p| *p == at).unwrap_or(0);
    let next = order.get(n + 1).copied().unwrap_or(pc::P5_EARLY);
    match (world.rules.packs_before_segments, at, next) {
        (false, pc::P3_SNAPSHOTS | pc::P2_LEASES, pc::P3_PACKS) => pc::P3_SEGMENTS,
        (false, pc::P3_SEGMENTS, _) => pc::P3_PACKS,
        (false, pc::P3_PACKS, _) if order.last() == Some(&pc::P1_NOTES) => pc::P1_SEGMENTS,
        (false, pc::P3_PACKS, _) => pc::P5_EARLY,
        _ => next,
    }
}

fn kind_of(at: u8) -> usize {
    match at {
        pc::P1_SEGMENTS | pc::P3_SEGMENTS => SEGS,
        pc::P1_NOTES => NOTES,
        pc::P2_LEASES => LEASES,
        pc::P3_SNAPSHOTS => MANS,
        _ => PACKS,
    }
}

/// All next steps of prune `i`.
pub fn pruner(world: &World, s: &State, i: usize, out: &mut Steps) {
    let p = &s.pruners[i];
    if p.pc == END {
        return;
    }
    if world.crash && p.pc != pc::START && p.run + 1 < world.runs[i] {
        let mut t = *s;
        end_run(world, &mut t, i);
        out.push((t, Label { who: PRUNERS[i], what: "dies and starts again", arg: 0 }));
    }
    let rules = &world.rules;
    let mut go = |t: State, what: &'static str, arg: usize| {
        out.push((t, Label { who: PRUNERS[i], what, arg: arg as u16 }))
    };
    let young = !rules.short_runs || s.now - p.began < world.run_max;
    match p.pc {
        pc::START => {
            let mut t = *s;
            t.pruners[i] = Pruner {
                run: p.run,
                began: s.now,
                sweep: s.sweeps,
                pc: order(world)[0],
                ..Pruner::default()
            };
            t.sweeps += 1;
            assert!(t.sweeps <= 8, "the model is too small: sweeps");
            pruner(world, &t, i, out);
        }
        at @ (pc::P1_SEGMENTS
        | pc::P1_NOTES
        | pc::P2_LEASES
        | pc::P3_SNAPSHOTS
        | pc::P3_PACKS
        | pc::P3_SEGMENTS) => {
            let kind = kind_of(at);
            if world.torn & (1 << kind) != 0 && p.list.is_none() {
                let mut t = *s;
                t.pruners[i].list = Some((s.shelf[kind].present, s.shelf[kind].ever));
                go(t, "begins a list of kind", kind);
                return;
            }
            if at == pc::P2_LEASES && rules.leases_listed_quickly && renewed_meanwhile(s, p.list) {
                let mut t = *s;
                t.pruners[i].list = None;
                go(t, "throws a slow list of leases away", 0);
                return;
            }
            let (sure, maybe) = s.listing(world, kind, p.list);
            let must = s.must_show(kind, p.list);
            for some in subsets(maybe) {
                let mut t = *s;
                t.pruners[i].list = None;
                t.pruners[i].pc = after(world, at);
                t.blind |= s.hides(must, sure | some);
                listed(world, t, i, at, sure | some, &mut go);
            }
        }
        pc::P2_DELETE => {
            let mut t = *s;
            match bits(p.kill).next() {
                Some(n) => {
                    t.pruners[i].kill &= !(1 << n);
                    t.delete(LEASES, n);
                    if world.blame && t.ended_by[n / LEASE_OBJECTS] == 0 {
                        t.ended_by[n / LEASE_OBJECTS] = p.sweep + 1;
                    }
                    if t.pruners[i].kill == 0 {
                        t.pruners[i].pc = after(world, pc::P2_LEASES);
                    }
                    go(t, "ends lease object", n);
                }
                None => {
                    t.pruners[i].pc = after(world, pc::P2_LEASES);
                    pruner(world, &t, i, out);
                }
            }
        }
        pc::P5_EARLY | pc::P5_LATE => {
            // Entered with the census not yet drawn: it is drawn once, here.
            let mut t = *s;
            let v = &mut t.pruners[i];
            let now = (p.pc == pc::P5_EARLY) == rules.manifests_first;
            if now && p.kill != 0 {
                let n = p.kill.trailing_zeros() as usize;
                v.kill &= !(1 << n);
                if young {
                    t.delete(MANS, n);
                    go(t, "deletes forgotten manifest", n);
                } else {
                    end_run(world, &mut t, i);
                    go(t, "is too old to delete", 0);
                }
                return;
            }
            v.pc = if p.pc == pc::P5_EARLY { pc::P4_NEXT } else { pc::P6_NEXT };
            pruner(world, &t, i, out);
        }
        pc::P4_NEXT => {
            let mut t = *s;
            let v = &mut t.pruners[i];
            if p.todo == 0 {
                v.pc = if world.merges && p.deleted != 0 { pc::P4_MARK } else { pc::P5_LATE };
                return pruner(world, &t, i, out);
            }
            // The order of packs matters only to strays, which may hold what another prune moves just now.
            for k in bits8(p.todo).take(if world.strays { PACKS_MAX } else { 1 }) {
                let mut t = *s;
                let v = &mut t.pruners[i];
                v.current = k as u8;
                v.fresh = if rules.move_live { to_move(world, s, p, 1 << k) } else { 0 };
                v.pc = if v.fresh == 0 { pc::P4_DELETE } else { pc::P4_READ };
                pruner(world, &t, i, out);
            }
        }
        pc::P4_READ | pc::P6_READ => {
            let mut t = *s;
            let v = &mut t.pruners[i];
            let k = p.current as usize;
            if s.has(PACKS, k) {
                v.pc += 1;
                go(t, "reads pack", k);
            } else {
                v.fresh = 0;
                if p.pc == pc::P4_READ {
                    v.todo &= !(1 << k);
                    v.pc = pc::P4_NEXT;
                } else {
                    v.sweep_packs = 0;
                    v.pc = pc::P7_DELETE;
                }
                go(t, "misses pack", k);
            }
        }
        pc::P4_PUT | pc::P6_PUT => {
            let mut t = *s;
            let n = t.put_pack(p.fresh);
            let v = &mut t.pruners[i];
            v.moved |= p.fresh;
            v.fresh = n as u8;
            v.pc += 1;
            if !rules.publish_first && p.pc == pc::P4_PUT {
                v.pc = pc::P4_DELETE;
            }
            go(t, "moves what lives into pack", n);
        }
        pc::P4_PUBLISH | pc::P6_PUBLISH => {
            let mut t = *s;
            t.put_segment(1 << p.fresh, 0);
            let v = &mut t.pruners[i];
            v.fresh = 0;
            v.pc += 1;
            if !rules.publish_first && p.pc == pc::P4_PUBLISH {
                v.pc = pc::P4_NEXT;
            }
            go(t, "publishes pack", p.fresh as usize);
        }
        pc::P4_DELETE => {
            let mut t = *s;
            let k = p.current as usize;
            if !young {
                end_run(world, &mut t, i);
                go(t, "is too old to delete", 0);
                return;
            }
            t.pruners[i].todo &= !(1 << k);
            t.pruners[i].pc = if !rules.publish_first && p.fresh != 0 { pc::P4_PUBLISH } else { pc::P4_NEXT };
            t.delete(PACKS, k);
            if world.merges {
                t.pruners[i].deleted |= 1 << k;
            }
            if world.blame {
                t.deleted_by[k] = p.sweep + 1;
            }
            go(t, "deletes pack", k);
        }
        pc::P4_MARK => {
            let mut t = *s;
            let m = t.put_segment(0, 0);
            t.seg_marks[m] = p.deleted;
            t.pruners[i].deleted = 0;
            t.pruners[i].pc = pc::P5_LATE;
            go(t, "marks as deleted", p.deleted.into());
        }
        pc::P6_NEXT => sweep(world, s, i, out),
        pc::P6_RETIRE => {
            let mut t = *s;
            let all = p.sweep_packs;
            let now = if rules.one_segment { all } else { 1 << all.trailing_zeros() };
            let mut facts = 0;
            for k in bits8(now) {
                facts |= 1 << t.new_fact(k, p.sweep);
            }
            t.put_segment(0, facts);
            t.pruners[i].sweep_packs &= !now;
            if t.pruners[i].sweep_packs == 0 {
                t.pruners[i].pc = pc::P7_DELETE;
            }
            go(t, "retires packs", now.into());
        }
        pc::P7_DELETE | pc::P7_LOOK | pc::P7_MERGE => super::merging::step(world, s, i, young, out),
        _ => {}
    }
}

/// What a finished list means; draws the census after the last one.
fn listed(
    world: &World,
    t: State,
    i: usize,
    at: u8,
    seen: u16,
    go: &mut impl FnMut(State, &'static str, usize),
) {
    let mut t = t;
    let last = t.pruners[i].pc == pc::P5_EARLY;
    match at {
        pc::P1_SEGMENTS => t.pruners[i].facts = t.read_segments(seen).1,
        pc::P1_NOTES => {
            let grace = world.grace + world.stale;
            let old = |m: &usize| {
                !world.rules.note_grace || t.pruners[i].age(world, t.now) >= grace + t.shelf[NOTES].put[*m]
            };
            t.pruners[i].forgets = bits8(State::forgotten(seen)).filter(old).fold(0, |set, m| set | 1 << m);
            // A void counts as soon as it is seen.
            t.pruners[i].forgets |= t.void(seen) << MANS_MAX;
        }
        pc::P3_SNAPSHOTS => t.pruners[i].mans = seen,
        pc::P3_PACKS => t.pruners[i].packs = seen as u8,
        pc::P3_SEGMENTS => {
            let (entries, _, retired) = t.read_segments(seen);
            let p = &mut t.pruners[i];
            (p.entries, p.retired, p.segs) = (entries, retired, seen);
        }
        _ => return leases(world, &t, i, seen, go),
    }
    if last {
        census(world, &mut t, i);
    }
    go(
        t,
        [
            "",
            "P1 lists segments",
            "P1 lists notes",
            "",
            "",
            "P3 lists snapshots",
            "P3 lists packs",
            "P3 lists segments",
        ][at as usize],
        seen.into(),
    );
}

/// Whether a session was renewed during the list so that it may show neither of two leases.
fn renewed_meanwhile(s: &State, begun: Begun) -> bool {
    let Some((_, ever)) = begun else { return false };
    (0..MANS_MAX).any(|session| {
        let before = ever >> (session * LEASE_OBJECTS) & 7;
        let now = s.shelf[LEASES].ever >> (session * LEASE_OBJECTS) & 7;
        before != 0 && before & 2 == 0 && now & 4 != 0
    })
}

/// P2: which leases count, and what they name. Whether one is silent is anybody's guess: both are tried.
fn leases(world: &World, s: &State, i: usize, seen: u16, go: &mut impl FnMut(State, &'static str, usize)) {
    let rules = &world.rules;
    let mut sessions = 0u16;
    for session in 0..MANS_MAX {
        if seen >> (session * LEASE_OBJECTS) & 15 != 0 {
            sessions |= 1 << session;
        }
    }
    for silent in subsets(sessions) {
        let mut t = *s;
        // What is younger than this list is younger than leases that this list does not show.
        let (mut sweeps, mut forgets, mut before, mut kill) = (0xff, 0xff, s.shelf[PACKS].ever as u8, 0u16);
        for session in bits(sessions) {
            let base = session * LEASE_OBJECTS;
            let objects = seen & (7 << base);
            let mark = base + DONE_MARK;
            let done = seen & (1 << mark) != 0;
            let is_silent = silent & (1 << session) != 0;
            let mut counts = rules.live_counts;
            if done {
                // Not until every list shows what the session wrote.
                counts = rules.done_counts
                    && world.stale > 0
                    && s.now - s.shelf[LEASES].put[mark] < world.stale
                    && rules.live_counts;
                if !counts {
                    kill |= objects;
                }
            } else if is_silent {
                kill |= objects;
                counts &= rules.ended_counts;
            }
            if counts {
                let names = objects >> base & 6 != 0;
                sweeps &= if names { s.lease_sweeps[session] } else { 0 };
                forgets &= if names { s.lease_forgets[session] } else { 0 };
                before &= s.lease_before[session];
            }
        }
        let p = &mut t.pruners[i];
        (p.sweeps_seen, p.forgets_seen, p.before, p.kill) = (sweeps, forgets, before, kill);
        if kill != 0 {
            p.pc = pc::P2_DELETE;
        }
        go(t, "P2 lists leases; silent are", silent.into());
    }
}

/// P3: what lives, what is ripe.
fn census(world: &World, t: &mut State, i: usize) {
    let rules = &world.rules;
    let s = *t;
    let p = &mut t.pruners[i];
    let notes = p.forgets & 15;
    let ripe = if rules.note_ripe { notes & p.forgets_seen } else { notes };
    let dead = ripe | p.forgets >> MANS_MAX;
    let live_mans = p.mans as u8 & !dead;
    p.live = bits8(live_mans).fold(0, |set, m| set | s.man_needs[m]);
    p.kill = p.mans & u16::from(dead);
    let placed = s.chunks_of(p.entries & p.packs);
    if rules.whole_census && p.live & !placed != 0 {
        end_run(world, t, i);
        return;
    }
    // P4 with grace: the candidates of P1 whose sweep is ripe.
    let old = |f: &usize| !rules.grace || s.pruners[i].age(world, s.now) >= world.grace + s.fact_time[*f];
    let facts = bits8(p.facts)
        .filter(old)
        .filter(|f| !rules.sweep_ripe || p.sweeps_seen & 1 << s.fact_sweep[*f] != 0);
    p.todo = facts.fold(0, |set, f| set | 1 << s.fact_pack[f]) & p.packs;
    (p.facts, p.forgets, p.sweeps_seen, p.forgets_seen, p.mans) = (0, 0, 0, 0, 0);
    if !world.merges {
        p.segs = 0;
    }
}

/// The live chunks of these packs that have no other place.
fn to_move(world: &World, s: &State, p: &Pruner, packs: u8) -> u8 {
    let rules = &world.rules;
    let mut others = p.entries & !packs;
    if rules.place_listed {
        others &= p.packs;
    }
    if rules.place_unretired {
        others &= !p.retired;
    }
    // A stray has no entry: its chunks are not known to anybody.
    s.chunks_of(packs & p.entries) & p.live & !s.chunks_of(others) & !p.moved
}

/// P6: which packs to empty; any choice is tried, and none.
fn sweep(world: &World, s: &State, i: usize, out: &mut Steps) {
    let p = &s.pruners[i];
    let rules = &world.rules;
    let mut may = 0u16;
    for k in bits8(p.packs & !p.retired) {
        let stray = p.entries & (1 << k) == 0;
        let age = p.age(world, s.now).saturating_sub(s.shelf[PACKS].put[k]);
        let fits = if stray {
            world.strays && (age >= world.stray_grace || !rules.spare_young_strays)
        } else {
            (world.any_pack || s.pack_chunks[k] & !p.live != 0) && (age >= world.grace || !rules.grace)
        };
        if fits && (p.before & (1 << k) != 0 || !rules.spare_young) {
            may |= 1 << k;
        }
    }
    for some in subsets(may).filter(|some| some.count_ones() <= u32::from(world.sweep_max)) {
        let mut t = *s;
        let v = &mut t.pruners[i];
        v.sweep_packs = some as u8;
        if some == 0 {
            v.pc = pc::P7_DELETE;
            super::merging::step(world, &t, i, true, out);
            continue;
        }
        v.fresh = to_move(world, s, p, some as u8);
        // The packs are read as one step; two that both hold something are rare enough here.
        v.current = bits(some).find(|k| s.pack_chunks[*k] & v.fresh != 0).unwrap_or(0) as u8;
        v.pc = if v.fresh == 0 { pc::P6_RETIRE } else { pc::P6_READ };
        pruner(world, &t, i, out);
    }
}
