//! Visits every state that can be reached, by every order of steps.

use super::pruner::pruner;
use super::state::*;
use super::writer::{Label, Steps, user, will_withdraw, writer};
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

/// Fingerprints are hashes already. Two states that share one are taken for one: with 10^7 states, the chance that
/// any two do is below 10^-5.
#[derive(Default)]
pub struct Plain(u64);

impl Hasher for Plain {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {}
    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

type Seen = HashSet<u64, BuildHasherDefault<Plain>>;

/// More than any search here needs; a search that gets there has proven nothing.
const STATES_MAX: usize = 60_000_000;

/// What is looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aim {
    /// A listed snapshot that is not whole, and nobody left who is going to withdraw it.
    Loss,
    /// The same, also where its author would withdraw it if it does not die at this moment.
    LossIfAuthorDies,
    /// The same, where one run has both ended the author's lease and deleted a pack that it needs.
    LossInOneRun,
    /// A forgotten snapshot was promised back, and is gone.
    BrokenPromise,
    /// A forgotten snapshot was gone before the grace time was over.
    TooEarly,
    /// A list of segments shows less than was there all the time.
    Blind,
    /// A pack of a session that may still be alive is retired.
    Waste,
}

/// The result of a search.
pub enum Found {
    Nothing { states: usize, left_over: usize },
    Somewhere,
}

pub fn successors(world: &World, s: &State, out: &mut Steps) {
    out.clear();
    for i in 0..s.writers.len() {
        writer(world, s, i, out);
    }
    for i in 0..s.pruners.len() {
        pruner(world, s, i, out);
    }
    user(world, s, out);
    if s.now < world.ticks {
        let mut t = *s;
        t.now += 1;
        out.push((t, Label { who: "time", what: "passes; now", arg: t.now.into() }));
    }
}

/// Whether the state is one that is looked for, and whether it is one of those that only a death completes.
pub fn judge(s: &State, aim: Aim) -> (bool, bool) {
    let mut left_over = false;
    for m in bits8(s.broken()) {
        let author = |w: &Writer| w.man as usize == m + 1 && s.man_session[m] < 200;
        // Its author looks once more and withdraws it; or it was sent by one who gave up meanwhile.
        let excused = s.writers.iter().any(|w| author(w) && (will_withdraw(s, w) || w.pc == END && !w.told));
        if excused && aim == Aim::LossInOneRun {
            let by = s.ended_by[s.man_session[m] as usize];
            let missing = s.man_needs[m] & !s.findable();
            if by > 0 && (0..PACKS_MAX).any(|p| s.deleted_by[p] == by && s.pack_chunks[p] & missing != 0) {
                return (true, true);
            }
        }
        if excused && aim != Aim::LossIfAuthorDies {
            left_over = true;
        } else if matches!(aim, Aim::Loss | Aim::LossIfAuthorDies) {
            return (true, left_over);
        }
    }
    let found = match aim {
        Aim::Loss | Aim::LossIfAuthorDies | Aim::LossInOneRun => false,
        Aim::Blind => s.blind,
        Aim::TooEarly => s.user.cheated,
        Aim::BrokenPromise => s.user.promised && !s.has(MANS, 0),
        Aim::Waste => s.writers.iter().any(|w| {
            let retired = s.read_segments(s.shelf[SEGS].present).2;
            w.pack > 0 && super::writer::lease_is_there(s, w) && retired & (1 << (w.pack - 1)) != 0
        }),
    };
    (found, left_over)
}

/// Depth first: least memory.
pub fn search(world: &World, start: &State, aim: Aim) -> Found {
    let mut seen = Seen::default();
    let mut stack = vec![*start];
    let mut steps = Steps::new();
    let mut left_over = 0;
    seen.insert(start.fingerprint());
    while let Some(s) = stack.pop() {
        let (found, left) = judge(&s, aim);
        if found {
            return Found::Somewhere;
        }
        left_over += usize::from(left);
        successors(world, &s, &mut steps);
        for (t, _) in steps.drain(..) {
            if seen.insert(t.fingerprint()) {
                stack.push(t);
            }
        }
        assert!(seen.len() < STATES_MAX, "too many states for a proof");
    }
    Found::Nothing { states: seen.len(), left_over }
}

/// The shortest way to what is looked for: breadth first, keeping how each state was reached.
pub fn shortest(world: &World, start: &State, aim: Aim) -> Vec<String> {
    let mut nodes: Vec<(u32, Label)> = vec![(0, Label { who: "", what: "", arg: 0 })];
    let mut seen: HashMap<u64, (), BuildHasherDefault<Plain>> = HashMap::default();
    let mut level = vec![(*start, 0u32)];
    let mut steps = Steps::new();
    while !level.is_empty() {
        let mut next = Vec::new();
        for (s, n) in level {
            if judge(&s, aim).0 {
                let mut trace = Vec::new();
                let mut n = n;
                while n != 0 {
                    let (parent, l) = nodes[n as usize];
                    trace.push(format!("{:4} {} {}", l.who, l.what, l.arg));
                    n = parent;
                }
                trace.reverse();
                return trace;
            }
            successors(world, &s, &mut steps);
            for (t, label) in steps.drain(..) {
                if seen.insert(t.fingerprint(), ()).is_none() {
                    nodes.push((n, label));
                    next.push((t, nodes.len() as u32 - 1));
                }
            }
        }
        level = next;
    }
    Vec::new()
}

/// From every state that can be reached, prune alone, run after run, with every other actor dead, frees what no
/// snapshot needs. Gives the number of states from which that was tried.
pub fn drained(world: &World, start: &State) -> usize {
    let mut seen = Seen::default();
    let mut stack = vec![*start];
    let mut steps = Steps::new();
    seen.insert(start.fingerprint());
    while let Some(s) = stack.pop() {
        drain(world, &s);
        successors(world, &s, &mut steps);
        for (t, _) in steps.drain(..) {
            if seen.insert(t.fingerprint()) {
                stack.push(t);
            }
        }
    }
    seen.len()
}

/// Runs that prune has: to end leases of the dead, to retire, to delete.
const RUNS: u8 = 3;

fn drain(world: &World, from: &State) {
    let world = World {
        runs: [RUNS, 0],
        torn: 0,
        crash: false,
        plans: World::NEW.plans,
        wish: Wish::Nothing,
        sweep_max: 8,
        any_pack: false,
        ..*world
    };
    let mut s = State {
        writers: Default::default(),
        pruners: Default::default(),
        user: User { pc: END, promised: false, cheated: false },
        ..*from
    };
    for w in &mut s.writers {
        w.pc = END;
    }
    s.pruners[1].pc = END;
    let mut steps = Steps::new();
    loop {
        steps.clear();
        pruner(&world, &s, 0, &mut steps);
        // The first is the one in which all leases look silent and all that may be retired is.
        let Some((t, _)) = steps.first() else { break };
        s = *t;
    }
    let notes = s.shelf[NOTES].present;
    let live = s.shelf[MANS].present as u8 & !State::forgotten(notes);
    let needed = bits8(live).fold(0, |set, m| set | s.man_needs[m]);
    let (entries, ..) = s.read_segments(s.shelf[SEGS].present);
    let dead =
        bits8(s.shelf[PACKS].present as u8 & entries).filter(|p| s.pack_chunks[*p] & needed == 0).count();
    assert!(s.broken() != 0 || dead == 0, "prune frees nothing of {dead} dead packs: {s:?}\nfrom {from:?}");
}
