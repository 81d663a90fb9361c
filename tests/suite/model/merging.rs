//! P7: segments are merged, and the old ones deleted later.

use super::pruner::pc;
use super::state::*;
use super::writer::{Label, Steps};

/// No list that began before segment `m` was put is still being made: an hour is over.
fn hour_is_over(world: &World, s: &State, m: usize) -> bool {
    if !world.rules.merged_stay {
        return true;
    }
    let lists = s.writers.iter().filter(|w| w.pc == super::writer::pc::SEGMENTS).map(|w| w.list);
    let prunes =
        s.pruners.iter().filter(|p| matches!(p.pc, pc::P1_SEGMENTS | pc::P3_SEGMENTS)).map(|p| p.list);
    lists.chain(prunes).flatten().all(|(_, ever)| ever & (1 << m) != 0)
        && s.now - s.shelf[SEGS].put[m] >= world.stale
}

/// Deletes what was merged by an earlier run, then merges everything, then ends the run.
pub fn step(world: &World, s: &State, i: usize, young: bool, out: &mut Steps) {
    let who = ["X", "Y"][i];
    let p = &s.pruners[i];
    let end = |mut t: State| {
        let run = t.pruners[i].run + 1;
        let over = run >= world.runs[i];
        t.pruners[i] = Pruner {
            pc: if over { END } else { pc::START },
            run: if over { 0 } else { run },
            ..Pruner::default()
        };
        t
    };
    if !world.merges {
        out.push((end(*s), Label { who, what: "ends its run", arg: 0 }));
        return;
    }
    // As many steps as there are segments to delete; those that are seen replaced in P3.
    let replaced =
        bits(p.segs).filter(|m| hour_is_over(world, s, *m)).fold(0, |set, m| set | s.seg_replaces[m])
            & p.segs;
    if p.pc == pc::P7_DELETE && replaced != 0 && young {
        let n = replaced.trailing_zeros() as usize;
        let mut t = *s;
        t.delete(SEGS, n);
        t.pruners[i].segs &= !(1 << n);
        out.push((t, Label { who, what: "deletes merged segment", arg: n as u16 }));
        return;
    }
    let merged = bits(p.segs).fold(0, |set, m| set | s.seg_replaces[m]);
    let old = p.segs & !merged;
    let (mut entries, mut facts, _) = s.read_segments(old);
    let marks = bits(old).fold(0, |set, m| set | s.seg_marks[m]);
    if p.pc == pc::P7_DELETE {
        out.push((end(*s), Label { who, what: "ends its run", arg: 0 }));
        if old.count_ones() < 2 || !young {
            return;
        }
        let mut t = *s;
        let v = &mut t.pruners[i];
        // What was deleted, a day ago, goes.
        let a_day = |k: &usize| s.now - s.shelf[PACKS].gone[*k] >= world.grace;
        let gone = if world.rules.go_by_mark { marks } else { p.retired & !p.packs };
        (v.todo, v.fresh, v.pc) = (bits8(gone).filter(a_day).fold(0, |set, k| set | 1 << k), 0, pc::P7_LOOK);
        return step(world, &t, i, young, out);
    }
    let mut t = *s;
    if p.pc == pc::P7_LOOK && p.todo != 0 {
        let k = p.todo.trailing_zeros() as usize;
        let v = &mut t.pruners[i];
        v.todo &= !(1 << k);
        if !world.rules.look_before_going {
            v.fresh |= 1 << k;
            return step(world, &t, i, young, out);
        }
        if !s.has(PACKS, k) {
            v.fresh |= 1 << k;
        }
        out.push((t, Label { who, what: "looks whether it is gone, pack", arg: k as u16 }));
        return;
    }
    let gone = p.fresh;
    if world.rules.go_together {
        entries &= !gone;
    }
    facts = bits8(facts).filter(|f| gone & (1 << s.fact_pack[*f]) == 0).fold(0, |set, f| set | 1 << f);
    let m = t.put_segment(entries, facts);
    t.seg_marks[m] = marks & !gone;
    t.seg_replaces[m] = old;
    out.push((end(t), Label { who, what: "merges segments into", arg: m as u16 }));
}
