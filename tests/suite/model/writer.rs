//! The programs of a backup and a replicate (B1 to B8, R4), and what a user does.

use super::state::*;

/// One step of one actor, for a trace.
#[derive(Clone, Copy, Debug)]
pub struct Label {
    pub who: &'static str,
    pub what: &'static str,
    pub arg: u16,
}

pub type Steps = Vec<(State, Label)>;

pub const WRITERS: [&str; 3] = ["B", "C", "R"];

/// Steps of a writer, by its counter.
pub mod pc {
    pub const LEASE: u8 = 0;
    pub const FIRST: u8 = 1;
    pub const SECOND: u8 = 2;
    pub const SEGMENTS: u8 = 3;
    pub const LATE_LEASE: u8 = 4;
    pub const SEEN: u8 = 5;
    pub const PACK: u8 = 6;
    pub const SEGMENT: u8 = 7;
    pub const LOOK_PACKS: u8 = 8;
    pub const LOOK_BEFORE: u8 = 9;
    pub const MANIFEST: u8 = 10;
    pub const LOOK_AFTER: u8 = 11;
    pub const DONE: u8 = 12;
    pub const WITHDRAW: u8 = 13;
    pub const OVER: u8 = 14;
    pub const READ_BACK: u8 = 15;
}

/// Whether the look at the lease would find it.
pub fn lease_is_there(s: &State, w: &Writer) -> bool {
    !w.lost && s.has(LEASES, w.session as usize * LEASE_OBJECTS + w.number as usize)
}

/// Whether a writer has sent its manifest and not looked at its lease since, and will not find it.
pub fn will_withdraw(s: &State, w: &Writer) -> bool {
    match w.pc {
        pc::LOOK_AFTER => !lease_is_there(s, w),
        pc::WITHDRAW => true,
        _ => false,
    }
}

fn lease_object(w: &Writer, number: u8) -> usize {
    w.session as usize * LEASE_OBJECTS + number as usize
}

fn after_leases(w: &mut Writer) -> u8 {
    if w.known != 0 {
        return pc::PACK;
    }
    w.retired = 0;
    pc::LOOK_PACKS
}

fn begin_lease(s: &mut State, i: usize) {
    let session = s.sessions;
    assert!((session as usize) < MANS_MAX, "the model is too small: sessions");
    s.sessions += 1;
    s.lease_before[session as usize] = s.shelf[PACKS].ever as u8;
    let w = &mut s.writers[i];
    w.session = session;
    w.number = 0;
    let object = lease_object(w, 0);
    s.put(LEASES, object);
}

fn restart(world: &World, s: &mut State, i: usize) {
    let w = &mut s.writers[i];
    let attempt = w.attempt + 1;
    *w = Writer { attempt, distrust: w.distrust, ..Writer::default() };
    if attempt >= world.plans[i].attempts {
        *w = Writer { pc: END, attempt, ..Writer::default() };
    }
}

/// All next steps of writer `i`.
pub fn writer(world: &World, s: &State, i: usize, out: &mut Steps) {
    let w = &s.writers[i];
    if w.flying && w.pc != pc::MANIFEST {
        // The request arrives, at any time.
        let mut t = *s;
        let man = w.man as usize - 1;
        t.writers[i].flying = false;
        t.put(MANS, man);
        out.push((t, Label { who: WRITERS[i], what: "its manifest arrives", arg: man as u16 }));
    }
    if w.pc == END {
        return;
    }
    renewal(world, s, i, out);
    let rules = &world.rules;
    let mut go = |t: State, what: &'static str, arg: usize| {
        out.push((t, Label { who: WRITERS[i], what, arg: arg as u16 }))
    };
    let plan = &world.plans[i];
    let notes_at = if rules.notes_before_snapshots { pc::FIRST } else { pc::SECOND };
    match w.pc {
        pc::LEASE => {
            let mut t = *s;
            t.writers[i].pc = if plan.dies { END } else { pc::FIRST };
            if rules.lease_first {
                begin_lease(&mut t, i);
                go(t, "lease 0 of session", s.sessions as usize);
            } else {
                t.writers[i].session = 99;
                go(t, "starts without a lease", 0);
            }
        }
        pc::FIRST | pc::SECOND => {
            let kind = if w.pc == notes_at { NOTES } else { MANS };
            if world.torn & (1 << kind) != 0 && w.list.is_none() {
                let mut t = *s;
                t.writers[i].list = Some((s.shelf[kind].present, s.shelf[kind].ever));
                go(t, "begins a list of kind", kind);
                return;
            }
            let (sure, maybe) = s.listing(world, kind, w.list);
            for some in subsets(maybe) {
                let mut t = *s;
                let v = &mut t.writers[i];
                v.list = None;
                v.pc += 1;
                if kind == NOTES {
                    v.notes = sure | some
                } else {
                    v.mans = sure | some
                }
                go(t, if kind == NOTES { "lists notes" } else { "lists snapshots" }, (sure | some) as usize);
            }
        }
        pc::SEGMENTS => {
            if world.torn & (1 << SEGS) != 0 && w.list.is_none() {
                let mut t = *s;
                t.writers[i].list = Some((s.shelf[SEGS].present, s.shelf[SEGS].ever));
                go(t, "begins a list of kind", SEGS);
                return;
            }
            let (sure, mut maybe) = s.listing(world, SEGS, w.list);
            if world.replay {
                maybe |= s.shelf[SEGS].ever & !sure;
            }
            let must = s.must_show(SEGS, w.list);
            for some in subsets(maybe) {
                let mut t = *s;
                let (entries, facts, retired) = s.read_segments(sure | some);
                t.blind |= s.hides(must, sure | some);
                let forgotten = State::forgotten(w.notes);
                let bad = forgotten | s.void(w.notes);
                let v = &mut t.writers[i];
                v.list = None;
                v.pc = if rules.lease_first { pc::SEEN } else { pc::LATE_LEASE };
                v.known = entries & !v.distrust;
                if rules.known_not_retired {
                    v.known &= !retired;
                }
                v.retired = retired;
                v.sweeps = s.sweeps_of(facts);
                v.parent = v.mans & 1 != 0 && (bad & 1 == 0 || !rules.parent_not_forgotten);
                let open = forgotten & v.mans as u8;
                (v.notes, v.mans) = (u16::from(open), 0);
                go(t, "lists segments", (sure | some) as usize);
            }
        }
        pc::LATE_LEASE => {
            let mut t = *s;
            begin_lease(&mut t, i);
            t.writers[i].pc = pc::SEEN;
            go(t, "lease 0 (late) of session", s.sessions as usize);
        }
        pc::SEEN => {
            let mut t = *s;
            t.lease_sweeps[w.session as usize] = w.sweeps;
            t.lease_forgets[w.session as usize] = w.notes as u8;
            let object = lease_object(w, 1);
            t.put(LEASES, object);
            let v = &mut t.writers[i];
            v.number = 1;
            (v.sweeps, v.notes) = (0, 0);
            // What it needs: from the parent unread, known, or to be stored.
            let mut missing = plan.needs & !if v.parent { plan.unread } else { 0 };
            for p in bits8(v.known) {
                if s.pack_chunks[p] & missing != 0 {
                    missing &= !s.pack_chunks[p];
                    v.relied |= 1 << p;
                }
            }
            v.known = missing;
            v.parent = false;
            v.pc = if rules.read_back { pc::READ_BACK } else { after_leases(v) };
            go(t, "lease 1 of session", w.session as usize);
        }
        pc::READ_BACK => {
            let mut t = *s;
            let there = s.has(LEASES, lease_object(w, 0));
            let v = &mut t.writers[i];
            v.pc = if there { after_leases(v) } else { pc::OVER };
            go(t, if there { "reads lease 0 back" } else { "misses lease 0" }, 0);
        }
        pc::PACK => {
            let mut t = *s;
            let copied = plan.copies as usize;
            let p = if copied > 0 && (w.retired & 1 << (copied - 1) == 0 || !rules.copy_anew) {
                // A pack that is there already is not sent again: then it is one of others.
                let p = copied - 1;
                if s.has(PACKS, p) {
                    t.writers[i].relied |= 1 << p;
                } else {
                    t.put(PACKS, p);
                }
                p
            } else {
                t.put_pack(w.known)
            };
            let v = &mut t.writers[i];
            v.pack = p as u8 + 1;
            (v.known, v.retired) = (0, 0);
            v.pc = pc::SEGMENT;
            go(t, "puts pack", p);
        }
        pc::SEGMENT => {
            let mut t = *s;
            t.put_segment(1 << (w.pack - 1), 0);
            t.writers[i].pc = pc::LOOK_PACKS;
            go(t, "puts the segment of pack", w.pack as usize - 1);
        }
        pc::LOOK_PACKS => {
            let mut t = *s;
            match bits8(w.relied).next() {
                Some(p) if rules.look_at_packs => {
                    if s.has(PACKS, p) {
                        t.writers[i].relied &= !(1 << p);
                        if t.writers[i].relied == 0 {
                            t.writers[i].pc = pc::LOOK_BEFORE;
                        }
                    } else {
                        t.writers[i].distrust |= 1 << p;
                        t.writers[i].pc = pc::OVER;
                    }
                    go(t, "looks for pack", p);
                }
                _ => {
                    t.writers[i].relied = 0;
                    t.writers[i].pc = pc::LOOK_BEFORE;
                    writer(world, &t, i, out);
                }
            }
        }
        pc::LOOK_BEFORE => {
            let mut t = *s;
            let there = lease_is_there(s, w) || !rules.look_before;
            t.writers[i].pc = if there { pc::MANIFEST } else { pc::OVER };
            go(t, if there { "finds its lease" } else { "misses its lease" }, w.number as usize);
        }
        pc::MANIFEST => {
            let mut t = *s;
            let man = t.put_manifest(plan.needs, w.session);
            t.writers[i].man = man as u8 + 1;
            t.writers[i].pc = pc::LOOK_AFTER;
            if plan.flies {
                let mut u = t;
                u.shelf[MANS].present &= !(1 << man);
                u.writers[i].flying = true;
                go(u, "sends manifest, no answer", man);
            }
            go(t, "puts manifest", man);
        }
        pc::LOOK_AFTER => {
            let mut t = *s;
            let there = lease_is_there(s, w) || !rules.look_after;
            if there && w.flying && rules.outcome_known {
                // Sends the same bytes again until the store answers: no step of its own, as arriving is one.
                return;
            }
            t.writers[i].pc = match (there, rules.withdraw, w.flying) {
                (true, _, false) => pc::DONE,
                // Without the rule: a failure is told, and what may be there is deleted.
                (true, _, true) | (false, true, _) => pc::WITHDRAW,
                (false, false, _) => pc::DONE,
            };
            go(
                t,
                if there { "finds its lease afterwards" } else { "misses its lease afterwards" },
                w.number as usize,
            );
        }
        pc::DONE => {
            let mut t = *s;
            if world.append_only || world.stale > 0 {
                t.put(LEASES, lease_object(w, DONE_MARK as u8));
            } else {
                let own = |n: &u8| s.has(LEASES, lease_object(w, *n));
                if let Some(n) = (0..3).find(own) {
                    t.delete(LEASES, lease_object(w, n));
                    if (n + 1..3).any(|n| own(&n)) {
                        go(t, "deletes its lease", n as usize);
                        return;
                    }
                }
            }
            t.writers[i] = Writer { pc: END, attempt: w.attempt, told: true, ..Writer::default() };
            go(t, "is done", 0);
        }
        pc::WITHDRAW => {
            let mut t = *s;
            let man = w.man as usize - 1;
            if world.append_only || w.flying && rules.outcome_known {
                t.put(NOTES, VOID + w.session as usize);
            } else {
                t.delete(MANS, man);
            }
            t.writers[i].pc = pc::OVER;
            go(t, "withdraws manifest", man);
        }
        _ => {
            let mut t = *s;
            for n in 0..3 {
                if !world.append_only && world.stale == 0 {
                    t.delete(LEASES, lease_object(w, n));
                }
            }
            if world.append_only || world.stale > 0 {
                t.put(LEASES, lease_object(w, DONE_MARK as u8));
            }
            let (flying, man) = (w.flying, w.man);
            restart(world, &mut t, i);
            if flying {
                // What is on its way stays so; there is no second attempt beside it.
                t.writers[i] = Writer { pc: END, flying, man, ..Writer::default() };
            }
            go(t, "gives up this session", w.session as usize);
        }
    }
}

/// The thread that renews the lease, once.
fn renewal(world: &World, s: &State, i: usize, out: &mut Steps) {
    let w = &s.writers[i];
    if !world.plans[i].renews || !(pc::PACK..=pc::LOOK_AFTER).contains(&w.pc) || w.lost {
        return;
    }
    let rules = &world.rules;
    let mut t = *s;
    let v = &mut t.writers[i];
    let what = match w.renewing {
        0 => {
            v.renewing = if rules.read_back { 1 } else { 2 };
            if !rules.read_back {
                v.number = 2;
            }
            t.put(LEASES, lease_object(w, 2));
            "puts lease 2"
        }
        1 => {
            let there = s.has(LEASES, lease_object(w, 1));
            if there {
                v.number = 2;
                v.renewing = 2;
            } else {
                v.lost = true;
            }
            "reads lease 1 back"
        }
        2 => {
            v.renewing = if rules.two_leases { 4 } else { 3 };
            t.delete(LEASES, lease_object(w, 0));
            "deletes lease 0"
        }
        3 => {
            v.renewing = 4;
            t.delete(LEASES, lease_object(w, 1));
            "deletes lease 1"
        }
        _ => return,
    };
    out.push((t, Label { who: WRITERS[i], what, arg: w.session.into() }));
}

/// The user, whose steps are single calls as well.
pub fn user(world: &World, s: &State, out: &mut Steps) {
    let u = &s.user;
    let rules = &world.rules;
    let mut t = *s;
    let what = match (world.wish, u.pc) {
        (Wish::Nothing, _) | (_, END) => return,
        (Wish::Forget, _) | (Wish::Undo, 0) => {
            if !s.has(MANS, 0) {
                return;
            }
            t.put(NOTES, 0);
            t.user.pc = if world.wish == Wish::Undo { 1 } else { END };
            "forgets snapshot"
        }
        (Wish::Undo, 1) => {
            t.put(NOTES, UNFORGET);
            t.user.pc = 2;
            "takes back that he forgot snapshot"
        }
        (Wish::Undo, _) => {
            // Prunes that are at work may not have seen it; those that begin later do.
            if rules.undo_waits && s.pruners.iter().any(|p| !matches!(p.pc, super::pruner::pc::START | END)) {
                return;
            }
            let shelf = &s.shelf[NOTES];
            let early = shelf.put[UNFORGET] - shelf.put[0] < world.grace;
            t.user.promised = s.has(MANS, 0);
            t.user.cheated = early && !t.user.promised;
            t.user.pc = END;
            "is told whether that came in time"
        }
        (Wish::Rewrite, _) if rules.never_rewritten => {
            t.user.pc = END;
            "adds a tag as a note"
        }
        (Wish::Rewrite, 0) => {
            t.put_manifest(s.man_needs[0], s.man_session[0]);
            t.user.pc = 1;
            "writes anew snapshot"
        }
        (Wish::Rewrite, _) => {
            t.delete(MANS, 0);
            t.user.pc = END;
            "deletes the old snapshot"
        }
    };
    out.push((t, Label { who: "user", what, arg: 0 }));
}
